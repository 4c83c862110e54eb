"""The ledger: what an encoder could do before a language was added, and what it can do after.

Every function scores one system on one language and gives :class:`Measurement`s; what is compared with what, and
whether a difference is real, is decided in ``measurements``. Shape letters: L layers, T frames, D dim, K units.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from allophone.data.collate import CollateConfig, Example
from allophone.evaluate.language_identification import identify_languages
from allophone.evaluate.masked_loss import masked_loss
from allophone.evaluate.measurements import Measurement, System
from allophone.evaluate.probes import CTCProbeConfig, ProbeResult, chance_text_errors, linear_ctc_probe
from allophone.evaluate.protocol import FrameSource
from allophone.evaluate.retrieval import PromptRetrieval, retrieve_prompts
from allophone.evaluate.sources import extract_all, mean_of_each
from allophone.frames import FrameClock
from allophone.seeding import derive, numpy_generator

CHOOSING_PROMPTS = 120
"""Prompts of the choosing voices on which a layer is picked."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """Utterances as a measure needs them."""

    ids: tuple[str, ...]
    waveforms: tuple[Tensor, ...]
    """Shape ``(S,)`` each, 16 kHz."""
    texts: tuple[str | None, ...]
    groups: tuple[str | None, ...]
    speakers: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def examples(self) -> list[Example]:
        """For masked prediction."""
        return [Example(name, waveform) for name, waveform in zip(self.ids, self.waveforms, strict=True)]


POSTERIOR_TEMPERATURE = 0.3
"""Cosines are divided by this before the softmax. Training divides by 0.1, which leaves nearly all mass on one unit;
0.3 found more prompts between the French voices and between the Spanish ones (docs/LOG.md)."""


class PosteriorSource:
    """What a model believes the units to be: square roots of the head's softened probabilities, one layer.

    The cosine of two such frames is the Bhattacharyya coefficient of their distributions.
    """

    layers = 1

    def __init__(self, name: str, method: Any) -> None:
        self.name = name
        self.method = method
        self.frame_rate = float(method.encoder.clock.rate)

    @torch.inference_mode()
    def extract(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """One ``(1, T, K * labels of one frame)`` tensor per waveform ``(S,)``; squares of a label add up to 1."""
        method = self.method
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        was_training = method.training
        method.eval()
        last = method.encoder(pad_sequence([w.float() for w in waveforms], batch_first=True), lengths).hidden_states[-1]
        projected = method.final_proj(last.values).unflatten(-1, (-1, method.config.projection_dim))
        method.train(was_training)
        table = method.label_embeddings[: method.config.num_units]
        cosines = F.normalize(projected, dim=-1) @ F.normalize(table, dim=-1).T
        roots = (cosines / POSTERIOR_TEMPERATURE).softmax(dim=-1).sqrt().flatten(-2)
        return [part[None].clone() for part in last.with_values(roots).split()]


def measure_masked_loss(
    system: System,
    method: Any,
    spoken: Spoken,
    units: Mapping[str, NDArray[np.integer]],
    clock: FrameClock,
    collate: CollateConfig,
    *,
    measure: str,
    language: str,
    seed: int,
) -> Measurement:
    """Masked-prediction loss of held-out utterances; masks are the same for every system and seed."""
    result = masked_loss(method, spoken.examples(), units, clock, collate, seed=0)
    return Measurement(
        measure=measure,
        language=language,
        system=system,
        seed=seed,
        items=spoken.ids,
        numerators=result.loss_sums,
        denominators=result.counts,
    )


def chance_masked_loss(
    like: Measurement, units: Mapping[str, NDArray[np.integer]], training: Sequence[str], num_units: int
) -> Measurement:
    """Loss of guessing every unit by how often it occurs in training, whatever is heard."""
    counts = np.ones(num_units)
    for name in training:
        counts += np.bincount(units[name].ravel(), minlength=num_units)
    surprise = -np.log(counts / counts.sum())
    mean = np.array([surprise[units[name].ravel()].mean() for name in like.items])
    return replace(like, system="chance", numerators=mean * like.denominators)


def choose_layer(source: FrameSource, first: Spoken, second: Spoken) -> int:
    """Index of the layer that finds the same prompt best between two voices that are not those reported on."""
    frames = [extract_all(source, spoken.waveforms) for spoken in (first, second)]
    recalls = [_retrieve(frames, (first, second), layer, "frames").recall(1) for layer in range(source.layers)]
    return int(np.argmax(recalls))


def measure_retrieval(
    system: System,
    source: FrameSource,
    layer: int,
    first: Spoken,
    second: Spoken,
    *,
    language: str,
    seed: int,
    measures: Sequence[str] = ("retrieval_dtw", "retrieval_mean"),
) -> list[Measurement]:
    """Same-prompt retrieval between two voices, both directions.

    ``retrieval_mean`` pools over time, every other measure warps time over all frames. Frames are standardized by
    voice; ``retrieval_posteriors`` are probabilities and stay as they are.
    """
    frames = [extract_all(source, spoken.waveforms) for spoken in (first, second)]
    found = []
    for measure in measures:
        representation = "mean" if measure == "retrieval_mean" else "frames"
        standardize = measure != "retrieval_posteriors"
        result = _retrieve(frames, (first, second), layer, representation, standardize=standardize)
        found.append(_as_measurement(result, (first, second), measure, language, system, seed))
    return found


def chance_retrieval(like: Measurement, first: Spoken, second: Spoken) -> Measurement:
    """The hits of a random ranking: of all candidates, the share that is right, in every query."""
    shared = set(first.groups) & set(second.groups)
    sides = [[group for group in side.groups if group in shared] for side in (first, second)]
    times = [Counter(side) for side in sides]
    shares = [
        others[group] / others.total() for side, others in zip(sides, reversed(times), strict=True) for group in side
    ]
    return replace(like, system="chance", numerators=np.array(shares))


def measure_text(
    system: System,
    source: FrameSource,
    train: Spoken,
    test: Spoken,
    *,
    language: str,
    seed: int,
    few: Sequence[int | None] = (None, 150),
    steps: int = 600,
    repeats: int = 1,
    outputs_a_second: float = 25.0,
) -> list[Measurement]:
    """Character error of a linear CTC probe with all and with few labelled clips.

    Each probe is trained ``repeats`` times, with its own draw of few clips, initialization and order, and the errors of
    a clip are added up: luck of a probe (up to a point) is smaller in the sum.
    """
    frames = [extract_all(source, spoken.waveforms) for spoken in (train, test)]
    texts = [[text or "" for text in spoken.texts] for spoken in (train, test)]
    found = []
    for number in few:
        results = [
            linear_ctc_probe(
                frames[0],
                texts[0],
                frames[1],
                texts[1],
                language=language,
                config=CTCProbeConfig(
                    outputs_per_frame=max(1, round(outputs_a_second / source.frame_rate)),
                    few=number,
                    steps=steps,
                    seed=seed if repeat == 0 else derive(seed, "probe repeat", repeat),
                ),
            )
            for repeat in range(repeats)
        ]
        found.append(_text_measurement(results, test, system, language, seed, number))
    return found


def chance_text(like: Measurement, train: Spoken, test: Spoken) -> Measurement:
    """Each test clip is read as some training text."""
    texts = [[text or "" for text in spoken.texts] for spoken in (train, test)]
    counts = chance_text_errors(texts[0], texts[1], language=like.language, seed=like.seed)
    return replace(
        like,
        system="chance",
        numerators=np.asarray(counts.errors, dtype=np.float64),
        denominators=np.asarray(counts.lengths, dtype=np.float64),
    )


def measure_languages(
    system: System,
    source: FrameSource,
    layer: int,
    train: Mapping[str, Spoken],
    test: Mapping[str, Spoken],
    *,
    seed: int,
) -> list[Measurement]:
    """Language identification, one measurement a language: hits on its held-out utterances."""
    pooled = [
        {language: mean_of_each(source, spoken.waveforms)[:, layer].numpy() for language, spoken in sets.items()}
        for sets in (train, test)
    ]
    labels = [[language for language, rows in sets.items() for _ in range(len(rows))] for sets in pooled]
    vectors = [np.concatenate(list(sets.values())) for sets in pooled]
    hits = identify_languages(vectors[0], labels[0], vectors[1], labels[1], seed=seed).hits
    found, position = [], 0
    for language, spoken in test.items():
        found.append(
            Measurement(
                measure="language_identification",
                language=language,
                system=system,
                seed=seed,
                items=spoken.ids,
                numerators=np.asarray(hits[position : position + len(spoken)], dtype=np.float64),
                denominators=np.ones(len(spoken)),
            )
        )
        position += len(spoken)
    return found


def sample_prompts(first: Spoken, second: Spoken, most: int) -> tuple[Spoken, Spoken]:
    """The same prompts of both voices, at most so many."""
    shared = sorted({g for g in first.groups if g is not None} & set(second.groups))
    order = numpy_generator(0, "choosing prompts").permutation(len(shared))[:most]
    chosen = {shared[index] for index in order}
    return tuple(select(s, [i for i, g in enumerate(s.groups) if g in chosen]) for s in (first, second))  # type: ignore[return-value]


def select(spoken: Spoken, indices: Sequence[int]) -> Spoken:
    """Some of the utterances."""
    fields = (spoken.ids, spoken.waveforms, spoken.texts, spoken.groups, spoken.speakers)
    return Spoken(*(tuple(values[index] for index in indices) for values in fields))  # type: ignore[arg-type]


def _retrieve(
    frames: Sequence[Sequence[Tensor]],
    spoken: tuple[Spoken, Spoken],
    layer: int,
    representation: Any,
    *,
    standardize: bool = True,
) -> PromptRetrieval:
    first, second = ([one[layer] for one in rows] for rows in frames)
    groups = (spoken[0].groups, spoken[1].groups)
    return retrieve_prompts(first, second, *groups, representation=representation, standardize=standardize, ks=(1,))


def _as_measurement(
    result: PromptRetrieval,
    spoken: tuple[Spoken, Spoken],
    measure: str,
    language: str,
    system: System,
    seed: int,
) -> Measurement:
    items = tuple(side.ids[index] for side, rows in zip(spoken, result.queries, strict=True) for index in rows)
    return Measurement(
        measure=measure,
        language=language,
        system=system,
        seed=seed,
        items=items,
        numerators=result.hits[1].astype(np.float64),
        denominators=np.ones(len(items)),
        groups=tuple(map(str, result.groups)),
    )


def _text_measurement(
    results: Sequence[ProbeResult], test: Spoken, system: System, language: str, seed: int, few: int | None
) -> Measurement:
    return Measurement(
        measure="character_error_all" if few is None else "character_error_150",
        language=language,
        system=system,
        seed=seed,
        items=tuple(test.ids[index] for index in results[0].utterances),
        numerators=np.sum([one.counts.errors for one in results], axis=0, dtype=np.float64),
        denominators=np.sum([one.counts.lengths for one in results], axis=0, dtype=np.float64),
    )
