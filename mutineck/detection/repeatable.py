"""Training that repeats: augmentation by (seed, epoch, image), sampling by (seed, step), image order by (seed, epoch).

Nothing drawn elsewhere (by teachers, adapters, loader workers) can move any of these, so arms of one seed see the same
pictures in the same order with the same augmentation, and a run resumed at an epoch goes on as if it had not stopped.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from mmcv.runner import HOOKS, RUNNERS, EpochBasedRunner, Hook, get_dist_info
from mmdet.datasets import DATASETS, CocoDataset

from mutineck.detection.labelled import on_labelled_pictures
from mutineck.detection.loading import CheckpointError, match_weights, read_checkpoint
from mutineck.detection.prepare import prepare
from mutineck.detection.protocols import plain_detector
from mutineck.system.seeding import derive_seed, seed_everything
from mutineck.system.telling import tell

# A training started by mmdet's own tools imports this module, by its config, and otherwise nothing that calls it.
prepare()


@DATASETS.register_module()
class RepeatableCocoDataset(CocoDataset):
    """mmdet's COCO data set, with an augmentation that is a function of seed, epoch and image alone.

    Labels are positions in `classes`. mmdet's own are positions among the file's categories, whatever the order of
    `classes`: a detector of two categories in another order than the file's would learn each under the other's name.

    Args:
        seed: seed of the augmentation.
        filter_empty_gt: leave out pictures without an object of `classes`. All others are trained on, however small;
            mmdet's own leaves out those under 32 pixels, too, and reports neither.
        kwargs: as for `CocoDataset`.
    """

    def __init__(self, *args: Any, seed: int = 0, filter_empty_gt: bool = False, **kwargs: Any) -> None:
        self.seed = seed
        self.epoch = 0
        super().__init__(*args, filter_empty_gt=filter_empty_gt, **kwargs)

    def _filter_imgs(self, min_size: int = 0) -> list[int]:
        """Return which pictures are trained on.

        Raises:
            ValueError: none.
        """
        kept: list[int] = super()._filter_imgs(min_size)
        count, named = len(self.data_infos), ", ".join(self.CLASSES)
        if not kept:
            raise ValueError(f"{self.ann_file}: none of its {count} pictures holds an object of {named}")
        if len(kept) < count:
            tell(f"{count - len(kept)} of {count} pictures hold no object of {named}: not trained on")
        return kept

    def load_annotations(self, ann_file: str) -> list[dict[str, Any]]:
        """Return the pictures' records, and number the categories.

        Raises:
            ValueError: a category of `classes` that the file has not.
        """
        infos = super().load_annotations(ann_file)
        ids = {category["name"]: category["id"] for category in self.coco.dataset["categories"]}
        if absent := [name for name in self.CLASSES if name not in ids]:
            raise ValueError(f"{ann_file}: classes {absent} are not among its categories {list(ids)}")
        self.cat_ids = [ids[name] for name in self.CLASSES]
        self.cat2label = {number: label for label, number in enumerate(self.cat_ids)}
        return infos

    def _det2json(self, results: Any) -> Any:
        """Return detections as COCO results, without those of categories that a picture is not labelled for."""
        return on_labelled_pictures(self.coco.dataset, super()._det2json(results))

    def _segm2json(self, results: Any) -> Any:
        """Return detections and masks as COCO results, without those of categories that are not labelled."""
        return tuple(on_labelled_pictures(self.coco.dataset, rows) for rows in super()._segm2json(results))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one item; the random state outside is left as it was."""
        if self.test_mode:
            return super().__getitem__(index)
        states = random.getstate(), np.random.get_state()
        seed = derive_seed(self.seed, "augmentation", self.epoch, self.data_infos[index]["id"])
        random.seed(seed)
        np.random.seed(seed)
        try:
            return super().__getitem__(index)
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


@HOOKS.register_module()
class RepeatableHook(Hook):
    """Seeds the order of images each epoch and everything drawn in a step each step.

    Args:
        seed: the run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_train_epoch(self, runner: Any) -> None:
        """Seed the shuffling (mmdet's samplers draw it when the epoch's first batch is asked for)."""
        # Loader workers are forked after this and so carry the right epoch.
        runner.data_loader.dataset.epoch = runner.epoch
        seed_everything(derive_seed(self.seed, "epoch", runner.epoch))

    def before_train_iter(self, runner: Any) -> None:
        """Seed what the step draws: samples of anchors and proposals, masks of MGD."""
        rank, _ = get_dist_info()
        torch.manual_seed(derive_seed(self.seed, "step", runner.iter, rank))


@RUNNERS.register_module()
class PromptEpochRunner(EpochBasedRunner):
    """mmcv's epoch runner without its two seconds of sleep before each epoch, and with a strict resume.

    The sleep guards against a deadlock of persistent loader workers, which are not used here.
    """

    def resume(self, checkpoint: str, *args: Any, **kwargs: Any) -> None:
        """Go on from a training's state, read as data and loaded whole.

        mmcv's own runs the config that lies in the state, and loads of the weights what fits.

        Raises:
            CheckpointError: the state is another model's, or damaged.
        """
        state = read_checkpoint(checkpoint)
        model = plain_detector(self.model)
        report = match_weights(model, state["state_dict"], checkpoint)
        if not report.complete:
            raise CheckpointError(f"{report}\nIt is the state of another training; remove it to train from the start")
        model.load_state_dict(state["state_dict"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        about = state["meta"]
        # As they are, whatever the number of processes: all of them share one batch, so an epoch has as many steps.
        self._iter, self._epoch = about["iter"], about["epoch"]
        self.meta["hook_msgs"] = about.get("hook_msgs", {})

    def train(self, data_loader: Any, **kwargs: Any) -> None:
        """Run one epoch, as `EpochBasedRunner.train` does."""
        self.model.train()
        self.mode = "train"
        self.data_loader = data_loader
        self._max_iters = self._max_epochs * len(data_loader)
        self.call_hook("before_train_epoch")
        for index, batch in enumerate(data_loader):
            self.data_batch = batch
            self._inner_iter = index
            self.call_hook("before_train_iter")
            self.run_iter(batch, train_mode=True, **kwargs)
            self.call_hook("after_train_iter")
            del self.data_batch
            self._iter += 1
        self.call_hook("after_train_epoch")
        self._epoch += 1
