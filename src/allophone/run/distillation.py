"""From a corpus with transcripts and a teacher's vectors to a speech embedder in the teacher's space, in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from allophone.config import to_dict
from allophone.data.corpus import Corpus
from allophone.errors import DataError
from allophone.losses.distillation import balance_weights
from allophone.methods.semantic_distillation import SemanticDistillation, SemanticDistillationConfig
from allophone.models.build import Encoder
from allophone.models.conversion import model_hash, replace_file
from allophone.models.frozen import FrozenStates
from allophone.models.speech_embedder import SpeechEmbedder, SpeechEmbedderConfig, save_speech_embedder
from allophone.models.text_teacher import TeacherTable
from allophone.run.config import DataConfig
from allophone.run.execute import is_finished
from allophone.run.progress import Report, silent
from allophone.run.texts import Heard, TextRun, execute_with_texts, heard_with_texts, texts_of_row, undisturbed
from allophone.text.perturb import hard_negatives
from allophone.train.config import TrainConfig

CREATED_BY = "allophone distill"
MEAN_FILE = "teacher_mean.safetensors"
"""What is taken off the teacher's vectors before they are compared with those of speech."""


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
    balance: float
    """Exponent of the balance of languages in the loss (SAMU-XLS-R: 0.05); 1 leaves them as they are."""
    centered: bool
    """Take the mean of the training texts off all of the teacher's vectors; E5's share most of their length."""
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
    mean = teacher_mean(heard, teacher) if config.centered else None
    table = teacher if mean is None else centered(teacher, mean)
    origin = {
        "config": to_dict(config),
        "corpus": heard.corpus.hash,
        "encoder": begun_from,
        "teacher": f"{teacher.name}, {len(teacher.keys)} texts",
    }

    def build() -> SemanticDistillation:
        rows = heard.corpus.utterances
        counts = {language: sum(row.language == language for row in rows) for language in heard.corpus.languages}
        return SemanticDistillation(
            SpeechEmbedder(encoder, config.speech),
            table,
            config.method,
            weights=balance_weights(counts, config.balance),
            negatives=known_negatives(corpus, table) if config.method.contrast_weight > 0 else None,
            frozen=frozen,
        )

    def keep(method: SemanticDistillation, folder: Path) -> None:
        if mean is not None:
            folder.mkdir(parents=True, exist_ok=True)
            replace_file(folder / MEAN_FILE, save({"mean": mean}))
        card = _card(config, heard, teacher, begun_from)
        save_speech_embedder(method.speech, folder, card, parents=(begun_from,), created_by=CREATED_BY)

    return execute_with_texts(
        config,
        heard,
        run_dir,
        origin=origin,
        clock=encoder.clock,
        finished=is_finished,
        build=build,
        save=keep,
        report=report,
    )


def shared_states(encoder: Encoder, config: DistillConfig) -> FrozenStates | None:
    """What a frozen encoder says to all runs, computed once, in half precision.

    None where it is trained, or where an utterance sounds otherwise each time.
    """
    if config.method.train_encoder or not undisturbed(config.data):
        return None
    first = encoder.num_layers if config.speech.layers == "last" else 0
    return FrozenStates(encoder.eval(), range(first, encoder.num_layers + 1), dtype=torch.float16)


def distilled_utterances(corpus: Corpus, config: DistillConfig, teacher: TeacherTable) -> Heard:
    """Utterances of the training split with a transcript that the teacher has a vector of.

    Raises:
        DataError: There is none.
    """
    heard = heard_with_texts(corpus, config.data)
    said = [row.text or "" for row in heard.corpus]
    missing = set(teacher.missing(said))
    rows = tuple(row for row, text in zip(heard.corpus, said, strict=True) if text not in missing)
    if not rows:
        raise DataError(
            f"{corpus.folder}: the teacher's table ({teacher.name}) has a vector of none of {len(said)} transcripts. "
            "It was made for another corpus: name a text encoder with --teacher."
        )
    left_out = dict(heard.left_out)
    for row in heard.corpus:
        if row.text in missing:
            left_out[row.language] = left_out.get(row.language, 0) + 1
    return Heard(corpus=heard.corpus.with_utterances(rows), left_out=left_out, languages=None)


def corpus_texts(corpus: Corpus) -> list[tuple[str, str]]:
    """Language and wording of all texts that a corpus has in the languages that it speaks and writes, sorted."""
    spoken = sorted({row.language for row in corpus if row.text})
    return sorted({pair for row in corpus for pair in texts_of_row(row, spoken).items()})


def nearly_right(pairs: Sequence[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """For each text those that differ in a number, a name or a negation; the same for every seed."""
    return hard_negatives([text for _, text in pairs], [language for language, _ in pairs])


def known_negatives(corpus: Corpus, teacher: TeacherTable) -> dict[str, tuple[str, ...]]:
    """Texts that are nearly right for each text of a corpus, as far as the teacher has vectors of them."""
    found = nearly_right(corpus_texts(corpus))
    missing = set(teacher.missing([wrong for texts in found.values() for wrong in texts]))
    known = {text: tuple(one for one in wrong if one not in missing) for text, wrong in found.items()}
    return {text: wrong for text, wrong in known.items() if wrong}


def teacher_mean(heard: Heard, teacher: TeacherTable) -> Tensor:
    """Mean vector of all different transcripts. Shape ``(E,)``, float32."""
    texts: Sequence[str] = sorted({row.text for row in heard.corpus if row.text})
    return teacher(texts).mean(dim=0)


def centered(teacher: TeacherTable, mean: Tensor) -> TeacherTable:
    """The same table with ``mean``, shape ``(E,)``, taken off every vector."""
    return TeacherTable(f"{teacher.name}, less a mean", teacher.keys, teacher.vectors.float() - mean)


def read_mean(folder: Path) -> Tensor | None:
    """What a distilled model takes off the teacher's vectors, shape ``(E,)``; None = nothing."""
    return load_file(folder / MEAN_FILE)["mean"] if (folder / MEAN_FILE).exists() else None


def _card(config: DistillConfig, heard: Heard, teacher: TeacherTable, parent: str) -> str:
    hours = ", ".join(f"{language} {value:.2f}" for language, value in sorted(heard.corpus.hours().items()))
    less = f" less the mean in `{MEAN_FILE}`" if config.centered else ""
    return (
        f"# {config.name}\n\nA speech encoder (from {parent}) whose vector of an utterance lies where {teacher.name} "
        f"puts its words, trained with allophone ({config.train.steps} updates). Compare cosines with that model's "
        f"vectors of texts{less}, in any language that it knows.\n\nHeard: {heard.corpus.name}, {len(heard.corpus)} "
        f"utterances; hours: {hours}.\n\nIt knows what the words of this corpus sound like, and little else: a "
        "content, a voice or a channel that is far from it is placed badly.\n"
    )
