"""Where attacks meet nothing that stops them: an attack that fails here too proves nothing by failing elsewhere."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attack import WORKED, Attack
from conftest import TinyCourse
from rooms import ask, run_cell

from autograder.authoring import Script, read_script
from autograder.sandbox.room import RoomEnded, Sandbox
from autograder.submission import cell_text

RECORDED = Path(__file__).with_name("stock_nbgrader.json")

HIDDEN_TESTS = {
    "area": """\
assert torch.allclose(area(torch.tensor([1.7])), torch.tensor([2.89]))
side = torch.tensor([1.5], requires_grad=True)
assert torch.allclose(torch.autograd.grad(area(side).sum(), side)[0], torch.tensor([3.0]))
""",
    "volume": """\
assert torch.allclose(volume(torch.tensor([2.0]), torch.tensor([3.5])), torch.tensor([14.0]))
""",
}
"""The hidden checks of `shapes` as most graders have them: code that runs in the student's own process."""


@dataclass(frozen=True)
class Ran:
    """What came of a notebook that ran beside its hidden tests."""

    text: str
    """All that it printed, errors too."""
    passed: tuple[str, ...]
    """Tasks whose hidden tests raised nothing."""


class Bench:
    """A machine on which nothing stops an attack."""

    def __init__(self, course: TinyCourse, known: Mapping[str, object], sandbox: Sandbox) -> None:
        """Take a released course, what attacks know of the machine, and a sandbox without walls."""
        self.course, self.known, self.sandbox = course, known, sandbox
        self.ran: dict[str, Ran] = {}

    @property
    def script(self) -> Script:
        """The reference solution."""
        return read_script(self.course.script)

    def run(self, attack: Attack) -> Ran:
        """Run a submission without walls, where nbgrader would, its hidden tests as cells of its own process."""
        if attack.name not in self.ran:
            self.ran[attack.name] = self._run(attack)
        return self.ran[attack.name]

    def _run(self, attack: Attack) -> Ran:
        folder = self.course.root / "autograded" / attack.name / "shapes"
        attack.hand_in(folder, self.script, self.known)
        for path in self.course.script.parent.glob("*.py"):
            (folder / path.name).write_bytes(path.read_bytes()) if path != self.course.script else None
        room = self.sandbox.open()
        notebook = json.loads((folder / "shapes.ipynb").read_text())
        texts, passed = [], []
        try:
            run_cell(room, f"import os, sys\nos.chdir({str(folder)!r})\nsys.path.append(os.getcwd())")
            ask(room, op="begin", seed=0)
            for cell in notebook["cells"]:
                if cell["cell_type"] == "code":
                    texts.append(json.dumps(run_cell(room, cell_text(cell))[0]))
            for task, source in HIDDEN_TESTS.items():
                outputs, error = run_cell(room, source)
                texts.append(json.dumps(outputs))
                passed += [task] if error is None else []
        except RoomEnded as ending:
            texts.append(str(ending))
        finally:
            room.close()
        return Ran("\n".join(texts), tuple(passed))


def recorded(attack: Attack) -> dict[str, Any]:
    """What stock nbgrader made of an attack when it was last asked (see `stock_nbgrader.py`)."""
    found: dict[str, Any] = json.loads(RECORDED.read_text())["attacks"][attack.name]
    return found


def works_without_walls(attack: Attack, bench: Bench) -> None:
    """In a process without a sandbox it gets what it is after."""
    ran = bench.run(attack)
    assert WORKED in ran.text, ran.text


def passes_tests_in_its_own_process(attack: Attack, bench: Bench) -> None:
    """Hidden tests that run in the student's process, as nbgrader's do, pass for every task that it should lose."""
    ran = bench.run(attack)
    cheated = {task for task, mark, points in zip(HIDDEN_TESTS, attack.marks, (2, 3), strict=True) if mark < points}
    assert cheated and cheated <= set(ran.passed), ran.text
