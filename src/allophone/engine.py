"""Where a corpus job runs: in this process, or on the machines of a Ray cluster.

A job is a function of one shard of a corpus. Shards are cut by a fixed size in the order of the corpus, and results
come back in the order of the shards; so a sum that is merged as they come has the same bits on any number of machines.
Workers must see the corpus at the same path, and have the same versions; both are checked.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch

from allophone.errors import AllophoneError, ClusterError, ConfigError

EngineName = Literal["local", "ray"]
RETRIES = 10
"""Times that a shard is begun again because its machine or its worker went away."""
MEMORY_RETRIES = 3
"""Times that a shard is begun again because its machine ran out of memory."""
CONNECT_SECONDS = 5.0
SAME_VERSIONS = ("allophone", "torch", "numpy", "soxr", "soundfile")
"""Packages that must agree between this machine and the workers, because results depend on them."""

_MOST_HELD = 2
_held: dict[str, Any] = {}
"""Shared values in the memory of this worker, by the number that the cluster gave them."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Value = TypeVar("Value")
Value_co = TypeVar("Value_co", covariant=True)
Handle = TypeVar("Handle")


@dataclass(frozen=True, slots=True)
class Shard(Generic[Item]):
    """Neighbors in a corpus that one worker deals with at once."""

    number: int
    """0 for the first of the corpus."""
    items: tuple[Item, ...]


