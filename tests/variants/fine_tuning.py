"""Wrong and other right answers to the assignment on fine-tuning and LoRA (see `autograder.variants`)."""
# ruff: noqa: F821 - bodies use the names of the notebook and the functions of earlier tasks

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

from autograder.variants import alternative, mistake

# --- count_parameters --------------------------------------------------------------------------------------------


@mistake("count_parameters", "shared weights are counted under every name")
def count_shared_twice():
    def count_parameters(model):
        parameters = [parameter for _, parameter in model.named_parameters(remove_duplicate=False)]
        trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        return trainable, sum(parameter.numel() for parameter in parameters)


@mistake("count_parameters", "counted from the state_dict: buffers and shared weights count")
def count_state_dict():
    def count_parameters(model):
        trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        return trainable, sum(value.numel() for value in model.state_dict().values())


@mistake("count_parameters", "buffers are counted")
def count_buffers():
    def count_parameters(model):
        trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        total = sum(parameter.numel() for parameter in model.parameters())
        return trainable, total + sum(buffer.numel() for buffer in model.buffers())


@mistake("count_parameters", "total and trainable are swapped")
def count_swapped():
    def count_parameters(model):
        trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        return sum(parameter.numel() for parameter in model.parameters()), trainable


@mistake("count_parameters", "trainable and frozen in place of trainable and total")
def count_frozen():
    def count_parameters(model):
        trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        return trainable, sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)


@mistake("count_parameters", "tensors are counted, not their entries")
def count_tensors():
    def count_parameters(model):
        trainable = sum(1 for parameter in model.parameters() if parameter.requires_grad)
        return trainable, sum(1 for _ in model.parameters())


@mistake("count_parameters", "frozen parameters count as trainable")
def count_all_trainable():
    def count_parameters(model):
        total = sum(parameter.numel() for parameter in model.parameters())
        return total, total


@mistake("count_parameters", "only linear layers are counted")
def count_linear_layers():
    def count_parameters(model):
        layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
        parameters = [parameter for layer in layers for parameter in layer.parameters()]
        trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        return trainable, sum(parameter.numel() for parameter in parameters)


@mistake("count_parameters", "only the layers right below the model are looked at")
def count_children():
    def count_parameters(model):
        parameters = [parameter for child in model.children() for parameter in child._parameters.values()]
        parameters = [parameter for parameter in parameters if parameter is not None]
        trainable = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        return trainable, sum(parameter.numel() for parameter in parameters)


@mistake("count_parameters", "a layer is trainable or not as a whole, by its weight")
def count_by_weight():
    def count_parameters(model):
        trainable = total = 0
        for module in model.modules():
            own = list(module.parameters(recurse=False))
            total += sum(parameter.numel() for parameter in own)
            if own and own[0].requires_grad:
                trainable += sum(parameter.numel() for parameter in own)
        return trainable, total


@mistake("count_parameters", "duplicates are found by their values, so that equal layers count once")
def count_by_value():
    def count_parameters(model):
        unique = {}
        for parameter in model.parameters():
            unique[tuple(parameter.shape)] = parameter
        trainable = sum(parameter.numel() for parameter in unique.values() if parameter.requires_grad)
        return trainable, sum(parameter.numel() for parameter in unique.values())


@alternative("count_parameters", "a walk over modules, with a set of what has been seen")
def count_walk():
    def count_parameters(model):
        seen, trainable, total = set(), 0, 0
        for module in model.modules():
            for parameter in module._parameters.values():
                if parameter is None or id(parameter) in seen:
                    continue
                seen.add(id(parameter))
                entries = math.prod(parameter.shape)
                total += entries
                trainable += entries * parameter.requires_grad
        return trainable, total


@alternative("count_parameters", "a dict by identity, two passes, sums of tensors")
def count_by_identity():
    def count_parameters(model):
        unique = {id(parameter): parameter for _, parameter in model.named_parameters(remove_duplicate=False)}
        sizes = torch.tensor([[p.numel(), p.numel() if p.requires_grad else 0] for p in unique.values()])
        total, trainable = sizes.reshape(-1, 2).sum(0).tolist()
        return int(trainable), int(total)


# --- LoRALinear --------------------------------------------------------------------------------------------------


@mistake("LoRALinear", "B starts at random", also=["prepare"])
def lora_b_random():
    class LoRALinear(nn.Module):
        def __init__(self, base, r, alpha, dropout=0.0):
            super().__init__()
            if r < 1 or not 0 <= dropout < 1:
                raise ValueError
            self.base = base.requires_grad_(False)
            self.lora_A = nn.Parameter(torch.randn(r, base.in_features).to(base.weight) / base.in_features**0.5)
            self.lora_B = nn.Parameter(torch.randn(base.out_features, r).to(base.weight) / r**0.5)
            self.scaling, self.merged, self.dropout = alpha / r, False, nn.Dropout(dropout)

        def forward(self, x):
            if self.merged:
                return self.base(x)
            return self.base(x) + self.scaling * (self.dropout(x) @ self.lora_A.T @ self.lora_B.T)


@mistake("LoRALinear", "A and B both start at zero, so that nothing is ever learned")
def lora_both_zero():
    class LoRALinear(nn.Module):
        def __init__(self, base, r, alpha, dropout=0.0):
            super().__init__()
            if r < 1 or not 0 <= dropout < 1:
                raise ValueError
            self.base = base.requires_grad_(False)
            self.lora_A = nn.Parameter(torch.zeros(r, base.in_features).to(base.weight))
            self.lora_B = nn.Parameter(torch.zeros(base.out_features, r).to(base.weight))
            self.scaling, self.merged, self.dropout = alpha / r, False, nn.Dropout(dropout)

        def forward(self, x):
            if self.merged:
                return self.base(x)
            return self.base(x) + self.scaling * (self.dropout(x) @ self.lora_A.T @ self.lora_B.T)


@mistake("LoRALinear", "A starts at zero and B at random")
def lora_swapped_start():
    class LoRALinear(LoRALinear):
        def __init__(self, base, r, alpha, dropout=0.0):
            super().__init__(base, r, alpha, dropout)
            with torch.no_grad():
                self.lora_A.zero_()
                self.lora_B.normal_()


@mistake("LoRALinear", "A starts with standard deviation 1, whatever the number of inputs")
def lora_unit_normal():
    class LoRALinear(LoRALinear):
        def __init__(self, base, r, alpha, dropout=0.0):
            super().__init__(base, r, alpha, dropout)
            with torch.no_grad():
                self.lora_A.normal_()


@mistake("LoRALinear", "A starts with a fixed standard deviation of 0.02")
def lora_fixed_deviation():
    class LoRALinear(LoRALinear):
        def __init__(self, base, r, alpha, dropout=0.0):
            super().__init__(base, r, alpha, dropout)
            nn.init.normal_(self.lora_A, std=0.02)


@mistake("LoRALinear", "A starts with positive numbers only")
def lora_positive_start():
    class LoRALinear(LoRALinear):
        def __init__(self, base, r, alpha, dropout=0.0):
            super().__init__(base, r, alpha, dropout)
            with torch.no_grad():
                self.lora_A.copy_(torch.rand_like(self.lora_A) * 2 / base.in_features**0.5)


@mistake("LoRALinear", "all rows of A are one row, so that the change has rank one")
def lora_one_row():
    class LoRALinear(LoRALinear):
        def __init__(self, base, r, alpha, dropout=0.0):
            super().__init__(base, r, alpha, dropout)
            with torch.no_grad():
                self.lora_A.copy_(self.lora_A[:1].expand_as(self.lora_A).clone())


@mistake("LoRALinear", "every layer starts with the same A, from a fixed seed")
def lora_same_seed():
    class LoRALinear(LoRALinear):
        def __init__(self, base, r, alpha, dropout=0.0):
            super().__init__(base, r, alpha, dropout)
            generator = torch.Generator().manual_seed(0)
            start = torch.randn(r, base.in_features, generator=generator) / base.in_features**0.5
            with torch.no_grad():
                self.lora_A.copy_(start)


@mistake("LoRALinear", "alpha / r is missing", also=["prepare"])
def lora_no_scaling():
    class LoRALinear(LoRALinear):
        def __init__(self, base, r, alpha, dropout=0.0):
            super().__init__(base, r, alpha, dropout)
            self.scaling = 1.0


@mistake("LoRALinear", "alpha / r is inverted", also=["prepare"])
def lora_inverted_scaling():
    class LoRALinear(LoRALinear):
        def __init__(self, base, r, alpha, dropout=0.0):
            super().__init__(base, r, alpha, dropout)
            self.scaling = r / alpha


@mistake("LoRALinear", "alpha alone is the scaling", also=["prepare"])
def lora_alpha_alone():
    class LoRALinear(LoRALinear):
        def __init__(self, base, r, alpha, dropout=0.0):
            super().__init__(base, r, alpha, dropout)
            self.scaling = alpha


@mistake("LoRALinear", "alpha over the square root of r, the scaling of another paper", also=["prepare"])
def lora_square_root():
    class LoRALinear(LoRALinear):
        def __init__(self, base, r, alpha, dropout=0.0):
            super().__init__(base, r, alpha, dropout)
            self.scaling = alpha / math.sqrt(r)


@mistake("LoRALinear", "integer division of alpha by r")
def lora_floor_division():
    class LoRALinear(LoRALinear):
        def __init__(self, base, r, alpha, dropout=0.0):
            super().__init__(base, r, alpha, dropout)
            self.scaling = alpha // r


@mistake("LoRALinear", "the scaling is stored and not used", also=["prepare"])
def lora_scaling_unused():
    class LoRALinear(LoRALinear):
        def forward(self, x):
            if self.merged:
                return self.base(x)
            return self.base(x) + self.dropout(x) @ self.lora_A.T @ self.lora_B.T


