"""What TBPS makes of the options: the sum of the recipes, and what it encodes, counted."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from options import LOSSES
from tests.helpers.tiny import ALL_OFF, NUM_ROWS, TOGETHER, tiny_batch, tiny_model

SOFT_LABEL = 0.5
EVERYTHING = " ".join((*TOGETHER, "mvs_image", "mvs_text"))
PAIRED = ("nitc", "ritc", "citc", "mlm", "id", "sdm", "tal", "tse", "grab", "sigmoid")  # the losses on view1
NEEDS = {
    "nitc": ["view1"],
    "nitc mvs_image": ["view1", "view2"],
    "nitc mvs_text": ["view1"],
    "nitc mvs_image mvs_text": ["view1", "view2"],
    **{name: ["view1"] for name in PAIRED[1:]},
    "ritc mvs_image": ["view1"],
    "ss": ["simclr1", "simclr2"],
    "ss mvs_image mvs_text": ["simclr1", "simclr2"],
    "ss_text": [],
    "ss ss_text": ["simclr1", "simclr2"],
    "ss mlm": ["view1", "simclr1", "simclr2"],
    "ss_text mlm": ["view1"],
    "ss_text id": ["view1"],
    "ss citc": ["view1", "simclr1", "simclr2"],
    "mlm id": ["view1"],
    "nitc ritc citc ss mvs_image": ["view1", "view2", "simclr1", "simclr2"],
    "nitc ss sdm": ["view1", "simclr1", "simclr2"],
    EVERYTHING: ["view1", "view2", "simclr1", "simclr2"],
}
TEXTS = {  # how often each caption is encoded, where it is not once
    switches: times
    for times, all_switches in {
        0: ("ss", "ss mvs_image mvs_text"),
        2: ("nitc mvs_text", "nitc mvs_image mvs_text", "ss_text", "ss ss_text", "mlm id", "ss_text id"),
        3: ("ss_text mlm", EVERYTHING),
    }.items()
    for switches in all_switches
}


def switched_on(switches: str) -> dict[str, Any]:
    return ALL_OFF | {f"experiment.{switch}": True for switch in switches.split()}


def test_the_recipes_have_the_losses_and_weights_of_the_paper() -> None:
    full, simplified = tiny_model({}), tiny_model({}, "config/s.config.yaml")
    assert full.weights == {"nitc": 1.0, "ritc": 1.0, "citc": 0.1, "ss": 0.4}
    assert full.views == ["view1", "view2", "simclr1", "simclr2"]
    assert simplified.weights == {"nitc": 1.0, "ritc": 1.0}
    assert simplified.views == ["view1"]


@pytest.mark.parametrize("name", TOGETHER)
def test_a_part_has_its_loss_times_its_weight(name: str) -> None:
    """By weight 1 and by a weight of 3, of all losses at once; and the total has no more than its parts."""
    everything = {f"experiment.{loss}": True for loss in TOGETHER}
    ones = {f"experiment.{loss}_ratio": 1 for loss in TOGETHER}
    batch = tiny_batch()
    plain = tiny_model(everything | ones)(batch, SOFT_LABEL)
    heavy = tiny_model(everything | ones | {f"experiment.{name}_ratio": 3})(batch, SOFT_LABEL)
    assert plain.parts.keys() == set(TOGETHER)
    for loss, part in plain.parts.items():
        factor = 3 if loss == name else 1
        torch.testing.assert_close(heavy.parts[loss], factor * part)
    torch.testing.assert_close(heavy.total, sum(heavy.parts.values()))


def test_dropout_changes_the_captions_of_training_alone() -> None:
    """Else the sums above, made with dropout off, would say nothing of it."""
    model, batch = tiny_model({"experiment.dropout": 0.5}), tiny_batch()
    assert model(batch, 0.0).total.item() != model(batch, 0.0).total.item()
    model.eval()
    assert model(batch, 0.0).total.item() == model(batch, 0.0).total.item()


@pytest.mark.parametrize("switches", NEEDS)
def test_each_view_and_caption_that_a_loss_needs_is_encoded_once_and_no_other(switches: str) -> None:
    model = tiny_model(switched_on(switches))
    images, captions = [], []
    model.clip.visual.register_forward_pre_hook(lambda _, inputs: images.append(inputs[0]))
    model.clip.text.register_forward_pre_hook(lambda _, inputs: captions.append(inputs[0]))
    batch = tiny_batch()  # it has all views and captions, needed or not
    output = model(batch, SOFT_LABEL)
    assert output.parts.keys() == set(switches.split()) & set(LOSSES)

    wanted = NEEDS[switches]
    assert model.inputs - {"tokens", "tokens2", "masked_tokens"} == set(wanted)
    assert bool(images) == bool(wanted)
    if wanted:
        rows = torch.cat(images).split(NUM_ROWS)
        assert len(rows) == len(wanted)
        for view, pixels in zip(wanted, rows, strict=True):
            assert torch.equal(pixels, batch.images[view]), view
    assert sum(map(len, captions)) == TEXTS.get(switches, 1) * NUM_ROWS
    assert len(captions) <= 2


@pytest.mark.parametrize("switches", NEEDS)
def test_a_batch_with_no_more_than_the_needed_inputs_has_the_same_losses(switches: str) -> None:
    model, more = tiny_model(switched_on(switches)), tiny_batch()
    names = switches.split()
    two_captions = "ss_text" in names or {"nitc", "mvs_text"} <= set(names)
    less = replace(
        more,
        images={view: more.images[view] for view in NEEDS[switches]},
        tokens2=more.tokens2 if two_captions else None,
        masked_tokens=more.masked_tokens if "mlm" in names else None,
        mlm_labels=more.mlm_labels if "mlm" in names else None,
    )
    assert model(less, SOFT_LABEL).total.item() == model(more, SOFT_LABEL).total.item()


def test_mlm_without_a_masked_token_is_zero_and_all_gradients_are_finite() -> None:
    model = tiny_model(switched_on("mlm"))
    output = model(tiny_batch(is_masked=False), SOFT_LABEL)
    output.total.backward()
    assert output.total.item() == 0
    assert output.report["masked_share"].item() == 0
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert torch.isfinite(parameter.grad).all(), name


READERS = {  # input of the batch -> the losses that read it, all of them and both kinds of MVS being on
    "view1": "nitc ritc citc mlm id cid sdm tal tse sigmoid",
    "view2": "nitc",
    "simclr1": "ss",
    "simclr2": "ss",
    "tokens": "nitc ritc citc ss_text id cid sdm tal tse sigmoid",  # never the masked captions
    "tokens2": "nitc ss_text",
    "masked_tokens": "mlm",
    "mlm_labels": "mlm",
    "person_ids": "nitc ritc id cid sdm tal tse sigmoid",
}


@pytest.mark.parametrize("name", READERS)
def test_each_input_reaches_the_losses_that_are_defined_on_it_and_no_other(name: str) -> None:
    model, batch = tiny_model(switched_on(EVERYTHING)), tiny_batch()
    if name in batch.images:
        other = replace(batch, images={**batch.images, name: batch.images[name].flip(0)})
    elif name == "mlm_labels":
        other = replace(batch, mlm_labels=torch.where(batch.mlm_labels == -100, -100, 7))
    elif name == "person_ids":
        other = replace(batch, person_ids=batch.person_ids.flip(0))
    else:
        other = replace(batch, **{name: {key: rows.flip(0) for key, rows in getattr(batch, name).items()}})
    before, after = model(batch, SOFT_LABEL).parts, model(other, SOFT_LABEL).parts
    assert {loss for loss in TOGETHER if before[loss] != after[loss]} == set(READERS[name].split())


def test_padding_is_not_read_by_mlm() -> None:
    model, batch = tiny_model(switched_on("mlm")), tiny_batch()
    padded = {name: F.pad(values, (0, 2)) for name, values in batch.masked_tokens.items()}
    padded["input_ids"][:, -2:] = 777
    longer = replace(batch, masked_tokens=padded, mlm_labels=F.pad(batch.mlm_labels, (0, 2), value=-100))
    torch.testing.assert_close(model(longer, SOFT_LABEL).total, model(batch, SOFT_LABEL).total)


def test_the_scale_is_clamped_to_a_hundred() -> None:
    model = tiny_model(switched_on("nitc"))
    with torch.no_grad():
        model.clip.logit_scale.fill_(7.0)
    output = model(tiny_batch(), 0.0)
    assert output.report["logit_scale"].item() == pytest.approx(100, rel=1e-5)
    assert model.clip.logit_scale.exp().item() == pytest.approx(100, rel=1e-5)


def test_the_order_of_rows_in_a_batch_does_not_matter() -> None:
    whole, order = tiny_batch(), torch.tensor([3, 0, 7, 1, 6, 2, 5, 4])
    other = whole.map(lambda tensor: tensor[order])
    model = tiny_model(switched_on(EVERYTHING))
    torch.testing.assert_close(model(other, SOFT_LABEL).parts, model(whole, SOFT_LABEL).parts)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_under_autocast_every_loss_is_formed_in_fp32_with_finite_gradients(half: torch.dtype) -> None:
    model = tiny_model(switched_on(EVERYTHING))
    with torch.autocast("cpu", dtype=half):
        output = model(tiny_batch(), SOFT_LABEL)
    assert {part.dtype for part in output.parts.values()} == {torch.float32}
    output.total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name
    plain = tiny_model(switched_on(EVERYTHING))(tiny_batch(), SOFT_LABEL)
    for name, part in output.parts.items():
        torch.testing.assert_close(part, plain.parts[name], rtol=0.1, atol=0.1, msg=name)
