"""Who is in the set: the draw of identities.

An `Identity` is what stays with a person from camera to camera. Everything that a caption may say of a
person is a field here; everything else (pose, light, background) belongs to the single image.
"""

import random
from dataclasses import astuple, dataclass, replace
from typing import NamedTuple


class Item(NamedTuple):
    """One thing on a person: what it is, its colour, its pattern ("" is plain), the pattern's colour."""

    kind: str
    color: str = ""
    pattern: str = ""
    color2: str = ""


@dataclass(frozen=True)
class Identity:
    """A person. `None` where the person has no such thing; a dress has no `lower`."""

    season: str
    sex: str
    build: str
    skin: int
    hair: Item
    upper: Item
    inner: Item | None
    lower: Item | None
    shoes: Item
    hat: Item | None = None
    glasses: Item | None = None
    scarf: Item | None = None
    mask: Item | None = None
    bag: Item | None = None
    hand: Item | None = None


RGB = {
    "black": (34, 34, 38), "white": (240, 240, 238), "gray": (136, 139, 143), "red": (200, 34, 40),
    "blue": (38, 92, 198), "navy": (30, 38, 92), "light blue": (146, 192, 232), "green": (40, 138, 66),
    "olive": (106, 108, 58), "yellow": (238, 200, 48), "orange": (236, 122, 36), "brown": (116, 74, 44),
    "beige": (210, 188, 152), "pink": (240, 146, 178), "purple": (116, 58, 152),
}  # fmt: skip
SKIN = ((244, 210, 182), (228, 184, 150), (198, 148, 110), (146, 100, 70), (96, 64, 46))
HAIR_RGB = {
    "black": (30, 26, 26), "brown": (92, 58, 36), "blond": (222, 186, 110), "red": (172, 78, 36),
    "gray": (164, 164, 166),
}  # fmt: skip
TWIN_SHARE = 0.5
OPEN_FRONT = ("jacket", "blazer", "coat")

Weights = dict[str, float]
NEUTRAL: Weights = {}

