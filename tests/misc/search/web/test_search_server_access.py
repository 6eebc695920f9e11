"""A page for other machines: its password, sessions, names, and the container that serves it."""

import getpass
import http.cookies
import io
import json
import re
import shlex
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from misc.search.__main__ import main, parse
from misc.search.commands.serve import PASSWORD, read_password
from misc.search.index import Index
from misc.search.web import server as server_module
from misc.search.web.access import MAX_ATTEMPTS, MAX_ATTEMPTS_OF_ALL, SESSION, WINDOW, Access
from misc.search.web.page import Page
from misc.search.web.refusals import RefusedError
from misc.search.web.server import is_loopback
from options import UserError
from tests.helpers.search import ask, running

SECRET = "correct horse"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def access() -> Access:
    return Access(SECRET, Clock())


@pytest.fixture
def protected(page: Page, access: Access) -> Iterator[str]:
    """The address of a page with a password."""
    with running(page, access=access) as address:
        yield address


def log_in(server: str, password: str) -> tuple[int, http.cookies.SimpleCookie, dict[str, str]]:
    request = urllib.request.Request(
        f"{server}/api/login",
        json.dumps({"password": password}).encode(),
        {"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request) as answer:
            status, headers = answer.status, answer.headers
    except urllib.error.HTTPError as error:
        status, headers = error.code, error.headers
    return status, http.cookies.SimpleCookie(headers.get("set-cookie", "")), dict(headers.items())


def attempt(access: Access, password: str, address: str) -> int:
    """The status of an attempt to log in."""
    try:
        access.log_in(password, address)
    except RefusedError as error:
        return error.status
    return 204


def test_nothing_is_told_without_the_password(page: Page, protected: str, access: Access) -> None:
    paths = ["about", *(f"images/0/{part}" for part in ("thumbnail", "view", "file"))]
    posts = ["search", "upload", "export", "images/0/explain", "logout"]
    for path in paths:
        assert ask(f"{protected}/api/{path}") == (401, b'{"error":"Log in first"}')
    for path in posts:
        kind = "image/png" if path == "upload" else "application/json"
        assert ask(f"{protected}/api/{path}", {"text": "a man"}, content_type=kind)[0] == 401
    for path in ("/%61pi/about", "/api/%61bout", "//api/about", "/api//about", "/x/../api/about"):
        assert ask(f"{protected}{path}")[0] in (401, 404), path
    assert ask(protected)[0] == 200  # the page itself, which asks for the password
    assert ask(f"{protected}/api/about", cookie=f"{access.cookie}=1.2.3")[0] == 401


def test_the_password_opens_a_session_and_logging_out_ends_it(protected: str, access: Access) -> None:
    status, cookies, _ = log_in(protected, "wrong horse")
    assert (status, dict(cookies)) == (401, {})
    status, cookies, _ = log_in(protected, SECRET)
    (cookie,) = cookies.values()
    assert (status, cookie.key) == (204, access.cookie)
    assert (cookie["samesite"].lower(), cookie["httponly"], cookie["path"]) == ("strict", True, "/")
    session = f"{cookie.key}={cookie.value}"
    about = json.loads(ask(f"{protected}/api/about", cookie=session)[1])
    assert about["protected"] is True
    assert ask(f"{protected}/api/search", {"text": "a man"}, cookie=session)[0] == 200
    forged = session[:-1] + ("0" if session[-1] != "0" else "1")
    assert ask(f"{protected}/api/about", cookie=forged)[0] == 401
    assert ask(f"{protected}/api/logout", {}, cookie=session)[0] == 204
    assert ask(f"{protected}/api/about", cookie=session)[0] == 401


def test_guessing_ends_after_a_few_attempts_also_with_the_right_password(
    protected: str, access: Access
) -> None:
    with ThreadPoolExecutor(20) as pool:
        statuses = [status for status, _, _ in pool.map(lambda n: log_in(protected, f"guess {n}"), range(20))]
    assert sorted(statuses) == MAX_ATTEMPTS * [401] + (20 - MAX_ATTEMPTS) * [429]
    status, _, headers = log_in(protected, SECRET)
    assert status == 429
    assert 0 < int(headers["retry-after"]) <= WINDOW + 1
    access._clock.now += WINDOW
    assert log_in(protected, SECRET)[0] == 204


def test_guessing_from_many_addresses_ends_too() -> None:
    access = Access(SECRET, Clock())
    statuses = [attempt(access, "wrong", f"10.0.0.{number}") for number in range(MAX_ATTEMPTS_OF_ALL)]
    assert set(statuses) == {401}
    assert attempt(access, SECRET, "10.1.0.1") == 429
    access._clock.now += WINDOW
    assert attempt(access, SECRET, "10.1.0.1") == 204


def test_a_right_password_forgets_the_attempts_before_it() -> None:
    access = Access(SECRET, Clock())
    for _ in range(3):
        assert [attempt(access, "wrong", "10.0.0.1") for _ in range(MAX_ATTEMPTS - 1)] == 4 * [401]
        assert attempt(access, SECRET, "10.0.0.1") == 204


def test_a_session_ends_after_its_time_and_is_of_one_server() -> None:
    access = Access(SECRET, Clock())
    session = access.log_in(SECRET, "10.0.0.1")
    assert access.is_valid(session)
    assert not Access(SECRET, Clock()).is_valid(session)
    for other in ("", ".", "..", "9e9.a.b", session[1:], f"9{session}", "\u00e9.a", session.replace(".", "")):
        assert not access.is_valid(other)
    access._clock.now = SESSION + 1
    assert not access.is_valid(session)


def test_the_password_comes_from_a_file_the_environment_or_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PASSWORD, raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert read_password(None, is_needed=False) is None
    with pytest.raises(UserError, match="--password-file"):
        read_password(None, is_needed=True)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(getpass, "getpass", lambda prompt: SECRET)
    assert read_password(None, is_needed=True) == SECRET
    monkeypatch.setenv(PASSWORD, "from the environment")
    assert read_password(None, is_needed=True) == "from the environment"
    (tmp_path / "password").write_text("from a file\n")
    assert read_password(tmp_path / "password", is_needed=False) == "from a file"
    with pytest.raises(UserError, match="no such"):
        read_password(tmp_path / "no such", is_needed=True)


def test_other_addresses_need_a_password(
    index: Index, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(PASSWORD, raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        assert main(["serve", str(index.folder), "--host", host]) == 2
        assert "a password is needed" in capsys.readouterr().err
    monkeypatch.setenv(PASSWORD, "short")
    assert main(["serve", str(index.folder), "--host", "0.0.0.0"]) == 2
    assert "at least 8" in capsys.readouterr().err
    assert main(["serve", str(index.folder), "--host", "no.such.invalid"]) == 2
    assert "--host" in capsys.readouterr().err
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert not is_loopback("0.0.0.0")


def test_an_address_for_others_is_served_under_its_names(
    index: Index, page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = {}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(server_module, "build_app", lambda page, **settings: served.update(settings))
    monkeypatch.setattr(server_module.uvicorn.Server, "run", lambda self, sockets: None)
    server_module.serve(page, 0, host="0.0.0.0", password=SECRET, names=["search.example.com"])
    assert {"localhost", socket.gethostname(), "search.example.com"} <= set(served["names"])
    assert served["access"].is_valid(served["access"].log_in(SECRET, "10.0.0.1"))


def test_names_of_this_server_are_answered(page: Page) -> None:
    with running(page, names=["search.example.com"]) as server:
        assert ask(f"{server}/api/about", host="search.example.com:80")[0] == 200
        assert ask(f"{server}/api/about", host="SEARCH.example.com")[0] == 200
        assert ask(f"{server}/api/about", host="other.example.com")[0] == 400


def test_the_container_runs_a_command_that_exists_as_an_unprivileged_user() -> None:
    lines = Path("Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    assert steps[0][0] == "FROM"
    kinds = [kind for kind, _ in steps]
    assert kinds.index("USER") < kinds.index("ENTRYPOINT")
    user = dict(steps)["USER"]
    assert user not in ("root", "0")
    entry = json.loads(dict(steps)["ENTRYPOINT"])
    arguments = json.loads(dict(steps)["CMD"])
    assert entry[:3] == ["python", "-m", "misc.search"]
    run, flags = parse([*entry[3:], *arguments])
    assert (run.__module__, flags.host) == ("misc.search.commands.serve", "0.0.0.0")
    for kind, rest in steps:
        if kind == "COPY":
            *sources, _ = [word for word in shlex.split(rest) if not word.startswith("--")]
            assert all(Path(source).exists() for source in sources), rest
    ignored = Path(".dockerignore").read_text().split()
    assert ignored[0] == "*"
    kept = {name[1:].rstrip("/") for name in ignored if name.startswith("!")}
    copied = {source for kind, rest in steps if kind == "COPY" for source in shlex.split(rest)[:-1]}
    assert {name for name in copied if not name.startswith("--")} <= kept
    assert re.fullmatch(r"\d+", dict(steps)["EXPOSE"])
