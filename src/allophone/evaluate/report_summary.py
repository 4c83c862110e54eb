"""The report in words: what improved, what was kept, what broke, and how sure that is.

Every sentence is made from the changes; none claims more than its interval, and what is worse is always told.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from allophone.evaluate.measurements import MEASURES, Change, Score, Verdict, changes
from allophone.evaluate.report_content import ReportContent
from allophone.evaluate.report_tables import bounds_signed, language_name, number, signed, verdict_text

PHRASES: dict[str, str] = {
    "retrieval_dtw": "finding the same sentence in another voice",
    "character_error_all": "writing down speech (all labels)",
    "character_error_150": "writing down speech (150 labels)",
    "retrieval_posteriors": "finding the sentence by its sound units",
    "language_identification": "telling which language it is",
    "masked_loss_own_units": "guessing hidden sounds (new units)",
    "masked_loss_base_units": "guessing hidden sounds (original units)",
    "retrieval_mean": "finding the sentence by one average",
    "language_neighbors": "telling the language by its nearest recordings",
    "language_gap": "keeping languages apart",
    "unit_phones": "telling sounds by units",
}
"""Each measure as an activity, in the order in which they are told."""

DETAILS = 2
"""Improvements that the summary tells with their numbers; the others are named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One change of a block."""

    language: str
    activity: str
    outcome: str
    """``improved by 8.3 % (between 5.1 % and 11.4 %)``."""
    detail: str
    """From what to what, items and seeds."""
    verdict: Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """A language that was there before."""

    language: str
    tally: str
    """``no clear change in 5 of 6 tests``."""
    widest: str
    """The test that says least: how bad it could be."""
    lines: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """The words of a report."""

    paragraphs: tuple[tuple[str, str], ...]
    """Heading and text: what was done, gained, kept, what broke, how sure that is."""
    improved: tuple[Line, ...]
    """Clearly better, in any language."""
    kept: tuple[Kept, ...]
    """No clear change, in the languages that were there before."""
    undecided: tuple[Line, ...]
    """No clear change, in the new language."""
    broke: tuple[Line, ...]
    """Clearly worse, in any language."""


def summarize(content: ReportContent, cells: Sequence[Score], differences: Sequence[Change]) -> Summary:
    """Put scores and changes in words."""
    told = sorted(differences, key=lambda one: (*_place(content, one.language), list(PHRASES).index(one.measure)))
    new = [one for one in told if one.language == content.new_language]
    old = [one for one in told if one.language != content.new_language]
    lines = {id(one): _line(one, content, cells) for one in told}
    return Summary(
        paragraphs=tuple(_paragraphs(content, new, old, cells)),
        improved=tuple(lines[id(one)] for one in told if one.verdict == "better"),
        kept=tuple(_kept(old, lines)),
        undecided=tuple(lines[id(one)] for one in new if one.verdict == "no clear change"),
        broke=tuple(lines[id(one)] for one in told if one.verdict == "worse"),
    )


def terminal_summary(content: ReportContent, differences: Sequence[Change] | None = None) -> str:
    """At most ten lines for the terminal.

    Args:
        content: What the page is made from.
        differences: Its changes where they are known already; None: computed here.
    """
    known = changes(content.measurements) if differences is None else differences
    told = sorted(known, key=lambda one: (*_place(content, one.language), list(PHRASES).index(one.measure)))
    new = [one for one in told if one.language == content.new_language]
    old = [one for one in told if one.language != content.new_language]
    better, worse = ([one for one in told if one.verdict == verdict] for verdict in ("better", "worse"))
    lines = [content.title]
    lines += [f"  better    {_short(one, content)}" for one in better[:3]] or ["  better    nothing is clearly better"]
    if len(better) > 3:
        lines.append(f"  better    and {len(better) - 3} more")
    lines += [f"  worse     {_short(one, content)}" for one in worse[:2]] or ["  worse     nothing is clearly worse"]
    if len(worse) > 2:
        lines[-1] += f"; and {len(worse) - 2} more"
    unclear = [sum(one.verdict == "no clear change" for one in part) for part in (new, old)]
    lines.append(
        f"  unclear   {unclear[0]} of {len(new)} in {content.new_language_name}, {unclear[1]} of {len(old)} in others"
    )
    if content.warnings:
        lines.append(f"  warnings  {len(content.warnings)}; they are in the report")
    if content.pack_path:
        lines.append(f"  pack      {content.pack_path}")
    return "\n".join(lines)


def outcome_text(change: Change) -> str:
    """``improved by 8.3 % (between 5.1 % and 11.4 %)``."""
    relative = change.relative
    if math.isnan(relative.value):
        unit = MEASURES[change.measure].unit
        return f"{_VERBS[change.verdict]}: from 0 to {number(change.difference.value, unit)}"
    if change.verdict == "no clear change":
        return f"{verdict_text(change)}, {signed(relative.value)} (between {_between(bounds_signed(relative))})"
    low, high = (relative.low, relative.high) if change.verdict == "better" else (-relative.high, -relative.low)
    return f"{_VERBS[change.verdict]} by {abs(relative.value):.1f} % (between {low:.1f} % and {high:.1f} %)"


_VERBS: dict[Verdict, str] = {"better": "improved", "worse": "got worse", "no clear change": "no clear change"}


def _between(bounds: str) -> str:
    return bounds.replace(" to ", " % and ") + " %"


def _place(content: ReportContent, tag: str) -> tuple[int, str]:
    """Order of languages: the new one, the kept ones as given, others."""
    order = [content.new_language, *content.kept_languages]
    return (order.index(tag) if tag in order else len(order), tag)


def _name(tag: str, content: ReportContent) -> str:
    return content.new_language_name if tag == content.new_language else language_name(tag)


def _short(change: Change, content: ReportContent) -> str:
    relative = change.relative
    size = "" if math.isnan(relative.value) else f"{signed(relative.value)} ({bounds_signed(relative)})"
    return f"{_name(change.language, content)}, {MEASURES[change.measure].title.lower()}: {size}"


def _line(change: Change, content: ReportContent, cells: Sequence[Score]) -> Line:
    return Line(
        language=_name(change.language, content),
        activity=PHRASES[change.measure],
        outcome=outcome_text(change),
        detail=f"{_from_to(change, cells)}; n = {change.difference.n}, {_count(change.seeds, 'seed')}",
        verdict=change.verdict,
    )


def _from_to(change: Change, cells: Sequence[Score]) -> str:
    measure = MEASURES[change.measure]
    values = {
        one.system: one.interval.value
        for one in cells
        if (one.measure, one.language) == (change.measure, change.language)
    }
    unit = " %" if measure.unit == "percent" else f" {measure.unit}"
    pair = [f"{number(values[system], measure.unit)}{unit}" for system in (measure.baseline, "after")]
    return (
        f"from {pair[0]} ({measure.baseline}) to {pair[1]}"
        if measure.baseline != "before"
        else f"from {pair[0]} to {pair[1]}"
    )


def _kept(old: Sequence[Change], lines: dict[int, Line]) -> Iterator[Kept]:
    for tag in dict.fromkeys(one.language for one in old):
        mine = [one for one in old if one.language == tag]
        same = [one for one in mine if one.verdict == "no clear change"]
        if same:
            told = tuple(lines[id(one)] for one in same)
            widest = min(same, key=lambda one: one.relative.low)  # a NaN, if any, never is the smallest
            yield Kept(
                language=told[0].language,
                tally=f"no clear change in {len(same)} of {_count(len(mine), 'test')}",
                widest=f"{PHRASES[widest.measure]}, between {_between(bounds_signed(widest.relative))}",
                lines=told,
            )


def _paragraphs(
    content: ReportContent, new: list[Change], old: list[Change], cells: Sequence[Score]
) -> list[tuple[str, str]]:
    name, worse = content.new_language_name, [one for one in [*new, *old] if one.verdict == "worse"]
    done = (
        f"{name} was added to the speech model {content.base_model}, which was tested before and after on recordings "
        "set aside for testing."
    )
    return [
        ("Done", done),
        ("Gained", _about_new(name, new, cells)),
        ("Kept", _about_kept(content, old)),
        ("Broke", _about_broken(content, worse)),
        ("How sure", _about_certainty(content, [*new, *old])),
    ]


def _about_new(name: str, new: list[Change], cells: Sequence[Score]) -> str:
    if not new:
        return f"No test was run both before and after in {name}, so this page cannot say what was gained."
    better = [one for one in new if one.verdict == "better"]
    unclear = [one for one in new if one.verdict == "no clear change"]
    if not better:
        tests = "the one test" if len(new) == 1 else f"any of {len(new)} tests"
        return f"After adding {name}, the model is not clearly better in {tests} in {name}."
    shown = "; ".join(f"{PHRASES[one.measure]} {outcome_text(one)}, {_from_to(one, cells)}" for one in better[:DETAILS])
    told = f"After adding {name}, {shown}."
    rest = [PHRASES[one.measure] for one in better[DETAILS:]]
    told += f" Also better: {_join(rest)}." if rest else ""
    if unclear:
        told += f" No clear change in {len(unclear)} of {_count(len(new), 'test')}: "
        told += f"{_join([PHRASES[one.measure] for one in unclear])}."
    return told


def _about_kept(content: ReportContent, old: list[Change]) -> str:
    untested = [tag for tag in content.kept_languages if tag not in {one.language for one in old}]
    names = _join([language_name(tag) for tag in untested])
    if not old:
        reason = f"{names} should be kept but had no test" if untested else "No other language was tested"
        return f"{reason}, so this page cannot say what was kept."
    outcomes: dict[str, list[str]] = {}
    for tag in dict.fromkeys(one.language for one in old):
        mine = [one for one in old if one.language == tag]
        outcomes.setdefault(_tally(mine), []).append(_name(tag, content))
    told = "; ".join(f"{_join(languages)}: {tally}" for tally, languages in outcomes.items())
    return f"{told}." + (f" {names} had no test." if untested else "")


def _tally(mine: list[Change]) -> str:
    counts = {verdict: sum(one.verdict == verdict for one in mine) for verdict in _VERBS}
    if counts["no clear change"] == len(mine):
        return f"no clear change in {'the one test' if len(mine) == 1 else f'any of {len(mine)} tests'}"
    words = {"better": "clearly better at", "worse": "clearly worse at", "no clear change": "no clear change in"}
    parts = [f"{words[verdict]} {count}" for verdict, count in counts.items() if count]
    return f"{_join(parts)} of {_count(len(mine), 'test')}"


def _about_broken(content: ReportContent, worse: list[Change]) -> str:
    if not worse:
        return "Nothing became clearly worse in any test on this page."
    told = [f"{_name(one.language, content)}, {PHRASES[one.measure]}, {outcome_text(one)}" for one in worse[:3]]
    more = f"; and {len(worse) - 3} more, listed below" if len(worse) > 3 else ""
    return f"{'; '.join(told)}{more}."


def _about_certainty(content: ReportContent, compared: list[Change]) -> str:
    warned = f" Please read {_count(len(content.warnings), 'warning')} below." if content.warnings else ""
    if not compared:
        return f"Without a comparison there is nothing to be sure of.{warned}"
    by_luck = round(len(compared) / 20)
    expected = f"about {by_luck} of {len(compared)} comparisons" if by_luck else "one comparison in twenty"
    fewest = min(one.seeds for one in compared)
    covered = (
        "luck in training is not covered, because there was one random start only"
        if fewest == 1
        else f"they cover test recordings and {fewest} random starts of training"
    )
    return (
        f"The ranges (“between”) hold the true change 19 times out of 20; {covered}. "
        f"Even if nothing had changed, {expected} would look clear by luck.{warned}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _join(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
