"""Errors as OpenAI writes them: {"error": {"message", "type", "param", "code"}}.

The official client turns the status into a class of exception (400 BadRequestError, 401
AuthenticationError, 404 NotFoundError, 429 RateLimitError, 500 and above InternalServerError), and
tries 408, 409, 429 and 5xx again by itself, after `Retry-After` where there is one.

Source: OpenAI's API reference, "Error codes"; openai-python, `_base_client.py`.
"""

import re

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

KINDS = {401: "authentication_error", 429: "rate_limit_error", 503: "service_unavailable"}
PART = re.compile(r"\d+|[a-z_]{4,}")  # a field or a place; not the name of a union's kind
CODES = {
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "request_too_large",
}


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}

    def body(self) -> dict:
        """The JSON of the error."""
        default = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = KINDS.get(self.status, default)
        told = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": told}

    def response(self) -> JSONResponse:
        """The error as an answer."""
        return JSONResponse(self.body(), self.status, self.headers)


def from_validation(error: RequestValidationError) -> ApiError:
    """The first thing that is wrong with a body, by the name of its field."""
    found = error.errors()
    fitting = (one for one in found if not one["type"].endswith("_type"))  # of a union's kinds
    first = next(fitting, found[0])
    place = [str(part) for part in first["loc"][1:] if PART.fullmatch(str(part))]
    if first["type"] == "json_invalid":
        why = first.get("ctx", {}).get("error", first["msg"])
        return ApiError(400, f"The body is not JSON: {why}.", "invalid_json")
    param = ".".join(place) or None
    if first["type"] == "extra_forbidden":
        return ApiError(
            400, f"Unrecognized request argument supplied: {param}", "unknown_parameter", param
        )
    if first["type"] == "missing" and not place:
        return ApiError(400, "The body is missing: send JSON, as application/json.")
    if first["type"] == "missing":
        return ApiError(400, f"{param} is missing.", "missing_required_parameter", param)
    if not place and first["type"] in ("model_attributes_type", "model_type"):
        return ApiError(400, "The body is no JSON object: send one, with its Content-Type.")
    words = first["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{param or 'The body'}: {words}.", "invalid_value", param)


def install(app: FastAPI) -> None:
    """Let every error of the app have OpenAI's form."""

    @app.exception_handler(ApiError)
    async def known(_: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return from_validation(error).response()

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        code = CODES.get(error.status_code)
        return ApiError(error.status_code, str(error.detail), code).response()

    @app.exception_handler(Exception)
    async def unknown(_: Request, error: Exception) -> JSONResponse:
        return ApiError(500, f"The server failed: {error!r}.", "internal_error").response()
