"""Wrong and other right answers to the assignment on transforming random variables (see `autograder.variants`)."""
# ruff: noqa: F821 - bodies use the functions of earlier tasks, which the notebook has

import math

import torch
from torch.distributions import constraints
from torch.distributions.transforms import Transform

from autograder.variants import alternative, mistake

# --- pushforward_log_prob ----------------------------------------------------------------------------------------


@mistake("pushforward_log_prob", "the slope is forgotten")
def pushforward_without_slope():
    def pushforward_log_prob(base_log_prob, inverse, y):
        return base_log_prob(inverse(y))


@mistake("pushforward_log_prob", "the slope is upside down: |J| for 1/|J|")
def pushforward_upside_down():
    def pushforward_log_prob(base_log_prob, inverse, y):
        points = y if y.requires_grad else y.detach().requires_grad_()
        x = inverse(points)
        (slope,) = torch.autograd.grad(x.sum(), points, create_graph=True)
        return base_log_prob(x) - slope.abs().log()


@mistake("pushforward_log_prob", "the absolute value is missing: decreasing maps give NaN")
def pushforward_without_abs():
    def pushforward_log_prob(base_log_prob, inverse, y):
        points = y if y.requires_grad else y.detach().requires_grad_()
        x = inverse(points)
        (slope,) = torch.autograd.grad(x.sum(), points, create_graph=True)
        return base_log_prob(x) + slope.log()


@mistake("pushforward_log_prob", "only increasing maps: negative slopes are clamped")
def pushforward_clamped():
    def pushforward_log_prob(base_log_prob, inverse, y):
        points = y if y.requires_grad else y.detach().requires_grad_()
        x = inverse(points)
        (slope,) = torch.autograd.grad(x.sum(), points, create_graph=True)
        return base_log_prob(x) + slope.clamp(min=1e-12).log()


@mistake("pushforward_log_prob", "the derivative of the inverse is taken at x, not at y")
def pushforward_at_x():
    def pushforward_log_prob(base_log_prob, inverse, y):
        points = y if y.requires_grad else y.detach().requires_grad_()
        x = inverse(points)
        (slope,) = torch.autograd.grad(inverse(x).sum(), x, create_graph=True)
        return base_log_prob(x) + slope.abs().log()


@mistake("pushforward_log_prob", "the base density is taken at y, not at x")
def pushforward_base_at_y():
    def pushforward_log_prob(base_log_prob, inverse, y):
        points = y if y.requires_grad else y.detach().requires_grad_()
        (slope,) = torch.autograd.grad(inverse(points).sum(), points, create_graph=True)
        return base_log_prob(points) + slope.abs().log()


@mistake("pushforward_log_prob", "the graph of the slope is cut")
def pushforward_detached_slope():
    def pushforward_log_prob(base_log_prob, inverse, y):
        points = y if y.requires_grad else y.detach().requires_grad_()
        x = inverse(points)
        (slope,) = torch.autograd.grad(x.sum(), points, retain_graph=True)
        return base_log_prob(x) + slope.abs().log()


@mistake("pushforward_log_prob", "the points are cut off from what they came from")
def pushforward_detached_points():
    def pushforward_log_prob(base_log_prob, inverse, y):
        points = y.detach().requires_grad_()
        x = inverse(points)
        (slope,) = torch.autograd.grad(x.sum(), points, create_graph=True)
        return base_log_prob(x) + slope.abs().log()


@mistake("pushforward_log_prob", "one slope for all points: the sum of the derivatives")
def pushforward_summed():
    def pushforward_log_prob(base_log_prob, inverse, y):
        points = y if y.requires_grad else y.detach().requires_grad_()
        x = inverse(points)
        (slope,) = torch.autograd.grad(x.sum(), points, create_graph=True)
        return base_log_prob(x) + slope.abs().sum().log()


@mistake("pushforward_log_prob", "the derivative of the mean: divided by the number of points")
def pushforward_mean():
    def pushforward_log_prob(base_log_prob, inverse, y):
        points = y if y.requires_grad else y.detach().requires_grad_()
        x = inverse(points)
        (slope,) = torch.autograd.grad(x.mean(), points, create_graph=True)
        return base_log_prob(x) + slope.abs().log()


@mistake("pushforward_log_prob", "by way of the density, which underflows")
def pushforward_underflow():
    def pushforward_log_prob(base_log_prob, inverse, y):
        points = y if y.requires_grad else y.detach().requires_grad_()
        x = inverse(points)
        (slope,) = torch.autograd.grad(x.sum(), points, create_graph=True)
        return torch.log(base_log_prob(x).exp() * slope.abs())


@mistake("pushforward_log_prob", "a small number under the logarithm")
def pushforward_epsilon():
    def pushforward_log_prob(base_log_prob, inverse, y):
        points = y if y.requires_grad else y.detach().requires_grad_()
        x = inverse(points)
        (slope,) = torch.autograd.grad(x.sum(), points, create_graph=True)
        return base_log_prob(x) + torch.log(slope.abs() + 1e-8)


@mistake("pushforward_log_prob", "backward() writes into the gradients of the parameters")
def pushforward_backward():
    def pushforward_log_prob(base_log_prob, inverse, y):
        points = y if y.requires_grad else y.detach().requires_grad_()
        x = inverse(points)
        x.sum().backward(create_graph=True)
        return base_log_prob(x) + points.grad.abs().log()


@mistake("pushforward_log_prob", "the caller's points are made to require gradients")
def pushforward_marks_argument():
    def pushforward_log_prob(base_log_prob, inverse, y):
        y.requires_grad_()
        x = inverse(y)
        (slope,) = torch.autograd.grad(x.sum(), y, create_graph=True)
        return base_log_prob(x) + slope.abs().log()


@mistake("pushforward_log_prob", "the likelihood of all points together")
def pushforward_total():
    def pushforward_log_prob(base_log_prob, inverse, y):
        points = y if y.requires_grad else y.detach().requires_grad_()
        x = inverse(points)
        (slope,) = torch.autograd.grad(x.sum(), points, create_graph=True)
        return (base_log_prob(x) + slope.abs().log()).sum()


@mistake("pushforward_log_prob", "the density, not its logarithm")
def pushforward_density():
    def pushforward_log_prob(base_log_prob, inverse, y):
        points = y if y.requires_grad else y.detach().requires_grad_()
        x = inverse(points)
        (slope,) = torch.autograd.grad(x.sum(), points, create_graph=True)
        return base_log_prob(x).exp() * slope.abs()


@mistake("pushforward_log_prob", "the slope by differences")
def pushforward_differences():
    def pushforward_log_prob(base_log_prob, inverse, y):
        step = 1e-4
        slope = (inverse(y + step) - inverse(y - step)) / (2 * step)
        return base_log_prob(inverse(y)) + slope.abs().log()


@mistake("pushforward_log_prob", "always float64")
def pushforward_float64():
    def pushforward_log_prob(base_log_prob, inverse, y):
        points = y if y.requires_grad else y.detach().requires_grad_()
        x = inverse(points.double())
        (slope,) = torch.autograd.grad(x.sum(), points, create_graph=True)
        return base_log_prob(x) + slope.abs().log()


@mistake("pushforward_log_prob", "the points are made anew, on the CPU")
def pushforward_on_the_cpu():
    def pushforward_log_prob(base_log_prob, inverse, y):
        points = y * torch.ones(y.shape, dtype=y.dtype)
        points = points if points.requires_grad else points.requires_grad_()
        x = inverse(points)
        (slope,) = torch.autograd.grad(x.sum(), points, create_graph=True)
        return base_log_prob(x) + slope.abs().log()


@alternative("pushforward_log_prob", "a vector of ones for the sum, the root of the square for the absolute value")
def pushforward_ones():
    def pushforward_log_prob(base_log_prob, inverse, y):
        watched = y * 1 if y.requires_grad else y.clone().requires_grad_(True)
        x = inverse(watched)
        slope = torch.autograd.grad(x, watched, grad_outputs=torch.ones_like(x), create_graph=True)[0]
        return torch.add(base_log_prob(x), torch.log(torch.sqrt(slope**2)))


@alternative("pushforward_log_prob", "forward differentiation")
def pushforward_jvp():
    def pushforward_log_prob(base_log_prob, inverse, y):
        x, slope = torch.func.jvp(inverse, (y,), (torch.ones_like(y),))
        return base_log_prob(x) + slope.abs().log()


@alternative("pushforward_log_prob", "point by point, with torch.func")
def pushforward_vmap():
    def pushforward_log_prob(base_log_prob, inverse, y):
        if y.numel() == 0:
            return torch.zeros_like(y)
        slope = torch.func.vmap(torch.func.grad(inverse))(y.flatten()).reshape(y.shape)
        return base_log_prob(inverse(y)) + slope.abs().log()


@alternative("pushforward_log_prob", "a loop over the points, each a number of its own")
def pushforward_loop():
    def pushforward_log_prob(base_log_prob, inverse, y):
        results = []
        for point in y.reshape(-1):
            if not point.requires_grad:
                point = point.detach().requires_grad_()
            x = inverse(point)
            (slope,) = torch.autograd.grad(x, point, create_graph=True)
            results.append(base_log_prob(x) + torch.log(torch.abs(slope)))
        return torch.stack(results).reshape(y.shape) if results else torch.zeros_like(y)


