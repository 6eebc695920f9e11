"""The endpoints of the JSON API; the models of `misc.search.web.schema` say what they take and return."""

from functools import partial
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Header, Query, Request
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from misc.search.web.access import SESSION, Access
from misc.search.web.export import csv_of, zip_of_crops, zip_of_files
from misc.search.web.gate import session_in
from misc.search.web.model_queue import ModelQueue
from misc.search.web.page import Page
from misc.search.web.pictures import THUMBNAIL, VIEW, Pictures, Size, Source
from misc.search.web.refusals import RefusedError, problem
from misc.search.web.schema import (
    MAX_EXPORTED,
    MAX_ID,
    About,
    Details,
    ExplainRequest,
    ExportRequest,
    LoginRequest,
    Problem,
    SearchAnswer,
    SearchRequest,
    Uploaded,
    encodable,
)

Id = Annotated[int, PathParameter(le=MAX_ID, description="the id of an image of the index")]
CropNumber = Annotated[
    int, Query(ge=0, le=MAX_ID, description="0: the image, or the person; else another crop of the track")
]
KnownContent = Annotated[str | None, Header(alias="if-none-match", include_in_schema=False)]
JPEG = {200: {"content": {"image/jpeg": {}}, "description": "a JPEG"}}
SHOWN = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"GIF8": "image/gif", b"RIFF": "image/webp"}
UNKNOWN = "application/octet-stream"
VIDEO_TYPES = {  # which browsers may play
    **dict.fromkeys((".mp4", ".m4v"), "video/mp4"),
    **dict.fromkeys((".mpeg", ".mpg"), "video/mpeg"),
    **dict.fromkeys((".ts", ".mts", ".m2ts"), "video/mp2t"),
    ".mov": "video/quicktime",
    ".webm": "video/webm",
    ".mkv": "video/x-matroska",
    ".3gp": "video/3gpp",
}
FILE = {
    200: {"content": {"*/*": {}}, "description": "the file"},
    206: {"content": {"*/*": {}}, "description": "the ranges of its bytes that were asked for"},
}
ATTACHMENT = {
    200: {"content": {"application/zip": {}, "text/csv": {}}, "description": "a ZIP archive, or CSV"}
}
UPLOADED = {"required": True, "content": {"image/*": {}, "application/octet-stream": {}}}


