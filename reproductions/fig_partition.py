"""Linear regions migrate from the data to the decision boundary (Humayun et al. 2024, Fig. 2).

The network of `fig_delayed_robustness` on the plane through three training images: every line is the zero set of a
unit, every cell a region on which the network is affine, exact and in float64; orange is the decision boundary. Below,
for three seeds: the number of regions, how far the three images lie from the nearest boundary and from the decision
boundary, and how the boundaries crowd around the decision boundary (density within a tenth of the half-width, over
the square's). Pictures are of seed 0. The paper has such pictures (steps 2,668 and 99,383), but none of these numbers
over training: it counts regions at one step, of another network (Fig. 26).
"""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from omnigrok import sealed
from omnigrok.analysis import CURVE_FIELDS, curve
from omnigrok.claims import Tables
from omnigrok.ensemble import scaled_model
from omnigrok.figures.figure import Frames, Groups, Options, Reproduction
from omnigrok.figures.panels import partition_panel
from omnigrok.figures.style import COLOURS, HEIGHT, WIDTH
from omnigrok.loading import run_hash, task_data
from omnigrok.probes.partition import Partition, partition
from omnigrok.probes.partition_probe import PartitionProbe
from omnigrok.registry import get_task
from omnigrok.spec import RunSpec
from omnigrok.store import Store
from reproductions.claims.partition import CLAIMS, FROM
from reproductions.experiments.robust import SIZES, partitioned
from reproductions.paper import HUMAYUN
from reproductions.robust_panels import over_steps

NUMBERS = {
    "regions": "regions on the plane",
    "boundary_distance": "distance of the images to the\nnearest boundary (input units)",
    "decision_distance": "distance of the images to the\ndecision boundary (input units)",
    "crowding": "crowding of boundaries\nat the decision boundary",
}


def sweep(options: Options) -> Groups:
    return {"curves": partitioned(options)}


def tables(runs: Frames, options: Options) -> Tables:
    return {"curves": runs["curves"][CURVE_FIELDS]}


@dataclass(frozen=True)
class Picture:
    """The lines of a partition, the images' places and labels."""

    partition: Partition
    anchors: np.ndarray
    labels: list[str]


def picture(spec: RunSpec, step: int, store: Store) -> Picture:
    """The partition of a run's kept weights. Its lines are kept beside the weights: they take seconds to compute."""
    [probe] = (p for p in spec.probes if isinstance(p, PartitionProbe))
    data, task = task_data(spec, "cpu"), get_task(spec.task)
    plane, images = probe.plane(data), data.train_inputs[0][list(probe.examples)]

    def lines() -> tuple[Tensor, Tensor]:
        model = scaled_model(task, spec)
        model.load_state_dict(store.weights(spec)[step])
        found = partition(model, plane)
        return torch.from_numpy(found.boundaries), torch.from_numpy(found.decision)

    name = f"{run_hash(spec)}-{step}"
    path = store.weights_path(spec).with_name(f"{name}.partition.pt")
    boundaries, decision = (x.numpy() for x in sealed.cached(path, "partition", name, lines))
    labels = [str(int(label)) for label in data.train_targets[list(probe.examples)].argmax(dim=1)]
    return Picture(Partition(plane, [], boundaries, decision), plane.coordinates(images), labels)


def draw(tables: Tables, options: Options) -> Figure:
    steps = SIZES[options.preset].pictures
    figure = plt.figure(figsize=(0.95 * WIDTH * len(steps), 2.1 * HEIGHT))
    rows = figure.add_gridspec(2, 1, height_ratios=(1.25, 1))
    pictures, numbers = rows[0].subgridspec(1, len(steps)), rows[1].subgridspec(1, len(NUMBERS))
    regions = curve(tables["curves"], "probe", "regions")
    for i, step in enumerate(steps):
        ax = figure.add_subplot(pictures[i])
        if options.store is not None:
            shown = picture(partitioned(options)[0], step, options.store)
            partition_panel(ax, shown.partition, shown.anchors, shown.labels)
        ax.set_title(f"step {step:,}: {regions.loc[step].iloc[0]:,.0f} regions", fontsize=10)
        if i:
            ax.set(ylabel="")
    for i, (metric, label) in enumerate(NUMBERS.items()):
        ax = figure.add_subplot(numbers[i])
        over_steps(ax, curve(tables["curves"], "probe", metric), COLOURS["norm"], "")
        ax.axvline(FROM, color="#999999", lw=0.8, ls=":")
        ax.set(xscale="log", xlabel="optimizer steps", ylabel=label)
        ax.set_ylim(bottom=0)
    return figure


FIGURE = Reproduction(
    name="fig_partition",
    paper=f"after {HUMAYUN}, Fig. 2 and 7",
    doc=__doc__,
    tasks=lambda: ["mnist"],
    sweep=sweep,
    tables=tables,
    draw=draw,
    claims=CLAIMS,
)

if __name__ == "__main__":
    FIGURE.main()
