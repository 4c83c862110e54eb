"""A tiny log-mel encoder and a batch for it, for the tests of methods."""

from __future__ import annotations

import torch

from allophone.batch import SpeechBatch
from allophone.models.lasr import Lasr, LasrConfig
from allophone.models.wav2vec2_bert import Wav2Vec2Bert, Wav2Vec2BertConfig
from allophone.models.wavlm import Wavlm, WavlmConfig

LASR = LasrConfig(
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    subsampling_conv_channels=16,
    conv_kernel_size=5,
    num_mel_bins=40,
    attention_bias=True,
)
"""Small, with the published kernels of 5: frames that overlap."""


def encoder() -> Wav2Vec2Bert:
    torch.manual_seed(0)
    return Wav2Vec2Bert(
        Wav2Vec2BertConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            feature_stride=4,
            left_max_position_embeddings=4,
            right_max_position_embeddings=4,
            conv_depthwise_kernel_size=3,
            conformer_conv_dropout=0.0,
        )
    )


def lasr() -> Lasr:
    """Another family with the same frames: 40 ms apart, 55 ms wide."""
    torch.manual_seed(0)
    return Lasr(
        LasrConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            subsampling_conv_channels=16,
            subsampling_conv_kernel_size=2,
            conv_kernel_size=3,
            num_mel_bins=80,
            attention_bias=True,
            initializer_range=0.25,
        )
    )


def wavlm() -> Wavlm:
    """A third family with these frames, from the waveform."""
    torch.manual_seed(0)
    model = Wavlm(
        WavlmConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            conv_dim=(8, 8),
            conv_kernel=(40, 43),
            conv_stride=(20, 32),
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
            num_buckets=16,
            max_bucket_distance=20,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
        )
    )
    with torch.no_grad():  # larger than the initial weights, which in so narrow a model do next to nothing
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def batch(labels: int = 1, rows: int = 3) -> SpeechBatch:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([16_000, 9_000, 12_000])[:rows]
    frames = torch.tensor([(int(n) - 880) // 640 + 1 for n in lengths])
    size = int(frames.max())
    units = torch.randint(5, (rows, size, labels), generator=generator)
    masked = torch.rand(rows, size, generator=generator) < 0.5
    for row, length in enumerate(frames.tolist()):
        units[row, length:] = -1
        masked[row, length:] = False
    waveform = 0.1 * torch.randn(rows, 16_000, generator=generator)
    return SpeechBatch(tuple("abc")[:rows], waveform, lengths, frames, units, masked).validate()
