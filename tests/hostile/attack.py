"""What an attack is: a submission, what grading it must come to, and a control that shows the attack at work.

An attack's first cell starts with `from known import *`. The file `known.py` beside the notebook tells it what an
attacker could find out of the machine (see `KNOWN`) and gives it two functions: it calls `tried(...)` before it reaches
for something and `worked(...)` once it has it. In the sandbox the first must be seen and the second must not be; the
control demands the second where nothing stops the attack.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autograder.authoring import Script, solved_notebook
from autograder.results import Verdict

if TYPE_CHECKING:
    from controls import Bench

Notebook = dict[str, Any]
Control = Callable[["Attack", "Bench"], None]
"""Shows an attack at work: fails where it does not work even without what protects against it."""

TRIED, WORKED = "TRIED", "WORKED"
FAULT = Verdict.STUDENT_FAULT

KNOWN = '''\
"""What an attacker may find out of the grading machine, and how an attack says how it went."""

print_as_it_was = print


def tried(*what):
    print_as_it_was("TRI" + "ED", *what, flush=True)


def worked(*what):
    print_as_it_was("WOR" + "KED", *what, flush=True)


'''


@dataclass(frozen=True)
class Attack:
    """One hostile submission of the assignment `shapes`: the reference solution, with something else in places.

    Attributes:
        name: Also the student's identifier.
        what: A sentence: what it is after, and how.
        control: How it is shown to work where nothing stops it.
        cell: A cell before all others.
        answers: Tasks' cells in place of the reference's.
        last: A cell behind all others.
        files: Files beside the notebook.
        change: Changes the notebook itself.
        place: Puts the submission into its folder; by default the notebook and the files are written there.
        marks: Points that it must get for `area` (of 2) and `volume` (of 3); those of what is honest in it.
        verdict: How grading it must end.
        reason: What the reason must hold.
        hidden: A text that must not be in anything that the student reads.
        stock: Whether stock nbgrader may be tried with it; not where that would harm the machine.
        long: Whether it takes too long for `make test`.
    """

    name: str
    what: str
    control: Control
    cell: str = ""
    answers: Mapping[str, str] = field(default_factory=dict)
    last: str = ""
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    change: Callable[[Notebook], object] | None = None
    place: Callable[[Path, Notebook], None] | None = None
    marks: tuple[float, float] = (2.0, 3.0)
    verdict: Verdict = Verdict.GRADED
    reason: str = ""
    hidden: str = ""
    stock: bool = True
    long: bool = False

    @property
    def tries(self) -> bool:
        """Whether its code says that it has tried."""
        return any("tried(" in str(text) for text in (self.cell, *self.answers.values(), self.last))

    def notebook(self, script: Script) -> Notebook:
        """The notebook that is handed in."""
        notebook: Notebook = json.loads(json.dumps(solved_notebook(script, self.answers)))
        first = "from known import *\n" + self.cell
        notebook["cells"] = [
            code_cell(first, "first"), *notebook["cells"], *([code_cell(self.last, "last")] if self.last else ())
        ]  # fmt: skip
        if self.change:
            self.change(notebook)
        return notebook

    def hand_in(self, folder: Path, script: Script, known: Mapping[str, object]) -> None:
        """Write the submission into its folder.

        Args:
            folder: The folder, which is made.
            script: The reference solution.
            known: What the attack may know of the machine, as names in `known.py`.
        """
        folder.mkdir(parents=True)
        notebook = self.notebook(script)
        (folder / "known.py").write_text(known_file(known))
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        if self.place:
            self.place(folder, notebook)
        else:
            write_notebook(folder, notebook)


def write_notebook(folder: Path, notebook: Notebook) -> None:
    """Write the notebook where it belongs."""
    (folder / "shapes.ipynb").write_text(json.dumps(notebook))


def known_file(known: Mapping[str, object]) -> str:
    """The file `known.py` of an attack."""
    return KNOWN + "".join(f"{name} = {value!r}\n" for name, value in known.items())


def code_cell(source: str, cell_id: str) -> Notebook:
    """A code cell as a student would add one."""
    return {
        "cell_type": "code", "id": cell_id, "metadata": {}, "source": source, "outputs": [], "execution_count": None,
    }  # fmt: skip


def markdown_cell(source: str, cell_id: str) -> Notebook:
    """A cell of text as a student would add one."""
    return {"cell_type": "markdown", "id": cell_id, "metadata": {}, "source": source}


def checks_cell(notebook: Notebook, task: str) -> Notebook:
    """The cell of a task's visible checks."""
    found: Notebook = next(
        cell for cell in notebook["cells"] if cell["metadata"].get("nbgrader", {}).get("grade_id") == f"{task}_checks"
    )
    return found
