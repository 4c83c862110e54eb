"""The scores of aligned towers on contents that they never met, beside chance, random weights and what no contrast saw.

Rows without a text side of their own get one by ridge regression: pooled frames of the recordings that were trained on
to the mean of their texts' vectors in the trained text tower. So the filter bank and the encoder as it was before are
asked the same questions, and what the contrast adds is the difference to the latter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from allophone.config import from_dict, to_dict
from allophone.data.captioning import content_facts
from allophone.data.corpus import Corpus
from allophone.data.heard import Contamination
from allophone.data.loader import WaveformCache
from allophone.data.utterance import Utterance
from allophone.distributed import device
from allophone.evaluate.protocol import FrameSource
from allophone.evaluate.result import Result, tabulate
from allophone.evaluate.sources import EncoderSource, FilterbankSource, extract_all
from allophone.evaluate.text_retrieval import DIRECTIONS, Pool, questions, score, score_chance
from allophone.evaluate.transcripts import load_transcriber, transcribe_all, transcriber_hash, transcripts_file
from allophone.models.aligned import Aligned
from allophone.models.build import Encoder, build_encoder
from allophone.models.conversion import model_hash
from allophone.models.speech_embedder import SpeechEmbedder
from allophone.recipes.contamination import in_words, seen_in_training
from allophone.recipes.kept_vectors import FOLDER, KeptVectors
from allophone.recipes.written import BEFORE_UNKNOWN, splits_in_words
from allophone.run.progress import Report, counted, silent
from allophone.run.ridge import drawn_rows, ridge_vectors
from allophone.seeding import derive, numpy_generator

FORMAT, RESULT, TABLES = "allophone-align-result-2", "result.json", "scores.md"
CHUNK = 256
"""Recordings decoded and embedded at once."""
RANDOM_SEEDS = (0, 1, 2)
PART = " (transcribed part)"
"""Ends the names of rows whose queries are those recordings alone that were transcribed."""
Array = NDArray[np.float64]
Embed = Callable[[Sequence[Tensor]], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignScores:
    """What an evaluation of aligned towers leaves."""

    rows: dict[str, list[Result]]
    """Results by system."""
    tables: Path
    """``scores.md``."""


def score_towers(
    model: Aligned,
    before: Encoder,
    heard: Corpus,
    corpus: Corpus,
    pool: Pool,
    out: Path,
    *,
    folder: Path,
    transcriber: str | Path | None = None,
    transcribed: int | None = None,
    report: Report = silent,
) -> AlignScores:
    """Score the towers and what they are compared with, and write ``result.json`` and ``scores.md``.

    Args:
        model: The towers.
        before: The speech encoder that the training began with.
        heard: Utterances that were trained on; ridge regressions are fitted on them.
        corpus: Decodes the pool.
        pool: Recordings and texts that are searched.
        out: Folder.
        folder: Of the towers, with the ledger of what they heard.
        transcriber: Speech recognizer of ``transformers``, for the row of the cascade; None = no such row.
        transcribed: At most so many recordings are transcribed, as many of each language as there are; the cascade then
            answers speech to text alone, and the towers answer the same queries beside it. None = all.
        report: Told how far each stage is.
    """
    data_hash = corpus.with_utterances(pool.utterances).hash
    made_from = {
        "model": model.info.hash,
        "before": model_hash(before),
        "pool": data_hash,
        "languages": list(pool.written),
        "transcriber": None if transcriber is None else transcriber_hash(transcriber),
        "transcribed": transcribed,
    }
    done = _scored(out, made_from)
    if done is not None:
        return done
    for part in (model.speech, model.text, before):
        part.to(device())
    overall, all_questions = questions(pool, pairs=False), questions(pool, pairs=True)
    cache = WaveformCache(corpus)
    keep = KeptVectors(folder=out / FOLDER, made_from=f"{made_from['model']} {made_from['before']} {data_hash}")
    texts = keep("texts", model.embed_texts, [wording for _, wording in pool.texts])
    rows: dict[str, list[Result]] = {"chance": score_chance(all_questions, data_hash=data_hash)}
    drawn = {}
    for seed in RANDOM_SEEDS:
        name, embed = f"Random encoder {seed}", random_embedder(model, seed)
        drawn[seed] = (keep(name, embedded, cache, pool.utterances, embed, report(name)), texts)
    rows["random encoder"] = score(overall, drawn, model_hash="random", data_hash=data_hash, seeds=RANDOM_SEEDS)
    fitted_on = drawn_rows(heard, model.info.seed)
    targets = _text_targets(model, fitted_on)
    bank = FilterbankSource.near(before.clock.rate)
    for source in (bank, EncoderSource("encoder before", before, (before.num_layers,))):
        clips = f"{source.name}: training clips"
        learned_from = keep(clips, pooled_frames, WaveformCache(heard), fitted_on, source, report(clips))
        asked = keep(source.name, pooled_frames, cache, pool.utterances, source, report(source.name))
        mapped = ridge_vectors(learned_from, targets, asked)
        known = "filter bank" if isinstance(source, FilterbankSource) else model_hash(before)
        name = f"{source.name}, ridge to the texts"
        rows[name] = score(overall, {0: (mapped, texts)}, model_hash=known, data_hash=data_hash)
    speech = keep("Aligned", embedded, cache, pool.utterances, model.embed_speech, report("Aligned"))
    rows["aligned"] = score(
        all_questions,
        {model.info.seed: (speech, texts)},
        model_hash=model.info.hash,
        data_hash=data_hash,
        seeds=(model.info.seed,),
    )
    if transcriber is not None:
        rows |= _cascade(model, pool, cache, transcriber, transcribed, (speech, texts), data_hash, out, report)
    seen = seen_in_training(folder, model.info, corpus, pool.utterances, cache, report)
    return AlignScores(rows=rows, tables=_write(rows, pool, seen, made_from, out))


def _scored(out: Path, made_from: Mapping[str, Any]) -> AlignScores | None:
    """The scores that lie there, where they were made from the same."""
    if not (out / RESULT).exists() or not (out / TABLES).exists():
        return None
    result = json.loads((out / RESULT).read_text(encoding="utf-8"))
    if result.get("format") != FORMAT or result.get("made_from") != made_from:
        return None
    rows = {name: [from_dict(Result, one) for one in found] for name, found in result["rows"].items()}
    return AlignScores(rows=rows, tables=out / TABLES)


def _cascade(
    model: Aligned,
    pool: Pool,
    cache: WaveformCache[Utterance],
    transcriber: str | Path,
    most: int | None,
    vectors: tuple[Tensor, Tensor],
    data_hash: str,
    out: Path,
    report: Report,
) -> dict[str, list[Result]]:
    """Transcripts compared as texts, overall and in each pair; where few are transcribed, the towers beside them."""
    file = transcripts_file(out, transcriber)
    places = list(range(len(pool.utterances))) if most is None else _even(pool, most)
    rows = [pool.utterances[place] for place in places]
    transcribe = load_transcriber(transcriber)
    written = model.embed_texts(transcribe_all(rows, cache, transcribe, file, counted(report("Transcribing"))))
    name, speech, texts = f"cascade: {Path(transcriber).name}, then text", *vectors
    if most is None:
        found = score(
            questions(pool, pairs=True), {0: (written, texts)}, model_hash=str(transcriber), data_hash=data_hash
        )
        return {name: found}
    part = Pool(utterances=tuple(rows), texts=pool.texts, says=pool.says[places])
    asked = [one for one in questions(part, pairs=True) if one.direction == "speech to text"]
    return {
        f"chance{PART}": score_chance(asked, data_hash=data_hash),
        f"{name}{PART}": score(asked, {0: (written, texts)}, model_hash=str(transcriber), data_hash=data_hash),
        f"aligned{PART}": score(asked, {0: (speech[places], texts)}, model_hash=model.info.hash, data_hash=data_hash),
    }


def _even(pool: Pool, most: int) -> list[int]:
    """Places of at most so many recordings, drawn, as many of each language as there are."""
    drawn = numpy_generator(0, "transcribed").permutation(len(pool.utterances)).tolist()
    queues = {language: [p for p in drawn if pool.utterances[p].language == language] for language in pool.spoken}
    chosen: list[int] = []
    while any(queues.values()) and len(chosen) < most:
        for queue in queues.values():
            if queue and len(chosen) < most:
                chosen.append(queue.pop())
    return sorted(chosen)


def embedded(
    cache: WaveformCache[Utterance],
    rows: Sequence[Utterance],
    embed: Embed,
    progress: Callable[[int, int, dict[str, float]], None],
) -> Tensor:
    """Vectors of utterances, a bounded number decoded at once. Shape ``(N, E)``."""
    parts = []
    for start in range(0, len(rows), CHUNK):
        parts.append(embed([cache.get(row) for row in rows[start : start + CHUNK]]))
        progress(min(start + CHUNK, len(rows)), len(rows), {})
    return torch.cat(parts)


def pooled_frames(
    cache: WaveformCache[Utterance],
    rows: Sequence[Utterance],
    source: FrameSource,
    progress: Callable[[int, int, dict[str, float]], None],
) -> Tensor:
    """Mean and standard deviation over the frames of each utterance, last layer. Shape ``(N, 2 D)``."""

    def pool(waveforms: Sequence[Tensor]) -> Tensor:
        frames = [item[-1] for item in extract_all(source, waveforms)]
        return torch.stack([torch.cat([item.mean(dim=0), item.std(dim=0, unbiased=False)]) for item in frames])

    return embedded(cache, rows, pool, progress)


def random_embedder(model: Aligned, seed: int) -> Embed:
    """The same architecture with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "random encoder"))
        speech = SpeechEmbedder(build_encoder(model.speech.encoder.config), model.speech.config).eval().to(device())
    return lambda waveforms: F.normalize(speech.embed(waveforms), dim=-1)


