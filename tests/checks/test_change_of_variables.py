"""Hidden checks of the assignment on transforming random variables.

Expected values come from closed forms, scipy, numpy and torch.distributions, not from the reference. Jacobians are
compared with derivatives taken by hand, determinants with numpy's. Inputs are float64 where nothing else is said, so a
right answer agrees to about seven digits whatever its way.
"""

import math
from functools import partial

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor

from autograder.checks import (
    Student,
    assert_close,
    assert_device,
    assert_dtype,
    assert_shape,
    check,
    probe,
    student_raises,
    task,
)

ON_ITS_DEVICE = (
    "Make new tensors on the device of the arguments, as zeros_like(x), x.new_zeros(n) and "
    "torch.zeros(n, device=x.device) do; what was computed on the CPU, by numpy for one, goes back with .to(x.device)."
)

LN2PI = math.log(2 * math.pi)


def table(*rows: object) -> Tensor:
    """A float64 tensor."""
    return torch.tensor(rows, dtype=torch.float64)


def normal_numbers(*shape: int, seed: int) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- pushforward_log_prob ----------------------------------------------------------------------------------------


@probe
def normal_log_prob(mean, sigma, x):
    return -0.5 * ((x - mean) / sigma) ** 2 - math.log(sigma) - 0.5 * math.log(2 * math.pi)


@probe
def no_log_prob(x):
    return torch.zeros_like(x)


@probe
def log_inverse(mu, sigma, y):
    return (y.log() - mu) / sigma


@probe
def decay_inverse(rate, y):
    return torch.exp(-rate * y)


@probe
def line_inverse(slope, shift, y):
    return (y - shift) / slope


@probe
def logit_inverse(y):
    return torch.log(y) - torch.log1p(-y)


@probe
def gradients_of_pushforward(ns, y, mu, sigma):
    y, mu, sigma = (tensor.clone().requires_grad_() for tensor in (y, mu, sigma))

    def base(x):
        return -0.5 * x**2

    def inverse(points):
        return (points.log() - mu) / sigma

    ns.pushforward_log_prob(base, inverse, y).sum().backward()
    return y.grad, mu.grad, sigma.grad


@probe
def gradient_behind_an_earlier_step(ns, y):
    leaf = y.clone().requires_grad_()
    log_prob = ns.pushforward_log_prob(lambda x: -0.5 * x**2, torch.log, leaf**2)
    log_prob.sum().backward()
    return leaf.grad


@probe
def pushforward_and_what_it_leaves(ns, y, sigma):
    sigma = sigma.clone().requires_grad_()
    result = ns.pushforward_log_prob(lambda x: -0.5 * x**2, lambda points: points.log() / sigma, y)
    return result, y, y.requires_grad, sigma.grad


@task("pushforward_log_prob")
class TestPushforwardLogProb:
    @check(hint="Does the slope belong to the map or to its inverse, and at which point is it taken?", weight=3)
    def test_log_normal(self, student: Student, device: torch.device) -> None:
        """The exponential of a normal variable has the log-normal density."""
        # at y = 0.4, where it is -1.155: slope forgotten -2.428, upside down -3.701, taken at x for y NaN
        y = table(0.4, 1.3, 2.7, 6.0)
        result = student.pushforward_log_prob(
            partial(normal_log_prob, 0.0, 1.0), partial(log_inverse, 0.3, 0.7), y.to(device)
        )
        assert_close(result, torch.as_tensor(scipy.stats.lognorm.logpdf(y.numpy(), 0.7, scale=math.exp(0.3))))

    @check(hint="What is the logarithm of a negative slope? A length is never negative.", weight=2)
    def test_decreasing_map(self, student: Student, device: torch.device) -> None:
        """Maps that turn the order round make densities, too."""
        # without the absolute value NaN; -ln(U)/2.5 is exponential, 1 - 2X of a normal X is normal
        y = table(0.1, 0.5, 1.9)
        result = student.pushforward_log_prob(no_log_prob, partial(decay_inverse, 2.5), y.to(device))
        assert_close(result, torch.as_tensor(scipy.stats.expon.logpdf(y.numpy(), scale=1 / 2.5)))
        result = student.pushforward_log_prob(
            partial(normal_log_prob, 0.5, 0.7), partial(line_inverse, -2.0, 1.0), y.to(device)
        )
        assert_close(result, torch.as_tensor(scipy.stats.norm.logpdf(y.numpy(), 0.0, 1.4)))

    @check(hint="Every point has a slope of its own.", weight=2)
    def test_table_of_points(self, student: Student, device: torch.device) -> None:
        """Each point of a table has the density that its own slope gives it."""
        # one slope, its mean or its sum for all; the slope of the first column for each row
        y = table([0.1, 0.45, 0.8], [0.97, 0.3, 0.62])
        result = student.pushforward_log_prob(partial(normal_log_prob, 0.4, 0.8), logit_inverse, y.to(device))
        expected = scipy.stats.norm.logpdf(scipy.special.logit(y.numpy()), 0.4, 0.8) - np.log(
            y.numpy() * (1 - y.numpy())
        )
        assert_close(result, torch.as_tensor(expected))

    @check(hint="Where the density is zero in floating point, its logarithm is still a number: stay with it.")
    def test_underflow(self, student: Student, device: torch.device) -> None:
        """Far out, the density underflows and its logarithm does not."""
        # the logarithm of a product of densities is -inf
        y = torch.exp(table(-60.0, 45.0, 70.0))
        result = student.pushforward_log_prob(
            partial(normal_log_prob, 0.0, 1.0), partial(log_inverse, 0.0, 1.0), y.to(device)
        )
        assert_close(result, torch.as_tensor(scipy.stats.lognorm.logpdf(y.numpy(), 1.0)))

    @check(hint="Does the second term still know where it came from? See `create_graph`.", weight=2)
    def test_gradients(self, student: Student, device: torch.device) -> None:
        """The log density is differentiable in the points and in what the inverse depends on."""
        # ln p = -(ln y - mu)^2 / (2 sigma^2) - ln sigma - ln y; with a detached slope the last two terms are missing
        y, mu, sigma = table(0.6, 1.5, 4.0), table(0.3)[0], table(0.8)[0]
        z = (y.log() - mu) / sigma
        expected = (-z / (sigma * y) - 1 / y, (z / sigma).sum(), ((z**2 - 1) / sigma).sum())
        found = student.run(gradients_of_pushforward, y.to(device), mu.to(device), sigma.to(device))
        for gradient, value in zip(found, expected, strict=True):
            assert_close(gradient, value)

    @check(hint="Points that were computed from something else must not be cut off from it.")
    def test_points_from_an_earlier_step(self, student: Student, device: torch.device) -> None:
        """Gradients reach back to what the points were computed from."""
        # with y = t^2: ln p = -2 (ln t)^2 - 2 ln t
        t = table(0.7, 1.2, 2.5)
        found = student.run(gradient_behind_an_earlier_step, t.to(device))
        assert_close(found, -4 * t.log() / t - 2 / t)

    @check(hint="A density has area one, and the logarithms of this one average to a known entropy.")
    def test_area_and_entropy(self, student: Student, device: torch.device) -> None:
        """A log-normal density has area one, and the entropy that the textbook says."""
        # Points evenly spaced in ln y, where the integrand is smooth and zero at both ends: exact to 12 digits.
        t = torch.linspace(-5.5, 6.5, 601, dtype=torch.float64)
        y = t.exp()
        log_p = student.pushforward_log_prob(
            partial(normal_log_prob, 0.0, 1.0), partial(log_inverse, 0.5, 0.6), y.to(device)
        )
        assert_shape(log_p, (601,))
        log_p = log_p.detach().cpu()
        assert_close(torch.trapezoid(log_p.exp() * y, t), 1.0)
        assert_close(torch.trapezoid(-log_p.exp() * log_p * y, t), 0.5 + 0.5 * (LN2PI + 1) + math.log(0.6))

    @check(hint="y may have any shape: a single number, or no number at all.")
    def test_a_single_point_and_none(self, student: Student, device: torch.device) -> None:
        """A single point gives a single number, and no points give none."""
        base, inverse = partial(normal_log_prob, 0.0, 1.0), partial(log_inverse, 0.0, 0.5)
        one = student.pushforward_log_prob(base, inverse, table(1.7)[0].to(device))
        assert_close(one, float(scipy.stats.lognorm.logpdf(1.7, 0.5)))
        none = student.pushforward_log_prob(base, inverse, table(1.7)[:0].to(device))
        assert_shape(none, (0,))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """The log densities are right and have the dtype of the points."""
        y = table([0.3, 0.9], [2.0, 3.3], [1.1, 0.6])
        result = student.pushforward_log_prob(
            partial(normal_log_prob, 0.2, 1.1), partial(log_inverse, 0.0, 0.9), y.to(device, dtype)
        )
        expected = torch.as_tensor(scipy.stats.norm.logpdf(y.log().numpy() / 0.9, 0.2, 1.1))
        assert_dtype(result, dtype)
        assert_close(result, (expected - math.log(0.9) - y.log()).to(dtype))

    @check(hint=ON_ITS_DEVICE)
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """Points on another device than the CPU have the right densities, on that device."""
        y = table([0.4, 1.3], [2.7, 6.0], [0.1, 0.9])
        result = student.pushforward_log_prob(
            partial(normal_log_prob, 0.0, 1.0), partial(log_inverse, 0.3, 0.7), y.to(elsewhere)
        )
        assert_device(result, elsewhere)
        assert_close(result, torch.as_tensor(scipy.stats.lognorm.logpdf(y.numpy(), 0.7, scale=math.exp(0.3))))

    @check(hint="Let autograd watch a tensor of your own, and ask for one derivative only.")
    def test_arguments_are_left_alone(self, student: Student, device: torch.device) -> None:
        """The points and the parameters of the inverse are after the call what they were before."""
        # y.requires_grad_() in place; backward() writes into sigma.grad
        y, sigma = table(0.6, 1.5, 4.0), table(0.8)[0]
        result, after, watched, grad = student.run(pushforward_and_what_it_leaves, y.to(device), sigma.to(device))
        assert_close(result, -0.5 * (y.log() / sigma) ** 2 - sigma.log() - y.log())
        assert_close(after, y, rtol=0.0, atol=0.0)
        assert watched is False
        assert grad is None


