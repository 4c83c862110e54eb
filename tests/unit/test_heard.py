"""The ledger of what was heard: same recordings, copies, speakers and contents are found, others are not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from allophone.data.heard import contamination, listen, load_heard, save_heard
from allophone.data.loader import WaveformCache
from allophone.data.utterance import Utterance
from allophone.errors import CheckpointError


class Sounds:
    def __init__(self, waves: dict[str, Tensor]) -> None:
        self.waves = waves

    def audio(self, utterance: Utterance, /) -> Tensor:
        return self.waves[utterance.id]


def row(name: str, *, seconds: float = 1.5, speaker: str | None = None, text: str = "") -> Utterance:
    return Utterance(
        id=name,
        path="x",
        duration_seconds=seconds,
        sample_rate=16_000,
        language="fra_Latn",
        speaker=speaker,
        text=text or f"texte {name}",
        sha256=f"hash {name}",
    )


@pytest.fixture
def sounds(speech: Callable[..., Tensor]) -> WaveformCache[Utterance]:
    waves = {name: speech(1.5, seed) for seed, name in enumerate(("a", "b", "new", "other"))}
    waves["louder"] = 1.7 * waves["a"]
    return WaveformCache(Sounds(waves))


def test_what_was_seen_is_found(tmp_path: Path, sounds: WaveformCache[Utterance]) -> None:
    training = [row("a", speaker="anne"), row("b", speaker="bert")]
    save_heard(listen(training, sounds), tmp_path)
    heard = load_heard(tmp_path)
    assert heard is not None and len(heard) == 2

    def seen(*judged: Utterance) -> tuple[float, float, float, float]:
        found = contamination(heard, listen(judged, sounds))
        return found.recordings, found.near_duplicates, found.speakers, found.contents

    assert seen(training[0]) == (1.0, 1.0, 1.0, 1.0)
    assert seen(row("louder")) == (0.0, 1.0, 0.0, 0.0)
    assert seen(row("new"), row("other")) == (0.0, 0.0, 0.0, 0.0)
    assert seen(row("new", speaker="bert"), row("other")) == (0.0, 0.0, 0.5, 0.0)
    assert seen(row("new", text="TEXTE a!"), row("other", text="")) == (0.0, 0.0, 0.0, 0.5)


def test_translations_count_as_read(sounds: WaveformCache[Utterance]) -> None:
    training = [replace(row("a"), translations={"spa_Latn": "hola"})]
    judged = [replace(row("new"), language="spa_Latn", text="Hola.")]
    assert contamination(listen(training, sounds), listen(judged, sounds)).contents == 1.0
    assert contamination(listen(training, sounds, ["fra_Latn"]), listen(judged, sounds)).contents == 0.0


def test_a_row_says_so(sounds: WaveformCache[Utterance]) -> None:
    training = listen([row("a", speaker="anne")], sounds)
    clean = contamination(training, listen([row("new")], sounds))
    assert clean.clean and clean.words == "nothing of it seen in training"
    found = contamination(training, listen([row("louder", speaker="anne")], sounds), ["starter"])
    assert found.words == (
        "seen: other rows of starter, recordings 0 %, near-duplicates 100 %, speakers 100 %, contents 0 %"
    )


def test_a_damaged_ledger_is_named_and_none_is_unknown(tmp_path: Path) -> None:
    assert load_heard(tmp_path) is None
    (tmp_path / "heard.parquet").write_bytes(b"PAR1")
    with pytest.raises(CheckpointError, match=r"heard\.parquet: damaged"):
        load_heard(tmp_path)
