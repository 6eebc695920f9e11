"""What the user can fix ends with exit status 2 and one line that says what, where, and what to do."""

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from main import main
from misc.training.engine import Trainer
from tests.helpers.whole_runs import assert_mentions, error_line, torchrun, write_program


def change_records(change: Callable[[list[dict[str, object]]], object]) -> Callable[[Path], None]:
    """A fault planted in the training records."""

    def plant(data: Path) -> None:
        path = data / "train_reid_en.json"
        records = json.loads(path.read_text())
        changed = change(records)
        path.write_text(json.dumps(records if changed is None else changed))

    return plant


def first_image(data: Path) -> Path:
    return data / "imgs" / json.loads((data / "train_reid_en.json").read_text())[0]["file_path"]


def truncate(data: Path) -> None:
    for record in json.loads((data / "train_reid_en.json").read_text()):
        path = data / "imgs" / record["file_path"]
        path.write_bytes(path.read_bytes()[:300])


PLANTED = {
    "not JSON": (lambda data: (data / "train_reid_en.json").write_text("[{"), ["train_reid_en.json", "JSON"]),
    "not a list": (change_records(lambda records: {"a": records}), ["train_reid_en.json", "list"]),
    "no id": (change_records(lambda records: records[3].pop("id") and None), ["record 3", "'id'"]),
    "no captions": (change_records(lambda r: r[3].update(captions=[])), ["record 3", "'captions'"]),
    "escaping path": (
        change_records(lambda r: r[3].update(file_path="../../etc/passwd")),
        ["record 3", "'file_path'"],
    ),
    "missing image": (lambda data: first_image(data).unlink(), ["data.image_root", "1 image"]),
    "unreadable images": (truncate, [".jpg"]),
    "no root": (lambda data: shutil.rmtree(data / "imgs"), ["data.image_root", "imgs"]),
    "no test split": (
        lambda data: [path.unlink() for path in data.glob("test_*")],
        ["data.annotation_file", "test"],
    ),
}
NO_NAMES = ("x" * 300, "x/" * 2000, '"a\\0b"', '"\\ud800"', '""')


