"""Captions as they are scraped from the web: short, elliptic, noisy, and some about something else."""

import random

from data.synthetic.attributes import Item
from data.synthetic.languages import english
from data.synthetic.languages.english_styles import Style
from data.synthetic.languages.wording import Content

# The share of captions that say nothing about the person.
EMPTY_SHARE = 0.1
# What replaces a domain's parameters of the same names (see `Domain`): few things, patterns seldom.
CONTENT = {
    "garments": (55, 28, 17), "num_things": (1, 3), "plain": 0.6, "uncolored": 0.2, "view_named": 0.15,
}  # fmt: skip
EMPTY = {
    "en": ("stock photo", "img_{:04d}.jpg", "image {} of 9999", "street style 2019",
           "free download hd wallpaper",
           "untitled", "click to enlarge", "photo by admin", "people in the city", "dsc{:04d}", "daily life",
           "royalty free picture no. {}"),
    "ch": ("图片{}", "库存照片", "街拍2019", "点击查看大图", "城市生活", "无标题"),
    "de": ("Stockfoto {}", "Bild {}", "Straßenmode 2019", "zum Vergrößern klicken",
           "Leben in der Stadt", "ohne Titel"),
    "fr": ("photo libre de droits", "image {}", "mode de rue 2019", "cliquer pour agrandir", "vie en ville",
           "sans titre"),
}  # fmt: skip
NOISE = (
    "stock photo", "street style 2019", "street style", "ootd", "lookbook", "free image", "fashion blog",
    "outfit ideas", "hd", "candid", "new collection", "sale", "photo no. {}", "best of {}", "#fashion",
    "spring 2018",
)  # fmt: skip
# {things}: what is worn and carried, one after the other; {thing}: the first; {with}: all, with articles.
FORMS = {
    "{things} {person} walking": 4, "{person} in {with}": 4, "photo of {a_person} with {with}": 3,
    "{person} {things}": 3, "{things}": 3, "{a_person} wearing {with}": 2, "{thing} outfit {person}": 2,
    "{thing}": 1, "{person}, {things}": 2, "picture of {a_person}, {things}": 1, "{thing} for {sex}": 1,
}  # fmt: skip
NOISE_SHARE = 0.35
PEOPLE = {"man": ("man", "man", "guy", "male"), "woman": ("woman", "woman", "lady", "female", "girl")}
VIEW = {"front": "front view", "back": "from behind", "side": "side view"}
BUILD = {"slim": "slim", "heavy": "plus size"}


def alt_text(content: Content, rng: random.Random, style: Style) -> str:
    """A web caption in English of some or all of the content."""
    items = dict(content.items)
    view, build = items.pop("view", None), items.pop("build", None)
    fields = rng.sample(list(items), len(items))
    person = rng.choice(PEOPLE[content.sex])
    if build:
        person = f"{BUILD[build.kind]} {person}"
    words = [name(field, items[field], rng, style) for field in fields]
    slots = {
        "things": " ".join(words),
        "thing": words[0],
        "with": rng.choice((" and ", ", ", " ")).join(
            word if field == "hair" or items[field].kind in english.PLURAL else english.article(word)
            for field, word in zip(fields, words, strict=True)
        ),
        "person": person,
        "a_person": english.article(person),
        "sex": {"man": "men", "woman": "women"}[content.sex],
    }
    text = rng.choices(list(FORMS), list(FORMS.values()))[0].format(**slots)
    return noisy(f"{text} {VIEW[view.kind]}" if view else text, rng)


def name(field: str, item: Item, rng: random.Random, style: Style) -> str:
    """A thing in few words, without an article."""
    if field == "hair":
        return english.hair(item, rng, style).removeprefix("a ")
    return english.bare(item, rng, style)


def noisy(text: str, rng: random.Random) -> str:
    """The text with irrelevant words before or after it, in one of the web's spellings."""
    if rng.random() < NOISE_SHARE:
        noise = rng.choice(NOISE).format(rng.randint(1, 99))
        text = rng.choice(("{1} {0}", "{0} - {1}", "{0}, {1}", "{0} {1}", "{1}: {0}")).format(text, noise)
    spelled = rng.random()
    return text.title() if spelled < 0.12 else text.capitalize() if spelled < 0.3 else text
