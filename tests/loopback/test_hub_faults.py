"""Each fault of the loopback hub arrives, at the request it is armed for, and what the real client makes of it."""

from __future__ import annotations

import http.client
import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.limits import HANG_S, until
from tests.loopback.hub import Hub
from tests.loopback.hub_client import RealClient
from tests.loopback.hub_faults import (
    Changed,
    Compressed,
    Cut,
    Drip,
    Endless,
    Flipped,
    Headers,
    HungUp,
    Moved,
    Redirected,
    Refused,
    Tap,
    WrongSize,
)
from tests.loopback.hub_hostile import HOSTILE_HEADERS, HOSTILE_INFO, HOSTILE_NAMES, huge_json, many_siblings, tree_with
from tests.loopback.tiny_hub import FILES, FIRST, LET_IN, NEW, OLD, REPO, SECOND, answer, link, plain, tiny_hub

# What goes wrong.


def test_after_a_cut_the_client_asks_for_the_rest_only(client: RealClient, tmp_path: Path) -> None:
    """It keeps what came in whole pieces of 10 MiB."""
    piece = 10 << 20
    content = bytes(piece) + b"the rest" * 1000
    with Hub({REPO: {NEW: {FIRST: content}}}) as hub:
        hub.arm(Cut(after_bytes=piece + 4000), on="large")
        got = client.call("hf_hub_download", endpoint=hub.url, repo_id=REPO, filename=FIRST, local_dir=str(tmp_path)).path
        assert got.read_bytes() == content
        cut, resumed = hub.asked("large", method="GET")
        assert (cut.range, cut.status, cut.sent_bytes) == (None, 200, piece + 4000)
        assert (resumed.range, resumed.status, resumed.sent_bytes) == (f"bytes={piece}-", 206, 8000)


def test_a_flipped_byte_arrives_and_the_client_does_not_notice(client: RealClient, tmp_path: Path) -> None:
    """Whoever wants to know has to hash what came."""
    with tiny_hub() as hub:
        hub.arm(Flipped(at=4321), on="large", file=FIRST)
        path = client.call("snapshot_download", endpoint=hub.url, repo_id=REPO, local_dir=str(tmp_path)).path
        got = (path / FIRST).read_bytes()
        assert [at for at, (one, other) in enumerate(zip(got, FILES[FIRST], strict=True)) if one != other] == [4321]
        assert (path / SECOND).read_bytes() == FILES[SECOND]
        assert hub.unmet() == ()


def test_a_byte_is_flipped_in_whatever_range_it_is_asked_for() -> None:
    with tiny_hub() as hub:
        url = link(hub)
        hub.arm(Flipped(at=7), on="large", times=None)
        assert answer(url, Range="bytes=7-9")[2] == bytes([FILES[FIRST][7] ^ 1]) + FILES[FIRST][8:10]
        assert answer(url, Range="bytes=8-9")[2] == FILES[FIRST][8:10]


@pytest.mark.parametrize(("on", "by"), [("resolve", 1), ("large", -3), ("large", 3)])
def test_a_wrong_size_is_noticed_by_the_client(client: RealClient, tmp_path: Path, on: Any, by: int) -> None:
    with tiny_hub() as hub:
        hub.arm(WrongSize(by=by), on=on)
        refused = client.call("hf_hub_download", endpoint=hub.url, repo_id=REPO, filename=FIRST, local_dir=str(tmp_path))
        assert refused.error == "OSError"
        assert "Consistency check failed" in refused.says


def test_a_busy_hub_is_asked_again_after_the_time_it_names(client: RealClient, tmp_path: Path) -> None:
    with tiny_hub() as hub:
        hub.arm(Refused(status=429, retry_after_s=0, says="rate limit"), on="large")
        got = client.call("hf_hub_download", endpoint=hub.url, repo_id=REPO, filename=FIRST, local_dir=str(tmp_path)).path
        assert got.read_bytes() == FILES[FIRST]
        assert [one.status for one in hub.asked("large")] == [429, 200]
        hub.arm(Refused(status=429, retry_after_s=7), on="large")
        status, headers, _ = answer(link(hub))
        assert (status, headers["Retry-After"], headers["RateLimit"]) == (429, "7", '"resolvers";r=0;t=7')


