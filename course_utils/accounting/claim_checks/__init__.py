"""The computations behind the claims ledger, by name: `models` for facts, `costs` for prices.

Each takes the inputs of its claim (figures from documents) and returns results as printed digits.
"""

from collections.abc import Callable

from course_utils.accounting.claim_checks import costs, models

COMPUTATIONS: dict[str, Callable[..., dict[str, str]]] = {
    name: function
    for module in (models, costs)
    for name, function in vars(module).items()
    if callable(function) and getattr(function, "__module__", "") == module.__name__
    if not name.startswith("_")
}
