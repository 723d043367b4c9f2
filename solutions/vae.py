# %% [markdown]
# # Variational autoencoders
#
# Someone hands you 1,797 handwritten digits and asks for one more: not a copy, a new one. You need a probability
# distribution over images that you can draw from. The variational autoencoder (VAE) builds it in two steps that are
# both easy. Draw a short code $z$ from a standard normal distribution, then let a network, the **decoder**, turn the
# code into a distribution over pixels:
#
# $$p(x) = \int p(x \mid z)\, p(z)\, dz, \qquad p(z) = \mathcal N(0, I).$$
#
# Drawing is easy, training is not: to raise $\ln p(x)$ for a given image we would have to integrate over all codes,
# nearly none of which has anything to do with this image. So a second network, the **encoder**, proposes for each image
# the codes that matter, as a normal distribution $q(z \mid x)$. What one can then compute and climb is a lower bound on
# $\ln p(x)$. Kingma & Welling (2014, "Auto-Encoding Variational Bayes") and Rezende, Mohamed & Wierstra (2014) found
# this at the same time; the first paper is cited below as K&W.
#
# You will write every part of it, train it on real digits in a few seconds, and then break it in the two ways in which
# VAEs break in practice: a decoder that ignores its code, and codes that reconstruct well and generate rubbish. Both
# come from one number, and both can be measured.
#
# **Conventions.** They hold in all eight tasks.
#
# - Logarithms are natural and the unit is the nat, as in the assignment on information theory.
# - A batch of images has the shape (batch, pixels), their codes (batch, latent). No image may influence the
#   result of another, except where a docstring averages over images.
# - `logvar` is $\ln \sigma^2$, the logarithm of the **variance**. The encoder may output any real number for it, and
#   $\sigma$ is positive all the same.
# - Log-likelihoods and divergences are **summed over pixels and over latent dimensions**, since the logarithm of a
#   product of independent factors is a sum. They are averaged over a batch only where the docstring says so.
# - Tensors are float32 or float64 and hold no NaN. A result has the dtype and the device of the arguments, and the
#   arguments are left as they were.
# - Randomness comes from the `torch.Generator` you are given, and from nowhere else, so that a run can be repeated.
#   How you draw is up to you. The generator lives on the device of the tensors.
# - Results are right up to rounding: the terms of a sum may lose what a dtype cannot hold beside one another. Any
#   function of `torch` may be used, `torch.distributions` included.
#
# **How to work.** The tasks take about 3 hours and 25 minutes together. Each has a cell for your answer, a cell of
# checks that you see, and a demo that draws what your code does. The points of a task are shared out among further
# checks, which you do not see. Later tasks use earlier ones, so a mistake in task 2 can cost points in tasks 4 and 6;
# the feedback says where that may be so. Run the cells one at a time and *Run All* at the end. A notebook with unsolved
# tasks can be handed in. Keep `expect.py` beside the notebook.

# %%
import math
from collections.abc import Callable

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from sklearn.datasets import load_digits
from torch import Tensor, nn

from expect import expect_close

# %% [markdown]
# The digits come with scikit-learn: 8 by 8 pixels, 17 grey levels, written by 13 people (`load_digits().DESCR` tells
# more). We make each pixel a bit, black (1) where the grey level is 8 or more. That throws away a little beauty and
# buys honesty: $p(x)$ is then a probability, not a density, and every nat below means what it says. 1,400 images are
# for training, 397 are held out.

# %%
grey_levels = torch.tensor(load_digits().data, dtype=torch.float32)
labels = torch.tensor(load_digits().target)
order = torch.randperm(len(grey_levels), generator=torch.Generator().manual_seed(0))
bits = (grey_levels[order] >= 8).float()
train_images, test_images, test_labels = bits[:1400], bits[1400:], labels[order][1400:]


def show_images(axes: Axes, images: Tensor, title: str, columns: int) -> None:
    """Draw images of shape (n, 64) in a grid, row by row, black for 1."""
    rows = len(images) // columns
    tiles = nn.functional.pad(images[: rows * columns].reshape(rows, columns, 8, 8), (1, 1, 1, 1), value=0.25)
    axes.imshow(tiles.permute(0, 2, 1, 3).reshape(rows * 10, columns * 10), cmap="Greys", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[], title=title)


# %% [markdown]
# ## 1 · A draw you can differentiate
#
# The encoder says $q(z \mid x) = \mathcal N(\mu, \operatorname{diag}\sigma^2)$, a code is drawn, the decoder makes
# something of it, and a loss comes out. How should the encoder change $\mu$ and $\sigma$ to make the loss smaller? A
# draw is not a formula, and there is nothing to differentiate. The way out is to draw something that does *not* depend
# on the encoder, and to compute the code from it:
#
# $$z = \mu + \sigma \odot \varepsilon, \qquad \varepsilon \sim \mathcal N(0, I), \qquad
# \sigma = \exp\!\big(\tfrac12 \ln \sigma^2\big)$$
#
# (K&W section 2.4). The distribution of $z$ is as before, but now $\partial z / \partial \mu = 1$ and
# $\partial z / \partial \sigma = \varepsilon$: an ordinary path for gradients, with the noise as a constant beside it.
# This is called the **reparameterization trick**. The encoder gives $\ln \sigma^2$, so mind the factor $\frac12$: a
# missing one is an error that no shape and no exception will tell you about.
#
# **Task 1 · `reparameterize` · 2 points · 15 minutes**


# %% task="reparameterize"
def reparameterize(mu: Tensor, logvar: Tensor, generator: torch.Generator) -> Tensor:
    """Draw codes from normal distributions with independent entries, differentiably in their parameters.

    Args:
        mu: Means, any shape, for instance (batch, latent).
        logvar: Logarithms of the variances, shape and dtype of mu.
        generator: Source of all randomness, on the device of mu. The same state gives the same codes.

    Returns:
        One code for each mean, in the shape and dtype of mu. Every entry has noise of its own, drawn in that dtype. The
        gradient reaches mu and logvar; the noise is a constant.
    """
    ### BEGIN SOLUTION
    noise = torch.randn(mu.shape, generator=generator, dtype=mu.dtype, device=mu.device)
    return mu + torch.exp(0.5 * logvar) * noise
    ### END SOLUTION


# %% checks="reparameterize" points=2
means = torch.tensor([[-3.0, 0.0, 3.0]]).expand(20_000, 3)
log_variances = torch.tensor([[4.0, 1.0, 0.25]]).log().expand(20_000, 3)
codes = reparameterize(means, log_variances, torch.Generator().manual_seed(1))
expect_close(codes.mean(0), [-3.0, 0.0, 3.0], "The codes lie around their means.", atol=0.08)
expect_close(
    codes.std(0), [2.0, 1.0, 0.5], "Variances of 4, 1 and 1/4 are standard deviations of 2, 1 and 1/2.", rtol=0.04
)
expect_close(torch.corrcoef(codes.T)[0, 1:], [0.0, 0.0], "Each entry of a code has noise of its own.", atol=0.045)
again = reparameterize(means, log_variances, torch.Generator().manual_seed(1))
expect_close(again - codes, torch.zeros(20_000, 3), "The same state of the generator gives the same codes.")
learned = torch.tensor([1.0, -2.0], requires_grad=True)
spread = torch.zeros(2, requires_grad=True)
drawn = reparameterize(learned, spread, torch.Generator().manual_seed(1))
drawn.sum().backward()
expect_close(learned.grad, [1.0, 1.0], "If the mean moves by some amount, the code moves by the same amount.")
expect_close(
    spread.grad, (drawn - learned).detach() / 2, "Gradients reach logvar too: of sigma it is half the logarithm."
)

