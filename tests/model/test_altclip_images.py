"""AltCLIP's own preprocessing, in training as in evaluation."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from data.annotations import load_data
from data.datasets import Sample, seeded
from data.loaders import Loaders, build_loaders
from data.mixgen import mixgen
from model import build_model
from tests.helpers.altclip_folders import IMAGE_SIZE, of_people, settings


def original_pixels(folder: Path, paths: list[Path]) -> Tensor:
    from transformers import CLIPImageProcessor

    images = [Image.open(path).convert("RGB") for path in paths]
    return CLIPImageProcessor.from_pretrained(folder)(images=images, return_tensors="pt")["pixel_values"]


def loaders_of(folder: Path, people: Path, **others: object) -> Loaders:
    others["experiment__use_altclip_processor"] = "true"
    options = settings(folder, "nitc", **of_people(people, **others))
    model, tokenizer, processor = build_model(options, 10)
    assert processor.image_size == (IMAGE_SIZE, IMAGE_SIZE)
    return build_loaders(options, load_data(options), tokenizer, processor, model.inputs)


def test_training_and_evaluation_see_what_transformers_makes_of_the_files(folder: Path, people: Path) -> None:
    loaders = loaders_of(folder, people, experiment__image_aug="none")
    batch = next(iter(loaders.train))
    names = loaders.training_set.image_names(batch.indices.tolist())
    assert Image.open(people / "imgs" / names[0]).size[0] != IMAGE_SIZE
    expected = original_pixels(folder, [people / "imgs" / name for name in names])
    assert torch.equal(batch.images["view1"], expected)
    gallery = loaders.test
    expected = original_pixels(folder, [gallery.image_root / gallery.images[row] for row in (3, 1)])
    assert torch.equal(next(iter(loaders.images(gallery, [3, 1]))), expected)


def test_augmented_views_are_cropped_to_the_models_size(folder: Path, people: Path) -> None:
    loaders = loaders_of(folder, people, experiment__mvs_image="true", experiment__ss="true")
    batch = next(iter(loaders.train))
    assert batch.images.keys() == {"view1", "view2", "simclr1", "simclr2"}
    assert {values.shape for values in batch.images.values()} == {(6, 3, IMAGE_SIZE, IMAGE_SIZE)}
    assert not torch.equal(batch.images["view1"], batch.images["view2"])


@pytest.mark.parametrize("kind", ["ori", "cat"])
def test_images_of_different_sizes_mix_to_the_first_ones_size(kind: str) -> None:
    sizes = [(40, 20), (30, 18), (50, 24), (44, 21)]
    samples = [
        Sample({"view1": torch.full((3, *size), 60 * n, dtype=torch.uint8)}, f"caption {n}", n, n)
        for n, size in enumerate(sizes)
    ]
    mixed = mixgen(samples, seeded(0), kind, 1.0, 0.5)
    changed = [(a, b) for a, b in zip(samples, mixed, strict=True) if not torch.equal(*views(a, b))]
    assert changed
    assert all(len({v.shape for v in views(a, b)}) == 1 for a, b in changed)


def views(*samples: Sample) -> list[Tensor]:
    return [sample.images["view1"] for sample in samples]
