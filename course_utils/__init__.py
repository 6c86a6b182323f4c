"""The library behind the course Efficient Open Models: one room (subpackage) per subject.

`import course_utils` loads neither torch nor matplotlib; a room is loaded when it is asked for.
Shape suffixes mean the same everywhere: B batch, T tokens, S cached tokens, D model width,
F width of the feed-forward part, H query heads, G key-value heads, d width of one head,
V vocabulary, L layers, E experts, K experts per token.
"""

__version__ = "0.1.0"
