"""The site of many reports in a real Chromium: no request, no console message, accessible, on a phone and in the dark."""

from __future__ import annotations

import copy
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from pytest_glasshouse.check.compare import compare
from pytest_glasshouse.cli.main import main
from pytest_glasshouse.cli.view import open_view
from pytest_glasshouse.report.bundle import report_bytes
from pytest_glasshouse.report.seal import sealed
from tests.browser.driver import Browser, browser
from tests.browser.test_page import SERIOUS, axe
from tests.unit.report import example

#: With SOAK, as many as a team has after years.
REPORTS = 1000 if os.environ.get("SOAK") else 24


@pytest.fixture(scope="module", name="chromium")
def one_browser() -> Iterator[Browser]:
    with browser() as session:
        yield session


@pytest.fixture(scope="module", name="reports")
def directory_of_reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reports of three rows each, the last of them with a row that broke, and one that is faulty."""
    folder = tmp_path_factory.mktemp("reports")
    hostile = example.allocation(gpu_model="</script><b>hostile|x=y")
    rows = [example.measured(rounds=3, name="steady"), example.measured(rounds=3, name="other", allocation=hostile)]
    documents = {True: example.document(*rows, example.excluded()), False: example.document(*rows)}
    for number in range(REPORTS):
        made: Any = copy.copy(documents[number == REPORTS - 1])
        del made["seal"]
        made |= {
            "runId": f"run-{number:04}",
            "createdAt": f"2026-{1 + number // 90:02}-{1 + number // 4 % 28:02}T{number % 24:02}:00:00Z",
        }
        (folder / f"run-{number:04}.json").write_bytes(report_bytes(sealed(made, key=example.KEYS.report)))
    faulty = json.loads((folder / "run-0000.json").read_bytes()) | {"runId": "faulty"}
    (folder / "faulty.json").write_text(json.dumps(faulty), "utf-8")
    return folder


@pytest.fixture(scope="module", name="site")
def built_site(reports: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site") / "public"
    assert main(["site", str(reports), "--out", str(out)], derivation=example.EXAMPLE) == 0
    return out


@pytest.mark.soak
@pytest.mark.parametrize("name", ["index", "compare"])
@pytest.mark.parametrize(
    "screen", [{"width": 1400, "height": 900, "dark": True}, {"width": 360, "height": 740, "mobile": True}], ids=["1400", "360"]
)
def test_site_opens_without_a_request_or_a_complaint_and_is_accessible(
    chromium: Browser, site: Path, name: str, screen: dict[str, Any]
) -> None:
    chromium.as_screen(**screen)
    chromium.open(site / f"{name}.html")

    assert chromium.complaints() == []
    assert chromium.requests() == [(site / f"{name}.html").as_uri()]
    assert chromium.run("return document.documentElement.scrollWidth") <= screen["width"]
    chromium.run(axe() + ";window.axe = axe")
    violated = chromium.run(
        "return (await axe.run({resultTypes: ['violations']})).violations.map(each => [each.impact, each.id, each.nodes[0].html])"
    )
    assert [each for each in violated if each[0] in SERIOUS] == []


@pytest.mark.soak
def test_index_has_failures_first_every_run_and_what_was_left_out(chromium: Browser, site: Path) -> None:
    assert (site / "index.html").stat().st_size < 2_000_000
    chromium.as_screen(width=1400, height=900)
    chromium.open(site / "index.html")

    card, runs, left_out, sections = chromium.run(
        """return [document.querySelector('.card').innerText, document.querySelectorAll('table.sort tbody tr').length,
        document.querySelector('.tile.bad').innerText, document.querySelectorAll('section.card').length]"""
    )
    assert "raw callback completed broken" in card
    assert (runs, sections) == (REPORTS, 3)
    assert left_out.startswith("1 file left out")


def test_filters_hide_rows_of_other_verdicts(chromium: Browser, site: Path) -> None:
    chromium.open(site / "index.html")
    shown = chromium.run(
        """const chosen = document.querySelector('select[data-of=verdict]'); chosen.value = 'excluded';
        chosen.dispatchEvent(new Event('change'));
        return [...document.querySelectorAll('section.card:not([hidden]) h3')].map(each => each.innerText)"""
    )
    assert shown == ["mlp-h100-30m"]


def test_filters_hide_rows_of_the_forest_plot_too_and_close_the_gaps(chromium: Browser, site: Path) -> None:
    chromium.open(site / "index.html")
    shown = chromium.run(
        """const chosen = document.querySelector('select[data-of=GPU]'); chosen.selectedIndex = 1;
        const first = () => [...document.querySelectorAll('g[data-row]')].filter(each => each.getBoundingClientRect().height > 0);
        const before = first().length, top = first()[0].getBoundingClientRect().top;
        const last = first()[1].querySelector('text').textContent;
        for (const option of [...chosen.options].slice(1)) {
            chosen.value = option.value;
            chosen.dispatchEvent(new Event('change'));
            if (first()[0].querySelector('text').textContent === last) break;
        }
        return [before, first().map(each => each.querySelector('text').textContent), last,
                Math.abs(first()[0].getBoundingClientRect().top - top) < 2]"""
    )
    assert shown == [2, [shown[2]], shown[2], True]


def test_links_of_the_index_lead_to_pages_that_are_there(chromium: Browser, site: Path) -> None:
    chromium.open(site / "index.html")
    addresses = chromium.run("return [...new Set([...document.links].map(each => each.href.split('#')[0]))]")

    assert len(addresses) > REPORTS
    assert not [each for each in addresses if not Path(each.removeprefix("file://")).is_file()]


def test_two_runs_are_compared_in_the_page_as_the_command_does(chromium: Browser, site: Path, reports: Path) -> None:
    """Its own arithmetic, in another language, has to give the same figures."""
    chromium.open(site / "compare.html")
    lines = chromium.run(
        "return [...document.querySelectorAll('#compared tbody tr')].map(row => [...row.cells].map(cell => cell.innerText))"
    )
    documents = [json.loads((reports / f"run-{number:04}.json").read_bytes()) for number in (REPORTS - 2, REPORTS - 1)]
    pairs = compare(*documents).pairs

    assert len(lines) == len(pairs) == 2
    for cells, pair in zip(lines, pairs, strict=True):
        assert pair.difference.ci95 is not None
        low, high = (float(each) for each in cells[4].split(" to "))
        assert (low, high) == pytest.approx((pair.difference.ci95.low, pair.difference.ci95.high), abs=0.02)
        assert float(cells[3]) == pytest.approx(pair.difference.points, abs=0.01)


def test_view_serves_the_site_and_what_runs_now_to_this_machine_only(reports: Path) -> None:
    run = reports / "run-x.run"
    run.mkdir()
    (run / "plan.json").write_text(json.dumps({"rows": {"a": "A"}}), "utf-8")
    (run / "progress.json").write_text(json.dumps({"workers": {"": "a  <b>raw</b>  train  40%"}}), "utf-8")
    server = open_view(reports, port=0, derivation=example.EXAMPLE)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    http = urllib3.PoolManager()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        index, live = (http.request("GET", f"{address}/{name}") for name in ("", "live.html"))
        assert (index.status, "Glasshouse reports" in index.data.decode()) == (200, True)
        assert "0 of 1 row ended" in live.data.decode()
        assert "&lt;b&gt;raw" in live.data.decode()
        assert http.request("GET", f"{address}/../../etc/passwd").status == 404
        assert http.request("GET", address, headers={"Host": "example.org"}).status == 404
    finally:
        server.shutdown()
        server.server_close()
        serving.join()
