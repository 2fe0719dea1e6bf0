# The graph of a study, for Snakemake: one rule a stage, and each rule runs one notebook.
#
# `mutineck run` calls this. By hand:
#     snakemake --directory outputs/shapes --cores 2
# where outputs/shapes/experiment.yaml is the experiment, all its fields written out.
# Jobs and what they need: mutineck/study/jobs.py; how one runs: mutineck/running/job_run.py.
import os
import shlex
import sys
from pathlib import Path

sys.path.insert(0, workflow.basedir)

from mutineck.running.job_run import cores, resources, thread_environment
from mutineck.study.experiment import STAGES, load_experiment
from mutineck.study.jobs import ITEM_PATTERN, ITEM_STAGES, Job, jobs, needs
from mutineck.study.settings import settings_text
from mutineck.study.stage import EXPERIMENT_FILE

experiment = load_experiment(Path(config.get("experiment", EXPERIMENT_FILE)).resolve())
run_one_job = [
    sys.executable, "-m", "mutineck.running.job_run",
    "--notebooks", config.get("notebooks", str(Path(workflow.basedir) / "notebooks")),
    "--cwd", config.get("cwd", workflow.basedir),
]
os.environ.update(thread_environment(experiment))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [workflow.basedir, os.environ.get("PYTHONPATH")]))


def job(stage, wildcards):
    return Job(stage, wildcards.get("item"))


rule all:
    input:
        [path for each in jobs(experiment) for path in each.outputs],


for stage in STAGES:
    several = stage in ITEM_STAGES

    rule:
        name:
            stage
        input:
            lambda wildcards, stage=stage: [needed.manifest for needed in needs(experiment, job(stage, wildcards))],
        output:
            # The folder a training works in is no output: what it has reached must outlive a job that fails.
            Job(stage, "{item}" if several else None).outputs,
        wildcard_constraints:
            item=ITEM_PATTERN,
        params:
            # Changed settings make a job stale. Nothing else stands here, so that a moved folder does not.
            settings=lambda wildcards, stage=stage: settings_text(experiment, job(stage, wildcards)),
        # Where cores are few, what the most other jobs wait for comes first.
        priority: len(STAGES) - STAGES.index(stage)
        threads: cores(experiment, stage)
        resources:
            **resources(experiment, stage, gpus=config.get("gpus", 0) > 0),
        message:
            stage + (" {wildcards.item}" if several else "")
        shell:
            # exec: signals reach the job itself and not a shell before it.
            "exec " + shlex.join(run_one_job).replace("{", "{{").replace("}", "}}") + ' "$(dirname {output[0]:q})"'
