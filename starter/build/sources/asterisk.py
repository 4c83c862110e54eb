"""Debian ``asterisk-core-sounds-*`` and ``asterisk-prompt-*``: telephone prompts of professional voices.

A prompt is a key (``digits/1``), the same for all languages and voices. Keys whose English text is only a mark
in brackets are tones and silence, and are dropped.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from languages import LOCALES
from records import AudioRef, Clip

LOCALES_SPOKEN = ("en", "es", "fr", "it", "ru")
_MARK = re.compile(
    r"\[[^\]]*\]|<[^>]*>|\((?:beep|ahooga|simple tone|emphase|enfatico|in inglese|data|not[ae]:|You are now|"
    r"voce alternativa|produrre|emme-iesse)[^)]*\)"
)
_ONLY_MARKS = re.compile(r"^\s*(?:\[[^\]]*\]|<[^>]*>|\([^)]*\)|\s|[.])+$")
_GLUED_LINES = re.compile(r"[ \t]+((?:vm|confbridge)-[a-z0-9-]+): ")
_LOST_ACCENTS = {"pu?": "può", "sar?": "sarà", "pi?": "più", "cos?": "così"}
_NOT_SPEECH = re.compile(r"^(?:silence/.*|beep|beeperr|tt-monkeys|confbridge-(?:join|leave))$")


@dataclass(frozen=True)
class Voice:
    """One package of recordings.

    Attributes:
        package: Debian package.
        folder: Folder under ``usr/share/asterisk/sounds`` that holds the keys.
        locale: Language of the texts.
        speaker: Speaker id.
        licence: SPDX-like identifier.
        second: Kept for testing only.
    """

    package: str
    folder: str
    locale: str
    speaker: str
    licence: str
    second: bool = False


VOICES = (
    Voice("asterisk-core-sounds-en-g722", "en_US_f_Allison", "en", "asterisk-eng-allison", "CC-BY-SA-3.0"),
    Voice("asterisk-core-sounds-es-g722", "es_MX_f_Allison", "es", "asterisk-spa-allison", "CC-BY-SA-3.0"),
    Voice("asterisk-core-sounds-fr-g722", "fr_CA_f_June", "fr", "asterisk-fra-june", "CC-BY-SA-3.0"),
    Voice("asterisk-core-sounds-it-g722", "it_IT_m_Carlo", "it", "asterisk-ita-carlo", "CC-BY-3.0"),
    Voice("asterisk-core-sounds-ru-g722", "ru_RU_f_IvrvoiceRU", "ru", "asterisk-rus-ivrvoice", "CC-BY-3.0"),
    Voice("asterisk-prompt-it-menardi-wav", "it_IT_f_Menardi", "it", "menardi-ita-1", "CC-BY-SA-3.0-IT", second=True),
    Voice("asterisk-prompt-fr-armelle", "fr", "fr", "armelle-fra-1", "LicenseRef-Armelle-BSD-like", second=True),
    Voice("asterisk-prompt-es-co", "es", "es", "avatar-spa-1", "GPL-2.0-only", second=True),
)


def read_prompts(packages: Path, locale: str) -> dict[str, str]:
    """Key to text with its marks, as the package has it."""
    package = f"asterisk-core-sounds-{locale}"
    path = packages / package / "usr/share/doc" / package / f"core-sounds-{locale}.txt.gz"
    prompts = {}
    table = _GLUED_LINES.sub(r"\n\1: ", gzip.decompress(path.read_bytes()).decode("utf-8-sig"))
    for line in table.splitlines():
        key, colon, text = line.partition(":")
        if colon and not line.startswith(";") and text.strip():
            prompts[key.strip()] = text.strip().removeprefix(f"{key.strip()}: ")
    return prompts


def without_marks(text: str) -> str | None:
    """The words of a prompt, or ``None`` when there are only marks."""
    if _ONLY_MARKS.match(text):
        return None
    return " ".join(_LOST_ACCENTS.get(word, word) for word in _MARK.sub(" ", text).split()) or None


def read(packages: Path) -> Iterator[Clip]:
    """Every spoken prompt of every voice."""
    prompts = {locale: read_prompts(packages, locale) for locale in LOCALES_SPOKEN}
    silent = {key for key, text in prompts["en"].items() if _ONLY_MARKS.match(text)}
    texts: dict[str, dict[str, str]] = {}
    for locale, by_key in prompts.items():
        for key, text in by_key.items():
            if spoken := without_marks(text):
                texts.setdefault(key, {})[LOCALES[locale]] = spoken
    for voice in VOICES:
        root = packages / voice.package / "usr/share/asterisk/sounds" / voice.folder
        for path in sorted(p for p in root.rglob("*") if p.suffix in (".g722", ".wav", ".gsm")):
            key = path.relative_to(root).with_suffix("").as_posix()
            if key in silent or _NOT_SPEECH.match(key):
                continue
            language = LOCALES[voice.locale]
            digit = re.fullmatch(r"digits/(\d)", key)
            yield Clip(
                name=key.replace("/", "-"),
                source=voice.package.removesuffix("-g722").removesuffix("-wav"),
                language=language,
                speaker=voice.speaker,
                licence=voice.licence,
                audio=AudioRef(path),
                text=texts.get(key, {}).get(language),
                label=f"digit-{digit[1]}" if digit else None,
                group=f"asterisk/{key}",
                translations=texts.get(key, {}),
                second_voice=voice.second,
            )
