"""Wrong and other right answers to the assignment on variational autoencoders (see `autograder.variants`)."""
# ruff: noqa: F821 - bodies use what the notebook has: the functions of earlier tasks, and the class they replace

import math

import torch
from torch import nn

from autograder.variants import alternative, mistake

# --- reparameterize ----------------------------------------------------------------------------------------------


@mistake(
    "reparameterize",
    "std = exp(logvar): logvar is taken for the log of the standard deviation",
    also=["VAE", "train_step"],
)
def codes_exp_logvar():
    def reparameterize(mu, logvar, generator):
        noise = torch.randn(mu.shape, generator=generator, dtype=mu.dtype, device=mu.device)
        return mu + logvar.exp() * noise


@mistake("reparameterize", "no gradient through the sample: torch.normal", also=["VAE", "train_step"])
def codes_torch_normal():
    def reparameterize(mu, logvar, generator):
        with torch.no_grad():
            return torch.normal(mu, (logvar / 2).exp(), generator=generator)


@mistake("reparameterize", "the codes are detached", also=["VAE", "train_step"])
def codes_detached():
    def reparameterize(mu, logvar, generator):
        noise = torch.randn(mu.shape, generator=generator, dtype=mu.dtype, device=mu.device)
        return (mu + torch.exp(0.5 * logvar) * noise).detach()


@mistake("reparameterize", "no gradient in logvar", also=["VAE", "train_step"])
def codes_sigma_detached():
    def reparameterize(mu, logvar, generator):
        noise = torch.randn(mu.shape, generator=generator, dtype=mu.dtype, device=mu.device)
        return mu + torch.exp(0.5 * logvar.detach()) * noise


@mistake("reparameterize", "the generator is ignored", also=["VAE", "train_step"])
def codes_global_generator():
    def reparameterize(mu, logvar, generator):
        return mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)


@mistake("reparameterize", "the generator is seeded anew in each call", also=["VAE", "train_step"])
def codes_seeded():
    def reparameterize(mu, logvar, generator):
        generator.manual_seed(0)
        noise = torch.randn(mu.shape, generator=generator, dtype=mu.dtype, device=mu.device)
        return mu + torch.exp(0.5 * logvar) * noise


@mistake("reparameterize", "one noise for the whole batch", also=["VAE", "train_step"])
def codes_one_noise_for_all():
    def reparameterize(mu, logvar, generator):
        noise = torch.randn(mu.shape[-1], generator=generator, dtype=mu.dtype, device=mu.device)
        return mu + torch.exp(0.5 * logvar) * noise


@mistake("reparameterize", "one noise for all entries of a code", also=["VAE", "train_step"])
def codes_one_noise_per_image():
    def reparameterize(mu, logvar, generator):
        noise = torch.randn((*mu.shape[:-1], 1), generator=generator, dtype=mu.dtype, device=mu.device)
        return mu + torch.exp(0.5 * logvar) * noise


@mistake("reparameterize", "uniform noise", also=["VAE", "train_step"])
def codes_uniform():
    def reparameterize(mu, logvar, generator):
        noise = torch.rand(mu.shape, generator=generator, dtype=mu.dtype, device=mu.device)
        return mu + torch.exp(0.5 * logvar) * noise


@mistake("reparameterize", "the variance for the standard deviation is clamped", also=["VAE", "train_step"])
def codes_clamped():
    def reparameterize(mu, logvar, generator):
        noise = torch.randn(mu.shape, generator=generator, dtype=mu.dtype, device=mu.device)
        return mu + torch.exp(0.5 * logvar).clamp(min=1e-3, max=1.0) * noise


@mistake("reparameterize", "the mean is left out", also=["VAE", "train_step"])
def codes_without_mean():
    def reparameterize(mu, logvar, generator):
        noise = torch.randn(mu.shape, generator=generator, dtype=mu.dtype, device=mu.device)
        return torch.exp(0.5 * logvar) * noise + 0 * mu


@mistake("reparameterize", "the mean is changed in place", also=["VAE", "train_step"])
def codes_in_place():
    def reparameterize(mu, logvar, generator):
        noise = torch.randn(mu.shape, generator=generator, dtype=mu.dtype, device=mu.device)
        with torch.no_grad():
            mu += torch.exp(0.5 * logvar) * noise
        return mu


@mistake("reparameterize", "always float32", also=["VAE", "train_step"])
def codes_float32():
    def reparameterize(mu, logvar, generator):
        noise = torch.randn(mu.shape, generator=generator, device=mu.device)
        return mu.float() + torch.exp(0.5 * logvar.float()) * noise


@mistake("reparameterize", "the noise is made on the CPU", also=["VAE", "train_step"])
def codes_on_cpu():
    def reparameterize(mu, logvar, generator):
        noise = torch.randn(mu.shape, generator=generator, dtype=mu.dtype)
        return mu + torch.exp(0.5 * logvar) * noise


@alternative("reparameterize", "normal_ in place on a new tensor, and a square root")
def codes_normal_():
    def reparameterize(mu, logvar, generator):
        return torch.empty_like(mu).normal_(generator=generator).mul(logvar.exp().sqrt()).add(mu)


@alternative("reparameterize", "the quantile function of uniform numbers, in float64")
def codes_icdf():
    def reparameterize(mu, logvar, generator):
        u = torch.rand(mu.shape, generator=generator, dtype=torch.float64, device=mu.device)
        noise = math.sqrt(2) * torch.erfinv(2 * u.clamp(1e-300, 1 - 1e-16) - 1)
        return torch.addcmul(mu, (logvar / 2).exp(), noise.to(mu.dtype))


@alternative("reparameterize", "the last row first: another order of draws")
def codes_backwards():
    def reparameterize(mu, logvar, generator):
        noise = torch.normal(torch.zeros_like(mu.detach()), 1.0, generator=generator)
        return mu + noise.flip(0) * torch.pow(math.e, logvar / 2)


# --- kl_to_standard_normal ---------------------------------------------------------------------------------------


@mistake("kl_to_standard_normal", "averaged over the dimensions", also=["elbo", "train_step"])
def kl_mean():
    def kl_to_standard_normal(mu, logvar):
        return 0.5 * (mu**2 + logvar.exp() - 1 - logvar).mean(-1)


@mistake("kl_to_standard_normal", "summed over the batch too", also=["elbo", "train_step"])
def kl_sum_of_all():
    def kl_to_standard_normal(mu, logvar):
        return 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum()


@mistake("kl_to_standard_normal", "averaged over the batch", also=["elbo", "train_step"])
def kl_batch_mean():
    def kl_to_standard_normal(mu, logvar):
        return 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(-1).mean()


@mistake("kl_to_standard_normal", "the other direction, D(p || q)", also=["elbo", "train_step"])
def kl_reversed():
    def kl_to_standard_normal(mu, logvar):
        return 0.5 * ((1 + mu**2) / logvar.exp() - 1 + logvar).sum(-1)


@mistake("kl_to_standard_normal", "the sign is lost: the formula of K&W as it stands", also=["elbo", "train_step"])
def kl_negative():
    def kl_to_standard_normal(mu, logvar):
        return 0.5 * (1 + logvar - mu**2 - logvar.exp()).sum(-1)


@mistake("kl_to_standard_normal", "the factor 1/2 is lost", also=["elbo", "train_step"])
def kl_without_half():
    def kl_to_standard_normal(mu, logvar):
        return (mu**2 + logvar.exp() - 1 - logvar).sum(-1)


@mistake("kl_to_standard_normal", "logvar is taken for the log of the standard deviation", also=["elbo", "train_step"])
def kl_log_sigma():
    def kl_to_standard_normal(mu, logvar):
        return 0.5 * (mu**2 + (2 * logvar).exp() - 1 - 2 * logvar).sum(-1)


@mistake("kl_to_standard_normal", "sigma for its square", also=["elbo", "train_step"])
def kl_sigma():
    def kl_to_standard_normal(mu, logvar):
        return 0.5 * (mu**2 + (logvar / 2).exp() - 1 - logvar).sum(-1)


@mistake("kl_to_standard_normal", "the mean is not squared", also=["elbo", "train_step"])
def kl_mean_not_squared():
    def kl_to_standard_normal(mu, logvar):
        return 0.5 * (mu.abs() + logvar.exp() - 1 - logvar).sum(-1)


@mistake("kl_to_standard_normal", "the -1 is forgotten", also=["elbo", "train_step"])
def kl_without_one():
    def kl_to_standard_normal(mu, logvar):
        return 0.5 * (mu**2 + logvar.exp() - logvar).sum(-1)


@mistake(
    "kl_to_standard_normal",
    "the sum runs over axis 1, which is the last one only in a table",
    also=["elbo", "train_step"],
)
def kl_axis_one():
    def kl_to_standard_normal(mu, logvar):
        return 0.5 * (mu**2 + logvar.exp() - 1 - logvar).sum(1 if mu.dim() > 1 else 0)


