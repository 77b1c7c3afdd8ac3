"""Forbidden values are found in any spelling; a hit has the path and never the value."""

from __future__ import annotations

import base64
import importlib
import json
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

import pytest

from pytest_glasshouse.providers.http_api import redact_log
from pytest_glasshouse.report.redaction import RULES, Rule, environment_taint, hits
from pytest_glasshouse.wire.tokens import sign
from tests.unit.report import example

SECRET = 'tunnel-7f3a"9b.example/ä+key'

#: One sample or more of each rule. They are made up.
SAMPLES = {
    "tunnel-url": ["https://abc123-8000.proxy.runpod.net/x", "see quick-fox.trycloudflare.com", "a1b2.ngrok-free.app"],
    "url-with-credentials": ["https://user:pass@example.org/"],
    "url-with-port": ["http://example.org:8443/v1/challenge", "http://127.0.0.1:43121"],
    "url-to-address": ["ssh://203.0.113.7/"],
    "signed-url": ["https://bucket.example.org/a?X-Amz-Signature=0a1b"],
    "ssh-endpoint": ["203.0.113.7:22117", "ssh5.vast.ai:12345", "root@203.0.113.7", "ssh root -p 22117", "[2001:db8::1]:22"],
    "package-path": ["payload/run-7/package.tar.enc", "/x/y.floe"],
    "machine-path": ["/workspace/payload", "/home/ada/run", "in /root/.ssh", "/tmp/x", "/Users/ada", "file:///x", "~/x"],
    "private-key": ["-----BEGIN PRIVATE KEY-----\nMC4C", '{"kty":"OKP","d":"' + "A" * 43 + '"}'],
    "runpod-key": ["rpa_" + "A1b2C3d4" * 5, "0123456789ABCDEFGHIJ0123456789ABCDEFGHIJ"],
    "vast-key": ["0123456789abcdef" * 4],
    "service-token": ["hf_" + "a" * 34, "ghp_" + "a" * 36, "AKIA" + "A" * 16, "Authorization: Bearer " + "a" * 20],
}

#: Every way it could be written; two of them may be the same.
SPELLINGS = list(
    dict.fromkeys(
        [
            SECRET,
            urllib.parse.quote(SECRET, safe=""),
            urllib.parse.quote_plus(SECRET),
            json.dumps(SECRET)[1:-1],
            json.dumps(SECRET, ensure_ascii=False)[1:-1],
            SECRET.encode().hex(),
            *(base64.b64encode(b"x" * offset + SECRET.encode() + b"tail").decode() for offset in range(3)),
            base64.urlsafe_b64encode(SECRET.encode()).decode().rstrip("="),
        ]
    )
)


def rules_of(document: Any, **given: Any) -> set[str]:
    return {hit.rule for hit in hits(document, **given)}


def test_every_rule_has_a_sample() -> None:
    assert {rule.name for rule in RULES} == set(SAMPLES)


def _in_every_match(pattern: Any) -> set[str]:
    """Characters that the parsed pattern (of `re`) names by themselves in what no match goes without."""
    found: set[str] = set()
    for kind, given in pattern:
        if str(kind) == "LITERAL":
            found.add(chr(given))
        elif str(kind) == "BRANCH":
            found |= set.intersection(*map(_in_every_match, given[1]))
        elif str(kind) in ("SUBPATTERN", "ATOMIC_GROUP"):
            found |= _in_every_match(given[-1] if str(kind) == "SUBPATTERN" else given)
        elif str(kind) in ("MAX_REPEAT", "POSSESSIVE_REPEAT") and given[0]:
            found |= _in_every_match(given[2])
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.pattern.pattern[:30])
def test_no_text_that_a_rule_matches_is_left_out_for_what_it_does_not_hold(rule: Rule) -> None:
    parsed = importlib.import_module("re._parser").parse(rule.pattern.pattern)
    assert set(rule.holds) <= _in_every_match(parsed)


@pytest.mark.parametrize(("rule", "sample"), [(rule, sample) for rule, samples in SAMPLES.items() for sample in samples])
def test_forbidden_shape_is_found_wherever_it_stands(rule: str, sample: str) -> None:
    """In a field, in a list, in a name, inside JSON text and inside a token that looks like noise."""
    token = sign({"note": sample}, key=example.KEYS.agent, typ="x")

    assert rule in rules_of({"reason": f"it said {sample}"})
    assert rule in rules_of({"extra": [{"deep": sample}]})
    assert rule in rules_of({sample: 1})
    assert rule in rules_of({"journal": [json.dumps({"body": {"note": sample}})]})
    assert rule in rules_of({"evidence": token})


