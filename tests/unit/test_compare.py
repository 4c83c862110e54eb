"""Models side by side: what is called real, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from allophone.errors import DataError
from allophone.evaluate.compare import Contender, compare, holm
from allophone.evaluate.measurements import Measurement
from allophone.evaluate.result import Signature
from allophone.metrics.intervals import paired_bootstrap, paired_difference

SIGNATURE = Signature(data_hash="d", model_hash="m", normalizer="allophone.text.normalize", seed=0, settings="quick")
LANGUAGES = ("bul_Cyrl", "fra_Latn", "rus_Cyrl")
HARD = np.random.default_rng(5).uniform(0.1, 0.6, 60)


def measured(language: str, values: Any, measure: str = "character_error_all", **other: Any) -> Measurement:
    numerators = np.asarray(values, dtype=np.float64)
    items = tuple(f"{language}-{number}" for number in range(len(numerators)))
    given = {"system": "before", "seed": 0, "items": items, "denominators": np.full(len(items), 20.0)}
    return Measurement(measure=measure, language=language, numerators=numerators, **(given | other))


def contender(name: str, seed: int, gain: float = 0.0, languages: tuple[str, ...] = LANGUAGES) -> Contender:
    """A model whose 60 clips of 20 letters a language have errors drawn from one difficulty a clip."""
    generator = np.random.default_rng(seed)
    found = [
        measured(tag, generator.binomial(20, np.clip(HARD - gain * (tag == "bul_Cyrl"), 0, 1))) for tag in languages
    ]
    found += [
        measured(tag, generator.random(60) < 0.6, "retrieval_dtw", denominators=np.ones(60)) for tag in languages[:2]
    ]
    found.append(measured("bul_Cyrl", np.full(60, 18.0), system="chance"))
    return Contender(name=name, signature=replace(SIGNATURE, model_hash=name), measurements=tuple(found))


def test_two_copies_of_one_model_are_seldom_called_different() -> None:
    """100 pairs of equal models, five comparisons each: in at most 8 anything is called real at the 5 % level."""
    wrong = sum(
        bool(compare([contender("a", 2 * seed), contender("b", 2 * seed + 1)], seed=seed).real) for seed in range(100)
    )
    assert wrong <= 8


def test_three_copies_are_seldom_called_different() -> None:
    wrong = sum(
        bool(compare([contender(name, 3 * seed + place) for place, name in enumerate("abc")]).real)
        for seed in range(1000, 1040)
    )
    assert wrong <= 5  # 5 % of 40 is 2; more than 5 comes by chance once in a hundred times


def test_a_better_model_is_found_in_its_language_alone() -> None:
    found = compare([contender("base", 1), contender("tuned", 2, gain=0.15)])
    assert [(one.measure, one.language, one.better) for one in found.real] == [
        ("character_error_all", "bul_Cyrl", "tuned")
    ]
    one = found.real[0]
    assert one.difference.low > 0 and one.p <= one.corrected < 0.05
    assert len(found.differences) == 5
    text = found.markdown()
    assert "**tuned** is better than base in Bulgarian" in text and "1 of 5 comparisons are real" in text
    assert "| chance | 90.0 |" in text and "| tuned |" in text and text.count("- not decided:") == 4


def test_identical_models_have_no_difference_at_all() -> None:
    found = compare([contender("a", 1), replace(contender("a", 1), name="b")])
    assert not found.real and {one.p for one in found.differences} == {1.0}


def test_few_items_decide_nothing() -> None:
    pair = [
        Contender(name=name, signature=SIGNATURE, measurements=(measured("bul_Cyrl", [value] * 5),))
        for name, value in (("a", 1.0), ("b", 19.0))
    ]
    assert not compare(pair).real


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_p_agrees_with_the_interval_and_with_a_t_test() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    for shift in (0.0, 0.2, 0.4):
        first, second = generator.normal(shift, 1, 80), generator.normal(0, 1, 80)
        interval, p = paired_difference(first, second, resamples=4000)
        assert interval == paired_bootstrap(first, second, resamples=4000)
        assert p == pytest.approx(stats.ttest_rel(first, second).pvalue, rel=0.15, abs=0.005)


def test_no_p_is_below_what_flipping_signs_could_give() -> None:
    """Of 8 contents, however many items they have and however alike their differences, p is 2^-7 or more."""
    groups = [number // 5 for number in range(40)]
    for second in (np.zeros(40), np.random.default_rng(0).normal(0, 1e-3, 40)):
        interval, p = paired_difference(np.ones(40), second, groups=groups)
        assert interval.n == 8 and p == 2.0**-7


def test_what_cannot_be_compared_is_refused() -> None:
    a, b = contender("a", 1), contender("b", 2)
    other = replace(b, signature=replace(b.signature, data_hash="other"))
    with pytest.raises(DataError, match="would mix what cannot be compared"):
        compare([a, other])
    with pytest.raises(DataError, match="would mix what cannot be compared"):
        compare([a, replace(b, signature=replace(b.signature, settings="full"))])
    reseeded = tuple(replace(one, seed=7) for one in b.measurements)
    with pytest.raises(DataError, match=r"seeds \[0\] and on 60 with \[7\]; expected the same items and seeds"):
        compare([a, replace(b, measurements=reseeded)])
    with pytest.raises(DataError, match=r"models \['a', 'a'\]; expected at least two"):
        compare([a, a])
    with pytest.raises(DataError, match="no measure of a language in common"):
        compare([contender("a", 1, languages=("fra_Latn",)), replace(b, measurements=b.measurements[2:3])])