# %% [markdown]
# On the left, three encoders' beliefs about a code with two dimensions, 300 draws from each and the ellipse at two
# standard deviations. Wide, narrow, or wide one way only: since the entries are independent, the ellipses stand
# upright.
#
# On the right is why the trick matters. We want the derivative in $\mu$ of the expectation of $(z - 2)^2$ under
# $\mathcal N(\mu, 0.8^2)$ at $\mu = 0.5$, which is $2(\mu - 2) = -3$. There is an estimator that needs no path through
# the draw, $(z-2)^2\,(z - \mu)/\sigma^2$, the score-function estimator or REINFORCE (Williams 1992; K&W section 2.2
# sets it aside for its variance). Both have the right mean. But half of the score-function estimates have the wrong
# sign, rare large ones (two percent lie left of the frame) make up for them, and for the same precision it takes some
# twenty times as many draws.

# %% tags=["demo"]
beliefs = [(-2.0, 1.0, 0.9, 0.9), (1.5, 1.5, 0.25, 0.25), (0.5, -1.5, 1.5, 0.3)]  # two means, two standard deviations
circle = torch.linspace(0, 2 * math.pi, 100)
draws = 20_000
place = torch.full((draws,), 0.5, requires_grad=True)
spread = torch.full((draws,), 2 * math.log(0.8))
z = reparameterize(place, spread, torch.Generator().manual_seed(2))
((z - 2) ** 2).sum().backward()
pathwise = place.grad
score = ((z - 2) ** 2 * (z - 0.5) / 0.8**2).detach()

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
for seed, (m1, m2, s1, s2) in enumerate(beliefs):
    mean, log_variance = torch.tensor([m1, m2]), 2 * torch.tensor([s1, s2]).log()
    cloud = reparameterize(mean.expand(300, 2), log_variance.expand(300, 2), torch.Generator().manual_seed(seed))
    left.plot(*cloud.T, ".", markersize=3, alpha=0.6, color=f"C{seed}")
    left.plot(m1 + 2 * s1 * circle.cos(), m2 + 2 * s2 * circle.sin(), color=f"C{seed}")
left.set(xlabel="first entry of the code", ylabel="second entry of the code", title="Draws from three beliefs q(z | x)")
left.set_aspect("equal")
edges = torch.linspace(-25, 8, 100).numpy()
for estimates, name, color in ((score, "score function", "C1"), (pathwise, "reparameterized", "C0")):
    label = f"{name}: {estimates.mean():.2f} ± {estimates.std():.2f}"
    right.hist(estimates, bins=edges, density=True, alpha=0.6, color=color, label=label)
right.axvline(-3, color="black", linestyle=":", label="exact derivative: -3")
right.set(xlabel="estimate of the derivative from one draw", ylabel="density of estimates")
right.set_title("Mean ± standard deviation of 20,000 estimates")
right.legend(fontsize=9)
plt.show()

# %% [markdown]
# ## 2 · What the code tells
#
# If every image may have any $q(z \mid x)$ it likes, the codes of training images end up in corners where nobody will
# look when drawing from $p(z) = \mathcal N(0, I)$. So there is a price: the waste, in nats, of describing draws from
# $q(z \mid x)$ in words made for $p(z)$. That is a Kullback-Leibler divergence, and for two normal distributions you
# know it in closed form. The latent dimensions are independent under both, so their prices add up:
#
# $$D_{\mathrm{KL}}\big(q(z \mid x) \,\|\, p(z)\big)
# = \frac12 \sum_{j} \big(\mu_j^2 + \sigma_j^2 - 1 - \ln \sigma_j^2\big)$$
#
# (K&W appendix B gives its negative). The order of the two arguments matters: $q$ is the world here, the codes are
# drawn from it. A dimension with $\mu_j = 0$ and $\sigma_j = 1$ for every image costs nothing and tells nothing.
#
# **Task 2 · `kl_to_standard_normal` · 2 points · 15 minutes**


# %% task="kl_to_standard_normal"
def kl_to_standard_normal(mu: Tensor, logvar: Tensor) -> Tensor:
    """Divergence D(q || p) of q = N(mu, diag(exp(logvar))) from p = N(0, I), in nats, for each image.

    Args:
        mu: Means, shape (..., latent).
        logvar: Logarithms of the variances, shape and dtype of mu.

    Returns:
        Divergences, shape (...), in the dtype of mu: summed over the latent dimensions. Differentiable in both
        arguments.
    """
    ### BEGIN SOLUTION
    return 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(-1)
    ### END SOLUTION


# %% checks="kl_to_standard_normal" points=2
expect_close(kl_to_standard_normal(torch.ones(1), torch.zeros(1)), 0.5, "A mean of one costs half a nat.")
expect_close(
    kl_to_standard_normal(torch.zeros(1), torch.tensor([math.log(4)])), 0.8069, "A variance of four costs 0.8069 nats."
)
expect_close(
    kl_to_standard_normal(torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]]), torch.zeros(2, 3)),
    [2.5, 0.0],
    "Two images, three dimensions: 1/2 + 2 + 0 nats for the first, nothing for the second.",
)

# %% [markdown]
# On the left, what one latent dimension costs when the mean is 0, over its standard deviation $\sigma$. To the left of
# 1 the curve soon follows $-\ln \sigma - \frac12$ (dashed): precision is bought at $\ln 2$ nats, one bit, for each
# halving of $\sigma$. So a code is like a ruler, and the price tells how many of its marks are used. Too wide is
# expensive as well: the curve climbs like $\sigma^2/2$.
#
# On the right is a trap. If someone's encoder outputs $\ln \sigma$ and their formula expects $\ln \sigma^2$, the loss
# is smooth, never negative and zero at the right place. It is only the wrong function: the two curves agree at 0 and
# nowhere else.

# %% tags=["demo"]
widths = torch.logspace(-2, 0.7, 200)
outputs = torch.linspace(-4, 2, 200)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
left.semilogx(widths, kl_to_standard_normal(torch.zeros(200, 1), 2 * widths.log()[:, None]))
left.semilogx(widths[:120], -widths[:120].log() - 0.5, "--", color="grey", label=r"$-\ln\sigma - \frac{1}{2}$")
left.set(xlabel=r"standard deviation $\sigma$", ylabel="divergence (nats)", title="The price of one latent dimension")
left.legend()
right.plot(outputs, kl_to_standard_normal(torch.zeros(200, 1), outputs[:, None]), label=r"taken as $\ln\sigma^2$")
right.plot(outputs, kl_to_standard_normal(torch.zeros(200, 1), 2 * outputs[:, None]), label=r"taken as $\ln\sigma$")
right.set(xlabel="output of the encoder", ylabel="divergence (nats)", title="One output, two readings", ylim=(0, 4))
right.legend()
plt.show()

