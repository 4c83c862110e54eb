"""Languages: one table, one spelling. ``fr``, ``fra``, ``fre``, ``fr-FR``, ``fra_Latn`` all become ``fra_Latn``.

The table (``languages.tsv``) holds every individual language and macrolanguage of ISO 639-3 that is in force in the
IANA registry, with its usual script from Unicode CLDR; ``Zyyy`` where that is unknown. A macrolanguage code that
corpora use for one member is read as that member, as FLORES-200 has it (``ar`` is ``arb``, ``sw`` is ``swh``).
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources

from allophone.errors import DataError, suggest


@dataclass(frozen=True, slots=True)
class Language:
    """A language as it is written."""

    code: str
    """ISO 639-3: ``fra``."""
    script: str
    """ISO 15924: ``Latn``; ``Zyyy`` when unknown."""
    name: str
    """In English: ``French``."""

    @property
    def tag(self) -> str:
        """The spelling used everywhere in this project: ``fra_Latn``."""
        return f"{self.code}_{self.script}"


@dataclass(frozen=True, slots=True)
class _Row:
    code: str
    member: str
    script: str
    script_in_region: dict[str, str]
    name: str


@lru_cache(maxsize=4096)
def parse_language(tag: str) -> Language:
    """Read a language tag in any of the usual spellings.

    Args:
        tag: ISO 639-1 (``fr``), ISO 639-2 or -3 (``fra``, ``fre``), BCP 47 (``zh-Hant-TW``, ``sr-Latn``, ``zh-yue``),
            FLORES (``fra_Latn``); any case, ``-`` or ``_``. Variants and extensions are not kept.

    Returns:
        The language; its script is the tag's own, else the usual one of the tag's region, else of the language.

    Raises:
        DataError: The language or script is unknown; the message suggests the nearest code or name.

    Example:
        >>> parse_language("pt-BR").tag, parse_language("zh-TW").tag
        ('por_Latn', 'cmn_Hant')
    """
    subtags = tag.strip().replace("_", "-").split("-")
    row = _find(subtags[0].lower(), tag)
    rest = subtags[1:]
    if rest and len(rest[0]) == 3 and rest[0].lower() in _by_code():  # extended language: zh-yue is yue
        row, rest = _find(rest[0].lower(), tag), rest[1:]
    script, region = "", ""
    for subtag in rest:
        if len(subtag) == 1:  # x-..., u-...: private use and extensions
            break
        if len(subtag) == 4 and subtag.isalpha() and not script:
            script = subtag.title()
        elif len(subtag) == 2 and subtag.isalpha() and not region:
            region = subtag.upper()
    if script and script not in scripts():
        raise DataError(f"Unknown script {script!r} in the language tag {tag!r}. {suggest(script, scripts())}")
    return Language(row.code, script or row.script_in_region.get(region, row.script), row.name)


def language_named(name: str) -> Language | None:
    """The language that has exactly this English name, in any case; None where there is none.

    Tags are not read so, because names of folders are tried as tags, and many a word is the name of a language.

    Example:
        >>> language_named("french"), language_named("Frensh")
        (Language(code='fra', script='Latn', name='French'), None)
    """
    code = _codes_by_name().get(name.strip().lower())
    return None if code is None else parse_language(code)


def languages() -> tuple[Language, ...]:
    """Every language of the table with its usual script, in order of code."""
    return tuple(Language(row.code, row.script, row.name) for row in _table())


@cache
def scripts() -> dict[str, str]:
    """ISO 15924 code to English name."""
    return dict(line.split("\t", 1) for line in _lines("scripts.tsv"))


def _find(code: str, tag: str) -> _Row:
    rows = _by_code()
    row = rows.get(code)
    if row is not None:
        return rows[row.member] if row.member else row
    if re.fullmatch("q[a-t][a-z]", code):
        return _Row(code, "", "Zyyy", {}, f"Private use ({code})")
    raise DataError(
        f"Unknown language {tag!r}: expected ISO 639 (fr, fra), BCP 47 (fr-CA) or FLORES (fra_Latn). "
        f"{_hint(code, tag)} "
        "A language without a code can be given one of 'qaa' to 'qtz'; 'und' says that it is not known."
    )


def _hint(code: str, tag: str) -> str:
    """Nearest name, when the tag is long, or nearest code."""
    names = _codes_by_name()
    if len(code) <= 3:
        return suggest(code, [key for key in _by_code() if key[:1] == code[:1]] or ["und"])
    codes = {row.code for key, row in _by_code().items() if len(key) == 2}  # of languages that many write: engg is eng
    close = difflib.get_close_matches(tag.strip().lower(), [*codes, *names], n=1, cutoff=0.7)
    if not close:
        return "Codes are listed at https://iso639-3.sil.org."
    found = names.get(close[0], close[0])
    return f"Did you mean {found!r} ({_by_code()[found].name})?"


def _lines(name: str) -> list[str]:
    text = resources.files("allophone.text").joinpath(name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if not line.startswith("#")][1:]


@cache
def _table() -> tuple[_Row, ...]:
    rows = []
    for line in _lines("languages.tsv"):
        code, _, _, member, script, regions, name = line.split("\t")
        by_region = dict(pair.split("=") for pair in regions.split(",") if pair)
        rows.append(_Row(code, member, script, by_region, name))
    return tuple(rows)


@cache
def _by_code() -> dict[str, _Row]:
    """ISO 639-1, 639-2/B and 639-3 codes to rows."""
    found = {row.code: row for row in _table()}
    for line in _lines("languages.tsv"):
        code, part1, part2b = line.split("\t")[:3]
        for alias in (part1, part2b):
            if alias:
                found.setdefault(alias, found[code])
    return found


@cache
def _codes_by_name() -> dict[str, str]:
    return {row.name.lower(): row.code for row in _table()}
