"""GRAB, ITSELF's selection of tokens: the rollout of two blocks, the budget of the steps, what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from model import build_model
from model.protocol import DualEncoder, Selection
from model.towers.selection import number_of, rollout_row
from options import ExperimentOptions, UserError, load_options
from tests.helpers.altclip_folders import batch_of, settings
from tests.helpers.tiny import ALL_OFF, tiny_batch, tiny_model

GRAB = ALL_OFF | {"experiment.grab": True, "data.image_size": "[32,24]", "experiment.text_length": 12}
FOUR = GRAB | {"model.image_layers": 4, "model.text_layers": 4, "experiment.grab_blocks": "[1, -1]"}


def rolled_out(first: Tensor, second: Tensor, drops: bool) -> Tensor:
    """(L, L) of one input, in plain loops: the product of both matrices, each averaged with the identity."""
    length, product = len(first), torch.eye(len(first))
    for attention in (first.clone(), second.clone()):
        places = [(row, column) for row in range(length) for column in range(length)]
        places.sort(key=lambda place: attention[place].item())
        for place in places[: length * length // 4] if drops else ():
            attention[place] = attention[place] if place == (0, 0) else 0
        half = torch.stack([(row + own) / 2 for row, own in zip(attention, torch.eye(length), strict=True)])
        product = torch.stack([row / row.sum() for row in half]) @ product
    return product


@pytest.mark.parametrize("drops", [False, True])
def test_a_row_of_the_rollout_is_that_of_a_naive_product(drops: bool) -> None:
    first, second = torch.randn(2, 3, 7, 7).mul(2).softmax(dim=-1)
    second[0] = second[0] - second[0, 0, 0] * torch.eye(7)[0]  # the first entry is among the smallest
    position = torch.tensor([[0], [6], [2]])
    found = rollout_row(first, second, position, drops)
    for own, a, b, place in zip(found, first, second, position[:, 0], strict=True):
        torch.testing.assert_close(own, rolled_out(a, b, drops)[place])


def attentions(transformer: nn.Module, run: object, causal: bool) -> list[Tensor]:
    """(B, L, L) of each block, averaged over the heads, by torch's own module."""
    inputs: list[Tensor] = []
    hooks = [
        block.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
        for block in transformer.resblocks
    ]
    run()
    for hook in hooks:
        hook.remove()
    found = []
    for block, x in zip(transformer.resblocks, inputs, strict=True):
        theirs = nn.MultiheadAttention(x.shape[2], block.attn.heads, batch_first=True)
        theirs.in_proj_weight, theirs.in_proj_bias = block.attn.in_proj_weight, block.attn.in_proj_bias
        mask = torch.full(x.shape[1:2] * 2, -torch.inf).triu(1) if causal else None
        normed = block.ln_1(x)
        found.append(theirs(normed, normed, normed, attn_mask=mask)[1])
    return found


@torch.no_grad()
@pytest.mark.parametrize("return_dense", [False, True])
@pytest.mark.parametrize("blocks", [(1, -1), (0, 2)])
def test_the_selected_patches_are_the_largest_of_the_class_tokens_row(
    blocks: tuple[int, int], return_dense: bool
) -> None:
    clip, pixels = tiny_model(FOUR).eval().clip, torch.randn(3, 3, 32, 24)
    pooled, _, selected = clip.encode_image(pixels, return_dense, Selection(0.4, blocks))
    _, tokens = clip.encode_image(pixels, return_dense=True)
    every = attentions(clip.visual.transformer, lambda: clip.encode_image(pixels, True), causal=False)
    for row in range(3):
        scores = rolled_out(*(every[number][row] for number in blocks), drops=True)[0, 1:]
        chosen = 1 + scores.sort(descending=True).indices[:4]  # of 12
        torch.testing.assert_close(selected.tokens[row], tokens[row][chosen])
    torch.testing.assert_close(pooled, tokens[:, 0])


