"""Our vocoder mel against transformers' audio utilities, which follow librosa (filters of norm and scale 'slaney')."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from allophone.audio.mel import log_mel
from allophone.errors import AudioError, ShapeError

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("mels", [80, 128])
def test_log_mel_equals_transformers(mels: int, speech) -> None:
    waveform = speech(1.0).numpy()
    waveform[4_000:5_000] = 0.0
    filters = mel_filter_bank(513, mels, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney")
    expected = spectrogram(
        np.pad(waveform, 384, mode="reflect"),
        window_function(1024, "hann"),
        frame_length=1024,
        hop_length=256,
        power=1.0,
        center=False,
        mel_filters=filters,
        mel_floor=1e-5,
        log_mel="log",
    ).T
    mine = log_mel(torch.from_numpy(waveform), mels)
    assert mine.shape == expected.shape
    theirs = torch.from_numpy(expected).float()
    torch.testing.assert_close(mine, theirs, atol=0.03, rtol=0)
    loud = theirs > -8  # in digital silence (floor -11.5) the 1e-9 under the published root shows
    torch.testing.assert_close(mine[loud], theirs[loud], atol=1e-4, rtol=0)
    assert float(loud.float().mean()) > 0.8


def test_batch_gradient_and_refusals() -> None:
    rows = (0.1 * torch.randn(2, 4_000)).requires_grad_()
    torch.testing.assert_close(log_mel(rows)[1], log_mel(rows[1]))
    silent = torch.zeros(4_000, requires_grad=True)
    (log_mel(rows).sum() + log_mel(silent).sum()).backward()
    assert bool(rows.grad.isfinite().all()) and bool(silent.grad.isfinite().all())
    with pytest.raises(AudioError, match="got 384 samples, need 385"):
        log_mel(torch.zeros(384))
    with pytest.raises(ShapeError, match="expected floating point"):
        log_mel(torch.zeros(4_000, dtype=torch.int16))
