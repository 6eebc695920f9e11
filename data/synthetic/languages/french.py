"""French captions: adjectives follow the noun and agree with it in gender and number."""

import random
from functools import partial
from typing import NamedTuple

from data.synthetic.attributes import Item
from data.synthetic.languages import wording
from data.synthetic.languages.wording import ACCESSORIES, GARMENTS, Content, mentioned, paragraph


class Noun(NamedTuple):
    """A noun and its form: "m", "f", "mp" or "fp" (gender, plural)."""

    word: str
    form: str


PEOPLE = {
    "man": ("homme", "homme", "monsieur", "passant", "piéton"),
    "woman": ("femme", "femme", "dame", "passante"),
}
BUILD = {
    "slim": (("mince", "mince"), ("svelte", "svelte")),
    "heavy": (("corpulent", "corpulente"), ("enrobé", "enrobée")),
}
KINDS = {
    "t-shirt": (Noun("t-shirt", "m"), Noun("tee-shirt", "m")),
    "tank top": (Noun("débardeur", "m"), Noun("haut sans manches", "m")),
    "shirt": (Noun("chemise", "f"), Noun("chemise à manches longues", "f")),
    "sweater": (Noun("pull", "m"), Noun("pull-over", "m"), Noun("chandail", "m")),
    "hoodie": (Noun("sweat à capuche", "m"), Noun("pull à capuche", "m")),
    "jacket": (Noun("veste", "f"), Noun("blouson", "m")),
    "blazer": (Noun("blazer", "m"), Noun("veste de costume", "f")),
    "puffer": (Noun("doudoune", "f"), Noun("veste matelassée", "f")),
    "coat": (Noun("manteau", "m"), Noun("pardessus", "m")),
    "dress": (Noun("robe", "f"),),
    "top": (Noun("haut", "m"), Noun("t-shirt", "m")),
    "trousers": (Noun("pantalon", "m"), Noun("pantalon de toile", "m")),
    "jeans": (Noun("jean", "m"), Noun("pantalon en jean", "m")),
    "sweatpants": (Noun("pantalon de jogging", "m"), Noun("pantalon de survêtement", "m")),
    "leggings": (Noun("legging", "m"), Noun("legging moulant", "m")),
    "shorts": (Noun("short", "m"), Noun("bermuda", "m")),
    "skirt": (Noun("jupe", "f"),),
    "sneakers": (Noun("baskets", "fp"), Noun("tennis", "fp"), Noun("chaussures de sport", "fp")),
    "boots": (Noun("bottes", "fp"),),
    "leather shoes": (Noun("chaussures en cuir", "fp"), Noun("chaussures de ville", "fp")),
    "sandals": (Noun("sandales", "fp"),),
    "high heels": (Noun("escarpins", "mp"), Noun("talons hauts", "mp")),
    "backpack": (Noun("sac à dos", "m"),),
    "handbag": (Noun("sac à main", "m"),),
    "shoulder bag": (Noun("sac en bandoulière", "m"), Noun("besace", "f"), Noun("sacoche", "f")),
    "suitcase": (Noun("valise", "f"), Noun("valise à roulettes", "f")),
    "shopping bag": (Noun("sac de courses", "m"), Noun("cabas", "m")),
    "cap": (Noun("casquette", "f"),),
    "beanie": (Noun("bonnet", "m"), Noun("bonnet de laine", "m")),
    "sun hat": (Noun("chapeau", "m"), Noun("chapeau de soleil", "m")),
    "glasses": (Noun("lunettes", "fp"), Noun("lunettes de vue", "fp")),
    "sunglasses": (Noun("lunettes de soleil", "fp"), Noun("lunettes noires", "fp")),
    "scarf": (Noun("écharpe", "f"),),
    "mask": (Noun("masque", "m"),),
    "phone": (Noun("téléphone", "m"), Noun("téléphone portable", "m"), Noun("smartphone", "m")),
    "umbrella": (Noun("parapluie", "m"), Noun("parapluie fermé", "m")),
    "cup": (Noun("gobelet", "m"), Noun("gobelet de café", "m")),
}
STRIPES, BANDS = Noun("rayures", "fp"), Noun("bandes", "fp")
CHECKS, DOTS = Noun("carreaux", "mp"), Noun("pois", "mp")
Forms = dict[str, str]  # of an adjective, by the noun's form
LOGO, PRINT = Noun("logo", "m"), Noun("imprimé", "m")


