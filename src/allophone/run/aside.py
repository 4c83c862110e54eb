"""Two things at once: what a run does not wait for goes on in a second process, where a core is free for it.

Threads would not do: PyTorch's random numbers belong to the process. Results are the same as in turn, since whatever is
drawn is drawn from seeds that are arguments. The process knows nothing of this one beyond what it is given.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Protocol, TypeVar

import torch
from loky import ProcessPoolExecutor, cpu_count

from allophone.run.progress import Report

T = TypeVar("T")


class Begin(Protocol):
    """Begins a call and returns what waits for its result."""

    def __call__(self, title: str, call: Callable[..., T], report: Report) -> Callable[[], T]:
        """Begin ``call(report=report)``.

        Args:
            title: What is told when it has been done elsewhere, where nobody sees its own report.
            call: Can be pickled, such as a ``partial`` of a function of a module; so can its result.
            report: Told how far it is.

        Returns:
            Called once, gives the result or raises what the call raised.
        """
        ...


@contextmanager
def aside(worthwhile: bool, module: str = __name__) -> Iterator[Begin]:
    """Give a second process for calls that this one does not wait for; leaving ends it, whatever it is at.

    Calls are done one after the other, each in turn when its result is asked for if there is no second core or this
    process uses several threads itself. What a killed process leaves undone is done here.

    Args:
        worthwhile: Whether the work is long enough for a process, which takes some seconds to start.
        module: Imported there at once, so that the first call does not wait for it.
    """
    if not worthwhile or torch.get_num_threads() > 1 or cpu_count() < 2 or "WORLD_SIZE" in os.environ:
        yield later
        return
    # A task leaves models and recordings behind; loky would take that for a leak and start a process anew.
    env = {"LOKY_MAX_MEMORY_LEAK_SIZE": "1e18"}
    executor = ProcessPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,), env=env)
    try:
        executor.submit(import_module, module)
        yield partial(_elsewhere, executor)
    finally:
        executor.shutdown(kill_workers=True)


def later(title: str, call: Callable[..., T], report: Report) -> Callable[[], T]:
    """A :class:`Begin` without a second process: the call is done when its result is asked for."""
    return lambda: call(report=report)


def _elsewhere(executor: ProcessPoolExecutor, title: str, call: Callable[..., T], report: Report) -> Callable[[], T]:
    future = executor.submit(call)

    def result() -> T:
        try:
            found: T = future.result()
        except BrokenProcessPool:  # killed from outside, as where memory ran out: here it needs less
            return call(report=report)
        report(title)(1, 1, {})
        return found

    return result
