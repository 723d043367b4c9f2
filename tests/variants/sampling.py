"""Wrong and other right answers to the assignment on sampling (see `autograder.variants`)."""
# ruff: noqa: F821, F841 - bodies run below the answer of the reference, and a mistake may leave a variable idle

import math

import torch
from torch.distributions import Distribution, constraints

from autograder.variants import alternative, mistake

# --- exponential_icdf and inverse_transform_sample ---------------------------------------------------------------


@mistake("inverse_transform_sample", "rate inverted: the mean for the rate")
def icdf_rate_inverted():
    def exponential_icdf(u, rate):
        if ((u < 0) | (u > 1)).any() or (rate <= 0).any():
            raise ValueError("bad argument")
        return -torch.log1p(-u) * rate


@mistake("inverse_transform_sample", "-ln u: a right sampler, but not the quantile function")
def icdf_survival():
    def exponential_icdf(u, rate):
        if ((u < 0) | (u > 1)).any() or (rate <= 0).any():
            raise ValueError("bad argument")
        return -torch.log(u) / rate


@mistake("inverse_transform_sample", "1 - u loses the digits of a small u")
def icdf_cancellation():
    def exponential_icdf(u, rate):
        if ((u < 0) | (u > 1)).any() or (rate <= 0).any():
            raise ValueError("bad argument")
        return -torch.log(1 - u) / rate


@mistake("inverse_transform_sample", "the sign is lost")
def icdf_negative():
    def exponential_icdf(u, rate):
        if ((u < 0) | (u > 1)).any() or (rate <= 0).any():
            raise ValueError("bad argument")
        return torch.log1p(-u) / rate


@mistake("inverse_transform_sample", "u is kept away from 0 and 1")
def icdf_clamped():
    def exponential_icdf(u, rate):
        if ((u < 0) | (u > 1)).any() or (rate <= 0).any():
            raise ValueError("bad argument")
        return -torch.log1p(-u.clamp(1e-6, 1 - 1e-6)) / rate


@mistake("inverse_transform_sample", "u = 0 and u = 1 are refused")
def icdf_refuses_the_ends():
    def exponential_icdf(u, rate):
        if ((u <= 0) | (u >= 1)).any() or (rate <= 0).any():
            raise ValueError("bad argument")
        return -torch.log1p(-u) / rate


@mistake("inverse_transform_sample", "a rate of zero is let through")
def icdf_zero_rate():
    def exponential_icdf(u, rate):
        if ((u < 0) | (u > 1)).any() or (rate < 0).any():
            raise ValueError("bad argument")
        return -torch.log1p(-u) / rate


@mistake("inverse_transform_sample", "always float64")
def icdf_float64():
    def exponential_icdf(u, rate):
        if ((u < 0) | (u > 1)).any() or (rate <= 0).any():
            raise ValueError("bad argument")
        return -torch.log1p(-u.double()) / rate


@mistake("inverse_transform_sample", "the generator is ignored")
def inversion_global_generator():
    def exponential_icdf(u, rate):
        return torch.distributions.Exponential(rate, validate_args=True).icdf(u)

    def inverse_transform_sample(icdf, shape, generator):
        return icdf(torch.rand(shape, dtype=torch.float64))


@mistake("inverse_transform_sample", "every call starts the generator again")
def inversion_reseeds():
    def inverse_transform_sample(icdf, shape, generator):
        fresh = torch.Generator().manual_seed(generator.initial_seed())
        return icdf(torch.rand(shape, generator=fresh, dtype=torch.float64))


@mistake("inverse_transform_sample", "float32 numbers, made longer")
def inversion_float32():
    def inverse_transform_sample(icdf, shape, generator):
        return icdf(torch.rand(shape, generator=generator).double())


@mistake("inverse_transform_sample", "normal numbers for uniform ones")
def inversion_of_normal_numbers():
    def inverse_transform_sample(icdf, shape, generator):
        z = torch.randn(shape, generator=generator, dtype=torch.float64)
        return icdf(z.abs().clamp(max=0.999))


@mistake("inverse_transform_sample", "one row of draws for all rows")
def inversion_repeats_a_row():
    def inverse_transform_sample(icdf, shape, generator):
        u = torch.rand(shape[-1:], generator=generator, dtype=torch.float64)
        return icdf(u.expand(shape).clone())


@mistake("inverse_transform_sample", "evenly spaced numbers, shuffled")
def inversion_of_a_grid():
    def inverse_transform_sample(icdf, shape, generator):
        n = math.prod(shape)
        order = torch.randperm(n, generator=generator)
        offset = torch.rand((), generator=generator, dtype=torch.float64)
        return icdf((order + offset) / max(n, 1)).reshape(shape)


@mistake("inverse_transform_sample", "icdf is never called: always exponential draws")
def inversion_without_icdf():
    def inverse_transform_sample(icdf, shape, generator):
        return torch.empty(shape, dtype=torch.float64).exponential_(generator=generator)


@alternative("inverse_transform_sample", "torch.distributions, and the generator's in-place uniform_")
def inversion_distribution():
    def exponential_icdf(u, rate):
        if not bool(torch.all((u >= 0) & (u <= 1))):
            raise ValueError("not a probability")
        return torch.distributions.Exponential(rate, validate_args=True).icdf(u)

    def inverse_transform_sample(icdf, shape, generator):
        return icdf(torch.empty(shape, dtype=torch.float64, device=generator.device).uniform_(generator=generator))


@alternative("inverse_transform_sample", "one number at a time, by 1 - u, drawn from the last to the first")
def inversion_loop():
    def exponential_icdf(u, rate):
        if bool((u < 0).any()) or bool((u > 1).any()) or not bool((rate > 0).all()):
            raise ValueError("bad argument")
        return torch.special.xlog1py(-1 / rate, -u)

    def inverse_transform_sample(icdf, shape, generator):
        numbers = [
            1 - torch.rand((), generator=generator, dtype=torch.float64, device=generator.device)
            for _ in range(math.prod(shape))
        ]
        u = torch.stack(numbers[::-1]) if numbers else torch.empty(0, dtype=torch.float64, device=generator.device)
        return icdf(u.clamp(max=1 - 2**-53).reshape(shape))


@alternative("inverse_transform_sample", "random integers over their range; expm1's inverse by hand")
def inversion_of_integers():
    def exponential_icdf(u, rate):
        if (torch.minimum(u, 1 - u) < 0).any():
            raise ValueError("probabilities only")
        if (rate <= 0).any():
            raise ValueError("rates must be positive")
        return torch.log1p(-u).neg().div(rate)

    def inverse_transform_sample(icdf, shape, generator):
        whole = torch.randint(0, 2**53, shape, generator=generator, dtype=torch.int64, device=generator.device)
        return icdf(whole.double() / 2**53)


# --- UniformDisk -----------------------------------------------------------------------------------------------------


@mistake("UniformDisk", "the radius without the square root")
def disk_uniform_radius():
    class UniformDisk(UniformDisk):
        def rsample(self, sample_shape=()):
            shape = self._extended_shape(torch.Size(sample_shape))[:-1]
            options = {"dtype": self.radius.dtype, "device": self.radius.device}
            distance = torch.rand(shape, **options)
            angle = 2 * math.pi * torch.rand(shape, **options)
            noise = torch.stack([distance * angle.cos(), distance * angle.sin()], dim=-1)
            return self.center + self.radius[..., None] * noise


@mistake("UniformDisk", "log_prob is finite outside the disk")
def disk_finite_everywhere():
    class UniformDisk(UniformDisk):
        def log_prob(self, value):
            if self._validate_args:
                self._validate_sample(value)
            return -torch.log(math.pi * self.radius**2) + 0 * value.sum(-1)


@mistake("UniformDisk", "the circumference for the area")
def disk_circumference():
    class UniformDisk(UniformDisk):
        def log_prob(self, value):
            if self._validate_args:
                self._validate_sample(value)
            inside = self.support.check(value)
            return torch.where(inside, -torch.log(2 * math.pi * self.radius), -math.inf)


@mistake("UniformDisk", "the radius for its square in the density")
def disk_radius_for_square():
    class UniformDisk(UniformDisk):
        def log_prob(self, value):
            if self._validate_args:
                self._validate_sample(value)
            inside = self.support.check(value)
            return torch.where(inside, -torch.log(math.pi * self.radius), -math.inf)


@mistake("UniformDisk", "the sign of the log density is lost")
def disk_log_area():
    class UniformDisk(UniformDisk):
        def log_prob(self, value):
            if self._validate_args:
                self._validate_sample(value)
            inside = self.support.check(value)
            return torch.where(inside, torch.log(math.pi * self.radius**2), -math.inf)


@mistake("UniformDisk", "the density in place of its logarithm")
def disk_density():
    class UniformDisk(UniformDisk):
        def log_prob(self, value):
            if self._validate_args:
                self._validate_sample(value)
            inside = self.support.check(value)
            return torch.where(inside, 1 / (math.pi * self.radius**2), 0.0)


@mistake("UniformDisk", "angles only up to pi")
def disk_half_turn():
    class UniformDisk(UniformDisk):
        def rsample(self, sample_shape=()):
            shape = self._extended_shape(torch.Size(sample_shape))[:-1]
            options = {"dtype": self.radius.dtype, "device": self.radius.device}
            distance = torch.rand(shape, **options).sqrt()
            angle = math.pi * torch.rand(shape, **options)
            noise = torch.stack([distance * angle.cos(), distance * angle.sin()], dim=-1)
            return self.center + self.radius[..., None] * noise


@mistake("UniformDisk", "one uniform number for radius and angle")
def disk_one_number():
    class UniformDisk(UniformDisk):
        def rsample(self, sample_shape=()):
            shape = self._extended_shape(torch.Size(sample_shape))[:-1]
            options = {"dtype": self.radius.dtype, "device": self.radius.device}
            u = torch.rand(shape, **options)
            distance, angle = u.sqrt(), 2 * math.pi * u
            noise = torch.stack([distance * angle.cos(), distance * angle.sin()], dim=-1)
            return self.center + self.radius[..., None] * noise


@mistake("UniformDisk", "a square is filled")
def disk_square():
    class UniformDisk(UniformDisk):
        def rsample(self, sample_shape=()):
            shape = self._extended_shape(torch.Size(sample_shape))[:-1]
            options = {"dtype": self.radius.dtype, "device": self.radius.device}
            noise = 2 * torch.rand(*shape, 2, **options) - 1
            return self.center + self.radius[..., None] * noise


@mistake("UniformDisk", "all points on the rim")
def disk_on_the_rim():
    class UniformDisk(UniformDisk):
        def rsample(self, sample_shape=()):
            shape = self._extended_shape(torch.Size(sample_shape))[:-1]
            options = {"dtype": self.radius.dtype, "device": self.radius.device}
            distance = torch.ones(shape, **options)
            angle = 2 * math.pi * torch.rand(shape, **options)
            noise = torch.stack([distance * angle.cos(), distance * angle.sin()], dim=-1)
            return self.center + self.radius[..., None] * noise


@mistake("UniformDisk", "normal noise, pulled back to the rim where it is outside")
def disk_normal_noise():
    class UniformDisk(UniformDisk):
        def rsample(self, sample_shape=()):
            shape = self._extended_shape(torch.Size(sample_shape))[:-1]
            options = {"dtype": self.radius.dtype, "device": self.radius.device}
            noise = torch.randn(*shape, 2, **options)
            noise = noise / noise.norm(dim=-1, keepdim=True).clamp(min=1)
            return self.center + self.radius[..., None] * noise


@mistake("UniformDisk", "the draws are cut off from the parameters")
def disk_without_gradient():
    class UniformDisk(UniformDisk):
        def rsample(self, sample_shape=()):
            shape = self._extended_shape(torch.Size(sample_shape))[:-1]
            options = {"dtype": self.radius.dtype, "device": self.radius.device}
            distance = torch.rand(shape, **options).sqrt()
            angle = 2 * math.pi * torch.rand(shape, **options)
            noise = torch.stack([distance * angle.cos(), distance * angle.sin()], dim=-1)
            with torch.no_grad():
                return self.center + self.radius[..., None] * noise


