"""An index of a folder: its content, its updates, interrupts and damage."""

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.images.decode import load_image
from misc.search.__main__ import main
from misc.search.encoder import Encoder, load_encoder
from misc.search.index import Index, check_identity
from misc.search.indexing import encoding
from misc.search.indexing.update import update_index
from misc.search.indexing.walk import find_images, image_suffixes
from misc.search.ranking import engines
from misc.search.ranking.engines import ApproximateEngine, ExactEngine, Rows, build_approximate
from misc.search.storage import store
from options import UserError
from tests.helpers.search import Kill, killed_at_write, save_image, save_run, small_encoder


def assert_whole(encoder: Encoder, folder: Path, original: Index | None = None) -> Index:
    """An index whose features are those of its images; one that is gone is read where the original has it."""
    index = Index.open(folder)
    files = [index.image_root / path for path in index.paths]
    if original:
        files = [
            file if file.exists() else original.image_root / file.relative_to(index.image_root)
            for file in files
        ]
    expected = torch.cat([encoder.encode_images([load_image(file)]) for file in files]).numpy()
    assert index.features_of(range(len(files))) == pytest.approx(expected, abs=1e-3)
    assert len(np.unique(expected.round(3), axis=0)) == len(expected), "equal features prove nothing"
    return index


def test_features_are_those_of_the_images_in_the_order_of_their_paths(
    encoder: Encoder, images: Path, tmp_path: Path
) -> None:
    found = update_index(encoder, images, tmp_path / "index")
    index = assert_whole(encoder, tmp_path / "index")
    assert (found.total, found.encoded, found.missing, found.skipped) == (10, 10, 0, {})
    assert index.paths == sorted(str(file.relative_to(images)) for file in images.rglob("*.png"))
    norms = np.linalg.norm(index.features_of(range(10)).astype(np.float32), axis=1)
    assert norms == pytest.approx(1, abs=2e-3)


