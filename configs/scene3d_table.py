"""DAIR through a renderer: a table with up to three pieces of crockery (Sec. 3.2, figure 6, right).

python -m air_jax.main --config=configs/scene3d_table.py --workdir=runs/scene3d_table

A quarter of an hour on one CPU core. Expected on the test scenes: counts 99.95 to 100 %, identities
99.9 to 100 %, places within 0.32 pixels on average (4 seeds; results/tabletop/).
"""

from ml_collections import ConfigDict

from configs import scene3d_object


def get_config() -> ConfigDict:
    """Counts, identities, poses and the camera are to be found from images alone."""
    config = scene3d_object.get_config().unlock()
    config.data.update(
        catalogue="crockery", counts=(0, 1, 2, 3), camera_range=(25.0, 8.0), extent=1.1
    )
    # Deviations of a uniform law over that range. To the farthest camera a corner of the square in
    # which objects stand is 1.46 to a side.
    config.scene.update(catalogue="crockery", camera_scale=(14.4, 4.6), reach=1.5)
    # Of eleven parameters several times faster than finite differences (benchmarks/render.py).
    config.scene.gradient = "surface_motion"
    config.inference.update(variant="dair", num_steps=3, fixed_count=False)
    # A price of 7 nats; an object that is missing costs tens to hundreds.
    config.prior.update(start=1e-3, end=1e-3, steps=0)
    # By finite differences poses are known after 1,000 steps (WORKSPACE.md).
    config.exploration.update(hold=1_000, steps=3_000)
    config.train.num_steps = 12_000
    return config.lock()