@pytest.mark.parametrize(
    "spelling",
    SPELLINGS,
    ids=range(len(SPELLINGS)),
)
def test_tainted_value_is_found_in_every_spelling(spelling: str) -> None:
    assert "taint" in rules_of({"reason": f"<{spelling}>"}, taint=[SECRET])


def test_short_taint_is_ignored() -> None:
    """A three-letter value would block every report."""
    assert not hits({"reason": "an abc of things"}, taint=["abc"])


def test_hit_names_place_and_rule_and_never_the_value() -> None:
    sample = SAMPLES["runpod-key"][0]

    found = list(map(str, hits({"rows": [{"reason": sample}], sample: 1})))

    assert not any(sample in each for each in found)
    assert "$.rows[0].reason (rule runpod-key)" in found


def test_forbidden_name_of_a_field_is_masked_in_the_paths_below_it() -> None:
    sample = "rpa_" + "A1b2C3d4" * 5

    assert not [hit for hit in hits({"extra": {sample: "/home/ada"}}) if sample in str(hit)]


@pytest.mark.parametrize("name", ["protectedAdapterSha256", "nonce", "prev", "evidence", "composite", "header_sha256"])
def test_digest_is_allowed_by_the_name_of_its_field(name: str) -> None:
    assert not hits({name: example.digest("x")})


def test_digest_is_allowed_among_components() -> None:
    assert not hits({"components": {"archive": example.digest("x")}})


@pytest.mark.parametrize("name", ["reason", "note", "bootId", "decision"])
def test_digest_in_another_field_is_forbidden_like_a_key(name: str) -> None:
    """Sixty-four hex digits are what a Vast key looks like."""
    assert rules_of({name: example.digest("x")}) == {"vast-key"}


@pytest.mark.parametrize("sample", [SAMPLES["tunnel-url"][0], SAMPLES["machine-path"][0], SAMPLES["private-key"][0]])
def test_name_of_a_field_allows_digests_and_nothing_else(sample: str) -> None:
    assert hits({"headSha256": sample})


@pytest.mark.parametrize("text", ["{not json", "[1, 2", "a" * 12 + "." + "b" * 4 + "." + "c" * 90])
def test_text_that_only_looks_like_json_or_a_token_is_searched_as_text(text: str) -> None:
    assert not hits({"reason": text})
    assert rules_of({"reason": f"{text} /home/ada"}) == {"machine-path"}


def test_example_report_holds_nothing_forbidden() -> None:
    assert not hits(example.document())


@pytest.mark.parametrize(
    "text", ["epochs/s", "Qwen/Qwen2.5-0.5B-Instruct", "2026-11-20T17:00:00Z", "run-1/row-2/0a1b", "/v1/release refused", "a: b"]
)
def test_ordinary_text_passes(text: str) -> None:
    assert not hits({"reason": text})


def test_credentials_of_the_environment_are_tainted_by_the_names_of_their_variables() -> None:
    environ = {"RUNPOD_API_KEY": "k" * 20, "HF_TOKEN": "t" * 20, "HOME": "/somewhere/else", "X_TOKEN": "short"}

    assert sorted(environment_taint(environ)) == ["k" * 20, "t" * 20]


