"""Consensus division (RDE, arXiv 2308.09911): which samples have a wrong caption, told by their losses.

A model that has begun to learn has larger losses on captions of other images. Before each epoch, each loss
that is a sum over samples (TAL, TSE) divides the samples into clean and noisy ones; the epoch trains these
losses on the samples that all of them call clean, and on some of those that only one of them does.
"""

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.datasets import TrainingSet, seeded
from data.sampler import TrainLoader
from data.types import Batch
from misc.checkpoints.components import State
from misc.process import distributed
from misc.process.logs import progress
from misc.training.accumulation import encode_in_parts
from model.objective import SumObjective
from model.tbps import TBPS
from options import UserError

logger = logging.getLogger(__name__)

MOST_NOISY = 0.6  # share of the samples above which a division is doubted, where the noise is not known


UntilStopped = Callable[[Iterable[Batch]], Iterator[Batch]]


class Verdict(NamedTuple):
    """What the losses of n samples say."""

    is_clean: np.ndarray  # (n,) bool, drawn where the losses disagree
    num_agreed: int  # samples of which all losses say the same


@dataclass
class Division:
    """The weights of the samples in an epoch: 1 for clean ones, 0 for noisy ones, the same on all processes.

    They are told by the augmented batches of one more epoch, in evaluation mode, in which the last short
    batch is kept. A joined pair of MixGen stands for its first sample.

    Attributes:
        num_parts: parts of a batch that go through the towers one after another.
        mixture: settings of scikit-learn's GaussianMixture.
        seed: with the epoch, the source of all that is drawn.
        first_epoch: the first one to divide before, from 0; in earlier ones all samples count.
        epoch, is_clean: the epoch of the last division, from 0, and (samples,) bool; None: there was none.
    """

    model: TBPS
    loader: TrainLoader
    training_set: TrainingSet
    device: torch.device
    precision: torch.dtype
    num_parts: int
    mixture: Mapping[str, float]
    seed: int
    first_epoch: int = 0
    epoch: int | None = None
    is_clean: Tensor | None = None

    def __post_init__(self) -> None:
        self._objectives = {
            name: objective
            for name, objective in self.model.objectives.items()
            if isinstance(objective, SumObjective)
        }

    def is_due(self, epoch: int) -> bool:
        """Whether an epoch needs a division, and the last one is not its own."""
        is_its_own = self.epoch == epoch and len(self.is_clean) == len(self.training_set)
        return epoch >= self.first_epoch and not is_its_own

    def weights(self, epoch: int, indices: Tensor) -> Tensor | None:
        """(B,) those of samples in an epoch; None where it has no division: all of them count."""
        return self.is_clean[indices].float() if self.epoch == epoch else None

    def divide(self, epoch: int, until_stopped: UntilStopped) -> dict[str, Any]:
        """Divide the samples for an epoch; returns its record, which is also logged as a line. Collective.

        Args:
            until_stopped: passes batches on, and raises `Stopped` once a signal asks for it.

        Raises:
            UserError: a loss is not finite.
        """
        began, name = time.perf_counter(), f"division before epoch {epoch + 1}"
        self.loader.batch_sampler.set_epoch(-1 - epoch, is_whole=True)  # no epoch has these draws
        was_training = self.model.training
        self.model.eval()
        losses, seen = self._losses(until_stopped(progress(self.loader, name)))
        self.model.train(was_training)
        self._check_finite(losses, seen, name)
        verdict = None
        if distributed.is_main():
            by_loss = dict(zip(self._objectives, losses[:, seen], strict=True))
            verdict = consensus(by_loss, seeded(self.seed, -1 - epoch).getrandbits(32), self.mixture)
        verdict = distributed.broadcast_object(verdict)
        self.epoch, self.is_clean = epoch, torch.ones(len(seen), dtype=torch.bool)
        self.is_clean[torch.from_numpy(seen)] = torch.from_numpy(verdict.is_clean)
        return {"kind": "division", "epoch": epoch + 1} | self._record(
            verdict, seen, name, time.perf_counter() - began
        )

    def _losses(self, batches: Iterable[Batch]) -> tuple[np.ndarray, np.ndarray]:
        """(K, samples) the losses by K objectives; (samples,) whether a sample was in a batch. Not so those
        of images that cannot be read, which others replace.
        """
        own = [(batch.indices, self._rows(batch)) for batch in batches]
        own = [(indices.numpy(), rows.cpu().numpy()) for indices, rows in own]
        losses = np.zeros((len(self._objectives), len(self.training_set)))
        seen = np.zeros(len(self.training_set), dtype=bool)
        for step in zip(*distributed.gather_objects(own), strict=True):  # in the order of a single process
            for indices, rows in step:
                losses[:, indices], seen[indices] = rows, True
        return losses, seen

    @torch.no_grad()
    def _rows(self, batch: Batch) -> Tensor:
        """(K, B) the losses of the local samples among those of all processes."""
        is_half = self.precision != torch.float32
        with torch.autocast(self.device.type, dtype=self.precision, enabled=is_half):
            pairs = encode_in_parts(self.model, batch, self.num_parts, self.device)
        return torch.stack([objective.rows(pairs) for objective in self._objectives.values()])

    def _check_finite(self, losses: np.ndarray, seen: np.ndarray, name: str) -> None:
        if (bad := np.flatnonzero(seen & ~np.isfinite(losses).all(axis=0))).size:
            images = ", ".join(self.training_set.image_names(bad[:4].tolist()))
            more = f" and {len(bad) - 4:,} more" if len(bad) > 4 else ""
            raise UserError(
                f"{name}: losses are not finite, of the images {images}{more}: the weights are damaged, or "
                "overflow. Try a lower schedule.lr, schedule.clip_grad_norm or misc.precision=fp32"
            )

    def _record(self, verdict: Verdict, seen: np.ndarray, name: str, seconds: float) -> dict[str, Any]:
        """The figures of a division, also logged as a line."""
        called, total = ~verdict.is_clean, len(verdict.is_clean)
        record = {"noisy_share": called.mean().item(), "agreed_share": verdict.num_agreed / total}
        parts = [f"{called.sum():,} of {total:,} samples called noisy ({100 * record['noisy_share']:.1f} %)"]
        if len(self._objectives) > 1:
            parts.append(f"{' and '.join(self._objectives)} agree on {verdict.num_agreed:,}")
        noisy = self.training_set.noisy[seen]
        if noisy.any():
            for measure, given, wanted in (("precision", called, noisy), ("recall", noisy, called)):
                record[measure] = wanted[given].mean().item() if given.any() else None
                parts += [f"{measure} {100 * record[measure]:.1f} %"] if given.any() else []
        logger.info(f"{name}: {', '.join(parts)}, {seconds:.1f} s")
        if called.mean() > max(MOST_NOISY, 1.2 * noisy.mean()):  # noisy: where the noise is known
            logger.warning(
                f"{name}: {called.mean():.0%} of the samples do not count, more than can be wrong: the model "
                "may not tell them apart yet; a later experiment.ccd_first_epoch lets it learn before"
            )
        return record | {"seconds": seconds}

    def state_dict(self) -> State:
        """The last division; {}: there was none."""
        return {} if self.epoch is None else {"epoch": self.epoch, "is_clean": self.is_clean}

    def load_state_dict(self, state: State) -> None:
        """Continue with a division that was saved."""
        if state:
            self.epoch, self.is_clean = state["epoch"], state["is_clean"]


