"""How the work of a stage is called, and where: as a Prefect task inside a flow, as a plain function outside of one.

    @step(name="plan", retries=2, retry_condition_fn=may_pass)
    def plan_part(job): ...

    plan_part.submit(job).result()     # a task run of the flow; in a notebook, a thread of this process

Outside of a flow nothing needs a server: the same function runs in a pool of threads, and is tried again where its
retry condition says that this can help. The engine says where the work is done: in threads of this process, or by the
workers of a cluster (tasks/cluster.py).
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for_threads
from contextvars import ContextVar
from functools import cache, update_wrapper
from types import MappingProxyType
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast

from cachetools import LRUCache, cached
from prefect import task
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import MissingContextError
from prefect.futures import wait as wait_for_tasks
from prefect.logging import get_run_logger
from prefect.states import Failed

from lib.core.errors import AugmentError
from lib.core.stopping import ask_to_stop

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])
THREADS = 2 * (os.cpu_count() or 1)  # while one decodes, another waits for the disk


def kept(count: int) -> Callable[[F], F]:
    """Keep a function's last `count` results, each made once: threads that need it meanwhile wait for it."""
    return cast("Callable[[F], F]", cached(LRUCache(count), condition=threading.Condition()))


class Result(Protocol):
    """What `submit` gives back."""

    def result(self) -> Any:
        """The function's result; raises what it raised."""
        ...


class Step(Generic[P, R]):
    """A function that a flow runs as a Prefect task; options: those of `prefect.task`.

    model: it runs a model, which a worker with a GPU is to do, also where it is called and not submitted.
    """

    def __init__(self, function: Callable[P, R], model: bool = False, **options: Any) -> None:
        update_wrapper(self, function)
        self.function, self.model, self.options = function, model, options
        # A worker finds the function by this name: its own code is what runs there.
        function.__qualname__ = function.__qualname__.removesuffix(".function") + ".function"
        self.task: Any = task(persist_result=False, **options)(function)

    @property
    def name(self) -> str:
        """Name of the stage."""
        return str(self.task.name)

    def with_options(self, **options: Any) -> Step[P, R]:
        """The same function with other options beside its own."""
        return Step(self.function, **({"model": self.model} | self.options | options))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it now."""
        result: R = engine().call(self, *args, **kwargs)
        return result

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> Result:
        """Run it beside others."""
        return engine().submit(self, args, kwargs)

    def tried(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """The plain function, again where its condition says so, with the same pauses as Prefect makes."""
        retries, delay = self.options.get("retries", 0), self.options.get("retry_delay_seconds", 0)
        pauses = delay(retries) if callable(delay) else [delay] * retries
        condition = self.options.get("retry_condition_fn")
        for pause in (*pauses, None):
            try:
                made = self.function(*args, **kwargs)
                return made.data if isinstance(made, State) else made
            except Exception as error:
                if pause is None or not (condition is None or condition(self.task, None, Failed(data=error))):
                    raise
                time.sleep(pause)
        raise AssertionError("every try ends above")


def step(**options: Any) -> Callable[[Callable[P, R]], Step[P, R]]:
    """Make a function a Step."""
    return lambda function: Step(function, **options)


class WorkerDied(AugmentError):
    """Every worker that got this work ended in the middle of it."""


class Engine:
    """Threads of this process."""

    parts = 1  # that even little work is split into; on a cluster two a worker
    cost = 0.005  # seconds that a task takes beside its work, as measured (docs/figures.md)
    room: float = THREADS  # pieces of work that it takes at once; of what waits, its caller knows what comes first

    def call(self, one: Step[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A step now."""
        return one.task(*args, **kwargs) if in_flow() else one.tried(*args, **kwargs)

    def submit(
        self,
        one: Step[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any] = MappingProxyType({}),
        model: bool = False,
        here: bool = False,
        priority: int = 0,
    ) -> Result:
        """A step beside others.

        model: it runs a model; here: it does nothing, so nobody else need be asked; priority: what waits with a higher
        one is begun first, where work waits in the engine.
        """
        made: Result = one.task.submit(*args, **kwargs) if in_flow() else _pool().submit(one.tried, *args, **kwargs)
        return made

    def wait(self, futures: Sequence[Any]) -> None:
        """Until all of them have ended, well or not. A signal ends those that run at their next picture, and the
        others."""
        try:
            (wait_for_threads if all(isinstance(one, Future) for one in futures) else wait_for_tasks)(list(futures))
        except BaseException:
            self.stop(futures)
            raise

    def stop(self, futures: Sequence[Any]) -> None:
        """End those that run at their next picture, and let those that wait never begin."""
        ask_to_stop()
        threads: list[Future[Any]] = [bare(one) for one in futures]
        wait_for_threads([one for one in threads if not one.cancel()])

    def when_done(self, future: Any, call: Callable[[], None]) -> None:
        """Call it, in some thread, once the work has ended, well or not."""
        bare(future).add_done_callback(lambda _: call())

    def share(self) -> None:
        """What this process wrote until now can be read by all who work for the run."""

    def everywhere(self, function: Callable[[], R]) -> dict[str, R]:
        """What a function returns in each process that works for this run, by the process's name."""
        return {"": function()}


def bare(future: Any) -> Any:
    """The future of the thread or of the cluster, behind Prefect's."""
    while hasattr(future, "wrapped_future"):
        future = future.wrapped_future
    return future


_ENGINE: ContextVar[Engine] = ContextVar("engine", default=Engine())  # noqa: B039  # it holds nothing


def engine() -> Engine:
    """Where the work of this run is done."""
    return _ENGINE.get()


def wait_for(futures: Sequence[Any]) -> None:
    """As Engine.wait."""
    engine().wait(futures)


@contextlib.contextmanager
def working_on(one: Engine) -> Iterator[None]:
    """In the block, work is done there."""
    token = _ENGINE.set(one)
    try:
        yield
    finally:
        _ENGINE.reset(token)


def in_flow() -> bool:
    """Is this the work of a Prefect flow?"""
    return FlowRunContext.get() is not None or TaskRunContext.get() is not None


def log() -> logging.Logger | logging.LoggerAdapter[logging.Logger]:
    """The run's log, which the UI shows; outside of a flow this program's."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("augment")


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="stage")
