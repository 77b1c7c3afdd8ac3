"""A model sealed ahead of a run: opened by its owner only, and sealed again for a row without ever lying in the clear."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_glasshouse.cli.main import main
from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.guest.memory import LockedSecret
from pytest_glasshouse.guest.opener import open_package
from pytest_glasshouse.legs.sealed_model import is_sealed, open_sealed, sealed_of
from pytest_glasshouse.owner.keyfiles import read_owner
from pytest_glasshouse.owner.owner import Owner
from pytest_glasshouse.owner.sealing import read_manifest, sealing
from pytest_glasshouse.rows.overrides import Overrides, RowItem
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.wire.canonical import Json
from pytest_glasshouse.wire.package import parse_header
from pytest_glasshouse.workloads.base import SealedModel
from pytest_glasshouse.workloads.registry import prepare
from tests.loopback.causal_models import causal_lm

MODEL = causal_lm("qwen2", shards=2)
OWNER = Owner.generate()


def a_row(model: str, base: str = "sealed") -> RowSpec:
    return RowSpec(
        name="r",
        workload="lora",
        gpu="anygpu",
        order="protected-first",
        target_s=1,
        model=model,
        base=base,  # type: ignore[arg-type]
    )


@pytest.fixture(name="folder", scope="module")
def a_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An owner's key, a model's directory, and the model as `glasshouse seal` sealed it."""
    folder = tmp_path_factory.mktemp("owner")
    (folder / "My-Model").mkdir()
    for name, content in MODEL.items():
        (folder / "My-Model" / name).write_bytes(content)
    assert main(["keygen", str(folder / "owner.key")]) == 0
    assert main(["seal", str(folder / "My-Model"), "--owner", str(folder / "owner.key"), "--out", str(folder / "my.sealed")]) == 0
    return folder


def test_what_is_sealed_is_what_a_row_loads_and_it_is_confidential(folder: Path) -> None:
    """Also files whose names no part may have; a licence or a README is not needed on a guest."""
    claims = json.loads(json.dumps(open_manifest(folder)))
    assert claims["confidential"] is True
    files = {each["name"]: each["part"] for each in claims["workload"]["files"]}
    shards = sorted(name for name in MODEL if name.endswith(".safetensors"))
    assert sorted(files) == sorted(["config.json", "tokenizer.json", *shards])
    package = (folder / "my.sealed").read_bytes()
    assert [part.name for part in parse_header(package).parts] == [*files.values(), "canary"]
    assert MODEL["config.json"][:40] not in package


def open_manifest(folder: Path) -> object:
    token = (folder / "my.sealed.manifest").read_text().strip()
    return read_manifest(token, owner=read_owner(folder / "owner.key", what="x").public)


def test_a_row_gets_the_same_material_from_it_as_from_the_directory(folder: Path) -> None:
    opened = open_sealed(folder / "my.sealed", owner_key=folder / "owner.key")
    ahead = prepare("lora", seed=7, model="my.sealed", sealed=opened)
    from_directory = prepare("lora", seed=7, model=str(folder / "My-Model"), sealed=True)
    assert ahead.parts == from_directory.parts
    assert ahead.facts == from_directory.facts
    assert ahead.base is not None
    assert from_directory.base is not None
    assert ahead.base.sha256 == from_directory.base.sha256
    assert ahead.base.model_id == "My-Model"

    sealed = sealing(ahead.sealed, owner=OWNER, run="r", round_nonce="n", workload={}, segment=4096)
    package = b"".join(bytes(piece) for piece in sealed.pieces())
    key = LockedSecret.take(bytes(bytearray(sealed.data_key.reveal())))
    found = open_package(package, key, read_manifest(sealed.manifest, owner=OWNER.public))
    names = opened.names
    assert {name: bytes(found.parts[part]) for name, part in names.items()} == {name: MODEL[name] for name in names}
    found.close()


def test_nobody_but_its_owner_opens_it(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"my\.sealed: it is sealed; set GLASSHOUSE_OWNER_KEY"):
        open_sealed(folder / "my.sealed", owner_key=None)
    assert main(["keygen", str(tmp_path / "other.key")]) == 0
    with pytest.raises(ConfigurationError, match=r"my\.sealed: it is no sealed model of this owner"):
        open_sealed(folder / "my.sealed", owner_key=tmp_path / "other.key")


