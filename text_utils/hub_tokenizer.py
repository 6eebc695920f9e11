"""Tokenizers of transformers: those of AltCLIP, SigLIP, MetaCLIP 2, Chinese-CLIP."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.types import Tokens
from misc.process.failures import reason_of
from text_utils.captions import CLEANINGS

FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("sentencepiece.bpe.model", "tokenizer.model", "spiece.model", "vocab.txt", "vocab.json", "merges.txt"),
)


class HubTokenizer:
    """Captions -> `{"input_ids", "attention_mask"}`, (B, L) int64 each, padded to the batch's longest.

    It implements `model.protocol.Tokenizer` with a tokenizer of `transformers`.

    Args:
        pretrained: a folder with tokenizer files, or a hub id.
        text_length: most tokens of a caption, start and end included; a longer one is cut and keeps its end.
        cache_dir: the hub's cache, for an id.
        cleaning: a name of `CLEANINGS`, applied first.

    Raises:
        ValueError: no tokenizer there, one that `transformers` cannot read, or one of fewer than 100 tokens;
            one without padding, or whose captions do not end with an end token.
    """

    mask_token_id: int | None

    def __init__(
        self,
        pretrained: str,
        text_length: int = 77,
        cache_dir: str | Path | None = None,
        cleaning: str = "tbps-clip",
    ) -> None:
        from transformers import AutoTokenizer  # seconds to import: CLIP's tokenizer must not wait for it

        try:
            tokenizer = AutoTokenizer.from_pretrained(
                pretrained, cache_dir=cache_dir, trust_remote_code=False, padding_side="right"
            )
        except Exception as error:  # transformers raises errors of many types for a missing file or package
            reason = reason_of(error)[:160]
            raise ValueError(f"has no tokenizer that transformers can read ({reason})") from error
        if len(tokenizer) < 100:  # what transformers makes of files that it does not understand
            raise ValueError(f"has a tokenizer of only {len(tokenizer)} tokens: its files are not complete")
        self._tokenizer, self._source, self._cache_dir = tokenizer, pretrained, cache_dir
        self.text_length, self.cleaning = text_length, cleaning
        self.special_ids = tuple(tokenizer.all_special_ids)
        self.pad_token_id = tokenizer.pad_token_id
        if not hasattr(type(self), "mask_token_id"):
            self.mask_token_id = tokenizer.mask_token_id
        self._check_ends()

    def _check_ends(self) -> None:
        """Raise ValueError unless a short caption and one that is cut end with the end token."""
        if self.pad_token_id is None:
            raise ValueError("has a tokenizer without a padding token")
        tokens = self(["a", "a " * 2 * self.text_length])
        last = tokens["input_ids"].gather(1, tokens["attention_mask"].sum(dim=1, keepdim=True) - 1)
        ends = {self._tokenizer.eos_token_id, self._tokenizer.sep_token_id} - {None}
        if wrong := set(last.flatten().tolist()) - ends:
            names = self._tokenizer.convert_ids_to_tokens(sorted(wrong))
            raise ValueError(
                f"has a tokenizer whose captions end with {names[0]!r}, not with an end token, where a "
                "caption's feature may be read"
            )

    @property
    def vocab_size(self) -> int:
        """The number of tokens, special ones included."""
        return len(self._tokenizer)

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """See `model.protocol.Tokenizer`."""
        assert not isinstance(texts, str), "a list of captions is expected, not one string"
        cut = {"truncation": True, "max_length": self.text_length}
        texts = [self.clean(text) for text in texts]
        tokens = self._tokenizer(
            texts,
            padding=True,
            return_tensors="pt",
            return_attention_mask=True,
            return_token_type_ids=False,
            **cut,
        )
        return {name: tokens[name] for name in ("input_ids", "attention_mask")}

    def clean(self, text: str) -> str:
        """The caption as it is tokenised; "" where it has no words."""
        return CLEANINGS[self.cleaning](text)

    def save(self, folder: Path) -> None:
        """Copy the tokenizer's files, with `text_length` as the length that it cuts at."""
        origin = Path(self._source)
        if not origin.is_dir():  # a hub id, whose files were read from the cache
            from huggingface_hub import snapshot_download

            origin = Path(snapshot_download(self._source, cache_dir=self._cache_dir, local_files_only=True))
        for name in FILES:
            if (origin / name).exists():
                (folder / name).write_bytes((origin / name).read_bytes())
        file = folder / "tokenizer_config.json"
        settings = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        write_json(file, settings | {"model_max_length": self.text_length, "padding_side": "right"})


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a settings file as transformers writes its own."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