@mistake("kl_to_standard_normal", "a small number is added to the variance", also=["elbo", "train_step"])
def kl_epsilon():
    def kl_to_standard_normal(mu, logvar):
        variance = logvar.exp() + 1e-8
        return 0.5 * (mu**2 + variance - 1 - variance.log()).sum(-1)


@mistake("kl_to_standard_normal", "no gradient", also=["elbo", "train_step"])
def kl_detached():
    def kl_to_standard_normal(mu, logvar):
        return 0.5 * (mu.detach() ** 2 + logvar.detach().exp() - 1 - logvar.detach()).sum(-1)


@mistake("kl_to_standard_normal", "the arguments are changed in place", also=["elbo", "train_step"])
def kl_in_place():
    def kl_to_standard_normal(mu, logvar):
        variance = logvar.exp()
        with torch.no_grad():
            logvar += 1
        return 0.5 * (mu**2 + variance - logvar).sum(-1)


@mistake("kl_to_standard_normal", "always float32", also=["elbo", "train_step"])
def kl_float32():
    def kl_to_standard_normal(mu, logvar):
        return 0.5 * (mu.float() ** 2 + logvar.float().exp() - 1 - logvar.float()).sum(-1)


@mistake("kl_to_standard_normal", "the sum is made on the CPU", also=["elbo", "train_step"])
def kl_on_cpu():
    def kl_to_standard_normal(mu, logvar):
        total = torch.zeros(mu.shape[:-1], dtype=mu.dtype)
        for j in range(mu.shape[-1]):
            total = total + 0.5 * (mu[..., j] ** 2 + logvar[..., j].exp() - 1 - logvar[..., j])
        return total


@alternative("kl_to_standard_normal", "torch.distributions")
def kl_distributions():
    def kl_to_standard_normal(mu, logvar):
        q = torch.distributions.Normal(mu, torch.exp(0.5 * logvar))
        p = torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))
        return torch.distributions.kl_divergence(q, p).sum(dim=-1)


@alternative("kl_to_standard_normal", "a loop over the dimensions, with sigma")
def kl_loop():
    def kl_to_standard_normal(mu, logvar):
        sigma = torch.exp(logvar / 2)
        total = mu.new_zeros(mu.shape[:-1])
        for j in range(mu.shape[-1]):
            total = total + (sigma[..., j] ** 2 + mu[..., j] ** 2 - 1) / 2 - logvar[..., j] / 2
        return total


@alternative("kl_to_standard_normal", "expm1 and an einsum, in float64")
def kl_einsum():
    def kl_to_standard_normal(mu, logvar):
        m, v = mu.double(), logvar.double()
        return (0.5 * (torch.einsum("...j,...j->...", m, m) + (v.expm1() - v).sum(-1))).to(mu.dtype)


# --- bernoulli_log_likelihood and gaussian_log_likelihood --------------------------------------------------------


@mistake("reconstruction_log_likelihood", "averaged over the pixels", also=["train_step"])
def likelihood_mean():
    def bernoulli_log_likelihood(x, logits):
        if x.shape != logits.shape:
            raise ValueError("shapes differ")
        return (x * logits - nn.functional.softplus(logits)).mean(-1)


@mistake("reconstruction_log_likelihood", "the normal density is averaged over the pixels")
def likelihood_gaussian_mean():
    def gaussian_log_likelihood(x, mean, sigma):
        if x.shape != mean.shape or sigma <= 0:
            raise ValueError("shapes differ or sigma is not positive")
        return -(0.5 * ((x - mean) / sigma) ** 2 + math.log(sigma) + 0.5 * math.log(2 * math.pi)).mean(-1)


@mistake("reconstruction_log_likelihood", "sigmoid twice", also=["train_step"])
def likelihood_sigmoid_twice():
    def bernoulli_log_likelihood(x, logits):
        if x.shape != logits.shape:
            raise ValueError("shapes differ")
        p = torch.sigmoid(logits)
        return -nn.functional.binary_cross_entropy_with_logits(p, x, reduction="none").sum(-1)


@mistake("reconstruction_log_likelihood", "the loss and not its negative", also=["train_step"])
def likelihood_sign():
    def bernoulli_log_likelihood(x, logits):
        if x.shape != logits.shape:
            raise ValueError("shapes differ")
        return nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


@mistake("reconstruction_log_likelihood", "summed over the batch", also=["train_step"])
def likelihood_total():
    def bernoulli_log_likelihood(x, logits):
        if x.shape != logits.shape:
            raise ValueError("shapes differ")
        return -nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")


@mistake("reconstruction_log_likelihood", "ln of the probability: infinite for a sure decoder", also=["train_step"])
def likelihood_naive():
    def bernoulli_log_likelihood(x, logits):
        if x.shape != logits.shape:
            raise ValueError("shapes differ")
        p = torch.sigmoid(logits)
        return (x * p.log() + (1 - x) * (1 - p).log()).sum(-1)


@mistake("reconstruction_log_likelihood", "probabilities are clamped", also=["train_step"])
def likelihood_clamped():
    def bernoulli_log_likelihood(x, logits):
        if x.shape != logits.shape:
            raise ValueError("shapes differ")
        p = torch.sigmoid(logits).clamp(1e-7, 1 - 1e-7)
        return (x * p.log() + (1 - x) * (1 - p).log()).sum(-1)


@mistake("reconstruction_log_likelihood", "binary_cross_entropy, which cuts off at -100", also=["train_step"])
def likelihood_cut_off():
    def bernoulli_log_likelihood(x, logits):
        if x.shape != logits.shape:
            raise ValueError("shapes differ")
        return -nn.functional.binary_cross_entropy(torch.sigmoid(logits), x, reduction="none").sum(-1)


@mistake("reconstruction_log_likelihood", "only the pixels that are 1 count", also=["train_step"])
def likelihood_only_ones():
    def bernoulli_log_likelihood(x, logits):
        if x.shape != logits.shape:
            raise ValueError("shapes differ")
        return (x * nn.functional.logsigmoid(logits)).sum(-1)


@mistake("reconstruction_log_likelihood", "no gradient", also=["train_step"])
def likelihood_without_gradient():
    def bernoulli_log_likelihood(x, logits):
        if x.shape != logits.shape:
            raise ValueError("shapes differ")
        return torch.distributions.Bernoulli(logits=logits.detach()).log_prob(x).sum(-1)


@mistake("reconstruction_log_likelihood", "shapes that broadcast come through")
def likelihood_broadcasts():
    def bernoulli_log_likelihood(x, logits):
        return (x * logits - nn.functional.softplus(logits)).sum(-1)


@mistake("reconstruction_log_likelihood", "only the number of axes is compared")
def likelihood_compares_axes():
    def bernoulli_log_likelihood(x, logits):
        if x.dim() != logits.dim():
            raise ValueError("shapes differ")
        return (x * logits - nn.functional.softplus(logits)).sum(-1)


@mistake("reconstruction_log_likelihood", "the constant is missing: a squared error")
def likelihood_without_constant():
    def gaussian_log_likelihood(x, mean, sigma):
        if x.shape != mean.shape or sigma <= 0:
            raise ValueError("shapes differ or sigma is not positive")
        return -(0.5 * ((x - mean) / sigma) ** 2).sum(-1)


@mistake("reconstruction_log_likelihood", "ln sigma is missing")
def likelihood_without_log_sigma():
    def gaussian_log_likelihood(x, mean, sigma):
        if x.shape != mean.shape or sigma <= 0:
            raise ValueError("shapes differ or sigma is not positive")
        return -(0.5 * ((x - mean) / sigma) ** 2 + 0.5 * math.log(2 * math.pi)).sum(-1)


@mistake("reconstruction_log_likelihood", "the constant counts once, not for each pixel")
def likelihood_one_constant():
    def gaussian_log_likelihood(x, mean, sigma):
        if x.shape != mean.shape or sigma <= 0:
            raise ValueError("shapes differ or sigma is not positive")
        return -(0.5 * ((x - mean) / sigma) ** 2).sum(-1) - math.log(sigma) - 0.5 * math.log(2 * math.pi)


@mistake("reconstruction_log_likelihood", "sigma is taken for the variance")
def likelihood_variance():
    def gaussian_log_likelihood(x, mean, sigma):
        if x.shape != mean.shape or sigma <= 0:
            raise ValueError("shapes differ or sigma is not positive")
        return torch.distributions.Normal(mean, math.sqrt(sigma)).log_prob(x).sum(-1)


@mistake("reconstruction_log_likelihood", "the factor 1/2 of the square is lost")
def likelihood_without_half():
    def gaussian_log_likelihood(x, mean, sigma):
        if x.shape != mean.shape or sigma <= 0:
            raise ValueError("shapes differ or sigma is not positive")
        return -(((x - mean) / sigma) ** 2 + math.log(sigma) + 0.5 * math.log(2 * math.pi)).sum(-1)


@mistake("reconstruction_log_likelihood", "a sigma of zero comes through")
def likelihood_sigma_zero():
    def gaussian_log_likelihood(x, mean, sigma):
        if x.shape != mean.shape or sigma < 0:
            raise ValueError("shapes differ or sigma is negative")
        constant = (math.log(sigma) if sigma else -math.inf) + 0.5 * math.log(2 * math.pi)
        return -(0.5 * (x - mean) ** 2 / (sigma**2 + 1e-300) + constant).sum(-1)


