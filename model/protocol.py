"""What a backbone, a tokenizer, an image processor and a model must offer: the types of every signature."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from PIL import Image
from torch import Tensor, nn

from data.types import Tokens
from options import Options, UserError

JsonObject = dict[str, Any]


class Tokenizer(Protocol):
    """Captions -> `Tokens`, (B, L) int64 each, padded on the right to the longest of the batch.

    It cleans what it is given, by the cleaning that its weights were trained with.

    Attributes:
        text_length: the most tokens of a caption, start and end included; a longer one is cut and keeps its
            end token.
        vocab_size: number of ids.
        cleaning: a name of `text_utils.captions.CLEANINGS`.
        pad_token_id: the id of the padding.
        mask_token_id: the id that stands for a masked token; None where there is none (then neither MLM nor
            `experiment.text_aug=tokens`).
        special_ids: start, end and mask: never masked, and never put in a token's place.
    """

    text_length: int
    vocab_size: int
    cleaning: str
    pad_token_id: int
    mask_token_id: int | None
    special_ids: tuple[int, ...]

    def __call__(self, texts: Sequence[str]) -> Tokens: ...

    def clean(self, text: str) -> str:
        """The caption as it is tokenised; "" where it has no words."""
        ...

    def save(self, folder: Path) -> None:
        """Write the files that `AutoTokenizer` of transformers loads."""
        ...


class Processor(Protocol):
    """PIL images -> `{"pixel_values": (B, 3, H, W)}`, called as the processors of `transformers` are.

    Attributes:
        image_size: (height, width) of what it makes.
        view_size: (height, width) that training views are made at, for `finish`; None: as large as the image.
    """

    image_size: tuple[int, int]
    view_size: tuple[int, int] | None

    def __call__(self, images: Sequence[Image.Image], return_tensors: str = "pt") -> dict[str, Tensor]: ...

    def finish(self, views: Sequence[Tensor]) -> Tensor:
        """Augmented images, (3, h, w) uint8 each -> (B, 3, H, W), for `normalise`; done by a worker."""
        ...

    def normalise(self, pixels: Tensor) -> Tensor:
        """What `finish` made, on any device -> (B, 3, H, W) fp32, as `__call__` makes it."""
        ...

    def seen_box(self, image: Image.Image) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) in pixels of the part of the image that the tower is shown."""
        ...

    def settings(self) -> JsonObject:
        """The content of a `preprocessor_config.json` that `AutoImageProcessor` of transformers loads."""
        ...


class Selection(NamedTuple):
    """Which tokens the towers select: those that the pooled one attends to the most, averaged over heads.

    Attributes:
        share: of the patches, and of the places for words.
        blocks: two blocks, the earlier one first, from 0 or, below 0, from the end: the attention is the
            rollout of these (ITSELF). None: that of the last block (RDE, arXiv 2308.09911).
    """

    share: float
    blocks: tuple[int, int] | None = None


class Selected(NamedTuple):
    """The tokens of each input that a `Selection` asks for.

    Attributes:
        tokens: (B, K, D), projected as the pooled one; of images K patches, of captions K words.
        mask: (B, K) bool, false where a caption has fewer words; None: all are there.
    """

    tokens: Tensor
    mask: Tensor | None


class Lockable(NamedTuple):
    """The parts of two towers that `DualEncoder.lock` freezes."""

    patch_embedding: nn.Module
    image_embeddings: Sequence[nn.Module | nn.Parameter]
    image_blocks: nn.ModuleList
    text_embeddings: Sequence[nn.Module | nn.Parameter]
    text_blocks: nn.ModuleList


