"""The definitions, on synthetic curves with known answers."""

import math

import numpy as np
import pandas as pd
import pytest

from omnigrok.analysis import (
    argmin_alpha,
    basin_width,
    bootstrap_interval,
    by_size,
    critical_alpha,
    grokking_times,
    loss_shape,
    median_time,
    onset,
    reduced,
    time_law,
    value_at,
)
from omnigrok.store import COLUMNS
from omnigrok.task import Thresholds

STEPS = np.array([0, 1, 10, 100, 1_000, 10_000, 100_000, 200_000, 300_000])


def run(name, train, test, *, alpha=1.0, seed=0, metric="accuracy", norm=None, task="t"):
    rows = []
    series = [("train", metric, train), ("test", metric, test)]
    if norm is not None:
        series.append(("parameters", "weight_norm", norm))
    for split, what, values in series:
        rows += [
            (name, task, alpha, 10, 0.0, seed, step, split, what, value)
            for step, value in zip(STEPS, values, strict=False)
        ]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_onset_is_the_first_step_of_a_sustained_rise():
    values = [0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert onset(STEPS, values, 0.5, sustain=3) == onset(STEPS, values, 1.0, sustain=3)
    assert onset(STEPS, values, 0.5, sustain=3).step == 100
    assert not onset(STEPS, values, 0.5, sustain=3).censored


def test_onset_of_a_run_that_generalises_and_falls_back():
    spike = [0, 1, 1, 0, 0, 1, 1, 1, 1]
    assert onset(STEPS, spike, 0.5, sustain=3).step == 10_000
    assert onset(STEPS, spike, 0.5, sustain=1).step == 1
    fallen = [0, 1, 1, 0, 0, 0, 0, 0, 0]
    assert onset(STEPS, fallen, 0.5, sustain=3).censored


def test_onset_of_a_run_that_never_generalises_is_censored_at_its_last_step():
    found = onset(STEPS, [0.1] * 9, 0.5)
    assert found.censored
    assert found.step == 300_000
    late = [0, 0, 0, 0, 0, 0, 1, 1, 1]  # too late to be sustained for three evaluations more
    assert onset(STEPS, late, 0.5, sustain=3).censored
    assert onset(STEPS, [math.nan] * 9, 0.5).censored


def test_grokking_times_and_delay():
    curves = pd.concat(
        [
            run("a", [0, 0, 1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0.9, 0.9, 0.9, 0.9]),
            run("b", [0, 0, 1, 1, 1, 1, 1, 1, 1], [0.1] * 9, seed=1),
        ]
    )
    times = grokking_times(curves, Thresholds("accuracy", train=0.99, test=0.8)).set_index("run")
    assert times.loc["a", ["t_mem", "t_gen", "delay"]].tolist() == [10, 10_000, 1_000]
    assert not times.loc["a", "gen_censored"]
    assert times.loc["b", "gen_censored"]
    assert times.loc["b", "delay"] == 30_000
    assert len(times) == 2  # censored, not dropped


def test_median_time_counts_censored_runs():
    assert median_time([10, 20, 30], [False, False, False]) == 20
    assert median_time([10, 20, 30], [False, False, True]) == 20
    assert median_time([10, 30, 30], [False, True, True]) == math.inf
    assert median_time([30, 30], [True, True]) == math.inf


def test_argmin_finds_the_known_minimum_of_a_parabola_in_log_alpha():
    alphas = np.logspace(-1, 1, 11)
    for minimum in (0.3, 0.8, 1.0, 4.2):
        losses = (np.log(alphas) - np.log(minimum)) ** 2
        assert argmin_alpha(alphas, losses) == pytest.approx(minimum, rel=1e-9)
        assert argmin_alpha(alphas[::-1], losses[::-1]) == pytest.approx(minimum, rel=1e-9)
    assert argmin_alpha(alphas, alphas) == pytest.approx(0.1)
    assert argmin_alpha(alphas, -alphas) == pytest.approx(10)


def landscape(minimum=0.8, seeds=3):
    runs = []
    for seed in range(seeds):
        for i, alpha in enumerate(np.logspace(-1, 1, 11)):
            bottom = math.exp((math.log(alpha) - math.log(minimum * (1 + 0.01 * seed))) ** 2)
            test = [bottom * 2, bottom * 0.5, bottom]
            train = [1.0, 1.0, 1.0 if alpha < 0.5 else 1e-6]
            runs.append(run(f"{seed}-{i}", train, test, alpha=alpha, seed=seed, metric="loss", norm=[8 * alpha] * 3))
    return reduced(pd.concat(runs))


def test_reduced_keeps_last_and_best_and_the_norm():
    table = landscape()
    assert list(table.columns) == [
        "task", "alpha", "weight_norm", "n_train", "weight_decay", "seed", "split", "metric", "statistic", "value",
    ]  # fmt: skip
    one = table.query("split == 'test' and seed == 0 and alpha == 1")
    last, best = (one.set_index("statistic").loc[s, "value"] for s in ("last", "best"))
    assert last == pytest.approx(2 * best)
    assert (table["weight_norm"] / table["alpha"]).to_numpy() == pytest.approx(8)
    assert len(table) == 3 * 11 * 2 * 2


def test_reduced_turns_accuracy_into_error_with_the_best_at_its_lowest():
    table = reduced(run("a", [0.2, 0.9, 0.7], [0.1, 0.4, 0.3], norm=[1, 1, 1]))
    values = table.set_index(["split", "metric", "statistic"])["value"]
    assert values["train", "error", "best"] == pytest.approx(0.1)
    assert values["train", "error", "last"] == pytest.approx(0.3)
    assert values["test", "accuracy", "best"] == pytest.approx(0.4)


def test_critical_alpha_of_a_known_u():
    found = critical_alpha(landscape(0.8), "t")
    assert found.tolist() == pytest.approx([0.8, 0.808, 0.816], rel=1e-6)


def test_loss_shape():
    alphas = np.logspace(-1, 1, 5)
    assert loss_shape(alphas, [1, 0.1, 1e-4, 1e-4, 1e-4]) == "L"
    assert loss_shape(alphas, [1, 0.1, 1e-4, 0.1, 1]) == "U"
    assert loss_shape(alphas, [1, 0.9, 0.8, 0.9, 1]) == "flat"
    assert loss_shape(alphas, [1e-4, 1e-4, 1e-4, 0.1, 1]) == "J"
    assert loss_shape(alphas[::-1], [1, 1e-4, 1e-4, 0.1, 0.1]) == "U"


def test_bootstrap_interval_holds_the_median_and_is_reproducible():
    values = np.random.default_rng(1).normal(5, 1, 40)
    low, high = bootstrap_interval(values)
    assert low < np.median(values) < high
    assert high - low < 1.2
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)
    assert bootstrap_interval([1.0, 2.0, math.inf])[1] == math.inf
    covered = 0
    for seed in range(100):
        low, high = bootstrap_interval(np.random.default_rng(seed).normal(size=15), resamples=400)
        covered += low <= 0 <= high
    assert 85 <= covered <= 100


