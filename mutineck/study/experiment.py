"""What an experiment is: one YAML file, read into validated records; unknown keys and names are refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from mutineck.detection.specs import SECOND_STAGED, DetectorSpec, InputSpec, NormalisationSpec, ScheduleSpec
from mutineck.study.arms import ALONE, GENERALIST, INTERMEDIATE, OWN, RESERVED, TEACHER, ArmSpec, resolve_arm
from mutineck.study.dataset import CHOOSING
from mutineck.study.experiment_file import (
    RELATIVE_TO,
    STUDIES,
    apply_override,
    find_file,
    find_path,
    read_fields,
    study_files,
)
from mutineck.study.sources import HideSpec, SourceSpec, refuse_twins
from mutineck.study.starts import cannot_start, start_of
from mutineck.system.errors import ExperimentError, unknown
from mutineck.system.records import Record

STAGES = ("dataset", "teachers", "features", "clusters", "distillation", "ablations", "figures")
ARM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:+@-]*")


class ShapesSpec(Record):
    """Generated scenes (`dataset.format: shapes`)."""

    images: int = Field(600, ge=10)
    """Scenes in all, before they are divided into splits."""
    size: tuple[int, int] = (256, 192)
    """Width and height in pixels."""
    max_objects: int = Field(8, ge=1, le=64)
    """Most objects in a scene; two at least are drawn, unless this is 1."""


class DatasetSpec(Record):
    """Where the pictures and boxes come from, and how they are divided."""

    format: Literal["shapes", "auto", "voc", "coco", "yolo", "pictures"] = "auto"
    """Generated scenes, or a folder of pictures with annotations of Pascal VOC, COCO or YOLO, also as labelling tools
    export them; `auto` finds out which, and refuses what could be two. Of `pictures` no labels are read."""
    root: str | None = None
    """Folder of the data set (one source in short); `data/voc` or `data/coco` if null. Not read for `shapes`."""
    sources: tuple[SourceSpec, ...] = ()
    """Several folders in the place of `root`, each labelled for its own categories (`docs/data.md`)."""
    split: tuple[float, float, float] | None = (8, 1, 1)
    """Shares of train, val and test. Folders or files of each split are kept as they are; what comes undivided is
    divided, and of VOC's lists null alone keeps those."""
    seed: int = 0
    """Chooses the generated scenes, the division into splits, and the images that `limit` keeps."""
    negatives: bool = True
    """Train on pictures without any object, too: all that is found in them is wrong. Published training on COCO does
    not."""
    strict: bool = False
    """Refuse a data set with any defect, instead of repairing or leaving out."""
    categories: tuple[str, ...] | None = None
    """Categories to keep, in this order; if null all that occur, sorted (`coco`: all of its file, in its order)."""
    aliases: dict[str, str] = Field({})
    """Name in the files -> category; an empty category drops the name on purpose."""
    voc_offset: int = Field(1, ge=0, le=1)
    """First pixel's coordinate in VOC XML: 1 in Pascal VOC, 0 in many hand-made sets."""
    crowd: Literal["ignored", "background", "objects"] = "ignored"
    """What crowd regions (`iscrowd`) and objects marked `difficult` are in training: `ignored`, neither object nor
    background, as in evaluation; `background`, as mmdet has it by default; or `objects` as any other, also in
    evaluation, for tools that mark them all."""
    download: bool = False
    """Fetch the published VOC or COCO data into `root` first, as far as it is not there."""
    pictures: str | None = None
    """File that lists the pictures to use, a name without its ending on each line; all of the data set's if null."""
    limit: int | None = Field(None, ge=1)
    """Keep only so many images of each split (a quick look)."""
    shapes: ShapesSpec = ShapesSpec()
    """What to generate, where `format` is `shapes`."""
    hide: HideSpec | None = None
    """Labels to hide from a complete data set, as if several teams had labelled a part each; none if null. They are
    kept for measuring, in `dataset/hidden_SPLIT.json`."""

    @property
    def folders(self) -> tuple[SourceSpec, ...]:
        """The sources; a `root` without labels is one."""
        if self.format == "pictures" and self.root:
            return (SourceSpec(name="pictures", root=self.root, format="pictures", split=self.split),)
        return self.sources

    @property
    def source_names(self) -> list[str]:
        """Names of the sources, or of the parts that labels are hidden in."""
        return [part.name for part in (self.hide.parts if self.hide else self.sources)]

    @model_validator(mode="after")
    def _one_kind_of_source(self) -> DatasetSpec:
        refuse_twins("dataset.sources", [source.name for source in self.sources])
        said = [field for field in ("root", "download", "hide") if getattr(self, field)]
        if self.sources and (said or self.format == "shapes"):
            raise ValueError(
                f"`sources` and `{said[0] if said else 'format: shapes'}` do not go together: "
                "`root` is the short form of one source, and labels are hidden of one complete data set"
            )
        if self.format == "pictures" and not self.sources and (self.hide or not self.root):
            raise ValueError("`format: pictures` reads no labels: name its folder (`root`), and hide none (`hide`)")
        return self


