"""The run that the faults are done to."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from data.synthetic.write import Parameters, generate
from tests.helpers.tiny_config import write_config
from tests.helpers.whole_runs import assert_same_runs, say_pid, write_program

STEPS = 24  # of the run: three epochs of 64 samples in steps of 2 x 4
LIMIT = 240.0  # seconds that nothing of the drill takes


class NoFaultError(Exception):
    """The run ended before what was to be done to it, or did not notice: nothing was tried."""


class Subject:
    """A small training of two processes under torchrun, in a folder of its own; one `start` at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "people"
        generate(self.data, Parameters(28, 0, 6, 6, images_per_identity=2))
        changes = {
            "experiment": {"dropout": 0.3},
            "schedule": {"epoch": 3},
            "data": {"batch_size": 4, "num_workers": 1},
            "log": {"print_period": 1, "checkpoint_period": 4},
        }
        self.config = write_config(folder / "drill.yaml", self.data, width=64, **changes)
        self.program = folder / "program.py"
        self.run = folder / "run"
        self.output = folder / "output.txt"
        self.process: subprocess.Popen[bytes] | None = None
        self.undisturbed = folder / "undisturbed"
        self.clean()
        assert self.finish() == 0, self.said()
        self.run.rename(self.undisturbed)

    def _program(self, lines: str) -> None:
        pids = self.folder / "pids"
        pids.mkdir(exist_ok=True)
        write_program(self.program, say_pid(pids) + lines)

    def clean(self) -> None:
        """Back to before the first start."""
        shutil.rmtree(self.run, ignore_errors=True)
        self._program("")
        self.expected = self.undisturbed

    def compare_with_this(self) -> None:
        """What is lost by choice changes the figures: compare what comes with the run as it ended."""
        self.expected = self.folder / "expected"
        shutil.rmtree(self.expected, ignore_errors=True)
        self.run.rename(self.expected)

    def start(self, *overrides: str, injected: str = "", restarts: int = 0) -> None:
        """Start the command, the same one each time but for what a fault asks for, and do not wait for it."""
        self._program(injected)
        for pid in (self.folder / "pids").iterdir():
            pid.unlink()
        launch = ["--standalone", "--nproc_per_node=2", f"--max-restarts={restarts}"]
        command = [sys.executable, "-m", "torch.distributed.run", *launch]
        arguments = ["--config", str(self.config), "--output-dir", str(self.run), "--resume", "auto"]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, str(self.program), *arguments, *overrides],
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait(self) -> int:
        """The status of torchrun, once it ends."""
        try:
            return self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise TimeoutError(f"the run did not end in {LIMIT:.0f} s") from None

    def finish(self, *overrides: str) -> int:
        """Start it and let it come to its end."""
        self.start(*overrides)
        return self.wait()

    def wait_until(self, happened: Callable[[], bool]) -> None:
        """Wait for it; raises NoFaultError where the run ends first."""
        end = time.monotonic() + LIMIT
        while not happened():
            if self.process.poll() is not None:
                raise NoFaultError("the run ended too soon")
            if time.monotonic() > end:
                raise TimeoutError("what a fault waits for did not happen")
            time.sleep(0.0005)

    def wait_cut_off(self) -> None:
        """Wait for the end of a run that something was done to; raises NoFaultError where it ended well."""
        if self.wait() == 0:
            raise NoFaultError("the run ended as if nothing had been")

    def pid(self, rank: int) -> int:
        """The process of a rank."""
        return int((self.folder / "pids" / str(rank)).read_text())

    def has_begun(self) -> bool:
        """Whether both ranks have written their number."""
        files = [self.folder / "pids" / rank for rank in "01"]
        return all(file.exists() and file.read_text() for file in files)

    def send(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to torchrun or a rank; raises NoFaultError where it has ended."""
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            raise NoFaultError("the process ended too soon") from None

    def kill_all(self) -> None:
        """SIGKILL to torchrun and its ranks, and to nothing else."""
        if self.process.poll() is not None:
            return
        for pid in (self.process.pid, *(self.pid(rank) for rank in (0, 1) if self.has_begun())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def step(self) -> int:
        """The last step in the log."""
        try:
            lines = (self.run / "metrics.jsonl").read_text().splitlines()
            return max((json.loads(line)["step"] for line in lines), default=0)
        except (FileNotFoundError, json.JSONDecodeError):
            return 0

    def said(self) -> str:
        """All that the last start printed."""
        return self.output.read_text(errors="replace")

    def went_on_from(self) -> int:
        """The step that the last start went on after."""
        found = re.search(r"resuming after step (\d+)", self.said())
        return int(found[1]) if found else 0

    def difference(self) -> str:
        """How the run differs from what it should have come to; nothing where it does not."""
        if not (self.run / "results.json").exists():
            return f"no results: {self.said()[-400:]}"
        try:
            assert_same_runs(self.expected, self.run)
        except AssertionError as error:
            return f"other results {str(error)[:200]}"
        return ""
