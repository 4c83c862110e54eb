"""What a vocoder and its discriminators are trained by: each loss is a mean within a clip, summed over clips.

So the loop's one division by the number of clips gives the published batch means, and neither micro-batches nor ranks
change a gradient. Source: Kong et al. 2020, arXiv:2010.05646, equations 1 to 5 (least squares), with the sums over
discriminators and layers of its published code; durations: Lee et al. 2022, arXiv:2107.05604, section 3.2.
Shape letters: B clips of one length, S samples, U units without repeats of all clips end to end.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from allophone.audio.mel import log_mel
from allophone.errors import ShapeError


def told_apart_loss(recorded: Sequence[Tensor], made: Sequence[Tensor]) -> Tensor:
    """Loss of the discriminators: 1 is wanted for recorded clips and 0 for made ones.

    Args:
        recorded: Scores of each discriminator. Shape ``(B, places)`` each.
        made: The same for made clips, which must not pass a gradient on.

    Returns:
        Summed over clips and discriminators. Shape ``()``.
    """
    terms = [(1 - real).square().mean(1).sum() for real in recorded] + [fake.square().mean(1).sum() for fake in made]
    return torch.stack(terms).sum()


def deceived_loss(made: Sequence[Tensor]) -> Tensor:
    """Adversarial loss of the generator: 1 is wanted for made clips.

    Args:
        made: Scores of each discriminator. Shape ``(B, places)`` each.

    Returns:
        Summed over clips and discriminators. Shape ``()``.
    """
    return torch.stack([(1 - fake).square().mean(1).sum() for fake in made]).sum()


def feature_loss(recorded: Sequence[Sequence[Tensor]], made: Sequence[Sequence[Tensor]]) -> Tensor:
    """Distance between what discriminators see in recorded and in made clips.

    Args:
        recorded: Features of each discriminator and layer, shape ``(B, ...)``; no gradient flows into them.
        made: The same for made clips.

    Returns:
        Mean absolute difference within a clip, summed over clips, layers and discriminators. Shape ``()``.
    """
    pairs = [pair for real, fake in zip(recorded, made, strict=True) for pair in zip(real, fake, strict=True)]
    return torch.stack([(real.detach() - fake).abs().flatten(1).mean(1).sum() for real, fake in pairs]).sum()


def mel_loss(recorded: Tensor, made: Tensor) -> Tensor:
    """Mean absolute difference of log-mel spectrograms within a clip, summed over clips.

    Args:
        recorded: Shape ``(B, S)``, float.
        made: Shape ``(B, S)``, float.

    Returns:
        Shape ``()``; divided by the number of clips it is in nats.

    Raises:
        ShapeError: The two differ in shape.
    """
    if recorded.shape != made.shape:
        raise ShapeError(f"mel_loss: recorded {tuple(recorded.shape)}, made {tuple(made.shape)}; expected one shape.")
    return (log_mel(recorded) - log_mel(made)).abs().flatten(1).mean(1).sum()


def duration_loss(log_durations: Tensor, durations: Tensor, runs: Sequence[int]) -> Tensor:
    """Squared error of predicted log(frames + 1), mean within a clip, summed over clips.

    The first and the last run of a clip are left out, because a crop cuts through them; a clip of fewer than three runs
    adds nothing.

    Args:
        log_durations: Predictions. Shape ``(U,)``, float.
        durations: Frames of each run. Shape ``(U,)``, int64.
        runs: Runs of each clip; they add up to U.

    Returns:
        Shape ``()``.
    """
    errors = (log_durations.float() - durations.float().log1p()).square()
    inner = [clip[1:-1] for clip in errors.split(list(runs))]  # type: ignore[no-untyped-call]
    return torch.stack([clip.mean() if len(clip) else errors.sum() * 0.0 for clip in inner]).sum()
