"""ML-SUPERB 1 on its own folders: the four tasks' probes on one frozen encoder, and SUPERB_s of what they read.

Deviations from the published protocol, beside those of the probe: the five training utterances of a few-shot language
are its first five by id; cmn and jpn have no monolingual task, which is written in phones that the folders do not hold.
Hidden states of all clips are kept in memory at half precision, so the corpus must be small or the encoder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from torch import Tensor

from allophone.config import config_hash, from_dict, to_dict
from allophone.data.corpus import Corpus
from allophone.data.importers.mlsuperb import FEW_SHOT
from allophone.data.lines import text_lines
from allophone.data.utterance import Utterance
from allophone.errors import ConfigError, DataError, suggest
from allophone.evaluate.measurements import System
from allophone.evaluate.mlsuperb import SuperbScores, superb_scores
from allophone.evaluate.mlsuperb_answers import Answer, rates_by_script
from allophone.evaluate.mlsuperb_probe import ProbeClips, SuperbProbeConfig, Task, superb_probe
from allophone.evaluate.mlsuperb_reference import DEFAULT_SET, Amount, reference_set
from allophone.evaluate.mlsuperb_tables import scripts_markdown, superb_markdown, superb_rows_markdown
from allophone.evaluate.protocol import FrameSource
from allophone.evaluate.sources import extract_all
from allophone.models.conversion import model_hash
from allophone.recipes.ledger import systems_of
from allophone.run.base import Base
from allophone.run.execute import fit_threads
from allophone.run.origin import require_origin, write_origin
from allophone.run.progress import Report, counted, silent
from allophone.run.starter import open_base
from allophone.seeding import numpy_generator
from allophone.text.published import Normalizer, ml_superb_1, normalize_as

MONOLINGUAL = ("eng", "fra", "deu", "rus", "swa", "swe", "xty")
"""Languages of the monolingual task, as the folders name them; one probe a language and source."""
LONGEST_SECONDS = 20.0
"""Training utterances beyond are left out."""
FEW_UTTERANCES = 5
LANGUAGES = 143
"""Of the benchmark."""
NOT_PUBLISHED = "The probes were not trained by the published schedule, so these numbers are not the benchmark's"
Row = Literal["model", "random encoder", "filter bank", "chance"]
ROWS: tuple[Row, ...] = get_args(Row)
"""What is read by the same probes; ``chance`` answers each test utterance with some training utterance's text and
language."""
Answers = dict[str, list[Answer]]
"""Of each task."""
Splits = tuple[list[Utterance], list[Utterance], list[Utterance]]


@dataclass(frozen=True, kw_only=True, slots=True)
class SuperbRun:
    """What a run leaves."""

    scores: dict[Row, SuperbScores]
    answers: dict[Row, list[Answers]]
    """Of each seed; also in ``answers/ROW-SEED.jsonl``."""
    table: Path
    """``mlsuperb.md``."""


def ml_superb(
    model: str | Path,
    corpus: Corpus | Path | str,
    *,
    out: Path,
    amount: Amount = "10min",
    rows: Sequence[Row] = ROWS,
    seeds: Sequence[int] = (0,),
    fast: bool = False,
    reference: str = DEFAULT_SET,
    config: SuperbProbeConfig | None = None,
    report: Report = silent,
) -> SuperbRun:
    """Train and score the probes of all four tasks, of a model and of what it must beat.

    Args:
        model: ``starter``, a model folder or a hub id.
        corpus: The folder of ML-SUPERB as it is handed out, or the corpus made of it.
        out: Receives ``mlsuperb.md``, ``result.json`` and ``answers/``; the same call goes on with rows and seeds that
            are not there yet.
        amount: Training audio of each language and source.
        rows: The model and its controls.
        seeds: Of probes and of the random encoder.
        fast: Small probes and short schedules, whose numbers are not the benchmark's.
        reference: Set between whose rows SUPERB_s is placed.
        config: Of every probe, whatever ``fast`` says; its seed is replaced.
        report: Told how far each stage is.

    Raises:
        ConfigError: There is no such row.
        DataError: The corpus has no utterance of a task, which is found out before anything is trained.
        CheckpointError: ``out`` holds another run.
    """
    require_rows(rows)
    opened = corpus if isinstance(corpus, Corpus) else Corpus.open(corpus)
    splits = protocol_rows(opened, amount)
    _require_tasks(splits[2], opened.name)
    base, _ = open_base(model)
    fit_threads(base.encoder)

    def schedule(task: Task, seed: int) -> SuperbProbeConfig:
        if config is not None:
            return replace(config, seed=seed)
        return SuperbProbeConfig.fast(task, seed) if fast else SuperbProbeConfig.published(task, amount, seed)

    origin = {
        "model": model_hash(base.encoder),
        "corpus": opened.hash,
        "amount": amount,
        "probe": {task: config_hash(schedule(task, 0)) for task in ("monolingual", "multilingual")},
        "preset": "custom" if config is not None else "fast" if fast else "published",
    }
    require_origin(out, origin)
    write_origin(out, origin)
    job = _Job(base=base, corpus=opened, splits=splits, schedule=schedule, out=out, report=report)
    answers = {row: _answers(job, row, seeds) for row in rows}
    chosen = reference_set(amount, reference)
    warnings = _warnings(splits, None if config is None and not fast else config_hash(schedule("joint", 0)))
    scores = {}
    for row, (first, *others) in answers.items():
        found = superb_scores(first, chosen, other_seeds=others)
        scores[row] = replace(found, warnings=(*warnings, *found.warnings))
    multilingual = answers[rows[0]][0]["multilingual"]
    table = _write(out, scores, multilingual, {**origin, "seeds": list(seeds)})
    return SuperbRun(scores=scores, answers=answers, table=table)


def _require_tasks(test: Sequence[Utterance], name: str) -> None:
    """Every column needs a language: SUPERB_s is of all four tasks."""
    codes = {code_of(row) for row in test}
    wanted = {"monolingual task": codes & set(MONOLINGUAL), "few-shot": codes & FEW_SHOT, "other": codes - FEW_SHOT}
    missing = [task for task, found in wanted.items() if not found]
    if missing:
        raise DataError(
            f"{name}: no {' and no '.join(missing)} language in the test set, which has {', '.join(sorted(codes))}. "
            f"SUPERB_s needs some of {', '.join(MONOLINGUAL)} (monolingual), some of {', '.join(sorted(FEW_SHOT))} "
            "(few-shot), and others. `--version 2` takes any languages."
        )


def require_rows(rows: Sequence[str]) -> None:
    """Raise ``ConfigError`` where a row is none of :data:`ROWS`."""
    for row in rows:
        if row not in ROWS:
            raise ConfigError(f"Unknown row {row!r}. {suggest(row, ROWS)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """What the rows of a run share."""

    base: Base
    corpus: Corpus
    splits: Splits
    schedule: Callable[[Task, int], SuperbProbeConfig]
    out: Path
    report: Report


def source_of_row(base: Base, row: Row, seed: int) -> FrameSource | None:
    """Frames of a row; None = chance."""
    if row == "chance":
        return None
    system: System = "before" if row == "model" else row
    return systems_of(base, None, seed)[system]


def _answers(job: _Job, row: Row, seeds: Sequence[int]) -> list[Answers]:
    """What the probes of one row read, of each seed, from disk where it lies there.

    Only a random encoder has other states with another seed.
    """
    found: list[Answers] = []
    states: dict[str, Tensor] = {}
    for seed in seeds:
        path = answers_file(job.out, row, seed)
        if not path.exists():
            source = source_of_row(job.base, row, seed)
            if source is not None and (not states or row == "random encoder"):
                every = [one for split in job.splits for one in split]
                states = hidden_states(source, job.corpus, every, job.report)
            save_answers(path, _read_all(job, row, seed, source, states))
        found.append(load_answers(path))
    return found


def _read_all(job: _Job, row: Row, seed: int, source: FrameSource | None, states: Mapping[str, Tensor]) -> Answers:
    """Train the probes of all tasks and let them read; without a source, chance."""
    told, jobs = job.report(f"Probes: {row}, seed {seed}"), _jobs(job.splits[2])
    found: Answers = {}
    for done, (task, key) in enumerate(jobs):
        train, dev, test = ([one for one in split if key is None or _set_of(one) == key] for split in job.splits)
        if source is None:
            read: Sequence[Answer] = chance_answers(task, train, test, seed)
        else:
            clips = [probe_clips(rows, states) for rows in (train, dev, test)]
            config = job.schedule(task, seed)
            read = superb_probe(task, *clips, frame_rate=source.frame_rate, config=config).answers
            read = read if task == "language_identification" else with_texts(read, test)
        found.setdefault(task, []).extend(read)
        told(done + 1, len(jobs), {})
    return found


def answers_file(out: Path, row: Row, seed: int) -> Path:
    """Where the answers of a row lie, so that the same call goes on with the others."""
    return out / "answers" / f"{row.replace(' ', '-')}-{seed}.jsonl"


def save_answers(path: Path, answers: Answers) -> None:
    """A line an answer; whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    lines = [
        json.dumps({"task": task, **to_dict(one)}, ensure_ascii=False) for task in answers for one in answers[task]
    ]
    partial = path.with_name(f".{path.name}")
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    partial.replace(path)


