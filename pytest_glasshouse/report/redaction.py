"""Redaction: finds, in every string of a document, what must never be published.

Two searches. The *taint list* holds values this run knows to be secret, searched in every spelling they could take. The
*rules* are patterns of keys, endpoints and paths. Digests, public keys and tokens look like keys; the name of their field
tells them apart, and a token's claims are decoded and searched like the rest.
A hit names a path and a rule. The value itself is never shown, logged or returned.
"""

from __future__ import annotations

import base64
import json
import re
import urllib.parse
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

#: Shorter values are not secrets, and would be found everywhere.
SHORTEST_TAINT = 6

_TUNNELS = (
    r"proxy\.runpod\.(?:net|io)|runpod\.run|trycloudflare\.com|ngrok(?:-free)?\.(?:app|dev|io|com)|loca\.lt|localhost\.run"
    r"|serveo\.net|bore\.pub|pinggy\.(?:io|link)|gradio\.live|devtunnels\.ms|ts\.net|lhr\.life|tunnel\.dev|tunnelmole\.net"
)
_ADDRESS = r"\d{1,3}(?:\.\d{1,3}){3}"
_SERVICE_PREFIXES = "hf_|ghp_|gho_|ghs_|github_pat_|glpat-|xox[abprs]-|sk-"
_ROOTS = "home|root|tmp|Users|workspace|var|opt|mnt|media|srv|data|private|work|Volumes|usr|etc|runpod-volume|dev/shm|scratch"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One forbidden pattern. An `opaque` rule also matches digests, keys and tokens, and does not apply to their fields.

    Every text that matches contains `holds`; most texts of a report, its tokens, hold few of them.
    """

    name: str
    pattern: re.Pattern[str]
    holds: str = ""
    opaque: bool = False


#: Every pattern takes linear time, because a guest chooses the text: a look-behind lets a run of characters match from its
#: beginning only, and what need not backtrack is possessive (`++`).
RULES: tuple[Rule, ...] = (
    Rule(name="tunnel-url", holds=".", pattern=re.compile(rf"(?i)(?<=[a-z0-9-])\.(?:{_TUNNELS})\b")),
    Rule(name="url-with-credentials", holds="://", pattern=re.compile(r"(?i)(?<=[a-z0-9+.-])://[^\s/@:]*+:[^\s/@]++@")),
    Rule(name="url-with-port", holds="://", pattern=re.compile(r"(?i)\b(?:https?|wss?|tcp|ssh)://[^\s/]+:\d{1,5}\b")),
    Rule(name="url-to-address", holds="://", pattern=re.compile(rf"(?i)(?<=[a-z0-9+.-])://(?:{_ADDRESS}|\[[0-9a-f:]++\])")),
    Rule(name="signed-url", holds="=", pattern=re.compile(r"(?i)[?&](?:x-amz-signature|x-goog-signature|sig|signature|token)=")),
    Rule(name="ssh-endpoint", holds=":", pattern=re.compile(rf"(?i)(?:\b{_ADDRESS}|\[[0-9a-f:]{{3,}}+\]):\d{{1,5}}\b")),
    Rule(name="ssh-endpoint", holds=":", pattern=re.compile(r"(?i)(?<![\w.-])(?:[a-z0-9-]++\.)+[a-z]{2,}+:\d{2,5}\b")),
    Rule(
        name="ssh-endpoint",
        holds="@",
        pattern=re.compile(rf"(?i)(?<![\w.-])[a-z_][\w.-]*+@(?:{_ADDRESS}|(?:[a-z0-9-]++\.)+[a-z]{{2,}})"),
    ),
    # From the first `ssh` of a line only, and each blank after a `-p` once.
    Rule(name="ssh-endpoint", holds="-", pattern=re.compile(r"(?im)^(?>[^\n]*?\bssh\s)[^\n]*-p\s*+\d{2,5}\b")),
    Rule(name="ssh-endpoint", holds=".", pattern=re.compile(r"(?i)\bssh\d{0,9}\.vast\.ai\b|\bssh\.runpod\.io\b")),
    Rule(
        name="package-path",
        holds="/",
        pattern=re.compile(r"(?i)(?<![\w./-])[\w.-]*+/[\w./-]*\.(?:enc|sealed|floe|glasshouse-package|gpkg|age|gpg)\b"),
    ),
    Rule(name="machine-path", holds="/", pattern=re.compile(rf"(?<![\w./:-])/(?:{_ROOTS})(?:/|\b)")),
    Rule(name="machine-path", pattern=re.compile(r"(?i)\bfile://|\b[A-Z]:\\Users\\|(?<![\w/])~/")),
    Rule(name="private-key", holds="-----BEGIN ", pattern=re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")),
    Rule(name="private-key", holds='"', pattern=re.compile(r"""(?i)"d"\s*+:\s*+"[A-Za-z0-9_-]{40,}+\"""")),
    Rule(name="runpod-key", holds="rpa_", pattern=re.compile(r"\brpa_[A-Za-z0-9]{20}")),
    Rule(name="runpod-key", pattern=re.compile(r"(?<![A-Za-z0-9_-])[A-Z0-9]{40}(?![A-Za-z0-9_-])"), opaque=True),
    Rule(name="vast-key", pattern=re.compile(r"(?<![0-9A-Za-z])[0-9a-f]{64}(?![0-9A-Za-z])"), opaque=True),
    # Opaque: one in some hundred thousand signatures contains `-sk-` by chance.
    Rule(name="service-token", pattern=re.compile(rf"\b(?:{_SERVICE_PREFIXES})[A-Za-z0-9_-]{{16}}"), opaque=True),
    Rule(name="service-token", pattern=re.compile(r"\bAKIA[0-9A-Z]{16}\b|(?i:\bbearer\s++[A-Za-z0-9._~+/-]{16})")),
)

