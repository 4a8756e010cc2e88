"""DAIR on multi-MNIST (paper, Sec. 3.1): about two minutes on two CPU cores.

    python -m air_jax.main --config=configs/dair.py --workdir=runs/dair

Expected count accuracy on the test scenes: 97.9 to 99.2 % with nvil, 98.4 to 99.2 % with enumerate
(20 seeds each; results/reliability/).
"""

from configs import base


def get_config():
    """The recurrence sees the error canvas, and so does the window."""
    config = base.get_config()
    config.inference.variant = "dair"
    config.inference.glimpse_source = "error"
    # Since its window reads the error, a later object can mend what the first ones have missed. So
    # passes that must end early have the first ones learn to do without, and the prior stays dearer
    # than AIR's; more objects at first keep it from ending all of them (WORKSPACE.md).
    config.limit = "uniform"
    config.prior.start = 1e-9
    config.prior.end = 1e-5
    config.prior.steps = 1_800
    config.inference.presence_logit = 2.0
    config.inference.embedding_size = 512
    config.optimizer.learning_rate = 4e-4
    config.optimizer.baseline_learning_rate = 4e-3
    config.train.num_steps = 2_400
    return config
