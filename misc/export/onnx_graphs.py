"""A checkpoint as two ONNX graphs, one of each tower, checked by onnxruntime."""

import importlib.util
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from misc.export.processors import write_json, write_processors
from misc.export.source import Source
from options import UserError

TOLERANCE = 1e-3
OPSET = 17
PACKAGES = ("onnx", "onnxruntime")
IMAGE_INPUTS, TEXT_INPUTS, OUTPUT = ("pixel_values",), ("input_ids", "attention_mask"), "features"


class ImageGraph(nn.Module):
    """(B, 3, H, W) -> (B, D)."""

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Features, not normalised."""
        return self.clip.encode_image(pixel_values)


class TextGraph(nn.Module):
    """Two of (B, L) int64 -> (B, D)."""

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Features, not normalised."""
        return self.clip.encode_text({"input_ids": input_ids, "attention_mask": attention_mask})


def check_packages() -> None:
    """Raises UserError where a package is missing that these graphs alone need."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--format onnx: {' and '.join(missing)} not installed; pip install {' '.join(missing)}"
        )


def export_onnx(source: Source, folder: Path) -> None:
    """Write image.onnx and text.onnx, export.json, which tells what goes in and comes out, and the files of
    the tokenizer and the image processor; compare the graphs with ours.

    Raises:
        UserError: features beyond 1e-3.
    """
    height, width = source.processor.image_size
    tokens = source.tokenizer(source.captions[:2])
    pixels = torch.zeros(2, 3, height, width)
    batch, caption = {0: "batch"}, {0: "batch", 1: "length"}
    _export(ImageGraph(source.clip), (pixels,), dict.fromkeys(IMAGE_INPUTS, batch), folder / "image.onnx")
    _export(
        TextGraph(source.clip),
        tuple(tokens[name] for name in TEXT_INPUTS),
        dict.fromkeys(TEXT_INPUTS, caption),
        folder / "text.onnx",
    )
    write_json(folder / "export.json", _description(source))
    write_processors(source, folder)
    _check(source, folder)


def _export(
    graph: nn.Module, inputs: tuple[Tensor, ...], axes: dict[str, dict[int, str]], file: Path
) -> None:
    with warnings.catch_warnings():
        # The tracer warns of every shape that Python reads, and of its age. It is the one exporter that
        # torch 2.4 and today's share; whether a trace was right is what the check at the end tells.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph.eval(),
            inputs,
            str(file),
            input_names=list(axes),
            output_names=[OUTPUT],
            dynamic_axes=axes | {OUTPUT: {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,
        )


def _description(source: Source) -> dict[str, object]:
    processor, clip = source.processor, source.clip
    height, width = processor.image_size
    return {
        "backbone": source.options.model.backbone,
        "image": {
            "file": "image.onnx",
            "inputs": {IMAGE_INPUTS[0]: f"float32 (batch, 3, {height}, {width})"},
            "height": height,
            "width": width,
            "preprocessing": "preprocessor_config.json",
        },
        "text": {
            "file": "text.onnx",
            "inputs": dict.fromkeys(TEXT_INPUTS, "int64 (batch, length)"),
            "max_length": source.tokenizer.text_length,
            "tokenizer": "AutoTokenizer of transformers, from this folder",
        },
        "output": {OUTPUT: f"float32 (batch, {clip.embed_dim}), not normalised"},
        "logit_scale": clip.logit_scale.exp().item(),
        "logit_bias": float(clip.logit_bias),
    }


def _check(source: Source, folder: Path) -> None:
    import onnxruntime

    sessions = {
        name: onnxruntime.InferenceSession(str(folder / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        for name in ("image", "text")
    }

    def run(name: str, inputs: dict[str, Tensor]) -> Tensor:
        values = {key: value.numpy() for key, value in inputs.items()}
        return torch.from_numpy(sessions[name].run([OUTPUT], values)[0])

    def encode_image(pixels: Tensor) -> Tensor:
        return run("image", {IMAGE_INPUTS[0]: pixels})

    def encode_text(captions: Sequence[str]) -> Tensor:
        tokens = source.tokenizer(captions)
        return run("text", {name: tokens[name] for name in TEXT_INPUTS})

    source.check(f"onnxruntime {onnxruntime.__version__}", encode_image, encode_text, TOLERANCE)
