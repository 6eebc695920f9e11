"""The models. `build_model` is where options become a model; everything below takes plain arguments."""

from typing import Any

from torch import nn

from options import Options


def build_model(options: Options, num_identities: int) -> tuple[nn.Module, Any, Any]:
    """The model that the options describe, with the tokenizer and the image processor that go with it.

    Args:
        options: `model`, `experiment` and the image size are read.
        num_identities: persons in the training split (read by heads that classify them).

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
    )
    model = TBPS(
        clip,
        weights={
            n: getattr(experiment, f"{n}_ratio")
            for n in ("nitc", "ritc", "citc", "ss")
            if getattr(experiment, n)
        },
        ritc_eps=experiment.ritc_eps,
        citc_lambdas=(experiment.citc_lambda1, experiment.citc_lambda2),
        simclr_mlp=experiment.simclr_mlp,
        simclr_temperature=experiment.simclr_temperature,
        mvs_image=experiment.mvs_image,
        use_gather=settings.use_gather,
    )
    if settings.lock_patch_embedding:
        clip.visual.conv1.requires_grad_(False)
    return model, tokenizer, processor
