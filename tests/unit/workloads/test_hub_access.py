"""Whom a hub lets in and where a token goes, which hub is asked and when, and what `resolve` makes of a cache and a hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.errors import ConfigurationError, InfrastructureError, ProtocolError
from pytest_glasshouse.workloads import lora_material, model_hub
from pytest_glasshouse.workloads.lora_material import resolve
from pytest_glasshouse.workloads.model_files import listed_content
from pytest_glasshouse.workloads.model_hub import describe, endpoint
from pytest_glasshouse.workloads.registry import prepare
from tests.loopback.causal_models import write
from tests.loopback.hub import Hub
from tests.loopback.hub_faults import Drip, Redirected, Tap
from tests.unit.workloads.hub_model import (
    COMMIT,
    FILES,
    FIRST,
    INDEX,
    LATER,
    MIB,
    REPO,
    SECOND,
    TOKEN,
    described,
    hub_of,
    refused,
)

# Who is let in.


@pytest.mark.parametrize(("options", "token", "part"), [
    ({"gated": {REPO}}, None, "gated"),
    ({"gated": {REPO}, "listings_gated": True}, None, "gated"),
    ({"gated": {REPO}, "tokens": {TOKEN: ()}}, TOKEN, "gated"),
    ({"tokens": {}}, TOKEN, "asks for a token"),
    ({"private": {REPO}}, None, "of a private model, set HF_TOKEN"),
    ({"private": {REPO}, "tokens": {TOKEN: ()}}, TOKEN, "of a private model, HF_TOKEN"),
])  # fmt: skip
def test_who_is_not_let_in_reads_what_to_do(options: dict[str, Any], token: str | None, part: str) -> None:
    with hub_of(**options) as hub:
        text = refused(hub, kind=ConfigurationError, token=token)
    assert part in text
    assert "HF_TOKEN" in text


@pytest.mark.parametrize("kept", ["gated", "private"])
def test_a_token_goes_to_the_hub_and_to_no_other_host(kept: str) -> None:
    with hub_of(**{kept: {REPO}}, tokens={TOKEN: {REPO}}) as hub:
        assert described(hub, token=TOKEN).files == listed_content(FILES)
        assert hub.tokens_seen("hub") == {f"Bearer {TOKEN}"}
        assert hub.tokens_seen("storage") == {None}


def test_a_token_does_not_follow_a_redirect_of_the_description_to_another_host(hub: Hub) -> None:
    with hub_of() as other:
        hub.arm(Redirected(to=f"{other.url}/api/models/{REPO}?blobs=true", status=307), on="info")
        with hub_of(tokens={TOKEN: {REPO}}) as asked:
            asked.arm(Redirected(to=f"{other.url}/api/models/{REPO}?blobs=true", status=307), on="info")
            described(asked, token=TOKEN)
            assert other.tokens_seen("hub") == {None}
            assert asked.tokens_seen("hub") == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize(
    "where", ["http://hub.example", "http://192.0.2.1:8080", "http://127.0.0.1.hub.example", "http://[2001:db8::1]"]
)
def test_a_token_is_not_sent_in_clear_text(where: str) -> None:
    """Nothing is sent at all: no such host is looked up."""
    with pytest.raises(ConfigurationError, match=r"a token is not sent .*: set HF_ENDPOINT to a hub with https, or use no token"):
        described(where, token=TOKEN)


# The address of the hub, and whether it may be asked.


@pytest.mark.parametrize("text", [
    "hub.example", "ftp://hub.example", "https://", "https://user@hub.example", "https://:secret@hub.example",
    "https://user:secret@hub.example", "https://hub.example?token=1", "https://hub.example/#x", "https://hub.example:port",
    "https://hub.example:99999", "https://hub.example:0", "https://[::1", "https://hub .example", "https://hub\x1b.example",
    "https://hub.example\\@other", "https://" + "a" * 300, "file:///etc/passwd",
])  # fmt: skip
def test_an_address_that_is_no_hubs_is_refused_without_being_shown(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", text)
    with pytest.raises(ConfigurationError, match="HF_ENDPOINT: expected the URL of a hub") as caught:
        describe(REPO, None)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("text", "used"), [
    ("", "https://huggingface.co"), ("  ", "https://huggingface.co"), ("https://hub.example/", "https://hub.example"),
    ("http://127.0.0.1:80/base/path//", "http://127.0.0.1:80/base/path"), ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
])  # fmt: skip
def test_an_address_of_a_hub_is_used_as_it_is(text: str, used: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", text)
    assert endpoint() == used


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
@pytest.mark.parametrize("text", ["1", "true", "YES", "on"])
def test_a_hub_is_not_asked_where_that_is_forbidden(variable: str, text: str, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigurationError, match=f"model {REPO}@{COMMIT}: .*{variable} forbids to ask the hub"):
        describe(REPO, COMMIT)
    assert hub.requests == []


# What `resolve` makes of a directory, a cache and a hub.


@pytest.fixture
def asked(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub that this process asks, which has no cache yet, and which asks in this process."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(lora_material, "_DESCRIBED", {})
    monkeypatch.chdir(tmp_path)
    return hub


@pytest.fixture
def here(asked: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """As `asked`, without the other process."""
    monkeypatch.setattr(model_hub, "describe", lambda repo, revision: described(asked, repo=repo, revision=revision))
    return asked


def cache(tmp_path: Path, files: Mapping[str, bytes], *, commit: str = COMMIT) -> Path:
    """A cache of the hub's client that has these files of the model, as it keeps them: links to blobs."""
    folder = tmp_path / "cache" / f"models--{REPO.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    for number, (name, content) in enumerate(files.items()):
        blob = folder / "blobs" / str(number)
        for path in (blob, snapshot / name):
            path.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        (snapshot / name).symlink_to(os.path.relpath(blob, snapshot))
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    return snapshot


