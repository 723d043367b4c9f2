"""Tests of the tests: do the hidden checks catch every mistake, and accept every other right answer?

The checks are collected once and replayed against each variant of the reference (`autograder.variants`) in a forked
child with a time limit, through the same encode and decode as a submission.
"""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autograder.variants import Variant, load_variants
from autograder.worker import CHECKS_ENVIRONMENT

SECONDS_PER_VARIANT = 60.0


class AuditFailed(RuntimeError):
    """The audit itself could not be done, and why."""


@dataclass(frozen=True)
class Finding:
    """What the checks said to one variant.

    Attributes:
        variant: Its name; "" for the reference itself.
        task: The task that it replaces.
        kind: "mistake", "alternative" or "reference".
        failed: Failed checks, as "task/check".
        ended: Why it could not be judged to the end (a time limit, a crash), or "".
        also: Other tasks where a mistake may lose points.
    """

    variant: str
    task: str
    kind: str
    failed: tuple[str, ...]
    ended: str = ""
    also: tuple[str, ...] = ()

    @property
    def problem(self) -> str:
        """What is wrong with the checks, in a sentence, or "" where they did as they should."""
        tasks = {check.split("/")[0] for check in self.failed}
        if self.kind == "mistake":
            strays = tasks - {self.task, *self.also}
            if self.task not in tasks and not self.ended:
                return f"{self.variant}: the mistake in {self.task} loses no points"
            return f"{self.variant}: also loses points in {', '.join(sorted(strays))}" if strays else ""
        if self.failed or self.ended:
            return f"{self.variant or 'the reference'}: right, but fails {', '.join(self.failed) or self.ended}"
        return ""


def audit_variants(root: Path, assignment: str) -> list[Finding]:
    """Judge the reference and every variant of an assignment.

    Raises:
        AuditFailed: The checks or the variants cannot be read.
    """
    environment = {**os.environ, **CHECKS_ENVIRONMENT}
    shards = os.cpu_count() or 1
    line = [sys.executable, "-m", "autograder.audit", str(root), assignment, str(shards)]
    running = [
        subprocess.Popen(
            [*line, str(shard)], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for shard in range(shards)
    ]
    findings: list[Finding] = []
    for process in running:
        said, _ = process.communicate()
        if process.returncode != 0:
            raise AuditFailed(said.strip())
        findings += [_read_finding(line) for line in said.splitlines() if line.startswith(_MARK)]
    return findings


_MARK = "finding: "


def _read_finding(line: str) -> Finding:
    found = json.loads(line.removeprefix(_MARK))
    return Finding(**{**found, "failed": tuple(found["failed"]), "also": tuple(found["also"])})


# in the process of its own


def _failures(root: Path, assignment: str, items: list[Any], variant: Variant | None) -> list[str]:
    """The checks that a variant of the reference fails; None stands for the reference itself."""
    from autograder.authoring import load_solution
    from autograder.plugin import CONNECT, as_check, run_check
    from autograder.remote.client import loopback

    overrides = {variant.task: variant.source} if variant else {}
    namespace = load_solution(root / "solutions" / f"{assignment}.py", overrides=overrides)
    failures = []
    for item in items:
        check = as_check(item)
        if check is None:
            raise AuditFailed(f"{item.name} belongs to no task")
        item.config.stash[CONNECT] = lambda: loopback(namespace)
        if not run_check(check).passed:
            failures.append(f"{check.task.name}/{item.name}")
    return failures


def _finding(variant: Variant | None, failed: list[str], ended: str) -> Finding:
    if variant is None:
        return Finding("", "", "reference", tuple(failed), ended)
    return Finding(variant.name, variant.task, variant.kind, tuple(failed), ended, variant.also)


def _in_child(work: Callable[[], list[str]]) -> tuple[list[str], str]:
    """Do something in a forked child: its list, and "" or why there is none."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            answer: dict[str, Any] = {"failed": work()}
        except BaseException as error:
            answer = {"ended": f"{type(error).__name__}: {error}"[:500]}
        with os.fdopen(writing, "w") as pipe:
            pipe.write(json.dumps(answer))
        os._exit(0)
    os.close(writing)
    ended = _wait(pid)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    answer = json.loads(text) if text and not ended else {}
    return answer.get("failed", []), ended or answer.get("ended", "" if "failed" in answer else "it ended by itself")


def _wait(pid: int) -> str:
    deadline = time.monotonic() + SECONDS_PER_VARIANT
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return ""
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return f"more than {SECONDS_PER_VARIANT:g} s"


def main() -> None:
    """`python -m autograder.audit ROOT ASSIGNMENT SHARDS SHARD`: print a line of JSON for each finding."""
    import torch

    from autograder.authoring import load_solution
    from autograder.replay import with_checks

    root, assignment, shards, shard = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    variants = [None, *load_variants(root / "tests" / "variants" / f"{assignment}.py")][shard::shards]
    torch.set_num_threads(1)
    load_solution(root / "solutions" / f"{assignment}.py")  # what it imports is imported once, not in every child

    def judge(items: list[Any]) -> None:
        for variant in variants:
            failed, ended = _in_child(functools.partial(_failures, root, assignment, items, variant))
            print(_MARK + json.dumps(asdict(_finding(variant, failed, ended))), flush=True)

    with_checks(root, assignment, judge)


if __name__ == "__main__":
    main()
