"""The heads in released checkpoints, and in ours: into training, and those that act at test time."""

import logging
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from main import main
from misc.checkpoints.run_options import check_trained_with
from misc.search.encoder import identity_of
from model import build_model
from model.tbps import TBPS
from model.weights.heads import fill_heads
from options import UserError, load_options, to_dict
from tests.helpers.tiny import ALL_OFF, NUM_PERSONS, SIZES, tiny_batch, tiny_model
from tests.helpers.whole_runs import error_line

# {how a name begins in our checkpoints: how it begins in a release}
OF_IRRA = {
    "clip.text.": "base_model.",
    "clip.": "base_model.",
    "mlm_head.cross_attn.": "cross_attn.",
    "mlm_head.cross_modal_transformer.": "cross_modal_transformer.",
    "mlm_head.ln_pre_t.": "ln_pre_t.",
    "mlm_head.ln_pre_i.": "ln_pre_i.",
    "mlm_head.ln_post.": "ln_post.",
    "mlm_head.": "mlm_head.",
    "classifier.": "classifier.",
}
OF_TBPS_CLIP = {
    **OF_IRRA,
    "clip.text.": "encode_text.",
    "clip.": "",
    "simclr_mlp.": "simclr_mlp.",
}
OF_RDE = {
    "clip.text.": "base_model.",
    "clip.": "base_model.",
    "tse_head.image.residual.": "visul_emb_layer.fc.",
    "tse_head.image.hidden.": "visul_emb_layer.mlp.layers.0.",
    "tse_head.image.norm.": "visul_emb_layer.mlp.bns.0.",
    "tse_head.image.output.": "visul_emb_layer.mlp.layers.1.",
    "tse_head.text.residual.": "texual_emb_layer.linear.",
    "tse_head.text.hidden.": "texual_emb_layer.mlp.layers.0.",
    "tse_head.text.norm.": "texual_emb_layer.mlp.bns.0.",
    "tse_head.text.output.": "texual_emb_layer.mlp.layers.1.",
}
SCALARS = ("clip.logit_scale", "clip.logit_bias")
WITH_HEADS = ALL_OFF | {"experiment.sdm": True, "experiment.id": True, "experiment.mlm": True}


def trained(settings: dict[str, object]) -> TBPS:
    """A model whose parameters and buffers are all random, exact in half precision."""
    model = tiny_model(settings)
    generator = torch.Generator().manual_seed(7)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator).half() + 0.5)
    return model


def released(model: TBPS, names: dict[str, str], drop: tuple[str, ...] = SCALARS) -> dict[str, Tensor]:
    """The weights under a release's names, matrices in half precision."""
    state = {}
    for name, tensor in model.state_dict().items():
        if name not in drop:
            ours, theirs = next(pair for pair in names.items() if name.startswith(pair[0]))
            state[theirs + name.removeprefix(ours)] = tensor.half() if tensor.ndim > 1 else tensor
    return state


def save(state: dict[str, Tensor], path: Path, **beside: object) -> Path:
    scheduler = {"last_epoch": 60, "_last_lr": [1e-5]}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-5, "params": [0]}]}
    content = {"model": state, "optimizer": optimizer, "scheduler": scheduler, "epoch": 57, **beside}
    torch.save(content, path)
    return path


def started(path: Path, settings: dict[str, object], persons: int = NUM_PERSONS) -> TBPS:
    """A model at the begin of a training from a file."""
    overrides = [f"{key}={value}" for key, value in (SIZES | settings).items()]
    options = load_options("config/config.yaml", [*overrides, f"model.clip_pretrained={path}"])
    return build_model(options, persons)[0]


def evaluated(path: Path, settings: dict[str, object]) -> TBPS:
    overrides = [f"{key}={value}" for key, value in (SIZES | settings).items()]
    return build_model(load_options("config/config.yaml", overrides), 0, str(path))[0].eval()


def assert_filled(model: TBPS, source: TBPS, *but: str) -> None:
    expected = source.state_dict()
    for name, tensor in model.state_dict().items():
        if not name.startswith(but):
            assert tensor.dtype == expected[name].dtype, name
            assert torch.equal(tensor, expected[name]), name


# Training


