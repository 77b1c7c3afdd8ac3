"""The page in a real Chromium: it opens without work, sends no request, logs no error, and is accessible."""

from __future__ import annotations

import base64
import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.check.check import check_bytes
from pytest_glasshouse.render.page import page
from tests.browser.driver import Browser, browser
from tests.browser.pages import many, report_with_everything, written_by_a_run

_DESKTOP: dict[str, Any] = {"width": 1280, "height": 900}
_PHONE: dict[str, Any] = {"width": 360, "height": 740, "mobile": True}
SERIOUS = {"serious", "critical"}


@pytest.fixture(scope="module", name="chromium")
def one_browser() -> Iterator[Browser]:
    with browser() as session:
        yield session


@pytest.fixture(scope="module", name="paths")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each kind of report as a page: from a run, with everything a row may have, and with sixty rows."""
    directory = tmp_path_factory.mktemp("pages")
    documents: dict[str, Any] = {"run": written_by_a_run(), "everything": report_with_everything(), "sixty": many(60)}
    for name, document in documents.items():
        checked = check_bytes(json.dumps(written_by_a_run() if name == "sixty" else document).encode())
        (directory / f"{name}.html").write_text(page(document, checked), "utf-8")
    target = os.environ.get("GLASSHOUSE_PAGES")
    if target:
        for name in documents:
            Path(target, f"{name}.html").write_bytes((directory / f"{name}.html").read_bytes())
    return {name: directory / f"{name}.html" for name in documents}


def axe() -> str:
    """The text of axe-core: a file that `AXE_CORE` names, else the one a development dependency carries."""
    named = os.environ.get("AXE_CORE")
    if named:
        return Path(named).read_text("utf-8")
    import axe_core_python

    return (Path(axe_core_python.__file__).parent / "axe.min.js").read_text("utf-8")


@pytest.mark.parametrize("name", ["run", "everything"])
def test_page_opens_without_a_request_or_a_console_message(chromium: Browser, paths: dict[str, Path], name: str) -> None:
    chromium.open(paths[name])

    assert chromium.complaints() == []
    assert chromium.requests() == [paths[name].as_uri()]
    assert chromium.run("return document.scripts.length + document.images.length") == 0


@pytest.mark.parametrize(
    ("name", "screen", "dark"), [("run", _DESKTOP, False), ("everything", _DESKTOP, True), ("everything", _PHONE, False)]
)
def test_axe_finds_no_serious_accessibility_issue_on_the_page(
    chromium: Browser, paths: dict[str, Path], name: str, screen: dict[str, Any], dark: bool
) -> None:
    """With every section opened, so that collapsed ones are checked too."""
    chromium.open(paths[name])
    chromium.as_screen(**screen, dark=dark)
    chromium.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    chromium.run(axe() + ";window.axe = axe")

    violations = "found.violations.map(each => [each.impact, each.id, each.nodes[0].html])"
    # Of rules that passed one place each is enough: listing all takes axe longer than the rules do.
    asked = "await axe.run({resultTypes: ['violations']})"
    violated, passed = chromium.run(f"const found = {asked}; return [{violations}, found.passes.length]")

    assert [each for each in violated if each[0] in SERIOUS] == []
    assert passed > 10


def test_page_of_sixty_rows_has_little_for_a_browser_to_do(chromium: Browser, paths: dict[str, Path]) -> None:
    """How long it takes to open depends on the machine (0.1 to 0.3 s here), what there is to parse and to lay out does not."""
    assert paths["sixty"].stat().st_size < 1_500_000
    chromium.as_screen(**_DESKTOP)
    chromium.command("Performance.enable")
    chromium.open(paths["sixty"])

    did = {each["name"]: each["value"] for each in chromium.command("Performance.getMetrics")["metrics"]}
    assert chromium.run("return performance.getEntriesByType('navigation')[0].loadEventEnd") > 0
    assert chromium.run("return document.querySelectorAll('.card').length") == 60
    assert chromium.run("return document.getElementsByTagName('*').length") < 400 * 60
    assert (did["ScriptDuration"], did["LayoutCount"] < 20, did["RecalcStyleCount"] < 20) == (0, True, True)


@pytest.mark.parametrize("name", ["run", "everything", "sixty"])
def test_page_fits_a_phone(chromium: Browser, paths: dict[str, Path], name: str) -> None:
    """Nothing but a table that scrolls by itself is wider than the screen."""
    chromium.open(paths[name])
    chromium.as_screen(**_PHONE)

    assert chromium.run("return document.documentElement.scrollWidth") <= 360


def test_page_follows_the_readers_dark_colour_scheme(chromium: Browser, paths: dict[str, Path]) -> None:
    chromium.open(paths["run"])
    ground = "return getComputedStyle(document.body).backgroundColor"

    chromium.as_screen(**_DESKTOP, dark=True)
    dark = chromium.run(ground)
    chromium.as_screen(**_DESKTOP)

    assert (dark, chromium.run(ground)) == ("rgb(20, 23, 26)", "rgb(255, 255, 255)")


def test_collapsed_sections_are_printed(chromium: Browser, paths: dict[str, Path]) -> None:
    """A printed page cannot be clicked."""
    chromium.open(paths["run"])
    chromium.run("document.querySelectorAll('details').forEach(each => each.open = false)")
    height = "return document.documentElement.scrollHeight"
    closed = chromium.run(height)
    chromium.command("Emulation.setEmulatedMedia", media="print")
    on_paper = chromium.run(height)
    chromium.command("Emulation.setEmulatedMedia", media="")

    assert on_paper > closed + 1000
    assert chromium.printed().startswith(b"%PDF")


def test_report_extracted_from_the_page_is_unchanged(chromium: Browser, paths: dict[str, Path]) -> None:
    chromium.open(paths["run"])
    link = chromium.run("return document.querySelector('a[download]').href")

    taken = gzip.decompress(base64.b64decode(link.partition("base64,")[2]))

    assert json.loads(taken) == written_by_a_run()
    assert check_bytes(taken).faults == ()
