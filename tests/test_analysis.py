"""The definitions, on synthetic curves with known answers."""

import dataclasses
import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from omnigrok.analysis import (
    Onset,
    TimeLaw,
    argmin_alpha,
    basin_width,
    bootstrap_interval,
    by_size,
    critical_alpha,
    curve,
    first_reached,
    grokking_times,
    loss_shape,
    median_over_seeds,
    median_time,
    medians_by,
    one_value_each,
    onset,
    pick,
    reduced,
    row,
    stack,
    surface,
    time_law,
    value_at,
)
from omnigrok.errors import OmnigrokError
from omnigrok.figures.panels import grokking_panel, lu_panel, times_panel
from omnigrok.spec import RunSpec
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


@pytest.mark.parametrize("result", [Onset(3, censored=False), TimeLaw(1.0, 2.0)])
def test_results_do_not_change(result):
    for field in dataclasses.fields(result):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(result, field.name, 0)


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


def landscape(minimum=0.8, seeds=3, **fields):
    runs = []
    for seed in range(seeds):
        for i, alpha in enumerate(np.logspace(-1, 1, 11)):
            bottom = math.exp((math.log(alpha) - math.log(minimum * (1 + 0.01 * seed))) ** 2)
            test = [bottom * 2, bottom * 0.5, bottom]
            train = [1.0, 1.0, 1.0 if alpha < 0.5 else 1e-6]
            runs.append(run(f"{seed}-{i}", train, test, alpha=alpha, seed=seed, metric="loss", norm=[8 * alpha] * 3))
    return reduced(pd.concat(runs).assign(**fields))


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


def two_sizes():
    return pd.concat([landscape(0.8, n_train=50), landscape(3.0, n_train=400)], ignore_index=True)


def spec_of(n_train):
    return RunSpec(task="t", n_train=n_train, steps=1, lr=1e-3)


AVERAGES = [
    lambda t: pick(t, "t", "test", "loss"),
    lambda t: critical_alpha(t, "t"),
    lambda t: lu_panel(plt.subplots()[1], t, spec_of(50), "loss", {}),
    lambda t: surface(t.query("split == 'test' and statistic == 'last'"), "alpha", "seed"),
]


@pytest.mark.parametrize("average", AVERAGES)
def test_an_axis_that_was_not_named_is_refused_and_named(average):
    with pytest.raises(OmnigrokError, match=r"^n_train varies \(50, 400\).*table\[table\['n_train'\] == 50\]$"):
        average(two_sizes())
    decays = pd.concat([landscape(n_train=50), landscape(n_train=50, weight_decay=0.1)])
    with pytest.raises(OmnigrokError, match=r"^weight_decay varies \(0.0, 0.1\)"):
        average(decays)
    with pytest.raises(OmnigrokError, match=r"^messiness varies \(nan, 1.0\)"):
        average(pd.concat([landscape(n_train=50), landscape(n_train=50).assign(messiness=1.0)]))
    twice = pd.concat([landscape(n_train=50), landscape(n_train=50)])  # another learning rate: no column says so
    with pytest.raises(OmnigrokError, match=r"^2 rows have alpha 0.1, seed 0: .*lr, options"):
        average(twice)
    plt.close("all")


def test_each_size_for_itself_has_its_critical_norm():
    table = two_sizes()
    assert critical_alpha(table[table["n_train"] == 50], "t")[0] == pytest.approx(0.8)
    assert critical_alpha(table[table["n_train"] == 400], "t")[0] == pytest.approx(3.0)


def test_many_values_are_not_all_listed():
    table = pd.DataFrame({"x": 0, "y": range(9), "value": 1.0})
    with pytest.raises(OmnigrokError, match=r"^y varies \(0, 1, 2, 3, ...\)"):
        one_value_each(table, "x")
    with pytest.raises(OmnigrokError, match=r"^y varies \(0, 1, 2, 3\)"):
        one_value_each(table[:4], "x")
    assert one_value_each(table, "x", "y") is table
    with pytest.raises(OmnigrokError, match=r"^3 rows have x 0"):
        one_value_each(pd.DataFrame({"x": [0, 1, 0, 0], "value": [1.0] * 4}), "x")


