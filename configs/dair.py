"""DAIR on multi-MNIST (paper, Sec. 3.1)."""

from configs import base


def get_config():
    """The recurrence sees the error canvas, and so does the window."""
    config = base.get_config()
    config.inference.variant = "dair"
    config.inference.glimpse_source = "error"
    # At AIR's rates, one run of two with nvil kept on using a third window for pairs of digits.
    config.optimizer.learning_rate = 5e-4
    config.optimizer.baseline_learning_rate = 5e-3
    config.train.num_steps = 5_000
    return config
