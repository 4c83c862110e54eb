"""The encoder of Whisper: two convolutions over log-mels and a pre-norm transformer, parameters as in ``transformers``.

Published models hear 30 s at a time, whatever is in them: what follows a short clip is silence that takes part in
attention. Here a clip is heard alone by default, which costs a tenth for a prompt of 3 s, and its frames are others
than the published ones (cosine 0.94 on average); ``whole_window`` gives these.

Source: Radford et al. 2022, arXiv:2212.04356; layout as in ``transformers``. Deviations: the window, as above;
positions are never trained; masked frames become zeros, for want of a published parameter.
Shape letters: B batch, S samples, T frames, N real frames of a batch end to end, D dim.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allophone.audio.mel import WHISPER_HOP, whisper_mel
from allophone.batch import Packed, packed_features
from allophone.errors import ConfigError, ShapeError
from allophone.frames import SAMPLE_RATE, FrameClock
from allophone.models.output import EncoderOutput, checked_depth, checked_lengths, flat_mask
from allophone.nn.attention import by_length, packed_attention
from allophone.nn.products import Linear

WINDOW_SECONDS = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class WhisperConfig:
    """Sizes of the encoder, named as in ``transformers``; defaults are openai/whisper-base."""

    d_model: int = 512
    """Width D of every layer."""
    encoder_layers: int = 6
    """Transformer layers."""
    encoder_attention_heads: int = 8
    """Heads; must divide ``d_model``."""
    encoder_ffn_dim: int = 2048
    """Inner width of the feed-forward parts."""
    num_mel_bins: int = 80
    """Log-mel bands."""
    max_source_positions: int = 1500
    """Frames of 20 ms that have a position: 30 s."""
    attention_dropout: float = 0.0
    """On attention weights."""
    whole_window: bool = False
    """Whether silence up to 30 s is heard with every clip, as published; False hears the clip alone."""

    def __post_init__(self) -> None:
        if self.d_model % self.encoder_attention_heads or self.d_model % 2:
            raise ConfigError(
                f"d_model {self.d_model} must be even and a multiple of encoder_attention_heads "
                f"{self.encoder_attention_heads}."
            )

    @property
    def clock(self) -> FrameClock:
        """20-ms frames; what each sees beyond its 20 ms is there or is silence."""
        return FrameClock(hop=2 * WHISPER_HOP, receptive_field=2 * WHISPER_HOP)


class SelfAttention(nn.Module):
    """Multi-head attention within each utterance; keys have no bias."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        width = config.d_model
        self.num_heads, self.dropout = config.encoder_attention_heads, config.attention_dropout
        self.k_proj = Linear(width, width, bias=False)
        self.v_proj, self.q_proj, self.out_proj = (Linear(width, width) for _ in range(3))

    def forward(self, hidden: Packed) -> Tensor:
        """Packed ``(N, D)`` to ``(N, D)``."""
        q, k, v = (
            layer(hidden.values).unflatten(-1, (self.num_heads, -1))
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.dropout if self.training else 0.0
        attended: Tensor = self.out_proj(packed_attention(q, k, v, hidden.lengths, dropout=dropout).flatten(-2))
        return attended


class EncoderLayer(nn.Module):
    """Attention and feed-forward part, each behind its norm, each with a residual."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.self_attn = SelfAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = Linear(config.d_model, config.encoder_ffn_dim)
        self.fc2 = Linear(config.encoder_ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, hidden: Packed) -> Packed:
        """Packed ``(N, D)`` to packed ``(N, D)``."""
        values = hidden.values
        values = values + self.self_attn(hidden.with_values(self.self_attn_layer_norm(values)))
        return hidden.with_values(values + self.fc2(F.gelu(self.fc1(self.final_layer_norm(values)))))


class Whisper(nn.Module):
    """The encoder: waveform to hidden states, whatever the other utterances of the batch are."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.config = config
        self.clock = config.clock
        self.dim = config.d_model
        self.num_layers = config.encoder_layers
        self.conv1 = nn.Conv1d(config.num_mel_bins, config.d_model, 3, padding=1)
        self.conv2 = nn.Conv1d(config.d_model, config.d_model, 3, stride=2, padding=1)
        self.embed_positions = nn.Embedding(config.max_source_positions, config.d_model)
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(config.d_model)
        self.embed_positions.requires_grad_(False)
        with torch.no_grad():
            self.embed_positions.weight.copy_(_sinusoids(config.max_source_positions, config.d_model))

    def forward(
        self,
        waveform: Tensor,
        waveform_lengths: Tensor,
        masked: Tensor | None = None,
        num_layers: int | None = None,
    ) -> EncoderOutput:
        """Encode a batch.

        Args:
            waveform: Shape ``(batch, samples)``, float32 in [-1, 1], 16 kHz.
            waveform_lengths: Shape ``(batch,)``, int64, samples.
            masked: Shape ``(batch, frames)``, bool, True = hidden from every frame. None hides nothing.
            num_layers: Stop after this many layers; None runs all.

        Returns:
            Hidden states 0 to ``num_layers``, packed. The last of all is behind the final norm, as in
            ``transformers``.

        Raises:
            ConfigError: ``num_layers`` is negative or more than there are.
            ShapeError: Shapes disagree, or an utterance is shorter than one frame or longer than the positions last.
        """
        depth = checked_depth(num_layers, self.num_layers)
        frames = tuple(
            self.clock.count(one) for one in checked_lengths(waveform, waveform_lengths, self.clock.receptive_field)
        )
        most = self.config.max_source_positions
        if max(frames) > most:
            row = frames.index(max(frames))
            raise ShapeError(
                f"utterance {row} of the batch has {frames[row]} frames ({frames[row] / self.clock.rate:.1f} s); the "
                f"model has positions for {most} ({most / self.clock.rate:.0f} s). Cut it into shorter stretches."
            )
        hidden = self._embed(waveform, waveform_lengths, masked)
        states = [hidden]
        for layer in self.layers[:depth]:
            hidden = layer(hidden)
            states.append(hidden)
        if depth == self.num_layers:
            states[-1] = hidden.with_values(self.layer_norm(hidden.values))
        if self.config.whole_window:
            states = [_first(state, frames) for state in states]
        return EncoderOutput(hidden_states=tuple(states))

    def _embed(self, waveform: Tensor, lengths: Tensor, masked: Tensor | None) -> Packed:
        """Convolved log-mels with positions, packed ``(N, D)``."""
        window = self.config.max_source_positions * self.clock.hop
        with torch.autocast(waveform.device.type, enabled=False):
            mels = packed_features(
                waveform,
                lengths,
                lambda samples: whisper_mel(
                    F.pad(samples, (0, window - samples.shape[-1])) if self.config.whole_window else samples,
                    self.config.num_mel_bins,
                ),
            )
        if masked is not None:
            spread = F.pad(masked.repeat_interleave(2, dim=1), (0, max(mels.lengths)))
            hide = torch.cat([row[:length] for row, length in zip(spread, mels.lengths, strict=True)])
            mels = mels.with_values(mels.values * ~hide[:, None])
        hidden = by_length(mels, self._convolve)
        if masked is not None and not self.config.whole_window:
            hidden = hidden.with_values(hidden.values * ~flat_mask(masked, hidden.lengths)[:, None])
        places = torch.cat([self.embed_positions.weight[:length] for length in hidden.lengths])
        return hidden.with_values(hidden.values + places)

    def _convolve(self, mels: Tensor) -> Tensor:
        """``(B, 2 T, mels)`` to ``(B, T, D)``."""
        inner = F.gelu(self.conv1(mels.transpose(1, 2)))
        return F.gelu(self.conv2(inner)).transpose(1, 2)


def _first(state: Packed, frames: tuple[int, ...]) -> Packed:
    """The first frames of each utterance."""
    return Packed(torch.cat([part[:kept] for part, kept in zip(state.split(), frames, strict=True)]), frames)


def _sinusoids(length: int, dim: int) -> Tensor:
    """Sines, then cosines, of periods from 2 pi to 20,000 pi frames. Shape ``(length, dim)``."""
    steps = torch.exp(-torch.log(torch.tensor(10_000.0)) / (dim // 2 - 1) * torch.arange(dim // 2))
    angles = torch.arange(length)[:, None] * steps[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def to_transformers(config: WhisperConfig) -> dict[str, Any]:
    """The ``config.json`` that ``transformers``' ``WhisperEncoder`` reads."""
    return {
        "architectures": ["WhisperEncoder"],
        "model_type": "whisper",
        **asdict(config),
        "num_hidden_layers": config.encoder_layers,
        "activation_function": "gelu",
        "dropout": 0.0,
        "activation_dropout": 0.0,
        "encoder_layerdrop": 0.0,
    }


def preprocessor_to_transformers(config: WhisperConfig) -> dict[str, Any]:
    """The ``preprocessor_config.json`` that ``transformers``' ``WhisperFeatureExtractor`` reads."""
    samples = WINDOW_SECONDS * SAMPLE_RATE
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": config.num_mel_bins,
        "hop_length": WHISPER_HOP,
        "n_fft": 400,
        "chunk_length": WINDOW_SECONDS,
        "n_samples": samples,
        "nb_max_frames": samples // WHISPER_HOP,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
        "sampling_rate": SAMPLE_RATE,
    }


def from_transformers(values: dict[str, Any], preprocessor: dict[str, Any]) -> WhisperConfig:
    """Read a ``config.json`` of model type ``whisper`` and its ``preprocessor_config.json``; the decoder is left aside.

    Raises:
        ConfigError: They ask for a part that is not built here, or the two do not fit together.
    """
    if values.get("activation_function", "gelu") != "gelu":
        asked = values["activation_function"]
        raise ConfigError(f"whisper config: activation_function is {asked!r}; only 'gelu' is built here.")
    expected = {
        "feature_size": values.get("num_mel_bins", 80),
        "hop_length": WHISPER_HOP,
        "n_fft": 400,
        "sampling_rate": SAMPLE_RATE,
    }
    for key, wanted in expected.items():
        if preprocessor.get(key, wanted) != wanted:
            raise ConfigError(
                f"whisper: preprocessor_config.json says {key} {preprocessor[key]}, expected {wanted}. The two files "
                "do not belong together, or other log-mels were used that are not built here."
            )
    return WhisperConfig(**{name: values[name] for name in WhisperConfig.__dataclass_fields__ if name in values})
