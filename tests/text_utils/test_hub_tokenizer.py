"""Tokenizers of transformers for any backbone: padding, ends, the mask token, cleaning."""

from pathlib import Path

import open_clip.tokenizer as theirs
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from text_utils.captions import CLEANINGS
from text_utils.hub_tokenizer import HubTokenizer

WORDS = ["<pad>", "<end>", "<start>", "<mask>", "a", "man", *(f"word{number}" for number in range(120))]


def write_tokenizer(folder: Path, template: str, **names: str) -> Path:
    """A tokenizer whose captions are `template`, in which $A is the words; `names` are its special tokens."""
    ids = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(WordLevel(ids, unk_token="a"))
    tokenizer.pre_tokenizer = Whitespace()
    special = [(word, ids[word]) for word in WORDS[:4] if word in template]
    tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=special)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return folder


def test_captions_are_padded_on_the_right_with_the_tokenizers_own_id_and_keep_their_end(
    tmp_path: Path,
) -> None:
    names = {"pad_token": "<pad>", "eos_token": "<end>", "mask_token": "<mask>", "padding_side": "left"}
    tokenizer = HubTokenizer(str(write_tokenizer(tmp_path, "$A <end>", **names)), 5, cleaning="none")
    tokens = tokenizer(["a man", "a man a man a man"])
    assert tokens["input_ids"].tolist() == [[4, 5, 1, 0, 0], [4, 5, 4, 5, 1]]
    assert tokens["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert (tokenizer.pad_token_id, tokenizer.mask_token_id, tokenizer.vocab_size) == (0, 3, len(WORDS))
    assert {0, 1, 3} <= set(tokenizer.special_ids)


@pytest.mark.parametrize(
    ("template", "names", "message"),
    [
        ("<start> $A", {"pad_token": "<pad>", "eos_token": "<end>"}, "end with 'a', not with an end token"),
        ("$A <end>", {"pad_token": "<pad>"}, "end with '<end>', not with an end token"),
        ("$A <end>", {"eos_token": "<end>"}, "without a padding token"),
    ],
)
def test_a_tokenizer_without_end_or_padding_is_refused(
    tmp_path: Path, template: str, names: dict[str, str], message: str
) -> None:
    folder = write_tokenizer(tmp_path, template, **names)
    with pytest.raises(ValueError, match=message):
        HubTokenizer(str(folder), 5)


def test_a_class_token_without_mask_word_has_no_mask_id(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path, "<start> $A <end>", pad_token="<pad>", sep_token="<end>")
    assert HubTokenizer(str(folder), 5).mask_token_id is None


@pytest.mark.parametrize("name", ["whitespace", "lower", "canonicalize"])
def test_cleaning_equals_the_function_of_open_clip_of_that_name(name: str) -> None:
    texts = [
        *("A man,  in a  RED_coat (l.50).", "cafÃ© &amp;amp; Co.\n", "", "...", "戴帽子的男人，红色。"),
        *("it's 5 o'clock\t–  \"quoted\"", "Ünïcode\u00a0space", "under__score_ _"),
    ]
    expected = theirs.get_clean_fn(name)
    assert [CLEANINGS[name](text) for text in texts] == [expected(text) for text in texts]
