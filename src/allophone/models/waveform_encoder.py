"""What HuBERT, wav2vec 2.0 and WavLM share: convolutions over the waveform, then a transformer over their frames.

Two front ends (group norm after the first convolution, layer norm after each) and two kinds of transformer (post-norm,
and pre-norm, which ``transformers`` calls stable layer norm) make all published sizes. An utterance's result does not
depend on its batch: nothing is padded, and group-norm statistics are those of its own samples. What a family adds is
its attention, which it hands in.

Source: Hsu et al. 2021, arXiv:2106.07447, section III; Baevski et al. 2020, arXiv:2006.11477, section 2. Deviations: no
layer drop; dropout acts on real frames only.
Shape letters: B batch, S samples, T frames, N real frames of a batch end to end, C channels, D dim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from allophone.batch import Packed
from allophone.errors import ConfigError
from allophone.frames import SAMPLE_RATE, FrameClock
from allophone.models.output import EncoderOutput, checked_depth, checked_lengths, flat_mask
from allophone.nn.convolution import ConvolutionalFrontEnd, PositionalConvolution, convolution_clock
from allophone.nn.dropout import Dropout
from allophone.nn.products import Linear
from allophone.nn.resampling import cut
from allophone.nn.transformer import SelfAttention, TransformerLayer

LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "do_stable_layer_norm": True,
    "feat_extract_norm": "layer",
    "do_normalize": True,
    "return_attention_mask": True,
}
"""What all published large models have in common."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WaveformConfig:
    """Sizes and kinds, named as in ``transformers``; defaults are those of every base model."""

    model_type: str
    """Which ``transformers`` class reads the saved folder."""
    hidden_size: int = 768
    """Width D of every layer."""
    num_hidden_layers: int = 12
    """Transformer layers."""
    num_attention_heads: int = 12
    """Heads; must divide ``hidden_size``."""
    intermediate_size: int = 3072
    """Inner width of the feed-forward parts."""
    hidden_act: str = "gelu"
    """Activation of the feed-forward parts."""
    do_stable_layer_norm: bool = False
    """Pre-norm layers and a last layer norm after them (large models); otherwise post-norm."""
    layer_norm_eps: float = 1e-5
    """Added to variances outside the front end."""
    feat_extract_norm: Literal["group", "layer"] = "group"
    """Group norm after the first convolution only, or layer norm after each."""
    feat_extract_activation: str = "gelu"
    """Activation of the front end and of the positional convolution."""
    conv_dim: tuple[int, ...] = (512,) * 7
    """Channels of each convolution."""
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    """Kernel of each convolution."""
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    """Stride of each convolution; their product is the hop in samples."""
    conv_bias: bool = False
    """Whether the convolutions have a bias."""
    num_conv_pos_embeddings: int = 128
    """Kernel of the positional convolution, frames."""
    num_conv_pos_embedding_groups: int = 16
    """Groups of the positional convolution; must divide ``hidden_size``."""
    hidden_dropout: float = 0.1
    """After the positional convolution, attention and feed-forward parts, in training."""
    attention_dropout: float = 0.1
    """On attention weights, in training."""
    activation_dropout: float = 0.1
    """Inside the feed-forward parts, in training."""
    feat_proj_dropout: float = 0.0
    """After the projection to D, in training."""
    feature_grad_mult: float = 1.0
    """Scales the front end's gradient, penalty included (0.1 in HuBERT Base pretraining; 0 freezes it)."""
    do_normalize: bool = False
    """Whether each waveform is brought to zero mean and unit variance; from ``preprocessor_config.json``."""
    return_attention_mask: bool = False
    """Whether ``transformers`` tells the model what is padding; from the same file, used by ``published_padding``."""
    published_padding: bool = False
    """Reproduce what ``transformers`` computes for a zero-padded batch, where padding changes group-norm models."""

    def __post_init__(self) -> None:
        if not len(self.conv_dim) == len(self.conv_kernel) == len(self.conv_stride) > 0:
            raise ConfigError(
                f"conv_dim, conv_kernel and conv_stride must be equally long; got {len(self.conv_dim)}, "
                f"{len(self.conv_kernel)}, {len(self.conv_stride)}."
            )
        for name in ("num_attention_heads", "num_conv_pos_embedding_groups"):
            if self.hidden_size % getattr(self, name):
                raise ConfigError(f"hidden_size {self.hidden_size} is not a multiple of {name} {getattr(self, name)}.")
        if self.feat_extract_norm not in ("group", "layer"):
            raise ConfigError(f"feat_extract_norm must be 'group' or 'layer'; got {self.feat_extract_norm!r}.")

    @property
    def clock(self) -> FrameClock:
        """Hop and receptive field of the convolutions."""
        return convolution_clock(self.conv_kernel, self.conv_stride)


