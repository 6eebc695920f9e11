"""The images of a batch on their way from a worker to the model."""

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor

Change = Callable[[Tensor], Tensor]


class Views(Mapping[str, Tensor]):
    """{view: (B, 3, H, W) fp32, normalised}. Holds bytes, and normalises what is looked up, where it lies.

    A quarter of the size thus goes between processes, into page-locked memory and to the device.
    """

    def __init__(self, pixels: dict[str, Tensor], normalise: Change) -> None:
        self._pixels, self._normalise = pixels, normalise

    def __getitem__(self, view: str) -> Tensor:
        return self._normalise(self._pixels[view])

    def __iter__(self) -> Iterator[str]:
        return iter(self._pixels)

    def __len__(self) -> int:
        return len(self._pixels)

    def map(self, change: Change) -> "Views":
        """The same views after `change` of their bytes, such as a move to a device."""
        return Views({view: change(pixels) for view, pixels in self._pixels.items()}, self._normalise)
