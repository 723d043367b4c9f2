"""Hidden checks of the assignment on sampling.

Expected values come from closed forms, from scipy.stats and from exact identities, not from the reference. What is
random is judged by bounds that hold for every right sampler, whatever the order in which it draws:

- The largest gap between the empirical distribution function of n independent draws and the true one exceeds e with
  probability at most 2 exp(-2 n e^2), for every n and every continuous distribution (Dvoretzky, Kiefer and Wolfowitz,
  with Massart's constant). `gap` puts this at 1e-11.
- The mean of n independent numbers between 0 and 1 misses its expectation by more than e with probability at most
  2 exp(-2 n e^2) (Hoeffding): the same bound.
- Chains start from their stationary distribution, drawn here, so they have it after any number of steps, and chains are
  independent of each other. Bounds count chains, not steps: how the states of one chain depend on each other does not
  matter. Where steps are averaged as well, the comment accounts for their correlation.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import scipy.signal
import scipy.stats
import torch
from torch import Tensor

from autograder.checks import (
    Student,
    assert_close,
    assert_device,
    assert_dtype,
    assert_shape,
    attribute,
    check,
    fetch,
    probe,
    student_raises,
    task,
)

CHAINS = 4000
RARE = 1e-11


def table(*rows: object) -> Tensor:
    """A float64 tensor."""
    return torch.tensor(rows, dtype=torch.float64)


def seeded(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on the device."""
    return torch.Generator(device).manual_seed(seed)


def normal(*shape: int, seed: int) -> Tensor:
    """Independent draws of N(0, 1), float64."""
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def gap(n: int) -> float:
    """What n independent draws exceed with probability 1e-11 (see above): .057 for 4000, .025 for 20,000."""
    return math.sqrt(math.log(2 / RARE) / (2 * n))


def assert_follows(sample: Tensor, distribution: Callable[[np.ndarray], np.ndarray]) -> None:
    """Demand that independent draws follow a distribution function."""
    statistic = scipy.stats.kstest(sample.detach().cpu().double().flatten().numpy(), distribution).statistic
    assert_close(float(statistic), 0.0, rtol=0.0, atol=gap(sample.numel()))


def assert_unrelated(first: Tensor, second: Tensor) -> None:
    """Demand that numbers uniform on (0, 1), in pairs, are independent as far as sum and difference modulo 1 tell.

    For independent pairs both are uniform; for equal, mirrored or repeated numbers one of them is a constant.
    """
    for combined in (first - second, first + second):
        assert_follows(combined.remainder(1.0), scipy.stats.uniform.cdf)


def assert_same(actual: object, expected: object) -> None:
    """Demand the very same numbers."""
    assert_close(actual, expected, rtol=0.0, atol=0.0)


def assert_other(first: Tensor, second: Tensor) -> None:
    """Demand that no number of two equally shaped sets of draws is repeated at its place."""
    assert_shape(second, first.shape)
    assert_same((first == second).sum(), 0)


# --- exponential_icdf and inverse_transform_sample ---------------------------------------------------------------


@probe
def gradients_of_icdf(ns, u, rate):
    u, rate = u.clone().requires_grad_(), rate.clone().requires_grad_()
    ns.exponential_icdf(u, rate).sum().backward()
    return u.grad, rate.grad


@probe
def exponential_quantile(rate, u):
    return -torch.log1p(-u) / rate


@probe
def logistic_quantile(center, scale, u):
    return center + scale * (torch.log(u) - torch.log1p(-u))


@probe
def as_it_is(u):
    return u


@probe
def draws_twice(ns, icdf, shape, generator):
    return ns.inverse_transform_sample(icdf, shape, generator), ns.inverse_transform_sample(icdf, shape, generator)


def exponential_ppf(u: Tensor, rate: Tensor) -> Tensor:
    """The oracle."""
    return torch.as_tensor(scipy.stats.expon.ppf(u.numpy(), scale=1 / rate.numpy()))


@task("inverse_transform_sample")
class TestInverseTransformSample:
    @check(hint="Solve u = 1 - exp(-rate x) for x. A larger rate means shorter waiting times.", weight=2)
    def test_quantiles(self, student: Student, device: torch.device) -> None:
        """Quantiles of exponential distributions are right."""
        # rate inverted, -ln u, sign lost, log2: at .3 and rate 2.5 these give .892, .482, -.143, .206 for .143
        u, rate = table(0.3, 0.05, 0.8, 0.99), table(2.5, 0.4, 7.0, 1.3)
        result = student.exponential_icdf(u.to(device), rate.to(device))
        assert_close(result, exponential_ppf(u, rate))

    @check(hint="1 - u loses the digits of a small u: torch has a function for the logarithm of 1 plus a small number.")
    def test_small_probabilities(self, student: Student, device: torch.device) -> None:
        """Quantiles of very small probabilities keep their relative precision."""
        # F(x) = rate x near zero. In float32 ln(1 - 1e-9) is 0, in float64 ln(1 - 1e-14) is off by 8e-4.
        for dtype, u, tolerance in ((torch.float32, 1e-9, 1e-5), (torch.float64, 1e-14, 1e-9)):
            result = student.exponential_icdf(
                torch.tensor([u, 3 * u], dtype=dtype, device=device), torch.tensor(0.5, dtype=dtype, device=device)
            )
            assert_close(result, table(2 * u, 6 * u), rtol=tolerance, atol=0.0)

    @check(hint="Which point has nothing below it, and which has everything?")
    def test_ends(self, student: Student, device: torch.device) -> None:
        """The quantile of 0 is 0, the quantile of 1 is infinite."""
        # a clamp, or -ln u, which has the ends the other way round
        result = student.exponential_icdf(table(0.0, 1.0, 0.0).to(device), table(3.0, 3.0, 0.2).to(device))
        assert_close(result, table(0.0, math.inf, 0.0))

    @check(hint="Let torch broadcast: no loop over the first argument, no reshaping.")
    def test_broadcasting(self, student: Student, device: torch.device) -> None:
        """A row of probabilities against a column of rates gives a table of quantiles."""
        u, rate = table(0.1, 0.6, 0.95), table([2.0], [0.3])
        result = student.exponential_icdf(u.to(device), rate.to(device))
        assert_close(result, exponential_ppf(u, rate))

    @check(hint="Stay inside torch: no numpy, no .item(), no .detach().")
    def test_gradients(self, student: Student, device: torch.device) -> None:
        """Quantiles are differentiable in the probability and in the rate."""
        u, rate = table(0.2, 0.7, 0.9), table(0.5, 3.0, 1.2)
        of_u, of_rate = student.run(gradients_of_icdf, u.to(device), rate.to(device))
        assert_close(of_u, 1 / (rate * (1 - u)))
        assert_close(of_rate, -exponential_ppf(u, rate) / rate)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """Quantiles are right and have the dtype of the probabilities."""
        u, rate = table([0.3, 0.4], [0.55, 0.9], [0.01, 0.75]), table(2.0, 0.7)
        result = student.exponential_icdf(u.to(device, dtype), rate.to(device, dtype))
        assert_dtype(result, dtype)
        assert_close(result, exponential_ppf(u, rate).to(dtype))

    @check(hint="Raise ValueError for a probability outside 0 to 1 and for a rate that is not positive, and only then.")
    def test_refuses_what_is_no_probability_or_rate(self, student: Student, device: torch.device) -> None:
        """Numbers that are no probabilities and rates that are not positive are refused, all others are not."""
        u, rate = table(0.5, 1.0, 0.0), table(1.5, 0.1, 30.0)
        assert_close(student.exponential_icdf(u.to(device), rate.to(device)), exponential_ppf(u, rate))
        for place, bad in ((0, -0.1), (0, 1.1), (1, 0.0), (1, -2.0)):
            arguments = [u.clone(), rate.clone()]
            arguments[place][1] = bad
            with student_raises(ValueError):
                student.exponential_icdf(*(argument.to(device) for argument in arguments))

    @check(hint="Uniform numbers from 0 to 1, one for each draw, put through icdf.", weight=2)
    def test_distribution(self, student: Student) -> None:
        """Draws through a quantile function follow its distribution."""
        # icdf left out or used twice, normal numbers for uniform ones; 10,000 draws: gap .036
        for icdf, expected in (
            (partial(exponential_quantile, 2.5), scipy.stats.expon(scale=0.4)),
            (partial(logistic_quantile, -1.0, 0.7), scipy.stats.logistic(-1.0, 0.7)),
        ):
            result = student.inverse_transform_sample(icdf, (10_000,), seeded(11))
            assert_shape(result, (10_000,))
            assert_follows(result, expected.cdf)

    @check(hint="Every draw needs a uniform number of its own, and that number is random.")
    def test_independence(self, student: Student) -> None:
        """Draws in different rows are unrelated, and scatter as random numbers do."""
        # One row repeated, mirrored rows, evenly spaced numbers. Of the last the gap to the uniform distribution is at
        # most 1/n. Random numbers have a gap below .2/sqrt(n) with probability sqrt(2 pi)/.2 exp(-(pi/.2)^2/8) = 5e-13
        # (Kolmogorov's limit, of which the exact value for n = 4000 is a few per cent off).
        rows = student.inverse_transform_sample(as_it_is, (3, 4000), seeded(12))
        assert_shape(rows, (3, 4000))
        for one, other in ((0, 1), (1, 2), (0, 2)):
            assert_unrelated(rows[one], rows[other])
        assert_unrelated(rows[:, 1:].flatten(), rows[:, :-1].flatten())
        line = student.inverse_transform_sample(as_it_is, (4000,), seeded(12))
        assert_shape(line, (4000,))
        statistic = scipy.stats.kstest(line.numpy(), scipy.stats.uniform.cdf).statistic
        assert bool(statistic > 0.2 / math.sqrt(4000))

    @check(hint="Draw the uniform numbers in float64; those of float32 are multiples of 2^-24.")
    def test_uniform_numbers(self, student: Student) -> None:
        """The numbers that icdf gets are float64 numbers between 0 and 1 with all their digits."""
        # float32 numbers made longer; with 53 random bits a number is a multiple of 2^-24 with probability 2^-29
        result = student.inverse_transform_sample(as_it_is, (1000,), seeded(13))
        assert_dtype(result, torch.float64)
        assert_follows(result, scipy.stats.uniform.cdf)
        assert bool(((result >= 0) & (result < 1)).all())
        assert bool((result * 2**24 != (result * 2**24).floor()).any())

    @check(hint="What icdf returns is the draw: nothing else happens to the uniform number.")
    def test_the_same_numbers_bent_twice(self, student: Student) -> None:
        """From one state of the generator, draws of two distributions are the same numbers, bent differently."""
        # icdf ignored, 1 - u for one of them
        u = student.inverse_transform_sample(as_it_is, (6, 5), seeded(14))
        result = student.inverse_transform_sample(partial(exponential_quantile, 0.3), (6, 5), seeded(14))
        assert_shape(u, (6, 5))
        assert_close(result, exponential_ppf(u, table(0.3)))

    @check(hint="The uniform numbers belong on the generator's device, the quantiles on that of their arguments.")
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """Quantiles and draws are right on whatever device their arguments are."""
        u, rate = table(0.1, 0.6, 0.95), table([2.0], [0.3])
        result = student.exponential_icdf(u.to(elsewhere), rate.to(elsewhere))
        assert_device(result, elsewhere)
        assert_close(result, exponential_ppf(u, rate))
        draws = student.inverse_transform_sample(partial(exponential_quantile, 2.5), (2, 1000), seeded(18, elsewhere))
        assert_device(draws, elsewhere)
        assert_shape(draws, (2, 1000))
        assert_follows(draws, scipy.stats.expon(scale=0.4).cdf)

    def test_shapes(self, student: Student) -> None:
        """A single draw, no draws, and three axes of draws are all possible."""
        for shape in ((), (0, 3), (2, 3, 4)):
            assert_shape(student.inverse_transform_sample(as_it_is, shape, seeded(15)), shape)

    @check(hint="Pass the generator on, as it is, to the function of torch that draws.", weight=2)
    def test_generator(self, student: Student) -> None:
        """All randomness comes from the generator: its state repeats a run, and a second call goes on from there."""
        # the global generator, a fixed seed, a copy of the generator made anew in every call
        icdf = partial(exponential_quantile, 1.0)
        once = student.inverse_transform_sample(icdf, (40,), seeded(16))
        first, second = student.run(draws_twice, icdf, (40,), seeded(16))
        assert_shape(once, (40,))
        assert_same(first, once)
        assert_other(once, second)
        assert_other(once, student.inverse_transform_sample(icdf, (40,), seeded(17)))
        assert_follows(torch.cat([first, second]), scipy.stats.expon.cdf)


