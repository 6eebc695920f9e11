"""German captions: gender, case and adjective endings after the indefinite article or none."""

import random
from functools import partial
from typing import NamedTuple

from data.synthetic.attributes import Item
from data.synthetic.languages import wording
from data.synthetic.languages.wording import ACCESSORIES, GARMENTS, Content, mentioned, paragraph


class Noun(NamedTuple):
    """A noun, "m", "f", "n" or "p" (plural), and its dative where that differs."""

    word: str
    gender: str
    dative: str = ""


PEOPLE = {
    "man": ("Mann", "Mann", "Herr", "Passant", "Fußgänger"),
    "woman": ("Frau", "Frau", "Dame", "Passantin", "Fußgängerin"),
}
BUILD = {"slim": ("schlank", "dünn"), "heavy": ("kräftig", "korpulent", "stämmig")}
KINDS = {
    "t-shirt": (Noun("T-Shirt", "n"), Noun("Kurzarmshirt", "n")),
    "tank top": (Noun("Tanktop", "n"), Noun("Trägertop", "n")),
    "shirt": (Noun("Hemd", "n"), Noun("Langarmhemd", "n")),
    "sweater": (Noun("Pullover", "m"), Noun("Pulli", "m"), Noun("Strickpullover", "m")),
    "hoodie": (Noun("Kapuzenpullover", "m"), Noun("Hoodie", "m")),
    "jacket": (Noun("Jacke", "f"), Noun("Übergangsjacke", "f")),
    "blazer": (Noun("Blazer", "m"), Noun("Sakko", "n")),
    "puffer": (Noun("Daunenjacke", "f"), Noun("Steppjacke", "f")),
    "coat": (Noun("Mantel", "m"), Noun("Wintermantel", "m")),
    "dress": (Noun("Kleid", "n"),),
    "top": (Noun("Oberteil", "n"), Noun("Shirt", "n")),
    "trousers": (Noun("Hose", "f"), Noun("Stoffhose", "f")),
    "jeans": (Noun("Jeans", "f"), Noun("Jeanshose", "f")),
    "sweatpants": (Noun("Jogginghose", "f"), Noun("Trainingshose", "f")),
    "leggings": (Noun("Leggings", "f"), Noun("Leggings", "p")),
    "shorts": (Noun("Shorts", "p"), Noun("Bermudashorts", "p")),
    "skirt": (Noun("Rock", "m"),),
    "sneakers": (Noun("Turnschuhe", "p", "Turnschuhen"), Noun("Sneaker", "p", "Sneakern"),
                 Noun("Sportschuhe", "p", "Sportschuhen")),
    "boots": (Noun("Stiefel", "p", "Stiefeln"), Noun("Winterstiefel", "p", "Winterstiefeln")),
    "leather shoes": (Noun("Lederschuhe", "p", "Lederschuhen"), Noun("Halbschuhe", "p", "Halbschuhen")),
    "sandals": (Noun("Sandalen", "p"),),
    "high heels": (Noun("Stöckelschuhe", "p", "Stöckelschuhen"), Noun("Pumps", "p"), Noun("High Heels", "p")),
    "backpack": (Noun("Rucksack", "m"),),
    "handbag": (Noun("Handtasche", "f"),),
    "shoulder bag": (Noun("Umhängetasche", "f"), Noun("Schultertasche", "f")),
    "suitcase": (Noun("Koffer", "m"), Noun("Rollkoffer", "m")),
    "shopping bag": (Noun("Einkaufstasche", "f"), Noun("Einkaufstüte", "f")),
    "cap": (Noun("Kappe", "f"), Noun("Schirmmütze", "f"), Noun("Baseballkappe", "f")),
    "beanie": (Noun("Strickmütze", "f"), Noun("Wollmütze", "f")),
    "sun hat": (Noun("Sonnenhut", "m"), Noun("Hut", "m")),
    "glasses": (Noun("Brille", "f"),),
    "sunglasses": (Noun("Sonnenbrille", "f"),),
    "scarf": (Noun("Schal", "m"),),
    "mask": (Noun("Maske", "f"), Noun("Gesichtsmaske", "f"), Noun("Mundschutz", "m")),
    "phone": (Noun("Handy", "n"), Noun("Smartphone", "n")),
    "umbrella": (Noun("Regenschirm", "m"), Noun("Schirm", "m")),
    "cup": (Noun("Becher", "m"), Noun("Kaffeebecher", "m"), Noun("Pappbecher", "m")),
}  # fmt: skip
# Each colour: as an adjective's stem, before another colour ("rosa-weiß"), as a noun ("in Rosa").
COLORS = {name: tuple((stem, stem, stem.capitalize()) for stem in stems) for name, stems in {
    "black": ("schwarz",), "white": ("weiß",), "gray": ("grau",), "red": ("rot",), "blue": ("blau",),
    "navy": ("dunkelblau", "marineblau"), "light blue": ("hellblau", "himmelblau"), "green": ("grün",),
    "yellow": ("gelb",), "brown": ("braun",), "blond": ("blond",), "": ("",),
}.items()}  # fmt: skip
COLORS |= {
    "olive": (("olivgrün", "olivgrün", "Olivgrün"), ("khakifarben", "khaki", "Khaki")),
    "orange": (("orangefarben", "orange", "Orange"),),
    "beige": (("beigefarben", "beige", "Beige"), ("sandfarben", "beige", "Beige")),
    "pink": (("rosafarben", "rosa", "Rosa"),),
    "purple": (("violett", "violett", "Violett"), ("lilafarben", "lila", "Lila")),
}
HAIR = {
    "short": ("kurz",),
    "curly": ("lockig", "gelockt"),
    "bob": ("kinnlang",),
    "long": ("lang", "schulterlang"),
}
TIED = {
    "ponytail": (Noun("Pferdeschwanz", "m"), Noun("Zopf", "m")),
    "bun": (Noun("Dutt", "m"), Noun("Haarknoten", "m")),
    "bald": (Noun("Glatze", "f"),),
}
# A pattern: the adjective before the noun, or the words after it. {c}, {d}: compounds; {C}, {D}: nouns;
# {d_stem}: the second colour's stem.
COLORED = {
    "stripes": (("{c}-{d} gestreift", ""), ("{c_stem}", "mit {d_stem}en Querstreifen")),
    "pinstripes": (("längs gestreift", "in {C} und {D}"), ("{c_stem}", "mit {d_stem}en Längsstreifen")),
    "checks": (("{c}-{d} kariert", ""), ("kariert", "in {C} und {D}")),
    "dots": (("{c}-{d} gepunktet", ""), ("{c_stem}", "mit {d_stem}en Punkten")),
    "logo": (("{c_stem}", "mit {d_stem}em Aufdruck"), ("{c_stem}", "mit {d_stem}em Logo auf der Brust")),
    "two-tone": (("zweifarbig", "in {D} und {C}"), ("{c_stem}", "mit {d_stem}er Schulterpartie")),
    "side stripes": (("{c_stem}", "mit {d_stem}en Seitenstreifen"),
                     ("{c_stem}", "mit {d_stem}en Streifen an den Seiten")),
}  # fmt: skip
UNCOLORED = {
    "stripes": (("gestreift", ""), ("quer gestreift", "")),
    "pinstripes": (("längs gestreift", ""), ("", "mit Längsstreifen")),
    "checks": (("kariert", ""), ("", "mit Karomuster")),
    "dots": (("gepunktet", ""), ("", "mit Punktmuster")),
    "logo": (("bedruckt", ""), ("", "mit einem Logo auf der Brust")),
    "two-tone": (("zweifarbig", ""),),
    "side stripes": (("", "mit Seitenstreifen"), ("", "mit Streifen an den Seiten")),
}
VIEW = {
    "front": ("ist von vorn zu sehen", "blickt in die Kamera"),
    "back": ("ist von hinten zu sehen", "kehrt der Kamera den Rücken zu"),
    "side": ("ist von der Seite zu sehen", "ist im Profil zu sehen"),
}
CARRY = {
    "backpack": ("trägt {}", "hat {} auf dem Rücken"),
    "shoulder bag": ("trägt {}", "hat {} dabei"),
    "suitcase": ("zieht {}", "zieht {} hinter sich her"),
    **dict.fromkeys(("handbag", "shopping bag"), ("trägt {}", "hat {} in der Hand")),
    **dict.fromkeys(("phone", "umbrella", "cup"), ("hält {}", "hat {} in der Hand")),
}
ARTICLES = {"nom": {"m": "ein", "f": "eine", "n": "ein"}, "acc": {"m": "einen", "f": "eine", "n": "ein"}}
ARTICLES["dat"] = {"m": "einem", "f": "einer", "n": "einem"}
ENDINGS = {
    "nom": {"m": "er", "f": "e", "n": "es", "p": "e"},
    "acc": {"m": "en", "f": "e", "n": "es", "p": "e"},
    "dat": {"m": "en", "f": "en", "n": "en", "p": "en"},
}


