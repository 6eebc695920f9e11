"""The web page of `python -m misc.search serve`: one page for an index, on this machine only.

The page requests nothing from other machines, and images are served by their id in the index, never by path.
"""

import contextlib
import io
import json
import logging
import socket
import threading
import time
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

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

from data.images.decode import load_image
from data.types import NOBODY, language_name
from misc.search.encoder import Encoder
from misc.search.explain import explain, overlay
from misc.search.index import Index, check_identity
from misc.search.ranking.queries import Query, descriptions, query_features
from misc.search.truth import GroundTruth
from model.protocol import JsonObject
from options import UserError

logger = logging.getLogger(__name__)

T, D = TypeVar("T"), TypeVar("D")
STATIC = Path(__file__).parent / "static"
HOST = "127.0.0.1"
MAX_BODY = 1_000_000  # bytes
MAX_RESULTS = 200
MIN_RANKED = 10  # so that R@10 can be computed
MAX_THUMBNAIL = (400, 640)  # pixels: sharp on a phone's screen
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
    """The endpoints of the server. A user error is answered with status 400 and {"error": message}.

    The model processes one request at a time: concurrent ones would compete for the same cores.
    """

    def __init__(self, index: Index, encoder: Encoder, truth: GroundTruth | None = None) -> None:
        self._generation, self.encoder = (index, truth), encoder
        self.lock, self.updating = threading.Lock(), threading.Lock()

    @property
    def index(self) -> Index:
        """The generation of the index that the latest search used."""
        return self._generation[0]

    @property
    def truth(self) -> GroundTruth | None:
        """What is known of its images."""
        return self._generation[1]

    def app(self) -> Starlette:
        """The application that a server runs."""
        return Starlette(
            routes=[
                Route("/about", self.about),
                Route("/image/{id:int}", self.image),
                Route("/search", self.answer_search, methods=["POST"]),
                Route("/explain/{id:int}", self.answer_explain, methods=["POST"]),
                Mount("/", StaticFiles(directory=STATIC, html=True)),
            ],
            # A request under another name comes from another site (DNS rebinding).
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
            exception_handlers={UserError: _answer_user_error},
        )

    def about(self, request: Request) -> Response:
        """GET -> what the page shows before the first search."""
        examples = self.truth.examples if self.truth else EXAMPLES
        is_multilingual = self.encoder.model.clip.is_multilingual
        learned = examples if is_multilingual else self.encoder.options.data.languages
        known = {language_name(name) for name in learned} & set(examples) or examples
        return JSONResponse(
            {
                "total": len(self.index.paths),
                "max_results": min(MAX_RESULTS, len(self.index.paths)),
                "checkpoint": _encodable("/".join(self.encoder.checkpoint.parts[-2:])),
                "examples": [text for name in examples if name in known for text in examples[name]],
            }
        )

    def image(self, request: Request) -> Response:
        """GET -> a thumbnail of the image of this id."""
        return _thumbnail(self._load(self.index, request.path_params["id"]))

    async def answer_search(self, request: Request) -> Response:
        """POST {text, without: [text], row: the id of an image or null, k} -> the ranking."""
        return await _answer_json(request, self.search)

    async def answer_explain(self, request: Request) -> Response:
        """POST {text} -> the image of this id, overlaid with the regions that its score depends on."""
        number = request.path_params["id"]
        return await _answer_json(request, lambda body: self.explain(number, body))

    def search(self, body: JsonObject) -> Response:
        """See `answer_search`. Raises UserError if the query is empty or invalid."""
        text, number = _field(body, "text", str, "").strip(), _field(body, "row", int, None)
        without, k = _field(body, "without", list, []), _field(body, "k", int, 20)
        if not 1 <= k <= MAX_RESULTS:
            raise UserError(f"Images: expected a number from 1 to {MAX_RESULTS}, found {k}")
        if not text and number is None:
            raise UserError("Describe a person first: the search field is empty")
        if not all(isinstance(part, str) for part in without):
            raise UserError("without: expected texts")
        started = time.perf_counter()
        index, truth = self._latest()
        image = None if number is None else self._load(index, number)
        texts, images = ((text, 0.5),) if text else (), ((image, 0.5),) if image else ()
        query = Query(texts, images, descriptions(map(_encodable, without)))
        with self.lock:
            scores, rows = index.search(query_features(self.encoder, [query]), max(k, MIN_RANKED))
        scores, rows = scores[0].tolist(), rows[0].tolist()
        correct = _correct(truth, text, None if number is None else index.row_of(number), rows)
        images = [_encodable(index.paths[row]) for row in rows]
        names = ("rank", "row", "score", "image", "right")
        shown = zip(range(1, k + 1), index.ids[rows].tolist(), scores, images, correct, strict=False)  # k
        answer = {
            "results": [dict(zip(names, result, strict=True)) for result in shown],
            "total": len(index.paths),
            "seconds": time.perf_counter() - started,
        }
        if truth and truth.persons(text) and number is None and not without:  # as in evaluation
            answer["first_right"] = correct.index(True) + 1 if True in correct else None
        return JSONResponse(answer)

    def explain(self, number: int, body: JsonObject) -> Response:
        """See `answer_explain`."""
        image = self._load(self.index, number)
        with self.lock:
            heat = explain(self.encoder, image, _field(body, "text", str, ""))
        return _thumbnail(overlay(image, heat))

    def _latest(self) -> tuple[Index, GroundTruth | None]:
        """The latest generation of the index, and what is known of its images. While one request opens it,
        and where that fails, others get the previous one.
        """
        if self.updating.acquire(blocking=False):
            try:
                if not self.index.is_latest():
                    index = Index.open(self.index.folder)
                    check_identity(index.folder, index.header, self.encoder)
                    self._generation = index, self.truth and self.truth.of(index)
            except UserError as error:
                logger.warning(f"the page shows the images of the previous update: {error}")
            finally:
                self.updating.release()
        return self._generation

    def _load(self, index: Index, number: int) -> Image.Image:
        path = index.image_root / index.paths[index.row_of(number)]
        return load_image(path, self.encoder.options.data.truncated)


