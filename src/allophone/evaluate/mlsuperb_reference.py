"""SUPERB_s of ML-SUPERB: one number from seven, between filter banks (0) and the best of a set of models (1000).

The best row of each column is that of a *reference set*, so a score says nothing without its set: the same model scored
832 in 2023 and 643 a year later. Every score here carries the set's name and hash.

Source: Shi et al. 2023, arXiv:2305.10615, section 4; the formula is that of the SUPERB challenge.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from allophone.errors import ConfigError, suggest

Amount = Literal["10min", "1h"]
AMOUNTS: tuple[Amount, ...] = get_args(Amount)
"""Training audio of each language and source."""
COLUMNS = (
    "monolingual",
    "multilingual",
    "few_shot",
    "language_identification",
    "joint_language_identification",
    "joint",
    "joint_few_shot",
)
"""Columns of a row, all in percent: error rates, and accuracies where :data:`ACCURACIES` says so."""
ACCURACIES = frozenset(("language_identification", "joint_language_identification"))
TASKS: tuple[tuple[int, ...], ...] = ((0,), (1, 2), (3,), (4, 5, 6))
"""Columns of each of the four tasks; tasks weigh the same, and so do the columns of a task."""
BASELINE = "FBANK"
DEFAULT_SET = "leaderboard-2024"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceSet:
    """Models between which a score is placed, for one amount of training audio."""

    name: str
    amount: Amount
    source: str
    """Where the rows were read."""
    rows: Mapping[str, tuple[float | None, ...]] = field(hash=False)
    """Model to its columns; None where a column is not known."""

    def __post_init__(self) -> None:
        known = [name for name, row in self.rows.items() if name != BASELINE and any(v is not None for v in row)]
        widths = {len(row) for row in self.rows.values()}
        if BASELINE not in self.rows or not known or widths != {len(COLUMNS)} or None in self.rows[BASELINE]:
            raise ConfigError(
                f"Reference set {self.name!r}: rows {sorted(self.rows)} of {sorted(widths)} columns; expected a full "
                f"row {BASELINE!r}, at least one model, and {len(COLUMNS)} columns each."
            )

    @property
    def hash(self) -> str:
        """16 hex digits of name, amount and rows."""
        content = json.dumps([self.name, self.amount, {name: self.rows[name] for name in sorted(self.rows)}])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def baseline(self) -> NDArray[np.float64]:
        """Filter banks, shape ``(7,)``."""
        return np.array(self.rows[BASELINE], dtype=np.float64)

    @property
    def best(self) -> NDArray[np.float64]:
        """Best of each column over the models, shape ``(7,)``."""
        models = [row for name, row in self.rows.items() if name != BASELINE]
        columns = [[value for row in models if (value := row[place]) is not None] for place in range(len(COLUMNS))]
        choose = [max if name in ACCURACIES else min for name in COLUMNS]
        return np.array([pick(column) for pick, column in zip(choose, columns, strict=True)], dtype=np.float64)

    def score(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """SUPERB_s of rows, shape ``(..., 7)`` in percent -> ``(...)``. Signs cancel, so errors need no turning."""
        placed = (np.asarray(values, dtype=np.float64) - self.baseline) / (self.best - self.baseline)
        tasks = np.stack([placed[..., list(columns)].mean(axis=-1) for columns in TASKS], axis=-1)
        return np.asarray(1000.0 * tasks.mean(axis=-1))

    def __str__(self) -> str:
        return f"{self.name} ({self.amount}, {len(self.rows) - 1} models, {self.hash})"


@cache
def reference_set(amount: Amount, name: str = DEFAULT_SET) -> ReferenceSet:
    """A published set.

    Args:
        amount: ``10min`` or ``1h``.
        name: ``leaderboard-2024`` or ``paper-2023``.

    Raises:
        ConfigError: There is no such set or amount.
    """
    text = resources.files("allophone.evaluate").joinpath("mlsuperb_reference.json").read_text(encoding="utf-8")
    stored: dict[str, Any] = json.loads(text)["sets"]
    if name not in stored:
        raise ConfigError(f"Unknown reference set {name!r}. {suggest(name, stored)}")
    if amount not in AMOUNTS:
        raise ConfigError(f"Reference set {name!r}: amount {amount!r}; expected one of {', '.join(AMOUNTS)}.")
    rows = {model: tuple(row) for model, row in stored[name]["amounts"][amount].items()}
    return ReferenceSet(name=name, amount=amount, source=stored[name]["source"], rows=rows)
