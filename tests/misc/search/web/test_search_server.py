"""The server of the search page: pictures, uploads, exports, its document, and what it withstands."""

import contextlib
import csv
import http.client
import io
import json
import os
import shutil
import socket
import threading
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from misc.search.indexing.update import update_index
from misc.search.web import cache, connections, model_queue
from misc.search.web.cache import DiskCache
from misc.search.web.gate import HEADERS
from misc.search.web.page import MAX_UPLOADS, Page
from misc.search.web.pictures import PixelBudget
from misc.search.web.schema import SearchRequest
from options import UserError
from tests.helpers.search import ODD_NAME, ask, running, small_page

SENTENCE = "a woman in a red coat"


def post(server: str, path: str, body: Any, **headers: str) -> Any:
    status, answer = ask(f"{server}/api/{path}", body, **headers)
    assert status == 200, answer
    return json.loads(answer)


def upload(server: str, content: bytes) -> str:
    return post(server, "upload", content, content_type="image/png")["upload"]


def raw(server: str, request: bytes, timeout: float = 60) -> bytes:
    """What the server answers until it closes the connection."""
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=timeout) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def headers_of(address: str, **headers: str) -> tuple[int, dict[str, str]]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}
    except urllib.error.HTTPError as error:
        return error.code, {name.lower(): value for name, value in error.headers.items()}


def png(path: Path) -> bytes:
    file = io.BytesIO()
    Image.open(path).convert("RGB").save(file, "PNG")
    return file.getvalue()


def test_the_document_lists_exactly_the_endpoints(page: Page, server: str) -> None:
    document = json.loads(ask(f"{server}/openapi.json")[1])
    assert document["openapi"].startswith("3.")
    for part in ("file", "video"):
        answers = document["paths"][f"/api/images/{{id}}/{part}"]["get"]["responses"]
        assert answers.keys() >= {"200", "206", "4XX"}
    listed = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert listed == {
        *((f"/api/images/{{id}}/{part}", "get") for part in ("thumbnail", "view", "scene", "video", "file")),
        ("/api/images/{id}", "get"),
        *((f"/api/{name}", "post") for name in ("search", "upload", "export", "login", "logout")),
        ("/api/images/{id}/explain", "post"),
        ("/api/about", "get"),
    }
    references = {
        value
        for key, value in _pairs(document)
        if key == "$ref" and value.startswith("#/components/schemas/")
    }
    assert {name.rpartition("/")[2] for name in references} <= document["components"]["schemas"].keys()
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["description"], path
            assert {"4XX", "503"} <= operation["responses"].keys(), path
            assert "422" not in operation["responses"], path


def _pairs(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in [(key, inner), *_pairs(inner)]]
    return [pair for inner in value for pair in _pairs(inner)] if isinstance(value, list) else []


def test_what_is_known_before_the_first_search(page: Page, server: str) -> None:
    about = json.loads(ask(f"{server}/api/about")[1])
    assert about["total"] == len(page.index.paths)
    assert (about["missing"], about["complete"], about["max_results"]) == (0, True, 200)
    assert (about["has_truth"], about["protected"]) == (False, False)
    folders = {path.rpartition("/")[0] for path in page.index.paths} - {""}
    assert set(about["folders"]) >= {folder for folder in folders if folder.count("/") < 2}


