# %% [markdown]
# # Information theory
#
# A generative model is a belief about the world, written as a probability distribution. To train it we need one
# number that says how wrong the belief is, and the number almost always comes from here:
#
# - a language model is trained on a **cross-entropy**;
# - a variational autoencoder pays a **KL divergence** for what its code tells about the image;
# - the first GAN, with a perfect discriminator, minimises a **Jensen-Shannon divergence**;
# - whether a latent code carries anything at all is a question about **mutual information**.
#
# All four come from one question: *how long a message do you need to tell someone what happened?* You will answer it
# for discrete distributions, for densities with a closed form, for densities you can only evaluate, and for densities
# you can only sample. Most later assignments lean on one of these answers.
#
# **Conventions.** They hold in all eight tasks.
#
# - Logarithms are natural, so the unit is the **nat**. One nat is $1/\ln 2 \approx 1.4427$ bits; divide nats by
#   $\ln 2$ to get bits.
# - $\mathcal N(m, s^2)$ is written with the **variance**: $\mathcal N(0, 4)$ has standard deviation 2. An argument
#   called `sigma` is a **standard deviation**.
# - Axes in front are a batch: a table of shape (5, 3) holds five distributions over three outcomes.
# - Tensors are float32 or float64 and hold no NaN. A result has the dtype and the device of the arguments, unless the
#   docstring says otherwise, and the arguments are left as they were.
# - Formulas are meant exactly. Adding a small number to keep a logarithm finite gives a number that is nearly right,
#   and hides the cases that should be infinite.
# - Results are right up to rounding: where 0 is the least possible, $-10^{-8}$ is as good. Unless the docstring says
#   otherwise, numbers are zero or of ordinary size: their squares, products and quotients do not leave the range of
#   the dtype.
# - Any function of `torch` may be used, `torch.special` and `torch.distributions` included. What counts is the right
#   value, also in the special cases that a docstring names.
#
# The book behind most formulas is T. M. Cover and J. A. Thomas, *Elements of Information Theory*, 2nd edition, Wiley
# 2006, cited as C&T. Its logarithms have base 2, ours base $e$.
#
# **How to work.** The tasks take about 2 hours and 40 minutes together. Each has a cell for your answer, a cell of
# checks that you see, and a demo that draws what your function finds. The points of a task are shared out among further
# checks, which you do not see. Checks and demos raise an error until their task is solved, and some demos use earlier
# tasks too, so run the cells one at a time and *Run All* at the end. A notebook with unsolved tasks can be handed in:
# it is graded task by task. Keep `expect.py` beside the notebook.

# %%
import math
from collections.abc import Callable

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import LogNorm
from torch import Tensor

from expect import expect_close

# %% [markdown]
# ## 1 · What an outcome tells you
#
# Suppose you report the winner of a horse race every day and pay by the letter. You would give the favourite a short
# word and the outsider a long one. The best possible word for an outcome of probability $p_i$ has about
# $\log_2 1/p_i$ letters of the alphabet {0, 1}: halve the probability and the word grows by one bit. Measured in nats,
# the outcome carries the **surprise** $-\ln p_i$, and the average surprise is the **entropy**
#
# $$H(p) = -\sum_i p_i \ln p_i$$
#
# (C&T section 2.1). No code that can be decoded does better on average (C&T sections 5.3 and 5.5).
#
# An outcome that never happens needs no word, and indeed $x \ln x \to 0$ as $x \to 0$. Floating point disagrees: to a
# computer $0 \cdot (-\infty)$ is NaN, and one NaN in a loss ends a training run.
#
# **Task 1 · `entropy` · 2 points · 15 minutes**


# %% task="entropy"
def entropy(p: Tensor) -> Tensor:
    """Entropy of discrete distributions, in nats.

    Args:
        p: Probabilities, shape (..., outcomes), summing to one over the last axis. Zeros are allowed.

    Returns:
        Entropies, shape (...), in the dtype of p. Outcomes of probability zero contribute nothing, all others their
        exact share.
    """
    ### BEGIN SOLUTION
    return -torch.special.xlogy(p, p).sum(-1)
    ### END SOLUTION


# %% checks="entropy" points=2
horses = torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 64, 1 / 64, 1 / 64, 1 / 64])
expect_close(entropy(horses), 1.3863, "The eight horses of C&T example 1.1.2 cost 2 bits a race, 1.3863 nats.")
expect_close(entropy(torch.tensor([1.0, 0.0])), 0.0, "An outcome that is certain is no news: zero nats.")
spinners = torch.tensor([[0.7, 0.2, 0.1], [0.4, 0.4, 0.2]])
expect_close(entropy(spinners), [0.8018, 1.0549], "Two spinners with three fields, one in each row: one entropy each.")

# %% [markdown]
# On the left below is a coin that shows heads with probability $p$. At $p = 1/2$ a toss is worth a whole bit, and a
# coin with two heads tells you nothing. The curve is steep at the ends: a coin that is only *almost* certain still has
# a lot to tell.
#
# On the right, the same eight scores become probabilities by a softmax at three temperatures, which is how a language
# model chooses its next word. Cold is nearly certain and cheap to report, hot comes close to the most that eight
# outcomes can carry, $\ln 8 = 2.079$ nats when all are alike (dotted).

# %% tags=["demo"]
heads = torch.linspace(0, 1, 201)
scores = torch.tensor([3.0, 2.2, 1.9, 1.0, 0.4, 0.0, -0.6, -1.5])

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
left.plot(heads, entropy(torch.stack([heads, 1 - heads], dim=-1)))
left.set(xlabel="probability of heads", ylabel="entropy (nats)", title="A coin", xlim=(0, 1), ylim=(0, 0.75))
in_bits = left.secondary_yaxis("right", functions=(lambda nats: nats / math.log(2), lambda bits: bits * math.log(2)))
in_bits.set_ylabel("entropy (bits)")
for shift, temperature in zip([-0.27, 0.0, 0.27], [0.5, 1.0, 3.0], strict=True):
    probabilities = torch.softmax(scores / temperature, dim=0)
    label = f"temperature {temperature}: {entropy(probabilities).item():.3f} nats"
    right.bar(torch.arange(1, 9) + shift, probabilities, width=0.25, label=label)
