"""Masked-prediction loss of held-out utterances, one value an utterance, under masks that never change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from allophone.data.collate import CollateConfig, Example, collate
from allophone.frames import FrameClock


@dataclass(frozen=True, slots=True)
class MaskedLoss:
    """Sums per utterance; divide the sum of the first by the sum of the second."""

    loss_sums: NDArray[np.float64]
    """Cross-entropy over the masked frames of each utterance, nats. Shape ``(utterances,)``."""
    correct: NDArray[np.float64]
    """Masked frames whose unit was predicted. Shape ``(utterances,)``."""
    counts: NDArray[np.float64]
    """Predictions of each utterance. Shape ``(utterances,)``."""

    @property
    def loss(self) -> float:
        """Nats a prediction."""
        return float(self.loss_sums.sum() / self.counts.sum())

    @property
    def accuracy(self) -> float:
        """Share of predictions that are right."""
        return float(self.correct.sum() / self.counts.sum())


@torch.inference_mode()
def masked_loss(
    method: Any,
    examples: Sequence[Example],
    units: Mapping[str, NDArray[np.integer]],
    clock: FrameClock,
    config: CollateConfig,
    seed: int,
) -> MaskedLoss:
    """Score a method on utterances it has not seen.

    Args:
        method: A masked-prediction method or one that wraps it; put into evaluation mode and back.
        examples: Held-out utterances.
        units: Unit ids by utterance, ``(T,)`` or ``(T, labels of one frame)``.
        clock: Frames of the encoder.
        config: Masks and crop; perturbation is ignored.
        seed: Of masks and crops; the same seed gives the same masks to every method.

    Returns:
        Sums per utterance, in the order of ``examples``.
    """
    fixed = CollateConfig(
        crop_seconds=config.crop_seconds,
        equal_lengths=False,
        mask_probability=config.mask_probability,
        mask_length=config.mask_length,
        min_mask_spans=config.min_mask_spans,
    )
    was_training = method.training
    method.eval()
    rows = []
    for example in examples:
        sums = method.step(collate([example], [units[example.id]], clock, fixed, seed, epoch=0)).sums
        (loss, count), (correct, _) = sums["loss_masked"], sums["accuracy_masked"]
        rows.append((float(loss), float(correct), float(count)))
    method.train(was_training)
    table = np.array(rows, dtype=np.float64)
    return MaskedLoss(loss_sums=table[:, 0], correct=table[:, 1], counts=table[:, 2])
