"""Operations from a config, against what torch counts while the encoder runs; and what a plan says of an hour."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_hubert import TINY
from test_multi_resolution import BRANCHES, FUSIONS, PRE_NORM, TWO_RATES
from test_plan import RUN, SECOND
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from allophone.models import wavlm
from allophone.models.build import build_encoder
from allophone.models.cost import flop_per_hour, frame_milliseconds, multiplications
from allophone.models.hubert import published_config
from allophone.models.lasr import LasrConfig
from allophone.models.wav2vec2_bert import Wav2Vec2BertConfig
from allophone.models.whisper import WhisperConfig
from allophone.nn import products
from allophone.run.plan import Cost, compare_costs, plan_pretraining

SIZES: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
CONFIGS = {
    **dict(zip(("20 ms", "40 ms", "80 ms"), BRANCHES, strict=True)),
    "layer norm": replace(published_config("hubert-large"), **TINY),
    "wavlm": wavlm.WavlmConfig(**TINY, num_buckets=8, max_bucket_distance=20),
    "two rates": TWO_RATES,
    "pre-norm": PRE_NORM,
    "lasr": LasrConfig(**SIZES, subsampling_conv_channels=16, conv_kernel_size=5, num_mel_bins=40),
    "wav2vec2-bert": Wav2Vec2BertConfig(**SIZES, feature_stride=4),
    "whisper": WhisperConfig(
        d_model=24, encoder_layers=3, encoder_attention_heads=2, encoder_ffn_dim=32, max_source_positions=100
    ),
    **FUSIONS,
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_operations_are_those_that_torch_counts(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_ONEDNN", False)  # torch's counter does not know that operator
    encoder = build_encoder(config).eval()
    waveform = 0.1 * torch.randn(1, 40_000)
    lengths = torch.tensor([40_000])
    counter, mels = FlopCounterMode(display=False), FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        encoder(waveform, lengths)
    if isinstance(config, LasrConfig | Wav2Vec2BertConfig | WhisperConfig):
        with mels:
            encoder.features(waveform, lengths)
    counted = counter.get_total_flops() - mels.get_total_flops()
    assert 2 * multiplications(config, 40_000) == pytest.approx(counted, rel=0.02)  # pieces of the front end overlap


def test_slower_frames_cost_less_and_two_rates_lie_between() -> None:
    names = ("hubert-base", "hubert-base-40ms", "hubert-base-80ms")
    fast, slow, slowest = (flop_per_hour(published_config(name), 10.0) / 3600e9 for name in names)
    assert fast == pytest.approx(14.8, abs=0.1)  # GFLOP a second of audio, counted by hand
    assert slowest < slow < fast
    assert slow < flop_per_hour(CONFIGS["two rates"].__class__(), 10.0) / 3600e9 < fast


def test_rates_are_named() -> None:
    assert frame_milliseconds(TWO_RATES) == (20.0, 40.0)
    assert frame_milliseconds(FUSIONS["sum-repeat"]) == (20.0, 40.0, 80.0)
    assert frame_milliseconds(CONFIGS["lasr"]) == (40.0,)


def test_a_plan_says_what_an_hour_of_audio_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allophone.run.plan.timed", lambda work, repeats=3: work() or 1.0)
    plan = plan_pretraining([RUN, SECOND], hours=1.0)
    assert [cost.name for cost in plan.costs] == ["iteration-1", "iteration-2"]
    assert [cost.seconds for cost in plan.costs] == [1200.0, 1200.0]  # a second for a batch of three
    assert plan.costs[0].forward_flop == flop_per_hour(RUN.encoder, 1.0)
    assert "Once through an hour of audio:\n  iteration-1" in str(plan)
    compared = compare_costs({"one": RUN})
    assert (compared[0].clip_seconds, compared[0].seconds) == (5.0, 720.0)


def test_a_cost_is_a_line() -> None:
    cost = Cost(
        name="mr", milliseconds=(20.0, 40.0), parameters=1_600_000, forward_flop=7e11, clip_seconds=5.0, seconds=210.0
    )
    for part in ("mr", "20+40 ms", "1.6 M", "0.70 TFLOP", "2.10 with backward", "3.5 min (10.0 GFLOP/s)"):
        assert part in str(cost)
