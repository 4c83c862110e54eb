"""What one forward pass of an encoder costs, from its config alone.

Counted are the products of matrices and convolutions, two operations for a multiplication and its addition; norms,
activations, softmax, log-mels and the gates of WavLM are not, together a few percent. A backward pass costs twice as
much again. Letters: S samples, T frames, D width, F inner width.
"""

from __future__ import annotations

from allophone.audio.features import FILTER_BANK_CLOCK
from allophone.frames import SAMPLE_RATE, seconds_to_samples
from allophone.models.build import EncoderConfig
from allophone.models.lasr import LasrConfig
from allophone.models.mr_hubert import MrHubertConfig
from allophone.models.multi_resolution import FusionConfig
from allophone.models.wav2vec2_bert import NUM_MELS, Wav2Vec2BertConfig
from allophone.models.waveform_encoder import WaveformConfig
from allophone.models.whisper import WhisperConfig
from allophone.nn.convolution import convolution_clock


def flop_per_hour(config: EncoderConfig, clip_seconds: float) -> float:
    """Floating-point operations of the forward pass over an hour of audio in clips of one length.

    Longer clips cost more for the same hour: in each, every frame attends to every other.

    Example:
        >>> from allophone.models.hubert import published_config
        >>> round(flop_per_hour(published_config("hubert-base"), 10.0) / 3600e9, 1)  # GFLOP a second of audio
        14.8
    """
    return 2.0 * multiplications(config, seconds_to_samples(clip_seconds)) * 3600 / clip_seconds


def multiplications(config: EncoderConfig, samples: int) -> int:
    """Multiplications with an addition in the forward pass of one clip of so many samples."""
    match config:
        case MrHubertConfig():
            return _two_rates(config, samples)
        case FusionConfig():
            return _fusion(config, samples)
        case LasrConfig():
            return _lasr(config, samples)
        case Wav2Vec2BertConfig():
            return _wav2vec2_bert(config, samples)
        case WhisperConfig():
            return _whisper(config, samples)
        case WaveformConfig():
            layers = config.num_hidden_layers
            return _front_end(config, samples) + layers * _layer(config, config.clock.count(samples))


def _front_end(config: WaveformConfig, samples: int) -> int:
    """Convolutions, projection and positional convolution."""
    total, channels = 0, 1
    for depth, (width, kernel) in enumerate(zip(config.conv_dim, config.conv_kernel, strict=True), 1):
        frames = convolution_clock(config.conv_kernel[:depth], config.conv_stride[:depth]).count(samples)
        total += frames * kernel * channels * width
        channels = width
    if config.feat_extract_norm == "group":  # statistics of a linear map, from the covariance of what it maps
        total += (
            convolution_clock(config.conv_kernel[:1], config.conv_stride[:1]).count(samples)
            * config.conv_kernel[0] ** 2
        )
    dim, kernel = config.hidden_size, config.num_conv_pos_embeddings
    positions = (frames + 1 - kernel % 2) * kernel * dim * dim // config.num_conv_pos_embedding_groups
    return total + frames * channels * dim + positions


def _layer(config: WaveformConfig, frames: int) -> int:
    """Attention and feed-forward part of one layer: ``T (4 D² + 2 D F) + 2 T² D``."""
    dim = config.hidden_size
    return frames * (4 * dim * dim + 2 * dim * config.intermediate_size) + 2 * frames * frames * dim


def _two_rates(config: MrHubertConfig, samples: int) -> int:
    first, middle, last = config.block_layers
    fast, slow = config.clock.count(samples), config.coarse_clock.count(samples)
    sampled = (fast + slow) + (slow + slow * config.rate_ratio)  # frames that the four convolutions start from or make
    adapters = sampled * config.adapter_kernel * config.hidden_size**2
    layers = (first + last) * _layer(config, fast) + middle * _layer(config, slow)
    return _front_end(config, samples) + adapters + layers


def _fusion(config: FusionConfig, samples: int) -> int:
    total = sum(multiplications(branch, max(samples, branch.clock.receptive_field)) for branch in config.branches)
    if config.upsampling == "linear":
        for index, slow in enumerate(config.branches[1:]):
            fast = config.branches[index if config.join == "hierarchical" else 0]
            width = slow.hidden_size if config.join == "concat" else fast.hidden_size
            ratio = slow.clock.hop // fast.clock.hop
            total += slow.clock.count(max(samples, slow.clock.receptive_field)) * slow.hidden_size * ratio * width
    return total


def _conformer_layer(frames: int, dim: int, inner: int, kernel: int) -> int:
    """Two feed-forward parts, attention, convolution module: ``T (4 D F + 7 D² + k D) + 2 T² D``."""
    return frames * (4 * dim * inner + 7 * dim * dim + kernel * dim) + 2 * frames * frames * dim


def _lasr(config: LasrConfig, samples: int) -> int:
    dim, kernel, stride = config.hidden_size, config.subsampling_conv_kernel_size, config.subsampling_conv_stride
    mels = FILTER_BANK_CLOCK.count(samples)
    half = convolution_clock((kernel,), (stride,)).count(mels)
    frames, channels = config.clock.count(samples), config.subsampling_conv_channels
    front = mels * config.num_mel_bins * dim + half * kernel * dim * dim + frames * channels * (kernel + 1) * dim
    layer = _conformer_layer(frames, dim, config.intermediate_size, config.conv_kernel_size)
    return front + config.num_hidden_layers * layer


def _wav2vec2_bert(config: Wav2Vec2BertConfig, samples: int) -> int:
    dim, frames = config.hidden_size, config.clock.count(samples)
    distances = frames * dim * (config.left_max_position_embeddings + config.right_max_position_embeddings + 1)
    layer = _conformer_layer(frames, dim, config.intermediate_size, config.conv_depthwise_kernel_size)
    return frames * NUM_MELS * config.feature_stride * dim + config.num_hidden_layers * (layer + distances)


def _whisper(config: WhisperConfig, samples: int) -> int:
    dim = config.d_model
    frames = config.max_source_positions if config.whole_window else config.clock.count(samples)
    layer = frames * (4 * dim * dim + 2 * dim * config.encoder_ffn_dim) + 2 * frames * frames * dim
    return 2 * frames * 3 * config.num_mel_bins * dim + frames * 3 * dim * dim + config.encoder_layers * layer


def frame_milliseconds(config: EncoderConfig) -> tuple[float, ...]:
    """Milliseconds between two frames, for every rate that an encoder works at."""
    match config:
        case MrHubertConfig():
            clocks = [config.clock, config.coarse_clock]
        case FusionConfig():
            clocks = [branch.clock for branch in config.branches]
        case _:
            clocks = [config.clock]
    return tuple(1000 * clock.hop / SAMPLE_RATE for clock in clocks)
