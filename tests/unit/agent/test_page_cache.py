"""Before a leg, the files that loading its base model reads are read once, and nothing else in that directory."""

from __future__ import annotations

from pathlib import Path

from pytest_glasshouse.agent.page_cache import warm_page_cache


def test_only_what_is_loaded_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "pytorch_model.bin").write_bytes(b"the same again")
    (tmp_path / "original").mkdir()
    (tmp_path / "original" / "params.json").write_bytes(b"{}")
    read = warm_page_cache({"sha256": "0" * 64, "directory": str(tmp_path), "identity": "0" * 64})
    assert read == {"state": "pre-read", "files": 2, "bytes": 9}


def test_a_model_in_memory_and_none_at_all_need_no_reading() -> None:
    nothing = {"state": "pre-read", "files": 0, "bytes": 0}
    assert warm_page_cache(None) == warm_page_cache({"sha256": "0" * 64, "descriptors": {"config.json": 3}}) == nothing
