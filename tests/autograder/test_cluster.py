"""A class graded by a real Dask scheduler and three real workers: the marks of a local run, whatever dies meanwhile."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from commands import run
from conftest import TinyCourse
from distributed import Client, Security
from nbgrader.api import Gradebook
from test_classroom import ANSWERS, SCORES, hand_in, marks

from autograder import cluster_worker
from autograder.classroom import grade_all
from autograder.cluster import GPU, Cluster, _complaint, connected, resources_for
from autograder.cluster_worker import Carried, carried
from autograder.course import CourseError, load_course
from autograder.fingerprint import fingerprint
from autograder.grading import Grader
from autograder.results import SubmissionResult, Verdict
from autograder.submission import Cell, Submission
from autograder.worker import WorkerFailed

CLASS = len(ANSWERS)
EXPECTED = [(f"student{number}", score) for number, score in enumerate(SCORES)]
PATIENCE_SECONDS = 300.0


def until(look: Callable[[], Any], what: str) -> Any:
    """What `look` finds, asked again and again until it finds something."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.05)
    pytest.fail(f"in {PATIENCE_SECONDS:.0f} s there was no {what}")


@dataclass
class Dask:
    """A scheduler on this machine, and its workers by address."""

    address: str
    scheduler: subprocess.Popen[bytes]
    workers: dict[str, subprocess.Popen[bytes]]
    client: Client

    def graders(self) -> list[psutil.Process]:
        """The grading processes of all workers."""
        return [one for each in self.workers.values() for one in psutil.Process(each.pid).children() if is_grader(one)]

    def busy(self) -> list[str]:
        """Addresses of workers that are grading something now."""
        # a lambda, which travels as a whole: workers cannot import this file
        found = self.client.run(lambda dask_worker: dask_worker.state.executing_count)
        return [address for address, count in found.items() if count]

    @property
    def tagged(self) -> set[str]:
        """Addresses of workers with the tag of a GPU."""
        workers = self.client.scheduler_info()["workers"]
        return {address for address, one in workers.items() if GPU in one["resources"]}


@contextmanager
def dask(
    folder: Path,
    environment: dict[str, str],
    workers: list[tuple[Path, list[str]]],
    security: Security | None = None,
) -> Iterator[Dask]:
    """Start a scheduler, and a worker in each of the folders with its own options."""
    folder.mkdir(exist_ok=True)
    started = []
    log = (folder / "log").open("wb")

    def start(cwd: Path, *command: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(["dask", *command], cwd=cwd, env=environment, stdout=log, stderr=log))
        return started[-1]

    try:
        file = folder / "scheduler.json"
        where = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
        where += ["--protocol", "tls"] if security else []
        scheduler = start(folder, "scheduler", *where)
        common = ["--scheduler-file", str(file), "--no-dashboard", "--local-directory", str(folder)]
        processes = {
            f"worker{number}": start(cwd, "worker", *common, "--name", f"worker{number}", *options)
            for number, (cwd, options) in enumerate(workers)
        }
        until(lambda: file.exists() and file.stat().st_size, "scheduler")
        address = json.loads(file.read_text())["address"]
        with Client(address, set_as_default=False, security=security) as client:
            until(lambda: len(client.nthreads()) == len(workers), "worker for each folder")
            names = {one["name"]: at for at, one in client.scheduler_info()["workers"].items()}
            yield Dask(address, scheduler, {names[name]: one for name, one in processes.items()}, client)
    finally:
        for process in started:
            process.kill()
            process.wait()
        log.close()


