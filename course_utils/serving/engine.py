"""The engine: requests in, tokens out, many sequences in one pass of the model.

A step asks the scheduler who computes which tokens, lays them one behind the other, runs the model
once, and chooses a token for every request whose known tokens are all computed. What a request gets
does not depend on who else is there: its tokens are those of the same model without a cache, up to
rounding.

With `draft`, a function that makes a draft for each request, up to `k` tokens are proposed for one
that generates, and the same pass verifies them.

Left out: more than one device, windows and states (see `paged_cache`), and choosing the tokens of
one step while the next one is computed.

Source: Yu et al. 2022 (Orca), sections 3 and 4; Kwon et al. 2023 (vLLM), section 4.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from course_utils.data.tokenizer import Tokenizer
from course_utils.generation.acceptance import draw, verify_greedy, verify_sampled
from course_utils.generation.drafts import Draft, MTPDraft, Proposal
from course_utils.models.blocks import position_tables
from course_utils.models.decoder import DecoderLM
from course_utils.scheduling import (
    Plan,
    Request,
    Scheduler,
    SchedulerConfig,
    block_keys,
    release_blocks,
    share_budget,
)
from course_utils.serving.paged_cache import PagedBatch, PagedCache, Span, slot_numbers
from course_utils.serving.sampling import SamplingParams, probabilities
from course_utils.serving.text import TextStream, held_back


@dataclass(eq=False)
class Generation:
    """A request of the engine: its ids, how they are chosen, and the scheduler's view of it."""

    request: Request
    ids: list[int]  # the prompt, then what was generated
    params: SamplingParams
    prompt_length: int
    uniform: Callable[[], float]
    text: TextStream | None = None
    draft: Draft | None = None
    proposal: Proposal | None = None  # not verified yet
    vectors: list[Tensor] = field(default_factory=list)  # computed since the draft was asked
    logprobs: list[dict[int, float]] = field(default_factory=list)
    finish_reason: str | None = None  # "stop", "length" or "cancelled"
    proposed: int = 0
    accepted: int = 0

    @property
    def new_ids(self) -> list[int]:
        """What was generated so far."""
        return self.ids[self.prompt_length :]


@dataclass(frozen=True)
class Update:
    """What a step gave to one request."""

    generation: Generation
    ids: list[int]
    text: str  # "" without a tokenizer, and while a character or a stop text may be incomplete


