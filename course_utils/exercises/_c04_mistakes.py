"""Wrong answers to the exercises on MaxVio and on the bias's update in chapter 04.

Those on the losses and on routing stand in `_c04_loss_mistakes.py` and `_c04_routing_mistakes.py`.
"""

import torch
from torch import Tensor

from course_utils.exercises.spec import WrongAnswer

# ---- MaxVio


def _vio_over(counts_E: Tensor, divisor: Tensor) -> float:
    return float(counts_E.double().max() / divisor - 1)


MAX_VIOLATION = (
    WrongAnswer(
        "without minus 1",
        lambda counts_E: float(counts_E.max() / counts_E.double().mean()),
        "This is the busiest load over the mean, 1 at perfect balance. MaxVio says how far ABOVE "
        "the mean the busiest expert is: subtract 1, so that balance is 0.",
    ),
    WrongAnswer(
        "largest distance on either side",
        lambda counts_E: float(
            (counts_E.double() - counts_E.double().mean()).abs().max() / counts_E.double().mean()
        ),
        "An expert far BELOW the mean counts here as well. An idle device delays nobody: only the "
        "busiest expert does, so take the maximum and no absolute value.",
    ),
    WrongAnswer(
        "not relative to the mean",
        lambda counts_E: float(counts_E.double().max() - counts_E.double().mean()),
        "This is a number of tokens, and it grows with the batch. Divide it by the mean load.",
    ),
    WrongAnswer(
        "relative to the smallest load",
        lambda counts_E: _vio_over(counts_E, counts_E.double().min()),
        "You divide by the smallest load, which may be 0. Divide by the mean load.",
    ),
    WrongAnswer(
        "mean over the busy experts alone",
        lambda counts_E: _vio_over(counts_E, counts_E[counts_E > 0].double().mean()),
        "Your mean leaves out experts without tokens. They are what imbalance is: the mean is over "
        "all E experts.",
    ),
    WrongAnswer(
        "share minus even share",
        lambda counts_E: float(counts_E.max() / counts_E.double().sum() - 1 / len(counts_E)),
        "This is the busiest expert's share of all tokens minus 1 / E. Measured against the MEAN "
        "load it is E times as large, and its scale does not depend on E.",
    ),
    WrongAnswer(
        "largest minus smallest",
        lambda counts_E: float((counts_E.max() - counts_E.min()) / counts_E.double().mean()),
        "You compare the busiest expert with the idlest. Compare it with the mean: an idle device "
        "delays nobody.",
    ),
    WrongAnswer(
        "median",
        lambda counts_E: _vio_over(counts_E, counts_E.double().median()),
        "You divide by the median, which does not move when one expert takes from all. The mean "
        "is what each would have at balance.",
    ),
    WrongAnswer(
        "relative to the busiest",
        lambda counts_E: float(1 - counts_E.double().mean() / counts_E.max()),
        "This is the share of its time that the average device waits. MaxVio has the MEAN in the "
        "denominator: largest load / mean - 1.",
        also=(lambda counts_E: float(counts_E.double().mean() / counts_E.max() - 1),),
    ),
    WrongAnswer(
        "standard deviation",
        lambda counts_E: float(
            counts_E.double().std(correction=0) / counts_E.double().mean().clamp(min=1e-12)
        ),
        "The deviation over all experts hides the one that everybody waits for. Take the largest "
        "load.",
        also=(lambda counts_E: float(counts_E.double().std() / counts_E.double().mean()),),
    ),
    WrongAnswer(
        "mean of whole numbers",
        lambda counts_E: float(counts_E.max() / counts_E.mean() - 1),
        "Counts are whole numbers, and PyTorch takes no mean of those: counts_E.double() first.",
        also=(lambda counts_E: float((counts_E.max() - counts_E.mean()) / counts_E.mean()),),
    ),
    WrongAnswer(
        "mean rounded down",
        lambda counts_E: float(counts_E.max() / (counts_E.sum() // len(counts_E)) - 1),
        "// rounds the mean down to a whole number. Divide with /.",
    ),
    WrongAnswer(
        "a tensor came back",
        lambda counts_E: counts_E.double().max() / counts_E.double().mean() - 1,
        "The number is right, and it is still a tensor. float(...) or .item() makes it a number.",
        also=(lambda counts_E: counts_E.max() / counts_E.float().mean() - 1,),
    ),
)

# ---- the bias's update


def _change(counts_E: Tensor, speed: float) -> Tensor:
    loads_E = counts_E.double()
    return (speed * torch.sign(loads_E.mean() - loads_E)).float()


def _whole_mean(bias_E: Tensor, counts_E: Tensor, speed: float) -> Tensor:
    change_E = speed * torch.sign(counts_E.mean() - counts_E)
    return bias_E + change_E - change_E.mean()


def _two_cases(bias_E: Tensor, counts_E: Tensor, speed: float) -> Tensor:
    above_E = counts_E.double() > counts_E.double().mean()
    change_E = torch.where(above_E, -speed, speed).to(bias_E.dtype)
    return bias_E + change_E - change_E.mean()


def _two_cases_below(bias_E: Tensor, counts_E: Tensor, speed: float) -> Tensor:
    below_E = counts_E.double() < counts_E.double().mean()
    change_E = torch.where(below_E, speed, -speed).to(bias_E.dtype)
    return bias_E + change_E - change_E.mean()


def _proportional(bias_E: Tensor, counts_E: Tensor, speed: float) -> Tensor:
    loads_E = counts_E.to(bias_E.dtype)
    return bias_E + speed * (loads_E.mean() - loads_E)


def _relative(bias_E: Tensor, counts_E: Tensor, speed: float) -> Tensor:
    loads_E = counts_E.to(bias_E.dtype)
    return bias_E + speed * (loads_E.mean() - loads_E) / loads_E.mean()


def _all_centred(bias_E: Tensor, counts_E: Tensor, speed: float) -> Tensor:
    new_E = bias_E + _change(counts_E, speed)
    return new_E - new_E.mean()


def _in_place(bias_E: Tensor, counts_E: Tensor, speed: float) -> Tensor:
    change_E = _change(counts_E, speed)
    bias_E += change_E - change_E.mean()
    return bias_E


def _in_place_not_centred(bias_E: Tensor, counts_E: Tensor, speed: float) -> Tensor:
    bias_E += _change(counts_E, speed)
    return bias_E


def _old_mean(bias_E: Tensor, counts_E: Tensor, speed: float) -> Tensor:
    return bias_E + _change(counts_E, speed) - bias_E.mean()


def _one_step_for_all(bias_E: Tensor, counts_E: Tensor, speed: float) -> Tensor:
    return bias_E + _change(counts_E, speed).mean()


def _against_median(bias_E: Tensor, counts_E: Tensor, speed: float) -> Tensor:
    change_E = speed * torch.sign(counts_E.float().median() - counts_E.float())
    return bias_E + change_E - change_E.mean()


def _wide(bias_E: Tensor, counts_E: Tensor, speed: float) -> Tensor:
    loads_E = counts_E.double()
    change_E = speed * torch.sign(loads_E.mean() - loads_E)
    return bias_E + change_E - change_E.mean()


UPDATE_BIAS = (
    WrongAnswer(
        "wrong sign",
        lambda b_E, counts_E, u: b_E - _change(counts_E, u) + _change(counts_E, u).mean(),
        "Busy experts go up and idle ones down: the rich get richer, faster. The sign is that of "
        "(mean - count).",
        also=(lambda b_E, counts_E, u: b_E - _change(counts_E, u),),
    ),
    WrongAnswer(
        "not centred",
        lambda b_E, counts_E, u: b_E + _change(counts_E, u),
        "The mean of the bias drifts: with one busy expert and many idle ones nearly all go up. "
        "Only differences choose, so subtract the mean of the changes.",
    ),
    WrongAnswer(
        "proportional to the distance",
        _proportional,
        "The step grows with the number of tokens, so a larger batch means larger jumps. The rule "
        "takes the sign alone: every expert moves by the same u.",
    ),
    WrongAnswer(
        "proportional to the relative distance",
        _relative,
        "A controller with steps in proportion to the error works too, but this rule takes the "
        "sign: one expert that gets everything must not be thrown far off in one step.",
    ),
    WrongAnswer(
        "the bias centred, and not the change",
        _all_centred,
        "You subtract the mean of the whole new bias. Only the changes are centred, so the mean "
        "stays where it was.",
    ),
    WrongAnswer(
        "in place",
        _in_place,
        "The argument itself is changed. The caller decides where the new bias goes: return a new "
        "tensor. (Are the changes centred?)",
        also=(_in_place_not_centred,),
    ),
    WrongAnswer(
        "mean of the old bias subtracted",
        _old_mean,
        "You subtract the mean of the old bias. It is the mean of the CHANGES that goes off.",
    ),
    WrongAnswer(
        "one step for all",
        _one_step_for_all,
        "Every expert gets the mean of the changes, so nothing changes between them. Add each "
        "expert's own change, and subtract the mean.",
    ),
    WrongAnswer(
        "change alone",
        lambda b_E, counts_E, u: _change(counts_E, u) - _change(counts_E, u).mean(),
        "This is the change. Add it to the bias that was there: it is the memory of all earlier "
        "steps.",
    ),
    WrongAnswer(
        "no case for the mean itself",
        _two_cases,
        "An expert that has exactly the mean load is moved too. torch.sign(0) is 0: it stays.",
        also=(_two_cases_below,),
    ),
    WrongAnswer(
        "against the median",
        _against_median,
        "You compare with the median load. The target is the mean: tokens that one expert has too "
        "many are those that others lack.",
    ),
    WrongAnswer(
        "mean of whole numbers",
        _whole_mean,
        "Counts are whole numbers, and PyTorch takes no mean of those: counts_E.float() first.",
    ),
    WrongAnswer(
        "64 bits came back",
        _wide,
        "The values are right, but .double() made the new bias 64 bits wide. Give it the dtype of "
        "the old one: .to(bias_E.dtype), or count in .float().",
    ),
)
