"""The endpoints of the JSON API; the models of `misc.search.web.schema` say what they take and return."""

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import FileResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from misc.search.web.access import SESSION, Access
from misc.search.web.export import csv_of, zip_of
from misc.search.web.gate import session_in
from misc.search.web.model_queue import ModelQueue
from misc.search.web.page import Page
from misc.search.web.pictures import THUMBNAIL, VIEW, Pictures, Size
from misc.search.web.refusals import RefusedError
from misc.search.web.schema import (
    MAX_EXPORTED,
    MAX_ID,
    About,
    ExplainRequest,
    ExportRequest,
    LoginRequest,
    Problem,
    SearchAnswer,
    SearchRequest,
    Uploaded,
    encodable,
)

Id = Annotated[int, Path(le=MAX_ID, description="the id of an image of the index")]
KnownContent = Annotated[str | None, Header(alias="if-none-match", include_in_schema=False)]
JPEG = {200: {"content": {"image/jpeg": {}}, "description": "a JPEG"}}
SHOWN = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"GIF8": "image/gif", b"RIFF": "image/webp"}
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
        router.add_api_route("/images/{id}/thumbnail", self.thumbnail, methods=["GET"], **picture)
        router.add_api_route("/images/{id}/view", self.view, methods=["GET"], **picture)
        router.add_api_route("/images/{id}/file", self.file, methods=["GET"], response_class=FileResponse)
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

    async def thumbnail(self, id: Id, known: KnownContent = None) -> Response:
        """The image, upright, reduced to at most 400 x 640 pixels."""
        return await self._picture(id, THUMBNAIL, known)

    async def view(self, id: Id, known: KnownContent = None) -> Response:
        """The image, upright, reduced to at most 2,000 pixels a side."""
        return await self._picture(id, VIEW, known)

    def file(self, id: Id, inline: Annotated[bool, Query(description="to be shown")] = False) -> FileResponse:
        """The file of the image, as an attachment; inline only if it is a JPEG, PNG, WebP or GIF."""
        path = self._page.path_of(id)
        name = encodable(path.name)
        if not path.is_file():
            raise RefusedError(404, f"image '{path}' cannot be read (it is not there)")
        with path.open("rb") as file:
            begin = file.read(12)
        kind = next((kind for start, kind in SHOWN.items() if begin.startswith(start)), None)
        is_shown = inline and kind is not None and (kind != "image/webp" or begin[8:] == b"WEBP")
        disposition = "inline" if is_shown else "attachment"
        headers = {
            "content-disposition": f"{disposition}; filename*=utf-8''{quote(name, safe='')}",
            "cache-control": "no-cache",
        }
        return FileResponse(
            path, media_type=kind if is_shown else "application/octet-stream", headers=headers
        )

    async def explain(self, id: Id, request: ExplainRequest) -> Response:
        """The image, overlaid with the regions that its score depends on; at most 400 x 640 pixels."""
        path = await run_in_threadpool(self._page.path_of, id)
        image = await self._pictures.run(self._pictures.load, path, THUMBNAIL)
        content = await self._models.run(self._page.explain, image, request.text)
        return Response(content, media_type="image/jpeg", headers={"cache-control": "no-store"})

    async def export(self, request: ExportRequest) -> Response:
        """The files of images as a ZIP archive, or their paths as CSV, with ranks and scores of a search."""
        root, paths = await run_in_threadpool(self._page.paths_of, request.ids)
        name = f"images.{request.format}"
        headers = {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"}
        ids = list(dict.fromkeys(request.ids))
        if request.format == "zip":
            pieces = zip_of(root, [paths[number] for number in ids])
            return StreamingResponse(pieces, media_type="application/zip", headers=headers)
        if request.query is None:
            raise RefusedError(400, "query: a CSV file needs the search that found the images")
        asked = request.query.model_copy(update={"k": MAX_EXPORTED, "offset": 0})
        answer = await self._models.search(asked)
        content = csv_of(paths, ids, root, request.query, answer)
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

    async def _picture(self, number: int, at_most: Size, known: str | None) -> Response:
        path = await run_in_threadpool(self._page.path_of, number)
        name, content = await self._pictures.jpeg(path, at_most)
        headers = {"cache-control": "no-cache", "etag": f'"{name}"'}
        if known is not None and headers["etag"] in known:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type="image/jpeg", headers=headers)
