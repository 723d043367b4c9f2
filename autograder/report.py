"""What grading found, in words: the report that a student may read, and the whole story for the instructor."""

from collections.abc import Iterator, Sequence

from autograder.results import CheckResult, SubmissionResult, TaskResult

PASSED, FAILED = "passed", "FAILED"


def task_report(task: TaskResult, order: Sequence[str]) -> str:
    """One task's checks for the student: title, and for a failed check its safe cause and hint. No expected value.

    Args:
        task: The task.
        order: Names of the assignment's tasks in order, to call a needed task by its number.
    """
    if not task.checks:
        return f"{task.name}: not checked, 0 of {task.points:g} points"
    passed = sum(check.passed for check in task.checks)
    head = (
        f"{task.name}: {passed} of {len(task.checks)} hidden checks passed, {task.earned:g} of {task.points:g} points"
    )
    return "\n".join([head, *(line for check in task.checks for line in _check_lines(check, order))])


def _check_lines(check: CheckResult, order: Sequence[str]) -> Iterator[str]:
    yield f"  {PASSED if check.passed else FAILED}  {check.title}"
    if check.passed:
        return
    if check.cause:
        yield f"          {check.cause}"
    if check.hint:
        yield f"          Hint: {check.hint}"
    if check.needs:
        needed = " and ".join(f"task {order.index(name) + 1} (`{name}`)" for name in check.needs if name in order)
        yield f"          This may follow from {needed}."


def submission_report(result: SubmissionResult) -> str:
    """Every task of a submission, then the mark."""
    order = [task.name for task in result.tasks]
    lines = [task_report(task, order) for task in result.tasks]
    if result.reason:
        lines.append(f"{result.verdict}: {result.reason}")
    lines.append(mark_line(result))
    return "\n\n".join(lines)


def mark_line(result: SubmissionResult) -> str:
    """The mark, or that there is none."""
    unsafe = "  (graded WITHOUT a sandbox)" if result.sandbox == "none" else ""
    if result.verdict == "GRADER_FAULT":
        return f"{result.student}: no mark, because grading failed"
    return f"{result.student}: {result.score:g} of {result.max_score:g} points{unsafe}"


def instructor_report(result: SubmissionResult, task_name: str | None = None) -> str:
    """Everything that was found: also expected and actual values, tracebacks and what the student's code printed."""
    parts = [
        f"{result.assignment}, {result.student}: {result.verdict}" + (f" ({result.reason})" if result.reason else ""),
        f"sandbox {result.sandbox or '-'}, device {result.device or '-'}, seed {result.seed}, "
        f"{result.cpu_seconds:.2f} s of computing; "
        + ", ".join(f"{name} {number}" for name, number in result.versions.items()),
    ]
    order = [task.name for task in result.tasks]
    for task in result.tasks:
        if task_name is None or task.name == task_name:
            parts.append(task_report(task, order))
            parts += [_detail(check) for check in task.checks if not check.passed and check.detail]
    if task_name is None:
        parts += [f"cell {cell.cell_id}: {cell.error}" for cell in result.cells if cell.error]
        parts.append(mark_line(result))
    return "\n\n".join(parts)


def _detail(check: CheckResult) -> str:
    bar = "-" * 8
    return f"{bar} {check.name}: {check.title}\n{check.detail}\n{bar}"
