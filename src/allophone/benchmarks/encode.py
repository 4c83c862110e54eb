"""Ragged clips of real speech through HuBERT or WavLM of Base size, random weights: ours against ``transformers``.

Its best settings are clips sorted by length, batches of bounded padded size, an attention mask, SDPA and the same
dtype; its defaults float32 and padded batches in the order of the corpus. Clip by clip it wastes nothing on padding and
is what our output is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModel

from allophone.benchmarks.speech import batches_of, recorded_clips
from allophone.benchmarks.timing import OURS, Measured, Timing, alternated
from allophone.errors import ConfigError, suggest
from allophone.frames import samples_to_seconds
from allophone.models import hubert, wavlm
from allophone.models.waveform_encoder import WaveformConfig, WaveformEncoder

BATCH_SECONDS = 30.0
DEFAULT_BATCH = 8
SORTED = "transformers, sorted, padded, sdpa"
DEFAULTS = "transformers, defaults (float32, unsorted, padded)"
ALONE = "transformers, clip by clip"
MODELS = ("hubert-base", "wavlm-base")
Dtype = Literal["float32", "bfloat16"]
LEAST_COSINE = {"float32": 0.9999, "bfloat16": 0.99}
"""In every frame, against ``transformers`` in float32, clip by clip."""
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def run(
    *,
    model: str = "hubert-base",
    dtype: Dtype = "float32",
    seconds: float = 600.0,
    device: str = "cpu",
    timing: Timing | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Time the ways.

    Args:
        model: ``hubert-base`` or ``wavlm-base``.
        dtype: Of weights and activations, ours and the peer's; its defaults stay in float32.
        seconds: Audio in all.
        device: Where.
        timing: Rounds and clock.
        progress: Called with (done, total) after each run of one way.

    Returns:
        See :meth:`allophone.benchmarks.timing.Measured.result`.

    Raises:
        ConfigError: There is no such model.
    """
    timing = timing or Timing()
    clips = recorded_clips(min(seconds, 6.0), longest=2.0) if timing.quick else recorded_clips(seconds)
    clips = [clip.to(device) for clip in clips]
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    encoder = make_encoder(model, tiny=timing.quick).to(device).eval()
    plain = transformers_model(encoder).to(device)
    peer = transformers_model(encoder).to(device, kind)
    encoder.to(kind)
    ways: dict[str, Callable[[], list[Tensor]]] = {
        OURS: lambda: encode_sorted(encoder, clips),
        SORTED: lambda: _padded(peer, clips, _sorted_batches(clips), masked=True),
        ALONE: lambda: [peer(clip[None].to(kind)).last_hidden_state[0] for clip in clips],
        DEFAULTS: lambda: _padded(plain, clips, _chunks(len(clips)), masked=False),
    }

    def waited(way: Callable[[], Any]) -> Callable[[], Any]:
        def call() -> None:
            way()
            if device.startswith("cuda"):
                torch.cuda.synchronize()

        return call

    with torch.inference_mode():
        reference = [plain(clip[None]).last_hidden_state[0] for clip in clips]
        least = least_cosine(ways[OURS](), reference)
        lowest_theirs = least_cosine(ways[ALONE](), reference)
        times = alternated({name: waited(way) for name, way in ways.items()}, timing.pairs, timing.now(), progress)
    return Measured(
        name=f"encode {model} {dtype}",
        seconds=times,
        amount=samples_to_seconds(sum(len(clip) for clip in clips)),
        unit="seconds of audio a second",
        equal=least > LEAST_COSINE[dtype],
        more={"least_cosine": least, "least_cosine_of_peer": lowest_theirs, "clips": len(clips)},
    ).result()


def make_encoder(model: str, *, tiny: bool = False) -> WaveformEncoder:
    """An encoder with random weights; ``tiny`` keeps the front end's shape and little else.

    Raises:
        ConfigError: There is no such model.
    """
    if model not in MODELS:
        raise ConfigError(f"No encoder '{model}' to time. {suggest(model, MODELS)}")
    changes: dict[str, Any] = {**TINY, "conv_dim": (32,) * 7} if tiny else {}
    if model == "hubert-base":
        return hubert.Hubert(replace(hubert.published_config(model), **changes))
    return wavlm.Wavlm(replace(wavlm.published_config(model), **changes))


def transformers_model(encoder: WaveformEncoder) -> Any:
    """The same weights as a ``transformers`` model, in evaluation."""
    model = AutoModel.from_config(AutoConfig.for_model(**to_transformers(encoder.config)))
    model.load_state_dict(encoder.state_dict())
    return model.eval()


def to_transformers(config: WaveformConfig) -> dict[str, Any]:
    """What ``transformers`` makes its config from."""
    convert: Any = wavlm.to_transformers if isinstance(config, wavlm.WavlmConfig) else hubert.to_transformers
    values: dict[str, Any] = convert(config)
    return values


def encode_sorted(encoder: WaveformEncoder, clips: Sequence[Tensor]) -> list[Tensor]:
    """Last hidden states ``(T, D)`` of clips ``(S,)``, in their order."""
    outputs: list[Tensor] = list(clips)
    for batch in _sorted_batches(clips):
        lengths = torch.tensor([len(clips[index]) for index in batch])
        padded = pad_sequence([clips[index] for index in batch], batch_first=True)
        states = encoder(padded, lengths).hidden_states[-1].split()
        for index, state in zip(batch, states, strict=True):
            outputs[index] = state
    return outputs


def least_cosine(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Of all frames of all clips, ``(T, D)`` each; -1 where shapes differ."""
    if any(a.shape != b.shape for a, b in zip(one, other, strict=True)):
        return -1.0
    return min(
        float(torch.cosine_similarity(a.float(), b.float(), dim=-1).min()) for a, b in zip(one, other, strict=True)
    )


def _sorted_batches(clips: Sequence[Tensor]) -> list[list[int]]:
    order = sorted(range(len(clips)), key=lambda index: len(clips[index]))
    return [[order[place] for place in batch] for batch in batches_of([clips[i] for i in order], BATCH_SECONDS)]


def _chunks(number: int) -> list[list[int]]:
    return [list(range(start, min(number, start + DEFAULT_BATCH))) for start in range(0, number, DEFAULT_BATCH)]


def _padded(model: Any, clips: Sequence[Tensor], batches: Sequence[Sequence[int]], *, masked: bool) -> list[Tensor]:
    """Padded outputs ``(B, T, D)`` of each batch; where ``masked``, attention leaves the padding out."""
    outputs = []
    for batch in batches:
        rows = [clips[index] for index in batch]
        padded = pad_sequence(rows, batch_first=True).to(model.dtype)
        mask = pad_sequence([torch.ones(len(row), dtype=torch.long, device=row.device) for row in rows], True)
        outputs.append(model(padded, attention_mask=mask if masked else None).last_hidden_state)
    return outputs
