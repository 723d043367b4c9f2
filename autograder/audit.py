"""Tests of the tests: do an assignment's hidden checks catch what is wrong, and accept what is right?

    reference      earns everything, with fifty seeds
    untouched      what students get fails every check
    mistakes       each loses points in its own task (`autograder.variants`)
    alternatives   each earns everything
    mutants        the reference with one small error made by machine (`autograder.mutants`): the share that is noticed

What was found is kept beside the hash of what it was found on (`tests/audit/NAME.json`). A mutant that no check can
notice, since it computes the same, stands with its reason in `tests/equivalents/NAME.toml`.
"""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from autograder.audit_worker import ANSWER, Answer, Job, read_answer
from autograder.authoring import read_script, released_notebook
from autograder.course import CourseError
from autograder.mutants import plain
from autograder.variants import Variant, load_variants
from autograder.worker import CHECKS_ENVIRONMENT

if TYPE_CHECKING:
    from autograder.mutants import Mutant

SEEDS = 50
"""With how many the reference and every other right answer must earn everything."""
MISTAKE_SEEDS = 5
"""With how many a mistake must be caught: there are many mistakes, and hardly one of them draws a random number."""
MIN_SCORE = 0.95
"""Share of counted mutants that the checks of every task must notice."""
MAX_EQUIVALENT = 0.1
"""Share of a task's mutants that may be declared to compute the same."""
MIN_MISTAKES, MIN_ALTERNATIVES = 3, 2
"""Variants of every task."""

Fate = Literal["killed", "timed out", "survived", "equivalent", "crashed"]


class AuditFailed(CourseError):
    """The audit itself could not be done, and why."""


@dataclass
class TaskTable:
    """What the checks of one task noticed. A crashed mutant raises whatever it is asked: it is not counted."""

    task: str
    mistakes: int = 0
    caught: int = 0
    alternatives: int = 0
    accepted: int = 0
    killed: int = 0
    timed_out: int = 0
    survived: int = 0
    equivalent: int = 0
    crashed: int = 0

    @property
    def score(self) -> float:
        """Share of the counted mutants that were noticed; one that never ends loses its points too."""
        counted = self.killed + self.timed_out + self.survived
        return (self.killed + self.timed_out) / counted if counted else 1.0


@dataclass
class Survivor:
    """A mutant that no check notices.

    Attributes:
        task: Its task.
        id: Its name.
        line: Where in the script.
        diff: The change.
        reason: Why it computes the same, from the file of equivalents, or "".
        compared: How many of its answers equal the reference's bit by bit.
        differs: On what it answers otherwise, or "".
    """

    task: str
    id: str
    line: int
    diff: str
    reason: str = ""
    compared: int = 0
    differs: str = ""


@dataclass
class Audit:
    """All that the audit of one assignment found."""

    assignment: str
    measured: str
    tasks: list[TaskTable]
    survivors: list[Survivor] = field(default_factory=list)
    fates: dict[str, list[str]] = field(default_factory=dict)
    """The mutants that were not plainly killed, by what became of them."""
    problems: list[str] = field(default_factory=list)
    """What is wrong, a sentence each, survivors apart."""
    flaky: int = 0
    checks: int = 0
    seconds: float = 0.0
    cores: int = 0

    @property
    def shortcomings(self) -> list[str]:
        """What falls short of the targets."""
        low = [
            f"{table.task}: {table.score:.1%} of the mutants are noticed; {MIN_SCORE:.0%} must be"
            for table in self.tasks
            if table.score < MIN_SCORE
        ]
        return [*self.problems, *low]


@dataclass(frozen=True)
class Equivalent:
    """A reviewed entry: a mutant that computes what the reference does.

    Attributes:
        id: The mutant.
        kind: "identical" gives the same answers bit by bit, which the audit proves each time; "invisible" differs by
            less than any test of this cost could see, which the reason shows with a calculation of its power.
        reason: Why.
    """

    id: str
    kind: Literal["identical", "invisible"]
    reason: str


# ---- where things lie


def table_path(root: Path, assignment: str) -> Path:
    """The committed findings."""
    return root / "tests" / "audit" / f"{assignment}.json"


def equivalents_path(root: Path, assignment: str) -> Path:
    """The reviewed list of mutants that compute the same."""
    return root / "tests" / "equivalents" / f"{assignment}.toml"


def variants_path(root: Path, assignment: str) -> Path:
    """Mistakes and alternatives."""
    return root / "tests" / "variants" / f"{assignment}.py"


