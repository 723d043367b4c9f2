# %% [markdown]
# # Transforming random variables
#
# Nearly every generative model of this course draws a number from something simple, usually a normal distribution, and
# sends it through a function. What comes out is the interesting part: an image, an action of a robot, a point on a
# curved surface. Two questions follow at once. *How likely was the output?* And, since we train by likelihood: *how do
# gradients get through that answer?*
#
# - a **normalizing flow** is a chain of invertible functions whose output density is known exactly;
# - a **squashed policy** in reinforcement learning sends a normal variable through $\tanh$ and needs the density of the
#   action;
# - a **variational autoencoder** moves its noise to the right place and scale, so that gradients pass through the draw;
# - every sampler for the normal distribution starts from uniform numbers, and one of them you will write.
#
# The tool is the **change of variables**. It is one line of mathematics, and getting it wrong by one sign, or by one
# inverted fraction, gives a "density" whose integral is not one, a loss that falls without end and a model that learns
# nothing. You will build it from one dimension to a chain of maps in many. Most mistakes on the way betray themselves
# by one number, the area under the curve, which has to be one.
#
# **Conventions.** They hold in all eight tasks.
#
# - Densities are passed around as functions that return their natural **logarithm**: `base_log_prob(x)` is
#   $\ln p_X(x)$, with `-inf` where the density is zero. Stay in logarithms: a density that underflows to zero often has
#   an ordinary logarithm, such as $-800$.
# - $\mathcal N(m, s^2)$ is written with the **variance**: $\mathcal N(0, 4)$ has standard deviation 2. An argument
#   called `sigma` is a standard deviation.
# - $X$ is what goes in, $Y = g(X)$ what comes out. The Jacobian matrix $J$ of a map holds $\partial y_i / \partial x_j$
#   in row $i$ and column $j$: **rows belong to outputs**. `log_abs_det_jacobian` always means $\ln |\det J|$ of the
#   map in the direction from $x$ to $y$, as in `torch.distributions`.
# - Tensors are float32 or float64 and hold no NaN. A result has the dtype and the device of the arguments, unless the
#   docstring says otherwise, and the arguments are left as they were.
# - Results are right up to rounding. A small number added to keep a logarithm finite makes them wrong. Unless the
#   docstring says otherwise, numbers are of ordinary size: their squares, products and quotients do not leave the range
#   of the dtype.
# - Any function of `torch` may be used. `torch.distributions.transforms` contains ready-made relatives of tasks 7
#   and 8; compare yours with them when you are done.
#
# Two sources are cited by their initials: G. Casella and R. L. Berger, *Statistical Inference*, 2nd edition, Duxbury
# 2002 (C&B), and G. Papamakarios, E. Nalisnick, D. J. Rezende, S. Mohamed and B. Lakshminarayanan, *Normalizing Flows
# for Probabilistic Modeling and Inference*, Journal of Machine Learning Research 22, 2021 (P+).
#
# **How to work.** The tasks take about 3 hours together. Each has a cell for your answer, a cell of checks that you
# see, and a demo that draws what your function finds. The points of a task are shared out among further checks, which
# you do not see. Checks and demos raise an error until their task is solved, and some demos use earlier tasks too, so
# run the cells one at a time and *Run All* at the end. A notebook with unsolved tasks can be handed in: it is graded
# task by task. Keep `expect.py` beside the notebook.

# %%
import math
from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.transforms import AffineTransform, Transform

from expect import expect_close


def standard_normal_log_prob(x: Tensor) -> Tensor:
    """Log density of N(0, 1) at each entry of x."""
    return -0.5 * x**2 - 0.5 * math.log(2 * math.pi)


# %% [markdown]
# ## 1 · Stretching thins out
#
# Draw a line of ink on a rubber band and pull. No ink is lost, but where the band stretches to twice its length the
# line is half as dark. A density behaves like ink: it says how much probability there is *per unit of length*, and a
# map $y = g(x)$ changes the lengths. What lay between $x$ and $x + dx$ now lies between $y$ and $y + dy$,
#
# $$p_Y(y)\, |dy| = p_X(x)\, |dx| .$$
#
# Divide by $|dy|$ and write $h = g^{-1}$ for the inverse map, so that $x = h(y)$:
#
# $$\ln p_Y(y) = \ln p_X\big(h(y)\big) + \ln \left| h'(y) \right|$$
#
# (C&B theorem 2.1.5). It holds for every **strictly monotone** $g$ whose inverse is differentiable: increasing, or
# decreasing, for then $h'$ is negative and the bars earn their place. There are two easy ways to go wrong. One is to
# use the slope of $g$ where that of $h$ belongs. It is $g'(x) = 1/h'(y)$, and turns every stretch into a squeeze. The
# other is to take the derivative of $h$ at the wrong place: $h$ is a function of $y$, and its derivative belongs there
# too.
#
# You need not differentiate by hand. Compute $x = h(y)$ with a `y` that autograd watches and ask `torch.autograd.grad`
# for the derivative. Two things about it are worth knowing. It differentiates a single number, but if each $x_i$
# depends on $y_i$ alone, the gradient of $\sum_i x_i$ holds all the derivatives $h'(y_i)$ side by side. And
# unless it is told `create_graph=True`, it returns numbers that have forgotten where they came from. The value would
# be right, but if $h$ has parameters, and in a flow it has, then training would never hear of the second term.
#
# **Task 1 · `pushforward_log_prob` · 3 points · 25 minutes**


# %% task="pushforward_log_prob"
def pushforward_log_prob(
    base_log_prob: Callable[[Tensor], Tensor], inverse: Callable[[Tensor], Tensor], y: Tensor
) -> Tensor:
    """Log density of Y = g(X) for a strictly monotone map g of real numbers.

    Args:
        base_log_prob: Log density of X. It takes points as a tensor of any shape, returns a tensor of the same shape
            and dtype, and is made of torch operations.
        inverse: The inverse of g, increasing or decreasing, and differentiable. It takes a tensor of any shape, works
            on each entry by itself, and is made of torch operations.
        y: Points, any shape. Each is a value that g takes.

    Returns:
        Log densities of Y, the shape and dtype of y. They are finite also where the density underflows, as long as the
        slope of `inverse` does not; and differentiable in y and in every tensor that the two functions depend on.
    """
    ### BEGIN SOLUTION
    points = y if y.requires_grad else y.detach().requires_grad_()
    x = inverse(points)
    (slope,) = torch.autograd.grad(x.sum(), points, create_graph=True)
    return base_log_prob(x) + slope.abs().log()
    ### END SOLUTION


# %% checks="pushforward_log_prob" points=3
expect_close(
    pushforward_log_prob(standard_normal_log_prob, lambda y: y.log() / 0.5, torch.tensor([1.0, 2.0, 5.0])),
    [-0.2258, -1.8799, -7.0161],
    "Y = exp(X/2) of a standard normal X is log-normal.",
)
expect_close(
    pushforward_log_prob(torch.zeros_like, lambda y: torch.exp(-2 * y), torch.tensor([[0.5], [1.0]])),
    [[-0.3069], [-1.3069]],
    "X uniform on (0, 1) and Y = -ln(X)/2, a decreasing map: Y is exponential with rate 2, its density 2 exp(-2y).",
)
line = torch.linspace(-20, 20, 4001, dtype=torch.float64)
area = torch.trapezoid(pushforward_log_prob(standard_normal_log_prob, torch.asinh, line).exp(), line)
expect_close(area, 0.9998, "Y = sinh(X): 0.9998 of the probability lies between -20 and 20.")
shift = torch.tensor(3.0, requires_grad=True)
scale = torch.tensor(0.5, requires_grad=True)
pushforward_log_prob(
    standard_normal_log_prob, lambda y: (y - shift) / scale, torch.tensor([3.25, 4.0])
).sum().backward()
expect_close(shift.grad, 5.0, "Y = 3 + X/2, observed at 3.25 and 4: the gradient of the log-likelihood in the shift.")
expect_close(scale.grad, 4.5, "The same in the scale. Part of it comes through the slope of the inverse.")
point = torch.tensor([2.0], requires_grad=True)
pushforward_log_prob(standard_normal_log_prob, torch.log, point).sum().backward()
expect_close(point.grad, [-0.8466], "And in the point: of a log-normal density it is -(1 + ln y)/y.")

