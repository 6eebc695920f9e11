"""Domains and web captions: street stays as it was, the others differ from it, and all speak the truth."""

import hashlib
import json
import random
import re
import statistics
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.synthetic.__main__ import main
from data.synthetic.attributes import RGB, draw_identities
from data.synthetic.camera import NUM_CAMERAS, Shot, camera_sensor, draw_shot, expose
from data.synthetic.captions import draw_content, image_captions, visible_items, web_captions
from data.synthetic.domains import DOMAINS, Domain
from data.synthetic.languages import english, web
from data.synthetic.languages.wording import Content
from data.synthetic.write import Parameters, generate, plan

TINY = Parameters(4, 0, 1, 1, 1)
# The captions of `TINY` before there were domains, and the mean red, green and blue of its images.
TINY_CAPTIONS = "3bfc4ce23075bc043f538253faa488f2292347a8905b7d82c775d054f01cdd97"
TINY_COLORS = [(88.0, 92.9, 81.2), (148.2, 146.8, 148.5), (97.6, 109.0, 96.3), (78.8, 84.8, 85.8)]


def made(out: Path, **parameters: object) -> dict[str, bytes]:
    """The files of a small set, but for its manifest."""
    values = {"identities": 4, "seed": 0, "val_identities": 1, "test_identities": 1, "images_per_identity": 1}
    assert generate(out, Parameters(**{**values, **parameters}), workers=1)
    files = (path for path in sorted(out.rglob("*")) if path.is_file() and path.name != "synthetic.json")
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def test_the_default_domain_is_what_it_was_before_there_were_others(tmp_path: Path) -> None:
    files = made(tmp_path)
    captions = b"".join(content for name, content in files.items() if name.endswith(".json"))
    assert hashlib.sha256(captions).hexdigest() == TINY_CAPTIONS
    colors = [np.asarray(Image.open(tmp_path / name)).mean((0, 1)) for name in files if name.endswith(".jpg")]
    # A library may decode JPEG files a little differently.
    np.testing.assert_allclose(colors, TINY_COLORS, atol=0.5)


@pytest.mark.parametrize("domain", list(DOMAINS))
def test_the_same_seed_gives_the_same_bytes_in_every_domain(domain: str, tmp_path: Path) -> None:
    first, again = (made(tmp_path / name, domain=domain, captions="web") for name in ("first", "again"))
    assert first == again


def test_domains_of_one_seed_share_no_person_and_no_place() -> None:
    tasks = {name: plan(Parameters(60, 0, 6, 6, domain=name)) for name in DOMAINS}
    people = {name: {task.identity for task in tasks[name]["train"]} for name in DOMAINS}
    assert not people["street"] & people["mall"]
    assert not people["campus"] & people["mall"]
    assert len({task["test"][0].seed for task in tasks.values()}) == len(DOMAINS)


@cache
def shots(name: str) -> tuple[tuple[Shot, Content, dict, tuple[str, ...]], ...]:
    """250 images of a domain: the shot, what one caption states, what is visible, English captions."""
    domain, found = DOMAINS[name], []
    for index, person in enumerate(draw_identities(f"5:{name}", 250, domain.taste)):
        rng = random.Random(index)
        shot = draw_shot(rng, index % NUM_CAMERAS, domain)
        seen = visible_items(person, shot)
        content = draw_content(seen, person.sex, rng, domain)
        captions = image_captions(person, shot, rng, domain)["en"]
        found.append((shot, content, seen, tuple(captions["captions"] + captions["captions_bt"])))
    return tuple(found)


def mean(name: str, figure: Callable[[Shot, Content, dict, tuple[str, ...]], float]) -> float:
    return statistics.mean(figure(*image) for image in shots(name))


def test_domains_differ_in_size_framing_views_and_length() -> None:
    of = {name: partial_means(name) for name in DOMAINS}
    assert 1.3 * of["campus"]["height"] < of["street"]["height"] < of["mall"]["height"] / 1.1
    assert of["campus"]["front"] + 0.1 < of["street"]["front"] < of["mall"]["front"] - 0.1
    assert 1.5 * of["campus"]["words"] < of["street"]["words"] < of["mall"]["words"] / 1.3
    assert of["campus"]["things"] + 1 < of["street"]["things"] < of["mall"]["things"] - 0.5
    assert of["campus"]["backpack"] > 1.5 * of["street"]["backpack"] > 2.5 * of["mall"]["backpack"]


