"""A request as the scheduler sees it: numbers of tokens, keys of blocks, and no tensors.

`known` counts the tokens that are there to be read: the prompt, and what was generated so far.
`computed` counts those whose keys and values lie in the request's blocks. The difference is the
work that is left: many tokens for a new prompt, one for a request that generates (its last token
was chosen, but not read yet), and a few more with speculative drafts.
"""

from dataclasses import dataclass, field

from course_utils.scheduling.block_pool import Key

WAITING, RUNNING, FINISHED = "waiting", "running", "finished"


@dataclass(eq=False, slots=True)
class Request:
    """One request. `keys` are those of its full blocks that are known; they grow with the text."""

    id: int
    known: int  # tokens of the prompt, then also those that were generated
    limit: int  # `known` never grows beyond: prompt + max_tokens
    keys: list[Key] = field(default_factory=list)
    arrival: float = 0.0
    state: str = WAITING
    computed: int = 0
    drafts: int = 0  # tokens that were guessed and are to be verified in the next step
    blocks: list[int] = field(default_factory=list)
    registered: int = 0  # blocks at the beginning that were offered to the prefix cache
    cached_tokens: int = 0  # found in the prefix cache when the request was first admitted
    received: int = 0  # tokens whose keys and values come with the request, from another node
    admissions: int = 0
    preemptions: int = 0

    def __post_init__(self) -> None:
        if self.known < 1:
            raise ValueError(f"request {self.id} has {self.known} tokens: it needs at least one")
        if self.limit < self.known:
            raise ValueError(
                f"request {self.id} may have {self.limit} tokens and begins with {self.known}: "
                "shorten the prompt"
            )
        if not 0 <= self.received < self.known:
            raise ValueError(
                f"request {self.id} comes with {self.received} computed tokens of {self.known}: at "
                "least the last one must be left to compute"
            )

    @property
    def left(self) -> int:
        """Tokens to compute before the next one can be chosen, drafts included."""
        return self.known + self.drafts - self.computed
