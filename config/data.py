"""The section `data` of the options: data sets, images, captions, batches."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from config.checks import (
    ADDRESS,
    ALL_SIZES,
    NOISE,
    NOT_EMPTY,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    WORKERS,
    one_of,
    option,
)
from config.paths import FilePath
from data.types import FORMATS
from text_utils.captions import CLEANINGS

# Under this condition images are prepared as the options say.
PREPARED = "model.backbone!=altclip experiment.use_altclip_processor=false"


class Preparation(NamedTuple):
    """How captions and images become input: weights give other features on input prepared in another way.
    None: as the weights tell it.
    """

    cleaning: str | None = None
    interpolation: str | None = None
    normalization: str | None = None
    image_size: tuple[int, int] | None = None


AUTO, DEFAULT, NATIVE = "auto", "tbps-clip", "native"
PREPARATIONS: Mapping[str, Preparation] = {
    DEFAULT: Preparation("tbps-clip", "bicubic", "imagenet", (224, 224)),
    "irra": Preparation("none", "bilinear", "clip", (384, 128)),  # also RDE's, and that of what follows them
    NATIVE: Preparation(),
}
# What auto and experiment.text_length=null mean for backbones whose weights tell both; see `of_backbone`.
OF_THEIR_WEIGHTS = ("open_clip", "transformers")


def of_backbone(name: str) -> tuple[str, int | None]:
    """The preparation that weights of a backbone expect, and the text length; None: that of the weights."""
    return (NATIVE, None) if name in OF_THEIR_WEIGHTS else (DEFAULT, 77)


@dataclass(frozen=True)
class DataOptions:
    """Data sets."""

    annotation_file: FilePath = option(
        "datasets/CUHK-PEDES/reid_raw.json", "annotation file, or folder with a file for each split"
    )
    image_root: FilePath = option("datasets/CUHK-PEDES/imgs", "folder that image paths are relative to")
    dataset: str = option(
        "auto",
        "format of the annotations: a name in data/types.py: FORMATS; auto: detected from the content",
        one_of("auto", *FORMATS)._replace(choices=()),  # a new format leaves config.yaml as it is
    )
    margin: float = option(
        0.0,
        "share of its width and height by which a box in a frame is enlarged on each side",
        NOT_NEGATIVE,
    )
    languages: tuple[str, ...] = option(("en",), "languages of the captions to use", NOT_EMPTY)
    preparation: str = option(
        AUTO,
        "of captions and images: what the next 4 options are where they are null; auto: that of the weights "
        f"that are evaluated, else {DEFAULT}, and of {' and '.join(OF_THEIR_WEIGHTS)} {NATIVE}",
        one_of(AUTO, *PREPARATIONS),
    )
    cleaning: str | None = option(
        None, "of captions; none: CLIP's tokenizer's alone; null: the preparation's", one_of(*CLEANINGS)
    )
    interpolation: str | None = option(
        None,
        "how evaluation images are resized; null: the preparation's",
        one_of("bicubic", "bilinear"),
        needs=PREPARED,
    )
    normalization: str | None = option(
        None,
        "pixel statistics; half: mean and deviation 0.5; none: 0 to 1; null: the preparation's",
        one_of("imagenet", "clip", "half", "none"),
        needs=PREPARED,
    )
    image_size: tuple[int, int] | None = option(
        None, "input height and width; null: the preparation's", ALL_SIZES, needs=PREPARED
    )
    language_draw: str = option(
        "all", "all: a sample for each language; one: a language drawn for each caption", one_of("all", "one")
    )
    batch_size: int = option(80, "training samples of each process in a step", POSITIVE)
    sampler: str = option(
        "random",
        "samples of a step; random: any; identity: samples_per_identity of each of its persons, as in "
        "ITSELF; shards: in the order of tar files, shuffled within shuffle_window",
        one_of("random", "identity", "shards"),
    )
    samples_per_identity: int = option(
        2, "that number, a divisor of batch_size", POSITIVE, needs="sampler=identity"
    )
    shuffle_window: int = option(
        10_000,
        "samples, of all streams together, that are shuffled at a time",
        POSITIVE,
        needs="sampler=shards",
    )
    shard_streams: int = option(
        8,
        "shards that are read at a time; where it is a multiple of the number of processes, no two of them "
        "read the same",
        POSITIVE,
        needs="sampler=shards",
    )
    shards: str | None = option(
        None,
        "where shards come from that are not under image_root, with {} for the name of one: an URL, or pipe: "
        "and a command that writes it; null: all are there",
        ADDRESS,
    )
    shards_kept: int | None = option(
        None,
        "the most copies of them that are kept under image_root; null: all",
        POSITIVE,
        needs="shards!=null",
    )
    drop_last: bool = option(True, "leave out the last batch of an epoch where it is short")
    test_batch_size: int = option(256, "images or captions in a batch of the evaluation", POSITIVE)
    few_shot: float = option(1.0, "fraction of the training split to use, drawn with misc.seed", SHARE)
    few_shot_by: str = option(
        "images", "what few_shot draws", one_of("images", "identities"), needs="few_shot!=1.0"
    )
    noise: FilePath | float | None = option(
        None,
        "training captions that are exchanged: an index of pairs as RDE's release has them (.npy), or the "
        "share of the pairs, drawn with misc.seed; null: none",
        NOISE,
    )
    num_workers: int = option(4, "data loader processes of each training process", WORKERS)
    on_bad_image: str = option(
        "error",
        "training images that cannot be read: stop, or replace them, at most 1 % of all or one image",
        one_of("error", "skip"),
    )
    truncated: str = option(
        "error",
        "images that are cut short, in training, evaluation and search: an error, or use what is there",
        one_of("error", "accept"),
    )
    cache: FilePath | None = option(
        None, "folder for decoded images, shared by a machine's processes; null: none"
    )


def prepared(data: DataOptions, trained: DataOptions | None = None, default: str = DEFAULT) -> DataOptions:
    """The section with `data.preparation` in place of auto, and what it stands for in place of each null.

    Args:
        trained: what the weights to evaluate were trained on, a null of it being unknown. It takes the place
            of auto; and of a null, unless another preparation is set.
        default: what auto means without them.
    """
    name = data.preparation
    if name == AUTO:
        name = trained.preparation if trained else default
    sources = [data, *([trained] if trained and trained.preparation == name else []), PREPARATIONS[name]]
    values = {
        option: next((value for source in sources if (value := getattr(source, option)) is not None), None)
        for option in Preparation._fields
    }
    return replace(data, preparation=name, **values)


def differences(data: DataOptions, trained: DataOptions) -> tuple[str, str]:
    """The options whose values weights were not trained on, with theirs and with the others; ("", "")."""
    pairs = {name: (getattr(trained, name), getattr(data, name)) for name in Preparation._fields}
    differing = {name: pair for name, pair in pairs.items() if None not in pair and pair[0] != pair[1]}
    theirs, ours = (
        ", ".join(f"data.{name}={_as_override(pair[side])}" for name, pair in differing.items())
        for side in (0, 1)
    )
    return theirs, ours


def _as_override(value: str | tuple[int, int]) -> str:
    return value if isinstance(value, str) else f"[{value[0]},{value[1]}]"
