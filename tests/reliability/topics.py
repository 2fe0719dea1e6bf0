"""What is tried against a bad night: in prose, and by which tests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class Topic(NamedTuple):
    """One kind of mishap.

    Attributes:
        wrong: what goes wrong.
        tried: what is tried.
        happens: what happens then.
        tests: begin of `tests.module::name` of the tests that try it, as regular expressions.
    """

    wrong: str
    tried: str
    happens: str
    tests: tuple[str, ...]

    def has(self, test: str) -> bool:
        """Return whether `tests.module::name` is one of its tests."""
        return any(re.match(pattern, test) for pattern in self.tests)

    @property
    def where(self) -> Sequence[str]:
        """The files that its tests are in."""
        modules = dict.fromkeys(pattern.split("::")[0].replace(r"\.", ".") for pattern in self.tests)
        return [module.replace(".", "/") + ".py" for module in modules]


def _tests(module: str, *names: str) -> tuple[str, ...]:
    start = re.escape(f"tests.{module}")
    return tuple(rf"{start}::test_{name}" for name in names or ("",))


TOPICS = (
    Topic(
        "VOC annotations from the wild",
        "every encoding, byte-order marks, comments, entity bombs and external entities, sizes of 0, corners that are "
        "swapped, fractions, outside, not finite or of no area, missing names, `<part>`, thousands of objects and none, "
        "names that point elsewhere; there and back to COCO",
        "repaired where certain, left out with a line in `defects.json`, or refused with file and field",
        (*_tests("dataset.test_voc"), *_tests("dataset.test_voc_folder"), *_tests("dataset.test_contracts", "generated_voc", "generated_annotations", r"what_once.*\.xml")),
    ),
    Topic(
        "COCO annotations from the wild",
        "ids that repeat, lack, or cannot be evaluated, boxes that are negative or NaN, polygons of two points, run "
        "lengths of another size, gaps between categories, missing keys, no JSON at all, a file of 200 MB",
        "the same",
        (*_tests("dataset.test_coco"), *_tests("dataset.test_masks"), *_tests("dataset.test_stage"), *_tests("dataset.test_contracts", "generated_coco", "generated_documents", r"what_once.*\.json")),
    ),
    Topic(
        "pictures from the wild",
        "truncated, empty, mislabelled, grey, palette, RGBA, CMYK, 16 bits, EXIF-rotated, 1x1, 12 000 pixels a side, bombs",
        "read at the size that the training sees, or left out and named",
        (*_tests("dataset.test_images"), *_tests("dataset.test_contracts", "a_picture", r"what_once.*\.jpg")),
    ),
    Topic(
        "SIGKILL in a training",
        "killed at an epoch and gone on with, in one process or in two",
        "the same weights, bit for bit",
        (*_tests("distillation.test_training", "a_stopped_training", "a_training_killed", "a_state_of_fewer"), *_tests("system.test_files", "a_killed_writer")),
    ),
    Topic(
        "SIGKILL, SIGTERM, SIGINT of a run",
        "one process, the command, or everything; a job that fails; a result that is lost afterwards",
        "nothing half done passes for finished; it ends within 10 s and prints the command to go on with",
        (*_tests("reliability.test_kills"), *_tests("running.test_study_run", "a_killed", "a_stopped", "a_failing", "a_finished_job"), *_tests("test_cli", "a_stopped")),
    ),
    Topic(
        "a full disk, a folder that may not be written",
        "a small disk of its own (`unshare`; skipped where a machine forbids it), files that may not grow",
        "stage, file and remedy in one line; what was finished stays; the same command goes on",
        (*_tests("system.test_faults", "a_full_disk", "where_nothing"), *_tests("system.test_remedies"), *_tests("system.test_files", "a_failed_write"), *_tests("system.test_download", "a_full_disk")),
    ),
    Topic(
        "a kernel, a loader worker or memory is lost",
        "each for real, in one run",
        "stage, file and remedy; the notebook as far as it came is kept",
        (*_tests("system.test_faults", "a_job_that_loses"), *_tests("running.test_notebooks", "a_kernel_that_dies", "a_stopped_notebook"), *_tests("system.test_remedies", r"what_the_machine_lacks.*(memory|worker)")),
    ),
    Topic(
        "checkpoints",
        "truncated, another architecture or number of categories, not finite, of a newer torch, behind every likely prefix "
        "and beside teachers (`MutiNeck-KD.pth`), a pickle with a payload, code in its config",
        "loaded whole with a printed report, or refused with counts; nothing in a file is executed",
        (*_tests("detection.test_loading"), *_tests("detection.test_checkpoint_layouts"), *_tests("detection.test_pretrained"), *_tests("teachers.test_given"), *_tests("distillation.test_training", "loader_processes")),
    ),
    Topic(
        "downloads",
        "broken off, another content, no hash, https that leads to http, archives that write outside or hold links",
        "gone on with, verified before use, or refused",
        _tests("system.test_download"),
    ),
    Topic(
        "numbers",
        "loss, gradient or state not finite; a term that swamps the rest; gradient norms",
        "the run stops, naming term, iteration and pictures, and leaves the last good state; a warning, once",
        _tests("distillation.test_training", "a_non_finite", "a_state_that_is_not_finite", "distillation_that"),
    ),
    Topic(
        "does it repeat?",
        "other draws, other loader workers, two processes, a study drawn again",
        "bit for bit on a CPU",
        (*_tests("detection.test_repeatable"), *_tests("distillation.test_training", "loader_processes", "two_processes"), *_tests("distillation.test_distributed"), *_tests("test_study", "figures_are")),
    ),
    Topic(
        "two at once",
        "two runs, two notebooks of one stage, two builds of the environment, figures while a run writes, two downloads",
        "the second waits or refuses, naming the first one's process",
        (*_tests("running.test_study_run", "a_folder_has", "a_killed"), *_tests("test_cli", "figures_are_not"), *_tests("study.test_stage", "two_notebooks"), *_tests("test_environment", "a_second_build", "the_lock_of_a"), *_tests("system.test_download", "who_comes_second"), *_tests("detectors.test_cache", "processes_write")),
    ),
    Topic(
        "results that are stale",
        "settings or revision changed, files lost, another schedule, other teachers",
        "run again or said, with the reason",
        (*_tests("running.test_study_run", "a_changed", "a_setting", "differences", "a_finished"), *_tests("test_cli", "results_of"), *_tests("test_study", "a_changed", "a_second"), *_tests("distillation.test_training", "another_schedule", "a_state_of_other")),
    ),
    Topic(
        "what piles up",
        "studies one after another: memory, open files, processes, temporary files; arms that are gone, what killed "
        "processes left, files that belong to no job",
        "all return to where they were; `mutineck clean` lists what may go, and asks",
        (*_tests("reliability.test_soak"), *_tests("test_cli", "clean"), *_tests("running.test_study_run", "what_may"), *_tests("test_study", "every_job")),
    ),
    Topic(
        "values that look like code",
        "parameters of notebooks, names of arms, YAML tags, folders, sources that call a shell",
        "strings, refused names, no shell",
        (*_tests("test_supply"), *_tests("running.test_notebooks", "parameters_arrive", "a_misspelt")),
    ),
    Topic(
        "what is installed",
        "a package without a reason, a pin or a hash, a file with another hash, a build that was stopped or killed",
        "refused, or gone on with",
        _tests("test_environment", "every_requirement", "every_pin", "the_lock_names", "a_file_with", "steps_that", "a_package_whose", "this_environment"),
    ),
    Topic(
        "the teacher cache",
        "truncated entries, two writers, a bound reached",
        "computed again; a hit equals a miss, bit for bit",
        (*_tests("detectors.test_cache"), *_tests("distillation.test_cached")),
    ),
)  # fmt: skip