def test_worker_processes_decode_to_the_same_features(
    encoder: Encoder, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (images / "broken.png").write_bytes(b"no image")
    monkeypatch.setattr("misc.search.indexing.decoding.num_cores", lambda: 2)
    found = update_index(encoder, images, tmp_path / "index")
    assert list(found.skipped) == ["broken.png"]
    assert_whole(encoder, tmp_path / "index")


def test_replicas_take_turns_and_the_order_stays(encoder: Encoder) -> None:
    both = replace(encoder, replicas=encoder.replicas * 2)
    batches = torch.randn(5, 2, 3, *encoder.processor.image_size)
    expected = torch.cat(list(encoder.encode_batches(iter(batches))))
    assert torch.cat(list(both.encode_batches(iter(batches)))).equal(expected)
    assert expected.norm(dim=1).allclose(torch.ones(10))


def test_images_of_all_formats_are_found_but_no_hidden_or_other_files(tmp_path: Path) -> None:
    names = ["a.jpg", "B.JPEG", "c/d.bmp", "c/e.tif", "c/f/g.webp", "h.gif", "i.ppm"]
    for number, name in enumerate(names):
        save_image(tmp_path / name, number)
    for name in (".hidden.png", ".folder/a.png"):
        save_image(tmp_path / name, 0)
    (tmp_path / "notes.txt").write_text("no image")
    os.symlink(tmp_path, tmp_path / "c" / "loop")
    os.symlink(tmp_path / "nowhere.png", tmp_path / "gone.png")
    problems: dict[str, str] = {}
    (tmp_path / "index").mkdir()
    save_image(tmp_path / "index" / "figure.png", 0)
    found = [image.path for image in find_images(tmp_path, tmp_path / "index", problems)]
    assert sorted(found) == sorted(names)
    assert problems == {
        "gone.png": "cannot be accessed (No such file or directory)",
        ".hidden.png": "hidden",
        ".folder/": "hidden",
    }
    assert {".png", ".jp2", ".avif"} <= image_suffixes() | {".avif"}
    assert not {".eps", ".pdf", ".txt", ".mpg"} & image_suffixes()


def test_an_update_encodes_only_new_and_changed_images_and_leaves_out_deleted_ones(
    encoder: Encoder, index: Index, images: Path, index_folder: Path
) -> None:
    assert update_index(encoder, images, index_folder).encoded == 0
    generation, files = Index.open(index_folder).header.generation, set(index_folder.iterdir())
    assert generation == Index.open(index.folder).header.generation + 1, "the folder has moved"
    assert update_index(encoder, images, index_folder).encoded == 0
    assert Index.open(index_folder).header.generation == generation
    (images / "a" / "00.png").unlink()
    save_image(images / "c" / "new.png", 50)
    stat = (images / "a" / "02.png").stat()
    save_image(images / "a" / "02.png", 51)  # another image at the same place
    os.utime(images / "a" / "02.png", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    found = update_index(encoder, images, index_folder)
    assert (found.total, found.new, found.changed, found.missing) == (10, 1, 1, 1)
    index = assert_whole(encoder, index_folder)
    assert "c/new.png" in index.paths
    assert "a/00.png" not in index.paths
    assert index.header.generation > generation
    assert set(index_folder.iterdir()) == files


def test_a_folder_that_moved_is_not_encoded_again(encoder: Encoder, images: Path, index_folder: Path) -> None:
    assert Index.open(index_folder).image_root != images
    assert update_index(encoder, images, index_folder).encoded == 0
    assert Index.open(index_folder).image_root == images


def test_unreadable_files_are_skipped_listed_and_tried_again(
    encoder: Encoder, images: Path, tmp_path: Path
) -> None:
    file = images / "b" / "01.png"
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    (images / "empty.jpg").touch()
    found = update_index(encoder, images, tmp_path / "index")
    assert set(found.skipped) == {"b/01.png", "empty.jpg"}
    listed = (tmp_path / "index" / "skipped.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in listed] == ["b/01.png", "empty.jpg"]
    assert_whole(encoder, tmp_path / "index")
    file.write_bytes(whole)
    assert update_index(encoder, images, tmp_path / "index").encoded == 1
    assert "b/01.png" in assert_whole(encoder, tmp_path / "index").paths


def test_images_with_names_that_are_not_utf8_are_indexed(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    odd = [os.fsdecode(b"images/\xff\xfe.png"), "images/two\nlines.png", "images/人.png"]
    for number, name in enumerate(odd):
        shutil.copy(save_image(tmp_path / "one.png", number), tmp_path / name)
    (tmp_path / os.fsdecode(b"images/\xfd.jpg")).touch()
    update_index(encoder, tmp_path / "images", tmp_path / "index")
    assert {f"images/{path}" for path in assert_whole(encoder, tmp_path / "index").paths} == set(odd)


def test_what_an_interrupted_update_encoded_is_not_encoded_again(
    encoder: Encoder, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = Encoder.encode_batches

    def count(self: Encoder, batches: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        for features in real(self, batches):
            if len(seen) == 2:
                seen.append(0)
                raise KeyboardInterrupt
            seen.append(len(features))
            yield features

    monkeypatch.setattr(Encoder, "encode_batches", count)
    with pytest.raises(KeyboardInterrupt):
        update_index(encoder, images, tmp_path / "index")
    index = Index.open(tmp_path / "index")
    assert (len(index.paths), index.header.complete) == (8, False)
    assert update_index(encoder, images, tmp_path / "index").encoded == 2
    assert seen == [4, 4, 0, 2]
    index = assert_whole(encoder, tmp_path / "index")
    assert (len(index.paths), index.header.complete) == (10, True)


def content(folder: Path) -> dict[str, object]:
    """What an index knows of each path, and its features, in the order of rows."""
    index = Index.open(folder)
    columns = "path, id, size, mtime_ns, digest, width, height, taken, missing_since IS NULL"
    with closing(sqlite3.connect(folder / "index.db")) as database:
        rows = database.execute(f"SELECT {columns} FROM images ORDER BY path").fetchall()
    return {
        "rows": rows,
        "paths": index.paths,
        "features": index.features_of(range(len(index.paths))).tobytes(),
    }


def test_a_kill_at_any_write_leaves_a_whole_generation_and_the_next_run_ends_as_one_undisturbed(
    encoder: Encoder, index: Index, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "index"
    (images / "a" / "00.png").unlink()
    (images / "b" / "01.png").rename(images / "moved.png")
    for number in range(5):
        save_image(images / f"new {number}.png", 50 + number)
    monkeypatch.setattr(encoding, "SECONDS_PER_PART", 0)
    shutil.copytree(index.folder, folder)
    update_index(encoder, images, folder)
    expected, names = content(folder), {file.suffix for file in folder.iterdir()}
    kills, seen = 0, set()
    while True:
        shutil.rmtree(folder)
        shutil.copytree(index.folder, folder)
        try:
            with killed_at_write(kills, monkeypatch):
                update_index(encoder, images, folder)
            break
        except Kill:
            kills += 1
            seen.add(tuple(assert_whole(encoder, folder, index).paths))
            update_index(encoder, images, folder)
            assert content(folder) == expected
            assert {file.suffix for file in folder.iterdir()} == names, "no stale files"
    assert kills >= 8
    assert {len(paths) for paths in seen} == {10, 13, 14}


def test_an_index_inside_the_folder_is_not_part_of_it(encoder: Encoder, images: Path) -> None:
    assert update_index(encoder, images, images / "index").total == 10
    save_image(images / "index" / "figure.png", 1)
    assert update_index(encoder, images, images / "index").total == 10


def changed(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / "index.db")) as database, database:
        assert database.execute(statement).rowcount


def features_file(folder: Path) -> Path:
    (file,) = folder.glob("features-*.f16")
    return file


def in_header(folder: Path, **values: object) -> None:
    """Put values into the header, as somebody who knows its checksum."""
    with closing(sqlite3.connect(folder / "index.db")) as database, database:
        (text,) = database.execute("SELECT content FROM header").fetchone()
        text = json.dumps(json.loads(text) | values)
        database.execute("UPDATE header SET content = ?, crc = ?", (text, zlib.crc32(text.encode())))


DAMAGE = {
    "no database": lambda folder: (folder / "index.db").write_bytes(b""),
    "another file": lambda folder: (folder / "index.db").write_bytes(b"an index" * 1000),
    "a truncated database": lambda folder: os.truncate(folder / "index.db", 4096),
    "no table": lambda folder: changed(folder, "ALTER TABLE images RENAME TO pictures"),
    "a lost image": lambda folder: changed(folder, "DELETE FROM images WHERE id = 3"),
    "no features": lambda folder: features_file(folder).unlink(),
    "truncated features": lambda folder: os.truncate(features_file(folder), 150),
    "paths that leave the root": lambda folder: changed(folder, "UPDATE images SET path = 'a/../../b.png'"),
    "absolute paths": lambda folder: changed(folder, "UPDATE images SET path = CAST('/b.png' AS BLOB)"),
    "paths that are numbers": lambda folder: changed(folder, "UPDATE images SET path = 7"),
    "another path": lambda folder: changed(
        folder, "UPDATE images SET path = CAST('c.png' AS BLOB) WHERE id = 3"
    ),
    "another slot": lambda folder: changed(folder, "UPDATE images SET slot = 10 WHERE id = 3"),
    "swapped slots": lambda folder: changed(folder, "UPDATE images SET slot = 5 - slot WHERE slot < 6"),
    "slots that are texts": lambda folder: changed(folder, "UPDATE images SET slot = 'x' WHERE id = 3"),
    "no header": lambda folder: changed(folder, "DELETE FROM header"),
    "a changed header": lambda folder: changed(
        folder, "UPDATE header SET content = replace(content, '10', '11')"
    ),
    "a header that is no JSON": lambda folder: changed(
        folder, "UPDATE header SET content = '{', crc = 2575069260"
    ),
    "a header of another format": lambda folder: in_header(folder, format=3),
    "a header with another key": lambda folder: in_header(folder, more=3),
    "a width that is a text": lambda folder: in_header(folder, embed_dim="8"),
    "a width of nothing": lambda folder: in_header(folder, embed_dim=0),
    "more features than there are": lambda folder: in_header(folder, num_slots=10**10),
    "features elsewhere": lambda folder: in_header(folder, features="../index/" + features_file(folder).name),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_reported(
    damage: Callable[[Path], object], encoder: Encoder, index: Index, index_folder: Path
) -> None:
    damage(index_folder)
    for work in (
        lambda: Index.open(index_folder),
        lambda: update_index(encoder, index.image_root, index_folder),
    ):
        with pytest.raises(UserError, match=r"index' is damaged .*index again"):
            work()


def test_folders_that_cannot_be_indexed_are_refused(encoder: Encoder, images: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").touch()
    for root, folder, message in (
        (tmp_path / "empty", tmp_path / "index", "IMAGE_ROOT: no image"),
        (tmp_path / "broken", tmp_path / "other", "IMAGE_ROOT: none of 1 images"),
        (tmp_path / "nowhere", tmp_path / "index", "IMAGE_ROOT: .* is not a folder"),
        (images, tmp_path / "file" / "index", "INDEX: .* cannot be made"),
        (images, images, "INDEX: .* contains files but no index"),
    ):
        with pytest.raises(UserError, match=message):
            update_index(encoder, root, folder)
    for folder in (tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(UserError, match="contains no index"):
            Index.open(folder)


def test_a_full_disk_is_reported_and_leaves_the_index_as_it_was(
    encoder: Encoder, images: Path, index_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_image(images / "new.png", 50)

    def fsync(file: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(UserError, match="No space left on device"):
            update_index(encoder, images, index_folder)
    assert len(Index.open(index_folder).paths) == 10
    assert update_index(encoder, images, index_folder).encoded == 1


def test_another_model_is_refused_and_the_same_one_under_another_name_is_not(
    encoder: Encoder, index: Index, tmp_path: Path
) -> None:
    other = small_encoder(tmp_path, seed=1)
    for work in (
        lambda: check_identity(index.folder, index.header, other),
        lambda: index.load_encoder(other.checkpoint),
        lambda: update_index(other, index.image_root, index.folder),
    ):
        with pytest.raises(UserError, match="by another model"):
            work()
    copy = shutil.copy(encoder.checkpoint, tmp_path / "copy.pth")
    assert index.load_encoder(Path(copy)).identity == encoder.identity
    other_input = save_run(tmp_path / "input.pth", **{"data.normalization": "clip"})
    assert load_encoder(other_input).identity != encoder.identity


def test_the_command_line_makes_an_index_and_lists_skipped_files(
    encoder: Encoder, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "broken.png").touch()
    command = ["index", str(encoder.checkpoint), str(images), "--out", str(tmp_path / "index")]
    assert main([*command, "data.test_batch_size=3"]) == 0
    out = capsys.readouterr().out
    assert "11 found = 0 kept + 0 moved + 0 copied + 10 new + 0 changed + 1 skipped" in out
    assert "10 images, 10 encoded, 0 missing, exact search" in out
    assert "1 skipped (first: broken.png)" in out
    for extra in (["--approximate"], ["oops"], ["data.nonsense=1"], ["--exact", "--approximate"]):
        assert main([*command, *extra]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("error: ")
    assert len(Index.open(tmp_path / "index").paths) == 10


def test_ctrl_c_on_the_command_line_tells_how_to_resume(
    encoder: Encoder,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        Encoder, "encode_batches", lambda self, batches: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    assert main(["index", str(encoder.checkpoint), str(images), "--out", str(tmp_path / "index")]) == 130
    assert "run the same command to resume" in capsys.readouterr().out


MIN_APPROXIMATE = 4000  # training on more images takes seconds


def clustered(count: int, width: int, seed: int) -> np.ndarray:
    """(count, width) fp16 features around 100 centres."""
    centres = np.random.default_rng(0).standard_normal((100, width))
    rng = np.random.default_rng(seed)
    rows = centres[rng.integers(100, size=count)] + 0.5 * rng.standard_normal((count, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def ranked(features: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    scores = queries @ features.astype(np.float32).T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, rows, 1), rows


def exact(features: np.ndarray, slots: np.ndarray | None = None) -> ExactEngine:
    """An engine of the rows with these slots, or of all."""
    slots = np.arange(len(features)) if slots is None else slots
    return ExactEngine(lambda into: np.copyto(into, features), Rows(slots, len(features)), features.shape[1])


def test_exact_search_is_a_sort_of_all_scores() -> None:
    features, queries = clustered(3000, 32, 1), clustered(20, 32, 2).astype(np.float32)
    for k in (1, 10, 3000):
        scores, rows = exact(features).search(queries, k)
        expected, expected_rows = ranked(features, queries, k)
        assert scores == pytest.approx(expected, abs=1e-5)
        assert (rows == expected_rows).mean() > 0.999  # the last bits of sums in another order
        assert (scores.dtype, rows.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize("k", [1, 2, 3, 40, 200])
def test_equal_scores_keep_the_order_of_the_rows(k: int) -> None:
    features = np.tile(clustered(4, 16, 1), (100, 1))  # every image a hundred times
    _, rows = exact(features).search(features[:4].astype(np.float32), k)
    for query in range(4):
        assert rows[query, : min(k, 100)].tolist() == list(range(query, 400, 4))[:k]


@pytest.mark.parametrize("k", [1, 3, 40, 200])
def test_slots_of_no_row_are_not_ranked_and_ties_keep_the_order_of_the_rows(k: int) -> None:
    features = np.concatenate([clustered(300, 16, 1), np.tile(clustered(4, 16, 2), (50, 1))])
    slots = np.random.default_rng(0).permutation(500)[:400]
    engine, queries = exact(features, slots), features[[0, 300, 303]].astype(np.float32)
    scores, rows = engine.search(queries, k)
    expected, _ = ranked(features[slots], queries, k)
    assert scores == pytest.approx(expected, abs=1e-5)
    assert (engine.features_of(rows[0]) == features[slots][rows[0]]).all()
    for own_scores, own_rows in zip(scores, rows, strict=True):
        pairs = list(zip(-own_scores, own_rows, strict=True))
        assert pairs == sorted(pairs)
    tied = (features[slots] == features[300]).all(axis=1).nonzero()[0]
    assert rows[1, : len(tied)].tolist() == tied[:k].tolist()


@pytest.mark.parametrize("k", [1, 7, 300])
@pytest.mark.parametrize("share", [0.05, 0.41, 0.9, 0.999])
@pytest.mark.parametrize("is_against", [False, True])
def test_a_filter_ranks_as_a_sort_of_the_selected_images_does(share: float, k: int, is_against: bool) -> None:
    """Also where the best images of all are those that it leaves out."""
    features, queries = clustered(3000, 32, 1), clustered(9, 32, 2).astype(np.float32)
    engine = exact(features)
    order = (queries[0] @ features.T).argsort() if is_against else np.random.default_rng(0).permutation(3000)
    mask = np.zeros(3000, bool)
    mask[order[: int(3000 * share)]] = True
    k, chosen = min(k, mask.sum()), mask.nonzero()[0]
    scores, rows = engine.search(queries, k, engine.rows.select(mask))
    expected, expected_rows = ranked(features[mask], queries, k)
    assert scores == pytest.approx(expected, abs=1e-5)
    assert (rows == chosen[expected_rows]).mean() > 0.999


def test_approximate_search_finds_nearly_all_with_their_exact_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "MIN_APPROXIMATE", MIN_APPROXIMATE)
    monkeypatch.setattr(engines, "LISTS_PROBED", 16)  # of 64
    features, queries = clustered(MIN_APPROXIMATE, 20, 1), clustered(50, 20, 2).astype(np.float32)
    slots = np.random.default_rng(0).permutation(len(features) + 9)[: len(features)]
    stored = np.zeros((len(features) + 9, 20), np.float16)
    stored[slots] = features
    with (tmp_path / "a.faiss").open("wb") as file:
        build_approximate(stored, slots, file)
    engine = ApproximateEngine(tmp_path / "a.faiss", stored, Rows(slots, len(stored)))
    _, expected_rows = ranked(features, queries, 10)
    scores, rows = engine.search(queries, 10)
    found = [len(set(a) & set(b)) for a, b in zip(rows, expected_rows, strict=True)]
    assert np.mean(found) >= 9.5
    assert scores == pytest.approx(
        np.take_along_axis(queries @ features.astype(np.float32).T, rows, 1), abs=1e-5
    )
    assert (np.diff(scores) <= 0).all()
    scores, rows = engine.search(queries[:2], MIN_APPROXIMATE)  # all of them: every list is probed
    assert (np.sort(rows) == np.arange(MIN_APPROXIMATE)).all()
    with pytest.raises(UserError, match="--approximate"):
        build_approximate(features, slots[:100], BytesIO())


def test_the_size_chooses_the_kind_of_search_and_a_flag_forces_it(
    encoder: Encoder, index: Index, index_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_EXACT", 9)
    monkeypatch.setattr(store, "build_approximate", lambda _, slots, file: file.write(b"an index"))
    kinds = [update_index(encoder, index.image_root, index_folder, k).kind for k in (None, False, True)]
    assert kinds == ["approximate", "exact", "approximate"]
    (file,) = index_folder.glob("approximate*")
    assert update_index(encoder, index.image_root, index_folder, True).encoded == 0
    assert list(index_folder.glob("approximate*")) == [file], "not built again for the same images"
    with pytest.raises(UserError, match="is damaged"):
        Index.open(index_folder)
    file.unlink()
    with pytest.raises(UserError, match="is damaged"):
        Index.open(index_folder)


def test_an_image_of_any_mode_has_the_features_of_evaluation(encoder: Encoder) -> None:
    grey = Image.fromarray(np.arange(128, dtype=np.uint8).reshape(16, 8))
    pixels = encoder.processor(images=[grey.convert("RGB")])["pixel_values"]
    expected = encoder.model.clip.encode_image(pixels)
    assert encoder.encode_images([grey]).allclose(torch.nn.functional.normalize(expected), atol=1e-6)
    assert encoder.encode_images([]).shape == (0, encoder.embed_dim)


def test_the_identity_is_that_of_indexes_written_before_data_cleaning_was_an_option(encoder: Encoder) -> None:
    keys = ("model.backbone", "data.image_size", "data.normalization", "experiment.text_length")
    values = ("clip", [16, 8], "imagenet", 12)
    features = dict(zip(keys, values, strict=True)) | {"experiment.use_altclip_processor": False}
    written = json.dumps([hashlib.sha256(encoder.checkpoint.read_bytes()).hexdigest(), features])
    assert encoder.identity == hashlib.sha256(written.encode()).hexdigest()


def test_opening_an_index_does_not_load_torch() -> None:
    """Its third of a gigabyte may be needed for the features."""
    code = "import sys, misc.search.index; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
