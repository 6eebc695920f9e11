"""Annotation files of every format, near good ones and far from them, and captions of any kind."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from tests.fuzz.cases import Case
from tests.fuzz.goods import splits_of
from tests.fuzz.wild import damaged_bytes, json_bytes, mutated, numbers, texts, trees

FIELDS = (
    *("file_path", "img_path", "id", "captions", "captions_bt", "split"),
    *("image", "person_id", "caption", "language"),
)
RUN = ("--config", "@GOOD/config.yaml", "--output-dir", "@BOX/out")
EVALUATE = (*RUN, "--evaluate", "@GOOD/run/checkpoint_last.pth")
TRAIN = (*RUN, "experiment.text_aug=swap")


class Records:
    """Good records in the shape of each format."""

    def __init__(self, good: Path) -> None:
        self.splits = splits_of(good / "people")
        everything = [{"split": split, **record} for split, part in self.splits.items() for record in part]
        self.cuhk = everything
        self.rstp = [
            {"img_path": r["file_path"], **{k: r[k] for k in ("split", "id", "captions")}} for r in everything
        ]
        self.rows = [
            {"image": r["file_path"], "person_id": r["id"], "caption": caption, "split": r["split"]}
            | {"language": "en"}
            for r in everything
            for caption in r["captions"]
        ]


@st.composite
def annotation_cases(draw: DrawFn, records: Records) -> Case:
    """A file or folder of annotations, mutated, read by an evaluation, a training or `data.check`."""
    shape = draw(st.sampled_from(("cuhk", "rstp", "wild", "csv", "csv", "jsonl", "folder", "languages")))
    keys = st.one_of(st.sampled_from(FIELDS), texts())
    if shape in ("cuhk", "rstp"):
        value = mutated(getattr(records, shape), trees(keys))
        files = {"annotations.json": draw(damaged_bytes(json_bytes(value)))}
    elif shape == "wild":
        records_ = st.lists(st.dictionaries(keys, trees(keys), max_size=6), max_size=3)
        files = {"annotations.json": draw(damaged_bytes(json_bytes(st.one_of(trees(keys), records_))))}
    elif shape in ("csv", "jsonl"):
        rows = mutated(records.rows, st.one_of(texts(), numbers(), trees(keys)))
        files = {"annotations.json": draw(damaged_bytes(rows.map(_csv if shape == "csv" else _lines)))}
    else:
        files = draw(_folder(records, shape, keys))
    where = "@BOX/annotations.json" if len(files) == 1 and "annotations.json" in files else "@BOX/folder"
    return draw(_read_by(where, files))


@st.composite
def _folder(draw: DrawFn, records: Records, shape: str, keys: Any) -> dict[str, bytes]:
    files = {}
    names = ("en",) if shape == "folder" else ("en", "fr")
    damaged = draw(st.sampled_from(("train", "val", "test")))
    for split, part in records.splits.items():
        for language in names:
            suffix = "" if shape == "folder" else f"_{language}"
            value = mutated(part, trees(keys)) if language == names[-1] else st.just(part)
            content = draw(json_bytes(value)) if split == damaged else json.dumps(part).encode()
            files[f"folder/{split}_reid{suffix}.json"] = content
    if draw(st.booleans()):
        names = ("test_reid_.json", "test_reid_x y.json", "test_reid_é\n.json", "test_reid_en.json/x")
        odd = draw(st.sampled_from(names))
        files[f"folder/{odd}"] = b"[]"
    return {name: content for name, content in files.items() if f"{name}/x" not in files}


@st.composite
def _read_by(draw: DrawFn, where: str, files: dict[str, bytes]) -> Case:
    reader = draw(st.sampled_from(("evaluate", "evaluate", "train", "check", "test set")))
    datasets = ("auto",) * 6 + ("rstpreid", "table", "curated", "multilingual", "cuhk-pedes")
    dataset = draw(st.sampled_from(datasets))
    if reader == "check":
        arguments = (where, "@GOOD/people/imgs", "--out", "@BOX/out", "--dataset", dataset)
        return Case("data.check", arguments, files)
    if reader == "test set":
        name = draw(st.sampled_from(("other", "a/b", "test", "über", "x" * 300, "..")))
        others = f"eval.test_sets={{{json.dumps(name)}: ['{where}', '@GOOD/people/imgs']}}"
        return Case("main", (*EVALUATE, others), files)
    languages = draw(st.sampled_from(("[en]", "[en]", "[en, fr]", "[fr]", "[xx]", "['']")))
    place = (f"data.annotation_file={where}", "data.image_root=@GOOD/people/imgs", f"data.dataset={dataset}")
    start = EVALUATE if reader == "evaluate" else TRAIN
    return Case("main", (*start, *place, f"data.languages={languages}"), files)


def _csv(rows: Any) -> bytes:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows) or not rows:
        return str(rows).encode("utf-8", "surrogatepass")
    text = io.StringIO(newline="")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    try:
        writer = csv.DictWriter(text, columns, delimiter=",;\t"[len(rows) % 3])
        writer.writeheader(), writer.writerows(rows)
    except csv.Error:
        return str(rows).encode("utf-8", "surrogatepass")
    return text.getvalue().encode("utf-8", "surrogatepass")


def _lines(rows: Any) -> bytes:
    rows = rows if isinstance(rows, list) else [rows]
    return "\n".join(map(json.dumps, rows)).encode("utf-8", "surrogatepass")


@st.composite
def caption_cases(draw: DrawFn, records: Records) -> Case:
    """Good annotations whose captions are anything; or a search for such sentences."""
    anything = st.one_of(
        texts(),
        texts(),
        st.builds(lambda text, count: (text + " ") * count, texts(), st.sampled_from((100, 5000))),
        st.builds(lambda text: text * 100_000, st.characters()),
    )
    found = [draw(anything) for _ in range(draw(st.integers(1, 4)))]
    if draw(st.integers(0, 3)) == 0:
        given = [text for text in found if "\0" not in text]
        extra = draw(st.sampled_from(((), ("--json",), ("--without", "a hat"), ("-k", "1000000"))))
        output = ("--csv", "@BOX/out/rows.csv", "--figure", "@BOX/out/figure.png")
        return Case("misc.search", ("query", "@GOOD/index", *given, *output, *extra), {"out/keep": b""})
    splits = json.loads(json.dumps(records.splits))
    for split in splits:
        for number, text in enumerate(found):
            splits[split][number % len(splits[split])]["captions"] = [text]
            splits[split][number % len(splits[split])]["captions_bt"] = [text]
    files = {f"folder/{split}_reid.json": json.dumps(part).encode() for split, part in splits.items()}
    return draw(_read_by("@BOX/folder", files))