@mistake("reconstruction_log_likelihood", "the constant is a tensor on the CPU")
def likelihood_on_cpu():
    def gaussian_log_likelihood(x, mean, sigma):
        if x.shape != mean.shape or sigma <= 0:
            raise ValueError("shapes differ or sigma is not positive")
        scale = torch.full(x.shape, sigma, dtype=x.dtype)
        return torch.distributions.Normal(mean, scale).log_prob(x).sum(-1)


@mistake("reconstruction_log_likelihood", "float64 whatever came")
def likelihood_float64():
    def gaussian_log_likelihood(x, mean, sigma):
        if x.shape != mean.shape or sigma <= 0:
            raise ValueError("shapes differ or sigma is not positive")
        return torch.distributions.Normal(mean.double(), sigma).log_prob(x.double()).sum(-1)


@alternative("reconstruction_log_likelihood", "torch.distributions")
def likelihood_distributions():
    def bernoulli_log_likelihood(x, logits):
        if x.shape != logits.shape:
            raise ValueError("shapes differ")
        return torch.distributions.Bernoulli(logits=logits).log_prob(x).sum(-1)

    def gaussian_log_likelihood(x, mean, sigma):
        if x.shape != mean.shape or not sigma > 0:
            raise ValueError("shapes differ or sigma is not positive")
        return torch.distributions.Normal(mean, sigma).log_prob(x).sum(-1)


@alternative("reconstruction_log_likelihood", "binary cross-entropy, and a determinant for the constant")
def likelihood_cross_entropy():
    def bernoulli_log_likelihood(x, logits):
        if tuple(x.shape) != tuple(logits.shape):
            raise ValueError("shapes differ")
        return -nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(dim=-1)

    def gaussian_log_likelihood(x, mean, sigma):
        if tuple(x.shape) != tuple(mean.shape):
            raise ValueError("shapes differ")
        if sigma <= 0:
            raise ValueError("sigma is not positive")
        error = (x - mean).square().sum(-1)
        return -error / (2 * sigma**2) - x.shape[-1] * 0.5 * math.log(2 * math.pi * sigma**2)


@alternative("reconstruction_log_likelihood", "a loop over pixels, bit by bit, in float64")
def likelihood_loop():
    def bernoulli_log_likelihood(x, logits):
        if x.shape != logits.shape:
            raise ValueError("shapes differ")
        total = torch.zeros_like(x[..., 0], dtype=torch.float64)
        for i in range(x.shape[-1]):
            bit, logit = x[..., i].double(), logits[..., i].double()
            total = total + bit * nn.functional.logsigmoid(logit) + (1 - bit) * nn.functional.logsigmoid(-logit)
        return total.to(x.dtype)

    def gaussian_log_likelihood(x, mean, sigma):
        if x.shape != mean.shape or sigma <= 0:
            raise ValueError("shapes differ or sigma is not positive")
        total = torch.zeros_like(x[..., 0], dtype=torch.float64)
        for i in range(x.shape[-1]):
            z = (x[..., i].double() - mean[..., i].double()) / sigma
            total = total - z * z / 2 - math.log(sigma * math.sqrt(2 * math.pi))
        return total.to(x.dtype)


# --- elbo --------------------------------------------------------------------------------------------------------


@mistake("elbo", "beta on the reconstruction", also=["train_step"])
def elbo_beta_on_reconstruction():
    def elbo(x, z, mu, logvar, log_likelihood, beta=1.0):
        if beta < 0:
            raise ValueError("beta is negative")
        reconstruction, divergence = log_likelihood(x, z).mean(), kl_to_standard_normal(mu, logvar).mean()
        return beta * reconstruction - divergence, reconstruction, divergence


@mistake("elbo", "beta is ignored", also=["train_step"])
def elbo_without_beta():
    def elbo(x, z, mu, logvar, log_likelihood, beta=1.0):
        if beta < 0:
            raise ValueError("beta is negative")
        reconstruction, divergence = log_likelihood(x, z).mean(), kl_to_standard_normal(mu, logvar).mean()
        return reconstruction - divergence, reconstruction, divergence


@mistake("elbo", "the divergence that is returned has beta in it", also=["train_step"])
def elbo_beta_in_divergence():
    def elbo(x, z, mu, logvar, log_likelihood, beta=1.0):
        if beta < 0:
            raise ValueError("beta is negative")
        reconstruction, divergence = log_likelihood(x, z).mean(), beta * kl_to_standard_normal(mu, logvar).mean()
        return reconstruction - divergence, reconstruction, divergence


@mistake("elbo", "the divergence is added", also=["train_step"])
def elbo_added():
    def elbo(x, z, mu, logvar, log_likelihood, beta=1.0):
        if beta < 0:
            raise ValueError("beta is negative")
        reconstruction, divergence = log_likelihood(x, z).mean(), kl_to_standard_normal(mu, logvar).mean()
        return reconstruction + beta * divergence, reconstruction, divergence


@mistake("elbo", "the loss, the negative of the objective", also=["train_step"])
def elbo_loss():
    def elbo(x, z, mu, logvar, log_likelihood, beta=1.0):
        if beta < 0:
            raise ValueError("beta is negative")
        reconstruction, divergence = log_likelihood(x, z).mean(), kl_to_standard_normal(mu, logvar).mean()
        return beta * divergence - reconstruction, reconstruction, divergence


@mistake("elbo", "the reconstruction that is returned is a loss", also=["train_step"])
def elbo_reconstruction_loss():
    def elbo(x, z, mu, logvar, log_likelihood, beta=1.0):
        if beta < 0:
            raise ValueError("beta is negative")
        reconstruction, divergence = log_likelihood(x, z).mean(), kl_to_standard_normal(mu, logvar).mean()
        return reconstruction - beta * divergence, -reconstruction, divergence


@mistake("elbo", "sums over the batch", also=["train_step"])
def elbo_sums():
    def elbo(x, z, mu, logvar, log_likelihood, beta=1.0):
        if beta < 0:
            raise ValueError("beta is negative")
        reconstruction, divergence = log_likelihood(x, z).sum(), kl_to_standard_normal(mu, logvar).sum()
        return reconstruction - beta * divergence, reconstruction, divergence


@mistake("elbo", "the reconstruction is averaged over the pixels", also=["train_step"])
def elbo_mean_over_pixels():
    def elbo(x, z, mu, logvar, log_likelihood, beta=1.0):
        if beta < 0:
            raise ValueError("beta is negative")
        reconstruction = log_likelihood(x, z).mean() / x.shape[-1]
        divergence = kl_to_standard_normal(mu, logvar).mean()
        return reconstruction - beta * divergence, reconstruction, divergence


@mistake("elbo", "the divergence is averaged over the dimensions", also=["train_step"])
def elbo_mean_over_dimensions():
    def elbo(x, z, mu, logvar, log_likelihood, beta=1.0):
        if beta < 0:
            raise ValueError("beta is negative")
        reconstruction = log_likelihood(x, z).mean()
        divergence = 0.5 * (mu**2 + logvar.exp() - 1 - logvar).mean()
        return reconstruction - beta * divergence, reconstruction, divergence


@mistake("elbo", "the mean in place of the drawn code", also=["train_step"])
def elbo_at_the_mean():
    def elbo(x, z, mu, logvar, log_likelihood, beta=1.0):
        if beta < 0:
            raise ValueError("beta is negative")
        reconstruction, divergence = log_likelihood(x, mu).mean(), kl_to_standard_normal(mu, logvar).mean()
        return reconstruction - beta * divergence, reconstruction, divergence


@mistake("elbo", "a code of its own is drawn", also=["train_step"])
def elbo_draws():
    def elbo(x, z, mu, logvar, log_likelihood, beta=1.0):
        if beta < 0:
            raise ValueError("beta is negative")
        z = mu + (logvar / 2).exp() * torch.randn_like(mu)
        reconstruction, divergence = log_likelihood(x, z).mean(), kl_to_standard_normal(mu, logvar).mean()
        return reconstruction - beta * divergence, reconstruction, divergence


@mistake("elbo", "the divergence is estimated from the drawn codes", also=["train_step"])
def elbo_sampled_divergence():
    def elbo(x, z, mu, logvar, log_likelihood, beta=1.0):
        if beta < 0:
            raise ValueError("beta is negative")
        reconstruction = log_likelihood(x, z).mean()
        log_q = -0.5 * ((z - mu) ** 2 / logvar.exp() + logvar).sum(-1)
        divergence = (log_q + 0.5 * (z**2).sum(-1)).mean()
        return reconstruction - beta * divergence, reconstruction, divergence


@mistake("elbo", "numbers without gradient", also=["train_step"])
def elbo_detached():
    def elbo(x, z, mu, logvar, log_likelihood, beta=1.0):
        if beta < 0:
            raise ValueError("beta is negative")
        reconstruction, divergence = log_likelihood(x, z).mean(), kl_to_standard_normal(mu, logvar).mean()
        return reconstruction - beta * divergence, reconstruction.detach(), divergence.detach()


