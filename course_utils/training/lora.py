"""LoRA: fine-tune a model by learning a low-rank change of some of its matrices.

The trained weight W (O, I) stays frozen. Beside it stand two small matrices, A (r, I) and B (O, r),
and the layer computes

    y = W x + (alpha / r) B (A x)

B starts at zero, so that training starts at the model as it was. Only A and B learn: r (O + I)
numbers in place of O I. An adapter is therefore a file of kilobytes, one base can carry many of
them, and a finished one can be merged: W + (alpha / r) B A is an ordinary weight again.

Names are those of `peft` (`base_layer`, `lora_A`, `lora_B`), so that a saved adapter loads there.
Left out: dropout (the course trains without), adapters of embeddings and of stacked experts, and a
different adapter for every row of a batch.

Source: Hu et al. 2021, "LoRA", section 4.1; config keys `r`, `lora_alpha`, `target_modules`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from course_utils.layers import Linear

ATTENTION = ("q_proj", "v_proj")  # what Hu et al. adapt, section 7.1
EVERY_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def lora_linear(
    x_TD: Tensor, weight_FD: Tensor, a_RD: Tensor, b_FR: Tensor, alpha: float
) -> Tensor:
    """W x + (alpha / r) B (A x): x (..., D), W (F, D), A (r, D), B (F, r); the result (..., F).

    The low-rank path goes through the r numbers in between: B A is never formed.
    """
    rank = a_RD.shape[0]
    return x_TD @ weight_FD.T + alpha / rank * (x_TD @ a_RD.T @ b_FR.T)


class LoRALinear(nn.Module):
    """A frozen linear map and its adapters, of which one or none is active."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A, self.lora_B = nn.ModuleDict(), nn.ModuleDict()
        self.alpha: dict[str, float] = {}
        self.active: str | None = None

    @property
    def weight(self) -> Tensor:
        """The base's weight (F, D), without any adapter."""
        return self.base_layer.weight

    def add(self, name: str, rank: int, alpha: float, generator: torch.Generator) -> None:
        """A new adapter: A as a new linear layer begins, B zero."""
        base = self.base_layer
        options = {"bias": False, "device": base.weight.device, "dtype": base.weight.dtype}
        down = nn.Linear(base.in_features, rank, **options)
        up = nn.Linear(rank, base.out_features, **options)
        bound = base.in_features**-0.5  # as nn.Linear and peft begin
        start = torch.rand(down.weight.shape, generator=generator) * 2 * bound - bound
        with torch.no_grad():
            down.weight.copy_(start)
            up.weight.zero_()
        self.lora_A[name], self.lora_B[name], self.alpha[name] = down, up, alpha

    def scaling(self, name: str) -> float:
        """alpha / r of an adapter."""
        return self.alpha[name] / self.lora_A[name].out_features

    def forward(self, x_TD: Tensor) -> Tensor:
        y_TF = self.base_layer(x_TD)
        if self.active is None:
            return y_TF
        change_TF = self.lora_B[self.active](self.lora_A[self.active](x_TD))
        return y_TF + self.scaling(self.active) * change_TF

    def merged(self) -> Linear:
        """The base with the active adapter in its weight: a plain linear layer of the same size."""
        weight_FD = self.base_layer.weight.detach().clone()
        if self.active is not None:
            a_RD, b_FR = (part[self.active].weight for part in (self.lora_A, self.lora_B))
            weight_FD += self.scaling(self.active) * (b_FR @ a_RD).detach()
        layer = Linear(self.base_layer.in_features, self.base_layer.out_features, bias=False)
        layer.weight = nn.Parameter(weight_FD, requires_grad=False)
        layer.bias = self.base_layer.bias
        return layer


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """The adapted layers of a model, by name."""
    return {name: part for name, part in model.named_modules() if isinstance(part, LoRALinear)}


def target_layers(model: nn.Module, targets: Sequence[str]) -> dict[str, nn.Module]:
    """The linear layers, adapted or not, whose own name is one of `targets`, by full name.

    Raises ValueError when there is none.
    """
    found = {
        path: part
        for path, part in model.named_modules()
        if path.split(".")[-1] in targets and isinstance(part, nn.Linear | LoRALinear)
    }
    if not found:
        raise ValueError(f"no linear layer is called {' or '.join(targets)}: see named_modules()")
    return found


def add_adapter(
    model: nn.Module,
    rank: int,
    alpha: float | None = None,
    targets: Sequence[str] = ATTENTION,
    name: str = "default",
    seed: int = 0,
) -> list[nn.Parameter]:
    """Freeze the model and give every linear layer called by one of `targets` a new adapter.

    Returns the adapter's weights, the only ones that learn. `alpha` is twice the rank by default.
    The new adapter is active; earlier ones stay, frozen. Raises ValueError when no layer has such a
    name, on an impossible rank, or when the adapter exists.
    """
    found = target_layers(model, targets)
    most = min(min(layer.weight.shape) for layer in found.values())
    if not 1 <= rank <= most:
        raise ValueError(f"rank is {rank}: these matrices allow 1 to {most}")
    if any(name in layer.alpha for layer in lora_layers(model).values()):
        raise ValueError(f"there is an adapter {name!r} already: choose another name")
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    weights = []
    for path, layer in found.items():
        if not isinstance(layer, LoRALinear):
            layer = LoRALinear(layer)
            model.set_submodule(path, layer)
        layer.add(name, rank, 2 * rank if alpha is None else alpha, generator)
        weights += [layer.lora_A[name].weight, layer.lora_B[name].weight]
    set_adapter(model, name)
    return [weight.requires_grad_() for weight in weights]


def set_adapter(model: nn.Module, name: str | None) -> None:
    """Make one adapter active in every layer that has it; None: the base alone, as it was.

    Raises ValueError when no layer has the adapter, naming those there are.
    """
    layers = lora_layers(model).values()
    known = sorted({adapter for layer in layers for adapter in layer.alpha})
    if name is not None and name not in known:
        raise ValueError(f"no adapter {name!r}: this model has {', '.join(known) or 'none'}")
    for layer in layers:
        layer.active = name if name in layer.alpha else None


def merge_adapter(model: nn.Module) -> nn.Module:
    """Fold the active adapter into the weights and drop all adapters; returns the model.

    Afterwards it has the layers, the names and the speed of the model before `add_adapter`.
    """
    for path, layer in lora_layers(model).items():
        model.set_submodule(path, layer.merged())
    return model