def test_a_map_refuses_two_tasks_and_a_run_twice():
    table = two_sizes()
    assert by_size(table, "test", "loss").index.tolist() == [50, 400]
    with pytest.raises(OmnigrokError, match=r"^task varies"):
        by_size(pd.concat([table, table.assign(task="u")]), "test", "loss")
    with pytest.raises(OmnigrokError, match=r"^2 rows have n_train 50, alpha 0.1, seed 0"):
        by_size(pd.concat([table, table]), "test", "loss")
    values = pd.DataFrame({"a": 1, "b": 2, "seed": [0, 1, 2], "value": [5.0, 7.0, math.nan]})
    assert median_over_seeds(values, "a", "b").loc[1, 2] == 6


def test_what_a_table_does_not_have_is_named_and_a_task_that_was_not_run_is_empty():
    table = landscape()
    with pytest.raises(OmnigrokError, match=r"^there is no metric 'eror' here; there are: loss$"):
        pick(table, "t", "test", "eror")
    with pytest.raises(OmnigrokError, match=r"^there is no statistic 'first' here; there are: best, last$"):
        by_size(table, "test", "loss", "first")
    assert pick(table, "other", "test", "loss").empty
    assert critical_alpha(table, "other").empty
    assert critical_alpha(pd.DataFrame(columns=table.columns), "t").empty
    with pytest.raises(OmnigrokError, match="no runs of t with 7 training examples"):
        lu_panel(plt.subplots()[1], table, spec_of(7), "loss", {})
    plt.close("all")
    found = pick(table, "t", "test", "loss")
    assert row(found, 0.1).tolist() == found.iloc[0].tolist()
    assert row(found, 0.11).empty


def curves_of(*runs):
    return pd.concat([run(name, [0, 1, 1], [0, 0.25, 0.5], seed=seed, norm=[1, 1, 1]) for name, seed in runs])


@pytest.mark.parametrize(
    "read",
    [
        lambda t: curve(t, "train", "accuracy"),
        lambda t: value_at(t, "train", "accuracy", 10),
        lambda t: first_reached(t, "train", "accuracy", 0.5),
        lambda t: grokking_panel(plt.subplots()[1], t, "accuracy", {}, "best"),
    ],
)
def test_curves_of_two_runs_of_a_seed_are_not_mixed(read):
    read(curves_of(("a", 0), ("b", 1)))
    with pytest.raises(OmnigrokError, match=r"^2 rows have step [01], seed 0: "):
        read(curves_of(("a", 0), ("b", 0)))
    with pytest.raises(OmnigrokError, match=r"^alpha varies \(1.0, 2.0\)"):
        read(pd.concat([curves_of(("a", 0)), curves_of(("b", 1)).assign(alpha=2.0)]))
    plt.close("all")


def test_two_runs_under_one_name_have_no_times_and_no_landscape():
    mixed = pd.concat([curves_of(("", 0)), curves_of(("", 0))])
    with pytest.raises(OmnigrokError, match=r"^2 rows have run "):
        grokking_times(mixed, Thresholds("accuracy", 0.9, 0.9))
    with pytest.raises(OmnigrokError, match=r"^2 rows have run "):
        reduced(mixed)