# %% [markdown]
# On the left, $g(x) = e^x$ carries the standard normal density from the horizontal to the vertical axis. The coloured
# strips hold ten percent of the probability each, before and after (the frame cuts the outermost two off, and the lower
# density is drawn three times as high). Where the
# curve is flat they are squeezed, and the density at the side rises; where it is steep they are pulled apart.
#
# On the right, the histogram of 100,000 numbers $e^{x/2}$ and your density, with what comes of two popular mistakes:
# forgetting the slope, and using it upside down. The legend gives the area under each curve between 0 and 8. Only one
# of them is a density.
#
# The formula also tells what becomes of the differential entropy: average $-\ln p_Y$ on both sides, and
# $H(Y) = H(X) + \mathbb E \ln |g'(X)|$. For $Y = e^X$ with $X$ from $\mathcal N(\mu, \sigma^2)$ the second term is
# $\mathbb E X = \mu$, so the log-normal entropy is $\mu + \tfrac12 \ln(2 \pi e \sigma^2)$.

# %% tags=["demo"]
x = torch.linspace(-2.6, 1.9, 400, dtype=torch.float64)
height = torch.linspace(0.02, 6.6, 800, dtype=torch.float64)
log_normal = pushforward_log_prob(standard_normal_log_prob, torch.log, height).detach().exp()
deciles = torch.special.ndtri(torch.linspace(0.1, 0.9, 9, dtype=torch.float64)).tolist()
edges = [-2.6, *deciles, 1.9]

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
left.plot(x, x.exp(), color="black", label=r"$y = e^x$")
for k in range(10):
    strip = (x >= edges[k]) & (x <= edges[k + 1])
    part = (height >= math.exp(edges[k])) & (height <= math.exp(edges[k + 1]))
    color = plt.cm.viridis(k / 9)
    left.fill_between(x[strip], -1.6, -1.6 + 3 * standard_normal_log_prob(x[strip]).exp(), color=color, linewidth=0)
    left.fill_betweenx(height[part], -3.4, -3.4 + log_normal[part], color=color, linewidth=0)
    left.plot([edges[k]] * 2 + [-2.75], [-0.3, math.exp(edges[k]), math.exp(edges[k])], color=color, linewidth=0.6)
left.set(xlabel="x", ylabel="y", title="The same ten strips, before and after", xlim=(-3.45, 2), ylim=(-1.65, 6.7))
left.set(xticks=range(-2, 2), yticks=range(7))
left.legend(loc="upper center")

samples = torch.exp(torch.randn(100_000, generator=torch.Generator().manual_seed(1)) / 2)
y = torch.linspace(0.01, 8, 1600, dtype=torch.float64)
right_one = pushforward_log_prob(standard_normal_log_prob, lambda y: 2 * y.log(), y).detach().exp()
base = standard_normal_log_prob(2 * y.log()).exp()
curves = {"your density": (right_one, "-"), "slope forgotten": (base, "--"), "slope upside down": (base * y / 2, ":")}
right.hist(samples, bins=160, range=(0, 8), density=True, color="lightgrey", label="100,000 draws")
for name, (curve, style) in curves.items():
    right.plot(y, curve, style, label=f"{name}: area {torch.trapezoid(curve, y).item():.3f}")
right.set(xlabel="y", ylabel="density", title=r"$Y = e^{X/2}$", xlim=(0, 5))
right.legend()
plt.show()

# %% [markdown]
# ## 2 · When several inputs give one output
#
# Squaring is not monotone. The output 4 may have come from 2 or from $-2$, and the probability of both ends up in the
# same place. So the ink of all the branches is added up, each thinned out by its own slope:
#
# $$p_Y(y) = \sum_{x \,:\, g(x) = y} \frac{p_X(x)}{|g'(x)|}, \qquad \text{and for } y = x^2: \quad
# p_Y(y) = \frac{p_X(\sqrt y) + p_X(-\sqrt y)}{2 \sqrt y}$$
#
# (C&B theorem 2.1.8). For a standard normal $X$ this is the chi-square density with one degree of freedom (C&B example
# 2.1.9), which at $y = 1$ is $0.241971$. A single branch gives half of it, $0.120985$. Doubling a single branch repairs
# this example and no other: it only works where $p_X$ is symmetric.
#
# Densities are added here, and what you have are logarithms. `torch.logaddexp` and `torch.logsumexp` add without
# leaving them. And mind the negative numbers: they have no root, and a distribution of torch that is asked about NaN
# raises an error.
#
# **Task 2 · `square_log_prob` · 2 points · 15 minutes**


