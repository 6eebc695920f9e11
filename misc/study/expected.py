"""What the runs of a study are expected to cost, before any of them is made."""

import json
from functools import cache
from typing import NamedTuple

from config.data import Preparation
from data.formats import read_splits
from data.published import PUBLISHED, recognise
from misc.benchmark.memory import flops_of_sample
from options import Options, UserError, load_options, to_dict


class Expected(NamedTuple):
    """The cost of a training."""

    epochs: int
    samples: int  # of an epoch
    flops: float  # of all its samples, forward and backward; 0: they cannot be counted

    def hours(self, tflops: float) -> float:
        """At that many TFLOP a second."""
        return self.flops / tflops / 1e12 / 3600


def expected_cost(options: Options) -> Expected:
    """The cost of a training with these options.

    The samples are the captions of the training split: those of the annotations or, where these are not here,
    the published number; 0 where neither is known.
    """
    samples = round(_captions(options) * options.data.few_shot)
    sections = {name: to_dict(options)[name] for name in ("experiment", "model", "data")}
    sections["data"] = {name: sections["data"][name] for name in ("preparation", *Preparation._fields)}
    flops = _flops(json.dumps(sections))
    return Expected(options.schedule.epoch, samples, flops * samples * options.schedule.epoch)


def _captions(options: Options) -> int:
    data = options.data
    try:
        found = read_splits(data.annotation_file, ["train"], data.languages, data.dataset)["train"]
        numbers = [sum(len(record.captions) for record in records) for records in found.values()]
        return (max if data.language_draw == "one" else sum)(numbers) if numbers else 0
    except UserError:
        name = recognise({}, data.annotation_file)
        published = PUBLISHED.get(name or "", {}).get("train")
        return published.captions if published else 0


@cache
def _flops(sections: str) -> float:
    """FLOPs of a sample; 0 for a model that cannot be built without its files."""
    try:
        return flops_of_sample(load_options(json.loads(sections)))
    except UserError:
        return 0.0
