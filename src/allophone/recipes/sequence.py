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
from allophone.evaluate.gate import Gate
from allophone.evaluate.matrix import Matrix, State, matrices, matrix_json, write_matrix_page
from allophone.evaluate.measurements import Measurement, load_measurements, save_measurements
from allophone.evaluate.sources import EncoderSource
from allophone.methods.masked_prediction import MaskedPrediction
from allophone.models.build import Encoder
from allophone.models.conversion import load_encoder, model_hash
from allophone.recipes.expand import KEEP, expand, kept_corpora, measure_frames, merged, open_recordings, with_splits
from allophone.recipes.ledger import LedgerConfig, base_posteriors, draw_rows, main_voices, spoken, systems_of
from allophone.run.execute import fit_threads
from allophone.run.expansion import Base, ExpandConfig, run_config
from allophone.run.origin import require_origin, write_origin
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
        ConfigError: A language is named twice.
        GateError: An addition loses more than ``gate`` allows.
        AllophoneError: As ``expand``.
    """
    config, ledger = config or ExpandConfig(), ledger or LedgerConfig()
    if len({parse_language(language).tag for language in languages}) < len(languages):
        raise ConfigError(f"A language is named twice in {', '.join(languages)}; each can be added once.")
    recordings = open_recordings(corpus, languages[0], report)
    every = merged([with_splits(recordings.where(language=language), config.seed) for language in recordings.languages])
    assert every is not None
    opened = recordings.with_utterances(every.utterances)
    new = {one.languages[0]: one for one in (_of(opened, language) for language in languages)}
    kept = kept_corpora(opened, keep or (KEEP if str(base) == STARTER else ()), every.where(language=list(languages)))
    root, where = open_base(base)
    fit_threads(root.encoder)
    corpora = {**new, **kept}
    states = [_first_state(root, corpora, config, ledger, out, report)]
    model, packs, pages = (root, where), [], []
    for number, language in enumerate(new):
        folder = out / f"{number + 1}-{language}"
        held = [*kept, *list(new)[:number]]
        origin = {
            "config": to_dict(config),
            "ledger": to_dict(ledger),
            "base": model_hash(model[0].encoder),
            "corpus": opened.hash,
            "language": language,
            "keep": held,
        }
        if not ((folder / "pack" / "allophone.json").exists() and (folder / STATE).exists()):
            if (folder / "made_from.json").exists():
                require_origin(folder, origin)
            write_origin(folder, origin)
            made = expand(
                model,
                opened,
                language=language,
                keep=held,
                out=folder,
                config=config,
                ledger=ledger,
                known=_known(states, [language, *held]),
                gate=gate,
                report=report,
            )
            if made is None:
                return None
            encoder = load_encoder(folder / "model")
            save_measurements(_measure(root, encoder, corpora, config, ledger, report), folder / STATE)
        require_origin(folder, origin)
        states.append(State(name=f"+ {language}", added=language, measurements=_loaded(folder / STATE)))
        model = open_base(folder / "model")
        packs.append(folder / "pack")
        pages.append(f"{folder.name}/report.html")
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
    page = write_matrix_page(title, found, facts, out / "report.html", pages=pages)
    return SequenceResult(out=out, report=page, model=folder / "model", packs=tuple(packs), matrices=found)


def _of(opened: Corpus, language: str) -> Corpus:
    """Recordings of one language; refuses a language without any as ``expand`` does."""
    return with_splits(opened.where(language=language), 0)


def _first_state(
    root: Base, corpora: dict[str, Corpus], config: ExpandConfig, ledger: LedgerConfig, out: Path, report: Report
) -> State:
    """The model as it was given, with the rows that no addition changes; from ``out`` where it is there."""
    folder = out / "0-base"
    origin = {
        "base": model_hash(root.encoder),
        "ledger": to_dict(ledger),
        "seed": config.seed,
        "corpora": {language: corpus.hash for language, corpus in corpora.items()},
    }
    if (folder / STATE).exists():
        require_origin(folder, origin)
    else:
        systems, posteriors = systems_of(root, None, config.seed), base_posteriors(root)
        found = measure_frames(systems, posteriors, corpora, tuple(corpora), ledger, config.seed, report)
        found += _masked(root, root.encoder, corpora, config, ledger, report)
        write_origin(folder, origin)
        save_measurements(found, folder / STATE)
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


def _measure(
    root: Base,
    encoder: Encoder,
    corpora: dict[str, Corpus],
    config: ExpandConfig,
    ledger: LedgerConfig,
    report: Report,
) -> list[Measurement]:
    """One state on every language, those to come included."""
    source = EncoderSource("after", encoder)
    found = measure_frames({"after": source}, {}, corpora, tuple(corpora), ledger, config.seed, report)
    return found + _masked(root, encoder, corpora, config, ledger, report)


def _masked(
    root: Base,
    encoder: Encoder,
    corpora: dict[str, Corpus],
    config: ExpandConfig,
    ledger: LedgerConfig,
    report: Report,
) -> list[Measurement]:
    """Masked prediction under the units and the table of the first model; empty where it came without."""
    method = root.method()
    if method is None or root.codebook is None:
        return []
    grafted = MaskedPrediction(encoder, method.config)
    grafted.final_proj, grafted.label_embeddings = method.final_proj, method.label_embeddings
    collate = run_config(root, config, name="matrix", targets="base").data.collate
    of_voice = root.codebook.info.normalization == "voice"
    system = "before" if encoder is root.encoder else "after"
    found, told = [], report("Masked prediction, first units")
    for number, (language, corpus) in enumerate(corpora.items()):
        rows = draw_rows([row for row in main_voices(corpus) if row.split == "test"], ledger.most_test_clips)
        units = encode_units(
            waveforms(corpus, rows),
            root.codebook,
            encoder=root.encoder,
            speakers={row.id: row.speaker for row in rows} if of_voice else None,
        )
        clock = root.encoder.clock
        labels = aligned_units(units, rows, clock, method.config.labels_per_frame)
        found.append(
            measure_masked_loss(
                system,  # type: ignore[arg-type]
                grafted,
                spoken(corpus, rows),
                labels,
                clock,
                collate,
                measure="masked_loss_base_units",
                language=language,
                seed=config.seed,
            )
        )
        told(number + 1, len(corpora), {})
    return found
