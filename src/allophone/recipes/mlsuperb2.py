"""ML-SUPERB 2.0 and the 2025 challenge on their own folders: one joint probe on a frozen encoder, all their measures.

Deviations: the few-shot languages' five utterances are the first five by id; where there is no test split, as in what
the challenge hands out, dev both chooses the epochs and is scored, and the page says so.

Source: Shi et al. 2024, arXiv:2406.08641; ESPnet ``egs2/ml_superb2``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from allophone.config import config_hash, to_dict
from allophone.data.corpus import Corpus
from allophone.data.utterance import Utterance
from allophone.errors import DataError
from allophone.evaluate.mlsuperb_answers import Answer, rates_by_script
from allophone.evaluate.mlsuperb_challenge import ChallengeScores, challenge_scores
from allophone.evaluate.mlsuperb_probe import SuperbProbeConfig, superb_probe
from allophone.evaluate.mlsuperb_tables import challenge_markdown
from allophone.models.conversion import model_hash
from allophone.recipes.mlsuperb import (
    LONGEST_SECONDS,
    NOT_PUBLISHED,
    ROWS,
    Row,
    answers_file,
    chance_answers,
    code_of,
    five_of_few_shot,
    hidden_states,
    load_answers,
    probe_clips,
    require_rows,
    save_answers,
    source_of_row,
    with_texts,
)
from allophone.run.base import Base
from allophone.run.execute import fit_threads
from allophone.run.origin import require_origin, write_origin
from allophone.run.progress import Report, silent
from allophone.run.starter import open_base
from allophone.text.published import ml_superb_2

ON_DEV = "There is no test split: the scores are on dev, which also chose the epochs that were averaged."


@dataclass(frozen=True, kw_only=True, slots=True)
class ChallengeRun:
    """What a run leaves."""

    scores: dict[Row, ChallengeScores]
    answers: dict[Row, list[Answer]]
    """Of the standard test set, then of the dialects."""
    table: Path
    """``mlsuperb2.md``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChallengeRows:
    """Utterances of the protocol."""

    train: list[Utterance]
    dev: list[Utterance]
    test: list[Utterance]
    dialects: list[Utterance]

    @property
    def every(self) -> list[Utterance]:
        """Each once."""
        return list({row.id: row for part in (self.train, self.dev, self.test, self.dialects) for row in part}.values())


def ml_superb_2_run(
    model: str | Path,
    corpus: Corpus | Path | str,
    *,
    out: Path,
    rows: Sequence[Row] = ROWS,
    seed: int = 0,
    fast: bool = False,
    config: SuperbProbeConfig | None = None,
    report: Report = silent,
) -> ChallengeRun:
    """Train a joint probe of every row and score what it reads.

    Args:
        model: ``starter``, a model folder or a hub id.
        corpus: The folder of 2.0 or of the challenge as it is handed out, or the corpus made of it.
        out: Receives ``mlsuperb2.md``, ``result.json`` and ``answers/``; the same call goes on with rows that are not
            there yet.
        rows: The model and its controls.
        seed: Of probes and the random encoder.
        fast: A small probe and a short schedule, whose numbers are not the benchmark's.
        config: Of every probe, whatever ``fast`` says.
        report: Told how far each stage is.

    Raises:
        ConfigError: There is no such row.
        DataError: A split has no utterance with a text, fewer than two languages, or one that training has not; found
            out before anything is computed.
        CheckpointError: ``out`` holds another run.
    """
    require_rows(rows)
    opened = corpus if isinstance(corpus, Corpus) else Corpus.open(corpus)
    chosen = challenge_rows(opened)
    _require_languages(chosen, opened.name)
    base, _ = open_base(model)
    fit_threads(base.encoder)
    published = SuperbProbeConfig.published_2(seed)
    probe = config or (SuperbProbeConfig.fast("joint", seed) if fast else published)
    warnings = [] if probe == published else [f"{NOT_PUBLISHED} ({config_hash(probe)})."]
    warnings += [ON_DEV] if chosen.test is chosen.dev else []
    signature = {"model": model_hash(base.encoder), "corpus": opened.hash, "seed": seed, "probe": config_hash(probe)}
    origin = {name: signature[name] for name in ("model", "corpus")} | {"probe_2": config_hash(replace(probe, seed=0))}
    require_origin(out, origin)
    write_origin(out, origin)
    answers: dict[Row, list[Answer]] = {}
    scores: dict[Row, ChallengeScores] = {}
    for row in rows:
        path = answers_file(out, row, seed)
        if not path.exists():
            save_answers(path, {"joint": _answers(row, base, opened, chosen, probe, report)})
        answers[row] = load_answers(path)["joint"]
        size = len(chosen.test)
        found = challenge_scores(answers[row][:size], answers[row][size:])
        scores[row] = replace(found, warnings=(*warnings, *found.warnings))
    scripts = {row: rates_by_script(found[: len(chosen.test)]) for row, found in answers.items()}
    parts = [f"## {row}\n\n{challenge_markdown(scores[row], scripts[row])}" for row in rows]
    return ChallengeRun(scores=scores, answers=answers, table=_write(out, scores, parts, signature))


