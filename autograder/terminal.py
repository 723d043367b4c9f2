"""Grading as seen on a terminal: progress while it goes, a line or a report per submission, a summary."""

import contextlib
import importlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Literal

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from autograder.classroom import grade_all
from autograder.course import Course, CourseError
from autograder.grading import Grader
from autograder.outputs import plain_text
from autograder.recording import Marked, Recorder
from autograder.report import mark_line, submission_report
from autograder.results import Verdict
from autograder.safekeeping import in_plain_words, only_grader
from autograder.submission import misplaced, strange_folders
from autograder.worker import WorkerFailed

Style = Literal["json", "report", "lines"]


def grade_and_print(
    root: Path,
    course: Course,
    assignment: str,
    students: Sequence[str],
    style: Style,
    *,
    jobs: int | None = None,
    force: bool = False,
    dry_run: bool = False,
    cluster: str | None = None,
) -> None:
    """Grade submissions, record them, and tell about it.

    Args:
        root: The course folder.
        course: Its settings.
        assignment: Name of the assignment.
        students: Whose submissions.
        style: JSON lines, a whole report, or a line for each submission.
        jobs: Submissions graded side by side; None means one per core, or what keeps the cluster busy.
        force: Grade and record again what has not changed.
        dry_run: Record nothing.
        cluster: Address of the Dask scheduler whose workers grade, in place of this machine.

    Raises:
        CourseError: A submission has no mark, grading was interrupted, or nothing can be graded here.
    """
    marked: list[Marked] = []
    progress = _progress(enabled=style == "lines")
    try:
        with (
            only_grader(root, assignment, course),
            _grader(root, course, assignment, cluster) as (grader, side_by_side),
            _threads(jobs or side_by_side) as pool,
            progress,
        ):
            all_graded = grade_all(grader, students, pool, force=force, ahead=2 * (jobs or side_by_side))
            recorder = Recorder(grader, dry_run=dry_run, tell=_tell)
            bar = progress.add_task(f"grading {assignment}", total=len(students))
            for graded in all_graded:
                one = recorder.record(graded, force=force)
                progress.advance(bar)
                _print_one(one, style, progress.console)
                # What is said in the end needs no outputs, which for a whole class would be too much to keep.
                marked.append(replace(one, result=one.result.model_copy(update={"cells": ()})))
    except WorkerFailed as error:
        raise CourseError(str(error)) from error
    except CourseError:
        raise
    except Exception as error:
        if plain := in_plain_words(error, root):
            raise plain from error
        raise
    except KeyboardInterrupt:
        raise CourseError(
            f"Interrupted: {len(marked)} of {len(students)} submissions are done, and kept. The same command goes on."
        ) from None
    if style == "lines":
        _print_summary(marked, dry_run=dry_run)
        _print_misplaced(root, assignment)
    without = sorted(one.result.student for one in marked if one.failure)
    lines = [f"{len(without)} of {len(marked)} submissions have no mark: {', '.join(without)}"] if without else []
    lines += [
        f"submitted/{plain_text(name)} was left out: it is no student's identifier (letters, digits and . _ @ + -)."
        for name in (strange_folders(root, assignment) if style != "report" else [])
    ]
    if lines:
        raise CourseError("\n".join(lines))


@contextlib.contextmanager
def _grader(root: Path, course: Course, assignment: str, cluster: str | None) -> Iterator[tuple[Grader, int]]:
    """What grades, on this machine or with a cluster, and how many submissions to give it at once."""
    if cluster is None:
        with Grader(root, course, assignment, meanwhile=_import_nbgrader) as grader:
            yield grader, os.cpu_count() or 1
        return
    from autograder.cluster import connected

    with (
        Grader(root, course, assignment, elsewhere=lambda: workers, meanwhile=_import_nbgrader) as grader,
        connected(cluster, grader, _tell) as workers,
    ):
        yield grader, 2 * sum(workers.workers().values())  # the next one is there before the last one is done


