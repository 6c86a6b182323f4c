"""Widgets: sliders and fields around a plain function that shows something.

Under Run All without a front end the function runs once with the first values, and nothing fails.
"""

from collections.abc import Callable

import ipywidgets
from ipywidgets import Widget


def explore(function: Callable[..., None], **controls: Widget) -> None:
    """Call `function` with the controls' values, again whenever one changes (on release)."""
    for control in controls.values():
        if hasattr(control, "continuous_update"):
            control.continuous_update = False
    ipywidgets.interact(function, **controls)
