"""What the requests of a server share, and one request that was checked and encoded."""

from dataclasses import dataclass, field

from course_utils.serving.backends import Backend
from course_utils.serving.config import ServerConfig
from course_utils.serving.jobs import Ask
from course_utils.serving.loop import EngineLoop
from course_utils.serving.metrics import Metrics
from course_utils.serving.wire import Form


@dataclass
class Service:
    """What all requests share."""

    backend: Backend
    config: ServerConfig
    loop: EngineLoop
    metrics: Metrics
    draining: bool = False
    inside: int = 0  # requests that passed the gate and have not ended


@dataclass
class Work:
    """A request, checked and encoded."""

    form: Form
    asks: list[Ask]
    n: int = 1  # answers to each prompt; the asks of one prompt stand side by side
    tools: dict[str, dict] = field(default_factory=dict)  # to be called now: schemas by name
