"""Progress of long work: a bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import contextlib
import sys
import time
from types import TracebackType

from tqdm import tqdm

LINE_SECONDS = 30.0


def say(text: str) -> None:
    """A line on standard error, at once. Nothing where that is closed, as of a service: work goes on without words."""
    if sys.stderr is not None:  # print would take standard output, where results go
        with contextlib.suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)


def on_terminal() -> bool:
    """Whether standard error is a terminal."""
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


class Progress:
    """Counts units of work on standard error.

    Args:
        total: units in all.
        label: what is being done.
        show: False keeps silent.
    """

    def __init__(self, total: float, label: str, *, show: bool = True) -> None:
        self.total, self.label, self.show = total, label, show
        self.done = 0.0
        self._start = self._last = time.monotonic()
        self._bar = (
            tqdm(
                total=total,
                desc=label,
                bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}",
                file=sys.stderr,
            )
            if show and on_terminal()
            else None
        )

    def advance(self, units: float, note: str = "") -> None:
        self.done += units
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(units)
        elif self.show and time.monotonic() - self._last > LINE_SECONDS:
            self._last = time.monotonic()
            elapsed = self._last - self._start
            left = elapsed * (self.total - self.done) / max(self.done, 1e-9)
            share = self.done / max(self.total, 1e-9)
            line = f"{self.label}: {share:4.0%} after {elapsed:.0f} s, about {left:.0f} s left {note}"
            say(line.rstrip())

    def set(self, done: float) -> None:
        """Units done so far, counted elsewhere."""
        self.advance(done - self.done)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
