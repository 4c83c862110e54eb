"""From a config to an encoder: the one place that knows all families."""

from __future__ import annotations

from allophone.models.hubert import Hubert, HubertConfig
from allophone.models.lasr import Lasr, LasrConfig
from allophone.models.mr_hubert import MrHubert, MrHubertConfig
from allophone.models.multi_resolution import FusedEncoder, FusionConfig
from allophone.models.wav2vec2_bert import Wav2Vec2Bert, Wav2Vec2BertConfig
from allophone.models.wavlm import Wavlm, WavlmConfig
from allophone.models.whisper import Whisper, WhisperConfig

EncoderConfig = (
    HubertConfig | LasrConfig | Wav2Vec2BertConfig | WavlmConfig | WhisperConfig | MrHubertConfig | FusionConfig
)
Encoder = Hubert | Lasr | Wav2Vec2Bert | Wavlm | Whisper | MrHubert | FusedEncoder


def build_encoder(config: EncoderConfig) -> Encoder:
    """A new encoder with random weights, in training mode.

    Example:
        >>> config = HubertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
        >>> build_encoder(config).num_layers
        1
    """
    match config:
        case HubertConfig():
            return Hubert(config)
        case LasrConfig():
            return Lasr(config)
        case Wav2Vec2BertConfig():
            return Wav2Vec2Bert(config)
        case WavlmConfig():
            return Wavlm(config)
        case WhisperConfig():
            return Whisper(config)
        case MrHubertConfig():
            return MrHubert(config)
        case FusionConfig():
            return FusedEncoder(config)


def attention_projections(encoder: Encoder) -> tuple[str, ...]:
    """Names of the query, key, value and output projections of every layer, as PEFT's ``target_modules`` takes them."""
    match encoder:
        case Hubert() | Wavlm() | Whisper() | MrHubert() | FusedEncoder():
            return ("q_proj", "k_proj", "v_proj", "out_proj")
        case Lasr():
            return ("q_proj", "k_proj", "v_proj", "o_proj")
        case Wav2Vec2Bert():
            return ("linear_q", "linear_k", "linear_v", "linear_out")


def feed_forward_projections(encoder: Encoder) -> tuple[str, ...]:
    """Names of the two linear layers of every feed-forward module, as PEFT's ``target_modules`` takes them."""
    match encoder:
        case Lasr():
            return ("linear1", "linear2")
        case Whisper():
            return ("fc1", "fc2")
        case Hubert() | Wav2Vec2Bert() | Wavlm() | MrHubert() | FusedEncoder():
            return ("intermediate_dense", "output_dense")
