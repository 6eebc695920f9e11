"""The environment that a process is started in: what it may say, and how what it may not say is reported."""

import warnings
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from config.command_line import parse_command_line
from main import main
from misc.process import device, distributed
from misc.process.joining import agree_on_attempt, check_backends
from misc.process.launch import Launch, LaunchError
from misc.search.__main__ import main as search
from options import UserError
from tests.helpers.whole_runs import assert_mentions, error_line

VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
PAIR = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
FOUR = PAIR | {"WORLD_SIZE": "8", "RANK": "6", "LOCAL_WORLD_SIZE": "4"}


@pytest.fixture(autouse=True)
def _no_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def start_with(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str | None]) -> None:
    for name, value in environment.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)


WRONG = [
    ({"WORLD_SIZE": ""}, "WORLD_SIZE=''"),
    ({"WORLD_SIZE": "0"}, "WORLD_SIZE='0'"),
    ({"WORLD_SIZE": "-2"}, "WORLD_SIZE='-2'"),
    ({"WORLD_SIZE": "2.0"}, "WORLD_SIZE='2.0'"),
    ({"WORLD_SIZE": "2_0"}, "WORLD_SIZE='2_0'"),
    ({"WORLD_SIZE": "٢"}, "WORLD_SIZE="),
    ({"WORLD_SIZE": "2(x4)"}, "WORLD_SIZE='2(x4)'"),
    ({"RANK": ""}, "RANK=''"),
    ({"RANK": "x"}, "RANK='x'"),
    ({"RANK": "1"}, "RANK='1'"),
    ({"RANK": "1", "WORLD_SIZE": "1"}, "RANK='1'"),
    (PAIR | {"RANK": None}, "RANK is not set"),
    (PAIR | {"RANK": "2"}, "RANK='2'"),
    (PAIR | {"RANK": "-1"}, "RANK='-1'"),
    (PAIR | {"LOCAL_RANK": ""}, "LOCAL_RANK=''"),
    (PAIR | {"LOCAL_RANK": "1e0"}, "LOCAL_RANK='1e0'"),
    (PAIR | {"LOCAL_RANK": "2"}, "LOCAL_RANK='2'"),
    ({"LOCAL_RANK": "1"}, "LOCAL_RANK='1'"),
    (FOUR | {"LOCAL_RANK": "4"}, "LOCAL_WORLD_SIZE (4)"),
    (PAIR | {"LOCAL_WORLD_SIZE": "3"}, "LOCAL_WORLD_SIZE='3'"),
    (PAIR | {"LOCAL_WORLD_SIZE": "0"}, "LOCAL_WORLD_SIZE='0'"),
    (PAIR | {"LOCAL_WORLD_SIZE": ""}, "LOCAL_WORLD_SIZE=''"),
    (PAIR | {"MASTER_ADDR": None}, "MASTER_ADDR=''"),
    (PAIR | {"MASTER_ADDR": " "}, "MASTER_ADDR=''"),
    (PAIR | {"MASTER_PORT": None}, "MASTER_PORT=''"),
    (PAIR | {"MASTER_PORT": "0"}, "MASTER_PORT='0'"),
    (PAIR | {"MASTER_PORT": "70000"}, "MASTER_PORT='70000'"),
    (PAIR | {"MASTER_PORT": "-1"}, "MASTER_PORT='-1'"),
    (PAIR | {"MASTER_PORT": "2950.0"}, "MASTER_PORT='2950.0'"),
]


@pytest.mark.parametrize(("environment", "found"), WRONG)
def test_a_launch_that_cannot_be_is_one_line_on_every_process(
    environment: dict[str, str | None],
    found: str,
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start_with(monkeypatch, environment)
    assert main(["--config", str(config)]) == 2
    assert_mentions(error_line(capsys), found, "torchrun", "docs/running.md")


def test_other_programs_report_a_launch_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "")
    assert search(["index", "nothing.pth", str(tmp_path), "--out", str(tmp_path / "index")]) == 2
    assert "RANK=''" in error_line(capsys)


def test_what_launchers_set_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = Launch(0, 0, 1, None, None, None, is_served=False)
    assert Launch.read() == alone
    start_with(monkeypatch, {"MASTER_PORT": "x", "RANK": "0"})  # not used by a process alone
    assert Launch.read() == alone
    start_with(monkeypatch, FOUR | {"LOCAL_RANK": " 2 ", "TORCHELASTIC_USE_AGENT_STORE": "True"})
    assert Launch.read() == Launch(6, 2, 8, 4, "127.0.0.1", 29500, is_served=True)


