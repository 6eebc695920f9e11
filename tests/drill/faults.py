"""The faults: each disturbs a fresh run of a `Subject`, resumes it to its end and returns what was lost."""

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.drill.subject import (
    DAMAGED,
    NOT_FINITE,
    NOT_WRITTEN,
    SAVED,
    SKIPPED,
    STEPS,
    NoFaultError,
    Subject,
)

Fault = Callable[[Subject, random.Random], str]

NAN = """
import model.objectives
original, calls = model.objectives.ritc_loss, []
def poisoned(*arguments):
    calls.append(1)
    return original(*arguments) * (float('nan') if len(calls) in ({step} * 2 - 1, {step} * 2) else 1.0)
model.objectives.ritc_loss = poisoned
"""


def killed(target: str, moment: str) -> Fault:
    """SIGKILL to a rank or to all: at a random moment, after a random step, or during a save."""

    def fault(subject: Subject, rng: random.Random) -> str:
        subject.start()
        if moment == "at any time":
            subject.wait_until(subject.has_begun)
            time.sleep(rng.uniform(0.0, 12.0))
        elif moment == "after a step":
            step = rng.randrange(1, STEPS)
            subject.wait_until(lambda: subject.step() >= step)
        else:
            subject.wait_until(lambda: (subject.run / "metrics.jsonl").exists())
            time.sleep(rng.uniform(0.0, 3.0))
            subject.wait_until(lambda: any(subject.run.glob("*.pth.*.tmp")))
        if target == "all":
            subject.kill_all()
        else:
            subject.send(subject.pid(rng.randrange(2)), signal.SIGKILL)
        subject.wait_for_failure()
        return resume(subject)

    return fault


def restarted(subject: Subject, rng: random.Random) -> str:
    """SIGKILL to a rank under torchrun --max-restarts: the run resumes by itself."""
    subject.start(restarts=2)
    step = rng.randrange(1, STEPS)
    subject.wait_until(lambda: subject.step() >= step)
    victim = subject.pid(rank := rng.randrange(2))
    subject.send(victim, signal.SIGKILL)
    assert subject.wait() == 0, subject.log()[-600:]
    if subject.pid(rank) == victim:
        raise NoFaultError("the run ended before it could be restarted")
    return f"{max(0, step - subject.resumed_after())} steps repeated, by itself"


def resume(subject: Subject, *overrides: str) -> str:
    """Run the same command again to its end, and count the steps that are repeated."""
    reached = subject.step()
    status = subject.finish(*overrides)
    assert status == 0, f"status {status}: {subject.log()[-600:]}"
    return f"{max(0, reached - subject.resumed_after())} steps repeated"


def signalled(number: signal.Signals, target: str) -> Fault:
    """A signal that requests a stop, to torchrun (which forwards it) or to a single rank."""

    def fault(subject: Subject, rng: random.Random) -> str:
        subject.start()
        step = rng.randrange(1, STEPS - 4)
        subject.wait_until(lambda: subject.step() >= step)
        pid = subject.process.pid if target == "torchrun" else subject.pid(rng.randrange(2))
        subject.send(pid, number)
        subject.wait_for_failure()
        assert SAVED in subject.log(), subject.log()[-600:]
        lost = resume(subject)
        assert lost.startswith("0 "), lost
        return lost

    return fault


def full_disk(subject: Subject, rng: random.Random) -> str:
    """A small tmpfs that is full for a while; without the right to mount, a limit on the size of files."""
    subject.run.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(subject.run)]
    is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        subject.start()
        step = rng.randrange(1, STEPS - 8)
        subject.wait_until(lambda: subject.step() >= step)
        _fill(subject, is_mounted)
        subject.wait_until(lambda: NOT_WRITTEN in subject.log())
        _free(subject, is_mounted)
        assert subject.wait() == 0, subject.log()[-600:]
        difference = subject.difference()
        assert not difference, difference
    finally:
        subject.kill_all()
        if is_mounted:
            kept = subject.folder / "kept"
            subprocess.run(["cp", "-r", str(subject.run), str(kept)], check=True)
            subprocess.run(["umount", "--lazy", str(subject.run)], check=True)  # loader workers end later
            subject.run.rmdir()
            kept.rename(subject.run)
    return "nothing" + ("" if is_mounted else " (no right to mount: a limit on the size of files)")


def _fill(subject: Subject, is_mounted: bool) -> None:
    if not is_mounted:
        subprocess.run(["prlimit", f"--pid={subject.pid(0)}", "--fsize=1000:unlimited"], check=True)
        return
    with (subject.run / "filler").open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(2**16))
        except OSError:
            pass


def _free(subject: Subject, is_mounted: bool) -> None:
    if is_mounted:
        (subject.run / "filler").unlink()
    else:
        subprocess.run(["prlimit", f"--pid={subject.pid(0)}", "--fsize=unlimited:unlimited"], check=True)


