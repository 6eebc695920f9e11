"""The vocabulary of the data: records, evaluation sets, batches. A leaf: every room may import it.

torch is imported only for type annotations, so that programs that only read files start fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {  # what files and records call them, in any case
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
NOBODY = -1  # the person of an image that shows none of the persons: a distractor, never described
VIEWS = ("view1", "view2", "simclr1", "simclr2")  # of an image
TEXTS = ("tokens", "tokens2", "rewritten")  # captions that the towers encode
# Of a batch: what a loss can read. "mlm_labels" without "masked_tokens": `tokens` are the masked ones.
INPUTS = (*VIEWS, *TEXTS, "masked_tokens", "mlm_labels")
LANGUAGE_ALIASES = {"zh": "ch"}


def language_name(language: str) -> str:
    """The one name of a language in records, results and indexes; options and files may use an alias."""
    return LANGUAGE_ALIASES.get(language, language)


@dataclass(frozen=True)
class Format:
    """One annotation format."""

    reader: str  # the module of `data.readers` that reads it, as `data.formats` describes it
    image_field: str = ""  # of a JSON record: it holds the image's path
    split_files: tuple[str, ...] = ()  # names in a folder, the first that exists; (): one file has all splits
    kind: str = ""  # of those that the reader tells apart
    takes_folders: bool = False  # of files that are read as one
    has_frames: bool = False  # annotates boxes in frames; its reader has `test_scenes`, too


# The choices of `data.dataset`. "auto" is the first whose reader recognises the annotations.
FORMATS: Mapping[str, Format] = {
    "prw-tbps": Format("prw", takes_folders=True, has_frames=True),
    "cuhk-sysu-tbps": Format("cuhk_sysu", takes_folders=True, has_frames=True),
    **{
        name: Format("pretraining", kind=name, takes_folders=True)
        for name in ("luperson-t", "luperson-mllm", "mals", "synth-pedes", "ham-pedes", "webperson")
    },
    "cuhk-pedes": Format("json_files", "file_path"),
    "icfg-pedes": Format("json_files", "file_path"),
    "ufine6926": Format("json_files", "file_path"),
    "ufine3c": Format("json_files", "file_path"),
    "pab": Format("pab"),
    "tbapr": Format("tbapr", split_files=("agtext_{split}.json",)),
    "shards": Format("shards", takes_folders=True),
    "arrow": Format("arrow_files", takes_folders=True),
    "rstpreid": Format("json_files", "img_path"),
    "table": Format("table"),
    "folder": Format("json_files", "file_path", ("{split}_reid_{language}.json", "{split}_reid.json")),
    "curated": Format("json_files", "file_path", ("{split}_reid.json",)),
    "multilingual": Format("json_files", "file_path", ("{split}_reid_{language}.json",)),
}


Rewrites = tuple[tuple[str, ...], ...]  # of one caption: for each part of it the texts that say the same


@dataclass(frozen=True, slots=True)
class Record:
    """One image and what is said about it in one language."""

    image: str  # relative to the image root
    person_id: int  # as the file has it; `NOBODY`
    captions: tuple[str, ...]  # (): nobody describes it, and it is no query
    back_translations: tuple[str, ...]  # one for each caption, "" where there is none; or none at all
    language: str
    rewrites: tuple[Rewrites, ...] = ()  # one for each caption, () where there is none; or none at all
    noisy: tuple[bool, ...] = ()  # for each caption, whether `data.noise` took it from another pair; (): none

    @property
    def num_rewritten(self) -> int:
        """Number of captions that have rewrites."""
        return sum(map(bool, self.rewrites))

    def texts(self) -> Iterator[str]:
        """All that is said: the captions, their back-translations and their rewrites."""
        yield from (*self.captions, *self.back_translations)
        yield from (text for groups in self.rewrites for group in groups for text in group)


Box = tuple[float, float, float, float]  # left, top, width and height in pixels


@dataclass(frozen=True)
class Gallery:
    """Where a person is searched, and where the person is.

    Attributes:
        frames: numbers of the frames that are searched; None: all.
        truths: (number of the frame, box) of each place where the person is.
    """

    frames: Sequence[int] | None
    truths: Sequence[tuple[int, Box]]


@dataclass(frozen=True)
class Scenes:
    """The frames of a test split, and the persons to be found in them.

    Attributes:
        frames: their images, relative to the image root.
        boxes: (number of the frame, box) of all annotated persons, also of those without a name.
        galleries: by name, such as "100 images": of each person who is described, by id.
    """

    frames: Sequence[str]
    boxes: Sequence[tuple[int, Box]]
    galleries: Mapping[str, Mapping[int, Gallery]]


ByLanguage = Mapping[str, Sequence[Record]]  # the languages are aligned by index
Tokens = dict[str, "Tensor"]  # {"input_ids", "attention_mask"}: (B, L) int64 each
Change = Callable[["Tensor"], "Tensor"]


@dataclass(frozen=True)
class Queries:
    """Every caption of a split in one language; whom and which gallery image each describes."""

    captions: list[str]
    person_ids: Tensor  # (Q,) int64
    image_indices: Tensor  # (Q,) int64, rows of the gallery


@dataclass(frozen=True)
class EvaluationSet:
    """The gallery (every image of a split, shared by the languages) and the queries of each language.

    An image that no caption describes is in the gallery only. Its person may be `NOBODY`, whom nothing finds.
    """

    image_root: Path
    images: list[str]  # file names relative to `image_root`
    person_ids: Tensor  # (G,) int64, as in the annotations
    queries: dict[str, Queries]

    @property
    def num_undescribed(self) -> int:
        """Number of images that no caption of any language describes."""
        described = {row for queries in self.queries.values() for row in queries.image_indices.tolist()}
        return len(self.images) - len(described)


class Views(Mapping[str, "Tensor"]):
    """{view: (B, 3, H, W) fp32, normalised}. Holds uint8 pixels, and normalises a view when it is looked up.

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

    def map(self, change: Change) -> Views:
        """The same views after `change` of their pixels, such as a move to a device."""
        return Views({view: change(pixels) for view, pixels in self._pixels.items()}, self._normalise)


