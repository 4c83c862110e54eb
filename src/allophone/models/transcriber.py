"""Speech to the characters of its own language: an encoder with a linear layer for CTC.

Source: Graves et al. 2006, Connectionist temporal classification; on pretrained encoders as Baevski et al. 2020,
arXiv:2006.11477, section 3.2. Texts are normalized for their script before they become symbols.
Shape letters: B utterances, S samples, N frames of all, V symbols.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from allophone.batch import Packed
from allophone.errors import CheckpointError, ConfigError, DataError
from allophone.models.build import Encoder
from allophone.models.conversion import load_encoder, model_hash, replace_file, save_encoder, write_json
from allophone.nn.ctc import BLANK, prefix_search
from allophone.text.normalize import normalize

WEIGHTS_FILE, INFO_FILE = "transcriber.safetensors", "transcriber.json"
FORMAT = "allophone-transcriber-1"


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was heard."""

    text: str
    """Normalized."""
    confidence: float
    """Probability of the text over all paths, as a geometric mean over its characters and its end; 0 to 1."""


def alphabet_of(texts: Iterable[str], languages: Iterable[str]) -> tuple[str, ...]:
    """All characters of texts, normalized, in order.

    Raises:
        DataError: A language is unknown.

    Example:
        >>> alphabet_of(["Été!"], ["fra_Latn"])
        ('t', 'é')
    """
    pairs = zip(texts, languages, strict=True)
    return tuple(sorted({character for text, language in pairs for character in normalize(text, language)}))


class Transcriber(nn.Module):
    """An encoder and what makes characters of its frames.

    Args:
        encoder: The model; it becomes part of this one.
        alphabet: Characters, each once; symbol i + 1 is ``alphabet[i]``, symbol 0 the blank.
        dropout: Before the linear layer.

    Raises:
        ConfigError: The alphabet is empty, has a character twice or something that is not one character.
    """

    def __init__(self, encoder: Encoder, alphabet: Sequence[str], dropout: float = 0.1) -> None:
        super().__init__()
        if not alphabet or len(set(alphabet)) != len(alphabet) or any(len(character) != 1 for character in alphabet):
            raise ConfigError(f"An alphabet needs single characters, each once; got {list(alphabet)[:20]}.")
        self.encoder = encoder
        self.clock = encoder.clock
        self.alphabet = tuple(alphabet)
        self._numbers = {character: number for number, character in enumerate(alphabet, start=BLANK + 1)}
        self.dropout = nn.Dropout(dropout)
        self.lm_head = nn.Linear(encoder.dim, len(alphabet) + 1)

    def forward(self, waveform: Tensor, waveform_lengths: Tensor) -> Packed:
        """Scores of the symbols.

        Args:
            waveform: Shape ``(B, S)``, float32 in [-1, 1], 16 kHz; what stands beyond a length has no effect.
            waveform_lengths: Shape ``(B,)``, int64, samples.

        Returns:
            Logits, packed, ``(N, V)``.

        Raises:
            ShapeError: Shapes disagree, or an utterance is shorter than one frame.
        """
        hidden: Packed = self.encoder(waveform, waveform_lengths).hidden_states[-1]
        return hidden.with_values(self.lm_head(self.dropout(hidden.values)))

    def symbols(self, text: str, language: str) -> list[int]:
        """Numbers of a text's characters.

        Raises:
            DataError: A character is not in the alphabet, or the language is unknown.
        """
        written = normalize(text, language)
        unknown = sorted(set(written) - self._numbers.keys())
        if unknown:
            raise DataError(
                f"{unknown} of {text!r} ({language}) are not in the alphabet of {len(self.alphabet)} characters. Make "
                "it from all texts that are to be learned."
            )
        return [self._numbers[character] for character in written]

    def spell(self, symbols: Iterable[int]) -> str:
        """The text of symbols."""
        return "".join(self.alphabet[symbol - 1] for symbol in symbols)

    @torch.no_grad()
    def transcribe(self, waveform: Tensor, waveform_lengths: Tensor, *, width: int = 16) -> list[Transcript]:
        """What is said in each utterance.

        Args:
            waveform: Shape ``(B, S)``, float32 in [-1, 1], 16 kHz.
            waveform_lengths: Shape ``(B,)``, int64, samples.
            width: Texts kept from frame to frame; 1 takes the most probable symbol of each frame.

        Raises:
            ConfigError: ``width`` is less than 1.
            ShapeError: Shapes disagree, or an utterance is shorter than one frame.
        """
        training = self.training
        self.eval()
        logits = self(waveform, waveform_lengths)
        self.train(training)
        found = []
        for scores in logits.split():
            likely = scores.float().log_softmax(dim=-1).cpu()
            symbols = best_path(likely) if width == 1 else prefix_search(likely, width)
            found.append(Transcript(self.spell(symbols), _confidence(likely, symbols)))
        return found

    def head_tensors(self) -> dict[str, Tensor]:
        """The linear layer, by name, on the CPU in float32."""
        state = self.lm_head.state_dict(prefix="lm_head.")
        return {name: value.detach().float().cpu().contiguous() for name, value in state.items()}