def test_a_model_in_the_cache_is_taken_from_there(here: Hub, tmp_path: Path) -> None:
    snapshot = cache(tmp_path, FILES)
    for model in (REPO, f"{REPO}@{COMMIT}"):
        base = resolve(model, online=True)
        assert (base.directory, base.model_id, base.revision, base.on_host) == (snapshot, REPO, COMMIT, True)
        assert base.files == listed_content(FILES)
        assert base.hub is not None
        assert (base.hub.commit, base.hub.endpoint) == (COMMIT, here.url)
    assert here.requests == []


def _without(*names: str) -> dict[str, bytes]:
    return {name: content for name, content in FILES.items() if name not in names}


#: What a cache has of a model where a download ended early, or fetched only what it needed.
PARTIAL: dict[str, Mapping[str, bytes]] = {
    "one shard of two": _without(SECOND),
    "no index": _without(INDEX),
    "one shard and no index": _without(SECOND, INDEX),
    "no tokenizer": _without("tokenizer.json"),
    "no config": _without("config.json"),
    "no weights": _without(FIRST, SECOND),
    "an index cut short": {**FILES, INDEX: FILES[INDEX][:40]},
    "pickles": {**_without(FIRST, SECOND, INDEX), "pytorch_model.bin": b"x"},
}


@pytest.mark.parametrize("what", PARTIAL)
def test_a_model_that_the_cache_has_in_part_is_the_hubs(what: str, here: Hub, tmp_path: Path) -> None:
    cache(tmp_path, PARTIAL[what])
    base = resolve(REPO, online=True)
    assert (base.files, base.directory, base.on_host) == (listed_content(FILES), None, False)


def test_a_link_of_the_cache_that_leads_nowhere_is_a_file_that_is_not_there(here: Hub, tmp_path: Path) -> None:
    snapshot = cache(tmp_path, FILES)
    (snapshot / SECOND).resolve().unlink()
    assert resolve(REPO, online=True).directory is None


