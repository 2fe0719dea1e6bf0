"""The one door to mmdet and mmcv: building, loading, training and measuring detectors, their maps and proposals."""

from __future__ import annotations

import logging
import warnings

# Told at import by mmcv, mmdet and torch, and of no use to whoever runs a study: mmcv's successor, deprecations within
# mmdet itself, and that a machine with CUDA's headers has no GPU.
for _message in (
    r".*On January 1, 2023, MMCV will release v2\.0\.0",
    r"DeprecationWarning: ",  # of mmdet, to itself
    r".*torch\.meshgrid",
    r"pkg_resources is deprecated",
):
    warnings.filterwarnings("ignore", message=_message)
warnings.filterwarnings("ignore", category=UserWarning, module=r"mmcv\.")
logging.getLogger("torch.utils.cpp_extension").addFilter(lambda record: "No CUDA runtime" not in record.getMessage())
