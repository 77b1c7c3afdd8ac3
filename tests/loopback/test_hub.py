"""The loopback hub, asked by the real client: what it tells, whom it refuses, what it writes down, and that each fault arrives."""

from __future__ import annotations

import hashlib
import http.client
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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
    RangeIgnored,
    Redirected,
    Refused,
    Tap,
    WrongSize,
)
from tests.loopback.hub_hostile import HOSTILE_HEADERS, HOSTILE_INFO, HOSTILE_NAMES, huge_json, many_siblings, tree_with
from tests.loopback.hub_repository import commit_id

REPO = "org/tiny"
OLD, NEW = commit_id("old"), commit_id("new")
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
FILES = {"config.json": b"hello\n", "empty.txt": b"", FIRST: b"first " * 900, SECOND: b"second " * 900, "more/notes.md": b"notes"}
LET_IN, OTHER = "hf_" + "a" * 34, "hf_" + "b" * 34


def tiny_hub(**options: Any) -> Hub:
    return Hub({REPO: {OLD: {"config.json": b"old"}, NEW: FILES}}, **options)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealClient]:
    with RealClient(tmp_path_factory.mktemp("home")) as started:
        yield started


def plain(url: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, http.client.HTTPConnection]:
    """A client that follows and checks nothing."""
    split = urlsplit(url)
    connection = http.client.HTTPConnection(split.netloc, timeout=HANG_S)
    connection.request(
        method, f"{split.path}?{split.query}", headers={name.replace("_", "-"): text for name, text in headers.items()}
    )
    return connection.getresponse(), connection


