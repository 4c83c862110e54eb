"""Wav2Vec2-BERT: a Conformer over stacked log-mel frames, with the parameter names of ``transformers``.

The front end has no parameters before the projection, which makes it the cheap family: no strided convolutions over
16,000 samples a second. ``feature_stride`` log-mel frames of 10 ms are stacked into one encoder frame, so stride 2
is the published 20 ms (facebook/w2v-bert-2.0) and stride 4 the 40 ms of allophone's starter encoder.

Source: Chung et al. 2021, arXiv:2108.06209; Gulati et al. 2020, arXiv:2005.08100; layout as in ``transformers``.
Shape letters: B batch, T frames, N real frames of a batch end to end, D dim, H heads, E head dim.
Not here: the adapter and the intermediate feed-forward of SeamlessM4T, rotary and sinusoidal positions.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allophone.audio.features import FILTER_BANK_CLOCK, stacked_fbank
from allophone.batch import Packed, packed_features, valid_positions
from allophone.errors import ConfigError
from allophone.frames import SAMPLE_RATE, FrameClock
from allophone.models.output import EncoderOutput
from allophone.nn.attention import by_length, near_offsets
from allophone.nn.dropout import Dropout
from allophone.nn.products import Linear, product

NUM_MELS = 80
"""Log-mel bands of a 10-ms frame, in every published model of the family."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wav2Vec2BertConfig:
    """Sizes of a Wav2Vec2-BERT encoder, named as in ``transformers``; defaults are facebook/w2v-bert-2.0."""

    hidden_size: int = 1024
    """Width D of every layer."""
    num_hidden_layers: int = 24
    """Conformer layers."""
    num_attention_heads: int = 16
    """Heads; must divide ``hidden_size``."""
    intermediate_size: int = 4096
    """Inner width of both feed-forward modules."""
    feature_stride: int = 2
    """10-ms frames stacked into one encoder frame."""
    left_max_position_embeddings: int = 64
    """Relative distances further to the left share one embedding, frames."""
    right_max_position_embeddings: int = 8
    """The same to the right, frames."""
    conv_depthwise_kernel_size: int = 31
    """Odd; the convolution is causal, as published."""
    hidden_dropout: float = 0.0
    """After each feed-forward module and the projection."""
    activation_dropout: float = 0.0
    """Inside the feed-forward modules."""
    attention_dropout: float = 0.0
    """On attention weights and after attention."""
    feat_proj_dropout: float = 0.0
    """After the input projection."""
    conformer_conv_dropout: float = 0.1
    """After the convolution module."""
    layer_norm_eps: float = 1e-5
    """Added to variances."""
    local_attention_init: bool = False
    """Whether fresh heads start by looking at near frames; has no part in a trained model."""
    initializer_range: float = 0.02
    """Standard deviation of fresh linear weights; narrow models want about ``hidden_size ** -0.5``."""

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}."
            )
        if self.conv_depthwise_kernel_size % 2 == 0:
            raise ConfigError(f"conv_depthwise_kernel_size must be odd; got {self.conv_depthwise_kernel_size}.")

    @property
    def clock(self) -> FrameClock:
        """Frames as cut by stacking: hop ``stride * 160``, window one fbank window plus ``stride - 1`` hops."""
        stride = self.feature_stride
        return FrameClock(hop=FILTER_BANK_CLOCK.hop * stride, receptive_field=FILTER_BANK_CLOCK.samples(stride))


class FeatureProjection(nn.Module):
    """LayerNorm, then Linear from stacked mels to D."""

    def __init__(self, config: Wav2Vec2BertConfig) -> None:
        super().__init__()
        input_dim = NUM_MELS * config.feature_stride
        self.layer_norm = nn.LayerNorm(input_dim, eps=config.layer_norm_eps)
        self.projection = Linear(input_dim, config.hidden_size)
        self.dropout = Dropout(config.feat_proj_dropout)

    def forward(self, features: Tensor) -> Tensor:
        """``(N, mels * stride)`` to ``(N, D)``."""
        projected: Tensor = self.dropout(self.projection(self.layer_norm(features)))
        return projected


