"""A checkpoint as a plain state dict: under OpenAI's names for open_clip, or under ours."""

import importlib.util
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from misc.checkpoints.run_folder import write_options
from misc.export.processors import write_json
from misc.export.source import Source
from model import build_model
from model.weights.altclip_files import BIAS
from options import UserError, to_dict

LOGGER = logging.getLogger(__name__)
TOLERANCE = 1e-4


def export_openai(source: Source, folder: Path) -> None:
    """Write open_clip_pytorch_model.bin, an fp32 state dict under OpenAI's names, and open_clip_config.json;
    compare with what open_clip makes of them, where it is installed.

    Raises:
        UserError: AltCLIP's towers, which OpenAI has no names for; features beyond 1e-4.
    """
    if source.is_altclip:
        raise UserError(
            "--format openai: OpenAI has no names for AltCLIP's towers; use huggingface, safetensors or onnx"
        )
    tensors = source.clip.state_dict()
    state = {name.removeprefix("text."): tensor for name, tensor in tensors.items() if name != BIAS}
    torch.save(state, folder / "open_clip_pytorch_model.bin")
    write_json(folder / "open_clip_config.json", _open_clip_config(source))
    if importlib.util.find_spec("open_clip"):
        _check_by_open_clip(source, folder)
    else:
        LOGGER.info("open_clip is not installed: not compared with it")


def _open_clip_config(source: Source) -> dict[str, Any]:
    visual, text, processor = source.clip.visual, source.clip.text, source.processor
    vocab_size, text_width = text.token_embedding.weight.shape
    image_width, _, patch_size, _ = visual.conv1.weight.shape
    blocks = visual.transformer.resblocks
    model = {
        "embed_dim": source.clip.embed_dim,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": visual.image_size,
            "patch_size": patch_size,
            "width": image_width,
            "layers": len(blocks),
            "head_width": image_width // blocks[0].attn.heads,
        },
        "text_cfg": {
            "context_length": len(text.positional_embedding),
            "vocab_size": vocab_size,
            "width": text_width,
            "layers": len(text.transformer.resblocks),
            "heads": text.transformer.resblocks[0].attn.heads,
        },
    }
    preprocess = {
        "mean": processor.image_mean,
        "std": processor.image_std,
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }
    return {"model_cfg": model, "preprocess_cfg": preprocess}


def _check_by_open_clip(source: Source, folder: Path) -> None:
    import open_clip

    logging.disable(logging.INFO)  # it tells of every step
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    logging.disable(logging.NOTSET)

    def encode_text(captions: Sequence[str]) -> Tensor:
        return model.encode_text(tokenizer(captions))

    source.check(f"open_clip {open_clip.__version__}", model.encode_image, encode_text, TOLERANCE)


def export_safetensors(source: Source, folder: Path) -> None:
    """Write model.safetensors, the tensors under our names with the options as JSON among its metadata, and
    options.yaml; load the file again.

    Raises:
        UserError: features beyond 1e-4.
    """
    file = folder / "model.safetensors"
    tensors = {name: tensor.contiguous() for name, tensor in source.clip.state_dict().items()}
    metadata = {"format": "pt", "options": json.dumps(to_dict(source.options))}
    safetensors.torch.save_file(tensors, file, metadata=metadata)
    write_options(source.options, folder)
    model, tokenizer, _ = build_model(source.options, num_identities=0, weights=str(file))
    clip = model.clip.eval()

    def encode_text(captions: Sequence[str]) -> Tensor:
        return clip.encode_text(tokenizer(captions))

    source.check("the file, loaded again", clip.encode_image, encode_text, TOLERANCE)
