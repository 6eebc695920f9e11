"""English of the domains: other words for the same things, and other sentences.

A frame is a template of sentences separated by "|". "{slot}" is filled in; what is in brackets is left
out where one of its slots is empty, and a sentence where one outside of brackets is. Slots: `person` with the
build, `a_person`, `he`, `his`, `hair`, `clothes` (garments and shoes), `upper`, `lower`, `shoes`, `extra`
(hat, scarf, glasses, mask), `worn` (clothes and extra), `does` (verb phrases of what is carried and of the
view), `has_does` (the hair before these).
"""

import re
from dataclasses import dataclass, field

Words = dict[str, tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class Style:
    """The words that differ from those of `english`, by what they name, and the frames by number; with no
    frames, its own six sentence structures are used.
    """

    people: Words = field(default_factory=dict)
    kinds: Words = field(default_factory=dict)
    colors: Words = field(default_factory=dict)
    hair_colors: Words = field(default_factory=dict)
    patterns: Words = field(default_factory=dict)
    hair: Words = field(default_factory=dict)
    build: Words = field(default_factory=dict)
    view: Words = field(default_factory=dict)
    carry: Words = field(default_factory=dict)
    frames: dict[int, tuple[str, ...]] = field(default_factory=dict)

    @property
    def frame_numbers(self) -> tuple[int, ...]:
        return tuple(self.frames) or tuple(range(6))


def filled(template: str, slots: dict[str, str]) -> list[str]:
    """The sentences of a template that have something to say, without capitals and full stops."""

    def optional(found: re.Match[str]) -> str:
        return found[1] if all(slots[name] for name in re.findall(r"{(\w+)}", found[1])) else ""

    sentences = [re.sub(r"\[([^]]*)\]", optional, sentence) for sentence in template.split("|")]
    complete = (s for s in sentences if s and all(slots[name] for name in re.findall(r"{(\w+)}", s)))
    return [sentence.format(**slots) for sentence in complete]


STREET = Style()

CAMPUS = Style(
    people={
        "man": ("boy", "male student", "young man"),
        "woman": ("girl", "female student", "young woman"),
    },
    kinds={
        "t-shirt": ("t-shirt", "short-sleeve top"), "tank top": ("vest", "sleeveless shirt"),
        "shirt": ("shirt", "collared shirt"), "sweater": ("knit top", "sweater"),
        "hoodie": ("hoody", "hoodie"),
        "jacket": ("zip jacket", "jacket"), "blazer": ("suit top", "blazer"),
        "puffer": ("padded coat", "thick jacket"), "coat": ("long jacket", "coat"), "dress": ("dress",),
        "top": ("shirt",), "trousers": ("pants",), "jeans": ("jeans", "denims"),
        "sweatpants": ("joggers", "gym pants"), "leggings": ("tights", "leggings"), "shorts": ("shorts",),
        "skirt": ("skirt",), "sneakers": ("gym shoes", "running shoes"), "boots": ("boots",),
        "leather shoes": ("formal shoes",), "sandals": ("sandals",), "high heels": ("heels",),
        "backpack": ("school bag", "backpack"), "handbag": ("hand bag",),
        "shoulder bag": ("satchel", "side bag"),
        "suitcase": ("rolling case", "suitcase"), "shopping bag": ("plastic bag",), "cap": ("cap",),
        "beanie": ("wool cap", "beanie"), "sun hat": ("sun hat",), "glasses": ("glasses",),
        "sunglasses": ("sunglasses",), "mask": ("mask",), "phone": ("cellphone", "phone"),
        "umbrella": ("umbrella",), "cup": ("cup", "drink"),
    },
    colors={
        "gray": ("grey",), "navy": ("dark blue",), "light blue": ("light blue",), "olive": ("army green",),
        "beige": ("cream",), "purple": ("purple",), "orange": ("orange",),
    },
    hair_colors={"blond": ("blonde", "yellow")},
    patterns={
        "stripes": ("{c} and {d} striped {k}",), "pinstripes": ("{c} {k} with thin {d} lines",),
        "checks": ("{c} and {d} check {k}",), "dots": ("{c} {k} with {d} spots",),
        "logo": ("{c} {k} with {a_d} picture",), "two-tone": ("{d} and {c} {k}",),
        "side stripes": ("{c} {k} with {d} side lines",),
    },
    hair={
        "short": ("short {} hair",), "curly": ("curly {} hair",), "bob": ("medium {} hair",),
        "long": ("long {} hair",), "ponytail": ("a {} ponytail",), "bun": ("a {} hair bun",),
        "bald": ("no hair",),
    },
    build={"slim": ("thin", "skinny"), "heavy": ("chubby", "big")},
    view={"front": ("faces forward", "comes closer"), "back": ("faces away", "walks away"),
          "side": ("walks sideways", "looks sideways")},
    carry={
        "backpack": ("wears {}", "carries {}"), "handbag": ("carries {}",), "shoulder bag": ("wears {}",),
        "suitcase": ("drags {}",), "shopping bag": ("carries {}",), "phone": ("uses {}", "holds {}"),
        "umbrella": ("takes {} along", "holds {}"), "cup": ("holds {}", "takes {} along"),
    },
    frames={
        0: ("{a_person}[ with {hair}] in {worn}|[{he} {does}]",
            "{a_person} in {worn}|[{he} {has_does}]"),
        3: ("the {person} has {worn} on|[{he} {has_does}]",
            "{he} wears {worn}|{he} is {a_person}[ with {hair}]|[{he} {does}]"),
    },
)  # fmt: skip

MALL = Style(
    people={
        "man": ("male shopper", "adult man", "gentleman", "male customer"),
        "woman": ("female shopper", "adult woman", "lady", "female customer"),
    },
    kinds={
        "t-shirt": ("short-sleeved crew-neck shirt", "casual tee"),
        "tank top": ("sleeveless singlet", "sleeveless athletic top"),
        "shirt": ("button-down dress shirt", "long-sleeved button-up"),
        "sweater": ("knitted jumper", "crew-neck pullover", "woollen jersey"),
        "hoodie": ("hooded sweater", "sweatshirt with a hood"),
        "jacket": ("unzipped casual jacket", "lightweight jacket"),
        "blazer": ("tailored blazer", "sports coat"),
        "puffer": ("quilted winter jacket", "down-filled parka"),
        "coat": ("full-length overcoat", "trench coat"),
        "dress": ("single-piece dress", "knee-length frock"), "top": ("inner layer", "undershirt"),
        "trousers": ("tailored slacks", "chinos", "full-length trousers"),
        "jeans": ("denim jeans", "straight-cut denims"),
        "sweatpants": ("tracksuit bottoms", "elasticated sweatpants"),
        "leggings": ("skin-tight leggings", "stretch leggings"),
        "shorts": ("bermuda shorts", "cropped shorts"),
        "skirt": ("knee-length skirt", "flared skirt"), "sneakers": ("lace-up trainers", "athletic footwear"),
        "boots": ("high-shaft boots", "ankle-covering boots"),
        "leather shoes": ("polished oxfords", "leather dress shoes"), "sandals": ("open-toed sandals",),
        "high heels": ("stilettos", "high-heeled pumps"), "backpack": ("rucksack", "daypack"),
        "handbag": ("purse", "top-handle handbag"), "shoulder bag": ("crossbody bag", "messenger bag"),
        "suitcase": ("trolley suitcase", "wheeled travel case"),
        "shopping bag": ("retail carrier bag", "paper shopping bag"),
        "cap": ("baseball cap", "peaked cap"), "beanie": ("bobble hat", "woolly beanie"),
        "sun hat": ("broad-brimmed sun hat", "straw hat"), "glasses": ("spectacles", "framed eyeglasses"),
        "sunglasses": ("tinted shades", "dark sunglasses"),
        "scarf": ("knitted scarf", "neck scarf"),
        "mask": ("surgical face mask", "protective face covering"),
        "phone": ("smartphone", "mobile handset"),
        "umbrella": ("furled umbrella", "rolled-up parasol"),
        "cup": ("takeaway coffee", "disposable beverage cup"),
    },
    colors={
        "black": ("jet-black", "black"), "white": ("white", "snow-white"),
        "gray": ("slate-gray", "medium gray"),
        "red": ("crimson", "scarlet red"), "blue": ("royal blue", "cobalt blue"),
        "navy": ("navy", "midnight blue"), "light blue": ("baby blue", "powder blue"),
        "green": ("leaf-green", "bottle green"), "olive": ("khaki green", "moss green"),
        "yellow": ("golden yellow", "mustard"), "orange": ("tangerine", "bright orange"),
        "brown": ("chocolate brown", "chestnut"), "beige": ("camel", "sandy beige"),
        "pink": ("rose pink", "salmon pink"), "purple": ("violet", "plum"),
    },
    hair_colors={
        "black": ("jet-black", "black"), "brown": ("chestnut", "chocolate brown"),
        "blond": ("golden", "fair"), "red": ("ginger", "copper red"), "gray": ("silver-gray", "gray"),
    },
    patterns={
        "stripes": ("{k} with alternating {c} and {d} stripes", "horizontally striped {k} in {c} and {d}"),
        "pinstripes": ("{k} in {c} decorated with vertical {d} lines", "{c} {k} with {d} pinstripes"),
        "checks": ("tartan {k} combining {c} and {d}", "{c} {k} with a {d} checkered pattern"),
        "dots": ("{c} {k} sprinkled with {d} polka dots", "spotted {k} in {c} and {d}"),
        "logo": ("{c} {k} bearing {a_d} emblem across the chest", "{c} {k} featuring {a_d} graphic print"),
        "two-tone": ("colour-block {k} of {c} with {a_d} upper part",
            "{c} {k} with contrasting {d} shoulders"),
        "side stripes": ("{c} {k} trimmed with {d} bands along the legs",),
    },
    hair={
        "short": ("closely cropped {} hair", "{} hair that is cut short"),
        "curly": ("curly {} locks", "{} ringlets"),
        "bob": ("{} hair that ends at the chin", "a {} bob haircut"),
        "long": ("{} hair flowing past the shoulders",),
        "ponytail": ("{} hair gathered into a ponytail",), "bun": ("{} hair pinned up in a bun",),
        "bald": ("a clean-shaven scalp", "a bald head"),
    },
    build={"slim": ("slender", "lean"), "heavy": ("stout", "heavily built")},
    view={
        "front": ("walks towards the viewer", "looks straight at the viewer"),
        "back": ("turns {} back on the viewer", "moves away from the viewer"),
        "side": ("passes by in profile", "moves across the picture in side view"),
    },
    carry={
        "backpack": ("shoulders {}", "bears {} on {} back"),
        "handbag": ("grips {}", "clutches {} in {} hand"),
        "shoulder bag": ("has slung {} across {} torso",), "suitcase": ("tows {} along", "wheels {} behind"),
        "shopping bag": ("brings {} along", "grips {} in {} hand"), "phone": ("grasps {} in {} hand",),
        "umbrella": ("brings {} along", "grasps {} in {} hand"), "cup": ("grasps {} in {} hand",),
    },
    frames={
        1: ("the {person}[, who has {hair},] is clad in {clothes}|[{he} has completed this outfit with "
            "{extra}]|"
            "[in addition to that, {he} {does}]",),
        2: ("[attired in {upper}][, paired with {lower}][, and walking in {shoes}], {a_person}[ with "
            "{hair}] strolls "
            "through the scene|[also noticeable on {his} head or neck: {extra}]|[meanwhile {he} {does}]",),
        4: ("the picture captures {a_person}[ with {hair}], whose outfit consists of {clothes}[, "
            "complemented by "
            "{extra}]|[at the same time {he} {does}]",),
        5: ("visible here is {a_person}[ having {hair}][, who {does}]|"
            "as for clothing, {he} has chosen {clothes}[, accompanied by {extra}]",),
    },
)  # fmt: skip