class SeesSpec(Record):
    """Which part of the training split a teacher is shown; it is measured on all pictures, like everybody.

    The sides meet at the median over the training split, which belongs to the brighter and the larger.
    """

    brightness: Literal["dark", "bright"] | None = None
    """Pictures of this side, by the mean of their grey values; all of them if null."""
    area: Literal["small", "large"] | None = None
    """Objects of this side, by their area in pixels of the picture; all of them if null."""

    @model_validator(mode="after")
    def _says_something(self) -> SeesSpec:
        if self.brightness is None and self.area is None:
            raise ValueError("say a part, e.g. {brightness: dark} or {area: large}, or leave `sees` out")
        return self


class TeacherSpec(Record):
    """A teacher: a zoo name, a config with a checkpoint, another study's detector, or one that the experiment trains.

    Exactly one of `zoo`, `config`, `study` and `detector` says where it comes from.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_]*$")
    """What it is called in arms (`fgd:NAME`), folders and tables. Taken are the sources of arms (`mean`, `confidence`,
    `sequential`, `adapters`, `intermediate`), `generalist`, `own`, `student`, `ensemble`, `merged` and `all`."""
    zoo: str | None = None
    """Name in mmdet's model index, e.g. `faster_rcnn_r101_fpn_2x_coco`."""
    config: str | None = None
    """An mmdet config (a Python file: it is executed, use only what you trust); goes with `checkpoint`."""
    checkpoint: str | None = None
    """File of the weights for `config`."""
    study: str | None = None
    """Folder of another study, `outputs/NAME`: a detector of it teaches as it is, with its own categories and
    normalisation."""
    teacher: str | None = None
    """Which detector of `study`: a teacher's name, or a student as `ARM/seedN`. If null, the teacher of this `name`."""
    detector: DetectorSpec | None = None
    """A detector that is trained here, on the experiment's training split."""
    categories: tuple[str, ...] | None = None
    """The teacher's own categories, in its label order. If null, those of the data set for a `detector`, and those that
    its checkpoint or config names for any other."""
    normalisation: NormalisationSpec | None = None
    """How a teacher of a `config` normalises pictures. If null, as its config says: asked for if that does not."""
    aliases: dict[str, str] = Field({})
    """Teacher's category -> the student's."""
    schedule: ScheduleSpec | None = None
    """How `detector` is trained; by the defaults of a schedule if null."""
    sees: SeesSpec | None = None
    """The part of the training split that a detector trained here is shown; all of it if null."""
    source: str | None = None
    """What a detector trained here learns from, by its name in `dataset.sources` or `dataset.hide.parts`: its training
    pictures, and the categories that they are labelled for. If null, the whole split and all categories."""
    seed: int = 0
    """Of the training of `detector`: first weights, order of pictures, mirroring."""
    floor: float = Field(0.0, ge=0, le=1)
    """Least val bbox_mAP, 0 to 1. A teacher that is below it by more than the pictures of val leave open is weak
    (`checks.on_weak`)."""

    @model_validator(mode="after")
    def _one_source(self) -> TeacherSpec:
        given = [bool(self.zoo), bool(self.config), bool(self.study), bool(self.detector)]
        if sum(given) != 1:
            raise ValueError(
                f"teacher {self.name!r} needs exactly one of zoo, config (with checkpoint), study, detector"
            )
        if self.teacher and not self.study:
            raise ValueError(
                f"teacher {self.name!r} has `teacher: {self.teacher}` and no `study: FOLDER` that it is of"
            )
        if self.study and (self.categories or self.normalisation):
            raise ValueError(
                f"teacher {self.name!r} has its categories and normalisation from its study: leave `categories` and "
                "`normalisation` out; `aliases` give its categories other names"
            )
        if self.normalisation and not self.config:
            raise ValueError(
                f"teacher {self.name!r}: `normalisation` is for a `config` that does not say it; "
                f"{'`input` says it for detectors trained here' if self.detector else 'the zoo says it for its own'}"
            )
        if self.config and not self.checkpoint:
            raise ValueError(f"teacher {self.name!r} has a config and no checkpoint: add `checkpoint: PATH`")
        if self.checkpoint and not self.config:
            raise ValueError(f"teacher {self.name!r} has a checkpoint and no config: add `config: PATH`")
        for field in ("source", "sees", "schedule"):
            if getattr(self, field) and not self.detector:
                raise ValueError(f"teacher {self.name!r} is not trained here: `{field}` needs a `detector`")
        if self.name in RESERVED:
            raise ValueError(f"teacher name {self.name!r} is reserved: it is {RESERVED[self.name]}")
        return self


