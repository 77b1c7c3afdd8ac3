"""`glasshouse view`: the site of all reports, served on this machine, and what runs now."""

from __future__ import annotations

import argparse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.cli.derivation import derivation_of, is_own
from pytest_glasshouse.cli.reports import declare_directory, existing
from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.run.exit_codes import EXIT_OK, EXIT_USAGE
from pytest_glasshouse.wire.output import write_lines

if TYPE_CHECKING:
    from pytest_glasshouse.check.recompute import Derivation
    from pytest_glasshouse.cli.parser import Commands

_VIEW = """\
Serve the pages of all reports below a directory (default: reports) on this machine, until Ctrl-C. New reports appear when a
page is loaded again; /live.html follows a running pytest as `glasshouse watch` does: no rate of legs that take turns is shown.
"""
LIVE = "live.html"
_REFRESH_S = 2


def declare(commands: Commands) -> None:
    """Add the command."""
    view = commands.add_parser(
        "view", help="the site of all reports, served on this machine", description=_VIEW, allow_abbrev=False
    )
    declare_directory(view)
    view.add_argument("--port", type=int, default=8471, metavar="N", help="port on 127.0.0.1; 0 takes a free one (default: 8471)")
    view.set_defaults(run=_view, report_error_code=EXIT_USAGE)


def _view(options: argparse.Namespace) -> int:
    if not 0 <= options.port <= 0xFFFF:  # noqa: PLR2004
        raise ConfigurationError(f"--port: expected 0 to 65535, saw {options.port}")
    with open_view(
        existing(options.directory), port=options.port, derivation=derivation_of(options), keep_verdicts=is_own(options)
    ) as server:
        write_lines([f"http://127.0.0.1:{server.server_port}/  (Ctrl-C ends it)"])
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            write_lines([""])
    return EXIT_OK


def open_view(directory: Path, *, port: int, derivation: Derivation | None, keep_verdicts: bool = False) -> ThreadingHTTPServer:
    """The server, bound to 127.0.0.1 and nothing else."""
    pages = Pages(directory, derivation, keep_verdicts=keep_verdicts)

    class OfThisSite(SitePageHandler):
        site = pages

    server = ThreadingHTTPServer(("127.0.0.1", port), OfThisSite)
    server.daemon_threads = True
    return server


class Pages:
    """The site's files, made again when a report was added, changed or removed."""

    def __init__(self, directory: Path, derivation: Derivation | None, *, keep_verdicts: bool) -> None:
        self._directory, self._derivation, self._keep_verdicts = directory, derivation, keep_verdicts
        self._seen: list[tuple[str, int, int]] | None = None
        self._files: dict[str, str] = {}
        self._lock = Lock()

    def text(self, name: str) -> str | None:
        """The text of a page; None where there is none of this name."""
        if name == LIVE:
            return self._live()
        with self._lock:
            self._make()
            return self._files.get(name)

    def _make(self) -> None:
        from pytest_glasshouse.check.found_reports import report_paths
        from pytest_glasshouse.cli.site import build_site

        seen = []
        for path in report_paths(self._directory):
            try:
                status = path.stat()
            except OSError:
                continue
            seen.append((str(path), status.st_size, status.st_mtime_ns))
        if seen != self._seen:
            self._files = build_site(self._directory, derivation=self._derivation, keep_verdicts=self._keep_verdicts).files
            self._seen = seen

    def _live(self) -> str:
        from pytest_glasshouse.cli.watch import running_lines
        from pytest_glasshouse.render.html import escaped
        from pytest_glasshouse.render.site_pages import document
        from pytest_glasshouse.wire.output import RedLine

        runs = sorted((each for each in self._directory.glob("*.run") if each.is_dir()), reverse=True)
        shown = ['<p><a href="index.html">All reports</a></p>', "" if runs else "<p>Nothing runs now.</p>"]
        for run in runs:
            lines = running_lines(run)
            colours = ("bad" if isinstance(each, RedLine) else "soft" for each in lines)
            items = (f'<li class="{colour}">{escaped(each)}</li>' for colour, each in zip(colours, lines, strict=True))
            shown.append(f"<h2>{escaped(run.name.removesuffix('.run'))}</h2><ul>{''.join(items)}</ul>")
        return document("What runs now", "".join(shown), refresh_s=_REFRESH_S)


class SitePageHandler(BaseHTTPRequestHandler):
    """Answers with the pages of `site`, to requests for this machine by its own name."""

    site: Pages
    server_version, sys_version = "glasshouse", ""

    def do_GET(self) -> None:
        # Another site's name that resolves to this address must not read the reports of this machine.
        host = str(self.headers.get("Host", "")).rpartition(":")[0]
        name = self.path.partition("?")[0].removeprefix("/") or "index.html"
        text = self.site.text(name) if host in {"127.0.0.1", "localhost"} else None
        data = (text or "there is no such page\n").encode()
        kind = "image/svg+xml" if name.endswith(".svg") else "text/html"
        self.send_response(200 if text is not None else 404)
        self.send_header("Content-Type", f"{kind if text is not None else 'text/plain'}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Print nothing."""
