"""A report says where its commit and its CI run are shown; only a plain https address becomes a link."""

from __future__ import annotations

import pytest

from pytest_glasshouse.check.check import Checked, Level
from pytest_glasshouse.render.page import page
from pytest_glasshouse.report.ci_links import CiLinks, ci_extra, https_link, links_of
from pytest_glasshouse.report.redaction import hits
from pytest_glasshouse.report.schema import schema_faults
from tests.unit.report import example

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GITHUB = {
    "GITHUB_ACTIONS": "true", "GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "a/b", "GITHUB_RUN_ID": "17",
}  # fmt: skip
GITLAB = {"GITLAB_CI": "true", "CI_PROJECT_URL": "https://gitlab.com/a/b", "CI_JOB_URL": "https://gitlab.com/a/b/-/jobs/9"}


def test_github_and_gitlab_are_known_and_nothing_else_is() -> None:
    expected = CiLinks(commit=f"https://github.com/a/b/commit/{COMMIT}", run="https://github.com/a/b/actions/runs/17")
    assert links_of(ci_extra(GITHUB, COMMIT)) == expected
    expected = CiLinks(commit=f"https://gitlab.com/a/b/-/commit/{COMMIT}", run="https://gitlab.com/a/b/-/jobs/9")
    assert links_of(ci_extra(GITLAB, COMMIT)) == expected
    assert links_of(ci_extra(GITHUB, None)).commit is None
    assert ci_extra({"CI": "true"}, COMMIT) == {}


@pytest.mark.parametrize(
    "text",
    [
        "http://github.com/a", "https://github.com", "https://github.com:8443/a", "https://user@github.com/a", "https://10.0.0.1/a",
        "https://localhost/a", "javascript:alert(1)", "https://github.com/a?token=1", 'https://github.com/a"onclick=1', "https://g.com/\n",
        f"https://github.com/{'a/' * 200}", "", None, 7, ["https://github.com/a"],
    ],
)  # fmt: skip
def test_what_is_no_plain_https_address_is_no_link(text: object) -> None:
    assert https_link(text) is None
    assert links_of({"pytest-glasshouse.dev/commitUrl": text}) == CiLinks()


def test_server_of_a_company_with_a_port_is_left_out_and_does_not_block_the_report() -> None:
    assert ci_extra({**GITHUB, "GITHUB_SERVER_URL": "https://git.example.org:8443"}, COMMIT) == {}


def test_links_may_be_published_and_the_page_shows_them() -> None:
    document = example.document(example.measured(), extra=ci_extra(GITHUB, COMMIT))

    assert list(schema_faults(document)) == []
    assert hits(document["extra"]) == []
    shown = page(document, Checked(faults=(), level=Level.CONSISTENT, missing=(), rows=1, excluded=0))
    assert f'<a href="https://github.com/a/b/commit/{COMMIT}">' in shown
    assert '<a href="https://github.com/a/b/actions/runs/17">' in shown
