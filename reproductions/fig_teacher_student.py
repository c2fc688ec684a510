"""Teacher-student: the reduced landscape, and grokking from a large against a small init (Liu et al. 2023, Fig. 2).

Landscape: students held on spheres of alpha times the usual norm, which is the teacher's. Runs: from alpha = 2, with
weight decay 0.05, the student fits its 100 examples within a thousand steps and the test set tens of thousands of steps
later; from alpha = 0.5 both come together.

The published notebook's sphere is not that of the norm: it counts the first weight matrix twice, and puts the weights
back between forward and backward pass. Both landscapes are trained; "--reading published" draws and tests the
notebook's, with the suite's dotted, "--reading corrected" the other way about. The sidecar names the verdicts that
differ.

Accuracy is the share of examples with a squared error below 0.001, as published: a threshold on the loss, which can
turn a gradual fall into a sudden rise. So the loss is drawn beside it.
"""

from __future__ import annotations

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from omnigrok.analysis import CURVE_FIELDS, first_reached, pick, reduced, value_at
from omnigrok.claims import Between, Claim, Tables, at_least, at_most
from omnigrok.figure import READINGS, Options, Reading, Reproduction, runs_of
from omnigrok.panels import Run, grokking_panels, legend, lu_panel
from omnigrok.spec import RunSpec
from omnigrok.style import COLOURS, HEIGHT, WIDTH
from omnigrok.task import get_task
from reproductions import landscapes, lu_claims
from reproductions.paper import LIU, cited, paper_panel

LARGE, SMALL = 2.0, 0.5  # alpha
STEPS = {"quick": 300, "default": 100_000, "paper": 100_000}
ALPHAS = {"quick": 7, "default": 11, "paper": 21}
THRESHOLD = 0.95  # accuracy
KEYS: dict[Reading, str] = {"published": "", "corrected": "_corrected"}  # the tables of the landscapes
DECAYING = (2_000, 20_000)  # steps, about where the paper's log gives the norm


def landscape(options: Options, reading: Reading) -> list[RunSpec]:
    base = get_task("teacher_student").landscape(options.preset)
    assert base is not None
    grid, sizes = landscapes.log_grid(0.1, 10, ALPHAS[options.preset]), [options.n_train or base.n_train]
    notebook = reading == "published"
    return landscapes.specs(
        "teacher_student", options, grid, sizes, options.seeds, sphere_first_twice=notebook, sphere_early=notebook
    )


def curves(options: Options) -> list[RunSpec]:
    base = get_task("teacher_student").spec
    base = base.replace(steps=STEPS[options.preset], n_train=options.n_train or base.n_train)
    return [base.replace(alpha=alpha, seed=seed) for alpha in (LARGE, SMALL) for seed in range(options.seeds)]


def sweep(options: Options) -> list[RunSpec]:
    return curves(options) + [spec for reading in READINGS for spec in landscape(options, reading)]


def tables(runs: pd.DataFrame, options: Options) -> Tables:
    held = {KEYS[reading]: reduced(runs_of(runs, landscape(options, reading))) for reading in READINGS}
    return {**held, "_curves": runs_of(runs, curves(options))[CURVE_FIELDS]}


def draw(tables: Tables, options: Options) -> Figure:
    mosaic = [["lu", "accuracy", "loss"], ["lu", "small accuracy", "small loss"]]
    figure, axes = plt.subplot_mosaic(
        mosaic,  # type: ignore[arg-type]
        figsize=(3.6 * WIDTH, 2.1 * HEIGHT),
    )
    published = options.n_train is None
    paper = paper_panel("fig2", "landscape") if published else {}
    lu_panel(axes["lu"], tables[KEYS[options.reading]], landscape(options, options.reading)[0], "loss", paper)
    (other,) = set(READINGS) - {options.reading}
    for split in ("train", "test"):
        line = pick(tables[KEYS[other]], "teacher_student", split, "loss").median(axis=1)
        axes["lu"].plot(line.index, line, color=COLOURS[split], ls=":", label=f"on the {other} sphere")
    legend(axes["lu"])
    for alpha, prefix in ((LARGE, ""), (SMALL, "small ")):
        spec = curves(options)[0]
        title = f"$\\alpha$ = {alpha:g}, weight decay {spec.weight_decay:g}, N = {spec.n_train}"
        run = Run(alpha, title, paper_panel("fig2", "grokking") if published and alpha == LARGE else {})
        for metric in ("accuracy", "loss"):
            ax = axes[prefix + metric]
            log, loc = metric == "loss", "lower left" if metric == "loss" else "center left"
            grokking_panels([ax], tables["_curves"], metric, [run], log=log, loc=loc)
            ax.set_ylabel({"accuracy": "share with error < 0.001", "loss": "mean squared error"}[metric])
    return figure


def reached(tables: Tables, alpha: float, split: str) -> pd.Series:
    return first_reached(tables["_curves"].query("alpha == @alpha"), split, "accuracy", THRESHOLD)


def delay(tables: Tables, alpha: float) -> pd.Series:
    return reached(tables, alpha, "test") / reached(tables, alpha, "train")


def decay_rate(tables: Tables) -> pd.Series:
    """Rate at which the norm decays, over learning rate times weight decay."""
    spec = get_task("teacher_student").spec
    chosen = tables["_curves"].query("alpha == @LARGE")
    first, last = (value_at(chosen, "parameters", "weight_norm", step) for step in DECAYING)
    rate = (first / last).map(np.log) / (DECAYING[1] - DECAYING[0])
    return rate / (spec.lr * spec.weight_decay)


SOURCE = "Liu 2023 Fig. 2"


def claims(options: Options) -> list[Claim]:
    def on_sphere(claim: Claim) -> Claim:
        """The claim on the landscape of the reading."""
        return dataclasses.replace(claim, measure=lambda t: claim.measure({"": t[KEYS[options.reading]]}))

    shared = [on_sphere(claim) for claim in lu_claims.claims(options) if claim.id.startswith("ts-")]
    return [
        *shared,
        Claim(
            "memorises", "alpha = 2: first step with train accuracy 0.95", SOURCE,
            at_most(1_000, paper=cited("fig2", "derived", "memorised")), lambda t: reached(t, LARGE, "train"),
        ),
        Claim(
            "groks", "alpha = 2: first step with test accuracy 0.95", SOURCE,
            at_least(20_000, paper=cited("fig2", "derived", "generalised")), lambda t: reached(t, LARGE, "test"),
        ),
        Claim(
            "delay", "alpha = 2: steps to test accuracy 0.95 over those to train accuracy 0.95", SOURCE,
            at_least(30, paper=cited("fig2", "derived", "delay")), lambda t: delay(t, LARGE),
        ),
        Claim(
            "no-delay", "alpha = 0.5: steps to test accuracy 0.95 over those to train accuracy 0.95", SOURCE,
            at_most(3), lambda t: delay(t, SMALL),
        ),
        Claim(
            "decay-rate", "alpha = 2: rate of the norm's decay over learning rate times weight decay", SOURCE,
            Between(0.9, 1.1, paper=cited("fig2", "derived", "decay rate over lr wd")), decay_rate,
        ),
    ]  # fmt: skip


FIGURE = Reproduction(
    name="fig_teacher_student",
    paper=f"{LIU}, Fig. 2",
    doc=__doc__,
    tasks=lambda: ["teacher_student"],
    sweep=sweep,
    tables=tables,
    draw=draw,
    claims=claims,
)

if __name__ == "__main__":
    FIGURE.main()
