"""Token selection (RDE) and IRRA's cross-modal part, against plain computations on the same weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.types import Batch
from misc.process import distributed
from model.heads import TokenNorm
from model.protocol import Selection
from model.tbps import TBPS
from model.towers.layers import Block
from tests.helpers.gloo import run_in_processes
from tests.helpers.gradients import SOFT_LABEL, assert_same_gradients, gradients, in_parts, whole
from tests.helpers.tiny import ALL_OFF, LENGTH, NUM_ROWS, tiny_batch, tiny_model

RDE = ALL_OFF | {"experiment.tal": True, "experiment.tse": True, "experiment.tse_width": 12}
TRAINED = RDE | {"experiment.tse_batchnorm": "trained"}
IRRA = ALL_OFF | {
    "experiment.sdm": True,
    "experiment.id": True,
    "experiment.mlm": True,
    "experiment.mlm_variant": "irra",
    "experiment.mlm_masks_all": True,
}
TEXT_LENGTH = LENGTH + 2


def masked_everywhere(batch: Batch) -> Batch:
    """As the loader makes it with `experiment.mlm_masks_all`."""
    return replace(batch, tokens=batch.masked_tokens, masked_tokens=None)


def attention_of(block: Block, x: Tensor, causal: bool) -> Tensor:
    """(B, L, L) the attention of a block, averaged over heads, by torch's own module."""
    width, own = x.shape[2], block.attn
    theirs = nn.MultiheadAttention(width, own.heads, batch_first=True)
    theirs.in_proj_weight, theirs.in_proj_bias = own.in_proj_weight, own.in_proj_bias
    mask = torch.full((x.shape[1], x.shape[1]), -torch.inf).triu(1) if causal else None
    normed = F.layer_norm(x, (width,), block.ln_1.weight, block.ln_1.bias)
    return theirs(normed, normed, normed, attn_mask=mask)[1]


def last_attention(transformer: nn.Module, run: object, causal: bool) -> Tensor:
    """The attention in the last block of what `run()` sends through the transformer."""
    inputs: list[Tensor] = []
    hook = transformer.resblocks[-1].register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    run()
    hook.remove()
    return attention_of(transformer.resblocks[-1], inputs[0], causal)


def image_choice(model: TBPS, pixels: Tensor, share: float) -> Tensor:
    """Patches by the class token's attention, the largest first: (B, K, D) of the tower's tokens."""
    clip = model.clip
    _, tokens = clip.encode_image(pixels, return_dense=True)
    attention = last_attention(
        clip.visual.transformer, lambda: clip.encode_image(pixels, return_dense=True), causal=False
    )
    best = [row[0, 1:].sort(descending=True).indices[: int(share * len(row[0, 1:]))] for row in attention]
    return torch.stack([rows[1:][chosen] for rows, chosen in zip(tokens, best, strict=True)])


def text_choice(model: TBPS, ids: Tensor, length: int, share: float) -> Tensor:
    """(k, D) of one caption (1, length): its words by the end token's attention, the best of them."""
    clip, captions = model.clip, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    _, tokens = clip.encode_text(captions, return_dense=True)
    attention = last_attention(
        clip.text.transformer, lambda: clip.encode_text(captions, return_dense=True), causal=True
    )
    words = [place for place in range(1, length - 1) if ids[0, place] != 0]
    best = sorted(words, key=lambda place: -attention[0, length - 1, place].item())
    return tokens[0, best[: int(share * (TEXT_LENGTH - 2))]]


@torch.no_grad()
@pytest.mark.parametrize("return_dense", [False, True])
def test_the_selected_patches_are_those_that_the_class_token_attends_to(return_dense: bool) -> None:
    model, pixels = tiny_model(RDE | {"data.image_size": "[32,24]"}).eval(), torch.randn(3, 3, 32, 24)
    pooled, dense, selected = model.clip.encode_image(pixels, return_dense, Selection(0.3))
    torch.testing.assert_close(selected.tokens, image_choice(model, pixels, 0.3))
    assert selected.tokens.shape == (3, 3, 8)
    assert selected.mask is None
    torch.testing.assert_close(pooled, model.clip.encode_image(pixels))
    assert (dense is not None) == return_dense


@torch.no_grad()
@pytest.mark.parametrize("return_dense", [False, True])
def test_the_selected_words_are_those_that_the_end_token_attends_to(return_dense: bool) -> None:
    model = tiny_model(RDE).eval()
    ids = torch.tensor(
        [
            [49406, 11, 12, 13, 14, 15, 16, 49407],  # more words than are selected
            [49406, 21, 0, 22, 49407, 0, 0, 0],  # id 0 inside a caption counts as padding
            [49406, 31, 49407, 0, 0, 0, 0, 0],
        ]
    )
    lengths = [8, 5, 3]
    mask = torch.tensor([[1] * length + [0] * (8 - length) for length in lengths])
    pooled, _, selected = model.clip.encode_text(
        {"input_ids": ids, "attention_mask": mask}, return_dense, Selection(0.3)
    )
    assert selected.mask.tolist() == [[True] * 3, [True, True, False], [True, False, False]]
    for row, length in enumerate(lengths):
        found = selected.tokens[row][selected.mask[row]]
        torch.testing.assert_close(found, text_choice(model, ids[row : row + 1, :length], length, 0.3))
    torch.testing.assert_close(pooled, model.clip.encode_text({"input_ids": ids, "attention_mask": mask}))


