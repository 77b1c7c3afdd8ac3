"""What a guest has of a model already: in a cache of the hub's client, in its image or on a volume. It is verified, and only read."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pytest_glasshouse.workloads.model_files import digest_of, identity, listed_content
from tests.loopback.causal_models import write
from tests.loopback.hub import Hub
from tests.unit.agent.arriving_models import (
    COMMIT,
    FILES,
    FIRST,
    INDEX,
    MODEL,
    REPO,
    SECOND,
    TOTAL,
    Guest,
    digests,
    own,
    with_reason,
)


def cached(folder: Path, files: Mapping[str, bytes], *, commit: str = COMMIT) -> Path:
    """A cache of the hub's client that has these files: links to blobs, named by digest as large files are."""
    home = folder / f"models--{REPO.replace('/', '--')}"
    write({digests({name: content})[name]: content for name, content in files.items()}, home / "blobs")
    (home / "snapshots" / commit).mkdir(parents=True)
    for name, content in files.items():
        (home / "snapshots" / commit / name).symlink_to(home / "blobs" / digests({name: content})[name])
    return folder


def asked_for(hub: Hub) -> set[str]:
    return {one.file for one in hub.requests if one.file}


@pytest.mark.parametrize("commit", [COMMIT, "f" * 40])
def test_what_a_cache_has_of_a_model_is_not_downloaded(commit: str, guest: Guest, hub: Hub, tmp_path: Path) -> None:
    """Also of another commit, whose weights are often the same."""
    cache = cached(tmp_path / "cache", {FIRST: FILES[FIRST]}, commit=commit)
    before = [(path, path.lstat().st_mtime_ns, path.stat().st_mtime_ns) for path in sorted(cache.rglob("*"))]
    guest.download(hub, directory=str(cache))
    assert guest.ended()["phase"] == "ready"
    assert asked_for(hub) == {name for name, content in FILES.items() if content} - {FIRST}
    assert guest.below() == own()
    assert [(path, path.lstat().st_mtime_ns, path.stat().st_mtime_ns) for path in sorted(cache.rglob("*"))] == before


def test_a_file_of_a_cache_that_is_not_as_listed_is_downloaded_and_stays_as_it_was(
    guest: Guest, hub: Hub, tmp_path: Path
) -> None:
    other = bytes(len(FILES[FIRST]))
    cache = cached(tmp_path / "cache", {FIRST: other, SECOND: FILES[SECOND][:-1]})
    guest.download(hub, directory=str(cache))
    assert guest.ended()["phase"] == "ready"
    assert {FIRST, SECOND} <= asked_for(hub)
    assert guest.below() == own()
    found = {
        name: (cache / f"models--{REPO.replace('/', '--')}" / "snapshots" / COMMIT / name).read_bytes()
        for name in (FIRST, SECOND)
    }
    assert digests(found) == digests({FIRST: other, SECOND: FILES[SECOND][:-1]})


# A directory of the guest.

CACHED = f"models--{REPO.replace('/', '--')}/snapshots/{COMMIT}"
LAYOUTS = {
    "itself": "", "by its whole name": REPO, "by its name": "model", "a cache": CACHED, "a home of a cache": f"hub/{CACHED}",
}  # fmt: skip