@torch.no_grad()
def test_the_selected_words_are_the_largest_of_the_end_tokens_row_whatever_the_padding() -> None:
    clip, blocks = tiny_model(FOUR).eval().clip, (1, -1)
    caption = torch.tensor([[49406, 11, 12, 0, 14, 15, 16, 49407]])  # id 0 counts as padding
    whole = {"input_ids": F.pad(caption, (0, 4)), "attention_mask": F.pad(torch.ones_like(caption), (0, 4))}
    cut = {name: values[:, :8] for name, values in whole.items()}
    every = attentions(clip.text.transformer, lambda: clip.encode_text(whole, True), causal=True)
    scores = rolled_out(*(every[number][0] for number in blocks), drops=True)[7]  # zeros alone are dropped
    chosen = sorted((1, 2, 4, 5, 6), key=lambda place: -scores[place].item())[:4]  # of 10 places
    for tokens in (whole, cut):
        _, dense, selected = clip.encode_text(tokens, True, Selection(0.4, blocks))
        torch.testing.assert_close(selected.tokens[0], dense[0][chosen])
        assert selected.mask.all()


@torch.no_grad()
def test_altclips_tokens_are_those_of_its_own_attention(folder: Path) -> None:
    options = settings(folder, "nitc")
    clip, batch = build_model(options, 0)[0].eval().clip, batch_of(folder)
    pixels, tokens = batch.images["view1"], batch.tokens
    _, dense, selected = clip.encode_image(pixels, True, Selection(0.4, (0, 1)))
    places = of_library(clip, "vision_model", pixels)
    for row, scores in enumerate(places):
        chosen = 1 + scores[1:].sort(descending=True).indices[:6]  # of 16
        torch.testing.assert_close(selected.tokens[row], dense[row][chosen])
    _, dense, selected = clip.encode_text(tokens, True, Selection(0.1, (0, 1)))
    for row, scores in enumerate(of_library(clip, "text_model", tokens)):
        last = int(tokens["attention_mask"][row].sum()) - 1
        chosen = (1 + scores[1:last].sort(descending=True).indices)[:7]  # of 75
        torch.testing.assert_close(selected.tokens[row][selected.mask[row]], dense[row][chosen])


def of_library(clip: DualEncoder, name: str, given: Tensor | dict[str, Tensor]) -> Tensor:
    """(B, L) the rollout's row of the first token, of the attention that transformers returns."""
    tower = getattr(clip.visual if name == "vision_model" else clip.text, name)
    tower.config._attn_implementation = "eager"
    encoder, seen = getattr(tower, "roberta", tower).encoder, []
    layers = encoder.layers if hasattr(encoder, "layers") else encoder.layer
    attention = [getattr(layer, "self_attn", None) or layer.attention.self for layer in layers]
    hooks = [a.register_forward_hook(lambda _, __, output: seen.append(output[1])) for a in attention]
    clip.encode_image(given) if name == "vision_model" else clip.encode_text(given)
    for hook in hooks:
        hook.remove()
    first, second = (weights.mean(dim=1) for weights in seen)
    drops = name == "vision_model"
    return torch.stack([rolled_out(a, b, drops)[0] for a, b in zip(first, second, strict=True)])


def test_the_number_of_tokens_falls_over_the_steps_as_in_the_release() -> None:
    objective = tiny_model(GRAB | {"experiment.grab_blocks": "[0, 1]"}).objectives["grab"]
    assert (objective.shares, objective.num_steps) == ((0.65, 0.5), 1450)
    numbers = {"patches": [], "words": []}
    for step in range(1500):
        share = objective.select_at(step).share
        numbers["patches"].append(number_of(share, 192))
        numbers["words"].append(number_of(share, 75))
        ratio = min(step + 1, 1450) / 1450
        assert numbers["patches"][-1] == int(192 * 0.65 * (0.5 / 0.65) ** ratio)
        assert numbers["words"][-1] == int(75 * 0.65 * (0.5 / 0.65) ** ratio)
    for values, first, last in ((numbers["patches"], 124, 96), (numbers["words"], 48, 37)):
        assert (values[0], values[1449], values[-1]) == (first, last, last)
        assert values == sorted(values, reverse=True)
    assert objective.select == Selection(0.5, (0, 1))