@mistake("LoRALinear", "the base is not frozen", also=["prepare"])
def lora_not_frozen():
    class LoRALinear(LoRALinear):
        def __init__(self, base, r, alpha, dropout=0.0):
            super().__init__(base, r, alpha, dropout)
            base.requires_grad_(True)


@mistake("LoRALinear", "the bias of the base is trained")
def lora_bias_trained():
    class LoRALinear(LoRALinear):
        def __init__(self, base, r, alpha, dropout=0.0):
            super().__init__(base, r, alpha, dropout)
            if base.bias is not None:
                base.bias.requires_grad_(True)


@mistake("LoRALinear", "A and B are frozen with the rest", also=["prepare"])
def lora_all_frozen():
    class LoRALinear(LoRALinear):
        def __init__(self, base, r, alpha, dropout=0.0):
            super().__init__(base, r, alpha, dropout)
            self.requires_grad_(False)


@mistake("LoRALinear", "dropout on the path of the base, too")
def lora_dropout_on_base():
    class LoRALinear(LoRALinear):
        def forward(self, x):
            if self.merged:
                return self.base(x)
            x = self.dropout(x)
            return self.base(x) + self.scaling * (x @ self.lora_A.T @ self.lora_B.T)


@mistake("LoRALinear", "dropout on the output of the adapter")
def lora_dropout_on_output():
    class LoRALinear(LoRALinear):
        def forward(self, x):
            if self.merged:
                return self.base(x)
            return self.base(x) + self.dropout(self.scaling * (x @ self.lora_A.T @ self.lora_B.T))


@mistake("LoRALinear", "dropout between A and B")
def lora_dropout_between():
    class LoRALinear(LoRALinear):
        def forward(self, x):
            if self.merged:
                return self.base(x)
            return self.base(x) + self.scaling * (self.dropout(x @ self.lora_A.T) @ self.lora_B.T)


@mistake("LoRALinear", "one draw decides for all entries of a row")
def lora_dropout_whole_rows():
    class LoRALinear(LoRALinear):
        def forward(self, x):
            if self.merged:
                return self.base(x)
            kept = self.dropout(torch.ones_like(x[..., :1]))
            return self.base(x) + self.scaling * ((kept * x) @ self.lora_A.T @ self.lora_B.T)


@mistake("LoRALinear", "dropout in evaluation mode, too", also=["merge"])
def lora_dropout_always():
    class LoRALinear(LoRALinear):
        def forward(self, x):
            if self.merged:
                return self.base(x)
            return self.base(x) + self.scaling * (F.dropout(x, self.dropout.p) @ self.lora_A.T @ self.lora_B.T)


@mistake("LoRALinear", "dropout is taken for the probability to keep")
def lora_keep_probability():
    class LoRALinear(LoRALinear):
        def __init__(self, base, r, alpha, dropout=0.0):
            super().__init__(base, r, alpha, dropout)
            self.dropout = nn.Dropout(1 - dropout if dropout else 0.0)


@mistake("LoRALinear", "dropout is forgotten")
def lora_no_dropout():
    class LoRALinear(LoRALinear):
        def __init__(self, base, r, alpha, dropout=0.0):
            super().__init__(base, r, alpha, dropout)
            self.dropout = nn.Identity()


@mistake("LoRALinear", "the flag of a merged layer is ignored", also=["merge"])
def lora_ignores_merged():
    class LoRALinear(LoRALinear):
        def forward(self, x):
            return self.base(x) + self.scaling * (self.dropout(x) @ self.lora_A.T @ self.lora_B.T)


@mistake("LoRALinear", "the bias is left out", also=["merge"])
def lora_without_bias():
    class LoRALinear(LoRALinear):
        def forward(self, x):
            output = x @ self.base.weight.T
            return output if self.merged else output + self.scaling * (self.dropout(x) @ self.lora_A.T @ self.lora_B.T)


@mistake("LoRALinear", "a copy of the base is adapted")
def lora_copies_base():
    class LoRALinear(LoRALinear):
        def __init__(self, base, r, alpha, dropout=0.0):
            super().__init__(base, r, alpha, dropout)
            self.base = copy.deepcopy(base)


@mistake("LoRALinear", "A and B are always float32")
def lora_float32():
    class LoRALinear(nn.Module):
        def __init__(self, base, r, alpha, dropout=0.0):
            super().__init__()
            if r < 1 or not 0 <= dropout < 1:
                raise ValueError
            self.base = base.requires_grad_(False)
            self.lora_A = nn.Parameter(
                torch.randn(r, base.in_features, device=base.weight.device) * base.in_features**-0.5
            )
            self.lora_B = nn.Parameter(torch.zeros(base.out_features, r, device=base.weight.device))
            self.scaling, self.merged, self.dropout = alpha / r, False, nn.Dropout(dropout)

        def forward(self, x):
            if self.merged:
                return self.base(x)
            change = self.dropout(x).to(self.lora_A) @ self.lora_A.T @ self.lora_B.T
            return self.base(x) + self.scaling * change.to(x)


@mistake("LoRALinear", "A and B are made on the CPU, whatever the device of the base")
def lora_on_cpu():
    class LoRALinear(nn.Module):
        def __init__(self, base, r, alpha, dropout=0.0):
            super().__init__()
            if r < 1 or not 0 <= dropout < 1:
                raise ValueError
            self.base = base.requires_grad_(False)
            dtype = base.weight.dtype
            self.lora_A = nn.Parameter(torch.randn(r, base.in_features, dtype=dtype) * base.in_features**-0.5)
            self.lora_B = nn.Parameter(torch.zeros(base.out_features, r, dtype=dtype))
            self.scaling, self.merged, self.dropout = alpha / r, False, nn.Dropout(dropout)

        def forward(self, x):
            if self.merged:
                return self.base(x)
            return self.base(x) + self.scaling * (self.dropout(x) @ self.lora_A.T @ self.lora_B.T)


@mistake("LoRALinear", "A has the shape of the outputs and B that of the inputs", also=["merge", "prepare"])
def lora_shapes_swapped():
    class LoRALinear(nn.Module):
        def __init__(self, base, r, alpha, dropout=0.0):
            super().__init__()
            if r < 1 or not 0 <= dropout < 1:
                raise ValueError
            self.base = base.requires_grad_(False)
            self.lora_A = nn.Parameter(torch.randn(base.in_features, r).to(base.weight) * base.in_features**-0.5)
            self.lora_B = nn.Parameter(torch.zeros(r, base.out_features).to(base.weight))
            self.scaling, self.merged, self.dropout = alpha / r, False, nn.Dropout(dropout)

        def forward(self, x):
            if self.merged:
                return self.base(x)
            return self.base(x) + self.scaling * (self.dropout(x) @ self.lora_A @ self.lora_B)


@mistake("LoRALinear", "A and B are plain tensors that no optimizer finds", also=["prepare"])
def lora_no_parameters():
    class LoRALinear(LoRALinear):
        def __init__(self, base, r, alpha, dropout=0.0):
            super().__init__(base, r, alpha, dropout)
            values = self.lora_A.detach().clone(), self.lora_B.detach().clone()
            del self.lora_A, self.lora_B
            self.register_buffer("lora_A", values[0])
            self.register_buffer("lora_B", values[1])


@mistake("LoRALinear", "bad arguments come through")
def lora_takes_anything():
    class LoRALinear(nn.Module):
        def __init__(self, base, r, alpha, dropout=0.0):
            super().__init__()
            r = max(r, 1)
            self.base = base.requires_grad_(False)
            self.lora_A = nn.Parameter(torch.randn(r, base.in_features).to(base.weight) * base.in_features**-0.5)
            self.lora_B = nn.Parameter(torch.zeros(base.out_features, r).to(base.weight))
            self.scaling, self.merged = alpha / r, False
            self.dropout = nn.Dropout(min(max(dropout, 0.0), 1.0))

        def forward(self, x):
            if self.merged:
                return self.base(x)
            return self.base(x) + self.scaling * (self.dropout(x) @ self.lora_A.T @ self.lora_B.T)


@alternative("LoRALinear", "the weight with its change is put together first, and a mask is drawn by hand")
def lora_whole_weight():
    class LoRALinear(nn.Module):
        def __init__(self, base, r, alpha, dropout=0.0):
            super().__init__()
            if r < 1:
                raise ValueError("rank")
            if dropout < 0 or dropout >= 1:
                raise ValueError("dropout")
            self.base = base
            for parameter in base.parameters():
                parameter.requires_grad = False
            self.lora_A = nn.Parameter(torch.empty_like(base.weight[:1]).repeat(r, 1))
            self.lora_B = nn.Parameter(torch.zeros_like(base.weight[:, :1]).repeat(1, r))
            nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
            self.p, self.scaling, self.merged = dropout, alpha / r, False

        def forward(self, x):
            if self.merged:
                return self.base(x)
            change = torch.einsum("or,ri->oi", self.lora_B, self.lora_A) * self.scaling
            if not self.training or self.p == 0:
                return F.linear(x, self.base.weight + change, self.base.bias)
            keep = (torch.rand(x.shape, device=x.device) >= self.p).to(x.dtype)
            return self.base(x) + F.linear(x * keep / (1 - self.p), change)


