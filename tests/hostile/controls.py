"""Where attacks meet nothing that stops them: an attack that fails here too proves nothing by failing elsewhere."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest
from attack import WORKED, Attack, Control, Notebook
from browsing import visiting
from conftest import TinyCourse
from course import HIDDEN_TESTS, POINTS
from nbconvert.exporters import HTMLExporter
from nbformat import from_dict
from nbgrader.utils import determine_grade
from playwright.sync_api import Browser
from rooms import SECONDS, ask, run_cell

from autograder.authoring import Script, read_script
from autograder.remote import wire
from autograder.sandbox.room import Room, RoomEnded, Sandbox
from autograder.submission import cell_text, grade_id

RECORDED = Path(__file__).with_name("stock_nbgrader.json")


@dataclass(frozen=True)
class Ran:
    """What came of a notebook that ran beside its hidden tests."""

    text: str
    """All that it printed, errors too."""
    passed: tuple[str, ...]
    """Tasks whose hidden tests raised nothing."""


class Bench:
    """A machine on which nothing stops an attack."""

    def __init__(
        self, course: TinyCourse, known: Mapping[str, object], sandbox: Sandbox, browser: Callable[[], Browser]
    ) -> None:
        """Take a released course, what attacks know of the machine, a sandbox without walls, and a way to a browser."""
        self.course, self.known, self.sandbox, self.browser = course, known, sandbox, browser
        self.ran: dict[tuple[str, ...], Ran] = {}

    @property
    def script(self) -> Script:
        """The reference solution."""
        return read_script(self.course.script)

    def hand_in(self, attack: Attack) -> Path:
        """A folder with the submission, as deep in the course as nbgrader would put it, and the released files."""
        folder = self.course.root / "unprotected" / attack.name / "shapes"
        if not folder.exists():
            attack.hand_in(folder, self.script, self.known)
            shutil.copy(self.course.script.parent / "expect.py", folder)
        return folder

    def run(self, attack: Attack, tests: Mapping[str, str] = HIDDEN_TESTS) -> Ran:
        """Run a submission without walls, hidden tests as further cells of its own process."""
        key = (attack.name, *tests.values())
        if key not in self.ran:
            with self.room(attack) as room:
                self.ran[key] = _run(room, attack.notebook(self.script), tests)
        return self.ran[key]

    @contextmanager
    def room(self, attack: Attack) -> Iterator[Room]:
        """A process without walls in the submission's folder."""
        folder = self.hand_in(attack)
        room = self.sandbox.open()
        try:
            run_cell(room, f"import os, sys\nos.chdir({str(folder)!r})\nsys.path.append(os.getcwd())")
            ask(room, op="begin", seed=0)
            yield room
        finally:
            room.close()


def _run(room: Room, notebook: Notebook, tests: Mapping[str, str]) -> Ran:
    texts, passed = [], []
    try:
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                texts.append(json.dumps(run_cell(room, cell_text(cell))[0]))
        for task, source in tests.items():
            outputs, error = run_cell(room, source)
            texts.append(json.dumps(outputs))
            passed += [task] if error is None else []
    except RoomEnded as ending:
        texts.append(str(ending))
    return Ran("\n".join(texts), tuple(passed))


def recorded(attack: Attack) -> dict[str, Any]:
    """What stock nbgrader made of an attack when it was last asked (see `stock_nbgrader.py`)."""
    found: dict[str, Any] = json.loads(RECORDED.read_text())["attacks"][attack.name]
    return found


def works_without_walls(attack: Attack, bench: Bench) -> None:
    """In a process without a sandbox it gets what it is after."""
    ran = bench.run(attack)
    assert WORKED in ran.text, ran.text


