"""DAIR on multi-MNIST (paper, Sec. 3.1): about two minutes on two CPU cores.

    python -m air_jax.main --config=configs/dair.py --workdir=runs/dair

Expected count accuracy on the test scenes: 99.1 to 99.5 % with nvil, 99.3 to 99.6 % with enumerate
(20 seeds each; results/reliability/).
"""

from configs import base


def get_config():
    """The recurrence sees the error canvas, and so does the window; the rest is AIR's recipe."""
    config = base.get_config()
    config.inference.variant = "dair"
    config.inference.glimpse_source = "error"
    # A first window between two digits costs DAIR little, since a later object can mend what is
    # left. On a map of places there is no between (WORKSPACE.md).
    config.inference.place = "map"
    return config
