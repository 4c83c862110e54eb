"""Build the pretraining corpus: every real recording outside the kept-out languages, voices and contents.

    python build_pretraining.py --packages DIR --out DIR [--limit N]

Kept out: Bulgarian, Greek, Italian and Danish from any source; the second voices and festvox-ru; every content
group that is in the dev or test split of the starter corpus. Recordings without groups are train, 2 % are dev.
Writes 16 kHz mono FLAC, trimmed; clips under 0.4 s are dropped, clips over 20 s are cut into equal pieces.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import math
from collections import Counter
from pathlib import Path

import corpus_folder
import numpy as np
import soundfile
from audio import SAMPLE_RATE, BrokenAudio, load_trimmed
from catalog import group_splits, read_grouped, read_ungrouped
from languages import KEPT_OUT
from records import Clip

MIN_SECONDS, MAX_SECONDS, DEV_SHARE = 0.4, 20.0, 0.02
log = logging.getLogger("build_pretraining")


def wanted(packages: Path) -> list[tuple[Clip, str]]:
    """The recordings that may be trained on, with their split."""
    grouped = read_grouped(packages)
    splits = group_splits(grouped)
    chosen = [
        (clip, "train")
        for clip in grouped
        if clip.language not in KEPT_OUT and not clip.second_voice and splits[clip.group] == "train"
    ]
    for clip in read_ungrouped(packages):
        share = int(hashlib.sha256(clip.id.encode()).hexdigest()[:8], 16) / 2**32
        chosen.append((clip, "dev" if share < DEV_SHARE else "train"))
    return chosen


def pieces(waveform: np.ndarray) -> list[np.ndarray]:
    """Cut a long waveform into equal pieces of at most 20 s."""
    count = max(1, math.ceil(len(waveform) / (MAX_SECONDS * SAMPLE_RATE)))
    return np.array_split(waveform, count)


def main() -> None:
    """Build the corpus and print what was left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True, help="folder of extracted packages, see fetch.py")
    parser.add_argument("--out", type=Path, required=True, help="corpus folder to write")
    parser.add_argument("--limit", type=int, help="keep only this many utterances of tuxpaint, for a smoke test")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    clips = wanted(arguments.packages)
    if arguments.limit:
        clips = [c for c in clips if c[0].source == "tuxpaint" and c[0].text]
        clips = clips[:: max(1, len(clips) // (2 * arguments.limit))]
    rows: list[corpus_folder.Row] = []
    left_out: Counter[str] = Counter()
    seen: set[str] = set()
    for number, (clip, split) in enumerate(clips):
        try:
            waveform, rate, _ = load_trimmed(clip.audio)
        except BrokenAudio as error:
            log.warning("left out %s: %s", clip.id, error)
            left_out["broken"] += 1
            continue
        digest = hashlib.sha256(waveform.tobytes()).hexdigest()
        if len(waveform) < MIN_SECONDS * SAMPLE_RATE or digest in seen:
            left_out["repeated" if digest in seen else "shorter than 0.4 s"] += 1
            continue
        seen.add(digest)
        parts = pieces(waveform)
        for index, part in enumerate(parts):
            suffix = "" if len(parts) == 1 else f"-part{index}"
            path = arguments.out / "audio" / f"{clip.id}{suffix}.flac"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, part, SAMPLE_RATE, subtype="PCM_16")
            rows.append(
                corpus_folder.Row(
                    id=clip.id + suffix,
                    path=path.relative_to(arguments.out).as_posix(),
                    duration_seconds=len(part) / SAMPLE_RATE,
                    language=clip.language,
                    speaker=clip.speaker,
                    split=split,
                    source=clip.source,
                    licence=clip.licence,
                    sha256=corpus_folder.file_sha256(path),
                    original_sample_rate=rate,
                    text=clip.text if not suffix else None,
                    label=clip.label,
                    group=clip.group,
                    translations=clip.translations if not suffix else {},
                )
            )
        if arguments.limit and len(rows) >= arguments.limit:
            break
        if number % 2000 == 0:
            log.info("%d of %d", number, len(clips))
    corpus_folder.write(arguments.out, "allophone-pretraining", rows)
    table = corpus_folder.summary_table(rows)
    (arguments.out / "summary.txt").write_text(table, encoding="utf-8")
    log.info("%sleft out: %s", table, dict(left_out))


if __name__ == "__main__":
    main()