right.axhline(1 / 8, color="grey", linestyle=":", label=f"all alike: ln 8 = {math.log(8):.3f} nats")
right.set(xlabel="outcome", ylabel="probability", title="Eight outcomes at three temperatures")
right.legend()
plt.show()

# %% [markdown]
# ## 2 · A density has entropy too
#
# To report a real number exactly takes infinitely many digits, so its entropy is infinite. Reported to a precision
# $\Delta$, its cost is about $h(f) - \ln \Delta$ nats (C&T theorem 8.3.1). The second term belongs to the ruler; the
# first belongs to the density and is called **differential entropy**:
#
# $$h(f) = -\int f(x) \ln f(x) \, dx$$
#
# (C&T section 8.1). It is what remains after something infinite has been taken away, and this shows: it can be
# *negative*, and it changes when you measure in centimetres what you had measured in metres.
#
# For a normal density $-\ln f(x)$ is a parabola, and its average needs nothing but the variance (C&T example 8.1.2):
#
# $$h\big(\mathcal N(\mu, \sigma^2)\big) = \tfrac12 \ln\!\big(2 \pi e \sigma^2\big)$$
#
# The mean has dropped out: moving a density does not make it harder to describe.
#
# **Task 2 · `gaussian_entropy` · 2 points · 10 minutes**


# %% task="gaussian_entropy"
def gaussian_entropy(sigma: Tensor) -> Tensor:
    """Differential entropy of normal distributions N(mu, sigma^2), in nats.

    Args:
        sigma: Standard deviations, any shape, positive. They may be so small or so large that the dtype cannot
            represent their squares (1e-30 in float32).

    Returns:
        Entropies, the shape and dtype of sigma. Finite for every finite positive sigma.

    Raises:
        ValueError: Some sigma is zero or negative.
    """
    ### BEGIN SOLUTION
    if (sigma <= 0).any():
        raise ValueError("sigma is a standard deviation and must be positive")
    return sigma.log() + 0.5 * math.log(2 * math.pi * math.e)
    ### END SOLUTION


# %% checks="gaussian_entropy" points=2
expect_close(gaussian_entropy(torch.tensor(3.0)), 2.5176, "N(5, 9) has an entropy of 2.5176 nats, as N(0, 9) has.")
expect_close(
    gaussian_entropy(torch.tensor([0.1, 10.0])),
    [-0.8836, 3.7215],
    "A hundred times the standard deviation costs ln 100 = 4.6052 nats more, and the narrow density is below zero.",
)
try:
    gaussian_entropy(torch.tensor([2.0, -1.0]))
except ValueError:
    print("ok: A negative standard deviation is refused with a ValueError.")
else:
    raise AssertionError("A negative standard deviation came through; ValueError was asked for.")

# %% [markdown]
# Below, the narrow density on the left rises above one, its logarithm is positive where it matters, and its entropy is
# negative. On the right, a straight line over a logarithmic axis: each doubling of $\sigma$ costs $\ln 2$ nats, one
# bit, and zero is crossed at $\sigma = 1/\sqrt{2 \pi e} \approx 0.242$. There is nothing special about that place. Had
# we chosen another unit of length it would lie elsewhere. *Differences* of differential entropies do not depend on
# the unit, and every divergence below is such a difference.

# %% tags=["demo"]
grid = torch.linspace(-3, 3, 601)
sigmas = torch.logspace(-2, 2, 101)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for sigma in (0.15, 0.5, 1.5):
    label = rf"$\sigma$ = {sigma}: {gaussian_entropy(torch.tensor(sigma)).item():+.2f} nats"
    left.plot(grid, torch.distributions.Normal(0.0, sigma).log_prob(grid).exp(), label=label)
left.axhline(1, color="grey", linewidth=0.8, linestyle=":")
left.set(xlabel="x", ylabel="density", title="Three normal densities and their entropies")
left.legend()
right.semilogx(sigmas, gaussian_entropy(sigmas))
right.axhline(0, color="grey", linewidth=0.8)
right.axvline(1 / math.sqrt(2 * math.pi * math.e), color="grey", linewidth=0.8, linestyle=":")
right.set(xlabel=r"standard deviation $\sigma$", ylabel="entropy (nats)", title="Entropy of a normal density")
plt.show()

# %% [markdown]
# ## 3 · A density known only as a function
#
# Few densities come with a formula for their entropy. A mixture of two normals has none, and neither has what a
# normalizing flow computes. You can still *evaluate* $\ln f$, and in one dimension that is enough: take $n$ equally
# spaced points $x_1 < \dots < x_n$ a distance $\Delta$ apart, join the values of the integrand $g = -f \ln f$ by
# straight lines, and add up the areas underneath,
#
# $$\int_{x_1}^{x_n} g(x)\, dx \;\approx\; \sum_{i=1}^{n-1} \frac{g(x_i) + g(x_{i+1})}{2}\, \Delta ,$$
#
# the **trapezoidal rule**. Two things deserve care. Count the gaps: $n$ points have $n - 1$ of them. And look into the
# tails: a distribution object gives you $\ln f$, which is a harmless $-1250$ at 50 standard deviations, while $f$
# itself is a float64 zero there; outside the support of a density even $\ln f$ is $-\infty$. Both are the
# $0 \ln 0$ of task 1 in new clothes.
#
# **Task 3 · `differential_entropy` · 3 points · 30 minutes**