both = partial(wording.listed, conjunction="und")


def phrase(noun: Noun, stems: list[str], case: str) -> str:
    """Article, declined adjectives and noun; a plural has no article."""
    ending = ENDINGS[case][noun.gender]
    adjectives = [stem + ending for stem in stems if stem]
    word = noun.dative if case == "dat" and noun.dative else noun.word
    return " ".join(filter(None, [ARTICLES[case].get(noun.gender, ""), " ".join(adjectives), word]))


def thing(case: str, item: Item, rng: random.Random) -> str:
    """A thing with its colours and pattern."""
    noun = rng.choice(KINDS[item.kind])
    color, second = rng.choice(COLORS[item.color]), rng.choice(COLORS[item.color2])
    if not item.pattern:
        return phrase(noun, [color[0]], case)
    before, after = rng.choice((COLORED if item.color else UNCOLORED)[item.pattern])
    names = {"c": color[1], "d": second[1], "C": color[2], "D": second[2]}
    names |= {"c_stem": color[0], "d_stem": second[0]}
    return f"{phrase(noun, [before.format(**names)], case)} {after.format(**names)}".strip()


def hair(item: Item, case: str, rng: random.Random) -> str:
    """The hair, as what a person has (acc) or comes with (dat)."""
    color = rng.choice(COLORS[item.color])[0]
    if item.kind in TIED:
        return phrase(rng.choice(TIED[item.kind]), [color], case)
    noun = rng.choice((Noun("Haare", "p", "Haaren"), Noun("Haar", "n")))
    adjectives = [rng.choice(HAIR[item.kind]), color]
    if noun.gender == "p":
        return phrase(noun, adjectives, case)
    ending = {"acc": "es", "dat": "em"}[case]
    return " ".join([*(stem + ending for stem in adjectives), noun.word])


