"""The restricted unpickler: it reads what torch wrote, refuses what would run something, and what it allows
cannot be abused.
"""

import os
import pickle
import re
import zipfile
from pathlib import Path

import easydict
import pytest
import torch

from main import main
from model.pickles import DTYPES, read_pickled
from model.pretrained import load_clip_weights
from options import UserError

LAYOUTS = {"zip": True, "old": False}


def save(content: object, path: Path, layout: str = "zip") -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=LAYOUTS[layout])
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_torch_saves_is_read_as_it_was(tmp_path: Path, layout: str) -> None:
    table = torch.arange(12).view(3, 4)
    tensors = {name: table.to(dtype) for name, dtype in DTYPES.items()}
    tensors |= {"row": table[1], "columns": table.T[1:3], "one": table[2, 3], "none": torch.ones(0, 4)}
    tensors["parameter"] = torch.nn.Parameter(torch.ones(2))
    plain = {"epoch": 3, "best": 1.5, "names": ["a", None], "random": (3, (1, 2)), "on": True, "raw": b"\xff"}
    content = read_pickled(save({"model": tensors, **plain}, tmp_path / "file.pth", layout))
    read = content.pop("model")
    assert content == plain
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor), name


def test_an_old_file_whose_numbers_end_early_or_are_not_announced_is_damaged(tmp_path: Path) -> None:
    whole = save({"a": torch.ones(4)}, tmp_path / "file.pth", "old").read_bytes()
    (tmp_path / "file.pth").write_bytes(whole[:-1])
    with pytest.raises(EOFError):
        read_pickled(tmp_path / "file.pth")
    key = re.search(rb"\]q.X(....)(\d+)q.a\.", whole)  # the list of keys, before the numbers
    assert key
    (tmp_path / "file.pth").write_bytes(whole[: key.start()] + b"]." + whole[key.end() :])
    with pytest.raises(pickle.UnpicklingError, match=r"not a file of torch\.save"):
        read_pickled(tmp_path / "file.pth")


def test_a_zip_that_compresses_its_numbers_is_not_misread(tmp_path: Path) -> None:
    path, squeezed = save({"a": torch.ones(400)}, tmp_path / "file.pth"), tmp_path / "squeezed.pth"
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(squeezed, "w", zipfile.ZIP_DEFLATED) as other:
        for name in archive.namelist():
            other.writestr(name, archive.read(name))
    with pytest.raises(zipfile.BadZipFile):
        read_pickled(squeezed)


class Runs:
    """Pickled, it asks for a call."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


def runs_eval(marker: Path) -> Runs:
    return Runs(eval, f"__import__('pathlib').Path({str(marker)!r}).touch()")


def hidden_in_easydict(marker: Path) -> easydict.EasyDict:
    """In the state of attributes, not among the items."""
    hidden = easydict.EasyDict(seed=1)
    vars(hidden)["seed"] = runs_eval(marker)
    return hidden


MALICIOUS = {
    "os.system": lambda marker: Runs(os.system, f"touch {marker}"),
    "eval": runs_eval,
    "exec": lambda marker: Runs(exec, f"open({str(marker)!r}, 'w')"),
    "open": lambda marker: Runs(open, str(marker), "w"),
    "getattr": lambda marker: Runs(getattr, runs_eval(marker), "call"),
    "importlib": lambda marker: Runs(__import__, "antigravity"),
    "torch.load": lambda marker: Runs(torch.load, str(marker)),
    "torch.utils": lambda marker: Runs(torch._utils._rebuild_wrapper_subclass, runs_eval(marker)),
    "hidden in a tensor's arguments": lambda marker: Runs(
        torch._utils._rebuild_tensor_v2, runs_eval(marker), 0, (1,), (1,), False, None
    ),
    "hidden in a parameter's hooks": lambda marker: Runs(
        torch._utils._rebuild_parameter, torch.ones(1), True, runs_eval(marker)
    ),
    "hidden in an EasyDict": hidden_in_easydict,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("place", ["model", "optimizer", "config"])
@pytest.mark.parametrize("kind", MALICIOUS)
def test_a_release_that_would_run_something_is_refused_and_runs_nothing(
    tmp_path: Path, kind: str, place: str, layout: str
) -> None:
    marker = tmp_path / "ran"
    content = {"model": {"a": torch.ones(1)}, "optimizer": {}, "config": easydict.EasyDict(seed=1)}
    content[place]["evil"] = MALICIOUS[kind](marker)
    path = save(content, tmp_path / "theirs.pth", layout)
    with pytest.raises(UserError, match=r"theirs.pth' is refused: it asks for '\S+', which no weights need"):
        load_clip_weights(path)
    assert not marker.exists()


def test_a_malicious_release_ends_an_evaluation_with_one_line(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = tmp_path / "ran"
    content = {"model": {}, "config": MALICIOUS["hidden in an EasyDict"](marker)}
    path = save(content, tmp_path / "theirs.pth")
    assert main(["--config", str(config), "--evaluate", str(path)]) == 2
    assert capsys.readouterr().err.startswith(
        f"error: weights '{path}' is refused: it asks for '__builtin__.eval'"
    )
    assert not marker.exists()


def test_what_an_unguarded_reader_would_run_is_real(tmp_path: Path) -> None:
    """The files above are no duds."""
    for kind in (
        "os.system",
        "eval",
        "exec",
        "open",
        "hidden in a parameter's hooks",
        "hidden in an EasyDict",
    ):
        marker = tmp_path / kind.replace(" ", "-").replace("'", "")
        path = save({"evil": MALICIOUS[kind](marker)}, tmp_path / "theirs.pth")
        torch.load(path, weights_only=False)
        assert marker.exists(), kind


CODEC = b"c_codecs\nencode\n"
ODD = {
    "a codec": CODEC + b"(X\x01\x00\x00\x00aX\x03\x00\x00\x00hextR.",
    "attributes on a class": b"ceasydict\nEasyDict\n}X\x05\x00\x00\x00clearK\x01sb.",
    "attributes on a function": CODEC + b"(N}X\x0c\x00\x00\x00__defaults__K\x01stb.",
    "a dotted name": b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.__init__\x93.",
    "an object of numpy": (
        b"cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\n(X\x01\x00\x00\x00OtRC\x08aaaaaaaatR."
    ),
    "a persistent module": b"(X\x06\x00\x00\x00moduleK\x01K\x01K\x01K\x01tQ.",
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_use_of_what_is_allowed_changes_nothing(tmp_path: Path, kind: str) -> None:
    """A codec other than Latin 1 is not looked up; functions and classes of the reader stay as they are."""
    path = tmp_path / "theirs.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", ODD[kind])
    if kind == "a codec":
        assert read_pickled(path) == b"a"  # hex would not take it
    else:
        with pytest.raises((pickle.UnpicklingError, AttributeError, TypeError, ValueError)):
            read_pickled(path)
