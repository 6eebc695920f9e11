"""AltCLIP in training and evaluation: losses, locks, checkpoints."""

import dataclasses
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from data.annotations import load_data
from data.loaders import build_loaders
from data.synthetic.render import render_people
from data.types import Batch
from main import main
from misc.export.__main__ import main as export
from model import build_model
from model.altclip_adapter import AltCLIP
from options import LOSSES, UserError, load_options, to_dict
from tests.helpers.altclip_folders import (
    SWITCHES,
    WEIGHTS,
    batch_of,
    build,
    copied,
    largest_cosine,
    of_people,
    settings,
)
from tests.helpers.whole_runs import error_line, results_of

# Losses


@pytest.mark.parametrize(
    "switches",
    [(name,) for name in LOSSES if name != "mlm"] + [tuple(s for s in SWITCHES if s not in ("mlm", "grab"))],
)
def test_a_loss_is_finite_and_reaches_every_trained_parameter(
    folder: Path, switches: tuple[str, ...]
) -> None:
    torch.manual_seed(0)
    model = build_model(settings(folder, *switches), 3)[0].train()
    output = model(batch_of(folder), soft_label=0.3)
    assert output.parts.keys() == {name for name in switches if name in LOSSES}
    assert output.total.isfinite()
    assert output.total > 0
    output.total.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in trained.values())
    assert any(p.grad.abs().max() > 0 for p in trained.values())


def test_captions_joined_with_longer_ones_have_the_same_loss(folder: Path) -> None:
    """The second captions are longer: the first ones are padded to them when both are encoded at once."""
    model = build_model(settings(folder, "nitc", "mvs_text"), 3)[0].eval()
    batch = batch_of(folder)
    assert batch.tokens["input_ids"].shape != batch.tokens2["input_ids"].shape
    joined = model(batch, soft_label=0.0).total
    alone = build_model(settings(folder, "nitc"), 3)[0].eval()
    each = [
        alone(dataclasses.replace(batch, tokens=t), soft_label=0.0).total
        for t in (batch.tokens, batch.tokens2)
    ]
    torch.testing.assert_close(joined, sum(each) / 2)


def test_mlm_is_switched_off_with_one_warning_and_nothing_is_masked(
    folder: Path, people: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = settings(folder, "nitc", "mlm", **of_people(people))
    with caplog.at_level(logging.WARNING):
        model, tokenizer, processor = build_model(options, 10)
        loaders = build_loaders(options, load_data(options), tokenizer, processor, model.inputs)
    (warning,) = [record.getMessage() for record in caplog.records if "mlm" in record.getMessage()]
    assert "no effect" in warning
    batch = next(iter(loaders.train))
    assert batch.masked_tokens is None
    assert batch.mlm_labels is None
    assert model(batch, soft_label=0.0).parts.keys() == {"nitc"}


def test_mlm_alone_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="mlm"):
        build_model(settings(folder, "mlm"), 3)


@pytest.mark.parametrize(
    ("locks", "frozen"),
    [
        ({"patch_embedding": True}, r"visual\..*\.patch_embedding\."),
        ({"image_blocks": 1}, r"visual\..*(\.embeddings\.|\.pre_layrnorm\.|encoder\.layers?\.0\.)"),
        ({"text_blocks": 1}, r"text\..*(roberta\.embeddings\.|encoder\.layers?\.0\.)"),
        ({"text_layers": (1,)}, r"text\..*encoder\.layers?\.1\."),
    ],
)
def test_locking_freezes_these_parts_and_no_others(folder: Path, locks: dict[str, Any], frozen: str) -> None:
    clip = build(folder)
    clip.lock(**locks)
    found = {name for name, p in clip.named_parameters() if not p.requires_grad}
    assert found == {name for name, _ in clip.named_parameters() if re.match(frozen, name)}
    assert found


@pytest.mark.parametrize(
    ("lock", "value"), [("image_blocks", 3), ("text_blocks", 3), ("text_layers", (0, 2))]
)
def test_locking_a_block_that_is_not_there_is_refused(folder: Path, lock: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"model\.lock_{lock}.*found 2"):
        build(folder).lock(**{lock: value})


# Training


def fit(folder: Path, steps: int = 60) -> tuple[AltCLIP, Tensor, dict[str, Tensor]]:
    """AltCLIP trained on six drawn people, with their images and captions."""
    torch.manual_seed(0)
    model, tokenizer, processor = build_model(settings(folder, "nitc", "ritc", "citc"), 6)
    people = render_people(6)
    images = processor(images=[image for _, image in people], return_tensors="pt")["pixel_values"]
    tokens = tokenizer([caption for caption, _ in people])
    batch = Batch({"view1": images}, tokens, torch.arange(6), torch.arange(6))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        model(batch, soft_label=0.0).total.backward()
        optimizer.step()
    return model.clip.eval(), images, tokens


def test_training_tells_images_and_captions_apart_and_nothing_collapses(folder: Path) -> None:
    clip, images, tokens = fit(folder)
    with torch.no_grad():
        image_rows, text_rows = clip.encode_image(images), clip.encode_text(tokens)
        assert largest_cosine(image_rows) < 0.999
        assert largest_cosine(text_rows) < 0.999
        similarity = F.normalize(text_rows, dim=1) @ F.normalize(image_rows, dim=1).T
        assert similarity.argmax(dim=1).tolist() == list(range(6))
        ids, real = tokens["input_ids"].clone(), tokens["attention_mask"] == 1
        assert not real.all()
        ids[~real] = torch.randint(4, 400, ((~real).sum(),))  # a feature read there would change
        torch.testing.assert_close(
            clip.encode_text({**tokens, "input_ids": ids}), text_rows, atol=1e-5, rtol=0
        )