# %% task="square_log_prob"
def square_log_prob(base_log_prob: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    """Log density of Y = X^2.

    Args:
        base_log_prob: Log density of X, which need not be symmetric. It takes points as a tensor of any shape and
            returns a tensor of the same shape and dtype, -inf where the density is zero. It may raise an error where a
            point is NaN, as those of `torch.distributions` do.
        y: Points, any shape, positive or negative. What happens at y = 0 exactly is left to you.

    Returns:
        Log densities of Y, the shape and dtype of y. They are -inf where y is negative, since a square never is, and
        where both branches have density zero. They are finite where the density merely underflows.
    """
    ### BEGIN SOLUTION
    root = y.abs().sqrt()
    log_density = base_log_prob(torch.stack([root, -root])).logsumexp(0) - torch.log(2 * root)
    return torch.where(y < 0, -math.inf, log_density)
    ### END SOLUTION


# %% checks="square_log_prob" points=2
expect_close(
    square_log_prob(standard_normal_log_prob, torch.tensor([1.0, 4.0])).exp(),
    [0.2420, 0.0270],
    "The square of a standard normal variable has the chi-square density with one degree of freedom.",
)


def between_minus_one_and_two(x: Tensor) -> Tensor:
    return torch.where((x > -1) & (x < 2), -math.log(3), -math.inf)


expect_close(
    square_log_prob(between_minus_one_and_two, torch.tensor([0.25, 2.25, 4.84])).exp(),
    [0.6667, 0.1111, 0.0],
    "X uniform on (-1, 2): 0.25 has two roots in there, 2.25 has one, 4.84 none.",
)
expect_close(
    square_log_prob(torch.distributions.Normal(0.0, 1.0).log_prob, torch.tensor([-1.0, 1600.0])),
    [-math.inf, -804.6078],
    "A square is never negative. 1600 is unlikely beyond all measure, but its log density is an ordinary number.",
)

# %% [markdown]
# On the left, $X$ is uniform on $(-1, 2)$, and $Y = X^2$ is not. Near zero squaring is flat, and the density rises
# without limit, though the area below it stays finite. At $y = 1$ it falls by half: from there on only the positive
# root is left.
#
# On the right, the squares of two normal variables. The dashed lines leave out the negative root. For the standard
# normal variable that is exactly half the density, for $\mathcal N(1, 0.5^2)$ it is nearly all of it, and no constant
# factor repairs both.

# %% tags=["demo"]
generator = torch.Generator().manual_seed(2)
y = torch.linspace(0.005, 5, 2000, dtype=torch.float64)


def shifted_normal_log_prob(x: Tensor) -> Tensor:
    return standard_normal_log_prob((x - 1) / 0.5) - math.log(0.5)


figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
squares = (3 * torch.rand(200_000, generator=generator) - 1) ** 2
left.hist(squares, bins=200, range=(0, 5), density=True, color="lightgrey", label="200,000 draws")
left.plot(y, square_log_prob(lambda x: between_minus_one_and_two(x).double(), y).exp(), label="your density")
left.set(xlabel="y", ylabel="density", title="The square of a uniform variable on (−1, 2)", ylim=(0, 2))
left.legend()
for color, name, log_prob in (
    ("C0", r"$\mathcal{N}(0, 1)$", standard_normal_log_prob),
    ("C1", r"$\mathcal{N}(1, 0.5^2)$", shifted_normal_log_prob),
):
    right.plot(y, square_log_prob(log_prob, y).exp(), color=color, label=f"square of {name}")
    only_positive = log_prob(y.sqrt()).exp() / (2 * y.sqrt())
    right.plot(y, only_positive, "--", color=color, label="positive root only")
right.set(xlabel="y", ylabel="density", title="The squares of two normal variables", ylim=(0, 1.2), xlim=(0, 4))
right.legend()
plt.show()

# %% [markdown]
# ## 3 · A derivative in every direction
#
# In several dimensions a map has a slope for every pair of an output and an input. Near a point $x$,
#
# $$f(x + \delta) \approx f(x) + J \delta, \qquad J_{ij} = \frac{\partial f_i}{\partial x_j},$$
#
# and the matrix $J$ is the **Jacobian**. Seen up close every smooth map is linear. Column $j$ of $J$ says
# where the output moves when input $j$ does; row $i$ says what output $i$ listens to. With $n$ inputs and $m$ outputs
# it has $m$ rows and $n$ columns, and nothing says that $m = n$: a decoder that turns 2 latent numbers into 64 pixels
# has a Jacobian of 64 rows and 2 columns.
#
# Backward differentiation gives one *row* at a time: start it from output $i$, and the derivatives with respect to all
# inputs come out together. So $m$ passes are enough, for all the points of a batch at once. The sum over the batch that
# you used in task 1 does its service here too: as long as each point is mapped by itself, the sum mixes nothing.
#
# You may prefer `torch.func` or `torch.autograd.functional`. Then know what you get. The Jacobian of the *whole batch*
# has four axes, (batch, m, batch, n), and is zero wherever the two points differ: with 64 points, 63 of 64 numbers are
# zeros. And `.backward()` is out of the question. It would add to the `.grad` of the parameters behind `f`, and the
# next step of an optimizer would use it.
#
# **Task 3 · `jacobian` · 3 points · 30 minutes**


# %% task="jacobian"
def jacobian(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Jacobian matrices of a map at a batch of points, by automatic differentiation.

    Args:
        f: A differentiable map of points with n coordinates to points with m coordinates, made of torch operations. It
            takes shape (..., n) and returns shape (..., m), with any number of axes in front (none, too), and maps each
            point by itself. Some outputs may be constant (a row of zeros), but not all.
        x: Points, shape (batch, n), at least one.

    Returns:
        Shape (batch, m, n), in the dtype of x. Entry [b, i, j] is the derivative of output i with respect to input j
        at point b. Differentiable in x and in every tensor that f depends on. No tensor's `.grad` is written.
    """
    ### BEGIN SOLUTION
    points = x if x.requires_grad else x.detach().requires_grad_()
    outputs = f(points).unbind(1)
    rows = [torch.autograd.grad(output.sum(), points, create_graph=True)[0] for output in outputs]
    return torch.stack(rows, dim=1)
    ### END SOLUTION


# %% checks="jacobian" points=3
def three_of_two(x: Tensor) -> Tensor:
    a, b = x.unbind(-1)
    return torch.stack([a * b, a**2, 3 * b], dim=-1)


two_points = torch.tensor([[1.0, 2.0], [-3.0, 0.5]])
expect_close(
    jacobian(three_of_two, two_points),
    [[[2.0, 1.0], [2.0, 0.0], [0.0, 3.0]], [[0.5, -3.0], [-6.0, 0.0], [0.0, 3.0]]],
    "f(a, b) = (ab, a^2, 3b) has 3 rows and 2 columns at each point: (b, a), (2a, 0), (0, 3).",
)
expect_close(
    jacobian(lambda x: x.prod(-1, keepdim=True), torch.tensor([[2.0, 3.0, 5.0]])),
    [[[15.0, 10.0, 6.0]]],
    "One output, the product of three inputs: a single row, the gradient.",
)
corner = torch.tensor([[1.0, 2.0]], requires_grad=True)
jacobian(three_of_two, corner).sum().backward()
expect_close(
    corner.grad, [[3.0, 1.0]], "The matrix can be differentiated once more: the sum of its entries is a + b + 2a + 3."
)

# %% [markdown]
# On the left, a map of the plane to itself bends a square grid. At a few points a small square is drawn as it would
# become if the map were linear: a parallelogram whose sides are a quarter of the two columns of your Jacobian. It fits.
#
# On the right, a map with $m = 3$ and $n = 2$: the surface of a hat, whose height depends on the distance from the
# middle. The two columns of the Jacobian are now arrows that touch the surface. There is no determinant any more, but
# the area of the little parallelogram between the arrows is $\sqrt{\det J^\top J}$, and that is what colours
# the surface: where it is steep, a unit of area of the $x_1 x_2$ plane becomes more than a unit of surface.


# %% tags=["demo"]
def bend(x: Tensor) -> Tensor:
    a, b = x.unbind(-1)
    return torch.stack([a + 0.45 * torch.sin(1.6 * b), b + 0.35 * torch.sin(1.9 * a) + 0.15 * a * b], dim=-1)


def hat(x: Tensor) -> Tensor:
    radius = x.norm(dim=-1, keepdim=True)
    return torch.cat([x, torch.cos(2.2 * radius) * torch.exp(-0.35 * radius)], dim=-1)


ticks, along = torch.linspace(-1.5, 1.5, 13), torch.linspace(-1.5, 1.5, 101)
spots = torch.cartesian_prod(torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([-1.0, 0.0, 1.0]))
square = 0.25 * torch.tensor([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5]])
sides = jacobian(bend, spots).detach()

figure = plt.figure(figsize=(10, 4.4), layout="compressed")
left = figure.add_subplot(1, 2, 1)
for tick in ticks.tolist():
    left.plot(*bend(torch.stack([along, torch.full_like(along, tick)], -1)).T, color="grey", linewidth=0.6)
    left.plot(*bend(torch.stack([torch.full_like(along, tick), along], -1)).T, color="grey", linewidth=0.6)
for spot, matrix in zip(spots, sides, strict=True):
    left.fill(*(bend(spot) + square @ matrix.T).T, facecolor="C1", edgecolor="C3", alpha=0.6)
left.set(xlabel="first output", ylabel="second output", title="Up close, a linear map", aspect="equal")

right = figure.add_subplot(1, 2, 2, projection="3d", computed_zorder=False)
grid = torch.cartesian_prod(torch.linspace(-3, 3, 80), torch.linspace(-3, 3, 80))
matrices = jacobian(hat, grid).detach()
stretch = torch.linalg.det(matrices.mT @ matrices).sqrt().view(80, 80)
surface = hat(grid).view(80, 80, 3).numpy()
norm = plt.Normalize(1, stretch.max().item())
colors = plt.cm.viridis(norm(stretch.numpy()))
right.plot_surface(*surface.transpose(2, 0, 1), facecolors=colors, rstride=1, cstride=1, alpha=0.75, linewidth=0)
touch = torch.tensor([[0.7, -1.2], [1.6, 0.6], [-2.4, -1.9]])
for start, matrix in zip(hat(touch), jacobian(hat, touch).detach(), strict=True):
    for column, color in zip(matrix.mT, ("C3", "black"), strict=True):
        right.quiver(*start.tolist(), *(0.9 * column).tolist(), color=color, linewidth=2)
right.set(xlabel="$x_1$", ylabel="$x_2$", zlabel="height", title="Two columns, two tangents", zlim=(-1, 1.5))
right.set_box_aspect((6, 6, 3))
right.view_init(elev=38, azim=-60)
scale_of_colors = plt.cm.ScalarMappable(norm, "viridis")
figure.colorbar(scale_of_colors, ax=right, label="surface per unit of the plane", shrink=0.6, pad=0.12)
plt.show()

# %% [markdown]
# ## 4 · One number for how a map swells
#
# What a linear map does to areas and volumes is a single number, the absolute value of its determinant. A small box of
# volume $v$ around $x$ becomes a small parallelepiped of volume $|\det J|\, v$. Probability is conserved, so for an
# invertible map in $n$ dimensions with $y = f(x)$
#
# $$\ln p_Y(y) = \ln p_X(x) - \ln \left| \det J(x) \right|$$
#
# (C&B section 4.6; P+ section 2.1). The minus sign stands there because $J$ belongs to the map *from $x$ to $y$*: where
# it swells, the density is diluted. With the inverse map, as in task 1, it would be a plus.
#
# Three maps whose answer you can work out. A linear map $Ax + b$ swells by $|\det A|$ everywhere. Polar coordinates
# $(r, \varphi) \mapsto (r \cos\varphi, r \sin\varphi)$ swell by $r$: a step in $\varphi$ is a longer way the further
# out you are. And spherical coordinates $(r, \theta, \varphi) \mapsto (r \sin\theta \cos\varphi, r \sin\theta
# \sin\varphi, r \cos\theta)$, with $\theta$ counted from the north pole, swell by $r^2 \sin\theta$. (Books disagree on
# the names of the two angles. Whichever is counted from the pole is under the sine.)
#
# A warning on the way to the logarithm. The determinant of a large matrix is a product of many numbers; in fifty
# dimensions, with factors of a tenth, it is $10^{-50}$, and float32 knows no such number. And the sign: a map that
# mirrors has a negative determinant, and it is the logarithm of its *absolute value* that counts.
#
# **Task 4 · `log_abs_det_jacobian` · 2 points · 20 minutes**


# %% task="log_abs_det_jacobian"
def log_abs_det_jacobian(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Logarithm of |det J| of a map at each point of a batch.

    Args:
        f: A differentiable map of points with n coordinates to points with n coordinates, as in task 3.
        x: Points, shape (batch, n), at least one.

    Returns:
        Shape (batch,), in the dtype of x: one number for each point, for the map in the direction from x to f(x). It is
        -inf where the Jacobian has a row or a column of zeros, and finite where it is regular, even if the determinant
        itself is too small or too large for the dtype. Differentiable as in task 3, if it is finite at all points.

    Raises:
        ValueError: f does not return as many coordinates as it is given.
    """
    ### BEGIN SOLUTION
    matrices = jacobian(f, x)
    if matrices.shape[-2] != matrices.shape[-1]:
        raise ValueError(f"{matrices.shape[-1]} coordinates became {matrices.shape[-2]}: there is no determinant")
    return torch.linalg.slogdet(matrices).logabsdet
    ### END SOLUTION


# %% checks="log_abs_det_jacobian" points=2
def spherical(x: Tensor) -> Tensor:
    r, theta, phi = x.unbind(-1)
    return torch.stack([r * theta.sin() * phi.cos(), r * theta.sin() * phi.sin(), r * theta.cos()], dim=-1)


places = torch.tensor([[1.0, math.pi / 2, 0.3], [2.0, math.pi / 2, -2.0], [2.0, math.pi / 6, 1.0]])
expect_close(
    log_abs_det_jacobian(spherical, places).exp(),
    [1.0, 4.0, 2.0],
    "Spherical coordinates swell by r^2 sin(theta): 1 and 4 on the equator, 4 sin(30 degrees) = 2 further north.",
)
mirror = torch.tensor([[0.0, 2.0], [2.5, 1.0]])
expect_close(
    log_abs_det_jacobian(lambda x: x @ mirror.T, torch.tensor([[0.3, -1.0]])),
    [1.6094],
    "A linear map with determinant -5 turns the plane over and makes areas five times as large: ln 5.",
)
expect_close(
    log_abs_det_jacobian(lambda x: 0.1 * x, torch.ones(2, 60)),
    [-138.1551, -138.1551],
    "In 60 dimensions, shrinking by ten divides volumes by 10^60. float32 cannot hold that, its logarithm it can.",
)
try:
    log_abs_det_jacobian(lambda x: x[..., :2], places)
except ValueError:
    print("ok: A map from 3 to 2 coordinates is refused with a ValueError.")
else:
    raise AssertionError("A map from 3 to 2 coordinates came through; ValueError was asked for.")

# %% [markdown]
# On the left, a map that folds the plane. The colour is $|\det J|$ at the point where one starts, in black the line on
# which it is zero. On either side the determinant has opposite signs: crossing the line, the map turns the sheet over.
# The middle panel shows where 30,000 points of an even square end up, in the colour of $|\det J|$ where
# they came from. Where it was small they are crowded, and they pile up along the fold, where it is zero: on one side of
# that edge the sheet lies double, on the other there is nothing. (With two layers there are two points to come from,
# and the density is a sum, as in task 2.)
#
# On the right, what happens to $\ln|\det J|$ of the map $x \mapsto x/20$ as the dimension grows. Computing the
# determinant first loses digits from 30 dimensions on, at 34 it is off by four percent, and beyond that float32 has
# nothing but zero, whose logarithm is $-\infty$. The exact value is a straight line, and so is yours.


# %% tags=["demo"]
def fold(x: Tensor) -> Tensor:
    a, b = x.unbind(-1)
    return torch.stack([a**2 / 2 + 0.35 * a + 0.5 * b, b + 0.3 * torch.sin(2 * a)], dim=-1)


axis = torch.linspace(-1.5, 1.5, 121)
sheet = torch.cartesian_prod(axis, axis)
swelling = log_abs_det_jacobian(fold, sheet).detach().exp().view(121, 121)
signed = torch.linalg.det(jacobian(fold, sheet)).detach().view(121, 121)
drops = 3 * torch.rand(30_000, 2, generator=torch.Generator().manual_seed(4)) - 1.5
swelling_of_drops = log_abs_det_jacobian(fold, drops).detach().exp()

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.9), layout="compressed")
mesh = left.pcolormesh(axis, axis, swelling.T, cmap="viridis", vmin=0, vmax=2)
left.contour(axis, axis, signed.T, levels=[0], colors="black")
left.set(xlabel="$x_1$", ylabel="$x_2$", title=r"$|\det J|$, and the line where it is 0", aspect="equal")
middle.scatter(*fold(drops).T, c=swelling_of_drops, s=0.4, cmap="viridis", vmin=0, vmax=2)
middle.set(xlabel="$y_1$", ylabel="$y_2$", title="Where an even sheet goes")
figure.colorbar(mesh, ax=[left, middle], label=r"$|\det J|$ where the point came from", extend="max", shrink=0.9)
dimensions = list(range(1, 61))
yours = [log_abs_det_jacobian(lambda x: x / 20, torch.zeros(1, n)).item() for n in dimensions]
by_way_of_det = [torch.linalg.det(torch.eye(n) / 20).log().item() for n in dimensions]
right.plot(dimensions, yours, label="yours")
right.plot(dimensions, by_way_of_det, "o", markersize=3, label="determinant first (float32)")
right.axvline(34, color="grey", linestyle=":", label="34 dimensions")
right.set(xlabel="dimension n", ylabel=r"$\ln|\det J|$", title=r"$x \mapsto x/20$")
right.legend()
plt.show()

