"""The loopback hub, asked by the real client: what it tells, whom it refuses, and what it writes down."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.loopback.hub import Hub
from tests.loopback.hub_client import RealClient
from tests.loopback.hub_faults import RangeIgnored
from tests.loopback.tiny_hub import FILES, FIRST, LET_IN, NEW, OLD, OTHER, REPO, SECOND, answer, link, tiny_hub

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