@pytest.mark.parametrize("links", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_model_that_the_guest_has_is_found_and_only_read(layout: str, links: bool, guest: Guest, tmp_path: Path) -> None:
    place = tmp_path / "models" / LAYOUTS[layout]
    write(
        {**FILES, "README.md": b"more", "pytorch_model.bin": b"not loaded", ".hidden.json": b"", "original/params.json": b"{}"},
        place,
    )
    if links:
        for number, name in enumerate(FILES):
            (place / name).rename(tmp_path / f"blob-{number}")
            (place / name).symlink_to(tmp_path / f"blob-{number}")
    seen = identity(place)
    guest.model("there", directory=str(tmp_path / "models"), repo=REPO, commit=COMMIT)
    state = guest.ended()
    assert (state["phase"], state["source"], state["done"]) == ("ready", "there", TOTAL)
    assert guest.agent._models.plan(MODEL) == {"sha256": MODEL, "directory": str(place), "identity": seen}
    assert guest.below() == {}
    assert identity(place) == seen
    guest.end()
    assert identity(place) == seen, "the guest's end removes what it wrote, and this it did not"


def _instead(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def _exchange(directory: Path) -> None:
    (directory / FIRST).write_bytes(FILES[SECOND])
    (directory / SECOND).write_bytes(FILES[FIRST])


#: What may be wrong with a guest's copy, and what it is called.
COPIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "one more": (lambda d: (d / "adapter_config.json").write_bytes(b"{}"), "adapter_config.json"),
    "one more link": (lambda d: (d / "more.json").symlink_to(d / FIRST), "more.json"),
    "weights in one file": (lambda d: (d / "model.safetensors").symlink_to(d / FIRST), f"{FIRST} (and 2 more)"),
    "one less": (lambda d: (d / "empty.txt").unlink(), "empty.txt"),
    "a byte": (lambda d: (d / SECOND).write_bytes(FILES[SECOND][:-1] + b"\0"), SECOND),
    "a byte more": (lambda d: (d / "empty.txt").write_bytes(b"\0"), "empty.txt"),
    "another size": (lambda d: (d / FIRST).write_bytes(b""), FIRST),
    "two exchanged": (_exchange, f"{FIRST} (and 1 more)"),
    "a link to nowhere": (lambda d: _instead(d / FIRST, lambda path: path.symlink_to("nowhere")), FIRST),
    "a directory": (lambda d: _instead(d / FIRST, Path.mkdir), FIRST),
    "a pipe": (lambda d: _instead(d / FIRST, os.mkfifo), FIRST),
}  # fmt: skip


@pytest.mark.parametrize("what", COPIES)
def test_a_copy_that_differs_is_named_and_left_as_it_is(what: str, guest: Guest, tmp_path: Path) -> None:
    spoil, named = COPIES[what]
    place = write(FILES, tmp_path / "models")
    spoil(place)
    names = sorted(each.name for each in place.iterdir())
    guest.model("there", directory=str(place))
    assert with_reason(guest.ended()) == ("differs", f"the guest's copy of the model has another {named}")
    assert sorted(each.name for each in place.iterdir()) == names


@pytest.mark.parametrize(
    ("directory", "repo"), [("nowhere", REPO), ("models", ".."), ("models", "org/../../secret"), ("models\0", REPO)]
)
def test_a_directory_that_does_not_have_the_model_is_one_sentence(
    directory: str, repo: str, guest: Guest, tmp_path: Path
) -> None:
    write(FILES, tmp_path)
    (tmp_path / "models").mkdir()
    write(FILES, tmp_path / "secret")
    guest.model("there", directory=str(tmp_path / directory), repo=repo, commit=COMMIT)
    assert with_reason(guest.ended()) == ("absent", "the guest's directory does not have the model")


def test_an_index_that_names_a_file_beside_the_list_is_refused(guest: Guest, tmp_path: Path) -> None:
    """Loading would read it, and no digest covers it."""
    files = {**FILES, INDEX: b'{"weight_map": {"a": "../other/model.safetensors"}}'}
    place = write(files, tmp_path / "models")
    guest.model("there", files, directory=str(place))
    state = guest.ended(digest_of(listed_content(files)))
    assert with_reason(state) == ("malformed", f"{INDEX} names weights that are not in the directory")


def test_a_hub_follows_a_directory_that_does_not_have_the_model(guest: Guest, hub: Hub, tmp_path: Path) -> None:
    """At once, as a host does it: nothing of the first is in the way of the second."""
    for _ in range(5):
        guest.model("there", directory=str(tmp_path / "nowhere"))
        assert guest.ended()["phase"] == "failed"
    guest.download(hub)
    assert guest.ended()["phase"] == "ready"
    assert guest.below() == own()
