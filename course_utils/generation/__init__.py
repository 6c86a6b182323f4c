"""Room of generation: from logits to text, with and without a cache, several tokens a step."""

from course_utils.generation.acceptance import (
    accept_or_replace,
    accepted_prefix,
    draw,
    expected_tokens,
    residual_distribution,
)
from course_utils.generation.chat import answer
from course_utils.generation.drafts import ModelDraft, MTPDraft, NgramDraft
from course_utils.generation.generate import generate, generate_greedy, stream
from course_utils.generation.mtp import MTPModule, mtp_input, mtp_loss, shipped_mtp
from course_utils.generation.sampling import sample, top_p_probabilities
from course_utils.generation.speculative import Speculation, generate_speculative

__all__ = [
    "MTPDraft",
    "MTPModule",
    "ModelDraft",
    "NgramDraft",
    "Speculation",
    "accept_or_replace",
    "accepted_prefix",
    "answer",
    "draw",
    "expected_tokens",
    "generate",
    "generate_greedy",
    "generate_speculative",
    "mtp_input",
    "mtp_loss",
    "residual_distribution",
    "sample",
    "shipped_mtp",
    "stream",
    "top_p_probabilities",
]
