"""A bucket for tests: moto's S3 on loopback, which counts its requests, and fails, refuses or is away on demand."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from lib.core import bucket, bucket_sets
from lib.core.places import CACHE

NAME = "pictures"  # of the bucket

_REFUSED = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
_GONE = b"<Error><Code>NoSuchBucket</Code><Message>The specified bucket does not exist</Message></Error>"
_BUSY = b"<Error><Code>InternalError</Code><Message>again</Message></Error>"


class BucketServer:
    """moto behind what a test wants of a network."""

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self.requests: Counter[str] = Counter()  # by method
        self._number = 0
        self.mood: Callable[[dict[str, Any], int], str] = lambda request, number: ""  # refused, gone, busy, cut, slow
        self._lock = threading.Lock()
        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _answer(self, request: dict[str, Any], start: Any) -> Any:
        with self._lock:
            self._number += 1
            self.requests[request["REQUEST_METHOD"]] += 1
            self.requests["LIST"] += "list-type" in request["QUERY_STRING"]  # those GETs that are lists
            mood = self.mood(request, self._number)
        if mood == "cut":
            request["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError
        for word, status, body in (
            ("refused", "403 Forbidden", _REFUSED),
            ("gone", "404 Not Found", _GONE),
            ("busy", "500 Internal Server Error", _BUSY),
        ):
            if mood == word:
                start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
                return [body]
        if mood == "slow":
            time.sleep(0.5)
        return self._app(request, start)

    def failing(self, one_in: int = 20) -> None:
        """Every so many requests one is cut, answered with an error, or slow."""
        kinds = ("busy", "cut", "slow")
        self.mood = lambda request, number: kinds[number // one_in % 3] if number % one_in == 0 else ""

    @contextmanager
    def empty(self) -> Iterator[Any]:
        """An empty bucket, and its file system."""
        self.mood = lambda request, number: ""
        files = fsspec.filesystem("s3", use_listings_cache=False)
        if files.exists(NAME):
            files.rm(NAME, recursive=True)
        files.mkdir(NAME)
        yield files

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def use_bucket(patch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    """The environment of somebody who has a bucket at an endpoint, and an empty cache."""
    values = {"ACCESS_KEY_ID": "AKIATEST", "SECRET_ACCESS_KEY": "hush-hush", "DEFAULT_REGION": "us-east-1"}
    for name, value in (values | {"ENDPOINT_URL": url}).items():
        patch.setenv(f"AWS_{name}", value)
    patch.setenv(CACHE, str(cache))
    forget_clients()


def forget_clients() -> None:
    """Clients keep the endpoint that they were made for."""
    bucket._file_system.cache_clear()
    bucket_sets._listed.cache_clear()
    for kind in ("s3", "memory"):
        fsspec.get_filesystem_class(kind).clear_instance_cache()


def objects(files: Any, prefix: str) -> dict[str, bytes]:
    """Objects by their names below a prefix."""
    top = f"{NAME}/{prefix}/"
    return {path.removeprefix(top): files.cat_file(path) for path in files.find(top)}
