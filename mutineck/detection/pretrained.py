"""Backbones that start from published weights: verified, read as data, and loaded whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmcv.cnn.utils.weight_init import INITIALIZERS, PretrainedInit, update_init_info

from mutineck.detection.backbones import imagenet_weights
from mutineck.detection.loading import CheckpointError, match_weights, read_weights
from mutineck.detection.specs import IMAGENET
from mutineck.system.download import fetch_weights


@INITIALIZERS.register_module(name="Pretrained", force=True)
class VerifiedPretrainedInit(PretrainedInit):
    """mmcv's `Pretrained`, which neither verifies what it fetches nor minds weights that do not fit.

    Args:
        checkpoint: a file, `imagenet://NAME` for weights in an installed package, or `torchvision://NAME`,
            `open-mmlab://NAME` or `https://...`, where the file's name states its hash.
        prefix: the part of the checkpoint to load, such as `backbone.`.
        map_location: not used; weights are read onto the CPU.
    """

    def __call__(self, module: Any) -> None:
        """Load the weights into a module; what the checkpoint has beside them (a classifier) is not used.

        Raises:
            CheckpointError: a weight of the module is missing or of another shape, or see `read_weights`.
            DownloadError: see `mutineck.system.download.fetch`.
        """
        scheme, _, name = self.checkpoint.partition("://")
        packaged = scheme == IMAGENET
        weights = imagenet_weights(module, name) if packaged else read_weights(published_file(self.checkpoint))
        if self.prefix is not None:
            start = f"{self.prefix.removesuffix('.')}."
            weights = {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}
        report = match_weights(module, weights, self.checkpoint)
        if report.missing or report.mismatched:
            raise CheckpointError(
                f"{report}\nThese are weights of another {type(module).__name__}: check `pretrained`, depth and widths."
            )
        module.load_state_dict({name: weights[name] for name in report.matched}, strict=False)
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info=self._get_init_info())


def published_file(name: str) -> Path:
    """Return the file of a checkpoint that a config names, fetched if it lies elsewhere.

    Raises:
        CheckpointError: there are no published weights of that name.
    """
    from mmcv.runner.checkpoint import get_external_models, get_torchvision_models

    scheme, _, rest = name.rpartition("://")
    if scheme in ("", "file"):
        return Path(rest).expanduser()
    address = name
    if scheme not in ("http", "https"):
        known = get_torchvision_models() if scheme in ("torchvision", "modelzoo") else get_external_models()
        address = known.get(rest) or known.get(rest.lower().replace("_weights", "")) or ""
        if not address:
            raise CheckpointError(f"{name}: there are no published weights of that name")
    return fetch_weights(address)
