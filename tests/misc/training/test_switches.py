"""Each switch alone, and each pair of them on and off, trains on one fixed batch; what it names is frozen."""

import itertools
import math
from typing import Any

import pytest
import torch

from misc.training.optimizer import build_optimizer, set_learning_rate
from model.tbps import TBPS
from options import LOSSES, ScheduleOptions
from tests.helpers.tiny import ALL_OFF, TOGETHER, tiny_batch, tiny_model

BASE = ALL_OFF | {"model.lock_patch_embedding": False}
OTHERS: dict[str, dict[str, Any]] = {
    "mvs_image": {"experiment.mvs_image": True},
    "mvs_text": {"experiment.mvs_text": True},
    "use_gather": {"model.use_gather": False},
    "no soft label": {},  # the training loop hands it to the model, as `train` does here
    "lock_patch_embedding": {"model.lock_patch_embedding": True},
    "lock_image_blocks": {"model.lock_image_blocks": 1},
    "lock_text_blocks": {"model.lock_text_blocks": 1},
    "lock_text_layers": {"model.lock_text_layers": [0]},
    "dropout": {"experiment.dropout": 0.1},
}
SWITCHES = {name: {f"experiment.{name}": True} for name in TOGETHER} | OTHERS
LOCKED = {
    "lock_patch_embedding": ("clip.visual.conv1.",),
    "lock_image_blocks": (
        "clip.visual.conv1.",
        "clip.visual.class_embedding",
        "clip.visual.positional_embedding",
        "clip.visual.ln_pre.",
        "clip.visual.transformer.resblocks.0.",
    ),
    "lock_text_blocks": (
        "clip.text.token_embedding.",
        "clip.text.positional_embedding",
        "clip.text.transformer.resblocks.0.",
    ),
    "lock_text_layers": ("clip.text.transformer.resblocks.0.",),
}
NUM_STEPS, LEARNING_RATE = 8, 1e-3

# A covering array of strength two: each switch is on in row 0 and in three of the rows 1 to 7, no two in the
# same three. So of any two switches both are on in row 0, each is on without the other in some row, and both
# are off in one of the eight rows, as the rows where one of them is on are at most seven.
THREE_ROWS = dict(zip(SWITCHES, itertools.combinations(range(1, 8), 3), strict=False))
ROWS = [tuple(name for name in SWITCHES if row in (0, *THREE_ROWS[name])) for row in range(8)]


def losses_of(switches: tuple[str, ...]) -> set[str]:
    """N-ITC where no loss is among them, and where MVS, which is a way to do it, would have no effect."""
    losses = set(switches) & set(LOSSES)
    return losses | {"nitc"} if not losses or {"mvs_image", "mvs_text"} & set(switches) else losses


def frozen_by_choice(model: TBPS, switches: tuple[str, ...]) -> set[str]:
    """The names of the parameters that should stand still, by the documentation of the options."""
    losses = losses_of(switches)
    starts = [start for switch in switches for start in LOCKED.get(switch, ())]
    starts += ["clip.visual."] if losses == {"ss_text"} else []
    starts += ["clip.text."] if losses == {"ss"} else []
    starts += [] if losses & {"nitc", "ritc", "sigmoid"} else ["clip.logit_scale"]
    return {name for name, _ in model.named_parameters() if name.startswith(tuple(starts))}


def train(model: TBPS, soft_label: float) -> tuple[list[float], list[set[str]]]:
    """The loss before each step, and in each step the names of the parameters with a gradient."""
    optimizer = build_optimizer(model, ScheduleOptions(ratio_factor=5.0), model.objectives.values())
    set_learning_rate(optimizer, LEARNING_RATE)
    batch, losses, touched = tiny_batch(), [], []
    for _ in range(NUM_STEPS):
        output = model(batch, soft_label)
        optimizer.zero_grad()
        output.total.backward()
        touched.append({name for name, p in model.named_parameters() if p.grad is not None})
        optimizer.step()
        losses.append(output.total.item())
    return losses, touched


def test_the_rows_hold_every_pair_of_switches_on_and_off() -> None:
    for pair in itertools.combinations(SWITCHES, 2):
        assert len({tuple(name in row for name in pair) for row in ROWS}) == 4, pair


@pytest.mark.parametrize("switches", [*((name,) for name in SWITCHES), ("grab",), *ROWS], ids="+".join)
def test_a_set_of_switches_trains(switches: tuple[str, ...]) -> None:
    settings = BASE | {f"experiment.{name}": True for name in losses_of(switches)}
    for switch in switches:
        settings |= SWITCHES.get(switch, {})
    model = tiny_model(settings)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses, touched = train(model, 0.0 if "no soft label" in switches else 0.3)

    assert all(map(math.isfinite, losses)), losses
    assert losses[-1] < 0.98 * losses[0], losses
    frozen = frozen_by_choice(model, switches)
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == frozen
    for names in touched:
        assert names == before.keys() - frozen
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) == (name in frozen), name
    for module, loss in {
        "simclr_mlp.": "ss",
        "simclr_mlp_text.": "ss_text",
        "mlm_head.": "mlm",
        "classifier.": "id",
        "clip.logit_bias": "sigmoid",
    }.items():
        assert any(name.startswith(module) for name in before) == (loss in losses_of(switches)), module
