"""The `course` command: what an instructor types.

Each command imports what it needs when it runs, so that help comes at once. Expected failures are one message and an
exit code: 1 for something that the instructor can put right, 2 for a command that is typed wrong.
"""

from collections.abc import Callable
from functools import update_wrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from autograder.course import Course

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
            context.exit(error.exit_code)

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


def _who(root: Path, course: "Course", name: str, student: str | None) -> list[str]:
    """Whose submissions of an assignment a command is about: one student's, or everyone's."""
    from autograder.course import CourseError, NoSuchName, suggestion
    from autograder.grading import check_student_id
    from autograder.submission import misplaced, students_of

    course.assignment(name)
    students = students_of(root, name)
    if student is not None and check_student_id(student) not in students:
        raise NoSuchName(f"{student} has handed in no {name}{suggestion(student, students)}")
    if not students:
        lines = [f"There are no submissions of {name}: they go to submitted/STUDENT/{name}/{name}.ipynb."]
        raise CourseError("\n".join([*lines, *misplaced(root, name)]))
    return students if student is None else [student]


@main.command()
@click.argument("name")
@click.option("--title", help="What the notebook is headed.  [default: the name]")
@_command
def new(name: str, title: str | None) -> None:
    """Start a new assignment.

    Writes solutions/NAME.py with one small task, tests/checks/test_NAME.py with its hidden checks and
    tests/variants/NAME.py with mistakes and other right answers, all complete, and prints the lines that enter it in
    course_config.py. What is there already is not touched. docs/authoring.md goes on from here.

    \b
    Example:
      course new probability --title "Probability"
    """
    import json

    from autograder.course import Assignment, NoSuchName, find_root
    from autograder.skeleton import write_assignment

    title = title or name.replace("_", " ").capitalize()
    try:
        Assignment(name=name, title=title)
    except ValueError:
        raise NoSuchName(f"{name!r} cannot be an assignment's name: small letters, digits and _ make one.") from None
    root = find_root()
    for path in write_assignment(root, name, title):
        click.echo(f"Written: {path.relative_to(root)}")
    entry = f"Assignment(name={json.dumps(name)}, title={json.dumps(title, ensure_ascii=False)}, points=20),"
    click.echo(f"\nNow enter it in course_config.py, among the assignments:\n\n        {entry}\n")
    click.echo(f"and see that it works:\n\n    course lint {name} && course release {name} && course audit {name}")


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
@click.option(
    "--jobs",
    type=click.IntRange(1, 1024),
    help="Submissions graded side by side.  [default: one per core; on a cluster two per thread that it has by then]",
)
@click.option(
    "--cluster",
    metavar="ADDRESS",
    help="Grade on the workers of this Dask scheduler, such as tcp://host:8786 or tls://host:8786, in place of this "
    "machine. Whoever reaches a scheduler without TLS can run code on all its workers: docs/scaling.md.",
)
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), help="In place of the course's device. auto: the CPU."
)
@click.option(
    "--sandbox",
    type=click.Choice(["bubblewrap", "none"]),
    help="In place of the course's sandbox. With none, student code runs with all your rights, and every mark says so.",
)
@click.option("--force", is_flag=True, help="Grade again even where nothing has changed.")
@click.option("--dry-run", is_flag=True, help="Grade and show what would change, but record no mark.")
@click.option("--json", "as_json", is_flag=True, help="Print results as JSON, one line per submission.")
@_command
def grade(
    name: str,
    student: str | None,
    jobs: int | None,
    cluster: str | None,
    device: str | None,
    sandbox: str | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Grade submissions of an assignment and record the marks in nbgrader's gradebook.

    Reads submitted/STUDENT/NAME/NAME.ipynb, runs it in the sandbox, lets the hidden checks question it from outside,
    and prints the mark; for a single student also which checks passed, and a hint where one did not. Tries first to
    break out of the sandbox, as `course doctor` does, and grades nothing where that works. What has not
    changed since it was graded is not graded again, so an interrupted run goes on where it stopped. A notebook under
    another name is reported with the command that puts it right. Exits with 0 when every submission has a mark, with 1
    when some could not be graded, each named with its reason, and with 2 for a command that is typed wrong.

    With --cluster, workers that stand in another version of the course are refused. One that dies costs its submissions
    another try, and no mark. The device "auto" then means the CPU; "cuda" goes to workers started with
    --resources "GPU=1".

    \b
    Example:
      course grade information_theory
      course grade information_theory --student ada
      course grade information_theory --dry-run
      course grade information_theory --cluster tls://head.example.org:8786
    """
    import os

    from autograder.course import DEVICE_VARIABLE, SANDBOX_VARIABLE, find_root, load_course
    from autograder.terminal import Style, grade_and_print

    os.environ.update({DEVICE_VARIABLE: device} if device else {})  # which worker and nbgrader read too
    os.environ.update({SANDBOX_VARIABLE: sandbox} if sandbox else {})
    root = find_root()
    course = load_course(root)
    students = _who(root, course, name, student)
    if course.sandbox == "none":
        click.echo('WARNING: sandbox="none": student code runs with all your rights, and could change marks.', err=True)
    style: Style = "json" if as_json else "report" if student else "lines"
    grade_and_print(root, course, name, students, style, jobs=jobs, force=force, dry_run=dry_run, cluster=cluster)


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
@click.argument("name")
@click.option("--student", help="Make this student's page only.  [default: every submission's]")
@click.option("--jobs", type=click.IntRange(1, 64), help="Pages made side by side.  [default: one per core]")
@click.option("--force", is_flag=True, help="Make pages even where nothing has changed.")
@_command
def feedback(name: str, student: str | None, jobs: int | None, force: bool) -> None:
    """Make the feedback pages of an assignment that was graded, one for each student.

    Writes feedback/STUDENT/NAME/NAME.html: the student's notebook with marks, comments and a report on the hidden
    checks of each task. A page holds no script, loads nothing and shows formulas without a network. Pages that nothing
    has changed for stay. A submission without a mark gets no page and is named. Exits with 1 where a graded submission
    has no page.

    \b
    Example:
      course feedback information_theory
      course feedback information_theory --student ada
    """
    from autograder.course import CourseError, find_root, load_course
    from autograder.feedback import Outcome, make_pages, page_path

    root = find_root()
    course = load_course(root)
    students = _who(root, course, name, student)
    pages = []
    for page in make_pages(root, course, name, students, jobs=jobs, force=force):
        pages.append(page)
        done = page.outcome in (Outcome.MADE, Outcome.UP_TO_DATE)
        where = page_path(root, name, page.student).relative_to(root)
        new = "  (up to date)" if page.outcome == Outcome.UP_TO_DATE else ""
        click.echo(f"{page.student}: {where}{new}" if done else f"{page.student}: no page: {page.reason}", err=not done)
    ungraded = sum(page.outcome == Outcome.UNGRADED for page in pages)
    failed = sum(page.outcome == Outcome.FAILED for page in pages)
    if failed:
        raise CourseError(f"{failed} of {len(pages) - ungraded} graded submissions have no page.")
    if ungraded == len(pages):
        raise CourseError(f"Nothing of this is graded: run `course grade {name}` first.")


@main.command()
@_names
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one line per assignment.")
@_command
def status(names: tuple[str, ...], as_json: bool) -> None:
    """Show how assignments stand: all, or those named; for a single one also each student.

    Counts who submitted; whose result is there and would be found again, is stale because the submission, the checks or
    something else that decides it has changed, or is missing; and who was late, had a fault in the submission, or has a
    mark in the gradebook that is not the result's. Only reads, and grades nothing.

    \b
    Example:
      course status
      course status information_theory
    """
    from autograder.course import find_root, load_course
    from autograder.status import as_data, course_status, student_lines, table

    root = find_root()
    found = course_status(root, load_course(root), names)
    if as_json:
        for one in found:
            click.echo(as_data(one, with_students=len(names) == 1))
        return
    click.echo(table(found))
    if len(names) == 1 and found[0].students:
        click.echo(f"\n{student_lines(found[0])}")


@main.command()
@click.argument("name")
@click.argument("student", required=False)
@_command
def log(name: str, student: str | None) -> None:
    """Show how the marks of an assignment came about: all, or one student's.

    Prints a line for each mark that the gradebook came to hold: when, the points that counted before and count now, the
    late penalty in them, and why, such as "submission" or "checks" for what had changed, or "marked by hand". Each
    recording adds to the file, results/NAME/marks.jsonl, and nothing is ever taken out of it.

    \b
    Example:
      course log information_theory
      course log information_theory ada
    """
    from autograder.course import CourseError, find_root, load_course
    from autograder.marks_log import read_log, rows
    from autograder.status import align, shown

    root = find_root()
    load_course(root).assignment(name)
    lines = [line for line in read_log(root, name) if student in (None, line.student)]
    if not lines:
        raise CourseError(f"No mark of {name} was recorded yet" + (f" for {student}." if student else "."))
    click.echo("\n".join(align([[shown(cell) for cell in row] for row in rows(lines)])))


@main.command()
@_names
@click.option(
    "--to", "path", type=click.Path(dir_okay=False, path_type=Path), help="The file to write.  [default: marks.csv]"
)
@_command
def export(names: tuple[str, ...], path: Path | None) -> None:
    """Write the marks of assignments as CSV: all, or those named.

    A line for each student and assignment: points as they count, late penalty, points from the checks and by hand,
    whether the submission or the grader was at fault and why, in which sandbox and on which device it was graded, when
    it was recorded, and whether the mark is stale. Where there is no mark, its cells are blank: that is no zero. No
    cell can be a formula. `nbgrader export` writes the same table.

    \b
    Example:
      course export
      course export information_theory --to marks.csv
    """
    from autograder.course import find_root, load_course
    from autograder.export import FILE, export_marks

    root = find_root()
    path = path or Path(FILE)
    count = export_marks(root, load_course(root), path, names)
    click.echo(f"{count} lines of marks are in {path}")


@main.command()
@_names
@click.option("--jobs", type=click.IntRange(1, 64), help="Processes that judge side by side.  [default: one per core]")
@click.option("--html", "page", type=click.Path(dir_okay=False, path_type=Path), help="Also write the report here.")
@_command
def audit(names: tuple[str, ...], jobs: int | None, page: Path | None) -> None:
    """Test the hidden checks of assignments: all, or those named.

    The reference must earn everything, with fifty seeds; the untouched release nothing; each mistake in tests/variants/
    must lose points in its own task, each alternative none; and of the mutants, which are the reference with one small
    error made by machine, the checks of each task must notice 95% or more. Prints a table, and as diffs the mutants
    that nobody noticed. Writes tests/audit/NAME.json, to be committed: `make test` fails where it is out of date. Exits
    with 1 where a target is missed.

    A mutant that computes what the reference computes is entered, with the reason, in tests/equivalents/NAME.toml.

    \b
    Example:
      course audit information_theory
      course audit --html audit.html
    """
    from autograder import audit as auditing
    from autograder.audit_report import last_line, survivors_text, table
    from autograder.audit_report import page as as_page
    from autograder.course import CourseError, find_root, load_course
    from autograder.terminal import counting

    root = find_root()
    found = []
    for assignment in load_course(root).select(names):
        with counting(f"auditing {assignment.name}") as tell:
            found.append(auditing.audit(root, assignment.name, jobs=jobs, tell=tell))
        auditing.save_table(root, found[-1])
        if told := survivors_text(found[-1]):
            click.echo(f"{told}\n")
        click.echo(table(found[-1:]))
    if page:
        page.write_text(as_page(found), encoding="utf-8")
    short = [f"{one.assignment}: {problem}" for one in found for problem in one.shortcomings]
    if short:
        click.echo("\n".join(short) + "\n", err=True)
    click.echo(last_line(found))
    if short:
        raise CourseError(f"{len(short)} things fall short of what is asked of hidden checks.")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; what is being done goes to stderr.")
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Find out whether grading works and is safe on this machine, and what to do where it is not.

    Looks at versions, bubblewrap, namespaces, disk, memory, and at the course and its gradebook where you are in one.
    Starts the real sandbox and tries to break out of it, each way also from outside to prove the attempt. Takes some
    ten seconds, changes nothing, and exits with 1 where there is a problem.

    \b
    Example:
      course doctor
    """
    import dataclasses
    import json

    from autograder.course import CourseError, find_root
    from autograder.doctor import Finding, Level, examine, line, verdict

    root = None
    try:
        root = find_root()
    except CourseError:
        click.echo("Not in a course's folder: only the machine is looked at.", err=True)
    findings = []
    for step in examine(root):
        if isinstance(step, Finding):
            findings.append(step)
        if not as_json or not isinstance(step, Finding):
            click.echo(line(step), err=as_json)
    last, safe = verdict(findings), all(one.level != Level.PROBLEM for one in findings)
    data = {"safe": safe, "verdict": last, "findings": [dataclasses.asdict(one) for one in findings]}
    click.echo(json.dumps(data) if as_json else f"\n{last}")
    context.exit(0 if safe else 1)


@main.command()
@click.option(
    "--to",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Make the throw-away course in this folder.  [default: demo/ in the course]",
)
@_command
def demo(folder: Path | None) -> None:
    """Grade a class of made-up submissions in a throw-away copy of the course.

    Releases the first assignment there and hands in what an instructor meets: right answers in two styles, mistakes, an
    untouched notebook, a syntax error, an endless loop, memory without end, a broken file, no file, a wrong name, and
    tricks. Grades them the whole way into a gradebook, makes feedback, and prints each mark with the reason. The
    course's own gradebook is not touched. Exits with 1 where a mark is not what it must be.

    \b
    Example:
      course demo
    """
    from autograder.course import find_root
    from autograder.demo import run

    run(find_root(), folder)
