"""What the property-based tests of bad input share: how many examples, traps, what changed."""

import os
import pathlib

from hypothesis import HealthCheck, settings

# Thousands of examples: AIR_JAX_EXAMPLES=100 python -m pytest tests -k bad_input
_FACTOR = int(os.environ.get("AIR_JAX_EXAMPLES", "1"))


def examples(number: int) -> settings:
    """The same `number` of examples in every run, without a clock and without a database."""
    return settings(
        max_examples=number * _FACTOR,
        derandomize=True,
        deadline=None,
        database=None,
        # Every example has a folder of its own inside the test's.
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


class Trap:
    """Makes a folder where it is unpickled."""

    def __init__(self, path: pathlib.Path):
        self._path = path

    def __reduce__(self):
        return os.mkdir, (str(self._path),)


def contents(folder: pathlib.Path) -> dict[str, bytes | str | None]:
    """Everything below a folder: bytes of files, targets of links, None for what is neither."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def outside(found: dict[str, bytes | str | None], folder: str) -> dict[str, bytes | str | None]:
    """Of `contents` what does not lie in one of its folders."""
    return {
        name: value
        for name, value in found.items()
        if name != folder and not name.startswith(f"{folder}/")
    }
