"""Where the commit and the CI run of a report are shown: written into the report's `extra` by the run, read by the page.

Both are a stranger's words, of a CI's environment or of a report: nothing but a plain address of a public host becomes a link.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_COMMIT, _RUN = "pytest-glasshouse.dev/commitUrl", "pytest-glasshouse.dev/ciRunUrl"
_LONGEST = 300
#: No port, no user, no address of a machine, no query: such addresses may not be published, or lead elsewhere than they look.
_LINK = re.compile(r"https://(?:[a-z0-9](?:[a-z0-9-]{0,62})\.)+[a-z]{2,24}(?:/[A-Za-z0-9._~-]{1,100}){1,12}/?")
_COMMIT_ID = re.compile(r"[0-9a-f]{40,64}")


@dataclass(frozen=True, kw_only=True)
class CiLinks:
    """Addresses that may be links; None where there is none."""

    commit: str | None = None
    run: str | None = None


def https_link(text: object) -> str | None:
    """`text` if it is a plain https address, else None."""
    return text if isinstance(text, str) and len(text) <= _LONGEST and _LINK.fullmatch(text) else None


def ci_extra(environ: Mapping[str, str], commit: str | None) -> dict[str, str]:
    """Members of a report's `extra`, from the environment of GitHub Actions or GitLab CI; empty elsewhere."""
    found: dict[str, str | None] = {}
    known = commit if commit is not None and _COMMIT_ID.fullmatch(commit) else None
    if environ.get("GITHUB_ACTIONS") == "true":
        base = f"{environ.get('GITHUB_SERVER_URL', '')}/{environ.get('GITHUB_REPOSITORY', '')}"
        found = {_COMMIT: f"{base}/commit/{known}", _RUN: f"{base}/actions/runs/{environ.get('GITHUB_RUN_ID', '')}"}
    elif environ.get("GITLAB_CI") == "true":
        found = {_COMMIT: f"{environ.get('CI_PROJECT_URL', '')}/-/commit/{known}", _RUN: environ.get("CI_JOB_URL")}
    links = {name: https_link(text) for name, text in found.items() if name != _COMMIT or known}
    return {name: link for name, link in links.items() if link is not None}


def links_of(extra: Mapping[str, object]) -> CiLinks:
    """The links of a report, whoever wrote it."""
    return CiLinks(commit=https_link(extra.get(_COMMIT)), run=https_link(extra.get(_RUN)))
