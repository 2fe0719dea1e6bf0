"""From an experiment's records to mmdet configs: models, pipelines, data, schedules."""

from __future__ import annotations

import ast
import contextlib
import copy
import importlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from keyword import iskeyword
from pathlib import Path
from typing import Any

from mutineck.detection.specs import IMAGENET, RESNETS, DetectorSpec, InputSpec, ScheduleSpec
from mutineck.system.errors import ExperimentError, unknown
from mutineck.system.files import write_text

# Where mmdet keeps each family's published network; sizes are changed from there.
FAMILY_CONFIGS = {
    "faster_rcnn": "_base_/models/faster_rcnn_r50_fpn.py",
    "mask_rcnn": "_base_/models/mask_rcnn_r50_fpn.py",
    "cascade_rcnn": "_base_/models/cascade_rcnn_r50_fpn.py",
    "retinanet": "_base_/models/retinanet_r50_fpn.py",
    "fcos": "fcos/fcos_r50_caffe_fpn_gn-head_1x_coco.py",
    "atss": "atss/atss_r50_fpn_1x_coco.py",
    "gfl": "gfl/gfl_r50_fpn_1x_coco.py",
}
PUBLISHED_ANCHOR_SCALE = 8.0
GROUP_NORMALISED = ("FCOSHead", "ATSSHead", "GFLHead")
PAD_DIVISOR = 32
SMALL_PROPOSALS = 200
SMALL_ROI_SAMPLES = 64
SMALL_ROI_SAMPLING = 2
NEVER = 10**9
"""Steps."""
IMPORTS = (
    "mutineck.detection.backbones",
    "mutineck.detection.repeatable",
    "mutineck.detection.hooks",
    "mutineck.detection.ignored",
)
"""Modules that register with mmdet what every training uses."""
TEST_KEYS = ("filename", "ori_filename", "ori_shape", "img_shape", "pad_shape", "scale_factor", "flip", "img_norm_cfg")


def mmdet_folder() -> Path:
    """Return the folder of configs, tools and model index that mmdet carries."""
    import mmdet

    return Path(mmdet.__file__).parent / ".mim"


def read_config(path: str | Path) -> Any:
    """Read an mmdet config: a file, or a path below mmdet's own `configs/`.

    A config is Python code and is executed, as are the modules of its `custom_imports`: read only what you trust.

    Raises:
        ExperimentError: there is no such file, near matches in the same folder are listed; or a module of its
            `custom_imports` cannot be imported.
    """
    from mmcv import Config

    candidates = (Path(path).expanduser(), mmdet_folder() / "configs" / path)
    for candidate in candidates:
        if candidate.is_file():
            config = Config.fromfile(str(candidate), import_custom_modules=False)
            import_modules(config)
            return config
    raise ExperimentError(f"config {str(path)!r}: {near_published(path)}")


def near_published(path: str | Path) -> str:
    """Return the message for a config that is not there, with near matches in that folder of mmdet's own."""
    siblings = sorted(found.name for found in (mmdet_folder() / "configs" / path).parent.glob("*.py"))
    return unknown("config file", Path(path).name, siblings[:40])


def custom_imports(config: Any) -> list[str]:
    """Return the modules that an mmdet config wants imported, which register types that it names."""
    names = (config.get("custom_imports") or {}).get("imports") or []
    return [names] if isinstance(names, str) else list(names)


def import_modules(config: Any) -> None:
    """Import the modules of a config's `custom_imports`, found as Python finds any: installed, or on PYTHONPATH.

    Raises:
        ExperimentError: one cannot be imported; the message names the folder to put on PYTHONPATH, where it lies in one
            around the config.
    """
    file = Path(config.filename or "config")
    for name in custom_imports(config):
        try:
            importlib.import_module(name)
        except ImportError as error:
            if config.custom_imports.get("allow_failed_imports"):
                print(f"{file}: custom_imports: {name} is left out, as `allow_failed_imports` has it ({error})")
                continue
            ending = os.path.join(*name.split("."))
            around = (folder for folder in file.resolve().parents if (folder / f"{ending}.py").is_file())
            folder = next(around, None)
            remedy = f"it lies below {folder}" if folder else "install it, or name the folder that it lies below"
            raise ExperimentError(
                f"{file}: custom_imports: the module {name!r} cannot be imported ({error}): {remedy}: "
                f"export PYTHONPATH={folder or 'FOLDER'}"
            ) from error