# --- square_log_prob ---------------------------------------------------------------------------------------------


@probe
def uniform_log_prob(left, right, x):
    inside = torch.full_like(x, -math.log(right - left))
    return inside.masked_fill((x < left) | (x > right), -math.inf)


@probe
def exponential_log_prob(rate, x):
    return (math.log(rate) - rate * x).masked_fill(x < 0, -math.inf)


@probe
def torchs_normal_log_prob(mean, sigma, x):
    return torch.distributions.Normal(mean, sigma, validate_args=True).log_prob(x)


@probe
def square_and_argument(ns, y):
    result = ns.square_log_prob(lambda x: -0.5 * x**2, y)
    return result, y


def square_of_normal(mean: float, sigma: float, y: Tensor) -> Tensor:
    """Log density of the square of N(mean, sigma^2): a noncentral chi-square density, scaled."""
    scaled = scipy.stats.ncx2.logpdf(y.numpy() / sigma**2, 1, (mean / sigma) ** 2)
    return torch.as_tensor(scaled - 2 * math.log(sigma))


@task("square_log_prob")
class TestSquareLogProb:
    @check(hint="Two inputs give the same output. What is the slope of squaring at each?", weight=2)
    def test_chi_square(self, student: Student, device: torch.device) -> None:
        """The square of a standard normal variable has the chi-square density with one degree of freedom."""
        # one branch .120985; without the 2 of the slope .483941; slope upside down .967883 at 1
        y = table(1.0, 0.09, 3.7)
        result = student.square_log_prob(partial(normal_log_prob, 0.0, 1.0), y.to(device))
        assert_close(result, torch.as_tensor(scipy.stats.chi2.logpdf(y.numpy(), 1)))
        assert_close(result[0], math.log(0.24197072451914337))

    @check(hint="A density need not be as high at the negative root as at the positive one.", weight=3)
    def test_shifted_normal(self, student: Student, device: torch.device) -> None:
        """The square of a normal variable with any mean and width has the noncentral chi-square density."""
        # twice the positive branch, one branch without the 2, sum of the logarithms, slope at y
        y = table([0.3, 2.25, 6.0], [1.1, 0.7, 3.0])
        for mean, sigma in ((1.5, 1.0), (-0.8, 0.6)):
            result = student.square_log_prob(partial(normal_log_prob, mean, sigma), y.to(device))
            assert_close(result, square_of_normal(mean, sigma, y))

    @check(hint="One of the two roots may lie where the density is zero, or both.", weight=2)
    def test_uniform(self, student: Student, device: torch.device) -> None:
        """The square of a uniform variable on (-1, 2) has two roots, one root or none."""
        y = table(0.25, 0.81, 1.44, 3.61, 4.41)
        expected = [math.log(1 / (3 * r)) if r < 1 else math.log(1 / (6 * r)) for r in (0.5, 0.9, 1.2, 1.9)]
        result = student.square_log_prob(partial(uniform_log_prob, -1.0, 2.0), y.to(device))
        assert_close(result, table(*expected, -math.inf))

    def test_positive_variable(self, student: Student, device: torch.device) -> None:
        """The square of an exponential variable has a single branch."""
        y = table(0.16, 1.0, 7.3)
        result = student.square_log_prob(partial(exponential_log_prob, 1.4), y.to(device))
        assert_close(result, math.log(1.4) - 1.4 * y.sqrt() - torch.log(2 * y.sqrt()))

    @check(hint="A square is never negative: its density there is zero, and the logarithm of zero is no NaN.", weight=2)
    def test_negative_outputs(self, student: Student, device: torch.device) -> None:
        """Negative numbers have density zero, and do not disturb the positive ones beside them."""
        # NaN from the root of a negative number
        y = table([-1.0, 0.5], [2.0, -0.01], [4.0, -300.0])
        result = student.square_log_prob(partial(normal_log_prob, 0.7, 1.0), y.to(device))
        expected = square_of_normal(0.7, 1.0, y.clamp(min=0.1)).masked_fill(y < 0, -math.inf)
        assert_close(result, expected)

    @check(hint="A negative number has no root. What does the density of X get to see in its place?")
    def test_a_density_that_refuses_nan(self, student: Student, device: torch.device) -> None:
        """Negative numbers do no harm where the density of X refuses what is not a number."""
        y = table(-1.0, 0.5, 2.0)
        result = student.square_log_prob(partial(torchs_normal_log_prob, 0.7, 1.2), y.to(device))
        assert_close(result, square_of_normal(0.7, 1.2, y.abs()).masked_fill(y < 0, -math.inf))

    @check(hint="Adding densities sends them through zero here. Which function adds what is given as logarithms?")
    def test_underflow(self, student: Student, device: torch.device) -> None:
        """Far out, the density underflows and its logarithm does not."""
        y = table(1600.0, 9000.0)
        result = student.square_log_prob(partial(normal_log_prob, 0.0, 1.0), y.to(device))
        assert_close(result, torch.as_tensor(scipy.stats.chi2.logpdf(y.numpy(), 1)))

    def test_area(self, student: Student, device: torch.device) -> None:
        """The density of a square has area one."""
        # With y = t^2 the integrand is an even smooth function of t, for which the midpoint rule is exact to 12 digits.
        t = (torch.arange(1600, dtype=torch.float64) + 0.5) * 0.01
        log_p = student.square_log_prob(partial(normal_log_prob, -0.7, 1.3), (t**2).to(device))
        assert_shape(log_p, (1600,))
        assert_close((log_p.cpu().exp() * 2 * t).sum() * 0.01, 1.0)

    def test_a_single_point_and_none(self, student: Student, device: torch.device) -> None:
        """A single point gives a single number, and no points give none."""
        base = partial(normal_log_prob, 0.4, 1.0)
        assert_close(student.square_log_prob(base, table(1.7)[0].to(device)), square_of_normal(0.4, 1.0, table(1.7)[0]))
        assert_shape(student.square_log_prob(base, table(1.7)[:0].to(device)), (0,))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """The log densities are right and have the dtype of the points."""
        y = table(0.2, 2.6, -1.0)
        result = student.square_log_prob(partial(normal_log_prob, 0.9, 1.2), y.to(device, dtype))
        assert_dtype(result, dtype)
        expected = square_of_normal(0.9, 1.2, y.abs()).masked_fill(y < 0, -math.inf)
        assert_close(result, expected.to(dtype))

    @check(hint=ON_ITS_DEVICE)
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """Points on another device than the CPU have the right densities, on that device."""
        y = table([0.3, -2.25], [6.0, 0.1])
        result = student.square_log_prob(partial(normal_log_prob, 0.7, 1.0), y.to(elsewhere))
        assert_device(result, elsewhere)
        assert_close(result, square_of_normal(0.7, 1.0, y.abs()).masked_fill(y < 0, -math.inf))

    @check(hint="Work on new tensors.")
    def test_argument_is_left_alone(self, student: Student, device: torch.device) -> None:
        """The points are the same after the call as before."""
        y = table(0.6, -1.5, 4.0)
        result, after = student.run(square_and_argument, y.clone().to(device))
        assert_close(result, (-0.5 * y - 0.5 * y.abs().log()).masked_fill(y < 0, -math.inf))
        assert_close(after, y, rtol=0.0, atol=0.0)


# --- jacobian ----------------------------------------------------------------------------------------------------


@probe
def tall_map(x):
    a, b = x[..., 0], x[..., 1]
    return torch.stack([a * b**2, torch.sin(a), torch.exp(b) - 2 * a], dim=-1)


def tall_jacobian(x: Tensor) -> Tensor:
    a, b = x.unbind(-1)
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    rows = [[b**2, 2 * a * b], [a.cos(), zero], [-2 * one, b.exp()]]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


@probe
def wide_map(x):
    a, b, c, d = x[..., 0], x[..., 1], x[..., 2], x[..., 3]
    return torch.stack([a * b * c * d, a - c**3], dim=-1)


