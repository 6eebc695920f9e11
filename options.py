"""The options of a run: what may be set, to what, and what it means.

Reading order: the section classes (each field with its default, its meaning and its check), then
`load_options`. The section `experiment` is in `config/experiment.py`, how YAML is read in
`config/reader.py`, the checks in `config/checks.py`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from config.checks import (
    FRACTION,
    MOMENTS,
    NOT_EMPTY,
    NOT_NEGATIVE,
    PERIOD,
    POSITIVE,
    SEVERAL_PROCESSES,
    TIMEOUT,
    WEIGHTS,
    one_of,
    option,
)
from config.data import DataOptions, of_backbone, prepared
from config.experiment import IMAGE_AUGMENTATIONS as IMAGE_AUGMENTATIONS
from config.experiment import LOSSES as LOSSES
from config.experiment import TEXT_AUGMENTATIONS as TEXT_AUGMENTATIONS
from config.experiment import ExperimentOptions as ExperimentOptions
from config.ineffective import ineffective_settings as ineffective_settings
from config.ineffective import unused_at_test as unused_at_test
from config.model import ModelOptions
from config.paths import FilePath
from config.reader import UserError, build, read_settings


@dataclass(frozen=True)
class MiscOptions:
    """The process."""

    seed: int = option(1, "seed of all random numbers: weights, order, augmentation, dropout", NOT_NEGATIVE)
    device: str = option("auto", "auto: a GPU if there is one, else the CPU", one_of("auto", "cpu", "cuda"))
    precision: str = option(
        "auto", "auto: bf16 on a GPU (fp16 before Ampere), else fp32", one_of("auto", "fp32", "bf16", "fp16")
    )


@dataclass(frozen=True)
class ScheduleOptions:
    """Optimisation."""

    lr: float = option(1e-4, "peak learning rate", POSITIVE)
    lr_start: float = option(1e-6, "learning rate at the first step", NOT_NEGATIVE, needs="epoch_warmup!=0.0")
    lr_end: float = option(5e-6, "learning rate that the cosine falls to", NOT_NEGATIVE)
    epoch: int = option(5, "number of epochs", POSITIVE)
    epoch_warmup: float = option(1.0, "epochs of linear warm-up", NOT_NEGATIVE)
    rate_per: str = option(
        "step", "the rate moves from step to step, or from epoch to epoch", one_of("step", "epoch")
    )
    optimizer: str = option(
        "adamw", "adamw: decoupled weight decay; adam: coupled (L2)", one_of("adamw", "adam")
    )
    weight_decay: float = option(0.02, "weight decay of the optimizer", NOT_NEGATIVE)
    decay_on: str = option(
        "matrices",
        "what decays; matrices: no biases, norms and other one-dimensional parameters; all_but_biases",
        one_of("matrices", "all_but_biases"),
    )
    betas: tuple[float, float] = option((0.9, 0.98), "betas of the optimizer", MOMENTS)
    eps: float = option(1e-8, "epsilon of the optimizer", POSITIVE)
    ratio_factor: float = option(
        5.0,
        "factor on the rate of the heads of MLM and ID, and of the classifiers of CID",
        POSITIVE,
        needs="experiment.mlm experiment.id experiment.cid",
    )
    bias_factor: float | None = option(
        None, "factor on the rate of biases, but those of classifiers; null: that of their weights", POSITIVE
    )
    tse_lr: float | None = option(
        None,
        "peak learning rate of the head of TSE, biases too; null: schedule.lr, with bias_factor",
        POSITIVE,
        needs="experiment.tse",
    )
    grab_lr: float | None = option(
        None,
        "peak learning rate of the head of GRAB, biases too; null: schedule.lr, with bias_factor",
        POSITIVE,
        needs="experiment.grab",
    )
    accumulate: int = option(
        1, "parts a batch is encoded in, to save memory; the gradient is that of the whole batch", POSITIVE
    )
    clip_grad_norm: float | None = option(
        None, "maximum norm of the gradient, which is scaled down to it; null: no clipping", POSITIVE
    )
    skip_nonfinite: int = option(
        0, "steps with a loss or gradient that is not finite to skip before the run stops", NOT_NEGATIVE
    )
    patience: int | None = option(
        None, "stop after this many epochs without a better R@1 on eval.select_on; null: never", POSITIVE
    )


@dataclass(frozen=True)
class EvalOptions:
    """Evaluation."""

    select_on: str = option(
        "val", "split whose mean R@1 selects the best epoch (published results: test)", one_of("val", "test")
    )
    period: int = option(
        1, "epochs between two evaluations in training; the last epoch is always evaluated", POSITIVE
    )
    test_sets: Mapping[str, tuple[FilePath, FilePath]] = option(
        {}, "additional data sets to test on after training: {name: [annotations, image root], ...}"
    )
    detections: FilePath | None = option(
        None,
        "where a set annotates persons in frames: what a detector found in its test frames, a JSON file of "
        "boxes with scores in COCO's format, also searched; null: only the annotated boxes are",
    )
    gallery_sizes: tuple[int, ...] = option(
        (100,), "of CUHK-SYSU-TBPS: numbers of images that each query is searched in", NOT_EMPTY
    )
    fuse: Mapping[FilePath, float] = option(
        {},
        "also report the weighted mean of the cosine similarities of the model (weight 1) and of saved "
        "features: {folder of --save-features: weight, ...}",
        WEIGHTS,
    )
    msd: bool = option(False, "also report mSD from text to image, the metric of UFine3C")
    rerank: bool = option(False, "also report the results of k-reciprocal re-ranking")
    rerank_k1: int = option(20, "k1: nearest neighbours that re-ranking compares", POSITIVE, needs="rerank")
    rerank_k2: int = option(6, "k2: neighbours to average over, itself included", POSITIVE, needs="rerank")
    rerank_lambda: float = option(
        0.3, "lambda: weight of the original distance; 1: no re-ranking", FRACTION, needs="rerank"
    )


@dataclass(frozen=True)
class LogOptions:
    """Logs."""

    print_period: int = option(50, "steps between two log lines", POSITIVE)
    checkpoint_period: int | str | None = option(
        "10 minutes", "interval of checkpoints in an epoch, in steps or minutes; null: at its end", PERIOD
    )
    keep_checkpoints: int = option(1, "older checkpoints kept beside the last and the best one", NOT_NEGATIVE)


@dataclass(frozen=True)
class OutputOptions:
    """Output: options.yaml, log.txt, metrics.jsonl, tensorboard/, checkpoints, results.json, pictures."""

    dir: FilePath = option("runs/tbps", "folder for all files of a run")
    overwrite: bool = option(
        False, "whether a new run may replace the run in the folder, and --save-features existing features"
    )


@dataclass(frozen=True)
class DistributedOptions:
    """Several processes, by the environment variables of torchrun."""

    backend: str = option(
        "auto", "auto: nccl on GPUs, gloo on CPUs", one_of("auto", "nccl", "gloo"), needs=SEVERAL_PROCESSES
    )
    timeout: float = option(
        30.0, "minutes that a process waits for the others before it fails", TIMEOUT, needs=SEVERAL_PROCESSES
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


KEYS = tuple(
    f"{section.name}.{f.name}" for section in fields(Options) for f in fields(section.default_factory)
)


def load_options(
    source: str | Path | Mapping[str, Any], overrides: Iterable[str] = (), overlay: Path | None = None
) -> Options:
    """Read the options of a YAML file (and of its `base:` files), then apply `section.name=value` overrides.

    What `data.preparation` and the backbone decide has its values in them, wherever it was left null.

    Args:
        source: the file, or what `to_dict` made of options.
        overlay: another file, whose own lines (not its base's) go over the first one's.

    Raises:
        UserError: naming the key, where it stands and what it should be.
    """
    return resolved(read_options(source, overrides, overlay))


def resolved(options: Options, trained: DataOptions | None = None) -> Options:
    """The options with `data.preparation`, what it decides and the text length in place of auto and null.

    Args:
        trained: see `config.data.prepared`.
    """
    preparation, text_length = of_backbone(options.model.backbone)
    experiment = replace(options.experiment, text_length=options.experiment.text_length or text_length)
    return replace(options, data=prepared(options.data, trained, preparation), experiment=experiment)


def read_options(
    source: str | Path | Mapping[str, Any], overrides: Iterable[str] = (), overlay: Path | None = None
) -> Options:
    """As `load_options`, with what `resolved` replaces left as it is, for evaluated weights to decide."""
    source = Path(source) if isinstance(source, str) else source
    options = build(Options, read_settings(source, overrides, overlay))
    if not any(getattr(options.experiment, loss) for loss in LOSSES):
        raise UserError(f"experiment: no loss is switched on; set one of {', '.join(LOSSES)} to true")
    if options.experiment.tse and options.experiment.grab:
        raise UserError(
            "experiment.tse and experiment.grab exclude each other: both embed selected tokens, of two "
            "selections; set one to false"
        )
    parts, rows = options.schedule.accumulate, options.data.batch_size
    if parts > rows:
        found = f"{parts} parts of a batch of {rows} (data.batch_size)"
        raise UserError(f"schedule.accumulate: {found}; lower it")
    return options


def to_dict(options: Options) -> dict[str, dict[str, Any]]:
    """The options as plain dicts, lists, numbers and strings (for YAML files and checkpoints)."""
    return _plain(asdict(options))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
