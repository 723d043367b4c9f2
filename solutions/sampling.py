# %% [markdown]
# # Sampling methods
#
# A generative model is a distribution from which one can *draw*. Writing a density down is often the easy half. How
# does a computer, which at heart knows only how to produce numbers spread evenly between 0 and 1, draw from it?
#
# There are four answers here. The first three ask for less and less, and the fourth makes the third faster:
#
# - **transform** uniform numbers, if the distribution function can be inverted, or the geometry is simple;
# - **reject** some draws of another distribution, if a multiple of its density lies above the wanted one;
# - **walk**, if all you can do is compare the density at two points: the Metropolis algorithm;
# - **walk with a bias**, and pay it back: Metropolis-Hastings.
#
# What is given up on the way is independence: the draws of a walk resemble their predecessors. The last task measures
# how much a thousand of them are worth.
#
# You will meet them again. A variational autoencoder and a flow transform noise, and gradients pass through the
# transformation; diffusion models and energy-based models walk; a language model that drafts with a small network and
# checks with a large one rejects some of its drafts, and repairs what that does to the distribution.
#
# **Conventions.** They hold in all six tasks.
#
# - $\mathcal N(m, s^2)$ is written with the **variance**; $\mathrm{Exp}(\lambda)$ has density
#   $\lambda e^{-\lambda x}$ for $x \ge 0$, so $\lambda$ is the **rate** and the mean is $1/\lambda$.
# - A function called `log_prob` or `log_target` returns the natural logarithm of a density. Where the docstring says
#   *unnormalised*, it is right up to an unknown additive constant, and the constant may be huge. Where the density is
#   zero the logarithm is $-\infty$.
# - A function that takes a `torch.Generator` draws all its random numbers from it and from nothing else, so that a run
#   can be repeated, and two calls in a row give different draws. In which order and in what portions it draws is up to
#   you.
# - Generator, points and densities are on one device. Points are float32 or float64, and results keep their dtype and
#   device. Arguments are left as they were.
# - Any function of `torch` may be used, `torch.distributions` included, but it has no place for a generator.
#
# Two books stand behind much of this: L. Devroye, *Non-Uniform Random Variate Generation*, Springer 1986, and
# C. P. Robert and G. Casella, *Monte Carlo Statistical Methods*, 2nd edition, Springer 2004. The papers named below are
# J. von Neumann, *Various techniques used in connection with random digits*, NBS Applied Mathematics Series 12, 1951;
# N. Metropolis and others, *Equation of state calculations by fast computing machines*, J. Chem. Phys. 21, 1953;
# W. K. Hastings, *Monte Carlo sampling methods using Markov chains and their applications*, Biometrika 57, 1970;
# C. J. Geyer, *Practical Markov chain Monte Carlo*, Statistical Science 7, 1992; A. Gelman, G. O. Roberts and
# W. R. Gilks, *Efficient Metropolis jumping rules*, Bayesian Statistics 5, 1996.
#
# **How to work.** The tasks take about 3 hours and 30 minutes together. Each has a cell for your answer, a cell of
# checks that you see, and a demo that draws what your function finds. The points of a task are shared out among further
# checks, which you do not see. What is random can only be checked statistically: the tolerances are set so wide that a
# right answer practically never misses them (by chance less than once in a hundred million runs), and the wrong ones
# that we know of do. Checks and demos raise an error until their task is solved, and some use earlier tasks and cells
# too, so run the cells one at a time and *Run All* at the end. A notebook with unsolved tasks can be handed in: it is
# graded task by task. Keep `expect.py` beside the notebook.

# %%
import math
from collections.abc import Callable

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from expect import expect_close

# %% [markdown]
# ## 1 · Bend the uniform distribution
#
# Let $F(x) = P(X \le x)$ be the distribution function you want, and suppose it rises wherever it is strictly between 0
# and 1. Choose a height $u$ uniformly between 0 and 1, go across until you hit the graph of $F$, and drop down to
# $x = F^{-1}(u)$. Where $F$ is steep, many heights lead to nearly the same place, and $F$ is steep where the density
# is large. In one line:
#
# $$P\big(F^{-1}(U) \le x\big) = P\big(U \le F(x)\big) = F(x)$$
#
# This is **inverse transform sampling** (Devroye 1986, section II.2.1). The same numbers $u$ can be bent into any
# distribution whose inverse you know, so the two parts are two functions.
#
# For $\mathrm{Exp}(\lambda)$ the distribution function is $F(x) = 1 - e^{-\lambda x}$; the inverse is yours to find.
# Two cautions. First, many texts draw $-\ln(u)/\lambda$. As a *sampler* that is right, because $1 - U$ is uniform as
# well, but it is not $F^{-1}$: it falls where $F^{-1}$ rises, and except at the median it sends every $u$ to the wrong
# quantile. Second, for small $u$ the difference $1 - u$ keeps few digits of $u$. In float32, $1 - 10^{-9}$ *is* 1, and
# the quantile of $10^{-9}$ comes out as zero. `torch` has a function for such a logarithm.
#
# **Task 1 · `exponential_icdf` and `inverse_transform_sample` · 3 points · 25 minutes**


# %% task="inverse_transform_sample"
def exponential_icdf(u: Tensor, rate: Tensor) -> Tensor:
    """Inverse of the distribution function of Exp(rate), also called its quantile function.

    Args:
        u: Probabilities from 0 to 1, any shape. They may be so small that 1 - u is 1 in their dtype.
        rate: Rates, positive, in a shape that broadcasts against that of u, and of the same dtype.

    Returns:
        The points below which the probabilities lie, in the shape the two broadcast to and in their dtype: 0 at u = 0,
        +inf at u = 1, with full relative precision in between. Differentiable in both arguments.

    Raises:
        ValueError: Some u is below 0 or above 1, or some rate is zero or negative.
    """
    ### BEGIN SOLUTION
    if (u < 0).any() or (u > 1).any():
        raise ValueError("u holds probabilities, from 0 to 1")
    if (rate <= 0).any():
        raise ValueError("rates must be positive")
    return -torch.log1p(-u) / rate
    ### END SOLUTION


def inverse_transform_sample(
    icdf: Callable[[Tensor], Tensor], shape: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    """Independent draws by inverse transform sampling.

    Args:
        icdf: Maps a float64 tensor of any shape, numbers from 0 (included) to 1 (excluded), to points, each by itself.
        shape: Shape of the result; () asks for a single draw.
        generator: Source of randomness.

    Returns:
        Independent draws from the distribution that icdf belongs to, as icdf returned them. The uniform numbers behind
        them are float64 and live on the generator's device.
    """
    ### BEGIN SOLUTION
    u = torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)
    return icdf(u)
    ### END SOLUTION


# %% checks="inverse_transform_sample" points=3
half = torch.tensor(0.5)
expect_close(exponential_icdf(half, torch.tensor(4.0)), 0.1733, "Half of the waiting times of rate 4 are below ln 2/4.")
expect_close(
    exponential_icdf(torch.tensor([0.0, 0.2, 0.9]), torch.tensor([[1.0], [0.5]])),
    [[0.0, 0.2231, 2.3026], [0.0, 0.4463, 4.6052]],
    "Three quantiles for two rates: they grow with u, and half the rate makes them twice as large.",
)
expect_close(
    exponential_icdf(torch.tensor([1e-12]), torch.tensor(2.0)) * 1e12,
    [0.5],
    "Near zero F(x) is about 2x, so the quantile of 1e-12 is 0.5e-12, in float32 as well.",
)
draws = inverse_transform_sample(
    lambda u: exponential_icdf(u, torch.tensor(4.0).double()), (50, 400), torch.Generator().manual_seed(1)
)
expect_close(list(draws.shape), [50, 400], "As many draws as were asked for, in the shape that was asked for.")
# The mean of 20,000 draws of Exp(4) has a standard deviation of 0.25/sqrt(20000) = 0.0018; six of them are 0.011.
expect_close(draws.mean(), 0.25, "The mean of Exp(4) is 1/4, give or take 0.011 for 20,000 draws.", atol=0.011)

