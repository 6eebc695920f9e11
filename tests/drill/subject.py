"""The run that faults are injected into."""

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

# Messages of the product that the drill waits for.
RESUMING, NOT_WRITTEN, SAVED = "resuming after step", "could not be written", "saved in"
DAMAGED, NOT_FINITE, SKIPPED = "passed over", "not finite", " of at most "
MESSAGES = (RESUMING, NOT_WRITTEN, SAVED, DAMAGED, NOT_FINITE, SKIPPED)
STEPS = 24  # of the run: three epochs of 64 samples in steps of 2 x 4
LIMIT = 600.0  # seconds after which a run counts as hanging


class NoFaultError(Exception):
    """The fault did not happen: the run ended before it, or was not affected by it."""


class Subject:
    """A small training of two processes under torchrun in `folder`; one `start` at a time."""

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
        assert self.finish() == 0, self.log()
        self.run.rename(self.undisturbed)

    def _program(self, lines: str) -> None:
        pids = self.folder / "pids"
        pids.mkdir(exist_ok=True)
        stacks = (
            f"import faulthandler; faulthandler.dump_traceback_later({0.8 * LIMIT})\n"  # of a run that hangs
        )
        write_program(self.program, say_pid(pids) + stacks + lines)

    def clean(self) -> None:
        """Return to the state before the first start."""
        shutil.rmtree(self.run, ignore_errors=True)
        self._program("")
        self.expected = self.undisturbed

    def compare_with_this(self) -> None:
        """Compare later outcomes with the current one: what is lost by choice changes the figures."""
        self.expected = self.folder / "expected"
        shutil.rmtree(self.expected, ignore_errors=True)
        self.run.rename(self.expected)

    def start(self, *overrides: str, injected: str = "", restarts: int = 0) -> None:
        """Start the command, each time the same but for what a fault adds, without waiting for it."""
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
        """Wait for torchrun to end; returns its exit status."""
        try:
            return self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self.kill_all()
            raise TimeoutError(f"the run did not end within {LIMIT:.0f} s: {self.log()[-9000:]}") from None

    def finish(self, *overrides: str) -> int:
        """Start the command and wait for its end."""
        self.start(*overrides)
        return self.wait()

    def wait_until(self, happened: Callable[[], bool]) -> None:
        """Wait until `happened()`; raises NoFaultError if the run ends first."""
        end = time.monotonic() + LIMIT
        while not happened():
            if self.process.poll() is not None:
                raise NoFaultError("the run ended too soon")
            if time.monotonic() > end:
                raise TimeoutError(f"the moment of the fault did not come: {self.log()[-9000:]}")
            time.sleep(0.0005)

    def wait_for_failure(self) -> None:
        """Wait for the end of a disturbed run; raises NoFaultError if it succeeded."""
        if self.wait() == 0:
            raise NoFaultError("the run succeeded undisturbed")

    def pid(self, rank: int) -> int:
        """The process id of a rank."""
        return int((self.folder / "pids" / str(rank)).read_text())

    def has_begun(self) -> bool:
        """Whether both ranks have written their process id."""
        files = [self.folder / "pids" / rank for rank in "01"]
        return all(file.exists() and file.read_text() for file in files)

    def send(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to torchrun or a rank; raises NoFaultError if it has ended."""
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            raise NoFaultError("the process ended too soon") from None

    def kill_all(self) -> None:
        """Kill torchrun and its ranks, and nothing else."""
        if self.process.poll() is not None:
            return
        for pid in (self.process.pid, *(self.pid(rank) for rank in (0, 1) if self.has_begun())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def step(self) -> int:
        """The last logged step; 0 before the first."""
        try:
            lines = (self.run / "metrics.jsonl").read_text().splitlines()
            return max((json.loads(line)["step"] for line in lines), default=0)
        except (FileNotFoundError, json.JSONDecodeError):
            return 0

    def log(self) -> str:
        """The output of the last start so far."""
        return self.output.read_text(errors="replace")

    def resumed_after(self) -> int:
        """The step that the last start resumed after; 0 for a run from scratch."""
        found = re.search(rf"{RESUMING} (\d+)", self.log())
        return int(found[1]) if found else 0

    def difference(self) -> str:
        """How the run differs from the expected outcome; empty if it does not."""
        if not (self.run / "results.json").exists():
            return f"no results: {self.log()[-400:]}"
        try:
            assert_same_runs(self.expected, self.run)
        except AssertionError as error:
            return f"other results {str(error)[:200]}"
        return ""
