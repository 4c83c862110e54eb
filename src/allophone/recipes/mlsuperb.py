"""ML-SUPERB 1 on its own folders: the four tasks' probes on one frozen encoder, and SUPERB_s of what they read.

Deviations from the published protocol, beside those of the probe: the five training utterances of a few-shot language
are its first five by id; cmn and jpn have no monolingual task, which is written in phones that the folders do not hold.
Hidden states of all clips are kept in memory at half precision, so the corpus must be small or the encoder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from allophone.config import config_hash, to_dict
from allophone.data.corpus import Corpus
from allophone.data.importers.mlsuperb import FEW_SHOT
from allophone.data.utterance import Utterance
from allophone.errors import DataError
from allophone.evaluate.measurements import System
from allophone.evaluate.mlsuperb import SuperbScores, superb_scores
from allophone.evaluate.mlsuperb_answers import Answer
from allophone.evaluate.mlsuperb_probe import ProbeClips, SuperbProbeConfig, Task, superb_probe
from allophone.evaluate.mlsuperb_reference import DEFAULT_SET, Amount, reference_set
from allophone.evaluate.mlsuperb_tables import superb_markdown
from allophone.evaluate.sources import extract_all
from allophone.models.conversion import model_hash
from allophone.recipes.ledger import systems_of
from allophone.run.execute import fit_threads
from allophone.run.progress import Report, counted, silent
from allophone.run.starter import open_base
from allophone.text.published import ml_superb_1

MONOLINGUAL = ("eng", "fra", "deu", "rus", "swa", "swe", "xty")
"""Languages of the monolingual task, as the folders name them; one probe a language and source."""
LONGEST_SECONDS = 20.0
"""Training utterances beyond are left out."""
FEW_UTTERANCES = 5
NOT_PUBLISHED = "The probes were not trained by the published schedule, so these numbers are not the benchmark's"


@dataclass(frozen=True, kw_only=True, slots=True)
class SuperbRun:
    """What a run leaves."""

    scores: SuperbScores
    answers: dict[str, tuple[Answer, ...]]
    """Task to its answers; also in ``answers.jsonl``."""
    table: Path
    """``mlsuperb.md``."""


def ml_superb(
    model: str | Path,
    corpus: Corpus | Path | str,
    *,
    out: Path,
    amount: Amount = "10min",
    system: System = "before",
    reference: str = DEFAULT_SET,
    config: SuperbProbeConfig | None = None,
    report: Report = silent,
) -> SuperbRun:
    """Train and score the probes of all four tasks.

    Args:
        model: ``starter``, a model folder or a hub id.
        corpus: The folder of ML-SUPERB as it is handed out, or the corpus made of it.
        out: Receives ``mlsuperb.md``, ``result.json`` and ``answers.jsonl``.
        amount: Training audio of each language and source.
        system: ``before`` is the model; ``random encoder`` and ``filter bank`` are its controls.
        reference: Set between whose rows SUPERB_s is placed.
        config: Of every probe; None = the published schedule of each task.
        report: Told how far each stage is.

    Raises:
        DataError: The corpus has no utterance of a task.
    """
    opened = corpus if isinstance(corpus, Corpus) else Corpus.open(corpus)
    splits = protocol_rows(opened, amount)
    base, _ = open_base(model)
    fit_threads(base.encoder)
    source = systems_of(base, None, 0)[system]
    rows = [row for split in splits for row in split]
    progress = counted(report("Hidden states, once"))
    states = extract_all(source, [opened.audio(row) for row in rows], progress)
    kept = {row.id: state.half() for row, state in zip(rows, states, strict=True)}
    answers: dict[str, list[Answer]] = {}
    jobs = _jobs(splits[2])
    told = report("Probes")
    for done, (task, key) in enumerate(jobs):
        chosen = [_clips([row for row in split if key is None or _set_of(row) == key], kept) for split in splits]
        schedule = config or SuperbProbeConfig.published(task, amount)
        read = superb_probe(task, *chosen, frame_rate=source.frame_rate, config=schedule)
        answers.setdefault(task, []).extend(read.answers)
        told(done + 1, len(jobs), {})
    scores = superb_scores(answers, reference_set(amount, reference))
    if config is not None:
        scores = replace(scores, warnings=(f"{NOT_PUBLISHED} ({config_hash(config)}).", *scores.warnings))
    signature = {
        "model": model_hash(base.encoder) if system == "before" else system,
        "corpus": opened.hash,
        "probe": "published" if config is None else config_hash(config),
    }
    return _write(out, scores, answers, signature)


def protocol_rows(corpus: Corpus, amount: Amount) -> tuple[list[Utterance], list[Utterance], list[Utterance]]:
    """Training, dev and test utterances of the protocol.

    Raises:
        DataError: A split has no utterance with a text.
    """
    rows = [row for row in corpus if row.text and ml_superb_1(row.text)]
    train = [row for row in rows if row.extra.get(f"train_{amount}") and row.duration_seconds <= LONGEST_SECONDS]
    few: dict[str, list[Utterance]] = {}
    for row in sorted(train, key=lambda row: row.id):
        few.setdefault(_code(row), []).append(row)
    left_out = {row.id for code in few if code in FEW_SHOT for row in few[code][FEW_UTTERANCES:]}
    train = [row for row in train if row.id not in left_out]
    dev, test = ([row for row in rows if row.split == split] for split in ("dev", "test"))
    if not (train and dev and test):
        raise DataError(
            f"{corpus.name}: {len(train)} utterances marked train_{amount}, {len(dev)} dev, {len(test)} test; expected "
            "some of each. Open the folder of ML-SUPERB as it is handed out."
        )
    return train, dev, test


def _code(row: Utterance) -> str:
    """As the folders name the language; our table may know it by another code (``swa`` as ``swh``)."""
    return str(row.extra.get("code") or row.language.split("_")[0])


def _set_of(row: Utterance) -> tuple[str, str]:
    return _code(row), row.source or ""


def _jobs(test: Sequence[Utterance]) -> list[tuple[Task, tuple[str, str] | None]]:
    """Task, and the language and source of a monolingual probe."""
    single = sorted({_set_of(row) for row in test if _code(row) in MONOLINGUAL})
    jobs: list[tuple[Task, tuple[str, str] | None]] = [("monolingual", key) for key in single]
    return [*jobs, ("multilingual", None), ("language_identification", None), ("joint", None)]


def _clips(rows: Sequence[Utterance], states: dict[str, Tensor]) -> ProbeClips:
    return ProbeClips(
        ids=tuple(row.id for row in rows),
        languages=tuple(_code(row) for row in rows),
        texts=tuple(ml_superb_1(row.text or "") for row in rows),
        datasets=tuple(row.source or "" for row in rows),
        frames=[states[row.id] for row in rows],
    )


def _write(out: Path, scores: SuperbScores, answers: dict[str, list[Answer]], signature: dict[str, str]) -> SuperbRun:
    out.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"task": task, **to_dict(one)}, ensure_ascii=False) for task in answers for one in answers[task]
    ]
    (out / "answers.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    result = {
        "format": "allophone-mlsuperb-1",
        "signature": signature,
        "reference_set": {"name": scores.reference.name, "hash": scores.reference.hash},
        "normalizer": scores.normalizer,
        "scores": [to_dict(one) for one in (*scores.columns, scores.score)],
        "warnings": list(scores.warnings),
    }
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    table = out / "mlsuperb.md"
    table.write_text(superb_markdown(scores), encoding="utf-8")
    return SuperbRun(scores=scores, answers={task: tuple(found) for task, found in answers.items()}, table=table)
