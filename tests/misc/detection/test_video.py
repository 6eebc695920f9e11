"""Videos: which frames are sampled, also from the middle, damaged files, and tracks of the program."""

import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from misc.detection import video
from misc.detection.__main__ import main
from misc.detection.boxes import Boxes, as_boxes
from misc.detection.video import BadVideoError, facts_of, frame_at, local_time, sampled_frames
from options import UserError

av = pytest.importorskip("av", reason="no videos: pip install av")
SIZE = (64, 48)


def write_video(
    path: Path, times: Sequence[float], shades: Sequence[int], gap: int = 12, rate: int = 1000
) -> Path:
    """A video with a frame of each shade of gray at each time, and a key frame every `gap` frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate, options={"g": str(gap)})
        stream.width, stream.height = SIZE
        stream.pix_fmt, stream.bit_rate = "yuv420p", 400_000
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for time, shade in zip(times, shades, strict=True):
            pixels = np.full((*SIZE[::-1], 3), shade, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def write_coded(path: Path, codec: str, gap: int, number: int = 60, kind: str | None = None) -> Path:
    """A video of moving noise at 10 frames a second, in which any frame differs from any other."""
    noise = np.random.default_rng(0).integers(0, 255, (*SIZE[::-1], 3), np.uint8)
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=10, options={"g": str(gap), "bf": "2"})
        (stream.width, stream.height), stream.pix_fmt = SIZE, "yuv420p"
        for step in range(number):
            pixels = np.roll(noise, (step, 2 * step), (0, 1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def shade(image: Image.Image) -> float:
    return float(np.asarray(image).mean())


def test_frames_are_the_first_ones_at_or_after_each_multiple(tmp_path: Path) -> None:
    times = [number / 10 for number in range(31)]
    path = write_video(tmp_path / "constant.mp4", times, [8 * number for number in range(31)])
    found = list(sampled_frames(path, 0.5))
    np.testing.assert_allclose([frame.time for frame in found], [0, 0.5, 1, 1.5, 2, 2.5, 3], atol=1e-3)
    np.testing.assert_allclose([shade(f.image) for f in found], [8 * n for n in range(0, 31, 5)], atol=4)
    assert {frame.image.size for frame in found} == {SIZE}


def test_the_rate_may_vary_and_the_first_frame_may_be_late(tmp_path: Path) -> None:
    times = [5 + each for each in (0, 0.1, 0.2, 0.9, 1.3, 1.4, 3.2, 3.3, 4.05)]
    path = write_video(tmp_path / "varying.mkv", times, [25 * number for number in range(9)])
    wanted = []
    for second in range(5):  # the first time at or after each second, unless a frame of a later one was taken
        later = [time - 5 for time in times if time - 5 >= second and time - 5 not in wanted]
        if later and (not wanted or int(wanted[-1]) < second):
            wanted.append(later[0])
    np.testing.assert_allclose([f.time for f in sampled_frames(path, 1)], wanted, atol=2e-3)


CODED = {
    "a.mp4": ("libx264", None),
    "a.ts": ("libx264", None),
    "a.mkv": ("libx264", None),
    "a.avi": ("libx264", None),  # without times of presentation
    "raw.ts": ("libx264", "h264"),  # without times
    "old.mpg": ("mpeg2video", None),
    "old.avi": ("mpeg4", None),
    "a.webm": ("libvpx", None),
}


@pytest.mark.parametrize("name", CODED)
def test_a_run_from_the_middle_has_the_frames_of_one_from_the_beginning(tmp_path: Path, name: str) -> None:
    codec, kind = CODED[name]
    path = write_coded(tmp_path / name, codec, gap=15, kind=kind)
    whole = list(sampled_frames(path, 0.3))
    if kind is None:  # FFmpeg takes 25 frames a second for those of a raw stream
        assert [frame.number for frame in whole] == list(range(1, 61, 3))
    for start in (0, whole[3].time, whole[-4].time - 0.05, whole[-1].time, whole[-1].time + 0.01):
        expected = [frame for frame in whole if frame.time >= start]
        found = list(sampled_frames(path, 0.3, start))
        assert [(f.time, f.number) for f in found] == [(f.time, f.number) for f in expected]
        assert [f.image.tobytes() for f in found] == [f.image.tobytes() for f in expected]
    for frame in whole[::6]:
        assert frame_at(path, round(frame.time, 3)).tobytes() == frame.image.tobytes()


def test_a_run_from_the_middle_of_a_varying_rate_that_begins_late(tmp_path: Path) -> None:
    """Of a file that has an odd name, too."""
    rng = np.random.default_rng(0)
    times = 5 + np.round(np.cumsum(rng.choice([0.04, 0.1, 0.7], 80)), 3)
    times[40:] += 9  # a pause
    path = write_video(tmp_path / "concat:\udcff.mkv", times.tolist(), list(range(0, 240, 3)))
    whole = list(sampled_frames(path, 0.2))
    for frame in whole[::5]:
        found = list(sampled_frames(path, 0.2, frame.time))
        assert [each[:2] for each in found] == [each[:2] for each in whole if each.time >= frame.time]
        assert found[0].image.tobytes() == frame.image.tobytes()
        assert frame_at(path, round(frame.time, 3)).tobytes() == frame.image.tobytes()


def test_a_run_from_the_middle_does_not_decode_what_is_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, decoded = write_coded(tmp_path / "a.mp4", "libx264", gap=10, number=600), []

    def counted(*arguments: object) -> Iterator[object]:
        for timed in original(*arguments):
            decoded.append(timed)
            yield timed

    original = video._timed
    monkeypatch.setattr(video, "_timed", counted)
    assert [frame.number for frame in sampled_frames(path, 0.5, 58)] == [581, 586, 591, 596]
    frame_at(path, 30.0)
    assert len(decoded) < 100


def test_a_frame_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [0, 0.1, 0.2], [0, 40, 80])
    for time_of_none in (0.05, 0.3, 60):
        with pytest.raises(BadVideoError, match=rf"a\.mp4' has no frame at {time_of_none:.3f} seconds"):
            frame_at(path, time_of_none)


def test_frames_are_numbered_by_the_average_rate_where_the_rate_varies_or_frames_are_missing(
    tmp_path: Path,
) -> None:
    times = [n / 10 for n in range(40) if n not in (11, 12, 25)]
    path = write_video(tmp_path / "missing.mkv", times, [0] * len(times))
    rate = facts_of(path).rate
    found = list(sampled_frames(path, 0.1))
    assert [frame.number for frame in found] == [round(frame.time * rate) + 1 for frame in found]


def test_numbers_of_frames_are_sure_up_to_a_gap_whichever_frames_are_sampled(tmp_path: Path) -> None:
    even = write_video(tmp_path / "even.mkv", [n / 30 for n in range(90)], [0] * 90, rate=30)
    assert len(list(sampled_frames(even, 0.1))) == 30  # of times in milliseconds
    assert all(frame.is_sure for frame in sampled_frames(even, 0.1))
    times = [n / 10 for n in range(40) if n not in (11, 12, 25)]
    for name, rate in (("a.mkv", 10), ("a.mp4", 10), ("wrong.mkv", 20)):
        path = write_video(tmp_path / name, times, [0] * len(times), rate=rate)
        (_, second, *_, last) = sampled_frames(path, 1)
        assert (second.is_sure, last.is_sure) == (name == "a.mkv", False)


def test_what_a_video_says_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        path = write_coded(tmp_path / "a.mp4", "mpeg4", gap=10, number=30)
        assert facts_of(path) == (3.0, 10.0, None)
        assert facts_of(write_coded(tmp_path / "raw.ts", "libx264", 10, kind="h264")).duration is None
        moved = tmp_path / "moved.mp4"
        with av.open(str(path)) as source, av.open(str(moved), "w") as target:
            target.metadata["creation_time"] = "2024-05-06T22:08:09.000000Z"
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(source.streams.video[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
        assert facts_of(moved).taken == "2024-05-07 07:08:09"
        assert local_time("2024-05-06T22:08:09+0200") == "2024-05-06 22:08:09"  # as phones tell it
        assert local_time("2024-01-06T22:08:09+0000") == "2024-01-06 22:08:09"  # in London, in winter
        assert local_time("2024-05-06T22:08:09") == "2024-05-06 22:08:09"
        for text in ("1904-01-01T00:00:00.000000Z", "9999-12-31T23:59:59Z", "yesterday", ""):
            assert local_time(text) is None
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_rotated_video_is_upright(tmp_path: Path) -> None:
    """The matrix of a track header: width and height are exchanged, as phones write it."""
    path = write_video(tmp_path / "phone.mp4", [0, 0.1], [0, 0])
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40  # of version 0
    quarter = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
    content[at : at + 36] = b"".join(number.to_bytes(4, "big", signed=True) for number in quarter)
    path.write_bytes(content)
    assert next(sampled_frames(path, 1)).image.size == SIZE[::-1]
    assert frame_at(path, 0.1).size == SIZE[::-1]


def test_a_damaged_frame_costs_frames_up_to_the_next_key_frame_and_a_cut_file_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    times, shades = [number / 10 for number in range(60)], [4 * number for number in range(60)]
    path = write_video(tmp_path / "whole.ts", times, shades, gap=6)
    whole = [round(frame.time, 2) for frame in sampled_frames(path, 0.1)]
    assert len(whole) == 60
    content = path.read_bytes()
    middle = len(content) // 2 // 188 * 188
    damaged = tmp_path / "damaged.ts"
    damaged.write_bytes(content[:middle] + bytes(3 * 188) + content[middle + 3 * 188 :])
    found = [round(frame.time, 2) for frame in sampled_frames(damaged, 0.1)]
    assert 45 <= len(found) <= 60
    assert found[-1] == whole[-1]
    cut = tmp_path / "cut.ts"
    cut.write_bytes(content[:middle])
    assert 15 <= len(list(sampled_frames(cut, 0.1))) <= 45


@pytest.mark.parametrize(("number", "seconds"), [(20, 1000), (20, 3), (20, -1), (59, 9)])
def test_a_damaged_time_costs_that_frame(tmp_path: Path, number: int, seconds: int) -> None:
    path = write_video(tmp_path / "a.ts", [n / 10 for n in range(60)], [4 * n for n in range(60)], gap=6)
    content = bytearray(path.read_bytes())
    heads = [at for at in range(len(content)) if content[at : at + 4] == b"\x00\x00\x01\xe0"]
    at = heads[number] + 9  # the time, 33 bits of 90 kHz with a bit behind the upper 3, 15 and 15 of them
    time_of_frame = int(90_000 * (number / 10 + seconds))
    bits = [0x21 | (time_of_frame >> 30) << 1, time_of_frame >> 22, time_of_frame >> 14 | 1]
    content[at : at + 5] = bytes(byte & 255 for byte in [*bits, time_of_frame >> 7, time_of_frame << 1 | 1])
    path.write_bytes(content)
    found = [round(shade(frame.image) / 4) for frame in sampled_frames(path, 0.01)]
    assert found == [n for n in range(60) if n != number or n == 59]  # nothing tells of the last one


def test_what_is_no_video_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts = 8000, 0
        for packet in itertools.chain(stream.encode(frame), stream.encode()):
            container.mux(packet)
    for name in ("text.mp4", "empty.mp4", "sound.mkv", "none.mp4"):
        for read in (lambda path: next(sampled_frames(path, 1)), facts_of, lambda path: frame_at(path, 1)):
            with pytest.raises(BadVideoError, match=name) as raised:
                read(tmp_path / name)
            assert "\n" not in str(raised.value)
            assert raised.value.reason in str(raised.value)
            assert name not in raised.value.reason
    for every in (0, -1, float("nan")):
        with pytest.raises(UserError, match=r"--every: expected seconds above 0"):
            next(sampled_frames(tmp_path / "text.mp4", every))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install -U av"):
        next(sampled_frames(tmp_path / "text.mp4", 1))


class ByShade:
    """Finds a box whose place the shade tells."""

    identity, min_score, takes_device = "by shade", 0.5, True

    def detect(self, images: Sequence[Image.Image]) -> list[Boxes]:
        return [as_boxes([[shade(image) / 16, 2, 15, 40, 0.75]]) for image in images]


def test_the_tracks_of_a_video_are_written_as_mot_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("misc.detection.detectors.load_detector", lambda *_: ByShade())
    path = write_video(tmp_path / "a.mp4", [n / 10 for n in range(20)], [12 * n for n in range(20)], rate=10)
    out = tmp_path / "tracks.txt"
    assert main(["any", str(path), "--out", str(out), "--every", "0.2", "--device", "cpu"]) == 0
    rows = [line.split(",") for line in out.read_text().splitlines()]
    assert [(int(row[0]), int(row[1])) for row in rows] == [(number, 1) for number in range(1, 21, 2)]
    np.testing.assert_allclose([float(row[2]) for row in rows], [1.5 * n for n in range(10)], atol=0.3)
    assert all(row[3:] == ["2.00", "15.00", "40.00", "0.7500", "1", "1"] for row in rows)
    assert "10 boxes of 1 tracks in 10 frames" in capsys.readouterr().out
    assert main(["any", str(path), "--out", str(tmp_path / "a.json")]) == 2
    assert "expected a file name in .txt for a video" in capsys.readouterr().err
