"""One submission through the real worker, sandbox and checks: what it earns, and what it can and cannot do about it."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import TinyCourse, with_first_cell

from autograder.authoring import read_script, solved_notebook
from autograder.course import load_course
from autograder.grading import Grader
from autograder.release import release
from autograder.results import SubmissionResult, Verdict, load_result, result_path
from autograder.worker import WorkerFailed


@dataclass
class School:
    """A released tiny course, its warm grader, and a way to hand in notebooks."""

    course: TinyCourse
    grader: Grader

    def notebook(self, **answers: str) -> dict[str, Any]:
        """The reference's notebook, its answers to some tasks replaced."""
        return json.loads(json.dumps(solved_notebook(read_script(self.course.script), answers)))

    def hand_in(self, student: str, notebook: dict[str, Any], files: dict[str, str] | None = None) -> None:
        """Put a notebook, and files beside it, where submissions lie."""
        folder = self.course.root / "submitted" / student / "shapes"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "shapes.ipynb").write_text(json.dumps(notebook))
        for name, text in (files or {}).items():
            (folder / name).write_text(text)

    def grade(self, student: str, notebook: dict[str, Any], files: dict[str, str] | None = None) -> SubmissionResult:
        """Hand in and grade."""
        self.hand_in(student, notebook, files)
        return self.grader.grade(student)


@pytest.fixture(scope="module")
def school(released_once: TinyCourse, tmp_path_factory: pytest.TempPathFactory) -> Iterator[School]:
    root = tmp_path_factory.mktemp("school") / "course"
    shutil.copytree(released_once.root, root)
    course = TinyCourse(root)
    with Grader(root, load_course(root), "shapes") as grader:
        yield School(course, grader)


def earned(result: SubmissionResult) -> list[float]:
    """Points of `area` (of 2) and of `volume` (of 3)."""
    return [task.earned for task in result.tasks]


def causes(result: SubmissionResult) -> str:
    """Everything that a student would read about failed checks."""
    return "\n".join(check.cause for task in result.tasks for check in task.checks)


# what is earned


def test_the_reference_earns_everything(school: School) -> None:
    result = school.grade("perfect", school.notebook())
    assert (result.verdict, result.score, result.max_score) == (Verdict.GRADED, 5.0, 5.0)
    assert result.sandbox == "namespaces"
    assert result.versions["torch"]


def test_the_untouched_release_passes_not_one_check(school: School) -> None:
    released = json.loads((school.course.root / "release/shapes/shapes.ipynb").read_text())
    result = school.grade("untouched", released)
    assert [check.passed for task in result.tasks for check in task.checks] == [False, False, False]
    assert result.score == 0
    assert "NotImplementedError was raised in your code, at line" in causes(result)


def test_points_follow_the_weights_of_the_passed_checks(school: School) -> None:
    result = school.grade("half", school.notebook(area="def area(side):\n    return side.square() + 1"))
    assert earned(result)[0] == 1.33  # the gradient is right, and weighs two of three


def test_a_failed_check_says_what_came_but_not_what_was_expected(school: School) -> None:
    result = school.grade("shape", school.notebook(area="def area(side):\n    return side.square()[None]"))
    assert "a tensor of shape (1, 1) came; a tensor of shape (1,) was expected" in causes(result)
    result = school.grade("value", school.notebook(area="def area(side):\n    return side * 2"))
    assert "the value is not the expected one" in causes(result)
    assert "2.89" not in causes(result)
    assert "2.89" in result.tasks[0].checks[0].detail


def test_a_check_that_uses_another_task_says_so(school: School) -> None:
    result = school.grade("needs", school.notebook(area="def area(side):\n    return side"))
    assert result.tasks[1].checks[0].needs == ("area",)


# what crashes, hangs or is untidy


@pytest.mark.parametrize(
    "crash",
    ["import os; os._exit(0)", "import ctypes; ctypes.string_at(0)", "import os; os.abort()"],
    ids=["exit", "segmentation fault", "abort"],
)
def test_a_crash_costs_only_its_own_task(school: School, crash: str) -> None:
    result = school.grade("crash", school.notebook(volume=f"def volume(side, height):\n    {crash}"))
    assert earned(result) == [2.0, 0.0]
    assert result.verdict == Verdict.STUDENT_FAULT
    assert "the process ended" in causes(result)


