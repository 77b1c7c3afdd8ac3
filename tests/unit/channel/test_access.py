"""Values that may be written to a configuration of `ssh`, and values that are refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pytest_glasshouse.channel.access import Host, Port, RemoteSocket, SshAccess, UserName
from pytest_glasshouse.errors import IntegrityError
from tests.unit.channel.hostile_hosts import HOSTILE_HOSTS

HOSTS = [
    ("203.0.113.9", "203.0.113.9"),
    ("0.0.0.1", "0.0.0.1"),
    ("2001:DB8:0:0::1", "2001:db8::1"),
    ("::ffff:203.0.113.9", "203.0.113.9"),
    ("Pod-7.Example.com", "pod-7.example.com"),
    ("localhost", "localhost"),
    ("a", "a"),
    ("7pods.example", "7pods.example"),
    ("xn--pd-eka.example", "xn--pd-eka.example"),
    ("a" * 63 + ".example", "a" * 63 + ".example"),
    (".".join(["a" * 61] * 4) + ".abcde", ".".join(["a" * 61] * 4) + ".abcde"),
]


@pytest.mark.parametrize("text", HOSTILE_HOSTS, ids=[str(n) for n in range(len(HOSTILE_HOSTS))])
def test_a_host_is_an_address_or_a_name_and_nothing_else(text: Any) -> None:
    with pytest.raises(IntegrityError) as caught:
        Host(text)
    assert caught.value.reason == "malformed"
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200
    assert not isinstance(text, str) or len(text) < 4 or text not in str(caught.value)
    with pytest.raises(IntegrityError):
        SshAccess(host=text, port=22)


@pytest.mark.parametrize(("text", "spelled"), HOSTS)
def test_a_host_has_one_spelling(text: str, spelled: str) -> None:
    assert (Host(text), Host(Host(text))) == (spelled, spelled)
    assert SshAccess(host=text, port=22).host == spelled


def test_a_port_is_a_whole_number_from_1_to_65535() -> None:
    numbers: list[Any] = [0, -1, 65536, 2**31, 10**400, True, False, None, 22.0, "22", "22\n", b"22", float("nan"), [22]]
    for number in numbers:
        with pytest.raises(IntegrityError):
            Port(number)
        with pytest.raises(IntegrityError):
            SshAccess(host="pod.example", port=number)
    assert [Port(1), Port(22), Port(65535)] == [1, 22, 65535]


@pytest.mark.parametrize(
    "text",
    ["", " 22", "22 ", "22\n", "\n22", "+22", "-22", "2_2", "0x16", "22.0", "\uff12\uff12", "\u0662\u0662", "\u00b2\u00b2", "0", "00000", "65536", "99999999", "1e3", True, None],
)  # fmt: skip
def test_a_port_in_digits_is_ascii_digits(text: Any) -> None:
    with pytest.raises(IntegrityError):
        Port.spelled(text)
    assert [Port.spelled("22"), Port.spelled("65535"), Port.spelled(7)] == [22, 65535, 7]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-l",
        "root\n",
        "root\nProxyCommand id",
        "ro ot",
        "root@pod",
        "%r",
        "${USER}",
        "r\u00f6ot",
        "\uff52oot",
        "a" * 33,
        "r\x00",
        "a/b",
        None,
        0,
    ],
)
def test_a_user_is_a_posix_name(text: Any) -> None:
    with pytest.raises(IntegrityError):
        SshAccess(host="pod.example", port=22, user=text)
    assert [UserName("root"), UserName("_apt"), UserName("a.b-c_1")] == ["root", "_apt", "a.b-c_1"]


def test_an_access_made_from_another_is_parsed_again_and_hides_its_address() -> None:
    access = SshAccess(host="203.0.113.9", port=41234)
    assert (type(access.host), type(access.port), type(access.user)) == (Host, Port, UserName)
    with pytest.raises(IntegrityError):
        dataclasses.replace(access, host="x\nProxyCommand id")
    assert "203" not in repr(access)
    assert "41234" not in repr(access)


@pytest.mark.parametrize(
    "path",
    [
        None, 7, "", "agent.sock", "/", "//", "/a//b", "/a/../b", "/..", "/a:b", "/a:127.0.0.1:22", "/a\n", "/a\\b", "/${HOME}/x", "/[a]",
        "/a\x00", "/\u00fc", "-L", "/" + "a" * 107, '/a"b',
    ],
)  # fmt: skip
def test_the_socket_path_a_guest_sends_is_a_plain_path(path: Any) -> None:
    """It follows a colon in an argument of ours: a second colon would change the target."""
    with pytest.raises(IntegrityError):
        RemoteSocket(path)


def test_the_socket_of_a_pod_may_lie_below_any_usual_directory() -> None:
    for path in ("/var/lib/glasshouse/agent/agent.sock", "/tmp/gp-x1_y/agent/agent.sock", "/a b/50%/c.sock"):
        assert RemoteSocket(path) == path