@mistake("UniformDisk", "gradients reach the centers only")
def disk_radius_detached():
    class UniformDisk(UniformDisk):
        def rsample(self, sample_shape=()):
            shape = self._extended_shape(torch.Size(sample_shape))[:-1]
            options = {"dtype": self.radius.dtype, "device": self.radius.device}
            distance = torch.rand(shape, **options).sqrt()
            angle = 2 * math.pi * torch.rand(shape, **options)
            noise = torch.stack([distance * angle.cos(), distance * angle.sin()], dim=-1)
            return self.center + self.radius.detach()[..., None] * noise


@mistake("UniformDisk", "one noise for all the disks of a batch")
def disk_shared_noise():
    class UniformDisk(UniformDisk):
        def rsample(self, sample_shape=()):
            shape = self._extended_shape(torch.Size(sample_shape))[:-1]
            options = {"dtype": self.radius.dtype, "device": self.radius.device}
            sample_shape = tuple(sample_shape)
            distance = torch.rand(sample_shape, **options).sqrt()
            angle = 2 * math.pi * torch.rand(sample_shape, **options)
            noise = torch.stack([distance * angle.cos(), distance * angle.sin()], dim=-1)
            noise = noise.reshape(*sample_shape, *[1] * len(self.batch_shape), 2).expand(*shape, 2)
            return self.center + self.radius[..., None] * noise


@mistake("UniformDisk", "one draw from each disk, repeated")
def disk_repeated_draw():
    class UniformDisk(UniformDisk):
        def rsample(self, sample_shape=()):
            shape = self._extended_shape(torch.Size(sample_shape))[:-1]
            options = {"dtype": self.radius.dtype, "device": self.radius.device}
            distance = torch.rand(self.batch_shape, **options).sqrt().expand(shape)
            angle = 2 * math.pi * torch.rand(self.batch_shape, **options).expand(shape)
            noise = torch.stack([distance * angle.cos(), distance * angle.sin()], dim=-1)
            return self.center + self.radius[..., None] * noise


@mistake("UniformDisk", "a seed of its own")
def disk_own_seed():
    class UniformDisk(UniformDisk):
        def rsample(self, sample_shape=()):
            shape = self._extended_shape(torch.Size(sample_shape))[:-1]
            options = {"dtype": self.radius.dtype, "device": self.radius.device}
            generator = torch.Generator(self.radius.device).manual_seed(0)
            distance = torch.rand(shape, generator=generator, **options).sqrt()
            angle = 2 * math.pi * torch.rand(shape, generator=generator, **options)
            noise = torch.stack([distance * angle.cos(), distance * angle.sin()], dim=-1)
            return self.center + self.radius[..., None] * noise


@mistake("UniformDisk", "draws are always float32")
def disk_float32():
    class UniformDisk(UniformDisk):
        def rsample(self, sample_shape=()):
            shape = self._extended_shape(torch.Size(sample_shape))[:-1]
            options = {"device": self.radius.device}
            distance = torch.rand(shape, **options).sqrt()
            angle = 2 * math.pi * torch.rand(shape, **options)
            noise = torch.stack([distance * angle.cos(), distance * angle.sin()], dim=-1)
            return self.center.float() + self.radius.float()[..., None] * noise


@mistake("UniformDisk", "points are never validated")
def disk_no_validation():
    class UniformDisk(UniformDisk):
        def log_prob(self, value):
            inside = self.support.check(value)
            return torch.where(inside, -torch.log(math.pi * self.radius**2), -math.inf)


@mistake("UniformDisk", "points are validated even where checks are off")
def disk_always_validates():
    class UniformDisk(UniformDisk):
        def log_prob(self, value):
            if not self.support.check(value).all():
                raise ValueError("outside")
            inside = self.support.check(value)
            return torch.where(inside, -torch.log(math.pi * self.radius**2), -math.inf)


@mistake("UniformDisk", "arguments are never checked: no constraints")
def disk_checks_forgotten():
    class UniformDisk(UniformDisk):
        @property
        def arg_constraints(self):
            return {}


@mistake("UniformDisk", "a radius of zero is let through")
def disk_nonnegative_radius():
    class UniformDisk(UniformDisk):
        @property
        def arg_constraints(self):
            return {"center": constraints.real_vector, "radius": constraints.nonnegative}


@mistake("UniformDisk", "the center is a number, not a vector")
def disk_real_center():
    class UniformDisk(UniformDisk):
        @property
        def arg_constraints(self):
            return {"center": constraints.real, "radius": constraints.positive}


@mistake("UniformDisk", "validate_args is not passed on to the base class")
def disk_validate_args_lost():
    class UniformDisk(UniformDisk):
        def __init__(self, center, radius, validate_args=None):
            if center.shape[-1:] != (2,):
                raise ValueError("a center has two coordinates")
            self.radius, _ = torch.broadcast_tensors(radius, center[..., 0])
            self.center = center.expand(*self.radius.shape, 2)
            Distribution.__init__(self, self.radius.shape, torch.Size([2]))


@mistake("UniformDisk", "a center may have any number of coordinates")
def disk_any_center():
    class UniformDisk(UniformDisk):
        def __init__(self, center, radius, validate_args=None):
            self.radius, _ = torch.broadcast_tensors(radius, center[..., 0])
            self.center = center.expand(*self.radius.shape, 2)
            Distribution.__init__(self, self.radius.shape, torch.Size([2]), validate_args=validate_args)


@mistake("UniformDisk", "the support is the square around the disk")
def disk_square_support():
    class Disk(Disk):
        def check(self, value):
            return ((value - self.center).abs() <= self.radius[..., None]).all(-1)


@mistake("UniformDisk", "the support forgets the center")
def disk_support_at_origin():
    class Disk(Disk):
        def check(self, value):
            return value.norm(dim=-1) <= self.radius


@mistake("UniformDisk", "a squared distance is compared with the radius")
def disk_radius_unsquared():
    class Disk(Disk):
        def check(self, value):
            return (value - self.center).square().sum(-1) <= self.radius


@mistake("UniformDisk", "the rim does not belong to the disk")
def disk_open_support():
    class Disk(Disk):
        def check(self, value):
            return (value - self.center).norm(dim=-1) < self.radius


@mistake("UniformDisk", "the support answers for each coordinate")
def disk_support_by_coordinate():
    class Disk(Disk):
        event_dim = 0

        def check(self, value):
            return ((value - self.center).norm(dim=-1) <= self.radius)[..., None].expand_as(value)

    class UniformDisk(UniformDisk):
        def log_prob(self, value):
            if self._validate_args:
                self._validate_sample(value)
            inside = self.support.check(value).all(-1)
            return torch.where(inside, -torch.log(math.pi * self.radius**2), -math.inf)


@mistake("UniformDisk", "the two coordinates are a batch, not an event")
def disk_two_numbers():
    class UniformDisk(UniformDisk):
        def __init__(self, center, radius, validate_args=None):
            if center.shape[-1:] != (2,):
                raise ValueError("a center has two coordinates")
            self.radius, _ = torch.broadcast_tensors(radius, center[..., 0])
            self.center = center.expand(*self.radius.shape, 2)
            Distribution.__init__(self, self.center.shape, torch.Size([]), validate_args=validate_args)

        def rsample(self, sample_shape=()):
            shape = torch.Size(sample_shape) + self.radius.shape
            options = {"dtype": self.radius.dtype, "device": self.radius.device}
            distance = torch.rand(shape, **options).sqrt()
            angle = 2 * math.pi * torch.rand(shape, **options)
            noise = torch.stack([distance * angle.cos(), distance * angle.sin()], dim=-1)
            return self.center + self.radius[..., None] * noise


@mistake("UniformDisk", "the mean squared distance for the variance of a coordinate")
def disk_variance_of_distance():
    class UniformDisk(UniformDisk):
        @property
        def variance(self):
            return (self.radius**2 / 2)[..., None].expand_as(self.center)


@mistake("UniformDisk", "the variance has the shape of the batch")
def disk_variance_of_batch():
    class UniformDisk(UniformDisk):
        @property
        def variance(self):
            return self.radius**2 / 4


@mistake("UniformDisk", "the sign of the entropy is lost")
def disk_entropy_sign():
    class UniformDisk(UniformDisk):
        def entropy(self):
            return -torch.log(math.pi * self.radius**2)


@mistake("UniformDisk", "the expanded object checks arguments again")
def disk_expand_forgets():
    class UniformDisk(UniformDisk):
        def expand(self, batch_shape, _instance=None):
            shape = torch.Size(batch_shape)
            return UniformDisk(self.center.expand(*shape, 2), self.radius.expand(shape))


@mistake("UniformDisk", "expand returns the object itself")
def disk_expand_does_nothing():
    class UniformDisk(UniformDisk):
        def expand(self, batch_shape, _instance=None):
            return self


@mistake("UniformDisk", "expand forgets the centers")
def disk_expand_radius_only():
    class UniformDisk(UniformDisk):
        def expand(self, batch_shape, _instance=None):
            shape = torch.Size(batch_shape)
            new = UniformDisk(self.center, self.radius, self._validate_args)
            new.radius = self.radius.expand(shape)
            return new


@mistake("UniformDisk", "one log density for the whole batch")
def disk_log_prob_summed():
    class UniformDisk(UniformDisk):
        def log_prob(self, value):
            if self._validate_args:
                self._validate_sample(value)
            inside = self.support.check(value)
            return torch.where(inside, -torch.log(math.pi * self.radius**2), -math.inf).sum(-1)


@alternative(
    "UniformDisk",
    "constraints as class attributes, a constraint made of ready-made parts, expand by _get_checked_instance",
)
def disk_like_torch():
    class Disk(constraints.Constraint):
        event_dim = 1

        def __init__(self, center, radius):
            self.center, self.radius = center, radius
            super().__init__()

        def check(self, value):
            x, y = (value - self.center).unbind(-1)
            return torch.hypot(x, y) <= self.radius

    class UniformDisk(Distribution):
        arg_constraints = {
            "center": constraints.independent(constraints.real, 1),
            "radius": constraints.greater_than(0.0),
        }
        has_rsample = True

        def __init__(self, center, radius, validate_args=None):
            if center.dim() == 0 or center.size(-1) != 2:
                raise ValueError("two coordinates")
            shape = torch.broadcast_shapes(center.shape[:-1], radius.shape)
            self.center, self.radius = center.expand(*shape, 2), radius.expand(shape)
            super().__init__(shape, center.shape[-1:], validate_args=validate_args)

        @property
        def support(self):
            return Disk(self.center, self.radius)

        @property
        def mean(self):
            return self.center.clone()

        @property
        def variance(self):
            return torch.stack([self.radius.square(), self.radius.square()], dim=-1) * 0.25

        def rsample(self, sample_shape=()):
            shape = torch.Size(sample_shape) + self.batch_shape
            turns = torch.rand(shape, dtype=self.center.dtype, device=self.center.device)
            share = torch.rand(shape, dtype=self.center.dtype, device=self.center.device)
            spoke = torch.polar(torch.sqrt(share), 2 * math.pi * turns)
            return torch.addcmul(self.center, self.radius.unsqueeze(-1), torch.view_as_real(spoke))

        def log_prob(self, value):
            if self._validate_args:
                self._validate_sample(value)
            result = (-math.log(math.pi) - 2 * torch.log(self.radius)).expand(
                torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
            )
            return result.masked_fill(~self.support.check(value), float("-inf"))

        def entropy(self):
            return -self.log_prob(self.center)

        def expand(self, batch_shape, _instance=None):
            new = self._get_checked_instance(UniformDisk, _instance)
            batch_shape = torch.Size(batch_shape)
            new.center, new.radius = self.center.expand(*batch_shape, 2), self.radius.expand(batch_shape)
            super(UniformDisk, new).__init__(batch_shape, self.event_shape, validate_args=False)
            new._validate_args = self._validate_args
            return new


