"""What every request passes first: it may not come from another site, nor without the password."""

import ipaddress
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from fastapi.responses import Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from misc.search.web.access import Access
from misc.search.web.refusals import problem

MAX_BODY, MAX_UPLOAD = 1_000_000, 20_000_000  # bytes
LOGIN, UPLOAD = "/api/login", "/api/upload"
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",  # for browsers without frame-ancestors
}


class Gate:
    """Middleware that refuses requests, limits their bodies, and adds `HEADERS` to every answer.

    Args:
        names: of this host, beside its addresses. A request under another name comes from a page of another
            site, whose name has been made to lead here (DNS rebinding).
        access: None: everybody has access.
    """

    def __init__(self, app: ASGIApp, names: Collection[str], access: Access | None) -> None:
        self._app, self._access = app, access
        self._names = {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send_with_headers)
        else:
            limit = MAX_UPLOAD if scope["path"] == UPLOAD else MAX_BODY
            await self._app(scope, _limited(receive, limit), send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers, path = Headers(scope=scope), scope["path"]
        host = headers.get("host", "")
        if not self._is_own(host):
            return problem(400, f"This server has another name than {host!r:.60}; see --allow-host")
        if scope["method"] == "POST":
            if _is_of_other_site(headers, host):
                return problem(403, "The request comes from a page of another site")
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if path == UPLOAD and not (kind.startswith("image/") or kind == "application/octet-stream"):
                return problem(400, "content-type: expected image/... or application/octet-stream")
            if path != UPLOAD and kind != "application/json":  # which forms of other sites cannot send
                return problem(400, "content-type: expected application/json")
            length = headers.get("content-length", "0")
            limit = MAX_UPLOAD if path == UPLOAD else MAX_BODY
            if length.isdecimal() and int(length[:20]) > limit:
                return problem(413, _too_large(limit))
        if self._access and path.startswith("/api") and path != LOGIN and not self._is_logged_in(headers):
            return problem(401, "Log in first")
        return None

    def _is_own(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._names or _is_address(name)

    def _is_logged_in(self, headers: Headers) -> bool:
        return self._access.is_valid(session_in(headers, self._access))


def session_in(headers: Headers, access: Access) -> str:
    """The session that a request names; "" if none."""
    try:
        cookies = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return ""
    return cookies[access.cookie].value if access.cookie in cookies else ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_of_other_site(headers: Headers, host: str) -> bool:
    """Whether a browser says so; other programs say nothing."""
    origin = headers.get("origin")
    return headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none") or (
        origin is not None and urlsplit(origin).netloc.lower() != host.lower()
    )


def _limited(receive: Receive, limit: int) -> Receive:
    num_received = 0

    async def receive_limited() -> Message:
        nonlocal num_received
        message = await receive()
        num_received += len(message.get("body", b""))
        if num_received > limit:
            raise HTTPException(413, _too_large(limit))
        return message

    return receive_limited


def _too_large(limit: int) -> str:
    return f"The request is too large: expected at most {limit:,} bytes"