def load_answers(path: Path) -> Answers:
    """What :func:`save_answers` wrote."""
    found: Answers = {}
    for number, line in enumerate(text_lines(path), 1):
        values = json.loads(line)
        found.setdefault(values.pop("task"), []).append(from_dict(Answer, values, f"{path}, line {number}"))
    return found


def hidden_states(source: FrameSource, corpus: Corpus, rows: Sequence[Utterance], report: Report) -> dict[str, Tensor]:
    """Of every utterance, shape ``(L, T, D)``, once for all probes and epochs; in half precision."""
    progress = counted(report(f"Hidden states: {source.name}"))
    states = extract_all(source, [corpus.audio(row) for row in rows], progress)
    return {row.id: state.half() for row, state in zip(rows, states, strict=True)}


def with_texts(answers: Sequence[Answer], rows: Sequence[Utterance]) -> list[Answer]:
    """The same answers beside what was said as the corpus has it, so that normalizers can be compared."""
    texts = {row.id: row.text or "" for row in rows}
    return [replace(one, reference=texts[one.id]) for one in answers]


def chance_answers(task: Task, train: Sequence[Utterance], test: Sequence[Utterance], seed: int) -> list[Answer]:
    """Each test utterance answered with the text and language of a training utterance drawn by seed."""
    drawn = numpy_generator(seed, "ml-superb chance", task).integers(len(train), size=len(test))
    named = task == "language_identification"
    return [
        Answer(
            id=row.id,
            language=code_of(row),
            reference="" if named else row.text or "",
            hypothesis="" if named else train[index].text or "",
            guess=code_of(train[index]),
            dataset=row.source or "",
        )
        for row, index in zip(test, drawn, strict=True)
    ]


