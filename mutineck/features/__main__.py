"""Extraction in several processes: `torchrun --nproc-per-node 2 -m mutineck.features EXPERIMENT`."""

from __future__ import annotations

import argparse

from mutineck.study.stage import begin


def main() -> None:
    """Extract the vectors of an experiment's teachers; the notebook then finds every shard there."""
    parser = argparse.ArgumentParser(prog="mutineck.features", description=main.__doc__)
    parser.add_argument("experiment")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--outputs", default="outputs")
    study = begin("features", vars(parser.parse_args()))

    from mutineck.features.extraction import extract

    extract(study)


if __name__ == "__main__":
    main()
