"""What a report shows of AIR through a renderer: which scenes it found, and what its steps do."""

import numpy as np

from air_jax import figures, figures3d, metrics
from air_jax.charts import plural
from air_jax.data.tabletop import Scenes3D
from air_jax.inverse_graphics import Model3D, Objects3D
from air_jax.render.scene import Catalogue
from air_jax.report_page import Case, Looked, Picture, Steps
from air_jax.report_scenes import DPI, choose, enlarged

_NUM_FROM_ABOVE = 6


def look(model: Model3D, scenes: Scenes3D, found: Objects3D) -> Looked:
    """What a model made of scenes.

    A failure is a scene in which it finds other objects than there are, wherever they stand.

    Args:
      model: of AIR or DAIR through a renderer.
      scenes: n of them.
      found: what it says about them.
    """
    view = model.air.scene.view
    catalogue = view.catalogue
    inferred = [_names(found.identities[i, :n], catalogue) for i, n in enumerate(found.counts)]
    standing = [_names(identities[identities >= 0], catalogue) for identities in scenes.identities]
    failed = np.array([one != other for one, other in zip(inferred, standing, strict=True)])

    def case(i: int) -> Case:
        cameras = np.degrees([scenes.cameras[i], found.cameras[i]])
        azimuth, elevation = (f"{angle:.1f}° (true {true:.1f}°)" for true, angle in cameras.T)
        return Case(
            title=f"Test scene {i}",
            pictures=(
                enlarged(scenes.images[i], f"Test scene {i} as it is"),
                enlarged(found.reconstructions[i], f"What was found in test scene {i}, rendered"),
            ),
            facts=(
                ("true", standing[i]),
                ("inferred", inferred[i]),
                ("camera's azimuth", azimuth),
                ("camera's elevation", elevation),
                ("ELBO", f"{found.elbo_terms['elbo'][i]:,.1f} nats"),
            ),
            wrong=bool(failed[i]),
        )

    said = f"In {failed.sum():,} of {plural(len(failed), 'test scene')} other objects were found"
    said += " than there are"
    looked = choose(case, found.elbo_terms["elbo"], failed, said)
    num_counts = 1 + max(int(scenes.counts.max()), found.identities.shape[1])
    among = min(len(failed), figures3d.AMONG_FIRST)
    above = figures3d.from_above(scenes, found, view, num_scenes=_NUM_FROM_ABOVE)
    return looked._replace(
        confusion=metrics.confusion_matrix(found.counts, scenes.counts, num_counts).tolist(),
        overview=Picture(
            figures.to_png(above, DPI),
            "Scenes from above: true objects and cameras in grey, those that were found in red",
            f"From above: those with most objects of the first {plural(among, 'test scene')}.",
        ),
        steps=_steps(found, catalogue),
        heat_map=Picture(
            figures.to_png(figures3d.policy(found, view), DPI),
            "For each step a heat map of places on the table, and bars of identities",
            f"Where each step puts objects on the table, and which, {looked.summary}.",
        ),
    )


def _names(identities: np.ndarray, catalogue: Catalogue) -> str:
    """Objects in the catalogue's order, so that the same ones read the same."""
    return ", ".join(catalogue[i].name for i in np.sort(identities)) or "nothing"


def _steps(found: Objects3D, catalogue: Catalogue) -> Steps:
    """How often each step is used, and for which objects."""
    rows = []
    for step in range(found.identities.shape[1]):
        used = found.counts > step
        chosen = found.identities[used, step]
        shares = [
            f"{100 * (chosen == i).mean():.1f} %" if used.any() else "—"
            for i in range(len(catalogue))
        ]
        rows.append((f"{step + 1}", f"{100 * used.mean():.1f} %", *shares))
    header = ("step", "used in", *(model.name for model in catalogue))
    return Steps("The objects of each step, where it is in use", header, tuple(rows))
