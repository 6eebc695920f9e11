"""Search with weights that others released, by the commands of the README, with small stand-ins of them."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from torch import Tensor

from misc.search.__main__ import main
from tests.helpers.openai_format import openai_state_dict, save_torchscript
from tests.helpers.released import CLASSIFIER, irra, our_weights, tbps_clip
from tests.helpers.search import image_folder

# {a head of RDE in its release: (rows, columns)}, for towers of 16 numbers; "norm": of a batch norm
HEADS = {
    "visul_emb_layer.fc": (12, 16),
    "visul_emb_layer.mlp.layers.0": (6, 16),
    "visul_emb_layer.mlp.layers.1": (12, 6),
    "texual_emb_layer.linear": (12, 16),
    "texual_emb_layer.mlp.layers.0": (6, 16),
    "texual_emb_layer.mlp.layers.1": (12, 6),
}


def rde(ours: dict[str, Tensor]) -> dict[str, object]:
    content = irra(ours, CLASSIFIER)
    state = content["model"]
    for name, (rows, columns) in HEADS.items():
        state |= {f"{name}.weight": 0.1 * torch.randn(rows, columns), f"{name}.bias": torch.zeros(rows)}
    for tower in ("visul", "texual"):
        norm = f"{tower}_emb_layer.mlp.bns.0."
        state |= {norm + name: torch.ones(6) for name in ("weight", "running_var")}
        state |= {norm + name: torch.zeros(6) for name in ("bias", "running_mean")}
        state[norm + "num_batches_tracked"] = torch.tensor(1)
    return content


def commands() -> list[list[str]]:
    """Those of the README that index with weights of others."""
    lines = Path("README.md").read_text(encoding="utf-8").splitlines()
    return [shlex.split(line) for line in lines if re.match(r"python -m misc\.search index weights/", line)]


@pytest.mark.parametrize("name", ["tbps-clip-cuhk.pth", "rde-cuhk.pth", "ViT-B-16.pt"])
def test_released_weights_are_searched_with_by_the_line_of_the_readme(
    name: str, config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (command,) = [command for command in commands() if Path(command[4]).name == name]
    weights, sizes = tmp_path / name, ["data.image_size=[64,64]"]
    if name == "ViT-B-16.pt":
        save_torchscript(openai_state_dict(), weights)
    else:
        sizes = ["data.image_size=[64,32]", "model.image_heads=2", "model.text_heads=2"]
        sizes += ["experiment.tse_width=12"] if name.startswith("rde") else []
        ours = our_weights(config)
        torch.save(tbps_clip(ours) if name.startswith("tbps") else rde(ours), weights)
    images, index = image_folder(tmp_path / "photos", 4), tmp_path / "index"
    files = {
        "weights/" + name: str(weights),
        "photos": str(images),
        command[command.index("--out") + 1]: str(index),
    }
    arguments = [files.get(word, word) for word in command[3:]]
    assert main([*arguments, *sizes, "data.num_workers=0"]) == 0
    answers = tmp_path / "answers.json"
    assert main(["query", str(index), "a woman in a red coat", "--json", str(answers)]) == 0
    (answer,) = json.loads(answers.read_text())
    assert len(answer["results"]) == 4
    assert "has no options of a run; those of its release are used" in caplog.text or name == "ViT-B-16.pt"
