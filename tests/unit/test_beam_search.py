"""Beam search on scores that are given: what is found, and how length counts."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from allophone.errors import ConfigError, ShapeError
from allophone.nn.beam_search import BeamConfig, beam_search

END, PAD, VOCABULARY = 2, 1, 5


class Table:
    """The next token depends on the last one and on how many there are."""

    def __init__(self, seed: int = 0, tokens: int = 4) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.scores = 2 * torch.randn(tokens, VOCABULARY, VOCABULARY, generator=generator)
        self.calls: list[Tensor | None] = []

    def __call__(self, tokens: Tensor, rows: Tensor | None) -> Tensor:
        self.calls.append(rows)
        return self.scores[tokens.shape[1] - 1][tokens[:, -1]]

    def score(self, text: tuple[int, ...], penalty: float) -> float:
        """By hand."""
        steps = self.scores.log_softmax(dim=-1)
        total = sum(float(steps[place, text[place], text[place + 1]]) for place in range(len(text) - 1))
        return total / (len(text) - 1) ** penalty


def texts(tokens: int) -> list[tuple[int, ...]]:
    """Every text that begins with 0 and ends, or has all its tokens."""
    others = [token for token in range(VOCABULARY) if token != END]
    found = [(0, *body, END) for n in range(tokens) for body in itertools.product(others, repeat=n)]
    return found + [(0, *body) for body in itertools.product(others, repeat=tokens)]


@pytest.mark.parametrize("seed", range(4))
def test_a_wide_beam_finds_the_best_of_all_texts(seed: int) -> None:
    table = Table(seed)
    config = BeamConfig(beams=100, max_tokens=4, end=END, pad=PAD, length_penalty=0.0)
    found = beam_search(table, torch.zeros(1, 1, dtype=torch.int64), config)[0]
    best = max(texts(4), key=lambda text: table.score(text, 0.0))
    assert found[0].tokens == best
    for text in found[:5]:
        assert text.score == pytest.approx(table.score(text.tokens, 0.0), rel=1e-4)
    assert [text.score for text in found] == sorted((text.score for text in found), reverse=True)


def test_one_beam_is_greedy() -> None:
    table, text = Table(3), [0]
    while len(text) < 5 and text[-1] != END:
        text.append(int(table.scores[len(text) - 1][text[-1]].argmax()))
    config = BeamConfig(beams=1, max_tokens=4, end=END, pad=PAD)
    assert beam_search(table, torch.zeros(1, 1, dtype=torch.int64), config)[0][0].tokens == tuple(text)


def test_length_counts_as_asked() -> None:
    scores = torch.full((4, VOCABULARY, VOCABULARY), -20.0)
    scores[0, 0, END], scores[0, 0, 3] = math.log(0.45), math.log(0.55)  # end now, or go on to a sure but longer text
    scores[1, 3, 3], scores[1, 3, 4] = math.log(0.7), math.log(0.3)
    scores[2, 3, END] = scores[2, 4, END] = 0.0
    table = Table()
    table.scores = scores
    beginning = torch.zeros(1, 1, dtype=torch.int64)
    short = beam_search(table, beginning, BeamConfig(beams=2, max_tokens=4, length_penalty=0.0))[0][0]
    long = beam_search(table, beginning, BeamConfig(beams=2, max_tokens=4, length_penalty=1.0))[0][0]
    assert short.tokens == (0, END) and long.tokens == (0, 3, 3, END)
    assert long.score == pytest.approx(math.log(0.55 * 0.7) / 3, rel=1e-4)


def test_utterances_do_not_disturb_each_other_and_rows_stay_their_own() -> None:
    table, config = Table(5), BeamConfig(beams=3, max_tokens=4, end=END, pad=PAD)
    beginnings = torch.tensor([[0], [3], [4]])
    together = beam_search(table, beginnings, config)
    assert table.calls[0] is None
    for rows in table.calls[1:]:
        assert rows is not None and (rows // 3).tolist() == [0] * 3 + [1] * 3 + [2] * 3
    for row, beginning in enumerate(beginnings):
        alone = beam_search(table, beginning[None], config)[0]
        assert [text.tokens for text in alone] == [text.tokens for text in together[row]]


def test_a_forced_token_is_there_and_costs_nothing() -> None:
    table, config = Table(1), BeamConfig(beams=2, max_tokens=3, end=END, pad=PAD, length_penalty=0.0)
    forced = torch.tensor([3, 4])
    found = beam_search(table, torch.zeros(2, 1, dtype=torch.int64), config, lambda new: forced if new == 0 else None)
    for texts_, token in zip(found, (3, 4), strict=True):
        assert {text.tokens[1] for text in texts_} == {token}
        best = texts_[0]
        free = table.score(best.tokens, 0.0) - table.score(best.tokens[:2], 0.0)
        assert best.score == pytest.approx(free, rel=1e-3, abs=1e-4)


def test_what_cannot_be_searched_is_refused() -> None:
    with pytest.raises(ConfigError, match="beams and max_tokens of at least 1"):
        BeamConfig(beams=0)
    with pytest.raises(ShapeError, match=r"beginning \(2, 0\)"):
        beam_search(Table(), torch.zeros(2, 0, dtype=torch.int64), BeamConfig())
