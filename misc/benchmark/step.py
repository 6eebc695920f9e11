"""Training steps: the engine's own, and the baseline's, on one batch of the real loader."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from data.loaders import Loaders
from data.types import Batch
from misc.benchmark import baseline
from misc.benchmark.flops import computed_flops, step_flops
from misc.benchmark.measure import Workload, layers
from misc.benchmark.parts import Settings
from misc.benchmark.setting import FULL, batch_size, build, device_of, small_altclip
from misc.benchmark.towers import are_known, head_flops, step_towers, towers
from misc.process.signals import StopSignals
from misc.training.build import build_trainer
from model.altclip_adapter import AltCLIP
from model.tbps import CPU_IMAGES, TBPS
from model.weights.altclip_files import altclip_model
from options import Options

VIT_L = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
XLM_R_LARGE = VIT_L | {"vocab_size": 250_002, "max_position_embeddings": 514}


def training_step(settings: Settings, recipe: str = FULL, overrides: Sequence[str] = ()) -> Workload:
    """A step of a recipe."""
    return step_of(*build(settings, recipe, overrides)[:3])


def larger_step(settings: Settings, parts: int) -> Workload:
    """A full step of four times the batch, with gradient accumulation over `parts` parts."""
    overrides = [f"data.batch_size={4 * batch_size(settings)}", f"schedule.accumulate={parts}"]
    return training_step(settings, FULL, overrides)


def altclip_step(settings: Settings) -> Workload:
    """A full step with random towers of AltCLIP's size (864 M parameters), on a quarter of the batch."""
    overrides = [
        *("model.backbone=altclip", f"model.altclip_pretrained={small_altclip(settings)}"),
        *(f"data.batch_size={max(2, batch_size(settings) // 4)}", "data.normalization=clip"),
        *(f"model.{tower}_{size}=null" for tower in ("image", "text") for size in ("width", "layers")),
        "model.embed_dim=null",
        *(["data.image_size=[56,28]"] if settings.quick else []),
    ]
    options, model, loaders, _ = build(settings, FULL, overrides)
    if not settings.quick:
        from transformers import AltCLIPModel  # takes seconds to import; the other parts do not need it

        config = altclip_model(options.model.altclip_pretrained).config()
        config.text_config.update(XLM_R_LARGE)
        config.text_config.attention_probs_dropout_prob = options.experiment.dropout
        config.text_config.hidden_dropout_prob = 0.0
        config.vision_config.update(VIT_L)
        model.clip = AltCLIP(
            AltCLIPModel(config), options.data.image_size, options.experiment.text_length
        ).train()
        model.clip.lock(patch_embedding=options.model.lock_patch_embedding)
    return step_of(options, model, loaders)


def first_batch(loaders: Loaders, device: torch.device) -> Batch:
    """The first batch of the first epoch."""
    loaders.train_sampler.set_epoch(0)
    return next(iter(loaders.train)).to(device)


def step_of(options: Options, model: TBPS, loaders: Loaders) -> Workload:
    """Steps of the engine on the first batch of the training loader."""
    device, precision = device_of(options)
    model.to(device).train()
    trainer = build_trainer(options, model, loaders, {}, device, precision, StopSignals())
    batch = first_batch(loaders, device)
    length = batch.tokens["input_ids"].shape[1]
    workload = Workload(
        run=lambda: trainer.train_step(trainer.model, batch),
        items=len(batch.indices),
        unit="samples",
        device=device,
        precision=precision,
        held=lambda: held_bytes(trainer.model, trainer.optimizer),
        note=f"{len(batch.indices)} samples per step, captions of {length} tokens",
    )
    if not are_known(model.clip):
        return replace(workload, flops=computed_flops(workload.run))
    image, text = step_towers(model, length, options.experiment.text_length)
    heads = head_flops(model, image, text, batch)
    samples, views = len(batch.indices), len(batch.images)
    parts = options.schedule.accumulate
    at_once = samples * views if parts == 1 else -(-samples // parts)
    at_once = min(at_once, CPU_IMAGES) if device.type == "cpu" else at_once
    nominal = (replace(image, nominal=True), replace(text, nominal=True))
    return replace(
        workload,
        flops=step_flops(image, text, samples, views, heads),
        nominal_flops=step_flops(*nominal, samples, views, heads),
        products=lambda: layers(at_once * image.tokens, image),
        note=f"{samples} samples per step, captions of {text.tokens} tokens",
    )


def held_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of model and optimiser after a step: parameters, buffers, moments; no gradients."""
    moments = [value for state in optimizer.state.values() for value in state.values()]
    kept = [*model.parameters(), *model.buffers(), *moments]
    return sum(tensor.nbytes for tensor in kept if isinstance(tensor, Tensor))


def baseline_step(settings: Settings, recipe: str = FULL) -> Workload:
    """The step of a recipe on the same batch, by `misc.benchmark.baseline`."""
    options, model, loaders, _ = build(settings, recipe)
    workload = step_of(options, model, loaders)
    batch = first_batch(loaders, workload.device)
    images, captions = dict(batch.images), baseline.without_padding(batch.tokens)
    optimizer = baseline.build_optimizer(model, options.schedule.weight_decay)

    def run() -> None:
        optimizer.zero_grad()
        baseline.total_loss(model, images, captions, batch.person_ids, soft_label=0.5).backward()
        optimizer.step()

    image, _ = towers(model.clip, max(map(len, captions)))
    return replace(
        workload,
        run=run,
        precision=torch.float32,
        products=lambda: layers(len(captions) * image.tokens, image),
        held=lambda: held_bytes(model, optimizer),
    )
