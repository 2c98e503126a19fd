"""Places that settings name: folders and files of this machine, or URLs of a bucket, which have a working copy here.

    place_of("s3://bucket/run")             # Path("~/.cache/augment/remote/s3/bucket/run")
    url_of(place / "status.json")           # "s3://bucket/run/status.json"; None for a path of this machine
    as_urls(text)                           # such paths in a sentence, as the URLs that they stand for

The rest of the program sees paths alone. A path says by itself which URL it stands for, in every process.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

SCHEMES = {  # scheme of a URL → package that opens it, and the extra of this project that installs it
    "s3": ("s3fs", "s3"),
    "gs": ("gcsfs", "gs"),
    "az": ("adlfs", "az"),
    "hf": ("huggingface_hub", ""),
    "memory": ("fsspec", ""),  # of this process alone, for tests
}
CACHE = "AUGMENT_CACHE"  # environment variable: the folder of the working copies

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(/+)(.*)", re.DOTALL)  # one slash: a Path keeps no more
_SECRETS = (  # in a sentence: user:password@, user@ where no URL has it otherwise, and ?signature
    re.compile(r"(\w:/+)[^/\s'\"]*:[^/\s'\"]*(@)"),
    re.compile(r"(\b(?:s3|gs):/+)[^/\s'\"]*(@)"),
    re.compile(rf"(\b(?:{'|'.join(SCHEMES)}):/[^\s'\"?]*\?)[^\s'\"]*()"),
)


def is_url(text: str) -> bool:
    """Does a text begin as a URL, of whatever scheme?"""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", text) is not None


def place_of(value: object) -> object:
    """The path for a path or a URL; other values as they are.

    Raises ValueError for a scheme that is not known, for a URL with a login or a query in it, and for one whose parts
    no path can have.
    """
    found = _URL.fullmatch(str(value)) if isinstance(value, str | Path) else None
    if found is None:
        return value
    scheme, slashes, rest = found.groups()
    if scheme == "file":
        if not rest or (isinstance(value, str) and len(slashes) not in (1, 3)):
            raise ValueError("expected file:///folder, a path from the root of this machine")
        return Path("/" + rest)
    if scheme not in SCHEMES:
        if isinstance(value, Path) or len(slashes) < 2:
            return value  # a folder with a colon in its name
        raise ValueError(
            f"expected a path or a URL that begins with {', '.join(f'{s}://' for s in SCHEMES)} or file://"
        )
    bucket, *parts = rest.rstrip("/").split("/")
    if "@" in bucket and (scheme in ("s3", "gs") or ":" in bucket):
        raise ValueError("expected a URL without a login: credentials come from the environment alone")
    if "?" in rest or "#" in rest:
        raise ValueError("expected a URL without ? and #: credentials come from the environment alone")
    if not bucket or any(part in ("", ".", "..") for part in (bucket, *parts)):
        raise ValueError(f"expected {scheme}://BUCKET/FOLDER, each part with a name")
    return cache_root().joinpath(scheme, bucket, *parts)


def shown(path: Path) -> str:
    """A path as its URL, where it stands for one."""
    return url_of(path) or str(path)


def path_of(text: str) -> Path:
    """The path that `shown` shows: of a URL the working copy on this machine. Raises ValueError as `place_of`."""
    return Path(str(place_of(text)))


def cache_root() -> Path:
    """The folder below which working copies lie."""
    return Path(os.environ.get(CACHE) or "~/.cache/augment/remote").expanduser().absolute()


def url_of(path: Path) -> str | None:
    """The URL that a path below the working copies stands for; None for another path, and for no path of a bucket."""
    try:
        scheme, bucket, *parts = Path(os.path.normpath(path)).relative_to(cache_root()).parts
    except ValueError:
        return None
    return "/".join((f"{scheme}:/", bucket, *parts)) if scheme in SCHEMES else None


def as_urls(text: str) -> str:
    """A sentence with URLs in place of such paths, and without a login that a URL in it may have."""
    if ":/" in text:
        for secret in _SECRETS:
            text = secret.sub(r"\1…\2", text)
    root = f"{cache_root()}/"
    if root not in text:
        return text
    return re.sub(f"{re.escape(root)}({'|'.join(SCHEMES)})/", r"\1://", text)
