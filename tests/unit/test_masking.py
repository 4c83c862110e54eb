from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from allophone.errors import ConfigError
from allophone.nn.masking import expected_masked_fraction, span_mask


def draw(frames: int, seed: int = 0, probability: float = 0.8, length: int = 10, min_spans: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return span_mask(frames, probability=probability, length=length, generator=generator, min_spans=min_spans)


def runs(mask: Tensor) -> list[int]:
    return [len(list(group)) for hidden, group in itertools.groupby(mask.tolist()) if hidden]


def test_masked_fraction_is_not_the_probability() -> None:
    fraction = torch.stack([draw(800, seed).float().mean() for seed in range(40)]).mean().item()
    assert abs(fraction - expected_masked_fraction(0.8, 10)) < 0.015
    assert fraction < 0.6


@pytest.mark.parametrize("frames", range(2, 60))
def test_short_clips_are_hidden_in_part(frames: int) -> None:
    for seed in range(5):
        mask = draw(frames, seed)
        assert mask.shape == (frames,) and mask.dtype == torch.bool
        assert 0 < int(mask.sum()) < frames
        assert not mask[-1]


@pytest.mark.parametrize("frames", [0, 1])
def test_nothing_to_hide(frames: int) -> None:
    assert draw(frames).tolist() == [False] * frames


def test_spans_are_whole() -> None:
    for seed in range(10):
        assert min(runs(draw(300, seed))) >= 10


def test_at_least_min_spans_are_drawn() -> None:
    most = [max(len(runs(draw(200, seed, probability=0.01, min_spans=n))) for seed in range(10)) for n in (1, 2, 3)]
    assert most == [1, 2, 3]


def test_probability_zero_hides_nothing() -> None:
    assert not draw(100, probability=0.0).any()


def test_mask_is_a_function_of_the_generator() -> None:
    assert torch.equal(draw(400, 1), draw(400, 1))
    assert not torch.equal(draw(400, 1), draw(400, 2))


@pytest.mark.parametrize("setting", [{"probability": 1.1}, {"probability": -0.1}, {"length": 0}, {"min_spans": -1}])
def test_settings_out_of_range(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="span mask needs 0 <= probability <= 1"):
        draw(100, **setting)  # type: ignore[arg-type]
