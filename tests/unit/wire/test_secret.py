"""A secret does not leave by accident."""

from __future__ import annotations

import copy
import pickle

import pytest

from pytest_glasshouse.wire.secret import Secret


def test_a_secret_is_not_shown() -> None:
    secret = Secret(b"correct horse")
    assert "horse" not in f"{secret!r} {secret} {[secret]}"
    assert len(secret) == 13


def test_only_reveal_returns_the_value() -> None:
    assert Secret(b"correct horse").reveal() == b"correct horse"


def test_a_secret_is_not_pickled_copied_or_hashed() -> None:
    secret = Secret(b"correct horse")
    for act in (pickle.dumps, copy.copy, copy.deepcopy, hash):
        with pytest.raises(TypeError):
            act(secret)


def test_equal_secrets_are_equal() -> None:
    assert Secret(b"a") == Secret(b"a")
    assert Secret(b"a") != Secret(b"b")
    assert Secret(b"a") != b"a"
