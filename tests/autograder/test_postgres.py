"""A class whose gradebook is in a real PostgreSQL: marks, lock, backups, and a server that is gone for a while."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import run
from conftest import TinyCourse
from nbgrader.api import Gradebook
from test_classroom import ANSWERS, SCORES, hand_in

from autograder.course import Course, CourseError, load_course
from autograder.postgres import gradebook_url, only_grader_of_all
from autograder.recorded import read_recorded

CLASS = 4


class Server:
    """A PostgreSQL server that belongs to an ordinary user, since it refuses to run as root."""

    def __init__(self, folder: Path, programs: Path) -> None:
        """Make its files, in a folder that exists."""
        self.folder, self.programs = folder, programs
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.prefix: list[str] = []
        if os.getuid() == 0:
            nobody = pwd.getpwnam("nobody")  # initdb wants to know a user's name
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            self.prefix = ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
        self.run("initdb", "-A", "trust", "-U", "course")

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs on these files, as the ordinary user."""
        command = [*self.prefix, str(self.programs / program), "-D", str(self.folder / "data"), *arguments]
        subprocess.run(command, cwd="/", check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def start(self) -> None:
        """Return when it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        self.run("pg_ctl", "-o", options, "-w", "-l", str(self.folder / "log"), "start")

    def stop(self) -> None:
        """Stop at once, in the middle of whatever it does."""
        self.run("pg_ctl", "-m", "immediate", "stop")

    def address(self, database: str) -> str:
        """Where a database is."""
        return f"postgresql://course@127.0.0.1:{self.port}/{database}"


@pytest.fixture
def server() -> Iterator[Server]:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL's server is not installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))  # where an ordinary user gets to
    server = Server(folder, found[-1].parent)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


def make(server: Server, database: str) -> None:
    subprocess.run(["psql", server.address("postgres"), "-qc", f"CREATE DATABASE {database}"], check=True)


def marks(course: Course) -> list[tuple[str, float]]:
    with Gradebook(gradebook_url(Path(), course), "tiny") as gradebook:
        return sorted((one.student.id, one.score) for one in gradebook.assignment_submissions("shapes"))


@pytest.mark.long
def test_a_class_is_recorded_in_postgresql(
    released: TinyCourse, server: Server, environment: dict[str, str], tmp_path: Path
) -> None:
    make(server, "gradebook")
    (released.root / "gradebook.db").unlink()
    setting = f'    gradebook="{server.address("gradebook")}",\n    assignments='
    released.edit(released.config, "    assignments=", setting)
    for number in range(CLASS):
        hand_in(released, f"student{number}", ANSWERS[number])
    expected = [(f"student{number}", SCORES[number]) for number in range(CLASS)]
    course = load_course(released.root)

    def grade() -> subprocess.CompletedProcess[str]:
        return run(released.root, environment, "course", "grade", "shapes")

    # a server that stops after the first mark: a plain word, and the same command goes on
    command = subprocess.Popen(
        ["course", "grade", "shapes"], cwd=released.root, env={**environment, "PYTHONUNBUFFERED": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert command.stdout is not None
    assert "student" in command.stdout.readline()
    command.send_signal(signal.SIGSTOP)
    server.stop()
    command.send_signal(signal.SIGCONT)
    _, said = command.communicate()
    assert command.returncode == 1
    assert "Traceback" not in said and "PostgreSQL" in said, said
    assert "cannot be reached" in grade().stderr
    server.start()
    assert 1 <= len(marks(course)) < CLASS
    assert grade().returncode == 0
    assert marks(course) == expected
    assert f"0 graded, {CLASS} unchanged" in grade().stdout

    # what goes past nbgrader sees the same
    recorded = read_recorded(released.root, course, "shapes")
    assert [(student, one.score) for student, one in sorted(recorded.items())] == expected
    assert not (released.root / "gradebook.db").exists()

    # a grader of another checkout is kept off
    with only_grader_of_all(course, "shapes"):
        assert "is being graded by another command, elsewhere" in grade().stderr
        with pytest.raises(CourseError), only_grader_of_all(course, "shapes"):
            pass

    # the newest backup makes the gradebook again
    hand_in(released, "student0", ANSWERS[1])
    assert "1 mark changed" in grade().stdout
    newest = max((released.root / "backups").glob("gradebook-*.dump"))
    assert newest.stat().st_mode & 0o077 == 0
    make(server, "restored")
    subprocess.run(["pg_restore", "--dbname", server.address("restored"), str(newest)], check=True)
    assert marks(course.model_copy(update={"gradebook": server.address("restored")})) == expected
    assert marks(course) == [("student0", SCORES[1]), *expected[1:]]


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://ann:secret@host/db",
        "postgresql://host/db?password=x",
        "mysql://host/db",
        "postgresql://host",
        "x.db",
    ],
)
def test_what_is_no_gradebook_or_holds_a_password_is_refused(tiny_course: TinyCourse, address: str) -> None:
    tiny_course.edit(tiny_course.config, "    assignments=", f'    gradebook="{address}",\n    assignments=')
    with pytest.raises(CourseError, match=r"a password belongs in ~/\.pgpass"):
        load_course(tiny_course.root)
