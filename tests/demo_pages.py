"""The demo's page, served for tests and taken down again."""

import contextlib
import gc
import socket

import pytest

from air_jax import demo

GRADIO_WARNINGS = [
    # It sums up its events with pandas, by options that pandas is to drop.
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting':DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated:DeprecationWarning"),
]


@contextlib.contextmanager
def served(model):
    """Serves the page at a free port of this machine: the page, its address and its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    page, address = demo.launch(model, host="127.0.0.1", port=port)
    try:
        yield page, address, port
    finally:
        page.close(verbose=False)
        # Now, while these warnings are ignored.
        del page
        gc.collect()
