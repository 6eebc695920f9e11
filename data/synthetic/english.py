"""English captions."""

import random
from typing import TYPE_CHECKING

from data.synthetic.attributes import Item

if TYPE_CHECKING:
    from data.synthetic.captions import Content

PEOPLE = {
    "man": ("man", "man", "guy", "male pedestrian", "gentleman"),
    "woman": ("woman", "woman", "lady", "female pedestrian"),
}
PRONOUN = {"man": "he", "woman": "she"}
BUILD = {"slim": ("slim", "slender", "thin"), "heavy": ("heavyset", "stocky", "stout")}
KINDS = {
    "t-shirt": ("t-shirt", "tee", "short-sleeved t-shirt"),
    "tank top": ("tank top", "sleeveless top"),
    "shirt": ("shirt", "button-up shirt", "long-sleeved shirt"),
    "sweater": ("sweater", "pullover", "jumper"),
    "hoodie": ("hoodie", "hooded sweatshirt"),
    "jacket": ("jacket", "open jacket"),
    "blazer": ("blazer", "suit jacket"),
    "puffer": ("puffer jacket", "padded jacket", "down jacket", "quilted jacket"),
    "coat": ("coat", "long coat", "overcoat"),
    "dress": ("dress", "knee-length dress"),
    "top": ("top", "shirt"),
    "trousers": ("trousers", "pants", "slacks"),
    "jeans": ("jeans", "denim trousers", "denim pants"),
    "sweatpants": ("sweatpants", "jogging bottoms", "track pants"),
    "leggings": ("leggings", "tight leggings"),
    "shorts": ("shorts", "short trousers"),
    "skirt": ("skirt", "knee-length skirt"),
    "sneakers": ("sneakers", "trainers", "sports shoes"),
    "boots": ("boots", "high boots"),
    "leather shoes": ("leather shoes", "dress shoes"),
    "sandals": ("sandals", "open sandals"),
    "high heels": ("high heels", "heels", "pumps"),
    "backpack": ("backpack", "rucksack"),
    "handbag": ("handbag", "purse"),
    "shoulder bag": ("shoulder bag", "cross-body bag", "messenger bag"),
    "suitcase": ("suitcase", "wheeled suitcase", "trolley case"),
    "shopping bag": ("shopping bag", "carrier bag"),
    "cap": ("cap", "baseball cap"),
    "beanie": ("beanie", "knit hat", "woolly hat"),
    "sun hat": ("sun hat", "wide-brimmed hat"),
    "glasses": ("glasses", "spectacles", "eyeglasses"),
    "sunglasses": ("sunglasses", "dark glasses", "shades"),
    "scarf": ("scarf",),
    "mask": ("face mask", "mask"),
    "phone": ("phone", "mobile phone", "smartphone"),
    "umbrella": ("umbrella", "folded umbrella"),
    "cup": ("paper cup", "coffee cup", "cup of coffee"),
}
PLURAL = (
    "trousers",
    "jeans",
    "sweatpants",
    "leggings",
    "shorts",
    "sneakers",
    "boots",
    "leather shoes",
    "sandals",
)
PLURAL += ("high heels", "glasses", "sunglasses")
COLORS = {
    "gray": ("gray", "grey"),
    "navy": ("navy", "dark blue", "navy blue"),
    "light blue": ("light blue", "pale blue", "sky blue"),
    "olive": ("olive", "olive green", "khaki"),
    "beige": ("beige", "tan", "sand-coloured"),
    "purple": ("purple", "violet"),
    "blond": ("blond", "fair"),
}
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
    "logo": ("{c} {k} with a {d} print", "{c} {k} with a {d} logo on the chest"),
    "two-tone": ("two-tone {k} in {d} and {c}", "{c} {k} with {d} shoulders"),
    "side stripes": ("{c} {k} with {d} stripes down the sides", "{c} {k} with a {d} stripe along each leg"),
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
    "handbag": ("carries {}", "is holding {}"),
    "shoulder bag": ("carries {}", "has {} across {} body"),
    "suitcase": ("pulls {}", "is pulling {} along"),
    "shopping bag": ("carries {}", "is holding {}"),
    "phone": ("holds {}", "has {} in {} hand"),
    "umbrella": ("holds {}", "carries {} in {} hand"),
    "cup": ("holds {}", "has {} in {} hand"),
}