def test_refusals_meet_the_request_they_are_armed_for(client: RealClient) -> None:
    with tiny_hub() as hub:
        hub.arm(Refused(status=503), on="info", skip=1)
        hub.arm(Refused(status=502, body=b"<html>Bad Gateway</html>"), on="info", skip=1)
        outcomes = [client.call("model_info", endpoint=hub.url, repo_id=REPO) for _ in range(4)]
        assert [one.error for one in outcomes] == [None, "HfHubHTTPError", "HfHubHTTPError", None]
        assert [one.status for one in hub.asked("info")] == [200, 503, 502, 200]
        assert "503" in outcomes[1].says


def test_a_fault_that_no_request_meets_is_told() -> None:
    with tiny_hub() as hub:
        hub.arm(Refused(), on="info", file="config.json")
        hub.arm(Flipped(), on="large")
        assert hub.unmet() == (Refused(), Flipped())
        answer(link(hub), "HEAD")
        assert hub.unmet() == (Refused(), Flipped())


def test_a_branch_moves_between_two_requests(client: RealClient, tmp_path: Path) -> None:
    """What is asked for by branch is then of another commit; what is asked for by commit stays."""
    with tiny_hub() as hub:
        hub.arm(Moved(commit=OLD), on="resolve", file="config.json")
        before = client.call("model_info", endpoint=hub.url, repo_id=REPO).value["sha"]
        got = client.call("hf_hub_download", endpoint=hub.url, repo_id=REPO, filename="config.json", cache_dir=str(tmp_path)).path
        assert (before, got.parent.name, got.read_bytes()) == (NEW, OLD, b"old")
        pinned = client.call(
            "hf_hub_download", endpoint=hub.url, repo_id=REPO, filename="config.json", revision=before, cache_dir=str(tmp_path)
        ).path
        assert pinned.read_bytes() == FILES["config.json"]
        hub.move(REPO, "main", NEW)
        assert client.call("model_info", endpoint=hub.url, repo_id=REPO).value["sha"] == NEW


def test_a_redirect_to_somebody_else_takes_no_token_along(client: RealClient, tmp_path: Path) -> None:
    with tiny_hub(tokens={LET_IN: ()}) as hub, tiny_hub(small_redirected=False) as elsewhere:
        hub.arm(Redirected(to=f"{elsewhere.url}/{REPO}/resolve/{NEW}/config.json", status=307), on="small", method="GET")
        got = client.call(
            "hf_hub_download", endpoint=hub.url, token=LET_IN, repo_id=REPO, filename="config.json", local_dir=str(tmp_path)
        ).path
        assert got.read_bytes() == FILES["config.json"]
        assert hub.tokens_seen("hub") == {f"Bearer {LET_IN}"}
        assert [(one.method, one.authorization) for one in elsewhere.requests] == [("GET", None)]


def test_headers_are_changed_and_left_out(client: RealClient, tmp_path: Path) -> None:
    with tiny_hub() as hub:
        hub.arm(Headers(changed={"X-Repo-Commit": None}), on="resolve")
        refused = client.call("hf_hub_download", endpoint=hub.url, repo_id=REPO, filename=FIRST, cache_dir=str(tmp_path))
        assert refused.error == "LocalEntryNotFoundError"
        assert "X-Repo-Commit" in refused.says
        hub.arm(Headers(changed={"X-Linked-Etag": '"none"', "X-More": "1"}), on="resolve")
        _, headers, _ = answer(f"{hub.url}/{REPO}/resolve/main/{FIRST}", "HEAD")
        assert (headers["X-Linked-Etag"], headers["X-More"], headers["X-Linked-Size"]) == ('"none"', "1", "5400")


