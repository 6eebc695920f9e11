"""The server of the search page: its answers, its errors, and that it stays up."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data.formats import read_splits
from misc.metrics import retrieval_metrics
from misc.search.__main__ import main
from misc.search.explain import explain, overlay
from misc.search.index import Index
from misc.search.truth import load_ground_truth
from misc.search.web.page import MAX_RESULTS, Page
from options import UserError
from tests.helpers.search import ODD_NAME, ask, running, save_run, small_page

SENTENCE = "a woman in a red coat"


@pytest.fixture(scope="module")
def annotated(annotated_page: Page) -> Iterator[str]:
    """The address of the page with annotations."""
    with running(annotated_page) as address:
        yield address


def search(server: str, **asked: Any) -> dict[str, Any]:
    status, answer = ask(f"{server}/api/search", asked)
    assert status == 200, answer
    return json.loads(answer)


def error_of(server: str, path: str, body: Any = None, status: int = 400, **headers: str) -> str:
    found, answer = ask(f"{server}/api/{path}", body, **headers)
    assert found == status
    return json.loads(answer)["error"]


def ids_of(answer: dict[str, Any]) -> list[int]:
    return [result["id"] for result in answer["results"]]


def test_the_ranking_is_that_of_the_index(page: Page, server: str) -> None:
    answer = search(server, text=SENTENCE, k=7)
    features = page.index.features_of(range(len(page.index.paths))).astype(np.float32)
    scores = features @ page.encoder.encode_texts([SENTENCE])[0].numpy()
    best = np.argsort(-scores, kind="stable")[:7]
    assert ids_of(answer) == best.tolist()
    assert [result["rank"] for result in answer["results"]] == list(range(1, 8))
    np.testing.assert_allclose([result["score"] for result in answer["results"]], scores[best], atol=1e-6)
    assert [result["path"] for result in answer["results"]] == [
        page.index.paths[row].encode(errors="replace").decode() for row in best
    ]
    assert {result["right"] for result in answer["results"]} == {None}
    assert answer["total"] == len(page.index.paths)


def test_more_images_than_there_are_is_all_of_them(page: Page, server: str) -> None:
    rows = ids_of(search(server, text=SENTENCE, k=MAX_RESULTS))
    assert sorted(rows) == list(range(len(page.index.paths)))


def test_an_image_of_the_query_is_not_ranked_and_a_sentence_beside_it_counts(server: str) -> None:
    alone = search(server, images=[{"id": 5}])
    assert 5 not in ids_of(alone)
    both = search(server, images=[{"id": 5}], text=SENTENCE)
    assert both["results"] != alone["results"]
    assert both["results"] != search(server, text=SENTENCE)["results"]


def test_what_is_to_be_avoided_changes_the_scores(server: str) -> None:
    plain, without = (search(server, text=SENTENCE, without=words) for words in ([], ["a hat"]))
    assert plain["results"][0]["score"] != without["results"][0]["score"]


def test_images_are_small_jpegs(page: Page, server: str) -> None:
    status, content = ask(f"{server}/api/images/3/thumbnail")
    image = Image.open(BytesIO(content))
    original = Image.open(page.index.image_root / page.index.paths[3])
    assert (status, image.format) == (200, "JPEG")
    assert image.width <= 400
    assert image.height <= 640
    assert image.width / image.height == pytest.approx(original.width / original.height, abs=0.01)


def test_the_overlay_is_the_one_of_explain(page: Page, server: str) -> None:
    status, content = ask(f"{server}/api/images/3/explain", {"text": SENTENCE})
    assert status == 200
    image = Image.open(page.index.image_root / page.index.paths[3]).convert("RGB")
    expected = np.asarray(overlay(image, explain(page.encoder, image, SENTENCE)), np.float32)
    shown = np.asarray(Image.open(BytesIO(content)), np.float32)
    assert shown.shape == expected.shape
    assert np.abs(shown - expected).mean() < 4
    assert np.abs(shown - np.asarray(image)).mean() > 8


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"text": ""}, "Describe a person first"),
        ({}, "Describe a person first"),
        ({"text": " \n\t"}, "Describe a person first"),
        ({"text": " ... "}, "words that describe a person"),
        ({"text": "a man", "without": ["!"]}, "words that describe a person"),
        ({"text": "a man", "without": "a hat"}, "without: "),
        ({"text": "a man", "without": [1]}, "without.0: "),
        ({"text": "a man", "withuot": []}, "withuot: "),
        ({"text": 7}, "text: Input should be a valid string, found 7"),
        ({"text": "a man", "k": 0}, "k: Input should be greater than or equal to 1, found 0"),
        ({"text": "a man", "k": 201}, "less than or equal to 200"),
        ({"text": "a man", "k": None}, "k: Input should be a valid integer, found None"),
        ({"text": "a man", "k": True}, "k: Input should be a valid integer, found True"),
        ({"text": "a man", "offset": -1}, "offset: "),
        ({"text": "a man", "min_score": float("nan")}, "min_score: "),
        ({"images": [{"id": -1}]}, "images.0.id: "),
        ({"images": [{"id": 2**63}]}, "images.0.id: "),
        ({"images": [{"id": "../../etc/passwd"}]}, "images.0.id: "),
        ({"images": [{"upload": "../../etc/passwd"}]}, "images.0.upload: "),
        ([], "the body: "),
        (b'{"text": ', "expected JSON"),
        (b"[" * 100_000, "There was an error parsing the body"),
        (b"\xff\xfe", "expected JSON"),
        ({"text": "x" * 2001}, "text: String should have at most 2000 characters"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_invalid_queries_are_answered_by_one_line(server: str, asked: Any, message: str) -> None:
    found = error_of(server, "search", asked)
    assert message in found, found
    assert len(found) < 300
    assert "\n" not in found
    assert ids_of(search(server, text=SENTENCE))


@pytest.mark.parametrize("text", ["x" * 2000, "红" * 2000, "a red coat, " * 160, "\ud800\0 a man", "🧥" * 50])
def test_any_words_are_answered(server: str, text: str) -> None:
    assert len(search(server, text=text)["results"]) == 20


def test_fifty_searches_at_once_get_the_answers_of_one_alone(server: str) -> None:
    sentences = [f"a person with {number} bags" for number in range(10)]
    expected = {text: search(server, text=text)["results"] for text in sentences}
    with ThreadPoolExecutor(50) as pool:
        answers = pool.map(lambda text: (text, search(server, text=text)["results"]), 5 * sentences)
        for text, results in answers:  # a sentence that is encoded with others is rounded differently
            assert [result["id"] for result in results] == [result["id"] for result in expected[text]]
            scores = [[result["score"] for result in found] for found in (results, expected[text])]
            np.testing.assert_allclose(*scores, atol=1e-5)


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../../../etc/passwd",
        "/api/images/../../../../etc/passwd/file",
        "/api/images/..%2f..%2f..%2f..%2fetc%2fpasswd/file",
        "/api/images/%2fetc%2fpasswd/file",
        "/..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/page.py",
        "/../page.py",
        "/..%2fpage.py",
        "/api/images/000001.jpg/view",
        "/api/images/-1/thumbnail",
        "/api/images/99999999999999999999/file",
    ],
)
def test_only_images_of_the_index_are_served(server: str, path: str) -> None:
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:  # a client would tidy the path
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.split()[1] in (b"400", b"404")
    assert b"root:" not in answer
    assert b"import" not in answer


def test_other_sites_can_neither_pose_as_this_one_nor_post_to_it(server: str) -> None:
    assert ask(f"{server}/api/about", host="rebound.example")[0] == 400
    assert ask(f"{server}/api/about", host="localhost:80")[0] == 200
    assert "application/json" in error_of(server, "search", b'{"text": "a"}', content_type="text/plain")


def test_a_missing_image_is_reported_and_the_others_are_still_found(people: Path, tmp_path: Path) -> None:
    page = small_page(people, tmp_path)
    row = page.index.paths.index(ODD_NAME)
    (page.index.image_root / ODD_NAME).unlink()
    with running(page) as server:
        for part in ("thumbnail", "view", "file"):
            assert "cannot be read" in error_of(server, f"images/{row}/{part}", status=404)
        explained = error_of(server, f"images/{row}/explain", {"text": SENTENCE}, status=404)
        assert "cannot be read" in explained
        assert search(server, images=[{"id": row}])["results"]
        assert row in ids_of(search(server, text=SENTENCE, k=MAX_RESULTS))


def test_with_annotations_the_ranks_of_the_first_correct_images_give_the_figures_of_evaluation(
    page: Page, annotated: str, people: Path
) -> None:
    records = read_splits(people, ["test"])["test"]["en"]
    queries = [(caption, record.person_id) for record in records for caption in record.captions]
    person_of = {record.image: record.person_id for record in records}
    answers = {caption: search(annotated, text=caption, k=MAX_RESULTS) for caption, _ in queries}
    # An image outside the test split is correct for no query.
    ids = [person_of.get(path, -1 - row) for row, path in enumerate(page.index.paths)]
    for caption, person_id in queries:
        for result in answers[caption]["results"]:
            known = person_of.get(page.index.paths[result["id"]])
            assert result["right"] is (None if known is None else known == person_id)
    expected = retrieval_metrics(
        page.encoder.encode_texts([caption for caption, _ in queries]),
        torch.from_numpy(page.index.features_of(range(len(page.index.paths))).astype(np.float32)),
        torch.tensor([person_id for _, person_id in queries]),
        torch.tensor(ids),
    )
    ranks = np.array([answers[caption]["first_right"] for caption, _ in queries])
    for k in (1, 5, 10):
        assert 100 * np.mean(ranks <= k) == pytest.approx(expected[f"R{k}"])


def test_r_at_10_is_known_though_fewer_images_are_shown(annotated: str, people: Path) -> None:
    for record in read_splits(people, ["test"])["test"]["en"]:
        for caption in record.captions:
            one, ten = (search(annotated, text=caption, k=k) for k in (1, 10))
            assert len(one["results"]) == 1
            assert one["first_right"] == ten["first_right"]


def test_only_a_caption_alone_counts_as_a_query_of_the_protocol(
    annotated_page: Page, annotated: str, people: Path
) -> None:
    caption = read_splits(people, ["test"], ["fr"])["test"]["fr"][0].captions[0]
    row = next(row for row, person in enumerate(annotated_page.truth.person_ids) if person is not None)
    assert "first_right" in search(annotated, text=caption.upper())
    for others in ({"images": [{"id": row}]}, {"without": ["a hat"]}):
        answer = search(annotated, text=caption, **others)
        assert "first_right" not in answer
        assert any(result["right"] is not None for result in answer["results"])
    assert "first_right" not in search(annotated, text=caption + " indeed")
    similar = search(annotated, images=[{"id": row}], k=MAX_RESULTS)
    assert any(result["right"] for result in similar["results"])
    assert "first_right" not in similar


def test_images_that_nobody_describes_are_wrong_for_every_caption_and_match_no_other(
    page: Page, people: Path, tmp_path: Path
) -> None:
    test, train = (json.loads((people / f"{split}_reid_en.json").read_text()) for split in ("test", "train"))
    distractors = [
        {"file_path": item["file_path"], "id": -(number % 2), "captions": []}
        for number, item in enumerate(train)
    ]
    (tmp_path / "test_reid.json").write_text(json.dumps([*distractors, *test]))
    truth = load_ground_truth(page.index, tmp_path)
    assert truth.examples["en"] == [item["captions"][0] for item in test[:: -(-len(test) // 3)]]
    named = {item["file_path"] for item in distractors}
    with running(Page(page.index, page.encoder, truth)) as address:
        answer = search(address, text=test[0]["captions"][0], k=MAX_RESULTS)
        right = {page.index.paths[result["id"]]: result["right"] for result in answer["results"]}
        assert {right[path] for path in named} == {False}
        assert answer["first_right"] is not None
        row = page.index.paths.index(distractors[0]["file_path"])
        alike = search(address, images=[{"id": row}], k=MAX_RESULTS)["results"]
        assert {result["right"] for result in alike} == {None}


def test_annotations_of_other_images_are_refused(people: Path, page: Page, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no image of the test split"):
        load_ground_truth(page.index, people, tmp_path)
    assert load_ground_truth(page.index, people, page.index.image_root).person_ids


def test_examples_are_in_the_languages_that_the_model_learned(
    server: str, annotated: str, people: Path
) -> None:
    plain = json.loads(ask(f"{server}/api/about")[1])
    assert plain["examples"]
    assert all(example.isascii() for example in plain["examples"])
    english = read_splits(people, ["test"])["test"]["en"]
    of_captions = json.loads(ask(f"{annotated}/api/about")[1])["examples"]
    assert set(of_captions) <= {caption for record in english for caption in record.captions}
    assert len(of_captions) == 3


def test_the_command_serves_until_ctrl_c(index: Index, tmp_path: Path) -> None:
    """In a process of its own: asyncio starts no server where Playwright runs."""
    browser, opened = tmp_path / "browser", tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\necho "$1" > "{opened}"\n')
    browser.chmod(0o700)
    command = [sys.executable, "-m", "misc.search", "serve", str(index.folder), "--port", "0", "--browse"]
    environment = os.environ | {"BROWSER": f"{browser} %s", "XDG_CACHE_HOME": str(tmp_path)}
    with subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as serving:
        try:
            line = serving.stdout.readline()
            address = re.fullmatch(r"10 images at (http://127\.0\.0\.1:\d+) \(Ctrl-C ends\)\n", line)[1]
            assert b"Person search" in ask(address)[1]
            assert len(search(address, text=SENTENCE, k=5)["results"]) == 5
            with pytest.raises(OSError):  # bound to all addresses it would answer here too
                socket.create_connection(("127.0.0.2", int(address.rpartition(":")[2])), timeout=5)
            while not (opened.exists() and opened.read_text()):  # a thread starts the browser
                assert serving.poll() is None
                time.sleep(0.05)
        finally:
            serving.send_signal(signal.SIGINT)
            rest = serving.communicate(timeout=120)
    assert (serving.returncode, *rest) == (0, "", "")
    assert opened.read_text() == f"{address}\n"


def test_a_server_that_cannot_start_is_one_error_line(
    index: Index, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = save_run(tmp_path / "other.pth", seed=1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for arguments, message in (
            (["--port", str(taken.getsockname()[1])], "--port"),
            (["--port", "70000"], "--port"),
            (["--checkpoint", str(other)], "another model"),
            (["--annotations", str(people)], "no image of the test split"),
            (["--annotations", str(tmp_path / "no.json")], "no file or folder"),
        ):
            assert main(["serve", str(index.folder), *arguments]) == 2
            error = capsys.readouterr().err
            assert message in error
            assert error.startswith("error: ")
            assert error.count("\n") == 1
    assert main(["serve", str(tmp_path / "nothing")]) == 2
