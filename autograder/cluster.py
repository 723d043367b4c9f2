"""Grading on the workers of a Dask cluster, with the marks that grading on this machine would give.

    threads of the grader ──submission, as JSON──▶ Dask scheduler ──▶ Dask worker ──▶ its warm grading process
                          ◀──result, as JSON──────

Workers stand in a checkout of the course. What decides a result must be the same there as here, or nothing is sent.
A Dask worker that dies costs its submissions another try elsewhere: Dask gives them to the next worker.
"""

import contextlib
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future
from typing import TYPE_CHECKING

from autograder import cluster_worker
from autograder.cluster_worker import Carried, carried
from autograder.course import CourseError
from autograder.fingerprint import fingerprint
from autograder.grading import Grader
from autograder.results import SubmissionResult, Verdict
from autograder.submission import Submission
from autograder.worker import WorkerFailed

if TYPE_CHECKING:
    from distributed import Client

GPU = "GPU"
"""The resource that workers with a GPU are started with: `dask worker --resources "GPU=1" ...`."""
CONNECT_SECONDS = 20.0
FIRST_WORKER_SECONDS = 120.0
"""How long the first worker is waited for, which Slurm or Kubernetes may still be starting."""
_LOOK_SECONDS = 5.0
_INSTALL = (
    "Grading on a cluster needs Dask, here and on the workers: pip install --constraint constraints.txt '.[cluster]'"
)


def resources_for(device: str) -> dict[str, float]:
    """What a worker must have been started with to be given submissions for a device."""
    return {GPU: 1} if device == "cuda" else {}


