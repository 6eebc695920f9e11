"""The benchmark: its arithmetic against torch's own count and by hand, its rows, its report, its mistakes."""

import io
import itertools
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from misc.benchmark import child, machine, step
from misc.benchmark.__main__ import build_parser, main, warn_of_unused
from misc.benchmark.flops import Tower, step_flops
from misc.benchmark.measure import Workload, measure
from misc.benchmark.parts import BASELINES, GPU_ONLY, PARTS, Settings, select_parts
from misc.benchmark.report import comparison, read_report, write_report
from misc.benchmark.setting import SIMPLIFIED
from misc.benchmark.towers import head_flops, step_towers, towers
from misc.benchmark.workloads import WORKLOADS
from tests.helpers import altclip_folders
from tests.helpers.tiny import ALL_OFF, LENGTH, NUM_ROWS, tiny_batch, tiny_model

MIDDLE = {"model.image_width": 96, "model.image_layers": 4, "model.image_heads": 3, "model.embed_dim": 32}
MIDDLE |= {"model.text_width": 64, "model.text_layers": 3, "model.text_heads": 2}
VIT_B = Tower(197, 768, 3072, 768 * 512, [True] * 12, patch=3 * 16 * 16, nominal=True)
TEXT = Tower(30, 512, 2048, 512 * 512, [True] * 12, causal=True, nominal=True)


def counted(work: Callable[[], object]) -> int:
    """What torch counts; its attention as plain products, which the counter knows on every device."""
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return counter.get_total_flops()


def behind_the_mask(text: Tower) -> int:
    """What plain products compute of a causal tower's scores though the mask hides it, forward.

    The last block is asked by one token alone, and nothing of it is hidden.
    """
    hidden = text.tokens * (text.tokens - 1) // 2
    return (len(text.trained) - 1) * 2 * 2 * hidden * text.width if text.causal else 0


@pytest.mark.parametrize(
    "settings",
    [
        {},
        MIDDLE,
        {**MIDDLE, "model.lock_patch_embedding": "false"},
        {**MIDDLE, "model.lock_image_blocks": 2, "model.lock_text_blocks": 1},
        {**MIDDLE, "model.lock_text_layers": "[1]"},
    ],
    ids=["tiny", "middle", "patches train", "first blocks frozen", "a block between frozen"],
)
def test_a_step_is_counted_as_torch_counts_it(settings: dict[str, object]) -> None:
    model, batch = tiny_model(settings), tiny_batch()
    image, text = step_towers(model, LENGTH, LENGTH + 2)
    needed = step_flops(image, text, NUM_ROWS, 4, head_flops(model, image, text, batch))
    # Backward twice for each block that something below or in it trains; frozen first blocks have none.
    times = 3 * (len(text.trained) - 1) - 2 * settings.get("model.lock_text_blocks", 0)
    masked = NUM_ROWS * behind_the_mask(text) * times / (len(text.trained) - 1)
    found = counted(lambda: model(batch, 0.5).total.backward())
    assert found == pytest.approx(needed + masked, rel=0.015)  # what is left: the losses' similarities
    assert found >= needed + masked


RDE = {"experiment.tal": True, "experiment.tse": True, "experiment.tse_width": 48}
CLASSIFIED = RDE | {"experiment.id": True, "experiment.cid": True, "experiment.id_on": "all"}
IRRA = {"experiment.sdm": True, "experiment.id": True, "experiment.mlm": True}
IRRA |= {"experiment.mlm_variant": "irra", "experiment.mlm_masks_all": True}


@pytest.mark.parametrize("losses", [RDE, CLASSIFIED, IRRA], ids=["rde", "classified", "irra"])
def test_a_step_of_a_published_method_is_counted_as_torch_counts_it(losses: dict[str, object]) -> None:
    sizes = {"data.image_size": "[64,32]", "model.lock_patch_embedding": "false"}
    model, batch = tiny_model(MIDDLE | ALL_OFF | losses | sizes), tiny_batch()
    batch.images["view1"] = torch.randn(NUM_ROWS, 3, 64, 32)
    image, text = step_towers(model, LENGTH, LENGTH + 2)
    if losses is IRRA:
        batch = replace(batch, tokens=batch.masked_tokens, masked_tokens=None)
        assert (image.outputs, text.outputs, text.tokens) == (33, 12, 12)
    else:
        assert (image.outputs, text.outputs, text.tokens) == (1 + 9, 1 + 3, LENGTH)
    needed = step_flops(image, text, NUM_ROWS, 1, head_flops(model, image, text, batch))
    blocks = len(text.trained)  # all of them hide scores where the last one computes all rows
    hidden = behind_the_mask(text) * (blocks / (blocks - 1) if losses is IRRA else 1)
    found = counted(lambda: model(batch, 0.5).total.backward())
    row = 0
    if losses is not IRRA:  # the attention that selects, without gradient
        for tower in (image, text):
            row += 2 * (tower.tokens + 1) * tower.width**2 + 2 * tower.tokens * tower.width
    assert found == pytest.approx(needed + NUM_ROWS * (3 * hidden + row), rel=0.015)


