"""How claims score an encoder: what a linear probe reads off its frozen frames, of clean and of disturbed speech."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from allophone.data.corpus import Corpus
from allophone.data.utterance import Utterance
from allophone.errors import ConfigError
from allophone.evaluate.claim import Observation, Scale
from allophone.evaluate.probes import CTCProbeConfig, chance_text_errors, linear_ctc_probe
from allophone.evaluate.protocol import FrameSource
from allophone.evaluate.sources import EncoderSource, FilterbankSource, extract_all
from allophone.models.build import Encoder, build_encoder
from allophone.models.multi_resolution import FusedEncoder
from allophone.recipes.claims.trial import Trial
from allophone.recipes.ledger import draw_rows, main_voices, spoken
from allophone.run.config import RunConfig
from allophone.run.execute import fit_threads
from allophone.seeding import derive, torch_generator

CHARACTER_ERROR = Scale(
    measure="character_error",
    title="Character error of a linear probe",
    unit="points",
    factor=100.0,
    higher_is_better=False,
    explanation="A very small reader is trained on the frozen encoder to write down what is said. "
    "Share of letters that are wrong in sentences it never saw.",
)
OUTPUTS_A_SECOND = 25.0
"""CTC steps a second where the frame rate allows it, so that encoders of several rates are read alike."""
Disturbance = Callable[[Utterance, Tensor], Tensor]
"""An utterance and its waveform ``(S,)`` to another waveform of the same length."""
SNRS = (20, 10, 5, 0)
"""Decibels."""


def source_of(trial: Trial, encoder: Encoder | None, like: RunConfig, stack: int) -> FrameSource | None:
    """Frames of the trial's row: those of an encoder, of one with random weights, of filter banks, or none (chance).

    Args:
        trial: Says which row and seed.
        encoder: That of a trained row.
        like: Its encoder config is that of the random row.
        stack: 10-ms frames that make one frame of the filter-bank row.

    Raises:
        ConfigError: The row has no encoder and is none of the untrained ones.
    """
    if encoder is not None:
        fit_threads(encoder)
        if isinstance(encoder, FusedEncoder) and encoder.config.join == "sum":
            return ParallelSource(trial.arm, encoder)
        return EncoderSource(trial.arm, encoder)
    match trial.arm:
        case "random encoder":
            torch.manual_seed(derive(trial.seed, "random encoder"))
            return EncoderSource(trial.arm, build_encoder(like.encoder).eval())
        case "filter bank":
            return FilterbankSource(stack)
        case "chance":
            return None
        case _:
            raise ConfigError(f"Arm {trial.arm!r} has no encoder; expected one, or 'chance' or another untrained row.")


class ParallelSource:
    """All layers of all branches of a parallel fusion at its frame rate, so that a probe learns their weights."""

    def __init__(self, name: str, encoder: FusedEncoder) -> None:
        self.name = name
        self.encoder = encoder
        self.layers = sum(branch.num_hidden_layers + 1 for branch in encoder.config.branches)
        self.frame_rate = float(encoder.clock.rate)

    @torch.inference_mode()
    def extract(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """One ``(layers, frames, dim)`` tensor per waveform ``(S,)``."""
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        states = self.encoder.eval().branch_layers(pad_sequence(list(waveforms), batch_first=True), lengths)
        stacked = torch.stack([state.values for state in states]).clone()
        return list(stacked.split(states[0].lengths, dim=1))


def reading_errors(
    trial: Trial,
    source: FrameSource | None,
    language: str,
    conditions: Mapping[str, Disturbance | None],
) -> list[Observation]:
    """Character errors of a probe that learns from clean training clips and reads held-out ones under each condition.

    Args:
        trial: Corpus, seed and how much.
        source: Frames; None = chance, each clip read as some training text.
        language: Of the clips, of voices that have a training split.
        conditions: Name to what is done to the test clips; None = nothing.
    """
    corpus = trial.corpus.where(language=language)
    with_text = [row for row in main_voices(corpus) if row.text]
    train_rows = draw_rows([row for row in with_text if row.split == "train"], trial.effort.train_clips)
    test_rows = draw_rows([row for row in with_text if row.split == "test"], trial.effort.test_clips)
    train, test = spoken(corpus, train_rows), spoken(corpus, test_rows)
    texts = [[text or "" for text in side.texts] for side in (train, test)]
    many = texts[1] * len(conditions)
    if source is None:
        counts = chance_text_errors(texts[0], texts[1], language=corpus.languages[0], seed=trial.seed)
        return [
            _observation(trial, name, test.ids[: len(counts.errors)], counts.errors, counts.lengths)
            for name in conditions
        ]
    waveforms: list[Tensor] = []
    for disturb in conditions.values():
        waveforms += [
            waveform if disturb is None else disturb(row, waveform)
            for row, waveform in zip(test_rows, test.waveforms, strict=True)
        ]
    result = linear_ctc_probe(
        extract_all(source, train.waveforms),
        texts[0],
        extract_all(source, waveforms),
        many,
        language=corpus.languages[0],
        config=CTCProbeConfig(
            outputs_per_frame=max(1, round(OUTPUTS_A_SECOND / source.frame_rate)),
            steps=trial.effort.probe_steps,
            seed=trial.seed,
        ),
    )
    errors, lengths = np.asarray(result.counts.errors), np.asarray(result.counts.lengths)
    where, clip = np.divmod(np.array(result.utterances), len(test_rows))
    found = []
    for number, name in enumerate(conditions):
        own = where == number
        ids = tuple(test.ids[index] for index in clip[own])
        found.append(_observation(trial, name, ids, errors[own], lengths[own]))
    return found


def _observation(trial: Trial, condition: str, items: tuple[str, ...], errors: object, lengths: object) -> Observation:
    return Observation(
        arm=trial.arm,
        measure=CHARACTER_ERROR.measure,
        condition=condition,
        seed=trial.seed,
        items=items,
        numerators=np.asarray(errors, dtype=np.float64),
        denominators=np.asarray(lengths, dtype=np.float64),
    )


def noises(corpus: Corpus, language: str, babble_languages: tuple[str, ...]) -> dict[str, Disturbance]:
    """Speech-shaped noise and babble at each of :data:`SNRS`, the same for every arm and seed.

    Speech-shaped noise is Gaussian with the mean spectrum of the language's test clips. Babble is four held-out
    utterances of other languages at a time, each at the same power, repeated until the clip is full. Both are measured
    against the mean power of the clip. Which noises the paper's readers meet is not published; these two are ours.

    Returns:
        ``"babble 5 dB"`` and so on, to the disturbance.
    """
    voices = [row for name in babble_languages for row in corpus.where(language=name) if row.split == "test"]
    babblers = draw_rows(voices, 40)
    talk = [corpus.audio(row) for row in babblers]
    own = corpus.where(language=language)
    spectrum = mean_spectrum([own.audio(row) for row in draw_rows([r for r in own if r.split == "test"], 40)])

    def disturb(kind: str, snr: int) -> Disturbance:
        def apply(row: Utterance, waveform: Tensor) -> Tensor:
            generator = torch_generator(0, "claim noise", kind, row.id)
            if kind == "babble":
                noise = babble(talk, len(waveform), generator)
            else:
                noise = shaped_noise(spectrum, len(waveform), generator)
            return add_noise(waveform, noise, snr)

        return apply

    kinds: tuple[Literal["babble", "speech-shaped"], ...] = ("babble", "speech-shaped")
    return {f"{kind} {snr} dB": disturb(kind, snr) for kind in kinds for snr in SNRS}


SPECTRUM_BINS = 257


def mean_spectrum(waveforms: list[Tensor]) -> Tensor:
    """Root of the mean power of each frequency, all clips at the same power. Shape ``(257,)``."""
    window = torch.hann_window(2 * (SPECTRUM_BINS - 1))
    total = torch.zeros(SPECTRUM_BINS)
    for waveform in waveforms:
        level = waveform / waveform.square().mean().sqrt().clamp_min(1e-8)
        transform = torch.stft(level, len(window), window=window, return_complex=True)
        total += transform.abs().square().mean(dim=1)
    return (total / len(waveforms)).sqrt()


def shaped_noise(spectrum: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """Gaussian noise with this spectrum. Shape ``(samples,)``."""
    white = torch.fft.rfft(torch.randn(samples, generator=generator))
    shape = torch.nn.functional.interpolate(spectrum[None, None], size=len(white), mode="linear", align_corners=True)
    return torch.fft.irfft(white * shape[0, 0], n=samples)


def babble(talk: list[Tensor], samples: int, generator: torch.Generator, talkers: int = 4) -> Tensor:
    """Several utterances at once, each repeated and begun anywhere. Shape ``(samples,)``."""
    mixture = torch.zeros(samples)
    for number in torch.randperm(len(talk), generator=generator)[:talkers].tolist():
        voice = talk[number] / talk[number].square().mean().sqrt().clamp_min(1e-8)
        begin = int(torch.randint(len(voice), (), generator=generator))
        repeated = voice.roll(-begin).repeat(-(-samples // len(voice)))
        mixture += repeated[:samples]
    return mixture


def add_noise(waveform: Tensor, noise: Tensor, snr_db: float) -> Tensor:
    """Waveform and noise at a ratio of their mean powers. Shape ``(S,)``."""
    power, noise_power = waveform.square().mean(), noise.square().mean().clamp_min(1e-12)
    return waveform + noise * torch.sqrt(power / noise_power / 10 ** (snr_db / 10))