def test_a_value_between_logged_steps_is_refused_and_one_after_a_run_is_none():
    curves = pd.concat([run("a", [0, 0.5, 0.7], [0, 0, 0]), run("b", [0, 0.75], [0, 0], seed=1)])
    assert value_at(curves, "train", "accuracy", 1).to_dict() == {0: 0.5, 1: 0.75}
    at_ten = value_at(curves, "train", "accuracy", 10)
    assert at_ten[0] == 0.7
    assert math.isnan(at_ten[1])  # the run is shorter
    assert value_at(curves, "train", "accuracy", 11).empty
    with pytest.raises(OmnigrokError, match=r"^step 5 was not logged; the nearest are 1 and 10$"):
        value_at(curves, "train", "accuracy", 5)
    with pytest.raises(OmnigrokError, match="there is no metric 'loss' here; there are: accuracy"):
        value_at(curves, "train", "loss", 1)
    assert value_at(curves[:0], "train", "loss", 1).empty
    assert first_reached(curves, "train", "accuracy", 0.7).to_dict() == {0: 10, 1: 1}
    assert first_reached(curves, "train", "accuracy", 0.72).to_dict() == {0: math.inf, 1: 1}
    assert first_reached(curves[::-1], "train", "accuracy", 0.5).to_dict() == {0: 1, 1: 1}  # rows in any order
    assert first_reached(curves[:0], "train", "accuracy", 0.7).empty


def test_the_delay_of_a_run_that_never_memorised_is_not_a_number():
    never, late, at_once = [0.1] * 9, [0, 0, 0, 0, 1, 1, 1, 1, 1], [1] * 9
    curves = pd.concat(
        [
            run("neither", never, never),
            run("generalised alone", never, late),
            run("memorised alone", late, never),
            run("both at the start", at_once, at_once),
            run("memorised at the start", at_once, late),
        ]
    )
    times = grokking_times(curves, Thresholds("accuracy", 0.9, 0.9)).set_index("run")
    assert math.isnan(times.loc["neither", "delay"])
    assert math.isnan(times.loc["generalised alone", "delay"])
    assert times.loc["generalised alone", ["t_mem", "mem_censored", "t_gen", "gen_censored"]].tolist() == [
        300_000, True, 1_000, False,
    ]  # fmt: skip
    assert times.loc["memorised alone", "delay"] == 300
    assert times.loc["memorised alone", "gen_censored"]
    assert times.loc["both at the start", "delay"] == 1
    assert times.loc["memorised at the start", "delay"] == 1_000  # step 0 counts as step 1


def test_times_of_a_metric_that_was_not_logged():
    with pytest.raises(OmnigrokError, match="no metric 'loss' here; there are: accuracy"):
        grokking_times(run("a", [0, 1], [0, 1]), Thresholds("loss", 0.9, 0.9))
    with pytest.raises(OmnigrokError, match="no split 'test' here; there are: train"):
        grokking_times(run("a", [0, 1], []), Thresholds("accuracy", 0.9, 0.9))
    none = grokking_times(run("a", [], []), Thresholds("accuracy", 0.9, 0.9))
    assert len(none) == 0
    assert "delay" in none


def test_an_onset_needs_the_evaluations_of_one_run():
    assert onset([0, 1, 2], [1, 1, 1], 0.5, sustain=3).censored  # too few to be sustained
    assert onset([0, 1, 2, 3], [1, 1, 1, 1], 0.5, sustain=3).step == 0
    assert onset([0, 1, 2, 3, 4], [1, 1, 1, math.nan, 1], 0.5).censored
    assert onset([0, 1, 2, 3], [1, 1, 1, 1], 0.5) == onset([0, 1, 2, 3], [1, 1, 1, 1], 0.5, sustain=3)
    for steps, values in (([], []), ([0, 1, 1], [0, 1, 1]), ([2, 1], [0, 1]), ([0, 1], [0, 1, 1])):
        with pytest.raises(OmnigrokError, match="rising steps with a value each"):
            onset(steps, values, 0.5)