@pytest.mark.parametrize("what", [each for each in PARTIAL if each != "no weights"])
def test_without_the_hub_a_model_in_part_is_no_stand_in(what: str, here: Hub, tmp_path: Path) -> None:
    """A stand-in in the place of a model that somebody has begun to download would be a surprise."""
    cache(tmp_path, PARTIAL[what])
    with pytest.raises(ConfigurationError, match=r"expected|not JSON|names weights"):
        prepare("lora", seed=7, model=REPO)
    assert here.requests == []


def test_a_cache_of_another_commit_is_not_the_one_that_was_named(here: Hub, tmp_path: Path) -> None:
    cache(tmp_path, FILES, commit=LATER)
    base = resolve(f"{REPO}@{COMMIT}", online=True)
    assert (base.directory, base.revision) == (None, COMMIT)
    assert resolve(REPO, online=True).revision == LATER


def test_a_hub_is_asked_once_for_a_model_however_many_rows_have_it(here: Hub) -> None:
    first = resolve(REPO, online=True)
    count = len(here.requests)
    assert resolve(REPO, online=True) is first
    assert len(here.requests) == count
    prepared = [prepare("lora", seed=seed, model=REPO, online=True) for seed in (7, 8)]
    assert {each.facts["baseModelSha256"] for each in prepared} == {first.sha256}
    assert len(here.requests) == count


def test_material_from_the_hub_is_that_from_a_directory(here: Hub, tmp_path: Path) -> None:
    """The same adapter for the same seed, wherever the model's weights are."""
    directory = write(FILES, tmp_path / "model")
    there, ours = prepare("lora", seed=7, model=REPO, online=True), prepare("lora", seed=7, model=str(directory))
    assert there.initial_sha256 == ours.initial_sha256
    assert there.facts["baseModelSha256"] == ours.facts["baseModelSha256"]
    assert (there.facts["revision"], there.facts["standIn"]) == (COMMIT, False)


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/1", COMMIT[:7], COMMIT.upper(), COMMIT + "0"])
def test_a_branch_is_no_commit(revision: str, here: Hub) -> None:
    with pytest.raises(ConfigurationError, match=r"expected a commit of 40 hexadecimal digits after @.*a branch can move"):
        resolve(f"{REPO}@{revision}", online=True)
    assert here.requests == []


@pytest.mark.parametrize(
    "model", ["org/name@", "@", "org/@main", "org//name", "org/name/more", "-/name", "org/na me", "org/name@a@b"]
)
def test_what_is_no_id_is_looked_for_as_a_directory(model: str, here: Hub) -> None:
    with pytest.raises(ConfigurationError, match=r"model directory|expected a hub id"):
        resolve(model, online=True)
    assert here.requests == []


def test_a_mock_row_never_asks_the_hub(here: Hub) -> None:
    base = resolve(f"{REPO}@{COMMIT}")
    assert (base.stand_in, base.revision, here.requests) == (True, COMMIT, [])


# The other process.