@alternative("pushforward_log_prob", "the diagonal of the Jacobian of everything")
def pushforward_diagonal():
    def pushforward_log_prob(base_log_prob, inverse, y):
        if y.numel() == 0:
            return y.clone()
        flat = y.reshape(-1)
        matrix = torch.autograd.functional.jacobian(inverse, flat, create_graph=True)
        return base_log_prob(inverse(y)) + torch.diagonal(matrix).abs().log().reshape(y.shape)


# --- square_log_prob ---------------------------------------------------------------------------------------------


@mistake("square_log_prob", "the positive root only")
def square_one_branch():
    def square_log_prob(base_log_prob, y):
        root = y.abs().sqrt()
        return torch.where(y < 0, -math.inf, base_log_prob(root) - torch.log(2 * root))


@mistake("square_log_prob", "the negative root only")
def square_negative_branch():
    def square_log_prob(base_log_prob, y):
        root = y.abs().sqrt()
        return torch.where(y < 0, -math.inf, base_log_prob(-root) - torch.log(2 * root))


@mistake("square_log_prob", "twice the positive root, which is right for symmetric densities only")
def square_doubled():
    def square_log_prob(base_log_prob, y):
        root = y.abs().sqrt()
        return torch.where(y < 0, -math.inf, base_log_prob(root) - torch.log(root))


@mistake("square_log_prob", "the slope is forgotten")
def square_without_slope():
    def square_log_prob(base_log_prob, y):
        root = y.abs().sqrt()
        return torch.where(y < 0, -math.inf, torch.logaddexp(base_log_prob(root), base_log_prob(-root)))


@mistake("square_log_prob", "the slope is upside down")
def square_upside_down():
    def square_log_prob(base_log_prob, y):
        root = y.abs().sqrt()
        log_density = torch.logaddexp(base_log_prob(root), base_log_prob(-root)) + torch.log(2 * root)
        return torch.where(y < 0, -math.inf, log_density)


@mistake("square_log_prob", "the slope 2x is taken at y")
def square_slope_at_y():
    def square_log_prob(base_log_prob, y):
        root = y.abs().sqrt()
        log_density = torch.logaddexp(base_log_prob(root), base_log_prob(-root)) - torch.log(2 * y.abs())
        return torch.where(y < 0, -math.inf, log_density)


@mistake("square_log_prob", "the 2 of the slope is forgotten")
def square_without_two():
    def square_log_prob(base_log_prob, y):
        root = y.abs().sqrt()
        log_density = torch.logaddexp(base_log_prob(root), base_log_prob(-root)) - torch.log(root)
        return torch.where(y < 0, -math.inf, log_density)


@mistake("square_log_prob", "the logarithms of the branches are added")
def square_sum_of_logs():
    def square_log_prob(base_log_prob, y):
        root = y.abs().sqrt()
        log_density = base_log_prob(root) + base_log_prob(-root) - torch.log(2 * root)
        return torch.where(y < 0, -math.inf, log_density)


@mistake("square_log_prob", "the branches are averaged")
def square_average():
    def square_log_prob(base_log_prob, y):
        root = y.abs().sqrt()
        log_density = torch.logaddexp(base_log_prob(root), base_log_prob(-root)) - torch.log(4 * root)
        return torch.where(y < 0, -math.inf, log_density)


@mistake("square_log_prob", "the densities are added as such, and underflow")
def square_underflow():
    def square_log_prob(base_log_prob, y):
        root = y.abs().sqrt()
        density = (base_log_prob(root).exp() + base_log_prob(-root).exp()) / (2 * root)
        return torch.where(y < 0, -math.inf, density.log())


@mistake("square_log_prob", "NaN for negative numbers")
def square_nan():
    def square_log_prob(base_log_prob, y):
        root = y.sqrt()
        return torch.logaddexp(base_log_prob(root), base_log_prob(-root)) - torch.log(2 * root)


@mistake("square_log_prob", "the root of a negative number is handed on, and corrected too late")
def square_nan_corrected():
    def square_log_prob(base_log_prob, y):
        root = y.sqrt()
        log_density = torch.logaddexp(base_log_prob(root), base_log_prob(-root)) - torch.log(2 * root)
        return torch.where(y < 0, -math.inf, log_density)


@mistake("square_log_prob", "negative numbers count as their absolute values")
def square_of_abs():
    def square_log_prob(base_log_prob, y):
        root = y.abs().sqrt()
        return torch.logaddexp(base_log_prob(root), base_log_prob(-root)) - torch.log(2 * root)


@mistake("square_log_prob", "negative numbers have log density zero: the density for its logarithm")
def square_zero():
    def square_log_prob(base_log_prob, y):
        root = y.abs().sqrt()
        log_density = torch.logaddexp(base_log_prob(root), base_log_prob(-root)) - torch.log(2 * root)
        return torch.where(y < 0, 0.0, log_density)


@mistake("square_log_prob", "a very negative number in the place of minus infinity")
def square_floor():
    def square_log_prob(base_log_prob, y):
        root = y.abs().sqrt()
        log_density = torch.logaddexp(base_log_prob(root), base_log_prob(-root)) - torch.log(2 * root)
        return torch.where(y < 0, -1e9, log_density)


@mistake("square_log_prob", "negative numbers are dropped")
def square_dropped():
    def square_log_prob(base_log_prob, y):
        root = y[y > 0].sqrt()
        return torch.logaddexp(base_log_prob(root), base_log_prob(-root)) - torch.log(2 * root)


@mistake("square_log_prob", "the caller's negative numbers are overwritten")
def square_overwrites():
    def square_log_prob(base_log_prob, y):
        outside = y < 0
        y[outside] = 1.0
        root = y.sqrt()
        log_density = torch.logaddexp(base_log_prob(root), base_log_prob(-root)) - torch.log(2 * root)
        return log_density.masked_fill(outside, -math.inf)


@mistake("square_log_prob", "always float64")
def square_float64():
    def square_log_prob(base_log_prob, y):
        root = y.double().abs().sqrt()
        log_density = torch.logaddexp(base_log_prob(root), base_log_prob(-root)) - torch.log(2 * root)
        return torch.where(y < 0, -math.inf, log_density)


@mistake("square_log_prob", "the result is filled in on the CPU")
def square_on_the_cpu():
    def square_log_prob(base_log_prob, y):
        result = torch.full(y.shape, -math.inf, dtype=y.dtype)
        inside = y > 0
        root = torch.sqrt(y[inside])
        result[inside] = torch.logaddexp(base_log_prob(root), base_log_prob(-root)) - torch.log(2 * root)
        return result


@alternative("square_log_prob", "logsumexp over a stack of branches")
def square_logsumexp():
    def square_log_prob(base_log_prob, y):
        root = torch.where(y > 0, y, torch.ones_like(y)).sqrt()
        branches = torch.stack([base_log_prob(sign * root) for sign in (1, -1)])
        result = torch.logsumexp(branches, dim=0) - math.log(2) - 0.5 * torch.where(y > 0, y, 1.0).log()
        return result.masked_fill(y < 0, float("-inf"))


@alternative("square_log_prob", "only where it matters, by index")
def square_by_index():
    def square_log_prob(base_log_prob, y):
        result = torch.full_like(y, -math.inf)
        inside = y > 0
        root = torch.sqrt(y[inside])
        plus, minus = base_log_prob(root), base_log_prob(-root)
        largest = torch.maximum(plus, minus).clamp(min=-1e30)
        result[inside] = (
            largest + torch.log(torch.exp(plus - largest) + torch.exp(minus - largest)) - torch.log(2 * root)
        )
        return result


@alternative("square_log_prob", "each branch is a pushforward of its own, slopes by autograd")
def square_by_autograd():
    def square_log_prob(base_log_prob, y):
        magnitude = y.abs().detach().requires_grad_()
        branches = []
        for inverse in (torch.sqrt, lambda t: -torch.sqrt(t)):
            x = inverse(magnitude)
            (slope,) = torch.autograd.grad(x.sum(), magnitude, retain_graph=True)
            branches.append(base_log_prob(x).detach() + slope.abs().log())
        return torch.where(y >= 0, torch.logaddexp(*branches), torch.tensor(-math.inf, dtype=y.dtype, device=y.device))


@alternative("square_log_prob", "numpy in float64 for the sum, back in the dtype and on the device of y")
def square_numpy():
    def square_log_prob(base_log_prob, y):
        import numpy as np

        root = y.abs().sqrt()
        plus, minus = (base_log_prob(sign * root).detach().cpu().double().numpy() for sign in (1, -1))
        with np.errstate(all="ignore"):
            total = np.logaddexp(plus, minus) - np.log(2 * root.cpu().double().numpy())
            return torch.as_tensor(np.where(y.cpu().numpy() < 0, -np.inf, total)).to(y)


# --- jacobian ----------------------------------------------------------------------------------------------------


@mistake("jacobian", "rows and columns are swapped", also=["log_abs_det_jacobian"])
def jacobian_transposed():
    def jacobian(f, x):
        points = x if x.requires_grad else x.detach().requires_grad_()
        outputs = f(points).unbind(-1)
        rows = [torch.autograd.grad(output.sum(), points, create_graph=True)[0] for output in outputs]
        return torch.stack(rows, dim=-1)


