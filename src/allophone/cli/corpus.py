"""``allophone corpus import|audit|split|show|caption|export|withdraw|synthesize``."""

from __future__ import annotations

import argparse
from pathlib import Path

from allophone.cli.console import progress, say, wrote
from allophone.cli.parser import Parser, Verbs, add_engine, add_group, add_out, add_verb, languages
from allophone.cli.places import open_corpus
from allophone.run.duration import duration


def add(verbs: Verbs) -> None:
    """Add the verbs."""
    group = add_group(verbs, "corpus", summary="Read, check, split, list and export collections of recordings.")
    _add_import(group)
    _add_audit(group)
    _add_split(group)
    _add_show(group)
    _add_caption(group)
    _add_export(group)
    _add_withdraw(group)
    _add_synthesize(group)


def _add_path(parser: Parser, what: str = "corpus, folder of audio or manifest") -> None:
    parser.add_argument("path", type=Path, metavar="PATH", help=what)


def _add_import(group: Verbs) -> None:
    parser = add_verb(
        group,
        "import",
        run_import,
        summary="Read a folder or manifest, decode every file once, and write a corpus.",
        details=(
            "Takes a folder of audio, AudioFolder with metadata.csv|jsonl|parquet, CSV, TSV and JSONL manifests,\n"
            "fairseq .tsv, Kaldi data folders, NeMo JSONL, lhotse cuts, Hugging Face datasets, and CREMA-D, RAVDESS,\n"
            "EmoDB, ESC-50, UrbanSound8K, FSD50K, Speech Commands, MSWC, FLEURS, CoVoST 2, Europarl-ST and MuST-C\n"
            "(IWSLT) as they are handed out.\n"
            "A bad file is set aside with its reason, and counted."
        ),
        example="allophone corpus import recordings/ --language swa --out corpora/swahili",
    )
    _add_path(parser, "folder or manifest to read")
    add_out(parser, "the corpus")
    parser.add_argument("--language", metavar="ISO", help="language of everything that does not say its own")
    parser.add_argument(
        "--sounds",
        action="store_true",
        help="a folder of sounds that are not speech: folder or file names become labels, the language is zxx (none)",
    )
    parser.add_argument(
        "--max-loss",
        type=float,
        default=0.05,
        metavar="X",
        help="share of a language's files that may be bad before the import stops (default: 0.05)",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="files decoded at a time (default: one per core)")
    add_engine(parser)


def run_import(arguments: argparse.Namespace) -> None:
    """Import a corpus."""
    from allophone.data.importing import import_corpus
    from allophone.engine import open_engine

    with open_engine(arguments.engine, arguments.address) as engine, progress("import") as report:
        result = import_corpus(
            arguments.path,
            out=arguments.out,
            language=arguments.language,
            sounds=arguments.sounds,
            max_loss=arguments.max_loss,
            workers=arguments.workers,
            engine=engine,
            progress=report,
        )
    say(f"read as {result.format}: {len(result.corpus)} utterances")
    for language, hours in result.corpus.hours().items():
        say(f"  {language}  {duration(hours * 3600)}")
    if result.quarantined:
        say(f"set aside: {len(result.quarantined)} recordings, with reasons in {arguments.out / 'quarantine.tsv'}")
    if result.texts_lost:
        say(f"without their text, because they were cut: {result.texts_lost} recordings")
    wrote(arguments.out)


def _add_audit(group: Verbs) -> None:
    parser = add_verb(
        group,
        "audit",
        run_audit,
        summary="Write one offline page: hours, speakers, clipping, silence, noise, duplicates, text; with players.",
        example="allophone corpus audit corpora/swahili --out audit.html",
    )
    _add_path(parser)
    parser.add_argument("--language", metavar="ISO", help="language of recordings that do not say their own")
    add_engine(parser)
    add_out(parser, "the page", Path("audit.html"))


def run_audit(arguments: argparse.Namespace) -> None:
    """Audit a corpus."""
    from allophone.data.audit import audit, findings
    from allophone.engine import open_engine

    corpus = open_corpus(arguments.path, arguments.language)
    with open_engine(arguments.engine, arguments.address) as engine, progress("audit") as report:
        result = audit(corpus, arguments.out, engine=engine, progress=report)
    for finding in findings(result):
        say(f"- {finding}")
    wrote(arguments.out)