@alternative("LoRALinear", "einsum, Kaiming's normal start, the scaling inside the product, merged as a property")
def lora_einsum():
    class LoRALinear(torch.nn.Module):
        def __init__(self, base, r, alpha, dropout=0.0):
            super().__init__()
            if not (r >= 1 and 0 <= dropout < 1):
                raise ValueError(f"{r}, {dropout}")
            like = {"dtype": base.weight.dtype, "device": base.weight.device}
            self.add_module("base", base)
            base.weight.requires_grad_(False)
            if base.bias is not None:
                base.bias.requires_grad_(False)
            self.register_parameter("lora_A", nn.Parameter(torch.zeros((r, base.in_features), **like)))
            self.register_parameter("lora_B", nn.Parameter(torch.zeros((base.out_features, r), **like)))
            bound = math.sqrt(3 / base.in_features)
            self.lora_A.data.uniform_(-bound, bound)
            self.alpha, self.r, self.drop, self.merged = alpha, r, torch.nn.Dropout(p=dropout), False

        @property
        def scaling(self):
            return self.alpha / self.r

        def forward(self, x):
            y = self.base.forward(x)
            if not self.merged:
                read = torch.einsum("ri,...i->...r", self.lora_A, self.drop(x))
                y = y + torch.einsum("or,...r->...o", self.scaling * self.lora_B, read)
            return y


# --- merge and unmerge -------------------------------------------------------------------------------------------


@mistake("merge", "the product is transposed")
def merge_transposed():
    def merge(layer):
        if not layer.merged:
            change = layer.scaling * (layer.lora_B @ layer.lora_A).detach()
            square = change.shape[0] == change.shape[1]
            layer.base.weight.data += change.T if square else change
            layer.merged = True

    def unmerge(layer):
        if layer.merged:
            change = layer.scaling * (layer.lora_B @ layer.lora_A).detach()
            square = change.shape[0] == change.shape[1]
            layer.base.weight.data -= change.T if square else change
            layer.merged = False


@mistake("merge", "A and B are transposed and multiplied the other way round")
def merge_transposed_factors():
    def merge(layer):
        if not layer.merged:
            layer.base.weight.data += layer.scaling * (layer.lora_A.T @ layer.lora_B.T).detach()
            layer.merged = True

    def unmerge(layer):
        if layer.merged:
            layer.base.weight.data -= layer.scaling * (layer.lora_A.T @ layer.lora_B.T).detach()
            layer.merged = False


@mistake("merge", "a merged layer is merged again")
def merge_twice():
    def merge(layer):
        layer.base.weight.data += layer.scaling * (layer.lora_B @ layer.lora_A).detach()
        layer.merged = True


@mistake("merge", "an unmerged layer is unmerged again")
def unmerge_twice():
    def unmerge(layer):
        layer.base.weight.data -= layer.scaling * (layer.lora_B @ layer.lora_A).detach()
        layer.merged = False


@mistake("merge", "the flag is never set")
def merge_without_flag():
    def merge(layer):
        if not layer.merged:
            layer.base.weight.data += layer.scaling * (layer.lora_B @ layer.lora_A).detach()


@mistake("merge", "the flag is not taken back")
def unmerge_without_flag():
    def unmerge(layer):
        if layer.merged:
            layer.base.weight.data -= layer.scaling * (layer.lora_B @ layer.lora_A).detach()


@mistake("merge", "the scaling is forgotten, in both directions")
def merge_unscaled():
    def merge(layer):
        if not layer.merged:
            layer.base.weight.data += (layer.lora_B @ layer.lora_A).detach()
            layer.merged = True

    def unmerge(layer):
        if layer.merged:
            layer.base.weight.data -= (layer.lora_B @ layer.lora_A).detach()
            layer.merged = False


@mistake("merge", "the scaling is forgotten when unmerging")
def unmerge_unscaled():
    def unmerge(layer):
        if layer.merged:
            layer.base.weight.data -= (layer.lora_B @ layer.lora_A).detach()
            layer.merged = False


@mistake("merge", "unmerging only takes the flag back")
def unmerge_flag_only():
    def unmerge(layer):
        layer.merged = False


@mistake("merge", "a new parameter, which is trainable, takes the place of the weight")
def merge_new_parameter():
    def merge(layer):
        if not layer.merged:
            layer.base.weight = nn.Parameter(layer.base.weight + layer.scaling * (layer.lora_B @ layer.lora_A))
            layer.merged = True


@mistake("merge", "in place without no_grad: the weight becomes a part of the graph")
def merge_with_graph():
    def merge(layer):
        if not layer.merged:
            layer.base.weight += layer.scaling * (layer.lora_B @ layer.lora_A)
            layer.merged = True

    def unmerge(layer):
        if layer.merged:
            layer.base.weight -= layer.scaling * (layer.lora_B @ layer.lora_A)
            layer.merged = False


@mistake("merge", "B is set to zero after merging, so that unmerging finds nothing")
def merge_consumes():
    def merge(layer):
        if not layer.merged:
            with torch.no_grad():
                layer.base.weight += layer.scaling * (layer.lora_B @ layer.lora_A)
                layer.lora_B.zero_()
            layer.merged = True


@mistake("merge", "the change of the first merge is kept and used for all later ones")
def merge_stale_change():
    def merge(layer):
        if not layer.merged:
            if not hasattr(layer, "_change"):
                layer._change = layer.scaling * (layer.lora_B @ layer.lora_A).detach()
            layer.base.weight.data += layer._change
            layer.merged = True

    def unmerge(layer):
        if layer.merged:
            layer.base.weight.data -= layer._change
            layer.merged = False


@mistake("merge", "a copy of the weight from the first merge is put back for ever")
def merge_stale_copy():
    def merge(layer):
        if not layer.merged:
            if not hasattr(layer, "_original"):
                layer._original = layer.base.weight.detach().clone()
            layer.base.weight.data += layer.scaling * (layer.lora_B @ layer.lora_A).detach()
            layer.merged = True

    def unmerge(layer):
        if layer.merged:
            layer.base.weight.data.copy_(layer._original)
            layer.merged = False


@mistake("merge", "the copy of the weight is a buffer, and turns up in the state_dict")
def merge_buffer():
    def merge(layer):
        if not layer.merged:
            layer.register_buffer("original", layer.base.weight.detach().clone())
            layer.base.weight.data += layer.scaling * (layer.lora_B @ layer.lora_A).detach()
            layer.merged = True

    def unmerge(layer):
        if layer.merged:
            layer.base.weight.data.copy_(layer.original)
            layer.merged = False


@mistake("merge", "the change is rounded to half precision")
def merge_in_half():
    def merge(layer):
        if not layer.merged:
            change = layer.scaling * (layer.lora_B.half() @ layer.lora_A.half()).detach()
            layer.base.weight.data += change.to(layer.base.weight.dtype)
            layer.merged = True

    def unmerge(layer):
        if layer.merged:
            change = layer.scaling * (layer.lora_B.half() @ layer.lora_A.half()).detach()
            layer.base.weight.data -= change.to(layer.base.weight.dtype)
            layer.merged = False


@mistake("merge", "the merged weight is float32, whatever it was")
def merge_float32():
    def merge(layer):
        if not layer.merged:
            layer.base.weight.data = (
                (layer.base.weight + layer.scaling * (layer.lora_B @ layer.lora_A)).detach().float()
            )
            layer.merged = True

    def unmerge(layer):
        if layer.merged:
            layer.base.weight.data = (
                (layer.base.weight - layer.scaling * (layer.lora_B @ layer.lora_A)).detach().float()
            )
            layer.merged = False


@mistake("merge", "the change is merged into the bias as well")
def merge_into_bias():
    def merge(layer):
        if not layer.merged:
            change = layer.scaling * (layer.lora_B @ layer.lora_A).detach()
            layer.base.weight.data += change
            if layer.base.bias is not None:
                layer.base.bias.data += change.sum(1)
            layer.merged = True


@mistake("merge", "the change is subtracted when merging and added when unmerging")
def merge_wrong_sign():
    def merge(layer):
        if not layer.merged:
            layer.base.weight.data -= layer.scaling * (layer.lora_B @ layer.lora_A).detach()
            layer.merged = True

    def unmerge(layer):
        if layer.merged:
            layer.base.weight.data += layer.scaling * (layer.lora_B @ layer.lora_A).detach()
            layer.merged = False


@alternative("merge", "one column of B with one row of A at a time, in place on .data")
def merge_outer_products():
    def merge(layer):
        if layer.merged:
            return
        weight = layer.base.weight.data
        change = torch.zeros_like(weight)
        for column, row in zip(layer.lora_B.data.T, layer.lora_A.data, strict=True):
            change += torch.outer(column, row)
        weight.add_(change, alpha=layer.scaling)
        layer.merged = True

    def unmerge(layer):
        if not layer.merged:
            return
        weight = layer.base.weight.data
        change = torch.zeros_like(weight)
        for column, row in zip(layer.lora_B.data.T, layer.lora_A.data, strict=True):
            change += torch.outer(column, row)
        weight.sub_(change, alpha=layer.scaling)
        layer.merged = False


@alternative("merge", "computed in float64, with an exact copy of the weight beside the layer")
def merge_with_copy():
    def merge(layer):
        if not layer.merged:
            layer.__dict__["kept"] = layer.base.weight.detach().clone()
            change = torch.einsum("or,ri->oi", layer.lora_B.detach().double(), layer.lora_A.detach().double())
            with torch.no_grad():
                layer.base.weight.copy_(layer.base.weight.double() + layer.scaling * change)
            layer.merged = True

    def unmerge(layer):
        if layer.merged:
            with torch.no_grad():
                layer.base.weight.copy_(layer.__dict__.pop("kept"))
            layer.merged = False


@alternative("merge", "addmm into the storage of the weight, both directions in one helper")
def merge_addmm():
    def _add(layer, sign):
        weight = layer.base.weight.detach()
        weight.addmm_(layer.lora_B.detach(), layer.lora_A.detach(), alpha=sign * layer.scaling)
        layer.merged = sign > 0

    def merge(layer):
        if not layer.merged:
            _add(layer, 1)

    def unmerge(layer):
        if layer.merged:
            _add(layer, -1)