@torch.no_grad()
def test_a_caption_without_words_is_embedded_by_its_end_token() -> None:
    model = tiny_model(RDE).eval()
    empty = {"input_ids": torch.tensor([[49406, 49407]]), "attention_mask": torch.ones(1, 2).long()}
    _, tokens = model.clip.encode_text(empty, return_dense=True)
    _, _, selected = model.clip.encode_text(empty, select=Selection(0.3))
    assert selected.mask.tolist() == [[True, False, False]]
    torch.testing.assert_close(selected.tokens[0, 0], tokens[0, 1])
    assert model.embed(empty).isfinite().all()


def plain_embedding(head: nn.Module, tokens: Tensor) -> Tensor:
    """The formula of RDE for one input's selected tokens (K, D), batch normalisation at 0 and 1."""
    x = tokens / tokens.norm(dim=1, keepdim=True)
    hidden = (x @ head.hidden.weight.T + head.hidden.bias) / (1 + 1e-5) ** 0.5
    hidden = (hidden * head.norm.weight + head.norm.bias).clamp(min=0)
    f = x @ head.residual.weight.T + head.residual.bias + hidden @ head.output.weight.T + head.output.bias
    return f.amax(dim=0)


@torch.no_grad()
def test_the_embedding_is_the_mean_of_both_cosines() -> None:
    model, batch = tiny_model(RDE).eval(), tiny_batch()
    for head in model.tse_head.values():
        nn.init.normal_(head.norm.weight), nn.init.normal_(head.norm.bias)
    images, texts = model.embed(batch.images["view1"]), model.embed(batch.tokens)
    assert images.shape == texts.shape == (NUM_ROWS, 8 + 12)
    assert model.embed_dim == 20
    pooled = (
        F.normalize(model.clip.encode_image(batch.images["view1"]))
        @ F.normalize(model.clip.encode_text(batch.tokens)).T
    )
    patches = image_choice(model, batch.images["view1"], 0.5)[:, :1]  # one of two
    of_images = torch.stack([plain_embedding(model.tse_head["image"], rows) for rows in patches])
    of_texts = []
    for row, mask in zip(batch.tokens["input_ids"], batch.tokens["attention_mask"], strict=True):
        length = int(mask.sum())
        words = text_choice(model, row[None, :length], length, 0.3)
        of_texts.append(plain_embedding(model.tse_head["text"], words))
    selected = F.normalize(of_images) @ F.normalize(torch.stack(of_texts)).T
    torch.testing.assert_close(F.normalize(images) @ F.normalize(texts).T, (pooled + selected) / 2)


def test_its_loss_is_a_weighted_sum_over_the_samples() -> None:
    model, batch = tiny_model(RDE), tiny_batch()
    features, _ = model.encode(batch)
    rows = model.objectives["tse"].rows(model.gather(features, batch, SOFT_LABEL))
    assert rows.shape == (NUM_ROWS,)
    weights = torch.tensor([1.0, 0, 0, 1, 1, 0, 1, 1])
    output = model(replace(batch, weights=weights), SOFT_LABEL)
    torch.testing.assert_close(output.parts["tse"], (weights * rows).sum())
    torch.testing.assert_close(model(batch, SOFT_LABEL).parts["tse"], rows.sum())


@pytest.mark.parametrize("settings", [RDE, TRAINED, IRRA])
@pytest.mark.parametrize("num_parts", [3, 8])
def test_a_batch_in_parts_has_the_gradients_of_the_whole(settings: dict[str, object], num_parts: int) -> None:
    batch = replace(tiny_batch(), weights=torch.tensor([1.0, 0, 1, 1, 0, 1, 1, 1]))
    batch = masked_everywhere(batch) if settings is IRRA else batch
    expected, wanted = whole(tiny_model(settings), batch)
    output, found = in_parts(tiny_model(settings), batch, num_parts)
    torch.testing.assert_close(output.parts, expected.parts)
    assert_same_gradients(found, wanted)


@pytest.mark.parametrize("settings", [RDE, IRRA])
def test_a_checkpointed_step_has_the_same_gradients(settings: dict[str, object]) -> None:
    batch = masked_everywhere(tiny_batch()) if settings is IRRA else tiny_batch()
    expected, wanted = whole(tiny_model(settings), batch)
    output, found = whole(tiny_model(settings | {"model.grad_checkpointing": True}), batch)
    torch.testing.assert_close(output.parts, expected.parts)
    assert_same_gradients(found, wanted)


