"""Backups of a real SQLite file, the lock, and patience with a gradebook that another program holds."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from autograder import safekeeping
from autograder.course import CourseError
from autograder.results import UNFINISHED, write_atomically
from autograder.safekeeping import back_up, in_plain_words, only_grader, wait_for_gradebook


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a gradebook of one table."""
    write(tmp_path, "CREATE TABLE mark (points)")
    return tmp_path


def write(root: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(root / "gradebook.db")) as database, database:
        for statement in statements:
            database.execute(statement)


def points(path: Path) -> list[int]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return [number for (number,) in database.execute("SELECT points FROM mark")]


def backups(root: Path) -> list[Path]:
    return sorted((root / "backups").glob("gradebook-*.db"))


def test_a_backup_holds_what_the_gradebook_held_and_is_for_its_owner_alone(root: Path) -> None:
    write(root, "INSERT INTO mark VALUES (5)")
    backup = back_up(root)
    write(root, "UPDATE mark SET points = 1")
    assert backup is not None and backups(root) == [backup]
    assert points(backup) == [5]
    assert backup.stat().st_mode & 0o777 == 0o600


def test_an_unchanged_gradebook_is_not_backed_up_again(root: Path) -> None:
    first = back_up(root)
    assert points(root / "gradebook.db") == []
    assert back_up(root) is None
    write(root, "INSERT INTO mark VALUES (5)")
    assert back_up(root) is not None
    assert len(backups(root)) == 2 and backups(root)[0] == first


def test_where_there_is_no_gradebook_or_an_empty_one_nothing_is_made(tmp_path: Path) -> None:
    assert back_up(tmp_path) is None
    (tmp_path / "gradebook.db").touch()
    assert back_up(tmp_path) is None
    assert not (tmp_path / "backups").exists()


def test_a_backup_of_a_gradebook_that_is_being_written_is_whole(root: Path) -> None:
    write(root, "PRAGMA journal_mode = WAL", "INSERT INTO mark VALUES (1)")
    with contextlib.closing(sqlite3.connect(root / "gradebook.db")) as writer:
        writer.execute("INSERT INTO mark VALUES (2)")
        writer.commit()  # lies in the write-ahead log: a copy of the file would miss it
        writer.execute("INSERT INTO mark VALUES (3)")  # never committed
        backup = back_up(root)
        assert backup is not None and points(backup) == [1, 2]


HALF_WRITTEN = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.execute("PRAGMA cache_size = 1")
database.execute("BEGIN IMMEDIATE")
for number in range(20_000):
    database.execute("INSERT INTO mark VALUES (?)", ("x" * 200,))
