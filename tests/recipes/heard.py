"""``allophone pretrain`` with a recipe of seconds that writes down what each process hears; run by torchrun."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from allophone.batch import SpeechBatch
from allophone.cli.main import main
from allophone.data.collate import CollateConfig
from allophone.data.loader import BatchStream
from allophone.distributed import rank
from allophone.models.lasr import LasrConfig
from allophone.recipes import handing_over, pretrain
from allophone.run.config import DataConfig, RunConfig, TargetsConfig
from allophone.train.config import TrainConfig

FOLDER = Path(os.environ["HEARD"])
"""Receives ``pid-RANK`` and a line for each batch of the first run in ``heard-RANK.jsonl``."""
STREAMS: list[BatchStream[Any]] = []


def tiny(seed: int = 0) -> tuple[RunConfig, ...]:
    """Twelve steps of four batches, ragged, with dropout; and one step on units of the encoder that this made."""
    encoder = LasrConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        subsampling_conv_channels=16,
        subsampling_conv_kernel_size=2,
        conv_kernel_size=3,
        num_mel_bins=40,
        attention_bias=True,
        dropout=0.1,
    )
    first = RunConfig(
        name="iteration-1",
        seed=seed,
        encoder=encoder,
        targets=TargetsConfig(front_end="mfcc39", num_units=8, iterations=2, labels_per_frame=2),
        data=DataConfig(collate=CollateConfig(crop_seconds=2.0, equal_lengths=False, mask_length=3), batch_seconds=5.0),
        train=TrainConfig(
            steps=12,
            microbatches=4,
            learning_rate=2e-3,
            schedule="constant",
            log_every=1,
            save_every=3,
            keep_checkpoints=9,
            tensorboard=False,
        ),
        projection_dim=8,
    )
    targets = TargetsConfig(front_end="model", layer=1, num_units=6, iterations=2)
    return first, replace(first, name="iteration-2", targets=targets, train=replace(first.train, steps=1))


def noted(stream: BatchStream[Any]) -> SpeechBatch:
    """The next batch, after a line about it."""
    state = stream._sampler.advance(stream.state(), rank())
    batch = taken(stream)
    if stream not in STREAMS:
        STREAMS.append(stream)
    if stream is STREAMS[0]:
        assert batch.masked is not None
        digest = hashlib.sha256(batch.waveform.numpy().tobytes() + batch.masked.numpy().tobytes()).hexdigest()
        line = {"number": [state.epoch, state.position], "ids": batch.ids, "digest": digest}
        with (FOLDER / f"heard-{rank()}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        time.sleep(0.05)  # so that there is time to kill
    return batch


taken = BatchStream.__next__
BatchStream.__next__ = noted  # type: ignore[method-assign]
pretrain.RECIPES["tiny"] = tiny
handing_over.HEAD_STEPS = 1
(FOLDER / f"pid-{os.environ.get('RANK', '0')}").write_text(str(os.getpid()))
raise SystemExit(main())
