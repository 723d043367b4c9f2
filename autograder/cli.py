"""The `course` command: what an instructor types.

Each command imports what it needs when it runs, so that help comes at once. Expected failures are one message and an
exit code: 1 for something that the instructor can put right, 2 for a command that is typed wrong.
"""

import sys
from collections.abc import Callable
from functools import update_wrapper
from pathlib import Path
from typing import Any

import click

# jsonschema, under every notebook library, takes three seconds to import this checker of web addresses, if it is there.
# No notebook of ours needs it.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

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