# %% [markdown]
# On the left below, twenty heights at even distances are sent across to $F$ of $\mathrm{Exp}(1)$ and down. They land
# close together where $F$ is steep. On the right are 20,000 random draws of two rates with the densities
# $\lambda e^{-\lambda x}$; from your two functions come the draws, from the formula the curves.

# %% tags=["demo"]
heights = (torch.arange(20, dtype=torch.float64) + 0.5) / 20
unit_rate = torch.ones((), dtype=torch.float64)
landing = exponential_icdf(heights, unit_rate)
x = torch.linspace(0, 4, 401, dtype=torch.float64)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
left.plot(x, 1 - torch.exp(-x), color="black", label=r"$F(x) = 1 - e^{-x}$")
left.hlines(heights, 0, landing, color="C0", linewidth=0.7)
left.vlines(landing, 0, heights, color="C1", linewidth=0.7)
left.plot(landing, torch.zeros(20), "|", color="C1", markersize=12, clip_on=False)
left.set(xlabel="x", ylabel="u", title="Even heights, uneven places", xlim=(0, 4), ylim=(0, 1))
left.legend(loc="lower right")
for rate, color in ((1.0, "C0"), (3.0, "C1")):
    sample = inverse_transform_sample(
        lambda u, rate=rate: exponential_icdf(u, rate * unit_rate), (20_000,), torch.Generator().manual_seed(2)
    )
    right.hist(sample, bins=80, range=(0, 4), density=True, color=color, alpha=0.35, label=f"draws, rate {rate:g}")
    right.plot(x, rate * torch.exp(-rate * x), color=color, label=f"density, rate {rate:g}")
right.set(xlabel="x", ylabel="density", title="20,000 draws of Exp(1) and of Exp(3)", xlim=(0, 4))
right.legend()
plt.show()

# %% [markdown]
# ## 2 · A distribution of your own
#
# Throw a dart so that every spot of a round board is equally likely. The angle is uniform, that much is clear. The
# radius is not: a ring of radius $r$ and width $dr$ has the area $2\pi r\, dr$, so there is more board far out than
# close to the centre. Of a disk of radius $R$, the fraction $F(r) = r^2 / R^2$ lies within $r$, and task 1 says what to
# do: invert it. (A uniform radius is the classic mistake. It puts half of the darts into a quarter of the board.)
#
# The density is the same everywhere on the board, $1/(\pi R^2)$, and zero elsewhere. Knowing it, you can make this a
# distribution like those in `torch.distributions`, with which every library that speaks their language can work. What
# such an object owes its users:
#
# - **Shapes.** A point of the plane is one *event*: `event_shape` is (2,). A tensor of radii makes a *batch* of disks,
#   and `rsample((100,))` puts a sample axis in front. A sample has the shape sample + batch + event, a log density the
#   same without the event. Every disk of the batch gets draws of its own.
# - **Gradients.** `rsample` returns points through which gradients reach the parameters, because they are written
#   as $x = c + R\,\varepsilon$ with noise $\varepsilon$ that knows neither $c$ nor $R$, here a point of the unit disk.
#   This is the *reparameterisation trick* that trains a VAE. `sample`, which the base class derives from `rsample`,
#   cuts the gradient.
# - **Honesty about arguments.** `arg_constraints` says what the parameters must obey, `support` which points are
#   possible. With `validate_args=True` (the default) the base class checks the parameters when `super().__init__` is
#   called, so they must be in place by then, and `log_prob` checks its points by `self._validate_sample(value)`, which
#   asks `self.support` and raises a `ValueError`. The base class also wants to know the shapes:
#   `super().__init__(batch_shape, event_shape, validate_args=validate_args)`. With `validate_args=False` nothing is
#   checked, and an impossible point has the log density $-\infty$. The object remembers the choice as
#   `self._validate_args`. (torch's own classes often write `arg_constraints` as a class attribute; either way will do.)
# - **Expanding.** `expand(shape)` gives the same disks for a larger batch, without copying a number.
#
# Randomness comes from torch's default generator, as everywhere in `torch.distributions`: `torch.manual_seed` repeats
# it. Like its neighbours the class draws in the dtype and on the device of its parameters.
#
# `torch.distributions.constraints` has ready-made constraints for numbers, such as `positive` and `real_vector`, but
# none for a disk. A constraint is a class with a method `check`, and `Disk` below is one. Its `event_dim` of 1 says
# that the last axis of a point is looked at as a whole.
#
# **Task 2 · `UniformDisk` · 4 points · 50 minutes**


# %% task="UniformDisk"
class Disk(constraints.Constraint):
    """The constraint that a point of the plane lies in a closed disk: within it or on its rim."""

    event_dim = 1

    def __init__(self, center: Tensor, radius: Tensor) -> None:
        """Take centres of shape (..., 2) and radii of shape (...)."""
        self.center, self.radius = center, radius

    def check(self, value: Tensor) -> Tensor:
        """Which points lie in their disk. The comparison is exact: rounding is not made up for.

        Args:
            value: Points, shape (..., 2), whose leading axes broadcast against those of the disks.

        Returns:
            Booleans, in the shape that the leading axes broadcast to.
        """
        ### BEGIN SOLUTION
        return (value - self.center).square().sum(-1) <= self.radius.square()
        ### END SOLUTION


