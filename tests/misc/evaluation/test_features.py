"""Saved features: what is written is what is read, damage is named, fusion is a weighted mean."""

import errno
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from data.types import EvaluationSet, Queries
from main import main
from misc.evaluation.evaluator import Encoded, Features, score
from misc.evaluation.features import check_same_sets, fuse, load_features, save_features
from options import UserError
from tests.helpers.gloo import run_in_processes
from tests.helpers.whole_runs import assert_mentions, error_line, files, results_of

OPTIONS = {"data.image_size": (384, 128), "model.backbone": "clip"}


def encoded(seed: int, width: int = 8, num_images: int = 7) -> Encoded:
    generator = torch.Generator().manual_seed(seed)
    described = torch.arange(num_images).repeat_interleave(2)
    person_ids = torch.arange(num_images) // 2
    queries = {
        language: Queries(
            [f"{language} {i} é 红" for i in range(len(described))], person_ids[described], described
        )
        for language in ("en", "ch")
    }
    names = [f"cam/{i}.jpg" for i in range(num_images)]
    gallery = EvaluationSet(Path("imgs"), names, person_ids, queries)

    def rows(count: int) -> torch.Tensor:
        return F.normalize(torch.randn(count, width, generator=generator), dim=1)

    texts = {language: rows(len(described)) for language in queries}
    return Encoded(gallery, Features(rows(num_images), texts))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    weights, folder = tmp_path / "weights.pt", tmp_path / "features"
    weights.write_bytes(b"weights" * 1000)
    folder.mkdir()
    save_features({"a": encoded(0), "b/c d": encoded(1, num_images=5)}, folder, weights, OPTIONS)
    return folder


def test_what_is_saved_is_read_back_to_the_bit(saved: Path, tmp_path: Path) -> None:
    read = load_features(saved, "eval.fuse")
    assert list(read.sets) == ["a", "b/c d"]
    for name, expected in (("a", encoded(0)), ("b/c d", encoded(1, num_images=5))):
        got = read.sets[name]
        assert torch.equal(got.features.images, expected.features.images)
        assert got.evaluation_set.image_root == Path("imgs")
        assert got.evaluation_set.images == expected.evaluation_set.images
        for language, queries in expected.evaluation_set.queries.items():
            assert torch.equal(got.features.texts[language], expected.features.texts[language])
            assert got.evaluation_set.queries[language].captions == queries.captions
            assert torch.equal(got.evaluation_set.queries[language].image_indices, queries.image_indices)
        assert score(got) == score(expected)
    record = json.loads((saved / "features.json").read_text(encoding="utf-8"))
    digest = hashlib.sha256(b"weights" * 1000).hexdigest()
    assert record["weights"] == {"file": str(tmp_path / "weights.pt"), "sha256": digest}
    assert record["options"]["data.image_size"] == [384, 128]


def test_the_weights_may_be_a_folder(tmp_path: Path) -> None:
    weights = tmp_path / "model"
    (weights / "sub").mkdir(parents=True)
    (weights / "b.bin").write_bytes(b"2")
    (weights / "sub" / "a.bin").write_bytes(b"3")
    (weights / "a.bin").write_bytes(b"1")
    save_features({"a": encoded(0)}, tmp_path, weights, OPTIONS)
    record = json.loads((tmp_path / "features.json").read_text(encoding="utf-8"))
    assert record["weights"]["sha256"] == hashlib.sha256(b"123").hexdigest()


def test_a_failed_write_keeps_the_features_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights.pt").write_bytes(b"weights")
    save_features({"a": encoded(0)}, tmp_path, tmp_path / "weights.pt", OPTIONS)
    before = files(tmp_path)
    with pytest.raises(FileNotFoundError):
        save_features({"a": encoded(1)}, tmp_path, tmp_path / "removed.pt", OPTIONS)
    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_features({"a": encoded(1)}, tmp_path, tmp_path / "weights.pt", OPTIONS)
    assert files(tmp_path) == before


