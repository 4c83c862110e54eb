"""Benchmarks at sizes that only try the program out, and what they are made of. No timings are judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from allophone.benchmarks import encode, environments, kmeans, loader, mfcc, pretrain_step, probe, units_scale, vocoder
from allophone.benchmarks.roofline import matmul_rate, useful_operations
from allophone.benchmarks.speech import batches_of, cut_clips
from allophone.benchmarks.timing import OURS, Measured, Timing, alternated
from allophone.errors import AllophoneError, ConfigError
from allophone.models.hubert import published_config

QUICK = Timing(pairs=1, quick=True)
ENTRIES = {"name", "ours", "peers", "unit", "ratio", "ratios", "equal_output", "not_run", "machine"}


def complete(result: dict[str, Any], peers: set[str]) -> None:
    """The object of DESIGN: JSON, all entries, each peer timed or with its reason."""
    assert result.keys() >= ENTRIES
    assert json.loads(json.dumps(result)) == result
    assert set(result["peers"]) | set(result["not_run"]) == peers
    assert set(result["ratios"]) == set(result["peers"])
    assert result["ratio"] == min(result["ratios"].values())
    assert result["equal_output"] is True


@pytest.mark.parametrize("model, dtype", [("hubert-base", "float32"), ("wavlm-base", "bfloat16")])
def test_encode(model: str, dtype: encode.Dtype) -> None:
    pytest.importorskip("allophone_starter")
    result = encode.run(model=model, dtype=dtype, timing=QUICK)
    complete(result, {encode.SORTED, encode.DEFAULTS, encode.ALONE})
    assert result["least_cosine"] <= 1.0001


def test_vocoder_says_how_many_times_faster_than_speech_it_is() -> None:
    threads = torch.get_num_threads()
    result = vocoder.run(timing=QUICK)
    complete(result, {vocoder.THEIRS})
    assert result["largest_difference"] <= vocoder.TOLERANCE and result["speech_seconds"] > 0.4
    assert result["faster_than_real_time"] == (result["ours"] > 1)
    assert torch.get_num_threads() == threads


def test_encode_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ConfigError, match=r"No encoder 'hubert-bas'.*hubert-base"):
        encode.make_encoder("hubert-bas")


def test_pretrain_step_without_other_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("allophone_starter")

    def refuse(folder: Path, name: str) -> Path:
        raise AllophoneError(f"pip install failed: no network for {name}")

    monkeypatch.setattr(pretrain_step, "environment", refuse)
    result = pretrain_step.run(environments=tmp_path, peers=("fairseq",), timing=QUICK)
    complete(result, {pretrain_step.THEIRS, "fairseq", *environments.NOT_THERE})
    assert result["not_run"]["fairseq"] == "pip install failed: no network for fairseq"
    assert result["memory_ratio"] is None and 0 < result["share_of_best"]
    assert all(peak > 0 for peak in result["peak_bytes"].values())


def test_a_trainer_that_breaks_is_listed_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("allophone_starter")
    false = tmp_path / "false"
    false.write_text("#!/bin/sh\necho no such trainer >&2\nexit 3\n", encoding="utf-8")
    false.chmod(0o755)
    process = pretrain_step._Process([str(false), "step.py", "fairseq", "b", "d", "t", "l", "s"])
    with pytest.raises(AllophoneError, match="fairseq ended with status 3: no such trainer"):
        process.step()
    process.close()


def test_kmeans() -> None:
    complete(kmeans.run(timing=QUICK), {kmeans.SKLEARN, kmeans.FAISS})


def test_probe() -> None:
    pytest.importorskip("allophone_starter")
    complete(probe.run(timing=QUICK), {probe.EACH_EPOCH})
    with pytest.raises(ConfigError, match="7 clips, 30 epochs; expected 8 and 1"):
        probe.run(clips=7)


def test_mfcc() -> None:
    pytest.importorskip("allophone_starter")
    pytest.importorskip("kaldi_native_fbank")
    complete(mfcc.run(timing=QUICK), {mfcc.KALDI, mfcc.LIBROSA})


def test_loader() -> None:
    pytest.importorskip("allophone_starter")
    result = loader.run(timing=QUICK)
    complete(result, {loader.PLAIN})
    assert 0 <= result["padding"][OURS] < 1


def test_an_epoch_with_other_samples_is_not_the_same() -> None:
    one = [("a", 10, 1.0), ("b", 20, 2.0)]
    assert loader.same(one, one)
    assert not loader.same(one, [("a", 10, 1.0), ("b", 20, 3.0)])
    assert not loader.same(one, one[:1])


def test_ways_take_turns_and_ratios_are_medians() -> None:
    order: list[str] = []
    ways = {name: (lambda name=name: order.append(name)) for name in ("x", "y", "z")}
    times = alternated(ways, 3, clock=iter(range(100)).__next__)
    assert "".join(order) == "xyzyzxzxy"
    assert times == {"x": [1, 1, 1], "y": [1, 1, 1], "z": [1, 1, 1]}
    measured = Measured(
        name="n", seconds={OURS: [1.0, 2.0, 4.0], "p": [2.0, 2.0, 2.0]}, amount=10.0, unit="u", equal=True
    )
    result = measured.result()
    assert (result["ours"], result["peers"], result["ratio"]) == (5.0, {"p": 5.0}, 1.0)


def test_no_pairs_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1 pair; got pairs 0"):
        Timing(pairs=0)


def test_clips_use_all_of_the_recording_and_keep_to_the_lengths() -> None:
    speech = torch.arange(16_000.0 * 20)
    clips = cut_clips(speech, shortest=1.0, longest=4.0, seed=0)
    assert torch.equal(torch.cat(clips), speech)
    assert all(16_000 <= len(clip) <= 16_000 * 5 for clip in clips)
    assert len({len(clip) for clip in clips}) > 3


def test_batches_keep_their_padded_size() -> None:
    clips = [torch.zeros(16_000 * seconds) for seconds in (1, 1, 2, 9, 3)]
    assert batches_of(clips, 4.0) == [[0, 1], [2], [3], [4]]
    assert batches_of(clips, 6.0) == [[0, 1, 2], [3], [4]]


def test_operations_of_a_step_are_three_forward_passes_over_real_samples() -> None:
    config = published_config("hubert-base")
    one = useful_operations(config, torch.tensor([160_000]))
    assert one / 10 == pytest.approx(3 * 14.8e9, rel=0.01)
    assert useful_operations(config, torch.tensor([160_000, 160_000])) == 2 * one


def test_the_best_rate_is_no_less_than_that_of_pytorch() -> None:
    rates = matmul_rate(torch.float32, QUICK)
    assert rates["best"] >= rates["pytorch"] > 0


def test_an_environment_that_cannot_be_made_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(environments.RECIPES, "nobody", environments.Recipe(wheels=("/no/such/file.whl",)))
    with pytest.raises(AllophoneError, match=r"pip install failed: .*wheel filename"):
        environments.environment(tmp_path, "nobody")
    assert not (tmp_path / "nobody" / "complete").exists()


def test_a_complete_environment_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "fairseq").mkdir()
    (tmp_path / "fairseq" / "complete").touch()
    assert environments.environment(tmp_path, "fairseq").parts[-3] == "fairseq"


def test_units_scale_reads_every_recording_of_the_larger_amount() -> None:
    pytest.importorskip("allophone_starter")
    few, more = (units_scale.measure(hours, "cpu", 1) for hours in (0.005, 0.015))
    assert more["recordings"] > few["recordings"] > 0
    assert few["peak_bytes"] > 0 and few["seconds"] > 0
    with pytest.raises(ConfigError, match="expected more than 0"):
        units_scale.run(hours=0)
