"""Value and gradient of every loss as TBPS assembles it, against float64 loops and finite differences.

In one process and in real gloo processes, over the same global batch.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
from torch import Tensor

from misc.process import distributed
from model import objective
from tests.helpers import references
from tests.helpers.gloo import run_in_processes
from tests.helpers.table_clip import (
    CASES,
    CITC_LAMBDAS,
    IDS,
    RITC_EPS,
    TEMPERATURE,
    VIEWS,
    N,
    mlm_labels,
    numbered_batch,
    table_model,
)

SOFT_LABEL = 0.3
LOCAL = [case for case in CASES if not case.startswith("mlm")]  # MLM counts its words over all ranks always
PAIR_LAYERS = ("mlp.0", "mlp.1", "classifier")
Arrays = dict[str, np.ndarray]
Results = dict[str, dict[str, Tensor]]  # case -> "value", and the gradient of each parameter that has one


def results_of_this_rank(use_gather: bool) -> Results:
    """On this rank's share of the rows; averaged over the ranks, as DDP does with gradients."""
    rows, number = distributed.own_share(N), N if N % distributed.world_size() else None
    results = {}
    for case in CASES if use_gather else LOCAL:
        model = table_model(case, use_gather)
        output = model(replace(numbered_batch(case, rows), num_samples=number), SOFT_LABEL)
        output.total.backward()
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found["value"] = output.total.detach()
        results[case] = {name: distributed.mean_over_ranks(value) for name, value in found.items()}
    return results


def in_blocks() -> Results:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objective, "MAX_ENTRIES", 2 * N)  # a block has two rows, of the local ones
        return results_of_this_rank(True)