@mistake("elbo", "the codes are detached", also=["train_step"])
def elbo_codes_detached():
    def elbo(x, z, mu, logvar, log_likelihood, beta=1.0):
        if beta < 0:
            raise ValueError("beta is negative")
        reconstruction = log_likelihood(x, z.detach()).mean()
        divergence = kl_to_standard_normal(mu, logvar).mean()
        return reconstruction - beta * divergence, reconstruction, divergence


@mistake("elbo", "beta is two by default")
def elbo_default():
    def elbo(x, z, mu, logvar, log_likelihood, beta=2.0):
        if beta < 0:
            raise ValueError("beta is negative")
        reconstruction, divergence = log_likelihood(x, z).mean(), kl_to_standard_normal(mu, logvar).mean()
        return reconstruction - beta * divergence, reconstruction, divergence


@mistake("elbo", "a negative beta comes through")
def elbo_negative_beta():
    def elbo(x, z, mu, logvar, log_likelihood, beta=1.0):
        reconstruction, divergence = log_likelihood(x, z).mean(), kl_to_standard_normal(mu, logvar).mean()
        return reconstruction - beta * divergence, reconstruction, divergence


@mistake("elbo", "a beta of zero is refused", also=["train_step"])
def elbo_zero_beta():
    def elbo(x, z, mu, logvar, log_likelihood, beta=1.0):
        if beta <= 0:
            raise ValueError("beta is not positive")
        reconstruction, divergence = log_likelihood(x, z).mean(), kl_to_standard_normal(mu, logvar).mean()
        return reconstruction - beta * divergence, reconstruction, divergence


@mistake("elbo", "the two terms are swapped", also=["train_step"])
def elbo_swapped():
    def elbo(x, z, mu, logvar, log_likelihood, beta=1.0):
        if beta < 0:
            raise ValueError("beta is negative")
        reconstruction, divergence = log_likelihood(x, z).mean(), kl_to_standard_normal(mu, logvar).mean()
        return reconstruction - beta * divergence, divergence, reconstruction


@mistake("elbo", "the averages are collected on the CPU", also=["train_step"])
def elbo_on_cpu():
    def elbo(x, z, mu, logvar, log_likelihood, beta=1.0):
        if beta < 0:
            raise ValueError("beta is negative")
        weights = torch.full((len(x),), 1 / len(x), dtype=x.dtype)
        reconstruction = (weights * log_likelihood(x, z)).sum()
        divergence = (weights * kl_to_standard_normal(mu, logvar)).sum()
        return reconstruction - beta * divergence, reconstruction, divergence


@alternative("elbo", "sums divided by the number of images, the divergence written out")
def elbo_written_out():
    def elbo(x, z, mu, logvar, log_likelihood, beta=1.0):
        if beta < 0:
            raise ValueError("beta is negative")
        reconstruction = torch.sum(log_likelihood(x, z)) / x.shape[0]
        divergence = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / x.shape[0]
        return reconstruction - beta * divergence, reconstruction, divergence


@alternative("elbo", "torch.distributions, and the average of the bounds of single images")
def elbo_per_image():
    def elbo(x, z, mu, logvar, log_likelihood, beta=1.0):
        if not beta >= 0:
            raise ValueError("beta is negative")
        q = torch.distributions.Independent(torch.distributions.Normal(mu, (0.5 * logvar).exp()), 1)
        p = torch.distributions.Independent(torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu)), 1)
        explained, told = log_likelihood(x, z), torch.distributions.kl_divergence(q, p)
        return [(explained - beta * told).mean(), explained.mean(), told.mean()]


@alternative("elbo", "image by image")
def elbo_loop():
    def elbo(x, z, mu, logvar, log_likelihood, beta=1.0):
        if beta < 0:
            raise ValueError("beta is negative")
        terms = [
            torch.stack([log_likelihood(x[i : i + 1], z[i : i + 1])[0], kl_to_standard_normal(mu[i], logvar[i])])
            for i in range(len(x))
        ]
        reconstruction, divergence = torch.stack(terms).mean(0)
        return torch.sub(reconstruction, divergence, alpha=beta), reconstruction, divergence


# --- VAE ---------------------------------------------------------------------------------------------------------


@mistake("VAE", "latent order swapped: logvar before mu")
def vae_swapped():
    Reference = VAE

    class VAE(Reference):
        def encode(self, x):
            mu, logvar = super().encode(x)
            return logvar, mu

        def forward(self, x, generator=None):
            logvar, mu = self.encode(x)
            z = reparameterize(mu, logvar, generator) if self.training else mu
            return self.decode(z), mu, logvar


@mistake("VAE", "sampling in evaluation mode, where the mean is asked for")
def vae_samples_always():
    Reference = VAE

    class VAE(Reference):
        def forward(self, x, generator=None):
            mu, logvar = self.encode(x)
            generator = generator or torch.Generator().manual_seed(0)
            return self.decode(reparameterize(mu, logvar, generator)), mu, logvar


@mistake("VAE", "a generator, and not the mode, decides whether a code is drawn")
def vae_generator_decides():
    Reference = VAE

    class VAE(Reference):
        def forward(self, x, generator=None):
            mu, logvar = self.encode(x)
            z = mu if generator is None else reparameterize(mu, logvar, generator)
            return self.decode(z), mu, logvar


@mistake("VAE", "the mean in training mode")
def vae_never_samples():
    Reference = VAE

    class VAE(Reference):
        def forward(self, x, generator=None):
            mu, logvar = self.encode(x)
            return self.decode(mu), mu, logvar


@mistake("VAE", "the modes are confused")
def vae_modes_confused():
    Reference = VAE

    class VAE(Reference):
        def forward(self, x, generator=None):
            mu, logvar = self.encode(x)
            generator = generator or torch.Generator().manual_seed(0)
            z = mu if self.training else reparameterize(mu, logvar, generator)
            return self.decode(z), mu, logvar


@mistake("VAE", "the decoder applies the sigmoid")
def vae_decoder_sigmoid():
    Reference = VAE

    class VAE(Reference):
        def decode(self, z):
            return torch.sigmoid(super().decode(z))


@mistake("VAE", "forward returns probabilities")
def vae_forward_sigmoid():
    Reference = VAE

    class VAE(Reference):
        def forward(self, x, generator=None):
            logits, mu, logvar = super().forward(x, generator)
            return torch.sigmoid(logits), mu, logvar


@mistake("VAE", "sigmoid twice in generate")
def vae_generate_sigmoid_twice():
    Reference = VAE

    class VAE(Reference):
        def generate(self, n, generator):
            return torch.sigmoid(super().generate(n, generator))


@mistake("VAE", "generate returns logits")
def vae_generate_logits():
    Reference = VAE

    class VAE(Reference):
        def generate(self, n, generator):
            return torch.logit(super().generate(n, generator))


@mistake("VAE", "generate returns bits")
def vae_generate_bits():
    Reference = VAE

    class VAE(Reference):
        def generate(self, n, generator):
            return torch.bernoulli(super().generate(n, generator), generator=generator)


@mistake("VAE", "uniform codes are decoded in generate")
def vae_generate_uniform():
    Reference = VAE

    class VAE(Reference):
        def generate(self, n, generator):
            weight = self.dec_hidden.weight
            z = torch.rand(n, weight.shape[1], generator=generator, dtype=weight.dtype, device=weight.device)
            return torch.sigmoid(self.decode(z)).detach()


@mistake("VAE", "one code for all generated images")
def vae_generate_one_code():
    Reference = VAE

    class VAE(Reference):
        def generate(self, n, generator):
            return super().generate(1, generator).repeat(n, 1)


@mistake("VAE", "the generator of generate is ignored")
def vae_generate_global():
    Reference = VAE

    class VAE(Reference):
        def generate(self, n, generator):
            weight = self.dec_hidden.weight
            z = torch.randn(n, weight.shape[1], dtype=weight.dtype, device=weight.device)
            return torch.sigmoid(self.decode(z)).detach()


@mistake("VAE", "generated images carry a gradient")
def vae_generate_gradient():
    Reference = VAE

    class VAE(Reference):
        def generate(self, n, generator):
            weight = self.dec_hidden.weight
            z = torch.randn(n, weight.shape[1], generator=generator, dtype=weight.dtype, device=weight.device)
            return torch.sigmoid(self.decode(z))


@mistake("VAE", "codes are always float32 and on the CPU")
def vae_generate_float32():
    Reference = VAE

    class VAE(Reference):
        def generate(self, n, generator):
            z = torch.randn(n, self.dec_hidden.in_features, generator=generator)
            return torch.sigmoid(self.decode(z)).detach()


@mistake("VAE", "codes are made on the CPU")
def vae_generate_on_cpu():
    Reference = VAE

    class VAE(Reference):
        def generate(self, n, generator):
            z = torch.randn(n, self.dec_hidden.in_features, generator=generator, dtype=self.dec_hidden.weight.dtype)
            return torch.sigmoid(self.decode(z)).detach()


