"""DAIR on multi-MNIST (paper, Sec. 3.1)."""

from configs import base


def get_config():
    """The recurrence sees the error canvas, and so does the window."""
    config = base.get_config()
    config.inference.variant = "dair"
    config.inference.glimpse_source = "error"
    return config
