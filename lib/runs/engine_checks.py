"""The choice of an engine, checked before a run starts: its package, its address, its class. Dask is not imported."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lib.core.errors import AugmentError, nearest
from lib.core.files import digest
from lib.core.keys import key_of
from lib.records.engine_settings import EngineSettings

EXTRA = "dask"  # of pyproject.toml
_ANSWER = 5.0  # seconds that a scheduler has to take a connection
_CHECKOUT = Path(__file__).resolve().parents[2]


def check_engine(settings: EngineSettings) -> None:
    """Raises AugmentError where the engine cannot be: the package or the class is missing, nobody is at the address."""
    if settings.name == "threads":
        return
    missing = [name for name in ("distributed", "prefect_dask") if importlib.util.find_spec(name) is None]
    if missing:
        raise AugmentError(
            f"engine dask needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: "
            f"pip install 'augment[{EXTRA}]' (in the checkout: make install), or set engine to threads"
        )
    if settings.address is not None:
        _check_address(settings.address)
    if settings.cluster is not None:
        cluster_class(settings.cluster)


def _check_address(address: str) -> None:
    place = urlsplit(address)
    try:
        with socket.create_connection((str(place.hostname), int(place.port or 0)), timeout=_ANSWER):
            pass
    except OSError as error:
        raise AugmentError(
            f"engine.address {address}: no Dask scheduler answers there ({error}): start one (dask scheduler), correct "
            "the address, or leave it out for processes of this machine"
        ) from None


def cluster_class(name: str) -> Any:
    """The class of a cluster by its dotted name. Raises AugmentError where it is missing, or is no Dask cluster.

    Whatever the name says is imported, so it is looked at before it is called: a run's parameters call nothing else.
    """
    module_name, _, class_name = name.rpartition(".")
    example = "dask_jobqueue.SLURMCluster, say"
    if not module_name or not all(part.isidentifier() for part in name.split(".")):
        raise AugmentError(f"engine.cluster {name!r}: expected a class with its module: {example}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        package = module_name.partition(".")[0].replace("_", "-")
        raise AugmentError(
            f"engine.cluster {name!r}: its module cannot be imported ({error}): pip install {package}, or correct the "
            f"name: {example}"
        ) from None
    found = getattr(module, class_name, None)
    from_dask = importlib.import_module("distributed.deploy.cluster").Cluster
    if not (isinstance(found, type) and issubclass(found, from_dask)):
        known = [one for one, value in vars(module).items() if isinstance(value, type) and issubclass(value, from_dask)]
        listed = f"{module_name} has {', '.join(sorted(known))}" if known else f"{module_name} has none"
        raise AugmentError(
            f"engine.cluster {name!r} is not a class of Dask clusters{nearest(class_name, known)}: {listed}"
        )
    return found


@functools.cache
def code_digest() -> str:
    """SHA-256 over this program's own files, by which workers of another version are told apart."""
    files = sorted(path for room in ("lib", "tasks") for path in (_CHECKOUT / room).rglob("*.py"))
    return key_of({path.relative_to(_CHECKOUT).as_posix(): digest(path.read_bytes()) for path in files})
