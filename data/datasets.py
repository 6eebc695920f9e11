"""What a sample is: one caption with the views of its image; and what evaluation ranks."""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.annotations import WHOLE_GALLERY, check_bad_images
from data.columns.choices import Choice, Choices
from data.columns.records import Records
from data.images.augment import IMAGE_VIEWS
from data.images.cache import ImageCache
from data.images.contained import split_path
from data.images.decode import BadImageError, load_image
from data.images.transforms import resize
from data.shards.fetch import Fetcher
from data.types import ByLanguage, EvaluationSet, Queries, Record
from model.protocol import Processor
from options import UserError
from text_utils.augment import TextAugmentation
from text_utils.captions import Clean, clean_caption

MAX_COPIES = 10  # of a shard, for one image
MAX_DRAWS = 100  # of a replacement: at most 1 % of the images may be unreadable


def seeded(*key: int) -> random.Random:
    """A generator that depends only on the numbers of `key`, not on process, worker or prefetch."""
    return random.Random("/".join(map(str, key)))  # strings are hashed (SHA-512): close keys are unrelated


@dataclass
class Sample:
    """One caption and the views of its image; the captions are augmented, not tokenised."""

    images: dict[str, Tensor]  # {view: (3, H, W) uint8}
    caption: str
    person_id: int  # contiguous from 0
    index: int
    second_caption: str | None = None
    rewritten: str | None = None
    seed: int = 0  # of what is drawn when the sample joins a batch (masking, MixGen)
    epoch: int = 0
    bad_images: tuple[
        str, ...
    ] = ()  # unreadable files, relative to the image root, that this sample replaces


class TrainingSet(Dataset[Sample]):
    """One sample for each caption. Key: (epoch, index); the same key gives the same sample, and the key with
    another number below 0 at its end another augmentation of it, for a sample that an epoch repeats.

    Args:
        records: the training split by language.
        image_size: (height, width) of the views; None: as large as their image.
        views: those to make, of view1, view2 (by `image_aug`) and simclr1, simclr2; the image is decoded once
            for all of them, and not at all without any.
        seed: with epoch and index the only source of randomness.
        image_aug: a name of `IMAGE_VIEWS`.
        second_caption: whether to make another, augmented independently.
        rewritten: whether to draw a rewritten caption: the groups of rewrites in random order, one text of
            each (ICL). Of a caption without rewrites it is another augmentation.
        language_draw: "all": each language's caption is a sample; "one": a sample draws its language, and
            another one for its second caption.
        on_bad_image: "error": an image that cannot be read raises; "skip": another sample, drawn by the key,
            replaces each that shows it.
        cache: where decoded images are kept; None: nowhere.
        truncated: as `data.images.decode.load_image` has it.
        fetcher: copies shards that are not under the image root.

    `choices[index]` are the captions that a sample may have. `noisy[index]`: whether `data.noise` took the
    sample's caption from another pair.
    """

    def __init__(
        self,
        records: ByLanguage,
        image_root: str | Path,
        image_size: tuple[int, int] | None,
        views: Sequence[str] = ("view1",),
        seed: int = 0,
        image_aug: str = "pool",
        augment_text: TextAugmentation | None = None,
        second_caption: bool = False,
        language_draw: str = "all",
        on_bad_image: str = "error",
        cache: ImageCache | None = None,
        truncated: str = "error",
        rewritten: bool = False,
        fetcher: Fetcher | None = None,
    ) -> None:
        columns = [Records.of(part, language) for language, part in records.items()]
        self.choices = Choices(columns, language_draw == "one")
        self.noisy, self.persons = self.choices.noisy(), self.choices.persons()
        self.image_root, self.image_size = Path(image_root), image_size
        self.views, self.seed, self.image_aug = tuple(views), seed, image_aug
        self.augment_text, self.second_caption = augment_text or TextAugmentation(), second_caption
        self.on_bad_image, self._bad_images = on_bad_image, set[str]()
        self.cache, self.truncated, self.rewritten, self.fetcher = cache, truncated, rewritten, fetcher

    def __len__(self) -> int:
        return len(self.choices)

    def check_bad_images(self, bad: Collection[str]) -> None:
        """Raise UserError where the files `bad`, each once, are too many of this set's images."""
        check_bad_images(bad, self.num_images)

    @cached_property
    def num_images(self) -> int:
        """Number of different images."""
        return len(self.choices.images())

    def image_paths(self) -> list[Path]:
        """The different images."""
        return [self.image_root / name for name in self.choices.images()]

    def image_names(self, indices: Sequence[int]) -> list[str]:
        """The image files behind samples, relative to the image root."""
        return [self.choices[index][0][0].image for index in indices]

    def __getitem__(self, key: tuple[int, ...]) -> Sample:
        """The sample of a key, or its replacement: determined by the key and the files alone.

        Raises:
            UserError: its image cannot be read; with "skip", nor can those of `MAX_DRAWS` others.
        """
        index = key[1]
        bad: list[str] = []
        for draw in range(MAX_DRAWS):
            rng = seeded(self.seed, *key, *([draw] if draw else []))
            index = rng.randrange(len(self)) if draw else index
            choices = self.choices[index]
            image = choices[0][0].image
            if image not in self._bad_images:  # each process reads a bad file once
                try:
                    sample = self._sample(index, choices, rng)
                    return replace(sample, bad_images=tuple(bad), epoch=key[0])
                except BadImageError:
                    if self.on_bad_image == "error":
                        raise
                    self._bad_images.add(image)
            bad.append(image)
        raise UserError(
            f"data.on_bad_image: the images of {MAX_DRAWS} training samples drawn in a row cannot be read "
            f"(first: '{bad[0]}'). Check data.image_root; python -m data.check names all bad files"
        )

    def _sample(self, index: int, choices: tuple[Choice, ...], rng: random.Random) -> Sample:
        choice = self._draw(choices, rng)
        caption = self._caption(choice, rng)
        images = self._images(choice[0], rng)
        second = self._caption(self._draw(choices, rng, choice), rng) if self.second_caption else None
        person, seed = int(self.persons[index]), rng.getrandbits(63)
        rewritten = self._rewritten(choice, rng) if self.rewritten else None
        return Sample(images, caption, person, index, second, rewritten, seed)

    def _rewritten(self, choice: Choice, rng: random.Random) -> str:
        """A draw of the rewrites of a caption; of one without any, its own."""
        record, number = choice
        groups = record.rewrites[number] if record.rewrites else ()
        if not groups:
            return self._caption(choice, rng)
        drawn = " ".join(rng.choice(group) for group in rng.sample(groups, len(groups)))
        return self.augment_text(drawn, None, record.language, rng)

    @staticmethod
    def _draw(choices: tuple[Choice, ...], rng: random.Random, besides: Choice | None = None) -> Choice:
        """One of the choices: in another language than `besides`, where it has several."""
        choices = tuple(choice for choice in choices if choice != besides) or choices
        return choices[0] if len(choices) == 1 else rng.choice(choices)

    def _caption(self, choice: Choice, rng: random.Random) -> str:
        record, number = choice
        back = record.back_translations[number] if record.back_translations else None
        return self.augment_text(record.captions[number], back, record.language, rng)

    def _images(self, record: Record, rng: random.Random) -> dict[str, Tensor]:
        if not self.views:
            return {}
        pixels = torch.from_numpy(self._load(record.image)).permute(2, 0, 1)
        size = self.image_size or (pixels.shape[-2], pixels.shape[-1])
        makers = {view: "simclr" if view.startswith("simclr") else self.image_aug for view in self.views}
        # All but SimCLR's begin with the resize, which leaves an image of that size as it is: resize once.
        starts = {name: pixels if name == "simclr" else resize(pixels, size) for name in {*makers.values()}}
        return {view: IMAGE_VIEWS[name](starts[name], size, rng) for view, name in makers.items()}

    def _load(self, name: str) -> npt.NDArray[np.uint8]:
        """The pixels (H, W, 3) of an image. Its shard is copied if need be, which another process may remove
        again before it is read, where few are kept.
        """
        path, num_copies = self.image_root / name, 0
        while True:
            try:
                if self.cache:
                    return self.cache.load(path, self.truncated)
                return np.array(load_image(path, self.truncated))
            except BadImageError as error:
                is_missing = isinstance(error.__cause__, FileNotFoundError)
                if self.fetcher is None or not is_missing or num_copies == MAX_COPIES:
                    raise
            num_copies += 1
            self.fetcher.ensure(split_path(name)[0])