# %% task="differential_entropy"
def differential_entropy(log_prob: Callable[[Tensor], Tensor], lower: float, upper: float, n: int) -> Tensor:
    """Differential entropy of a density on [lower, upper], in nats, by the trapezoidal rule.

    The integrand is evaluated at the n points of `torch.linspace(lower, upper, n)`, in float64 on the CPU.

    Args:
        log_prob: Natural logarithm of the density. It takes points as a float64 tensor of any shape and returns a
            float64 tensor of the same shape, with -inf where the density is zero and never +inf. Where the density
            jumps, it does so between two of the points.
        lower: Left end of the interval.
        upper: Right end of the interval. What the density does outside the interval is ignored.
        n: Number of points, at least 2.

    Returns:
        Entropy, shape (), float64. Points where the density is zero, or so small that it underflows to zero,
        contribute nothing.

    Raises:
        ValueError: lower is not below upper, or n is less than 2.
    """
    ### BEGIN SOLUTION
    if not lower < upper:
        raise ValueError(f"the interval [{lower}, {upper}] is empty")
    if n < 2:
        raise ValueError(f"the trapezoidal rule needs at least 2 points, not {n}")
    x = torch.linspace(lower, upper, n, dtype=torch.float64)
    log_density = log_prob(x)
    density = log_density.exp()
    integrand = torch.where(density > 0, -density * log_density, 0.0)
    return torch.trapezoid(integrand, x)
    ### END SOLUTION


# %% checks="differential_entropy" points=3
expect_close(
    differential_entropy(lambda x: torch.log(1 - x.abs()), -1.0, 1.0, 4001),
    0.5,
    "The triangle 1 - |x| has an entropy of 1/2 nat; its density is zero at both ends.",
)
expect_close(
    differential_entropy(lambda x: torch.log(2 * x), 0.0, 1.0, 3),
    -0.3466,
    "The ramp 2x on three points: 0 at the left, 0 in the middle, -2 ln 2 at the right end, which counts half.",
)

# %% [markdown]
# Which density of a given variance is hardest to describe? On the left are three of variance 1, with what each $x$
# adds to the entropy. The uniform density has no tails, the Laplace density has long ones but a peak that is cheap to
# report (the dip), and the normal density beats both: among all densities of a given variance it has the largest
# entropy (C&T theorem 8.6.5). That is one reason why Gaussian noise is the default when nothing but a scale is known.
#
# On the right is the error of your quadrature on $[-12, 12]$ against the exact entropies,
# $\tfrac12\ln 2\pi e$, $1 + \ln 2b$ for the Laplace density of scale $b = 1/\sqrt2$, and $\ln(b - a)$ for the uniform
# density on $[a, b]$. Smoothness decides: for the normal density some 40 points reach the precision of float64, while
# ten times as many points gain two digits for the Laplace density with its kink, and one for the uniform density with
# its jumps (the zigzag is the luck of where the points fall).

# %% tags=["demo"]
normal = torch.distributions.Normal(0.0, 1.0)
laplace = torch.distributions.Laplace(0.0, 1 / math.sqrt(2))
uniform = torch.distributions.Uniform(-math.sqrt(3), math.sqrt(3), validate_args=False)
x = torch.linspace(-4, 4, 1601)
edge, level = math.sqrt(3), math.log(12) / math.sqrt(48)
normal_cost = (x**2 + math.log(2 * math.pi)) / 2 * torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
laplace_cost = (x.abs() + math.log(2) / math.sqrt(8)) * torch.exp(-math.sqrt(2) * x.abs())
densities = {
    "normal": (normal, 0.5 * math.log(2 * math.pi * math.e), x, normal_cost),
    "Laplace": (laplace, 1 + math.log(math.sqrt(2)), x, laplace_cost),
    "uniform": (uniform, math.log(12) / 2, [-4, -edge, -edge, edge, edge, 4], [0, 0, level, level, 0, 0]),
}
counts = [round(10 ** (0.1 * k)) for k in range(8, 36)]

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for name, (density, value, place, cost) in densities.items():
    left.plot(place, cost, label=f"{name}: {value:.3f} nats")
    errors = [abs(differential_entropy(density.log_prob, -12.0, 12.0, count).item() - value) for count in counts]
    right.loglog(counts, [max(error, 1e-16) for error in errors], marker=".", label=name)
left.set(xlabel="x", ylabel=r"$-f(x)\,\ln f(x)$ (nats per unit of x)", ylim=(0, 0.57))
left.set_title("Where the entropy comes from (variance 1)")
left.legend()
right.set(xlabel="number of points n", ylabel="absolute error (nats)", title="Error of the trapezoidal rule")
right.legend()
plt.show()

# %% [markdown]
# ## 4 · What a wrong belief costs
#
# You tuned your code words for $q$, but the world follows $p$. Outcome $i$ still happens with probability $p_i$, but
# you write $-\ln q_i$ nats for it. The average message is the **cross-entropy**, and what you pay above the best
# possible is the **Kullback-Leibler divergence**, or relative entropy:
#
# $$H(p, q) = -\sum_i p_i \ln q_i, \qquad
# D_{\mathrm{KL}}(p \,\|\, q) = \sum_i p_i \ln \frac{p_i}{q_i} = H(p, q) - H(p)$$
#
# (C&T section 2.3; with real code words it is theorem 5.4.3, "wrong code"). It is never negative, and zero only for
# $p = q$ (C&T theorem 2.6.3). It is not a distance: the two arguments play different parts, since $p$ is what happens
# and $q$ is what you believe. If you call impossible what then happens, no finite word will do, and the cost is
# infinite. If you reserve a word for what never happens, the cost stays finite: the other words are a little longer
# than they need be, and that is all.
#
# Training minimises this. Take for $p$ the data and for $q$ your model: $H(p)$ does not depend on the model, so
# minimising the cross-entropy, minimising the divergence and maximising the likelihood are one and the same.
#
# The function `torch.nn.functional.kl_div` also exists, with the arguments in the other order and one of them as a
# logarithm. Whoever wrote both of yours will not be fooled by it.
#
# **Task 4 · `cross_entropy` and `kl_divergence` · 3 points · 20 minutes**


