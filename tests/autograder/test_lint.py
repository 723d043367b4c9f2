"""One broken assignment per rule, and what its author reads."""

from pathlib import Path

import pytest

from autograder.course import CourseError, load_course
from autograder.lint import Problem, lint, summary

SCRIPT, CHECKS = Path("solutions/shapes.py"), Path("tests/checks/test_shapes.py")


def problems(course):
    return lint(course.root, load_course(course.root))


def messages(course):
    return [problem.message for problem in problems(course)]


def test_the_tiny_course_has_no_problems(tiny_course):
    assert problems(tiny_course) == []


# Tasks and checks


def test_a_task_needs_visible_checks(tiny_course):
    tiny_course.edit(tiny_course.script, '# %% checks="area" points=2', "# %%")
    assert 'the task area has no cell # %% checks="area" points=...' in messages(tiny_course)


def test_a_task_needs_hidden_checks(tiny_course):
    tiny_course.edit(tiny_course.checks, '@task("area")', "")
    (problem,) = problems(tiny_course)
    assert problem.message == "the task area has no hidden checks in test_shapes.py."
    assert tiny_course.script.read_text().splitlines()[problem.line - 2] == '# %% task="area"'


def test_checks_need_a_task(tiny_course):
    tiny_course.edit(tiny_course.script, 'checks="volume"', 'checks="volum"')
    assert "these are checks of volum, but there is no such task." in messages(tiny_course)


def test_hidden_checks_need_a_task(tiny_course):
    tiny_course.edit(tiny_course.checks, '@task("area")', '@task("aera")')
    assert "this class checks aera, but there is no such task." in messages(tiny_course)


def test_what_hidden_checks_need_must_be_a_task(tiny_course):
    tiny_course.edit(tiny_course.checks, 'needs=("area",)', 'needs=("area", "length")')
    assert messages(tiny_course) == ["this class needs length, but there is no such task."]


def test_two_tasks_of_one_name(tiny_course):
    tiny_course.edit(tiny_course.script, 'task="volume"', 'task="area"')
    assert any(message.startswith("there is the task area already, in line ") for message in messages(tiny_course))


def test_two_checks_of_one_task(tiny_course):
    tiny_course.edit(tiny_course.script, 'checks="volume"', 'checks="area"')
    assert any("a cell with the checks of area already" in message for message in messages(tiny_course))


def test_checks_above_their_task(tiny_course):
    text = tiny_course.script.read_text().replace('task="volume"', 'task="x"').replace('"volume"', '"area"')
    text = text.replace('checks="area" points=2', 'checks="volume" points=2').replace('task="x"', 'task="volume"')
    tiny_course.script.write_text(text)
    assert "the checks of volume stand above the task." in messages(tiny_course)


def test_points_must_add_up(tiny_course):
    tiny_course.edit(tiny_course.script, "points=2", "points=2.5")
    assert problems(tiny_course) == [Problem(SCRIPT, 1, "the points add up to 5.5; course_config.py says 5.")]


def test_a_hidden_check_needs_a_title(tiny_course):
    tiny_course.edit(tiny_course.checks, '"""A side of 1.7 makes an area of 2.89."""', "")
    assert messages(tiny_course) == ["test_three has no title: its docstring is the line that the student reads."]


def test_hidden_checks_must_hold_a_check(tiny_course):
    tiny_course.edit(tiny_course.checks, "def test_box", "def box")
    assert "TestVolume has no check: a check is a method whose name begins with test_." in messages(tiny_course)


# Solution regions


def test_a_function_without_a_solution_region(tiny_course):
    text = "def perimeter(side):\n    return side + side + side + side\n\n\ndef area("
    tiny_course.edit(tiny_course.script, "def area(", text)
    assert messages(tiny_course) == ["perimeter has no solution region: students would get its answer."]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "    squared =",
            "    ### BEGIN SOLUTION\n    squared =",
            "BEGIN SOLUTION although the one above is still open.",
        ),
        (
            "    return squared\n    ### END SOLUTION",
            "    return squared",
            "BEGIN SOLUTION without an END SOLUTION below.",
        ),
        ("    ### BEGIN SOLUTION\n    squared", "    squared", "END SOLUTION without a BEGIN SOLUTION above."),
    ],
)
def test_an_unbalanced_solution_region(tiny_course, old, new, message):
    tiny_course.edit(tiny_course.script, old, new)
    assert messages(tiny_course) == [message]


def test_a_solution_region_outside_a_function(tiny_course):
    region = "### BEGIN SOLUTION\nUNIT = 1.0\n### END SOLUTION\n\n\ndef area("
    tiny_course.edit(tiny_course.script, "def area(", region)
    assert any("a solution region outside a function" in message for message in messages(tiny_course))


def test_a_solution_region_in_another_cell(tiny_course):
    tiny_course.edit(tiny_course.script, "picture =", "### BEGIN SOLUTION\n### END SOLUTION\npicture =")
    assert messages(tiny_course) == ["a solution region outside a task cell."]


def test_a_task_without_a_function(tiny_course):
    old = tiny_course.script.read_text().partition("def volume")[2].partition("# %%")[0]
    tiny_course.edit(tiny_course.script, f"def volume{old}", "x = 1\n")
    assert "the task volume defines no function and no class." in messages(tiny_course)


# Answers that students can see