@alternative("UniformDisk", "noise by rejection from a square")
def disk_by_rejection():
    class UniformDisk(UniformDisk):
        def rsample(self, sample_shape=()):
            shape = self._extended_shape(torch.Size(sample_shape))[:-1]
            options = {"dtype": self.radius.dtype, "device": self.radius.device}
            noise = 2 * torch.rand(*shape, 2, **options) - 1
            while (outside := noise.square().sum(-1) > 1).any():
                noise[outside] = 2 * torch.rand(int(outside.sum()), 2, **options) - 1
            return self.center + self.radius[..., None] * noise


@alternative("UniformDisk", "noise as the direction of a normal vector in four dimensions, two coordinates of it")
def disk_from_three_dimensions():
    class UniformDisk(UniformDisk):
        def rsample(self, sample_shape=()):
            shape = self._extended_shape(torch.Size(sample_shape))[:-1]
            options = {"dtype": self.radius.dtype, "device": self.radius.device}
            direction = torch.randn(*shape, 4, **options)
            noise = (direction / direction.norm(dim=-1, keepdim=True))[..., :2]
            return self.center + self.radius[..., None] * noise


@alternative("UniformDisk", "noise from sums folded back, a class attribute for the constraints")
def disk_triangle():
    class UniformDisk(UniformDisk):
        arg_constraints = {"center": constraints.real_vector, "radius": constraints.positive}

        def rsample(self, sample_shape=()):
            shape = self._extended_shape(torch.Size(sample_shape))[:-1]
            options = {"dtype": self.radius.dtype, "device": self.radius.device}
            distance = torch.maximum(torch.rand(shape, **options), torch.rand(shape, **options))
            angle = 2 * math.pi * torch.rand(shape, **options)
            noise = torch.stack([distance * angle.cos(), distance * angle.sin()], dim=-1)
            return self.center + self.radius[..., None] * noise


# --- rejection_sample ------------------------------------------------------------------------------------------------


@mistake("rejection_sample", "an M below the largest ratio goes unnoticed")
def rejection_m_not_checked():
    def rejection_sample(log_target, sample_proposal, log_proposal, log_m, n, generator):
        if n < 1:
            raise ValueError("no points")
        kept, passed, judged = [], 0, 0
        while passed < n and judged < 300 * n:
            x = sample_proposal(n, generator)
            log_ratio = log_target(x) - log_proposal(x) - log_m
            u = torch.rand(n, generator=generator, dtype=log_ratio.dtype, device=log_ratio.device)
            accept = u.log() < log_ratio
            kept.append(x[accept])
            passed += int(accept.sum())
            judged += n
        return torch.cat(kept)[:n], passed / judged


@mistake("rejection_sample", "M is refused only if every proposal exceeds it")
def rejection_m_checked_on_kept_logs_only():
    def rejection_sample(log_target, sample_proposal, log_proposal, log_m, n, generator):
        if n < 1:
            raise ValueError("no points")
        kept, passed, judged = [], 0, 0
        while passed < n and judged < 300 * n:
            x = sample_proposal(n, generator)
            log_ratio = log_target(x) - log_proposal(x) - log_m
            if (log_ratio > 1e-4).all():
                raise ValueError("M is too small")
            u = torch.rand(n, generator=generator, dtype=log_ratio.dtype, device=log_ratio.device)
            accept = u.log() < log_ratio
            kept.append(x[accept])
            passed += int(accept.sum())
            judged += n
        return torch.cat(kept)[:n], passed / judged


@mistake("rejection_sample", "rounding is taken for an M that is too small")
def rejection_m_checked_without_tolerance():
    def rejection_sample(log_target, sample_proposal, log_proposal, log_m, n, generator):
        if n < 1:
            raise ValueError("no points")
        kept, passed, judged = [], 0, 0
        while passed < n and judged < 300 * n:
            x = sample_proposal(n, generator)
            log_ratio = log_target(x) - log_proposal(x) - log_m
            if (log_ratio > 0).any():
                raise ValueError("M is too small")
            u = torch.rand(n, generator=generator, dtype=log_ratio.dtype, device=log_ratio.device)
            accept = u.log() < log_ratio
            kept.append(x[accept])
            passed += int(accept.sum())
            judged += n
        return torch.cat(kept)[:n], passed / judged


@mistake("rejection_sample", "the ratio is inverted")
def rejection_ratio_inverted():
    def rejection_sample(log_target, sample_proposal, log_proposal, log_m, n, generator):
        if n < 1:
            raise ValueError("no points")
        kept, passed, judged = [], 0, 0
        while passed < n and judged < 300 * n:
            x = sample_proposal(n, generator)
            log_ratio = log_target(x) - log_proposal(x) - log_m
            if (log_ratio > 1e-4).any():
                raise ValueError("M is too small")
            u = torch.rand(n, generator=generator, dtype=log_ratio.dtype, device=log_ratio.device)
            accept = u.log() < -log_ratio - 2 * log_m
            kept.append(x[accept])
            passed += int(accept.sum())
            judged += n
        return torch.cat(kept)[:n], passed / judged


@mistake("rejection_sample", "what should be rejected is kept")
def rejection_keeps_the_rejected():
    def rejection_sample(log_target, sample_proposal, log_proposal, log_m, n, generator):
        if n < 1:
            raise ValueError("no points")
        kept, passed, judged = [], 0, 0
        while passed < n and judged < 300 * n:
            x = sample_proposal(n, generator)
            log_ratio = log_target(x) - log_proposal(x) - log_m
            if (log_ratio > 1e-4).any():
                raise ValueError("M is too small")
            u = torch.rand(n, generator=generator, dtype=log_ratio.dtype, device=log_ratio.device)
            accept = u.log() > log_ratio
            kept.append(x[accept])
            passed += int(accept.sum())
            judged += n
        return torch.cat(kept)[:n], passed / judged


@mistake("rejection_sample", "u is compared with a logarithm")
def rejection_u_against_log():
    def rejection_sample(log_target, sample_proposal, log_proposal, log_m, n, generator):
        if n < 1:
            raise ValueError("no points")
        kept, passed, judged = [], 0, 0
        while passed < n and judged < 300 * n:
            x = sample_proposal(n, generator)
            log_ratio = log_target(x) - log_proposal(x) - log_m
            if (log_ratio > 1e-4).any():
                raise ValueError("M is too small")
            u = torch.rand(n, generator=generator, dtype=log_ratio.dtype, device=log_ratio.device)
            accept = u < log_ratio + 1
            kept.append(x[accept])
            passed += int(accept.sum())
            judged += n
        return torch.cat(kept)[:n], passed / judged


@mistake("rejection_sample", "the proposal's density is left out")
def rejection_without_proposal():
    def rejection_sample(log_target, sample_proposal, log_proposal, log_m, n, generator):
        if n < 1:
            raise ValueError("no points")
        kept, passed, judged = [], 0, 0
        while passed < n and judged < 300 * n:
            x = sample_proposal(n, generator)
            log_ratio = log_target(x) - log_proposal(x) - log_m
            if (log_ratio > 1e-4).any():
                raise ValueError("M is too small")
            u = torch.rand(n, generator=generator, dtype=log_ratio.dtype, device=log_ratio.device)
            accept = u.log() < log_target(x) - log_m
            kept.append(x[accept])
            passed += int(accept.sum())
            judged += n
        return torch.cat(kept)[:n], passed / judged


@mistake("rejection_sample", "M is left out of the comparison")
def rejection_without_m():
    def rejection_sample(log_target, sample_proposal, log_proposal, log_m, n, generator):
        if n < 1:
            raise ValueError("no points")
        kept, passed, judged = [], 0, 0
        while passed < n and judged < 300 * n:
            x = sample_proposal(n, generator)
            log_ratio = log_target(x) - log_proposal(x) - log_m
            if (log_ratio > 1e-4).any():
                raise ValueError("M is too small")
            u = torch.rand(n, generator=generator, dtype=log_ratio.dtype, device=log_ratio.device)
            accept = u.log() < log_ratio + log_m
            kept.append(x[accept])
            passed += int(accept.sum())
            judged += n
        return torch.cat(kept)[:n], passed / judged


@mistake("rejection_sample", "log M is taken for M")
def rejection_m_for_log_m():
    def rejection_sample(log_target, sample_proposal, log_proposal, log_m, n, generator):
        if n < 1:
            raise ValueError("no points")
        kept, passed, judged = [], 0, 0
        while passed < n and judged < 300 * n:
            x = sample_proposal(n, generator)
            log_ratio = log_target(x) - log_proposal(x) - math.log(max(log_m, 1.0))
            if (log_ratio > 1e-4).any():
                raise ValueError("M is too small")
            u = torch.rand(n, generator=generator, dtype=log_ratio.dtype, device=log_ratio.device)
            accept = u.log() < log_ratio
            kept.append(x[accept])
            passed += int(accept.sum())
            judged += n
        return torch.cat(kept)[:n], passed / judged


@mistake("rejection_sample", "one uniform number for a whole block")
def rejection_one_u():
    def rejection_sample(log_target, sample_proposal, log_proposal, log_m, n, generator):
        if n < 1:
            raise ValueError("no points")
        kept, passed, judged = [], 0, 0
        while passed < n and judged < 300 * n:
            x = sample_proposal(n, generator)
            log_ratio = log_target(x) - log_proposal(x) - log_m
            if (log_ratio > 1e-4).any():
                raise ValueError("M is too small")
            u = torch.rand(1, generator=generator, dtype=log_ratio.dtype, device=log_ratio.device)
            accept = u.log() < log_ratio
            kept.append(x[accept])
            passed += int(accept.sum())
            judged += n
        return torch.cat(kept)[:n], passed / judged


@mistake("rejection_sample", "all proposals are kept")
def rejection_everything():
    def rejection_sample(log_target, sample_proposal, log_proposal, log_m, n, generator):
        if n < 1:
            raise ValueError("no points")
        kept, passed, judged = [], 0, 0
        while passed < n and judged < 300 * n:
            x = sample_proposal(n, generator)
            log_ratio = log_target(x) - log_proposal(x) - log_m
            if (log_ratio > 1e-4).any():
                raise ValueError("M is too small")
            u = torch.rand(n, generator=generator, dtype=log_ratio.dtype, device=log_ratio.device)
            accept = log_ratio > -math.inf
            kept.append(x[accept])
            passed += int(accept.sum())
            judged += n
        return torch.cat(kept)[:n], passed / judged


@mistake("rejection_sample", "densities leave the range of floating point")
def rejection_exponentials():
    def rejection_sample(log_target, sample_proposal, log_proposal, log_m, n, generator):
        if n < 1:
            raise ValueError("no points")
        kept, passed, judged = [], 0, 0
        while passed < n and judged < 300 * n:
            x = sample_proposal(n, generator)
            log_ratio = log_target(x) - log_proposal(x) - log_m
            if (log_ratio > 1e-4).any():
                raise ValueError("M is too small")
            u = torch.rand(n, generator=generator, dtype=log_ratio.dtype, device=log_ratio.device)
            accept = u < log_target(x).exp() / (math.exp(min(log_m, 700)) * log_proposal(x).exp())
            kept.append(x[accept])
            passed += int(accept.sum())
            judged += n
        return torch.cat(kept)[:n], passed / judged


@mistake("rejection_sample", "points wanted over proposals judged")
def rejection_rate_of_wanted():
    def rejection_sample(log_target, sample_proposal, log_proposal, log_m, n, generator):
        if n < 1:
            raise ValueError("no points")
        kept, passed, judged = [], 0, 0
        while passed < n and judged < 300 * n:
            x = sample_proposal(n, generator)
            log_ratio = log_target(x) - log_proposal(x) - log_m
            if (log_ratio > 1e-4).any():
                raise ValueError("M is too small")
            u = torch.rand(n, generator=generator, dtype=log_ratio.dtype, device=log_ratio.device)
            accept = u.log() < log_ratio
            kept.append(x[accept])
            passed += int(accept.sum())
            judged += n
        return torch.cat(kept)[:n], n / judged


