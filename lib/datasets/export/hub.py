"""An export of format `hf` published as a data set of the Hugging Face hub.

check_push("me/steel", "hf")                  # before hours of copying
address = push(Path("export/hf"), "me/steel")
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lib.core.errors import AugmentError

FORMAT = "hf"
_NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_SPLITS = ["train/*", "validation/*", "test/*"]  # of an earlier push: pictures that are gone are removed there too


def check_push(name: str, format: str) -> None:
    """Raises AugmentError for a name that is not USER/NAME, another format, and where no token for the hub is known."""
    import huggingface_hub

    if not _NAME.fullmatch(name):
        raise AugmentError(f"--push {name!r:.120}: expected USER/NAME, the data set on the hub")
    if format != FORMAT:
        raise AugmentError(f"--push goes with --to {FORMAT}, the form that the hub reads, and not with --to {format}")
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise AugmentError("--push needs the hub, and HF_HUB_OFFLINE is set: unset it")
    if not huggingface_hub.get_token():
        raise AugmentError(
            "--push needs a token of the hub that may write: log in with `hf auth login`, or set HF_TOKEN"
        )


def push(folder: Path, name: str, api: Any = None) -> str:
    """Upload an exported folder; returns its address. A data set that is new there is private.

    api: a huggingface_hub.HfApi; None: one with the token of this machine. Raises AugmentError where the hub refuses or
    cannot be reached; the folder stays as it is.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = api or HfApi()
    try:
        address = api.create_repo(name, repo_type="dataset", private=True, exist_ok=True)
        api.upload_folder(
            repo_id=name,
            repo_type="dataset",
            folder_path=folder,
            delete_patterns=_SPLITS,
            commit_message="Pictures and labels of augment",
        )
    except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise AugmentError(
            f"the hub did not take {name} ({first:.200}); the export lies in {folder}: push again"
        ) from None
    return str(address)
