"""Speech in one language to text in another: an encoder, a length adaptor, a pretrained decoder, small adapters.

Source: Khurana et al. 2023, arXiv:2306.00789: both pretrained parts stay frozen, adapters of 75 M parameters in every
layer are trained. Their form is not published; here, two of 512 dims in each layer, after attention and after
feed-forward (Houlsby et al. 2019, arXiv:1902.00751), in the decoder after the attention to the speech. Length adaptor:
Li et al. 2021, arXiv:2010.12829.
Shape letters: B utterances, S samples, T states of the longest, L tokens, V vocabulary.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from allophone.batch import Packed
from allophone.config import from_dict, to_dict
from allophone.errors import CheckpointError, ConfigError, ShapeError
from allophone.models.build import (
    Encoder,
    attention_projections,
    feed_forward_projections,
)
from allophone.models.conversion import load_encoder, model_hash, replace_file, save_encoder, write_json
from allophone.models.small_decoder import SmallDecoder, load_small_decoder
from allophone.models.token_decoder import AdapterSite, SearchConfig, TokenDecoder
from allophone.nn.adapter import Adapter, LengthAdaptor

WEIGHTS_FILE, INFO_FILE = "translator.safetensors", "translator.json"
ENCODER_FOLDER, DECODER_FOLDER = "encoder", "decoder"
FORMAT = "allophone-translator-1"
NEW_PARTS = ("length_adaptor.", "adapters.")
"""What neither pretrained part has."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeechTranslatorConfig:
    """What joins encoder and decoder, and what is trained."""

    length_layers: int = 3
    """Convolutions of stride 2 between the two; three make 160 ms of 20 ms."""
    adapter_dim: int = 512
    """Bottleneck of the adapters, two in each layer; 0 puts in none."""
    training: Literal["adapters", "decoder", "full"] = "adapters"
    """Whether both pretrained parts stay as they are, the encoder alone does (for a new decoder, which then gets no
    adapters), or none does."""
    train_layer_norms: bool = True
    """Train the layer norms of a part that stays, too, as Houlsby et al. do."""

    def __post_init__(self) -> None:
        if min(self.length_layers, self.adapter_dim) < 0:
            raise ConfigError(f"A translator needs length_layers and adapter_dim of at least 0; got {self}.")

    @property
    def leaves_encoder_alone(self) -> bool:
        """Whether nothing of the encoder is trained, and nothing stands in it."""
        return self.training != "full" and self.adapter_dim == 0 and not self.train_layer_norms


@dataclass(frozen=True, slots=True)
class Translation:
    """One text that the search found."""

    text: str
    """Without special tokens."""
    tokens: tuple[int, ...]
    """Language, tokens, end."""
    confidence: float
    """Geometric mean of the probabilities of the tokens behind the language; 0 to 1."""


