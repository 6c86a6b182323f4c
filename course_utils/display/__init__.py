"""Room of what a notebook shows: figures, tables, tokens, widgets. It computes nothing new."""

from course_utils.display.figures import figure, show_figure
from course_utils.display.tables import show_table
from course_utils.display.tokens import show_tokens
from course_utils.display.widgets import explore

__all__ = ["explore", "figure", "show_figure", "show_table", "show_tokens"]