def own_config_files(path: str | Path) -> list[Path]:
    """Return the files that a config is made of, itself and its `_base_` ones, without those that mmdet carries.

    Nothing is executed: a `_base_` that is not written out is not found, nor is anything of a file that is not there.
    """
    found: list[Path] = []
    waiting = [Path(path).expanduser()]
    while waiting:
        file = Path(os.path.abspath(waiting.pop()))
        if file in found or not file.is_file() or file.is_relative_to(mmdet_folder()):
            continue
        found.append(file)
        with contextlib.suppress(SyntaxError, TypeError, ValueError):  # whoever reads the config says so
            for node in ast.parse(file.read_bytes()).body:
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_base_":
                    bases = ast.literal_eval(node.value)
                    waiting += [file.parent / base for base in ([bases] if isinstance(bases, str) else bases)]
    return found


def detector_imports(detector: DetectorSpec) -> list[str]:
    """Return the modules that a located detector's config wants imported."""
    return custom_imports(read_config(detector.config)) if detector.config else []


def config_categories(config: Any) -> list[str]:
    """Return the categories of an mmdet config in label order, none if it does not say them.

    `categories` as this project writes them, then its data sets' `classes` (names, or a file of them), then a `classes`
    of its own, then those that its data sets' class has by itself, as stock configs have it: `CocoDataset` knows COCO's
    80.
    """
    from mmcv import list_from_file
    from mmdet.datasets import DATASETS

    if config.get("categories"):
        return list(config.categories)
    sets = [found for part in ("train", "val", "test") for found in data_sets(config, part)]
    named = next((found["classes"] for found in sets if found.get("classes")), config.get("classes"))
    if isinstance(named, str):
        named = list_from_file(named)
    for found in sets:
        named = named or getattr(DATASETS.get(found.get("type", "")), "CLASSES", None)
    return list(named or ())


def data_sets(config: Any, part: str) -> list[Mapping[str, Any]]:
    """Return the data sets of a part of a config's `data`, out of what repeats or joins them; none if it lacks it."""
    return list(_data_sets((config.get("data") or {}).get(part)))