def measured_digest(root: Path, assignment: str) -> str:
    """Hash of what an audit measures: solution, checks, variants, equivalents, and what makes mutants and compares.

    Of the solution the code counts that checks can reach: to put a sentence right leaves the audit valid.
    """
    script = read_script(root / "solutions" / f"{assignment}.py")
    code = [cell.source for cell in script.cells if cell.kind == "code" and not (cell.demo or cell.checks)]
    files = [
        root / "tests" / "checks" / f"test_{assignment}.py",
        variants_path(root, assignment),
        equivalents_path(root, assignment),
        *(Path(__file__).with_name(f"{name}.py") for name in ("audit", "audit_worker", "checks", "mutants")),
    ]
    contents = [plain(source) for source in code] + [file.read_text() if file.exists() else "" for file in files]
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:16]


def load_equivalents(root: Path, assignment: str) -> dict[str, Equivalent]:
    """The reviewed list by mutant; empty where there is none.

    Raises:
        AuditFailed: It cannot be read.
    """
    path = equivalents_path(root, assignment)
    if not path.exists():
        return {}
    try:
        entries = [Equivalent(**entry) for entry in tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]]
    except (KeyError, TypeError, ValueError) as error:
        raise AuditFailed(f"{path}: each entry is [[mutant]] with id, kind and reason: {error}") from error
    for entry in entries:
        if entry.kind not in ("identical", "invisible") or not entry.reason.strip():
            raise AuditFailed(f'{path}: {entry.id} needs a reason, and kind = "identical" or "invisible"')
    return {entry.id: entry for entry in entries}


def save_table(root: Path, audit: Audit) -> Path:
    """Keep what was found."""
    path = table_path(root, audit.assignment)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(audit), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def load_table(root: Path, assignment: str) -> Audit | None:
    """What was found last, or None."""
    path = table_path(root, assignment)
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    tasks = [TaskTable(**table) for table in found.pop("tasks")]
    survivors = [Survivor(**survivor) for survivor in found.pop("survivors")]
    return Audit(tasks=tasks, survivors=survivors, **found)


# ---- processes that judge


class Crew:
    """Workers that do jobs side by side, each in a process of its own."""

    def __init__(self, root: Path, assignment: str, jobs: int | None = None) -> None:
        self.root, self.assignment = root, assignment
        self.size = jobs or os.cpu_count() or 1
        self.local = threading.local()
        self.processes: list[subprocess.Popen[str]] = []
        self.pool = ThreadPoolExecutor(self.size)

    def submit(self, job: Job | None) -> Future[Answer]:
        """Have a job done; None asks for the worker's own run of the reference."""
        return self.pool.submit(self._do, job)

    def _do(self, job: Job | None) -> Answer:
        if not hasattr(self.local, "process"):
            self.local.process = self._start()
            self.local.reference = self._read(self.local.process)
        if job is None:
            reference: Answer = self.local.reference
            return reference
        process: subprocess.Popen[str] = self.local.process
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what it said last is read below
            process.stdin.write(json.dumps(asdict(job)) + "\n")
            process.stdin.flush()
        return self._read(process)

    def _start(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "autograder.audit_worker", str(self.root), self.assignment],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, **CHECKS_ENVIRONMENT},
        )  # fmt: skip
        self.processes.append(process)
        return process

    def _read(self, process: subprocess.Popen[str]) -> Answer:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            if line.startswith(ANSWER):
                return read_answer(line.removeprefix(ANSWER))
            said.append(line)
        raise AuditFailed(f"the checks of {self.assignment} cannot be replayed:\n{''.join(said)[-4000:].strip()}")

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            for process in self.processes:
                process.kill()
        self.pool.shutdown(cancel_futures=True)
        for process in self.processes:
            if process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
            if process.stdout is not None:
                process.stdout.close()
            process.wait()


# ---- what each kind of job tells


def variant_problem(variant: Variant, answer: Answer) -> str:
    """What is wrong with the checks according to a variant, in a sentence, or ""."""
    failed = set(answer.failed[0]) if answer.failed else set()
    tasks = {check.split("/")[0] for check in failed}
    if variant.kind == "alternative":
        if failed or answer.ended:
            return f"{variant.name}: right, but fails {', '.join(sorted(failed)) or answer.ended}"
        return ""
    strays = tasks - {variant.task, *variant.also}
    if not _noticed(variant, answer):
        return f"{variant.name}: the mistake in {variant.task} loses no points"
    return f"{variant.name}: also loses points in {', '.join(sorted(strays))}" if strays else ""