def wide_jacobian(x: Tensor) -> Tensor:
    a, b, c, d = x.unbind(-1)
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    rows = [[b * c * d, a * c * d, a * b * d, a * b * c], [one, zero, -3 * c**2, zero]]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


@probe
def linear_map(matrix, shift, x):
    return x @ matrix.mT + shift


@probe
def logarithms(x):
    return torch.log(x)


@probe
def partly_constant_map(x):
    a, b, c = x[..., 0], x[..., 1], x[..., 2]
    return torch.stack([b, torch.full_like(a, 7.0), b * c], dim=-1)


@probe
def gradients_through_jacobian(ns, x, w):
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()

    def f(points):
        a, b = points[..., 0], points[..., 1]
        return torch.stack([w * a**2 * b, w**2 * b, a * b], dim=-1)

    matrices = ns.jacobian(f, x)
    (matrices * torch.arange(1.0, 7.0, dtype=x.dtype, device=x.device).reshape(3, 2)).sum().backward()
    return x.grad, w.grad


@probe
def jacobian_and_what_it_leaves(ns, x, w):
    w = w.clone().requires_grad_()

    def f(points):
        return w * points**2

    result = ns.jacobian(f, x)
    flag = x.requires_grad
    watched = x.clone().requires_grad_()
    ns.jacobian(f, watched)
    return result, x, flag, w.grad, watched.grad


@task("jacobian")
class TestJacobian:
    @check(hint="Rows belong to outputs, columns to inputs, and the batch comes first.", weight=2)
    def test_more_outputs_than_inputs(self, student: Student, device: torch.device) -> None:
        """A map from two to three coordinates has a matrix of three rows and two columns at each point."""
        # rows and columns swapped: another shape; the whole batch: four axes; summed over the batch: no batch axis
        x = normal_numbers(5, 2, seed=31)
        assert_close(student.jacobian(tall_map, x.to(device)), tall_jacobian(x))

    @check(hint="Rows belong to outputs, columns to inputs, and the batch comes first.", weight=2)
    def test_more_inputs_than_outputs(self, student: Student, device: torch.device) -> None:
        """A map from four to two coordinates has a matrix of two rows and four columns at each point."""
        x = normal_numbers(3, 4, seed=32)
        assert_close(student.jacobian(wide_map, x.to(device)), wide_jacobian(x))

    @check(hint="For the map x -> Ax + b the Jacobian is A itself. Is yours its transpose?", weight=2)
    def test_linear_map(self, student: Student, device: torch.device) -> None:
        """A linear map is its own Jacobian, at every point."""
        # square, so that swapping rows and columns keeps the shape; batch and coordinates both three
        matrix, shift = table([1.0, 2.0, -0.5], [0.0, 3.0, 4.0], [-2.0, 0.25, 5.0]), table(3.0, -1.0, 2.0)
        f = partial(linear_map, matrix.to(device), shift.to(device))
        for batch in (3, 4):
            x = normal_numbers(batch, 3, seed=33)
            assert_close(student.jacobian(f, x.to(device)), matrix.expand(batch, 3, 3))

    @check(hint="Points of a batch do not mix: the matrix of one does not depend on who else is there.")
    def test_one_point_at_a_time(self, student: Student, device: torch.device) -> None:
        """A point alone has the matrix that it has in a batch."""
        x = normal_numbers(3, 2, seed=34)
        for row in range(3):
            one = x[row : row + 1]
            assert_close(student.jacobian(tall_map, one.to(device)), tall_jacobian(one))

    @check(hint="A derivative by differences is only nearly right. Autograd's is exact.")
    def test_steep_map(self, student: Student, device: torch.device) -> None:
        """Where a map is very steep its derivative is still exact."""
        # differences with a step of 1e-5 or 1e-6 are off by far: 1/x is up to 5e7 here
        x = table([2e-8, 3e-7], [5e-6, 1.0])
        expected = torch.diag_embed(1 / x)
        assert_close(student.jacobian(logarithms, x.to(device)), expected, rtol=1e-6, atol=0.0)

    @check(hint="What does autograd do with an output that depends on no input?")
    def test_outputs_that_ignore_inputs(self, student: Student, device: torch.device) -> None:
        """An output that never changes has a row of zeros, an input that nobody reads a column of zeros."""
        x = normal_numbers(4, 3, seed=35)
        _, b, c = x.unbind(-1)
        expected = torch.zeros(4, 3, 3, dtype=torch.float64)
        expected[:, 0, 1], expected[:, 2, 1], expected[:, 2, 2] = 1.0, c, b
        assert_close(student.jacobian(partly_constant_map, x.to(device)), expected)

    @check(hint="One coordinate is a coordinate too: the matrix then has one row and one column.")
    def test_one_coordinate(self, student: Student, device: torch.device) -> None:
        """A map of the line has matrices with a single entry."""
        x = table([0.5], [4.0], [9.0])
        assert_close(student.jacobian(logarithms, x.to(device)), (1 / x)[:, None])

    @check(hint="Do the matrices still know where they came from? See `create_graph`.", weight=2)
    def test_gradients(self, student: Student, device: torch.device) -> None:
        """The matrices can be differentiated, in the points and in the parameters of the map."""
        # J = [[2wab, wa^2], [0, w^2], [b, a]], weighed by [[1, 2], [3, 4], [5, 6]]
        x, w = normal_numbers(4, 2, seed=36), table(1.3)[0]
        a, b = x.unbind(-1)
        of_x, of_w = student.run(gradients_through_jacobian, x.to(device), w.to(device))
        assert_close(of_x, torch.stack([2 * w * b + 4 * w * a + 6, 2 * w * a + 5], -1))
        assert_close(of_w, (2 * a * b + 2 * a**2 + 8 * w).sum())

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """The matrices are right and have the dtype of the points."""
        x = table([0.4, -1.0], [2.0, 0.5], [-0.3, 0.1])
        result = student.jacobian(tall_map, x.to(device, dtype))
        assert_dtype(result, dtype)
        assert_close(result, tall_jacobian(x).to(dtype))

    @check(hint=ON_ITS_DEVICE)
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """Points on another device than the CPU have the right matrices, on that device."""
        x = normal_numbers(3, 2, seed=38)
        result = student.jacobian(tall_map, x.to(elsewhere))
        assert_device(result, elsewhere)
        assert_close(result, tall_jacobian(x))

    @check(hint="Ask autograd for derivatives without writing into anybody's `.grad`, and watch a tensor of your own.")
    def test_nothing_is_left_behind(self, student: Student, device: torch.device) -> None:
        """After the call, points and parameters are what they were: no gradient has been stored."""
        # backward() writes into w.grad; x.requires_grad_() in place
        x, w = normal_numbers(3, 2, seed=37), table(0.5, -2.0)
        result, after, flag, grad, own_grad = student.run(jacobian_and_what_it_leaves, x.to(device), w.to(device))
        assert_close(result, torch.diag_embed(2 * w * x))
        assert_close(after, x, rtol=0.0, atol=0.0)
        assert flag is False
        assert grad is None
        assert own_grad is None


# --- log_abs_det_jacobian ----------------------------------------------------------------------------------------


@probe
def spherical(x):
    r, theta, phi = x[..., 0], x[..., 1], x[..., 2]
    return torch.stack([r * theta.sin() * phi.cos(), r * theta.sin() * phi.sin(), r * theta.cos()], dim=-1)


@probe
def polar(x):
    r, phi = x[..., 0], x[..., 1]
    return torch.stack([r * phi.cos(), r * phi.sin()], dim=-1)


@probe
def triangular_map(x):
    a, b, c, d = x[..., 0], x[..., 1], x[..., 2], x[..., 3]
    return torch.stack([a.sinh(), b.sinh() + a**2, -c.sinh() + a * b, d.sinh() + 3 * c], dim=-1)


@probe
def scaled(factors, x):
    return x * factors


@probe
def first_two(x):
    return x[..., :2]


@probe
def with_a_copy(x):
    return torch.cat([x, x[..., :1]], dim=-1)


@probe
def gradients_of_log_det(ns, x, w):
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()

    def f(points):
        r, phi = w * points[..., 0], points[..., 1]
        return torch.stack([r * phi.cos(), r * phi.sin()], dim=-1)

    ns.log_abs_det_jacobian(f, x).sum().backward()
    return x.grad, w.grad


SPHERICAL_POINTS = table([1.3, 0.4, 2.0], [0.2, 1.5, -1.0], [7.0, 2.9, 0.3], [2.5, 1.1, 4.0])