class UniformDisk(Distribution):
    """The uniform distribution on disks in the plane.

    Args of the constructor:
        center: Centres, shape (..., 2), float32 or float64.
        radius: Radii, positive, same dtype. Their shape and the leading axes of center broadcast to the batch shape.
        validate_args: Whether to check arguments; None takes torch's default, which is to check.

    Raises:
        ValueError: The last axis of center is not of length 2, whatever validate_args is; or, where arguments are
            checked, a radius is zero or negative.

    Attributes:
        center: In the shape batch_shape + (2,).
        radius: In the shape batch_shape.
    """

    has_rsample = True

    def __init__(self, center: Tensor, radius: Tensor, validate_args: bool | None = None) -> None:
        ### BEGIN SOLUTION
        if center.shape[-1:] != (2,):
            raise ValueError(f"a centre has two coordinates; the shape {tuple(center.shape)} does not end in 2")
        self.radius, _ = torch.broadcast_tensors(radius, center[..., 0])
        self.center = center.expand(*self.radius.shape, 2)
        super().__init__(self.radius.shape, torch.Size([2]), validate_args=validate_args)
        ### END SOLUTION

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """The constraints that the parameters must obey, by the names of the parameters."""
        ### BEGIN SOLUTION
        return {"center": constraints.real_vector, "radius": constraints.positive}
        ### END SOLUTION

    @property
    def support(self) -> constraints.Constraint:
        """The constraint that the points of positive density obey: a `Disk`."""
        ### BEGIN SOLUTION
        return Disk(self.center, self.radius)
        ### END SOLUTION

    @property
    def mean(self) -> Tensor:
        """Means, shape batch_shape + (2,)."""
        ### BEGIN SOLUTION
        return self.center
        ### END SOLUTION

    @property
    def variance(self) -> Tensor:
        """Variances of the two coordinates, shape batch_shape + (2,)."""
        ### BEGIN SOLUTION
        return (self.radius.square() / 4).unsqueeze(-1).expand_as(self.center)
        ### END SOLUTION

    def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Independent draws that depend on the parameters as center + radius * noise.

        Args:
            sample_shape: How many draws from each disk, as a shape.

        Returns:
            Points, shape sample_shape + batch_shape + (2,), in the dtype and on the device of the parameters.
        """
        ### BEGIN SOLUTION
        shape = self._extended_shape(sample_shape)[:-1]
        distance = self.radius.new_empty(shape).uniform_().sqrt()
        angle = self.radius.new_empty(shape).uniform_(0, 2 * math.pi)
        noise = torch.stack([distance * angle.cos(), distance * angle.sin()], dim=-1)
        return self.center + self.radius.unsqueeze(-1) * noise
        ### END SOLUTION

    def log_prob(self, value: Tensor) -> Tensor:
        """Log densities, in nats; differentiable in the radius.

        Args:
            value: Points, shape (..., 2), whose leading axes broadcast against batch_shape.

        Returns:
            Log densities, in the shape that those axes broadcast to; -inf outside the disk.

        Raises:
            ValueError: A point lies outside its disk, and arguments are checked.
        """
        ### BEGIN SOLUTION
        if self._validate_args:
            self._validate_sample(value)
        inside = self.support.check(value)
        return torch.where(inside, -math.log(math.pi) - 2 * self.radius.log(), -math.inf)
        ### END SOLUTION

    def entropy(self) -> Tensor:
        """Differential entropies in nats, shape batch_shape."""
        ### BEGIN SOLUTION
        return math.log(math.pi) + 2 * self.radius.log()
        ### END SOLUTION

    def expand(self, batch_shape: tuple[int, ...], _instance: object = None) -> "UniformDisk":
        """The same disks for a larger batch.

        Args:
            batch_shape: A shape to which the present batch shape broadcasts.
            _instance: For subclasses with another constructor; may be ignored.

        Returns:
            A new object of that batch shape, which checks arguments if and only if this one does.
        """
        ### BEGIN SOLUTION
        center, radius = self.center.expand(*batch_shape, 2), self.radius.expand(batch_shape)
        return UniformDisk(center, radius, validate_args=self._validate_args)
        ### END SOLUTION


# %% checks="UniformDisk" points=4
boards = UniformDisk(center=torch.tensor([1.0, -2.0]), radius=torch.tensor([0.5, 2.0, 5.0]))
expect_close(list(boards.batch_shape), [3], "One centre and three radii make a batch of three disks.")
expect_close(
    boards.log_prob(torch.tensor([1.1, -2.2])),
    [0.2416, -2.5310, -4.3636],
    "A point near the centre lies on all three boards, where the log density is -ln(pi R^2).",
)
torch.manual_seed(3)
darts = boards.rsample((4000,))
expect_close(list(darts.shape), [4000, 3, 2], "4000 darts for each of three boards, two coordinates each.")
# A radius has the variance R^2/18; for 4000 darts and R = 5 six standard deviations of the mean are 0.11.
expect_close(
    (darts - torch.tensor([1.0, -2.0])).norm(dim=-1).mean(0),
    [1 / 3, 4 / 3, 10 / 3],
    "The mean distance from the centre is 2R/3, not R/2.",
    atol=0.12,
)
# Six standard deviations of a mean over 4000 darts, R/2 in each coordinate: 0.24 for the largest board.
expect_close(darts.mean(0), [[1.0, -2.0]] * 3, "The darts lie around their centre, on all sides of it.", atol=0.24)
expect_close(boards.mean, [[1.0, -2.0]] * 3, "The mean of a disk is its centre.")
expect_close(boards.variance[:, 0], [0.0625, 1.0, 6.25], "A coordinate has the variance R^2/4.")
expect_close(boards.entropy(), [-0.2416, 2.5310, 4.3636], "The entropy is the logarithm of the area.")
expect_close(list(boards.expand((7, 3)).sample((2,)).shape), [2, 7, 3, 2], "Seven times three disks, two darts each.")
unchecked = UniformDisk(torch.zeros(2), torch.tensor(2.0), validate_args=False)
expect_close(
    unchecked.log_prob(torch.tensor([[2.0, 0.0], [1.5, 1.5]])),
    [-2.5310, -math.inf],
    "The rim belongs to the disk; the corner (1.5, 1.5) is 2.12 away from the centre and does not.",
)
for reason, attempt in {
    "A negative radius": lambda: UniformDisk(torch.zeros(2), torch.tensor(-1.0)),
    "A point outside, while arguments are checked,": lambda: boards.log_prob(torch.tensor([4.0, 4.0])),
}.items():
    try:
        attempt()
    except ValueError:
        print(f"ok: {reason} is refused with a ValueError.")
    else:
        raise AssertionError(f"{reason} came through; ValueError was asked for.")

# %% [markdown]
# Below on the left, 2000 darts whose radius is uniform crowd in the middle; next to them, your darts fill the board
# evenly. On the right is the distance from the centre, with the density $2r/R^2$ that belongs to an even board and the
# mean of your draws, which should be $2R/3 = 1.333$.
#
# Then the gradient. Your darts land at an average squared distance of $|c|^2 + R^2/2$ from the origin. Because they are
# differentiable in $c$ and $R$, gradient descent can move and shrink the board without ever seeing this formula, from
# four darts a step. On average the radius takes the formula's own way, $R_{t+1} = R_t - \eta R_t$ with the learning
# rate $\eta$, and the centre $c_{t+1} = c_t - 2 \eta c_t$ (dotted); the wiggles are the noise of four darts.

# %% tags=["demo"]
torch.manual_seed(4)
board = UniformDisk(torch.zeros(2), torch.tensor(2.0))
turn, spread = 2 * math.pi * torch.rand(2000), 2 * torch.rand(2000)
panels = {
    "uniform radius: too many in the middle": torch.stack([spread * turn.cos(), spread * turn.sin()], dim=-1),
    "UniformDisk": board.sample((2000,)),
}
distances = board.sample((20_000,)).norm(dim=-1)

figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
for place, (title, points) in zip(axes, panels.items(), strict=False):
    place.plot(*points.T, ".", markersize=2)
    place.add_patch(plt.Circle((0, 0), 2, fill=False, color="grey"))
    place.set(title=title, aspect="equal", xlabel="$x_1$", ylabel="$x_2$", xlim=(-2.2, 2.2), ylim=(-2.2, 2.2))
axes[2].hist(distances, bins=50, density=True, alpha=0.4, label="20,000 draws")
axes[2].plot([0, 2], [0, 1], color="black", label="$2r/R^2$")
axes[2].vlines(distances.mean(), 0, 1, color="C1", label=f"mean of the draws: {distances.mean().item():.3f}")
axes[2].set(
    xlabel="distance r from the centre", ylabel="density", title="Distance from the centre, R = 2", ylim=(0, 1.5)
)
axes[2].legend()
plt.show()

center, radius = torch.tensor([3.0, 1.0], requires_grad=True), torch.tensor(2.0, requires_grad=True)
optimizer, rate, path = torch.optim.SGD([center, radius], lr=0.02), 0.02, []
for _ in range(120):
    path.append([center[0].item(), center[1].item(), radius.item()])
    loss = UniformDisk(center, radius).rsample((4,)).square().sum(-1).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
steps = torch.arange(120)
figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
for values, name, start, shrink in zip(
    torch.tensor(path).T, ("$c_1$", "$c_2$", "R"), (3.0, 1.0, 2.0), (2, 2, 1), strict=True
):
    (line,) = axes.plot(steps, values, label=name)
    axes.plot(steps, start * (1 - shrink * rate) ** steps, linestyle=":", color=line.get_color())
axes.set(xlabel="step of gradient descent", ylabel="parameter", title="Gradients through the draws (dotted: formula)")
axes.legend()
plt.show()

# %% [markdown]
# ## 3 · Draw from something else, and throw some away
#
# Most densities $p$ have no inverse that you could write down. Suppose you can draw from another density, the
# *proposal* $q$, and know a number $M$ with $p(x) \le M q(x)$ everywhere. Draw $x$ from $q$ and a height $h$ uniformly
# between 0 and $M q(x)$: the point $(x, h)$ is then uniform under the graph of $M q$. Keep $x$ if the point also lies
# under the graph of $p$. What is kept is uniform under the graph of $p$, and its $x$ is a draw from $p$. With
# $h = u\, M q(x)$ the rule is
#
# $$\text{keep } x \text{ if} \quad u < \frac{p(x)}{M q(x)}, \qquad u \sim \mathrm{Uniform}(0, 1)$$
#
# This is **rejection sampling** (von Neumann 1951; Devroye 1986, section II.3.1). The area under $p$ is one, that under
# $M q$ is $M$, so a proposal is kept with probability $1/M$: the smallest possible $M$ is best. If $p$ is known only up
# to a constant, $\tilde p = Z p$ with $\tilde p \le M q$, nothing changes but the rate, which becomes $Z/M$.
#
# Compare logarithms with logarithms. In a hundred dimensions the densities themselves are zero in floating point, and
# an unnormalised one may be $e^{2000}$.
#
# What if $M$ is too small? Where $p > M q$ the ratio exceeds one, the point is always kept, but that is not often
# enough: the draws follow $\min(p, M q)$, and nothing looks wrong. A sampler that meets such a point should say so.
#
# The acceptance rate is what you learn about $M$ and $Z$, so it should be honest: the number of proposals that were
# kept over the number of proposals that were *judged*. If you draw proposals by the thousand and need only ten more
# points, count either the whole block, with all that passed in it, or stop counting at the tenth. And do draw them by
# the thousand: the demo judges a million proposals.
#
# **Task 3 · `rejection_sample` · 4 points · 40 minutes**


# %% task="rejection_sample"
def rejection_sample(
    log_target: Callable[[Tensor], Tensor],
    sample_proposal: Callable[[int, torch.Generator], Tensor],
    log_proposal: Callable[[Tensor], Tensor],
    log_m: float,
    n: int,
    generator: torch.Generator,
) -> tuple[Tensor, float]:
    """Draw n independent points from a density by rejection sampling.

    Args:
        log_target: Maps k points to the logarithms of the wanted density there, shape (k,); unnormalised. They are
            right to 1e-5, but for the constant.
        sample_proposal: `sample_proposal(k, generator)` draws k independent points from the proposal, shape (k,) or
            (k, ...) where a point has axes of its own. Call it as often as you like, with any k of at least 1.
        log_proposal: Maps k points to the logarithms of the proposal's density there, shape (k,); finite. It may lack a
            constant that log_target lacks as well.
        log_m: Logarithm of the factor M, such that target <= M * proposal everywhere.
        n: Number of points wanted, at least 1.
        generator: Source of randomness, for the proposals and for the decisions.

    Returns:
        Exactly n points, shape (n,) or (n, ...), and the acceptance rate, a number from 0 to 1: proposals that passed
        over proposals that were judged.

    Raises:
        ValueError: n is less than 1; or at some proposal that was judged log_target exceeds log_m + log_proposal by
            more than 1e-4, so that M is too small (less is put down to rounding).
    """
    ### BEGIN SOLUTION
    if n < 1:
        raise ValueError(f"at least one point must be asked for, not {n}")
    kept, passed, judged = [], 0, 0
    while True:
        points = sample_proposal(n, generator)
        log_ratio = log_target(points) - log_proposal(points) - log_m
        if (log_ratio > 1e-4).any():
            raise ValueError("the target exceeds M times the proposal: M is too small")
        u = torch.empty_like(log_ratio).uniform_(generator=generator)
        accept = u.log() < log_ratio
        kept.append(points[accept])
        passed += len(kept[-1])
        judged += n
        if passed >= n:
            return torch.cat(kept)[:n], passed / judged
    ### END SOLUTION


# %% checks="rejection_sample" points=4
def half_normal_log_prob(x: Tensor) -> Tensor:
    return 0.5 * math.log(2 / math.pi) - 0.5 * x**2


def draw_exponential(k: int, generator: torch.Generator) -> Tensor:
    return -torch.log1p(-torch.rand(k, generator=generator, dtype=torch.float64))


def exponential_log_prob(x: Tensor) -> Tensor:
    return -x


best_log_m = 0.5 * math.log(2 * math.e / math.pi)  # the largest ratio is at x = 1: M = sqrt(2e/pi) = 1.315489
samples, accepted = rejection_sample(
    half_normal_log_prob, draw_exponential, exponential_log_prob, best_log_m, 10_000, torch.Generator().manual_seed(5)
)
expect_close(list(samples.shape), [10_000], "Exactly as many points as were asked for.")
# 10,000 kept at p = 0.76: the rate has a standard deviation of at most 0.76 * sqrt(0.24 / 10000) = 0.0037.
expect_close(accepted, 1 / 1.315489, "Of the proposals 1/M = 76.0% pass, give or take 0.025.", atol=0.025)
# The mean of a half-normal draw has the standard deviation 0.6028, so that six of 10,000 draws are 0.036.
expect_close(samples.mean(), 0.7979, "The mean of |N(0, 1)| is sqrt(2/pi).", atol=0.037)
_, accepted = rejection_sample(
    lambda x: half_normal_log_prob(x) + 2000,
    draw_exponential,
    exponential_log_prob,
    2000 + math.log(4),
    2000,
    torch.Generator().manual_seed(6),
)
expect_close(accepted, 0.25, "M = 4 keeps a quarter, also where densities are as large as e^2000.", atol=0.06)
try:
    rejection_sample(
        half_normal_log_prob, draw_exponential, exponential_log_prob, 0.0, 1000, torch.Generator().manual_seed(7)
    )
except ValueError:
    print("ok: With M = 1 the target sticks out, and a ValueError says so.")
else:
    raise AssertionError("M = 1 is too small around x = 1, and a thousand proposals met such points: ValueError.")

# %% [markdown]
# Left: proposals from $\mathrm{Exp}(1)$ at their random heights under $M q$, and which of them your rule keeps. Middle:
# 20,000 draws of your function, beside what a sampler that does not mind $M = 1$ would have delivered, namely
# $\min(p, q)$, rescaled (dashed). The shoulder from 0.26 to 1.74, where $p$ exceeds $q$, is cut off, and no error bar
# would have told.
#
# Right: the price in many dimensions. The target is $\mathcal N(0, I)$ in $d$ dimensions, the proposal
# $\mathcal N(0, \sigma^2 I)$ with a $\sigma$ slightly too large. The ratio is largest at the origin, $M = \sigma^d$,
# and the rate $\sigma^{-d}$ (lines) falls exponentially, as your function finds (dots). At $\sigma = 1.5$ and
# $d = 100$ one proposal in $4 \cdot 10^{17}$ would pass. This is why one walks.

# %% tags=["demo"]
generator = torch.Generator().manual_seed(8)
factor, x = math.exp(best_log_m), torch.linspace(0, 4, 401, dtype=torch.float64)
target, proposal = half_normal_log_prob(x).exp(), torch.exp(-x)
candidates = draw_exponential(1500, generator)
height = torch.rand(1500, generator=generator, dtype=torch.float64) * factor * torch.exp(-candidates)
below = height < half_normal_log_prob(candidates).exp()
draws, _ = rejection_sample(half_normal_log_prob, draw_exponential, exponential_log_prob, best_log_m, 20_000, generator)

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.7), layout="constrained")
left.plot(x, factor * proposal, color="black", label="$M\\,q(x)$")
left.plot(x, target, color="C0", label="$p(x)$")
left.plot(candidates[below], height[below], ".", color="C0", markersize=2.5)
left.plot(candidates[~below], height[~below], ".", color="C3", markersize=2.5)
left.set(xlabel="x", ylabel="height", title="Kept (blue) and rejected (red)", xlim=(0, 4), ylim=(0, 1.35))
left.legend()
cut = torch.minimum(target, proposal)
middle.hist(draws, bins=80, range=(0, 4), density=True, alpha=0.4, label="20,000 draws")
middle.plot(x, target, color="C0", label="$p$")
middle.plot(x, cut / torch.trapezoid(cut, x), color="C3", linestyle="--", label="with M = 1, unnoticed")
middle.set(xlabel="x", ylabel="density", title="What comes out", xlim=(0, 4))
middle.legend()
dimensions = torch.arange(1, 16, 2)
for sigma, color in ((1.1, "C0"), (1.25, "C1"), (1.5, "C2")):
    rates = []
    for d in dimensions.tolist():
        _, accepted = rejection_sample(
            lambda x: -0.5 * x.square().sum(-1),
            lambda k, g, sigma=sigma, d=d: sigma * torch.randn(k, d, generator=g, dtype=torch.float64),
            lambda x, sigma=sigma, d=d: -0.5 * (x / sigma).square().sum(-1) - d * math.log(sigma),
            d * math.log(sigma),
            1000,
            generator,
        )
        rates.append(accepted)
    right.semilogy(dimensions, sigma ** -dimensions.double(), color=color, linewidth=0.8)
    right.semilogy(dimensions, rates, "o", color=color, markersize=4, label=rf"$\sigma$ = {sigma}")
right.set(xlabel="dimension d", ylabel="acceptance rate", title="The curse of dimension", xticks=dimensions.tolist())
right.legend()
plt.show()

# %% [markdown]
# ## 4 · Walk
#
# Suppose you can evaluate a density up to a constant, in many dimensions, and nothing more. Start somewhere. From the
# state $x$ propose a step $y = x + s z$ with $z \sim \mathcal N(0, I)$, and
#
# $$\text{move to } y \text{ with probability } \; \alpha(x, y) = \min\Big(1, \frac{p(y)}{p(x)}\Big),
# \qquad \text{else stay at } x$$
#
# That is the **Metropolis algorithm** (Metropolis, Rosenbluth, Rosenbluth, Teller and Teller 1953, whose steps were
# uniform in a square). Uphill always, downhill sometimes. The unknown constant cancels in the ratio.
#
# Why does it work? Imagine a crowd of walkers spread out with density $p$. For two places with $p(x) > p(y)$, steps
# from $y$ to $x$ are always taken, steps from $x$ to $y$ with probability $p(y)/p(x)$; since both are proposed equally
# often, the traffic is $p(y)$ times the same number in both directions. In symbols, with $g$ the density of the step,
#
# $$p(x)\, g(y - x)\, \alpha(x, y) = g(y - x) \min\big(p(x), p(y)\big) = p(y)\, g(x - y)\, \alpha(y, x)$$
#
# This is **detailed balance**: no place gains or loses walkers, so a crowd that has the density $p$ keeps it. A crowd
# that starts elsewhere approaches it, if every region can be reached; the steps until then are called **burn-in** and
# are thrown away.
#
# Staying counts. A walker who is refused is at $x$ once more, and $x$ enters the record once more: this is how places
# of high density come to be counted more often. The authors of 1953 say so on their second page, and forgetting it is
# the most common mistake. For $p = \mathcal N(0, 1)$ and $s = 2.4$, a record of accepted moves alone has the variance
# 1.13.
#
# For this $p$ the fraction of accepted steps has a closed form, so you can test your sampler. Once the crowd has the
# density $p$, by detailed balance uphill moves are exactly half of the accepted ones, and uphill means
# $|x + s z| < |x|$, that is, $sz$ lies between $0$ and $-2x$, or $-2/s < z/x < 0$. The ratio of two independent
# standard normal variables is Cauchy distributed, with distribution function $\tfrac12 + \tfrac1\pi \arctan t$. Hence
#
# $$\text{acceptance rate} = 2 \cdot \frac1\pi \arctan\frac2s
# = \begin{cases} 0.704833 & s = 1 \\ 0.442284 & s = 2.4 \end{cases}$$
#
# Nothing keeps you from walking with a thousand walkers at once: torch moves them all in one operation. They must not
# share their luck, though. Each needs its own step and its own decision.
#
# **Task 4 · `metropolis` · 4 points · 40 minutes**


# %% task="metropolis"
def metropolis(
    log_prob: Callable[[Tensor], Tensor],
    x0: Tensor,
    n_steps: int,
    step_size: float,
    generator: torch.Generator,
    burn_in: int = 0,
) -> tuple[Tensor, Tensor]:
    """Random-walk Metropolis with normal steps, for many independent chains at once.

    Args:
        log_prob: Maps points, shape (chains, dim), to the logarithms of the density there, shape (chains,);
            unnormalised, -inf where the density is zero. Call it with all the chains together.
        x0: Where the chains start, shape (chains, dim).
        n_steps: Number of steps that are recorded, at least 1.
        step_size: Standard deviation of a proposed step in each coordinate, positive.
        generator: Source of randomness.
        burn_in: Number of steps made before those that are recorded.

    Returns:
        The chains, shape (n_steps, chains, dim), in the dtype of x0: the state of each chain after each recorded step.
        The start itself is not among them, and neither is anything of the burn-in. And for each chain the fraction
        of the recorded steps at which the proposal was accepted, shape (chains,), in the dtype of x0.

    Raises:
        ValueError: n_steps is less than 1, burn_in is negative, step_size is zero or negative, or a chain starts where
            the density is zero.
    """
    ### BEGIN SOLUTION
    if n_steps < 1 or burn_in < 0:
        raise ValueError(f"cannot record {n_steps} steps after {burn_in}")
    if step_size <= 0:
        raise ValueError(f"the step size must be positive, not {step_size}")
    x, log_p = x0, log_prob(x0)
    if torch.isneginf(log_p).any():
        raise ValueError("a chain starts where the density is zero")
    chain = x0.new_empty(n_steps, *x0.shape)
    accepted = x0.new_zeros(len(x0))
    for step in range(-burn_in, n_steps):
        proposal = x + step_size * torch.empty_like(x).normal_(generator=generator)
        log_p_there = log_prob(proposal)
        u = torch.empty_like(log_p).uniform_(generator=generator)
        accept = u.log() < log_p_there - log_p
        x = torch.where(accept[:, None], proposal, x)
        log_p = torch.where(accept, log_p_there, log_p)
        if step >= 0:
            chain[step] = x
            accepted += accept
    return chain, accepted / n_steps
    ### END SOLUTION


# %% checks="metropolis" points=4
def normal_log_density(x: Tensor) -> Tensor:
    return -0.5 * x.square().sum(-1)


walkers = torch.randn(4000, 1, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
chain, accepted = metropolis(normal_log_density, walkers, 10, 2.4, torch.Generator().manual_seed(10))
expect_close(list(chain.shape), [10, 4000, 1], "Ten recorded steps of 4000 chains in one dimension.")
expect_close(list(accepted.shape), [4000], "One acceptance rate for each chain.")
# 4000 independent rates, each of variance below 0.442 * 0.558: six standard deviations of their mean are below 0.048.
expect_close(accepted.mean(), 0.4423, "Steps of 2.4 are accepted with probability (2/pi) atan(2/2.4).", atol=0.048)
# x^2 has variance 2, so that six standard deviations of the mean over 4000 walkers are 0.134.
expect_close(chain[-1].square().mean(), 1.0, "A crowd that starts with the density keeps it: variance 1.", atol=0.135)
moved = (chain[1:] != chain[:-1]).squeeze(-1).double().mean()
expect_close(moved, 0.4423, "A refused walker is at the same place once more, so 56% stay.", atol=0.05)
wide, _ = metropolis(
    lambda x: normal_log_density(x) + 5000, walkers.repeat(1, 2), 40, 2.4, torch.Generator().manual_seed(11)
)
expect_close(
    (wide[-1, :, 0] * wide[-1, :, 1]).mean(),
    0.0,
    "In two dimensions, with a constant of e^5000, coordinates that were equal at the start part ways.",
    atol=0.15,
)
first = (chain[0] != walkers).double().mean()
expect_close(
    first, 0.4423, "The first record is the state after one step, not the start; x0 stays as it was.", atol=0.05
)
late, _ = metropolis(normal_log_density, walkers + 8.0, 1, 2.4, torch.Generator().manual_seed(11), burn_in=60)
expect_close(late.mean(), 0.0, "Sixty steps of burn-in bring a crowd back that starts 8 too far right.", atol=0.1)

# %% [markdown]
# First, the step size. With $s = 0.2$ nearly every step is accepted and the walk gets nowhere; with $s = 30$ it stands
# still for long and then leaps; in between it does what one wants. All three are right in the end.
#
# Second, the tests of your sampler. On the left the acceptance rate over the step size, from 2000 short chains, falls
# on $\tfrac2\pi \arctan\tfrac2s$. On the right is the density of the states, and of the proposals that were
# accepted, for $s = 2.4$: a record without the refused steps has a variance near 1.13. (The demo finds those among your
# states: they differ from the state before.)

# %% tags=["demo"]
generator = torch.Generator().manual_seed(12)
one = torch.zeros(1, 1, dtype=torch.float64)
figure, axes = plt.subplots(1, 3, figsize=(12, 2.8), sharey=True, layout="constrained")
for place, size in zip(axes, (0.2, 2.4, 30.0), strict=True):
    walk, fraction = metropolis(normal_log_density, one, 500, size, generator)
    place.plot(walk[:, 0, 0], linewidth=0.8)
    place.set(xlabel="step", title=f"s = {size:g}: {fraction.item():.0%} accepted", ylim=(-4, 4))
axes[0].set_ylabel("state x")
plt.show()

sizes = torch.logspace(-1, 1.5, 16, dtype=torch.float64)
crowd = torch.randn(2000, 1, generator=generator, dtype=torch.float64)
measured = [metropolis(normal_log_density, crowd, 20, size, generator)[1].mean() for size in sizes.tolist()]
states, _ = metropolis(normal_log_density, crowd, 200, 2.4, generator)
changed = states[1:] != states[:-1]
only_accepted = states[1:][changed]
x = torch.linspace(-4, 4, 401, dtype=torch.float64)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
left.semilogx(sizes, 2 / math.pi * torch.atan(2 / sizes), color="black", label=r"$\frac{2}{\pi}\arctan\frac{2}{s}$")
left.semilogx(sizes, measured, "o", label="measured")
left.set(xlabel="step size s", ylabel="acceptance rate", title="Random-walk Metropolis on N(0, 1)", ylim=(0, 1))
left.legend()
edges = torch.linspace(-4, 4, 81, dtype=torch.float64)
for values, name in ((states.flatten(), "all states"), (only_accepted, "accepted moves only")):
    density = torch.histogram(values, bins=edges, density=True).hist
    right.stairs(density, edges, label=f"{name}: variance {values.var().item():.3f}")
right.plot(
    x, torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi), color="black", linewidth=0.8, label=r"$\mathcal{N}(0, 1)$"
)
right.set(xlabel="x", ylabel="density", title="What dropping the refused steps does (s = 2.4)", ylim=(0, 0.55))
right.legend(loc="upper left", fontsize=8)
plt.show()

# %% [markdown]
# ## 5 · Walk with a bias
#
# A better proposal may know something: that a waiting time is never negative, or in which direction the density rises.
# Then $q(y \mid x)$, the density of proposing $y$ from $x$, differs from $q(x \mid y)$, and the traffic above no longer
# balances. Hastings (1970) put it right by dividing the traffic by how often it is proposed:
#
# $$\alpha(x, y) = \min\Big(1, \frac{p(y)\, q(x \mid y)}{p(x)\, q(y \mid x)}\Big)$$
#
# Read it as two ratios: where is it better to be, and how easily would I have come back? With a symmetric proposal the
# second one is 1, and we are back at Metropolis.
#
# Take a density on $x > 0$ and multiply, $y = x e^{s z}$ with a normal $z$, so that no proposal is ever wasted on
# negative numbers. Then $y$ is log-normal, $q(y \mid x) = \mathcal N(\ln y; \ln x, s^2) / y$, and the correction is
# $q(x \mid y) / q(y \mid x) = y / x$. It looks harmless, and forgetting it is not. In the variable $\ln x$ this is
# an ordinary Metropolis walk, which now takes $p$ for a density of $\ln x$; so the draws of $x$ follow $p(x)/x$,
# normalised. For the gamma distribution of shape 3, $p(x) \propto x^2 e^{-x}$, you would sample $x e^{-x}$ and find a
# mean of 2 where 3 is right.
#
# **Task 5 · `metropolis_hastings` · 2 points · 20 minutes**


# %% task="metropolis_hastings"
def metropolis_hastings(
    log_prob: Callable[[Tensor], Tensor],
    propose: Callable[[Tensor, torch.Generator], Tensor],
    log_proposal: Callable[[Tensor, Tensor], Tensor],
    x0: Tensor,
    n_steps: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Metropolis-Hastings with any proposal, for many independent chains at once.

    Args:
        log_prob: Maps points, shape (chains, dim), to the logarithms of the density there, shape (chains,);
            unnormalised, -inf where the density is zero.
        propose: `propose(x, generator)` draws a proposal y from q(y | x) for each row of x; same shape as x.
        log_proposal: `log_proposal(y, x)` is ln q(y | x) for each pair of rows, shape (chains,): the first argument is
            where the step leads, the second where it starts. May be -inf for a step that is never proposed. A proposal
            of zero density is refused, whatever log_proposal returns there, NaN included.
        x0: Where the chains start, shape (chains, dim).
        n_steps: Number of steps, at least 1.
        generator: Source of randomness, for the proposals and for the decisions.

    Returns:
        The state of each chain after each step, shape (n_steps, chains, dim), in the dtype of x0, the start not among
        them; and for each chain the fraction of accepted proposals, shape (chains,), in the dtype of x0.

    Raises:
        ValueError: n_steps is less than 1, or a chain starts where the density is zero.
    """
    ### BEGIN SOLUTION
    if n_steps < 1:
        raise ValueError(f"at least one step must be asked for, not {n_steps}")
    x, log_p = x0, log_prob(x0)
    if torch.isneginf(log_p).any():
        raise ValueError("a chain starts where the density is zero")
    chain = x0.new_empty(n_steps, *x0.shape)
    accepted = x0.new_zeros(len(x0))
    for step in range(n_steps):
        y = propose(x, generator)
        log_p_there = log_prob(y)
        log_ratio = log_p_there + log_proposal(x, y) - log_p - log_proposal(y, x)
        u = torch.empty_like(log_p).uniform_(generator=generator)
        accept = u.log() < log_ratio
        x = torch.where(accept[:, None], y, x)
        log_p = torch.where(accept, log_p_there, log_p)
        chain[step] = x
        accepted += accept
    return chain, accepted / n_steps
    ### END SOLUTION


