"""How each part of `misc.benchmark.parts.PARTS` is made ready to run."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from data.annotations import load_data
from data.types import EvaluationSet, Queries
from misc.benchmark import plain
from misc.benchmark.measure import Work, layers
from misc.benchmark.parts import Settings
from misc.benchmark.setting import (
    FULL,
    SIMPLIFIED,
    SMALL_MODEL,
    batch_size,
    build,
    device_of,
    options_of,
    small_altclip,
)
from misc.benchmark.step import altclip_step, plain_step, training_step
from misc.benchmark.towers import towers
from misc.evaluation.evaluator import build_evaluators
from misc.metrics import retrieval_metrics
from misc.process.seed import seed_process
from misc.process.workers import num_cores
from model import build_model
from model.processor import NORMALIZATIONS
from text_utils.tokenizer import AltCLIPTokenizer, CLIPTokenizer

ROOT = Path(__file__).resolve().parents[2]
IMPORTS = "import data.loaders, misc.training.build, misc.report.reporter, model.clip, model.tbps"
SAY_PEAK = "; from misc.benchmark.machine import peak_memory; print(peak_memory())"


def larger_step(settings: Settings, parts: int) -> Work:
    """A full step of four times the batch, through the towers in so many parts."""
    overrides = [f"data.batch_size={4 * batch_size(settings)}", f"schedule.accumulate={parts}"]
    return training_step(settings, FULL, overrides)


def training_batches(settings: Settings, recipe: str, workers: int = 0) -> Work:
    """Batches of the training loader, each run in another epoch, and so with other random views."""
    torch.set_num_threads(1)
    overrides = [*SMALL_MODEL, f"data.num_workers={workers}"]  # what the model is does not matter here
    _, loaders, _ = build(options_of(settings, recipe, overrides))
    epochs = itertools.count()
    num_batches = min(len(loaders.train), (4 if settings.quick else 32) * max(1, workers))

    def run() -> None:
        loaders.train_sampler.set_epoch(next(epochs))
        for batch in itertools.islice(loaders.train, num_batches):
            for view in batch.images:  # looked up one after another, and so normalised, as the model does
                batch.images[view]

    samples = num_batches * loaders.train_sampler.batch_size
    note = f"{workers} workers, whose memory is not counted" if workers else "one core"
    return Work(run, samples, "samples", note=note)


def plain_samples(settings: Settings) -> Work:
    """The samples of `training_batches`, for one core, as `misc.benchmark.plain` makes them."""
    torch.set_num_threads(1)
    options = options_of(settings, FULL, SMALL_MODEL)
    _, loaders, tokenizer = build(options)
    training_set, size = loaders.training_set, options.data.batch_size
    count = size * min(4 if settings.quick else 32, len(training_set) // size)
    paths = [training_set.image_root / name for name in training_set.image_names(range(count))]
    captions = [record.captions[number] for ((record, number),) in training_set.choices[:count]]
    normalization = NORMALIZATIONS[options.data.normalization]

    def run() -> None:
        samples = plain.training_samples(paths, options.data.image_size, *normalization)
        for _, caption in zip(samples, captions, strict=True):
            tokenizer([caption])

    return Work(run, count, "samples", note="one core, all four views")


def captions_of(settings: Settings, count: int) -> list[str]:
    """Captions of the training split."""
    records = load_data(options_of(settings), ["train"]).train.values()
    captions = [text for part in records for record in part for text in record.captions]
    return list(itertools.islice(itertools.cycle(captions), count))


def tokenising(settings: Settings, tokenizer: CLIPTokenizer | AltCLIPTokenizer) -> Work:
    """Captions in batches, no caption twice: a cache would have nothing to give."""
    torch.set_num_threads(1)
    captions = captions_of(settings, 512 if settings.quick else 4096)
    runs, size = itertools.count(), batch_size(settings)

    def run() -> None:
        number = next(runs)
        for start in range(0, len(captions), size):
            tokenizer([f"{caption} {number}" for caption in captions[start : start + size]])

    return Work(run, len(captions), "captions", note="one core")


def clip_tokenising(settings: Settings) -> Work:
    """CLIP's byte pairs."""
    return tokenising(settings, CLIPTokenizer())


def altclip_tokenising(settings: Settings) -> Work:
    """XLM-RoBERTa's SentencePiece, with the small vocabulary of a small AltCLIP."""
    return tokenising(settings, AltCLIPTokenizer(str(small_altclip(settings))))


def image_encoding(settings: Settings) -> Work:
    """The features of test images, from their files, by the evaluator of a run."""
    options = options_of(settings)
    device, precision = device_of(options)
    model, loaders, tokenizer = build(options)
    count = 16 if settings.quick else 64 if device.type == "cpu" else 4096
    gallery = images_alone(loaders.test, count)
    clip, num_images = model.clip.to(device), len(gallery.images)
    tower, _ = towers(clip, options.data.image_size, 0)
    rows = min(options.data.test_batch_size, num_images) * tower.tokens
    setting = (loaders.images, options, device, precision)
    encode = build_evaluators(model, tokenizer, {"test": gallery}, *setting)["test"].encode
    flops = num_images * tower.forward()
    return Work(encode, num_images, "images", device, precision, flops, products=lambda: layers(rows, tower))


