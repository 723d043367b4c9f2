"""Hidden checks of the assignment on information theory.

Expected values come from closed forms and from scipy, scikit-learn and torch.distributions, not from the reference.
Inputs are float64 where nothing else is said, so a right answer agrees to about seven digits whatever its way.
"""

import math
from functools import partial

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from scipy.spatial import distance
from sklearn.metrics import mutual_info_score
from torch import Tensor
from torch.distributions import Normal

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

LN2 = math.log(2)
STANDARD = 1.4189385332046727  # entropy of N(0, 1) in nats, ln(2 pi e) / 2


def table(*rows: object) -> Tensor:
    """A float64 tensor."""
    return torch.tensor(rows, dtype=torch.float64)


def distributions(*shape: int, seed: int) -> Tensor:
    """Positive distributions over the last axis, none of them near uniform, no two alike."""
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(1.5 * torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def scipy_entropy(p: Tensor, q: Tensor | None = None) -> Tensor:
    """Entropy of p, or divergence of p from q, in nats over the last axis."""
    return torch.as_tensor(scipy.stats.entropy(p.numpy(), None if q is None else q.numpy(), axis=-1))


def scipy_jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """Divergence in nats: scipy's distance is its square root."""
    return torch.as_tensor(distance.jensenshannon(p.numpy(), q.numpy(), axis=-1) ** 2)


# Cover & Thomas, example 2.2.1, with X along the rows. H(X) = 7/4, H(Y) = 2, H(X, Y) = 27/8 bits.
TEXTBOOK = table([4, 2, 2, 8], [2, 4, 2, 0], [1, 1, 2, 0], [1, 1, 2, 0]) / 32


# --- entropy -----------------------------------------------------------------------------------------------------


@probe
def entropy_and_argument(ns, p):
    result = ns.entropy(p)
    return result, p


@task("entropy")
class TestEntropy:
    @check(hint="In nats: is the logarithm the natural one, and is the sign that of an average surprise?", weight=2)
    def test_loaded_coin(self, student: Student, device: torch.device) -> None:
        """A coin that nearly always shows heads has the textbook entropy."""
        # log2 gives .469, a lost sign -.325, the mean over outcomes .163
        assert_close(student.entropy(table(0.1, 0.9).to(device)), 0.3250829733914482)

    @check(hint="What does your code compute for an outcome of probability zero?", weight=2)
    def test_zero_probabilities(self, student: Student, device: torch.device) -> None:
        """Outcomes that never happen leave the entropy as it is."""
        # 0 log 0 = NaN; a small number added to every probability shows too
        expected = scipy_entropy(table(0.5, 0.3, 0.2))
        assert_close(student.entropy(table(0.5, 0.0, 0.3, 0.0, 0.2).to(device)), expected)

    @check(hint="One entropy for each row: sum over the outcomes, which are the last axis.", weight=2)
    def test_table_of_distributions(self, student: Student, device: torch.device) -> None:
        """Each row of a table of distributions has its own entropy."""
        # sum over all, over the first axis, mean for sum
        p = distributions(4, 3, seed=11)
        assert_close(student.entropy(p.to(device)), scipy_entropy(p))

    def test_textbook_table(self, student: Student, device: torch.device) -> None:
        """The textbook's joint table has the right entropy, and so has its first marginal."""
        # 27/8 and 7/4 bits
        assert_close(student.entropy(TEXTBOOK.flatten().to(device)), 27 / 8 * LN2)
        assert_close(student.entropy(TEXTBOOK.sum(1).to(device)), 7 / 4 * LN2)

    @check(hint="Count the outcome axis from the end: there may be any number of axes in front.")
    def test_two_batch_axes(self, student: Student, device: torch.device) -> None:
        """Two axes in front of the outcomes are kept."""
        # sum over axis 1
        p = distributions(2, 3, 5, seed=12)
        assert_close(student.entropy(p.to(device)), scipy_entropy(p))

    @check(hint="Every probability counts as it is: neither clamped nor with a small number added.")
    def test_rare_outcome(self, student: Student, device: torch.device) -> None:
        """A very rare outcome contributes its exact share."""
        # p + 1e-8 under the logarithm is off by 1e-8 / 1.5e-5; the exact formula in float64 by less than 1e-10
        p = table(1 - 1e-6, 1e-6)
        assert_close(student.entropy(p.to(device)), scipy_entropy(p), rtol=1e-6, atol=0.0)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """The entropies are right and have the dtype of the probabilities."""
        p = distributions(3, 4, seed=13)
        result = student.entropy(p.to(device, dtype))
        assert_dtype(result, dtype)
        assert_close(result, scipy_entropy(p).to(dtype))

    @check(hint=ON_ITS_DEVICE)
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """Probabilities on another device than the CPU have the right entropies, on that device."""
        p = table([0.5, 0.0, 0.3, 0.2], [0.1, 0.7, 0.0, 0.2])
        result = student.entropy(p.to(elsewhere))
        assert_device(result, elsewhere)
        assert_close(result, scipy_entropy(p))

    @check(hint="Work on a copy, or on new tensors.")
    def test_argument_is_left_alone(self, student: Student, device: torch.device) -> None:
        """The probabilities are the same after the call as before."""
        # p[p == 0] = 1 gives the right sum and spoils the caller's tensor
        p = table(0.25, 0.0, 0.75)
        result, after = student.run(entropy_and_argument, p.clone().to(device))
        assert_close(result, scipy_entropy(p))
        assert_close(after, p, rtol=0.0, atol=0.0)


# --- gaussian_entropy --------------------------------------------------------------------------------------------


@task("gaussian_entropy")
class TestGaussianEntropy:
    @check(hint="Look at the constant: 2, pi and e all belong under the logarithm, and a factor stands before it.")
    def test_standard_normal(self, student: Student, device: torch.device) -> None:
        """The standard normal density has the textbook entropy, in nats and in bits."""
        # without e: .919, without the factor 1/2: 2.838, log2: 2.047
        result = student.gaussian_entropy(torch.tensor(1.0, dtype=torch.float64).to(device))
        assert_close(result, STANDARD)
        assert_close(result / LN2, 2.047095585180641)

    @check(hint="sigma is the standard deviation, the formula has the variance.", weight=2)
    def test_widths(self, student: Student, device: torch.device) -> None:
        """Each standard deviation in a table gives the entropy of its own normal density."""
        # sigma for sigma squared agrees at 1 only; a mean or sum over the batch has another shape
        sigma = table([0.3, 1.7, 2.9], [5.0, 11.0, 0.8])
        assert_close(student.gaussian_entropy(sigma.to(device)), Normal(torch.zeros_like(sigma), sigma).entropy())

    @check(hint="A differential entropy may be negative: is yours cut off or made positive?", weight=2)
    def test_narrow_density(self, student: Student, device: torch.device) -> None:
        """A narrow normal density has a negative entropy."""
        # abs, clamp at zero
        sigma = table(0.01, 0.2)
        assert_close(student.gaussian_entropy(sigma.to(device)), Normal(torch.zeros_like(sigma), sigma).entropy())

    @check(hint="Squaring overflows or underflows here. Can you take the logarithm without squaring first?")
    def test_square_beyond_the_dtype(self, student: Student, device: torch.device) -> None:
        """The entropy is finite where the variance is too small or too large for the dtype."""
        sigma = torch.tensor([1e-30, 1e30], dtype=torch.float32).to(device)
        half_log = 0.5 * math.log(2 * math.pi * math.e)
        expected = torch.tensor([-30 * math.log(10) + half_log, 30 * math.log(10) + half_log], dtype=torch.float32)
        assert_close(student.gaussian_entropy(sigma), expected)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """The entropies are right and have the dtype of the standard deviations."""
        sigma = table(0.6, 2.5, 40.0)
        result = student.gaussian_entropy(sigma.to(device, dtype))
        assert_dtype(result, dtype)
        assert_close(result, Normal(torch.zeros_like(sigma), sigma).entropy().to(dtype))

    @check(hint=ON_ITS_DEVICE)
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """Standard deviations on another device than the CPU have the right entropies, on that device."""
        sigma = table([0.6, 2.5], [40.0, 0.1])
        result = student.gaussian_entropy(sigma.to(elsewhere))
        assert_device(result, elsewhere)
        assert_close(result, Normal(torch.zeros_like(sigma), sigma).entropy())

    @check(hint="Raise ValueError as soon as a single standard deviation is zero or negative, and only then.")
    def test_refuses_what_is_no_standard_deviation(self, student: Student, device: torch.device) -> None:
        """Zero and negative standard deviations are refused, positive ones are not."""
        assert_close(student.gaussian_entropy(table(2.0).to(device)), table(STANDARD + LN2))
        for bad in (0.0, -1.5):
            with student_raises(ValueError):
                student.gaussian_entropy(table(2.0, bad, 1.0).to(device))


# --- differential_entropy ----------------------------------------------------------------------------------------


@probe
def normal_log_prob(mean, sigma, x):
    return -0.5 * ((x - mean) / sigma) ** 2 - math.log(sigma) - 0.5 * math.log(2 * math.pi)


@probe
def laplace_log_prob(center, scale, x):
    return -(x - center).abs() / scale - math.log(2 * scale)


@probe
def exponential_log_prob(rate, x):
    return math.log(rate) - rate * x


@probe
def uniform_log_prob(left, right, x):
    inside = torch.full_like(x, -math.log(right - left))
    return inside.masked_fill((x < left) | (x > right), -math.inf)


@probe
def mixture_log_prob(weight, m1, s1, m2, s2, x):
    first = math.log(weight / s1) - 0.5 * ((x - m1) / s1) ** 2
    second = math.log((1 - weight) / s2) - 0.5 * ((x - m2) / s2) ** 2
    return torch.logaddexp(first, second) - 0.5 * math.log(2 * math.pi)


@task("differential_entropy")
class TestDifferentialEntropy:
    @check(hint="A sum becomes an integral when each term is multiplied by the distance of two points.")
    def test_normal(self, student: Student) -> None:
        """The quadrature finds the entropy of a normal density."""
        # without the step width 2.4e3, sign lost, log2; N(.5, .7^2) has no value in common with its mistakes
        result = student.differential_entropy(partial(normal_log_prob, 0.5, 0.7), -7.0, 8.0, 2001)
        assert_close(result, STANDARD + math.log(0.7))

    @check(hint="n points have n - 1 gaps, and the two end points count half.", weight=3)
    def test_few_points(self, student: Student) -> None:
        """With few points the result is exactly what the trapezoidal rule gives."""
        # n gaps, both ends counted in full, one end left out, another rule, a normalised density: all differ here
        x = np.linspace(0.5, 3.0, 6)
        log_f = math.log(0.7) - 0.7 * x
        expected = scipy.integrate.trapezoid(-np.exp(log_f) * log_f, x)
        result = student.differential_entropy(partial(exponential_log_prob, 0.7), 0.5, 3.0, 6)
        assert_close(result, float(expected))

    def test_laplace(self, student: Student) -> None:
        """A Laplace density of scale b has entropy 1 + ln 2b."""
        # The kink costs h^2/12 times the jump of the slope, here 2e-7 at h = 0.005
        result = student.differential_entropy(partial(laplace_log_prob, 0.4, 1.7), -59.6, 60.4, 24_001)
        assert_close(result, 1 + math.log(2 * 1.7), rtol=0.0, atol=2e-6)

    def test_exponential(self, student: Student) -> None:
        """An exponential density has entropy 1 - ln rate."""
        # The slope at 0 costs h^2/12 |g'(0)|, here 1e-7 at h = 0.0005
        result = student.differential_entropy(partial(exponential_log_prob, 2.5), 0.0, 20.0, 40_001)
        assert_close(result, 1 - math.log(2.5), rtol=0.0, atol=2e-6)

    @check(hint="Where the density is zero, log_prob is -inf. What is the product of the two?", weight=2)
    def test_outside_the_support(self, student: Student) -> None:
        """Points where the density is zero contribute nothing."""
        # The edges lie halfway between grid points, so the rule is exact: 350 points inside, 0.01 apart
        result = student.differential_entropy(partial(uniform_log_prob, -0.995, 2.505), -3.0, 5.0, 801)
        assert_close(result, math.log(3.5))

    @check(hint="Far out the density underflows to zero although log_prob is finite: what is ln 0 then?", weight=2)
    def test_underflow(self, student: Student) -> None:
        """Tails in which the density underflows contribute nothing."""
        # log f = -1800 at the ends: f = 0, and f log f by way of f is NaN
        result = student.differential_entropy(partial(normal_log_prob, 0.0, 1.2), -72.0, 72.0, 6001)
        assert_close(result, STANDARD + math.log(1.2))

    @check(hint="A differential entropy may be negative: is yours cut off or made positive?")
    def test_negative_entropy(self, student: Student) -> None:
        """A density concentrated on a short interval has a negative entropy."""
        result = student.differential_entropy(partial(normal_log_prob, 1.0, 0.02), 0.8, 1.2, 1001)
        assert_close(result, STANDARD + math.log(0.02))

    def test_mixture(self, student: Student) -> None:
        """The entropy of a mixture of two normal densities, which has no formula, is found."""

        def integrand(x: float) -> float:
            f = 0.3 * scipy.stats.norm.pdf(x, -1.0, 0.5) + 0.7 * scipy.stats.norm.pdf(x, 2.0, 0.9)
            return -f * math.log(f)

        expected = scipy.integrate.quad(integrand, -8.0, 11.0, epsabs=1e-12, epsrel=1e-12, limit=500)[0]
        result = student.differential_entropy(partial(mixture_log_prob, 0.3, -1.0, 0.5, 2.0, 0.9), -8.0, 11.0, 3001)
        assert_close(result, expected)

    @check(hint="Lay the points in float64; a single number comes back.")
    def test_dtype_and_shape(self, student: Student) -> None:
        """For the standard normal density the result is a single right number in float64."""
        result = student.differential_entropy(partial(normal_log_prob, 0.0, 1.0), -9.0, 10.0, 901)
        assert_shape(result, ())
        assert_dtype(result, torch.float64)
        assert_close(result, STANDARD)

    @check(hint="Raise ValueError for an empty interval and for fewer than two points, and only then.")
    def test_refuses_an_empty_interval(self, student: Student) -> None:
        """An empty interval and a single point are refused; two points are enough."""
        log_prob = partial(uniform_log_prob, 0.5, 4.5)
        assert_close(student.differential_entropy(log_prob, 1.0, 4.0, 2), 3 / 4 * math.log(4))
        for lower, upper, n in ((4.0, 1.0, 11), (2.0, 2.0, 11), (1.0, 4.0, 1)):
            with student_raises(ValueError):
                student.differential_entropy(log_prob, lower, upper, n)


# --- kl_divergence and cross_entropy -----------------------------------------------------------------------------


@probe
def gradients_of_the_loss(ns, p, q):
    found = []
    for function in (ns.cross_entropy, ns.kl_divergence):
        model = q.clone().requires_grad_()
        function(p, model).sum().backward()
        found.append(model.grad)
    return found


P, Q = table(0.1, 0.2, 0.3, 0.4), table(0.35, 0.05, 0.4, 0.2)


@task("kl_divergence")
class TestKlDivergence:
    @check(hint="Which of p and q weighs the logarithm, and which of them stands above the other?", weight=2)
    def test_divergence(self, student: Student, device: torch.device) -> None:
        """The divergence of two distributions over four outcomes is right."""
        # swapped, sign, log2, mean for sum
        assert_close(student.kl_divergence(P.to(device), Q.to(device)), scipy_entropy(P, Q))

    @check(hint="Which of p and q stands under the logarithm: what happens, or what the code expects?", weight=2)
    def test_cross_entropy(self, student: Student, device: torch.device) -> None:
        """The cross-entropy of two distributions over four outcomes is right."""
        expected = scipy_entropy(P) + scipy_entropy(P, Q)
        assert_close(student.cross_entropy(P.to(device), Q.to(device)), expected)

    @check(hint="A world that is certain leaves a single term of the sum.")
    def test_certain_world(self, student: Student, device: torch.device) -> None:
        """If one outcome is certain, both functions give its surprise under q."""
        # 0 log 0 = NaN; swapped gives infinity
        p, q = table(0.0, 1.0, 0.0), table(0.3, 0.2, 0.5)
        assert_close(student.cross_entropy(p.to(device), q.to(device)), math.log(5))
        assert_close(student.kl_divergence(p.to(device), q.to(device)), math.log(5))

    @check(hint="What does your code do where p and q are zero together?")
    def test_impossible_under_both(self, student: Student, device: torch.device) -> None:
        """An outcome that is impossible under both distributions contributes nothing."""
        p, q = table(0.6, 0.0, 0.4, 0.0), table(0.1, 0.0, 0.2, 0.7)
        divergence = scipy_entropy(p, q)
        assert_close(student.kl_divergence(p.to(device), q.to(device)), divergence)
        assert_close(student.cross_entropy(p.to(device), q.to(device)), divergence + scipy_entropy(p))

    @check(hint="An outcome with q = 0 < p has no finite price: clamping q, or adding to it, hides that.", weight=2)
    def test_infinite_cost(self, student: Student, device: torch.device) -> None:
        """What q calls impossible costs infinitely much, and only in the row where it happens."""
        p = table([0.5, 0.3, 0.2], [0.5, 0.0, 0.5], [0.1, 0.2, 0.7])
        q = table([0.2, 0.8, 0.0], [0.3, 0.0, 0.7], [0.6, 0.3, 0.1])
        divergence = scipy_entropy(p, q)
        assert divergence.isinf().tolist() == [True, False, False]
        assert_close(student.kl_divergence(p.to(device), q.to(device)), divergence)
        assert_close(student.cross_entropy(p.to(device), q.to(device)), divergence + scipy_entropy(p))

    @check(hint="Sum over the last axis only, however many there are.")
    def test_batches(self, student: Student, device: torch.device) -> None:
        """Each pair of distributions in a batch has its own divergence and cross-entropy."""
        p, q = distributions(2, 3, 4, seed=21), distributions(2, 3, 4, seed=22)
        divergence = scipy_entropy(p, q)
        assert_close(student.kl_divergence(p.to(device), q.to(device)), divergence)
        assert_close(student.cross_entropy(p.to(device), q.to(device)), divergence + scipy_entropy(p))

    @check(hint="Every probability counts as it is: neither clamped nor with a small number added.")
    def test_belief_close_to_zero(self, student: Student, device: torch.device) -> None:
        """A tiny believed probability is expensive, but not impossible."""
        p, q = table(0.999, 0.001), table(1 - 1e-9, 1e-9)
        divergence = scipy_entropy(p, q)
        assert_close(student.kl_divergence(p.to(device), q.to(device)), divergence)
        assert_close(student.cross_entropy(p.to(device), q.to(device)), divergence + scipy_entropy(p))

    @check(hint="The cross-entropy exceeds the divergence by the entropy of p, and H(p, p) is that entropy.")
    def test_entropy_and_waste(self, student: Student, device: torch.device) -> None:
        """A code made for the truth costs the entropy, any other code the divergence more."""
        # cross_entropy without its sign, or returning the divergence
        p, q = distributions(5, 3, seed=23), distributions(5, 3, seed=24)
        at_best = student.cross_entropy(p.to(device), p.to(device))
        assert_close(at_best, scipy_entropy(p))
        assert_close(student.cross_entropy(p.to(device), q.to(device)) - at_best, scipy_entropy(p, q))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """Both results are right and have the dtype of the probabilities."""
        p, q = distributions(3, 5, seed=25), distributions(3, 5, seed=26)
        for function, expected in (
            (student.kl_divergence, scipy_entropy(p, q)),
            (student.cross_entropy, scipy_entropy(p) + scipy_entropy(p, q)),
        ):
            result = function(p.to(device, dtype), q.to(device, dtype))
            assert_dtype(result, dtype)
            assert_close(result, expected.to(dtype))

    @check(hint=ON_ITS_DEVICE)
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """Probabilities on another device than the CPU give the right results on that device."""
        p, q = table([0.6, 0.0, 0.4], [0.1, 0.2, 0.7]), table([0.1, 0.2, 0.7], [0.3, 0.3, 0.4])
        for function, expected in (
            (student.kl_divergence, scipy_entropy(p, q)),
            (student.cross_entropy, scipy_entropy(p) + scipy_entropy(p, q)),
        ):
            result = function(p.to(elsewhere), q.to(elsewhere))
            assert_device(result, elsewhere)
            assert_close(result, expected)

    @check(hint="A loss must stay inside torch: no numpy, no .item(), no .detach().")
    def test_gradient(self, student: Student, device: torch.device) -> None:
        """Both functions can be trained: the gradient in q is -p/q."""
        p, q = distributions(2, 3, seed=27), distributions(2, 3, seed=28)
        of_cross_entropy, of_divergence = student.run(gradients_of_the_loss, p.to(device), q.to(device))
        assert_close(of_cross_entropy, -p / q)
        assert_close(of_divergence, -p / q)


# --- gaussian_kl -------------------------------------------------------------------------------------------------


@probe
def gradients_of_gaussian_kl(ns, mu_p, sigma_p, mu_q, sigma_q):
    arguments = [argument.clone().requires_grad_() for argument in (mu_p, sigma_p, mu_q, sigma_q)]
    ns.gaussian_kl(*arguments).sum().backward()
    return [argument.grad for argument in arguments]


def four_rows(device: torch.device, *rows: object) -> list[Tensor]:
    return [torch.tensor(row, dtype=torch.float64).to(device) for row in rows]


def torch_gaussian_kl(mu_p: Tensor, sigma_p: Tensor, mu_q: Tensor, sigma_q: Tensor) -> Tensor:
    """The oracle, always on the CPU."""
    mu_p, sigma_p, mu_q, sigma_q = (value.detach().cpu() for value in (mu_p, sigma_p, mu_q, sigma_q))
    return torch.distributions.kl_divergence(Normal(mu_p, sigma_p), Normal(mu_q, sigma_q))


@task("gaussian_kl")
class TestGaussianKl:
    @check(hint="Which of the two densities is the world, and which the code? sigma is a standard deviation.")
    def test_wider_code(self, student: Student, device: torch.device) -> None:
        """The code for a wider density has the textbook cost."""
        # swapped .807; sigma taken for the variance .097
        assert_close(student.gaussian_kl(*four_rows(device, 0.0, 1.0, 0.0, 2.0)), 0.3181471805599453)

    @check(hint="Which of the two densities is the world, and which the code? sigma is a standard deviation.")
    def test_narrower_code(self, student: Student, device: torch.device) -> None:
        """The code for a narrower density has the textbook cost."""
        assert_close(student.gaussian_kl(*four_rows(device, 0.0, 2.0, 0.0, 1.0)), 0.8068528194400547)

    @check(hint="The squared distance of the means is measured in units of one of the two variances: which?")
    def test_shifted_code(self, student: Student, device: torch.device) -> None:
        """The code for a density that is wider and shifted has the textbook cost."""
        assert_close(student.gaussian_kl(*four_rows(device, 0.0, 1.0, 1.0, 2.0)), 0.4431471805599453)

    @check(hint="One divergence for each pair: nothing is summed or averaged.", weight=2)
    def test_pairs(self, student: Student, device: torch.device) -> None:
        """Each pair of normal densities has its own divergence."""
        # distance not squared, divided by the wrong variance, -1/2 missing, factor 2 missing, log ratio inverted
        arguments = four_rows(
            device,
            [[0.3, -1.2, 4.0], [2.5, 0.0, -0.7]],
            [[0.5, 1.5, 2.2], [0.9, 3.0, 0.2]],
            [[1.0, -2.0, 3.1], [2.0, 5.0, -0.4]],
            [[1.3, 0.7, 2.9], [0.6, 4.0, 0.3]],
        )
        assert_close(student.gaussian_kl(*arguments), torch_gaussian_kl(*arguments))

    @check(hint="Let torch broadcast: no loop over the first argument, no reshaping.")
    def test_broadcasting(self, student: Student, device: torch.device) -> None:
        """A column of densities against a row of others gives a table of divergences."""
        arguments = four_rows(device, [[0.0], [1.5], [-2.0]], [[1.2], [0.4], [2.0]], [0.5, -1.0], 1.7)
        assert_close(student.gaussian_kl(*arguments), torch_gaussian_kl(*arguments))

    @check(hint="With equal widths only the distance of the means remains.")
    def test_equal_widths(self, student: Student, device: torch.device) -> None:
        """Two densities of one width differ by half the squared distance, in units of that width."""
        arguments = four_rows(device, [1.0, -3.0], [0.5, 2.0], [2.0, 4.0], [0.5, 2.0])
        assert_close(student.gaussian_kl(*arguments), table(2.0, 6.125))

    @check(hint="A loss must stay inside torch: no numpy, no .item(), no .detach(), no math.log of a tensor.")
    def test_gradient(self, student: Student, device: torch.device) -> None:
        """The divergence is differentiable in all four arguments."""
        mu_p, sigma_p, mu_q, sigma_q = arguments = four_rows(
            torch.device("cpu"), [0.4, -1.0], [0.8, 2.0], [1.1, 0.5], [1.6, 0.7]
        )
        gap = mu_p - mu_q
        expected = (
            gap / sigma_q**2,
            sigma_p / sigma_q**2 - 1 / sigma_p,
            -gap / sigma_q**2,
            1 / sigma_q - (sigma_p**2 + gap**2) / sigma_q**3,
        )
        found = student.run(gradients_of_gaussian_kl, *(argument.to(device) for argument in arguments))
        for gradient, value in zip(found, expected, strict=True):
            assert_close(gradient, value)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """The divergences are right and have the dtype of the arguments."""
        arguments = four_rows(device, [0.5, 2.0, -1.0], [1.5, 0.5, 0.9], [1.0, 0.0, 1.0], [0.75, 1.25, 2.5])
        result = student.gaussian_kl(*(argument.to(dtype) for argument in arguments))
        assert_dtype(result, dtype)
        assert_close(result, torch_gaussian_kl(*arguments).to(dtype))

    @check(hint=ON_ITS_DEVICE)
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """Densities given on another device than the CPU have the right divergences, on that device."""
        arguments = four_rows(elsewhere, [[0.5], [2.0]], [[1.5], [0.5]], [1.0, 0.0, 1.0], [0.75, 1.25, 2.5])
        result = student.gaussian_kl(*arguments)
        assert_device(result, elsewhere)
        assert_close(result, torch_gaussian_kl(*arguments))

    @check(hint="Raise ValueError when any standard deviation, of p or of q, is zero or negative, and only then.")
    def test_refuses_what_is_no_standard_deviation(self, student: Student, device: torch.device) -> None:
        """Zero and negative standard deviations are refused on either side, negative means are not."""
        good = four_rows(device, [-1.0, -2.0], [1.0, 3.0], [-3.0, -1.0], [2.0, 1.5])
        assert_close(student.gaussian_kl(*good), torch_gaussian_kl(*good))
        for place in (1, 3):
            for bad in (0.0, -2.0):
                arguments = [argument.clone() for argument in good]
                arguments[place][1] = bad
                with student_raises(ValueError):
                    student.gaussian_kl(*arguments)


# --- monte_carlo_kl ----------------------------------------------------------------------------------------------


@probe
def first_of(points, n, generator):
    return points[:n]


@probe
def draw_normal(mean, sigma, n, generator):
    return mean + sigma * torch.randn(n, generator=generator, dtype=torch.float64)


@probe
def isotropic_log_prob(mean, sigma, x):
    exponent = -0.5 * ((x - mean) / sigma) ** 2
    return (exponent - math.log(sigma) - 0.5 * math.log(2 * math.pi)).sum(-1)


@probe
def half_line_log_prob(rate, x):
    return (math.log(rate) - rate * x).masked_fill(x < 0, -math.inf)


def log_ratios(points: Tensor, p: tuple[float, float], q: tuple[float, float]) -> np.ndarray:
    """ln p - ln q at some points, for two normal densities given by mean and standard deviation."""
    return scipy.stats.norm.logpdf(points.numpy(), *p) - scipy.stats.norm.logpdf(points.numpy(), *q)


POINTS = table(-1.3, 0.2, 2.4, 0.9, -0.4, 1.7)
LOG_P, LOG_Q = partial(normal_log_prob, 0.5, 1.0), partial(normal_log_prob, -0.5, 1.5)
LOG_RATIOS = log_ratios(POINTS, (0.5, 1.0), (-0.5, 1.5))


@task("monte_carlo_kl")
class TestMonteCarloKl:
    @check(hint="The average of ln p - ln q over the points that `sample` returned.", weight=2)
    def test_estimate(self, student: Student, device: torch.device) -> None:
        """On given points the estimate is the average log ratio."""
        # swapped or sign lost, sum for mean, log2, weighed by p, another estimator: the points are few, so all differ
        generator = torch.Generator().manual_seed(0)
        estimate, _ = student.monte_carlo_kl(partial(first_of, POINTS.to(device)), LOG_P, LOG_Q, 6, generator)
        assert_close(estimate, float(LOG_RATIOS.mean()))

    @check(hint="A standard deviation with divisor n - 1, over the square root of n.", weight=2)
    def test_standard_error(self, student: Student, device: torch.device) -> None:
        """On given points the standard error is that of their average."""
        # divisor n, variance for deviation, no sqrt(n), n for sqrt(n)
        generator = torch.Generator().manual_seed(0)
        _, error = student.monte_carlo_kl(partial(first_of, POINTS.to(device)), LOG_P, LOG_Q, 6, generator)
        assert_close(error, float(scipy.stats.sem(LOG_RATIOS)))

    @check(
        hint="Call `sample` once, with n and the given generator, and use the same points throughout.",
        weight=2,
    )
    def test_generator(self, student: Student) -> None:
        """The points come from the given generator, in one call."""
        # a generator of one's own, a fixed seed, a second draw for log_q or for the error
        sample = partial(draw_normal, 0.5, 1.0)
        for seed in (31, 32):
            x = 0.5 + torch.randn(50, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            ratios = log_ratios(x, (0.5, 1.0), (-0.5, 1.5))
            result = student.monte_carlo_kl(sample, LOG_P, LOG_Q, 50, torch.Generator().manual_seed(seed))
            assert_close(result[0], float(ratios.mean()))
            assert_close(result[1], float(scipy.stats.sem(ratios)))

    @check(hint="A point may have axes of its own: divide by the number of points, not of coordinates.")
    def test_points_with_coordinates(self, student: Student, device: torch.device) -> None:
        """Points with several coordinates count once each."""
        points = torch.randn(7, 3, generator=torch.Generator().manual_seed(33), dtype=torch.float64)
        ratios = log_ratios(points, (0.0, 1.0), (0.4, 1.3)).sum(-1)
        estimate, error = student.monte_carlo_kl(
            partial(first_of, points.to(device)),
            partial(isotropic_log_prob, 0.0, 1.0),
            partial(isotropic_log_prob, 0.4, 1.3),
            7,
            torch.Generator().manual_seed(0),
        )
        assert_close(estimate, float(ratios.mean()))
        assert_close(error, float(scipy.stats.sem(ratios)))

    @check(hint="The densities themselves are zero in floating point here: stay with their logarithms.")
    def test_underflow(self, student: Student, device: torch.device) -> None:
        """Log densities whose exponentials underflow are as good as any."""
        # exp(log_p) / exp(log_q) is 0/0
        points = torch.randn(5, 900, generator=torch.Generator().manual_seed(34), dtype=torch.float64) * 2
        ratios = log_ratios(points, (0.0, 2.0), (0.1, 1.9)).sum(-1)
        estimate, error = student.monte_carlo_kl(
            partial(first_of, points.to(device)),
            partial(isotropic_log_prob, 0.0, 2.0),
            partial(isotropic_log_prob, 0.1, 1.9),
            5,
            torch.Generator().manual_seed(0),
        )
        assert_close(estimate, float(ratios.mean()))
        assert_close(error, float(scipy.stats.sem(ratios)))

    def test_closed_form(self, student: Student) -> None:
        """With many draws the estimate comes close to the closed form, as close as its error says."""
        # For N(0,1) against N(1,4): r = ln 2 + 1/8 - x/4 - 3x^2/8, so E[r] = ln 2 - 1/4 = .443147181 and
        # Var[r] = 1/16 + 2 (3/8)^2 = .34375. With n = 40,000 the estimate has a standard deviation of .0029315 and
        # 7 of them are .0205. The kurtosis of r is below 15 (that of a chi-square), so the relative deviation of s is
        # below sqrt(14 / 4n) = .0094, and 7 of them are .066. Either fails less than once in 10^11.
        estimate, error = student.monte_carlo_kl(
            partial(draw_normal, 0.0, 1.0),
            partial(normal_log_prob, 0.0, 1.0),
            partial(normal_log_prob, 1.0, 2.0),
            40_000,
            torch.Generator().manual_seed(35),
        )
        assert_close(estimate, 0.4431471805599453, rtol=0.0, atol=0.0205)
        assert_close(error, math.sqrt(0.34375 / 40_000), rtol=0.066, atol=0.0)

    @check(hint="A single point that q calls impossible makes the average infinite: do not drop or clamp it.")
    def test_infinite_estimate(self, student: Student, device: torch.device) -> None:
        """A draw that q calls impossible makes the estimate infinite, and otherwise it is finite."""
        generator = torch.Generator().manual_seed(0)
        log_q = partial(half_line_log_prob, 0.8)
        infinite = student.monte_carlo_kl(partial(first_of, POINTS.to(device)), LOG_P, log_q, 6, generator)
        assert_close(infinite[0], math.inf)
        positive = table(0.2, 2.4, 0.9)
        x = positive.numpy()
        ratios = scipy.stats.norm.logpdf(x, 0.5, 1.0) - scipy.stats.expon.logpdf(x, scale=1 / 0.8)
        finite = student.monte_carlo_kl(partial(first_of, positive.to(device)), LOG_P, log_q, 3, generator)
        assert_close(finite[0], float(ratios.mean()))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype_and_shape(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """Estimate and error are two right numbers in the dtype of the log densities."""
        sample = partial(first_of, POINTS.to(device, dtype))
        result = student.monte_carlo_kl(sample, LOG_P, LOG_Q, 5, torch.Generator().manual_seed(0))
        ratios = LOG_RATIOS[:5]
        for value, expected in zip(result, (ratios.mean(), scipy.stats.sem(ratios)), strict=True):
            assert_shape(value, ())
            assert_dtype(value, dtype)
            assert_close(value, torch.tensor(expected, dtype=dtype))

    @check(hint=ON_ITS_DEVICE)
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """Log densities on another device than the CPU give the right estimate and error, on that device."""
        sample = partial(first_of, POINTS.to(elsewhere))
        generator = torch.Generator(device=elsewhere).manual_seed(0)
        result = student.monte_carlo_kl(sample, LOG_P, LOG_Q, 6, generator)
        for value, expected in zip(result, (LOG_RATIOS.mean(), scipy.stats.sem(LOG_RATIOS)), strict=True):
            assert_device(value, elsewhere)
            assert_close(value, float(expected))

    @check(hint="Raise ValueError for fewer than two points, and only then.")
    def test_refuses_a_single_point(self, student: Student, device: torch.device) -> None:
        """One point has no standard error and is refused; two points are enough."""
        sample = partial(first_of, POINTS.to(device))
        estimate, error = student.monte_carlo_kl(sample, LOG_P, LOG_Q, 2, torch.Generator().manual_seed(0))
        assert_close(estimate, float(LOG_RATIOS[:2].mean()))
        assert_close(error, float(abs(LOG_RATIOS[0] - LOG_RATIOS[1]) / 2))
        for n in (1, 0):
            with student_raises(ValueError):
                student.monte_carlo_kl(sample, LOG_P, LOG_Q, n, torch.Generator().manual_seed(0))


# --- jensen_shannon ----------------------------------------------------------------------------------------------


@probe
def jensen_shannon_and_arguments(ns, p, q):
    result = ns.jensen_shannon(p, q)
    return result, p, q


@task("jensen_shannon")
class TestJensenShannon:
    @check(hint="Both divergences are from the mixture, half of each, in nats, and without a root.", weight=2)
    def test_divergence(self, student: Student, device: torch.device) -> None:
        """The divergence of two distributions over four outcomes is right, in either order."""
        # square root, no mixture, mixture not halved, one half only, halves forgotten, log2, from the mixture to p
        assert_close(student.jensen_shannon(P.to(device), Q.to(device)), scipy_jensen_shannon(P, Q))
        assert_close(student.jensen_shannon(Q.to(device), P.to(device)), scipy_jensen_shannon(P, Q))

    @check(hint="What is the mixture of two distributions that never agree, and what does a draw tell you?")
    def test_disjoint(self, student: Student, device: torch.device) -> None:
        """Two distributions without a common outcome are ln 2 apart."""
        # without the mixture infinite, with log2 1, with the root .833
        p, q = table(0.3, 0.7, 0.0, 0.0, 0.0), table(0.0, 0.0, 0.5, 0.1, 0.4)
        assert_close(student.jensen_shannon(p.to(device), q.to(device)), LN2)

    @check(hint="What does your code compute where p, q or both of them are zero?")
    def test_zero_probabilities(self, student: Student, device: torch.device) -> None:
        """Outcomes that are impossible under one or under both distributions leave the result finite and right."""
        p, q = table(0.6, 0.0, 0.4, 0.0), table(0.1, 0.0, 0.2, 0.7)
        assert_close(student.jensen_shannon(p.to(device), q.to(device)), scipy_jensen_shannon(p, q))

    @check(hint="Sum over the last axis only, however many there are.", weight=2)
    def test_batches(self, student: Student, device: torch.device) -> None:
        """Each pair of distributions in a batch has its own divergence."""
        p, q = distributions(2, 3, 4, seed=41), distributions(2, 3, 4, seed=42)
        assert_close(student.jensen_shannon(p.to(device), q.to(device)), scipy_jensen_shannon(p, q))

    @check(hint="For a small difference the result is about the sum of squared differences over 8 p.")
    def test_nearly_equal(self, student: Student, device: torch.device) -> None:
        """Two distributions that hardly differ have the small divergence they should have."""
        # The root would be a hundred times too large. Forms that subtract entropies lose about 1e-15 of 1e-5.
        p, step = table(0.2, 0.5, 0.3), table(0.004, -0.005, 0.001)
        expected = scipy_jensen_shannon(p, p + step)
        assert_close(student.jensen_shannon(p.to(device), (p + step).to(device)), expected, rtol=1e-6, atol=0.0)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """The divergences are right and have the dtype of the probabilities."""
        p, q = distributions(3, 5, seed=43), distributions(3, 5, seed=44)
        result = student.jensen_shannon(p.to(device, dtype), q.to(device, dtype))
        assert_dtype(result, dtype)
        assert_close(result, scipy_jensen_shannon(p, q).to(dtype))

    @check(hint=ON_ITS_DEVICE)
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """Probabilities on another device than the CPU have the right divergences, on that device."""
        p, q = table([0.6, 0.0, 0.4, 0.0], [0.1, 0.2, 0.3, 0.4]), table([0.1, 0.0, 0.2, 0.7], [0.4, 0.3, 0.2, 0.1])
        result = student.jensen_shannon(p.to(elsewhere), q.to(elsewhere))
        assert_device(result, elsewhere)
        assert_close(result, scipy_jensen_shannon(p, q))

    @check(hint="Make a new tensor for the mixture.")
    def test_arguments_are_left_alone(self, student: Student, device: torch.device) -> None:
        """Both distributions are the same after the call as before."""
        p, q = table(0.25, 0.0, 0.75), table(0.5, 0.4, 0.1)
        result, p_after, q_after = student.run(jensen_shannon_and_arguments, p.clone().to(device), q.clone().to(device))
        assert_close(result, scipy_jensen_shannon(p, q))
        assert_close(p_after, p, rtol=0.0, atol=0.0)
        assert_close(q_after, q, rtol=0.0, atol=0.0)


# --- conditional_entropy and mutual_information ------------------------------------------------------------------


def given_x(joint: Tensor) -> Tensor:
    """H(Y | X) by the chain rule."""
    return scipy_entropy(joint.flatten(-2)) - scipy_entropy(joint.sum(-1))


def scipy_information(joint: Tensor) -> Tensor:
    """I(X; Y) as the divergence of the joint distribution from independence."""
    independent = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
    return scipy_entropy(joint.flatten(-2), independent.flatten(-2))


def joints(*shape: int, seed: int) -> Tensor:
    """Joint distributions over the last two axes."""
    return distributions(*shape[:-2], shape[-2] * shape[-1], seed=seed).unflatten(-1, shape[-2:])


@task("conditional_entropy")
class TestConditionalEntropy:
    @check(hint="X runs along the rows. Which marginal do you need for what is left of Y when X is known?", weight=2)
    def test_textbook_conditional_entropy(self, student: Student, device: torch.device) -> None:
        """The conditional entropy of the textbook's joint table is right."""
        # H(X | Y) is 11/8 bits, H(X, Y) 27/8, log2 gives 13/8
        assert_close(student.conditional_entropy(TEXTBOOK.to(device)), 13 / 8 * LN2)

    @check(hint="What looking removes: H(Y) without H(Y | X), in nats.")
    def test_textbook_information(self, student: Student, device: torch.device) -> None:
        """The mutual information of the textbook's joint table is right."""
        assert_close(student.mutual_information(TEXTBOOK.to(device)), 3 / 8 * LN2)

    @check(hint="The table need not be square: the outcomes of X are the last axis but one.", weight=2)
    def test_wide_and_tall_tables(self, student: Student, device: torch.device) -> None:
        """The conditional entropy is right for tables that are wide or tall."""
        # H(X | Y), mean over x without its weights, sum over the wrong axis
        for shape in ((2, 5), (4, 3)):
            joint = joints(*shape, seed=51)
            assert_close(student.conditional_entropy(joint.to(device)), given_x(joint))

    @check(hint="Compare the joint distribution with the product of the marginals, weighed by the joint one.", weight=2)
    def test_information_from_counts(self, student: Student, device: torch.device) -> None:
        """The mutual information of a table of relative frequencies is right."""
        # the product of marginals as weights (reversed), sign lost, log2
        counts = np.array([[11, 2, 5, 1], [3, 9, 1, 4], [6, 2, 13, 7]])
        joint = torch.as_tensor(counts / counts.sum())
        expected = float(mutual_info_score(None, None, contingency=counts))
        assert_close(student.mutual_information(joint.to(device)), expected)

    @check(hint="Any number of axes may stand in front of the table.")
    def test_batches(self, student: Student, device: torch.device) -> None:
        """Each joint table in a batch has its own conditional entropy and mutual information."""
        for shape in ((5, 3, 4), (2, 3, 4, 2)):
            joint = joints(*shape, seed=52)
            assert_close(student.conditional_entropy(joint.to(device)), given_x(joint))
            assert_close(student.mutual_information(joint.to(device)), scipy_information(joint))

    @check(hint="What do your functions compute in a row, or a column, that never happens?", weight=2)
    def test_zero_row_and_column(self, student: Student, device: torch.device) -> None:
        """Rows, columns and cells of probability zero change neither result."""
        # p(y | x) = 0/0, 0 log 0
        joint = table([0.3, 0.0, 0.1, 0.05], [0.0, 0.0, 0.0, 0.0], [0.05, 0.0, 0.0, 0.5])
        small = joint[[0, 2]][:, [0, 2, 3]]
        assert_close(student.conditional_entropy(joint.to(device)), given_x(small))
        assert_close(student.mutual_information(joint.to(device)), scipy_information(small))

    @check(hint="If X determines Y, nothing is left of Y, and X tells all of it.")
    def test_function_of_x(self, student: Student, device: torch.device) -> None:
        """Where Y is a function of X, the information is all of H(Y); the other way round, doubt remains."""
        joint = table([0.4, 0.0], [0.25, 0.0], [0.0, 0.25], [0.0, 0.1])
        of_x, of_y = scipy_entropy(joint.sum(1)), scipy_entropy(joint.sum(0))
        assert_close(student.conditional_entropy(joint.to(device)), 0.0)
        assert_close(student.conditional_entropy(joint.T.contiguous().to(device)), of_x - of_y)
        assert_close(student.mutual_information(joint.to(device)), of_y)

    @check(hint="If X tells nothing about Y, all of H(Y) is left, and no information.")
    def test_independence(self, student: Student, device: torch.device) -> None:
        """Independent variables share nothing, and knowing one leaves the other as it was."""
        x, y = table(0.2, 0.8), table(0.1, 0.3, 0.6)
        joint = (x[:, None] * y).to(device)
        assert_close(student.conditional_entropy(joint), scipy_entropy(y))
        assert_close(student.mutual_information(joint), 0.0)

    @check(hint="The information in a fine table of two correlated normal variables has a closed form.")
    def test_correlated_normals(self, student: Student, device: torch.device) -> None:
        """Two correlated normal variables, cut into bins, share what the closed form says."""
        # -ln(1 - .64)/2. Cut at 7 standard deviations; smooth, so bins of .1 and .125 leave an error below 1e-9.
        x = torch.linspace(-7, 7, 141, dtype=torch.float64)[:, None]
        y = torch.linspace(-7, 7, 113, dtype=torch.float64)
        density = torch.exp(-(x**2 - 1.6 * x * y + y**2) / (2 * 0.36))
        assert_close(student.mutual_information((density / density.sum()).to(device)), 0.5108256237659907)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """Both results are right and have the dtype of the table."""
        joint = joints(2, 3, 5, seed=53)
        for function, expected in (
            (student.conditional_entropy, given_x(joint)),
            (student.mutual_information, scipy_information(joint)),
        ):
            result = function(joint.to(device, dtype))
            assert_dtype(result, dtype)
            assert_close(result, expected.to(dtype))

    @check(hint=ON_ITS_DEVICE)
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """A table on another device than the CPU gives both results right, on that device."""
        joint = TEXTBOOK
        for function, expected in (
            (student.conditional_entropy, given_x(joint)),
            (student.mutual_information, scipy_information(joint)),
        ):
            result = function(joint.to(elsewhere))
            assert_device(result, elsewhere)
            assert_close(result, expected)