# %% checks="metropolis_hastings" points=2
def gamma_log_density(x: Tensor) -> Tensor:
    return (2 * x.log() - x).sum(-1)


def multiply(x: Tensor, generator: torch.Generator) -> Tensor:
    return x * torch.exp(torch.randn(x.shape, generator=generator, dtype=x.dtype))


def multiply_log_density(y: Tensor, x: Tensor) -> Tensor:
    return (-0.5 * (y.log() - x.log()) ** 2 - y.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


# The sum of three waiting times of rate 1 has the gamma distribution of shape 3: a crowd that starts right.
waits = -torch.log1p(-torch.rand(4000, 3, generator=torch.Generator().manual_seed(13), dtype=torch.float64))
start = waits.sum(-1, keepdim=True)
chain, accepted = metropolis_hastings(
    gamma_log_density, multiply, multiply_log_density, start, 30, torch.Generator().manual_seed(14)
)
expect_close(list(chain.shape), [30, 4000, 1], "Thirty steps of 4000 chains in one dimension.")
# Variance 3, so that six standard deviations of the mean over 4000 chains are 0.165.
expect_close(chain[-1].mean(), 3.0, "The gamma distribution of shape 3 has mean 3; without q it would be 2.", atol=0.17)


def shrink(x: Tensor, generator: torch.Generator) -> Tensor:
    return 0.6 * x + 0.8 * torch.randn(x.shape, generator=generator, dtype=x.dtype)


def shrink_log_density(y: Tensor, x: Tensor) -> Tensor:
    return -0.5 * ((y - 0.6 * x) / 0.8).square().sum(-1)


_, accepted = metropolis_hastings(
    normal_log_density, shrink, shrink_log_density, walkers, 20, torch.Generator().manual_seed(15)
)
expect_close(accepted, torch.ones(4000), "y = 0.6x + 0.8z keeps N(0, 1) by itself: nothing needs to be refused.")
_, accepted = metropolis_hastings(
    normal_log_density,
    lambda x, g: x + 2.4 * torch.randn(x.shape, generator=g, dtype=x.dtype),
    lambda y, x: -0.5 * ((y - x) / 2.4).square().sum(-1),
    walkers,
    10,
    torch.Generator().manual_seed(15),
)
expect_close(accepted.mean(), 0.4423, "With a symmetric step it is task 4 again: (2/pi) atan(2/2.4).", atol=0.048)

# %% [markdown]
# Below, your function samples the gamma distribution of shape 3 with the multiplicative step, on the left as it should,
# on the right with a `log_proposal` that returns zero, which is the same as forgetting Hastings. Both walks look
# healthy and have similar acceptance rates. Only one has the right answer.

# %% tags=["demo"]
generator = torch.Generator().manual_seed(16)
start = torch.ones(1000, 1, dtype=torch.float64)
corrections = {
    "with the correction": multiply_log_density,
    "without it": lambda y, x: torch.zeros(len(x), dtype=x.dtype),
}
x = torch.linspace(0.01, 12, 600, dtype=torch.float64)
figure, both = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True, layout="constrained")
for axes, (name, correction) in zip(both, corrections.items(), strict=True):
    chain, accepted = metropolis_hastings(gamma_log_density, multiply, correction, start, 230, generator)
    settled = chain[30:]
    axes.hist(settled.flatten(), bins=96, range=(0, 12), density=True, alpha=0.4, label=f"mean {settled.mean():.2f}")
    axes.plot(x, x**2 * torch.exp(-x) / 2, color="C0", label=r"wanted: $\frac{1}{2}x^2e^{-x}$")
    axes.plot(x, x * torch.exp(-x), color="C3", linestyle="--", label=r"$p(x)/x$, normalised: $xe^{-x}$")
    axes.set(xlabel="x", title=f"{name}: {accepted.mean():.0%} accepted", xlim=(0, 12))
    axes.legend()