@pytest.mark.parametrize("path", ["/", "/api/about", "/api/images/0/thumbnail", "/nothing", "/api/nothing"])
def test_every_answer_keeps_other_sites_out(server: str, path: str) -> None:
    _, headers = headers_of(f"{server}{path}")
    assert HEADERS.items() <= headers.items()
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "server" not in headers
    _, refused = headers_of(f"{server}{path}", host="rebound.example")
    assert HEADERS.items() <= refused.items()


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("search", {"text": "a man"}, {"host": "rebound.example"}, 400),
        ("search", {"text": "a man"}, {"host": "[::1"}, 400),
        ("search", {"text": "a man"}, {"host": "[::1]:7860"}, 200),
        ("search", {"text": "a man"}, {"host": "192.168.1.7:7860"}, 200),
        ("search", {"text": "a man"}, {"origin": "http://other.example"}, 403),
        ("search", {"text": "a man"}, {"origin": "null"}, 403),
        ("search", {"text": "a man"}, {"origin": "http://localhost:99", "host": "localhost:99"}, 200),
        ("search", {"text": "a man"}, {"sec_fetch_site": "cross-site"}, 403),
        ("search", {"text": "a man"}, {"sec_fetch_site": "same-origin"}, 200),
        ("search", b'{"text": "a man"}', {"content_type": "text/plain"}, 400),
        ("upload", b"no image", {"content_type": "multipart/form-data"}, 400),
        ("upload", b"no image", {"content_type": "application/json"}, 400),
        ("upload", b"no image", {"content_type": "image/png"}, 400),
        ("upload", b"", {"content_type": "image/png"}, 400),
        ("images/10000/explain", {"text": "a man"}, {}, 404),
        ("images/0/explain", {"text": "..."}, {}, 400),
        ("export", {"ids": [10_000], "as": "zip"}, {}, 404),
        ("export", {"ids": [], "as": "zip"}, {}, 400),
        ("export", {"ids": [1], "as": "exe"}, {}, 400),
        ("export", {"ids": [1], "as": "csv"}, {}, 400),
        ("export", {"ids": list(range(1001)), "as": "zip"}, {}, 400),
        ("search", {"images": [{"id": 10_000}]}, {}, 404),
        ("search", {"text": "a man", "more": [10_000]}, {}, 404),
        ("search", {"images": [{"upload": "0" * 32}]}, {}, 404),
        ("search", {"images": [{}]}, {}, 400),
        ("search", {"images": [{"id": 0, "weight": 0}]}, {}, 400),
        ("search", {"images": [{"id": 0, "weight": -1}]}, {}, 400),
        ("search", {"images": [{"id": 0, "upload": "0" * 32}]}, {}, 400),
        ("search", {"text": "a man", "filters": {"folder": "no such"}}, {}, 400),
        ("search", {"text": "a man", "filters": {"since": "yesterday"}}, {}, 400),
        ("search", {"text": "a man", "filters": {"hours": "8 to 9"}}, {}, 400),
        ("search", {"text": "a man", "without": ["a hat," * 33]}, {}, 400),
        ("search", {"text": "a man", "without": [f"hat {n}" for n in range(60_000)]}, {}, 400),
        ("search", {"texts": [{"text": "a man", "weight": 1}] * 33}, {}, 400),
        ("search", {"more": list(range(10)), "less": [1] * 201}, {}, 400),
    ],
    ids=lambda value: str(value)[:40],
)
def test_requests_that_are_refused_say_why_in_one_line(
    server: str, path: str, body: Any, headers: dict[str, str], status: int
) -> None:
    found, answer = ask(f"{server}/api/{path}", body, **headers)
    assert found == status, answer
    if status != 200:
        (message,) = json.loads(answer).values()
        assert message == json.loads(answer)["error"]
        assert "\n" not in message
        assert len(message) < 300


@pytest.mark.parametrize(("path", "size"), [("search", 1_000_000), ("upload", 20_000_000)])
@pytest.mark.parametrize("is_told", [True, False])
def test_requests_that_are_too_large_are_refused(server: str, path: str, size: int, is_told: bool) -> None:
    connection = http.client.HTTPConnection(server.removeprefix("http://"))
    kind = {"content-type": "image/png" if path == "upload" else "application/json"}
    body = b" " * (size + 1)
    connection.request("POST", f"/api/{path}", body if is_told else iter([body]), kind)
    answer = connection.getresponse()
    assert (answer.status, b"too large" in answer.read()) == (413, True)
    connection.request("GET", "/api/about")  # the connection can still be used
    assert connection.getresponse().status == 200
    connection.close()


def test_sixty_thousand_descriptions_never_reach_the_model(
    page: Page, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(page.encoder), "encode_texts", None)
    attack = {"text": "a man", "without": [f"hat {number}" for number in range(60_000)]}
    assert ask(f"{server}/api/search", attack)[0] == 400