# %% task="kl_divergence"
def cross_entropy(p: Tensor, q: Tensor) -> Tensor:
    """Cross-entropy H(p, q) of discrete distributions, in nats: the world follows p, the code is made for q.

    Args:
        p: Probabilities, shape (..., outcomes), summing to one over the last axis. Zeros are allowed.
        q: Probabilities of the same shape and dtype. Zeros are allowed.

    Returns:
        Cross-entropies, shape (...), in the dtype of p. Outcomes with p = 0 contribute nothing, even where q = 0; an
        outcome with q = 0 < p makes the cross-entropy infinite (+inf). The gradient in q is right and finite at every
        entry where p and q are positive.
    """
    ### BEGIN SOLUTION
    return -torch.special.xlogy(p, q).sum(-1)
    ### END SOLUTION


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Kullback-Leibler divergence D(p || q) of discrete distributions, in nats.

    Args:
        p: Probabilities, shape (..., outcomes), summing to one over the last axis. Zeros are allowed.
        q: Probabilities of the same shape and dtype. Zeros are allowed.

    Returns:
        Divergences, shape (...), in the dtype of p. Outcomes with p = 0 contribute nothing, even where q = 0; an
        outcome with q = 0 < p makes the divergence infinite (+inf). The gradient in q is right and finite at every
        entry where p and q are positive.
    """
    ### BEGIN SOLUTION
    return (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum(-1)
    ### END SOLUTION


# %% checks="kl_divergence" points=3
fair, loaded = torch.tensor([0.5, 0.5]), torch.tensor([0.75, 0.25])
expect_close(cross_entropy(fair, loaded), 0.8370, "A fair coin in a code for a 3:1 coin takes 0.8370 nats a toss.")
expect_close(kl_divergence(fair, loaded), 0.1438, "That is 0.1438 nats more than the ln 2 it had to take.")
expect_close(kl_divergence(loaded, fair), 0.1308, "The other way round, a 3:1 coin in a fair code wastes 0.1308 nats.")
two_heads = torch.tensor([1.0, 0.0])
expect_close(kl_divergence(fair, two_heads), math.inf, "Tails happened, and the code had no word for it.")
expect_close(kl_divergence(two_heads, fair), 0.6931, "Tails never happens: its word wastes ln 2 nats a toss, no more.")

# %% [markdown]
# A coin shows heads with probability 0.3, and you believe in $q$. On the left, the cross-entropy touches the entropy of
# the coin where the belief is right, and the shaded gap is the divergence. It is flat at the bottom, so a small mistake
# is nearly free, and at both ends it leaves every frame: certainty that turns out wrong is what costs most.
#
# On the right the gap is drawn by itself, next to the divergence with its arguments swapped, where $q$ is the world and
# 0.3 the belief. The two agree where they are small. At the ends they part: a certain world and a merely cautious
# belief cost $-\ln 0.3$ or $-\ln 0.7$ nats and no more.

# %% tags=["demo"]
belief = torch.sigmoid(torch.linspace(-14, 14, 701, dtype=torch.float64))
beliefs = torch.stack([belief, 1 - belief], dim=-1)
world = torch.tensor([0.3, 0.7], dtype=torch.float64).expand_as(beliefs)
floor = cross_entropy(world, world)[0].item()

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
left.plot(belief, cross_entropy(world, beliefs), label="cross-entropy H(p, q)")
left.fill_between(belief, floor, cross_entropy(world, beliefs), alpha=0.2, label="divergence D(p || q)")
left.axhline(floor, color="grey", linestyle=":", label=f"entropy H(p) = {floor:.3f} nats")
left.set(ylabel="nats per toss", title="A coin in a code for the wrong coin", ylim=(0, 3.2))
right.plot(belief, kl_divergence(world, beliefs), label="D(p || q): the world is 0.3, you believe q")
right.plot(belief, kl_divergence(beliefs, world), linestyle="--", label="D(q || p): the world is q, you believe 0.3")
right.set(ylabel="divergence (nats)", title="The waste, and the waste with roles swapped", ylim=(0, 3.2))
for axes in (left, right):
    axes.plot(0.3, floor if axes is left else 0, "o", color="black", markersize=4, clip_on=False)
    axes.set(xlabel="probability of heads q", xlim=(-0.02, 1.02))
    axes.legend(loc="upper left", bbox_to_anchor=(0.05, 1))
plt.show()

# %% [markdown]
# ## 5 · Two normal densities
#
# Sums become integrals, and the divergence of two densities is $\mathbb E_p[\ln p(x) - \ln q(x)]$ (C&T section 8.5).
# Unlike differential entropy it does not depend on the unit of length. For two normal densities both logarithms are
# parabolas, and with $\mathbb E_p[(x - \mu_q)^2] = \sigma_p^2 + (\mu_p - \mu_q)^2$ the integral is done:
#
# $$D_{\mathrm{KL}}\big(\mathcal N(\mu_p, \sigma_p^2) \,\|\, \mathcal N(\mu_q, \sigma_q^2)\big)
# = \ln\frac{\sigma_q}{\sigma_p} + \frac{\sigma_p^2 + (\mu_p - \mu_q)^2}{2 \sigma_q^2} - \frac12$$
#
# With $\mu_q = 0$ and $\sigma_q = 1$ this is the regulariser of every variational autoencoder (Kingma & Welling 2014,
# appendix B). There it is part of the loss, so gradients must flow through it.
#
# **Task 5 · `gaussian_kl` · 2 points · 15 minutes**


# %% task="gaussian_kl"
def gaussian_kl(mu_p: Tensor, sigma_p: Tensor, mu_q: Tensor, sigma_q: Tensor) -> Tensor:
    """Kullback-Leibler divergence D(p || q) of p = N(mu_p, sigma_p^2) and q = N(mu_q, sigma_q^2), in nats.

    Args:
        mu_p: Means of p. The four tensors have one dtype, and shapes that broadcast against each other.
        sigma_p: Standard deviations of p, positive.
        mu_q: Means of q.
        sigma_q: Standard deviations of q, positive.

    Returns:
        Divergences, one for each pair, in the shape the four broadcast to and in their dtype. Differentiable in all
        four arguments.

    Raises:
        ValueError: Some standard deviation is zero or negative.
    """
    ### BEGIN SOLUTION
    if (sigma_p <= 0).any() or (sigma_q <= 0).any():
        raise ValueError("standard deviations must be positive")
    ratio = sigma_p / sigma_q
    distance = (mu_p - mu_q) / sigma_q
    return 0.5 * (ratio**2 + distance**2 - 1) - ratio.log()
    ### END SOLUTION


# %% checks="gaussian_kl" points=2
zero, one = torch.tensor(0.0), torch.tensor(1.0)
three = torch.tensor(3.0)
expect_close(gaussian_kl(zero, one, zero, three), 0.6542, "A code for N(0, 9) wastes 0.6542 nats on draws of N(0, 1).")
expect_close(gaussian_kl(zero, three, zero, one), 2.9014, "A code for N(0, 1) wastes 2.9014 nats on draws of N(0, 9).")
expect_close(gaussian_kl(three, one, zero, one), 4.5, "Three standard deviations apart, equal widths: 9/2 nats.")

# %% [markdown]
# Each point of the two maps below is a normal density $\mathcal N(m, s^2)$, and the colour is its divergence from or
# to $\mathcal N(0, 1)$, which sits at the cross. On the left the world is $\mathcal N(0, 1)$ and the belief varies:
# being too narrow is punished without mercy, being too wide hardly at all. On the right the roles are swapped: the
# valley now reaches down to narrow densities, as long as they lie where $\mathcal N(0, 1)$ has its mass. A VAE uses
# the right-hand map, with $m$ and $s$ from its encoder; notice how gently it lets $s$ shrink.

# %% tags=["demo"]
means, widths = torch.meshgrid(torch.linspace(-3, 3, 121), torch.linspace(0.15, 3, 115), indexing="xy")
origin, unit = torch.zeros_like(means), torch.ones_like(means)
levels = [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200]
norm = LogNorm(levels[0], levels[-1])
panels = {
    r"$D(\mathcal{N}(0,1)\,\|\,\mathcal{N}(m,s^2))$": gaussian_kl(origin, unit, means, widths).clamp(min=1e-3),
    r"$D(\mathcal{N}(m,s^2)\,\|\,\mathcal{N}(0,1))$": gaussian_kl(means, widths, origin, unit).clamp(min=1e-3),
}

figure, both = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True, layout="constrained")
for axes, (title, divergence) in zip(both, panels.items(), strict=True):
    filled = axes.contourf(means, widths, divergence, levels=levels, norm=norm, cmap="viridis_r", extend="both")
    lines = axes.contour(means, widths, divergence, levels=levels, colors="black", linewidths=0.4)
    axes.clabel(lines, levels=[0.1, 0.5, 2, 10, 50], fontsize=8)
    axes.plot(0, 1, marker="+", color="black", markersize=10)
    axes.set(xlabel="mean m", title=title)
both[0].set_ylabel("standard deviation s")
figure.colorbar(filled, ax=both, label="divergence (nats)", format="%g")
plt.show()

# %% [markdown]
# ## 6 · A divergence from samples
#
# Most pairs of distributions have no such formula, and in many dimensions quadrature is out of the question too. But
# the divergence is an *average under $p$*, and an average can be estimated by drawing $x_1, \dots, x_n$ from $p$:
#
# $$\hat D = \frac1n \sum_{i=1}^n r_i, \qquad r_i = \ln p(x_i) - \ln q(x_i), \qquad
# \mathrm{SE} = \frac{s}{\sqrt n}, \qquad s^2 = \frac1{n-1}\sum_{i=1}^n (r_i - \hat D)^2$$
#
# An estimate without its error is half an answer. The standard error says how far $\hat D$ typically lies from the
# truth. For large $n$, by the central limit theorem, the truth is within two standard errors in about 95 of 100 runs.
# For small $n$ it is in fewer: the average is not yet normal, and $s$ itself is a poor guess. A hundred times the work
# buys one more digit.
#
# Stay with logarithms to the end. In a thousand dimensions $p(x)$ itself is often zero in floating point while
# $\ln p(x)$ is an ordinary number such as $-1400$. And take the randomness from the generator you are given, so that a
# run can be repeated.
#
# **Task 6 · `monte_carlo_kl` · 3 points · 25 minutes**


# %% task="monte_carlo_kl"
def monte_carlo_kl(
    sample: Callable[[int, torch.Generator], Tensor],
    log_p: Callable[[Tensor], Tensor],
    log_q: Callable[[Tensor], Tensor],
    n: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Monte Carlo estimate of D(p || q) in nats, and its standard error.

    Args:
        sample: `sample(n, generator)` draws n independent points from p, shape (n,) or (n, ...) where a point has
            axes of its own. Call it exactly once, with these two arguments.
        log_p: Maps the points to their log densities under p, shape (n,). They may be too low for their exponentials
            to be anything but zero.
        log_q: The same under q.
        n: Number of points, at least 2.
        generator: Source of randomness, passed on to `sample` and used for nothing else.

    Returns:
        The estimate, the plain average of ln p - ln q over the points, and its standard error, the sample standard
        deviation (with divisor n - 1) over the square root of n. Both are tensors of shape (), in the dtype of the log
        densities.
        If log_q is -inf at some point, the estimate is +inf and the standard error has no meaning.

    Raises:
        ValueError: n is less than 2.
    """
    ### BEGIN SOLUTION
    if n < 2:
        raise ValueError(f"a standard error needs at least 2 points, not {n}")
    points = sample(n, generator)
    log_ratio = log_p(points) - log_q(points)
    return log_ratio.mean(), log_ratio.std() / math.sqrt(n)
    ### END SOLUTION


