"""The sizes of weights: inferred from the tensors and checked; positions resized to others."""

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from misc.process.workers import total_memory
from model.towers.layers import ACTIVATIONS
from model.towers.text import TextTransformer
from model.towers.vision import VisionTransformer
from options import UserError

# Heads of image towers, by their width, that open_clip has and OpenAI does not: ViT-B-plus and ViT-H. Most of
# their weights (LAION's, DataComp's) have GELU.
HEADS_OF_OTHERS = {896: 14, 1280: 16}


@dataclass(frozen=True)
class ClipShape:
    """The sizes under the names of their options, by default ViT-B/16's. Heads of None: width / 64, if that
    is whole. The activation is that of both towers.
    """

    patch_size: int = 16
    image_width: int = 768
    image_layers: int = 12
    image_heads: int | None = None
    text_width: int = 512
    text_layers: int = 12
    text_heads: int | None = None
    embed_dim: int = 512
    vocab_size: int = 49_408
    activation: str = "quick_gelu"

    def towers(
        self, image_size: tuple[int, int], text_length: int, dropout: float = 0.0
    ) -> tuple[VisionTransformer, TextTransformer]:
        """New towers of these sizes; the numbers of heads must be set."""
        image_sizes = (self.patch_size, self.image_width, self.image_layers, self.image_heads, self.embed_dim)
        text_sizes = (self.vocab_size, self.text_width, self.text_layers, self.text_heads, self.embed_dim)
        visual = VisionTransformer(image_size, *image_sizes, self.activation)
        return visual, TextTransformer(text_length, *text_sizes, dropout, self.activation)


def bad_weights(path: Path, problem: str) -> UserError:
    """The error for a file or folder of weights that has a `problem` ("is ...", "lacks ...")."""
    return UserError(f"weights '{path}' {problem}.")


def check_image_size(image_size: tuple[int, int], patch_size: int) -> None:
    """Raise UserError unless (height, width) are multiples of the patch."""
    if any(side % patch_size for side in image_size):
        raise UserError(
            f"data.image_size: expected multiples of the patch size {patch_size}, found "
            f"{image_size[0]}, {image_size[1]}."
        )


def check_setting(option: str, value: int | str | None, known: int | str | None, weights: str | Path) -> None:
    """Raise UserError where an option of section `model` is set to another value than the weights have."""
    if None not in (value, known) and value != known:
        raise UserError(
            f"model.{option}: {value} is set, but the weights '{weights}' have {known}. Set it to null to "
            "take it from them."
        )


def check_text_length(text_length: int | None, positions: int, weights: str | Path) -> None:
    """Raise UserError for more tokens of a caption than the weights have positions."""
    if text_length is not None and text_length > positions:
        raise UserError(
            f"experiment.text_length: expected at most {positions}, the positions of '{weights}', found "
            f"{text_length}."
        )


def check_memory(shape: ClipShape) -> None:
    """Raise UserError if random towers of this shape are larger than the machine's memory.

    The blocks' four projections (12 width^2) and the token embedding are counted: nearly all parameters.
    """
    towers = (shape.image_layers, shape.image_width), (shape.text_layers, shape.text_width)
    blocks = sum(12 * layers * width**2 for layers, width in towers)
    needed = 4 * (blocks + shape.vocab_size * shape.text_width)
    memory = total_memory()
    if memory and needed > memory:
        raise UserError(
            f"model: towers of these sizes take {needed / 2**30:,.0f} GB, and this machine has "
            f"{memory / 2**30:,.0f}; lower model.image_width, image_layers, text_width or text_layers"
        )


def read_shape(path: Path, tensors: dict[str, Tensor], options: dict[str, Any]) -> ClipShape:
    """The sizes of the towers that the tensors, under the names of `CLIP`, belong to.

    No tensor depends on the number of heads and the activation: they are those of the options, elsewhere
    OpenAI's.

    Raises:
        UserError: a tensor that gives a size is missing or has another number of dimensions; a number of
            heads that is no number.
    """

    def size(name: str, dimensions: int) -> torch.Size:
        """The shape of a tensor with that many axes."""
        if name not in tensors:
            raise bad_weights(path, f"holds no CLIP with a vision transformer: it lacks {name!r}")
        shape = tensors[name].shape
        if shape.numel() == 0:
            advice = "a checkpoint of DeepSpeed's ZeRO stage 3 is made whole by its zero_to_fp32.py"
            raise bad_weights(path, f"has {name!r} of shape {tuple(shape)}, without numbers; {advice}")
        if len(shape) != dimensions:
            raise bad_weights(path, f"has {name!r} of shape {tuple(shape)}; {dimensions} axes are expected")
        return shape

    def layers(tower: str) -> int:
        name = re.compile(rf"{tower}\.transformer\.resblocks\.\d+\.ln_1\.weight")
        return sum(name.fullmatch(tensor) is not None for tensor in tensors)

    def heads(tower: str, width: int) -> int | None:
        saved = _option(options, "model", f"{tower}_heads")
        return openai_heads(width) if saved is None else whole_number(path, saved, f"{tower}_heads")

    activation = _option(options, "model", "activation") or ClipShape.activation
    if activation not in ACTIVATIONS:
        expected = " or ".join(ACTIVATIONS)
        raise bad_weights(path, f"has the activation {activation!r:.40}; {expected} is expected")
    image_width, _, patch_size, _ = size("visual.conv1.weight", 4)
    vocab_size, text_width = size("text.token_embedding.weight", 2)
    _, embed_dim = size("text.text_projection", 2)
    for tower in ("visual", "text"):
        size(f"{tower}.positional_embedding", 2)
        size(f"{tower}.transformer.resblocks.0.ln_1.weight", 1)
    return ClipShape(
        patch_size=patch_size,
        image_width=image_width,
        image_layers=layers("visual"),
        image_heads=heads("image", image_width),
        text_width=text_width,
        text_layers=layers("text"),
        text_heads=heads("text", text_width),
        embed_dim=embed_dim,
        vocab_size=vocab_size,
        activation=activation,
    )


