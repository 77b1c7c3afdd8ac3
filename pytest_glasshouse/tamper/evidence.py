"""Evidence with one changed claim, in an otherwise valid and validly signed token.

Each spends the nonce: a validly signed attempt is an attempt.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

from pytest_glasshouse.tamper.case import Case
from pytest_glasshouse.tamper.testbed import COMPONENTS, SUB, WEAK_KEY, Attempt, TamperTestbed
from pytest_glasshouse.wire import journal
from pytest_glasshouse.wire.canonical import Json, b64u, sha256_hex
from pytest_glasshouse.wire.evidence import composite

Change = Callable[[Attempt], None]
_OTHER = sha256_hex(b"another")


def _case(name: str, reason: str, caught_by: str, change: Change, *, published: bool = False) -> Case:
    def play(testbed: TamperTestbed) -> None:
        attempt = testbed.attempt()
        change(attempt)
        attempt.release()

    return Case(
        name=name, play=play, expected_reason=reason, caught_by=f"appraise {caught_by}", published=published, nonce="spent"
    )


def _set(**claims: Json) -> Change:
    return lambda attempt: attempt.claims.update(claims)


def _drop(name: str) -> Change:
    def change(attempt: Attempt) -> None:
        del attempt.claims[name]

    return change


def _within(claim: str, **values: Json) -> Change:
    def change(attempt: Attempt) -> None:
        attempt.claims[claim] = {**attempt.claims[claim], **values}

    return change


def _shift(iat: int, exp: int) -> Change:
    """Times relative to the server's clock."""
    return lambda attempt: attempt.claims.update(iat=attempt.testbed.now + iat, exp=attempt.testbed.now + exp)


def _observed(drop: str = "", **values: Json) -> Change:
    def change(attempt: Attempt) -> None:
        antidebug = copy.deepcopy(attempt.claims["antidebug"])
        antidebug["observed"].update(values)
        antidebug["observed"].pop(drop, None)
        attempt.claims["antidebug"] = antidebug

    return change


def _components(drop: str = "", **values: str) -> Change:
    """Other components with a matching composite in evidence and journal: only the policy differs."""

    def change(attempt: Attempt) -> None:
        components = {name: value for name, value in {**COMPONENTS, **values}.items() if name != drop}
        attempt.claims.update(components=components, composite=composite(components))
        _journal(attempt, ("anti_debug_ready", "measured"), composite(components))

    return change


def _journal(attempt: Attempt, steps: tuple[str, ...], measured: str, nonce: str | None = None) -> None:
    lines: list[str] = []
    log = journal.Journal(attempt.nonce if nonce is None else nonce, lines.append, lambda: 0)
    for step in steps:
        log.append(step, {"wall": "2027-01-15T08:00:00Z"} if log.count == 0 else {"composite": measured})
    attempt.log = lines
    attempt.claims["state"] = {"name": "measured", "head": log.head}


def _steps(*steps: str) -> Change:
    return lambda attempt: _journal(attempt, steps, composite(COMPONENTS))


def _log(change: Callable[[list[str]], list[str]]) -> Change:
    def apply(attempt: Attempt) -> None:
        attempt.log = change(attempt.log)

    return apply


def _upper(name: str) -> Change:
    return lambda attempt: attempt.claims.update({name: str(attempt.claims[name]).upper()})


def _without_reference(testbed: TamperTestbed) -> None:
    """A policy that requires the archive without a reference value: such a component matches nothing."""
    policy = testbed.make_policy(name="no reference", archive=None)
    sealed, testbed.sealed = testbed.sealed, testbed.seal()
    testbed.register(testbed.sealed, policy)
    sub = f"{SUB}/no-reference"
    testbed.enrol(sub, grant=testbed.grant(sub, policy=policy.sha256))
    try:
        testbed.attempt(sub).release()
    finally:
        testbed.sealed = sealed


def _unlocked(testbed: TamperTestbed) -> None:
    """A policy that requires locked memory: evidence of locked memory is released, of unlocked memory refused."""
    policy = testbed.make_policy(name="locked", locked=True)
    testbed.sealed = testbed.seal()
    testbed.register(testbed.sealed, policy)
    for sub in (f"{SUB}/locked", f"{SUB}/unlocked"):
        testbed.enrol(sub, grant=testbed.grant(sub, policy=policy.sha256))
    testbed.attempt(f"{SUB}/locked").release()
    testbed.reset_release_count()
    attempt = testbed.attempt(f"{SUB}/unlocked")
    attempt.claims["memory"] = {"locked": False, "bytes": 4096}
    attempt.release()


