"""Recomputation in the backward pass: the same gradients, and fewer tensors kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from misc.process import distributed
from model import build_model
from model.towers.layers import Block, Transformer, rows_at
from model.towers.recompute import linear_of
from tests.helpers.altclip_folders import batch_of, settings
from tests.helpers.gloo import run_in_processes
from tests.helpers.gradients import assert_same_gradients
from tests.helpers.tiny import NUM_ROWS, tiny_batch, tiny_model

# torch 2.4, of its own checkpoint
pytestmark = pytest.mark.filterwarnings("ignore:.torch.cpu.amp.autocast:FutureWarning")
WIDTH = 16


def bytes_kept(function: Callable[[], Tensor], module: nn.Module) -> tuple[int, Tensor]:
    """What autograd keeps for the backward pass of a result, without the module's parameters; and it."""
    own, kept = {p.untyped_storage().data_ptr() for p in module.parameters()}, {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    return sum(kept.values()), result


def twice(x: Tensor, factor: Tensor) -> Tensor:
    return (x * factor).tanh()


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def test_a_linear_map_of_a_cheap_function_has_its_gradients() -> None:
    torch.manual_seed(0)
    x, factor, weight, bias = drawn(2, 3, 4), drawn(4), drawn(5, 4), drawn(5)

    def mapped(x: Tensor, factor: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return linear_of(twice, (x, factor), weight, bias, alpha=0.7)

    wanted = 0.7 * (x * factor).tanh() @ weight.T + bias
    torch.testing.assert_close(mapped(x, factor, weight, bias), wanted)
    assert torch.autograd.gradcheck(mapped, (x, factor, weight, bias))


@pytest.mark.parametrize("frozen", range(4))
def test_what_is_frozen_gets_no_gradient_and_the_others_keep_theirs(frozen: int) -> None:
    torch.manual_seed(0)
    inputs = [drawn(2, 3, 4), drawn(4), drawn(5, 4), drawn(5)]
    linear_of(twice, tuple(inputs[:2]), *inputs[2:]).square().sum().backward()
    wanted = [tensor.grad for tensor in inputs]
    again = [tensor.detach().requires_grad_(number != frozen) for number, tensor in enumerate(inputs)]
    linear_of(twice, tuple(again[:2]), *again[2:]).square().sum().backward()
    for number, tensor in enumerate(again):
        assert (tensor.grad is None) == (number == frozen)
        if number != frozen:
            torch.testing.assert_close(tensor.grad, wanted[number])


def test_under_autocast_the_product_is_made_in_its_type_and_gradients_come_in_the_weights() -> None:
    x, factor, weight, bias = (drawn(*shape).float().detach() for shape in ((2, 3, 4), (4,), (5, 4), (5,)))
    for tensor in (x, factor, weight, bias):
        tensor.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = linear_of(twice, (x, factor), weight, bias)
        wanted = F.linear(twice(x, factor), weight, bias)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, wanted)
    gradients = torch.autograd.grad(y.float().square().sum(), (x, factor, weight, bias))
    others = torch.autograd.grad(wanted.float().square().sum(), (x, factor, weight, bias))
    for found, other in zip(gradients, others, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, other, rtol=0.05, atol=0.05)


def test_a_block_keeps_ten_numbers_for_each_of_a_tokens_and_not_sixteen() -> None:
    """x twice, query, key, value, what attention found, and the MLP's four before the activation."""
    block, x = Block(WIDTH, 2, 0.0, causal=False), torch.randn(3, 50, WIDTH, requires_grad=True)
    kept, _ = bytes_kept(lambda: block(x), block)
    token = 3 * 50 * 4
    assert 10 * WIDTH * token <= kept <= (10 * WIDTH + 2 + 6) * token + 4096  # attention's and norms' sums


@pytest.mark.parametrize("causal", [False, True])
def test_a_stack_read_at_one_position_has_the_features_and_gradients_of_the_whole(causal: bool) -> None:
    torch.manual_seed(0)
    stack, read = Transformer(WIDTH, 2, 2, causal=causal), torch.tensor([[0], [6], [3]])
    x, gradient = torch.randn(3, 7, WIDTH), torch.randn(3, 1, WIDTH)
    wanted, found = rows_at(stack(x), read), stack(x, positions=read)
    assert found.shape == (3, 1, WIDTH)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    ours = torch.autograd.grad(found, list(stack.parameters()), gradient)
    for one, other in zip(ours, torch.autograd.grad(wanted, list(stack.parameters()), gradient), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_the_mask_holds_for_a_stack_read_at_one_position() -> None:
    torch.manual_seed(0)
    stack, read = Transformer(WIDTH, 2, 2), torch.tensor([[0], [2]])
    x, mask = torch.randn(2, 5, WIDTH), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]).bool()[:, None, None]
    torch.testing.assert_close(stack(x, mask, read), rows_at(stack(x, mask), read), rtol=0, atol=1e-5)


# Checkpointing


def stepped(model: Any, batch: Any) -> tuple[int, dict[str, Tensor]]:
    """The bytes kept by a step, and the gradients."""
    torch.manual_seed(5)
    kept, total = bytes_kept(lambda: model(batch, 0.3).total, model)
    total.backward()
    return kept, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_checkpointing_changes_no_gradient_and_keeps_less() -> None:
    sizes = {"experiment.dropout": 0.3, "model.image_layers": 6, "model.text_layers": 6}
    plain, wanted = stepped(tiny_model(sizes), tiny_batch())
    lean, found = stepped(tiny_model(sizes | {"model.grad_checkpointing": True}), tiny_batch())
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert lean < plain / 3


def test_checkpointing_of_altclip_changes_no_gradient_and_keeps_less(folder: Path) -> None:
    results = []
    for switch in (False, True):
        torch.manual_seed(0)
        options = settings(folder, "nitc", experiment__dropout=0.3, model__grad_checkpointing=switch)
        model = build_model(options, 3)[0].train()
        results.append(stepped(model, batch_of(folder)))
    (plain, wanted), (lean, found) = results
    assert_same_gradients(found, wanted)
    assert lean < plain / 2


def wrapped_gradients(checkpointing: bool) -> dict[str, Tensor]:
    model = tiny_model({"experiment.dropout": 0.3, "model.grad_checkpointing": checkpointing})
    share = NUM_ROWS // distributed.world_size()
    rows = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
    torch.manual_seed(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = distributed.wrap(model, torch.device("cpu"))(tiny_batch(rows), 0.3).total
    total.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def with_and_without() -> dict[str, dict[str, Tensor]]:
    return {"with": wrapped_gradients(True), "without": wrapped_gradients(False)}


def test_checkpointing_changes_no_gradient_of_two_processes_under_autocast(tmp_path: Path) -> None:
    for rank in run_in_processes(with_and_without, 2, tmp_path):
        assert rank["with"].keys() == rank["without"].keys()
        assert all(torch.equal(rank["with"][name], rank["without"][name]) for name in rank["with"])
