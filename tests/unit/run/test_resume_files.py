"""What a resumed run reads: a name that may be anything, and a history that a kill cut off."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.report.run_key import TagKey
from pytest_glasshouse.run.attempt_history import HISTORY, AttemptHistory
from pytest_glasshouse.run.resume import read


@pytest.mark.parametrize("named", ["a" * 5000, "a" * 254, "~nobody-of-this-name/x", "", ".", "/dev/zero", "\x1b[2J"])
def test_name_that_is_no_run_is_refused_in_one_printable_line(tmp_path: Path, named: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^--glasshouse-resume ") as caught:
        read(named, tmp_path, environ={})
    assert str(caught.value).isprintable()


def test_history_cut_off_by_the_kill_is_read_up_to_the_cut(tmp_path: Path) -> None:
    history = AttemptHistory(tmp_path / "run", TagKey(Ed25519PrivateKey.generate(), "run"))
    history.start({}, attempt=1, at="2026-11-21T00:00:00Z", judged_before=[])
    history.begin("row-1")
    with (tmp_path / "run" / HISTORY).open("a", encoding="utf-8") as file:
        file.write('{"event": "fin')

    assert [each["begun"] for each in history.attempts()] == [["row-1"]]
    history.finish("row-1", "measured")
    assert history.attempts()[0]["finished"] == [{"rowId": "row-1", "outcome": "measured"}]
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700
