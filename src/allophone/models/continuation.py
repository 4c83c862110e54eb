"""An encoder from the middle on: its last layers alone, over hidden states that were computed before.

Where only the last layers are trained, everything below gives the same states in every epoch. Shape letters: N frames
of all utterances, D dim.
"""

from __future__ import annotations

from typing import cast

from torch import nn

from allophone.batch import Packed
from allophone.errors import ConfigError
from allophone.models.build import Encoder
from allophone.models.lasr import Lasr
from allophone.models.wav2vec2_bert import Wav2Vec2Bert
from allophone.models.waveform_encoder import TransformerEncoder, WaveformEncoder
from allophone.models.whisper import Whisper
from allophone.nn.rotary import rotation
from allophone.nn.transformer import TransformerLayer


def layers_of(encoder: Encoder) -> nn.ModuleList:
    """The list of an encoder's layers.

    Raises:
        ConfigError: It has no single one (several branches or blocks), or its states hold padding.
    """
    match encoder:
        case Lasr() | Whisper():
            return encoder.layers
        case Wav2Vec2Bert():
            return encoder.encoder.layers
        case WaveformEncoder() if len(encoder.encoder.layers) == encoder.num_layers:
            if not encoder.config.published_padding:
                return encoder.encoder.layers
    raise ConfigError(
        f"{type(encoder).__name__} has no single list of layers over states without padding, so the last ones cannot "
        "be taken alone. Train all of it, or LoRA."
    )


def last_state(encoder: Encoder, hidden: Packed, layer: int) -> Packed:
    """The last hidden state of an encoder, from an earlier one.

    Args:
        encoder: One that :func:`layers_of` knows; runs as it is, in training or evaluation mode.
        hidden: Its hidden state ``layer``, or pieces of it. Packed ``(N, D)``.
        layer: 0 = input of layer 1.

    Returns:
        Packed ``(N, D)``; of whole utterances it is what the encoder itself returns.

    Raises:
        ConfigError: See :func:`layers_of`.
    """
    layers = layers_of(encoder)[layer:]
    match encoder:
        case Lasr():
            size = encoder.dim // encoder.config.num_attention_heads
            turned = rotation(hidden.lengths, size, encoder.config.rope_theta, hidden.values.device)
            for one in layers:
                hidden = one(hidden, turned)
            return hidden.with_values(encoder.out_norm(hidden.values))
        case WaveformEncoder():
            stack: TransformerEncoder = encoder.encoder
            attention = cast(TransformerLayer, stack.layers[0]).attention
            by_distance = attention.by_distance(max(hidden.lengths))
            for one in layers:
                hidden = one(hidden, by_distance)
            return hidden.with_values(stack.layer_norm(hidden.values)) if stack.norm_first else hidden
    for one in layers:
        hidden = one(hidden)
    return hidden.with_values(encoder.layer_norm(hidden.values)) if isinstance(encoder, Whisper) else hidden