def regular(stem: str, feminine: str = "") -> Forms:
    """The four forms of an adjective; its plurals take an s, after s or x none."""
    feminine = feminine or (stem if stem.endswith("e") else stem + "e")
    plural = stem if stem[-1] in "sx" else stem + "s"
    return {"m": stem, "f": feminine, "mp": plural, "fp": feminine + "s"}


def fixed(words: str) -> Forms:
    """A colour that never changes ("marron", "bleu marine")."""
    return dict.fromkeys(("m", "f", "mp", "fp"), words)


COLORS = {
    "black": (regular("noir"),), "white": (regular("blanc", "blanche"),), "gray": (regular("gris"),),
    "red": (regular("rouge"),), "blue": (regular("bleu"),), "green": (regular("vert"),),
    "yellow": (regular("jaune"),), "orange": (fixed("orange"),), "brown": (fixed("marron"),),
    "beige": (regular("beige"),), "pink": (regular("rose"),), "purple": (regular("violet", "violette"),),
    "navy": (fixed("bleu marine"), fixed("bleu foncé")), "olive": (fixed("vert olive"), fixed("kaki")),
    "light blue": (fixed("bleu clair"), fixed("bleu ciel")), "": (fixed(""),),
}  # fmt: skip
HAIR_COLORS = COLORS | {
    "brown": (regular("brun"), regular("châtain")), "blond": (regular("blond"),),
    "red": (regular("roux", "rousse"),),
}  # fmt: skip
HAIR = {
    "short": ("courts",), "curly": ("frisés", "bouclés"), "bob": ("mi-longs", "coupés au carré"),
    "long": ("longs",),
}  # fmt: skip
TIED = {"ponytail": Noun("queue de cheval", "f"), "bun": Noun("chignon", "m")}
UNCOLORED = {
    "stripes": ("à rayures", "à rayures horizontales"),
    "pinstripes": ("à rayures verticales",),
    "checks": ("à carreaux",),
    "dots": ("à pois",),
    "logo": ("avec un logo sur la poitrine", "avec un imprimé"),
    "two-tone": ("bicolore", "de deux couleurs"),
    "side stripes": ("à bandes latérales", "avec des bandes sur les côtés"),
}
VIEW = {
    "front": ("est {vu} de face", "fait face à la caméra"),
    "back": ("est {vu} de dos", "tourne le dos à la caméra"),
    "side": ("est {vu} de profil", "est {vu} de côté"),
}
CARRY = {
    "backpack": ("porte {}", "a {} sur le dos"),
    "shoulder bag": ("porte {}", "a {} sur le côté"),
    "suitcase": ("tire {}", "traîne {} derrière {}"),
    **dict.fromkeys(("handbag", "shopping bag"), ("porte {}", "tient {}")),
    **dict.fromkeys(("phone", "umbrella", "cup"), ("tient {}", "a {} à la main")),
}
ARTICLES = {"m": "un", "f": "une", "mp": "des", "fp": "des"}


both = partial(wording.listed, conjunction="et")


def agree(noun: Noun, *colors: Forms) -> str:
    """The noun with one colour, or with two joined by "et"."""
    return f"{noun.word} {' et '.join(color[noun.form] for color in colors)}".strip()


def patterned(noun: Noun, pattern: str, color: Forms, second: Forms, rng: random.Random) -> str:
    """A noun with the pattern and both its colours."""
    plain = agree(noun, color)
    choices = {
        "stripes": (f"{noun.word} à {agree(STRIPES, color, second)}", f"{plain} à {agree(STRIPES, second)}"),
        "pinstripes": (f"{plain} à rayures verticales {second['fp']}",
                       f"{noun.word} à rayures verticales {color['fp']} et {second['fp']}"),
        "checks": (f"{noun.word} à {agree(CHECKS, color, second)}", f"{plain} à {agree(CHECKS, second)}"),
        "dots": (f"{plain} à {agree(DOTS, second)}",),
        "logo": (f"{plain} avec un {agree(LOGO, second)} sur la poitrine",
                 f"{plain} avec un {agree(PRINT, second)}"),
        "two-tone": (f"{noun.word} bicolore {second[noun.form]} et {color[noun.form]}",
                     f"{plain} à empiècement {second['m']} aux épaules"),
        "side stripes": (f"{plain} à bandes latérales {second['fp']}",
                         f"{plain} avec des {agree(BANDS, second)} sur les côtés"),
    }  # fmt: skip
    return rng.choice(choices[pattern])


