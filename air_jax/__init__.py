"""Attend, Infer, Repeat (Eslami et al., NIPS 2016) in JAX.

    import air_jax
    from air_jax.data import images

    model = air_jax.load("runs/dair")       # the workdir of a run, or its folder `model`
    user = images.read_images("photos")     # a picture, a folder of pictures, an .npy or .npz
    prepared = images.prepare_images(user.images, image_size=model.air.scene.image_size)
    objects = model.infer(prepared.images)  # an air_jax.inference.Objects
    objects.counts, objects.boxes, objects.presence

`python -m air_jax.infer` does the same from the command line.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from air_jax.kinds import load

__all__ = ["__version__", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports what needs JAX when it is first asked for, so that importing the package is fast."""
    if name == "load":
        return importlib.import_module("air_jax.kinds").load
    # The submodule of this name is the command line, and is found without this function.
    hint = ": it is a method of the model, air_jax.load(directory).infer(images)"
    raise AttributeError(
        f"module {__name__!r} has no attribute {name!r}{hint if name == 'infer' else ''}"
    )


def __dir__() -> list[str]:
    return sorted([*globals(), "load"])
