"""English captions."""

import random
from functools import partial

from data.synthetic.attributes import Item
from data.synthetic.languages import wording
from data.synthetic.languages.english_styles import STREET, Style, filled
from data.synthetic.languages.wording import ACCESSORIES, GARMENTS, Content, fresh_verb, paragraph

PEOPLE = {
    "man": ("man", "man", "guy", "male pedestrian", "gentleman"),
    "woman": ("woman", "woman", "lady", "female pedestrian"),
}
PRONOUN = {"man": "he", "woman": "she"}
BUILD = {"slim": ("slim", "slender", "thin"), "heavy": ("heavyset", "stocky", "stout")}
KINDS = {
    "t-shirt": ("t-shirt", "tee", "short-sleeved t-shirt"), "tank top": ("tank top", "sleeveless top"),
    "shirt": ("shirt", "button-up shirt", "long-sleeved shirt"),
    "sweater": ("sweater", "pullover", "jumper"), "hoodie": ("hoodie", "hooded sweatshirt"),
    "jacket": ("jacket", "open jacket"), "blazer": ("blazer", "suit jacket"),
    "puffer": ("puffer jacket", "padded jacket", "down jacket", "quilted jacket"),
    "coat": ("coat", "long coat", "overcoat"), "dress": ("dress", "knee-length dress"),
    "top": ("top", "shirt"), "trousers": ("trousers", "pants", "slacks"),
    "jeans": ("jeans", "denim trousers", "denim pants"),
    "sweatpants": ("sweatpants", "jogging bottoms", "track pants"),
    "leggings": ("leggings", "tight leggings"), "shorts": ("shorts", "short trousers"),
    "skirt": ("skirt", "knee-length skirt"), "sneakers": ("sneakers", "trainers", "sports shoes"),
    "boots": ("boots", "high boots"), "leather shoes": ("leather shoes", "dress shoes"),
    "sandals": ("sandals", "open sandals"), "high heels": ("high heels", "heels", "pumps"),
    "backpack": ("backpack", "rucksack"), "handbag": ("handbag", "purse"),
    "shoulder bag": ("shoulder bag", "cross-body bag", "messenger bag"),
    "suitcase": ("suitcase", "wheeled suitcase", "trolley case"),
    "shopping bag": ("shopping bag", "carrier bag"), "cap": ("cap", "baseball cap"),
    "beanie": ("beanie", "knit hat", "woolly hat"), "sun hat": ("sun hat", "wide-brimmed hat"),
    "glasses": ("glasses", "spectacles", "eyeglasses"),
    "sunglasses": ("sunglasses", "dark glasses", "shades"), "scarf": ("scarf",),
    "mask": ("face mask", "mask"), "phone": ("phone", "mobile phone", "smartphone"),
    "umbrella": ("umbrella", "folded umbrella"), "cup": ("paper cup", "coffee cup", "cup of coffee"),
}  # fmt: skip
PLURAL = (
    "trousers", "jeans", "sweatpants", "leggings", "shorts", "glasses", "sunglasses",
    "sneakers", "boots", "leather shoes", "sandals", "high heels",
)  # fmt: skip
COLORS = {
    "gray": ("gray", "grey"), "navy": ("navy", "dark blue", "navy blue"),
    "light blue": ("light blue", "pale blue", "sky blue"), "olive": ("olive", "olive green", "khaki"),
    "beige": ("beige", "tan", "sand-coloured"), "purple": ("purple", "violet"), "blond": ("blond", "fair"),
}  # fmt: skip
HAIR = {
    "short": ("short {} hair", "short {} hair", "{} hair cut short"),
    "curly": ("curly {} hair", "{} curls"),
    "bob": ("chin-length {} hair", "{} hair in a bob"),
    "long": ("long {} hair", "{} hair past the shoulders"),
    "ponytail": ("{} hair in a ponytail", "{} hair tied into a ponytail"),
    "bun": ("{} hair in a bun", "{} hair tied up in a bun"),
    "bald": ("a bald head", "a shaved head"),
}
COLORED = {
    "stripes": ("{c} and {d} striped {k}", "{c} {k} with {d} stripes", "{c} {k} with horizontal {d} stripes"),
    "pinstripes": ("{c} {k} with vertical {d} stripes", "vertically striped {c} and {d} {k}"),
    "checks": ("{c} and {d} checked {k}", "{c} and {d} plaid {k}", "checkered {k} in {c} and {d}"),
    "dots": ("{c} {k} with {d} dots", "{c} and {d} polka-dot {k}", "dotted {k} in {c} and {d}"),
    "logo": ("{c} {k} with {a_d} print", "{c} {k} with {a_d} logo on the chest"),
    "two-tone": ("two-tone {k} in {d} and {c}", "{c} {k} with {d} shoulders"),
    "side stripes": ("{c} {k} with {d} stripes down the sides", "{c} {k} with {a_d} stripe along each leg"),
}
UNCOLORED = {
    "stripes": ("striped {k}", "horizontally striped {k}"),
    "pinstripes": ("vertically striped {k}", "{k} with vertical stripes"),
    "checks": ("checked {k}", "plaid {k}", "checkered {k}"),
    "dots": ("dotted {k}", "polka-dot {k}"),
    "logo": ("{k} with a print on the chest", "{k} with a logo"),
    "two-tone": ("two-tone {k}", "two-coloured {k}"),
    "side stripes": ("{k} with stripes down the sides", "side-striped {k}"),
}
VIEW = {
    "front": ("is facing the camera", "is seen from the front"),
    "back": ("is seen from behind", "has {} back to the camera"),
    "side": ("is seen from the side", "is shown in profile"),
}
CARRY = {
    "backpack": ("carries {}", "has {} on {} back", "is carrying {}"),
    "handbag": ("carries {}", "is holding {}"), "shoulder bag": ("carries {}", "has {} across {} body"),
    "suitcase": ("pulls {}", "is pulling {} along"), "shopping bag": ("carries {}", "is holding {}"),
    "phone": ("holds {}", "has {} in {} hand"), "umbrella": ("holds {}", "carries {} in {} hand"),
    "cup": ("holds {}", "has {} in {} hand"),
}  # fmt: skip


