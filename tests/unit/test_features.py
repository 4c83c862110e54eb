"""Shapes, batching, errors and robustness of the features."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allophone.audio import features
from allophone.audio.features import FILTER_BANK_CLOCK, kaldi_fbank, kaldi_mfcc, mfcc39, stacked_fbank
from allophone.errors import AudioError, ShapeError

FUNCTIONS = [kaldi_fbank, kaldi_mfcc, mfcc39, lambda waveform: stacked_fbank(waveform, 2)]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_batch_equals_one_by_one(function):
    batch = noise(3, 5_000)
    together = function(batch)
    alone = torch.stack([function(waveform) for waveform in batch])
    assert together.dtype == torch.float32
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(400, 4_000))
def test_frame_count_is_the_clocks(samples):
    assert kaldi_fbank(noise(samples)).shape == (FILTER_BANK_CLOCK.count(samples), 80)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 20), st.integers(1, 12))
def test_frames_of_a_crop_are_a_crop_of_the_frames(first, frames):
    waveform = noise(6_000)
    start, count = FILTER_BANK_CLOCK.start(first), FILTER_BANK_CLOCK.samples(frames)
    whole = kaldi_mfcc(waveform)[first : first + frames]
    torch.testing.assert_close(kaldi_mfcc(waveform[start : start + count]), whole, atol=1e-4, rtol=0)


def test_cutting_into_chunks_changes_nothing(monkeypatch):
    waveform = noise(20_000)
    whole = kaldi_fbank(waveform)
    monkeypatch.setattr(features, "FRAMES_AT_ONCE", 7)
    torch.testing.assert_close(kaldi_fbank(waveform), whole, atol=1e-6, rtol=0)


def test_constant_offset_is_removed_and_silence_meets_the_floor():
    waveform = noise(4_000)
    torch.testing.assert_close(kaldi_fbank(waveform + 0.25), kaldi_fbank(waveform), atol=1e-3, rtol=0)
    floor = torch.tensor(features.ENERGY_FLOOR).log()
    assert torch.equal(kaldi_fbank(torch.zeros(800)), floor.expand(3, 80))


def test_louder_audio_adds_its_level_to_every_band():
    waveform = noise(4_000)
    difference = kaldi_fbank(0.5 * waveform) - kaldi_fbank(waveform)
    torch.testing.assert_close(difference, torch.full_like(difference, 2 * torch.tensor(0.5).log()), atol=1e-4, rtol=0)


def test_a_tone_lights_the_filter_around_it():
    time = torch.arange(16_000) / 16_000
    low, high = (kaldi_fbank(torch.sin(2 * torch.pi * hertz * time)).mean(0).argmax() for hertz in (300, 3_000))
    assert low < 20 < 45 < high


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_stacking_keeps_order_and_standardizes(stride):
    waveform = noise(8_000)
    stacked = stacked_fbank(waveform, stride)
    frames = stacked_fbank(waveform, 1)
    kept = len(frames) // stride * stride
    assert torch.equal(stacked.reshape(-1, 80), frames[:kept])
    torch.testing.assert_close(frames.mean(0), torch.zeros(80), atol=1e-5, rtol=0)
    torch.testing.assert_close(frames.std(0), torch.ones(80), atol=1e-4, rtol=0)


def test_silence_is_finite_after_standardizing():
    assert torch.equal(stacked_fbank(torch.zeros(4_000), 2), torch.zeros(11, 160))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_too_short(function):
    with pytest.raises(AudioError, match="too short"):
        function(torch.zeros(399))


def test_too_few_frames_to_stack():
    with pytest.raises(AudioError, match="need 4 frames = 880 samples"):
        stacked_fbank(torch.zeros(720), 4)


def test_integer_samples_are_refused():
    with pytest.raises(ShapeError, match=r"int16.*full scale"):
        kaldi_fbank(torch.zeros(1_000, dtype=torch.int16))


def test_three_dimensions_are_refused():
    with pytest.raises(ShapeError, match=r"\(1, 1, 800\)"):
        kaldi_fbank(torch.zeros(1, 1, 800))


def test_stride_zero_is_refused():
    with pytest.raises(ShapeError, match="stride is 0"):
        stacked_fbank(torch.zeros(1_000), 0)


def test_first_call_under_inference_mode_leaves_gradients_possible():
    features._povey_window.cache_clear()
    features._mel_filters.cache_clear()
    with torch.inference_mode():
        kaldi_fbank(noise(800))
    waveform = noise(800).requires_grad_()
    kaldi_fbank(waveform).sum().backward()
    assert waveform.grad is not None and waveform.grad.abs().sum() > 0