class FeedForward(nn.Module):
    """Linear, swish, Linear."""

    def __init__(self, config: Wav2Vec2BertConfig) -> None:
        super().__init__()
        self.intermediate_dense = Linear(config.hidden_size, config.intermediate_size)
        self.intermediate_dropout = Dropout(config.activation_dropout)
        self.output_dense = Linear(config.intermediate_size, config.hidden_size)
        self.output_dropout = Dropout(config.hidden_dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """``(N, D)`` to ``(N, D)``."""
        inner = self.intermediate_dropout(F.silu(self.intermediate_dense(hidden)))
        output: Tensor = self.output_dropout(self.output_dense(inner))
        return output


class SelfAttention(nn.Module):
    """Multi-head attention with a learned key for each clipped distance (Shaw et al. 2018, arXiv:1803.02155)."""

    def __init__(self, config: Wav2Vec2BertConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.head_size = config.hidden_size // config.num_attention_heads
        self.left, self.right = config.left_max_position_embeddings, config.right_max_position_embeddings
        self.linear_q = Linear(config.hidden_size, config.hidden_size)
        self.linear_k = Linear(config.hidden_size, config.hidden_size)
        self.linear_v = Linear(config.hidden_size, config.hidden_size)
        self.linear_out = Linear(config.hidden_size, config.hidden_size)
        self.distance_embedding = nn.Embedding(self.left + self.right + 1, self.head_size)
        self.dropout = Dropout(config.attention_dropout)

    def forward(self, hidden: Packed) -> Tensor:
        """``(N, D)`` packed to ``(N, D)``; frames attend within their own utterance only."""
        values = hidden.values
        joint = torch.cat([self.linear_q(values), self.linear_k(values), self.linear_v(values)], dim=-1)
        output: Tensor = self.linear_out(by_length(hidden.with_values(joint), self._attend).values)
        return output

    def _attend(self, joint: Tensor) -> Tensor:
        """Attention of equally long utterances. ``(B, T, 3D)`` to ``(B, T, D)``."""
        batch, frames, _ = joint.shape
        query, key, value = joint.view(batch, frames, 3, self.num_heads, self.head_size).permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-1, -2)
        distance = torch.arange(frames, device=joint.device)
        index = (distance[None, :] - distance[:, None]).clamp(-self.left, self.right) + self.left
        by_distance = query @ self.distance_embedding.weight.to(query.dtype).T  # (B, H, T, distances)
        scores = scores + by_distance.gather(-1, index.expand(batch, self.num_heads, frames, frames))
        weights = self.dropout((scores * self.head_size**-0.5).softmax(dim=-1).to(value.dtype))
        attended: Tensor = (weights @ value).transpose(1, 2).reshape(batch, frames, -1)
        return attended


class ConvolutionModule(nn.Module):
    """LayerNorm, gated pointwise, causal depthwise, LayerNorm, swish, pointwise."""

    def __init__(self, config: Wav2Vec2BertConfig) -> None:
        super().__init__()
        dim, self.kernel = config.hidden_size, config.conv_depthwise_kernel_size
        self.layer_norm = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.pointwise_conv1 = nn.Conv1d(dim, 2 * dim, 1, bias=False)
        self.depthwise_conv = nn.Conv1d(dim, dim, self.kernel, groups=dim, bias=False)
        self.depthwise_layer_norm = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.pointwise_conv2 = nn.Conv1d(dim, dim, 1, bias=False)
        self.dropout = Dropout(config.conformer_conv_dropout)

    def forward(self, hidden: Packed) -> Tensor:
        """``(N, D)`` packed to ``(N, D)``. Kernel-1 convolutions are matrix products over all frames at once."""
        gated = F.glu(product(self.layer_norm(hidden.values), self.pointwise_conv1.weight.squeeze(-1)), dim=-1)
        mixed = by_length(hidden.with_values(gated), self._depthwise).values
        activated = F.silu(self.depthwise_layer_norm(mixed))
        output: Tensor = self.dropout(product(activated, self.pointwise_conv2.weight.squeeze(-1)))
        return output

    def _depthwise(self, gated: Tensor) -> Tensor:
        """``(B, T, D)`` to ``(B, T, D)``, each frame seeing itself and ``kernel - 1`` frames before it."""
        mixed: Tensor = self.depthwise_conv(F.pad(gated.transpose(1, 2), (self.kernel - 1, 0)))
        return mixed.transpose(1, 2)


class EncoderLayer(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward, LayerNorm."""

    def __init__(self, config: Wav2Vec2BertConfig) -> None:
        super().__init__()
        dim, eps = config.hidden_size, config.layer_norm_eps
        self.ffn1_layer_norm = nn.LayerNorm(dim, eps=eps)
        self.ffn1 = FeedForward(config)
        self.self_attn_layer_norm = nn.LayerNorm(dim, eps=eps)
        self.self_attn_dropout = Dropout(config.attention_dropout)
        self.self_attn = SelfAttention(config)
        self.conv_module = ConvolutionModule(config)
        self.ffn2_layer_norm = nn.LayerNorm(dim, eps=eps)
        self.ffn2 = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(dim, eps=eps)

    def forward(self, hidden: Packed) -> Packed:
        """``(N, D)`` packed to ``(N, D)`` packed."""
        values = hidden.values
        values = values + 0.5 * self.ffn1(self.ffn1_layer_norm(values))
        attended = self.self_attn(hidden.with_values(self.self_attn_layer_norm(values)))
        values = values + self.self_attn_dropout(attended)
        values = values + self.conv_module(hidden.with_values(values))
        values = values + 0.5 * self.ffn2(self.ffn2_layer_norm(values))
        return hidden.with_values(self.final_layer_norm(values))


class ConformerEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: Wav2Vec2BertConfig) -> None:
        super().__init__()
        self.dropout = Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList([EncoderLayer(config) for _ in range(config.num_hidden_layers)])


class Wav2Vec2Bert(nn.Module):
    """The encoder: waveform to hidden states, whatever the other utterances of the batch are."""

    def __init__(self, config: Wav2Vec2BertConfig) -> None:
        super().__init__()
        self.config = config
        self.clock = config.clock
        self.dim = config.hidden_size
        self.num_layers = config.num_hidden_layers
        self.feature_projection = FeatureProjection(config)
        self.masked_spec_embed = nn.Parameter(torch.empty(config.hidden_size).uniform_())
        self.encoder = ConformerEncoder(config)
        self.apply(lambda module: _initialize(module, config.initializer_range))
        if config.local_attention_init:
            for number, layer in enumerate(self.encoder.layers):
                assert isinstance(layer, EncoderLayer)
                _make_local(layer.self_attn, number)

    def features(self, waveform: Tensor, waveform_lengths: Tensor) -> Packed:
        """Normalized, stacked log-mel frames of each utterance, computed on its real samples only.

        Args:
            waveform: Shape ``(batch, samples)``, float32 in [-1, 1], 16 kHz.
            waveform_lengths: Shape ``(batch,)``, int64, samples.

        Returns:
            Packed ``(N, mels * stride)``.
        """
        stride = self.config.feature_stride
        return packed_features(waveform, waveform_lengths, lambda samples: stacked_fbank(samples, stride))

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
            masked: Shape ``(batch, frames)``, bool, True = replaced by the mask vector. None hides nothing.
            num_layers: Stop after this many layers; None runs all.

        Returns:
            Hidden states 0 to ``num_layers``, packed.
        """
        with torch.autocast(waveform.device.type, enabled=False):
            features = self.features(waveform, waveform_lengths)
        return self.encode_features(features, masked, num_layers)

    def encode_features(
        self, features: Packed, masked: Tensor | None = None, num_layers: int | None = None
    ) -> EncoderOutput:
        """Encode features that :meth:`features` made. ``features``: packed ``(N, mels * stride)``."""
        values = self.feature_projection(features.values)
        if masked is not None:
            lengths = torch.tensor(features.lengths, device=masked.device)
            hidden_from_view = masked[valid_positions(lengths, masked.shape[1])]
            values = torch.where(hidden_from_view[:, None], self.masked_spec_embed.to(values.dtype), values)
        hidden = features.with_values(self.encoder.dropout(values))
        states = [hidden]
        for layer in self.encoder.layers[: self.num_layers if num_layers is None else num_layers]:
            hidden = layer(hidden)
            states.append(hidden)
        return EncoderOutput(hidden_states=tuple(states))


def _initialize(module: nn.Module, deviation: float) -> None:
    """Normal linears, uniform input projection and Kaiming depthwise convolutions as ``transformers`` draws them.

    Deviation: pointwise convolutions are drawn like the linears they are. Behind the module's second LayerNorm, Kaiming
    weights add as much noise as the residual carries signal, and after six layers little of the input is left.
    """
    if isinstance(module, FeatureProjection):
        bound = module.projection.in_features**-0.5
        nn.init.uniform_(module.projection.weight, -bound, bound)
        nn.init.uniform_(module.projection.bias, -bound, bound)
    elif isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=deviation)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv1d):
        if module.kernel_size == (1,):
            nn.init.normal_(module.weight, std=deviation)
        else:
            nn.init.kaiming_normal_(module.weight)