class StudentSpec(Record):
    """The detector that learns."""

    detector: DetectorSpec
    """What is trained in each arm, and alone in the end: its checkpoint holds nothing else."""
    schedule: ScheduleSpec = ScheduleSpec()
    """How it is trained; an arm may say other `epochs`."""
    inherit: bool = False
    """What arms that say no `start` start from. If true, those that are taught start from their teacher (the anchor,
    where there are several; `intermediate`, where they learn from that one), as far as it is of the student's type with
    its strides, and from `own` where it is not; the report says which. If false, `own`. Arms that are not taught start
    from `own`."""


class IntermediateSpec(Record):
    """The intermediate teacher: merge neck over the teachers' frozen maps, and a head of its own."""

    mode: Literal["staged", "joint", "prior"] = "staged"
    """`staged`: trained in a stage of its own, then frozen; `joint`: trained anew in each student's run, and its AP and
    centroids are those of its start; `prior`: not trained, the aligned maps mixed by the quality of the proposals for
    the ground truth where a student is taught, and evenly where it detects and for its centroids."""
    head: Literal["own", "anchor"] = "own"
    """`own`: trained with the merge neck, starts from the anchor's weights where shapes and categories agree; `anchor`:
    stays the anchor's, which must know every category. The anchor is the first teacher."""
    prior: bool = False
    """Add the proposals' quality to the gates while training. It takes the ground truth, so detecting goes without it:
    what is learnt with its help is not there when it is wanted (`experiments/prior_bccd.yaml` measures that)."""
    schedule: ScheduleSpec = ScheduleSpec(epochs=3, learning_rate=0.002)
    """How it is trained where `mode` is `staged`."""
    gate: float = Field(0.002, ge=0)
    """How far its val bbox_mAP may be below the best teacher's (0.002 = 0.2 mAP), where `mode` is `staged`. If it is
    further below, and by more than the pictures of val leave open, it is weak (`checks.on_weak`)."""
    ridge: float = Field(1e-3, gt=0)
    """Strength of the ridge regression that aligns the other teachers' maps with the anchor's, relative to the mean
    variance of a channel."""
    alignment_images: int = Field(200, ge=1)
    """Training pictures that the alignment is computed on."""
    seed: int = 0
    """Of the weights that start at random, and of the training."""

    @model_validator(mode="after")
    def _prior_has_gates(self) -> IntermediateSpec:
        if self.prior and self.mode == "prior":
            raise ValueError(
                "`prior: true` adds to learned gates in training; `mode: prior` has no gates and no training. Leave "
                "`prior` out"
            )
        return self


class FeaturesSpec(Record):
    """Instance vectors of every teacher: what its maps say of each ground-truth box."""

    pooled: Literal["mean", "full"] = "mean"
    """What is kept of the 7x7 cells that a box is pooled to: their mean, or all of them (to look at; 49 times the
    space). Centroids are of the mean in any case."""
    minimum_size: float = Field(8, ge=0)
    """Boxes whose shorter side is below this (pixels of the network's input) are left out, counted."""
    batch: int = Field(8, ge=1)
    """Images a step of the extraction."""