# --- inject_adapters ---------------------------------------------------------------------------------------------


@mistake("inject_adapters", "a target matches wherever it occurs in a name")
def inject_substring():
    def inject_adapters(model, targets, make_adapter, also_train=()):
        linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        if any(not any(target in name for name in linear) for target in targets):
            raise ValueError
        model.requires_grad_(False)
        for name in also_train:
            model.get_submodule(name).requires_grad_(True)
        names = [name for name in linear if any(target in name for target in targets)]
        for name in names:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, make_adapter(linear[name]).train(linear[name].training))
        return names


@mistake("inject_adapters", "a name need only end in the target's letters: seq is taken for q")
def inject_endswith():
    def inject_adapters(model, targets, make_adapter, also_train=()):
        linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        if any(not any(name.endswith(target) for name in linear) for target in targets):
            raise ValueError
        model.requires_grad_(False)
        for name in also_train:
            model.get_submodule(name).requires_grad_(True)
        names = [name for name in linear if name.endswith(tuple(targets))]
        for name in names:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, make_adapter(linear[name]).train(linear[name].training))
        return names


@mistake("inject_adapters", "only the last part of a name is compared", also=["prepare"])
def inject_last_part():
    def inject_adapters(model, targets, make_adapter, also_train=()):
        linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        last = {name.split(".")[-1] for name in linear}
        if any(target not in last for target in targets):
            raise ValueError
        model.requires_grad_(False)
        for name in also_train:
            model.get_submodule(name).requires_grad_(True)
        names = [name for name in linear if name.split(".")[-1] in targets]
        for name in names:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, make_adapter(linear[name]).train(linear[name].training))
        return names


@mistake("inject_adapters", "only the children of the model are looked at", also=["prepare"])
def inject_children():
    def inject_adapters(model, targets, make_adapter, also_train=()):
        model.requires_grad_(False)
        for name in also_train:
            model.get_submodule(name).requires_grad_(True)
        names = [name for name, child in model.named_children() if isinstance(child, nn.Linear) and name in targets]
        if set(targets) - set(names):
            raise ValueError
        for name in names:
            setattr(model, name, make_adapter(getattr(model, name)))
        return names


@mistake("inject_adapters", "all linear layers are adapted", also=["prepare"])
def inject_everywhere():
    def inject_adapters(model, targets, make_adapter, also_train=()):
        linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        model.requires_grad_(False)
        for name in also_train:
            model.get_submodule(name).requires_grad_(True)
        for name, layer in linear.items():
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, make_adapter(layer).train(layer.training))
        return list(linear)


@mistake("inject_adapters", "the rest of the model is not frozen", also=["prepare"])
def inject_not_frozen():
    def inject_adapters(model, targets, make_adapter, also_train=()):
        linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        names = [name for name in linear if any(f".{name}".endswith(f".{target}") for target in targets)]
        if any(not any(f".{name}".endswith(f".{target}") for name in names) for target in targets):
            raise ValueError
        for name in names:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, make_adapter(linear[name]).train(linear[name].training))
        return names


@mistake("inject_adapters", "only the adapted layers are frozen, not the rest", also=["prepare"])
def inject_freezes_targets():
    def inject_adapters(model, targets, make_adapter, also_train=()):
        linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        names = [name for name in linear if any(f".{name}".endswith(f".{target}") for target in targets)]
        if any(not any(f".{name}".endswith(f".{target}") for name in names) for target in targets):
            raise ValueError
        for name in names:
            parent, _, child = name.rpartition(".")
            linear[name].requires_grad_(False)
            setattr(model.get_submodule(parent), child, make_adapter(linear[name]).train(linear[name].training))
        return names


@mistake("inject_adapters", "the head stays frozen", also=["prepare"])
def inject_head_frozen():
    def inject_adapters(model, targets, make_adapter, also_train=()):
        linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        names = [name for name in linear if any(f".{name}".endswith(f".{target}") for target in targets)]
        if any(not any(f".{name}".endswith(f".{target}") for name in names) for target in targets):
            raise ValueError
        model.requires_grad_(False)
        for name in names:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, make_adapter(linear[name]).train(linear[name].training))
        return names


@mistake("inject_adapters", "frozen first, but what also_train names is only spared, not unfrozen", also=["prepare"])
def inject_spares():
    def inject_adapters(model, targets, make_adapter, also_train=()):
        linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        names = [name for name in linear if any(f".{name}".endswith(f".{target}") for target in targets)]
        if any(not any(f".{name}".endswith(f".{target}") for name in names) for target in targets):
            raise ValueError
        spared = {id(p) for name in also_train for p in model.get_submodule(name).parameters()}
        for parameter in model.parameters():
            if id(parameter) not in spared:
                parameter.requires_grad = False
        for name in names:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, make_adapter(linear[name]).train(linear[name].training))
        return names


@mistake("inject_adapters", "everything whose name begins like a module of also_train is trained")
def inject_prefix():
    def inject_adapters(model, targets, make_adapter, also_train=()):
        linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        names = [name for name in linear if any(f".{name}".endswith(f".{target}") for target in targets)]
        if any(not any(f".{name}".endswith(f".{target}") for name in names) for target in targets):
            raise ValueError
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.startswith(tuple(also_train))
        for name in names:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, make_adapter(linear[name]).train(linear[name].training))
        return names


@mistake("inject_adapters", "all biases are trained", also=["prepare"])
def inject_trains_biases():
    def inject_adapters(model, targets, make_adapter, also_train=()):
        linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        names = [name for name in linear if any(f".{name}".endswith(f".{target}") for target in targets)]
        if any(not any(f".{name}".endswith(f".{target}") for name in names) for target in targets):
            raise ValueError
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.endswith("bias")
        for name in also_train:
            model.get_submodule(name).requires_grad_(True)
        for name in names:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, make_adapter(linear[name]).train(linear[name].training))
        return names


@mistake("inject_adapters", "only the weight of the head is trained, its bias is not", also=["prepare"])
def inject_head_weight():
    def inject_adapters(model, targets, make_adapter, also_train=()):
        linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        names = [name for name in linear if any(f".{name}".endswith(f".{target}") for target in targets)]
        if any(not any(f".{name}".endswith(f".{target}") for name in names) for target in targets):
            raise ValueError
        model.requires_grad_(False)
        for name in also_train:
            model.get_submodule(name).weight.requires_grad_(True)
        for name in names:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, make_adapter(linear[name]).train(linear[name].training))
        return names


@mistake("inject_adapters", "frozen after the injection, adapters included", also=["prepare"])
def inject_freezes_adapters():
    def inject_adapters(model, targets, make_adapter, also_train=()):
        linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        names = [name for name in linear if any(f".{name}".endswith(f".{target}") for target in targets)]
        if any(not any(f".{name}".endswith(f".{target}") for name in names) for target in targets):
            raise ValueError
        for name in names:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, make_adapter(linear[name]).train(linear[name].training))
        model.requires_grad_(False)
        for name in also_train:
            model.get_submodule(name).requires_grad_(True)
        return names


@mistake("inject_adapters", "everything in an adapter is trained, the old layer in it included", also=["prepare"])
def inject_trains_old_layer():
    def inject_adapters(model, targets, make_adapter, also_train=()):
        linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        names = [name for name in linear if any(f".{name}".endswith(f".{target}") for target in targets)]
        if any(not any(f".{name}".endswith(f".{target}") for name in names) for target in targets):
            raise ValueError
        model.requires_grad_(False)
        for name in names:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, make_adapter(linear[name]).train(linear[name].training))
        for name in (*names, *also_train):
            model.get_submodule(name).requires_grad_(True)
        return names


@mistake(
    "inject_adapters", "only parameters with lora_ in their names are trained, as loralib does it", also=["prepare"]
)
def inject_by_parameter_name():
    def inject_adapters(model, targets, make_adapter, also_train=()):
        linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        names = [name for name in linear if any(f".{name}".endswith(f".{target}") for target in targets)]
        if any(not any(f".{name}".endswith(f".{target}") for name in names) for target in targets):
            raise ValueError
        for name in names:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, make_adapter(linear[name]).train(linear[name].training))
        for name, parameter in model.named_parameters():
            parameter.requires_grad = "lora_" in name or name.startswith(tuple(f"{module}." for module in also_train))
        return names


@mistake("inject_adapters", "a target that matches nothing comes through")
def inject_silent():
    def inject_adapters(model, targets, make_adapter, also_train=()):
        linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        names = [name for name in linear if any(f".{name}".endswith(f".{target}") for target in targets)]
        model.requires_grad_(False)
        for name in also_train:
            model.get_submodule(name).requires_grad_(True)
        for name in names:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, make_adapter(linear[name]).train(linear[name].training))
        return names


@mistake("inject_adapters", "an error only if no target matches at all")
def inject_error_if_none():
    def inject_adapters(model, targets, make_adapter, also_train=()):
        linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        names = [name for name in linear if any(f".{name}".endswith(f".{target}") for target in targets)]
        if targets and not names:
            raise ValueError
        model.requires_grad_(False)
        for name in also_train:
            model.get_submodule(name).requires_grad_(True)
        for name in names:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, make_adapter(linear[name]).train(linear[name].training))
        return names


@mistake("inject_adapters", "the error comes when half of the work is done")
def inject_late_error():
    def inject_adapters(model, targets, make_adapter, also_train=()):
        model.requires_grad_(False)
        for name in also_train:
            model.get_submodule(name).requires_grad_(True)
        linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        names = [name for name in linear if any(f".{name}".endswith(f".{target}") for target in targets)]
        for name in names:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, make_adapter(linear[name]).train(linear[name].training))
        if any(not any(f".{name}".endswith(f".{target}") for name in names) for target in targets):
            raise ValueError
        return names


