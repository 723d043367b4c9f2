"""What stock nbgrader makes of every attack, recorded in `stock_nbgrader.json`.

    python tests/hostile/stock_nbgrader.py [NAME...]

makes the assignment that the attacks are handed in to as instructors do in nbgrader, with the hidden tests in the
notebook, and runs `nbgrader autograde` with nothing configured, one submission at a time: of all attacks, which takes
some twenty minutes, or of those named. Only run it on a machine that may be harmed: nothing stops the attacks here.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

from attack import TRIED, WORKED, Attack, checks_cell
from attacks import ATTACKS
from conftest import TinyCourse
from controls import RECORDED
from course import HIDDEN_TESTS, HONEST, POINTS, hand_in_honestly, write_hostile_course
from machine import machine
from nbgrader.api import Gradebook, MissingEntry

from autograder.authoring import read_script

SECONDS = 240.0
"""After this an attack has hung `nbgrader autograde`: an ordinary submission takes four seconds on an idle machine."""


def write_stock_course(root: Path) -> TinyCourse:
    """The course as it is without this package: no settings but its name, hidden tests in the notebook."""
    ours = write_hostile_course(root.parent / "ours")
    (root / "source" / "shapes").mkdir(parents=True)
    for name in ("shapes.ipynb", "expect.py"):
        shutil.copy(ours.root / "source" / "shapes" / name, root / "source" / "shapes" / name)
    for folder in ("solutions", "tests"):
        shutil.copytree(ours.root / folder, root / folder)
    shutil.copy(ours.config, root)
    path = root / "source" / "shapes" / "shapes.ipynb"
    notebook = json.loads(path.read_text())
    for task, tests in HIDDEN_TESTS.items():
        cell = checks_cell(notebook, task)
        cell["source"] = f"{''.join(cell['source'])}\n### BEGIN HIDDEN TESTS\n{tests}### END HIDDEN TESTS"
    path.write_text(json.dumps(notebook))
    (root / "nbgrader_config.py").write_text("c = get_config()\nc.CourseDirectory.course_id = 'tiny'\n")
    _nbgrader(root, "generate_assignment", "shapes")
    return TinyCourse(root)


def _nbgrader(root: Path, *arguments: str) -> tuple[int | None, str]:
    """Run nbgrader: its exit code, None where it had to be killed, and what it said."""
    environment = {
        **os.environ, "HOME": str(root.parent), "JUPYTER_CONFIG_DIR": str(root.parent / "jupyter"),
        "IPYTHONDIR": str(root.parent / "ipython"), "GRADER_TOKEN": "token-of-the-grader",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            ["nbgrader", *arguments], cwd=root, env=environment, stdout=said, stderr=said, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            code: int | None = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        for pid in _family(process.pid):
            _kill(pid)
        process.wait()
        said.seek(0)
        return code, said.read()


def _family(leader: int) -> list[int]:
    """A process and all that it has started."""
    found = [leader]
    for pid in found:
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        except OSError:
            pass
    return found


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def outcome(course: TinyCourse, attack: Attack, known: dict[str, object]) -> dict[str, Any]:
    """Hand an attack in and have nbgrader grade it.

    Returns:
        `marks` for `area` and `volume` or None, `ended` (graded, no mark, hung), `tried` and `worked` (whether it said
        so in what nbgrader recorded) and `told` (whether what must stay hidden stands there).
    """
    root = course.root
    folder = root / "submitted" / attack.name / "shapes"
    attack.hand_in(folder, read_script(course.script), known)
    code, _ = _nbgrader(root, "autograde", "shapes", "--student", attack.name, "--force")
    recorded = root / "autograded" / attack.name / "shapes" / "shapes.ipynb"
    text = recorded.read_text(errors="replace") if recorded.exists() else ""
    marks = _marks(root, attack.name)
    ended = "hung" if code is None else "graded" if marks is not None and recorded.exists() else "no mark"
    shutil.rmtree(folder.parent)
    told = bool(attack.hidden) and attack.hidden in text
    return {"marks": marks, "ended": ended, "tried": TRIED in text, "worked": WORKED in text, "told": told}


def _marks(root: Path, student: str) -> list[float] | None:
    with Gradebook(f"sqlite:///{root / 'gradebook.db'}", "tiny") as gradebook:
        try:
            notebook = gradebook.find_submission_notebook("shapes", "shapes", student)
        except MissingEntry:
            return None
        found = {grade.name: grade.auto_score for grade in notebook.grades}
        marks = [found.get("area_checks"), found.get("volume_checks")]
        return None if None in marks else marks


def record(names: Sequence[str] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Grade the attacks of these names, or all that may be tried; each one's name and what became of it."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        course = write_stock_course(Path(folder) / "course")
        for student in HONEST[:1]:
            hand_in_honestly(course, student)
            code, said = _nbgrader(course.root, "autograde", "shapes", "--student", student)
            assert (code, _marks(course.root, student)) == (0, [*POINTS.values()]), said
        (course.root / "results" / "shapes").mkdir(parents=True)
        (course.root / "results" / "shapes" / "a_honest.json").write_text("{}")
        with machine(course.root) as here:
            for attack in ATTACKS:
                if attack.stock and (not names or attack.name in names):
                    yield attack.name, outcome(course, attack, here.known)


def main() -> None:
    """Record attacks one by one, so that what is interrupted can go on."""
    found: dict[str, Any] = json.loads(RECORDED.read_text())["attacks"] if RECORDED.exists() else {}
    for name, came_of_it in record(sys.argv[1:]):
        print(name, json.dumps(came_of_it), flush=True)
        found[name] = came_of_it
        kept = {attack.name: found[attack.name] for attack in ATTACKS if attack.stock and attack.name in found}
        RECORDED.write_text(json.dumps({"nbgrader": version("nbgrader"), "attacks": kept}, indent=1) + "\n")


if __name__ == "__main__":
    main()
