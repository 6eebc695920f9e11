"""The options of a run: what may be set, to what, and what it means.

Reading order: the section classes (each field with its default, its meaning and its check), then
`load_options`. How YAML becomes plain values is `config/reader.py`.
"""

import dataclasses
import difflib
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config.reader import Check, Settings, UserError, checked, read_settings

POSITIVE = Check(lambda value: value > 0, "a number above 0")
NOT_NEGATIVE = Check(lambda value: value >= 0, "a number of at least 0")
FRACTION = Check(lambda value: 0 <= value <= 1, "a number from 0 to 1")
BELOW_ONE = Check(lambda value: 0 <= value < 1, "a number from 0 to below 1")
ALL_POSITIVE = Check(lambda values: all(v is None or v > 0 for v in values), "numbers above 0")
MOMENTS = Check(lambda values: all(0 <= v < 1 for v in values), "two numbers from 0 to below 1")
NOT_EMPTY = Check(lambda values: len(set(values)) == len(values) > 0, "at least one, none of them twice")
TEXT_LENGTH = Check(lambda value: value >= 3, "a number of at least 3 (start, one piece, end)")


def one_of(*choices: str) -> Check:
    """The check that a value is one of `choices`."""
    return Check(lambda value: value in choices, "one of " + ", ".join(choices))


def option(default: Any, doc: str, check: Check | None = None) -> Any:
    """A field of a section: its default, a line of documentation, and the check its value must pass."""
    return field(default=default, metadata={"doc": doc, "check": check})


@dataclass(frozen=True)
class MiscOptions:
    seed: int = option(1, "seed of everything random: weights, order, augmentation, dropout", NOT_NEGATIVE)
    device: str = option("auto", "auto takes the GPU where there is one", one_of("auto", "cpu", "cuda"))
    precision: str = option(
        "auto", "auto: bf16 or fp16 on a GPU, fp32 on a CPU", one_of("auto", "fp32", "bf16", "fp16")
    )


@dataclass(frozen=True)
class ExperimentOptions:
    nitc: bool = option(True, "N-ITC: contrastive loss with identity-aware, softened targets")
    nitc_ratio: float = option(1.0, "weight of N-ITC", NOT_NEGATIVE)
    ritc: bool = option(True, "R-ITC: reversed KL divergence from the targets")
    ritc_eps: float = option(
        0.01, "added to the targets of R-ITC so that their logarithm is finite", POSITIVE
    )
    ritc_ratio: float = option(1.0, "weight of R-ITC", NOT_NEGATIVE)
    citc: bool = option(True, "C-ITC: cyclic consistency within and across the modalities")
    citc_lambda1: float = option(0.25, "weight inside C-ITC of the in-modal part", NOT_NEGATIVE)
    citc_lambda2: float = option(0.25, "weight inside C-ITC of the cross-modal part", NOT_NEGATIVE)
    citc_ratio: float = option(0.1, "weight of C-ITC", NOT_NEGATIVE)
    ss: bool = option(True, "SS: SimCLR between two strongly augmented views of the image")
    ss_ratio: float = option(0.4, "weight of SS", NOT_NEGATIVE)
    simclr_mlp: tuple[int | None, int, int | None] = option(
        (None, 128, None), "widths of the SimCLR head; null ends: the embedding's width", ALL_POSITIVE
    )
    simclr_temperature: float = option(0.1, "temperature of SS", POSITIVE)
    mvs_image: bool = option(True, "MVS-I: N-ITC averaged over two augmented views of the image")
    dropout: float = option(0.05, "dropout on the attention weights of the text tower", BELOW_ONE)
    back_trans: bool = option(True, "replace a caption by its back-translation at times, where it has one")
    backtrans_p: float = option(0.1, "probability of that", FRACTION)
    eda_alpha: float = option(0.05, "probability with which each word of a caption is deleted", BELOW_ONE)
    text_length: int = option(77, "captions are cut to this many tokens, start and end included", TEXT_LENGTH)


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


@dataclass(frozen=True)
class ModelOptions:
    clip_pretrained: str | None = option(
        "weights/ViT-B-16.pt",
        "weights to start from: OpenAI's archive, state dict, safetensors or a checkpoint; null: random",
    )
    use_gather: bool = option(
        True, "contrast with the features of all processes, with gradient through the gather"
    )
    softlabel_ratio: float = option(
        0.5, "share of the model's own prediction in the targets; 0: none", BELOW_ONE
    )
    lock_patch_embedding: bool = option(True, "freeze the patch embedding (the image tower's convolution)")
    patch_size: int | None = option(
        None, "pixels of a patch's side; null: as the weights (random: 16)", POSITIVE
    )
    image_width: int | None = option(None, "width of the image tower; null: as the weights (768)", POSITIVE)
    image_layers: int | None = option(None, "blocks of the image tower; null: as the weights (12)", POSITIVE)
    image_heads: int | None = option(None, "attention heads of the image tower; null: width / 64", POSITIVE)
    text_width: int | None = option(None, "width of the text tower; null: as the weights (512)", POSITIVE)
    text_layers: int | None = option(None, "blocks of the text tower; null: as the weights (12)", POSITIVE)
    text_heads: int | None = option(None, "attention heads of the text tower; null: width / 64", POSITIVE)
    embed_dim: int | None = option(
        None, "width of the shared embedding; null: as the weights (512)", POSITIVE
    )
    vocab_size: int | None = option(
        None, "number of token embeddings; null: as the weights (49408)", POSITIVE
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
        one_of("auto", "cuhk-pedes", "icfg-pedes", "rstpreid", "curated", "multilingual"),
    )
    languages: tuple[str, ...] = option(
        ("en",), "languages of the captions, of those the annotations have", NOT_EMPTY
    )
    image_size: tuple[int, int] = option((224, 224), "height and width of the model's input", ALL_POSITIVE)
    normalization: str = option("imagenet", "pixel statistics", one_of("imagenet", "clip"))
    batch_size: int = option(80, "training samples a step, of each process", POSITIVE)
    test_batch_size: int = option(256, "images or captions encoded at once in evaluation", POSITIVE)
    num_workers: int = option(4, "loader processes of each training process", NOT_NEGATIVE)