AttentionOf = Callable[[int], SelfAttention]
"""From the number of a layer, 0 for the first, to its attention."""


class FeatureProjection(nn.Module):
    """LayerNorm, Linear from C to D, dropout."""

    def __init__(self, config: WaveformConfig, normalize: bool) -> None:
        super().__init__()
        if normalize:
            self.layer_norm = nn.LayerNorm(config.conv_dim[-1], eps=config.layer_norm_eps)
        self.projection = Linear(config.conv_dim[-1], config.hidden_size)
        self.dropout = Dropout(config.feat_proj_dropout)
        self.normalize = normalize

    def forward(self, features: Tensor) -> Tensor:
        """``(N, C)`` to ``(N, D)``."""
        projected: Tensor = self.dropout(self.projection(self.layer_norm(features) if self.normalize else features))
        return projected


class TransformerEncoder(nn.Module):
    """Positional convolution and layers; the layer norm stands before them (post-norm) or after them (pre-norm).

    Args:
        config: Sizes and kinds.
        attention: Makes the attention of each layer.
        num_layers: How many; not always all of the config.
        positions: ``weight`` or ``batch`` norm in the positional convolution; None = there is no such convolution.
    """

    def __init__(
        self,
        config: WaveformConfig,
        attention: AttentionOf,
        num_layers: int,
        positions: Literal["weight", "batch"] | None = "weight",
    ) -> None:
        super().__init__()
        self.norm_first = config.do_stable_layer_norm
        if positions is not None:
            self.pos_conv_embed = PositionalConvolution(
                config.hidden_size,
                config.num_conv_pos_embeddings,
                config.num_conv_pos_embedding_groups,
                positions == "batch",
                config.feat_extract_activation,
            )
        self.has_positions = positions is not None
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(
            TransformerLayer(
                config.hidden_size,
                attention(index),
                config.intermediate_size,
                config.hidden_act,
                norm_first=config.do_stable_layer_norm,
                norm_eps=config.layer_norm_eps,
                dropout=config.hidden_dropout,
                inner_dropout=config.activation_dropout,
            )
            for index in range(num_layers)
        )

    def forward(self, hidden: Packed, num_layers: int) -> tuple[Packed, ...]:
        """Packed ``(N, D)`` to ``num_layers + 1`` hidden states; the very last of a pre-norm model is normalized."""
        values = hidden.values + self.pos_conv_embed(hidden) if self.has_positions else hidden.values
        hidden = hidden.with_values(self.dropout(values if self.norm_first else self.layer_norm(values)))
        states, layers = [hidden], list(self.layers)[:num_layers]
        by_distance = cast(TransformerLayer, layers[0]).attention.by_distance(max(hidden.lengths)) if layers else None
        for layer in layers:
            states.append(layer(states[-1], by_distance))
        if self.norm_first and num_layers == len(self.layers):
            states[-1] = states[-1].with_values(self.layer_norm(states[-1].values))
        return tuple(states)


