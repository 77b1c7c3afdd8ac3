"""Nothing forbidden leaves: a gate over every string of a document, which fails closed.

Two nets. The *taint list* holds values this run knows to be secret, searched in every spelling they could take. The
*rules* know the shapes of what must never be published. Digests, public keys and tokens look like keys; they are told
apart by the name of their field, and a token's claims are opened and searched like the rest.
The gate names a place and a rule. It never shows, logs or returns the value.
"""

from __future__ import annotations

import base64
import json
import re
import urllib.parse
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import RedactionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

#: Shorter values would be found everywhere and are no secrets.
SHORTEST_TAINT = 6
_MOST_READ = 100

_TUNNELS = (
    r"proxy\.runpod\.(?:net|io)|runpod\.run|trycloudflare\.com|ngrok(?:-free)?\.(?:app|dev|io|com)|loca\.lt|localhost\.run"
    r"|serveo\.net|bore\.pub|pinggy\.(?:io|link)|gradio\.live|devtunnels\.ms|ts\.net|lhr\.life|tunnel\.dev|tunnelmole\.net"
)
_ADDRESS = r"\d{1,3}(?:\.\d{1,3}){3}"
_SERVICE_PREFIXES = "hf_|ghp_|gho_|ghs_|github_pat_|glpat-|xox[abprs]-|sk-"
_ROOTS = "home|root|tmp|Users|workspace|var|opt|mnt|media|srv|data|private|work|Volumes|usr|etc|runpod-volume|dev/shm|scratch"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One forbidden shape. `opaque` rules are those a digest, key or token also fits: they do not apply to such fields."""

    name: str
    pattern: re.Pattern[str]
    opaque: bool = False


RULES: tuple[Rule, ...] = (
    Rule(name="tunnel-url", pattern=re.compile(rf"(?i)\b[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:{_TUNNELS})\b")),
    Rule(name="url-with-credentials", pattern=re.compile(r"(?i)\b[a-z][a-z0-9+.-]*://[^\s/@:]+:[^\s/@]+@")),
    Rule(name="url-with-port", pattern=re.compile(r"(?i)\b(?:https?|wss?|tcp|ssh)://[^\s/]+:\d{1,5}\b")),
    Rule(name="url-to-address", pattern=re.compile(r"(?i)\b[a-z][a-z0-9+.-]*://(?:\d{1,3}(?:\.\d{1,3}){3}|\[[0-9a-f:]+\])")),
    Rule(name="signed-url", pattern=re.compile(r"(?i)[?&](?:x-amz-signature|x-goog-signature|sig|signature|token)=")),
    Rule(name="ssh-endpoint", pattern=re.compile(rf"(?i)(?:\b{_ADDRESS}|\[[0-9a-f:]{{3,}}\]):\d{{1,5}}\b")),
    Rule(name="ssh-endpoint", pattern=re.compile(r"(?i)(?<![\w.-])(?:[a-z0-9-]+\.)+[a-z]{2,}:\d{2,5}\b")),
    Rule(name="ssh-endpoint", pattern=re.compile(rf"(?i)(?<![\w.-])[a-z_][\w.-]*@(?:{_ADDRESS}|(?:[a-z0-9-]+\.)+[a-z]{{2,}})")),
    Rule(name="ssh-endpoint", pattern=re.compile(r"(?i)\bssh\s[^\n]*-p\s*\d{2,5}\b|\bssh\d*\.vast\.ai\b|\bssh\.runpod\.io\b")),
    # From the beginning of a run of such characters only: from each of them, a long token would take time by its square.
    Rule(
        name="package-path",
        pattern=re.compile(r"(?i)(?<![\w./-])[\w.-]*/[\w./-]*\.(?:enc|sealed|floe|glasshouse-package|gpkg|age|gpg)\b"),
    ),
    Rule(name="machine-path", pattern=re.compile(rf"(?<![\w./:-])/(?:{_ROOTS})(?:/|\b)")),
    Rule(name="machine-path", pattern=re.compile(r"(?i)\bfile://|\b[A-Z]:\\Users\\|(?<![\w/])~/")),
    Rule(name="private-key", pattern=re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")),
    Rule(name="private-key", pattern=re.compile(r"""(?i)"d"\s*:\s*"[A-Za-z0-9_-]{40,}\"""")),
    Rule(name="runpod-key", pattern=re.compile(r"\brpa_[A-Za-z0-9]{20,}")),
    Rule(name="runpod-key", pattern=re.compile(r"(?<![A-Za-z0-9_-])[A-Z0-9]{40}(?![A-Za-z0-9_-])"), opaque=True),
    Rule(name="vast-key", pattern=re.compile(r"(?<![0-9A-Za-z])[0-9a-f]{64}(?![0-9A-Za-z])"), opaque=True),
    # Opaque: of some hundred thousand signatures one holds `-sk-` by chance, and a report of many rows would be stopped by it.
    Rule(name="service-token", pattern=re.compile(rf"\b(?:{_SERVICE_PREFIXES})[A-Za-z0-9_-]{{16,}}"), opaque=True),
    Rule(name="service-token", pattern=re.compile(r"\bAKIA[0-9A-Z]{16}\b|(?i:\bbearer\s+[A-Za-z0-9._~+/-]{16,})")),
)

