"""Speech to the characters of its own language: an encoder with a linear layer for CTC, and a decoder beside it.

Source: Graves et al. 2006, Connectionist temporal classification; on pretrained encoders as Baevski et al. 2020,
arXiv:2006.11477, section 3.2. Texts are normalized for their script before they become symbols. The decoder, where
there is one, re-ranks the texts that CTC's search keeps: attention rescoring, Zhang et al. 2020, arXiv:2012.05481.
Shape letters: B utterances, S samples, N frames of all, T frames of the longest, L symbols of the longest, V symbols.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from allophone.batch import Packed
from allophone.errors import CheckpointError, ConfigError, DataError
from allophone.models.build import Encoder
from allophone.models.conversion import load_encoder, model_hash, replace_file, save_encoder, write_json
from allophone.models.token_decoder import IGNORED, shifted
from allophone.nn.ctc import BLANK, best_texts
from allophone.nn.decoder import Decoder, DecoderConfig
from allophone.text.normalize import normalize

WEIGHTS_FILE, INFO_FILE = "transcriber.safetensors", "transcriber.json"
FORMAT = "allophone-transcriber-1"
CTC_WEIGHT = 0.3
"""Of CTC beside the decoder, in the loss and in re-ranking (ESPnet: 0.3)."""
HEADS = (8, 4, 2, 1)
"""Of the decoder's attention: the first that divides the encoder's width."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class SpellingDecoderConfig:
    """A decoder beside CTC."""

    layers: int = 2
    """Layers; their width is the encoder's."""
    inner_dim: int = 1024
    """Width of the feed-forward part."""
    dropout: float = 0.1
    """Behind the embeddings and every part of a layer."""
    max_positions: int = 512
    """Longest text, start included; what is longer is cut in training and ranked by CTC alone."""


