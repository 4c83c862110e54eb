"""The gate: a pack that costs a language to keep more than a user allows is not handed over.

Two rules, named because no paper has one. ``clear``: a loss counts when its value is beyond the limit and its whole
interval is a loss, so noise alone refuses nothing. ``sure``: the whole interval must lie within the limit, so what
cannot be told refuses. Both refuse a language on which nothing could be measured.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from allophone.errors import ConfigError, GateError
from allophone.evaluate.measurements import MEASURES, MIN_ITEMS, Change

GATED = ("masked_loss_base_units", "retrieval_dtw", "character_error_all", "character_error_150")
"""Measures that a gate looks at: the old model's own skill, and what can be heard and read with the frozen model.
Left out are those whose comparison is not with the old model, and those that may follow the voice."""

Rule = Literal["clear", "sure"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """How much a language to keep may lose."""

    most_loss: float
    """Percent of the old model's score, on any gated measure."""
    rule: Rule = "clear"
    """When a loss counts; see the head of this module."""

    def __post_init__(self) -> None:
        if not 0 <= self.most_loss < 100:
            raise ConfigError(f"The most that a language may lose is {self.most_loss} %; expected 0 to below 100.")


def require_protected(gate: Gate | None, protected: Collection[str]) -> None:
    """Refuse, before anything is trained, a limit that no language is held to.

    Raises:
        ConfigError: It is one.
    """
    if gate is not None and not protected:
        raise ConfigError(
            f"At most {gate.most_loss:g} % may be lost (--most-loss), and there is no language to keep. Name some with "
            "--keep, other than the new one."
        )


def losses(changes: Iterable[Change], protected: Sequence[str], gate: Gate) -> list[str]:
    """One line for each measure on which a protected language loses more than allowed; empty where none does.

    Args:
        changes: Of the languages before and after.
        protected: Tags of the languages to keep.
        gate: Limit and rule.
    """
    seen, found = set(), []
    for change in changes:
        relative = change.relative
        counted = change.difference.n >= MIN_ITEMS and relative.value == relative.value  # NaN where the base is at 0
        if change.language not in protected or change.measure not in GATED or not counted:
            continue
        seen.add(change.language)
        bound = relative.low if gate.rule == "sure" else relative.value
        if bound < -gate.most_loss and (gate.rule == "sure" or relative.high < 0):
            found.append(
                f"{change.language}, {MEASURES[change.measure].title}: {relative.value:+.1f} % "
                f"({relative.low:+.1f} to {relative.high:+.1f})"
            )
    unseen = [language for language in protected if language not in seen]
    return found + [f"{language}: nothing could be measured, so nothing says that it was kept" for language in unseen]


def refusal(found: Sequence[str], gate: Gate, where: str) -> GateError:
    """The error of a pack that is not handed over; ``where`` is its run folder."""
    rule = {
        "clear": "a loss counts when its whole 95 % interval is a loss",
        "sure": "the whole 95 % interval must lie within the limit",
    }[gate.rule]
    return GateError(
        f"No pack was written to {where}: a language to keep loses more than {gate.most_loss:g} % ({rule}). "
        f"{'; '.join(found)}. Everything else of the run is there: report.html, model and checkpoints "
        "(a pack that an earlier call wrote without this limit stays, too). Give more "
        "--kept-hours, fewer --steps or a lower --rank in another run folder, or raise --most-loss; the same call "
        "then writes the pack without training again."
    )
