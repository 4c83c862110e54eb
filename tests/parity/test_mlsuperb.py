"""The challenge's measures against jiwer and the statistics module, on random answers with empty and odd references."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from allophone.evaluate.mlsuperb_answers import Answer
from allophone.evaluate.mlsuperb_challenge import challenge_scores

jiwer = pytest.importorskip("jiwer")
pytestmark = pytest.mark.parity


@pytest.mark.parametrize("seed", range(3))
def test_challenge_measures_equal_jiwer(seed: int) -> None:
    generator = np.random.default_rng(seed)
    languages = [f"q{a}{b}" for a in "abc" for b in "mnopqrst"]

    def text() -> str:
        return "".join(generator.choice(list("abcd éñ"), generator.integers(1, 12)))

    answers = [
        Answer(
            id=str(place),
            language=language,
            reference="?!" if generator.random() < 0.1 else "r" + text() + ".",
            hypothesis=text(),
            guess=language if generator.random() < 0.7 else "und",
        )
        for place, language in enumerate(languages * 12)
    ]
    rates, hits = [], []
    for language in languages:
        kept = [one for one in answers if one.language == language and one.reference != "?!"]
        pairs = [(one.reference.strip(".").upper(), one.hypothesis.upper()) for one in kept]
        rates.append(100 * statistics.mean(jiwer.cer(*pair) for pair in pairs))
        hits.append(100 * statistics.mean(one.guess == one.language for one in kept))
    found = challenge_scores(answers, resamples=20)
    assert found["CER"].value == pytest.approx(statistics.mean(rates))
    assert found["LID"].value == pytest.approx(statistics.mean(hits))
    assert found["CER deviation"].value == pytest.approx(statistics.stdev(rates))
    assert found["worst CER"].value == pytest.approx(sum(sorted(rates)[-15:]) / 15)
