"""The AltCLIP smoke test from the command line: its report, and one line for what is missing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from misc import quick_start
from misc.quick_start import TEXTS
from misc.quick_start_altclip import main
from tests.helpers.altclip_folders import cache_root, copied
from tests.helpers.tiny import TOGETHER


def check_report(out: str, texts: tuple[str, ...]) -> None:
    for text in texts:
        (row,) = [line for line in out.splitlines() if line.endswith(f" {text}") and "image" not in line]
        values = [float(word) for word in row.split()[:2]]
        assert all(-1 <= value <= 1 for value in values)
        assert values[0] != values[1]
    assert "cosine similarity" in out
    assert re.search(r"^logit_scale 14\.2\d, logit_bias 0\.0$", out, re.MULTILINE)
    assert re.search(r"^embedding 64: images \(2, 64\), captions \(2, 64\)$", out, re.MULTILINE)
    for name in (name for name in TOGETHER if name != "mlm"):
        row = re.search(rf"^{name} +(\S+) +(\S+)$", out, re.MULTILINE)
        assert row, name
        assert all(float(value) >= 0 for value in row.groups()), name
    nitc = re.search(r"^nitc +(\S+) +(\S+)$", out, re.MULTILINE)
    assert nitc[1] != nitc[2]
    assert "verdict: random weights of a small model loaded, all tensors used and none new" in out


def test_tiny_runs_as_a_file_from_another_folder(tmp_path: Path) -> None:
    file = Path("misc/quick_start_altclip.py").resolve()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    pipes = {"capture_output": True, "text": True, "encoding": "utf-8"}
    command = [sys.executable, str(file), "--tiny"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, check=False, **pipes)
    assert run.returncode == 0, run.stderr
    check_report(run.stdout, TEXTS)
    assert "CPU" not in run.stdout


def test_weights_that_are_missing_are_one_line_and_status_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "config.json").write_text('{"model_type": "clip"}')
    for arguments, expected in {
        ("--altclip_pretrained", str(tmp_path / "no" / "folder")): (
            *("no/folder", "does not exist", "huggingface-cli download"),
        ),
        ("--altclip_pretrained", str(tmp_path / "clip")): ("clip", "an AltCLIP is expected"),
        (): ("BAAI/AltCLIP", "huggingface-cli download", "model.altclip_pretrained"),  # offline
    }.items():
        assert main(arguments) == 2
        captured = capsys.readouterr()
        (line,) = captured.err.splitlines()
        assert line.startswith("error: ")
        for word in expected:
            assert word in line
        assert "verdict" not in captured.out


def test_images_and_captions_of_ones_own_are_compared(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "left.png", tmp_path / "right.jpg", tmp_path / "third.png"]
    for number, file in enumerate(files):
        Image.new("RGB", (20 + number, 50), (90 * number, 40, 200)).save(file)
    arguments = ["--altclip_pretrained", str(folder), "--text", "a man", "ein Mann"]
    assert main([*arguments, "--image", *map(str, files)]) == 0
    out = capsys.readouterr().out
    for number, file in enumerate(files, start=1):
        assert f"image {number}: {file.name}" in out
    (row,) = [line for line in out.splitlines() if line.endswith(" ein Mann")]
    assert len(row.split()) == 3 + 2
    assert f"verdict: the weights of {folder} loaded" in out
    assert main([*arguments, "--image", str(files[0])]) == 0
    assert "two pairs" in capsys.readouterr().out


def test_the_figures_are_those_of_the_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch
    from torch.nn import functional as F

    from data.synthetic.render import render_people
    from model.altclip_adapter import build_altclip_clip

    assert main(["--altclip_pretrained", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    clip, tokenizer, processor = build_altclip_clip(folder)
    clip.eval()
    images = processor(images=[image for _, image in render_people(2)], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        texts = F.normalize(clip.encode_text(tokenizer(list(TEXTS))), dim=1)
        expected = texts @ F.normalize(clip.encode_image(images), dim=1).T
    for text, values in zip(TEXTS, expected.tolist(), strict=True):
        (row,) = [line for line in lines if line.endswith(f" {text}") and "image" not in line]
        assert [float(word) for word in row.split()[:2]] == pytest.approx(values, abs=1e-4)


def test_a_cache_root_and_a_folder_without_processor_files_load(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = copied(folder, tmp_path / "bare", ("preprocessor_config.json", "processor_config.json"))
    for pretrained in (bare, cache_root(folder, tmp_path / "cache")):
        assert main(["--altclip_pretrained", str(pretrained), "--text", "a", "b"]) == 0
        assert "all tensors used and none new" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--image", "none.png"], "none.png"),
        (["--device", "no-such-device", "--text", "a"], None),
        (["--device", "cuda:99", "--text", "a"], None),
        (["--tiny", "--altclip_pretrained", "x"], "not allowed with"),
        (["--texts", "a"], "--texts"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(
    folder: Path, arguments: list[str], expected: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrained = [] if "--tiny" in arguments else ["--altclip_pretrained", str(folder)]
    status = main([*arguments, *pretrained])
    captured = capsys.readouterr()
    if expected is None:
        assert status == 0
        assert f"device {arguments[1]} is not available: falling back to the CPU" in captured.out
    else:
        assert status == 2
        (line,) = captured.err.strip().splitlines()
        assert expected in line


def test_any_backbone_is_built_from_options_and_compared(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = [
        *("model.clip_pretrained=null", "model.image_layers=1", "model.text_layers=1", "model.embed_dim=64"),
        *("model.image_width=64", "model.text_width=64", "data.image_size=[64,32]"),
    ]
    for overrides, sizes, verdict in (
        (
            small,
            "images 64 x 32, 4 x 2 patches; captions of at most 77 tokens of 49,408, cleaning",
            "random weights work",
        ),
        (
            ["model.backbone=altclip", f"model.altclip_pretrained={folder}", "data.image_size=[64,32]"],
            "images 64 x 32",
            f"the weights of {folder} work",
        ),
    ):
        assert quick_start.main([*overrides, "--text", "a man", "a woman"]) == 0
        out = capsys.readouterr().out
        assert sizes in out
        assert re.search(r"^nitc +\d", out, re.MULTILINE)
        assert f"verdict: {verdict}" in out
    assert quick_start.main(["model.backbone=nothing"]) == 2
    assert "model.backbone: expected one of" in capsys.readouterr().err