def consensus(losses: Mapping[str, np.ndarray], seed: int, mixture: Mapping[str, float]) -> Verdict:
    """Clean are the samples that all losses call clean, and half of those, drawn, of which only some do.

    Args:
        losses: {name: (n,)}.
        seed: of the draw, and of the start of the mixtures.
        mixture: settings of scikit-learn's GaussianMixture.
    """
    votes = {name: _clean(values, seed, mixture) for name, values in losses.items()}
    if alike := [name for name, vote in votes.items() if vote is None]:
        logger.warning(f"the losses of {' and '.join(alike)} are alike: by them, all samples count as clean")
    votes = [np.ones(len(losses[name]), bool) if vote is None else vote for name, vote in votes.items()]
    by_all, by_some = np.all(votes, axis=0), np.any(votes, axis=0)
    drawn = np.random.default_rng(seed).integers(2, size=len(by_all), dtype=bool)
    return Verdict(by_all | (by_some & drawn), int((by_all == by_some).sum()))


def _clean(losses: np.ndarray, seed: int, mixture: Mapping[str, float]) -> np.ndarray | None:
    """Whether samples are clean by their losses, (n,) -> (n,) bool; None: the losses are alike.

    The losses, scaled to [0, 1], are a mixture of two normal distributions. Clean are those that belong to
    the one of the smaller mean with p > 0.5 or, where all do, with a p above that of the lowest hundredth.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    least, largest = losses.min(), losses.max()
    if math.isclose(least, largest, rel_tol=1e-6, abs_tol=1e-6):  # up to rounding
        return None
    scaled = ((losses - least) / (largest - least))[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # max_iter is meant to end it
        fitted = GaussianMixture(2, random_state=seed, **mixture).fit(scaled)
    p = fitted.predict_proba(scaled)[:, fitted.means_.argmin()]
    if p.min() == p.max():
        return None
    return p > (np.sort(p)[len(p) // 100] if p.min() > 0.5 else 0.5)
