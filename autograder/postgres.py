"""A gradebook in PostgreSQL: the lock, the backups and the reading that a file gives without a server.

nbgrader itself speaks to it through SQLAlchemy. What is here goes past nbgrader, as it does for SQLite: with psycopg,
which is imported only for courses that ask for PostgreSQL.
"""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, LiteralString

from autograder.course import Course, CourseError

if TYPE_CHECKING:
    import psycopg

_SCHEME = "postgresql://"
_CONNECT_SECONDS = 10


def on_postgres(course: Course) -> bool:
    """Whether a course keeps its gradebook in PostgreSQL."""
    return course.gradebook.startswith(_SCHEME)


def gradebook_url(root: Path, course: Course) -> str:
    """Where SQLAlchemy, and with it nbgrader, finds a course's gradebook."""
    if on_postgres(course):
        return course.gradebook.replace(_SCHEME, "postgresql+psycopg://", 1)
    return f"sqlite:///{root / 'gradebook.db'}"


@contextlib.contextmanager
def only_grader_of_all(course: Course, assignment: str) -> Iterator[None]:
    """Keep graders of other checkouts and machines off an assignment; the lock goes when this process does.

    Raises:
        CourseError: Another one is at work, or PostgreSQL cannot be reached.
    """
    with _connected(course) as database:
        name = f"{course.id}/{assignment}"
        row = database.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", (name,)).fetchone()
        if row != (True,):
            raise CourseError(f"{assignment} is being graded by another command, elsewhere: wait until it is done.")
        yield


def ask(course: Course, question: LiteralString, values: tuple[str, ...]) -> list[tuple[object, ...]]:
    """What the gradebook answers; nothing where nbgrader has made no tables yet.

    Raises:
        CourseError: PostgreSQL cannot be reached.
    """
    import psycopg

    with _connected(course) as database:
        try:
            return database.execute(question, values).fetchall()
        except psycopg.errors.UndefinedTable:
            return []


def dump(course: Course, file: Path) -> None:
    """Write the whole gradebook into a file, from which `pg_restore` makes it again.

    Raises:
        CourseError: There is no `pg_dump`, or it failed, and why.
    """
    command = ["pg_dump", "--format=custom", f"--file={file}", f"--dbname={course.gradebook}", "--no-password"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise CourseError(
            "A gradebook in PostgreSQL needs pg_dump, which makes its backups: apt-get install postgresql-client"
        ) from None
    if done.returncode:
        raise CourseError(f"The gradebook cannot be backed up, so nothing is recorded: {done.stderr.strip()}")


@contextlib.contextmanager
def _connected(course: Course) -> "Iterator[psycopg.Connection[tuple[object, ...]]]":
    try:
        import psycopg
    except ModuleNotFoundError:
        raise CourseError(
            "A gradebook in PostgreSQL needs psycopg: pip install --constraint constraints.txt '.[postgres]'"
        ) from None
    try:
        database = psycopg.connect(course.gradebook, autocommit=True, connect_timeout=_CONNECT_SECONDS)
    except psycopg.OperationalError as error:
        raise CourseError(f"The gradebook {course.gradebook} cannot be reached: {error}") from None
    with database:
        yield database
