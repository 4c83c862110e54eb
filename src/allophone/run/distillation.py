"""From a corpus with transcripts and a teacher's vectors to a speech embedder in the teacher's space, in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from allophone.config import to_dict
from allophone.data.corpus import Corpus
from allophone.data.loader import WaveformCache
from allophone.data.utterance import Utterance
from allophone.distributed import device
from allophone.errors import DataError, NumericsError
from allophone.losses.distillation import balance_weights
from allophone.methods.semantic_distillation import SemanticDistillation, SemanticDistillationConfig
from allophone.models.build import Encoder
from allophone.models.conversion import model_hash
from allophone.models.frozen import FrozenStates
from allophone.models.language_removal import REMOVED_FILE, Removed, fit_removal
from allophone.models.speech_embedder import (
    INFO_FILE,
    CorrectedLinear,
    SpeechEmbedder,
    SpeechEmbedderConfig,
    save_speech_embedder,
)
from allophone.models.text_teacher import TeacherTable
from allophone.run.config import DataConfig
from allophone.run.progress import Report, counted, silent
from allophone.run.ridge import drawn_rows, fit_ridge
from allophone.run.texts import Heard, TextRun, execute_with_texts, heard_with_texts, texts_of_row, undisturbed
from allophone.text.perturb import hard_negatives
from allophone.train.checkpoint import has_checkpoint
from allophone.train.config import TrainConfig
from allophone.train.loop import CHECKPOINTS

CREATED_BY = "allophone distill"
LEAST_DEVIATION = 1e-4
"""Of a pooled value over the recordings; one that differs less says nothing, and is not blown up by standardizing."""
Removal = Literal["nothing", "mean", "languages"]
"""What is taken off the teacher's vectors; ``recipes.distill.DistillOptions`` spells it out for the command line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillConfig:
    """A complete distillation."""

    name: str
    """What the model card calls it."""
    seed: int
    """Of initialization, sampling and dropout."""
    speech: SpeechEmbedderConfig
    """What stands behind the encoder; ``dim`` is the teacher's."""
    method: SemanticDistillationConfig
    """The objective."""
    texts: Literal["own", "all"]
    """own: each utterance learns the vector of its transcript; all: also those of its translations into the languages
    that the corpus speaks, one drawn each time."""
    balance: float
    """Exponent of the balance of languages in the loss (SAMU-XLS-R: 0.05); 1 leaves them as they are."""
    removed: Removal
    """What is taken off all of the teacher's vectors: the mean of the training texts (E5's share most of their length),
    or with it the directions in which the languages' means differ."""
    data: DataConfig
    """What is heard."""
    train: TrainConfig
    """For how long and how."""


def execute_distillation(
    config: DistillConfig,
    corpus: Corpus,
    run_dir: Path,
    *,
    encoder: Encoder,
    teacher: TeacherTable,
    frozen: FrozenStates | None = None,
    report: Report = silent,
) -> TextRun:
    """Distil, or go on with it; nothing is done where the same run is finished.

    Args:
        config: The run; written to ``run_dir/config.json``.
        corpus: Its training split is heard.
        run_dir: Receives ``metrics.jsonl``, ``checkpoints/``, ``used.parquet`` and ``model/``.
        encoder: Of speech; it is changed in place.
        teacher: Vectors of what is said and, for the contrast, of texts that are nearly right.
        frozen: What :func:`shared_states` made; None = the encoder is run in every step.
        report: Told how far each stage is.

    Raises:
        DataError: No text of the training split has a vector.
        AllophoneError: What the stages raise.
    """
    heard = distilled_utterances(corpus, config, teacher)
    begun_from = model_hash(encoder)
    removed = what_is_removed(heard, teacher, config.removed)
    table = teacher if removed is None else removed.off(teacher)
    origin = {
        "config": to_dict(config),
        "corpus": heard.corpus.hash,
        "encoder": begun_from,
        "teacher": f"{teacher.name}, {len(teacher.keys)} texts",
    }

    def build() -> SemanticDistillation:
        rows = heard.corpus.utterances
        counts = {language: sum(row.language == language for row in rows) for language in heard.corpus.languages}
        speech = SpeechEmbedder(encoder, config.speech)
        # What goes on from a checkpoint has been past its beginning.
        if config.speech.projection == "corrected" and not has_checkpoint(run_dir / CHECKPOINTS):
            begin_as_ridge(speech, heard, table, frozen, report)
        return SemanticDistillation(
            speech,
            table,
            config.method,
            weights=balance_weights(counts, config.balance),
            negatives=known_negatives(corpus, table) if config.method.contrast_weight > 0 else None,
            frozen=frozen,
        )

    def keep(method: SemanticDistillation, folder: Path) -> None:
        if removed is not None:
            removed.save(folder)
        card = _card(config, heard, teacher, begun_from)
        save_speech_embedder(method.speech, folder, card, parents=(begun_from,), created_by=CREATED_BY)

    return execute_with_texts(
        config,
        heard,
        run_dir,
        origin=origin,
        clock=encoder.clock,
        finished=is_distilled,
        build=build,
        save=keep,
        report=report,
    )


