"""The page's server: FastAPI behind the guard. `flows/commands/review.py` starts it.

    app = make_app(session, token)                  # http://127.0.0.1:PORT/TOKEN/

What the page may read is named here, file by file: no path of a request ever becomes a path on the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse, Response

from lib.core.errors import AugmentError
from lib.records.kept import FAULTS
from lib.review.guard import Guard
from lib.review.session import Missing, Post, Session, UndoPost

if TYPE_CHECKING:
    from starlette.types import ASGIApp

T = TypeVar("T")

PAGE = Path(__file__).parent / "page"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}
_CONTENT = {"cache-control": "private, max-age=86400, immutable"}  # addressed by content: never another
_FRESH = {"cache-control": "no-store"}


def make_app(session: Session, token: str) -> ASGIApp:
    """The page and what it asks for."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    files = {path.name: path.read_bytes() for path in PAGE.iterdir() if path.suffix in _TYPES}

    @app.exception_handler(Missing)
    @app.exception_handler(AugmentError)
    async def refuse(request: Request, error: Exception) -> Response:
        return _json({"error": str(error)}, 404 if isinstance(error, Missing) else 409)

    @app.get("/")
    def page() -> Response:
        return Response(files["index.html"], media_type=_TYPES[".html"], headers=_FRESH)

    @app.get("/page/{name}")
    def file(name: str) -> Response:
        if name not in files or name == "index.html":
            return PlainTextResponse("there is no such file", 404)
        return Response(files[name], media_type=_TYPES[Path(name).suffix], headers=_FRESH)

    @app.get("/api/catalogue")
    def catalogue() -> Response:
        return Response(session.catalogue(), media_type="application/json", headers=_FRESH)

    @app.get("/api/changes")
    def changes(since: str = "") -> Response:
        versions = [int(one) if one.isdigit() else 0 for one in since[:1000].split(",")]
        return _json(session.changes(versions))

    @app.get("/api/agreement")
    def agreement() -> Response:
        return _json(session.agreements())

    @app.get("/api/keys")
    def keys(by: str) -> Response:
        return _json(session.keys(by))

    @app.post("/api/decide")
    async def decide(request: Request) -> Response:
        return await _answered(request, Post, session.decide)

    @app.post("/api/undo")
    async def undo(request: Request) -> Response:
        return await _answered(request, UndoPost, session.undo)

    @app.get("/thumbnail/{run}/{key}")
    def thumbnail(run: int, key: str) -> Response:
        return Response(session.thumbnail(run, key), media_type="image/jpeg", headers=_CONTENT)

    @app.get("/picture/{run}/{key}")
    def picture(run: int, key: str) -> Response:
        return Response(session.picture(run, key), media_type="image/png", headers=_CONTENT)

    @app.get("/source/{run}/{key}")
    def source(run: int, key: str) -> Response:
        return Response(session.source(run, key), media_type="image/jpeg", headers=_CONTENT)

    return Guard(app, token)


async def _answered(request: Request, kind: type[T], answer: Callable[[T], dict[str, Any]]) -> Response:
    """The answer to a body of this kind; 422 for any other."""
    body = await request.body()
    try:
        post = msgspec.json.decode(body, type=kind)
    except FAULTS as error:
        return _json({"error": f"this is no decision ({error}); nothing was noted"}, 422)
    return _json(await run_in_threadpool(answer, post))


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json", headers=_FRESH)