@mistake(
    "inject_adapters", "names come in the order of the targets, and a layer that two of them match is wrapped twice"
)
def inject_by_target():
    def inject_adapters(model, targets, make_adapter, also_train=()):
        linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        names = [name for target in targets for name in linear if f".{name}".endswith(f".{target}")]
        if any(not any(f".{name}".endswith(f".{target}") for name in names) for target in targets):
            raise ValueError
        model.requires_grad_(False)
        for name in also_train:
            model.get_submodule(name).requires_grad_(True)
        for name in names:
            parent, _, child = name.rpartition(".")
            layer = model.get_submodule(name)
            setattr(model.get_submodule(parent), child, make_adapter(layer).train(linear[name].training))
        return names


@mistake("inject_adapters", "the adapters stay in training mode in a model that is being used")
def inject_mode_forgotten():
    def inject_adapters(model, targets, make_adapter, also_train=()):
        linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        names = [name for name in linear if any(f".{name}".endswith(f".{target}") for target in targets)]
        if any(not any(f".{name}".endswith(f".{target}") for name in names) for target in targets):
            raise ValueError
        model.requires_grad_(False)
        for name in also_train:
            model.get_submodule(name).requires_grad_(True)
        for name in names:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, make_adapter(linear[name]))
        return names


@mistake("inject_adapters", "modules of other kinds are replaced too")
def inject_any_module():
    def inject_adapters(model, targets, make_adapter, also_train=()):
        modules = dict(model.named_modules())
        names = [name for name in modules if any(f".{name}".endswith(f".{target}") for target in targets)]
        if any(not any(f".{name}".endswith(f".{target}") for name in names) for target in targets):
            raise ValueError
        model.requires_grad_(False)
        for name in also_train:
            model.get_submodule(name).requires_grad_(True)
        for name in names:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, make_adapter(modules[name]).train(modules[name].training))
        return names


@mistake("inject_adapters", "the adapters are made and never put into the model", also=["prepare"])
def inject_not_placed():
    def inject_adapters(model, targets, make_adapter, also_train=()):
        linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        names = [name for name in linear if any(f".{name}".endswith(f".{target}") for target in targets)]
        if any(not any(f".{name}".endswith(f".{target}") for name in names) for target in targets):
            raise ValueError
        model.requires_grad_(False)
        for name in also_train:
            model.get_submodule(name).requires_grad_(True)
        for name in names:
            linear[name] = make_adapter(linear[name])
        return names


@mistake("inject_adapters", "set on the model under the full name, where no forward looks", also=["prepare"])
def inject_wrong_place():
    def inject_adapters(model, targets, make_adapter, also_train=()):
        linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        names = [name for name in linear if any(f".{name}".endswith(f".{target}") for target in targets)]
        if any(not any(f".{name}".endswith(f".{target}") for name in names) for target in targets):
            raise ValueError
        model.requires_grad_(False)
        for name in also_train:
            model.get_submodule(name).requires_grad_(True)
        for name in names:
            setattr(model, name.replace(".", "_"), make_adapter(linear[name]).train(linear[name].training))
        return names


@mistake("inject_adapters", "one adapter for all layers", also=["prepare"])
def inject_one_adapter():
    def inject_adapters(model, targets, make_adapter, also_train=()):
        linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        names = [name for name in linear if any(f".{name}".endswith(f".{target}") for target in targets)]
        if any(not any(f".{name}".endswith(f".{target}") for name in names) for target in targets):
            raise ValueError
        model.requires_grad_(False)
        for name in also_train:
            model.get_submodule(name).requires_grad_(True)
        adapter = make_adapter(linear[names[0]]).train(linear[names[0]].training) if names else None
        for name in names:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, adapter)
        return names


@alternative("inject_adapters", "a recursion over children, names as tuples, parameters by identity")
def inject_recursive():
    def inject_adapters(model, targets, make_adapter, also_train=()):
        wanted = [tuple(target.split(".")) for target in targets]
        places = []

        def visit(module, path):
            for name, child in module.named_children():
                here = (*path, name)
                if isinstance(child, nn.Linear) and any(here[-len(parts) :] == parts for parts in wanted):
                    places.append((module, name, here))
                visit(child, here)

        visit(model, ())
        for parts in wanted:
            if not any(here[-len(parts) :] == parts for _, _, here in places):
                raise ValueError(".".join(parts))
        trained = {id(p) for name in also_train for p in model.get_submodule(name).parameters()}
        for parameter in model.parameters():
            parameter.requires_grad = id(parameter) in trained
        for module, name, _ in places:
            layer = getattr(module, name)
            mode = layer.training
            adapter = make_adapter(layer)
            adapter.train(mode)
            module._modules[name] = adapter
        return [".".join(here) for _, _, here in places]


@alternative("inject_adapters", "regular expressions and set_submodule; frozen last, new parameters left as they are")
def inject_regular_expression():
    def inject_adapters(model, targets, make_adapter, also_train=()):
        import re

        old = list(model.parameters())
        layers = [(name, module) for name, module in model.named_modules() if type(module) is nn.Linear]
        found = []
        for target in targets:
            pattern = re.compile(rf"(^|.*\.){re.escape(target)}")
            hits = [name for name, _ in layers if pattern.fullmatch(name)]
            if not hits:
                raise ValueError(target)
            found += hits
        replaced = []
        for name, layer in layers:
            if name in found:
                mode = layer.training
                model.set_submodule(name, make_adapter(layer).train(mode))
                replaced.append(name)
        for parameter in old:
            parameter.requires_grad_(False)
        for name in also_train:
            for parameter in model.get_submodule(name).parameters():
                parameter.requires_grad_(True)
        return tuple(replaced)


# --- lora_parameter_count and adapter_parameter_count ------------------------------------------------------------


@mistake("lora_parameter_count", "only A is counted")
def lora_count_a_only():
    def lora_parameter_count(shapes, r, layers=1):
        if r < 1 or layers < 1:
            raise ValueError
        return layers * sum(r * columns for _, columns in shapes)


@mistake("lora_parameter_count", "every matrix is taken to be square: twice its columns")
def lora_count_square():
    def lora_parameter_count(shapes, r, layers=1):
        if r < 1 or layers < 1:
            raise ValueError
        return layers * sum(2 * r * columns for _, columns in shapes)


@mistake("lora_parameter_count", "every matrix is taken to be square: twice its rows")
def lora_count_rows():
    def lora_parameter_count(shapes, r, layers=1):
        if r < 1 or layers < 1:
            raise ValueError
        return layers * sum(2 * r * rows for rows, _ in shapes)


@mistake("lora_parameter_count", "the number of layers is forgotten")
def lora_count_one_layer():
    def lora_parameter_count(shapes, r, layers=1):
        if r < 1 or layers < 1:
            raise ValueError
        return sum(r * (rows + columns) for rows, columns in shapes)


@mistake("lora_parameter_count", "the matrices themselves are counted")
def lora_count_full():
    def lora_parameter_count(shapes, r, layers=1):
        if r < 1 or layers < 1:
            raise ValueError
        return layers * sum(rows * columns for rows, columns in shapes)


@mistake("lora_parameter_count", "all matrices are taken to have the shape of the first")
def lora_count_first_shape():
    def lora_parameter_count(shapes, r, layers=1):
        if r < 1 or layers < 1:
            raise ValueError
        return layers * len(shapes) * r * sum(shapes[0]) if shapes else 0


@mistake("lora_parameter_count", "r times r numbers between A and B")
def lora_count_with_core():
    def lora_parameter_count(shapes, r, layers=1):
        if r < 1 or layers < 1:
            raise ValueError
        return layers * sum(r * (rows + columns) + r * r for rows, columns in shapes)


@mistake("lora_parameter_count", "a bias for each matrix is counted")
def lora_count_with_bias():
    def lora_parameter_count(shapes, r, layers=1):
        if r < 1 or layers < 1:
            raise ValueError
        return layers * sum(r * (rows + columns) + rows for rows, columns in shapes)


@mistake("lora_parameter_count", "a rank of zero comes through")
def lora_count_takes_anything():
    def lora_parameter_count(shapes, r, layers=1):
        return layers * sum(r * (rows + columns) for rows, columns in shapes)


@mistake("lora_parameter_count", "the biases of the adapter are forgotten")
def adapter_count_without_biases():
    def adapter_parameter_count(width, r, adapters=1):
        if min(width, r, adapters) < 1:
            raise ValueError
        return adapters * 2 * width * r


@mistake("lora_parameter_count", "the bias of the bottleneck is forgotten")
def adapter_count_one_bias():
    def adapter_parameter_count(width, r, adapters=1):
        if min(width, r, adapters) < 1:
            raise ValueError
        return adapters * (2 * width * r + width)


@mistake("lora_parameter_count", "both biases of the adapter have the width of the model")
def adapter_count_wide_biases():
    def adapter_parameter_count(width, r, adapters=1):
        if min(width, r, adapters) < 1:
            raise ValueError
        return adapters * (2 * width * r + 2 * width)


@mistake("lora_parameter_count", "the number of adapters is forgotten")
def adapter_count_one():
    def adapter_parameter_count(width, r, adapters=1):
        if min(width, r, adapters) < 1:
            raise ValueError
        return 2 * width * r + r + width


@mistake("lora_parameter_count", "an adapter of no width comes through")
def adapter_count_takes_anything():
    def adapter_parameter_count(width, r, adapters=1):
        if r < 1:
            raise ValueError
        return adapters * (2 * width * r + r + width)