def test_pictures_have_the_promised_sizes_and_say_when_they_are_unchanged(
    people: Path, tmp_path: Path
) -> None:
    page = small_page(people, tmp_path)
    path = page.index.image_root / page.index.paths[3]
    number = int(page.index.ids[3])
    Image.linear_gradient("L").resize((3000, 1500)).save(path)
    with running(page) as server:
        thumbnail, view = (f"{server}/api/images/{number}/{part}" for part in ("thumbnail", "view"))
        for address, size in ((thumbnail, (400, 200)), (view, (2000, 1000))):
            image = Image.open(io.BytesIO(ask(address)[1]))
            assert (image.format, image.size) == ("JPEG", size)
        _, headers = headers_of(thumbnail)
        assert headers["cache-control"] == "no-cache"
        tag = headers["etag"]
        assert headers_of(thumbnail, **{"if-none-match": tag})[0] == 304
        Image.linear_gradient("L").resize((300, 100)).save(path)
        status, headers = headers_of(thumbnail, **{"if-none-match": tag})
        assert (status, headers["etag"] == tag) == (200, False)
        assert Image.open(io.BytesIO(ask(thumbnail)[1])).size == (300, 100)


def test_the_file_of_an_image_is_its_bytes_and_is_shown_only_if_it_is_an_image(
    people: Path, tmp_path: Path
) -> None:
    page = small_page(people, tmp_path)
    row = page.index.paths.index(ODD_NAME)
    path, number = page.index.image_root / ODD_NAME, int(page.index.ids[row])
    with running(page) as server:
        address = f"{server}/api/images/{number}/file"
        assert ask(address)[1] == path.read_bytes()
        _, headers = headers_of(address)
        assert headers["content-disposition"].startswith("attachment; filename*=utf-8''%3Cimg%20src")
        assert headers["content-type"] == "application/octet-stream"
        _, headers = headers_of(f"{address}?inline=1")
        assert headers["content-disposition"].startswith("inline;")
        assert headers["content-type"] == "image/png"
        path.write_bytes(b"<script>alert(1)</script>")
        _, headers = headers_of(f"{address}?inline=1")
        assert headers["content-disposition"].startswith("attachment;")
        assert headers["content-type"] == "application/octet-stream"
        path.unlink()
        os.mkfifo(path)
        for part in ("file", "thumbnail", "view"):
            assert ask(f"{server}/api/images/{number}/{part}")[0] == 404
        assert "not exported.txt" in _archive(server, [number]).namelist()


def _archive(server: str, ids: list[int]) -> zipfile.ZipFile:
    status, content = ask(f"{server}/api/export", {"ids": ids, "as": "zip"})
    assert status == 200
    archive = zipfile.ZipFile(io.BytesIO(content))
    assert archive.testzip() is None
    return archive


def test_an_archive_has_the_files_under_names_that_can_be_unpacked(page: Page, server: str) -> None:
    ids = page.index.ids[[2, 3, 5]].tolist()
    odd = int(page.index.ids[page.index.paths.index(ODD_NAME)])
    archive = _archive(server, [*ids, odd, ids[0]])
    names = [page.index.paths[row] for row in (2, 3, 5)]
    assert archive.namelist() == [*names, ODD_NAME.encode(errors="replace").decode()]
    for name in names:
        assert archive.read(name) == (page.index.image_root / name).read_bytes()
        assert archive.getinfo(name).compress_type == zipfile.ZIP_STORED


def test_a_table_has_ranks_scores_and_no_formula(page: Page, server: str) -> None:
    query = {"text": '=cmd|"/c calc"!A1 a man', "without": ["a hat"], "k": 3}
    found = post(server, "search", query)["results"]
    ids = [found[2]["id"], found[0]["id"]]
    status, content = ask(f"{server}/api/export", {"ids": ids, "as": "csv", "query": query})
    assert (status, content[:3]) == (200, b"\xef\xbb\xbf")
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))
    assert [int(row["rank"]) for row in rows] == [3, 1]
    assert [int(row["id"]) for row in rows] == ids
    assert [row["image"] for row in rows] == [found[2]["path"], found[0]["path"]]
    assert float(rows[1]["score"]) == pytest.approx(found[0]["score"], abs=1e-5)
    assert rows[0]["query"].startswith("'=cmd")
    assert rows[0]["without"] == "a hat"


