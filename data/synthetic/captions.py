"""What a caption states about a person, and its text in four languages.

The content is drawn once and put into words by each language, so that the four captions of an image agree.
A paraphrase has the same content in another sentence structure with other synonyms.
"""

import random
from collections.abc import Callable, Set
from dataclasses import replace
from functools import partial

from data.synthetic.attributes import Identity, Item, pick
from data.synthetic.camera import Shot
from data.synthetic.domains import STREET, Domain
from data.synthetic.languages import english, french, german, mandarin, web
from data.synthetic.languages.wording import Content

LANGUAGES = {"en": english.caption, "ch": mandarin.caption, "de": german.caption, "fr": french.caption}
CAPTIONS_PER_IMAGE = 2
UNDER_HAT = ("short", "curly", "bun", "bald")


def visible_items(identity: Identity, shot: Shot) -> dict[str, Item]:
    """Everything that is visible of a person in a shot, by field."""
    return items_in_view(identity, shot.pose.view, {"shoes"} if shot.feet_hidden else set())


def items_in_view(identity: Identity, view: str, hidden: Set[str]) -> dict[str, Item]:
    """Everything that is visible of a person from a side, but for the fields `hidden`."""
    fields = ("hair", "upper", "inner", "lower", "shoes", "hat", "glasses", "scarf", "mask", "bag", "hand")
    items = {field: getattr(identity, field) for field in fields}
    hidden = set(hidden)
    if view != "front":
        hidden.add("inner")
        if identity.upper.pattern == "logo":
            items["upper"] = Item(identity.upper.kind, identity.upper.color)
    if view == "back":
        hidden |= {"glasses", "mask"}
        if identity.hand is not None and identity.hand.kind != "umbrella":
            hidden.add("hand")
    if identity.hat is not None and identity.hair.kind in UNDER_HAT:
        hidden.add("hair")
    if identity.build != "average":
        items["build"] = Item(identity.build)
    items["view"] = Item(view)
    return {field: item for field, item in items.items() if item is not None and field not in hidden}


def draw_content(seen: dict[str, Item], sex: str, rng: random.Random, domain: Domain = STREET) -> Content:
    """A random part of what is visible: usually the clothes, and others up to a number of things."""
    if "lower" in seen:
        mentioned = list(rng.choices((["upper", "lower"], ["upper"], ["lower"]), domain.garments)[0])
    else:
        mentioned = ["upper"]
    others = {field: domain.interest[field] for field in seen if field in domain.interest}
    if "upper" not in mentioned:
        others.pop("inner", None)
    if rng.random() < 1 - domain.view_named:
        del others["view"]
    for _ in range(min(len(others), rng.randint(*domain.num_things) - len(mentioned))):
        field = pick(rng, others)
        del others[field]
        mentioned.append(field)
    return Content(
        sex, {field: shorten(item, rng, domain) for field, item in seen.items() if field in mentioned}
    )


def shorten(item: Item, rng: random.Random, domain: Domain) -> Item:
    """At random, the item without its pattern, or without its colours."""
    if item.pattern and rng.random() < domain.plain:
        return Item(item.kind, item.color)
    if item.pattern and rng.random() < domain.uncolored:
        return Item(item.kind, pattern=item.pattern)
    return item


def image_captions(
    identity: Identity, shot: Shot, rng: random.Random, domain: Domain = STREET
) -> dict[str, dict[str, list[str]]]:
    """The captions of an image: {language: {"captions": [2 texts], "captions_bt": [their paraphrases]}}."""
    return captions_of(visible_items(identity, shot), identity.sex, rng, domain)


def captions_of(
    seen: dict[str, Item], sex: str, rng: random.Random, domain: Domain = STREET
) -> dict[str, dict[str, list[str]]]:
    """The captions of a person of whom these items are visible, as `image_captions` returns them."""
    contents: list[Content] = []
    while len(contents) < CAPTIONS_PER_IMAGE:
        content = draw_content(seen, sex, rng, domain)
        if content not in contents:
            contents.append(content)
    frames = [rng.sample(domain.english.frame_numbers, 2) for _ in contents]
    return {
        language: {
            key: [word(content, pair[which], rng) for content, pair in zip(contents, frames, strict=True)]
            for which, key in enumerate(("captions", "captions_bt"))
        }
        for language, word in wordings(domain).items()
    }


def wordings(domain: Domain) -> dict[str, Callable[[Content, int, random.Random], str]]:
    """How every language words a content in a domain: English alone has words of the domain's own."""
    return LANGUAGES | {"en": partial(english.caption, style=domain.english)}


def web_captions(
    identity: Identity, shot: Shot, rng: random.Random, domain: Domain = STREET
) -> dict[str, dict[str, list[str]]]:
    """The web caption of an image, {language: {"captions": [1 text]}}.

    English is alt text; the other languages say the same (or, of a content of several things, more) in one of
    their short sentences. `web.EMPTY_SHARE` of the captions say nothing about the person.
    """
    if rng.random() < web.EMPTY_SHARE:
        number = rng.randint(1, 9999)
        texts = {language: rng.choice(web.EMPTY[language]).format(number) for language in LANGUAGES}
    else:
        content = draw_content(
            visible_items(identity, shot), identity.sex, rng, replace(domain, **web.CONTENT)
        )
        frame = rng.choice(domain.english.frame_numbers)
        texts = {
            language: word(content, frame, rng) for language, word in LANGUAGES.items() if language != "en"
        }
        texts = {"en": web.alt_text(content, rng, domain.english), **texts}
    return {language: {"captions": [text]} for language, text in texts.items()}


CAPTIONS = {"full": image_captions, "web": web_captions}
