"""What fits a GPU, without one: python -m misc.benchmark.memory [section.name=value ...]

Counts what a training step of either recipe keeps for its backward pass. Nothing is computed: the tensors
have shapes and types alone, and attention is taken to keep what its fused kernels keep. Not counted: what
kernels need for a moment, the framework's own share (about 1 GB), and fragmentation.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from data.loaders import Batch
from main import CONFIG, Parser, status_of
from misc.benchmark.setting import FULL, SIMPLIFIED
from model import build_model
from model.tbps import TBPS
from options import Options, load_options

CARDS = (12, 24, 48)  # GB
SPARE = 2.0  # GB of a card that are left to what is not counted
CAPTION = 40  # tokens, about the longest of a batch of CUHK-PEDES
PRECISIONS = {"fp32": torch.float32, "bf16, fp16": torch.bfloat16}


def kept_bytes(model: TBPS, options: Options, inputs: Sequence[str], rows: int, dtype: torch.dtype) -> int:
    """Bytes that encoding `inputs` (of `image_views` and `texts`) of so many rows keeps for the backward
    pass, under autocast to `dtype`; parameters not counted, their copies in `dtype` counted.
    """
    length = min(CAPTION, options.experiment.text_length)
    tokens = {"input_ids": torch.zeros(rows, length, dtype=torch.int64)}
    tokens["attention_mask"] = torch.ones_like(tokens["input_ids"])
    images = {view: torch.empty(rows, 3, *options.data.image_size) for view in model.image_views}
    ids = torch.zeros(rows, dtype=torch.int64)
    batch = Batch(images, tokens, person_ids=ids, indices=ids, tokens2=tokens)
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        results = model.encode(batch, inputs)
    assert results
    return sum(tensor.untyped_storage().nbytes() for where, tensor in kept.items() if where not in own)


def needs(options: Options, dtype: torch.dtype) -> tuple[float, float, float, float]:
    """GB: of weights, gradients and moments; of weights' copies in `dtype`; that a sample keeps; that a row
    of a part keeps (`schedule.accumulate`: one view, or the captions).
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = build_model(options, num_identities=1000)[0].train()
        trained = [p for p in model.parameters() if p.requires_grad]
        held = sum(p.nbytes for p in model.parameters()) + 3 * sum(p.nbytes for p in trained)

        def growth(inputs: Sequence[str]) -> tuple[float, float]:
            one, two = (kept_bytes(model, options, inputs, rows, dtype) for rows in (1, 2))
            return two - one, 2 * one - two

        sample, copies = growth(model.image_views + model.texts)
        part = max(growth(inputs)[0] for inputs in [*([view] for view in model.image_views), model.texts])
    return held / 1e9, copies / 1e9, sample / 1e9, part / 1e9


def rows(overrides: Sequence[str]) -> Iterator[str]:
    """The lines of the table."""
    cards = "".join(f"{card:>6} GB" for card in CARDS)
    yield (
        f"{'recipe':12}{'precision':>12}{'checkpoints':>13}{'held':>9}{'a sample':>10}{'in parts':>10}   "
        f"samples of a step on{cards}"
    )
    for name, recipe in (("full", FULL), ("simplified", SIMPLIFIED)):
        options = load_options(CONFIG / recipe, ["model.clip_pretrained=null", *overrides])
        for checkpoints in (False, True):
            options = replace(options, model=replace(options.model, grad_checkpointing=checkpoints))
            for precision, dtype in PRECISIONS.items():
                held, copies, sample, part = needs(options, dtype)
                fit = "".join(f"{(card - SPARE - held - copies) / sample:>9.0f}" for card in CARDS)
                yield (
                    f"{name:12}{precision:>12}{'yes' if checkpoints else 'no':>13}{held + copies:6.2f} GB"
                    f"{1000 * sample:7.1f} MB{1000 * part:7.1f} MB   {'':20}{fit}"
                )


def run(overrides: Sequence[str]) -> None:
    """Print the table, each line as soon as it is there."""
    for line in rows(overrides):
        print(line, flush=True)


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m misc.benchmark.memory", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="options over both recipes")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 with one line for what the user can mend."""
    return status_of(lambda: run(build_parser().parse_args(arguments).overrides))


if __name__ == "__main__":
    sys.exit(main())
