"""Serving a model: an engine that runs many requests in one pass, from a paged cache.

`scheduling` decides who computes what; here are the tensors, the choosing of tokens, and the text.
"""

from course_utils.serving.engine import Engine, Generation, Update
from course_utils.serving.paged_cache import PagedBatch, PagedCache, Span
from course_utils.serving.sampling import SamplingParams, probabilities
from course_utils.serving.text import TextStream

__all__ = [
    "Engine",
    "Generation",
    "PagedBatch",
    "PagedCache",
    "SamplingParams",
    "Span",
    "TextStream",
    "Update",
    "probabilities",
]
