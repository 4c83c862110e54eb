"""Accuracy, recall per class and macro F1 of predicted class ids; all as fractions of 1.

Shape legend: N items, C classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from allophone.errors import DataError


def confusion(predicted: NDArray[np.int64], truth: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Count how often each class was taken for each other.

    Args:
        predicted: Class ids, shape ``(N,)``, 0 to ``num_classes - 1``.
        truth: Class ids, shape ``(N,)``.
        num_classes: C.

    Returns:
        Counts, shape ``(C, C)``; row = truth, column = prediction.

    Raises:
        DataError: The shapes differ, there are no items, or an id is out of range.
    """
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    if predicted.shape != truth.shape or truth.ndim != 1 or truth.size == 0:
        raise DataError(
            f"confusion: predictions are {predicted.shape}, truth {truth.shape}; expected (items,) both, not empty."
        )
    smallest, largest = min(predicted.min(), truth.min()), max(predicted.max(), truth.max())
    if smallest < 0 or largest >= num_classes:
        raise DataError(f"confusion: class ids {smallest} to {largest}, expected 0 to {num_classes - 1}.")
    flat = np.bincount(truth * num_classes + predicted, minlength=num_classes * num_classes)
    return flat.reshape(num_classes, num_classes)


def accuracy(predicted: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Share of items whose prediction is right. Both arrays have shape ``(N,)``."""
    num_classes = int(max(np.max(predicted), np.max(truth))) + 1
    counts = confusion(predicted, truth, num_classes)
    return float(np.trace(counts) / counts.sum())


def recall_per_class(predicted: NDArray[np.int64], truth: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """Share of each class' items that were found.

    Args:
        predicted: Class ids, shape ``(N,)``.
        truth: Class ids, shape ``(N,)``.
        num_classes: C.

    Returns:
        Shape ``(C,)``; NaN for a class that ``truth`` does not contain.
    """
    counts = confusion(predicted, truth, num_classes)
    items = counts.sum(axis=1)
    return np.where(items > 0, np.diag(counts) / np.maximum(items, 1), np.nan)


def macro_f1(predicted: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    """Mean over classes of the harmonic mean of precision and recall.

    A class counts when it occurs in ``truth`` or in ``predicted``, as in scikit-learn. Both have shape ``(N,)``.
    """
    num_classes = int(max(np.max(predicted), np.max(truth))) + 1
    counts = confusion(predicted, truth, num_classes)
    found, items, claims = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    present = (items + claims) > 0
    return float(np.mean(2 * found[present] / (items + claims)[present]))