# %% checks="monte_carlo_kl" points=3
def standard_normal(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, generator=generator, dtype=torch.float64)


def normal_log_density(x: Tensor, mean: float) -> Tensor:
    return -0.5 * (x - mean) ** 2 - 0.5 * math.log(2 * math.pi)


result = monte_carlo_kl(
    standard_normal,
    lambda x: normal_log_density(x, 0.0),
    lambda x: normal_log_density(x, 1.0),
    10_000,
    torch.Generator().manual_seed(7),
)
expect_close(result, [0.5, 0.01], "D(N(0,1) || N(1,1)) is 1/2 nat; 10,000 draws leave an error of 0.01.", rtol=0.12)
draws = standard_normal(10_000, torch.Generator().manual_seed(7))
expect_close(result[0], 0.5 - draws.mean(), "Seed 7 always gives these draws, and ln p - ln q is 1/2 - x here.")

# %% [markdown]
# Now to a divergence without a formula. On the left, $p$ is a mixture of two normals, and we look for the single
# normal density $q$ that is closest to it, by trying many means and widths and keeping the one with the smallest
# estimate. The answer depends on who comes first. Minimising $D(p\,\|\,q)$, as maximum likelihood does, gives a broad
# $q$ that covers both humps and puts mass where there is no data. Minimising $D(q\,\|\,p)$, as variational inference
# does, gives a $q$ that picks the larger hump and ignores the other. Blurry samples and missing modes are the same
# coin, seen from two sides.
#
# On the right, the estimate of $D(p\,\|\,q)$ for the broad $q$, from 100 draws upwards, with bars of two standard
# errors. The bars shrink like $1/\sqrt n$. About 95 of 100 such bars contain the exact value (dotted), so one that
# just misses it is no mistake; of bars made from 10 draws only about 85 would. The exact value is $H(p, q) - h(p)$:
# for a normal $q$ the first needs only mean and variance of $p$, the second was found by quadrature.

