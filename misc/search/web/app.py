"""The application: the endpoints, the files of the page, and how errors are answered."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.staticfiles import StaticFiles

from data.images.decode import BadImageError
from misc.detection.video import BadVideoError
from misc.search.web.access import Access
from misc.search.web.api import Api
from misc.search.web.cache import DiskCache, user_cache
from misc.search.web.gate import Gate
from misc.search.web.model_queue import ModelQueue
from misc.search.web.page import Page
from misc.search.web.pictures import Pictures
from misc.search.web.refusals import RefusedError, problem
from options import UserError

LOCAL = ("localhost",)
STATIC = Path(__file__).parent / "static"


def build_app(
    page: Page, cache: Path | None = None, access: Access | None = None, names: Collection[str] = LOCAL
) -> FastAPI:
    """The application that serves a page.

    Args:
        cache: a folder for thumbnails; None: the user's.
        access: who may use it; None: everybody.
        names: under which it is reached.
    """
    pictures = Pictures(DiskCache(cache or user_cache()), page.encoder.options.data.truncated)
    models = ModelQueue(page.search_all)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        pictures.close()
        models.close()

    app = FastAPI(title="Person search", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.include_router(Api(page, pictures, models, access).router())
    app.add_middleware(Gate, names=names, access=access)
    app.mount("/", StaticFiles(directory=STATIC, html=True))
    app.add_exception_handler(UserError, _answer_user_error)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_exception_handler(Exception, _answer_crash)
    return app


def _answer_user_error(request: Request, error: Exception) -> Response:
    if isinstance(error, RefusedError):
        return problem(error.status, str(error), error.headers)
    if str(error).startswith("INDEX:"):  # it cannot be read now, or is damaged: not the client's error
        return problem(503, str(error))
    return problem(404 if isinstance(error, BadImageError | BadVideoError) else 400, str(error))


def _answer_invalid(request: Request, error: RequestValidationError) -> Response:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    if first["type"] == "json_invalid":
        return problem(400, f"expected JSON: {first['ctx']['error']} at {where}")
    found = f", found {first['input']!r:.40}" if isinstance(first["input"], str | int | float | None) else ""
    return problem(400, f"{where or 'the body'}: {first['msg']}{found}")


def _answer_http_error(request: Request, error: HTTPException) -> Response:
    return problem(error.status_code, error.detail, error.headers)


def _answer_nobody(request: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=400)


def _answer_crash(request: Request, error: Exception) -> Response:
    return problem(500, "The server made an error, which it has logged")
