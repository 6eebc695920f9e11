"""What the tests of the families of transformers share."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from model.families import FAMILIES

CAPTIONS = [
    "a man",
    "A woman, in a long red coat and black shoes, carries a white bag over her left shoulder",
    "红色上衣的女生",
]


@pytest.fixture(params=sorted(FAMILIES))
def kind(request: pytest.FixtureRequest) -> str:
    """Each `model_type` in turn."""
    return request.param


@pytest.fixture
def captions() -> list[str]:
    """Captions of different lengths, one longer than the positions."""
    return CAPTIONS


@pytest.fixture
def images() -> Callable[[int, int], Tensor]:
    """(height, width) -> two random images."""
    return lambda *size: torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
