"""Captions as the method wants to read them, before a tokenizer sees them."""

TO_SPACE = str.maketrans(dict.fromkeys('.!"()*#:;~', " "))


def clean_caption(text: str, max_words: int = 77) -> str:
    """Lower case, each of `. ! " ( ) * # : ; ~` a space, single spaces, at most `max_words` words.

    A language without spaces is one word here: it is cut by the tokenizer alone. Marks alone give "".
    """
    return " ".join(text.lower().translate(TO_SPACE).split()[:max_words])
