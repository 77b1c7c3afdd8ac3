"""The owner signs, seals and hides its keys."""

from __future__ import annotations

import pickle

import pytest

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.guest.opener import seal_adapter
from pytest_glasshouse.owner.owner import Owner
from pytest_glasshouse.wire.evidence import hpke_text
from pytest_glasshouse.wire.secret import Secret


def test_an_owner_is_the_same_in_a_worker_process() -> None:
    owner = Owner.generate()
    other = Owner.from_text(owner.to_text())
    assert (other.kid, other.public_text) == (owner.kid, owner.public_text)
    assert other.hpke_public == owner.hpke_public


def test_an_owner_is_not_shown_or_pickled() -> None:
    owner = Owner.generate()
    text = owner.to_text()
    assert owner.kid in repr(owner)
    assert text.reveal().decode() not in f"{owner!r}{text!r}"
    with pytest.raises(TypeError):
        pickle.dumps(owner)


@pytest.mark.parametrize("text", [b"{}", b"[]", b"", b'{"sealing":"AA","signing":"AA"}', b'{"sealing":1,"signing":2}'])
def test_a_secret_that_is_no_owner_is_refused(text: bytes) -> None:
    with pytest.raises(IntegrityError) as caught:
        Owner.from_text(Secret(text))
    assert caught.value.reason == "malformed"
    assert caught.value.__cause__ is None


def test_an_adapter_opens_for_this_package_and_session_only() -> None:
    owner = Owner.generate()
    manifest = {"owner_hpke": hpke_text(owner.hpke_public)}
    sealed = seal_adapter(b"adapter", manifest=manifest, manifest_sha256="m", nonce="n")
    assert owner.open_adapter(sealed, manifest_sha256="m", nonce="n") == b"adapter"
    for other, package, nonce, blob in (
        (owner, "another", "n", sealed), (owner, "m", "another", sealed), (owner, "m", "n", sealed[:-1]), (owner, "m", "n", b""),
        (Owner.generate(), "m", "n", sealed),
    ):  # fmt: skip
        with pytest.raises(IntegrityError) as caught:
            other.open_adapter(blob, manifest_sha256=package, nonce=nonce)
        assert caught.value.reason == "adapter"
