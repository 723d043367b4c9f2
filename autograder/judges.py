"""Forked processes that grade submissions, so that none finds what another has left that was not right.

    worker --fork--> judge: grades a submission and, as long as all that it graded was right, another

A fork is as warm as the worker, but not its own master: it copies each page of memory that it writes to first, and does
anew what torch does at first in a process. So a judge whose submission passed every check at once is kept for the next:
what checks have left behind in it is what they leave behind with the reference. Any other judge ends with its
submission, and a new fork takes its place.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from autograder.fingerprint import versions
from autograder.judging import limit_memory, mapped_bytes
from autograder.results import SubmissionResult, Verdict
from autograder.sandbox.forks import make_forks_cheap
from autograder.submission import Submission

KEPT_BYTES = 256 * 2**20
"""What a judge may have mapped beyond what it had when it was new, for another submission: should checks keep what they
are answered, that does not add up over a class."""
MANY_FORKS = 16
"""The fork before which the worker is made cheap to fork: that takes as long as it saves with so many."""
Turn = Callable[[], contextlib.AbstractContextManager[None]]
"""What a submission has while it is graded and must not share."""


@dataclass(frozen=True)
class Graded:
    """What became of a submission.

    Attributes:
        result: Its result.
        right: Whether each check passed the first time that it was asked, and nothing else was wrong.
    """

    result: SubmissionResult
    right: bool


class Judges:
    """The worker's judges. It forks one when a submission comes and none is free."""

    def __init__(self, assignment: str, seconds: int, turn: Turn = contextlib.nullcontext) -> None:
        """No judge yet.

        Args:
            assignment: Name of the assignment.
            seconds: What grading one submission may take at most, on the wall clock.
            turn: Entered for each submission.
        """
        self.assignment, self.seconds, self.turn = assignment, seconds, turn
        self.busy: list[socket.socket] = []
        self.free: list[socket.socket] = []
        self.forks = 0

    def once(self, student: str, grade: Callable[[], Graded]) -> SubmissionResult:
        """Grade in a fork that ends with it, and wait for the result."""
        mine, theirs = socket.socketpair()
        with mine:
            with theirs:
                if self._fork(mine):
                    try:
                        _reply(theirs, self._graded(student, grade).result)
                    finally:
                        os._exit(0)
            return SubmissionResult.model_validate_json(read_to_end(mine))

    def serve(self, control: socket.socket, grade: Callable[[Submission], Graded]) -> None:
        """Have graded what comes, until the other side is gone.

        Args:
            control: Brings one packet for each submission, {"student": its name}, and with it a socket: over that, the
                submission comes to its end, and the result goes back.
            grade: Grades one, in a judge.
        """
        while True:
            packet, descriptors, _, _ = socket.recv_fds(control, 2**16, 1)
            if not packet:
                return
            with socket.socket(fileno=descriptors[0]) as reply:
                if not self._hand_on(packet, reply):
                    self._new_judge(packet, reply, control, grade)

    def _hand_on(self, packet: bytes, reply: socket.socket) -> bool:
        """Give a submission to a judge that is free; whether there was one."""
        for judge in list(self.busy):
            said = b""
            try:
                said = judge.recv(1, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            except OSError:
                pass
            self.busy.remove(judge)
            if said:
                self.free.append(judge)
            else:
                judge.close()
        while self.free:
            judge = self.free.pop()
            try:
                socket.send_fds(judge, [packet], [reply.fileno()])
            except OSError:  # it has ended since
                judge.close()
                continue
            self.busy.append(judge)
            return True
        return False

    def _new_judge(
        self, packet: bytes, reply: socket.socket, control: socket.socket, grade: Callable[[Submission], Graded]
    ) -> None:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(mine, [packet], [reply.fileno()])
            # Else who waits for the reply would wait for this one's end, too.
            if self._fork(mine, reply, control):
                self._judge(theirs, grade)
        self.busy.append(mine)

    def _fork(self, *not_for_child: socket.socket) -> bool:
        """Fork; whether this is the child, which has none of these sockets and no other judge's."""
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        self.forks += 1
        if self.forks == MANY_FORKS:
            make_forks_cheap()
        if os.fork():
            return False
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a worker that dies takes its children along
        for one in (*not_for_child, *self.busy, *self.free):
            one.close()
        return True

    def _judge(self, channel: socket.socket, grade: Callable[[Submission], Graded]) -> NoReturn:
        """Grade what comes until something is not right."""
        when_new = mapped_bytes()
        kept = True
        try:
            while kept:
                packet, descriptors, _, _ = socket.recv_fds(channel, 2**16, 1)
                if not packet:
                    break
                with socket.socket(fileno=descriptors[0]) as reply:
                    graded = self._graded(
                        json.loads(packet)["student"], lambda: grade(Submission.from_json(read_to_end(reply)))
                    )
                    kept = graded.right and mapped_bytes() - when_new <= KEPT_BYTES
                    if kept:  # said first: who has the result may send the next submission at once
                        channel.send(b".")
                    _reply(reply, graded.result)
        finally:
            os._exit(0)

    def _graded(self, student: str, grade: Callable[[], Graded]) -> Graded:
        try:
            limit_memory()
            with self.turn():
                signal.alarm(self.seconds)  # a backstop: without a handler it ends this child, a fault of ours
                try:
                    return grade()
                finally:
                    signal.alarm(0)
        except BaseException as error:
            traceback.print_exc()
            fault = SubmissionResult(
                assignment=self.assignment, student=student, verdict=Verdict.GRADER_FAULT,
                reason=f"{type(error).__name__}: {error}"[:4000], versions=versions(),
            )  # fmt: skip
            return Graded(fault, right=False)


def _reply(reply: socket.socket, result: SubmissionResult) -> None:
    with contextlib.suppress(OSError):  # nobody waits any more
        reply.sendall(result.model_dump_json().encode())


def read_to_end(channel: socket.socket) -> bytes:
    """All that comes over a socket until the other side has said everything."""
    data = bytearray()
    while part := channel.recv(2**20):
        data += part
    return bytes(data)
