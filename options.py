"""The options of a run: what may be set, to what, and what it means.

Reading order: the section classes (each field with its default, its meaning and its check), then
`load_options`. The method's section, `experiment`, is `config/experiment.py`; how YAML becomes plain values
is `config/reader.py`, the checks are `config/checks.py`.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config.checks import (
    ALL_SIZES,
    BELOW_ONE,
    BLOCK_NUMBERS,
    BLOCKS,
    FRACTION,
    MINUTES_OF_WAITING,
    MOMENTS,
    NOT_EMPTY,
    NOT_NEGATIVE,
    PERIOD,
    POSITIVE,
    SHARE,
    SIZE,
    VOCABULARY,
    WEIGHTS,
    WORKERS,
    one_of,
    option,
)
from config.experiment import IMAGE_AUGMENTATIONS as IMAGE_AUGMENTATIONS
from config.experiment import LOSSES as LOSSES
from config.experiment import TEXT_AUGMENTATIONS as TEXT_AUGMENTATIONS
from config.experiment import ExperimentOptions as ExperimentOptions
from config.moot import moot_settings as moot_settings
from config.reader import UserError, build, read_settings
from text_utils.captions import CLEANINGS


@dataclass(frozen=True)
class MiscOptions:
    seed: int = option(1, "seed of everything random: weights, order, augmentation, dropout", NOT_NEGATIVE)
    device: str = option("auto", "auto takes the GPU where there is one", one_of("auto", "cpu", "cuda"))
    precision: str = option(
        "auto", "auto: bf16 or fp16 on a GPU, fp32 on a CPU", one_of("auto", "fp32", "bf16", "fp16")
    )


@dataclass(frozen=True)
class ScheduleOptions:
    lr: float = option(1e-4, "peak learning rate", POSITIVE)
    lr_start: float = option(1e-6, "learning rate at the first step of the warm-up", NOT_NEGATIVE)
    lr_end: float = option(5e-6, "learning rate at the last step", NOT_NEGATIVE)
    epoch: int = option(5, "number of epochs", POSITIVE)
    epoch_warmup: float = option(
        1.0, "epochs of linear warm-up; the soft label rises over epoch 1", NOT_NEGATIVE
    )
    weight_decay: float = option(
        0.02, "AdamW's weight decay; none on biases, norms and one-dimensional ones", NOT_NEGATIVE
    )
    betas: tuple[float, float] = option((0.9, 0.98), "AdamW's betas", MOMENTS)
    eps: float = option(1e-8, "AdamW's epsilon", POSITIVE)
    ratio_factor: float = option(
        5.0, "times the learning rate at which the heads of MLM and ID train", POSITIVE, needs="mlm id"
    )
    accumulate: int = option(
        1, "parts in which a step's batch goes through the towers; the gradient stays the batch's", POSITIVE
    )
    clip_grad_norm: float | None = option(
        None, "norm that the gradient is cut to where it is larger; null: never", POSITIVE
    )
    skip_nonfinite: int = option(
        0, "steps a run may skip for a loss or gradient that is not finite, before one stops it", NOT_NEGATIVE
    )
    patience: int | None = option(
        None, "epochs without a better R@1 on eval.select_on after which a run ends; null: never", POSITIVE
    )


@dataclass(frozen=True)
class ModelOptions:
    backbone: str = option(
        "clip", "towers: OpenAI's CLIP, or AltCLIP for many languages", one_of("clip", "altclip")
    )
    altclip_pretrained: str = option(
        "BAAI/AltCLIP", "AltCLIP's weights: a model folder, the root of a hub cache, or a hub id"
    )
    tokenizer_cache_dir: str | None = option(None, "cache of the hub, for AltCLIP by id; null: the hub's own")
    clip_pretrained: str | None = option(
        "weights/ViT-B-16.pt",
        "weights to start from: OpenAI's archive, state dict, safetensors or a checkpoint; null: random",
    )
    use_gather: bool = option(
        True, "contrast with the features of all processes, with gradient through the gather"
    )
    softlabel_ratio: float = option(
        0.5, "share of the model's own prediction in the targets; 0: none", BELOW_ONE, needs="nitc"
    )
    lock_patch_embedding: bool = option(True, "freeze the patch embedding (the image tower's convolution)")
    lock_image_blocks: int = option(
        0, "freeze the first blocks of the image tower, this many, and all below them", NOT_NEGATIVE
    )
    lock_text_blocks: int = option(
        0, "freeze the first blocks of the text tower, this many, and all below them", NOT_NEGATIVE
    )
    lock_text_layers: tuple[int, ...] = option(
        (), "freeze single blocks of the text tower, counted from 0", BLOCK_NUMBERS
    )
    grad_checkpointing: bool = option(
        False, "keep less for the backward pass and compute it anew: less memory, more time"
    )
    compile: bool = option(False, "compile the towers with torch.compile: slow to start, faster on a GPU")
    patch_size: int | None = option(None, "pixels of a patch's side; null: as the weights (random: 16)", SIZE)
    image_width: int | None = option(None, "width of the image tower; null: as the weights (768)", SIZE)
    image_layers: int | None = option(None, "blocks of the image tower; null: as the weights (12)", BLOCKS)
    image_heads: int | None = option(None, "attention heads of the image tower; null: width / 64", SIZE)
    text_width: int | None = option(None, "width of the text tower; null: as the weights (512)", SIZE)
    text_layers: int | None = option(None, "blocks of the text tower; null: as the weights (12)", BLOCKS)
    text_heads: int | None = option(None, "attention heads of the text tower; null: width / 64", SIZE)
    embed_dim: int | None = option(None, "width of the shared embedding; null: as the weights (512)", SIZE)
    projection_dim: int | None = option(
        None, "width of AltCLIP's embedding; null: as the weights (768)", SIZE
    )
    vocab_size: int | None = option(
        None, "number of token embeddings; null: as the weights (49408)", VOCABULARY
    )


@dataclass(frozen=True)
class DataOptions:
    annotation_file: str = option(
        "datasets/CUHK-PEDES/reid_raw.json", "annotation file, or folder of split files"
    )
    image_root: str = option(
        "datasets/CUHK-PEDES/imgs", "folder that the image paths of the annotations start from"
    )
    dataset: str = option(
        "auto",
        "format of the annotations; auto: told by content",
        one_of("auto", "cuhk-pedes", "icfg-pedes", "rstpreid", "curated", "multilingual", "table"),
    )
    languages: tuple[str, ...] = option(
        ("en",), "languages of the captions, of those the annotations have", NOT_EMPTY
    )
    cleaning: str = option(
        "tbps-clip",
        "how captions are cleaned, as in the training of the weights",
        one_of(*CLEANINGS),
    )
    language_draw: str = option(
        "all",
        "all: a sample for each language; one: one language drawn for each caption",
        one_of("all", "one"),
    )
    image_size: tuple[int, int] = option((224, 224), "height and width of the model's input", ALL_SIZES)
    normalization: str = option("imagenet", "pixel statistics", one_of("imagenet", "clip"))
    batch_size: int = option(80, "training samples a step, of each process", POSITIVE)
    test_batch_size: int = option(256, "images or captions encoded at once in evaluation", POSITIVE)
    few_shot: float = option(1.0, "share of the training split that is used, drawn by misc.seed", SHARE)
    few_shot_by: str = option(
        "images", "what is drawn for few_shot: images or identities", one_of("images", "identities")
    )
    num_workers: int = option(4, "loader processes of each training process", WORKERS)
    on_bad_image: str = option(
        "error",
        "training images that cannot be read: stop, or skip (others step in) at most 1 % of all, or one",
        one_of("error", "skip"),
    )
    cache: str | None = option(
        None, "folder to keep decoded images in, shared by the processes of a machine; null: none"
    )


@dataclass(frozen=True)
class EvalOptions:
    select_on: str = option(
        "val", "split whose mean R@1 picks the best epoch (published: test)", one_of("val", "test")
    )
    test_sets: Mapping[str, tuple[str, str]] = option(
        {}, "other data sets to test on at the end: {name: [annotations, image root], ...}"
    )
    fuse: Mapping[str, float] = option(
        {},
        "also report the weighted mean of the cosine similarities of the model, of weight 1, and of "
        "saved features: {folder of --save-features: weight, ...}",
        WEIGHTS,
    )
    rerank: bool = option(False, "also report k-reciprocal re-ranking, in rows of its own")
    rerank_k1: int = option(20, "neighbours that re-ranking looks at", POSITIVE)
    rerank_k2: int = option(6, "neighbours that it averages over, itself included", POSITIVE)
    rerank_lambda: float = option(0.3, "share of the plain distance in it; 1: no re-ranking", FRACTION)


@dataclass(frozen=True)
class LogOptions:
    print_period: int = option(50, "steps between two log lines", POSITIVE)
    checkpoint_period: int | str | None = option(
        "10 minutes",
        "time between two checkpoints inside an epoch: steps, or minutes; null: none but at its end",
        PERIOD,
    )
    keep_checkpoints: int = option(
        1, "checkpoints kept beside the last and the best one, the newest", NOT_NEGATIVE
    )


@dataclass(frozen=True)
class OutputOptions:
    dir: str = option("runs/tbps", "folder for everything a run writes")
    overwrite: bool = option(
        False,
        "whether a fresh run may replace the run that the folder holds, --save-features other features",
    )


@dataclass(frozen=True)
class DistributedOptions:
    backend: str = option("auto", "auto: nccl on GPUs, gloo on CPUs", one_of("auto", "nccl", "gloo"))
    timeout: float = option(
        30.0, "minutes after which a process that waits for the others gives up", MINUTES_OF_WAITING
    )


@dataclass(frozen=True)
class Options:
    """All options of a run, validated. Never changed: derive another with `dataclasses.replace`."""

    misc: MiscOptions = field(default_factory=MiscOptions)
    experiment: ExperimentOptions = field(default_factory=ExperimentOptions)
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    data: DataOptions = field(default_factory=DataOptions)
    eval: EvalOptions = field(default_factory=EvalOptions)
    log: LogOptions = field(default_factory=LogOptions)
    output: OutputOptions = field(default_factory=OutputOptions)
    distributed: DistributedOptions = field(default_factory=DistributedOptions)


def load_options(
    source: str | Path | Mapping[str, Any], overrides: Iterable[str] = (), overlay: Path | None = None
) -> Options:
    """Read the options of a YAML file (and of its `base:` files), then apply `section.name=value` overrides.

    Args:
        source: the file, or what `to_dict` made of options.
        overlay: another file, whose own lines (not its base's) go over the first one's.

    Raises:
        UserError: naming the key, where it stands and what it should be.
    """
    source = Path(source) if isinstance(source, str) else source
    options = build(Options, read_settings(source, overrides, overlay))
    if not any(getattr(options.experiment, loss) for loss in LOSSES):
        raise UserError(f"experiment: no loss is switched on; set one of {', '.join(LOSSES)} to true")
    parts, rows = options.schedule.accumulate, options.data.batch_size
    if parts > rows:
        raise UserError(
            f"schedule.accumulate: {parts} parts of a batch of {rows} (data.batch_size); lower it"
        )
    return options


def to_dict(options: Options) -> dict[str, dict[str, Any]]:
    """The options as plain dicts, lists, numbers and strings (for YAML files and checkpoints)."""
    return _plain(dataclasses.asdict(options))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
