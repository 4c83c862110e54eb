"""Several languages, one after another: each is added to the model that the one before left, and all are kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from allophone.config import to_dict
from allophone.data.corpus import Corpus
from allophone.errors import ConfigError
from allophone.evaluate.forgetting import measure_masked_loss
from allophone.evaluate.gate import Gate, losses, refusal, require_protected
from allophone.evaluate.matrix import Matrix, State, matrices, matrix_json, write_matrix_page
from allophone.evaluate.measurements import Measurement, System, changes, load_measurements, save_measurements
from allophone.evaluate.sources import EncoderSource
from allophone.methods.masked_prediction import MaskedPrediction
from allophone.models.build import Encoder
from allophone.models.conversion import load_encoder, model_hash
from allophone.recipes.expand import KEEP, expand, kept_corpora, merged, open_recordings, with_splits
from allophone.recipes.expand_measure import measure_frames
from allophone.recipes.ledger import LedgerConfig, base_posteriors, draw_rows, main_voices, spoken, systems_of
from allophone.run.base import Base
from allophone.run.execute import fit_threads
from allophone.run.expansion_config import ExpandConfig, run_config
from allophone.run.origin import require_origin, write_origin
from allophone.run.pack import PACK_FILE
from allophone.run.progress import Report, silent
from allophone.run.starter import STARTER, open_base
from allophone.run.targets import aligned_units, waveforms
from allophone.text.languages import parse_language
from allophone.units.encode import encode_units

STATE = "state.parquet"
"""Measurements of one model on all languages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceResult:
    """What adding several languages leaves in its folder."""

    out: Path
    report: Path
    """The page with the matrix."""
    model: Path
    """With all languages."""
    packs: tuple[Path, ...]
    """Lowest first; each belongs on the base with those before it."""
    matrices: tuple[Matrix, ...]


def expand_in_sequence(
    base: str | Path,
    corpus: Corpus | Path | str,
    *,
    languages: Sequence[str],
    out: Path,
    keep: Sequence[str] = (),
    config: ExpandConfig | None = None,
    ledger: LedgerConfig | None = None,
    gate: Gate | None = None,
    report: Report = silent,
) -> SequenceResult | None:
    """Add languages to a model one after another; each addition keeps all that came before it.

    What is finished in ``out`` and was made from the same is not made again.

    Args:
        base: ``starter``, a model folder or a hub id.
        corpus: Recordings of all of them: a corpus, or anything that ``Corpus.open`` reads.
        languages: In the order in which they are added.
        out: One folder an addition, and ``report.html`` with the matrix.
        keep: As in ``expand``, from the first addition on.
        config: How every addition adapts the model.
        ledger: How much is measured.
        gate: The most that a language to keep may lose in one addition; the sequence stops there.
        report: Told how far each stage is.

    Returns:
        None when a signal stopped it.

    Raises:
        ConfigError: A language is named twice, or there is a ``gate`` and no language to keep.
        GateError: An addition loses more than ``gate`` allows.
        AllophoneError: As ``expand``.
    """
    config, ledger = config or ExpandConfig(), ledger or LedgerConfig()
    if len({parse_language(language).tag for language in languages}) < len(languages):
        raise ConfigError(f"A language is named twice in {', '.join(languages)}; each can be added once.")
    opened = _split(open_recordings(corpus, languages[0], report), config.seed)
    new = {one.languages[0]: one for one in (with_splits(opened.where(language=tag), 0) for tag in languages)}
    several = opened.where(language=list(new))
    kept = kept_corpora(opened, keep or (KEEP if str(base) == STARTER else ()), several)
    require_protected(gate, kept)
    root, where = open_base(base)
    fit_threads(root.encoder)
    work = _Work(
        root=root, opened=opened, corpora={**new, **kept}, config=config, ledger=ledger, gate=gate, report=report
    )
    states, model, folders = [_first_state(work, out / "0-base")], (root, where), []
    for number, language in enumerate(new):
        folder = out / f"{number + 1}-{language}"
        if not _add(work, model, language, (*kept, *list(new)[:number]), states, folder):
            return None
        states.append(State(name=f"+ {language}", added=language, measurements=_loaded(folder / STATE)))
        model = open_base(folder / "model")
        folders.append(folder)
    found = matrices(states)
    (out / "matrix.json").write_text(json.dumps(matrix_json(found), indent=1, ensure_ascii=False) + "\n", "utf-8")
    facts = (
        ("Base model", str(where)),
        ("Added, in this order", ", ".join(new)),
        ("Kept from the start", ", ".join(kept) or "none"),
        ("Base model hash", model_hash(root.encoder)),
        ("Corpus hash", opened.hash),
        ("Seed", str(config.seed)),
    )
    title = f"{len(new)} languages added to {where.name if isinstance(where, Path) else where}"
    pages = [f"{folder.name}/report.html" for folder in folders]
    page = write_matrix_page(title, found, facts, out / "report.html", pages=pages)
    packs = tuple(folder / "pack" for folder in folders)
    return SequenceResult(out=out, report=page, model=folders[-1] / "model", packs=packs, matrices=found)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """What all additions share."""

    root: Base
    """The model as it was given."""
    opened: Corpus
    corpora: dict[str, Corpus]
    """Every language, added and kept, in one order, so that every state is measured alike."""
    config: ExpandConfig
    ledger: LedgerConfig
    gate: Gate | None
    report: Report


