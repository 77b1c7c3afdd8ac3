"""What a distribution's RECORD says of a file is what its content is compared with."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from pytest_glasshouse.agent.installed_code import Baseline

CONTENT = b"loaded = True\n"
DIGEST = base64.urlsafe_b64encode(hashlib.sha256(CONTENT).digest()).rstrip(b"=").decode()


def measured(site: Path, name: str, record: str) -> tuple[dict[str, str], tuple[str, ...]]:
    (site / "one.dist-info").mkdir()
    (site / "one.dist-info" / "RECORD").write_text(record)
    (site / name).write_bytes(CONTENT)
    found = Baseline([str(site)]).measure_loaded(
        {"maps": [], "modules": [["one", str(site / name)]], "hooks": []}, archive="/archive"
    )
    return dict(found.files), found.foreign


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("one.py", f"one.py,sha256={DIGEST},14\n"),
        ("one.py", f"other.py,,\r\none.py,sha256={DIGEST},14\r\n"),
        ("a,b.py", f'"a,b.py",sha256={DIGEST},14\n'),
    ],
    ids=["plain", "after one without a digest", "quoted"],
)
def test_file_that_is_as_recorded_is_accounted_for(name: str, record: str, tmp_path: Path) -> None:
    assert measured(tmp_path, name, record) == ({"one": hashlib.sha256(CONTENT).hexdigest()}, ())


@pytest.mark.parametrize(
    "record",
    ["", "one.py,,\n", "one.py,sha256=A,14\n", f"one.py,sha512={DIGEST},14\n", f"one.py,sha256={'A' * 43},14\n", '"one.py"\n'],
    ids=["no line", "no digest", "no base64", "another hash", "another digest", "no fields"],
)
def test_file_that_is_not_as_recorded_is_foreign(record: str, tmp_path: Path) -> None:
    assert measured(tmp_path, "one.py", record) == ({}, ("one: not as installed",))


def test_data_that_is_loaded_as_code_is_foreign_whatever_its_record_says(tmp_path: Path) -> None:
    """Names that no importer takes are not remembered: of a large installation two thirds, and megabytes."""
    name = "one.h"
    assert measured(tmp_path, name, f"{name},sha256={DIGEST},14\n") == ({}, ("one: not as installed",))
