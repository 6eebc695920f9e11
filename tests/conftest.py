"""What several test files share: a small rendered data set, options of a tiny run on it, a small AltCLIP."""

from pathlib import Path

import pytest
from altclip_folders import altclip_folder, go_offline

from data.synthetic.write import Parameters, generate

TINY = """
base: {base}
misc: {{device: cpu}}
schedule: {{epoch: 2, lr: 1e-3}}
model: {{clip_pretrained: null, lock_patch_embedding: false, patch_size: 16, image_width: 16, image_layers: 1,
  image_heads: 2, text_width: 16, text_layers: 1, text_heads: 2, embed_dim: 16}}
data: {{annotation_file: '{data}', image_root: '{data}/imgs', image_size: [64, 32], batch_size: 16,
  test_batch_size: 32, num_workers: 0}}
log: {{print_period: 2}}
output: {{dir: '{out}'}}
"""


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
    path = tmp_path / "tiny.yaml"
    base = Path("config/s.config.yaml").resolve()
    path.write_text(TINY.format(base=base, data=people, out=tmp_path / "run"), encoding="utf-8")
    return path