class DualEncoder(nn.Module):
    """Two towers and the scale of their cosine similarities: what a backbone builds.

    Attributes:
        visual: called as (pixels (B, 3, H, W), return_dense), and with `select` where `selects_tokens`.
        text: called as (input_ids (B, L), attention_mask (B, L), return_dense), and with `select` likewise.
        selects_tokens: whether the towers tell which tokens the pooled one attends to.
        rolls_out: whether they do so by the attention of two blocks too, `Selection.blocks`.
        shows_blocks: whether both towers have `finish`: what a block of `lockable` returns, (B, L, width) ->
            (B, L', D), the patches, or all tokens of captions, after the last norm, projected.
        pooling: what the image tower's feature is read from: "class", a token before the patches;
            "attention", an attention pooling over them; or "mean".
        logit_scale: learned logarithm of the scale.
        max_logit_scale: the most that training lets it grow to: ln 100, or what the weights began with.
        logit_bias: a parameter where the sigmoid loss is on, else the number 0.0.
        embed_dim: D, the width of the shared space.
        patch_grid: (rows, columns) of the image tower's patches, P = rows * columns.
        vocab_size: number of token embeddings.
        is_multilingual: whether its weights know the languages that search offers examples in.
        transformers_class: the class of transformers that loads its Hugging Face export; None: there is none.
        pads_captions: whether that class reads captions padded to the text length, without a mask.
        takes_patches: whether that class takes the patches of images, which may have any size.
    """

    visual: nn.Module
    text: nn.Module
    selects_tokens: bool = False
    rolls_out: bool = False
    shows_blocks: bool = False
    pooling: str = "class"
    logit_scale: nn.Parameter
    max_logit_scale: float = math.log(100)
    logit_bias: nn.Parameter | float
    embed_dim: int
    patch_grid: tuple[int, int]
    vocab_size: int
    is_multilingual: bool = False
    transformers_class: str | None = None
    pads_captions: bool = False
    takes_patches: bool = False

    def encode_image(
        self, pixel_values: Tensor, return_dense: bool = False, select: Selection | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """(B, 3, H, W) -> features (B, D), not normalised.

        Args:
            return_dense: returns (features, those of the class token and the P patches (B, 1 + P, D)).
            select: returns (features, the dense ones or None, `Selected`): K = max(1, int(share * P)).
        """
        chosen = () if select is None else (select,)  # not every tower can
        return self.visual(pixel_values, return_dense, *chosen)

    def encode_text(
        self, tokens: Tokens, return_dense: bool = False, select: Selection | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """What the tokenizer returned -> features (B, D), not normalised.

        Args:
            return_dense: returns (features, those of all tokens (B, L, D), padding included).
            select: returns (features, the dense ones or None, `Selected`): K = max(1, int(share * (N - 2))),
                N the text length, of the words: no start, end, padding.
        """
        chosen = () if select is None else (select,)
        return self.text(tokens["input_ids"], tokens["attention_mask"], return_dense, *chosen)

    def transformers_images(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """What `transformers_class` takes for pixels (B, 3, H, W)."""
        return {"pixel_values": pixel_values}

    def hidden_settings(self) -> dict[str, tuple[object, object]]:
        """What features depend on and no tensor shows: {option of section `model`: (its value, what null
        means to those who read a checkpoint)}.
        """
        return {}

    def lockable(self) -> Lockable:
        """The parts that may be frozen."""
        raise NotImplementedError

    def lock(
        self,
        patch_embedding: bool = False,
        text_embeddings: bool = False,
        image_blocks: int = 0,
        text_blocks: int = 0,
        text_layers: Sequence[int] = (),
    ) -> None:
        """Freeze parts of the towers.

        Args:
            patch_embedding: the convolution.
            text_embeddings: of tokens and positions.
            image_blocks, text_blocks: the first blocks of a tower, this many, with the embeddings below.
            text_layers: single blocks of the text tower, counted from 0.

        Raises:
            UserError: a block that the tower does not have.
        """
        parts = self.lockable()
        frozen = [parts.patch_embedding] if patch_embedding else []
        frozen += parts.image_embeddings if image_blocks else ()
        frozen += parts.text_embeddings if text_embeddings or text_blocks else ()
        for option, blocks, numbers in (
            ("lock_image_blocks", parts.image_blocks, range(image_blocks)),
            ("lock_text_blocks", parts.text_blocks, range(text_blocks)),
            ("lock_text_layers", parts.text_blocks, text_layers),
        ):
            for number in numbers:
                if number >= len(blocks):
                    last = len(blocks) - 1
                    raise UserError(f"model.{option}: expected blocks from 0 to {last}, found {number}.")
                frozen.append(blocks[number])
        for part in frozen:
            part.requires_grad_(False)


Built = tuple[DualEncoder, Tokenizer, Processor]


@dataclass(frozen=True)
class Backbone:
    """One entry of `model.BACKBONES`; nothing outside the registry asks which backbone it is.

    Attributes:
        title: its name in documents, such as "AltCLIP".
        build: (options, weights or None) -> towers, tokenizer and processor. `weights` is a file that takes
            the place of the one that the options name.
        weights_option: the option of section `model` that names its weights.
        to_transformers: (towers, options) -> the content of config.json and the tensors under the names of
            their `transformers_class`; None where there is no class.
        to_openai: towers -> a state dict that open_clip loads, under OpenAI's names where it has some, and
            open_clip's configuration of the model; None where it cannot build them.
    """

    title: str
    build: Callable[[Options, str | None], Built]
    weights_option: str
    to_transformers: Callable[[DualEncoder, Options], tuple[JsonObject, dict[str, Tensor]]] | None = None
    to_openai: Callable[[DualEncoder], tuple[dict[str, Tensor], JsonObject]] | None = None


class Embedder(Protocol):
    """What evaluation, saved features, search, explain and export call of a trained model: an `nn.Module`.

    Attributes:
        clip: the towers.
        embed_dim: width of what `embed` returns.
    """

    clip: DualEncoder
    embed_dim: int
    training: bool

    def train(self, mode: bool = True) -> nn.Module: ...

    def eval(self) -> nn.Module: ...

    def embed(self, inputs: Tensor | Mapping[str, Tensor]) -> Tensor:
        """Pixels (B, 3, H, W), or the tokens of B captions -> features (B, E), not normalised.

        The cosine of an image's and a caption's features is their score.
        """
        ...