def test_a_compressed_body_is_unpacked_by_the_client(client: RealClient, tmp_path: Path) -> None:
    with tiny_hub() as hub:
        hub.arm(Compressed(), on="small")
        got = client.call("hf_hub_download", endpoint=hub.url, repo_id=REPO, filename="config.json", local_dir=str(tmp_path)).path
        assert got.read_bytes() == FILES["config.json"]
        assert hub.unmet() == ()


def test_a_small_body_unpacks_to_a_large_one() -> None:
    with tiny_hub(small_redirected=False) as hub:
        hub.arm(Compressed(bomb_mib=20), on="resolve")
        _, headers, body = answer(f"{hub.url}/{REPO}/resolve/main/config.json")
        assert headers["Content-Encoding"] == "gzip"
        assert len(body) < 40_000
        unpacked = zlib.decompressobj(wbits=31).decompress(body[:-8])  # without the sum, which is wrong
        assert unpacked == FILES["config.json"] + bytes(20 << 20)


def test_a_renamed_model_is_found_by_its_old_name(client: RealClient, tmp_path: Path) -> None:
    """The hub tells the new name, whatever was asked for."""
    with tiny_hub(renamed={"old/name": REPO}, tokens={LET_IN: ()}) as hub:
        assert client.call("model_info", endpoint=hub.url, repo_id="old/name", token=LET_IN).value["id"] == REPO
        got = client.call("hf_hub_download", endpoint=hub.url, repo_id="old/name", filename=FIRST, local_dir=str(tmp_path)).path
        assert got.read_bytes() == FILES[FIRST]
        assert [one.status for one in hub.asked("info")] == [307, 200]


def test_an_endless_body_ends_when_the_client_hangs_up() -> None:
    with tiny_hub() as hub:
        url = link(hub)
        hub.arm(Endless(repeated=b"again"), on="large")
        response, connection = plain(url)
        assert response.headers["Content-Length"] is None
        assert response.read(5405) == FILES[FIRST] + b"again"
        response.close()
        connection.close()
        until(lambda: hub.requests[-1].given_up, "that the hub notices")
        assert hub.requests[-1].sent_bytes >= 5405


def test_a_dripping_body_comes_as_a_tap_lets_it_go() -> None:
    tap = Tap()
    with tiny_hub() as hub:
        url = link(hub)
        hub.arm(Drip(after_bytes=100, piece_bytes=10, tap=tap), on="large")
        response, connection = plain(url)
        assert response.read(100) == FILES[FIRST][:100]
        assert tap.waited.wait(HANG_S)
        assert hub.requests[-1].sent_bytes == 100
        tap.let(2)
        assert response.read(20) == FILES[FIRST][100:120]
        tap.open()
        assert response.read() == FILES[FIRST][120:]
        connection.close()


def test_a_body_that_is_held_back_goes_when_the_hub_closes() -> None:
    tap = Tap()
    with tiny_hub() as hub:
        url = link(hub)
        hub.arm(Drip(tap=tap), on="large")
        response, connection = plain(url)
        assert tap.waited.wait(HANG_S)
    assert tap.opened
    with pytest.raises(http.client.IncompleteRead):
        response.read()
    connection.close()


def test_a_body_drips_by_itself_until_the_client_hangs_up() -> None:
    """No pause of a reader's is ever long enough to be noticed; only all of them together are."""
    with tiny_hub() as hub:
        url = link(hub)
        hub.arm(Drip(pause_s=0.001), on="large")
        response, connection = plain(url)
        assert [response.read(1) for _ in range(5)] == [b"f", b"i", b"r", b"s", b"t"]
        response.close()
        connection.close()
        until(lambda: hub.requests[-1].given_up, "that the hub notices")
        assert hub.requests[-1].sent_bytes < 5400