@alternative("lora_parameter_count", "loops that add one matrix at a time")
def lora_count_loop():
    def lora_parameter_count(shapes, r, layers=1):
        if min(r, layers) <= 0:
            raise ValueError("at least 1")
        total = 0
        for _ in range(layers):
            for shape in shapes:
                total += r * shape[1]
                total += shape[0] * r
        return total

    def adapter_parameter_count(width, r, adapters=1):
        if not (width > 0 and r > 0 and adapters > 0):
            raise ValueError("at least 1")
        down, up = (width + 1) * r, (r + 1) * width
        return (down + up) * adapters


@alternative("lora_parameter_count", "modules on the meta device, counted")
def lora_count_meta():
    def lora_parameter_count(shapes, r, layers=1):
        if r < 1 or layers < 1:
            raise ValueError(f"{r}, {layers}")
        factors = [torch.empty(size, device="meta") for rows, columns in shapes for size in ((rows, r), (r, columns))]
        return layers * sum(factor.numel() for factor in factors)

    def adapter_parameter_count(width, r, adapters=1):
        if width < 1 or r < 1 or adapters < 1:
            raise ValueError(f"{width}, {r}, {adapters}")
        network = nn.Sequential(nn.Linear(width, r, device="meta"), nn.Linear(r, width, device="meta"))
        return adapters * sum(math.prod(parameter.shape) for parameter in network.parameters())


# --- instruction_loss --------------------------------------------------------------------------------------------


@mistake("instruction_loss", "the tokens of the prompt count")
def loss_with_prompt():
    def instruction_loss(logits, tokens, is_response):
        if not is_response[:, 1:].any():
            raise ValueError
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


@mistake("instruction_loss", "the labels are not shifted")
def loss_not_shifted():
    def instruction_loss(logits, tokens, is_response):
        if not is_response[:, 1:].any():
            raise ValueError
        return F.cross_entropy(logits[is_response], tokens[is_response])


@mistake("instruction_loss", "the labels are shifted, the mask is not")
def loss_mask_not_shifted():
    def instruction_loss(logits, tokens, is_response):
        if not is_response[:, 1:].any():
            raise ValueError
        counts = is_response[:, :-1]
        return F.cross_entropy(logits[:, :-1][counts], tokens[:, 1:][counts])


@mistake("instruction_loss", "shifted the wrong way: scores for the token before")
def loss_shifted_back():
    def instruction_loss(logits, tokens, is_response):
        if not is_response[:, 1:].any():
            raise ValueError
        counts = is_response[:, :-1]
        return F.cross_entropy(logits[:, 1:][counts], tokens[:, :-1][counts])


@mistake("instruction_loss", "rolled, so that the last scores predict the first token")
def loss_rolled():
    def instruction_loss(logits, tokens, is_response):
        if not is_response[:, 1:].any():
            raise ValueError
        counts = is_response.roll(-1, 1)
        return F.cross_entropy(logits[counts], tokens.roll(-1, 1)[counts])


@mistake("instruction_loss", "the mean of each sequence's mean")
def loss_mean_of_means():
    def instruction_loss(logits, tokens, is_response):
        if not is_response[:, 1:].any():
            raise ValueError
        losses = [
            F.cross_entropy(logits[i, :-1][mask], tokens[i, 1:][mask])
            for i, mask in enumerate(is_response[:, 1:])
            if mask.any()
        ]
        return torch.stack(losses).mean()


@mistake("instruction_loss", "the sum in place of the mean")
def loss_sum():
    def instruction_loss(logits, tokens, is_response):
        counts = is_response[:, 1:]
        if not counts.any():
            raise ValueError
        return F.cross_entropy(logits[:, :-1][counts], tokens[:, 1:][counts], reduction="sum")


@mistake("instruction_loss", "divided by the number of all tokens")
def loss_over_all_tokens():
    def instruction_loss(logits, tokens, is_response):
        counts = is_response[:, 1:]
        if not counts.any():
            raise ValueError
        losses = F.cross_entropy(logits[:, :-1].mT, tokens[:, 1:], reduction="none")
        return losses.masked_fill(~counts, 0.0).mean()


@mistake("instruction_loss", "divided by the number of sequences")
def loss_over_sequences():
    def instruction_loss(logits, tokens, is_response):
        counts = is_response[:, 1:]
        if not counts.any():
            raise ValueError
        return F.cross_entropy(logits[:, :-1][counts], tokens[:, 1:][counts], reduction="sum") / len(tokens)


@mistake("instruction_loss", "the first response token is not counted")
def loss_skips_first():
    def instruction_loss(logits, tokens, is_response):
        counts = is_response[:, 1:] & is_response[:, :-1]
        if not is_response[:, 1:].any():
            raise ValueError
        return F.cross_entropy(logits[:, :-1][counts], tokens[:, 1:][counts])


@mistake("instruction_loss", "what does not count is multiplied by zero, and zero times infinity is NaN")
def loss_times_mask():
    def instruction_loss(logits, tokens, is_response):
        counts = is_response[:, 1:].to(logits.dtype)
        if not counts.any():
            raise ValueError
        losses = F.cross_entropy(logits[:, :-1].mT, tokens[:, 1:], reduction="none")
        return (losses * counts).sum() / counts.sum()


@mistake("instruction_loss", "everything from the first response token on counts, later prompts and padding too")
def loss_to_the_end():
    def instruction_loss(logits, tokens, is_response):
        if not is_response[:, 1:].any():
            raise ValueError
        counts = (is_response.cumsum(1) > 0)[:, 1:]
        return F.cross_entropy(logits[:, :-1][counts], tokens[:, 1:][counts])


@mistake("instruction_loss", "softmax first, logarithm then")
def loss_softmax_log():
    def instruction_loss(logits, tokens, is_response):
        counts = is_response[:, 1:]
        if not counts.any():
            raise ValueError
        p = torch.softmax(logits[:, :-1][counts], dim=-1)
        return -p.gather(-1, tokens[:, 1:][counts][:, None]).log().mean()


@mistake("instruction_loss", "a small number under the logarithm")
def loss_epsilon():
    def instruction_loss(logits, tokens, is_response):
        counts = is_response[:, 1:]
        if not counts.any():
            raise ValueError
        p = torch.softmax(logits[:, :-1][counts], dim=-1)
        return -(p.gather(-1, tokens[:, 1:][counts][:, None]) + 1e-9).log().mean()


@mistake("instruction_loss", "the caller's tokens are overwritten with -100")
def loss_overwrites():
    def instruction_loss(logits, tokens, is_response):
        if not is_response[:, 1:].any():
            raise ValueError
        labels = tokens
        labels[~is_response] = -100
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


@mistake("instruction_loss", "without a response token the loss is NaN")
def loss_nan():
    def instruction_loss(logits, tokens, is_response):
        counts = is_response[:, 1:]
        return F.cross_entropy(logits[:, :-1][counts], tokens[:, 1:][counts])


@mistake("instruction_loss", "the first token alone is enough")
def loss_counts_first_token():
    def instruction_loss(logits, tokens, is_response):
        if not is_response.any():
            raise ValueError
        counts = is_response[:, 1:]
        return F.cross_entropy(logits[:, :-1][counts], tokens[:, 1:][counts])


@mistake("instruction_loss", "the loss is a Python number without a gradient")
def loss_item():
    def instruction_loss(logits, tokens, is_response):
        counts = is_response[:, 1:]
        if not counts.any():
            raise ValueError
        return F.cross_entropy(logits[:, :-1][counts], tokens[:, 1:][counts]).item()


@mistake("instruction_loss", "in bits")
def loss_bits():
    def instruction_loss(logits, tokens, is_response):
        counts = is_response[:, 1:]
        if not counts.any():
            raise ValueError
        return F.cross_entropy(logits[:, :-1][counts], tokens[:, 1:][counts]) / math.log(2)


@mistake("instruction_loss", "the positions are made on the CPU")
def loss_on_cpu():
    def instruction_loss(logits, tokens, is_response):
        counts = is_response[:, 1:]
        if not counts.any():
            raise ValueError
        total = torch.zeros(2, dtype=logits.dtype)
        losses = F.cross_entropy(logits[:, :-1][counts], tokens[:, 1:][counts], reduction="none")
        return torch.cat([total, losses]).sum() / len(losses)


@alternative("instruction_loss", "labels of -100, which cross_entropy leaves out")
def loss_ignore_index():
    def instruction_loss(logits, tokens, is_response):
        labels = tokens.masked_fill(~is_response, -100)[:, 1:]
        if (labels == -100).all():
            raise ValueError("no response token")
        return F.cross_entropy(logits[:, :-1].transpose(1, 2), labels, ignore_index=-100)


@alternative("instruction_loss", "a loop over sequences and positions")
def loss_loop():
    def instruction_loss(logits, tokens, is_response):
        total, count = logits.new_zeros(()), 0
        for scores, sequence, mask in zip(logits, tokens.tolist(), is_response.tolist(), strict=True):
            for t in range(1, len(sequence)):
                if mask[t]:
                    total = total + torch.logsumexp(scores[t - 1], -1) - scores[t - 1, sequence[t]]
                    count += 1
        if count == 0:
            raise ValueError("no response token")
        return total / count


@alternative("instruction_loss", "log_softmax, gather, and indices of what counts")
def loss_gather():
    def instruction_loss(logits, tokens, is_response):
        sequence, position = torch.nonzero(is_response, as_tuple=True)
        sequence, position = sequence[position > 0], position[position > 0]
        if len(position) == 0:
            raise ValueError("no response token")
        log_p = logits[sequence, position - 1].log_softmax(-1)
        return -log_p.gather(1, tokens[sequence, position].unsqueeze(1)).squeeze(1).mean()


