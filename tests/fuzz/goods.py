"""The good inputs that cases are made from: data, a run, weights in every container, features, an index."""

import contextlib
import io
import json
import warnings
from pathlib import Path

import torch
from PIL import Image

from data.synthetic.write import Parameters, generate
from main import main
from misc.export.__main__ import main as export
from misc.search.__main__ import main as search
from tests.helpers.openai_format import save_torchscript
from tests.helpers.released import tbps_clip
from tests.helpers.tiny_config import write_config

FORMATS = {"JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "WEBP": ".webp", "GIF": ".gif", "TIFF": ".tif"}


def make_goods(folder: Path) -> Path:
    """Fill `folder`, without output."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _make_data(folder)
        _make_weights(folder)
    return folder


def _make_data(folder: Path) -> None:
    generate(folder / "people", Parameters(7, 0, 2, 2, images_per_identity=2))
    changes = {"schedule": {"epoch": 1}, "data": {"image_size": [32, 32], "batch_size": 4}}
    write_config(folder / "config.yaml", folder / "people", width=8, **changes)
    with Image.open(sorted((folder / "people" / "imgs").rglob("*.jpg"))[0]) as image:
        (folder / "images").mkdir()
        for name, suffix in FORMATS.items():
            image.save(folder / "images" / f"good{suffix}", name)


def _make_weights(folder: Path) -> None:
    config = ["--config", str(folder / "config.yaml")]
    _run(main, [*config, "--output-dir", str(folder / "run")])
    run = folder / "run" / "checkpoint_last.pth"
    features = ["--save-features", str(folder / "features"), "--output-dir", str(folder / "evaluated")]
    _run(main, [*config, "--evaluate", str(run), *features])
    _run(search, ["index", str(run), str(folder / "people" / "imgs"), "--out", str(folder / "index")])
    for name in ("huggingface", "safetensors"):
        _run(export, [str(run), str(folder / name), "--format", name])
    weights = torch.load(run, weights_only=True)["model"]
    ours = {name.removeprefix("clip."): tensor for name, tensor in weights.items() if "clip." in name}
    plain = {name.removeprefix("text."): tensor for name, tensor in ours.items()}
    save_torchscript(plain, folder / "archive.pt")
    torch.save(plain, folder / "plain.pt")
    torch.save({"model": ours}, folder / "old.pt", _use_new_zipfile_serialization=False)
    torch.save(tbps_clip(ours, image_size=(32, 32)), folder / "released.pth")


def _run(program: object, arguments: list[str]) -> None:
    assert program(arguments) == 0, arguments


def splits_of(people: Path) -> dict[str, list[dict[str, object]]]:
    """{split: records} of the English annotations."""
    return {
        split: json.loads((people / f"{split}_reid_en.json").read_text(encoding="utf-8"))
        for split in ("train", "val", "test")
    }