class Transcriber(nn.Module):
    """An encoder and what makes characters of its frames.

    Args:
        encoder: The model; it becomes part of this one.
        alphabet: Characters, each once; symbol i + 1 is ``alphabet[i]``, symbol 0 the blank, and the one behind all of
            them begins and ends a text for the decoder.
        dropout: Before the linear layer.
        decoder: Sizes of the decoder; None = CTC alone.

    Raises:
        ConfigError: The alphabet is empty, has a character twice or something that is not one character.
    """

    def __init__(
        self,
        encoder: Encoder,
        alphabet: Sequence[str],
        dropout: float = 0.1,
        decoder: SpellingDecoderConfig | None = None,
    ) -> None:
        super().__init__()
        if not alphabet or len(set(alphabet)) != len(alphabet) or any(len(character) != 1 for character in alphabet):
            raise ConfigError(f"An alphabet needs single characters, each once; got {list(alphabet)[:20]}.")
        self.encoder = encoder
        self.clock = encoder.clock
        self.alphabet = tuple(alphabet)
        self._numbers = {character: number for number, character in enumerate(alphabet, start=BLANK + 1)}
        self.dropout = nn.Dropout(dropout)
        self.lm_head = nn.Linear(encoder.dim, len(alphabet) + 1)
        self.edge = len(alphabet) + 1
        """Symbol that begins and ends a text."""
        self.decoder_config = decoder
        self.decoder = None if decoder is None else Decoder(_sizes(decoder, encoder.dim, self.edge + 1))

    def states(self, waveform: Tensor, waveform_lengths: Tensor) -> Packed:
        """Last hidden states of the encoder, packed, ``(N, D)``; arguments and errors as of :meth:`forward`."""
        hidden: Packed = self.encoder(waveform, waveform_lengths).hidden_states[-1]
        return hidden

    def spelled(self, states: Packed) -> Packed:
        """Scores of the symbols, packed, ``(N, V)``, of :meth:`states`."""
        return states.with_values(self.lm_head(self.dropout(states.values)))

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
        return self.spelled(self.states(waveform, waveform_lengths))

    def next_symbols(self, states: Packed, texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """What the decoder says of each symbol of the texts and of their ends.

        Args:
            states: Of :meth:`states`.
            texts: Symbols of each utterance.

        Returns:
            Logits ``(B, L, V + 1)`` and labels ``(B, L)``, int64, ``IGNORED`` behind the end; texts are cut to what the
            decoder has positions for.

        Raises:
            ConfigError: There is no decoder.
        """
        if self.decoder is None:
            raise ConfigError("This transcriber has no decoder beside CTC; build it with one.")
        most, device = self.decoder.config.max_positions - 1, states.values.device
        said = [[*text[:most], self.edge] for text in texts]
        targets = shifted(said, self.edge, BLANK, device)
        lengths = torch.tensor(states.lengths, device=device)
        logits: Tensor = self.decoder(targets.inputs, states.padded(), lengths)
        return logits, targets.labels

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
            width: Texts kept from frame to frame, which a decoder then re-ranks; 1 takes the most probable symbol of
                each frame, and no decoder has a say.

        Raises:
            ConfigError: ``width`` is less than 1.
            ShapeError: Shapes disagree, or an utterance is shorter than one frame.
        """
        training = self.training
        self.eval()
        states = self.states(waveform, waveform_lengths)
        found = []
        for scores, heard in zip(self.spelled(states).split(), states.split(), strict=True):
            likely = scores.float().log_softmax(dim=-1).cpu()
            symbols = best_path(likely) if width == 1 else self._ranked(heard, best_texts(likely, width))[0]
            found.append(Transcript(self.spell(symbols), _confidence(likely, symbols)))
        self.train(training)
        return found

    def _ranked(self, heard: Tensor, texts: Sequence[tuple[list[int], float]]) -> list[list[int]]:
        """Texts of one utterance ``(T, D)``, best first by CTC and decoder together."""
        symbols = [text for text, _ in texts]
        if self.decoder is None or max(map(len, symbols)) >= self.decoder.config.max_positions:
            return symbols
        states = Packed(heard.repeat(len(symbols), 1), (len(heard),) * len(symbols))
        logits, labels = self.next_symbols(states, symbols)
        real = labels != IGNORED
        said = logits.float().log_softmax(dim=-1).gather(2, labels.where(real, 0)[..., None])[..., 0]
        by_decoder = (said * real).sum(dim=1).tolist()
        scores = [
            CTC_WEIGHT * by_ctc + (1 - CTC_WEIGHT) * decoded
            for (_, by_ctc), decoded in zip(texts, by_decoder, strict=True)
        ]
        return [symbols[place] for place in sorted(range(len(scores)), key=lambda place: -scores[place])]

    def head_tensors(self) -> dict[str, Tensor]:
        """The linear layer and the decoder, by name, on the CPU in float32."""
        state = self.lm_head.state_dict(prefix="lm_head.")
        state |= {} if self.decoder is None else self.decoder.state_dict(prefix="decoder.")
        return {name: value.detach().float().cpu().contiguous() for name, value in state.items()}


def _sizes(config: SpellingDecoderConfig, dim: int, vocabulary: int) -> DecoderConfig:
    heads = next(number for number in HEADS if dim % number == 0)
    return DecoderConfig(vocabulary=vocabulary, dim=dim, heads=heads, pad=BLANK, **asdict(config))


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


def save_transcriber(
    model: Transcriber,
    folder: str | Path,
    card: str,
    *,
    parents: Sequence[str] = (),
    created_by: str = "allophone",
) -> Path:
    """Write an encoder's folder, which ``transformers`` reads, with the linear layer and its alphabet beside.

    Args:
        model: The model.
        folder: Where to.
        card: Text of ``README.md``, the model card.
        parents: Hashes of the models that the encoder was made from.
        created_by: The command or program that made it.

    Raises:
        CheckpointError: A parameter is not finite.
    """
    folder = Path(folder)
    tensors = model.head_tensors()
    if not all(bool(value.isfinite().all()) for value in tensors.values()):
        raise CheckpointError(f"{folder}: NaN or infinite values in lm_head or decoder. The training diverged.")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INFO_FILE).unlink(missing_ok=True)  # written last: whoever finds it finds all
    save_encoder(model.encoder, folder, card, parents=parents, created_by=created_by)
    replace_file(folder / WEIGHTS_FILE, save(tensors))
    info = {
        "format": FORMAT,
        "encoder": model_hash(model.encoder),
        "alphabet": list(model.alphabet),
        "dropout": model.dropout.p,
        "decoder": None if model.decoder_config is None else asdict(model.decoder_config),
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
        sizes = info.get("decoder")
        decoder = None if sizes is None else SpellingDecoderConfig(**sizes)
        model = Transcriber(encoder, info["alphabet"], info["dropout"], decoder)
        tensors = load_file(folder / WEIGHTS_FILE)
        for name, part in (("lm_head.", model.lm_head), ("decoder.", model.decoder)):
            if part is not None:
                own = {key.removeprefix(name): value for key, value in tensors.items() if key.startswith(name)}
                part.load_state_dict(own)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        RuntimeError,
        ConfigError,
        CheckpointError,
        SafetensorError,
    ) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder / INFO_FILE}: {reason} Copy the folder again, or save it again.") from error
    return model.eval()