ANSWER = "side.square() + 0 * torch.zeros_like(side)"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# The area of a square is $a^2$.", f"# Try `{ANSWER}`."),
        ("# The area of a square is $a^2$.", "# Try\n#\n#     side.square()  +  0*torch.zeros_like( side )"),
        ("print(picture)", f"side = torch.ones(1)\nprint({ANSWER})"),
        ("print(picture)", "side = torch.ones(1)\nprint(\n    side.square()\n    + 0 * torch.zeros_like(side)\n)"),
        ('    """Volume of boxes on squares."""', f'    """Volume of boxes.\n\n    Begin with {ANSWER}.\n    """'),
    ],
)
def test_an_answer_in_a_visible_place(tiny_course, old, new):
    tiny_course.edit(tiny_course.script, "squared = side.square()", f"squared = {ANSWER}")
    assert problems(tiny_course) == []
    tiny_course.edit(tiny_course.script, old, new)
    (problem,) = problems(tiny_course)
    assert problem.message.startswith("students see the answer of line ")
    assert problem.message.endswith("here: side.square()+0*torch.zeros_like(side)")
    assert "side" in tiny_course.script.read_text().splitlines()[problem.line - 1]


def test_what_says_little_may_stand_anywhere(tiny_course):
    tiny_course.edit(tiny_course.script, "print(picture)", "squared = torch.ones(1)\nprint(squared.square())")
    assert problems(tiny_course) == []


def test_a_visible_cell_that_defines_a_tasks_function(tiny_course):
    tiny_course.edit(tiny_course.script, "print(picture)", "area = torch.square")
    assert "area is defined here, but it belongs to the task area." in messages(tiny_course)


# Names that cross from cell to cell


def test_a_name_from_a_demo_cell(tiny_course):
    tiny_course.edit(tiny_course.script, "def volume(", "first = picture[0]\n\n\ndef volume(")
    (problem,) = problems(tiny_course)
    assert problem.message == "picture comes from a demo cell, which grading may skip."
    assert tiny_course.script.read_text().splitlines()[problem.line - 1] == "first = picture[0]"


def test_a_name_that_a_demo_cell_binds_anew(tiny_course):
    tiny_course.edit(tiny_course.script, "from torch import Tensor", "from torch import Tensor\n\npicture = []")
    tiny_course.edit(tiny_course.script, "def volume(", "first = picture\n\n\ndef volume(")
    assert messages(tiny_course) == ["picture comes from a demo cell, which grading may skip."]


def test_a_call_of_another_task_must_be_declared(tiny_course):
    tiny_course.edit(tiny_course.checks, '@task("volume", needs=("area",))', '@task("volume")')
    assert messages(tiny_course) == ['volume calls area: say needs=("area",) at its checks in test_shapes.py.']


def test_one_check_may_declare_the_call(tiny_course):
    tiny_course.edit(tiny_course.checks, '@task("volume", needs=("area",))', '@task("volume")')
    tiny_course.edit(tiny_course.checks, "    def test_box", '    @check(needs=("area",))\n    def test_box')
    assert problems(tiny_course) == []


def test_a_call_through_a_given_helper_must_be_declared(tiny_course):
    tiny_course.edit(tiny_course.checks, '@task("volume", needs=("area",))', '@task("volume")')
    tiny_course.edit(tiny_course.script, "return area(side)", "return floor(side)")
    helper = '# %%\ndef floor(side):\n    return area(side)\n\n# %% task="volume"'
    tiny_course.edit(tiny_course.script, '# %% task="volume"', helper)
    assert any(message.startswith("volume calls area") for message in messages(tiny_course))


def test_needs_must_be_written_out(tiny_course):
    tiny_course.edit(tiny_course.checks, 'needs=("area",)', "needs=NEEDS")
    assert 'needs= must be written out, as in needs=("entropy",).' in messages(tiny_course)


def test_a_probe_that_names_an_expected_value(tiny_course):
    tiny_course.edit(tiny_course.checks, "    side = side.requires_grad_()", "    side = EXPECTED.requires_grad_()")
    (problem,) = problems(tiny_course)
    assert problem.path == CHECKS
    assert problem.message.startswith("a probe names EXPECTED: only its parameters")


# Files


def test_a_missing_script_and_missing_checks(tiny_course):
    tiny_course.checks.unlink()
    assert problems(tiny_course) == [Problem(CHECKS, 1, "there are no hidden checks: write this file.")]
    tiny_course.script.unlink()
    assert problems(tiny_course)[0].path == SCRIPT


def test_code_that_is_no_python(tiny_course):
    tiny_course.edit(tiny_course.script, "return squared", "return squared squared")
    (problem,) = problems(tiny_course)
    assert tiny_course.script.read_text().splitlines()[problem.line - 1] == "    return squared squared"


def test_an_unknown_assignment(tiny_course):
    with pytest.raises(CourseError, match="no assignment 'shape'"):
        lint(tiny_course.root, load_course(tiny_course.root), ["shape"])


def test_the_summary_names_file_and_line_of_each(tiny_course):
    tiny_course.edit(tiny_course.script, "points=2", "points=4")
    text = summary(problems(tiny_course))
    assert text.splitlines() == [
        "solutions/shapes.py:1: the points add up to 7; course_config.py says 5.",
        "1 to put right: 1 in solutions/shapes.py",
    ]
