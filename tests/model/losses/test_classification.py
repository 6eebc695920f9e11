"""ID and CID on each embedding that test time uses, against float64 loops."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model import build_model
from model.heads import TokenSelection
from model.objective import Pairs
from model.tbps import TBPS
from model.weights.heads import places
from options import load_options
from tests.helpers import references
from tests.helpers.gradients import SOFT_LABEL
from tests.helpers.tiny import ALL_OFF, NUM_PERSONS, PERSONS, SIZES, tiny_batch, tiny_model

EMBEDDINGS, LAYERS = ("", "/tse_head"), ("mlp.0", "mlp.1", "classifier")
BOTH = ALL_OFF | {
    **{f"experiment.{name}": True for name in ("tal", "tse", "id", "cid")},
    "experiment.tse_width": 4,
    "experiment.tse_batchnorm": "trained",
    "experiment.id_on": "all",
}
Arrays = dict[str, np.ndarray]


def model_of(settings: dict[str, object]) -> TBPS:
    """With classifiers that are not close to 0."""
    model = tiny_model(BOTH | settings)
    for name in ("id", "cid"):
        for parameter in model.objectives[name].fast_parameters():
            torch.nn.init.normal_(parameter)
    return model


def pairs_of(model: TBPS, persons: tuple[int, ...] = PERSONS) -> Pairs:
    batch = tiny_batch()
    batch.person_ids = torch.tensor(persons)
    return model.gather(model.encode(batch)[0], batch, SOFT_LABEL)


def reference(name: str, p: Arrays, persons: tuple[int, ...], no_match: int = NUM_PERSONS) -> float:
    """The sum over the embeddings, of features and weights by name."""
    losses = []
    for end in EMBEDDINGS:
        images, texts = p[f"view1{end}"], p[f"tokens{end}"]
        if name == "id":
            layer = "classifier" + end.replace("/", ".")
            w, b = p[f"{layer}.weight"], p[f"{layer}.bias"]
            losses.append(references.identity(images @ w.T + b, texts @ w.T + b, persons))
        else:
            head = f"cid_head.{end[1:] or 'pooled'}"
            names = [f"{head}.{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")]
            losses.append(references.cid(images, texts, persons, no_match, [p[n] for n in names]))
    return sum(losses)


def values_of(model: TBPS, pairs: Pairs) -> dict[str, Tensor]:
    """The features that the losses read, and the weights of their heads."""
    names = [f"{name}{end}" for name in ("view1", "tokens") for end in EMBEDDINGS]
    features = {name: pairs.features[name] for name in names}
    return features | {n: p for n, p in model.named_parameters() if n.startswith(("classifier", "cid_head"))}


@pytest.mark.parametrize("name", ["id", "cid"])
def test_both_embeddings_have_the_loss_and_the_gradients_of_the_loops(name: str) -> None:
    model = model_of({})
    pairs = pairs_of(model)
    values = values_of(model, pairs)
    p = {key: tensor.detach().double().numpy() for key, tensor in values.items()}
    loss = model.losses(pairs)[name]
    assert loss.item() == pytest.approx(reference(name, p, PERSONS), rel=1e-6)
    read = [key for key in values if not key.startswith("classifier" if name == "cid" else "cid_head")]
    found = torch.autograd.grad(loss, [values[key] for key in read])
    for key, gradient in zip(read, found, strict=True):
        wanted = references.finite_differences(lambda: reference(name, p, PERSONS), p[key])
        np.testing.assert_allclose(gradient, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max(), err_msg=key)


def test_an_embedding_is_computed_once_for_all_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, forward = [], TokenSelection.forward
    monkeypatch.setattr(TokenSelection, "forward", lambda *args: calls.append(1) or forward(*args))
    model_of({})(tiny_batch(), SOFT_LABEL).total.backward()
    assert len(calls) == 2  # images and captions


@pytest.mark.parametrize(
    ("no_match", "persons", "label"),
    [
        ("own", (0, 1, 2, 1, 0, 2, 1, 2), NUM_PERSONS),
        ("release", (0, 1, 2, 1, 0, 2, 1, 2), 3),  # the class of a person who is not in the batch
        ("release", PERSONS, NUM_PERSONS),
    ],
)
def test_hard_pairs_are_of_a_class_of_their_own_or_as_in_the_release_of_the_next_person(
    no_match: str, persons: tuple[int, ...], label: int
) -> None:
    model = model_of({"experiment.cid_no_match": no_match})
    pairs = pairs_of(model, persons)
    p = {key: tensor.detach().double().numpy() for key, tensor in values_of(model, pairs).items()}
    losses = model.losses(pairs)
    assert losses["cid"].item() == pytest.approx(reference("cid", p, persons, label), rel=1e-6)
    # The classifiers of the release have a class more; no sample is of it.
    assert (
        len(p["classifier.bias"])
        == len(p["classifier.tse_head.bias"])
        == NUM_PERSONS + (no_match == "release")
    )
    assert losses["id"].item() == pytest.approx(reference("id", p, persons), rel=1e-6)


def test_a_batch_of_one_person_has_no_hard_pairs_and_trains_on_its_own() -> None:
    model = model_of({})
    alone = (3,) * len(PERSONS)
    pairs = pairs_of(model, alone)
    p = {key: tensor.detach().double().numpy() for key, tensor in values_of(model, pairs).items()}
    loss = model.losses(pairs)["cid"]
    assert loss.item() == pytest.approx(reference("cid", p, alone), rel=1e-6)
    loss.backward()
    for name, parameter in model.cid_head.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


def test_pooled_features_alone_have_the_classifier_of_irra_and_its_names() -> None:
    model = tiny_model(BOTH | {"experiment.id_on": "pooled"})
    assert type(model.classifier) is torch.nn.Linear
    assert [name for name, _ in model.classifier.named_parameters()] == ["weight", "bias"]
    assert model.classifier.out_features == NUM_PERSONS
    assert {name for name, _ in model.cid_head.named_children()} == {"pooled"}


def test_all_embeddings_without_another_one_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    tiny_model(BOTH)
    assert "experiment.id_on" not in caplog.text
    tiny_model(BOTH | {"experiment.tse": False})
    assert caplog.text.count("experiment.id_on=all has no effect") == 1


POOLED = ALL_OFF | {"experiment.tal": True, "experiment.id": True, "experiment.cid": True}
RELEASE = POOLED | {"experiment.cid_no_match": "release"}


def loaded(path: Path, settings: dict[str, object], persons: int = NUM_PERSONS) -> dict[str, Tensor]:
    """The state of a model whose training begins from a file; of 0 persons, of one that is evaluated."""
    overrides = [f"{key}={value}" for key, value in (SIZES | settings).items()]
    options = load_options("config/config.yaml", [*overrides, f"model.clip_pretrained={path}"])
    return build_model(options, persons, None if persons else str(path))[0].state_dict()


@pytest.mark.parametrize("ending", ["global", "bge"])
def test_training_goes_on_from_the_classifiers_of_itself(
    tmp_path: Path, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of a model without its second embedding."""
    names = {"classifier.": f"classifier_id_{ending}."}
    names |= {f"cid_head.pooled.{part}.": f"{part}_{ending}." for part in ("mlp", "classifier")}
    saved = tiny_model(RELEASE).state_dict()
    state = dict(saved)
    for ours, theirs in names.items():
        for name in [name for name in state if name.startswith(ours)]:
            state[theirs + name.removeprefix(ours)] = state.pop(name) + 1
    torch.save({"model": state}, tmp_path / "best.pth")

    torch.manual_seed(5)
    found = loaded(tmp_path / "best.pth", RELEASE)
    assert found.keys() == saved.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, saved[name] + name.startswith(tuple(names))), name
    with caplog.at_level(logging.INFO):
        loaded(tmp_path / "best.pth", POOLED)
        assert all(name.startswith("clip.") for name in loaded(tmp_path / "best.pth", POOLED, persons=0))
    assert "loaded cid_head (6)" in caplog.text
    assert "classifier starts from random weights: the file has 'classifier.bias' of sh" in caplog.text
    assert "not used: cid_head (6), which only training uses" in caplog.text


@pytest.mark.parametrize("ending", ["grab", "tse"])
def test_the_classifiers_of_the_second_embedding_of_itself_have_our_names(ending: str) -> None:
    names = (f"mlp_{ending}.0.weight", f"classifier_{ending}.bias", f"classifier_id_{ending}.bias")
    assert list(places(dict.fromkeys(names, torch.ones(1))).values()) == [
        ("cid_head", "cid_head.grab_head.mlp.0.weight"),
        ("cid_head", "cid_head.grab_head.classifier.bias"),
        ("classifier", "classifier.grab_head.bias"),
    ]
