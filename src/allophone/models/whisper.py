"""Whisper's encoder, with the parameter names of ``transformers``; its decoder is left aside.

Published models hear windows of 30 s, filled up with silence. Here a shorter clip is cut: it costs what its own length
costs and never depends on its batch mates, but its frames differ from those of the filled window, whose attention
sees the silence and whose last frames hear it. What is longer than a window is encoded window by window, each alone.

Source: Radford et al. 2022, arXiv:2212.04356, section 2.2; layout as in ``transformers`` (openai/whisper-base).
Deviation: masked frames become zeros, in the log-mels and behind the convolutions, for want of a published parameter.
Shape letters: B batch, S samples, T frames (20 ms), N real frames of a batch end to end, N10 the same of 10-ms
log-mels, M mels, D dim, H heads.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allophone.audio.mel import WHISPER_CLOCK, whisper_log_mel
from allophone.batch import Packed, packed_features
from allophone.errors import ConfigError
from allophone.frames import SAMPLE_RATE, FrameClock
from allophone.models.output import EncoderOutput, checked_depth, checked_lengths, flat_mask
from allophone.nn.attention import by_length, packed_attention
from allophone.nn.convolution import activation
from allophone.nn.dropout import Dropout
from allophone.nn.products import Linear

PREFIXES = ("model.encoder.", "encoder.")
"""What stands before the encoder's parameter names in a file that also holds a decoder or a head."""
STRIDE = 2
"""Of the second convolution."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WhisperConfig:
    """Sizes of a Whisper encoder, named as in ``transformers``; defaults are openai/whisper-base."""

    d_model: int = 512
    """Width D of every layer."""
    encoder_layers: int = 6
    """Layers."""
    encoder_attention_heads: int = 8
    """Heads; must divide ``d_model``."""
    encoder_ffn_dim: int = 2048
    """Inner width of the feed-forward parts."""
    num_mel_bins: int = 80
    """Log-mel bands between 0 and 8 kHz (large-v3: 128)."""
    max_source_positions: int = 1500
    """Frames of a window."""
    dropout: float = 0.0
    """After attention and feed-forward parts, and on the input of the first layer."""
    attention_dropout: float = 0.0
    """On attention weights."""
    activation_dropout: float = 0.0
    """Inside the feed-forward parts."""
    activation_function: str = "gelu"
    """Inside the feed-forward parts."""

    def __post_init__(self) -> None:
        if self.d_model % self.encoder_attention_heads or self.d_model % 2:
            raise ConfigError(
                f"d_model {self.d_model} must be even and a multiple of encoder_attention_heads "
                f"{self.encoder_attention_heads}."
            )

    @property
    def clock(self) -> FrameClock:
        """Frames as the strided convolution over log-mels cuts them; it begins at the middle of the first window."""
        return FrameClock(hop=STRIDE * WHISPER_CLOCK.hop, receptive_field=WHISPER_CLOCK.receptive_field)

    @property
    def num_hidden_layers(self) -> int:
        """``encoder_layers`` by the name that the other families have."""
        return self.encoder_layers


class SelfAttention(nn.Module):
    """Multi-head attention without positions of its own; keys have no bias."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        width = config.d_model
        self.num_heads, self.dropout = config.encoder_attention_heads, config.attention_dropout
        self.k_proj = Linear(width, width, bias=False)
        self.v_proj, self.q_proj, self.out_proj = (Linear(width, width) for _ in range(3))

    def forward(self, hidden: Packed) -> Tensor:
        """``(N, D)`` packed to ``(N, D)``; frames attend within their own window only."""
        q, k, v = (
            layer(hidden.values).unflatten(-1, (self.num_heads, -1))
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        dropout = self.dropout if self.training else 0.0
        attended = packed_attention(q, k, v, hidden.lengths, dropout=dropout)
        output: Tensor = self.out_proj(attended.flatten(-2))
        return output


class EncoderLayer(nn.Module):
    """Attention and feed-forward part, each behind its norm."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        width = config.d_model
        self.self_attn = SelfAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1, self.fc2 = Linear(width, config.encoder_ffn_dim), Linear(config.encoder_ffn_dim, width)
        self.final_layer_norm = nn.LayerNorm(width)
        self.dropout, self.inner_dropout = Dropout(config.dropout), Dropout(config.activation_dropout)
        self.activation = activation(config.activation_function)

    def forward(self, hidden: Packed) -> Packed:
        """``(N, D)`` packed to ``(N, D)`` packed."""
        values = hidden.values
        values = values + self.dropout(self.self_attn(hidden.with_values(self.self_attn_layer_norm(values))))
        inner = self.inner_dropout(self.activation(self.fc1(self.final_layer_norm(values))))
        return hidden.with_values(values + self.dropout(self.fc2(inner)))


class Positions(nn.Module):
    """Sines and cosines of the frame number, which are never trained."""

    weight: Tensor

    def __init__(self, frames: int, dim: int) -> None:
        super().__init__()
        # The device is named because transformers 5 lets torch.arange forget the default one.
        device = torch.empty(0).device
        steps = torch.arange(dim // 2, device=device) * (-math.log(10_000) / max(1, dim // 2 - 1))
        angles = torch.arange(frames, device=device)[:, None] * steps.exp()
        self.register_buffer("weight", torch.cat([angles.sin(), angles.cos()], dim=1))

    def forward(self, lengths: tuple[int, ...]) -> Tensor:
        """Positions of windows of these lengths, end to end. Shape ``(N, D)``."""
        return torch.cat([self.weight[:length] for length in lengths])


class Whisper(nn.Module):
    """The encoder: waveform to hidden states, whatever the other utterances of the batch are."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.config = config
        self.clock = config.clock
        self.dim = config.d_model
        self.num_layers = config.encoder_layers
        self.conv1 = nn.Conv1d(config.num_mel_bins, config.d_model, 3, padding=1)
        self.conv2 = nn.Conv1d(config.d_model, config.d_model, 3, stride=STRIDE, padding=1)
        self.embed_positions = Positions(config.max_source_positions, config.d_model)
        self.layers = nn.ModuleList([EncoderLayer(config) for _ in range(config.encoder_layers)])
        self.layer_norm = nn.LayerNorm(config.d_model)
        self.dropout = Dropout(config.dropout)

    def features(self, waveform: Tensor, waveform_lengths: Tensor) -> Packed:
        """Log-mels of each window of each utterance, computed on its real samples only.

        Args:
            waveform: Shape ``(batch, samples)``, float32 in [-1, 1], 16 kHz.
            waveform_lengths: Shape ``(batch,)``, int64, samples.

        Returns:
            Packed ``(N10, mels)``, 100 frames a second; its lengths are those of the windows.
        """
        window = self.config.max_source_positions * self.clock.hop
        if waveform.shape[1] > window:
            utterances = [row[:length] for row, length in zip(waveform, waveform_lengths.tolist(), strict=True)]
            pieces = [piece for one in utterances for piece in one.split(window)]
            pieces = [piece for piece in pieces if self.clock.count(len(piece))]
            waveform = nn.utils.rnn.pad_sequence(pieces, batch_first=True)
            waveform_lengths = torch.tensor([len(piece) for piece in pieces])
        mels = self.config.num_mel_bins
        return packed_features(waveform, waveform_lengths, lambda samples: whisper_log_mel(samples, mels))

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
            ShapeError: Shapes disagree, or an utterance is shorter than one frame.
        """
        depth = checked_depth(num_layers, self.num_layers)
        lengths = checked_lengths(waveform, waveform_lengths, self.clock.receptive_field)
        frames = tuple(self.clock.count(length) for length in lengths)
        with torch.autocast(waveform.device.type, enabled=False):
            features = self.features(waveform, waveform_lengths)
        hidden = self._front_end(features, None if masked is None else flat_mask(masked, frames))
        states = [Packed(hidden.values, frames)]
        for layer in self.layers[:depth]:
            hidden = layer(hidden)
            states.append(Packed(hidden.values, frames))
        if depth == self.num_layers:
            states[-1] = Packed(self.layer_norm(hidden.values), frames)
        return EncoderOutput(hidden_states=tuple(states))

    def _front_end(self, mels: Packed, masked: Tensor | None) -> Packed:
        """``(N10, M)`` packed to the input of the first layer, ``(N, D)`` packed; ``masked`` is ``(N,)``, bool."""
        if masked is not None:
            frames = tuple(-(-length // STRIDE) for length in mels.lengths)
            windows = Packed(masked, frames).split()
            unseen = torch.cat(
                [row.repeat_interleave(STRIDE)[:length] for row, length in zip(windows, mels.lengths, strict=True)]
            )
            mels = mels.with_values(mels.values * ~unseen[:, None])
        hidden = by_length(mels, self._convolve)
        values = hidden.values if masked is None else hidden.values * ~masked[:, None]
        return hidden.with_values(self.dropout(values + self.embed_positions(hidden.lengths)))

    def _convolve(self, mels: Tensor) -> Tensor:
        """``(B, T10, M)`` to ``(B, T, D)``."""
        hidden: Tensor = F.gelu(self.conv2(F.gelu(self.conv1(mels.transpose(1, 2)))))
        return hidden.transpose(1, 2)


def to_transformers(config: WhisperConfig) -> dict[str, Any]:
    """The ``config.json`` that ``transformers``' ``WhisperEncoder`` reads (``AutoModel`` would add a decoder)."""
    return {"architectures": ["WhisperEncoder"], "model_type": "whisper", **asdict(config)}


def preprocessor_to_transformers(config: WhisperConfig) -> dict[str, Any]:
    """The ``preprocessor_config.json`` that ``transformers.WhisperFeatureExtractor`` reads."""
    seconds = config.max_source_positions * config.clock.hop / SAMPLE_RATE
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": config.num_mel_bins,
        "hop_length": WHISPER_CLOCK.hop,
        "n_fft": 400,
        "chunk_length": int(seconds) if seconds.is_integer() else seconds,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
        "sampling_rate": SAMPLE_RATE,
    }


def from_transformers(values: dict[str, Any], preprocessor: dict[str, Any]) -> WhisperConfig:
    """Read a ``config.json`` of model type ``whisper`` and its ``preprocessor_config.json``.

    Raises:
        ConfigError: The two do not fit together, or ask for other log-mels than are built here.
    """
    config = WhisperConfig(**{name: values[name] for name in WhisperConfig.__dataclass_fields__ if name in values})
    expected = preprocessor_to_transformers(config)
    for key in ("feature_size", "hop_length", "n_fft", "sampling_rate"):
        if preprocessor.get(key, expected[key]) != expected[key]:
            raise ConfigError(
                f"whisper: preprocessor_config.json says {key} {preprocessor[key]}, expected {expected[key]}. "
                "The two files do not belong together, or other log-mels were used that are not built here."
            )
    return config
