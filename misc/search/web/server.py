"""The server of the page: one page for an index, on this machine only."""

import contextlib
import socket
import threading
import webbrowser

import uvicorn
from fastapi import FastAPI

from misc.search.encoder import Encoder
from misc.search.index import Index
from misc.search.truth import GroundTruth
from misc.search.web.app import build_app
from misc.search.web.connections import MAX_ANSWERED, BoundedConnection
from misc.search.web.page import Page
from options import UserError

HOST = "127.0.0.1"


def serve(index: Index, encoder: Encoder, port: int, truth: GroundTruth | None, browse: bool) -> None:
    """Serve the page on 127.0.0.1 until Ctrl-C, and open it in a browser if `browse`; port 0 selects a free
    one. Raises UserError if the port is not available.
    """
    with _listen(port) as listening:
        address = f"http://{HOST}:{listening.getsockname()[1]}"
        print(f"{len(index.paths)} images at {address} (Ctrl-C ends)", flush=True)
        if browse:  # in a thread: a text browser would block until it is closed
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        config = configuration(build_app(Page(index, encoder, truth)))
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])


def configuration(app: FastAPI, log_level: str = "error") -> uvicorn.Config:
    """How uvicorn serves the application."""
    return uvicorn.Config(
        app,
        http=BoundedConnection,
        ws="none",
        log_level=log_level,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the addresses that attempts to log in are counted by
        limit_concurrency=MAX_ANSWERED,
        timeout_graceful_shutdown=5,
    )


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "expected 0 to 65535"
        raise UserError(f"--port: cannot listen on {port} ({reason}); choose another") from error
