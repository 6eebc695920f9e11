"""The section `data` of the options: data sets, images, captions, batches."""

from dataclasses import dataclass

from config.checks import ALL_SIZES, NOISE, NOT_EMPTY, POSITIVE, SHARE, WORKERS, one_of, option
from config.paths import FilePath
from data.types import FORMATS
from text_utils.captions import CLEANINGS

# Under this condition images are prepared as the options say.
PREPARED = "model.backbone!=altclip experiment.use_altclip_processor=false"


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
    languages: tuple[str, ...] = option(("en",), "languages of the captions to use", NOT_EMPTY)
    cleaning: str = option("tbps-clip", "caption cleaning, which must be the weights'", one_of(*CLEANINGS))
    language_draw: str = option(
        "all", "all: a sample for each language; one: a language drawn for each caption", one_of("all", "one")
    )
    image_size: tuple[int, int] = option((224, 224), "input height and width", ALL_SIZES, needs=PREPARED)
    normalization: str = option("imagenet", "pixel statistics", one_of("imagenet", "clip"), needs=PREPARED)
    batch_size: int = option(80, "training samples of each process in a step", POSITIVE)
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
