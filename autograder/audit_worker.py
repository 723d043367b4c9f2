"""The process of an audit that holds an assignment's checks, collected once, and tries versions of the reference.

    audit --a line of JSON per job--> worker --fork--> one child per job
          <--a line of JSON per answer--

A child replaces tasks of the reference by other source, as if a student had written it there, and replays checks
against it through the same encode and decode as a submission.
"""

import contextlib
import functools
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from autograder.authoring import Script
    from autograder.plugin import Check

ANSWER = "answer: "
MIN_SECONDS = 4.0
"""CPU seconds that a job may take for each seed, and besides twenty times what the reference takes."""
WALL_FACTOR = 10
MEMORY = 8 * 2**30

_ERROR = b'{"t":"dict","v":[["error"'
"""How the JSON of a reply begins that is an error."""

How = Literal["passed", "refused", "raised"]


@dataclass(frozen=True)
class Job:
    """One version of the reference to try.

    Attributes:
        overrides: Per task, source that runs after the reference's cell and so takes its place.
        tasks: Whose checks are replayed; none means all.
        seeds: The seeds to replay them with, one after another.
        until_caught: Stop as soon as a check has refused it.
        prove: Instead of judging, compare with the reference bit by bit (see `autograder.equivalence`).
    """

    overrides: dict[str, str] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    until_caught: bool = False
    prove: bool = False


@dataclass(frozen=True)
class Answer:
    """What came of a job.

    Attributes:
        runs: For each seed, (task, check, how it ended) of each check replayed. "raised" means that an error of the
            code under check ended it.
        ended: Why there are no more of them (a time limit, a crash), or "".
        lives: Some check that asks for no error got an answer.
        differs: For a proof, on what the two gave different answers, or "".
        compared: For a proof, how many answers were the same.
    """

    runs: tuple[tuple[tuple[str, str, How], ...], ...] = ()
    ended: str = ""
    lives: bool = False
    differs: str = ""
    compared: int = 0

    @property
    def failed(self) -> tuple[tuple[str, ...], ...]:
        """For each seed, the checks that did not pass, as "task/check"."""
        return tuple(tuple(f"{task}/{name}" for task, name, how in run if how != "passed") for run in self.runs)


def read_answer(line: str) -> Answer:
    """The answer in one line that a worker printed."""
    found = json.loads(line)
    runs = tuple(tuple((task, name, how) for task, name, how in run) for run in found.pop("runs"))
    return Answer(runs=runs, **found)