def run_arguments(config: Path, folder: Path, *overrides: str) -> list[str]:
    """A tiny run of AltCLIP in two languages, from the config of a tiny run of CLIP."""
    common = [f"model.altclip_pretrained={folder}", "model.embed_dim=null", "data.languages=[en,ch]"]
    return ["--config", str(config), "--backbone", "altclip", *common, *overrides]


@pytest.mark.parametrize(
    "own", [("experiment.use_altclip_processor=true", "data.language_draw=one"), ("experiment.sigmoid=true",)]
)
def test_a_checkpoint_evaluates_to_the_figures_of_its_run(
    folder: Path, config: Path, tmp_path: Path, own: tuple[str, ...]
) -> None:
    run, again = tmp_path / "run", tmp_path / "again"
    assert main(run_arguments(config, folder, "schedule.epoch=1", *own)) == 0
    assert results_of(run)["languages"].keys() == {"en", "ch"}
    bare = copied(folder, tmp_path / "bare", (WEIGHTS,))  # what is evaluated are the checkpoint's own
    arguments = ["--config", str(run / "options.yaml"), f"model.altclip_pretrained={bare}"]
    arguments += ["--output-dir", str(again), "--evaluate", str(run / "checkpoint_best.pth")]
    assert main(arguments) == 0
    assert results_of(again)["languages"] == results_of(run)["languages"]


def test_token_selection_is_trained_evaluated_and_exported(
    folder: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, again = tmp_path / "run", tmp_path / "again"
    rde = ["experiment.nitc=false", "experiment.ritc=false", "experiment.tal=true", "experiment.tse=true"]
    rde += ["experiment.tse_width=12", "schedule.epoch=1", "data.languages=[en]"]
    assert main(run_arguments(config, folder, *rde)) == 0
    for format_name, file in (("safetensors", "model.safetensors"), ("onnx", "text.onnx")):
        out = tmp_path / format_name
        assert export([str(run / "checkpoint_best.pth"), str(out), "--format", format_name]) == 0
        assert (out / file).exists()
    arguments = ["--config", str(run / "options.yaml"), "--output-dir", str(again)]
    assert main([*arguments, "--evaluate", str(tmp_path / "safetensors" / "model.safetensors")]) == 0
    assert results_of(again)["languages"] == results_of(run)["languages"]
    capsys.readouterr()
    tokens = ["experiment.text_aug=tokens", "output.overwrite=true"]
    assert main(run_arguments(config, folder, *rde, *tokens)) == 2
    assert "experiment.text_aug" in error_line(capsys)


def test_weights_without_their_bias_are_enough_to_evaluate(folder: Path, tmp_path: Path) -> None:
    """The bias is the sigmoid loss's: what is ranked does not feel it, so neither its lack nor its excess."""
    for name, trained, now in (("with", True, False), ("without", False, True)):
        path = tmp_path / f"{name}.pth"
        torch.save(build(folder, logit_bias=trained).state_dict(), path)
        build(folder, logit_bias=now, checkpoint=path)


@pytest.mark.parametrize("name", ["layer", "layers"])
def test_a_checkpoint_fits_whatever_its_transformers_called_the_blocks(
    folder: Path, tmp_path: Path, name: str
) -> None:
    clip, path = build(folder), tmp_path / "weights.pth"
    clip.visual.visual_projection.weight.data.mul_(2)
    renamed = {
        re.sub(r"encoder\.layers?\.", f"encoder.{name}.", key): v for key, v in clip.state_dict().items()
    }
    torch.save({"model": {f"clip.{key}": value for key, value in renamed.items()}}, path)
    again = build(folder, checkpoint=path)
    assert all(torch.equal(value, clip.state_dict()[key]) for key, value in again.state_dict().items())


def test_a_checkpoint_of_the_other_backbone_is_refused(
    folder: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip_options = load_options(config)
    clip = build_model(clip_options, 0)[0]
    path = tmp_path / "clip.pth"
    torch.save({"model": clip.state_dict(), "options": to_dict(clip_options)}, path)
    capsys.readouterr()
    assert main([*run_arguments(config, folder, "data.normalization=imagenet"), "--evaluate", str(path)]) == 2
    assert re.search(r"model\.backbone.*clip\.pth.*trained with clip.*altclip", error_line(capsys))
    torch.save(clip.state_dict(), path)
    assert main([*run_arguments(config, folder), "--evaluate", str(path)]) == 2
    assert re.search(r"clip\.pth.*AltCLIP's tensors.*another model", error_line(capsys))
    torch.save(build(folder, 64, 32).state_dict(), path)
    capsys.readouterr()
    assert main(["--config", str(config), "--evaluate", str(path)]) == 2
    assert "clip.pth" in error_line(capsys)


def test_a_checkpoint_of_another_size_or_none_is_refused_in_one_line(
    folder: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(build(folder, 32, 32).state_dict(), path)
    capsys.readouterr()
    for evaluated, expected in ((path, "position_embedding"), (tmp_path / "none.pth", "does not exist")):
        assert main([*run_arguments(config, folder), "--evaluate", str(evaluated)]) == 2
        line = error_line(capsys)
        assert expected in line
        assert evaluated.name in line
        assert "OpenAI" not in line
