"""Training ML-SUPERB's probe on hidden states kept in memory, against running the frozen encoder in every epoch.

Real speech and its texts; an encoder of Base size with random weights. Both ways train the same probe on the same
batches and must give the same losses and answers, bit for bit. What is timed is the whole of it: ours includes
computing the states once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from allophone.benchmarks.encode import make_encoder
from allophone.benchmarks.timing import OURS, Measured, Timing, alternated
from allophone.errors import ConfigError
from allophone.evaluate.mlsuperb_probe import Frames, ProbeClips, SuperbProbeConfig, SuperbProbeResult, superb_probe
from allophone.evaluate.sources import EncoderSource
from allophone.run.starter import starter_corpus
from allophone.text.published import ml_superb_1

EACH_EPOCH = "encoder in every epoch"
Head = Literal["fast", "published"]
DEV_SHARE = 5
"""Training clips for one dev clip."""


def run(
    *,
    model: str = "hubert-base",
    head: Head = "fast",
    clips: int = 16,
    epochs: int = 30,
    timing: Timing | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Time both ways.

    Args:
        model: As :func:`~allophone.benchmarks.encode.make_encoder` knows it.
        head: Size of the probe: of the fast preset, or as published.
        clips: Training clips; each is heard once an epoch.
        epochs: As published 30.
        timing: Rounds and clock.
        progress: Called with (done, total) after each run of one way.

    Returns:
        See :meth:`allophone.benchmarks.timing.Measured.result`.

    Raises:
        ConfigError: There is no such model, or a number is too small.
    """
    timing = timing or Timing()
    clips, epochs = (8, 2) if timing.quick else (clips, epochs)
    config = SuperbProbeConfig.fast("monolingual") if head == "fast" else SuperbProbeConfig.published("joint", "10min")
    if clips < config.batch_size or epochs < 1:
        least = f"expected {config.batch_size} and 1, at least"
        raise ConfigError(f"benchmark probe: {clips} clips, {epochs} epochs; {least}.")
    config = replace(config, epochs=epochs, iterations=clips // config.batch_size, accumulate=1)
    torch.manual_seed(0)
    source = EncoderSource(model, make_encoder(model, tiny=timing.quick).eval())
    texts, waveforms = _spoken(clips + 2 * max(1, clips // DEV_SHARE))

    def train(frames: Callable[[Sequence[Tensor]], Frames]) -> SuperbProbeResult:
        bounds = (0, clips, (clips + len(texts)) // 2, len(texts))
        parts = [_clips(texts[a:b], frames(waveforms[a:b])) for a, b in pairwise(bounds)]
        return superb_probe("multilingual", *parts, frame_rate=source.frame_rate, config=config)

    ways: dict[str, Callable[[], SuperbProbeResult]] = {
        OURS: lambda: train(lambda heard: [_states(source, waveform) for waveform in heard]),
        EACH_EPOCH: lambda: train(lambda heard: _EachTime(source, heard)),
    }
    found: dict[str, SuperbProbeResult] = {}

    def kept(name: str) -> Callable[[], None]:
        def call() -> None:
            found[name] = ways[name]()

        return call

    times = alternated({name: kept(name) for name in ways}, timing.pairs, timing.now(), progress)
    ours, theirs = found[OURS], found[EACH_EPOCH]
    return Measured(
        name=f"probe {model} {head}",
        seconds=times,
        amount=float(epochs),
        unit="epochs a second",
        equal=(ours.answers, ours.dev_losses) == (theirs.answers, theirs.dev_losses),
        more={"clips": clips, "epochs": epochs, "audio_seconds": sum(map(len, waveforms)) / 16_000},
    ).result()


class _EachTime:
    """Hidden states that are computed whenever they are asked for."""

    def __init__(self, source: EncoderSource, waveforms: Sequence[Tensor]) -> None:
        self.source, self.waveforms = source, waveforms

    def __len__(self) -> int:
        return len(self.waveforms)

    def __getitem__(self, index: int) -> Tensor:
        return _states(self.source, self.waveforms[index])


def _states(source: EncoderSource, waveform: Tensor) -> Tensor:
    """Of one waveform ``(S,)``, shape ``(L, T, D)``, as they are kept."""
    return source.extract([waveform])[0].half()


def _spoken(count: int) -> tuple[list[str], list[Tensor]]:
    """Texts and waveforms ``(S,)`` of as many English recordings of one to three seconds."""
    corpus = starter_corpus().where(language="eng")
    rows = [row for row in corpus if row.text and 1 < row.duration_seconds < 3][:count]
    if len(rows) < count:
        raise ConfigError(f"benchmark probe: {count} clips with dev and test; the starter corpus has {len(rows)}.")
    return [ml_superb_1(row.text or "") for row in rows], [corpus.audio(row) for row in rows]


def _clips(texts: Sequence[str], frames: Frames) -> ProbeClips:
    size = len(texts)
    return ProbeClips(
        ids=tuple(map(str, range(size))),
        languages=("eng",) * size,
        texts=tuple(texts),
        datasets=("",) * size,
        frames=frames,
    )
