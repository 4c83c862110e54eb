"""How fast, how exact and how large the vector index is with many rows, and what rows that come later cost.

Vectors are made up: a mixture of a hundredth as many heaps as there are rows, in a space of 48 dims that is turned
into all of them, with a little noise of full rank, as embeddings of speech are (few directions matter, contents lie in
heaps). Queries are drawn like rows. Plain Gaussian vectors, where all distances are much the same, are the worst case
of any such index and can be measured beside it.
"""

from __future__ import annotations

import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from allophone.benchmarks.ragged import machine
from allophone.search.index import PROBES, Entry, IndexInfo, VectorIndex
from allophone.seeding import numpy_generator

Array = NDArray[np.float32]
Progress = Callable[[int, int], None]
BATCH = 20_000
INTRINSIC = 48
TRIED_PROBES = (8, 16, 32, 64)


def measure_index(
    folder: Path,
    *,
    rows: int = 1_000_000,
    dim: int = 384,
    additions: int = 10_000,
    queries: int = 200,
    kind: Literal["speech-like", "gaussian"] = "speech-like",
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Have a writer killed while it builds, go on with what it left, build, ask, add, ask again.

    Args:
        folder: Empty; receives the index.
        rows: Vectors at first.
        dim: Values of each.
        additions: Vectors that come later.
        queries: Questions.
        kind: Of vectors.
        progress: Called with (rows written, rows in all).

    Returns:
        Whether all that the killed writer had written was there, times in seconds (the killed writer's additions are
        counted, its build is not), sizes in bytes, and recall at 10 (share of the ten truly nearest that are found) and
        median and 95th percentile of a query in milliseconds for several numbers of probes.
    """
    start = time.perf_counter()
    kept = min(-(-rows // (5 * BATCH)) * BATCH, rows)
    found, written = _kill_a_writer(folder / "index", kept, dim, rows, kind)
    survived = found == kept
    index = VectorIndex.open(folder / "index")
    asked = _queries(rows, dim, queries, kind)
    best = _Nearest(asked)
    for first, vectors in _batches(0, rows, dim, rows, kind):
        best.look_at(first, vectors)
        if survived and first < kept:
            continue
        begin = time.perf_counter()
        index.add(_entries(first, len(vectors)), vectors)
        written += time.perf_counter() - begin
        progress(first + len(vectors), rows + additions)
    begin = time.perf_counter()
    index.refresh(exact_rows=min(50_000, rows // 2))
    built = time.perf_counter() - begin
    result: dict[str, Any] = {
        "name": "index",
        "rows": rows,
        "dim": dim,
        "kind": kind,
        "killed_while_building": {"rows_written": kept, "all_there_and_went_on": survived},
        "write_seconds": round(written, 1),
        "build_seconds": round(built, 1),
        "bytes": _size(folder),
        "queries": _ask(index, asked, best),
        "default_probes": PROBES,
    }
    begin = time.perf_counter()
    for first, vectors in _batches(rows, additions, dim, rows, kind):
        best.look_at(first, vectors)
        index.add(_entries(first, len(vectors)), vectors)
    index.refresh()
    result["addition_rows"], result["addition_seconds"] = additions, round(time.perf_counter() - begin, 2)
    result["queries_after_addition"] = _ask(index, asked, best)
    progress(rows + additions, rows + additions)
    default = result["queries_after_addition"][f"{PROBES} probes"]
    result |= {"recall_at_10": default["recall_at_10"], "median_query_ms": default["median_ms"]}
    result["total_seconds"], result["machine"] = round(time.perf_counter() - start, 1), machine()
    shutil.rmtree(folder / "index")
    return result


def _kill_a_writer(folder: Path, count: int, dim: int, rows: int, kind: str) -> tuple[int, float]:
    """Kill a process with SIGKILL while it builds over ``count`` rows that it wrote.

    Returns:
        How many rows the index has then, and the seconds that adding them took.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    writer = context.Process(target=_write, args=(folder, count, dim, rows, kind, there), daemon=True)
    writer.start()
    there.close()
    seconds = here.recv()  # all is written, and the build begins
    time.sleep(0.2)
    writer.kill()
    writer.join()
    here.close()
    return len(VectorIndex.open(folder)), seconds


def _write(folder: Path, count: int, dim: int, rows: int, kind: str, tell: Connection) -> None:
    """What the process that is killed does: write the first rows, then build over and over."""
    index = VectorIndex.create(folder, IndexInfo(model="made up", model_hash="none", dim=dim))
    seconds = 0.0
    for first, vectors in _batches(0, count, dim, rows, kind):
        begin = time.perf_counter()
        index.add(_entries(first, len(vectors)), vectors)
        seconds += time.perf_counter() - begin
    tell.send(seconds)
    while True:
        index.build()


def _ask(index: VectorIndex, asked: Array, best: _Nearest) -> dict[str, dict[str, float]]:
    found = {}
    for probes in TRIED_PROBES:
        index.search(asked[0], 10, probes=probes)  # the first query opens files
        times, hits = [], 0
        for query, truth in zip(asked, best.rows, strict=True):
            begin = time.perf_counter()
            answers = index.search(query, 10, probes=probes)
            times.append(1e3 * (time.perf_counter() - begin))
            hits += len({int(hit.entry.key) for hit in answers} & set(truth.tolist()))
        found[f"{probes} probes"] = {
            "recall_at_10": hits / (10 * len(asked)),
            "median_ms": round(median(times), 2),
            "p95_ms": round(float(np.quantile(times, 0.95)), 2),
        }
    return found


class _Nearest:
    """The ten rows nearest each query, kept while rows go by, so that they need not all be in memory."""

    def __init__(self, asked: Array) -> None:
        self._asked = asked / np.linalg.norm(asked, axis=1, keepdims=True)
        self.rows = np.full((len(asked), 10), -1, dtype=np.int64)
        self._cosines = np.full((len(asked), 10), -2.0, dtype=np.float32)

    def look_at(self, first: int, vectors: Array) -> None:
        cosines = self._asked @ (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T
        places = np.argpartition(-cosines, 10, axis=1)[:, :10]
        cosines = np.concatenate([self._cosines, np.take_along_axis(cosines, places, axis=1)], axis=1)
        rows = np.concatenate([self.rows, first + places], axis=1)
        order = np.argsort(-cosines, axis=1)[:, :10]
        self._cosines, self.rows = np.take_along_axis(cosines, order, axis=1), np.take_along_axis(rows, order, axis=1)


def _entries(first: int, count: int) -> list[Entry]:
    numbers = range(first, first + count)
    return [
        Entry(
            key=str(number),
            id=str(number),
            corpus="made up",
            path="/none",
            offset_seconds=0.0,
            duration_seconds=1.0,
            language="eng_Latn",
        )
        for number in numbers
    ]


def _batches(first: int, count: int, dim: int, rows: int, kind: str) -> Iterator[tuple[int, Array]]:
    for start in range(first, first + count, BATCH):
        size = min(BATCH, first + count - start)
        yield start, _vectors(size, dim, rows, kind, numpy_generator(0, "rows", start))


def _vectors(count: int, dim: int, rows: int, kind: str, generator: np.random.Generator) -> Array:
    noise = generator.standard_normal((count, dim), dtype=np.float32)
    if kind == "gaussian":
        return noise
    fixed = numpy_generator(0, "directions")
    turn = fixed.standard_normal((INTRINSIC, dim), dtype=np.float32) / np.sqrt(INTRINSIC)
    heaps = fixed.standard_normal((max(rows // 100, 1), INTRINSIC), dtype=np.float32)
    inside = heaps[generator.integers(len(heaps), size=count)]
    inside = inside + 0.5 * generator.standard_normal((count, INTRINSIC), dtype=np.float32)
    found: Array = inside @ turn + 0.1 * noise
    return found


def _queries(rows: int, dim: int, count: int, kind: str) -> Array:
    return _vectors(count, dim, rows, kind, numpy_generator(0, "queries"))


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
