"""Recordings to units: how time and memory grow when there are several times as many hours.

The starter corpus is repeated under new names as often as it takes. Each amount has a process of its own, which reads
the files, fits a codebook on MFCCs and says the units of every recording; no sound or frame is kept between passes.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Literal

import torch
from torch import Tensor

from allophone.benchmarks.timing import Timing, machine
from allophone.errors import ConfigError
from allophone.run.starter import starter_corpus
from allophone.units.encode import encode_units
from allophone.units.fit import fit_codebook

NUM_UNITS = 100
SHORTEST_SECONDS = 0.1
Clock = Literal["wall", "cpu"]


def run(
    *, hours: float = 1.0, times: int = 4, clock: Clock = "wall", progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Measure both amounts, one after the other.

    Args:
        hours: Of audio, at first.
        times: Of these hours, then.
        clock: ``cpu`` counts the work of the process only.
        progress: Called with (amounts done, 2).

    Returns:
        Seconds and peak memory of both, and their ratios, larger over smaller.

    Raises:
        ConfigError: An amount is not positive.
    """
    if hours <= 0 or times < 1:
        raise ConfigError(
            f"units-scale: got {hours} hours and {times} times as many; expected more than 0, at least 1."
        )
    amounts = []
    for done, amount in enumerate((hours, times * hours)):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            amounts.append(pool.submit(measure, amount, clock, torch.get_num_threads()).result())
        if progress is not None:
            progress(done + 1, 2)
    small, large = amounts
    return {
        "name": "units-scale",
        "hours": [hours, times * hours],
        "recordings": [small["recordings"], large["recordings"]],
        "seconds": [small["seconds"], large["seconds"]],
        "peak_bytes": [small["peak_bytes"], large["peak_bytes"]],
        "time_ratio": large["seconds"] / small["seconds"],
        "memory_ratio": large["peak_bytes"] / small["peak_bytes"],
        "machine": machine(),
    }


def measure(hours: float, clock: Clock, threads: int) -> dict[str, float]:
    """Recordings of so many hours to units, in this process: its seconds, its peak memory, how many recordings."""
    torch.set_num_threads(threads)
    now = Timing(clock=clock).now()
    corpus = starter_corpus()
    long_enough = [row for row in corpus.utterances if row.duration_seconds >= SHORTEST_SECONDS]

    def waveforms() -> Iterator[tuple[str, Tensor]]:
        heard, turn = 0.0, 0
        while True:
            for utterance in long_enough:
                if heard >= 3600 * hours:
                    return
                yield f"{turn}/{utterance.id}", corpus.audio(utterance)
                heard += utterance.duration_seconds
            turn += 1

    start = now()
    codebook = fit_codebook(waveforms, "mfcc39", NUM_UNITS, seed=0)
    units = encode_units(waveforms, codebook)
    seconds = now() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": seconds, "peak_bytes": peak, "recordings": len(units)}
