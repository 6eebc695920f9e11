"""Each value of `experiment.image_aug`, against an independent computation of what it says."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import RandomErasing, v2

from data.images.augment import IMAGE_VIEWS
from data.images.transforms import POOL
from options import IMAGE_AUGMENTATIONS

SIZE = (48, 20)
SINGLE = ("color_jitter", "rotation", "crop", "grayscale", "flip", "erasing")
POLICIES = {
    "autoaugment": v2.AutoAugment,
    "randaugment": lambda: v2.RandAugment(2, 9),
    "trivialaugment": v2.TrivialAugmentWide,
    "augmix": v2.AugMix,
}


def a_picture(height: int = 250, width: int = 100) -> Tensor:
    """Smooth coloured noise, (3, height, width) uint8."""
    noise = torch.rand(1, 3, 8, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(noise, (height, width), mode="bilinear")[0].mul(255).byte()


def views(name: str, pixels: Tensor, number: int = 30, size: tuple[int, int] = SIZE) -> list[Tensor]:
    return [IMAGE_VIEWS[name](pixels, size, random.Random(seed)) for seed in range(number)]


def resized(pixels: Tensor) -> Tensor:
    return IMAGE_VIEWS["none"](pixels, SIZE, random.Random(0))


def test_there_is_a_view_for_each_value_of_the_option() -> None:
    assert tuple(IMAGE_VIEWS) == IMAGE_AUGMENTATIONS


@pytest.mark.parametrize("name", IMAGE_AUGMENTATIONS)
@pytest.mark.parametrize("height_width", [(250, 100), (47, 21), (1, 50), (50, 1), (1, 1), SIZE])
def test_views_of_any_image_have_the_size_asked_for(name: str, height_width: tuple[int, int]) -> None:
    for size in (SIZE, (17, 33)):
        for view in views(name, a_picture(*height_width), 10, size):
            assert (view.shape, view.dtype) == ((3, *size), torch.uint8)


@pytest.mark.parametrize("name", IMAGE_AUGMENTATIONS)
def test_a_view_depends_on_its_generator_alone_and_leaves_all_else_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch, "manual_seed")  # it reseeds the GPUs' generators
    picture = a_picture(*SIZE)
    before = picture.clone()
    states = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].tolist()
    first, again = views(name, picture), views(name, picture)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(picture, before), "the image is shared by the views: none may write on it"
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    assert np.random.get_state()[1].tolist() == states[2]


@pytest.mark.parametrize(
    "name", sorted(set(IMAGE_AUGMENTATIONS) - {"none", "flip", "vertical_flip", "grayscale"})
)
def test_other_generators_make_other_views(name: str) -> None:
    different = {view.contiguous().numpy().tobytes() for view in views(name, a_picture(), 40)}
    assert len(different) > 10


def test_none_is_the_resize_alone() -> None:
    picture = a_picture()
    image = Image.fromarray(picture.permute(1, 2, 0).numpy()).resize(SIZE[::-1], Image.Resampling.BILINEAR)
    expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    for view in views("none", picture, 3):
        assert (view.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize(("name", "operation"), list(zip(SINGLE, POOL, strict=True)))
def test_a_single_operation_is_that_of_the_pool(name: str, operation: object) -> None:
    expected = [operation(resized(a_picture()), random.Random(seed)) for seed in range(30)]
    assert all(torch.equal(a, b) for a, b in zip(views(name, a_picture()), expected, strict=True))


def test_stack_is_all_six_operations_one_after_another() -> None:
    for seed, view in enumerate(views("stack", a_picture())):
        rng, expected = random.Random(seed), resized(a_picture())
        for operation in POOL:
            expected = operation(expected, rng)
        assert torch.equal(view, expected)


@pytest.mark.parametrize(("name", "axis"), [("flip", 2), ("vertical_flip", 1)])
def test_flips_mirror_half_of_the_views(name: str, axis: int) -> None:
    plain = resized(a_picture()).numpy()
    mirrored = np.flip(plain, axis)
    flips = [np.array_equal(view.numpy(), mirrored) for view in views(name, a_picture(), 1000)]
    stays = [np.array_equal(view.numpy(), plain) for view in views(name, a_picture(), 1000)]
    assert sum(flips) + sum(stays) == 1000
    assert sum(flips) == pytest.approx(500, abs=4 * 15.8)


def test_blur_softens_half_of_the_views_by_up_to_two_pixels() -> None:
    """A blurred step rises steepest at the step, by 255 / (sigma sqrt(2 pi)) a pixel."""
    step = torch.zeros(3, 40, 40, dtype=torch.uint8)
    step[:, :, 20:] = 255
    rises = [view[0, 20].int().diff().max().item() for view in views("blur", step, 1000, (40, 40))]
    sigmas = [255 / rise / (2 * torch.pi) ** 0.5 for rise in rises if rise < 255]
    assert 400 < len(sigmas) < 564  # below 0.2 or so nothing is seen: 500 less a few, 4 standard deviations
    assert 1.8 < max(sigmas) < 2.2
    assert min(sigmas) < 0.6


def test_hue_turns_colours_by_up_to_a_tenth_of_the_circle_and_nothing_else() -> None:
    red = torch.tensor([204, 51, 51], dtype=torch.uint8)[:, None, None].expand(3, 8, 8)
    colors = [view[:, 0, 0].tolist() for view in views("hue", red, 200, (8, 8))]
    assert all(max(color) >= 200 and min(color) <= 55 for color in colors)  # value and saturation stay
    assert all(color[0] >= 200 for color in colors)
    assert 120 < max(color[1] for color in colors) < 150  # 51 + 153 * 6 / 10
    assert 120 < max(color[2] for color in colors) < 150


@pytest.mark.parametrize("name", POLICIES)
def test_policies_are_those_of_torchvision_seeded_from_the_sample(name: str) -> None:
    policy = POLICIES[name]()
    for seed, view in enumerate(views(name, a_picture())):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random.Random(seed).getrandbits(63))
            expected = policy(resized(a_picture()))
        assert torch.equal(view, expected)


# What IRRA and RDE erase: CLIP's mean in the image that CLIP's statistics have normalised, as a pixel.
CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711])
ERASED = np.rint(255 * (CLIP_MEAN * CLIP_STD + CLIP_MEAN)).astype(np.uint8)[:, None, None]


def test_irra_flips_shifts_on_black_and_crops_back() -> None:
    """A view is, but for what is erased, one of the 2 x 21 x 21 crops of the padded image or its mirror."""
    coordinates = np.indices((30, 24)) + 1
    picture = np.stack([*coordinates, np.full((30, 24), 99)]).astype(np.uint8)
    padded = [np.pad(image, [(0, 0), (10, 10), (10, 10)]) for image in (picture, picture[..., ::-1])]
    crops = np.stack(
        [np.lib.stride_tricks.sliding_window_view(each, (3, 30, 24))[0] for each in padded]
    )  # (2, 21, 21, 3, 30, 24)
    found = []
    for view in views("irra", torch.from_numpy(picture), 300, (30, 24)):
        erased = (view.numpy() == ERASED).all(0)
        (place,) = np.argwhere(((crops == view.numpy()) | erased).all((3, 4, 5)))
        found.append(place)
    mirrored, tops, lefts = np.transpose(found)
    assert sum(mirrored) == pytest.approx(150, abs=4 * 8.7)
    assert set(tops) == set(lefts) == set(range(21))
    assert np.mean([tops, lefts]) == pytest.approx(10, abs=4 * 6.06 / 600**0.5)
    assert abs(np.corrcoef(tops, lefts)[0, 1]) < 4 / 300**0.5


def test_irra_erases_as_torchvision_does() -> None:
    """Half of the views, with the areas and aspects of its RandomErasing, in the colour that it leaves."""
    size, number = (192, 64), 1000
    white = torch.full((3, *size), 255, dtype=torch.uint8)
    masks = [(view.numpy() == ERASED).all(0) for view in views("irra", white, number, size)]
    ours = [(mask.any(1).sum(), mask.any(0).sum()) for mask in masks if mask.any()]
    assert all(mask.sum() in (0, mask.any(1).sum() * mask.any(0).sum()) for mask in masks)
    assert len(ours) == pytest.approx(number / 2, abs=4 * 16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = [RandomErasing.get_params(white, (0.02, 0.4), (0.3, 3.3), [0.0])[2:4] for _ in range(4000)]
    for measure in (lambda h, w: h * w / (size[0] * size[1]), lambda h, w: np.log(h / w)):
        one, other = (np.array([measure(*box) for box in boxes]) for boxes in (ours, theirs))
        error = other.std() * (1 / len(one) + 1 / len(other)) ** 0.5
        assert abs(one.mean() - other.mean()) < 4 * error
        assert one.std() == pytest.approx(other.std(), rel=0.15)
        assert one.min() == pytest.approx(other.min(), abs=0.15)
        assert one.max() == pytest.approx(other.max(), abs=0.15)