def step_of_this_rank(settings: dict[str, object], is_masked: bool) -> dict[str, Tensor]:
    """Losses, gradients and running statistics of this rank's rows, averaged over the ranks."""
    share = NUM_ROWS // distributed.world_size()
    batch = tiny_batch(slice(distributed.rank() * share, (distributed.rank() + 1) * share))
    model = tiny_model(settings)
    output = model(masked_everywhere(batch) if is_masked else batch, SOFT_LABEL)
    output.total.backward()
    found = gradients(model) | {name: loss.detach() for name, loss in output.parts.items()}
    found |= {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()}
    return {name: distributed.mean_over_ranks(value) for name, value in found.items()}


@pytest.mark.parametrize("settings", [RDE, TRAINED, IRRA], ids=["frozen", "trained", "irra"])
def test_two_processes_have_the_losses_and_gradients_of_one(
    settings: dict[str, object], tmp_path: Path
) -> None:
    alone = step_of_this_rank(settings, settings is IRRA)
    for found in run_in_processes(step_of_this_rank, 2, tmp_path, settings, settings is IRRA):
        assert_same_gradients(found, alone)


def test_batch_normalisation_is_torchs_over_the_tokens_that_are_there() -> None:
    torch.manual_seed(0)
    ours, theirs = TokenNorm(6, is_frozen=False), nn.BatchNorm1d(6)
    x, present = torch.randn(4, 5, 6), torch.rand(4, 5) < 0.6
    for _ in range(2):
        found, wanted = ours(x, present)[present], theirs(x[present])
        torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x, present)[present], theirs(x[present]))

    frozen = TokenNorm(6, is_frozen=True)
    frozen(x, present)
    assert torch.equal(frozen.running_mean, torch.zeros(6))
    assert torch.equal(frozen.running_var, torch.ones(6))


def test_irras_cross_modal_part_reads_padding_and_each_caption_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny_model(IRRA), masked_everywhere(tiny_batch())
    lengths: list[int] = []
    encode = model.clip.encode_text
    monkeypatch.setattr(
        model.clip,
        "encode_text",
        lambda tokens, *others: lengths.append(tokens["input_ids"].shape[1]) or encode(tokens, *others),
    )
    output = model(batch, SOFT_LABEL)
    assert lengths == [TEXT_LENGTH]

    ids = F.pad(batch.tokens["input_ids"], (0, TEXT_LENGTH - LENGTH))
    mask = F.pad(batch.tokens["attention_mask"], (0, TEXT_LENGTH - LENGTH))
    _, texts = encode({"input_ids": ids, "attention_mask": mask}, True)
    _, images = model.clip.encode_image(batch.images["view1"], True)
    head = model.mlm_head
    seen = head.ln_pre_i(images)
    x, _ = head.cross_attn(head.ln_pre_t(texts), seen, seen)
    for block in head.cross_modal_transformer.resblocks:
        x = block(x)
    scores = head.fc(head.ln(head.gelu(head.dense(head.ln_post(x)))))
    labels = F.pad(batch.mlm_labels, (0, TEXT_LENGTH - LENGTH), value=-100)
    torch.testing.assert_close(output.parts["mlm"], F.cross_entropy(scores.flatten(0, 1), labels.flatten()))


@pytest.mark.parametrize("variant", ["irra", "tbps-clip"])
def test_a_longer_second_caption_does_not_change_the_masked_words(variant: str) -> None:
    settings = IRRA | {"experiment.mlm_variant": variant, "experiment.ss_text": True}
    batch = masked_everywhere(tiny_batch())
    more = TEXT_LENGTH - batch.tokens2["input_ids"].shape[1]
    longer = {name: F.pad(values, (0, more)) for name, values in batch.tokens2.items()}
    wanted = tiny_model(settings)(batch, SOFT_LABEL).parts["mlm"]
    found = tiny_model(settings)(replace(batch, tokens2=longer), SOFT_LABEL).parts["mlm"]
    torch.testing.assert_close(found, wanted)


def test_irras_cross_modal_part_starts_with_its_deviations() -> None:
    settings = IRRA | {"model.embed_dim": 64, "experiment.cmt_depth": 4}
    head, width = tiny_model(settings).mlm_head, 64
    block = head.cross_modal_transformer.resblocks[2]
    wanted = {
        head.cross_attn.in_proj_weight: width**-0.5,
        head.cross_attn.out_proj.weight: (8 * width) ** -0.5,
        block.attn.in_proj_weight: width**-0.5,
        block.attn.out_proj.weight: (8 * width) ** -0.5,
        block.mlp.c_fc.weight: (2 * width) ** -0.5,
        block.mlp.c_proj.weight: (8 * width) ** -0.5,
        head.dense.weight: (2 * width) ** -0.5,
        head.fc.weight: (8 * width) ** -0.5,
    }
    for weight, deviation in wanted.items():
        assert weight.std().item() == pytest.approx(deviation, rel=0.05)
