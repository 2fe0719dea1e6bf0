"""What an experiment may say, and how a wrong one is refused."""

import copy

import pytest
import yaml

from mutineck.study.arms import RESERVED
from mutineck.study.experiment import INTERMEDIATE, STAGES, apply_override, load_experiment, slug
from mutineck.study.experiment_file import repository, study_files
from mutineck.study.jobs import Job
from mutineck.study.settings import settings_of
from mutineck.system.errors import ExperimentError, unknown

DETECTOR = {"family": "faster_rcnn"}
EXPERIMENT = {
    "name": "tiny",
    "dataset": {"format": "shapes"},
    "teachers": [{"name": "big", "detector": DETECTOR}, {"name": "small", "detector": DETECTOR}],
    "student": {"detector": DETECTOR},
    "arms": {"student": None, "fgd:big": None},
}
FILES = sorted({*(repository() / "experiments").glob("*.yaml")} - {repository() / "experiments" / "claims.yaml"})
EXPERIMENTS = [path for path in FILES if study_files(path) == [path]]


@pytest.fixture
def write(tmp_path):
    def written(content):
        path = tmp_path / "tiny.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
        return path

    return written


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_experiments_of_the_repository_are_valid(path):
    experiment = load_experiment(path)
    assert experiment.name == path.stem
    assert load_experiment(path.stem) == experiment


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("clusters.kk=3", "clusters.kk: unknown key 'kk'; did you mean 'k'"),
        ("clster.k=3", "clster: unknown key 'clster'; did you mean 'clusters'"),
        ("clusters.k=many", "clusters.k: "),
        ("clusters.k=0", "clusters.k: "),
        ("dataset.format=vod", "dataset.format: "),
        ("teachers.big.detector.family=faster", "faster_rcnn"),
        ("teachers.big.seedd=1", "unknown key 'seedd'; did you mean 'seed'"),
        ("teachers.bigg.seed=1", "did you mean 'big'"),
        ("teachers=[]", "unknown source 'big'"),
        (
            "arms={fgd:big: {weights: {alfa: 1}}}",
            "arm 'fgd:big': unknown weight 'alfa'; did you mean 'alpha'",
        ),
        ("arms={fgd:big: {weights: {alpha: -1}}}", "arm 'fgd:big': weights: alpha: "),
        (
            "distillation.regions.score=0.04",
            "distillation.regions.score: input should be greater than or equal to 0.05",
        ),
        ("seeds=[1, 1]", "repeat themselves"),
        ("seeds=[]", "seeds"),
        ("name=../up", "name"),
        ("arms={fgd:bigg: }", "unknown source 'bigg'; did you mean 'big'"),
        ("arms={mutinek: }", "did you mean 'mutineck'"),
        ("arms={fgd:big: 3}", "expected a mapping"),
        ("arms={fgd:big: {weight: {}}}", "weight"),
        ("teachers.big.checkpoint=x.pth", "has a checkpoint and no config"),
        ("teachers.big.config=x.py", "exactly one of zoo, config"),
        ("teachers.big.study=outputs/A", "exactly one of zoo, config"),
        ("teachers.big.teacher=red", "has `teacher: red` and no `study: FOLDER`"),
        (
            "teachers=[{name: big, study: outputs/A, categories: [cat]}]",
            "has its categories and normalisation from its study: leave `categories`",
        ),
        (
            "teachers.big.normalisation={mean: [0, 0, 0], std: [1, 1, 1], to_rgb: true}",
            "`input` says it for detectors trained here",
        ),
        (
            "teachers.big.normalisation={mean: [0, 0, 0], std: [1, 0, 1], to_rgb: true}",
            "expected three numbers above 0",
        ),
        ("teachers=", "teachers: expected a list, each with a name, got None"),
        ("teachers={big: }", "teachers: expected a list, each with a name, got {'big': None}"),
        ("arms={1: {feature: fgd, source: big}}", "arms: the name 1 is no text to YAML; put it in quotes"),
        ("evaluation.splits=[val]", "report: test is not among splits: ['val']"),
        ("evaluation.splits=[]", "Add test to `evaluation.splits`, or say `evaluation.report: val`"),
    ],
    ids=lambda value: value if value and "=" in value else "",
)
def test_what_is_wrong_is_named(write, override, message):
    path = write(EXPERIMENT)
    with pytest.raises(ExperimentError) as error:
        load_experiment(path, [override])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not valid YAML"),
        ("- 1", "expected a mapping"),
        ("", "expected a mapping"),
        ("a: !!python/object:os.system {}", "YAML"),
    ],
    ids=["syntax", "list", "empty", "code"],
)
def test_files_that_are_no_experiment(write, text, message):
    path = write(text)
    with pytest.raises(ExperimentError, match=message) as error:
        load_experiment(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("override", ["clusters.k", "=3", "clusters.k=[1", "name.first=3"], ids=str)
def test_overrides_have_a_syntax(write, override):
    with pytest.raises(ExperimentError, match="--set"):
        load_experiment(write(EXPERIMENT), [override])


@pytest.mark.parametrize(
    ("override", "get", "expected"),
    [
        ("clusters.k=5", lambda e: e.clusters.k, 5),
        ("teachers.small.seed=4", lambda e: e.teacher("small").seed, 4),
        ("teachers.0.seed=4", lambda e: e.teacher("big").seed, 4),
        ("arms.student.epochs=3", lambda e: e.arm("student").epochs, 3),
        ("arms.fgd:mean={}", lambda e: e.arm("fgd:mean").source, "mean"),
        ("dataset.root=a=b", lambda e: e.dataset.root, "a=b"),
        ("distillation.lambda=0.5", lambda e: e.distillation.lambda_, 0.5),
        ("evaluation={splits: [test], report: val}", lambda e: e.evaluation.report, "val"),  # val is always measured
        ("description=", lambda e: e.description, None),
    ],
    ids=lambda value: value if isinstance(value, str) and "=" in value else "",
)
def test_overrides(write, override, get, expected):
    if expected is None:
        with pytest.raises(ExperimentError, match="description"):
            load_experiment(write(EXPERIMENT), [override])
        return
    assert get(load_experiment(write(EXPERIMENT), [override])) == expected


def test_a_study_has_a_teacher(write):
    with pytest.raises(ExperimentError, match="teachers: "):
        load_experiment(write(EXPERIMENT | {"teachers": [], "arms": {"student": None}}))


def test_overrides_apply_in_order():
    data = copy.deepcopy(EXPERIMENT)
    for override in ("clusters.k=4", "clusters.k=6"):
        apply_override(data, override)
    assert data["clusters"] == {"k": 6}


def test_names_that_differ_only_by_a_colon_share_a_folder_and_are_refused(write):
    arms = {"fgd:big": None, "fgd-big": {"feature": "fgd", "source": "big"}}
    with pytest.raises(ExperimentError, match="names must differ when ':' is read as '-'"):
        load_experiment(write(EXPERIMENT | {"arms": arms}))


@pytest.mark.parametrize("name", RESERVED)
def test_reserved_teacher_names(write, name):
    teachers = [{"name": name, "detector": DETECTOR}]
    with pytest.raises(ExperimentError, match=f"teacher name '{name}' is reserved: it is {RESERVED[name]}"):
        load_experiment(write(EXPERIMENT | {"teachers": teachers, "arms": {"student": None}}))


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ({"student": {"feature": "fgd", "source": "big"}}, "'student' is the student that nobody teaches"),
        ({"teacher:big": {"feature": "fgd", "source": "big"}}, "begins with 'teacher:', which marks teachers"),
    ],
    ids=["a taught student", "a teacher's row"],
)
def test_reserved_arm_names(write, arms, message):
    with pytest.raises(ExperimentError, match=message):
        load_experiment(write(EXPERIMENT | {"arms": arms}))


