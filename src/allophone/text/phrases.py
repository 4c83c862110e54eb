"""Parallel phrases in any number: dates, numbers, places, units, amounts and lists of them, in 46 languages.

Words and grammar are CLDR's (through Babel) and num2words', so a phrase says exactly the same in every language, as
far as those tables are right. Both come with the extra ``synthesis``.
"""

from __future__ import annotations

import datetime
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from allophone.errors import ConfigError, suggest
from allophone.seeding import numpy_generator
from allophone.text.languages import parse_language

LOCALES: dict[str, tuple[str, str]] = {
    "afr_Latn": ("af", "af"),
    "amh_Ethi": ("am", "am"),
    "azj_Latn": ("az", "az"),
    "bel_Cyrl": ("be", "be"),
    "ben_Beng": ("bn", "bn"),
    "bul_Cyrl": ("bg", "bg"),
    "cat_Latn": ("ca", "ca"),
    "ces_Latn": ("cs", "cs"),
    "cym_Latn": ("cy", "cy"),
    "dan_Latn": ("da", "da"),
    "deu_Latn": ("de", "de"),
    "ell_Grek": ("el", "el"),
    "eng_Latn": ("en", "en-us"),
    "est_Latn": ("et", "et"),
    "eus_Latn": ("eu", "eu"),
    "fin_Latn": ("fi", "fi"),
    "fra_Latn": ("fr", "fr"),
    "gle_Latn": ("ga", "ga"),
    "guj_Gujr": ("gu", "gu"),
    "hin_Deva": ("hi", "hi"),
    "hrv_Latn": ("hr", "hr"),
    "hun_Latn": ("hu", "hu"),
    "hye_Armn": ("hy", "hy"),
    "ind_Latn": ("id", "id"),
    "isl_Latn": ("is", "is"),
    "ita_Latn": ("it", "it"),
    "kan_Knda": ("kn", "kn"),
    "kat_Geor": ("ka", "ka"),
    "lit_Latn": ("lt", "lt"),
    "lvs_Latn": ("lv", "lv"),
    "mkd_Cyrl": ("mk", "mk"),
    "nld_Latn": ("nl", "nl"),
    "nob_Latn": ("nb", "nb"),
    "pes_Arab": ("fa", "fa"),
    "pol_Latn": ("pl", "pl"),
    "por_Latn": ("pt", "pt"),
    "ron_Latn": ("ro", "ro"),
    "rus_Cyrl": ("ru", "ru"),
    "slk_Latn": ("sk", "sk"),
    "slv_Latn": ("sl", "sl"),
    "spa_Latn": ("es", "es"),
    "swe_Latn": ("sv", "sv"),
    "swh_Latn": ("sw", "sw"),
    "tur_Latn": ("tr", "tr"),
    "ukr_Cyrl": ("uk", "uk"),
    "vie_Latn": ("vi", "vi"),
}
"""Languages that are both written by CLDR and spoken by espeak-ng: their locale and their voice."""
PLACES = (
    *("AR", "AT", "BD", "BE", "BG", "BR", "CA", "CH", "CL", "CN", "CO", "CU", "CZ", "DE", "DK", "DZ", "EC", "EE"),
    *("EG", "ES", "ET", "FI", "FR", "GB", "GE", "GH", "GR", "HR", "HU", "ID", "IE", "IL", "IN", "IQ", "IR", "IS"),
    *("IT", "JM", "JO", "JP", "KE", "KH", "KR", "LB", "LT", "LV", "LY", "MA", "MG", "MN", "MX", "MY", "NG", "NL"),
    *("NO", "NP", "NZ", "PE", "PH", "PK", "PL", "PT", "PY", "RO", "RU", "SA", "SE", "SK", "SN", "SO", "SY", "TH"),
    *("TN", "TR", "TZ", "UA", "UG", "US", "UY", "VE", "VN", "YE", "ZA", "ZM"),
)
"""Countries, ISO 3166."""
UNITS = (
    *("length-kilometer", "length-meter", "length-centimeter", "mass-kilogram", "mass-gram", "volume-liter"),
    *("duration-second", "duration-minute", "duration-hour", "duration-day", "duration-week", "duration-month"),
    *("duration-year", "area-square-kilometer", "speed-kilometer-per-hour", "temperature-celsius"),
)
DIGITS = ("am",)
"""Locales whose numbers num2words cannot write, though it says that it can."""
CURRENCIES = ("EUR", "USD", "GBP", "JPY", "CHF", "INR", "BRL", "ZAR")


@dataclass(frozen=True, kw_only=True, slots=True)
class Phrase:
    """One content in several languages."""

    content: str
    """What is said, without a language: ``unit/3/length-kilometer``."""
    kind: str
    """A key of :data:`KINDS`."""
    texts: dict[str, str]
    """By language, ``fra_Latn``."""


