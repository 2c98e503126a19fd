"""Objects below a URL, by fsspec: what a bucket really offers, and its faults as sentences.

    bucket = Bucket("s3://bucket/run")
    bucket.write("a.json", data)                # a put: readers find all of it, or the former object
    bucket.write("b.json", data, create=True)   # FileExistsError where the object is there
    for name, size, mark in bucket.list("manifests"): ...

Credentials and endpoints come from the environment, as each package of a store reads them (AWS_ACCESS_KEY_ID,
AWS_ENDPOINT_URL, AWS_MAX_ATTEMPTS ...); what may pass is tried again by those packages.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from lib.core.errors import AugmentError
from lib.core.files import atomic_path
from lib.core.places import SCHEMES

_CONNECT = 10  # seconds for a connection
_AT_ONCE = {"connect_timeout": 3, "read_timeout": 10, "retries": {"max_attempts": 2}}  # where somebody waits


class Found(NamedTuple):
    """An object: its name below the URL, its bytes, and a number that changes with its content."""

    name: str
    size: int
    mark: int  # as a time in nanoseconds: whole seconds of the last change, the rest made of the store's own tag


class Bucket:
    """The objects below a URL, by their names relative to it.

    hurry: fewer and shorter tries, for a look before a run. All methods raise AugmentError for a fault that a person is
    to mend, and FileNotFoundError for an object that is not there.
    """

    def __init__(self, url: str, hurry: bool = False) -> None:
        self.url = url
        scheme, _, self.base = url.partition("://")
        self.fs, self._on_disk = _file_system(scheme, hurry), scheme == "file"

    def path(self, name: str) -> str:
        """As fsspec names the object."""
        return f"{self.base}/{name}" if name else self.base

    def info(self, name: str = "") -> Found | None:
        """What is known of an object; None for a folder. Raises FileNotFoundError for neither."""
        with explained(self.url):
            found = self.fs.info(self.path(name))
        return _found(name, found) if found["type"] == "file" else None

    def list(self, folder: str = "") -> Iterator[Found]:
        """All objects below a folder, at any depth; none where it has none."""
        top = self.path(folder)
        with explained(self.url):
            try:
                found = self.fs.find(top, detail=True)
            except FileNotFoundError as error:
                if _no_bucket(error):
                    raise
                return
        for path, about in found.items():
            name = path.lstrip("/").removeprefix(self.base.lstrip("/")).lstrip("/")
            if name and about["type"] == "file":
                yield _found(name, about)

    def top(self) -> Iterator[tuple[str, Found | None]]:
        """(name, what is known of it, None of a folder) of what lies directly below the URL."""
        with explained(self.url):
            try:
                found = self.fs.ls(self.base, detail=True)
            except FileNotFoundError as error:
                if _no_bucket(error):
                    raise
                return
        for about in found:
            name = about["name"].rstrip("/").rpartition("/")[2]
            if name:
                yield name, _found(name, about) if about["type"] == "file" else None

    def read(self, name: str) -> bytes:
        """An object's bytes."""
        with explained(self.url):
            return bytes(self.fs.cat_file(self.path(name)))

    def fetch(self, name: str, to: Path) -> None:
        """An object into a file, by rename."""
        with atomic_path(to) as temporary:
            self.fetch_into(name, temporary)

    def fetch_into(self, name: str, file: Path) -> None:
        """An object into a file that is there already."""
        with explained(self.url):
            self.fs.get_file(self.path(name), str(file))

    def write(self, name: str, data: bytes, create: bool = False) -> None:
        """Put an object. create: raises FileExistsError where one is there, by the store's own check."""
        with explained(self.url):
            if not self._on_disk:
                self.fs.pipe_file(self.path(name), data, mode="create" if create else "overwrite")
                return
            path = Path(self.path(name))  # fsspec looks, then writes: two could do so at once
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb" if create else "wb") as file:
                file.write(data)

    def put(self, name: str, file: Path) -> None:
        """Put a file."""
        with explained(self.url):
            self.fs.put_file(str(file), self.path(name))

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        with explained(self.url), contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path(name))


@functools.cache
def _file_system(scheme: str, hurry: bool) -> Any:
    import fsspec

    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme == "s3":
        options["config_kwargs"] = _AT_ONCE if hurry else {"connect_timeout": _CONNECT}
    package, extra = SCHEMES.get(scheme, ("fsspec", ""))
    try:
        system = fsspec.filesystem(scheme, **options)
    except ImportError:
        how = f"pip install 'augment[{extra}]'" if extra else f"pip install {package}"
        raise AugmentError(f"{scheme}:// needs the package {package}, which is not installed: {how}") from None
    if hurry and hasattr(system, "retries"):
        system.retries = 2
    return system


_TIMES = ("LastModified", "last_modified", "updated", "mtime", "created")
_TAGS = ("ETag", "etag", "generation", "md5Hash", "blob_id", "mtime", "created")


def _found(name: str, about: dict[str, Any]) -> Found:
    when = next((about[key] for key in _TIMES if about.get(key)), 0)
    with contextlib.suppress(ValueError):
        when = datetime.fromisoformat(when) if isinstance(when, str) else when
    seconds = when.timestamp() if isinstance(when, datetime) else when if isinstance(when, int | float) else 0
    tag = "".join(str(about.get(key, "")) for key in _TAGS)
    own = int(hashlib.sha256(tag.encode()).hexdigest(), 16) % 10**9
    return Found(name, int(about["size"] or 0), int(seconds) * 10**9 + own)


# --- faults -------------------------------------------------------------------------------------------------------

_DENIED = ("AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken")
_DENIED_TYPES = ("PermissionError", "NoCredentialsError", "PartialCredentialsError", "ClientAuthenticationError")
_AWAY_TYPES = ("BotoCoreError", "ClientError", "HTTPError", "OSError")


@contextlib.contextmanager
def explained(url: str) -> Iterator[None]:
    """What the packages of stores raise, as an AugmentError; FileNotFoundError and FileExistsError stay themselves.

    Their own texts are left out: they may quote what only the environment is to hold.
    """
    try:
        yield
    except (AugmentError, FileExistsError):
        raise
    except Exception as error:
        if isinstance(error, FileNotFoundError) and not _no_bucket(error):
            raise
        raise _sentence(url, error) from None


def _no_bucket(error: Exception) -> bool:
    text = str(error).lower()
    return "bucket" in text and ("not exist" in text or "nosuchbucket" in text)


def _sentence(url: str, error: Exception) -> AugmentError:
    names = [one.__name__ for one in type(error).__mro__]
    bucket = "/".join(url.split("/")[:3])
    if _no_bucket(error):
        return AugmentError(f"{url}: there is no bucket {bucket}: make it, or correct the URL; what was done is kept")
    if any(name in _DENIED_TYPES for name in names) or any(code in str(error) for code in _DENIED):
        return AugmentError(
            f"{url}: the store refuses it ({type(error).__name__}): set credentials in the environment that may read "
            f"{bucket} and, for a workspace, write there"
        )
    if any(name in _AWAY_TYPES for name in names):
        return AugmentError(
            f"{url} cannot be reached ({type(error).__name__}): check the network and the endpoint in the environment; "
            "run again, it goes on where it was"
        )
    return AugmentError(f"{url} cannot be used ({type(error).__name__}): check the URL, and run again")