# %% tags=["demo"]
weights = torch.tensor([0.65, 0.35])
humps = torch.distributions.Normal(torch.tensor([-2.0, 2.5]), torch.tensor([0.8, 0.6]))
mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(weights), humps)


def sample_mixture(n: int, generator: torch.Generator) -> Tensor:
    hump = torch.multinomial(weights, n, replacement=True, generator=generator)
    return humps.mean[hump] + humps.stddev[hump] * torch.randn(n, generator=generator)


def sample_normal(q: torch.distributions.Normal) -> Callable[[int, torch.Generator], Tensor]:
    return lambda n, generator: q.mean + q.stddev * torch.randn(n, generator=generator)


best = {"D(p || q)": (math.inf, 0.0, 1.0), "D(q || p)": (math.inf, 0.0, 1.0)}
for mean in torch.linspace(-3, 3, 31).tolist():
    for width in torch.linspace(0.4, 3.2, 29).tolist():
        q = torch.distributions.Normal(mean, width)
        p_first = (sample_mixture, mixture.log_prob, q.log_prob)
        q_first = (sample_normal(q), q.log_prob, mixture.log_prob)
        for order, functions in zip(best, (p_first, q_first), strict=True):
            divergence, _ = monte_carlo_kl(*functions, 500, torch.Generator().manual_seed(1))
            best[order] = min(best[order], (divergence.item(), mean, width))

line = torch.linspace(-7, 7, 1401)
broad = torch.distributions.Normal(*best["D(p || q)"][1:])
mixture_entropy = 1.740672  # in nats, by quadrature
mean_square = mixture.variance + (mixture.mean - broad.mean) ** 2
code_length = 0.5 * torch.log(2 * math.pi * broad.variance) + mean_square / (2 * broad.variance)
reference = code_length.item() - mixture_entropy

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
left.fill_between(line, mixture.log_prob(line).exp(), color="grey", alpha=0.35, label="p, the mixture")
for name, (_, mean, width) in best.items():
    density = torch.distributions.Normal(mean, width).log_prob(line).exp()
    left.plot(line, density, label=f"q with the smallest {name}: $\\mathcal{{N}}$({mean:.1f}, {width:.1f}$^2$)")
left.set(xlabel="x", ylabel="density", title="The closest normal density, twice", ylim=(0, 0.8))
left.legend(fontsize=8)
for seed, count in enumerate(round(10 ** (2 + 0.25 * k)) for k in range(13)):
    run = monte_carlo_kl(sample_mixture, mixture.log_prob, broad.log_prob, count, torch.Generator().manual_seed(seed))
    right.errorbar(count, run[0].item(), yerr=2 * run[1].item(), fmt="o", color="C0", markersize=4, capsize=3)
right.axhline(reference, color="grey", linestyle=":", label=f"exact: {reference:.4f} nats")
right.set(xscale="log", xlabel="number of draws n", ylabel="estimate of D(p || q) (nats)")
right.set_title("Estimates, ±2 standard errors")
right.legend()
plt.show()

