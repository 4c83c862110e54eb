"""``allophone index`` and ``allophone search``."""

from __future__ import annotations

import argparse
from pathlib import Path

from allophone.cli.console import say, stages, wrote
from allophone.cli.parser import ON_CPU, Verbs, add_out, add_verb
from allophone.cli.places import open_corpus


def add(verbs: Verbs) -> None:
    """Add the verbs."""
    _add_index(verbs)
    _add_search(verbs)


def _add_index(verbs: Verbs) -> None:
    parser = add_verb(
        verbs,
        "index",
        run_index,
        summary="Put the recordings of a corpus into a vector index on disk.",
        details="Run the same command again to go on after an interruption, or to take over what the corpus has\n"
        "gained or tells otherwise (texts, languages, speakers). Other corpora can be added to the same index.\n"
        f"Needs `pip install 'allophone[search]'`.\n{ON_CPU}",
        example="allophone index runs/align/model recordings/ --out index/",
    )
    parser.add_argument("model", metavar="MODEL", help="what `align` wrote: a folder or a hub id")
    parser.add_argument("corpus", type=Path, metavar="CORPUS", help="corpus, folder of audio or manifest; or 'starter'")
    parser.add_argument("--language", metavar="CODE", help="language of recordings that do not say theirs")
    parser.add_argument(
        "--window",
        type=float,
        default=15.0,
        metavar="SECONDS",
        help="longer recordings are cut into stretches of this length (default: 15)",
    )
    add_out(parser, "the index")


def run_index(arguments: argparse.Namespace) -> None:
    """Fill an index."""
    from allophone.recipes.search import SKIPPED, index_corpus

    corpus = open_corpus(arguments.corpus, arguments.language)
    with stages() as report:
        done = index_corpus(arguments.model, corpus, arguments.out, window_seconds=arguments.window, report=report)
    described = f"{done.described} described anew, " if done.described else ""
    say(f"{done.added} added, {described}{done.rows} in the index")
    if done.skipped:
        say(f"{len(done.skipped)} recordings could not be embedded; reasons in {arguments.out / SKIPPED}")
    wrote(arguments.out)


def _add_search(verbs: Verbs) -> None:
    parser = add_verb(
        verbs,
        "search",
        run_search,
        summary="Find recordings by a text or by a clip: file, time and score.",
        details="With --serve, a page in the browser of this machine asks, shows and plays, until it is interrupted.",
        example="allophone search index/ bonjour --language fra --html found.html",
    )
    parser.add_argument("index", type=Path, metavar="INDEX", help="what `index` wrote")
    parser.add_argument("query", metavar="QUERY", nargs="?", help="a text, or the path of a recording")
    parser.add_argument("--language", metavar="CODE", help="only answers in this language: fra, fr or fra_Latn")
    parser.add_argument("--speaker", metavar="NAME", help="only answers of this speaker")
    parser.add_argument("--source", metavar="NAME", help="only answers of this source")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="most answers (default: 10)")
    parser.add_argument("--model", metavar="MODEL", help="the index' model, if it lies elsewhere now")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write the answers as a page with players")
    parser.add_argument("--serve", action="store_true", help="ask on a page in the browser instead")
    parser.add_argument("--port", type=int, default=8765, metavar="N", help="of the page (default: 8765; 0: any)")


def run_search(arguments: argparse.Namespace) -> None:
    """Ask an index."""
    from allophone.errors import ConfigError
    from allophone.recipes.search import search
    from allophone.search.page import clock

    if (arguments.query is None) != arguments.serve:
        raise ConfigError("Give either a query or --serve.")
    if arguments.serve:
        _serve(arguments)
        return
    hits = search(
        arguments.index,
        arguments.query,
        top=arguments.top,
        language=arguments.language,
        speaker=arguments.speaker,
        source=arguments.source,
        model=arguments.model,
        page=arguments.html,
    )
    for hit in hits:
        entry = hit.entry
        times = f"{clock(entry.offset_seconds)}-{clock(entry.offset_seconds + entry.duration_seconds)}"
        say(f"{hit.score:6.3f}  {times:<15}  {entry.language:<9}  {entry.path}  {entry.text or ''}".rstrip())
    if not hits:
        say("nothing found; the index has no recording that these options leave")
    if arguments.html:
        wrote(arguments.html)


def _serve(arguments: argparse.Namespace) -> None:
    from allophone.recipes.search import open_search
    from allophone.recipes.search_server import search_server

    server = search_server(open_search(arguments.index, arguments.model), port=arguments.port, top=arguments.top)
    say(f"http://127.0.0.1:{server.server_port}/  (Ctrl-C ends it)")
    with server:
        server.serve_forever()
