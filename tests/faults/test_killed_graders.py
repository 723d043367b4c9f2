"""`kill -9` of the grader at any step and at any time: after the next run all is as if nothing had happened."""

import random
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
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
        outcome: What there is after the run.
        steps: How many steps the run has.
        seconds: What it took.
        killing: Runs commands that end themselves.
    """

    course: TinyCourse
    outcome: dict[str, object]
    steps: int
    seconds: float
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
        yield Undisturbed(course, everything(whole.root), steps, seconds, killing)


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


def kill_at(undisturbed: Undisturbed, steps: list[int], folder: Path) -> int:
    """Kill a run at each step in turn, resume, compare; the number of runs that were killed before they were done."""
    root = copy_of(undisturbed.course, folder / "killed").root
    killed = 0
    for step in steps:
        status, _ = undisturbed.killing.course(root, *GRADE, step=step)
        assert status in (0, -signal.SIGKILL), undisturbed.killing.output.read_text()
        killed += status != 0
        assert_no_mark_is_half(root, folder)
    resume_and_compare(undisturbed, root)
    return killed


def test_a_grader_that_is_killed_at_some_steps_loses_nothing(undisturbed: Undisturbed, tmp_path: Path) -> None:
    draw = random.Random(1)
    steps = [draw.randrange(1, undisturbed.steps // 4) for _ in range(6)]
    assert kill_at(undisturbed, steps, tmp_path) >= 5


@pytest.mark.long
@pytest.mark.parametrize("part", range(25))
def test_a_grader_that_is_killed_at_any_step_loses_nothing(undisturbed: Undisturbed, part: int, tmp_path: Path) -> None:
    draw = random.Random(part)
    first = 1 + (undisturbed.steps - 1) * part // 25 + draw.randrange(undisturbed.steps // 25)
    steps = [first, *(draw.randrange(1, undisturbed.steps // 2) for _ in range(3))]
    assert kill_at(undisturbed, steps, tmp_path) >= 1


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


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.long)])
def test_a_grader_that_is_killed_at_any_time_loses_nothing(
    undisturbed: Undisturbed, environment: dict[str, str], kills: int, tmp_path: Path
) -> None:
    draw = random.Random(kills)
    root = copy_of(undisturbed.course, tmp_path / "killed").root
    for _ in range(kills):
        kill_after(root, environment, draw.uniform(0, 1.5 * undisturbed.seconds))
        assert_no_mark_is_half(root, tmp_path)
    resume_and_compare(undisturbed, root)


def test_the_comparison_notices_what_a_kill_could_spoil(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """A control: without a resume there is something to see after a kill half-way."""
    root = copy_of(undisturbed.course, tmp_path / "killed").root
    status, _ = undisturbed.killing.course(root, *GRADE, step=undisturbed.steps // 2)
    assert status == -signal.SIGKILL
    assert everything(root) != undisturbed.outcome
