"""Linear layers that recompute their input in the backward pass instead of keeping it."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


class _LinearOf(torch.autograd.Function):
    """See `linear_of`; the gradient is explicit because the input of the product is not kept."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        function: Callable[..., Tensor],
        alpha: float,
        weight: Tensor,
        bias: Tensor,
        *inputs: Tensor,
    ) -> Tensor:
        """alpha * function(*inputs) @ weight.T + bias."""
        ctx.function, ctx.alpha = function, alpha
        ctx.save_for_backward(weight, *inputs)
        # Allocated before the temporaries of the product, so that the tensors that are kept are contiguous.
        product = weight.new_empty(*inputs[0].shape[:-1], len(weight))
        rows = function(*inputs).to(weight.dtype).flatten(0, -2)
        torch.addmm(bias, rows, weight.T, alpha=alpha, out=product.flatten(0, -2))
        return product

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of the inputs of `forward` that need one."""
        weight, *inputs = ctx.saved_tensors
        _, _, weight_needs, bias_needs, *inputs_need = ctx.needs_input_grad
        inputs = [x.detach().requires_grad_(needs) for x, needs in zip(inputs, inputs_need, strict=True)]
        with torch.enable_grad():
            y = ctx.function(*inputs).to(weight.dtype)
        rows, gradient = y.detach().flatten(0, -2), gradient.reshape(-1, gradient.shape[-1])
        found: list[Tensor | None] = [None] * len(inputs)
        if any(inputs_need):
            needed = [x for x in inputs if x.requires_grad]
            back = iter(torch.autograd.grad(y, needed, _product(gradient, weight, ctx.alpha).view_as(y)))
            found = [next(back) if needs else None for needs in inputs_need]
        weight_gradient = _product(gradient.T, rows, ctx.alpha) if weight_needs else None
        return None, None, weight_gradient, gradient.sum(0) if bias_needs else None, *found


def linear_of(
    function: Callable[..., Tensor],
    inputs: tuple[Tensor, ...],
    weight: Tensor,
    bias: Tensor,
    alpha: float = 1.0,
) -> Tensor:
    """alpha * function(*inputs) @ weight.T + bias, in autocast's type where it is on.

    The product needs function(*inputs) for the gradient of its weight. Where the function is cheap, as a norm
    or an activation is, it is recomputed in the backward pass: only `inputs` are kept.

    Args:
        function: of tensors, to (..., in features); without randomness.
        weight: (out features, in features); bias: (out features,).
    """
    device = weight.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        weight, bias = weight.to(dtype), bias.to(dtype)
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # the compiler decides what to keep
        x = function(*inputs).to(weight.dtype)
        return torch.addmm(bias, x.flatten(0, -2), weight.T, alpha=alpha).view(*x.shape[:-1], -1)
    return _LinearOf.apply(function, alpha, weight, bias, *inputs)


def _product(a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """alpha * a @ b, scaled within the product."""
    return torch.addmm(a.new_zeros(()), a, b, beta=0, alpha=alpha)
