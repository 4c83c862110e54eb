"""Prefix search against torch's CTC loss of every text there is."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch.nn.functional import ctc_loss

from allophone.errors import ConfigError, ShapeError
from allophone.nn.ctc import best_texts, prefix_search

FRAMES, SYMBOLS = 5, 4


def log_probability(scores: torch.Tensor, text: tuple[int, ...]) -> float:
    targets, length = torch.tensor([text], dtype=torch.int64), torch.tensor([len(text)])
    return -float(ctc_loss(scores[:, None], targets, torch.tensor([len(scores)]), length, reduction="sum"))


@pytest.mark.parametrize("seed", range(12))
def test_finds_the_most_probable_of_all_texts(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(FRAMES, SYMBOLS, generator=generator, dtype=torch.float64).mul(1.5).log_softmax(-1)
    texts = [text for n in range(FRAMES + 1) for text in product(range(1, SYMBOLS), repeat=n)]
    best = max(texts, key=lambda text: log_probability(scores, text))
    assert tuple(prefix_search(scores, width=10_000)) == best
    assert tuple(prefix_search(scores)) == best  # 16 of the texts are enough here
    ranked = best_texts(scores, width=10_000)
    assert all(value == pytest.approx(log_probability(scores, tuple(text)), abs=1e-6) for text, value in ranked)
    assert [value for _, value in ranked] == sorted((value for _, value in ranked), reverse=True)


@pytest.mark.parametrize(
    ("path", "text"),
    [([], []), ([0, 0], []), ([1, 1, 1], [1]), ([1, 0, 1], [1, 1]), ([0, 2, 2, 0, 0, 2, 3, 0], [2, 2, 3])],
)
def test_certain_outputs_are_spelled(path: list[int], text: list[int]) -> None:
    """Repeats are one symbol unless a blank stands between; blanks are none."""
    scores = torch.full((len(path), SYMBOLS), -30.0)
    scores[range(len(path)), path] = 0.0
    assert prefix_search(scores) == text


def test_what_is_likely_in_two_frames_beats_the_blank_of_each() -> None:
    assert prefix_search(torch.tensor([[0.6, 0.4], [0.6, 0.4]]).log()) == [1]


def test_errors() -> None:
    with pytest.raises(ShapeError, match=r"got shape \(3,\); expected \(frames, symbols\)"):
        prefix_search(torch.zeros(3))
    with pytest.raises(ConfigError, match="width is 0"):
        prefix_search(torch.zeros(3, 2), width=0)
