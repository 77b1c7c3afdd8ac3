"""What the server must remember across a restart: policy versions, attempts, releases, completions.

Knows one SQLite file, synced before the caller goes on, or memory of this process for a server that is embedded. Refuses
to hold secrets, data keys or nonces that are still open: a restart forgets those, and forgetting refuses.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.wire.canonical import Json
from pytest_glasshouse.wire.own_file import check_own

#: Written into the file's header: "GHL1". Another number is another program's file, or another version's.
_APPLICATION = 0x47484C31
_BESIDE = ("-wal", "-journal", "-shm")
_TABLES = """
    CREATE TABLE policy (
        name TEXT NOT NULL, version INTEGER NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (name, sha256)
    );
    CREATE TABLE attempt (
        place INTEGER PRIMARY KEY, subject TEXT NOT NULL, row TEXT NOT NULL, run TEXT NOT NULL, UNIQUE (subject, row, run)
    );
    CREATE TABLE release (
        nonce TEXT PRIMARY KEY, sub TEXT NOT NULL, run TEXT NOT NULL, manifest TEXT NOT NULL, policy TEXT NOT NULL,
        plan TEXT NOT NULL, ak TEXT NOT NULL, sig TEXT NOT NULL, attempt INTEGER NOT NULL, result_sha256 TEXT NOT NULL,
        released_at INTEGER NOT NULL, deadline INTEGER NOT NULL
    );
    CREATE INDEX release_sub ON release (sub);
    CREATE INDEX release_manifest ON release (manifest);
    CREATE TABLE completion (
        nonce TEXT PRIMARY KEY REFERENCES release (nonce), head_sha256 TEXT NOT NULL, exit_sha256 TEXT NOT NULL,
        receipt TEXT NOT NULL
    );
