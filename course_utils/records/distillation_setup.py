"""What `records.distillation` compares: the student, its text, the variants and their losses."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor, nn

from course_utils.accounting.flops import prefill_flops, training_flops_per_token
from course_utils.accounting.ledger import course_spec
from course_utils.data.batches import as_ids, first_windows
from course_utils.distillation import (
    distillation_loss,
    forward_kl,
    generalized_jsd,
    pack_top_k,
    packed_kl,
    reverse_kl,
)
from course_utils.models import ModelConfig, shipped
from course_utils.records.small_models import prepared_corpus

LENGTH, TOP_K = 256, 16


@dataclass(frozen=True)
class Scale:
    """How large the comparison is; the student reads one part in `share` of each domain."""

    steps: int = 250
    batch: int = 4
    share: int = 40
    longer: int = 4
    rates: tuple[float, ...] = (4e-3, 8e-3)
    windows: int = 32  # of each domain, to judge a student on
    distil_all_text: bool = False


SMALL = Scale()
FULL = Scale(600, 8, 10, 8, (2e-3, 4e-3, 8e-3), distil_all_text=True)


@dataclass(frozen=True)
class Variant:
    """One kind of row: alpha 0 is labels alone; `square` False leaves the factor T^2 out."""

    name: str
    alpha: float = 1.0
    temperature: float = 1.0
    divergence: str = "forward"
    square: bool = True
    length: str = "same steps"  # or "same compute" as a distilled run, or "longer"
    all_text: bool = False


VARIANTS = (
    Variant("labels alone", 0.0),
    Variant("T=1", 0.5),
    Variant("T=2", 0.5, 2.0),
    Variant("T=4", 0.5, 4.0),
    Variant("T=4 without T^2", 0.5, 4.0, square=False),
    Variant("forward KL"),
    Variant("reverse KL", divergence="reverse"),
    Variant("JSD", divergence="jsd"),
    Variant(f"top {TOP_K} of the logits", divergence="packed"),
    Variant("labels, same compute", 0.0, length="same compute"),
    Variant("labels, longer", 0.0, length="longer"),
    Variant("labels, all text", 0.0, all_text=True),
    Variant("distilled, all text", all_text=True),
)
SWEPT = ("labels alone", "forward KL")
DIVERGENCES = {
    "forward": forward_kl,
    "reverse": reverse_kl,
    "jsd": generalized_jsd,
    "packed": packed_kl,
}


def student_config() -> ModelConfig:
    """0.25 million parameters outside the embedding, a tenth of the teacher's activated ones."""
    return ModelConfig(
        vocab_size=4096,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=5,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=512,
    )


def text(share: int = SMALL.share) -> Tensor:
    """The student's text: the first part in `share` of each domain's training split."""
    parts = prepared_corpus().ids["train"].values()
    return torch.cat([as_ids(ids[: len(ids) // share]) for ids in parts])


@cache
def flops_per_token() -> tuple[float, float]:
    """Operations a token: training the student, and the teacher's forward pass."""
    student = course_spec(student_config().to_dict())
    teacher = course_spec(shipped("moe").config.to_dict())
    forward = prefill_flops(teacher, LENGTH, logits=LENGTH) / LENGTH
    return training_flops_per_token(student, LENGTH), forward


def steps_of(variant: Variant, scale: Scale = SMALL) -> int:
    """How many steps a variant trains."""
    own, teachers = flops_per_token()
    compute = (own + teachers) / own
    times = {"same steps": 1, "same compute": compute, "longer": scale.longer}[variant.length]
    return round(scale.steps * times)


@torch.no_grad()
def mean_entropy(model: nn.Module, windows: int = 8) -> float:
    """How undecided a model is about the next token, in nats: the mean over test windows."""
    values, device = [], next(model.parameters()).device
    for ids in prepared_corpus().ids["test"].values():
        logits_BTV = model(first_windows(as_ids(ids), windows, LENGTH).to(device))
        log_probs_BTV = logits_BTV.log_softmax(dim=-1)
        values.append(-(log_probs_BTV.exp() * log_probs_BTV).sum(dim=-1).mean())
    return float(torch.stack(values).mean())


def loss_of(variant: Variant) -> Callable[..., Tensor]:
    """The loss as `distill` calls it."""
    divergence = DIVERGENCES[variant.divergence]
    if not variant.square:  # the mistake: dividing undoes the factor
        divergence = partial(unsquared, divergence=divergence)
    given = {"temperature": variant.temperature, "alpha": variant.alpha}
    if variant.divergence != "packed":
        return partial(distillation_loss, divergence=divergence, **given)

    def packed(student: Tensor, teacher: Tensor, labels: Tensor, normalizer=None) -> Tensor:
        few = pack_top_k(teacher, TOP_K)
        return distillation_loss(student, few, labels, divergence=packed_kl, normalizer=normalizer)

    return packed


def unsquared(student: Tensor, teacher: Tensor, temperature: float, divergence: Callable) -> Tensor:
    """The divergence without the factor that `distillation_loss` puts in front of it."""
    return divergence(student, teacher, temperature=temperature) / temperature**2


def groups(scale: Scale = SMALL) -> list[tuple[Variant, ...]]:
    """What is trained in one process: labels alone, or the distilled of one text. First what a run
    that is cut should have."""
    texts = (False, True) if scale.distil_all_text else (False,)
    distilled = [tuple(v for v in VARIANTS if v.alpha and v.all_text == all) for all in texts]
    alone, compute, longer, all_text = [(v,) for v in VARIANTS if not v.alpha]
    return [alone, *distilled, compute, all_text, longer]