@mistake("rejection_sample", "the reciprocal of the rate")
def rejection_rate_inverted():
    def rejection_sample(log_target, sample_proposal, log_proposal, log_m, n, generator):
        if n < 1:
            raise ValueError("no points")
        kept, passed, judged = [], 0, 0
        while passed < n and judged < 300 * n:
            x = sample_proposal(n, generator)
            log_ratio = log_target(x) - log_proposal(x) - log_m
            if (log_ratio > 1e-4).any():
                raise ValueError("M is too small")
            u = torch.rand(n, generator=generator, dtype=log_ratio.dtype, device=log_ratio.device)
            accept = u.log() < log_ratio
            kept.append(x[accept])
            passed += int(accept.sum())
            judged += n
        return torch.cat(kept)[:n], judged / passed


@mistake("rejection_sample", "1/M is reported, whatever happened")
def rejection_rate_is_one_over_m():
    def rejection_sample(log_target, sample_proposal, log_proposal, log_m, n, generator):
        if n < 1:
            raise ValueError("no points")
        kept, passed, judged = [], 0, 0
        while passed < n and judged < 300 * n:
            x = sample_proposal(n, generator)
            log_ratio = log_target(x) - log_proposal(x) - log_m
            if (log_ratio > 1e-4).any():
                raise ValueError("M is too small")
            u = torch.rand(n, generator=generator, dtype=log_ratio.dtype, device=log_ratio.device)
            accept = u.log() < log_ratio
            kept.append(x[accept])
            passed += int(accept.sum())
            judged += n
        return torch.cat(kept)[:n], math.exp(-log_m)


@mistake("rejection_sample", "the rate of rejections")
def rejection_rate_of_rejections():
    def rejection_sample(log_target, sample_proposal, log_proposal, log_m, n, generator):
        if n < 1:
            raise ValueError("no points")
        kept, passed, judged = [], 0, 0
        while passed < n and judged < 300 * n:
            x = sample_proposal(n, generator)
            log_ratio = log_target(x) - log_proposal(x) - log_m
            if (log_ratio > 1e-4).any():
                raise ValueError("M is too small")
            u = torch.rand(n, generator=generator, dtype=log_ratio.dtype, device=log_ratio.device)
            accept = u.log() < log_ratio
            kept.append(x[accept])
            passed += int(accept.sum())
            judged += n
        return torch.cat(kept)[:n], 1 - passed / judged


@mistake("rejection_sample", "all that passed is returned")
def rejection_too_many():
    def rejection_sample(log_target, sample_proposal, log_proposal, log_m, n, generator):
        if n < 1:
            raise ValueError("no points")
        kept, passed, judged = [], 0, 0
        while passed < n and judged < 300 * n:
            x = sample_proposal(n, generator)
            log_ratio = log_target(x) - log_proposal(x) - log_m
            if (log_ratio > 1e-4).any():
                raise ValueError("M is too small")
            u = torch.rand(n, generator=generator, dtype=log_ratio.dtype, device=log_ratio.device)
            accept = u.log() < log_ratio
            kept.append(x[accept])
            passed += int(accept.sum())
            judged += n
        return torch.cat(kept), passed / judged


@mistake("rejection_sample", "a single block, so that fewer points come back")
def rejection_one_block():
    def rejection_sample(log_target, sample_proposal, log_proposal, log_m, n, generator):
        if n < 1:
            raise ValueError("no points")
        kept, passed, judged = [], 0, 0
        while passed < n and judged < 300 * n:
            x = sample_proposal(n, generator)
            log_ratio = log_target(x) - log_proposal(x) - log_m
            if (log_ratio > 1e-4).any():
                raise ValueError("M is too small")
            u = torch.rand(n, generator=generator, dtype=log_ratio.dtype, device=log_ratio.device)
            accept = u.log() < log_ratio
            kept.append(x[accept])
            passed += int(accept.sum())
            judged += n
            break
        return torch.cat(kept)[:n], passed / judged


@mistake("rejection_sample", "missing points are copied from those that passed")
def rejection_filled_up():
    def rejection_sample(log_target, sample_proposal, log_proposal, log_m, n, generator):
        if n < 1:
            raise ValueError("no points")
        kept, passed, judged = [], 0, 0
        while passed < n and judged < 300 * n:
            x = sample_proposal(n, generator)
            log_ratio = log_target(x) - log_proposal(x) - log_m
            if (log_ratio > 1e-4).any():
                raise ValueError("M is too small")
            u = torch.rand(n, generator=generator, dtype=log_ratio.dtype, device=log_ratio.device)
            accept = u.log() < log_ratio
            kept.append(x[accept])
            passed += int(accept.sum())
            judged += n
            x = x[accept]
            return x[torch.arange(n) % len(x)], passed / judged


@mistake("rejection_sample", "points come sorted")
def rejection_sorted():
    def rejection_sample(log_target, sample_proposal, log_proposal, log_m, n, generator):
        if n < 1:
            raise ValueError("no points")
        kept, passed, judged = [], 0, 0
        while passed < n and judged < 300 * n:
            x = sample_proposal(n, generator)
            log_ratio = log_target(x) - log_proposal(x) - log_m
            if (log_ratio > 1e-4).any():
                raise ValueError("M is too small")
            u = torch.rand(n, generator=generator, dtype=log_ratio.dtype, device=log_ratio.device)
            accept = u.log() < log_ratio
            kept.append(x[accept])
            passed += int(accept.sum())
            judged += n
        return torch.cat(kept)[:n].sort(dim=0).values, passed / judged


@mistake("rejection_sample", "the points of the highest density come first")
def rejection_best_points():
    def rejection_sample(log_target, sample_proposal, log_proposal, log_m, n, generator):
        if n < 1:
            raise ValueError("no points")
        kept, passed, judged = [], 0, 0
        while passed < n and judged < 300 * n:
            x = sample_proposal(n, generator)
            log_ratio = log_target(x) - log_proposal(x) - log_m
            if (log_ratio > 1e-4).any():
                raise ValueError("M is too small")
            u = torch.rand(n, generator=generator, dtype=log_ratio.dtype, device=log_ratio.device)
            accept = u.log() < log_ratio
            kept.append(x[accept][log_target(x[accept]).argsort(descending=True)])
            passed += int(accept.sum())
            judged += n
        return torch.cat(kept)[:n], passed / judged


@mistake("rejection_sample", "decisions come from the global generator")
def rejection_global_generator():
    def rejection_sample(log_target, sample_proposal, log_proposal, log_m, n, generator):
        if n < 1:
            raise ValueError("no points")
        kept, passed, judged = [], 0, 0
        while passed < n and judged < 300 * n:
            x = sample_proposal(n, generator)
            log_ratio = log_target(x) - log_proposal(x) - log_m
            if (log_ratio > 1e-4).any():
                raise ValueError("M is too small")
            u = torch.rand(n, dtype=log_ratio.dtype, device=log_ratio.device)
            accept = u.log() < log_ratio
            kept.append(x[accept])
            passed += int(accept.sum())
            judged += n
        return torch.cat(kept)[:n], passed / judged


@mistake("rejection_sample", "decisions start the generator again")
def rejection_reseeds():
    def rejection_sample(log_target, sample_proposal, log_proposal, log_m, n, generator):
        if n < 1:
            raise ValueError("no points")
        kept, passed, judged = [], 0, 0
        while passed < n and judged < 300 * n:
            x = sample_proposal(n, generator)
            log_ratio = log_target(x) - log_proposal(x) - log_m
            if (log_ratio > 1e-4).any():
                raise ValueError("M is too small")
            fresh = torch.Generator().manual_seed(generator.initial_seed())
            u = torch.rand(n, generator=fresh, dtype=log_ratio.dtype, device=log_ratio.device)
            accept = u.log() < log_ratio
            kept.append(x[accept])
            passed += int(accept.sum())
            judged += n
        return torch.cat(kept)[:n], passed / judged


@mistake("rejection_sample", "M is taken from the proposals that came")
def rejection_own_m():
    def rejection_sample(log_target, sample_proposal, log_proposal, log_m, n, generator):
        if n < 1:
            raise ValueError("no points")
        kept, passed, judged = [], 0, 0
        while passed < n and judged < 300 * n:
            x = sample_proposal(n, generator)
            log_ratio = log_target(x) - log_proposal(x) - log_m
            if (log_ratio > 1e-4).any():
                raise ValueError("M is too small")
            log_ratio = log_ratio - log_ratio.max()
            u = torch.rand(n, generator=generator, dtype=log_ratio.dtype, device=log_ratio.device)
            accept = u.log() < log_ratio
            kept.append(x[accept])
            passed += int(accept.sum())
            judged += n
        return torch.cat(kept)[:n], passed / judged


@mistake("rejection_sample", "asked for no points, it returns none")
def rejection_zero_points():
    def rejection_sample(log_target, sample_proposal, log_proposal, log_m, n, generator):
        if n < 1:
            return sample_proposal(1, generator)[:0], 1.0
        kept, passed, judged = [], 0, 0
        while passed < n and judged < 300 * n:
            x = sample_proposal(n, generator)
            log_ratio = log_target(x) - log_proposal(x) - log_m
            if (log_ratio > 1e-4).any():
                raise ValueError("M is too small")
            u = torch.rand(n, generator=generator, dtype=log_ratio.dtype, device=log_ratio.device)
            accept = u.log() < log_ratio
            kept.append(x[accept])
            passed += int(accept.sum())
            judged += n
        return torch.cat(kept)[:n], passed / judged


@mistake("rejection_sample", "points are always float64")
def rejection_float64():
    def rejection_sample(log_target, sample_proposal, log_proposal, log_m, n, generator):
        if n < 1:
            raise ValueError("no points")
        kept, passed, judged = [], 0, 0
        while passed < n and judged < 300 * n:
            x = sample_proposal(n, generator)
            log_ratio = log_target(x) - log_proposal(x) - log_m
            if (log_ratio > 1e-4).any():
                raise ValueError("M is too small")
            u = torch.rand(n, generator=generator, dtype=log_ratio.dtype, device=log_ratio.device)
            accept = u.log() < log_ratio
            kept.append(x[accept])
            passed += int(accept.sum())
            judged += n
        return torch.cat(kept)[:n].double(), passed / judged


@alternative("rejection_sample", "decided one by one in a loop, up to the last that is needed")
def rejection_one_by_one():
    def rejection_sample(log_target, sample_proposal, log_proposal, log_m, n, generator):
        if n <= 0:
            raise ValueError("n must be positive")
        points, judged = [], 0
        while True:
            block = sample_proposal(64, generator)
            log_ratios = (log_target(block) - log_proposal(block) - log_m).tolist()
            heights = torch.rand(64, generator=generator, dtype=torch.float64, device=generator.device).tolist()
            for x, log_ratio, u in zip(block, log_ratios, heights, strict=True):
                judged += 1
                if log_ratio > 1e-4:
                    raise ValueError("M is too small")
                if u < math.exp(log_ratio):
                    points.append(x)
                if len(points) == n:
                    return torch.stack(points), n / judged


@alternative(
    "rejection_sample", "decisions drawn before the proposals, blocks fitted to the rate, exponential numbers for -ln u"
)
def rejection_exponential():
    def rejection_sample(log_target, sample_proposal, log_proposal, log_m, n, generator):
        if n < 1:
            raise ValueError("n must be positive")
        found, passed, judged = None, 0, 0
        while passed < n:
            rate = (passed + 1) / (judged + 2)
            size = min(int(1.1 * (n - passed) / rate) + 10, 100_000)
            cost = torch.empty(size, dtype=torch.float64, device=generator.device).exponential_(generator=generator)
            x = sample_proposal(size, generator)
            slack = log_m + log_proposal(x) - log_target(x)
            if bool((slack < -1e-4).any()):
                raise ValueError("the envelope is too low")
            new = x[cost > slack]
            found = new if found is None else torch.cat([found, new])
            passed, judged = len(found), judged + size
        return found[:n], torch.tensor(passed / judged)