def full_disk(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def truncate(folder: Path) -> None:
    path = folder / "features.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def other_tensors(folder: Path) -> None:
    (folder / "other").mkdir()
    sets = {"a": encoded(0, num_images=6), "b/c d": encoded(1)}
    save_features(sets, folder / "other", folder / "features.json", {})
    (folder / "other" / "features.safetensors").replace(folder / "features.safetensors")


def in_index(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """The damage of a change to the index, or to what stands in it of set "a"."""

    def damage(folder: Path) -> None:
        record = json.loads((folder / "features.json").read_text(encoding="utf-8"))
        change({**record["sets"]["a"], **record["sets"]["a"]["queries"]["en"], "record": record})
        (folder / "features.json").write_text(json.dumps(record))

    return damage


def in_tensors(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    """The damage of other features in place of the images' of set "a"."""

    def damage(folder: Path) -> None:
        tensors = load_file(folder / "features.safetensors")
        tensors["a/images"] = change(tensors["a/images"].clone()).contiguous()
        save_file(tensors, folder / "features.safetensors")

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        other_tensors,
        lambda folder: (folder / "features.safetensors").unlink(),
        lambda folder: (folder / "features.json").write_text("{"),
        lambda folder: (folder / "features.json").write_text("[]"),
        lambda folder: (folder / "features.json").write_text('{"sets": []}'),
        lambda folder: (folder / "features.json").write_text("[" * 100_000),
        in_index(lambda index: index["record"].update(format=2)),
        in_index(lambda index: index["record"]["sets"].clear()),
        in_index(lambda index: index["queries"].clear()),
        in_index(lambda index: index["images"].pop()),
        in_index(lambda index: index["images"].insert(0, index["images"].pop() and "../1.jpg")),
        in_index(lambda index: index["images"].insert(0, index["images"].pop() and "/1.jpg")),
        in_index(lambda index: index["captions"].insert(0, index["captions"].pop() and 7)),
        in_index(lambda index: index["captions"].insert(0, index["captions"].pop() and "\ud800")),
        in_index(lambda index: index["image_indices"].pop()),
        in_index(lambda index: index["image_indices"].insert(0, index["image_indices"].pop() + 1)),
        in_index(lambda index: index["image_indices"].insert(0, index["image_indices"].pop(0) - 7)),
        in_index(lambda index: index["person_ids"].insert(0, index["person_ids"].pop())),
        in_index(lambda index: index["person_ids"].insert(0, index["person_ids"].pop() and 2**70)),
        in_index(lambda index: index["record"]["sets"]["a"]["person_ids"].insert(0, 0.5)),
        in_tensors(lambda rows: rows.index_fill(0, torch.tensor(1), torch.nan)),
        in_tensors(lambda rows: 2 * rows),
        in_tensors(lambda rows: rows[:, :, None]),
        in_tensors(lambda rows: rows.half()),
        in_tensors(lambda rows: F.pad(rows, (0, 1))),
    ],
)
def test_damage_is_said_in_one_line(saved: Path, damage: object, capsys: pytest.CaptureFixture[str]) -> None:
    damage(saved)
    assert main(["--evaluate", str(saved), "misc.device=cpu"]) == 2
    assert_mentions(error_line(capsys), str(saved), "damaged")


def test_sets_that_were_not_saved_and_features_without_index_are_refused_and_nothing_is_saved_again(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate = ["--evaluate", str(saved), "misc.device=cpu"]
    assert main([*evaluate, "eval.test_sets={x: [y, z]}"]) == 2
    assert "no features of 'x'" in error_line(capsys)
    assert main([*evaluate, "--save-features", "x"]) == 2
    assert "leave it out" in error_line(capsys)
    (saved / "features.json").unlink()
    assert main(evaluate) == 2
    assert "has no features.json" in error_line(capsys)


def test_processes_together_give_the_figures_of_one(saved: Path, tmp_path: Path) -> None:
    rows = ["eval.rerank=true", "eval.rerank_k1=4", f"eval.fuse={{{saved}: 2}}"]
    arguments = ["--evaluate", str(saved), "misc.device=cpu", *rows, "--output-dir"]
    assert main([*arguments, str(tmp_path / "1")]) == 0
    assert run_in_processes(main, 2, tmp_path, [*arguments, str(tmp_path / "2")]) == [0, 0]
    alone, together = (results_of(tmp_path / number)["sets"] for number in "12")
    for name in alone:
        assert together[name]["languages"] == alone[name]["languages"]
        assert alone[name]["rows"].keys() == {"fusion", "rerank", "fusion+rerank"}
        for row, figures in alone[name]["rows"].items():
            assert together[name]["rows"][row]["languages"] == figures["languages"]
            assert row == "fusion" or figures["average"] != alone[name]["average"]


def test_fused_similarities_are_the_weighted_mean() -> None:
    first, second, third = (encoded(seed, width).features for seed, width in ((0, 8), (1, 8), (2, 5)))
    fused = fuse([(1.0, first), (0.5, second), (2.0, third)])
    for language in ("en", "ch"):
        one, two, three = (f.texts[language] @ f.images.T for f in (first, second, third))
        got = fused.texts[language] @ fused.images.T
        torch.testing.assert_close(got, (one + 0.5 * two + 2 * three) / 3.5)
    torch.testing.assert_close(fused.images.norm(dim=1), torch.ones(7))


def test_features_of_other_sets_are_not_fused(saved: Path) -> None:
    read = load_features(saved, "eval.fuse")
    same, changed_caption, changed_person = (encoded(5).evaluation_set for _ in range(3))
    changed_caption.queries["en"].captions[3] = "else"
    changed_person.person_ids[6] = 9
    check_same_sets({"a": same}, read)
    same.queries["en"].captions[3] = "EN 3 é: 红."  # as a model reads it that keeps punctuation
    check_same_sets({"a": same}, read)
    for name, gallery, said in (
        ("x", same, "no features of the set 'x', only of a, b/c d"),
        ("b/c d", same, "5 in it, 7"),
        ("a", changed_caption, "captions in 'en': number 3 is 'en 3 é 红' in it, 'else'"),
        ("a", changed_person, "persons of the images: number 6"),
    ):
        with pytest.raises(UserError, match=r"eval\.fuse") as caught:
            check_same_sets({name: gallery}, read)
        assert said in str(caught.value)
