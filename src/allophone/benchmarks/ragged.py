"""Sixteen clips of very different length through HuBERT Base: packed against padded ``transformers``.

Peers: ``transformers`` on the zero-padded batch, which is what its feature extractor makes, and ``transformers`` clip
by clip, which wastes nothing on padding. All run the same random weights in float32 in the same process, alternated.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModel

from allophone.benchmarks.timing import alternated, machine
from allophone.errors import ConfigError
from allophone.frames import samples_to_seconds, seconds_to_samples
from allophone.models.hubert import Hubert, HubertConfig, published_config, to_transformers
from allophone.seeding import torch_generator

NUM_CLIPS, SHORTEST_SECONDS, LONGEST_SECONDS = 16, 0.5, 15.0
PADDED, ALONE = "transformers, padded batch", "transformers, clip by clip"


def run(
    *,
    pairs: int = 5,
    config: HubertConfig | None = None,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Time the three ways.

    Args:
        pairs: Timed rounds; each round runs every way once.
        config: Architecture; None is HuBERT Base.
        clock: Seconds. ``time.process_time`` counts this process's work only, for a machine shared with others.
        progress: Called with (done, total) after each run of one way.

    Returns:
        ``name``, ``ours``, ``peers``, ``unit``, ``ratio`` (ours over the best peer, above 1 = faster), ``ratios``,
        ``equal_output`` (cosine > 0.9999 in every frame of every clip with ``transformers`` clip by clip), ``machine``.

    Raises:
        ConfigError: ``pairs`` is less than 1.
    """
    if pairs < 1:
        raise ConfigError(f"ragged: pairs must be at least 1; got {pairs}.")
    config = config or published_config("hubert-base")
    torch.manual_seed(0)
    encoder = Hubert(config).eval()
    peer = _transformers_model(encoder)
    waveforms = clips()
    padded = pad_sequence(waveforms, batch_first=True)
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    ways: dict[str, Callable[[], Any]] = {
        "allophone": lambda: encoder(padded, lengths).hidden_states[-1].split(),
        PADDED: lambda: peer(padded).last_hidden_state,
        ALONE: lambda: [peer(waveform[None]).last_hidden_state[0] for waveform in waveforms],
    }
    with torch.inference_mode():
        equal = equal_frames(ways["allophone"](), ways[ALONE]())
        seconds = alternated(ways, pairs, clock, progress)
    audio = samples_to_seconds(int(lengths.sum()))
    speed = {name: audio / statistics.median(values) for name, values in seconds.items()}
    ours = speed.pop("allophone")
    ratios = {
        name: statistics.median(theirs / own for own, theirs in zip(seconds["allophone"], seconds[name], strict=True))
        for name in speed
    }
    return {
        "name": "ragged",
        "ours": ours,
        "peers": speed,
        "unit": "seconds of audio a second",
        "ratio": min(ratios.values()),
        "ratios": ratios,
        "equal_output": equal,
        "machine": machine(),
    }


def clips() -> list[Tensor]:
    """Noise of 0.5 to 15 s, lengths evenly spread and shuffled; shape ``(S,)`` each, the same every time."""
    generator = torch_generator(0, "ragged")
    steps = torch.randperm(NUM_CLIPS, generator=generator).tolist()
    spread = (LONGEST_SECONDS - SHORTEST_SECONDS) / (NUM_CLIPS - 1)
    lengths = [seconds_to_samples(SHORTEST_SECONDS + spread * step) for step in steps]
    return [0.1 * torch.randn(samples, generator=generator) for samples in lengths]


def equal_frames(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether every frame points the same way. Each: shape ``(T, D)`` per clip."""
    return all(
        a.shape == b.shape and bool((torch.cosine_similarity(a, b, dim=-1) > 0.9999).all())
        for a, b in zip(one, other, strict=True)
    )


def _transformers_model(encoder: Hubert) -> Any:
    """The same weights as a ``transformers`` model."""
    values = to_transformers(encoder.config)
    model = AutoModel.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
    model.load_state_dict(encoder.state_dict())
    return model.eval()
