"""What providers say is shown without what must not be."""

from __future__ import annotations

import pytest

from pytest_glasshouse.providers.redaction import cleaned, said


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the key topsecret-1 is bad", "the key *** is bad"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        ("see https://abc-8000.proxy.runpod.net/x?y=1 now", "see <url> now"),
        ("connect to 203.0.113.9:41234", "connect to <address>"),
        ("ssh root@203.0.113.9 -p 41234", "ssh root@<address> -p ***"),
        ("at abc123-22.proxy.runpod.net or ssh4.vast.ai:10022", "at <host> or <host>"),
        ("key ssh-ed25519 AAAAC3Nza run", "key <public key> run"),
        # What cannot be seen goes first: it would part a secret in two.
        ("a\x1b[31mred\x00", "a[31mred"),
        ("the key top\u200bsecret\x00-1 is bad", "the key *** is bad"),
        ("two\nlines  here", "two lines here"),
    ],
)
def test_a_sentence_is_one_line_without_secrets(text: str, shown: str) -> None:
    assert said(text, secrets=["topsecret-1"]) == shown


def test_a_long_answer_is_cut() -> None:
    assert len(said("x" * 5000)) == 241


def test_a_private_key_in_a_log_is_not_shown() -> None:
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\ndef\n-----END OPENSSH PRIVATE KEY-----"
    assert cleaned(f"before\n{key}\nafter") == "before\n<key>\nafter"
