"""A grader that is killed, finds the disk full, the gradebook locked or another grader at work: nothing is lost.

After the next run all is as if nothing had happened.
"""

import contextlib
import fcntl
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import run
from conftest import TinyCourse
from examined import (
    AFTER,
    BEFORE,
    SelfKilling,
    copy_of,
    everything,
    exported,
    first_round,
    gradebook,
    mark_by_hand,
    second_round,
    self_killing,
    with_late_policy,
)

GRADE = ("grade", "shapes", "--jobs", "2")


@dataclass
class Undisturbed:
    """A class before its second round of grading, and what an undisturbed run makes of it.

    Attributes:
        course: The class: marks of the first round are recorded, one changed by hand, new submissions are there.
        results: What grading them found, none of it recorded.
        outcome: What there is after the run.
        steps: How many steps the run has.
        seconds: What it took.
        space: Bytes that the course takes then.
        killing: Runs commands that end themselves.
    """

    course: TinyCourse
    results: Path
    outcome: dict[str, object]
    steps: int
    seconds: float
    space: int
    killing: SelfKilling


@pytest.fixture(scope="module")
def undisturbed(
    released_once: TinyCourse, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Undisturbed]:
    folder = tmp_path_factory.mktemp("undisturbed")
    course = copy_of(released_once, folder / "course")
    with_late_policy(course)
    first_round(course)
    with self_killing(environment, folder / "output.txt") as killing:
        status, _ = killing.course(course.root, *GRADE)
        assert status == 0, killing.output.read_text()
        mark_by_hand(course)
        assert exported(course.root, folder) == {student: f"{mark:g}" for student, mark in BEFORE.items()}
        second_round(course)
        whole = copy_of(course, folder / "whole")
        started = time.monotonic()
        status, steps = killing.course(whole.root, *GRADE)
        assert status == 0, killing.output.read_text()
        seconds = time.monotonic() - started
        assert exported(whole.root, folder) == {student: f"{mark:g}" for student, mark in AFTER.items()}
        results = folder / "results"
        shutil.copytree(whole.root / "results", results, ignore=shutil.ignore_patterns("marks.jsonl"))
        yield Undisturbed(course, results, everything(whole.root), steps, seconds, space(whole.root), killing)


def resume_and_compare(undisturbed: Undisturbed, root: Path) -> None:
    """Grade once more, to the end; everything must be there, as in the run that nobody disturbed."""
    status, _ = undisturbed.killing.course(root, *GRADE)
    assert status == 0, undisturbed.killing.output.read_text()
    assert everything(root) == undisturbed.outcome


def assert_no_mark_is_half(root: Path, folder: Path) -> None:
    """What is exported between a kill and the next run: the old mark, the new one or none, never a mixture."""
    for student, score in exported(root, folder).items():
        allowed = {f"{marks[student]:g}" for marks in (BEFORE, AFTER) if student in marks}
        assert score in allowed | {""}, student
    assert any("Nearly." in row and "'bob'" in row for row in gradebook(root)["comments"])


def kill_at(undisturbed: Undisturbed, root: Path, steps: list[int], folder: Path) -> int:
    """Kill a run at each step in turn, resume, compare; the number of runs that were killed before they were done."""
    killed = 0
    for step in steps:
        status, _ = undisturbed.killing.course(root, *GRADE, step=step)
        assert status in (0, -signal.SIGKILL), undisturbed.killing.output.read_text()
        killed += status != 0
        assert_no_mark_is_half(root, folder)
    resume_and_compare(undisturbed, root)
    return killed


def graded_but_not_recorded(undisturbed: Undisturbed, folder: Path) -> Path:
    """A class whose submissions are graded: what is left is to record them, which takes no sandbox."""
    root = copy_of(undisturbed.course, folder / "killed").root
    shutil.copytree(undisturbed.results, root / "results", dirs_exist_ok=True)
    return root