#: Fields whose value is a digest or a nonce by construction. Only the opaque rules skip them.
_DIGEST_FIELD = re.compile(r"(?i)(?:sha256|digest)$")
_NAMED_FIELDS = frozenset(
    {
        "evidence", "nonce", "agentNonce", "eat_nonce", "prev", "head", "composite", "manifest", "policy", "plan", "container",
        "commitment", "header", "initial", "base", "adapter", "exit", "result", "jti", "package", "required",
        "round_nonce", "gitCommit", "ak", "proof", "server", "servers", "owner", "owners", "hpke", "sig",
    }
)  # fmt: skip
#: Objects whose members are all digests, by the name of what was measured.
_DIGEST_OBJECTS = frozenset({"components", "context", "images"})
#: Names that stand for no field: the name of a field itself, and a text whose inside is searched string by string.
_KEY, _OPENED = "(key)", "(opened)"
_TOKEN = re.compile(r"[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{2,}\.[A-Za-z0-9_-]{80,}")


@dataclass(frozen=True, kw_only=True)
class Hit:
    """Where a forbidden value stands and which rule found it."""

    path: str
    rule: str

    def __str__(self) -> str:
        return f"{self.path} (rule {self.rule})"


def redact(document: Any, *, taint: Iterable[str] = ()) -> Any:
    """Return the document if nothing in it is forbidden; raise `RedactionError` naming every place and rule otherwise."""
    found = hits(document, taint=taint)
    if found:
        places = "; ".join(dict.fromkeys(str(hit) for hit in found))
        raise RedactionError(f"not published: {len(found)} forbidden value(s): {places}. Values are withheld")
    return document


def hits(document: Any, *, taint: Iterable[str] = (), most: int | None = None) -> list[Hit]:
    """Every forbidden value, by place and rule; with `most`, only about so many."""
    spellings = tainted_spellings(taint)
    found: list[tuple[str, str]] = []
    forbidden_keys: set[str] = set()
    for path, names, text in _strings(document):
        rules = list(_rules_hit(names, text, spellings))
        found += [(path, rule) for rule in rules]
        if rules and names[-1:] == (_KEY,):
            forbidden_keys.add(text)
        if most is not None and len(found) >= most:
            break
    return [Hit(path=_without(path, forbidden_keys), rule=rule) for path, rule in found]


def first_hits(document: Any) -> list[Hit]:
    """As many forbidden values of a stranger's document as anybody reads of."""
    return hits(document, most=_MOST_READ)


def environment_taint(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Values of environment variables that by their names are credentials."""
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


def _without(path: str, forbidden_keys: set[str]) -> str:
    """The path with every field name that is itself forbidden masked: a place must not tell the value."""
    return ".".join("[key]" if part.split("[")[0].split("(")[0] in forbidden_keys else part for part in path.split("."))


def _base64_spellings(raw: bytes) -> Iterator[str]:
    """The characters of a base64 text that depend on `raw` alone, whatever stands before and after it."""
    for offset in range(3):
        padded = b"\0" * offset + raw
        text = base64.b64encode(padded).decode().rstrip("=")
        first = (0, 2, 3)[offset]
        last = len(padded) * 8 // 6
        core = text[first:last]
        if len(core) >= SHORTEST_TAINT:
            yield core
            yield core.replace("+", "-").replace("/", "_")


def _rules_hit(names: tuple[str, ...], text: str, spellings: frozenset[str]) -> Iterator[str]:
    if any(spelling in text for spelling in spellings):
        yield "taint"
    shaped = _short_shapes if len(text) <= _SHORT else _shapes
    yield from shaped(text, _is_named(names))


def _shapes(text: str, opaque_allowed: bool) -> tuple[str, ...]:  # noqa: FBT001
    return tuple(rule.name for rule in RULES if not (rule.opaque and opaque_allowed) and rule.pattern.search(text))


#: Names of fields and words of enumerations come by the thousand in a report; each is looked at once.
_SHORT = 48
_short_shapes = lru_cache(maxsize=8192)(_shapes)


def _is_named(names: tuple[str, ...]) -> bool:
    """Whether the field's own name, or the name of the object right above it, says digest."""
    own, above = ("", "", *names)[-1], ("", "", *names)[-2]
    return own == _OPENED or own in _NAMED_FIELDS or _DIGEST_FIELD.search(own) is not None or above in _DIGEST_OBJECTS


def _strings(value: Any, path: str = "$", names: tuple[str, ...] = ()) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Every string with its JSON path and the field names above it: keys, JSON inside strings and token claims too."""
    if isinstance(value, dict):
        for key, item in value.items():
            below = f"{path}.{key}" if re.fullmatch(r"\w+", key) else f"{path}[*]"
            yield below, (*names, _KEY), key
            yield from _strings(item, below, (*names, key))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _strings(item, f"{path}[{number}]", names)
    elif isinstance(value, str):
        inside = list(_inside(value, path, names))
        yield path, (*names, _OPENED) if inside else names, value
        yield from inside


def _inside(text: str, path: str, names: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """The strings of a JSON text or of a token's header and claims; none when the text is neither."""
    if text.startswith(("{", "[")):
        try:
            yield from _strings(json.loads(text), f"{path}(json)", names)
        except (ValueError, RecursionError):
            return
    elif _TOKEN.fullmatch(text):
        for segment, part in zip(("header", "claims"), text.split("."), strict=False):
            try:
                decoded = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
            except (ValueError, RecursionError):
                continue
            yield from _strings(decoded, f"{path}({segment})", names)
