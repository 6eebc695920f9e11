"""Requests that are refused."""

from collections.abc import Mapping

from fastapi.responses import JSONResponse

from misc.search.web.schema import encodable
from options import UserError


class RefusedError(UserError):
    """A request that is answered with `status` and {"error": message}; other user errors have status 400."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {} if retry_after is None else {"retry-after": str(retry_after)}


def problem(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer to a request that is refused: {"error": message in one line}."""
    line = " ".join(str(encodable(message)).split())
    return JSONResponse({"error": line}, status_code=status, headers=headers)