def test_medians_over_seeds_refuse_another_axis():
    table = grokking_times(curves_of(("a", 0), ("b", 1)), Thresholds("accuracy", 0.9, 0.9))
    table["t_mem"], table["mem_censored"] = [10, 20], False
    assert medians_by(table, "alpha", "mem").to_dict() == {1.0: 10}
    assert medians_by(table, "seed", "mem").to_dict() == {0: 10, 1: 20}
    sizes = pd.concat([table, table.assign(n_train=99)])
    for median in (
        lambda: medians_by(sizes, "alpha", "mem"),
        lambda: medians_by(sizes, "seed", "mem"),
        lambda: times_panel(plt.subplots()[1], sizes, "alpha"),
    ):
        with pytest.raises(OmnigrokError, match=r"^n_train varies \(10, 99\)"):
            median()
    with pytest.raises(OmnigrokError, match=r"^2 rows have alpha 1.0, seed 0"):
        medians_by(pd.concat([table, table]), "alpha", "mem")
    assert medians_by(table[:0], "alpha", "mem").empty
    plt.close("all")


def test_nothing_and_not_a_number_have_documented_values_or_one_line():
    for times in ([], [1.0, math.nan]):
        with pytest.raises(OmnigrokError, match="at least one time"):
            median_time(times, [False] * len(times))
    for values in ([], [1.0, math.nan]):
        with pytest.raises(OmnigrokError, match="at least one value"):
            bootstrap_interval(values)
    assert math.isnan(argmin_alpha([1, 2, 3], [math.nan] * 3))
    assert math.isnan(argmin_alpha([], []))
    assert argmin_alpha([1, 2, 4], [math.nan, 5, 1]) == pytest.approx(4)
    assert argmin_alpha([1, 2, 4], [math.nan, 1, 5]) == pytest.approx(2)  # no parabola through what is not a number
    assert loss_shape([1, 2, 4], [1, 1, math.nan]) == "J"
    assert loss_shape([1, 2, 4], [1, 1, 10]) == "J"
    assert loss_shape([1, 2, 4], [1, 1, 9.9]) == "flat"
    assert loss_shape([1, 2, 4], [10, 1, 9.9]) == "L"
    with pytest.raises(OmnigrokError, match="none of its values is finite"):
        loss_shape([1, 2], [math.nan, math.inf])
    assert basin_width([1, 10, 100], [0, math.nan, 0], 0.5) == pytest.approx(0, abs=0.01)
    with pytest.raises(OmnigrokError, match="weight decays above 0"):
        time_law([0.0, 0.1, 0.2], [3.0, 2.0, 1.0])
    assert math.isnan(time_law([0.1, 0.1], [3.0, 2.0]).slope)  # one weight decay has no slope


def test_a_seed_whose_losses_are_not_numbers_has_no_critical_norm():
    table = landscape()
    table.loc[table["seed"] == 1, "value"] = math.nan
    found = critical_alpha(table, "t")
    assert found.index.tolist() == [0, 1, 2]
    assert found.isna().tolist() == [False, True, False]


def test_a_minimum_that_rounding_hides_lies_between_its_neighbours():
    for bottom in (1.0, 3.0, 0.7, 1e3, 1e-8, 123.456):
        above = np.nextafter(bottom, np.inf)
        assert argmin_alpha([0.1, 1, 10], [above, bottom, bottom]) == pytest.approx(math.sqrt(10))
        assert argmin_alpha([0.1, 1, 10], [above, bottom, above]) == pytest.approx(1)
    assert argmin_alpha([1, 2, 8], [4, 1, 2]) == pytest.approx(math.exp(math.log(2) * (0.5 + 3 / 3.5 * 1.5)))


def test_tables_without_rows_do_not_change_the_types_of_the_others():
    first, second = pd.DataFrame({"n": [1], "censored": [True]}), pd.DataFrame({"n": [2], "censored": [False]})
    without = pd.DataFrame(columns=["n", "censored"])
    found = stack([without, first, without, second])
    assert found.to_dict("list") == {"n": [1, 2], "censored": [True, False]}
    assert [*found.dtypes] == [int, bool]
    assert [*found.index] == [0, 1]
    assert [*stack([without, without]).columns] == ["n", "censored"]
