"""Ragged clips of real speech for benchmarks, cut from the starter recordings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from allophone.errors import ConfigError
from allophone.frames import SAMPLE_RATE, samples_to_seconds, seconds_to_samples
from allophone.run.starter import starter_corpus
from allophone.seeding import numpy_generator, torch_generator

SHORTEST_SECONDS, LONGEST_SECONDS = 1.0, 15.0


def recorded_clips(
    seconds: float, *, shortest: float = SHORTEST_SECONDS, longest: float = LONGEST_SECONDS, seed: int = 0
) -> list[Tensor]:
    """Recordings in random order, end to end, cut into clips of random lengths, in no order.

    Args:
        seconds: Of all clips; the last one ends there.
        shortest: Least length of a clip, seconds.
        longest: Greatest length of a clip, seconds; lengths are drawn evenly in between.
        seed: Of the order and the lengths.

    Returns:
        Clips ``(S,)``, float32, 16 kHz. They are never shorter than ``shortest`` but the only one.

    Raises:
        ConfigError: ``seconds`` is less than ``shortest``, or more than the starter corpus has.
        DataError: The starter corpus is not installed.
    """
    if seconds < shortest:
        raise ConfigError(f"Clips of {seconds} s in all were asked for; expected at least {shortest} s.")
    corpus = starter_corpus()
    order = numpy_generator(seed, "benchmark order").permutation(len(corpus)).tolist()
    wanted, found, parts = seconds_to_samples(seconds), 0, []
    for row in order:
        if found >= wanted:
            break
        parts.append(corpus.audio(corpus.utterances[row]))
        found += len(parts[-1])
    if found < wanted:
        raise ConfigError(
            f"{seconds:.0f} s of speech were asked for; the starter corpus has {found / SAMPLE_RATE:.0f}."
        )
    return cut_clips(torch.cat(parts)[:wanted], shortest=shortest, longest=longest, seed=seed)


def cut_clips(speech: Tensor, *, shortest: float, longest: float, seed: int) -> list[Tensor]:
    """Cut one long recording ``(S,)`` into clips of ``shortest`` to ``longest`` seconds; all of it is used."""
    generator = torch_generator(seed, "benchmark lengths")
    least, clips, start = seconds_to_samples(shortest), [], 0
    while start < len(speech):
        draw = float(torch.rand((), generator=generator))
        length = seconds_to_samples(shortest + draw * (longest - shortest))
        if len(speech) - start - length < least:
            length = len(speech) - start
            if length > seconds_to_samples(longest):
                length //= 2
        clips.append(speech[start : start + length].clone())
        start += length
    return clips


def batches_of(clips: Sequence[Tensor], seconds: float) -> list[list[int]]:
    """Consecutive clips ``(S,)`` in batches that, padded, have at most so many seconds; a longer clip is one alone."""
    batches: list[list[int]] = []
    longest = 0
    for index, clip in enumerate(clips):
        longest = max(longest, len(clip))
        if not batches or (len(batches[-1]) + 1) * samples_to_seconds(longest) > seconds:
            batches.append([])
            longest = len(clip)
        batches[-1].append(index)
    return batches
