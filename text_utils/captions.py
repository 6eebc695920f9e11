"""Cleaning of captions: what happens to a text before it is split into tokens."""

import re
from collections.abc import Callable, Mapping

SPACES = re.compile(r"[ \t\n\r\f]+")
TO_SPACE = str.maketrans(dict.fromkeys('.!"()*#:;~', " "))

Clean = Callable[[str], str]


def clean_caption(text: str) -> str:
    """TBPS-CLIP's cleaning: lower case, each of `. ! " ( ) * # : ; ~` a space, single spaces.

    Idempotent. Punctuation alone gives "". Only the tokenizer limits the length.
    """
    return " ".join(text.lower().translate(TO_SPACE).split())


def keep_caption(text: str) -> str:
    """The caption on one line, with single spaces: IRRA and RDE leave the rest to CLIP's tokenizer.

    Idempotent. Unusual white space is left to that too: it can be part of a letter in a wrong encoding.
    """
    return SPACES.sub(" ", text).strip()


# Weights expect captions cleaned as in their training: `data.cleaning`. Each is idempotent and strips spaces.
CLEANINGS: Mapping[str, Clean] = {"tbps-clip": clean_caption, "none": keep_caption}
