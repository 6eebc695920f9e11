"""Runs a case and lists the faults in how it ended."""

import contextlib
import errno
import faulthandler
import importlib
import logging
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.cases import Case

REPOSITORY = Path(__file__).parents[2]
SECONDS, SECONDS_OF_A_PROCESS = 30.0, 120.0
MEMORY = 16 * 2**30  # of address space: a case that asks for more gets an error, and the machine stays usable
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate")
CHANGES += ("os.chmod", "shutil.rmtree", "shutil.copyfile", "shutil.move")
# Positions of the changed paths in the arguments of an event; for the others it is the first.
CHANGED = {"os.rename": (0, 1), "os.link": (1,), "os.symlink": (1,), "shutil.copyfile": (1,)}
CHANGED |= {"shutil.move": (0, 1)}
FOREIGN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "socket.bind")
FOREIGN += ("socket.getaddrinfo", "webbrowser.open")
# Caches that libraries create once per machine; nothing can be created below /proc.
HARMLESS = re.compile(
    r"/dev/null|/proc(/.*)?|/dev/shm/.*|.*/__pycache__(/.*)?|.*/(torchinductor_\w+|matplotlib)(/.*)?"
)


class HangError(BaseException):
    """The case exceeded its time limit; no `except Exception` catches this."""


@dataclass
class Outcome:
    """How a case ended: its exit status (None: not by itself), its faults, and the start of stderr."""

    status: int | None
    faults: list[str] = field(default_factory=list)
    message: str = ""


class _Watch:
    """An audit hook that records writes outside the allowed folders, new processes and connections."""

    def __init__(self) -> None:
        self.allowed: tuple[str, ...] | None = None  # None: inactive
        self.seen: list[str] = []
        sys.addaudithook(self._on_event)

    def _on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.allowed is None:
            return
        if event in FOREIGN:
            if getattr(arguments[0], "family", None) == socket.AF_UNIX:
                return  # the loader's workers talk to each other
            self.seen.append(f"{event} {arguments[:2]}"[:200])
        elif event in CHANGES or (event == "open" and _is_write(arguments[2])):
            # shutil.rmtree names what it removes relative to an open folder.
            inside = arguments[1] if event in ("os.remove", "os.rmdir") else -1
            folder = "" if inside == -1 else os.readlink(f"/proc/self/fd/{inside}")
            for place in CHANGED.get(event, (0,)):
                self._note(event, arguments[place], folder)

    def _note(self, event: str, path: Any, folder: str) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            real = os.path.abspath(os.path.join(folder, os.fsdecode(path)))
            if not real.startswith(self.allowed or ()) and not HARMLESS.fullmatch(real):
                self.seen.append(f"{event} {real}"[:200])


def _is_write(flags: Any) -> bool:
    return isinstance(flags, int) and bool(flags & WRITES)


WATCH = _Watch()


def run_case(case: Case, good: Path, as_process: bool = False) -> Outcome:
    """Run it in a folder of its own, in which it may write only below `out` and `tmp`."""
    with tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as name:
        box, errors = Path(name).resolve() / "box", Path(name) / "stderr"
        for folder in ("tmp", "home"):
            (box / folder).mkdir(parents=True)
        arguments = case.lay_out(box, good)
        before = _snapshot(box) | _snapshot(good)
        run = _in_process if not as_process else _as_process
        outcome = run(case, arguments, box, errors)
        stderr = errors.read_text(encoding="utf-8", errors="replace")
        outcome.faults += _faults(outcome.status, stderr, case.program)
        outcome.message = stderr.strip()[:300]
        after = _snapshot(box) | _snapshot(good)
        changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        outcome.faults += [f"file outside the output folder: {path}" for path in sorted(changed)[:3]]
        return outcome


def _faults(status: int | None, stderr: str, program: str) -> list[str]:
    lines = stderr.strip().splitlines()
    if status is None:
        return []
    faults = []
    if "Traceback (most recent" in stderr or "--- Logging error ---" in stderr:
        faults.append("a traceback: " + stderr.strip()[-1500:])
    elif status == 2 and [line.partition(": ")[0] for line in lines if line[:9] != "warning: "] != ["error"]:
        faults.append(f"status 2 and not one line 'error: ...': {stderr[:300]!r}")
    if status not in ((0, 1, 2) if program == "data.check" else (0, 2)):
        faults.append(f"status {status}: {stderr[-300:]!r}")
    return faults


