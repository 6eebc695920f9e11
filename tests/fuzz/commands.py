"""Command lines: the flags of every program in any order, with values of any kind."""

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from tests.fuzz.cases import Case
from tests.fuzz.wild import NASTY, texts

RUN, CONFIG = "@GOOD/run/checkpoint_last.pth", "@GOOD/config.yaml"
READ: dict[str, tuple[str, ...]] = {
    "main": ("--config", "--backbone", "--resume", "--evaluate"),
    "data.check": ("--dataset", "--languages"),
    "misc.export": ("--config", "--format"),
    "misc.search": (
        *("-k", "--checkpoint", "--sentences", "--image", "--image-weight", "--without"),
        "--config",
    ),
}
WRITTEN: dict[str, tuple[str, ...]] = {
    "main": ("--save-rankings", "--save-features"),
    "misc.search": ("--json", "--csv", "--figure", "--explain"),
}
ALONE = (
    *("--simplified", "--resume", "--help", "--overwrite", "--exact", "--approximate", "--json", "--", "-x"),
    *("--conf", "schedule.epoch=1", "model.embed_dim=9", "data.languages=[en]", "a man in red", ""),
)
VALUES = (
    *(RUN, CONFIG, "@GOOD/features", "@GOOD/index", "@GOOD/people", "@GOOD/people/imgs", "@GOOD"),
    *("@GOOD/images/good.jpg", "@BOX", "@BOX/none", "@BOX/out", "/dev/null", "/dev/zero/x", "/", ".", ".."),
    *("auto", "clip", "altclip", "cuhk-pedes", "en", "onnx", "openai", "a man in red"),
    *("0", "-1", "1", "0.5", "nan", "1e9", "99999999999999999999"),
)
PLACES = (
    *("@BOX/out/x.csv", "@BOX/out/x.json", "@BOX/out/x.png", "@BOX/out/x.jsonl", "@BOX/out/deep/er"),
    *("@BOX/out", "@BOX/out/keep", "@BOX/out/keep/x.csv", "x.csv", "x.png", "x.json", "x", ".csv", "", "-"),
    *("@BOX/out/" + "x" * 300 + ".csv", "@BOX/out/é\udcff.csv", "@BOX/out/\n.json", "@BOX/out/.png"),
    *("/dev/full", "/proc/x.csv", "a\0.csv"),
)
PLACED = {
    "main": ("--output-dir", "@BOX/out/run"),
    "data.check": ("@GOOD/people", "@GOOD/people/imgs", "--out", "@BOX/out/check"),
    "misc.export": (RUN, "@BOX/out/export"),
}


@st.composite
def command_cases(draw: DrawFn) -> Case:
    """A command line near a good one, or far from it, called in the output folder."""
    programs = ("main", "main", "data.check", "misc.export", "misc.search", "misc.search")
    program = draw(st.sampled_from(programs))
    words = [word for part in draw(st.lists(_words(program), max_size=4)) for word in part]
    if program == "main":
        start = draw(st.sampled_from((("--config", CONFIG), ("--config", CONFIG, "--evaluate", RUN), ())))
        words = [*start, *words, *PLACED[program]]
    elif program == "misc.search":
        command = draw(st.sampled_from(("query", "query", "query", "index", "quer", "")))
        place = ("@GOOD/index",) if command == "query" else (RUN, "@GOOD/images", "--out", "@BOX/out/index")
        words = [command, *place, *words]
    else:
        words = [*PLACED[program], *words]
        if program == "misc.export":
            words += ["--format", draw(st.sampled_from(("safetensors", "openai", "huggingface", "x")))]
    return Case(program, tuple(words), {"out/keep": b""}, folder="out")


def _words(program: str) -> st.SearchStrategy[tuple[str, ...]]:
    """A flag with its value, or a single word. What is written goes below the output folder."""
    value = st.one_of(st.sampled_from(VALUES), st.sampled_from(VALUES), st.sampled_from(NASTY), texts())
    kinds = [st.tuples(st.sampled_from(READ[program]), value), st.tuples(st.sampled_from(ALONE))]
    if program in WRITTEN:
        flags, places = st.sampled_from(WRITTEN[program]), st.sampled_from(PLACES)
        kinds.append(st.builds(lambda flag, place: (f"{flag}={place}",), flags, places))
    return st.one_of(kinds)