def thing(item: Item, rng: random.Random) -> str:
    """A thing with article, colours and pattern."""
    noun = rng.choice(KINDS[item.kind])
    color, second = rng.choice(COLORS[item.color]), rng.choice(COLORS[item.color2])
    if not item.pattern:
        words = agree(noun, color)
    elif item.color:
        words = patterned(noun, item.pattern, color, second, rng)
    else:
        words = f"{noun.word} {rng.choice(UNCOLORED[item.pattern])}"
    return f"{ARTICLES[noun.form]} {words}"


def hair(item: Item, rng: random.Random) -> str:
    """The hair, as what a person has."""
    if item.kind == "bald":
        return rng.choice(("le crâne rasé", "le crâne chauve"))
    color = rng.choice(HAIR_COLORS[item.color])
    if item.kind in TIED:
        noun = TIED[item.kind]
        return f"{ARTICLES[noun.form]} {agree(noun, color)}"
    cut = rng.choice(HAIR[item.kind])
    return rng.choice((f"les cheveux {color['mp']} et {cut}", f"des cheveux {color['mp']} et {cut}"))


def bare(words: str) -> str:
    """A thing without its article ("en pull rouge")."""
    return words.partition(" ")[2]


def of(words: str) -> str:
    """A thing after "de": d'un, d'une; "de des" becomes "de", or d' before a vowel."""
    if not words.startswith("des "):
        return f"d'{words}"
    return f"d'{bare(words)}" if bare(words)[0] in "aeéiou" else f"de {bare(words)}"


def over(inner: Item, rng: random.Random) -> str:
    """What is added to an open garment for the one below it."""
    return f" par-dessus {thing(inner, rng)}"


def doings(content: Content, rng: random.Random) -> list[str]:
    """What a person carries and how they are seen, as verb phrases."""
    him, seen = ("lui", "vu") if content.sex == "man" else ("elle", "vue")
    used = {"a"} if "hair" in content.items else set()
    phrases = wording.carried(content, CARRY, used, thing, him, rng)
    views = [rng.choice(VIEW[item.kind]).format(vu=seen) for _, item in mentioned(content, ("view",))]
    return phrases + views


def caption(content: Content, frame: int, rng: random.Random) -> str:
    """A caption of one or two sentences; `frame` (0 to 5) decides how it is built."""
    items, man = content.items, content.sex == "man"
    person = rng.choice(PEOPLE[content.sex])
    if "build" in items:
        person += " " + rng.choice(BUILD[items["build"].kind])[0 if man else 1]
    a_person = f"{'un' if man else 'une'} {person}"
    the_person = f"l'{person}" if person[0] == "h" else f"{'le' if man else 'la'} {person}"
    he, dressed = ("il", "vêtu") if man else ("elle", "vêtue")
    main, extra = (wording.clothes(content, fields, thing, over, rng) for fields in (GARMENTS, ACCESSORIES))
    does, with_extra = doings(content, rng), f", avec {both(extra)}" if extra else ""
    has = [f"a {hair(items['hair'], rng)}"] if "hair" in items else []
    if frame == 0:
        owner = f"{a_person} qui {has[0]}" if has else a_person
        sentences = [f"{owner} porte {both(main + extra)}", does and f"{he} {both(does)}"]
    elif frame == 1:
        also = [f"porte aussi {both(extra)}"] if extra else []
        sentences = [f"{the_person} {both([*has, f'porte {both(main)}'])}"]
        sentences.append((also or does) and f"{he} {both(also + does)}")
    elif frame == 2:
        seen = has + does or [rng.choice(("se trouve sur l'image", "apparaît sur l'image"))]
        sentences = [f"portant {both(main + extra)}, {a_person} {both(seen)}"]
    elif frame == 3:
        outfit = both([bare(words) for words in main])
        sentences = [f"{a_person} en {outfit}{with_extra}", (has or does) and f"{he} {both(has + does)}"]
    elif frame == 4:
        sentences = [f"sur l'image, {a_person} porte {both(main + extra)}"]
        sentences.append((has or does) and f"{he} {both(has + does)}")
    else:
        opening = f"{the_person} {both(has + does)}" if has or does else f"on voit {a_person}"
        outfit = both([of(words) for words in main])
        sentences = [opening, f"{he} est {dressed} {outfit}{with_extra}"]
    return paragraph(sentences)