def test_long_token_takes_linear_time() -> None:
    """Twice the length takes about twice the time; by its square it would take four times, and reports are full of tokens."""

    def seconds(length: int) -> float:
        text = "aB3-_" * (length // 5)
        began = time.process_time()
        for _ in range(3):
            hits({"note": text})
        return time.process_time() - began

    assert min(seconds(40_000) / seconds(10_000) for _ in range(3)) < 10


def _token(claims: dict[str, str], signature: str) -> str:
    parts = (json.dumps({"alg": "Ed25519"}), json.dumps(claims))
    return ".".join([*(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts), signature])


def test_signature_that_looks_like_a_service_token_by_chance_stops_nothing() -> None:
    """Met in a report of ten thousand rows: a seal's 86 characters held `-sk-`."""
    chance = "A" * 30 + "-sk-" + "b1" * 26

    assert hits({"seal": _token({"iss": "somebody"}, chance), "ak": chance[:43]}) == []


def test_service_token_is_found_in_words_and_inside_a_tokens_claims() -> None:
    secret = "sk-" + "a1B2" * 8

    assert [hit.rule for hit in hits({"reason": f"refused: {secret}"})] == ["service-token"]
    assert [hit.rule for hit in hits({"grant": _token({"note": secret}, "A" * 86)})] == ["service-token"]


#: What patterns that give back, or are tried from every place, choke on: each repeated, after a beginning and before an end.
PIECES = (
    "a", "1", "a.", "1.", "a-", "a/", "./", "a@", "a:", ":1_", "://", "x://a:", "[a:", "a_b.", "ssh ", "ssh\n", "-p", "-p ", "bearer ",
    " ", "\n", "-----BEGIN ", "PRIVATE KEY", '"d": ', "sk-a", "A", "f", "1.1.1.1:", "a.runpod.", "x/.enc_", "_.", '{"', "[",
)  # fmt: skip
BEGINNINGS = ("", "ssh ", "http://", "x@", "[", '"d":"', "x/")


#: Characters of the text that a rule searches, and of a log.
_LENGTH, _LOG_LENGTH = 20_000, 100_000


def _cost_s(read: Callable[[str], object], text: str) -> float:
    began = time.process_time()
    read(text)
    return time.process_time() - began


def _allowed_s(read: Callable[[str], object], length: int) -> float:
    """A hundred times what ordinary text of the same length takes on this machine."""
    ordinary = ("Tesla T4 in a box, at 10.0.0.1; " * length)[:length]
    resolution = time.get_clock_info("process_time").resolution
    return 100 * max(resolution, *(_cost_s(read, ordinary) for _ in range(5)))


def _searched_by_every_rule(text: str) -> None:
    for rule in RULES:
        rule.pattern.search(text)


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_every_rule_takes_linear_time(beginning: str) -> None:
    """A guest chooses its driver's name. By its square, 120 kB of it took minutes; a rule is given a hundred times what it takes."""
    slow = []
    for_a_rule, for_a_log = _allowed_s(_searched_by_every_rule, _LENGTH) / len(RULES), _allowed_s(redact_log, _LOG_LENGTH)
    for piece in PIECES:
        text, log = (f"{beginning}{piece * (length // len(piece))}!" for length in (_LENGTH, _LOG_LENGTH))
        slow += [
            (rule.name, rule.pattern.pattern[:40], piece) for rule in RULES if _cost_s(rule.pattern.search, text) > for_a_rule
        ]
        slow += [("redact_log", "", piece)] if _cost_s(redact_log, log) > for_a_log else []
    assert slow == []


@pytest.mark.parametrize("piece", ["a.", "ssh ", "a-b.", "x://a:", "a@"])
def test_very_long_name_of_a_driver_is_read_to_its_end(piece: str) -> None:
    """By its square, 120 kB of it took minutes."""
    text, name = piece * (250_000 // len(piece)), piece * (50_000 // len(piece))
    assert [hit.rule for hit in hits({"driver": text, "more": {name: [name]}}) if hit.rule != "ssh-endpoint"] == []
    assert "tunnel-url" in rules_of({"driver": f"{text} x.ngrok.io"})


def test_nested_json_text_takes_linear_time() -> None:
    """Places are spelled for what is found only, and depth is walked without a stack."""
    deep = "[" * 400 + '"/home/ada"' + "]" * 400
    assert len(hits({"a": "[" + ",".join([deep] * 200) + "]"})) == 201
    assert len(hits({"x" * 50_000: {str(number): "/home/ada" for number in range(5_000)}})) == 5_000


def test_search_for_a_few_hits_ends_when_it_has_them() -> None:
    """A hostile document may have millions: a check shows some of them."""
    document = {"rows": ["/home/ada"] * 1000}

    assert len(hits(document)) == 1000
    assert [hit.rule for hit in hits(document, most=2)] == ["machine-path"] * 2


@pytest.mark.parametrize("before", ["", "x", "xy"])
def test_shortest_taint_is_found_in_base64_whatever_precedes_it(before: str) -> None:
    """Of a text of six bytes, at least six characters depend on it alone."""
    text = base64.b64encode(f"{before}q7_-Zk and more".encode()).decode()

    assert rules_of({"reason": text}, taint=["q7_-Zk"]) == {"taint"}
    assert "taint" not in rules_of({"reason": text}, taint=["q7_-Zx"])
