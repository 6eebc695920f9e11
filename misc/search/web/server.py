"""The server of the page: on this machine only, or for others that know a password."""

import contextlib
import ipaddress
import socket
import threading
import webbrowser
from collections.abc import Sequence

import uvicorn
from fastapi import FastAPI
from PIL import Image

from misc.search.web.access import Access
from misc.search.web.app import LOCAL, build_app
from misc.search.web.connections import MAX_ANSWERED, BoundedConnection
from misc.search.web.page import Page
from options import UserError

HOST = "127.0.0.1"
# Bytes of memory of an image: the C library returns blocks above 32 MB to the system at once.
BLOCK = 64 << 20


def serve(
    page: Page,
    port: int,
    browse: bool = False,
    host: str = HOST,
    password: str | None = None,
    names: Sequence[str] = (),
) -> None:
    """Serve the page until Ctrl-C, and open it in a browser if `browse`; port 0 selects a free one.

    Args:
        password: needed if `host` is not an address of this machine alone.
        names: under which the server is reached, beside its addresses.

    Raises:
        UserError: the address or the port is not available, or the password is missing or too short.
    """
    Image.core.set_block_size(BLOCK)
    access = Access(password) if password is not None else None
    assert access or is_loopback(host), host
    with _listen(host, port) as listening:
        address, actual_port = listening.getsockname()[:2]
        url = f"http://{f'[{address}]' if ':' in address else address}:{actual_port}"
        entries = "entries" if page.index.has_people else "images"
        print(f"{len(page.index.paths)} {entries} at {url} (Ctrl-C ends)", flush=True)
        if browse:  # in a thread: a text browser would block until it is closed
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        own = LOCAL if is_loopback(host) else (*LOCAL, socket.gethostname())
        config = configuration(build_app(page, access=access, names=(*own, host, *names)))
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])


def configuration(app: FastAPI) -> uvicorn.Config:
    """How uvicorn serves the application."""
    return uvicorn.Config(
        app,
        http=BoundedConnection,
        ws="none",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the addresses that attempts to log in are counted by
        limit_concurrency=MAX_ANSWERED,
        timeout_graceful_shutdown=5,
    )


def is_loopback(host: str) -> bool:
    """Whether a name or address leads to this machine only; raises UserError if it leads nowhere."""
    return all(ipaddress.ip_address(address).is_loopback for _, address in _addresses(host))


def _addresses(host: str) -> list[tuple[socket.AddressFamily, str]]:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"--host: '{host}' is no address of this machine; use 127.0.0.1 or 0.0.0.0"
        ) from error
    return [(family, address[0].partition("%")[0]) for family, _, _, _, address in found]


def _listen(host: str, port: int) -> socket.socket:
    family, address = _addresses(host)[0]
    try:
        return socket.create_server((address, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "expected 0 to 65535"
        raise UserError(
            f"--port: cannot listen on {port} of {host} ({reason}); choose another one, or another --host"
        ) from error
