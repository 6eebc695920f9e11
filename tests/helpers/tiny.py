"""A model of the real classes, small enough to train in a moment, and a batch that fits it."""

from collections.abc import Iterable

import torch
from torch import Tensor

from data.types import Batch
from model import build_model
from model.tbps import TBPS
from options import LOSSES, load_options

VIEWS = ("view1", "view2", "simclr1", "simclr2")
PERSONS = (0, 1, 2, 1, 0, 3, 1, 4)  # the same person within and across the two halves
NUM_ROWS, NUM_PERSONS, LENGTH = len(PERSONS), 5, 10
MASKED = ((0, 3), (0, 5), (1, 2), (2, 7), (2, 8), (3, 1), (6, 4), (7, 6))  # six of them in the first half
IMAGE_SIZE = (16, 8)
SIZES = {
    "model.clip_pretrained": "null",
    "model.patch_size": 8,
    "model.image_width": 16,
    "model.image_layers": 2,
    "model.image_heads": 2,
    "model.text_width": 16,
    "model.text_layers": 2,
    "model.text_heads": 2,
    "model.embed_dim": 8,
    "data.image_size": list(IMAGE_SIZE),
    "experiment.text_length": LENGTH + 2,
    "experiment.simclr_mlp": "[null, 12, null]",
    "experiment.cmt_depth": 1,
    "experiment.dropout": 0,
    "experiment.grab_blocks": "[0, 1]",
    "experiment.grab_width": 12,
}
TOGETHER = tuple(name for name in LOSSES if name != "grab")  # TSE, of other tokens, excludes it
ALL_OFF = {f"experiment.{name}": "false" for name in (*LOSSES, "mvs_image", "mvs_text")}


def tiny_model(settings: dict[str, object], config: str = "config/config.yaml") -> TBPS:
    """The model of a configuration file at tiny sizes, with `settings`, in training mode; seeded."""
    torch.manual_seed(0)
    overrides = [f"{key}={value}" for key, value in (SIZES | settings).items()]
    model, _, _ = build_model(load_options(config, overrides), NUM_PERSONS)
    return model.train()


def tiny_batch(rows: slice = slice(None), views: Iterable[str] = VIEWS, is_masked: bool = True) -> Batch:
    """These rows of a batch of NUM_ROWS, with everything that any loss reads."""
    generator = torch.Generator().manual_seed(1)
    images = {view: torch.randn(NUM_ROWS, 3, *IMAGE_SIZE, generator=generator) for view in VIEWS}
    first, second, third = (_captions(generator, length) for length in (LENGTH, LENGTH - 2, LENGTH - 1))
    masked, labels = first["input_ids"].clone(), torch.full((NUM_ROWS, LENGTH), -100)
    for at in MASKED if is_masked else ():
        labels[at], masked[at] = masked[at], 49405
    masked_tokens = {"input_ids": masked, "attention_mask": first["attention_mask"]}
    return Batch(
        images={view: images[view][rows] for view in views},
        tokens={name: values[rows] for name, values in first.items()},
        person_ids=torch.tensor(PERSONS)[rows],
        indices=torch.arange(NUM_ROWS)[rows],
        tokens2={name: values[rows] for name, values in second.items()},
        rewritten={name: values[rows] for name, values in third.items()},
        rewritten_weight=0.7,
        masked_tokens={name: values[rows] for name, values in masked_tokens.items()},
        mlm_labels=labels[rows],
    )


def _captions(generator: torch.Generator, length: int) -> dict[str, Tensor]:
    """Random words, the odd rows one token shorter than `length`."""
    ids = torch.randint(1, 49000, (NUM_ROWS, length), generator=generator)
    mask = torch.ones_like(ids)
    ids[:, 0], ids[:, -1] = 49406, 49407
    ids[1::2, -2], ids[1::2, -1], mask[1::2, -1] = 49407, 0, 0
    return {"input_ids": ids, "attention_mask": mask}
