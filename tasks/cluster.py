"""The engine `dask`: work is done by the workers of a cluster, through Prefect's DaskTaskRunner inside a flow.

    with dask_engine(settings.engine, root, images, progress) as engine, working_on(engine): ...

A job is a small value, and what it makes lies in the workspace, so the workers hand nothing to each other. Of one in a
bucket each machine has a working copy; what a job reads is brought by its digest (Ref.file), what it makes is sent
before it is done. Each worker is one process with its device; it keeps its model from part to part. Outside of a flow
the same functions go to the same workers without Prefect.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import math
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import dask
import distributed
from distributed import Client, Nanny, Scheduler, Security, SpecCluster
from distributed.client import FutureCancelledError, FuturesCancelledError
from distributed.scheduler import KilledWorker, NoValidWorkerError
from prefect import Flow
from prefect.context import FlowRunContext
from prefect.settings import PREFECT_API_URL
from prefect_dask import DaskTaskRunner

from lib.core.compute import available_cores
from lib.core.errors import AugmentError
from lib.core.files import atomic_write
from lib.core.mirror import push, remove, settle
from lib.core.places import path_of, shown, url_of
from lib.records.engine_settings import EngineSettings
from lib.runs.engine_checks import cluster_class, code_digest
from tasks.engine import Engine, Step, WorkerDied, bare, log
from tasks.progress import Progress
from tasks.worker import Probe, Seat, busy, faults, process_name, stop_seat

R = TypeVar("R")

GPU = "GPU"  # the resource that a worker with a device has
# Dask has its workers' memory given back at once: a painter on a CPU, which takes and gives megabytes a layer, took
# twice as long.
_ENVIRON, _TRIM = "distributed.nanny.pre-spawn-environ", "MALLOC_TRIM_THRESHOLD_"
RETRIES = {"allowed_failures": 3}  # a part that so many workers and one died of has its turn alone, and no more
PROCESSES = 2  # on a CPU, where nobody says how many
_JOIN = 60.0  # seconds that a worker of a running cluster has to be there
_END = 8.0  # seconds that a stopped run waits for pictures that are being painted


@contextlib.contextmanager
def dask_engine(settings: EngineSettings, root: Path, images: Path, progress: Progress) -> Iterator[Engine]:
    """The engine, with workers that see the run's files and have its code. Raises AugmentError where they do not.

    root: the workspace; images: folder of the source pictures.
    """
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what a person needs to know becomes a sentence
    with contextlib.ExitStack() as stack:
        place: Any = settings.address or stack.enter_context(_started(settings))
        context = FlowRunContext.get()
        if context is not None:
            runner = DaskTaskRunner(address=place) if settings.address else DaskTaskRunner(cluster=place)
            runner = stack.enter_context(runner)
            client: Client = _connected(settings, lambda: runner.client)
            # The flow is sent along with each task, for its name: a flow by reference, whose module every worker has.
            named = Flow(_sent, name=context.flow.name if context.flow else None)
            context = context.model_copy(update={"task_runner": runner, "flow": named})
        else:
            client = stack.enter_context(_connected(settings, lambda: Client(place, set_as_default=False)))
            client.forward_logging("augment", level=logging.INFO)
        one = _Dask(client, context, settings, root)
        stack.callback(one.leave)
        one.settle(images, progress)
        yield one


def _sent() -> None:
    """Stands for the flow in a worker."""


def _connected(settings: EngineSettings, connect: Callable[[], R]) -> R:
    try:
        return connect()
    except (OSError, TimeoutError, ValueError) as error:
        raise AugmentError(
            f"engine.address {settings.address}: no Dask scheduler answers there ({error}): correct the address, or "
            "install the same version of dask on all machines"
        ) from None


@contextlib.contextmanager
def _started(settings: EngineSettings) -> Iterator[Any]:
    """A cluster of this run's own."""
    with dask.config.set({_ENVIRON: dask.config.get(_ENVIRON) | {_TRIM: None}}):
        yield from _cluster(settings)


def _cluster(settings: EngineSettings) -> Iterator[Any]:
    if settings.cluster is None:
        with this_machine(settings.workers, settings.threads) as cluster:
            yield cluster
        return
    try:
        cluster = cluster_class(settings.cluster)(**settings.arguments)
    except Exception as error:
        raise AugmentError(f"engine.cluster {settings.cluster} cannot be started with its arguments: {error}") from None
    with cluster:
        if settings.adapt is not None:
            cluster.adapt(minimum=settings.adapt.minimum, maximum=settings.adapt.maximum)
        yield cluster


