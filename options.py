"""The options of a run: what may be set, to what, and what it means.

Reading order: the section classes (each field with its default, its meaning and its check), then
`load_options`. How YAML becomes plain values is `config/reader.py`, the checks are `config/checks.py`.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config.checks import (
    ALL_POSITIVE,
    BELOW_ONE,
    BLOCK_NUMBERS,
    FRACTION,
    MOMENTS,
    NOT_EMPTY,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    TEXT_LENGTH,
    UP_TO_HALF,
    WEIGHTS,
    one_of,
    option,
)
from config.moot import moot_settings as moot_settings
from config.reader import UserError, build, read_settings

LOSSES = ("nitc", "ritc", "citc", "ss", "ss_text", "mlm", "id", "sdm", "tal", "sigmoid")
IMAGE_AUGMENTATIONS = (
    *("pool", "none", "color_jitter", "rotation", "crop", "grayscale", "flip", "erasing"),
    *("blur", "hue", "vertical_flip", "stack"),
    *("autoaugment", "randaugment", "trivialaugment", "augmix", "simclr"),
)
TEXT_AUGMENTATIONS = ("deletion", "none", "synonym", "insertion", "swap", "eda")


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
    nitc_ratio: float = option(1.0, "weight of N-ITC", NOT_NEGATIVE, needs="nitc")
    ritc: bool = option(True, "R-ITC: reversed KL divergence from the targets")
    ritc_eps: float = option(
        0.01, "added to the targets of R-ITC so that their logarithm is finite", POSITIVE, needs="ritc"
    )
    ritc_ratio: float = option(1.0, "weight of R-ITC", NOT_NEGATIVE, needs="ritc")
    citc: bool = option(True, "C-ITC: cyclic consistency within and across the modalities")
    citc_lambda1: float = option(
        0.25, "weight inside C-ITC within the modalities", NOT_NEGATIVE, needs="citc"
    )
    citc_lambda2: float = option(
        0.25, "weight inside C-ITC across the modalities", NOT_NEGATIVE, needs="citc"
    )
    citc_ratio: float = option(0.1, "weight of C-ITC", NOT_NEGATIVE, needs="citc")
    ss: bool = option(True, "SS: SimCLR between two strongly augmented views of the image")
    ss_ratio: float = option(0.4, "weight of SS", NOT_NEGATIVE, needs="ss")
    ss_text: bool = option(False, "SS-T: SimCLR between two augmentations of the caption; with ss: SS-IT")
    ss_text_ratio: float = option(0.4, "weight of SS-T", NOT_NEGATIVE, needs="ss_text")
    simclr_mlp: tuple[int | None, int, int | None] = option(
        (None, 128, None),
        "widths of the SimCLR heads; null ends: the embedding's width",
        ALL_POSITIVE,
        needs="ss ss_text",
    )
    simclr_temperature: float = option(0.1, "temperature of SS and SS-T", POSITIVE, needs="ss ss_text")
    mvs_image: bool = option(True, "MVS-I: N-ITC averaged over two views of the image", needs="nitc")
    mvs_text: bool = option(
        False, "MVS-T: N-ITC averaged over two augmentations of the caption; both: MVS-IT", needs="nitc"
    )
    mlm: bool = option(False, "MLM: masked words predicted from the image and the words around them")
    mlm_ratio: float = option(1.0, "weight of MLM", NOT_NEGATIVE, needs="mlm")
    cmt_depth: int = option(4, "blocks of the cross-modal transformer of MLM", NOT_NEGATIVE, needs="mlm")
    id: bool = option(False, "ID: one linear classifier of the persons for images and captions")
    id_ratio: float = option(1.0, "weight of ID", NOT_NEGATIVE, needs="id")
    sdm: bool = option(False, "SDM: similarity distribution matching, the loss of IRRA")
    sdm_ratio: float = option(1.0, "weight of SDM", NOT_NEGATIVE, needs="sdm")
    tal: bool = option(False, "TAL: triplet alignment loss, the loss of RDE")
    tal_ratio: float = option(1.0, "weight of TAL", NOT_NEGATIVE, needs="tal")
    sigmoid: bool = option(False, "sigmoid loss, the loss of SigLIP, with a learned bias")
    sigmoid_ratio: float = option(1.0, "weight of the sigmoid loss", NOT_NEGATIVE, needs="sigmoid")
    dropout: float = option(0.05, "dropout on the attention weights of the text tower", BELOW_ONE)
    image_aug: str = option(
        "pool", "augmentation of the image; pool: two operations drawn from six", one_of(*IMAGE_AUGMENTATIONS)
    )
    text_aug: str = option(
        "deletion", "change of the caption's words; eda: one of the four", one_of(*TEXT_AUGMENTATIONS)
    )
    eda_alpha: float = option(0.05, "share of the caption's words that text_aug changes", BELOW_ONE)
    back_trans: bool = option(True, "replace a caption by its back-translation at times, where it has one")
    backtrans_p: float = option(0.1, "probability of that", FRACTION, needs="back_trans")
    mixgen: bool = option(False, "MixGen: join some pairs of a batch into new pairs")
    mixgen_type: str = option(
        "ori", "ori: pixels averaged; cat: images side by side", one_of("ori", "cat"), needs="mixgen"
    )
    mixgen_p: float = option(0.1, "probability with which a batch has such pairs", FRACTION, needs="mixgen")
    mixgen_ratio: float = option(0.1, "their share of the batch", UP_TO_HALF, needs="mixgen")
    use_altclip_processor: bool = option(
        False, "AltCLIP's own preprocessing, which crops the centre, in place of data.image_size"
    )
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
    ratio_factor: float = option(
        5.0, "times the learning rate at which the heads of MLM and ID train", POSITIVE, needs="mlm id"
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
    projection_dim: int | None = option(
        None, "width of AltCLIP's embedding; null: as the weights (768)", POSITIVE
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
        one_of("auto", "cuhk-pedes", "icfg-pedes", "rstpreid", "curated", "multilingual", "table"),
    )
    languages: tuple[str, ...] = option(
        ("en",), "languages of the captions, of those the annotations have", NOT_EMPTY
    )
    language_draw: str = option(
        "all",
        "all: a sample for each language; one: one language drawn for each caption",
        one_of("all", "one"),
    )
    image_size: tuple[int, int] = option((224, 224), "height and width of the model's input", ALL_POSITIVE)
    normalization: str = option("imagenet", "pixel statistics", one_of("imagenet", "clip"))
    batch_size: int = option(80, "training samples a step, of each process", POSITIVE)
    test_batch_size: int = option(256, "images or captions encoded at once in evaluation", POSITIVE)
    few_shot: float = option(1.0, "share of the training split that is used, drawn by misc.seed", SHARE)
    few_shot_by: str = option(
        "images", "what is drawn for few_shot: images or identities", one_of("images", "identities")
    )
    num_workers: int = option(4, "loader processes of each training process", NOT_NEGATIVE)


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
    return options


def to_dict(options: Options) -> dict[str, dict[str, Any]]:
    """The options as plain dicts, lists, numbers and strings (for YAML files and checkpoints)."""
    return _plain(dataclasses.asdict(options))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