#: Fields whose value is a digest, a nonce or a public key by construction. Only the opaque rules skip them.
_DIGEST_FIELD = re.compile(r"(?i)(?:sha256|digest)$")
_NAMED_FIELDS = frozenset(
    {
        "evidence", "nonce", "agentNonce", "eat_nonce", "prev", "head", "composite", "manifest", "policy", "plan", "container",
        "commitment", "header", "initial", "base", "adapter", "exit", "result", "jti", "package", "required",
        "round_nonce", "gitCommit", "ak", "proof", "server", "servers", "owner", "owners", "hpke", "owner_hpke", "sig",
        "kid", "iss", "aud", "run_plan", "round", "chain", "heads",
    }
)  # fmt: skip
#: Objects whose members are all digests, by the name of what was measured, or all keys, by the name of who signs with them.
_DIGEST_OBJECTS = frozenset({"components", "context", "images", "keys"})
#: Not names of fields: the string is a field's name itself, or a text whose content is searched string by string.
_KEY, _OPENED = "(key)", "(opened)"
_JSON, _HEADER, _CLAIMS = "(json)", "(header)", "(claims)"
_INSIDES = frozenset({_JSON, _HEADER, _CLAIMS, ""})
#: Longest name of a field that is shown in a path.
_NAME = 80
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SHORTEST_TOKEN = 80
_NO_TEXT = (type(None), bool, int, float)
_TOKEN = re.compile(r"[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{2,}\.[A-Za-z0-9_-]{80,}")


@dataclass(frozen=True, kw_only=True)
class Hit:
    """Where a forbidden value stands and which rule found it."""

    path: str
    rule: str

    def __str__(self) -> str:
        return f"{self.path} (rule {self.rule})"


def hits(document: object, *, taint: Iterable[str] = (), most: int | None = None) -> list[Hit]:
    """Every forbidden value, by place and rule; with `most`, about that many of them."""
    spellings, texts = tainted_spellings(taint), list[str]()
    found = _search(document, frozenset(), texts if spellings else None, most)
    if spellings and any(map("\n".join(texts).__contains__, spellings)):
        # No text holds a spelling that all of them together do not hold, and nearly always they hold none.
        found = _search(document, spellings, None, most)
    return found


def _search(document: object, spellings: frozenset[str], texts: list[str] | None, most: int | None) -> list[Hit]:
    """What the rules find, and which strings hold one of `spellings`; every string is added to `texts`, where that is a list.

    Strings are values, keys, JSON in strings, and token claims. Each has the name of its field, and of the object which that
    is in, past any lists. Not recursive: a guest chooses the depth.
    """
    found: list[tuple[_Place, str]] = []
    forbidden_keys: set[str] = set()
    harmless_keys: set[tuple[str, str]] = set()  # with the name above, which decides what is looked for
    pending: list[tuple[object, _Place | None, str, str]] = [(document, None, "", "")]

    def look(place: _Place, own: str, above: str, text: str) -> tuple[str, ...]:
        rules = _rules_hit(own, above, text, spellings)
        found.extend((place, rule) for rule in rules)
        if texts is not None:
            texts.append(text)
        return rules

    while pending and (most is None or len(found) < most):
        value, place, own, above = pending.pop()
        if isinstance(value, str):
            inside = _inside(value)
            pending += [(item, (step, place), own, above) for step, item in inside]
            look(place or ("", None), _OPENED if inside else own, above, value)
        elif isinstance(value, dict):
            for key, item in value.items():
                name = str(key)
                below = (name, place)
                if (own, name) not in harmless_keys:
                    rules = look(below, _KEY, own, name)
                    forbidden_keys.update([name] if rules else ())
                    harmless_keys.update(() if rules else [(own, name)])
                if type(item) not in _NO_TEXT:
                    pending.append((item, below, name, own))
        elif isinstance(value, list | tuple):
            pending += [(item, (number, place), own, above) for number, item in enumerate(value)]
    return [Hit(path=_path(place, forbidden_keys), rule=rule) for place, rule in found]


