"""From grouped-query attention to latent attention: a trained model keeps a smaller cache.

All keys and values of a token are linear in its vector x, so one latent of rank R can stand for
them: the best such latent for given texts comes from a singular value decomposition of the joint
map to keys and values. Three things stand in the way, and each costs something:

    norm on q and k     not linear: replaced by the linear map that fits it best on the texts
    RoPE                in MLA one shared key carries it. Of every channel pair that is kept, the
                        key heads' common direction goes into the shared key; what is left over, and
                        every other pair, loses its turning: exp(-i f distance) is replaced by its
                        mean under the model's own attention
    norm of the latent  divides by a length that changes from token to token: the up-projection is
                        fitted behind it, to a latent whose coordinates are equally large

The pairs that are kept are 0, s, 2s, ...: with `rope_theta` ** (s rope_dim / head_dim) RoPE of
`rope_dim` channels has just these frequencies. The stride s is the one that keeps most.

Exact are the scores of a model with one key head (or key heads that are multiples of each other),
no norm on q and k, and `rope_dim` = `head_dim`, or other pairs unused; values never quite, by the
latent's norm. The result is a starting point: a short training repairs most of the damage.

Sources: Meng et al. 2025, "TransMLA" (arXiv 2502.07864), for the common directions and
the joint decomposition; Ji et al. 2025, "Towards Economical Inference" (MHA2MLA, arXiv 2502.14837),
section 3, for partial RoPE. Left out: experts stay as they are; queries are not compressed.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from course_utils.attention import MLAConfig, causal_mask
from course_utils.layers import apply_rope, rope_tables
from course_utils.models.config import ModelConfig
from course_utils.models.decoder import DecoderLM


@dataclass(frozen=True)
class Conversion:
    """The converted model and what it loses on the texts, layer by layer, as shares of the energy.

    `latent_error`: of keys and values, each counted half, by the rank; 0 for a latent that holds
    them all. `attention_error`: of the output of attention, by everything together.
    """

    model: DecoderLM
    latent_error: tuple[float, ...]
    attention_error: tuple[float, ...]


@dataclass(frozen=True)
class Maps:
    """One layer as linear maps of x, channel pairs as complex numbers; P pairs of a head, G groups.

    `turn_GP` is the mean of exp(-i f distance) under the attention of each group.
    """

    q_HPD: Tensor
    k_GPD: Tensor
    v_GVD: Tensor
    turn_GP: Tensor
    cov_DD: Tensor


@torch.no_grad()
def gqa_to_mla(model: DecoderLM, rank: int, rope_dim: int, ids_BT: Tensor) -> Conversion:
    """A model with latents of `rank` numbers and a shared key of `rope_dim`, fitted on texts (B,
    T).

    The texts should have more tokens than the model is wide. Raises ValueError unless all layers
    have grouped-query attention, `rope_dim` is even and divides `head_dim`, and `rank` is at most
    the width of the model and of all keys and values.
    """
    config = model.config
    check(config, rank, rope_dim)
    inputs = attention_inputs(model, ids_BT)
    layers = [layer.self_attn for layer in model.model.layers]
    maps = [linear_maps(attn, x, config) for attn, x in zip(layers, inputs, strict=True)]
    stride = best_stride(maps, rope_dim)
    mla = MLAConfig(rank, config.head_dim, rope_dim, config.head_dim)
    theta = config.rope_theta ** (stride * rope_dim / config.head_dim)
    new = DecoderLM(replace(config, mla=mla, rope_theta=theta, use_qk_norm=False))
    weight = model.lm_head.weight
    new.to(weight.device, weight.dtype).train(model.training)
    old = model.state_dict()
    new.load_state_dict({k: w for k, w in old.items() if ".self_attn." not in k}, strict=False)
    targets = [layer.self_attn for layer in new.model.layers]
    errors = []
    for attn, source, found, x_BTD in zip(targets, layers, maps, inputs, strict=True):
        weights, error = latent_weights(found, x_BTD.flatten(0, 1).double(), mla, stride)
        attn.load_state_dict(weights | {"o_proj.weight": source.o_proj.weight})
        errors.append((error, output_error(attn, source, x_BTD, new.config, config)))
    return Conversion(new, *(tuple(column) for column in zip(*errors, strict=True)))


def check(config: ModelConfig, rank: int, rope_dim: int) -> None:
    """Raise ValueError, naming the value, for what cannot be converted."""
    if config.mla is not None or config.layer_types is not None:
        raise ValueError("the model has other attention than grouped-query: convert one that has")
    if rope_dim < 2 or rope_dim % 2 or config.head_dim % rope_dim:
        raise ValueError(
            f"rope_dim is {rope_dim}: it must be even and divide head_dim {config.head_dim}"
        )
    most = min(config.hidden_size, 2 * config.num_key_value_heads * config.head_dim)
    if not 1 <= rank <= most:
        raise ValueError(f"rank is {rank}: it must be 1 to {most}, the rank of keys and values")


def attention_inputs(model: DecoderLM, ids_BT: Tensor) -> list[Tensor]:
    """What each layer's attention reads on these texts, (B, T, D)."""
    found: list[Tensor] = []
    hooks = [
        layer.self_attn.register_forward_pre_hook(lambda _, given: found.append(given[0]))
        for layer in model.model.layers
    ]
    try:
        model(ids_BT)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def linear_maps(attn: torch.nn.Module, x_BTD: Tensor, config: ModelConfig) -> Maps:
    """Queries, keys (after their norms, before RoPE) and values as linear maps of x."""
    x_ND, d = x_BTD.flatten(0, 1).double(), config.head_dim
    heads = (*x_BTD.shape[:2], -1, d)
    q_BTHd = attn.q_norm(attn.q_proj(x_BTD).view(heads))
    k_BTGd = attn.k_norm(attn.k_proj(x_BTD).view(heads))
    maps = [attn.q_proj.weight.double(), attn.k_proj.weight.double()]
    if config.use_qk_norm:
        maps = [fit(x_ND, y.flatten(0, 1).flatten(1).double()) for y in (q_BTHd, k_BTGd)]
    return Maps(
        *(pairs(m.unflatten(0, (-1, d))) for m in maps),
        attn.v_proj.weight.double().unflatten(0, (-1, d)),
        mean_turn(q_BTHd, k_BTGd, config),
        x_ND.T @ x_ND / len(x_ND),
    )