@torch.no_grad()
def _make_local(attention: SelfAttention, number: int) -> None:
    """Let each head of a fresh layer look at one near offset: 1, 2, 4, ... frames to the left and to the right.

    Distance r is coded as cosines and sines of r at a spread of frequencies, and each head's query bias as the code of
    its offset; their product peaks where the two agree. Left to noise around zero, short runs do not find positions.
    """
    half = attention.head_size // 2
    frequencies = math.pi * torch.linspace(0.02, 0.6, half)
    distance = torch.arange(-attention.left, attention.right + 1).float()

    def code(frames: Tensor) -> Tensor:
        angles = frames[:, None] * frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=-1)

    attention.distance_embedding.weight.copy_(code(distance))
    offsets = torch.tensor(near_offsets(attention.num_heads, number)).float()
    attention.linear_q.bias.copy_(code(offsets).flatten())


def to_transformers(config: Wav2Vec2BertConfig) -> dict[str, Any]:
    """The ``config.json`` that ``transformers.Wav2Vec2BertModel`` reads."""
    values = asdict(config)
    stride = values.pop("feature_stride")
    values.pop("local_attention_init")
    return {
        "architectures": ["Wav2Vec2BertModel"],
        "model_type": "wav2vec2-bert",
        **values,
        "feature_projection_input_dim": NUM_MELS * stride,
        "position_embeddings_type": "relative_key",
        "hidden_act": "swish",
        "add_adapter": False,
        "use_intermediate_ffn_before_adapter": False,
        "layerdrop": 0.0,
        "mask_time_prob": 0.05,
        "apply_spec_augment": True,
    }


