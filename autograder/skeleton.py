"""A new assignment to start from: one small task that is complete, with its checks, a mistake list and other answers.

What `course new` writes passes lint, can be released and graded, and meets the audit's targets; an author changes it
step by step and stays on firm ground.
"""

from pathlib import Path

from autograder.audit import variants_path
from autograder.course import CourseError

_SOLUTION = '''\
# %% [markdown]
# # @TITLE@
#
# What the assignment is about, and why a student should care, in a few sentences.
#
# Say here what holds in all tasks: units, axes, dtypes, what may be used.

# %%
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from expect import expect_close

# %% [markdown]
# ## 1 · Adding probabilities that are too small to write down
#
# A sequence of a thousand tokens has a probability near $10^{-1000}$, and no float holds that. So models carry
# logarithms around. To add two probabilities they need the logarithm of a sum of exponentials,
#
# $$\\operatorname{logsumexp}(x) = \\ln \\sum_i e^{x_i}$$
#
# and $e^{-1000}$ is zero to a computer: the sum is zero, its logarithm minus infinity. Yet the answer is close to the
# largest $x_i$. (Give the source of each formula here: paper and equation, or book and section.)
#
# **Task 1 · `log_sum_exp` · 20 points · 15 minutes**


# %% task="log_sum_exp"
def log_sum_exp(x: Tensor) -> Tensor:
    """Logarithm of the sum of exponentials over the last axis.

    Args:
        x: Logarithms, shape (..., n) with n >= 1. They may be so large or so small that their exponentials are not
            finite, or are zero.

    Returns:
        Logarithms of the sums, shape (...), the dtype and the device of x.
    """
    ### BEGIN SOLUTION
    highest = x.amax(-1, keepdim=True)
    return (x - highest).exp().sum(-1).log() + highest.squeeze(-1)
    ### END SOLUTION


# %% checks="log_sum_exp" points=20
expect_close(log_sum_exp(torch.tensor([0.0, 0.0])), 0.6931, "Two equal parts of weight one make ln 2 = 0.6931.")
expect_close(
    log_sum_exp(torch.tensor([-1000.0, -1000.0])), -999.3069, "The same, each part e^1000 times smaller: ln 2 - 1000."
)

# %% [markdown]
# What the picture shows, in a sentence that can be checked against it: far from zero the sum is its larger part.

# %% tags=["demo"]
grid = torch.linspace(-6, 6, 121)
both = torch.stack([grid, torch.zeros_like(grid)], dim=-1)

figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
axes.plot(grid, log_sum_exp(both), label=r"$\\ln(e^x + e^0)$")
axes.plot(grid, both.amax(-1), linestyle=":", label=r"$\\max(x, 0)$")
axes.set(xlabel="x", ylabel="logarithm of the sum", title="A sum of two exponentials")
axes.legend()
plt.show()
'''

_CHECKS = '''\
"""Hidden checks of @NAME@.

One property per check; the docstring is the line that a student reads. Expected values come from identities and from
other libraries, never from the reference.
"""

import math

import pytest
import torch

from autograder.checks import Student, assert_close, assert_device, assert_dtype, check, task


@task("log_sum_exp")
class TestLogSumExp:
    @check(hint="What comes first: the sum or the logarithm?", weight=2)
    def test_three_numbers(self, student: Student, device: torch.device) -> None:
        """The logarithms of 1, 2 and 5 sum to that of 8."""
        # the mean for the sum gives .981, the sum of logarithms 2.303
        x = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64).log()
        assert_close(student.log_sum_exp(x.to(device)), math.log(8))

    @check(hint="Which part of the sum can be taken out of it before the exponential?", weight=2)
    def test_exponentials_that_no_float_holds(self, student: Student, device: torch.device) -> None:
        """Very large and very small logarithms have finite sums."""
        # without a shift: inf and -inf; with one shift for the whole table the second row is -inf; with the least part
        # as the shift the third is inf
        x = torch.tensor([[1000.0, 1001.0], [-1000.0, -1001.0], [1000.0, -1000.0]], dtype=torch.float64)
        one = math.log1p(math.exp(-1))
        expected = torch.tensor([1001 + one, -1000 + one, 1000], dtype=torch.float64)
        assert_close(student.log_sum_exp(x.to(device)), expected)

    @check(hint="One sum for each row: the parts lie along the last axis.", weight=2)
    def test_two_axes_in_front(self, student: Student, device: torch.device) -> None:
        """Two axes in front of the parts are kept."""
        parts = torch.arange(1.0, 31.0, dtype=torch.float64).reshape(2, 3, 5)
        assert_close(student.log_sum_exp(parts.log().to(device)), parts.sum(-1).log())
        one_wide = parts[:, :1]
        assert_close(student.log_sum_exp(one_wide.log().to(device)), one_wide.sum(-1).log())

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """The result is right and has the dtype of the argument."""
        result = student.log_sum_exp(torch.tensor([0.5, 0.5], dtype=dtype).to(device))
        assert_dtype(result, dtype)
        assert_close(result, torch.tensor(0.5 + math.log(2), dtype=dtype))

    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """The result is right and on the device of the argument, wherever that is."""
        result = student.log_sum_exp(torch.tensor([0.25, 0.25]).to(elsewhere))
        assert_device(result, elsewhere)
        assert_close(result, torch.tensor(0.25 + math.log(2)))
'''

_VARIANTS = '''\
"""Mistakes that students make in @NAME@, and other right answers."""

from autograder.variants import alternative, mistake


@mistake("log_sum_exp", "no shift: the exponentials overflow")
def unshifted():
    def log_sum_exp(x):
        return x.exp().sum(-1).log()


@mistake("log_sum_exp", "the mean for the sum")
def mean():
    def log_sum_exp(x):
        highest = x.amax(-1, keepdim=True)
        return (x - highest).exp().mean(-1).log() + highest.squeeze(-1)


@mistake("log_sum_exp", "one shift for the whole batch")
def shifted_together():
    def log_sum_exp(x):
        return (x - x.max()).exp().sum(-1).log() + x.max()


@alternative("log_sum_exp", "torch's own function")
def torchs():
    def log_sum_exp(x):
        return torch.logsumexp(x, dim=-1)


@alternative("log_sum_exp", "two parts at a time")
def pair_by_pair():
    def log_sum_exp(x):
        total = x[..., 0]
        for part in x[..., 1:].unbind(-1):
            total = torch.logaddexp(total, part)
        return total
'''


def write_assignment(root: Path, name: str, title: str) -> list[Path]:
    """Write the three files of a new assignment.

    Args:
        root: The course folder.
        name: Name of the assignment.
        title: What the notebook is headed.

    Returns:
        The files written.

    Raises:
        CourseError: One of them is there already; nothing is written then.
    """
    texts = {
        root / "solutions" / f"{name}.py": _SOLUTION,
        root / "tests" / "checks" / f"test_{name}.py": _CHECKS,
        variants_path(root, name): _VARIANTS,
    }
    if there := [str(path.relative_to(root)) for path in texts if path.exists()]:
        raise CourseError(f"{' and '.join(there)} exists already: choose another name, or edit it.")
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("@NAME@", name).replace("@TITLE@", title), encoding="utf-8")
    return list(texts)
