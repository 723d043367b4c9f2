"""The `course` command: what an instructor types.

Each command imports what it needs when it runs, so that help comes at once. Expected failures are one message and an
exit code: 1 for something that the instructor can put right, 2 for a command that is typed wrong.
"""

from collections.abc import Callable
from functools import update_wrapper
from pathlib import Path
from typing import Any

import click

_names = click.argument("names", metavar="[NAME]...", nargs=-1)


def _command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Print the message of a `CourseError` and exit with 1; `--verbose` shows where it came from."""

    @click.pass_context
    def run(context: click.Context, /, **arguments: Any) -> Any:
        from autograder.course import CourseError

        try:
            return function(**arguments)
        except CourseError as error:
            if context.find_root().params["verbose"]:
                raise
            click.echo(f"Error: {error}", err=True)
            context.exit(1)

    return update_wrapper(run, function)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--verbose", is_flag=True, help="Show the whole traceback of an error.")
def main(verbose: bool) -> None:
    """Write, release and grade the assignments of a course.

    Commands work on the course whose folder, or a folder inside it, you are in: the one with course_config.py.

    \b
    Example:
      course lint information_theory
      course release information_theory
    """


@main.command()
@_names
@_command
def lint(names: tuple[str, ...]) -> None:
    """Find what does not fit together in assignments: all, or those named.

    Reads solutions/NAME.py and tests/checks/test_NAME.py and runs nothing. Prints a line for each problem, and exits
    with 1 where there is one.

    \b
    Example:
      course lint information_theory
    """
    from autograder.course import CourseError, find_root, load_course
    from autograder.lint import lint as find_problems
    from autograder.lint import summary

    root = find_root()
    course = load_course(root)
    problems = find_problems(root, course, names)
    if problems:
        raise CourseError(summary(problems))
    count = len(course.select(names))
    click.echo(f"{count} assignment{'s' * (count != 1)}: nothing to put right.")


@main.command()
@_names
@click.option("--check", is_flag=True, help="Change nothing; fail where source/ or release/ is out of date.")
@click.option(
    "--to",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write what students get into this folder instead; course and gradebook stay as they are.",
)
@_command
def release(names: tuple[str, ...], check: bool, folder: Path | None) -> None:
    """Make what students get of assignments: all, or those named.

    Builds source/NAME/ from solutions/NAME.py, lets nbgrader make release/NAME/ of it, and enters the tasks and the due
    date into the gradebook. Refuses what lint finds fault with, and what would give an answer away.

    \b
    Example:
      course release information_theory
      course release --check
      course release --to ~/for_students information_theory
    """
    if check and folder:
        raise click.UsageError("--check and --to exclude each other.")
    from autograder import release as making
    from autograder.course import find_root, load_course

    root = find_root()
    course = load_course(root)
    if check:
        _report_stale(making.check_release(root, course, names))
        return
    folders = making.export(root, course, names, folder) if folder else making.release(root, course, names)
    for written in folders:
        click.echo(f"Students get {written}")


def _report_stale(stale: list[str]) -> None:
    from autograder.course import CourseError

    if stale:
        raise CourseError("\n".join([*stale, "Run `course release` and commit source/ and release/."]))
    click.echo("source/ and release/ are up to date.")


@main.command()
@click.argument("name")
@click.option("--student", help="Grade this student's submission only.  [default: every submission]")
@click.option("--force", is_flag=True, help="Grade again even where nothing has changed.")
@click.option("--json", "as_json", is_flag=True, help="Print results as JSON, one line per submission.")
@_command
def grade(name: str, student: str | None, force: bool, as_json: bool) -> None:
    """Grade submissions of an assignment and record the marks in nbgrader's gradebook.

    Reads submitted/STUDENT/NAME/NAME.ipynb, runs it in the sandbox, lets the hidden checks question it from outside,
    and prints for every task which checks passed, a hint where one did not, and the mark. What has not changed since it
    was graded is not graded again. Exits with 1 where a submission has no mark because grading failed.

    \b
    Example:
      course grade information_theory --student ada
      course grade information_theory --json
    """
    from autograder.course import CourseError, find_root, load_course
    from autograder.grading import Grader
    from autograder.submission import students_of
    from autograder.worker import WorkerFailed

    root = find_root()
    course = load_course(root)
    course.assignment(name)
    students = [student] if student else students_of(root, name)
    if not students:
        raise CourseError(f"There are no submissions of {name}: they go to submitted/STUDENT/{name}/{name}.ipynb.")
    if course.sandbox == "none":
        click.echo('WARNING: sandbox="none": student code runs with all your rights, and could change marks.', err=True)
    ungraded = []
    with Grader(root, course, name) as grader:
        for one in students:
            try:
                result = grader.grade(one, force=force)
            except WorkerFailed as error:
                raise CourseError(str(error)) from error
            if not _print_and_record(root, course, result, as_json):
                ungraded.append(one)
    if ungraded:
        raise CourseError(f"{len(ungraded)} of {len(students)} submissions have no mark: {', '.join(ungraded)}")


def _print_and_record(root: Path, course: Any, result: Any, as_json: bool) -> bool:
    """Record a result, print it and the recorded mark; whether there is one."""
    import json

    from autograder.gradebook import NoMark, record
    from autograder.report import submission_report

    recorded, failure = None, ""
    try:
        recorded = record(root, course, result)
    except NoMark as error:
        failure = str(error)
    if as_json:
        data = result.model_dump(
            mode="json", exclude={"cells": True, "tasks": {"__all__": {"checks": {"__all__": {"detail"}}}}}
        )
        marks = {"score": result.score, "max_score": result.max_score, "recorded": recorded and recorded.score}
        click.echo(json.dumps({**data, **(marks if recorded else {}), "failure": failure}))
    else:
        click.echo(submission_report(result))
        if failure:
            click.echo(f"No mark was recorded: {failure}", err=True)
        elif recorded and recorded.score != result.score:
            penalty = f", late penalty {recorded.late_penalty:g}" if recorded.late_penalty else ""
            click.echo(f"In the gradebook: {recorded.score:g} of {recorded.max_score:g}{penalty}")
    return recorded is not None


@main.command()
@click.argument("name")
@click.argument("student")
@click.argument("task", required=False)
@_command
def show(name: str, student: str, task: str | None) -> None:
    """Show an instructor everything that grading a submission found, or one of its tasks.

    Prints what the student may see and what only instructors may: expected and actual values, tracebacks, what the
    student's code printed during the hidden checks.

    \b
    Example:
      course show information_theory ada
      course show information_theory ada kl_divergence
    """
    from autograder.course import CourseError, find_root, load_course
    from autograder.grading import check_student_id
    from autograder.report import instructor_report
    from autograder.results import load_result, result_path

    root = find_root()
    load_course(root).assignment(name)
    result = load_result(result_path(root, name, check_student_id(student)))
    if result is None:
        raise CourseError(f"{student}'s {name} has not been graded: run `course grade {name} --student {student}`.")
    tasks = [found.name for found in result.tasks]
    if task is not None and task not in tasks:
        raise CourseError(f"{name} has no task {task!r}; its tasks are {', '.join(tasks)}.")
    click.echo(instructor_report(result, task))


@main.command()
@click.option(
    "--to",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Make the throw-away course in this folder.  [default: demo/ in the course]",
)
@_command
def demo(folder: Path | None) -> None:
    """Grade four made-up submissions in a throw-away copy of the course.

    Releases the first assignment there, hands in a perfect, an untouched, a half-right and a cheating notebook, grades
    them the whole way into a gradebook, and prints their marks. The course's own gradebook is not touched. Exits with 1
    where a mark is not what it must be.

    \b
    Example:
      course demo
    """
    from autograder.course import find_root
    from autograder.demo import run

    run(find_root(), folder)