@pytest.mark.parametrize("fault", PLANTED)
def test_a_fault_in_the_data_is_named(
    fault: str, config: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant, said = PLANTED[fault]
    data = tmp_path / "faulty"
    shutil.copytree(people, data)
    plant(data)
    arguments = [f"data.annotation_file={data}", f"data.image_root={data}/imgs", "schedule.epoch=1"]
    assert main(["--config", str(config), *arguments]) == 2
    assert_mentions(error_line(capsys), *said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config", "nowhere.yaml"], ["nowhere.yaml"]),
        (["--config", "LICENSE"], ["LICENSE"]),
        (["schedule.lrr=1"], ["schedule.lrr", "schedule.lr?"]),
        (["schedule.lr=-1"], ["schedule.lr", "-1"]),
        (["schedule.epoch=many"], ["schedule.epoch", "many"]),
        (["data.languages=[en, es]"], ["data.languages", "es", "de"]),
        (["data.batch_size=5000"], ["data.batch_size", "5000"]),
        (["data.image_size=[65, 32]"], ["data.image_size", "16"]),
        (["model.clip_pretrained=weights/none.pt"], ["weights/none.pt", "does not exist", "https://"]),
        (["model.image_layers=1000000000"], ["model.image_layers", "1 to 1,000"]),
        (["data.num_workers=100000"], ["data.num_workers", "0 to 256"]),
        (["model.image_width=16384", "model.image_layers=1000"], ["towers", "GB", "model.image_width"]),
        (["model.image_heads=3"], ["model.image_heads", "16"]),
        (["misc.device=cuda"], ["misc.device", "no GPU"]),
        (["misc.precision=fp16"], ["misc.precision", "fp32"]),
        (["--resume", "none.pth"], ["none.pth", "no such file"]),
        (["--evaluate", "none.pth"], ["none.pth", "does not exist"]),
        (["--evaluate", "README.md"], ["README.md"]),
        (["--evaluate", "/dev/zero"], ["/dev/zero", "regular file"]),
        (["model.clip_pretrained=/dev/zero"], ["/dev/zero", "regular file"]),
        (["--resume", "/dev/zero"], ["/dev/zero", "not a regular file"]),
        (["data.annotation_file=/dev/zero"], ["data.annotation_file", "/dev/zero"]),
        *((["model.clip_pretrained=" + name], ["model.clip_pretrained", "a text"]) for name in NO_NAMES),
        (["model.clip_pretrained=~nobody-of-this-name/x"], ["~nobody-of-this-name/x", "does not exist"]),
        (["--evaluate", "a.pth", "--resume"], ["--evaluate", "--resume"]),
        (["--output-dir", "/proc/nowhere"], ["output.dir", "/proc/nowhere"]),
        (["--simplified"], ["--simplified", "--config"]),
        (["--epochs", "3"], ["--epochs"]),
        (["--evaluate", ""], ["--evaluate", "empty"]),
        (["--save-rankings="], ["--save-rankings", "empty"]),
        *(
            ([f"--{flag}", name], [f"--{flag}", "too long"])
            for flag in ("config", "resume", "evaluate", "save-rankings", "save-features", "output-dir")
            for name in ("x" * 300, "x/" * 2000, "x\udcff")
        ),
        (["--evaluate", "a\0b"], ["NUL"]),
        (["schedule.epoch=\ud800"], ["unpaired surrogate"]),
    ],
)
def test_a_mistake_on_the_command_line_is_named(
    arguments: list[str], said: list[str], config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments if "--config" in arguments else ["--config", str(config), *arguments]
    assert main(given) == 2
    assert_mentions(error_line(capsys), *said)


def test_a_checkpoint_of_another_shape_is_refused(
    config: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(finished_run / "checkpoint_last.pth")
    capsys.readouterr()
    for arguments, said in (
        (["--evaluate", checkpoint, "model.image_width=32"], ["model.image_width", "32", "16"]),
        (["--evaluate", checkpoint, "experiment.text_length=50"], ["experiment.text_length", "77", "50"]),
        (["--resume", checkpoint, "model.embed_dim=32"], ["proj", "(16, 16)", "(16, 32)"]),
        (["--resume", checkpoint, "data.batch_size=8"], ["data.batch_size", "steps"]),
    ):
        assert main(["--config", str(config), *arguments]) == 2
        assert_mentions(error_line(capsys), *said)


SPLICED = {
    "no step": lambda state: state.pop("step"),
    "an epoch that is a text": lambda state: state.update(epoch="x"),
    "a model of texts": lambda state: state["model"].update(dict.fromkeys(state["model"], "x")),
    "moments of another kind": lambda state: state["optimizer"]["state"].update({0: 3}),
    "groups that are numbers": lambda state: state["optimizer"].update(param_groups=[1, 2]),
    "random state of another kind": lambda state: state["ranks"][0].update(random=0.5),
    "options that are a list": lambda state: state.update(options=[]),
    "sections that are texts": lambda state: state.update(options=dict.fromkeys(state["options"], "x")),
}


def test_a_training_state_that_no_run_saved_is_refused(
    config: Path, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    arguments = ["--config", str(config), "--resume", str(tmp_path / "spliced.pth"), "schedule.epoch=3"]
    for name, change in SPLICED.items():
        state = torch.load(finished_run / "checkpoint_last.pth", weights_only=True)
        change(state)
        torch.save(state, tmp_path / "spliced.pth")
        assert main(arguments) == 2, name
        assert "checkpoint" in error_line(capsys), name


def test_saved_options_that_no_run_saved_are_ignored(
    config: Path, finished_run: Path, tmp_path: Path
) -> None:
    state = torch.load(finished_run / "checkpoint_last.pth", weights_only=True)
    sound = state["options"]
    no_size = sound | {"data": sound["data"] | {"image_size": torch.ones(2)}}
    for options in (dict.fromkeys(sound, "x"), no_size, [1, 2]):
        torch.save(state | {"options": options}, tmp_path / "spliced.pth")
        assert main(["--config", str(config), "--evaluate", str(tmp_path / "spliced.pth")]) == 0, options


def test_a_folder_in_the_place_of_a_checkpoint_is_named(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run" / "checkpoint_last.pth").mkdir(parents=True)
    assert main(["--config", str(config), "--resume"]) == 2
    assert "output.dir" in error_line(capsys)


def test_the_command_line_helps_without_loading_torch() -> None:
    code = (
        "import sys, main\n"
        "try: main.main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'PIL', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    flags = ("--config", "--simplified", "--resume", "--evaluate", "--output-dir", "key.path=value")
    assert_mentions(done.stdout, *flags)


def test_a_mistake_under_torchrun_is_reported_once(config: Path) -> None:
    process = torchrun("--config", str(config), "data.annotation_file=nowhere", program="main.py")
    output, _ = process.communicate(timeout=600)
    assert process.returncode != 0
    assert output.count("error: data.annotation_file") == 1


def too_large(error: BaseException | None) -> object:
    """Asks for more memory than there is, or fails as a GPU does."""
    if error is not None:
        raise error
    return torch.empty(2**58)


@pytest.mark.parametrize(
    "error",
    [None, MemoryError(), torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")],
)
def test_a_step_that_does_not_fit_the_memory_says_what_to_lower(
    error: BaseException | None,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Trainer, "train_step", lambda *_: too_large(error))
    assert main(["--config", str(config)]) == 2
    assert_mentions(
        error_line(capsys), "memory", "schedule.accumulate", "data.batch_size", "model.grad_checkpointing"
    )


DYING_WORKER = """
import signal
from data.sampler import _Batches
_Batches.__getitems__ = lambda *_: os.kill(os.getpid(), signal.{name})
"""


@pytest.mark.parametrize("name", ["SIGBUS", pytest.param("SIGKILL", marks=pytest.mark.slow)])
def test_a_loader_worker_that_the_system_kills_is_named(name: str, config: Path, tmp_path: Path) -> None:
    program = write_program(tmp_path / "program.py", DYING_WORKER.format(name=name))
    command = [sys.executable, program, "--config", str(config), "data.num_workers=1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    _, line = done.stderr.split("error: ")  # what the worker itself says of a bus error ends in no new line
    assert line.count("\n") == 1
    assert_mentions(line, "killed by signal", "data.num_workers", "shared memory")


@pytest.mark.parametrize("is_taken", [False, True], ids=["a process is missing", "the port is taken"])
def test_processes_that_cannot_meet_say_where(
    is_taken: bool, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as sock:
        sock.bind(("", 0))
        port = sock.getsockname()[1]
        if is_taken:
            sock.listen()
        else:
            sock.close()
        place = {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in place.items():
            monkeypatch.setenv(name, str(value))
        assert main(["--config", str(config), "distributed.timeout=0.02"]) == 2
    assert_mentions(error_line(capsys), "process 0 of 2", "127.0.0.1", f"port {port}", "port is free")


@pytest.mark.parametrize("port", [None, "x"])
def test_processes_that_are_not_told_where_to_meet_say_so(
    port: str | None, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    if port is not None:
        monkeypatch.setenv("MASTER_PORT", port)
    assert main(["--config", str(config)]) == 2
    assert_mentions(error_line(capsys), "WORLD_SIZE is 2", "MASTER_ADDR", "MASTER_PORT", "torchrun")
