"""Expert parallelism: the experts of one layer on several ranks, the tokens travel to them.

Every rank has its own tokens, a copy of the router, and some of the experts. Forward:

1. route: the rank decides about its own tokens, as in a single process;
2. dispatch: a token goes ONCE to each rank that hosts any of its experts, with its weights;
3. compute: a rank sends what arrived through its experts, and adds up what belongs to one copy;
4. combine: one vector per copy comes back, and the token's rank adds them up.

Backward everything travels the other way. Because a token is sent once per rank and not once per
expert, routing limited to m groups of experts, a group being what a rank hosts, bounds its copies
by m (DeepSeek-V2, section 2.2.2, "device-limited routing"). Vectors of width D on the wire, to
other ranks: copies * D forward for dispatch and combine each, and as many again backward.

An expert may have copies on several ranks (`placement`); the tokens take turns between them.
Left out: choosing the copy that is nearest, limits on nodes above ranks, and anything that hides
the time on the wire. Source: Lepikhin et al. 2020, "GShard", section 3; DeepSeek-V3, section 3.2.2.
"""

import math

import torch
import torch.distributed as dist
from torch import Tensor, nn

from course_utils.moe.layer import Experts, MoE
from course_utils.moe.placement import Placement, place_contiguously
from course_utils.moe.wire import Wire


def turns(experts_S: Tensor, num_experts: int) -> Tensor:
    """For each entry, how many earlier ones name the same expert: 0, 1, 2, ... (S,)."""
    order_S = experts_S.argsort(stable=True)
    counts_E = experts_S.bincount(minlength=num_experts)
    first_E = counts_E.cumsum(0) - counts_E
    turns_S = torch.empty_like(order_S)
    turns_S[order_S] = (
        torch.arange(len(order_S), device=order_S.device) - first_E[experts_S[order_S]]
    )
    return turns_S


class Slots:
    """A placement as tables: slot p, counted through all ranks, is number `local_P` of `rank_P`."""

    def __init__(self, placement: Placement, num_experts: int, device: torch.device | str = "cpu"):
        hosts: list[list[int]] = [[] for _ in range(num_experts)]
        places = [(r, i, e) for r, row in enumerate(placement) for i, e in enumerate(row)]
        for slot, (_, _, e) in enumerate(places):
            hosts[e].append(slot)
        if not all(hosts):
            raise ValueError(f"expert {hosts.index([])} is on no rank: every expert needs a place")
        most = max(map(len, hosts))
        self.slots_EM = torch.tensor([row + row[:1] * (most - len(row)) for row in hosts])
        self.copies_E = torch.tensor([len(row) for row in hosts])
        self.rank_P = torch.tensor([rank for rank, _, _ in places])
        self.local_P = torch.tensor([number for _, number, _ in places])
        self.num_experts = num_experts
        for name, table in list(vars(self).items()):
            if isinstance(table, Tensor):
                setattr(self, name, table.to(device))

    def choose(self, experts_TK: Tensor, first: int = 0) -> tuple[Tensor, Tensor]:
        """Rank, and number on that rank, for each pair; (-1, -1) where there is no real expert.

        The copies of an expert take turns, starting with copy `first`.
        """
        real_TK = experts_TK < self.num_experts
        experts_S = experts_TK.where(real_TK, 0).flatten()
        turn_S = turns(experts_TK.clamp(max=self.num_experts).flatten(), self.num_experts + 1)
        slots_S = self.slots_EM[experts_S, (turn_S + first) % self.copies_E[experts_S]]
        slots_TK = slots_S.view_as(experts_TK)
        return (
            self.rank_P[slots_TK].masked_fill(~real_TK, -1),
            self.local_P[slots_TK].masked_fill(~real_TK, -1),
        )


def copies_to_send(rank_TK: Tensor, ranks: int) -> tuple[Tensor, Tensor]:
    """One copy of a token for each rank that hosts any of its experts: (rank_C, token_C).

    In order of the rank, so that what goes to one rank stands together.
    """
    wanted_RT = (rank_TK == torch.arange(ranks, device=rank_TK.device)[:, None, None]).any(-1)
    return wanted_RT.nonzero(as_tuple=True)


def combine(y_CD: Tensor, token_C: Tensor, num_tokens: int) -> Tensor:
    """Add up what came back: row t is the sum of the rows of y_CD whose token is t, (T, D).

    The weights are in y_CD already: the hosting rank applied them.
    """
    return y_CD.new_zeros(num_tokens, y_CD.shape[1]).index_add(0, token_C, y_CD)


