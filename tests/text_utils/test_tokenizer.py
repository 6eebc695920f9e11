"""The CLIP tokenizer against `open_clip`'s ids, and against captions that mean no good."""

import json
import pickle
from pathlib import Path

import pytest

from text_utils import tokenizer as tokenizers
from text_utils.tokenizer import CLIPTokenizer

# Made once by open_clip_torch 3.3.0, as the file itself says; open_clip is not needed here.
GOLDEN_FILE = Path(__file__).parents[1] / "helpers" / "golden_tokens.json"
GOLDEN = json.loads(GOLDEN_FILE.read_text(encoding="utf-8"))["captions"]
START, END, MASK = 49_406, 49_407, 49_405


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer()


def test_ids_equal_open_clips_on_ordinary_and_hostile_captions(tokenizer):
    assert len(GOLDEN) > 120
    assert {caption: tokenizer.encode(caption) for caption, _ in GOLDEN} == dict(GOLDEN)


def test_a_caption_that_comes_again_is_not_encoded_again(tokenizer, monkeypatch):
    caption = "a caption that no other test has: zwbfq"
    first = tokenizer.encode(caption)
    first.append(7)  # the caller's own
    monkeypatch.delattr(tokenizers, "byte_pairs")
    again = [tokenizer.encode(caption), CLIPTokenizer.encode(tokenizer, caption)]
    assert again == [first[:-1]] * 2
    with pytest.raises(NameError):
        tokenizer.encode("another one: zwbfq")


def test_a_batch_is_padded_with_zeros_to_its_longest_caption(tokenizer):
    tokens = tokenizer(["a man", "", "a man in red"])
    assert tokens["input_ids"].tolist() == [
        [START, 320, 786, END, 0, 0],
        [START, END, 0, 0, 0, 0],
        [START, 320, 786, 530, 736, END],
    ]
    assert tokens["attention_mask"].sum(dim=1).tolist() == [4, 2, 6]
    assert str(tokens["input_ids"].dtype) == str(tokens["attention_mask"].dtype) == "torch.int64"


def test_a_caption_cut_at_the_text_length_keeps_its_end_token():
    assert CLIPTokenizer(text_length=5).encode("a man in a red shirt") == [START, 320, 786, 530, END]


@pytest.mark.parametrize(
    "text",
    ["<|endoftext|>", "<|startoftext|>", "<|mask|>", "<end_of_text>", "<start_of_text>", "<|ENDOFTEXT|>"],
)
def test_no_caption_can_spell_a_special_token(tokenizer, text):
    start, *inner, end = tokenizer.encode(f"a man {text} in red {text}{text}")
    assert (start, end) == (START, END)
    assert max(inner) < MASK


def test_the_mask_has_the_id_of_the_last_merge_whose_word_is_spelt_in_two(tokenizer):
    assert tokenizer.mask_token_id == MASK
    assert tokenizer.encode("jekyll") == [START, 43_893, 865, END]
    assert (tokenizer.sot_token_id, tokenizer.eot_token_id, tokenizer.vocab_size) == (START, END, END + 1)


def test_a_pickled_tokenizer_is_small_and_gives_the_same_ids():
    tokenizer = CLIPTokenizer(text_length=6)
    data = pickle.dumps(tokenizer)
    assert len(data) < 1_000
    text = "a woman in a green coat"
    assert pickle.loads(data).encode(text) == tokenizer.encode(text)


def test_captions_are_cleaned_before_they_are_encoded(tokenizer):
    raw, cleaned = ' A "Man", in; (Red)... ', "a man , in red"
    assert tokenizer.cleaning == "tbps-clip"
    assert tokenizer.clean(raw) == cleaned
    assert tokenizer.clean("... !") == ""
    assert tokenizer([raw])["input_ids"].tolist() == [tokenizer.encode(cleaned)]
    assert tokenizer([raw])["input_ids"].tolist() != [tokenizer.encode(raw)]
    assert tokenizer(["... !"])["input_ids"].tolist() == [[START, END]]


def test_without_cleaning_punctuation_is_encoded_and_the_ids_are_open_clips():
    tokenizer = CLIPTokenizer(cleaning="none")
    comma, semicolon, opening, closing, mark = (256 + ord(sign) - ord("!") for sign in ",;()!")
    expected = [320, 786, comma, 530, 736, semicolon, 320, opening, 736, closing, 786, mark]
    ids = tokenizer([" A man, in red; a\n(RED)  man! "])["input_ids"]
    assert ids.tolist() == [[START, *expected, END]]
    assert tokenizer(["a! " * 60])["input_ids"].tolist() == [[START, *[320, mark] * 37, 320, END]]
    assert tokenizer([" \n"])["input_ids"].tolist() == [[START, END]]
    assert [tokenizer([caption])["input_ids"][0].tolist() for caption, _ in GOLDEN] == [i for _, i in GOLDEN]


def test_the_text_length_alone_cuts_a_caption(tokenizer):
    words = [f"w{n}" for n in range(200)]
    for number in (76, 77, 78, 200):  # of words: each is a token or more, so more than 77 never matter
        ids = tokenizer([" ".join(words[:number])])["input_ids"]
        assert ids.tolist() == tokenizer([" ".join(words[: min(number, 77)])])["input_ids"].tolist()
    assert CLIPTokenizer(1000)([" ".join(words)])["input_ids"].shape[1] > 400


def test_the_saved_files_hold_every_id_once(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    ids = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    assert sorted(ids.values()) == list(range(tokenizer.vocab_size))
    assert {ids["<|startoftext|>"], ids["<|endoftext|>"], ids["<|mask|>"]} == set(tokenizer.special_ids)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert (settings["model_max_length"], settings["pad_token"]) == (77, "<|endoftext|>")
    assert (tmp_path / "merges.txt").read_text(encoding="utf-8").startswith("#version: 0.2\ni n\n")


def test_a_text_length_without_room_for_a_token_is_refused():
    with pytest.raises(ValueError, match="text_length"):
        CLIPTokenizer(text_length=2)