# %% [markdown]
# ## 7 · A divergence that stays finite
#
# A divergence that is infinite as soon as the model rules out one data point makes a brittle loss, and the lack of
# symmetry makes it awkward as a measure of distance. Both go away if $p$ and $q$ are not compared with each other but
# with their mixture:
#
# $$\mathrm{JS}(p, q) = \tfrac12 D_{\mathrm{KL}}(p \,\|\, m) + \tfrac12 D_{\mathrm{KL}}(q \,\|\, m),
# \qquad m = \tfrac12 (p + q)$$
#
# (Lin 1991, "Divergence measures based on the Shannon entropy"). Wherever $p$ or $q$ has mass, so has $m$, and nothing
# is infinite. There is a story behind it: someone flips a fair coin, hands you a draw from $p$ or from $q$, and you
# guess which. $\mathrm{JS}(p, q)$ is how much the draw tells you about the coin (in the sense of section 8), so it
# cannot exceed $\ln 2$, one bit.
# This is the game of a GAN's discriminator, and at its best play the generator's loss is
# $2\,\mathrm{JS}(p_{\text{data}}, p_{\text{model}}) - \ln 4$ (Goodfellow et al. 2014, section 4.1).
#
# Beware of the name: `scipy.spatial.distance.jensenshannon` returns the *square root*, which obeys the triangle
# inequality. The divergence is meant here, without the root.
#
# **Task 7 · `jensen_shannon` · 2 points · 15 minutes**


# %% task="jensen_shannon"
def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """Jensen-Shannon divergence of discrete distributions, in nats (no square root).

    Args:
        p: Probabilities, shape (..., outcomes), summing to one over the last axis. Zeros are allowed.
        q: Probabilities of the same shape and dtype. Zeros are allowed.

    Returns:
        Divergences, shape (...), in the dtype of p, always finite and, up to rounding, from 0 to ln 2. An outcome that
        has probability zero under both contributes nothing.
    """
    ### BEGIN SOLUTION
    m = (p + q) / 2
    xlogy = torch.special.xlogy
    return (xlogy(p, p) + xlogy(q, q) - 2 * xlogy(m, m)).sum(-1) / 2
    ### END SOLUTION


# %% checks="jensen_shannon" points=2
mild, strong = torch.tensor([0.6, 0.4, 0.0]), torch.tensor([0.1, 0.3, 0.6])
expect_close(jensen_shannon(mild, strong), 0.3106, "Two distributions that overlap in two of three outcomes.")
expect_close(jensen_shannon(strong, mild), 0.3106, "Swapping the two changes nothing.")
expect_close(jensen_shannon(strong, strong), 0.0, "A distribution does not differ from itself.")

# %% [markdown]
# Two normal densities of width one, cut into narrow bins, move apart. The divergence $d^2/2$ from task 5 grows
# without limit, while Jensen-Shannon levels off at $\ln 2$. At a distance of eight the discriminator can hardly be
# wrong any more, and a generator that follows the slope (right) gets no hint where to go. This is the vanishing
# gradient of the original GAN (Arjovsky & Bottou 2017), and the reason for the Wasserstein GAN later in this course.

# %% tags=["demo"]
distances = torch.linspace(0, 10, 201, dtype=torch.float64)
bins = torch.linspace(-7, 17, 1201, dtype=torch.float64)
fixed = torch.softmax(-(bins**2) / 2, dim=0).expand(len(distances), -1)
moved = torch.softmax(-((bins - distances[:, None]) ** 2) / 2, dim=-1)
curve = jensen_shannon(fixed, moved)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
left.plot(distances, distances**2 / 2, linestyle="--", color="C1", label="KL")
left.plot(distances, curve, color="C0", label="Jensen-Shannon")
left.axhline(math.log(2), color="grey", linestyle=":", label="ln 2")
left.set(xlabel="distance d of the two means", ylabel="divergence (nats)", title="KL grows, JS saturates", ylim=(0, 2))
left.legend()
right.plot(distances, torch.gradient(curve, spacing=(distances,), edge_order=2)[0], color="C0")
right.set(xlabel="distance d of the two means", ylabel="slope of JS (nats per unit of d)")
right.set_title("What the generator feels")
plt.show()

# %% [markdown]
# ## 8 · What one variable tells about another
#
# Look at the sky, then predict the rain. If $X$ is the sky and $Y$ the rain, some uncertainty about $Y$ remains after
# looking; averaged over what you may see, that is the **conditional entropy**
#
# $$H(Y \mid X) = \sum_x p(x)\, H(Y \mid X = x) = -\sum_{x, y} p(x, y) \ln p(y \mid x) = H(X, Y) - H(X)$$
#
# (C&T section 2.2; the last step is the chain rule, theorem 2.2.1). The uncertainty that looking has removed is the
# **mutual information**
#
# $$I(X; Y) = \sum_{x, y} p(x, y) \ln \frac{p(x, y)}{p(x)\, p(y)} = H(Y) - H(Y \mid X) = H(X) - H(X \mid Y)$$
#
# (C&T sections 2.3 and 2.4). It is the divergence of the joint distribution from what it would be if the two were
# independent. Mind the order in the first formula: $H(Y \mid X)$ and $H(X \mid Y)$ differ. The second is symmetric:
# $X$ tells about $Y$ exactly as much as $Y$ tells about $X$.
#
# **Task 8 · `conditional_entropy` and `mutual_information` · 3 points · 30 minutes**


# %% task="conditional_entropy"
def conditional_entropy(joint: Tensor) -> Tensor:
    """Conditional entropy H(Y | X), in nats: what is still unknown about Y once X is known.

    Args:
        joint: Probabilities p(x, y) at [..., x, y], shape (..., outcomes of X, outcomes of Y), summing to one over
            the last two axes. Zeros are allowed, also a whole row or column of them.

    Returns:
        Conditional entropies, shape (...), in the dtype of joint.
    """
    ### BEGIN SOLUTION
    xlogy = torch.special.xlogy
    marginal_x = joint.sum(-1)
    return xlogy(marginal_x, marginal_x).sum(-1) - xlogy(joint, joint).sum((-2, -1))
    ### END SOLUTION