def partial_means(name: str) -> dict[str, float]:
    return {
        "height": mean(name, lambda shot, *_: shot.size[1]),
        "front": mean(name, lambda shot, *_: shot.pose.view == "front"),
        "words": mean(name, lambda *image: statistics.mean(len(text.split()) for text in image[3])),
        "things": mean(name, lambda shot, content, *_: len(content.items)),
        "backpack": mean(
            name, lambda shot, content, seen, _: "bag" in seen and seen["bag"].kind == "backpack"
        ),
    }


def test_domains_have_words_of_their_own() -> None:
    words = {
        name: {
            word
            for *_, texts in shots(name)
            for text in texts
            for word in re.findall(r"[a-z-]+", text.lower())
        }
        for name in DOMAINS
    }
    for name in ("campus", "mall"):
        assert len(words[name] - words["street"]) > 0.2 * len(words[name])
    assert len(words["campus"] & words["mall"]) < 0.5 * len(words["campus"] | words["mall"])


def lexicon(words: dict[str, tuple[str, ...]]) -> tuple[re.Pattern[str], dict[str, set[str]]]:
    """A pattern of the longest phrases that name things, and what each of them may name."""
    names: dict[str, set[str]] = {}
    for thing, phrases in words.items():
        for phrase in phrases:
            names.setdefault(phrase, set()).add(thing)
    longest_first = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    return re.compile(rf"(?<![\w-])(?:{longest_first})(?![\w-])"), names


@cache
def lexicons(name: str) -> tuple[tuple[re.Pattern[str], dict[str, set[str]]], ...]:
    """What English names kinds and colours with in a domain."""
    style = DOMAINS[name].english
    colors = {color: (color,) for color in (*RGB, "blond")} | english.COLORS | style.colors
    for color, words in style.hair_colors.items():
        colors[color] = (*colors[color], *words)
    return lexicon(english.KINDS | style.kinds), lexicon(colors)


def named(text: str, name: str) -> tuple[list[set[str]], list[set[str]]]:
    """What the kinds and the colours in a text may be."""
    return tuple([names[hit] for hit in pattern.findall(text.lower())] for pattern, names in lexicons(name))


@pytest.mark.parametrize("name", list(DOMAINS))
def test_captions_name_all_of_the_content_and_nothing_else(name: str) -> None:
    style, rng = DOMAINS[name].english, random.Random(0)
    for _, content, _, _ in shots(name):
        items = [item for field, item in content.items.items() if field not in ("hair", "build", "view")]
        kinds = {item.kind for item in items}
        colors = {color for item in content.items.values() for color in (item.color, item.color2) if color}
        for frame in style.frame_numbers:
            text = english.caption(content, frame, rng, style)
            said_kinds, said_colors = named(text, name)
            assert all(any(kind in said for said in said_kinds) for kind in kinds), (text, content)
            assert all(said & kinds for said in said_kinds), (text, content)
            assert all(any(color in said for said in said_colors) for color in colors), (text, content)
            assert all(said & colors for said in said_colors), (text, content)


@pytest.mark.parametrize("name", list(DOMAINS))
def test_captions_are_whole_sentences_with_fitting_articles(name: str) -> None:
    plural = r"(?:jeans|trousers|pants|shorts|leggings|denims|joggers|tights|shoes|boots|heels|pumps|sandals)"
    for *_, texts in shots(name):
        for text in texts:
            assert not re.search(r"[{}\[\]|]|  |\.\.| ,| \.|None|,,", text), text
            assert text[0].isupper()
            assert text[-1] == "."
            assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]", text), text
            assert not re.search(rf"\b[Aa]n? (?:[\w-]+ )?{plural}\b", text), text


@cache
def web_texts(name: str) -> tuple[tuple[dict, str], ...]:
    """1,000 web captions in English, with what is visible."""
    domain, found = DOMAINS[name], []
    for index, person in enumerate(draw_identities(f"6:{name}", 1000, domain.taste)):
        rng = random.Random(index)
        shot = draw_shot(rng, 0, domain)
        captions = web_captions(person, shot, rng, domain)
        assert all(len(texts["captions"]) == 1 for texts in captions.values())
        found.append((visible_items(person, shot), captions["en"]["captions"][0]))
    return tuple(found)


