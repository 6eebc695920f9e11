"""The parts that can be measured, by name, and the settings. No heavy imports: see `misc.benchmark.child`."""

from dataclasses import dataclass
from pathlib import Path

from options import UserError

# In the order of the table. `misc/benchmark/workloads.py` has the workload of each name.
PARTS = {
    "step.full": "training step, full recipe",
    "step.simplified": "training step, simplified recipe",
    "step.irra": "training step, recipe of IRRA, 384x128",
    "step.rde": "training step, recipe of RDE, 384x128",
    "step.tal": "step.rde on the pooled features alone, without token selection",
    "step.altclip": "training step, full recipe, towers of AltCLIP's size; a quarter of the batch",
    "step.checkpointed": "step.full with model.grad_checkpointing",
    "step.fp32": "step.full in fp32, on a GPU",
    "step.bf16": "step.full in bf16, on a GPU",
    "step.fp16": "step.full in fp16 with a scaler, on a GPU",
    "step.compiled": "step.full with model.compile, on a GPU",
    "accumulate.whole": "training step, full recipe, four times the batch at once",
    "accumulate.parts": "the same batch with schedule.accumulate=4",
    "data.full": "training batches of the full recipe (4 views), one core, no worker",
    "data.simplified": "training batches of the simplified recipe (1 view), one core, no worker",
    "data.workers": "training batches of the full recipe, one worker process per core",
    "tokens.clip": "captions through CLIP's tokenizer, one core",
    "tokens.altclip": "captions through AltCLIP's tokenizer (a small vocabulary), one core",
    "evaluate.images": "gallery images, from files to features",
    "evaluate.captions": "query captions, from text to features",
    "metrics.cuhk": "metrics of 6,156 queries x 3,074 images (CUHK-PEDES)",
    "metrics.icfg": "metrics of 19,848 queries x 19,848 images (ICFG-PEDES)",
    "start.help": "python main.py --help",
    "start.imports": "the imports of a training run, in a new interpreter",
    "start.model": "building the model of config/config.yaml with random weights",
    "baseline.full": "step.full in a straightforward implementation (misc/benchmark/baseline.py)",
    "baseline.simplified": "step.simplified, likewise",
    "baseline.data": "training samples, likewise: all four views, used or not",
    "baseline.captions": "evaluate.captions, likewise",
    "baseline.metrics": "metrics.cuhk, likewise",
}
# What a part is compared with, where both are measured in one run.
BASELINES = {
    "step.full": "baseline.full",
    "step.simplified": "baseline.simplified",
    "step.rde": "step.tal",
    "data.full": "baseline.data",
    "data.simplified": "baseline.data",
    "evaluate.captions": "baseline.captions",
    "metrics.cuhk": "baseline.metrics",
}
GPU_ONLY = ("step.fp32", "step.bf16", "step.fp16", "step.compiled")


@dataclass(frozen=True)
class Settings:
    """The settings of the command line."""

    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None  # training samples per step; None: 8 on a CPU, 80 on a GPU, 4 with `quick`
    repeats: int = 5
    quick: bool = False  # a small model and little data
    annotations: Path | None = None  # a data set; None: rendered people
    images: Path | None = None
    overrides: tuple[str, ...] = ()  # `section.name=value`, over the recipe of every part
    folder: Path = Path("runs/bench")  # for what is made once and reused: rendered people, a small AltCLIP


def select_parts(only: str | None) -> list[str]:
    """The parts that `only` names, separated by commas, in the order of the table; "step" names its group.
    Raises UserError if no part has a name.
    """
    if only is None:
        return list(PARTS)
    names, groups = only.split(","), {name.split(".")[0] for name in PARTS}
    for name in names:
        if name not in groups | PARTS.keys():
            raise UserError(
                f"--only: expected names of --help separated by commas, or groups of them "
                f"({', '.join(sorted(groups))}), found '{name}'"
            )
    return [name for name in PARTS if name in names or name.split(".")[0] in names]
