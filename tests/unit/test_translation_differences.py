"""One system less another: the difference of their scores, and an interval that holds no zero where all texts agree."""

from __future__ import annotations

import pytest

from allophone.evaluate.result import Signature
from allophone.evaluate.translation import translation_differences, translation_results

RIGHT = [f"the cat number {number} sits on the old mat" for number in range(30)]
WORSE = [f"the dog number {number} sat on an old mat" for number in range(30)]
SIGNATURE = Signature(data_hash="data", model_hash="model", normalizer="", seed=0)


def test_a_difference_is_that_of_the_scores() -> None:
    first, second = (translation_results(texts, RIGHT, "eng_Latn", SIGNATURE, resamples=5) for texts in (RIGHT, WORSE))
    found = translation_differences(RIGHT, WORSE, RIGHT, "eng_Latn", SIGNATURE, seeds=(0,), resamples=50)
    assert [one.name for one in found] == ["BLEU", "chrF2++"]
    for one, left, right in zip(found, first, second, strict=True):
        assert one.value == pytest.approx(left.value - right.value)
        assert one.low > 0 and one.seeds == (0,)
        assert not one.signature.comparable(left.signature)  # a difference is no score
    same = translation_differences(RIGHT, RIGHT, RIGHT, "eng_Latn", SIGNATURE, resamples=5)
    assert all(one.value == one.low == one.high == 0 for one in same)