def with_and_without_the_gather() -> dict[str, Results]:
    results = {"with": results_of_this_rank(True), "without": results_of_this_rank(False)}
    return results | {"blocks": in_blocks()}


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Results]]:
    return run_in_processes(with_and_without_the_gather, 2, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def three_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    """With 2, 3 and 3 of the rows."""
    return run_in_processes(in_blocks, 3, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def alone() -> Results:
    return results_of_this_rank(True)


def cosines(p: Arrays, rows: slice, view: int = 0, caption: int = 0) -> np.ndarray:
    image = np.split(p["clip.visual.rows"], len(VIEWS))[view][rows]
    text = np.split(p["clip.text.rows"], 2)[caption][rows]
    return references.normalised(image) @ references.normalised(text).T


def reference_nitc(case: str, p: Arrays, frozen: Arrays, rows: slice) -> float:
    scale, own_scale = math.exp(p["clip.logit_scale"]), math.exp(frozen["clip.logit_scale"])
    q, losses = references.targets(IDS[rows]), []
    for view in range(1 + ("mvs_image" in CASES[case])):
        for caption in range(1 + ("mvs_text" in CASES[case])):
            logits = scale * cosines(p, rows, view, caption)
            own = own_scale * cosines(frozen, rows, view, caption)
            losses.append(references.nitc(logits, q, SOFT_LABEL, own))
            losses.append(references.nitc(logits.T, q, SOFT_LABEL, own.T))
    return float(np.mean(losses))


def reference_ss(p: Arrays, head: str, first: np.ndarray, second: np.ndarray) -> float:
    layers = [p[f"{head}.{layer}"] for layer in ("0.weight", "0.bias", "2.weight", "2.bias")]
    views = [references.normalised(references.mlp(view, *layers)) for view in (first, second)]
    return references.ss(*views, TEMPERATURE)


def reference(case: str, p: Arrays, frozen: Arrays, rows: slice) -> float:
    """The loss of `rows` as a function of the parameters; `frozen`: the same, where no gradient flows."""
    name, ids, q = case.split()[0], IDS[rows], references.targets(IDS[rows])
    images = [view[rows] for view in np.split(p["clip.visual.rows"], len(VIEWS))]
    texts = [caption[rows] for caption in np.split(p["clip.text.rows"], 2)]
    c, own, scale = cosines(p, rows), cosines(frozen, rows), math.exp(p["clip.logit_scale"])
    if name == "nitc":
        return reference_nitc(case, p, frozen, rows)
    if name == "ritc":
        return sum(references.kl_to_targets(scale * way, q, RITC_EPS) for way in (c, c.T)) / 2
    if name == "citc":
        pair = references.normalised(images[0]), references.normalised(texts[0])
        return references.citc(*pair, *CITC_LAMBDAS)
    if name == "ss":
        return reference_ss(p, "simclr_mlp", images[2], images[3])
    if name == "ss_text":
        return reference_ss(p, "simclr_mlp_text", *texts)
    if name == "mlm":
        return references.mlm(p["clip.text.words"][rows], mlm_labels(case).numpy()[rows])
    if name == "id":
        logits = [rows @ p["classifier.weight"].T + p["classifier.bias"] for rows in (images[0], texts[0])]
        return references.identity(*logits, ids)
    if name == "cid":
        no_match = max(ids) + 1 if "release" in case else 5
        layers = [
            p[f"cid_head.pooled.{layer}.{part}"] for layer in PAIR_LAYERS for part in ("weight", "bias")
        ]
        return references.cid(images[0], texts[0], ids, no_match, layers)
    if name == "sdm":
        return sum(references.kl_to_targets(50 * way, q, 1e-8) for way in (c, c.T))
    if name == "tal":
        return references.tal(c, ids, frozen=own) + references.tal(c.T, ids, frozen=own.T)
    assert name == "sigmoid"
    return references.sigmoid(scale * c + p["clip.logit_bias"], ids)


def expected(case: str, shares: list[slice]) -> Arrays:
    """By the reference, for a batch in `shares` that each contrast with themselves: their mean (TAL: sum)."""
    model = table_model(case)
    values = {name: p.detach().double().numpy().copy() for name, p in model.named_parameters()}
    frozen = {name: value.copy() for name, value in values.items()}

    def loss() -> float:
        losses = [reference(case, values, frozen, rows) for rows in shares]
        return sum(losses) if case == "tal" else float(np.mean(losses))

    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    gradients = {name: references.finite_differences(loss, values[name]) for name in trained}
    return {"value": np.array(loss())} | {name: g for name, g in gradients.items() if g.any()}


def assert_close(found: dict[str, Tensor], wanted: Arrays) -> None:
    np.testing.assert_allclose(found["value"].item(), wanted["value"], rtol=1e-5, atol=1e-6)
    assert {name for name, tensor in found.items() if tensor.any()} | {"value"} == wanted.keys()
    for name, gradient in wanted.items():
        atol = 1e-4 * np.abs(gradient).max()
        np.testing.assert_allclose(found[name].numpy(), gradient, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_a_loss_and_its_gradients_are_those_of_the_reference_in_one_two_and_three_processes(
    case: str, alone: Results, two_ranks: list[dict[str, Results]], three_ranks: list[Results]
) -> None:
    wanted = expected(case, [slice(None)])
    assert_close(alone[case], wanted)
    for rank in two_ranks:
        assert_close(rank["with"][case], wanted)
        assert_close(rank["blocks"][case], wanted)
    for results in three_ranks:
        assert_close(results[case], wanted)


@pytest.mark.parametrize("case", LOCAL)
def test_without_the_gather_each_rank_contrasts_its_own_rows_alone(
    case: str, two_ranks: list[dict[str, Results]]
) -> None:
    wanted = expected(case, [slice(0, N // 2), slice(N // 2, N)])
    for rank in two_ranks:
        assert_close(rank["without"][case], wanted)


def test_the_batch_has_easy_and_hard_triplets_and_none_at_the_kink() -> None:
    """Finite differences would see one side of TAL only, or be wrong where the two meet."""
    model = table_model("tal")
    values = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    c = cosines(values, slice(None))
    hinges = references.tal_hinges(c, IDS) + references.tal_hinges(c.T, IDS)
    assert min(hinges) < 0 < max(hinges)
    assert min(map(abs, hinges)) > 1e-3
