"""How units agree with phones, and how evenly they are used; formulas over counts, nothing else.

``joint`` is a table of counts with shape ``(K, P)``: how many frames have unit k and phone p.

Source:
    Hsu et al. 2021, arXiv:2106.07447, section V-B: phone purity, cluster purity, phone-normalized mutual information.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from allophone.errors import DataError

Array = NDArray[np.float64]


def joint_counts(units: ArrayLike, phones: ArrayLike, num_units: int, num_phones: int) -> NDArray[np.int64]:
    """Count the frames of each pair.

    Args:
        units: Unit of each frame. Shape ``(N,)``, 0 to ``num_units`` - 1.
        phones: Phone of each frame. Shape ``(N,)``, 0 to ``num_phones`` - 1.
        num_units: K.
        num_phones: P.

    Returns:
        Shape ``(K, P)``, int64.

    Raises:
        DataError: The two differ in length, or an id is out of range.
    """
    unit_ids, phone_ids = np.asarray(units, dtype=np.int64), np.asarray(phones, dtype=np.int64)
    if unit_ids.shape != phone_ids.shape or unit_ids.ndim != 1:
        raise DataError(f"joint_counts: units {unit_ids.shape}, phones {phone_ids.shape}; expected one each a frame.")
    for name, ids, size in (("unit", unit_ids, num_units), ("phone", phone_ids, num_phones)):
        if len(ids) and not (0 <= ids.min() and ids.max() < size):
            raise DataError(f"joint_counts: {name} ids span {ids.min()} to {ids.max()}, expected 0 to {size - 1}.")
    cells = np.bincount(unit_ids * num_phones + phone_ids, minlength=num_units * num_phones)
    return cells.reshape(num_units, num_phones)


def pnmi(joint: ArrayLike) -> float:
    """Mutual information of phone and unit over the entropy of the phone: what share of the phone the unit tells.

    Between 0 (independent) and 1; it grows with K, and above 0 by chance where frames are few, so compare at one K and
    beside shuffled labels.

    Raises:
        DataError: The table is not ``(K, P)`` or empty, or all frames have the same phone.
    """
    probabilities = _probabilities(joint)
    phones = probabilities.sum(0)
    entropy = _entropy(phones)
    if entropy == 0:
        raise DataError("pnmi: all frames have the same phone, so there is nothing to tell. Label more phones.")
    information = entropy + _entropy(probabilities.sum(1)) - _entropy(probabilities.ravel())
    return float(np.clip(information / entropy, 0.0, 1.0))


def phone_purity(joint: ArrayLike) -> float:
    """Frame accuracy when every unit is read as its most frequent phone.

    Raises:
        DataError: The table is not ``(K, P)`` or empty.
    """
    return float(_probabilities(joint).max(1).sum())


def cluster_purity(joint: ArrayLike) -> float:
    """Share of frames whose unit is the most frequent one of their phone; it falls as K grows.

    Raises:
        DataError: The table is not ``(K, P)`` or empty.
    """
    return float(_probabilities(joint).max(0).sum())


def usage_entropy(counts: ArrayLike) -> float:
    """Entropy of the units' use as a share of its maximum, log K: 1 = all equally often, 0 = all frames one unit.

    Args:
        counts: Frames of each unit. Shape ``(K,)``. For K = 1 the result is 0.

    Raises:
        DataError: There are no frames, or a count is negative.
    """
    values = np.asarray(counts, dtype=np.float64)
    if values.ndim != 1 or values.sum() <= 0 or values.min() < 0:
        raise DataError(f"usage_entropy: expected counts of shape (K,) with at least one frame, got {values.shape}.")
    if len(values) == 1:
        return 0.0
    return float(min(1.0, _entropy(values / values.sum()) / np.log(len(values))))


def dead_units(counts: ArrayLike) -> int:
    """Units that no frame has. ``counts``: shape ``(K,)``."""
    return int((np.asarray(counts) == 0).sum())


def _probabilities(joint: ArrayLike) -> Array:
    table = np.asarray(joint, dtype=np.float64)
    if table.ndim != 2 or table.sum() <= 0:
        raise DataError(f"Expected a (units, phones) table of counts with at least one frame, got shape {table.shape}.")
    probabilities: Array = table / table.sum()
    return probabilities


def _entropy(probabilities: Array) -> float:
    """In nats."""
    positive = probabilities[probabilities > 0]
    return float(-(positive * np.log(positive)).sum()) + 0.0