# --- BottleneckAdapter -------------------------------------------------------------------------------------------


@mistake("BottleneckAdapter", "no skip connection", also=["prepare"])
def bottleneck_no_skip():
    class BottleneckAdapter(BottleneckAdapter):
        def forward(self, x):
            return self.up(F.relu(self.down(self.base(x))))


@mistake("BottleneckAdapter", "no ReLU: two linear maps are one")
def bottleneck_linear():
    class BottleneckAdapter(BottleneckAdapter):
        def forward(self, x):
            y = self.base(x)
            return y + self.up(self.down(y))


@mistake("BottleneckAdapter", "GELU for ReLU")
def bottleneck_gelu():
    class BottleneckAdapter(BottleneckAdapter):
        def forward(self, x):
            y = self.base(x)
            return y + self.up(F.gelu(self.down(y)))


@mistake("BottleneckAdapter", "the ReLU stands after the last layer", also=["prepare"])
def bottleneck_relu_last():
    class BottleneckAdapter(BottleneckAdapter):
        def forward(self, x):
            y = self.base(x)
            return y + F.relu(self.up(self.down(y)))


@mistake("BottleneckAdapter", "the ReLU stands before the bottleneck")
def bottleneck_relu_first():
    class BottleneckAdapter(BottleneckAdapter):
        def forward(self, x):
            y = self.base(x)
            return y + self.up(self.down(F.relu(y)))


@mistake("BottleneckAdapter", "the ReLU acts on the sum", also=["prepare"])
def bottleneck_relu_outside():
    class BottleneckAdapter(BottleneckAdapter):
        def forward(self, x):
            y = self.base(x)
            return F.relu(y + self.up(self.down(y)))


@mistake("BottleneckAdapter", "the bottleneck reads the input of the layer, as LoRA does", also=["prepare"])
def bottleneck_parallel():
    class BottleneckAdapter(BottleneckAdapter):
        def __init__(self, base, r):
            super().__init__(base, r)
            self.down = nn.Linear(base.in_features, r, dtype=base.weight.dtype, device=base.weight.device)

        def forward(self, x):
            return self.base(x) + self.up(F.relu(self.down(x)))


@mistake("BottleneckAdapter", "up starts at random", also=["prepare"])
def bottleneck_random_up():
    class BottleneckAdapter(BottleneckAdapter):
        def __init__(self, base, r):
            super().__init__(base, r)
            self.up.reset_parameters()


@mistake("BottleneckAdapter", "only the weight of up starts at zero", also=["prepare"])
def bottleneck_random_bias():
    class BottleneckAdapter(BottleneckAdapter):
        def __init__(self, base, r):
            super().__init__(base, r)
            nn.init.normal_(self.up.bias)


@mistake("BottleneckAdapter", "down starts at zero, too, so that the weights never move")
def bottleneck_dead():
    class BottleneckAdapter(BottleneckAdapter):
        def __init__(self, base, r):
            super().__init__(base, r)
            nn.init.zeros_(self.down.weight)
            nn.init.zeros_(self.down.bias)


@mistake("BottleneckAdapter", "the base is not frozen", also=["prepare"])
def bottleneck_not_frozen():
    class BottleneckAdapter(BottleneckAdapter):
        def __init__(self, base, r):
            super().__init__(base, r)
            base.requires_grad_(True)


@mistake("BottleneckAdapter", "the bias of the base is trained", also=["prepare"])
def bottleneck_bias_trained():
    class BottleneckAdapter(BottleneckAdapter):
        def __init__(self, base, r):
            super().__init__(base, r)
            base.weight.requires_grad_(False)
            if base.bias is not None:
                base.bias.requires_grad_(True)


@mistake("BottleneckAdapter", "everything is frozen", also=["prepare"])
def bottleneck_all_frozen():
    class BottleneckAdapter(BottleneckAdapter):
        def __init__(self, base, r):
            super().__init__(base, r)
            self.requires_grad_(False)


@mistake("BottleneckAdapter", "the gradient does not reach the bottleneck's first layer")
def bottleneck_detached():
    class BottleneckAdapter(BottleneckAdapter):
        def forward(self, x):
            y = self.base(x)
            return y + self.up(F.relu(self.down(y)).detach())


@mistake("BottleneckAdapter", "no biases in the bottleneck", also=["prepare"])
def bottleneck_without_bias():
    class BottleneckAdapter(BottleneckAdapter):
        def __init__(self, base, r):
            super().__init__(base, r)
            like = {"dtype": base.weight.dtype, "device": base.weight.device}
            self.down = nn.Linear(base.out_features, r, bias=False, **like)
            self.up = nn.Linear(r, base.out_features, bias=False, **like)
            nn.init.zeros_(self.up.weight)


@mistake("BottleneckAdapter", "a copy of the base is adapted")
def bottleneck_copies_base():
    class BottleneckAdapter(BottleneckAdapter):
        def __init__(self, base, r):
            super().__init__(base, r)
            self.base = copy.deepcopy(base)


@mistake("BottleneckAdapter", "new layers are always float32 and on the CPU")
def bottleneck_float32():
    class BottleneckAdapter(nn.Module):
        def __init__(self, base, r):
            super().__init__()
            if r < 1:
                raise ValueError
            self.base = base.requires_grad_(False)
            self.down, self.up = nn.Linear(base.out_features, r), nn.Linear(r, base.out_features)
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.up.bias)

        def forward(self, x):
            y = self.base(x)
            return y + self.up(F.relu(self.down(y.float()))).to(y.dtype)


@mistake("BottleneckAdapter", "new layers are on the CPU")
def bottleneck_on_cpu():
    class BottleneckAdapter(BottleneckAdapter):
        def __init__(self, base, r):
            super().__init__(base, r)
            self.down.to("cpu")
            self.up.to("cpu")


@mistake("BottleneckAdapter", "a bottleneck of no width comes through")
def bottleneck_takes_anything():
    class BottleneckAdapter(BottleneckAdapter):
        def __init__(self, base, r):
            super().__init__(base, max(r, 1))


@alternative("BottleneckAdapter", "the ReLU as a clamp, the skip connection added in place")
def bottleneck_in_place():
    class BottleneckAdapter(torch.nn.Module):
        def __init__(self, base, r):
            if r <= 0:
                raise ValueError("width")
            super().__init__()
            for parameter in base.parameters():
                parameter.requires_grad = False
            self.base = base
            self.down = nn.Linear(base.out_features, r).to(base.weight)
            self.up = nn.Linear(r, base.out_features).to(base.weight)
            for parameter in self.up.parameters():
                parameter.data.fill_(0)

        def forward(self, x):
            y = self.base(x)
            h = self.down(y).clamp_min(0)
            out = self.up(h)
            out += y
            return out


@alternative("BottleneckAdapter", "written out with matrices and torch.where")
def bottleneck_matrices():
    class BottleneckAdapter(nn.Module):
        def __init__(self, base, r):
            super().__init__()
            if r < 1:
                raise ValueError(r)
            width, like = base.out_features, {"dtype": base.weight.dtype, "device": base.weight.device}
            self.base, self.down, self.up = base, nn.Linear(width, r, **like), nn.Linear(r, width, **like)
            base.weight.requires_grad = False
            if base.bias is not None:
                base.bias.requires_grad = False
            self.up.load_state_dict({"weight": torch.zeros(width, r), "bias": torch.zeros(width)})

        def forward(self, x):
            y = self.base(x)
            hidden = torch.einsum("rd,...d->...r", self.down.weight, y) + self.down.bias
            hidden = torch.where(hidden > 0, hidden, torch.zeros_like(hidden))
            return y + torch.einsum("dr,...r->...d", self.up.weight, hidden) + self.up.bias


# --- prepare and score -------------------------------------------------------------------------------------------


@mistake("prepare", "the model itself is changed, not a copy")
def prepare_no_copy():
    def prepare(model, method, targets=(), r=4, alpha=8.0):
        if method not in ("full", "head", "adapter", "lora"):
            raise ValueError
        if method == "lora":
            inject_adapters(model, targets, lambda base: LoRALinear(base, r, alpha), ["head"])
        elif method == "adapter":
            inject_adapters(model, targets, lambda base: BottleneckAdapter(base, r), ["head"])
        else:
            model.requires_grad_(method == "full")
            model.head.requires_grad_(True)
        return model


@mistake("prepare", "a shallow copy shares the parameters")
def prepare_shallow_copy():
    def prepare(model, method, targets=(), r=4, alpha=8.0):
        if method not in ("full", "head", "adapter", "lora"):
            raise ValueError
        ready = copy.copy(model)
        if method == "lora":
            inject_adapters(ready, targets, lambda base: LoRALinear(base, r, alpha), ["head"])
        elif method == "adapter":
            inject_adapters(ready, targets, lambda base: BottleneckAdapter(base, r), ["head"])
        else:
            ready.requires_grad_(method == "full")
            ready.head.requires_grad_(True)
        return ready


@mistake("prepare", "full fine-tuning leaves frozen what was frozen")
def prepare_full_as_it_was():
    def prepare(model, method, targets=(), r=4, alpha=8.0):
        if method not in ("full", "head", "adapter", "lora"):
            raise ValueError
        ready = copy.deepcopy(model)
        if method == "lora":
            inject_adapters(ready, targets, lambda base: LoRALinear(base, r, alpha), ["head"])
        elif method == "adapter":
            inject_adapters(ready, targets, lambda base: BottleneckAdapter(base, r), ["head"])
        elif method == "head":
            ready.requires_grad_(False)
            ready.head.requires_grad_(True)
        return ready


