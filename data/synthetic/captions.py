"""What a caption says of a person, and its wording in four languages.

What is said (a `Content`) is drawn once; every language then words it by itself, so that the four captions of
an image agree in what they tell. A paraphrase is the same content in another frame with other synonyms.
"""

import random
from typing import Any

from data.synthetic.attributes import Identity, Item, pick
from data.synthetic.camera import Shot
from data.synthetic.languages import english, french, german, mandarin
from data.synthetic.languages.wording import Content

LANGUAGES = {"en": english.caption, "ch": mandarin.caption, "de": german.caption, "fr": french.caption}
NUM_FRAMES = 6
CAPTIONS_PER_IMAGE = 2
UNDER_HAT = ("short", "curly", "bun", "bald")

# How readily people mention a thing, once it is there to be seen.
INTEREST = {
    "bag": 5, "hat": 4, "scarf": 4, "hair": 3, "hand": 3, "inner": 3, "shoes": 2.5, "glasses": 2, "mask": 2,
    "build": 1, "view": 1,
}  # fmt: skip


def visible_items(identity: Identity, shot: Shot) -> dict[str, Item]:
    """All that can be seen of a person in a shot and put into words."""
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
    """A part of what is seen: mostly the clothes, and as much else as makes three to six things."""
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
    """People leave out a pattern at times, or the colours of it."""
    if item.pattern and rng.random() < 0.15:
        return Item(item.kind, item.color)
    if item.pattern and rng.random() < 0.1:
        return Item(item.kind, pattern=item.pattern)
    return item


def image_captions(identity: Identity, shot: Shot, rng: random.Random) -> dict[str, dict[str, Any]]:
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
