"""Every figure that is not tied to one dataset draws a task of one's own, where it is named and only there."""

import json

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import test_contract
import test_own_tasks
from test_contract import Mine
from test_reproductions import invented, invented_tables

from omnigrok import get_task
from omnigrok.analysis import reduced
from omnigrok.claims import Claim
from omnigrok.errors import OmnigrokError
from omnigrok.figures.figure import Options, flat, write_outputs
from omnigrok.figures.style import tidy
from omnigrok.task import Thresholds
from reproductions import fig_domains, fig_lu, fig_time_to_grok
from reproductions.all import figures
from reproductions.domain_panels import COLOURS, colours
from reproductions.experiments import lu, weight_decay
from reproductions.experiments.spheres import shortened

register, folder = test_contract.register, test_own_tasks.folder  # fixtures
DRAW_ANY = ("fig_lu", "fig_train_size", "fig_domains", "fig_time_to_grok")


@pytest.fixture
def installed(register):
    """A task of another package, installed beside the suite's."""
    register(Mine)
    return "mine"


@pytest.mark.parametrize("figure", figures(), ids=lambda figure: figure.name)
def test_an_installed_task_joins_a_figure_only_where_it_is_named(installed, figure):
    assert installed not in figure.tasks()
    specs = flat(figure.sweep(Options(preset="quick", tasks=tuple(figure.tasks()), seeds=1)))
    assert installed not in {spec.task for spec in specs}
    options = Options(preset="quick", seeds=1)
    if figure.name in DRAW_ANY:
        named = figure._with_available(options, [installed])
        assert {spec.task for spec in flat(figure.sweep(named))} == {installed}
    else:
        with pytest.raises(OmnigrokError, match=f"{figure.name} does not draw mine; it draws: "):
            figure._with_available(options, [installed])


@pytest.mark.parametrize("figure", [f for f in figures() if f.name in DRAW_ANY], ids=lambda figure: figure.name)
@pytest.mark.parametrize(("preset", "others"), [("quick", ()), ("default", ()), ("quick", ("teacher_student",))])
def test_every_panel_of_a_task_of_ones_own_is_drawn_and_no_claim_is_about_it(installed, figure, preset, others):
    options = Options(preset=preset, tasks=(*others, installed), seeds=3)
    tables = invented_tables(figure, options)
    picture = figure.draw(tables, options)
    picture.canvas.draw()
    assert all(ax.has_data() for ax in picture.axes if ax.axison)
    text = [item.get_text() for item in picture.findobj(plt.Text)]
    assert any("Mine" in each for each in text)
    plt.close(picture)
    if not others:
        claims: list[Claim] = list(figure.claims_for(options))
        assert {claim.test(tables)["status"] for claim in claims} == {"NOT RUN"}


@pytest.mark.parametrize("figure", [fig_domains.FIGURE, fig_time_to_grok.FIGURE], ids=lambda figure: figure.name)
def test_a_task_from_a_file_is_trained_and_drawn(folder, figure):
    place = {"out": folder / "out", "results": folder / "results"}
    figure.run(preset="quick", tasks=["my_file:Digits"], seeds=1, workers=1, **place)
    sidecar = json.loads((folder / "out" / f"{figure.name}.json").read_text())
    assert {claim["status"] for claim in sidecar["claims"]} == {"NOT RUN"}
    assert sidecar["command"].endswith(f"{figure.name} --preset quick --tasks my_file:Digits --seeds 1")
    drawn = {name: pd.read_csv(folder / "out" / name) for name in sidecar["files"] if name.endswith(".csv")}
    assert {task for table in drawn.values() for task in table["task"]} == {"digits"}
    expected = {"fig_domains": {"fig_domains.csv", "fig_domains_times.csv"}}  # no representation to choose
    assert set(drawn) == expected.get(figure.name, {"fig_time_to_grok.csv"})
    plt.close("all")


