"""Where things are: the cache for fetched texts and weights, and the checkout of the course.

The cache is one folder per user, shared by all checkouts: `~/.cache/efficient-open-models`, under
`XDG_CACHE_HOME` where that is set, or wherever `COURSE_CACHE` points. Nothing is created here.
"""

import os
from pathlib import Path


def cache_dir() -> Path:
    """The folder of fetched texts and weights; it need not exist yet."""
    if chosen := os.environ.get("COURSE_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "efficient-open-models"


def checkout() -> Path:
    """The folder that holds `notebooks/` and `course_utils/`.

    Raises FileNotFoundError when the package was installed without its checkout.
    """
    root = Path(__file__).resolve().parent.parent
    if not (root / "notebooks").is_dir():
        raise FileNotFoundError(
            f"no notebooks/ beside the package in {root}: this command needs a clone of the "
            "course, installed with `pip install -c constraints.txt -e .`"
        )
    return root
