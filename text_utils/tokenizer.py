"""The tokenizers: CLIP's byte-pair encoding with OpenAI's merges, and AltCLIP's SentencePiece."""

import functools
import gzip
import json
from array import array
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Split
from tokenizers.pre_tokenizers import Sequence as Chain

from data.types import Tokens
from text_utils.captions import CLEANINGS, lower_caption
from text_utils.hub_tokenizer import HubTokenizer, write_json

VOCABULARY = Path(__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
# 512 byte symbols, one id for each merge, then mask, start and end. OpenAI's vocabulary has no mask token: it
# takes the id of the last merge, so that OpenAI's weights still fit.
NUM_MERGES = 49_408 - 512 - 3
WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


class CLIPTokenizer:
    """Captions -> `{"input_ids", "attention_mask"}`, (B, L) int64 each, padded with 0 to the batch's longest.

    It implements `model.protocol.Tokenizer` with the Rust library `tokenizers`.

    Args:
        text_length: most tokens of a caption, start and end included; a longer one is cut and keeps its end.
        cleaning: a name of `CLEANINGS`, applied first.

    The ids equal `open_clip`'s, but for two choices. The rare word of the last merge ("jekyll") is spelt in
    two tokens, since its id is the mask's. And captions are only text: whatever a caption spells,
    `<|endoftext|>`, `<|mask|>` or `<end_of_text>` (which open_clip takes for the token), it never yields a
    special id, so that no caption can move the position that its feature is read from.

    Raises:
        ValueError: `text_length` is too small for the start token, the end token and one more.
    """

    vocab_size = 49_408
    pad_token_id = 0
    mask_token_id = 49_405
    sot_token_id = 49_406
    eot_token_id = 49_407
    special_ids = (sot_token_id, eot_token_id, mask_token_id)

    def __init__(self, text_length: int = 77, cleaning: str = "tbps-clip") -> None:
        if text_length < 3:
            needed = "3 or more to hold start, end and one token"
            raise ValueError(f"text_length must be {needed}, not {text_length}.")
        self.text_length, self.cleaning = text_length, cleaning
        byte_pairs()  # built before the loader's workers fork, so that they share it

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """See `model.protocol.Tokenizer`."""
        assert not isinstance(texts, str), "a list of captions is expected, not one string"
        rows = [self.encode(self.clean(text)) for text in texts]
        input_ids = torch.full((len(rows), max(map(len, rows), default=0)), self.pad_token_id)
        attention_mask = torch.zeros_like(input_ids)
        for index, row in enumerate(rows):
            input_ids[index, : len(row)] = torch.tensor(row)
            attention_mask[index, : len(row)] = 1
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def clean(self, text: str) -> str:
        """The caption as it is tokenised; "" where it has no words."""
        return CLEANINGS[self.cleaning](text)

    def encode(self, text: str) -> list[int]:
        """The ids of one cleaned caption, start and end included, cut at the text length."""
        return [self.sot_token_id, *word_ids(text)[: self.text_length - 2], self.eot_token_id]

    def save(self, folder: Path) -> None:
        """Write the byte pairs as vocab.json and merges.txt, which every version of transformers reads."""
        pairs = json.loads(byte_pairs().to_str())["model"]
        start, end = "<|startoftext|>", "<|endoftext|>"
        special = {"<|mask|>": self.mask_token_id, start: self.sot_token_id, end: self.eot_token_id}
        # Older versions of tokenizers join a pair with a space, newer ones keep it apart.
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in pairs["merges"]]
        # Padding with "!", id 0, as here, would make transformers take every "!" for padding.
        tokens = {"bos_token": start} | dict.fromkeys(("eos_token", "pad_token", "unk_token"), end)
        settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": self.text_length}
        write_json(folder / "vocab.json", pairs["vocab"] | special)
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
        write_json(folder / "tokenizer_config.json", settings | tokens)


class AltCLIPTokenizer(HubTokenizer):
    """XLM-RoBERTa's SentencePiece. Its mask token is not used: AltCLIP was not trained with it."""

    mask_token_id = None


def openai_clean(text: str) -> str:
    """OpenAI's cleaning, part of the encoding: repaired Unicode, HTML entities resolved twice, lower case."""
    return lower_caption(text)


@functools.lru_cache(maxsize=1 << 16)  # 30 MB: captions that no augmentation changed repeat every epoch
def word_ids(text: str) -> "array[int]":
    """The ids of a caption of any length, without start and end."""
    return array("H", byte_pairs().encode(openai_clean(text), add_special_tokens=False).ids)


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
