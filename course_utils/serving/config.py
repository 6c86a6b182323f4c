"""What a server allows: where it listens, whom it lets in, and how much it takes on.

Source: the defaults of `timeout_keep_alive` and of 127.0.0.1 are uvicorn's.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class ServerConfig:
    """Times in seconds, sizes in bytes. Raises ValueError for a value that cannot be meant."""

    host: str = "127.0.0.1"  # "0.0.0.0" lets other machines in: then set an api_key
    port: int = 8000  # 0: any free one
    api_key: str | None = None  # None: everybody may ask
    max_queue: int = 64  # requests that may wait for a slot
    max_ttft: float | None = None  # refuse requests whose first token would come later
    max_body_bytes: int = 1_000_000
    max_n: int = 8  # answers to one request
    max_tokens: int = 256  # of an answer, where the client does not say
    timeout: float = 60.0  # of one request, from its arrival to its last byte
    keep_alive: float = 5.0  # how long an idle connection stays open
    drain: float = 10.0  # how long running requests may go on after the signal to stop

    def __post_init__(self) -> None:
        limits = {
            "port": (0 <= self.port <= 65_535, "from 0 (any free one) to 65535"),
            "api_key": (self.api_key is None or self.api_key, "a text, or None for no key"),
            "max_queue": (self.max_queue >= 0, "0 (only free slots) or more"),
            "max_ttft": (self.max_ttft is None or self.max_ttft > 0, "above 0, or None"),
            "max_body_bytes": (self.max_body_bytes >= 1, "at least 1"),
            "max_n": (self.max_n >= 1, "at least 1"),
            "max_tokens": (self.max_tokens >= 1, "at least 1"),
            "timeout": (self.timeout > 0, "above 0"),
            "keep_alive": (self.keep_alive > 0, "above 0"),
            "drain": (self.drain >= 0, "0 (stop at once) or more"),
        }
        for name, (good, words) in limits.items():
            if not good:
                raise ValueError(f"{name} is {getattr(self, name)!r}: it must be {words}")
