"""What judging may take of the grader: answers that check code would compute on for ever, or need all memory for."""

import json
import shutil
from collections.abc import Iterator

import pytest
from conftest import TinyCourse

from autograder.authoring import read_script, solved_notebook
from autograder.course import load_course
from autograder.grading import Grader
from autograder.results import SubmissionResult, Verdict

CHECKS = '''
import numpy as np
import torch
from autograder import judging
from autograder.checks import assert_close, task

judging.JUDGING_SECONDS = 1.0


@task("area")
class TestArea:
    def test_counting(self, student):
        """Something is counted."""
        try:
            for _ in range(int(student.area(torch.tensor([0.5])) * 4)):
                pass
        except Exception:
            pass

    def test_outer_product(self, student):
        """All pairs are compared."""
        sides = student.area(torch.tensor([1.0, 1.0])).numpy()
        assert np.array_equal(np.subtract.outer(sides, sides), np.zeros((2, 2)))

    def test_once_more(self, student):
        """A side of 2 makes an area of 4."""
        assert_close(student.area(torch.tensor([2.0])), torch.tensor([4.0]))


@task("volume", needs=("area",))
class TestVolume:
'''
for number in range(6):
    CHECKS += f'''
    def test_box_{number}(self, student):
        """Box {number}."""
        assert_close(student.volume(torch.tensor([2.0]), torch.tensor([3.5])), torch.tensor([14.0]))
'''


@pytest.fixture(scope="module")
def grader(released_once: TinyCourse, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grader]:
    root = tmp_path_factory.mktemp("judging") / "course"
    shutil.copytree(released_once.root, root)
    course = TinyCourse(root)
    course.checks.write_text(CHECKS)
    course.edit(course.config, "import Assignment, Course", "import Assignment, Course, Limits")
    course.edit(course.config, "    assignments=", "    limits=Limits(memory_bytes=2 * 2**30),\n    assignments=")
    with Grader(root, load_course(root), "shapes") as grader:
        yield grader


def graded(grader: Grader, student: str, **answers: str) -> SubmissionResult:
    folder = grader.root / "submitted" / student / "shapes"
    folder.mkdir(parents=True)
    script = read_script(grader.root / "solutions" / "shapes.py")
    (folder / "shapes.ipynb").write_text(json.dumps(solved_notebook(script, answers)))
    return grader.grade(student)


LONG = """
def area(side):
    return side.square() * 1e9 if 0.5 in side else side.square()
"""
LARGE = """
def area(side):
    return torch.ones(10**6) if len(side) == 2 else side.square()
"""
HOG = """
def volume(side, height):
    hoard = []
    while True:
        hoard.append(bytearray(2**26))
"""


def test_a_check_that_would_compute_for_ever_with_an_answer_has_failed(grader: Grader) -> None:
    result = graded(grader, "long", area=LONG)
    assert result.verdict == Verdict.GRADED
    counting, outer, once_more = result.tasks[0].checks
    assert (counting.passed, counting.cause) == (False, "what your code returned is too large to be judged")
    assert outer.passed and once_more.passed
    assert result.tasks[1].earned == 3.0


def test_a_check_that_would_need_all_memory_for_an_answer_has_failed(grader: Grader) -> None:
    result = graded(grader, "large", area=LARGE)
    assert result.verdict == Verdict.GRADED
    counting, outer, once_more = result.tasks[0].checks
    assert (outer.passed, outer.cause) == (False, "what your code returned is too large to be judged")
    assert counting.passed and once_more.passed


def test_a_task_that_fills_its_memory_in_three_checks_is_not_asked_again(grader: Grader) -> None:
    """As where it never ends: each time takes seconds."""
    result = graded(grader, "hog", volume=HOG)
    checks = result.tasks[1].checks
    assert {check.cause for check in checks} == {"used up its 2.0 GiB of memory"}
    assert [check.cpu_seconds > 0 for check in checks] == [True] * 3 + [False] * 3
    assert result.tasks[0].earned == 2.0


def test_an_exception_for_want_of_memory_that_was_never_taken_costs_one_check(grader: Grader) -> None:
    """An array of a wrong, huge shape is refused at once; what was taken before a branch was made is not its own."""
    once = "seen = bytearray(b'x') * (15 * 2**27)\ndel seen\ndef volume(side, height):\n    raise MemoryError"
    result = graded(grader, "shape", volume=once)
    assert {check.cause.partition(",")[0] for check in result.tasks[1].checks} == {
        "MemoryError was raised in your code"
    }
