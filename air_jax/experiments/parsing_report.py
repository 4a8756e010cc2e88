"""What `experiments.parsing` measured: means, what parts are worth, a table, figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from air_jax import figures, tables
from air_jax.inference import Objects
from air_jax.trained import TrainedModel

SETS = ("validation", "test")
_MEASURES = ("elbo", "iwae", "squared_error", "share_of_error", "num_steps")


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Model to set to measure to mean, deviation and number of seeds; None where unknown.

    Args:
      rows: one for each model, seed and set.
    """
    summary: dict[str, Any] = {}
    for row in rows:
        of_set = summary.setdefault(row["model"], {}).setdefault(row["set"], {})
        for name in _MEASURES:
            of_set.setdefault(name, []).append(row[name])
    for of_model in summary.values():
        for of_set in of_model.values():
            for name, values in of_set.items():
                of_set[name] = None if None in values else tables.spread(values)
    return summary


def worth(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What N steps, the first model, gain upon each other one: nats, and the errors' ratio.

    Args:
      summary: of `summarise`.
    """
    first, *others = summary
    gains: dict[str, Any] = {}
    for other in others:
        gains[other] = {}
        for split in SETS:
            ours, theirs = summary[first][split], summary[other][split]
            error = ours["squared_error"]["mean"] / theirs["squared_error"]["mean"]
            gains[other][split] = {
                "elbo_gained": ours["elbo"]["mean"] - theirs["elbo"]["mean"],
                "squared_error_ratio": error,
            }
    return gains


def table(results: Mapping[str, Any]) -> str:
    """The models side by side, in Markdown; means and deviations over the seeds.

    Args:
      results: what `parsing.run` returns.
    """
    header = ["model", "set", "seeds", "ELBO (nats)", "IWAE (nats)", "squared error per pixel"]
    header += ["share of an empty canvas's (%)", "steps"]
    rows = []
    for name, of_model in results["summary"].items():
        for split, of_set in of_model.items():
            rows.append(
                [
                    *(name, split, str(of_set["elbo"]["num"])),
                    *(tables.show(of_set["elbo"], 1), tables.show(of_set["iwae"], 1)),
                    tables.show(of_set["squared_error"], 5),
                    tables.show(of_set["share_of_error"], 1, factor=100),
                    tables.show(of_set["num_steps"], 2),
                ]
            )
    return tables.markdown(header, rows)


def reconstructions(
    models: Mapping[str, TrainedModel], images: np.ndarray, num_steps: int, *, title: str = ""
) -> Figure:
    """A row of reconstructions and windows for each model.

    Args:
      models: by the name of their row; of AIR or DAIR, at most `num_steps` steps each.
      images: as they take them, n of them.
      num_steps: of the windows' legend.
      title: of the rows.
    """
    drawn, windows, present = [], [], []
    for model in models.values():
        found = model.infer(images)
        assert isinstance(found, Objects)
        z_where = np.ones((len(images), num_steps, 3), np.float32)
        z_where[:, : found.z_where.shape[1]] = found.z_where
        drawn.append(found.reconstructions)
        windows.append(z_where)
        present.append(np.arange(num_steps) < found.counts[:, None])
    parts = (np.stack(part) for part in (drawn, windows, present))
    return figures.reconstruction_rows(images, list(models), *parts, title=title)