"""


@dataclass(frozen=True, kw_only=True)
class Release:
    """A data key that left, and all that its completion is checked with. `ak` and `sig` are public keys as text."""

    nonce: str
    sub: str
    run: str
    manifest: str
    policy: str
    plan: str
    ak: str
    sig: str
    attempt: int
    result_sha256: str
    released_at: int
    deadline: int


@dataclass(frozen=True, kw_only=True)
class Completion:
    """The one head and exit that were countersigned for a release."""

    nonce: str
    head_sha256: str
    exit_sha256: str
    receipt: str


_RELEASE = ", ".join(field.name for field in fields(Release))
_COMPLETION = ", ".join(field.name for field in fields(Completion))
_OUTSTANDING = "nonce, sub, run, manifest, released_at, deadline"


class ReleaseLedger:
    """Events in the order they were recorded. Without a path it lasts as long as the process.

    When a `record_*` returns, it is on disk; when it raises, nothing may be done on its account. Its caller runs one call
    at a time, from any thread.
    """

    def __init__(self, path: Path | None = None) -> None:
        import sqlite3

        if path is not None:
            # Made here, so that it is never anybody else's to read; SQLite gives its journal the same mode.
            try:
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            except OSError as error:
                raise ConfigurationError(f"ledger {path}: cannot be opened ({error.strerror})") from None
            # SQLite goes on from these as from the ledger itself.
            for each in (path, *(path.with_name(path.name + beside) for beside in _BESIDE)):
                if os.path.lexists(each):
                    check_own(each, what="ledger")
                    if not each.is_file():
                        raise ConfigurationError(f"ledger {each}: expected a regular file, saw something else")
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False, timeout=0)
        # Python 3.13 warns of a connection that nobody closed, and in pytest a warning may fail a test of the user's.
        weakref.finalize(self, self._db.close)
        try:
            self._prepare(durable=path is not None)
        except sqlite3.Error as error:
            self._db.close()
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                raise ConfigurationError(f"ledger {path}: another server is using it") from None
            raise IntegrityError("ledger", f"{path} is damaged or is no ledger; restore it, never begin a new one") from None
        except IntegrityError:
            self._db.close()
            raise

    def _prepare(self, *, durable: bool) -> None:
        if durable:
            # One server at a time, and every commit synced: a count that a power cut forgets is a key given twice.
            for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
                self._db.execute(f"PRAGMA {pragma}")
        self._db.execute("BEGIN EXCLUSIVE")
        application = self._one("PRAGMA application_id")
        if application == 0 and self._one("SELECT count(*) FROM sqlite_schema") == 0:
            for statement in _TABLES.split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA application_id = {_APPLICATION}")
        self._db.execute("COMMIT")
        if self._one("PRAGMA application_id") != _APPLICATION or self._one("PRAGMA quick_check") != "ok":
            raise IntegrityError("ledger", "damaged, or no ledger of this version; restore it, never begin a new one")

    def _one(self, query: str, *values: str | int) -> object:
        row = self._db.execute(query, values).fetchone()
        return None if row is None else row[0]

    def _count(self, query: str, *values: str | int) -> int:
        return int(str(self._one(query, *values)))

    # ---------------------------------------------------------------------------------------------------- policies

    def policies(self, name: str) -> list[tuple[int, str]]:
        """Version and digest of every policy of that name that was ever registered."""
        found = self._db.execute("SELECT version, sha256 FROM policy WHERE name = ?", (name,))
        return [(int(version), str(sha256)) for version, sha256 in found]

    def record_policy(self, *, name: str, version: int, sha256: str) -> None:
        """Remember a policy; again is as good as once."""
        self._db.execute("INSERT OR IGNORE INTO policy VALUES (?, ?, ?)", (name, version, sha256))

    # ---------------------------------------------------------------------------------------------------- attempts

    def attempt(self, *, subject: str, row: str, run: str) -> int:
        """The place of `run` (with its plan) among all that have tried this subject and row here; a new one is remembered."""
        about = (subject, row, run)
        query = "SELECT place FROM attempt WHERE subject = ? AND row = ? AND run = ?"
        if self._one(query, *about) is None:
            self._db.execute("INSERT INTO attempt (subject, row, run) VALUES (?, ?, ?)", about)
        place = self._count(query, *about)
        return self._count("SELECT count(*) FROM attempt WHERE subject = ? AND row = ? AND place <= ?", subject, row, place)

    # ---------------------------------------------------------------------------------------------------- releases

    def record_release(self, release: Release) -> None:
        """Count a release. A nonce is released once, whatever anybody believes: a second one is an error."""
        marks = ", ".join("?" * len(fields(Release)))
        self._db.execute(f"INSERT INTO release ({_RELEASE}) VALUES ({marks})", tuple(asdict(release).values()))  # noqa: S608

    def releases(self) -> int:
        """How many times a data key has left."""
        return self._count("SELECT count(*) FROM release")

    def releases_of_session(self, sub: str) -> int:
        """How many of them for one session's name."""
        return self._count("SELECT count(*) FROM release WHERE sub = ?", sub)

    def releases_of_package(self, manifest: str) -> int:
        """How many of them of one package's key."""
        return self._count("SELECT count(*) FROM release WHERE manifest = ?", manifest)

    def release(self, nonce: str) -> Release | None:
        """The release under this nonce."""
        row = self._db.execute(f"SELECT {_RELEASE} FROM release WHERE nonce = ?", (nonce,)).fetchone()  # noqa: S608
        return None if row is None else Release(**dict(zip(_RELEASE.split(", "), row, strict=True)))

    # ------------------------------------------------------------------------------------------------- completions

    def record_completion(self, completion: Completion) -> None:
        """Remember what was countersigned. A second one for the same nonce is an error."""
        values = tuple(asdict(completion).values())
        self._db.execute(f"INSERT INTO completion ({_COMPLETION}) VALUES (?, ?, ?, ?)", values)  # noqa: S608

    def completion(self, nonce: str) -> Completion | None:
        """What was countersigned for the release under this nonce."""
        row = self._db.execute(f"SELECT {_COMPLETION} FROM completion WHERE nonce = ?", (nonce,)).fetchone()  # noqa: S608
        return None if row is None else Completion(**dict(zip(_COMPLETION.split(", "), row, strict=True)))

    def outstanding(self, *, run: str = "") -> list[dict[str, Json]]:
        """Releases that nobody has completed, oldest first; of one run, or with "" of all."""
        query = f"SELECT {_OUTSTANDING} FROM release WHERE nonce NOT IN (SELECT nonce FROM completion)"  # noqa: S608
        found = self._db.execute(f"{query} AND (? = '' OR run = ?) ORDER BY rowid", (run, run))
        return [dict(zip(_OUTSTANDING.split(", "), row, strict=True)) for row in found]

    def dump(self) -> Iterator[str]:
        """All of it as SQL text, for eyes and for searches."""
        yield from self._db.iterdump()

    def close(self) -> None:
        """Let another server use the file. What is in memory only is gone."""
        self._db.close()