PLAIN = {"feature": "none"}
COMPARED = {"distillation": {"logits": 1.0}}


@pytest.mark.parametrize(
    ("name", "arm", "fields", "message"),
    [
        ("a", PLAIN | {"centroids": True}, {}, "centroids would not be read: `feature: none` teaches nothing"),
        ("student", {"regions": True, "source": "big"}, {}, "source and regions would not be read"),
        ("student_long", PLAIN | {"weights": {"alpha": 1}}, {}, "weights would not be read: `feature: none`"),
        ("mgd:mean", {"regions": True}, {}, "`regions` would not be read: they are of `feature: fgd` .this is mgd"),
        ("mgd:mean", {"regions": True}, COMPARED, "`regions` would not be read"),
        ("cwd:intermediate", {"regions": True}, {}, "`regions` would not be read"),
        ("cwd:intermediate", {"regions": True, "weights": {"logits": 0}}, COMPARED, "`regions` would not be read"),
        ("adapters", {"regions": True}, {}, ".*each say what counts as foreground"),
        (
            "pkd:mean",
            {"weights": {"alpha": 1, "peer": 2}},
            {},
            "weights: alpha would not be read: .* have balance, peer, strides, warmup_epochs",
        ),
        ("fgd:mean", {"weights": {"peer": 2, "logits": 1}}, {}, "weights: peer, logits would not be read"),
        ("mutineck", {"weights": {"logit_proposals": 9}}, {}, "weights: logit_proposals would not be read"),
        ("mutineck-centroids", {"weights": {"centroid": 1}}, {}, "weights: centroid would not be read"),
    ],
)
def test_what_an_arm_says_and_nothing_reads_is_refused(write, name, arm, fields, message):
    with pytest.raises(ExperimentError, match=f"arm '{name}': {message}"):
        load_experiment(write(EXPERIMENT | fields | {"arms": {name: arm}}))


