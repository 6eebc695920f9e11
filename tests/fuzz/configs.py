"""Options: YAML files near good ones and far from them, chains of bases, `key=value` overrides, flags."""

import dataclasses
import json
from typing import Any

import yaml
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from options import Options
from tests.fuzz.cases import Case
from tests.fuzz.wild import NASTY, NUMBERS, damaged_bytes, mutated, numbers, scalars, texts, trees

KEYS = [
    f"{section.name}.{field.name}"
    for section in dataclasses.fields(Options)
    for field in dataclasses.fields(section.default_factory)
]
WORDS = sorted({word for key in KEYS for word in key.split(".")} | {"base", "<<", "anno_dir", "device"})
EPOCHS = (
    "!!python/object/apply:os.system ['touch @BOX/harm']", "!!python/name:os.system ", "!!int 'x'",
    "!!binary '???'", "!!timestamp 'x'", "!!bool 'x'", "!!null 'x'", "!unknown 3", "2024-13-45",
    "2024-01-01 25:61:61", "2001-12-14t21:59:43.10-99:99", "0x", "_",
)  # fmt: skip
BASES = (
    "../../../../etc/passwd", "/dev/null", ".", "options.yaml", "nowhere.yaml", '"a\\0b"', '"\\uD800"', "3",
    "{a: 1}", "''", "false", "~",
)  # fmt: skip
FOLDERS = ('"a\\0b"', '"\\uD800"', "''", "/dev/null", "/proc/x", "@BOX/options.yaml")
SNIPPETS = (
    "a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n"
    "c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c]\n"
    "e: &e [*d, *d, *d, *d, *d, *d, *d, *d, *d]\nf: &f [*e, *e, *e, *e, *e, *e, *e, *e, *e]\n"
    "g: &g [*f, *f, *f, *f, *f, *f, *f, *f, *f]\nh: &h [*g, *g, *g, *g, *g, *g, *g, *g, *g]\n"
    "schedule: {epoch: *h}\n",
    "schedule: &s {epoch: *s}\n",
    "schedule: {betas: &b [*b, *b]}\n",
    "eval: {test_sets: &t {a: *t}}\n",
    "base: &b [*b]\n",
    "x: &x {<<: *x, epoch: 1}\nschedule: *x\n",
    "schedule: {<<: {epoch: 2}, lr: 1e-3}\n",
    "schedule: {<<: [1, 2]}\n",
    "schedule: {<<: 3}\n",
    "a: &a {<<: [*z]}\n",
    "!!python/object/new:os.system ['touch @BOX/harm']\n",
    "schedule: {epoch: !!float 'x', lr: !!float ''}\n",
    "schedule: {epoch: !!set {a, b}, lr: !!omap [a: 1], eps: !!pairs [a: 1]}\n",
    "? [a, b]\n: 3\n",
    "? {a: b}\n: 3\n",
    "? !!set {a}\n: 3\n",
    "schedule: {? [1] : 2}\n",
    "2024-01-01: 3\n2.5: {a: 1}\nnull: 1\ntrue: {x: 1}\n",
    "schedule: {epoch: 1:60, lr: 1:2.5, eps: 0o7, weight_decay: 0b12, patience: 09}\n",
    "schedule: {epoch: 0b2}\nx: 0x_\n",
    "schedule: {epoch: +_1, lr: 1_.}\n",
    "schedule: {lr: .inf, eps: .nan}\n",
    "schedule: {lr: 1e400}\n",
    "--- 1\n--- 2\n",
    "%YAML 9.9\n---\nschedule: {}\n",
    "%TAG ! tag:x,2000:\n---\nschedule: !y {}\n",
    "\tschedule: {}\n",
    "schedule: [\n",
    "schedule: {epoch: 'x\n",
    "schedule:\n  epoch: 1\n  epoch: 2\n",
    "schedule: {}\nschedule: {}\n",
    "schedule.epoch: 3\n",
    "eval: {test_sets: {'': [a, b]}}\n",
    "eval: {test_sets: {1: [a, b], [x]: 3}}\n",
    "eval: {fuse: {@GOOD/features: 1e308}}\n",
    "eval: {fuse: {/etc: 1}}\n",
    "eval: {fuse: {@GOOD/features: 1}, rerank: true, rerank_k1: 9223372036854775808}\n",
    'data: {annotation_file: "a\\0b"}\n',
    "data: {annotation_file: ''}\n",
    "data: {image_root: ''}\n",
    "data: {annotation_file: @GOOD/run/checkpoint_last.pth}\n",
    "data: {annotation_file: /dev/null}\n",
    "data: {annotation_file: @GOOD/images}\n",
    *(f"schedule: {{epoch: {value}}}\n" for value in EPOCHS),
    *(f"base: {value}\n" for value in BASES),
    *(f"output: {{dir: {value}}}\n" for value in FOLDERS),
)
COMMAND = ("--config", "@BOX/options.yaml", "data.num_workers=0")


