"""Proof that a killed run ends where an undisturbed one does: processes are really killed, weights compared by hash.

The run is small but whole: synthetic voices in two languages, balancing, crops, augmentation, mixed utterances, rooms,
masks, an encoder with dropout, micro-batches, AdamW, checkpoints. Half of the kills are SIGKILL, half SIGTERM, at
random moments.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from torch import Tensor

from allophone.audio.augment import AugmentConfig
from allophone.audio.mixing import MixConfig
from allophone.audio.reverberation import ReverbConfig
from allophone.data.collate import CollateConfig
from allophone.data.loader import BatchStream
from allophone.data.sampler import BatchSampler
from allophone.errors import AllophoneError
from allophone.frames import seconds_to_samples
from allophone.methods.masked_prediction import MaskedPrediction, MaskedPredictionConfig
from allophone.models.wav2vec2_bert import Wav2Vec2Bert, Wav2Vec2BertConfig
from allophone.seeding import derive, numpy_generator, torch_generator
from allophone.train import TrainConfig, train
from allophone.train.checkpoint import MODEL, OPTIMIZER
from allophone.train.journal import METRICS
from allophone.train.loop import CHECKPOINTS

EXIT_AFTER_SIGNAL = 75
NUM_UNITS = 12
TIMES = ("seconds",)
"""What of a journal line may differ between two runs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ResumeProof:
    """What came out."""

    kills: int
    """Runs that were killed once and resumed."""
    equal: int
    """Those whose final weights, optimizer state and journal equal the undisturbed run's, bit for bit."""
    sigkill: int
    """Kills by SIGKILL; the others by SIGTERM."""
    killed_after: tuple[int, ...]
    """Last step in the journal when each kill was sent."""
    steps: int
    """Steps of each run."""


@dataclass(frozen=True, slots=True)
class SyntheticUtterance:
    """A voice that exists only as a seed."""

    id: str
    seconds: float
    language: str


class SyntheticSpeech:
    """A waveform source without files."""

    def audio(self, utterance: SyntheticUtterance, /) -> Tensor:
        """A gliding tone in noise. Shape ``(S,)``, float32, 16 kHz."""
        generator = torch_generator(0, "synthetic", utterance.id)
        samples = seconds_to_samples(utterance.seconds)
        pitch, glide = (100 + 200 * torch.rand(2, generator=generator)).tolist()
        moment = torch.arange(samples) / 16_000
        tone = torch.sin(2 * math.pi * (pitch + glide * moment) * moment)
        return 0.3 * tone + 0.02 * torch.randn(samples, generator=generator)


def tiny_encoder(dropout: float = 0.0) -> Wav2Vec2BertConfig:
    """Two layers of width 32 with frames of 40 ms."""
    return Wav2Vec2BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        feature_stride=4,
        conv_depthwise_kernel_size=5,
        hidden_dropout=dropout,
        attention_dropout=dropout,
        conformer_conv_dropout=dropout,
    )


def tiny_method(*, dropout: float = 0.1, seed: int = 0) -> MaskedPrediction:
    """Masked prediction on the tiny encoder."""
    torch.manual_seed(derive(seed, "weights"))
    config = MaskedPredictionConfig(num_units=NUM_UNITS, labels_per_frame=2, projection_dim=16)
    return MaskedPrediction(Wav2Vec2Bert(tiny_encoder(dropout)), config)


def tiny_stream(*, seed: int = 0) -> BatchStream[SyntheticUtterance]:
    """Batches of synthetic speech in two languages, one over-sampled, with units at random."""
    utterances = [
        SyntheticUtterance(f"u{i}", 0.8 + 0.07 * (i % 11), "bul_Cyrl" if i % 4 == 0 else "ita_Latn") for i in range(24)
    ]
    clock = tiny_encoder().clock
    units = {
        utterance.id: numpy_generator(0, "units", utterance.id).integers(
            0, NUM_UNITS, (clock.count(seconds_to_samples(utterance.seconds)), 2)
        )
        for utterance in utterances
    }
    sampler = BatchSampler(
        [utterance.seconds for utterance in utterances],
        [utterance.language for utterance in utterances],
        ["synthetic"] * len(utterances),
        batch_seconds=4.0,
        crop_seconds=1.2,
        alpha=0.5,
        seed=seed,
    )
    mix = replace(MixConfig.espnet(), noise_probability=0.0)
    config = CollateConfig(
        crop_seconds=1.2, mask_length=4, augment=AugmentConfig(), reverb=ReverbConfig(probability=0.5), mix=mix
    )
    return BatchStream(SyntheticSpeech(), utterances, units, sampler, clock, config, cache_bytes=400_000)


