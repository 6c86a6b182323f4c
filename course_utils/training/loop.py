"""The one training loop of the course.

Each step draws a batch, computes the loss, goes back through the model, clips the gradient, sets
the learning rate (linear warm-up, then half a cosine down to a tenth) and lets AdamW take a step.
Batches come from a seeded generator, nothing else is random: the same seed gives the same run on
the same machine, to the last bit.

`TrainingState` holds everything that a run needs to go on: saved and loaded as safetensors, the
continued run equals the uninterrupted one. Left out: gradient accumulation (our batches fit) and
mixed precision beyond an `autocast` switch for GPUs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from course_utils.data.batches import draw_windows
from course_utils.training.loss import next_token_loss


@dataclass(frozen=True)
class TrainingConfig:
    """How long and how fast to train. Raises ValueError on values that cannot be."""

    steps: int
    batch: int = 8
    length: int = 256
    peak_learning_rate: float = 3e-3
    warmup_steps: int = 20
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "warmup_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.length < 2:
            raise ValueError(f"length is {self.length}: predicting needs at least 2 tokens")
        if self.peak_learning_rate <= 0 or self.clip_norm <= 0 or self.weight_decay < 0:
            raise ValueError("peak_learning_rate and clip_norm must be > 0, weight_decay >= 0")

    @property
    def tokens(self) -> int:
        """Tokens that the model is trained on."""
        return self.steps * self.batch * self.length


def learning_rate(step: int, config: TrainingConfig) -> float:
    """The rate at `step` (from 0): linear warm-up to the peak, then half a cosine to a tenth.

    Source: Loshchilov and Hutter 2017, "SGDR", equation 5, with one cycle.
    """
    if step < config.warmup_steps:
        return config.peak_learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.peak_learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * min(progress, 1.0))))


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW; norms are not decayed. `fused` is one kernel per step in place of dozens."""
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    others = [weight for weight in model.parameters() if weight.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.peak_learning_rate, betas=(0.9, 0.95), fused=True)


@dataclass
class TrainingState:
    """A run between two steps: model, optimizer, generator of batches, step, losses so far."""

    model: nn.Module
    config: TrainingConfig
    optimizer: torch.optim.AdamW = field(init=False)
    generator: torch.Generator = field(init=False)
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.optimizer = make_optimizer(self.model, self.config)
        self.generator = torch.Generator().manual_seed(self.config.seed)

    @property
    def step(self) -> int:
        return len(self.losses)

    def save(self, path: Path | str) -> None:
        """Write all of it to one safetensors file, whole or not at all."""
        tensors = {f"model.{k}": v.contiguous() for k, v in _untied(self.model).items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{k}": v.contiguous() for k, v in moments.items()}
        tensors["generator"] = self.generator.get_state()
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        partial = Path(path).with_suffix(".partial")
        save_file(tensors, partial, {key: str(value) for key, value in asdict(self.config).items()})
        partial.replace(path)

    def load(self, path: Path | str) -> None:
        """Go on from a saved run.

        Raises ValueError when the file, its training config, or the shape of its model does not
        fit; the state is then as it was.
        """
        try:
            with safe_open(path, "pt") as file:
                config = {key: str(value) for key, value in asdict(self.config).items()}
                if file.metadata() != config:
                    raise ValueError(f"{path} was saved by a run with {file.metadata()}")
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is not a readable saved run: {error}") from None
        weights = {n[len("model.") :]: v for n, v in tensors.items() if n.startswith("model.")}
        _check_shapes(weights, _untied(self.model), path)
        self.losses = tensors.pop("losses").tolist()
        self.generator.set_state(tensors.pop("generator"))
        moments: dict[int, dict[str, Tensor]] = {}
        for name in [name for name in tensors if name.startswith("optimizer.")]:
            _, number, key = name.split(".")
            moments.setdefault(int(number), {})[key] = tensors.pop(name)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        with torch.no_grad():
            for name, weight in _untied(self.model).items():
                weight.copy_(weights[name])


def _untied(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, shared ones once."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def _check_shapes(saved: dict[str, Tensor], own: dict[str, Tensor], path: Path | str) -> None:
    """ValueError with the first weight that only one side has, or that has two shapes."""
    for name in [*own, *(name for name in saved if name not in own)]:
        if name not in saved or name not in own:
            differs = f"is in {'your model' if name in own else 'the file'} alone"
        elif saved[name].shape != own[name].shape:
            shapes = tuple(saved[name].shape), tuple(own[name].shape)
            differs = f"has shape {shapes[0]} in the file and {shapes[1]} here"
        else:
            continue
        raise ValueError(f"{path} holds another model: {name} {differs}. Load it into that model")


def train(
    model: nn.Module,
    stream_N: Tensor,
    config: TrainingConfig,
    *,
    loss_function: Callable[[Tensor, Tensor], Tensor] = next_token_loss,
    extra_losses: Sequence[Callable[[nn.Module], Tensor]] = (),
    after_step: Sequence[Callable[[nn.Module], None]] = (),
    state: TrainingState | None = None,
    until: int | None = None,
    autocast: bool = False,
    progress: bool = True,
) -> TrainingState:
    """Train `model` on windows of the ids in `stream_N`; returns the state with the losses.

    The model runs where its weights are. `state` goes on with an earlier run, `until` stops before
    that step. `autocast` computes matrix products in bfloat16 (for GPUs). Raises ValueError when
    the loss is no longer a number, with the step.

    Each of `extra_losses` is called with the model after its forward pass; what they return is
    added to what the gradient is taken of, and not to the losses that are recorded, so that runs
    with and without them compare. Each of `after_step` is called with the model after the
    optimizer's step, in order: to look, or to change what no gradient changes.
    `training.moe_balance` has such functions for models with experts.
    """
    state = state or TrainingState(model, config)
    stream_N = stream_N.to(next(model.parameters()).device)
    model.train()
    steps = range(state.step, config.steps if until is None else min(config.steps, until))
    bar = tqdm(steps, desc="training", unit="step", disable=not progress, leave=False)
    for step in bar:
        ids_BT = draw_windows(stream_N, config.batch, config.length, state.generator)
        with torch.autocast(ids_BT.device.type, torch.bfloat16, enabled=autocast):
            loss = loss_function(model(ids_BT), ids_BT)
            total = sum((extra(model) for extra in extra_losses), loss)
        value = _finite(loss, step)
        if extra_losses:
            _finite(total, step)
        total.backward()
        _descend(state, config, step)
        state.losses.append(value)
        for look in after_step:
            look(model)
        if step % 10 == 0:
            bar.set_postfix(loss=f"{value:.3f}")
    model.eval()
    return state


def _descend(state: TrainingState, config: TrainingConfig, step: int) -> None:
    """Clip the gradient, take a step of the optimizer at the step's rate, forget the gradient."""
    nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_norm)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(step, config)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)


def _finite(loss: Tensor, step: int) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise ValueError(f"the loss at step {step} is {value}: lower peak_learning_rate")
    return value