# %% [markdown]
# ## 3 · How well the decoder explains the image
#
# The decoder turns a code into a distribution over images, with pixels that are independent *given the code*. For
# pixels that are bits it is natural to let the decoder say how likely each bit is to be 1. It outputs **logits**
# $\ell_i$, any real numbers, with $P(x_i = 1 \mid z) = 1 / (1 + e^{-\ell_i})$, and
#
# $$\ln p(x \mid z) = \sum_i \big( x_i \ln p_i + (1 - x_i) \ln(1 - p_i) \big)
# = \sum_i \big( x_i \ell_i - \ln(1 + e^{\ell_i}) \big)$$
#
# (K&W appendix C.1). On paper the two forms are the same; in floating point the first one ends in $\ln 0$ as soon as a
# decoder is sure of itself.
#
# For real-valued pixels the usual choice is a normal density around the decoder's output $m$, with a standard deviation
# $\sigma$ for all pixels (K&W appendix C.2 lets it vary):
#
# $$\ln p(x \mid z) = \sum_i \Big( -\frac{(x_i - m_i)^2}{2\sigma^2} - \ln \sigma - \tfrac12 \ln 2\pi \Big)$$
#
# The first term is a squared error, and this is where the "reconstruction loss" of many programs comes from. Two things
# get lost on the way there. One is the constant, $-\ln\sigma - \frac12\ln 2\pi$ *for each pixel*: without it the number
# is no log-likelihood, and $\sigma$ cannot be learned. The other is the factor $1/2\sigma^2$: a bare squared error
# belongs to $\sigma^2 = \frac12$, whether that fits your images or not.
#
# **Task 3 · `bernoulli_log_likelihood` and `gaussian_log_likelihood` · 3 points · 25 minutes**


# %% task="reconstruction_log_likelihood"
def bernoulli_log_likelihood(x: Tensor, logits: Tensor) -> Tensor:
    """Log-probability of images of bits, in nats, for each image.

    Args:
        x: Bits 0.0 and 1.0, shape (..., pixels).
        logits: Log-odds of a 1, shape and dtype of x. They may be large, such as 1000 or -1000.

    Returns:
        Log-probabilities, shape (...), in the dtype of x: summed over the pixels. Finite, and differentiable in
        logits.

    Raises:
        ValueError: x and logits differ in shape.
    """
    ### BEGIN SOLUTION
    if x.shape != logits.shape:
        raise ValueError(f"x has the shape {tuple(x.shape)}, logits have {tuple(logits.shape)}")
    return (x * logits - nn.functional.softplus(logits)).sum(-1)
    ### END SOLUTION


def gaussian_log_likelihood(x: Tensor, mean: Tensor, sigma: float) -> Tensor:
    """Log-density of images under N(mean, sigma^2 I), in nats, for each image.

    Args:
        x: Pixels, shape (..., pixels).
        mean: Means, shape and dtype of x.
        sigma: Standard deviation of every pixel, a positive number.

    Returns:
        Log-densities, shape (...), in the dtype of x: summed over the pixels, the constant included. Differentiable in
        mean.

    Raises:
        ValueError: x and mean differ in shape, or sigma is not positive.
    """
    ### BEGIN SOLUTION
    if x.shape != mean.shape:
        raise ValueError(f"x has the shape {tuple(x.shape)}, mean has {tuple(mean.shape)}")
    if sigma <= 0:
        raise ValueError(f"sigma is a standard deviation and must be positive, not {sigma}")
    constant = math.log(sigma) + 0.5 * math.log(2 * math.pi)
    return -(0.5 * ((x - mean) / sigma) ** 2 + constant).sum(-1)
    ### END SOLUTION


# %% checks="reconstruction_log_likelihood" points=3
three_bits = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
odds = torch.tensor([[2.0, -1.0, 0.0], [2.0, -1.0, 0.0]])
expect_close(
    bernoulli_log_likelihood(three_bits, odds), [-1.1333, -3.1333], "Two images of three bits: two log-probabilities."
)
sure = torch.tensor([[1000.0, -1000.0]])
expect_close(
    bernoulli_log_likelihood(torch.tensor([[1.0, 0.0]]), sure), [0.0], "Certain and right: probability one, and no NaN."
)
expect_close(
    bernoulli_log_likelihood(torch.tensor([[0.0, 0.0]]), sure),
    [-1000.0],
    "Certain and wrong costs 1000 nats, not infinity.",
)
expect_close(
    gaussian_log_likelihood(torch.tensor([[0.3, 0.7]]), torch.tensor([[0.3, 0.2]]), 0.5),
    [-0.9516],
    "Two pixels, one exact and one off by a standard deviation: -1/2 and twice the constant.",
)
expect_close(
    gaussian_log_likelihood(torch.zeros(1, 64), torch.zeros(1, 64), 0.01),
    [235.9188],
    "64 pixels, all exact, and sigma small: a log-density may be positive.",
)

# %% [markdown]
# Now for real images, with an average image $m$ in place of a decoder. On the left are 16 digits as bits, and the
# average of the training images. In the middle: what one bit with value 1 contributes, over its logit. Computed as
# $\ln p$ from the probability in float32 it falls to $-\infty$ (crosses, drawn at the lower edge) beyond a logit of
# about $-90$ or, for a bit 0 computed as $\ln(1 - p)$, already beyond $+17$. Your function (lines) knows no such edge.
#
# On the right, the log-density of all grey digits around their average, over $\sigma$. With the constant it has a
# maximum where $\sigma$ is the root mean square error (dotted), as maximum likelihood should. Without the constant
# bigger is always better: a program that learns $\sigma$ from a squared error alone lets it run away.

# %% tags=["demo"]
logit = torch.linspace(-120, 120, 481)
probability = torch.sigmoid(logit)
naive = {1: probability.log(), 0: (1 - probability).log()}
grey = grey_levels / 16
average = grey.mean(0).expand_as(grey)
sigmas = torch.linspace(0.12, 1.2, 80).tolist()
exact = [gaussian_log_likelihood(grey, average, sigma).mean().item() for sigma in sigmas]
squares = [-((grey - average) ** 2).sum(1).mean().item() / (2 * sigma**2) for sigma in sigmas]
rms = (grey - average).square().mean().sqrt().item()

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.6), width_ratios=(0.9, 1, 1), layout="constrained")
show_images(left, torch.cat([train_images[:16], train_images.mean(0).expand(4, 64)]), "Digits; below: average", 4)
for bit, color in ((1, "C0"), (0, "C1")):
    value = bernoulli_log_likelihood(torch.full((481, 1), float(bit)), logit[:, None])
    middle.plot(logit, value, color=color, label=f"bit {bit}: yours")
    lost = naive[bit].isinf()
    middle.plot(
        logit[lost][::8], torch.full_like(logit[lost][::8], -125), "x", color=color, label=f"bit {bit}: naive -inf"
    )
