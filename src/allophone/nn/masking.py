"""Span masks for masked prediction (HuBERT, arXiv:2106.07447; the static spans of wav2vec 2.0).

Shape letters: T frames. This file draws masks; it does not apply them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from allophone.errors import ConfigError
from allophone.frames import FrameClock

SPAN_SECONDS = 0.2
"""Length of one masked span at every frame rate; HuBERT's 10 frames of 20 ms."""


def span_mask(
    frames: int, *, probability: float, length: int, generator: torch.Generator, min_spans: int = 2
) -> Tensor:
    """Hide random spans of one utterance.

    ``probability`` is not the masked fraction: it is spans times length over frames before overlap. Spans may
    overlap, so about ``1 - (1 - probability / length) ** length`` of the frames are hidden (0.57 for 0.8 and 10).
    A clip too short for spans of ``length`` gets spans of at most half its frames. The last frame is never hidden,
    so an utterance is never hidden whole; an utterance of one frame is not hidden at all.

    Args:
        frames: Real frames of the utterance (T).
        probability: Expected spans times ``length`` over ``frames``; HuBERT 0.8. 0 hides nothing.
        length: Frames of one span; HuBERT 10 (200 ms).
        generator: Source of the draws, on the CPU; the result is a function of its state.
        min_spans: Fewest spans an utterance gets; HuBERT 2.

    Returns:
        True = hidden. Shape ``(T,)``, bool.

    Raises:
        ConfigError: ``probability``, ``length`` or ``min_spans`` is out of range.

    Source:
        Hsu et al. 2021, arXiv:2106.07447, section III-B. Deviations: rows are not cut down to an equal number of
        hidden frames, which only breaks spans; clips shorter than a span are masked instead of refused.

    Example:
        >>> int(span_mask(100, probability=0.8, length=10, generator=torch.Generator().manual_seed(0)).sum()) > 20
        True
    """
    if not 0.0 <= probability <= 1.0 or length < 1 or min_spans < 0:
        raise ConfigError(
            f"A span mask needs 0 <= probability <= 1, length >= 1 and min_spans >= 0; "
            f"got probability {probability}, length {length}, min_spans {min_spans}."
        )
    masked = torch.zeros(frames, dtype=torch.bool)
    if frames < 2 or probability == 0.0:
        return masked
    dither = torch.rand((), generator=generator, dtype=torch.float64).item()
    spans = max(min_spans, int(probability * frames / length + dither))
    if frames - length <= spans:
        length = min(length, max(1, frames // 2))
    starts = torch.randperm(frames - length, generator=generator)[:spans]
    masked[(starts[:, None] + torch.arange(length)).reshape(-1)] = True
    return masked


def span_frames(clock: FrameClock) -> int:
    """Frames of a span of :data:`SPAN_SECONDS`, rounded up.

    Example:
        >>> [span_frames(FrameClock(hop=hop, receptive_field=hop)) for hop in (320, 640, 1280)]
        [10, 5, 3]
    """
    return math.ceil(SPAN_SECONDS * clock.rate - 1e-9)


def expected_masked_fraction(probability: float, length: int) -> float:
    """Share of a long utterance's frames that :func:`span_mask` hides.

    Example:
        >>> round(expected_masked_fraction(0.8, 10), 2)
        0.57
    """
    return 1.0 - (1.0 - probability / length) ** length
