"""AIR on multi-MNIST (paper, Sec. 3.1)."""

from configs import base


def get_config():
    """The base config, under the name that the paper gives it."""
    return base.get_config()
