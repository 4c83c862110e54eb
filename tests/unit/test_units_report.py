"""The report: phones on frames, scores against chance, intervals, the phone file."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from allophone.errors import ConfigError, DataError
from allophone.frames import FrameClock
from allophone.units.encode import Units
from allophone.units.report import PhoneInterval, phones_of_frames, read_phones, report, unit_report

TEN_MS = FrameClock(hop=160, receptive_field=400)


def corpus(agreement: float, utterances: int = 30, seed: int = 0):
    """Phones of 80 ms; units follow them with the given probability, else anything."""
    generator = np.random.default_rng(seed)
    labels, phones = {}, {}
    for i in range(utterances):
        sequence = generator.integers(0, 8, size=15)
        frames = np.repeat(sequence, 8)
        follow = generator.random(len(frames)) < agreement
        drawn = generator.integers(0, 20, size=len(frames))
        labels[f"u{i}"] = np.where(follow, 2 * frames, drawn).astype(np.uint16)
        phones[f"u{i}"] = [PhoneInterval(0.08 * j, 0.08 * (j + 1), "abcdefgh"[p]) for j, p in enumerate(sequence)]
    return Units(labels, "cafe" * 4, TEN_MS, 20), phones


def test_agreement_is_far_above_chance_and_inside_its_interval():
    result = unit_report(*corpus(0.8), resamples=200)
    labelled = result.phones
    for name in ("pnmi", "phone_purity", "cluster_purity"):
        score, chance = getattr(labelled, name), getattr(labelled, f"chance_{name}")
        assert score.low <= score.value <= score.high
        assert score.low > 1.5 * chance
        assert score.n == 30
    assert labelled.phones == 8 and labelled.utterances == 30


def test_random_units_score_chance():
    labelled = unit_report(*corpus(0.0), resamples=200).phones
    for name in ("pnmi", "phone_purity", "cluster_purity"):
        score, chance = getattr(labelled, name), getattr(labelled, f"chance_{name}")
        assert score.value == pytest.approx(chance, abs=0.03)


def test_more_agreement_scores_more():
    scores = [unit_report(*corpus(share), resamples=1).phones.pnmi.value for share in (0.1, 0.4, 0.7, 1.0)]
    assert scores == sorted(scores) and scores[-1] > 0.7


def test_interval_narrows_with_utterances():
    few, many = (unit_report(*corpus(0.6, n), resamples=300).phones.pnmi for n in (20, 180))
    assert many.high - many.low < 0.6 * (few.high - few.low)


def test_usage_is_that_of_all_units():
    units, phones = corpus(1.0)
    some = {name: phones[name] for name in list(phones)[:5]}
    result = unit_report(units, some, resamples=10)
    assert result.dead_units == 12 and result.utterances == 30 and result.phones.utterances == 5
    assert result.frames == sum(map(len, units.labels.values()))
    assert result.most_used_share == pytest.approx(max(units.counts()) / result.frames)
    assert unit_report(units).phones is None


def test_same_seed_same_report():
    units, phones = corpus(0.5)
    assert unit_report(units, phones, resamples=50, seed=3) == unit_report(units, phones, resamples=50, seed=3)


def test_report_reads_as_text():
    text = str(unit_report(*corpus(0.7), resamples=20))
    assert "20 units at 100 Hz" in text and "pnmi" in text and "shuffled" in text and "dead units" in text


def test_phone_at_the_center_of_a_frame():
    intervals = [PhoneInterval(0.0, 0.05, "a"), PhoneInterval(0.05, 0.09, "b")]
    # Centers lie at 12.5, 22.5, ... ms: four of them before 50 ms, four more before 90 ms.
    assert phones_of_frames(intervals, 10, TEN_MS) == ["a"] * 4 + ["b"] * 4 + [None] * 2
    stacked = FrameClock(hop=640, receptive_field=880)  # centers at 27.5, 67.5, ... ms
    assert phones_of_frames(intervals, 4, stacked) == ["a", "b", None, None]
    wide = FrameClock(hop=640, receptive_field=2_320)  # the first center at 72.5 ms
    assert phones_of_frames(intervals, 2, wide) == ["b", None]
    assert phones_of_frames([PhoneInterval(0.03, 0.05, "a")], 6, TEN_MS) == [None, None, "a", "a", None, None]


def test_unlabelled_frames_are_counted():
    units, phones = corpus(1.0, utterances=3)
    holes = {name: rows[:10] for name, rows in phones.items()}
    labelled = unit_report(units, holes, resamples=5).phones
    # The last 40 frames have no label; windows of 25 ms see one frame ahead, which the first labels gain.
    assert labelled.unlabelled_frames == pytest.approx(3 * 40, abs=3 * 2)
    assert labelled.frames + labelled.unlabelled_frames == 3 * 120


def test_file_to_report(tmp_path):
    units, phones = corpus(0.9, utterances=6)
    units.save(tmp_path / "u.parquet")
    rows = [f"{name}\t{p.start_seconds}\t{p.end_seconds}\t{p.phone}" for name, ps in phones.items() for p in ps]
    (tmp_path / "phones.tsv").write_text("\n".join(["id\tstart_seconds\tend_seconds\tphone", *rows]) + "\n")
    assert read_phones(tmp_path / "phones.tsv") == phones
    assert report(tmp_path / "u.parquet", phones=tmp_path / "phones.tsv", resamples=20) == unit_report(
        units, phones, resamples=20
    )


def test_phone_files_that_do_not_fit(tmp_path):
    path = tmp_path / "phones.tsv"
    path.write_text("utt\tbegin\tend\tphone\n")
    with pytest.raises(DataError, match="expected the tab-separated columns"):
        read_phones(path)
    path.write_text("id\tstart_seconds\tend_seconds\tphone\nu0\t0.0\tsoon\ta\n")
    with pytest.raises(DataError, match=r"line 2.*times in seconds"):
        read_phones(path)


@pytest.mark.parametrize("time", ["nan", "inf", ""])
def test_times_that_are_none_are_refused(tmp_path, time):
    path = tmp_path / "phones.tsv"
    path.write_text(f"id\tstart_seconds\tend_seconds\tphone\nu0\t0.0\t{time}\ta\n")
    with pytest.raises(DataError, match=r"line 2.*expected two times in seconds"):
        read_phones(path)
    phones = [{"phone": "a", "start_seconds": 0.0, "end_seconds": float(time) if time else None}]
    pq.write_table(pa.table({"id": ["u0"], "phones": [phones]}), tmp_path / "p.parquet")
    with pytest.raises(DataError, match=r"utterance 'u0': times 0\.0 and .*expected two times in seconds"):
        read_phones(tmp_path / "p.parquet")


def test_phones_beside_a_corpus_and_those_of_other_programs(tmp_path):
    _, phones = corpus(0.9, utterances=3)
    rows = [
        [{"phone": p.phone, "start_seconds": p.start_seconds, "end_seconds": p.end_seconds} for p in intervals]
        for intervals in phones.values()
    ]
    pq.write_table(pa.table({"id": list(phones), "phones": rows}), tmp_path / "phones.parquet")
    assert read_phones(tmp_path / "phones.parquet") == phones
    text = "id\tstart_seconds\tend_seconds\tphone\nu0\t0.0\t0.1\t\u00e9\n"
    (tmp_path / "mark.tsv").write_text(text, encoding="utf-8-sig")  # as spreadsheets write it
    assert read_phones(tmp_path / "mark.tsv") == {"u0": [PhoneInterval(0.0, 0.1, "\u00e9")]}


def test_files_that_hold_no_phones(tmp_path):
    (tmp_path / "latin.tsv").write_text("id\tstart_seconds\tend_seconds\tphone\nu0\t0\t1\t\u00e9\n", encoding="latin-1")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "binary.tsv").write_bytes(bytes(range(256)))
    pq.write_table(pa.table({"id": ["u0"], "units": [[1]]}), tmp_path / "units.parquet")
    pq.write_table(pa.table({"id": ["u0"], "phones": [["a"]]}), tmp_path / "names.parquet")
    for name in ("latin.tsv", "cut.parquet", "binary.tsv", "units.parquet", "names.parquet", "none.tsv"):
        with pytest.raises(DataError, match=rf"{name}.*expected the tab-separated columns .*phones\.parquet"):
            read_phones(tmp_path / name)


def test_labels_of_other_utterances():
    units, phones = corpus(1.0, utterances=3)
    with pytest.raises(DataError, match="0 of 3 utterances have phone labels"):
        unit_report(units, {f"other-{name}": rows for name, rows in phones.items()})


def test_phone_that_ends_before_it_starts():
    units, phones = corpus(1.0, utterances=2)
    with pytest.raises(DataError, match="ends before its start"):
        unit_report(units, phones | {"u0": [PhoneInterval(0.5, 0.2, "a")]})


def test_no_resamples():
    with pytest.raises(ConfigError, match="resamples is 0"):
        unit_report(*corpus(1.0), resamples=0)