@mistake("VAE", "no ReLU in the encoder")
def vae_linear_encoder():
    Reference = VAE

    class VAE(Reference):
        def encode(self, x):
            hidden = self.enc_hidden(x)
            return self.enc_mu(hidden), self.enc_logvar(hidden)


@mistake("VAE", "no ReLU in the decoder")
def vae_linear_decoder():
    Reference = VAE

    class VAE(Reference):
        def decode(self, z):
            return self.dec_logits(self.dec_hidden(z))


@mistake("VAE", "tanh for ReLU")
def vae_tanh():
    Reference = VAE

    class VAE(Reference):
        def encode(self, x):
            hidden = torch.tanh(self.enc_hidden(x))
            return self.enc_mu(hidden), self.enc_logvar(hidden)


@mistake("VAE", "softplus on logvar")
def vae_softplus():
    Reference = VAE

    class VAE(Reference):
        def encode(self, x):
            mu, logvar = super().encode(x)
            return mu, nn.functional.softplus(logvar)


@mistake("VAE", "one layer for means and logvars")
def vae_shared_head():
    Reference = VAE

    class VAE(Reference):
        def encode(self, x):
            hidden = self.enc_hidden(x).relu()
            return self.enc_mu(hidden), self.enc_mu(hidden)


@mistake("VAE", "the layers have other names")
def vae_other_names():
    Reference = VAE

    class VAE(Reference):
        def __init__(self, n_pixels, n_hidden, n_latent):
            nn.Module.__init__(self)
            self.encoder = nn.Sequential(nn.Linear(n_pixels, n_hidden), nn.ReLU(), nn.Linear(n_hidden, 2 * n_latent))
            self.decoder = nn.Sequential(nn.Linear(n_latent, n_hidden), nn.ReLU(), nn.Linear(n_hidden, n_pixels))

        def encode(self, x):
            return self.encoder(x).chunk(2, dim=-1)

        def decode(self, z):
            return self.decoder(z)


@mistake("VAE", "hidden and latent sizes confused")
def vae_sizes():
    Reference = VAE

    class VAE(Reference):
        def __init__(self, n_pixels, n_hidden, n_latent):
            super().__init__(n_pixels, n_latent, n_hidden)


@mistake("VAE", "all weights start at zero")
def vae_zeros():
    Reference = VAE

    class VAE(Reference):
        def __init__(self, n_pixels, n_hidden, n_latent):
            super().__init__(n_pixels, n_hidden, n_latent)
            for parameter in self.parameters():
                nn.init.zeros_(parameter)


@mistake("VAE", "the logvar is detached")
def vae_detached():
    Reference = VAE

    class VAE(Reference):
        def encode(self, x):
            mu, logvar = super().encode(x)
            return mu, logvar.detach()


@mistake("VAE", "normalised over the batch")
def vae_batch_normalised():
    Reference = VAE

    class VAE(Reference):
        def encode(self, x):
            mu, logvar = super().encode(x)
            return mu - mu.mean(0), logvar


@alternative("VAE", "keyword arguments, torch.functional, chunks of a common product, and no_grad in generate")
def vae_functional():
    class VAE(nn.Module):
        def __init__(self, n_pixels, n_hidden, n_latent):
            super().__init__()
            self.n_latent = n_latent
            self.dec_logits = nn.Linear(in_features=n_hidden, out_features=n_pixels)
            self.dec_hidden = nn.Linear(in_features=n_latent, out_features=n_hidden)
            self.enc_logvar = nn.Linear(in_features=n_hidden, out_features=n_latent)
            self.enc_mu = nn.Linear(in_features=n_hidden, out_features=n_latent)
            self.enc_hidden = nn.Linear(in_features=n_pixels, out_features=n_hidden)
            self.activation = nn.ReLU()

        def encode(self, x):
            hidden = self.activation(self.enc_hidden(x))
            weight = torch.cat([self.enc_mu.weight, self.enc_logvar.weight])
            bias = torch.cat([self.enc_mu.bias, self.enc_logvar.bias])
            return nn.functional.linear(hidden, weight, bias).chunk(2, dim=1)

        def decode(self, z):
            return self.dec_logits(self.activation(self.dec_hidden(z)))

        def forward(self, x, generator=None):
            mu, logvar = self.encode(x)
            z = mu
            if self.training:
                z = mu + (logvar / 2).exp() * torch.empty_like(mu).normal_(generator=generator)
            return [self.decode(z), mu, logvar]

        @torch.no_grad()
        def generate(self, n, generator):
            like = next(self.parameters())
            return self.decode(like.new_empty(n, self.n_latent).normal_(generator=generator)).sigmoid()


@alternative("VAE", "matrix products by hand, image by image in generate")
def vae_by_hand():
    Reference = VAE

    class VAE(Reference):
        def encode(self, x):
            hidden = torch.clamp(x @ self.enc_hidden.weight.T + self.enc_hidden.bias, min=0)
            mu = torch.einsum("bh,lh->bl", hidden, self.enc_mu.weight) + self.enc_mu.bias
            return mu, torch.addmm(self.enc_logvar.bias, hidden, self.enc_logvar.weight.T)

        def decode(self, z):
            before = self.dec_hidden(z)
            return self.dec_logits(torch.where(before > 0, before, torch.zeros_like(before)))

        def generate(self, n, generator):
            images = []
            for _ in range(n):
                weight = self.dec_hidden.weight
                z = torch.randn(
                    self.dec_hidden.in_features, generator=generator, dtype=weight.dtype, device=weight.device
                )
                images.append(1 / (1 + torch.exp(-self.decode(z[None])[0].detach())))
            return torch.stack(images)


# --- train_step --------------------------------------------------------------------------------------------------


@mistake("train_step", "down the objective and not up")
def step_down():
    def train_step(model, optimizer, x, generator, beta=1.0):
        model.train()
        mu, logvar = model.encode(x)
        z = reparameterize(mu, logvar, generator)
        terms = elbo(x, z, mu, logvar, lambda x, z: bernoulli_log_likelihood(x, model.decode(z)), beta)
        optimizer.zero_grad()
        terms[0].backward()
        optimizer.step()
        return tuple(term.item() for term in terms)


@mistake("train_step", "old gradients are not cleared")
def step_without_clearing():
    def train_step(model, optimizer, x, generator, beta=1.0):
        model.train()
        mu, logvar = model.encode(x)
        z = reparameterize(mu, logvar, generator)
        terms = elbo(x, z, mu, logvar, lambda x, z: bernoulli_log_likelihood(x, model.decode(z)), beta)
        (-terms[0]).backward()
        optimizer.step()
        return tuple(term.item() for term in terms)


@mistake("train_step", "gradients are cleared after the step, so that the first step has old ones")
def step_clears_late():
    def train_step(model, optimizer, x, generator, beta=1.0):
        model.train()
        mu, logvar = model.encode(x)
        z = reparameterize(mu, logvar, generator)
        terms = elbo(x, z, mu, logvar, lambda x, z: bernoulli_log_likelihood(x, model.decode(z)), beta)
        (-terms[0]).backward()
        optimizer.step()
        optimizer.zero_grad()
        return tuple(term.item() for term in terms)


@mistake("train_step", "gradients are cleared between backward and step")
def step_clears_too_late():
    def train_step(model, optimizer, x, generator, beta=1.0):
        model.train()
        mu, logvar = model.encode(x)
        z = reparameterize(mu, logvar, generator)
        terms = elbo(x, z, mu, logvar, lambda x, z: bernoulli_log_likelihood(x, model.decode(z)), beta)
        (-terms[0]).backward()
        optimizer.zero_grad()
        optimizer.step()
        return tuple(term.item() for term in terms)


@mistake("train_step", "no step")
def step_none():
    def train_step(model, optimizer, x, generator, beta=1.0):
        model.train()
        mu, logvar = model.encode(x)
        z = reparameterize(mu, logvar, generator)
        terms = elbo(x, z, mu, logvar, lambda x, z: bernoulli_log_likelihood(x, model.decode(z)), beta)
        optimizer.zero_grad()
        (-terms[0]).backward()
        return tuple(term.item() for term in terms)


@mistake("train_step", "beta is not passed on")
def step_without_beta():
    def train_step(model, optimizer, x, generator, beta=1.0):
        model.train()
        mu, logvar = model.encode(x)
        z = reparameterize(mu, logvar, generator)
        terms = elbo(x, z, mu, logvar, lambda x, z: bernoulli_log_likelihood(x, model.decode(z)))
        optimizer.zero_grad()
        (-terms[0]).backward()
        optimizer.step()
        return tuple(term.item() for term in terms)


@mistake("train_step", "beta on the wrong term")
def step_beta_on_reconstruction():
    def train_step(model, optimizer, x, generator, beta=1.0):
        model.train()
        mu, logvar = model.encode(x)
        z = reparameterize(mu, logvar, generator)
        _, explained, told = elbo(x, z, mu, logvar, lambda x, z: bernoulli_log_likelihood(x, model.decode(z)))
        objective = beta * explained - told
        optimizer.zero_grad()
        (-objective).backward()
        optimizer.step()
        return objective.item(), explained.item(), told.item()