def test_a_grader_that_is_killed_while_it_records_loses_nothing(undisturbed: Undisturbed, tmp_path: Path) -> None:
    draw = random.Random(1)
    steps = [draw.randrange(1, undisturbed.steps // 4) for _ in range(3)]
    assert kill_at(undisturbed, graded_but_not_recorded(undisturbed, tmp_path), steps, tmp_path) >= 2


@pytest.mark.long
@pytest.mark.parametrize("part", range(25))
def test_a_grader_that_is_killed_at_any_step_loses_nothing(undisturbed: Undisturbed, part: int, tmp_path: Path) -> None:
    draw = random.Random(part)
    first = 1 + (undisturbed.steps - 1) * part // 25 + draw.randrange(undisturbed.steps // 25)
    steps = [first, *(draw.randrange(1, undisturbed.steps // 2) for _ in range(3))]
    assert kill_at(undisturbed, copy_of(undisturbed.course, tmp_path / "killed").root, steps, tmp_path) >= 1


def kill_after(root: Path, environment: dict[str, str], seconds: float) -> int:
    """Kill the real command after a time; its exit status."""
    command = subprocess.Popen(
        ["course", *GRADE], cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        command.wait(seconds)
    except subprocess.TimeoutExpired:
        command.kill()
    return command.wait()


@pytest.mark.long
def test_a_grader_that_is_killed_at_any_time_loses_nothing(
    undisturbed: Undisturbed, environment: dict[str, str], tmp_path: Path
) -> None:
    kills = 20
    draw = random.Random(kills)
    root = copy_of(undisturbed.course, tmp_path / "killed").root
    for _ in range(kills):
        kill_after(root, environment, draw.uniform(0, 1.5 * undisturbed.seconds))
        assert_no_mark_is_half(root, tmp_path)
    resume_and_compare(undisturbed, root)


def test_the_comparison_notices_what_a_kill_could_spoil(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """A control: without a resume there is something to see after a kill half-way."""
    root = graded_but_not_recorded(undisturbed, tmp_path)
    status, _ = undisturbed.killing.course(root, *GRADE, step=undisturbed.steps // 2)
    assert status == -signal.SIGKILL
    assert everything(root) != undisturbed.outcome


# a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 12 MiB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path, free: int) -> Path:
    """Fill a disk up to so many bytes; the file to delete."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    os.truncate(filler, max(0, filler.stat().st_size - free))
    return filler


def space(root: Path) -> int:
    """Bytes that a folder's files take in blocks of 4 KiB."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize("share", [0.0, *(pytest.param(n / 50, marks=pytest.mark.long) for n in range(1, 50))])
def test_a_full_disk_is_said_plainly_and_loses_nothing(
    undisturbed: Undisturbed, small_disk: Path, share: float, tmp_path: Path
) -> None:
    root = graded_but_not_recorded(undisturbed, small_disk)
    filler = fill(small_disk, int(share * (undisturbed.space - space(root))))
    said = undisturbed.killing.output
    said.write_text("")
    status, _ = undisturbed.killing.course(root, *GRADE)
    assert status == 1, said.read_text()
    assert "is full. What was graded is kept, and no mark is lost" in said.read_text()
    assert "Traceback" not in said.read_text()
    filler.unlink()
    assert_no_mark_is_half(root, tmp_path)
    resume_and_compare(undisturbed, root)


@pytest.mark.long
def test_a_disk_that_is_full_while_submissions_are_graded_loses_nothing(
    undisturbed: Undisturbed, small_disk: Path, tmp_path: Path
) -> None:
    root = copy_of(undisturbed.course, small_disk / "course").root
    filler = fill(small_disk, 8 * 1024)  # for the lock; a result takes more
    undisturbed.killing.output.write_text("")
    status, _ = undisturbed.killing.course(root, *GRADE)
    assert status == 1
    assert "is full. What was graded is kept" in undisturbed.killing.output.read_text()
    filler.unlink()
    assert_no_mark_is_half(root, tmp_path)
    resume_and_compare(undisturbed, root)


# a locked gradebook


@contextlib.contextmanager
def locked(root: Path) -> Iterator[sqlite3.Connection]:
    """Another program holds the gradebook, even against readers."""
    with contextlib.closing(sqlite3.connect(root / "gradebook.db", isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        yield database


@pytest.mark.parametrize("seconds", [0, pytest.param(30, marks=pytest.mark.long)])
def test_a_locked_gradebook_is_waited_for(
    undisturbed: Undisturbed, environment: dict[str, str], seconds: int, tmp_path: Path
) -> None:
    root = graded_but_not_recorded(undisturbed, tmp_path)
    with locked(root) as database:
        command = subprocess.Popen(
            ["course", *GRADE], cwd=root, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert command.stderr is not None
        assert "Another program has locked the gradebook: waiting for it" in command.stderr.readline()
        time.sleep(seconds)
        database.execute("COMMIT")
    command.communicate()
    assert command.returncode == 0
    assert everything(root) == undisturbed.outcome


# two graders


def holds_the_lock(root: Path) -> bool:
    """Whether somebody grades, without trying the lock, which would disturb them."""
    path = root / "results" / "shapes" / ".lock"
    return path.exists() and f":{path.stat().st_ino} " in Path("/proc/locks").read_text()


def test_course_grade_stays_off_while_nbgrader_autograde_works(
    undisturbed: Undisturbed, environment: dict[str, str], tmp_path: Path
) -> None:
    root = graded_but_not_recorded(undisturbed, tmp_path)
    before = len(list((root / "backups").iterdir()))
    log = root / "results/shapes/marks.jsonl"
    command = subprocess.Popen(
        ["nbgrader", "autograde", "shapes", "--force"], cwd=root, env=environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not holds_the_lock(root) and command.poll() is None:
        time.sleep(0.02)
    os.kill(command.pid, signal.SIGSTOP)
    refused = undisturbed.killing.course(root, *GRADE)
    os.kill(command.pid, signal.SIGCONT)
    assert refused[0] == 1
    assert "shapes is being graded by another command" in undisturbed.killing.output.read_text()
    assert command.wait() == 1  # it cannot read dan's file, nor copy eve's link to nowhere: they have no mark yet
    assert len(list((root / "backups").iterdir())) > before
    assert exported(root, tmp_path) == {**{name: f"{mark:g}" for name, mark in AFTER.items()}, "dan": "", "eve": ""}
    logged = log.read_text().count("\n")
    resume_and_compare(undisturbed, root)
    assert log.read_text().count("\n") == logged + 4  # these two are recorded now: the others are whole


def test_nbgrader_autograde_stays_off_while_course_grade_works(
    undisturbed: Undisturbed, environment: dict[str, str], tmp_path: Path
) -> None:
    root = copy_of(undisturbed.course, tmp_path / "course").root
    before = everything(root)
    with (root / "results/shapes/.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused = run(root, environment, "nbgrader", "autograde", "shapes", "--force")
    assert refused.returncode == 1
    assert "shapes is being graded by another command" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert everything(root) == before


def test_of_two_course_grades_at_once_one_works(
    undisturbed: Undisturbed, environment: dict[str, str], tmp_path: Path
) -> None:
    root = graded_but_not_recorded(undisturbed, tmp_path)
    both = [
        subprocess.Popen(["course", *GRADE], cwd=root, env=environment, text=True, stdout=subprocess.DEVNULL,
                         stderr=subprocess.PIPE)
        for _ in range(2)
    ]  # fmt: skip
    said = [command.communicate()[1] for command in both]
    for command, errors in zip(both, said, strict=True):
        assert command.returncode == 0 or "shapes is being graded by another command" in errors
    assert 0 in [command.returncode for command in both]
    assert everything(root) == undisturbed.outcome
