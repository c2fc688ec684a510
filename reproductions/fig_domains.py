"""How strongly each domain groks, at matched relative norm (Liu et al. 2023, arXiv sections 4 and 5).

The reduced test loss over its minimum against the norm over its critical norm: at three times the critical norm the gap
can be read off for all domains alike; beside it, that gap. Below, the delay of each domain's published grokking run,
steps to generalise over steps to memorise, against how far above its critical norm the run starts. The paper's remark
is that grokking is most dramatic on algorithmic data, because there the representation has to change too. Last panel:
the test loss at the best norm, over that of a constant answer, from an ideal representation (messiness 0) to none
(messiness 1: random embeddings of numbers, the pixels of images). Where it stays near 1 no norm is enough.

Nothing is trained for this figure but what the other figures train.

Your own task, by its landscape and its own run:  python -m reproductions.fig_domains --tasks mnist,my_file:MyTask
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from omnigrok.analysis import grokking_times, reduced, stack
from omnigrok.claims import Tables
from omnigrok.figures.figure import Frames, Groups, Options, Reproduction, flat
from omnigrok.figures.panels import legend
from omnigrok.figures.style import HEIGHT, WIDTH
from omnigrok.registry import get_task
from reproductions.claims.domains import CLAIMS, MATCHED, relative_losses, unexplained
from reproductions.domain_panels import COLOURS, colours, draw_delays, draw_gaps, draw_representation
from reproductions.experiments import domains, lu
from reproductions.paper import LIU


def sweep(options: Options) -> Groups:
    own = {
        task: {"grokking": domains.grokking(options, task), "messiness": domains.by_messiness(options, task)}
        for task in options.tasks
    }
    return {"landscapes": lu.landscapes(options), "domains": own}


def tables(runs: Frames, options: Options) -> Tables:
    own = runs["domains"]
    times = [grokking_times(own[task]["grokking"], get_task(task).thresholds) for task in own]
    shares = [unexplained(own[task]["messiness"], task, flat(domains.by_messiness(options, task))) for task in own]
    return {
        "landscapes": reduced(runs["landscapes"]),
        "times": stack(times).drop(columns="run"),
        "representation": stack(shares),
    }


def draw(tables: Tables, options: Options) -> Figure:
    figure, grid = plt.subplots(2, 2, figsize=(2.7 * WIDTH, 2.3 * HEIGHT), width_ratios=(1.2, 1))
    axes = grid.flat
    draw_gaps(axes[1], tables, options.tasks)
    draw_delays(axes[2], tables, options.tasks)
    draw_representation(axes[3], tables)
    for task in options.tasks:
        losses, colour = relative_losses(tables, task), colours(options.tasks)[task]
        axes[0].plot(10**losses.index, 10 ** losses.median(axis=1), color=colour, label=get_task(task).display_name)
    axes[0].axvline(MATCHED, color="#444444", ls=":", lw=1.2)
    axes[0].set(xscale="log", yscale="log", xlabel="norm / critical norm", ylabel="reduced test loss / its minimum")
    legend(axes[0])
    return figure


FIGURE = Reproduction(
    name="fig_domains",
    paper=f"{LIU}, sections 4 and 5",
    doc=__doc__,
    tasks=lambda: list(COLOURS),
    sweep=sweep,
    tables=tables,
    draw=draw,
    claims=CLAIMS,
    any_task=True,
)

if __name__ == "__main__":
    FIGURE.main()