def cut(items: Sequence[Item], size: int) -> tuple[Shard[Item], ...]:
    """Cut a corpus into shards of ``size``, the last one possibly smaller.

    Example:
        >>> [shard.items for shard in cut("abcde", 2)]
        [('a', 'b'), ('c', 'd'), ('e',)]
    """
    return tuple(Shard(at // size, tuple(items[at : at + size])) for at in range(0, len(items), size))


class Shared(Protocol[Value_co]):
    """Something large that every worker has once, such as an encoder."""

    def get(self) -> Value_co:
        """The value itself, on whichever machine this is called."""
        ...


class Engine(Protocol):
    """Runs a function over many items."""

    @property
    def elsewhere(self) -> bool:
        """Whether the function runs on machines that may see other files than this one."""
        ...

    def share(self, value: Value) -> Shared[Value]:
        """Make a large value part of functions without sending it with each of them."""
        ...

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """``function(item)`` of every item, in order; items are taken, and results held, a bounded number ahead."""
        ...


def confirm_unreadable(engine: Engine, failed: Collection[str], again: Callable[[], Collection[str]]) -> None:
    """Make sure that what a worker could not read cannot be read here either.

    Args:
        engine: Where the work was done; one in this process is trusted.
        failed: Names of the recordings that a worker could not read.
        again: Tries the same here and returns the names that fail.

    Raises:
        ClusterError: A recording can be read here but not there.
    """
    if not engine.elsewhere or not failed:
        return
    lost = sorted(set(failed) - set(again()))
    if lost:
        raise ClusterError(
            f"A worker of the cluster cannot read {len(lost)} recordings that this machine reads, the first is "
            f"{lost[0]!r}. Make the corpus visible at the same path on every machine (a network drive), and install "
            "the same codecs there."
        )


@dataclass(frozen=True, slots=True)
class _Here(Generic[Value]):
    value: Value

    def get(self) -> Value:
        return self.value


@dataclass(frozen=True, slots=True)
class LocalEngine:
    """This process; with more than one thread for work that leaves the interpreter, such as decoding."""

    threads: int = 1
    """Items dealt with at a time."""

    @property
    def elsewhere(self) -> bool:
        """False."""
        return False

    def share(self, value: Value) -> Shared[Value]:
        """The value itself."""
        return _Here(value)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """See :class:`Engine`."""
        if self.threads == 1:
            yield from map(function, items)
            return
        with ThreadPoolExecutor(self.threads) as pool:
            yield from _in_order(
                items,
                2 * self.threads,
                start=lambda item: pool.submit(function, item),
                finish=lambda future: future.result(),
                stop=lambda future: future.cancel(),
            )


def decoding_engine(engine: Engine | None, workers: int | None) -> Engine:
    """The engine given, or this process with ``workers`` threads, one a core when None."""
    return engine or LocalEngine(workers or os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class _There(Generic[Value]):
    reference: Any

    def get(self) -> Value:
        """Fetched once by each worker process."""
        key = self.reference.hex()
        if key not in _held:
            if len(_held) >= _MOST_HELD:
                _held.clear()
            _held[key] = _import_ray().get(self.reference)
        value: Value = _held[key]
        return value


class RayEngine:
    """The machines of a Ray cluster, one shard and one thread a core.

    A shard whose machine goes away is begun again on another one. Use it in a ``with``.

    Args:
        address: ``host:port`` of the cluster's head, or ``auto`` on a machine of the cluster. None: what the variable
            RAY_ADDRESS says, else Ray is started on this machine.
        in_flight: Shards sent out and not yet taken back; twice the cores of the cluster when None.

    Raises:
        ConfigError: Ray is not installed, or ``address`` is not one.
        ClusterError: Nothing answers there, or it is not a Ray cluster that this version can use.
    """

    def __init__(self, address: str | None = None, *, in_flight: int | None = None) -> None:
        self._ray = _import_ray()
        self._in_flight = in_flight
        self._ours = not self._ray.is_initialized()
        if self._ours:
            _connect(self._ray, address)
        settings = self._ray.remote(max_retries=RETRIES, num_cpus=1, scheduling_strategy="SPREAD")
        self._work = settings(_work)

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the cluster, unless somebody else had joined it before."""
        if self._ours:
            self._ray.shutdown()

    @property
    def elsewhere(self) -> bool:
        """True."""
        return True

    def share(self, value: Value) -> Shared[Value]:
        """Put a value where each machine fetches it once."""
        return _There(self._ray.put(value))

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """See :class:`Engine`.

        Raises:
            ClusterError: Workers end, or run out of memory, however often they are started again.
        """
        shared_function, versions = self._ray.put(function), _versions()
        cores = int(self._ray.cluster_resources().get("CPU", 1))
        yield from _in_order(
            items,
            self._in_flight or max(4, 2 * cores),
            start=lambda item: self._work.remote(versions, shared_function, item),
            finish=self._finish,
            stop=self._ray.cancel,
        )

    def _finish(self, reference: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayTaskError as error:
            if not isinstance(error.cause, BaseException):
                raise
            raise error.cause from (None if isinstance(error.cause, AllophoneError) else error)
        except errors.OutOfMemoryError as error:
            raise ClusterError(
                f"A machine of the cluster ran out of memory {MEMORY_RETRIES + 1} times on one shard. Let fewer shards "
                f"run there at a time (`ray start --num-cpus N`), or give it more memory. Ray says: {error}"
            ) from error
        except errors.RayError as error:
            raise ClusterError(
                f"The cluster lost a shard for good: {type(error).__name__}. It is begun again {RETRIES} times when a "
                f"machine or a worker goes away; look whether machines run out of memory or are taken away all the "
                f"time. Ray says: {error}"
            ) from error


@contextmanager
def open_engine(name: EngineName, address: str | None = None) -> Iterator[Engine | None]:
    """The engine that a user names; None for ``local``, which each job sets up for itself.

    Raises:
        ConfigError: There is an address, but the engine is ``local``; or as :class:`RayEngine`.
        ClusterError: As :class:`RayEngine`.
    """
    if name == "local":
        if address is not None:
            raise ConfigError(f"The address {address!r} is for a cluster, but the engine is 'local'; add --engine ray.")
        yield None
        return
    with RayEngine(address) as engine:
        yield engine


def _in_order(
    items: Iterable[Item],
    in_flight: int,
    *,
    start: Callable[[Item], Handle],
    finish: Callable[[Handle], Result],
    stop: Callable[[Handle], object],
) -> Iterator[Result]:
    """Results in the order of the items, with at most ``in_flight`` of them begun and not yet handed out."""
    running: deque[Handle] = deque()
    try:
        for item in items:
            running.append(start(item))
            if len(running) >= in_flight:
                yield finish(running.popleft())
        while running:
            yield finish(running.popleft())
    finally:
        for handle in running:
            stop(handle)


def _work(versions: dict[str, str], function: Callable[[Any], Any], item: Any) -> Any:
    """What a worker of the cluster does with one item."""
    there = _versions()
    different = [
        f"{name} {there[name]} (wanted: {version})" for name, version in versions.items() if there[name] != version
    ]
    if different:
        raise ClusterError(
            f"Machine {socket.gethostname()} of the cluster has {', '.join(different)}; its results would differ. "
            "Install the same versions on every machine."
        )
    torch.set_num_threads(1)
    return function(item)


@cache
def _versions() -> dict[str, str]:
    """Versions of what results depend on."""
    found = {}
    for name in SAME_VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "from a folder"
    return found


def _import_ray() -> ModuleType:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise ConfigError(
            "The engine 'ray' needs Ray, which is not installed. Install it here and on every machine of the cluster: "
            "pip install 'allophone[ray]'."
        ) from error
    ray_module: ModuleType = ray
    return ray_module


def _connect(ray: ModuleType, address: str | None) -> None:
    address = address or os.environ.get("RAY_ADDRESS")
    if address not in (None, "auto", "local"):
        _require_answer(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_task_oom_retries", str(MEMORY_RETRIES))
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"at {address!r}" if address else "on this machine"
        raise ClusterError(
            f"No Ray cluster {where} that this machine can use: {error}. Start one with `ray start --head` and join "
            "other machines with `ray start --address HOST:6379`; Ray and Python must have the same versions on all."
        ) from error


def _require_answer(address: str) -> None:
    """Ask before Ray does, which would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"The cluster's address is {address!r}; expected HOST:PORT, such as 10.0.0.1:6379, or auto.")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"Nothing answers at {address} ({error}). `ray status` on the cluster's head shows whether it runs; "
            "`ray start --head` starts it and prints its address (port 6379)."
        ) from error
