"""Synonyms from WordNet."""

import re

import pytest

from text_utils.synonyms import FUNCTION_WORDS, bare, english_synonyms

WORDS = [
    "man",
    "jeans,",
    "white",
    "backpack",
    "a",
    "the",
    "in",
    "he",
    "is",
    "穿黑色外套的男人",
    "😀",
    "xqzzy",
    "3",
    ",",
    "",
]


@pytest.fixture(scope="module")
def synonyms() -> dict[str, tuple[str, ...]]:
    return english_synonyms(WORDS)


def test_words_have_the_synonyms_of_wordnet(synonyms: dict[str, tuple[str, ...]]) -> None:
    assert synonyms["backpack"] == ("back pack", "haversack", "knapsack", "pack", "packsack", "rucksack")
    assert synonyms["man"] == ("adult male",)  # of the first sense alone: no valet, no gentleman
    assert {"blue jean", "denim"} <= set(synonyms["jeans"])  # told by its base form, without the comma


def test_function_words_and_what_is_no_word_have_none(synonyms: dict[str, tuple[str, ...]]) -> None:
    assert set(synonyms) == {"man", "jeans", "white", "backpack"}
    assert {"a", "the", "of", "with", "in", "and", "his", "her", "is"} <= FUNCTION_WORDS


def test_synonyms_are_plain_sorted_and_other_than_the_word(synonyms: dict[str, tuple[str, ...]]) -> None:
    for word, others in synonyms.items():
        assert list(others) == sorted(set(others) - {word})
        assert all(re.fullmatch(r"[a-z]([a-z -]*[a-z])?", other) for other in others)
    assert not any("edward" in other for other in synonyms["white"]), "names are left out"


def test_punctuation_around_a_word_is_no_part_of_it() -> None:
    assert [bare(word) for word in ("jeans,", "'t-shirt'", "穿,", "?")] == ["jeans", "t-shirt", "穿", ""]
