"""Export to a state dict: under OpenAI's names for open_clip, or under the names of this project."""

import importlib.util
import json
import logging
from pathlib import Path

import safetensors.torch
import torch

from misc.checkpoints.run_folder import write_options
from misc.export.source import Source, write_json
from model import build_model
from model.processor import INTERPOLATIONS
from options import UserError, to_dict

logger = logging.getLogger(__name__)
WEIGHTS = "open_clip_pytorch_model.bin"


def export_openai(source: Source, folder: Path) -> None:
    """Write open_clip_pytorch_model.bin, an fp32 state dict under OpenAI's names, and open_clip_config.json;
    load and compare them if open_clip is installed.

    Raises:
        UserError: OpenAI has no names for the towers; the features differ by more than 1e-4.
    """
    if source.backbone.to_openai is None:
        raise UserError(
            f"--format openai: OpenAI has no names for the towers of {source.backbone.title}; use "
            "huggingface, safetensors or onnx"
        )
    state, model_config = source.backbone.to_openai(source.model.clip)
    torch.save(state, folder / WEIGHTS)
    settings = source.processor.settings()
    statistics = {"mean": settings["image_mean"], "std": settings["image_std"]}
    interpolation = next(name for name, kind in INTERPOLATIONS.items() if kind.value == settings["resample"])
    resizing = {"interpolation": interpolation, "resize_mode": "squash"}
    config = {"model_cfg": model_config, "preprocess_cfg": statistics | resizing}
    write_json(folder / "open_clip_config.json", config)
    if model_config["text_cfg"].get("hf_tokenizer_name"):
        source.tokenizer.save(folder)
    if importlib.util.find_spec("open_clip"):
        _check_with_open_clip(source, folder)
    else:
        logger.info("open_clip is not installed: features were not compared")


def _check_with_open_clip(source: Source, folder: Path) -> None:
    import open_clip

    logging.disable(logging.INFO)  # open_clip logs every step
    # As in README.md: towers of timm have positions of one size until they are told another.
    size = {"load_weights": False, "force_image_size": source.processor.image_size}
    model = open_clip.create_model(f"local-dir:{folder}", **size, pretrained_text=False).eval()
    open_clip.load_checkpoint(model, folder / WEIGHTS)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    logging.disable(logging.NOTSET)
    program = f"open_clip {open_clip.__version__}"
    source.check(program, model.encode_image, lambda texts: model.encode_text(tokenizer(texts)))


def export_safetensors(source: Source, folder: Path) -> None:
    """Write model.safetensors, with the options as JSON in its metadata, and options.yaml; load the file,
    and raise UserError if its features differ by more than 1e-4.
    """
    file, state = folder / "model.safetensors", source.model.state_dict()
    tensors = {name.removeprefix("clip."): tensor.contiguous() for name, tensor in state.items()}
    metadata = {"format": "pt", "options": json.dumps(to_dict(source.options))}
    safetensors.torch.save_file(tensors, file, metadata=metadata)
    write_options(source.options, folder)
    model, tokenizer, _ = build_model(source.options, num_identities=0, weights=str(file))
    model.eval()
    source.check("this program from the file", model.embed, lambda texts: model.embed(tokenizer(texts)))
