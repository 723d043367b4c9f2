"""What keeps a gradebook safe while marks are recorded: one grader at a time, patience with other programs, backups."""

import contextlib
import fcntl
import filecmp
import os
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from autograder.course import Course, CourseError
from autograder.postgres import dump, on_postgres, only_grader_of_all
from autograder.results import UNFINISHED

PATIENCE_SECONDS = 60.0
"""How long a gradebook that another program has locked is waited for."""
NEWEST_BACKUPS, DAILY_BACKUPS = 10, 30
_AT_ONCE_SECONDS = 0.5
_FULL = ("[Errno 28]", "[Errno 122]", "database or disk is full")
_DAMAGED = ("file is not a database", "database disk image is malformed")
_LOCKED = "database is locked"
_LOST = ("psycopg.OperationalError", "the connection is lost", "the connection is closed")


@contextlib.contextmanager
def only_grader(root: Path, assignment: str, course: Course | None = None) -> Iterator[None]:
    """Keep a second grader off an assignment while this one works; the lock goes when this process does.

    Args:
        root: The course folder.
        assignment: Name of the assignment.
        course: Its settings: graders elsewhere that use its database are kept off too.

    Raises:
        CourseError: Another one is at work, or the database cannot be reached.
    """
    path = root / "results" / assignment / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CourseError(f"{assignment} is being graded by another command: wait until it is done.") from None
        for left_by_a_killed_grader in path.parent.glob(f"{UNFINISHED}*"):
            left_by_a_killed_grader.unlink(missing_ok=True)
        with only_grader_of_all(course, assignment) if course and on_postgres(course) else contextlib.nullcontext():
            yield


def wait_for_gradebook(root: Path, tell: Callable[[str], None], course: Course | None = None) -> None:
    """Return when the gradebook can be written to; where another program holds it, tell so and wait.

    Args:
        root: The course folder.
        tell: Is given a sentence where waiting is needed.
        course: Its settings: PostgreSQL locks no more than rows, and waits itself.

    Raises:
        CourseError: It stayed locked for `PATIENCE_SECONDS`.
    """
    if course and on_postgres(course):
        return
    if not (root / "gradebook.db").is_file() or _is_free(root, _AT_ONCE_SECONDS):
        return
    tell(f"Another program has locked the gradebook: waiting for it, at most {PATIENCE_SECONDS:.0f} s.")
    if not _is_free(root, PATIENCE_SECONDS):
        raise CourseError(_STAYED_LOCKED)


def _is_free(root: Path, seconds: float) -> bool:
    with contextlib.closing(_open(root / "gradebook.db", seconds)) as database:
        try:
            database.execute("BEGIN IMMEDIATE")
            database.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            if _LOCKED not in str(error):
                raise
            return False
    return True


def _open(path: Path, seconds: float) -> sqlite3.Connection:
    """Open a gradebook that exists, to read it; what a killed program had half written is rolled back."""
    return sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=seconds, isolation_level=None)


def back_up(root: Path, course: Course | None = None) -> Path | None:
    """Copy the gradebook into `backups/`, unless the newest copy there holds the same.

    SQLite itself makes the copy, so that it is whole whoever writes meanwhile; it is looked through, and only then do
    older ones go: the newest ten stay, and of each of the last thirty days with a backup the last one. A gradebook in
    PostgreSQL, which the course's settings name, is dumped each time: two dumps of the same are never the same.

    Returns:
        The new backup, None where there is nothing new to keep.

    Raises:
        CourseError: The gradebook is damaged or stays locked, or the disk is full; no backup was deleted.
    """
    if course and on_postgres(course):
        return _back_up_postgres(course, root / "backups")
    gradebook = root / "gradebook.db"
    if not gradebook.is_file() or not gradebook.stat().st_size:
        return None
    try:
        return _back_up(gradebook, root / "backups")
    except (OSError, sqlite3.Error) as error:
        if plain := in_plain_words(error, root):
            raise plain from error
        raise


def _back_up(gradebook: Path, folder: Path) -> Path | None:
    with _new_copy(folder) as copy:
        older = sorted(folder.glob("gradebook-*.db"))
        _copy(gradebook, copy)
        if older and filecmp.cmp(copy, older[-1], shallow=False):
            return None
        return _keep(copy, older, ".db")


def _back_up_postgres(course: Course, folder: Path) -> Path:
    with _new_copy(folder) as copy:
        copy.touch(mode=0o600)
        dump(course, copy)
        return _keep(copy, sorted(folder.glob("gradebook-*.dump")), ".dump")


@contextlib.contextmanager
def _new_copy(folder: Path) -> Iterator[Path]:
    """A place for a backup in the making, which nobody else uses now."""
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # graders of other assignments make backups here too
        copy = folder / f"{UNFINISHED}backup"
        copy.unlink(missing_ok=True)
        try:
            yield copy
        finally:
            copy.unlink(missing_ok=True)


def _keep(copy: Path, older: list[Path], suffix: str) -> Path:
    """Make a finished copy the newest backup, and delete what it makes superfluous."""
    backup = copy.with_name(f"gradebook-{datetime.now(UTC):%Y-%m-%dT%H-%M-%S.%fZ}{suffix}")
    copy.replace(backup)
    for path in _superfluous([*older, backup]):
        path.unlink()
    return backup


def _copy(gradebook: Path, copy: Path) -> None:
    with (
        contextlib.closing(_open(gradebook, PATIENCE_SECONDS)) as source,
        contextlib.closing(sqlite3.connect(copy)) as target,
    ):
        source.execute("BEGIN")
        source.execute("SELECT 1 FROM sqlite_master").fetchone()  # `backup` would wait for a lock without end
        source.backup(target)
        (verdict,) = target.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(f"database disk image is malformed: {verdict}")
    with copy.open("rb") as file:
        os.fsync(file.fileno())
    copy.chmod(0o600)  # marks of a whole course


def _superfluous(backups: list[Path]) -> list[Path]:
    """Of backups, oldest first, those that need not be kept."""
    last_of_day = {path.name.partition("T")[0]: path for path in backups}
    kept = {*backups[-NEWEST_BACKUPS:], *list(last_of_day.values())[-DAILY_BACKUPS:]}
    return [path for path in backups if path not in kept]


_STAYED_LOCKED = (
    "The gradebook stayed locked by another program. What was graded is kept; nothing is lost. `fuser gradebook.db` "
    "names the program: when it is done, the same command goes on."
)


def in_plain_words(error: Exception, root: Path) -> CourseError | None:
    """What to tell of an error of a full disk or of a locked, damaged or lost gradebook; None where it is neither."""
    text = str(error)
    if any(sign in text for sign in _FULL):
        return CourseError(
            f"The disk that holds {root} is full. What was graded is kept, and no mark is lost: make room, and the "
            "same command goes on."
        )
    if any(sign in text for sign in _DAMAGED):
        newest = max((root / "backups").glob("gradebook-*.db"), default=None)
        where = f": the newest backup is {newest}" if newest else " with a backup of yours"
        return CourseError(f"The gradebook {root / 'gradebook.db'} is damaged ({text:.200}). Replace it{where}.")
    if any(sign in text for sign in _LOST):
        return CourseError(
            "The connection to PostgreSQL, which holds the gradebook, was lost. What was graded is kept; when the "
            "server is back, the same command goes on."
        )
    return CourseError(_STAYED_LOCKED) if _LOCKED in text else None