def this_machine(workers: int | None = None, threads: int | None = None) -> SpecCluster:
    """Processes of this machine: one a visible GPU, which alone it sees; or `workers` (two) that share its cores.

    They end with this process, however it ends. Only who has this cluster's key, in memory, can use it.
    """
    devices = visible_gpus()
    count = workers or len(devices) or PROCESSES
    cores = max(1, available_cores() // count)
    security = Security.temporary()
    common = {
        "host": "127.0.0.1",
        "protocol": "tls://",
        "security": security,
        "nthreads": threads or cores,
        "memory_limit": 0,  # a model may take what there is
        "dashboard": False,
        "dashboard_address": "127.0.0.1:0",  # what else it tells, to this machine alone
        "silence_logs": logging.CRITICAL,
    }
    variables = {name: os.environ.get(name, str(cores)) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    specs = {}
    for number in range(count):
        options = common | {"env": dict(variables)}
        if devices:
            options["env"]["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
            options["resources"] = {GPU: 1}
        specs[number] = {"cls": Nanny, "options": options}
    scheduler = {name: common[name] for name in ("host", "protocol", "security", "dashboard", "dashboard_address")}
    return SpecCluster(
        scheduler={"cls": Scheduler, "options": scheduler | {"port": 0} | RETRIES},
        workers=specs,
        security=security,
        silence_logs=logging.CRITICAL,
    )


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES takes them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(number) for number in range(torch.cuda.device_count())]
    return names if named is None else [name.strip() for name in named.split(",") if name.strip()][: len(names)]


@dataclass(frozen=True)
class Sent:
    """Work that a worker does."""

    name: str  # the step's
    wrapped_future: Any  # a PrefectDaskFuture, or a distributed.Future

    def result(self) -> Any:
        """What came of it. Raises WorkerDied where every worker that had it ended, AugmentError for a lost cluster."""
        try:
            return self.wrapped_future.result()
        except KilledWorker as error:
            raise WorkerDied(f"{self.name}: {error.allowed_failures + 1} workers ended in the middle of it") from None
        except (FutureCancelledError, FuturesCancelledError, NoValidWorkerError) as error:
            raise AugmentError(f"the Dask cluster went away during {self.name} ({error}): run again") from None


class _Dask(Engine):
    """A cluster's workers."""

    cost = 0.085

    def __init__(
        self, client: Client, context: FlowRunContext | None, settings: EngineSettings, workspace: Path
    ) -> None:
        self.client, self.context, self.settings, self.workspace = client, context, settings, workspace
        self.seat: Seat | None = None
        self.room = math.inf  # its scheduler knows what comes first, and what waits makes a cluster grow
        self.counts: queue.SimpleQueue[list[Any] | None] = queue.SimpleQueue()
        self.pump: threading.Thread | None = None

    # The run's place in the workers

    def settle(self, images: Path, progress: Progress) -> None:
        """Give every worker its seat, those that come later too. Raises AugmentError where one cannot work."""
        self._await_worker()
        note, workspace = self.workspace / f".probe-{uuid.uuid4().hex}", shown(self.workspace)
        source, size = _some_picture(images)
        server = (PREFECT_API_URL.value() or "") if self.context is not None else ""
        probe = Probe(code_digest(), workspace, shown(note), uuid.uuid4().hex, source, size, server)
        own = self.settings.address is None and self.settings.cluster is None
        workers = len(self.client.scheduler_info(n_workers=-1)["workers"])
        coming = len(getattr(self.client.cluster, "worker_spec", ()))  # those of a queue start one after another
        self.parts = 2 * max(workers, coming, self.settings.adapt.maximum if self.settings.adapt else 1)
        cores = max(1, available_cores() // workers) if own else None
        seat = Seat(workspace, f"augment-{uuid.uuid4().hex}", probe, cores)
        atomic_write(note, probe.text.encode())
        settle(note)
        self._listen(seat.topic, progress)
        self.seat = seat
        try:
            self.client.register_plugin(seat)
            found = self.client.run(partial(faults, seat.name))
        except (ImportError, AttributeError) as error:
            raise AugmentError(
                f"the workers of {self._place()} do not have this program ({error}): install it on all machines, "
                "scheduler and workers"
            ) from None
        for fault in filter(None, found.values()):
            raise AugmentError(f"{self._place()}: {fault}")

    def _await_worker(self) -> None:
        """Until there is one: a queue of jobs may take hours, a running cluster has them or is asked to start some."""
        if self.settings.address is None:
            if not self.client.scheduler_info(n_workers=-1)["workers"]:
                log().info("waiting for a worker of %s", self._place())
            self.client.submit(process_name, pure=False).result()  # work makes a cluster grow that adapts
            return
        try:
            self.client.submit(int, pure=False).result(timeout=_JOIN)
        except TimeoutError:
            raise AugmentError(
                f"{self._place()} had no worker for {_JOIN:.0f} s: start some (dask worker {self.settings.address})"
            ) from None

    def _place(self) -> str:
        return f"engine.address {self.settings.address}" if self.settings.address else f"engine {self.settings.name}"

    def _listen(self, topic: str, progress: Progress) -> None:
        """Let counts that workers send move this run's bars; in a thread, as a bar asks Prefect's server."""
        self.client.subscribe_topic(topic, lambda event: self.counts.put(event[1]))

        def pump() -> None:
            while (event := self.counts.get()) is not None:
                what, stage, count = event
                (progress.start if what == "start" else progress.advance)(stage, count)

        context = contextvars.copy_context()
        self.pump = threading.Thread(target=context.run, args=(pump,), name="counts", daemon=True)
        self.pump.start()

    def leave(self) -> None:
        """Take the seats back."""
        if self.seat is None:
            return
        with contextlib.suppress(Exception):  # a cluster that went away has none
            self.client.unregister_worker_plugin(self.seat.name)
        with contextlib.suppress(Exception):
            self.client.unsubscribe_topic(self.seat.topic)
        with contextlib.suppress(OSError, AugmentError):  # the bucket may be what went away
            remove(path_of(self.seat.probe.note))
        self.counts.put(None)
        if self.pump is not None:
            self.pump.join()

    # Work

    def call(self, one: Step[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not one.model:
            return super().call(one, *args, **kwargs)
        self.share()
        sent = self.submit(one, args, kwargs, model=True)
        self.wait([sent])
        return sent.result()

    def submit(
        self,
        one: Step[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any] = MappingProxyType({}),
        model: bool = False,
        here: bool = False,
        priority: int = 0,
    ) -> Any:
        if here:
            return super().submit(one, args, kwargs)
        # A device is what should not wait.
        wanted: dict[str, Any] = {"priority": 1 if model else priority}
        if model and self._with_gpu():
            wanted["resources"] = {GPU: 1}
        with dask.annotate(**wanted):
            if self.context is None:
                return Sent(one.name, self.client.submit(one.tried, *args, pure=False, **kwargs))
            with self.context.model_copy():
                return Sent(one.name, one.task.submit(*args, **kwargs))

    def _with_gpu(self) -> bool:
        """Has a worker a GPU to offer?"""
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        return any(GPU in worker.get("resources", {}) for worker in workers)

    def wait(self, futures: Sequence[Any]) -> None:
        sent = [one for one in futures if isinstance(one, Sent)]
        super().wait([one for one in futures if not isinstance(one, Sent)])
        try:
            with self.client.as_current(), contextlib.suppress(FutureCancelledError, FuturesCancelledError):
                distributed.wait([bare(one) for one in sent])  # the errors are told by `result`
        except BaseException:
            self.stop(sent)
            raise

    def stop(self, futures: Sequence[Any]) -> None:
        super().stop([one for one in futures if not isinstance(one, Sent)])
        self._stop([bare(one) for one in futures if isinstance(one, Sent)])

    def _stop(self, futures: Sequence[distributed.Future]) -> None:
        """What runs ends at its next picture, what waits never begins; the workspace stays locked until then."""
        if self.seat is None:
            return
        alone, end = self.settings.address is None, time.monotonic() + _END
        with contextlib.suppress(Exception):  # of a cluster that does not answer any more
            self.client.run(partial(stop_seat, self.seat.name, alone), on_error="ignore")
            self.client.cancel(list(futures), force=True)
            running = partial(busy, {str(future.key) for future in futures})
            while any(self.client.run(running, on_error="ignore").values()) and time.monotonic() < end:
                time.sleep(0.1)

    def share(self) -> None:
        push(self.workspace)

    def everywhere(self, function: Callable[[], R]) -> dict[str, R]:
        found: dict[str, R] = self.client.run(function, on_error="ignore")
        return found


def _some_picture(images: Path) -> tuple[str, int]:
    """One source picture, by which a worker's view of the data set is known, and its bytes; of a bucket the folder."""
    if (url := url_of(images)) is not None:
        return url, 0
    with contextlib.suppress(OSError):
        for folder, _, names in os.walk(images):
            for name in sorted(names)[:1]:
                path = Path(folder) / name
                return str(path.absolute()), path.stat().st_size
    return "", 0
