"""A trunk with its MTP module, as `training.train` takes models: the trunk frozen, or both.

    train(FrozenTrunk(trunk, mtp), stream, config, loss_function=mtp_loss)
    train(JointMTP(trunk, mtp), stream, config, extra_losses=[MTPLoss(0.3)])

Frozen, the trunk's text stays what it was, and only the module learns. Together, as DeepSeek-V3 was
trained, the module's loss also shapes the trunk. Embedding and head are shared, so in the second
case they learn from both losses, and in the first from none.

Source: DeepSeek-V3 technical report, section 2.2, equations 24 and 25.
"""

from torch import Tensor, nn

from course_utils.generation.mtp import MTPModule, mtp_loss
from course_utils.models.decoder import DecoderLM


class FrozenTrunk(nn.Module):
    """A module on a trunk that stays as it is, for `training.train(..., loss_function=mtp_loss)`.

    The forward pass gives the module's logits (B, T - 1, V). The trunk's weights get
    `requires_grad` False.
    """

    def __init__(self, trunk: DecoderLM, mtp: MTPModule):
        super().__init__()
        self.trunk, self.mtp = trunk.requires_grad_(False), mtp

    def forward(self, ids_BT: Tensor) -> Tensor:
        hidden_BTD = self.trunk.hidden(ids_BT)[:, :-1]
        return self.mtp.logits(self.trunk, self.mtp(self.trunk, hidden_BTD, ids_BT))


class JointMTP(nn.Module):
    """Trunk and module trained together, for `training.train(..., extra_losses=[MTPLoss(0.3)])`.

    The forward pass gives the trunk's logits (B, T, V) and keeps the module's for `MTPLoss`.
    """

    def __init__(self, trunk: DecoderLM, mtp: MTPModule):
        super().__init__()
        self.trunk, self.mtp = trunk, mtp

    def forward(self, ids_BT: Tensor) -> Tensor:
        hidden_BTD = self.trunk.hidden(ids_BT)
        own_BTD = self.mtp(self.trunk, hidden_BTD[:, :-1], ids_BT)
        self.ids_BT, self.mtp_logits_BTV = ids_BT, self.mtp.logits(self.trunk, own_BTD)
        return self.trunk.logits(hidden_BTD)


class MTPLoss:
    """`weight` times the module's loss of the last forward pass of a `JointMTP`.

    DeepSeek-V3 took 0.3 for most of its training and 0.1 at the end (section 4.2).
    """

    def __init__(self, weight: float):
        self.weight = weight

    def __call__(self, model: JointMTP) -> Tensor:
        return self.weight * mtp_loss(model.mtp_logits_BTV, model.ids_BT)