@pytest.fixture(scope="module")
def course(released_once: TinyCourse, tmp_path_factory: pytest.TempPathFactory) -> TinyCourse:
    """A released course with short limits; nobody has handed in."""
    root = tmp_path_factory.mktemp("cluster") / "course"
    shutil.copytree(released_once.root, root)
    course = TinyCourse(root)
    course.edit(course.config, "import Assignment, Course", "import Assignment, Course, Limits")
    course.edit(
        course.config, "    assignments=", "    limits=Limits(cell_seconds=1, check_seconds=1),\n    assignments="
    )
    return course


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate and its key, by which scheduler, workers and graders know each other."""
    folder = tmp_path_factory.mktemp("keys")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=course",
         "-keyout", "key.pem", "-out", "certificate.pem"], cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return folder / "certificate.pem", folder / "key.pem"


@pytest.fixture(scope="module")
def environment_with_keys(environment: dict[str, str], keys: tuple[Path, Path]) -> dict[str, str]:
    """Dask's configuration, which may be in variables as well as in `~/.config/dask`, names certificate and key."""
    certificate, key = map(str, keys)
    start = "DASK_DISTRIBUTED__COMM__TLS__"
    ends = [f"{start}{role}__" for role in ("SCHEDULER", "WORKER", "CLIENT")]
    own = {f"{end}CERT": certificate for end in ends} | {f"{end}KEY": key for end in ends}
    return {**environment, f"{start}CA_FILE": certificate, **own}


@pytest.fixture(scope="module")
def three(
    course: TinyCourse,
    environment_with_keys: dict[str, str],
    keys: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Dask]:
    """Three workers, each in a checkout of its own that holds no submission; the last one has the tag of a GPU."""
    folder = tmp_path_factory.mktemp("dask")
    certificate, key = map(str, keys)
    security = Security(
        tls_ca_file=certificate, tls_client_cert=certificate, tls_client_key=key, require_encryption=True
    )
    workers = []
    for number in range(3):
        checkout = folder / f"checkout{number}"
        shutil.copytree(course.root, checkout, ignore=shutil.ignore_patterns("gradebook.db"))
        options = ["--nthreads", "1", "--no-nanny", *(["--resources", f"{GPU}=1"] if number == 2 else [])]
        workers.append((checkout, options))
    with dask(folder / "run", environment_with_keys, workers, security) as running:
        yield running