def answer(url: str, method: str = "GET", **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    response, connection = plain(url, method, **headers)
    try:
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def link(hub: Hub, file: str = FIRST) -> str:
    """Where the hub sends a client that wants a large file."""
    status, headers, _ = answer(f"{hub.url}/{REPO}/resolve/{NEW}/{file}", "HEAD")
    assert status == 302
    return headers["Location"]


# What it tells.


def test_a_model_s_files_are_told_with_the_ids_of_git_and_lfs(client: RealClient) -> None:
    """The weights can be pinned without fetching one of them."""
    with tiny_hub() as hub:
        info = client.call("model_info", endpoint=hub.url, repo_id=REPO, files_metadata=True).value
        assert (info["id"], info["sha"]) == (REPO, NEW)
        told = {one["rfilename"]: one for one in info["siblings"]}
        assert {name: one["size"] for name, one in told.items()} == {name: len(content) for name, content in FILES.items()}
        # What `git hash-object` says of these two, and, for the third, of its pointer.
        assert told["config.json"] == {
            "rfilename": "config.json",
            "size": 6,
            "blob_id": "ce013625030ba8dba906f756967f9e9ca394464a",
        }
        assert told["empty.txt"]["blob_id"] == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
        digest = hashlib.sha256(FILES[FIRST]).hexdigest()
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize 5400\n".encode()
        assert told[FIRST]["lfs"] == {"size": 5400, "sha256": digest, "pointer_size": len(pointer)}
        assert told[FIRST]["blob_id"] == hashlib.sha1(b"blob %d\0" % len(pointer) + pointer).hexdigest()  # noqa: S324  (git's)
        assert hub.bodies_asked() == set()
        assert [(one.operation, one.query) for one in hub.requests] == [("info", "blobs=true")]


def test_without_metadata_a_model_s_files_have_names_only(client: RealClient) -> None:
    with tiny_hub(refs={REPO: {"v1.0": OLD}}) as hub:
        info = client.call("model_info", endpoint=hub.url, repo_id=REPO, revision="v1.0").value
        assert (info["sha"], info["siblings"]) == (OLD, [{"rfilename": "config.json"}])


def test_trees_paths_and_refs_are_told_page_by_page(client: RealClient) -> None:
    with tiny_hub(page_entries=2, refs={REPO: {"v1.0": OLD, "dev/a": NEW}}) as hub:
        entries = client.call("list_repo_tree", endpoint=hub.url, repo_id=REPO, recursive=True).value
        assert [one["path"] for one in entries] == ["config.json", "empty.txt", FIRST, SECOND, "more", "more/notes.md"]
        assert len(hub.asked("tree")) == 3
        assert entries[2]["lfs"]["sha256"] == hub.sha256(REPO, NEW, FIRST)
        below = client.call("list_repo_tree", endpoint=hub.url, repo_id=REPO, path_in_repo="more", revision="dev/a").value
        assert [one["path"] for one in below] == ["more/notes.md"]
        found = client.call("get_paths_info", endpoint=hub.url, repo_id=REPO, paths=["more", SECOND, "nowhere"]).value
        assert [one["path"] for one in found] == [SECOND, "more"]
        refs = client.call("list_repo_refs", endpoint=hub.url, repo_id=REPO).value
        assert {one["name"]: one["target_commit"] for one in refs["branches"] + refs["tags"]} == {
            "main": NEW,
            "dev/a": NEW,
            "v1.0": OLD,
        }


def test_a_whole_model_arrives_and_large_files_come_from_the_other_host(client: RealClient, tmp_path: Path) -> None:
    with tiny_hub(tokens={LET_IN: ()}) as hub:
        path = client.call("snapshot_download", endpoint=hub.url, token=LET_IN, repo_id=REPO, cache_dir=str(tmp_path)).path
        assert path.name == NEW
        assert {str(one.relative_to(path)): one.read_bytes() for one in path.rglob("*") if one.is_file()} == FILES
        assert hub.bodies_asked() == {FIRST, SECOND}
        assert hub.tokens_seen("hub") == {f"Bearer {LET_IN}"}
        assert hub.tokens_seen("storage") == {None}
        assert {one.host for one in hub.asked("small")} == {"hub"}


def test_a_directory_is_served_as_it_is_on_disk(client: RealClient, tmp_path: Path) -> None:
    """A file from a certain size on is large, whatever it is called."""
    for name, content in {**FILES, ".git/config": b"not a file of it"}.items():
        (tmp_path / "repo" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "repo" / name).write_bytes(content)
    (tmp_path / "repo" / "vocabulary.txt").write_bytes(b"v" * 2000)
    with Hub({"single": {NEW: tmp_path / "repo"}}, large_bytes=2000, small_redirected=False) as hub:
        path = client.call("snapshot_download", endpoint=hub.url, repo_id="single", local_dir=str(tmp_path / "to")).path
        assert {name: (path / name).read_bytes() for name in FILES} == FILES
        assert not (path / ".git").exists()
        assert hub.bodies_asked() == {FIRST, SECOND, "vocabulary.txt"}
        assert hub.asked("small") == []


def test_a_real_client_takes_endpoint_and_token_from_its_variables(tmp_path: Path) -> None:
    """Unless telemetry is off, it asks the endpoint for names of programs too."""
    with (
        tiny_hub(tokens={LET_IN: ()}) as hub,
        RealClient(tmp_path, HF_ENDPOINT=hub.url, HF_TOKEN=LET_IN, HF_HUB_DISABLE_TELEMETRY="0") as other,
    ):
        assert other.call("hf_hub_download", repo_id=REPO, filename="config.json").path.read_bytes() == FILES["config.json"]
        assert [one.path for one in hub.asked("other")] == ["/api/agent-harnesses"]
        assert [one.authorization for one in hub.asked("resolve")] == [f"Bearer {LET_IN}"]
        assert hub.asked("resolve")[0].user_agent.startswith("unknown/None; hf_hub/")


@pytest.mark.parametrize("xet", [False, True])
def test_xet_is_spoken_of_only_where_a_test_wants_it(client: RealClient, tmp_path: Path, xet: bool) -> None:
    """A client that is told to do without it fetches over HTTP all the same."""
    with tiny_hub(xet=xet) as hub:
        _, headers, _ = answer(f"{hub.url}/{REPO}/resolve/main/{FIRST}", "HEAD")
        assert ("X-Xet-Hash" in headers) == xet
        got = client.call("hf_hub_download", endpoint=hub.url, repo_id=REPO, filename=FIRST, local_dir=str(tmp_path)).path
        assert got.read_bytes() == FILES[FIRST]
        assert hub.asked("xet") == []


# Whom it refuses.


def test_a_gated_model_is_listed_for_all_and_read_by_those_let_in(client: RealClient, tmp_path: Path) -> None:
    with tiny_hub(gated={REPO}, tokens={LET_IN: {REPO}, OTHER: ()}) as hub:
        assert client.call("model_info", endpoint=hub.url, token=False, repo_id=REPO).value["gated"] == "auto"
        for token, status in ((False, 401), (OTHER, 403)):
            refused = client.call(
                "hf_hub_download", endpoint=hub.url, token=token, repo_id=REPO, filename=FIRST, cache_dir=str(tmp_path)
            )
            assert refused.error == "GatedRepoError"
            assert f"{status} Client Error" in refused.says
        assert hub.bodies_asked() == set()
        got = client.call(
            "hf_hub_download", endpoint=hub.url, token=LET_IN, repo_id=REPO, filename=FIRST, cache_dir=str(tmp_path)
        ).path
        assert got.read_bytes() == FILES[FIRST]
        assert hub.tokens_seen("hub") == {None, f"Bearer {OTHER}", f"Bearer {LET_IN}"}
        assert hub.tokens_seen("storage") == {None}


def test_a_gated_model_may_hide_its_listing_too(client: RealClient) -> None:
    with tiny_hub(gated={REPO}, listings_gated=True) as hub:
        assert client.call("model_info", endpoint=hub.url, token=False, repo_id=REPO).error == "GatedRepoError"


def test_what_is_not_there_is_the_client_s_own_error(client: RealClient, tmp_path: Path) -> None:
    with tiny_hub(private={REPO}, tokens={LET_IN: {REPO}, OTHER: ()}) as hub:

        def error(call: str, token: str | bool, **arguments: Any) -> str | None:
            return client.call(call, endpoint=hub.url, token=token, **arguments).error

        assert error("model_info", token=False, repo_id="org/nothing") == "RepositoryNotFoundError"
        assert error("model_info", token=LET_IN, repo_id="org/nothing") == "RepositoryNotFoundError"
        assert error("model_info", token=False, repo_id=REPO) == "RepositoryNotFoundError"
        assert error("model_info", token=OTHER, repo_id=REPO) == "RepositoryNotFoundError"
        assert error("model_info", token=LET_IN, repo_id=REPO) is None
        assert error("model_info", token=LET_IN, repo_id=REPO, revision="v9") == "RevisionNotFoundError"
        assert error("model_info", token=LET_IN, repo_id=REPO, revision=NEW[:7]) == "RevisionNotFoundError"
        assert error("model_info", token="hf_forged", repo_id=REPO) == "HfHubHTTPError"
        assert (
            error("hf_hub_download", token=LET_IN, repo_id=REPO, filename="nothing.json", cache_dir=str(tmp_path))
            == "RemoteEntryNotFoundError"
        )


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", f"/api/models/{REPO}", 405),
        ("PUT", f"/{REPO}/resolve/main/config.json", 405),
        ("GET", f"/api/models/{REPO}/paths-info/main", 405),
        ("GET", f"/api/datasets/{REPO}", 404),
        ("GET", f"/{REPO}/raw/main/config.json", 404),
        ("GET", f"/{REPO}/resolve/main", 404),
        ("GET", f"/api/resolve-cache/models/{REPO}/{NEW}/{FIRST}", 404),
        ("GET", f"/api/resolve-cache/models/{REPO}/{OLD}/more/notes.md", 404),
    ],
)
def test_another_method_or_page_is_refused(method: str, path: str, status: int) -> None:
    with tiny_hub() as hub:
        assert answer(hub.url + path, method)[0] == status


