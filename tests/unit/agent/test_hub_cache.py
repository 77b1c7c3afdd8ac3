"""What a guest on this machine downloads is kept for its later runs: in the cache of the hub's client, once it is verified."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import try_to_load_from_cache

from pytest_glasshouse.agent.hub_cache import keep
from tests.loopback.hub import Hub
from tests.loopback.hub_faults import Flipped
from tests.unit.agent.arriving_models import COMMIT, FILES, FIRST, MODEL, REPO, SECOND, Guest, with_reason


@pytest.fixture(params=["memory", "files"])
def downloading(request: pytest.FixtureRequest, guest: Guest) -> Guest:
    """A guest that holds its models in memory, or in files where memory is short."""
    if request.param == "memory":
        guest.agent._models.memory_left = lambda: 1 << 40
    return guest


def files_below(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def test_a_download_is_found_by_the_hub_s_client_and_is_not_made_again(downloading: Guest, hub: Hub, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    downloading.download(hub, directory=str(cache), keep=True)
    assert downloading.ended()["phase"] == "ready"
    for name, content in FILES.items():
        found = try_to_load_from_cache(REPO, name, cache_dir=cache, revision=COMMIT)
        assert isinstance(found, str)
        assert Path(found).read_bytes() == content
    assert not list(cache.rglob("*.incomplete"))
    asked = len(hub.requests)
    downloading.end()
    assert len(list(files_below(cache))) == 2 * len(FILES), "the guest's end leaves blobs and links there"
    again = Guest(tmp_path / "another")
    again.model("there", directory=str(cache), repo=REPO, commit=COMMIT)
    assert again.ended()["phase"] == "ready"
    again.end()
    assert len(hub.requests) == asked


def test_a_leg_is_given_what_was_verified_after_it_was_kept(guest: Guest, hub: Hub, tmp_path: Path) -> None:
    """A file that is linked into the cache has another change time, to which files are held."""
    from pytest_glasshouse.workloads.model_files import VerifiedBase

    guest.download(hub, directory=str(tmp_path / "cache"), keep=True)
    assert guest.ended()["phase"] == "ready"
    plan = guest.agent._models.plan(MODEL)
    assert "directory" in plan
    VerifiedBase(Path(plan["directory"]), plan["identity"]).check()


def test_a_download_with_a_flipped_byte_is_kept_nowhere(downloading: Guest, hub: Hub, tmp_path: Path) -> None:
    hub.arm(Flipped(at=700), on="large", file=FIRST, times=None)
    downloading.download(hub, directory=str(tmp_path / "cache"), keep=True)
    assert with_reason(downloading.ended())[0] == "differs"
    assert not list(files_below(tmp_path / "cache"))


def test_a_host_that_does_not_ask_for_it_gets_nothing_kept(guest: Guest, hub: Hub, tmp_path: Path) -> None:
    """As rented guests, whose directory is their owner's."""
    guest.download(hub, directory=str(tmp_path / "cache"))
    assert guest.ended()["phase"] == "ready"
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_takes_nothing_stops_no_row(downloading: Guest, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"a file where the folder should be")
    downloading.download(hub, directory=str(tmp_path / "cache"), keep=True)
    assert downloading.ended()["phase"] == "ready"


def test_a_file_of_another_commit_is_not_stored_twice(guest: Guest, hub: Hub, tmp_path: Path) -> None:
    from tests.unit.agent.test_models_found_there import asked_for, cached

    cache = cached(tmp_path / "cache", {FIRST: FILES[FIRST]}, commit="f" * 40)
    guest.download(hub, directory=str(cache), keep=True)
    assert guest.ended()["phase"] == "ready"
    assert FIRST not in asked_for(hub)
    assert SECOND in asked_for(hub)
    home = cache / f"models--{REPO.replace('/', '--')}"
    assert (home / "snapshots" / COMMIT / FIRST).resolve() == (home / "snapshots" / ("f" * 40) / FIRST).resolve()


@pytest.mark.parametrize(
    ("repo", "commit"), [("../x", COMMIT), ("a/b/c", COMMIT), (REPO, "../../x"), (REPO, "main"), ("", COMMIT)]
)
def test_names_that_are_no_repository_s_write_nothing(repo: str, commit: str, tmp_path: Path) -> None:
    assert not keep(tmp_path / "cache", repo, commit, directory=tmp_path, files=())
    assert not list(tmp_path.iterdir())
