"""What students get, made by real nbgrader with a real gradebook, and read back from the files."""

import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner
from nbgrader.api import Gradebook

from autograder.authoring import read_script, solved_notebook
from autograder.cli import main
from autograder.course import Course, CourseError, load_course
from autograder.release import build, check_release, export, release

# nbgrader's own way with its database, nothing of ours
pytestmark = pytest.mark.filterwarnings("ignore:Object of type <Submitted:sqlalchemy.exc.SAWarning")

FILES = ["README.md", "expect.py", "requirements.txt", "shapes.ipynb"]


def settings(course) -> Course:
    return load_course(course.root)


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def gradebook(course) -> Gradebook:
    return Gradebook(f"sqlite:///{course.root / 'gradebook.db'}", "tiny")


def hand_in(course) -> None:
    """Leave a submission in the gradebook, as autograding does."""
    with gradebook(course) as book:
        book.update_or_create_student("ada")
        book.update_or_create_submission("shapes", "ada")


def test_students_get_notebook_helper_readme_and_requirements(released):
    assert sorted(files_in(released.root / "release" / "shapes")) == FILES
    notebook = nbformat.read(released.root / "release" / "shapes" / "shapes.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert [cell.id for cell in notebook.cells if "nbgrader" in cell.metadata] == [
        "area", "area_checks", "volume", "volume_checks",
    ]  # fmt: skip


def test_a_stub_keeps_signature_and_docstring_and_raises(released):
    notebook = nbformat.read(released.root / "release" / "shapes" / "shapes.ipynb", as_version=4)
    (area,) = (cell.source for cell in notebook.cells if cell.id == "area")
    assert area == (
        "def area(side: Tensor) -> Tensor:\n"
        '    """Area of squares, shape (...), from their sides, shape (...)."""\n'
        "    raise NotImplementedError"
    )


def test_a_solved_notebook_differs_from_the_release_in_the_answers_alone(released):
    """So it is a submission as a student would hand it in."""
    notebook = nbformat.read(released.root / "release" / "shapes" / "shapes.ipynb", as_version=4)
    solved = solved_notebook(read_script(released.script))
    different = [cell.id for cell, other in zip(notebook.cells, solved.cells, strict=True) if cell != other]
    assert different == ["area", "volume"]
    for cell, other in zip(notebook.cells, solved.cells, strict=True):
        assert cell.metadata == other.metadata
    assert notebook.metadata == solved.metadata


def test_no_answer_no_hidden_check_and_no_output_goes_out(released):
    secrets = ["squared", "area(side) * height", "SOLUTION", "TestArea", "test_gradient", "gradient_of_area", "2.89"]
    for name, content in files_in(released.root / "release").items():
        assert [secret for secret in secrets if secret in content.decode()] == [], name
    notebook = nbformat.read(released.root / "release" / "shapes" / "shapes.ipynb", as_version=4)
    assert all(
        cell.outputs == [] and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code"
    )


def test_nothing_with_an_answer_lies_beside_the_source_notebook(released):
    assert sorted(files_in(released.root / "source" / "shapes")) == FILES
    for name in set(FILES) - {"shapes.ipynb"}:
        assert b"squared" not in (released.root / "source" / "shapes" / name).read_bytes()


def test_the_released_notebook_runs_up_to_the_first_check(released, monkeypatch):
    """The helper is found beside the notebook, and the stub is what stops it."""
    folder = released.root / "release" / "shapes"
    cells = nbformat.read(folder / "shapes.ipynb", as_version=4).cells
    monkeypatch.syspath_prepend(folder)
    with pytest.raises(NotImplementedError):
        exec("\n".join(cell.source for cell in cells if cell.cell_type == "code"), {})
    assert sys.modules.pop("expect").__file__ == str(folder / "expect.py")


def test_the_readme_says_title_points_due_date_and_what_to_hand_in(released):
    text = (released.root / "release" / "shapes" / "README.md").read_text()
    assert text.startswith("# Shapes\n\nA tiny course · 5 points · due 2027-10-31, 23:59 (UTC)\n")
    assert "| `area` | 2 |\n| `volume` | 3 |" in text
    assert "hand in this file under its name:\n`shapes.ipynb`." in text


def test_the_readme_says_that_unsolved_tasks_cost_only_themselves(released):
    text = (released.root / "release" / "shapes" / "README.md").read_text()
    assert "keep that file beside the notebook" in text
    assert "share the points of a task among them" in text
    assert "You may leave tasks unsolved" in text


