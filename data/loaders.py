"""From samples to batches: order, collation, worker processes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from data.annotations import Splits
from data.datasets import (
    EvaluationSet,
    GalleryImages,
    Processor,
    Sample,
    TrainingSet,
    evaluation_set,
    seeded,
)
from options import ExperimentOptions, Options, UserError

Tokenizer = Callable[[Sequence[str]], dict[str, Tensor]]


@dataclass
class Batch:
    """B samples as the model takes them.

    images: {"view1", and only if needed "view2", "simclr1", "simclr2": (B, 3, H, W) fp32, normalised};
    tokens: {"input_ids", "attention_mask": (B, L) int64};
    person_ids: (B,) int64, contiguous from 0 over the training split;
    indices: (B,) int64, into `TrainingSet.samples`.
    """

    images: dict[str, Tensor]
    tokens: dict[str, Tensor]
    person_ids: Tensor
    indices: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The batch on `device`; `non_blocking` overlaps the copy with computation if the batch is pinned."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory (DataLoader calls this)."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        images = {view: change(tensor) for view, tensor in self.images.items()}
        tokens = {name: change(tensor) for name, tensor in self.tokens.items()}
        return Batch(images, tokens, change(self.person_ids), change(self.indices))


class Collate:
    """Samples -> `Batch`: captions tokenised together, views normalised by channel with `mean` and `std`."""

    def __init__(self, tokenizer: Tokenizer, mean: Sequence[float], std: Sequence[float]) -> None:
        self.tokenizer = tokenizer
        self.mean, self.std = (255 * torch.tensor(values).view(3, 1, 1) for values in (mean, std))

    def __call__(self, samples: list[Sample]) -> Batch:
        return Batch(
            images={view: self._pixels([s.images[view] for s in samples]) for view in samples[0].images},
            tokens=dict(self.tokenizer([s.caption for s in samples])),
            person_ids=torch.tensor([s.person_id for s in samples]),
            indices=torch.tensor([s.index for s in samples]),
        )

    def _pixels(self, views: list[Tensor]) -> Tensor:
        return torch.stack(views).float().sub_(self.mean).div_(self.std)


class TrainSampler(Sampler[list[tuple[int, int]]]):
    """Yields each step's keys (epoch, index) for one rank, from one shuffle that the ranks share.

    Step s of an epoch is the shuffle's s-th slice of batch_size * world_size samples, and rank r has the r-th
    part of it: W ranks of B samples see, step by step, what one process of W * B sees. The last short step is
    dropped.

    Raises:
        UserError: fewer samples than one step needs.
    """

    def __init__(
        self, num_samples: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        if num_samples < batch_size * world_size:
            raise UserError(
                f"data.batch_size: a step takes {batch_size * world_size} samples ({batch_size} on each of "
                f"{world_size} processes), but the training split has {num_samples}. Lower it"
            )
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the shuffle of the next pass, and the augmentation of its samples."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_samples // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(seeded(self.seed, self.epoch).getrandbits(63))
        order = torch.randperm(self.num_samples, generator=generator).tolist()
        for step in range(len(self)):
            start = (step * self.world_size + self.rank) * self.batch_size
            yield [(self.epoch, index) for index in order[start : start + self.batch_size]]


class Loader(DataLoader):
    """A DataLoader that leaves the process's random state alone, and its workers' UserErrors as they are.

    PyTorch re-raises a worker's exception with the worker's whole traceback as its message. A UserError is
    one line for the user, so here it travels as a value in place of the batch, and is raised on arrival.
    """

    def __init__(self, samples: Dataset, collate: Callable[[list[Any]], Any], **settings: Any) -> None:
        # Without a generator of its own a DataLoader draws from the global one each epoch: other dropout.
        super().__init__(
            _Batches(samples, collate), collate_fn=_as_it_is, generator=torch.Generator(), **settings
        )

    def __iter__(self) -> Iterator[Any]:
        for batch in super().__iter__():
            if isinstance(batch, UserError):
                raise batch
            yield batch


class _Batches(Dataset):
    """Makes a batch of a list of keys, or the UserError that stands in its way. Runs in the workers."""

    def __init__(self, samples: Dataset, collate: Callable[[list[Any]], Any]) -> None:
        self.samples, self.collate = samples, collate

    def __len__(self) -> int:
        return len(self.samples)

    def __getitems__(self, keys: list[Any]) -> Any:
        try:
            return self.collate([self.samples[key] for key in keys])
        except UserError as error:
            return error


def _as_it_is(batch: Any) -> Any:
    return batch


@dataclass(frozen=True)
class Loaders:
    """What a run iterates over; None where it has no such split.

    `train` yields `Batch`es; `train_sampler.set_epoch` comes before each pass. `images(gallery, indices)` is
    `image_loader` with the settings of the run.
    """

    train: Loader | None
    train_sampler: TrainSampler | None
    training_set: TrainingSet | None
    val: EvaluationSet | None
    test: EvaluationSet | None
    images: Callable[[EvaluationSet, Sequence[int]], Loader]


def build_loaders(
    options: Options, splits: Splits, tokenizer: Tokenizer, processor: Any, rank: int = 0, world_size: int = 1
) -> Loaders:
    """The training loader of this rank and what evaluation needs, as the options say.

    `processor` lends the views its `image_size`, `image_mean` and `image_std`: training and evaluation agree.
    """
    data, experiment, seed = options.data, options.experiment, options.misc.seed
    workers = {
        "num_workers": data.num_workers,
        "pin_memory": options.misc.device != "cpu" and torch.cuda.is_available(),
    }
    val, test = (
        evaluation_set(part, data.image_root) if part else None for part in (splits.val, splits.test)
    )
    images = partial(image_loader, processor=processor, batch_size=data.test_batch_size, **workers)
    if not splits.train:
        return Loaders(None, None, None, val, test, images)
    training_set = TrainingSet(
        splits.train,
        data.image_root,
        processor.image_size,
        needed_views(experiment),
        seed,
        experiment.backtrans_p if experiment.back_trans else 0.0,
        experiment.eda_alpha,
    )
    sampler = TrainSampler(len(training_set), data.batch_size, seed, rank, world_size)
    collate = Collate(tokenizer, processor.image_mean, processor.image_std)
    persistent = data.num_workers > 0
    train = Loader(training_set, collate, batch_sampler=sampler, persistent_workers=persistent, **workers)
    return Loaders(train, sampler, training_set, val, test, images)


def needed_views(experiment: ExperimentOptions) -> tuple[str, ...]:
    """The views that the enabled losses need, and no other."""
    second = ("view2",) if experiment.nitc and experiment.mvs_image else ()
    return ("view1", *second, *(("simclr1", "simclr2") if experiment.ss else ()))


def image_loader(
    gallery: EvaluationSet, indices: Sequence[int], processor: Processor, batch_size: int, **settings: Any
) -> Loader:
    """Yields the gallery rows `indices` in order, (b, 3, H, W), b <= `batch_size`; settings: DataLoader's."""
    return Loader(GalleryImages(gallery, indices, processor), torch.stack, batch_size=batch_size, **settings)
