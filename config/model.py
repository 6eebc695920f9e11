"""The section `model` of the options: the towers and their weights."""

from dataclasses import dataclass
from functools import partial

from config.checks import BELOW_ONE, BLOCK_NUMBERS, BLOCKS, NOT_NEGATIVE, SIZE, VOCABULARY, one_of, option
from config.paths import FilePath

CLIP, ALTCLIP, OPEN_CLIP, TRANSFORMERS = (
    f"backbone={name}" for name in ("clip", "altclip", "open_clip", "transformers")
)
of_clip, of_altclip = partial(option, needs=CLIP), partial(option, needs=ALTCLIP)


@dataclass(frozen=True)
class ModelOptions:
    """The towers."""

    backbone: str = option(
        "clip",
        "clip: OpenAI's towers; altclip: AltCLIP, for captions in many languages; open_clip: towers that "
        "open_clip builds; transformers: Chinese-CLIP, MetaCLIP 2, SigLIP 2 (docs/backbones.md)",
    )
    altclip_pretrained: FilePath = option(
        "BAAI/AltCLIP",
        "AltCLIP's weights: a model folder, the root of a Hugging Face cache, or a model id",
        needs=ALTCLIP,
    )
    open_clip_name: str | None = option(
        None, "a model of open_clip, as in open_clip.list_models(); null: that of the folder", needs=OPEN_CLIP
    )
    open_clip_pretrained: FilePath | None = option(
        None,
        "its weights: a file, a folder with open_clip_config.json, or a tag of open_clip; null: random",
        needs=OPEN_CLIP,
    )
    transformers_pretrained: FilePath | None = option(
        None,
        "weights of transformers: a model folder, the root of a Hugging Face cache, or a model id",
        needs=TRANSFORMERS,
    )
    tokenizer_cache_dir: FilePath | None = option(
        None,
        "Hugging Face cache for model ids; null: the default",
        needs=f"{ALTCLIP} {OPEN_CLIP} {TRANSFORMERS}",
    )
    clip_pretrained: FilePath | None = option(
        "weights/ViT-B-16.pt",
        "weights: OpenAI's archive, state dict, safetensors or checkpoint; null: random",
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
    lock_text_embeddings: bool = option(False, "freeze the embeddings of tokens and positions of captions")
    lock_image_blocks: int = option(0, "first image blocks to freeze, with embeddings below", NOT_NEGATIVE)
    lock_text_blocks: int = option(0, "first text blocks to freeze, with embeddings below", NOT_NEGATIVE)
    lock_text_layers: tuple[int, ...] = option((), "freeze these text blocks, counted from 0", BLOCK_NUMBERS)
    grad_checkpointing: bool = option(False, "recompute activations in backward: less memory, more time")
    compile: bool = option(False, "torch.compile the towers: a slower start, faster steps on a GPU")
    patch_size: int | None = of_clip(None, "patch side in pixels; null: the weights' (random: 16)", SIZE)
    image_width: int | None = of_clip(None, "width of the image tower; null: the weights' (768)", SIZE)
    image_layers: int | None = of_clip(None, "blocks of the image tower; null: the weights' (12)", BLOCKS)
    image_heads: int | None = of_clip(
        None, "attention heads of the image tower; null: the weights' (width / 64)", SIZE
    )
    text_width: int | None = of_clip(None, "width of the text tower; null: the weights' (512)", SIZE)
    text_layers: int | None = of_clip(None, "blocks of the text tower; null: the weights' (12)", BLOCKS)
    text_heads: int | None = of_clip(
        None, "attention heads of the text tower; null: the weights' (width / 64)", SIZE
    )
    activation: str | None = of_clip(
        None,
        "activation of both towers; null: the weights'",
        one_of("quick_gelu", "gelu"),
    )
    embed_dim: int | None = option(None, "width of the shared embedding; null: the weights' (512)", SIZE)
    projection_dim: int | None = of_altclip(None, "width of the embedding; null: the weights' (768)", SIZE)
    vocab_size: int | None = of_clip(None, "token embeddings; null: the weights' (49408)", VOCABULARY)
