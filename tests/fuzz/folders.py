"""Folders that earlier commands wrote (saved features, search indexes), and folders of images."""

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from tests.fuzz.cases import Case, Damaged
from tests.fuzz.goods import FORMATS
from tests.fuzz.wild import damaged_bytes, damaged_file, json_bytes, mutated, scalars, trees

FEATURES = ("features.json", "features.safetensors")
EVALUATE = ("--config", "@GOOD/config.yaml", "--output-dir", "@BOX/out", "--evaluate")
QUERY = ("misc.search", ("query", "@BOX/index", "a man in red", "--figure", "@BOX/out/figure.png"))
UPDATE = ("misc.search", ("index", "@GOOD/run/checkpoint_last.pth", "@GOOD/people/imgs", "--out", "@BOX/out"))


@st.composite
def _one_damaged(draw: DrawFn, good: Path, folder: str, names: tuple[str, ...], to: str) -> dict[str, Any]:
    """The files of a good folder, one or two of them mutated, damaged or missing."""
    files: dict[str, Any] = {f"{to}/{name}": Damaged(f"{folder}/{name}", ()) for name in names}
    for _ in range(draw(st.sampled_from((1, 1, 2)))):
        name = draw(st.sampled_from(names))
        content = (good / folder / name).read_bytes()
        kind = draw(st.sampled_from(("mutated", "mutated", "mutated", "damaged", "wild", "gone")))
        if kind == "gone":
            files.pop(f"{to}/{name}", None)
        elif kind == "mutated" and name.endswith(".json"):
            value = mutated(json.loads(content), st.one_of(scalars(), trees()))
            files[f"{to}/{name}"] = draw(json_bytes(value))
        elif kind == "wild":
            files[f"{to}/{name}"] = draw(st.one_of(json_bytes(trees()), st.binary(max_size=40), st.just(NPY)))
        else:
            files[f"{to}/{name}"] = draw(damaged_file(f"{folder}/{name}", len(content)))
    return files


NPY = b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f2', 'fortran_order': False, 'shape': (((((" + b" " * 63 + b"\n"


@st.composite
def feature_cases(draw: DrawFn, good: Path) -> Case:
    """A folder of saved features, scored, or fused with a model's own."""
    files = draw(_one_damaged(good, "features", FEATURES, "features"))
    extra = draw(st.sampled_from(((), ("eval.rerank=true",), ("--save-rankings", "@BOX/out/rows.csv"))))
    if draw(st.booleans()):
        return Case("main", (*EVALUATE, "@BOX/features", *extra), files)
    return Case("main", (*EVALUATE, "@GOOD/features", "eval.fuse={@BOX/features: 1}", *extra), files)


@st.composite
def index_cases(draw: DrawFn, good: Path) -> Case:
    """A search index, queried or updated."""
    names = tuple(sorted(file.name for file in (good / "index").iterdir() if file.suffix in (".db", ".f16")))
    if draw(st.booleans()):
        files = draw(_one_damaged(good, "index", names, "index")) | {"out/keep": b""}
        program, arguments = QUERY
        return Case(program, arguments, files)
    files = draw(_one_damaged(good, "index", names, "out"))
    return Case(*UPDATE, files)


@st.composite
def image_cases(draw: DrawFn, good: Path) -> Case:
    """An image that is damaged, truncated or of another type than its name says, read by every program."""
    suffix = draw(st.sampled_from(sorted(FORMATS.values())))
    source = f"images/good{suffix}"
    image: Any = draw(damaged_file(source, (good / source).stat().st_size))
    if draw(st.integers(0, 5)) == 0:
        image = draw(st.one_of(st.binary(max_size=200), damaged_bytes(st.sampled_from(HEADS))))
    name = f"imgs/a{draw(st.sampled_from(sorted(FORMATS.values())))}"
    where = draw(st.sampled_from(("train", "test")))
    paths = [
        (split, number, f"{split}{number}{suffix}" if split != where else name[5:])
        for split in ("train", "val", "test")
        for number in range(4 if split != where else 1)
    ]
    records = [{"split": s, "file_path": path, "id": n, "captions": ["a man"]} for s, n, path in paths]
    good_images = {f"imgs/{record['file_path']}" for record in records} - {name}
    files: dict[str, Any] = {name: image, "a.json": json.dumps(records).encode()}
    files |= {path: Damaged(source, ()) for path in good_images}
    place = ("data.annotation_file=@BOX/a.json", "data.image_root=@BOX/imgs")
    skip = f"data.on_bad_image={draw(st.sampled_from(('error', 'skip')))}"
    use = draw(st.sampled_from(("evaluate", "train", "check", "index", "query")))
    if use == "evaluate":
        return Case("main", (*EVALUATE, "@GOOD/run/checkpoint_last.pth", *place, skip), files)
    if use == "train":
        return Case("main", (*EVALUATE[:-1], *place, "data.batch_size=1", "experiment.ss=false", skip), files)
    if use == "check":
        return Case("data.check", ("@BOX/a.json", "@BOX/imgs", "--out", "@BOX/out"), files)
    if use == "index":
        return Case("misc.search", (*UPDATE[1][:2], "@BOX/imgs", "--out", "@BOX/out"), files)
    return Case("misc.search", ("query", "@GOOD/index", "--image", f"@BOX/{name}", "-k", "3"), {name: image})


HEADS = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\x7f\xff\xff\xff\x7f\xff\xff\xff\x08\x02\0\0\0\0\0\0\0",
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x40\0\0\0\x40\0\x08\x02\0\0\0\x65\x2d\xb3\xdc\0\0\0\0IEND\xaeB`\x82",
    b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\x02D\x01\0;",
    b"P6 99999 99999 255\n",
    b"P5 3 3 65535\n" + bytes(18),
    b"BM" + b"\xff" * 60,
    b"\xff\xd8\xff\xe0" + b"\0\x10JFIF\0" + b"\xff" * 40,
    b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 100,
    b"RIFF\xff\xff\xff\xffWEBPVP8 \xff\xff\xff\x7f",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    b"8BPS\0\x01" + bytes(6) + b"\0\x03\0\0\x7f\xff\0\0\x7f\xff\0\x08\0\x03",
    b"\0\0\x01\0\xff\xff" + b"\xff" * 40,
    b"SIMPLE  =                    T" + b" " * 50,
)