@pytest.mark.parametrize("fault", [Cut(after_bytes=10), Cut(after_bytes=10, reset=True), HungUp()])
def test_a_connection_ends_early(fault: Cut | HungUp) -> None:
    with tiny_hub() as hub:
        url = link(hub)
        hub.arm(fault, on="large")
        expected: type[Exception] = http.client.RemoteDisconnected if isinstance(fault, HungUp) else http.client.IncompleteRead
        if isinstance(fault, Cut) and fault.reset:
            expected = ConnectionResetError
        with pytest.raises(expected):
            answer(url)


# Listings that no hub should send.


def listing(hub: Hub) -> bytes:
    return answer(f"{hub.url}/api/models/{REPO}/revision/{NEW}?blobs=true")[2]


@pytest.mark.parametrize("what", HOSTILE_INFO)
def test_a_hostile_listing_arrives_as_it_is(what: str) -> None:
    with tiny_hub() as hub:
        sound = listing(hub)
        hub.arm(HOSTILE_INFO[what], on="info")
        hostile = listing(hub)
        assert hostile != sound
        if what.startswith("name: ") and what.removeprefix("name: ") in HOSTILE_NAMES:
            names = [one["rfilename"] for one in json.loads(hostile)["siblings"]]
            assert names == [*FILES, HOSTILE_NAMES[what.removeprefix("name: ")]]
        if not what.startswith("json: "):
            json.loads(hostile)
        assert listing(hub) == sound


@pytest.mark.parametrize("what", HOSTILE_HEADERS)
def test_hostile_headers_arrive_as_they_are(what: str) -> None:
    with tiny_hub() as hub:
        sound = dict(answer(f"{hub.url}/{REPO}/resolve/{NEW}/{FIRST}", "HEAD")[1])
        hub.arm(HOSTILE_HEADERS[what], on="resolve")
        hostile = dict(answer(f"{hub.url}/{REPO}/resolve/{NEW}/{FIRST}", "HEAD")[1])
        changed = HOSTILE_HEADERS[what].changed
        assert {name: hostile.get(name) for name in changed} == changed
        assert {name: sound[name] for name in changed} != changed


@pytest.mark.parametrize("what", ["above", "absolute", "above from below", "backslashes", "drive"])
def test_the_client_itself_refuses_a_name_that_leads_out(client: RealClient, tmp_path: Path, what: str) -> None:
    """It has fetched the other files by then."""
    with tiny_hub() as hub:
        hub.arm(tree_with(HOSTILE_NAMES[what]), on="tree")
        refused = client.call("snapshot_download", endpoint=hub.url, repo_id=REPO, cache_dir=str(tmp_path / "a" / "b"))
        assert refused.error == "ValueError"
        assert "Invalid filename" in refused.says
        assert not list(tmp_path.rglob("escaped*"))


def test_a_listing_of_many_files_is_made_while_it_is_sent() -> None:
    with tiny_hub() as hub:
        hub.arm(many_siblings(2500), on="info")
        siblings = json.loads(listing(hub))["siblings"]
        assert (len(siblings), siblings[2499]["rfilename"]) == (2500, "f2499")


def test_nobody_has_to_take_all_of_a_huge_listing() -> None:
    with tiny_hub() as hub:
        hub.arm(huge_json(1 << 40), on="info")
        response, connection = plain(f"{hub.url}/api/models/{REPO}")
        assert response.read(1000).endswith(b"aaaa")
        response.close()
        connection.close()
        until(lambda: hub.requests[-1].given_up, "that the hub notices")


def test_an_answer_is_changed_by_whatever_a_test_wants(client: RealClient) -> None:
    with tiny_hub() as hub:
        hub.arm(Changed(by=lambda entries: [{**one, "size": one["size"] + 1} for one in entries]), on="tree")
        entries = client.call("list_repo_tree", endpoint=hub.url, repo_id=REPO).value
        assert {one["path"]: one["size"] for one in entries if "size" in one}["config.json"] == 7