def mutual_information(joint: Tensor) -> Tensor:
    """Mutual information I(X; Y), in nats.

    Args:
        joint: Probabilities p(x, y) at [..., x, y], shape (..., outcomes of X, outcomes of Y), summing to one over
            the last two axes. Zeros are allowed, also a whole row or column of them.

    Returns:
        Mutual informations, shape (...), in the dtype of joint.
    """
    ### BEGIN SOLUTION
    xlogy = torch.special.xlogy
    marginal_x, marginal_y = joint.sum(-1), joint.sum(-2)
    joint_term = xlogy(joint, joint).sum((-2, -1))
    return joint_term - xlogy(marginal_x, marginal_x).sum(-1) - xlogy(marginal_y, marginal_y).sum(-1)
    ### END SOLUTION


# %% checks="conditional_entropy" points=3
weather = torch.tensor([[0.30, 0.10, 0.05], [0.00, 0.15, 0.40]])  # sky: grey, blue; rain: much, some, none
expect_close(conditional_entropy(weather), 0.7042, "Having seen the sky, 0.7042 nats about the rain are left.")
expect_close(mutual_information(weather), 0.3629, "The sky tells 0.3629 nats about the rain.")
expect_close(mutual_information(weather.T), 0.3629, "The rain tells as much about the sky.")
both = torch.stack([weather, torch.tensor([[0.2, 0.5, 0.3], [0.0, 0.0, 0.0]])])
expect_close(conditional_entropy(both), [0.7042, 1.0297], "Two tables in one batch; in the second it is always grey.")
expect_close(mutual_information(both), [0.3629, 0.0], "A sky that is always grey tells nothing about the rain.")

# %% [markdown]
# On the left is the weather table as a bill. The middle bar pays for the sky and then for what is left of the rain, the
# lower one, from right to left, for the rain and then for what is left of the sky. $H(X)$, $H(Y)$ and $H(X, Y)$
# (dotted) come from your `entropy` of task 1, the other pieces from task 8, and the chain rule says that all three bars
# end at the dotted line. What the two ways of paying have in common is the mutual information, in the middle of the
# upper bar.
#
# On the right are two standard normal variables with correlation $\rho$, cut into bins and passed to your function.
# The dots fall on $-\tfrac12 \ln(1 - \rho^2)$ (C&T example 8.5.1): the bins cost both variables $-\ln\Delta$, the
# joint distribution as well, and all of it cancels. The correlation is squared, so its sign does not matter, and at
# $\rho = \pm 1$ one number gives the other in full, to infinitely many digits.

# %% tags=["demo"]
table = torch.tensor([[0.30, 0.10, 0.05], [0.00, 0.15, 0.40]])
rain_given_sky, sky_given_rain = conditional_entropy(table).item(), conditional_entropy(table.T).item()
shared = mutual_information(table).item()
bills = [
    [("H(X | Y)", sky_given_rain, "C0"), ("I(X; Y)", shared, "C2"), ("H(Y | X)", rain_given_sky, "C1")],
    [("H(X), the sky", entropy(table.sum(1)).item(), "C0"), ("H(Y | X)", rain_given_sky, "C1")],
    [("H(X | Y)", sky_given_rain, "C0"), ("H(Y), the rain", entropy(table.sum(0)).item(), "C1")],
]
cells = torch.linspace(-6, 6, 121, dtype=torch.float64)
correlations = torch.linspace(-0.95, 0.95, 39, dtype=torch.float64)
energy = cells[:, None] ** 2 + cells**2 - 2 * correlations[:, None, None] * cells[:, None] * cells
boxes = torch.softmax((-energy / (2 * (1 - correlations**2))[:, None, None]).flatten(1), dim=1)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
for height, bill in zip([2, 1, 0], bills, strict=True):
    start = 0.0
    for name, value, color in bill:
        left.barh(height, value, left=start, color=color, alpha=0.6, edgecolor="black")
        left.text(start + value / 2, height, f"{name}\n{value:.3f}", ha="center", va="center", fontsize=9)
        start += value
total = entropy(table.flatten()).item()
left.axvline(total, color="black", linestyle=":", label=f"H(X, Y) = {total:.3f}")
left.set(xlabel="nats", yticks=[], title="One total, three ways to split it", xlim=(0, 1.5), ylim=(-0.5, 3))
left.legend(loc="upper right")
right.plot(correlations, -0.5 * torch.log1p(-(correlations**2)), color="grey", label=r"$-\frac{1}{2}\ln(1-\rho^2)$")
right.plot(correlations, mutual_information(boxes.unflatten(1, energy.shape[1:])), ".", label="from the binned table")
right.set(xlabel=r"correlation $\rho$", ylabel="mutual information (nats)", title="Two normal variables")
right.legend()
plt.show()

# %% [markdown]
# ## What you have now
#
# | Quantity | What it costs or tells | Where it returns |
# |---|---|---|
# | $H(p)$, $h(f)$ | the shortest average message | temperature of a language model, exploration in RLHF |
# | $H(p, q)$ | the message in a code for the wrong belief | the loss of almost every classifier and language model |
# | $D_{\mathrm{KL}}(p\,\Vert\,q)$ | the waste | VAE, diffusion, the leash in RLHF |
# | $\hat D \pm \mathrm{SE}$ | the same, when one can only sample | wherever there is no closed form |
# | $\mathrm{JS}(p, q)$ | how well a perfect judge tells two sources apart | GAN |
# | $H(Y\mid X)$, $I(X;Y)$ | what one variable leaves open, or tells, about another | latent codes and their collapse |
#
# Three habits are worth keeping. Ask of every divergence which argument is the world and which the belief. Stay in
# logarithms until the last step. And let no probability of zero meet a logarithm unattended.
