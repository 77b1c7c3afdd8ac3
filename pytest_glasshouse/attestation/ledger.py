"""What the server keeps across a restart: policy versions, attempts, releases, completions, plans of runs, rounds and marks.

Knows one SQLite file, synced before each call returns, or this process's memory for an embedded server. Refuses to hold
secrets, data keys or open nonces: a restart forgets those, and what is forgotten is refused.
"""

from __future__ import annotations

import os
import weakref
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.wire.canonical import Json
from pytest_glasshouse.wire.own_file import check_own

#: SQLite's application id in the file's header, "GHL1": another number is a file of another program or version.
_APPLICATION = 0x47484C31
_SIDE_FILE_ENDINGS = ("-wal", "-journal", "-shm")
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
#: Made where they are missing: a ledger from before there were marks is continued.
_TABLES_OF_MARKS = """
    CREATE TABLE IF NOT EXISTS run_plan (run TEXT PRIMARY KEY, sha256 TEXT NOT NULL, rows TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS round (
        place INTEGER PRIMARY KEY, nonce TEXT NOT NULL UNIQUE, run TEXT NOT NULL, row TEXT NOT NULL, attempt TEXT NOT NULL,
        plan TEXT NOT NULL, sub TEXT NOT NULL
    );
    CREATE INDEX IF NOT EXISTS round_run ON round (run);
    CREATE TABLE IF NOT EXISTS mark (
        place INTEGER PRIMARY KEY, nonce TEXT NOT NULL UNIQUE, round TEXT NOT NULL REFERENCES round (nonce),
        number INTEGER NOT NULL, t_us INTEGER NOT NULL, chain TEXT NOT NULL
    );
    CREATE INDEX IF NOT EXISTS mark_round ON mark (round);
    CREATE TABLE IF NOT EXISTS node_session (round TEXT NOT NULL REFERENCES round (nonce), sub TEXT NOT NULL UNIQUE)
"""