class WaveformEncoder(nn.Module):
    """The encoder: waveform to hidden states, whatever the other utterances of the batch are.

    Args:
        config: Sizes and kinds.
        attention: Makes the attention of each layer.
        normalize_features: Layer norm before the projection to D.
        position_batch_norm: Batch norm instead of weight norm in the positional convolution.
        own_layers: Layers of ``encoder``; None = all of the config. The others are made by a subclass.
    """

    def __init__(
        self,
        config: WaveformConfig,
        attention: AttentionOf,
        *,
        normalize_features: bool = True,
        position_batch_norm: bool = False,
        own_layers: int | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.clock = config.clock
        self.dim = config.hidden_size
        self.num_layers = config.num_hidden_layers
        self.masked_spec_embed = nn.Parameter(torch.rand(config.hidden_size))
        self.feature_extractor = ConvolutionalFrontEnd(
            config.conv_dim,
            config.conv_kernel,
            config.conv_stride,
            config.conv_bias,
            config.feat_extract_norm,
            config.feat_extract_activation,
        )
        self.feature_projection = FeatureProjection(config, normalize_features)
        layers = config.num_hidden_layers if own_layers is None else own_layers
        self.encoder = TransformerEncoder(config, attention, layers, "batch" if position_batch_norm else "weight")
        initialize(self)

    def forward(
        self,
        waveform: Tensor,
        waveform_lengths: Tensor,
        masked: Tensor | None = None,
        num_layers: int | None = None,
    ) -> EncoderOutput:
        """Encode a batch.

        Args:
            waveform: Shape ``(B, S)``, float32 in [-1, 1], 16 kHz; what lies beyond a length is never read.
            waveform_lengths: Shape ``(B,)``, int64, samples, each at least one receptive field.
            masked: Shape ``(B, T)``, bool, True = replaced by the mask vector; T frames of the longest utterance.
            num_layers: Stop after this many layers; None runs all.

        Returns:
            Hidden states 0 to ``num_layers``, packed, as ``transformers`` numbers them. In a pre-norm model the state
            of the last layer is the one after the final layer norm (``last_hidden_state``).

        Raises:
            ShapeError: Shapes disagree, or an utterance is shorter than a frame.
            ConfigError: ``num_layers`` is more than the model has.
        """
        stop = checked_depth(num_layers, self.num_layers)
        features, embedded = self.embed(waveform, waveform_lengths, masked)
        states: tuple[Packed, ...] = self.encoder(embedded, stop)
        if self.config.published_padding:
            frames = [self.clock.count(length) for length in waveform_lengths.tolist()]
            states = tuple(cut(state, frames) for state in states)
        return EncoderOutput(
            hidden_states=states,
            features_penalty=features.values.float().square().sum(),
            feature_count=features.values.numel(),
        )

    def embed(self, waveform: Tensor, waveform_lengths: Tensor, masked: Tensor | None) -> tuple[Packed, Packed]:
        """What the transformer gets, of what :meth:`forward` gets: ``(B, S)``, ``(B,)`` and ``(B, T)`` or None.

        Returns:
            Convolutional features, packed ``(N, C)``, and what they become by projection and mask, packed ``(N, D)``.

        Raises:
            ShapeError: Shapes disagree, or an utterance is shorter than a frame.
        """
        lengths = checked_lengths(waveform, waveform_lengths, self.clock.receptive_field)
        unmasked_padding = self.config.published_padding and not self.config.return_attention_mask
        features = self.features(waveform, [waveform.shape[1]] * len(lengths) if unmasked_padding else lengths)
        values = self.feature_projection(features.values)
        if masked is not None:
            mask_vector = self.masked_spec_embed.to(values.dtype)
            values = torch.where(flat_mask(masked, features.lengths)[:, None], mask_vector, values)
        return features, features.with_values(values)

    def features(self, waveform: Tensor, lengths: Sequence[int]) -> Packed:
        """Convolutional features of each utterance's real samples.

        Args:
            waveform: Shape ``(B, S)``.
            lengths: Samples of each utterance.

        Returns:
            Packed ``(N, C)``, before the layer norm of the projection.
        """
        waveforms = [row[:length] for row, length in zip(waveform, lengths, strict=True)]
        if self.config.do_normalize:
            waveforms = [_standardized(samples) for samples in waveforms]
        if self.config.published_padding:
            padded = [nn.functional.pad(samples, (0, waveform.shape[1] - len(samples))) for samples in waveforms]
            features = cut(self.feature_extractor(padded), [self.clock.count(length) for length in lengths])
        else:
            features = self.feature_extractor(waveforms)
        if self.config.feature_grad_mult == 1.0 or not features.values.requires_grad:
            return features
        scaled: Tensor = _ScaledGradient.apply(features.values, self.config.feature_grad_mult)  # type: ignore[no-untyped-call]
        return features.with_values(scaled)


class _ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(context: Any, values: Tensor, factor: float) -> Tensor:
        context.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(context: Any, *gradients: Any) -> tuple[Tensor, None]:
        return gradients[0] * context.factor, None


def _standardized(samples: Tensor) -> Tensor:
    """Zero mean, unit variance, as ``Wav2Vec2FeatureExtractor`` does it. ``(S,)`` to ``(S,)``."""
    variance, mean = torch.var_mean(samples, correction=0)
    return (samples - mean) / (variance + 1e-7).sqrt()


def initialize(module: nn.Module) -> None:
    """Draw all linear and embedding weights of a module as HuBERT does; biases become 0."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=0.02)
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)


def to_transformers(config: WaveformConfig, architecture: str) -> dict[str, Any]:
    """The ``config.json`` that ``transformers`` reads; waveform settings go to :func:`preprocessor_to_transformers`."""
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}
    del values["do_normalize"], values["return_attention_mask"]
    training = {"layerdrop": 0.0, "mask_time_prob": 0.05, "apply_spec_augment": True}
    return {"architectures": [architecture], **values, **training}


def preprocessor_to_transformers(config: WaveformConfig) -> dict[str, Any]:
    """The ``preprocessor_config.json`` that ``transformers`` reads."""
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": SAMPLE_RATE,
        "padding_side": "right",
        "padding_value": 0.0,
        "do_normalize": config.do_normalize,
        "return_attention_mask": config.return_attention_mask,
    }


Config = TypeVar("Config", bound=WaveformConfig)


def from_transformers(kind: type[Config], values: dict[str, Any], preprocessor: dict[str, Any]) -> Config:
    """Read a ``config.json`` of one of the families and its ``preprocessor_config.json``.

    Absent keys of ``values`` have the defaults of ``transformers``, which are ours. ``layerdrop`` is not taken over.

    Args:
        kind: The family's config.
        values: Contents of ``config.json``.
        preprocessor: Contents of ``preprocessor_config.json``.

    Raises:
        ConfigError: The model has a part that is not built here, or the preprocessor does not say how it normalizes.
    """
    for key in ("add_adapter", "adapter_attn_dim"):
        if values.get(key):
            raise ConfigError(f"config.json: {key} is {values[key]!r}; adapters are not supported. Use the base model.")
    rate = preprocessor.get("sampling_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        raise ConfigError(f"preprocessor_config.json: sampling_rate {rate}; expected {SAMPLE_RATE}.")
    for key in ("do_normalize", "return_attention_mask"):
        if not isinstance(preprocessor.get(key), bool):
            raise ConfigError(
                f"preprocessor_config.json: {key} is {preprocessor.get(key)!r}; expected true or false. It "
                "decides what the model hears and is never guessed: copy it from the model's original folder."
            )
    merged = {**values, **{key: preprocessor[key] for key in ("do_normalize", "return_attention_mask")}}
    known = {field.name: merged[field.name] for field in fields(kind) if field.name in merged}
    sizes: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in known.items()}
    return kind(**sizes)
