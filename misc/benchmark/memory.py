"""The batch that fits a GPU, without one: python -m misc.benchmark.memory [section.name=value ...]

Counts the bytes that a training step of each recipe saves for its backward pass, and its arithmetic. Nothing
is computed: the tensors are fake, and attention is assumed to save what its fused kernels save. Not counted:
temporary buffers of kernels, the framework's own memory (about 1 GB), and fragmentation.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import config
from data.types import Batch
from misc.benchmark.flops import computed_flops
from misc.benchmark.setting import FULL, IRRA, RDE, SIMPLIFIED
from misc.cli import Parser, exit_status
from model import build_model
from model.losses import mlm_loss
from model.mlm import MLM
from model.tbps import TBPS
from options import Options, UserError, load_options, to_dict

CARDS = (12, 24, 48)  # GB
RESERVE = 2.0  # GB of a card, for what is not counted
CAPTION = 40  # tokens, about the longest of a batch of CUHK-PEDES
MASKED = 6  # of them in MLM: 15 %
COUNTED = ("clip", "open_clip")  # the backbones that can be built without any file
RECIPES = {"full": FULL, "simplified": SIMPLIFIED, "IRRA": IRRA, "RDE": RDE}
PRECISIONS = {"fp32": torch.float32, "bf16, fp16": torch.bfloat16}


class Needs(NamedTuple):
    """Bytes of a training step."""

    held: int  # weights, gradients, moments
    copies: int  # of the weights in half precision
    sample: int  # per sample of the batch
    part: int  # per row of a part of `schedule.accumulate` (one view, or the captions)
    flops: int  # FLOPs per sample, forward and backward


def kept_bytes(work: Callable[[], object], model: nn.Module) -> int:
    """The bytes that `work` saves for its backward pass, without the parameters of `model`."""
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        results = work()
    del results
    return sum(tensor.untyped_storage().nbytes() for storage, tensor in kept.items() if storage not in own)


def faked(model: nn.Module, fake: FakeTensorMode) -> nn.Module:
    """The model with fake parameters and buffers: libraries cannot build theirs of fake ones."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                tensor = fake.from_tensor(parameter.detach(), static_shapes=True)
                module._parameters[name] = nn.Parameter(tensor, parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = fake.from_tensor(buffer, static_shapes=True)
    return model


def batch_of(model: TBPS, image_size: tuple[int, int], length: int, rows: int) -> Batch:
    """A batch with arbitrary contents, captions of `length` tokens."""
    tokens = {"input_ids": torch.zeros(rows, length, dtype=torch.int64)}
    tokens["attention_mask"] = torch.ones_like(tokens["input_ids"])
    images = {view: torch.empty(rows, 3, *image_size) for view in model.views}
    ids = torch.zeros(rows, dtype=torch.int64)
    more = {"tokens2": tokens, "rewritten": tokens, "mlm_labels": tokens["input_ids"]}
    return Batch(images, tokens, person_ids=ids, indices=ids, **more)


def forward(model: TBPS, batch: Batch, inputs: Sequence[str]) -> list[object]:
    """What the towers and heads make of these inputs; the similarities of the losses are small."""
    features, tokens = model.encode(batch, inputs)
    results: list[object] = [features, tokens]
    for objective in model.objectives.values():
        if isinstance(objective, MLM) and "view1" in inputs:
            words = None if objective.pad_to else batch.tokens["attention_mask"]
            masked = torch.arange(MASKED * len(batch.indices))
            scores = objective.head(tokens["tokens"], tokens["view1"], words, masked)
            results.append(mlm_loss(scores.float(), torch.zeros_like(masked), torch.ones(())))
        elif set(objective.inputs) <= set(inputs):
            results.append(objective.project(features))
    return results


def block_bytes(model: TBPS, image_size: tuple[int, int]) -> int:
    """The most bytes that a recomputed block of the image tower saves per image, without its input."""
    return max(_kept_by(block, model, image_size) for block in model.clip.lockable().image_blocks)


def _kept_by(block: nn.Module, model: TBPS, image_size: tuple[int, int]) -> int:
    calls: list[tuple[tuple[Tensor, ...], dict[str, object]]] = []
    hook = block.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    with torch.no_grad():
        for rows in (1, 2):
            model.clip.encode_image(torch.empty(rows, 3, *image_size))
    hook.remove()
    kept = []
    for (x, *args), kwargs in calls:
        x = x.detach().requires_grad_()
        kept.append(kept_bytes(lambda x=x, args=args, kwargs=kwargs: block(x, *args, **kwargs), model))
    return kept[1] - kept[0] - calls[0][0][0].nbytes


def counted_flops(model: TBPS, batch: Batch) -> int:
    """FLOPs of the towers and heads on a batch, forward and backward."""

    def step() -> None:
        results = forward(model, batch, model.views + model.texts)
        torch.stack([tensor.float().sum() for tensor in tensors_in(results)]).sum().backward()

    return computed_flops(step)


def tensors_in(results: object) -> Iterator[Tensor]:
    """The tensors with a gradient among nested results."""
    if isinstance(results, Tensor):
        yield from [results] if results.requires_grad else []
    elif isinstance(results, dict | list):
        for part in results.values() if isinstance(results, dict) else results:
            yield from tensors_in(part)


def needs(
    model: TBPS, image_size: tuple[int, int], length: int, dtype: torch.dtype, checkpoints: bool
) -> Needs:
    """What a step of a model of fake tensors under autocast to `dtype` takes; called in their mode.

    Args:
        length: tokens of a caption.
        checkpoints: whether the model was built with `model.grad_checkpointing`.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    held = sum(p.nbytes for p in model.parameters()) + 3 * sum(p.nbytes for p in trained)
    views, texts = model.views, model.texts
    batches = [batch_of(model, image_size, length, rows) for rows in (1, 2)]

    def growth(inputs: Sequence[str]) -> tuple[int, int]:
        """(bytes per sample, bytes that do not depend on the number of samples)."""
        one, two = (kept_bytes(lambda b=batch: forward(model, b, inputs), model) for batch in batches)
        return two - one, 2 * one - two

    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        sample, copies = growth(views + texts)
        part = max(growth(inputs)[0] for inputs in model.passes())
        recomputed = block_bytes(model, image_size) if checkpoints else 0
        one, two = (counted_flops(model, batch) for batch in batches)
    return Needs(held, copies, sample + len(views) * recomputed, part + recomputed, two - one)


def rows(overrides: Sequence[str]) -> Iterator[str]:
    """The lines of the table; raises UserError for a model that cannot be counted."""
    cards = "".join(f"{card:>6} GB" for card in CARDS)
    yield (
        f"{'recipe':12}{'precision':>12}{'checkpoints':>13}{'held':>9}{'a sample':>10}{'in parts':>10}"
        f"{'GFLOP':>7}   samples of a step on{cards}"
    )
    for name, recipe in RECIPES.items():
        for checkpoints in (False, True):
            for precision, dtype in PRECISIONS.items():
                found = _count(config.FOLDER / recipe, overrides, dtype, checkpoints)
                held, sample, part = found.held + found.copies, found.sample, found.part
                room = [1e9 * (card - RESERVE) - held for card in CARDS]
                fit = "".join(f"{max(0, int(bytes_ / sample)):>9}" for bytes_ in room)
                yield (
                    f"{name:12}{precision:>12}{'yes' if checkpoints else 'no':>13}{held / 1e9:6.2f} GB"
                    f"{sample / 1e6:7.1f} MB{part / 1e6:7.1f} MB{found.flops / 1e9:7.1f}   {'':20}{fit}"
                )


def _count(recipe: Path, overrides: Sequence[str], dtype: torch.dtype, checkpoints: bool) -> Needs:
    own = f"model.grad_checkpointing={str(checkpoints).lower()}"
    fake, model, image_size, length = fake_model(load_options(recipe, [*overrides, own]))
    with fake:
        return needs(model, image_size, length, dtype, checkpoints)


def flops_of_sample(options: Options) -> int:
    """FLOPs of a sample in training, forward and backward. Raises UserError as `fake_model` does."""
    fake, model, image_size, length = fake_model(options)
    with fake:
        one, two = (counted_flops(model, batch_of(model, image_size, length, rows)) for rows in (1, 2))
    return two - one


def fake_model(options: Options) -> tuple[FakeTensorMode, TBPS, tuple[int, int], int]:
    """The model of fake tensors, their mode, the size of images and the tokens of a caption.

    Raises:
        UserError: a model that cannot be counted.
    """
    own = [
        *("model.clip_pretrained=null", "model.open_clip_pretrained=null"),
        "experiment.dropout=0",  # fused kernels save no mask
    ]
    experiment, options = options.experiment, load_options(to_dict(options), own)
    if options.model.backbone not in COUNTED or (experiment.mlm and not experiment.mlm_masks_all):
        backbones = " or ".join(COUNTED)
        raise UserError(
            f"only the towers of {backbones} can be counted, and MLM where it masks all: expected "
            f"model.backbone={backbones}, and experiment.mlm=false or experiment.mlm_masks_all=true"
        )
    model, tokenizer, processor = build_model(options, num_identities=1000)
    fake = FakeTensorMode()
    return fake, faked(model.train(), fake), processor.image_size, min(CAPTION, tokenizer.text_length)


def run(overrides: Sequence[str]) -> None:
    """Print the table, line by line."""
    for line in rows(overrides):
        print(line, flush=True)


def build_parser() -> Parser:
    """The command line."""
    parser = Parser(prog="python -m misc.benchmark.memory", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="options for all recipes")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 and an error line for a user error."""
    return exit_status(lambda: run(build_parser().parse_args(arguments).overrides))


if __name__ == "__main__":
    sys.exit(main())
