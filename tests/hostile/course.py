"""The course that attacks are handed in to: the tiny one with small limits, and numbers that stand in checks alone."""

import json
from pathlib import Path

from conftest import TinyCourse, write_tiny_course

from autograder.authoring import read_script, solved_notebook
from autograder.course import load_course
from autograder.release import release

# To take the 2.25 GiB at which it is ended, a cell of a virtual machine that must get them from its host needs 2 s.
LIMITS = (
    "Limits(cell_seconds=4, check_seconds=2, submission_seconds=60, memory_bytes=2 * 2**30, processes=32,"
    " files_bytes=4 * 2**20, output_bytes=2**16, wall_factor=5)"
)
POINTS = {"area": 2.0, "volume": 3.0}
HONEST = ("a_honest", "h_honest", "p_honest", "z_honest")
EXPECTED = ("5.46875", "tensor([2.89", "tensor([5.468")
"""What hidden checks compare with. No submission and nothing that a student reads may hold it."""
HIDDEN_TESTS = {
    "area": """\
assert torch.allclose(area(torch.tensor([1.7])), torch.tensor([2.89]))
side = torch.tensor([1.5], requires_grad=True)
assert torch.allclose(torch.autograd.grad(area(side).sum(), side)[0], torch.tensor([3.0]))
""",
    "volume": """\
result = volume(torch.tensor([1.25]), torch.tensor([3.5]))
assert result == 5.46875
checked = True
""",
}
"""The same hidden checks as most graders have them: code that runs in the student's own process."""


def write_hostile_course(root: Path) -> TinyCourse:
    """Write and release the course. Nothing is handed in."""
    course = write_tiny_course(root)
    course.edit(course.config, "import Assignment, Course", "import Assignment, Course, Limits")
    course.edit(course.config, "    assignments=", f"    limits={LIMITS},\n    assignments=")
    course.edit(course.checks, "A side of 1.7 makes an area of 2.89.", "The area is the square of the side.")
    course.edit(course.checks, "A box of side 2 and height 3.5 holds 14.", "The volume is the area times the height.")
    course.edit(course.checks, "torch.tensor([2.0]), torch.tensor([3.5])", "torch.tensor([1.25]), torch.tensor([3.5])")
    course.edit(course.checks, "torch.tensor([14.0])", "torch.tensor([5.46875])")
    release(root, load_course(root))
    return course


def hand_in_honestly(course: TinyCourse, student: str) -> None:
    """Hand in the reference solution."""
    folder = course.root / "submitted" / student / "shapes"
    folder.mkdir(parents=True)
    (folder / "shapes.ipynb").write_text(json.dumps(solved_notebook(read_script(course.script))))
