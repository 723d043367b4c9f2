"""The demo on a tiny course: real release, real sandbox, real gradebook."""

import subprocess

import pytest
from nbgrader.api import Gradebook

from autograder.course import CourseError
from autograder.demo import run
from autograder.results import load_result, result_path

# nbgrader's own way with its database, nothing of ours
pytestmark = pytest.mark.filterwarnings("ignore:Object of type <Submitted")

VARIANTS = """\
from autograder.variants import mistake


@mistake("area", "twice the side", also=("volume",))
def area_doubled():
    def area(side):
        return 2 * side


@mistake("volume", "the height is missing")
def volume_flat():
    def volume(side, height):
        return area(side)
"""


@pytest.fixture
def no_bubblewrap(tmp_path, monkeypatch):
    (tmp_path / "no_programs").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "no_programs"))


def marks(folder) -> dict[str, float]:
    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}", "tiny") as book:
        return {one.student.id: one.score for one in book.assignment_submissions("shapes")}


# Every mistake and every accident here is in `volume`, which is worth 3 of the 5 points. What is there for area costs
# volume too, and there is no alternative: so nobody hands that in.
PART = dict.fromkeys(("dora", "fay", "gus", "hal", "ida"), 2)
NOTHING = dict.fromkeys(("kim", "lee", "max"), 0)


def test_the_demo_grades_a_class_in_a_copy_and_leaves_the_course_alone(tiny_course, environment):
    variants = tiny_course.root / "tests" / "variants" / "shapes.py"
    variants.parent.mkdir()
    variants.write_text(VARIANTS)
    before = sorted(path.name for path in tiny_course.root.iterdir())
    command = ["course", "demo"]
    done = subprocess.run(command, cwd=tiny_course.root, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    demo = tiny_course.root / "demo"
    assert marks(demo) == {"ada": 5, "ben": 0, "jon": 2, "mallory": 0, **PART, **NOTHING}
    for reason in ("the notebook is not JSON", "there is no notebook shapes.ipynb in the submission; shapes (1).ipynb"):
        assert reason in done.stdout
    assert "That printed: found nothing" in done.stdout
    assert "sandbox" in done.stdout and "NO SANDBOX" not in done.stdout
    assert load_result(result_path(demo, "shapes", "mallory")).sandbox not in ("", "none")
    for student in marks(demo):
        assert (demo / "feedback" / student / "shapes" / "shapes.html").is_file()
    assert "What a student gets back:  demo/feedback/dora/shapes/shapes.html" in done.stdout
    assert sorted(path.name for path in tiny_course.root.iterdir()) == sorted([*before, "demo"])


@pytest.mark.long
def test_without_bubblewrap_only_the_harmless_are_graded_and_a_wrong_mark_is_an_error(
    tiny_course, tmp_path, no_bubblewrap, capsys
):
    tiny_course.edit(
        tiny_course.checks, "assert_close(student.area(torch.tensor([1.7])), torch.tensor([2.89]))", "assert student"
    )
    folder = tmp_path / "elsewhere"
    with pytest.raises(CourseError) as raised:
        run(tiny_course.root, folder)
    assert str(raised.value).splitlines()[1:] == ["ben, who handed in the notebook as released, has 0.67 of 5 points."]
    printed = capsys.readouterr().out
    assert "NO SANDBOX" in printed and "left out" in printed
    assert marks(folder) == {"ada": 5, "ben": 0.67, "gus": 2, "hal": 2, "ida": 2, **NOTHING}
    assert load_result(result_path(folder, "shapes", "ada")).sandbox == "none"
    assert not (folder / "submitted" / "mallory").exists()
    assert not (folder / "submitted" / "jon").exists()


def test_a_folder_that_no_demo_has_made_is_left_alone(tiny_course):
    with pytest.raises(CourseError, match="no demo has made"):
        run(tiny_course.root, tiny_course.root / "solutions")
    assert tiny_course.script.is_file()