class SpeechTranslator(nn.Module):
    """An encoder, a length adaptor and a decoder, with adapters in the layers of both.

    Without a single update it says what the same parts say without adapters.

    Args:
        encoder: Hears; it becomes part of this model. One that learned meaning is read from the folder of its embedder
            by ``load_encoder``.
        decoder: Writes; it becomes part of this model.
        config: What joins them.
    """

    def __init__(self, encoder: Encoder, decoder: TokenDecoder, config: SpeechTranslatorConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.decoder = decoder
        self.clock = encoder.clock
        self.length_adaptor = LengthAdaptor(encoder.dim, decoder.dim, config.length_layers)
        self.adapters = nn.ModuleDict()
        if config.adapter_dim:
            self.adapters["encoder"] = _stand_behind(encoder_sites(encoder), config.adapter_dim)
            if config.training != "decoder":
                self.adapters["decoder"] = _stand_behind(decoder.sites, config.adapter_dim)
        self._freeze()

    def _freeze(self) -> None:
        """Set what is trained."""
        for part, stays in ((self.encoder, self.config.training != "full"), (self.decoder, self.decoder_stays)):
            part.requires_grad_(not stays)
            if stays and self.config.train_layer_norms:
                for parameter in layer_norms(part):
                    parameter.requires_grad_(True)
        for name, parameter in self.encoder.named_parameters():
            if name.endswith("masked_spec_embed"):  # stands for hidden frames, and none are hidden here
                parameter.requires_grad_(False)
        for name, parameter in self.decoder.named_parameters():
            if ".encoder." in name and ".decoder." not in name:  # what is left of the text encoder, which nothing reads
                parameter.requires_grad_(False)

    @property
    def decoder_stays(self) -> bool:
        """Whether the decoder is not trained, but for adapters and layer norms."""
        return self.config.training == "adapters"

    def train(self, mode: bool = True) -> SpeechTranslator:
        """As any module, but a frozen encoder stays in evaluation mode; the decoder keeps its own dropout."""
        super().train(mode)
        if self.config.training != "full":
            self.encoder.eval()
        return self

    def states(self, waveform: Tensor, waveform_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What the decoder attends to.

        Args:
            waveform: Shape ``(B, S)``, float32 in [-1, 1], 16 kHz; what stands beyond a length has no effect.
            waveform_lengths: Shape ``(B,)``, int64, samples.

        Returns:
            States, shape ``(B, T, E)``, and how many of each row are real, shape ``(B,)``, int64.

        Raises:
            ShapeError: Shapes disagree, or an utterance is shorter than one frame.
        """
        return self.shorten(self.encoder(waveform, waveform_lengths).hidden_states[-1])

    def shorten(self, hidden: Packed) -> tuple[Tensor, Tensor]:
        """What the decoder attends to, of the encoder's last states: ``(B, T, E)`` and how many are real, ``(B,)``."""
        shortened = self.length_adaptor(hidden)
        return shortened.padded(), torch.tensor(shortened.lengths, device=hidden.values.device)

    def forward(self, waveform: Tensor, waveform_lengths: Tensor, inputs: Tensor) -> Tensor:
        """Scores of the next token after each.

        Args:
            waveform: Shape ``(B, S)``, float32 in [-1, 1], 16 kHz.
            waveform_lengths: Shape ``(B,)``, int64, samples.
            inputs: What the decoder reads (:class:`~allophone.models.token_decoder.Targets`). Shape ``(B, L)``, int64.

        Returns:
            Logits. Shape ``(B, L, V)``.

        Raises:
            ShapeError: Shapes disagree, or an utterance is shorter than one frame.
        """
        states, lengths = self.states(waveform, waveform_lengths)
        logits: Tensor = self.decoder(states, lengths, inputs)
        return logits

    @torch.no_grad()
    def generate(
        self, waveform: Tensor, waveform_lengths: Tensor, languages: Sequence[str], config: SearchConfig
    ) -> list[Translation]:
        """Translate a batch, each utterance into its language.

        Args:
            waveform: Shape ``(B, S)``, float32 in [-1, 1], 16 kHz.
            waveform_lengths: Shape ``(B,)``, int64, samples.
            languages: B languages to translate into, as tags (``eng_Latn``, ``en``).
            config: Beams and length.

        Returns:
            B translations, in order.

        Raises:
            DataError: The decoder has no token for a language.
            ShapeError: Shapes disagree, languages are not as many, or an utterance is shorter than one frame.
        """
        if len(languages) != len(waveform):
            raise ShapeError(f"generate: {len(languages)} languages for {len(waveform)} utterances; name one for each.")
        ids = [self.decoder.language_id(language) for language in languages]
        training = self.training
        self.eval()
        states, lengths = self.states(waveform, waveform_lengths)
        found: dict[int, list[int]] = {}
        for language in sorted(set(ids)):
            rows = [row for row, number in enumerate(ids) if number == language]
            texts = self.decoder.generate(states[rows], lengths[rows], language, config)
            found.update(zip(rows, texts, strict=True))
        tokens = [found[row] for row in range(len(ids))]
        confidences = self._confidences(states, lengths, tokens)
        self.train(training)
        return [
            Translation(self.decoder.text(text), tuple(text), confidence)
            for text, confidence in zip(tokens, confidences, strict=True)
        ]

    def _confidences(self, states: Tensor, lengths: Tensor, tokens: Sequence[Sequence[int]]) -> list[float]:
        """Geometric mean probability of each text behind its language."""
        width = max(map(len, tokens))
        rows = [[self.decoder.start, *text] + [self.decoder.pad] * (width - len(text)) for text in tokens]
        read = torch.tensor(rows, device=states.device)
        logits = self.decoder(states, lengths, read[:, :-1])
        chosen = logits.float().log_softmax(dim=-1).gather(2, read[:, 1:, None])[..., 0].double()
        means = [float(row[1 : len(text)].mean()) for row, text in zip(chosen, tokens, strict=True)]
        return [float(torch.tensor(mean).exp()) for mean in means]

    def new_tensors(self) -> dict[str, Tensor]:
        """Length adaptor and adapters, by name, on the CPU in float32."""
        return {
            name: value.detach().float().cpu().contiguous()
            for name, value in self.state_dict().items()
            if name.startswith(NEW_PARTS)
        }


def encoder_sites(encoder: Encoder) -> list[list[AdapterSite]]:
    """For each layer of an encoder, where its adapters stand: attention and the last feed-forward part."""
    outputs = {attention_projections(encoder)[-1]: "attention", feed_forward_projections(encoder)[-1]: "feed_forward"}
    layers: dict[str, dict[str, AdapterSite]] = {}
    for name, module in encoder.named_modules():
        layer = re.match(r"(.*layers\.\d+)\.", name)
        part = outputs.get(name.rsplit(".", 1)[-1])
        if layer is not None and part is not None and isinstance(module, nn.Linear):
            layers.setdefault(layer[1], {})[part] = AdapterSite(part, module, module.out_features)
    parts = ("attention", "feed_forward")
    return [[sites[part] for part in parts if part in sites] for sites in layers.values()]


def layer_norms(part: nn.Module) -> Iterable[nn.Parameter]:
    """Weights and biases of all layer norms of a model."""
    norms = (module for module in part.modules() if isinstance(module, nn.LayerNorm))
    return (parameter for norm in norms for parameter in norm.parameters())


def _stand_behind(layers: Sequence[Sequence[AdapterSite]], bottleneck: int) -> nn.ModuleList:
    """Fresh adapters in all places, by layer and part."""
    built = nn.ModuleList()
    for sites in layers:
        parts = nn.ModuleDict()
        for site in sites:
            adapter = Adapter(site.dim, bottleneck)
            adapter.stand_behind(site.projection)
            parts[site.part] = adapter
        built.append(parts)
    return built


def save_speech_translator(
    model: SpeechTranslator,
    folder: str | Path,
    card: str,
    *,
    parents: Sequence[str] = (),
    created_by: str = "allophone",
) -> Path:
    """Write ``encoder/`` and ``decoder/``, each a folder that ``transformers`` reads, and what joins them beside.

    Args:
        model: The model.
        folder: Where to.
        card: Text of ``README.md``, the model card.
        parents: Hashes of the models that the encoder was made from.
        created_by: The command or program that made it.

    Returns:
        The folder.

    Raises:
        CheckpointError: A parameter is not finite.
    """
    folder = Path(folder)
    broken = [name for name, p in model.named_parameters() if not bool(p.isfinite().all())]
    if broken:
        raise CheckpointError(f"{folder}: NaN or infinite values in {', '.join(broken[:8])}. The training diverged.")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INFO_FILE).unlink(missing_ok=True)  # written last: whoever finds it finds all
    save_encoder(model.encoder, folder / ENCODER_FOLDER, card, parents=parents, created_by=created_by)
    model.decoder.save(folder / DECODER_FOLDER)
    replace_file(folder / WEIGHTS_FILE, save(model.new_tensors()))
    replace_file(folder / "README.md", card.encode())
    info = {
        "format": FORMAT,
        "encoder": model_hash(model.encoder),
        "decoder": model_hash(model.decoder.model),
        "decoder_kind": "small" if isinstance(model.decoder, SmallDecoder) else "transformers",
        "config": to_dict(model.config),
    }
    write_json(folder / INFO_FILE, info)
    return folder


def load_speech_translator(folder: str | Path) -> SpeechTranslator:
    """Read what :func:`save_speech_translator` wrote, in float32 and evaluation mode, on the CPU.

    Raises:
        CheckpointError: A file is missing or damaged, or the files do not belong together.
    """
    folder = Path(folder)
    try:
        info = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
        if not isinstance(info, dict) or info.get("format") != FORMAT:
            raise CheckpointError(f"the format is not '{FORMAT}'. Update allophone.")
        config = from_dict(SpeechTranslatorConfig, info["config"], str(folder / INFO_FILE))
        encoder = load_encoder(folder / ENCODER_FOLDER)
        decoder = _load_decoder(folder / DECODER_FOLDER, info["decoder_kind"])
        found = {"encoder": model_hash(encoder), "decoder": model_hash(decoder.model)}
        for part, got in found.items():
            if info[part] != got:
                raise CheckpointError(f"was written for {part} {info[part]}; got {got} beside it.")
        model = SpeechTranslator(encoder, decoder, config)
        tensors = load_file(folder / WEIGHTS_FILE)
        expected = model.new_tensors().keys()
        if tensors.keys() != expected:
            raise CheckpointError(f"holds {sorted(tensors)}; expected {sorted(expected)}.")
        model.load_state_dict(tensors, strict=False)
    except (OSError, ValueError, KeyError, RuntimeError, ConfigError, CheckpointError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder / INFO_FILE}: {reason} Copy the folder again, or save it again.") from error
    return model.eval()


def _load_decoder(folder: Path, kind: str) -> TokenDecoder:
    if kind == "small":
        return load_small_decoder(folder)
    from allophone.models.text_decoder import load_text_decoder

    return load_text_decoder(folder)