def test_tasks_of_ones_own_have_colours_of_their_own():
    found = colours(["mnist", "mine", "imdb", "yours", "theirs"])
    assert len(set(found.values())) == len(found) == len(COLOURS) + 3
    assert found["mnist"] == COLOURS["mnist"]
    assert set(colours(list("abcdefg"))) == {*COLOURS, *"abcdefg"}


def test_weight_decays_of_a_task_lie_around_its_own(register):
    spec = Mine.spec.replace(weight_decay=0.2, steps=100, alpha=3.0, sphere=True, keep=(0, 100))
    register(type("Mine", (Mine,), {"spec": spec}))
    runs = weight_decay.runs(Options(preset="default", seeds=2), "mine")
    assert [(s.weight_decay, s.steps) for s in runs if s.seed == 0] == [(0, 400), (0.05, 400), (0.2, 100), (0.8, 100)]
    assert {(s.alpha, s.sphere, s.lr) for s in runs} == {(3.0, None, spec.lr)}  # free, from where it starts
    register(type("Mine", (Mine,), {"spec": Mine.spec}))
    runs = weight_decay.runs(Options(preset="default", seeds=1, n_train=20), "mine")
    assert [s.weight_decay for s in runs] == [0.0, 0.01, 0.1, 1.0]
    assert {(s.steps, s.n_train) for s in runs} == {(Mine.spec.steps, 20)}


def test_the_first_steps_of_a_run_keep_the_weights_of_no_later_one():
    spec = get_task("teacher_student").spec.replace(keep=(0, 150, 5_000))
    assert shortened(spec, "quick").keep == (0, 150)
    assert shortened(spec, "default") == spec


MEASURED = {"accuracy": True, "loss": True, "hits": False}
"""What a task has; whether it is by its accuracy that it generalises does not matter."""


@pytest.mark.parametrize("metric", MEASURED)
def test_fig_lu_shows_the_error_of_a_task_that_has_an_accuracy(register, metric):
    register(type("Mine", (Mine,), {"thresholds": Thresholds(metric, 0.1, 0.1)}))
    options = Options(preset="quick", tasks=("mine",), seeds=1)
    curves = invented(lu.landscapes(options))
    curves["metric"] = curves["metric"].replace("accuracy", "accuracy" if MEASURED[metric] else "hits")
    picture = fig_lu.draw({"landscapes": reduced(curves)}, options)
    shown = [ax.get_ylabel() for ax in picture.axes if ax.axison]
    assert ("reduced error" in shown) == MEASURED[metric]
    assert len(shown) == 1 + MEASURED[metric]
    plt.close(picture)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("figure", [f for f in figures() if f.name in DRAW_ANY], ids=lambda figure: figure.name)
@pytest.mark.parametrize(("value", "alpha"), [(0.0, 1.0), (float("nan"), None), (float("nan"), 10.0)])
def test_a_loss_of_zero_and_runs_that_diverged_are_drawn(installed, figure, value, alpha, tmp_path):
    options = Options(preset="quick", tasks=(installed,), seeds=2)
    tables = invented_tables(figure, options)
    [landscapes] = [tables[name] for name in tables if name.startswith("landscape")]
    landscapes.loc[(landscapes["alpha"] == (alpha or landscapes["alpha"])), "value"] = value
    picture = figure.draw(tables, options)
    tidy(picture)
    write_outputs(tmp_path, figure.name, picture, tables, {})
    plt.close(picture)


def test_a_task_whose_norms_end_before_the_matched_one_keeps_its_line(installed):
    options = Options(preset="quick", tasks=("teacher_student", installed), seeds=2)
    tables = invented_tables(fig_domains.FIGURE, options)
    landscapes = tables["landscapes"]
    near = landscapes[(landscapes["task"] != installed) | (landscapes["alpha"] < 2)]
    picture = fig_domains.draw({**tables, "landscapes": near}, options)
    gaps = picture.axes[1]
    assert [label.get_text() for label in gaps.get_yticklabels()] == ["Teacher-student", "Mine\n(no norm of 3 $w_c$)"]
    assert gaps.get_ylim()[1] > 1
    plt.close(picture)