@pytest.mark.parametrize("flag", [["--local-rank=1"], ["--local_rank", "1"], ["--local_rank=1"]])
def test_the_flag_of_torch_distributed_launch_is_taken_if_it_agrees(
    flag: list[str], config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start_with(monkeypatch, PAIR | {"RANK": "1", "LOCAL_RANK": "1"})
    _, options = parse_command_line([*flag, "--config", str(config), "schedule.epoch=3"])
    assert options.schedule.epoch == 3
    for local_rank, found in (("0", "LOCAL_RANK is 0"), (None, "LOCAL_RANK is not set")):
        start_with(monkeypatch, {"LOCAL_RANK": local_rank})
        assert main([*flag, "--config", str(config)]) == 2
        assert_mentions(error_line(capsys), "--local-rank is '1'", found)


@pytest.mark.parametrize("value", ["x", "", "-1"])
def test_a_local_rank_that_is_none_is_refused(
    value: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(config), f"--local-rank={value}"]) == 2
    assert "--local-rank" in error_line(capsys)


@pytest.mark.parametrize("environment", [{}, PAIR])
def test_nccl_without_a_gpu_is_a_user_error(
    environment: dict[str, str],
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start_with(monkeypatch, environment)
    assert main(["--config", str(config), "misc.device=cpu", "distributed.backend=nccl"]) == 2
    assert_mentions(error_line(capsys), "distributed.backend=nccl", "CPU", "gloo")


def test_a_mistake_before_the_processes_join_is_reported_by_the_first_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("misc.process.launch.time.sleep", lambda _: None)
    for local_rank, count in (("0", 1), ("1", 0)):
        start_with(monkeypatch, PAIR | {"LOCAL_RANK": local_rank})
        assert main(["no.option=1"]) == 2
        assert capsys.readouterr().err.count("error: ") == count


def launch_of(rank: int) -> Launch:
    return Launch(rank, rank, 2, None, "127.0.0.1", 1, is_served=False)


def test_processes_with_different_backends_say_so_instead_of_waiting() -> None:
    store = dist.HashStore()
    store.set("backend/1", "gloo b")
    with pytest.raises(UserError, match=r"process 0 .* nccl, process 1 \(on b\) gloo"):
        check_backends(store, launch_of(0), "nccl")
    with pytest.raises(UserError, match=r"process 0 .* nccl, process 1 .* gloo"):
        check_backends(store, launch_of(1), "gloo")
    check_backends(dist.HashStore(), Launch(0, 0, 1, None, None, None, is_served=False), "gloo")


def test_a_first_process_that_never_answers_is_a_timeout() -> None:
    store = dist.HashStore()
    store.set("attempt", "of an earlier one")
    with pytest.raises(TimeoutError):
        agree_on_attempt(store, launch_of(1), timedelta(seconds=0.01))


def gpus(
    monkeypatch: pytest.MonkeyPatch, count: int, capability: tuple[int, int] = (8, 0)
) -> list[torch.device]:
    """Let torch report GPUs; returns the list of those that are set."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    return chosen


@pytest.mark.parametrize(
    ("count", "local_rank", "of_machine", "index"),
    [(1, "0", None, 0), (1, "3", None, 0), (1, "3", "4", 0), (4, "3", "4", 3), (4, "1", None, 1)],
)
def test_a_process_takes_the_gpu_of_its_number_or_the_only_one_that_it_sees(
    monkeypatch: pytest.MonkeyPatch, count: int, local_rank: str, of_machine: str | None, index: int
) -> None:
    start_with(monkeypatch, FOUR | {"LOCAL_RANK": local_rank, "LOCAL_WORLD_SIZE": of_machine})
    chosen = gpus(monkeypatch, count)
    assert device.pick_device("auto") == torch.device("cuda", index)
    assert chosen == [torch.device("cuda", index)]


@pytest.mark.parametrize(
    ("local_rank", "of_machine", "error"),
    [("0", "4", UserError), ("3", "4", UserError), ("3", None, LaunchError)],
)
def test_fewer_gpus_than_processes_are_an_error_on_all_that_know(
    monkeypatch: pytest.MonkeyPatch, local_rank: str, of_machine: str | None, error: type[UserError]
) -> None:
    start_with(monkeypatch, FOUR | {"LOCAL_RANK": local_rank, "LOCAL_WORLD_SIZE": of_machine})
    gpus(monkeypatch, 2)
    with pytest.raises(UserError, match=r"4 processes .* 2 are visible") as raised:
        device.pick_device("cuda")
    assert type(raised.value) is error


def test_processes_on_one_gpu_are_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    start_with(monkeypatch, PAIR)
    said = (
        "NCCL error in: NCCLUtils.cpp:77, invalid usage (run with NCCL_WARN for details), NCCL 2.27.5\n"
        "ncclInvalidUsage: This usually reflects invalid usage of NCCL library.\nLast error:\n"
        "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 4f000"
    )

    def join(*_: object) -> None:
        raise dist.DistBackendError(said)

    monkeypatch.setattr(distributed, "_join", join)
    with pytest.raises(UserError, match="same GPU"):
        distributed.start(torch.device("cuda", 0), "gloo")


ARCHITECTURES = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


@pytest.mark.parametrize("name", ["auto", "cuda"])
@pytest.mark.parametrize(
    ("capability", "built"),
    [((7, 0), ARCHITECTURES), ((6, 1), ARCHITECTURES), ((12, 0), ["sm_80", "sm_90a"]), ((8, 0), ["sm_86"])],
)
def test_a_gpu_without_kernels_is_a_user_error(
    monkeypatch: pytest.MonkeyPatch, name: str, capability: tuple[int, int], built: list[str]
) -> None:
    gpus(monkeypatch, 1, capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
    with pytest.raises(UserError) as raised:
        device.pick_device(name)
    major, minor = capability
    assert_mentions(
        str(raised.value), f"capability {major}.{minor}", built[0], torch.__version__, "misc.device=cpu"
    )


@pytest.mark.parametrize(
    ("capability", "built"),
    [
        ((7, 5), ARCHITECTURES),
        ((8, 9), ARCHITECTURES),
        ((12, 1), ARCHITECTURES),
        ((13, 0), ARCHITECTURES),
        ((9, 0), ["gfx90a"]),
        ((5, 0), []),
    ],
)
def test_a_gpu_with_kernels_is_taken(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], built: list[str]
) -> None:
    gpus(monkeypatch, 1, capability)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
    assert device.pick_device("auto").type == "cuda"


TOO_OLD = (
    "CUDA initialization: The NVIDIA driver on your system is too old (found version 12020). Please update "
    "your GPU driver by downloading and installing a new version from the URL: http://www.nvidia.com/Download"
)
IN_PROC = """NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023
GCC version:  gcc version 12.3.0
"""
SMI = "#!/bin/sh\necho 470.57.02\n"
BROKEN_SMI = "#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n"


def no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, proc: str, program: str) -> None:
    """Let torch have no GPU, where it says something, a driver is loaded, or nvidia-smi is installed."""

    def is_available() -> bool:
        if said:
            warnings.warn(said, stacklevel=2)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(device, "DRIVER", tmp_path / "version")
    if proc:
        (tmp_path / "version").write_text(proc)
    (tmp_path / "bin").mkdir()
    if program:
        (tmp_path / "bin" / "nvidia-smi").write_text(program)
        (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("said", "proc", "program", "found"),
    [
        (TOO_OLD, IN_PROC, "", ("535.104.05", "supports CUDA 12.2")),
        (TOO_OLD, "", SMI, ("470.57.02", "supports CUDA 12.2")),
        (TOO_OLD, "", "", ("unknown version", "supports CUDA 12.2")),
        ("", IN_PROC, "", ("535.104.05",)),
        ("", "", SMI, ("470.57.02",)),
        ("CUDA initialization: CUDA unknown error", IN_PROC, "", ("535.104.05", "CUDA unknown error")),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_named_with_both_versions(
    said: str,
    proc: str,
    program: str,
    found: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    no_gpu(monkeypatch, tmp_path, said, proc, program)
    assert device.pick_device("auto") == torch.device("cpu")
    (record,) = caplog.records
    assert_mentions(record.getMessage(), "the CPU is used", torch.__version__, "CUDA 13.0", *found)
    with pytest.raises(UserError) as raised:
        device.pick_device("cuda")
    assert_mentions(str(raised.value), "misc.device=cuda", torch.__version__, "CUDA 13.0", *found)
    caplog.clear()
    assert device.pick_device("cpu") == torch.device("cpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert device.pick_device("auto") == torch.device("cpu")
    assert not caplog.records


@pytest.mark.parametrize("program", ["", BROKEN_SMI])
def test_nothing_is_said_of_a_gpu_where_there_is_none(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    no_gpu(monkeypatch, tmp_path, "", "", program)
    assert device.pick_device("auto") == torch.device("cpu")
    assert not caplog.records
    with pytest.raises(UserError, match=r"misc\.device=cuda: .* finds no GPU"):
        device.pick_device("cuda")


def test_the_run_says_it_once_on_rank_0(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    no_gpu(monkeypatch, tmp_path, "", IN_PROC, "")
    assert main(["--config", str(config), "schedule.epoch=1", "misc.device=auto"]) == 0
    assert capsys.readouterr().out.count("535.104.05") == 1