@pytest.mark.parametrize(("share", "words"), [(0.9, 7), (0.3, 3)])
def test_training_selects_by_its_step_and_test_time_as_at_the_end(
    share: float, words: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(GRAB | {"experiment.grab_share": f"[0.9, {share}]", "experiment.grab_steps": 4})
    model.step, batch, asked = 3 if share < 0.9 else 0, tiny_batch(), []
    encode = model.clip.encode_text
    monkeypatch.setattr(model.clip, "encode_text", lambda *given: asked.append(given[2]) or encode(*given))
    images = {"view1": torch.randn(8, 3, 32, 24)}
    batch.images = images
    model(batch, 0.0)
    with torch.no_grad():
        model.eval().embed(batch.tokens)
    assert asked == [Selection(share, (0, 1))] * 2


class Matrices(TorchDispatchMode):
    """Counts the softmaxes over all tokens of all queries."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length, self.shapes = length, []

    def __torch_dispatch__(
        self, function: object, types: object, args: object = (), kwargs: object = None
    ) -> object:
        output = function(*args, **(kwargs or {}))
        if "softmax" in str(function) and output.shape[-2:] == (self.length,) * 2:
            self.shapes.append(tuple(output.shape))
        return output


def test_whole_matrices_are_made_of_two_blocks_alone_one_head_at_a_time_without_gradient() -> None:
    clip, pixels = tiny_model(FOUR).clip, torch.randn(3, 3, 32, 24)
    with Matrices(13) as found:
        _, _, selected = clip.encode_image(pixels, False, Selection(0.4, (1, 3)))
    assert found.shapes == [(3, 13, 13)] * 4  # of two heads each
    assert selected.tokens.requires_grad
    with Matrices(13) as found:
        clip.encode_image(pixels, False, Selection(0.4))
    assert found.shapes == []


@torch.no_grad()
@pytest.mark.parametrize("weight", [1.0, 0.68, 0.1])
def test_the_score_is_the_weighted_sum_of_both_cosines(weight: float) -> None:
    model, batch = tiny_model(GRAB | {"experiment.grab_global_weight": weight}).eval(), tiny_batch()
    rows = {"image": torch.randn(8, 3, 32, 24), "text": batch.tokens}
    found, pooled, local = [], [], []
    for name, given in rows.items():
        encode = model.clip.encode_image if name == "image" else model.clip.encode_text
        first, _, selected = encode(given, False, model.objectives["grab"].select)
        found.append(F.normalize(model.embed(given)))
        pooled.append(F.normalize(first))
        local.append(F.normalize(model.objectives["grab"].embed(*selected)))
    wanted = weight * pooled[0] @ pooled[1].T + (1 - weight) * local[0] @ local[1].T
    torch.testing.assert_close(found[0] @ found[1].T, wanted)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["experiment.tse=true"], "experiment.tse and experiment.grab exclude each other"),
        (["experiment.grab_blocks=[0,2]"], r"two blocks of the image tower, which has 2, .* found \[0, 2\]"),
        (["experiment.grab_blocks=[1,1]"], r"the earlier one first; found \[1, 1\]"),
        (["experiment.grab_blocks=[-1,0]"], r"the earlier one first; found \[-1, 0\]"),
        (["model.text_layers=1"], r"two blocks of the text tower, which has 1, .* found \[0, 1\]"),
    ],
)
def test_what_cannot_be_rolled_out_is_one_line(overrides: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        tiny_model(GRAB | dict(override.split("=") for override in overrides))
    assert "\n" not in str(error.value)


def test_towers_that_do_not_show_their_blocks_refuse_it(open_clip_folder: Callable[[str], Path]) -> None:
    overrides = [
        "model.backbone=open_clip",
        f"model.open_clip_pretrained={open_clip_folder('attention pooling')}",
    ]
    with pytest.raises(UserError, match=r"experiment\.grab: .* model\.backbone=open_clip do not show"):
        build_model(load_options("config/s.config.yaml", [*overrides, "experiment.grab=true"]), 3)


def test_the_release_selects_by_the_last_block_at_test_time() -> None:
    kind = type(tiny_model(GRAB).objectives["grab"])
    experiment = ExperimentOptions(grab_test_tokens="last", grab_width=4)
    assert kind(8, experiment).select == Selection(0.4)
    assert kind(8, experiment).select_at(0).blocks == (4, 11)
