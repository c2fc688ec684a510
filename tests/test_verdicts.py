"""The figures' claims on known numbers: the committed tables give the committed verdicts, parts NOT RUN."""

import json
import math
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from test_reproductions import FIGURES, invented_tables, lines_of_partitions

from omnigrok.claims import ClaimError
from omnigrok.figures.figure import Options, file_names, flat, grouped
from omnigrok.figures.style import tidy
from omnigrok.schedule import evaluation_steps
from omnigrok.store import COLUMNS
from reproductions.claims import delayed_robustness, domains, partition, teacher_student, train_size
from reproductions.experiments import mnist, qm9, robust
from reproductions.experiments import teacher_student as ts

COMMITTED = Path(__file__).parent.parent / "figures"
SINGLE = [(name, task) for name, figure in FIGURES.items() for task in figure.tasks()]


def sidecar(name):
    return json.loads((COMMITTED / f"{name}.json").read_text())


def committed(name):
    """The tables of a committed figure, as its claims were given them."""
    figure = FIGURES[name]
    chosen = Options(preset="quick", tasks=(figure.tasks()[0],), seeds=1)
    tables = figure.tables(grouped(pd.DataFrame(columns=COLUMNS), figure.sweep(chosen)), chosen)
    files = file_names(name, tables)
    assert set(files.values()) == {file for file in sidecar(name)["files"] if file.endswith(".csv")}
    return {key: pd.read_csv(COMMITTED / file, dtype={"alpha": float}) for key, file in files.items()}


def of_task(tables, task):
    """What the tables would be of one task alone."""
    return {key: table[table["task"] == task] for key, table in tables.items()}


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


def times(task, *runs, **fields):
    """A table of `grokking_times`, a seed for each (t_mem, memorised, t_gen, generalised)."""
    rows = [
        {"task": task, "alpha": 2.0, "n_train": 50, "weight_decay": 0.0, "seed": seed, **fields, "t_mem": mem,
         "mem_censored": not memorised, "t_gen": gen, "gen_censored": not generalised,
         "delay": gen / mem if memorised else math.nan}
        for seed, (mem, memorised, gen, generalised) in enumerate(runs)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_a_run_that_never_memorised_decides_nothing_about_its_delay():
    kinds = [(10, True, 50, True), (10, True, 90, False), (90, False, 50, True), (90, False, 90, False)]
    found = domains.delay({"times": times("mnist", *kinds)}, "mnist")
    assert found.tolist()[:2] == [5, math.inf]
    assert found.isna().tolist() == [False, False, True, True]
    found = train_size.delay(times("mnist", *kinds))
    assert found.tolist()[:2] == [5, math.inf]
    assert found.isna().tolist() == [False, False, True, True]  # steps over steps that were not reached are not 0


def test_an_undecided_domain_leaves_the_largest_undecided():
    usual, never = [(10, True, 20, True)] * 3, (90, False, 90, False)
    tables = [times("modular", *[(10, True, 80, True)] * 3), times("mnist", *usual), times("imdb", *usual)]
    decided = {"times": pd.concat([*tables, times("qm9", *usual)])}
    assert domains.most(decided, domains.delay).tolist() == [4, 4, 4]
    undecided = {"times": pd.concat([*tables, times("qm9", *usual[:2], never)])}
    assert domains.most(undecided, domains.delay).isna().all()
    assert domains.most({"times": pd.concat(tables)}, domains.delay).empty


def test_sizes_that_are_not_two_are_not_compared():
    few, many = times("mnist", (10, True, 90, True)), times("mnist", (10, True, 30, True), n_train=100)
    compared = train_size.few_over_many({"times": pd.concat([few, many])}, "mnist", train_size.generalised)
    assert compared.tolist() == [3]
    assert train_size.few_over_many({"times": few}, "mnist", train_size.generalised).empty
    assert train_size.few_over_many({"times": few[:0]}, "mnist", train_size.generalised).empty


def test_a_step_that_the_evaluations_no_longer_hit_is_an_error_and_not_a_claim_not_run():
    tables = committed("fig_delayed_robustness")
    thinned = {"curves": tables["curves"][tables["curves"]["step"] != delayed_robustness.LATE]}
    assert verdicts("fig_delayed_robustness", tables)["rise"]["n_seeds"] == 3
    with pytest.raises(ClaimError, match=r"fig_delayed_robustness/rise .*step 9,000 was not logged"):
        verdicts("fig_delayed_robustness", thinned)


@pytest.mark.parametrize("preset", ["quick", "default", "paper"])
def test_the_steps_that_claims_read_are_logged_at_every_preset(preset):
    chosen = Options(preset=preset, tasks=("mnist", "cifar10"), seeds=1)
    read = [
        (flat(FIGURES["fig_delayed_robustness"].sweep(chosen)), [delayed_robustness.LATE]),
        (robust.partitioned(chosen), [partition.FROM]),
        (mnist.grokking(chosen), [6_000, 20_000, 60_000, 100_000]),
        (flat({"large": qm9.free(chosen, qm9.LARGE), "usual": qm9.free(chosen, qm9.USUAL)}), [1_000, 5_000]),
        (flat({"large": ts.free(chosen, ts.LARGE), "small": ts.free(chosen, ts.SMALL)}), teacher_student.DECAYING),
    ]
    for specs, steps in read:
        for spec in specs:
            assert {s for s in steps if s <= spec.steps} <= set(evaluation_steps(spec.steps, spec.evaluation_density))


@pytest.mark.parametrize(("name", "task"), SINGLE)
def test_every_figure_of_one_task_is_measured_and_drawn(name, task, store):
    figure, preset = FIGURES[name], "quick"
    for reading in ("published", "corrected"):
        chosen = Options(preset=preset, tasks=(task,), seeds=figure.seeds[preset], reading=reading, store=store)
        lines_of_partitions(flat(figure.sweep(chosen)), store)
        tables = invented_tables(figure, chosen)
        results = [claim.test(tables, name) for claim in figure.claims_for(chosen)]
        assert results
    picture = figure.draw(tables, chosen)
    tidy(picture)
    picture.canvas.draw()
    plt.close(picture)