def test_a_row_whose_base_is_not_sealed_does_not_get_it(folder: Path) -> None:
    """A raw leg would train on it in the clear."""
    path = str(folder / "my.sealed")
    with pytest.raises(ConfigurationError, match='Declare the row with base="sealed"'):
        sealed_of(a_row("my.sealed", "pinned"), path, owner_key=folder / "owner.key")
    assert sealed_of(a_row("some/model"), str(folder / "My-Model"), owner_key=None) is True
    assert sealed_of(a_row("some/model", "pinned"), None, owner_key=None) is False
    assert (is_sealed(path), is_sealed(folder / "owner.key"), is_sealed(folder)) == (True, False, False)


def test_a_byte_that_was_changed_is_noticed_when_it_is_read(folder: Path, tmp_path: Path) -> None:
    for name in ("my.sealed", "my.sealed.manifest", "my.sealed.key"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    package = bytearray((tmp_path / "my.sealed").read_bytes())
    package[-1000] ^= 1
    (tmp_path / "my.sealed").write_bytes(package)
    with pytest.raises(ConfigurationError, match="pkg-integrity"):
        open_sealed(tmp_path / "my.sealed", owner_key=folder / "owner.key")


def test_a_sealed_row_opens_it(folder: Path) -> None:
    opened = sealed_of(a_row("my.sealed"), str(folder / "my.sealed"), owner_key=folder / "owner.key")
    assert isinstance(opened, SealedModel)
    assert opened.base.model_id == "My-Model"


def test_a_manifest_of_another_package_is_refused(folder: Path, tmp_path: Path) -> None:
    """Of the same owner, and of the same model sealed once more."""
    arguments = ["seal", str(folder / "My-Model"), "--owner", str(folder / "owner.key"), "--out", str(tmp_path / "again")]
    assert main(arguments) == 0
    (tmp_path / "again").write_bytes((folder / "my.sealed").read_bytes())
    with pytest.raises(ConfigurationError, match="it describes another package"):
        open_sealed(tmp_path / "again", owner_key=folder / "owner.key")


def test_a_part_that_begins_otherwise_than_its_header_says_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("my.sealed.manifest", "my.sealed.key"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    package = bytearray((folder / "my.sealed").read_bytes())
    header = parse_header(bytes(package))
    package[header.body + header.parts[0].offset + 20] ^= 1
    (tmp_path / "my.sealed").write_bytes(package)
    with pytest.raises(ConfigurationError, match="a part's beginning is not the one that the header names"):
        open_sealed(tmp_path / "my.sealed", owner_key=folder / "owner.key")


def test_a_file_of_another_size_than_its_part_is_refused(folder: Path, tmp_path: Path) -> None:
    """Its owner's own manifest says otherwise: made by a tool that is broken."""
    owner = read_owner(folder / "owner.key", what="x")
    claims: dict[str, Json] = {
        "name": "base-model", "model_id": "m", "listed": [],
        "files": [{"name": "config.json", "part": "base.config", "size": 3}],
    }  # fmt: skip
    sealed = sealing({"base.config": b"{}"}, owner=owner, run="", round_nonce="0" * 64, workload=claims, confidential=True)
    (tmp_path / "m").write_bytes(b"".join(bytes(piece) for piece in sealed.pieces()))
    (tmp_path / "m.manifest").write_text(sealed.manifest)
    (tmp_path / "m.key").write_bytes(owner.seal_data_key(sealed.data_key, manifest_sha256=sealed.manifest_sha256))
    with pytest.raises(ConfigurationError, match=r"config\.json has another size than its part"):
        open_sealed(tmp_path / "m", owner_key=folder / "owner.key")


def test_a_package_of_other_files_is_no_model(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("text")
    arguments = [
        "seal",
        str(tmp_path / "notes.txt"),
        "--owner",
        str(folder / "owner.key"),
        "--out",
        str(tmp_path / "p"),
        "--confidential",
    ]
    assert main(arguments) == 0
    with pytest.raises(ConfigurationError, match="it describes no sealed model"):
        open_sealed(tmp_path / "p", owner_key=folder / "owner.key")


def test_a_report_names_the_file_without_its_path(folder: Path) -> None:
    item = RowItem.of(a_row(str(folder / "my.sealed")), Overrides())
    assert (item.row.model, item.model) == ("my.sealed", str((folder / "my.sealed").resolve()))