def test_the_storage_host_wants_the_hub_s_signature_and_no_token() -> None:
    with tiny_hub() as hub:
        url = link(hub)
        assert answer(url)[2] == FILES[FIRST]
        assert answer(url[:-1] + ("0" if url[-1] != "0" else "1"))[0] == 403
        assert answer(url.replace(hub.sha256(REPO, NEW, FIRST), hub.sha256(REPO, NEW, SECOND)))[0] == 403
        assert answer(url, Authorization=f"Bearer {LET_IN}")[0] == 400
        assert answer(url, "POST")[0] == 405


# Ranges.


@pytest.mark.parametrize("file", ["config.json", FIRST])
@pytest.mark.parametrize(
    ("asked", "status", "start", "stop"),
    [
        ("bytes=1-3", 206, 1, 4),
        ("bytes=2-", 206, 2, None),
        ("bytes=-2", 206, -2, None),
        ("bytes=0-99999", 206, 0, None),
        ("lines=1-2", 200, 0, None),
    ],
)
def test_a_range_of_a_file_is_sent(file: str, asked: str, status: int, start: int, stop: int | None) -> None:
    with tiny_hub(small_redirected=False) as hub:
        url = link(hub) if file == FIRST else f"{hub.url}/{REPO}/resolve/{NEW}/{file}"
        got, headers, body = answer(url, Range=asked)
        assert (got, body) == (status, FILES[file][start:stop])
        if status == 206:
            first = FILES[file].index(body) if file == "config.json" else start % len(FILES[file])
            assert headers["Content-Range"] == f"bytes {first}-{first + len(body) - 1}/{len(FILES[file])}"
        assert hub.requests[-1].range == asked


def test_a_range_beyond_the_end_is_refused_and_one_may_be_ignored() -> None:
    with tiny_hub() as hub:
        url = link(hub)
        status, headers, _ = answer(url, Range="bytes=5400-")
        assert (status, headers["Content-Range"]) == (416, "bytes */5400")
        hub.arm(RangeIgnored(), on="large")
        assert answer(url, Range="bytes=5000-")[::2] == (200, FILES[FIRST])
        assert hub.unmet() == ()


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