class Engine:
    """A model, its paged cache and a scheduler.

    `keys`, `share`, `release`, `slots` and `hold` are the course's functions, or the learner's.
    """

    def __init__(
        self,
        model: DecoderLM,
        config: SchedulerConfig,
        tokenizer: Tokenizer | None = None,
        draft: Callable[[], Draft] | None = None,
        k: int = 3,
        *,
        keys: Callable = block_keys,
        share: Callable = share_budget,
        release: Callable = release_blocks,
        slots: Callable = slot_numbers,
        hold: Callable = held_back,
    ):
        if draft and config.prefix_cache and isinstance(draft(), MTPDraft):
            raise ValueError(
                "an MTP draft reads the model's vectors of every token, and cached tokens have "
                "none: set prefix_cache=False"
            )
        weight = model.model.norm.weight
        layouts = [layer.self_attn.cache_layout() for layer in model.model.layers]
        sizes = (config.num_blocks, config.block_size)
        self.cache = PagedCache(layouts, *sizes, weight.dtype, weight.device, slots)
        self.scheduler = Scheduler(config, share, release)
        self.keys, self.hold = keys, hold
        self.model, self.tokenizer, self.draft, self.k = model, tokenizer, draft, k
        self.live: dict[Request, Generation] = {}
        self.added = self.steps = 0

    def add(self, prompt: list[int], params: SamplingParams, arrival: float = 0.0) -> Generation:
        """Let a prompt of ids wait. Raises ValueError if it can never be served, saying why."""
        limit = len(prompt) + params.max_tokens
        longest = self.model.config.max_position_embeddings
        if not prompt or not 0 <= min(prompt) <= max(prompt) < self.model.config.vocab_size:
            raise ValueError("the prompt must have at least one id, each of the model's vocabulary")
        if limit > longest:
            raise ValueError(
                f"a prompt of {len(prompt)} tokens and {params.max_tokens} new ones exceed the "
                f"context of {longest} (max_position_embeddings): shorten one of them"
            )
        if params.stop and not self.tokenizer:
            raise ValueError("stop texts need a tokenizer: give one to the engine")
        keys = self.keys(prompt, self.scheduler.config.block_size)
        request = Request(self.added, len(prompt), limit, keys, arrival)
        self.scheduler.add(request)
        self.added += 1
        generator = torch.Generator().manual_seed(params.seed)
        made = Generation(
            request,
            list(prompt),
            params,
            len(prompt),
            lambda: float(torch.rand((), generator=generator, dtype=torch.float64)),
            TextStream(self.tokenizer, params.stop, self.hold) if self.tokenizer else None,
        )
        self.live[request] = made
        self._begin_draft(made)
        return made

    def _begin_draft(self, generation: Generation) -> None:
        generation.proposal, generation.vectors = None, []
        if self.draft:
            generation.draft = self.draft()
            generation.draft.begin(generation.request.limit)

    def cancel(self, generation: Generation) -> None:
        """End a request, wherever it is; one that has ended stays as it is."""
        if generation.finish_reason is None:
            self._finish(generation, "cancelled")

    def run(self) -> None:
        """Take steps until nobody waits or runs."""
        while self.live:
            self.step()

    @torch.no_grad()
    def step(self) -> list[Update]:
        """One pass of the model; what every request got that has got something."""
        for request in self.scheduler.running if self.draft else ():
            if request.left == 1 and self.live[request].proposal is None:
                self._propose(self.live[request])
        plan = self.scheduler.plan()
        for request in plan.preempted:
            self._begin_draft(self.live[request])
        if not plan.chunks:
            return []
        hidden_TD = self._forward(plan)
        self.scheduler.done(plan)
        self.steps += 1
        return self._choose(plan, hidden_TD)

    def _propose(self, generation: Generation) -> None:
        request = generation.request
        room = min(self.k, request.limit - request.known - 1)
        vectors_ND = torch.cat(generation.vectors)
        text_T, generation.vectors = torch.tensor(generation.ids), []

        def choose(logits_V: Tensor) -> tuple[int, Tensor]:
            p_V = probabilities(logits_V, generation.params)
            return draw(p_V, generation.uniform()), p_V

        generation.proposal = generation.draft.propose(text_T, vectors_ND, room, choose)
        self.scheduler.guess(request, len(generation.proposal.ids_K))

    def _forward(self, plan: Plan) -> Tensor:
        """Vectors (T, D) of the plan's tokens, before the last norm."""
        ids: list[int] = []
        for chunk in plan.chunks:
            generation = self.live[chunk.request]
            guessed = generation.proposal.ids_K.tolist() if chunk.request.drafts else []
            ids += (generation.ids + guessed)[chunk.start : chunk.start + chunk.count]
        batch = PagedBatch(
            self.cache, [Span(c.request.blocks, c.start, c.count) for c in plan.chunks]
        )
        decoder, config = self.model.model, self.model.config
        x_1TD = decoder.embed_tokens(torch.tensor(ids, device=batch.device)[None])
        tables = {
            kind: [table if table is None else table.to(x_1TD.dtype) for table in pair]
            for kind, pair in position_tables(config, batch.positions_T).items()
        }
        for number, layer in enumerate(decoder.layers):
            x_1TD = layer(x_1TD, *tables[config.layer_type(number)], None, batch, number)
        return x_1TD[0]

    def _choose(self, plan: Plan, hidden_TD: Tensor) -> list[Update]:
        """Tokens for every chunk that reaches the end of what its request knows."""
        rows, places, offset = [], [], 0
        for chunk in plan.chunks:
            if self.draft:
                known = min(chunk.count, chunk.request.known - chunk.start)
                self.live[chunk.request].vectors.append(hidden_TD[offset : offset + known])
            if chunk.last:
                first = offset + chunk.request.known - 1 - chunk.start
                places.append((chunk.request, len(rows), offset + chunk.count - first))
                rows += range(first, offset + chunk.count)
            offset += chunk.count
        if not rows:
            return []
        vectors_LD = hidden_TD if len(rows) == len(hidden_TD) else hidden_TD[rows]
        logits_LV, updates = self.model.logits(vectors_LD), []
        for request, start, count in places:
            generation = self.live[request]
            part = slice(start, start + count)
            new = self._verify(generation, logits_LV[part], count - 1)
            generation.proposal = None
            if self.draft:  # the newest token is not computed; drafts that were kept are
                generation.vectors.append(vectors_LD[part][1 : len(new)])
            updates.append(self._extend(generation, new, logits_LV[part]))
        return updates

    @staticmethod
    def _verify(generation: Generation, logits_LV: Tensor, drafts: int) -> list[int]:
        """1 to `drafts` + 1 ids."""
        params, p_LV = generation.params, probabilities(logits_LV, generation.params)
        if not drafts:
            greedy = params.temperature == 0
            return [int(p_LV[-1].argmax()) if greedy else draw(p_LV[-1], generation.uniform())]
        ids_K, q_KV = generation.proposal.ids_K[:drafts], generation.proposal.q_KV[:drafts]
        if params.temperature == 0:
            new = verify_greedy(ids_K, p_LV.argmax(-1)).tolist()
        else:
            new = verify_sampled(ids_K, q_KV, p_LV, generation.uniform).tolist()
        generation.proposed += drafts
        generation.accepted += len(new) - 1
        return new

    def _extend(self, generation: Generation, new: list[int], logits_LV: Tensor) -> Update:
        """Append ids up to a stop, report them, and end the request where it ends."""
        params, request = generation.params, generation.request
        stops = [place for place, token in enumerate(new) if token in params.stop_ids]
        new = new[: stops[0] + 1] if stops else new
        if params.logprobs >= 0:
            for token, row_V in zip(new, logits_LV.log_softmax(-1), strict=False):
                generation.logprobs.append(likeliest(row_V, token, params.logprobs))
        generation.ids += new
        block_size = self.scheduler.config.block_size
        request.keys = self.keys(generation.ids, block_size, request.keys)
        self.scheduler.grow(request, len(new))
        reason = "stop" if stops else "length" if request.known == request.limit else None
        text = ""
        if generation.text:
            text = generation.text.push(new[:-1] if stops else new, last=reason is not None)
            reason = "stop" if generation.text.stopped else reason
        if reason:
            self._finish(generation, reason)
        return Update(generation, new, text)

    def _finish(self, generation: Generation, reason: str) -> None:
        generation.finish_reason = reason
        self.scheduler.finish(generation.request)
        del self.live[generation.request]


def likeliest(logprobs_V: Tensor, token: int, count: int) -> dict[int, float]:
    """Log-probabilities of the chosen token and of the `count` likeliest, the chosen one first."""
    best = logprobs_V.topk(count).indices.tolist() if count else []
    return {number: float(logprobs_V[number]) for number in dict.fromkeys([token, *best])}