def prove_resume(
    folder: str | Path,
    *,
    kills: int = 20,
    seed: int = 0,
    steps: int = 20,
    progress: Callable[[int, int], None] | None = None,
) -> ResumeProof:
    """Kill ``kills`` runs once each, resume them, and compare with a run that was left alone.

    Args:
        folder: Receives one run folder a kill; should be empty.
        kills: Runs to kill, SIGKILL and SIGTERM in turn.
        seed: Seed of the moments.
        steps: Updates of each run.
        progress: Called with (kills done, all kills).

    Returns:
        How many ended equal.

    Raises:
        AllophoneError: A process ended otherwise than it should.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch._dynamo"])  # AdamW imports the latter
    folder, draw = Path(folder), random.Random(seed)
    _finish(_start(context, folder / "undisturbed", steps), expected=0)
    expected = fingerprint(folder / "undisturbed", steps)
    moments, equal = [], 0
    for number in range(kills):
        run_dir, by = folder / f"kill-{number}", (signal.SIGKILL, signal.SIGTERM)[number % 2]
        process = _start(context, run_dir, steps)
        moments.append(_kill(process, run_dir, after=draw.randrange(1, steps - 2), wait=draw.random(), by=by))
        _finish(process, expected=-signal.SIGKILL if by == signal.SIGKILL else EXIT_AFTER_SIGNAL)
        _finish(_start(context, run_dir, steps), expected=0)
        equal += fingerprint(run_dir, steps) == expected
        if progress is not None:
            progress(number + 1, kills)
    return ResumeProof(kills=kills, equal=equal, sigkill=-(-kills // 2), killed_after=tuple(moments), steps=steps)


def run_tiny(run_dir: Path, steps: int) -> None:
    """Train, or go on training, the small run; exit status 75 after a signal."""
    torch.set_num_threads(1)
    config = TrainConfig(
        steps=steps, microbatches=2, learning_rate=1e-2, warmup_steps=2, log_every=1, save_every=3, tensorboard=False
    )
    result = train(tiny_method(), tiny_stream(), config, run_dir)
    sys.exit(0 if result.stopped == "finished" else EXIT_AFTER_SIGNAL)


def fingerprint(run_dir: Path, step: int) -> tuple[str, ...]:
    """Hashes of the weights and the optimizer after ``step``, and the journal without times."""
    checkpoint = run_dir / CHECKPOINTS / f"step-{step:08d}"
    files = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))["files"]
    lines = [json.loads(line) for line in (run_dir / METRICS).read_text(encoding="utf-8").splitlines()]
    journal = [json.dumps({key: value for key, value in line.items() if key not in TIMES}) for line in lines]
    return files[MODEL]["sha256"], files[OPTIMIZER]["sha256"], *journal


def _start(context: ForkServerContext, run_dir: Path, steps: int) -> BaseProcess:
    process = context.Process(target=run_tiny, args=(run_dir, steps))
    process.start()
    return process


def _finish(process: BaseProcess, *, expected: int) -> None:
    process.join()
    if process.exitcode != expected:
        raise AllophoneError(
            f"A run ended with status {process.exitcode}, expected {expected}; see its messages above."
        )


def _kill(process: BaseProcess, run_dir: Path, *, after: int, wait: float, by: signal.Signals) -> int:
    """Send a signal once the journal has ``after`` lines and the share ``wait`` of the last step's time has passed."""
    before = now = time.monotonic()
    seen = 0
    while seen < after and process.is_alive():
        time.sleep(0.002)
        if (lines := _lines(run_dir / METRICS)) > seen:
            before, now, seen = now, time.monotonic(), lines
    deadline = now + wait * min(now - before, 1.0)
    while time.monotonic() < deadline and _lines(run_dir / METRICS) == seen:
        time.sleep(0.002)
    assert process.pid is not None
    os.kill(process.pid, by)
    return seen


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
