"""What the benchmark measures against is the same method: losses, gradients, features and figures."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from misc import metrics
from misc.benchmark import baseline
from tests.helpers.gradients import assert_same_gradients, gradients
from tests.helpers.tiny import tiny_batch, tiny_model

SIMPLIFIED = {f"experiment.{name}": False for name in ("citc", "ss", "mvs_image")}


@pytest.mark.parametrize("recipe", [{}, SIMPLIFIED], ids=["full", "simplified"])
def test_the_baseline_has_the_losses_and_gradients_of_ours(recipe: dict[str, object]) -> None:
    batch = tiny_batch()
    model = tiny_model({**recipe, "experiment.dropout": 0.0})
    ours = model(batch, 0.3).total
    ours.backward()
    wanted = gradients(model)
    model.zero_grad()
    captions = baseline.without_padding(batch.tokens)
    total = baseline.total_loss(model, batch.images, captions, batch.person_ids, 0.3)
    total.backward()
    assert total.item() == pytest.approx(ours.item(), rel=1e-5)
    assert_same_gradients(gradients(model), wanted)


@torch.no_grad()
def test_its_features_are_those_of_the_towers() -> None:
    clip, batch = tiny_model({"experiment.dropout": 0.2}).clip.eval(), tiny_batch()
    images = baseline.encode_image(clip, batch.images["view1"])
    torch.testing.assert_close(images, clip.encode_image(batch.images["view1"]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        baseline.encode_text(clip, baseline.without_padding(batch.tokens)),
        clip.encode_text(batch.tokens),
        rtol=1e-4,
        atol=1e-5,
    )


def test_its_dropout_is_on_the_attention_weights_of_captions_in_training() -> None:
    model, batch = tiny_model({"experiment.dropout": 0.2}), tiny_batch()
    once, again = (baseline.encode_text(model.clip, baseline.without_padding(batch.tokens)) for _ in range(2))
    assert not torch.allclose(once, again)
    pixels = batch.images["view1"]
    assert torch.equal(*(baseline.encode_image(model.clip, pixels) for _ in range(2)))


def test_its_metrics_are_ours() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, gallery = torch.randn(50, 8, generator=generator), torch.randn(70, 8, generator=generator)
    setting = (queries, gallery, torch.arange(50) % 10, torch.arange(70) % 10)
    expected = metrics.retrieval_metrics(*setting)
    assert baseline.retrieval_metrics(*setting) == pytest.approx(expected, rel=1e-5)


def test_its_samples_have_four_normalised_views(tmp_path: Path) -> None:
    path = tmp_path / "gray.png"
    Image.new("RGB", (20, 40), (128, 128, 128)).save(path)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    (views,) = baseline.training_samples([path], (64, 32), mean, std)
    assert tuple(views) == baseline.VIEWS
    gray = (128 / 255 - torch.tensor(mean)) / torch.tensor(std)
    for pixels in views.values():
        assert pixels.shape == (3, 64, 32)
        assert pixels.dtype == torch.float32
        close = (pixels - gray[:, None, None]).abs().amax(dim=0) < 1.3  # black is 2.5 away
        assert close.float().mean() > 0.5


def test_each_parameter_has_a_group_of_its_own() -> None:
    model = tiny_model({})
    groups = baseline.build_optimizer(model, 0.02).param_groups
    assert len(groups) == sum(p.requires_grad for p in model.parameters())
    assert {(group["params"][0].ndim > 1, group["weight_decay"]) for group in groups} == {
        (True, 0.02),
        (False, 0.0),
    }
