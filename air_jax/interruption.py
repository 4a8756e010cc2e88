"""Being asked to stop: SIGTERM of a scheduler, Ctrl-C of a person."""

import signal
import threading
from typing import Any


class Interrupted(Exception):
    """The process was asked to stop; the state is saved.

    Attributes:
      signal: number of the signal.
    """

    def __init__(self, number: int, step: int):
        super().__init__(
            f"stopped by {signal.Signals(number).name} at step {step}, checkpoint written; "
            "the same command resumes"
        )
        self.signal = number


class Signals:
    """Notes SIGTERM and SIGINT while it is entered, so that a loop can stop between calls.

    Attributes:
      received: number of the last signal, 0 for none. A second Ctrl-C does not wait.
    """

    def __init__(self):
        self.received = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: Any) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
