"""Random CLIP weights in the format of OpenAI's archives, for the tests."""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from model.clip import build_clip

SIZES = {
    "patch_size": 16,
    "image_width": 128,
    "image_layers": 2,
    "text_width": 64,
    "text_layers": 2,
    "embed_dim": 32,
}
IMAGE_SIZE = (64, 64)


def openai_state_dict(
    half: bool = False, image_size: tuple[int, int] = IMAGE_SIZE, **changes: int
) -> dict[str, Tensor]:
    """A small ViT under OpenAI's names, with its three buffers. No tensor is left at a constant, so that two
    exchanged ones show. With `half`, in fp16 what OpenAI stores so: all but norms and embeddings.
    """
    torch.manual_seed(0)
    model, _, _ = build_clip(image_size=image_size, **(SIZES | changes))
    state = {}
    for name, tensor in model.state_dict().items():
        tensor = tensor + 0.1 * (tensor.abs().mean() + 0.1) * torch.randn_like(tensor)
        stays = any(part in name for part in ("ln_", "embedding", "logit_scale"))
        state[name.removeprefix("text.")] = tensor.half() if half and not stays else tensor
    buffers = {"input_resolution": image_size[0], "context_length": 77, "vocab_size": 49_408}
    return state | {name: torch.tensor(value) for name, value in buffers.items()}


class _Tree(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def save_torchscript(state: dict[str, Tensor], path: Path) -> Path:
    """Writes a traced tree of modules whose parameters and buffers have the names of `state`."""
    root = _Tree()
    for name, tensor in state.items():
        *parents, leaf = name.split(".")
        module = root
        for parent in parents:
            if parent not in dict(module.named_children()):
                module.add_module(parent, _Tree())
            module = module.get_submodule(parent)
        if tensor.is_floating_point():
            module.register_parameter(leaf, nn.Parameter(tensor))
        else:
            module.register_buffer(leaf, tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch deprecates TorchScript, OpenAI's format
        torch.jit.trace(root, torch.zeros(1)).save(str(path))
    return path