both = partial(wording.listed, conjunction="and")


def article(phrase: str) -> str:
    """`phrase` with "a" or "an" before it."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def colored(name: str, rng: random.Random, style: Style) -> str:
    """A colour's name, one of those in use."""
    return rng.choice(style.colors.get(name) or COLORS.get(name, (name,)))


def bare(item: Item, rng: random.Random, style: Style) -> str:
    """A thing with its colours, without an article."""
    kind = rng.choice(style.kinds.get(item.kind, KINDS[item.kind]))
    color, second = (colored(name, rng, style) for name in (item.color, item.color2))
    if not item.pattern:
        return f"{color} {kind}".strip()
    patterns = COLORED | style.patterns if item.color else UNCOLORED
    return rng.choice(patterns[item.pattern]).format(
        c=color, d=second, a_d=second and article(second), k=kind
    )


def noun(item: Item, rng: random.Random, style: Style = STREET) -> str:
    """A thing with its colours, with an article where it is one piece."""
    phrase = bare(item, rng, style)
    return phrase if item.kind in PLURAL else article(phrase)


def hair(item: Item, rng: random.Random, style: Style = STREET) -> str:
    """The hair, as what a person has."""
    form = rng.choice(style.hair.get(item.kind, HAIR[item.kind]))
    own = style.hair_colors.get(item.color)
    return form.format(rng.choice(own) if own else colored(item.color, rng, style))


def over(inner: Item, rng: random.Random, style: Style = STREET) -> str:
    """What is added to an open garment for the one below it."""
    return rng.choice((" over ", " worn over ")) + noun(inner, rng, style)


