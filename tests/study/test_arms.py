"""An arm's name says what it does."""

import pytest

from mutineck.study.arms import FEATURES, PARTS, SOURCES, ArmSpec, resolve_arm

TEACHERS = ("big", "small")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("student", ArmSpec()),
        ("fgd:big", ArmSpec(feature="fgd", source="big")),
        ("fgd:mean", ArmSpec(feature="fgd", source="mean")),
        ("pkd:intermediate", ArmSpec(feature="pkd", source="intermediate")),
        ("adapters", ArmSpec(feature="fgd", source="adapters")),
        ("mutineck", ArmSpec(feature="fgd", source="intermediate", regions=True, centroids=True)),
        ("mutineck-intermediate", ArmSpec(feature="fgd", source="mean", regions=True, centroids=True)),
        ("mutineck-regions", ArmSpec(feature="fgd", source="intermediate", centroids=True)),
        ("mutineck-centroids", ArmSpec(feature="fgd", source="intermediate", regions=True)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_names(name, expected):
    assert ArmSpec.model_validate(resolve_arm(name, None, TEACHERS)) == expected


@pytest.mark.parametrize("source", [*TEACHERS, *SOURCES])
@pytest.mark.parametrize("feature", FEATURES)
def test_every_loss_takes_every_source(feature, source):
    assert resolve_arm(f"{feature}:{source}", {}, TEACHERS) == {"feature": feature, "source": source}


@pytest.mark.parametrize("part", PARTS)
def test_each_part_can_be_left_out(part):
    whole, less = (
        ArmSpec.model_validate(resolve_arm(name, None, TEACHERS)) for name in ("mutineck", f"mutineck-{part}")
    )
    changed = [key for key in ("source", "regions", "centroids") if getattr(whole, key) != getattr(less, key)]
    assert changed == [{"intermediate": "source"}.get(part, part)]


def test_what_the_yaml_says_wins():
    given = resolve_arm("mutineck", {"regions": False, "epochs": 2}, TEACHERS)
    assert (given["regions"], given["centroids"], given["epochs"]) == (False, True, 2)
    assert resolve_arm("mine", {"feature": "cwd", "source": "small"}, TEACHERS) == {
        "feature": "cwd",
        "source": "small",
    }


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("fgd:bgi", None, "unknown source 'bgi'; did you mean 'big'"),
        ("studnt", None, "did you mean 'student'"),
        ("mine", {"feature": "fgd"}, "unknown source None"),
        ("mine", {"regions": True}, "has no part that is known"),
        ("fgd:big", ["epochs"], "expected a mapping"),
        ("fg:big", None, "did you mean 'fgd:big'"),
    ],
)
def test_what_says_nothing_is_refused(name, spec, message):
    with pytest.raises(ValueError, match=message):
        resolve_arm(name, spec, TEACHERS)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("student", ()),
        ("fgd:small", ("small",)),
        ("fgd:generalist", ("generalist",)),
        ("fgd:mean", TEACHERS),
        ("mutineck", TEACHERS),
    ],
)
def test_whose_networks_run(name, expected):
    arm = ArmSpec.model_validate(resolve_arm(name, None, TEACHERS))
    assert arm.teacher_names(TEACHERS) == expected
    assert arm.needs_intermediate == (name == "mutineck")