def _noticed(variant: Variant, answer: Answer) -> bool:
    """Whether a variant failed a check of its own task, or could not be judged to the end."""
    return bool(answer.ended) or any(task == variant.task and how != "passed" for task, _, how in answer.runs[0])


def fate_of(answer: Answer) -> Fate:
    """What became of a mutant.

    A mutant crashed where every check ended in an error that it raised: it says nothing about the checks, which is why
    it is not counted.
    """
    if answer.ended.startswith("took more than"):
        return "timed out"
    if answer.ended:
        return "crashed"
    hows = [how for _, _, how in answer.runs[0]]
    if all(how == "passed" for how in hows):
        return "survived"
    return "killed" if answer.lives else "crashed"


def untouched(root: Path, assignment: str) -> Job:
    """The notebook as students get it."""
    notebook = released_notebook(read_script(root / "solutions" / f"{assignment}.py"))
    tasks = (cell for cell in notebook.cells if cell.metadata.get("nbgrader", {}).get("solution"))
    return Job(overrides={cell.metadata.nbgrader.grade_id: cell.source for cell in tasks})


# ---- the audit


Tell = Callable[[int, int], None]
"""Is told how many of how many jobs are done."""


def audit(
    root: Path, assignment: str, *, jobs: int | None = None, seeds: int | None = None, tell: Tell = lambda *_: None
) -> Audit:
    """Try everything there is against an assignment's checks.

    Args:
        root: The course folder.
        assignment: Name of the assignment.
        jobs: Processes that judge side by side; None means one per core.
        seeds: With how many the reference and every alternative must earn everything; None means fifty.
        tell: Is called after each job.

    Raises:
        AuditFailed: The checks, the variants or the list of equivalents cannot be read.
    """
    began = time.monotonic()
    try:
        variants = load_variants(variants_path(root, assignment))
    except ValueError as error:
        raise AuditFailed(str(error)) from error
    equivalents = load_equivalents(root, assignment)
    script = read_script(root / "solutions" / f"{assignment}.py")
    lines = {cell.task: cell.line for cell in script.cells if cell.task}
    mutants = [mutant for cell in script.cells if cell.task for mutant in _mutants(cell.task, cell.source)]
    found = Audit(assignment, measured_digest(root, assignment), [TaskTable(task) for task in script.tasks])
    tables = {table.task: table for table in found.tasks}
    others = tuple(range(1, seeds or SEEDS))

    with Crew(root, assignment, jobs) as crew:
        found.cores = crew.size
        todo: dict[Future[Answer], Callable[[Answer], None]] = {}

        def add(job: Job | None, use: Callable[[Answer], None]) -> None:
            todo[crew.submit(job)] = use

        def run() -> None:
            total = len(todo)
            for done, future in enumerate(as_completed(todo), 1):
                todo[future](future.result())
                tell(done, total)
            todo.clear()

        def reference(answer: Answer) -> None:
            found.checks = len(answer.runs[0]) if answer.runs else 0
            failed = answer.failed[0] if answer.failed else ()
            if failed or answer.ended:
                found.problems.append(f"the reference: fails {', '.join(failed) or answer.ended}")

        def nothing(answer: Answer) -> None:
            run = answer.runs[0] if answer.runs else ()
            passed = [f"{task}/{check}" for task, check, how in run if how == "passed"]
            if passed or answer.ended:
                found.problems.append(f"the untouched release: passes {', '.join(passed) or answer.ended}")

        def variant_once(variant: Variant) -> Callable[[Answer], None]:
            def use(answer: Answer) -> None:
                problem = variant_problem(variant, answer)
                table = tables[variant.task]
                if variant.kind == "mistake":
                    table.mistakes += 1
                    table.caught += _noticed(variant, answer)
                else:
                    table.alternatives += 1
                    table.accepted += not problem
                if problem:
                    found.problems.append(problem)
                if not answer.ended:
                    judged.append((variant, not _noticed(variant, answer)))

            return use

        def seeds_agree(name: str, passes: bool) -> Callable[[Answer], None]:
            def use(answer: Answer) -> None:
                odd = [seed for seed, failed in zip(others, answer.failed, strict=False) if passes == bool(failed)]
                if odd or (passes and answer.ended):
                    found.flaky += 1
                    checks = sorted({check for failed in answer.failed for check in failed})
                    told = f"with seed {odd[0]}" if odd else answer.ended
                    found.problems.append(f"{name}: another verdict {told} ({', '.join(checks)})")

            return use

        judged: list[tuple[Variant, bool]] = []
        survivors: list[Mutant] = []

        def mutant_once(mutant: "Mutant") -> Callable[[Answer], None]:
            def use(answer: Answer) -> None:
                fate = fate_of(answer)
                if fate == "survived":
                    survivors.append(mutant)
                    return
                table = tables[mutant.task]
                setattr(table, fate.replace(" ", "_"), getattr(table, fate.replace(" ", "_")) + 1)
                if fate != "killed":
                    found.fates.setdefault(fate, []).append(mutant.id)

            return use

        def proof(mutant: "Mutant") -> Callable[[Answer], None]:
            def use(answer: Answer) -> None:
                entry = equivalents.get(mutant.id)
                differs = answer.differs or answer.ended
                survivor = Survivor(
                    mutant.task, mutant.id, lines[mutant.task] + mutant.line - 1, mutant.diff,
                    entry.reason if entry else "", answer.compared, differs,
                )  # fmt: skip
                found.survivors.append(survivor)
                if entry and entry.kind == "identical" and differs:
                    found.problems.append(f"{mutant.id} is declared identical, but differs: {differs}")
                    entry = None
                table = tables[mutant.task]
                table.equivalent += entry is not None
                table.survived += entry is None

            return use

        add(None, reference)
        add(untouched(root, assignment), nothing)
        for task in script.tasks:
            add(Job(tasks=(task,), seeds=others), seeds_agree(f"the reference in {task}", passes=True))
        for variant in variants:
            if variant.task not in tables:
                raise AuditFailed(f"{variants_path(root, assignment)}: there is no task {variant.task!r}")
            add(Job({variant.task: variant.source}), variant_once(variant))
        for mutant in mutants:
            add(Job({mutant.task: mutant.source}, (mutant.task,), until_caught=True), mutant_once(mutant))
        run()
        for variant, passes in judged:
            again = Job(
                {variant.task: variant.source},
                (variant.task,),
                others if variant.kind == "alternative" else others[: MISTAKE_SEEDS - 1],
                until_caught=not passes,
            )
            add(again, seeds_agree(variant.name, passes))
        for mutant in survivors:
            add(Job({mutant.task: mutant.source}, (mutant.task,), prove=True), proof(mutant))
        run()

    found.survivors.sort(key=lambda survivor: survivor.line)
    found.problems += _wrong_numbers(found.tasks)
    found.problems += [
        f"{gone}: the list of equivalents names it, but there is no such mutant that survives"
        for gone in sorted(equivalents.keys() - {mutant.id for mutant in survivors})
    ]
    found.problems.sort()
    for ids in found.fates.values():
        ids.sort()
    found.seconds = round(time.monotonic() - began, 1)
    return found


