"""The page of search, served to a browser on this machine: a question in, answers with players out.

Nothing but text is taken: a question is never read as the name of a file, and nothing is written. The server answers
to its own names only, so that a page from elsewhere cannot ask through the browser of whoever runs it (DNS rebinding).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast
from urllib.parse import parse_qs, urlsplit

from allophone.errors import AllophoneError, ConfigError
from allophone.recipes.search import Searcher
from allophone.search.page import SearchForm

ADDRESS = "127.0.0.1"
HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; media-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
LONGEST = 1_000
"""Characters of a question."""


def search_server(searcher: Searcher, *, port: int = 0, top: int = 10) -> ThreadingHTTPServer:
    """A server that is bound to this machine's loopback address; ``serve_forever`` runs it.

    Args:
        searcher: What is asked.
        port: Where it listens; 0 = any that is free, found in ``server_port``.
        top: Most answers.

    Raises:
        ConfigError: The port is taken or may not be used, there would be no answers, or the model has no text side.
    """
    if top < 1:
        raise ConfigError(f"--top is {top}; expected at least 1 answer.")
    searcher.towers.text_vector("?")  # a model without a text side says so now
    one_at_a_time = threading.Lock()

    def answer(query: str, language: str) -> tuple[HTTPStatus, str]:
        if not query:
            return HTTPStatus.OK, searcher.page("", [], form=SearchForm(language=language))
        if len(query) > LONGEST:
            problem = f"The question has {len(query)} characters; at most {LONGEST} are taken."
            return HTTPStatus.BAD_REQUEST, searcher.page("", [], form=SearchForm(language=language, problem=problem))
        try:
            with one_at_a_time:
                hits = searcher.index.search(searcher.towers.text_vector(query), top, language=language or None)
        except AllophoneError as error:
            form = SearchForm(language=language, problem=str(error))
            return HTTPStatus.BAD_REQUEST, searcher.page(query, [], form=form)
        return HTTPStatus.OK, searcher.page(query, hits, form=SearchForm(language=language))

    try:
        return ThreadingHTTPServer((ADDRESS, port), _handler(answer))
    except (OSError, OverflowError) as error:
        raise ConfigError(f"Port {port} cannot be used ({error}). Name another with --port, or 0 for any.") from error


def _handler(answer: Callable[[str, str], tuple[HTTPStatus, str]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer a question, or offer to ask one."""
            asked = urlsplit(self.path)
            port = cast(ThreadingHTTPServer, self.server).server_port
            if self.headers.get("Host") not in (f"{ADDRESS}:{port}", f"localhost:{port}"):
                self._send(HTTPStatus.FORBIDDEN, "This server answers on this machine only.")
            elif asked.path != "/":
                self._send(HTTPStatus.NOT_FOUND, "There is one page here: /")
            else:
                values = parse_qs(asked.query)
                self._send(*answer(*(" ".join(values.get(name, [""])[0].split()) for name in ("q", "language"))))

        def _send(self, status: HTTPStatus, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            for name, value in {**HEADERS, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing; questions are nobody's business."""

    return Handler