os.kill(os.getpid(), 9)
"""


def leave_half_written(path: Path) -> None:
    """Kill a program in the middle of a transaction that has reached the disk."""
    subprocess.run([sys.executable, "-c", HALF_WRITTEN, str(path)], check=False)
    assert Path(f"{path}-journal").exists()


def test_what_a_killed_program_had_half_written_is_in_no_backup(root: Path) -> None:
    write(root, "INSERT INTO mark VALUES (5)")
    leave_half_written(root / "gradebook.db")
    backup = back_up(root)
    assert backup is not None and points(backup) == [5]


def test_the_newest_ten_stay_and_the_last_of_each_day(root: Path) -> None:
    folder = root / "backups"
    folder.mkdir()
    names = [f"gradebook-2027-{month:02}-{day:02}T12-00-0{n}.000000Z.db" for month in (8, 9) for day in range(1, 29)
             for n in (1, 2)]  # fmt: skip
    for name in names:
        (folder / name).touch()
    newest = back_up(root)
    assert newest is not None
    left = [path.name for path in backups(root)]
    of_days = [name for name in names if name.endswith("02.000000Z.db")][-29:]
    assert left == sorted({*of_days, *names[-9:], newest.name})


def test_a_damaged_gradebook_is_said_and_no_backup_goes(root: Path) -> None:
    good = back_up(root)
    (root / "gradebook.db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(CourseError) as caught:
        back_up(root)
    assert "is damaged (file is not a database)" in str(caught.value)
    assert f"Replace it: the newest backup is {good}" in str(caught.value)
    assert backups(root) == [good]


def test_a_table_that_is_damaged_inside_is_noticed_too(root: Path) -> None:
    for number in range(300):
        write(root, f"INSERT INTO mark VALUES ('{number:0500}')")
    good = back_up(root)
    path = root / "gradebook.db"
    data = bytearray(path.read_bytes())
    data[-8000:-4000] = os.urandom(4000)
    path.write_bytes(data)
    with pytest.raises(CourseError, match="malformed"):
        back_up(root)
    assert backups(root) == [good]


def test_a_file_that_could_not_be_written_whole_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    write_atomically(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_one_grader_works_on_an_assignment_and_clears_what_a_killed_one_left(tmp_path: Path) -> None:
    left = tmp_path / "results" / "shapes" / f"{UNFINISHED}abc"
    result = tmp_path / "results" / "shapes" / ".unfinished.json"  # a student called .unfinished cannot be
    result.parent.mkdir(parents=True)
    left.touch()
    result.touch()
    with only_grader(tmp_path, "shapes"):
        assert not left.exists() and result.exists()
        left.touch()
        with pytest.raises(CourseError, match="is being graded by another command"), only_grader(tmp_path, "shapes"):
            pass
        assert left.exists()  # it may be the other's
        with only_grader(tmp_path, "circles"):
            pass


def test_a_locked_gradebook_is_waited_for_and_told_of(root: Path) -> None:
    told = []
    with contextlib.closing(
        sqlite3.connect(root / "gradebook.db", isolation_level=None, check_same_thread=False)
    ) as other:
        wait_for_gradebook(root, told.append)
        assert told == []
        other.execute("BEGIN EXCLUSIVE")

        def release(sentence: str) -> None:
            told.append(sentence)
            threading.Timer(0.5, other.execute, ("COMMIT",)).start()

        wait_for_gradebook(root, release)
        assert len(told) == 1 and "Another program has locked the gradebook" in told[0]


def test_a_gradebook_that_stays_locked_ends_the_run_in_plain_words(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safekeeping, "PATIENCE_SECONDS", 0.2)
    with contextlib.closing(sqlite3.connect(root / "gradebook.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(CourseError, match="stayed locked by another program"):
            wait_for_gradebook(root, lambda _: None)


def test_a_backup_does_not_wait_without_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safekeeping, "PATIENCE_SECONDS", 0.2)
    with contextlib.closing(sqlite3.connect(root / "gradebook.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(CourseError, match="stayed locked"):
            back_up(root)


def test_nbgraders_own_connections_have_the_same_patience(root: Path) -> None:
    from nbgrader.api import Gradebook
    from sqlalchemy import text

    import autograder.gradebook  # noqa: F401 - sets it

    with Gradebook(f"sqlite:///{root / 'new.db'}", "tiny") as gradebook:
        (milliseconds,) = gradebook.db.execute(text("PRAGMA busy_timeout")).fetchone()
    assert milliseconds == 60_000


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(28, "No space left on device", "x"), "is full"),
        (OSError(122, "Disk quota exceeded"), "is full"),
        (sqlite3.OperationalError("database or disk is full"), "is full"),
        (sqlite3.OperationalError("database is locked"), "stayed locked"),
        (sqlite3.DatabaseError("database disk image is malformed"), "is damaged"),
    ],
)
def test_errors_of_disk_and_gradebook_are_told_in_plain_words(tmp_path: Path, error: Exception, says: str) -> None:
    assert says in str(in_plain_words(error, tmp_path))
    assert in_plain_words(OSError(2, "No such file or directory", "x"), tmp_path) is None