@mistake("jacobian", "outputs come before the batch", also=["log_abs_det_jacobian"])
def jacobian_outputs_first():
    def jacobian(f, x):
        points = x if x.requires_grad else x.detach().requires_grad_()
        outputs = f(points).unbind(-1)
        rows = [torch.autograd.grad(output.sum(), points, create_graph=True)[0] for output in outputs]
        return torch.stack(rows)


@mistake("jacobian", "the Jacobian of the whole batch, with four axes", also=["log_abs_det_jacobian"])
def jacobian_of_everything():
    def jacobian(f, x):
        return torch.autograd.functional.jacobian(f, x, create_graph=True)


@mistake("jacobian", "one matrix for the batch, summed over the points", also=["log_abs_det_jacobian"])
def jacobian_summed():
    def jacobian(f, x):
        matrices = torch.autograd.functional.jacobian(f, x, create_graph=True)
        return matrices.sum((0, 2))


@mistake("jacobian", "the sum over the batch, once for each point", also=["log_abs_det_jacobian"])
def jacobian_mixed():
    def jacobian(f, x):
        matrices = torch.autograd.functional.jacobian(f, x, create_graph=True).sum((0, 2))
        return matrices.expand(len(x), *matrices.shape)


@mistake("jacobian", "the mean over the batch is differentiated", also=["log_abs_det_jacobian"])
def jacobian_mean():
    def jacobian(f, x):
        points = x if x.requires_grad else x.detach().requires_grad_()
        outputs = f(points).unbind(-1)
        rows = [torch.autograd.grad(output.mean(), points, create_graph=True)[0] for output in outputs]
        return torch.stack(rows, dim=1)


@mistake("jacobian", "all outputs are summed: a gradient, not a matrix", also=["log_abs_det_jacobian"])
def jacobian_gradient():
    def jacobian(f, x):
        points = x if x.requires_grad else x.detach().requires_grad_()
        return torch.autograd.grad(f(points).sum(), points, create_graph=True)[0]


@mistake("jacobian", "the Jacobian at the first point, for all", also=["log_abs_det_jacobian"])
def jacobian_first_point():
    def jacobian(f, x):
        first = torch.autograd.functional.jacobian(f, x[0], create_graph=True)
        return first.expand(len(x), *first.shape)


@mistake("jacobian", "the Jacobian at the image, not at the point", also=["log_abs_det_jacobian"])
def jacobian_at_the_image():
    def jacobian(f, x):
        points = f(x) if f(x).shape == x.shape else x
        points = points if points.requires_grad else points.detach().requires_grad_()
        outputs = f(points).unbind(-1)
        rows = [torch.autograd.grad(output.sum(), points, create_graph=True)[0] for output in outputs]
        return torch.stack(rows, dim=1)


@mistake("jacobian", "as many rows as inputs: square matrices only", also=["log_abs_det_jacobian"])
def jacobian_square_only():
    def jacobian(f, x):
        points = x if x.requires_grad else x.detach().requires_grad_()
        outputs = f(points)
        rows = [
            torch.autograd.grad(outputs[:, i].sum(), points, create_graph=True)[0] for i in range(min(x.shape[1], 99))
        ]
        return torch.stack(rows, dim=1)


@mistake("jacobian", "the graph is cut: the matrices cannot be differentiated", also=["log_abs_det_jacobian"])
def jacobian_detached():
    def jacobian(f, x):
        points = x.detach().requires_grad_()
        outputs = f(points).unbind(-1)
        rows = [torch.autograd.grad(output.sum(), points, retain_graph=True)[0] for output in outputs]
        return torch.stack(rows, dim=1)


@mistake("jacobian", "the points are cut off, the parameters are not", also=["log_abs_det_jacobian"])
def jacobian_detached_points():
    def jacobian(f, x):
        points = x.detach().requires_grad_()
        outputs = f(points).unbind(-1)
        rows = [torch.autograd.grad(output.sum(), points, create_graph=True)[0] for output in outputs]
        return torch.stack(rows, dim=1)


@mistake("jacobian", "backward() writes into the gradients of the parameters", also=["log_abs_det_jacobian"])
def jacobian_backward():
    def jacobian(f, x):
        points = x if x.requires_grad else x.detach().requires_grad_()
        outputs, rows = f(points).unbind(-1), []
        for output in outputs:
            points.grad = None
            output.sum().backward(create_graph=True)
            rows.append(points.grad)
        return torch.stack(rows, dim=1)


@mistake("jacobian", "the caller's points are made to require gradients", also=["log_abs_det_jacobian"])
def jacobian_marks_argument():
    def jacobian(f, x):
        x.requires_grad_()
        outputs = f(x).unbind(-1)
        return torch.stack([torch.autograd.grad(output.sum(), x, create_graph=True)[0] for output in outputs], dim=1)


@mistake("jacobian", "by differences", also=["log_abs_det_jacobian"])
def jacobian_differences():
    def jacobian(f, x):
        step = 1e-5
        columns = []
        for j in range(x.shape[1]):
            shift = torch.zeros_like(x)
            shift[:, j] = step
            columns.append((f(x + shift) - f(x - shift)) / (2 * step))
        return torch.stack(columns, dim=-1)


@mistake("jacobian", "only the diagonal", also=["log_abs_det_jacobian"])
def jacobian_diagonal():
    def jacobian(f, x):
        points = x if x.requires_grad else x.detach().requires_grad_()
        outputs = f(points).unbind(-1)
        rows = [torch.autograd.grad(output.sum(), points, create_graph=True)[0] for output in outputs]
        matrices = torch.stack(rows, dim=1)
        return matrices * torch.eye(*matrices.shape[1:], dtype=x.dtype, device=x.device)


@mistake("jacobian", "always float64", also=["log_abs_det_jacobian"])
def jacobian_float64():
    def jacobian(f, x):
        points = x if x.requires_grad else x.detach().requires_grad_()
        outputs = f(points).unbind(-1)
        rows = [torch.autograd.grad(output.sum(), points, create_graph=True)[0] for output in outputs]
        return torch.stack(rows, dim=1).double()


@mistake("jacobian", "the matrices are filled in on the CPU", also=["log_abs_det_jacobian"])
def jacobian_on_the_cpu():
    def jacobian(f, x):
        points = x if x.requires_grad else x.detach().requires_grad_()
        outputs = f(points)
        matrices = torch.zeros(len(x), outputs.shape[-1], x.shape[-1], dtype=x.dtype)
        for i in range(outputs.shape[-1]):
            matrices[:, i] = torch.autograd.grad(outputs[:, i].sum(), points, create_graph=True)[0]
        return matrices


@alternative("jacobian", "vmap of jacrev")
def jacobian_vmap():
    def jacobian(f, x):
        return torch.func.vmap(torch.func.jacrev(f))(x)


@alternative("jacobian", "forward differentiation, a column at a time")
def jacobian_columns():
    def jacobian(f, x):
        columns = []
        for j in range(x.shape[-1]):
            direction = torch.zeros_like(x)
            direction[..., j] = 1.0
            columns.append(torch.func.jvp(f, (x,), (direction,))[1])
        return torch.stack(columns, dim=-1)


@alternative("jacobian", "point by point with torch.autograd.functional")
def jacobian_loop():
    def jacobian(f, x):
        return torch.stack([torch.autograd.functional.jacobian(f, point, create_graph=True) for point in x])


@alternative("jacobian", "the diagonal blocks of the Jacobian of everything")
def jacobian_blocks():
    def jacobian(f, x):
        everything = torch.autograd.functional.jacobian(f, x, create_graph=True)
        return torch.einsum("bibj->bij", everything)


@alternative("jacobian", "the Jacobian of the sum over the batch")
def jacobian_of_the_sum():
    def jacobian(f, x):
        return torch.autograd.functional.jacobian(lambda points: f(points).sum(0), x, create_graph=True).movedim(0, 1)


# --- log_abs_det_jacobian ----------------------------------------------------------------------------------------


@mistake("log_abs_det_jacobian", "the sign: the determinant of the inverse")
def log_det_sign():
    def log_abs_det_jacobian(f, x):
        matrices = jacobian(f, x)
        if matrices.shape[-2] != matrices.shape[-1]:
            raise ValueError("not square")
        return -torch.linalg.slogdet(matrices).logabsdet


@mistake("log_abs_det_jacobian", "the absolute value is missing")
def log_det_without_abs():
    def log_abs_det_jacobian(f, x):
        matrices = jacobian(f, x)
        if matrices.shape[-2] != matrices.shape[-1]:
            raise ValueError("not square")
        return torch.logdet(matrices)


@mistake("log_abs_det_jacobian", "the determinant first: too small or too large for the dtype")
def log_det_det_first():
    def log_abs_det_jacobian(f, x):
        matrices = jacobian(f, x)
        if matrices.shape[-2] != matrices.shape[-1]:
            raise ValueError("not square")
        return torch.linalg.det(matrices).abs().log()


@mistake("log_abs_det_jacobian", "one determinant for the whole batch")
def log_det_of_batch():
    def log_abs_det_jacobian(f, x):
        matrices = jacobian(f, x)
        if matrices.shape[-2] != matrices.shape[-1]:
            raise ValueError("not square")
        return torch.linalg.slogdet(torch.block_diag(*matrices)).logabsdet


@mistake("log_abs_det_jacobian", "the average over the batch, for each point")
def log_det_averaged():
    def log_abs_det_jacobian(f, x):
        matrices = jacobian(f, x)
        if matrices.shape[-2] != matrices.shape[-1]:
            raise ValueError("not square")
        values = torch.linalg.slogdet(matrices).logabsdet
        return values.mean().expand_as(values)