class ClustersSpec(Record):
    """Centroids per category, and how they are drawn."""

    k: int = Field(3, ge=1)
    """Centroids that k-means looks for in each category; 1 is the category's mean."""
    restarts: int = Field(10, ge=1)
    """Starts of k-means, of which the best is taken."""
    seed: int = 0
    """Of k-means, and of the instances that are drawn."""
    minimum_share: float = Field(0.05, ge=0, lt=1)
    """Clusters with a smaller share of their category are dropped; the largest never is."""
    sample_per_category: int = Field(200, ge=5)
    """Instances of each category that pictures show and that silhouettes are computed on; no bound of k-means."""


class RegionsSpec(Record):
    """Stacked proposals and the regions that they divide a target into (`docs/method.md`)."""

    iou: float = Field(0.5, gt=0, lt=1)
    """Least overlap of a proposal with the target that it stands for."""
    score: float = Field(0.05, ge=0.05, lt=1)
    """Least score of the target's category; none lower, since below 0.05 no frozen teacher gives proposals."""
    top: int = Field(10, ge=1)
    """Proposals of each teacher for each target, best by `score^0.2 IoU^0.8`."""
    quality_temperature: float = Field(0.25, gt=0)
    """Of the softmax that makes omega, the teachers' weights for a target, from their best proposals: the lower it is,
    the more the best teacher has."""
    region: float = Field(0.2, gt=0, le=1)
    """Share of the stacked proposals that has to cover a cell outside the ground-truth box to make it boundary."""
    centre: float = Field(0.8, gt=0, le=1)
    """Share of the stacked proposals that has to cover a cell of the box to make it centre."""
    rho: float = Field(1.0, ge=0)
    """How much more than the boundary the middle of the centre weighs: a cell of it counts 1 + rho G, with G in [0, 1]
    the proposals' Gaussians."""


class RatiosSpec(Record):
    """Where `distillation.balance` is on: each term's gradient as a ratio of the detection losses', by their norms.

    A term whose fixed weight is 0 stays away whatever its ratio.
    """

    foreground: float = Field(0.25, ge=0)
    """Of FGD's foreground, where there are no regions."""
    centre: float = Field(0.25, ge=0)
    """Of the centre."""
    boundary: float = Field(0.25, ge=0)
    """Of the boundary."""
    background: float = Field(0.25, ge=0)
    """Of the background."""
    attention: float = Field(0.25, ge=0)
    """Of the difference of attentions."""
    global_: float = Field(0.25, ge=0, alias="global")
    """Of FGD's global term."""
    cwd: float = Field(1.0, ge=0)
    """Of CWD, beside FGD's terms or alone."""
    mgd: float = Field(1.0, ge=0)
    """Of MGD."""
    pkd: float = Field(1.0, ge=0)
    """Of PKD."""
    direction: float = Field(0.25, ge=0)
    """Of the centroid loss's direction."""
    distance: float = Field(0.25, ge=0)
    """Of the centroid loss's distance."""
    contrast: float = Field(0.25, ge=0)
    """Of the centroid loss where it contrasts."""
    logits: float = Field(0.25, ge=0)
    """Of second stages' classes."""
    deltas: float = Field(0.25, ge=0)
    """Of second stages' boxes."""

    model_config = ConfigDict(populate_by_name=True)