# %% [markdown]
# ## 5 · Polar coordinates
#
# Throw darts at a wall and report each by its distance $r$ from the centre and its angle $\varphi$. A density of the
# pair, $p(r, \varphi)$, counts probability per unit of distance and unit of angle. On the wall we want it per unit of
# *area*. Between the two lies the determinant that you met in the last section:
#
# $$p(x, y) = \frac{p(r, \varphi)}{r}, \qquad r = \sqrt{x^2 + y^2}, \quad \varphi = \operatorname{atan2}(y, x)$$
#
# (C&B section 4.3 has the rule for two variables). Distances that are uniform between 0 and 1 therefore do **not** fill
# the disk evenly. They crowd around the centre like $1/r$. To be even on the wall, $p(r)$ has to grow like $r$: there
# is more room further out.
#
# The angle needs care of its own. $\tan\varphi = y/x$ leaves two angles to choose from, half a turn apart, and dividing
# forgets which. `torch.atan2` takes both signs into account and returns an angle from $-\pi$ to $\pi$. We take that
# range for $\varphi$.
#
# **Task 5 · `polar_to_cartesian` and `cartesian_log_prob` · 3 points · 25 minutes**


# %% task="polar_to_cartesian"
def polar_to_cartesian(polar: Tensor) -> Tensor:
    """Cartesian coordinates of points given in polar coordinates.

    Args:
        polar: Distances r and angles phi in radians, shape (..., 2) with r first.

    Returns:
        Coordinates x and y, shape (..., 2) with x first, in the dtype of polar. Differentiable.
    """
    ### BEGIN SOLUTION
    r, phi = polar.unbind(-1)
    return torch.stack([r * phi.cos(), r * phi.sin()], dim=-1)
    ### END SOLUTION


