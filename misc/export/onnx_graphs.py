"""Export to two ONNX graphs, for images and captions, checked with onnxruntime."""

import contextlib
import importlib.util
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.onnx.errors import UnsupportedOperatorError

from misc.export.source import Source, write_json
from model.protocol import Embedder, JsonObject
from options import UserError

IMAGE_INPUT, TEXT_INPUTS, OUTPUT = "pixel_values", ("input_ids", "attention_mask"), "features"


class _Graph(nn.Module):
    def __init__(self, model: Embedder) -> None:
        super().__init__()
        self.model = model


class ImageGraph(_Graph):
    """(B, 3, H, W) -> (B, E)."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Features, not normalised."""
        return self.model.embed(pixel_values)


class TextGraph(_Graph):
    """Ids and mask, (B, L) int64 each -> (B, E)."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Features, not normalised."""
        return self.model.embed({"input_ids": input_ids, "attention_mask": attention_mask})


def check_packages() -> None:
    """Raise UserError if a package that only this format needs is missing."""
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--format onnx: {' and '.join(missing)} not installed; pip install {' '.join(missing)}"
        )


def export_onnx(source: Source, folder: Path) -> None:
    """Write image.onnx and text.onnx, export.json, which describes inputs and outputs, and the files of the
    tokenizer and the image processor; raise UserError if the graphs' features differ by more than 1e-3.
    """
    height, width = source.processor.image_size
    tokens = source.tokenizer(source.captions[:2])
    image_inputs = {IMAGE_INPUT: torch.zeros(2, 3, height, width)}
    _export(ImageGraph(source.model), image_inputs, {0: "batch"}, folder / "image.onnx")
    text_inputs = {name: tokens[name] for name in TEXT_INPUTS}
    _export(TextGraph(source.model), text_inputs, {0: "batch", 1: "length"}, folder / "text.onnx")
    write_json(folder / "export.json", _description(source))
    source.save_processors(folder)
    _check(source, folder)


@contextlib.contextmanager
def _without_fast_path() -> Iterator[None]:
    """`nn.MultiheadAttention` of separate operators: ONNX has none for its fast path."""
    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_enabled)


def _export(graph: _Graph, inputs: dict[str, Tensor], axes: dict[int, str], file: Path) -> None:
    # It prints the graph of a model that it cannot write.
    with warnings.catch_warnings(), _without_fast_path(), contextlib.redirect_stdout(io.StringIO()):
        # The tracer warns about each shape that Python code reads, and about its deprecation. It is the only
        # exporter in both torch 2.4 and current versions; the comparison afterwards detects wrong traces.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                graph.eval(),
                tuple(inputs.values()),
                str(file),
                input_names=list(inputs),
                output_names=[OUTPUT],
                dynamic_axes={**dict.fromkeys(inputs, axes), OUTPUT: {0: "batch"}},
                opset_version=17,
                dynamo=False,
            )
        except UnsupportedOperatorError as error:  # towers of other libraries may have any
            reason = str(error).partition(". ")[0]
            raise UserError(f"--format onnx: {file.stem}.onnx cannot be written: {reason}") from error


def _description(source: Source) -> JsonObject:
    clip, (height, width) = source.model.clip, source.processor.image_size
    return {
        "backbone": source.options.model.backbone,
        "image": {
            "file": "image.onnx",
            "inputs": {IMAGE_INPUT: f"float32 (batch, 3, {height}, {width})"},
            "height": height,
            "width": width,
            "preprocessing": "preprocessor_config.json",
        },
        "text": {
            "file": "text.onnx",
            "inputs": dict.fromkeys(TEXT_INPUTS, "int64 (batch, length)"),
            "max_length": source.tokenizer.text_length,
            "tokenizer": "AutoTokenizer of transformers, from this folder",
            "cleaning": f"data.cleaning={source.tokenizer.cleaning}, as in README.md",
        },
        "output": {OUTPUT: f"float32 (batch, {source.model.embed_dim}), not normalised"},
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

    source.check(
        f"onnxruntime {onnxruntime.__version__}",
        lambda pixels: run("image", {IMAGE_INPUT: pixels}),
        lambda captions: run("text", source.tokenizer(captions)),
        tolerance=1e-3,
    )