@mistake("log_abs_det_jacobian", "the determinant, not its logarithm")
def log_det_without_log():
    def log_abs_det_jacobian(f, x):
        matrices = jacobian(f, x)
        if matrices.shape[-2] != matrices.shape[-1]:
            raise ValueError("not square")
        return torch.linalg.det(matrices).abs()


@mistake("log_abs_det_jacobian", "the sign in the place of the logarithm")
def log_det_first_result():
    def log_abs_det_jacobian(f, x):
        matrices = jacobian(f, x)
        if matrices.shape[-2] != matrices.shape[-1]:
            raise ValueError("not square")
        return torch.linalg.slogdet(matrices)[0]


@mistake("log_abs_det_jacobian", "only the diagonal counts")
def log_det_diagonal():
    def log_abs_det_jacobian(f, x):
        matrices = jacobian(f, x)
        if matrices.shape[-2] != matrices.shape[-1]:
            raise ValueError("not square")
        return matrices.diagonal(dim1=-2, dim2=-1).abs().log().sum(-1)


@mistake("log_abs_det_jacobian", "the trace for the determinant")
def log_det_trace():
    def log_abs_det_jacobian(f, x):
        matrices = jacobian(f, x)
        if matrices.shape[-2] != matrices.shape[-1]:
            raise ValueError("not square")
        return matrices.diagonal(dim1=-2, dim2=-1).sum(-1).abs().log()


@mistake("log_abs_det_jacobian", "the Jacobian at the image, not at the point")
def log_det_at_the_image():
    def log_abs_det_jacobian(f, x):
        if f(x).shape != x.shape:
            raise ValueError("not square")
        return torch.linalg.slogdet(jacobian(f, f(x))).logabsdet


@mistake("log_abs_det_jacobian", "a small number is added to the determinant")
def log_det_epsilon():
    def log_abs_det_jacobian(f, x):
        matrices = jacobian(f, x)
        if matrices.shape[-2] != matrices.shape[-1]:
            raise ValueError("not square")
        return torch.log(torch.linalg.det(matrices).abs() + 1e-12)


@mistake("log_abs_det_jacobian", "half the logarithm of det J^T J, for matrices of any shape")
def log_det_gram():
    def log_abs_det_jacobian(f, x):
        matrices = jacobian(f, x)
        return torch.linalg.slogdet(matrices.mT @ matrices).logabsdet / 2


@mistake("log_abs_det_jacobian", "det J^T J without the half")
def log_det_gram_without_half():
    def log_abs_det_jacobian(f, x):
        matrices = jacobian(f, x)
        if matrices.shape[-2] != matrices.shape[-1]:
            raise ValueError("not square")
        return torch.linalg.slogdet(matrices.mT @ matrices).logabsdet


@mistake("log_abs_det_jacobian", "the graph is cut")
def log_det_detached():
    def log_abs_det_jacobian(f, x):
        matrices = jacobian(f, x).detach()
        if matrices.shape[-2] != matrices.shape[-1]:
            raise ValueError("not square")
        return torch.linalg.slogdet(matrices).logabsdet


@mistake("log_abs_det_jacobian", "maps to fewer coordinates are let through")
def log_det_fewer():
    def log_abs_det_jacobian(f, x):
        matrices = jacobian(f, x)
        if matrices.shape[-2] > matrices.shape[-1]:
            raise ValueError("not square")
        return torch.linalg.slogdet(matrices[..., : matrices.shape[-2]]).logabsdet


@mistake("log_abs_det_jacobian", "torch's own error for a matrix that is not square")
def log_det_unchecked():
    def log_abs_det_jacobian(f, x):
        return torch.linalg.slogdet(jacobian(f, x)).logabsdet


@mistake("log_abs_det_jacobian", "the logarithm to base 10")
def log_det_base_ten():
    def log_abs_det_jacobian(f, x):
        matrices = jacobian(f, x)
        if matrices.shape[-2] != matrices.shape[-1]:
            raise ValueError("not square")
        return torch.linalg.slogdet(matrices).logabsdet / math.log(10)


@mistake("log_abs_det_jacobian", "the results are collected on the CPU")
def log_det_on_the_cpu():
    def log_abs_det_jacobian(f, x):
        matrices = jacobian(f, x)
        if matrices.shape[-2] != matrices.shape[-1]:
            raise ValueError("not square")
        results = torch.zeros(len(x), dtype=x.dtype)
        for i, matrix in enumerate(matrices):
            results[i] = torch.linalg.slogdet(matrix).logabsdet
        return results


@alternative("log_abs_det_jacobian", "LU factors, the diagonal of the second")
def log_det_lu():
    def log_abs_det_jacobian(f, x):
        matrices = jacobian(f, x)
        if matrices.size(1) != matrices.size(2):
            raise ValueError("the matrix is not square")
        _, _, upper = torch.linalg.lu(matrices)
        return torch.diagonal(upper, dim1=-2, dim2=-1).abs().log().sum(dim=-1)


@alternative("log_abs_det_jacobian", "without the earlier task: vmap, jacrev and slogdet")
def log_det_vmap():
    def log_abs_det_jacobian(f, x):
        if f(x).shape[-1] != x.shape[-1]:
            raise ValueError("as many outputs as inputs, please")
        return torch.func.vmap(lambda point: torch.slogdet(torch.func.jacrev(f)(point))[1])(x)


@alternative("log_abs_det_jacobian", "a loop over the points, each matrix scaled before its determinant")
def log_det_loop():
    def log_abs_det_jacobian(f, x):
        results = []
        for point in x:
            matrix = torch.autograd.functional.jacobian(f, point, create_graph=True)
            if matrix.shape[0] != matrix.shape[1]:
                raise ValueError("not square")
            scale = matrix.detach().abs().max()
            results.append(torch.linalg.det(matrix / scale).abs().log() + len(matrix) * scale.log())
        return torch.stack(results)


@alternative("log_abs_det_jacobian", "the singular values")
def log_det_singular_values():
    def log_abs_det_jacobian(f, x):
        matrices = jacobian(f, x)
        if len({*matrices.shape[-2:]}) != 1:
            raise ValueError("not square")
        return torch.linalg.svdvals(matrices).log().sum(-1)


# --- polar_to_cartesian and cartesian_log_prob -------------------------------------------------------------------


@mistake("polar_to_cartesian", "the factor is forgotten")
def polar_without_factor():
    def cartesian_log_prob(polar_log_prob, xy):
        x, y = xy.unbind(-1)
        return polar_log_prob(torch.stack([torch.hypot(x, y), torch.atan2(y, x)], dim=-1))


@mistake("polar_to_cartesian", "the factor is upside down: |J| for 1/|J|")
def polar_upside_down():
    def cartesian_log_prob(polar_log_prob, xy):
        x, y = xy.unbind(-1)
        r = torch.hypot(x, y)
        return polar_log_prob(torch.stack([r, torch.atan2(y, x)], dim=-1)) + r.log()


@mistake("polar_to_cartesian", "divided by r squared")
def polar_squared():
    def cartesian_log_prob(polar_log_prob, xy):
        x, y = xy.unbind(-1)
        r = torch.hypot(x, y)
        return polar_log_prob(torch.stack([r, torch.atan2(y, x)], dim=-1)) - 2 * r.log()


@mistake("polar_to_cartesian", "the square of the distance is taken for the distance")
def polar_without_root():
    def cartesian_log_prob(polar_log_prob, xy):
        x, y = xy.unbind(-1)
        r = x**2 + y**2
        return polar_log_prob(torch.stack([r, torch.atan2(y, x)], dim=-1)) - r.log()


@mistake("polar_to_cartesian", "divided by 2 pi r: the circumference")
def polar_circumference():
    def cartesian_log_prob(polar_log_prob, xy):
        x, y = xy.unbind(-1)
        r = torch.hypot(x, y)
        return polar_log_prob(torch.stack([r, torch.atan2(y, x)], dim=-1)) - torch.log(2 * math.pi * r)


@mistake("polar_to_cartesian", "r itself is subtracted, not its logarithm")
def polar_minus_r():
    def cartesian_log_prob(polar_log_prob, xy):
        x, y = xy.unbind(-1)
        r = torch.hypot(x, y)
        return polar_log_prob(torch.stack([r, torch.atan2(y, x)], dim=-1)) - r


@mistake("polar_to_cartesian", "atan forgets the quadrant")
def polar_atan():
    def cartesian_log_prob(polar_log_prob, xy):
        x, y = xy.unbind(-1)
        r = torch.hypot(x, y)
        return polar_log_prob(torch.stack([r, torch.atan(y / x)], dim=-1)) - r.log()


@mistake("polar_to_cartesian", "the arguments of atan2 are swapped")
def polar_atan2_swapped():
    def cartesian_log_prob(polar_log_prob, xy):
        x, y = xy.unbind(-1)
        r = torch.hypot(x, y)
        return polar_log_prob(torch.stack([r, torch.atan2(x, y)], dim=-1)) - r.log()


@mistake("polar_to_cartesian", "the angle from the cosine: never negative")
def polar_acos():
    def cartesian_log_prob(polar_log_prob, xy):
        x, y = xy.unbind(-1)
        r = torch.hypot(x, y)
        return polar_log_prob(torch.stack([r, torch.acos(x / r)], dim=-1)) - r.log()


