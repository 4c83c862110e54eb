"""A head for the units of an adapted encoder, so that the model that is handed over can be a base itself."""

from __future__ import annotations

import copy
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch

from allophone.config import to_dict
from allophone.data.corpus import Corpus
from allophone.methods.language_expansion import ExpansionConfig, LanguageExpansion, initialize_table
from allophone.methods.masked_prediction import MaskedPrediction
from allophone.models.build import Encoder
from allophone.nn.codebook import Codebook
from allophone.run.expansion import TABLE_BATCHES, Expanded, first_batches
from allophone.run.progress import Report, silent
from allophone.run.targets import build_stream, usable, waveforms
from allophone.seeding import derive
from allophone.train.loop import train
from allophone.units.encode import encode_units


def train_own_head(
    adapted: Encoder,
    codebook: Codebook,
    expanded: Expanded,
    corpus: Corpus,
    steps: int,
    folder: Path,
    report: Report = silent,
) -> MaskedPrediction | None:
    """Train a label table for an encoder's own units; the encoder is frozen, the projection that of the expansion.

    Args:
        adapted: The encoder after the expansion, adapter merged.
        codebook: Its units.
        expanded: The expansion; gives data and training settings and the projection.
        corpus: What was trained on, of the new and the kept languages.
        steps: Updates.
        folder: Receives the checkpoints; the same call goes on where it stopped.
        report: Told how far it is.

    Returns:
        Encoder and heads; None when a signal stopped it.
    """
    training, _ = usable(corpus, expanded.config.data)
    targets = replace(
        expanded.config.targets,
        front_end="model",
        layer=codebook.info.layer,
        num_units=codebook.info.num_units,
        labels_per_frame=1,
    )
    settings = replace(expanded.config.train, steps=steps, warmup_steps=max(1, steps // 10), learning_rate=3e-3)
    run = replace(expanded.config, name="head", targets=targets, train=settings)
    of_voice = codebook.info.normalization == "voice"
    units = encode_units(
        waveforms(training, training.utterances),
        codebook,
        encoder=adapted,
        speakers={row.id: row.speaker for row in training} if of_voice else None,
    )
    torch.manual_seed(derive(run.seed, "own head"))
    method = MaskedPrediction(copy.deepcopy(adapted), run.method())
    if method.final_proj.weight.shape == expanded.expansion.method.final_proj.weight.shape:
        method.final_proj.load_state_dict(expanded.expansion.method.final_proj.state_dict())
    control = LanguageExpansion(method, ExpansionConfig(rank=0), ())
    with closing(build_stream(training, units, adapted, run)) as stream:
        initialize_table(method, first_batches(stream, TABLE_BATCHES))
        identity = {"config": to_dict(run), "codebook": codebook.hash, "corpus": training.hash}
        result = train(control, stream, run.train, folder, identity=identity, progress=report("Head for its own units"))
    return None if result.stopped == "signal" else method