def best_path(log_probabilities: Tensor) -> list[int]:
    """The most probable symbol of each frame, repeats and blanks left out.

    Args:
        log_probabilities: Shape ``(T, V)``; symbol 0 is the blank.

    Example:
        >>> best_path(torch.tensor([[0.1, 0.9], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]]).log())
        [1, 1]
    """
    path = torch.unique_consecutive(log_probabilities.argmax(dim=-1)).tolist()
    return [symbol for symbol in path if symbol != BLANK]


def _confidence(log_probabilities: Tensor, symbols: Sequence[int]) -> float:
    """Probability of a text over all paths to the power 1 / (characters + 1)."""
    loss = torch.nn.functional.ctc_loss(
        log_probabilities[:, None],
        torch.tensor([symbols], dtype=torch.int64),
        torch.tensor([len(log_probabilities)]),
        torch.tensor([len(symbols)]),
        reduction="sum",
    )
    return float((-loss / (len(symbols) + 1)).exp())


def save_transcriber(model: Transcriber, folder: str | Path, card: str, *, created_by: str = "allophone") -> Path:
    """Write an encoder's folder, which ``transformers`` reads, with the linear layer and its alphabet beside.

    Raises:
        CheckpointError: A parameter is not finite.
    """
    folder = Path(folder)
    tensors = model.head_tensors()
    if not all(bool(value.isfinite().all()) for value in tensors.values()):
        raise CheckpointError(f"{folder}: NaN or infinite values in lm_head. The training diverged.")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INFO_FILE).unlink(missing_ok=True)  # written last: whoever finds it finds all
    save_encoder(model.encoder, folder, card, created_by=created_by)
    replace_file(folder / WEIGHTS_FILE, save(tensors))
    info = {
        "format": FORMAT,
        "encoder": model_hash(model.encoder),
        "alphabet": list(model.alphabet),
        "dropout": model.dropout.p,
    }
    write_json(folder / INFO_FILE, info)
    return folder


def load_transcriber(folder: str | Path) -> Transcriber:
    """Read what :func:`save_transcriber` wrote, in float32 and evaluation mode, on the CPU.

    Raises:
        CheckpointError: A file is missing or damaged, or the files do not belong together.
    """
    folder = Path(folder)
    try:
        info = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
        if not isinstance(info, dict) or info.get("format") != FORMAT:
            raise CheckpointError(f"the format is not '{FORMAT}'. Update allophone.")
        encoder = load_encoder(folder)
        if info["encoder"] != (found := model_hash(encoder)):
            raise CheckpointError(f"was written for encoder {info['encoder']}; got {found} beside it.")
        model = Transcriber(encoder, info["alphabet"], info["dropout"])
        tensors = load_file(folder / WEIGHTS_FILE)
        model.lm_head.load_state_dict({name.removeprefix("lm_head."): value for name, value in tensors.items()})
    except (OSError, ValueError, KeyError, RuntimeError, ConfigError, CheckpointError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder / INFO_FILE}: {reason} Copy the folder again, or save it again.") from error
    return model.eval()
