"""What training on what utterances say would take, from a probe of one of its batches."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from allophone.batch import SpeechBatch
from allophone.frames import SAMPLE_RATE
from allophone.models.frozen import FrozenStates
from allophone.run.execute import fit_threads
from allophone.run.plan import Plan, Stage, method_step, summed, timed
from allophone.train.config import TrainConfig


def plan_texts(
    title: str,
    method: nn.Module,
    batch: SpeechBatch,
    train: TrainConfig,
    *,
    seeds: int,
    notes: tuple[str, ...],
    encoders: int = 1,
    frozen: FrozenStates | None = None,
    hours: float = 0.0,
) -> Plan:
    """Training on what utterances say, by the time that one of its batches takes; scoring is not in it.

    Args:
        title: Of the plan.
        method: What is trained.
        batch: One of its batches.
        train: For how long.
        seeds: Trainings of each encoder.
        notes: For people.
        encoders: Different ones.
        frozen: States of an encoder that stays, fresh, with which ``method`` was made; they are made once for each
            encoder and recording, as far as they fit into memory. None = the encoder is run in every step.
        hours: Audio that is heard, for ``frozen``.
    """
    fit_threads(method)
    method.train()
    step_seconds, stages = timed(method_step(method, batch)), []
    steps, parameters = train.steps * train.microbatches, sum(one.numel() for one in method.parameters())
    if frozen is not None:
        again = FrozenStates(frozen.encoder, frozen.layers, most_bytes=0)
        encoding = timed(lambda: again(batch.waveform, batch.waveform_lengths))
        audio = int(batch.waveform_lengths.sum()) / SAMPLE_RATE
        batches = min(hours * 3600 / audio, steps)
        fits = min(1.0, frozen.most_bytes / max(1.0, batches * frozen.kept_bytes))
        step_seconds += (1 - fits) * encoding
        work = f"{encoders} x {batches * audio / 3600:.2f} h, {100 * fits:.0f} % of it kept in memory"
        stages.append(Stage(name="encoder, once", work=work, seconds=encoders * fits * batches * encoding))
    work = f"{encoders * seeds} x {train.steps} steps of {batch.waveform.numel() / SAMPLE_RATE:.0f} s"
    stages.append(Stage(name="training", work=work, seconds=encoders * seeds * steps * step_seconds))
    return replace(summed(title, stages, parameters, train.keep_checkpoints + 1), notes=notes)