def test_an_endless_loop_costs_only_its_own_task(school: School) -> None:
    result = school.grade("loop", school.notebook(volume="def volume(side, height):\n    while True: pass"))
    assert earned(result) == [2.0, 0.0]
    assert "seconds of computing time" in causes(result)


def test_a_cell_that_ends_the_process_is_left_out_and_the_rest_is_graded(school: School) -> None:
    result = school.grade("ending", with_first_cell(school.notebook(), "import os; os._exit(3)"))
    assert result.score == 5.0
    assert result.verdict == Verdict.STUDENT_FAULT
    assert "cell 1: your code ended its process (exit code 3)" in result.reason


def test_a_process_that_ends_itself_later_is_run_again(school: School) -> None:
    later = "import os, threading\nthreading.Timer(0.05, os._exit, (0,)).start()\nimport time; time.sleep(0.2)"
    assert school.grade("timer", with_first_cell(school.notebook(), later)).score == 5.0


def test_a_syntax_error_costs_only_its_own_cell(school: School) -> None:
    notebook = school.notebook()
    for cell in notebook["cells"]:
        if "def volume" in "".join(cell["source"]):
            cell["source"] = "def volume(side, height:\n    return 0"
    assert earned(school.grade("syntax", notebook)) == [2.0, 0.0]


@pytest.mark.parametrize(
    "untidy",
    [
        "import warnings; warnings.warn('careful')",
        "import sys; print('x' * 100, file=sys.stderr)",
        "import torch; torch.set_default_dtype(torch.float64)",
        "import torch; torch.set_default_device('meta')",
        "import torch; torch.set_grad_enabled(False)",
        "import torch; torch.set_num_threads(4); torch.randn(1000, 1000) @ torch.randn(1000, 1000)",
        "import warnings; warnings.simplefilter('error')",
        "import matplotlib; matplotlib.use('svg')",
        "import torch, random; torch.manual_seed(7); random.seed(7)",
        "import torch; torch.use_deterministic_algorithms(True)",
        "raise ValueError('a stray cell')",
        "%matplotlib inline\n!echo hello\n%time 1 + 1",
        "exit()",
    ],
)
def test_untidy_state_never_costs_a_mark(school: School, untidy: str) -> None:
    result = school.grade("untidy", with_first_cell(school.notebook(), untidy))
    assert result.score == 5.0, causes(result)
    assert result.verdict == Verdict.GRADED


def test_what_one_task_breaks_is_whole_for_the_next(school: School) -> None:
    # Patched while area's checks run. Volume's checks, which then fail, ask a fork that knows nothing of it.
    patching = (
        "def area(side):\n"
        "    global volume\n"
        "    volume = volume if float(side[0]) == 3 else None  # 3 is what the visible checks ask for\n"
        "    return side * side"
    )
    assert earned(school.grade("patching", school.notebook(area=patching))) == [2.0, 3.0]
    notebook = school.notebook(
        area="calls = 0\ndef area(side):\n    global calls\n    calls += 1\n    assert calls < 5\n    return side**2"
    )
    assert earned(school.grade("counting", notebook)) == [2.0, 3.0]


COUNT_FORKS = "import os\nforks = []\nos.register_at_fork(before=lambda: forks.append(1))\n"


def test_tasks_that_are_right_are_asked_in_one_fork(school: School) -> None:
    counting = COUNT_FORKS + "def area(side):\n    return side**2"
    asked_first = "def volume(side, height):\n    return area(side) * height * (len(forks) <= 1)"
    right = school.grade("right", school.notebook(area=counting, volume=asked_first))
    assert earned(right) == [2.0, 3.0]
    # A wrong answer is asked for once more in a fork of its own, and nowhere else.
    asked_twice = "def volume(side, height):\n    return area(side) * height * (len(forks) in (0, 2))"
    wrong_at_first = school.grade("at_first", school.notebook(area=counting, volume=asked_twice))
    assert earned(wrong_at_first) == [2.0, 3.0]
    asked_thrice = "def volume(side, height):\n    return area(side) * height * (len(forks) in (0, 3))"
    assert earned(school.grade("thrice", school.notebook(area=counting, volume=asked_thrice))) == [2.0, 0.0]


