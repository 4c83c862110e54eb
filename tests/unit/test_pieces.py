"""Long recordings: pieces without gaps, none too long, cut where it is quiet."""

from __future__ import annotations

import itertools

import pytest
import torch

from allophone.audio.pieces import cut_at_pauses
from allophone.errors import ConfigError


def test_pieces_follow_one_another_and_none_is_too_long() -> None:
    waveform = torch.randn(16_000 * 47, generator=torch.Generator().manual_seed(0))
    pieces = cut_at_pauses(waveform, 10.0)
    assert pieces[0][0] == 0 and pieces[-1][1] == len(waveform)
    assert all(one[1] == two[0] for one, two in itertools.pairwise(pieces))
    assert all(5.0 <= (end - start) / 16_000 <= 10.0 for start, end in pieces[:-1])
    assert pieces[-1][1] - pieces[-1][0] <= 160_000


def test_a_cut_lies_in_the_pause() -> None:
    waveform = torch.ones(16_000 * 12)
    waveform[16_000 * 7 : 16_000 * 7 + 8_000] = 0
    ((_, end), _) = cut_at_pauses(waveform, 10.0)
    assert 7.0 <= end / 16_000 <= 7.5


def test_too_short_pieces_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"take at least 0\.4 s"):
        cut_at_pauses(torch.zeros(10), 0.1)
