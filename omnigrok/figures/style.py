"""One look for all figures: the same colour for train and test everywhere, safe for the colour-blind (Okabe-Ito)."""

from __future__ import annotations

import contextlib
import math
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

COLOURS = {
    "train": "#D55E00",
    "test": "#0072B2",
    "norm": "#7A5195",
    "paper": "#444444",
    "critical": "#009E73",
    "contour": "#00A5A5",
}
WIDTH, HEIGHT = 4.4, 3.5  # inches a panel


@contextlib.contextmanager
def suite_style() -> Iterator[None]:
    """The suite's look within, on matplotlib's own defaults, so that figures are the same whatever a user has set.

    Figures are drawn and saved within; the user's settings are as before afterwards. Text stays text in the PDF.
    """
    backend = mpl.rcParams._get("backend")  # as it is: reading it chooses one
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.use("Agg")
        sns.set_theme(context="notebook", style="ticks", font_scale=0.85)
        mpl.rcParams.update(
            {
                "pdf.fonttype": 42,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.grid": True,
                "grid.alpha": 0.25,
                "legend.frameon": False,
                "lines.linewidth": 1.8,
                "figure.constrained_layout.use": True,
            }
        )
        try:
            yield
        finally:
            _use_backend(backend)


def _use_backend(backend: Any) -> None:
    """Have pyplot draw as before; where nothing had been chosen yet, its next figure chooses."""
    if isinstance(backend, str):
        mpl.use(backend, force=False)
        return
    mpl.rcParams._set("backend", backend)
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].__dict__["_backend_mod"] = None


SHORT = 2.0
"""Decades up to which a logarithmic axis is labelled in plain numbers, at 1, 2 and 5 (below one decade at 3 and 7 too),
instead of at powers of ten."""


def tidy(figure: Figure) -> None:
    """Readable labels on every logarithmic axis of a figure, however short; without a number to show it is linear."""
    for ax in figure.axes:
        for name, axis in (("x", ax.xaxis), ("y", ax.yaxis)):
            if axis.get_scale() == "log" and ax.has_data() and math.isinf(axis.get_minpos()):
                ax.set(**{f"{name}scale": "linear"})  # no number above 0 was measured, as of runs that all diverged
        for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            if axis.get_scale() != "log" or min(limits) <= 0:
                continue
            decades = abs(math.log10(limits[1] / limits[0]))
            if decades < SHORT:
                subs = (1, 2, 3, 5, 7) if decades < 1 else (1, 2, 5)
                axis.set_major_locator(LogLocator(subs=subs, numticks=12))
                axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            axis.set_minor_formatter(NullFormatter())


def not_run(axes: Axes, title: str, reason: str) -> None:
    """An empty panel that says that it was not run, and why."""
    axes.set_title(title)
    text = "NOT RUN\n\n" + "\n".join(textwrap.wrap(reason, 44))
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, fontsize=8, color=COLOURS["paper"])
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
