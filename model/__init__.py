"""The models. `build_model` is where options become a model; everything below takes plain arguments."""

import logging
from typing import Any

from torch import nn

from options import LOSSES, Options

LOGGER = logging.getLogger(__name__)


def build_model(options: Options, num_identities: int) -> tuple[nn.Module, Any, Any]:
    """The model that the options describe, with the tokenizer and the image processor that go with it.

    Args:
        options: `model`, `experiment` and the image size are read.
        num_identities: persons in the training split; 0 where nothing is trained, then ID has no classifier.

    Returns:
        (model, tokenizer, processor), the model with its frozen parts frozen.
    """
    from model.clip import build_clip
    from model.tbps import TBPS

    experiment, settings = options.experiment, options.model
    sizes = (
        "patch_size",
        "image_width",
        "image_layers",
        "image_heads",
        "text_width",
        "text_layers",
        "text_heads",
    )
    clip, tokenizer, processor = build_clip(
        settings.clip_pretrained,
        image_size=options.data.image_size,
        text_length=experiment.text_length,
        dropout=experiment.dropout,
        normalization=options.data.normalization,
        embed_dim=settings.embed_dim,
        vocab_size=settings.vocab_size,
        **{name: getattr(settings, name) for name in sizes},
        logit_bias=experiment.sigmoid,
    )
    weights = {name: getattr(experiment, f"{name}_ratio") for name in LOSSES if getattr(experiment, name)}
    if "mlm" in weights and not hasattr(tokenizer, "mask_token_id"):
        LOGGER.warning("experiment.mlm is switched off: this tokenizer has no byte pairs, and no mask token")
        del weights["mlm"]
    if not num_identities:
        weights.pop("id", None)
    model = TBPS(
        clip,
        weights,
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
    return model, tokenizer, processor
