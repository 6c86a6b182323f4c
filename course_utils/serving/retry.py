"""How long a client waits before it asks again.

Clients that are refused together and come back together are refused together. So the time doubles
with every attempt, up to a limit, and a random share of it is taken (full jitter). A server that
says `Retry-After` knows better than the client: that time is waited first, whole.

Sources: RFC 9110, section 10.2.3 (Retry-After); Brooker 2015, "Exponential Backoff And Jitter";
Beyer et al. 2016, Site Reliability Engineering, chapters 21 and 22. Left out: Retry-After as a
date, and a budget of retries over all requests.
"""

from random import Random


def retry_delay(
    attempt: int, retry_after: float | None, rng: Random, base: float = 0.5, cap: float = 8.0
) -> float:
    """Seconds to wait after failed attempt number `attempt` (0 is the first)."""
    jitter = rng.random() * min(cap, base * 2**attempt)
    return (retry_after or 0.0) + jitter
