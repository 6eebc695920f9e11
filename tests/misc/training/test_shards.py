"""Training from shards: ended with SIGKILL in the middle of an epoch, and resumed, to the last bit."""

from pathlib import Path

import pytest

from data.shards.__main__ import main as write
from tests.helpers.tiny_config import write_config
from tests.helpers.whole_runs import assert_same_runs, torchrun, write_program

PROGRAM = """
import signal
from misc.training.engine import Trainer

original = Trainer.train_step

def train_step(self, *others):
    if self.step == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, *others)

Trainer.train_step = train_step
"""


@pytest.mark.slow
def test_two_processes_with_two_workers_killed_in_mid_epoch_resume_to_the_same_bits(
    people: Path, tmp_path: Path
) -> None:
    shards = tmp_path / "shards"
    command = [str(people), str(people / "imgs"), "--out", str(shards), "--per-shard", "6"]
    assert write([*command, "--workers", "1"]) == 0

    def config(name: str) -> list[str]:
        data = {"annotation_file": str(shards), "image_root": str(shards), "batch_size": 4}
        data |= {"sampler": "shards", "shuffle_window": 12, "shard_streams": 4, "num_workers": 2}
        changes = {"data": data, "schedule": {"epoch": 2}, "log": {"checkpoint_period": 1, "print_period": 1}}
        changes["output"] = {"dir": str(tmp_path / name)}
        return ["--config", str(write_config(tmp_path / f"{name}.yaml", people, 16, **changes))]

    whole = torchrun(*config("whole"))
    output, _ = whole.communicate(timeout=600)
    assert whole.returncode == 0, output
    for step in (2, 7):  # in the first epoch of five steps and in the second
        killer = write_program(tmp_path / "killer.py", PROGRAM.format(step=step))
        killed = torchrun(*config("killed"), "--resume", "auto", program=killer)
        killed.communicate(timeout=600)
        assert killed.returncode != 0
    resumed = torchrun(*config("killed"), "--resume", "auto")
    output, _ = resumed.communicate(timeout=600)
    assert resumed.returncode == 0, output
    assert "resum" in output
    assert_same_runs(tmp_path / "whole", tmp_path / "killed")
