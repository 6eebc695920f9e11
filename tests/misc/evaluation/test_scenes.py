"""Full-scene search: figures equal to a naive loop over the definitions, and a whole evaluation."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from data.types import Gallery
from main import main
from misc.evaluation.scenes import METRICS, Ranked, least_overlap, overlap, query_figures
from tests.data.frames import write_cuhk, write_prw
from tests.helpers.tiny_config import write_config

Box = tuple[float, float, float, float]


def area_of_both(one: Box, other: Box) -> int:
    """By counting pixels; the boxes are of whole ones."""

    def pixels(box: Box) -> set[tuple[int, int]]:
        left, top, width, height = map(int, box)
        return {(x, y) for x in range(left, left + width) for y in range(top, top + height)}

    return len(pixels(one) & pixels(other))


def naive_figures(
    frames: list[int], boxes: list[Box], scores: list[float], gallery: list[int], truths: dict[int, list[Box]]
) -> list[float]:
    """R@1, R@5, R@10, AP and recall as Xiao et al. define them, for one query."""
    is_hit, ranked, num_hits = [], [], 0
    for frame in gallery:
        rows = [row for row in range(len(boxes)) if frames[row] == frame]
        rows.sort(key=lambda row: -scores[row])  # stable: equal ones keep their order
        open_truths = list(truths.get(frame, []))
        for row in rows:
            best, best_share = None, 0.0
            for truth in open_truths:
                both = area_of_both(boxes[row], truth)
                share = both / (boxes[row][2] * boxes[row][3] + truth[2] * truth[3] - both)
                w, h = truth[2:]
                if share >= min(0.5, w * h / ((w + 10) * (h + 10))) and share > best_share:
                    best, best_share = truth, share
            if best is not None:
                open_truths.remove(best)
                num_hits += 1
            ranked.append((row, scores[row], best is not None))
    ranked.sort()
    is_hit, values = [hit for _, _, hit in ranked], [score for _, score, _ in ranked]
    num_truths = sum(len(truths.get(frame, [])) for frame in gallery)
    if not num_hits:
        return [0.0] * 5
    order = sorted(range(len(values)), key=lambda place: -values[place])
    recalls = [float(any(is_hit[place] for place in order[:k])) for k in (1, 5, 10)]
    recall = num_hits / num_truths
    return [*recalls, average_precision_score(is_hit, values) * recall, recall]


def random_box(rng: random.Random) -> Box:
    return rng.randint(0, 40), rng.randint(0, 40), rng.randint(4, 30), rng.randint(4, 40)


def moved(box: Box, rng: random.Random) -> Box:
    return box[0] + rng.randint(-3, 3), box[1] + rng.randint(-3, 3), box[2] + rng.randint(0, 4), box[3]


@pytest.mark.parametrize("seed", range(60))
def test_figures_equal_a_naive_loop_over_the_definitions(seed: int) -> None:
    """Places that were missed, found twice or thrice, several in one frame, none found; equal scores."""
    rng = random.Random(seed)
    truths = {frame: [random_box(rng) for _ in range(rng.choice((1, 1, 2, 3)))] for frame in range(4)}
    places: list[tuple[int, Box]] = []
    for frame, boxes in truths.items():
        places += [(frame, moved(box, rng)) for box in boxes for _ in range(rng.choice((0, 1, 1, 2, 3)))]
    places += [(rng.randrange(8), random_box(rng)) for _ in range(rng.choice((1, 20)))]
    rng.shuffle(places)
    scores = [rng.choice((0.1, 0.3, 0.5, rng.random())) for _ in places]
    gallery = rng.sample(range(8), rng.randint(3, 8))
    within = {frame: boxes for frame, boxes in truths.items() if frame in gallery}
    flat = [(frame, box) for frame, boxes in within.items() for box in boxes]
    if not flat:
        gallery, within, flat = list(range(8)), truths, [(f, b) for f, bs in truths.items() for b in bs]
    frames = None if len(gallery) == 8 else gallery
    found = query_figures(np.array(scores), Ranked(places), Gallery(frames, flat))
    frames_of, boxes_of = zip(*places, strict=True)
    expected = naive_figures(list(frames_of), list(boxes_of), scores, gallery, within)
    assert found == pytest.approx(expected)


def test_the_first_of_two_boxes_of_a_place_is_the_hit_and_the_other_one_is_false() -> None:
    places = [(0, (0, 0, 40, 80)), (0, (2, 0, 40, 80)), (1, (0, 0, 40, 80))]
    truth = Gallery(None, [(0, (0, 0, 40, 80)), (1, (100, 0, 40, 80))])
    scores = np.array([0.5, 0.9, 0.7])
    assert Ranked(places).hits(scores, truth.truths) == [1]
    figures = dict(zip(METRICS, query_figures(scores, Ranked(places), truth), strict=True))
    assert figures == {"R1": 1, "R5": 1, "R10": 1, "mAP": 0.5, "recall": 0.5}  # one of two places


def test_a_person_who_is_nowhere_in_the_gallery_has_no_figures_and_one_not_found_has_zeros() -> None:
    ranked, scores = Ranked([(0, (0, 0, 9, 9))]), np.array([0.5])
    assert np.isnan(query_figures(scores, ranked, Gallery([0], []))).all()
    assert query_figures(scores, ranked, Gallery([0, 1], [(1, (0, 0, 9, 9))])) == [0, 0, 0, 0, 0]


def test_a_small_place_needs_less_overlap() -> None:
    assert least_overlap((0, 0, 100, 200)) == 0.5
    assert least_overlap((0, 0, 10, 20)) == pytest.approx(200 / (20 * 30))
    assert overlap((0, 0, 10, 10), (5, 0, 10, 10)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 10, 10), (20, 0, 10, 10)) == 0


TRAIN = {"c1s1_000001": [(1, (1, 2, 30, 60)), (2, (40, 2, 30, 60))]}
TEST = {
    "c1s1_000003": [(7, (5, 5, 20, 60)), (8, (40, 5, 20, 60))],
    "c3s1_000004": [(7, (50, 10, 20, 60)), (-2, (1, 1, 20, 40))],
    "c3s1_000005": [(8, (10, 10, 20, 60))],
}
TEXTS = {("c1s1_000001", 1): ["A man."], ("c1s1_000001", 2): ["A woman in a red coat."]}
TEXTS |= {
    ("c1s1_000003", 7): ["A man in blue.", "He is tall."],
    ("c1s1_000003", 8): ["A boy.", "He is small."],
}
QUERIES = ["7 5 5 20 60 c1s1_000003", "8 40 5 20 60 c1s1_000003"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of PRW-TBPS, and of a run that was trained on its crops."""
    root = tmp_path_factory.mktemp("scenes")
    data = write_prw(root / "PRW-TBPS", TRAIN, TEST, TEXTS, QUERIES)
    config = write_config(
        root / "tiny.yaml",
        data,
        width=16,
        schedule={"epoch": 1},
        data={"image_root": str(data), "batch_size": 2, "cache": str(root / "cache")},
        output={"dir": str(root / "run")},
    )
    assert main(["--config", str(config)]) == 0
    return data, root / "run"


