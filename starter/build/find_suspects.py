"""Score how well each text fits its recording, to find pairs whose text was edited after the recording.

    python find_suspects.py --packages DIR --whisper DIR --out scores.jsonl [--languages bul,ell] [--window 10]

Writes one JSON line per recording: duration, transcript of Whisper base, its character error rate against the text,
and the fit of the text, a log-likelihood ratio per token: how much better the text is explained by its own recording
than by other recordings of the same voice. Afterwards ``choose_suspects.py`` turns the scores into ``suspect.csv``.
Digits are suppressed while transcribing, so that numbers come as words. Needs ``transformers`` and a Hugging Face
folder of Whisper base; the corpus build needs neither. Running again resumes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import random
from pathlib import Path

import numpy as np
import torch
from audio import SAMPLE_RATE, BrokenAudio, load_trimmed
from catalog import read_grouped
from jiwer import cer
from records import Clip
from sources import festvox
from splits import normalized
from torch import Tensor
from transformers import WhisperForConditionalGeneration, WhisperProcessor

WHISPER_CODES = {
    "bul_Cyrl": "bg",
    "dan_Latn": "da",
    "ell_Grek": "el",
    "eng_Latn": "en",
    "fra_Latn": "fr",
    "ita_Latn": "it",
    "rus_Cyrl": "ru",
    "spa_Latn": "es",
    "ron_Latn": "ro",
    "cat_Latn": "ca",
    "bel_Cyrl": "be",
}
BATCH, OTHERS = 16, 4
log = logging.getLogger("find_suspects")


class Scorer:
    """Whisper with an encoder window cut short, for clips that fit into it.

    Args:
        folder: Hugging Face folder of Whisper base.
        window_seconds: Encoder window, at most 30 s.
    """

    def __init__(self, folder: Path, window_seconds: int) -> None:
        self.processor = WhisperProcessor.from_pretrained(folder)
        self.processor.feature_extractor.chunk_length = window_seconds
        self.processor.feature_extractor.n_samples = window_seconds * SAMPLE_RATE
        self.model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        positions = window_seconds * 50
        encoder = self.model.model.encoder
        encoder.embed_positions.weight = torch.nn.Parameter(encoder.embed_positions.weight[:positions])
        encoder.embed_positions.num_embeddings = positions
        encoder.config.max_source_positions = self.model.config.max_source_positions = positions
        vocabulary = self.processor.tokenizer.get_vocab()
        digits = [
            index
            for token, index in vocabulary.items()
            if any(c.isdigit() for c in token) and not token.startswith("<|")
        ]
        self.suppressed = digits + [token for token in self.model.generation_config.suppress_tokens or [] if token >= 0]

    @torch.inference_mode()
    def encode(self, waveforms: list[np.ndarray]) -> Tensor:
        """Encoder states, shape ``(batch, frames, dim)``, 50 Hz, of waveforms ``(samples,)`` at 16 kHz."""
        features = self.processor.feature_extractor(waveforms, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16):
            return self.model.model.encoder(features.input_features).last_hidden_state.float()

    @torch.inference_mode()
    def transcribe(self, states: Tensor, language: str, max_tokens: int) -> list[str]:
        """Greedy transcripts without digits."""
        tokenizer = self.processor.tokenizer
        tokenizer.set_prefix_tokens(language=language, task="transcribe", predict_timestamps=False)
        inputs = torch.tensor(tokenizer("").input_ids[:4]).expand(len(states), -1)
        tokens, cache = inputs, None
        for _ in range(max_tokens):
            with torch.autocast("cpu", torch.bfloat16):
                output = self.model(encoder_outputs=(states,), decoder_input_ids=inputs, past_key_values=cache)
            logits = output.logits[:, -1].float()
            logits[:, self.suppressed] = -torch.inf
            inputs, cache = logits.argmax(-1, keepdim=True), output.past_key_values
            tokens = torch.cat([tokens, inputs], dim=1)
            if (tokens[:, 4:] == tokenizer.eos_token_id).any(1).all():
                break
        ended = [
            row[: ([*row, tokenizer.eos_token_id]).index(tokenizer.eos_token_id)] for row in tokens[:, 4:].tolist()
        ]
        return tokenizer.batch_decode(ended, skip_special_tokens=True)

    @torch.inference_mode()
    def likelihood(self, states: Tensor, text: str, language: str) -> Tensor:
        """Log-likelihood per token of one text given each recording. Shape of ``states`` to ``(batch,)``."""
        tokenizer = self.processor.tokenizer
        tokenizer.set_prefix_tokens(language=language, task="transcribe", predict_timestamps=False)
        ids = torch.tensor(tokenizer(text).input_ids)
        inputs = ids[:-1].expand(len(states), -1)
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.model(encoder_outputs=(states,), decoder_input_ids=inputs).logits
        scores = logits.float().log_softmax(-1)[:, 3:].gather(2, ids[4:].expand(len(states), -1)[..., None])
        return scores.squeeze(2).mean(1)


def score_voice(scorer: Scorer, clips: list[tuple[Clip, np.ndarray]], out: Path) -> None:
    """Append the scores of one voice to ``out``."""
    language = WHISPER_CODES[clips[0][0].language]
    clips = sorted(clips, key=lambda pair: len(pair[1]))
    pool: Tensor | None = None
    generator = random.Random(0)
    for start in range(0, len(clips), BATCH):
        batch = clips[start : start + BATCH]
        states = scorer.encode([waveform for _, waveform in batch])
        transcripts = scorer.transcribe(states, language, max_tokens=12 + round(10 * len(batch[-1][1]) / SAMPLE_RATE))
        pool = states if pool is None else torch.cat([pool[-4 * BATCH :], states])
        lines = []
        for (clip, waveform), state, transcript in zip(batch, states, transcripts, strict=True):
            row: dict[str, object] = {
                "id": clip.id,
                "speaker": clip.speaker,
                "seconds": round(len(waveform) / SAMPLE_RATE, 3),
                "text": clip.text,
                "transcript": transcript.strip(),
            }
            plain = normalized(clip.text or "")
            if plain:
                row["cer"] = round(cer(plain, normalized(transcript) or " "), 3)
                rivals = pool[generator.sample(range(len(pool)), min(OTHERS, len(pool)))]
                likelihood = scorer.likelihood(torch.cat([state[None], rivals]), str(clip.text), language)
                row["loglik"] = round(float(likelihood[0]), 3)
                row["fit"] = round(float(likelihood[0] - likelihood[1:].mean()), 3)
            lines.append(json.dumps(row, ensure_ascii=False))
        with out.open("a", encoding="utf-8") as sink:
            sink.write("\n".join(lines) + "\n")
        log.info("%s %d of %d", clips[0][0].speaker, start + len(batch), len(clips))


def main() -> None:
    """Score the recordings that fit into the window and are not scored yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--whisper", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--languages", default="bul,ell,dan,ita,spa,fra,rus")
    parser.add_argument("--window", type=int, default=5, help="encoder window in seconds; longer clips are left")
    parser.add_argument("--only", type=Path, help="file with ids to score, one a line")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    done = set()
    if arguments.out.exists():
        done = {json.loads(line)["id"] for line in arguments.out.read_text(encoding="utf-8").splitlines()}
    only = set(arguments.only.read_text().split()) if arguments.only else None
    scorer = Scorer(arguments.whisper, arguments.window)
    clips = [
        clip
        for clip in read_grouped(arguments.packages)
        if clip.text and clip.id not in done and clip.source != festvox.SOURCE
    ]
    for language in arguments.languages.split(","):
        voices = sorted({clip.speaker for clip in clips if clip.language.startswith(language)})
        for voice in voices:
            loaded, seen = [], set()
            for clip in clips:
                if clip.speaker != voice or (only is not None and clip.id not in only):
                    continue
                try:
                    waveform = load_trimmed(clip.audio)[0]
                except BrokenAudio as error:
                    log.warning("left out %s: %s", clip.id, error)
                    continue
                digest = hashlib.sha256(waveform.tobytes()).digest()
                if len(waveform) < arguments.window * SAMPLE_RATE and digest not in seen:
                    seen.add(digest)
                    loaded.append((clip, waveform))
            if loaded:
                score_voice(scorer, loaded, arguments.out)


if __name__ == "__main__":
    main()