def _split(recordings: Corpus, seed: int) -> Corpus:
    """The corpus with each language split once, so that what is held out when it is added stays so when it is kept."""
    every = merged([with_splits(recordings.where(language=language), seed) for language in recordings.languages])
    return recordings if every is None else recordings.with_utterances(every.utterances)


def _add(
    work: _Work, model: tuple[Base, Path | str], language: str, held: Sequence[str], states: Sequence[State], out: Path
) -> bool:
    """Add one language and measure the model on all; False when a signal stopped it, nothing where it is done."""
    origin = {
        "config": to_dict(work.config),
        "ledger": to_dict(work.ledger),
        "base": model_hash(model[0].encoder),
        "corpus": work.opened.hash,
        "language": language,
        "keep": list(held),
    }
    require_origin(out, origin)
    if (out / "pack" / PACK_FILE).exists() and (out / STATE).exists():
        _hold(work.gate, held, out)
        return True
    write_origin(out, origin)
    made = expand(
        model,
        work.opened,
        language=language,
        keep=held,
        out=out,
        config=work.config,
        ledger=work.ledger,
        known=_known(states, [language, *held]),
        gate=work.gate,
        report=work.report,
    )
    if made is None:
        return False
    encoder = load_encoder(out / "model")
    found = measure_frames(
        {"after": EncoderSource("after", encoder)},
        {},
        work.corpora,
        tuple(work.corpora),
        work.ledger,
        work.config.seed,
        work.report,
    )
    save_measurements(found + _masked(work, encoder, "after"), out / STATE)
    return True


def _hold(gate: Gate | None, held: Sequence[str], out: Path) -> None:
    """Hold an addition that is there already to a limit that it may have been made without."""
    if gate is not None:
        refused = losses(changes(load_measurements(out / "measurements.parquet")), held, gate)
        if refused:
            raise refusal(refused, gate, str(out))


def _first_state(work: _Work, folder: Path) -> State:
    """The model as it was given, with the rows that no addition changes; from ``folder`` where it is there."""
    root, corpora, seed = work.root, work.corpora, work.config.seed
    origin = {
        "base": model_hash(root.encoder),
        "ledger": to_dict(work.ledger),
        "seed": seed,
        "corpora": {language: corpus.hash for language, corpus in corpora.items()},
    }
    if (folder / STATE).exists():
        require_origin(folder, origin)
    else:
        systems, posteriors = systems_of(root, None, seed), base_posteriors(root)
        found = measure_frames(systems, posteriors, corpora, tuple(corpora), work.ledger, seed, work.report)
        write_origin(folder, origin)
        save_measurements(found + _masked(work, root.encoder, "before"), folder / STATE)
    return State(name="as it was given", added=None, measurements=_loaded(folder / STATE))


def _loaded(path: Path) -> tuple[Measurement, ...]:
    return tuple(load_measurements(path))


def _known(states: Sequence[State], languages: Sequence[str]) -> list[Measurement]:
    """What the next addition need not measure: rows that never change, and the last state as its ``before``."""
    fixed = [one for one in states[0].measurements if one.system not in ("before", "after")]
    last = [
        replace(one, system="before")
        for one in states[-1].measurements
        if one.system in ("before", "after") and not one.measure.startswith("masked_loss")
    ]
    return [one for one in (*fixed, *last) if one.language in languages]


def _masked(work: _Work, encoder: Encoder, system: System) -> list[Measurement]:
    """Masked prediction under the units and the table of the first model; empty where it came without."""
    root = work.root
    method = root.method()
    if method is None or root.codebook is None:
        return []
    grafted = MaskedPrediction(encoder, method.config)
    grafted.final_proj, grafted.label_embeddings = method.final_proj, method.label_embeddings
    collate = run_config(root, work.config, name="matrix", targets="base").data.collate
    of_voice, clock = root.codebook.info.normalization == "voice", root.encoder.clock
    found, told = [], work.report("Masked prediction, first units")
    for number, (language, corpus) in enumerate(work.corpora.items()):
        rows = draw_rows([row for row in main_voices(corpus) if row.split == "test"], work.ledger.most_test_clips)
        units = encode_units(
            waveforms(corpus, rows),
            root.codebook,
            encoder=root.encoder,
            speakers={row.id: row.speaker for row in rows} if of_voice else None,
        )
        labels = aligned_units(units, rows, clock, method.config.labels_per_frame)
        found.append(
            measure_masked_loss(
                system,
                grafted,
                spoken(corpus, rows),
                labels,
                clock,
                collate,
                measure="masked_loss_base_units",
                language=language,
                seed=work.config.seed,
            )
        )
        told(number + 1, len(work.corpora), {})
    return found
