"""Judges: one is kept as long as all that it has graded was right, and nothing else is found by who comes next."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import TinyCourse, with_first_cell

from autograder.authoring import read_script, solved_notebook
from autograder.course import load_course
from autograder.grading import Grader
from autograder.results import SubmissionResult, Verdict
from autograder.sandbox.watching import stat_of

CHECKS = '''
import os
import signal
import time
from pathlib import Path

import torch
from autograder.checks import assert_close, task

FOLDER = Path({folder!r})
seen = []


@task("area")
class TestArea:
    def test_three(self, student):
        """A side of 3 makes an area of 9."""
        with (FOLDER / "notes").open("a") as notes:
            notes.write(f"{{os.getpid()}} {{len(seen)}}\\n")
        seen.append(torch.zeros(2**28, dtype=torch.uint8) if (FOLDER / "keep").exists() else None)
        if (FOLDER / "die").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        while (FOLDER / "together").exists() and len((FOLDER / "notes").read_text().splitlines()) < 2:
            time.sleep(0.01)
        assert_close(student.area(torch.tensor([3.0])), torch.tensor([9.0]))


@task("volume", needs=("area",))
class TestVolume:
    def test_box(self, student):
        """A box of side 2 and height 3.5 holds 14."""
        assert_close(student.volume(torch.tensor([2.0]), torch.tensor([3.5])), torch.tensor([14.0]))
'''
SECOND_TIME = """
asked = []
def area(side):
    asked.append(side)
    return side.square()
"""
NOT_AFTER_AREA = """
def volume(side, height):
    return side.square() * height + (len(asked) > 1)  # once for its own visible check
"""


class Room:
    """A grader, and what its checks have noted: for each submission the judge's process and what it had seen."""

    def __init__(self, grader: Grader) -> None:
        self.grader, self.folder, self.number = grader, grader.root, 0

    def grade(self, first_cell: str = "", **answers: str) -> SubmissionResult:
        """Hand in the reference with other answers, and grade it."""
        self.number += 1
        student = f"student{self.number}"
        folder = self.folder / "submitted" / student / "shapes"
        folder.mkdir(parents=True)
        notebook = solved_notebook(read_script(self.folder / "solutions" / "shapes.py"), answers)
        (folder / "shapes.ipynb").write_text(json.dumps(with_first_cell(notebook, first_cell)))
        return self.grader.grade(student)

    def judges(self) -> list[tuple[int, int]]:
        """What was noted since the last time."""
        notes = self.folder / "notes"
        lines = notes.read_text().splitlines()
        notes.unlink()
        return [(int(process), int(seen)) for process, seen in map(str.split, lines)]


@pytest.fixture
def room(released_once: TinyCourse, tmp_path: Path) -> Iterator[Room]:
    root = tmp_path / "course"
    shutil.copytree(released_once.root, root)
    TinyCourse(root).checks.write_text(CHECKS.format(folder=str(root)))
    with Grader(root, load_course(root), "shapes") as grader:
        grader.worker.wait()
        (root / "notes").unlink()  # the reference's
        yield Room(grader)


def test_one_judge_grades_all_that_is_right(room: Room) -> None:
    assert [room.grade().score for _ in range(3)] == [5.0] * 3
    noted = room.judges()
    assert len({process for process, _ in noted}) == 1
    assert [seen for _, seen in noted] == [0, 1, 2]


def test_after_what_is_wrong_comes_a_new_judge(room: Room) -> None:
    room.grade()
    assert room.grade(volume="def volume(side, height):\n    return side").score == 2.0
    assert room.grade().score == 5.0
    (first, _), (second, _), (third, seen) = room.judges()
    assert first == second != third and seen == 0
    assert room.grade("raise ValueError").score == 5.0  # a cell that fails is the notebook's affair
    room.grade()
    assert {process for process, _ in room.judges()} == {third}


def test_what_is_right_only_when_asked_again_is_not_right_at_once(room: Room) -> None:
    assert room.grade(area=SECOND_TIME, volume=NOT_AFTER_AREA).score == 5.0
    room.grade()
    (first, _), (second, seen) = room.judges()
    assert second != first and seen == 0


def test_after_a_submission_that_could_not_be_run_whole_comes_a_new_judge(room: Room) -> None:
    result = room.grade("import os; os._exit(3)")
    assert (result.verdict, result.score) == (Verdict.STUDENT_FAULT, 5.0)
    room.grade()
    (first, _), (second, seen) = room.judges()
    assert second != first and seen == 0


def test_a_judge_that_ends_while_it_is_free_is_replaced(room: Room) -> None:
    room.grade()
    ((process, _),) = room.judges()
    os.kill(process, signal.SIGKILL)
    wait_for_end(process)
    assert room.grade().score == 5.0
    ((another, seen),) = room.judges()
    assert another != process and seen == 0


def test_a_judge_that_ends_while_it_grades_costs_no_other_submission_anything(room: Room) -> None:
    room.grade()
    (room.folder / "die").touch()
    result = room.grade()
    assert (result.verdict, result.reason) == (
        Verdict.GRADER_FAULT,
        "the process that graded this submission ended without a result",
    )
    (room.folder / "die").unlink()
    assert room.grade().score == 5.0
    (first, _), (second, _), (third, seen) = room.judges()
    assert first == second != third and seen == 0


def test_as_many_judges_as_submissions_side_by_side(room: Room) -> None:
    (room.folder / "together").touch()
    with ThreadPoolExecutor(2) as threads:
        assert [result.score for result in threads.map(lambda _: room.grade(), range(2))] == [5.0] * 2
    both = {process for process, _ in room.judges()}
    assert len(both) == 2
    (room.folder / "together").unlink()
    for _ in range(3):
        room.grade()
    assert {process for process, _ in room.judges()} <= both


def test_a_judge_that_keeps_much_memory_is_replaced(room: Room) -> None:
    room.grade()
    (room.folder / "keep").touch()
    assert [room.grade().score for _ in range(2)] == [5.0] * 2
    (first, _), (second, _), (third, seen) = room.judges()
    assert first == second != third and seen == 0


def test_no_judge_outlives_its_worker(room: Room) -> None:
    room.grade()
    ((process, _),) = room.judges()
    room.grader.close()
    wait_for_end(process)


def wait_for_end(process: int) -> None:
    """Wait until nothing of a process is left but what its parent has not read."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if stat_of(f"/proc/{process}")[0] == "Z":
                return
        except OSError:
            return
        time.sleep(0.01)
    raise AssertionError(f"process {process} goes on")