def cartesian_log_prob(polar_log_prob: Callable[[Tensor], Tensor], xy: Tensor) -> Tensor:
    """Log density in the plane, per unit of area, of a random point whose polar coordinates have a known density.

    Args:
        polar_log_prob: Log density of (r, phi), per unit of distance and radian. It takes shape (..., 2) with r > 0
            first and phi between -pi and pi (up to rounding) second, and returns shape (...), -inf where the density is
            zero.
        xy: Points in the plane, shape (..., 2) with x first, none at the origin.

    Returns:
        Log densities of (x, y), shape (...), in the dtype of xy.
    """
    ### BEGIN SOLUTION
    x, y = xy.unbind(-1)
    r = torch.hypot(x, y)
    return polar_log_prob(torch.stack([r, torch.atan2(y, x)], dim=-1)) - r.log()
    ### END SOLUTION


# %% checks="polar_to_cartesian" points=3
expect_close(
    polar_to_cartesian(torch.tensor([[2.0, math.pi / 6], [1.0, math.pi], [3.0, -math.pi / 2]])),
    [[1.7321, 1.0], [-1.0, 0.0], [0.0, -3.0]],
    "30 degrees at a distance of 2, then one step to the left, then three down.",
)


def wedge_log_prob(polar: Tensor) -> Tensor:  # r is exponential, the angle is denser the further it has turned
    r, phi = polar.unbind(-1)
    return -r + torch.log((phi + math.pi) / (2 * math.pi**2))


four_quadrants = torch.tensor([[3.0, 4.0], [-3.0, 4.0], [-3.0, -4.0], [3.0, -4.0]])
expect_close(
    cartesian_log_prob(wedge_log_prob, four_quadrants),
    [-8.1887, -7.9138, -9.6675, -8.7971],
    "Four points at distance 5, in the four quadrants. The angles are 0.927, 2.214, -2.214 and -0.927.",
)
rayleigh = cartesian_log_prob(lambda p: p[..., 0].log() - p[..., 0] ** 2 / 2 - math.log(2 * math.pi), four_quadrants)
expect_close(
    rayleigh,
    standard_normal_log_prob(four_quadrants).sum(-1),
    "If r has the density r exp(-r^2/2) and the angle is uniform, x and y are independent standard normals.",
)

# %% [markdown]
# On the left, 6000 darts whose distance is uniform between 0 and 1, and whose angle is uniform too. On the right,
# counting confirms the formula: the share of a million such darts in each of 25 rings, divided by the area of the ring,
# lies on your density $1/(2 \pi r)$ (the innermost, near 8, lies above the frame). Taking the *square root* of a
# uniform number for the distance gives $p(r) = 2r$, and the disk is filled evenly with density $1/\pi$.

# %% tags=["demo"]
generator = torch.Generator().manual_seed(5)
darts = torch.stack(
    [torch.rand(6000, generator=generator), 2 * math.pi * torch.rand(6000, generator=generator)], dim=-1
)
rings = torch.linspace(0, 1, 26)
areas = math.pi * (rings[1:] ** 2 - rings[:-1] ** 2)
distances = torch.rand(1_000_000, generator=generator)
radii = torch.linspace(0.02, 0.999, 400)
on_the_axis = torch.stack([radii, torch.zeros_like(radii)], dim=-1)
polar_densities = {
    "r uniform": lambda p: torch.full_like(p[..., 0], -math.log(2 * math.pi)),
    "r the root of a uniform number": lambda p: torch.log(2 * p[..., 0]) - math.log(2 * math.pi),
}

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
left.scatter(*polar_to_cartesian(darts).T, s=1.5, color="C0")
left.set(xlabel="x", ylabel="y", title="Uniform distance, uniform angle", aspect="equal")
for color, (name, log_density), r in zip(
    ("C0", "C1"), polar_densities.items(), (distances, distances.sqrt()), strict=True
):
    counted = torch.histogram(r, rings).hist / len(r) / areas
    right.plot((rings[1:] + rings[:-1]) / 2, counted, "o", color=color, markersize=4)
    right.plot(radii, cartesian_log_prob(log_density, on_the_axis).exp(), color=color, label=name)
right.plot([], [], "o", color="grey", markersize=4, label="counted: share per area")
right.set(xlabel="distance r from the centre", ylabel="density (per unit of area)", ylim=(0, 3), xlim=(0, 1))
right.set_title("What the wall sees")
right.legend()
plt.show()

