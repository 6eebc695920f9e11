"""The section `model` of the options: the towers and their weights."""

from dataclasses import dataclass

from config.checks import BELOW_ONE, BLOCK_NUMBERS, BLOCKS, NOT_NEGATIVE, SIZE, VOCABULARY, option

CLIP, ALTCLIP = "backbone!=altclip", "backbone=altclip"  # conditions for options to have an effect


@dataclass(frozen=True)
class ModelOptions:
    """The towers."""

    backbone: str = option("clip", "clip: OpenAI's CLIP; altclip: AltCLIP, for captions in many languages")
    altclip_pretrained: str = option(
        "BAAI/AltCLIP",
        "AltCLIP's weights: a model folder, the root of a Hugging Face cache, or a model id",
        needs=ALTCLIP,
    )
    tokenizer_cache_dir: str | None = option(
        None, "Hugging Face cache for AltCLIP by model id; null: the default cache", needs=ALTCLIP
    )
    clip_pretrained: str | None = option(
        "weights/ViT-B-16.pt",
        "initial weights: OpenAI's archive, a state dict, safetensors or a checkpoint; null: random",
        needs=CLIP,
    )
    use_gather: bool = option(
        True, "compute the losses over the features of all processes, with gradients through the gather"
    )
    softlabel_ratio: float = option(
        0.5,
        "share of the model's own prediction in the targets, reached over the first epoch; 0: none",
        BELOW_ONE,
        needs="experiment.nitc",
    )
    lock_patch_embedding: bool = option(True, "freeze the patch embedding (the image tower's convolution)")
    lock_image_blocks: int = option(
        0, "freeze this many first blocks of the image tower, and the embeddings below them", NOT_NEGATIVE
    )
    lock_text_blocks: int = option(
        0, "freeze this many first blocks of the text tower, and the embeddings below them", NOT_NEGATIVE
    )
    lock_text_layers: tuple[int, ...] = option(
        (), "freeze these blocks of the text tower, counted from 0", BLOCK_NUMBERS
    )
    grad_checkpointing: bool = option(
        False, "recompute activations in the backward pass: less memory, more time"
    )
    compile: bool = option(
        False, "compile the towers with torch.compile: a slower start, faster steps on a GPU"
    )
    patch_size: int | None = option(
        None, "side of a patch in pixels; null: as in the weights (random: 16)", SIZE, needs=CLIP
    )
    image_width: int | None = option(
        None, "width of the image tower; null: as in the weights (768)", SIZE, needs=CLIP
    )
    image_layers: int | None = option(
        None, "blocks of the image tower; null: as in the weights (12)", BLOCKS, needs=CLIP
    )
    image_heads: int | None = option(
        None, "attention heads of the image tower; null: width / 64", SIZE, needs=CLIP
    )
    text_width: int | None = option(
        None, "width of the text tower; null: as in the weights (512)", SIZE, needs=CLIP
    )
    text_layers: int | None = option(
        None, "blocks of the text tower; null: as in the weights (12)", BLOCKS, needs=CLIP
    )
    text_heads: int | None = option(
        None, "attention heads of the text tower; null: width / 64", SIZE, needs=CLIP
    )
    embed_dim: int | None = option(None, "width of the shared embedding; null: as in the weights (512)", SIZE)
    projection_dim: int | None = option(
        None, "width of AltCLIP's embedding; null: as in the weights (768)", SIZE, needs=ALTCLIP
    )
    vocab_size: int | None = option(
        None, "number of token embeddings; null: as in the weights (49408)", VOCABULARY, needs=CLIP
    )