def _import_nbgrader() -> None:
    """Import what records, which takes seconds, while the worker starts."""
    threading.Thread(target=importlib.import_module, args=("autograder.gradebook",), daemon=True).start()


@contextlib.contextmanager
def _threads(count: int) -> Iterator[Executor]:
    """Threads that wait for what does the work; what has not begun when the block is left never does."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _tell(text: str) -> None:
    click.echo(text, err=True)


@contextlib.contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left for long work that tells how many of how many parts are done; nothing off a terminal."""
    with _progress(enabled=True) as progress:
        bar = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


def _progress(*, enabled: bool) -> Progress:
    """A bar with the time left on a terminal; elsewhere nothing but the lines themselves."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    console = Console(file=sys.stdout, highlight=False, markup=False, soft_wrap=True)
    return Progress(*columns, console=console, transient=True, disable=not (enabled and console.is_terminal))


def _print_one(marked: Marked, style: Style, console: Console) -> None:
    if style == "json":
        click.echo(_json(marked))
    elif style == "lines":
        console.print(_line(marked))
    else:
        click.echo(submission_report(marked.result))
        if marked.failure:
            click.echo(f"No mark was recorded: {marked.failure}", err=True)
        elif marked.final is not None and marked.final != marked.result.score:
            click.echo(f"In the gradebook: {_final(marked)}")


def _line(marked: Marked) -> str:
    result = marked.result
    if marked.failure:
        return f"{result.student}: NO MARK: {marked.failure.splitlines()[0]}"
    notes = [
        f"was {marked.before:g}" if marked.changed else "",
        f"in the gradebook {_final(marked)}" if marked.final not in (None, result.score) else "",
        "" if marked.fresh else "unchanged",
        result.reason if result.verdict == Verdict.STUDENT_FAULT else "",
    ]
    told = "; ".join(note for note in notes if note)
    return mark_line(result) + (f"  ({told})" if told else "")


def _final(marked: Marked) -> str:
    penalty = f", late penalty {marked.late_penalty:g}" if marked.late_penalty else ""
    return f"{marked.final:g} of {marked.result.max_score:g}{penalty}"


def _json(marked: Marked) -> str:
    """A result and its mark, without cells and without what only instructors may see of checks."""
    hidden = {"cells": True, "tasks": {"__all__": {"checks": {"__all__": {"detail"}}}}}
    data = marked.result.model_dump(mode="json", exclude=hidden)  # type: ignore[arg-type]
    has_mark = not marked.failure
    score = marked.result.score if has_mark else None
    return json.dumps({
        **data, "score": score, "max_score": marked.result.max_score, "before": marked.before,
        "recorded": marked.final, "late_penalty": marked.late_penalty, "failure": marked.failure,
    })  # fmt: skip


def _print_misplaced(root: Path, assignment: str) -> None:
    """Tell what seems to have been handed in under another name, and the command that puts it right."""
    if commands := misplaced(root, assignment):
        click.echo("\nUnder another name, as it seems. Where that is what was meant, type this and grade again:")
        click.echo("\n".join(f"  {command}" for command in commands))


def _print_summary(marked: Sequence["Marked"], *, dry_run: bool) -> None:
    scores = [one.result.score for one in marked if not one.failure]
    fresh = sum(one.fresh for one in marked)
    changed = sum(one.changed for one in marked)
    faults = sum(one.result.verdict == Verdict.STUDENT_FAULT for one in marked)
    click.echo("")
    click.echo(f"{len(marked)} submissions: {fresh} graded, {len(marked) - fresh} unchanged; {faults} with a fault.")
    if scores:
        best = marked[0].result.max_score
        click.echo(f"Points: mean {mean(scores):.2f}, median {median(scores):.2f}, of {best:g}.")
    if changed:
        click.echo(f"{changed} mark{'s' * (changed != 1)} {'would change' if dry_run else 'changed'}.")
    if dry_run:
        click.echo("Nothing was recorded (--dry-run).")