def doings(content: Content, rng: random.Random, style: Style) -> list[str]:
    """What a person carries and how they are seen, as verb phrases."""
    their, used = "his" if content.sex == "man" else "her", {"has"} if "hair" in content.items else set()
    thing = partial(noun, style=style)
    phrases = wording.carried(content, CARRY | style.carry, used, thing, their, rng)
    if "view" in content.items:
        phrases.append(fresh_verb((VIEW | style.view)[content.items["view"].kind], used, rng).format(their))
    return phrases


def named_person(content: Content, rng: random.Random, style: Style) -> str:
    """The person, with the build where it is mentioned, without an article."""
    person, build = rng.choice((PEOPLE | style.people)[content.sex]), content.items.get("build")
    return f"{rng.choice((BUILD | style.build)[build.kind])} {person}" if build else person


def caption(content: Content, frame: int, rng: random.Random, style: Style = STREET) -> str:
    """A caption of one to three sentences; `frame` (one of `style.frame_numbers`) decides how it is built."""
    return paragraph(styled(content, frame, rng, style) if style.frames else plain(content, frame, rng))


def styled(content: Content, frame: int, rng: random.Random, style: Style) -> list[str]:
    """The sentences of a caption by one of the style's templates."""
    thing, under = partial(noun, style=style), partial(over, style=style)
    worn = {
        field: wording.clothes(content, (field,), thing, under, rng) for field in (*GARMENTS, *ACCESSORIES)
    }
    clothes, extra = (
        [text for field in fields for text in worn[field]] for fields in (GARMENTS, ACCESSORIES)
    )
    does, head = doings(content, rng, style), content.items.get("hair")
    locks, person = hair(head, rng, style) if head else "", named_person(content, rng, style)
    slots = {"clothes": clothes, "extra": extra, "worn": clothes + extra, "does": does}
    slots |= {"has_does": [*([f"has {locks}"] if locks else []), *does]}
    slots |= {field: worn[field] for field in GARMENTS}
    names = {"person": person, "a_person": article(person), "hair": locks}
    names |= {"he": PRONOUN[content.sex], "his": "his" if content.sex == "man" else "her"}
    template = rng.choice(style.frames[frame])
    return filled(template, names | {name: both(parts) if parts else "" for name, parts in slots.items()})


def plain(content: Content, frame: int, rng: random.Random) -> list[str]:
    """The sentences of a caption in the words above; `frame` is 0 to 5."""
    items, he = content.items, PRONOUN[content.sex]
    person = named_person(content, rng, STREET)
    main, extra = (wording.clothes(content, fields, noun, over, rng) for fields in (GARMENTS, ACCESSORIES))
    does = doings(content, rng, STREET)
    has = [f"has {hair(items['hair'], rng)}"] if "hair" in items else []
    with_hair = f" with {hair(items['hair'], rng)}" if has else ""
    with_extra = f", with {both(extra)}" if extra else ""
    wears = rng.choice(("wears", "is wearing"))
    if frame == 0:
        sentences = [f"{article(person)}{with_hair} {wears} {both(main + extra)}"]
        sentences.append(does and f"{he} {both(does)}")
    elif frame == 1:
        also = [f"also wears {both(extra)}"] if extra else []
        sentences = [f"the {person} {both([*has, f'{wears} {both(main)}'])}"]
        sentences.append((also or does) and f"{he} {both(also + does)}")
    elif frame == 2:
        seen = both(does) if does else rng.choice(("can be seen here", "appears in the picture"))
        sentences = [f"wearing {both(main + extra)}, {article(person)}{with_hair} {seen}"]
    elif frame == 3:
        sentences = [f"{article(person)} in {both(main)}{with_extra}"]
        sentences.append((has or does) and f"{he} {both(has + does)}")
    elif frame == 4:
        comma = "," if has else ""
        sentences = [f"this is {article(person)}{with_hair}{comma} dressed in {both(main)}{with_extra}"]
        sentences.append(does and f"{he} {both(does)}")
    else:
        seen = f"the {person} {both(has + does)}" if has or does else ""
        sentences = [
            seen or f"there is {article(person)} in the picture",
            f"{he} {wears} {both(main + extra)}",
        ]
    return sentences
