"""Whatever losses a run trains with, its checkpoint is evaluated, indexed, exported and resumed."""

from pathlib import Path
from typing import Any

import pytest
import torch

from main import main
from misc.export.__main__ import main as export
from misc.export.source import load_source
from misc.search.__main__ import main as search
from misc.search.encoder import load_encoder
from model import build_model
from options import LOSSES, load_options, to_dict
from tests.helpers.altclip_folders import settings
from tests.helpers.tiny import TOGETHER
from tests.helpers.tiny_config import write_config
from tests.helpers.whole_runs import results_of

VARIANTS = ("mvs_image", "mvs_text")


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["clip", "altclip"])
def test_a_run_with_all_losses_is_evaluated_indexed_exported_and_resumed(
    backbone: str, people: Path, folder: Path, tmp_path: Path
) -> None:
    """MLM among them: AltCLIP, which has no mask token, trains without it."""
    run, best = tmp_path / "run", tmp_path / "run" / "checkpoint_best.pth"
    model = {"backbone": backbone, **({"altclip_pretrained": str(folder)} if backbone == "altclip" else {})}
    config = write_config(
        tmp_path / "all.yaml",
        people,
        16,
        experiment=dict.fromkeys((*TOGETHER, *VARIANTS), True) | {"cmt_depth": 1, "text_aug": "eda"},
        schedule={"epoch": 1},
        data={"batch_size": 16},
        output={"dir": str(run)},
        model=model | ({"embed_dim": None} if backbone == "altclip" else {}),
    )
    assert main(["--config", str(config)]) == 0
    again = ["--evaluate", str(best), "--output-dir", str(tmp_path / "again")]
    assert main(["--config", str(run / "options.yaml"), *again]) == 0
    assert results_of(tmp_path / "again")["languages"] == results_of(run)["languages"]
    assert search(["index", str(best), str(people / "imgs"), "--out", str(tmp_path / "index")]) == 0
    assert export([str(best), str(tmp_path / "out"), "--format", "safetensors"]) == 0
    assert main(["--config", str(config), "--resume", "auto", "schedule.epoch=2"]) == 0


@pytest.mark.parametrize("backbone", ["clip", "altclip"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_checkpoint_of_any_loss_gives_its_towers_to_export_and_search(
    backbone: str, loss: str, config: Path, folder: Path, tmp_path: Path
) -> None:
    """Beside N-ITC, so that MLM under AltCLIP, which is left out, leaves a loss to train with."""
    if backbone == "clip":
        off: dict[str, Any] = {name: name in (loss, "nitc") for name in LOSSES}
        options = load_options(
            config,
            [
                *(f"experiment.{name}={str(on).lower()}" for name, on in off.items()),
                *("experiment.grab_blocks=[0,1]", "model.image_layers=2", "model.text_layers=2"),
            ],
        )
    else:
        options = settings(folder, "nitc", loss)
    model, _, _ = build_model(options, num_identities=3)
    path = tmp_path / "checkpoint_best.pth"
    torch.save({"model": model.state_dict(), "options": to_dict(options)}, path)
    own = load_source(path, None, ()).model.state_dict()
    assert load_encoder(path).model.embed_dim == model.embed_dim
    used = ("clip.", f"{loss}_head.") if loss in ("tse", "grab") else ("clip.",)
    assert own.keys() == {name for name in model.state_dict() if name.startswith(used)} - (
        set() if loss == "sigmoid" else {"clip.logit_bias"}
    )
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in own.items())