class Cluster:
    """The workers of a Dask cluster, as what grades one assignment's submissions (see `autograder.grading.Grades`)."""

    def __init__(self, client: "Client", device: str, here: Carried, assignment: str, tell: Callable[[str], None]):
        """Take the cluster as it is; `connected` looks at the workers first.

        Args:
            client: Connected to the scheduler.
            device: The device that submissions run on.
            here: What this machine carries of the assignment.
            assignment: Name of the assignment.
            tell: Is given a sentence where work stands still.
        """
        self.client, self.device, self.here, self.assignment, self.tell = client, device, here, assignment, tell
        self._executor: Executor | None = None
        self._opening = threading.Lock()
        self._looking = threading.Lock()
        self._said_that_none_is_left = False

    @property
    def executor(self) -> Executor:
        """Dask's executor, which gives what it gets to workers that have the device."""
        with self._opening:
            if self._executor is None:
                # pure: the same submission graded again is graded again, not looked up
                self._executor = self.client.get_executor(pure=False, resources=resources_for(self.device))
            return self._executor

    def workers(self) -> dict[str, int]:
        """Addresses of the workers that have the device, each with how many submissions it grades side by side."""
        found: dict[str, int] = {}
        for address, about in self.client.scheduler_info()["workers"].items():
            rooms = [int(about["resources"].get(name, 0) // each) for name, each in resources_for(self.device).items()]
            found[address] = min([about["nthreads"], *rooms])
        return {address: count for address, count in found.items() if count}

    def grade(self, submission: Submission) -> SubmissionResult:
        """Grade one submission on whichever worker is free; thread-safe.

        Raises:
            WorkerFailed: A worker can grade nothing, or the scheduler is lost, and why.
            CancelledError: `close` was called meanwhile.
        """
        executor = self.executor
        arguments = (self.assignment, self.device, self.here.content_hash, submission.to_json())
        try:
            data = self._wait(executor.submit(cluster_worker.grade, *arguments))
        except WorkerFailed as error:
            raise WorkerFailed(f"{error}\n{_GOES_ON}") from None
        except Exception as error:
            if self._executor is not executor:
                raise CancelledError from error
            if self.client.status != "running" or isinstance(error, CancelledError):
                raise WorkerFailed(f"The connection to the Dask scheduler was lost. {_GOES_ON}") from None
            return self._fault(submission, _in_words(error))
        return self._validated(submission, data)

    def _wait(self, future: Future[bytes]) -> bytes:
        while True:
            try:
                return future.result(_LOOK_SECONDS)
            except TimeoutError:
                if future.done():
                    return future.result()
                self._look_for_workers()

    def _look_for_workers(self) -> None:
        """Say so where no worker is left: a run would look as if it went on."""
        if not self._looking.acquire(blocking=False):
            return
        try:
            with contextlib.suppress(Exception):  # a lost scheduler ends what is waited for
                left = bool(self.workers())
                if not left and not self._said_that_none_is_left:
                    self.tell(
                        f"{_none(self.device)} The run goes on when one comes; Ctrl-C ends it, and loses nothing."
                    )
                self._said_that_none_is_left = not left
        finally:
            self._looking.release()

    def _validated(self, submission: Submission, data: bytes) -> SubmissionResult:
        """A worker's answer, if it is a result of this submission, decided by what lies here."""
        try:
            result = SubmissionResult.model_validate_json(data)
        except ValueError as error:
            return self._fault(submission, f"a worker's answer is no result: {error}")
        if (result.assignment, result.student) != (submission.assignment, submission.student):
            return self._fault(submission, "a worker's answer is about another submission")
        expected = fingerprint({"submission": submission.digest(), **self.here.parts})
        if result.verdict != Verdict.GRADER_FAULT and result.fingerprint != expected:
            return self._fault(submission, "a worker's answer was decided by something else than what lies here")
        return result

    def _fault(self, submission: Submission, reason: str) -> SubmissionResult:
        return SubmissionResult(
            assignment=self.assignment, student=submission.student, verdict=Verdict.GRADER_FAULT, reason=reason
        )

    def close(self) -> None:
        """Take back what is not graded yet. What a worker has begun it finishes, and throws away."""
        with self._opening:
            executor, self._executor = self._executor, None
        if executor is not None:
            with contextlib.suppress(Exception):  # where the scheduler is gone, so is what it had
                executor.shutdown(wait=False)


@contextlib.contextmanager
def connected(address: str, grader: Grader, tell: Callable[[str], None]) -> Iterator[Cluster]:
    """A cluster whose workers carry the course that a grader carries.

    Args:
        address: The scheduler's, such as `tcp://host:8786`; `tls://` takes keys from Dask's own configuration.
        grader: The assignment's grader on this machine.
        tell: Is given a sentence where something is waited for.

    Raises:
        CourseError: Dask is not installed, the scheduler cannot be reached, there is no worker, or a worker carries
            another course: which one and in what.
    """
    here = carried(grader.root, grader.course, grader.digests, grader.device)
    with _client(address) as client:
        cluster = Cluster(client, grader.device, here, grader.assignment, tell)
        try:
            _wait_for_first(cluster)
            _demand_the_same(cluster)
            yield cluster
        finally:
            cluster.close()


def _client(address: str) -> "Client":
    try:
        from distributed import Client
    except ModuleNotFoundError:
        raise CourseError(_INSTALL) from None
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what goes wrong is told in our own words
    warnings.filterwarnings("ignore", message="Sending large graph")  # a submission with large files
    try:
        return Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise CourseError(
            f"There is no Dask scheduler to be reached at {address}: {error}\n"
            "`dask scheduler` prints its address when it starts; docs/scaling.md has the whole way."
        ) from None


def _wait_for_first(cluster: Cluster) -> None:
    if cluster.workers():
        return
    cluster.tell(f"{_none(cluster.device)} Waiting for the first, at most {FIRST_WORKER_SECONDS:.0f} s.")
    stop = threading.Event()
    for _ in range(int(FIRST_WORKER_SECONDS)):
        stop.wait(1)
        if cluster.workers():
            return
    raise CourseError(f"{_none(cluster.device)} docs/scaling.md has the command that starts one.")


def _none(device: str) -> str:
    tagged = f' with `--resources "{GPU}=1"`, which grading on {device} needs' if resources_for(device) else ""
    return f"The Dask scheduler has no worker{tagged}."


def _demand_the_same(cluster: Cluster) -> None:
    """Refuse workers that would give other marks than this machine.

    Raises:
        CourseError: Which ones, in what, and what to do.
    """
    answers = cluster.client.run(
        cluster_worker.describe, cluster.assignment, cluster.device, workers=list(cluster.workers()), on_error="return"
    )
    complaints = {address: _complaint(cluster.here, answer) for address, answer in sorted(answers.items())}
    lines = [f"  {address}{complaint}" for address, complaint in complaints.items() if complaint]
    if lines:
        count = f"{len(lines)} of {len(answers)} workers carry" if len(answers) > 1 else "The worker carries"
        raise CourseError("\n".join([f"{count} another course than this machine, so nothing was sent out:", *lines]))


def _complaint(here: Carried, answer: object) -> str:
    """What is wrong with a worker, to be read after its address; "" where nothing is."""
    if isinstance(answer, ModuleNotFoundError):
        return f": {answer}. Install this package there, of the same version, and start the worker anew."
    try:
        there = Carried.model_validate_json(answer)  # type: ignore[arg-type]
    except ValueError:
        return f": {type(answer).__name__}: {answer}"
    if there.problem:
        return f": {there.problem}"
    different = [name for name, value in here.parts.items() if there.parts.get(name) != value]
    return f" in {there.folder}: {'; '.join(_difference(name, here, there) for name in different)}" if different else ""


def _difference(part: str, here: Carried, there: Carried) -> str:
    """One part that is not the same, and how to make it so."""
    if part == "versions":
        both = {*here.versions, *there.versions}
        found = [(name, here.versions.get(name), there.versions.get(name)) for name in sorted(both)]
        told = ", ".join(
            f"{name} {theirs or 'missing'} (here {ours})" for name, ours, theirs in found if ours != theirs
        )
        return f"{told}: install from the same constraints.txt"
    return f"{part} differ{'s' if part not in ('checks', 'limits') else ''}: {_REMEDIES[part]}"


_REMEDIES = {
    "checks": "bring its checkout up to date",
    "reference": "bring its checkout up to date",
    "release": "bring its checkout up to date, release/ included",
    "limits": "bring its course_config.py up to date",
    "seed": "bring its course_config.py up to date",
    "sandbox": "bring its course_config.py up to date, or start it with the COURSE_SANDBOX that you want",
    "device": "it has another device",
    "package": "bring the package autograder/ there up to date and start the worker anew",
}
_GOES_ON = "What was graded is kept; when this is put right, the same command goes on."


def _in_words(error: Exception) -> str:
    """What happened to a submission that no worker has answered."""
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        return (
            f"{error.allowed_failures + 1} Dask workers died, one after the other, while they had this submission; "
            "their logs may say why"
        )
    return f"{type(error).__name__}: {error}"[:4000]