middle.set(xlabel="logit", ylabel="log-probability (nats)", title="One bit, in float32", ylim=(-130, 5))
middle.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.48, 0.15))
right.plot(sigmas, exact, label="log-density")
right.plot(sigmas, squares, "--", label="without the constant")
right.axvline(rms, color="grey", linestyle=":", label=f"root mean square error {rms:.3f}")
right.set(xlabel=r"$\sigma$", ylabel="average over the images (nats)", title="Grey digits around their average")
right.set_ylim(-120, 30)
right.legend(fontsize=8)
plt.show()

# %% [markdown]
# ## 4 · A bound you can climb
#
# For any distribution $q$ over codes, whatever it is,
#
# $$\ln p(x) = \underbrace{\mathbb E_{q}\big[\ln p(x \mid z)\big] - D_{\mathrm{KL}}\big(q(z) \,\|\, p(z)\big)}
# _{\text{ELBO}} \;+\; D_{\mathrm{KL}}\big(q(z) \,\|\, p(z \mid x)\big)$$
#
# (K&W equations 1 and 3; to see it, write $p(x) = p(x \mid z)\,p(z)/p(z \mid x)$, take logarithms, add and subtract
# $\ln q(z)$, and average over $q$). The last term is not negative, and we cannot compute it, so we drop it. What is
# left is the **evidence lower bound**, a sum of two things that you have just written: how well codes from $q$ explain
# the image, minus what these codes tell. It equals $\ln p(x)$ exactly when $q$ is the true posterior $p(z \mid x)$.
#
# The expectation is estimated from a single draw $z$ (K&W equation 7, with the divergence in closed form). Mind what
# the bound says: the **expectation** of the estimate is at most $\ln p(x)$. A single estimate may lie above it, and
# often does.
#
# Higgins et al. (2017, "beta-VAE", equation 4) put a factor before the divergence,
#
# $$\mathbb E_{q}\big[\ln p(x \mid z)\big] - \beta\, D_{\mathrm{KL}}\big(q(z) \,\|\, p(z)\big).$$
#
# For $\beta > 1$ it still is a lower bound, a looser one; for $\beta < 1$ it need not be one. You will need it for
# experiments.
#
# **Task 4 · `elbo` · 3 points · 25 minutes**


