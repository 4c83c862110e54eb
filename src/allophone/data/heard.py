"""What a model heard in training, kept beside it, so that an evaluation can say what of its data was seen.

One row an utterance: the hash of its samples, its speaker, what it says (as numbers, not as text) and a fingerprint
that finds copies in another codec, rate or gain. Speakers are compared by name, so two corpora that call one person
differently hide that, and two that use one name for two persons show what is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from allophone.data.audit import NEAR_DUPLICATE
from allophone.data.captioning import content_facts
from allophone.data.loader import WaveformCache
from allophone.data.measure import fingerprint
from allophone.data.utterance import Utterance
from allophone.errors import CheckpointError

HEARD_FILE = "heard.parquet"
CHUNK = 2048
Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Heard:
    """N utterances."""

    sha256: tuple[str | None, ...]
    """Of the samples."""
    speakers: tuple[str | None, ...]
    facts: tuple[tuple[int, ...], ...]
    """Numbers of everything that each says, in every wording that its group has."""
    seconds: NDArray[np.float64]
    """Durations. Shape ``(N,)``."""
    fingerprints: Array
    """Shape ``(N, 480)``, unit length; zero for a constant signal."""

    def __len__(self) -> int:
        return len(self.sha256)


@dataclass(frozen=True, kw_only=True, slots=True)
class Contamination:
    """Shares of the recordings of an evaluation, from 0 to 1."""

    corpora: tuple[str, ...]
    """Corpora of the evaluation that were heard in training, in these rows or others."""
    recordings: float
    """The very same samples were heard."""
    near_duplicates: float
    """The same or a copy of it was heard."""
    speakers: float
    """A speaker of this name was heard."""
    contents: float
    """The same text, in some language, was heard or read."""

    @property
    def clean(self) -> bool:
        """Whether nothing was seen."""
        return not self.corpora and max(self.recordings, self.near_duplicates, self.speakers, self.contents) == 0

    @property
    def words(self) -> str:
        """For the row of a table."""
        if self.clean:
            return "nothing of it seen in training"
        shares = {
            "recordings": self.recordings,
            "near-duplicates": self.near_duplicates,
            "speakers": self.speakers,
            "contents": self.contents,
        }
        corpora = [f"other rows of {name}" if self.recordings < 1 else name for name in self.corpora]
        return "seen: " + ", ".join([*corpora, *(f"{name} {100 * share:.0f} %" for name, share in shares.items())])


def listen(
    rows: Sequence[Utterance],
    cache: WaveformCache[Utterance],
    languages: Sequence[str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Heard:
    """What there is to be remembered of some utterances.

    Args:
        rows: Utterances.
        cache: Decodes them.
        languages: Of texts that were read; None = all that the corpus has.
        progress: Called with (utterances done, all).
    """
    facts = content_facts(rows, languages)
    prints = np.zeros((len(rows), 480), dtype=np.float32)
    for number, row in enumerate(rows):
        prints[number] = fingerprint(cache.get(row).numpy())
        progress(number + 1, len(rows))
    return Heard(
        sha256=tuple(row.sha256 for row in rows),
        speakers=tuple(row.speaker for row in rows),
        facts=tuple(tuple(fact.number for fact in facts[row.id]) for row in rows),
        seconds=np.array([row.duration_seconds for row in rows], dtype=np.float64),
        fingerprints=prints,
    )


def save_heard(heard: Heard, folder: Path) -> Path:
    """Write ``heard.parquet``; fingerprints with 8 bits a value."""
    scale = 127 / np.maximum(np.abs(heard.fingerprints).max(axis=1, keepdims=True), 1e-6)
    bytes_ = [row.tobytes() for row in np.round(heard.fingerprints * scale).astype(np.int8)]
    table = pa.table(
        {
            "sha256": pa.array(heard.sha256, pa.string()),
            "speaker": pa.array(heard.speakers, pa.string()),
            "facts": pa.array([list(row) for row in heard.facts], pa.list_(pa.int64())),
            "seconds": pa.array(heard.seconds, pa.float64()),
            "fingerprint": pa.array(bytes_, pa.binary(480)),
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{HEARD_FILE}"
    pq.write_table(table, partial)
    return partial.replace(folder / HEARD_FILE)


def load_heard(folder: Path) -> Heard | None:
    """What :func:`save_heard` wrote; None where a model folder has no such file, so that nothing is known.

    Raises:
        CheckpointError: The file is damaged.
    """
    path = folder / HEARD_FILE
    if not path.exists():
        return None
    try:
        table = pq.read_table(path)
        flat = np.frombuffer(b"".join(table["fingerprint"].to_pylist()), dtype=np.int8)
        prints = flat.reshape(len(table), 480).astype(np.float32)
        return Heard(
            sha256=tuple(table["sha256"].to_pylist()),
            speakers=tuple(table["speaker"].to_pylist()),
            facts=tuple(tuple(row) for row in table["facts"].to_pylist()),
            seconds=table["seconds"].to_numpy(),
            fingerprints=prints / np.maximum(np.linalg.norm(prints, axis=1, keepdims=True), 1e-6),
        )
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path}: damaged ({' '.join(str(error).split())}). Copy the folder again.") from error


def contamination(heard: Heard, judged: Heard, corpora: Sequence[str] = ()) -> Contamination:
    """What of the recordings that are judged was heard in training.

    Args:
        heard: In training.
        judged: In the evaluation.
        corpora: Names of the evaluation's corpora that training took rows from.
    """
    known = set(heard.sha256) - {None}
    same = np.array([one in known for one in judged.sha256], dtype=bool)
    speakers = set(heard.speakers) - {None}
    facts = {number for row in heard.facts for number in row}
    return Contamination(
        corpora=tuple(corpora),
        recordings=_share(same),
        near_duplicates=_share(same | copies(heard, judged)),
        speakers=_share(np.array([one in speakers for one in judged.speakers], dtype=bool)),
        contents=_share(np.array([not facts.isdisjoint(row) for row in judged.facts], dtype=bool)),
    )


def copies(heard: Heard, judged: Heard) -> NDArray[np.bool_]:
    """Which of the judged recordings are like a heard one, and as long up to 3 % or 0.05 s. Shape ``(judged,)``."""
    found = np.zeros(len(judged), dtype=bool)
    for start in range(0, len(heard), CHUNK):
        part = slice(start, start + CHUNK)
        alike = judged.fingerprints @ heard.fingerprints[part].T >= NEAR_DUPLICATE
        apart = np.abs(judged.seconds[:, None] - heard.seconds[None, part])
        found |= (alike & (apart <= np.maximum(0.03 * judged.seconds[:, None], 0.05))).any(axis=1)
    return found


def _share(flags: NDArray[np.bool_]) -> float:
    return float(flags.mean()) if len(flags) else 0.0