def _warnings(splits: Splits, probe: str | None) -> tuple[str, ...]:
    """What a reader must know before believing the numbers."""
    found = [] if probe is None else [f"{NOT_PUBLISHED} ({probe})."]
    languages = {code_of(row) for row in splits[2]}
    if len(languages) != LANGUAGES:
        found.append(
            f"The recordings are not the benchmark's ({len(languages)} languages of {LANGUAGES}), so SUPERB_s places a "
            "row among rows of other data."
        )
    return tuple(found)


def protocol_rows(corpus: Corpus, amount: Amount) -> Splits:
    """Training, dev and test utterances of the protocol.

    Raises:
        DataError: A split has no utterance with a text.
    """
    rows = [row for row in corpus if row.text and ml_superb_1(row.text)]
    train = [row for row in rows if row.extra.get(f"train_{amount}") and row.duration_seconds <= LONGEST_SECONDS]
    train = five_of_few_shot(train)
    dev, test = ([row for row in rows if row.split == split] for split in ("dev", "test"))
    if not (train and dev and test):
        raise DataError(
            f"{corpus.name}: {len(train)} utterances marked train_{amount}, {len(dev)} dev, {len(test)} test; expected "
            "some of each. Open the folder of ML-SUPERB as it is handed out."
        )
    return train, dev, test


def five_of_few_shot(train: Sequence[Utterance]) -> list[Utterance]:
    """Without the training utterances of few-shot languages beyond the first five by id."""
    few: dict[str, list[Utterance]] = {}
    for row in sorted(train, key=lambda row: row.id):
        few.setdefault(code_of(row), []).append(row)
    left_out = {row.id for code in few if code in FEW_SHOT for row in few[code][FEW_UTTERANCES:]}
    return [row for row in train if row.id not in left_out]


def code_of(row: Utterance) -> str:
    """As the folders name the language; our table may know it by another code (``swa`` as ``swh``)."""
    return str(row.extra.get("code") or row.language.split("_")[0])


def _set_of(row: Utterance) -> tuple[str, str]:
    return code_of(row), row.source or ""


def _jobs(test: Sequence[Utterance]) -> list[tuple[Task, tuple[str, str] | None]]:
    """Task, and the language and source of a monolingual probe."""
    single = sorted({_set_of(row) for row in test if code_of(row) in MONOLINGUAL})
    jobs: list[tuple[Task, tuple[str, str] | None]] = [("monolingual", key) for key in single]
    return [*jobs, ("multilingual", None), ("language_identification", None), ("joint", None)]


def probe_clips(
    rows: Sequence[Utterance], states: Mapping[str, Tensor], normalizer: Normalizer = "ml-superb-1"
) -> ProbeClips:
    """What a probe needs of utterances; texts as the normalizer leaves them."""
    return ProbeClips(
        ids=tuple(row.id for row in rows),
        languages=tuple(code_of(row) for row in rows),
        texts=tuple(normalize_as(normalizer, row.text or "", code_of(row)) for row in rows),
        datasets=tuple(row.source or "" for row in rows),
        frames=[states[row.id] for row in rows],
    )


def _write(out: Path, scores: dict[Row, SuperbScores], read: Sequence[Answer], signature: Mapping[str, object]) -> Path:
    first = next(iter(scores.values()))
    result = {
        "format": "allophone-mlsuperb-2",
        "signature": signature,
        "reference_set": {"name": first.reference.name, "hash": first.reference.hash},
        "normalizer": first.normalizer,
        "rows": {row: [to_dict(one) for one in (*found.columns, found.score)] for row, found in scores.items()},
        "warnings": list(first.warnings),
    }
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    parts = [superb_markdown(first)]
    if len(scores) > 1:
        parts.append(superb_rows_markdown({str(row): found for row, found in scores.items()}))
    parts.append(scripts_markdown(rates_by_script(read)))
    table = out / "mlsuperb.md"
    table.write_text("\n".join(parts), encoding="utf-8")
    return table