@mistake("polar_to_cartesian", "angles from 0 to 2 pi")
def polar_positive_angles():
    def cartesian_log_prob(polar_log_prob, xy):
        x, y = xy.unbind(-1)
        r = torch.hypot(x, y)
        phi = torch.remainder(torch.atan2(y, x), 2 * math.pi)
        return polar_log_prob(torch.stack([r, phi], dim=-1)) - r.log()


@mistake("polar_to_cartesian", "angle first, distance second")
def polar_angle_first():
    def cartesian_log_prob(polar_log_prob, xy):
        x, y = xy.unbind(-1)
        r = torch.hypot(x, y)
        return polar_log_prob(torch.stack([torch.atan2(y, x), r], dim=-1)) - r.log()


@mistake("polar_to_cartesian", "the density is evaluated at x and y")
def polar_at_xy():
    def cartesian_log_prob(polar_log_prob, xy):
        return polar_log_prob(xy) - xy.norm(dim=-1).log()


@mistake("polar_to_cartesian", "coordinates are looked for in the first axis")
def polar_first_axis():
    def cartesian_log_prob(polar_log_prob, xy):
        x, y = xy[:, 0], xy[:, 1]
        r = torch.hypot(x, y)
        return polar_log_prob(torch.stack([r, torch.atan2(y, x)], dim=-1)) - r.log()


@mistake("polar_to_cartesian", "sine and cosine are swapped")
def polar_map_swapped():
    def polar_to_cartesian(polar):
        r, phi = polar.unbind(-1)
        return torch.stack([r * phi.sin(), r * phi.cos()], dim=-1)


@mistake("polar_to_cartesian", "angles in degrees")
def polar_map_degrees():
    def polar_to_cartesian(polar):
        r, phi = polar.unbind(-1)
        phi = torch.deg2rad(phi)
        return torch.stack([r * phi.cos(), r * phi.sin()], dim=-1)


@mistake("polar_to_cartesian", "the map takes the angle first")
def polar_map_angle_first():
    def polar_to_cartesian(polar):
        phi, r = polar.unbind(-1)
        return torch.stack([r * phi.cos(), r * phi.sin()], dim=-1)


@mistake("polar_to_cartesian", "the map leaves torch: no gradient")
def polar_map_detached():
    def polar_to_cartesian(polar):
        r, phi = polar.detach().unbind(-1)
        return torch.stack([r * phi.cos(), r * phi.sin()], dim=-1)


@mistake("polar_to_cartesian", "the map works in the caller's tensor")
def polar_map_in_place():
    def polar_to_cartesian(polar):
        r, phi = polar[..., 0].clone(), polar[..., 1].clone()
        polar[..., 0] = r * phi.cos()
        polar[..., 1] = r * phi.sin()
        return polar


@mistake("polar_to_cartesian", "the map always returns float32")
def polar_map_float32():
    def polar_to_cartesian(polar):
        r, phi = polar.float().unbind(-1)
        return torch.stack([r * phi.cos(), r * phi.sin()], dim=-1)


@mistake("polar_to_cartesian", "the polar coordinates are filled in on the CPU")
def polar_on_the_cpu():
    def cartesian_log_prob(polar_log_prob, xy):
        polar = torch.zeros(xy.shape, dtype=xy.dtype)
        polar[..., 0] = torch.hypot(xy[..., 0], xy[..., 1])
        polar[..., 1] = torch.atan2(xy[..., 1], xy[..., 0])
        return polar_log_prob(polar) - polar[..., 0].log()


@alternative("polar_to_cartesian", "complex numbers")
def polar_complex():
    def polar_to_cartesian(polar):
        return torch.view_as_real(torch.polar(polar[..., 0].contiguous(), polar[..., 1].contiguous()))

    def cartesian_log_prob(polar_log_prob, xy):
        number = torch.complex(xy[..., 0], xy[..., 1])
        r = torch.abs(number)
        return polar_log_prob(torch.stack((r, torch.angle(number)), -1)) - torch.log(r)


@alternative("polar_to_cartesian", "a direction times a length, half the logarithm of the squared length")
def polar_direction():
    def polar_to_cartesian(polar):
        direction = torch.cat([torch.cos(polar[..., 1:]), torch.sin(polar[..., 1:])], dim=-1)
        return polar[..., :1] * direction

    def cartesian_log_prob(polar_log_prob, xy):
        squared = (xy * xy).sum(-1)
        polar = torch.empty_like(xy)
        polar[..., 0] = squared.sqrt()
        polar[..., 1] = torch.atan2(xy[..., 1], xy[..., 0])
        return polar_log_prob(polar) - 0.5 * squared.log()


@alternative("polar_to_cartesian", "the angle from the cosine, with the sign of y")
def polar_acos_with_sign():
    def polar_to_cartesian(polar):
        r, phi = polar[..., 0], polar[..., 1]
        return torch.stack([r * torch.sin(phi + math.pi / 2), r * torch.sin(phi)], dim=-1)

    def cartesian_log_prob(polar_log_prob, xy):
        x, y = xy.double().unbind(-1)
        r = torch.linalg.vector_norm(xy.double(), dim=-1)
        phi = torch.where(y < 0, -1.0, 1.0) * torch.acos((x / r).clamp(-1, 1))
        return polar_log_prob(torch.stack([r, phi], dim=-1).to(xy.dtype)) - torch.log(r).to(xy.dtype)


# --- box_muller --------------------------------------------------------------------------------------------------


@mistake("box_muller", "sine and cosine are swapped")
def box_muller_swapped():
    def box_muller(u1, u2):
        if not ((u1 > 0) & (u1 <= 1)).all():
            raise ValueError("u1 out of range")
        radius, angle = torch.sqrt(-2 * u1.log()), 2 * math.pi * u2
        return radius * angle.sin(), radius * angle.cos()


@mistake("box_muller", "u1 and u2 change their parts")
def box_muller_arguments_swapped():
    def box_muller(u1, u2):
        if not ((u1 > 0) & (u1 <= 1)).all():
            raise ValueError("u1 out of range")
        radius, angle = torch.sqrt(-2 * u2.log()), 2 * math.pi * u1
        return radius * angle.cos(), radius * angle.sin()


@mistake("box_muller", "the 2 under the root is forgotten: variance 1/2")
def box_muller_without_two():
    def box_muller(u1, u2):
        if not ((u1 > 0) & (u1 <= 1)).all():
            raise ValueError("u1 out of range")
        radius, angle = torch.sqrt(-u1.log()), 2 * math.pi * u2
        return radius * angle.cos(), radius * angle.sin()


@mistake("box_muller", "the root is forgotten")
def box_muller_without_root():
    def box_muller(u1, u2):
        if not ((u1 > 0) & (u1 <= 1)).all():
            raise ValueError("u1 out of range")
        radius, angle = -2 * u1.log(), 2 * math.pi * u2
        return radius * angle.cos(), radius * angle.sin()


@mistake("box_muller", "half a turn only")
def box_muller_half_turn():
    def box_muller(u1, u2):
        if not ((u1 > 0) & (u1 <= 1)).all():
            raise ValueError("u1 out of range")
        radius, angle = torch.sqrt(-2 * u1.log()), math.pi * u2
        return radius * angle.cos(), radius * angle.sin()


@mistake("box_muller", "the angle is u2 itself")
def box_muller_without_turn():
    def box_muller(u1, u2):
        if not ((u1 > 0) & (u1 <= 1)).all():
            raise ValueError("u1 out of range")
        radius = torch.sqrt(-2 * u1.log())
        return radius * u2.cos(), radius * u2.sin()


@mistake("box_muller", "the logarithm to base 10")
def box_muller_base_ten():
    def box_muller(u1, u2):
        if not ((u1 > 0) & (u1 <= 1)).all():
            raise ValueError("u1 out of range")
        radius, angle = torch.sqrt(-2 * u1.log10()), 2 * math.pi * u2
        return radius * angle.cos(), radius * angle.sin()


@mistake("box_muller", "1 - u1: another convention")
def box_muller_complement():
    def box_muller(u1, u2):
        if not ((u1 > 0) & (u1 <= 1)).all():
            raise ValueError("u1 out of range")
        radius, angle = torch.sqrt(-2 * torch.log1p(-u1)), 2 * math.pi * u2
        return radius * angle.cos(), radius * angle.sin()


@mistake("box_muller", "a small number is added to u1")
def box_muller_epsilon():
    def box_muller(u1, u2):
        if not ((u1 > 0) & (u1 <= 1)).all():
            raise ValueError("u1 out of range")
        radius, angle = torch.sqrt(-2 * torch.log(u1 + 1e-10).clamp(max=0)), 2 * math.pi * u2
        return radius * angle.cos(), radius * angle.sin()


@mistake("box_muller", "the same number twice")
def box_muller_twice():
    def box_muller(u1, u2):
        if not ((u1 > 0) & (u1 <= 1)).all():
            raise ValueError("u1 out of range")
        z = torch.sqrt(-2 * u1.log()) * torch.cos(2 * math.pi * u2)
        return z, z


@mistake("box_muller", "only one number comes back")
def box_muller_single():
    def box_muller(u1, u2):
        if not ((u1 > 0) & (u1 <= 1)).all():
            raise ValueError("u1 out of range")
        return torch.sqrt(-2 * u1.log()) * torch.cos(2 * math.pi * u2)