def environment_taint(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Values of the environment variables whose names are those of credentials."""
    name = re.compile(r"(?i)(?:_API_KEY|_TOKEN|_SECRET|_SECRET_KEY|_PASSWORD|_ACCESS_KEY|SIGNING_KEY)$")
    return tuple(value for key, value in environ.items() if name.search(key) and len(value) >= 12)  # noqa: PLR2004


def tainted_spellings(taint: Iterable[str]) -> frozenset[str]:
    """Each value as itself, URL-encoded, JSON-escaped, in hex, and in base64 at each of the three byte offsets."""
    found: set[str] = set()
    for value in taint:
        if len(value) < SHORTEST_TAINT:
            continue
        raw = value.encode("utf-8", "surrogatepass")
        found |= {value, urllib.parse.quote(value, safe=""), urllib.parse.quote_plus(value), urllib.parse.quote(value)}
        found |= {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], raw.hex(), raw.hex().upper()}
        found |= set(_base64_spellings(raw))
    return frozenset(found)


def _base64_spellings(raw: bytes) -> Iterator[str]:
    """The characters of a base64 text that depend on `raw` alone, whatever is around it: as many as its bytes, or more."""
    for offset in range(3):
        padded = b"\0" * offset + raw
        text = base64.b64encode(padded).decode().rstrip("=")
        first = (0, 2, 3)[offset]
        last = len(padded) * 8 // 6
        core = text[first:last]
        yield core
        yield core.replace("+", "-").replace("/", "_")


def _rules_hit(own: str, above: str, text: str, spellings: frozenset[str]) -> tuple[str, ...]:
    shaped = _short_shapes if len(text) <= _SHORT else _shapes
    rules = shaped(text, _is_named(own, above))
    return ("taint", *rules) if spellings and any(spelling in text for spelling in spellings) else rules


def _shapes(text: str, opaque_allowed: bool) -> tuple[str, ...]:  # noqa: FBT001
    if opaque_allowed and _DIGEST.fullmatch(text):
        return ()  # half of a report's longer texts; only an opaque rule matches so many hex digits
    return tuple(
        rule.name for rule in RULES if not (rule.opaque and opaque_allowed) and rule.holds in text and rule.pattern.search(text)
    )


#: Names of fields and values of enumerations repeat by the thousand in a report; each is searched once.
_SHORT = 48
_short_shapes = lru_cache(maxsize=8192)(_shapes)


@lru_cache(maxsize=8192)
def _is_named(own: str, above: str) -> bool:
    """Whether the field's own name, or that of the object directly above it, is one of a digest or key."""
    return own == _OPENED or own in _NAMED_FIELDS or _DIGEST_FIELD.search(own) is not None or above in _DIGEST_OBJECTS


#: Where a string stands: its last step and the place before it, so that a path is built only for a hit.
_Place: TypeAlias = "tuple[str | int, _Place | None]"


def _path(place: _Place, forbidden: set[str]) -> str:
    """The JSON path; a field name that is itself forbidden, or no plain name, is masked, as it may hold the value."""
    steps: list[str] = []
    here: _Place | None = place
    while here is not None:
        step, here = here
        steps.append(_spelled(step, forbidden))
    return "$" + "".join(reversed(steps))


def _spelled(step: str | int, forbidden: set[str]) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    if step in _INSIDES:
        return step
    if step in forbidden:
        return ".[key]"
    return f".{step}" if len(step) <= _NAME and step.isascii() and re.fullmatch(r"\w+", step) else "[*]"


def _inside(text: str) -> list[tuple[str, object]]:
    """The value of a JSON text, or a token's header and claims; empty where the text is neither."""
    if len(text) <= _SHORTEST_TOKEN and text[:1] not in "{[":
        return []
    if text.startswith(("{", "[")):
        try:
            return [(_JSON, json.loads(text))]
        except (ValueError, RecursionError):
            return []
    found: list[tuple[str, object]] = []
    if _TOKEN.fullmatch(text):
        for segment, part in zip((_HEADER, _CLAIMS), text.split("."), strict=False):
            try:
                found.append((segment, json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))))
            except (ValueError, RecursionError):
                continue
    return found
