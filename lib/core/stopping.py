"""The end of a run between two pictures: a signal asks for it, and long work looks whether one came.

with stoppable(): ...               # in here SIGINT and SIGTERM are noticed by all threads
check_stop()                        # raises Stopped once one came
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from lib.core.errors import AugmentError

STOPPED = "it was stopped; run again, it goes on where it was"

_asked = threading.Event()


class Stopped(AugmentError):
    """A signal, or another thread's end, asked for the end of the run."""


def ask_to_stop() -> None:
    """Let `check_stop` raise from now on, in every thread."""
    _asked.set()


def check_stop() -> None:
    """Raises Stopped where the run is to end. It costs nothing: call it before each step of long work."""
    if _asked.is_set():
        raise Stopped(STOPPED)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """SIGINT and SIGTERM ask to stop, and then do what they did before: they raise in the main thread.

    After such an end `check_stop` goes on to raise, for threads that still work, until the next `stoppable`.
    """
    _asked.clear()
    former: dict[int, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        ask_to_stop()
        if callable(former[number]):
            former[number](number, frame)
            return
        signal.signal(number, former[number])
        os.kill(os.getpid(), number)

    if threading.current_thread() is threading.main_thread():
        former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        former = {number: handler for number, handler in former.items() if handler not in (signal.SIG_IGN, None)}
        for number in former:
            signal.signal(number, handle)
    try:
        yield
        _asked.clear()
    except Exception:
        _asked.clear()
        raise
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
