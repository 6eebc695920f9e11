"""The model of a checkpoint, for search: images and sentences in, normalised features out."""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from data.types import Tokens
from misc.checkpoints.run_options import features_depend_on, options_for, saved_options
from misc.evaluation.features import file_digest
from misc.process.device import start_device
from model import build_model, with_hidden_settings
from model.protocol import Embedder, Processor, Tokenizer
from model.weights.pretrained import HIDDEN
from options import Options

T = TypeVar("T")
MAX_CPU_BATCH = 32  # larger batches are no faster on a CPU, and an interrupt would lose more work


@dataclass(frozen=True)
class Encoder:
    """The model in evaluation mode: one replica on each GPU, or one on the CPU.

    Attributes:
        identity: as `identity_of`; only features of equal identity can be compared.
        options: those of the checkpoint, with device and precision set to "auto".
        replicas: (device, model) pairs.
        batch_size: number of images or captions encoded at once.
    """

    identity: str
    checkpoint: Path
    options: Options
    replicas: list[tuple[torch.device, Embedder]]
    tokenizer: Tokenizer
    processor: Processor
    precision: torch.dtype
    batch_size: int

    @property
    def device(self) -> torch.device:
        """The device of the first replica."""
        return self.replicas[0][0]

    @property
    def model(self) -> Embedder:
        """The first replica."""
        return self.replicas[0][1]

    @property
    def embed_dim(self) -> int:
        """E, the width of the features."""
        return self.model.embed_dim

    @property
    def on_gpu(self) -> bool:
        """Whether the replicas are on GPUs."""
        return self.device.type == "cuda"

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Encode N images of any size; returns (N, E) normalised features, fp32 on the CPU."""
        return self._encode(images, lambda part: self.processor(images=part)["pixel_values"])

    def encode_texts(self, captions: Sequence[str]) -> Tensor:
        """Encode N captions; returns (N, E) normalised features, fp32 on the CPU."""
        return self._encode(captions, self.tokenizer)

    def _encode(self, items: Sequence[T], preprocess: Callable[[Sequence[T]], Tensor | Tokens]) -> Tensor:
        starts = range(0, len(items), self.batch_size)
        batches = (preprocess(items[start : start + self.batch_size]) for start in starts)
        return torch.cat([torch.zeros(0, self.embed_dim), *self.encode_batches(batches)])

    @torch.no_grad()
    def encode_batches(self, batches: Iterable[Tensor | Tokens]) -> Iterator[Tensor]:
        """Encode batches of preprocessed images, (B, 3, H, W) each, or of tokens; yields (B, E) normalised
        features each, in order, fp32 on the CPU. Batches are distributed over the GPUs in turn. Features
        are copied back only after the next batch has been launched, so that no GPU waits for a copy.
        """
        pending: deque[Tensor] = deque()
        max_pending = len(self.replicas) if self.on_gpu else 0
        for (device, model), inputs in zip(cycle(self.replicas), batches, strict=False):
            if isinstance(inputs, Tensor):
                inputs = inputs.to(device, non_blocking=True)
            else:
                inputs = {name: values.to(device) for name, values in inputs.items()}
            with torch.autocast(device.type, dtype=self.precision, enabled=self.precision != torch.float32):
                pending.append(F.normalize(model.embed(inputs).float(), dim=1))
            while len(pending) > max_pending:
                yield pending.popleft().cpu()
        yield from (features.cpu() for features in pending)


def load_encoder(checkpoint: Path, config: Path | None = None, overrides: Sequence[str] = ()) -> Encoder:
    """Load the encoder of a checkpoint, with the options of `config` or, if None, those saved in it. Raises
    UserError if weights or options cannot be read or do not match, or there are no options.
    """
    return build_encoder(options_for(checkpoint, config, overrides), checkpoint)


def build_encoder(options: Options, checkpoint: Path) -> Encoder:
    """Build the encoder of a checkpoint; of the options, model, device, precision and batch size are read."""
    device, precision = start_device(options.misc.device, options.misc.precision)
    model, tokenizer, processor = build_model(options, num_identities=0, weights=str(checkpoint))
    options = with_hidden_settings(options, model.clip)
    model.eval().requires_grad_(False)
    devices, batch_size = [device], options.data.test_batch_size
    if device.type == "cuda":
        devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return Encoder(
        identity=identity_of(options, checkpoint),
        checkpoint=checkpoint,
        options=replace(options, misc=replace(options.misc, device="auto", precision="auto")),
        replicas=[(each, deepcopy(model).to(each)) for each in devices],
        tokenizer=tokenizer,
        processor=processor,
        precision=precision,
        batch_size=batch_size if device.type == "cuda" else min(batch_size, MAX_CPU_BATCH),
    )


def identity_of(options: Options, checkpoint: Path) -> str:
    """SHA-256, in hexadecimal, of the weights and of the options that features depend on."""
    features = features_depend_on(options)
    predated = {"data.cleaning": "tbps-clip", "data.interpolation": "bicubic"}  # by existing indexes
    features = {key: value for key, value in features.items() if predated.get(key) != value}
    if saved_options(checkpoint) is None and not checkpoint.is_dir():  # else the digest covers them
        told = {name: getattr(options.model, name) for name in sorted(HIDDEN)}
        features |= {f"model.{name}": value for name, value in told.items() if value is not None}
    return hashlib.sha256(json.dumps([file_digest(checkpoint), features]).encode()).hexdigest()