@pytest.mark.parametrize("kind", ["IRRA", "IRRA under DDP", "IRRA in Lightning", "TBPS-CLIP", "ours"])
def test_training_goes_on_from_all_heads_of_a_checkpoint(tmp_path: Path, kind: str) -> None:
    settings, but = dict(WITH_HEADS), SCALARS
    if kind in ("TBPS-CLIP", "ours"):
        settings, but = settings | {"experiment.ss": True}, ()
    model = trained(settings)
    names = {"TBPS-CLIP": OF_TBPS_CLIP, "ours": {"": ""}}.get(kind, OF_IRRA)
    start = {"IRRA under DDP": "module.", "IRRA in Lightning": "net.model."}.get(kind, "")
    state = {start + name: tensor for name, tensor in released(model, names, but).items()}
    again = started(save(state, tmp_path / "best.pth"), settings)
    assert_filled(again, model, *but)
    assert all(parameter.requires_grad for parameter in again.mlm_head.parameters())


def test_weights_without_heads_start_them_from_random_weights_and_say_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As NAM's, HAM's and GA-DMS's: `module.base_model.*` alone."""
    model = trained(WITH_HEADS)
    state = {f"module.{n}": t for n, t in released(model, OF_IRRA).items() if n.startswith("base_model.")}
    with caplog.at_level(logging.INFO):
        again = started(save(state, tmp_path / "best0.pth"), WITH_HEADS)
    assert_filled(again, model, *SCALARS, "mlm_head.", "classifier.")
    for head in ("mlm_head", "classifier"):
        assert f"best0.pth: {head} starts from random weights: the file has no {head}" in caplog.text
    assert "removed from the names of its tensors: module, base_model" in caplog.text
    assert caplog.text.count("removed from the names") == 1


def test_a_head_that_does_not_fit_starts_from_random_weights_and_one_without_its_loss_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = trained(WITH_HEADS | {"experiment.ss": True})
    state = released(model, OF_TBPS_CLIP, ())
    path = save(state, tmp_path / "best.pth")
    with caplog.at_level(logging.INFO):
        again = started(path, WITH_HEADS | {"experiment.cmt_depth": 2}, NUM_PERSONS + 1)
    assert_filled(again, model, "mlm_head.", "classifier.")
    assert again.classifier.weight.abs().max() < 0.1
    assert not torch.equal(again.mlm_head.fc.weight, model.mlm_head.fc.weight)
    for reason in (
        "classifier starts from random weights: the file has 'classifier.bias' of shape (5,); (6,) is exp",
        "mlm_head starts from random weights: the file lacks 'mlm_head.cross_modal_transformer.resblocks.1.",
        "not used: simclr_mlp (4), since experiment.ss is false",
    ):
        assert caplog.text.count(f"{path}: {reason}") == 1


def test_heads_of_losses_that_are_off_and_of_training_are_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = trained(WITH_HEADS)
    path = save(released(model, OF_IRRA), tmp_path / "best.pth", model_ema={"visual.proj": torch.ones(2)})
    with caplog.at_level(logging.INFO):
        assert_filled(evaluated(path, WITH_HEADS), model, *SCALARS)
    assert caplog.text.count("not used: 'model_ema'") == 1
    for head, count in (("classifier", 2), ("mlm_head", 28)):
        assert caplog.text.count(f"not used: {head} ({count}), which only training uses") == 1


def test_a_tensor_under_our_name_and_a_releases_is_refused(tmp_path: Path) -> None:
    state = released(trained(WITH_HEADS), OF_IRRA) | {"mlm_head.ln_post.bias": torch.ones(8)}
    with pytest.raises(UserError, match=r"holds 'mlm_head\.ln_post\.bias' under two names"):
        started(save(state, tmp_path / "best.pth"), WITH_HEADS)


