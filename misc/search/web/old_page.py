"""The endpoints of the earlier page, until its files use the JSON API."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from misc.search.web.page import Page
from misc.search.web.pictures import THUMBNAIL, Pictures
from misc.search.web.schema import QueryImage, SearchRequest


class OldPage:
    """/about, /image, /search, /explain."""

    def __init__(self, page: Page, pictures: Pictures) -> None:
        self.page, self.pictures = page, pictures

    def routes(self) -> list[Route]:
        """The endpoints."""
        return [
            Route("/about", self.about),
            Route("/image/{id:int}", self.image),
            Route("/search", self.search, methods=["POST"]),
            Route("/explain/{id:int}", self.explain, methods=["POST"]),
        ]

    def about(self, request: Request) -> Response:
        """As /api/about."""
        return JSONResponse(self.page.about(False).model_dump())

    async def image(self, request: Request) -> Response:
        """As the thumbnail."""
        path = self.page.path_of(request.path_params["id"])
        _, content = await self.pictures.jpeg(path, THUMBNAIL)
        return Response(content, media_type="image/jpeg")

    async def search(self, request: Request) -> Response:
        """As /api/search."""
        body = await request.json()
        images = [QueryImage(id=body["row"])] if body.get("row") is not None else []
        asked = SearchRequest(
            text=body.get("text", ""), without=body.get("without", []), images=images, k=body.get("k", 20)
        )
        (answer,) = self.page.search_all([asked])
        if isinstance(answer, Exception):
            raise answer
        found = answer.model_dump(exclude_unset=True)
        for result in found["results"]:
            result |= {"row": result["id"], "image": result["path"]}
        return JSONResponse(found)

    async def explain(self, request: Request) -> Response:
        """As /api/images/{id}/explain."""
        image = self.pictures.load(self.page.path_of(request.path_params["id"]), THUMBNAIL)
        return Response(
            self.page.explain(image, (await request.json()).get("text", "")), media_type="image/jpeg"
        )
