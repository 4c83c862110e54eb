"""The gate refuses what a user does not allow, and says which language, which measure and how much."""

from __future__ import annotations

import pytest

from allophone.errors import ConfigError, GateError
from allophone.evaluate.gate import Gate, losses, refusal, require_protected
from allophone.evaluate.measurements import Change
from allophone.metrics.intervals import Interval

ITEMS = 40


def change(language: str, value: float, low: float, high: float, *, measure="masked_loss_base_units", items=ITEMS):
    relative = Interval(value, low, high, items)
    return Change(
        measure=measure, language=language, difference=relative, relative=relative, verdict="no clear change", seeds=1
    )


@pytest.mark.parametrize(
    ("interval", "clear", "sure"),
    [
        ((-3.0, -4.0, -2.5), True, True),  # surely too much
        ((-3.0, -5.0, -1.0), True, True),  # a loss, most likely too much
        ((-3.0, -7.0, 1.0), False, True),  # may be nothing
        ((-1.0, -1.5, -0.5), False, False),  # a loss, within the limit
        ((-1.0, -3.0, 1.0), False, True),  # cannot be told
        ((4.0, 2.0, 6.0), False, False),  # better
    ],
)
def test_both_rules_on_every_kind_of_interval(interval, clear: bool, sure: bool) -> None:
    found = [change("fra_Latn", *interval)]
    assert bool(losses(found, ["fra_Latn"], Gate(most_loss=2.0))) is clear
    assert bool(losses(found, ["fra_Latn"], Gate(most_loss=2.0, rule="sure"))) is sure


def test_only_protected_languages_and_measures_of_the_old_skill_count() -> None:
    found = [
        change("fra_Latn", 0.0, -0.5, 0.5),
        change("bul_Cyrl", -9.0, -10.0, -8.0),
        change("fra_Latn", -9.0, -10.0, -8.0, measure="language_identification"),
        change("fra_Latn", -9.0, -10.0, -8.0, measure="masked_loss_own_units"),
    ]
    assert losses(found, ["fra_Latn"], Gate(most_loss=2.0)) == []


def test_a_language_that_was_not_measured_is_refused() -> None:
    few = [change("fra_Latn", 0.0, -0.1, 0.1, items=3), change("spa_Latn", float("nan"), -1.0, 1.0)]
    found = losses(few, ["fra_Latn", "spa_Latn"], Gate(most_loss=50.0))
    assert [line.split(":")[0] for line in found] == ["fra_Latn", "spa_Latn"]


def test_the_error_names_language_measure_change_and_what_to_do() -> None:
    gate = Gate(most_loss=1.5)
    found = losses([change("fra_Latn", -3.0, -4.0, -2.0)], ["fra_Latn"], gate)
    with pytest.raises(
        GateError,
        match=r"more than 1.5 % .*fra_Latn, Masked prediction, the base's units: -3.0 % \(-4.0 to -2.0\).*--most-loss",
    ):
        raise refusal(found, gate, "runs/x")
    with pytest.raises(ConfigError, match="may lose is -1 %"):
        Gate(most_loss=-1)


def test_a_limit_that_no_language_is_held_to_is_refused() -> None:
    require_protected(None, ())
    require_protected(Gate(most_loss=3.0), {"spa_Latn": 1})
    with pytest.raises(ConfigError, match=r"3 % may be lost .*no language to keep.*--keep"):
        require_protected(Gate(most_loss=3.0), {})
