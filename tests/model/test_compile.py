"""Compiled towers: the same names, features and gradients; captions of all lengths share a compilation."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn.parallel import DistributedDataParallel

from misc.process import distributed
from model import compile_towers
from options import UserError
from tests.helpers.gloo import run_in_processes
from tests.helpers.gradients import assert_same_gradients, in_parts, whole
from tests.helpers.tiny import ALL_OFF, NUM_ROWS, tiny_batch, tiny_model

COMPILED = {"experiment.dropout": 0.3, "model.compile": True}


RDE = {"experiment.tal": True, "experiment.tse": True, "experiment.tse_width": 12}
IRRA = {"experiment.sdm": True, "experiment.id": True, "experiment.mlm": True}
ITSELF = {"experiment.tal": True, "experiment.grab": True}
IRRA |= {"experiment.mlm_variant": "irra", "experiment.mlm_masks_all": True}


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are traced as for the compiler, with its guards, and run without it, which takes minutes."""
    compile_in_graphs(monkeypatch, "eager")


def compile_in_graphs(patch: pytest.MonkeyPatch, backend: str) -> None:
    compile_module = nn.Module.compile

    def compile_quickly(module: nn.Module, options: dict[str, Any], **others: Any) -> None:
        compile_module(module, backend=backend, **others)

    patch.setattr(nn.Module, "compile", compile_quickly)


def test_gradients_and_names_stay_those_of_the_plain_towers(traced: None) -> None:
    results = []
    for compiled in (False, True):
        model = tiny_model(COMPILED | {"model.compile": compiled})
        torch.manual_seed(5)
        results.append((model.state_dict().keys(), whole(model, tiny_batch())))
    (names, (output, wanted)), (compiled_names, (again, found)) = results
    assert compiled_names == names
    assert_same_gradients(found, wanted)
    torch.testing.assert_close(again.parts, output.parts)
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]


@pytest.mark.parametrize("losses", [RDE, ITSELF, IRRA], ids=["rde", "itself", "irra"])
def test_the_published_methods_compile_without_a_break(losses: dict[str, object], traced: None) -> None:
    results, batch = [], tiny_batch()
    if losses is IRRA:
        batch = replace(batch, tokens=batch.masked_tokens, masked_tokens=None)
    for compiled in (False, True):
        results.append(whole(tiny_model(ALL_OFF | losses | {"model.compile": compiled}), batch))
    (output, wanted), (again, found) = results
    assert_same_gradients(found, wanted)
    torch.testing.assert_close(again.parts, output.parts)
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]


def test_another_number_of_selected_tokens_makes_no_graph_of_its_own(traced: None) -> None:
    model = tiny_model(ALL_OFF | ITSELF | {"model.compile": True, "data.image_size": "[64,64]"})
    batch = replace(tiny_batch(), images={"view1": torch.randn(NUM_ROWS, 3, 64, 64)})
    for step in range(0, 1500, 100):
        model.step = step
        whole(model, batch)
    assert counters["stats"]["unique_graphs"] <= 4


def test_checkpointing_of_compiled_towers_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.compile.*model\.grad_checkpointing"):
        tiny_model(COMPILED | {"model.grad_checkpointing": True})


def test_both_passes_of_an_accumulated_step_draw_the_same(traced: None) -> None:
    results = []
    for compiled in (False, True):
        model = tiny_model(COMPILED | {"model.compile": compiled})
        torch.manual_seed(5)
        results.append(in_parts(model, tiny_batch(), 2)[1])
    assert_same_gradients(*results)


def test_captions_of_any_length_share_their_graphs(traced: None) -> None:
    model = tiny_model(COMPILED)
    for longest in range(4, 11):
        batch = tiny_batch(slice(0, NUM_ROWS - longest % 2))
        batch.tokens = {name: values[:, :longest] for name, values in batch.tokens.items()}
        batch.tokens["attention_mask"][:, longest - 1 :] = 0
        whole(model, batch)
    assert counters["stats"]["unique_graphs"] <= 4


def test_evaluation_gives_the_features_of_the_plain_towers(traced: None) -> None:
    plain, compiled, batch = tiny_model({}).eval(), tiny_model(COMPILED).eval(), tiny_batch()
    with torch.no_grad():
        for images in (batch.images["view1"], batch.images["view2"][:3]):
            wanted = plain.clip.encode_image(images)
            torch.testing.assert_close(compiled.clip.encode_image(images), wanted, rtol=0, atol=1e-5)
        wanted = plain.clip.encode_text(batch.tokens)
        torch.testing.assert_close(compiled.clip.encode_text(batch.tokens), wanted, rtol=0, atol=1e-5)


def steps_on_this_rank(is_compiled: bool) -> dict[str, Tensor]:
    """The gradients of steps with captions of two lengths on half the rows, a bucket for each few tensors."""
    torch._dynamo.reset()
    half = slice(4 * distributed.rank(), 4 * distributed.rank() + 4)
    with pytest.MonkeyPatch.context() as patch:
        compile_in_graphs(patch, "aot_eager")
        patch.setattr(torch.distributed, "_DEFAULT_FIRST_BUCKET_BYTES", 1024)
        small = partial(DistributedDataParallel, bucket_cap_mb=0.004)
        patch.setattr(distributed, "DistributedDataParallel", small)
        one_layer = {"model.image_layers": 1, "model.text_layers": 1, "experiment.nitc": True}
        model = tiny_model(ALL_OFF | one_layer | {"model.compile": is_compiled})
        wrapped = distributed.wrap(model, torch.device("cpu"))
        for longest in (10, 7):
            batch = tiny_batch(half)
            batch.tokens = {name: values[:, :longest] for name, values in batch.tokens.items()}
            batch.tokens["attention_mask"][:, longest - 1 :] = 0
            wrapped(batch, 0.3).total.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.slow
def test_compiled_towers_train_under_several_processes_whatever_the_size_of_their_buckets(
    tmp_path: Path,
) -> None:
    wanted, found = (run_in_processes(steps_on_this_rank, 2, tmp_path, each) for each in (False, True))
    for plain, compiled in zip(wanted, found, strict=True):
        assert_same_gradients(compiled, plain)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.slow
def test_the_real_compiler_takes_the_text_tower() -> None:
    model = tiny_model({"model.text_layers": 1}).eval()
    tokens = tiny_batch().tokens
    with torch.no_grad():
        wanted = model.clip.encode_text(tokens)
        compile_towers(model.clip)
        torch.testing.assert_close(model.clip.encode_text(tokens), wanted, rtol=0, atol=1e-5)
        shorter = {"input_ids": tokens["input_ids"][:4, :6], "attention_mask": torch.ones(4, 6).long()}
        assert model.clip.encode_text(shorter).isfinite().all()
