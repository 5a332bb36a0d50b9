"""The store of evidence: one SQLite file, safe against a kill at any moment and against two writers."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gramian.atlas.errors import UserError

MIGRATIONS = (
    """
    CREATE TABLE runs (
        id INTEGER PRIMARY KEY, slug TEXT NOT NULL, profile TEXT NOT NULL, status TEXT NOT NULL,
        seed INTEGER NOT NULL, device TEXT NOT NULL, started TEXT NOT NULL, seconds REAL NOT NULL,
        peak_mb REAL, folder TEXT, sources TEXT, reason TEXT, evidence TEXT NOT NULL);
    CREATE INDEX runs_by_slug ON runs (slug, id);
    """,
    """
    CREATE TABLE sessions (
        id INTEGER PRIMARY KEY, started TEXT NOT NULL, profile TEXT NOT NULL, slugs TEXT NOT NULL, finished TEXT);
    ALTER TABLE runs ADD COLUMN session INTEGER REFERENCES sessions (id);
    """,
)
"""One script a schema version; a store at an older version is brought up when it is opened."""


STATUSES = ("ok", "failed", "error", "timeout", "killed", "skipped")


@dataclass
class Result:
    """How one row's experiment ended, with everything that it measured."""

    slug: str
    row: int
    topic: str
    status: str
    profile: str = "quick"
    seed: int = 0
    device: str = "cpu"
    started: str = ""
    seconds: float = 0.0
    peak_mb: float | None = None
    folder: str | None = None
    sources: str | None = None
    reason: str | None = None
    evidence: dict[str, Any] = field(default_factory=dict)

    @property
    def checks(self) -> list[dict[str, Any]]:
        return self.evidence.get("checks", [])

    def as_row(self) -> dict[str, Any]:
        """The row of ``gramian verify --json``."""
        keys = ("slug", "row", "topic", "status", "seconds", "peak_mb")
        return {k: getattr(self, k) for k in keys} | {"reason": self.reason, "checks": self.checks}


class Store:
    """The evidence of a home folder.

    Write-ahead logging lets readers go on while one process writes; a second writer waits. Each run is
    one transaction: after a kill the file opens and holds every run that was recorded before.

    Raises:
        UserError: the file is not a store, is damaged, or was written by a newer gramian.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / "evidence.sqlite"
        with self._connection() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > len(MIGRATIONS):
                raise UserError(
                    f"{self.path} has schema {version}, and this gramian knows {len(MIGRATIONS)}: "
                    "update gramian, or name another home with --home DIR"
                )
            if version < len(MIGRATIONS):
                self._migrate(db)

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            yield db
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
                raise UserError(f"{self.path} was locked by another process for a minute; try again") from None
            raise UserError(
                f"{self.path} is damaged or not a gramian store ({error}); nothing was changed: move it away "
                "(the run folders beside it stay readable), or name another home with --home DIR"
            ) from None
        finally:
            db.close()

    @staticmethod
    def _migrate(db: sqlite3.Connection) -> None:
        db.execute("BEGIN IMMEDIATE")  # another process may be migrating: look again under the lock
        version = db.execute("PRAGMA user_version").fetchone()[0]
        for script in MIGRATIONS[version:]:
            for statement in filter(str.strip, script.split(";")):
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        db.execute("COMMIT")

    def record(self, result: Result, session: int | None = None) -> None:
        """Keep a result."""
        values = {k: v for k, v in asdict(result).items() if k not in ("row", "topic", "evidence")}
        values |= {
            "evidence": json.dumps({**result.evidence, "row": result.row, "topic": result.topic}),
            "session": session,
        }
        names = ", ".join(values)
        marks = ", ".join(f":{n}" for n in values)
        with self._connection() as db:
            db.execute(f"INSERT INTO runs ({names}) VALUES ({marks})", values)

    def latest(self, profile: str | None = None) -> dict[str, Result]:
        """The last result of every row, of one profile or of any."""
        query = (
            "SELECT * FROM runs WHERE id IN (SELECT max(id) FROM runs WHERE :p IS NULL OR profile = :p GROUP BY slug)"
        )
        return {r.slug: r for r in self._results(query, {"p": profile})}

    def history(self, slug: str) -> list[Result]:
        """Every result of a row, oldest first."""
        return self._results("SELECT * FROM runs WHERE slug = :slug ORDER BY id", {"slug": slug})

    def of_session(self, session: int) -> dict[str, Result]:
        """What a verify session has recorded so far."""
        return {r.slug: r for r in self._results("SELECT * FROM runs WHERE session = :s ORDER BY id", {"s": session})}

    def begin_session(self, profile: str, slugs: list[str]) -> int:
        """Open a verify session; returns its number."""
        with self._connection() as db:
            cursor = db.execute(
                "INSERT INTO sessions (started, profile, slugs) VALUES (?, ?, ?)", (now(), profile, json.dumps(slugs))
            )
            return int(cursor.lastrowid or 0)

    def finish_session(self, session: int) -> None:
        with self._connection() as db:
            db.execute("UPDATE sessions SET finished = ? WHERE id = ?", (now(), session))

    def unfinished_session(self) -> tuple[int, str, list[str]] | None:
        """The last session, if it did not finish: its number, profile and slugs."""
        with self._connection() as db:
            row = db.execute("SELECT id, profile, slugs, finished FROM sessions ORDER BY id DESC LIMIT 1").fetchone()
        return (row[0], row[1], json.loads(row[2])) if row and row[3] is None else None

    def _results(self, query: str, values: dict[str, Any]) -> list[Result]:
        with self._connection() as db:
            db.row_factory = sqlite3.Row
            rows = [dict(r) for r in db.execute(query, values)]
        results = []
        for row in rows:
            evidence = json.loads(row["evidence"])
            kept = {k: v for k, v in row.items() if k not in ("id", "session", "evidence")}
            results.append(Result(**kept, row=evidence.pop("row"), topic=evidence.pop("topic"), evidence=evidence))
        return results


def now() -> str:
    """The moment in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