def test_what_fails_where_another_task_was_asked_costs_the_submission_nothing(released: TinyCourse) -> None:
    released.edit(released.config, "import Assignment, Course", "import Assignment, Course, Limits")
    limits = "limits=Limits(submission_seconds=2, cell_seconds=1, check_seconds=2, wall_factor=1)"
    released.edit(released.config, "    assignments=", f"    {limits},\n    assignments=")
    area = "asked = []\ndef area(side):\n    asked.append(float(side[0]))\n    return side**2"
    volume = "def volume(side, height):\n    while 1.5 in asked: pass\n    return side**2 * height"
    ends = "def volume(side, height):\n    import os\n    if 1.5 in asked: os._exit(1)\n    return side**2 * height"
    with Grader(released.root, load_course(released.root), "shapes") as grader:
        school = School(released, grader)
        assert earned(school.grade("hangs", school.notebook(area=area, volume=volume))) == [2.0, 3.0]
        assert earned(school.grade("ends", school.notebook(area=area, volume=ends))) == [2.0, 3.0]


def test_what_checks_made_student_code_print_is_for_instructors_only(school: School) -> None:
    result = school.grade(
        "leak", school.notebook(area="def area(side):\n    print('side is', side)\n    raise ValueError(str(side))")
    )
    assert "1.7000" in result.tasks[0].checks[0].detail
    assert "1.7" not in causes(result)
    shown = json.dumps([cell.outputs for cell in result.cells])
    assert "1.7000" not in shown


# what a review of the grader found


def test_an_object_that_answers_like_a_tensor_is_no_value(school: School) -> None:
    fake = "class Fake:\n    def sum(self, *a): return 2.89\n\ndef area(side):\n    return Fake()"
    assert earned(school.grade("fake", school.notebook(area=fake)))[0] == 0


def test_a_wrong_value_is_not_right_in_half_precision(school: School) -> None:
    rough = "def area(side):\n    return (side.square() * 1.007).bfloat16()"
    assert not school.grade("rough", school.notebook(area=rough)).tasks[0].checks[0].passed


def test_a_submission_has_a_wall_clock_limit_as_a_whole(released: TinyCourse) -> None:
    released.edit(released.config, "import Assignment, Course", "import Assignment, Course, Limits")
    limits = "limits=Limits(submission_seconds=3, cell_seconds=1, check_seconds=1, wall_factor=1)"
    released.edit(released.config, "    assignments=", f"    {limits},\n    assignments=")
    with Grader(released.root, load_course(released.root), "shapes") as grader:
        school = School(released, grader)
        notebook = school.notebook()
        for _ in range(4):
            notebook = with_first_cell(notebook, "import time; time.sleep(4)")
            notebook["cells"][0]["id"] = f"nap{len(notebook['cells'])}"
        result = school.grade("sleeper", notebook)
    assert result.score == 0
    assert "took too long as a whole" in causes(result)


def test_files_with_odd_names_are_left_out_with_a_short_reason(school: School) -> None:
    school.hand_in("names", school.notebook())
    folder = school.course.root / "submitted/names/shapes"
    for number in range(300):
        (folder / f"link{number}").symlink_to("/etc/passwd")
    (folder / "zz\udcff.txt").write_text("not UTF-8")
    result = school.grader.grade("names")
    assert result.score == 5.0
    assert len(result.reason) < 1000
    assert "more files" in result.reason


@pytest.fixture(scope="module")
def drawing(released_once: TinyCourse, tmp_path_factory: pytest.TempPathFactory) -> Iterator[School]:
    """A school whose checks draw random sides and whose demo imports something."""
    root = tmp_path_factory.mktemp("drawing") / "course"
    shutil.copytree(released_once.root, root)
    course = TinyCourse(root)
    drawn = "    def test_three(self, student):\n"
    check = (
        "    def test_drawn(self, student):\n"
        '        """Areas of random sides are their squares."""\n'
        "        side = torch.randn(3)\n"
        "        assert_close(student.area(side), side.square())\n\n"
    )
    course.edit(course.checks, drawn, check + drawn)
    course.edit(course.script, "picture = [area", "import math as arithmetic\npicture = [area")
    release(root, load_course(root))
    with Grader(root, load_course(root), "shapes") as grader:
        yield School(course, grader)


def test_student_noise_is_not_what_the_check_has_drawn(drawing: School) -> None:
    result = drawing.grade("guess", drawing.notebook(area="def area(side):\n    return torch.randn(3).square()"))
    assert not result.tasks[0].checks[0].passed


def test_what_a_skipped_demo_imports_is_there(drawing: School) -> None:
    answer = "def volume(side, height):\n    return area(side) * height * arithmetic.cos(0)"
    assert drawing.grade("imports", drawing.notebook(volume=answer)).score == 5.0


