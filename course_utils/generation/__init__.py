"""Room of generation: from logits to text, with and without a cache."""

from course_utils.generation.chat import answer
from course_utils.generation.generate import generate, generate_greedy, stream
from course_utils.generation.sampling import sample, top_p_probabilities

__all__ = ["answer", "generate", "generate_greedy", "sample", "stream", "top_p_probabilities"]
