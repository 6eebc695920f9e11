"""The workload of each part of `misc.benchmark.parts.PARTS`."""

import itertools
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from data.annotations import load_data
from data.types import Queries
from misc.benchmark import baseline, setting
from misc.benchmark.flops import computed_flops
from misc.benchmark.measure import Workload, layers
from misc.benchmark.parts import Settings
from misc.benchmark.step import altclip_step, baseline_step, larger_step, training_step
from misc.benchmark.towers import are_known, towers
from misc.evaluation.evaluator import build_evaluators
from misc.metrics import retrieval_metrics
from misc.process.seed import seed_process
from misc.process.workers import num_cores
from model import build_model
from model.processor import NORMALIZATIONS
from model.protocol import Tokenizer
from text_utils.tokenizer import AltCLIPTokenizer, CLIPTokenizer

ROOT = Path(__file__).resolve().parents[2]
IMPORTS = "import data.loaders, misc.training.build, misc.report.reporter, model.clip, model.tbps"
PRINT_PEAK = "; from misc.benchmark.machine import peak_memory; print(peak_memory())"


def training_batches(settings: Settings, recipe: str = setting.FULL, workers: int = 0) -> Workload:
    """Batches of the training loader; each run is a new epoch, with new random views."""
    torch.set_num_threads(1)
    overrides = [*setting.SMALL_MODEL, f"data.num_workers={workers}"]  # no data depends on the model
    _, _, loaders, _ = setting.build(settings, recipe, overrides)
    epochs = itertools.count()
    num_batches = min(len(loaders.train), (4 if settings.quick else 32) * max(1, workers))

    def run() -> None:
        loaders.train_sampler.set_epoch(next(epochs))
        for batch in itertools.islice(loaders.train, num_batches):
            for view in batch.images:  # normalised when looked up, as by the model
                batch.images[view]

    samples = num_batches * loaders.train_sampler.batch_size
    note = f"{workers} workers, their memory not counted" if workers else "one core"
    return Workload(run, samples, "samples", note=note)