@mistake("prepare", "with the head alone, everything else is trained too")
def prepare_head_not_frozen():
    def prepare(model, method, targets=(), r=4, alpha=8.0):
        if method not in ("full", "head", "adapter", "lora"):
            raise ValueError
        ready = copy.deepcopy(model)
        if method == "lora":
            inject_adapters(ready, targets, lambda base: LoRALinear(base, r, alpha), ["head"])
        elif method == "adapter":
            inject_adapters(ready, targets, lambda base: BottleneckAdapter(base, r), ["head"])
        else:
            ready.requires_grad_(True)
        return ready


@mistake("prepare", "the head is frozen beside adapters")
def prepare_head_forgotten():
    def prepare(model, method, targets=(), r=4, alpha=8.0):
        if method not in ("full", "head", "adapter", "lora"):
            raise ValueError
        ready = copy.deepcopy(model)
        if method == "lora":
            inject_adapters(ready, targets, lambda base: LoRALinear(base, r, alpha))
        elif method == "adapter":
            inject_adapters(ready, targets, lambda base: BottleneckAdapter(base, r))
        else:
            ready.requires_grad_(method == "full")
            ready.head.requires_grad_(True)
        return ready


@mistake("prepare", "only the weight of the head is trained")
def prepare_head_weight():
    def prepare(model, method, targets=(), r=4, alpha=8.0):
        if method not in ("full", "head", "adapter", "lora"):
            raise ValueError
        ready = copy.deepcopy(model)
        if method == "lora":
            inject_adapters(ready, targets, lambda base: LoRALinear(base, r, alpha), ["head"])
        elif method == "adapter":
            inject_adapters(ready, targets, lambda base: BottleneckAdapter(base, r), ["head"])
        else:
            ready.requires_grad_(method == "full")
            ready.head.weight.requires_grad_(True)
        return ready


@mistake("prepare", "rank and alpha are not passed on")
def prepare_defaults():
    def prepare(model, method, targets=(), r=4, alpha=8.0):
        if method not in ("full", "head", "adapter", "lora"):
            raise ValueError
        ready = copy.deepcopy(model)
        if method == "lora":
            inject_adapters(ready, targets, lambda base: LoRALinear(base, r=4, alpha=8.0), ["head"])
        elif method == "adapter":
            inject_adapters(ready, targets, lambda base: BottleneckAdapter(base, r=4), ["head"])
        else:
            ready.requires_grad_(method == "full")
            ready.head.requires_grad_(True)
        return ready


@mistake("prepare", "rank and alpha are swapped")
def prepare_swapped():
    def prepare(model, method, targets=(), r=4, alpha=8.0):
        if method not in ("full", "head", "adapter", "lora"):
            raise ValueError
        ready = copy.deepcopy(model)
        if method == "lora":
            inject_adapters(ready, targets, lambda base: LoRALinear(base, int(alpha), r), ["head"])
        elif method == "adapter":
            inject_adapters(ready, targets, lambda base: BottleneckAdapter(base, r), ["head"])
        else:
            ready.requires_grad_(method == "full")
            ready.head.requires_grad_(True)
        return ready


@mistake("prepare", "the two kinds of adapter are mixed up")
def prepare_mixed_up():
    def prepare(model, method, targets=(), r=4, alpha=8.0):
        if method not in ("full", "head", "adapter", "lora"):
            raise ValueError
        ready = copy.deepcopy(model)
        if method == "adapter":
            inject_adapters(ready, targets, lambda base: LoRALinear(base, r, alpha), ["head"])
        elif method == "lora":
            inject_adapters(ready, targets, lambda base: BottleneckAdapter(base, r), ["head"])
        else:
            ready.requires_grad_(method == "full")
            ready.head.requires_grad_(True)
        return ready


@mistake("prepare", "an unknown method is taken for full fine-tuning")
def prepare_takes_anything():
    def prepare(model, method, targets=(), r=4, alpha=8.0):
        ready = copy.deepcopy(model)
        if method == "lora":
            inject_adapters(ready, targets, lambda base: LoRALinear(base, r, alpha), ["head"])
        elif method == "adapter":
            inject_adapters(ready, targets, lambda base: BottleneckAdapter(base, r), ["head"])
        else:
            ready.requires_grad_(method != "head")
            ready.head.requires_grad_(True)
        return ready


@mistake("prepare", "the head starts anew")
def prepare_resets_head():
    def prepare(model, method, targets=(), r=4, alpha=8.0):
        if method not in ("full", "head", "adapter", "lora"):
            raise ValueError
        ready = copy.deepcopy(model)
        if method == "lora":
            inject_adapters(ready, targets, lambda base: LoRALinear(base, r, alpha), ["head"])
        elif method == "adapter":
            inject_adapters(ready, targets, lambda base: BottleneckAdapter(base, r), ["head"])
        else:
            ready.requires_grad_(method == "full")
            ready.head.requires_grad_(True)
        ready.head.reset_parameters()
        return ready


@mistake("prepare", "measured with dropout")
def score_with_dropout():
    def score(model, inputs, labels):
        with torch.no_grad():
            logits = model(inputs)
        return F.cross_entropy(logits, labels).item(), (logits.argmax(-1) == labels).double().mean().item()


@mistake("prepare", "left in evaluation mode")
def score_stays_in_evaluation():
    def score(model, inputs, labels):
        model.eval()
        with torch.no_grad():
            logits = model(inputs)
        return F.cross_entropy(logits, labels).item(), (logits.argmax(-1) == labels).double().mean().item()


@mistake("prepare", "always left in training mode")
def score_always_trains():
    def score(model, inputs, labels):
        model.eval()
        with torch.no_grad():
            logits = model(inputs)
        model.train()
        return F.cross_entropy(logits, labels).item(), (logits.argmax(-1) == labels).double().mean().item()


@mistake("prepare", "the number of right answers, not their share")
def score_counts():
    def score(model, inputs, labels):
        training = model.training
        model.eval()
        logits = model(inputs)
        model.train(training)
        return F.cross_entropy(logits, labels).item(), (logits.argmax(-1) == labels).sum().item()


@mistake("prepare", "accuracy in percent")
def score_percent():
    def score(model, inputs, labels):
        training = model.training
        model.eval()
        logits = model(inputs)
        model.train(training)
        return F.cross_entropy(logits, labels).item(), 100 * (logits.argmax(-1) == labels).double().mean().item()


@mistake("prepare", "softmax twice")
def score_softmax_twice():
    def score(model, inputs, labels):
        training = model.training
        model.eval()
        logits = model(inputs).softmax(-1)
        model.train(training)
        return F.cross_entropy(logits, labels).item(), (logits.argmax(-1) == labels).double().mean().item()


@mistake("prepare", "the sum of the losses")
def score_sum():
    def score(model, inputs, labels):
        training = model.training
        model.eval()
        logits = model(inputs)
        model.train(training)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        return loss.item(), (logits.argmax(-1) == labels).double().mean().item()


@mistake("prepare", "accuracy first, loss second")
def score_swapped():
    def score(model, inputs, labels):
        training = model.training
        model.eval()
        logits = model(inputs)
        model.train(training)
        return (logits.argmax(-1) == labels).double().mean().item(), F.cross_entropy(logits, labels).item()


@mistake("prepare", "the error rate, not the accuracy")
def score_error_rate():
    def score(model, inputs, labels):
        training = model.training
        model.eval()
        logits = model(inputs)
        model.train(training)
        return F.cross_entropy(logits, labels).item(), (logits.argmax(-1) != labels).double().mean().item()


@alternative("prepare", "match, parameters one by one, numpy for the accuracy, one input at a time")
def prepare_match():
    def prepare(model, method, targets=(), r=4, alpha=8.0):
        if method not in {"full", "head", "adapter", "lora"}:
            raise ValueError(method)
        twin = copy.deepcopy(model)
        if method in ("adapter", "lora"):
            if method == "lora":

                def make(layer):
                    return LoRALinear(layer, r=r, alpha=alpha)
            else:

                def make(layer):
                    return BottleneckAdapter(layer, r)

            inject_adapters(twin, list(targets), make, also_train=("head",))
        else:
            for name, parameter in twin.named_parameters():
                parameter.requires_grad = method == "full" or name.startswith("head.")
        return twin

    def score(model, inputs, labels):
        mode = model.training
        model.train(False)
        try:
            losses, right = [], []
            with torch.inference_mode():
                for one, label in zip(inputs, labels.tolist(), strict=True):
                    logits = model(one[None])[0].double()
                    losses.append((logits.logsumexp(0) - logits[label]).item())
                    right.append(logits.cpu().numpy().argmax() == label)
        finally:
            model.train(mode)
        return sum(losses) / len(losses), float(sum(right)) / len(right)


@alternative("prepare", "everything frozen first, then unfrozen by method; results as tensors")
def prepare_unfreeze():
    def prepare(model, method, targets=(), r=4, alpha=8.0):
        ready = copy.deepcopy(model)
        if method == "full":
            ready.requires_grad_(True)
        elif method == "head":
            inject_adapters(ready, [], nn.Identity, ["head"])
        elif method == "adapter":
            inject_adapters(ready, targets, lambda layer: BottleneckAdapter(layer, r), ["head"])
        elif method == "lora":
            inject_adapters(ready, targets, lambda layer: LoRALinear(layer, r, alpha), ["head"])
        else:
            raise ValueError(f"unknown method {method}")
        return ready

    @torch.no_grad()
    def score(model, inputs, labels):
        training, _ = model.training, model.eval()
        log_p = model(inputs).log_softmax(-1)
        model.train(training)
        right = log_p.max(-1).indices.eq(labels)
        return -log_p[torch.arange(len(labels)), labels].mean(), right.float().mean()
