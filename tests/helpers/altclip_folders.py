"""For tests: one small AltCLIP, written once, copies of it with something changed, what is fed to it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F

from data.types import Batch
from misc.tiny_altclip import make_tiny_altclip, synthetic_captions
from model.altclip_adapter import AltCLIP, build_altclip_clip
from options import LOSSES, Options, load_options
from text_utils.tokenizer import AltCLIPTokenizer

EMBED_DIM, IMAGE_SIZE, PATCH_SIZE, TEXT_LENGTH = 24, 32, 8, 77
WEIGHTS = "model.safetensors"
SWITCHES = (*LOSSES, "mvs_image", "mvs_text")
COMMIT = "0123abc"
CAPTIONS = (
    "a man",
    "a woman in a long red coat and black shoes carries a white bag over her left shoulder",
    "红色上衣的女生",
    "ein Mann mit blauer Jacke",
    "",
)


def write_altclip(folder: Path, width: int = 32, embed_dim: int = EMBED_DIM, seed: int = 0) -> None:
    """A small AltCLIP whose tokenizer knows the captions of 60 people."""
    sizes = {"image_size": IMAGE_SIZE, "patch_size": PATCH_SIZE, "text_length": TEXT_LENGTH}
    captions = synthetic_captions(60)
    make_tiny_altclip(folder, captions, vocab_size=600, width=width, embed_dim=embed_dim, seed=seed, **sizes)


def copied(folder: Path, to: Path, without: tuple[str, ...] = ()) -> Path:
    """A copy of a model folder that lacks the files `without`."""
    return Path(shutil.copytree(folder, to, ignore=shutil.ignore_patterns(*without)))


def with_tensors(folder: Path, to: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    """A copy of a model folder with other tensors."""
    copied(folder, to, (WEIGHTS,))
    tensors = change(safetensors.torch.load_file(folder / WEIGHTS))
    safetensors.torch.save_file(tensors, to / WEIGHTS, metadata={"format": "pt"})
    return to


def cache_root(folder: Path, root: Path, name: str = "models--BAAI--AltCLIP", commit: str = COMMIT) -> Path:
    """What `from_pretrained(..., cache_dir=root)` leaves behind: snapshots of links to blobs, and refs."""
    model, snapshot = root / name, root / name / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (model / "blobs").mkdir(exist_ok=True)
    for file in folder.iterdir():
        blob = model / "blobs" / f"{commit}-{file.name}"
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(f"../../blobs/{blob.name}")
    (model / "refs").mkdir(exist_ok=True)
    (model / "refs" / "main").write_text(commit)
    return root


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_HUB_OFFLINE=1 does, also where the hub's library has read its environment already."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def build(folder: Path, height: int = IMAGE_SIZE, width: int = IMAGE_SIZE, **settings: Any) -> AltCLIP:
    """The model in evaluation mode."""
    return build_altclip_clip(folder, image_size=(height, width), **settings)[0].eval()


def tokens_of(folder: Path, texts: tuple[str, ...] = CAPTIONS) -> dict[str, Tensor]:
    return AltCLIPTokenizer(str(folder), TEXT_LENGTH)(list(texts))


def pixels(rows: int, height: int = IMAGE_SIZE, width: int = IMAGE_SIZE) -> Tensor:
    return torch.randn(rows, 3, height, width, generator=torch.Generator().manual_seed(0))


def batch_of(folder: Path, person_ids: tuple[int, ...] = (0, 1, 0, 2)) -> Batch:
    """Random images, with captions of different lengths, the second ones longer."""
    rows = len(person_ids)
    views = pixels(4 * rows).chunk(4)
    return Batch(
        images=dict(zip(("view1", "view2", "simclr1", "simclr2"), views, strict=True)),
        tokens=tokens_of(folder, CAPTIONS[:rows]),
        person_ids=torch.tensor(person_ids),
        indices=torch.arange(rows),
        tokens2=tokens_of(folder, tuple(f"{text} and white shoes" for text in CAPTIONS[:rows])),
    )


def settings(folder: Path, *switched_on: str, **others: object) -> Options:
    """The options of AltCLIP with these losses and variants alone."""
    overrides = {f"experiment.{name}": str(name in switched_on).lower() for name in SWITCHES}
    overrides |= {
        "model.altclip_pretrained": folder,
        "data.image_size": [IMAGE_SIZE, IMAGE_SIZE],
        "experiment.dropout": 0,
        "experiment.grab_blocks": [0, 1],
        "model.lock_patch_embedding": "false",
        "misc.device": "cpu",
        "data.num_workers": 0,
    }
    overrides |= {key.replace("__", "."): value for key, value in others.items()}
    return load_options("config/altclip.yaml", [f"{key}={value}" for key, value in overrides.items()])


def largest_cosine(features: Tensor) -> float:
    """Of two different rows."""
    features = F.normalize(features.detach(), dim=1)
    return (features @ features.T - 2 * torch.eye(len(features))).max().item()


def of_people(people: Path, **others: object) -> dict[str, object]:
    """The options of the rendered data set."""
    paths = {"data__annotation_file": people, "data__image_root": people / "imgs", "data__batch_size": 6}
    return {**paths, **others}