SEASONS: Weights = {"warm": 4, "mild": 4, "cold": 3}
UPPER: dict[str, dict[str, Weights]] = {
    "warm": {
        "man": {"t-shirt": 6, "shirt": 3, "tank top": 2},
        "woman": {"t-shirt": 4, "shirt": 2, "tank top": 3, "dress": 4},
    },
    "mild": {
        "man": {"t-shirt": 2, "shirt": 4, "sweater": 3, "hoodie": 3, "jacket": 3, "blazer": 2},
        "woman": {"t-shirt": 2, "shirt": 3, "sweater": 4, "hoodie": 2, "jacket": 3, "blazer": 2, "dress": 2},
    },
    "cold": {
        "man": {"sweater": 1, "hoodie": 1, "jacket": 2, "puffer": 4, "coat": 3},
        "woman": {"sweater": 1, "jacket": 2, "puffer": 3, "coat": 4},
    },
}
PATTERNS: dict[str, Weights] = {
    "t-shirt": {"": 5, "stripes": 2, "logo": 4, "two-tone": 2},
    "tank top": {"": 5, "stripes": 2, "dots": 1},
    "shirt": {"": 4, "checks": 4, "pinstripes": 3, "dots": 1},
    "sweater": {"": 4, "stripes": 4, "two-tone": 3},
    "hoodie": {"": 4, "logo": 4, "two-tone": 2},
    "jacket": {"": 5, "two-tone": 3},
    "blazer": {"": 6, "checks": 2},
    "puffer": {"": 5, "two-tone": 3},
    "coat": {"": 5, "checks": 2},
    "dress": {"": 4, "dots": 3, "stripes": 2, "checks": 2},
    "trousers": {"": 5, "checks": 1},
    "sweatpants": {"": 2, "side stripes": 3},
    "skirt": {"": 4, "checks": 2, "dots": 1},
    "shorts": {"": 4, "side stripes": 1},
}
LOWER: dict[str, dict[str, Weights]] = {
    "warm": {
        "man": {"shorts": 5, "jeans": 3, "trousers": 3, "sweatpants": 1},
        "woman": {"shorts": 3, "jeans": 3, "trousers": 2, "skirt": 4, "leggings": 2},
    },
    "mild": {
        "man": {"jeans": 5, "trousers": 5, "sweatpants": 3},
        "woman": {"jeans": 4, "trousers": 3, "skirt": 3, "leggings": 3, "sweatpants": 1},
    },
    "cold": {
        "man": {"jeans": 4, "trousers": 5, "sweatpants": 2},
        "woman": {"jeans": 4, "trousers": 4, "leggings": 3, "skirt": 1},
    },
}
VIVID: Weights = {
    "black": 5, "white": 5, "gray": 4, "red": 4, "blue": 4, "navy": 3, "light blue": 3, "green": 3,
    "olive": 2, "yellow": 3, "orange": 2, "brown": 2, "beige": 3, "pink": 3, "purple": 3,
}  # fmt: skip
CLOTH: Weights = {"black": 5, "gray": 4, "beige": 4, "navy": 3, "brown": 3, "olive": 2, "white": 2, "blue": 1}
DENIM: Weights = {"blue": 4, "navy": 4, "light blue": 3, "black": 3, "gray": 2}
COLORS: dict[str, Weights] = {
    "jeans": DENIM,
    "trousers": CLOTH,
    "sweatpants": CLOTH | {"red": 1, "green": 1},
    "leggings": {"black": 5, "gray": 3, "navy": 2, "purple": 1, "pink": 1},
    "blazer": CLOTH,
    "coat": CLOTH | {"red": 2, "green": 1, "pink": 1},
    "sneakers": {"white": 5, "black": 4, "gray": 2, "red": 2, "blue": 2, "green": 1, "pink": 1},
    "boots": {"black": 4, "brown": 4, "beige": 2},
    "leather shoes": {"black": 4, "brown": 3},
    "sandals": {"brown": 3, "black": 2, "white": 1},
    "high heels": {"black": 3, "red": 3, "beige": 1, "white": 1},
    "sun hat": {"beige": 3, "white": 1, "brown": 1},
    "mask": {"white": 3, "black": 3, "light blue": 3},
    "shopping bag": {"white": 3, "red": 1, "green": 1, "yellow": 1, "blue": 1},
    "phone": {"": 1},
    "cup": {"": 1},
    "glasses": {"": 1},
    "sunglasses": {"": 1},
}
SHOES: dict[str, dict[str, Weights]] = {
    "man": {"sneakers": 6, "boots": 2, "leather shoes": 3},
    "woman": {"sneakers": 5, "boots": 3, "high heels": 3},
}
HAIR: dict[str, Weights] = {
    "man": {"short": 7, "bald": 1, "curly": 2, "long": 1},
    "woman": {"short": 1, "bob": 3, "long": 4, "ponytail": 4, "bun": 2, "curly": 2},
}
HAIR_COLORS: Weights = {"black": 5, "brown": 4, "blond": 3, "red": 1.5, "gray": 1.5}
BAGS: dict[str, Weights] = {
    "man": {"backpack": 6, "shoulder bag": 3, "suitcase": 2, "shopping bag": 1, "": 6},
    "woman": {"backpack": 4, "handbag": 4, "shoulder bag": 3, "suitcase": 2, "shopping bag": 1, "": 5},
}


def pick(rng: random.Random, weights: Weights, taste: Weights = NEUTRAL) -> str:
    """One key of `weights`, drawn in proportion to its value times its factor in `taste` (1 where absent)."""
    return rng.choices(list(weights), [weight * taste.get(key, 1) for key, weight in weights.items()])[0]


def draw_item(rng: random.Random, kind: str, taste: Weights = NEUTRAL) -> Item:
    """An item of this kind in a colour and pattern that it is sold in."""
    color = pick(rng, COLORS.get(kind, VIVID), taste)
    pattern = pick(rng, PATTERNS.get(kind, {"": 1}), taste)
    if not pattern:
        return Item(kind, color)
    contrasting = {name: w for name, w in VIVID.items() if contrast(color, name) > 150}
    return Item(kind, color, pattern, pick(rng, contrasting, taste))


