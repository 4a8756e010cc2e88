"""AIR on multi-MNIST (paper, Sec. 3.1): about three minutes on two CPU cores.

    python -m air_jax.main --config=configs/air.py --workdir=runs/air

Expected count accuracy on the test scenes: 99.3 to 99.6 %
(three seeds, each with nvil and with enumerate; results/).
"""

from configs import base


def get_config():
    """The base config, under the name that the paper gives it."""
    return base.get_config()
