"""The distillation stage: losses, guidance, and the training of one arm with one seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from mutineck.study.stage import Outcome, Study


def distil(study: Study) -> Outcome[list[dict[str, Any]]]:
    """Train the student of this arm and seed; see `mutineck.distillation.stage.distil`."""
    from mutineck.distillation.stage import distil as run

    return run(study)


def preview(study: Study) -> dict[str, Any] | None:
    """Observe and store what this arm teaches about one picture; None for an arm without teachers."""
    from mutineck.distillation.observation import observe, save_observation

    if not study.experiment.arm(study.job.arm).taught:
        return None
    observed = observe(study)
    save_observation(study, observed)
    return observed


def loss_shares(study: Study) -> pd.DataFrame:
    """Return each loss term's share of the total, mean of the run's first and of its last tenth.

    Where it was measured, its share of the gradient at the student's maps too: `gradient, first` and `gradient, last`.
    """
    import pandas as pd

    from mutineck.system.tables import read_table

    curves = read_table(study.need(study.job.folder, "curves.csv"))
    shares, gradients = (
        curves[curves.term.str.startswith(kind)].assign(term=lambda rows: rows.term.str.partition("/")[2])
        for kind in ("share/", "gradient/")
    )
    last = shares.iteration.max()
    columns = {
        "first tenth": shares[shares.iteration <= max(shares.iteration.min(), last // 10)],
        "last tenth": shares[shares.iteration >= last - last // 10],
    }
    if len(gradients):
        columns["gradient, first"] = gradients[gradients.iteration == gradients.iteration.min()]
        columns["gradient, last"] = gradients[gradients.iteration == gradients.iteration.max()]
    table = pd.DataFrame({name: rows.groupby("term").value.mean() for name, rows in columns.items()})
    return table.sort_values("last tenth", ascending=False)
