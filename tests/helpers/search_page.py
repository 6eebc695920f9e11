"""For tests of the search page: an index of people, one file name being odd, and a server in a thread."""

import contextlib
import json
import shutil
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from misc.search.index import Index
from misc.search.page import Page
from misc.search.update import update_index
from tests.helpers.search_runs import save_image, small_encoder

ODD_NAME = "<img src=x onerror=document.title=1> & \udcff.png"  # markup, and a byte that is not UTF-8


def small_page(people: Path, folder: Path) -> Page:
    """A page over a copy of the images of `people` and one with `ODD_NAME`, in `folder`/imgs."""
    shutil.copytree(people / "imgs", folder / "imgs")
    save_image(folder / "imgs" / ODD_NAME, seed=1)
    encoder = small_encoder(folder)
    update_index(encoder, folder / "imgs", folder / "index")
    return Page(Index.open(folder / "index"), encoder)


@contextlib.contextmanager
def running(page: Page) -> Iterator[str]:
    """The address of the page, while it is served."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(page.app(), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def ask(address: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
    """(status, answer) of a request: a POST of JSON, or of bytes, where there is a body."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    try:
        with urllib.request.urlopen(urllib.request.Request(address, data, headers)) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
