"""A tiny unit vocoder and batches for it."""

from __future__ import annotations

import torch

from allophone.batch import SpeechBatch
from allophone.frames import FrameClock
from allophone.methods.unit_vocoding import UnitVocoding, UnitVocodingConfig
from allophone.models.unit_vocoder import UnitVocoder, UnitVocoderConfig, geometry
from allophone.models.vocoder_discriminators import DiscriminatorsConfig

CLOCK = FrameClock(hop=640, receptive_field=880)
VOICES = {"a": (0, 0), "b": (1, 0), "c": (2, 1), "d": (0, 1)}
JUDGES = DiscriminatorsConfig(periods=(2, 5), scales=2, narrower=8)


def config(pitch: bool = False) -> UnitVocoderConfig:
    return UnitVocoderConfig(
        num_units=7,
        unit_dim=8,
        num_speakers=3,
        speaker_dim=4,
        num_languages=2,
        language_dim=2,
        pitch=pitch,
        channels=32,
        upsample_rates=geometry(640)[0],
        upsample_kernels=geometry(640)[1],
        resblock_kernels=(3,),
        resblock_dilations=((1, 3),),
        duration_dropout=0.0,
    )


def method(settings: UnitVocodingConfig | None = None, pitch: bool = False) -> UnitVocoding:
    torch.manual_seed(0)
    vocoder = UnitVocoder(config(pitch))
    with torch.no_grad():  # louder than the published first weights, which in so narrow a model are silence
        for parameter in vocoder.hifi_gan.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return UnitVocoding(vocoder, settings or UnitVocodingConfig(discriminators=JUDGES), CLOCK, VOICES)


def batch(names: str = "abcd", frames: int = 12) -> SpeechBatch:
    """Clips that depend on their names only."""
    rows = [torch.Generator().manual_seed(ord(name)) for name in names]
    samples = CLOCK.samples(frames)
    units = [torch.randint(7, (frames // 2 + 1, 1), generator=row).repeat_interleave(2, 0)[:frames] for row in rows]
    return SpeechBatch(
        ids=tuple(names),
        waveform=torch.stack([0.1 * torch.randn(samples, generator=row) for row in rows]),
        waveform_lengths=torch.full((len(names),), samples),
        frame_lengths=torch.full((len(names),), frames),
        units=torch.stack(units),
    ).validate()
