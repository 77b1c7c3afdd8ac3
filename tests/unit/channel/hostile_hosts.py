"""What a provider may send in place of a host's name or address."""

from __future__ import annotations

from typing import Any

HOSTILE_HOSTS: list[Any] = [
    None, True, 7, 3.5, b"pod.example", [], {},
    "", " ", "\n", ".", "..", "-", "-oProxyCommand=id", "--", "a..b", ".a", "a.", "-a.example", "a-.example", "a.-b",
    "203.0.113.9\nProxyCommand touch /tmp/x", "203.0.113.9\n", "203.0.113.9\r", "203.0.113.9\r\n  ProxyCommand id",
    "203.0.113.9\x0bProxyCommand", "203.0.113.9\x0c", "203.0.113.9\x00", "203.0.113.9\u2028ProxyCommand id", "203.0.113.9\u2029",
    "203.0.113.9\x85", "203.0.113.9\xa0", " 203.0.113.9", "203.0.113.9 ", "\t203.0.113.9", "203.0.113.9 ProxyCommand=id",
    "pod.example\nHost *", "pod.example#x", "#", "pod.example\\", '"pod.example"', "'pod'", "pod;id", "pod|id", "pod&id", "$(id)", "`id`",
    "${HOME}", "%h", "%d/x", "pod%h.example", "user@pod.example", "pod.example:22", "[2001:db8::1]", "[pod]", "pod,other", "pod/x",
    "ssh://pod.example", "~", "*", "?", "!pod", "fe80::1%eth0", "fe80::1%25eth0", "fe80::1%`id`", "::1%", "2001:db8::1/64", "1:2:3",
    "203.0.113.256", "203.0.113", "203.0.113.9.9", "0203.0.113.9", "0x7f000001", "127.1", "2130706433", "0177.0.0.1", "1.2.3.0x4",
    "203.0.113.\uff19", "\uff12\uff10\uff13.0.113.9", "p\u00f6d.example", "xn--p.\u00e9", "\uff50od.example", "pod\u3002example", "pod_1.example", "a" * 64, "a" * 64 + ".example",
    ".".join(["a" * 60] * 5), "a." * 127 + "aa", "x" * 100_000, "\ud800",
]  # fmt: skip