def _correct(truth: GroundTruth | None, text: str, row: int | None, rows: Sequence[int]) -> list[bool | None]:
    """Whether each row shows the person that the caption, or else the image, describes; None: unknown."""
    if truth is None:
        return [None] * len(rows)
    ids = truth.person_ids
    wanted = truth.persons(text) if text else {ids[row]} - {None, NOBODY}
    return [ids[found] in wanted if wanted and ids[found] is not None else None for found in rows]


def serve(index: Index, encoder: Encoder, port: int, truth: GroundTruth | None, browse: bool) -> None:
    """Serve the page on 127.0.0.1 until Ctrl-C, and open it in a browser if `browse`; port 0 selects a free
    one. Raises UserError if the port is not available.
    """
    with _listen(port) as listening:
        address = f"http://{HOST}:{listening.getsockname()[1]}"
        print(f"{len(index.paths)} images at {address} (Ctrl-C ends)", flush=True)
        if browse:  # in a thread: a text browser would block until it is closed
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        config = uvicorn.Config(Page(index, encoder, truth).app(), log_level="warning")
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "expected 0 to 65535"
        raise UserError(f"--port: cannot listen on {port} ({reason}); choose another") from error


async def _answer_json(request: Request, answer: Callable[[JsonObject], Response]) -> Response:
    """Parse a JSON object and answer it in another thread, so that images are served meanwhile."""
    if not request.headers.get("content-type", "").startswith("application/json"):
        # Pages of other sites can post forms to this machine, but not JSON.
        raise UserError("content-type: expected application/json")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            raise UserError(f"The description is too long: expected at most {MAX_BODY:,} bytes")
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UserError(f"expected JSON ({error})") from error
    if not isinstance(parsed, dict):
        raise UserError("expected a JSON object")
    return await run_in_threadpool(answer, parsed)


def _field(body: JsonObject, name: str, kind: type[T], default: D) -> T | D:
    value = body.get(name, default)
    if value is not default and type(value) is not kind:
        raise UserError(f"{name}: expected {kind.__name__}, found {value!r:.40}")
    return _encodable(value) if kind is str else value


def _encodable(text: str) -> str:
    """Replace unpaired surrogates, which file names and JSON may contain but UTF-8 cannot encode."""
    return text.encode(errors="replace").decode()


def _thumbnail(image: Image.Image) -> Response:
    image.thumbnail(MAX_THUMBNAIL)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=88)
    # A later generation may have changed the image, and pages of other sites must not embed it.
    headers = {"cache-control": "no-store", "cross-origin-resource-policy": "same-origin"}
    return Response(file.getvalue(), media_type="image/jpeg", headers=headers)


def _answer_user_error(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": " ".join(_encodable(str(error)).split())}, status_code=400)