def test_the_readme_says_what_being_late_costs(tiny_course):
    policy = "late=LatePolicy(grace_minutes=15, percent_per_day=10, closes_after_days=7), due="
    tiny_course.edit(tiny_course.config, "due=", policy)
    tiny_course.edit(tiny_course.config, "import Assignment, Course", "import Assignment, Course, LatePolicy")
    build(tiny_course.root, settings(tiny_course))
    text = (tiny_course.root / "source" / "shapes" / "README.md").read_text()
    assert "Up to 15 minutes late cost nothing. Each day that begins after" in text


def test_requirements_follow_the_versions_that_the_course_is_tested_with(tiny_course):
    (tiny_course.root / "constraints.txt").write_text("torch==2.13.0\nscikit_learn==1.9.1  # why\nother==1\n")
    build(tiny_course.root, settings(tiny_course))
    text = (tiny_course.root / "source" / "shapes" / "requirements.txt").read_text()
    assert text.split() == ["torch~=2.13.0", "numpy", "matplotlib", "scikit-learn~=1.9.1", "jupyterlab"]


def test_the_gradebook_knows_tasks_points_and_due_date(released):
    with gradebook(released) as book:
        assignment = book.find_assignment("shapes")
        assert assignment.duedate == datetime(2027, 10, 31, 23, 59)
        cells = book.find_notebook("shapes", "shapes").grade_cells
        assert {cell.name: cell.max_score for cell in cells} == {"area_checks": 2, "volume_checks": 3}


def test_a_second_release_changes_no_byte_and_a_new_due_date_arrives(released):
    before = files_in(released.root / "release")
    released.edit(released.config, "2027-10-31", "2027-11-30")
    release(released.root, settings(released))
    after = files_in(released.root / "release")
    assert {name for name in after if after[name] != before[name]} == {"shapes/README.md"}
    with gradebook(released) as book:
        assert book.find_assignment("shapes").duedate == datetime(2027, 11, 30, 23, 59)


