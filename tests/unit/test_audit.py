"""data/audit and data/measure: the figures are right, copies are found, and the page is one safe offline file."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from torch import Tensor

from allophone.data.audit import Audit, audit
from allophone.data.corpus import Corpus
from allophone.data.importing import import_corpus
from allophone.data.measure import fingerprint, measure, similar_pairs
from allophone.frames import SAMPLE_RATE

Speech = Callable[..., Tensor]
HOSTILE = "<script>alert(1)</script> & \"quoted\" 'text'"


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory, speech: Speech) -> tuple[Audit, str]:
    """French and Greek, with an exact copy, a copy through MP3, a clipped, a silent-half, a broken file."""
    root = tmp_path_factory.mktemp("audit")
    source = root / "in"
    for folder in ("fr", "el"):
        (source / folder).mkdir(parents=True)
    for number in range(4):
        soundfile.write(source / f"fr/{number}.wav", speech(1 + number / 2, seed=number).numpy(), SAMPLE_RATE)
        (source / f"fr/{number}.txt").write_text("aab é" if number else HOSTILE, encoding="utf-8")
    samples = (speech(2.2, seed=9).numpy() * 32767).astype(np.int16)
    soundfile.write(source / "el/original.wav", samples, SAMPLE_RATE)
    soundfile.write(source / "el/copy.flac", samples, SAMPLE_RATE)
    soundfile.write(source / "el/through_mp3.mp3", samples, SAMPLE_RATE)
    soundfile.write(source / "el/clipped.wav", np.clip(speech(12, seed=5).numpy() * 20, -1, 1), SAMPLE_RATE)
    (source / "el/broken.wav").touch()
    corpus = import_corpus(source, out=root / "corpus", max_loss=0.5).corpus
    result = audit(Corpus.open(corpus.folder), root / "audit.html", players=4)
    return result, (root / "audit.html").read_text(encoding="utf-8")


def test_figures(audited: tuple[Audit, str]) -> None:
    result, _ = audited
    greek, french = result.languages
    assert (french.language, french.utterances, french.with_text) == ("fra_Latn", 4, 4)
    assert french.hours * 3600 == pytest.approx(7.0) and french.median_seconds == pytest.approx(1.75)
    assert greek.clipped == 1 and french.clipped == 0
    assert greek.sample_rates == {16_000: 4} and greek.without_speaker == 4 and greek.with_text == 0
    assert dict(french.durations) == {**dict.fromkeys(dict(french.durations), 0), "1-2 s": 2, "2-3 s": 2}
    assert dict(french.characters)["a"] == 2 * 3 + HOSTILE.count("a") and " " not in dict(french.characters)
    assert result.utterances == 8 and result.hours * 3600 == pytest.approx(7.0 + 3 * 2.2 + 12, abs=0.1)


def test_copies_and_quarantine(audited: tuple[Audit, str]) -> None:
    result, page = audited
    assert result.exact_duplicates == (("el/copy", "el/original"),)
    assert [pair[:2] for pair in result.near_duplicates] == [("el/copy", "el/through_mp3")]
    assert [item.id for item in result.quarantined] == ["el/broken"] and result.unreadable == ()
    for text in ("el/copy = el/original", "sample for sample", "empty file (0 bytes)", "1 of 4 recordings are clipped"):
        assert text in page


def test_the_page_is_one_offline_file_and_escapes_everything(audited: tuple[Audit, str]) -> None:
    _, page = audited
    tags: list[tuple[str, dict[str, str | None]]] = []

    class Collect(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append((tag, dict(attrs)))

    Collect().feed(page)
    assert "script" not in {tag for tag, _ in tags} and "link" not in {tag for tag, _ in tags}
    addresses = [values[name] for _, values in tags for name in ("src", "href") if name in values]
    assert all(address and address.startswith(("data:audio/ogg;base64,", "#")) for address in addresses)
    assert not re.search(r"https?://|url\(|@import", page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#34;quoted&#34;" in page
    assert "prefers-color-scheme: dark" in page


def test_players_play_ten_seconds_of_opus(audited: tuple[Audit, str], tmp_path: Path) -> None:
    result, _ = audited
    greek, french = result.languages
    assert len(greek.players) == len(french.players) == 4
    for player in greek.players + french.players:
        (tmp_path / "a.ogg").write_bytes(base64.b64decode(player.sound.split(",")[1]))
        info = soundfile.info(tmp_path / "a.ogg")
        assert (info.format, info.subtype, info.samplerate) == ("OGG", "OPUS", 16_000) and info.duration <= 10.1


def test_a_file_that_went_missing_is_listed_not_fatal(tmp_path: Path, speech: Speech) -> None:
    for number in range(2):
        soundfile.write(tmp_path / f"{number}.wav", speech(1, seed=number).numpy(), SAMPLE_RATE)
    corpus = Corpus.open(tmp_path, language="fr")
    (tmp_path / "1.wav").unlink()
    seen: list[int] = []
    result = audit(corpus, tmp_path / "out.html", progress=lambda done, _: seen.append(done))
    assert [item.id for item in result.unreadable] == ["1"] and result.languages[0].utterances == 1 and seen == [1, 2]


def test_what_lies_in_two_splits_is_said(tmp_path: Path, speech: Speech) -> None:
    for number in range(2):
        soundfile.write(tmp_path / f"{number}.wav", speech(1, seed=number).numpy(), SAMPLE_RATE)
    corpus = Corpus.open(tmp_path, language="fr")
    rows = [replace(row, speaker="ana", split=split) for row, split in zip(corpus, ("train", "test"), strict=True)]
    result = audit(corpus.with_utterances(tuple(rows)), tmp_path / "out.html")
    assert result.leaks == {"speaker": {"ana": ("test", "train")}}
    page = (tmp_path / "out.html").read_text()
    assert "In more than one split: 1 speaker, first &#39;ana&#39; in test and train." in page


def test_a_file_that_changed_its_rate_or_lost_the_part_is_listed(tmp_path: Path, speech: Speech) -> None:
    soundfile.write(tmp_path / "a.wav", speech(1).numpy(), SAMPLE_RATE)
    corpus = Corpus.open(tmp_path, language="fr")
    row = corpus.utterances[0]
    for change, reason in (
        ({"sample_rate": 8_000}, "16000 Hz, but the corpus says 8000 Hz"),
        ({"offset_seconds": 5.0}, "25 ms"),
    ):
        result = audit(corpus.with_utterances((replace(row, **change),)), tmp_path / "out.html")
        assert reason in result.unreadable[0].reason and result.languages == ()


def test_an_empty_corpus_gives_a_page(tmp_path: Path) -> None:
    assert audit(Corpus(tmp_path, (), name="none"), tmp_path / "out.html").languages == ()
    assert "0 recordings" in (tmp_path / "out.html").read_text()


def test_measurements_of_known_signals() -> None:
    generator = np.random.default_rng(0)
    time = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    tone = (0.5 * np.sin(2 * np.pi * 300 * time) * (time % 1 < 0.5)).astype(np.float32)  # on and off
    for noise_db in (-20, -40):
        noisy = tone + generator.standard_normal(len(tone)).astype(np.float32) * 10 ** (noise_db / 20)
        expected = 10 * np.log10(0.125) - noise_db
        assert measure(noisy, SAMPLE_RATE).snr_db == pytest.approx(expected, abs=2)
    found = measure(tone, SAMPLE_RATE)
    assert found.silence_share == pytest.approx(0.5, abs=0.03) and found.peak == pytest.approx(0.5, abs=1e-3)
    assert found.clipped_share == 0 and measure(np.clip(tone * 4, -1, 1), SAMPLE_RATE).clipped_share > 0.3
    assert np.isfinite(measure(np.full(400, 0.1, np.float32), SAMPLE_RATE).fingerprint).all()


def test_fingerprints_survive_gain_rate_and_noise_but_tell_recordings_apart(speech: Speech) -> None:
    waveforms = [speech(2, seed=seed).numpy() for seed in range(12)]
    prints = np.stack([fingerprint(waveform) for waveform in waveforms])
    low_rate = [soxr.resample(soxr.resample(waveform, 16_000, 8_000), 8_000, 16_000) for waveform in waveforms]
    for copies in ([waveform * 0.2 for waveform in waveforms], low_rate):
        similarity = prints @ np.stack([fingerprint(np.asarray(copy, np.float32)) for copy in copies]).T
        assert np.diag(similarity).min() > 0.99


def test_similar_pairs_finds_exactly_the_pairs_that_a_full_search_finds() -> None:
    generator = np.random.default_rng(0)
    prints = generator.standard_normal((300, 8)).astype(np.float32)
    prints /= np.linalg.norm(prints, axis=1, keepdims=True)
    seconds = generator.uniform(0.5, 20, 300)
    expected = [
        (a, b)
        for a in range(300)
        for b in range(a + 1, 300)
        if prints[a] @ prints[b] >= 0.7
        and max(seconds[a], seconds[b]) <= max(min(seconds[a], seconds[b]) * 1.03, min(seconds[a], seconds[b]) + 0.05)
    ]
    assert [pair[:2] for pair in similar_pairs(prints, seconds, 0.7)] == expected and len(expected) > 5