def works_in_the_graders_python(attack: Attack, bench: Bench) -> None:
    """Run as a script by the Python that grades, it gets what it is after."""
    done = subprocess.run(
        [sys.executable, "-c", f"from known import *\n{attack.cell}"], cwd=bench.hand_in(attack), check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    assert WORKED in done.stdout


def passes_tests_in_its_process(attack: Attack, bench: Bench) -> None:
    """Hidden tests that run in the student's process, as nbgrader's do, pass for every task that it should lose."""
    ran = bench.run(attack)
    cheated = {task for task, mark in zip(POINTS, attack.marks, strict=True) if mark < POINTS[task]}
    assert cheated and cheated <= set(ran.passed), ran.text


def passes(test: str) -> Control:
    """Another hidden test in the student's process that it passes, on `result`, the volume of a box of 5.46875."""
    source = f"result = volume(torch.tensor([1.25]), torch.tensor([3.5]))\n{test}"

    def control(attack: Attack, bench: Bench) -> None:
        """Another hidden test in the student's process passes."""
        ran = bench.run(attack, {"volume": source})
        assert ran.passed == ("volume",), ran.text

    return control


def beats_stock_nbgrader(attack: Attack, bench: Bench) -> None:
    """Stock nbgrader gave it marks that it had not earned, took marks from it that it had, or gave none at all."""
    found = recorded(attack)
    assert found["marks"] != list(attack.marks), found


def ends_a_script_with_success(attack: Attack, bench: Bench) -> None:
    """A script of the answer and its hidden test, judged by its exit code as many graders do, succeeds."""
    folder = bench.hand_in(attack)
    script = f"from known import *\n{attack.answers['volume']}\nassert volume(1, 1) == 5.46875"
    (folder / "script.py").write_text(script)
    assert subprocess.run([sys.executable, "script.py"], cwd=folder, check=False).returncode == 0


def imports_the_folder(attack: Attack, bench: Bench) -> None:
    """A Python that starts in the submission's folder, as nbgrader's kernels do, imports what lies there."""
    line = [sys.executable, "-c", "import expect"]
    done = subprocess.run(line, cwd=bench.hand_in(attack), capture_output=True, text=True, check=False)
    assert WORKED in done.stdout, done.stderr


def pytest_passes(attack: Attack, bench: Bench) -> None:
    """pytest, run in the submission's folder, finds that a wrong answer passes."""
    folder = bench.hand_in(attack)
    (folder / "test_hidden.py").write_text("def test_volume():\n    assert 0 == 5.46875\n")
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_hidden.py"]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout


def runs_without_an_error(attack: Attack, bench: Bench) -> None:
    """Run as it was handed in, the notebook shows no error."""
    assert '"error"' not in bench.run(attack, {}).text


def shows_no_error_of_hidden_tests(attack: Attack, bench: Bench) -> None:
    """Hidden tests in the student's process fail, and nothing in the outputs shows it."""
    ran = bench.run(attack)
    assert len(ran.passed) < len(POINTS)
    assert '"error"' not in ran.text


def says_it_beside(test: str = "assert result == 5.46875") -> Control:
    """What must stay hidden stands in the outputs where a hidden test on `result` runs in the student's process."""
    source = f"result = volume(torch.tensor([1.25]), torch.tensor([3.5]))\n{test}"

    def control(attack: Attack, bench: Bench) -> None:
        """What must stay hidden stands in the outputs where a hidden test runs in the student's process."""
        assert attack.hidden
        assert attack.hidden in bench.run(attack, {"volume": source}).text

    return control


def prints_paths_of_the_machine(attack: Attack, bench: Bench) -> None:
    """Without walls, its output holds the paths of the course and of the Python that grades."""
    text = bench.run(attack).text
    assert str(bench.course.root) in text
    assert sys.prefix in text


def read_by_nbgrader_as(task_id: str, points: float) -> Control:
    """nbgrader, from what was handed in alone, reads this many points for a cell."""

    def control(attack: Attack, bench: Bench) -> None:
        """nbgrader, from what was handed in alone, reads these points."""
        (cell,) = [cell for cell in attack.notebook(bench.script)["cells"] if grade_id(cell) == task_id]
        assert determine_grade(from_dict(cell))[0] == points

    return control


def handed_in_as(says_so: Callable[[Notebook], bool]) -> Control:
    """The notebook says of itself what it should not be believed."""

    def control(attack: Attack, bench: Bench) -> None:
        """The notebook says of itself what should not be believed."""
        assert says_so(attack.notebook(bench.script))

    return control


def publishes_in_its_process(attack: Attack, bench: Bench) -> None:
    """Asked in its own process, it has the shell publish what must stay hidden."""
    listening = (
        "heard = []\n"
        "get_ipython().display_pub.publish = lambda *data, **more: heard.append((data, more))\n"
        "volume(torch.tensor([1.25]), torch.tensor([3.5]))\n"
        "print(heard)"
    )
    assert attack.hidden and attack.hidden in bench.run(attack, {"volume": listening}).text


def is_no_strict_json(attack: Attack, bench: Bench) -> None:
    """A reader of strict JSON refuses it."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    with pytest.raises(ValueError, match="NaN"):
        json.loads((bench.hand_in(attack) / "shapes.ipynb").read_bytes(), parse_constant=refuse)


def speaks_for_the_server(attack: Attack, bench: Bench) -> None:
    """What the attack has made up arrives at the grader's end as the answer to a question."""
    cells = [cell_text(cell) for cell in attack.notebook(bench.script)["cells"] if cell["cell_type"] == "code"]
    questions: list[dict[str, object]] = [
        {"op": "cell", "source": cell.encode(), "cell_id": "cell", "output_bytes": 2**20} for cell in cells
    ]
    call = {"op": "call", "object": None, "path": ["volume"], "args": [1.25, 3.5], "kwargs": {}}
    with bench.room(attack) as room:
        answers = [bytes(room.ask(wire.pack(question), SECONDS)) for question in (*questions, call, call)]
    assert b"forged" in b"".join(answers)


def stops_nbformat(attack: Attack, bench: Bench) -> None:
    """nbformat, with which nbgrader reads submissions, does not read it."""
    path = bench.hand_in(attack) / "shapes.ipynb"
    try:
        nbformat.validate(nbformat.read(path, as_version=4))
    except Exception:
        return
    raise AssertionError("nbformat reads it")


def read_by_whoever_opens_it(attack: Attack, bench: Bench) -> None:
    """Opened by its name it is somebody else's notebook."""
    assert "area_checks" in (bench.hand_in(attack) / "shapes.ipynb").read_text()


def never_read(attack: Attack, bench: Bench) -> None:
    """Whoever opens it waits for ever."""
    path = bench.hand_in(attack) / "shapes.ipynb"
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(["cat", str(path)], timeout=1, check=False, stdout=subprocess.DEVNULL)


def larger_than(size: int) -> Control:
    """Read as a whole, it takes this many bytes of the grader's memory."""

    def control(attack: Attack, bench: Bench) -> None:
        """Read as a whole, it takes as many bytes of the grader's memory."""
        assert len((bench.hand_in(attack) / "shapes.ipynb").read_bytes()) > size

    return control


def more_files_than(count: int) -> Control:
    """Copied as it is, it brings this many files."""

    def control(attack: Attack, bench: Bench) -> None:
        """Copied as it is, it brings as many files."""
        assert sum(path.is_file() for path in bench.hand_in(attack).rglob("*")) > count

    return control


def acts_in_a_stock_page(attack: Attack, bench: Bench) -> None:
    """nbconvert's page of the notebook, of which nbgrader's feedback is made, runs a script or loads from afar."""
    with visiting(bench.browser()) as visitor:
        visitor.show(stock_page(attack, bench))
        visitor.click_on_everything("body")
        assert visitor.attacks or any("evil.example" in address for address in visitor.asked_for)


def stock_page(attack: Attack, bench: Bench) -> str:
    """A page as stock nbconvert makes it of the notebook with what its cells show where nothing stops them."""
    notebook = attack.notebook(bench.script)
    with bench.room(attack) as room:
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                cell["outputs"] = run_cell(room, cell_text(cell))[0]
    page, _ = HTMLExporter(template_name="classic").from_notebook_node(from_dict(notebook))
    return str(page)


def acts_as_written(task: str) -> Control:
    """Put into a page as it is, an answer acts."""

    def control(attack: Attack, bench: Bench) -> None:
        """Put into a page as it is, it acts."""
        with visiting(bench.browser()) as visitor:
            visitor.show(f"<html><body><pre>{attack.answers[task]}</pre></body></html>")
            assert visitor.attacks

    return control


def steers_a_terminal(attack: Attack, bench: Bench) -> None:
    """What it prints and raises holds the codes where nothing takes them out."""
    assert json.dumps("\x1b")[1:-1] in bench.run(attack).text