def test_value_at_a_logged_step():
    curves = pd.concat([run("a", [0, 0.5], [0, 0.25]), run("b", [0, 0.75], [0, 0.3], seed=1)])
    assert value_at(curves, "train", "accuracy", 1).to_dict() == {0: 0.5, 1: 0.75}
    assert value_at(curves, "train", "accuracy", 77).empty


def test_the_width_of_a_basin_is_measured_between_grid_points():
    alphas = [10.0, 0.01, 0.1, 1.0]  # in any order
    values = [1.0, 1.0, 0.0, 0.0]
    assert basin_width(alphas, values, 0.5) == pytest.approx(2.0, abs=0.01)  # half a decade, one, half a decade
    assert basin_width(alphas, [1.0] * 4, 0.5) == 0
    assert basin_width(alphas, [0.0] * 4, 0.5) == pytest.approx(3.0)


def test_a_map_has_sizes_down_alphas_across_and_only_alphas_that_every_size_has():
    rows = [
        (n, alpha, seed, "test", "loss", "last", 10 * n + alpha + seed)
        for n in (5, 7)
        for alpha in (1.0, 2.0, *((8.0,) if n == 7 else ()))
        for seed in range(3)
    ]
    table = pd.DataFrame(rows, columns=["n_train", "alpha", "seed", "split", "metric", "statistic", "value"])
    found = by_size(table, "test", "loss")
    assert found.index.tolist() == [5, 7]
    assert found.columns.tolist() == [1.0, 2.0]
    assert found.loc[7, 2.0] == 70 + 2 + 1  # the median seed


def test_the_time_law_is_recovered_and_ignores_what_is_not_reached():
    wd = np.array([0.02, 0.05, 0.1, 0.5, 1.0])
    lr, ratio, offset = 3e-4, 0.5, 800.0
    times = offset + math.log(1 / ratio) / (lr * wd)
    times[0] = np.inf
    law = time_law(wd, times)
    assert law.offset == pytest.approx(offset)
    assert law.critical_ratio(lr) == pytest.approx(ratio)
    assert law([0.02])[0] == pytest.approx(offset + math.log(2) / (lr * 0.02))
    assert math.isnan(time_law([0.1, 0.2], [100.0, np.inf]).slope)