# %% [markdown]
# ## 6 · Normal numbers from uniform ones
#
# A computer makes numbers that are uniform between 0 and 1. To turn one into a normal number you need the inverse of
# the normal distribution function, which has no closed form. Box and Muller noticed in 1958 that *two* are easier than
# one. In the checks of the last section, a standard normal pair had a uniform angle and a distance with density
# $r e^{-r^2/2}$. Its distribution function is $1 - e^{-r^2/2}$, which can be inverted. Hence
#
# $$z_1 = \sqrt{-2 \ln u_1}\, \cos(2 \pi u_2), \qquad z_2 = \sqrt{-2 \ln u_1}\, \sin(2 \pi u_2)$$
#
# (G. E. P. Box and M. E. Muller, *A note on the generation of random normal deviates*, Annals of Mathematical
# Statistics 29, 1958). That they are normal is a change of variables: the determinant of this map has the absolute
# value $2\pi / u_1$, the unit square has density one, and $u_1 / 2\pi = \tfrac{1}{2\pi} e^{-(z_1^2 + z_2^2)/2}$. The
# demo below checks that with your own task 4.
#
# `torch.rand` may return exactly 0, whose logarithm is $-\infty$; it never returns 1. So use $1 - u$ in the place of
# $u_1$: it is as uniform, and never zero. Your function refuses what is outside $(0, 1]$.
#
# **Task 6 · `box_muller` · 2 points · 15 minutes**


# %% task="box_muller"
def box_muller(u1: Tensor, u2: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent standard normal numbers from two independent uniform ones.

    Args:
        u1: Numbers in (0, 1], any shape. They decide on the distance from the origin.
        u2: Numbers of the same shape and dtype. They decide on the angle, as a fraction of a full turn.

    Returns:
        z1 (with the cosine) and z2 (with the sine), in the shape and dtype of u1. Differentiable where u1 < 1.

    Raises:
        ValueError: Some entry of u1 is zero, negative or greater than one.
    """
    ### BEGIN SOLUTION
    if not ((u1 > 0) & (u1 <= 1)).all():
        raise ValueError("u1 must be greater than 0 and at most 1")
    radius = torch.sqrt(-2 * u1.log())
    angle = 2 * math.pi * u2
    return radius * angle.cos(), radius * angle.sin()
    ### END SOLUTION


# %% checks="box_muller" points=2
z1, z2 = box_muller(torch.tensor([0.5, 0.5, 0.1]), torch.tensor([0.0, 0.25, 0.7]))
expect_close(
    z1, [1.1774, 0.0, -0.6631], "u1 = 0.5 is a distance of 1.1774; a quarter of a turn later nothing is left of z1."
)
expect_close(z2, [0.0, 1.1774, -2.0409], "z2 takes what z1 has lost; 0.7 of a turn points down and to the left.")
uniform = torch.rand(2, 200_000, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
pairs = torch.stack(box_muller(1 - uniform[0], uniform[1]))
expect_close(pairs.mean(1), [0.0, 0.0], "Both have mean 0 (200,000 draws).", atol=0.015)
expect_close(torch.cov(pairs), [[1.0, 0.0], [0.0, 1.0]], "Both have variance 1, and no covariance.", atol=0.02)
expect_close(box_muller(torch.ones(1), torch.zeros(1))[0], [0.0], "u1 = 1 is allowed: it is the origin.")
for outside in (0.0, 1.5):
    try:
        box_muller(torch.tensor([0.5, outside]), torch.tensor([0.1, 0.2]))
    except ValueError:
        print(f"ok: u1 = {outside} is refused with a ValueError.")
    else:
        raise AssertionError(f"u1 = {outside} came through; ValueError was asked for.")

# %% [markdown]
# The unit square on the left is cut into ten strips of $u_1$, and the middle panel shows where each goes: the strips
# become rings. The strip next to $u_1 = 0$ has to fill everything outside. Each ring holds a tenth of the points. The
# title gives the largest difference between $-\ln|\det J|$, computed by your task 4, and the log density of two
# standard normals.
#
# On the right, the histogram of 200,000 values of $z_1$ on a logarithmic axis, with the normal density. One detail for
# the curious: the smallest positive number that `torch.rand` makes in float32 on a CPU is $2^{-24}$, so this recipe in
# float32 never leaves $\sqrt{48 \ln 2} \approx 5.77$. A true normal variable does, once in about 125 million draws.

# %% tags=["demo"]
generator = torch.Generator().manual_seed(7)
square = torch.rand(8000, 2, generator=generator, dtype=torch.float64).clamp(min=1e-12)
plane = torch.stack(box_muller(square[:, 0], square[:, 1]), dim=-1)
volume = log_abs_det_jacobian(lambda u: torch.stack(box_muller(u[..., 0], u[..., 1]), dim=-1), square).detach()
gap = (-volume - standard_normal_log_prob(plane).sum(-1)).abs().max().item()
many = torch.rand(2, 200_000, generator=generator, dtype=torch.float64)
draws, _ = box_muller(1 - many[0], many[1])
z = torch.linspace(-5, 5, 401)

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
strip = (10 * square[:, 0]).floor()
left.scatter(square[:, 1], square[:, 0], c=strip, s=2, cmap="viridis")
left.set(xlabel="$u_2$", ylabel="$u_1$", title="8000 uniform pairs, ten strips", aspect="equal")
middle.scatter(*plane.T, c=strip, s=2, cmap="viridis")
middle.set(xlabel="$z_1$", ylabel="$z_2$", title=f"Ten rings; largest difference {gap:.0e}", aspect="equal")
right.hist(draws, bins=100, range=(-5, 5), density=True, color="lightgrey", label="200,000 values of $z_1$")
right.semilogy(z, standard_normal_log_prob(z).exp(), label=r"$\mathcal{N}(0, 1)$")
right.set(xlabel="$z_1$", ylabel="density", title="Normal, into the tails", ylim=(1e-6, 1))
right.legend()
plt.show()

# %% [markdown]
# ## 7 · A slope that vanishes
#
# A robot's motor takes commands between $-1$ and $1$. Soft actor-critic, a method of reinforcement learning, draws a
# normal $x$ and sends $y = \tanh x$, and its loss needs the log density of $y$ (T. Haarnoja, A. Zhou, P. Abbeel and S.
# Levine, *Soft Actor-Critic*, ICML 2018, appendix C):
#
# $$\ln p_Y(y) = \ln p_X(x) - \ln\left(1 - \tanh^2 x\right)$$
#
# for $\tanh' x = 1 - \tanh^2 x$. As it stands this fails. At $x = 20$ the true slope is $4 e^{-40}$, about $1.7 \cdot
# 10^{-17}$, but to float64 $\tanh 20$ is exactly 1, and the logarithm is $-\infty$; in float32 that happens at $x = 10$
# already. Published code often writes $\ln(1 - \tanh^2 x + 10^{-6})$ and gets $-13.8155$ at $x = 20$. The true value is
# $-38.6137$: with $1 - \tanh^2 x = 1/\cosh^2 x$
#
# $$\ln\left(1 - \tanh^2 x\right) = -2 \ln \cosh x = -2 \ln \frac{e^{x} + e^{-x}}{2},$$
#
# which is close to the straight line $2 \ln 2 - 2|x|$ when $x$ is large. But $e^{x}$ overflows in float32 at $x = 89$,
# so one more step is needed, and that one is yours. You may want `torch.logaddexp`, or `torch.nn.functional.softplus`,
# which is $\ln(1 + e^t)$ without overflow (above $t = 20$ it returns $t$ itself, which is $2 \cdot 10^{-9}$ too
# little).
#
# You write it as a `Transform` of `torch.distributions`: a class that knows a map, its inverse and the logarithm of its
# slope, and that everything else in `torch.distributions` can use. `log_abs_det_jacobian` is handed both $x$ and
# $y = \tanh x$. Ask yourself which of the two still knows where it came from when $y$ has been rounded to 1. (For the
# same reason the `log_prob` of an action that was rounded to 1 is NaN if the $x$ is not there any more:
# `TanhTransform(cache_size=1)` remembers the last one.)
#
# **Task 7 · `TanhTransform` · 2 points · 25 minutes**


# %% task="TanhTransform"
class TanhTransform(Transform):
    """The map y = tanh(x), on each entry by itself.

    Call it for the map, `.inv` for its inverse.
    """

    domain = constraints.real
    codomain = constraints.interval(-1.0, 1.0)
    bijective = True
    sign = +1

    def _call(self, x: Tensor) -> Tensor:
        """Map x, any shape, to y = tanh(x), in the dtype of x."""
        ### BEGIN SOLUTION
        return x.tanh()
        ### END SOLUTION

    def _inverse(self, y: Tensor) -> Tensor:
        """Map y, between -1 and 1, back to x, in the dtype of y. Every y counts as it is: nothing is clamped."""
        ### BEGIN SOLUTION
        return y.atanh()
        ### END SOLUTION

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Logarithm of the slope dy/dx at each entry.

        Args:
            x: Inputs, any shape. However large they are, -1000 or 1000, results are right and differentiable in x.
            y: The outputs tanh(x), as far as the dtype can represent them: for large x they are exactly 1 or -1.

        Returns:
            Shape and dtype of x.
        """
        ### BEGIN SOLUTION
        return 2 * (math.log(2) - torch.logaddexp(x, -x))
        ### END SOLUTION


# %% checks="TanhTransform" points=2
squash = TanhTransform()
expect_close(squash(torch.tensor([0.0, 0.5, -2.0])), [0.0, 0.4621, -0.9640], "The map is tanh.")
expect_close(squash.inv(torch.tensor([0.4621172, -0.9640276])), [0.5, -2.0], "The inverse leads back.")
inputs = torch.tensor([0.0, 0.5, -2.0, 20.0, -20.0, 100.0])
expect_close(
    squash.log_abs_det_jacobian(inputs, squash(inputs)),
    [0.0, -0.2402, -2.6500, -38.6137, -38.6137, -198.6137],
    "The logarithm of the slope of tanh; far out it is close to 2 ln 2 - 2|x|.",
)
far_out = torch.tensor([-1000.0, 0.5, 1000.0], requires_grad=True)
squash.log_abs_det_jacobian(far_out, squash(far_out)).sum().backward()
expect_close(far_out.grad, [2.0, -0.9242, -2.0], "Its derivative is -2 tanh x, however far out.")
policy = torch.distributions.TransformedDistribution(torch.distributions.Normal(0.5, 1.0), [TanhTransform()])
expect_close(
    policy.log_prob(torch.tensor([0.0, 0.9])).exp(), [0.3521, 1.3089], "The density of tanh(X) with X from N(0.5, 1)."
)

# %% [markdown]
# On the left, three ways to compute the same number in float32. The formula as it stands ends just above $|x| = 9$,
# where its values drop to $-\infty$; with $10^{-6}$ under the logarithm there is a floor, and, worse, no slope: the
# gradient that should pull a saturated action back is zero. Yours goes on.
#
# On the right, densities of $\tanh X$ for $X$ from $\mathcal N(0.3, s^2)$ and histograms of 100,000 draws each. A
# narrow normal keeps its shape. A wide one is pushed against both walls, where its density leaves the frame: a policy
# whose $s$ is large prefers the extremes.

# %% tags=["demo"]
x = torch.linspace(-25, 25, 1001)
flat = 1 - torch.tanh(x) ** 2
actions = torch.linspace(-0.999, 0.999, 999)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
left.plot(x, TanhTransform().log_abs_det_jacobian(x, x.tanh()), label="yours")
left.plot(x, torch.log(flat + 1e-6), "--", label=r"$\ln(1 - \tanh^2 x + 10^{-6})$")
left.plot(x, torch.log(flat), ":", color="black", linewidth=2.5, label=r"$\ln(1 - \tanh^2 x)$ as it stands")
left.set(xlabel="x", ylabel=r"$\ln\,|dy/dx|$", title="The slope of tanh (float32)")
left.legend()
for color, deviation in zip(("C0", "C1", "C2"), (0.25, 0.8, 2.0), strict=True):
    squashed = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(0.3, deviation), [TanhTransform()]
    )
    drawn = torch.tanh(0.3 + deviation * torch.randn(100_000, generator=torch.Generator().manual_seed(8)))
    right.hist(drawn, bins=100, range=(-1, 1), density=True, color=color, alpha=0.25)
    right.plot(actions, squashed.log_prob(actions).exp(), color=color, label=f"s = {deviation}")
