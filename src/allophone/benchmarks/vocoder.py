"""Units to speech on one core by the published unit HiFi-GAN, random weights: ours against ``transformers``.

Both predict durations and speak utterance by utterance; the unit of the result, seconds of speech a second, says how
many times faster than real time a vocoder is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import SeamlessM4Tv2Config
from transformers.models.seamless_m4t_v2.modeling_seamless_m4t_v2 import SeamlessM4Tv2CodeHifiGan

from allophone.benchmarks.timing import OURS, Measured, Timing, alternated
from allophone.frames import samples_to_seconds
from allophone.models.unit_vocoder import UnitVocoder, UnitVocoderConfig, pack_units
from allophone.models.vocoder_conversion import to_transformers
from allophone.seeding import torch_generator

THEIRS = "transformers"
PUBLISHED = UnitVocoderConfig(num_units=1000, num_speakers=200, speaker_dim=128)
"""Polyak et al. 2021 with speakers: 20-ms units, 16 kHz."""
TOLERANCE = 1e-4
UTTERANCES, RUNS = 4, 100
"""Utterances, and units without repeats in each: some ten seconds of speech in all."""


def run(
    *, threads: int = 1, timing: Timing | None = None, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Time both.

    Args:
        threads: Of torch, while it runs.
        timing: Rounds and clock.
        progress: Called with (done, total) after each run of one way.

    Returns:
        See :meth:`allophone.benchmarks.timing.Measured.result`.
    """
    timing = timing or Timing()
    config = replace(PUBLISHED, channels=32, num_units=50) if timing.quick else PUBLISHED
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            return _timed(config, timing, progress)
    finally:
        torch.set_num_threads(before)


def _timed(config: UnitVocoderConfig, timing: Timing, progress: Callable[[int, int], None] | None) -> dict[str, Any]:
    ours, theirs = vocoders(config)
    generator = torch_generator(0, "benchmark vocoder")
    length = 6 if timing.quick else RUNS
    # 2 and above: transformers takes unit 1 for padding when it counts samples.
    rows = [torch.randint(2, config.num_units, (length,), generator=generator) for _ in range(UTTERANCES)]
    rows = [torch.unique_consecutive(row) for row in rows]
    zero = torch.zeros(1, dtype=torch.long)

    def speak() -> list[Tensor]:
        return [ours(ours.lengthened(pack_units([row])), zero, zero).values for row in rows]

    def speak_theirs() -> list[Tensor]:
        return [theirs(row[None], zero[None], zero[None])[0][0] for row in rows]

    pairs = list(zip(speak(), speak_theirs(), strict=True))
    largest = max(float((mine - other).abs().max()) for mine, other in pairs)
    seconds = samples_to_seconds(sum(len(mine) for mine, _ in pairs))
    times = alternated({OURS: speak, THEIRS: speak_theirs}, timing.pairs, timing.now(), progress)
    result = Measured(
        name="vocoder",
        seconds=times,
        amount=seconds,
        unit="seconds of speech a second",
        equal=largest <= TOLERANCE,
        more={"largest_difference": largest, "speech_seconds": seconds},
    ).result()
    return {**result, "faster_than_real_time": result["ours"] > 1}


def vocoders(config: UnitVocoderConfig) -> tuple[UnitVocoder, Any]:
    """Ours and theirs with the same random weights, loud enough to differ and with units of several frames."""
    values = {k: v for k, v in to_transformers(config).items() if k not in ("architectures", "model_type", "dtype")}
    torch.manual_seed(0)
    ours = UnitVocoder(config).eval()
    for name, parameter in ours.named_parameters():
        if "hifi_gan" in name and "weight" in name:
            parameter.data.normal_(std=(2.0 / parameter[0].numel()) ** 0.5)
    ours.dur_predictor.proj.bias.data.fill_(1.2)
    theirs: Any = SeamlessM4Tv2CodeHifiGan(SeamlessM4Tv2Config(**values)).eval()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs
