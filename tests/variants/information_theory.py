"""Wrong and other right answers to the assignment on information theory (see `autograder.variants`)."""
# ruff: noqa: F821 - bodies use the functions of earlier tasks, which the notebook has

import math

import torch

from autograder.variants import alternative, mistake

# --- entropy -----------------------------------------------------------------------------------------------------


@mistake("entropy", "bits for nats: log2 for ln")
def entropy_in_bits():
    def entropy(p):
        return -(torch.special.xlogy(p, p) / math.log(2)).sum(-1)


@mistake("entropy", "0 log 0 is NaN")
def entropy_nan_at_zero():
    def entropy(p):
        return -(p * p.log()).sum(-1)


@mistake("entropy", "the sign is lost")
def entropy_negative():
    def entropy(p):
        return torch.special.xlogy(p, p).sum(-1)


@mistake("entropy", "the mean over the outcomes in place of their sum")
def entropy_mean():
    def entropy(p):
        return -torch.special.xlogy(p, p).mean(-1)


@mistake("entropy", "one sum over the whole batch")
def entropy_of_everything():
    def entropy(p):
        return -torch.special.xlogy(p, p).sum()


@mistake("entropy", "the sum runs over the first axis")
def entropy_first_axis():
    def entropy(p):
        return -torch.special.xlogy(p, p).sum(0)


@mistake("entropy", "the sum runs over axis 1, which is the last one only in a table")
def entropy_axis_one():
    def entropy(p):
        return -torch.special.xlogy(p, p).sum(1 if p.dim() > 1 else 0)


@mistake("entropy", "a small number is added to every probability")
def entropy_epsilon():
    def entropy(p):
        p = p + 1e-8
        return -(p * p.log()).sum(-1)


@mistake("entropy", "probabilities are clamped from below")
def entropy_clamped():
    def entropy(p):
        return -(p * p.clamp(min=1e-5).log()).sum(-1)


@mistake("entropy", "p is taken for logits")
def entropy_of_logits():
    def entropy(p):
        return torch.distributions.Categorical(logits=p).entropy()


@mistake("entropy", "zeros are replaced inside the caller's tensor")
def entropy_overwrites():
    def entropy(p):
        p[p == 0] = 1
        return -(p * p.log()).sum(-1)


@mistake("entropy", "zero probabilities are dropped, which flattens the batch")
def entropy_masked_flat():
    def entropy(p):
        kept = p[p > 0]
        return -(kept * kept.log()).sum(-1)


@mistake("entropy", "always float32")
def entropy_float32():
    def entropy(p):
        return -torch.special.xlogy(p.float(), p.float()).sum(-1)


@mistake("entropy", "the sum is collected on the CPU, wherever p is")
def entropy_collected_on_cpu():
    def entropy(p):
        total = torch.zeros(p.shape[:-1], dtype=p.dtype)
        for column in p.unbind(-1):
            total += torch.special.entr(column)
        return total


@mistake("entropy", "numpy's result stays on the CPU")
def entropy_left_on_cpu():
    def entropy(p):
        import scipy.stats

        return torch.as_tensor(scipy.stats.entropy(p.cpu().double().numpy(), axis=-1)).to(p.dtype)


@alternative("entropy", "torch.special.entr")
def entropy_entr():
    def entropy(p):
        return torch.special.entr(p).sum(dim=-1)


@alternative("entropy", "a mask, and a loop over the outcomes")
def entropy_loop():
    def entropy(p):
        total = torch.zeros_like(p[..., 0])
        for i in range(p.shape[-1]):
            column = p[..., i]
            surprise = -torch.where(column > 0, column, torch.ones_like(column)).log()
            total += column * surprise
        return total


@alternative("entropy", "numpy in float64, back in the dtype and on the device of p")
def entropy_numpy():
    def entropy(p):
        import numpy as np

        array = p.detach().cpu().double().numpy()
        terms = np.where(array > 0, -array * np.log(np.where(array > 0, array, 1.0)), 0.0)
        return torch.as_tensor(terms.sum(axis=-1)).to(p)


@alternative("entropy", "nan_to_num on the products")
def entropy_nan_to_num():
    def entropy(p):
        return -torch.nan_to_num(p * torch.log(p), nan=0.0).sum(-1)


# --- gaussian_entropy --------------------------------------------------------------------------------------------


@mistake("gaussian_entropy", "sigma for sigma squared")
def gaussian_entropy_sigma():
    def gaussian_entropy(sigma):
        if (sigma <= 0).any():
            raise ValueError("sigma must be positive")
        return 0.5 * (math.log(2 * math.pi * math.e) + sigma.log())


@mistake("gaussian_entropy", "bits for nats: log2 for ln")
def gaussian_entropy_bits():
    def gaussian_entropy(sigma):
        if (sigma <= 0).any():
            raise ValueError("sigma must be positive")
        return sigma.log2() + 0.5 * math.log2(2 * math.pi * math.e)


@mistake("gaussian_entropy", "e is missing: only the logarithm of the normalising constant")
def gaussian_entropy_without_e():
    def gaussian_entropy(sigma):
        if (sigma <= 0).any():
            raise ValueError("sigma must be positive")
        return sigma.log() + 0.5 * math.log(2 * math.pi)


@mistake("gaussian_entropy", "the factor 1/2 is missing")
def gaussian_entropy_without_half():
    def gaussian_entropy(sigma):
        if (sigma <= 0).any():
            raise ValueError("sigma must be positive")
        return 2 * sigma.log() + math.log(2 * math.pi * math.e)


@mistake("gaussian_entropy", "negative entropies are cut off at zero")
def gaussian_entropy_clamped():
    def gaussian_entropy(sigma):
        if (sigma <= 0).any():
            raise ValueError("sigma must be positive")
        return (sigma.log() + 0.5 * math.log(2 * math.pi * math.e)).clamp(min=0)


@mistake("gaussian_entropy", "the sign is lost")
def gaussian_entropy_negative():
    def gaussian_entropy(sigma):
        if (sigma <= 0).any():
            raise ValueError("sigma must be positive")
        return -(sigma.log() + 0.5 * math.log(2 * math.pi * math.e))


@mistake("gaussian_entropy", "the square under the logarithm underflows")
def gaussian_entropy_square():
    def gaussian_entropy(sigma):
        if (sigma <= 0).any():
            raise ValueError("sigma must be positive")
        return 0.5 * torch.log(2 * math.pi * math.e * sigma**2)