def article(phrase: str) -> str:
    """`phrase` with "a" or "an" before it."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def noun(item: Item, rng: random.Random) -> str:
    """A thing with its colours, with an article where it is one piece."""
    kind = rng.choice(KINDS[item.kind])
    color, second = (rng.choice(COLORS.get(name, (name,))) for name in (item.color, item.color2))
    if item.pattern:
        pattern = rng.choice((COLORED if item.color else UNCOLORED)[item.pattern])
        phrase = pattern.format(c=color, d=second, k=kind)
    else:
        phrase = f"{color} {kind}".strip()
    return phrase if item.kind in PLURAL else article(phrase)


def hair(item: Item, rng: random.Random) -> str:
    """The hair, as what a person has."""
    return rng.choice(HAIR[item.kind]).format(rng.choice(COLORS.get(item.color, (item.color,))))


def listed(parts: list[str]) -> str:
    """The parts joined by commas and a last "and"."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def clothes(content: "Content", rng: random.Random) -> list[str]:
    """All that is worn, an inner garment together with what is over it."""
    worn = []
    for field in ("upper", "lower", "shoes", "hat", "scarf", "glasses", "mask"):
        if field in content.items:
            phrase = noun(content.items[field], rng)
            if field == "upper" and "inner" in content.items:
                phrase += rng.choice((" over ", " worn over ")) + noun(content.items["inner"], rng)
            worn.append(phrase)
    return worn


def doings(content: "Content", rng: random.Random) -> list[str]:
    """What a person carries and how they are seen, as verb phrases."""
    their = "his" if content.sex == "man" else "her"
    items = content.items
    phrases = [
        rng.choice(CARRY[items[field].kind]).format(noun(items[field], rng), their)
        for field in ("bag", "hand")
        if field in items
    ]
    if "view" in items:
        phrases.append(rng.choice(VIEW[items["view"].kind]).format(their))
    return phrases


def caption(content: "Content", frame: int, rng: random.Random) -> str:
    """A caption of one or two sentences; `frame` (0 to 5) decides how it is built."""
    items, he = content.items, PRONOUN[content.sex]
    person = rng.choice(PEOPLE[content.sex])
    if "build" in items:
        person = f"{rng.choice(BUILD[items['build'].kind])} {person}"
    worn, does = clothes(content, rng), doings(content, rng)
    has = [f"has {hair(items['hair'], rng)}"] if "hair" in items else []
    with_hair = f" with {hair(items['hair'], rng)}" if has else ""
    wears = rng.choice(("wears", "is wearing", "is dressed in"))
    if frame == 0:
        sentences = [f"{article(person)}{with_hair} {wears} {listed(worn)}", does and f"{he} {listed(does)}"]
    elif frame == 1:
        first = f"the {person} {listed([*has, f'{wears} {listed(worn[:2])}'])}"
        rest = [f"wears {listed(worn[2:])}"] if worn[2:] else []
        sentences = [first, (rest or does) and f"{he} {'also ' * bool(rest)}{listed(rest + does)}"]
    elif frame == 2:
        main = listed(does) if does else "is walking along"
        sentences = [f"wearing {listed(worn)}, {article(person)}{with_hair} {main}"]
    elif frame == 3:
        sentences = [f"{article(person)} in {listed(worn)}", (has or does) and f"{he} {listed(has + does)}"]
    elif frame == 4:
        tail = f", and {he} {listed(does)}" if does else ""
        sentences = [f"this is {article(person)}{with_hair} dressed in {listed(worn)}{tail}"]
    else:
        wearing = f"{he} {wears} {listed(worn)}"
        opening = f"the {person} {listed(has + does)}" if has or does else f"there is {article(person)}"
        sentences = [opening, wearing]
    return " ".join(f"{s[0].upper()}{s[1:]}." for s in sentences if s)