def test_an_uploaded_image_is_a_query_and_finds_its_copy(page: Page, server: str) -> None:
    path = page.index.image_root / page.index.paths[2]
    name = upload(server, png(path))
    assert name == upload(server, png(path))
    first = post(server, "search", {"images": [{"upload": name, "weight": 2}]})["results"][0]
    assert first["path"] == page.index.paths[2]
    assert first["score"] == pytest.approx(1, abs=0.02)
    both = post(server, "search", {"images": [{"upload": name}], "text": SENTENCE})["results"][0]
    assert both["score"] != first["score"]


def test_only_the_features_of_the_latest_uploads_are_kept(page: Page) -> None:
    own = Page(page.index, page.encoder)
    names = [
        own.keep_upload(bytes([number % 256, number // 256]), Image.new("RGB", (8, 16)))
        for number in range(MAX_UPLOADS + 1)
    ]
    answers = own.search_all(
        [SearchRequest(images=[{"upload": name}]) for name in (names[0], names[1], names[-1])]
    )
    assert getattr(answers[0], "status", 200) == 404
    assert answers[1].results
    assert answers[2].results


def test_an_invalid_search_does_not_hold_up_those_that_wait_with_it(page: Page) -> None:
    texts = ["a man", "...", "a woman", " "]
    requests = [SearchRequest(text=text) for text in texts]
    requests.append(SearchRequest(text="a man", filters={"folder": "no such"}))
    answers = page.search_all(requests)
    assert [isinstance(answer, UserError) for answer in answers] == [False, True, False, True, True]
    (alone,) = page.search_all(requests[:1])
    assert [result.id for result in answers[0].results] == [result.id for result in alone.results]


def test_equal_images_are_shown_as_one_with_their_number(people: Path, tmp_path: Path) -> None:
    page = small_page(people, tmp_path)
    for number in range(3):
        shutil.copy(page.index.image_root / page.index.paths[0], page.index.image_root / f"copy {number}.jpg")
    update_index(page.encoder, page.index.image_root, page.index.folder)
    with running(page) as server:
        grouped = post(server, "search", {"text": SENTENCE, "k": 200})["results"]
        single = post(server, "search", {"text": SENTENCE, "k": 200, "group": False})["results"]
        (one,) = (result for result in grouped if result["count"] > 1)
        assert one["count"] == 4
        assert len(one["duplicates"]) == 3
        assert len(single) == len(grouped) + 3
        ids = {result["id"]: result["path"] for result in single}
        assert all(ids[other["id"]] == other["path"] for other in one["duplicates"])


def test_filters_scores_and_offsets_reach_the_ranking(page: Page, server: str) -> None:
    whole = post(server, "search", {"text": SENTENCE, "k": 200})
    second = post(server, "search", {"text": SENTENCE, "k": 5, "offset": 5})
    assert second["results"] == whole["results"][5:10]
    assert (second["has_more"], whole["has_more"]) == (True, False)
    least = whole["results"][3]["score"]
    some = post(server, "search", {"text": SENTENCE, "k": 2, "min_score": least - 1e-4})
    assert (len(some["results"]), some["passing"], some["has_more"]) == (2, 4, True)
    named = post(server, "search", {"text": SENTENCE, "filters": {"pattern": "*onerror*"}})
    assert (named["matching"], len(named["results"])) == (1, 1)
    tall = post(server, "search", {"text": SENTENCE, "filters": {"min_size": [1, 100_000]}})
    assert (tall["matching"], tall["results"]) == (0, [])


def test_a_busy_server_says_so(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    started, go_on = threading.Event(), threading.Event()
    search_all = page.search_all

    def slowly(requests: Any) -> Any:
        started.set()
        assert go_on.wait(60)
        return search_all(requests)

    monkeypatch.setattr(page, "search_all", slowly)
    monkeypatch.setattr(model_queue, "MAX_WAITING", 3)
    with running(page) as server, ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(post, server, "search", {"text": SENTENCE})]
        assert started.wait(60)
        status, answer = ask(f"{server}/api/search", {"text": "a man", "without": ["a", "b", "c"]})
        assert (status, b"busy" in answer) == (503, True)
        go_on.set()
        assert waiting[0].result()["results"]
        monkeypatch.setattr(model_queue, "TIME_LIMIT", 0.05)
        go_on.clear()
        status, answer = ask(f"{server}/api/search", {"text": "a man"})
        assert (status, b"no answer within" in answer) == (503, True)
        go_on.set()


@pytest.mark.parametrize(
    "begin",
    [
        b"GET /api/about HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
        b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 100\r\n\r\n{",
        b"POST /api/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc",
        b"",
    ],
    ids=["headers", "body", "chunks", "nothing"],
)
def test_a_request_that_does_not_arrive_ends(
    page: Page, begin: bytes, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(connections, "PATIENCE", 0.2)
    with running(page) as server:
        with contextlib.suppress(ConnectionError):
            assert raw(server, begin) == b""
        assert post(server, "search", {"text": SENTENCE})["results"]
    assert capfd.readouterr().err == ""


def test_clients_that_leave_print_nothing(
    page: Page, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    body = json.dumps({"text": SENTENCE}).encode()
    head = b"HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    export = json.dumps({"ids": page.index.ids.tolist(), "as": "zip"}).encode()
    requests = [
        b"POST /api/search " + head % 1000 + body,
        b"POST /api/search " + head % len(body) + body,
        b"POST /api/export " + head % len(export) + export,
        b"GET /api/images/0/view HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /api/images/0/file HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\0\1\2\r\n\r\n",
    ]
    with running(page) as server:
        host, port = server.removeprefix("http://").split(":")
        for request in 3 * requests:
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(request)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset
        assert post(server, "search", {"text": SENTENCE})["results"]
    assert capfd.readouterr().err == ""
    assert not [record for record in caplog.records if record.exc_info]


def test_the_cache_keeps_what_was_used_last_and_makes_damaged_files_again(tmp_path: Path) -> None:
    kept = DiskCache(tmp_path / "cache", limit=10_000)
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    for number in range(40):
        kept.put(f"{number}", bytes([number]) * 900)
        for path in (tmp_path / "cache").glob("*"):  # by name instead of the clock
            os.utime(path, (int(path.stem), int(path.stem)))
        assert kept.get(f"{number}") == bytes([number]) * 900
        os.utime(tmp_path / "cache" / f"{number}.cached", (number, number))
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= 10_000 * 1.1
    assert kept.get("39") == DiskCache(tmp_path / "cache").get("39") == bytes([39]) * 900
    assert kept.get("0") is None
    (file,) = (tmp_path / "cache").glob("39*")
    content = file.read_bytes()
    for damaged in (content[:-1], content[:-1] + b"\0", b"", content[:8]):
        file.write_bytes(damaged)
        assert kept.get("39") is None
    kept.put("39", b"new")
    assert kept.get("39") == b"new"


def test_without_a_folder_to_write_to_nothing_is_cached(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    kept = DiskCache(tmp_path / "file" / "cache")
    kept.put("a", b"content")
    assert kept.get("a") is None
    assert "thumbnails are not cached" in caplog.text
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.user_cache() == tmp_path / "person-search" / "thumbnails"


def test_pixels_are_decoded_within_a_budget_in_the_order_of_requests() -> None:
    budget, lock, now, most = PixelBudget(10), threading.Lock(), 0, 0

    def decode(pixels: int) -> None:
        nonlocal now, most
        with budget.taken(pixels):
            with lock:
                now += min(pixels, 10)
                most = max(most, now)
            threading.Event().wait(0.001)
            with lock:
                now -= min(pixels, 10)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(decode, np.random.default_rng(0).integers(1, 14, 200).tolist()))
    assert (now, most <= 10) == (0, True)
