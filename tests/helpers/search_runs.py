"""A small model as a run leaves it, its encoder, and folders of images to search."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from misc.search.encoder import Encoder, load_encoder
from model import build_model
from options import load_options, to_dict
from tests.helpers.tiny import SIZES

SETTINGS = SIZES | {"misc.device": "cpu", "data.test_batch_size": 4}


def save_run(path: Path, seed: int = 0, **settings: Any) -> Path:
    """A checkpoint of a random model of the lean recipe with `SETTINGS` and `settings`."""
    overrides = [f"{key}={value}" for key, value in (SETTINGS | settings).items()]
    options = load_options("config/s.config.yaml", overrides)
    torch.manual_seed(seed)
    model, _, _ = build_model(options, num_identities=3)
    for parameter in model.clip.parameters():  # features that differ between images
        parameter.data += 0.2 * torch.randn_like(parameter)
    torch.save({"model": model.state_dict(), "options": to_dict(options)}, path)
    return path


def small_encoder(folder: Path, seed: int = 0) -> Encoder:
    return load_encoder(save_run(folder / f"run {seed}.pth", seed))


def save_image(path: Path, seed: int, size: tuple[int, int] = (8, 16)) -> Path:
    """An image of its own; in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def image_folder(folder: Path, count: int = 10) -> Path:
    """Images a/00.png, b/01.png, a/02.png ..."""
    for number in range(count):
        save_image(folder / "ab"[number % 2] / f"{number:02d}.png", number)
    return folder
