"""Hours of each language and source that a run will draw, before it begins: asked of its sampler, without decoding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from allophone.data.corpus import Corpus
from allophone.run.config import RunConfig
from allophone.run.targets import build_sampler, too_short, usable

HEADING = (
    f"  {'language':<10} {'source':<28} {'left out':>9} {'h there':>9} {'h chosen':>9} {'h drawn':>10} {'share':>7} "
    f"{'times':>8}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """What a run hears of one source of one language."""

    language: str
    source: str
    """Empty where the corpus names none."""
    left_out: int
    """Recordings of the training split that are too short to be used."""
    there: float
    """Hours in the training split, long enough to be used."""
    chosen: float
    """Hours of these that the run draws from: of its subset, clips counted up to the crop."""
    drawn: float
    """Hours in all batches of the run, as far as they are heard (clips of a batch are cut to its shortest, where the
    run says so); what is drawn twice counts twice."""


def hours_drawn(config: RunConfig, corpus: Corpus) -> tuple[Drawn, ...]:
    """What each language and source gives to a run of one process, in order of language and source.

    Raises:
        DataError: No utterance is usable, or the run's subset is larger than what there is.
    """
    there: dict[tuple[str, str], float] = {}
    for row in usable(corpus, replace(config.data, subset=None))[0]:
        key = (row.language, row.source or "")
        there[key] = there.get(key, 0.0) + row.duration_seconds / 3600
    left_out = Counter((row.language, row.source or "") for row in too_short(corpus, config.data))
    sampler = build_sampler(usable(corpus, config.data)[0], config.data, config.seed)
    chosen, drawn = sampler.seconds_there(), sampler.seconds_drawn(config.train.steps * config.train.microbatches)
    return tuple(
        Drawn(
            language=language,
            source=source,
            left_out=left_out[language, source],
            there=there.get((language, source), 0.0),
            chosen=chosen.get((language, source), 0.0) / 3600,
            drawn=drawn.get((language, source), 0.0) / 3600,
        )
        for language, source in sorted(there.keys() | left_out.keys())
    )


def drawn_table(config: RunConfig, corpus: Corpus) -> str:
    """:func:`hours_drawn` as lines for people: a row a language, and below it one a source where it has several."""
    found, data, train = hours_drawn(config, corpus), config.data, config.train
    total = sum(one.drawn for one in found)
    of = f"a subset, seed {data.subset.seed}" if data.subset is not None else "everything"
    lines = [
        f"{config.name} draws {total:.2f} h in {train.steps} steps from {of}; alpha {data.alpha:g} between languages, "
        f"beta {data.beta:g} between sources",
        HEADING,
    ]
    languages = sorted({one.language for one in found})
    for language in languages:
        own = [one for one in found if one.language == language]
        lines.append(_line(language, own[0].source if len(own) == 1 else f"{len(own)} sources", own, total))
        lines += [_line("", one.source or "(none)", [one], total) for one in own if len(own) > 1]
    lines.append(_line("together", f"{len(languages)} languages", found, total))
    if any(one.left_out for one in found):
        lines.append(f"  left out: recordings shorter than {data.min_seconds:g} s")
    return "\n".join(lines)


def _line(language: str, source: str, found: Sequence[Drawn], total: float) -> str:
    there, chosen, drawn = (sum(getattr(one, name) for one in found) for name in ("there", "chosen", "drawn"))
    times = drawn / chosen if chosen else 0.0
    left_out, share = sum(one.left_out for one in found), f"{100 * drawn / total:.1f} %"
    return (
        f"  {language:<10} {source:<28.28} {left_out:>9} {there:>9.4f} {chosen:>9.4f} {drawn:>10.3f} {share:>7} "
        f"{times:>8.1f}"
    )
