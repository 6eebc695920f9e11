import json
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from misc.report import pictures
from misc.report.pictures import RankingRow, caption_font, draw_curves, draw_rankings, fit_text

ENGLISH = "A woman with long black hair wears a red striped T-shirt and light blue jeans."
CHINESE = "一名留着黑色长发的女子，身穿红色条纹短袖上衣和浅蓝色牛仔裤，左肩背着一个棕色手提包。"
GERMAN = "Ein Mann trägt eine dunkelgrüne Jacke, weiße Turnschuhe und ein Überhemd."
FRENCH = "Une élève porte un gilet à carreaux, un béret et des chaussures élégantes ; çà et là, du bleu."


@pytest.fixture
def blue_image(tmp_path: Path) -> Path:
    Image.new("RGB", (60, 150), (0, 0, 200)).save(tmp_path / "blue.png")
    return tmp_path / "blue.png"


def drawn(out: Path, rows: list[RankingRow]) -> np.ndarray:
    draw_rankings(rows, out)
    return np.asarray(Image.open(out).convert("RGB"))


def is_color(pixels: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return (pixels == color).all(axis=-1)


def glyph(character: str) -> bytes:
    mask = caption_font().getmask(character)
    return bytes(mask) + bytes(mask.size)


def test_right_results_are_framed_green_and_wrong_ones_red_in_the_given_order(
    tmp_path: Path, blue_image: Path
) -> None:
    rights = [True, False, False, True, False]
    row = RankingRow(ENGLISH, blue_image, [(blue_image, right, 0.5) for right in rights])
    pixels = drawn(tmp_path / "ranking.png", [row])
    framed = is_color(pixels, pictures.RIGHT).any(axis=1).nonzero()[0]
    across = pixels[(framed[0] + framed[-1]) // 2 + 40]
    names = {pictures.RIGHT: "right", pictures.WRONG: "wrong"}
    runs = [name for name, _ in groupby(names.get(tuple(pixel)) for pixel in across.tolist()) if name]
    assert runs == [name for right in rights for name in [("wrong", "right")[right]] * 2]


def test_a_tick_and_a_cross_tell_right_from_wrong_without_colour(tmp_path: Path, blue_image: Path) -> None:
    shapes = {}
    for right, color in ((True, pictures.RIGHT), (False, pictures.WRONG)):
        pixels = drawn(tmp_path / "ranking.png", [RankingRow("", blue_image, [(blue_image, right, 0.5)])])
        shapes[right] = is_color(pixels, color)[-pictures.ROW_GAP - pictures.LABEL_HEIGHT :]
        assert shapes[right].any()
    assert (shapes[True] != shapes[False]).sum() > 20


def test_an_image_that_cannot_be_read_is_a_grey_cell_with_its_name(tmp_path: Path, blue_image: Path) -> None:
    cut = tmp_path / "cut.jpg"
    Image.effect_noise((80, 160), 60).save(cut)
    cut.write_bytes(cut.read_bytes()[:100])
    for unreadable in (tmp_path / "missing.jpg", cut, tmp_path):
        results = [(unreadable, True, 0.5), (blue_image, False, 0.4)]
        pixels = drawn(tmp_path / "ranking.png", [RankingRow(ENGLISH, blue_image, results)])
        ys, xs = is_color(pixels, pictures.RULE)[80:].nonzero()
        cell = pixels[80:][ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
        assert len(ys) > 0.8 * pictures.CELL_WIDTH * (pictures.CELL_HEIGHT - 80)
        assert (cell.max(axis=-1) < 140).any()
        assert is_color(pixels, (0, 0, 200)).sum() > 2 * 60 * 150


@pytest.mark.parametrize("caption", [CHINESE, GERMAN, FRENCH, ENGLISH])
def test_every_character_of_four_languages_has_a_glyph_of_its_own(caption: str) -> None:
    no_glyph = glyph("\ue123")
    assert no_glyph == glyph("\ue124")
    assert [c for c in caption if glyph(c) == no_glyph] == []


def test_characters_without_a_glyph_and_odd_captions_are_drawn(tmp_path: Path, blue_image: Path) -> None:
    for caption in ("ไทย עברית 😀", "", " \n ", "\ud800 a\0b", "（" * 400, "，" * 400):
        drawn(tmp_path / "ranking.png", [RankingRow(caption, blue_image, [])])


@pytest.mark.parametrize("caption", [ENGLISH * 20, CHINESE * 20, "x" * 2000, "A " + "Mützenband" * 300])
def test_a_long_caption_stays_in_its_column_and_its_row(
    tmp_path: Path, blue_image: Path, caption: str
) -> None:
    rows = [RankingRow(text, blue_image, []) for text in (caption, "")]
    pixels = drawn(tmp_path / "long.png", rows)
    right_edge = pictures.MARGIN + pictures.CAPTION_WIDTH
    row_end = pictures.MARGIN + pictures.HEADER_HEIGHT + pictures.ROW_HEIGHT - pictures.ROW_GAP
    blank = is_color(pixels, pictures.PAPER) | is_color(pixels, pictures.RULE)
    assert blank[:, right_edge + 1 : right_edge + pictures.GROUP_GAP].all()
    assert blank[:, : pictures.MARGIN - 1].all()
    assert blank[row_end:, :right_edge].all()
    used = (~blank[60:row_end, :right_edge]).nonzero()
    assert np.ptp(used[0]) > 150
    assert np.ptp(used[1]) > 400


def test_words_are_kept_whole_and_nothing_of_a_caption_that_fits_is_lost() -> None:
    for caption in (ENGLISH, GERMAN, FRENCH):
        lines = fit_text(caption, caption_font(), 180, 20)
        assert len(lines) > 2
        assert " ".join(lines) == caption
        assert fit_text(caption.replace(" ", " \n "), caption_font(), 180, 20) == lines
    lines = fit_text(CHINESE, caption_font(), 180, 20)
    assert "".join(lines) == CHINESE
    assert min(caption_font().getlength(line) for line in lines[:-1]) > 180 - 3 * pictures.TEXT_SIZE


def test_no_line_begins_with_a_chinese_stop() -> None:
    for width in range(60, 300, 7):
        assert not [line for line in fit_text(CHINESE, caption_font(), width, 99) if line[0] in "，。"]


def test_a_caption_that_is_cut_ends_in_an_ellipsis_within_the_width() -> None:
    for caption in (ENGLISH, CHINESE, "x" * 99):
        lines = fit_text(caption, caption_font(), 150, 2)
        assert len(lines) == 2
        assert lines[1].endswith("…")
        assert max(caption_font().getlength(line) for line in lines) <= 150


def test_twelve_rows_are_1600_pixels_wide_and_below_three_megabytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(12):
        coarse = Image.fromarray(rng.integers(0, 255, (9, 4, 3), dtype=np.uint8))
        crop = np.asarray(coarse.resize((110, 260), Image.Resampling.BICUBIC)).astype(float)
        crop += rng.normal(0, 6, crop.shape)
        Image.fromarray(crop.clip(0, 255).astype(np.uint8)).save(tmp_path / f"{index}.jpg", quality=90)
    paths = [tmp_path / f"{index}.jpg" for index in range(12)]
    out = tmp_path / "ranking.png"
    draw_rankings([RankingRow(GERMAN, paths[0], [(p, False, 0.1) for p in paths])] * 12, out)
    assert Image.open(out).width == 1600
    assert out.stat().st_size < 3e6


def train_line(step: int, steps_per_epoch: int = 10, loss: float = 3.0) -> dict[str, Any]:
    line = {"kind": "train", "epoch": (step - 1) // steps_per_epoch + 1, "step": step, "lr": 1e-4 / step}
    line |= {"steps_per_epoch": steps_per_epoch, "logit_scale": 14.3, "samples_per_second": 300.0}
    return line | {"loss": loss, "parts": {"nitc": loss - 1, "ritc": 1.0}}


def eval_line(epoch: int, best: bool = False, languages: tuple[str, ...] = ("en",)) -> dict[str, Any]:
    scores = {way: {"R1": 9.0 * epoch, "mAP": 7.0 * epoch} for way in ("t2i", "i2t")}
    line = {"kind": "eval", "epoch": epoch, "split": "val", "best": best, "average": scores}
    return line | {"languages": dict.fromkeys(languages, scores)}


def curves(folder: Path, lines: list[dict[str, Any]], end: str = "\n") -> np.ndarray:
    metrics_file = folder / "metrics.jsonl"
    metrics_file.write_text("\n".join(json.dumps(line) for line in lines) + end, encoding="utf-8")
    draw_curves(metrics_file, folder / "curves.png")
    return np.asarray(Image.open(folder / "curves.png").convert("RGB"))


def test_a_half_written_or_empty_last_line_changes_nothing(tmp_path: Path) -> None:
    lines = [train_line(5), train_line(10), eval_line(1)]
    whole = curves(tmp_path, lines)
    for end in ("", "\n\n", "\n" + json.dumps(train_line(15))[:-2]):
        assert (curves(tmp_path, lines, end) == whole).all()


def test_a_line_logged_again_after_a_resume_replaces_the_first(tmp_path: Path) -> None:
    fresh = [train_line(5), train_line(10), eval_line(1, best=True), train_line(15)]
    stale = [train_line(5, loss=9.0), train_line(10, loss=8.0)]
    stale += [eval_line(1) | {"average": None, "languages": {}}]
    assert (curves(tmp_path, stale + fresh) == curves(tmp_path, fresh)).all()


def test_training_is_drawn_over_epochs_not_steps(tmp_path: Path) -> None:
    few = [train_line(step) | {"lr": step} for step in (5, 10, 20)]
    many = [train_line(2 * step, 20) | {"lr": step} for step in (5, 10, 20)]
    assert (curves(tmp_path, few) == curves(tmp_path, many)).all()


def test_the_last_best_epoch_is_marked_where_it_lies(tmp_path: Path) -> None:
    def marked_columns(*best: int) -> np.ndarray:
        pixels = curves(tmp_path, [eval_line(epoch, best=epoch in best) for epoch in range(1, 6)])
        lower_left = pixels[pixels.shape[0] // 2 :, : pixels.shape[1] // 2].astype(int)
        grey = (abs(lower_left - 102) < 30).all(axis=-1).sum(axis=0)
        return (grey > 200).nonzero()[0]

    assert len(marked_columns()) == 0
    positions = [marked_columns(*best).mean() for best in ((1,), (1, 2), (1, 2, 4))]
    assert positions[1] - positions[0] > 50
    assert positions[1] - positions[0] == pytest.approx((positions[2] - positions[1]) / 2, abs=2)


def test_each_language_has_its_line_and_several_have_an_average(tmp_path: Path) -> None:
    second = tuple(bytes.fromhex(pictures.LINE_COLORS[1][1:]))
    alone = curves(tmp_path, [eval_line(1), eval_line(2)])
    both = curves(tmp_path, [eval_line(epoch, languages=("en", "ch")) for epoch in (1, 2)])
    assert not is_color(alone, second).any()
    assert is_color(both, second).any()
    assert is_color(both, (0, 0, 0)).sum() > 1.1 * is_color(alone, (0, 0, 0)).sum()


@pytest.mark.parametrize("lines", [[], [train_line(1)], [eval_line(1)], [train_line(5), eval_line(1)]])
def test_a_run_that_has_hardly_begun_is_drawn(tmp_path: Path, lines: list[dict[str, Any]]) -> None:
    pixels = curves(tmp_path, lines)
    first = tuple(bytes.fromhex(pictures.LINE_COLORS[0][1:]))
    assert is_color(pixels, first).any() == bool(lines)


def test_a_single_epoch_shows_as_a_point_at_the_right_end(tmp_path: Path) -> None:
    pixels = curves(tmp_path, [eval_line(1)])
    right_end = pixels[pixels.shape[0] // 2 :, int(0.97 * pixels.shape[1]) :]
    first = tuple(bytes.fromhex(pictures.LINE_COLORS[0][1:]))
    assert is_color(right_end, first).sum() > 10
