"""Wrong answers to the exercises of chapter 14 on calibration text and GPTQ.

GPTQ's loop is written once with one mistake at a time (`_loop`), the factor likewise (`_factor`).
"""

import torch
from torch import Tensor

from course_utils.exercises.spec import WrongAnswer
from course_utils.quantization import QuantizationArgs

# ---- calibration text


def _runs(rows: list[list[int]], run: int, step: int = 1) -> list[set[tuple]]:
    """The runs of each row."""
    return [{tuple(row[n : n + run]) for n in range(0, len(row) - run + 1, step)} for row in rows]


def _kept(windows: Tensor, evaluation: Tensor, run: int, step: int = 1) -> Tensor:
    seen = set().union(*_runs(evaluation.tolist(), run, step))
    return torch.tensor([not parts & seen for parts in _runs(windows.tolist(), run, step)])


def _whole_rows(windows: Tensor, evaluation: Tensor, run: int = 32) -> Tensor:
    rows = evaluation.tolist()
    return windows[torch.tensor([row not in rows for row in windows.tolist()])]


def _any_token(windows: Tensor, evaluation: Tensor, run: int = 32) -> Tensor:
    return windows[torch.tensor([not torch.isin(row, evaluation).any() for row in windows])]


def _unordered(windows: Tensor, evaluation: Tensor, run: int = 32) -> Tensor:
    seen, *rows = (
        [{frozenset(part) for part in parts} for parts in _runs(text.tolist(), run)]
        for text in (evaluation, windows)
    )
    seen = set().union(*seen)
    return windows[torch.tensor([not parts & seen for parts in rows[0]])]


def _joined(windows: Tensor, evaluation: Tensor, run: int = 32) -> Tensor:
    return windows[_kept(windows, evaluation.reshape(1, -1), run)]


OVERLAP = (
    WrongAnswer(
        "calibration on the evaluation text",
        lambda windows, evaluation, run=32: windows.clone(),
        "You keep every window, also those of the evaluation text. A method calibrated on them "
        "has seen the test: throw them away.",
    ),
    WrongAnswer(
        "the shared ones kept",
        lambda w, e, run=32: w[~_kept(w, e, run)],
        "You keep exactly the windows that share a run with the evaluation. It is the others that "
        "may be used.",
    ),
    WrongAnswer(
        "only equal windows",
        _whole_rows,
        "You throw away windows that are equal as a whole. Shifted by one token the same text "
        "passes: compare runs of `run` neighbouring tokens at every place.",
    ),
    WrongAnswer(
        "runs at every run-th place",
        lambda w, e, run=32: w[_kept(w, e, run, run)],
        "Your runs begin at multiples of `run` alone. A passage that stands one token further on "
        "is not found: one run begins at each place (unfold with step 1).",
    ),
    WrongAnswer(
        "any shared token",
        _any_token,
        "You throw away windows that share a single token with the evaluation. The word `the` "
        "would do: only a run of neighbours in the same order counts.",
    ),
    WrongAnswer(
        "order ignored",
        _unordered,
        "You compare runs as sets, so the same tokens in another order count as shared. Keep the "
        "order: tuples.",
    ),
    WrongAnswer(
        "runs across rows",
        _joined,
        "You join the rows of the evaluation into one stream. A run then begins in one row and "
        "ends in the next, which is no text: take the runs of each row.",
    ),
    WrongAnswer(
        "a mask in place of windows",
        lambda w, e, run=32: _kept(w, e, run),
        "You return which windows may stay. Return the windows themselves: windows_NT[kept].",
    ),
)

# ---- the factor


def _factor(
    hessian: Tensor, damp: float = 0.01, *, fill: bool = True, amount: str = "mean",
    result: str = "upper",
) -> Tensor:  # fmt: skip
    damped = hessian.clone()
    diagonal = damped.diagonal()
    if fill:
        diagonal[diagonal == 0] = 1
    share = {
        "none": torch.zeros(()),
        "absolute": torch.ones(()),
        "mean": diagonal.mean(),
        "whole": damped.mean(),
        "own": diagonal.clone(),
        "largest": diagonal.max(),
    }
    diagonal += damp * share[amount]
    lower = torch.linalg.cholesky(damped)
    results = {
        "upper": lambda: torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True),
        "lower": lambda: torch.linalg.cholesky(torch.cholesky_inverse(lower)),
        "of H": lambda: lower.T.contiguous(),
        "inverse": lambda: torch.cholesky_inverse(lower),
        "turned": lambda: torch.linalg.inv(lower).T.contiguous(),
    }
    return results[result]()


def _with(**mistake):
    return lambda hessian_II, damp=0.01: _factor(hessian_II, damp, **mistake)