# --- UniformDisk -------------------------------------------------------------------------------------------------


@probe
def disk_draws(ns, center, radius, shape):
    return ns.UniformDisk(center, radius).rsample(shape)


@probe
def disk_draw(ns, center, radius):
    return ns.UniformDisk(center, radius).rsample()


@probe
def disk_sample(ns, center, radius, shape):
    return ns.UniformDisk(center, radius).sample(shape)


@probe
def noise_of_two_disks(ns, one, other):
    state = torch.get_rng_state()
    first = ns.UniformDisk(*one).rsample((50,))
    torch.set_rng_state(state)
    second = ns.UniformDisk(*other).rsample((50,))
    third = ns.UniformDisk(*other).rsample((50,))
    return first, second, third


@probe
def gradients_of_draws(ns, center, radius, weights):
    center, radius = center.clone().requires_grad_(), radius.clone().requires_grad_()
    points = ns.UniformDisk(center, radius).rsample(weights.shape[:1])
    (weights * points).sum().backward()
    return points, center.grad, radius.grad


@probe
def gradient_of_log_prob(ns, center, radius, value):
    radius = radius.clone().requires_grad_()
    ns.UniformDisk(center, radius).log_prob(value).sum().backward()
    return radius.grad


@probe
def expanded(ns, center, radius, validate, shape, value):
    disk = ns.UniformDisk(center, radius, validate_args=validate).expand(shape)
    sizes = [list(disk.batch_shape), list(disk.event_shape), list(disk.mean.shape), list(disk.rsample((5,)).shape)]
    return sizes, disk.log_prob(value), disk.entropy(), disk.rsample((2000,))


@probe
def as_independent(ns, center, radius, value):
    joint = torch.distributions.Independent(ns.UniformDisk(center, radius), 1)
    return list(joint.batch_shape), list(joint.event_shape), joint.log_prob(value)


@probe
def constraint_of(ns, center, radius, name, value):
    return ns.UniformDisk(center, radius).arg_constraints[name].check(value)


@probe
def shapes_of(ns, center, radius):
    disk = ns.UniformDisk(center, radius)
    return [list(shape) for shape in (disk.batch_shape, disk.event_shape, disk.center.shape, disk.radius.shape)]


CENTERS = table([1.5, -2.0], [0.0, 3.0], [-40.0, 7.0])
RADII = table(0.5, 4.0, 11.0)


def disk_log_density(radius: Tensor) -> Tensor:
    return -torch.log(math.pi * radius**2)


