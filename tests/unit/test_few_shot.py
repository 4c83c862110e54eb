from __future__ import annotations

import numpy as np
import pytest

from allophone.errors import ConfigError, DataError, ShapeError
from allophone.evaluate.few_shot import few_shot


def clips(count: int, apart: float, seed: int) -> tuple[np.ndarray, list[str]]:
    labels = ["abc"[number % 3] for number in range(count)]
    means = apart * np.eye(6)[["abc".index(label) for label in labels]]
    return means + np.random.default_rng(seed).standard_normal((count, 6)), labels


def test_more_examples_are_better_and_the_draws_are_seeded() -> None:
    examples, judged = clips(90, 3.0, 0), clips(60, 3.0, 1)
    found = few_shot(*examples, *judged, shots=(1, 8))
    assert [one.shots for one in found] == [1, 8]
    assert found[0].hits.shape == (10, 60)
    assert 100 / 3 < found[0].accuracy.value < found[1].accuracy.value <= 100
    assert found[0].deviation > found[1].deviation
    again = few_shot(*examples, *judged, shots=(1, 8))
    assert (again[0].hits == found[0].hits).all()
    assert (few_shot(*examples, *judged, shots=(1,), seed=1)[0].hits != found[0].hits).any()


def test_vectors_that_say_nothing_score_chance() -> None:
    found = few_shot(*clips(90, 0.0, 0), *clips(90, 0.0, 1), shots=(5,))[0]
    assert found.accuracy.low <= found.chance <= found.accuracy.high
    assert found.chance == pytest.approx(100 / 3)


def test_as_many_examples_as_every_class_has() -> None:
    examples = clips(21, 3.0, 0)
    assert [one.shots for one in few_shot(*examples, *clips(9, 3.0, 1), draws=2)] == [1, 5]


def test_bad_input_is_named() -> None:
    examples, judged = clips(9, 1.0, 0), clips(9, 1.0, 1)
    with pytest.raises(ConfigError, match=r"\[0\] examples"):
        few_shot(*examples, *judged, shots=(0,))
    with pytest.raises(ShapeError, match="one label a row"):
        few_shot(examples[0], examples[1][:-1], *judged)
    with pytest.raises(DataError, match=r"missing \['z'\]"):
        few_shot(*examples, judged[0], ["z"] * 9)
    with pytest.raises(DataError, match="at least 3 examples each"):
        few_shot(*examples, *judged, shots=(5,))
