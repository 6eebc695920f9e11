"""From samples to a batch: captions tokenised together, views stacked, tokens masked."""

import random
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from data.columns.mismatches import Mismatches
from data.datasets import Sample, seeded
from data.types import Batch, Change, Tokens, Views
from model.protocol import Tokenizer
from options import ExperimentOptions, UserError
from text_utils.augment import augment_tokens
from text_utils.masking import mask_tokens

Mask = Callable[..., tuple[Tensor, Tensor]]
Augment = Callable[[list[int], random.Random], list[int]]
Mix = Callable[[list[Sample], random.Random], list[Sample]]


class Collate:
    """Samples -> `Batch`: captions tokenised together, views stacked.

    What is random of a sample draws by its seed, so that it does not depend on the rest of the batch.

    Args:
        finish: uint8 views (3, h, w) -> (B, 3, H, W), done at once, by a worker.
        normalise: what `finish` made -> what the image tower takes, done where the batch is used.
        mask: masks the tokens of one caption, for MLM.
        mix: mixes samples, before anything else; it draws by the seed of the batch's first sample.
        augment: changes the tokens of one caption, without its padding, before `mask`.
        masks_all: whether `tokens` are the masked ones; otherwise those are `masked_tokens`, beside them.
        mismatches: of the tokens, by which `mask` chooses them; None: all alike.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        finish: Callable[[Sequence[Tensor]], Tensor],
        normalise: Change,
        mask: Mask | None = None,
        mix: Mix | None = None,
        augment: Augment | None = None,
        masks_all: bool = False,
        mismatches: Mismatches | None = None,
    ) -> None:
        self.tokenizer, self.finish, self.normalise = tokenizer, finish, normalise
        self.mask, self.mix, self.augment, self.masks_all = mask, mix, augment, masks_all
        self.mismatches = mismatches

    def __call__(self, samples: list[Sample]) -> Batch:
        if self.mix:
            samples = self.mix(samples, seeded(samples[0].seed, 0))
        tokens = self._tokens([s.caption for s in samples], samples, 2)
        masked_tokens, labels = self._masked(tokens, samples) if self.mask else (None, None)
        if self.masks_all:
            tokens, masked_tokens = masked_tokens, None
        pixels = {view: self.finish([s.images[view] for s in samples]) for view in samples[0].images}
        return Batch(
            images=Views(pixels, self.normalise),
            tokens=tokens,
            person_ids=torch.tensor([s.person_id for s in samples]),
            indices=torch.tensor([s.index for s in samples]),
            tokens2=self._tokens([s.second_caption for s in samples], samples, 3),
            rewritten=self._tokens([s.rewritten for s in samples], samples, 4),
            masked_tokens=masked_tokens,
            mlm_labels=labels,
            bad_images=list(dict.fromkeys(image for s in samples for image in s.bad_images)),
        )

    def _tokens(self, captions: list[str] | list[None], samples: list[Sample], draw: int) -> Tokens | None:
        """The tokens of the samples' captions, changed by `augment`, padded to the longest; of None, None."""
        if None in captions:
            return None
        tokens = self.tokenizer(captions)
        if not self.augment:
            return tokens
        rows = zip(tokens["input_ids"], tokens["attention_mask"], samples, strict=True)
        changed = [
            torch.tensor(self.augment(ids[real.bool()].tolist(), seeded(sample.seed, draw)))
            for ids, real, sample in rows
        ]
        pad = partial(pad_sequence, batch_first=True)
        return {
            "input_ids": pad(changed, padding_value=self.tokenizer.pad_token_id),
            "attention_mask": pad([torch.ones_like(ids) for ids in changed]),
        }

    def _masked(self, tokens: Tokens, samples: list[Sample]) -> tuple[Tokens, Tensor]:
        rows = zip(tokens["input_ids"], tokens["attention_mask"], samples, strict=True)
        masked = [
            self.mask(ids, real, seeded(sample.seed, 1), mismatch=self._mismatch(sample))
            for ids, real, sample in rows
        ]
        input_ids, labels = (torch.stack(parts) for parts in zip(*masked, strict=True))
        return {**tokens, "input_ids": input_ids}, labels

    def _mismatch(self, sample: Sample) -> list[float] | None:
        """Of the tokens of a sample, found in the epoch before; a division has numbers below 0."""
        epoch = sample.epoch if sample.epoch >= 0 else -1 - sample.epoch
        return self.mismatches.row(epoch - 1, sample.index) if self.mismatches else None


def caption_mask(experiment: ExperimentOptions, tokenizer: Tokenizer) -> Mask:
    """How the tokens of one caption are masked. Raises UserError where there is no mask token."""
    if tokenizer.mask_token_id is None:
        raise UserError(
            f"experiment.mask_captions={experiment.mask_captions} needs a mask token, and this backbone's "
            "tokenizer has none; set it to none"
        )
    is_irra = experiment.mlm_variant == "irra" or experiment.mask_captions != "none"
    return partial(
        mask_tokens,
        mask_id=tokenizer.mask_token_id,
        special_ids=(*tokenizer.special_ids, *([tokenizer.pad_token_id] if is_irra else [])),
        vocab_size=tokenizer.vocab_size,
        at_least_one=is_irra,
    )


def token_augmentation(experiment: ExperimentOptions, tokenizer: Tokenizer) -> Augment:
    """How the tokens of one caption change. Raises UserError where there is no mask token."""
    if tokenizer.mask_token_id is None:
        raise UserError(
            "experiment.text_aug: 'tokens' puts a mask token in the place of others, and this backbone's "
            "tokenizer has none; choose another, such as deletion"
        )
    return partial(
        augment_tokens,
        share=experiment.eda_alpha,
        mask_id=tokenizer.mask_token_id,
        special_ids=(*tokenizer.special_ids, tokenizer.pad_token_id),
        vocab_size=tokenizer.vocab_size,
    )
