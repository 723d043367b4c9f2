"""Do two versions of a task's functions answer alike, bit by bit? Asked what the checks ask, and random changes of it.

A mutant that gives the reference's very answers to everything that the checks send, and to many random changes of it,
is taken for the same function written in another way. Whoever reviews it still says why it must be.
"""

import functools
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch

from autograder.remote import wire
from autograder.remote.client import Remote, Student, StudentError
from autograder.remote.server import Server

ROUNDS = 25
"""Random changes of what each check asks."""

Question = tuple[str, dict[str, Any]]
"""An operation of the channel and its fields."""


class Recorder(Student):
    """Fronts a namespace and keeps what it is asked."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        super().__init__(Server(namespace).answer)
        self.questions: list[Question] = []

    def itself(self) -> Student:
        """This student, for who wants to be told how to connect to one."""
        return self

    def _begin(self, seed: int) -> None:
        self._request("begin", seed=seed)

    def _request(self, operation: str, **fields: Any) -> Any:
        self.questions.append((operation, _copy(fields, self, None)))
        return super()._request(operation, **fields)


def compare(
    reference: dict[str, Any], other: dict[str, Any], questions: Sequence[Sequence[Question]]
) -> tuple[int, str]:
    """Ask two namespaces the same.

    Args:
        reference: The reference's names.
        other: Those of the version in question.
        questions: For each check what it asked, in order.

    Returns:
        How many answers were the same, and "" or what the first other one was to.
    """
    chance = random.Random(0)
    torch_chance = torch.Generator().manual_seed(0)
    same = 0
    for asked in questions:
        for round_ in range(ROUNDS + 1):
            vary = functools.partial(_vary, chance, torch_chance) if round_ else None
            varied = [(operation, _copy(fields, None, vary)) for operation, fields in asked]
            answers = zip(varied, _answers(reference, varied), _answers(other, varied), strict=True)
            for (operation, fields), first, second in answers:
                if first != second:
                    what = ".".join([operation, *fields.get("path", [])])
                    return same, f"{what}{', asked with random numbers' if round_ else ''}"
                same += 1
    return same, ""


def _answers(namespace: dict[str, Any], questions: Sequence[Question]) -> list[bytes]:
    """The reply to each question, byte for byte; of an error its kind alone, since no check reads its words."""
    replies: list[bytes] = []
    server = Server(namespace)

    def ask(frame: bytes) -> bytes:
        replies.append(server.answer(frame))
        return replies[-1]

    student = Student(ask)
    answers = []
    for operation, fields in questions:
        replies.clear()
        try:
            student._request(operation, **_copy(fields, student, None))
            answers.append(b"".join(replies))
        except StudentError as error:
            answers.append(error.kind.encode())
        except wire.WireError as error:  # an object that was there before is an error now, and cannot be sent back
            answers.append(str(error).encode())
    return answers


def _copy(value: Any, student: Student | None, vary: Callable[[Any], Any] | None) -> Any:
    """A copy whose handles belong to `student`, with the numbers among arguments varied."""
    if isinstance(value, dict):
        return {
            key: item if key in ("seed", "object", "path") else _copy(item, student, vary)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_copy(item, student, vary) for item in value]
    if type(value) is tuple:
        return tuple(_copy(item, student, vary) for item in value)
    if isinstance(value, Remote):
        return Remote(student, value._handle, value._path) if student else value
    if isinstance(value, functools.partial):
        return functools.partial(value.func, *_copy(value.args, student, vary), **_copy(value.keywords, student, vary))
    if isinstance(value, torch.Generator):
        return value.clone_state()
    if isinstance(value, torch.Tensor):
        value = value.detach().clone()
    return vary(value) if vary else value


def _vary(chance: random.Random, torch_chance: torch.Generator, value: Any) -> Any:
    """Another value of the same kind, or now and then the same."""
    choice = chance.randrange(5)
    if isinstance(value, bool) or choice == 0:
        return value
    if isinstance(value, int):
        return chance.choice([value + 1, max(value - 1, 0), 2 * value])
    if isinstance(value, float):
        return chance.choice([value * chance.lognormvariate(0.0, 0.5), -value, 0.0])
    if not isinstance(value, torch.Tensor) or not value.numel():
        return value
    if value.device.type != "cpu":
        return _vary(chance, torch_chance, value.cpu()).to(value.device)
    if value.is_floating_point() and choice < 4:
        noise = torch.randn(value.shape, generator=torch_chance, dtype=torch.float64)
        return [value * noise.exp().to(value.dtype), value * noise.to(value.dtype), value * (noise > 0)][choice - 1]
    return value.flatten()[torch.randperm(value.numel(), generator=torch_chance)].reshape(value.shape)