class ParallelExperts(nn.Module):
    """In place of `Experts`: hosts `placement[rank]` of them, and reaches the others over a wire.

    The stacked weights are those of the hosted experts alone, in the order of the placement.
    """

    def __init__(self, experts: Experts, placement: Placement, group: dist.ProcessGroup | None):
        super().__init__()
        self.wire = Wire(group)
        if len(placement) != self.wire.ranks:
            raise ValueError(
                f"the placement is for {len(placement)} ranks and there are {self.wire.ranks}"
            )
        self.num_experts, self.hosted = len(experts.w_gate_EDF), placement[self.wire.rank]
        for name, stacked in experts.named_parameters():
            setattr(self, name, nn.Parameter(stacked.detach()[self.hosted].clone()))
        self.slots = Slots(placement, self.num_experts, experts.w_gate_EDF.device)
        self.dispatch = experts.dispatch

    def forward(self, x_TD: Tensor, experts_TK: Tensor, weights_TK: Tensor) -> Tensor:
        kind, dtype = x_TD.device.type, x_TD.dtype
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        x_TD, weights_TK = x_TD.to(dtype), weights_TK.to(dtype)
        wire = self.wire
        rank_TK, local_TK = self.slots.choose(experts_TK, first=wire.rank)
        rank_C, token_C = copies_to_send(rank_TK, wire.ranks)
        send_R = rank_C.bincount(minlength=wire.ranks)
        receive, send = wire.announce(send_R), send_R.tolist()
        elsewhere_CK = rank_TK[token_C] != rank_C[:, None]
        local_CK = local_TK[token_C].masked_fill(elsewhere_CK, -1).int()
        weights_CK = weights_TK.index_select(0, token_C).masked_fill(elsewhere_CK, 0)

        local_NK = wire.move(local_CK, send, receive, "experts")
        x_CD = x_TD.index_select(0, token_C)  # on GPUs its backward is faster than x_TD[token_C]'s
        x_ND, weights_NK = wire.exchange(send, receive, dispatch=x_CD, weights=weights_CK)
        y_ND = self.compute(x_ND, local_NK, weights_NK)
        (y_CD,) = wire.exchange(receive, send, combine=y_ND)
        identity_T1 = (weights_TK * (experts_TK >= self.num_experts)).sum(-1, keepdim=True)
        return identity_T1 * x_TD + combine(y_CD, token_C, len(x_TD))

    def compute(self, x_ND: Tensor, local_NK: Tensor, weights_NK: Tensor) -> Tensor:
        """What this rank's experts add to each of the N copies that arrived."""
        copy_S, place_S = torch.where(local_NK >= 0)
        if len(copy_S) == 0:
            return x_ND  # no rows; but with a graph, so that backward waits for nobody
        stacked = [weight.to(x_ND.dtype) for weight in self.parameters()]
        local_S1 = local_NK[copy_S, place_S, None].long()
        weights_S1 = weights_NK[copy_S, place_S, None]
        y_SD = self.dispatch(x_ND.index_select(0, copy_S), local_S1, weights_S1, *stacked)
        return torch.zeros_like(x_ND).index_add(0, copy_S, y_SD)


def parallelize(
    layer: MoE, placement: Placement | None = None, group: dist.ProcessGroup | None = None
) -> MoE:
    """Leave in `layer` only the experts that `placement` gives this rank; returns the layer.

    All ranks must call it with equal layers. Default: neighbours together, as many on each rank.
    The layer then takes this rank's own tokens; forward and backward are called on all ranks, also
    on one without tokens. Raises ValueError for a layer with capacity: it is counted over all
    tokens, and no rank sees them.
    """
    if layer.config.capacity_factor is not None:
        raise ValueError("capacity_factor is set: a limit over all tokens needs one process")
    ranks = dist.get_world_size(group)
    placement = placement or place_contiguously(layer.config.num_experts, ranks)
    layer.experts = ParallelExperts(layer.experts, placement, group)
    return layer


@torch.no_grad()
def sum_gradients(layer: MoE) -> None:
    """Sum over ranks the gradients of what every rank has a copy of, before an optimizer step.

    These are router, shared experts, and experts with several copies. An expert on one rank alone
    has its whole gradient already: tokens of all ranks came to it.
    """
    experts = layer.experts
    for name, weight in layer.named_parameters():
        gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
        if name.startswith("experts."):
            gradient = full_gradient(gradient, experts)[experts.hosted]
        else:
            dist.all_reduce(gradient, group=experts.wire.group)
        weight.grad = gradient


def full_gradient(gradient_PDF: Tensor, experts: ParallelExperts) -> Tensor:
    """The gradient of all E experts, from those of every rank's hosted ones; copies add up."""
    hosted = torch.tensor(experts.hosted, dtype=torch.long, device=gradient_PDF.device)
    full_EDF = gradient_PDF.new_zeros(experts.num_experts, *gradient_PDF.shape[1:])
    full_EDF.index_add_(0, hosted, gradient_PDF)
    dist.all_reduce(full_EDF, group=experts.wire.group)
    return full_EDF


def expected_copies(num_experts: int, k: int, ranks: int, limit: int | None = None) -> float:
    """Copies of a token to OTHER ranks when k experts are drawn at random: a formula to compare.

    Each rank hosts E / ranks experts; with `limit` m all k lie on m ranks, drawn at random. A rank
    among the m is needed unless none of the k is there: 1 - C(mE/R - E/R, k) / C(mE/R, k).
    Raises ValueError when the ranks do not divide the experts, or m of them host fewer than k.
    """
    size, m = num_experts // ranks, limit or ranks
    if num_experts % ranks or k > m * size:
        raise ValueError(
            f"{num_experts} experts on {ranks} ranks, {k} of them on {m} ranks: ranks must divide "
            "experts (count redundant copies in), and the limit leave enough of them"
        )
    missed = math.comb(m * size - size, k) / math.comb(m * size, k)
    return m * (1 - missed) * (ranks - 1) / ranks


def wire_bytes(copies: int, width: int, bytes_per_number: int) -> int:
    """Bytes of vectors that `copies` to other ranks cost: there and back, forward and backward."""
    return 4 * copies * width * bytes_per_number
