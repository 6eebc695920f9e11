"""The model of a checkpoint, as search uses it: images and sentences in, normalised features out."""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from misc.checkpoints.run_options import features_depend_on, options_for
from misc.evaluation.features import file_digest
from misc.process.device import pick_device, pick_precision
from model import build_model
from options import Options

CPU_BATCH = 32  # more at once is no faster there, and a stop would lose more


@dataclass(frozen=True)
class Encoder:
    """The towers in evaluation mode, a copy on every GPU, or on the CPU where there is none.

    Attributes:
        identity: SHA-256 of the weights' own and of the options that features depend on: features of equal
            identity may be compared.
        checkpoint: the file of the weights.
        options: those of the checkpoint, with device and precision left to the machine.
        towers: (device, model) of each copy.
        batch_size: images or captions encoded at once.
    """

    identity: str
    checkpoint: Path
    options: Options
    towers: list[tuple[torch.device, nn.Module]]
    tokenizer: Any
    processor: Any
    precision: torch.dtype
    batch_size: int

    @property
    def clip(self) -> nn.Module:
        """The first copy of the towers."""
        return self.towers[0][1]

    @property
    def embed_dim(self) -> int:
        """D, the width of the features."""
        return self.clip.embed_dim

    @property
    def on_gpu(self) -> bool:
        """Whether the towers are on GPUs."""
        return self.towers[0][0].type == "cuda"

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels of what the image tower is given."""
        return self.processor.image_size

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """(N, D) of N images of any size, fp32 on the CPU, normalised."""
        parts = (images[start : start + self.batch_size] for start in range(0, len(images), self.batch_size))
        batches = (self.processor(images=part, return_tensors="pt")["pixel_values"] for part in parts)
        return torch.cat([torch.zeros(0, self.embed_dim), *self.encode_batches(batches)])

    @torch.no_grad()
    def encode_texts(self, captions: Sequence[str]) -> Tensor:
        """(N, D) of N captions, fp32 on the CPU, normalised."""
        (device, clip), parts = self.towers[0], []
        for start in range(0, len(captions), self.batch_size):
            tokens = self.tokenizer(captions[start : start + self.batch_size])
            tokens = {name: values.to(device) for name, values in tokens.items()}
            parts.append(self._features(clip.encode_text, tokens, device).cpu())
        return torch.cat([torch.zeros(0, self.embed_dim), *parts])

    @torch.no_grad()
    def encode_batches(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """(B, 3, H, W) of the processor each -> (B, D) each, in order, fp32 on the CPU, normalised.

        The GPUs take turns, and features are fetched only once the next batch is under way: no GPU waits
        for a copy.
        """
        under_way: deque[Tensor] = deque()
        waiting = len(self.towers) if self.on_gpu else 0
        for (device, clip), pixels in zip(cycle(self.towers), batches, strict=False):
            pixels = pixels.to(device, non_blocking=True)
            under_way.append(self._features(clip.encode_image, pixels, device))
            while len(under_way) > waiting:
                yield under_way.popleft().cpu()
        yield from (features.cpu() for features in under_way)

    def _features(self, encode: Callable[[Any], Tensor], inputs: Any, device: torch.device) -> Tensor:
        with torch.autocast(device.type, dtype=self.precision, enabled=self.precision != torch.float32):
            return F.normalize(encode(inputs).float(), dim=1)


def load_encoder(checkpoint: Path, config: Path | None = None, overrides: Sequence[str] = ()) -> Encoder:
    """The encoder of a checkpoint, by the options saved in it or, where `config` is given, by those.

    Raises:
        UserError: weights or options that cannot be read, or that do not go together; no options.
    """
    return build_encoder(options_for(checkpoint, config, overrides), checkpoint)


def build_encoder(options: Options, checkpoint: Path) -> Encoder:
    """The encoder of weights by the options: the model, device, precision and batch size are read."""
    device = pick_device(options.misc.device)
    model, tokenizer, processor = build_model(options, num_identities=0, weights=str(checkpoint))
    clip = model.clip.eval().requires_grad_(False)
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    devices = [torch.device("cuda", number) for number in range(count)] if device.type == "cuda" else [device]
    batch_size = options.data.test_batch_size
    return Encoder(
        identity=identity_of(options, checkpoint),
        checkpoint=checkpoint,
        options=replace(options, misc=replace(options.misc, device="auto", precision="auto")),
        towers=[(each, deepcopy(clip).to(each)) for each in devices],
        tokenizer=tokenizer,
        processor=processor,
        precision=pick_precision(options.misc.precision, device),
        batch_size=batch_size if device.type == "cuda" else min(batch_size, CPU_BATCH),
    )


def identity_of(options: Options, checkpoint: Path) -> str:
    """SHA-256 of the weights and the options that make features comparable, in hexadecimal."""
    depends = features_depend_on(options)
    if depends["data.cleaning"] == "tbps-clip":  # indexes are older than this option: keep their identity
        del depends["data.cleaning"]
    depends = [file_digest(checkpoint), depends]
    return hashlib.sha256(json.dumps(depends).encode()).hexdigest()
