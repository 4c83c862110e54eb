"""Corpora of synthetic parallel speech: phrases of CLDR spoken by espeak-ng, in any amount, and labelled as such.

Which voice says a phrase, how fast and how high is drawn by key; the samples themselves differ a little each time.
Splits are by content: no phrase, and no text in any language, is in two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile

from allophone.audio.espeak import VARIANTS, Espeak
from allophone.data.corpus import CORPUS_TABLE, Corpus
from allophone.data.decoding import samples_sha256
from allophone.data.utterance import Utterance
from allophone.errors import ConfigError, DataError
from allophone.frames import SAMPLE_RATE
from allophone.seeding import numpy_generator
from allophone.text.phrases import LOCALES, Phrase, known_language, parallel_phrases

SOURCE = "espeak-ng"
TEST_SHARE, DEV_SHARE = 0.2, 0.1
TEST_VOICES = ("m7", "f5")
"""Voices of test recordings alone."""


def synthesize(
    out: Path,
    *,
    languages: Sequence[str] = (),
    phrases: int = 200,
    voices: int = 1,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Corpus:
    """Speak parallel phrases and write a corpus folder.

    Args:
        out: Folder to write; it must not hold a corpus.
        languages: Any tags; empty = all that there are.
        phrases: Contents; each is spoken in every language.
        voices: Different voices that speak each phrase in each language.
        seed: Of phrases, voices, rate and pitch.
        progress: Called with (recordings done, all).

    Raises:
        DataError: There is a corpus already, or a phrase cannot be spoken.
        ConfigError: The extra is not installed, a language is not known, or there are not so many voices or phrases.
    """
    if (out / CORPUS_TABLE).exists():
        raise DataError(f"{out}: there is a corpus already. Remove it, or write into another folder.")
    if not 1 <= voices <= len(TEST_VOICES):
        raise ConfigError(f"From 1 to {len(TEST_VOICES)} voices can speak each phrase; got {voices}.")
    tags = sorted({known_language(language) for language in languages} or LOCALES)
    said, espeak = parallel_phrases(phrases, tags, seed), Espeak()
    rows: list[Utterance] = []
    for phrase in said:
        for tag in tags:
            for number in range(voices):
                rows.append(_spoken(espeak, out, phrase, tag, number, seed))
                if progress is not None:
                    progress(len(rows), len(said) * len(tags) * voices)
    name = f"synthetic phrases {seed}"
    return Corpus(folder=out, utterances=tuple(rows), name=name).save(out)


def split_of(content: str) -> str:
    """The split of a content, by its hash."""
    place = int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") / 2**64
    return "test" if place < TEST_SHARE else "dev" if place < TEST_SHARE + DEV_SHARE else "train"


def _spoken(espeak: Espeak, out: Path, phrase: Phrase, tag: str, number: int, seed: int) -> Utterance:
    split = split_of(phrase.content)
    there = TEST_VOICES if split == "test" else tuple(one for one in VARIANTS if one not in TEST_VOICES)
    order = numpy_generator(seed, "voices", phrase.content, tag).permutation(len(there))
    variant = there[order[number]]
    generator = numpy_generator(seed, "speak", phrase.content, tag, number)
    rate, pitch = int(generator.integers(130, 200)), int(generator.integers(35, 66))
    heard = espeak.speak(phrase.texts[tag], f"{LOCALES[tag][1]}+{variant}", rate=rate, pitch=pitch)
    samples = np.clip(np.rint(heard * 32768), -32768, 32767).astype(np.int16)
    key = hashlib.sha256(phrase.content.encode()).hexdigest()[:12]
    path = Path("audio") / tag / f"{key}-{number}.flac"
    (out / path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(out / path, samples, SAMPLE_RATE, subtype="PCM_16")
    return Utterance(
        id=f"{tag}/{key}-{number}",
        path=path.as_posix(),
        duration_seconds=len(samples) / SAMPLE_RATE,
        sample_rate=SAMPLE_RATE,
        language=tag,
        speaker=f"espeak-{tag}-{variant}",
        text=phrase.texts[tag],
        label=phrase.kind,
        group=f"phrase/{phrase.content}",
        translations={other: text for other, text in phrase.texts.items() if other != tag},
        split=split,
        source=SOURCE,
        licence=f"made by espeak-ng {espeak.version} (GPL-3.0-or-later) from CLDR (Unicode-3.0)",
        synthetic=True,
        sha256=samples_sha256((samples / 32768).astype(np.float32)),
    )
