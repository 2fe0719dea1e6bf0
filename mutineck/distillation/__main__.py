"""Training of one arm in several processes: `torchrun --nproc-per-node 2 -m mutineck.distillation EXPERIMENT ARM`."""

from __future__ import annotations

import argparse

from mutineck.study.stage import begin


def main() -> None:
    """Train an arm's student; the notebook, or `mutineck run`, then finds the training at its end and finishes it."""
    parser = argparse.ArgumentParser(prog="mutineck.distillation", description=main.__doc__)
    parser.add_argument("experiment")
    parser.add_argument("arm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--outputs", default="outputs")
    study = begin("distillation", vars(parser.parse_args()))

    from mutineck.distillation.stage import train_student

    train_student(study)


if __name__ == "__main__":
    main()