@mistake("gaussian_entropy", "the batch is summed")
def gaussian_entropy_summed():
    def gaussian_entropy(sigma):
        if (sigma <= 0).any():
            raise ValueError("sigma must be positive")
        return (sigma.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


@mistake("gaussian_entropy", "a standard deviation of zero is let through")
def gaussian_entropy_zero():
    def gaussian_entropy(sigma):
        if (sigma < 0).any():
            raise ValueError("sigma must be positive")
        return sigma.log() + 0.5 * math.log(2 * math.pi * math.e)


@mistake("gaussian_entropy", "refused only if no standard deviation is positive")
def gaussian_entropy_all():
    def gaussian_entropy(sigma):
        if (sigma <= 0).all():
            raise ValueError("sigma must be positive")
        return sigma.log() + 0.5 * math.log(2 * math.pi * math.e)


@mistake("gaussian_entropy", "always float64")
def gaussian_entropy_float64():
    def gaussian_entropy(sigma):
        if (sigma <= 0).any():
            raise ValueError("sigma must be positive")
        return sigma.double().log() + 0.5 * math.log(2 * math.pi * math.e)


@mistake("gaussian_entropy", "the entropies are put into a tensor on the CPU")
def gaussian_entropy_on_cpu():
    def gaussian_entropy(sigma):
        if min(sigma.flatten().tolist()) <= 0:
            raise ValueError("sigma must be positive")
        values = [0.5 * math.log(2 * math.pi * math.e) + math.log(s) for s in sigma.flatten().tolist()]
        return torch.tensor(values, dtype=sigma.dtype).reshape(sigma.shape)


@alternative("gaussian_entropy", "torch.distributions")
def gaussian_entropy_distribution():
    def gaussian_entropy(sigma):
        return torch.distributions.Normal(torch.zeros_like(sigma), sigma, validate_args=True).entropy()


@alternative("gaussian_entropy", "the formula as it stands, in float64")
def gaussian_entropy_wide():
    def gaussian_entropy(sigma):
        if not bool(torch.all(sigma > 0)):
            raise ValueError("need sigma > 0")
        variance = sigma.double() ** 2
        return (0.5 * torch.log(2 * math.pi * math.e * variance)).to(sigma.dtype)


@alternative("gaussian_entropy", "one number at a time")
def gaussian_entropy_loop():
    def gaussian_entropy(sigma):
        values = []
        for s in sigma.flatten().tolist():
            if s <= 0:
                raise ValueError(f"{s} is not positive")
            values.append(0.5 * (1 + math.log(2 * math.pi)) + math.log(s))
        return torch.tensor(values, dtype=sigma.dtype, device=sigma.device).reshape(sigma.shape)


# --- differential_entropy ----------------------------------------------------------------------------------------


@mistake("differential_entropy", "the step width is missing")
def quadrature_without_step():
    def differential_entropy(log_prob, lower, upper, n):
        if not lower < upper or n < 2:
            raise ValueError("empty interval or too few points")
        log_f = log_prob(torch.linspace(lower, upper, n, dtype=torch.float64))
        return torch.trapezoid(torch.where(log_f.exp() > 0, -log_f.exp() * log_f, 0.0))


@mistake("differential_entropy", "a step for each point, not for each gap")
def quadrature_n_steps():
    def differential_entropy(log_prob, lower, upper, n):
        if not lower < upper or n < 2:
            raise ValueError("empty interval or too few points")
        log_f = log_prob(torch.linspace(lower, upper, n, dtype=torch.float64))
        return torch.trapezoid(torch.where(log_f.exp() > 0, -log_f.exp() * log_f, 0.0), dx=(upper - lower) / n)


@mistake("differential_entropy", "n gaps, so n + 1 points")
def quadrature_extra_point():
    def differential_entropy(log_prob, lower, upper, n):
        if not lower < upper or n < 2:
            raise ValueError("empty interval or too few points")
        x = torch.linspace(lower, upper, n + 1, dtype=torch.float64)
        log_f = log_prob(x)
        return torch.trapezoid(torch.where(log_f.exp() > 0, -log_f.exp() * log_f, 0.0), x)


@mistake("differential_entropy", "both end points count in full")
def quadrature_full_ends():
    def differential_entropy(log_prob, lower, upper, n):
        if not lower < upper or n < 2:
            raise ValueError("empty interval or too few points")
        log_f = log_prob(torch.linspace(lower, upper, n, dtype=torch.float64))
        return torch.where(log_f.exp() > 0, -log_f.exp() * log_f, 0.0).sum() * (upper - lower) / (n - 1)


@mistake("differential_entropy", "the right end point is left out")
def quadrature_left_sum():
    def differential_entropy(log_prob, lower, upper, n):
        if not lower < upper or n < 2:
            raise ValueError("empty interval or too few points")
        step = (upper - lower) / (n - 1)
        log_f = log_prob(lower + step * torch.arange(n - 1, dtype=torch.float64))
        return torch.where(log_f.exp() > 0, -log_f.exp() * log_f, 0.0).sum() * step


@mistake("differential_entropy", "NaN where the density underflows: its logarithm is taken anew")
def quadrature_nan_at_underflow():
    def differential_entropy(log_prob, lower, upper, n):
        if not lower < upper or n < 2:
            raise ValueError("empty interval or too few points")
        x = torch.linspace(lower, upper, n, dtype=torch.float64)
        density = log_prob(x).exp()
        return torch.trapezoid(-density * density.log(), x)


@mistake("differential_entropy", "NaN outside the support: 0 times -inf")
def quadrature_nan_outside():
    def differential_entropy(log_prob, lower, upper, n):
        if not lower < upper or n < 2:
            raise ValueError("empty interval or too few points")
        x = torch.linspace(lower, upper, n, dtype=torch.float64)
        log_f = log_prob(x)
        return torch.trapezoid(-log_f.exp() * log_f, x)


@mistake("differential_entropy", "the sign is lost")
def quadrature_negative():
    def differential_entropy(log_prob, lower, upper, n):
        if not lower < upper or n < 2:
            raise ValueError("empty interval or too few points")
        x = torch.linspace(lower, upper, n, dtype=torch.float64)
        log_f = log_prob(x)
        return torch.trapezoid(torch.where(log_f.exp() > 0, log_f.exp() * log_f, 0.0), x)


@mistake("differential_entropy", "bits for nats")
def quadrature_bits():
    def differential_entropy(log_prob, lower, upper, n):
        if not lower < upper or n < 2:
            raise ValueError("empty interval or too few points")
        x = torch.linspace(lower, upper, n, dtype=torch.float64)
        density = log_prob(x).exp()
        return torch.trapezoid(torch.where(density > 0, -density * density.clamp(min=1e-300).log2(), 0.0), x)


@mistake("differential_entropy", "the surprise is averaged over the interval, not weighed by the density")
def quadrature_unweighted():
    def differential_entropy(log_prob, lower, upper, n):
        if not lower < upper or n < 2:
            raise ValueError("empty interval or too few points")
        x = torch.linspace(lower, upper, n, dtype=torch.float64)
        log_f = log_prob(x)
        return torch.where(log_f > -math.inf, -log_f, 0.0).mean()


@mistake("differential_entropy", "the density is normalised on the grid: the discrete entropy")
def quadrature_discrete():
    def differential_entropy(log_prob, lower, upper, n):
        if not lower < upper or n < 2:
            raise ValueError("empty interval or too few points")
        p = torch.softmax(log_prob(torch.linspace(lower, upper, n, dtype=torch.float64)), 0)
        return -torch.special.xlogy(p, p).sum()


@mistake("differential_entropy", "the density is divided by its integral over the interval")
def quadrature_normalised():
    def differential_entropy(log_prob, lower, upper, n):
        if not lower < upper or n < 2:
            raise ValueError("empty interval or too few points")
        x = torch.linspace(lower, upper, n, dtype=torch.float64)
        density = log_prob(x).exp()
        density = density / torch.trapezoid(density, x)
        return torch.trapezoid(-torch.special.xlogy(density, density), x)


@mistake("differential_entropy", "the absolute value of the integrand")
def quadrature_abs():
    def differential_entropy(log_prob, lower, upper, n):
        if not lower < upper or n < 2:
            raise ValueError("empty interval or too few points")
        x = torch.linspace(lower, upper, n, dtype=torch.float64)
        density = log_prob(x).exp()
        return torch.trapezoid(torch.special.xlogy(density, density).abs(), x)


@mistake("differential_entropy", "the points are float32")
def quadrature_float32():
    def differential_entropy(log_prob, lower, upper, n):
        if not lower < upper or n < 2:
            raise ValueError("empty interval or too few points")
        x = torch.linspace(lower, upper, n)
        density = log_prob(x).exp()
        return torch.trapezoid(-torch.special.xlogy(density, density), x)


@mistake("differential_entropy", "bad arguments are let through")
def quadrature_unchecked():
    def differential_entropy(log_prob, lower, upper, n):
        x = torch.linspace(lower, upper, n, dtype=torch.float64)
        density = log_prob(x).exp()
        return torch.trapezoid(-torch.special.xlogy(density, density), x)


@alternative("differential_entropy", "entr of the density, the sum written out")
def quadrature_sum():
    def differential_entropy(log_prob, lower, upper, n):
        if upper <= lower:
            raise ValueError("upper must exceed lower")
        if n < 2:
            raise ValueError("n must be at least 2")
        step = (upper - lower) / (n - 1)
        terms = torch.special.entr(log_prob(lower + step * torch.arange(n, dtype=torch.float64)).exp())
        return step * (terms.sum() - 0.5 * (terms[0] + terms[-1]))


@alternative("differential_entropy", "a loop over the gaps, one point at a time")
def quadrature_loop():
    def differential_entropy(log_prob, lower, upper, n):
        if upper <= lower or n <= 1:
            raise ValueError("bad grid")

        def integrand(x):
            log_f = float(log_prob(torch.tensor(x, dtype=torch.float64)))
            return 0.0 if log_f == -math.inf else -math.exp(log_f) * log_f

        step = (upper - lower) / (n - 1)
        values = [integrand(min(lower + i * step, upper)) for i in range(n)]
        total = sum((values[i] + values[i + 1]) / 2 * step for i in range(n - 1))
        return torch.tensor(total, dtype=torch.float64)


@alternative("differential_entropy", "numpy's trapezoid, NaN set to zero")
def quadrature_numpy():
    def differential_entropy(log_prob, lower, upper, n):
        import numpy as np

        if lower >= upper or n < 2:
            raise ValueError("bad grid")
        x = np.linspace(lower, upper, n)
        log_f = log_prob(torch.from_numpy(x)).numpy()
        with np.errstate(invalid="ignore"):
            return torch.as_tensor(np.trapezoid(np.nan_to_num(-np.exp(log_f) * log_f), x))


# --- kl_divergence -----------------------------------------------------------------------------------------------


@mistake("kl_divergence", "the arguments of the divergence are swapped")
def kl_swapped():
    def kl_divergence(p, q):
        return (torch.special.xlogy(q, q) - torch.special.xlogy(q, p)).sum(-1)


@mistake("kl_divergence", "the arguments of the cross-entropy are swapped")
def cross_entropy_swapped():
    def cross_entropy(p, q):
        return -torch.special.xlogy(q, p).sum(-1)


@mistake("kl_divergence", "the sign of the divergence is lost")
def kl_negative():
    def kl_divergence(p, q):
        return (torch.special.xlogy(p, q) - torch.special.xlogy(p, p)).sum(-1)


@mistake("kl_divergence", "the sign of the cross-entropy is lost")
def cross_entropy_negative():
    def cross_entropy(p, q):
        return torch.special.xlogy(p, q).sum(-1)


@mistake("kl_divergence", "the cross-entropy returns the divergence")
def cross_entropy_is_kl():
    def cross_entropy(p, q):
        return (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum(-1)


@mistake("kl_divergence", "the divergence returns the cross-entropy")
def kl_is_cross_entropy():
    def kl_divergence(p, q):
        return -torch.special.xlogy(p, q).sum(-1)


@mistake("kl_divergence", "the logarithm of p stands without its weight")
def kl_log_of_p_unweighted():
    def kl_divergence(p, q):
        return (p.clamp(min=1e-300).log() - torch.special.xlogy(p, q)).sum(-1)


@mistake("kl_divergence", "0 log 0 is NaN in the divergence")
def kl_nan_at_zero():
    def kl_divergence(p, q):
        return (p * (p / q).log()).sum(-1)


@mistake("kl_divergence", "0 log 0 is NaN in the cross-entropy")
def cross_entropy_nan_at_zero():
    def cross_entropy(p, q):
        return -(p * q.log()).sum(-1)


@mistake("kl_divergence", "NaN where p and q are zero together: only p = 0 with q > 0 is thought of")
def kl_nan_at_double_zero():
    def kl_divergence(p, q):
        return torch.special.xlogy(p, p / q).sum(-1)


@mistake("kl_divergence", "a small number is added, so that nothing is infinite")
def kl_epsilon():
    def kl_divergence(p, q):
        return (p * ((p + 1e-8) / (q + 1e-8)).log()).sum(-1)

    def cross_entropy(p, q):
        return -(p * (q + 1e-8).log()).sum(-1)


@mistake("kl_divergence", "outcomes with q = 0 are dropped, so that nothing is infinite")
def kl_drops_impossible():
    def kl_divergence(p, q):
        return torch.where((p > 0) & (q > 0), torch.special.xlogy(p, p) - torch.special.xlogy(p, q), 0.0).sum(-1)


@mistake("kl_divergence", "infinities are replaced by large numbers")
def kl_nan_to_num():
    def kl_divergence(p, q):
        return torch.nan_to_num(p * (p.log() - q.log())).sum(-1)


@mistake("kl_divergence", "the mean over the outcomes in place of their sum")
def kl_mean():
    def kl_divergence(p, q):
        return (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).mean(-1)

    def cross_entropy(p, q):
        return -torch.special.xlogy(p, q).mean(-1)


@mistake("kl_divergence", "bits for nats")
def kl_bits():
    def kl_divergence(p, q):
        return (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum(-1) / math.log(2)

    def cross_entropy(p, q):
        return -torch.special.xlogy(p, q).sum(-1) / math.log(2)


@mistake("kl_divergence", "one number for the whole batch")
def kl_of_everything():
    def kl_divergence(p, q):
        return (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum()

    def cross_entropy(p, q):
        return -torch.special.xlogy(p, q).sum()


@mistake("kl_divergence", "torch.nn.functional.kl_div with its arguments in the order of the formula")
def kl_div_order():
    def kl_divergence(p, q):
        return torch.nn.functional.kl_div(p.log(), q, reduction="none").sum(-1)


@mistake("kl_divergence", "torch's cross_entropy, which takes logits")
def cross_entropy_of_logits():
    def cross_entropy(p, q):
        return -(p * torch.log_softmax(q, -1)).sum(-1)


@mistake("kl_divergence", "the absolute value of each term")
def kl_abs():
    def kl_divergence(p, q):
        return (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).abs().sum(-1)


@mistake("kl_divergence", "the gradient is cut")
def kl_detached():
    def kl_divergence(p, q):
        return (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum(-1).detach()


@mistake("kl_divergence", "the zeros that stand in for 0 log 0 are on the CPU")
def kl_zeros_on_cpu():
    def kl_divergence(p, q):
        nothing = torch.zeros(p.shape[-1], dtype=p.dtype)
        return torch.where(p > 0, p * (p / q).log(), nothing).sum(-1)


@alternative("kl_divergence", "cross-entropy without entropy, selected by a mask")
def kl_by_difference():
    def cross_entropy(p, q):
        terms = torch.where(p > 0, -p * torch.log(q), torch.zeros_like(p))
        return terms.sum(dim=-1)

    def kl_divergence(p, q):
        return cross_entropy(p, q) - cross_entropy(p, p)


@alternative("kl_divergence", "torch.nn.functional.kl_div, arguments the other way round")
def kl_functional():
    def kl_divergence(p, q):
        return torch.nn.functional.kl_div(q.log(), p, reduction="none").nansum(-1)

    def cross_entropy(p, q):
        return kl_divergence(p, q) + torch.special.entr(p).sum(-1)


@alternative("kl_divergence", "the quotient under the logarithm, and never below zero")
def kl_quotient():
    def cross_entropy(p, q):
        return torch.where(p > 0, p * (1 / q).log(), 0.0).sum(-1)

    def kl_divergence(p, q):
        return torch.where(p > 0, p * (p / q).log(), 0.0).sum(-1).clamp(min=0)


@alternative("kl_divergence", "a loop over the outcomes, in float64")
def kl_loop():
    def cross_entropy(p, q):
        total = 0.0
        for world, belief in zip(p.double().unbind(-1), q.double().unbind(-1), strict=True):
            total = total + torch.where(world == 0, torch.zeros_like(world), -world * belief.log())
        return total.to(p.dtype)

    def kl_divergence(p, q):
        total = 0.0
        for world, belief in zip(p.double().unbind(-1), q.double().unbind(-1), strict=True):
            total = total + torch.where(world == 0, torch.zeros_like(world), world * (world.log() - belief.log()))
        return total.to(p.dtype)


# --- gaussian_kl -------------------------------------------------------------------------------------------------


@mistake("gaussian_kl", "the arguments are swapped")
def gaussian_kl_swapped():
    def gaussian_kl(mu_p, sigma_p, mu_q, sigma_q):
        if (sigma_p <= 0).any() or (sigma_q <= 0).any():
            raise ValueError("sigma must be positive")
        return (sigma_p / sigma_q).log() + (sigma_q**2 + (mu_p - mu_q) ** 2) / (2 * sigma_p**2) - 0.5


@mistake("gaussian_kl", "sigma for sigma squared")
def gaussian_kl_sigma():
    def gaussian_kl(mu_p, sigma_p, mu_q, sigma_q):
        if (sigma_p <= 0).any() or (sigma_q <= 0).any():
            raise ValueError("sigma must be positive")
        return 0.5 * (sigma_q / sigma_p).log() + (sigma_p + (mu_p - mu_q) ** 2) / (2 * sigma_q) - 0.5


@mistake("gaussian_kl", "the logarithm of the ratio is inverted")
def gaussian_kl_log_inverted():
    def gaussian_kl(mu_p, sigma_p, mu_q, sigma_q):
        if (sigma_p <= 0).any() or (sigma_q <= 0).any():
            raise ValueError("sigma must be positive")
        return (sigma_p / sigma_q).log() + (sigma_p**2 + (mu_p - mu_q) ** 2) / (2 * sigma_q**2) - 0.5


@mistake("gaussian_kl", "the sign is lost")
def gaussian_kl_negative():
    def gaussian_kl(mu_p, sigma_p, mu_q, sigma_q):
        if (sigma_p <= 0).any() or (sigma_q <= 0).any():
            raise ValueError("sigma must be positive")
        return (sigma_p / sigma_q).log() - (sigma_p**2 + (mu_p - mu_q) ** 2) / (2 * sigma_q**2) + 0.5


@mistake("gaussian_kl", "-1/2 is missing, so that the divergence of equals is not zero")
def gaussian_kl_without_half():
    def gaussian_kl(mu_p, sigma_p, mu_q, sigma_q):
        if (sigma_p <= 0).any() or (sigma_q <= 0).any():
            raise ValueError("sigma must be positive")
        return (sigma_q / sigma_p).log() + (sigma_p**2 + (mu_p - mu_q) ** 2) / (2 * sigma_q**2)


@mistake("gaussian_kl", "the factor 2 under the fraction is missing")
def gaussian_kl_without_two():
    def gaussian_kl(mu_p, sigma_p, mu_q, sigma_q):
        if (sigma_p <= 0).any() or (sigma_q <= 0).any():
            raise ValueError("sigma must be positive")
        return (sigma_q / sigma_p).log() + (sigma_p**2 + (mu_p - mu_q) ** 2) / sigma_q**2 - 0.5


@mistake("gaussian_kl", "the distance of the means is not squared")
def gaussian_kl_distance():
    def gaussian_kl(mu_p, sigma_p, mu_q, sigma_q):
        if (sigma_p <= 0).any() or (sigma_q <= 0).any():
            raise ValueError("sigma must be positive")
        return (sigma_q / sigma_p).log() + (sigma_p**2 + (mu_p - mu_q).abs()) / (2 * sigma_q**2) - 0.5


@mistake("gaussian_kl", "the distance of the means is not divided by the variance")
def gaussian_kl_distance_undivided():
    def gaussian_kl(mu_p, sigma_p, mu_q, sigma_q):
        if (sigma_p <= 0).any() or (sigma_q <= 0).any():
            raise ValueError("sigma must be positive")
        return (sigma_q / sigma_p).log() + sigma_p**2 / (2 * sigma_q**2) + (mu_p - mu_q) ** 2 / 2 - 0.5


@mistake("gaussian_kl", "q is always the standard normal density, as in a VAE")
def gaussian_kl_standard():
    def gaussian_kl(mu_p, sigma_p, mu_q, sigma_q):
        if (sigma_p <= 0).any() or (sigma_q <= 0).any():
            raise ValueError("sigma must be positive")
        return 0.5 * (sigma_p**2 + mu_p**2 - 1) - sigma_p.log() + 0 * (mu_q + sigma_q)


@mistake("gaussian_kl", "bits for nats, in the logarithm alone")
def gaussian_kl_log2():
    def gaussian_kl(mu_p, sigma_p, mu_q, sigma_q):
        if (sigma_p <= 0).any() or (sigma_q <= 0).any():
            raise ValueError("sigma must be positive")
        return (sigma_q / sigma_p).log2() + (sigma_p**2 + (mu_p - mu_q) ** 2) / (2 * sigma_q**2) - 0.5


@mistake("gaussian_kl", "summed over the last axis")
def gaussian_kl_summed():
    def gaussian_kl(mu_p, sigma_p, mu_q, sigma_q):
        if (sigma_p <= 0).any() or (sigma_q <= 0).any():
            raise ValueError("sigma must be positive")
        return ((sigma_q / sigma_p).log() + (sigma_p**2 + (mu_p - mu_q) ** 2) / (2 * sigma_q**2) - 0.5).sum(-1)


@mistake("gaussian_kl", "averaged over the batch")
def gaussian_kl_averaged():
    def gaussian_kl(mu_p, sigma_p, mu_q, sigma_q):
        if (sigma_p <= 0).any() or (sigma_q <= 0).any():
            raise ValueError("sigma must be positive")
        return ((sigma_q / sigma_p).log() + (sigma_p**2 + (mu_p - mu_q) ** 2) / (2 * sigma_q**2) - 0.5).mean()


@mistake("gaussian_kl", "only the width of p is examined")
def gaussian_kl_half_checked():
    def gaussian_kl(mu_p, sigma_p, mu_q, sigma_q):
        if (sigma_p <= 0).any():
            raise ValueError("sigma must be positive")
        return (sigma_q / sigma_p).log() + (sigma_p**2 + (mu_p - mu_q) ** 2) / (2 * sigma_q**2) - 0.5


@mistake("gaussian_kl", "the gradient of p is cut")
def gaussian_kl_detached():
    def gaussian_kl(mu_p, sigma_p, mu_q, sigma_q):
        if (sigma_p <= 0).any() or (sigma_q <= 0).any():
            raise ValueError("sigma must be positive")
        mu_p, sigma_p = mu_p.detach(), sigma_p.detach()
        return (sigma_q / sigma_p).log() + (sigma_p**2 + (mu_p - mu_q) ** 2) / (2 * sigma_q**2) - 0.5


@mistake("gaussian_kl", "the result is written into a tensor on the CPU")
def gaussian_kl_on_cpu():
    def gaussian_kl(mu_p, sigma_p, mu_q, sigma_q):
        if (sigma_p <= 0).any() or (sigma_q <= 0).any():
            raise ValueError("sigma must be positive")
        arguments = (mu_p, sigma_p, mu_q, sigma_q)
        result = torch.zeros(torch.broadcast_shapes(*(a.shape for a in arguments)), dtype=mu_p.dtype)
        result[...] = (sigma_q / sigma_p).log() + (sigma_p**2 + (mu_p - mu_q) ** 2) / (2 * sigma_q**2) - 0.5
        return result


@alternative("gaussian_kl", "torch.distributions")
def gaussian_kl_distributions():
    def gaussian_kl(mu_p, sigma_p, mu_q, sigma_q):
        normal = torch.distributions.Normal
        p, q = normal(mu_p, sigma_p, validate_args=True), normal(mu_q, sigma_q, validate_args=True)
        return torch.distributions.kl_divergence(p, q)


@alternative("gaussian_kl", "the formula as it stands")
def gaussian_kl_formula():
    def gaussian_kl(mu_p, sigma_p, mu_q, sigma_q):
        if not (bool((sigma_p > 0).all()) and bool((sigma_q > 0).all())):
            raise ValueError("every standard deviation must be positive")
        return torch.log(sigma_q / sigma_p) + (sigma_p**2 + (mu_p - mu_q) ** 2) / (2 * sigma_q**2) - 1 / 2


@alternative("gaussian_kl", "by the variances and log variances")
def gaussian_kl_log_variances():
    def gaussian_kl(mu_p, sigma_p, mu_q, sigma_q):
        for sigma in (sigma_p, sigma_q):
            if torch.any(sigma <= 0):
                raise ValueError("a variance must be positive")
        variance_p, variance_q = sigma_p.square(), sigma_q.square()
        quadratic = (variance_p + (mu_q - mu_p).square()) / variance_q
        return (variance_q.log() - variance_p.log() + quadratic - 1) / 2


@alternative("gaussian_kl", "broadcast first, then in place on new tensors, in float64")
def gaussian_kl_in_place():
    def gaussian_kl(mu_p, sigma_p, mu_q, sigma_q):
        if min(sigma_p.min().item(), sigma_q.min().item()) <= 0:
            raise ValueError("a width must be positive")
        dtype = mu_p.dtype
        mu_p, sigma_p, mu_q, sigma_q = torch.broadcast_tensors(*(x.double() for x in (mu_p, sigma_p, mu_q, sigma_q)))
        result = (mu_p - mu_q) / sigma_q
        result = result**2
        result += (sigma_p / sigma_q) ** 2
        result -= 1
        result /= 2
        result -= torch.log(sigma_p)
        result += torch.log(sigma_q)
        return result.to(dtype)


# --- monte_carlo_kl ----------------------------------------------------------------------------------------------


@mistake("monte_carlo_kl", "the log ratio is turned round")
def monte_carlo_swapped():
    def monte_carlo_kl(sample, log_p, log_q, n, generator):
        if n < 2:
            raise ValueError("too few points")
        x = sample(n, generator)
        r = log_q(x) - log_p(x)
        return r.mean(), r.std() / math.sqrt(n)


@mistake("monte_carlo_kl", "the sum in place of the mean")
def monte_carlo_sum():
    def monte_carlo_kl(sample, log_p, log_q, n, generator):
        if n < 2:
            raise ValueError("too few points")
        x = sample(n, generator)
        r = log_p(x) - log_q(x)
        return r.sum(), r.std() * math.sqrt(n)


@mistake("monte_carlo_kl", "the log ratio is weighed by p although the points come from p")
def monte_carlo_weighed_twice():
    def monte_carlo_kl(sample, log_p, log_q, n, generator):
        if n < 2:
            raise ValueError("too few points")
        x = sample(n, generator)
        r = log_p(x).exp() * (log_p(x) - log_q(x))
        return r.mean(), r.std() / math.sqrt(n)


@mistake("monte_carlo_kl", "the standard deviation is given, not that of the mean")
def monte_carlo_no_root():
    def monte_carlo_kl(sample, log_p, log_q, n, generator):
        if n < 2:
            raise ValueError("too few points")
        x = sample(n, generator)
        r = log_p(x) - log_q(x)
        return r.mean(), r.std()


@mistake("monte_carlo_kl", "divided by n, not by its root")
def monte_carlo_divided_by_n():
    def monte_carlo_kl(sample, log_p, log_q, n, generator):
        if n < 2:
            raise ValueError("too few points")
        x = sample(n, generator)
        r = log_p(x) - log_q(x)
        return r.mean(), r.std() / n


@mistake("monte_carlo_kl", "the variance for the standard deviation")
def monte_carlo_variance():
    def monte_carlo_kl(sample, log_p, log_q, n, generator):
        if n < 2:
            raise ValueError("too few points")
        x = sample(n, generator)
        r = log_p(x) - log_q(x)
        return r.mean(), r.var() / math.sqrt(n)


@mistake("monte_carlo_kl", "the deviation has divisor n")
def monte_carlo_biased():
    def monte_carlo_kl(sample, log_p, log_q, n, generator):
        if n < 2:
            raise ValueError("too few points")
        x = sample(n, generator)
        r = log_p(x) - log_q(x)
        return r.mean(), r.std(correction=0) / math.sqrt(n)


@mistake("monte_carlo_kl", "bits for nats")
def monte_carlo_bits():
    def monte_carlo_kl(sample, log_p, log_q, n, generator):
        if n < 2:
            raise ValueError("too few points")
        x = sample(n, generator)
        r = (log_p(x) - log_q(x)) / math.log(2)
        return r.mean(), r.std() / math.sqrt(n)


@mistake("monte_carlo_kl", "the given generator is ignored")
def monte_carlo_own_generator():
    def monte_carlo_kl(sample, log_p, log_q, n, generator):
        if n < 2:
            raise ValueError("too few points")
        x = sample(n, torch.Generator().manual_seed(0))
        r = log_p(x) - log_q(x)
        return r.mean(), r.std() / math.sqrt(n)


@mistake("monte_carlo_kl", "the second term gets new points")
def monte_carlo_two_draws():
    def monte_carlo_kl(sample, log_p, log_q, n, generator):
        if n < 2:
            raise ValueError("too few points")
        ln_p, ln_q = log_p(sample(n, generator)), log_q(sample(n, generator))
        return ln_p.mean() - ln_q.mean(), (ln_p - ln_q).std() / math.sqrt(n)


@mistake("monte_carlo_kl", "the generator is seeded anew")
def monte_carlo_reseeds():
    def monte_carlo_kl(sample, log_p, log_q, n, generator):
        if n < 2:
            raise ValueError("too few points")
        x = sample(n, generator.manual_seed(42))
        r = log_p(x) - log_q(x)
        return r.mean(), r.std() / math.sqrt(n)


@mistake("monte_carlo_kl", "out of the logarithm and back, where the densities underflow")
def monte_carlo_leaves_logs():
    def monte_carlo_kl(sample, log_p, log_q, n, generator):
        if n < 2:
            raise ValueError("too few points")
        x = sample(n, generator)
        r = (log_p(x).exp() / log_q(x).exp()).log()
        return r.mean(), r.std() / math.sqrt(n)


@mistake("monte_carlo_kl", "divided by the number of coordinates, not of points")
def monte_carlo_numel():
    def monte_carlo_kl(sample, log_p, log_q, n, generator):
        if n < 2:
            raise ValueError("too few points")
        x = sample(n, generator)
        r = log_p(x) - log_q(x)
        return r.sum() / x.numel(), r.std() / math.sqrt(x.numel())


@mistake("monte_carlo_kl", "the low-variance estimator exp(-r) - 1 + r: right on average, another number")
def monte_carlo_other_estimator():
    def monte_carlo_kl(sample, log_p, log_q, n, generator):
        if n < 2:
            raise ValueError("too few points")
        x = sample(n, generator)
        r = log_p(x) - log_q(x)
        r = torch.expm1(-r) + r
        return r.mean(), r.std() / math.sqrt(n)


@mistake("monte_carlo_kl", "points that q calls impossible are dropped")
def monte_carlo_drops_infinite():
    def monte_carlo_kl(sample, log_p, log_q, n, generator):
        if n < 2:
            raise ValueError("too few points")
        x = sample(n, generator)
        r = log_p(x) - log_q(x)
        r = r[torch.isfinite(r)]
        return r.mean(), r.std() / math.sqrt(len(r))


@mistake("monte_carlo_kl", "the absolute value of each log ratio, because a divergence is not negative")
def monte_carlo_abs():
    def monte_carlo_kl(sample, log_p, log_q, n, generator):
        if n < 2:
            raise ValueError("too few points")
        x = sample(n, generator)
        r = (log_p(x) - log_q(x)).abs()
        return r.mean(), r.std() / math.sqrt(n)


@mistake("monte_carlo_kl", "half a 95% interval for the standard error")
def monte_carlo_interval():
    def monte_carlo_kl(sample, log_p, log_q, n, generator):
        if n < 2:
            raise ValueError("too few points")
        x = sample(n, generator)
        r = log_p(x) - log_q(x)
        return r.mean(), 1.96 * r.std() / math.sqrt(n)


@mistake("monte_carlo_kl", "a single point is let through")
def monte_carlo_unchecked():
    def monte_carlo_kl(sample, log_p, log_q, n, generator):
        x = sample(n, generator)
        r = log_p(x) - log_q(x)
        return r.mean(), r.std() / math.sqrt(n)


@mistake("monte_carlo_kl", "estimate and error are new tensors on the CPU")
def monte_carlo_on_cpu():
    def monte_carlo_kl(sample, log_p, log_q, n, generator):
        if n < 2:
            raise ValueError("need two points")
        points = sample(n, generator)
        ratios = log_p(points) - log_q(points)
        estimate, error = ratios.mean().item(), ratios.std().item() / math.sqrt(n)
        return torch.tensor(estimate, dtype=ratios.dtype), torch.tensor(error, dtype=ratios.dtype)


@alternative("monte_carlo_kl", "the variance of the mean by einsum")
def monte_carlo_einsum():
    def monte_carlo_kl(sample, log_p, log_q, n, generator):
        if not n >= 2:
            raise ValueError("need two points")
        points = sample(n, generator)
        ratios = torch.sub(log_p(points), log_q(points))
        mean = ratios.sum() / n
        gaps = ratios - mean
        return mean, torch.sqrt(torch.einsum("i,i->", gaps, gaps) / (n * (n - 1)))


@alternative("monte_carlo_kl", "Python numbers in two loops, then tensors")
def monte_carlo_loops():
    def monte_carlo_kl(sample, log_p, log_q, n, generator):
        if n <= 1:
            raise ValueError("need two points")
        points = sample(n, generator)
        ratios = log_p(points) - log_q(points)
        values = ratios.double().tolist()
        mean = sum(values) / n
        error = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n)
        return ratios.new_tensor(mean), ratios.new_tensor(error)


@alternative("monte_carlo_kl", "the means of the two terms apart, a list for a tuple")
def monte_carlo_two_means():
    def monte_carlo_kl(sample, log_p, log_q, n, generator):
        if n < 2:
            raise ValueError("need two points")
        points = sample(n, generator)
        ln_p, ln_q = log_p(points), log_q(points)
        error = (torch.var(ln_p - ln_q, dim=0, unbiased=True) / n).sqrt()
        return [ln_p.mean() - ln_q.mean(), error]


# --- jensen_shannon ----------------------------------------------------------------------------------------------


@mistake("jensen_shannon", "the square root: the distance, as scipy has it")
def js_root():
    def jensen_shannon(p, q):
        m = (p + q) / 2
        xlogy = torch.special.xlogy
        return ((xlogy(p, p) + xlogy(q, q) - 2 * xlogy(m, m)).sum(-1) / 2).clamp(min=0).sqrt()


@mistake("jensen_shannon", "without the mixture: the average of the two divergences")
def js_without_mixture():
    def jensen_shannon(p, q):
        xlogy = torch.special.xlogy
        return (xlogy(p, p) - xlogy(p, q) + xlogy(q, q) - xlogy(q, p)).sum(-1) / 2


@mistake("jensen_shannon", "the mixture is not halved")
def js_mixture_is_sum():
    def jensen_shannon(p, q):
        m = p + q
        xlogy = torch.special.xlogy
        return (xlogy(p, p) - xlogy(p, m) + xlogy(q, q) - xlogy(q, m)).sum(-1) / 2


@mistake("jensen_shannon", "the two halves are forgotten")
def js_without_halves():
    def jensen_shannon(p, q):
        m = (p + q) / 2
        xlogy = torch.special.xlogy
        return (xlogy(p, p) + xlogy(q, q) - 2 * xlogy(m, m)).sum(-1)


@mistake("jensen_shannon", "the divergence of p from the mixture alone")
def js_one_side():
    def jensen_shannon(p, q):
        m = (p + q) / 2
        return (torch.special.xlogy(p, p) - torch.special.xlogy(p, m)).sum(-1)


@mistake("jensen_shannon", "the divergences run from the mixture to p and q")
def js_reversed():
    def jensen_shannon(p, q):
        m = (p + q) / 2
        xlogy = torch.special.xlogy
        return (2 * xlogy(m, m) - xlogy(m, p) - xlogy(m, q)).sum(-1) / 2


@mistake("jensen_shannon", "the geometric mean for the mixture")
def js_geometric():
    def jensen_shannon(p, q):
        m = (p * q).sqrt()
        m = m / m.sum(-1, keepdim=True)
        xlogy = torch.special.xlogy
        return (xlogy(p, p) - xlogy(p, m) + xlogy(q, q) - xlogy(q, m)).sum(-1) / 2


@mistake("jensen_shannon", "bits for nats")
def js_bits():
    def jensen_shannon(p, q):
        m = (p + q) / 2
        xlogy = torch.special.xlogy
        return (xlogy(p, p) + xlogy(q, q) - 2 * xlogy(m, m)).sum(-1) / (2 * math.log(2))


@mistake("jensen_shannon", "the sign is lost")
def js_negative():
    def jensen_shannon(p, q):
        m = (p + q) / 2
        xlogy = torch.special.xlogy
        return (2 * xlogy(m, m) - xlogy(p, p) - xlogy(q, q)).sum(-1) / 2


@mistake("jensen_shannon", "0 log 0 is NaN")
def js_nan_at_zero():
    def jensen_shannon(p, q):
        m = (p + q) / 2
        return 0.5 * (p * (p / m).log() + q * (q / m).log()).sum(-1)


@mistake("jensen_shannon", "NaN where p and q are zero together")
def js_nan_at_double_zero():
    def jensen_shannon(p, q):
        m = (p + q) / 2
        return 0.5 * (torch.special.xlogy(p, p / m) + torch.special.xlogy(q, q / m)).sum(-1)


@mistake("jensen_shannon", "the mean over the outcomes in place of their sum")
def js_mean():
    def jensen_shannon(p, q):
        m = (p + q) / 2
        xlogy = torch.special.xlogy
        return (xlogy(p, p) + xlogy(q, q) - 2 * xlogy(m, m)).mean(-1) / 2


@mistake("jensen_shannon", "one number for the whole batch")
def js_of_everything():
    def jensen_shannon(p, q):
        m = (p + q) / 2
        xlogy = torch.special.xlogy
        return (xlogy(p, p) + xlogy(q, q) - 2 * xlogy(m, m)).sum() / 2


@mistake("jensen_shannon", "the mixture is made inside p")
def js_overwrites():
    def jensen_shannon(p, q):
        xlogy = torch.special.xlogy
        own = xlogy(p, p) + xlogy(q, q)
        p += q
        p /= 2
        return (own - 2 * xlogy(p, p)).sum(-1) / 2


@mistake("jensen_shannon", "small divergences are rounded to zero")
def js_rounded():
    def jensen_shannon(p, q):
        m = (p + q) / 2
        xlogy = torch.special.xlogy
        value = (xlogy(p, p) + xlogy(q, q) - 2 * xlogy(m, m)).sum(-1) / 2
        return torch.where(value < 1e-4, torch.zeros_like(value), value)


@mistake("jensen_shannon", "the weights of the mixture are on the CPU")
def js_weights_on_cpu():
    def jensen_shannon(p, q):
        halves = torch.tensor([0.5, 0.5], dtype=p.dtype)
        m = torch.stack([p, q], dim=-1) @ halves
        xlogy = torch.special.xlogy
        return ((xlogy(p, p) + xlogy(q, q)) / 2 - xlogy(m, m)).sum(-1)


@alternative("jensen_shannon", "two divergences from the mixture, zeros masked")
def js_two_divergences():
    def jensen_shannon(p, q):
        m = 0.5 * p + 0.5 * q

        def from_mixture(r):
            safe = torch.where(r > 0, r / m, torch.ones_like(r))
            return torch.einsum("...i,...i->...", r, safe.log())

        return 0.5 * from_mixture(p) + 0.5 * from_mixture(q)


@alternative("jensen_shannon", "by the divergence of task 4, kept in its range")
def js_by_kl_divergence():
    def jensen_shannon(p, q):
        m = (p + q) / 2
        return ((kl_divergence(p, m) + kl_divergence(q, m)) / 2).clamp(0, math.log(2))


@alternative("jensen_shannon", "scipy's distance, squared")
def js_scipy():
    def jensen_shannon(p, q):
        from scipy.spatial import distance

        root = distance.jensenshannon(p.cpu().double().numpy(), q.cpu().double().numpy(), axis=-1)
        return torch.as_tensor(root**2).to(p)


@alternative("jensen_shannon", "entropy of the mixture minus the mean entropy")
def js_entropies():
    def jensen_shannon(p, q):
        entr = torch.special.entr
        return entr(torch.lerp(p, q, 0.5)).sum(-1) - torch.stack([entr(p).sum(-1), entr(q).sum(-1)]).mean(0)


# --- conditional_entropy and mutual_information ------------------------------------------------------------------


@mistake("conditional_entropy", "H(X | Y) for H(Y | X)")
def conditional_on_y():
    def conditional_entropy(joint):
        xlogy = torch.special.xlogy
        y = joint.sum(-2)
        return xlogy(y, y).sum(-1) - xlogy(joint, joint).sum((-2, -1))


@mistake("conditional_entropy", "the joint entropy")
def conditional_is_joint():
    def conditional_entropy(joint):
        return -torch.special.xlogy(joint, joint).sum((-2, -1))


@mistake("conditional_entropy", "the marginal entropy of Y")
def conditional_is_marginal():
    def conditional_entropy(joint):
        y = joint.sum(-2)
        return -torch.special.xlogy(y, y).sum(-1)


@mistake("conditional_entropy", "the rows' entropies are averaged without their probabilities")
def conditional_unweighted():
    def conditional_entropy(joint):
        rows = torch.nan_to_num(joint / joint.sum(-1, keepdim=True))
        return torch.special.entr(rows).sum(-1).mean(-1)


@mistake("conditional_entropy", "each row's entropy is weighed by p(y | x) once more")
def conditional_weighed_by_conditional():
    def conditional_entropy(joint):
        rows = torch.nan_to_num(joint / joint.sum(-1, keepdim=True))
        return -torch.special.xlogy(rows, rows).sum((-2, -1))


@mistake("conditional_entropy", "the rows are not normalised: -sum of p(x) p(x, y) ln p(x, y)")
def conditional_rows_not_normalised():
    def conditional_entropy(joint):
        return (joint.sum(-1) * torch.special.entr(joint).sum(-1)).sum(-1)


@mistake("conditional_entropy", "a row of zeros gives 0/0, NaN")
def conditional_nan_row():
    def conditional_entropy(joint):
        return -torch.special.xlogy(joint, joint / joint.sum(-1, keepdim=True)).sum((-2, -1))


@mistake("conditional_entropy", "0 log 0 is NaN in the conditional entropy")
def conditional_nan_cell():
    def conditional_entropy(joint):
        x = joint.sum(-1)
        return (x * x.log()).sum(-1) - (joint * joint.log()).sum((-2, -1))


@mistake("conditional_entropy", "the sign of the conditional entropy is lost")
def conditional_negative():
    def conditional_entropy(joint):
        xlogy = torch.special.xlogy
        x = joint.sum(-1)
        return xlogy(joint, joint).sum((-2, -1)) - xlogy(x, x).sum(-1)


@mistake("conditional_entropy", "the sign of the information is lost")
def information_negative():
    def mutual_information(joint):
        xlogy = torch.special.xlogy
        x, y = joint.sum(-1), joint.sum(-2)
        return xlogy(x, x).sum(-1) + xlogy(y, y).sum(-1) - xlogy(joint, joint).sum((-2, -1))


@mistake("conditional_entropy", "bits for nats")
def conditional_bits():
    def conditional_entropy(joint):
        xlogy = torch.special.xlogy
        x = joint.sum(-1)
        return (xlogy(x, x).sum(-1) - xlogy(joint, joint).sum((-2, -1))) / math.log(2)

    def mutual_information(joint):
        xlogy = torch.special.xlogy
        x, y = joint.sum(-1), joint.sum(-2)
        return (xlogy(joint, joint).sum((-2, -1)) - xlogy(x, x).sum(-1) - xlogy(y, y).sum(-1)) / math.log(2)


@mistake("conditional_entropy", "the information of independence in the joint: the divergence is turned round")
def information_reversed():
    def mutual_information(joint):
        product = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
        return (torch.special.xlogy(product, product) - torch.special.xlogy(product, joint)).sum((-2, -1))


@mistake("conditional_entropy", "H(X) - H(Y | X): the marginal of the wrong variable")
def information_wrong_marginal():
    def mutual_information(joint):
        x = joint.sum(-1)
        entr = torch.special.entr
        return 2 * entr(x).sum(-1) - entr(joint).sum((-2, -1))


@mistake("conditional_entropy", "the mean over the cells in place of their sum")
def information_mean():
    def mutual_information(joint):
        product = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
        return (torch.special.xlogy(joint, joint) - torch.special.xlogy(joint, product)).mean((-2, -1))


@mistake("conditional_entropy", "the mean over x in place of the sum")
def conditional_mean():
    def conditional_entropy(joint):
        xlogy = torch.special.xlogy
        x = joint.sum(-1)
        return xlogy(x, x).mean(-1) - xlogy(joint, joint).mean((-2, -1))


@mistake("conditional_entropy", "0 log 0 is NaN in the information")
def information_nan():
    def mutual_information(joint):
        product = joint.sum(-1, keepdim=True) * joint.sum(-2, keepdim=True)
        return (joint * (joint / product).log()).sum((-2, -1))


@mistake("conditional_entropy", "normalised by the smaller entropy")
def information_normalised():
    def mutual_information(joint):
        entr = torch.special.entr
        x, y = entr(joint.sum(-1)).sum(-1), entr(joint.sum(-2)).sum(-1)
        return (x + y - entr(joint).sum((-2, -1))) / torch.minimum(x, y)


@mistake("conditional_entropy", "axes counted from the front: a batch is taken for X")
def conditional_axes_from_front():
    def conditional_entropy(joint):
        xlogy = torch.special.xlogy
        x = joint.sum(1)
        return xlogy(x, x).sum() - xlogy(joint, joint).sum()

    def mutual_information(joint):
        xlogy = torch.special.xlogy
        x, y = joint.sum(1), joint.sum(0)
        return xlogy(joint, joint).sum() - xlogy(x, x).sum() - xlogy(y, y).sum()


@mistake("conditional_entropy", "always float64")
def conditional_float64():
    def conditional_entropy(joint):
        xlogy, joint = torch.special.xlogy, joint.double()
        x = joint.sum(-1)
        return xlogy(x, x).sum(-1) - xlogy(joint, joint).sum((-2, -1))


@mistake("conditional_entropy", "the rows are added up by a vector of ones on the CPU")
def conditional_ones_on_cpu():
    def conditional_entropy(joint):
        p_x = joint @ torch.ones(joint.shape[-1], dtype=joint.dtype)
        return torch.special.entr(joint).sum((-2, -1)) - torch.special.entr(p_x).sum(-1)


@alternative("conditional_entropy", "row by row, weighed by the marginal")
def conditional_rows():
    def conditional_entropy(joint):
        total = torch.zeros_like(joint[..., 0, 0])
        for row in joint.unbind(-2):
            weight = row.sum(-1, keepdim=True)
            conditional = torch.where(weight > 0, row / weight, torch.zeros_like(row))
            total = total + weight[..., 0] * torch.special.entr(conditional).sum(-1)
        return total

    def mutual_information(joint):
        y = joint.sum(-2)
        return torch.special.entr(y).sum(-1) - conditional_entropy(joint)


@alternative("conditional_entropy", "einsum, and the divergence from independence")
def conditional_einsum():
    def conditional_entropy(joint):
        x = torch.einsum("...xy->...x", joint)[..., None].expand_as(joint)
        return -(torch.special.xlogy(joint, joint) - torch.special.xlogy(joint, x)).flatten(-2).sum(-1)

    def mutual_information(joint):
        independent = torch.einsum("...xy,...zw->...xw", joint, joint)
        return (torch.special.xlogy(joint, joint) - torch.special.xlogy(joint, independent)).sum((-2, -1))


@alternative("conditional_entropy", "term by term, with the logarithms of the marginals")
def conditional_terms():
    def conditional_entropy(joint):
        xlogy, p_x = torch.special.xlogy, joint.sum(-1, keepdim=True)
        return (xlogy(joint, p_x) - xlogy(joint, joint)).sum((-2, -1))

    def mutual_information(joint):
        xlogy, p_x, p_y = torch.special.xlogy, joint.sum(-1, keepdim=True), joint.sum(-2, keepdim=True)
        return (xlogy(joint, joint) - xlogy(joint, p_x) - xlogy(joint, p_y)).sum((-2, -1))


@alternative("conditional_entropy", "by the entropy of task 1")
def conditional_chain():
    def conditional_entropy(joint):
        return entropy(joint.flatten(-2)) - entropy(joint.sum(-1))

    def mutual_information(joint):
        return entropy(joint.sum(-1)) + entropy(joint.sum(-2)) - entropy(joint.flatten(-2))


@alternative("conditional_entropy", "numpy in float64, and nansum")
def conditional_numpy():
    def conditional_entropy(joint):
        import numpy as np

        table = joint.detach().cpu().double().numpy()
        with np.errstate(all="ignore"):
            value = -np.nansum(table * np.log(table / table.sum(-1, keepdims=True)), axis=(-2, -1))
        return torch.as_tensor(value).to(joint)

    def mutual_information(joint):
        import numpy as np

        table = joint.detach().cpu().double().numpy()
        with np.errstate(all="ignore"):
            ratio = table / (table.sum(-1, keepdims=True) * table.sum(-2, keepdims=True))
            value = np.nansum(table * np.log(ratio), axis=(-2, -1))
        return torch.as_tensor(value).to(joint)