FACTOR = (
    WrongAnswer(
        "undamped",
        _with(amount="none"),
        "Nothing is added to the diagonal. With fewer tokens than channels H has no inverse; with "
        "few more, its inverse is huge in directions that hardly occurred. Add damp times the "
        "mean of the diagonal.",
    ),
    WrongAnswer(
        "an absolute damping",
        _with(amount="absolute"),
        "You add `damp` itself. Inputs of one layer are a thousand times those of another, so 0.01 "
        "is nothing here and everything there: damp times the MEAN of the diagonal.",
    ),
    WrongAnswer(
        "mean of the whole matrix",
        _with(amount="whole"),
        "You take the mean of all entries of H, in which positive and negative ones cancel. The "
        "mean of the diagonal is meant: hessian.diagonal().mean().",
    ),
    WrongAnswer(
        "each by its own size",
        _with(amount="own"),
        "You multiply the diagonal by 1 + damp. Channels that are nearly silent get nearly no "
        "damping, and they need it most. Add the same number everywhere.",
    ),
    WrongAnswer(
        "the largest in place of the mean",
        _with(amount="largest"),
        "You damp by the largest entry of the diagonal. One outlier channel then drowns all "
        "others: its mean is meant.",
    ),
    WrongAnswer(
        "silent channels left at 0",
        _with(fill=False),
        "A channel that was never anything but 0 has diagonal 0; it is to become 1 before the "
        "mean is taken and added.",
    ),
    WrongAnswer(
        "factor of H",
        _with(result="of H"),
        "This is the factor of H. The correction of later columns needs the INVERSE: what follows "
        "when a column can no longer move.",
    ),
    WrongAnswer(
        "lower factor",
        _with(result="lower"),
        "You return the lower triangle. Its rows point at columns that are rounded already. Ask "
        "for upper=True, so that U^T U is the inverse.",
    ),
    WrongAnswer(
        "U U^T in place of U^T U",
        _with(result="turned"),
        "Your factor is upper triangular, but U U^T is the inverse, not U^T U: it takes columns "
        "out from the wrong end. Factor the inverse itself: cholesky(inverse, upper=True).",
    ),
    WrongAnswer(
        "not factored",
        _with(result="inverse"),
        "This is the inverse of H, not its factor. Row i of the inverse belongs to a problem in "
        "which no column is fixed yet; the factor's rows have taken the earlier ones out.",
    ),
)

# ---- the loop over columns


def _loop(
    weight: Tensor, upper: Tensor, scale: Tensor, zero_point: Tensor, args: QuantizationArgs, *,
    sign: int = -1, power: int = 1, hand_on: bool = True, clamp: bool = True, centre: bool = True,
    fresh: bool = True, only_next: bool = False,
) -> Tensor:  # fmt: skip
    rest, codes = weight.clone(), torch.empty_like(weight)
    for i in range(weight.shape[1]):
        code = (rest[:, i] / scale[:, i]).round() + zero_point[:, i]
        codes[:, i] = code.clamp(args.q_min, args.q_max) if clamp else code
        rounded = (codes[:, i] - zero_point[:, i] * centre) * scale[:, i]
        own = rest if fresh else weight
        error = (own[:, i] - rounded) / upper[i, i] ** power
        last = i + 2 if only_next else None
        rest[:, i + 1 : last] += sign * hand_on * error[:, None] * upper[i, i + 1 : last]
    return codes


def _ahead(weight, upper, scale, zero_point, args):
    """Every column is rounded before any error is handed on."""
    return _loop(weight, upper, scale, zero_point, args, hand_on=False)


def _downwards(weight, upper, scale, zero_point, args):
    """Column i of U below the diagonal, which is zero."""
    return _loop(weight, upper.T * torch.eye(len(upper)), scale, zero_point, args)


def _of_hessian(weight, upper, scale, zero_point, args):
    """Without the inverse: the factor is inverted back."""
    return _loop(weight, torch.linalg.inv(upper), scale, zero_point, args)


def _lost(**mistake):
    return lambda *args: _loop(*args, **mistake)


COLUMNS = (
    WrongAnswer(
        "no error handed on",
        _ahead,
        "Every column is rounded on its own: that is rounding to nearest, without the update by "
        "the inverse of H. Hand the error of column i to the columns behind it BEFORE they are "
        "rounded: row i of U, to the right of the diagonal.",
        also=(_downwards,),
    ),
    WrongAnswer(
        "not divided by the diagonal",
        _lost(power=0),
        "You hand on the error itself. The correction is the error over upper_II[i, i], times row "
        "i of U.",
    ),
    WrongAnswer(
        "divided by the square",
        _lost(power=2),
        "You divide by the square of the diagonal. That is the diagonal of the inverse, which goes "
        "with ROWS OF THE INVERSE; rows of U go with upper_II[i, i] once.",
    ),
    WrongAnswer(
        "error added",
        _lost(sign=1),
        "You add the correction, which doubles the damage instead of undoing it. Subtract it: the "
        "later columns make up for the error.",
    ),
    WrongAnswer(
        "H in place of its inverse",
        _of_hessian,
        "Your rows belong to H, not to its inverse. upper_II is the right factor already: use it "
        "as it comes.",
    ),
    WrongAnswer(
        "error against the original weight",
        _lost(fresh=False),
        "You compare with the weight before any correction. Column i has been corrected for the "
        "columns before it: its error is rest_OI[:, i] - rounded_O.",
    ),
    WrongAnswer(
        "codes not clamped",
        _lost(clamp=False),
        "Some codes lie outside q_min ... q_max: corrections push weights over the edge. Clamp, "
        "and take the error of the clamped code, so that later columns make up for that too.",
    ),
    WrongAnswer(
        "zero point left in",
        _lost(centre=False),
        "What the code is worth is (code - zero_point) * scale. With the zero point left in, every "
        "error is off by several steps.",
    ),
    WrongAnswer(
        "only the next column",
        _lost(only_next=True),
        "You hand the error to the next column alone. All columns behind share it: "
        "rest_OI[:, i + 1 :].",
    ),
)
