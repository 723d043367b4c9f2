"""nbgrader, started in the course's folder, works on this course or not at all."""

import asyncio
import shutil
import subprocess
import sys
from datetime import timedelta

import nbformat
import pytest
from nbgrader.api import Gradebook
from nbgrader.apps.baseapp import NbGrader
from nbgrader.converters import Autograde
from nbgrader.coursedir import CourseDirectory
from traitlets.config import Config

from autograder.course import CourseError, load_course
from autograder.nbgrader_settings import AUTOGRADE_STEPS, CourseLatePenalties, configure, configure_from

# nbgrader's own way with its database, nothing of ours
pytestmark = pytest.mark.filterwarnings("ignore:Object of type <Submitted:sqlalchemy.exc.SAWarning")


def start(course, environment, *arguments):
    """Start nbgrader's own command line; our module comes first for the slow import that it leaves out."""
    program = "import autograder.cli; from nbgrader.apps.nbgraderapp import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=course.root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_bare_nbgrader_makes_what_course_release_makes(released, environment):
    made = {path: path.read_bytes() for path in (released.root / "release" / "shapes").iterdir()}
    shutil.rmtree(released.root / "release")
    (released.root / "gradebook.db").unlink()
    command = start(released, environment, "generate_assignment", "shapes")
    _, errors = command.communicate()
    assert command.returncode == 0, errors
    assert {path: path.read_bytes() for path in (released.root / "release" / "shapes").iterdir()} == made
    with Gradebook(f"sqlite:///{released.root / 'gradebook.db'}", "tiny") as gradebook:
        assert gradebook.find_assignment("shapes").course_id == "tiny"


def test_no_nbgrader_command_runs_on_a_broken_course(tiny_course, environment):
    tiny_course.edit(tiny_course.config, 'title="Shapes"', 'titel="Shapes"')
    commands = [start(tiny_course, environment, name, "shapes") for name in ("generate_assignment", "autograde")]
    for command in commands:
        output, errors = command.communicate()
        assert command.returncode == 1
        assert "nbgrader cannot run before this is put right:" in errors
        assert "course_config.py, line 6: assignments[0].titel is no setting; did you mean title?" in errors
        assert "Traceback" not in errors
        assert output == ""
    assert not (tiny_course.root / "gradebook.db").exists()


def test_a_python_without_the_course_package_is_an_error_too(tiny_course):
    program = "import runpy; runpy.run_path('nbgrader_config.py')"
    command = [sys.executable, "-S", "-I", "-c", program]
    done = subprocess.run(command, cwd=tiny_course.root, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("nbgrader runs in a Python where this course is not installed: No module named")


def test_a_course_that_breaks_does_not_end_a_running_server(tiny_course, monkeypatch):
    """The formgrader reads its settings anew for each request; ending would take open notebooks along."""
    monkeypatch.chdir(tiny_course.root)
    app = NbGrader()
    app.load_config_file()
    tiny_course.edit(tiny_course.config, 'title="Shapes"', 'titel="Shapes"')

    async def request() -> None:
        with pytest.raises(CourseError, match="did you mean title"):
            configure_from(str(tiny_course.root / "nbgrader_config.py"), Config())
        app.load_config_file()

    asyncio.run(request())
    assert app.config.CourseDirectory.course_id == "tiny"
    with pytest.raises(SystemExit):
        app.load_config_file()


def test_the_settings_hold_for_nbgraders_own_objects(tiny_course, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin")
    config = Config()
    configure(config, tiny_course.root)
    folder = CourseDirectory(config=config)
    assert (folder.course_id, folder.root) == ("tiny", str(tiny_course.root))
    assert folder.db_url == f"sqlite:///{tiny_course.root / 'gradebook.db'}"
    assert Autograde(coursedir=folder, config=config).autograde_preprocessors == AUTOGRADE_STEPS
    assert shutil.which("alembic")


def test_autograding_takes_nbgraders_own_steps_three_of_them_replaced():
    own = [step.__name__ for step in Autograde(coursedir=None).autograde_preprocessors]
    replaced = {"Execute": "RunChecks", "SaveAutoGrades": "SaveMarks", "AssignLatePenalties": "CourseLatePenalties"}
    assert own.pop() == "CheckCellMetadata"  # what comes from the release was checked when it was released
    assert [step.rpartition(".")[2] for step in AUTOGRADE_STEPS] == [replaced.get(name, name) for name in own]


def test_each_assignment_has_its_own_late_policy(released):
    policy = 'late=LatePolicy(grace_minutes=30, percent_per_day=10, closes_after_days=7), due="'
    released.edit(released.config, 'due="', policy)
    released.edit(released.config, "import Assignment, Course", "import Assignment, Course, LatePolicy")
    penalties = {days: penalty_of(released, score=4, days_late=days) for days in (-1, 0.01, 1, 2, 8)}
    assert penalties == {-1: None, 0.01: 0, 1: pytest.approx(0.4), 2: pytest.approx(0.8), 8: 4}


def penalty_of(course, score: float, days_late: float) -> float | None:
    """What nbgrader's gradebook takes off a submission after our step of autograding."""
    config = Config()
    configure(config, course.root)
    due = load_course(course.root).assignment("shapes").due
    db_url = config.CourseDirectory.db_url
    with Gradebook(db_url, "tiny") as gradebook:
        gradebook.update_or_create_student("ada")
        gradebook.update_or_create_submission("shapes", "ada", timestamp=due + timedelta(days=days_late))
        gradebook.find_grade("area_checks", "shapes", "shapes", "ada").auto_score = score
        gradebook.db.commit()
    resources = {"nbgrader": {"notebook": "shapes", "assignment": "shapes", "student": "ada", "db_url": db_url}}
    CourseLatePenalties(config=config).preprocess(nbformat.v4.new_notebook(), resources)
    with Gradebook(db_url, "tiny") as gradebook:
        penalty: float | None = gradebook.find_submission_notebook("shapes", "shapes", "ada").late_submission_penalty
    return penalty
