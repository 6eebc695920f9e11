"""CLIP's byte-pair encoding, done by the Rust `tokenizers` library with OpenAI's merges."""

import functools
import gzip
import html
from array import array
from collections.abc import Sequence
from pathlib import Path

import ftfy
import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as Chain
from torch import Tensor

VOCABULARY = Path(__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
# 512 byte symbols, one id for each merge, then mask, start and end. OpenAI's vocabulary has no mask: the last
# merge gives up its place to it, so that OpenAI's weights still fit.
NUM_MERGES = 49_408 - 512 - 3
WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


class CLIPTokenizer:
    """Captions -> `{"input_ids", "attention_mask"}`, (B, L) int64 each, padded with 0 to the batch's longest.

    Args:
        text_length: the most tokens of a caption, start and end included. A longer one is cut and
            keeps its end token.

    The ids equal `open_clip`'s, but for two choices. The rare word of the last merge ("jekyll") is spelt in
    two tokens, since its id is the mask's. And captions are text alone: whatever a caption spells,
    `<|endoftext|>`, `<|mask|>` or `<end_of_text>` (which open_clip takes for the token), it never yields a
    special id, so that no caption can move the position that its feature is read from.

    Raises:
        ValueError: `text_length` has no room for the start and end tokens and one more.
    """

    vocab_size = 49_408
    pad_token_id = 0
    mask_token_id = 49_405
    sot_token_id = 49_406
    eot_token_id = 49_407

    def __init__(self, text_length: int = 77) -> None:
        if text_length < 3:
            raise ValueError(
                f"text_length must be 3 or more to hold start, end and one token, not {text_length}."
            )
        self.text_length = text_length
        byte_pairs()  # made before the loader's workers fork, it is theirs too

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        assert not isinstance(texts, str), "a list of captions is expected, not one string"
        rows = [self.encode(text) for text in texts]
        input_ids = torch.full((len(rows), max(map(len, rows), default=0)), self.pad_token_id)
        attention_mask = torch.zeros_like(input_ids)
        for index, row in enumerate(rows):
            input_ids[index, : len(row)] = torch.tensor(row)
            attention_mask[index, : len(row)] = 1
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def encode(self, text: str) -> list[int]:
        """The ids of one caption, start and end included, cut at the text length."""
        ids = word_ids(text)
        return [self.sot_token_id, *ids[: self.text_length - 2], self.eot_token_id]


class AltCLIPTokenizer:
    """Captions -> `{"input_ids", "attention_mask"}`, (B, L) int64 each, padded to the batch's longest.

    XLM-RoBERTa's SentencePiece as `transformers` has it. It has no byte pairs and no mask token of CLIP's.

    Args:
        pretrained: a folder with tokenizer files, or a hub id.
        text_length: the most tokens of a caption, start and end included; a longer one is cut and keeps them.
        cache_dir: the hub's cache, for an id.

    Raises:
        ValueError: no tokenizer there, one that `transformers` cannot read, or one with next to no words.
    """

    def __init__(self, pretrained: str, text_length: int = 77, cache_dir: str | Path | None = None) -> None:
        from transformers import AutoTokenizer  # seconds to import: CLIP's tokenizer must not wait for it

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(pretrained, cache_dir=cache_dir)
        except (
            Exception
        ) as error:  # a missing file or package fails in many ways, with whatever is raised there
            reason = " ".join(str(error).split())[:160]
            raise ValueError(f"has no tokenizer that transformers can read ({reason})") from error
        if len(self._tokenizer) < 100:  # what transformers makes of files that it does not understand
            raise ValueError(
                f"has a tokenizer of {len(self._tokenizer)} tokens alone: its files are not complete"
            )
        self.text_length, self.mask_token_id = text_length, None

    @property
    def vocab_size(self) -> int:
        """The number of tokens, special ones included."""
        return len(self._tokenizer)

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        assert not isinstance(texts, str), "a list of captions is expected, not one string"
        tokens = self._tokenizer(
            [text.strip() for text in texts],  # what a trailing space becomes differs between versions
            padding=True,
            truncation=True,
            max_length=self.text_length,
            return_tensors="pt",
        )
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}


def clean(text: str) -> str:
    """CLIP's own cleaning: mended Unicode, HTML entities resolved twice, single spaces, lower case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


@functools.lru_cache(maxsize=1 << 16)  # 30 MB of captions that come again: no augmentation touched them
def word_ids(text: str) -> "array[int]":
    """The ids of a caption of any length, without start and end."""
    return array("H", byte_pairs().encode(clean(text), add_special_tokens=False).ids)


@functools.cache
def byte_pairs() -> Tokenizer:
    """The encoder without special tokens, one for the process: tokenizers stay small to pickle."""
    lines = gzip.decompress(VOCABULARY.read_bytes()).decode("utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 1 + NUM_MERGES]]
    symbols = _byte_symbols()
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *("".join(merge) for merge in merges)]
    ids = {token: index for index, token in enumerate(tokens)}
    encoder = Tokenizer(BPE(vocab=ids, merges=merges, end_of_word_suffix="</w>"))
    words = Split(Regex(WORD), behavior="removed", invert=True)
    encoder.pre_tokenizer = Chain([words, ByteLevel(add_prefix_space=False, use_regex=False)])
    return encoder


def _byte_symbols() -> list[str]:
    """The characters that stand for the 256 bytes, in the order of ids: printable ones come first."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    return [chr(byte) for byte in printable] + [chr(0x100 + index) for index in range(256 - len(printable))]