def evaluation_set(
    records: ByLanguage, image_root: str | Path, clean: Clean = clean_caption
) -> EvaluationSet:
    """The gallery and queries of a split whose languages are aligned by index (as `read_splits` checks).

    Captions are cleaned here, though tokenizers clean too: results, rankings and saved features hold them as
    the model read them.
    """
    gallery = next(iter(records.values()))
    return EvaluationSet(
        image_root=Path(image_root),
        images=[record.image for record in gallery],
        person_ids=torch.tensor([record.person_id for record in gallery]),
        queries={language: _queries(of_language, clean) for language, of_language in records.items()},
    )


def _queries(records: Sequence[Record], clean: Clean) -> Queries:
    pairs = [(row, caption) for row, record in enumerate(records) for caption in record.captions]
    return Queries(
        captions=[clean(caption) for _, caption in pairs],
        person_ids=torch.tensor([records[row].person_id for row, _ in pairs]),
        image_indices=torch.tensor([row for row, _ in pairs]),
    )


class GalleryImages(Dataset[Tensor]):
    """The gallery rows `indices`, in order, each (3, H, W) as `processor` makes it; UserError: unreadable."""

    def __init__(
        self, evaluated: EvaluationSet, indices: Sequence[int], processor: Processor, truncated: str = "error"
    ) -> None:
        self.paths = [evaluated.image_root / evaluated.images[index] for index in indices]
        self.processor, self.truncated = processor, truncated

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        try:
            image = load_image(self.paths[index], self.truncated)
        except BadImageError as error:
            raise UserError(f"{error}; {WHOLE_GALLERY}") from error
        return self.processor(images=[image], return_tensors="pt")["pixel_values"][0]
