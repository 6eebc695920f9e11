"""The models. `build_model` is where options become a model; everything below takes plain arguments."""

import logging
from typing import Any

from torch import nn

from options import LOSSES, Options, UserError

LOGGER = logging.getLogger(__name__)


def build_model(
    options: Options, num_identities: int, weights: str | None = None
) -> tuple[nn.Module, Any, Any]:
    """The model that the options describe, with the tokenizer and the image processor that go with it.

    Args:
        options: `model`, `experiment` and the image size are read.
        num_identities: persons in the training split; 0 where nothing is trained, then ID has no classifier.
        weights: a file whose towers take the place of those that the options name.

    Returns:
        (model, tokenizer, processor), the model with its frozen parts frozen.
    """
    from model.tbps import TBPS

    experiment, settings = options.experiment, options.model
    if settings.compile and settings.grad_checkpointing:  # torch traces no checkpoint over sizes that vary
        raise UserError("model.compile and model.grad_checkpointing exclude each other: set one to false")
    build = _build_altclip if settings.backbone == "altclip" else _build_clip
    clip, tokenizer, processor = build(options, weights)
    losses = {name: getattr(experiment, f"{name}_ratio") for name in LOSSES if getattr(experiment, name)}
    if "mlm" in losses and num_identities and not hasattr(tokenizer, "mask_token_id"):
        LOGGER.warning("experiment.mlm is switched off: this tokenizer has no byte pairs, and no mask token")
        del losses["mlm"]
        if not losses:
            raise UserError(
                "experiment.mlm is the only loss, and AltCLIP has no mask token; set another to true"
            )
    if not num_identities:
        losses.pop("id", None)
    model = TBPS(
        clip,
        losses,
        ritc_eps=experiment.ritc_eps,
        citc_lambdas=(experiment.citc_lambda1, experiment.citc_lambda2),
        simclr_mlp=experiment.simclr_mlp,
        simclr_temperature=experiment.simclr_temperature,
        mvs_image=experiment.mvs_image,
        mvs_text=experiment.mvs_text,
        use_gather=settings.use_gather,
        cmt_depth=experiment.cmt_depth,
        num_identities=num_identities,
    )
    clip.lock(
        settings.lock_patch_embedding,
        settings.lock_image_blocks,
        settings.lock_text_blocks,
        settings.lock_text_layers,
    )
    if settings.compile:
        compile_towers(clip)
    return model, tokenizer, processor


def compile_towers(clip: nn.Module) -> None:
    """Hand both towers to torch.compile, in place: parameters keep their names.

    Captions are of any length, so the text tower is compiled for all of them at once. Dropout draws from
    torch's own generators, so that an accumulated step can draw the same twice.
    """
    clip.visual.compile(options={"fallback_random": True})
    clip.text.compile(options={"fallback_random": True}, dynamic=True)


def _build_clip(options: Options, weights: str | None) -> tuple[nn.Module, Any, Any]:
    from model.clip import build_clip

    settings = options.model
    sizes = (
        *("patch_size", "image_width", "image_layers", "image_heads"),
        *("text_width", "text_layers", "text_heads", "embed_dim", "vocab_size"),
    )
    return build_clip(
        weights or settings.clip_pretrained,
        image_size=options.data.image_size,
        text_length=options.experiment.text_length,
        dropout=options.experiment.dropout,
        normalization=options.data.normalization,
        **{name: getattr(settings, name) for name in sizes},
        logit_bias=options.experiment.sigmoid,
        grad_checkpointing=settings.grad_checkpointing,
    )


def _build_altclip(options: Options, weights: str | None) -> tuple[nn.Module, Any, Any]:
    from model.altclip_adapter import build_altclip_clip

    settings, own = options.model, options.experiment.use_altclip_processor
    return build_altclip_clip(
        settings.altclip_pretrained,
        settings.tokenizer_cache_dir,
        options.experiment.text_length,
        image_size=None if own else options.data.image_size,
        normalization=options.data.normalization,
        dropout=options.experiment.dropout,
        embed_dim=settings.embed_dim,
        projection_dim=settings.projection_dim,
        logit_bias=options.experiment.sigmoid,
        checkpoint=weights,
        grad_checkpointing=settings.grad_checkpointing,
    )