_MEASURED = ("anti_debug_ready", "measured")

PUBLISHED = (
    _case("composite-hash-mismatch", "composite", "8", _components(archive=_OTHER), published=True),
    _case("manifest-hash-mismatch", "manifest", "6", _set(manifest=_OTHER), published=True),
    _case("container-id-mismatch", "container", "7", _set(container=_OTHER), published=True),
    _case("stale-timestamp", "stale", "4", _shift(-61, 59), published=True),
    _case("anti-debug-disabled", "antidebug-disabled", "9", _within("antidebug", enabled=False), published=True),
    _case("runtime-state-spoofed", "state", "10", _within("state", head=_OTHER), published=True),
    _case("anti-debug-profile-downgrade", "antidebug-downgrade", "9", _within("antidebug", profile="basic"), published=True),
    _case("jwt-claim-mismatch", "jwt-claims", "2", _set(sub="run-2"), published=True),
)

CASES = (
    _case("issuer-of-another-name", "jwt-claims", "2", _set(iss="somebody")),
    _case("audience-of-another-server", "jwt-claims", "2", _set(aud="another server")),
    _case(
        "audience-list-with-ours-in-it",
        "jwt-claims",
        "2",
        lambda attempt: attempt.claims.update(aud=[attempt.claims["aud"], "another server"]),
    ),
    _case("timestamp-in-the-future", "future", "4", _shift(6, 100)),
    _case("lifetime-of-ten-days", "lifetime", "4", _shift(0, 864_000)),
    _case("lifetime-a-second-too-long", "lifetime", "4", _shift(0, 121)),
    _case("expired-inside-the-window", "lifetime", "4", _shift(-30, -1)),
    _case("expires-now", "lifetime", "4", _shift(-30, 0)),
    _case("exp-as-a-string", "claims-type", "3", lambda a: a.claims.update(exp=str(a.claims["exp"]))),
    _case("iat-as-a-string", "claims-type", "3", lambda a: a.claims.update(iat=str(a.claims["iat"]))),
    _case("manifest-version-true-for-one", "claims-type", "3", _set(manifest_version=True)),
    _case("jti-as-a-number", "claims-type", "3", _set(jti=7)),
    _case("components-as-a-list", "claims-type", "3", _set(components=[])),
    _case("antidebug-as-a-word", "claims-type", "3", _set(antidebug="strict")),
    _case("claim-missing", "claims-set", "1", _drop("jti")),
    _case("claim-missing-cnf", "claims-set", "1", _drop("cnf")),
    _case("claim-nobody-asked-for", "claims-set", "1", _set(admin=True)),
    _case("components-other-than-the-composite", "composite-inconsistent", "8", _set(composite=_OTHER)),
    _case(
        "composite-right-components-other",
        "composite-inconsistent",
        "8",
        lambda attempt: attempt.claims.update(components={**COMPONENTS, "torch": _OTHER}),
    ),
    _case("component-left-out", "composite", "8", _components(drop="torch")),
    _case("component-required-left-out", "composite", "8", _components(drop="archive")),
    _case("component-nobody-asked-for", "composite", "8", _components(preloaded=_OTHER)),
    _case("component-interpreter-other", "composite", "8", _components(interpreter=_OTHER)),
    _case("component-digest-in-upper-case", "claims-type", "3", _components(torch=_OTHER.upper())),
    _case("component-digest-cut", "claims-type", "3", _components(torch=_OTHER[:-1])),
    Case(
        name="component-required-without-reference",
        play=_without_reference,
        expected_reason="composite",
        caught_by="appraise 8",
        nonce="spent",
    ),
    _case("manifest-version-rolled-back", "manifest-version", "6", _set(manifest_version=0)),
    _case("manifest-version-ahead", "manifest-version", "6", _set(manifest_version=2)),
    _case("manifest-hash-in-upper-case", "manifest", "6", _upper("manifest")),
    _case("container-id-in-upper-case", "container", "7", _upper("container")),
    _case("container-id-empty", "container", "7", _set(container="")),
    _case("eat-profile-other", "policy-binding", "5", _set(eat_profile="tag:example.org,2026:other")),
    _case("policy-other", "policy-binding", "5", _set(policy=_OTHER)),
    _case("plan-other", "plan", "5", _set(plan=_OTHER)),
    _case("anti-debug-version-older", "antidebug-downgrade", "9", _within("antidebug", version=0)),
    _case("anti-debug-profile-unknown", "antidebug-downgrade", "9", _within("antidebug", profile="none")),
    _case("anti-debug-profile-in-other-case", "antidebug-downgrade", "9", _within("antidebug", profile="Strict")),
    _case("anti-debug-field-nobody-asked-for", "claims-type", "3", _within("antidebug", debug=True)),
    _case("anti-debug-enabled-as-one", "claims-type", "3", _within("antidebug", enabled=1)),
    _case("anti-debug-check-left-out", "antidebug-disabled", "9", _observed(drop="tracer_pid")),
    _case("anti-debug-check-nobody-asked-for", "antidebug-disabled", "9", _observed(fine=1)),
    _case("tracer-attached", "antidebug-observed", "9", _observed(tracer_pid=4711)),
    _case("dumpable", "antidebug-observed", "9", _observed(dumpable=1)),
    _case("dumpable-false-for-zero", "antidebug-observed", "9", _observed(dumpable=False)),
    _case("core-dumps-allowed", "antidebug-observed", "9", _observed(core_limit=-1)),
    _case("library-preloaded", "antidebug-observed", "9", _observed(preload=["LD_PRELOAD"])),
    _case("python-variables-set", "antidebug-observed", "9", _observed(python_variables=["PYTHONPATH"])),
    _case("cuda-injection", "antidebug-observed", "9", _observed(cuda_injection=["CUDA_INJECTION64_PATH"])),
    _case("trace-function-set", "antidebug-observed", "9", _observed(trace_function=1)),
    _case("profile-function-set", "antidebug-observed", "9", _observed(profile_function=1)),
    _case("monitoring-tool-present", "antidebug-observed", "9", _observed(monitoring_tools=["debugger"])),
    _case("debugger-module-loaded", "antidebug-observed", "9", _observed(debugger_modules=["pydevd"])),
    _case("remote-debugging-on", "antidebug-observed", "9", _observed(remote_debug=1)),
    _case("not-isolated", "antidebug-observed", "9", _observed(isolated=0)),
    _case("site-loaded", "antidebug-observed", "9", _observed(no_site=0)),
    _case("state-name-other", "state", "10", _within("state", name="trusted")),
    _case("state-field-nobody-asked-for", "claims-type", "3", _within("state", ready=True)),
    _case("log-past-the-release", "state", "10", _steps(*_MEASURED, "key_received")),
    _case("log-not-there-yet", "state", "10", _steps("anti_debug_ready")),
    _case("log-steps-swapped", "state", "10", _steps("measured", "anti_debug_ready")),
    _case("log-of-another-measurement", "state", "10", lambda a: _journal(a, _MEASURED, _OTHER)),
    _case("log-of-another-session", "log-chain", "10", lambda a: _journal(a, _MEASURED, composite(COMPONENTS), _OTHER)),
    _case("log-empty", "log-empty", "10", _log(lambda _: [])),
    _case("log-first-line-removed", "log-chain", "10", _log(lambda lines: lines[1:])),
    _case("log-lines-swapped", "log-chain", "10", _log(lambda lines: lines[::-1])),
    _case("log-line-respaced", "log-format", "10", _log(lambda lines: [lines[0], lines[1].replace(":", ": ", 1)])),
    _case("log-line-without-its-end", "log-format", "10", _log(lambda lines: [lines[0], lines[1][:-1]])),
    _case("memory-as-a-word", "claims-type", "3", _set(memory="locked")),
    _case("memory-locked-as-one", "claims-type", "3", _within("memory", locked=1)),
    _case("memory-field-nobody-asked-for", "claims-type", "3", _within("memory", swap=False)),
    Case(
        name="memory-not-locked",
        play=_unlocked,
        expected_reason="memory-unlocked",
        caught_by="appraise 12",
        nonce="spent",
    ),
    _case("cnf-empty", "cnf", "11", _set(cnf={})),
    _case("cnf-as-a-word", "cnf", "11", _set(cnf="key")),
    _case("cnf-key-cut", "cnf", "11", _within("cnf", hpke=b64u(bytes(31)))),
    _case("cnf-signing-key-cut", "cnf", "11", _within("cnf", sig=b64u(bytes(31)))),
    _case("cnf-key-too-long", "cnf", "11", _within("cnf", hpke=b64u(bytes(33)))),
    _case("cnf-key-padded", "cnf", "11", lambda a: _within("cnf", hpke=a.claims["cnf"]["hpke"] + "=")(a)),
    _case("cnf-key-nobody-asked-for", "cnf", "11", _within("cnf", backup=b64u(bytes(32)))),
    _case("cnf-key-of-no-order", "cnf", "11", _within("cnf", hpke=b64u(bytes(32)))),
    _case("cnf-signing-key-of-small-order", "cnf", "11", _within("cnf", sig=b64u(WEAK_KEY))),
)
