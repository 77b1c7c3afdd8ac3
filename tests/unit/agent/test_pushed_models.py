"""A guest takes the next piece of a pushed model and nothing else, and refuses lists that are not a model's."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.workloads.model_files import MOST_FILES, digest_of, listed_content
from tests.unit.agent.arriving_models import FILES, FIRST, INDEX, LONG_S, MODEL, SECOND, TOTAL, Guest, digests, entries


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    made = Guest(tmp_path_factory.mktemp("guest"))
    yield made
    made.end()


@pytest.fixture
def guest(shared: Guest) -> Iterator[Guest]:
    """One whose models are forgotten after every test."""
    yield shared
    shared.agent._models.end()
    shared.answers.clear()
    shutil.rmtree(shared.root, ignore_errors=True)
    shared.use([])


def written(guest: Guest) -> dict[str, str]:
    return {name.partition("/")[2]: content for name, content in guest.below().items()}


@pytest.mark.parametrize("piece", [4 << 20, 50_000, 4096])
def test_a_model_is_pushed_piece_by_piece(piece: int, guest: Guest) -> None:
    assert guest.model("pushed") == {}
    assert guest.push(piece=piece) == [name for name in sorted(FILES) if FILES[name]]
    state = guest.ended()
    assert (state["phase"], state["source"], state["done"], state["total"]) == ("ready", "pushed", TOTAL, TOTAL)
    assert written(guest) == digests(FILES)
    done = [each["done"] for each in guest.answers if each["phase"] == "push"]
    assert done == sorted(done)


def test_a_model_of_empty_files_needs_no_piece(guest: Guest) -> None:
    files = {"config.json": b"", "a.txt": b""}
    guest.model("pushed", files)
    assert guest.ended(digest_of(listed_content(files)))["phase"] == "ready"


#: Pieces that are not the next one: what of the wanted name, offset and bytes differs.
PIECES: dict[str, Callable[[str, int], dict[str, Any]]] = {
    "again": lambda name, at: {"name": name, "offset": at - 10},
    "further on": lambda name, at: {"name": name, "offset": at + 10},
    "from before": lambda name, _at: {"name": name, "offset": -1},
    "far behind the end": lambda name, _at: {"name": name, "offset": 1 << 60},
    "the next file": lambda _name, _at: {"name": SECOND, "offset": 0},
    "a file that is complete": lambda _name, _at: {"name": "config.json", "offset": 0},
    "a file that is empty": lambda _name, _at: {"name": "empty.txt", "offset": 0},
    "a file that is not listed": lambda _name, at: {"name": "x.json", "offset": at},
    "a path": lambda name, at: {"name": f"../{name}", "offset": at},
    "an absolute path": lambda _name, at: {"name": "/tmp/escaped.json", "offset": at},
    "too long": lambda name, at: {"name": name, "offset": at, "payload": bytes(len(FILES[FIRST]))},
    "of another model": lambda name, at: {"name": name, "offset": at, "model": "0" * 64},
}


@pytest.mark.parametrize("what", PIECES)
def test_a_piece_that_is_not_the_next_one_is_refused_and_changes_nothing(what: str, guest: Guest) -> None:
    guest.model("pushed")
    guest.push(most=2, piece=70_000)
    wants = guest.wanted()
    assert wants == {"name": FIRST, "offset": 70_000}
    before = guest.below()
    fields = {"model": MODEL, "payload": b"0123456789", **PIECES[what](wants["name"], wants["offset"])}
    refused = guest.ask("lay", fields.pop("payload"), **fields)
    assert refused["error"] == "ProtocolError"
    assert guest.below() == before
    assert guest.wanted() == wants
    guest.push()
    assert guest.ended()["phase"] == "ready"
    assert written(guest) == digests(FILES)


def test_a_piece_that_is_sent_twice_because_its_answer_was_lost_is_written_once(guest: Guest) -> None:
    """A connection that was cut for a while: the host asks again with the number that it had."""
    guest.model("pushed")
    while (wants := guest.wanted()) is not None:
        name, at = wants["name"], wants["offset"]
        numbered = {"session": "s", "number": 1 + len(guest.answers), "model": MODEL, "name": name, "offset": at}
        for _ in range(3):
            assert guest.ask("lay", FILES[name][at : at + 40_000], **numbered) == {}
    assert guest.ended()["phase"] == "ready"
    assert written(guest) == digests(FILES)


def test_what_a_piece_left_behind_that_found_no_room_is_written_over(guest: Guest) -> None:
    guest.model("pushed")
    guest.push(most=1)
    assert guest.wanted() == {"name": FIRST, "offset": 0}
    [path] = guest.root.glob(f"*/{FIRST}")
    path.write_bytes(b"a part of it")
    assert guest.push() == [FIRST, SECOND, INDEX], "each once: nothing was wrong with it"
    assert guest.ended()["phase"] == "ready"
    assert all(each["phase"] != "verify" or each["done"] <= TOTAL for each in guest.answers)
    assert written(guest) == digests(FILES)


@pytest.mark.parametrize("name", [FIRST, "config.json"])
def test_a_wrong_byte_is_wanted_once_more_and_then_no_more(name: str, guest: Guest) -> None:
    wrong = {**FILES, name: FILES[name][:-1] + bytes([FILES[name][-1] ^ 1])}
    guest.model("pushed")
    total = sum(len(content) for content in FILES.values())
    first = guest.push(wrong, most=sum(1 for content in FILES.values() if content), piece=total)
    assert set(first) == {each for each in FILES if FILES[each]}
    assert guest.wanted() == {"name": name, "offset": 0}, "only the one that differs"
    assert guest.push(wrong) == [name]
    state = guest.ended()
    assert (state["reason"], state["detail"]) == ("differs", f"the host sent, twice, another {name} than it lists")
    assert guest.below() == {}
    assert guest.model("pushed") == {}
    guest.push(wrong, most=sum(1 for content in FILES.values() if content), piece=total)
    assert guest.push() == [name]
    assert guest.ended()["phase"] == "ready"


def test_a_host_that_sends_nothing_is_not_waited_for(guest: Guest) -> None:
    guest.model("pushed", idle_s=0)
    state = guest.ended()
    assert (state["reason"], state["detail"]) == ("slow", "no byte arrived from the host for 0 s")
    assert guest.below() == {}


def test_a_push_that_was_given_up_takes_no_more(guest: Guest) -> None:
    guest.model("pushed")
    guest.push(most=2)
    guest.state(stop=True)
    assert (guest.ended()["reason"], guest.ended()["detail"]) == ("stopped", "the host gave up")
    assert guest.ask("lay", b"x", model=MODEL, name=FIRST, offset=0)["error"] == "ProtocolError"
    assert guest.below() == {}


def test_a_model_that_is_ready_takes_no_more_and_is_not_given_up(guest: Guest) -> None:
    guest.model("pushed")
    guest.push()
    assert guest.ended()["phase"] == "ready"
    assert guest.ask("lay", b"x", model=MODEL, name=FIRST, offset=len(FILES[FIRST]))["error"] == "ProtocolError"
    assert guest.state(stop=True)["phase"] == "ready"
    assert guest.model("pushed") == {}
    assert guest.state()["phase"] == "ready"
    assert written(guest) == digests(FILES)


def test_two_models_arrive_beside_each_other(guest: Guest) -> None:
    other = {**FILES, "config.json": b"{}"}
    model = digest_of(listed_content(other))
    guest.model("pushed")
    guest.model("pushed", other)
    guest.push(most=2)
    guest.push(other, model=model)
    guest.push()
    assert (guest.ended()["phase"], guest.ended(model)["phase"]) == ("ready", "ready")
    assert {guest.agent._models.plan(each)["directory"] for each in (MODEL, model)} == {
        str(guest.root / MODEL[:16]), str(guest.root / model[:16]),
    }  # fmt: skip


# Lists.


def changed(**fields: Any) -> list[dict[str, Any]]:
    return [{**each, **fields} if each["name"] == "config.json" else each for each in entries()]


#: Lists that are no model's, and a part of what the host reads.
LISTS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"files": []}, f"a list of at most {MOST_FILES} files; saw 0"),
    "too many": ({"files": entries()[:1] * (MOST_FILES + 1)}, f"at most {MOST_FILES} files; saw {MOST_FILES + 1}"),
    "one twice": ({"files": [*entries(), entries()[0]]}, "the list of files of this digest"),
    "one twice, and the digest of that": (
        {"files": [*entries(), entries()[0]], "model": digest_of([*listed_content(FILES), listed_content(FILES)[0]])},
        "the list of files of this digest",
    ),
    "one left out": ({"files": entries()[1:]}, "the list of files of this digest"),
    "another digest of a file": ({"files": changed(sha256="0" * 64)}, "the list of files of this digest"),
    "another digest": ({"model": "0" * 64}, "the list of files of this digest"),
    "a digest that is a path": ({"model": "../../../../tmp"}, "the list of files of this digest"),
    "above": ({"files": changed(name="../config.json")}, "the name of a model's file"),
    "below": ({"files": changed(name="a/config.json")}, "the name of a model's file"),
    "absolute": ({"files": changed(name="/tmp/escaped.json")}, "the name of a model's file"),
    "hidden": ({"files": changed(name=".config.json")}, "the name of a model's file"),
    "a program": ({"files": changed(name="model.py")}, "the name of a model's file"),
    "a zero byte": ({"files": changed(name="a\0.json")}, "the name of a model's file"),
    "a line end": ({"files": changed(name="a.json\n")}, "the name of a model's file"),
    "no name": ({"files": changed(name="")}, "the name of a model's file"),
    "a long name": ({"files": changed(name="a" * 250 + ".json")}, "the name of a model's file"),
    "a negative size": ({"files": changed(size=-1)}, "a size in bytes and a SHA-256"),
    "more than there is": ({"files": changed(size=1 << 41)}, "a size in bytes and a SHA-256"),
    "a digest in capitals": ({"files": changed(sha256="AB" * 32)}, "a size in bytes and a SHA-256"),
    "a size that is no integer": ({"files": changed(size=1.5)}, "expected an integer"),
    "a size that is true": ({"files": changed(size=True)}, "expected an integer"),
    "a file that is text": ({"files": ["config.json"]}, "expected an object"),
    "another source": ({"source": "elsewhere"}, "expected there or hub or pushed"),
    "no source": ({"source": None}, "expected there or hub or pushed"),
}


@pytest.mark.parametrize("what", LISTS)
def test_a_list_that_is_no_models_is_refused_and_nothing_is_written(what: str, guest: Guest) -> None:
    fields, part = LISTS[what]
    refused = guest.model("pushed", **fields)
    assert refused["error"] in ("IntegrityError", "ProtocolError")
    assert part in refused["detail"]
    assert guest.below() == {}
    assert not Path("/tmp/escaped.json").exists()
    model = fields.get("model", MODEL)
    assert guest.ask("arrival", model=model)["error"] == "ProtocolError", "nothing is on its way"


@pytest.mark.parametrize("op", ["arrival", "lay"])
def test_a_model_that_nobody_asked_for_is_named_in_a_refusal(op: str, guest: Guest) -> None:
    refused = guest.ask(op, model="\x1b[31m" + "a" * 200, name="config.json", offset=0)
    assert refused["error"] == "ProtocolError"
    assert "expected the digest of a model that was asked for" in refused["detail"]
    assert refused["detail"].isprintable()
    assert guest.model("pushed", within_s=LONG_S) == {}
