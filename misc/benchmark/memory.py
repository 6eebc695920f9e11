"""What fits a GPU, without one: python -m misc.benchmark.memory [section.name=value ...]

Counts what a training step of either recipe keeps for its backward pass. Nothing is computed: the tensors
have shapes and types alone, and attention is taken to keep what its fused kernels keep. Not counted: what
kernels need for a moment, the framework's own share (about 1 GB), and fragmentation.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from data.types import Batch
from main import CONFIG, Parser, exit_status
from misc.benchmark.setting import FULL, SIMPLIFIED
from model import build_model
from model.tbps import TBPS
from options import Options, UserError, load_options

CARDS = (12, 24, 48)  # GB
SPARE = 2.0  # GB of a card that are left to what is not counted
CAPTION = 40  # tokens, about the longest of a batch of CUHK-PEDES
PRECISIONS = {"fp32": torch.float32, "bf16, fp16": torch.bfloat16}


class Needs(NamedTuple):
    """Bytes of a training step.

    held: weights, gradients, moments; copies: of the weights in half precision; sample: what each sample of
    the batch adds; part: what each row of a part of `schedule.accumulate` adds (one view, or the captions).
    """

    held: int
    copies: int
    sample: int
    part: int


def kept_bytes(work: Callable[[], object], model: nn.Module) -> int:
    """What `work` keeps for its backward pass, the parameters of `model` not counted."""
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        results = work()
    del results
    return sum(tensor.untyped_storage().nbytes() for where, tensor in kept.items() if where not in own)


def batch_of(model: TBPS, options: Options, rows: int) -> Batch:
    """A batch of nothing in particular."""
    length = min(CAPTION, options.experiment.text_length)
    tokens = {"input_ids": torch.zeros(rows, length, dtype=torch.int64)}
    tokens["attention_mask"] = torch.ones_like(tokens["input_ids"])
    images = {view: torch.empty(rows, 3, *options.data.image_size) for view in model.views}
    ids = torch.zeros(rows, dtype=torch.int64)
    return Batch(images, tokens, person_ids=ids, indices=ids, tokens2=tokens)


def block_bytes(model: TBPS) -> int:
    """What a block of the image tower keeps of one image, its input aside: at the moment when a checkpointed
    one is computed anew, beside the inputs of all.
    """
    visual = model.clip.visual
    block, sizes = visual.transformer.resblocks[0], visual.positional_embedding.shape
    one, two = (torch.empty(rows, *sizes, requires_grad=True) for rows in (1, 2))
    return kept_bytes(lambda: block(two), model) - kept_bytes(lambda: block(one), model) - one.nbytes


def needs(model: TBPS, options: Options, dtype: torch.dtype, checkpoints: bool) -> Needs:
    """What a step needs under autocast to `dtype`, with `model.grad_checkpointing` or without. The model and
    this call belong into one FakeTensorMode.
    """
    for tower in (model.clip.visual, model.clip.text):
        tower.transformer.grad_checkpointing = checkpoints
    trained = [p for p in model.parameters() if p.requires_grad]
    held = sum(p.nbytes for p in model.parameters()) + 3 * sum(p.nbytes for p in trained)
    views, texts = model.views, model.texts

    def growth(inputs: Sequence[str]) -> tuple[int, int]:
        """Of a sample, and what is there without any."""
        batches = [batch_of(model, options, rows) for rows in (1, 2)]
        one, two = (kept_bytes(lambda b=batch: model.encode(b, inputs), model) for batch in batches)
        return two - one, 2 * one - two

    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        sample, copies = growth(views + texts)
        part = max(growth(inputs)[0] for inputs in [*([view] for view in views), texts])
        anew = block_bytes(model) if checkpoints else 0
    return Needs(held, copies, sample + len(views) * anew, part + anew)


def rows(overrides: Sequence[str]) -> Iterator[str]:
    """The lines of the table.

    Raises:
        UserError: options of a model that is not counted here.
    """
    cards = "".join(f"{card:>6} GB" for card in CARDS)
    yield (
        f"{'recipe':12}{'precision':>12}{'checkpoints':>13}{'held':>9}{'a sample':>10}{'in parts':>10}   "
        f"samples of a step on{cards}"
    )
    for name, recipe in (("full", FULL), ("simplified", SIMPLIFIED)):
        own = ["model.clip_pretrained=null", "experiment.dropout=0"]  # a fused kernel keeps no mask of it
        options = load_options(CONFIG / recipe, [*overrides, *own])
        if options.model.backbone != "clip" or options.experiment.mlm:
            raise UserError("counted are CLIP's towers: no model.backbone=altclip, no experiment.mlm")
        with FakeTensorMode(allow_non_fake_inputs=True):
            model = build_model(options, num_identities=1000)[0].train()
            for checkpoints in (False, True):
                for precision, dtype in PRECISIONS.items():
                    found = needs(model, options, dtype, checkpoints)
                    held, sample, part = found.held + found.copies, found.sample, found.part
                    room = [1e9 * (card - SPARE) - held for card in CARDS]
                    fit = "".join(f"{max(0, int(bytes_ / sample)):>9}" for bytes_ in room)
                    yield (
                        f"{name:12}{precision:>12}{'yes' if checkpoints else 'no':>13}{held / 1e9:6.2f} GB"
                        f"{sample / 1e6:7.1f} MB{part / 1e6:7.1f} MB   {'':20}{fit}"
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
    return exit_status(lambda: run(build_parser().parse_args(arguments).overrides))


if __name__ == "__main__":
    sys.exit(main())
