"""The training step: the engine's own, on one batch of the real loader."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from misc.benchmark import plain
from misc.benchmark.flops import step_flops
from misc.benchmark.measure import Work, layers
from misc.benchmark.parts import Settings
from misc.benchmark.setting import FULL, batch_size, build, device_of, options_of, small_altclip
from misc.benchmark.towers import towers
from misc.process.signals import StopSignals
from misc.training.build import build_trainer
from misc.training.engine import Trainer
from model.altclip_adapter import AltCLIP
from model.tbps import CPU_IMAGES
from model.weights.altclip_files import load_config
from options import Options

XLM_R_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
XLM_R_LARGE |= {"intermediate_size": 4096, "vocab_size": 250_002, "max_position_embeddings": 514}
VIT_L = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}


def training_step(settings: Settings, recipe: str = FULL, overrides: Sequence[str] = ()) -> Work:
    """A step of a recipe."""
    options = options_of(settings, recipe, overrides)
    model, loaders, _ = build(options)
    return step_of(options, model, loaders)


def altclip_step(settings: Settings) -> Work:
    """A full step with random towers of AltCLIP's sizes (864 M parameters), on a quarter of the batch."""
    overrides = [
        "model.backbone=altclip",
        f"model.altclip_pretrained={small_altclip(settings)}",
        f"data.batch_size={max(2, batch_size(settings) // 4)}",
        "data.normalization=clip",
        *(f"model.{name}=null" for name in ("image_width", "image_layers", "text_width", "text_layers")),
        "model.embed_dim=null",
        *(["data.image_size=[56,28]"] if settings.quick else []),
    ]
    options = options_of(settings, FULL, overrides)
    model, loaders, _ = build(options)
    if not settings.quick:
        model.clip = _full_size(options)
    return step_of(options, model, loaders)


def _full_size(options: Options) -> AltCLIP:
    from transformers import AltCLIPModel  # seconds to import: no other part must wait for it

    config = load_config(options.model.altclip_pretrained, None)
    config.text_config.update(XLM_R_LARGE)
    config.text_config.attention_probs_dropout_prob = options.experiment.dropout
    config.text_config.hidden_dropout_prob = 0.0
    config.vision_config.update(VIT_L)
    clip = AltCLIP(AltCLIPModel(config), options.data.image_size).train()
    clip.lock(patch_embedding=options.model.lock_patch_embedding)
    return clip


def step_of(options: Options, model: nn.Module, loaders: Any) -> Work:
    """Steps of the engine on the first batch of the training loader."""
    device, precision = device_of(options)
    model.to(device).train()
    trainer = build_trainer(options, model, loaders, {}, device, precision, StopSignals())
    loaders.train_sampler.set_epoch(0)
    batch = next(iter(loaders.train)).to(device)
    length = batch.tokens["input_ids"].shape[1]
    image, text = towers(model.clip, options.data.image_size, length)
    simclr = (
        sum(p.numel() for p in model.simclr_mlp.parameters() if p.ndim > 1) if options.experiment.ss else 0
    )
    samples, views = len(batch.indices), len(batch.images)
    parts = options.schedule.accumulate
    at_once = samples * views if parts == 1 else -(-samples // parts)
    at_once = min(at_once, CPU_IMAGES) if device.type == "cpu" else at_once
    return Work(
        run=lambda: train_step(trainer, batch),
        items=samples,
        unit="samples",
        device=device,
        precision=precision,
        flops=step_flops(image, text, samples, views, simclr),
        whole_flops=step_flops(replace(image, whole=True), replace(text, whole=True), samples, views, simclr),
        products=lambda: layers(at_once * image.tokens, image),
        held=lambda: held_bytes(trainer.model, trainer.optimizer),
        note=f"{samples} samples a step, captions of {length} tokens",
    )


def train_step(trainer: Trainer, batch: Any) -> None:
    """One step of a run."""
    trainer.train_step(trainer.model, batch)


def held_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """What model and optimiser take once a step was made: parameters, buffers, moments. No gradients."""
    moments = [value for state in optimizer.state.values() for value in state.values()]
    kept = [*model.parameters(), *model.buffers(), *moments]
    return sum(tensor.nbytes for tensor in kept if isinstance(tensor, Tensor))


def plain_step(settings: Settings, recipe: str = FULL) -> Work:
    """The step of a recipe, on the same batch, as `misc.benchmark.plain` has it."""
    options = options_of(settings, recipe)
    model, loaders, _ = build(options)
    work = step_of(options, model, loaders)
    loaders.train_sampler.set_epoch(0)
    batch = next(iter(loaders.train)).to(work.device)
    images, words = dict(batch.images), plain.words_of(batch.tokens)
    optimizer = plain.build_optimizer(model, options.schedule.weight_decay)

    def run() -> None:
        optimizer.zero_grad()
        plain.total_loss(model, images, words, batch.person_ids, soft_label=0.5).backward()
        optimizer.step()

    image, _ = towers(model.clip, options.data.image_size, max(map(len, words)))
    return replace(
        work,
        run=run,
        precision=torch.float32,
        products=lambda: layers(len(words) * image.tokens, image),
        held=lambda: held_bytes(model, optimizer),
    )