def fit(x_ND: Tensor, y_NC: Tensor) -> Tensor:
    """(C, D): the linear map from x to y with the least squared error, of all such the smallest."""
    gram, product = (x_ND.T @ x_ND).cpu(), (x_ND.T @ y_NC).cpu()
    return torch.linalg.lstsq(gram, product, driver="gelsd").solution.T.to(x_ND.device)


def pairs(w_HdD: Tensor) -> Tensor:
    """RoPE's channel pairs (i, i + d/2) as complex rows: (H, d/2, D)."""
    return torch.complex(*w_HdD.chunk(2, dim=1))


def mean_turn(q_BTHd: Tensor, k_BTGd: Tensor, config: ModelConfig) -> Tensor:
    """(G, d/2): the mean of exp(-i f (t - s)) over what the queries t of a group look at."""
    T, d = q_BTHd.shape[1], config.head_dim
    cos, sin = rope_tables(torch.arange(T, device=q_BTHd.device), d, config.rope_theta)
    turned = [apply_rope(y.transpose(1, 2).double(), cos, sin) for y in (q_BTHd, k_BTGd)]
    q_BGHTd = turned[0].unflatten(1, (k_BTGd.shape[2], -1))
    scores = q_BGHTd @ turned[1][:, :, None].mT / d**0.5
    weights = scores.masked_fill(~causal_mask(T, T, q_BTHd.device), -torch.inf).softmax(-1)
    mean_GTS = weights.mean((0, 2))
    angle = torch.complex(cos.double(), sin.double())[:, : d // 2]  # exp(i f t)
    return torch.einsum("gts,tp,sp->gp", mean_GTS + 0j, angle.conj(), angle) / T


def common(maps: Maps) -> tuple[Tensor, Tensor, Tensor]:
    """Of every pair, the shared key c = sum_g down_g k_g and k_g ~ up_g c, weighing each group by
    the energy of its queries; with the energy that turning c keeps, (P,)."""
    groups = maps.k_GPD.shape[0]
    q_GHPD = maps.q_HPD.unflatten(0, (groups, -1))
    cov = maps.cov_DD + 0j
    size_GP = torch.einsum("ghpd,de,ghpe->gp", q_GHPD, cov, q_GHPD.conj()).real.clamp(min=1e-30)
    k_GPD = maps.k_GPD * size_GP.sqrt()[..., None]
    energy, vectors = torch.linalg.eigh(torch.einsum("gpd,de,hpe->pgh", k_GPD, cov, k_GPD.conj()))
    first_GP = vectors[..., -1].T
    loss_P = 1 - (first_GP.abs() ** 2 * maps.turn_GP.abs() ** 2).sum(0)  # where nothing turns
    root_GP = size_GP.sqrt()
    return first_GP.conj() * root_GP, first_GP / root_GP, energy[:, -1] * loss_P


def best_stride(layers: list[Maps], rope_dim: int) -> int:
    """The s whose pairs 0, s, 2s, ... keep the largest share of `common`'s energy, over layers."""
    energies = torch.stack([common(maps)[2] for maps in layers])
    share_P = (energies / energies.sum(1, keepdim=True)).mean(0)
    pairs_kept = rope_dim // 2
    strides = range(1, len(share_P) // pairs_kept + 1)
    return max(strides, key=lambda s: float(share_P[: s * pairs_kept : s].sum()))


def latent_weights(maps: Maps, x_ND: Tensor, mla: MLAConfig, stride: int) -> tuple[dict, float]:
    """The weights of one `LatentAttention` by name, and the share of keys and values it loses."""
    down_GP, up_GP, _ = common(maps)
    chosen = torch.arange(mla.qk_rope_head_dim // 2) * stride
    shared_PD = (down_GP[..., None] * maps.k_GPD).sum(0)
    rest_GPD = maps.k_GPD.clone()
    rest_GPD[:, chosen] -= up_GP[:, chosen, None] * shared_PD[chosen]
    rest_GPD = rest_GPD * maps.turn_GP[..., None]
    k_GND = torch.cat([rest_GPD.real, rest_GPD.imag], dim=1)
    down_RD, up_k, up_v, error = factorise(k_GND, maps.v_GVD, x_ND, mla.kv_lora_rank)
    group = maps.q_HPD.shape[0] // len(up_k)
    up_HCR = torch.cat([up_k, up_v], dim=1).repeat_interleave(group, dim=0)
    turned_HPD = up_GP[:, chosen].conj().repeat_interleave(group, 0)[..., None]
    turned_HPD = turned_HPD * maps.q_HPD[:, chosen]
    q_HdD = [maps.q_HPD.real, maps.q_HPD.imag, interleave(turned_HPD)]
    scale = (mla.qk_head_dim / mla.qk_nope_head_dim) ** 0.5  # scores are divided by the new width
    weights = {
        "q_proj.weight": torch.cat(q_HdD, dim=1).flatten(0, 1) * scale,
        "kv_a_proj_with_mqa.weight": torch.cat([down_RD, interleave(shared_PD[chosen])]),
        "kv_a_layernorm.weight": torch.ones(mla.kv_lora_rank),
        "kv_b_proj.weight": up_HCR.flatten(0, 1),
    }
    return weights, error


def interleave(w_HPD: Tensor) -> Tensor:
    """Complex rows as real ones, (2i, 2i + 1), as MLA's RoPE pairs them: (..., 2P, D)."""
    return torch.stack([w_HPD.real, w_HPD.imag], dim=-2).flatten(-3, -2)


def factorise(k_GND: Tensor, v_GVD: Tensor, x_ND: Tensor, rank: int) -> tuple:
    """Down (R, D), up to keys (G, N, R) and values (G, V, R), and the share of both that is lost.

    Keys and values weigh the same. The latent has coordinates of mean square 1 on the texts.
    """
    targets = [x_ND @ w.flatten(0, 1).T for w in (k_GND, v_GVD)]
    sizes = [y.square().mean().sqrt().clamp(min=1e-12) for y in targets]
    y_NC = torch.cat([y / size for y, size in zip(targets, sizes, strict=True)], dim=1)
    values, vectors = torch.linalg.eigh(y_NC.T @ y_NC / len(y_NC))
    first = vectors[:, -rank:] / values[-rank:].clamp(min=1e-12).sqrt()
    w_CD = torch.cat(
        [w.flatten(0, 1) / size for w, size in zip((k_GND, v_GVD), sizes, strict=True)]
    )
    down_RD = first.T @ w_CD
    latent_NR = x_ND @ down_RD.T
    latent_NR = latent_NR * torch.rsqrt(latent_NR.square().mean(-1, keepdim=True) + 1e-6)
    up_CR = fit(latent_NR, y_NC)
    error = (y_NC - latent_NR @ up_CR.T).square().sum() / y_NC.square().sum()
    parts = up_CR.split([y.shape[1] for y in targets])
    k, v = (p * size for p, size in zip(parts, sizes, strict=True))
    return down_RD, k.unflatten(0, (len(k_GND), -1)), v.unflatten(0, (len(v_GVD), -1)), float(error)


def output_error(new, old, x_BTD: Tensor, new_config: ModelConfig, config: ModelConfig) -> float:
    """The share of the old output's energy by which the new one differs on the same x."""
    places = torch.arange(x_BTD.shape[1], device=x_BTD.device)
    width = new_config.mla.qk_rope_head_dim
    y = new(x_BTD, *rope_tables(places, width, new_config.rope_theta))
    expected = old(x_BTD, *rope_tables(places, config.head_dim, config.rope_theta))
    return float((y - expected).square().sum() / expected.square().sum())