def _mutants(task: str, source: str) -> list["Mutant"]:
    try:
        from autograder.mutants import mutants_of
    except ImportError as error:
        raise AuditFailed(f"mutants need mutmut ({error}): pip install -e '.[dev]' -c constraints.txt") from error
    return mutants_of(task, source)


def _wrong_numbers(tables: Iterable[TaskTable]) -> list[str]:
    wrong = []
    for table in tables:
        if table.mistakes < MIN_MISTAKES:
            wrong.append(f"{table.task}: {table.mistakes} mistakes; {MIN_MISTAKES} or more are asked for")
        if table.alternatives < MIN_ALTERNATIVES:
            wrong.append(f"{table.task}: {table.alternatives} alternatives; {MIN_ALTERNATIVES} or more are asked for")
        counted = table.killed + table.timed_out + table.survived + table.equivalent
        if table.equivalent > MAX_EQUIVALENT * counted:
            wrong.append(
                f"{table.task}: {table.equivalent} of {counted} mutants are called equivalent; a tenth at most may be"
            )
    return wrong


# ---- what is kept of it


def why_stale(root: Path, assignment: str) -> str:
    """Why the committed findings do not stand for what is there now, or ""."""
    table = load_table(root, assignment)
    if table is None:
        return f"{assignment} was never audited: run `course audit {assignment}` and commit {_shown(root, assignment)}"
    if table.measured != measured_digest(root, assignment):
        return (
            f"{assignment} has changed since it was audited: run `course audit {assignment}` and commit "
            f"{_shown(root, assignment)}"
        )
    return ""


def _shown(root: Path, assignment: str) -> str:
    return table_path(root, assignment).relative_to(root).as_posix()