def openai_heads(width: int) -> int | None:
    """The heads of OpenAI's towers of a width; None where it is no multiple of 64."""
    return None if width % 64 else width // 64


def likely_shape(shape: ClipShape) -> ClipShape:
    """The shape with the heads and the activation of the published weights of these sizes, where OpenAI has
    published none.
    """
    heads = HEADS_OF_OTHERS.get(shape.image_width)
    return replace(shape, image_heads=heads, activation="gelu") if heads else shape


def other_sizes(shape: ClipShape, options: dict[str, Any]) -> list[str]:
    """What the options say of sizes that the tensors show, and say otherwise."""
    names = ("patch_size", "image_width", "image_layers", "text_width", "text_layers", "embed_dim")
    said = {name: _option(options, "model", name) for name in names}
    return [
        f"{name} {value!r:.40} (the tensors: {getattr(shape, name)})"
        for name, value in said.items()
        if value not in (None, getattr(shape, name))
    ]


def read_grid(
    path: Path,
    patches: int,
    patch_size: int,
    options: dict[str, Any],
    image_size: tuple[int, int] | None,
    trained: tuple[int, int] | None = None,
) -> tuple[int, int]:
    """The rows and columns of `patches`: those of the image size in the options, ours or TBPS-CLIP's; without
    one, those of `trained`, if they fit, a square or, if the number is not square, the grid of `image_size`.

    Raises:
        UserError: they do not make that many patches.
    """
    saved = saved_image_size(path, options)
    rows = columns = math.isqrt(patches)
    grid = "a square"
    if saved:
        rows, columns = (side // patch_size for side in saved)
        grid = f"the image size {saved} saved with it"
    elif trained and math.prod(side // patch_size for side in trained) == patches:
        rows, columns = (side // patch_size for side in trained)
    elif image_size and rows * columns != patches:
        rows, columns = (side // patch_size for side in image_size)
        asked = f"[{image_size[0]},{image_size[1]}]"
        grid += (
            f" or data.image_size={asked}; set that to the size they were trained at (IRRA, RDE: [384,128])"
        )
    if rows * columns != patches:
        raise bad_weights(path, f"has positions for {patches} patches, which do not make {grid}")
    return rows, columns


def saved_image_size(path: Path, options: dict[str, Any]) -> tuple[int, int] | None:
    """The image size in saved options, under our name or TBPS-CLIP's."""
    for section, name in (("data", "image_size"), ("experiment", "input_resolution")):
        size = _option(options, section, name)
        if isinstance(size, list | tuple) and len(size) == 2:
            return whole_number(path, size[0], name), whole_number(path, size[1], name)
    return None


def whole_number(path: Path, value: object, name: str) -> int:
    if type(value) is not int or value < 1:
        raise bad_weights(path, f"has {name} {value!r:.40}; a whole number is expected")
    return value


def _option(options: dict[str, Any], section: str, name: str) -> Any:
    values = options.get(section)
    return values.get(name) if isinstance(values, dict) else None


def check_tensors(path: Path, tensors: dict[str, Tensor], shape: ClipShape, grid: tuple[int, int]) -> None:
    """Compare names and shapes with those of the towers that `shape` describes, built on the meta device.

    Raises:
        UserError: a tensor is missing, unexpected, or of another shape.
    """
    image_size = (grid[0] * shape.patch_size, grid[1] * shape.patch_size)
    text_length = len(tensors["text.positional_embedding"])
    with torch.device("meta"):  # no tensor depends on the heads
        visual, text = replace(shape, image_heads=1, text_heads=1).towers(image_size, text_length)
    expected = {f"visual.{name}": tensor.shape for name, tensor in visual.state_dict().items()}
    expected |= {f"text.{name}": tensor.shape for name, tensor in text.state_dict().items()}
    expected |= {"logit_scale": torch.Size(), "logit_bias": torch.Size()}
    if missing := sorted(expected.keys() - tensors.keys() - {"logit_bias"}):  # SigLIP's alone has one
        raise bad_weights(path, f"lacks {len(missing)} of CLIP's tensors (first: {missing[0]!r})")
    if unexpected := sorted(tensors.keys() - expected.keys()):
        raise bad_weights(path, f"has {len(unexpected)} unexpected tensors (first: {unexpected[0]!r})")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name]:
            problem = f"has {name!r} of shape {tuple(tensor.shape)}; {tuple(expected[name])} is expected"
            raise bad_weights(path, problem)


def resize_image_positions(positions: Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """(1 + h w, width) -> (1 + h' w', width): the class position kept, the others resized bilinearly.

    `F.interpolate`'s default (corners not aligned, no anti-aliasing), the usual way from OpenAI's 14 x 14
    to person crops.
    """
    if grid == new_grid:
        return positions
    patches = positions[1:].unflatten(0, grid).permute(2, 0, 1)[None]
    patches = F.interpolate(patches, size=new_grid, mode="bilinear", align_corners=False)
    return torch.cat([positions[:1], patches[0].flatten(1).T])


def resize_text_positions(positions: Tensor, text_length: int) -> Tensor:
    """(L, width) -> (L', width), interpolated linearly, the first and the last position kept."""
    if len(positions) == text_length:
        return positions
    resized = F.interpolate(positions.T[None], size=text_length, mode="linear", align_corners=True)
    return resized[0].T.contiguous()