def test_interpreters_that_student_code_starts_find_the_packages(school: School) -> None:
    child = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import numpy'], check=True)"
    result = school.grade("child", with_first_cell(school.notebook(), child))
    assert [cell.error for cell in result.cells] == [""] * len(result.cells)


def test_a_dead_grading_process_gives_no_mark_and_is_replaced(drawing: School) -> None:
    grader = drawing.grader
    assert drawing.grade("first", drawing.notebook()).score == 5.0
    grader.worker.process.kill()
    grader.worker.process.wait()
    result = drawing.grade("second", drawing.notebook())
    assert (result.verdict, result.tasks) == (Verdict.GRADER_FAULT, ())
    assert grader.grade_anew("second").score == 5.0


def test_long_output_is_cut_and_a_submission_keeps_only_so_much(school: School) -> None:
    result = school.grade("loud", with_first_cell(school.notebook(), "print('ä' * 50_000_000)"))
    (text,) = [output["text"] for output in result.cells[0].outputs]
    assert len(text) > 100_000
    notebook = school.notebook()
    for number in range(40):
        notebook = with_first_cell(notebook, "print('x' * 2_000_000)")
        notebook["cells"][0]["id"] = f"loud{number}"
    result = school.grade("louder", notebook)
    assert result.score == 5.0
    assert len(result.model_dump_json()) < 20 * 2**20


# results that stand


def test_a_result_stands_until_something_that_decided_it_changes(school: School) -> None:
    first = school.grade("stands", school.notebook())
    path = result_path(school.course.root, "shapes", "stands")
    marked = first.model_copy(update={"reason": "kept"})
    path.write_text(marked.model_dump_json())
    assert school.grader.grade("stands").reason == "kept"
    assert school.grader.grade("stands", force=True).reason == ""
    path.write_text(marked.model_dump_json())
    assert school.grade("stands", school.notebook(area="def area(side):\n    return side * side")).reason == ""


def test_a_file_that_is_not_a_result_is_graded_anew(school: School) -> None:
    school.grade("cut", school.notebook())
    path = result_path(school.course.root, "shapes", "cut")
    path.write_text(path.read_text()[:100])
    assert school.grader.grade("cut").score == 5.0
    assert load_result(path) is not None


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty file"), (b"{", "not JSON"), (b"\xff\xfe", "not UTF-8"), (b'{"nbformat": 3}', "format 4")],
)
def test_what_is_no_notebook_gets_a_plain_reason(school: School, content: bytes, reason: str) -> None:
    school.hand_in("broken", school.notebook())
    (school.course.root / "submitted/broken/shapes/shapes.ipynb").write_bytes(content)
    result = school.grader.grade("broken")
    assert (result.verdict, result.score, result.max_score) == (Verdict.STUDENT_FAULT, 0.0, 5.0)
    assert reason in result.reason


def test_nothing_handed_in_gets_a_plain_reason(school: School) -> None:
    assert school.grader.grade("nobody").reason == "nothing was handed in"


# faults of ours


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("torch.tensor([2.89])", "torch.tensor([2.98])", "The reference solution earns"),
        pytest.param(
            "import torch\n", "import torch\nimport no_such_module\n", "no_such_module", marks=pytest.mark.long
        ),
        ('@task("volume", needs=("area",))', '@task("weight")', "tasks and hidden checks do not match: volume, weight"),
        pytest.param(
            "def test_box(self, student):",
            "def test_box(self, student, no_such_fixture):",
            "did not run",
            marks=pytest.mark.long,
        ),
    ],
)
def test_checks_that_are_broken_grade_nobody(released: TinyCourse, old: str, new: str, says: str) -> None:
    released.edit(released.checks, old, new)
    with Grader(released.root, load_course(released.root), "shapes") as grader:
        school = School(released, grader)
        with pytest.raises(WorkerFailed, match=says.replace("(", r"\(")):
            school.grade("ada", school.notebook())
    assert not (Path(released.root) / "results" / "shapes").exists()


def test_students_are_named_plainly(school: School) -> None:
    from autograder.course import CourseError

    names: Sequence[str] = ("../ada", "a/b", "", "*", ".hidden", "a" * 200, "-rf")
    for name in names:
        with pytest.raises(CourseError, match="identifier"):
            school.grader.grade(name)