class DistillationSpec(Record):
    """Weights of the distillation losses; an arm may replace any of them, but for `ratios` and `regions`.

    The defaults of `temperature`, `alpha`, `beta`, `gamma` and `lambda` are FGD's for Faster R-CNN of 256 channels at
    1333x800. All but the first weigh sums over channels and cells: a small detector needs weights of its own.
    """

    temperature: float = Field(0.5, gt=0)
    """Of FGD's attentions: the higher, the more evenly cells and channels count."""
    alpha: float = Field(5e-5, ge=0)
    """Weight of the foreground (centre and boundary) of the feature difference."""
    beta: float = Field(2.5e-5, ge=0)
    """Weight of the background of the feature difference."""
    gamma: float = Field(5e-5, ge=0)
    """Weight of the difference of attentions."""
    lambda_: float = Field(5e-7, ge=0, alias="lambda")
    """Weight of FGD's global term, the difference of the maps with their context."""
    centroid: float = Field(0.5, ge=0)
    """Weight of the centroid loss, in arms with centroids."""
    centroid_loss: Literal["attract", "contrast"] = "attract"
    """`attract`: an instance is pulled to its category's centroid, in direction and distance. `contrast`: it is to
    stand to the centroids of all categories as the teacher's instance does; not tried in a study yet."""
    centroid_distance: float = Field(0.5, ge=0)
    """What its distance term counts beside its direction term."""
    centroid_cosine: float = Field(0.5, ge=-1, le=1)
    """Gate: a target is pulled only if the teacher's own vector is at least this close to a centroid."""
    peer: float | None = Field(None, ge=0)
    """Weight of MGD, PKD or CWD in arms that learn by them; the published one if null."""
    cwd: float = Field(0.0, ge=0)
    """Weight of CWD's term beside FGD's, in every arm with FGD's terms (not in those of MGD, PKD or CWD); 0 for none.
    FGD's squared differences have a map's offset to catch up with first, which a few hundred steps from random weights
    are not enough for; CWD does not see it."""
    logits: float = Field(0.0, ge=0)
    """Weight of what the second stages of student and intermediate teacher say, classes and boxes, of the ground truth
    and of proposals, in arms with regions that learn from the intermediate teacher; 0 compares maps alone. Where one of
    the two has no plain second stage, nothing is compared."""
    logit_proposals: int = Field(32, ge=0)
    """Proposals of each teacher on a picture, best by score before suppression, that second stages are asked about."""
    warmup_epochs: float = Field(0.0, ge=0)
    """Epochs over which every distillation term grows from 0 to its weight; 0 for none. The centroid loss grows over
    the first epoch besides."""
    strides: tuple[int, ...] | None = None
    """Levels to distil, by stride; all that student and teachers share if null."""
    balance: int = Field(0, ge=0)
    """Steps in which each term's gradient at the student's maps is measured: the first ones in which it has one. Its
    weight is set so that the norm is that of the detection losses' gradient times its ratio, over the steps measured so
    far, and is kept from then on. 0, or `off`: the fixed weights above."""
    ratios: RatiosSpec = RatiosSpec()
    """What each term's gradient is beside the detection losses', where `balance` is on."""
    shares_every: int = Field(20, ge=0)
    """Steps between two measurements of how much of the gradient at the student's maps each loss term has, the first in
    the first step; 0 for none. They are in `curves.csv` and the figure `loss_shares`, and change no training."""
    regions: RegionsSpec = RegionsSpec()
    """Which proposals stand for a target, what each teacher counts for it, and its centre and boundary."""

    model_config = ConfigDict(populate_by_name=True)

    @field_validator("balance", mode="before")
    @classmethod
    def _off_is_no_step(cls, value: Any) -> Any:
        # To YAML, a plain off is a truth value; `on` does not say how many steps.
        if value is True or value == "on":
            raise ValueError("say in how many steps it is measured, e.g. 40, or `off`")
        return 0 if value is False or value == "off" else value


class EvaluationSpec(Record):
    """Where detectors are measured."""

    splits: tuple[Literal["val", "test"], ...] = ("val", "test")
    """Splits that are measured, and `val` in any case: floors, gates and searches go by it."""
    report: Literal["val", "test"] = "test"
    """Split that tables and figures show."""
    batch: int = Field(8, ge=1)
    """Images a step when a detector is measured."""

    @property
    def measured(self) -> tuple[str, ...]:
        """Every split that is measured, the one that choices are made on first."""
        return tuple(dict.fromkeys((CHOOSING, *self.splits)))

    @model_validator(mode="after")
    def _report_is_measured(self) -> EvaluationSpec:
        if self.report not in self.measured:
            raise ValueError(
                f"report: {self.report} is not among splits: {list(self.splits)}, so tables would be empty. "
                f"Add {self.report} to `evaluation.splits`, or say `evaluation.report: val`"
            )
        return self


class ChecksSpec(Record):
    """What happens if a teacher is weak: under its `floor` or, the intermediate one, under its `gate`, and by more than
    a paired bootstrap over the pictures of val leaves open. A check that changes is decided anew without training."""

    on_weak: Literal["say", "stop"] = "say"
    """`say` it (log, notebook, status, report) and go on, or `stop` the study there."""