def is_distilled(folder: Path) -> bool:
    """Whether a folder holds a whole embedder."""
    return (folder / INFO_FILE).exists()


def begin_as_ridge(
    speech: SpeechEmbedder,
    heard: Heard,
    table: TeacherTable,
    frozen: FrozenStates | None,
    report: Report = silent,
) -> None:
    """Let an embedder start as the ridge regression from what it pools now to the vectors that it is to learn.

    Args:
        speech: The embedder, with projection ``corrected``; its encoder is as distillation begins with it.
        heard: At most :data:`~allophone.run.ridge.RIDGE_CLIPS` of its recordings are pooled.
        table: The teacher, less what is removed.
        frozen: States of the encoder; None = it is run.
        report: Told how far it is.

    Raises:
        NumericsError: The encoder makes values of a recording that are not finite.
    """
    assert isinstance(speech.projection, CorrectedLinear)
    rows, cache, progress = drawn_rows(heard.corpus, 0), WaveformCache(heard.corpus), counted(report("Start"))
    speech.eval().to(device())
    pooled: list[Tensor] = []
    with torch.no_grad():
        for number, row in enumerate(rows):
            waveform = cache.get(row)
            # As the sampler cuts it, so that frozen states are those of the training.
            waveform = waveform[: speech.clock.samples(speech.clock.count(len(waveform)))][None].to(device())
            lengths = torch.tensor([waveform.shape[1]], device=device())
            states = speech.encoder(waveform, lengths).hidden_states if frozen is None else frozen(waveform, lengths)
            pooled.append(speech.pooled(states).cpu())
            if not bool(pooled[-1].isfinite().all()):
                raise NumericsError(
                    f"{row.id}: the encoder makes NaN or infinite values of it. Listen to the recording, or take "
                    "another encoder."
                )
            progress(number + 1, len(rows))
    speech.train().cpu()  # whoever trains it puts it where it belongs
    ridge = fit_ridge(torch.cat(pooled), ridge_targets(table, heard, rows))
    constant = ridge.deviation < LEAST_DEVIATION
    speech.projection.begin_as(
        ridge.mean, ridge.deviation.masked_fill(constant, 1.0), ridge.weight.masked_fill(constant, 0.0), ridge.bias
    )


def unit(table: TeacherTable, texts: Sequence[str]) -> Tensor:
    """Vectors of length 1. Shape ``(len(texts), E)``."""
    return F.normalize(table(texts), dim=-1)


def ridge_targets(table: TeacherTable, heard: Heard, rows: Sequence[Utterance]) -> NDArray[np.float64]:
    """For each utterance the mean, of vectors of length 1, of the texts that it is taught. Shape ``(N, E)``."""
    return torch.stack([unit(table, learned_texts(heard, row)).mean(dim=0) for row in rows]).double().numpy()


def shared_states(encoder: Encoder, config: DistillConfig) -> FrozenStates | None:
    """What a frozen encoder says to all runs, computed once, in half precision.

    None where it is trained, or where an utterance sounds otherwise each time.
    """
    if config.method.train_encoder or not undisturbed(config.data):
        return None
    first = encoder.num_layers if config.speech.layers == "last" else 0
    return FrozenStates(encoder.eval(), range(first, encoder.num_layers + 1), dtype=torch.float16)