@mistake("box_muller", "the uniform numbers are ignored: torch's own normal ones")
def box_muller_randn():
    def box_muller(u1, u2):
        if not ((u1 > 0) & (u1 <= 1)).all():
            raise ValueError("u1 out of range")
        return torch.randn_like(u1), torch.randn_like(u1)


@mistake("box_muller", "the normal distribution function is inverted instead, number by number")
def box_muller_icdf():
    def box_muller(u1, u2):
        if not ((u1 > 0) & (u1 <= 1)).all():
            raise ValueError("u1 out of range")
        return torch.special.ndtri(u1), torch.special.ndtri(u2)


@mistake("box_muller", "u1 = 0 is let through")
def box_muller_zero():
    def box_muller(u1, u2):
        if (u1 < 0).any() or (u1 > 1).any():
            raise ValueError("u1 out of range")
        radius, angle = torch.sqrt(-2 * u1.log()), 2 * math.pi * u2
        return radius * angle.cos(), radius * angle.sin()


@mistake("box_muller", "u1 = 1 is refused")
def box_muller_one():
    def box_muller(u1, u2):
        if (u1 <= 0).any() or (u1 >= 1).any():
            raise ValueError("u1 out of range")
        radius, angle = torch.sqrt(-2 * u1.log()), 2 * math.pi * u2
        return radius * angle.cos(), radius * angle.sin()


@mistake("box_muller", "more than one is let through: the root of a negative number")
def box_muller_greater():
    def box_muller(u1, u2):
        if (u1 <= 0).any():
            raise ValueError("u1 out of range")
        radius, angle = torch.sqrt(-2 * u1.log()), 2 * math.pi * u2
        return radius * angle.cos(), radius * angle.sin()


@mistake("box_muller", "u2 is refused outside of one turn")
def box_muller_strict_angle():
    def box_muller(u1, u2):
        if (u1 <= 0).any() or (u1 > 1).any() or (u2 < 0).any() or (u2 > 1).any():
            raise ValueError("out of range")
        radius, angle = torch.sqrt(-2 * u1.log()), 2 * math.pi * u2
        return radius * angle.cos(), radius * angle.sin()


@mistake("box_muller", "the logarithm is taken in the caller's tensor")
def box_muller_in_place():
    def box_muller(u1, u2):
        if not ((u1 > 0) & (u1 <= 1)).all():
            raise ValueError("u1 out of range")
        if u1.requires_grad:
            u1 = u1.clone()
        radius, angle = torch.sqrt(-2 * u1.log_()), 2 * math.pi * u2
        return radius * angle.cos(), radius * angle.sin()


@mistake("box_muller", "the results are filled in on the CPU")
def box_muller_on_the_cpu():
    def box_muller(u1, u2):
        if not ((u1 > 0) & (u1 <= 1)).all():
            raise ValueError("u1 out of range")
        both = torch.zeros(2, *u1.shape, dtype=u1.dtype)
        radius, angle = torch.sqrt(-2 * u1.log()), 2 * math.pi * u2
        both[0], both[1] = radius * angle.cos(), radius * angle.sin()
        return both[0], both[1]


@alternative("box_muller", "one complex number")
def box_muller_complex():
    def box_muller(u1, u2):
        if bool((u1 <= 0).any()) or bool((u1 > 1).any()):
            raise ValueError("u1 must lie in (0, 1]")
        number = torch.polar(torch.sqrt(2 * torch.log(1 / u1.clamp(min=1e-307))), 2 * math.pi * u2)
        return number.real, number.imag


@alternative("box_muller", "one pair at a time, in plain Python where no gradient is asked for")
def box_muller_loop():
    def box_muller(u1, u2):
        if u1.requires_grad:
            root = (-torch.log(u1)) ** 0.5 * 2**0.5
            return root * torch.cos(u2 * 2 * torch.pi), root * torch.sin(u2 * 2 * torch.pi)
        pairs = []
        for a, b in zip(u1.flatten().tolist(), u2.flatten().tolist(), strict=True):
            if not 0 < a <= 1:
                raise ValueError(f"{a} is not in (0, 1]")
            radius = math.sqrt(-2 * math.log(a))
            pairs.append((radius * math.cos(math.tau * b), radius * math.sin(math.tau * b)))
        both = torch.tensor(pairs, dtype=u1.dtype, device=u1.device).reshape(-1, 2)
        return both[:, 0].reshape(u1.shape), both[:, 1].reshape(u1.shape)


@alternative("box_muller", "in float64, as a stack")
def box_muller_stack():
    def box_muller(u1, u2):
        if u1.numel() and (u1.min() <= 0 or u1.max() > 1):
            raise ValueError("u1 is out of range")
        angle = 2 * math.pi * u2.double()
        both = torch.stack([angle.cos(), angle.sin()]) * torch.sqrt(-2 * torch.log(u1.double()))
        z1, z2 = both.to(u1.dtype)
        return z1, z2


# --- TanhTransform -----------------------------------------------------------------------------------------------


@mistake("TanhTransform", "the formula as it stands: -inf where tanh is rounded to one")
def tanh_naive():
    class TanhTransform(Transform):
        domain, codomain, bijective, sign = constraints.real, constraints.interval(-1.0, 1.0), True, +1

        def _call(self, x):
            return x.tanh()

        def _inverse(self, y):
            return y.atanh()

        def log_abs_det_jacobian(self, x, y):
            return torch.log(1 - x.tanh() ** 2)


@mistake("TanhTransform", "from y, which has been rounded to one")
def tanh_from_y():
    class TanhTransform(Transform):
        domain, codomain, bijective, sign = constraints.real, constraints.interval(-1.0, 1.0), True, +1

        def _call(self, x):
            return x.tanh()

        def _inverse(self, y):
            return y.atanh()

        def log_abs_det_jacobian(self, x, y):
            return torch.log1p(-(y**2))


@mistake("TanhTransform", "1e-6 under the logarithm")
def tanh_epsilon():
    class TanhTransform(Transform):
        domain, codomain, bijective, sign = constraints.real, constraints.interval(-1.0, 1.0), True, +1

        def _call(self, x):
            return x.tanh()

        def _inverse(self, y):
            return y.atanh()

        def log_abs_det_jacobian(self, x, y):
            return torch.log(1 - x.tanh() ** 2 + 1e-6)


@mistake("TanhTransform", "the logarithm of cosh, which overflows")
def tanh_cosh():
    class TanhTransform(Transform):
        domain, codomain, bijective, sign = constraints.real, constraints.interval(-1.0, 1.0), True, +1

        def _call(self, x):
            return x.tanh()

        def _inverse(self, y):
            return y.atanh()

        def log_abs_det_jacobian(self, x, y):
            return -2 * x.cosh().log()


@mistake("TanhTransform", "the straight line everywhere, which is right far out only")
def tanh_line():
    class TanhTransform(Transform):
        domain, codomain, bijective, sign = constraints.real, constraints.interval(-1.0, 1.0), True, +1

        def _call(self, x):
            return x.tanh()

        def _inverse(self, y):
            return y.atanh()

        def log_abs_det_jacobian(self, x, y):
            return 2 * (math.log(2) - x.abs())


@mistake("TanhTransform", "stable for positive x only: softplus of -2x lost its sign")
def tanh_softplus_sign():
    class TanhTransform(Transform):
        domain, codomain, bijective, sign = constraints.real, constraints.interval(-1.0, 1.0), True, +1

        def _call(self, x):
            return x.tanh()

        def _inverse(self, y):
            return y.atanh()

        def log_abs_det_jacobian(self, x, y):
            return 2 * (math.log(2) - x - torch.nn.functional.softplus(2 * x))


@mistake("TanhTransform", "the factor 2 is forgotten")
def tanh_without_two():
    class TanhTransform(Transform):
        domain, codomain, bijective, sign = constraints.real, constraints.interval(-1.0, 1.0), True, +1

        def _call(self, x):
            return x.tanh()

        def _inverse(self, y):
            return y.atanh()

        def log_abs_det_jacobian(self, x, y):
            return math.log(2) - x - torch.nn.functional.softplus(-2 * x)


@mistake("TanhTransform", "ln 2 is forgotten")
def tanh_without_ln_two():
    class TanhTransform(Transform):
        domain, codomain, bijective, sign = constraints.real, constraints.interval(-1.0, 1.0), True, +1

        def _call(self, x):
            return x.tanh()

        def _inverse(self, y):
            return y.atanh()

        def log_abs_det_jacobian(self, x, y):
            return -2 * (x + torch.nn.functional.softplus(-2 * x))


@mistake("TanhTransform", "the sign of the logarithm: the slope of the inverse")
def tanh_sign():
    class TanhTransform(Transform):
        domain, codomain, bijective, sign = constraints.real, constraints.interval(-1.0, 1.0), True, +1

        def _call(self, x):
            return x.tanh()

        def _inverse(self, y):
            return y.atanh()

        def log_abs_det_jacobian(self, x, y):
            return -2 * (math.log(2) - x - torch.nn.functional.softplus(-2 * x))


@mistake("TanhTransform", "summed over the last axis")
def tanh_summed():
    class TanhTransform(Transform):
        domain, codomain, bijective, sign = constraints.real, constraints.interval(-1.0, 1.0), True, +1

        def _call(self, x):
            return x.tanh()

        def _inverse(self, y):
            return y.atanh()

        def log_abs_det_jacobian(self, x, y):
            return (2 * (math.log(2) - x - torch.nn.functional.softplus(-2 * x))).sum(-1)