right.set(xlabel="y = tanh x", ylabel="density", title=r"A squashed $\mathcal{N}(0.3, s^2)$", xlim=(-1, 1), ylim=(0, 3))
right.legend()
plt.show()

# %% [markdown]
# ## 8 · One map after another
#
# A single simple map makes a simple density. Chain a few of them, $y = f_K(\dots f_2(f_1(x)))$, and ever more shapes
# come within reach. That chain is a **normalizing flow**, and its whole theory is two lines of algebra: Jacobians of a
# chain multiply, determinants of a product multiply too, and logarithms make a sum of it:
#
# $$\ln\left|\det J\right| = \sum_{k=1}^{K} \ln \left| \det J_k(x_{k-1}) \right|, \qquad x_0 = x, \quad
# x_k = f_k(x_{k-1}), \quad y = x_K$$
#
# (P+ section 2.1). Each term is taken *where the point is at that moment*, not at the beginning and not at the end. To
# find the density at a given $y$, walk the chain backwards and undo the last map first:
#
# $$\ln p_Y(y) = \ln p_X(x) - \sum_{k=1}^{K} \ln \left| \det J_k(x_{k-1}) \right| .$$
#
# The links are objects of `torch.distributions.transforms`, like your own in task 7. For a link `t`, `t(x)` maps,
# `t.inv(y)` maps back, `t.log_abs_det_jacobian(x, y)` gives the logarithm for input `x` and output `y = t(x)`, and
# `t.domain.event_dim` tells what the link acts on:
#
# - **0**: on each coordinate by itself, as tanh does. For points of shape (batch, n), `log_abs_det_jacobian` returns
#   (batch, n), one logarithm for each coordinate. The Jacobian is diagonal, and you know what the determinant of
#   a diagonal matrix is.
# - **1**: on a whole point at once. It returns (batch,), one logarithm for each point.
#
# Beware: add a (batch,) to a (batch, n), and for some shapes torch will not even complain.
#
# **Task 8 · `push_through` and `flow_log_prob` · 3 points · 30 minutes**


# %% task="push_through"
def push_through(transforms: Sequence[Transform], x: Tensor) -> tuple[Tensor, Tensor]:
    """Send points through a chain of transforms, and keep account of volumes.

    Args:
        transforms: The links, applied from the first to the last. Each keeps the shape of the points, and its
            `domain.event_dim` is 0 or 1. An empty chain leaves the points where they are.
        x: Points, shape (batch, n).

    Returns:
        The images y, shape (batch, n), and ln |det dy/dx| of the whole chain at each point, shape (batch,), both in
        the dtype of x. Differentiable in x and in the parameters of the transforms.
    """
    ### BEGIN SOLUTION
    total = torch.zeros_like(x[:, 0])
    for transform in transforms:
        y = transform(x)
        log_det = transform.log_abs_det_jacobian(x, y)
        total = total + (log_det if transform.domain.event_dim == 1 else log_det.sum(-1))
        x = y
    return x, total
    ### END SOLUTION