def caption_encoding(settings: Settings, plainly: bool = False) -> Work:
    """The features of test captions, from their text, by the evaluator of a run, or as `misc.benchmark.plain`
    has them; needed are a caption's own tokens, no padding.
    """
    options = options_of(settings)
    device, precision = device_of(options)
    model, loaders, tokenizer = build(options)
    gallery = captions_alone(loaders.test, 64 if settings.quick else 512 if device.type == "cpu" else 16384)
    captions = [caption for queries in gallery.queries.values() for caption in queries.captions]
    clip, lengths = model.clip.to(device), [tokenizer([c])["input_ids"].shape[1] for c in captions]
    flops = sum(towers(clip, options.data.image_size, length)[1].forward() for length in lengths)
    _, tower = towers(clip, options.data.image_size, max(lengths))
    setting = (loaders.images, options, device, precision)
    encode = build_evaluators(model, tokenizer, {"test": gallery}, *setting)["test"].encode
    if plainly:
        clip.eval()
        encode = partial(
            plain.encode_captions, clip, tokenizer, captions, options.data.test_batch_size, device
        )
        precision = torch.float32
    widths = layers(options.data.test_batch_size * tower.tokens, tower)
    note = f"{sum(lengths) / len(lengths):.1f} tokens a caption"
    return Work(
        encode, len(captions), "captions", device, precision, flops, products=lambda: widths, note=note
    )


def images_alone(gallery: EvaluationSet, count: int) -> EvaluationSet:
    """The first images, without a query."""
    images = gallery.images[:count]
    return replace(gallery, images=images, person_ids=gallery.person_ids[: len(images)], queries={})


def captions_alone(gallery: EvaluationSet, count: int) -> EvaluationSet:
    """The first queries of each language, without an image."""
    queries = {
        language: Queries(q.captions[:count], q.person_ids[:count], q.image_indices[:count])
        for language, q in gallery.queries.items()
    }
    return replace(gallery, images=[], person_ids=gallery.person_ids[:0], queries=queries)


def scoring(
    settings: Settings,
    num_queries: int,
    num_images: int,
    num_people: int = 1000,
    metrics: Callable[..., dict[str, float]] = retrieval_metrics,
) -> Work:
    """The metrics of random features in 512 dimensions."""
    device, _ = device_of(options_of(settings))
    shrink = 10 if settings.quick else 1
    num_queries, num_images, num_people = (n // shrink for n in (num_queries, num_images, num_people))
    seed_process(0)
    queries, gallery = torch.randn(num_queries, 512).to(device), torch.randn(num_images, 512).to(device)
    query_ids, gallery_ids = (torch.arange(n).to(device) % num_people for n in (num_queries, num_images))
    note = f"{num_queries:,} x {num_images:,}"
    run = partial(metrics, queries, gallery, query_ids, gallery_ids)
    return Work(run, num_queries, "queries", device, note=note)


def program(settings: Settings, arguments: Sequence[str], says_peak: bool = False) -> Work:
    """A program of its own, from the root of the repository; one that fails is a failure of the benchmark."""
    said = []

    def run() -> None:
        command = [sys.executable, *arguments]
        said.append(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)

    memory = (lambda: max(int(out.split()[-1]) for out in said)) if says_peak else (lambda: None)
    return Work(run, 1, "starts", memory=memory)


def model_building(settings: Settings) -> Work:
    """A model of the full recipe, at random."""
    return Work(partial(build_model, options_of(settings), 1000), 1, "models")


WORKS: dict[str, Callable[[Settings], Work]] = {
    "step.full": training_step,
    "step.simplified": partial(training_step, recipe=SIMPLIFIED),
    "step.altclip": altclip_step,
    "step.checkpointed": partial(training_step, overrides=["model.grad_checkpointing=true"]),
    "step.fp32": partial(training_step, overrides=["misc.precision=fp32"]),
    "step.bf16": partial(training_step, overrides=["misc.precision=bf16"]),
    "step.fp16": partial(training_step, overrides=["misc.precision=fp16"]),
    "step.compiled": partial(training_step, overrides=["model.compile=true"]),
    "accumulate.whole": partial(larger_step, parts=1),
    "accumulate.parts": partial(larger_step, parts=4),
    "data.full": partial(training_batches, recipe=FULL),
    "data.simplified": partial(training_batches, recipe=SIMPLIFIED),
    "data.workers": partial(training_batches, recipe=FULL, workers=num_cores()),
    "tokens.clip": clip_tokenising,
    "tokens.altclip": altclip_tokenising,
    "evaluate.images": image_encoding,
    "evaluate.captions": caption_encoding,
    "metrics.cuhk": partial(scoring, num_queries=6_156, num_images=3_074),
    "metrics.icfg": partial(scoring, num_queries=19_848, num_images=19_848),
    "start.help": partial(program, arguments=["main.py", "--help"]),
    "start.imports": partial(program, arguments=["-c", IMPORTS + SAY_PEAK], says_peak=True),
    "start.model": model_building,
    "plain.full": plain_step,
    "plain.simplified": partial(plain_step, recipe=SIMPLIFIED),
    "plain.data": plain_samples,
    "plain.captions": partial(caption_encoding, plainly=True),
    "plain.metrics": partial(scoring, num_queries=6_156, num_images=3_074, metrics=plain.retrieval_metrics),
}
