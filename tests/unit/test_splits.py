"""data/splits: nothing leaks, nothing depends on the order of rows, and impossible wishes are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allophone.data.corpus import Corpus
from allophone.data.splits import connected, find_leaks, split_corpus
from allophone.data.utterance import Utterance
from allophone.errors import ConfigError, DataError


def utterance(
    number: int, speaker: int | None, group: int | None, language: str = "fra_Latn", seconds: float = 2.0
) -> Utterance:
    return Utterance(
        id=f"u{number:04d}",
        path="x.wav",
        duration_seconds=seconds,
        sample_rate=16_000,
        language=language,
        speaker=None if speaker is None else f"s{speaker}",
        group=None if group is None else f"g{group}",
    )


def made_of(rows: list[Utterance]) -> Corpus:
    return Corpus(Path("/"), tuple(rows), name="made")


def splits_of(corpus: Corpus) -> dict[str, str | None]:
    return {row.id: row.split for row in corpus}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.integers(0, 30)), st.one_of(st.none(), st.integers(0, 30)), st.floats(0.5, 20)
        ),
        min_size=3,
        max_size=60,
    ),
    st.integers(0, 5),
)
def test_no_speaker_or_group_is_ever_in_two_splits(rows: list[tuple[int | None, int | None, float]], seed: int) -> None:
    corpus = made_of([utterance(n, speaker, group, seconds=s) for n, (speaker, group, s) in enumerate(rows)])
    try:
        split = split_corpus(corpus, seed=seed)
    except DataError:
        assert (
            len(connected(corpus.utterances, ("speaker", "group"))) < 30
        )  # only small or entangled corpora are refused
        return
    assert find_leaks(split) == {} and {row.split for row in split} == {"train", "dev", "test"}
    assert [row.id for row in split] == [row.id for row in corpus]


def test_shares_hold_in_every_language_and_order_does_not_matter() -> None:
    rows = [
        utterance(n, n // 5, None, ("fra_Latn", "swh_Latn", "ell_Grek")[n % 3 if n < 600 else 0]) for n in range(1_000)
    ]
    split = split_corpus(made_of(rows), dev=0.1, test=0.2, by=["speaker"])
    for language, hours in split.hours().items():
        assert split.where(language=language, split="test").hours()[language] / hours == pytest.approx(0.2, abs=0.03)
        assert split.where(language=language, split="dev").hours()[language] / hours == pytest.approx(0.1, abs=0.03)
    assert splits_of(split_corpus(made_of(rows[::-1]), dev=0.1, test=0.2, by=["speaker"])) == splits_of(split)
    assert splits_of(split_corpus(made_of(rows), dev=0.1, test=0.2, by=["speaker"], seed=1)) != splits_of(split)


def test_content_shared_across_languages_stays_together() -> None:
    rows = [utterance(n, None, n // 2, ("fra_Latn", "ita_Latn")[n % 2]) for n in range(200)]
    split = split_corpus(made_of(rows))
    assert find_leaks(split) == {}
    assert all(split.utterances[n].split == split.utterances[n + 1].split for n in range(0, 200, 2))


def test_clusters_join_through_others() -> None:
    rows = [utterance(0, 1, 1), utterance(1, 1, 2), utterance(2, 2, 2), utterance(3, 3, 3), utterance(4, None, None)]
    assert [[row.id for row in cluster] for cluster in connected(rows, ("speaker", "group"))] == [
        ["u0000", "u0001", "u0002"],
        ["u0003"],
        ["u0004"],
    ]


def test_what_is_known_of_nobody_stays_with_its_recording() -> None:
    """Parts of one session, each in its own split, make a score too good, though no speaker is named."""
    rows = [replace(utterance(n, None, None), path=f"session-{n // 10}.wav") for n in range(200)]
    split = split_corpus(made_of(rows))
    assert {row.split for row in split} == {"train", "dev", "test"}
    assert all(len({row.split for row in split.utterances[n : n + 10]}) == 1 for n in range(0, 200, 10))
    with pytest.raises(DataError, match="the recording"):
        split_corpus(made_of([replace(row, path="one.wav") for row in rows]))
    named = [replace(row, path="one.wav", speaker=f"s{number}") for number, row in enumerate(rows)]
    assert {row.split for row in split_corpus(made_of(named))} == {"train", "dev", "test"}


def test_a_leak_is_named() -> None:
    splits = ("train", "dev", "test", "dev")
    rows = [replace(utterance(n, n % 2, None), split=split) for n, split in enumerate(splits)]
    assert find_leaks(made_of(rows)) == {"speaker": {"s0": ("test", "train")}}
    session = [replace(row, speaker=None, path="session.wav") for row in rows]
    assert find_leaks(made_of(session)) == {"recording": {"session.wav": ("dev", "test", "train")}}
    said = [replace(row, text="hello") for row in rows]
    assert find_leaks(made_of(said), by=("text",)) == {"text": {"hello": ("dev", "test", "train")}}
    assert find_leaks(made_of([replace(row, split=None) for row in session])) == {}


def test_one_speaker_cannot_be_parted() -> None:
    with pytest.raises(
        DataError, match=r"no utterances of fra_Latn for \['dev', 'test'\]: they share speaker.*--by group"
    ):
        split_corpus(made_of([utterance(n, 0, n) for n in range(50)]))
    split = split_corpus(made_of([utterance(n, 0, n) for n in range(50)]), by=["group"])
    assert {row.split for row in split} == {"train", "dev", "test"}


@pytest.mark.parametrize("shares", [{"dev": 0.6, "test": 0.4}, {"dev": -0.1}, {"by": []}])
def test_impossible_shares_are_refused(shares: dict) -> None:
    with pytest.raises(ConfigError, match="leave some for train"):
        split_corpus(made_of([utterance(0, 0, 0)]), **shares)