@alternative("rejection_sample", "the count stops at the nth that passes")
def rejection_stops_counting():
    def rejection_sample(log_target, sample_proposal, log_proposal, log_m, n, generator):
        if n < 1:
            raise ValueError("n must be positive")
        points, decisions = [], []
        while sum(int(d.sum()) for d in decisions) < n:
            x = sample_proposal(2 * n + 5, generator)
            log_ratio = log_target(x) - log_proposal(x) - log_m
            if log_ratio.max() > 1e-4:
                raise ValueError("M is too small")
            u = 1 - torch.rand(log_ratio.shape, generator=generator, dtype=log_ratio.dtype, device=x.device)
            points.append(x)
            decisions.append(u <= log_ratio.exp())
        accept = torch.cat(decisions)
        places = accept.nonzero().squeeze(1)[:n]
        return torch.cat(points)[places], n / (places[-1].item() + 1)


# --- metropolis ------------------------------------------------------------------------------------------------------


@mistake("metropolis", "refused steps are left out of the chain: each step is tried until it is accepted")
def metropolis_drops_refused():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            first = accept
            while not accept.all():
                again = x + step_size * torch.randn(x.shape, **options)
                passes = ~accept & (torch.rand(len(x), **options).log() < log_prob(again) - log_p)
                y = torch.where(passes[:, None], again, y)
                accept = accept | passes
            log_p_y = log_prob(y)
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += first
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "proposals are recorded in place of states")
def metropolis_stores_proposals():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(y)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "only uphill moves are accepted")
def metropolis_uphill_only():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = log_p_y >= log_p
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "everything is accepted")
def metropolis_accepts_everything():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = log_p_y > -math.inf
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "the ratio is inverted")
def metropolis_ratio_inverted():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p - log_p_y
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "u is compared with a log ratio")
def metropolis_u_against_log():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options) < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "ln u is compared with the ratio itself")
def metropolis_log_u_against_ratio():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < (log_p_y - log_p).exp()
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "the density of the state is not updated")
def metropolis_stale_density():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "the density of a refused proposal is remembered")
def metropolis_density_always_updated():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            log_p = log_p_y
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "densities leave the range of floating point")
def metropolis_exponentials():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options) < log_p_y.exp() / log_p.exp()
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "step_size is taken for the variance")
def metropolis_variance_for_deviation():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size**0.5 * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "uniform steps")
def metropolis_uniform_steps():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * (2 * torch.rand(x.shape, **options) - 1)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "uniform steps of the same standard deviation")
def metropolis_uniform_steps_of_right_width():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * math.sqrt(12) * (torch.rand(x.shape, **options) - 0.5)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "proposals around the origin in place of the state")
def metropolis_independent_proposals():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "proposals around the start in place of the state")
def metropolis_proposals_around_start():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x0 + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "one step for all chains")
def metropolis_one_noise():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape[1:], **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "one number for all coordinates of a step")
def metropolis_one_number_per_chain():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(len(x), 1, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "one uniform number for all chains")
def metropolis_one_decision_number():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand((), **options).log() < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "one decision for all chains")
def metropolis_one_decision():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = (torch.rand((), **options).log() < (log_p_y - log_p).sum()).expand(len(x))
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "the start is recorded, and one step fewer")
def metropolis_start_recorded():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            if step >= burn_in:
                chain.append(x)
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "the start is recorded in front")
def metropolis_start_added():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack([x0, *chain]), accepted / n_steps


@mistake("metropolis", "the acceptance rate counts the burn-in")
def metropolis_burn_in_counted():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
            accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "the rate is divided by all steps, the burn-in included")
def metropolis_burn_in_in_divisor():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / (burn_in + n_steps)


@mistake("metropolis", "the burn-in is recorded too")
def metropolis_burn_in_recorded():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= 0:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "the burn-in is taken out of n_steps")
def metropolis_burn_in_taken_off():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(max(n_steps, burn_in + 1)):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "the burn-in is not made")
def metropolis_burn_in_ignored():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in, burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "one acceptance rate for all chains")
def metropolis_one_rate():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps * 0 + (accepted / n_steps).mean()


@mistake("metropolis", "the number of accepted steps in place of the rate")
def metropolis_counts_not_rates():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted


@mistake("metropolis", "the rate of refusals")
def metropolis_refusal_rate():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), 1 - accepted / n_steps


@mistake("metropolis", "all records are one tensor, and x0 is moved")
def metropolis_records_overwritten():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            x[accept] = y[accept]
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "x0 is moved, records are right")
def metropolis_moves_start():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            x[accept] = y[accept]
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x.clone())
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "each coordinate decides for itself")
def metropolis_coordinates_decide():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            keep = torch.rand(x.shape, **options).log() < (log_p_y - log_p)[:, None]
            x = torch.where(keep, y, x)
            accept = keep.any(1)
            log_p = log_prob(x)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "decisions come from the global generator")
def metropolis_global_generator():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), dtype=x.dtype, device=x.device).log() < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "the generator is started again")
def metropolis_reseeds():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        generator = torch.Generator().manual_seed(generator.initial_seed())
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "a step size of zero is let through")
def metropolis_zero_step_size():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size < 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "zero steps are let through")
def metropolis_no_steps():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 0 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain) if chain else x0[None][:0], accepted / n_steps


@mistake("metropolis", "a negative burn-in is let through")
def metropolis_negative_burn_in():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(max(burn_in, 0) + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "a start of zero density is let through")
def metropolis_impossible_start():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "refused only if every chain starts where the density is zero")
def metropolis_impossible_start_all():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).all():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis", "always float64")
def metropolis_float64():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        x0 = x0.double()
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        options = {"generator": generator, "dtype": x0.dtype, "device": x0.device}
        for step in range(burn_in + n_steps):
            y = x + step_size * torch.randn(x.shape, **options)
            log_p_y = log_prob(y)
            accept = torch.rand(len(x), **options).log() < log_p_y - log_p
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            if step >= burn_in:
                chain.append(x)
                accepted += accept
        return torch.stack(chain), accepted / n_steps


@alternative("metropolis", "decisions drawn before proposals, in place on copies, counted from the moves")
def metropolis_in_place():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if min(n_steps - 1, burn_in) < 0 or not step_size > 0:
            raise ValueError("bad number")
        state = x0.clone()
        energy = -log_prob(state)
        if bool((energy == math.inf).any()):
            raise ValueError("impossible start")
        record = torch.empty((n_steps + 1, *x0.shape), dtype=x0.dtype, device=x0.device)
        for step in range(-burn_in, n_steps + 1):
            if step >= 0:
                record[step] = state
            if step == n_steps:
                break
            cost = torch.empty(len(x0), dtype=x0.dtype, device=x0.device).exponential_(generator=generator)
            noise = torch.empty_like(state).normal_(0.0, step_size, generator=generator)
            candidate = state.add(noise)
            new_energy = -log_prob(candidate)
            accept = new_energy - energy < cost
            state[accept], energy[accept] = candidate[accept], new_energy[accept]
        return record[1:], (record[1:] != record[:-1]).any(-1).to(x0.dtype).mean(0)