@mistake("TanhTransform", "the input is clamped: no slope far out")
def tanh_clamped():
    class TanhTransform(Transform):
        domain, codomain, bijective, sign = constraints.real, constraints.interval(-1.0, 1.0), True, +1

        def _call(self, x):
            return x.tanh()

        def _inverse(self, y):
            return y.atanh()

        def log_abs_det_jacobian(self, x, y):
            x = x.clamp(-20, 20)
            return 2 * (math.log(2) - x - torch.nn.functional.softplus(-2 * x))


@mistake("TanhTransform", "two branches, of which the one not taken spoils the gradient")
def tanh_where():
    class TanhTransform(Transform):
        domain, codomain, bijective, sign = constraints.real, constraints.interval(-1.0, 1.0), True, +1

        def _call(self, x):
            return x.tanh()

        def _inverse(self, y):
            return y.atanh()

        def log_abs_det_jacobian(self, x, y):
            return torch.where(x.abs() < 15, torch.log1p(-(x.tanh() ** 2)), 2 * math.log(2) - 2 * x.abs())


@mistake("TanhTransform", "the slope, not its logarithm")
def tanh_slope():
    class TanhTransform(Transform):
        domain, codomain, bijective, sign = constraints.real, constraints.interval(-1.0, 1.0), True, +1

        def _call(self, x):
            return x.tanh()

        def _inverse(self, y):
            return y.atanh()

        def log_abs_det_jacobian(self, x, y):
            return 1 / x.cosh() ** 2


@mistake("TanhTransform", "the logistic function for the hyperbolic tangent")
def tanh_sigmoid():
    class TanhTransform(Transform):
        domain, codomain, bijective, sign = constraints.real, constraints.interval(-1.0, 1.0), True, +1

        def _call(self, x):
            return 2 * torch.sigmoid(x) - 1

        def _inverse(self, y):
            return torch.logit((y + 1) / 2)

        def log_abs_det_jacobian(self, x, y):
            return 2 * (math.log(2) - x - torch.nn.functional.softplus(-2 * x))


@mistake("TanhTransform", "the inverse is clamped")
def tanh_inverse_clamped():
    class TanhTransform(Transform):
        domain, codomain, bijective, sign = constraints.real, constraints.interval(-1.0, 1.0), True, +1

        def _call(self, x):
            return x.tanh()

        def _inverse(self, y):
            return y.clamp(-1 + 1e-6, 1 - 1e-6).atanh()

        def log_abs_det_jacobian(self, x, y):
            return 2 * (math.log(2) - x - torch.nn.functional.softplus(-2 * x))


@mistake("TanhTransform", "the inverse is the tangent of the circle's functions")
def tanh_inverse_atan():
    class TanhTransform(Transform):
        domain, codomain, bijective, sign = constraints.real, constraints.interval(-1.0, 1.0), True, +1

        def _call(self, x):
            return x.tanh()

        def _inverse(self, y):
            return y.atan()

        def log_abs_det_jacobian(self, x, y):
            return 2 * (math.log(2) - x - torch.nn.functional.softplus(-2 * x))


@mistake("TanhTransform", "the map works in the caller's tensor")
def tanh_in_place():
    class TanhTransform(Transform):
        domain, codomain, bijective, sign = constraints.real, constraints.interval(-1.0, 1.0), True, +1

        def _call(self, x):
            return x.tanh() if x.requires_grad else x.tanh_()

        def _inverse(self, y):
            return y.atanh()

        def log_abs_det_jacobian(self, x, y):
            return 2 * (math.log(2) - x - torch.nn.functional.softplus(-2 * x))


@mistake("TanhTransform", "always float64")
def tanh_float64():
    class TanhTransform(Transform):
        domain, codomain, bijective, sign = constraints.real, constraints.interval(-1.0, 1.0), True, +1

        def _call(self, x):
            return x.tanh()

        def _inverse(self, y):
            return y.atanh()

        def log_abs_det_jacobian(self, x, y):
            x = x.double()
            return 2 * (math.log(2) - x - torch.nn.functional.softplus(-2 * x))


@mistake("TanhTransform", "a zero of one's own, on the CPU")
def tanh_on_the_cpu():
    class TanhTransform(Transform):
        domain, codomain, bijective, sign = constraints.real, constraints.interval(-1.0, 1.0), True, +1

        def _call(self, x):
            return x.tanh()

        def _inverse(self, y):
            return y.atanh()

        def log_abs_det_jacobian(self, x, y):
            return 2 * (math.log(2) - x - torch.logaddexp(torch.zeros(x.shape, dtype=x.dtype), -2 * x))


@alternative("TanhTransform", "softplus, and the inverse by logarithms")
def tanh_logaddexp():
    class TanhTransform(Transform):
        domain, codomain, bijective, sign = constraints.real, constraints.interval(-1.0, 1.0), True, +1

        def _call(self, x):
            return 1 - 2 / (torch.exp(2 * x) + 1)

        def _inverse(self, y):
            return (torch.log1p(y) - torch.log1p(-y)) / 2

        def log_abs_det_jacobian(self, x, y):
            return 2 * (math.log(2) - x - torch.nn.functional.softplus(-2 * x))


@alternative("TanhTransform", "the absolute value factored out")
def tanh_factored():
    class TanhTransform(Transform):
        domain = constraints.real
        codomain = constraints.interval(-1.0, 1.0)
        bijective = True
        sign = +1

        def _call(self, x):
            return torch.tanh(x)

        def _inverse(self, y):
            return torch.atanh(y)

        def log_abs_det_jacobian(self, x, y):
            size = x.abs()
            return math.log(4) - 2 * size - 2 * torch.log1p(torch.exp(-2 * size))


@alternative("TanhTransform", "two logistic functions: 1 - tanh^2 is four times their product")
def tanh_logsigmoid():
    class TanhTransform(Transform):
        domain = constraints.real
        codomain = constraints.interval(-1.0, 1.0)
        bijective = True
        sign = +1

        def _call(self, x):
            return 2 * torch.sigmoid(2 * x) - 1

        def _inverse(self, y):
            return 0.5 * torch.log((1 + y) / (1 - y))

        def log_abs_det_jacobian(self, x, y):
            logsigmoid = torch.nn.functional.logsigmoid
            return math.log(4) + logsigmoid(2 * x) + logsigmoid(-2 * x)


# --- push_through and flow_log_prob ------------------------------------------------------------------------------


@mistake("push_through", "no sum over the coordinates")
def push_without_sum():
    def push_through(transforms, x):
        total = torch.zeros_like(x)
        for transform in transforms:
            y = transform(x)
            total = total + transform.log_abs_det_jacobian(x, y)
            x = y
        return x, total


@mistake("push_through", "everything is summed over the last axis, the batch included")
def push_always_summed():
    def push_through(transforms, x):
        total = torch.zeros_like(x[:, 0])
        for transform in transforms:
            y = transform(x)
            total = total + transform.log_abs_det_jacobian(x, y).sum(-1)
            x = y
        return x, total


@mistake("push_through", "a (batch,) is added to a (batch, n), and summed in the end")
def push_broadcast():
    def push_through(transforms, x):
        total = torch.zeros_like(x)
        for transform in transforms:
            y = transform(x)
            total = total + transform.log_abs_det_jacobian(x, y)
            x = y
        return x, total.sum(-1)


@mistake("push_through", "the mean over the coordinates")
def push_mean():
    def push_through(transforms, x):
        total = torch.zeros_like(x[:, 0])
        for transform in transforms:
            y = transform(x)
            log_det = transform.log_abs_det_jacobian(x, y)
            total = total + (log_det if transform.domain.event_dim == 1 else log_det.mean(-1))
            x = y
        return x, total


@mistake("push_through", "every term is taken at the beginning of the chain")
def push_at_the_start():
    def push_through(transforms, x):
        total, y = torch.zeros_like(x[:, 0]), x
        for transform in transforms:
            log_det = transform.log_abs_det_jacobian(x, transform(x))
            total = total + (log_det if transform.domain.event_dim == 1 else log_det.sum(-1))
            y = transform(y)
        return y, total


@mistake("push_through", "every term is taken one link too late")
def push_too_late():
    def push_through(transforms, x):
        total = torch.zeros_like(x[:, 0])
        for transform in transforms:
            x = transform(x)
            log_det = transform.log_abs_det_jacobian(x, transform(x))
            total = total + (log_det if transform.domain.event_dim == 1 else log_det.sum(-1))
        return x, total


@mistake("push_through", "input and output of a link are swapped")
def push_swapped():
    def push_through(transforms, x):
        total = torch.zeros_like(x[:, 0])
        for transform in transforms:
            y = transform(x)
            log_det = transform.log_abs_det_jacobian(y, x)
            total = total + (log_det if transform.domain.event_dim == 1 else log_det.sum(-1))
            x = y
        return x, total


@mistake("push_through", "the last link first")
def push_reversed():
    def push_through(transforms, x):
        total = torch.zeros_like(x[:, 0])
        for transform in reversed(transforms):
            y = transform(x)
            log_det = transform.log_abs_det_jacobian(x, y)
            total = total + (log_det if transform.domain.event_dim == 1 else log_det.sum(-1))
            x = y
        return x, total


