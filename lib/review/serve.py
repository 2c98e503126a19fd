"""Serve the page until its end: in the command's own thread, or in another while a run waits.

with served(session, root) as link: ...                  # in a thread of its own
serve_until_stopped(session, root, port, show=print)      # Ctrl-C ends it
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn

from lib.core.errors import AugmentError
from lib.review.address import HOST, Address, address_of, note_address
from lib.review.app import make_app
from lib.review.session import Session


def listen(address: Address, wanted: bool) -> tuple[socket.socket, Address]:
    """A socket on loopback, and the address that it has. wanted: this port and no other.

    Raises AugmentError where that is not to be had.
    """
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        one.bind((HOST, address.port))
        one.listen()  # from now on a browser waits, and is not refused
    except (OSError, OverflowError) as error:
        one.close()
        if wanted or address.port == 0:
            raise AugmentError(
                f"port {address.port} of {HOST} is not available ({error}): end what listens there, or give another "
                "as --port"
            ) from None
        return listen(Address(0, address.token), wanted=False)
    return one, Address(one.getsockname()[1], address.token)


def _server(session: Session, token: str) -> uvicorn.Server:
    config = uvicorn.Config(
        make_app(session, token),
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=2,
        ws="none",
    )
    return uvicorn.Server(config)


def serve_until_stopped(session: Session, root: Path, port: int, show: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM. port: 0: as before, or any; show: receives the link once it opens."""
    listening, address = listen(address_of(root, port), wanted=bool(port))
    note_address(root, address)
    show(address.link)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again once it has ended
        _server(session, address.token).run(sockets=[listening])


@contextlib.contextmanager
def served(session: Session, root: Path) -> Iterator[str]:
    """Serve in another thread until the end of the block; gives the link."""
    listening, address = listen(address_of(root), wanted=False)
    note_address(root, address)
    server = _server(session, address.token)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True, name="review")
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield address.link
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()
