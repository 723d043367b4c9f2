"""Grading on a real GPU: marks as on the CPU, memory that is bounded, nothing that one submission leaves the next."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from both_ways import Answers, variants_and_reference, verdicts
from conftest import TinyCourse

from autograder.authoring import read_script, solved_notebook
from autograder.autograde import GPU_BROKEN
from autograder.course import DEVICE_VARIABLE, load_course
from autograder.gpu import SPARE_BYTES, GpuUnavailable, demand_gpu, memory_in_use
from autograder.results import SubmissionResult, Verdict
from autograder.worker import Worker

REPOSITORY = Path(__file__).parents[2]
DEVICE = "cuda"
IGNORED = shutil.ignore_patterns("submitted", "results", ".*", "__pycache__")


def why_not() -> str:
    """Why submissions cannot run on a GPU here, or ""."""
    try:
        demand_gpu()
    except GpuUnavailable as error:
        return str(error)
    return ""


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(why_not()), reason=why_not())]


def graded(root: Path, assignment: str, answers: Answers, device: str, jobs: int = 1) -> dict[str, SubmissionResult]:
    """The results of submissions with these answers in their tasks' place."""
    script = read_script(root / "solutions" / f"{assignment}.py")
    for name, overrides in answers.items():
        folder = root / "submitted" / name / assignment
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{assignment}.ipynb").write_text(json.dumps(solved_notebook(script, overrides)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DEVICE_VARIABLE, device)
        worker = Worker(root, assignment)
    with worker, ThreadPoolExecutor(jobs) as pool:
        return dict(zip(answers, pool.map(worker.grade, answers), strict=True))


@pytest.mark.parametrize("assignment", [one.name for one in load_course(REPOSITORY).assignments])
def test_marks_are_those_on_the_cpu(assignment: str, tmp_path: Path) -> None:
    root = tmp_path / "course"
    root.mkdir()
    for name in ("course_config.py", "nbgrader_config.py"):
        shutil.copy(REPOSITORY / name, root)
    for name in ("solutions", "release", "tests/checks"):
        shutil.copytree(REPOSITORY / name, root / name, ignore=IGNORED)
    answers = variants_and_reference(REPOSITORY, assignment)
    on_cpu, on_gpu = (graded(root, assignment, answers, device, jobs=4) for device in ("cpu", DEVICE))
    assert {result.device for result in on_gpu.values()} == {DEVICE}
    assert {name: result.reason for name, result in on_gpu.items() if result.verdict != Verdict.GRADED} == {}
    assert {name: verdicts(result) for name, result in on_gpu.items()} == {
        name: verdicts(result) for name, result in on_cpu.items()
    }
    assert on_gpu["reference"].score == on_gpu["reference"].max_score


def answer(lines: str, task: str = "area") -> dict[str, str]:
    """A right answer to a task that does this first when a hidden check asks for a gradient."""
    body = "".join(f"        {line}\n" for line in lines.strip().splitlines())
    return {task: f"def area(side):\n    if side.requires_grad:\n{body}    return side.square()"}


@pytest.fixture
def on_gpu(released: TinyCourse) -> Callable[[Answers], dict[str, SubmissionResult]]:
    """Grades submissions of the tiny course one after another; its checks make their inputs on the GPU."""
    text = released.checks.read_text()
    text = text.replace("(self, student)", "(self, student, device)")
    for number in ("1.7", "1.5", "2.0", "3.5"):
        text = text.replace(f"torch.tensor([{number}])", f"torch.tensor([{number}]).to(device)")
    released.checks.write_text(text)
    released.edit(released.config, "import Assignment, Course", "import Assignment, Course, Limits")
    limits = "limits=Limits(gpu_memory_bytes=2**30),"
    released.edit(released.config, '00:00")],\n)\n', f'00:00")],\n    {limits}\n)\n')
    return lambda answers: graded(released.root, "shapes", answers, DEVICE)


def test_what_one_submission_takes_of_the_gpus_memory_the_next_one_has(
    on_gpu: Callable[[Answers], dict[str, SubmissionResult]],
) -> None:
    before = memory_in_use(demand_gpu())
    hog = answer("""
torch.cuda.set_per_process_memory_fraction(1.0)
global blocks
blocks = []
size = 2**30
while size > 2**20:
    try:
        blocks.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
    except torch.OutOfMemoryError:
        size //= 2
""")
    found = on_gpu({"before": {}, "hog": hog, "after": {}})
    assert [(result.verdict, result.score) for result in found.values()] == [(Verdict.GRADED, 5.0)] * 3
    assert memory_in_use(demand_gpu()) <= before + SPARE_BYTES


def test_torch_gets_no_more_of_the_memory_than_a_submission_may_have(
    on_gpu: Callable[[Answers], dict[str, SubmissionResult]],
) -> None:
    found = on_gpu(
        {
            name: answer(f"torch.empty({size}, dtype=torch.uint8, device='cuda')")
            for name, size in (("less", 2**29), ("more", 2**31))
        }
    )
    assert [check.passed for check in found["less"].tasks[0].checks] == [True, True]
    assert [check.passed for check in found["more"].tasks[0].checks] == [True, False]
    assert found["more"].tasks[0].checks[1].cause.startswith("RuntimeError was raised in your code, at line ")


def test_an_error_that_breaks_the_gpu_for_its_process_costs_one_check(
    on_gpu: Callable[[Answers], dict[str, SubmissionResult]],
) -> None:
    found = on_gpu({"broken": answer("side[torch.tensor([5], device='cuda')].sum()"), "after": {}})
    assert [check.cause for task in found["broken"].tasks for check in task.checks] == ["", GPU_BROKEN, ""]
    assert (found["broken"].verdict, found["after"].score) == (Verdict.GRADED, 5.0)


def test_a_submission_sees_the_device_files_of_its_gpu_and_no_others(
    on_gpu: Callable[[Answers], dict[str, SubmissionResult]],
) -> None:
    shown = sorted(str(path) for path in demand_gpu().devices)
    look = f"import glob\nassert sorted(glob.glob('/dev/nvidia*')) == {shown!r}, glob.glob('/dev/nvidia*')"
    also = "assert torch.cuda.device_count() == 1 and torch.cuda.is_available()"
    found = on_gpu({"looking": {"area": f"{look}\n{also}"}})
    assert [cell.error for cell in found["looking"].cells if cell.error] == []
    assert found["looking"].score == 5.0
