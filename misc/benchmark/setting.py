"""Options, data and models for the workloads: random weights and rendered people by default."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import config
from data.annotations import load_data
from data.loaders import Loaders, build_loaders
from data.synthetic.write import Parameters, generate
from misc.benchmark.parts import Settings
from misc.process.device import pick_device, start_device
from misc.process.seed import seed_process
from misc.process.workers import num_cores
from misc.tiny_altclip import make_tiny_altclip, synthetic_captions
from model import build_model
from model.protocol import Tokenizer
from model.tbps import TBPS
from options import Options, load_options

FULL, SIMPLIFIED, IRRA, RDE = "config.yaml", "s.config.yaml", "irra.yaml", "rde.yaml"
SMALL_MODEL = (
    *("model.image_width=64", "model.image_layers=2", "model.text_width=64", "model.text_layers=2"),
    "model.embed_dim=32",
)
# RDE's recipe without its token selection.
POOLED = ("experiment.tse=false", "experiment.ccd=false", "schedule.tse_lr=null")


def data_paths(settings: Settings) -> tuple[Path, Path]:
    """Annotations and image root: those of the command line, or rendered people, generated once."""
    if settings.annotations and settings.images:
        return settings.annotations, settings.images
    count, held_out = (40, 8) if settings.quick else (320, 60)
    folder = settings.folder / ("people-quick" if settings.quick else "people")
    generate(folder, Parameters(count, 1, held_out, held_out), num_cores(), progress=sys.stderr.isatty())
    return folder, folder / "imgs"


def small_altclip(settings: Settings) -> Path:
    """The folder of a small AltCLIP with a real tokenizer, generated once."""
    folder = settings.folder / "altclip"
    if not (folder / "preprocessor_config.json").exists():  # the last file that is written
        sizes = {"width": 64, "layers": 1, "heads": 1, "embed_dim": 768, "image_size": 224, "patch_size": 14}
        make_tiny_altclip(folder, synthetic_captions(1000), **sizes)
    return folder


def make_options(settings: Settings, recipe: str = FULL, overrides: Sequence[str] = ()) -> Options:
    """The options of a recipe with random weights and the benchmark's data; `overrides` and then those of the
    command line take precedence. Raises UserError for invalid ones.
    """
    annotations, images = data_paths(settings)
    defaults = [
        "model.clip_pretrained=null",
        f"data.annotation_file={json.dumps(str(annotations))}",
        f"data.image_root={json.dumps(str(images))}",
        f"data.batch_size={batch_size(settings)}",
        "data.num_workers=0",
        f"misc.device={settings.device}",
        f"misc.precision={settings.precision}",
        f"output.dir={json.dumps(str(settings.folder))}",
        *((*SMALL_MODEL, "data.image_size=[64,32]") if settings.quick else ()),
    ]
    return load_options(config.FOLDER / recipe, [*defaults, *overrides, *settings.overrides])


def batch_size(settings: Settings) -> int:
    """Samples per step: as requested, or the paper's on a GPU and a tenth of it on a CPU."""
    if settings.batch_size or settings.quick:
        return settings.batch_size or 4
    return 8 if pick_device(settings.device).type == "cpu" else 80


def device_of(options: Options) -> tuple[torch.device, torch.dtype]:
    """The device, and the precision of its matrix products."""
    return start_device(options.misc.device, options.misc.precision)


def build(
    settings: Settings, recipe: str = FULL, overrides: Sequence[str] = ()
) -> tuple[Options, TBPS, Loaders, Tokenizer]:
    """The options of `make_options`, and what is `built` of them."""
    options = make_options(settings, recipe, overrides)
    return options, *built(options)


def built(options: Options) -> tuple[TBPS, Loaders, Tokenizer]:
    """Model, loaders and tokenizer as a training run builds them."""
    splits = load_data(options)
    seed_process(options.misc.seed)
    model, tokenizer, processor = build_model(options, splits.num_identities)
    loaders = build_loaders(options, splits, tokenizer, processor, model.inputs)
    return model, loaders, tokenizer
