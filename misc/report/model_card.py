"""`model_card.md`: the data, recipe, metrics and command of a checkpoint."""

import logging
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from config.scalars import dump
from data.columns.splits import Splits
from data.types import NOBODY, ByLanguage
from misc.checkpoints.components import Best
from misc.checkpoints.read import BEST
from misc.evaluation.tables import metrics_table, summary_table
from misc.metrics import Results
from misc.process import distributed
from misc.process.durable import write_text
from model import BACKBONES
from model.protocol import Processor, Tokenizer
from options import Options, load_options, to_dict

logger = logging.getLogger(__name__)

PACKAGES = ("torch", "torchvision", "transformers", "tokenizers", "numpy", "pillow")
OPTIONAL = {"open_clip": "open_clip_torch", "timm": "timm"}  # {module: package}, told where a run used them
CARD = """# Model card of `{checkpoint}`

Text-based person search: captions rank images of persons by cosine similarity. Backbone `{backbone}`,
{parameters:.1f} million parameters, trained from {start}.

Images of {height} x {width} pixels (height x width), mean {mean}, deviation {deviation}; captions of at most
{text_length} tokens, cleaned with `data.cleaning={cleaning}`.

## Data

`{annotations}`, images under `{image_root}`, languages {languages}.

| split | persons | images | captions |
|---|---:|---:|---:|
{counts}

## Recipe

What differs from the defaults (`config/config.yaml`); all options are in `options.yaml`:

```yaml
{recipe}
```

## Metrics

{selection} Percent, on the test split:

```text
{metrics}
```

## Made by

```bash
{command}
```

{processes} on {hardware}; Python {python}, {packages}.
"""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a training run: `select_on` is "val", "test" or "last", `results` is the reporter's."""

    best: Best
    select_on: str
    num_epochs: int
    results: Mapping[str, Results]


def write_model_card(
    folder: Path,
    options: Options,
    splits: Splits,
    built: tuple[torch.nn.Module, Tokenizer, Processor],
    outcome: Outcome,
    command: str,
) -> None:
    """Write the card beside the best checkpoint, on rank 0; `built` is what `build_model` returned, `command`
    the command line.
    """
    if not distributed.is_main():
        return
    settings, world = options.model, distributed.world_size()
    model, tokenizer, processor = built
    height, width = processor.image_size
    statistics = processor.settings()
    packages = [*PACKAGES, *(package for module, package in OPTIONAL.items() if module in sys.modules)]
    start = getattr(settings, BACKBONES[settings.backbone].weights_option)
    text = CARD.format(
        checkpoint=BEST,
        backbone=settings.backbone,
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        start=f"`{start}`" if start else "random weights",
        height=height,
        width=width,
        mean=_numbers(statistics["image_mean"]),
        deviation=_numbers(statistics["image_std"]),
        text_length=tokenizer.text_length,
        cleaning=tokenizer.cleaning,
        annotations=options.data.annotation_file,
        image_root=options.data.image_root,
        languages=", ".join(options.data.languages),
        counts="\n".join(_count(name, getattr(splits, name)) for name in ("train", "val", "test")),
        recipe=_differences(options),
        selection=_selection(outcome),
        metrics=_metrics(outcome.results),
        command=command,
        processes="1 process" if world == 1 else f"{world} processes, each running this command,",
        hardware=_hardware(),
        python=platform.python_version(),
        packages=", ".join(f"{name} {version(name)}" for name in packages),
    )
    write_text(folder / "model_card.md", text)
    logger.info(f"written to {folder}: model_card.md")


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def _count(name: str, split: ByLanguage) -> str:
    if not split:
        return f"| {name} | - | - | - |"
    records = [record for of_language in split.values() for record in of_language]
    persons = len({record.person_id for record in records} - {NOBODY})
    captions = sum(len(record.captions) for record in records)
    return f"| {name} | {persons:,} | {len(records) // len(split):,} | {captions:,} |"


def _differences(options: Options) -> str:
    defaults = to_dict(load_options({}))
    changed = {
        section: {name: value for name, value in values.items() if value != defaults[section][name]}
        for section, values in to_dict(options).items()
    }
    changed = {section: values for section, values in changed.items() if values}
    return dump(changed).strip() if changed else "{}"


def _selection(outcome: Outcome) -> str:
    chosen = f"Epoch {outcome.best['epoch']} of {outcome.num_epochs}"
    if outcome.select_on == "last":
        return f"{chosen}, the last (there is no val split)."
    reached = f"R@1 {outcome.best['R1']:.2f}, text to image, mean of the languages"
    return f"{chosen}, selected on {outcome.select_on} ({reached})."


def _metrics(results: Mapping[str, Results]) -> str:
    if len(results) == 1:
        return metrics_table(next(iter(results.values())))
    tables = [f"{name}\n{metrics_table(figures)}" for name, figures in results.items()]
    return "\n\n".join([*tables, f"all, text to image\n{summary_table(results)}"])


def _hardware() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} cores ({platform.machine()}), no GPU"
