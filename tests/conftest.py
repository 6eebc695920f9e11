"""What several test files share: a small rendered data set, options of a tiny run on it, a small AltCLIP."""

from pathlib import Path

import pytest

from data.synthetic.write import Parameters, generate
from tests.helpers.altclip_folders import altclip_folder, go_offline
from tests.helpers.tiny_config import write_tiny


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    go_offline(monkeypatch)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small AltCLIP: to be read, not changed."""
    return altclip_folder(tmp_path_factory)


@pytest.fixture(scope="session")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered data set: 10 persons to train on, 6 in val, 6 in test, two images each."""
    folder = tmp_path_factory.mktemp("data") / "people"
    generate(folder, Parameters(22, 0, 6, 6, images_per_identity=2))
    return folder


@pytest.fixture
def config(people: Path, tmp_path: Path) -> Path:
    """A config of a tiny simplified run on `people`, into `tmp_path/run`."""
    return write_tiny(tmp_path / "tiny.yaml", people, tmp_path / "run")
