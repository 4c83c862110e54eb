"""A waveform made of a log-mel spectrogram has that spectrogram."""

from __future__ import annotations

import pytest
import torch

from allophone.audio.mel import log_mel
from allophone.audio.phase import waveform_of_mel
from allophone.errors import ShapeError

HOP = 160


def test_speech_comes_back_with_its_spectrogram(speech) -> None:
    mel = log_mel(torch.as_tensor(speech(1.0, seed=1)).float(), 80, HOP)
    made = waveform_of_mel(mel, HOP)
    assert len(made) == len(mel) * HOP
    loud = mel > mel.max() - 5
    near = (log_mel(made, 80, HOP) - mel)[loud].abs().mean()
    first = (log_mel(waveform_of_mel(mel, HOP, iterations=0), 80, HOP) - mel)[loud].abs().mean()
    assert near < 0.2 and near < 0.6 * first


def test_the_same_seed_gives_the_same_waveform_and_nothing_is_refused() -> None:
    mel = torch.randn(12, 80, generator=torch.Generator().manual_seed(0)) - 4
    assert torch.equal(waveform_of_mel(mel, HOP), waveform_of_mel(mel, HOP))
    assert not torch.equal(waveform_of_mel(mel, HOP), waveform_of_mel(mel, HOP, seed=1))
    with pytest.raises(ShapeError, match=r"expected \(frames, mels\)"):
        waveform_of_mel(mel[:0], HOP)
