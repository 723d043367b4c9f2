"""Marks through the real commands into nbgrader's real gradebook, read back with nbgrader's own API."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import run
from conftest import Beforehand, TinyCourse
from nbgrader.api import Gradebook, MissingEntry

from autograder.authoring import read_script, solved_notebook
from autograder.course import load_course
from autograder.gradebook import NoMark, record
from autograder.results import SubmissionResult, Verdict, load_result, result_path

WRONG_AREA = "def area(side):\n    return side.square() + 1"
ANSWERS = {
    "perfect": {},
    "half": {"area": WRONG_AREA},
    "loud": {
        "volume": "import sys\n"
        "def volume(side, height):\n"
        "    print('careful', file=sys.stderr)\n"
        "    return area(side) * height"
    },
    "late": {},
}  # fmt: skip


def hand_in(root: Path, student: str, notebook: dict[str, Any] | bytes, timestamp: str = "") -> None:
    """Put a submission where `nbgrader collect` would."""
    folder = root / "submitted" / student / "shapes"
    folder.mkdir(parents=True, exist_ok=True)
    content = notebook if isinstance(notebook, bytes) else json.dumps(notebook).encode()
    (folder / "shapes.ipynb").write_bytes(content)
    if timestamp:
        (folder / "timestamp.txt").write_text(timestamp)


def marks(root: Path) -> dict[str, tuple[float, float]]:
    """Automatic and final score of every student in the gradebook."""
    with Gradebook(f"sqlite:///{root / 'gradebook.db'}", "tiny") as gradebook:
        found = {}
        for submission in gradebook.assignment_submissions("shapes"):
            (notebook,) = submission.notebooks
            automatic = sum(grade.auto_score for grade in notebook.grades)
            found[submission.student.id] = (automatic, notebook.score - (notebook.late_submission_penalty or 0))
        return found


@pytest.fixture(scope="module")
def handed_in(released_once: TinyCourse, tmp_path_factory: pytest.TempPathFactory) -> TinyCourse:
    """A released course with submissions, one of them a day late and one of them no notebook."""
    root = tmp_path_factory.mktemp("handed-in") / "course"
    shutil.copytree(released_once.root, root)
    course = TinyCourse(root)
    course.edit(course.config, "import Assignment, Course", "import Assignment, Course, LatePolicy")
    course.edit(course.config, '+00:00")', '+00:00", late=LatePolicy(percent_per_day=10))')
    for student, answers in ANSWERS.items():
        timestamp = "2027-11-01 12:00:00 UTC" if student == "late" else "2027-10-01 12:00:00 UTC"
        hand_in(root, student, json.loads(json.dumps(solved_notebook(read_script(course.script), answers))), timestamp)
    hand_in(root, "untouched", (root / "release/shapes/shapes.ipynb").read_bytes())
    return course


@pytest.fixture(scope="module")
def graded(
    handed_in: TinyCourse, beforehand: Beforehand, environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[TinyCourse]:  # fmt: skip
    """The same after `course grade shapes`, with one submission that is no notebook."""
    root = tmp_path_factory.mktemp("graded") / "course"
    shutil.copytree(handed_in.root, root)
    hand_in(root, "broken", b"{")
    beforehand(TinyCourse(root))
    done = run(root, environment, "course", "grade", "shapes", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert {json.loads(line)["student"] for line in done.stdout.splitlines()} == {*ANSWERS, "untouched", "broken"}
    yield TinyCourse(root)


def copy_of(course: TinyCourse, folder: Path) -> TinyCourse:
    shutil.copytree(course.root, folder / "copy")
    return TinyCourse(folder / "copy")


def test_the_gradebook_holds_the_marks(graded: TinyCourse) -> None:
    assert marks(graded.root) == {
        "perfect": (5.0, 5.0),
        "half": (1.33, 1.33),
        "loud": (5.0, 5.0),  # stock nbgrader gives zero to a cell that writes to stderr
        "late": (5.0, 4.5),
        "untouched": (0.0, 0.0),
        "broken": (0.0, 0.0),
    }


def test_nbgraders_own_command_gives_the_same_marks(
    graded: TinyCourse, handed_in: TinyCourse, environment: dict[str, str], tmp_path: Path
) -> None:
    course = copy_of(handed_in, tmp_path)
    run(course.root, environment, "course", "release")  # enters the assignment into a gradebook, as before grading
    done = run(course.root, environment, "nbgrader", "autograde", "shapes")
    assert done.returncode == 0, done.stderr
    expected = {student: mark for student, mark in marks(graded.root).items() if student != "broken"}
    assert marks(course.root) == expected
    ours, theirs = (
        {path.parent.parent.name: path.read_bytes() for path in root.glob("autograded/*/shapes/shapes.ipynb")}
        for root in (graded.root, course.root)
    )
    assert ours == theirs


def test_partial_credit_and_messages_stand_together_in_the_notebook(graded: TinyCourse) -> None:
    notebook = json.loads((graded.root / "autograded/half/shapes/shapes.ipynb").read_text())
    (cell,) = (c for c in notebook["cells"] if c["metadata"].get("nbgrader", {}).get("grade_id") == "area_checks")
    assert cell["outputs"][0]["output_type"] == "execute_result"
    assert cell["outputs"][0]["data"]["text/plain"] == ["1.33"] or cell["outputs"][0]["data"]["text/plain"] == "1.33"
    report = "".join(cell["outputs"][1]["data"]["text/plain"])
    assert "1 of 2 hidden checks passed, 1.33 of 2 points" in report
    assert "2.89" in report  # this tiny course says so in a check's title
    assert {output["output_type"] for output in cell["outputs"][1:]} == {"display_data"}


def test_a_submission_that_is_no_notebook_is_zero_with_its_reason(graded: TinyCourse) -> None:
    with Gradebook(f"sqlite:///{graded.root / 'gradebook.db'}", "tiny") as gradebook:
        notebook = gradebook.find_submission_notebook("shapes", "shapes", "broken")
        assert all(grade.auto_score == 0 and not grade.needs_manual_grade for grade in notebook.grades)
        assert {"not JSON" in (comment.auto_comment or "") for comment in notebook.comments} == {True}


def test_a_manual_mark_and_a_comment_survive_a_regrade(
    graded: TinyCourse, beforehand: Beforehand, environment: dict[str, str], tmp_path: Path
) -> None:
    course = copy_of(graded, tmp_path)
    with Gradebook(f"sqlite:///{course.root / 'gradebook.db'}", "tiny") as gradebook:
        gradebook.find_grade("area_checks", "shapes", "shapes", "half").manual_score = 1.75
        gradebook.find_comment("area", "shapes", "shapes", "half").manual_comment = "Nearly."
        gradebook.db.commit()
    worse = solved_notebook(read_script(course.script), {"area": WRONG_AREA.replace("+ 1", "+ 2 * side")})
    hand_in(course.root, "half", json.loads(json.dumps(worse)), "2027-10-01 12:00:00 UTC")
    beforehand(course)
    done = run(course.root, environment, "course", "grade", "shapes", "--student", "half")
    assert done.returncode == 0, done.stderr
    assert "In the gradebook: 1.75 of 5" in done.stdout
    with Gradebook(f"sqlite:///{course.root / 'gradebook.db'}", "tiny") as gradebook:
        grade = gradebook.find_grade("area_checks", "shapes", "shapes", "half")
        assert (grade.auto_score, grade.manual_score, grade.score) == (0.0, 1.75, 1.75)
        assert gradebook.find_comment("area", "shapes", "shapes", "half").comment == "Nearly."


def test_a_fault_of_ours_is_recorded_for_nobody(released: TinyCourse) -> None:
    result = SubmissionResult(
        assignment="shapes", student="unlucky", verdict=Verdict.GRADER_FAULT, reason="the sandbox did not start"
    )
    with pytest.raises(NoMark, match="the sandbox did not start"):
        record(released.root, load_course(released.root), result)
    with (
        Gradebook(f"sqlite:///{released.root / 'gradebook.db'}", "tiny") as gradebook,
        pytest.raises(MissingEntry),
    ):
        gradebook.find_submission("shapes", "unlucky")


def test_a_date_that_is_none_is_said_and_nothing_recorded(graded: TinyCourse, tmp_path: Path) -> None:
    course = copy_of(graded, tmp_path)
    result = load_result(result_path(course.root, "shapes", "half"))
    assert result is not None
    file = course.root / "submitted" / "half" / "shapes" / "timestamp.txt"
    before = marks(course.root)
    file.write_text('=HYPERLINK("https://evil.example")')
    said = "submitted/half/shapes/timestamp.txt cannot be read as a date: correct it or delete it"
    with pytest.raises(NoMark, match=said):
        record(course.root, load_course(course.root), result)
    file.unlink()
    os.mkfifo(file)  # nbgrader would wait for whoever writes into it
    with pytest.raises(NoMark, match=said):
        record(course.root, load_course(course.root), result)
    assert marks(course.root) == before


@pytest.mark.long
def test_checks_that_are_broken_end_both_commands_and_give_no_marks(
    handed_in: TinyCourse, environment: dict[str, str], tmp_path: Path
) -> None:
    course = copy_of(handed_in, tmp_path)
    course.edit(course.checks, "torch.tensor([2.89])", "torch.tensor([2.98])")
    ours = run(course.root, environment, "course", "grade", "shapes", "--student", "perfect")
    assert ours.returncode == 1
    assert "The reference solution earns" in ours.stderr
    assert "Traceback" not in ours.stderr.split("The reference solution")[0]
    theirs = run(course.root, environment, "nbgrader", "autograde", "shapes", "--student", "perfect")
    assert theirs.returncode != 0
    assert not (course.root / "autograded").exists() or not any((course.root / "autograded").rglob("*.ipynb"))


def test_show_tells_the_instructor_everything_and_grade_does_not(
    graded: TinyCourse, environment: dict[str, str]
) -> None:
    shown = run(graded.root, environment, "course", "show", "shapes", "half", "volume")
    assert shown.returncode == 0
    assert "expected: tensor([14.])" in shown.stdout
    told = run(graded.root, environment, "course", "grade", "shapes", "--student", "half").stdout
    assert "expected: " not in told
    assert "Hint" not in told.split("volume:")[1]
    assert "This may follow from task 1 (`area`)." in told


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("grade", "shapes", "--student", "nobody"), 2, "nobody has handed in no shapes"),
        (("grade", "shape"), 2, "shapes"),
        (("grade",), 2, "Missing argument"),
        (("show", "shapes", "ghost"), 1, "has not been graded"),
        (("show", "shapes", "half", "circle"), 1, "area, volume"),
        (("grade", "shapes", "--student", "../half"), 2, "identifier"),
    ],
)
def test_commands_say_what_is_wrong_and_exit_accordingly(
    graded: TinyCourse, environment: dict[str, str], arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = run(graded.root, environment, "course", *arguments)
    assert done.returncode == code
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_results_are_kept_as_files_that_hold_everything(graded: TinyCourse) -> None:
    result = load_result(result_path(graded.root, "shapes", "half"))
    assert result is not None
    assert result.score == 1.33
    assert result.seed == 0
    assert result.sandbox == "namespaces"
    assert len(result.fingerprint) == 64
    assert [check.name for task in result.tasks for check in task.checks] == ["test_three", "test_gradient", "test_box"]


def test_a_gradebook_that_does_not_know_the_assignment_learns_it(
    graded: TinyCourse, environment: dict[str, str], tmp_path: Path
) -> None:
    course = copy_of(graded, tmp_path)
    (course.root / "gradebook.db").unlink()
    done = run(course.root, environment, "course", "grade", "shapes", "--student", "half")
    assert done.returncode == 0, done.stderr
    assert marks(course.root) == {"half": (1.33, 1.33)}


def _without_metadata(notebook: dict[str, Any]) -> None:
    for cell in notebook["cells"]:
        cell["metadata"] = {}


def _cell(notebook: dict[str, Any], name: str) -> dict[str, Any]:
    return next(cell for cell in notebook["cells"] if cell["metadata"].get("nbgrader", {}).get("grade_id") == name)


def _deleted(*names: str) -> Callable[[dict[str, Any]], None]:
    def delete(notebook: dict[str, Any]) -> None:
        for name in names:
            notebook["cells"].remove(_cell(notebook, name))

    return delete


def _changed(name: str, **settings: Any) -> Callable[[dict[str, Any]], None]:
    return lambda notebook: _cell(notebook, name)["metadata"]["nbgrader"].update(settings)


def _forged(notebook: dict[str, Any]) -> None:
    forged = json.loads(json.dumps(_cell(notebook, "area_checks")))
    forged["metadata"]["nbgrader"] |= {"grade_id": "bonus", "points": 100}
    forged["id"] = "bonus"
    notebook["cells"].append(forged)


def _odd_cells(notebook: dict[str, Any]) -> None:
    notebook["cells"] += [
        {"cell_type": "markdown", "source": "x", "id": "with spaces", "attachments": [1]},
        {"cell_type": "strange", "source": ["a", "b"]},
        {"source": "no type", "metadata": []},
        {"cell_type": "code", "source": "# half \ud800 a character", "outputs": 3},
    ]


EDITS: dict[str, tuple[Callable[[dict[str, Any]], Any], float]] = {
    "task one deleted": (_deleted("area", "area_checks"), 0.0),
    "task two deleted": (_deleted("volume", "volume_checks"), 2.0),
    "checks deleted": (_deleted("area_checks", "volume_checks"), 5.0),
    "no metadata": (_without_metadata, 5.0),
    "schema version": (_changed("area_checks", schema_version=99), 5.0),
    "schema text": (_changed("area", schema_version="x"), 5.0),
    "points": (_changed("area_checks", points=100), 5.0),
    "solution graded": (_changed("area", grade=True, points=7), 5.0),
    "a graded cell more": (_forged, 5.0),
    "odd cells": (_odd_cells, 5.0),
    "kernelspec": (lambda notebook: notebook["metadata"].update(kernelspec=3, language_info=[1]), 5.0),
    "no top metadata": (lambda notebook: notebook.pop("metadata"), 5.0),
    "minor version": (lambda notebook: notebook.update(nbformat_minor="x"), 5.0),
    "no minor version": (lambda notebook: notebook.pop("nbformat_minor"), 5.0),
    "checks as markdown": (lambda notebook: _cell(notebook, "area_checks").update(cell_type="markdown"), 5.0),
}


def test_whatever_a_notebook_says_of_itself_it_is_recorded_with_what_it_earned(
    handed_in: TinyCourse, beforehand: Beforehand, environment: dict[str, str], tmp_path: Path
) -> None:
    course = copy_of(handed_in, tmp_path)
    shutil.rmtree(course.root / "submitted")
    perfect = json.dumps(solved_notebook(read_script(course.script)))
    expected = {}
    for name, (edit, score) in EDITS.items():
        notebook = json.loads(perfect)
        edit(notebook)
        student = name.replace(" ", "-")
        hand_in(course.root, student, notebook)
        expected[student] = (score, score)
    beforehand(course)
    done = run(course.root, environment, "course", "grade", "shapes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert marks(course.root) == expected


def test_files_behind_links_and_pages_for_a_browser_are_copied_nowhere(
    handed_in: TinyCourse, beforehand: Beforehand, environment: dict[str, str], tmp_path: Path
) -> None:
    course = copy_of(handed_in, tmp_path)
    secret = tmp_path / "secret.txt"
    secret.write_text("another student's marks")
    folder = course.root / "submitted/perfect/shapes"
    (folder / "link.txt").symlink_to(secret)
    (folder / "dangling").symlink_to("nowhere")
    (folder / "more").mkdir()
    for name in ("page.html", "more/PAGE.XHTML", "more/drawing.svg", "feed.rss", "old.xml", "data.csv", "more/util.py"):
        (folder / name).write_text("<script>attack()</script>")
    (course.root / "source/shapes/ours.svg").write_text("<svg/>")
    kept = {"data.csv", "expect.py", "more", "more/util.py", "ours.svg", "shapes.ipynb"}
    recorded = course.root / "autograded/perfect/shapes"
    beforehand(course)

    done = run(course.root, environment, "course", "grade", "shapes", "--student", "perfect")
    assert done.returncode == 0, done.stderr
    assert "link.txt is not a plain file" in done.stdout
    assert marks(course.root)["perfect"] == (5.0, 5.0)
    assert names_in(recorded) == kept
    (folder / "dangling").unlink()
    done = run(course.root, environment, "nbgrader", "autograde", "shapes", "--student", "perfect", "--force")
    assert done.returncode == 0, done.stderr
    assert names_in(recorded) == kept


def names_in(folder: Path) -> set[str]:
    """What lies in a folder of `autograded/`, but for what every one of them has."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    return found - {"README.md", "requirements.txt", "timestamp.txt"}
