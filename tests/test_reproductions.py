"""Every figure at its default preset on invented curves: all panels drawn, all claims measured, none of it trained."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from omnigrok import sealed
from omnigrok.claims import known_deviations, read_sidecars
from omnigrok.figures.figure import Options, flat, grouped, write_outputs
from omnigrok.figures.style import tidy
from omnigrok.loading import run_hash
from omnigrok.probes.partition_probe import PartitionProbe
from omnigrok.registry import get_task
from omnigrok.schedule import evaluation_steps
from omnigrok.store import COLUMNS
from reproductions import all as everything
from reproductions import fig_train_size
from reproductions.experiments.robust import CIFAR_EPS, EPS
from reproductions.paper import Cited, cited

ROOT = Path(__file__).parent.parent
FIGURES = {figure.name: figure for figure in everything.figures()}
DRAWN_FAST = {"fig_degrok", "fig_adversarial_training", "fig_time_to_grok"}
ONLY_AT_THE_PAPER_PRESET = {"plateau", "final-norm", "most-reviews", "cifar-rise"}


def invented(specs):
    """Long tables as the store gives them: a U in alpha and N, generalisation late from large norms."""
    parts = []
    for spec in dict.fromkeys(specs):
        steps = np.array(evaluation_steps(spec.steps, spec.evaluation_density))
        far = abs(np.log(spec.alpha * (1.1 + 0.1 * spec.seed)))
        late = 20 * (1 + 10 * far) if spec.sphere else 2 * (1 + 10 * far) / (spec.weight_decay + 0.05)
        reached = steps / (steps + late)
        floor = 0.7 * np.exp(-spec.n_train / 15)
        series = {
            ("train", "accuracy"): 1 - np.exp(-steps / 20),
            ("test", "accuracy"): np.clip(1.02 * reached * (1 - floor), 0, 1),
            ("train", "loss"): np.exp(-np.minimum(steps, 200) / 20) + 1e-4 * (1 + far),
            ("test", "loss"): 1.01 - reached + floor + 1e-3 * far,
            ("parameters", "weight_norm"): 10 * spec.alpha * np.exp(-spec.lr * spec.weight_decay * steps),
        }
        if spec.task == "modular_toy":  # fitted from a norm on that grows with the messiness, the more the more pairs
            needed = 2.5 + 10 * spec.option("messiness") * spec.n_train / 54
            series["train", "loss"] = 0.02 * np.exp(-4 * (spec.alpha - needed)) + 0 * steps
        if any(isinstance(probe, PartitionProbe) for probe in spec.probes):
            names = ("regions", "boundary_distance", "decision_distance", "crowding")
            series |= {("probe", name): 1 + reached for name in names}
        elif spec.probes:  # falls, climbs to a peak at step 1,000, falls again; then robustness rises
            climb = np.exp(-(np.log10((steps + 1) / 1_000) ** 2))
            series |= {("probe", f"lc_{name}"): 2 + 30 * climb for name in ("train", "test", "random")}
            series |= {
                ("probe", name): 0.1 * reached for name in ("lc_train_dead", "lc_train_always_on", "zero_gradient")
            }
            late = np.clip(0.7 * steps / (steps + 20_000), 0, 1)
            series |= {
                ("probe", f"{kind}_{eps:g}"): late for kind in ("robust", "margin") for eps in (*EPS, *CIFAR_EPS)
            }
        for (split, metric), values in series.items():
            parts.append(
                pd.DataFrame({"step": steps, "split": split, "metric": metric, "value": values}).assign(
                    run=run_hash(spec), task=spec.task, alpha=spec.alpha, n_train=spec.n_train,
                    weight_decay=spec.weight_decay, seed=spec.seed,
                )
            )  # fmt: skip
    return pd.concat(parts, ignore_index=True)[COLUMNS]


def lines_of_partitions(specs, store):
    """What `fig_partition` keeps beside a run's weights."""
    for spec in specs:
        for step in spec.keep:
            name = f"{run_hash(spec)}-{step}"
            lines = torch.from_numpy(np.random.default_rng(step).uniform(-5, 5, (8, 2, 2)))
            path = store.weights_path(spec).with_name(f"{name}.partition.pt")
            sealed.save(path, (lines, lines[:2]), "partition", name)