@mistake("train_step", "the codes are detached: nothing reaches the encoder through them")
def step_detached():
    def train_step(model, optimizer, x, generator, beta=1.0):
        model.train()
        mu, logvar = model.encode(x)
        z = reparameterize(mu, logvar, generator).detach()
        terms = elbo(x, z, mu, logvar, lambda x, z: bernoulli_log_likelihood(x, model.decode(z)), beta)
        optimizer.zero_grad()
        (-terms[0]).backward()
        optimizer.step()
        return tuple(term.item() for term in terms)


@mistake("train_step", "the means are decoded")
def step_means():
    def train_step(model, optimizer, x, generator, beta=1.0):
        model.train()
        mu, logvar = model.encode(x)
        terms = elbo(x, mu, mu, logvar, lambda x, z: bernoulli_log_likelihood(x, model.decode(z)), beta)
        optimizer.zero_grad()
        (-terms[0]).backward()
        optimizer.step()
        return tuple(term.item() for term in terms)


@mistake("train_step", "the mode of the model is left as it is, and forward decides")
def step_mode():
    def train_step(model, optimizer, x, generator, beta=1.0):
        logits, mu, logvar = model(x, generator)
        terms = elbo(x, mu, mu, logvar, lambda x, z: bernoulli_log_likelihood(x, logits), beta)
        optimizer.zero_grad()
        (-terms[0]).backward()
        optimizer.step()
        return tuple(term.item() for term in terms)


@mistake("train_step", "evaluation mode after the step")
def step_leaves_evaluation_mode():
    def train_step(model, optimizer, x, generator, beta=1.0):
        model.train()
        mu, logvar = model.encode(x)
        z = reparameterize(mu, logvar, generator)
        terms = elbo(x, z, mu, logvar, lambda x, z: bernoulli_log_likelihood(x, model.decode(z)), beta)
        optimizer.zero_grad()
        (-terms[0]).backward()
        optimizer.step()
        model.eval()
        return tuple(term.item() for term in terms)


@mistake("train_step", "the loss is returned")
def step_returns_loss():
    def train_step(model, optimizer, x, generator, beta=1.0):
        model.train()
        mu, logvar = model.encode(x)
        z = reparameterize(mu, logvar, generator)
        terms = elbo(x, z, mu, logvar, lambda x, z: bernoulli_log_likelihood(x, model.decode(z)), beta)
        optimizer.zero_grad()
        (-terms[0]).backward()
        optimizer.step()
        return -terms[0].item(), -terms[1].item(), terms[2].item()


@mistake("train_step", "tensors that keep the whole computation in memory are returned")
def step_returns_tensors():
    def train_step(model, optimizer, x, generator, beta=1.0):
        model.train()
        mu, logvar = model.encode(x)
        z = reparameterize(mu, logvar, generator)
        terms = elbo(x, z, mu, logvar, lambda x, z: bernoulli_log_likelihood(x, model.decode(z)), beta)
        optimizer.zero_grad()
        (-terms[0]).backward()
        optimizer.step()
        return terms


@mistake("train_step", "the terms after the step")
def step_returns_later_terms():
    def train_step(model, optimizer, x, generator, beta=1.0):
        model.train()
        mu, logvar = model.encode(x)
        z = reparameterize(mu, logvar, generator)
        terms = elbo(x, z, mu, logvar, lambda x, z: bernoulli_log_likelihood(x, model.decode(z)), beta)
        optimizer.zero_grad()
        (-terms[0]).backward()
        optimizer.step()
        with torch.no_grad():
            mu, logvar = model.encode(x)
            terms = elbo(x, z, mu, logvar, lambda x, z: bernoulli_log_likelihood(x, model.decode(z)), beta)
        return tuple(term.item() for term in terms)


@mistake("train_step", "an optimizer of its own")
def step_own_optimizer():
    def train_step(model, optimizer, x, generator, beta=1.0):
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        mu, logvar = model.encode(x)
        z = reparameterize(mu, logvar, generator)
        terms = elbo(x, z, mu, logvar, lambda x, z: bernoulli_log_likelihood(x, model.decode(z)), beta)
        optimizer.zero_grad()
        (-terms[0]).backward()
        optimizer.step()
        return tuple(term.item() for term in terms)


@mistake("train_step", "a generator of its own")
def step_own_generator():
    def train_step(model, optimizer, x, generator, beta=1.0):
        model.train()
        mu, logvar = model.encode(x)
        z = reparameterize(mu, logvar, torch.Generator(device=x.device).manual_seed(0))
        terms = elbo(x, z, mu, logvar, lambda x, z: bernoulli_log_likelihood(x, model.decode(z)), beta)
        optimizer.zero_grad()
        (-terms[0]).backward()
        optimizer.step()
        return tuple(term.item() for term in terms)


@alternative("train_step", "through forward, in training mode")
def step_forward():
    def train_step(model, optimizer, x, generator, beta=1.0):
        model.train(True)
        optimizer.zero_grad(set_to_none=False)
        logits, mu, logvar = model(x, generator)
        explained = torch.distributions.Bernoulli(logits=logits).log_prob(x).sum(-1).mean()
        told = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / len(x)
        loss = beta * told - explained
        loss.backward()
        optimizer.step()
        return [float(-loss), float(explained), float(told)]


@alternative("train_step", "torch.autograd.grad, gradients laid by hand")
def step_grad():
    def train_step(model, optimizer, x, generator, beta=1.0):
        model.train()
        mu, logvar = model.encode(x)
        z = reparameterize(mu, logvar, generator)
        logits = model.decode(z)
        objective, explained, told = elbo(x, z, mu, logvar, lambda x, z: bernoulli_log_likelihood(x, logits), beta)
        parameters = list(model.parameters())
        for parameter, slope in zip(parameters, torch.autograd.grad(objective, parameters), strict=True):
            parameter.grad = -slope
        optimizer.step()
        return objective.item(), explained.item(), told.item()


@alternative("train_step", "backward on both terms, one after the other")
def step_two_backwards():
    def train_step(model, optimizer, x, generator, beta=1.0):
        model.train()
        for parameter in model.parameters():
            parameter.grad = None
        mu, logvar = model.encode(x)
        z = mu + torch.exp(logvar / 2) * torch.empty_like(mu).normal_(generator=generator)
        explained = bernoulli_log_likelihood(x, model.decode(z)).sum() / x.shape[0]
        told = kl_to_standard_normal(mu, logvar).sum() / x.shape[0]
        (-explained).backward(retain_graph=True)
        (beta * told).backward()
        optimizer.step()
        return explained.item() - beta * told.item(), explained.item(), told.item()


# --- active_units and squared_mmd --------------------------------------------------------------------------------


@mistake("active_units", "the mean square for the variance")
def units_mean_square():
    def active_units(mu, threshold=0.01):
        return (mu**2).mean(0) > threshold


@mistake("active_units", "the standard deviation for the variance")
def units_deviation():
    def active_units(mu, threshold=0.01):
        return mu.std(0, correction=0) > threshold


@mistake("active_units", "divisor n - 1")
def units_unbiased():
    def active_units(mu, threshold=0.01):
        return mu.var(0) > threshold


@mistake("active_units", "variance over the units of an image")
def units_axis():
    def active_units(mu, threshold=0.01):
        return mu.var(-1, correction=0) > threshold


@mistake("active_units", "one variance for all")
def units_total():
    def active_units(mu, threshold=0.01):
        return (mu.var(correction=0) > threshold).expand(mu.shape[1])


@mistake("active_units", "the threshold is ignored")
def units_fixed_threshold():
    def active_units(mu, threshold=0.01):
        return mu.var(0, correction=0) > 0.01


@mistake("active_units", "the threshold 0.02 by default")
def units_other_threshold():
    def active_units(mu, threshold=0.02):
        return mu.var(0, correction=0) > threshold


@mistake("active_units", "equality suffices")
def units_not_strict():
    def active_units(mu, threshold=0.01):
        return mu.var(0, correction=0) >= threshold


@mistake("active_units", "the number of active units, not which")
def units_counted():
    def active_units(mu, threshold=0.01):
        return (mu.var(0, correction=0) > threshold).sum()


@mistake("active_units", "centred in place")
def units_in_place():
    def active_units(mu, threshold=0.01):
        mu -= mu.mean(0)
        return (mu**2).mean(0) > threshold


@mistake("active_units", "the mean is subtracted with divisor one too few")
def units_wrong_mean():
    def active_units(mu, threshold=0.01):
        centre = mu.sum(0) / max(len(mu) - 1, 1)
        return ((mu - centre) ** 2).mean(0) > threshold


@mistake("active_units", "the biased estimate: points are compared with themselves")
def mmd_biased():
    def squared_mmd(x, y, bandwidth):
        if min(len(x), len(y)) < 2 or bandwidth <= 0:
            raise ValueError("too few points or no bandwidth")

        def k(a, b):
            return torch.exp(-(a[:, None] - b).square().sum(-1) / (2 * bandwidth**2)).mean()

        return k(x, x) + k(y, y) - 2 * k(x, y)


