"""State dicts as other programs wrap them: prefixes, containers, other objects; files that are none."""

import argparse
import datetime
import enum
import io
import json
import logging
import pathlib
import random
import tarfile
import time
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from model.clip import CLIP, build_clip
from model.weights.pretrained import load_clip_weights, read_tensors
from options import UserError
from tests.helpers.altclip_folders import build, copied
from tests.helpers.openai_format import IMAGE_SIZE, SIZES


@pytest.fixture(scope="module")
def clip() -> CLIP:
    torch.manual_seed(0)
    return build_clip(image_size=IMAGE_SIZE, **SIZES)[0]


@pytest.fixture(scope="module")
def ours(clip: CLIP) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in clip.state_dict().items()}


def save(content: object, path: Path, **how: bool) -> Path:
    torch.save(content, path, **how)
    return path


def assert_read(path: Path, ours: dict[str, Tensor]) -> None:
    read = load_clip_weights(path).tensors
    assert read.keys() == ours.keys()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in read.items())


def openai(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("text."): tensor for name, tensor in ours.items()}


def before_all(prefix: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def compiled_towers(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace(".", "._orig_mod.", 1): tensor for name, tensor in ours.items()}


def tbps_clip_compiled(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    named = {name.replace("text.", "encode_text._orig_mod.", 1): tensor for name, tensor in ours.items()}
    return before_all("module.")(named)


NAMES = {
    prefix: before_all(prefix)
    for prefix in (
        *("_orig_mod.", "module.", "model.", "clip_model.", "clip.", "base_model."),
        *("_orig_mod.module.", "module._orig_mod.", "module.model.", "model.clip_model.", "module.module."),
        *("model._orig_mod.clip.", "_orig_mod.model.module.clip_model.", "base_model.model.", "student.net."),
        *("_forward_module.model.", "_fsdp_wrapped_module.clip."),
    )
} | {"compiled towers": compiled_towers, "TBPS-CLIP": tbps_clip_compiled}


@pytest.mark.parametrize("style", [openai, dict])
@pytest.mark.parametrize("kind", NAMES)
def test_what_stands_before_every_name_alike_is_removed_and_said_once(
    tmp_path: Path,
    ours: dict[str, Tensor],
    caplog: pytest.LogCaptureFixture,
    kind: str,
    style: Callable[[dict[str, Tensor]], dict[str, Tensor]],
) -> None:
    named = NAMES[kind](ours if kind == "TBPS-CLIP" else style(ours))
    with caplog.at_level(logging.INFO, logger="model.weights.wrappers"):
        assert_read(save(named, tmp_path / "weights.pt"), ours)
    said = [
        record.getMessage() for record in caplog.records if "removed from the names" in record.getMessage()
    ]
    assert len(said) == (kind != "clip.")


def test_an_averaged_model_of_torch_is_read(tmp_path: Path, clip: CLIP, ours: dict[str, Tensor]) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(clip)
    assert_read(save(averaged.state_dict(), tmp_path / "averaged.pt"), ours)


def test_a_wrapped_checkpoint_of_altclip_is_read_too(folder: Path, tmp_path: Path) -> None:
    state = build(folder).state_dict()
    path = save({"state_dict": before_all("module._orig_mod.clip.")(state)}, tmp_path / "weights.pt")
    again = build(folder, checkpoint=path).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_two_models_under_two_prefixes_are_refused_by_name(tmp_path: Path, ours: dict[str, Tensor]) -> None:
    both = before_all("student.")(ours) | before_all("teacher.")(ours)
    with pytest.raises(UserError, match=r"several models, whose names begin with 'student.', 'teacher.'"):
        load_clip_weights(save(both, tmp_path / "weights.pt"))


@pytest.mark.parametrize("name", ["logit_scale", "logit_bias"])
def test_a_scalar_may_be_a_vector_of_one_number(tmp_path: Path, ours: dict[str, Tensor], name: str) -> None:
    path = save(ours | {name: torch.full((1,), 3.5)}, tmp_path / "weights.pt")
    assert load_clip_weights(path).tensors[name].shape == ()
    assert load_clip_weights(path).tensors[name].item() == 3.5


CONTAINERS: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    **{
        name: lambda tensors, name=name: {name: tensors, "epoch": 3}
        for name in ("model_state_dict", "net", "module", "ema", "state_dict_ema", "generator")
    },
    "Lightning": lambda tensors: {
        "epoch": 3,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": before_all("model.")(tensors),
        "callbacks": {"ModelCheckpoint{'monitor': 'r1'}": {"best_model_path": pathlib.PurePosixPath("a")}},
        "hyper_parameters": {"args": argparse.Namespace(lr=1e-5, dtype=torch.bfloat16)},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}],
    },
    "DeepSpeed": lambda tensors: {
        "module": before_all("module.")(tensors),
        "buffer_names": [],
        "param_shapes": [OrderedDict((name, tensor.shape) for name, tensor in tensors.items())],
        "ds_config": {"train_batch_size": 8},
        "optimizer": None,
    },
    "model in model": lambda tensors: {"model": {"state_dict": tensors}, "step": torch.tensor(3)},
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_state_dict_is_found_in_its_container(
    tmp_path: Path, ours: dict[str, Tensor], caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    path = save(CONTAINERS[kind](ours), tmp_path / "weights.pt")
    assert_read(path, ours)
    assert "not used" not in caplog.text


@pytest.mark.parametrize(
    ("taken", "other"),
    [
        ("state_dict", "state_dict_ema"),
        ("model", "model_ema"),
        ("model", "ema"),
        ("module", "ema_state_dict"),
        ("net", "averaged"),
        ("model_state_dict", "teacher"),
        ("student", "ema.shadow"),
        ("model", "state_dict"),
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
def test_of_several_state_dicts_the_one_used_and_the_others_are_named(
    tmp_path: Path,
    ours: dict[str, Tensor],
    caplog: pytest.LogCaptureFixture,
    taken: str,
    other: str,
    is_first: bool,
) -> None:
    doubled: dict[str, Any] = {name: 2 * tensor for name, tensor in ours.items()}
    for part in reversed(other.split(".")[1:]):
        doubled = {part: doubled}
    entries = [(taken, ours), (other.split(".")[0], doubled)]
    path = save(dict(entries if is_first else entries[::-1]), tmp_path / "weights.pt")
    assert_read(path, ours)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and "used" in r.msg]
    assert f"its entry '{taken}' is used; not used: '{other}'" in warning
    assert str(path) in warning


@pytest.mark.parametrize("beside", [{"epoch": 3}, {"model_ema": {"visual.proj": torch.ones(2)}}])
def test_entries_beside_the_tensors_of_a_bare_state_dict_are_named_and_not_used(
    tmp_path: Path, ours: dict[str, Tensor], caplog: pytest.LogCaptureFixture, beside: dict[str, Any]
) -> None:
    assert_read(save(openai(ours) | beside, tmp_path / "weights.pt"), ours)
    assert f"entries that are no tensors are not used: {next(iter(beside))!r}" in caplog.text


@pytest.mark.parametrize("name", ["visual.proj", "encode_text.ln_final.bias"])
def test_an_entry_with_the_name_of_a_tensor_that_is_none_is_refused_and_not_only_warned_of(
    tmp_path: Path, ours: dict[str, Tensor], caplog: pytest.LogCaptureFixture, name: str
) -> None:
    with pytest.raises(UserError, match=f"its entry '{name}' is no tensor"):
        load_clip_weights(save(openai(ours) | {name: None}, tmp_path / "weights.pt"))
    assert not caplog.records


# Objects beside the tensors


class Mode(enum.Enum):
    EVAL = 1


@dataclass
class Config:
    lr: float
    mode: Mode


class Settings(dict):
    """As yacs and addict make them: a dict of a class of its own."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # pickle asks for methods
            raise AttributeError(name)
        return self.get(name)


OBJECTS: dict[str, object] = {
    "namespace": argparse.Namespace(lr=1e-5, root=Path("/data"), shape=torch.Size([2, 3])),
    "paths": [Path("a"), pathlib.PurePosixPath("b"), pathlib.PureWindowsPath("c")],
    "types": [torch.float32, torch.bfloat16, torch.int64, torch.device("cpu"), torch.strided],
    "arrays": [np.arange(3), np.zeros((2, 2), np.float16), np.array(["a", "b"]), np.array([None, {}])],
    "numbers of numpy": [
        np.float32(1),
        np.int64(2),
        np.bool_(True),
        np.str_("a"),
        np.float64,
        np.dtype("f4"),
    ],
    "random states": [
        random.getstate(),
        np.random.get_state(),
        np.random.RandomState(0),
        np.random.default_rng(0),
        torch.get_rng_state(),
    ],
    "generators": [np.random.Generator(np.random.Philox(1)), random.Random(1)],
    "collections": [defaultdict(list, a=[1]), Counter("aab"), deque([1], 5), {1, 2}, frozenset({3})],
    "times": [datetime.datetime(2024, 1, 1), datetime.timedelta(1), datetime.date(2024, 1, 1)],
    "versions": [torch.__version__, ..., time.localtime(0)],
    "numbers": [1j, bytearray(b"a"), range(3), slice(1), b"a"],
    "classes of a project": [Config(1.0, Mode.EVAL), Settings(a=Settings(b=1)), Config],
    "an optimiser": torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))]),
    "tensors with attributes": torch.nn.Parameter(torch.ones(2)),
}
OBJECTS["tensors with attributes"].no_decay = True


@pytest.mark.parametrize("layout", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", OBJECTS)
def test_harmless_objects_beside_the_tensors_are_passed_over(
    tmp_path: Path, kind: str, protocol: int, layout: bool
) -> None:
    path, tensors = tmp_path / "weights.pt", OrderedDict({"model.visual.conv1.weight": torch.arange(3.0)})
    content = {"args": OBJECTS[kind], "state_dict": tensors, "more": {"deep": [OBJECTS[kind]]}}
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=layout)
    (read,) = read_tensors(path).items()
    assert read[0] == "visual.conv1.weight"
    assert read[1].tolist() == [0, 1, 2]


def test_parameters_that_deepspeed_keeps_elsewhere_are_told_where_they_are(
    tmp_path: Path, ours: dict[str, Tensor]
) -> None:
    empty = {"module": {name: torch.empty(0) for name in ours}}
    with pytest.raises(UserError, match=r"of shape \(0,\), without numbers; .*zero_to_fp32.py"):
        load_clip_weights(save(empty, tmp_path / "mp_rank_00_model_states.pt"))


def test_the_weights_of_an_altclip_folder_are_called_what_they_are(folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path / "a folder of a rather long name, as they are in caches of the hub" / "x")
    (copy / "model.safetensors").write_bytes(POINTER)
    with pytest.raises(UserError, match=r"model.altclip_pretrained: .* Git LFS pointer.*git lfs pull"):
        build(copy)


def test_a_pickled_model_is_refused_with_what_to_save_instead(tmp_path: Path, clip: CLIP) -> None:
    with pytest.raises(UserError, match=r"refused: it asks for 'torch.nn.*state_dict\(\) is expected"):
        load_clip_weights(save(clip, tmp_path / "weights.pt"))


# Files that are none


def zip_of_others(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("release/ViT-B-16.pt", b"a")


def tar_of_others(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("ViT-B-16.pt"), io.BytesIO())


def cut(save: Callable[[dict[str, Tensor], Path], object]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        save({"a.b": torch.ones(40_000)}, path)
        path.write_bytes(path.read_bytes()[:100_000])

    return write


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 598641023\n"
FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pointer": (lambda path: path.write_bytes(POINTER), "Git LFS pointer.*git lfs pull"),
    "a page": (lambda path: path.write_text("<!DOCTYPE html><html><title>Drive"), "an HTML page"),
    "nothing": (lambda path: path.write_bytes(b""), "an empty file"),
    "zeros": (lambda path: path.write_bytes(bytes(9999)), "a file of zeros"),
    "a zip": (zip_of_others, "a ZIP archive with 'release/ViT-B-16.pt' in it"),
    "a tar": (tar_of_others, "a tar archive"),
    "a cut file of torch": (cut(torch.save), "the beginning of a ZIP file"),
    "a cut old file": (
        cut(lambda tensors, path: torch.save(tensors, path, _use_new_zipfile_serialization=False)),
        "a file of torch.save, not whole",
    ),
    "cut safetensors": (
        cut(safetensors.torch.save_file),
        r"a safetensors file with 100,000 of the 160,\d+ bytes that its header announces",
    ),
    "a link": (lambda path: path.symlink_to("../gone.pt"), r"is a link to '../gone.pt', which is not there"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("read", [load_clip_weights, read_tensors])
def test_a_file_that_is_no_weights_is_called_what_it_is(
    tmp_path: Path, kind: str, read: Callable[[Path], object]
) -> None:
    path, (write, message) = tmp_path / "weights.pt", FILES[kind]
    write(path)
    with pytest.raises(UserError, match=message) as error:
        read(path)
    assert "\n" not in str(error.value)


def test_a_shard_and_an_index_name_their_folder_and_a_folder_what_is_in_it(
    tmp_path: Path, ours: dict[str, Tensor]
) -> None:
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    safetensors.torch.save_file(ours, tmp_path / names[0])
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict(zip(ours, names * len(ours), strict=False))}))
    for path in (tmp_path / names[0], index):
        with pytest.raises(UserError, match="one of the files of a model in several; give their folder"):
            load_clip_weights(path)
    with pytest.raises(UserError, match=rf"neither a config.json .*; it has {names[0]}"):
        load_clip_weights(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    for _ in range(2):
        missing = rf"lacks 1 of the 2 files that its index lists: '{names[1]}' (does not exist|is a link)"
        with pytest.raises(UserError, match=missing):
            load_clip_weights(tmp_path)
        (tmp_path / names[1]).unlink(missing_ok=True)
        (tmp_path / names[1]).symlink_to("../../blobs/123")


def test_the_only_file_of_a_model_in_one_is_no_shard(tmp_path: Path, ours: dict[str, Tensor]) -> None:
    path = tmp_path / "model-00001-of-00001.safetensors"
    safetensors.torch.save_file(ours, path)
    assert_read(path, ours)
