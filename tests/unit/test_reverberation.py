"""audio/reverberation: time and level are kept, rooms decay as they should, convolution is scipy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from allophone.audio.mixing import power
from allophone.audio.reverberation import ReverbConfig, draw_response, reverberate, synthetic_response
from allophone.errors import ConfigError
from allophone.seeding import torch_generator


def lag(dry: Tensor, wet: Tensor) -> int:
    """Samples by which ``wet`` comes after ``dry``, by the highest cross-correlation."""
    size = 2 * len(dry)
    spectrum = np.conj(np.fft.rfft(dry.numpy(), size)) * np.fft.rfft(wet.numpy(), size)
    best = int(np.argmax(np.abs(np.fft.irfft(spectrum, size))))
    return best - size if best > size // 2 else best


@pytest.fixture(scope="module")
def dry(speech) -> Tensor:
    return speech(2.0, seed=4) + 0.02 * torch.randn(32_000, generator=torch_generator(4))


@pytest.mark.parametrize("seed", range(6))
def test_labels_keep_their_time_and_level(dry: Tensor, seed: int) -> None:
    response = draw_response(ReverbConfig(), torch_generator(seed))
    before = dry.clone()
    wet = reverberate(dry, response)
    assert wet.shape == dry.shape and wet.dtype == torch.float32 and torch.equal(dry, before)
    assert not torch.allclose(wet, dry, atol=1e-3)
    assert lag(dry, wet) == 0
    assert power(wet) == pytest.approx(power(dry), rel=1e-5)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("delay", [0, 37, 4_000])
def test_delay_level_and_polarity_of_a_measured_response_do_not_matter(dry: Tensor, delay: int, sign: float) -> None:
    response = synthetic_response(0.3, 6.0, torch_generator(1))
    late = sign * 0.01 * torch.cat([torch.zeros(delay), response])
    wet = reverberate(dry, late)
    assert lag(dry, wet) == 0
    torch.testing.assert_close(sign * wet, reverberate(dry, response), rtol=1e-4, atol=1e-5)


def test_a_later_but_stronger_reflection_is_the_direct_path() -> None:
    clip = torch.zeros(100)
    clip[50] = 1.0
    wet = reverberate(clip, torch.tensor([0.5, 0.0, 1.0]))
    assert (wet.abs() > 1e-5).nonzero().flatten().tolist() == [48, 50]
    assert float(wet[48] / wet[50]) == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("rt60", [0.2, 0.5, 0.8])
def test_made_up_rooms_decay_as_asked_for(rt60: float) -> None:
    """Schroeder's backward integration: -5 to -25 dB of the tail, extrapolated to 60 dB."""
    response = synthetic_response(rt60, 0.0, torch_generator(7)).double().numpy()
    assert response[0] == 1.0 and np.abs(response[1:]).max() < 1.0
    assert np.sum(response[1:] ** 2) == pytest.approx(1.0, rel=1e-4)
    decay = 10 * np.log10(np.cumsum(response[:0:-1] ** 2)[::-1])
    time = np.arange(len(decay)) / 16_000
    chosen = (decay < -5) & (decay > -25)
    slope = np.polyfit(time[chosen], decay[chosen], 1)[0]
    assert -60 / slope == pytest.approx(rt60, rel=0.15)


def test_direct_to_reverberant_ratio() -> None:
    response = synthetic_response(0.4, 9.0, torch_generator(0))
    assert -10 * np.log10(float(response[1:].square().sum())) == pytest.approx(9.0, abs=1e-3)


@pytest.mark.parity
def test_convolution_is_scipys(dry: Tensor) -> None:
    signal = pytest.importorskip("scipy.signal")
    response = torch.cat([torch.zeros(20), synthetic_response(0.25, 3.0, torch_generator(5))])
    expected = signal.fftconvolve(dry.double().numpy(), response.double().numpy())[20 : 20 + len(dry)]
    expected *= np.sqrt(power(dry) / np.mean(expected**2))
    np.testing.assert_allclose(reverberate(dry, response).numpy(), expected, atol=2e-6)


def test_long_responses_are_cut_around_the_direct_path(dry: Tensor) -> None:
    response = torch.zeros(40_000)
    response[20_000] = 1.0
    response[20_000 + 15_999], response[20_000 + 16_000] = 0.5, 0.5
    wet = reverberate(dry, response, max_seconds=1.0)
    cut = response.clone()
    cut[20_000 + 16_000] = 0
    torch.testing.assert_close(wet, reverberate(dry, cut, max_seconds=2.0), rtol=1e-4, atol=1e-6)


def test_silence_and_nothing_stay_as_they_are(dry: Tensor) -> None:
    response = synthetic_response(0.3, 6.0, torch_generator(1))
    for clip, room in ((torch.zeros(500), response), (dry, torch.zeros(500)), (dry, torch.zeros(0))):
        assert torch.equal(reverberate(clip, room), clip)
    assert reverberate(torch.zeros(0), response).shape == (0,)
    short = torch.ones(3)
    assert reverberate(short, response).shape == (3,)


def test_rooms_are_drawn_from_the_range_by_key() -> None:
    config = ReverbConfig(rt60_seconds=(0.2, 0.4))
    rooms = [draw_response(config, torch_generator(0, number)) for number in range(200)]
    assert 3_200 <= min(map(len, rooms)) < 3_400 and 6_200 < max(map(len, rooms)) <= 6_400
    assert torch.equal(rooms[3], draw_response(config, torch_generator(0, 3)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"probability": 2.0}, "reverb.probability must lie within 0 and 1; got 2.0"),
        ({"rt60_seconds": (0.5, 0.2)}, "reverb.rt60_seconds must be a range above 0"),
        ({"max_seconds": 0.0}, "reverb.max_seconds must be positive"),
    ],
)
def test_settings_out_of_range(settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        ReverbConfig(**settings)
