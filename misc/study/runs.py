"""Running a study: each run is main.py in its own process and folder, as many at once as there are devices.

Finished runs are kept and interrupted ones resume, whatever ended the study before.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, cached_property
from pathlib import Path

from tqdm import tqdm

from misc.checkpoints.lock import is_held
from misc.evaluation.features import file_digest
from misc.process.durable import write_text
from misc.process.signals import RESUME_ME
from misc.process.workers import num_cores
from misc.study.expand import Run
from options import Options, to_dict

ROOT = Path(__file__).resolve().parents[2]
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
PAUSE = 0.2  # seconds between two looks at the processes
FINISHED, INTERRUPTED, FAILED, NEW = "finished", "interrupted", "failed", "to do"


@cache
def digest(path: str) -> str:
    """The SHA-256 of a file, or of the files right in a folder; "" where there is none."""
    place = Path(path)
    if not place.is_dir():
        return file_digest(place) if place.is_file() else ""
    digests = [file_digest(one) for one in sorted(place.iterdir()) if one.is_file()]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


@dataclass(frozen=True)
class Job:
    """A run on disk: its folder, its process, and how far it is."""

    run: Run

    @cached_property
    def options(self) -> Options:
        """The options of the run."""
        return self.run.options()

    @property
    def folder(self) -> Path:
        """Its output folder."""
        return Path(self.options.output.dir)

    @property
    def console(self) -> Path:
        """The file with the console output of its process."""
        return self._beside(".txt")

    @property
    def _failure(self) -> Path:
        """The file with the reason why it failed the last time."""
        return self._beside(".failed")

    @property
    def _request(self) -> Path:
        """The file that says what the folder holds a run of."""
        return self._beside(".json")

    def _beside(self, suffix: str) -> Path:
        return self.folder.parent / f"{self.folder.name}{suffix}"

    def request(self) -> str:
        """What the run depends on: all options, and the content of its annotations and of its first weights.

        A finished run of another request is not taken for this one, and is trained again.
        """
        data, start = self.options.data, self.run.evaluates or self.options.model.clip_pretrained
        annotations = [data.annotation_file, *(files[0] for files in self.options.eval.test_sets.values())]
        content = {path: digest(path) for path in (*annotations, *([start] if start else []))}
        return json.dumps({"options": to_dict(self.options), "content": content}, indent=1)

    def is_same(self) -> bool:
        """Whether what the folder holds is of the same request."""
        return self._request.exists() and self._request.read_text(encoding="utf-8") == self.request()

    def state(self) -> str:
        """`FINISHED`, `INTERRUPTED`, `FAILED` or `NEW`."""
        if not self.is_same():
            return NEW
        if (self.folder / "results.json").exists():
            return FINISHED
        return FAILED if self._failure.exists() else INTERRUPTED

    def failure(self) -> str:
        """Why it failed, in one line."""
        return self._failure.read_text(encoding="utf-8")

    def command(self) -> list[str]:
        """Its command line, without what continues or replaces an earlier run."""
        run, launcher = self.run, [sys.executable]
        if run.processes > 1:
            torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={run.processes}"]
            launcher += torchrun
        mode = ["--evaluate", run.evaluates] if run.evaluates else []
        return [*launcher, str(ROOT / "main.py"), "--config", str(run.config), *mode, *run.overrides]

    def start(self, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        """Start its process, which resumes an interrupted run and replaces one of another request."""
        is_same = self.is_same()
        mode = [] if self.run.evaluates else ["--resume"] if is_same else ["output.overwrite=true"]
        if not is_same:
            (self.folder / "results.json").unlink(missing_ok=True)
            write_text(self._request, self.request())
        self._failure.unlink(missing_ok=True)
        with self.console.open("wb") as console:
            return subprocess.Popen(
                [*self.command(), *mode],
                cwd=ROOT,
                env=os.environ | ONE_THREAD | environment,
                stdout=console,
                stderr=subprocess.STDOUT,
            )

    def end(self, status: int) -> None:
        """Note why its process failed, where it did; one that was stopped resumes."""
        is_finished = status == 0 and (self.folder / "results.json").exists()
        if not is_finished and status not in (RESUME_ME, -2, -15):
            lines = self.console.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            errors = [line for line in lines if line.startswith("error:")] or lines[-1:]
            write_text(self._failure, f"status {status}: {errors[-1] if errors else 'it printed nothing'}")


def devices(is_cpu: bool, processes: int) -> list[dict[str, str]]:
    """The environment of each run that goes on at the same time: GPUs of its own, or cores."""
    from torch import cuda

    if is_cpu or not cuda.is_available():
        return [{}] * max(1, num_cores() // processes)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(cuda.device_count())]
    groups = [names[first : first + processes] for first in range(0, len(names), processes)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(group)} for group in groups if len(group) == processes]


def run_all(jobs: Sequence[Job], slots: Sequence[Mapping[str, str]], report: Callable[[Job], str]) -> None:
    """Run those that are not finished, one in each slot at a time. One that fails does not stop the others.

    Args:
        report: the line that is printed about a run that ended.
    """
    _wait_for_earlier(jobs)
    waiting = [job for job in jobs if job.state() != FINISHED]
    free = list(slots)
    active: dict[Job, tuple[subprocess.Popen[bytes], Mapping[str, str]]] = {}
    begin, total = time.monotonic(), len(waiting)
    with tqdm(total=len(jobs), initial=len(jobs) - total, desc="runs", unit="run", disable=None) as bar:
        try:
            while waiting or active:
                while waiting and free:
                    job, slot = waiting.pop(0), free.pop(0)
                    active[job] = (job.start(slot), slot)
                time.sleep(PAUSE)
                for job in [job for job, (process, _) in active.items() if process.poll() is not None]:
                    process, slot = active.pop(job)
                    free.append(slot)
                    job.end(process.returncode)
                    bar.update()
                    ended = total - len(waiting) - len(active)
                    seconds = (time.monotonic() - begin) / ended * (total - ended)
                    tqdm.write(f"{report(job)}; about {timedelta(seconds=round(seconds))} remaining")
        finally:
            for process, _ in active.values():
                process.terminate()
            for process, _ in active.values():
                process.wait()


def _wait_for_earlier(jobs: Sequence[Job]) -> None:
    """Wait for the processes of a study that was killed: they still work in folders, on cores or GPUs."""
    while left := [job.run.name for job in jobs if is_held(job.folder)]:
        tqdm.write(f"waiting for runs that an earlier study left behind: {', '.join(left)}")
        for job in jobs:
            while is_held(job.folder):
                time.sleep(PAUSE)