def grading(root: Path, environment: dict[str, str], *options: str) -> subprocess.Popen[str]:
    """`course grade`, begun."""
    return subprocess.Popen(
        ["course", "grade", "shapes", *options], cwd=root, env={**environment, "PYTHONUNBUFFERED": "1"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # a shell's background job ignores it, and so would what it starts
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def hand_in_all(course: TinyCourse) -> None:
    for number, answers in enumerate(ANSWERS):
        hand_in(course, f"student{number}", answers)


def is_grader(process: psutil.Process) -> bool:
    try:
        return "autograder.worker" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


@pytest.mark.long
def test_workers_with_another_course_are_refused_and_told_apart(
    course: TinyCourse, three: Dask, environment_with_keys: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(course.root, tmp_path / "newer")
    newer = TinyCourse(tmp_path / "newer")
    newer.edit(newer.checks, "weight=2", "weight=3")
    newer.edit(newer.config, "cell_seconds=1", "cell_seconds=2")
    hand_in(newer, "student0", {})
    refused = run(newer.root, environment_with_keys, "course", "grade", "shapes", "--cluster", three.address)
    assert refused.returncode == 1
    there = three.client.nthreads()
    assert f"{len(there)} of {len(there)} workers carry another course" in refused.stderr
    for address in there:
        (line,) = [line for line in refused.stderr.splitlines() if address in line]
        assert "checks differ: bring its checkout up to date; limits differ: bring its course_config.py" in line
    assert not (newer.root / "results/shapes/student0.json").exists()


@pytest.mark.long
def test_a_device_with_a_tag_goes_to_workers_with_the_tag(three: Dask) -> None:
    assert len(three.tagged) == 1 and len(three.client.nthreads()) > 1
    for device, allowed in (("cuda", three.tagged), ("cpu", set(three.client.nthreads()))):
        cluster = Cluster(three.client, device, Carried(), "shapes", pytest.fail)
        assert set(cluster.workers()) == allowed
        futures = [cluster.executor.submit(os.getpid) for _ in range(20)]
        assert {future.result() for future in futures} <= {three.workers[address].pid for address in allowed}
        cluster.close()
    assert resources_for("cpu") == {}


@pytest.fixture(scope="module")
def graded(
    course: TinyCourse, three: Dask, environment_with_keys: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> TinyCourse:
    """The class, graded by three workers: interrupted, begun again, and one of the workers killed meanwhile."""
    root = tmp_path_factory.mktemp("graded") / "course"
    shutil.copytree(course.root, root)
    hand_in_all(TinyCourse(root))

    # Two of three workers come to a standstill with submissions in their hands; the third has graded one.
    command = grading(root, environment_with_keys, "--cluster", three.address)
    until(lambda: len(three.graders()) > 1, "second grading process")
    stopped = three.graders()[:2]
    for grader in stopped:
        grader.suspend()
    assert command.stdout is not None
    assert "student" in command.stdout.readline()
    command.send_signal(signal.SIGINT)
    _, said = command.communicate(timeout=PATIENCE_SECONDS)
    assert command.returncode == 1
    assert "Interrupted" in said and "Traceback" not in said
    until(lambda: three.client.run_on_scheduler(lambda dask_scheduler: not dask_scheduler.tasks), "empty scheduler")
    assert 1 <= len(marks(root)) < CLASS
    for grader in stopped:
        grader.resume()
    until(lambda: not three.busy(), "end of what was thrown away")

    # All have one, and hold it until one of them is dead.
    stopped = three.graders()
    assert len(stopped) == len(three.workers) == 3
    for grader in stopped:
        grader.suspend()
    command = grading(root, environment_with_keys, "--cluster", three.address)
    lost = until(lambda: three.busy() or command.poll(), "worker in the middle of a submission")[0]
    begun_by_it = psutil.Process(three.workers[lost].pid).children(recursive=True)
    assert begun_by_it
    three.workers[lost].kill()
    for grader in stopped:
        grader.resume()
    printed, said = command.communicate(timeout=PATIENCE_SECONDS)
    assert (command.returncode, said) == (0, "")
    assert f"{CLASS} submissions" in printed
    assert lost not in three.client.nthreads()
    assert psutil.wait_procs(begun_by_it, timeout=PATIENCE_SECONDS)[1] == []
    return TinyCourse(root)


@pytest.mark.long
def test_a_class_that_is_interrupted_and_loses_a_worker_is_graded_whole(
    graded: TinyCourse, three: Dask, environment_with_keys: dict[str, str]
) -> None:
    assert three.address.startswith("tls://")
    assert marks(graded.root) == EXPECTED
    for options in ([], ["--cluster", three.address]):
        again = run(graded.root, environment_with_keys, "course", "grade", "shapes", *options)
        assert f"{CLASS} submissions: 0 graded, {CLASS} unchanged" in again.stdout


@pytest.mark.long
def test_the_gradebook_is_that_of_a_local_run(
    course: TinyCourse, graded: TinyCourse, environment: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(course.root, tmp_path / "local")
    hand_in_all(TinyCourse(tmp_path / "local"))
    done = run(tmp_path / "local", environment, "course", "grade", "shapes")
    assert done.returncode == 0, done.stderr
    local = whole_gradebook(tmp_path / "local")
    assert len(local) == (1 + 2 + 2) * CLASS  # a score, and for each of two tasks a mark and a comment
    assert whole_gradebook(graded.root) == local


def whole_gradebook(root: Path) -> list[tuple[object, ...]]:
    """Each mark of every student, what they are told of each task, their late penalty and their whole score."""
    with Gradebook(f"sqlite:///{root / 'gradebook.db'}", "tiny") as gradebook:
        submissions = gradebook.assignment_submissions("shapes")
        notebooks = [(one, notebook) for one in submissions for notebook in one.notebooks]
        return sorted([
            *((one.student.id, one.score, one.late_submission_penalty) for one in submissions),
            *((one.student.id, grade.name, grade.auto_score, grade.manual_score, grade.needs_manual_grade)
              for one, notebook in notebooks for grade in notebook.grades),
            *((one.student.id, comment.name, comment.auto_comment) for one, notebook in notebooks
              for comment in notebook.comments),
        ], key=repr)  # fmt: skip


# what goes wrong, without grading anything


def submission(student: str) -> Submission:
    return Submission("shapes", student, (Cell("a", 0, "student", "print('λ \\ud800')"),), {"a.bin": bytes(range(256))})


def test_a_submission_crosses_whole() -> None:
    sent = submission("ada")
    arrived = Submission.from_json(sent.to_json())
    assert arrived == sent and arrived.digest() == sent.digest()
    with pytest.raises(ValueError):
        Submission.from_json(sent.to_json().replace(b'"student"', b'"demon"'))


def test_a_worker_elsewhere_or_with_a_newer_checkout_grades_nothing(
    course: TinyCourse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        "There is no course_config.py" in Carried.model_validate_json(cluster_worker.describe("shapes", "cpu")).problem
    )
    with pytest.raises(WorkerFailed, match=r"There is no course_config\.py"):
        cluster_worker.grade("shapes", "cpu", "", submission("ada").to_json())
    monkeypatch.chdir(course.root)
    here = Carried.model_validate_json(cluster_worker.describe("shapes", "cpu"))
    assert not here.problem
    with Grader(course.root, load_course(course.root), "shapes") as grader:
        assert here == carried(course.root, grader.course, grader.digests, grader.device)
    with pytest.raises(WorkerFailed, match="is not, or no longer, what the grader began with"):
        cluster_worker.grade("shapes", "cpu", "another", submission("ada").to_json())


def test_what_is_wrong_with_a_worker_is_said_with_what_to_do() -> None:
    here = Carried(folder="/here", parts={"versions": "1", "sandbox": "bubblewrap"}, versions={"torch": "2.13.0"})
    there = Carried(folder="/there", parts={"versions": "2", "sandbox": "none"}, versions={"torch": "2.12.0"})
    told = _complaint(here, there.model_dump_json())
    assert "in /there: torch 2.12.0 (here 2.13.0): install from the same constraints.txt" in told
    assert "COURSE_SANDBOX" in told
    assert _complaint(here, here.model_dump_json()) == ""
    assert "Install this package there" in _complaint(here, ModuleNotFoundError("No module named 'autograder'"))
    assert "no such assignment" in _complaint(here, Carried(problem="no such assignment").model_dump_json())


@pytest.mark.long
def test_answers_that_are_no_result_of_what_was_sent_are_faults_of_ours(three: Dask) -> None:
    asked = submission("ada")
    cluster = Cluster(three.client, "cpu", Carried(), "shapes", pytest.fail)
    right = fingerprint({"submission": asked.digest()})
    for student, decided, verdict in (
        ("ada", right, Verdict.GRADED), ("ada", "another", Verdict.GRADER_FAULT), ("bob", right, Verdict.GRADER_FAULT)
    ):  # fmt: skip
        result = SubmissionResult(assignment="shapes", student=student, verdict=Verdict.GRADED, fingerprint=decided)
        found = cluster._validated(asked, result.model_dump_json().encode())
        assert (found.student, found.verdict) == ("ada", verdict)
    assert cluster._validated(asked, b"{}").verdict == Verdict.GRADER_FAULT


def test_without_dask_or_a_scheduler_one_is_told_what_is_missing(
    course: TinyCourse, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Grader(course.root, load_course(course.root), "shapes") as grader:
        for address in ("tcp://127.0.0.1:9", "no-such-protocol://x", "tls://127.0.0.1:9"):
            with (
                pytest.raises(CourseError, match="no Dask scheduler to be reached at"),
                connected(address, grader, pytest.fail),
            ):
                pass
        monkeypatch.setitem(sys.modules, "distributed", None)
        with pytest.raises(CourseError, match="pip install"), connected("tcp://127.0.0.1:9", grader, pytest.fail):
            pass


def test_a_grader_that_is_closed_starts_nothing_for_threads_that_come_late(course: TinyCourse, tmp_path: Path) -> None:
    shutil.copytree(course.root, tmp_path / "course")
    hand_in(TinyCourse(tmp_path / "course"), "ada", {})
    with Grader(tmp_path / "course", load_course(course.root), "shapes") as grader:
        pass
    with pytest.raises(CancelledError):
        grader.grade("ada")


def test_a_lost_scheduler_ends_the_run_and_names_what_goes_on(environment: dict[str, str], tmp_path: Path) -> None:
    said: list[str] = []
    failures: list[BaseException] = []
    with (
        dask(tmp_path / "dask", environment, []) as running,
        Client(running.address, set_as_default=False) as client,
    ):
        cluster = Cluster(client, "cpu", Carried(), "shapes", said.append)

        def grade() -> None:
            try:
                cluster.grade(submission("ada"))
            except BaseException as error:
                failures.append(error)

        waiting = threading.Thread(target=grade)
        waiting.start()
        until(lambda: said, "word of a cluster without workers")
        running.scheduler.kill()
        waiting.join(PATIENCE_SECONDS)
        cluster.close()
    assert "has no worker" in said[0] and len(said) == 1
    assert isinstance(failures[0], WorkerFailed) and "the same command goes on" in str(failures[0])


POISON = """
import os
from autograder import cluster_worker
from autograder.results import SubmissionResult, Verdict
from autograder.submission import Submission

def grade(assignment, device, content_hash, data):
    submission = Submission.from_json(data)
    if submission.student == "poison":
        os.kill(os.getpid(), 9)
    return SubmissionResult(
        assignment=assignment, student=submission.student, verdict=Verdict.GRADED, reason=str(os.getpid())
    ).model_dump_json().encode()

cluster_worker.grade = grade
"""


@pytest.mark.long
def test_a_submission_that_kills_every_worker_has_no_mark_and_takes_none_from_others(
    course: TinyCourse, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "poison.py").write_text(POISON)
    root = tmp_path / "course"
    shutil.copytree(course.root, root)
    students = ["poison", *(f"student{number}" for number in range(12))]
    for student in students:
        hand_in(TinyCourse(root), student, {})
    monkeypatch.setattr(
        Cluster, "_validated", lambda _self, _submission, data: SubmissionResult.model_validate_json(data)
    )
    options = ["--nthreads", "2", "--preload", str(tmp_path / "poison.py")]
    with (
        dask(tmp_path / "dask", environment, [(root, options), (root, options)]) as running,
        Grader(root, load_course(root), "shapes", elsewhere=lambda: cluster) as grader,
        connected(running.address, grader, print) as cluster,
        ThreadPoolExecutor(8) as pool,
    ):
        results = [graded.result for graded in grade_all(grader, students, pool)]
    assert results[-1].student == "poison"  # tried once more, after all others
    assert results[-1].verdict == Verdict.GRADER_FAULT and "Dask workers died" in results[-1].reason
    assert {result.student for result in results[:-1]} == set(students[1:])
    assert all(result.verdict == Verdict.GRADED for result in results[:-1])


@pytest.mark.long
def test_a_dask_worker_replaces_a_grading_process_that_failed(
    course: TinyCourse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "course"
    shutil.copytree(course.root, root)
    hand_in(TinyCourse(root), "ada", {})
    monkeypatch.chdir(root)
    with Grader(root, load_course(root), "shapes") as grader:
        handed_in = grader._read("ada").to_json()
    here = Carried.model_validate_json(cluster_worker.describe("shapes", "cpu")).content_hash

    def grade() -> SubmissionResult:
        return SubmissionResult.model_validate_json(cluster_worker.grade("shapes", "cpu", here, handed_in))

    try:
        assert grade().score == 5.0
        (first,) = [one for one in psutil.Process().children() if is_grader(one)]
        first.kill()
        assert grade().verdict == Verdict.GRADER_FAULT
        assert grade().score == 5.0
        assert grade().score == 5.0
        (second,) = [one for one in psutil.Process().children() if is_grader(one)]
        assert second.pid != first.pid
    finally:
        cluster_worker._kept_warm.close()
    assert not [one for one in psutil.Process().children() if is_grader(one)]