def parallel_phrases(count: int, languages: Sequence[str], seed: int = 0) -> list[Phrase]:
    """Different phrases, no two of which have the same text in any language.

    Args:
        count: How many; the kinds take turns.
        languages: Any tags of :data:`LOCALES`.
        seed: Of what is said.

    Raises:
        ConfigError: A language is not in the table, the extra is not installed, or there are not so many phrases.
    """
    tags = sorted({known_language(language) for language in languages})
    generator, kinds = numpy_generator(seed, "phrases"), list(KINDS)
    found: list[Phrase] = []
    said: set[tuple[str, str]] = set()
    tries = 0
    while len(found) < count:
        kind = kinds[tries % len(kinds)]
        tries += 1
        if tries > 20 * count + 100:
            raise ConfigError(f"Only {len(found)} different phrases were found of {count}; ask for fewer.")
        content, write = KINDS[kind](generator)
        texts = {tag: " ".join(write(LOCALES[tag][0]).split()) for tag in tags}
        pairs = {(tag, text.casefold()) for tag, text in texts.items()}
        if not pairs & said:
            said |= pairs
            found.append(Phrase(content=f"{kind}/{content}", kind=kind, texts=texts))
    return found


def known_language(language: str) -> str:
    """The tag of a language that phrases can be made in.

    Raises:
        ConfigError: It is not in the table.
    """
    tag = parse_language(language).tag
    if tag not in LOCALES:
        raise ConfigError(f"No phrases in {tag}. {suggest(tag, LOCALES)}")
    return tag


Draw = Callable[[np.random.Generator], tuple[str, Callable[[str], str]]]
"""Draws what is said; gives its name, and writes it in a locale."""


def _babel(module: str) -> Any:
    try:
        return importlib.import_module(f"babel.{module}")
    except ImportError as error:
        raise ConfigError("Phrases need Babel and num2words: `pip install 'allophone[synthesis]'`.") from error


def _date(generator: np.random.Generator) -> tuple[str, Callable[[str], str]]:
    day = datetime.date(1950, 1, 1) + datetime.timedelta(days=int(generator.integers(36_500)))
    return day.isoformat(), lambda locale: str(_babel("dates").format_date(day, "full", locale))


def _number(generator: np.random.Generator) -> tuple[str, Callable[[str], str]]:
    number = int(generator.integers(10 ** int(generator.integers(2, 7))))
    return str(number), lambda locale: number_words(number, locale)


def number_words(number: int, locale: str) -> str:
    """A number in words; in digits where num2words does not know the language."""
    try:
        from num2words import CONVERTER_CLASSES, num2words
    except ImportError as error:
        raise ConfigError("Phrases need Babel and num2words: `pip install 'allophone[synthesis]'`.") from error
    code = {"nb": "no"}.get(locale, locale)
    if code in CONVERTER_CLASSES and code not in DIGITS:
        return str(num2words(number, lang=code))
    return str(_babel("numbers").format_decimal(number, locale=locale))


def _unit(generator: np.random.Generator) -> tuple[str, Callable[[str], str]]:
    unit, number = UNITS[int(generator.integers(len(UNITS)))], int(generator.integers(2, 1000))
    return f"{number}/{unit}", lambda locale: _measured(number, unit, locale)


def _measured(number: int, unit: str, locale: str) -> str:
    return str(_babel("units").format_unit(number, unit, "long", locale=locale))


def _amount(generator: np.random.Generator) -> tuple[str, Callable[[str], str]]:
    currency, number = CURRENCIES[int(generator.integers(len(CURRENCIES)))], int(generator.integers(2, 10_000))

    def write(locale: str) -> str:
        settings = {"format": "#,##0", "format_type": "name", "currency_digits": False}  # no ¤: it would be named twice
        return str(_babel("numbers").format_currency(number, currency, locale=locale, **settings))

    return f"{number}/{currency}", write


def _places(generator: np.random.Generator) -> tuple[str, Callable[[str], str]]:
    chosen = [PLACES[place] for place in generator.choice(len(PLACES), int(generator.integers(1, 4)), replace=False)]

    def write(locale: str) -> str:
        names = _babel("core").Locale.parse(locale).territories
        return str(_babel("lists").format_list([names[code] for code in chosen], locale=locale))

    return "+".join(chosen), write


def _distance(generator: np.random.Generator) -> tuple[str, Callable[[str], str]]:
    codes = [PLACES[place] for place in generator.choice(len(PLACES), 2, replace=False)]
    number, unit = int(generator.integers(2, 100)), UNITS[int(generator.integers(len(UNITS)))]

    def write(locale: str) -> str:
        names = _babel("core").Locale.parse(locale).territories
        return f"{names[codes[0]]} – {names[codes[1]]}: {_measured(number, unit, locale)}"

    return f"{'+'.join(codes)}/{number}/{unit}", write


KINDS: dict[str, Draw] = {
    "date": _date,
    "number": _number,
    "unit": _unit,
    "amount": _amount,
    "places": _places,
    "distance": _distance,
}
"""What phrases are about."""