@task("log_abs_det_jacobian", needs="jacobian")
class TestLogAbsDetJacobian:
    @check(hint="Which way does the map go, and which sign has the logarithm then?", weight=2)
    def test_spherical_coordinates(self, student: Student, device: torch.device) -> None:
        """Spherical coordinates swell by the square of the distance times the sine of the angle from the pole."""
        # sign of the logarithm; one number for the whole batch; its sum
        r, theta, _ = SPHERICAL_POINTS.unbind(-1)
        result = student.log_abs_det_jacobian(spherical, SPHERICAL_POINTS.to(device))
        assert_close(result, 2 * r.log() + theta.sin().log())

    @check(hint="Which way does the map go, and which sign has the logarithm then?")
    def test_polar_coordinates(self, student: Student, device: torch.device) -> None:
        """Polar coordinates swell by the distance."""
        x = table([0.5, 1.0], [3.0, -2.0], [12.0, 0.1])
        assert_close(student.log_abs_det_jacobian(polar, x.to(device)), x[:, 0].log())

    @check(hint="A map that mirrors has a negative determinant. What is its logarithm?", weight=2)
    def test_linear_maps(self, student: Student, device: torch.device) -> None:
        """A linear map swells by the absolute value of its determinant, whether it mirrors or not."""
        # without the absolute value NaN for the first, whose determinant is -29; the second's is 5.5
        x = normal_numbers(4, 3, seed=41)
        for rows in (
            ([1.0, 2.0, -0.5], [0.0, -3.0, 4.0], [-2.0, 0.25, 5.0]),
            ([0.0, 1.0, 0.5], [2.0, 0.0, 1.0], [0.0, 3.0, -1.25]),
        ):
            matrix = table(*rows)
            f = partial(linear_map, matrix.to(device), table(1.0, 0.0, -1.0).to(device))
            expected = math.log(abs(np.linalg.det(matrix.numpy())))
            assert_close(student.log_abs_det_jacobian(f, x.to(device)), torch.full((4,), expected, dtype=torch.float64))

    @check(hint="One number for each point: determinants are not mixed over the batch.", weight=2)
    def test_every_point_its_own(self, student: Student, device: torch.device) -> None:
        """A map whose matrices are triangular swells at each point by the product of their diagonal."""
        # summed or averaged over the batch; the trace, or the diagonal's sum of derivatives, for the determinant
        x = normal_numbers(6, 4, seed=42)
        assert_close(student.log_abs_det_jacobian(triangular_map, x.to(device)), x.cosh().log().sum(-1))

    @check(hint="The determinant itself does not fit into the dtype here. There is a function that never forms it.")
    @pytest.mark.parametrize("factor", [1e-9, 1e9])
    def test_many_dimensions(self, student: Student, device: torch.device, factor: float) -> None:
        """In many dimensions the logarithm is finite where the determinant is not a number of the dtype."""
        # 1e-9 ** 40 is zero in float64
        factors = factor * torch.linspace(1.0, 2.0, 40, dtype=torch.float64)
        f = partial(scaled, factors.to(device))
        expected = factors.log().sum().expand(2)
        assert_close(student.log_abs_det_jacobian(f, normal_numbers(2, 40, seed=43).to(device)), expected)

    @check(hint="A map that flattens has determinant zero. Every number counts as it is: nothing is added to it.")
    def test_flat_place(self, student: Student, device: torch.device) -> None:
        """Where a map flattens the logarithm is minus infinity, and elsewhere it is as it should be."""
        x = table([0.0, 0.7], [2.0, 0.7], [1e-7, -2.0])
        assert_close(student.log_abs_det_jacobian(polar, x.to(device)), table(-math.inf, math.log(2), math.log(1e-7)))

    @check(hint="The logarithm is trained through in a flow: does it still know where it came from?")
    def test_gradients(self, student: Student, device: torch.device) -> None:
        """The logarithm is differentiable, in the points and in the parameters of the map."""
        # ln |det J| = 2 ln w + ln r
        x, w = table([0.5, 1.0], [3.0, -2.0], [12.0, 0.1]), table(1.7)[0]
        of_x, of_w = student.run(gradients_of_log_det, x.to(device), w.to(device))
        assert_close(of_x, torch.stack([1 / x[:, 0], torch.zeros(3, dtype=torch.float64)], -1))
        assert_close(of_w, 3 * 2 / w)

    @check(hint="One coordinate is a coordinate too: the determinant is then the slope.")
    def test_one_coordinate(self, student: Student, device: torch.device) -> None:
        """On the line the determinant is the slope."""
        x = table([0.5], [4.0], [9.0])
        assert_close(student.log_abs_det_jacobian(logarithms, x.to(device)), -x[:, 0].log())

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """The logarithms are right and have the dtype of the points."""
        x = table([0.4, -1.0, 0.2, 0.6], [2.0, 0.5, -1.0, 0.1])
        result = student.log_abs_det_jacobian(triangular_map, x.to(device, dtype))
        assert_dtype(result, dtype)
        assert_close(result, x.cosh().log().sum(-1).to(dtype))

    @check(hint=ON_ITS_DEVICE)
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """Points on another device than the CPU have the right logarithms, on that device."""
        r, theta, _ = SPHERICAL_POINTS.unbind(-1)
        result = student.log_abs_det_jacobian(spherical, SPHERICAL_POINTS.to(elsewhere))
        assert_device(result, elsewhere)
        assert_close(result, 2 * r.log() + theta.sin().log())

    @check(hint="Raise ValueError when the map has more or fewer outputs than inputs, and only then.")
    def test_refuses_matrices_that_are_not_square(self, student: Student, device: torch.device) -> None:
        """A map with more or fewer outputs than inputs is refused, a map with as many is not."""
        x = SPHERICAL_POINTS.to(device)
        r, theta, _ = SPHERICAL_POINTS.unbind(-1)
        assert_close(student.log_abs_det_jacobian(spherical, x), 2 * r.log() + theta.sin().log())
        for f in (first_two, with_a_copy):
            with student_raises(ValueError):
                student.log_abs_det_jacobian(f, x)


# --- polar_to_cartesian and cartesian_log_prob -------------------------------------------------------------------


@probe
def rayleigh_log_prob(p):
    r = p[..., 0]
    return r.log() - r**2 / 2 - math.log(2 * math.pi)


@probe
def gamma_von_mises_log_prob(shape, rate, center, concentration, log_bessel, p):
    r, phi = p[..., 0], p[..., 1]
    log_r = shape * math.log(rate) - math.lgamma(shape) + (shape - 1) * r.log() - rate * r
    return log_r + concentration * torch.cos(phi - center) - math.log(2 * math.pi) - log_bessel


@probe
def unwinding_log_prob(p):
    r, phi = p[..., 0], p[..., 1]
    return -r + torch.log((phi + math.pi) / (2 * math.pi**2))


@probe
def ring_log_prob(inner, outer, p):
    r = p[..., 0]
    inside = torch.full_like(r, -math.log((outer - inner) * 2 * math.pi))
    return inside.masked_fill((r < inner) | (r > outer), -math.inf)


@probe
def clover_log_prob(p):
    r, phi = p[..., 0], p[..., 1]
    return 3 * r.log() - r**2 / 2 - math.log(2) + torch.log1p(0.5 * torch.sin(2 * phi - 0.4)) - math.log(2 * math.pi)


@probe
def derivatives_of_polar(ns, points):
    points = points.clone().requires_grad_()
    x, y = ns.polar_to_cartesian(points).unbind(-1)
    return [torch.autograd.grad(out.sum(), points, retain_graph=True)[0] for out in (x, y)]


@probe
def polar_functions_and_arguments(ns, points, xy):
    forward = ns.polar_to_cartesian(points)
    backward = ns.cartesian_log_prob(lambda p: p[..., 1], xy)
    return forward, points, backward, xy


# all four quadrants, and both halves of both axes
AROUND = table(
    [3.0, 4.0], [-3.0, 4.0], [-3.0, -4.0], [3.0, -4.0], [2.0, 0.0], [-0.5, 0.0], [0.0, 0.3], [0.0, -1.5], [-0.1, 7.0]
)  # fmt: skip