@mistake("active_units", "the diagonal is left out and n^2 kept")
def mmd_wrong_count():
    def squared_mmd(x, y, bandwidth):
        if min(len(x), len(y)) < 2 or bandwidth <= 0:
            raise ValueError("too few points or no bandwidth")

        def k(a, b):
            return torch.exp(-(a[:, None] - b).square().sum(-1) / (2 * bandwidth**2))

        n, m = len(x), len(y)
        return (k(x, x).sum() - n) / n**2 + (k(y, y).sum() - m) / m**2 - 2 * k(x, y).mean()


@mistake("active_units", "the factor 2 of the cross term is lost")
def mmd_cross_once():
    def squared_mmd(x, y, bandwidth):
        if min(len(x), len(y)) < 2 or bandwidth <= 0:
            raise ValueError("too few points or no bandwidth")

        def k(a, b):
            return torch.exp(-(a[:, None] - b).square().sum(-1) / (2 * bandwidth**2))

        n, m = len(x), len(y)
        within = (k(x, x).sum() - n) / (n * (n - 1)) + (k(y, y).sum() - m) / (m * (m - 1))
        return within - k(x, y).mean()


@mistake("active_units", "h^2 for 2 h^2 in the kernel")
def mmd_bandwidth():
    def squared_mmd(x, y, bandwidth):
        if min(len(x), len(y)) < 2 or bandwidth <= 0:
            raise ValueError("too few points or no bandwidth")

        def k(a, b):
            return torch.exp(-(a[:, None] - b).square().sum(-1) / bandwidth**2)

        n, m = len(x), len(y)
        within = (k(x, x).sum() - n) / (n * (n - 1)) + (k(y, y).sum() - m) / (m * (m - 1))
        return within - 2 * k(x, y).mean()


@mistake("active_units", "the bandwidth is taken for the kernel's gamma")
def mmd_gamma():
    def squared_mmd(x, y, bandwidth):
        if min(len(x), len(y)) < 2 or bandwidth <= 0:
            raise ValueError("too few points or no bandwidth")

        def k(a, b):
            return torch.exp(-bandwidth * (a[:, None] - b).square().sum(-1))

        n, m = len(x), len(y)
        within = (k(x, x).sum() - n) / (n * (n - 1)) + (k(y, y).sum() - m) / (m * (m - 1))
        return within - 2 * k(x, y).mean()


@mistake("active_units", "the distance is not squared")
def mmd_distance():
    def squared_mmd(x, y, bandwidth):
        if min(len(x), len(y)) < 2 or bandwidth <= 0:
            raise ValueError("too few points or no bandwidth")

        def k(a, b):
            return torch.exp(-(a[:, None] - b).norm(dim=-1) / (2 * bandwidth**2))

        n, m = len(x), len(y)
        within = (k(x, x).sum() - n) / (n * (n - 1)) + (k(y, y).sum() - m) / (m * (m - 1))
        return within - 2 * k(x, y).mean()


@mistake("active_units", "the distance is averaged over the features")
def mmd_mean_distance():
    def squared_mmd(x, y, bandwidth):
        if min(len(x), len(y)) < 2 or bandwidth <= 0:
            raise ValueError("too few points or no bandwidth")

        def k(a, b):
            return torch.exp(-(a[:, None] - b).square().mean(-1) / (2 * bandwidth**2))

        n, m = len(x), len(y)
        within = (k(x, x).sum() - n) / (n * (n - 1)) + (k(y, y).sum() - m) / (m * (m - 1))
        return within - 2 * k(x, y).mean()


@mistake("active_units", "the root, which is no unbiased estimate")
def mmd_root():
    Reference = squared_mmd

    def squared_mmd(x, y, bandwidth):
        return Reference(x, y, bandwidth).clamp(min=0).sqrt()


@mistake("active_units", "negative estimates are cut off at zero")
def mmd_clamped():
    Reference = squared_mmd

    def squared_mmd(x, y, bandwidth):
        return Reference(x, y, bandwidth).clamp(min=0)


@mistake("active_units", "both samples are cut to the same length")
def mmd_equal_lengths():
    Reference = squared_mmd

    def squared_mmd(x, y, bandwidth):
        n = min(len(x), len(y))
        return Reference(x[:n], y[:n], bandwidth)


@mistake("active_units", "all pairs at distance zero are left out")
def mmd_without_doubles():
    def squared_mmd(x, y, bandwidth):
        if min(len(x), len(y)) < 2 or bandwidth <= 0:
            raise ValueError("too few points or no bandwidth")

        def k(a, b):
            return (a[:, None] - b).square().sum(-1)

        def within(a):
            squared = k(a, a)
            return torch.exp(-squared[squared > 0] / (2 * bandwidth**2)).mean()

        return within(x) + within(y) - 2 * torch.exp(-k(x, y) / (2 * bandwidth**2)).mean()


@mistake("active_units", "single points come through")
def mmd_single_points():
    def squared_mmd(x, y, bandwidth):
        if bandwidth <= 0:
            raise ValueError("no bandwidth")

        def k(a, b):
            return torch.exp(-(a[:, None] - b).square().sum(-1) / (2 * bandwidth**2))

        n, m = len(x), len(y)
        within = (k(x, x).sum() - n) / max(n * (n - 1), 1) + (k(y, y).sum() - m) / max(m * (m - 1), 1)
        return within - 2 * k(x, y).mean()


@mistake("active_units", "a mask on the CPU")
def mmd_on_cpu():
    def squared_mmd(x, y, bandwidth):
        if min(len(x), len(y)) < 2 or bandwidth <= 0:
            raise ValueError("too few points or no bandwidth")

        def k(a, b):
            return torch.exp(-(a[:, None] - b).square().sum(-1) / (2 * bandwidth**2))

        def within(a):
            return (k(a, a) * (1 - torch.eye(len(a)))).sum() / (len(a) * (len(a) - 1))

        return (within(x) + within(y) - 2 * k(x, y).mean()).to(x.dtype)


@alternative("active_units", "mean of squares by hand; boolean masks; cdist")
def units_and_mmd_masks():
    def active_units(mu, threshold=0.01):
        centred = mu - mu.mean(dim=0, keepdim=True)
        return torch.gt(torch.einsum("ij,ij->j", centred, centred) / mu.shape[0], threshold)

    def squared_mmd(x, y, bandwidth):
        if x.shape[0] < 2 or y.shape[0] < 2:
            raise ValueError("too few points")
        if bandwidth <= 0:
            raise ValueError("no bandwidth")

        def k(a, b):
            return torch.exp(-torch.cdist(a, b).pow(2) / (2 * bandwidth**2))

        def within(a):
            return k(a, a)[~torch.eye(len(a), dtype=torch.bool, device=a.device)].mean()

        return within(x) + within(y) - 2 * k(x, y).mean()


@alternative("active_units", "loops over pairs, and torch.var_mean")
def units_and_mmd_loops():
    def active_units(mu, threshold=0.01):
        return torch.stack([torch.var_mean(mu[:, j], unbiased=False)[0] > threshold for j in range(mu.shape[1])])

    def squared_mmd(x, y, bandwidth):
        n, m = len(x), len(y)
        if n < 2 or m < 2 or bandwidth <= 0:
            raise ValueError("too few points or no bandwidth")

        def k(a, b):
            return torch.exp(-((a - b) ** 2).sum() / (2 * bandwidth**2))

        total = x.new_zeros(())
        for i in range(n):
            for j in range(i):
                total = total + 2 * k(x[i], x[j]) / (n * (n - 1))
        for i in range(m):
            for j in range(i):
                total = total + 2 * k(y[i], y[j]) / (m * (m - 1))
        for i in range(n):
            for j in range(m):
                total = total - 2 * k(x[i], y[j]) / (n * m)
        return total


@alternative("active_units", "one kernel of the pooled sample and a vector of weights, by numpy")
def units_and_mmd_pooled():
    def active_units(mu, threshold=0.01):
        import numpy as np

        return torch.as_tensor(np.var(mu.detach().cpu().numpy(), axis=0) > threshold).to(mu.device)

    def squared_mmd(x, y, bandwidth):
        from sklearn.metrics.pairwise import rbf_kernel

        if len(x) < 2 or len(y) < 2 or bandwidth <= 0:
            raise ValueError("too few points or no bandwidth")
        n, m = len(x), len(y)
        kernel = rbf_kernel(torch.cat([x, y]).detach().cpu().double().numpy(), gamma=0.5 / bandwidth**2)
        within_x = (kernel[:n, :n].sum() - kernel[:n, :n].trace()) / (n * (n - 1))
        within_y = (kernel[n:, n:].sum() - kernel[n:, n:].trace()) / (m * (m - 1))
        return torch.tensor(within_x + within_y - 2 * kernel[:n, n:].mean(), dtype=x.dtype, device=x.device)