def _add_split(group: Verbs) -> None:
    parser = add_verb(
        group,
        "split",
        run_split,
        summary="Divide a corpus so that no speaker and no shared content stands on two sides.",
        details="Where none of what --by names is known of an utterance, its whole recording stays on one side.",
        example="allophone corpus split corpora/swahili --test 0.1 --dev 0.1 --out corpora/swahili-split",
    )
    _add_path(parser)
    add_out(parser, "the divided corpus")
    parser.add_argument("--dev", type=float, default=0.1, metavar="X", help="share for choosing (default: 0.1)")
    parser.add_argument("--test", type=float, default=0.1, metavar="X", help="share for the final score (default: 0.1)")
    parser.add_argument(
        "--by",
        nargs="+",
        choices=("speaker", "group", "text"),
        default=("speaker", "group"),
        help="what may not be shared between parts; a group says the same content (default: speaker group)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the division (default: 0)")


def run_split(arguments: argparse.Namespace) -> None:
    """Split a corpus."""
    from allophone.data.splits import split_corpus

    corpus = split_corpus(
        open_corpus(arguments.path), dev=arguments.dev, test=arguments.test, by=arguments.by, seed=arguments.seed
    )
    for name in ("train", "dev", "test"):
        part = corpus.where(split=name)
        say(f"{name}  {len(part)} utterances, {duration(sum(part.hours().values()) * 3600)}")
    corpus.save(arguments.out)
    wrote(arguments.out)


def _add_caption(group: Verbs) -> None:
    parser = add_verb(
        group,
        "caption",
        run_caption,
        summary="Have a model write the texts that recordings lack; each names the model.",
        details="Takes any speech recognizer or audio captioner of transformers. Run the same command again to go on\n"
        "after an interruption.",
        example="allophone corpus caption corpora/swahili --model openai/whisper-base --out corpora/swahili-texts",
    )
    _add_path(parser)
    parser.add_argument("--model", required=True, metavar="MODEL", help="a hub id or a folder")
    parser.add_argument("--language", metavar="ISO", help="language of recordings that do not say their own")
    add_out(parser, "the corpus with texts")


def run_caption(arguments: argparse.Namespace) -> None:
    """Write texts."""
    from allophone.cli.console import stages
    from allophone.recipes.machine_texts import write_machine_texts

    corpus = open_corpus(arguments.path, arguments.language)
    with stages() as report:
        found = write_machine_texts(corpus, arguments.model, out=arguments.out, report=report)
    for language, count in sorted(found.made.items()):
        say(f"  {language}  {count} texts")
    if found.silent:
        say(f"nothing was found in {found.silent} recordings")
    wrote(arguments.out)


def _add_show(group: Verbs) -> None:
    parser = add_verb(
        group,
        "show",
        run_show,
        summary="List the languages of a corpus with hours, speakers, splits, and the first utterances.",
        example="allophone corpus show recordings/ --language swa",
    )
    _add_path(parser)
    parser.add_argument("--language", metavar="ISO", help="only this language; of a plain folder: its language")
    parser.add_argument("--rows", type=int, default=5, metavar="N", help="utterances to print (default: 5)")


def run_show(arguments: argparse.Namespace) -> None:
    """Print what a corpus holds."""
    corpus = open_corpus(arguments.path, arguments.language).where(language=arguments.language)
    say(f"{len(corpus.utterances)} utterances, hash {corpus.hash[:16]}")
    for language, hours in corpus.hours().items():
        rows = corpus.where(language=language).utterances
        speakers = len({row.speaker for row in rows if row.speaker})
        splits = ", ".join(sorted({row.split for row in rows if row.split})) or "none"
        say(f"{language}  {duration(hours * 3600)}, {len(rows)} utterances, {speakers} speakers, splits: {splits}")
    for row in corpus.utterances[: arguments.rows]:
        say(f"  {row.id}  {row.language}  {row.duration_seconds:.2f} s  {row.text or ''}")


def _add_export(group: Verbs) -> None:
    parser = add_verb(
        group,
        "export",
        run_export,
        summary="Write a corpus for other programs.",
        example="allophone corpus export corpora/swahili --to audiofolder --out swahili-hf",
    )
    _add_path(parser)
    formats = ("audiofolder", "tsv", "nemo", "lhotse", "mlsuperb")
    parser.add_argument("--to", required=True, choices=formats, help="format")
    add_out(parser, "it: a folder for audiofolder and mlsuperb, a file for the others")


