"""The restricted unpickler: it reads what torch wrote, refuses what would run something, and what it allows
cannot be abused.
"""

import gc
import os
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import easydict
import pytest
import torch

from main import main
from model.weights.pickles import read_pickled
from model.weights.pretrained import load_clip_weights
from model.weights.stand_ins import DTYPES
from options import UserError
from tests.helpers.malicious import torchscript_that_writes

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
    tensors = OrderedDict(tensors)
    plain = {"epoch": 3, "best": 1.5, "names": ["a", None], "random": (3, (1, 2)), "on": True, "raw": b"\xff"}
    content = read_pickled(save({"model": tensors, **plain}, tmp_path / "file.pth", layout))
    read = content.pop("model")
    assert type(read) is dict
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


def test_a_byte_array_that_is_cut_short_is_damage_in_silence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.pt").write_bytes(b"\x96\x24H{m" + b"\x80\x02\0\0" + bytes(100))
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as archive:
        archive.writestr("a/data.pkl", b"\x96\xff\0\0\0\0\0\0\0abc")
    for name in ("a.pt", "b.pt"):
        with pytest.raises((EOFError, pickle.UnpicklingError, MemoryError, OverflowError)):
            read_pickled(tmp_path / name)
    gc.collect()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_of_a_file_stays_in_memory(tmp_path: Path, layout: str) -> None:
    """Python 3.10 does not look for cycles in an unpickler's own memory."""
    path = save({"a": torch.ones(4), "b": torch.nn.Parameter(torch.ones(4))}, tmp_path / "file.pth", layout)

    def tensors_alive() -> int:
        gc.collect()
        return sum(type(thing) is torch.Tensor for thing in gc.get_objects())

    before = tensors_alive()
    read_pickled(path)
    assert tensors_alive() == before


@pytest.mark.parametrize("part", ["data/0", "data.pkl"])
def test_a_zip_that_is_compressed_is_neither_misread_nor_blown_up(tmp_path: Path, part: str) -> None:
    path, squeezed = save({"a": torch.ones(400)}, tmp_path / "file.pth"), tmp_path / "squeezed.pth"
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(squeezed, "w") as other:
        for name in archive.namelist():
            kind = zipfile.ZIP_DEFLATED if name.endswith(part) else zipfile.ZIP_STORED
            other.writestr(name, archive.read(name), kind)
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


def test_a_malicious_file_ends_an_evaluation_with_one_line(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = tmp_path / "written"
    content = {"model": {}, "config": MALICIOUS["hidden in an EasyDict"](marker)}
    release = save(content, tmp_path / "theirs.pth")
    archive = torchscript_that_writes(tmp_path / "theirs.pt", marker)
    for path, said in ((release, "is refused: it asks for '__builtin__.eval'"), (archive, "")):
        assert main(["--config", str(config), "--evaluate", str(path)]) == 2
        assert capsys.readouterr().err.startswith(f"error: weights '{path}' {said}")
        assert not marker.exists()


def test_what_an_unguarded_reader_would_run_is_real(tmp_path: Path) -> None:
    """An unguarded reader would execute the files above."""
    path = torchscript_that_writes(tmp_path / "theirs.pt", tmp_path / "written")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.load(path)
    assert (tmp_path / "written").exists()
    hidden = ("hidden in a parameter's hooks", "hidden in an EasyDict")
    for kind in ("os.system", "eval", "exec", "open", *hidden):
        marker = tmp_path / kind.replace(" ", "-").replace("'", "")
        path = save({"evil": MALICIOUS[kind](marker)}, tmp_path / "theirs.pth")
        torch.load(path, weights_only=False)
        assert marker.exists(), kind


CODEC = b"c_codecs\nencode\n"
ODD = {
    "a codec": CODEC + b"(X\x01\x00\x00\x00aX\x03\x00\x00\x00hextR.",
    "attributes on a class": b"ceasydict\nEasyDict\n}X\x05\x00\x00\x00clearK\x01sb.",
    "attributes on a function": CODEC + b"(N}X\x0c\x00\x00\x00__defaults__)stb.",
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


def tensor_pickle(offset: int, size: tuple[int, ...], stride: tuple[int, ...], state: bytes = b"") -> bytes:
    """Asks for a tensor of a storage of four numbers, and for its `state` to be set."""
    sizes, strides = (b"(%st" % b"".join(b"I%d\n" % n for n in numbers) for numbers in (size, stride))
    figures = b"I%d\n" % offset + sizes + strides + b"I00\nN"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + figures + b"tR" + state + b"."


STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
VIEWS = {
    "one number too many": (0, (5,), (1,)),
    "begins too early": (-1, (4,), (1,)),
    "runs backwards": (3, (4,), (-1,)),
    "begins far away": (2**62, (1,), (1,)),  # in bytes that is 0 again: torch 2.4 looked there
    "steps far away": (0, (2,), (2**61,)),
    "more than there is": (0, (10**13,), (0,)),
    "less than nothing": (0, (-4,), (1,)),
    "an axis without a step": (0, (2, 2), (2,)),
}


def archive(path: Path, pickled: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/data/0", bytes(16))
    return path


@pytest.mark.parametrize("kind", VIEWS)
def test_a_tensor_does_not_reach_beyond_its_numbers(tmp_path: Path, kind: str) -> None:
    assert read_pickled(archive(tmp_path / "sound.pth", tensor_pickle(1, (3,), (1,)))).tolist() == [0, 0, 0]
    with pytest.raises((pickle.UnpicklingError, ValueError)):
        read_pickled(archive(tmp_path / "theirs.pth", tensor_pickle(*VIEWS[kind])))


def test_a_tensor_is_given_no_other_state(tmp_path: Path) -> None:
    """Four things are what `Tensor.__setstate__` calls `set_` with, whose bounds torch 2.4 got wrong too."""
    state = b"(" + STORAGE + b"I4611686018427387904\n(I1\nt(I1\nttb"
    with pytest.raises(pickle.UnpicklingError):
        read_pickled(archive(tmp_path / "theirs.pth", tensor_pickle(0, (4,), (1,), state)))