@pytest.mark.parametrize(
    ("name", "arm"),
    [
        ("cwd:intermediate", {"regions": True}),
        ("mutineck", {"weights": {"logits": 0}}),
        ("mutineck", {"weights": {"logits": 2, "logit_proposals": 9, "centroid": 0, "strides": [8]}}),
        ("pkd:mean", {"weights": {"peer": 2}, "centroids": True}),
    ],
)
def test_what_an_arm_reads_it_may_say(write, name, arm):
    assert load_experiment(write(EXPERIMENT | COMPARED | {"arms": {name: arm}})).arm(name).taught


def test_second_stages_that_the_student_lacks_are_not_weighed(write):
    student = {"student": {"detector": {"family": "gfl"}}}
    arms = {"arms": {"mutineck": {"weights": {"logits": 1}}}}
    with pytest.raises(ExperimentError, match="arm 'mutineck': weights: logits would not be read"):
        load_experiment(write(EXPERIMENT | student | arms))


def test_a_prior_without_gates_is_refused(write):
    with pytest.raises(ExperimentError, match="intermediate: `prior: true` adds to learned gates"):
        load_experiment(write(EXPERIMENT), ["intermediate.mode=prior", "intermediate.prior=true"])


def test_a_schedule_needs_a_training(write):
    teachers = [{"name": "big", "zoo": "retinanet_r50_fpn_1x_coco", "schedule": {"epochs": 3}}]
    with pytest.raises(ExperimentError, match="not trained here: `schedule` needs a `detector`"):
        load_experiment(write(EXPERIMENT | {"teachers": teachers, "arms": {"student": None}}))


def test_arms_and_teachers_are_found_by_name(write):
    experiment = load_experiment(write(EXPERIMENT))
    assert experiment.arm("fgd-big") is experiment.arm("fgd:big")
    with pytest.raises(ExperimentError, match="unknown arm 'fgd:bg'; did you mean 'fgd:big'"):
        experiment.arm("fgd:bg")
    with pytest.raises(ExperimentError, match="unknown teacher 'bog'; did you mean 'big'"):
        experiment.teacher("bog")


def test_settings_cover_every_stage_and_are_plain(write):
    experiment = load_experiment(write(EXPERIMENT | {"arms": {"mutineck": None}}))
    items = {"teachers": ["big", INTERMEDIATE], "distillation": ["mutineck/seed0"]}
    for stage in STAGES:
        for item in items.get(stage, [None]):
            settings = settings_of(experiment, Job(stage, item))
            assert settings and yaml.safe_load(yaml.safe_dump(settings)) == settings


def test_unknown_lists_what_is_known():
    assert unknown("stage", "x", []) == "unknown stage 'x' (known: none)"
    assert slug("fgd:mean") == "fgd-mean"
