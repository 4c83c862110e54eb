"""Turn the scores of ``find_suspects.py`` into ``suspect.csv``, the pairs whose text is not what is said.

    python choose_suspects.py --packages DIR --scores scores.jsonl --out suspect.csv [--show]

Two signs, each relative to the voice:

- **speed**: log seconds against log letters, fitted robustly (Theil-Sen), residual in units of 1.4826 MAD. Below -4 the
  recording is too short for its text; above 8 too long, if the text has at least 6 letters.
- **fit**: how much better Whisper base explains the text by its own recording than by others of the same voice, in
  nats per token. A pair that belongs together has a clear gain even where transcripts are poor; a wrong pair has none.
  Suspect below a quarter of the voice's median (at least 0.5), if the character error rate is above 0.5; also below
  1.0 where the speed is odd too (beyond 2 either way). Single letters are not judged.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from audio import SAMPLE_RATE, BrokenAudio, load_trimmed
from catalog import read_grouped
from records import Clip
from splits import normalized

TOO_SHORT, TOO_LONG, ODD_SPEED = -4.0, 8.0, 2.0
FIT_SHARE, MIN_FIT, LOW_FIT, HIGH_CER = 0.25, 0.5, 1.0, 0.5
LETTERS_PER_DIGIT = 5


def letters(text: str) -> int:
    """Length of a text in letters; a digit counts as a short word."""
    plain = normalized(text).replace(" ", "")
    return max(1, sum(LETTERS_PER_DIGIT if c.isdigit() else 1 for c in plain))


def speed_residuals(seconds: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Robust z-scores of log seconds given log letters. Shapes ``(clips,)``; negative is too short for its text."""
    x, y = np.log(lengths), np.log(seconds)
    pairs = np.random.default_rng(0).integers(0, len(x), (20_000, 2))
    apart = np.abs(x[pairs[:, 0]] - x[pairs[:, 1]]) > 0.2
    first, second = pairs[apart].T
    slope = float(np.median((y[first] - y[second]) / (x[first] - x[second]))) if len(first) else 0.5
    residual = y - slope * x
    residual -= np.median(residual)
    return residual / (1.4826 * np.median(np.abs(residual)) + 1e-9)


def durations(packages: Path, scores: Mapping[str, Mapping]) -> dict[str, list[tuple[Clip, float]]]:
    """Speaker to recordings with a text and their seconds after trimming, decoded where there is no score."""
    voices = defaultdict(list)
    for clip in read_grouped(packages):
        if clip.text and normalized(clip.text):
            try:
                known = scores.get(clip.id)
                seconds = known["seconds"] if known else len(load_trimmed(clip.audio)[0]) / SAMPLE_RATE
                voices[clip.speaker].append((clip, seconds))
            except BrokenAudio:
                continue  # build_starter.py reports it.
    return voices


def verdict(clip: Clip, speed: float, score: Mapping | None, fit_limit: float) -> str | None:
    """Why a pair is out, or ``None``."""
    size = letters(clip.text or "")
    if speed < TOO_SHORT or (speed > TOO_LONG and size >= 6):
        return "speed"
    if score is None or "fit" not in score or score["text"] != clip.text or size == 1 or score["cer"] <= HIGH_CER:
        return None
    if score["fit"] < fit_limit:
        return "fit"
    if score["fit"] < LOW_FIT and abs(speed) > ODD_SPEED:
        return "fit and speed"
    return None


def main() -> None:
    """Write the list and count it by voice and reason."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "suspect.csv")
    parser.add_argument("--show", action="store_true", help="print every suspect with its transcript")
    arguments = parser.parse_args()
    lines = arguments.scores.read_text(encoding="utf-8").splitlines()
    scores = {row["id"]: row for row in map(json.loads, lines)}
    twins = {(row["speaker"], row["text"], row["seconds"]): row for row in scores.values()}
    suspects = []
    for speaker, clips in sorted(durations(arguments.packages, scores).items()):
        seconds = np.array([length for _, length in clips])
        speeds = speed_residuals(seconds, np.array([letters(clip.text or "") for clip, _ in clips], dtype=float))
        fits = [scores[clip.id]["fit"] for clip, _ in clips if "fit" in scores.get(clip.id, {})]
        fit_limit = max(MIN_FIT, FIT_SHARE * float(np.median(fits))) if fits else MIN_FIT
        found = 0
        for (clip, length), speed in zip(clips, speeds, strict=True):
            score = scores.get(clip.id) or twins.get((speaker, clip.text, round(length, 3)))
            if reason := verdict(clip, float(speed), score, fit_limit):
                found += 1
                fit, cer = (score.get("fit", ""), score.get("cer", "")) if score else ("", "")
                suspects.append((clip.id, reason, f"speed={speed:.1f} fit={fit} cer={cer}"))
                if arguments.show:
                    heard = score["transcript"][:60] if score else ""
                    print(f"{reason:14} {suspects[-1][2]:36} {length:5.2f} s | {(clip.text or '')[:70]} | {heard}")
        known = sum(clip.id in scores for clip, _ in clips)
        print(f"{speaker}: {found} of {len(clips)} pairs are suspect; {known} have whisper scores")
    with arguments.out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "reason", "score"])
        writer.writerows(sorted(suspects))


if __name__ == "__main__":
    main()
