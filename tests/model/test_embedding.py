"""A method that acts at test time: an objective whose head embeds, beside the pooled features."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model import build_model
from model.objectives import OBJECTIVES
from model.tbps import TBPS
from options import UserError, load_options
from tests.helpers.embedding_head import Largest
from tests.helpers.gradients import assert_same_gradients, in_parts, whole
from tests.helpers.tiny import SIZES, tiny_batch, tiny_model


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Options of a run with N-ITC and the objective above, which takes the place of TAL."""
    monkeypatch.setitem(OBJECTIVES, "tal", Largest)
    return {"experiment.tal": True, "experiment.mlm": True, "schedule.ratio_factor": 5}


def evaluated(settings: dict[str, object], weights: Path) -> TBPS:
    overrides = [f"{key}={value}" for key, value in (SIZES | settings).items()]
    model, _, _ = build_model(load_options("config/config.yaml", overrides), 0, str(weights))
    return model.eval()


def test_the_embedding_is_the_pooled_feature_and_the_heads_side_by_side(settings: dict[str, object]) -> None:
    model, batch = tiny_model(settings).eval(), tiny_batch()
    assert model.embed_dim == model.clip.embed_dim + 6
    pooled, tokens = model.clip.encode_image(batch.images["view1"], return_dense=True)
    wanted = torch.cat([F.normalize(pooled), F.normalize(model.largest(tokens).amax(dim=1))], dim=1)
    torch.testing.assert_close(model.embed(batch.images["view1"]), wanted)

    texts = model.embed(batch.tokens)
    assert texts.shape == (8, model.embed_dim)
    row, length = 1, int(batch.tokens["attention_mask"][1].sum())
    short = {name: values[row : row + 1, :length] for name, values in batch.tokens.items()}
    torch.testing.assert_close(model.embed(short)[0], texts[row])  # padding is not read


def test_without_such_a_head_the_embedding_is_the_pooled_feature() -> None:
    model, batch = tiny_model({}).eval(), tiny_batch()
    assert torch.equal(model.embed(batch.images["view1"]), model.clip.encode_image(batch.images["view1"]))
    assert torch.equal(model.embed(batch.tokens), model.clip.encode_text(batch.tokens))
    assert model.embed_dim == model.clip.embed_dim


@pytest.mark.parametrize("num_parts", [3, 8])
def test_a_batch_in_parts_has_the_gradients_of_the_whole(settings: dict[str, object], num_parts: int) -> None:
    expected, wanted = whole(tiny_model(settings), tiny_batch())
    output, found = in_parts(tiny_model(settings), tiny_batch(), num_parts)
    torch.testing.assert_close(output.parts, expected.parts)
    assert wanted["largest.weight"].any()
    assert_same_gradients(found, wanted)


def test_an_evaluation_loads_the_heads_that_act_at_test_time_and_builds_no_other(
    settings: dict[str, object], tmp_path: Path
) -> None:
    trained = tiny_model(settings).eval()
    torch.save({"model": trained.state_dict()}, tmp_path / "weights.pth")
    model = evaluated(settings, tmp_path / "weights.pth")
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"clip", "largest"}
    batch = tiny_batch()
    for inputs in (batch.images["view1"], batch.tokens):
        torch.testing.assert_close(model.embed(inputs), trained.embed(inputs))

    plain = evaluated({"experiment.mlm": True, "experiment.id": True}, tmp_path / "weights.pth")
    assert {name.split(".")[0] for name, _ in plain.named_parameters()} == {"clip"}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"weight": None}, "lacks 'largest.weight'"),
        ({"weight": torch.zeros(5, 8)}, r"has 'largest.weight' of shape \(5, 8\); \(6, 8\) is expected"),
        ({"more": torch.zeros(1)}, "has 'largest.more', which is not in the model"),
        ({"weight": None, "bias": None}, "has no largest; set experiment.tal=false, or"),
    ],
)
def test_a_head_that_does_not_fit_is_one_line(
    settings: dict[str, object], tmp_path: Path, change: dict[str, Tensor | None], problem: str
) -> None:
    state = tiny_model(settings).state_dict() | {f"largest.{name}": value for name, value in change.items()}
    state = {name: value for name, value in state.items() if value is not None}
    torch.save({"model": state}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=problem):
        evaluated(settings, tmp_path / "weights.pth")


def test_its_training_uses_no_more_than_its_inputs(settings: dict[str, object]) -> None:
    only = {f"experiment.{name}": False for name in ("nitc", "ritc", "citc", "ss", "mlm")}
    model = tiny_model(settings | only)
    assert model.inputs == {"view1", "tokens"}
    assert not model.clip.logit_scale.requires_grad
    assert not any(objective.fast_parameters() for objective in model.objectives.values())