def test_evaluation_is_counted_as_torch_counts_it() -> None:
    clip, batch = tiny_model(MIDDLE).clip.eval().requires_grad_(False), tiny_batch()
    image, text = towers(clip, LENGTH)
    assert counted(lambda: clip.encode_image(batch.images["view1"])) == NUM_ROWS * image.forward()
    expected = NUM_ROWS * (text.forward() + behind_the_mask(text))
    assert counted(lambda: clip.encode_text(batch.tokens)) == expected


def test_altclip_is_counted_as_torch_counts_it(folder: Path) -> None:
    clip, tokens = altclip_folders.build(folder), altclip_folders.tokens_of(folder)
    pixels = altclip_folders.pixels(len(tokens["input_ids"]))
    rows, length = tokens["input_ids"].shape
    image, text = (replace(t, nominal=True) for t in towers(clip, length))
    unread = (
        2 * (length - 1) * clip.text.text_model.transformation.weight.numel()
    )  # of all tokens, one is read
    assert counted(lambda: clip.encode_image(pixels)) == rows * image.forward()
    assert counted(lambda: clip.encode_text(tokens)) == rows * (text.forward() + unread)


def test_vit_b_has_the_published_arithmetic() -> None:
    block = 2 * 197 * 12 * 768**2 + 4 * 197**2 * 768
    assert VIT_B.forward() == 12 * block + 2 * 196 * 768 * 768 + 2 * 768 * 512
    assert VIT_B.forward() == pytest.approx(2 * 17.56e9, rel=1e-3)  # multiply-adds, as the field counts them
    assert VIT_B.backward() == 2 * (12 * block + 2 * 768 * 512)  # nothing of the patch embedding
    text = 12 * (2 * 30 * 12 * 512**2 + 4 * 30 * 31 // 2 * 512) + 2 * 512 * 512
    assert TEXT.forward() == text
    step = 4 * (VIT_B.forward() + VIT_B.backward()) + 3 * text + 2 * 3 * 2 * 2 * 512 * 128
    assert step_flops(VIT_B, TEXT, batch_size=8, views=4, heads=2 * 2 * 2 * 512 * 128) == 8 * step


def test_the_last_block_needs_the_pooled_token_alone() -> None:
    block = 2 * 197 * 12 * 768**2 + 4 * 197**2 * 768
    last = 2 * 197 * 2 * 768**2 + 2 * (2 + 8) * 768**2 + 4 * 197 * 768  # keys, values; the rest of one token
    assert VIT_B.forward() - replace(VIT_B, nominal=False).forward() == block - last


def test_below_what_is_frozen_nothing_is_counted() -> None:
    tower = replace(VIT_B, trained=[False, False, True], below_trained=False)
    (linear, attention), *_ = tower.blocks()
    assert tower.backward() == 2 * (linear + attention) + 4 * tower.projection
    through = replace(tower, below_trained=True)
    assert through.backward() - tower.backward() == 2 * (linear + 2 * attention)


def test_a_row_holds_together(monkeypatch: pytest.MonkeyPatch) -> None:
    runs, clock, peaks = [], itertools.count(0.0), iter([1e9, 3e9, 5e9, 7e9])
    monkeypatch.setattr("misc.benchmark.measure.matmul_peak", lambda *_: next(peaks))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock) ** 2)  # runs of 1, 5 and 9 seconds
    work = Workload(lambda: runs.append(1), 6, "samples", flops=6e9, nominal_flops=9e9)
    row = measure("made up", lambda: work, repeats=3)
    assert len(runs) == 4
    assert (row["times"], row["seconds"], row["throughput"]) == ([1, 5, 9], 5, 6 / 5)
    assert (row["matmul_peak"], row["flops_per_item"], row["nominal_flops_per_item"]) == (4e9, 1e9, 1.5e9)
    assert row["peak_share"] == statistics.median(
        [6 / 1 / 2, 6 / 5 / 4, 6 / 9 / 6]
    )  # not bounded by 1: a peak
    assert row["nominal_peak_share"] == pytest.approx(1.5 * row["peak_share"])
    assert row["held_memory"] is row["beyond_memory"] is None


def test_the_peak_is_the_rate_of_the_fastest_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_calls_per_second", lambda product, _: product().numel())
    found = machine.matmul_peak([(2, 3, 5), (2, 3, 4)], torch.device("cpu"), torch.float32)
    assert found == 2 * (2 * 3 * 5) * (5 * 3)  # the weight's gradient of the first