class ResourcesSpec(Record):
    """What one job may use."""

    threads: int = Field(1, ge=1)
    """CPU threads of a job; Snakemake runs as many jobs at once as fit into the cores."""
    workers: int = Field(0, ge=0)
    """Processes that load pictures for a job; with 0 it loads them itself."""
    memory_gib: float = Field(8.0, gt=0)
    """Memory that a job may take, GiB: what a cluster is asked for."""
    hours: float = Field(24.0, gt=0)
    """Longest that a job may take: what a cluster is asked for. Started again, a training goes on where it was."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where detectors compute: `auto` takes a GPU where there is one."""
    jobs_per_gpu: int = Field(1, ge=1)
    """Jobs that share one of this machine's GPUs: a small network leaves most of a large one idle."""
    cache: Literal["off", "auto", "on"] = "auto"
    """Keep what frozen teachers say of each picture on disk: `auto` where all of it fits into `cache_gib`."""
    # A float, as it is once it has been to a file and back: a training's config says it, and is compared.
    cache_gib: float = Field(4.0, gt=0)
    """Bound of the teacher cache of a study, GiB."""

    @field_validator("cache", mode="before")
    @classmethod
    def _words_of_yaml(cls, value: Any) -> Any:
        # To YAML, a plain on or off is a truth value.
        return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