@dataclass(frozen=True, kw_only=True)
class BegunRound:
    """A round that was begun: of which run, row, attempt and plan. `sub` is the session it got a challenge for, or ""."""

    nonce: str
    run: str
    row: str
    attempt: str
    plan: str
    sub: str = ""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A time that was signed: the `number`-th of its round, and the chain of all marks of the round up to it."""

    nonce: str
    round: str
    number: int
    t_us: int
    chain: str


@dataclass(frozen=True, kw_only=True)
class Release:
    """A released data key, with everything its completion is checked against. `ak` and `sig` are public keys as text."""

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
    """The head and exit that were countersigned for a release."""

    nonce: str
    head_sha256: str
    exit_sha256: str
    receipt: str


_RELEASE = ", ".join(field.name for field in fields(Release))
_COMPLETION = ", ".join(field.name for field in fields(Completion))
_ROUND = ", ".join(field.name for field in fields(BegunRound))
_MARK = ", ".join(field.name for field in fields(Mark))
_OUTSTANDING = "nonce, sub, run, manifest, released_at, deadline"


class ReleaseLedger:
    """Events in the order they were recorded. Without a path it lasts as long as the process.

    When a `record_*` method returns, the event is on disk; when it raises, the caller must not go on. The caller serialises
    calls, from any thread.
    """

    def __init__(self, path: Path | None = None) -> None:
        import sqlite3

        if path is not None:
            # Created here, so that no other user can ever read it; SQLite gives its journal the same mode.
            try:
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            except OSError as error:
                raise ConfigurationError(f"ledger {path}: cannot be opened ({error.strerror})") from None
            # SQLite reads these files as part of the ledger.
            for each in (path, *(path.with_name(path.name + ending) for ending in _SIDE_FILE_ENDINGS)):
                if os.path.lexists(each):
                    check_own(each, what="ledger")
                    if not each.is_file():
                        raise ConfigurationError(f"ledger {each}: expected a regular file, saw something else")
        self._db = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False, timeout=0)
        # Python 3.13 warns about a connection that was not closed, and in pytest a warning may fail a user's test.
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
            # One server at a time, and every commit synced: after a power cut, a lost count would release a key twice.
            for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
                self._db.execute(f"PRAGMA {pragma}")
        self._db.execute("BEGIN EXCLUSIVE")
        application = self._value("PRAGMA application_id")
        if application == 0 and self._value("SELECT count(*) FROM sqlite_schema") == 0:
            for statement in _TABLES.split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA application_id = {_APPLICATION}")
        self._db.execute("COMMIT")
        if self._value("PRAGMA application_id") != _APPLICATION or self._value("PRAGMA quick_check") != "ok":
            raise IntegrityError("ledger", "damaged, or no ledger of this version; restore it, never begin a new one")
        for statement in _TABLES_OF_MARKS.split(";"):
            self._db.execute(statement)

    def _value(self, query: str, *values: str | int) -> object:
        row = self._db.execute(query, values).fetchone()
        return None if row is None else row[0]

    def _count(self, query: str, *values: str | int) -> int:
        return int(str(self._value(query, *values)))

    # ---------------------------------------------------------------------------------------------------- policies

    def policies(self, name: str) -> list[tuple[int, str]]:
        """Version and digest of every policy registered under that name."""
        found = self._db.execute("SELECT version, sha256 FROM policy WHERE name = ?", (name,))
        return [(int(version), str(sha256)) for version, sha256 in found]

    def record_policy(self, *, name: str, version: int, sha256: str) -> None:
        """Record a policy; recording it again changes nothing."""
        self._db.execute("INSERT OR IGNORE INTO policy VALUES (?, ?, ?)", (name, version, sha256))

    # ---------------------------------------------------------------------------------------------------- attempts

    def attempt(self, *, subject: str, row: str, run: str) -> int:
        """The number of `run` (which includes its plan) among the attempts at this subject and row; a new one is recorded."""
        about = (subject, row, run)
        query = "SELECT place FROM attempt WHERE subject = ? AND row = ? AND run = ?"
        if self._value(query, *about) is None:
            self._db.execute("INSERT INTO attempt (subject, row, run) VALUES (?, ?, ?)", about)
        place = self._count(query, *about)
        return self._count("SELECT count(*) FROM attempt WHERE subject = ? AND row = ? AND place <= ?", subject, row, place)

    # ---------------------------------------------------------------------------------------------------- releases

    def record_release(self, release: Release) -> None:
        """Record a release. A second release under the same nonce is an error."""
        placeholders = ", ".join("?" * len(fields(Release)))
        self._db.execute(f"INSERT INTO release ({_RELEASE}) VALUES ({placeholders})", tuple(asdict(release).values()))  # noqa: S608

    def releases(self) -> int:
        """The number of releases."""
        return self._count("SELECT count(*) FROM release")

    def releases_of_session(self, sub: str) -> int:
        """The number of releases for one session."""
        return self._count("SELECT count(*) FROM release WHERE sub = ?", sub)

    def releases_of_package(self, manifest: str) -> int:
        """The number of releases of one package's key."""
        return self._count("SELECT count(*) FROM release WHERE manifest = ?", manifest)

    def release(self, nonce: str) -> Release | None:
        """The release under this nonce."""
        row = self._db.execute(f"SELECT {_RELEASE} FROM release WHERE nonce = ?", (nonce,)).fetchone()  # noqa: S608
        return None if row is None else Release(**dict(zip(_RELEASE.split(", "), row, strict=True)))

    # ------------------------------------------------------------------------------------------------- completions

    def record_completion(self, completion: Completion) -> None:
        """Record what was countersigned. A second completion of the same nonce is an error."""
        values = tuple(asdict(completion).values())
        self._db.execute(f"INSERT INTO completion ({_COMPLETION}) VALUES (?, ?, ?, ?)", values)  # noqa: S608

    def completion(self, nonce: str) -> Completion | None:
        """What was countersigned for the release under this nonce."""
        row = self._db.execute(f"SELECT {_COMPLETION} FROM completion WHERE nonce = ?", (nonce,)).fetchone()  # noqa: S608
        return None if row is None else Completion(**dict(zip(_COMPLETION.split(", "), row, strict=True)))

    def outstanding(self, *, run: str = "") -> list[dict[str, Json]]:
        """Releases without a completion, oldest first: of one run, or of all runs with ""."""
        query = f"SELECT {_OUTSTANDING} FROM release WHERE nonce NOT IN (SELECT nonce FROM completion)"  # noqa: S608
        found = self._db.execute(f"{query} AND (? = '' OR run = ?) ORDER BY rowid", (run, run))
        return [dict(zip(_OUTSTANDING.split(", "), row, strict=True)) for row in found]

    # ------------------------------------------------------------------------------------------------ plans and marks

    def run_plan(self, run: str) -> tuple[str, str] | None:
        """The digest of a run's plan and its rows as canonical JSON; None where none was registered."""
        found = self._db.execute("SELECT sha256, rows FROM run_plan WHERE run = ?", (run,)).fetchone()
        return None if found is None else (str(found[0]), str(found[1]))

    def record_run_plan(self, run: str, *, sha256: str, rows: str) -> None:
        """Record what a run was going to do. A second plan of the same run is an error."""
        self._db.execute("INSERT INTO run_plan VALUES (?, ?, ?)", (run, sha256, rows))

    def round(self, nonce: str) -> BegunRound | None:
        """The round of this nonce."""
        row = self._db.execute(f"SELECT {_ROUND} FROM round WHERE nonce = ?", (nonce,)).fetchone()  # noqa: S608
        return None if row is None else BegunRound(**dict(zip(_ROUND.split(", "), row, strict=True)))

    def rounds(self, run: str) -> list[BegunRound]:
        """The rounds of a run, in the order in which they were begun."""
        found = self._db.execute(f"SELECT {_ROUND} FROM round WHERE run = ? ORDER BY place", (run,))  # noqa: S608
        return [BegunRound(**dict(zip(_ROUND.split(", "), row, strict=True))) for row in found]

    def record_round(self, begun: BegunRound) -> None:
        """Record that a round began. A second round of the same nonce is an error."""
        values = tuple(asdict(begun).values())
        self._db.execute(f"INSERT INTO round ({_ROUND}) VALUES (?, ?, ?, ?, ?, ?)", values)  # noqa: S608

    def row_of(self, *, run: str, plan: str) -> str:
        """The row whose rounds were begun by a plan of an attempt; "" where none was."""
        return str(self._value("SELECT row FROM round WHERE run = ? AND plan = ? LIMIT 1", run, plan) or "")

    def claim_round(self, *, run: str, plan: str, sub: str, most: int = 1) -> bool:
        """Whether a round of this run and plan is the session's; one that is no session's yet becomes it.

        A round has `most` sessions at most: one for each node of its legs.
        """
        if self._count("SELECT count(*) FROM round WHERE run = ? AND plan = ? AND sub = ?", run, plan, sub):
            return True
        begun = "SELECT nonce FROM round WHERE run = ? AND plan = ?"
        if self._count(f"SELECT count(*) FROM node_session WHERE sub = ? AND round IN ({begun})", sub, run, plan):  # noqa: S608
            return True
        free = "SELECT max(place) FROM round WHERE run = ? AND plan = ? AND sub = ''"
        claimed = self._db.execute(f"UPDATE round SET sub = ? WHERE place = ({free})", (sub, run, plan))  # noqa: S608
        if claimed.rowcount == 1:
            return True
        latest = self._value(f"{begun} ORDER BY place DESC LIMIT 1", run, plan)
        if latest is None or self._count("SELECT count(*) FROM node_session WHERE round = ?", str(latest)) >= most - 1:
            return False
        self._db.execute("INSERT INTO node_session VALUES (?, ?)", (str(latest), sub))
        return True

    def mark(self, nonce: str) -> Mark | None:
        """The mark of this nonce."""
        return self._mark("nonce = ?", nonce)

    def last_mark(self, of_round: str) -> Mark | None:
        """The last mark of a round."""
        return self._mark("round = ? ORDER BY place DESC LIMIT 1", of_round)

    def _mark(self, where: str, value: str) -> Mark | None:
        row = self._db.execute(f"SELECT {_MARK} FROM mark WHERE {where}", (value,)).fetchone()  # noqa: S608
        return None if row is None else Mark(**dict(zip(_MARK.split(", "), row, strict=True)))

    def record_mark(self, mark: Mark) -> None:
        """Record a mark. A second mark of the same nonce is an error."""
        values = tuple(asdict(mark).values())
        self._db.execute(f"INSERT INTO mark ({_MARK}) VALUES (?, ?, ?, ?, ?)", values)  # noqa: S608

    def close(self) -> None:
        """Close the database, so that another server may use the file. A ledger in memory is lost."""
        self._db.close()