def contrast(first: str, second: str) -> int:
    """The distance of two named colours: the sum of their differences in red, green and blue."""
    return sum(abs(a - b) for a, b in zip(RGB[first], RGB[second], strict=True))


def draw_identity(rng: random.Random, season: str = "", sex: str = "", taste: Weights = NEUTRAL) -> Identity:
    """One person, clothed for one season. Most things are drawn on their own, so that none tells another."""
    season, sex = season or pick(rng, SEASONS, taste), sex or rng.choice(("man", "woman"))
    upper = draw_item(rng, pick(rng, UPPER[season][sex], taste), taste)
    hair = pick(rng, HAIR[sex], taste)
    shoes = SHOES[sex] | ({"sandals": 3, "boots": 0} if season == "warm" else {})
    inner_colors = {name: w for name, w in VIVID.items() if contrast(upper.color, name) > 150}
    return Identity(
        season=season,
        sex=sex,
        build=pick(rng, {"average": 6, "slim": 3, "heavy": 2}, taste),
        skin=rng.randrange(len(SKIN)),
        hair=Item(hair, "" if hair == "bald" else pick(rng, HAIR_COLORS)),
        upper=upper,
        inner=Item("top", pick(rng, inner_colors, taste)) if upper.kind in OPEN_FRONT else None,
        lower=None if upper.kind == "dress" else draw_item(rng, pick(rng, LOWER[season][sex], taste), taste),
        shoes=draw_item(rng, pick(rng, shoes, taste), taste),
        **draw_extras(rng, season, sex, taste),
    )


def draw_extras(rng: random.Random, season: str, sex: str, taste: Weights) -> dict[str, Item | None]:
    """What a person may do without: fields `hat` to `hand` of an identity."""
    cold, warm = season == "cold", season == "warm"
    kinds = {
        "hat": {"beanie": 5, "cap": 1, "": 6} if cold else {"cap": 4, "sun hat": 3 * warm, "": 10},
        "glasses": {"glasses": 4, "sunglasses": 3 if warm else 0.5, "": 12},
        "scarf": {"scarf": 5, "": 8} if cold else {"": 1},
        "mask": {"mask": 1, "": 9},
        "bag": BAGS[sex],
        "hand": {"phone": 2, "umbrella": 3, "cup": 1, "": 10},
    }
    drawn = {field: pick(rng, weights, taste) for field, weights in kinds.items()}
    return {field: draw_item(rng, kind, taste) if kind else None for field, kind in drawn.items()}


def draw_twin(rng: random.Random, identity: Identity, taste: Weights = NEUTRAL) -> Identity:
    """A person who shares all but one or two traits with `identity`, taken over from a stranger."""
    stranger = draw_identity(rng, identity.season, identity.sex, taste)
    traits = ["upper", "hair", "shoes", "hat", "glasses", "bag", "hand"]
    if identity.lower and stranger.lower:
        traits += ["lower", "lower"]
    changed = {name: getattr(stranger, name) for name in rng.sample(traits, rng.choice((1, 2)))}
    if "upper" in changed:
        changed["upper"] = draw_item(rng, identity.upper.kind, taste)
    return replace(identity, skin=stranger.skin, **changed)


def draw_identities(
    seed: int | str, count: int, taste: Weights = NEUTRAL, twins: float = TWIN_SHARE
) -> list[Identity]:
    """`count` different people; a share of them, `twins`, are near twins of the one before.

    No two agree in all that a caption can say (season and skin are not among it). Raises RuntimeError
    should the draws run dry, which at millions of combinations they do not.
    """
    people: list[Identity] = []
    seen = set()
    for index in range(count):
        rng = random.Random(f"{seed}:identity:{index}")
        for _ in range(1000):
            is_twin = people and rng.random() < twins
            person = draw_twin(rng, people[-1], taste) if is_twin else draw_identity(rng, taste=taste)
            key = astuple(replace(person, season="", skin=0))
            if key not in seen:
                break
        else:
            raise RuntimeError(f"no new identity found after {index} of {count}")
        seen.add(key)
        people.append(person)
    return people
