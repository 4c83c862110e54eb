"""Our features against kaldi-native-fbank and transformers, and deltas against their definition."""

import numpy as np
import pytest
import torch

from allophone.audio.features import deltas, kaldi_fbank, kaldi_mfcc, mfcc39, stacked_fbank

knf = pytest.importorskip("kaldi_native_fbank")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.parity


def speechlike(samples: int, seed: int) -> torch.Tensor:
    """Harmonics that glide and fade over weak noise: loud and quiet bands next to each other."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(samples, dtype=torch.float64) / 16_000
    pitch = 110 + 60 * seed + 25 * torch.sin(2 * torch.pi * 1.7 * time)
    phase = 2 * torch.pi * torch.cumsum(pitch, 0) / 16_000
    voice = sum(torch.sin(k * phase) / k**1.5 for k in range(1, 25))
    loudness = 0.5 + 0.5 * torch.sin(2 * torch.pi * 3.1 * time)
    noise = torch.randn(samples, generator=generator, dtype=torch.float64)
    return (0.2 * loudness * voice + 2e-3 * noise + 1e-3).clamp(-1, 1).float()


WAVEFORMS = [speechlike(samples, seed) for seed, samples in enumerate([400, 561, 16_000, 40_123])]


def kaldi_features(waveform: torch.Tensor, kind: str) -> np.ndarray:
    if kind == "fbank":
        options = knf.FbankOptions()
        options.mel_opts.num_bins = 80
    else:
        options = knf.MfccOptions()
        options.use_energy = False
        options.num_ceps = 13
        options.mel_opts.num_bins = 23
    options.frame_opts.dither = 0
    options.frame_opts.samp_freq = 16_000
    options.frame_opts.snip_edges = True
    options.mel_opts.low_freq = 20
    options.mel_opts.high_freq = 0
    computer = knf.OnlineFbank(options) if kind == "fbank" else knf.OnlineMfcc(options)
    computer.accept_waveform(16_000, (waveform * 32768).tolist())
    computer.input_finished()
    return np.stack([computer.get_frame(i) for i in range(computer.num_frames_ready)])


@pytest.mark.parametrize("waveform", WAVEFORMS)
@pytest.mark.parametrize(("kind", "ours"), [("fbank", kaldi_fbank), ("mfcc", kaldi_mfcc)])
def test_equal_to_kaldi(waveform, kind, ours):
    theirs = kaldi_features(waveform, kind)
    mine = ours(waveform).numpy()
    assert mine.shape == theirs.shape
    assert np.abs(mine - theirs).max() < 1e-3


@pytest.mark.parametrize("stride", [2, 4])
@pytest.mark.parametrize("waveform", WAVEFORMS[2:])
def test_equal_to_seamless_extractor(waveform, stride):
    extractor = transformers.SeamlessM4TFeatureExtractor(stride=stride)
    theirs = extractor(waveform.numpy(), sampling_rate=16_000, pad_to_multiple_of=None)["input_features"][0]
    mine = stacked_fbank(waveform, stride).numpy()
    assert mine.shape == theirs.shape
    assert np.abs(mine - theirs).max() < 1e-4


@pytest.mark.parametrize("waveform", WAVEFORMS[2:])
def test_fbank_without_normalization_equals_seamless(waveform):
    extractor = transformers.SeamlessM4TFeatureExtractor()
    theirs = extractor._extract_fbank_features(waveform.numpy())
    assert np.abs(kaldi_fbank(waveform).numpy() - theirs).max() < 1e-4


def written_out_deltas(features: np.ndarray) -> np.ndarray:
    """Regression slope over 5 frames, term by term (torchaudio's and HTK's definition)."""
    frames = len(features)
    out = np.zeros_like(features)
    for t in range(frames):
        for n in (1, 2):
            out[t] += n * (features[min(t + n, frames - 1)] - features[max(t - n, 0)])
    return out / (2 * (1**2 + 2**2))


def test_deltas_equal_their_definition():
    features = np.random.default_rng(0).normal(size=(17, 5))
    assert np.allclose(deltas(torch.from_numpy(features)).numpy(), written_out_deltas(features), atol=1e-12)


@pytest.mark.parametrize("waveform", WAVEFORMS)
def test_mfcc39_equals_kaldi_mfcc_with_deltas(waveform):
    cepstra = kaldi_features(waveform, "mfcc")
    first = written_out_deltas(cepstra)
    theirs = np.concatenate([cepstra, first, written_out_deltas(first)], axis=1)
    assert np.abs(mfcc39(waveform).numpy() - theirs).max() < 1e-3


def test_kaldi_delta_filter_away_from_edges():
    """Kaldi's delta-deltas use one 9-tap filter; inside the clip ours must be the same."""
    features = np.random.default_rng(1).normal(size=(30, 3))
    taps = np.convolve(np.arange(-2, 3), np.arange(-2, 3)) / 100
    expected = np.stack([np.correlate(column, taps, mode="valid") for column in features.T], axis=1)
    twice = deltas(deltas(torch.from_numpy(features))).numpy()
    assert np.allclose(twice[4:-4], expected, atol=1e-12)
