"""Smoke test of any backbone: python misc/quick_start.py [--config FILE] [section.name=value ...]

Builds the towers that the options describe, compares captions with images, and computes every loss once. Exit
status 0, or 2 and an error line for a user error, such as missing weights.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, from any folder

import config
from misc.cli import Parser, exit_status
from options import LOSSES, ExperimentOptions, load_options

if TYPE_CHECKING:
    import torch

    from model.protocol import Built, DualEncoder, Tokenizer

TEXTS = ("红色上衣的女生", "a man wearing a blue coat")


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(description="Smoke test of any backbone.")
    add = parser.add_argument
    add("--config", type=Path, default=config.FOLDER / "config.yaml", help="options (config/config.yaml)")
    add("overrides", nargs="*", metavar="key.path=value", help="for example model.backbone=open_clip")
    add_inputs(parser)
    return parser


def add_inputs(parser: Parser) -> None:
    """Add the options of what is compared, and where."""
    add = parser.add_argument
    add("--device", default="cpu", help="cpu, cuda or cuda:N; falls back to the CPU if not available")
    add("--text", nargs="+", default=list(TEXTS), metavar="TEXT", help="captions")
    add("--image", nargs="+", type=Path, metavar="FILE", help="images (default: rendered people)")


def pick_device(name: str) -> torch.device:
    """The device, or the CPU if it is not available, which is printed."""
    import torch

    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError):
        print(f"device {name} is not available: falling back to the CPU")
        return torch.device("cpu")


def table(similarity: torch.Tensor, texts: Sequence[str], names: Sequence[str]) -> str:
    """The cosine similarities (captions, images), one row per caption."""
    head = " " * 4 + "".join(f"image {number + 1:<3}" for number in range(len(names)))
    rows = [
        "    " + "".join(f"{value:8.4f} " for value in row) + f" {text}"
        for row, text in zip(similarity.tolist(), texts, strict=True)
    ]
    return "\n".join([head, *rows, *(f"    image {number + 1}: {name}" for number, name in enumerate(names))])


def losses(
    clip: DualEncoder, tokenizer: Tokenizer, pixels: torch.Tensor, captions: Sequence[str]
) -> dict[str, float]:
    """Every loss of one forward pass over these pairs of different people."""
    import torch

    from data.types import Batch
    from model.objective import Sizes
    from model.objectives import build_objectives
    from model.tbps import TBPS

    ids = torch.arange(len(captions), device=pixels.device)
    tokens = {name: values.to(pixels.device) for name, values in tokenizer(captions).items()}
    # MLM needs a mask token, and GRAB selects other tokens than TSE.
    left_out = {"mlm", "grab"} | (set() if clip.selects_tokens else {"tse"})
    names = [name for name in LOSSES if name not in left_out]
    torch.manual_seed(0)
    sizes = Sizes(clip.embed_dim, clip.vocab_size, len(captions), tokenizer.text_length)
    experiment = ExperimentOptions(mvs_image=False)
    objectives = build_objectives(names, experiment, sizes)
    model = TBPS(clip, objectives, dict.fromkeys(names, 1.0)).to(pixels.device).eval()
    views = dict.fromkeys(("view1", "simclr1", "simclr2"), pixels)
    with torch.no_grad():
        output = model(Batch(views, tokens, ids, ids, tokens2=tokens), soft_label=0.0)
    return {name: part.item() for name, part in output.parts.items()}


def compare(built: Built, flags: argparse.Namespace) -> None:
    """Compare captions with images, compute the losses, and print the results."""
    import torch
    from torch.nn import functional as F

    from data.images.decode import load_image
    from data.synthetic.render import render_people

    device = pick_device(flags.device)
    named = [(file.name, load_image(file)) for file in flags.image or ()]
    named = named or [(f"rendered: {caption}", image) for caption, image in render_people(2)]
    clip, tokenizer, processor = built
    clip = clip.to(device).eval()
    pixels = processor(images=[image for _, image in named], return_tensors="pt")["pixel_values"].to(device)
    tokens = {name: values.to(device) for name, values in tokenizer(flags.text).items()}
    with torch.no_grad():
        images, texts = clip.encode_image(pixels), clip.encode_text(tokens)
    similarity = F.normalize(texts.float(), dim=1) @ F.normalize(images.float(), dim=1).T
    print(f"\ncosine similarity\n{table(similarity, flags.text, [name for name, _ in named])}\n")
    print(f"logit_scale {clip.logit_scale.exp().item():.2f}, logit_bias {float(clip.logit_bias):.1f}")
    print(f"embedding {clip.embed_dim}: images {tuple(images.shape)}, captions {tuple(texts.shape)}")
    pairs = min(len(flags.text), len(named))
    if pairs < 2:
        print("losses: not computed; at least two pairs are needed (two captions and two images)")
        return
    matching = losses(clip, tokenizer, pixels[:pairs], flags.text[:pairs])
    crossed = losses(clip, tokenizer, pixels[:pairs], [*flags.text[1:pairs], flags.text[0]])
    print("\nloss          as given   captions exchanged")
    for name, value in matching.items():
        print(f"{name:<12}{value:10.4f}{crossed[name]:14.4f}")


def start(flags: argparse.Namespace) -> None:
    """Build the towers of the options, say what they are, and compare."""
    import torch

    from model import backbone_of

    options = load_options(flags.config, flags.overrides)
    torch.manual_seed(options.misc.seed)
    built = backbone_of(options).build(options, None)
    clip, tokenizer, processor = built
    millions = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (clip, clip.visual, clip.text)]
    print("{:.1f} M parameters: {:.1f} M of images, {:.1f} M of captions".format(*millions))
    height, width = processor.image_size
    rows, columns = clip.patch_grid
    print(f"images {height} x {width}, {rows} x {columns} patches; captions of at most ", end="")
    print(f"{tokenizer.text_length} tokens of {tokenizer.vocab_size:,}, cleaning {tokenizer.cleaning}")
    compare(built, flags)
    pretrained = getattr(options.model, backbone_of(options).weights_option)
    print(f"\nverdict: {f'the weights of {pretrained}' if pretrained else 'random weights'} work")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 and an error line for a user error."""
    return exit_status(lambda: start(build_parser().parse_intermixed_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
