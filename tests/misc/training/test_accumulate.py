"""A batch in parts gives the losses and the gradients of the whole: in one process, in two, with dropout."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data.types import Batch
from main import main
from misc.process import distributed
from misc.training.engine import Trainer
from model import build_model
from model.tbps import TBPS
from options import LOSSES, UserError
from tests.helpers.altclip_folders import batch_of, settings
from tests.helpers.gloo import run_in_processes
from tests.helpers.gradients import SOFT_LABEL, assert_same_gradients, gradients, in_parts, whole
from tests.helpers.tiny import ALL_OFF, NUM_ROWS, TOGETHER, tiny_batch, tiny_model
from tests.helpers.tiny_config import write_tiny
from tests.helpers.whole_runs import train_lines

# torch 2.4, of its own checkpoint
pytestmark = pytest.mark.filterwarnings("ignore:.torch.cpu.amp.autocast:FutureWarning")
ALL = " ".join((*TOGETHER, "mvs_image", "mvs_text"))
CASES = [ALL, *LOSSES, "nitc mvs_image mvs_text", "id cid tse", "id cid grab"]
CASES += [f"{ALL} rewrites", "id cid grab rewrites"]


def model_of(case: str, **others: object) -> TBPS:
    switched = {f"experiment.{name}": True for name in case.split()}
    switched |= {"experiment.id_on": "all", "experiment.tse_batchnorm": "trained"}
    return tiny_model(ALL_OFF | switched | {key.replace("__", "."): value for key, value in others.items()})


@pytest.mark.parametrize("num_parts", [1, 3, NUM_ROWS])
@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients_are_those_of_the_whole_batch(case: str, num_parts: int) -> None:
    output, wanted = whole(model_of(case), tiny_batch())
    model = model_of(case)
    again, found = in_parts(model, tiny_batch(), num_parts)
    assert_same_gradients(found, wanted)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == found.keys()
    assert list(again.parts) == list(output.parts)
    torch.testing.assert_close(again, output)
    assert not again.total.requires_grad


def every_case_of_this_rank(num_rows: int) -> dict[str, dict[str, Tensor]]:
    """In three parts of this rank's share of the rows; averaged over the ranks."""
    batch = tiny_batch(distributed.own_share(num_rows))
    batch.num_samples = num_rows if num_rows % distributed.world_size() else None
    results = {}
    for case in CASES:
        output, found = in_parts(model_of(case), batch, num_parts=3)
        found |= {"value": output.total, **{f"report {name}": value for name, value in output.report.items()}}
        results[case] = {name: distributed.mean_over_ranks(value) for name, value in found.items()}
    return results


