"""What test files share: a rendered data set, a tiny run on it, small models; one of each a session."""

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data.synthetic.write import Parameters, generate
from main import main
from tests.helpers.altclip_folders import go_offline, write_altclip
from tests.helpers.fast_main import draw_pictures, make_runs_fast
from tests.helpers.gloo import end_processes
from tests.helpers.tiny_config import write_tiny
from tests.helpers.towers.families import write_model
from tests.helpers.towers.open_clip import write_open_clip


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    go_offline(monkeypatch)


@pytest.fixture(scope="session", autouse=True)
def _session() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        make_runs_fast(patch)
        yield
    end_processes()


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs of a test that uses this draw their pictures."""
    draw_pictures(monkeypatch)


def _once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder that `make(folder)` makes, once for all of pytest-xdist's processes."""
    is_shared = "PYTEST_XDIST_WORKER" in os.environ
    root = factory.getbasetemp().parent if is_shared else factory.getbasetemp()
    folder, ready = root / name, root / f"{name}.ready"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            make(folder)
            ready.touch()
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small AltCLIP: to be read, not changed."""
    return _once(tmp_path_factory, "altclip", write_altclip)


@pytest.fixture(scope="session")
def open_clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """(kind) -> the folder of a small model of open_clip, of `KINDS`: to be read, not changed."""

    def folder_of(kind: str) -> Path:
        name = f"open_clip_{kind.replace(' ', '_')}"
        return _once(tmp_path_factory, name, lambda folder: write_open_clip(folder, kind))

    return folder_of


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """(`model_type`) -> the folder of a small model of that family: to be read, not changed."""

    def folder_of(kind: str) -> Path:
        return _once(tmp_path_factory, kind, lambda folder: write_model(folder, kind))

    return folder_of


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered data set: 10 persons to train on, 6 in val, 6 in test, two images each."""
    parameters = Parameters(22, 0, 6, 6, images_per_identity=2)
    return _once(tmp_path_factory, "people", lambda folder: generate(folder, parameters))


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, people: Path) -> Path:
    """The folder of a tiny run of two epochs on `people`: to be read, not changed."""

    def train(folder: Path) -> None:
        assert main(["--config", str(write_tiny(folder.with_suffix(".yaml"), people, folder))]) == 0

    return _once(tmp_path_factory, "finished_run", train)


@pytest.fixture
def config(people: Path, tmp_path: Path) -> Path:
    """A config of a tiny simplified run on `people`, into `tmp_path/run`."""
    return write_tiny(tmp_path / "tiny.yaml", people, tmp_path / "run")
