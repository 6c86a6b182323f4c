"""A cluster: requests arrive, are placed or rejected, read, moved to a decode node, and answered.

With decode nodes (`decode` > 0) a prompt is read on one of the entry nodes, its keys and values go
over the network, and a decode node writes the answer (disaggregation). Without, each entry node
does both, and prompts share its steps with the answers that it writes.

    arrival  -> policy chooses an entry node from the global block index -> (fetch of a prefix)
             -> its scheduler -> first token -> transfer -> decode node -> last token

Early rejection (`admission.py`): a request is turned away on arrival if its estimated time to the
first token, or the time between tokens on the decode nodes, would be over the limit.

The index is global because every entry node's pool is asked; a real one is a table that the nodes
keep up to date. A prompt's blocks stay in the pool of the node that read them, as cached blocks.

Source: Mooncake (Qin et al. 2025, FAST), sections 3.2 (its store across nodes) and 4 (its
scheduler). Left out: nodes that change role.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from random import Random

from course_utils.scheduling import Request
from course_utils.simulation.admission import InFlight, early_rejection
from course_utils.simulation.costs import chunk_work
from course_utils.simulation.events import EventQueue
from course_utils.simulation.links import Network
from course_utils.simulation.node import Node, NodeConfig
from course_utils.simulation.policies import Choice, Job, Option, Policy, cache_aware
from course_utils.simulation.workloads import TraceRequest


@dataclass(frozen=True)
class ClusterConfig:
    """Nodes by role, the network between them, and who decides."""

    entry: int  # nodes that read prompts
    entry_node: NodeConfig
    decode: int = 0  # nodes that only write; 0: the entry nodes do both
    decode_node: NodeConfig | None = None
    policy: Policy = cache_aware
    kv_bytes: float = 0.0  # a token
    bandwidth: float = 100e9  # bytes/s of a node's port in each direction
    latency: float = 0.0  # s
    ttft_limit: float = inf  # s; reject beyond
    tbt_limit: float = inf  # s; reject beyond; of decode nodes only
    reject: Callable[..., str] = early_rejection
    stay: float | None = None  # s that an answer is assumed to take; None: judge by the load now
    seed: int = 0

    def __post_init__(self) -> None:
        if self.entry < 1 or self.decode < 0:
            raise ValueError(f"{self.entry} entry and {self.decode} decode nodes: entry >= 1")
        if self.decode and self.decode_node is None:
            raise ValueError(f"{self.decode} decode nodes and no decode_node: give its NodeConfig")


@dataclass(slots=True)
class Served:
    """What became of a request."""

    request: TraceRequest
    entry: int = -1
    decode: int = -1  # -1: it stayed on its entry node
    cached: int = 0  # tokens that its entry node held
    fetched: int = 0  # tokens that came from another entry node
    rejected: str = ""  # "", "ttft" or "tbt"
    finished: float = inf  # s


class Cluster:
    """One run: `Cluster(config, trace).run()`, then `served`, `nodes`, and `metrics`."""

    def __init__(self, config: ClusterConfig, trace: Sequence[TraceRequest], fast: bool = True):
        self.config, self.events, self._rng = config, EventQueue(), Random(config.seed)
        kinds = [config.entry_node] * config.entry + [config.decode_node] * config.decode
        self.nodes = [
            Node(number, kind, self.events, self._ended, fast) for number, kind in enumerate(kinds)
        ]
        self.entries, self.decoders = self.nodes[: config.entry], self.nodes[config.entry :]
        self.network = Network(len(self.nodes), config.bandwidth, config.latency)
        self.served = [Served(request) for request in trace]
        self.in_flight: dict[int, InFlight] = {}  # with moments in place of seconds from now
        for number, request in enumerate(trace):
            self.events.at(request.arrival, self._arrive, number)

    def run(self) -> "Cluster":
        """Let everything happen; returns itself."""
        self.events.run()
        return self

    def _arrive(self, number: int) -> None:
        served, config = self.served[number], self.config
        keys = self._keys(served.request)
        choice = config.policy(self._job(served.request), self._options(keys), self._rng)
        served.rejected = self._rejection(choice.ttft, served.request)
        if not served.rejected:
            self._place(number, choice, keys)

    def _keys(self, request: TraceRequest) -> list:
        size = self.config.entry_node.scheduler.block_size
        if request.blocks and len(request.blocks) != -(-request.input // size):
            raise ValueError(
                f"a prompt of {request.input} tokens has {len(request.blocks)} block ids, and "
                f"blocks have {size} tokens: give the entry nodes the trace's block_size"
            )
        return [(block, block) for block in request.blocks[: request.input // size]]

    def _options(self, keys: list) -> list[Option]:
        now, size = self.events.now, self.config.entry_node.scheduler.block_size
        return [
            Option(n.number, max(0.0, n.ready_at - now), size * len(n.scheduler.pool.find(keys)))
            for n in self.entries
        ]

    def _job(self, request: TraceRequest) -> Job:
        now, kv_bytes, cost = self.events.now, self.config.kv_bytes, self.config.entry_node.cost

        def prefill(cached: int) -> float:
            cached = min(cached, request.input - 1)
            return float(cost.seconds(chunk_work(cached, request.input - cached)))

        def fetch(source: int, node: int, tokens: int) -> float:
            return self.network.arrives(now, source, node, tokens * kv_bytes) - now

        return Job(request.input, prefill, fetch)

    def _rejection(self, ttft: float, request: TraceRequest) -> str:
        config, now = self.config, self.events.now
        if not self.decoders or config.tbt_limit == inf:
            return "ttft" if ttft > config.ttft_limit else ""
        others = [
            InFlight(f.tokens, f.joins - now, f.leaves - now) for f in self.in_flight.values()
        ]
        size, cost = request.input + request.output, self.decoders[0].cost
        limits = config.ttft_limit, config.tbt_limit
        return config.reject(ttft, size, others, len(self.decoders), cost, *limits)

    def _place(self, number: int, choice: Choice, keys: list) -> None:
        served, now, trace = self.served[number], self.events.now, self.served[number].request
        node, received, arrival = self.entries[choice.node], 0, now
        served.entry, served.fetched = choice.node, choice.fetched
        if choice.source is not None:
            size = choice.fetched * self.config.kv_bytes
            arrival = self.network.send(now, choice.source, choice.node, size)
            received = min(choice.cached + choice.fetched, trace.input - 1)
        limit = trace.input + (1 if self.decoders else trace.output)
        node.ready_at = now + choice.ttft
        if self.decoders:
            joins = inf if self.config.stay is None else node.ready_at
            leaves = joins + (self.config.stay or 0.0)
            self.in_flight[number] = InFlight(trace.input + trace.output, joins, leaves)
        request = Request(number, trace.input, limit, keys, trace.arrival, received=received)
        self._send(request, node, arrival)

    def _send(self, request: Request, node: Node, arrival: float) -> None:
        node.assigned += 1
        node.reserved += request.limit
        self.events.at(arrival, node.submit, request)

    def _ended(self, node: Node, request: Request) -> None:
        served, now = self.served[request.id], self.events.now
        node.assigned -= 1
        node.reserved -= request.limit
        if node.number == served.entry:
            served.cached = max(request.cached_tokens, request.received)
        if node in self.decoders or not self.decoders or served.request.output == 1:
            served.finished = now
            self.in_flight.pop(request.id, None)
        else:
            self._hand_over(served, request.id)

    def _hand_over(self, served: Served, number: int) -> None:
        """The prompt is read: its keys and values go to the decode node with the least to hold."""
        node, trace = min(self.decoders, key=_load), served.request
        served.decode = node.number
        promised = self.in_flight[number]
        self.in_flight[number] = replace(promised, joins=self.events.now)
        size = trace.input * self.config.kv_bytes
        arrival = self.network.send(self.events.now, served.entry, node.number, size)
        limit = trace.input + trace.output
        request = Request(number, trace.input + 1, limit, received=trace.input)
        self._send(request, node, arrival)


def _load(node: Node) -> tuple[int, int]:
    return node.reserved, node.number