def is_empty(text: str) -> bool:
    patterns = (re.sub(r"\\{.*?\\}", r"\\d+", re.escape(empty)) for empty in web.EMPTY["en"])
    return any(re.fullmatch(pattern, text) for pattern in patterns)


@pytest.mark.parametrize("name", list(DOMAINS))
def test_a_tenth_of_the_web_captions_says_nothing_and_the_others_name_what_is_visible(name: str) -> None:
    texts = web_texts(name)
    assert statistics.mean(is_empty(text) for _, text in texts) == pytest.approx(web.EMPTY_SHARE, abs=0.03)
    for seen, text in texts:
        said_kinds, said_colors = named(text, name)
        kinds = {item.kind for item in seen.values()}
        colors = {color for item in seen.values() for color in (item.color, item.color2)}
        assert all(said & kinds for said in said_kinds), (text, seen)
        assert all(said & colors for said in said_colors), (text, seen)
        assert (
            is_empty(text) or said_kinds or "hair" in text.lower() or said_colors or "bald" in text.lower()
        ), text


def test_web_captions_are_short_and_varied() -> None:
    texts = [text for _, text in web_texts("street")]
    assert 4 <= statistics.median(len(text.split()) for text in texts) <= 12
    assert len(set(texts)) > 0.8 * len(texts)


def test_web_records_have_one_caption_in_every_language_and_splits_of_their_own(tmp_path: Path) -> None:
    made(tmp_path, captions="web")
    people = []
    for split in ("train", "val", "test"):
        for language in ("en", "ch", "de", "fr"):
            records = json.loads((tmp_path / f"{split}_reid_{language}.json").read_text(encoding="utf-8"))
            assert all(set(record) == {"file_path", "id", "captions"} for record in records)
            assert all(len(record["captions"]) == 1 and record["captions"][0] for record in records)
        people += [record["id"] for record in records]
    assert len(set(people)) == len(people) == 4


def hue(color: np.ndarray) -> float:
    """The hue of a colour as an angle in degrees."""
    red, green, blue = color
    return float(np.degrees(np.arctan2(3**0.5 * (green - blue), 2 * red - green - blue)))


@pytest.mark.parametrize("domain", DOMAINS.values(), ids=list(DOMAINS))
def test_no_camera_of_a_domain_turns_a_colour_into_another(domain: Domain) -> None:
    vivid = ("red", "blue", "green", "yellow", "orange", "purple", "pink")
    for camera in range(NUM_CAMERAS):
        for seed in range(3):
            for name in vivid:
                flat = Image.new("RGB", (40, 80), RGB[name])
                taken = expose(flat, camera_sensor(seed, camera, domain), random.Random(seed), domain)
                seen = hue(np.asarray(taken, dtype=np.float64).mean((0, 1)))
                turns = {other: abs((hue(RGB[other]) - seen + 180) % 360 - 180) for other in vivid}
                assert turns[name] < 30, (name, camera, turns)
                assert {min(turns, key=turns.get), name} <= {"red", "orange", "pink"} or (
                    min(turns, key=turns.get) == name
                )


def test_a_set_from_before_there_were_domains_is_still_complete(tmp_path: Path) -> None:
    made(tmp_path)
    manifest = json.loads((tmp_path / "synthetic.json").read_text())
    assert (manifest.pop("domain"), manifest.pop("captions")) == ("street", "full")
    (tmp_path / "synthetic.json").write_text(json.dumps(manifest))
    assert not generate(tmp_path, TINY)
    assert generate(tmp_path, Parameters(4, 0, 1, 1, 1, "campus"))
    assert json.loads((tmp_path / "synthetic.json").read_text())["domain"] == "campus"


@pytest.mark.parametrize(("option", "value"), [("--domain", "moon"), ("--captions", "long")])
def test_an_unknown_domain_or_kind_of_captions_is_an_error_that_lists_the_known_ones(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["--out", str(tmp_path / "set"), "--identities", "10", option, value]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert option in error
    assert f"'{value}'" in error
    assert ("street" if option == "--domain" else "web") in error
    assert error.count("\n") == 1
    assert not (tmp_path / "set").exists()