def polar(points: Tensor, center: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """The squared distance from the center over R^2, and the angle over 2 pi: both uniform, and independent."""
    offset = (points - center) / radius[..., None]
    return offset.square().sum(-1), (torch.atan2(offset[..., 1], offset[..., 0]) / (2 * math.pi)).remainder(1.0)


@task("UniformDisk")
class TestUniformDisk:
    @check(hint="A density that is the same everywhere on a disk: one over its area.", weight=2)
    def test_log_density(self, student: Student, device: torch.device) -> None:
        """Within each disk the log density is that of its area."""
        # -ln(2 pi R), -ln(pi R), sign lost, one number for the batch, the density itself; R = 2 would hide the first
        disk = student.UniformDisk(CENTERS.to(device), RADII.to(device))
        inside = CENTERS + table([0.3, 0.3], [-2.5, 3.0], [0.0, -10.9])
        assert_close(disk.log_prob(inside.to(device)), disk_log_density(RADII))

    @check(hint="Distances are measured from the center, and the corners of the square around a disk lie outside.")
    def test_outside(self, student: Student, device: torch.device) -> None:
        """Where arguments are not checked, points outside have the log density of minus infinity."""
        # finite everywhere; the square for the disk; |x| for |x - c|; a comparison with R^2 for R
        disk = student.UniformDisk(CENTERS.to(device), RADII.to(device), validate_args=False)
        points = table([[1.9, -1.6], [0.0, 0.0], [-40.0, 7.0]], [[1.5, -1.6], [3.9, 3.9], [0.0, 0.0]])
        expected = disk_log_density(RADII).repeat(2, 1)
        expected[table([1, 0, 0], [0, 1, 1]).bool()] = -math.inf
        assert_close(disk.log_prob(points.to(device)), expected)

    @check(hint="Where arguments are checked, log_prob looks at its points first: the base class has a method for it.")
    def test_refuses_points_outside(self, student: Student, device: torch.device) -> None:
        """Where arguments are checked, which is the default, a point outside is refused."""
        center, radius = CENTERS[:2].to(device), RADII[:2].to(device)
        good, bad = CENTERS[:2] + table([0.0, 0.4], [2.0, 2.0]), CENTERS[:2] + table([0.0, 0.4], [3.0, 3.0])
        for arguments in ({}, {"validate_args": True}):
            disk = student.UniformDisk(center, radius, **arguments)
            assert_close(disk.log_prob(good.to(device)), disk_log_density(RADII[:2]))
            with student_raises(ValueError):
                disk.log_prob(bad.to(device))

    @check(hint="The rim belongs to the disk.")
    def test_rim(self, student: Student, device: torch.device) -> None:
        """A point exactly on the rim belongs to the disk, one a little further out does not."""
        # (3, 4) is exactly 5 away, in floating point too, whether or not a root is taken
        arguments = (table(1.0, -1.0).to(device), torch.tensor(5.0, dtype=torch.float64, device=device))
        points = table([4.0, 3.0], [-2.0, -5.0], [4.0, 3.0001], [6.0, -1.0]).to(device)
        inside = student.UniformDisk(*arguments, validate_args=False).log_prob(points)
        assert_close(inside.isfinite(), torch.tensor([True, True, False, True]))
        assert_close(
            student.UniformDisk(*arguments).log_prob(points[[0, 1, 3]]), disk_log_density(table(5.0, 5.0, 5.0))
        )

    @check(hint="support is a constraint that looks at the last axis as a whole: one answer for each point.")
    def test_support(self, student: Student, device: torch.device) -> None:
        """The support says of each point whether it lies in its disk."""
        support = student.UniformDisk(CENTERS.to(device), RADII.to(device)).support
        points = torch.stack([CENTERS, CENTERS + 0.6, CENTERS + 3.0])[:, None]
        expected = torch.tensor([[True, True, True], [False, True, True], [False, False, True]])[:, None]
        assert_close(support.check(points.to(device)), expected)
        assert_same(fetch(support.event_dim), 1)

    @check(hint="The area within r grows with the square of r.", weight=2)
    def test_distances(self, student: Student, device: torch.device) -> None:
        """Distances from the centers are spread as the area is."""
        # a uniform radius has E[r] = R/2 for 2R/3, and a gap of .25; 4000 draws: .057
        center, radius = CENTERS.to(device), RADII.to(device)
        points = student.run(disk_draws, center, radius, (4000,))
        assert_shape(points, (4000, 3, 2))
        share, _ = polar(points, CENTERS, RADII)
        for one in share.T:
            assert_follows(one, scipy.stats.uniform.cdf)
        # r/R has mean 2/3 and variance 1/18; 6.5 standard deviations for 4000 draws are .0243
        assert_close(share.sqrt().mean(0), torch.full((3,), 2 / 3, dtype=torch.float64), rtol=0.0, atol=0.0243)

    @check(hint="Angles go all the way round, and an angle knows nothing of the radius.", weight=2)
    def test_angles(self, student: Student, device: torch.device) -> None:
        """All directions are equally likely, at every distance."""
        # angles up to pi or in degrees, one uniform number for radius and angle
        points = student.run(disk_draws, CENTERS.to(device), RADII.to(device), (4000,))
        assert_shape(points, (4000, 3, 2))
        share, angle = polar(points, CENTERS, RADII)
        for place in range(3):
            assert_follows(angle[:, place], scipy.stats.uniform.cdf)
            assert_unrelated(share[:, place], angle[:, place])

    @check(hint="Every disk of the batch needs random numbers of its own.", weight=2)
    def test_disks_of_a_batch(self, student: Student, device: torch.device) -> None:
        """Draws from different disks of a batch are unrelated, and so are draws from one disk."""
        # noise of the sample shape alone, or of the batch shape alone
        points = student.run(disk_draws, CENTERS.to(device), RADII.to(device), (4000,))
        assert_shape(points, (4000, 3, 2))
        for numbers in polar(points, CENTERS, RADII):
            assert_unrelated(numbers[:, 0], numbers[:, 1])
            assert_unrelated(numbers[:, 1], numbers[:, 2])
            assert_unrelated(numbers[1:, 0], numbers[:-1, 0])

    @check(hint="Sample axes first, then batch axes, then the two coordinates.")
    def test_shapes(self, student: Student, device: torch.device) -> None:
        """Centers and radii broadcast to the batch, and samples have the shapes that they should."""
        center = torch.arange(8.0, device=device).reshape(4, 1, 2)
        radius = torch.tensor([0.5, 1.5, 2.5], device=device)
        sizes = student.run(shapes_of, center, radius)
        assert_close(sizes, [[4, 3], [2], [4, 3, 2], [4, 3]])
        for shape in ((), (7,), (2, 5), (0,)):
            for draw in (disk_draws, disk_sample):
                assert_shape(student.run(draw, center, radius, shape), (*shape, 4, 3, 2))
        assert_shape(student.run(disk_draw, center, radius), (4, 3, 2))
        assert_shape(student.run(disk_draws, center[0, 0], radius[0], (6,)), (6, 2))
        assert_shape(student.run(disk_draws, center[0, 0], radius, ()), (3, 2))

    @check(hint="The leading axes of the points broadcast against the batch: one number for each pair.")
    def test_shapes_of_log_prob(self, student: Student, device: torch.device) -> None:
        """The log density of a column of points under a row of disks is a table."""
        points = table([[0.1, 0.2]], [[0.3, -0.1]], [[0.0, 0.0]], [[-0.2, 0.2]], [[0.4, 0.0]])
        disk = student.UniformDisk(torch.zeros(2, dtype=torch.float64, device=device), RADII.to(device))
        assert_close(disk.log_prob(points.to(device)), disk_log_density(RADII).expand(5, 3))
        assert_close(disk.log_prob(points[0, 0].to(device)), disk_log_density(RADII))

    @check(hint="Write a draw as center + radius * noise, with nothing that cuts the gradient.", weight=2)
    def test_gradients_of_draws(self, student: Student, device: torch.device) -> None:
        """Gradients pass through the draws to centers and radii, as for center + radius * noise."""
        # no_grad, sample for rsample, .data; only one of the two parameters; a radius shared by the batch
        weights = normal(9, 3, 2, seed=21)
        for radius in (RADII, table(2.5)):
            points, of_center, of_radius = student.run(
                gradients_of_draws, CENTERS.to(device), radius.to(device), weights.to(device)
            )
            assert_shape(points, (9, 3, 2))
            noise = (points - CENTERS) / radius[:, None]
            assert bool((noise.square().sum(-1) <= 1 + 1e-9).all())
            assert_close(of_center, weights.sum(0))
            expected = (weights * noise).sum((0, 2))
            assert_close(of_radius, expected if len(radius) == 3 else expected.sum()[None])
        assert fetch(student.UniformDisk(CENTERS.to(device), RADII.to(device)).has_rsample) is True

    @check(hint="The log density depends on the radius: compute it from the tensor, not from a number.")
    def test_gradient_of_log_prob(self, student: Student, device: torch.device) -> None:
        """The log density is differentiable in the radius."""
        value = (CENTERS + 0.1).expand(4, 3, 2)
        found = student.run(gradient_of_log_prob, CENTERS.to(device), RADII.to(device), value.to(device))
        assert_close(found, 4 * -2 / RADII)

    @check(hint="The noise comes from torch's default generator and knows nothing of center and radius.")
    def test_noise(self, student: Student) -> None:
        """From one state of torch's default generator all disks get the same noise; further draws are new."""
        # another source of randomness, a seed of one's own, draws kept in the object
        one, other = (CENTERS, RADII), (2 * CENTERS + 1, table(3.0, 0.2, 8.0))
        first, second, third = student.run(noise_of_two_disks, one, other)
        noise = (first - CENTERS) / RADII[:, None]
        assert_shape(noise, (50, 3, 2))
        assert_close((second - other[0]) / other[1][:, None], noise)
        assert_other(second, third)

    @check(hint="By symmetry the mean is the center; a coordinate has half of the mean squared distance as variance.")
    def test_moments(self, student: Student, device: torch.device) -> None:
        """Mean, variance and standard deviation of each coordinate, and the entropy, are right."""
        # variance R^2/2, shape of the batch; E[r^2] = R^2/2 is shared by two coordinates
        disk = student.UniformDisk(CENTERS.to(device), RADII.to(device))
        assert_close(fetch(attribute(disk, "mean")), CENTERS)
        assert_close(fetch(attribute(disk, "variance")), (RADII**2 / 4)[:, None].expand(3, 2))
        assert_close(fetch(attribute(disk, "stddev")), (RADII / 2)[:, None].expand(3, 2))
        assert_close(disk.entropy(), torch.log(math.pi * RADII**2))

    @check(hint="Where the batch comes from the radii, or from the centers, mean and variance have all of it.")
    def test_moments_of_a_broadcast_batch(self, student: Student, device: torch.device) -> None:
        """Mean, variance and entropy have the shape of the whole batch."""
        many_radii = student.UniformDisk(CENTERS[0].to(device), RADII.to(device))
        many_centers = student.UniformDisk(CENTERS.to(device), RADII[1].to(device))
        both = student.UniformDisk(CENTERS[:2, None].to(device), RADII.to(device))
        assert_close(fetch(attribute(both, "variance")), (RADII**2 / 4)[:, None].expand(2, 3, 2))
        assert_close(fetch(attribute(many_radii, "mean")), CENTERS[0].expand(3, 2))
        assert_close(fetch(attribute(many_radii, "variance")), (RADII**2 / 4)[:, None].expand(3, 2))
        assert_close(fetch(attribute(many_centers, "variance")), torch.full((3, 2), 4.0, dtype=torch.float64))
        assert_close(many_centers.entropy(), torch.full((3,), math.log(16 * math.pi), dtype=torch.float64))

    @check(hint="Store the parameters, then let the base class check them: call super().__init__ with validate_args.")
    def test_refuses_bad_parameters(self, student: Student, device: torch.device) -> None:
        """Radii that are not positive are refused unless checks are off; centers always have two coordinates."""
        center = CENTERS[:2].to(device)
        for bad in (0.0, -1.0):
            radius = table(2.0, bad).to(device)
            for arguments in ({}, {"validate_args": True}):
                with student_raises(ValueError):
                    student.UniformDisk(center, radius, **arguments)
            unchecked = student.UniformDisk(center, radius, validate_args=False)
            assert_close(fetch(attribute(unchecked, "mean")), CENTERS[:2])
        for shape in ((3,), (2, 1), ()):
            with student_raises(ValueError):
                student.UniformDisk(
                    torch.zeros(shape, device=device), torch.ones((), device=device), validate_args=False
                )

    @check(hint="arg_constraints names both parameters; torch.distributions.constraints has what they must obey.")
    def test_arg_constraints(self, student: Student, device: torch.device) -> None:
        """The constraints of the parameters say which values are allowed."""
        arguments = (CENTERS.to(device), RADII.to(device))
        found = student.run(constraint_of, *arguments, "radius", table(-1.0, 0.0, 1e-3, 5.0).to(device))
        assert_close(found, torch.tensor([False, False, True, True]))
        centers = table([-1.0, 3.0], [math.nan, 0.0], [0.0, 0.0])
        found = student.run(constraint_of, *arguments, "center", centers.to(device))
        assert_close(found, torch.tensor([True, False, True]))

    @check(hint="The expanded object has all the shapes of the new batch, and draws for each of its disks.", weight=2)
    def test_expand(self, student: Student, device: torch.device) -> None:
        """Expanding gives the same disks for a larger batch, with draws of their own."""
        value = CENTERS + 0.2
        sizes, log_density, entropy, points = student.run(
            expanded, CENTERS.to(device), RADII.to(device), True, (4, 3), value.to(device)
        )
        assert_close(sizes, [[4, 3], [2], [4, 3, 2], [5, 4, 3, 2]])
        assert_close(log_density, disk_log_density(RADII).expand(4, 3))
        assert_close(entropy, -disk_log_density(RADII).expand(4, 3))
        assert_shape(points, (2000, 4, 3, 2))
        share, angle = polar(points, CENTERS, RADII)
        assert_follows(share[:, 2, 0], scipy.stats.uniform.cdf)
        assert_unrelated(share[:, 0, 1], share[:, 1, 1])
        assert_unrelated(angle[:, 0, 1], angle[:, 3, 1])

    @check(hint="The expanded object inherits whether arguments are checked.")
    def test_expand_keeps_validation(self, student: Student, device: torch.device) -> None:
        """An expanded object checks its points if and only if the original does."""
        center, radius = CENTERS[1].to(device), RADII[1].to(device)
        outside = (CENTERS[1] + 3.0).to(device)
        for shape in ((2,), ()):
            _, log_density, _, _ = student.run(expanded, center, radius, False, shape, outside)
            assert_close(log_density, torch.full(shape, -math.inf, dtype=torch.float64))
            _, log_density, _, _ = student.run(expanded, center, radius, True, shape, (CENTERS[1] + 1.0).to(device))
            assert_close(log_density, disk_log_density(RADII[1]).expand(shape))
            with student_raises(ValueError):
                student.run(expanded, center, radius, True, shape, outside)

    @check(hint="Shapes that the base class is told (batch_shape, event_shape) are what other distributions rely on.")
    def test_as_one_of_torchs(self, student: Student, device: torch.device) -> None:
        """torch.distributions.Independent turns a batch of disks into one distribution of several points."""
        value = (CENTERS + table([0.1, 0.2], [2.0, 1.0], [3.0, 4.0])).expand(5, 3, 2)
        batch, event, log_density = student.run(as_independent, CENTERS.to(device), RADII.to(device), value.to(device))
        assert_close([batch, event], [[], [3, 2]])
        assert_close(log_density, disk_log_density(RADII).sum().expand(5))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """Draws, log densities and moments have the dtype of the parameters."""
        center, radius = CENTERS.to(device, dtype), RADII.to(device, dtype)
        points = student.run(disk_draws, center, radius, (3000,))
        assert_dtype(points, dtype)
        share, _ = polar(points.double(), CENTERS, RADII)
        assert_follows(share[:, 1], scipy.stats.uniform.cdf)
        disk = student.UniformDisk(center, radius)
        log_density = disk.log_prob(center)
        assert_dtype(log_density, dtype)
        assert_close(log_density, disk_log_density(RADII).to(dtype))
        variance = fetch(attribute(disk, "variance"))
        assert_dtype(variance, dtype)
        assert_close(variance, (RADII**2 / 4)[:, None].expand(3, 2).to(dtype))

    @check(hint="Make the random numbers of a draw in the dtype and on the device of the parameters.")
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """Draws, log densities and moments are right on whatever device the parameters are."""
        center, radius = CENTERS.to(elsewhere), RADII.to(elsewhere)
        points = student.run(disk_draws, center, radius, (1000,))
        assert_device(points, elsewhere)
        assert_shape(points, (1000, 3, 2))
        share, angle = polar(points, CENTERS, RADII)
        assert_follows(share[:, 1], scipy.stats.uniform.cdf)
        assert_unrelated(share[:, 1], angle[:, 1])
        disk = student.UniformDisk(center, radius, validate_args=False)
        log_density = disk.log_prob((CENTERS + 0.6).to(elsewhere))
        assert_device(log_density, elsewhere)
        expected = disk_log_density(RADII)
        expected[0] = -math.inf
        assert_close(log_density, expected)
        variance = fetch(attribute(disk, "variance"))
        assert_device(variance, elsewhere)
        assert_close(variance, (RADII**2 / 4)[:, None].expand(3, 2))


# --- rejection_sample --------------------------------------------------------------------------------------------


@probe
def half_normal_log_density(shift, x):
    return shift + 0.5 * math.log(2 / math.pi) - 0.5 * x**2


@probe
def draw_exponential(dtype, k, generator):
    u = torch.rand(k, generator=generator, device=generator.device, dtype=dtype)
    return -torch.log1p(-u)


@probe
def exponential_log_density(x):
    return -x


@probe
def tail_log_density(start, x):
    return (-0.5 * x**2).masked_fill(x < start, -math.inf)


@probe
def draw_normal(mean, k, generator):
    return mean + torch.randn(k, generator=generator, device=generator.device, dtype=torch.float64)


@probe
def normal_log_density(mean, x):
    return -0.5 * (x - mean) ** 2 - 0.5 * math.log(2 * math.pi)


@probe
def annulus_log_density(inner, x):
    square = x.square().sum(-1)
    return torch.zeros_like(square).masked_fill((square < inner**2) | (square > 1), -math.inf)


@probe
def draw_square(k, generator):
    return 2 * torch.rand(k, 2, generator=generator, device=generator.device, dtype=torch.float64) - 1


@probe
def square_log_density(x):
    return torch.zeros_like(x[:, 0]) - math.log(4)


@probe
def rejection_twice(ns, *arguments):
    return ns.rejection_sample(*arguments), ns.rejection_sample(*arguments)


BEST_LOG_M = 0.5 * math.log(2 * math.e / math.pi)
EXPONENTIAL = partial(draw_exponential, torch.float64)
HALF_NORMAL = (partial(half_normal_log_density, 0.0), EXPONENTIAL, exponential_log_density)


@task("rejection_sample")
class TestRejectionSample:
    @check(hint="Keep x where u < p(x) / (M q(x)), each x with a u of its own.", weight=2)
    def test_half_normal(self, student: Student) -> None:
        """Half-normal draws out of exponential ones have the right distribution."""
        # ratio inverted, u compared with a logarithm, q or M left out, one u for all: gaps above .08; 5000 draws: .051
        samples, _ = student.rejection_sample(*HALF_NORMAL, BEST_LOG_M, 5000, seeded(31))
        assert_shape(samples, (5000,))
        assert_follows(samples, scipy.stats.halfnorm.cdf)

    @check(hint="Proposals that passed over proposals that were judged, those of the last block included.", weight=2)
    def test_acceptance_rate(self, student: Student) -> None:
        """The best exponential envelope of the half-normal density keeps the textbook share of its draws."""
        # 1/M = .760173. N >= n/.76 proposals: the share that passes has a standard deviation of at most
        # sqrt(.76 * .24 / 13000) = .0037 (counted up to the nth that passes: .76 sqrt(.24 / 10000), the same); seven of
        # them are .026. Wanted over judged gives .5 with blocks of n, log M for M 3.6, the reciprocal 1.32.
        _, rate = student.rejection_sample(*HALF_NORMAL, BEST_LOG_M, 10_000, seeded(32))
        assert_close(rate, 0.760173, rtol=0.0, atol=0.026)

    @check(hint="Every constant belongs to the comparison: that of the target, that of the proposal, and M.")
    def test_unnormalised_target(self, student: Student) -> None:
        """An unnormalised target gives the same draws, and a rate that tells its mass."""
        # e^(-x^2/2) on x > 0 has the mass sqrt(pi/2) = 1.2533: rate 1.2533 e^-.8 = .5631. With 5000 kept the standard
        # deviation is at most .5631 sqrt(.437/5000) = .0053, seven of them .037. A half-normal target has .4493.
        shifted = partial(half_normal_log_density, -0.5 * math.log(2 / math.pi))
        samples, rate = student.rejection_sample(shifted, EXPONENTIAL, exponential_log_density, 0.8, 5000, seeded(33))
        assert_shape(samples, (5000,))
        assert_follows(samples, scipy.stats.halfnorm.cdf)
        assert_close(rate, 0.5631491, rtol=0.0, atol=0.037)

    @check(hint="Subtract logarithms before you take any exponential, and compare ln u with the difference.")
    def test_huge_and_tiny_densities(self, student: Student) -> None:
        """Target and M may both be multiplied by e to the 1024, or to the -1024, and nothing changes."""
        # Densities overflow or underflow: nothing or everything is kept. Seven standard deviations of the rate are
        # 7 * .7602 sqrt(.24 / 1500) = .067.
        for shift in (1024.0, -1024.0):
            samples, rate = student.rejection_sample(
                partial(half_normal_log_density, shift), *HALF_NORMAL[1:], BEST_LOG_M + shift, 1500, seeded(34)
            )
            assert_shape(samples, (1500,))
            assert_follows(samples, scipy.stats.halfnorm.cdf)
            assert_close(rate, 0.760173, rtol=0.0, atol=0.067)

    @check(hint="Points may have coordinates: one decision for each point, and its coordinates stay together.")
    def test_points_with_coordinates(self, student: Student) -> None:
        """Points of a ring come out of a square evenly spread."""
        # Area pi (1 - .25) of 4: .58905; at 4000 kept the standard deviation is below .589 sqrt(.411/4000) = .006,
        # seven of them are .042
        samples, rate = student.rejection_sample(
            partial(annulus_log_density, 0.5), draw_square, square_log_density, math.log(4), 4000, seeded(35)
        )
        assert_shape(samples, (4000, 2))
        share, angle = polar(samples, table(0.0, 0.0), torch.tensor(1.0, dtype=torch.float64))
        assert_follows((share - 0.25) / 0.75, scipy.stats.uniform.cdf)
        assert_follows(angle, scipy.stats.uniform.cdf)
        assert_unrelated((share - 0.25) / 0.75, angle)
        assert_close(rate, math.pi * 0.75 / 4, rtol=0.0, atol=0.042)

    @check(hint="Where the target is zero its logarithm is -inf, and nothing may be kept.")
    def test_zero_density(self, student: Student) -> None:
        """A tail of the normal density comes out of a shifted one, and nothing from before the tail."""
        # x > .8 from N(.8, 1): ratio e^(-.8 x + .32) <= e^-.32, so log M = ln sqrt(2 pi) - .32; the gap is .080
        log_m = 0.5 * math.log(2 * math.pi) - 0.32
        samples, rate = student.rejection_sample(
            partial(tail_log_density, 0.8), partial(draw_normal, 0.8), partial(normal_log_density, 0.8), log_m, 2000,
            seeded(36),
        )  # fmt: skip
        assert_shape(samples, (2000,))
        assert bool((samples >= 0.8).all())
        tail = scipy.stats.norm.sf(0.8)
        assert_follows(samples, lambda x: 1 - scipy.stats.norm.sf(np.maximum(x, 0.8)) / tail)
        # the mass is sqrt(2 pi) tail: rate tail e^.32 = .2917; seven times .2917 sqrt(.708/2000) = .0055 are .039
        assert_close(rate, float(tail * math.exp(0.32)), rtol=0.0, atol=0.039)

    @check(hint="Go on until n have passed, however many proposals that takes, and give back exactly n.")
    def test_rare_acceptance(self, student: Student) -> None:
        """Where one proposal in a hundred passes, as many points come as were asked for."""
        # log M = ln 100. With 300 kept the relative standard deviation of the rate is 1/sqrt(300) = .058; the rate is
        # between half and twice its value with probability 1 - 1e-12 at least (Poisson(300) and its mean).
        samples, rate = student.rejection_sample(*HALF_NORMAL, math.log(100), 300, seeded(37))
        assert_shape(samples, (300,))
        assert_follows(samples, scipy.stats.halfnorm.cdf)
        assert_close(math.log(rate), math.log(0.01), rtol=0.0, atol=math.log(2))

    @check(hint="Each proposal is judged once: nothing is used twice to fill up, and the order stays random.")
    def test_independent_draws(self, student: Student) -> None:
        """No draw is repeated, and neighbours are unrelated."""
        # the missing points copied from those that passed; sorted
        samples, _ = student.rejection_sample(*HALF_NORMAL, BEST_LOG_M, 3000, seeded(38))
        assert_shape(samples, (3000,))
        assert len(samples.unique()) == 3000
        uniform = torch.as_tensor(scipy.stats.halfnorm.cdf(samples.numpy()))
        assert_unrelated(uniform[1:], uniform[:-1])
        assert_unrelated(uniform[:1500], uniform[1500:])

    @check(hint="Where the log ratio is above zero, M is too small: raise ValueError. A little rounding is no reason.")
    def test_too_small_m(self, student: Student) -> None:
        """An M below the largest ratio is refused, an M that is just large enough is not."""
        # With log M = .05 the ratio is too large for x from .33 to 1.67, half of all proposals. Then target and
        # proposal are equal, and M = 1 is enough: less by a factor e^-5e-5 counts as rounding, by e^-1e-3 not.
        target = partial(normal_log_density, 0.3)
        with student_raises(ValueError):
            student.rejection_sample(*HALF_NORMAL, 0.05, 200, seeded(39))
        with student_raises(ValueError):
            student.rejection_sample(target, partial(draw_normal, 0.3), target, -1e-3, 10, seeded(39))
        samples, rate = student.rejection_sample(target, partial(draw_normal, 0.3), target, -5e-5, 1000, seeded(40))
        assert_shape(samples, (1000,))
        assert_follows(samples, scipy.stats.norm(0.3).cdf)
        assert_close(rate, 1.0)

    @check(hint="Raise ValueError for n below 1, and only then: a single point is fine.")
    def test_refuses_no_points(self, student: Student) -> None:
        """One point is enough, and fewer are refused."""
        samples, rate = student.rejection_sample(*HALF_NORMAL, BEST_LOG_M, 1, seeded(41))
        assert_shape(samples, (1,))
        assert_shape(rate, ())
        assert bool(samples[0] > 0) and 0 < rate <= 1
        for n in (0, -3):
            with student_raises(ValueError):
                student.rejection_sample(*HALF_NORMAL, BEST_LOG_M, n, seeded(41))

    @check(hint="The proposals and the decisions both draw from the generator that was given.", weight=2)
    def test_generator(self, student: Student) -> None:
        """All randomness comes from the generator: its state repeats a run, and a second call goes on from there."""
        # u from the global generator, a fixed seed, a copy of the generator for u
        once = student.rejection_sample(*HALF_NORMAL, BEST_LOG_M, 200, seeded(42))
        first, second = student.run(rejection_twice, *HALF_NORMAL, BEST_LOG_M, 200, seeded(42))
        other = student.rejection_sample(*HALF_NORMAL, BEST_LOG_M, 200, seeded(43))
        assert_shape(once[0], (200,))
        assert_same(first[0], once[0])
        assert_close(first[1], once[1], rtol=1e-6)
        assert_other(once[0], second[0])
        assert_other(once[0], other[0])
        assert_follows(torch.cat([once[0], second[0]]), scipy.stats.halfnorm.cdf)

    @check(hint="Points keep the dtype that the proposal gave them.")
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype(self, student: Student, dtype: torch.dtype) -> None:
        """Draws have the dtype of the proposals and the right distribution."""
        samples, rate = student.rejection_sample(
            HALF_NORMAL[0], partial(draw_exponential, dtype), exponential_log_density, 0.4, 1000, seeded(44)
        )
        assert_shape(samples, (1000,))
        assert_dtype(samples, dtype)
        assert_follows(samples, scipy.stats.halfnorm.cdf)
        # seven standard deviations: 7 * .6703 sqrt(.33/1000) = .085
        assert_close(rate, math.exp(-0.4), rtol=0.0, atol=0.085)

    @check(hint="Draw the numbers for the decisions on the device of the generator, where the points are too.")
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """Points come from whatever device the generator and the proposals are on."""
        samples, rate = student.rejection_sample(*HALF_NORMAL, BEST_LOG_M, 1000, seeded(45, elsewhere))
        assert_device(samples, elsewhere)
        assert_shape(samples, (1000,))
        assert_follows(samples, scipy.stats.halfnorm.cdf)
        # seven standard deviations: 7 * .7602 sqrt(.24/1000) = .083
        assert_close(rate, 0.760173, rtol=0.0, atol=0.083)


# --- metropolis --------------------------------------------------------------------------------------------------


@probe
def standard_log_density(shift, x):
    return shift - 0.5 * x.square().sum(-1)


@probe
def flat_log_density(x):
    return torch.zeros_like(x[:, 0])


@probe
def box_log_density(x):
    outside = ((x < 0) | (x > 1)).any(-1)
    return torch.zeros_like(x[:, 0]).masked_fill(outside, -math.inf)


@probe
def correlated_log_density(precision, x):
    return -0.5 * (x @ precision * x).sum(-1)


@probe
def metropolis_twice(ns, *arguments):
    return ns.metropolis(*arguments), ns.metropolis(*arguments)


@probe
def metropolis_and_start(ns, log_prob, x0, n_steps, step_size, generator):
    chain, rates = ns.metropolis(log_prob, x0, n_steps, step_size, generator)
    return chain, rates, x0


STANDARD = partial(standard_log_density, 0.0)


def closed_form_rate(step_size: float) -> float:
    """The share of steps that random-walk Metropolis accepts on N(0, 1)."""
    return 2 / math.pi * math.atan(2 / step_size)


def assert_rates_are_moves(chain: Tensor, rates: Tensor, x0: Tensor) -> None:
    """Demand that exactly the accepted share of steps led elsewhere: continuous proposals never hit the same point."""
    states = torch.cat([x0[None], chain])
    moved = (states[1:] != states[:-1]).any(-1)
    assert_close(rates, moved.to(rates.dtype).mean(0), rtol=1e-6, atol=1e-6)


def assert_decisions_are_single(chain: Tensor, x0: Tensor, rate: float) -> None:
    """Demand that each chain decides for itself: at every step the share of chains that move is near the rate.

    For 2000 chains the bound .12 fails with probability 2 exp(-2 * 2000 * .0144) = 2e-25 at a step; with one decision,
    or one uniform number, for all of them the share swings between 0 and 1.
    """
    states = torch.cat([x0[None], chain])
    shares = (states[1:] != states[:-1]).any(-1).double().mean(1)
    assert_close(shares, torch.full_like(shares, rate), rtol=0.0, atol=0.12)


@task("metropolis")
class TestMetropolis:
    @check(hint="Accept with probability p(y)/p(x); step_size is the standard deviation of a normal step.", weight=2)
    @pytest.mark.parametrize("step_size", [1.0, 2.4])
    def test_acceptance_rate(self, student: Student, step_size: float) -> None:
        """On the standard normal density, steps are accepted as often as the closed form says."""
        # .704833 and .442284. Chains start with the density, so every step has this rate, and the 4000 rates of the
        # chains are independent: gap .057. At s = 2.4: uphill only .221, everything 1, s taken for the variance .580,
        # ratio inverted or u compared with a logarithm above .7.
        x0 = normal(CHAINS, 1, seed=51)
        chain, rates = student.metropolis(STANDARD, x0, 8, step_size, seeded(52))
        assert_shape(chain, (8, CHAINS, 1))
        assert_shape(rates, (CHAINS,))
        assert_close(rates.mean(), closed_form_rate(step_size), rtol=0.0, atol=gap(CHAINS))

    @check(hint="A refused walker stays, and its place is recorded once more.", weight=2)
    def test_variance(self, student: Student) -> None:
        """Chains that start with the standard normal density keep its variance of one."""
        # Refused steps left out: 1.133; uphill only: below .2; everything accepted: above 100. x^2 has variance 2. At
        # s = 2.4 its integrated autocorrelation time is 4.69 (Poisson's equation solved on a grid), and its
        # autocorrelations are not negative, since normal random walks make Metropolis a positive operator. So the mean
        # over 60 steps of 2000 chains has a variance of at most 2 * 4.69 / 120,000: standard deviation .00884, of which
        # 6.5 are .0575.
        x0 = normal(2000, 1, seed=53)
        chain, _ = student.metropolis(STANDARD, x0, 60, 2.4, seeded(54))
        assert_shape(chain, (60, 2000, 1))
        assert_close(chain.square().mean(), 1.0, rtol=0.0, atol=0.0575)
        assert_follows(chain[-1], scipy.stats.norm.cdf)

    @check(hint="What is recorded after each step is the state, whether or not it is new; what counts is who moved.")
    def test_rates_and_moves(self, student: Student) -> None:
        """Each chain's rate is the share of its steps that led elsewhere, and the others repeat a state."""
        # Proposals recorded for states, refused steps left out, one rate for all chains, the start recorded. In two
        # dimensions uphill means that the component of x along the step is below -s|z|/2; with |z| Rayleigh distributed
        # the rate is 1 - s/sqrt(4 + s^2), .4 at s = 1.5. Gap .057.
        x0 = normal(CHAINS, 2, seed=55)
        chain, rates = student.metropolis(STANDARD, x0, 10, 1.5, seeded(56))
        assert_shape(chain, (10, CHAINS, 2))
        assert_rates_are_moves(chain, rates, x0)
        assert_close(rates.mean(), 0.4, rtol=0.0, atol=gap(CHAINS))

    @check(
        hint="Where the density is the same everywhere, all steps are accepted: their spread is step_size.", weight=2
    )
    def test_steps(self, student: Student) -> None:
        """On a flat density the chains are random walks with independent normal steps."""
        # s for the variance, uniform steps, one number for all coordinates or chains, a second step added, chains that
        # do not begin one step after the start; 10,000 steps: gap .036
        x0 = 5 * normal(250, 4, seed=57)
        chain, rates = student.metropolis(flat_log_density, x0, 10, 0.7, seeded(58))
        assert_shape(chain, (10, 250, 4))
        assert_close(rates, torch.ones(250, dtype=torch.float64))
        steps = torch.cat([x0[None], chain]).diff(dim=0) / 0.7
        assert_follows(steps, scipy.stats.norm.cdf)
        uniform = torch.special.ndtr(steps)
        assert_unrelated(uniform[:, :, 0], uniform[:, :, 1])
        assert_unrelated(uniform[:, :, 2], uniform[:, :, 3])
        assert_unrelated(uniform[:, :125], uniform[:, 125:])
        assert_unrelated(uniform[1:], uniform[:-1])

    @check(hint="Every chain needs a uniform number of its own for its decision.")
    def test_decisions(self, student: Student) -> None:
        """At every step some chains move and others stay, as many as they should."""
        x0 = normal(2000, 1, seed=59)
        chain, _ = student.metropolis(STANDARD, x0, 20, 2.4, seeded(60))
        assert_shape(chain, (20, 2000, 1))
        assert_decisions_are_single(chain, x0, closed_form_rate(2.4))

    @check(hint="Only differences of log_prob may matter: do not take exponentials of log_prob itself.")
    def test_unnormalised_density(self, student: Student) -> None:
        """A density may be multiplied by e to the 1024, or to the -1024, and the chains remain the same."""
        # p(y)/p(x) is inf/inf or 0/0. Log ratios are rounded by 2.3e-13 at most, so that one of 1000 decisions is
        # different with probability below 1e-9.
        x0 = normal(50, 2, seed=61)
        chain, _ = student.metropolis(STANDARD, x0, 10, 1.5, seeded(62))
        assert_shape(chain, (10, 50, 2))
        assert bool((chain[1:] != chain[:-1]).any())
        for shift in (1024.0, -1024.0):
            other, _ = student.metropolis(partial(standard_log_density, shift), x0, 10, 1.5, seeded(62))
            assert_same(other, chain)

    @check(hint="A point of zero density, whose log_prob is -inf, is never entered.")
    def test_zero_density(self, student: Student) -> None:
        """Chains in a box stay there and keep their even spread."""
        x0 = torch.rand(CHAINS, 2, generator=seeded(63), dtype=torch.float64)
        chain, rates = student.metropolis(box_log_density, x0, 10, 0.6, seeded(64))
        assert_shape(chain, (10, CHAINS, 2))
        assert bool(((chain >= 0) & (chain <= 1)).all())
        for coordinate in chain[-1].T:
            assert_follows(coordinate, scipy.stats.uniform.cdf)
        # In each coordinate a step stays inside with probability E[F((1-x)/s) - F(-x/s)], x uniform: for s = .6 that is
        # 2 F(1/s) - 1 - 2 s (f(0) - f(1/s)), F and f those of N(0, 1), and both must.
        inside = 2 * scipy.stats.norm.cdf(1 / 0.6) - 1 - 1.2 * (scipy.stats.norm.pdf(0) - scipy.stats.norm.pdf(1 / 0.6))
        assert_close(rates.mean(), float(inside**2), rtol=0.0, atol=gap(CHAINS))

    @check(hint="One decision for each chain: all its coordinates move, or none does.")
    def test_correlated_target(self, student: Student) -> None:
        """Chains in two dimensions keep the correlation of their density."""
        # accepting coordinate by coordinate; log_prob summed over the chains
        covariance = table([1.0, 0.9], [0.9, 1.5])
        root = torch.linalg.cholesky(covariance)
        x0 = normal(CHAINS, 2, seed=65) @ root.T
        precision = torch.linalg.inv(covariance)
        chain, rates = student.metropolis(partial(correlated_log_density, precision), x0, 15, 1.2, seeded(66))
        assert_shape(chain, (15, CHAINS, 2))
        white = torch.linalg.solve_triangular(root, chain[-1].T, upper=False)
        for direction in (
            white[0],
            white[1],
            (white[0] + white[1]) / math.sqrt(2),
            (white[0] - white[1]) / math.sqrt(2),
        ):
            assert_follows(direction, scipy.stats.norm.cdf)
        assert_rates_are_moves(chain, rates, x0)

    @check(hint="Steps of the burn-in are made, but neither recorded nor counted; n_steps more follow.", weight=2)
    def test_burn_in(self, student: Student) -> None:
        """Burn-in steps are made first, and appear neither among the states nor in the rates."""
        # On a flat density the first recorded state is six steps away from the start, and all rates are one: burn-in
        # recorded, not made, taken out of n_steps, counted in the rate (2.67) or in its divisor (.375)
        x0 = normal(2000, 2, seed=67)
        chain, rates = student.metropolis(flat_log_density, x0, 3, 0.5, seeded(68), burn_in=5)
        assert_shape(chain, (3, 2000, 2))
        assert_close(rates, torch.ones(2000, dtype=torch.float64))
        assert_follows((chain[0] - x0) / (0.5 * math.sqrt(6)), scipy.stats.norm.cdf)
        assert_follows((chain[2] - chain[0]) / (0.5 * math.sqrt(2)), scipy.stats.norm.cdf)

    @check(hint="After the burn-in every chain should have forgotten its start.")
    def test_from_far_away(self, student: Student) -> None:
        """Chains that start far out have the right density and rate after a burn-in."""
        # The second eigenvalue of this chain is below .75, so that 120 steps from x = 6 leave a trace below 1e-6. A
        # rate that counts the burn-in is larger at first, since everything is uphill.
        x0 = torch.full((CHAINS, 1), 6.0, dtype=torch.float64)
        chain, rates = student.metropolis(STANDARD, x0, 4, 2.4, seeded(69), burn_in=120)
        assert_shape(chain, (4, CHAINS, 1))
        assert_follows(chain[0], scipy.stats.norm.cdf)
        assert_follows(chain[-1], scipy.stats.norm.cdf)
        assert_close(rates.mean(), closed_form_rate(2.4), rtol=0.0, atol=gap(CHAINS))

    @check(hint="Steps and decisions both draw from the generator that was given.", weight=2)
    def test_generator(self, student: Student) -> None:
        """All randomness comes from the generator: its state repeats a run, and a second call goes on from there."""
        arguments = (STANDARD, normal(100, 1, seed=70), 10, 2.0)
        once = student.metropolis(*arguments, seeded(71))
        first, second = student.run(metropolis_twice, *arguments, seeded(71))
        other = student.metropolis(*arguments, seeded(72))
        assert_shape(once[0], (10, 100, 1))
        assert_same(first, [*once])
        for different in (second[0], other[0]):  # chains that have moved are elsewhere; of 100, 2^-10 have not
            assert_shape(different, (10, 100, 1))
            assert bool((once[0][-1] != different[-1]).double().mean() > 0.9)

    @check(hint="The chains move, the tensor x0 does not; and each recorded state is a copy.")
    def test_start_is_left_alone(self, student: Student, device: torch.device) -> None:
        """The start is the same after the call as before, and records are not overwritten by later steps."""
        # x += step changes x0, and a list of one and the same tensor holds the last state only
        x0 = normal(40, 3, seed=73)
        chain, rates, after = student.run(
            metropolis_and_start, flat_log_density, x0.to(device), 6, 1.0, seeded(74, device)
        )
        assert_same(after, x0)
        assert_shape(chain, (6, 40, 3))
        assert bool((chain[1:] != chain[:-1]).all())
        assert_close(rates, torch.ones(40, dtype=torch.float64))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype_and_shape(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """Chains and rates have the dtype of the start; one chain and one step are enough."""
        x0 = normal(2000, 1, seed=75).to(device, dtype)
        chain, rates = student.metropolis(STANDARD, x0, 3, 2.4, seeded(76, device))
        assert_shape(chain, (3, 2000, 1))
        assert_dtype(chain, dtype)
        assert_dtype(rates, dtype)
        assert_follows(chain[-1], scipy.stats.norm.cdf)
        chain, rates = student.metropolis(flat_log_density, x0[:1], 1, 0.5, seeded(77, device))
        assert_shape(chain, (1, 1, 1))
        assert_close(rates, torch.ones(1, dtype=dtype))

    @check(hint="Raise ValueError in the four cases that the docstring names, and only then.")
    def test_refuses_bad_arguments(self, student: Student) -> None:
        """A step size or a number of steps that makes no sense, and an impossible start, are refused."""
        x0 = table([0.5, 0.5], [0.2, 0.9])
        chain, rates = student.metropolis(box_log_density, x0, 1, 0.1, seeded(78), burn_in=0)
        assert_shape(chain, (1, 2, 2))
        assert_rates_are_moves(chain, rates, x0)
        for n_steps, step_size, burn_in in ((0, 0.1, 5), (-1, 0.1, 5), (5, 0.0, 1), (5, -0.1, 1), (5, 0.1, -1)):
            with student_raises(ValueError):
                student.metropolis(box_log_density, x0, n_steps, step_size, seeded(78), burn_in=burn_in)
        with student_raises(ValueError):
            student.metropolis(box_log_density, table([0.5, 0.5], [0.2, 1.9]), 5, 0.1, seeded(78))

    @check(hint="Make noise, uniform numbers and the record on the device of x0.")
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """The chains run on whatever device their start is."""
        x0 = normal(1000, 1, seed=79)
        chain, rates = student.metropolis(STANDARD, x0.to(elsewhere), 4, 2.4, seeded(80, elsewhere), burn_in=2)
        assert_device(chain, elsewhere)
        assert_device(rates, elsewhere)
        assert_shape(chain, (4, 1000, 1))
        assert_follows(chain[-1], scipy.stats.norm.cdf)
        assert_close(rates.mean(), closed_form_rate(2.4), rtol=0.0, atol=gap(1000))


# --- metropolis_hastings -----------------------------------------------------------------------------------------


@probe
def two_state_log_density(log_p0, log_p1, x):
    return torch.where(x[:, 0] > 0.5, log_p1, log_p0).to(x.dtype)


@probe
def flip(x, generator):
    return 1 - x


@probe
def flip_log_density(log_q01, log_q10, y, x):
    return torch.where(x[:, 0] > 0.5, log_q10, log_q01).to(x.dtype)


@probe
def multiply(size, x, generator):
    return x * torch.exp(size * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype))


@probe
def multiply_log_density(size, y, x):
    return (-0.5 * ((y.log() - x.log()) / size) ** 2 - y.log() - math.log(size)).sum(-1)


@probe
def log_normal_log_density(x):
    return (-0.5 * x.log() ** 2 - x.log()).sum(-1)


@probe
def gamma_log_density(shape, x):
    return ((shape - 1) * x.log() - x).sum(-1)


@probe
def contract(r, x, generator):
    return r * x + math.sqrt(1 - r * r) * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


@probe
def contract_log_density(r, y, x):
    return -0.5 * ((y - r * x).square() / (1 - r * r)).sum(-1)


@probe
def independent_proposal(scale, x, generator):
    return scale * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


@probe
def independent_log_density(scale, y, x):
    return -0.5 * (y / scale).square().sum(-1)


@probe
def drift(by, x, generator):
    return x + by + torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


@probe
def drift_log_density(by, shift, y, x):
    return shift - 0.5 * (y - x - by).square().sum(-1)


@probe
def hastings_twice(ns, *arguments):
    return ns.metropolis_hastings(*arguments), ns.metropolis_hastings(*arguments)


@probe
def hastings_and_start(ns, *arguments):
    chain, rates = ns.metropolis_hastings(*arguments)
    return chain, rates, arguments[3]


def flipping(p0: float, p1: float, q01: float, q10: float) -> tuple[object, object, object]:
    """A target on the states 0 and 1, and a proposal that always flips but claims to do so with other probabilities."""
    logs = [math.log(p) if p else -math.inf for p in (p0, p1, q01, q10)]
    target = partial(two_state_log_density, *(torch.tensor(v, dtype=torch.float64) for v in logs[:2]))
    claim = partial(flip_log_density, *(torch.tensor(v, dtype=torch.float64) for v in logs[2:]))
    return target, flip, claim


@task("metropolis_hastings")
class TestMetropolisHastings:
    @check(hint="Where is it better to be, and how easily would one come back? Mind which way each q points.", weight=2)
    @pytest.mark.parametrize(
        ("p", "q", "moves"),
        [((0.5, 0.3), (0.4, 0.4), 0.6), ((0.6, 0.3), (0.4, 0.6), 0.75), ((0.4, 0.6), (0.8, 0.2), 0.375)],
        ids=["symmetric", "helped", "hindered"],
    )
    def test_probability_of_a_move(
        self, student: Student, p: tuple[float, float], q: tuple[float, float], moves: float
    ) -> None:
        """From one state to another, moves are accepted as often as the formula says, and back always."""
        # alpha(0, 1) = p1 q10 / (p0 q01). Second case: without q .5, with q inverted .333, only q01 1, only q10 .3.
        # Third: without q 1, inverted 1, p inverted .167. 4000 chains: gap .057. Back: alpha(1, 0) > 1.
        arguments = flipping(*p, *q)
        zeros = torch.zeros(CHAINS, 1, dtype=torch.float64)
        chain, rates = student.metropolis_hastings(*arguments, zeros, 1, seeded(81))
        assert_shape(chain, (1, CHAINS, 1))
        assert_close(chain.mean(), moves, rtol=0.0, atol=gap(CHAINS))
        assert_close(rates, chain[0, :, 0])
        chain, rates = student.metropolis_hastings(*arguments, zeros + 1, 1, seeded(82))
        assert_same(chain, torch.zeros(1, CHAINS, 1, dtype=torch.float64))
        assert_close(rates, torch.ones(CHAINS, dtype=torch.float64))

    @check(hint="A proposal that keeps the density by itself needs no refusal: with q both ways, the ratio is one.")
    def test_reversible_proposal(self, student: Student) -> None:
        """A proposal in balance with the density is always accepted."""
        # y = r x + sqrt(1 - r^2) z keeps N(0, I). Without q or with q inverted many are refused. Rounding to 1e-15
        # refuses one of 8000 with probability below 1e-11.
        x0 = normal(400, 2, seed=83)
        chain, rates = student.metropolis_hastings(
            STANDARD, partial(contract, 0.3), partial(contract_log_density, 0.3), x0, 20, seeded(84)
        )
        assert_shape(chain, (20, 400, 2))
        assert_close(rates, torch.ones(400, dtype=torch.float64))
        assert_follows(chain[-1], scipy.stats.norm.cdf)
        assert_rates_are_moves(chain, rates, x0)

    @check(hint="In ln x this is random-walk Metropolis, once q is taken into account.", weight=2)
    def test_log_normal(self, student: Student) -> None:
        """Multiplying steps on the log-normal density are accepted as often as the closed form says."""
        # (2/pi) atan(2/1.5) = .590334, as for N(0, 1) in ln x. Without q: density p(x)/x, so ln x drifts to -1; with q
        # inverted to -2. The order of arguments is that of the docstring.
        x0 = normal(CHAINS, 1, seed=85).exp()
        chain, rates = student.metropolis_hastings(
            log_normal_log_density, partial(multiply, 1.5), partial(multiply_log_density, 1.5), x0, 12, seeded(86)
        )
        assert_shape(chain, (12, CHAINS, 1))
        assert_close(rates.mean(), closed_form_rate(1.5), rtol=0.0, atol=gap(CHAINS))
        assert_follows(chain[-1], scipy.stats.lognorm(1.0).cdf)

    @check(hint="Without the correction another density is sampled: p(x)/x in place of p(x).")
    def test_gamma(self, student: Student) -> None:
        """Chains that start with a gamma distribution keep it."""
        # without q Gamma(2), mean 2; inverted Gamma(1), mean 1. Variance 3: 6.5 standard deviations are .178
        uniform = torch.rand(CHAINS, 3, generator=seeded(87), dtype=torch.float64)
        x0 = -torch.log1p(-uniform).sum(-1, keepdim=True)
        chain, _ = student.metropolis_hastings(
            partial(gamma_log_density, 3.0), partial(multiply, 0.9), partial(multiply_log_density, 0.9), x0, 20,
            seeded(88),
        )  # fmt: skip
        assert_shape(chain, (20, CHAINS, 1))
        assert_close(chain[-1].mean(), 3.0, rtol=0.0, atol=0.178)
        assert_follows(chain[-1], scipy.stats.gamma(3.0).cdf)

    @check(hint="A proposal may forget where it comes from; its density still differs from place to place.")
    def test_independent_proposal(self, student: Student) -> None:
        """Proposals that ignore the state are accepted as often as the closed form says."""
        # From N(0, 2^2) for N(0, 1): accepted moves are half to smaller |x| and P(|y| < |x|) = (2/pi) atan(1/2), so the
        # rate is (4/pi) atan(1/2) = .590334. For N(0, 0.6^2) the ratio grows with |x|: (4/pi) atan(.6) = .688.
        x0 = normal(CHAINS, 1, seed=89)
        for scale, expected in ((2.0, 4 / math.pi * math.atan(0.5)), (0.6, 4 / math.pi * math.atan(0.6))):
            chain, rates = student.metropolis_hastings(
                STANDARD, partial(independent_proposal, scale), partial(independent_log_density, scale), x0, 8,
                seeded(90),
            )  # fmt: skip
            assert_shape(chain, (8, CHAINS, 1))
            assert_close(rates.mean(), expected, rtol=0.0, atol=gap(CHAINS))
            assert_follows(chain[-1], scipy.stats.norm.cdf)

    @check(hint="A step that could never be undone is never taken, nor one to where the density is zero.")
    def test_no_way_back(self, student: Student) -> None:
        """A step whose reverse is never proposed, or that leads to zero density, is never accepted."""
        zeros = torch.zeros(200, 1, dtype=torch.float64)
        for arguments in (flipping(0.2, 0.8, 0.5, 0.0), flipping(1.0, 0.0, 0.5, 0.5)):
            chain, rates = student.metropolis_hastings(*arguments, zeros, 3, seeded(91))
            assert_same(chain, torch.zeros(3, 200, 1, dtype=torch.float64))
            assert_close(rates, torch.zeros(200, dtype=torch.float64))
        chain, _ = student.metropolis_hastings(*flipping(0.2, 0.8, 0.5, 0.5), zeros, 1, seeded(91))
        assert_same(chain, torch.ones(1, 200, 1, dtype=torch.float64))

    @check(hint="Only differences of logarithms may matter: no exponential of log_prob or log_proposal itself.")
    def test_huge_and_tiny_densities(self, student: Student) -> None:
        """Densities may be multiplied by e to the 1024, or to the -1024, and the chains remain the same."""
        x0 = normal(50, 2, seed=92)

        def run(of_target: float, of_proposal: float) -> Tensor:
            chain, _ = student.metropolis_hastings(
                partial(standard_log_density, of_target),
                partial(drift, 0.4),
                partial(drift_log_density, 0.4, of_proposal),
                x0,
                10,
                seeded(93),
            )
            return chain

        chain = run(0.0, 0.0)
        assert_shape(chain, (10, 50, 2))
        assert bool((chain[1:] != chain[:-1]).any())
        for shifts in ((1024.0, -1024.0), (-1024.0, 1024.0)):
            assert_same(run(*shifts), chain)

    @check(hint="A refused chain stays and its state is recorded once more; the rate counts who moved.", weight=2)
    def test_rates_and_moves(self, student: Student) -> None:
        """Each chain's rate is the share of its steps that led elsewhere, and the chains keep their density."""
        # proposals recorded, refused steps left out (variance above 1.1), one rate for all, the start recorded
        x0 = normal(CHAINS, 1, seed=94)
        chain, rates = student.metropolis_hastings(
            STANDARD, partial(drift, 1.5), partial(drift_log_density, 1.5, 0.0), x0, 10, seeded(95)
        )
        assert_shape(chain, (10, CHAINS, 1))
        assert_rates_are_moves(chain, rates, x0)
        assert_follows(chain[-1], scipy.stats.norm.cdf)
        # x^2 has variance 2: 6.5 standard deviations are .145
        assert_close(chain[-1].square().mean(), 1.0, rtol=0.0, atol=0.145)

    @check(hint="Every chain needs a uniform number of its own for its decision.")
    def test_decisions(self, student: Student) -> None:
        """At every step some chains move and others stay, as many as they should."""
        x0 = normal(2000, 1, seed=96).exp()
        chain, _ = student.metropolis_hastings(
            log_normal_log_density, partial(multiply, 2.4), partial(multiply_log_density, 2.4), x0, 20, seeded(97)
        )
        assert_shape(chain, (20, 2000, 1))
        assert_decisions_are_single(chain, x0, closed_form_rate(2.4))

    @check(hint="Pass the generator on to propose, and use it for the decisions too.", weight=2)
    def test_generator(self, student: Student) -> None:
        """All randomness comes from the generator: its state repeats a run, and a second call goes on from there."""
        x0 = normal(100, 1, seed=98)
        arguments = (STANDARD, partial(drift, 0.5), partial(drift_log_density, 0.5, 0.0), x0, 10)
        once = student.metropolis_hastings(*arguments, seeded(99))
        first, second = student.run(hastings_twice, *arguments, seeded(99))
        other = student.metropolis_hastings(*arguments, seeded(100))
        assert_shape(once[0], (10, 100, 1))
        assert_same(first, [*once])
        for different in (second[0], other[0]):
            assert_shape(different, (10, 100, 1))
            assert bool((once[0][-1] != different[-1]).double().mean() > 0.9)

    @check(hint="The chains move, the tensor x0 does not; and each recorded state is a copy.")
    def test_start_is_left_alone(self, student: Student, device: torch.device) -> None:
        """The start is the same after the call as before, and records are not overwritten by later steps."""
        x0 = normal(40, 3, seed=101)
        chain, rates, after = student.run(
            hastings_and_start, STANDARD, partial(contract, 0.5), partial(contract_log_density, 0.5),
            x0.to(device), 6, seeded(102, device),
        )  # fmt: skip
        assert_same(after, x0)
        assert_shape(chain, (6, 40, 3))
        assert bool((chain[1:] != chain[:-1]).all())
        assert_close(rates, torch.ones(40, dtype=torch.float64))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype_and_shape(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """Chains and rates have the dtype of the start; one chain and one step are enough."""
        x0 = normal(2000, 1, seed=103).to(device, dtype)
        walk = (STANDARD, partial(drift, 0.8), partial(drift_log_density, 0.8, 0.0))
        chain, rates = student.metropolis_hastings(*walk, x0, 3, seeded(104, device))
        assert_shape(chain, (3, 2000, 1))
        assert_dtype(chain, dtype)
        assert_dtype(rates, dtype)
        assert_follows(chain[-1], scipy.stats.norm.cdf)
        chain, rates = student.metropolis_hastings(*walk, x0[:1], 1, seeded(105, device))
        assert_shape(chain, (1, 1, 1))
        assert_shape(rates, (1,))

    @check(hint="Raise ValueError in the two cases that the docstring names, and only then.")
    def test_refuses_bad_arguments(self, student: Student) -> None:
        """A number of steps below one, and a start where the density is zero, are refused."""
        walk = (box_log_density, partial(drift, 0.1), partial(drift_log_density, 0.1, 0.0))
        x0 = table([0.5, 0.5], [0.2, 0.9])
        chain, rates = student.metropolis_hastings(*walk, x0, 1, seeded(106))
        assert_shape(chain, (1, 2, 2))
        assert_rates_are_moves(chain, rates, x0)
        for n_steps in (0, -2):
            with student_raises(ValueError):
                student.metropolis_hastings(*walk, x0, n_steps, seeded(106))
        with student_raises(ValueError):
            student.metropolis_hastings(*walk, table([0.5, 0.5], [0.2, 1.9]), 5, seeded(106))

    @check(hint="Make uniform numbers and the record on the device of x0.")
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """The chains run on whatever device their start is."""
        x0 = normal(1000, 1, seed=107).exp()
        chain, rates = student.metropolis_hastings(
            log_normal_log_density, partial(multiply, 1.5), partial(multiply_log_density, 1.5), x0.to(elsewhere), 4,
            seeded(108, elsewhere),
        )  # fmt: skip
        assert_device(chain, elsewhere)
        assert_device(rates, elsewhere)
        assert_shape(chain, (4, 1000, 1))
        assert_follows(chain[-1], scipy.stats.lognorm(1.0).cdf)
        assert_close(rates.mean(), closed_form_rate(1.5), rtol=0.0, atol=gap(1000))


# --- effective_sample_size ---------------------------------------------------------------------------------------


@probe
def ess_and_argument(ns, chain):
    result = ns.effective_sample_size(chain)
    return result, chain


def geyer(chain: np.ndarray) -> float:
    """The definition, number by number. Refuses an example that rounding could decide."""
    n = len(chain)
    offsets = [float(x) - math.fsum(chain) / n for x in chain]
    covariances = [math.fsum(offsets[t] * offsets[t + k] for t in range(n - k)) / n for k in range(n)]
    tau = -1.0
    for m in range(n // 2):
        pair = (covariances[2 * m] + covariances[2 * m + 1]) / covariances[0]
        assert abs(pair) > 1e-4
        if pair <= 0:
            break
        tau += 2 * pair
    assert abs(tau) > 0.01
    return n / tau if tau > 0 else math.inf


def geyer_of(chains: Tensor) -> Tensor:
    """The definition for chains with any axes behind the first."""
    columns = chains.flatten(1).T.numpy()
    return torch.tensor([geyer(column) for column in columns], dtype=torch.float64).reshape(chains.shape[1:])


def autoregressive(n: int, count: int, r: float, seed: int) -> Tensor:
    """Stationary chains of variance 1 in which states k steps apart have the correlation r^k."""
    noise = normal(n, count, seed=seed).numpy()
    noise[1:] *= math.sqrt(1 - r * r)
    return torch.as_tensor(scipy.signal.lfilter([1.0], [1.0, -r], noise, axis=0))


@task("effective_sample_size")
class TestEffectiveSampleSize:
    @check(
        hint="n over -1 plus twice the sum of the pairs, from the pair with lag 0 to the last positive one.", weight=2
    )
    def test_definition(self, student: Student, device: torch.device) -> None:
        """Effective sample sizes of short sluggish chains are as defined."""
        # n tau, the factor 2, lag 0 counted twice or not at all, no mean taken off, divisor n - k, no stop, one lag of
        # each pair left out, ends of the chain joined (no zero padding): all differ
        chains = autoregressive(40, 5, 0.8, seed=111)
        assert_close(student.effective_sample_size(chains.to(device)), geyer_of(chains))

    @check(hint="The mean belongs to each chain, and it is taken off before anything is multiplied.")
    def test_shifted_and_stretched(self, student: Student, device: torch.device) -> None:
        """Shifting and stretching a chain changes nothing."""
        chains = autoregressive(60, 3, 0.6, seed=112)
        moved = 1000.0 + 20.0 * torch.arange(3) - 7.5 * chains
        assert_close(student.effective_sample_size(moved.to(device)), geyer_of(chains))

    @check(hint="A correlation may be negative while the pair that it belongs to is positive: sum pairs, then judge.")
    def test_chain_that_swings(self, student: Student, device: torch.device) -> None:
        """Chains that swing from side to side are worth more than their length."""
        # a stop at the first negative correlation gives n, absolute values less than n
        chains = autoregressive(80, 4, -0.5, seed=113)
        expected = geyer_of(chains)
        assert bool((expected > 80).all())
        assert_close(student.effective_sample_size(chains.to(device)), expected)

    @check(hint="The first pair that is not positive ends the sum for good, whatever comes behind it.")
    def test_stop_for_good(self, student: Student, device: torch.device) -> None:
        """Pairs behind the first one that is not positive do not count."""
        # all positive pairs summed; noise has many of them
        chains = autoregressive(101, 6, 0.3, seed=114)
        assert_close(student.effective_sample_size(chains.to(device)), geyer_of(chains))

    @check(hint="The sum may go on to the end of the chain: which is the last pair that there is?")
    @pytest.mark.parametrize("n", [4, 5, 6, 9])
    def test_very_short_chains(self, student: Student, device: torch.device, n: int) -> None:
        """Chains of a few states, an odd number of them too, have the effective sample sizes as defined."""
        chains = torch.stack([table(*range(n)) ** 2, (table(*range(n)) - 1.3).abs()], dim=1)
        assert_close(student.effective_sample_size(chains.to(device)), geyer_of(chains))

    @check(hint="A geometric series of correlations has a closed form: compare yours with it.")
    @pytest.mark.parametrize("r", [0.9, 0.5, 0.0, -0.4])
    def test_autoregressive(self, student: Student, r: float) -> None:
        """Long autoregressive chains are worth the fraction of their length that the closed form says."""
        # (1 - r)/(1 + r). The chains are fixed, and with them the right answer: over 40 chains of 1500 states the mean
        # time is 4 to 9% above the closed form, since the sum stops late rather than early.
        chains = autoregressive(1500, 40, r, seed=115)
        result = student.effective_sample_size(chains)
        assert_shape(result, (40,))
        assert_close((1500 / result).mean(), (1 + r) / (1 - r), rtol=0.12, atol=0.0)

    @check(hint="Time runs along the first axis; all the axes behind it are kept.")
    def test_axes(self, student: Student, device: torch.device) -> None:
        """Chains with axes behind the first are treated one by one, and so is a single one."""
        # mean over the chains, a sum of them, time along the last axis
        chains = autoregressive(30, 6, 0.5, seed=116).reshape(30, 2, 3)
        assert_close(student.effective_sample_size(chains.to(device)), geyer_of(chains))
        assert_close(student.effective_sample_size(chains[:, 1, 2].to(device)), geyer_of(chains)[1, 2])

    @check(hint="What is the variance of a chain that never moves, and what is divided by it?")
    def test_chain_that_never_moves(self, student: Student, device: torch.device) -> None:
        """A chain all of whose states are equal is worth one draw, beside others that are worth more."""
        chains = autoregressive(50, 3, 0.4, seed=117)
        expected = geyer_of(chains)
        chains[:, 1], expected[1] = 2.0, 1.0
        assert_close(student.effective_sample_size(chains.to(device)), expected)

    @check(hint="A sum that is not positive cannot be a time: what does the docstring say then?")
    def test_tau_that_is_not_positive(self, student: Student, device: torch.device) -> None:
        """Where the estimated time is negative, the effective sample size is infinite."""
        chains = torch.stack([table(3, -3, 1, -2, 3, -2), table(3, -2, 1, -1, 0, 1)], dim=1)
        expected = geyer_of(chains)
        assert expected.isinf().tolist() == [True, False]
        assert_close(student.effective_sample_size(chains.to(device)), expected)

    @check(hint="Raise ValueError for fewer than four states, and only then.")
    def test_refuses_short_chains(self, student: Student, device: torch.device) -> None:
        """Fewer than four states are refused, and four are enough."""
        chain = table(0.5, 1.5, 3.0, 2.0)
        assert_close(student.effective_sample_size(chain.to(device)), geyer(chain.numpy()))
        for n in (3, 1):
            with student_raises(ValueError):
                student.effective_sample_size(chain[:n].to(device))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """Effective sample sizes are right and have the dtype of the chain."""
        # float32: sums of 70 products keep about six digits, and no pair lies within 1e-4 of zero
        chains = autoregressive(70, 4, 0.7, seed=118)
        result = student.effective_sample_size(chains.to(device, dtype))
        assert_dtype(result, dtype)
        assert_close(result, geyer_of(chains).to(dtype), rtol=1e-4, atol=0.0)

    @check(hint="Work on new tensors.")
    def test_argument_is_left_alone(self, student: Student, device: torch.device) -> None:
        """The chain is the same after the call as before."""
        chains = autoregressive(20, 2, 0.5, seed=119) + 3
        result, after = student.run(ess_and_argument, chains.clone().to(device))
        assert_close(result, geyer_of(chains))
        assert_same(after, chains)

    @check(hint="Make new tensors on the device of the chain.")
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """Effective sample sizes are right on whatever device the chain is, of a chain that never moves too."""
        chains = autoregressive(24, 3, 0.6, seed=120)
        expected = geyer_of(chains)
        chains[:, 2], expected[2] = -1.0, 1.0
        result = student.effective_sample_size(chains.to(elsewhere))
        assert_device(result, elsewhere)
        assert_close(result, expected)
