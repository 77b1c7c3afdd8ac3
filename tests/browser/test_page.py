"""The page in a real Chromium: it opens without work, sends no request, logs no error, and is accessible."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.check.check import check_bytes
from pytest_glasshouse.render.page import page
from tests.browser.driver import Browser, browser
from tests.browser.pages import broken_row, many, report_with_everything, six_single_samples, written_by_a_run
from tests.unit.report import example

_DESKTOP: dict[str, Any] = {"width": 1280, "height": 900}
#: What the reports of the example are derived with; others by the project's own.
_OF = {"broken": example.EXAMPLE, "mixed": example.EXAMPLE}
_PHONE: dict[str, Any] = {"width": 360, "height": 740, "mobile": True}
SERIOUS = {"serious", "critical"}


@pytest.fixture(scope="module", name="chromium")
def one_browser() -> Iterator[Browser]:
    with browser() as session:
        yield session


@pytest.fixture(scope="module", name="paths")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each kind of report as a page: from a run, with everything a row may have, of many rows, and of a row that is broken."""
    directory = tmp_path_factory.mktemp("pages")
    documents: dict[str, Any] = {
        "run": written_by_a_run(), "everything": report_with_everything(), "sixty": many(60), "six": six_single_samples(),
        "broken": broken_row(), "mixed": broken_row(beside=7),
    }  # fmt: skip
    for name, document in documents.items():
        checked = check_bytes(
            json.dumps(written_by_a_run() if name in {"sixty", "six"} else document).encode(), derivation=_OF.get(name)
        )
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
    assert chromium.run("return [document.scripts.length, document.images.length]") == [1, 0]


@pytest.mark.parametrize("name", ["broken", "mixed"])
@pytest.mark.parametrize(
    "screen", [{"width": 1400, "height": 900}, {"width": 390, "height": 844, "mobile": True}], ids=["1400", "390"]
)
def test_broken_row_is_a_red_card_above_the_fold(
    chromium: Browser, paths: dict[str, Path], name: str, screen: dict[str, Any]
) -> None:
    """It was an amber banner, a folded line and a green `proven`, below every row that was measured."""
    chromium.as_screen(**screen)
    chromium.open(paths[name])

    shown, bottom, border, head, first_row, order = chromium.run(
        """const card = document.querySelector('.card'), at = card.getBoundingClientRect();
        const after = document.querySelectorAll('h2#rows, .card:not(.failed)');
        return [card.innerText, at.bottom, getComputedStyle(card).borderTopColor,
            document.querySelector('.tile').innerText, document.querySelector('table.sort tbody tr').innerText,
            [...after].every(each => each.getBoundingClientRect().top > at.bottom)]"""
    )

    assert "runtime zeroized broken: the scan found 80 plaintext copies" in " ".join(shown.split())
    assert bottom <= screen["height"]
    assert border == "rgb(179, 38, 30)"
    assert head.startswith("Do not release: 1 row failed")
    assert "left-behind" in first_row
    assert order is True


def test_rows_are_sorted_by_number_and_filtered_by_words(chromium: Browser, paths: dict[str, Path]) -> None:
    chromium.open(paths["everything"])
    column = "[...document.querySelectorAll('table.sort tbody tr:not([hidden])')].map(row => row.cells[4].innerText)"
    click = "[...document.querySelectorAll('table.sort th button')].find(each => each.innerText.startsWith('overhead')).click()"

    assert chromium.run(f"{click}; return {column}") == ["-17.96", "+0.05", "+0.61", "+0.61", ""]
    assert chromium.run(f"{click}; return {column}") == ["", "+0.61", "+0.61", "+0.05", "-17.96"]
    filtered = chromium.run(
        "const field = document.querySelector('input[type=search]'); field.value = 'h100 NULL';"
        f"field.dispatchEvent(new Event('input')); return {column}"
    )
    assert filtered == ["+0.05"]


def test_link_to_a_row_opens_it(chromium: Browser, paths: dict[str, Path]) -> None:
    chromium.open(paths["sixty"])
    opened = "return document.querySelector('#row-000000000050 > details').open"

    assert chromium.run(opened) is False
    assert chromium.run(
        "document.querySelector('a[href=\"#row-000000000050\"]').click();"
        "await new Promise(done => addEventListener('hashchange', done, {once: true}));" + opened
    )


def test_no_script_but_the_pages_own_may_run(chromium: Browser, paths: dict[str, Path]) -> None:
    chromium.open(paths["run"])
    chromium.run(
        "const added = document.createElement('script'); added.textContent = 'window.foreign = 1'; document.body.append(added)"
    )

    assert chromium.run("return window.foreign === undefined")
    assert any("Content Security Policy" in each for each in chromium.complaints())


def test_six_rows_of_one_round_print_on_four_pages(chromium: Browser, paths: dict[str, Path]) -> None:
    chromium.open(paths["six"])

    assert len(re.findall(rb"/Type\s*/Page\b", chromium.printed())) <= 4


@pytest.mark.parametrize(
    ("name", "screen", "dark"),
    [("run", _DESKTOP, False), ("everything", _DESKTOP, True), ("everything", _PHONE, False), ("mixed", _DESKTOP, True)],
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
    assert chromium.run("return document.querySelectorAll('.card:not(.failed)').length") == 60
    assert chromium.run("return document.getElementsByTagName('*').length") < 400 * 60
    assert (did["LayoutCount"] < 20, did["RecalcStyleCount"] < 20) == (True, True)


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


def test_collapsed_rows_are_printed(chromium: Browser, paths: dict[str, Path]) -> None:
    """A printed page cannot be clicked. What is folded inside of a row stays out: it is for who looks closer, at the report."""
    chromium.open(paths["run"])
    chromium.run("document.querySelectorAll('details').forEach(each => each.open = false)")
    seen = "return document.querySelector('.plots').checkVisibility()"
    closed = chromium.run(seen)
    chromium.command("Emulation.setEmulatedMedia", media="print")
    on_paper = chromium.run(seen)
    chromium.command("Emulation.setEmulatedMedia", media="")

    assert (closed, on_paper) == (False, True)
    assert chromium.printed().startswith(b"%PDF")


def test_report_extracted_from_the_page_is_unchanged(chromium: Browser, paths: dict[str, Path]) -> None:
    chromium.open(paths["run"])
    link = chromium.run("return document.querySelector('a[download]').href")

    taken = gzip.decompress(base64.b64decode(link.partition("base64,")[2]))

    assert json.loads(taken) == written_by_a_run()
    assert check_bytes(taken).faults == ()
