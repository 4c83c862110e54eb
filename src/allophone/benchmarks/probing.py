"""What both probes and the geometry of ``allophone tune`` cost once recordings are embeddings.

Embeddings are made up: a center a class and noise around it. 9,000 of them are 10 h of speech in clips of 4 s. Where
classes lie one over the other (a large spread), the linear probe takes longest, so that is the default.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from allophone.benchmarks.ragged import machine
from allophone.evaluate.embedding_probes import NEIGHBORS, Embedded, linear_probe, neighbor_probe
from allophone.metrics.geometry import measure_geometry, standardized
from allophone.seeding import numpy_generator

SHARES = (0.65, 0.15, 0.2)
"""Of training, dev and test."""


def measure_probing(
    *, rows: int = 9_000, dim: int = 768, classes: int = 50, spread: float = 12.0, progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """Probe made-up embeddings and measure their space, as ``allophone tune`` does for each system.

    Args:
        rows: Embeddings, all parts together.
        dim: Values of each.
        classes: How many.
        spread: Deviation of the noise around a center, in lengths of a center over the root of ``dim``.
        progress: Called with (parts done, parts in all).

    Returns:
        Wall and processor seconds of each part, and how often the probes were right.
    """
    generator = numpy_generator(0, "probing")
    ids = generator.permutation(np.arange(rows) % classes)
    vectors = generator.standard_normal((classes, dim))[ids] + spread * generator.standard_normal((rows, dim))
    bounds = np.cumsum([round(share * rows) for share in SHARES[:2]])
    train, dev, test = (
        Embedded.of(part, own) for part, own in zip(np.split(vectors, bounds), np.split(ids, bounds), strict=True)
    )
    right: dict[str, float] = {}

    def linear() -> None:
        right["linear"] = linear_probe(train, test, dev).accuracy

    def neighbors() -> None:
        for k in NEIGHBORS:
            right[f"{k} nearest"] = neighbor_probe(train, test, k=k).accuracy

    def geometry() -> None:
        for part in (test.vectors, standardized(test.vectors), dev.vectors):
            measure_geometry(part, dev.classes if part is dev.vectors else test.classes)

    result: dict[str, Any] = {"name": "probing", "rows": rows, "dim": dim, "classes": classes, "spread": spread}
    for number, part in enumerate((linear, neighbors, geometry)):
        wall, cpu = time.perf_counter(), time.process_time()
        part()
        result[part.__name__] = {
            "wall_seconds": round(time.perf_counter() - wall, 2),
            "cpu_seconds": round(time.process_time() - cpu, 2),
        }
        progress(number + 1, 3)
    return result | {"right": {name: round(100 * share, 1) for name, share in right.items()}, "machine": machine()}