def invented_tables(figure, chosen):
    """The tables of a figure as its invented runs would give them."""
    groups = figure.sweep(chosen)
    return figure.tables(grouped(invented(flat(groups)), groups), chosen)


def options(figure, **changes):
    return Options(tasks=tuple(figure.tasks()), seeds=figure.seeds["default"], **changes)


@pytest.mark.parametrize("reading", ["published", pytest.param("corrected", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [f if f in DRAWN_FAST else pytest.param(f, marks=pytest.mark.slow) for f in FIGURES])
def test_every_panel_is_drawn_and_every_claim_measured(name, reading, store):
    figure = FIGURES[name]
    chosen = options(figure, reading=reading, store=store)
    specs = flat(figure.sweep(chosen))
    lines_of_partitions(specs, store)
    assert all(seed in {s.seed for s in specs} for seed in range(3))
    tables = invented_tables(figure, chosen)
    assert all(len(table) for table in tables.values())
    results = {claim.id: claim.test(tables) for claim in figure.claims_for(chosen)}
    unmeasured = {name for name, result in results.items() if not result["n_seeds"]}
    assert unmeasured <= ONLY_AT_THE_PAPER_PRESET
    picture = figure.draw(tables, chosen)
    tidy(picture)
    picture.canvas.draw()
    assert all(ax.has_data() for ax in picture.axes if ax.axison)
    plt.close(picture)


@pytest.mark.parametrize("preset", ["quick", "paper"])
@pytest.mark.parametrize("name", FIGURES)
def test_every_preset_is_a_list_of_runs_that_can_be(name, preset):
    figure = FIGURES[name]
    specs = flat(figure.sweep(options(figure, preset=preset)))
    assert specs
    assert all(spec.steps <= 300 or spec.task == "teacher_student" for spec in specs) or preset == "paper"


@pytest.mark.parametrize("name", FIGURES)
def test_every_number_of_the_paper_that_a_claim_shows_is_a_stored_one(name):
    for reading in ("published", "corrected"):
        claims = FIGURES[name].claims_for(options(FIGURES[name], reading=reading))
        assert len({claim.id for claim in claims}) == len(claims)
        for claim in claims:
            assert claim.expect.paper is None or isinstance(claim.expect.paper, Cited)
            assert claim.source


def test_a_cited_value_knows_its_row():
    value = cited("fig3", "slice N=200", "test error", 8)
    assert value == 0.79
    assert value.row == "fig3/slice N=200/test error/8"
    with pytest.raises(KeyError):
        cited("fig3", "slice N=200", "test error", 8.5)


@pytest.mark.slow
def test_the_readings_that_change_a_verdict_are_recorded():
    figure = FIGURES["fig_lu"]
    chosen = options(figure)
    groups = figure.sweep(chosen)
    runs = invented(flat(groups))
    late = (runs["task"] == "mnist") & (runs["split"] == "train") & (runs["metric"] == "accuracy")
    last = late & (runs["step"] == runs["step"].max())
    runs.loc[last, "value"] = 0.5  # the best over training is fine, the last value is not
    differ = figure._readings_differ(figure.tables(grouped(runs, groups), chosen), chosen)
    assert differ["mnist-floor"] == {"published": "PASS", "corrected": "DEVIATES"}


def test_groups_keep_their_names_and_shared_runs_are_trained_once():
    first, second, third = (get_task("teacher_student").spec.replace(seed=seed) for seed in range(3))
    groups = {"a": [first, second], "b": {"c": [second, third], "d": []}}
    assert flat(groups) == [first, second, third]
    frames = grouped(invented(flat(groups)), groups)
    assert set(frames["a"]["seed"]) == {0, 1}
    assert set(frames["b"]["c"]["seed"]) == {1, 2}
    assert frames["b"]["d"].empty
    assert [*frames["b"]["d"].columns] == COLUMNS


@pytest.mark.parametrize("name", FIGURES)
def test_tables_are_there_without_a_run(name):
    """Their names and columns do not depend on what was run, so that no claim and no panel has to ask."""
    figure = FIGURES[name]
    chosen = Options(preset="quick", tasks=(figure.tasks()[0],), seeds=1)
    groups = figure.sweep(chosen)
    found = figure.tables(grouped(invented(flat(groups)), groups), chosen)
    without = figure.tables(grouped(pd.DataFrame(columns=COLUMNS), groups), chosen)
    assert {key: [*table] for key, table in without.items()} == {key: [*table] for key, table in found.items()}


def test_a_group_without_runs_leaves_its_panels_and_its_file_out(tmp_path):
    figure = FIGURES["fig_mnist"]
    chosen = options(figure, preset="quick", n_train=30)
    tables = invented_tables(figure, chosen)
    picture = figure.draw(tables, chosen)
    assert [ax.get_title() for ax in picture.axes if ax.get_title()] == [
        "MNIST, N = 30, $\\alpha$ = 8, weight decay 0.01"
    ]
    write_outputs(tmp_path, figure.name, picture, tables, {})
    assert [path.name for path in tmp_path.glob("*.csv")] == ["fig_mnist_curves.csv"]
    plt.close(picture)


def test_sizes_of_the_users_own_are_compared():
    chosen = Options(tasks=("mnist",), seeds=3, sizes=(128, 256))
    specs = flat(fig_train_size.sweep(chosen))
    assert {spec.n_train for spec in specs} == {128, 256}
    command = fig_train_size.FIGURE.command()
    [parameter] = [p for p in command.params if p.name == "n_train"]
    assert parameter.type.convert("128, 256", None, None) == (128, 256)


def test_all_runs_every_figure_and_checks_for_new_deviations(tmp_path, monkeypatch):
    ran = []

    class Stub:
        def __init__(self, name, status):
            self.name, self.status = name, status

        def specs(self, preset, store):
            return [get_task("teacher_student").spec.replace(steps=3, seed=ord(self.name[-1]))]

        def run(self, out, **_):
            ran.append(self.name)
            claims = [{"id": "c", "status": self.status}]
            (out / f"{self.name}.json").write_text(json.dumps({"figure": self.name, "claims": claims}))
            return out

    def start(*arguments):
        return CliRunner().invoke(
            everything.main,
            ["--preset", "quick", "--device", "cpu", "--out", str(tmp_path), "--results", str(tmp_path), *arguments],
            standalone_mode=False,
        )

    monkeypatch.setattr(everything, "figures", lambda: [Stub("fig_a", "PASS"), Stub("fig_b", "DEVIATES")])
    result = start()
    assert ran == ["fig_a", "fig_b"]
    assert result.return_value == 0
    assert result.output.split("all")[-1].split()[:4] == ["1", "1", "0", "0"]
    assert start("--check").return_value == 1
    known = tmp_path / "differences.md"
    known.write_text("## Known deviations\n\n- `fig_b/c`: why\n")
    monkeypatch.setattr(everything, "DIFFERENCES", known)
    assert start("--check").return_value == 0


def test_the_deviations_of_the_committed_figures_are_known_and_no_other():
    deviating = {
        f"{s['figure']}/{c['id']}" for s in read_sidecars(ROOT / "figures") for c in s["claims"]
        if c["status"] == "DEVIATES"
    }  # fmt: skip
    assert deviating == known_deviations(everything.DIFFERENCES.read_text())


def test_every_figure_has_a_script_in_the_readme():
    text = (ROOT / "README.md").read_text()
    assert not [name for name in FIGURES if f"[{name}](figures/README.md#{name})" not in text]