@pytest.fixture(scope="module", params=[NUM_ROWS, NUM_ROWS - 1])
def two_ranks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, list[dict[str, dict[str, Tensor]]]]:
    """The number of rows, an odd one too, and the results of both ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    return request.param, run_in_processes(every_case_of_this_rank, 2, folder, request.param)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_in_parts_give_what_one_gives_that_has_all_rows(
    case: str, two_ranks: tuple[int, list[dict[str, dict[str, Tensor]]]]
) -> None:
    num_rows, ranks = two_ranks
    output, wanted = whole(model_of(case), tiny_batch(slice(num_rows)))
    wanted |= {"value": output.total.detach()}
    wanted |= {f"report {name}": value for name, value in output.report.items()}
    for rank in ranks:
        assert_same_gradients(rank[case], wanted)


def test_a_run_of_two_processes_has_the_losses_and_gradients_of_whole_batches(
    people: Path, tmp_path: Path
) -> None:
    found = []
    for number in (1, 4):
        out = tmp_path / f"run-{number}"
        config = write_tiny(tmp_path / f"{number}.yaml", people, out)
        changes = (f"schedule.accumulate={number}", "experiment.dropout=0", "log.print_period=1")
        arguments = ["--config", str(config), *changes]
        assert run_in_processes(main, 2, tmp_path, arguments) == [0, 0]
        found.append([(line["loss"], line["gradient_norm"]) for line in train_lines(out)])
    assert len(found[0]) >= 2
    for parts, whole_batch in zip(*found, strict=True):
        assert parts == pytest.approx(whole_batch, rel=1e-3)


def weights_after_unequal_builds(arguments: list[str]) -> dict[str, Tensor]:
    """What this rank has after a run whose ranks began with different weights, as with other versions."""
    trained, fit = {}, Trainer.fit

    def fit_and_note(trainer: Trainer) -> None:
        fit(trainer)
        trained.update({name: values.clone() for name, values in trainer.model.state_dict().items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("misc.process.seed.seed_process", lambda seed: torch.manual_seed(distributed.rank()))
        patch.setattr(Trainer, "fit", fit_and_note)
        assert main(arguments) == 0
    return trained


@pytest.mark.parametrize(
    "more", [["schedule.accumulate=2"], ["schedule.accumulate=4", "model.use_gather=false"]]
)
def test_processes_that_build_different_weights_train_those_of_the_first(
    people: Path, tmp_path: Path, more: list[str]
) -> None:
    config = write_tiny(tmp_path / "c.yaml", people, tmp_path / "run")
    arguments = ["--config", str(config), "schedule.epoch=1", "experiment.dropout=0", *more]
    first, second = run_in_processes(weights_after_unequal_builds, 2, tmp_path, arguments)
    assert first.keys() == second.keys()
    for name, values in first.items():
        assert torch.equal(values, second[name]), name


def broadcast_on_this_rank(widths: list[int]) -> dict[str, Any]:
    """The parameters and buffers after the broadcast, or the error."""
    torch.manual_seed(distributed.rank())
    norm = nn.BatchNorm1d(widths[distributed.rank()])
    norm.register_buffer("passing", torch.rand(2, 3).T, persistent=False)
    model = nn.Sequential(nn.Linear(3, norm.num_features), norm).requires_grad_(False)
    norm.running_mean.normal_()
    try:
        distributed.broadcast_model(model)
    except UserError as error:
        return {"error": str(error)}
    return dict([*model.named_parameters(), *model.named_buffers()])


def test_all_parameters_and_buffers_are_those_of_the_first_process(tmp_path: Path) -> None:
    first, second = run_in_processes(broadcast_on_this_rank, 2, tmp_path, [4, 4])
    torch.testing.assert_close(second, first, rtol=0, atol=0)
    for result in run_in_processes(broadcast_on_this_rank, 2, tmp_path, [4, 5]):
        assert "process 1 differs from that of process 0 in '0.bias'" in result["error"]


@pytest.mark.parametrize("case", [ALL, "nitc", "ss_text", "mlm"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_both_passes_of_a_part_draw_the_same_dropout(case: str, checkpointing: bool) -> None:
    """By hand: the parts with gradient, one after another, then their masked captions, one after another."""
    others = {"experiment__dropout": 0.3, "model__grad_checkpointing": checkpointing}
    batch, rows = tiny_batch(), (slice(0, 2), slice(2, 5), slice(5, 8))
    model = model_of(case, **others)
    torch.manual_seed(11)
    counts = model.begin_step(batch)
    shares = [tiny_batch(share) for share in rows]
    encoded = [model.encode(share) for share in shares]
    features = {name: torch.cat([each[name] for each, _ in encoded]) for name in encoded[0][0]}
    losses = list(model.losses(model.gather(features, batch, SOFT_LABEL)).values())
    for share, (_, tokens) in zip(shares, encoded, strict=True):
        losses += model.token_losses(share, tokens, counts).values()
    sum(losses).backward()
    wanted, state = gradients(model), torch.get_rng_state()

    model = model_of(case, **others)
    torch.manual_seed(11)
    _, found = in_parts(model, batch, num_parts=3)
    assert_same_gradients(found, wanted)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(12)
    model.zero_grad()
    other = in_parts(model, batch, num_parts=3)[1]
    assert any(not torch.allclose(found[name], other[name]) for name in found), "there is no dropout"


def under_autocast(case: str, num_parts: int | None = None) -> dict[str, Tensor]:
    """As the engine does it: the losses of a whole batch under autocast, its backward pass outside."""
    model = model_of(case)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        if num_parts:
            return in_parts(model, tiny_batch(), num_parts)[1]
        output = model(tiny_batch(), SOFT_LABEL)
    output.total.backward()
    return gradients(model)


@pytest.mark.parametrize("case", ["nitc ritc citc", "mlm", "sdm", "tal"])
def test_under_autocast_one_part_has_the_gradients_of_the_whole(case: str) -> None:
    """Autocast would reuse the weights that it cast in the first pass, which have no way back; and a backward
    pass inside it would make half-precision products of what is fp32.
    """
    assert_same_gradients(under_autocast(case, num_parts=1), under_autocast(case), tolerance=1e-6)


@pytest.mark.parametrize("case", ["nitc ritc citc ss", "mlm"])
def test_under_autocast_parts_are_near_the_whole(case: str) -> None:
    wanted, found = under_autocast(case), under_autocast(case, num_parts=3)
    assert found.keys() == wanted.keys()
    largest = max(gradient.norm() for gradient in wanted.values())
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm() <= 0.1 * (gradient.norm() + 0.01 * largest), name


def test_what_scales_a_loss_scales_all_gradients_once() -> None:
    plain, scaled = in_parts(model_of(ALL), tiny_batch(), 3), in_parts(model_of(ALL), tiny_batch(), 3, 1024.0)
    torch.testing.assert_close(plain[0], scaled[0])
    assert_same_gradients({name: tensor / 1024 for name, tensor in scaled[1].items()}, plain[1])


def test_gradients_are_added_to_those_that_are_there() -> None:
    model = model_of("nitc mlm")
    once = in_parts(model, tiny_batch(), 2)[1]
    twice = in_parts(model, tiny_batch(), 2)[1]
    assert_same_gradients(twice, {name: 2 * tensor for name, tensor in once.items()})


def test_a_part_at_a_time_is_moved_to_the_device_with_captions_cut_to_its_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, move = [], Batch.to

    def to(batch: Batch, *arguments: object, **others: object) -> Batch:
        seen.append(batch)
        return move(batch, *arguments, **others)

    monkeypatch.setattr(Batch, "to", to)
    batch = tiny_batch()
    batch.tokens2["attention_mask"][:2, -3:] = 0
    in_parts(model_of(ALL), batch, 4)
    assert len(seen) == 2 * 4, "each part in each pass, and never the batch"
    for number, part in enumerate(seen):
        assert part.indices.tolist() == [2 * (number % 4), 2 * (number % 4) + 1]
        assert all(len(pixels) == 2 for pixels in part.images.values())
        for tokens in (part.tokens, part.tokens2, part.masked_tokens):
            assert tokens["input_ids"].shape == (2, tokens["attention_mask"].sum(dim=1).max())
        assert part.mlm_labels.shape == part.masked_tokens["input_ids"].shape
    assert seen[0].tokens2["input_ids"].shape[1] < seen[1].tokens2["input_ids"].shape[1]


def test_a_part_without_rows_is_not_made() -> None:
    with pytest.raises(AssertionError):
        in_parts(model_of("nitc"), tiny_batch(), NUM_ROWS + 1)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_altclips_gradients_are_those_of_the_whole_batch(folder: Path, checkpointing: bool) -> None:
    names = [name for name in TOGETHER if name != "mlm"]
    results = []
    for step in (whole, lambda model, batch: in_parts(model, batch, 3)):
        torch.manual_seed(0)
        options = settings(folder, *names, model__grad_checkpointing=checkpointing)
        model = build_model(options, 3)[0].train()
        results.append(step(model, batch_of(folder)))
    (output, wanted), (again, found) = results
    assert_same_gradients(found, wanted)
    torch.testing.assert_close(again.parts, output.parts)
