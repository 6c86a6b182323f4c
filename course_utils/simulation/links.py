"""Links between nodes: a transfer waits for both ends, so that transfers queue.

Each node has one port out and one port in, as wide as the link. A transfer starts when both its
ports are free, in the order in which transfers were asked for, and holds them until its last byte
has gone. A hot sender, from which everybody fetches the same popular blocks, is thus slow though
the network as a whole is idle; a model without queues cannot show that.

Left out: transfers that share a port at half speed each, several paths between two nodes, and
sending the first layers while the last ones are computed (Mooncake, section 5.2), which hides part
of the time.
"""

from dataclasses import dataclass


@dataclass
class Port:
    """One direction of one node's link."""

    free_at: float = 0.0  # s
    busy: float = 0.0  # s in all
    bytes: float = 0.0


@dataclass(frozen=True, slots=True)
class Transfer:
    """One that was made: from and to which node, from when to when (s), how many bytes."""

    sender: int
    receiver: int
    start: float
    end: float
    size: float


class Network:
    """`nodes` nodes with `bandwidth` (bytes/s) in each direction and `latency` (s)."""

    def __init__(self, nodes: int, bandwidth: float, latency: float = 0.0):
        if not bandwidth > 0 or latency < 0:
            raise ValueError(
                f"bandwidth {bandwidth} must be above 0 and latency {latency} not below: "
                "give bytes/s (100 Gbit/s are 12.5e9) and seconds"
            )
        self.bandwidth, self.latency = bandwidth, latency
        self.out = [Port() for _ in range(nodes)]
        self.into = [Port() for _ in range(nodes)]
        self.transfers: list[Transfer] = []

    def arrives(self, now: float, sender: int, receiver: int, size: float) -> float:
        """When a transfer of `size` bytes would have arrived (s), were it asked for now."""
        start = max(now, self.out[sender].free_at, self.into[receiver].free_at)
        return start + size / self.bandwidth + self.latency

    def send(self, now: float, sender: int, receiver: int, size: float) -> float:
        """Transfer `size` bytes; returns the moment at which they have arrived (s)."""
        arrival = self.arrives(now, sender, receiver, size)
        start = arrival - self.latency - size / self.bandwidth
        self.transfers.append(Transfer(sender, receiver, start, arrival, size))
        for port in (self.out[sender], self.into[receiver]):
            port.free_at = arrival - self.latency
            port.busy += size / self.bandwidth
            port.bytes += size
        return arrival
