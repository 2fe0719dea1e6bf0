"""Making mmcv and mmdet ready: what they need on a current torch, and what this project registers with them."""

from __future__ import annotations

from mutineck.detection.compat import mend


def prepare() -> None:
    """Mend mmcv and mmdet, and let backbones start from verified weights: call before building anything. Idempotent."""
    mend()
    from mutineck.detection import pretrained  # noqa: F401  registers itself in the place of mmcv's