class Experiment(Record):
    """One study: data set, teachers, student, arms, seeds."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Folder of the study: `outputs/NAME`."""
    description: str = ""
    """A sentence that stands above the study's results."""
    relative_to: str | None = None
    """Folder in which relative paths are looked for first, before the working directory and the repository. That of
    the experiment's file if null; a study's own `experiment.yaml`, which lies in the study's folder, names it."""
    dataset: DatasetSpec
    """Pictures and boxes."""
    input: InputSpec = InputSpec()
    """What the network sees of a picture."""
    teachers: tuple[TeacherSpec, ...] = Field(min_length=1)
    """One record each. The first is the anchor: the intermediate teacher's maps and head are of its kind."""
    intermediate: IntermediateSpec = IntermediateSpec()
    """The teacher that merges them; made if an arm learns from it."""
    teacher_seed: int = Field(0, ge=0)
    """Added to the seed of every teacher that is trained here, the intermediate one among them: the same study with
    another set of teachers. Give it a `name` and `seeds` of its own; a series of such studies is what a claim about the
    method, and not about one set of teachers, rests on."""
    features: FeaturesSpec = FeaturesSpec()
    """Teachers' vectors of every ground-truth box."""
    clusters: ClustersSpec = ClustersSpec()
    """Centroids of those."""
    student: StudentSpec
    """What is trained, once an arm and seed."""
    distillation: DistillationSpec = DistillationSpec()
    """What it learns by, in all arms."""
    arms: dict[str, ArmSpec]
    """Name -> record, most often an empty one: `fgd:mean:` says all there is to say."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """Every arm is trained once with each; they must differ."""
    evaluation: EvaluationSpec = EvaluationSpec()
    """Splits that detectors are measured on."""
    checks: ChecksSpec = ChecksSpec()
    """Whether a weak teacher stops the study."""
    resources: ResourcesSpec = ResourcesSpec()
    """Threads, memory and device of a job."""

    @model_validator(mode="before")
    @classmethod
    def _resolve_arms(cls, data: Any) -> Any:
        """Complete every arm from its name (`fgd:mean` alone says all there is to say)."""
        if not isinstance(data, Mapping) or not isinstance(data.get("arms"), Mapping):
            return data
        given = data.get("teachers", ())
        if not isinstance(given, list | tuple):
            raise ValueError(f"teachers: expected a list, each with a name, got {given!r}")
        for arm in data["arms"]:
            if not isinstance(arm, str):
                raise ValueError(f"arms: the name {arm!r} is no text to YAML; put it in quotes")
        names = [t.get("name") if isinstance(t, Mapping) else getattr(t, "name", None) for t in given]
        teachers = [str(name) for name in names if name]
        return {**data, "arms": {arm: resolve_arm(arm, spec, teachers) for arm, spec in data["arms"].items()}}

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"seeds {list(seeds)} repeat themselves")
        return seeds

    @model_validator(mode="after")
    def _names_agree(self) -> Experiment:
        names = [teacher.name for teacher in self.teachers]
        if len(set(names)) != len(names):
            raise ValueError(f"teachers: names must differ, got {names}")
        sources = self.dataset.source_names
        for teacher in self.teachers:
            if teacher.source is not None and teacher.source not in sources:
                raise ValueError(f"teachers.{teacher.name}.source: " + unknown("source", teacher.source, sources))
        for arm in self.arms:
            if not ARM_NAME.fullmatch(arm):
                raise ValueError(f"arms: the name {arm!r} may have letters, digits and _ . : + - @ alone")
            if arm.startswith(TEACHER):
                raise ValueError(f"arms: the name {arm!r} begins with {TEACHER!r}, which marks teachers in tables")
        if (alone := self.arms.get(ALONE)) and alone.taught:
            raise ValueError(f"arm {ALONE!r} is the student that nobody teaches; give a taught arm another name")
        slugs = [slug(arm) for arm in self.arms]
        if len(set(slugs)) != len(slugs):
            raise ValueError(f"arms: names must differ when ':' is read as '-', got {sorted(self.arms)}")
        return self

    @model_validator(mode="after")
    def _arms_weights_are_weights(self) -> Experiment:
        # Here and not where the arm trains: by then its teachers have been training for hours.
        known = self.distillation.model_dump(by_alias=True)
        for arm, spec in self.arms.items():
            for name in spec.weights:
                if name not in known:
                    raise ValueError(f"arm {arm!r}: " + unknown("weight", name, known))
            try:
                DistillationSpec.model_validate(known | dict(spec.weights))
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"]))
                raise ValueError(f"arm {arm!r}: weights: {where}: {first['msg']}") from error
            if GENERALIST in (spec.source, spec.start):
                _ = self.generalist
            if unread := spec.unread(self.logits_of(spec)):
                raise ValueError(f"arm {arm!r}: {unread}")
            if spec.start and (why := cannot_start(self, spec.start)):
                raise ValueError(f"arm {arm!r} cannot start from {spec.start!r}: {why}. Say `start: {OWN}`, or another")
        return self

    def find(self, field: str, given: str, *, hint: str = "") -> Path:
        """Return the file or folder that a field of the experiment names.

        Raises:
            ExperimentError: see `mutineck.study.experiment_file.find_path`.
        """
        return find_path(field, given, self.relative_to, hint=hint)

    def teacher(self, name: str) -> TeacherSpec:
        """Return the teacher of that name, or refuse with near matches."""
        known = {teacher.name: teacher for teacher in self.teachers}
        if self.needs_generalist:
            known[GENERALIST] = self.generalist
        if name not in known:
            raise ExperimentError(unknown("teacher", name, list(known)))
        return known[name]

    def arm(self, name: str) -> ArmSpec:
        """Return the arm of that name (its folder's name serves too), or refuse with near matches."""
        return self.arms[self.arm_name(name)]

    def arm_name(self, name: str) -> str:
        """Return an arm's name, given that or its folder's, or refuse with near matches."""
        for arm in self.arms:
            if name in (arm, slug(arm)):
                return arm
        raise ExperimentError(unknown("arm", name, self.arms))

    @property
    def needs_intermediate(self) -> bool:
        """Whether any arm learns or starts from the intermediate teacher."""
        return any(INTERMEDIATE in (arm.source, start_of(self, arm)) for arm in self.arms.values())

    def seed_of(self, teacher: TeacherSpec | IntermediateSpec) -> int:
        """Return the seed that a teacher is trained with in this set of teachers."""
        return teacher.seed + self.teacher_seed

    @property
    def needs_generalist(self) -> bool:
        """Whether any arm learns or starts from the generalist."""
        return any(GENERALIST in (arm.source, arm.start) for arm in self.arms.values())

    @property
    def generalist(self) -> TeacherSpec:
        """The control of the anchor's kind: all labels and pictures, the summed epochs of the teachers.

        Raises:
            ValueError: the anchor is not trained here, so there is no kind to train.
        """
        anchor = self.teachers[0]
        if anchor.detector is None:
            raise ValueError(
                f"an arm asks for the {GENERALIST}, which is trained as the anchor is; {anchor.name!r} is not trained "
                "here: leave the arm out, or give the anchor a `detector`"
            )
        schedules = [teacher.schedule or ScheduleSpec() for teacher in self.teachers if teacher.detector]
        schedule = schedules[0].model_copy(update={"epochs": sum(each.epochs for each in schedules)})
        # Its name is reserved, for others.
        return TeacherSpec.model_construct(
            name=GENERALIST, detector=anchor.detector, schedule=schedule, seed=anchor.seed
        )

    @property
    def merged_teachers(self) -> list[str]:
        """Names of the teachers, and last of the intermediate one if any arm learns or starts from it."""
        return [teacher.name for teacher in self.teachers] + [INTERMEDIATE] * self.needs_intermediate

    @property
    def all_teachers(self) -> list[str]:
        """`merged_teachers`, and before the intermediate one the generalist if any arm asks for it."""
        own = len(self.teachers)
        return [*self.merged_teachers[:own], *[GENERALIST] * self.needs_generalist, *self.merged_teachers[own:]]

    @property
    def needs_centroids(self) -> bool:
        """Whether any arm is guided by class centroids."""
        return any(arm.centroids for arm in self.arms.values())

    def logits_of(self, arm: ArmSpec) -> float:
        """Return the weight of second stages in an arm, 0 where the student has none to compare."""
        two_stage = self.student.detector.family in SECOND_STAGED
        return float(arm.weights.get("logits", self.distillation.logits)) if two_stage else 0.0  # type: ignore[arg-type]


def slug(arm: str) -> str:
    """Return an arm's folder name: `fgd:mean` -> `fgd-mean`."""
    return arm.replace(":", "-")


def load_experiment(path: str | Path, overrides: Iterable[str] = ()) -> Experiment:
    """Read and validate an experiment.

    Args:
        path: YAML file, relative to the working directory or the repository's root, or a bare name (`shapes`).
        overrides: `field.path=value` items; values are YAML; a teacher is addressed by name or position
            (`teachers.big.schedule.epochs=3`).

    Raises:
        ExperimentError: unknown key, wrong type or unknown name; the message names file, field and near matches.
    """
    file = find_file(path)
    data = read_fields(file)
    if STUDIES in data:
        raise ExperimentError(f"{file}: this is a series of studies; name one of them: {data[STUDIES]}")
    for override in overrides:
        apply_override(data, override)
    if isinstance(beside := data.get(RELATIVE_TO) or "", str):
        data[RELATIVE_TO] = str(file.parent / beside)
    try:
        return Experiment.model_validate(data)
    except ValidationError as error:
        raise ExperimentError(f"{file}:\n" + "\n".join(explain_errors(error))) from error


def load_series(path: str | Path, overrides: Iterable[str] = ()) -> list[Experiment]:
    """Read the experiments of a series, each with the same overrides; a single experiment is a series of one.

    Raises:
        ExperimentError: as for `load_experiment`, or two of the same name: they would share a folder.
    """
    overrides = list(overrides)
    experiments = [load_experiment(file, overrides) for file in study_files(path)]
    names = [experiment.name for experiment in experiments]
    if len(set(names)) != len(names):
        raise ExperimentError(f"{path}: the studies of a series need names of their own, got {names}")
    return experiments


def explain_errors(error: ValidationError, record: type[Record] = Experiment) -> list[str]:
    """Turn pydantic's errors about a record into lines that name the field's path, what came and near matches."""
    lines = []
    for item in error.errors():
        location = item["loc"]
        path = ".".join(str(part) for part in location) or record.__name__.lower()
        if item["type"] == "extra_forbidden":
            known = sorted(_fields_at(record, location[:-1]))
            lines.append(f"  {path}: " + unknown("key", str(location[-1]), known))
        elif item["type"] == "missing":
            lines.append(f"  {path}: this field is required")
        elif item["type"] == "value_error":
            lines.append(f"  {path}: {item['ctx']['error']}")
        else:
            lines.append(f"  {path}: {item['msg'][0].lower()}{item['msg'][1:]}, got {item['input']!r}")
    return lines


def _fields_at(model: Any, location: tuple[Any, ...]) -> list[str]:
    """Return the field names of the record that a pydantic error's location points into."""
    import typing

    for part in location:
        if isinstance(part, int) or not (isinstance(model, type) and issubclass(model, BaseModel)):
            continue
        field = model.model_fields.get(part)
        if field is None:
            continue
        found = _record_in(field.annotation, typing)
        if found is None:
            return []
        model = found
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return []
    return [field.alias or name for name, field in model.model_fields.items()]


def _record_in(annotation: Any, typing: Any) -> Any:
    """Return the record type inside an annotation such as `tuple[TeacherSpec, ...]` or `X | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        found = _record_in(argument, typing)
        if found is not None:
            return found
    return None