def test_another_process_in_another_folder_makes_the_same_bytes(released, tmp_path):
    program = (
        "import autograder.cli, sys; from pathlib import Path; from autograder.course import load_course; "
        "from autograder.release import export; root = Path(sys.argv[1]); "
        "export(root, load_course(root), [], Path(sys.argv[2]))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    command = [sys.executable, "-c", program, str(released.root), str(tmp_path / "out")]
    subprocess.run(command, check=True, env=environment, cwd=tmp_path)
    assert files_in(tmp_path / "out") == files_in(released.root / "release")


# Fresh or stale


def test_a_release_is_fresh_right_after_it_was_made(released):
    assert check_release(released.root, settings(released)) == []


def test_an_edited_solution_makes_the_release_stale(released):
    released.edit(released.script, "# The area of a square is $a^2$.", "# Areas.")
    assert check_release(released.root, settings(released)) == [
        "source/shapes/shapes.ipynb is out of date",
        "release/shapes/shapes.ipynb is out of date",
    ]


def test_a_changed_answer_makes_only_the_source_stale(released):
    released.edit(released.script, "squared = side.square()", "squared = side * side")
    assert check_release(released.root, settings(released)) == ["source/shapes/shapes.ipynb is out of date"]


def test_missing_and_strange_files_are_reported(released):
    (released.root / "release" / "shapes" / "expect.py").unlink()
    (released.root / "release" / "shapes" / "answers.txt").write_text("?")
    (released.root / "release" / "shapes" / ".ipynb_checkpoints").mkdir()
    (released.root / "release" / "shapes" / ".ipynb_checkpoints" / "a.ipynb").write_text("?")
    assert check_release(released.root, settings(released)) == [
        "release/shapes/answers.txt is not part of the assignment",
        "release/shapes/expect.py is missing",
    ]
    release(released.root, settings(released))
    assert check_release(released.root, settings(released)) == []


def test_checking_and_exporting_make_no_gradebook(tiny_course, tmp_path):
    assert len(check_release(tiny_course.root, settings(tiny_course))) == 8
    export(tiny_course.root, settings(tiny_course), ["shapes"], tmp_path / "out")
    assert sorted(files_in(tmp_path / "out" / "shapes")) == FILES
    assert not (tiny_course.root / "gradebook.db").exists()
    assert not (tiny_course.root / "release").exists()


# Refusals leave everything as it was


def test_what_lint_finds_is_not_released(released):
    before = files_in(released.root)
    released.edit(released.script, "points=2", "points=1")
    with pytest.raises(CourseError, match=r"Nothing is released .*\n.*the points add up to 4"):
        release(released.root, settings(released))
    assert files_in(released.root / "release") == {
        name.removeprefix("release/"): content for name, content in before.items() if name.startswith("release/")
    }


def test_an_answer_in_the_helper_is_not_released(tiny_course):
    tiny_course.edit(tiny_course.script, "area(side) * height", "area(side) * height.abs() * 1.0")
    helper = tiny_course.root / "solutions" / "expect.py"
    helper.write_text(f"{helper.read_text()}\n\ndef v(side, height):\n    return area(side) * height.abs() * 1.0\n")
    with pytest.raises(CourseError, match=r"give something away:\nexpect\.py: the answer area\(side\)"):
        release(tiny_course.root, settings(tiny_course))
    assert not (tiny_course.root / "release").exists()
    assert not (tiny_course.root / "gradebook.db").exists()


def test_a_strange_file_in_source_would_reach_students_and_is_refused(released):
    (released.root / "source" / "shapes" / "key.txt").write_text("the answers")
    with pytest.raises(CourseError, match=r"key\.txt does not come from solutions/shapes\.py, and students would get"):
        release(released.root, settings(released))
    assert (released.root / "source" / "shapes" / "key.txt").exists()


def test_a_missing_helper_is_named(tiny_course):
    (tiny_course.root / "solutions" / "expect.py").unlink()
    with pytest.raises(CourseError, match=r"expect\.py is missing: every notebook gets a copy"):
        build(tiny_course.root, settings(tiny_course))


def test_tasks_cannot_change_while_the_gradebook_holds_submissions(released):
    hand_in(released)
    before = files_in(released.root / "release")
    for path in (released.script, released.checks):
        path.write_text(path.read_text().replace('"volume"', '"box"'))
    with pytest.raises(CourseError, match=r"The gradebook refuses shapes: tasks were added, removed or renamed"):
        release(released.root, settings(released))
    assert files_in(released.root / "release") == before


def test_a_text_can_change_while_the_gradebook_holds_submissions(released):
    hand_in(released)
    released.edit(released.script, "# The area of a square is $a^2$.", "# Areas.")
    release(released.root, settings(released))
    assert check_release(released.root, settings(released)) == []


# The command


def course_command(course, environment, *arguments):
    command = [sys.executable, "-c", "from autograder.cli import main; main()", *arguments]
    return subprocess.run(command, cwd=course.root, env=environment, capture_output=True, text=True)


def test_the_command_says_what_is_out_of_date_and_fails(released, environment):
    released.edit(released.script, "# The area of a square is $a^2$.", "# Areas.")
    done = course_command(released, environment, "release", "--check")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "Error: source/shapes/shapes.ipynb is out of date",
        "release/shapes/shapes.ipynb is out of date",
        "Run `course release` and commit source/ and release/.",
    ]


def test_the_command_hands_out_the_student_part(tiny_course, environment, tmp_path):
    done = course_command(tiny_course, environment, "release", "shapes", "--to", str(tmp_path / "out"))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"Students get {tmp_path / 'out' / 'shapes'}\n", "")
    assert sorted(files_in(tmp_path / "out" / "shapes")) == FILES


def test_help_comes_at_once_and_says_what_each_command_does():
    program = "import sys; from autograder.cli import main; main(['release', '--help'], standalone_mode=False);"
    program += "print(*{'pydantic', 'nbgrader', 'nbformat', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "Example:\n    course release information_theory" in done.stdout
    assert done.stdout.endswith("\n\n")


def test_expected_failures_are_a_message_and_other_mistakes_are_usage_errors(tiny_course, monkeypatch):
    monkeypatch.chdir(tiny_course.root)
    runner = CliRunner()
    unknown = runner.invoke(main, ["lint", "shape"])
    assert (unknown.exit_code, unknown.output) == (
        2,
        "Error: There is no assignment 'shape' in course_config.py; did you mean shapes?\n",
    )
    assert runner.invoke(main, ["lint", "--fast"]).exit_code == 2
    assert runner.invoke(main, ["release", "--check", "--to", "x"]).exit_code == 2
    fine = runner.invoke(main, ["lint"])
    assert (fine.exit_code, fine.output) == (0, "1 assignment: nothing to put right.\n")
    assert isinstance(runner.invoke(main, ["--verbose", "lint", "shape"]).exception, CourseError)