@alternative("metropolis", "all random numbers drawn at once, min(1, ratio) as a probability")
def metropolis_all_at_once():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps <= 0:
            raise ValueError("no steps")
        if burn_in < 0:
            raise ValueError("negative burn-in")
        if step_size <= 0:
            raise ValueError("bad step size")
        if not bool((log_prob(x0) > -math.inf).all()):
            raise ValueError("impossible start")
        total = burn_in + n_steps
        u = torch.rand(total, len(x0), 1, generator=generator, dtype=torch.float64, device=x0.device)
        z = torch.randn(total, *x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        states, moves, x = [], [], x0
        for t in range(total):
            proposal = x + step_size * z[t]
            probability = (log_prob(proposal) - log_prob(x)).clamp(max=0).exp()[:, None]
            accept = u[t] < probability
            x = accept * proposal + ~accept * x
            states.append(x)
            moves.append(accept[:, 0])
        return torch.stack(states[burn_in:]), torch.stack(moves[burn_in:]).to(x0.dtype).mean(0)


@alternative("metropolis", "bernoulli decisions, burn-in by calling itself")
def metropolis_recursive():
    def metropolis(log_prob, x0, n_steps, step_size, generator, burn_in=0):
        if n_steps < 1 or burn_in < 0 or step_size <= 0:
            raise ValueError("bad number")
        if burn_in > 0:
            warm, _ = metropolis(log_prob, x0, burn_in, step_size, generator)
            return metropolis(log_prob, warm[-1], n_steps, step_size, generator)
        if log_prob(x0).min() == -math.inf:
            raise ValueError("impossible start")
        chain = torch.zeros(n_steps, *x0.shape, dtype=x0.dtype, device=x0.device)
        rates = torch.zeros(len(x0), dtype=x0.dtype, device=x0.device)
        x = x0.detach().clone()
        for t in range(n_steps):
            y = torch.normal(x, step_size, generator=generator)
            alpha = torch.exp(torch.minimum(log_prob(y) - log_prob(x), torch.zeros_like(rates)))
            accept = torch.bernoulli(alpha, generator=generator)
            x = torch.where(accept.unsqueeze(1) == 1, y, x)
            chain[t] = x
            rates += accept / n_steps
        return chain, rates


# --- metropolis_hastings ---------------------------------------------------------------------------------------------


@mistake("metropolis_hastings", "the Hastings term is missing")
def hastings_without_correction():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps < 1:
            raise ValueError("no steps")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        for _ in range(n_steps):
            y = propose(x, generator)
            log_p_y = log_prob(y)
            log_ratio = log_p_y - log_p
            u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
            accept = u.log() < log_ratio
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            chain.append(x)
            accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis_hastings", "the Hastings term is inverted, or the arguments of log_proposal are swapped")
def hastings_correction_inverted():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps < 1:
            raise ValueError("no steps")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        for _ in range(n_steps):
            y = propose(x, generator)
            log_p_y = log_prob(y)
            log_ratio = log_p_y + log_proposal(y, x) - log_p - log_proposal(x, y)
            u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
            accept = u.log() < log_ratio
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            chain.append(x)
            accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis_hastings", "only the way back counts")
def hastings_backward_only():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps < 1:
            raise ValueError("no steps")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        for _ in range(n_steps):
            y = propose(x, generator)
            log_p_y = log_prob(y)
            log_ratio = log_p_y + log_proposal(x, y) - log_p
            u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
            accept = u.log() < log_ratio
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            chain.append(x)
            accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis_hastings", "only the way there counts")
def hastings_forward_only():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps < 1:
            raise ValueError("no steps")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        for _ in range(n_steps):
            y = propose(x, generator)
            log_p_y = log_prob(y)
            log_ratio = log_p_y - log_p - log_proposal(y, x)
            u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
            accept = u.log() < log_ratio
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            chain.append(x)
            accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis_hastings", "the whole ratio is inverted")
def hastings_ratio_inverted():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps < 1:
            raise ValueError("no steps")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        for _ in range(n_steps):
            y = propose(x, generator)
            log_p_y = log_prob(y)
            log_ratio = log_p + log_proposal(y, x) - log_p_y - log_proposal(x, y)
            u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
            accept = u.log() < log_ratio
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            chain.append(x)
            accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis_hastings", "the ratio of the target is inverted")
def hastings_target_inverted():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps < 1:
            raise ValueError("no steps")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        for _ in range(n_steps):
            y = propose(x, generator)
            log_p_y = log_prob(y)
            log_ratio = log_p + log_proposal(x, y) - log_p_y - log_proposal(y, x)
            u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
            accept = u.log() < log_ratio
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            chain.append(x)
            accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis_hastings", "the target is left out")
def hastings_without_target():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps < 1:
            raise ValueError("no steps")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        for _ in range(n_steps):
            y = propose(x, generator)
            log_p_y = log_prob(y)
            log_ratio = log_proposal(x, y) - log_proposal(y, x)
            u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
            accept = u.log() < log_ratio
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            chain.append(x)
            accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis_hastings", "only ratios above one are accepted")
def hastings_uphill_only():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps < 1:
            raise ValueError("no steps")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        for _ in range(n_steps):
            y = propose(x, generator)
            log_p_y = log_prob(y)
            log_ratio = log_p_y + log_proposal(x, y) - log_p - log_proposal(y, x)
            u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
            accept = log_ratio >= 0
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            chain.append(x)
            accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis_hastings", "everything is accepted")
def hastings_accepts_everything():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps < 1:
            raise ValueError("no steps")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        for _ in range(n_steps):
            y = propose(x, generator)
            log_p_y = log_prob(y)
            log_ratio = log_p_y + log_proposal(x, y) - log_p - log_proposal(y, x)
            u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
            accept = log_ratio > -math.inf
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            chain.append(x)
            accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis_hastings", "u is compared with a log ratio")
def hastings_u_against_log():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps < 1:
            raise ValueError("no steps")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        for _ in range(n_steps):
            y = propose(x, generator)
            log_p_y = log_prob(y)
            log_ratio = log_p_y + log_proposal(x, y) - log_p - log_proposal(y, x)
            u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
            accept = u < log_ratio
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            chain.append(x)
            accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis_hastings", "densities leave the range of floating point")
def hastings_exponentials():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps < 1:
            raise ValueError("no steps")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        for _ in range(n_steps):
            y = propose(x, generator)
            log_p_y = log_prob(y)
            log_ratio = log_p_y + log_proposal(x, y) - log_p - log_proposal(y, x)
            u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
            accept = u < log_p_y.exp() * log_proposal(x, y).exp() / (log_p.exp() * log_proposal(y, x).exp())
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            chain.append(x)
            accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis_hastings", "the density of the state is not updated")
def hastings_stale_density():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps < 1:
            raise ValueError("no steps")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        for _ in range(n_steps):
            y = propose(x, generator)
            log_p_y = log_prob(y)
            log_ratio = log_p_y + log_proposal(x, y) - log_p - log_proposal(y, x)
            u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
            accept = u.log() < log_ratio
            x = torch.where(accept[:, None], y, x)
            chain.append(x)
            accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis_hastings", "proposals are recorded in place of states")
def hastings_stores_proposals():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps < 1:
            raise ValueError("no steps")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        for _ in range(n_steps):
            y = propose(x, generator)
            log_p_y = log_prob(y)
            log_ratio = log_p_y + log_proposal(x, y) - log_p - log_proposal(y, x)
            u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
            accept = u.log() < log_ratio
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            chain.append(y)
            accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis_hastings", "refused steps are left out: each step is tried until it is accepted")
def hastings_drops_refused():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps < 1:
            raise ValueError("no steps")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        for _ in range(n_steps):
            y = propose(x, generator)
            log_p_y = log_prob(y)
            log_ratio = log_p_y + log_proposal(x, y) - log_p - log_proposal(y, x)
            u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
            accept = u.log() < log_ratio
            first = accept
            for _ in range(200):
                again = propose(x, generator)
                ratio = log_prob(again) + log_proposal(x, again) - log_p - log_proposal(again, x)
                u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
                passes = ~accept & (u.log() < ratio)
                y = torch.where(passes[:, None], again, y)
                accept = accept | passes
            log_p_y = log_prob(y)
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            chain.append(x)
            accepted += first
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis_hastings", "one uniform number for all chains")
def hastings_one_number():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps < 1:
            raise ValueError("no steps")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        for _ in range(n_steps):
            y = propose(x, generator)
            log_p_y = log_prob(y)
            log_ratio = log_p_y + log_proposal(x, y) - log_p - log_proposal(y, x)
            u = torch.rand((), generator=generator, dtype=x.dtype, device=x.device)
            accept = u.log() < log_ratio
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            chain.append(x)
            accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis_hastings", "one decision for all chains")
def hastings_one_decision():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps < 1:
            raise ValueError("no steps")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        for _ in range(n_steps):
            y = propose(x, generator)
            log_p_y = log_prob(y)
            log_ratio = log_p_y + log_proposal(x, y) - log_p - log_proposal(y, x)
            u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
            accept = u.log()[:1] < log_ratio.mean()
            accept = accept.expand(len(x))
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            chain.append(x)
            accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis_hastings", "the start is recorded in front")
def hastings_start_added():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps < 1:
            raise ValueError("no steps")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        for _ in range(n_steps):
            y = propose(x, generator)
            log_p_y = log_prob(y)
            log_ratio = log_p_y + log_proposal(x, y) - log_p - log_proposal(y, x)
            u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
            accept = u.log() < log_ratio
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            chain.append(x)
            accepted += accept
        return torch.stack([x0, *chain]), accepted / n_steps


@mistake("metropolis_hastings", "the start is recorded in place of the last state")
def hastings_start_recorded():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps < 1:
            raise ValueError("no steps")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        for _ in range(n_steps):
            y = propose(x, generator)
            log_p_y = log_prob(y)
            log_ratio = log_p_y + log_proposal(x, y) - log_p - log_proposal(y, x)
            u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
            accept = u.log() < log_ratio
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            chain.append(x)
            accepted += accept
        return torch.stack([x0, *chain[:-1]]), accepted / n_steps


@mistake("metropolis_hastings", "one acceptance rate for all chains")
def hastings_one_rate():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps < 1:
            raise ValueError("no steps")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        for _ in range(n_steps):
            y = propose(x, generator)
            log_p_y = log_prob(y)
            log_ratio = log_p_y + log_proposal(x, y) - log_p - log_proposal(y, x)
            u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
            accept = u.log() < log_ratio
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            chain.append(x)
            accepted += accept
        return torch.stack(chain), (accepted / n_steps).mean()


@mistake("metropolis_hastings", "the number of accepted steps in place of the rate")
def hastings_counts_not_rates():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps < 1:
            raise ValueError("no steps")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        for _ in range(n_steps):
            y = propose(x, generator)
            log_p_y = log_prob(y)
            log_ratio = log_p_y + log_proposal(x, y) - log_p - log_proposal(y, x)
            u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
            accept = u.log() < log_ratio
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            chain.append(x)
            accepted += accept
        return torch.stack(chain), accepted


@mistake("metropolis_hastings", "x0 is moved")
def hastings_moves_start():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps < 1:
            raise ValueError("no steps")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        for _ in range(n_steps):
            y = propose(x, generator)
            log_p_y = log_prob(y)
            log_ratio = log_p_y + log_proposal(x, y) - log_p - log_proposal(y, x)
            u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
            accept = u.log() < log_ratio
            x[accept] = y[accept]
            log_p = torch.where(accept, log_p_y, log_p)
            chain.append(x.clone())
            accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis_hastings", "all records are one tensor")
def hastings_records_overwritten():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps < 1:
            raise ValueError("no steps")
        x, log_p = x0.clone(), log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        for _ in range(n_steps):
            y = propose(x, generator)
            log_p_y = log_prob(y)
            log_ratio = log_p_y + log_proposal(x, y) - log_p - log_proposal(y, x)
            u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
            accept = u.log() < log_ratio
            x[accept] = y[accept]
            log_p = torch.where(accept, log_p_y, log_p)
            chain.append(x)
            accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis_hastings", "decisions come from the global generator")
def hastings_global_generator():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps < 1:
            raise ValueError("no steps")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        for _ in range(n_steps):
            y = propose(x, generator)
            log_p_y = log_prob(y)
            log_ratio = log_p_y + log_proposal(x, y) - log_p - log_proposal(y, x)
            u = torch.rand(len(x), dtype=x.dtype, device=x.device)
            accept = u.log() < log_ratio
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            chain.append(x)
            accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis_hastings", "the generator is started again")
def hastings_reseeds():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps < 1:
            raise ValueError("no steps")
        generator = torch.Generator().manual_seed(generator.initial_seed())
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        for _ in range(n_steps):
            y = propose(x, generator)
            log_p_y = log_prob(y)
            log_ratio = log_p_y + log_proposal(x, y) - log_p - log_proposal(y, x)
            u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
            accept = u.log() < log_ratio
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            chain.append(x)
            accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis_hastings", "zero steps are let through")
def hastings_no_steps():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps < 0:
            raise ValueError("no steps")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        for _ in range(n_steps):
            y = propose(x, generator)
            log_p_y = log_prob(y)
            log_ratio = log_p_y + log_proposal(x, y) - log_p - log_proposal(y, x)
            u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
            accept = u.log() < log_ratio
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            chain.append(x)
            accepted += accept
        return torch.stack(chain) if chain else x0[None][:0], accepted / n_steps


@mistake("metropolis_hastings", "a start of zero density is let through")
def hastings_impossible_start():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps < 1:
            raise ValueError("no steps")
        x, log_p = x0, log_prob(x0)
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        for _ in range(n_steps):
            y = propose(x, generator)
            log_p_y = log_prob(y)
            log_ratio = log_p_y + log_proposal(x, y) - log_p - log_proposal(y, x)
            u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
            accept = u.log() < log_ratio
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            chain.append(x)
            accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis_hastings", "always float64")
def hastings_float64():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps < 1:
            raise ValueError("no steps")
        x0 = x0.double()
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        for _ in range(n_steps):
            y = propose(x, generator)
            log_p_y = log_prob(y)
            log_ratio = log_p_y + log_proposal(x, y) - log_p - log_proposal(y, x)
            u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
            accept = u.log() < log_ratio
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            chain.append(x)
            accepted += accept
        return torch.stack(chain), accepted / n_steps


@mistake("metropolis_hastings", "an impossible way back is taken for a small number")
def hastings_nan_to_num():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps < 1:
            raise ValueError("no steps")
        x, log_p = x0, log_prob(x0)
        if torch.isneginf(log_p).any():
            raise ValueError("impossible start")
        chain, accepted = [], torch.zeros_like(x0[:, 0])
        for _ in range(n_steps):
            y = propose(x, generator)
            log_p_y = log_prob(y)
            log_ratio = log_p_y + log_proposal(x, y) - log_p - log_proposal(y, x)
            u = torch.rand(len(x), generator=generator, dtype=x.dtype, device=x.device)
            accept = u.log() < log_ratio.clamp(min=-5)
            x = torch.where(accept[:, None], y, x)
            log_p = torch.where(accept, log_p_y, log_p)
            chain.append(x)
            accepted += accept
        return torch.stack(chain), accepted / n_steps


@alternative(
    "metropolis_hastings", "decisions drawn before proposals, -ln u as exponential numbers, in place on copies"
)
def hastings_in_place():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps <= 0:
            raise ValueError("no steps")
        if not torch.all(log_prob(x0) > -math.inf):
            raise ValueError("impossible start")
        x = x0.clone()
        chain = torch.empty(n_steps, *x0.shape, dtype=x0.dtype, device=x0.device)
        moved = torch.zeros(n_steps, len(x0), dtype=x0.dtype, device=x0.device)
        for t in range(n_steps):
            cost = torch.empty(len(x0), dtype=torch.float64, device=x0.device).exponential_(generator=generator)
            y = propose(x, generator)
            loss = (log_prob(x) - log_prob(y)) + (log_proposal(y, x) - log_proposal(x, y))
            accept = cost > loss
            x[accept] = y[accept]
            chain[t], moved[t] = x, accept
        return chain, moved.mean(0)


@alternative("metropolis_hastings", "all uniform numbers first, min(1, ratio) as a probability, lerp")
def hastings_probability():
    def metropolis_hastings(log_prob, propose, log_proposal, x0, n_steps, generator):
        if n_steps < 1:
            raise ValueError("no steps")
        if (log_prob(x0) == float("-inf")).any():
            raise ValueError("impossible start")
        u = torch.rand(n_steps, x0.shape[0], generator=generator, dtype=x0.dtype, device=x0.device)
        states, rates, x = [], torch.zeros_like(x0).select(1, 0), x0
        for row in u:
            y = propose(x, generator)
            gain = log_prob(y) - log_prob(x)
            ease = log_proposal(x, y) - log_proposal(y, x)
            alpha = torch.exp((gain + ease).clamp(max=0))
            accept = (row <= alpha).logical_and(alpha > 0)
            x = torch.stack([new if yes else old for new, old, yes in zip(y, x, accept.tolist(), strict=True)])
            states.append(x.clone())
            rates = rates + accept.to(rates.dtype)
        return torch.stack(states, dim=0), rates.div(n_steps)


# --- effective_sample_size -------------------------------------------------------------------------------------------


@mistake("effective_sample_size", "the autocorrelation time in place of n over it")
def ess_time_for_size():
    def effective_sample_size(chain):
        n = len(chain)
        if n < 4:
            raise ValueError("too short")
        centred = chain - chain.mean(0)
        correlation = torch.stack([(centred[: n - k] * centred[k:]).sum(0) / n for k in range(n)])
        correlation = correlation / correlation[0]
        pairs = correlation[: n // 2 * 2].unflatten(0, (n // 2, 2)).sum(1)
        tau = 2 * (pairs * (pairs > 0).cumprod(0)).sum(0) - 1
        result = torch.where(tau > 0, tau, math.inf)
        return torch.where((chain == chain[0]).all(0), 1.0, result)


@mistake("effective_sample_size", "n times the time")
def ess_n_times_tau():
    def effective_sample_size(chain):
        n = len(chain)
        if n < 4:
            raise ValueError("too short")
        centred = chain - chain.mean(0)
        correlation = torch.stack([(centred[: n - k] * centred[k:]).sum(0) / n for k in range(n)])
        correlation = correlation / correlation[0]
        pairs = correlation[: n // 2 * 2].unflatten(0, (n // 2, 2)).sum(1)
        tau = 2 * (pairs * (pairs > 0).cumprod(0)).sum(0) - 1
        result = torch.where(tau > 0, n * tau, math.inf)
        return torch.where((chain == chain[0]).all(0), 1.0, result)


@mistake("effective_sample_size", "the factor 2 is missing")
def ess_without_two():
    def effective_sample_size(chain):
        n = len(chain)
        if n < 4:
            raise ValueError("too short")
        centred = chain - chain.mean(0)
        correlation = torch.stack([(centred[: n - k] * centred[k:]).sum(0) / n for k in range(n)])
        correlation = correlation / correlation[0]
        pairs = correlation[: n // 2 * 2].unflatten(0, (n // 2, 2)).sum(1)
        tau = 1 * (pairs * (pairs > 0).cumprod(0)).sum(0) - 1
        result = torch.where(tau > 0, n / tau, math.inf)
        return torch.where((chain == chain[0]).all(0), 1.0, result)


@mistake("effective_sample_size", "lag 0 is counted twice")
def ess_lag_zero_twice():
    def effective_sample_size(chain):
        n = len(chain)
        if n < 4:
            raise ValueError("too short")
        centred = chain - chain.mean(0)
        correlation = torch.stack([(centred[: n - k] * centred[k:]).sum(0) / n for k in range(n)])
        correlation = correlation / correlation[0]
        pairs = correlation[: n // 2 * 2].unflatten(0, (n // 2, 2)).sum(1)
        tau = 2 * (pairs * (pairs > 0).cumprod(0)).sum(0) + 1
        result = torch.where(tau > 0, n / tau, math.inf)
        return torch.where((chain == chain[0]).all(0), 1.0, result)


@mistake("effective_sample_size", "the -1 is missing")
def ess_without_minus_one():
    def effective_sample_size(chain):
        n = len(chain)
        if n < 4:
            raise ValueError("too short")
        centred = chain - chain.mean(0)
        correlation = torch.stack([(centred[: n - k] * centred[k:]).sum(0) / n for k in range(n)])
        correlation = correlation / correlation[0]
        pairs = correlation[: n // 2 * 2].unflatten(0, (n // 2, 2)).sum(1)
        tau = 2 * (pairs * (pairs > 0).cumprod(0)).sum(0)
        result = torch.where(tau > 0, n / tau, math.inf)
        return torch.where((chain == chain[0]).all(0), 1.0, result)


@mistake("effective_sample_size", "the mean is not taken off")
def ess_not_centred():
    def effective_sample_size(chain):
        n = len(chain)
        if n < 4:
            raise ValueError("too short")
        centred = chain
        correlation = torch.stack([(centred[: n - k] * centred[k:]).sum(0) / n for k in range(n)])
        correlation = correlation / correlation[0]
        pairs = correlation[: n // 2 * 2].unflatten(0, (n // 2, 2)).sum(1)
        tau = 2 * (pairs * (pairs > 0).cumprod(0)).sum(0) - 1
        result = torch.where(tau > 0, n / tau, math.inf)
        return torch.where((chain == chain[0]).all(0), 1.0, result)


@mistake("effective_sample_size", "one mean for all chains")
def ess_one_mean():
    def effective_sample_size(chain):
        n = len(chain)
        if n < 4:
            raise ValueError("too short")
        centred = chain - chain.mean()
        correlation = torch.stack([(centred[: n - k] * centred[k:]).sum(0) / n for k in range(n)])
        correlation = correlation / correlation[0]
        pairs = correlation[: n // 2 * 2].unflatten(0, (n // 2, 2)).sum(1)
        tau = 2 * (pairs * (pairs > 0).cumprod(0)).sum(0) - 1
        result = torch.where(tau > 0, n / tau, math.inf)
        return torch.where((chain == chain[0]).all(0), 1.0, result)


@mistake("effective_sample_size", "all lags are summed")
def ess_no_stop():
    def effective_sample_size(chain):
        n = len(chain)
        if n < 4:
            raise ValueError("too short")
        centred = chain - chain.mean(0)
        correlation = torch.stack([(centred[: n - k] * centred[k:]).sum(0) / n for k in range(n)])
        correlation = correlation / correlation[0]
        pairs = correlation[: n // 2 * 2].unflatten(0, (n // 2, 2)).sum(1)
        tau = 2 * pairs.sum(0) - 1
        result = torch.where(tau > 0, n / tau, math.inf)
        return torch.where((chain == chain[0]).all(0), 1.0, result)


@mistake("effective_sample_size", "all positive pairs are summed")
def ess_positive_pairs():
    def effective_sample_size(chain):
        n = len(chain)
        if n < 4:
            raise ValueError("too short")
        centred = chain - chain.mean(0)
        correlation = torch.stack([(centred[: n - k] * centred[k:]).sum(0) / n for k in range(n)])
        correlation = correlation / correlation[0]
        pairs = correlation[: n // 2 * 2].unflatten(0, (n // 2, 2)).sum(1)
        tau = 2 * pairs.clamp(min=0).sum(0) - 1
        result = torch.where(tau > 0, n / tau, math.inf)
        return torch.where((chain == chain[0]).all(0), 1.0, result)


@mistake("effective_sample_size", "the sum stops at the first negative correlation")
def ess_first_negative_lag():
    def effective_sample_size(chain):
        n = len(chain)
        if n < 4:
            raise ValueError("too short")
        centred = chain - chain.mean(0)
        correlation = torch.stack([(centred[: n - k] * centred[k:]).sum(0) / n for k in range(n)])
        correlation = correlation / correlation[0]
        tau = 2 * (correlation * (correlation > 0).cumprod(0)).sum(0) - 1
        result = torch.where(tau > 0, n / tau, math.inf)
        return torch.where((chain == chain[0]).all(0), 1.0, result)


@mistake("effective_sample_size", "absolute values of the correlations")
def ess_absolute_values():
    def effective_sample_size(chain):
        n = len(chain)
        if n < 4:
            raise ValueError("too short")
        centred = chain - chain.mean(0)
        correlation = torch.stack([(centred[: n - k] * centred[k:]).sum(0) / n for k in range(n)])
        correlation = (correlation / correlation[0]).abs()
        pairs = correlation[: n // 2 * 2].unflatten(0, (n // 2, 2)).sum(1)
        tau = 2 * (pairs * (pairs > 0).cumprod(0)).sum(0) - 1
        result = torch.where(tau > 0, n / tau, math.inf)
        return torch.where((chain == chain[0]).all(0), 1.0, result)


@mistake("effective_sample_size", "the first pair that is not positive is still counted")
def ess_first_pair_included():
    def effective_sample_size(chain):
        n = len(chain)
        if n < 4:
            raise ValueError("too short")
        centred = chain - chain.mean(0)
        correlation = torch.stack([(centred[: n - k] * centred[k:]).sum(0) / n for k in range(n)])
        correlation = correlation / correlation[0]
        pairs = correlation[: n // 2 * 2].unflatten(0, (n // 2, 2)).sum(1)
        tau = 2 * (pairs * torch.cat([torch.ones_like(pairs[:1]), (pairs > 0).cumprod(0)[:-1]])).sum(0) - 1
        result = torch.where(tau > 0, n / tau, math.inf)
        return torch.where((chain == chain[0]).all(0), 1.0, result)


@mistake("effective_sample_size", "each covariance is divided by its number of terms")
def ess_divisor_n_minus_k():
    def effective_sample_size(chain):
        n = len(chain)
        if n < 4:
            raise ValueError("too short")
        centred = chain - chain.mean(0)
        correlation = torch.stack([(centred[: n - k] * centred[k:]).mean(0) for k in range(n)])
        correlation = correlation / correlation[0]
        pairs = correlation[: n // 2 * 2].unflatten(0, (n // 2, 2)).sum(1)
        tau = 2 * (pairs * (pairs > 0).cumprod(0)).sum(0) - 1
        result = torch.where(tau > 0, n / tau, math.inf)
        return torch.where((chain == chain[0]).all(0), 1.0, result)


@mistake("effective_sample_size", "the ends of the chain are joined")
def ess_wrapped_around():
    def effective_sample_size(chain):
        n = len(chain)
        if n < 4:
            raise ValueError("too short")
        centred = chain - chain.mean(0)
        correlation = torch.stack([(centred * centred.roll(-k, 0)).sum(0) / n for k in range(n)])
        correlation = correlation / correlation[0]
        pairs = correlation[: n // 2 * 2].unflatten(0, (n // 2, 2)).sum(1)
        tau = 2 * (pairs * (pairs > 0).cumprod(0)).sum(0) - 1
        result = torch.where(tau > 0, n / tau, math.inf)
        return torch.where((chain == chain[0]).all(0), 1.0, result)


@mistake("effective_sample_size", "pairs begin at lag 1")
def ess_wrong_pairs():
    def effective_sample_size(chain):
        n = len(chain)
        if n < 4:
            raise ValueError("too short")
        centred = chain - chain.mean(0)
        correlation = torch.stack([(centred[: n - k] * centred[k:]).sum(0) / n for k in range(n)])
        correlation = correlation / correlation[0]
        pairs = correlation[1 : (n - 1) // 2 * 2 + 1].unflatten(0, ((n - 1) // 2, 2)).sum(1)
        tau = 2 * (pairs * (pairs > 0).cumprod(0)).sum(0) + 1
        result = torch.where(tau > 0, n / tau, math.inf)
        return torch.where((chain == chain[0]).all(0), 1.0, result)


@mistake("effective_sample_size", "only the even lags are summed")
def ess_even_lags_only():
    def effective_sample_size(chain):
        n = len(chain)
        if n < 4:
            raise ValueError("too short")
        centred = chain - chain.mean(0)
        correlation = torch.stack([(centred[: n - k] * centred[k:]).sum(0) / n for k in range(n)])
        correlation = correlation / correlation[0]
        pairs = correlation[: n // 2 * 2][::2]
        tau = 2 * (pairs * (pairs > 0).cumprod(0)).sum(0) - 1
        result = torch.where(tau > 0, n / tau, math.inf)
        return torch.where((chain == chain[0]).all(0), 1.0, result)


@mistake("effective_sample_size", "the closed form of an autoregressive chain")
def ess_neighbours_only():
    def effective_sample_size(chain):
        n = len(chain)
        if n < 4:
            raise ValueError("too short")
        centred = chain - chain.mean(0)
        correlation = torch.stack([(centred[: n - k] * centred[k:]).sum(0) / n for k in range(n)])
        correlation = correlation / correlation[0]
        pairs = correlation[: n // 2 * 2].unflatten(0, (n // 2, 2)).sum(1)
        tau = (1 + correlation[1]) / (1 - correlation[1])
        result = torch.where(tau > 0, n / tau, math.inf)
        return torch.where((chain == chain[0]).all(0), 1.0, result)


@mistake("effective_sample_size", "the sizes of all chains are added")
def ess_summed_over_chains():
    def effective_sample_size(chain):
        n = len(chain)
        if n < 4:
            raise ValueError("too short")
        centred = chain - chain.mean(0)
        correlation = torch.stack([(centred[: n - k] * centred[k:]).sum(0) / n for k in range(n)])
        correlation = correlation / correlation[0]
        pairs = correlation[: n // 2 * 2].unflatten(0, (n // 2, 2)).sum(1)
        tau = 2 * (pairs * (pairs > 0).cumprod(0)).sum(0) - 1
        result = torch.where(tau > 0, n / tau, math.inf)
        return torch.where((chain == chain[0]).all(0), 1.0, result).sum(-1)


@mistake("effective_sample_size", "time runs along the last axis")
def ess_last_axis():
    def effective_sample_size(chain):
        chain = chain.movedim(-1, 0)
        n = len(chain)
        if n < 4:
            raise ValueError("too short")
        centred = chain - chain.mean(0)
        correlation = torch.stack([(centred[: n - k] * centred[k:]).sum(0) / n for k in range(n)])
        correlation = correlation / correlation[0]
        pairs = correlation[: n // 2 * 2].unflatten(0, (n // 2, 2)).sum(1)
        tau = 2 * (pairs * (pairs > 0).cumprod(0)).sum(0) - 1
        result = torch.where(tau > 0, n / tau, math.inf)
        return torch.where((chain == chain[0]).all(0), 1.0, result)


@mistake("effective_sample_size", "the result is never above n")
def ess_never_above_n():
    def effective_sample_size(chain):
        n = len(chain)
        if n < 4:
            raise ValueError("too short")
        centred = chain - chain.mean(0)
        correlation = torch.stack([(centred[: n - k] * centred[k:]).sum(0) / n for k in range(n)])
        correlation = correlation / correlation[0]
        pairs = correlation[: n // 2 * 2].unflatten(0, (n // 2, 2)).sum(1)
        tau = 2 * (pairs * (pairs > 0).cumprod(0)).sum(0) - 1
        result = torch.where(tau > 0, (n / tau).clamp(max=n), math.inf)
        return torch.where((chain == chain[0]).all(0), 1.0, result)


@mistake("effective_sample_size", "a negative time gives a negative size")
def ess_negative_size():
    def effective_sample_size(chain):
        n = len(chain)
        if n < 4:
            raise ValueError("too short")
        centred = chain - chain.mean(0)
        correlation = torch.stack([(centred[: n - k] * centred[k:]).sum(0) / n for k in range(n)])
        correlation = correlation / correlation[0]
        pairs = correlation[: n // 2 * 2].unflatten(0, (n // 2, 2)).sum(1)
        tau = 2 * (pairs * (pairs > 0).cumprod(0)).sum(0) - 1
        result = n / tau
        return torch.where((chain == chain[0]).all(0), 1.0, result)


@mistake("effective_sample_size", "a chain that never moves gives NaN")
def ess_constant_is_nan():
    def effective_sample_size(chain):
        n = len(chain)
        if n < 4:
            raise ValueError("too short")
        centred = chain - chain.mean(0)
        correlation = torch.stack([(centred[: n - k] * centred[k:]).sum(0) / n for k in range(n)])
        correlation = correlation / correlation[0]
        pairs = correlation[: n // 2 * 2].unflatten(0, (n // 2, 2)).sum(1)
        tau = 2 * (pairs * (pairs > 0).cumprod(0)).sum(0) - 1
        result = torch.where(tau > 0, n / tau, math.inf)
        return n / tau


@mistake("effective_sample_size", "a chain that never moves is worth its length")
def ess_constant_is_n():
    def effective_sample_size(chain):
        n = len(chain)
        if n < 4:
            raise ValueError("too short")
        centred = chain - chain.mean(0)
        correlation = torch.stack([(centred[: n - k] * centred[k:]).sum(0) / n for k in range(n)])
        correlation = correlation / correlation[0]
        pairs = correlation[: n // 2 * 2].unflatten(0, (n // 2, 2)).sum(1)
        tau = 2 * (pairs * (pairs > 0).cumprod(0)).sum(0) - 1
        result = torch.where(tau > 0, n / tau, math.inf)
        return torch.where((chain == chain[0]).all(0), n, result)


@mistake("effective_sample_size", "one chain that never moves decides for all")
def ess_any_constant():
    def effective_sample_size(chain):
        n = len(chain)
        if n < 4:
            raise ValueError("too short")
        centred = chain - chain.mean(0)
        correlation = torch.stack([(centred[: n - k] * centred[k:]).sum(0) / n for k in range(n)])
        correlation = correlation / correlation[0]
        pairs = correlation[: n // 2 * 2].unflatten(0, (n // 2, 2)).sum(1)
        tau = 2 * (pairs * (pairs > 0).cumprod(0)).sum(0) - 1
        result = torch.where(tau > 0, n / tau, math.inf)
        return torch.where((chain == chain[0]).all(0).any(), 1.0, result)


@mistake("effective_sample_size", "three states are let through")
def ess_three_states():
    def effective_sample_size(chain):
        n = len(chain)
        if n < 3:
            raise ValueError("too short")
        centred = chain - chain.mean(0)
        correlation = torch.stack([(centred[: n - k] * centred[k:]).sum(0) / n for k in range(n)])
        correlation = correlation / correlation[0]
        pairs = correlation[: n // 2 * 2].unflatten(0, (n // 2, 2)).sum(1)
        tau = 2 * (pairs * (pairs > 0).cumprod(0)).sum(0) - 1
        result = torch.where(tau > 0, n / tau, math.inf)
        return torch.where((chain == chain[0]).all(0), 1.0, result)


@mistake("effective_sample_size", "four states are refused")
def ess_four_refused():
    def effective_sample_size(chain):
        n = len(chain)
        if n < 5:
            raise ValueError("too short")
        centred = chain - chain.mean(0)
        correlation = torch.stack([(centred[: n - k] * centred[k:]).sum(0) / n for k in range(n)])
        correlation = correlation / correlation[0]
        pairs = correlation[: n // 2 * 2].unflatten(0, (n // 2, 2)).sum(1)
        tau = 2 * (pairs * (pairs > 0).cumprod(0)).sum(0) - 1
        result = torch.where(tau > 0, n / tau, math.inf)
        return torch.where((chain == chain[0]).all(0), 1.0, result)


@mistake("effective_sample_size", "the mean is taken off inside the caller's tensor")
def ess_centred_in_place():
    def effective_sample_size(chain):
        n = len(chain)
        if n < 4:
            raise ValueError("too short")
        chain -= chain.mean(0)
        centred = chain
        correlation = torch.stack([(centred[: n - k] * centred[k:]).sum(0) / n for k in range(n)])
        correlation = correlation / correlation[0]
        pairs = correlation[: n // 2 * 2].unflatten(0, (n // 2, 2)).sum(1)
        tau = 2 * (pairs * (pairs > 0).cumprod(0)).sum(0) - 1
        result = torch.where(tau > 0, n / tau, math.inf)
        return torch.where((chain == chain[0]).all(0), 1.0, result)


@mistake("effective_sample_size", "always float64")
def ess_float64():
    def effective_sample_size(chain):
        chain = chain.double()
        n = len(chain)
        if n < 4:
            raise ValueError("too short")
        centred = chain - chain.mean(0)
        correlation = torch.stack([(centred[: n - k] * centred[k:]).sum(0) / n for k in range(n)])
        correlation = correlation / correlation[0]
        pairs = correlation[: n // 2 * 2].unflatten(0, (n // 2, 2)).sum(1)
        tau = 2 * (pairs * (pairs > 0).cumprod(0)).sum(0) - 1
        result = torch.where(tau > 0, n / tau, math.inf)
        return torch.where((chain == chain[0]).all(0), 1.0, result)


@alternative("effective_sample_size", "Fourier transform with zeros behind the chain")
def ess_fourier():
    def effective_sample_size(chain):
        n = chain.shape[0]
        if n < 4:
            raise ValueError("too short")
        flat = chain.reshape(n, -1).T
        spectrum = torch.fft.fft(flat - flat.mean(1, keepdim=True), n=2 ** (2 * n - 1).bit_length(), dim=1)
        covariance = torch.fft.ifft(spectrum * spectrum.conj(), dim=1).real[:, :n]
        results = []
        for states, row in zip(flat, covariance, strict=True):
            if (states == states[0]).all():
                results.append(torch.ones_like(states[0]))
                continue
            rho, tau = row / row[0], -1.0
            for m in range(n // 2):
                pair = rho[2 * m] + rho[2 * m + 1]
                if pair <= 0:
                    break
                tau = tau + 2 * pair
            results.append(n / tau if tau > 0 else torch.full_like(states[0], math.inf))
        return torch.stack(results).reshape(chain.shape[1:])


@alternative("effective_sample_size", "numpy in float64, one chain at a time, numpy.correlate")
def ess_numpy():
    def effective_sample_size(chain):
        import numpy as np

        if chain.shape[0] <= 3:
            raise ValueError("too short")
        states = chain.detach().cpu().double().numpy()

        def worth(x):
            if np.ptp(x) == 0:
                return 1.0
            d = x - x.mean()
            gamma = np.correlate(d, d, mode="full")[len(d) - 1 :]
            even, odd = gamma[0::2], gamma[1::2]
            pairs = (even[: len(odd)] + odd) / gamma[0]
            stop = np.flatnonzero(pairs <= 0)
            tau = -1 + 2 * pairs[: stop[0] if len(stop) else None].sum()
            return len(x) / tau if tau > 0 else np.inf

        return torch.as_tensor(np.apply_along_axis(worth, 0, states)).to(chain)


@alternative("effective_sample_size", "1 plus twice the sum from lag 1 on, lag by lag, until every chain has stopped")
def ess_lag_by_lag():
    def effective_sample_size(chain):
        n = len(chain)
        if n < 4:
            raise ValueError("too short")
        d = chain - chain.mean(dim=0, keepdim=True)
        power = torch.einsum("t...,t...->...", d, d)
        power = torch.where(power > 0, power, torch.ones_like(power))
        going = torch.ones_like(power, dtype=torch.bool)
        total = torch.zeros_like(power)
        for k in range(0, n - 1, 2):
            even = torch.einsum("t...,t...->...", d[: n - k], d[k:]) / power
            odd = torch.einsum("t...,t...->...", d[: n - k - 1], d[k + 1 :]) / power
            going &= even + odd > 0
            if not going.any():
                break
            total += torch.where(going, odd + (even if k else 0), torch.zeros_like(total))
            if k == 0:
                total = torch.where(going, total, torch.full_like(total, -0.5))
        tau = 1 + 2 * total
        size = torch.full_like(tau, math.inf)
        size[tau > 0] = n / tau[tau > 0]
        size[(chain.amax(0) == chain.amin(0))] = 1
        return size