# %% task="elbo"
def elbo(
    x: Tensor,
    z: Tensor,
    mu: Tensor,
    logvar: Tensor,
    log_likelihood: Callable[[Tensor, Tensor], Tensor],
    beta: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Estimate the evidence lower bound of a batch from one code for each image, in nats per image.

    Args:
        x: Images, shape (batch, pixels), at least one.
        z: Codes, shape (batch, latent), row i drawn from the belief about image i.
        mu: Means of the beliefs q(z | x), shape (batch, latent).
        logvar: Logarithms of their variances, shape (batch, latent).
        log_likelihood: `log_likelihood(x, z)` gives ln p(x | z) for each pair of rows, shape (batch,).
        beta: Factor before the divergence, not negative.

    Returns:
        The objective (reconstruction minus beta times divergence), the reconstruction term, and the divergence from
        N(0, I) in closed form, without beta. All three are averages over the batch, of shape (), and differentiable.

    Raises:
        ValueError: beta is negative.
    """
    ### BEGIN SOLUTION
    if beta < 0:
        raise ValueError(f"beta must not be negative, but is {beta}")
    reconstruction = log_likelihood(x, z).mean()
    divergence = kl_to_standard_normal(mu, logvar).mean()
    return reconstruction - beta * divergence, reconstruction, divergence
    ### END SOLUTION


# %% checks="elbo" points=3
def two_numbers(x: Tensor, z: Tensor) -> Tensor:
    """ln p(x | z) for x1 = z + noise and x2 = 2 z + noise, with noise of variance 1."""
    distance = (x - z * torch.tensor([1.0, 2.0])).square().sum(-1)
    return -distance / 2 - math.log(2 * math.pi)


pair = torch.tensor([[1.0, 3.0], [0.0, -2.0]])
centre, log_variance = torch.tensor([[1.0], [-0.5]]), torch.tensor([[-2.0], [-1.0]])
result = elbo(pair, torch.tensor([[1.5], [-1.0]]), centre, log_variance, two_numbers)
expect_close(result[1], -2.1504, "Two images with two codes: the average of ln p(x | z).")
expect_close(result[2], 0.6883, "The average divergence is about the beliefs and not about the codes.")
expect_close(result[0], -2.8387, "The bound is the one minus the other.")
strict = elbo(pair, torch.tensor([[1.5], [-1.0]]), centre, log_variance, two_numbers, beta=3.0)
expect_close(strict, [-4.2153, -2.1504, 0.6883], "With beta = 3 the divergence counts three times in the objective.")

# %% [markdown]
# There is one model in which everything can be computed: a linear decoder with normal noise, $p(x \mid z) = \mathcal
# N(w z, s^2 I)$. It is probabilistic principal component analysis (Tipping & Bishop 1999), and with a single latent
# dimension
#
# $$p(x) = \mathcal N\big(0,\; w w^\top + s^2 I\big), \qquad
# p(z \mid x) = \mathcal N\Big(v\, \frac{w^\top x}{s^2},\; v\Big), \qquad \frac1v = 1 + \frac{w^\top w}{s^2}$$
#
# (Bishop 2006, *Pattern Recognition and Machine Learning*, equations 12.35, 12.36 and 12.42; copies of the last with
# the inverse of the variance are about, and the way to notice is that an image cannot make us less certain: $v \le 1$).
# Below is one image of two pixels and your `elbo` for beliefs $q = \mathcal N(m, \tau^2)$. Here $\ln p(x \mid z)$ is
# quadratic in $z$, so the average over the two codes $z = m \pm \tau$ is the exact expectation.
#
# On the left $m$ varies, on the right $\tau$. The curve touches $\ln p(x)$ (dotted) at the true posterior and nowhere
# else, and the gap is the divergence of $q$ from it. Grey dots are estimates from single draws of $z$. Many lie above
# the dotted line, others below the frame, and no law is broken.

# %% tags=["demo"]
weights, noise_scale = torch.tensor([1.2, 0.7], dtype=torch.float64), 0.6
image = torch.tensor([[1.5, 0.2]], dtype=torch.float64)
marginal = torch.distributions.MultivariateNormal(
    torch.zeros(2, dtype=torch.float64), weights.outer(weights) + noise_scale**2 * torch.eye(2, dtype=torch.float64)
)
evidence = marginal.log_prob(image).item()
best_variance = 1 / (1 + weights @ weights / noise_scale**2)
best_mean, best_scale = (best_variance * image @ weights / noise_scale**2).item(), best_variance.sqrt().item()


def linear_decoder(x: Tensor, z: Tensor) -> Tensor:
    return gaussian_log_likelihood(x, z * weights, noise_scale)


def bound_at(mean: float, scale: float, noise: float) -> float:
    """The bound for q = N(mean, scale^2) and the code mean + scale * noise."""
    m, s = torch.tensor([[mean]], dtype=torch.float64), torch.tensor([[scale]], dtype=torch.float64)
    return elbo(image, m + s * noise, m, 2 * s.log(), linear_decoder)[0].item()


choices = {
    "mean": [(m, best_scale) for m in torch.linspace(0.0, 1.6, 65).tolist()],
    "standard deviation": [(best_mean, s) for s in torch.linspace(0.08, 1.2, 65).tolist()],
}
source = torch.Generator().manual_seed(3)

figure, both = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True, layout="constrained")
for axis, (axes, symbol, (name, points)) in enumerate(zip(both, ("m", r"$\tau$"), choices.items(), strict=True)):
    position = [point[axis] for point in points]
    singles = [bound_at(*point, torch.randn((), generator=source).item()) for point in points for _ in range(3)]
    exact_bound = [(bound_at(*point, 1.0) + bound_at(*point, -1.0)) / 2 for point in points]
    axes.plot([p for p in position for _ in range(3)], singles, ".", color="grey", markersize=3, label="single draws")
    axes.plot(position, exact_bound, label="ELBO, exact expectation")
    axes.axhline(evidence, color="black", linestyle=":", label=f"ln p(x) = {evidence:.3f}")
    axes.plot((best_mean, best_scale)[axis], evidence, "o", color="black", markersize=5)
    axes.set(xlabel=f"{name} of the belief, {symbol}", title=f"Varying the {name}", ylim=(-6, -1))
both[0].set_ylabel("nats")
both[0].legend(loc="lower center", fontsize=9)
plt.show()

# %% [markdown]
# ## 5 · The two networks
#
# Now the networks. The encoder looks at an image and gives $\mu$ and $\ln\sigma^2$ for each latent dimension; the
# decoder looks at a code and gives a logit for each pixel. One hidden layer each will do:
#
# $$h = \operatorname{ReLU}(W_1 x + b_1), \quad \mu = W_2 h + b_2, \quad \ln \sigma^2 = W_3 h + b_3, \qquad
# \ell = W_5 \operatorname{ReLU}(W_4 z + b_4) + b_5$$
#
# Neither $\mu$ nor $\ln\sigma^2$ nor $\ell$ passes through any further function: each may be any real number. In
# particular the decoder does not apply the sigmoid, because the log-likelihood of task 3 takes logits. Applied in both
# places, the sigmoid leaves every pixel a probability between 0.5 and 0.73, and training looks as if it only needed
# more time.
#
# `forward` sends images through both, as training does, with a drawn code. But when you ask a trained model to
# *reconstruct* an image you want the same answer twice, so in evaluation mode (`model.eval()`) it decodes the mean
# instead. `generate` has no image at all: it draws codes from the prior and decodes them.
#
# **Task 5 · `VAE` · 3 points · 40 minutes**


# %% task="VAE"
class VAE(nn.Module):
    """A variational autoencoder with one hidden layer on either side, for images of bits.

    Attributes:
        enc_hidden: nn.Linear from pixels to hidden, the W1 and b1 above.
        enc_mu: nn.Linear from hidden to latent, W2 and b2.
        enc_logvar: nn.Linear from hidden to latent, W3 and b3.
        dec_hidden: nn.Linear from latent to hidden, W4 and b4.
        dec_logits: nn.Linear from hidden to pixels, W5 and b5. These five hold all parameters.
    """

    def __init__(self, n_pixels: int, n_hidden: int, n_latent: int) -> None:
        """Make the five layers, as nn.Linear initialises them."""
        ### BEGIN SOLUTION
        super().__init__()
        self.enc_hidden = nn.Linear(n_pixels, n_hidden)
        self.enc_mu = nn.Linear(n_hidden, n_latent)
        self.enc_logvar = nn.Linear(n_hidden, n_latent)
        self.dec_hidden = nn.Linear(n_latent, n_hidden)
        self.dec_logits = nn.Linear(n_hidden, n_pixels)
        ### END SOLUTION

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The belief about the codes of images.

        Args:
            x: Images, shape (batch, pixels).

        Returns:
            Means and logarithms of the variances, in this order, each of shape (batch, latent).
        """
        ### BEGIN SOLUTION
        hidden = self.enc_hidden(x).relu()
        return self.enc_mu(hidden), self.enc_logvar(hidden)
        ### END SOLUTION

    def decode(self, z: Tensor) -> Tensor:
        """The logits of pixels, shape (batch, pixels), for codes of shape (batch, latent)."""
        ### BEGIN SOLUTION
        return self.dec_logits(self.dec_hidden(z).relu())
        ### END SOLUTION

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Encode images, choose a code for each, and decode it.

        Args:
            x: Images, shape (batch, pixels).
            generator: Source of randomness. Always given in training mode, unused in evaluation mode.

        Returns:
            Logits, means and logarithms of the variances. In training mode the codes are drawn from the beliefs, in
            evaluation mode they are the means.
        """
        ### BEGIN SOLUTION
        mu, logvar = self.encode(x)
        z = reparameterize(mu, logvar, generator) if self.training else mu
        return self.decode(z), mu, logvar
        ### END SOLUTION

    def generate(self, n: int, generator: torch.Generator) -> Tensor:
        """New images: codes from N(0, I), decoded, in either mode.

        Args:
            n: Number of images.
            generator: Source of randomness, on the device of the parameters.

        Returns:
            For each pixel the probability of a 1, shape (n, pixels), in the dtype and on the device of the parameters,
            without gradient.
        """
        ### BEGIN SOLUTION
        like = self.dec_hidden.weight
        z = torch.randn(n, like.shape[1], generator=generator, dtype=like.dtype, device=like.device)
        return torch.sigmoid(self.decode(z)).detach()
        ### END SOLUTION


# %% checks="VAE" points=3
torch.manual_seed(0)
fresh = VAE(n_pixels=64, n_hidden=128, n_latent=8)
expect_close(sum(p.numel() for p in fresh.parameters()), 19_792, "Five linear layers have 19,792 parameters.")
belief_mu, belief_logvar = fresh.encode(test_images[:5])
expect_close(belief_mu.shape, [5, 8], "Five images, eight latent dimensions: means of shape (5, 8).")
fresh.eval()
expect_close(fresh(test_images[:5])[0], fresh.decode(belief_mu), "In evaluation mode the code of an image is its mean.")
expect_close(fresh.decode(torch.zeros(1, 8)).shape, [1, 64], "One code gives the logits of 64 pixels.")
fresh.train()
one, other = (fresh(test_images[:5], torch.Generator().manual_seed(seed))[0] for seed in (1, 2))
assert not torch.allclose(one, other), "In training mode codes are drawn: two generators must not give the same logits."
made = fresh.generate(100, torch.Generator().manual_seed(4))
expect_close(made.shape, [100, 64], "A hundred new images.")
expect_close(made.mean(), 0.5, "Before training, each pixel is a coin that is nearly fair.", atol=0.05)
repeated = fresh.generate(100, torch.Generator().manual_seed(4))
expect_close(repeated - made, torch.zeros(100, 64), "The same state of the generator gives the same images.")

# %% [markdown]
# Before training, the decoder says "about one half" to everything, whatever the code. Each of the 64 bits then costs
# about $\ln 2$ nats: the reconstruction term is close to $-64 \ln 2 = -44.4$. Whatever we gain from here on has been
# learned.

# %% tags=["demo"]
torch.manual_seed(0)
untrained = VAE(n_pixels=64, n_hidden=128, n_latent=8).eval()
with torch.no_grad():
    logits, _, _ = untrained(test_images[:12])
    before = bernoulli_log_likelihood(test_images[:12], logits).mean().item()

figure, rows = plt.subplots(3, 1, figsize=(9, 3.4), layout="constrained")
show_images(rows[0], test_images[:12], "Twelve held-out digits", 12)
show_images(rows[1], torch.sigmoid(logits), f"Their reconstructions before training: {before:.1f} nats an image", 12)
show_images(rows[2], untrained.generate(12, torch.Generator().manual_seed(0)), "Generated before training", 12)
plt.show()

# %% [markdown]
# ## 6 · One step of training
#
# All parts are there. A step takes a batch of images, forms beliefs, draws a code for each image, decodes, and computes
# the objective; then all parameters of both networks move a little way *up* the gradient of the objective. Optimizers
# of `torch.optim` go down, so what they are given is its negative. They also add new gradients to old ones until
# someone clears them.
#
# The numbers that a step reports are for a plot. Return them as Python floats: a tensor that still knows how it was
# computed keeps the whole computation in memory, and a list of a thousand of them keeps a thousand.
#
# **Task 6 · `train_step` · 2 points · 30 minutes**


# %% task="train_step"
def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    generator: torch.Generator,
    beta: float = 1.0,
) -> tuple[float, float, float]:
    """Take one optimizer step that raises the objective of `elbo` for images of bits.

    Args:
        model: Has `encode`, `decode` and `forward` as a `VAE` has (`forward` does not hand out its codes). The step
            puts it into training mode.
        optimizer: Optimizer of the model's parameters. Gradients that they may already have are not used.
        x: Images, shape (batch, pixels).
        generator: Source of the codes: one for each image is drawn and decoded, once.
        beta: Factor before the divergence.

    Returns:
        The objective, the reconstruction term and the divergence, as Python floats, for the parameters before the
        step and the codes drawn in it.
    """
    ### BEGIN SOLUTION
    model.train()
    mu, logvar = model.encode(x)
    z = reparameterize(mu, logvar, generator)
    terms = elbo(x, z, mu, logvar, lambda x, z: bernoulli_log_likelihood(x, model.decode(z)), beta)
    optimizer.zero_grad()
    (-terms[0]).backward()
    optimizer.step()
    return terms[0].item(), terms[1].item(), terms[2].item()
    ### END SOLUTION


# %% checks="train_step" points=2
torch.manual_seed(0)
small = VAE(n_pixels=64, n_hidden=16, n_latent=2)
climber = torch.optim.SGD(small.parameters(), lr=0.02)
source = torch.Generator().manual_seed(5)
first = train_step(small, climber, train_images[:200], source)
expect_close(first[1], -64 * math.log(2), "An untrained model reconstructs at about -64 ln 2 nats.", atol=2.0)
expect_close(first[0], first[1] - first[2], "Objective, reconstruction and divergence belong together.")
assert all(type(term) is float for term in first), "Python floats are asked for, no tensors: see `.item()`."
for _ in range(30):
    last = train_step(small, climber, train_images[:200], source)
assert last[0] > first[0] + 5, (
    f"30 steps should raise the objective; it went from {first[0]:.2f} to {last[0]:.2f}. Optimizers go down."
)
print("ok: 30 steps raise the objective by more than 5 nats an image.")

# %% [markdown]
# Now for real: eight latent dimensions, Adam, 1,200 steps of 100 images. On the left the two terms, measured on
# held-out images every 50 steps. The reconstruction climbs, and the divergence climbs with it: what the decoder is to
# know must be told.
#
# In the middle, the bound for training images and held-out ones. The dashed line is what a model without a code can
# do: every pixel a coin of its own, with the frequency that the training images show. After 50 steps the VAE
# does not yet beat these frequencies; then it discovers that codes help. On the right, held-out digits and,
# below each, its reconstruction from eight numbers.


# %% tags=["demo"]
def train(beta: float, steps: int = 1200) -> tuple[VAE, list[tuple[int, float, float, float]]]:
    """A trained model, and at some steps: the training bound, and held-out reconstruction and divergence."""
    torch.manual_seed(1)
    model, source = VAE(n_pixels=64, n_hidden=128, n_latent=8), torch.Generator().manual_seed(6)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    history = []
    for step in range(steps):
        batch = train_images[torch.randint(len(train_images), (100,), generator=source)]
        train_step(model, optimizer, batch, source, beta)
        if step % 50 == 49:
            history.append((step + 1, terms_on(model, train_images)[0], *terms_on(model, test_images)[1:]))
    return model.eval(), history


def terms_on(model: VAE, images: Tensor) -> tuple[float, float, float]:
    """Bound, reconstruction and divergence per image, from one draw for each."""
    with torch.no_grad():
        mu, logvar = model.encode(images)
        z = reparameterize(mu, logvar, torch.Generator().manual_seed(7))
        terms = elbo(images, z, mu, logvar, lambda x, z: bernoulli_log_likelihood(x, model.decode(z)))
    return terms[0].item(), terms[1].item(), terms[2].item()


balanced, history = train(beta=1.0)
frequency = (train_images.sum(0) + 1) / (len(train_images) + 2)  # one imagined 1 and 0 each: no pixel is certain
coins = bernoulli_log_likelihood(test_images, frequency.logit().expand_as(test_images)).mean().item()
step, bound, explained, told = (torch.tensor(column) for column in zip(*history, strict=True))

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.6), width_ratios=(1, 1, 0.9), layout="constrained")
left.plot(step, explained, label="reconstruction, held out")
left.plot(step, told, label="divergence, held out")
left.set(xlabel="step", ylabel="nats per image", title="The two terms")
left.legend()
middle.plot(step, bound, label="training images")
middle.plot(step, explained - told, label="held-out images")
middle.axhline(coins, color="grey", linestyle="--", label=f"independent pixels: {coins:.1f}")
middle.set(xlabel="step", ylabel="ELBO (nats per image)", title="The bound")
middle.legend()
with torch.no_grad():
    pixels = torch.sigmoid(balanced(test_images[:18])[0])
show_images(
    right,
    torch.stack([test_images[:18].reshape(3, 6, 64), pixels.reshape(3, 6, 64)], dim=1).flatten(0, 2),
    "Digit above, reconstruction below",
    6,
)
plt.show()

# %% [markdown]
# ## 7 · Three ways to end up
#
# The balance of the two terms is easily upset. Suppose someone writes the reconstruction loss with `mean` over the 64
# pixels, because that is a default, and sums the divergence: the divergence then weighs 64 times too much, and the
# program is a beta-VAE with $\beta = 64$ that nobody asked for. Suppose someone, unhappy with blurred reconstructions,
# turns $\beta$ down to 0.001. Neither program crashes. How would you notice, without looking at pictures?
#
# **Does the code say anything?** If the divergence of a latent dimension is zero for every image, the encoder gives the
# same belief whatever it sees. That is **posterior collapse** (Bowman et al. 2016 met it in language models). Burda,
# Grosse & Salakhutdinov (2016, section 5.2) look at how much the *mean* moves from image to image,
#
# $$A_j = \operatorname{Var}_x\big(\mu_j(x)\big),$$
#
# and call the unit $j$ **active** if $A_j > 10^{-2}$. Take the variance with the number of images as divisor.
#
# **Do the drawn codes land where the decoder is at home?** The decoder has seen only codes of training images. Averaged
# over images, the divergence splits into $I(x; z) + D_{\mathrm{KL}}\big(\bar q(z) \,\|\, p(z)\big)$, where $\bar q(z)$
# is the mixture of all beliefs (Hoffman & Johnson 2016, "ELBO surgery"). The first part is the information that we
# want. The second says that the codes in use are elsewhere than the codes that will be drawn, and a small $\beta$
# hardly punishes it.
#
# What counts in the end is whether generated images look like real ones. Given $n$ images $x_i$ from one source and $m$
# images $y_j$ from another, are they from the same distribution? As a measure of likeness use a kernel,
# $k(a, b) = \exp\!\big(-\lVert a - b\rVert^2 / 2h^2\big)$. If the sources agree, likeness within a source equals
# likeness across:
#
# $$\widehat{\mathrm{MMD}}{}^2 = \frac{1}{n(n-1)} \sum_{i \ne j} k(x_i, x_j)
# + \frac{1}{m(m-1)} \sum_{i \ne j} k(y_i, y_j)
# - \frac{2}{nm} \sum_{i, j} k(x_i, y_j)$$
#
# (Gretton et al. 2012, "A Kernel Two-Sample Test", equation 3), the squared **maximum mean discrepancy**. An image is
# not compared with itself: $k(x_i, x_i) = 1$ would make two samples of one source look different. Without these
# terms the estimate is unbiased. Its expectation is zero for equal sources, and so it is often *negative*.
#
# **Task 7 · `active_units` and `squared_mmd` · 3 points · 35 minutes**


# %% task="active_units"
def active_units(mu: Tensor, threshold: float = 0.01) -> Tensor:
    """Which latent units are active: their means vary over the images by more than a threshold.

    Args:
        mu: Means of the beliefs, shape (images, latent).
        threshold: What the variance, with divisor `images`, must exceed.

    Returns:
        Booleans, shape (latent,).
    """
    ### BEGIN SOLUTION
    return mu.var(dim=0, correction=0) > threshold
    ### END SOLUTION


def squared_mmd(x: Tensor, y: Tensor, bandwidth: float) -> Tensor:
    """Unbiased estimate of the squared maximum mean discrepancy of two samples, with a Gaussian kernel.

    Args:
        x: First sample, shape (n, features), n at least 2.
        y: Second sample, shape (m, features), m at least 2, in the dtype of x.
        bandwidth: The h in k(a, b) = exp(-|a - b|^2 / (2 h^2)), positive.

    Returns:
        The estimate, shape (), in the dtype of x. It may be negative.

    Raises:
        ValueError: A sample has fewer than 2 points, or the bandwidth is not positive.
    """
    ### BEGIN SOLUTION
    n, m = len(x), len(y)
    if n < 2 or m < 2:
        raise ValueError(f"both samples need at least 2 points, not {n} and {m}")
    if bandwidth <= 0:
        raise ValueError(f"the bandwidth must be positive, not {bandwidth}")

    def likeness(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-0.5 * (torch.cdist(a, b) / bandwidth) ** 2)

    within_x = (likeness(x, x).sum() - n) / (n * (n - 1))
    within_y = (likeness(y, y).sum() - m) / (m * (m - 1))
    return within_x + within_y - 2 * likeness(x, y).mean()
    ### END SOLUTION


# %% checks="active_units" points=3
unit_means = torch.tensor([[5.0, 0.3, 0.01], [5.0, -0.3, 0.02], [5.0, 0.1, 0.03], [5.0, -0.1, 0.04]])
expect_close(
    active_units(unit_means), [False, True, False], "A unit that is always 5 says nothing; only the second varies."
)
expect_close(
    active_units(unit_means, threshold=1e-4), [False, True, True], "With a lower threshold the third counts too."
)
triple, couple = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [2.0]])
expect_close(squared_mmd(triple, couple, 1.0), -0.6024, "Five numbers from two sources. Negative is possible.")
expect_close(squared_mmd(triple, couple, 2.0), -0.3151, "With a wider kernel all points are more alike.")
expect_close(squared_mmd(triple, couple + 100, 1.0), 0.3863, "Far apart, only the likeness within each source is left.")

# %% [markdown]
# Three models that differ in nothing but $\beta$, measured on held-out digits. Each column of the first figure is a
# model. The reconstructions of the first are legible, so are those of the third, sharper still. But in the second row,
# generated images, the third fails: the codes of its digits (last row, coloured by digit, along the two most active
# dimensions) range over more than twenty on each axis, the drawn codes fall mostly within the black circle (two
# standard deviations of the prior), and the decoder has to guess. The second model has collapsed. Whatever the image,
# the code says nothing, the reconstruction is the average digit, and so is every generated image. By MMD the third is
# even the worst generator of the three: one grey average is closer to the digits than confident nonsense.

# %% tags=["demo"]
collapsed, _ = train(beta=64.0)
scattered, _ = train(beta=0.001)
regimes = {"balanced, β = 1": balanced, "collapsed, β = 64": collapsed, "scattered, β = 0.001": scattered}
angle = torch.linspace(0, 2 * math.pi, 100)

figure, rows = plt.subplots(3, 3, figsize=(11, 9), height_ratios=(1, 1, 1.5), layout="constrained")
for (name, model), (top, centre, bottom) in zip(regimes.items(), rows.T, strict=True):
    with torch.no_grad():
        pixels, mu, _ = model(test_images)
    pairs = torch.stack([test_images[:14].reshape(2, 7, 64), pixels[:14].sigmoid().reshape(2, 7, 64)], dim=1)
    show_images(top, pairs.flatten(0, 2), f"{name}\ndigit above, reconstruction below", 7)
    show_images(centre, model.generate(28, torch.Generator().manual_seed(8)), "generated", 7)
    first, second = mu.var(0).topk(2).indices.tolist()
    bottom.scatter(mu[:, first], mu[:, second], c=test_labels, cmap="tab10", s=8)
    bottom.plot(2 * angle.cos(), 2 * angle.sin(), color="black")
    bottom.set(xlabel=f"mean of unit {first}", ylabel=f"mean of unit {second}", title="means of held-out digits")
    bottom.axis("equal")
plt.show()

# %% [markdown]
# Now the same without pictures. Each image is held-out or generated; of a generated image the bits are drawn from the
# pixel probabilities, so that bits are compared with bits. Two images that differ in $d$ pixels are alike by $e^{-d/8}$
# (bandwidth 2). The grey line in the last panel is the largest of 20 values for two random parts of the real digits.
#
# - Reconstruction alone favours the scattered model.
# - The number of active units unmasks the collapsed one, and cannot tell the other two apart.
# - The divergence is enormous where the codes lie far out, and zero where they say nothing.
# - The discrepancy of generated images comes close to that of real ones for the balanced model only.


# %% tags=["demo"]
def real_against_real(seed: int) -> float:
    shuffled = bits[torch.randperm(len(bits), generator=torch.Generator().manual_seed(seed))]
    return squared_mmd(shuffled[:397], shuffled[397:997], 2.0).item()


noise_level = max(real_against_real(seed) for seed in range(20))
measured = {}
for name, model in regimes.items():
    source = torch.Generator().manual_seed(9)
    generated = torch.bernoulli(model.generate(600, source), generator=source)
    with torch.no_grad():
        active = active_units(model.encode(test_images)[0]).sum().item()
    _, reconstruction, divergence = terms_on(model, test_images)
    measured[name] = (reconstruction, divergence, active, squared_mmd(test_images, generated, 2.0).item())
    print(f"{name:22} {reconstruction:7.2f} nats {divergence:8.2f} nats {active} active, MMD² {measured[name][3]:.4f}")

titles = {
    "reconstruction (nats)": "{:.1f}",
    "divergence (nats)": "{:.1f}",
    "active units of 8": "{:d}",
    "MMD² of generated bits": "{:.4f}",
}
figure, panels = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained")
for panel, (title, form), values in zip(panels, titles.items(), zip(*measured.values(), strict=True), strict=True):
    bars = panel.bar([name.replace(", ", "\n") for name in measured], values, color=["C0", "C1", "C2"])
    panel.bar_label(bars, labels=[form.format(value) for value in values], fontsize=9)
    panel.set_title(title)
    panel.tick_params(axis="x", labelsize=8)
panels[0].set_ylim(-30, 0)
panels[1].set_yscale("symlog", linthresh=1)
panels[1].set_ylim(0, 1000)
panels[2].set_ylim(0, 9)
panels[3].set(yscale="log", ylim=(5e-4, 0.5))
panels[3].axhline(noise_level, color="grey", label=f"real against real: {noise_level:.4f}")
panels[3].legend(fontsize=8)
plt.show()

# %% [markdown]
# ## 8 · Between two digits
#
# If codes are laid out sensibly, a straight line from the code of one digit to that of another should pass through
# codes of digits all the way. Take the means $\mu_0$ and $\mu_1$ of the two beliefs and decode
#
# $$z_t = (1 - t)\,\mu_0 + t\,\mu_1, \qquad t = 0, \dots, 1 .$$
#
# Nothing is drawn here: with drawn codes the two ends would not be the reconstructions of the two images.
#
# **Task 8 · `interpolate` · 2 points · 20 minutes**


# %% task="interpolate"
def interpolate(model: nn.Module, start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Decode equally spaced codes on the straight line between the mean codes of two images.

    Args:
        model: Has `encode` and `decode` as a `VAE` has: batches of images to means and logarithms of variances, codes
            to logits.
        start: First image, shape (pixels,).
        end: Last image, shape (pixels,).
        steps: Number of codes, at least 2, both ends included.

    Returns:
        For each code and pixel the probability of a 1, shape (steps, pixels), from start to end, without gradient.

    Raises:
        ValueError: steps is less than 2.
    """
    ### BEGIN SOLUTION
    if steps < 2:
        raise ValueError(f"a line has two ends: steps must be at least 2, not {steps}")
    with torch.no_grad():
        mu, _ = model.encode(torch.stack([start, end]))
        t = torch.linspace(0, 1, steps, dtype=mu.dtype, device=mu.device)[:, None]
        return torch.sigmoid(model.decode((1 - t) * mu[0] + t * mu[1]))
    ### END SOLUTION


# %% checks="interpolate" points=2
torch.manual_seed(2)
toy = VAE(n_pixels=64, n_hidden=16, n_latent=2).eval()
path = interpolate(toy, test_images[0], test_images[1], 5)
ends = torch.sigmoid(toy(test_images[:2])[0])
expect_close(path.shape, [5, 64], "Five images on the way, both ends included.")
expect_close(path[[0, -1]], ends, "The path begins and ends with the reconstructions of the two images.")
codes = toy.encode(test_images[:2])[0]
expect_close(path[2], torch.sigmoid(toy.decode(codes.mean(0))), "Halfway lies the decoded midpoint of the two codes.")

# %% [markdown]
# From one held-out digit to another in nine steps: through the codes of the balanced model, of the scattered one, and,
# for comparison, by mixing pixels. Mixed pixels are two digits on top of each other; the models change one digit into
# the other.
#
# The curve puts a number to it, over 200 random pairs: if bits were drawn from an image on the path, in how many pixels
# would they differ, on average, from the real training digit nearest to that image? Halfway between two pixel images it
# is almost six more than at the ends, halfway between two codes about two more. (At the ends, mixed pixels are the
# digits themselves, and reconstructions are a little blurred.) Note that the scattered model does no worse here than
# the balanced one: lines between codes stay among the codes, and part of its lead is that sharp images cost less by
# this measure. Smooth interpolations are often shown as proof that a model generates well. They prove less than that.


# %% tags=["demo"]
def mix_pixels(start: Tensor, end: Tensor, steps: int) -> Tensor:
    t = torch.linspace(0, 1, steps)[:, None]
    return (1 - t) * start + t * end


def distance_to_real(images: Tensor) -> Tensor:
    """Expected number of pixels in which bits drawn from the images differ from the nearest training image."""
    return torch.cdist(images, train_images, p=1).min(-1).values


ways = {
    "balanced codes": lambda start, end: interpolate(balanced, start, end, 9),
    "scattered codes": lambda start, end: interpolate(scattered, start, end, 9),
    "mixed pixels": lambda start, end: mix_pixels(start, end, 9),
}
chosen = torch.randint(len(test_images), (200, 2), generator=torch.Generator().manual_seed(10))
first, last = test_images[test_labels == 3][0], test_images[test_labels == 0][0]

figure = plt.figure(figsize=(11, 3.8), layout="constrained")
grid = figure.add_gridspec(3, 2, width_ratios=(1.2, 1))
curve = figure.add_subplot(grid[:, 1])
for row, (name, way) in enumerate(ways.items()):
    show_images(figure.add_subplot(grid[row, 0]), way(first, last), name, 9)
    distances = torch.stack([distance_to_real(way(*test_images[pair])) for pair in chosen]).mean(0)
    curve.plot(torch.linspace(0, 1, 9), distances, marker=".", label=name)
curve.set(
    xlabel="position on the path t", ylabel="expected differing pixels", title="Distance to the nearest training digit"
)
curve.legend()
plt.show()

# %% [markdown]
# ## What you have now
#
# | Piece | What it is for | Where it returns |
# |---|---|---|
# | $z = \mu + \sigma \odot \varepsilon$ | a gradient through a draw | diffusion, policies with continuous actions |
# | $D_{\mathrm{KL}}(q(z \mid x) \,\Vert\, p(z))$ | what the code tells, where it lies | latent diffusion |
# | $\ln p(x \mid z)$ with its constant | makes nats comparable | every likelihood-based model |
# | ELBO | a bound on what cannot be integrated | diffusion is trained with one, too |
# | active units, MMD² | what the loss does not say | judging any generative model |
#
# Three habits are worth keeping. Sum over pixels and latent dimensions, average over images, and know which of the two
# a library's default did. Report reconstruction and divergence apart, since their sum hides both failures. And measure
# what you generate, because a model that reconstructs perfectly may have learned nothing about generating.
