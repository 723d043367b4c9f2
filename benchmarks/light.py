"""One light assignment for each grader: this package has its checks outside, nbgrader and Otter run them inside."""

import json
import shutil
import subprocess
import zipfile
from pathlib import Path

from autograder.authoring import read_script, solved_notebook
from autograder.course import load_course
from autograder.release import release

NAME = "light"
ROOT = Path(__file__).parents[1]

CONFIG = """\
from autograder.course import Assignment, Course

course = Course(id="light", title="A light course", assignments=[Assignment(name="light", title="Light", points=2)])
"""
SOLUTION = '''\
# %% [markdown]
# # Light

# %%
import torch
from torch import Tensor

from expect import expect_close


# %% task="entropy"
def entropy(p: Tensor) -> Tensor:
    """Entropy in nats over the last axis."""
    ### BEGIN SOLUTION
    return -torch.xlogy(p, p).sum(-1)
    ### END SOLUTION


# %% checks="entropy" points=1
expect_close(entropy(torch.tensor([0.5, 0.5])), 0.6931, "A fair coin has an entropy of ln 2.")


# %% task="kl"
def kl(p: Tensor, q: Tensor) -> Tensor:
    """Kullback-Leibler divergence in nats over the last axis."""
    ### BEGIN SOLUTION
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1)
    ### END SOLUTION


# %% checks="kl" points=1
expect_close(kl(torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.5])), 0.0, "Nothing diverges from itself.")
'''
CHECKS = '''\
import math

import torch

from autograder.checks import assert_close, task


@task("entropy")
class TestEntropy:
    def test_certainty(self, student):
        """What is certain has no entropy."""
        assert_close(student.entropy(torch.tensor([1.0, 0.0])), torch.tensor(0.0))

    def test_uniform(self, student):
        """Eight equal outcomes have ln 8."""
        assert_close(student.entropy(torch.full((8,), 0.125)), torch.tensor(math.log(8)))

    def test_batch(self, student):
        """The last axis is summed."""
        assert_close(student.entropy(torch.full((3, 2), 0.5)), torch.full((3,), math.log(2)))


@task("kl")
class TestKl:
    def test_value(self, student):
        """A fair coin diverges from a biased one."""
        p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
        assert_close(student.kl(p, q), torch.tensor(0.5 * math.log(4 / 3)))

    def test_order(self, student):
        """The order counts."""
        p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
        assert_close(student.kl(q, p), torch.tensor(0.25 * math.log(0.5) + 0.75 * math.log(1.5)))

    def test_zero(self, student):
        """An outcome that never happens adds nothing."""
        assert_close(student.kl(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])), torch.tensor(math.log(2)))
'''
HIDDEN_TESTS = {
    "entropy": """\
import math
assert torch.allclose(entropy(torch.tensor([1.0, 0.0])), torch.tensor(0.0))
assert torch.allclose(entropy(torch.full((8,), 0.125)), torch.tensor(math.log(8)))
assert torch.allclose(entropy(torch.full((3, 2), 0.5)), torch.full((3,), math.log(2)))
""",
    "kl": """\
import math
p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75])
assert torch.allclose(kl(p, q), torch.tensor(0.5 * math.log(4 / 3)))
assert torch.allclose(kl(q, p), torch.tensor(0.25 * math.log(0.5) + 0.75 * math.log(1.5)))
assert torch.allclose(kl(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])), torch.tensor(math.log(2)))
""",
}
"""The checks as nbgrader and Otter have them: code that runs in the student's process."""


def write_our_course(root: Path) -> None:
    """Write and release the course of this package."""
    for path, text in (
        ("course_config.py", CONFIG), (f"solutions/{NAME}.py", SOLUTION), (f"tests/checks/test_{NAME}.py", CHECKS)
    ):  # fmt: skip
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    shutil.copy(ROOT / "solutions" / "expect.py", root / "solutions")
    for name in ("nbgrader_config.py", "constraints.txt"):
        shutil.copy(ROOT / name, root)
    release(root, load_course(root))


def write_stock_course(root: Path, ours: Path) -> None:
    """Write and release the same assignment for nbgrader as it comes, from the course above."""
    folder = root / "source" / NAME
    folder.mkdir(parents=True)
    shutil.copy(ours / "source" / NAME / "expect.py", folder)
    notebook = json.loads((ours / "source" / NAME / f"{NAME}.ipynb").read_text())
    for cell in notebook["cells"]:
        task = cell["metadata"].get("nbgrader", {}).get("grade_id", "").removesuffix("_checks")
        if cell["metadata"].get("nbgrader", {}).get("grade"):
            hidden = f"### BEGIN HIDDEN TESTS\n{HIDDEN_TESTS[task]}### END HIDDEN TESTS"
            cell["source"] = f"{''.join(cell['source'])}\n{hidden}"
    (folder / f"{NAME}.ipynb").write_text(json.dumps(notebook))
    (root / "nbgrader_config.py").write_text("c = get_config()\nc.CourseDirectory.course_id = 'light'\n")
    command = ["nbgrader", "generate_assignment", NAME]
    subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def write_otter_autograder(path: Path, ours: Path) -> None:
    """Write what `otter run` grades with: the same checks in its own form, and the helper."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("otter_config.json", json.dumps({"print_summary": False}))
        archive.write(ours / "release" / NAME / "expect.py", "files/expect.py")
        for task, code in HIDDEN_TESTS.items():
            lines = "".join(f">>> {line}\n" for line in f"import torch\n{code}".splitlines())
            case = {"code": lines, "hidden": True, "locked": False}
            suite = {"cases": [case], "scored": True, "setup": "", "teardown": "", "type": "doctest"}
            test = {"name": task, "points": 1, "suites": [suite]}
            archive.writestr(f"tests/{task}.py", f"OK_FORMAT = True\n\ntest = {test!r}\n")


def hand_in(root: Path, ours: Path, count: int) -> None:
    """Hand the reference solution in this many times, with the helper as nbgrader collects it, and nothing else."""
    shutil.rmtree(root / "submitted", ignore_errors=True)
    notebook = json.dumps(solved_notebook(read_script(ours / "solutions" / f"{NAME}.py")))
    for number in range(count):
        folder = root / "submitted" / f"student{number:04}" / NAME
        folder.mkdir(parents=True)
        (folder / f"{NAME}.ipynb").write_text(notebook)
        shutil.copy(ours / "release" / NAME / "expect.py", folder)


def keep_empty_gradebook(root: Path) -> None:
    """Keep a copy of a released course's gradebook, for `start_over`."""
    shutil.copy(root / "gradebook.db", root / "empty.db")


def start_over(root: Path) -> None:
    """Leave nothing of earlier grading in a course."""
    for left in ("results", "autograded", "feedback", "backups"):
        shutil.rmtree(root / left, ignore_errors=True)
    shutil.copy(root / "empty.db", root / "gradebook.db")
