"""A corpus in the folders of ML-SUPERB 1, so that its whole protocol runs on other recordings.

``SOURCE/LANGUAGE/wav/*.wav`` at 16 kHz beside ``transcript_{10min,1h}_train.txt``, ``transcript_10min_{dev,test}.txt``.
A set is one language of one source. As in the benchmark, ten minutes of training are part of the hour, and dev and test
have ten minutes at most; a set that has less comes whole. The splits are the corpus's own; the importer reads it back.
Sources that are for testing alone (other voices) join the test of their language's largest set, with what nobody says
in its training, so that a score is not that of a voice.

Source: the folders that ESPnet ``egs2/ml_superb/asr1/local/data_prep.py`` reads.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import soundfile

from allophone.data.corpus import Corpus
from allophone.data.utterance import Utterance
from allophone.errors import DataError
from allophone.frames import SAMPLE_RATE
from allophone.seeding import derive
from allophone.text.normalize import normalize

SECONDS = {"10min_train": 600.0, "1h_train": 3600.0, "10min_dev": 600.0, "10min_test": 600.0}
"""Transcript to the most that it holds of a set."""
FEWEST_TEST = 20
"""Test utterances below which a set says little and is left out."""
LAYOUT = "layout.json"


def write_mlsuperb(corpus: Corpus, out: Path, *, fewest_test: int = FEWEST_TEST) -> None:
    """Write the sets that have transcribed utterances in all of train, dev and test, and what was left out and why.

    Which utterances a limit leaves is drawn by their ids.

    Args:
        corpus: With splits.
        out: New folder; ``layout.json`` in it counts each set and what was left out.
        fewest_test: Fewest test utterances of a set.

    Raises:
        DataError: ``out`` is there already, or no set is left.
    """
    if out.exists():
        raise DataError(f"{out} is there already; name a folder that is not, or delete it.")
    left_out: Counter[str] = Counter()
    sets: dict[tuple[str, str], dict[str, list[Utterance]]] = {}
    for row in corpus:
        if not row.text or row.split not in ("train", "dev", "test"):
            left_out["without text or split"] += 1
            continue
        code = str(row.extra.get("code") or row.language.split("_")[0])
        splits = sets.setdefault((_folder_name(row.source or corpus.name), code), {})
        splits.setdefault(row.split, []).append(row)
    whole = {key: s for key, s in sets.items() if len(s) == 3 and len(s["test"]) >= fewest_test}
    joined = _join_other_voices(sets, whole)
    left_out[f"of a set without train and dev, or with fewer than {fewest_test} test utterances"] = sum(
        len(rows) for key, splits in sets.items() if key not in whole for rows in splits.values()
    ) - sum(joined.values())
    if not whole:
        raise DataError(
            f"{corpus.name}: none of {len(sets)} sets (a language of a source) has transcribed train and dev "
            f"utterances and {fewest_test} of test. `allophone corpus split` makes splits."
        )
    counts = {}
    for (source, code), splits in sorted(whole.items()):
        listed = _write_set(corpus, out / source / code, f"{source}_{code}", splits)
        counts[f"{source}/{code}"] = {name: len(rows) for name, rows in listed.items()}
        kept = {row.id for rows in listed.values() for row in rows}
        left_out["beyond the hour and the ten minutes"] += sum(map(len, splits.values())) - len(kept)
    told = {"corpus": corpus.name, "hash": corpus.hash, "utterances": counts}
    told |= {"other_voices": joined, "left_out": dict(left_out)}
    (out / LAYOUT).write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _folder_name(source: str) -> str:
    """A source as it stands in folders and in ids, which end at the first space of a line."""
    return re.sub(r"[^\w.-]+", "-", source).strip("-.") or "source"


def _join_other_voices(
    sets: Mapping[tuple[str, str], dict[str, list[Utterance]]],
    whole: Mapping[tuple[str, str], dict[str, list[Utterance]]],
) -> dict[str, int]:
    """Put test utterances of sources without training into their language's largest set; how many of each source."""
    joined: dict[str, int] = {}
    for (source, code), splits in sorted(sets.items()):
        own = [key for key in sorted(whole) if key[1] == code]
        if set(splits) != {"test"} or not own:
            continue
        heard = {
            content for key in own for split in ("train", "dev") for row in whole[key][split] for content in _said(row)
        }
        rows = [row for row in splits["test"] if not heard & _said(row)]
        whole[max(own, key=lambda key: len(whole[key]["train"]))]["test"].extend(rows)
        joined[f"{source}/{code}"] = len(rows)
    return joined


def _said(row: Utterance) -> set[str]:
    """What tells an utterance's content: its group, and its words."""
    return {f"text {normalize(row.text or '', row.language)}"} | ({f"group {row.group}"} if row.group else set())


def _write_set(
    corpus: Corpus, folder: Path, prefix: str, splits: dict[str, list[Utterance]]
) -> dict[str, list[Utterance]]:
    """Transcripts and recordings of one set; the utterances of each transcript."""
    listed = {name: _first(splits[name.split("_")[1]], seconds) for name, seconds in SECONDS.items()}
    kept = sorted({row.id: row for rows in listed.values() for row in rows}.items())
    names = {name: f"{prefix}_{number:06}" for number, (name, _) in enumerate(kept)}
    (folder / "wav").mkdir(parents=True)
    for name, row in kept:
        waveform = corpus.audio(row).clamp(-1, 1).numpy()
        soundfile.write(folder / "wav" / f"{names[name]}.wav", waveform, SAMPLE_RATE, subtype="PCM_16")
    for transcript, rows in listed.items():
        lines = [f"{names[row.id]}\t{folder.name}\t{' '.join((row.text or '').split())}\n" for row in rows]
        (folder / f"transcript_{transcript}.txt").write_text("".join(sorted(lines)), encoding="utf-8")
    return listed


def _first(rows: Sequence[Utterance], seconds: float) -> list[Utterance]:
    """Utterances in an order drawn by their ids, up to so many seconds and at least one."""
    chosen: list[Utterance] = []
    taken = 0.0
    for row in sorted(rows, key=lambda row: derive(0, "ml-superb", row.id)):
        taken += row.duration_seconds
        if chosen and taken > seconds:
            break
        chosen.append(row)
    return chosen