def challenge_rows(corpus: Corpus) -> ChallengeRows:
    """Utterances of the protocol: training ones up to 20 s, five of a few-shot language; dialects by themselves.

    Raises:
        DataError: A split has no utterance with a text.
    """
    rows = [row for row in corpus if row.text and ml_superb_2(row.text, row.language)]
    standard = [row for row in rows if not row.extra.get("dialect")]
    train = five_of_few_shot([r for r in standard if r.split == "train" and r.duration_seconds <= LONGEST_SECONDS])
    dev, test = ([row for row in standard if row.split == split] for split in ("dev", "test"))
    if not (train and dev):
        raise DataError(
            f"{corpus.name}: {len(train)} training utterances and {len(dev)} of dev have a text; expected some of "
            "each. Open the folder of ML-SUPERB 2.0 or of the challenge as it is handed out."
        )
    return ChallengeRows(
        train=train, dev=dev, test=test or dev, dialects=[row for row in rows if row.extra.get("dialect")]
    )


def _require_languages(chosen: ChallengeRows, name: str) -> None:
    """Every measure is over languages, and the probe names those alone that it was trained on."""
    known = {code_of(row) for row in chosen.train}
    tested = "dev" if chosen.test is chosen.dev else "test"
    for split, rows in ((tested, chosen.test), ("dialects", chosen.dialects)):
        codes = {code_of(row) for row in rows}
        missing = sorted(codes - known)
        if missing:
            raise DataError(
                f"{name}: {', '.join(missing)} in {split} but not among the {len(known)} languages of training (its "
                f"utterances with a text, up to {LONGEST_SECONDS:g} s). The probe could not name them; give them "
                "training utterances, or leave them out."
            )
        if rows and len(codes) < 2:
            raise DataError(f"{name}: all of {split} is in {', '.join(codes)}; expected at least two languages.")


def _answers(
    row: Row, base: Base, corpus: Corpus, chosen: ChallengeRows, probe: SuperbProbeConfig, report: Report
) -> list[Answer]:
    """What one row reads in the test set and then in the dialects."""
    tested = [*chosen.test, *chosen.dialects]
    source = source_of_row(base, row, probe.seed)
    if source is None:
        return chance_answers("joint", chosen.train, tested, probe.seed)
    states = hidden_states(source, corpus, chosen.every, report)
    parts = [probe_clips(part, states, "ml-superb-2") for part in (chosen.train, chosen.dev, tested)]
    told = report(f"Probe: {row}")
    read = superb_probe("joint", *parts, frame_rate=source.frame_rate, config=probe).answers
    told(1, 1, {})
    return with_texts(read, tested)


def _write(
    out: Path,
    scores: Mapping[Row, ChallengeScores],
    parts: Sequence[str],
    signature: Mapping[str, object],
) -> Path:
    result = {
        "format": "allophone-mlsuperb2-1",
        "signature": signature,
        "rows": {row: to_dict(found) for row, found in scores.items()},
    }
    (out / "result.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    table = out / "mlsuperb2.md"
    table.write_text("\n".join(parts), encoding="utf-8")
    return table