def preprocessor_to_transformers(config: Wav2Vec2BertConfig) -> dict[str, Any]:
    """The ``preprocessor_config.json`` that ``transformers.SeamlessM4TFeatureExtractor`` reads."""
    return {
        "feature_extractor_type": "SeamlessM4TFeatureExtractor",
        "feature_size": NUM_MELS,
        "num_mel_bins": NUM_MELS,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
        "sampling_rate": SAMPLE_RATE,
        "stride": config.feature_stride,
    }


def from_transformers(values: dict[str, Any], preprocessor: dict[str, Any]) -> Wav2Vec2BertConfig:
    """Read a ``config.json`` of model type ``wav2vec2-bert`` and its ``preprocessor_config.json``.

    Raises:
        ConfigError: They ask for a part that is not built here (adapter, other positions, other activation), or the
            two do not fit together.
    """
    required = {"position_embeddings_type": "relative_key", "hidden_act": "swish", "add_adapter": False}
    for key, supported in required.items():
        got = values.get(key, supported)
        if got != supported:
            raise ConfigError(f"wav2vec2-bert config: {key} is {got!r}; only {supported!r} is built here.")
    input_dim = int(values.get("feature_projection_input_dim", 160))
    stride = int(preprocessor.get("stride", 2))
    mels = int(preprocessor.get("num_mel_bins", NUM_MELS))
    if mels != NUM_MELS or input_dim != mels * stride:
        raise ConfigError(
            f"wav2vec2-bert: config.json takes {input_dim} values a frame, preprocessor_config.json makes "
            f"{mels} mels x stride {stride}; expected {NUM_MELS} mels and their product. "
            "The two files do not belong together."
        )
    known = {name: values[name] for name in Wav2Vec2BertConfig.__dataclass_fields__ if name in values}
    return Wav2Vec2BertConfig(**{**known, "feature_stride": stride})
