"""A warm, trusted process per assignment: the sandbox started, the hidden checks collected, the reference graded once.

    grader --spawn--> worker --fork--> judges (see `autograder.judges`)
                        └--spawn--> sandbox (see `autograder.sandbox.room`)

pytest collects the checks once; forks replay them for one submission after another. The grader itself imports neither
torch nor pytest.
"""

import contextlib
import functools
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autograder.cores import one_core
from autograder.course import Course, load_course
from autograder.fingerprint import assignment_digests, deciders, deciders_of_all, versions
from autograder.gpu import demand_gpu, gpu_slot, memory_in_use, turn_on
from autograder.judges import Graded, Judges, Turn, read_to_end
from autograder.results import SubmissionResult, TaskResult, Verdict
from autograder.submission import Release, Submission, canonical_cells, imported_modules

if TYPE_CHECKING:
    from autograder.sandbox.room import Sandbox

START_SECONDS = 180.0
CHECKS_ENVIRONMENT = {
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}  # fmt: skip
"""What a process that replays checks must find in its environment (see `autograder.replay`)."""
REFERENCE = "reference"


class WorkerFailed(RuntimeError):
    """The worker could not be made ready: nothing can be graded, and why."""


def device_of(course: Course) -> str:
    """The device that submissions run on: the CPU, unless the course asks for a GPU by name.

    "auto" is the CPU even where there is a GPU: forks of a warm process grade a small assignment sooner than a GPU
    that one submission has at a time, and results do not become stale on a machine with another device.
    """
    return "cuda" if course.device == "cuda" else "cpu"


def resolve_device(course: Course) -> str:
    """The same, on the machine that is to grade.

    Raises:
        CourseError: The course asks for a GPU and there is none that can be used.
    """
    device = device_of(course)
    if device == "cuda":
        demand_gpu()
    return device


class Worker:
    """The grader's end: start it, ask for submissions to be graded, close it."""

    def __init__(self, root: Path, assignment: str, *, device: str | None = None, nested: bool = True) -> None:
        """Begin to start the worker; the first `grade` waits for it.

        Args:
            root: The course folder.
            assignment: Name of the assignment.
            device: In place of the course's.
            nested: False makes the sandbox as it is where nested namespaces are denied (for tests).
        """
        self.root, self.assignment = root, assignment
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        settings = {"root": str(root), "assignment": assignment, "device": device, "nested": nested}
        environment = {**os.environ, **CHECKS_ENVIRONMENT}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "autograder.worker", str(theirs.fileno()), json.dumps(settings)],
                pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                env=environment, start_new_session=True,
            )  # fmt: skip
        self.ready = False
        self.starting = threading.Lock()

    def wait(self) -> None:
        """Wait until submissions can be graded.

        Raises:
            WorkerFailed: They cannot be, and why.
        """
        with self.starting:
            if not self.ready:
                self._wait()

    def _wait(self) -> None:
        message = self._message(START_SECONDS)
        if "waiting" in message:  # for a GPU that somebody else has, for however long
            message = self._message(None)
        if "ready" not in message:
            self.log.seek(0)
            said = self.log.read()[-4000:].decode(errors="replace")
            raise WorkerFailed(message.get("error") or f"the grading process ended while starting:\n{said}")
        self.ready = True

    def _message(self, seconds: float | None) -> dict[str, Any]:
        if not select.select([self.control], [], [], seconds)[0]:
            raise WorkerFailed(f"the grading process was not ready within {seconds:.0f} s")
        try:
            packet = self.control.recv(2**18)
        except ConnectionError:
            packet = b""
        message: dict[str, Any] = json.loads(packet) if packet else {}
        return message

    def grade(self, submission: Submission) -> SubmissionResult:
        """Grade one submission. May be called from several threads at once.

        Raises:
            WorkerFailed: Nothing can be graded, and why.
        """
        self.wait()
        student = submission.student
        mine, theirs = socket.socketpair()
        with mine:
            try:
                with theirs:
                    socket.send_fds(self.control, [json.dumps({"student": student}).encode()], [theirs.fileno()])
                mine.sendall(submission.to_json())
                mine.shutdown(socket.SHUT_WR)
                data = read_to_end(mine)
            except OSError as error:
                return self._fault(student, f"the grading process is gone: {error}")
        try:
            return SubmissionResult.model_validate_json(data)
        except ValueError:
            return self._fault(student, "the process that graded this submission ended without a result")

    def _fault(self, student: str, reason: str) -> SubmissionResult:
        return SubmissionResult(
            assignment=self.assignment, student=student, verdict=Verdict.GRADER_FAULT, reason=reason
        )

    def close(self) -> None:
        """End the worker and its sandbox."""
        self.control.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.log.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# the worker's own side