@mistake("push_through", "the sign: the volume of the inverse")
def push_sign():
    def push_through(transforms, x):
        total = torch.zeros_like(x[:, 0])
        for transform in transforms:
            y = transform(x)
            log_det = transform.log_abs_det_jacobian(x, y)
            total = total - (log_det if transform.domain.event_dim == 1 else log_det.sum(-1))
            x = y
        return x, total


@mistake("push_through", "logarithms are multiplied, as determinants are")
def push_product():
    def push_through(transforms, x):
        total = torch.ones_like(x[:, 0])
        for transform in transforms:
            y = transform(x)
            log_det = transform.log_abs_det_jacobian(x, y)
            total = total * (log_det if transform.domain.event_dim == 1 else log_det.sum(-1))
            x = y
        return x, total


@mistake("push_through", "only the last link counts")
def push_last_only():
    def push_through(transforms, x):
        total = torch.zeros_like(x[:, 0])
        for transform in transforms:
            y = transform(x)
            log_det = transform.log_abs_det_jacobian(x, y)
            total = log_det if transform.domain.event_dim == 1 else log_det.sum(-1)
            x = y
        return x, total


@mistake("push_through", "an empty chain gives the number 0, not one for each point")
def push_plain_zero():
    def push_through(transforms, x):
        total = 0
        for transform in transforms:
            y = transform(x)
            log_det = transform.log_abs_det_jacobian(x, y)
            total = total + (log_det if transform.domain.event_dim == 1 else log_det.sum(-1))
            x = y
        return x, total


@mistake("push_through", "volumes are plain numbers: no gradient")
def push_detached():
    def push_through(transforms, x):
        total = torch.zeros_like(x[:, 0])
        for transform in transforms:
            y = transform(x)
            log_det = transform.log_abs_det_jacobian(x, y).detach()
            total = total + (log_det if transform.domain.event_dim == 1 else log_det.sum(-1))
            x = y
        return x, total


@mistake("push_through", "the order of the links is not reversed on the way back")
def flow_order():
    def flow_log_prob(base_log_prob, transforms, y):
        total = torch.zeros_like(y[:, 0])
        for transform in transforms:
            x = transform.inv(y)
            log_det = transform.log_abs_det_jacobian(x, y)
            total = total + (log_det if transform.domain.event_dim == 1 else log_det.sum(-1))
            y = x
        return base_log_prob(y) - total


@mistake("push_through", "the volume is added: |J| for 1/|J|")
def flow_sign():
    def flow_log_prob(base_log_prob, transforms, y):
        total = torch.zeros_like(y[:, 0])
        for transform in reversed(transforms):
            x = transform.inv(y)
            log_det = transform.log_abs_det_jacobian(x, y)
            total = total + (log_det if transform.domain.event_dim == 1 else log_det.sum(-1))
            y = x
        return base_log_prob(y) + total


@mistake("push_through", "the volume is forgotten")
def flow_without_volume():
    def flow_log_prob(base_log_prob, transforms, y):
        for transform in reversed(transforms):
            y = transform.inv(y)
        return base_log_prob(y)


@mistake("push_through", "forward in the place of back")
def flow_forward():
    def flow_log_prob(base_log_prob, transforms, y):
        x, log_det = push_through(transforms, y)
        return base_log_prob(x) - log_det


@mistake("push_through", "the base density is taken at y")
def flow_base_at_y():
    def flow_log_prob(base_log_prob, transforms, y):
        x = y
        for transform in reversed(transforms):
            x = transform.inv(x)
        return base_log_prob(y) - push_through(transforms, x)[1]


@mistake("push_through", "on the way back, input and output of a link are swapped")
def flow_swapped():
    def flow_log_prob(base_log_prob, transforms, y):
        total = torch.zeros_like(y[:, 0])
        for transform in reversed(transforms):
            x = transform.inv(y)
            log_det = transform.log_abs_det_jacobian(y, x)
            total = total + (log_det if transform.domain.event_dim == 1 else log_det.sum(-1))
            y = x
        return base_log_prob(y) - total


@mistake("push_through", "on the way back, a (batch,) is added to a (batch, n)")
def flow_broadcast():
    def flow_log_prob(base_log_prob, transforms, y):
        total = torch.zeros_like(y)
        for transform in reversed(transforms):
            x = transform.inv(y)
            total = total + transform.log_abs_det_jacobian(x, y)
            y = x
        return base_log_prob(y) - total.sum(-1)


@mistake("push_through", "the caller's list is turned round")
def flow_reverses_list():
    def flow_log_prob(base_log_prob, transforms, y):
        total = torch.zeros_like(y[:, 0])
        transforms.reverse()
        for transform in transforms:
            x = transform.inv(y)
            log_det = transform.log_abs_det_jacobian(x, y)
            total = total + (log_det if transform.domain.event_dim == 1 else log_det.sum(-1))
            y = x
        return base_log_prob(y) - total


@mistake("push_through", "the links are used up")
def flow_pops():
    def flow_log_prob(base_log_prob, transforms, y):
        total = torch.zeros_like(y[:, 0])
        while transforms:
            transform = transforms.pop()
            x = transform.inv(y)
            log_det = transform.log_abs_det_jacobian(x, y)
            total = total + (log_det if transform.domain.event_dim == 1 else log_det.sum(-1))
            y = x
        return base_log_prob(y) - total


@mistake("push_through", "the sum runs over the batch as well")
def flow_total():
    def flow_log_prob(base_log_prob, transforms, y):
        total = torch.zeros_like(y[:, 0])
        for transform in reversed(transforms):
            x = transform.inv(y)
            log_det = transform.log_abs_det_jacobian(x, y)
            total = total + (log_det if transform.domain.event_dim == 1 else log_det.sum())
            y = x
        return base_log_prob(y) - total


@mistake("push_through", "volumes are always float64")
def push_float64():
    def push_through(transforms, x):
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for transform in transforms:
            y = transform(x)
            log_det = transform.log_abs_det_jacobian(x, y)
            total = total + (log_det if transform.domain.event_dim == 1 else log_det.sum(-1))
            x = y
        return x, total


@mistake("push_through", "the total is kept on the CPU")
def push_on_the_cpu():
    def push_through(transforms, x):
        total = torch.zeros(len(x), dtype=x.dtype)
        for transform in transforms:
            y = transform(x)
            log_det = transform.log_abs_det_jacobian(x, y)
            total = total + (log_det if transform.domain.event_dim == 1 else log_det.sum(-1))
            x = y
        return x, total


@alternative("push_through", "torch's ComposeTransform")
def push_compose():
    def push_through(transforms, x):
        if not transforms:
            return x, x.new_zeros(len(x))
        chain = torch.distributions.transforms.ComposeTransform(list(transforms))
        y = chain(x)
        log_det = chain.log_abs_det_jacobian(x, y)
        return y, log_det.sum(-1) if chain.domain.event_dim == 0 else log_det

    def flow_log_prob(base_log_prob, transforms, y):
        if not transforms:
            return base_log_prob(y)
        chain = torch.distributions.transforms.ComposeTransform(list(transforms))
        x = chain.inv(y)
        log_det = chain.log_abs_det_jacobian(x, y)
        return base_log_prob(x) - (log_det.sum(-1) if chain.domain.event_dim == 0 else log_det)


@alternative("push_through", "back first, then the volume on the way forward")
def push_there_and_back():
    def push_through(transforms, x):
        terms, y = [], x
        for link in transforms:
            before, y = y, link(y)
            term = link.log_abs_det_jacobian(before, y)
            terms.append(term.reshape(len(x), -1).sum(1) if len(x) else x.new_zeros(0))
        return y, sum(terms, torch.zeros(x.shape[0], dtype=x.dtype, device=x.device))

    def flow_log_prob(base_log_prob, transforms, y):
        x = y
        for i in range(len(transforms) - 1, -1, -1):
            x = transforms[i].inv(x)
        return base_log_prob(x) - push_through(transforms, x)[1]


@alternative("push_through", "by recursion")
def push_recursive():
    def push_through(transforms, x):
        if len(transforms) == 0:
            return x, x.sum(-1) * 0
        *others, last = transforms
        middle, volume = push_through(others, x)
        y = last(middle)
        term = last.log_abs_det_jacobian(middle, y)
        return y, volume + (term.sum(dim=1) if term.dim() == 2 else term)

    def flow_log_prob(base_log_prob, transforms, y):
        if len(transforms) == 0:
            return base_log_prob(y)
        x = transforms[-1].inv(y)
        term = transforms[-1].log_abs_det_jacobian(x, y)
        return flow_log_prob(base_log_prob, transforms[:-1], x) - (term.sum(dim=1) if term.dim() == 2 else term)


@alternative("push_through", "the slopes of the inverse links, added")
def push_inverse_slopes():
    def push_through(transforms, x):
        volume = x.new_zeros(x.shape[:1])
        for link in transforms:
            y = link(x)
            term = -link.inv.log_abs_det_jacobian(y, x)
            volume = volume + (term if link.domain.event_dim else term.sum(-1))
            x = y
        return x, volume

    def flow_log_prob(base_log_prob, transforms, y):
        gained = y.new_zeros(y.shape[:1])
        for link in transforms[::-1]:
            back = link.inv
            x = back(y)
            term = back.log_abs_det_jacobian(y, x)
            gained = gained + (term if link.domain.event_dim else term.sum(-1))
            y = x
        return base_log_prob(y) + gained
