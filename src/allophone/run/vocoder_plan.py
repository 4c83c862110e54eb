"""What training a vocoder would take, from a probe of a few steps on noise."""

from __future__ import annotations

import torch

from allophone.batch import SpeechBatch
from allophone.frames import FrameClock, seconds_to_samples
from allophone.methods.unit_vocoding import UnitVocoding
from allophone.models.build import Encoder
from allophone.models.unit_vocoder import UnitVocoder
from allophone.nn.codebook import Codebook
from allophone.run.execute import fit_threads
from allophone.run.plan import PROBE_SECONDS, Plan, Stage, summed, timed
from allophone.run.vocoder import VocoderRunConfig
from allophone.seeding import torch_generator
from allophone.train.precision import use_bf16
from allophone.units.encode import encode_units


def plan_vocoder(
    config: VocoderRunConfig,
    clock: FrameClock,
    hours: float,
    encoder: Encoder | None,
    codebook: Codebook | None,
    encoded_hours: float,
) -> Plan:
    """Units of what is heard and judged, and the training of vocoder and discriminators.

    Args:
        config: The run.
        clock: How the frames behind the units cut time.
        hours: Audio that is heard.
        encoder: What makes the units; None = nothing of a model.
        codebook: Of the units; None = they are there already.
        encoded_hours: Audio that becomes units.
    """
    stages = []
    if codebook is not None:
        waveform = torch.randn(seconds_to_samples(PROBE_SECONDS), generator=torch_generator(0, "plan")) / 10

        def encode() -> None:
            encode_units(lambda: iter([("probe", waveform)]), codebook, encoder=encoder)

        seconds = encoded_hours * 3600 / PROBE_SECONDS * timed(encode)
        stages.append(Stage(name="units", work=f"of {encoded_hours:.2f} h", seconds=seconds))
    batch = noise_batch(config, clock)
    method = UnitVocoding(UnitVocoder(config.vocoder), config.method, clock, dict.fromkeys(batch.ids, (0, 0))).train()
    fit_threads(method.vocoder)
    parameters = sum(parameter.numel() for parameter in method.parameters())

    def one_step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=use_bf16("auto", torch.device("cpu"))):
            output = method.step(batch)
        output.loss_sum.backward()
        method.zero_grad(set_to_none=True)

    train, clips = config.train, len(batch.ids)
    work = f"{train.steps:,} steps of {train.microbatches * clips} x {config.data.collate.crop_seconds:.2f} s"
    seconds = train.steps * train.microbatches * timed(one_step)
    stages.append(Stage(name="vocoder and discriminators", work=work, seconds=seconds))
    return summed(f"Vocoder on {hours:.2f} h", stages, parameters, train.keep_checkpoints + 1)


def noise_batch(config: VocoderRunConfig, clock: FrameClock) -> SpeechBatch:
    """Noise in clips of full length, as many as a batch holds, with random units."""
    crop = config.data.collate.crop_seconds
    clips, samples = max(1, round(config.data.batch_seconds / crop)), seconds_to_samples(crop)
    frames, generator = clock.count(samples), torch_generator(0, "plan", "vocoder")
    return SpeechBatch(
        ids=tuple(f"probe-{clip}" for clip in range(clips)),
        waveform=torch.randn(clips, samples, generator=generator) / 10,
        waveform_lengths=torch.full((clips,), samples),
        frame_lengths=torch.full((clips,), frames),
        units=torch.randint(config.vocoder.num_units, (clips, frames, 1), generator=generator),
    ).validate()