def clothes(content: Content, fields: tuple[str, ...], case: str, rng: random.Random) -> list[str]:
    """What is worn of these fields, an inner garment in the dative after what is over it."""
    in_case, over = partial(thing, case), lambda inner, rng: f" über {thing('dat', inner, rng)}"
    return wording.clothes(content, fields, in_case, over, rng)


def doings(content: Content, rng: random.Random) -> list[str]:
    """What a person carries and how they are seen, as verb phrases."""
    used = {"hat"} if "hair" in content.items else set()
    phrases = wording.carried(content, CARRY, used, partial(thing, "acc"), "", rng)
    return phrases + [rng.choice(VIEW[item.kind]) for _, item in mentioned(content, ("view",))]


def caption(content: Content, frame: int, rng: random.Random) -> str:
    """A caption of one or two sentences; `frame` (0 to 5) decides how it is built."""
    items, man = content.items, content.sex == "man"
    noun = Noun(rng.choice(PEOPLE[content.sex]), "m" if man else "f")
    build = rng.choice(BUILD[items["build"].kind]) if "build" in items else ""
    a_person, he = phrase(noun, [build], "nom"), "er" if man else "sie"
    the_person = " ".join(filter(None, ["der" if man else "die", build and build + "e", noun.word]))
    main = clothes(content, GARMENTS, "dat" if frame in (2, 3, 5) else "acc", rng)
    extra = clothes(content, ACCESSORIES, "dat" if frame in (3, 5) else "acc", rng)
    does, also = doings(content, rng), [f"trägt außerdem {both(extra)}"] if extra else []
    has = [f"hat {hair(items['hair'], 'acc', rng)}"] if "hair" in items else []
    with_hair = f" mit {hair(items['hair'], 'dat', rng)}" if has else ""
    if frame == 0:
        sentences = [f"{a_person}{with_hair} trägt {both(main + extra)}", does and f"{he} {both(does)}"]
    elif frame == 1:
        sentences = [f"{the_person} {both([*has, f'trägt {both(main)}'])}"]
        sentences.append((also or does) and f"{he} {both(also + does)}")
    elif frame == 2:
        where = rng.choice(("ist hier", "ist auf dem Bild"))
        sentences = [f"in {both(main)} {where} {a_person}{with_hair} zu sehen"]
        sentences.append((also or does) and f"{he} {both(also + does)}")
    elif frame == 3:
        with_extra = f", mit {both(extra)}" if extra else ""
        sentences = [f"{a_person} in {both(main)}{with_extra}"]
        sentences.append((has or does) and f"{he} {both(has + does)}")
    elif frame == 4:
        sentences = [f"auf dem Bild trägt {a_person}{with_hair} {both(main + extra)}"]
        sentences.append(does and f"{he} {both(does)}")
    else:
        opening = f"{the_person} {both(has + does)}" if has or does else f"man sieht {see(noun, build)}"
        sentences = [opening, f"bekleidet ist {he} mit {both(main + extra)}"]
    return paragraph(sentences)


def see(noun: Noun, build: str) -> str:
    """The person as an object; "Herr" and "Passant" are weak nouns."""
    weak = {"Herr": "Herrn", "Passant": "Passanten"}
    return phrase(noun._replace(word=weak.get(noun.word, noun.word)), [build], "acc")