def main() -> None:
    """Start the sandbox, collect the checks, grade the reference, then serve until the grader is gone."""
    gc.disable()  # as in the template: see there
    control = socket.socket(fileno=int(sys.argv[1]))
    settings = json.loads(sys.argv[2])
    try:
        course = load_course(Path(settings["root"]))
        course = course.model_copy(update={"device": settings["device"] or course.device})
        _serve(control, course, Path(settings["root"]), settings["assignment"], nested=settings["nested"])
    except Exception as error:
        traceback.print_exc()
        with contextlib.suppress(OSError):
            control.send(json.dumps({"error": f"{type(error).__name__}: {error}"[:100_000]}).encode())
    sys.stderr.flush()
    os._exit(0)  # tearing down what was imported takes seconds


def _serve(control: socket.socket, course: Course, root: Path, assignment: str, *, nested: bool) -> None:
    from autograder.sandbox.room import Sandbox

    device = device_of(course)
    gpu = demand_gpu() if device == "cuda" else None
    preload = course.assignment(assignment).preload
    release = Release.read(root, assignment)
    imports = imported_modules(release.notebook)
    with Sandbox(
        course.sandbox, course.limits, root, nested=nested, preload=preload, imports=imports, gpu=gpu
    ) as sandbox:
        # The sandbox warms up in its own process while this one imports torch and collects the checks.
        from autograder.replay import with_checks

        with_checks(
            root, assignment, lambda items: _answer(control, sandbox, course, root, assignment, release, items, device),
            seed=course.seed, device=device,
        )  # fmt: skip


def _answer(
    control: socket.socket, sandbox: "Sandbox", course: Course, root: Path, assignment: str, release: Release,
    items: list[Any], device: str,
) -> None:  # fmt: skip
    """Grade the reference, then whatever the grader asks for, with the collected items."""
    import torch

    from autograder.authoring import build_notebook, read_script, with_answers
    from autograder.autograde import Branching, GraderFailed, Pace, autograde, collected_checks, most_runs, points_of
    from autograder.escapes import demand_walls

    str(torch.ones(1))  # what torch imports to show a tensor would else be imported in each child
    gc.freeze()  # no child needs to look at, and so to copy, what was imported
    gc.enable()
    torch.set_num_threads(1)
    branching: Branching = "fork" if device == "cpu" else "rerun"
    points = points_of(course.assignment(assignment), release.notebook)
    checks = collected_checks(items, points)
    for check in checks:
        _ = check.item.location, check.title  # which are worked out once, and else would be in each child
    of_all = deciders_of_all(course, assignment_digests(root, assignment), device)
    turn: Turn = contextlib.nullcontext
    if sandbox.gpu:
        control.send(json.dumps({"waiting": True}).encode())
    with gpu_slot(sandbox.gpu) if sandbox.gpu else contextlib.nullcontext():
        if sandbox.gpu:
            turn = functools.partial(turn_on, sandbox.gpu, memory_in_use(sandbox.gpu))
        sandbox.wait()
        if sandbox.kind != "none":
            demand_walls(sandbox, root)

    def grade(submission: Submission, pace: Pace) -> Graded:
        failed: list[str] = []
        with one_core() if device == "cpu" else contextlib.nullcontext():  # a GPU's driver has threads of its own
            result = autograde(
                submission, checks, sandbox, course.limits, points, device=device, branching=branching,
                seed=course.seed, decided_by=deciders(submission, of_all), pace=pace, on_failure=failed.append,
            )  # fmt: skip
        return Graded(result, right=_is_right(result) and not failed)

    def grade_reference() -> Graded:
        script = read_script(root / "solutions" / f"{assignment}.py")
        solved = json.loads(json.dumps(with_answers(build_notebook(script), script)))
        cells = canonical_cells(solved, release.notebook)
        return grade(Submission(assignment, REFERENCE, cells, release.files), Pace())

    limits = course.limits
    seconds = 120 + 2 * int(limits.submission_seconds * limits.wall_factor)
    judges = Judges(assignment, seconds * most_runs(len(points), branching), turn)
    reference = judges.once(REFERENCE, grade_reference)
    if not _is_right(reference):
        raise GraderFailed(_why_not_full(reference))
    pace = Pace.of(reference)
    control.send(json.dumps({"ready": True}).encode())
    judges.serve(control, lambda submission: grade(submission, pace))


def refused(assignment: str, student: str, points: dict[str, float], reason: str) -> SubmissionResult:
    """The result of a submission that cannot be run at all: nothing was earned, and why."""
    tasks = tuple(TaskResult(name=name, points=worth, checks=()) for name, worth in points.items())
    return SubmissionResult(
        assignment=assignment, student=student, verdict=Verdict.STUDENT_FAULT, reason=reason, tasks=tasks,
        versions=versions(),
    )  # fmt: skip


def _is_right(result: SubmissionResult) -> bool:
    return result.verdict == Verdict.GRADED and result.score == result.max_score


def _why_not_full(result: SubmissionResult) -> str:
    lines = [
        f"{task.name}: {check.title} ({check.cause})\n{check.detail}"
        for task in result.tasks
        for check in task.checks
        if not check.passed
    ]
    return "\n".join([
        f"The reference solution earns {result.score:g} of {result.max_score:g} on this machine, so nothing is graded.",
        result.reason,
        *lines,
    ])  # fmt: skip


if __name__ == "__main__":
    main()