@dataclass(frozen=True)
class EvalOptions:
    select_on: str = option(
        "val", "split whose mean R@1 picks the best epoch (published: test)", one_of("val", "test")
    )


@dataclass(frozen=True)
class LogOptions:
    print_period: int = option(50, "steps between two log lines", POSITIVE)


@dataclass(frozen=True)
class OutputOptions:
    dir: str = option("runs/tbps", "folder for everything a run writes")
    overwrite: bool = option(False, "whether a fresh run may replace the run that the folder holds")


@dataclass(frozen=True)
class DistributedOptions:
    backend: str = option("auto", "auto: nccl on GPUs, gloo on CPUs", one_of("auto", "nccl", "gloo"))
    timeout: float = option(
        30.0, "minutes after which a process that waits for the others gives up", POSITIVE
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


RENAMED = {
    "anno_dir": "data.annotation_file",
    "image_dir": "data.image_root",
    "device": "misc.device",
    "model.checkpoint": "model.clip_pretrained",
    "model.ckpt_type": "model.clip_pretrained (the format is told by the file)",
    "model.saved_path": "output.dir",
    "experiment.input_resolution": "data.image_size",
    "distributed.url": "nothing: torchrun's environment tells the address",
}


def load_options(path: str | Path, overrides: Iterable[str] = ()) -> Options:
    """Read the options of a YAML file (and of its `base:` files), then apply `section.name=value` overrides.

    Raises:
        UserError: naming the key, where it stands and what it should be.
    """
    options = _build(read_settings(Path(path), overrides))
    experiment = options.experiment
    if not (experiment.nitc or experiment.ritc or experiment.citc or experiment.ss):
        raise UserError("experiment: no loss is switched on; set nitc, ritc, citc or ss to true")
    return options


def to_dict(options: Options) -> dict[str, dict[str, Any]]:
    """The options as plain dicts, lists, numbers and strings (for YAML files and checkpoints)."""
    return {
        section: {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}
        for section, values in dataclasses.asdict(options).items()
    }


def moot_settings(options: Options) -> list[str]:
    """A sentence for each option that was set but has no effect, since another one switches it off."""
    switches = {
        name: [f.name for f in dataclasses.fields(ExperimentOptions) if f.name.startswith(name + "_")]
        for name in ("nitc", "ritc", "citc", "ss")
    }
    switches["ss"] += ["simclr_mlp", "simclr_temperature"]
    switches["back_trans"] = ["backtrans_p"]
    defaults, now = ExperimentOptions(), options.experiment
    sentences = [
        f"experiment.{name} has no effect while experiment.{switch} is false"
        for switch, names in switches.items()
        for name in names
        if not getattr(now, switch) and getattr(now, name) != getattr(defaults, name)
    ]
    if now.mvs_image and not now.nitc:
        sentences.append("experiment.mvs_image has no effect while experiment.nitc is false")
    return sentences


def _build(settings: Settings) -> Options:
    sections = typing.get_type_hints(Options)
    known = {f"{s}.{f.name}": f for s, kind in sections.items() for f in dataclasses.fields(kind)}
    chosen: dict[str, dict[str, Any]] = {section: {} for section in sections}
    for key, (value, where) in settings.items():
        if key in sections:
            if value is None:  # a section whose lines are all commented out
                continue
            raise UserError(f"{key}: expected a section of options, found {value!r} (in {where})")
        if key not in known:
            raise UserError(_unknown(key, where, list(known)))
        section, name = key.split(".")
        hint = typing.get_type_hints(sections[section])[name]
        chosen[section][name] = checked(key, value, hint, known[key].metadata["check"], where)
    return Options(**{section: sections[section](**values) for section, values in chosen.items()})


def _unknown(key: str, where: str, known: list[str]) -> str:
    if key in RENAMED:
        return f"{key}: no option of that name in {where}; it is now {RENAMED[key]}"
    by_name = {k.split(".")[1]: k for k in known}
    near = difflib.get_close_matches(key, known, 1, 0.6) or [
        by_name[n] for n in difflib.get_close_matches(key.split(".")[-1], list(by_name), 1, 0.6)
    ]
    return f"{key}: no such option (in {where})" + (f"; did you mean {near[0]}?" if near else "")