def _data_sets(node: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(node, list | tuple):
        for item in node:
            yield from _data_sets(item)
    elif isinstance(node, Mapping):
        inner = node.get("dataset") or node.get("datasets")
        yield from _data_sets(inner) if inner else (node,)


def config_text(config: Mapping[str, Any]) -> str:
    """Return a config's fields as Python, an assignment each, as mmcv's `Config.fromfile` reads them.

    mmcv's own `pretty_text` searches for the best breaks of all its lines, for most of a second.
    """
    return "".join(f"{name} = {_python(value)}\n" for name, value in config.items())


def _python(value: Any, indent: str = "") -> str:
    """Return a plain value as Python, a dict as a call where its keys allow; long ones an item a line."""
    inner = f"{indent}    "
    if isinstance(value, Mapping) and all(str(key).isidentifier() and not iskeyword(key) for key in value):
        begin, end = "dict(", ")"
        items = [f"{key}={_python(item, inner)}" for key, item in value.items()]
    elif isinstance(value, Mapping):
        begin, end = "{", "}"
        items = [f"{key!r}: {_python(item, inner)}" for key, item in value.items()]
    elif isinstance(value, list | tuple):
        begin, end = ("[", "]") if isinstance(value, list) else ("(", ",)" if len(value) == 1 else ")")
        items = [_python(item, inner) for item in value]
    else:
        return repr(value)
    line = f"{begin}{', '.join(items)}{end}"
    if len(indent) + len(line) <= 110 and "\n" not in line:
        return line
    return f"{begin}\n" + "".join(f"{inner}{item},\n" for item in items) + f"{indent}{end.removeprefix(',')}"


def write_config(path: Path, config: Mapping[str, Any]) -> Path:
    """Write a config atomically for mmdet to read; return the path."""
    return write_text(path, config_text(config))


def model_config(spec: DetectorSpec, num_classes: int) -> dict[str, Any]:
    """Return mmdet's `model` dict of a detector for `num_classes` categories."""
    model = read_config(spec.config or FAMILY_CONFIGS[spec.family]).model.to_dict()
    model = copy.deepcopy(model)
    categories_in(model, num_classes)
    if spec.config is None:
        _resize(model, spec)
    weights = spec.pretrained
    if weights == IMAGENET:
        weights = f"{'torchvision' if spec.backbone in RESNETS else IMAGENET}://{spec.backbone}"
    if "random_size_interval" in model:
        model["random_size_interval"] = NEVER  # YOLOX resizes batches by itself, which teachers do not see
    pretrained = {"type": "Pretrained", "checkpoint": weights} if weights else None
    model["backbone"].pop("pretrained", None)
    model["backbone"]["init_cfg"] = pretrained
    if pretrained is None and "norm_cfg" in model["backbone"]:
        # Random weights: no stage may be frozen, and normalisation has statistics to learn.
        model["backbone"].update(frozen_stages=-1, norm_eval=False, norm_cfg={"type": "BN", "requires_grad": True})
    return model


def categories_in(model: dict[str, Any], num_classes: int) -> None:
    """Set the number of categories of every head of a `model` dict, in place."""
    for node in dicts_in(model):
        if "num_classes" in node:
            node["num_classes"] = num_classes


def category_counts(model: Mapping[str, Any]) -> set[int]:
    """Return the numbers of categories that the heads of a `model` dict tell apart."""
    return {node["num_classes"] for node in dicts_in(model) if isinstance(node.get("num_classes"), int)}


def _resize(model: dict[str, Any], spec: DetectorSpec) -> None:
    """Set depth, widths, anchors and sample counts of a published network, in place."""
    if spec.backbone is None or spec.backbone in RESNETS:
        depth = RESNETS.get(spec.backbone or "", spec.depth)
        stages = [spec.base_channels * 2**i * (1 if depth < 50 else 4) for i in range(4)]
        # A caffe backbone exists for its published weights alone.
        model["backbone"].update(
            depth=depth, base_channels=spec.base_channels, stem_channels=spec.base_channels, style="pytorch"
        )
    else:
        from mutineck.detection.backbones import backbone_config

        model["backbone"], stages = backbone_config(spec.backbone, frozen=spec.pretrained is not None)
    neck = model["neck"]
    neck.update(in_channels=stages, out_channels=spec.neck_channels)
    anchors = spec.anchor_scale / PUBLISHED_ANCHOR_SCALE
    for node in dicts_in({key: value for key, value in model.items() if key not in ("backbone", "neck")}):
        kind = str(node.get("type", ""))
        if kind.endswith("Head") and "in_channels" in node:
            node["in_channels"] = spec.neck_channels
        if kind == "RPNHead":
            node["feat_channels"] = spec.neck_channels
        elif "feat_channels" in node:
            node["feat_channels"] = spec.head_channels_for(node["feat_channels"])
            if kind in GROUP_NORMALISED:
                # 8 channels a group, as published: of one channel and one cell there is nothing to normalise.
                groups = math.gcd(32, max(1, node["feat_channels"] // 8))
                node["norm_cfg"] = {"type": "GN", "num_groups": groups, "requires_grad": True}
        if "reg_class_agnostic" in node:
            # Few boxes of each category: they learn to regress together.
            node["reg_class_agnostic"] = True
        if "fc_out_channels" in node:
            node["fc_out_channels"] = spec.head_channels or node["fc_out_channels"]
        if "conv_out_channels" in node:
            node["conv_out_channels"] = spec.neck_channels
        if kind == "SingleRoIExtractor":
            node["out_channels"] = spec.neck_channels
            # The published 0 samples as many points as a bin has pixels: slow for large boxes, no gain on small maps.
            node["roi_layer"]["sampling_ratio"] = SMALL_ROI_SAMPLING
            # The same arithmetic; on a CPU torchvision's kernel is the faster one.
            node["roi_layer"]["use_torchvision"] = True
        if kind == "AnchorGenerator":
            for key in ("scales", "octave_base_scale"):
                if key in node:
                    scale = node[key]
                    node[key] = [s * anchors for s in scale] if isinstance(scale, list | tuple) else scale * anchors
        if kind == "FCOSHead" and anchors != 1:
            edges = [64 * anchors * 2**i for i in range(4)]
            node["regress_ranges"] = tuple(zip([-1, *edges], [*edges, 1e8], strict=True))
    _fewer_samples(model)


def _fewer_samples(model: dict[str, Any]) -> None:
    """Bound proposals and samples: pictures of few hundred pixels have neither 1000 regions nor 512 useful samples."""
    train, test = model.get("train_cfg") or {}, model.get("test_cfg") or {}
    for proposals in (train.get("rpn_proposal"), test.get("rpn")):
        if proposals:
            proposals.update(nms_pre=2 * SMALL_PROPOSALS, max_per_img=SMALL_PROPOSALS)
    stages = train.get("rcnn") or []
    for stage in stages if isinstance(stages, list) else [stages]:
        stage["sampler"]["num"] = SMALL_ROI_SAMPLES


def dicts_in(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every dict inside a nested config."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from dicts_in(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from dicts_in(value)


def has_masks(model: dict[str, Any]) -> bool:
    """Whether a model dict trains a mask branch."""
    return any("mask_head" in node and node["mask_head"] for node in dicts_in(model))


Pipeline = list[dict[str, Any]]


def pipelines(spec: InputSpec, *, masks: bool = False, ignored: bool = False) -> tuple[Pipeline, Pipeline]:
    """Return mmdet's training and test pipelines for an experiment's input.

    Args:
        spec: the input.
        masks: hand on the objects' masks to the training.
        ignored: hand on the ignored boxes to the training (`gt_bboxes_ignore`): crowd regions and difficult objects.
    """
    normalise = {"type": "Normalize", "mean": list(spec.mean), "std": list(spec.std), "to_rgb": spec.to_rgb}
    pad = {"type": "Pad", "size_divisor": PAD_DIVISOR}
    targets = ["img", "gt_bboxes", "gt_labels", *["gt_masks"] * masks, *["gt_bboxes_ignore"] * ignored]
    factor = {} if spec.multiscale == (1, 1) else {"ratio_range": spec.multiscale}
    train: Pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "LoadAnnotations", "with_bbox": True, "with_mask": masks},
        *[{"type": "PhotoMetricDistortion"}] * spec.photometric,
        *_cropping(spec.crop),
        {"type": "Resize", "img_scale": spec.scale, "keep_ratio": True, **factor},
        {"type": "RandomFlip", "flip_ratio": spec.flip},
        normalise,
        pad,
        {"type": "DefaultFormatBundle"},
        {"type": "Collect", "keys": targets},
    ]
    resize = {"type": "Resize", "keep_ratio": True}
    collect = {"type": "Collect", "keys": ["img"], "meta_keys": TEST_KEYS}
    inner = [
        resize,
        {"type": "RandomFlip", "flip_ratio": 0.0},
        normalise,
        pad,
        {"type": "DefaultFormatBundle"},
        collect,
    ]
    test: Pipeline = [
        {"type": "LoadImageFromFile"},
        {"type": "MultiScaleFlipAug", "img_scale": spec.scale, "flip": False, "transforms": inner},
    ]
    return train, test


def _cropping(least: float) -> Pipeline:
    if least == 1:
        return []
    # A part without an object is shown, too: one that is left out would be replaced by another picture.
    how = {"crop_type": "relative_range", "crop_size": (least, least), "allow_negative_crop": True}
    return [{"type": "RandomCrop", **how}]


REPEATING = ("LoadImageFromFile", "LoadAnnotations", "Normalize", "Pad", "DefaultFormatBundle", "Collect")
"""Steps of a pipeline that do the same to a picture each time."""


def variants(pipeline: Pipeline) -> int | None:
    """Return in how many ways a training pipeline can show a picture; None if it draws from no small set.

    How a batch is padded is not counted.
    """
    count = 1
    for step in pipeline:
        kind = step["type"]
        if kind == "RandomFlip" and isinstance(step.get("flip_ratio"), int | float):
            count *= 1 if step["flip_ratio"] in (0, 1) else 2
        elif kind == "Resize" and step.get("ratio_range") is None and _one_scale(step.get("img_scale")):
            continue
        elif kind not in REPEATING:
            return None
    return count


def _one_scale(scale: Any) -> bool:
    return isinstance(scale, list | tuple) and all(isinstance(side, int) for side in scale)


def input_size(picture: tuple[int, int], spec: InputSpec) -> tuple[int, int]:
    """Return width and height of the network's input for a picture alone in its batch, given its width and height."""
    from mmcv import rescale_size

    width, height = rescale_size(picture, tuple(spec.scale))
    return -(-width // PAD_DIVISOR) * PAD_DIVISOR, -(-height // PAD_DIVISOR) * PAD_DIVISOR


def dataset_config(
    annotations: Path,
    pictures: Path,
    categories: Sequence[str],
    pipeline: list[dict[str, Any]],
    *,
    seed: int,
    test: bool,
    negatives: bool = True,
) -> dict[str, Any]:
    """Return the config of a data set that repeats its augmentation by seed, epoch and image.

    Without `negatives`, pictures that hold no object of the categories are not trained on.
    """
    return {
        "type": "RepeatableCocoDataset",
        "ann_file": str(annotations),
        "img_prefix": str(pictures),
        "classes": list(categories),
        "pipeline": pipeline,
        "seed": seed,
        "filter_empty_gt": not negatives,
        "test_mode": test,
    }


def optimizer_config(schedule: ScheduleSpec) -> dict[str, Any]:
    """Return mmcv's config of the optimiser."""
    # On a CPU torch goes weight by weight by default; the result is the same, bit for bit.
    shared = {"lr": schedule.scaled_learning_rate, "weight_decay": schedule.weight_decay, "foreach": True}
    if schedule.optimizer == "adamw":
        return {"type": "AdamW", **shared}
    return {"type": "SGD", "momentum": schedule.momentum, **shared}


def _learning_rate_config(schedule: ScheduleSpec) -> dict[str, Any]:
    """Return mmcv's config of the learning rate: a linear warm-up, then steps."""
    return {
        "policy": "step",
        "warmup": "linear" if schedule.warmup else None,
        "warmup_iters": max(1, schedule.warmup),
        "warmup_ratio": 0.001,
        "step": sorted({max(1, round(share * schedule.epochs)) for share in schedule.steps if share < 1}),
    }


_RUNTIME = {
    "dist_params": {"backend": "nccl"},
    "log_level": "WARNING",
    "load_from": None,
    "resume_from": None,
    "workflow": [("train", 1)],
    "opencv_num_threads": 0,
    "mp_start_method": "fork",
    "find_unused_parameters": False,
}
"""What mmdet's `tools/train.py` reads besides, the same for every training."""


def training_config(
    *,
    model: dict[str, Any],
    train: dict[str, Any],
    val: dict[str, Any],
    schedule: ScheduleSpec,
    seed: int,
    work_dir: Path,
    workers: int = 0,
    modules: Sequence[str] = (),
    evaluate_every: int = 1,
    hooks: Sequence[dict[str, Any]] = (),
) -> Any:
    """Return a whole mmdet config: what `tools/train.py` of a stock mmdet runs as well, in one process.

    It holds the global batch whatever number of processes shares it (`mutineck.detection.training.train`).
    `modules` are imported first: those that register the parts of `model` and the `hooks`.
    """
    from mmcv import Config

    clip = {"max_norm": schedule.clip, "norm_type": 2} if schedule.clip else None
    loading = {"samples_per_gpu": schedule.batch, "workers_per_gpu": workers}
    return Config(
        {
            "custom_imports": {"imports": list(dict.fromkeys([*IMPORTS, *modules])), "allow_failed_imports": False},
            "model": model,
            "data": {
                **loading,
                "train": train,
                "val": val,
                "test": val,
                "val_dataloader": loading,
            },
            "optimizer": optimizer_config(schedule),
            "optimizer_config": {"type": "FiniteOptimizerHook", "grad_clip": clip},
            "lr_config": _learning_rate_config(schedule),
            "runner": {"type": "PromptEpochRunner", "max_epochs": schedule.epochs},
            "checkpoint_config": None,
            "evaluation": {"interval": evaluate_every, "metric": "bbox"},
            "log_config": {
                "interval": 10,
                "hooks": [
                    {"type": "CurvesHook"},
                    {"type": "TensorboardLoggerHook", "log_dir": str(work_dir.parent / "tensorboard")},
                ],
            },
            "custom_hooks": [
                {"type": "RepeatableHook", "seed": seed, "priority": "VERY_HIGH"},
                {"type": "FiniteLossHook", "priority": "VERY_HIGH"},
                # After evaluation, so that a run killed between the two repeats the whole epoch.
                {"type": "ResumableCheckpointHook", "priority": "VERY_LOW"},
                {"type": "ProgressHook", "priority": "VERY_LOW"},
                *hooks,
            ],
            **_RUNTIME,
            "work_dir": str(work_dir),
            "gpu_ids": [0],
            "seed": seed,
        }
    )