def test_memory_is_what_was_held_at_most() -> None:
    code = (
        "from misc.benchmark.measure import *\n"
        "kept = torch.ones(1_000_000)\n"
        "large, sizes = lambda: torch.ones(75_000_000), [(8, 8, 8)]\n"
        "work = Workload(large, 1, 'runs', products=lambda: sizes, held=lambda: kept.nbytes)\n"
        "row = measure('made up', lambda: work, 1)\n"
        "print(row['peak_memory'], row['held_memory'], row['beyond_memory'])"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    peak, held, beyond = map(int, out.split())
    assert 0.29e9 < peak < 0.4e9
    assert (held, beyond) == (4_000_000, peak - 4_000_000)


def test_every_part_has_its_work() -> None:
    assert list(WORKLOADS) == list(PARTS)
    assert {*GPU_ONLY, *BASELINES, *BASELINES.values()} <= PARTS.keys()


def test_groups_and_parts_are_chosen_in_the_order_of_the_table() -> None:
    assert select_parts(None) == list(PARTS)
    assert select_parts("metrics.icfg,data,step.full") == [
        *("step.full", "data.full", "data.simplified", "data.workers", "metrics.icfg")
    ]


@pytest.fixture
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("name", [name for name in PARTS if name not in (*GPU_ONLY, "start.imports")])
def test_a_part_runs(name: str, people: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.getbasetemp() / "bench"
    settings = Settings("cpu", quick=True, annotations=people, images=people / "imgs", folder=place)
    work = WORKLOADS[name](settings)
    work.run()
    assert work.items > 0
    if name.startswith(("step", "accumulate")):
        assert work.nominal_flops >= work.flops > 0
        assert work.held() > 0
        assert all(len(sizes) == 3 for sizes in work.products())
        larger = {"accumulate": 16, "step": 4}[name.split(".")[0]]
        assert work.items == (2 if name == "step.altclip" else larger)
    if name.startswith("data"):
        work.run()  # another epoch
        assert work.items % 4 == 0


@pytest.fixture(scope="module")
def report(people: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[str, Any]]:
    """The lines and the JSON of a run of the program, compared with an earlier one that is made up."""
    folder = tmp_path_factory.mktemp("report")
    row = {"items": 4, "unit": "samples", "precision": "float32", "throughput": 2.5, "matmul_peak": 1e10}
    row |= {"flops_per_item": 1.0, "peak_memory": 10**8, "beyond_memory": None}
    earlier = {"machine": {}, "settings": {}, "parts": {"step.simplified": row, "step.bf16": row}}
    (folder / "earlier.json").write_text(json.dumps(earlier))
    out, stdout, stderr = folder / "made" / "bench.json", io.StringIO(), io.StringIO()
    arguments = ["--quick", "--device", "cpu", "--repeats", "1", "--only", "step.simplified,step.bf16"]
    arguments += ["--annotations", str(people), "--images", str(people / "imgs"), "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr):
        in_child = child.run_in_child  # what measures; what prepares needs no process
        patch.setattr(
            "misc.benchmark.__main__.run_in_child",
            lambda work, *given: work(*given) if work is child.prepare else in_child(work, *given),
        )
        status = main([*arguments, "--compare", str(folder / "earlier.json"), "model.text_layers=1"])
    assert (status, stderr.getvalue()) == (0, "")
    return stdout.getvalue().splitlines(), json.loads(out.read_text(encoding="utf-8"))


def test_its_json_says_what_was_measured_and_where(report: tuple[list[str], dict[str, Any]]) -> None:
    _, found = report
    assert {"cpu", "cores", "threads", "gpu", "torch", "date"} <= found["machine"].keys()
    assert found["settings"]["overrides"] == ["model.text_layers=1"]
    step, skipped = found["parts"].values()
    assert skipped == {"why": "skipped: it is for GPUs"}
    assert step["items"] == 4
    assert step["seconds"] > 0
    assert step["throughput"] == pytest.approx(4 / step["seconds"])
    assert step["beyond_memory"] == step["peak_memory"] - step["held_memory"] > 0
    (seconds,) = step["times"]
    reached = step["flops_per_item"] * 4 / seconds  # matmul_peak: the median of two, which is their mean
    assert step["peak_share"] == pytest.approx(reached / step["matmul_peak"])
    nominal = step["nominal_flops_per_item"] / step["flops_per_item"]
    assert step["nominal_peak_share"] / step["peak_share"] == pytest.approx(nominal)


def test_its_table_has_a_row_for_each_part(report: tuple[list[str], dict[str, Any]]) -> None:
    lines, found = report
    header, step, skipped = lines[1:4]
    assert skipped.split(maxsplit=1) == ["step.bf16", "skipped: it is for GPUs"]
    end = header.index("throughput") + len("throughput")
    name, seconds, throughput, unit = step[:end].split()
    assert (name, unit) == ("step.simplified", "samples/s")  # it ends where its column does
    row = found["parts"]["step.simplified"]
    assert float(seconds) == pytest.approx(row["seconds"], rel=1e-3)
    assert float(throughput) == pytest.approx(row["throughput"], rel=1e-3)


def test_it_compares_with_an_earlier_run(report: tuple[list[str], dict[str, Any]]) -> None:
    lines, found = report
    row = found["parts"]["step.simplified"]
    name, before, now, ratio, by_peaks, *_ = lines[-1].split()
    assert (name, before) == ("step.simplified", "2.5")
    assert float(now) == pytest.approx(row["throughput"], rel=1e-3)
    assert float(ratio) == pytest.approx(row["throughput"] / 2.5, rel=1e-2)
    assert float(by_peaks) == pytest.approx(row["throughput"] / 2.5 * 1e10 / row["matmul_peak"], rel=1e-2)


def test_a_busier_machine_is_allowed_for() -> None:
    row = {"items": 8, "unit": "samples", "precision": "float32", "flops_per_item": 1.0}
    before = {**row, "throughput": 10.0, "matmul_peak": 100.0, "peak_memory": 400, "beyond_memory": 300}
    now = {**row, "throughput": 15.0, "matmul_peak": 50.0, "peak_memory": 200, "beyond_memory": 75}
    _, line = comparison({"a": before, "gone": before}, {"a": now, "new": now})
    assert line.split() == ["a", "10", "15", "1.500", "3.000", "0.250", "samples/s"]
    _, other = comparison({"a": before}, {"a": {**now, "items": 4}})
    assert other.endswith("different work")
    assert len(comparison({"a": {"why": "skipped"}}, {"a": now})) == 1


def test_an_earlier_report_may_have_the_former_names(tmp_path: Path) -> None:
    parts = {"plain.full": {"why": "failed"}, "step.full": {"items": 8}}
    write_report(tmp_path / "old.json", {}, {}, parts)
    assert (
        read_report(tmp_path / "old.json")["parts"].keys() == {"baseline.full", "step.full"} <= PARTS.keys()
    )


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--only", "step.fast"], "--only: expected names of --help"),
        (["--repeats", "0"], "--repeats: expected at least 1, found 0"),
        (["--batch-size", "-8"], "--batch-size: expected at least 1, found -8"),
        (["--annotations", "a.json"], "--annotations and --images go together"),
        (["--compare", "no.json"], "--compare: expected the --out of an earlier run, found 'no.json'"),
        (["--compare", "pyproject.toml"], "--compare: expected the --out of an earlier run"),
        (["--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
        (["--out", "README.md/bench.json"], "--out: 'README.md/bench.json' cannot be written"),
        (["--only", "metrics", "--quick", "data.batchsize=8"], "data.batchsize: no such option"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str], people: Path
) -> None:
    data = [] if "--annotations" in arguments else ["--annotations", str(people), "--images", str(people)]
    assert main([*arguments, *data]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert re.match(f"error: {re.escape(complaint)}", err)


def test_json_of_another_kind_is_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.json").write_text("[]")
    assert main(["--compare", str(tmp_path / "other.json")]) == 2
    assert "found other JSON in '" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("metrics.cuhk", ["--annotations", "--batch-size"]),
        ("baseline.metrics", ["--annotations", "--batch-size"]),
        ("tokens.clip", ["--batch-size"]),
        ("evaluate.images", ["--batch-size"]),
        ("step.full", []),
        ("baseline.data", []),
    ],
)
def test_flags_that_no_part_reads_are_named(
    name: str, expected: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    given = build_parser().parse_args(["--annotations", "a", "--images", "b", "--batch-size", "4"])
    warn_of_unused(given, [name])
    assert [record.getMessage().split()[0] for record in caplog.records] == expected
    caplog.clear()
    warn_of_unused(build_parser().parse_args([]), [name])
    assert not caplog.records


def test_the_arithmetic_of_unknown_towers_is_what_a_step_computes(
    people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings("cpu", quick=True, annotations=people, images=people / "imgs", folder=tmp_path)
    known = step.training_step(settings, SIMPLIFIED)
    monkeypatch.setattr(step, "are_known", lambda _: False)
    counted_once = step.training_step(settings, SIMPLIFIED)
    assert counted_once.flops == pytest.approx(known.flops, rel=0.15)
    assert counted_once.flops > known.flops  # padding, and scores behind the mask, are computed too
    assert counted_once.items == known.items
