"""What every distillation term counts: the settings of an arm, by the names of the terms."""

from __future__ import annotations

from mutineck.distillation.losses import cwd, mgd, pkd
from mutineck.study.experiment import DistillationSpec


def term_weights(spec: DistillationSpec, feature: str, *, two_stage: bool) -> dict[str, float]:
    """Return the weight of every term that an arm may have.

    Args:
        spec: the arm's settings.
        feature: `fgd`, `mgd`, `pkd` or `cwd`: how maps are compared. The last three have one term, weighed by
            `spec.peer`, or as published if that is None.
        two_stage: the student's kind: MGD publishes two weights.
    """
    published = {
        "mgd": mgd.PUBLISHED_WEIGHTS["two_stage" if two_stage else "one_stage"],
        "pkd": pkd.PUBLISHED_WEIGHT,
        "cwd": cwd.PUBLISHED_WEIGHT,
    }
    weights = {
        "foreground": spec.alpha,
        "centre": spec.alpha,
        "boundary": spec.alpha,
        "background": spec.beta,
        "attention": spec.gamma,
        "global": spec.lambda_,
        "cwd": spec.cwd,
        "direction": spec.centroid,
        "distance": spec.centroid * spec.centroid_distance,
        "contrast": spec.centroid,
        "logits": spec.logits,
        "deltas": spec.logits,
    }
    if feature in published:
        weights[feature] = published[feature] if spec.peer is None else spec.peer
    return weights