def test_the_other_process_is_told_no_token_and_takes_the_variables_of_this_one(
    asked: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A private model is described, and the token is in no argument and in nothing that comes back."""
    with hub_of(private={REPO}, tokens={TOKEN: {REPO}}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        started: list[tuple[Any, dict[str, Any]]] = []
        run = subprocess.run

        def noted(*arguments: Any, **options: Any) -> Any:
            done = run(*arguments, **options)
            started.append((arguments, {**options, "done": done}))
            return done

        monkeypatch.setattr(subprocess, "run", noted)
        base = resolve(REPO, online=True)
        [(arguments, options)] = started
        assert base.files == listed_content(FILES)
        assert hub.tokens_seen("hub") == {f"Bearer {TOKEN}"}
        assert {one.headers.get("User-Agent", "") for one in hub.requests if TOKEN in str(one.query)} == set()
    for text in (str(arguments), options["input"], options["done"].stdout, options["done"].stderr, repr(base)):
        assert TOKEN not in str(text)


def test_a_process_that_runs_out_of_memory_or_dies_is_one_sentence(asked: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(InfrastructureError, match=f"model {REPO}: asking the hub at {asked.url} gave no result"):
        resolve(REPO, online=True)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(InfrastructureError, match="gave no result"):
        resolve(REPO, online=True)


def test_a_hub_that_drips_is_given_up(asked: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never goes silent, so that only the time for the whole can strike."""
    asked.arm(Drip(tap=Tap()), on="info")
    monkeypatch.setattr(model_hub, "_LIMIT_S", 0.5)
    with pytest.raises(InfrastructureError, match=f"the hub at {asked.url} did not describe it within 0.5 s"):
        resolve(REPO, online=True)


#: The peaks of this process, which `ru_maxrss` mixes with that of its parent, and of the one that asks the hub.
MEASURED = """
import json, resource, sys
from pathlib import Path
from pytest_glasshouse.workloads.lora_material import resolve

base = resolve(sys.argv[1], online=True)
status = Path("/proc/self/status").read_text()
ours = int(status.partition("VmHWM:")[2].split()[0]) >> 10
theirs = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
print(json.dumps({"ours": ours, "theirs": theirs, "size": base.size, "tensors": len(base.weights)}))
"""


def _sparse_7b(folder: Path) -> Path:
    """A model of 7B's size, whose weights are heads and holes, with 40 MB of other files, as the largest tokenizers are."""
    write({**_without(FIRST, SECOND, INDEX), "vocab.json": b" " * 40_000_000}, folder)
    shapes: dict[str, list[int]] = {"model.embed_tokens.weight": [152_064, 3584], "lm_head.weight": [152_064, 3584]}
    for layer in range(28):
        for name, shape in (
            ("self_attn.q_proj", [3584, 3584]),
            ("self_attn.v_proj", [512, 3584]),
            ("mlp.up_proj", [18_944, 3584]),
        ):
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
        shapes |= {f"model.layers.{layer}.mlp.{name}_proj.weight": [18_944, 3584] for name in ("gate", "down")}
    names, place = list(shapes), {}
    for shard in range(4):
        file, at, head = f"model-0000{shard + 1}-of-00004.safetensors", 0, {}
        for name in names[shard::4]:
            end = at + 2 * shapes[name][0] * shapes[name][1]
            head[name], place[name], at = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [at, end]}, file, end
        text = json.dumps(head).encode()
        with (folder / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            out.truncate(8 + len(text) + at)
    (folder / INDEX).write_text(json.dumps({"weight_map": place}))
    return folder


def test_a_model_of_7b_is_planned_in_little_memory_and_on_no_disk(tmp_path: Path) -> None:
    folder = _sparse_7b(tmp_path / "model")
    with Hub({REPO: {COMMIT: folder}}) as hub:
        for file in hub._repositories[REPO].commits[COMMIT].values():
            if file.name.endswith(".safetensors"):
                vars(file.content)["sha256"] = "ab" * 32  # of 13 GB of holes
        (tmp_path / "home").mkdir()
        variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "home")}
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, REPO], capture_output=True, text=True, check=True, env={**os.environ, **variables}
        )
        seen = json.loads(done.stdout)
        sent = sum(one.sent_bytes for one in hub.requests)
    assert seen["size"] > 13 * 10**9
    assert seen["tensors"] == 2 + 28 * 5
    assert sent < 48 * MIB
    assert max(seen["ours"], seen["theirs"]) < 200, seen
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("sent", [
    b"", b"\n", b"{}\n", b"no JSON\n", b'{"model": null, "failed": null}', b'{"model": null, "failed": null}\nmore',
    b'{"model": {"commit": "", "files": [], "content": {"a": 3}, "heads": {}}, "failed": null}\nab',
    b'{"model": {"commit": "", "files": [], "content": {"a": 3}, "heads": {}}, "failed": null}\nabcd',
    b'{"model": {"commit": "", "files": [], "content": {"a": "3"}, "heads": {}}, "failed": null}\nabc',
])  # fmt: skip
def test_an_answer_that_is_cut_or_padded_is_none(sent: bytes) -> None:
    """The process was killed while it wrote, or something else wrote there."""
    with pytest.raises((ValueError, ProtocolError)):
        model_hub._unpacked(sent)