def damaged_checkpoint(how: str) -> Fault:
    """A run is killed and its last checkpoint damaged."""

    def fault(subject: Subject, rng: random.Random) -> str:
        subject.start()
        step = rng.randrange(10, STEPS)
        subject.wait_until(lambda: subject.step() >= step)
        subject.kill_all()
        subject.wait_for_failure()
        last = subject.run / "checkpoint_last.pth"
        content = bytearray(last.read_bytes())
        if how == "a flipped bit":
            content[rng.randrange(len(content) // 4, len(content) * 3 // 4)] ^= 1 << rng.randrange(8)
        elif how == "cut short":
            del content[rng.randrange(len(content)) :]
        else:
            content[:] = bytes(len(content))
        last.write_bytes(content)
        lost = resume(subject)
        if DAMAGED not in subject.log():
            raise NoFaultError("the damage is in unused bytes")
        return lost

    return fault


def _some_image(subject: Subject, rng: random.Random) -> Path:
    records = json.loads((subject.data / "train_reid_en.json").read_text())
    return subject.data / "imgs" / rng.choice(records)["file_path"]


def bad_image(how: str) -> Fault:
    """A training image is deleted or truncated during the run, then restored, and the run resumes."""

    def fault(subject: Subject, rng: random.Random) -> str:
        path = _some_image(subject, rng)
        content = path.read_bytes()
        subject.start()
        subject.wait_until(lambda: subject.step() >= 1)
        if how == "deleted":
            path.unlink()
        else:
            path.write_bytes(content[: len(content) // 2])
        try:
            subject.wait_for_failure()
            assert path.name in subject.log(), subject.log()[-600:]
        finally:
            path.write_bytes(content)
        return resume(subject)

    return fault


def skipped_image(subject: Subject, rng: random.Random) -> str:
    """The same with data.on_bad_image=skip: the image is lost by choice, and a kill loses nothing else."""
    path = _some_image(subject, rng)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    skip = "data.on_bad_image=skip"
    try:
        assert subject.finish(skip) == 0, subject.log()[-600:]
        listed = (subject.run / "bad_images.txt").read_text().split()
        assert listed == [path.relative_to(subject.data / "imgs").as_posix()], listed
        subject.compare_with_this()
        subject.start(skip)
        subject.wait_until(lambda: subject.step() >= STEPS // 2)
        subject.kill_all()
        subject.wait_for_failure()
        return f"1 image, by choice; {resume(subject, skip)}"
    finally:
        path.write_bytes(content)


def nan_stops(subject: Subject, rng: random.Random) -> str:
    """A loss that is NaN on both ranks: the run stops before the step, and resumes without the NaN."""
    subject.start(injected=NAN.format(step=rng.randrange(2, STEPS)))
    assert subject.wait() != 0
    assert NOT_FINITE in subject.log(), subject.log()[-600:]
    return resume(subject)


def nan_is_skipped(subject: Subject, rng: random.Random) -> str:
    """The same with schedule.skip_nonfinite: only this step is lost, by choice, the same in two runs."""
    for is_first in (True, False):
        subject.start("schedule.skip_nonfinite=1", injected=NAN.format(step=STEPS // 2))
        assert subject.wait() == 0, subject.log()[-600:]
        assert subject.log().count(SKIPPED) == 1
        if is_first:
            subject.compare_with_this()
    return "1 step, by choice; its images are in the log"


FAULTS: dict[str, tuple[Fault, int]] = {
    "kill -9 of a rank, at any time": (killed("a rank", "at any time"), 4),
    "kill -9 of a rank, after a step": (killed("a rank", "after a step"), 4),
    "kill -9 of a rank, during a save": (killed("a rank", "during a save"), 3),
    "kill -9 of all, at any time": (killed("all", "at any time"), 3),
    "kill -9 of all, after a step": (killed("all", "after a step"), 3),
    "kill -9 of all, during a save": (killed("all", "during a save"), 3),
    "kill -9 of a rank, --max-restarts": (restarted, 2),
    "SIGTERM to torchrun": (signalled(signal.SIGTERM, "torchrun"), 2),
    "SIGINT to torchrun": (signalled(signal.SIGINT, "torchrun"), 1),
    "SIGTERM to a rank": (signalled(signal.SIGTERM, "a rank"), 1),
    "SIGUSR1 to a rank": (signalled(signal.SIGUSR1, "a rank"), 1),
    "full disk": (full_disk, 2),
    "last checkpoint: a flipped bit": (damaged_checkpoint("a flipped bit"), 1),
    "last checkpoint: cut short": (damaged_checkpoint("cut short"), 1),
    "last checkpoint: zeros": (damaged_checkpoint("zeros"), 1),
    "an image deleted": (bad_image("deleted"), 1),
    "an image truncated": (bad_image("truncated"), 1),
    "an image truncated, skipped": (skipped_image, 1),
    "NaN": (nan_stops, 2),
    "NaN, skipped": (nan_is_skipped, 1),
}
