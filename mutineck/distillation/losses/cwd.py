"""Channel-wise Distillation (CWD): each channel's softmax over places, student against teacher.

    tau^2 / (C N) sum_c KL(softmax_ij(F_T / tau) || softmax_ij(F_S / tau))

References:
    [1] Channel-wise Knowledge Distillation for Dense Prediction, ICCV 2021, equations 3 and 4,
        https://arxiv.org/abs/2011.13256
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from mutineck.distillation.losses.maps import map_pair, total

PUBLISHED_WEIGHT = 10.0


class CWDLoss(nn.Module):
    """CWD of one level, unweighted; has no parameters.

    Args:
        tau: temperature of the softmax over places.
    """

    def __init__(self, *, tau: float = 1.0) -> None:
        super().__init__()
        if tau <= 0:
            raise ValueError(f"tau must be above 0, got {tau}")
        self.tau = tau

    def forward(self, student: Tensor, teacher: Tensor, pictures: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar.

        Args:
            student: `(N, C, H, W)`, after its channel adapter.
            teacher: `(N, C, H, W)`; takes no gradient.
            pictures: `(N,)`, what each picture counts; 1 if None.
        """
        student, teacher = map_pair(student, teacher)
        ours = (student.flatten(2) / self.tau).log_softmax(dim=2)
        theirs = (teacher.flatten(2) / self.tau).log_softmax(dim=2)
        divergence = functional.kl_div(ours, theirs, reduction="none", log_target=True)
        return self.tau**2 * total(divergence, pictures) / (student.shape[0] * student.shape[1])