both[0].set_ylabel("density")
plt.show()

# %% [markdown]
# ## 6 · What a chain is worth
#
# The mean of $n$ independent draws of variance $\sigma^2$ has the variance $\sigma^2/n$. If the draws come from a
# chain, neighbours are alike, and the variance of the mean is larger. Write $\rho_k$ for the correlation of states that
# are $k$ steps apart. Adding up the covariances of all pairs gives, for long chains,
#
# $$\operatorname{Var}(\bar x) \approx \frac{\sigma^2}{n}\,\tau, \qquad \tau = 1 + 2 \sum_{k=1}^\infty \rho_k ,
# \qquad \mathrm{ESS} = \frac n\tau$$
#
# $\tau$ is the **integrated autocorrelation time** and ESS the **effective sample size**: that many independent draws
# would determine the mean equally well. If $\rho_k = r^k$, as for the autoregressive chain $x_{t+1} = r x_t + z_t$, a
# geometric series gives $\mathrm{ESS} = n\,(1 - r)/(1 + r)$. For $r = 0.9$ that is 5% of $n$; for negative $r$ it is
# more than $n$, since neighbours then make up for each other's errors.
#
# The correlations must be estimated from the same chain, with $\bar x$ its mean:
#
# $$\hat\gamma_k = \frac1n \sum_{t=1}^{n-k} (x_t - \bar x)(x_{t+k} - \bar x), \qquad
# \hat\rho_k = \frac{\hat\gamma_k}{\hat\gamma_0}$$
#
# The divisor is $n$ for every $k$, although there are only $n - k$ terms: far lags, which are mostly noise, are thereby
# damped. Now the sum. To take all lags is tempting and useless: because $\sum_t (x_t - \bar x) = 0$, the estimated
# $1 + 2 \sum_{k=1}^{n-1} \hat\rho_k$ is *exactly zero* for every chain. One has to stop where noise takes over.
# Geyer (1992, theorem 3.1 and section 3.3) found a place for it. For a chain with detailed balance the sums of
# neighbouring correlations $\Gamma_m = \rho_{2m} + \rho_{2m+1}$ are positive, although single ones need not be. So add
# the pairs as long as the estimated ones are positive, and stop for good before the first that is not:
#
# $$\hat\tau = -1 + 2 \sum_{m=0}^{K} \hat\Gamma_m, \qquad
# K = \text{the last index before the first } \hat\Gamma_m \le 0$$
#
# The first pair contains $\rho_0 = 1$, counted twice; the $-1$ makes up for it. Pairs go as far as $2m + 1 \le n - 1$.
#
# **Task 6 · `effective_sample_size` · 3 points · 35 minutes**


