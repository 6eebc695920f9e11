"""The web page of `python -m misc.search serve`: one page over an index, for this machine alone.

Nothing is asked of other machines, and images are served by their row in the index, never by a path.
"""

import contextlib
import io
import json
import socket
import threading
import time
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from data.decode import load_image
from misc.search.explain import explain, overlay
from misc.search.queries import Query, query_features
from misc.search.truth import Truth
from options import UserError

if TYPE_CHECKING:
    from misc.search.encoder import Encoder
    from misc.search.index import Index

STATIC = Path(__file__).parent / "static"
HOST = "127.0.0.1"
NAMES = (HOST, "localhost")  # who asks by another name is a page of another site, posing as this one
MAX_BODY = 1_000_000  # bytes
MAX_RESULTS = 200
NUM_RANKED = 10  # at least: R@10 is told
THUMBNAIL = (400, 640)  # pixels at most: sharp on a phone's screen, too
EXAMPLES = {
    "en": (
        "a woman in a red coat with a black backpack",
        "a man in a blue jacket and grey trousers, with a beard",
    ),
    "ch": ("一名穿红色外套、背黑色双肩包的女子",),
    "fr": ("une femme en manteau rouge avec un sac à dos noir",),
    "de": ("eine Frau mit rotem Mantel und schwarzem Rucksack",),
}


class Page:
    """The answers of the server; what the user can mend is answered with status 400 and {error: one line}.

    The model answers one request at a time: side by side they would fight for the same cores.
    """

    def __init__(self, index: "Index", encoder: "Encoder", truth: Truth | None = None) -> None:
        self.index, self.encoder, self.truth = index, encoder, truth
        self.lock = threading.Lock()

    def app(self) -> Starlette:
        """What a server runs."""
        return Starlette(
            routes=[
                Route("/about", self.about),
                Route("/image/{row:int}", self.image),
                Route("/search", self.answer_search, methods=["POST"]),
                Route("/explain/{row:int}", self.answer_explain, methods=["POST"]),
                Mount("/", StaticFiles(directory=STATIC, html=True)),
            ],
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(NAMES))],
            exception_handlers={UserError: _answer_mistake},
        )

    def about(self, request: Request) -> Response:
        """What the page shows before anything is asked."""
        options, examples = self.encoder.options, self.truth.examples if self.truth else EXAMPLES
        learned = examples if options.model.backbone == "altclip" else options.data.languages
        known = set(learned) & set(examples) or examples
        return JSONResponse(
            {
                "total": len(self.index.paths),
                "most": min(MAX_RESULTS, len(self.index.paths)),
                "checkpoint": _printable("/".join(self.encoder.checkpoint.parts[-2:])),
                "examples": [text for name in examples if name in known for text in examples[name]],
            }
        )

    def image(self, request: Request) -> Response:
        """The image of this row, small."""
        return _small_jpeg(self._load(request.path_params["row"]))

    async def answer_search(self, request: Request) -> Response:
        """POST {text, without: [text], row: an image's or null, k} -> the ranking."""
        return await _answer_json(request, self.search)

    async def answer_explain(self, request: Request) -> Response:
        """POST {text} -> the image of this row, coloured where the model looked for the text."""
        row = request.path_params["row"]
        return await _answer_json(request, lambda asked: self.explain(row, asked))

    def search(self, asked: dict[str, Any]) -> Response:
        """See `answer_search`. Raises UserError where nothing, or something else, is asked."""
        text, row = _field(asked, "text", str, "").strip(), _field(asked, "row", int, None)
        without, k = _field(asked, "without", list, []), _field(asked, "k", int, 20)
        if not 1 <= k <= MAX_RESULTS:
            raise UserError(f"Images: a number from 1 to {MAX_RESULTS} is expected, found {k}")
        if not text and row is None:
            raise UserError("Describe a person first: the search field is empty")
        if not all(isinstance(part, str) for part in without):
            raise UserError("without: texts are expected")
        began = time.perf_counter()
        image = None if row is None else self._load(row)
        query = Query(text=text or None, image=image, without=tuple(map(_printable, without)))
        with self.lock:
            scores, rows = self.index.search(query_features(self.encoder, [query]), max(k, NUM_RANKED))
        scores, rows = scores[0].tolist(), rows[0].tolist()
        rights = self._rights(text, row, rows)
        answer = {
            "results": [
                self._result(*found)
                for found in zip(range(1, k + 1), rows, scores, rights, strict=False)  # the first k
            ],
            "total": len(self.index.paths),
            "seconds": time.perf_counter() - began,
        }
        if self.truth and self.truth.persons(text) and row is None and not without:  # as in evaluation
            answer["first_right"] = rights.index(True) + 1 if True in rights else None
        return JSONResponse(answer)

    def explain(self, row: int, asked: dict[str, Any]) -> Response:
        """See `answer_explain`."""
        image = self._load(row)
        with self.lock:
            heat = explain(self.encoder, image, _field(asked, "text", str, ""))
        return _small_jpeg(overlay(image, heat))

    def _rights(self, text: str, row: int | None, rows: Sequence[int]) -> list[bool | None]:
        """Whether each row shows whom the caption, or else the image, describes; None: nobody knows."""
        if self.truth is None:
            return [None] * len(rows)
        ids = self.truth.person_ids
        wanted = self.truth.persons(text) if text else {ids[row]} - {None}
        return [ids[found] in wanted if wanted and ids[found] is not None else None for found in rows]

    def _result(self, rank: int, row: int, score: float, right: bool | None) -> dict[str, Any]:
        image = _printable(self.index.paths[row])
        return {"rank": rank, "row": row, "score": score, "image": image, "right": right}

    def _load(self, row: int) -> Image.Image:
        if not 0 <= row < len(self.index.paths):
            raise UserError(f"There is no image {row} in the index; search anew")
        return load_image(self.index.image_root / self.index.paths[row])


