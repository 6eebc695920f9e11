"""What can be measured, by name, and with which settings. It imports nothing heavy: a process that only waits
for others should take no memory of its own.
"""

from dataclasses import dataclass
from pathlib import Path

from options import UserError

# In the order of the table. How each is made stands in misc/benchmark/works.py, under the same names.
PARTS = {
    "step.full": "training step, full recipe",
    "step.simplified": "training step, simplified recipe",
    "step.altclip": "training step, full recipe, towers as large as AltCLIP's; a quarter of the batch",
    "step.checkpointed": "step.full with model.grad_checkpointing",
    "step.fp32": "step.full in fp32, on a GPU",
    "step.bf16": "step.full in bf16, on a GPU",
    "step.fp16": "step.full in fp16 with a scaler, on a GPU",
    "step.compiled": "step.full with model.compile, on a GPU",
    "accumulate.whole": "training step, full recipe, four times the batch at once",
    "accumulate.parts": "the same batch with schedule.accumulate=4",
    "data.full": "training batches of the full recipe (4 views), one core, no worker",
    "data.simplified": "training batches of the simplified recipe (1 view), one core, no worker",
    "misc.process.workers": "training batches of the full recipe, one worker process for each core",
    "tokens.clip": "captions through CLIP's tokenizer, one core",
    "tokens.altclip": "captions through AltCLIP's tokenizer (a small vocabulary), one core",
    "evaluate.images": "gallery images, from files to features",
    "evaluate.captions": "query captions, from text to features",
    "metrics.cuhk": "metrics of 6,156 queries x 3,074 images (CUHK-PEDES)",
    "metrics.icfg": "metrics of 19,848 queries x 19,848 images (ICFG-PEDES)",
    "start.help": "python main.py --help",
    "start.imports": "the imports of a training run, in a fresh interpreter",
    "start.model": "building the model of config/config.yaml with random weights",
    "plain.full": "step.full as one would write it first (misc/benchmark/plain.py)",
    "plain.simplified": "step.simplified likewise",
    "plain.data": "training samples likewise: four views, needed or not",
    "plain.captions": "evaluate.captions likewise",
    "plain.metrics": "metrics.cuhk likewise",
}
# Which part is measured against which plain one, in the same run.
AGAINST = {
    "step.full": "plain.full",
    "step.simplified": "plain.simplified",
    "data.full": "plain.data",
    "data.simplified": "plain.data",
    "evaluate.captions": "plain.captions",
    "metrics.cuhk": "plain.metrics",
}
FOR_GPUS = ("step.fp32", "step.bf16", "step.fp16", "step.compiled")


@dataclass(frozen=True)
class Settings:
    """What the command line asks for.

    Attributes:
        batch_size: training samples of a step; None: 8 on a CPU, 80 on a GPU, 4 with `quick`.
        quick: a small model and little data.
        annotations, images: a data set; None: rendered people.
        overrides: `section.name=value`, over the recipe of every part.
        folder: for what is made once and kept: rendered people, a small AltCLIP.
    """

    device: str = "auto"
    precision: str = "auto"
    batch_size: int | None = None
    repeats: int = 5
    quick: bool = False
    annotations: Path | None = None
    images: Path | None = None
    overrides: tuple[str, ...] = ()
    folder: Path = Path("runs/bench")


def chosen(only: str | None) -> list[str]:
    """The parts that `only` names, separated by commas, in the order of the table; "step" names its group.

    Raises:
        UserError: no part has that name.
    """
    if only is None:
        return list(PARTS)
    names, groups = only.split(","), {name.split(".")[0] for name in PARTS}
    for name in names:
        if name not in groups | PARTS.keys():
            raise UserError(
                f"--only: '{name}' is no part; expected names of --help, separated by commas, or groups of "
                f"them: {', '.join(sorted(groups))}"
            )
    return [name for name in PARTS if name in names or name.split(".")[0] in names]
