"""One submission -> one `SubmissionResult`: its cells run in a room, then every task's checks question forks of it.

Nothing here touches the gradebook, so it may run anywhere, in any order and again.
"""

import ast
import contextlib
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

import pytest

from autograder.checks import Student, StudentError
from autograder.course import Assignment, Limits
from autograder.fingerprint import fingerprint, versions
from autograder.judging import JudgingTooLong, limited_judging
from autograder.outputs import clean_outputs, plain_text
from autograder.plugin import CONNECT, ON_CPU, Check, Outcome, as_check, run_check, safe_cause
from autograder.remote import wire
from autograder.results import CellResult, CheckResult, SubmissionResult, TaskResult, Verdict
from autograder.sandbox.room import LimitExceeded, Room, RoomEnded, Sandbox, SandboxFailed
from autograder.submission import Cell, Submission, task_points

MAX_NOTEBOOK_RUNS = 20
MAX_LOST_BRANCHES = 3
MAX_PRINTED = 4000
MAX_OUTPUT_BYTES = 16 * 2**20
"""Output kept of a whole submission."""
MAX_DETAIL = 20_000
MEMORY_FULL = 0.9
"""Share of the memory limit from which on a check that failed has failed for want of memory."""
TOO_LARGE = "what your code returned is too large to be judged"
Branching = Literal["fork", "rerun"]
"""How a task gets a process as it was after the last cell: by a fork of the notebook's, or by running the notebook
again in a new room. A process that has used a GPU cannot be forked."""
GPU_BROKEN = "an error on the GPU left your code unable to go on"
LOOK_SECONDS = 0.5
"""How old what is known of a submission's computing time may be between cells and between checks: asking takes as long
as a small one."""
REFERENCE_FACTOR = 20.0
"""A limit is at least this many times what the reference took on this machine."""


class GraderFailed(RuntimeError):
    """Something of ours failed while grading: there is no mark."""


@dataclass(frozen=True)
class Pace:
    """CPU seconds that the reference took on this machine, by cell and by check."""

    cells: dict[str, float] = field(default_factory=dict)
    checks: dict[str, float] = field(default_factory=dict)

    total: float = 0.0

    @staticmethod
    def of(result: SubmissionResult) -> "Pace":
        """The pace that a graded reference set."""
        return Pace(
            {cell.cell_id: cell.cpu_seconds for cell in result.cells},
            {check.name: check.cpu_seconds for task in result.tasks for check in task.checks},
            result.cpu_seconds,
        )


def autograde(
    submission: Submission,
    checks: Iterable[Check],
    sandbox: Sandbox,
    limits: Limits,
    points: dict[str, float],
    *,
    device: str = "cpu",
    branching: Branching = "fork",
    seed: int = 0,
    decided_by: dict[str, str] | None = None,
    pace: Pace | None = None,
    on_failure: Callable[[str], None] = lambda _: None,
) -> SubmissionResult:
    """Grade one submission.

    Args:
        submission: What was handed in, in canonical form.
        checks: The assignment's hidden checks, collected.
        sandbox: Where its code runs.
        limits: What it may use.
        points: Points of every task, in the order of the assignment.
        device: Where the submission runs.
        branching: How a task gets a process of its own.
        seed: Seed of cells and checks.
        decided_by: What decides the result, part by part (see `autograder.fingerprint`).
        pace: What the reference took, if it was run.
        on_failure: Called with the name of each check that does not pass, also where it is asked again.

    Raises:
        GraderFailed, SandboxFailed: Something of ours did not work: no mark.
    """
    started = time.monotonic()
    run = _Run(submission, sandbox, limits, seed, pace or Pace(), branching, on_failure)
    try:
        run.start()
        by_task = {name: list(group) for name, group in groupby(checks, key=lambda check: check.task.name)}
        tasks = tuple(
            TaskResult(name=name, points=worth, checks=run.task(by_task.get(name, [])))
            for name, worth in points.items()
        )
    finally:
        run.close()
    expected, ran = sum(map(len, by_task.values())), sum(len(task.checks) for task in tasks)
    if expected != ran or not ran:
        raise GraderFailed(f"{ran} of {expected} checks ran")
    return SubmissionResult(
        assignment=submission.assignment,
        student=submission.student,
        verdict=Verdict.STUDENT_FAULT if run.reasons else Verdict.GRADED,
        reason="; ".join(run.reasons),
        tasks=tasks,
        cells=tuple(run.cells),
        fingerprint=fingerprint(decided_by) if decided_by else "",
        decided_by=decided_by or {},
        sandbox=sandbox.isolation if sandbox.kind != "none" else "none",
        device=device,
        seed=seed,
        versions=versions(),
        cpu_seconds=round(run.spent, 3),
        wall_seconds=round(time.monotonic() - started, 3),
    )