def run_export(arguments: argparse.Namespace) -> None:
    """Export a corpus."""
    from allophone.data.export import export_corpus

    wrote(export_corpus(open_corpus(arguments.path), arguments.out, to=arguments.to))


def _add_withdraw(group: Verbs) -> None:
    parser = add_verb(
        group,
        "withdraw",
        run_withdraw,
        summary="List the codebooks, models and packs that a speaker's recordings are in, and how to make them anew.",
        details="Nothing is deleted. With --corpus and --out, the corpus without the speaker is written too.",
        example="allophone corpus withdraw speaker-7 --runs runs/ --corpus corpora/swahili --out corpora/without",
    )
    parser.add_argument("speaker", metavar="SPEAKER", help="as the corpus names them")
    parser.add_argument(
        "--runs", type=Path, nargs="+", default=[Path("runs")], metavar="FOLDER", help="folders of runs (default: runs)"
    )
    parser.add_argument("--corpus", type=Path, metavar="FOLDER", help="corpus to take the speaker out of")
    parser.add_argument("--out", type=Path, metavar="PATH", help="where to write it")


def run_withdraw(arguments: argparse.Namespace) -> None:
    """List what a speaker is in."""
    from allophone.errors import ConfigError, DataError
    from allophone.recipes.withdraw import withdraw

    if (arguments.corpus is None) != (arguments.out is None):
        raise ConfigError(
            "--corpus and --out belong together: name the corpus and where to write it without the speaker."
        )
    found = withdraw(arguments.speaker, arguments.runs)
    say(f"{arguments.speaker}: in {len(found.affected)} things, not in {found.clean}; {len(found.unknown)} unknown")
    for one in found.affected:
        uses = (
            ", ".join(f"{use} on {count} recordings" for use, count in one.uses) or f"through {', '.join(one.through)}"
        )
        say(f"  {one.kind:<11} {one.folder}  {uses}")
    for one in found.unknown:
        say(f"  {one.kind:<11} {one.folder}  what it was made from: {one.how}")
    if found.commands:
        say("to make them again without, in this order (CORPUS: the corpus without the speaker):")
    for command in found.commands:
        say(f"  {command}")
    if arguments.corpus is not None:
        corpus = open_corpus(arguments.corpus)
        rest = tuple(row for row in corpus if row.speaker != arguments.speaker)
        if len(rest) == len(corpus):
            raise DataError(
                f"{arguments.corpus}: no recording is by {arguments.speaker!r}. Is the name spelled so there?"
            )
        corpus.with_utterances(rest).save(arguments.out)
        wrote(arguments.out)


def _add_synthesize(group: Verbs) -> None:
    parser = add_verb(
        group,
        "synthesize",
        run_synthesize,
        summary="Make a corpus of synthetic parallel speech: dates, numbers, places, units, amounts in 46 languages.",
        details="Phrases are CLDR's, spoken by espeak-ng; every recording is labelled synthetic. Splits share no\n"
        "phrase, and two voices are kept for testing.",
        example="allophone corpus synthesize --languages eng,fra,swa --phrases 500 --out corpora/phrases",
    )
    parser.add_argument("--languages", type=languages, default=(), metavar="A,B,...", help="of it (default: all)")
    parser.add_argument("--phrases", type=int, default=200, metavar="N", help="contents (default: 200)")
    parser.add_argument(
        "--voices", type=int, default=1, metavar="N", help="voices that speak each phrase, 1 or 2 (default: 1)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of everything drawn (default: 0)")
    add_out(parser, "the corpus")


def run_synthesize(arguments: argparse.Namespace) -> None:
    """Synthesize a corpus."""
    from allophone.data.synthesis import synthesize

    with progress("speaking") as report:
        corpus = synthesize(
            arguments.out,
            languages=arguments.languages,
            phrases=arguments.phrases,
            voices=arguments.voices,
            seed=arguments.seed,
            progress=report,
        )
    hours = sum(corpus.hours().values())
    say(f"{len(corpus)} synthetic recordings, {duration(hours * 3600)}, {len(corpus.languages)} languages")
    wrote(arguments.out)