def test_a_release_is_nothing_to_resume_from(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(released(trained(WITH_HEADS), OF_IRRA), tmp_path / "best.pth")
    arguments = ["--config", str(config), "--resume", str(path), "--output-dir", str(tmp_path / "run")]
    assert main(arguments) == 2
    assert "to resume from; model.clip_pretrained starts a new run from its weights" in error_line(capsys)


# Token selection


RDE = ALL_OFF | {"experiment.tal": True, "experiment.tse": True, "experiment.tse_width": 12}
UNREAD = {
    "visul_emb_layer.linear.weight": torch.ones(12, 8),
    "visul_emb_layer.linear.bias": torch.ones(12),
    "visul_emb_layer.mlp.bns.1.running_mean": torch.ones(12),
    "texual_emb_layer.mlp.bns.1.num_batches_tracked": torch.tensor(3),
}


@pytest.fixture
def branch() -> TBPS:
    """A trained model with the branch, whose batch normalisation has learned too."""
    return trained(RDE).eval()


def test_the_branch_of_a_release_is_evaluated_and_what_it_does_not_read_is_named(
    tmp_path: Path, branch: TBPS, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(released(branch, OF_RDE) | UNREAD, tmp_path / "best.pth")
    with caplog.at_level(logging.INFO):
        model = evaluated(path, RDE)
    assert_filled(model, branch, *SCALARS)
    assert model.embed_dim == 8 + 12
    batch = tiny_batch()
    for inputs in (batch.images["view1"], batch.tokens):
        assert torch.equal(model.embed(inputs), branch.embed(inputs))
    assert "loaded tse_head (22)" in caplog.text
    for name, count in (("visul_emb_layer.linear", 2), ("texual_emb_layer.mlp.bns.1", 1)):
        assert (
            f"not used: {name} ({count}), which the forward pass of its release does not read" in caplog.text
        )
    assert_filled(started(path, RDE), branch, *SCALARS)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"visul_emb_layer.fc.weight": None}, "lacks 'tse_head.image.residual.weight'; use the options"),
        (
            {"visul_emb_layer.mlp.bns.0.running_var": torch.ones(9)},
            r"image.norm.running_var' of shape \(9,\)",
        ),
        ({"texual_emb_layer.more": torch.ones(1)}, "has 'tse_head.text.more', which is not in the model"),
        ({"more.weight": torch.ones(1)}, "has 1 unexpected tensors .first: 'more.weight'"),
        (
            {name: None for name in OF_RDE.values() if "emb_layer" in name},
            "has no tse_head; set experiment.tse=false, or give a checkpoint that was trained with it",
        ),
    ],
)
def test_a_branch_that_does_not_fit_is_one_line_in_evaluation(
    tmp_path: Path, branch: TBPS, change: dict[str, Tensor | None], problem: str
) -> None:
    gone = tuple(name for name, tensor in change.items() if tensor is None)
    added = {name: tensor for name, tensor in change.items() if tensor is not None}
    state = {name: t for name, t in released(branch, OF_RDE).items() if not name.startswith(gone)} | added
    with pytest.raises(UserError, match=problem) as error:
        evaluated(save(state, tmp_path / "best.pth"), RDE)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("layout", "drop"), [(OF_RDE, SCALARS), ({"": ""}, ())])
def test_a_branch_that_the_options_leave_out_is_warned_of(
    tmp_path: Path,
    branch: TBPS,
    caplog: pytest.LogCaptureFixture,
    layout: dict[str, str],
    drop: tuple[str, ...],
) -> None:
    path = save(released(branch, layout, drop), tmp_path / "best.pth")
    model = evaluated(path, ALL_OFF | {"experiment.tal": True})
    assert model.embed_dim == model.clip.embed_dim
    (warning,) = [r.getMessage() for r in caplog.records if "acts at test time, is not used" in r.msg]
    assert f"weights '{path}': its tse_head" in warning
    assert "Set experiment.tse=true, or" in warning


def test_a_folder_of_weights_has_no_branch(tmp_path: Path, branch: TBPS) -> None:
    with pytest.raises(UserError, match=r"has no tse_head; set experiment\.tse=false"):
        fill_heads(tmp_path, {"tse_head": branch.tse_head}, is_evaluated=True)


@pytest.mark.parametrize(
    ("loss", "option", "values", "is_fixed"),
    [
        ("tse", "tse_share", (0.3, 0.4), True),
        ("grab", "grab_share", ([0.65, 0.5], [0.65, 0.4]), True),
        ("grab", "grab_blocks", ([4, 11], [5, 11]), True),
        ("grab", "grab_test_tokens", ("rollout", "last"), False),
        ("grab", "grab_global_weight", (0.5, 0.7), False),
    ],
)
def test_other_tokens_than_in_training_are_refused_and_another_score_gives_another_index(
    loss: str, option: str, values: tuple[object, object], is_fixed: bool, tmp_path: Path
) -> None:
    trained_with, other = (
        load_options({}, [f"experiment.{loss}=true", f"experiment.{option}={value}"]) for value in values
    )
    torch.save({"options": to_dict(trained_with)}, tmp_path / "best.pth")
    check_trained_with(trained_with, tmp_path / "best.pth")
    assert identity_of(other, tmp_path / "best.pth") != identity_of(trained_with, tmp_path / "best.pth")
    if not is_fixed:
        check_trained_with(other, tmp_path / "best.pth")
        return
    was, now = (re.escape(str(value)) for value in values)
    with pytest.raises(UserError, match=rf"{option}: .* trained with {was}, these options have {now}"):
        check_trained_with(other, tmp_path / "best.pth")
