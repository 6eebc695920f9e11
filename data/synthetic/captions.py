"""What a caption states about a person, and its text in four languages.

The content is drawn once and put into words by each language, so that the four captions of an image agree.
A paraphrase has the same content in another sentence structure with other synonyms.
"""

import random

from data.synthetic.attributes import Identity, Item, pick
from data.synthetic.camera import Shot
from data.synthetic.languages import english, french, german, mandarin
from data.synthetic.languages.wording import Content

LANGUAGES = {"en": english.caption, "ch": mandarin.caption, "de": german.caption, "fr": french.caption}
NUM_FRAMES = 6
CAPTIONS_PER_IMAGE = 2
UNDER_HAT = ("short", "curly", "bun", "bald")

# How often people mention a thing that is visible.
INTEREST = {
    "bag": 5, "hat": 4, "scarf": 4, "hair": 3, "hand": 3, "inner": 3, "shoes": 2.5, "glasses": 2, "mask": 2,
    "build": 1, "view": 1,
}  # fmt: skip


def visible_items(identity: Identity, shot: Shot) -> dict[str, Item]:
    """Everything that is visible of a person in a shot, by field."""
    view = shot.pose.view
    fields = ("hair", "upper", "inner", "lower", "shoes", "hat", "glasses", "scarf", "mask", "bag", "hand")
    items = {field: getattr(identity, field) for field in fields}
    hidden = {"shoes"} if shot.feet_hidden else set()
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


def draw_content(seen: dict[str, Item], sex: str, rng: random.Random) -> Content:
    """A random part of what is visible: usually the clothes, and others up to three to six things."""
    if "lower" in seen:
        mentioned = list(rng.choices((["upper", "lower"], ["upper"], ["lower"]), (86, 9, 5))[0])
    else:
        mentioned = ["upper"]
    others = {field: INTEREST[field] for field in seen if field in INTEREST}
    if "upper" not in mentioned:
        others.pop("inner", None)
    if rng.random() < 0.6:
        del others["view"]
    for _ in range(min(len(others), rng.randint(3, 6) - len(mentioned))):
        field = pick(rng, others)
        del others[field]
        mentioned.append(field)
    return Content(sex, {field: shorten(item, rng) for field, item in seen.items() if field in mentioned})


def shorten(item: Item, rng: random.Random) -> Item:
    """At random, the item without its pattern, or without its colours."""
    if item.pattern and rng.random() < 0.15:
        return Item(item.kind, item.color)
    if item.pattern and rng.random() < 0.1:
        return Item(item.kind, pattern=item.pattern)
    return item


def image_captions(identity: Identity, shot: Shot, rng: random.Random) -> dict[str, dict[str, list[str]]]:
    """The captions of an image: {language: {"captions": [2 texts], "captions_bt": [their paraphrases]}}."""
    seen = visible_items(identity, shot)
    contents: list[Content] = []
    while len(contents) < CAPTIONS_PER_IMAGE:
        content = draw_content(seen, identity.sex, rng)
        if content not in contents:
            contents.append(content)
    frames = [rng.sample(range(NUM_FRAMES), 2) for _ in contents]
    return {
        language: {
            key: [word(content, pair[which], rng) for content, pair in zip(contents, frames, strict=True)]
            for which, key in enumerate(("captions", "captions_bt"))
        }
        for language, word in LANGUAGES.items()
    }