def serve(
    index: "Index", encoder: "Encoder", port: int = 7860, truth: Truth | None = None, browse: bool = False
) -> None:
    """Answer on 127.0.0.1 until Ctrl-C.

    Args:
        encoder: one that the index is of.
        port: 0 takes any that is free.
        browse: whether to open the page in the browser.

    Raises:
        UserError: the port is taken.
    """
    with _listen(port) as listening:
        address = f"http://{HOST}:{listening.getsockname()[1]}"
        print(f"{len(index.paths)} images at {address} (Ctrl-C ends)", flush=True)
        if browse:  # on a thread: a browser in the terminal would keep it
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        config = uvicorn.Config(Page(index, encoder, truth).app(), log_level="warning")
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "expected 0 to 65535"
        raise UserError(f"--port: {port} cannot be listened on ({reason}); name another") from error


async def _answer_json(request: Request, answer: Callable[[dict[str, Any]], Response]) -> Response:
    """Answer a JSON object on another thread, so that images go on being served."""
    if not request.headers.get("content-type", "").startswith("application/json"):
        # Pages of other sites may post forms to this machine; JSON they may not.
        raise UserError("content-type: application/json is expected")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise UserError(f"The description is too long: at most {MAX_BODY:,} bytes are expected")
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UserError(f"JSON is expected ({error})") from error
    if not isinstance(asked, dict):
        raise UserError("A JSON object is expected")
    return await run_in_threadpool(answer, asked)


def _field(asked: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    value = asked.get(name, default)
    if value is not default and type(value) is not kind:
        raise UserError(f"{name}: expected {kind.__name__}, found {value!r:.40}")
    return _printable(value) if kind is str else value


def _printable(text: str) -> str:
    """Without the halves of characters that file names and JSON may hold, and UTF-8 may not."""
    return text.encode(errors="replace").decode()


def _small_jpeg(image: Image.Image) -> Response:
    image.thumbnail(THUMBNAIL)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88)
    # A later index may have another image in this row, and other sites' pages may not show it.
    headers = {"cache-control": "no-store", "cross-origin-resource-policy": "same-origin"}
    return Response(file.getvalue(), media_type="image/jpeg", headers=headers)


def _answer_mistake(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": " ".join(_printable(str(error)).split())}, status_code=400)