@dataclass
class Batch:
    """B samples as the model takes them; None: not needed."""

    images: Mapping[str, Tensor]  # {those of `VIEWS` that are needed: (B, 3, H, W) fp32}
    tokens: Tokens
    person_ids: Tensor  # (B,) int64, contiguous from 0 over the training split
    indices: Tensor  # (B,) int64, into `TrainingSet.choices`
    tokens2: Tokens | None = None  # of another augmentation of the captions
    rewritten: Tokens | None = None  # of a rewritten caption
    rewritten_weight: float = 0.0  # of the losses on it
    masked_tokens: Tokens | None = None  # `tokens` with masks
    mlm_labels: Tensor | None = None  # (B, L) int64, the ids of the masked tokens, -100 elsewhere; where
    # `masked_tokens` is None, of `tokens`, which then hold the masks
    weights: Tensor | None = None  # (B,) float, of each sample in TAL and TSE; None: 1
    num_samples: int | None = None  # of this step on all processes; None: as many on each
    bad_images: list[str] = field(default_factory=list)  # unreadable files that other samples replace

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch on `device`; `non_blocking` overlaps the copy with computation if the batch is pinned."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory (DataLoader calls this)."""
        return self.map(lambda tensor: tensor.pin_memory())

    def map(self, change: Change) -> Batch:
        """The batch with every tensor changed, such as to some of its rows."""

        def changed(value: Mapping[str, Tensor] | Tensor | list[str] | float | None) -> object:
            if isinstance(value, Views):
                return value.map(change)
            if isinstance(value, Mapping):
                return {name: change(tensor) for name, tensor in value.items()}
            return value if value is None or isinstance(value, list | int | float) else change(value)

        return replace(self, **{each.name: changed(getattr(self, each.name)) for each in fields(self)})