def results_of(run: Path, out: Path, *overrides: str) -> dict:
    arguments = ["--config", f"{run}/options.yaml", "--evaluate", f"{run}/checkpoint_best.pth"]
    assert main([*arguments, "--output-dir", str(out), *overrides]) == 0
    return json.loads((out / "results.json").read_text())


def detections(path: Path, boxes: list[tuple[str, Box]]) -> Path:
    found = [{"image_id": f"{name}.jpg", "bbox": list(box), "score": 0.9} for name, box in boxes]
    path.write_text(json.dumps(found))
    return path


def test_over_all_annotated_boxes_the_figures_are_those_of_the_crops(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    """In PRW-TBPS, a ranking of all annotated boxes is one of crops: the same figures on another way."""
    results = results_of(trained[1], tmp_path)
    (figures,) = results["scenes"]["en"]["all frames"].values()
    crops = results["languages"]["en"]["t2i"]
    assert {name: figures[name] for name in crops if name != "mINP"} == pytest.approx(
        {name: value for name, value in crops.items() if name != "mINP"}, rel=1e-5
    )
    assert (figures["recall"], figures["num_queries"]) == (100, 4)


def test_detected_boxes_stand_beside_annotated_ones_and_their_recall_bounds_map(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    everybody = [(name, box) for name, people in TEST.items() for _, box in people]
    perfect = detections(tmp_path / "all.json", everybody)
    found = results_of(trained[1], tmp_path / "a", f"eval.detections={perfect}")["scenes"]["en"]["all frames"]
    assert found["detected"] == found["annotated"]
    missed = detections(tmp_path / "some.json", [everybody[0], ("c1s1_000003", (4, 5, 20, 60)), everybody[3]])
    capsys.readouterr()
    results = results_of(trained[1], tmp_path / "b", f"eval.detections={missed}", "data.margin=0.1")
    found = results["scenes"]["en"]["all frames"]["detected"]
    assert found["recall"] == 25  # one of the two places of person 7, none of person 8
    assert found["mAP"] <= 25
    assert found["num_queries"] == 4
    table = capsys.readouterr().out
    assert table.count("all frames, annotated boxes") == table.count("all frames, detected boxes") == 1


def test_cuhk_sysu_has_a_row_for_each_size_of_the_gallery(trained: tuple[Path, Path], tmp_path: Path) -> None:
    names = {name: f"s{name[-1]}.jpg" for name in TRAIN | TEST}
    train, test = ({names[name]: people for name, people in part.items()} for part in (TRAIN, TEST))
    texts = {(names[name], person): of for (name, person), of in TEXTS.items()}
    searches = {
        50: [("s3.jpg", 7, ["s4.jpg"]), ("s3.jpg", 8, ["s4.jpg", "s5.jpg"])],
        100: [("s3.jpg", 7, ["s4.jpg", "s5.jpg"]), ("s3.jpg", 8, ["s4.jpg"])],
    }
    out = write_cuhk(tmp_path / "CUHK", train, test, texts, searches)
    folder = (f"data.annotation_file={out}", f"data.image_root={out}")
    results = results_of(trained[1], tmp_path / "a", *folder, "eval.gallery_sizes=[100,50]")
    found = results["scenes"]["en"]
    assert {name: of["annotated"]["num_queries"] for name, of in found.items()} == {
        "100 images": 2,  # person 8 is nowhere in this gallery
        "50 images": 4,
    }
    assert all(of["annotated"]["recall"] == 100 for of in found.values())


def test_saved_features_have_the_rows_of_annotated_boxes_and_refuse_detected_ones(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = trained[1]
    arguments = ["--config", f"{run}/options.yaml", "--evaluate"]
    weights = [*arguments, f"{run}/checkpoint_best.pth", "--save-features", str(tmp_path / "features")]
    assert main([*weights, "--output-dir", str(tmp_path / "a")]) == 0
    scored = [*arguments, str(tmp_path / "features"), "--output-dir", str(tmp_path / "b")]
    assert main(scored) == 0
    before, after = (json.loads((tmp_path / name / "results.json").read_text()) for name in "ab")
    assert before["scenes"] == after["scenes"]
    assert main([*scored, "data.margin=0.5"]) == 0  # the regions of the features are others
    assert "scenes" not in json.loads((tmp_path / "b" / "results.json").read_text())
    capsys.readouterr()
    file = detections(tmp_path / "a.json", [("c1s1_000003", (0, 0, 9, 9))])
    assert main([*scored, f"eval.detections={file}"]) == 2
    assert "error: eval.detections" in capsys.readouterr().err


def test_detections_without_frames_are_an_error(
    people: Path, trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = detections(tmp_path / "a.json", [("c1s1_000003", (0, 0, 9, 9))])
    arguments = ["--config", f"{trained[1]}/options.yaml", "--evaluate", f"{trained[1]}/checkpoint_best.pth"]
    folder = [f"data.annotation_file={people}", f"data.image_root={people}/imgs"]
    overrides = [f"eval.detections={file}", "data.margin=0.1"]
    assert main([*arguments, *folder, *overrides, "--output-dir", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert "error: eval.detections: the boxes are of frames" in printed.err
    assert f"data.margin: no image of '{people}' is a box in a frame" in printed.out + printed.err
