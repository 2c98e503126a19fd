"""Where models run: device, precision, memory, threads, batches of one shape."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from cachetools import cached

from lib.core.errors import PictureError

if TYPE_CHECKING:
    import torch


T = TypeVar("T")
R = TypeVar("R")


def device() -> torch.device:
    """The GPU that this process was given, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def weights_dtype(name: str = "auto") -> torch.dtype:
    """The type that the large networks compute in: by name, or half precision on a GPU and float32 on a CPU."""
    import torch

    if name == "auto":
        name = "float16" if device().type == "cuda" else "float32"
    dtype = getattr(torch, name)
    assert isinstance(dtype, torch.dtype), name
    return dtype


# What a RuntimeError says of it: torch's on a CPU, and those of CUDA and its libraries, which are no OutOfMemoryError.
_FULL = (
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def out_of_memory(error: BaseException) -> bool:
    """Was it too little memory?"""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _FULL)


@contextlib.contextmanager
def model_faults() -> Iterator[None]:
    """Around a model's work: a RuntimeError, of the device or of a kernel, becomes PictureError `model_failed`.

    So it costs the pictures that it met, which the next run tries again. Too little memory passes as it is.
    """
    try:
        yield
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        raise PictureError("model_failed", f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error


def free_memory() -> None:
    """Give the device back what models held that nothing refers to any more."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


_share: int | None = None


def share_cores(count: int) -> None:
    """Let this process use so many CPU cores: others work beside it."""
    global _share
    _share = count


def available_cores() -> int:
    """CPU cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _share or cores)


def side_by_side(run: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`run` over items on a CPU, one a core and thread, each with torch on that thread alone. Order kept."""
    return list(_single_threads().map(run, items))


@cached({}, lock=threading.Lock())
def _single_threads() -> ThreadPoolExecutor:
    """A thread for each core, in which torch uses no others."""
    import torch

    cores, before = available_cores(), torch.get_num_threads()

    def alone() -> None:
        torch.get_num_threads()  # a thread's first use of torch would undo what is set before it
        torch.set_num_threads(1)
        ready.wait()

    ready = threading.Barrier(cores)
    pool = ThreadPoolExecutor(cores, thread_name_prefix="paint", initializer=alone)
    for started in [pool.submit(int) for _ in range(cores)]:
        started.result()
    torch.set_num_threads(before)  # what new threads begin with was changed as well
    return pool


def run_padded(items: Sequence[T], size: int, run: Callable[[Sequence[T]], list[R]]) -> tuple[list[R], int]:
    """`run` over chunks of `size` items, the last one padded to 1, 2, 4, 8, … items by repeating its last item.

    Bits depend on the batch's shape, so there are few shapes; padded to `size`, one item would cost as much as all.
    Where memory is not enough, all is run again at half of what did not fit, down to 1. Returns the results in order
    and the size that fitted. Where not even one fits, the error is raised; `out_of_memory` recognises it.
    """
    import torch

    while True:
        padded = size
        try:
            results: list[R] = []
            for start in range(0, len(items), size):
                chunk = list(items[start : start + size])
                padded = min(size, 1 << (len(chunk) - 1).bit_length())
                results += run(chunk + chunk[-1:] * (padded - len(chunk)))[: len(chunk)]
            return results, size
        except Exception as error:
            if padded == 1 or not out_of_memory(error):
                raise
            size = padded // 2
        torch.cuda.empty_cache()  # outside of `except`, whose traceback would keep the tensors alive