def distilled_utterances(corpus: Corpus, config: DistillConfig, teacher: TeacherTable) -> Heard:
    """Utterances of the training split with a text that the teacher has a vector of; they have no other texts.

    Raises:
        DataError: There is none.
    """
    languages = None if config.texts == "own" else written_languages(corpus)
    heard = heard_with_texts(corpus, config.data, languages)
    texts = list(dict.fromkeys(text for row in heard.corpus for text in texts_of_row(row, languages).values()))
    missing = set(teacher.missing(texts))
    if len(missing) == len(texts):
        raise DataError(
            f"{corpus.folder}: the teacher's table ({teacher.name}) has a vector of none of {len(texts)} texts of the "
            "training split. It was made for another corpus: name a text encoder with --teacher."
        )
    return heard_with_texts(with_known_texts(corpus, missing), config.data, languages) if missing else heard


def with_known_texts(corpus: Corpus, missing: set[str]) -> Corpus:
    """The same utterances, without texts and translations that are missing."""

    def known(row: Utterance) -> Utterance:
        translations = {language: text for language, text in row.translations.items() if text not in missing}
        return replace(row, text=None if row.text in missing else row.text, translations=translations)

    return corpus.with_utterances(tuple(known(row) for row in corpus)) if missing else corpus


def written_languages(corpus: Corpus) -> list[str]:
    """Languages that a corpus speaks and writes, sorted."""
    return sorted({row.language for row in corpus if row.text})


def corpus_texts(corpus: Corpus) -> list[tuple[str, str]]:
    """Language and wording of all texts that a corpus has in the languages that it speaks and writes, sorted."""
    spoken = written_languages(corpus)
    return sorted({pair for row in corpus for pair in texts_of_row(row, spoken).items()})


def teacher_texts(corpus: Corpus) -> list[str]:
    """What a teacher's vectors are needed of: all texts of a corpus, and those that are nearly right."""
    pairs = corpus_texts(corpus)
    return [text for _, text in pairs] + [wrong for found in nearly_right(pairs).values() for wrong in found]


def nearly_right(pairs: Sequence[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """For each text those that differ in a number, a name or a negation; the same for every seed."""
    return hard_negatives([text for _, text in pairs], [language for language, _ in pairs])


def known_negatives(corpus: Corpus, teacher: TeacherTable) -> dict[str, tuple[str, ...]]:
    """Texts that are nearly right for each text of a corpus, as far as the teacher has vectors of them."""
    found = nearly_right(corpus_texts(corpus))
    missing = set(teacher.missing([wrong for texts in found.values() for wrong in texts]))
    known = {text: tuple(one for one in wrong if one not in missing) for text, wrong in found.items()}
    return {text: wrong for text, wrong in known.items() if wrong}


def what_is_removed(heard: Heard, teacher: TeacherTable, kind: Removal) -> Removed | None:
    """Fitted on all different texts that are learned; None = nothing."""
    if kind == "nothing":
        return None
    pairs = {pair for row in heard.corpus for pair in texts_of_row(row, heard.languages).items()}
    texts = [sorted({text for one, text in pairs if one == tag}) for tag in sorted({tag for tag, _ in pairs})]
    return fit_removal([teacher(some) for some in texts], languages=kind == "languages")


def learned_texts(heard: Heard, row: Utterance) -> list[str]:
    """The texts that an utterance is given in training, each as often as the others."""
    return [text for _, text in sorted(texts_of_row(row, heard.languages).items())]


def _card(config: DistillConfig, heard: Heard, teacher: TeacherTable, parent: str) -> str:
    hours = ", ".join(f"{language} {value:.2f}" for language, value in sorted(heard.corpus.hours().items()))
    less = "" if config.removed == "nothing" else f" less what `{REMOVED_FILE}` takes off them"
    return (
        f"# {config.name}\n\nA speech encoder (from {parent}) whose vector of an utterance lies where {teacher.name} "
        f"puts its words, trained with allophone ({config.train.steps} updates). Compare cosines with that model's "
        f"vectors of texts{less}, in any language that it knows.\n\nHeard: {heard.corpus.name}, {len(heard.corpus)} "
        f"utterances; hours: {hours}.\n\nIt knows what the words of this corpus sound like, and little else: a "
        "content, a voice or a channel that is far from it is placed badly.\n"
    )