def baseline_samples(settings: Settings) -> Workload:
    """The samples of `training_batches`, on one core, by `misc.benchmark.baseline`."""
    torch.set_num_threads(1)
    options, _, loaders, tokenizer = setting.build(settings, overrides=setting.SMALL_MODEL)
    training_set, size = loaders.training_set, options.data.batch_size
    count = size * min(4 if settings.quick else 32, len(training_set) // size)
    paths = [training_set.image_root / name for name in training_set.image_names(range(count))]
    captions = [
        record.captions[number] for ((record, number),) in map(training_set.choices.__getitem__, range(count))
    ]
    normalization = NORMALIZATIONS[options.data.normalization]

    def run() -> None:
        samples = baseline.training_samples(paths, options.data.image_size, *normalization)
        for _, caption in zip(samples, captions, strict=True):
            tokenizer([caption])

    return Workload(run, count, "samples", note="one core, all four views")


def tokenising(settings: Settings, tokenizer: Tokenizer) -> Workload:
    """Captions in batches, no caption twice, so that no cache applies."""
    torch.set_num_threads(1)
    records = load_data(setting.make_options(settings), ["train"]).train.values()
    found = [text for part in records for record in part for text in record.captions]
    captions = list(itertools.islice(itertools.cycle(found), 512 if settings.quick else 4096))
    runs, size = itertools.count(), setting.batch_size(settings)

    def run() -> None:
        number = next(runs)
        for start in range(0, len(captions), size):
            tokenizer([f"{caption} {number}" for caption in captions[start : start + size]])

    return Workload(run, len(captions), "captions", note="one core")


def encoding(settings: Settings, unit: str, is_baseline: bool = False) -> Workload:
    """Features of test images, from their files, or of test captions, from their text, by the evaluator or by
    `misc.benchmark.baseline`; the required arithmetic excludes padding.
    """
    options, model, loaders, tokenizer = setting.build(settings)
    device, precision = setting.device_of(options)
    clip, part, size = model.to(device).clip, loaders.test, options.data.test_batch_size
    if unit == "images":
        count = 16 if settings.quick else 64 if device.type == "cpu" else 4096
        part = replace(part, images=part.images[:count], person_ids=part.person_ids[:count], queries={})
        num_items, note, lengths = len(part.images), "", []
        size = min(size, num_items)
    else:
        count = 64 if settings.quick else 512 if device.type == "cpu" else 16384
        queries = {
            language: Queries(q.captions[:count], q.person_ids[:count], q.image_indices[:count])
            for language, q in part.queries.items()
        }
        part = replace(part, images=[], person_ids=part.person_ids[:0], queries=queries)
        captions = [caption for own in queries.values() for caption in own.captions]
        lengths = [tokenizer([caption])["input_ids"].shape[1] for caption in captions]
        num_items, note = len(captions), f"{sum(lengths) / len(lengths):.1f} tokens per caption"
    sets = {"test": part}
    evaluators = build_evaluators(model, tokenizer, sets, loaders.images, options, device, precision)
    encode = evaluators["test"].encode
    if is_baseline:
        clip.eval()
        encode = partial(baseline.encode_captions, clip, tokenizer, captions, size, device)
        precision = torch.float32
    workload = Workload(encode, num_items, unit, device, precision, note=note)
    if not are_known(clip):
        return replace(workload, flops=computed_flops(encode))
    image, text = towers(clip, max(lengths, default=0))
    tower = image if unit == "images" else text
    flops = sum(towers(clip, length)[1].forward() for length in lengths) or num_items * image.forward()
    return replace(workload, flops=flops, products=partial(layers, size * tower.tokens, tower))


def scoring(
    settings: Settings, num_queries: int, num_images: int, metrics: Callable[..., object] = retrieval_metrics
) -> Workload:
    """The metrics of random features of 512 dimensions."""
    device, _ = setting.device_of(setting.make_options(settings))
    shrink = 10 if settings.quick else 1
    num_queries, num_images, num_people = (n // shrink for n in (num_queries, num_images, 1000))
    seed_process(0)
    queries, gallery = torch.randn(num_queries, 512).to(device), torch.randn(num_images, 512).to(device)
    query_ids, gallery_ids = (torch.arange(n).to(device) % num_people for n in (num_queries, num_images))
    note = f"{num_queries:,} x {num_images:,}"
    run = partial(metrics, queries, gallery, query_ids, gallery_ids)
    return Workload(run, num_queries, "queries", device, note=note)


def program(settings: Settings, arguments: Sequence[str], prints_peak: bool = False) -> Workload:
    """A new interpreter in the root of the repository; one that fails is a failure of the benchmark."""
    outputs = []

    def run() -> None:
        command = [sys.executable, *arguments]
        outputs.append(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)

    def peak() -> int | None:
        return max(int(output.split()[-1]) for output in outputs) if prints_peak else None

    return Workload(run, 1, "starts", memory=peak)


CUHK = {"num_queries": 6_156, "num_images": 3_074}
WORKLOADS: dict[str, Callable[[Settings], Workload]] = {
    "step.full": training_step,
    "step.simplified": partial(training_step, recipe=setting.SIMPLIFIED),
    "step.irra": partial(training_step, recipe=setting.IRRA),
    "step.rde": partial(training_step, recipe=setting.RDE),
    "step.tal": partial(training_step, recipe=setting.RDE, overrides=setting.POOLED),
    "step.altclip": altclip_step,
    "step.checkpointed": partial(training_step, overrides=["model.grad_checkpointing=true"]),
    "step.fp32": partial(training_step, overrides=["misc.precision=fp32"]),
    "step.bf16": partial(training_step, overrides=["misc.precision=bf16"]),
    "step.fp16": partial(training_step, overrides=["misc.precision=fp16"]),
    "step.compiled": partial(training_step, overrides=["model.compile=true"]),
    "accumulate.whole": partial(larger_step, parts=1),
    "accumulate.parts": partial(larger_step, parts=4),
    "data.full": training_batches,
    "data.simplified": partial(training_batches, recipe=setting.SIMPLIFIED),
    "data.workers": partial(training_batches, workers=num_cores()),
    "tokens.clip": lambda own: tokenising(own, CLIPTokenizer()),
    "tokens.altclip": lambda own: tokenising(own, AltCLIPTokenizer(str(setting.small_altclip(own)))),
    "evaluate.images": partial(encoding, unit="images"),
    "evaluate.captions": partial(encoding, unit="captions"),
    "metrics.cuhk": partial(scoring, **CUHK),
    "metrics.icfg": partial(scoring, num_queries=19_848, num_images=19_848),
    "start.help": partial(program, arguments=["main.py", "--help"]),
    "start.imports": partial(program, arguments=["-c", IMPORTS + PRINT_PEAK], prints_peak=True),
    "start.model": lambda own: Workload(partial(build_model, setting.make_options(own), 1000), 1, "models"),
    "baseline.full": baseline_step,
    "baseline.simplified": partial(baseline_step, recipe=setting.SIMPLIFIED),
    "baseline.data": baseline_samples,
    "baseline.captions": partial(encoding, unit="captions", is_baseline=True),
    "baseline.metrics": partial(scoring, **CUHK, metrics=baseline.retrieval_metrics),
}