def radius_and_angle(xy: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Polar coordinates by numpy's complex numbers, the angle from -pi to pi."""
    number = xy[..., 0].numpy() + 1j * xy[..., 1].numpy()
    return np.abs(number), np.angle(number)


@task("polar_to_cartesian")
class TestPolarToCartesian:
    @check(hint="The cosine belongs to x, the sine to y, and angles are radians.", weight=2)
    def test_map(self, student: Student, device: torch.device) -> None:
        """Polar coordinates lead to the right place, all the way round."""
        # sine and cosine swapped, degrees, x and y swapped
        r, phi = table([0.5, 2.0, 3.0], [1.0, 4.0, 0.1]), table([0.3, 1.9, -2.5], [3.1, -0.7, 5.0])
        number = r.numpy() * np.exp(1j * phi.numpy())
        expected = torch.stack([torch.as_tensor(number.real), torch.as_tensor(number.imag)], -1)
        assert_close(student.polar_to_cartesian(torch.stack([r, phi], -1).to(device)), expected)

    @check(hint="From per unit of distance and angle to per unit of area: which way does the factor r go?", weight=3)
    def test_normal_pair(self, student: Student, device: torch.device) -> None:
        """A distance with density r exp(-r^2/2) and an even angle make two independent standard normals."""
        # without the factor, with r multiplied, with r squared: off by ln r, 2 ln r, ln r; distances here are not 1
        result = student.cartesian_log_prob(rayleigh_log_prob, AROUND.to(device))
        assert_close(result, torch.as_tensor(scipy.stats.norm.logpdf(AROUND.numpy())).sum(-1))

    @check(hint="Dividing y by x forgets in which quadrant the point is.", weight=2)
    def test_every_direction(self, student: Student, device: torch.device) -> None:
        """A density that prefers one direction prefers it in the plane, too."""
        # atan for atan2, its arguments swapped, its sign lost
        r, phi = radius_and_angle(AROUND)
        shape, rate, center, concentration = 2.3, 0.8, 2.2, 1.7
        density = partial(
            gamma_von_mises_log_prob, shape, rate, center, concentration, math.log(scipy.special.i0(concentration))
        )
        expected = scipy.stats.gamma.logpdf(r, shape, scale=1 / rate) - np.log(r)
        expected += scipy.stats.vonmises.logpdf(phi, concentration, loc=center)
        assert_close(student.cartesian_log_prob(density, AROUND.to(device)), torch.as_tensor(expected))

    @check(hint="Angles run from -pi to pi, negative in the lower half of the plane.", weight=2)
    def test_range_of_angles(self, student: Student, device: torch.device) -> None:
        """Angles are counted from minus half a turn to half a turn."""
        # from 0 to 2 pi: wrong in the lower half-plane
        r, phi = radius_and_angle(AROUND)
        expected = -r + np.log((phi + math.pi) / (2 * math.pi**2)) - np.log(r)
        assert_close(student.cartesian_log_prob(unwinding_log_prob, AROUND.to(device)), torch.as_tensor(expected))

    @check(hint="Where the density of the pair is zero, so is the density in the plane.")
    def test_ring(self, student: Student, device: torch.device) -> None:
        """An even distance on a ring is denser inside than outside, and zero beyond the ring."""
        xy = table([0.9, 1.2], [0.0, -2.4], [0.3, 0.1], [-4.0, 3.0])
        expected = [-math.log(1.5 * 2 * math.pi * r) for r in (1.5, 2.4)]
        result = student.cartesian_log_prob(partial(ring_log_prob, 1.0, 2.5), xy.to(device))
        assert_close(result, table(*expected, -math.inf, -math.inf))

    def test_area(self, student: Student, device: torch.device) -> None:
        """The density in the plane integrates to one."""
        # (r^2 / 2) exp(-r^2 / 2) (1 + sin(2 phi - .4) / 2) / (2 pi) is smooth in x and y; the grid misses the origin
        side = torch.linspace(-9.9, 9.9, 100, dtype=torch.float64)
        xy = torch.cartesian_prod(side, side)
        log_p = student.cartesian_log_prob(clover_log_prob, xy.to(device))
        assert_shape(log_p, (10_000,))
        assert_close(log_p.cpu().exp().sum() * 0.2**2, 1.0)

    @check(hint="The map must stay inside torch, so that autograd can follow it.")
    def test_derivatives_of_the_map(self, student: Student, device: torch.device) -> None:
        """The map is differentiable, and swells by the distance."""
        points = table([0.5, 1.0], [3.0, -2.0], [1.2, 0.1])
        r, phi = points.unbind(-1)
        of_x, of_y = student.run(derivatives_of_polar, points.to(device))
        assert_close(of_x, torch.stack([phi.cos(), -r * phi.sin()], -1))
        assert_close(of_y, torch.stack([phi.sin(), r * phi.cos()], -1))

    @check(hint="Coordinates are the last axis: there may be any number of axes in front, or none.")
    def test_shapes(self, student: Student, device: torch.device) -> None:
        """A single point, a table of points and no points all have their places."""
        xy = AROUND[:6].reshape(2, 3, 2)
        expected = torch.as_tensor(scipy.stats.norm.logpdf(xy.numpy())).sum(-1)
        assert_close(student.cartesian_log_prob(rayleigh_log_prob, xy.to(device)), expected)
        assert_close(student.cartesian_log_prob(rayleigh_log_prob, xy[1, 2].to(device)), expected[1, 2])
        assert_shape(student.cartesian_log_prob(rayleigh_log_prob, xy[:0, 0].to(device)), (0,))
        one = student.polar_to_cartesian(table(2.0, math.pi / 3).to(device))
        assert_close(one, table(1.0, math.sqrt(3)))
        assert_shape(student.polar_to_cartesian(xy[:, :0].to(device)), (2, 0, 2))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """Both results are right and have the dtype of the points."""
        xy = AROUND[:4]
        log_p = student.cartesian_log_prob(rayleigh_log_prob, xy.to(device, dtype))
        assert_dtype(log_p, dtype)
        assert_close(log_p, torch.as_tensor(scipy.stats.norm.logpdf(xy.numpy())).sum(-1).to(dtype))
        place = student.polar_to_cartesian(table([2.0, 0.6], [0.7, -2.0]).to(device, dtype))
        assert_dtype(place, dtype)
        expected = [[2 * math.cos(0.6), 2 * math.sin(0.6)], [0.7 * math.cos(2.0), -0.7 * math.sin(2.0)]]
        assert_close(place, table(*expected).to(dtype))

    @check(hint=ON_ITS_DEVICE)
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """Points on another device than the CPU have the right results, on that device."""
        log_p = student.cartesian_log_prob(rayleigh_log_prob, AROUND.to(elsewhere))
        assert_device(log_p, elsewhere)
        assert_close(log_p, torch.as_tensor(scipy.stats.norm.logpdf(AROUND.numpy())).sum(-1))
        place = student.polar_to_cartesian(table([2.0, 0.6], [0.7, -2.0]).to(elsewhere))
        assert_device(place, elsewhere)
        expected = [[2 * math.cos(0.6), 2 * math.sin(0.6)], [0.7 * math.cos(2.0), -0.7 * math.sin(2.0)]]
        assert_close(place, table(*expected))

    @check(hint="Work on new tensors.")
    def test_arguments_are_left_alone(self, student: Student, device: torch.device) -> None:
        """Points are the same after the call as before."""
        points, xy = table([2.0, math.pi / 6], [1.0, 0.5]), AROUND[:4]
        _, after, turned, xy_after = student.run(
            polar_functions_and_arguments, points.clone().to(device), xy.clone().to(device)
        )
        r, phi = radius_and_angle(xy)
        assert_close(turned, torch.as_tensor(phi - np.log(r)))
        assert_close(after, points, rtol=0.0, atol=0.0)
        assert_close(xy_after, xy, rtol=0.0, atol=0.0)


# --- box_muller --------------------------------------------------------------------------------------------------


@probe
def derivatives_of_box_muller(ns, u1, u2):
    u1, u2 = u1.clone().requires_grad_(), u2.clone().requires_grad_()
    found = []
    for z in ns.box_muller(u1, u2):
        found.append(torch.autograd.grad(z.sum(), (u1, u2), retain_graph=True))
    return [list(pair) for pair in found]


@probe
def box_muller_and_arguments(ns, u1, u2):
    z1, z2 = ns.box_muller(u1, u2)
    return z1, z2, u1, u2


def pair_of(u1: Tensor, u2: Tensor) -> tuple[Tensor, Tensor]:
    """Box and Muller's pair, as one complex number."""
    number = np.sqrt(-2 * np.log(u1.numpy())) * np.exp(2j * np.pi * u2.numpy())
    return torch.as_tensor(number.real), torch.as_tensor(number.imag)


@task("box_muller")
class TestBoxMuller:
    @check(
        hint="Which of the two numbers decides on the distance? Is the logarithm natural, the angle a full turn?",
        weight=3,
    )
    def test_values(self, student: Student, device: torch.device) -> None:
        """Pairs of uniform numbers become the pairs that Box and Muller's formula says."""
        # sine and cosine swapped, u1 and u2 swapped, without the 2 in the root or in the angle, log2 or log10
        u1, u2 = table([0.9, 0.35, 0.01], [0.5, 0.7, 0.2]), table([0.05, 0.4, 0.6], [0.85, 0.3, 0.95])
        z1, z2 = student.box_muller(u1.to(device), u2.to(device))
        expected = pair_of(u1, u2)
        assert_close(z1, expected[0])
        assert_close(z2, expected[1])

    @check(hint="The square of the distance is -2 ln(u1), and an eighth of a turn is 45 degrees.", weight=2)
    def test_an_eighth_of_a_turn(self, student: Student, device: torch.device) -> None:
        """At an eighth of a turn both numbers are the same, and their squares add up to the squared distance."""
        u1 = torch.exp(-table(0.5, 2.0, 4.5))
        z1, z2 = student.box_muller(u1.to(device), torch.full_like(u1, 0.125).to(device))
        assert_close(z1, table(1.0, 2.0, 3.0) / math.sqrt(2))
        assert_close(z2, table(1.0, 2.0, 3.0) / math.sqrt(2))

    @check(hint="The density of the pair is one over the determinant: two independent standard normals.", weight=2)
    def test_determinant(self, student: Student, device: torch.device) -> None:
        """The map can be differentiated, and its determinant makes the pair two independent standard normals."""
        u1, u2 = table(0.2, 0.6, 0.95), table(0.1, 0.45, 0.8)
        (a, b), (c, d) = student.run(derivatives_of_box_muller, u1.to(device), u2.to(device))
        for entry in (a, b, c, d):
            assert_shape(entry, (3,))
        determinant = (a * d - b * c).cpu()
        assert_close(determinant.abs(), 2 * math.pi / u1)
        z1, z2 = pair_of(u1, u2)
        assert_close(-determinant.abs().log(), -(z1**2 + z2**2) / 2 - LN2PI)

    def test_distribution(self, student: Student, device: torch.device) -> None:
        """From uniform numbers come two independent standard normals."""
        # The 20,000 pairs are given, so a right answer has the same numbers every time. What chance would exceed once
        # in 1e9: .0232 for a distribution function (Dvoretzky, Kiefer and Wolfowitz, 2 exp(-2 n .0232^2) = 9e-10), and
        # some 7 standard deviations for the two mean products, whose variances are 1 / n and 4 / n.
        u = torch.rand(2, 20_000, generator=torch.Generator().manual_seed(61), dtype=torch.float64)
        z1, z2 = student.box_muller((1 - u[0]).to(device), u[1].to(device))
        for z in (z1, z2):
            assert_shape(z, (20_000,))
        z1, z2 = z1.cpu(), z2.cpu()
        for z in (z1, z2):
            assert_close(float(scipy.stats.kstest(z.numpy(), "norm").statistic), 0.0, rtol=0.0, atol=0.0232)
        assert_close((z1 * z2).mean(), 0.0, rtol=0.0, atol=0.0495)
        assert_close(((z1**2 - 1) * (z2**2 - 1)).mean(), 0.0, rtol=0.0, atol=0.099)

    @check(hint="u1 = 1 is allowed, and so is a u1 that is very small.")
    def test_ends_of_the_range(self, student: Student, device: torch.device) -> None:
        """u1 = 1 gives the origin, a tiny u1 a large but finite distance."""
        # a small number added to u1, or a clamp, shows
        u1, u2 = table(1.0, 1e-300, 1e-20, 1.0), table(0.3, 0.6, 1.0, 0.0)
        z1, z2 = student.box_muller(u1.to(device), u2.to(device))
        expected = pair_of(u1, u2)
        assert_close(z1, expected[0])
        assert_close(z2, expected[1])

    def test_shapes(self, student: Student, device: torch.device) -> None:
        """A single pair, a table of pairs and no pairs all have their shape."""
        u1, u2 = table([[0.2], [0.4]], [[0.9], [0.5]]), table([[0.3], [0.8]], [[0.6], [0.1]])
        expected = pair_of(u1, u2)
        assert_close(student.box_muller(u1.to(device), u2.to(device)), expected)
        assert_close(
            student.box_muller(u1[0, 1, 0].to(device), u2[0, 1, 0].to(device)), [part[0, 1, 0] for part in expected]
        )
        for z in student.box_muller(u1[:0].to(device), u2[:0].to(device)):
            assert_shape(z, (0, 2, 1))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """Both numbers are right and have the dtype of the uniform ones."""
        u1, u2 = table(0.3, 0.75), table(0.9, 0.15)
        for z, expected in zip(
            student.box_muller(u1.to(device, dtype), u2.to(device, dtype)), pair_of(u1, u2), strict=True
        ):
            assert_dtype(z, dtype)
            assert_close(z, expected.to(dtype))

    @check(hint=ON_ITS_DEVICE)
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """Uniform numbers on another device than the CPU give the right pairs, on that device."""
        u1, u2 = table([0.9, 0.35, 0.01], [0.5, 0.7, 0.2]), table([0.05, 0.4, 0.6], [0.85, 0.3, 0.95])
        pair = student.box_muller(u1.to(elsewhere), u2.to(elsewhere))
        for z, expected in zip(pair, pair_of(u1, u2), strict=True):
            assert_device(z, elsewhere)
            assert_close(z, expected)

    @check(hint="Raise ValueError if a single u1 is zero, negative or greater than one, and only then.")
    def test_refuses_what_has_no_distance(self, student: Student, device: torch.device) -> None:
        """A u1 that is not greater than 0 and at most 1 is refused; every u2 is welcome."""
        u2 = table(0.25, -0.25, 7.25)
        z1, z2 = student.box_muller(table(0.5, 0.5, 1.0).to(device), u2.to(device))
        assert_close(z1, table(0.0, 0.0, 0.0))
        assert_close(z2, table(math.sqrt(2 * math.log(2)), -math.sqrt(2 * math.log(2)), 0.0))
        for bad in (0.0, -0.2, 1.001):
            with student_raises(ValueError):
                student.box_muller(table(0.5, bad, 0.9).to(device), u2.to(device))

    @check(hint="Work on new tensors.")
    def test_arguments_are_left_alone(self, student: Student, device: torch.device) -> None:
        """The uniform numbers are the same after the call as before."""
        u1, u2 = table(0.3, 0.75), table(0.9, 0.15)
        z1, z2, u1_after, u2_after = student.run(box_muller_and_arguments, u1.clone().to(device), u2.clone().to(device))
        assert_close([z1, z2], pair_of(u1, u2))
        assert_close(u1_after, u1, rtol=0.0, atol=0.0)
        assert_close(u2_after, u2, rtol=0.0, atol=0.0)


# --- TanhTransform -----------------------------------------------------------------------------------------------


@probe
def squashed_normal_log_prob(ns, mean, sigma, y):
    base = torch.distributions.Normal(mean, sigma)
    return torch.distributions.TransformedDistribution(base, [ns.TanhTransform()]).log_prob(y)


@probe
def gradient_of_log_slope(ns, x):
    x = x.clone().requires_grad_()
    transform = ns.TanhTransform()
    transform.log_abs_det_jacobian(x, x.detach().tanh()).sum().backward()
    return x.grad


@probe
def gradients_of_map_and_inverse(ns, x, y):
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    transform = ns.TanhTransform()
    transform(x).sum().backward()
    transform.inv(y).sum().backward()
    return x.grad, y.grad


@probe
def transform_and_arguments(ns, x, y):
    transform = ns.TanhTransform()
    slopes = transform.log_abs_det_jacobian(x, y)
    return transform(x), transform.inv(y), slopes, x, y


def log_slope(x: Tensor) -> Tensor:
    """ln(1 - tanh^2 x), from ln cosh x without overflow, in float64 by numpy."""
    values = x.double().numpy()
    return torch.as_tensor(2 * math.log(2) - 2 * np.logaddexp(values, -values))


ORDINARY = table([0.0, 0.3, -0.7, 1.4], [-2.2, 3.0, 0.05, -4.5])


@task("TanhTransform")
class TestTanhTransform:
    def test_map_and_inverse(self, student: Student, device: torch.device) -> None:
        """The transform maps by the hyperbolic tangent, and its inverse leads back."""
        transform = student.TanhTransform()
        x = ORDINARY
        y = torch.as_tensor(np.tanh(x.numpy()))
        assert_close(transform(x.to(device)), y)
        assert_close(transform.inv(y.to(device)), x)

    @check(
        hint="The logarithm of the slope of the map from x to y, for each entry by itself: which sign has it?", weight=2
    )
    def test_log_slope(self, student: Student, device: torch.device) -> None:
        """At ordinary points the logarithm of the slope is that of one minus the square of the tangent."""
        # sign lost; the square forgotten; the inverse's; summed over the last axis
        x = ORDINARY
        result = student.TanhTransform().log_abs_det_jacobian(x.to(device), x.tanh().to(device))
        assert_close(result, torch.as_tensor(np.log1p(-(np.tanh(x.numpy()) ** 2))))

    @check(hint="tanh(20) is 1 in float64. Is there a form that never subtracts it from 1?", weight=3)
    def test_far_out(self, student: Student, device: torch.device) -> None:
        """Twenty units out the slope is tiny, and its logarithm an ordinary number."""
        # -38.6137; as it stands -inf, with 1e-6 under the logarithm -13.8155
        x = table(20.0, -20.0, 18.7, -35.0)
        result = student.TanhTransform().log_abs_det_jacobian(x.to(device), x.tanh().to(device))
        assert_close(result, log_slope(x))
        assert_close(result[0], -38.61370563888011)

    @check(
        hint="exp(x) and cosh(x) overflow here. Can you factor the large part out before taking the logarithm?",
        weight=2,
    )
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_very_far_out(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """A thousand units out, the logarithm of the slope is still right."""
        # ln cosh x overflows at |x| = 89 in float32, at 710 in float64
        x = table(9.7, -12.0, 100.0, -100.0, 1000.0, -1000.0).to(dtype)
        result = student.TanhTransform().log_abs_det_jacobian(x.to(device), x.tanh().to(device))
        assert_close(result, log_slope(x).to(dtype))

    @check(hint="A saturated action must still feel a pull: the derivative is -2 tanh(x), even far out.", weight=2)
    def test_gradient(self, student: Student, device: torch.device) -> None:
        """The logarithm of the slope has a slope of its own, everywhere."""
        # a clamp or a floor has gradient zero far out; inf - inf gives NaN; with y in place of x there is no graph
        x = table(0.3, -1.4, 5.0, 20.0, -20.0, 400.0, -1000.0)
        assert_close(student.run(gradient_of_log_slope, x.to(device)), -2 * torch.as_tensor(np.tanh(x.numpy())))

    @check(hint="TransformedDistribution uses the map's inverse and `log_abs_det_jacobian`, each in its direction.")
    def test_squashed_normal(self, student: Student, device: torch.device) -> None:
        """A normal variable sent through the transform has the density that the formula says."""
        mean, sigma, y = table(0.3, -1.0), table(0.8, 0.5), table([0.1, -0.9], [0.999, -0.4], [-0.6, 0.2])
        expected = scipy.stats.norm.logpdf(np.arctanh(y.numpy()), mean.numpy(), sigma.numpy()) - np.log1p(
            -(y.numpy() ** 2)
        )
        found = student.run(squashed_normal_log_prob, mean.to(device), sigma.to(device), y.to(device))
        assert_close(found, torch.as_tensor(expected))

    @check(hint="Every y between -1 and 1 has its x: nothing is clamped.")
    def test_inverse_near_the_walls(self, student: Student, device: torch.device) -> None:
        """Outputs very close to the walls lead back to where they came from."""
        # y clamped to 1 - 1e-6 gives 7.25, to 1 - 1e-7 8.41
        y = table(1 - 1e-9, -1 + 1e-11, 0.99999)
        assert_close(student.TanhTransform().inv(y.to(device)), torch.as_tensor(np.arctanh(y.numpy())))

    @check(hint="Stay inside torch, so that gradients pass both ways.")
    def test_gradients_of_map_and_inverse(self, student: Student, device: torch.device) -> None:
        """Map and inverse are differentiable, with slopes that are each other's reciprocals."""
        x, y = table(0.3, -1.2), table(0.5, -0.8)
        of_x, of_y = student.run(gradients_of_map_and_inverse, x.to(device), y.to(device))
        assert_close(of_x, 1 - torch.as_tensor(np.tanh(x.numpy())) ** 2)
        assert_close(of_y, 1 / (1 - y**2))

    def test_shapes(self, student: Student, device: torch.device) -> None:
        """Single numbers and tables without entries keep their shape."""
        transform = student.TanhTransform()
        one, none = table(1.5)[0], table(1.5)[:0]
        assert_close(transform(one.to(device)), math.tanh(1.5))
        assert_close(transform.log_abs_det_jacobian(one.to(device), one.tanh().to(device)), log_slope(one))
        assert_shape(transform.log_abs_det_jacobian(none.to(device), none.to(device)), (0,))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """All three results are right and have the dtype of what was given."""
        transform, x = student.TanhTransform(), table(0.2, -1.1, 2.0).to(dtype)
        y = torch.as_tensor(np.tanh(x.double().numpy()))
        for result, expected in (
            (transform(x.to(device)), y),
            (transform.inv(table(0.25, -0.5, 0.8).to(device, dtype)), table(*np.arctanh([0.25, -0.5, 0.8]).tolist())),
            (transform.log_abs_det_jacobian(x.to(device), y.to(device, dtype)), log_slope(x)),
        ):
            assert_dtype(result, dtype)
            assert_close(result, expected.to(dtype))

    @check(hint=ON_ITS_DEVICE)
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """Inputs on another device than the CPU have the right results, on that device."""
        transform, x = student.TanhTransform(), table(0.2, -1.1, 20.0)
        y = torch.as_tensor(np.tanh(x.numpy()))
        for result, expected in (
            (transform(x.to(elsewhere)), y),
            (transform.inv(y[:2].to(elsewhere)), x[:2]),
            (transform.log_abs_det_jacobian(x.to(elsewhere), y.to(elsewhere)), log_slope(x)),
        ):
            assert_device(result, elsewhere)
            assert_close(result, expected)

    @check(hint="Work on new tensors.")
    def test_arguments_are_left_alone(self, student: Student, device: torch.device) -> None:
        """Inputs and outputs are the same after the calls as before."""
        x, y = table(0.2, -1.1, 2.0), table(0.5, 0.1, -0.9)
        mapped, back, slopes, x_after, y_after = student.run(
            transform_and_arguments, x.clone().to(device), y.clone().to(device)
        )
        assert_close(mapped, torch.as_tensor(np.tanh(x.numpy())))
        assert_close(back, torch.as_tensor(np.arctanh(y.numpy())))
        assert_shape(slopes, (3,))
        assert_close(x_after, x, rtol=0.0, atol=0.0)
        assert_close(y_after, y, rtol=0.0, atol=0.0)


# --- push_through and flow_log_prob ------------------------------------------------------------------------------


@probe
def elementwise_chain(shift, scale):
    transforms = torch.distributions.transforms
    return [transforms.AffineTransform(shift, scale), transforms.ExpTransform(), transforms.TanhTransform()]


@probe
def mixing_link(matrix):
    class Mixing(torch.distributions.transforms.Transform):
        domain = torch.distributions.constraints.real_vector
        codomain = torch.distributions.constraints.real_vector
        bijective = True

        def _call(self, x):
            return x @ matrix.mT

        def _inverse(self, y):
            return torch.linalg.solve(matrix, y.mT).mT

        def log_abs_det_jacobian(self, x, y):
            return torch.linalg.slogdet(matrix).logabsdet.expand(x.shape[:-1])

    return Mixing()


@probe
def cubic_link():
    class Cubic(torch.distributions.transforms.Transform):
        domain = torch.distributions.constraints.real_vector
        codomain = torch.distributions.constraints.real_vector
        bijective = True

        def _call(self, x):  # y1 = x1, y_k = x_k (1 + x1^2)
            return torch.cat([x[..., :1], x[..., 1:] * (1 + x[..., :1] ** 2)], dim=-1)

        def _inverse(self, y):
            return torch.cat([y[..., :1], y[..., 1:] / (1 + y[..., :1] ** 2)], dim=-1)

        def log_abs_det_jacobian(self, x, y):
            return (x.shape[-1] - 1) * torch.log1p(x[..., 0] ** 2)

    return Cubic()


@probe
def affine_link(shift, scale, event_dim):
    return torch.distributions.transforms.AffineTransform(shift, scale, event_dim=event_dim)


@probe
def tanh_link():
    return torch.distributions.transforms.TanhTransform()


@probe
def exp_link():
    return torch.distributions.transforms.ExpTransform()


@probe
def power_link(exponent):  # of torch's transforms the one whose slope is computed from x and y
    return torch.distributions.transforms.PowerTransform(exponent)


@probe
def normal_points_log_prob(mean, x):
    return (-0.5 * (x - mean) ** 2 - 0.5 * math.log(2 * math.pi)).sum(-1)


@probe
def forward_through(ns, makers, x):
    return ns.push_through([make() for make in makers], x)


@probe
def density_of(ns, base_log_prob, makers, y):
    return ns.flow_log_prob(base_log_prob, [make() for make in makers], y)


@probe
def twice(ns, base_log_prob, makers, x, y):
    chain = [make() for make in makers]
    ns.flow_log_prob(base_log_prob, chain, y)
    density = ns.flow_log_prob(base_log_prob, chain, y)
    return density, ns.push_through(chain, x), x, y


@probe
def gradients_of_a_flow(ns, x, y, shift, scale):
    x, y, shift, scale = (tensor.clone().requires_grad_() for tensor in (x, y, shift, scale))
    transforms = torch.distributions.transforms
    chain = [transforms.AffineTransform(shift, scale), transforms.ExpTransform()]
    ns.push_through(chain, x)[1].sum().backward()
    of_volume = [tensor.grad.clone() for tensor in (x, shift, scale)]
    shift.grad, scale.grad = None, None
    ns.flow_log_prob(lambda points: (-0.5 * points**2).sum(-1), chain, y).sum().backward()
    return of_volume, [tensor.grad for tensor in (y, shift, scale)]


def on(device: torch.device, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.to(device) for tensor in tensors)


SHIFT, SCALE = table(0.2, -0.4, 0.1), table(0.5, -1.5, 0.8)
MATRIX = table([1.0, 0.5, -0.3], [0.2, -2.0, 0.4], [0.0, 0.7, 1.5])


def long_chain(device: torch.device) -> list[partial]:
    """Links on coordinates and on points, in turns: what makes them, to be sent."""
    shift, scale, matrix = on(device, SHIFT, SCALE, MATRIX)
    return [
        partial(affine_link, shift, scale, 0),
        partial(mixing_link, matrix),
        partial(cubic_link),
        partial(tanh_link),
        partial(affine_link, -shift, 2 * scale, 1),
        partial(exp_link),
        partial(power_link, table(0.7)[0].to(device)),
    ]


def by_autograd(makers: list[partial], x: Tensor) -> tuple[Tensor, Tensor]:
    """What a chain does to points on the CPU, and ln |det J| of the whole of it by autograd and numpy."""
    links = [maker() for maker in makers]

    def through(point: Tensor) -> Tensor:
        for link in links:
            point = link(point)
        return point

    matrices = [torch.autograd.functional.jacobian(through, point).numpy() for point in x]
    return through(x), torch.as_tensor(np.linalg.slogdet(np.stack(matrices))[1])


CPU = torch.device("cpu")


@task("push_through")
class TestPushThrough:
    @check(
        hint="A link that acts on each coordinate gives one logarithm for each: what is the determinant then?", weight=2
    )
    def test_links_on_coordinates(self, student: Student, device: torch.device) -> None:
        """A chain of links that act on each coordinate by itself."""
        # mean for sum over the coordinates, no sum, a sum over the batch too; a term taken at the start or at the end
        x = normal_numbers(4, 3, seed=81)
        middle = SHIFT + SCALE * x
        y, log_det = student.run(
            forward_through, [partial(affine_link, *on(device, SHIFT, SCALE), 0), partial(exp_link)], x.to(device)
        )
        assert_close(y, middle.exp())
        assert_close(log_det, SCALE.abs().log().sum() + middle.sum(-1))

    @check(
        hint="Each term is taken where the point is at that moment, and `event_dim` says what has been summed.",
        weight=3,
    )
    @pytest.mark.parametrize("batch", [3, 5])
    def test_mixed_chain(self, student: Student, device: torch.device, batch: int) -> None:
        """A chain of links of both kinds swells as the Jacobian of the whole says."""
        # three points of three coordinates: adding (batch,) to (batch, n) goes unnoticed
        x = 0.3 * normal_numbers(batch, 3, seed=82)
        expected_y, expected = by_autograd(long_chain(CPU), x)
        y, log_det = student.run(forward_through, long_chain(device), x.to(device))
        assert_close(y, expected_y)
        assert_close(log_det, expected)

    @check(hint="The first link of the list is the first that the points meet.", weight=2)
    def test_order(self, student: Student, device: torch.device) -> None:
        """The order of two links matters, to the points and to the volumes."""
        x = normal_numbers(4, 3, seed=83)
        links = [partial(affine_link, *on(device, SHIFT, SCALE), 0), partial(exp_link)]
        y, log_det = student.run(forward_through, links[::-1], x.to(device))
        assert_close(y, SHIFT + SCALE * x.exp())
        assert_close(log_det, SCALE.abs().log().sum() + x.sum(-1))

    @check(hint="Undo the last link first. By how much is the density diluted on the way?", weight=2)
    def test_normal_vectors(self, student: Student, device: torch.device) -> None:
        """Linear links turn a standard normal vector into one with another mean and covariance."""
        # order not reversed, plus for minus, forward for inverse; the oracle inverts the covariance
        scale = 1.5 * SCALE
        matrix = (MATRIX @ torch.diag(scale)).numpy()
        mean = (MATRIX @ SHIFT).numpy()
        y = 2 * normal_numbers(5, 3, seed=84)
        expected = scipy.stats.multivariate_normal.logpdf(y.numpy(), mean, matrix @ matrix.T)
        links = [partial(affine_link, *on(device, SHIFT, scale), 0), partial(mixing_link, MATRIX.to(device))]
        found = student.run(density_of, partial(normal_points_log_prob, 0.0), links, y.to(device))
        assert_close(found, torch.as_tensor(expected))

    @check(hint="Each term belongs to the input of its link, which you find on the way back.", weight=3)
    @pytest.mark.parametrize("batch", [3, 5])
    def test_density_of_a_mixed_chain(self, student: Student, device: torch.device, batch: int) -> None:
        """The density at the end of a chain is that at its beginning, diluted by the volume gained."""
        x = 0.3 * normal_numbers(batch, 3, seed=85)
        y, log_det = by_autograd(long_chain(CPU), x)
        expected = torch.as_tensor(scipy.stats.norm.logpdf(x.numpy(), 0.7)).sum(-1) - log_det
        found = student.run(density_of, partial(normal_points_log_prob, 0.7), long_chain(device), y.to(device))
        assert_close(found, expected)

    @check(hint="Without a link nothing moves and nothing swells, and there is still one number for each point.")
    def test_empty_chain(self, student: Student, device: torch.device) -> None:
        """A chain without links leaves points and densities as they are."""
        x = normal_numbers(4, 3, seed=86)
        y, log_det = student.push_through([], x.to(device))
        assert_close(y, x)
        assert_close(log_det, torch.zeros(4, dtype=torch.float64))
        found = student.flow_log_prob(partial(normal_points_log_prob, 0.2), [], x.to(device))
        assert_close(found, torch.as_tensor(scipy.stats.norm.logpdf(x.numpy(), 0.2)).sum(-1))

    @check(hint="One coordinate, one point or none: the shapes are as the docstring says.")
    def test_small_shapes(self, student: Student, device: torch.device) -> None:
        """Points with a single coordinate, and batches without points, have their shapes."""
        x = table([0.5], [-1.0])
        y, log_det = student.run(forward_through, [partial(exp_link)], x.to(device))
        assert_close(y, x.exp())
        assert_close(log_det, x[:, 0])
        found = student.run(density_of, partial(normal_points_log_prob, 0.0), [partial(exp_link)], x.exp().to(device))
        assert_close(found, torch.as_tensor(scipy.stats.lognorm.logpdf(x.exp().numpy()[:, 0], 1.0)))
        y, log_det = student.run(forward_through, [partial(exp_link)], torch.zeros(0, 2, device=device))
        assert_shape(y, (0, 2))
        assert_shape(log_det, (0,))

    @check(hint="A flow is trained through this: nothing may be detached, nothing turned into plain numbers.")
    def test_gradients(self, student: Student, device: torch.device) -> None:
        """Volumes and densities are differentiable, in the points and in the parameters of the links."""
        # volume: sum of ln|s| + b + s x; density: with z = (ln y - b) / s, sum of -z^2/2 - ln|s| - ln y
        x, y = normal_numbers(4, 3, seed=87), normal_numbers(4, 3, seed=88).exp()
        z = (y.log() - SHIFT) / SCALE
        volume = (SCALE.expand(4, 3), torch.full((3,), 4.0, dtype=torch.float64), 4 / SCALE + x.sum(0))
        density = (-z / (SCALE * y) - 1 / y, (z / SCALE).sum(0), ((z**2 - 1) / SCALE).sum(0))
        of_volume, of_density = student.run(gradients_of_a_flow, *on(device, x, y, SHIFT, SCALE))
        for found, expected in ((of_volume, volume), (of_density, density)):
            for gradient, value in zip(found, expected, strict=True):
                assert_close(gradient, value)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """Points, volumes and densities are right and have the dtype of what was given."""
        x = table([0.3, -0.4], [1.0, 0.2], [-0.6, 0.5])
        shift, scale = table(0.1, 0.3), table(2.0, 0.7)
        links = [partial(exp_link), partial(affine_link, *(t.to(device, dtype) for t in (shift, scale)), 1)]
        y, log_det = student.run(forward_through, links, x.to(device, dtype))
        found = student.run(
            density_of, partial(normal_points_log_prob, 0.0), links, (shift + scale * x.exp()).to(device, dtype)
        )
        volume = scale.log().sum() + x.sum(-1)
        density = torch.as_tensor(scipy.stats.norm.logpdf(x.numpy())).sum(-1) - volume
        for result, expected in ((y, shift + scale * x.exp()), (log_det, volume), (found, density)):
            assert_dtype(result, dtype)
            assert_close(result, expected.to(dtype))

    @check(hint=ON_ITS_DEVICE)
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """Points on another device than the CPU have the right images, volumes and densities, on that device."""
        x = 0.3 * normal_numbers(3, 3, seed=90)
        expected_y, expected = by_autograd(long_chain(CPU), x)
        y, log_det = student.run(forward_through, long_chain(elsewhere), x.to(elsewhere))
        base = partial(normal_points_log_prob, 0.0)
        log_p = student.run(density_of, base, long_chain(elsewhere), expected_y.to(elsewhere))
        log_base = torch.as_tensor(scipy.stats.norm.logpdf(x.numpy())).sum(-1)
        for result, wanted in ((y, expected_y), (log_det, expected), (log_p, log_base - expected)):
            assert_device(result, elsewhere)
            assert_close(result, wanted)
        for result in student.push_through([], x.to(elsewhere)):
            assert_device(result, elsewhere)

    @check(hint="Walk the list backwards without turning it round: it belongs to the caller.")
    def test_arguments_are_left_alone(self, student: Student, device: torch.device) -> None:
        """The chain and the points are the same after the calls as before."""
        # transforms.reverse() in place: the second call walks the other way
        x = 0.5 * normal_numbers(4, 3, seed=89)
        y = (SHIFT + SCALE.abs() * x).exp()
        makers = [partial(affine_link, *on(device, SHIFT, SCALE.abs()), 0), partial(exp_link)]
        density, (image, _), x_after, y_after = student.run(
            twice, partial(normal_points_log_prob, 0.0), makers, *on(device, x.clone(), y.clone())
        )
        volume = SCALE.abs().log().sum() + (SHIFT + SCALE.abs() * x).sum(-1)
        assert_close(density, torch.as_tensor(scipy.stats.norm.logpdf(x.numpy())).sum(-1) - volume)
        assert_close(image, y)
        assert_close(x_after, x, rtol=0.0, atol=0.0)
        assert_close(y_after, y, rtol=0.0, atol=0.0)