def _text_targets(model: Aligned, rows: Sequence[Utterance]) -> Array:
    """Mean vector, of length 1, of what each utterance says in the languages that are spoken. Shape ``(N, E)``."""
    facts = content_facts(rows, sorted({row.language for row in rows}))
    wordings = sorted({fact.wordings[0][1] for found in facts.values() for fact in found})
    vectors = dict(zip(wordings, model.embed_texts(wordings), strict=True))
    means = [torch.stack([vectors[fact.wordings[0][1]] for fact in facts[row.id]]).mean(dim=0) for row in rows]
    return F.normalize(torch.stack(means), dim=-1).double().numpy()


def _write(
    rows: Mapping[str, Sequence[Result]], pool: Pool, seen: Contamination | None, made_from: Any, out: Path
) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    result = {
        "format": FORMAT,
        "made_from": made_from,
        "pool": {"recordings": len(pool.utterances), "texts": len(pool.texts), "spoken": list(pool.spoken)},
        "seen_in_training": None if seen is None else to_dict(seen),
        "rows": {name: [to_dict(one) for one in results] for name, results in rows.items()},
    }
    groups = len({row.group or row.id for row in pool.utterances})
    parts = [
        f"# Retrieval over one pool\n\n{len(pool.utterances)} recordings ({splits_in_words(pool.utterances)}) and "
        f"{len(pool.texts)} texts of {groups} contents.\n",
        f"No content or text of the pool was in this training. {BEFORE_UNKNOWN} Percent, with 95 % intervals over "
        "contents. Rows with *ridge* have no text side of their own: a ridge regression maps them (of the encoder, its "
        "last layer) to the trained text vectors.\n",
    ]
    for direction in DIRECTIONS:
        part = {
            f"{name} ({in_words(seen)})" if name == "aligned" else name: [
                one for one in found if one.name.startswith(f"{direction}:")
            ]
            for name, found in rows.items()
            if not name.endswith(PART)
        }
        if any(part.values()):
            parts += [f"## {direction.capitalize()}\n", tabulate({k: v for k, v in part.items() if v}).markdown()]
    part = {name: [one for one in rows[name] if ", " not in one.name] for name in rows if name.endswith(PART)}
    if part:
        parts += ["## Speech to text, recordings that were transcribed\n", tabulate(part).markdown()]
    parts += [_pairs(rows, direction) for direction in DIRECTIONS]
    tables = out / TABLES
    tables.write_text("\n".join(part for part in parts if part), encoding="utf-8")
    (out / RESULT).write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return tables


def _pairs(rows: Mapping[str, Sequence[Result]], direction: str) -> str:
    """Recall at 10 of the towers and of the cascade for each pair of languages, a line a pair, with chance."""
    by_name = {name: {one.name: one for one in found} for name, found in rows.items()}
    others = [name for name in rows if name.startswith("cascade") or name == f"aligned{PART}"]
    lines = []
    for one in rows["aligned"]:
        pair, _, metric = one.name.removeprefix(f"{direction}, ").partition(": ")
        if one.name.startswith(f"{direction}, ") and metric == "R@10":
            chance = by_name["chance"][one.name].value
            beside = [by_name[name][one.name].text if one.name in by_name[name] else "–" for name in others]
            mark = " *" if one.low > chance else ""
            lines.append(f"| {pair} | {one.n} | {chance:.2f} | {' | '.join([one.text + mark, *beside])} |")
    if not lines:
        return ""
    columns = ["languages", "contents", "chance", "aligned", *others]
    head = f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n"
    title = f"## {direction.capitalize()}, by pair, R@10, % (* = the whole interval above chance)\n\n"
    return title + head + "\n".join(lines) + "\n"
