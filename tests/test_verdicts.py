"""The figures' claims on known numbers: the committed tables give the committed verdicts, parts NOT RUN."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from test_reproductions import FIGURES, invented, lines_of_partitions

from omnigrok.figure import Options
from omnigrok.style import tidy

COMMITTED = Path(__file__).parent.parent / "figures"
SINGLE = [(name, task) for name, figure in FIGURES.items() for task in figure.tasks()]


def sidecar(name):
    return json.loads((COMMITTED / f"{name}.json").read_text())


def committed(name):
    """The tables of a committed figure, as its claims were given them."""
    files = [file for file in sidecar(name)["files"] if file.endswith(".csv")]
    alpha = {"alpha": float}
    return {file.removeprefix(name).removesuffix(".csv"): pd.read_csv(COMMITTED / file, dtype=alpha) for file in files}


def of_task(tables, task):
    """What the tables would be of one task alone."""
    parts = {suffix: table[table["task"] == task] for suffix, table in tables.items()}
    return {suffix: part for suffix, part in parts.items() if len(part)}


def verdicts(name, tables, **changes):
    figure = FIGURES[name]
    options = Options(tasks=tuple(figure.tasks()), seeds=figure.seeds["default"], **changes)
    return {claim.id: claim.test(tables, name) for claim in figure.claims_for(options)}


@pytest.mark.parametrize("name", FIGURES)
def test_the_committed_tables_give_the_committed_verdicts(name):
    found = verdicts(name, committed(name))
    for claim in sidecar(name)["claims"]:
        for key in ("status", "n_seeds", "undecided_seeds"):
            assert found[claim["id"]][key] == claim[key], (claim["id"], key)
        if claim["measured"] is not None:
            assert found[claim["id"]]["measured"] == pytest.approx(claim["measured"], rel=1e-5, abs=1e-7)
    assert len(found) == len(sidecar(name)["claims"])


@pytest.mark.parametrize(("name", "task"), SINGLE)
def test_of_one_task_alone_its_claims_stand_and_the_others_are_not_run(name, task):
    everything = {claim["id"]: claim["status"] for claim in sidecar(name)["claims"]}
    alone = verdicts(name, of_task(committed(name), task))
    assert {alone[claim]["status"] for claim in alone} <= {*everything.values(), "NOT RUN"}
    assert all(found["status"] in (everything[claim], "NOT RUN") for claim, found in alone.items())
    if len(FIGURES[name].tasks()) == 1:
        assert {claim: found["status"] for claim, found in alone.items()} == everything


def test_what_one_task_leaves_unsaid_is_exactly_the_claims_of_the_others():
    def run(name, task):
        found = verdicts(name, of_task(committed(name), task))
        return {claim for claim, result in found.items() if result["status"] != "NOT RUN"}

    assert run("fig_lu", "qm9") == {"qm9-minimum"}
    assert run("fig_time_to_grok", "mnist") == {"saturates"}
    assert run("fig_delayed_robustness", "cifar10") == {"cifar-ascent"}
    assert run("fig_domains", "modular") == run("fig_train_size", "imdb") == set()


@pytest.mark.parametrize(("name", "task"), SINGLE)
def test_every_figure_of_one_task_is_measured_and_drawn(name, task, store):
    figure, preset = FIGURES[name], "quick"
    for reading in ("published", "corrected"):
        chosen = Options(preset=preset, tasks=(task,), seeds=figure.seeds[preset], reading=reading, store=store)
        specs = figure.sweep(chosen)
        lines_of_partitions(specs, store)
        tables = figure.tables(invented(specs), chosen)
        results = [claim.test(tables, name) for claim in figure.claims_for(chosen)]
        assert results
    picture = figure.draw(tables, chosen)
    tidy(picture)
    picture.canvas.draw()
    plt.close(picture)
