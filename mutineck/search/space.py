"""What a search may try: ranges of an experiment's settings, from a YAML file, and what a trial's experiment is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from mutineck.study.arms import METHOD
from mutineck.study.experiment import Experiment, explain_errors
from mutineck.study.experiment_file import get_field, repository, set_field
from mutineck.study.jobs import Job, needs
from mutineck.study.settings import settings_of
from mutineck.system.errors import ExperimentError, unknown
from mutineck.system.records import Record

Value = bool | int | float | str | None


class ParameterSpec(Record):
    """A setting that is searched: one `field`, or a common factor on several (`scale`); a range, or choices."""

    field: str | None = None
    """Path as for `--set`, e.g. `distillation.centroid`."""
    scale: tuple[str, ...] = ()
    """Paths of numbers that are multiplied by the same factor."""
    low: float | None = None
    high: float | None = None
    log: bool = False
    """Search orders of magnitude: uniform in the logarithm."""
    choices: tuple[Value, ...] = ()

    @model_validator(mode="after")
    def _complete(self) -> ParameterSpec:
        if (self.field is None) == (not self.scale):
            raise ValueError("name either one `field` or the fields to `scale`")
        if self.choices:
            if self.scale or self.low is not None or self.high is not None or self.log:
                raise ValueError("`choices` go with one `field`, and with no other key")
        elif self.low is None or self.high is None or self.low >= self.high:
            raise ValueError(f"expected `low` under `high`, or `choices`; got {self.low} and {self.high}")
        elif self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range starts above 0, got {self.low}")
        return self

    def whole(self, experiment: Experiment) -> bool:
        """Return whether this is a range of a field that counts something, as the experiment's value of it tells."""
        if self.choices or self.field is None:
            return False
        present = get_field(experiment.model_dump(mode="json", by_alias=True), self.field)
        return isinstance(present, int) and not isinstance(present, bool)

    def samples(self, experiment: Experiment) -> tuple[Value, ...]:
        """Return the choices, or what stands for a range: if these make valid experiments, so do all."""
        if self.low is None or self.high is None:
            return self.choices
        fraction = self.low + (self.high - self.low) / math.pi
        return (self.low, self.high) if self.whole(experiment) else (self.low, self.high, fraction)

    def contains(self, value: Any) -> bool:
        """Whether a value can be suggested."""
        if self.choices:
            return value in self.choices
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.low is not None and self.high is not None and self.low <= value <= self.high


class SearchSpec(Record):
    """A search: which arm is trained with which seeds, and what is tried."""

    description: str = ""
    arm: str = METHOD
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    parameters: dict[str, ParameterSpec] = Field(min_length=1)

    def present(self, experiment: Experiment) -> dict[str, Value] | None:
        """Return the values that the experiment has now; None if one of them lies outside its range."""
        data = experiment.model_dump(mode="json", by_alias=True)
        values = {name: 1.0 if p.field is None else get_field(data, p.field) for name, p in self.parameters.items()}
        inside = all(self.parameters[name].contains(value) for name, value in values.items())
        return values if inside else None

    def apply(self, experiment: Experiment, values: Mapping[str, Value]) -> Experiment:
        """Return the experiment with the values of a trial.

        Raises:
            ExperimentError: no such field, or a value that it cannot have.
        """
        data = experiment.model_dump(mode="json", by_alias=True)
        for name, value in values.items():
            for path, new in self.settings(experiment, name, value).items():
                set_field(data, path, new)
        try:
            return Experiment.model_validate(data)
        except ValidationError as error:
            tried = ", ".join(f"{name} = {value}" for name, value in values.items())
            raise ExperimentError(f"{tried} is no valid experiment:\n" + "\n".join(explain_errors(error))) from error

    def settings(self, experiment: Experiment, name: str, value: Value) -> dict[str, Any]:
        """Return the fields that one parameter's value sets, by path."""
        data = experiment.model_dump(mode="json", by_alias=True)
        parameter = self.parameters[name]
        if parameter.field is not None:
            get_field(data, parameter.field)
            return {parameter.field: value}
        before = {path: get_field(data, path) for path in parameter.scale}
        for path, number in before.items():
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise ExperimentError(f"{name}: scale: {path} is {number!r}, which is no number to multiply")
        return {path: number * value for path, number in before.items()}  # type: ignore[operator]

    def check(self, experiment: Experiment) -> None:
        """Refuse what would make a trial depend on more, or on nothing of, the training of one student.

        Raises:
            ExperimentError: no such arm or field, a value of a range that the field cannot have, a field that
                teachers, centroids or the data set depend on, or one that the arm does not.
        """
        student = self.students(experiment)[0]
        for name, parameter in self.parameters.items():
            moved = False
            for value in parameter.samples(experiment):
                changed = self.apply(experiment, {name: value})
                moved |= settings_of(changed, student) != settings_of(experiment, student)
                for job in self.needed(experiment):
                    if settings_of(changed, job) != settings_of(experiment, job):
                        fields = ", ".join(self.settings(experiment, name, value))
                        raise ExperimentError(
                            f"{name}: the job `{job}` depends on {fields} too; a search trains students alone, with "
                            "what is finished. Give such variants experiments of their own"
                        )
            if not moved:
                raise ExperimentError(f"{name}: the arm {self.arm!r} does not depend on it")

    def students(self, experiment: Experiment) -> list[Job]:
        """Return the jobs of the students that a trial trains, one a seed."""
        arm = experiment.arm_name(self.arm)
        return [Job.student(arm, seed) for seed in self.seeds]

    def needed(self, experiment: Experiment) -> list[Job]:
        """Return the jobs whose results the arm's training reads, directly or not."""
        found: dict[Job, None] = {}
        waiting = needs(experiment, Job.student(self.arm, experiment.seeds[0]))
        while waiting:
            job = waiting.pop()
            if job not in found:
                found[job] = None
                waiting += needs(experiment, job)
        return list(found)


def load_space(path: str | Path) -> SearchSpec:
    """Read a search from a YAML file, or from the one of that name in `experiments/searches/`.

    Raises:
        ExperimentError: no such file, or what it says makes no search; the message names file, field and near matches.
    """
    folder = repository() / "experiments" / "searches"
    file = next((p for p in (Path(path).expanduser(), folder / f"{path}.yaml") if p.is_file()), None)
    if file is None:
        known = sorted(found.stem for found in folder.glob("*.yaml"))
        raise ExperimentError(f"{path}: no such search; " + unknown("search", str(path), known))
    try:
        return SearchSpec.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise ExperimentError(f"{file}: not valid YAML: {error}") from error
    except ValidationError as error:
        raise ExperimentError(f"{file}:\n" + "\n".join(explain_errors(error, SearchSpec))) from error