# %% task="effective_sample_size"
def effective_sample_size(chain: Tensor) -> Tensor:
    """Effective sample sizes of chains, with Geyer's initial positive sequence.

    Args:
        chain: States, shape (n, ...), n at least 4: time runs along the first axis, and whatever stands behind it
            (chains, coordinates) is treated one by one. The numbers may lie far from zero.

    Returns:
        n / tau for each chain, shape (...), in the dtype of the chain, with tau estimated as above. It may exceed n. A
        chain all of whose states are equal has an effective sample size of 1 (compare the states: rounding may keep
        the estimated variance from zero). Where the estimated tau is negative, which happens to short chains that
        swing from side to side, it is +inf; where tau is zero but for rounding, +inf or a huge number.

    Raises:
        ValueError: The chain has fewer than 4 states.
    """
    ### BEGIN SOLUTION
    n = len(chain)
    if n < 4:
        raise ValueError(f"a chain of {n} states is too short")
    centred = chain - chain.mean(0)
    spectrum = torch.fft.rfft(centred, n=2 * n, dim=0)  # with n zeros behind the chain, so that its ends do not meet
    autocovariance = torch.fft.irfft(spectrum.abs().square(), dim=0)
    pairs = (autocovariance[: n // 2 * 2] / autocovariance[0]).unflatten(0, (n // 2, 2)).sum(1)
    tau = 2 * (pairs * (pairs > 0).cumprod(0)).sum(0) - 1
    constant = (chain == chain[0]).all(0)
    return torch.where(constant, 1.0, torch.where(tau > 0, n / tau, math.inf))
    ### END SOLUTION


# %% checks="effective_sample_size" points=3
ladder = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
# Deviations -2.5 to 2.5; autocovariances 17.5, 8.75, 1, ... over 6. Pairs: 26.25/17.5 = 1.5, (1 - 4.75)/17.5 < 0.
expect_close(effective_sample_size(ladder), 3.0, "Six states on a ladder: one positive pair, 1.5, so tau is 2.")
expect_close(effective_sample_size(torch.full((1000, 2), 0.1)), [1.0, 1.0], "States that never change are worth one.")
swing = torch.tensor([3.0, -1.0, 2.0, -3.0, 2.0, 0.0, -2.0, 1.0])
expect_close(
    effective_sample_size(torch.stack([swing, 100 - 5 * swing], dim=1)),
    [24.8889, 24.8889],
    "A chain that swings is worth more than its 8 states; shifted and stretched it is worth as much.",
)
noise = torch.randn(4000, 50, generator=torch.Generator().manual_seed(17), dtype=torch.float64)
sluggish = [noise[0]]
for innovation in noise[1:]:
    sluggish.append(0.5 * sluggish[-1] + math.sqrt(0.75) * innovation)
expect_close(
    effective_sample_size(torch.stack(sluggish)).mean() / 4000,
    1 / 3,
    "An autoregressive chain with r = 0.5 is worth a third of its length.",
    atol=0.03,
)

# %% [markdown]
# On the left are autoregressive chains from $r = -0.6$ to $0.95$: dots are your estimates, each the mean over 40 chains
# of 2000 states, the curve is $(1 - r)/(1 + r)$.
#
# In the middle your sampler of task 4 meets your ruler: what is one Metropolis step on $\mathcal N(0, 1)$ worth? Small
# steps are accepted and get nowhere, large ones are refused. The best step is near $s = 2.4$, where 44% are accepted
# and a step is worth 0.23 independent draws. In $d$ dimensions, for targets close to normal, the rule of thumb is
# $2.4/\sqrt d$ (Gelman, Roberts and Gilks 1996). High acceptance is no aim in itself.
#
# On the right is what no ruler can tell. The target has two equal humps at $-5$ and $5$, and a chain with $s = 1$ finds
# one of them. Its states look well mixed, its effective sample size is what one hump deserves, and its mean
# is wrong by five. Only chains that start at different places give it away.

# %% tags=["demo"]
generator = torch.Generator().manual_seed(18)
coefficients = torch.tensor([-0.6, -0.3, 0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95], dtype=torch.float64)
innovations = torch.randn(2000, 40, 9, generator=generator, dtype=torch.float64)
chains = torch.empty_like(innovations)
chains[0] = innovations[0]
for t in range(1, 2000):
    chains[t] = coefficients * chains[t - 1] + (1 - coefficients**2).sqrt() * innovations[t]
worth = effective_sample_size(chains).mean(0) / 2000

sizes = torch.logspace(math.log10(0.3), math.log10(20), 15, dtype=torch.float64)
crowd = torch.randn(100, 1, generator=generator, dtype=torch.float64)
per_step, fractions = [], []
for size in sizes.tolist():
    walk, fraction = metropolis(normal_log_density, crowd, 2000, size, generator)
    per_step.append(effective_sample_size(walk).mean().item() / 2000)
    fractions.append(fraction.mean().item())


def two_humps(x: Tensor) -> Tensor:
    return torch.logaddexp(-0.5 * (x[:, 0] - 5) ** 2, -0.5 * (x[:, 0] + 5) ** 2)


starts = torch.tensor([[-5.0], [5.0]], dtype=torch.float64)
stuck, _ = metropolis(two_humps, starts, 2000, 1.0, generator)

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.7), layout="constrained")
r = torch.linspace(-0.65, 0.98, 200)
left.semilogy(r, (1 - r) / (1 + r), color="black", linewidth=0.8, label="$(1 - r)/(1 + r)$")
left.semilogy(coefficients, worth, "o", label="estimated")
left.set(xlabel="correlation r of neighbours", ylabel="ESS / n", title="Autoregressive chains")
left.legend()
middle.semilogx(sizes, per_step, "o-", label="ESS / n")
middle.semilogx(sizes, fractions, color="grey", linestyle="--", label="acceptance rate")
middle.axvline(2.4, color="grey", linewidth=0.8, linestyle=":", label="s = 2.4")
middle.set(xlabel="step size s", ylabel="fraction", title="What a Metropolis step is worth", ylim=(0, 1))
middle.legend()
for index, color in ((0, "C0"), (1, "C1")):
    one_chain = stuck[:, index, 0]
    label = f"mean {one_chain.mean().item():+.1f}, ESS {effective_sample_size(one_chain).item():.0f}"
    right.plot(one_chain, linewidth=0.6, color=color, label=label)
right.set(xlabel="step", ylabel="state x", title="Two humps, two chains that never met", ylim=(-9.5, 14))
right.legend(loc="upper right")
plt.show()

# %% [markdown]
# ## What you have now
#
# | Method | What you must know | What you get | Where it returns |
# |---|---|---|---|
# | $F^{-1}(u)$ | the inverse distribution function | independent draws, differentiable | flows, noise schedules |
# | $c + R\,\varepsilon$ | a transformation of simple noise | the same, in many dimensions | VAE, GAN, diffusion |
# | rejection | $p$ up to a constant, a bound $M$ | independent draws, at a rate of $Z/M$ | speculative decoding |
# | Metropolis | $p$ up to a constant | dependent draws, in the limit | energy-based models |
# | Metropolis-Hastings | the same, and $q$ both ways | the same, with clever proposals | Langevin sampling |
# | ESS | the chain | how many draws it is worth | every error bar from a chain |
#
# Three habits are worth keeping. Test a sampler on a case with a closed form, as you did with
# $\tfrac2\pi\arctan\tfrac2s$. Count what was refused. And start more than one chain.