class _Judge:
    """Replays checks against versions of one assignment's reference."""

    def __init__(self, root: Path, assignment: str, items: list[Any]) -> None:
        from autograder.authoring import read_script
        from autograder.plugin import as_check

        self.script: Script = read_script(root / "solutions" / f"{assignment}.py")
        self.checks: list[Check] = [check for item in items if (check := as_check(item))]
        self.seconds: dict[str, float] = {}
        self.raising: frozenset[str] = frozenset()
        """Checks that make even the reference raise, as they should."""

    def warm_up(self) -> Answer:
        """Judge the reference, and learn what its checks take and which of them ask for an error."""

        def work() -> dict[str, Any]:
            seconds: dict[str, float] = {}
            raising = []
            run = []
            namespace = self._load({})
            for check in self.checks:
                before = time.process_time()
                errors, how = self._replay(check, namespace)
                seconds[check.task.name] = seconds.get(check.task.name, 0.0) + time.process_time() - before
                run.append((check.task.name, check.item.name, how))
                raising += [check.item.nodeid] * bool(errors)
            return {"runs": [run], "seconds": seconds, "raising": raising}

        answer, ended = in_child(work, 300.0)
        self.seconds = answer.get("seconds", {})
        self.raising = frozenset(answer.get("raising", ()))
        return read_answer(json.dumps({"runs": answer.get("runs", []), "ended": ended}))

    def answer(self, job: Job) -> Answer:
        """Do one job in a child."""
        tasks = set(job.tasks) or {check.task.name for check in self.checks}
        once = sum(self.seconds.get(task, 0.0) for task in tasks)
        seconds = (MIN_SECONDS + 20 * once) * (10 if job.prove else len(job.seeds))
        answer, ended = in_child(functools.partial(self._work, job, tasks), seconds)
        return read_answer(json.dumps({"runs": [], "ended": ended, **answer}))

    def _work(self, job: Job, tasks: set[str]) -> dict[str, Any]:
        checks = [check for check in self.checks if check.task.name in tasks]
        if job.prove:
            return self._prove(checks, job.overrides)
        namespace = self._load(job.overrides)
        runs = [list(self._run(checks, namespace, seed, job.until_caught)) for seed in job.seeds]
        ordinary = {(check.task.name, check.item.name) for check in checks if check.item.nodeid not in self.raising}
        lives = any(how != "raised" and (task, name) in ordinary for run in runs for task, name, how in run)
        return {"runs": runs, "lives": lives}

    def _run(
        self, checks: list["Check"], namespace: dict[str, Any], seed: int, until_caught: bool
    ) -> Iterator[tuple[str, str, How]]:
        """Replay checks with a seed; to be caught takes a check that did not end in an error of the code."""
        failed = lives = False
        for check in checks:
            check.item.config.option.checks_seed = seed
            _, how = self._replay(check, namespace)
            yield check.task.name, check.item.name, how
            failed = failed or how != "passed"
            lives = lives or (how != "raised" and check.item.nodeid not in self.raising)
            if until_caught and failed and lives:
                return

    def _prove(self, checks: list["Check"], overrides: dict[str, str]) -> dict[str, Any]:
        from autograder.equivalence import Recorder, compare
        from autograder.plugin import CONNECT, run_check

        reference = self._load({})
        recorders = []
        for check in checks:
            recorders.append(Recorder(reference))
            check.item.config.stash[CONNECT] = recorders[-1].itself
            run_check(check)
        questions = [recorder.questions for recorder in recorders]
        same, differs = compare(self._load({}), self._load(overrides), questions)
        return {"compared": same, "differs": differs}

    def _load(self, overrides: dict[str, str]) -> dict[str, Any]:
        from autograder.authoring import load_solution

        return load_solution(self.script, overrides=overrides)

    def _replay(self, check: "Check", namespace: dict[str, Any]) -> tuple[int, How]:
        """Run one check: how often the code under check raised, and how the check ended."""
        from autograder.checks import Student, StudentError
        from autograder.plugin import CONNECT, run_check
        from autograder.remote import wire
        from autograder.remote.server import Server

        server, errors = Server(namespace), 0

        def ask(frame: bytes) -> bytes:
            nonlocal errors
            reply = server.answer(frame)
            errors += reply.startswith(_ERROR, wire.JSON_LENGTH.size)
            return reply

        check.item.config.stash[CONNECT] = lambda: Student(ask)
        outcome = run_check(check)
        if outcome.passed:
            return errors, "passed"
        return errors, "raised" if isinstance(outcome.exception, StudentError) else "refused"


def in_child(work: Callable[[], dict[str, Any]], seconds: float) -> tuple[dict[str, Any], str]:
    """Do something in a forked child.

    Args:
        work: What; it returns something that JSON can say.
        seconds: CPU seconds it may take; the wall clock may take ten times as long.

    Returns:
        What it returned, and ""; or nothing, and why it ended.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _be_quiet_and_bounded(seconds)
        try:
            answer = work()
        except BaseException as error:
            answer = {"ended": f"{type(error).__name__}: {error}"[:500]}
        with contextlib.suppress(BaseException), os.fdopen(writing, "w") as pipe:
            pipe.write(json.dumps(answer))
        os._exit(0)
    os.close(writing)
    data, late = bytearray(), False
    deadline = time.monotonic() + WALL_FACTOR * seconds
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while not late:
            late = not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]
            part = b"" if late else pipe.read(2**16)
            if not part:
                break
            data += part
    if late:
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if late or status == -signal.SIGXCPU:
        return {}, f"took more than {seconds:g} s"
    answer = json.loads(data) if data else {"ended": "it ended the process"}
    return answer, answer.pop("ended", "")


def _be_quiet_and_bounded(seconds: float) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 6))  # SIGXCPU first, which says why
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))


def main() -> None:
    """`python -m autograder.audit_worker ROOT ASSIGNMENT`: answer jobs until there are no more.

    The first answer is that of the reference; then comes one for each job.
    """
    import gc

    import torch

    from autograder.replay import with_checks

    root, assignment = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    replies = os.fdopen(os.dup(1), "w", buffering=1)

    def serve(items: list[Any]) -> None:
        judge = _Judge(root, assignment, items)
        judge._load({})  # what it imports is imported once, not in every child
        gc.collect()
        gc.freeze()
        replies.write(f"{ANSWER}{json.dumps(asdict(judge.warm_up()))}\n")
        for line in sys.stdin:
            job = json.loads(line)
            made = Job(**{**job, "tasks": tuple(job["tasks"]), "seeds": tuple(job["seeds"])})
            replies.write(f"{ANSWER}{json.dumps(asdict(judge.answer(made)))}\n")

    with_checks(root, assignment, serve)


if __name__ == "__main__":
    main()
