"""A course's settings: what is allowed, and what an instructor reads when something is not."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from autograder.course import Course, CourseError, LatePolicy, find_root, load_course

REPOSITORY = Path(__file__).parents[2]
DAY = 86_400.0


def write(folder: Path, text: str) -> Path:
    imports = "from autograder.course import Assignment, Course, LatePolicy, Limits\n"
    (folder / "course_config.py").write_text(imports + text)
    return folder


def complaint(folder: Path, text: str) -> str:
    with pytest.raises(CourseError) as caught:
        load_course(write(folder, text))
    return str(caught.value).replace(f"{folder}/", "")


def course_with(assignment: str) -> str:
    return f'course = Course(\n  id="c", title="C",\n  assignments=[\n    Assignment({assignment}),\n  ],\n)'


def test_the_course_of_this_repository_loads():
    course = load_course(REPOSITORY)
    assert course.assignment("information_theory").points == 20


def test_an_iso_string_is_a_due_date(tmp_path):
    text = course_with('name="vae", title="V", due="2027-10-31T23:59+01:00"')
    due = load_course(write(tmp_path, text)).assignments[0].due
    assert due == datetime(2027, 10, 31, 22, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        (
            'name="vae", title="V", due="2027-10-31T23:59"',
            "course_config.py, line 5: assignments[0].due is '2027-10-31T23:59': must say its time zone, "
            "as in '2027-10-31T23:59+01:00'.",
        ),
        (
            'name="vae", title="V", due=1700000000',
            "course_config.py, line 5: assignments[0].due is 1700000000: must be a date and time such as "
            "'2027-10-31T23:59+01:00'.",
        ),
        (
            'name="VAE", title="V"',
            "course_config.py, line 5: assignments[0].name is 'VAE': must be lower-case letters, digits and "
            "underscores, a letter first.",
        ),
        (
            'name="vae", title="V", points=0',
            "course_config.py, line 5: assignments[0].points is 0: must be greater than 0.",
        ),
        ('name="vae"', "course_config.py, line 5: assignments[0].title is missing."),
        (
            'name="vae", title="V", pionts=3',
            "course_config.py, line 5: assignments[0].pionts is no setting; did you mean points?",
        ),
        (
            'name="vae", title="V", late=LatePolicy(percent_per_day=110)',
            "course_config.py, line 5: assignments[0].late.percent_per_day is 110: must be less than or equal to 100.",
        ),
    ],
)
def test_a_wrong_value_is_named_as_it_is_written(tmp_path, assignment, expected):
    assert complaint(tmp_path, course_with(assignment)) == expected


def test_the_second_assignment_is_the_one_complained_about(tmp_path):
    text = course_with('name="a", title="A"), Assignment(name="b", title="B", weight=-1')
    assert "assignments[1].weight is -1: must be greater than or equal to 0" in complaint(tmp_path, text)


def test_plain_dictionaries_are_checked_alike(tmp_path):
    text = 'course = Course(id="c", title="C", assignments=[dict(name="a", title="A", weight=-1)])'
    assert "assignments[0].weight is -1: must be" in complaint(tmp_path, text)


def test_an_assignment_made_outside_the_course_is_named_by_its_kind(tmp_path):
    assert "line 2: Assignment.points is -1" in complaint(tmp_path, 'a = Assignment(name="a", title="A", points=-1)')


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ('device="gpu"', "device is 'gpu': must be 'auto', 'cpu' or 'cuda'."),
        ('sandbox="docker"', "sandbox is 'docker': must be 'bubblewrap' or 'none'."),
        ("limits=Limits(memory_bytes=1)", "limits.memory_bytes is 1: must be greater than or equal to 2147483648."),
        ("limits=Limits(cell_seconds=400)", "limits: cell_seconds must be at most submission_seconds (300)."),
        ("limits=Limits(cell_seconds=float('nan'))", "limits.cell_seconds is nan: must be a finite number."),
        ("seed=-1", "seed is -1: must be greater than or equal to 0."),
    ],
)
def test_a_wrong_course_setting_says_what_is_allowed(tmp_path, settings, expected):
    text = f'course = Course(id="c", title="C", assignments=[Assignment(name="a", title="A")], {settings})'
    assert complaint(tmp_path, text) == f"course_config.py, line 2: {expected}"


def test_two_assignments_of_one_name_are_refused(tmp_path):
    text = course_with('name="a", title="A"), Assignment(name="a", title="B"')
    assert "the names of assignments must differ: a appears more than once" in complaint(tmp_path, text)


def test_a_file_that_does_not_run_is_named_with_its_line(tmp_path):
    assert complaint(tmp_path, "import nothing_of_that_name") == (
        "course_config.py, line 2: ModuleNotFoundError: No module named 'nothing_of_that_name'"
    )
    assert complaint(tmp_path, "course = Course(") == "course_config.py, line 2: '(' was never closed."


def test_a_file_without_a_course_is_told_what_to_add(tmp_path):
    assert "defines no `course`: add `course = Course(" in complaint(tmp_path, "")
    assert "`course` must be a Course(...), it is of type dict" in complaint(tmp_path, "course = {}")


def test_the_root_is_found_from_a_folder_below_it(tmp_path):
    write(tmp_path, "")
    (tmp_path / "source" / "vae").mkdir(parents=True)
    assert find_root(tmp_path / "source" / "vae") == tmp_path.resolve()


def test_no_course_above_is_an_error_that_says_where_was_looked(tmp_path):
    with pytest.raises(CourseError, match=r"There is no course_config.py in"):
        find_root(tmp_path)


def test_an_unknown_assignment_is_answered_with_close_names():
    course = Course(id="c", title="C", assignments=[{"name": "vae", "title": "V"}, {"name": "gan", "title": "G"}])
    with pytest.raises(CourseError, match=r"no assignment 'vea' in course_config.py; did you mean vae"):
        course.assignment("vea")
    assert [assignment.name for assignment in course.select(["gan", "vae"])] == ["vae", "gan"]
    assert len(course.select([])) == 2


def test_settings_cannot_be_changed_later():
    with pytest.raises(Exception, match="frozen"):
        load_course(REPOSITORY).seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("seconds_late", "penalty"),
    [(0, 0), (900, 0), (901, 1.8), (900 + DAY, 1.8), (901 + DAY, 3.6), (900 + 3 * DAY, 5.4), (901 + 3 * DAY, 18)],
)
def test_each_started_day_after_the_grace_costs_its_share_until_the_end(seconds_late, penalty):
    policy = LatePolicy(grace_minutes=15, percent_per_day=10, closes_after_days=3)
    assert policy.penalty(18, seconds_late) == pytest.approx(penalty)


def test_lateness_costs_nothing_unless_the_course_says_so():
    assert LatePolicy().penalty(18, 100 * DAY) == 0


def test_a_penalty_is_never_more_than_the_score():
    assert LatePolicy(percent_per_day=40).penalty(10, 30 * DAY) == 10


def test_settings_import_without_heavy_libraries():
    script = "import sys, autograder.course; print(*{'torch', 'nbgrader', 'IPython', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
