"""The wording of the rendered people's captions: agreement, articles, measure words, equal content."""

import random
import re
from functools import cache

import pytest

from data.synthetic.attributes import Item, draw_identities
from data.synthetic.camera import draw_shot
from data.synthetic.captions import LANGUAGES, draw_content, image_captions, visible_items
from data.synthetic.languages.wording import Content


@cache
def texts(language: str) -> tuple[str, ...]:
    """Some 2,000 captions and paraphrases."""
    found = []
    for index, person in enumerate(draw_identities(8, 500)):
        rng = random.Random(index)
        both = image_captions(person, draw_shot(rng, 0), rng)[language]
        found += both["captions"] + both["captions_bt"]
    return tuple(found)


@pytest.mark.parametrize("language", list(LANGUAGES))
def test_captions_are_whole_sentences(language: str) -> None:
    for text in texts(language):
        assert text[-1] == ("。" if language == "ch" else ".")
        assert not re.search(r"[{}\[\]]|  |\.\.|，，|。。| ,| \.|None", text), text
        assert language == "ch" or text[0].isupper()
        assert len(re.findall(r"[.。]", text)) <= 2


@pytest.mark.parametrize("language", list(LANGUAGES))
def test_captions_vary(language: str) -> None:
    openings = {text[:12] for text in texts(language)}
    assert len(openings) > 60
    assert len(set(texts(language))) > 0.95 * len(texts(language))


def test_english_captions_have_the_usual_length() -> None:
    lengths = sorted(len(text.split()) for text in texts("en"))
    assert lengths[0] >= 5
    assert lengths[-1] <= 60
    assert 15 <= lengths[len(lengths) // 2] <= 40


def test_english_articles_fit_the_next_sound_and_the_number() -> None:
    for text in texts("en"):
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]", text), text
        plural = r"(?:jeans|trousers|pants|shorts|leggings|sneakers|trainers|shoes|boots|heels|sandals)"
        assert not re.search(rf"\b[Aa]n? (?:[\w-]+ )?{plural}\b", text), text


GERMAN = {
    "m": "Pullover Pulli Strickpullover Kapuzenpullover Hoodie Blazer Mantel Wintermantel Rock Rucksack "
    "Koffer Rollkoffer Sonnenhut Hut Schal Mundschutz Regenschirm Schirm Becher Kaffeebecher Pappbecher "
    "Pferdeschwanz Zopf Dutt Haarknoten Mann Herr Herrn Passant Passanten Fußgänger",
    "f": "Jacke Übergangsjacke Daunenjacke Steppjacke Hose Stoffhose Jeans Jeanshose Jogginghose Kappe "
    "Trainingshose Handtasche Umhängetasche Schultertasche Einkaufstasche Einkaufstüte Schirmmütze "
    "Baseballkappe Strickmütze Wollmütze Brille Sonnenbrille Maske Gesichtsmaske Glatze Leggings Frau "
    "Dame Passantin Fußgängerin",
    "n": "T-Shirt Kurzarmshirt Tanktop Trägertop Hemd Langarmhemd Sakko Kleid Oberteil Shirt Handy "
    "Smartphone Logo",
}
GERMAN_GENDER = {noun: gender for gender, nouns in GERMAN.items() for noun in nouns.split()}
# What may stand between article and noun: the ending of every adjective, by article and gender.
GERMAN_ENDINGS = {
    ("ein", "m"): "er", ("ein", "n"): "es", ("eine", "f"): "e", ("einen", "m"): "en",
    ("einem", "m"): "en", ("einem", "n"): "en", ("einer", "f"): "en",
    ("der", "m"): "e", ("die", "f"): "e",
}  # fmt: skip


def test_german_articles_and_adjectives_agree_with_their_noun() -> None:
    phrase = re.compile(r"\b([Ee]in(?:e[nmr]?)?|[Dd]er|[Dd]ie) ((?:[a-zäöüß-]+ ){0,3})([A-ZÄÖÜ][\wäöüß-]+)")
    checked = 0
    for text in texts("de"):
        for article, adjectives, noun in phrase.findall(text):
            if noun in ("Kamera", "Hand", "Brust", "Seite"):
                continue
            ending = GERMAN_ENDINGS.get((article.lower(), GERMAN_GENDER[noun]))
            assert ending, (article, noun, text)
            last = adjectives.split()[-1:] or [ending]
            assert last[0].endswith(ending), (article, adjectives, noun, text)
            assert len(last[0]) < 4 or not (ending == "e" and last[0].endswith(("en", "er", "es"))), text
            checked += 1
    assert checked > 4000


def test_german_prepositions_take_the_dative_and_verbs_the_accusative() -> None:
    for text in texts("de"):
        assert not re.search(r"\b([Mm]it|[Ii]n|über) (ein|eine|einen)\b", text), text
        assert not re.search(r"\b(trägt|hält|zieht|hat) (?:außerdem )?(einem|einer)\b", text), text
        assert not re.search(r"(?<!Bild )\b(?:trägt|hält|zieht|hat) ein \w+er [A-Z]", text), text
        nominative = r"(?:Schuhe|Turnschuhe|Sportschuhe|Lederschuhe|Halbschuhe|Stiefel)"
        assert not re.search(rf"en {nominative}\b", text), text


