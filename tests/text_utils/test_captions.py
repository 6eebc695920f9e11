"""Cleaning of captions."""

import sys

import pytest

from text_utils.captions import CLEANINGS, clean_caption, has_words, keep_caption


def test_punctuation_becomes_spaces_and_runs_of_space_collapse() -> None:
    text = '  A "Young" man;(tall)\n wears: #1 T-shirt,  blue~jeans*and... shoes! '
    assert clean_caption(text) == "a young man tall wears 1 t-shirt, blue jeans and shoes"


def test_each_of_the_ten_characters_is_a_space_and_no_other_is() -> None:
    assert clean_caption("a".join('.!"()*#:;~')) == "a a a a a a a a a"
    kept = "a,b-c/d'e?f&g%h"
    assert clean_caption(kept) == kept
    assert clean_caption(' .!"()*#:;~ ') == ""


def test_without_cleaning_only_runs_of_space_collapse() -> None:
    assert keep_caption('  A "Young"\r\n\tman;  (TALL)...\n') == 'A "Young" man; (TALL)...'
    assert keep_caption(" ... ") == "..."
    assert keep_caption("\n \t") == ""
    assert keep_caption("Ã\xa0 la mode") == "Ã\xa0 la mode"  # "à" in a wrong encoding, which ftfy repairs


def test_a_caption_of_any_length_is_kept() -> None:
    for text in (" ".join(f"w{n}" for n in range(500)), "穿黑色外套的男人" * 50):
        assert clean_caption(text) == text


def test_every_cleaning_is_idempotent_and_strips_on_all_of_unicode() -> None:
    blocks = range(0, sys.maxunicode + 1, 256)
    for clean in CLEANINGS.values():
        for start in blocks:
            once = clean(" a ".join(map(chr, range(start, start + 256))) + " ΑΣ ")
            assert clean(once) == once.strip() == once


@pytest.mark.parametrize("text", ["", " . ", "\x1f\u2003", "_", "a", "(!)", "!é", "\u3000;", "0"])
def test_whether_a_caption_has_words_is_told_without_cleaning_it(text: str) -> None:
    assert has_words(text) == bool(clean_caption(text))
