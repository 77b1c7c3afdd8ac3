"""No key of small order is accepted, in any encoding, by any function that reads keys."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import pytest_glasshouse
from pytest_glasshouse.check.authenticity import Trust
from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.owner.keyfiles import read_public
from pytest_glasshouse.tamper.testbed import SIGNED_BY_NOBODY, WEAK_KEY
from pytest_glasshouse.wire import public_keys
from pytest_glasshouse.wire.canonical import b64u
from pytest_glasshouse.wire.evidence import SUITE, hpke_key, hpke_text, read_cnf, unsealed
from pytest_glasshouse.wire.tokens import public_key, public_text

P = 2**255 - 19


def _spellings(coordinates: frozenset[int]) -> list[bytes]:
    """Each coordinate and itself plus p where 255 bits hold it, with the top bit and without."""
    numbers = [each + more for each in sorted(coordinates) for more in (0, P) if each + more < 2**255]
    return [(number | top).to_bytes(32, "little") for number in numbers for top in (0, 1 << 255)]


WEAK_ED25519 = _spellings(public_keys.ED25519_SMALL)
WEAK_X25519 = _spellings(public_keys.X25519_SMALL)


def _hex(raw: bytes) -> str:
    return raw.hex()


def test_the_lists_are_whole() -> None:
    """Eight points have 14 spellings on Ed25519's curve (five y, 0 and 1 twice, two signs); as many of five u."""
    assert (len(set(WEAK_ED25519)), len(set(WEAK_X25519))) == (14, 14)
    d = -121665 * pow(121666, -1, P) % P
    for y in public_keys.ED25519_SMALL:
        x2 = (y * y - 1) * pow(d * y * y + 1, -1, P) % P
        # Doubled three times, a point of order 8 is the neutral one: y of a double is (y^2 + x^2) / (1 - d x^2 y^2).
        for _ in range(3):
            y2, t = y * y % P, d * x2 * y * y % P
            x2, y = 4 * x2 * y2 * pow(1 + t, -2, P) % P, (y2 + x2) * pow(1 - t, -1, P) % P
        assert y == 1


@pytest.mark.parametrize("raw", WEAK_X25519, ids=_hex)
def test_x25519_points_of_the_list_share_no_secret(raw: bytes) -> None:
    """The list is not ours to decide: OpenSSL finds no secret with any of them."""
    with pytest.raises(ValueError, match="shared key"):
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(raw))


def test_weak_key_verifies_any_message() -> None:
    """What the refusal is for. Where the library itself refuses such a key, this raises and the refusal may go."""
    for message in (b"one", b"another"):
        Ed25519PublicKey.from_public_bytes(WEAK_KEY).verify(SIGNED_BY_NOBODY, message)


def _pem_of(raw: bytes) -> str:
    return Ed25519PublicKey.from_public_bytes(raw).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _trusted(tmp_path: Path, text: str) -> Trust:
    path = tmp_path / "trusted"
    path.write_text(text)
    return Trust.read([path])


def _cnf(hpke: str, sig: str) -> object:
    return read_cnf({"hpke": hpke, "sig": sig})


_GOOD_HPKE = hpke_text(X25519PrivateKey.generate().public_key())
_GOOD_SIG = public_text(Ed25519PrivateKey.generate().public_key())
ED25519_READERS: dict[str, Callable[[Path, bytes], object]] = {
    "a key's text": lambda _, raw: public_key(b64u(raw)),
    "a leg's signing key": lambda _, raw: _cnf(_GOOD_HPKE, b64u(raw)),
    "--owner, GLASSHOUSE_SERVER_KEY": lambda _, raw: read_public(b64u(raw), what="x"),
    "the same as PEM": lambda _, raw: read_public(_pem_of(raw), what="x"),
    "--trust": lambda path, raw: _trusted(path, b64u(raw)),
    "--trust, a witness": lambda path, raw: _trusted(path, f"witness {b64u(raw)}"),
    "--trust, PEM": lambda path, raw: _trusted(path, _pem_of(raw)),
}
X25519_READERS: dict[str, Callable[[bytes], object]] = {
    "a key's text": lambda raw: hpke_key(b64u(raw)),
    "a leg's key": lambda raw: _cnf(b64u(raw), _GOOD_SIG),
    "the ephemeral key of a sealed message": lambda raw: unsealed(raw + bytes(48), private=X25519PrivateKey.generate(), info=b""),
}


@pytest.mark.parametrize("entry", ED25519_READERS)
@pytest.mark.parametrize("raw", WEAK_ED25519, ids=_hex)
def test_weak_ed25519_key_is_refused_by_every_reader(tmp_path: Path, entry: str, raw: bytes) -> None:
    with pytest.raises((IntegrityError, ConfigurationError)):
        ED25519_READERS[entry](tmp_path, raw)


@pytest.mark.parametrize("entry", X25519_READERS)
@pytest.mark.parametrize("raw", WEAK_X25519, ids=_hex)
def test_weak_x25519_key_is_refused_by_every_reader(entry: str, raw: bytes) -> None:
    with pytest.raises(IntegrityError):
        X25519_READERS[entry](raw)


def test_non_canonical_encoding_of_a_key_is_refused() -> None:
    with pytest.raises(IntegrityError, match="spelling"):
        public_key(b64u((P + 3).to_bytes(32, "little")))


def test_good_keys_are_accepted(tmp_path: Path) -> None:
    """Every reader of keys accepts a good one."""
    key = Ed25519PrivateKey.generate().public_key()
    for entry in ED25519_READERS.values():
        assert entry(tmp_path, key.public_bytes_raw())
    private = X25519PrivateKey.generate()
    for name in ("a key's text", "a leg's key"):
        assert X25519_READERS[name](private.public_key().public_bytes_raw())
    assert unsealed(SUITE.encrypt(b"it", private.public_key(), info=b"i"), private=private, info=b"i") == b"it"


def test_no_other_module_makes_a_public_key_of_bytes() -> None:
    """A new reader of keys uses the same function, or is found here."""
    root = Path(pytest_glasshouse.__file__).parent
    makes = re.compile(r"from_public_bytes|load_(pem|der|ssh)_public_key|EllipticCurvePublicNumbers|SUITE\.decrypt")
    found = {str(path.relative_to(root)) for path in root.rglob("*.py") if makes.search(path.read_text("utf-8"))}
    # `evidence` opens what was sealed, after its sender's key was checked; `training` rehearses with a key of its own; keys
    # of processors' certificates are on P-384, or refused (`chain-key`).
    assert found == {"wire/public_keys.py", "wire/evidence.py", "guest/training.py", "attestation/snp_report.py"}
