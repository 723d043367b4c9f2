"""Hidden checks of the assignment on variational autoencoders.

Expected values come from closed forms, scipy, scikit-learn and torch.distributions, not from the reference. Where
student code draws, the noise is recovered from what it returned: a right answer may draw in any way. Networks get their
weights from here, and what they should answer is computed here.
"""

import itertools
import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.metrics.pairwise import rbf_kernel
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence

from autograder.checks import (
    CheckFailure,
    Remote,
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

# The first optimizer of a process imports the compiler, which takes two seconds: here, once, not in every replay.
torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1)

ON_DEVICE = "Make new tensors on the device of the arguments: zeros_like(x), linspace(..., device=x.device)."


def table(*rows: object) -> Tensor:
    """A float64 tensor."""
    return torch.tensor(rows, dtype=torch.float64)


def normals(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    """Reproducible float64 numbers."""
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def coins(*shape: int, seed: int) -> Tensor:
    """Reproducible float64 bits."""
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.4).double()


def seeded(seed: int, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def oracle_kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """Divergence from N(0, I) for each row."""
    q = Normal(mu, (logvar / 2).exp())
    return kl_divergence(q, Normal(torch.zeros_like(mu), torch.ones_like(mu))).sum(-1)


def assert_standard_normal(noise: Tensor) -> None:
    """Demand that columns of noise are standard normal and uncorrelated.

    A Kolmogorov-Smirnov test for each of k columns and one correlation for each pair, each failing with probability
    1e-11 (p-value; 6.8 standard deviations of 1/sqrt(n)): at most 1e-10 in all for up to four columns.
    """
    noise = noise.detach().cpu().double()
    if not bool(noise.isfinite().all()):
        raise CheckFailure("the codes are not finite, or not where their distribution lies")
    n, columns = noise.shape
    for column in range(columns):
        if scipy.stats.kstest(noise[:, column].numpy(), "norm").pvalue < 1e-11:
            raise CheckFailure("the codes do not have the distribution that was asked for")
    for first, second in itertools.combinations(range(columns), 2):
        if abs(np.corrcoef(noise[:, first].numpy(), noise[:, second].numpy())[0, 1]) > 6.8 / math.sqrt(n):
            raise CheckFailure("entries of a code that should be independent are not")


def assert_different(first: Any, second: Any) -> None:
    """Demand two tensors of one shape that differ in every entry, as two independent draws do."""
    if not (isinstance(first, Tensor) and isinstance(second, Tensor) and first.shape == second.shape):
        raise CheckFailure("two tensors of one shape were expected")
    if bool((first == second).any()):
        raise CheckFailure("two draws that should be independent agree")


# --- reparameterize ----------------------------------------------------------------------------------------------


@probe
def gradients_of_codes(ns, mu, logvar, factors, generator):
    mu, logvar = mu.clone().requires_grad_(), logvar.clone().requires_grad_()
    z = ns.reparameterize(mu, logvar, generator)
    (factors * z).sum().backward()
    return z, mu.grad, logvar.grad


@probe
def two_draws(ns, mu, logvar, generator):
    return ns.reparameterize(mu, logvar, generator), ns.reparameterize(mu, logvar, generator)


@probe
def codes_and_arguments(ns, mu, logvar, generator):
    return ns.reparameterize(mu, logvar, generator), mu, logvar


@task("reparameterize")
class TestReparameterize:
    @check(hint="logvar is the logarithm of the variance. What is the standard deviation?", weight=3)
    def test_distribution(self, student: Student, device: torch.device) -> None:
        """Every code is normal, with its own mean and its own standard deviation."""
        # exp(logvar) for sigma: noise wider by 1.65 and 0.37; mu left out; sigma left out; uniform noise; one noise for
        # the batch (all rows equal); one for each image (columns agree)
        mu = table(-2.0, 0.5, 4.0).expand(3000, 3)
        logvar = table(1.0, -2.0, 3.0).expand(3000, 3)
        z = student.reparameterize(mu.to(device), logvar.to(device), seeded(1, device))
        assert_shape(z, (3000, 3))
        assert_standard_normal((z.cpu() - mu) / (logvar / 2).exp())

    @check(hint="With the same generator state, only mu and sigma decide where a code lies.", weight=2)
    def test_same_noise(self, student: Student, device: torch.device) -> None:
        """The same state of the generator, with other parameters, gives codes made of the same noise."""
        # sigma squared, sigma clamped, noise that depends on the parameters: the standardised codes differ
        mu, logvar = normals(4, 3, seed=11), normals(4, 3, seed=12)
        first = student.reparameterize(mu.to(device), logvar.to(device), seeded(2, device))
        other = student.reparameterize((2 - mu).to(device), (1 - 2 * logvar).to(device), seeded(2, device))
        assert_shape(first, (4, 3))
        assert_shape(other, (4, 3))
        noise = (first.cpu() - mu) / (logvar / 2).exp()
        assert_close((other.cpu() - (2 - mu)) / ((1 - 2 * logvar) / 2).exp(), noise)

    @check(hint="If the variance is practically zero, what is left?")
    def test_certain_codes(self, student: Student, device: torch.device) -> None:
        """With a variance that is practically zero the codes are the means."""
        mu = normals(5, 2, seed=13, scale=3.0)
        z = student.reparameterize(mu.to(device), torch.full((5, 2), -90.0).double().to(device), seeded(3, device))
        assert_close(z, mu)

    @check(hint="The gradient must reach mu and logvar along the code: no detach, no no_grad, no .data.", weight=2)
    def test_gradient(self, student: Student, device: torch.device) -> None:
        """The codes are differentiable: 1 in mu, and half the distance from the mean in logvar."""
        # torch.normal, sample() for rsample(), detach: no gradient; logvar for log sigma: twice the gradient
        mu, logvar, factors = normals(4, 3, seed=14), normals(4, 3, seed=15), normals(4, 3, seed=16)
        z, in_mu, in_logvar = student.run(
            gradients_of_codes, mu.to(device), logvar.to(device), factors.to(device), seeded(4, device)
        )
        assert_shape(z, (4, 3))
        assert_close(in_mu, factors)
        assert_close(in_logvar, factors * (z.cpu() - mu) / 2)
        assert_different(z.cpu(), mu)

    @check(hint="Draw with the generator that was given: not with torch's own, and do not seed it.")
    def test_generator(self, student: Student, device: torch.device) -> None:
        """The generator alone decides: its state, repeated, repeats the codes, and drawing moves it on."""
        # the global generator: equal states differ; a seed inside: all draws agree
        mu, logvar = normals(3, 4, seed=17), normals(3, 4, seed=18)
        arguments = (mu.to(device), logvar.to(device))
        first, second = student.run(two_draws, *arguments, seeded(5, device))
        again, _ = student.run(two_draws, *arguments, seeded(5, device))
        other, _ = student.run(two_draws, *arguments, seeded(6, device))
        assert_close(again, first, rtol=0.0, atol=0.0)
        assert_different(first, second)
        assert_different(first, other)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """The codes have the dtype of the means, and are right in it."""
        mu, logvar = table([0.5, -1.0, 2.0], [1.5, 0.0, -2.5]).to(dtype), torch.full((2, 3), -80.0, dtype=dtype)
        z = student.reparameterize(mu.to(device), logvar.to(device), seeded(7, device))
        assert_dtype(z, dtype)
        assert_close(z, mu)
        noise = student.reparameterize(
            torch.zeros_like(mu).to(device), torch.zeros_like(mu).to(device), seeded(7, device)
        )
        assert_dtype(noise, dtype)
        if dtype == torch.float64 and bool((noise.float().double() == noise).all()):
            raise CheckFailure("the noise has the precision of float32 only")

    @pytest.mark.parametrize("shape", [(6,), (2, 3, 4), (0, 3), (1, 1)])
    def test_shapes(self, student: Student, device: torch.device, shape: tuple[int, ...]) -> None:
        """The codes have the shape of the means, whatever it is, and belong to them entry by entry."""
        mu = normals(*shape, seed=19)
        z = student.reparameterize(mu.to(device), torch.full_like(mu, -90.0).to(device), seeded(8, device))
        assert_close(z, mu)

    @check(hint="Work on new tensors: no operation in place on the arguments.")
    def test_arguments_are_left_alone(self, student: Student, device: torch.device) -> None:
        """Means and logarithms of variances are the same after the call as before."""
        mu, logvar = normals(3, 2, seed=20), normals(3, 2, seed=21)
        z, mu_after, logvar_after = student.run(
            codes_and_arguments, mu.clone().to(device), logvar.clone().to(device), seeded(9, device)
        )
        assert_shape(z, (3, 2))
        assert_different(z.cpu(), mu)
        assert_close(mu_after, mu, rtol=0.0, atol=0.0)
        assert_close(logvar_after, logvar, rtol=0.0, atol=0.0)

    @check(hint=ON_DEVICE)
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """The codes are drawn on the device of the means, wherever that is."""
        mu, logvar = table(-2.0, 3.0).expand(1000, 2).clone(), table(1.0, -2.0).expand(1000, 2).clone()
        z = student.reparameterize(mu.to(elsewhere), logvar.to(elsewhere), seeded(10, elsewhere))
        assert_device(z, elsewhere)
        assert_shape(z, (1000, 2))
        assert_standard_normal((z.cpu() - mu) / (logvar / 2).exp())


# --- kl_to_standard_normal ---------------------------------------------------------------------------------------


@probe
def gradients_of_kl(ns, mu, logvar, factors):
    mu, logvar = mu.clone().requires_grad_(), logvar.clone().requires_grad_()
    (factors * ns.kl_to_standard_normal(mu, logvar)).sum().backward()
    return mu.grad, logvar.grad


@probe
def kl_and_arguments(ns, mu, logvar):
    return ns.kl_to_standard_normal(mu, logvar), mu, logvar


@task("kl_to_standard_normal")
class TestKlToStandardNormal:
    @check(hint="Each dimension adds its share: sum over the latent dimensions, keep the batch.", weight=2)
    def test_unit_means(self, student: Student, device: torch.device) -> None:
        """A mean of one costs half a nat in each of three dimensions."""
        # mean over dimensions .5, sum over everything 6, factor lost 3, sign lost -1.5
        mu = torch.ones(4, 3, dtype=torch.float64)
        assert_close(student.kl_to_standard_normal(mu.to(device), torch.zeros_like(mu).to(device)), table(*[1.5] * 4))

    @check(hint="Which distribution are the codes drawn from? And what is logvar the logarithm of?", weight=2)
    def test_variance_of_four(self, student: Student, device: torch.device) -> None:
        """A variance of four, and a variance of a quarter, have the price that the textbook says."""
        # the other direction .318 and .807; logvar for log sigma 6.114 and .917
        logvar = table([math.log(4)], [-math.log(4)])
        kl = student.kl_to_standard_normal(torch.zeros(2, 1).double().to(device), logvar.to(device))
        assert_close(kl, table(0.8068528194400547, 0.3181471805599453))

    @check(hint="One divergence for each row. Check each of the four terms of the formula.", weight=2)
    def test_random_beliefs(self, student: Student, device: torch.device) -> None:
        """The divergence of five beliefs with three dimensions is right."""
        # a lost -1, a lost logvar, mu not squared, sum over the batch
        mu, logvar = normals(5, 3, seed=31, scale=1.5), normals(5, 3, seed=32, scale=1.5)
        assert_close(student.kl_to_standard_normal(mu.to(device), logvar.to(device)), oracle_kl(mu, logvar))

    @check(hint="A very precise code is expensive, but not infinitely so.")
    def test_extremes(self, student: Student, device: torch.device) -> None:
        """Very narrow, very wide and far-off beliefs have their large and finite price."""
        # logvar clamped or a small number added to the variance
        mu = table([0.0, 0.0], [0.0, 0.0], [-1e4, 3.0])
        logvar = table([-60.0, -45.0], [12.0, 0.0], [0.0, -2.0])
        expected = 0.5 * table(103.0, math.exp(12.0) - 13.0, 1e8 + 9.0 + math.exp(-2.0) + 1.0)
        assert_close(student.kl_to_standard_normal(mu.to(device), logvar.to(device)), expected)

    @check(hint="The latent dimensions are the last axis, however many there are.")
    def test_other_shapes(self, student: Student, device: torch.device) -> None:
        """A single belief, beliefs with two batch axes, one dimension, and no belief at all are right, too."""
        for shape in ((3,), (2, 3, 4), (5, 1), (0, 3)):
            mu, logvar = normals(*shape, seed=33), normals(*shape, seed=34)
            kl = student.kl_to_standard_normal(mu.to(device), logvar.to(device))
            assert_close(kl, oracle_kl(mu, logvar))

    @check(hint="A loss must stay inside torch: no numpy, no .item(), no .detach().")
    def test_gradient(self, student: Student, device: torch.device) -> None:
        """The divergence is differentiable: its slope is mu, and half of exp(logvar) - 1."""
        mu, logvar, factors = normals(4, 3, seed=35), normals(4, 3, seed=36), normals(4, seed=37)
        in_mu, in_logvar = student.run(gradients_of_kl, mu.to(device), logvar.to(device), factors.to(device))
        assert_close(in_mu, factors[:, None] * mu)
        assert_close(in_logvar, factors[:, None] * (logvar.exp() - 1) / 2)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """The divergences are right and have the dtype of the means."""
        mu, logvar = normals(4, 5, seed=38), normals(4, 5, seed=39)
        kl = student.kl_to_standard_normal(mu.to(device, dtype), logvar.to(device, dtype))
        assert_dtype(kl, dtype)
        assert_close(kl, oracle_kl(mu, logvar).to(dtype))

    @check(hint="Work on new tensors: no operation in place on the arguments.")
    def test_arguments_are_left_alone(self, student: Student, device: torch.device) -> None:
        """Means and logarithms of variances are the same after the call as before."""
        mu, logvar = normals(2, 3, seed=40), normals(2, 3, seed=41)
        kl, mu_after, logvar_after = student.run(kl_and_arguments, mu.clone().to(device), logvar.clone().to(device))
        assert_close(kl, oracle_kl(mu, logvar))
        assert_close(mu_after, mu, rtol=0.0, atol=0.0)
        assert_close(logvar_after, logvar, rtol=0.0, atol=0.0)

    @check(hint=ON_DEVICE)
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """The divergences are right and on the device of the means, wherever that is."""
        mu, logvar = normals(4, 3, seed=42), normals(4, 3, seed=43)
        kl = student.kl_to_standard_normal(mu.to(elsewhere), logvar.to(elsewhere))
        assert_device(kl, elsewhere)
        assert_close(kl, oracle_kl(mu, logvar))


# --- bernoulli_log_likelihood and gaussian_log_likelihood --------------------------------------------------------


@probe
def gradient_of_bernoulli(ns, x, logits, factors):
    logits = logits.clone().requires_grad_()
    (factors * ns.bernoulli_log_likelihood(x, logits)).sum().backward()
    return logits.grad


@probe
def gradient_of_gaussian(ns, x, mean, sigma, factors):
    mean = mean.clone().requires_grad_()
    (factors * ns.gaussian_log_likelihood(x, mean, sigma)).sum().backward()
    return mean.grad


@probe
def likelihoods_and_arguments(ns, x, parameters, sigma):
    return ns.bernoulli_log_likelihood(x, parameters), ns.gaussian_log_likelihood(x, parameters, sigma), x, parameters


def oracle_bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    return Bernoulli(logits=logits).log_prob(x).sum(-1)


def oracle_gaussian(x: Tensor, mean: Tensor, sigma: float) -> Tensor:
    return torch.as_tensor(scipy.stats.norm.logpdf(x.numpy(), mean.numpy(), sigma)).sum(-1)


@task("reconstruction_log_likelihood")
class TestReconstructionLogLikelihood:
    @check(
        hint="Sum over the pixels of an image, and keep the images apart. The decoder's output is a logit.", weight=2
    )
    def test_bits(self, student: Student, device: torch.device) -> None:
        """Four images of seven bits have the right log-probabilities."""
        # mean over pixels a seventh; sum over the batch; sign; sigmoid twice; bits swapped; logits taken as p
        x, logits = coins(4, 7, seed=51), normals(4, 7, seed=52, scale=2.0)
        assert_close(student.bernoulli_log_likelihood(x.to(device), logits.to(device)), oracle_bernoulli(x, logits))

    @check(hint="Log-odds of ln 3 mean 3 : 1.")
    def test_three_to_one(self, student: Student, device: torch.device) -> None:
        """A pixel at odds of three to one is 1 with probability 3/4."""
        x, logits = table([1.0], [0.0]), table([math.log(3)], [math.log(3)])
        found = student.bernoulli_log_likelihood(x.to(device), logits.to(device))
        assert_close(found, table(math.log(3 / 4), math.log(1 / 4)))

    @check(hint="A probability of every image, added up over all images, is one.")
    def test_probabilities_sum_to_one(self, student: Student, device: torch.device) -> None:
        """The probabilities of all images of four bits add up to one."""
        x = table(*itertools.product([0.0, 1.0], repeat=4))
        logits = table(0.5, -1.5, 2.5, 0.0).expand(16, 4)
        found = student.bernoulli_log_likelihood(x.to(device), logits.to(device))
        assert_shape(found, (16,))
        assert_close(found.cpu().exp().sum(), 1.0)
        assert_close(found, oracle_bernoulli(x, logits))

    @check(hint="Do not compute the probability first: it is rounded to 0 or 1, or clamped.", weight=2)
    def test_sure_decoder(self, student: Student, device: torch.device) -> None:
        """A decoder that is sure of itself gets what it deserves, right or wrong, and never an infinity or NaN."""
        # ln p gives -inf or NaN, binary_cross_entropy is cut off at -100, p clamped at 1e-7 gives -16
        x = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
        logits = torch.tensor([[1000.0, -1000.0, 300.0], [1000.0, -5.0, 40.0], [-250.0, 0.0, 30.0], [-1e4, 1e4, -1e4]])
        tiny = math.log1p(math.exp(-5.0))
        expected = torch.tensor([0.0, -1000.0 - tiny, -280.0 - math.log(2), -20_000.0])
        assert_close(student.bernoulli_log_likelihood(x.to(device), logits.to(device)), expected)

    @check(hint="A loss must stay inside torch, and be smooth where the decoder is sure.")
    def test_gradient_of_bits(self, student: Student, device: torch.device) -> None:
        """The log-probability is differentiable: its slope in a logit is the bit minus its probability."""
        x, logits = coins(3, 4, seed=53), normals(3, 4, seed=54, scale=2.0)
        logits[0, 0], logits[1, 2], factors = 800.0, -800.0, table(1.0, -2.0, 0.5)
        found = student.run(gradient_of_bernoulli, x.to(device), logits.to(device), factors.to(device))
        assert_close(found, factors[:, None] * (x - torch.sigmoid(logits)))

    @check(
        hint="Sum the normal log-densities of the pixels, each with its constant. sigma is not the variance.", weight=2
    )
    def test_real_pixels(self, student: Student, device: torch.device) -> None:
        """Four images of seven real pixels have the right log-densities."""
        # constant lost, ln sigma lost, sigma for its square, 1/2 lost, mean over pixels, sign: all differ
        x, mean = normals(4, 7, seed=55), normals(4, 7, seed=56)
        for sigma in (0.3, 1.0, 2.5):
            found = student.gaussian_log_likelihood(x.to(device), mean.to(device), sigma)
            assert_close(found, oracle_gaussian(x, mean, sigma))

    @check(hint="Each pixel brings its own constant: -ln(sigma) - ln(2 pi)/2.")
    def test_perfect_means(self, student: Student, device: torch.device) -> None:
        """Where every pixel is exactly as predicted, only the constant is left, once for each pixel."""
        # one constant for the whole image 1.38
        x = normals(2, 5, seed=57)
        found = student.gaussian_log_likelihood(x.to(device), x.clone().to(device), 0.1)
        assert_close(found, table(*[5 * (math.log(10) - 0.9189385332046727)] * 2))

    @check(hint="A density integrates to one, for any sigma.")
    def test_density_integrates_to_one(self, student: Student, device: torch.device) -> None:
        """The density of a single pixel integrates to one."""
        # Trapezoidal rule on a smooth density that has vanished at both ends: exact to rounding
        for sigma in (0.2, 3.0):
            x = torch.linspace(-10 * sigma, 10 * sigma, 401, dtype=torch.float64)[:, None]
            mean = torch.full_like(x, 0.4 * sigma)
            found = student.gaussian_log_likelihood(x.to(device), mean.to(device), sigma)
            assert_shape(found, (401,))
            assert_close(torch.trapezoid(found.cpu().exp(), x[:, 0]), 1.0)

    @check(hint="A loss must stay inside torch.")
    def test_gradient_of_real_pixels(self, student: Student, device: torch.device) -> None:
        """The log-density is differentiable: its slope in the mean is the error over the variance."""
        x, mean, factors = normals(3, 4, seed=58), normals(3, 4, seed=59), table(1.0, -2.0, 0.5)
        found = student.run(gradient_of_gaussian, x.to(device), mean.to(device), 0.4, factors.to(device))
        assert_close(found, factors[:, None] * (x - mean) / 0.16)

    @check(hint="The pixels are the last axis, however many there are.")
    def test_other_shapes(self, student: Student, device: torch.device) -> None:
        """A single image, images with two batch axes, images of one pixel, and no image at all are right, too."""
        for shape in ((6,), (2, 3, 5), (4, 1), (0, 3)):
            x, parameters = coins(*shape, seed=60), normals(*shape, seed=61)
            found = student.bernoulli_log_likelihood(x.to(device), parameters.to(device))
            assert_close(found, oracle_bernoulli(x, parameters))
            found = student.gaussian_log_likelihood(x.to(device), parameters.to(device), 0.7)
            assert_close(found, oracle_gaussian(x, parameters, 0.7))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """Both log-likelihoods are right and have the dtype of the images."""
        x, parameters = coins(3, 4, seed=62), normals(3, 4, seed=63)
        arguments = (x.to(device, dtype), parameters.to(device, dtype))
        found = student.bernoulli_log_likelihood(*arguments)
        assert_dtype(found, dtype)
        assert_close(found, oracle_bernoulli(x, parameters).to(dtype))
        found = student.gaussian_log_likelihood(*arguments, 1.7)
        assert_dtype(found, dtype)
        assert_close(found, oracle_gaussian(x, parameters, 1.7).to(dtype))

    @check(hint="Raise ValueError where the shapes differ, even where torch would broadcast, and only there.")
    def test_refuses_other_shapes(self, student: Student, device: torch.device) -> None:
        """Images and parameters of different shapes are refused, those of one shape are not."""
        # (4, 3) against (3,) or (4, 1) broadcasts without a word
        x, parameters = coins(4, 3, seed=64), normals(4, 3, seed=65)
        found = student.bernoulli_log_likelihood(x.to(device), parameters.to(device))
        assert_close(found, oracle_bernoulli(x, parameters))
        found = student.gaussian_log_likelihood(x.to(device), parameters.to(device), 2.0)
        assert_close(found, oracle_gaussian(x, parameters, 2.0))
        for other in (parameters[0], parameters[:, :1], parameters[:1]):
            with student_raises(ValueError):
                student.bernoulli_log_likelihood(x.to(device), other.to(device))
            with student_raises(ValueError):
                student.gaussian_log_likelihood(x.to(device), other.to(device), 2.0)

    @check(hint="Raise ValueError where sigma is zero or negative, and only there.")
    def test_refuses_what_is_no_standard_deviation(self, student: Student, device: torch.device) -> None:
        """A standard deviation of zero or below is refused, a small one is not."""
        x, mean = normals(2, 3, seed=66), normals(2, 3, seed=67)
        found = student.gaussian_log_likelihood(x.to(device), mean.to(device), 0.01)
        assert_close(found, oracle_gaussian(x, mean, 0.01))
        for sigma in (0.0, -0.5):
            with student_raises(ValueError):
                student.gaussian_log_likelihood(x.to(device), mean.to(device), sigma)

    @check(hint="Work on new tensors: no operation in place on the arguments.")
    def test_arguments_are_left_alone(self, student: Student, device: torch.device) -> None:
        """Images and parameters are the same after the calls as before."""
        x, parameters = coins(2, 3, seed=68), normals(2, 3, seed=69)
        of_bits, of_reals, x_after, parameters_after = student.run(
            likelihoods_and_arguments, x.clone().to(device), parameters.clone().to(device), 0.5
        )
        assert_close(of_bits, oracle_bernoulli(x, parameters))
        assert_close(of_reals, oracle_gaussian(x, parameters, 0.5))
        assert_close(x_after, x, rtol=0.0, atol=0.0)
        assert_close(parameters_after, parameters, rtol=0.0, atol=0.0)

    @check(hint=ON_DEVICE)
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """Both log-likelihoods are right and on the device of the images, wherever that is."""
        x, parameters = coins(3, 4, seed=45), normals(3, 4, seed=46)
        found = student.bernoulli_log_likelihood(x.to(elsewhere), parameters.to(elsewhere))
        assert_device(found, elsewhere)
        assert_close(found, oracle_bernoulli(x, parameters))
        found = student.gaussian_log_likelihood(x.to(elsewhere), parameters.to(elsewhere), 0.8)
        assert_device(found, elsewhere)
        assert_close(found, oracle_gaussian(x, parameters, 0.8))


# --- elbo --------------------------------------------------------------------------------------------------------


@probe
def linear_gaussian(weights, scale, x, z):
    """ln N(x; W z, scale^2 I)."""
    squares = ((x - z @ weights.T) / scale).square().sum(-1)
    return -0.5 * squares - x.shape[-1] * (math.log(scale) + 0.5 * math.log(2 * math.pi))


@probe
def gradients_of_elbo(ns, x, mu, logvar, noise, log_likelihood, beta):
    mu, logvar = mu.clone().requires_grad_(), logvar.clone().requires_grad_()
    found = []
    for term in range(3):
        z = mu + (logvar / 2).exp() * noise
        terms = ns.elbo(x, z, mu, logvar, log_likelihood, beta)
        found.append(torch.autograd.grad(terms[term], (mu, logvar)))
    return found


def posterior(weights: Tensor, scale: float, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and logarithm of the variance of p(z | x), where W^T W is diagonal."""
    precision = 1 + weights.square().sum(0) / scale**2
    return x @ weights / scale**2 / precision, (-precision.log()).expand(len(x), -1)


def log_marginal(weights: Tensor, scale: float, x: Tensor) -> Tensor:
    """ln p(x) of probabilistic principal component analysis."""
    pixels = len(weights)
    covariance = weights.numpy() @ weights.numpy().T + scale**2 * np.eye(pixels)
    return torch.as_tensor(scipy.stats.multivariate_normal.logpdf(x.numpy(), np.zeros(pixels), covariance))


def three_terms(result: Any) -> tuple[Any, Any, Any]:
    """What `elbo` or `train_step` returned, or the failure that it is not three values."""
    if not isinstance(result, tuple | list) or len(result) != 3:
        raise CheckFailure("three values were expected: objective, reconstruction, divergence")
    return result[0], result[1], result[2]


ONE = table([0.8], [-1.1], [0.4], [0.3])  # four pixels, one latent dimension
TWO = table([1.0, 0.5], [1.0, -0.5], [0.5, 0.4], [-0.5, 0.4])  # columns at right angles


@task("elbo", needs=("kl_to_standard_normal",))
class TestElbo:
    @check(hint="The mean of the log-likelihoods that you were given the function for, at the codes z.", weight=2)
    def test_reconstruction(self, student: Student, device: torch.device) -> None:
        """The reconstruction term is the average log-likelihood of the images given their codes."""
        # mu for z; a sum over the batch; divided by pixels; sign
        x, z, mu, logvar = (
            normals(3, 4, seed=71),
            normals(3, 2, seed=72),
            normals(3, 2, seed=73),
            normals(3, 2, seed=74),
        )
        arguments = [value.to(device) for value in (x, z, mu, logvar)]
        result = student.elbo(*arguments, partial(linear_gaussian, TWO.to(device), 0.6))
        expected = oracle_gaussian(x, z @ TWO.T, 0.6).mean()
        assert_close(three_terms(result)[1], expected)

    @check(hint="In closed form, from mu and logvar, averaged over the images, and without beta.", weight=2)
    def test_divergence(self, student: Student, device: torch.device) -> None:
        """The divergence is the average over the beliefs, whatever codes were drawn and whatever beta is."""
        # ln q(z) - ln p(z) at the drawn codes; a sum over the batch; a mean over dimensions; beta times it
        x, z, mu, logvar = (
            normals(3, 4, seed=75),
            normals(3, 2, seed=76),
            normals(3, 2, seed=77),
            normals(3, 2, seed=78),
        )
        arguments = [value.to(device) for value in (x, z, mu, logvar)]
        for beta in (1.0, 4.0):
            result = student.elbo(*arguments, partial(linear_gaussian, TWO.to(device), 0.6), beta)
            assert_close(three_terms(result)[2], oracle_kl(mu, logvar).mean())

    @check(
        hint="Reconstruction minus beta times divergence: beta stands before the divergence, and may be zero.", weight=2
    )
    def test_beta(self, student: Student, device: torch.device) -> None:
        """The objective weighs the divergence, and only the divergence, with beta; beta is one if not given."""
        # beta on the reconstruction, on both, ignored, divided by, added; sign of the divergence
        x, z, mu, logvar = (
            normals(5, 4, seed=79),
            normals(5, 2, seed=80),
            normals(5, 2, seed=81),
            normals(5, 2, seed=82),
        )
        arguments = [value.to(device) for value in (x, z, mu, logvar)]
        reconstruction, divergence = oracle_gaussian(x, z @ TWO.T, 0.6).mean(), oracle_kl(mu, logvar).mean()
        log_likelihood = partial(linear_gaussian, TWO.to(device), 0.6)
        result = student.elbo(*arguments, log_likelihood)
        assert_close(three_terms(result)[0], reconstruction - divergence)
        for beta in (0.0, 0.25, 3.0):
            result = student.elbo(*arguments, log_likelihood, beta=beta)
            assert_close(three_terms(result)[0], reconstruction - beta * divergence)

    @check(hint="With the true posterior the bound is tight: averaged over mean plus and minus one deviation, exactly.")
    def test_tight_at_the_posterior(self, student: Student, device: torch.device) -> None:
        """With the true posterior of a linear decoder, the expectation of the estimate is ln p(x)."""
        # ln p(x | z) is quadratic in z, and W^T W diagonal, so the two codes mean +- sigma give the exact expectation
        for weights, scale in ((ONE, 0.7), (TWO, 0.5)):
            x = normals(3, 4, seed=83)
            mu, logvar = posterior(weights, scale, x)
            found = []
            for sign in (1.0, -1.0):
                z = mu + sign * (logvar / 2).exp()
                arguments = [value.to(device) for value in (x, z, mu, logvar)]
                result = student.elbo(*arguments, partial(linear_gaussian, weights.to(device), scale))
                assert_shape(three_terms(result)[0], ())
                found.append(torch.as_tensor(three_terms(result)[0]).cpu())
            assert_close((found[0] + found[1]) / 2, log_marginal(weights, scale, x).mean(), rtol=0.0, atol=1e-11)

    @check(hint="The gap between ln p(x) and the bound is the divergence of the belief from the true posterior.")
    def test_gap(self, student: Student, device: torch.device) -> None:
        """With another belief the expectation falls short of ln p(x) by its divergence from the posterior."""
        x, scale = normals(3, 4, seed=84), 0.7
        true_mu, true_logvar = posterior(ONE, scale, x)
        mu, logvar = true_mu + table([0.3], [-0.2], [0.5]), true_logvar + table([0.4], [-1.0], [0.7])
        gap = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(true_mu, (true_logvar / 2).exp())).sum(-1).mean()
        found = []
        for sign in (1.0, -1.0):
            z = mu + sign * (logvar / 2).exp()
            arguments = [value.to(device) for value in (x, z, mu, logvar)]
            result = student.elbo(*arguments, partial(linear_gaussian, ONE.to(device), scale))
            assert_shape(three_terms(result)[0], ())
            found.append(torch.as_tensor(three_terms(result)[0]).cpu())
        assert_close((found[0] + found[1]) / 2, log_marginal(ONE, scale, x).mean() - gap, rtol=0.0, atol=1e-11)

    @check(hint="All three terms must stay inside torch: no .item(), no .detach(), no no_grad.", weight=2)
    def test_gradient(self, student: Student, device: torch.device) -> None:
        """All three terms are differentiable, through the codes as well as directly."""
        x, mu, logvar, noise = (normals(3, n, seed=seed) for n, seed in ((4, 85), (2, 86), (2, 87), (2, 88)))
        found = student.run(
            gradients_of_elbo,
            *(value.to(device) for value in (x, mu, logvar, noise)),
            partial(linear_gaussian, TWO.to(device), 0.6),
            2.5,
        )
        sigma = (logvar / 2).exp()
        in_code = (x - (mu + sigma * noise) @ TWO.T) @ TWO / 0.36 / 3  # slope of the average log-likelihood in z
        of_reconstruction = (in_code, in_code * noise * sigma / 2)
        of_divergence = (mu / 3, (logvar.exp() - 1) / 2 / 3)
        of_objective = tuple(a - 2.5 * b for a, b in zip(of_reconstruction, of_divergence, strict=True))
        for gradients, expected in zip(found, (of_objective, of_reconstruction, of_divergence), strict=True):
            assert_close(gradients, expected)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_shape_and_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """The three terms are single right numbers in the dtype of the images, for a single image too."""
        x, z, mu, logvar = (
            normals(1, 4, seed=89),
            normals(1, 1, seed=90),
            normals(1, 1, seed=91),
            normals(1, 1, seed=92),
        )
        arguments = [value.to(device, dtype) for value in (x, z, mu, logvar)]
        result = student.elbo(*arguments, partial(linear_gaussian, ONE.to(device, dtype), 0.6), 2.0)
        reconstruction, divergence = oracle_gaussian(x, z @ ONE.T, 0.6).mean(), oracle_kl(mu, logvar).mean()
        expected = (reconstruction - 2 * divergence, reconstruction, divergence)
        for term, value in zip(three_terms(result), expected, strict=True):
            assert_shape(term, ())
            assert_dtype(term, dtype)
            assert_close(term, value.to(dtype))

    @check(hint="Raise ValueError for a negative beta, and only then.")
    def test_refuses_a_negative_beta(self, student: Student, device: torch.device) -> None:
        """A negative beta is refused; zero is not."""
        x, z, mu, logvar = (
            normals(2, 4, seed=93),
            normals(2, 1, seed=94),
            normals(2, 1, seed=95),
            normals(2, 1, seed=96),
        )
        arguments = [value.to(device) for value in (x, z, mu, logvar)]
        log_likelihood = partial(linear_gaussian, ONE.to(device), 1.2)
        result = student.elbo(*arguments, log_likelihood, 0.0)
        assert_close(three_terms(result)[0], oracle_gaussian(x, z @ ONE.T, 1.2).mean())
        for beta in (-0.5, -1e-3):
            with student_raises(ValueError):
                student.elbo(*arguments, log_likelihood, beta)

    @check(hint=ON_DEVICE)
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """The three terms are right and on the device of the images, wherever that is."""
        x, z, mu, logvar = (
            normals(3, 4, seed=97),
            normals(3, 1, seed=98),
            normals(3, 1, seed=99),
            normals(3, 1, seed=70),
        )
        arguments = [value.to(elsewhere) for value in (x, z, mu, logvar)]
        result = student.elbo(*arguments, partial(linear_gaussian, ONE.to(elsewhere), 0.9), 0.5)
        reconstruction, divergence = oracle_gaussian(x, z @ ONE.T, 0.9).mean(), oracle_kl(mu, logvar).mean()
        expected = (reconstruction - 0.5 * divergence, reconstruction, divergence)
        for term, value in zip(three_terms(result), expected, strict=True):
            assert_device(term, elsewhere)
            assert_close(term, value)


# --- VAE ---------------------------------------------------------------------------------------------------------


def layer_shapes(pixels: int, hidden: int, latent: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all parameters."""
    layers = {
        "enc_hidden": (hidden, pixels),
        "enc_mu": (latent, hidden),
        "enc_logvar": (latent, hidden),
        "dec_hidden": (hidden, latent),
        "dec_logits": (pixels, hidden),
    }
    return {
        f"{name}.{part}": shape if part == "weight" else shape[:1]
        for name, shape in layers.items()
        for part in ("weight", "bias")
    }


def random_weights(pixels: int, hidden: int, latent: int, seed: int) -> dict[str, Tensor]:
    shapes = layer_shapes(pixels, hidden, latent)
    return {name: normals(*shape, seed=seed + i, scale=0.8) for i, (name, shape) in enumerate(shapes.items())}


def transparent_weights(size: int) -> dict[str, Tensor]:
    """Weights of a VAE with `size` pixels, 2 `size` hidden units and `size` latent ones whose logits are the code.

    relu(z) - relu(-z) = z.
    """
    weights = random_weights(size, 2 * size, size, seed=500)
    eye = torch.eye(size, dtype=torch.float64)
    weights["dec_hidden.weight"], weights["dec_logits.weight"] = torch.cat([eye, -eye]), torch.cat([eye, -eye], dim=1)
    weights["dec_hidden.bias"], weights["dec_logits.bias"] = torch.zeros(2 * size).double(), torch.zeros(size).double()
    return weights


def linear(weights: dict[str, Tensor], layer: str, x: Tensor) -> Tensor:
    return x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]


def expected_belief(weights: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    hidden = linear(weights, "enc_hidden", x).clamp(min=0)
    return linear(weights, "enc_mu", hidden), linear(weights, "enc_logvar", hidden)


def expected_logits(weights: dict[str, Tensor], z: Tensor) -> Tensor:
    return linear(weights, "dec_logits", linear(weights, "dec_hidden", z).clamp(min=0))


def model_with(
    student: Student, device: torch.device, weights: dict[str, Tensor], dtype: torch.dtype = torch.float64
) -> Remote:
    """The student's VAE with given weights, in training mode as every new module is."""
    hidden, pixels = weights["enc_hidden.weight"].shape
    model = student.VAE(pixels, hidden, weights["dec_hidden.weight"].shape[1])
    model.to(device, dtype)
    model.load_state_dict({name: value.to(device, dtype) for name, value in weights.items()})
    return model


@probe
def gradients_of_network(ns, model, x, factors):
    model.eval()
    logits, mu, logvar = model(x)
    loss = (factors[0] * logits).sum() + (factors[1] * mu).sum() + (factors[2] * logvar).sum()
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@probe
def generated_twice(ns, model, n, generator):
    first = model.generate(n, generator)
    second = model.generate(n, generator)
    return first, second, first.requires_grad


@task("VAE")
class TestVAE:
    @check(hint="The names of the five layers, and which of their sides is which, are in the docstring.")
    def test_layers(self, student: Student) -> None:
        """The five layers have the names and sizes that were asked for, and start as linear layers do."""
        # all alike (zeros, ones) or wider than nn.Linear's uniform(-1/sqrt(inputs), 1/sqrt(inputs)): not a fresh layer
        state = student.VAE(n_pixels=7, n_hidden=5, n_latent=3).state_dict()
        expected = layer_shapes(7, 5, 3)
        if not isinstance(state, dict) or set(state) != set(expected):
            raise CheckFailure("the parameters have other names than the five layers in the docstring give them")
        inputs = {"enc_hidden": 7, "enc_mu": 5, "enc_logvar": 5, "dec_hidden": 3, "dec_logits": 5}
        for name, shape in expected.items():
            assert_shape(state[name], shape)
            value = state[name].flatten()
            bound = (1 + 1e-6) / math.sqrt(inputs[name.split(".")[0]])
            if bool((value.abs() > bound).any()) or bool((value == value[0]).all()):
                raise CheckFailure("a layer does not start as a fresh nn.Linear does")

    @check(hint="ReLU after the first layer, nothing after the second; first the means, then the logvars.", weight=2)
    def test_encode(self, student: Student, device: torch.device) -> None:
        """The encoder turns images into means and logarithms of variances, in this order."""
        # swapped; no ReLU, tanh; softplus or exp on logvar; ReLU on the means
        weights, x = random_weights(7, 5, 3, seed=100), coins(4, 7, seed=101)
        belief = model_with(student, device, weights).encode(x.to(device))
        assert_close(belief, expected_belief(weights, x))

    @check(hint="ReLU after the first layer, and no sigmoid at the end: logits are asked for.", weight=2)
    def test_decode(self, student: Student, device: torch.device) -> None:
        """The decoder turns codes into logits."""
        # sigmoid; no ReLU; ReLU at the end
        weights, z = random_weights(7, 5, 3, seed=110), normals(4, 3, seed=111)
        assert_close(model_with(student, device, weights).decode(z.to(device)), expected_logits(weights, z))

    @check(hint="In evaluation mode the code is the mean, and nothing is drawn.", weight=2)
    def test_evaluation_mode(self, student: Student, device: torch.device) -> None:
        """In evaluation mode an image is reconstructed from the mean of its belief, with or without a generator."""
        # sampling in evaluation mode; returning logvar before mu; decoding logvar
        weights, x = random_weights(7, 5, 3, seed=120), coins(4, 7, seed=121)
        model = model_with(student, device, weights)
        model.eval()
        mu, logvar = expected_belief(weights, x)
        expected = (expected_logits(weights, mu), mu, logvar)
        assert_close(model(x.to(device)), expected)
        assert_close(model(x.to(device), seeded(1, device)), expected)

    @check(
        hint="In training mode the code is drawn from the belief about its image, by reparameterize.",
        needs=("reparameterize",),
        weight=2,
    )
    def test_training_mode(self, student: Student, device: torch.device) -> None:
        """In training mode the codes that are decoded are drawn from the beliefs."""
        # the mean in training mode; N(0, I) in place of the belief; a decoder that gets something else
        weights, x = transparent_weights(3), coins(2000, 3, seed=131) + normals(2000, 3, seed=132)
        logits, mu, logvar = model_with(student, device, weights)(x.to(device), seeded(2, device))
        expected_mu, expected_logvar = expected_belief(weights, x)
        assert_close(mu, expected_mu)
        assert_close(logvar, expected_logvar)
        assert_shape(logits, (2000, 3))
        assert_standard_normal((logits.cpu() - expected_mu) / (expected_logvar / 2).exp())

    @check(hint="The generator that forward is given must decide the draw.", needs=("reparameterize",))
    def test_training_mode_repeats(self, student: Student, device: torch.device) -> None:
        """In training mode the same state of the generator gives the same logits, and another state others."""
        weights, x = random_weights(7, 5, 3, seed=140), coins(4, 7, seed=141)
        model = model_with(student, device, weights)
        first, again, other = (model(x.to(device), seeded(seed, device))[0] for seed in (3, 3, 4))
        assert_shape(first, (4, 7))
        assert_close(again, first, rtol=0.0, atol=0.0)
        assert_different(first, other)

    @check(hint="Draw codes from N(0, I), decode them, and return probabilities: neither logits nor bits.", weight=2)
    def test_generate(self, student: Student, device: torch.device) -> None:
        """Generated images are the pixel probabilities for codes from the prior, in either mode."""
        # logits, bits, sigmoid twice; uniform codes; all images alike; n codes of n entries
        model = model_with(student, device, transparent_weights(3))
        for seed in (5, 6):
            images = model.generate(1500, seeded(seed, device))
            assert_shape(images, (1500, 3))
            assert_dtype(images, torch.float64)
            assert_standard_normal(torch.logit(images.cpu()))
            model.eval()

    @check(hint="Decode with both layers, one code for each of the n images.")
    def test_generate_decodes(self, student: Student, device: torch.device) -> None:
        """A generated image is what the decoder makes of a code, pixel by pixel."""
        # With dead hidden units the logits are the biases, whatever the code
        weights = random_weights(5, 4, 2, seed=150)
        weights["dec_hidden.weight"], weights["dec_hidden.bias"] = (
            torch.zeros(4, 2).double(),
            table(-1.0, 2.0, 0.5, -3.0),
        )
        images = model_with(student, device, weights).generate(3, seeded(7, device))
        assert_close(images, torch.sigmoid(expected_logits(weights, torch.zeros(3, 2).double())))

    @check(hint="Draw with the generator that was given, and return plain numbers: no gradient is needed.")
    def test_generate_repeats(self, student: Student, device: torch.device) -> None:
        """The same state of the generator gives the same images, and drawing moves it on."""
        model = model_with(student, device, random_weights(5, 4, 2, seed=160) | {"dec_hidden.bias": table(3, 3, 3, 3)})
        first, second, tracked = student.run(generated_twice, model, 3, seeded(8, device))
        again, _, _ = student.run(generated_twice, model, 3, seeded(8, device))
        assert_shape(first, (3, 5))
        assert_close(again, first, rtol=0.0, atol=0.0)
        assert_different(first, second)
        if tracked is not False:
            raise CheckFailure("the generated images still carry a gradient")

    @check(hint="Gradients must reach all five layers: no detach, no no_grad, no numpy on the way.", weight=2)
    def test_gradient(self, student: Student, device: torch.device) -> None:
        """The gradient of what forward returns reaches all parameters."""
        weights, x = random_weights(7, 5, 3, seed=170), coins(4, 7, seed=171)
        factors = [normals(4, n, seed=172 + n) for n in (7, 3, 3)]
        model = model_with(student, device, weights)
        found = student.run(gradients_of_network, model, x.to(device), [factor.to(device) for factor in factors])
        leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
        mu, logvar = expected_belief(leaves, x)
        terms = (expected_logits(leaves, mu), mu, logvar)
        loss = sum((factor * term).sum() for factor, term in zip(factors, terms, strict=True))
        expected = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        if not isinstance(found, dict) or set(found) != set(expected):
            raise CheckFailure("gradients of other parameters came than those of the five layers")
        for name, value in expected.items():
            assert_close(found[name], value)

    @check(hint="What happens to one image must not depend on the others in the batch.")
    def test_single_image(self, student: Student, device: torch.device) -> None:
        """A single image in a batch of its own is treated as in company, in float32 too."""
        # normalising over the batch
        weights, x = random_weights(6, 5, 2, seed=180), coins(3, 6, seed=181)
        model = model_with(student, device, weights, torch.float32)
        model.eval()
        mu, logvar = expected_belief(weights, x)
        expected = (expected_logits(weights, mu)[1:2], mu[1:2], logvar[1:2])
        result = model(x[1:2].to(device, torch.float32))
        assert_close(result, tuple(value.float() for value in expected), rtol=1e-4, atol=1e-5)
        for value in result:
            assert_dtype(value, torch.float32)
        assert_dtype(model.generate(2, seeded(9, device)), torch.float32)

    @check(hint="Draw and decode where the parameters are.", needs=("reparameterize",))
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """A model that was moved to another device encodes, draws, decodes and generates there."""
        weights, x = transparent_weights(2), coins(500, 2, seed=190)
        model = model_with(student, elsewhere, weights)
        mu, logvar = expected_belief(weights, x)
        logits, *belief = model(x.to(elsewhere), seeded(10, elsewhere))
        for value in (logits, *belief):
            assert_device(value, elsewhere)
        assert_close(belief, (mu, logvar))
        assert_shape(logits, (500, 2))
        assert_standard_normal((logits.cpu() - mu) / (logvar / 2).exp())
        images = model.generate(500, seeded(11, elsewhere))
        assert_device(images, elsewhere)
        assert_shape(images, (500, 2))
        assert_standard_normal(torch.logit(images.cpu()))


# --- train_step --------------------------------------------------------------------------------------------------


@probe
def steps_of_training(ns, weights, rates, x, beta, generator, steps, junk, training):
    """Train a small autoencoder that notes which codes it decodes.

    Args: `rates` are the learning rates of encoder and decoder; `junk` is a gradient that is there already.
    """

    class Noted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for name in weights:
                self.register_parameter(name, torch.nn.Parameter(weights[name].clone()))
            self.codes = []

        def encode(self, x):
            both = x @ self.encoder + self.encoder_bias
            return both.tensor_split(2, dim=-1)

        def decode(self, z):
            self.codes.append(z.detach().clone())
            return torch.tanh(z) @ self.decoder + self.decoder_bias

        def forward(self, x, generator=None):
            mu, logvar = self.encode(x)
            z = mu
            if self.training:
                z = mu + (logvar / 2).exp() * torch.randn(
                    mu.shape, generator=generator, dtype=mu.dtype, device=mu.device
                )
            return self.decode(z), mu, logvar

    model = Noted()
    model.train(training)
    groups = [
        {"params": [model.encoder, model.encoder_bias], "lr": rates[0]},
        {"params": [model.decoder, model.decoder_bias], "lr": rates[1]},
    ]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    for parameter in model.parameters():
        if junk:
            parameter.grad = torch.full_like(parameter, junk)
    results = []
    for _ in range(steps):
        if beta is None:
            results.append(ns.train_step(model, optimizer, x, generator))
        else:
            results.append(ns.train_step(model, optimizer, x, generator, beta))
    after = {}
    for name, value in model.named_parameters():
        after[name] = value.detach().clone()
    return results, after, torch.cat([code.reshape(-1, code.shape[-1]) for code in model.codes]), model.training


def small_weights(pixels: int, latent: int, seed: int) -> dict[str, Tensor]:
    return {
        "encoder": normals(pixels, 2 * latent, seed=seed, scale=0.7),
        "encoder_bias": normals(2 * latent, seed=seed + 1, scale=0.5),
        "decoder": normals(latent, pixels, seed=seed + 2),
        "decoder_bias": normals(pixels, seed=seed + 3),
    }


def expected_step(
    weights: dict[str, Tensor], rates: tuple[float, float], x: Tensor, z: Tensor, beta: float
) -> tuple[tuple[float, ...], dict[str, Tensor], Tensor]:
    """The three terms, the parameters after one step up the gradient, and the noise, for codes that were drawn."""
    leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
    mu, logvar = (x @ leaves["encoder"] + leaves["encoder_bias"]).tensor_split(2, dim=-1)
    noise = ((z - mu) / (logvar / 2).exp()).detach()
    logits = torch.tanh(mu + (logvar / 2).exp() * noise) @ leaves["decoder"] + leaves["decoder_bias"]
    reconstruction, divergence = oracle_bernoulli(x, logits).mean(), oracle_kl(mu, logvar).mean()
    objective = reconstruction - beta * divergence
    gradients = torch.autograd.grad(objective, list(leaves.values()))
    rate = {name: rates[0] if name.startswith("encoder") else rates[1] for name in leaves}
    after = {
        name: value.detach() + rate[name] * slope
        for (name, value), slope in zip(leaves.items(), gradients, strict=True)
    }
    return (objective.item(), reconstruction.item(), divergence.item()), after, noise


def trained(
    student: Student,
    device: torch.device,
    weights: dict[str, Tensor],
    x: Tensor,
    *,
    beta: float | None = None,
    rates: tuple[float, float] = (0.1, 0.1),
    seed: int = 1,
    steps: int = 1,
    junk: float = 0.0,
    training: bool = True,
) -> tuple[list[Any], dict[str, Tensor], list[Tensor], bool]:
    """What the steps returned, the parameters after them, the codes that were decoded (one batch a step), the mode."""
    there = {name: value.to(device) for name, value in weights.items()}
    found = student.run(
        steps_of_training, there, list(rates), x.to(device), beta, seeded(seed, device), steps, junk, training
    )
    results, after, codes, mode = found
    assert_shape(codes, (steps * len(x), weights["decoder"].shape[0]))  # in one batch a step, or image by image
    return results, after, list(codes.cpu().split(len(x))), mode


def assert_parameters(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        assert_close(found[name], value)


@task("train_step", needs=("reparameterize", "kl_to_standard_normal", "reconstruction_log_likelihood", "elbo"))
class TestTrainStep:
    @check(hint="The optimizer goes down, the objective must go up; and codes carry a gradient.", weight=3)
    def test_step(self, student: Student, device: torch.device) -> None:
        """One step moves every parameter up the gradient of the objective, as far as the optimizer's rates say."""
        # down; codes detached; no step; cleared before the step; a sum over the batch; a rate of one's own
        weights, x = small_weights(5, 2, seed=200), coins(4, 5, seed=201)
        _, after, codes, _ = trained(student, device, weights, x, rates=(0.3, 0.05))
        _, expected, noise = expected_step(weights, (0.3, 0.05), x, codes[0], 1.0)
        assert_different(noise, torch.zeros_like(noise))
        assert_parameters(after, expected)

    @check(hint="Objective, reconstruction, divergence: before the step, for the codes drawn in it.", weight=2)
    def test_returned_terms(self, student: Student, device: torch.device) -> None:
        """A step returns the three terms for the parameters it started from, as Python floats."""
        # the loss (sign), the terms after the step, tensors
        weights, x = small_weights(6, 2, seed=210), coins(3, 6, seed=211)
        results, _, codes, _ = trained(student, device, weights, x, rates=(1.0, 1.0))
        expected, _, noise = expected_step(weights, (1.0, 1.0), x, codes[0], 1.0)
        assert_different(noise, torch.zeros_like(noise))
        for term, value in zip(three_terms(results[0]), expected, strict=True):
            assert_close(term, value)
            if not isinstance(term, float):
                raise CheckFailure("a term is not a Python float")

    @check(hint="Pass beta on; it weighs the divergence in the objective and in its gradient.", weight=2)
    def test_beta(self, student: Student, device: torch.device) -> None:
        """With beta the divergence weighs as much as it says, in the objective and in the step."""
        # ignored; on the reconstruction; in the divergence that is returned
        weights, x = small_weights(5, 3, seed=220), coins(4, 5, seed=221)
        for beta in (0.0, 4.0):
            results, after, codes, _ = trained(student, device, weights, x, beta=beta)
            terms, expected, noise = expected_step(weights, (0.1, 0.1), x, codes[0], beta)
            assert_different(noise, torch.zeros_like(noise))
            assert_close(three_terms(results[0]), terms)
            assert_parameters(after, expected)

    @check(hint="A code is drawn for each image, from its own belief, with the generator.", weight=2)
    def test_codes_are_drawn(self, student: Student, device: torch.device) -> None:
        """The codes that a step decodes are drawn from the beliefs, and the generator alone decides them."""
        # means decoded; one noise for all images; the global generator
        weights, x = small_weights(4, 2, seed=230), coins(2500, 4, seed=231)
        _, _, codes, _ = trained(student, device, weights, x, seed=3)
        assert_standard_normal(expected_step(weights, (0.1, 0.1), x, codes[0], 1.0)[2])
        _, _, again, _ = trained(student, device, weights, x, seed=3)
        _, _, other, _ = trained(student, device, weights, x, seed=4)
        assert_close(again[0], codes[0], rtol=0.0, atol=0.0)
        assert_different(codes[0], other[0])

    @check(hint="Gradients add up until they are cleared.")
    def test_old_gradients(self, student: Student, device: torch.device) -> None:
        """Gradients from before have no influence on the step."""
        weights, x = small_weights(5, 2, seed=240), coins(4, 5, seed=241)
        _, after, codes, _ = trained(student, device, weights, x, junk=50.0)
        _, expected, noise = expected_step(weights, (0.1, 0.1), x, codes[0], 1.0)
        assert_different(noise, torch.zeros_like(noise))
        assert_parameters(after, expected)

    @check(hint="Each step begins where the last one ended, with fresh codes and cleared gradients.")
    def test_three_steps(self, student: Student, device: torch.device) -> None:
        """Three steps in a row are three single steps, each with codes of its own."""
        weights, x = small_weights(5, 2, seed=250), coins(4, 5, seed=251)
        results, after, codes, _ = trained(student, device, weights, x, steps=3)
        current = weights
        for result, code in zip(results, codes, strict=True):
            terms, current, noise = expected_step(current, (0.1, 0.1), x, code, 1.0)
            assert_different(noise, torch.zeros_like(noise))
            assert_close(three_terms(result), terms)
        assert_parameters(after, current)
        assert_different(codes[0], codes[1])

    @check(hint="The model may come in evaluation mode, from a measurement in between.")
    def test_training_mode(self, student: Student, device: torch.device) -> None:
        """A model that comes in evaluation mode is put into training mode, and its codes are drawn."""
        weights, x = small_weights(5, 2, seed=260), coins(4, 5, seed=261)
        _, after, codes, mode = trained(student, device, weights, x, training=False)
        _, expected, noise = expected_step(weights, (0.1, 0.1), x, codes[0], 1.0)
        assert_different(noise, torch.zeros_like(noise))
        assert_parameters(after, expected)
        if mode is not True:
            raise CheckFailure("the model is not in training mode after the step")

    def test_float32(self, student: Student, device: torch.device) -> None:
        """A step in float32, with a single image, is right too."""
        weights, x = small_weights(5, 2, seed=270), coins(1, 5, seed=271)
        single = {name: value.float() for name, value in weights.items()}
        results, after, codes, _ = trained(student, device, single, x.float())
        assert_dtype(codes[0], torch.float32)
        weights = {name: value.double() for name, value in single.items()}
        terms, expected, noise = expected_step(weights, (0.1, 0.1), x, codes[0].double(), 1.0)
        assert_different(noise, torch.zeros_like(noise))
        for term, value in zip(three_terms(results[0]), terms, strict=True):
            assert_close(term, value, rtol=1e-4, atol=1e-4)
        for name, value in expected.items():
            assert_dtype(after[name], torch.float32)
            assert_close(after[name], value, rtol=1e-4, atol=1e-4)

    @check(hint="Draw on the device of the images and parameters.")
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """A step is right on another device, too."""
        weights, x = small_weights(5, 2, seed=280), coins(4, 5, seed=281)
        results, after, codes, _ = trained(student, elsewhere, weights, x)
        terms, expected, noise = expected_step(weights, (0.1, 0.1), x, codes[0], 1.0)
        assert_different(noise, torch.zeros_like(noise))
        assert_close(three_terms(results[0]), terms)
        for value in after.values():
            assert_device(value, elsewhere)
        assert_parameters(after, expected)


# --- active_units and squared_mmd --------------------------------------------------------------------------------


@probe
def units_and_argument(ns, mu):
    return ns.active_units(mu), mu


def yes_no(*values: bool) -> Tensor:
    return torch.tensor(values)


def oracle_mmd(x: Tensor, y: Tensor, bandwidth: float) -> float:
    """Mean likeness within x and within y, minus twice that across; sums over all pairs that are not one point."""
    within, across = [], rbf_kernel(x.numpy(), y.numpy(), gamma=1 / (2 * bandwidth**2)).mean()
    for sample in (x, y):
        kernel = rbf_kernel(sample.numpy(), gamma=1 / (2 * bandwidth**2))
        within.append(kernel[~np.eye(len(sample), dtype=bool)].mean())
    return float(within[0] + within[1] - 2 * across)


@task("active_units")
class TestActiveUnits:
    @check(hint="How much does a mean vary from image to image? Where it lies does not matter.", weight=2)
    def test_constant_unit(self, student: Student, device: torch.device) -> None:
        """A unit whose mean is the same for all images is not active, however far from zero it lies."""
        # the mean square for the variance: all true
        mu = table([2.0, -0.6, 0.0], [2.0, -1.0, 0.3], [2.0, -0.8, -0.3], [2.0, -1.2, 0.0], [2.0, -0.9, 0.1])
        assert_close(student.active_units(mu.to(device)), yes_no(False, True, True))

    @check(hint="The variance is compared with the threshold, and its divisor is the number of images.", weight=2)
    def test_threshold(self, student: Student, device: torch.device) -> None:
        """The variance, with divisor n, is what must exceed the threshold."""
        # variances .0081, .0121, .0025; n - 1: .0162 for the first; deviations .09, .11, .05 would all exceed .01
        mu = table([1.09, 0.11, -0.05], [0.91, -0.11, 0.05])
        assert_close(student.active_units(mu.to(device)), yes_no(False, True, False))

    @check(hint="Use the threshold that was given, and compare with >.")
    def test_other_thresholds(self, student: Student, device: torch.device) -> None:
        """Another threshold decides otherwise, and equality does not suffice."""
        # variances 1/4 (exactly), 9/4, 1/16; deviations 1/2, 3/2, 1/4
        mu = table([0.5, 1.5, 0.25], [-0.5, -1.5, -0.25])
        assert_close(student.active_units(mu.to(device), 0.25), yes_no(False, True, False))
        assert_close(student.active_units(mu.to(device), threshold=2.0), yes_no(False, True, False))
        assert_close(student.active_units(mu.to(device), threshold=0.05), yes_no(True, True, True))

    @check(hint="One answer for each unit, which is a column of mu.")
    def test_many_units(self, student: Student, device: torch.device) -> None:
        """For six units and forty images of float32 means the right ones are active."""
        scales = table(0.01, 0.05, 0.15, 0.3, 1.0, 0.02)
        mu = (normals(40, 6, seed=301) * scales + normals(6, seed=302)).float()
        expected = torch.as_tensor(np.var(mu.double().numpy(), axis=0) > 0.01)
        found = student.active_units(mu.to(device))
        assert_dtype(found, torch.bool)
        assert_close(found, expected)

    @check(hint="With divisor n, the variance of one number is zero.")
    def test_single_image(self, student: Student, device: torch.device) -> None:
        """With a single image nothing varies; with two, something may."""
        mu = table([1.0, 0.0, -3.0], [1.0, 0.5, -3.0])
        assert_close(student.active_units(mu[:1].to(device)), yes_no(False, False, False))
        found, after = student.run(units_and_argument, mu.clone().to(device))
        assert_close(found, yes_no(False, True, False))
        assert_close(after, mu, rtol=0.0, atol=0.0)

    @check(hint="Three averages of kernel values. Which pairs belong to each, and how many are there?", weight=3)
    def test_mmd(self, student: Student, device: torch.device) -> None:
        """The discrepancy of four points from three is right, whichever sample comes first."""
        # diagonal kept or zeroed but counted; n^2 for n(n-1); 2 lost; h^2 for 2 h^2; distance not squared; root taken
        x, y = normals(4, 2, seed=303), normals(3, 2, seed=304) + 0.5
        for bandwidth in (0.6, 1.0, 1.7):
            expected = oracle_mmd(x, y, bandwidth)
            assert_close(student.squared_mmd(x.to(device), y.to(device), bandwidth), expected)
            assert_close(student.squared_mmd(y.to(device), x.to(device), bandwidth), expected)

    @check(hint="An unbiased estimate may be negative; only a point with itself is left out, not with its double.")
    def test_mmd_of_equal_samples(self, student: Student, device: torch.device) -> None:
        """A sample with a point that occurs twice, compared with itself, gives a negative estimate."""
        # clamped at zero; abs; pairs at distance zero left out
        x = table([0.0, 1.0], [0.0, 1.0], [2.0, -1.0], [0.5, 0.5])
        assert_close(student.squared_mmd(x.to(device), x.clone().to(device), 1.3), oracle_mmd(x, x, 1.3))

    @check(hint="Far apart, nothing is left but the likeness within each sample.")
    def test_mmd_far_apart(self, student: Student, device: torch.device) -> None:
        """Samples that lie far apart differ by as much as each is like itself."""
        x, y = table([0.0], [1.0], [3.0]), table([1000.0], [1002.0])
        within = (math.exp(-1 / 2) + math.exp(-9 / 2) + math.exp(-2)) / 3
        assert_close(student.squared_mmd(x.to(device), y.to(device), 1.0), within + math.exp(-2))

    @check(hint="The squared distance is a sum over the features.")
    def test_mmd_of_bits(self, student: Student, device: torch.device) -> None:
        """For images of many bits, in more than a handful, the discrepancy is right."""
        # a mean over features; the mm trick in float32 stays exact for bits
        x, y = coins(9, 64, seed=305), coins(31, 64, seed=306)
        y[:, :20] = 1 - y[:, :20]
        assert_close(student.squared_mmd(x.to(device), y.to(device), 2.0), oracle_mmd(x, y, 2.0))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_mmd_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """The discrepancy is a single right number in the dtype of the samples."""
        x, y = normals(5, 3, seed=307), normals(4, 3, seed=308)
        found = student.squared_mmd(x.to(device, dtype), y.to(device, dtype), 1.5)
        assert_shape(found, ())
        assert_dtype(found, dtype)
        assert_close(found, torch.tensor(oracle_mmd(x, y, 1.5), dtype=dtype), rtol=1e-5, atol=1e-6)

    @check(hint="Raise ValueError where a sample has fewer than two points or the bandwidth is not positive.")
    def test_mmd_refuses(self, student: Student, device: torch.device) -> None:
        """Samples of fewer than two points and bandwidths that are not positive are refused, others are not."""
        x, y = normals(2, 3, seed=309).to(device), normals(3, 3, seed=310).to(device)
        assert_close(student.squared_mmd(x, y[:2], 0.9), oracle_mmd(x.cpu(), y[:2].cpu(), 0.9))
        for first, second, bandwidth in ((x[:1], y, 1.0), (x, y[:1], 1.0), (x[:0], y, 1.0), (x, y, 0.0), (x, y, -1.0)):
            with student_raises(ValueError):
                student.squared_mmd(first, second, bandwidth)

    @check(hint=ON_DEVICE)
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """Both answers are right and on the device of the arguments, wherever that is."""
        mu, x, y = table([1.0, 0.0], [1.0, 0.5]), normals(4, 2, seed=311), normals(3, 2, seed=312)
        found = student.active_units(mu.to(elsewhere))
        assert_device(found, elsewhere)
        assert_close(found, yes_no(False, True))
        found = student.squared_mmd(x.to(elsewhere), y.to(elsewhere), 1.2)
        assert_device(found, elsewhere)
        assert_close(found, oracle_mmd(x, y, 1.2))


# --- interpolate -------------------------------------------------------------------------------------------------


@probe
def small_model(ns, weights):
    """An autoencoder with a bent decoder, and beliefs that are wide: a drawn code is not near the mean."""

    class Small(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for name in weights:
                self.register_parameter(name, torch.nn.Parameter(weights[name].clone()))

        def encode(self, x):
            mu = x @ self.encoder + self.encoder_bias
            return mu, torch.ones_like(mu)

        def decode(self, z):
            return torch.tanh(z) @ self.decoder + self.decoder_bias

        def forward(self, x, generator=None):
            mu, logvar = self.encode(x)
            noise = torch.randn(mu.shape, generator=generator, dtype=mu.dtype, device=mu.device)
            return self.decode(mu + noise * (logvar / 2).exp() if self.training else mu), mu, logvar

    return Small()


@probe
def path_and_more(ns, model, start, end, steps):
    path = ns.interpolate(model, start, end, steps)
    return path, path.requires_grad, start, end


def path_weights(pixels: int, latent: int, seed: int) -> dict[str, Tensor]:
    return {
        "encoder": normals(pixels, latent, seed=seed),
        "encoder_bias": normals(latent, seed=seed + 1),
        "decoder": normals(latent, pixels, seed=seed + 2, scale=1.5),
        "decoder_bias": normals(pixels, seed=seed + 3),
    }


def expected_path(weights: dict[str, Tensor], start: Tensor, end: Tensor, steps: int) -> Tensor:
    first, last = (image @ weights["encoder"] + weights["encoder_bias"] for image in (start, end))
    codes = torch.stack([first + (last - first) * i / (steps - 1) for i in range(steps)])
    return torch.sigmoid(torch.tanh(codes) @ weights["decoder"] + weights["decoder_bias"])


@task("interpolate")
class TestInterpolate:
    @check(hint="Mix the two mean codes, then decode; return probabilities.", weight=3)
    def test_path(self, student: Student, device: torch.device) -> None:
        """Every image on the path is the decoded mixture of the two mean codes."""
        # pixels mixed, images mixed after decoding, drawn codes, logits, sigmoid twice, on a sphere, wrong direction
        weights, start, end = path_weights(6, 3, seed=401), coins(6, seed=410), coins(6, seed=411)
        model = student.run(small_model, {name: value.to(device) for name, value in weights.items()})
        for steps in (4, 7):
            found = student.interpolate(model, start.to(device), end.to(device), steps)
            # positions in float32 would be off by some 1e-8
            assert_close(found, expected_path(weights, start, end, steps), rtol=0.0, atol=1e-12)

    @check(hint="Both ends belong to the path, the start comes first.", weight=2)
    def test_ends(self, student: Student, device: torch.device) -> None:
        """The path begins with the reconstruction of the first image and ends with that of the last."""
        # an end left out; steps + 1 images; reversed
        weights, start, end = path_weights(5, 2, seed=420), normals(5, seed=421), normals(5, seed=422)
        model = student.run(small_model, {name: value.to(device) for name, value in weights.items()})
        found = student.interpolate(model, start.to(device), end.to(device), 2)
        assert_close(found, expected_path(weights, start, end, 2))

    @check(
        hint="The halfway code is the average of the two codes; decoding it does not give the average image.", weight=2
    )
    def test_halfway(self, student: Student, device: torch.device) -> None:
        """Halfway lies the image of the average code."""
        weights, start, end = path_weights(4, 1, seed=430), coins(4, seed=434), 1 - coins(4, seed=434)
        model = student.run(small_model, {name: value.to(device) for name, value in weights.items()})
        found = student.interpolate(model, start.to(device), end.to(device), 5)
        assert_close(found, expected_path(weights, start, end, 5))
        code = ((start + end) / 2) @ weights["encoder"] + weights["encoder_bias"]  # the encoder is linear here
        assert_close(found[2], torch.sigmoid(torch.tanh(code) @ weights["decoder"] + weights["decoder_bias"]))

    @check(hint="Nothing is drawn on the way, whatever the mode of the model.")
    def test_nothing_is_drawn(self, student: Student, device: torch.device) -> None:
        """A path from an image to itself does not move, and a second call gives the same path, in either mode."""
        weights, image, other = path_weights(6, 2, seed=440), coins(6, seed=441), coins(6, seed=442)
        model = student.run(small_model, {name: value.to(device) for name, value in weights.items()})
        for mode in (True, False):
            model.train(mode)
            still = student.interpolate(model, image.to(device), image.clone().to(device), 3)
            assert_close(still, expected_path(weights, image, image, 3))
            for _ in range(2):
                found = student.interpolate(model, image.to(device), other.to(device), 3)
                assert_close(found, expected_path(weights, image, other, 3))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        """The path is right in the dtype of the model and carries no gradient; the images are left alone."""
        weights, start, end = path_weights(5, 2, seed=450), coins(5, seed=451), coins(5, seed=452)
        model = student.run(small_model, {name: value.to(device, dtype) for name, value in weights.items()})
        found, tracked, start_after, end_after = student.run(
            path_and_more, model, start.to(device, dtype), end.to(device, dtype), 6
        )
        assert_dtype(found, dtype)
        assert_close(found, expected_path(weights, start, end, 6).to(dtype), rtol=1e-5, atol=1e-5)
        if tracked is not False:
            raise CheckFailure("the path still carries a gradient")
        assert_close(start_after, start.to(dtype), rtol=0.0, atol=0.0)
        assert_close(end_after, end.to(dtype), rtol=0.0, atol=0.0)

    @check(hint="Raise ValueError for fewer than two steps, and only then.")
    def test_refuses_a_single_step(self, student: Student, device: torch.device) -> None:
        """One step is refused, and so is none; two are enough."""
        weights, start, end = path_weights(4, 2, seed=460), coins(4, seed=461), coins(4, seed=462)
        model = student.run(small_model, {name: value.to(device) for name, value in weights.items()})
        found = student.interpolate(model, start.to(device), end.to(device), 2)
        assert_close(found, expected_path(weights, start, end, 2))
        for steps in (1, 0):
            with student_raises(ValueError):
                student.interpolate(model, start.to(device), end.to(device), steps)

    @check(hint=ON_DEVICE)
    def test_device(self, student: Student, elsewhere: torch.device) -> None:
        """The path is right and on the device of model and images, wherever that is."""
        weights, start, end = path_weights(5, 2, seed=470), coins(5, seed=471), coins(5, seed=472)
        model = student.run(small_model, {name: value.to(elsewhere) for name, value in weights.items()})
        found = student.interpolate(model, start.to(elsewhere), end.to(elsewhere), 3)
        assert_device(found, elsewhere)
        assert_close(found, expected_path(weights, start, end, 3))