FRENCH = {
    "un": "t-shirt tee-shirt débardeur haut pull pull-over chandail sweat blouson blazer manteau pardessus "
    "pantalon jean legging short bermuda sac cabas bonnet chapeau masque téléphone smartphone parapluie "
    "gobelet chignon homme monsieur passant piéton logo imprimé",
    "une": "chemise veste doudoune robe jupe besace sacoche valise casquette écharpe queue femme dame "
    "passante",
    "des": "baskets tennis chaussures bottes sandales escarpins talons lunettes cheveux bandes",
}
FRENCH_ARTICLE = {noun: article for article, nouns in FRENCH.items() for noun in nouns.split()}


def test_french_articles_agree_with_their_noun() -> None:
    checked = 0
    for text in texts("fr"):
        for article, noun in re.findall(r"(?:\b|')(une?|Une?|[Dd]es) ([\wéèêûâîç-]+)", text):
            assert FRENCH_ARTICLE[noun] == article.lower(), (article, noun, text)
            checked += 1
        assert not re.search(r"\b(de|le|la) [aeiouéh](?!aut)", text), text
    assert checked > 4000


def test_french_colours_agree_with_the_noun_before_them() -> None:
    feminine = r"(?:chemise|veste|doudoune|robe|jupe|besace|sacoche|valise|casquette|écharpe|queue de cheval)"
    plural = r"(?:baskets|tennis|chaussures (?:de ville|de sport|en cuir)|bottes|sandales|rayures)"
    singular = r"(?:noire?|verte?|grise?|blanche?|violette?|bleue?|rouge|jaune)"
    masculine = (
        r"(?:débardeur|pull|blouson|blazer|manteau|pantalon|jean|legging|short|bonnet|chapeau|chignon)"
    )
    fixed = r"(?:marrons|oranges|kakis|bleue (?:marine|foncé|clair|ciel)|verte olive)"
    compound = r"(?! (?:marine|foncé|clair|ciel|olive))"
    for text in texts("fr"):
        assert not re.search(rf"{feminine} (?:noir|vert|gris|blanc|violet|bleu)\b{compound}", text), text
        assert not re.search(rf"{plural} {singular}\b{compound}", text)
        assert not re.search(rf"{masculine} (?:noire|verte|grise|blanche|violette|bleue|rouges)", text), text
        assert not re.search(rf"\b{fixed}\b", text), text
        assert not re.search(r"\b[EeIi]lle est (?:vu|vêtu)\b|\b[Ii]l est (?:vue|vêtue)\b", text), text


MEASURES = {
    "件": ("T恤", "衣", "背心", "衫", "夹克", "外套", "羽绒服", "棉服"),
    "条": ("裤", "裤子", "裙", "裙子", "围巾"),
    "双": ("鞋", "靴", "靴子"), "个": ("包", "袋", "手袋", "箱", "口罩", "杯"),
    "顶": ("帽",), "副": ("镜",), "部": ("手机",), "把": ("伞",),
}  # fmt: skip


def test_chinese_measure_words_fit_what_they_count() -> None:
    checked = 0
    for text in texts("ch"):
        for measure, thing in re.findall(r"一([件条双个顶副部把])(.+?)(?=，|。|和一)", text):
            assert thing.endswith(MEASURES[measure]), (measure, thing, text)
            checked += 1
    assert checked > 4000


def test_all_languages_say_the_same_in_every_frame() -> None:
    """Red trousers, a blue umbrella and a green hat must turn up, whoever words it and however."""
    words = {
        "en": ("red", "green", "umbrella", "hat|cap"),
        "ch": ("红色", "绿色", "伞", "帽"),
        "de": ("rot", "grün", "[Ss]chirm", "hut|mütze|kappe|Hut|Kappe"),
        "fr": ("rouge", "vert", "parapluie", "chapeau|bonnet|casquette"),
    }
    things = {"lower": Item("trousers", "red"), "hat": Item("cap", "green"), "hand": Item("umbrella", "blue")}
    rng = random.Random(0)
    for sex in ("man", "woman"):
        for frame in range(6):
            for language, word in LANGUAGES.items():
                text = word(Content(sex, things), frame, rng)
                assert all(re.search(part, text) for part in words[language]), text


def test_a_caption_tells_at_most_six_things_and_always_a_garment() -> None:
    rng = random.Random(2)
    for person in draw_identities(4, 300):
        seen = visible_items(person, draw_shot(rng, 0))
        content = draw_content(seen, person.sex, rng)
        assert {"upper", "lower"} & set(content.items)
        assert len(content.items) <= 6
        assert set(content.items) <= set(seen)


def test_captions_speak_only_of_what_the_shot_shows() -> None:
    people = draw_identities(3, 400)
    rng = random.Random(0)
    for person in people:
        shot = draw_shot(rng, 0)
        seen = visible_items(person, shot)
        if shot.pose.view == "back":
            assert not {"glasses", "mask", "inner"} & set(seen)
        if shot.pose.view != "front":
            assert seen["upper"].pattern != "logo"
        if shot.feet_hidden:
            assert "shoes" not in seen