def flow_log_prob(base_log_prob: Callable[[Tensor], Tensor], transforms: Sequence[Transform], y: Tensor) -> Tensor:
    """Log density of the image of a random point under a chain of transforms.

    Args:
        base_log_prob: Log density of the point before the chain: takes shape (batch, n), returns shape (batch,).
        transforms: The links, as in `push_through`, applied from the first to the last on the way from x to y.
        y: Points after the chain, shape (batch, n), each of which some x is mapped to.

    Returns:
        Log densities at y, shape (batch,), in the dtype of y. Differentiable in y and in all parameters.
    """
    ### BEGIN SOLUTION
    total = torch.zeros_like(y[:, 0])
    for transform in reversed(transforms):
        x = transform.inv(y)
        log_det = transform.log_abs_det_jacobian(x, y)
        total = total + (log_det if transform.domain.event_dim == 1 else log_det.sum(-1))
        y = x
    return base_log_prob(y) - total
    ### END SOLUTION


# %% checks="push_through" points=3
double_then_shift = AffineTransform(torch.tensor([0.0, 1.0]), torch.tensor([2.0, -4.0]))
exponential = torch.distributions.transforms.ExpTransform()
start = torch.tensor([[0.5, 0.25], [0.0, 0.5], [1.0, -1.0]])
end, log_volume = push_through([double_then_shift, exponential], start)
expect_close(end[0], [2.7183, 1.0], "(0.5, 0.25) becomes (1, 0), and then (e, 1).")
expect_close(
    log_volume, [3.0794, 1.0794, 9.0794], "ln 8 for the first link, and the sum of what it returned for the second."
)
_, other_order = push_through([exponential, double_then_shift], start)
expect_close(
    other_order, [2.8294, 2.5794, 2.0794], "In the other order: ln 8 and the sum of the coordinates one starts from."
)


def pair_log_prob(x: Tensor) -> Tensor:
    return standard_normal_log_prob(x).sum(-1)


expect_close(
    flow_log_prob(pair_log_prob, [double_then_shift, exponential], end),
    pair_log_prob(start) - torch.tensor([3.0794, 1.0794, 9.0794]),
    "Back through the chain: the density where one came from, diluted by the volume gained on the way.",
)
whole_points = AffineTransform(torch.tensor([0.0, 1.0]), torch.tensor([2.0, -4.0]), event_dim=1)
expect_close(
    push_through([whole_points, exponential], start)[1],
    [3.0794, 1.0794, 9.0794],
    "The same chain, but now the first link returns one logarithm for each point, as its event_dim says.",
)
expect_close(
    flow_log_prob(pair_log_prob, [whole_points, exponential], end),
    pair_log_prob(start) - torch.tensor([3.0794, 1.0794, 9.0794]),
    "And back through that chain.",
)
expect_close(push_through([], start)[1], [0.0, 0.0, 0.0], "Without any link no volume changes: a zero for each point.")

# %% [markdown]
# A flow of four links, drawn after each of them: a round normal distribution is scaled, twisted by a rotation whose
# angle grows with the distance from the centre, squashed by your `TanhTransform`, and scaled once more. Above, the
# density that `flow_log_prob` computes; the title has its integral over the frame. Below, 3000 points sent through
# `push_through`. Where the density is high there are many. The twist leaves every density as high as it was, since its
# determinant is 1. The squashing does not: at the walls, where its slope is small, points pile up.


# %% tags=["demo"]
class Twist(Transform):
    """Rotates each point of the plane by an angle that grows with its distance from the origin."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength

    def turned(self, points: Tensor, direction: int) -> Tensor:
        angle = direction * self.strength * points.norm(dim=-1)
        a, b = points.unbind(-1)
        return torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], dim=-1)

    def _call(self, x: Tensor) -> Tensor:
        return self.turned(x, +1)

    def _inverse(self, y: Tensor) -> Tensor:
        return self.turned(y, -1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.zeros_like(x[..., 0])


links = [
    AffineTransform(torch.tensor([0.3, 0.0]), torch.tensor([0.9, 0.3])),
    Twist(1.3),
    TanhTransform(),
    AffineTransform(torch.tensor([0.0, 0.5]), torch.tensor([2.0, 1.0])),
]
frames = [(-3, 3, -3, 3), (-3, 3, -3, 3), (-1, 1, -1, 1), (-2, 2, -0.5, 1.5)]
names = ["scaled", "twisted", "squashed", "scaled again"]
cloud = torch.randn(3000, 2, generator=torch.Generator().manual_seed(9), dtype=torch.float64)

figure, axes = plt.subplots(2, 4, figsize=(13, 6.4), layout="constrained")
for count, (frame, name) in enumerate(zip(frames, names, strict=True), start=1):
    cells = 400
    horizontal = torch.linspace(frame[0], frame[1], cells + 1, dtype=torch.float64)
    vertical = torch.linspace(frame[2], frame[3], cells + 1, dtype=torch.float64)
    centres = torch.cartesian_prod((horizontal[1:] + horizontal[:-1]) / 2, (vertical[1:] + vertical[:-1]) / 2)
    density = flow_log_prob(pair_log_prob, links[:count], centres).exp().view(cells, cells)
    integral = density.sum().item() * (horizontal[1] - horizontal[0]).item() * (vertical[1] - vertical[0]).item()
    mesh = axes[0, count - 1].pcolormesh(horizontal, vertical, density.T, cmap="viridis", vmin=0, vmax=1)
    axes[0, count - 1].set(title=f"{name}: integral {integral:.3f}")
    axes[1, count - 1].scatter(*push_through(links[:count], cloud)[0].T, s=1, color="C0")
    axes[1, count - 1].set(xlabel="$y_1$")
    for row in axes[:, count - 1]:
        row.set(xlim=frame[:2], ylim=frame[2:])
figure.colorbar(mesh, ax=axes[0], label="density (per unit of area)", extend="max")
axes[0, 0].set(ylabel="$y_2$")
axes[1, 0].set(ylabel="$y_2$")
plt.show()

# %% [markdown]
# ## What you have now
#
# | Map | What becomes of the density, or of its logarithm | Where it returns |
# |---|---|---|
# | $y = g(x)$, monotone | $p_X(h(y))\,\lvert h'(y)\rvert$ | reparameterised draws, inverse transform sampling |
# | $y = x^2$ | the sum over both roots | densities of squares and distances |
# | $f: \mathbb R^n \to \mathbb R^m$ | areas grow by $\sqrt{\det J^\top J}$ | decoders, manifolds |
# | $f: \mathbb R^n \to \mathbb R^n$ | divided by $\lvert\det J\rvert$ | every flow |
# | polar coordinates | divided by $r$ | Box-Muller, noise in many dimensions |
# | $\tanh$ | its logarithm: minus $\ln(1 - \tanh^2 x)$, in a stable form | squashed policies, bounded outputs |
# | a chain | its logarithm: minus the sum along the path | normalizing flows |
#
# Three habits are worth keeping. Say for every determinant which way its map goes. Stay in logarithms. And integrate:
# a density that does not add up to one is no density, however well it trains.