def _snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """{path: (size, modification time)} of all files and folders except those a case may write to."""
    found = {}
    for root, folders, files in os.walk(folder):
        if root == str(folder):
            folders[:] = [name for name in folders if name != "out"]
        for name in files + folders:
            stat = os.lstat(os.path.join(root, name))
            found[os.path.join(root, name)] = (stat.st_size, stat.st_mtime_ns) if name in files else (0, 0)
    return {path: entry for path, entry in found.items() if not HARMLESS.fullmatch(path)}


def _in_process(case: Case, arguments: list[str], box: Path, errors: Path) -> Outcome:
    main = importlib.import_module(_module(case.program)).main
    try:
        with _guarded(box, box / case.folder, errors):
            status = main(arguments)
    except SystemExit as end:  # --help
        return Outcome(end.code if isinstance(end.code, int) else 1)
    except HangError:
        return Outcome(None, [f"no end after {SECONDS:.0f} s: {traceback.format_exc()[-1500:]}"])
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        where = traceback.extract_tb(error.__traceback__)
        ours = [f"{Path(f.filename).name}:{f.lineno}" for f in where if str(REPOSITORY) in f.filename]
        ours = [place for place in ours if not place.startswith("guard.py")]
        return Outcome(None, [f"{type(error).__name__} at {' '.join(ours[-4:])}: {str(error)[:300]}"])
    finally:
        noted, WATCH.seen = WATCH.seen, []
    return Outcome(status, noted)


def _module(program: str) -> str:
    return f"{program}.__main__" if (REPOSITORY / program.replace(".", "/")).is_dir() else program


@contextlib.contextmanager
def _guarded(box: Path, place: Path, errors: Path) -> Iterator[None]:
    """In the folder `place`, watched, limited in time and memory, stderr in a file and stdout discarded."""
    with _streams(errors), _logging_restored(), _limits():
        folder, tempdir = os.getcwd(), tempfile.tempdir
        try:
            os.chdir(place)
            tempfile.tempdir = str(box / "tmp")
            WATCH.allowed = (str(box / "out"), str(box / "tmp") + "/")
            yield
        finally:
            WATCH.allowed, tempfile.tempdir = None, tempdir
            os.chdir(folder)


@contextlib.contextmanager
def _streams(errors: Path) -> Iterator[None]:
    """Redirect stdout and stderr, including what C code writes to them."""
    sys.stdout.flush(), sys.stderr.flush()
    kept, streams = (os.dup(1), os.dup(2)), (sys.stdout, sys.stderr)
    try:
        with errors.open("wb") as file, open(os.devnull, "wb") as devnull:
            os.dup2(devnull.fileno(), 1), os.dup2(file.fileno(), 2)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(UnicodeEncodeError):
                stream.flush()
        sys.stdout, sys.stderr = streams
        for number, copy in enumerate(kept, start=1):
            os.dup2(copy, number), os.close(copy)


@contextlib.contextmanager
def _logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    try:
        yield
    finally:
        for handler in root.handlers:
            if handler not in handlers:
                handler.close()
        root.handlers, root.level = handlers, level


@contextlib.contextmanager
def _limits() -> Iterator[None]:
    """`SECONDS` and `MEMORY`. A hang in C code ignores the alarm: a later one ends the process."""

    def ring(*_: object) -> None:
        raise HangError

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, ring)
    try:
        most = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
        faulthandler.dump_traceback_later(4 * SECONDS, exit=True)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _as_process(case: Case, arguments: list[str], box: Path, errors: Path) -> Outcome:
    caches = Path(tempfile.gettempdir()) / "fuzz-caches"  # of matplotlib and other libraries
    caches.mkdir(exist_ok=True)
    settings = {"HOME": str(box / "home"), "TMPDIR": str(box / "tmp"), "PYTHONPATH": str(REPOSITORY)}
    settings |= dict.fromkeys(("XDG_CACHE_HOME", "MPLCONFIGDIR", "TORCH_HOME", "HF_HOME"), str(caches))
    settings |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    start = [str(REPOSITORY / "main.py")] if case.program == "main" else ["-m", case.program]
    command = [sys.executable, *start, *arguments]
    with errors.open("wb") as file:
        try:
            done = subprocess.run(
                command,
                cwd=box / case.folder,
                env=os.environ | settings,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file,
                timeout=SECONDS_OF_A_PROCESS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Outcome(None, [f"no end after {SECONDS_OF_A_PROCESS:.0f} s"])
        except ValueError:  # a NUL or an unpaired surrogate: no shell can pass it
            return Outcome(None)
        except OSError as error:
            if error.errno != errno.E2BIG:  # longer than the system passes to a process
                raise
            return Outcome(None)
    return Outcome(done.returncode)