# --- interpolate -------------------------------------------------------------------------------------------------


@mistake("interpolate", "the pixels are mixed")
def path_of_pixels():
    def interpolate(model, start, end, steps):
        if steps < 2:
            raise ValueError("too few steps")
        t = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)[:, None]
        return (1 - t) * start + t * end


@mistake("interpolate", "the pixels are mixed, then encoded and decoded")
def path_through_pixels():
    def interpolate(model, start, end, steps):
        if steps < 2:
            raise ValueError("too few steps")
        with torch.no_grad():
            t = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)[:, None]
            pixels = ((1 - t) * start + t * end).round()
            return torch.sigmoid(model.decode(model.encode(pixels)[0]))


@mistake("interpolate", "reconstructions are mixed, not codes")
def path_of_reconstructions():
    def interpolate(model, start, end, steps):
        if steps < 2:
            raise ValueError("too few steps")
        with torch.no_grad():
            first, last = torch.sigmoid(model.decode(model.encode(torch.stack([start, end]))[0]))
            t = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)[:, None]
            return (1 - t) * first + t * last


@mistake("interpolate", "logits are mixed, not codes")
def path_of_logits():
    def interpolate(model, start, end, steps):
        if steps < 2:
            raise ValueError("too few steps")
        with torch.no_grad():
            first, last = model.decode(model.encode(torch.stack([start, end]))[0])
            t = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)[:, None]
            return torch.sigmoid((1 - t) * first + t * last)


@mistake("interpolate", "codes are drawn, where the means are asked for")
def path_of_draws():
    def interpolate(model, start, end, steps):
        if steps < 2:
            raise ValueError("too few steps")
        with torch.no_grad():
            mu, logvar = model.encode(torch.stack([start, end]))
            z = mu + (logvar / 2).exp() * torch.randn_like(mu)
            t = torch.linspace(0, 1, steps, dtype=mu.dtype, device=mu.device)[:, None]
            return torch.sigmoid(model.decode((1 - t) * z[0] + t * z[1]))


@mistake("interpolate", "the logvars are mixed: latent order swapped")
def path_of_logvars():
    def interpolate(model, start, end, steps):
        if steps < 2:
            raise ValueError("too few steps")
        with torch.no_grad():
            _, mu = model.encode(torch.stack([start, end]))
            t = torch.linspace(0, 1, steps, dtype=mu.dtype, device=mu.device)[:, None]
            return torch.sigmoid(model.decode((1 - t) * mu[0] + t * mu[1]))


@mistake("interpolate", "from the end to the start")
def path_reversed():
    def interpolate(model, start, end, steps):
        if steps < 2:
            raise ValueError("too few steps")
        with torch.no_grad():
            mu, _ = model.encode(torch.stack([start, end]))
            t = torch.linspace(0, 1, steps, dtype=mu.dtype, device=mu.device)[:, None]
            return torch.sigmoid(model.decode(t * mu[0] + (1 - t) * mu[1]))


@mistake("interpolate", "the end is left out")
def path_without_end():
    def interpolate(model, start, end, steps):
        if steps < 2:
            raise ValueError("too few steps")
        with torch.no_grad():
            mu, _ = model.encode(torch.stack([start, end]))
            t = torch.arange(steps, dtype=mu.dtype, device=mu.device)[:, None] / steps
            return torch.sigmoid(model.decode((1 - t) * mu[0] + t * mu[1]))


@mistake("interpolate", "both ends are left out")
def path_without_ends():
    def interpolate(model, start, end, steps):
        if steps < 2:
            raise ValueError("too few steps")
        with torch.no_grad():
            mu, _ = model.encode(torch.stack([start, end]))
            t = torch.linspace(0, 1, steps + 2, dtype=mu.dtype, device=mu.device)[1:-1, None]
            return torch.sigmoid(model.decode((1 - t) * mu[0] + t * mu[1]))


@mistake("interpolate", "steps + 1 images")
def path_one_more():
    def interpolate(model, start, end, steps):
        if steps < 2:
            raise ValueError("too few steps")
        with torch.no_grad():
            mu, _ = model.encode(torch.stack([start, end]))
            t = torch.linspace(0, 1, steps + 1, dtype=mu.dtype, device=mu.device)[:, None]
            return torch.sigmoid(model.decode((1 - t) * mu[0] + t * mu[1]))


@mistake("interpolate", "logits, not probabilities")
def path_logits():
    def interpolate(model, start, end, steps):
        if steps < 2:
            raise ValueError("too few steps")
        with torch.no_grad():
            mu, _ = model.encode(torch.stack([start, end]))
            t = torch.linspace(0, 1, steps, dtype=mu.dtype, device=mu.device)[:, None]
            return model.decode((1 - t) * mu[0] + t * mu[1])


@mistake("interpolate", "sigmoid twice")
def path_sigmoid_twice():
    def interpolate(model, start, end, steps):
        if steps < 2:
            raise ValueError("too few steps")
        with torch.no_grad():
            mu, _ = model.encode(torch.stack([start, end]))
            t = torch.linspace(0, 1, steps, dtype=mu.dtype, device=mu.device)[:, None]
            return torch.sigmoid(torch.sigmoid(model.decode((1 - t) * mu[0] + t * mu[1])))


@mistake("interpolate", "on a sphere")
def path_spherical():
    def interpolate(model, start, end, steps):
        if steps < 2:
            raise ValueError("too few steps")
        with torch.no_grad():
            a, b = model.encode(torch.stack([start, end]))[0]
            t = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device)[:, None]
            omega = torch.acos((a @ b / (a.norm() * b.norm())).clamp(-0.999, 0.999))
            z = (torch.sin((1 - t) * omega) * a + torch.sin(t * omega) * b) / torch.sin(omega)
            return torch.sigmoid(model.decode(z))


@mistake("interpolate", "through forward, which draws in training mode")
def path_forward():
    def interpolate(model, start, end, steps):
        if steps < 2:
            raise ValueError("too few steps")
        with torch.no_grad():
            first, last = (model(image[None])[0][0] for image in (start, end))
            mu, _ = model.encode(torch.stack([start, end]))
            t = torch.linspace(0, 1, steps, dtype=mu.dtype, device=mu.device)[1:-1, None]
            middle = model.decode((1 - t) * mu[0] + t * mu[1])
            return torch.sigmoid(torch.cat([first[None], middle, last[None]]))


@mistake("interpolate", "a single step is let through")
def path_single_step():
    def interpolate(model, start, end, steps):
        if steps < 1:
            raise ValueError("too few steps")
        with torch.no_grad():
            mu, _ = model.encode(torch.stack([start, end]))
            t = torch.linspace(0, 1, steps, dtype=mu.dtype, device=mu.device)[:, None]
            return torch.sigmoid(model.decode((1 - t) * mu[0] + t * mu[1]))


@mistake("interpolate", "two steps are refused")
def path_refuses_two():
    def interpolate(model, start, end, steps):
        if steps <= 2:
            raise ValueError("too few steps")
        with torch.no_grad():
            mu, _ = model.encode(torch.stack([start, end]))
            t = torch.linspace(0, 1, steps, dtype=mu.dtype, device=mu.device)[:, None]
            return torch.sigmoid(model.decode((1 - t) * mu[0] + t * mu[1]))


@mistake("interpolate", "the path carries a gradient")
def path_with_gradient():
    def interpolate(model, start, end, steps):
        if steps < 2:
            raise ValueError("too few steps")
        mu, _ = model.encode(torch.stack([start, end]))
        t = torch.linspace(0, 1, steps, dtype=mu.dtype, device=mu.device)[:, None]
        return torch.sigmoid(model.decode((1 - t) * mu[0] + t * mu[1]))


@mistake("interpolate", "the positions are float32 and on the CPU")
def path_on_cpu():
    def interpolate(model, start, end, steps):
        if steps < 2:
            raise ValueError("too few steps")
        with torch.no_grad():
            mu, _ = model.encode(torch.stack([start, end]))
            t = torch.linspace(0, 1, steps)[:, None]
            return torch.sigmoid(model.decode((1 - t) * mu[0] + t * mu[1]))


@alternative("interpolate", "a loop with lerp, image by image")
def path_lerp():
    def interpolate(model, start, end, steps):
        if steps < 2:
            raise ValueError("too few steps")
        first, last = model.encode(start[None])[0].detach(), model.encode(end[None])[0].detach()
        images = [model.decode(torch.lerp(first, last, i / (steps - 1)))[0].detach() for i in range(steps)]
        return torch.stack([1 / (1 + torch.exp(-image)) for image in images])


@alternative("interpolate", "weights as a matrix, the means from forward, without gradient at the end")
def path_matrix():
    def interpolate(model, start, end, steps):
        if steps < 2:
            raise ValueError("too few steps")
        mode = model.training
        model.eval()
        _, mu, _ = model(torch.stack((start, end)))
        t = torch.arange(steps, device=mu.device).to(mu.dtype).div(steps - 1)
        path = model.decode(torch.stack([1 - t, t], dim=1) @ mu).sigmoid().detach()
        model.train(mode)
        return path