@st.composite
def config_cases(draw: DrawFn, options: dict[str, Any]) -> Case:
    """An options file: known trouble, a good file mutated, wild YAML, damaged text, or a chain of bases."""
    kinds = ("snippet", "snippet", "mutated", "mutated", "mutated", "wild", "text", "deep", "chain")
    kind = draw(st.sampled_from(kinds))
    files: dict[str, bytes] = {}
    if kind == "snippet":
        snippets = draw(st.lists(st.sampled_from(SNIPPETS), min_size=1, max_size=2))
        text = "base: @GOOD/config.yaml\n" * draw(st.booleans()) + "".join(snippets)
    elif kind in ("mutated", "wild"):
        keys = st.one_of(st.sampled_from(WORDS), texts())
        value = mutated(options, st.one_of(scalars(), numbers(), trees(keys)))
        value = value if kind == "mutated" else trees(st.one_of(st.sampled_from(WORDS), texts()))
        text = _yaml(draw(value), draw(st.booleans()))
    elif kind == "text":
        text = draw(st.text(st.sampled_from("abc:{}[]&*!|>%@?-#'\",\n\t 0123.e"), max_size=80))
    elif kind == "deep":
        depth = draw(st.sampled_from((30, 400, 2000, 20_000)))
        opening, closing = draw(st.sampled_from((("[", "]"), ("{a: ", "}"), ("- ", ""), ("!!seq [", "]"))))
        text = f"schedule: {{epoch: {opening * depth}1{closing * depth}}}\n"
    else:
        length = draw(st.sampled_from((1, 2, 30, 1200)))
        for number in range(length):
            files[f"base{number}.yaml"] = f"base: base{(number + 1) % length}.yaml\n".encode()
        if draw(st.booleans()):
            files[f"base{length - 1}.yaml"] = b"base: @GOOD/config.yaml\n"
        text = draw(st.sampled_from(("base: base0.yaml\n", "base: ./x/../base0.yaml\n")))
    content = text.encode(draw(st.sampled_from(("utf-8",) * 8 + ("utf-16", "utf-8-sig"))), "surrogatepass")
    # A damaged output.dir would name a folder that the guard does not allow.
    files["options.yaml"] = content if "output" in text else draw(damaged_bytes(st.just(content)))
    last = draw(st.sampled_from(((), ("schedule.epoch=1",), ("--evaluate", "@GOOD/run/checkpoint_last.pth"))))
    place = () if "output" in text else ("--output-dir", "@BOX/out")
    return Case("main", (*COMMAND, *last, "schedule.epoch=1", *place), files)


def _yaml(value: Any, is_json: bool) -> str:
    if is_json:
        return json.dumps(value, ensure_ascii=False)
    return yaml.dump(value, allow_unicode=True)


@st.composite
def override_cases(draw: DrawFn) -> Case:
    """Overrides: mostly one real key with a value that its type allows, however strange; else anything."""
    overrides = []
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 3)))):
        key = draw(st.sampled_from(KEYS))
        separator, value = "=", _of_its_type(key)
        if draw(st.integers(0, 3)) == 0:
            key = draw(st.one_of(st.sampled_from(KEYS), st.sampled_from(WORDS), texts()))
            separator = draw(st.sampled_from(("=", "=", " = ", "==", "")))
            value = st.one_of(st.sampled_from(NASTY), scalars().map(str), trees().map(_flow), PUNCTUATION)
        overrides.append(f"{key}{separator}{draw(value)}")
    kept = tuple(text for text in overrides if not text.startswith("-") and not _is_long(text))
    evaluate = draw(st.sampled_from(((), ("--evaluate", "@GOOD/run/checkpoint_last.pth"))))
    start = ("--config", "@GOOD/config.yaml", *evaluate)
    return Case("main", (*start, *kept, "--output-dir", "@BOX/out"))


PUNCTUATION = st.text(st.sampled_from("{}[]&*!|>%@?-#'\",: 0123.e"), max_size=12)


def _flow(tree: Any) -> str:
    return json.dumps(tree, ensure_ascii=False)


def _of_its_type(key: str) -> st.SearchStrategy[str]:
    """Values of the option's type, as text: its choices, or numbers of any size."""
    section, name = key.split(".")
    field = next(f for f in dataclasses.fields(getattr(Options(), section)) if f.name == name)
    check = field.metadata["check"]
    if check and check.choices:
        return st.sampled_from(check.choices)
    number = st.sampled_from((*NUMBERS[2:], 4, 16, 64, 100, 1000, 10**5, 10**6, 10**9))
    size = st.one_of(number, number, st.sampled_from((0, -1, 0.5, 1e-300, 1e300, 1e-9, 0.999, 30.5)))
    if name == "compile":  # it would compile for a minute
        return st.just("false")
    if "bool" in str(field.type):
        return st.sampled_from(("true", "false"))
    if "tuple" in str(field.type):
        return st.lists(st.one_of(size, size, st.none()), max_size=3).map(_flow)
    if "Mapping" in str(field.type):
        values = st.one_of(size, st.just(["@GOOD/people", "@GOOD/people/imgs"]))
        return st.dictionaries(st.sampled_from(("a", "@GOOD/features")), values).map(_flow)
    is_text = "str" in str(field.type) and "int" not in str(field.type)
    text = st.sampled_from(NASTY) if is_text else st.just("null")
    return text if str(field.type) == "<class 'str'>" else st.one_of(size, size, size, text).map(str)


def _is_long(override: str) -> bool:
    """Whether it asks for a run of many epochs, which may take long."""
    key, _, value = override.partition("=")
    return key.strip().endswith("epoch") and value.strip().isdecimal() and int(value[:9]) > 2