class _Run:
    """The state of grading one submission: its room, which is made again when student code has lost it."""

    def __init__(
        self, submission: Submission, sandbox: Sandbox, limits: Limits, seed: int, pace: Pace, branching: Branching,
        on_failure: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.submission, self.sandbox, self.limits, self.seed, self.pace = submission, sandbox, limits, seed, pace
        self.branching, self.on_failure = branching, on_failure
        self.one_run: tuple[float, float] | None = None
        """CPU and wall seconds that the notebook took when it first went through, where it may be run again."""
        self.allowance = 0.0
        self.room: Room | None = None
        self.branch: Room | None = None
        """What answers the checks: a fork of the room's process or, where it cannot be forked, the room itself."""
        self.cells: list[CellResult] = []
        self.output_bytes = 0
        self.guilty: dict[str, CellResult] = {}
        self.given_a_second_chance: set[str] = set()
        self.runs = 0
        self.spent = 0.0
        self.looked = 0.0
        """When its computing time was last asked for."""
        self.deadline = time.monotonic() + limits.submission_seconds * limits.wall_factor
        self.reasons: list[str] = list(submission.left_out)
        self.student_lines = {cell.cell_id: cell.source.splitlines() for cell in submission.cells}

    # the notebook

    def start(self) -> None:
        """Run the notebook; a cell that ends or hangs the process is left out of the next try, its failure recorded."""
        while self.room is None and self.runs < MAX_NOTEBOOK_RUNS:
            self.runs += 1
            self._try_notebook()

    def _try_notebook(self) -> None:
        self.cells, self.output_bytes = [], 0
        began = time.monotonic()
        self.room = room = self.sandbox.open()
        running: Cell | None = None
        try:
            for name, content in self.submission.files.items():
                self._ask(room, self.limits.cell_seconds, op="file", name=name, content=content)
            self._ask(room, self.limits.cell_seconds, op="begin", seed=self.seed)
            for cell in self.submission.cells:
                running = cell
                self.cells.append(self._run_cell(room, cell))
            if self.branching == "rerun" and self.one_run is None:
                self.one_run = room.usage().cpu_seconds, time.monotonic() - began
        except (RoomEnded, wire.WireError) as ending:
            if running is None:
                raise SandboxFailed(f"the sandbox took no files: {ending}") from None
            self._drop_room()
            self._blame(running, ending)

    def _blame(self, cell: Cell, ending: Exception) -> None:
        """Record which cell ended the process. The wall clock alone convicts nobody the first time."""
        if isinstance(ending, LimitExceeded) and ending.wall and cell.cell_id not in self.given_a_second_chance:
            self.given_a_second_chance.add(cell.cell_id)
            return
        text = str(ending) if isinstance(ending, RoomEnded) else "its output could not be read"
        self.guilty[cell.cell_id] = _stopped(cell, text)
        self.reasons.append(f"cell {cell.index + 1}: {text}")

    def _run_cell(self, room: Room, cell: Cell) -> CellResult:
        if cell.kind == "demo":
            self._run_imports(room, cell)
            return CellResult(cell_id=cell.cell_id, skipped=True)
        if cell.cell_id in self.guilty:
            return self.guilty[cell.cell_id]
        if self.exhausted:
            return _stopped(cell, self.exhausted)
        limit = max(self.limits.cell_seconds, REFERENCE_FACTOR * self.pace.cells.get(cell.cell_id, 0.0))
        output_bytes = max(1, min(self.limits.output_bytes, MAX_OUTPUT_BYTES - self.output_bytes))
        before = self._cpu_seen()
        source = cell.source.encode("utf-8", "surrogatepass")  # as bytes, which may be longer than text
        reply = self._ask(room, limit, op="cell", source=source, cell_id=cell.cell_id, output_bytes=output_bytes)
        value = reply.get("value")
        outputs = value.get("outputs") if isinstance(value, dict) else None
        if not isinstance(value, dict) or not isinstance(outputs, bytes):
            raise wire.WireError("not the answer of a cell")
        error = value.get("error")
        kind = error.get("type") if isinstance(error, dict) else ""
        if kind and not self._usable(room):
            raise RoomEnded(GPU_BROKEN)
        cleaned = clean_outputs(outputs, output_bytes)
        self.output_bytes += sum(len(json.dumps(output)) for output in cleaned)
        return CellResult(
            cell_id=cell.cell_id,
            outputs=cleaned,
            error=plain_text(kind)[:100] if kind else "",
            cpu_seconds=round(self._cpu_lately() - before, 3),
        )

    def _run_imports(self, room: Room, cell: Cell) -> None:
        """Run what a skipped demo cell imports: the student's own cells may rely on it, as they can in Jupyter."""
        imports: list[ast.stmt] = []
        if "import" not in cell.source:  # parsing takes longer than what it would find
            return
        with contextlib.suppress(SyntaxError):  # magics: then there is nothing to be sure of
            imports = [node for node in ast.parse(cell.source).body if isinstance(node, ast.Import | ast.ImportFrom)]
        if imports:
            source = ast.unparse(ast.Module(body=imports, type_ignores=[])).encode()
            self._ask(room, self.limits.cell_seconds, op="cell", source=source, cell_id=cell.cell_id, output_bytes=1)

    def _ask(self, room: Room, limit: float, **request: Any) -> dict[str, Any]:
        reply = wire.unpack(room.ask(wire.pack(request), limit))
        return reply if isinstance(reply, dict) else {}

    # the checks

    def task(self, checks: list[Check]) -> tuple[CheckResult, ...]:
        """Run one task's checks.

        The process that answered the task before is asked first. What passes there is right: no answer can be made up
        of what other checks have done. Whatever else it does is no result: then a process as the notebook left it is
        asked, so that no task pays for what another's checks have broken.
        """
        return self._in_passing(checks) or self._afresh(checks)

    def _in_passing(self, checks: list[Check]) -> tuple[CheckResult, ...]:
        """The results where all pass in the branch at hand; else none, at no cost to the submission."""
        if self.branch is None or self.exhausted:
            return ()
        began, spent = time.monotonic(), self._cpu_seen()
        results: list[CheckResult] = []
        for check in checks:
            result, ending = self._check(check, self.branch)
            if ending is not None or not result.passed:
                break
            results.append(result)
        else:
            return tuple(results)
        self.allowance += self._cpu() - spent
        self.deadline += time.monotonic() - began
        return ()

    def _afresh(self, checks: list[Check]) -> tuple[CheckResult, ...]:
        """The results of a branch as the notebook left it, and of another one after each that a check has ended."""
        self._lose_branch()
        results: list[CheckResult] = []
        lost = 0
        loss = ""
        for check in checks:
            if self.exhausted:
                lost, loss = MAX_LOST_BRANCHES, self.exhausted
            if self.branch is None and lost < MAX_LOST_BRANCHES:
                self.branch, loss = self._new_branch()
            if self.branch is None or self.exhausted:
                results.append(_result_of(check, cause=loss))
                continue
            result, ending = self._check(check, self.branch)
            if isinstance(ending, LimitExceeded) and ending.wall:
                self._lose_branch()
                self.branch, loss = self._new_branch()
                if self.branch is not None:
                    result, ending = self._check(check, self.branch)
            if self.branch is not None and ending is None and not result.passed and self.branching == "rerun":
                result, ending = self._check_on_cpu(check, self.branch) or (result, ending)
            results.append(result)
            if ending is not None:
                lost, loss = lost + 1, str(ending)
                self._lose_branch()
        return tuple(results)

    def _new_branch(self) -> tuple[Room | None, str]:
        """A process as the notebook left it, which is run again if something has ended it; or why there is none."""
        for _ in range(2):
            if self.room is None:
                self._allow_another_run()
                self.start()
            if self.room is None:
                return None, "the notebook could not be run: see its first cells with an error"
            try:
                if self.branching == "rerun":
                    self.room.forget_peak()
                    return self.room, ""
                return self.room.fork(), ""
            except (RoomEnded, wire.WireError):
                self._drop_room()
        return None, "the notebook's process ended by itself after its last cell"

    def _allow_another_run(self) -> None:
        """Where another branch takes another run, that costs the submission neither its time nor its tries."""
        if self.one_run is not None:
            cpu_seconds, wall_seconds = self.one_run
            self.allowance += cpu_seconds
            self.deadline += wall_seconds
            self.runs = 0

    def _lose_branch(self) -> None:
        """End the branch, and what it has started, so that the next is as the notebook left it."""
        branch, self.branch = self.branch, None
        if branch is None:
            return
        if branch is self.room:
            self._drop_room()
            return
        branch.close()
        try:
            if self.room is not None:
                self.room.end_branches()
        except RoomEnded:
            self._drop_room()

    def _check_on_cpu(self, check: Check, branch: Room) -> tuple[CheckResult, RoomEnded | None] | None:
        """Run a check that failed on a GPU once more, with its inputs on the CPU; None where it is about devices.

        Code that ignores the device fails all checks on a GPU, and on the CPU those about it: a mark is the same there.
        """
        if check.about_devices:
            return None
        check.item.config.stash[ON_CPU] = True
        try:
            return self._check(check, branch)
        finally:
            check.item.config.stash[ON_CPU] = False

    def _check(self, check: Check, branch: Room) -> tuple[CheckResult, RoomEnded | None]:
        """Run one check; also what ended its branch, if something did."""
        limit = max(self.limits.check_seconds, REFERENCE_FACTOR * self.pace.checks.get(check.item.name, 0.0))
        ending: list[RoomEnded] = []

        def ask(frame: bytes) -> bytearray:
            if ending:
                raise ending[0]
            try:
                return branch.ask(frame, limit)
            except wire.WireError:  # not its text, which quotes numbers that student code chose
                ending.append(RoomEnded("the answer cannot be read"))
            except RoomEnded as error:
                ending.append(error)
            raise ending[0]

        check.item.config.stash[CONNECT] = lambda: Student(ask)
        before = self._cpu_seen()
        try:
            with limited_judging():
                outcome = run_check(check)
        except JudgingTooLong as error:  # between two steps of pytest's
            outcome = Outcome(passed=False, exception=error, ran=True, text=str(error))
        if isinstance(outcome.exception, JudgingTooLong):  # perhaps in the middle of an answer: no more of that branch
            ending.append(RoomEnded(TOO_LARGE))
        self._demand_ours_worked(check, outcome, ending)
        if isinstance(outcome.exception, StudentError) and not ending and self._filled_memory(branch):
            ending.append(LimitExceeded(f"used up its {self.limits.memory_bytes / 2**30:.1f} GiB of memory"))
        if not outcome.passed and not ending and not self._usable(branch):
            ending.append(RoomEnded(GPU_BROKEN))
        printed = "" if ending or outcome.passed else self._printed(branch)
        spent = max(0.0, self._cpu_lately() - before)
        return self._result(check, outcome, ending, printed, spent), next(iter(ending), None)

    def _usable(self, room: Room) -> bool:
        """Whether code in a room can still compute on its GPU: after some errors no call in their process works."""
        if self.branching == "fork":
            return True
        with contextlib.suppress(RoomEnded, wire.WireError):
            return self._ask(room, self.limits.check_seconds, op="usable").get("value") is True
        return False

    def _filled_memory(self, branch: Room) -> bool:
        """Whether a branch has had nearly all the memory that it may have.

        Code that is refused more has an exception. What fills memory in one check will in the next, and that takes
        seconds: it is treated like code that never ends.
        """
        with contextlib.suppress(RoomEnded):
            return branch.peak_memory() > MEMORY_FULL * self.limits.memory_bytes
        return False

    def _demand_ours_worked(self, check: Check, outcome: Outcome, ending: list[RoomEnded]) -> None:
        if ending or outcome.passed:
            return
        # A check that stops in its set-up, is skipped or cannot reach the sandbox has not judged anyone.
        if not outcome.ran and not isinstance(outcome.exception, StudentError):
            raise GraderFailed(f"check {check.item.name} did not run: {outcome.text or outcome.exception}")
        if isinstance(outcome.exception, SandboxFailed | OSError | KeyboardInterrupt):
            raise GraderFailed(f"check {check.item.name} could not run: {outcome.exception!r}")

    def _result(
        self, check: Check, outcome: Outcome, ending: list[RoomEnded], printed: str, cpu_seconds: float
    ) -> CheckResult:
        passed = outcome.passed and not ending
        if not passed:
            self.on_failure(check.item.name)
        cause = "" if passed else str(ending[0]) if ending else self._cause(outcome.exception)
        detail = "" if passed else plain_text(outcome.text[-MAX_DETAIL:])
        if printed and not passed:
            detail += f"\n--- printed by the student's code during this check ---\n{printed}"
        return _result_of(check, passed=passed, cause=cause, detail=detail, cpu_seconds=round(cpu_seconds, 3))

    def _cause(self, exception: BaseException | None) -> str:
        if isinstance(exception, MemoryError):
            return TOO_LARGE
        cause = safe_cause(exception)
        if isinstance(exception, StudentError):
            # The line's text is read from what was handed in, not from what its process says.
            lines = self.student_lines.get(exception.cell, [])
            if 0 < exception.line <= len(lines):
                cause += f", at line {exception.line} of its cell: {plain_text(lines[exception.line - 1].strip())}"
        return cause

    def _printed(self, branch: Room) -> str:
        try:
            reply = self._ask(branch, self.limits.check_seconds, op="printed", characters=MAX_PRINTED)
        except (RoomEnded, wire.WireError):
            return ""
        text = reply.get("value")
        return plain_text(text)[:MAX_PRINTED] if isinstance(text, str) else ""

    # the room

    def _cpu(self) -> float:
        """CPU seconds that the submission has used so far, over all its rooms."""
        self.looked = time.monotonic()
        if self.room is not None:
            with contextlib.suppress(RoomEnded):
                self.room.usage()
        return self._cpu_seen()

    def _cpu_seen(self) -> float:
        """The same, as it was when the room was last asked, which costs a question to another process."""
        return self.spent + (self.room.cpu_seconds if self.room is not None else 0.0)

    def _cpu_lately(self) -> float:
        """The same, asked for where what is known is older than `LOOK_SECONDS`."""
        return self._cpu() if time.monotonic() - self.looked > LOOK_SECONDS else self._cpu_seen()

    @property
    def exhausted(self) -> str:
        """Why nothing more may run, or "" while it may."""
        spent = self._cpu_seen()
        limit = max(self.limits.submission_seconds, REFERENCE_FACTOR * self.pace.total)
        if spent > limit + self.allowance:
            return f"the submission used up its {limit:g} seconds of computing time"
        return "the submission took too long as a whole" if time.monotonic() > self.deadline else ""

    def _drop_room(self) -> None:
        """End the room, and with it the branch."""
        if self.branch is not None and self.branch is not self.room:
            self.branch.close()
        self.branch = None
        if self.room is not None:
            self._cpu()
            self.spent += self.room.cpu_seconds
            if self.branching == "rerun":
                self.room.end()
            else:
                self.room.close()
            self.room = None

    def close(self) -> None:
        """End what is left of the submission."""
        self._drop_room()


def _stopped(cell: Cell, text: str) -> CellResult:
    output = {"output_type": "error", "ename": "Stopped", "evalue": text, "traceback": [text]}
    return CellResult(cell_id=cell.cell_id, error=text, outputs=(output,))


def _result_of(
    check: Check, *, passed: bool = False, cause: str = "", detail: str = "", cpu_seconds: float = 0.0
) -> CheckResult:
    return CheckResult(
        name=check.item.name,
        title=check.title,
        passed=passed,
        weight=check.info.weight,
        hint=check.info.hint,
        needs=check.needs,
        cause=cause,
        detail=detail,
        cpu_seconds=cpu_seconds,
    )


def most_runs(tasks: int, branching: Branching) -> int:
    """How often a submission's notebook may be run at most: after each loss of its process, which is tried twice."""
    return 1 if branching == "fork" else 1 + tasks * (1 + 2 * MAX_LOST_BRANCHES)


def points_of(assignment: Assignment, notebook: dict[str, Any]) -> dict[str, float]:
    """Points of every task of a released notebook, in its order.

    Raises:
        GraderFailed: They do not add up to the assignment's.
    """
    points = task_points(notebook)
    if abs(sum(points.values()) - assignment.points) > 1e-9:
        raise GraderFailed(f"the tasks of {assignment.name} add up to {sum(points.values()):g} points")
    return points


def collected_checks(items: list[pytest.Item], points: dict[str, float]) -> list[Check]:
    """The hidden checks among pytest's items, in the order of the tasks.

    Raises:
        GraderFailed: A task has no checks, or a check no task.
    """
    checks = [_as_check_or_fail(item) for item in items]
    names = {check.task.name for check in checks}
    if names != set(points):
        odd = ", ".join(sorted(names ^ set(points)))
        raise GraderFailed(f"tasks and hidden checks do not match: {odd}")
    order = list(points)
    return sorted(checks, key=lambda check: order.index(check.task.name))


def _as_check_or_fail(item: pytest.Item) -> Check:
    found = as_check(item)
    if found is None:
        raise GraderFailed(f"{item.name} belongs to no task: put it into a class with @task(...)")
    return found
