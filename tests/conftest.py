"""What every test needs before jax starts: four fake CPU devices, no accelerator, no display."""

import os

# Set before jax is imported. Child processes inherit all of it.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the time goes into compiling programs that then run once: they need no optimising.
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4 "
    "--xla_backend_optimization_level=0"
).strip()
os.environ["MPLBACKEND"] = "agg"
# Commands that tests call in this process would turn the cache of compiled programs on for all
# tests after them.
os.environ["JAX_COMPILATION_CACHE_DIR"] = ""

import jax
import pytest
from absl import logging

# Now: a test that changes the environment of its child processes must not change the devices.
jax.devices()
# A key that is used twice is an error.
jax.config.update("jax_debug_key_reuse", True)


@pytest.fixture(autouse=True, scope="module")
def _free_programs():
    """Drops a file's compiled programs after its tests.

    Each keeps memory mapped, and XLA crashes where a process has the 65,530 maps that Linux allows.
    """
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Keeps composed scenes out of the user's cache folder, and the user's digits out of tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("TFDS_DATA_DIR", raising=False)
        yield


@pytest.fixture
def warned(monkeypatch):
    """Texts of the warnings logged."""
    messages = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: messages.append(text % values))
    return messages
