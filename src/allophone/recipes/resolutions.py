"""HuBERT recipes at other frame rates than 20 ms, at two rates at once, and in small.

Source: Chen et al. 2023, arXiv:2309.15317 (CV-HuBERT: HuBERT Base at 20, 40 and 80 ms) with the convolutions of
:data:`allophone.models.hubert.RESOLUTIONS`; Shi et al. 2023, arXiv:2310.02720 (MR-HuBERT).
Deviations: a frame of 40 or 80 ms predicts all MFCC units that a 20-ms model predicts in its time, 2 or 4, instead of
one in 2 or 4; masks are 200 ms at all rates, rounded up to whole frames (10, 5 and 3), where ESPnet masks 10 frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

from allophone.data.collate import CollateConfig
from allophone.errors import ConfigError
from allophone.models.hubert import RESOLUTIONS, HubertConfig
from allophone.models.mr_hubert import MrHubertConfig
from allophone.models.waveform_encoder import WaveformConfig
from allophone.nn.masking import span_frames
from allophone.run.config import DataConfig, RunConfig, TargetsConfig
from allophone.train.config import TrainConfig


def hubert_small(seed: int = 0) -> tuple[RunConfig, ...]:
    """HuBERT of 1 M parameters in two iterations: to compare frame rates on one CPU, and for tests. Our choice."""
    encoder = HubertConfig(
        hidden_size=144,
        num_hidden_layers=6,
        num_attention_heads=4,
        intermediate_size=432,
        conv_dim=(48,) * 7,
        num_conv_pos_embeddings=32,
        num_conv_pos_embedding_groups=4,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
    )
    collate = CollateConfig(crop_seconds=4.0, mask_probability=0.65)
    first = RunConfig(
        name="iteration-1",
        seed=seed,
        encoder=encoder,
        targets=TargetsConfig(front_end="mfcc39", num_units=50, normalization="voice"),
        data=DataConfig(collate=collate, batch_seconds=16.0),
        train=TrainConfig(steps=2_000, learning_rate=1e-3, warmup_steps=100, save_every=500, log_every=50, seed=seed),
        projection_dim=64,
        table_init="normal",
        unmasked_weight=1.0,
    )
    targets = TargetsConfig(front_end="model", layer=3, num_units=100, normalization="voice")
    return first, replace(first, name="iteration-2", targets=targets, train=replace(first.train, steps=4_000))


def at_resolution(configs: Sequence[RunConfig], milliseconds: int) -> tuple[RunConfig, ...]:
    """The same runs with a frame every 20, 40 or 80 ms.

    Masks keep their 200 ms. In a run on MFCC units a frame predicts as many as 20-ms frames do in its time; in one on
    units of an earlier encoder, which has the same rate, it predicts one.

    Raises:
        ConfigError: Another resolution, or an encoder that is not HuBERT or wav2vec 2.0.
    """
    if milliseconds not in RESOLUTIONS:
        known = ", ".join(str(one) for one in RESOLUTIONS)
        raise ConfigError(f"No convolutions are known for a frame every {milliseconds} ms; known: {known}.")
    changed = []
    for config in configs:
        encoder = replace(_hubert(config), **RESOLUTIONS[milliseconds])
        targets = config.targets
        if targets.front_end == "mfcc39":
            targets = replace(targets, labels_per_frame=targets.labels_per_frame * milliseconds // 20)
        collate = replace(config.data.collate, mask_length=span_frames(encoder.clock))
        changed.append(replace(config, encoder=encoder, targets=targets, data=replace(config.data, collate=collate)))
    return tuple(changed)


def with_two_rates(config: RunConfig) -> RunConfig:
    """The same run by MR-HuBERT: a third of the layers at half the rate, and the loss at both.

    Raises:
        ConfigError: The encoder is no HuBERT, or its layers cannot be divided by three.
    """
    encoder = _hubert(config)
    third, rest = divmod(encoder.num_hidden_layers, 3)
    if rest:
        raise ConfigError(f"{encoder.num_hidden_layers} layers do not make three equal blocks. Take a multiple of 3.")
    shared = {one.name: getattr(encoder, one.name) for one in fields(WaveformConfig) if one.name != "model_type"}
    return replace(config, encoder=MrHubertConfig(**shared, block_layers=(third, third, third)))


def mr_hubert(configs: Sequence[RunConfig], layer: int) -> tuple[RunConfig, ...]:
    """HuBERT's iterations and one more, in which MR-HuBERT learns units of a layer of the last HuBERT.

    As published MR-HuBERT is the iteration behind HuBERT Base; layer and number of units were not found, HuBERT Large's
    (layer 9, K = 500) stand in for them.

    Raises:
        ConfigError: See :func:`with_two_rates`.
    """
    last = configs[-1]
    targets = replace(last.targets, layer=layer)
    return (*configs, with_two_rates(replace(last, name=f"iteration-{len(configs) + 1}", targets=targets)))


def _hubert(config: RunConfig) -> HubertConfig:
    if not isinstance(config.encoder, HubertConfig):
        raise ConfigError(
            f"{config.name}: a {type(config.encoder).__name__} has no convolutions to change; expected a HubertConfig."
        )
    return config.encoder
