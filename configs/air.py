"""AIR on multi-MNIST (paper, Sec. 3.1): about two minutes on two CPU cores.

    python -m air_jax.main --config=configs/air.py --workdir=runs/air

Expected count accuracy on the test scenes: 99.4 to 99.7 % (20 seeds, each with nvil and with
enumerate; results/reliability/).
"""

from configs import base


def get_config():
    """The base config, under the name that the paper gives it."""
    return base.get_config()