class Api:
    """Answers requests for a page."""

    def __init__(self, page: Page, pictures: Pictures, models: ModelQueue, access: Access | None) -> None:
        self._page, self._pictures, self._models = page, pictures, models
        self._access = access

    def router(self) -> APIRouter:
        """The endpoints, below /api."""
        router = APIRouter(prefix="/api", responses={"4XX": {"model": Problem}, 503: {"model": Problem}})
        router.add_api_route("/about", self.about, methods=["GET"])
        add_post = {"methods": ["POST"], "response_model_exclude_unset": True}
        router.add_api_route("/search", self.search, **add_post)
        router.add_api_route("/upload", self.upload, openapi_extra={"requestBody": UPLOADED}, **add_post)
        picture = {"response_class": Response, "responses": JPEG}
        router.add_api_route("/images/{id}", self.details, methods=["GET"])
        router.add_api_route("/images/{id}/thumbnail", self.thumbnail, methods=["GET"], **picture)
        router.add_api_route("/images/{id}/view", self.view, methods=["GET"], **picture)
        router.add_api_route("/images/{id}/scene", self.scene, methods=["GET"], **picture)
        of_file = {"response_class": FileResponse, "responses": FILE}
        router.add_api_route("/images/{id}/video", self.video, methods=["GET"], **of_file)
        router.add_api_route("/images/{id}/file", self.file, methods=["GET"], **of_file)
        router.add_api_route("/images/{id}/explain", self.explain, methods=["POST"], **picture)
        attachment = {"response_class": Response, "responses": ATTACHMENT}
        router.add_api_route("/export", self.export, methods=["POST"], **attachment)
        router.add_api_route("/login", self.log_in, status_code=204, **add_post)
        router.add_api_route("/logout", self.log_out, status_code=204, **add_post)
        return router

    def about(self) -> About:
        """What is known before the first search."""
        return self._page.about(self._access is not None)

    async def search(self, request: SearchRequest) -> SearchAnswer:
        """A part of the ranking of the images for a query, from the latest generation of the index."""
        return await self._models.search(request)

    async def upload(self, request: Request) -> Uploaded:
        """Name an image as a part of later searches; the body is its file."""
        content = await request.body()
        image = await self._pictures.run(self._page.read_upload, content, self._pictures)
        return Uploaded(upload=await self._models.run(self._page.keep_upload, content, image))

    async def details(self, id: Id) -> Details:
        """What is known of the image, or of the person in a photo or video."""
        return await self._pictures.run(self._page.details, id, self._pictures)

    async def thumbnail(self, id: Id, crop: CropNumber = 0, known: KnownContent = None) -> Response:
        """The image, or the person with a margin, upright, reduced to at most 400 x 640 pixels."""
        return await self._picture(await self._source(id, crop), THUMBNAIL, known)

    async def view(self, id: Id, crop: CropNumber = 0, known: KnownContent = None) -> Response:
        """The image, or the person with a margin, upright, reduced to at most 2,000 pixels a side."""
        return await self._picture(await self._source(id, crop), VIEW, known)

    async def scene(self, id: Id, crop: CropNumber = 0, known: KnownContent = None) -> Response:
        """The whole photo or frame, upright, reduced to at most 2,000 pixels a side."""
        source = await self._source(id, crop)
        return await self._picture(source.scene, VIEW, known)

    def video(self, id: Id) -> FileResponse:
        """The video that the person is in, whole or the ranges of bytes that are asked for."""
        source = self._page.source(id)
        if source.place.time is None:
            raise RefusedError(404, f"image {id} is not of a video")
        return _response(source.file, "inline", VIDEO_TYPES.get(source.file.suffix.lower(), UNKNOWN))

    def file(self, id: Id, inline: Annotated[bool, Query(description="to be shown")] = False) -> FileResponse:
        """The file of the image, as an attachment; inline only if it is a JPEG, PNG, WebP or GIF."""
        path = self._page.source(id).file
        _check_file(path)
        with path.open("rb") as file:
            begin = file.read(12)
        kind = next((kind for start, kind in SHOWN.items() if begin.startswith(start)), None)
        is_shown = inline and kind is not None and (kind != "image/webp" or begin[8:] == b"WEBP")
        return _response(path, "inline", kind) if is_shown else _response(path, "attachment", UNKNOWN)

    async def explain(self, id: Id, request: ExplainRequest, crop: CropNumber = 0) -> Response:
        """The image, overlaid with the regions that its score depends on; at most 400 x 640 pixels."""
        image = await self._pictures.run(self._pictures.load, await self._source(id, crop), THUMBNAIL)
        content = await self._models.run(self._page.explain, image, request.text)
        return Response(content, media_type="image/jpeg", headers={"cache-control": "no-store"})

    async def export(self, request: ExportRequest) -> Response:
        """Files or pictures of images as a ZIP archive, or a table with their ranks in a search."""
        images = await run_in_threadpool(self._page.exported, request.ids)
        name = "images.csv" if request.format == "csv" else "images.zip"
        headers = {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"}
        if request.format != "csv":
            load = partial(self._pictures.load, at_most=VIEW)
            pieces = zip_of_files(images) if request.format == "zip" else zip_of_crops(images, load)
            return StreamingResponse(pieces, media_type="application/zip", headers=headers)
        if request.query is None:
            raise RefusedError(400, "query: a CSV file needs the search that found the images")
        asked = request.query.model_copy(update={"k": MAX_EXPORTED, "offset": 0})
        answer = await self._models.search(asked)
        content = csv_of(images, request.query, answer)
        return Response(content, media_type="text/csv", headers=headers)

    def log_in(self, login: LoginRequest, request: Request, response: Response) -> None:
        """Start a session, by a cookie."""
        if self._access is not None:
            session = self._access.log_in(login.password, request.client.host if request.client else "")
            response.set_cookie(self._access.cookie, session, SESSION, httponly=True, samesite="strict")

    async def log_out(self, request: Request, response: Response) -> None:
        """End the session."""
        if self._access is not None:
            self._access.log_out(session_in(request.headers, self._access))
            response.delete_cookie(self._access.cookie, httponly=True, samesite="strict")

    async def _source(self, number: int, crop: int) -> Source:
        return await run_in_threadpool(self._page.source, number, crop)

    async def _picture(self, source: Source, at_most: Size, known: str | None) -> Response:
        name, content = await self._pictures.jpeg(source, at_most)
        headers = {"cache-control": "no-cache", "etag": f'"{name}"'}
        if known is not None and headers["etag"] in known:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type="image/jpeg", headers=headers)


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise RefusedError(404, f"image '{path}' cannot be read (it is not there)")


class _File(FileResponse):
    """A file, or the ranges of its bytes that are asked for; others are refused as requests are, in JSON."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        refusal: Message | None = None

        async def send_unless_refused(message: Message) -> None:
            nonlocal refusal
            if message["type"] == "http.response.start" and message["status"] >= 400:
                refusal = message
            if refusal is None:
                await send(message)

        await super().__call__(scope, receive, send_unless_refused)
        if refusal is not None:
            found = Headers(raw=refusal["headers"]).get("content-range")
            headers = {"content-range": found} if found else None
            await problem(refusal["status"], "range: expected bytes of the file", headers)(
                scope, receive, send
            )


def _response(path: Path, disposition: str, kind: str) -> FileResponse:
    """The file, or the ranges of its bytes that are asked for."""
    _check_file(path)
    name = quote(encodable(path.name), safe="")
    headers = {"content-disposition": f"{disposition}; filename*=utf-8''{name}", "cache-control": "no-cache"}
    return _File(path, media_type=kind, headers=headers)
