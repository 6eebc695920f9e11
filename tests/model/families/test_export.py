"""Families of transformers exported to Hugging Face: the code of the README gives the features of the run."""

import contextlib
import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from misc.export.__main__ import main
from misc.export.source import Source, load_source
from model import build_model
from options import load_options, to_dict

Families = Callable[[str], Path]
CAPTIONS = ["A man.", "a WOMAN in a long red coat, with black shoes and a white bag &amp; a blue hat " * 3]


def save_run(folder: Path, path: Path, **settings: object) -> Path:
    """A checkpoint of a run of the simplified recipe that has just begun."""
    overrides = {"model.backbone": "transformers", "model.transformers_pretrained": folder, **settings}
    options = load_options("config/s.config.yaml", [f"{key}={value}" for key, value in overrides.items()])
    model, *_ = build_model(options, 3)
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    torch.save({"model": model.state_dict(), "options": to_dict(options)}, path)
    return path


def by_readme(folder: Path, source: Source) -> tuple[torch.Tensor, torch.Tensor]:
    """(text, image) features by the code of the README, in that folder."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    code = code.replace('FOLDER = "."', f"FOLDER = {str(folder)!r}")
    code = re.sub(r"^captions = .*$", "captions = [clean(caption) for caption in CAPTIONS]", code, flags=re.M)
    code = re.sub(r"^images = .*$", "images = IMAGES", code, flags=re.M)
    names = {"CAPTIONS": CAPTIONS, "IMAGES": source.images[:2]}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(code, "README.md", "exec"), names)
    return names["text_features"], names["image_features"]


@pytest.mark.parametrize(
    ("name", "size"), [("siglip2", (48, 16)), ("siglip", (48, 48)), ("chinese_clip", (48, 48))]
)
def test_the_code_of_the_readme_gives_our_features(
    families: Families, name: str, size: tuple[int, int], tmp_path: Path
) -> None:
    checkpoint = save_run(families(name), tmp_path / "run.pth", **{"data.image_size": list(size)})
    assert main([str(checkpoint), str(tmp_path / "out"), "--format", "huggingface"]) == 0
    source = load_source(checkpoint, None, ())
    text_features, image_features = by_readme(tmp_path / "out", source)
    with torch.no_grad():
        captions, images = source.encode_text(CAPTIONS), source.processor(images=source.images[:2])
        expected = source.model.embed(images["pixel_values"])
    assert (F.normalize(expected)[0] - F.normalize(expected)[1]).abs().max() > 0.01
    torch.testing.assert_close(F.normalize(image_features), F.normalize(expected), atol=1e-4, rtol=0)
    torch.testing.assert_close(F.normalize(text_features), F.normalize(captions), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["siglip2", "metaclip_2"])
def test_an_onnx_graph_takes_any_batch(families: Families, name: str, tmp_path: Path) -> None:
    """The program compares features over batches of one and of three; none is written where they differ."""
    pytest.importorskip("onnxruntime")
    checkpoint = save_run(families(name), tmp_path / "run.pth", **{"data.image_size": [48, 16]})
    assert main([str(checkpoint), str(tmp_path / "out"), "--format", "onnx"]) == 0


def test_what_the_class_of_transformers_cannot_say_is_refused(
    families: Families, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tall = save_run(families("siglip"), tmp_path / "tall.pth", **{"data.image_size": [48, 16]})
    assert main([str(tall), str(tmp_path / "out"), "--format", "huggingface"]) == 2
    assert "expected a square for --format huggingface, found 48, 16" in capsys.readouterr().err
    short = save_run(families("siglip2"), tmp_path / "short.pth", **{"experiment.text_length": 9})
    assert main([str(short), str(tmp_path / "out"), "--format", "huggingface"]) == 2
    assert "experiment.text_length: expected 24 for --format huggingface, found 9" in capsys.readouterr().err
