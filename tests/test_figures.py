"""Figures: outputs, sidecar, and what they do without data. The committed ones are current and whole."""

import dataclasses
import hashlib
import json
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import yaml

from omnigrok import DataUnavailableError
from omnigrok.analysis import CURVE_FIELDS, reduced
from omnigrok.claims import (
    TABLE_END,
    TABLE_START,
    Claim,
    ClaimError,
    at_most,
    figures_table,
    markdown_table,
    read_sidecars,
)
from omnigrok.figures.figure import Options
from omnigrok.registry import get_task
from omnigrok.spec import TRAINER_VERSION
from omnigrok.store import COLUMNS
from reproductions import fig_delayed_robustness, fig_lu, fig_mnist
from reproductions.experiments import lu
from reproductions.paper import all_paper_values

ROOT = Path(__file__).parent.parent
KEYS = {
    "figure", "paper", "preset", "command", "claims", "runs", "seeds", "wall_seconds", "training_seconds", "data",
    "provenance", "files", "reading", "readings_differ", "trainer",
}  # fmt: skip
CLAIM_KEYS = {"id", "statement", "source", "expected", "measured", "interval", "n_seeds", "undecided_seeds", "status"}


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def assert_whole(sidecar, folder):
    assert {"trainer", *sidecar} == KEYS  # what was drawn with the first version of the trainer does not name it
    for claim in sidecar["claims"]:
        assert set(claim) == CLAIM_KEYS
        assert claim["status"] in {"PASS", "DEVIATES", "INCONCLUSIVE", "NOT RUN"}
    assert {Path(name).suffix for name in sidecar["files"]} == {".png", ".pdf", ".csv"}
    for name, checksum in sidecar["files"].items():
        assert sha256(folder / name) == checksum
    assert {"git", "dirty", "versions", "device", "dtype"} <= set(sidecar["provenance"])


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """Run fig_lu at the quick preset on two alphas and few steps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lu, "GRID", {"quick": 3})
    for name in ("teacher_student", "mnist"):
        task = get_task(name)
        base = task.landscape("quick").replace(steps=40)
        monkeypatch.setattr(task, "landscape", lambda preset, base=base: base)

    def run(**options):
        fig_lu.FIGURE.run(preset="quick", **options)
        folder = tmp_path / "figures" / "quick"
        return json.loads((folder / "fig_lu.json").read_text()), pd.read_csv(folder / "fig_lu.csv"), folder

    yield run
    plt.close("all")


def test_fig_lu_writes_all_its_outputs(quick, capsys):
    sidecar, table, folder = quick(tasks=("teacher_student",), seeds=3)
    assert_whole(sidecar, folder)
    assert sidecar["seeds"] == 3
    assert sidecar["trainer"] == TRAINER_VERSION
    assert len(sidecar["runs"]) == 3 * 3
    assert sorted(table["alpha"].unique()) == [0.1, 1.0, 10.0]
    assert set(table["metric"]) == {"loss", "accuracy", "error"}
    statuses = {claim["id"]: claim["status"] for claim in sidecar["claims"]}
    assert statuses["mnist-minimum"] == "NOT RUN"
    assert statuses["ts-floor"] == "DEVIATES"  # forty steps are not enough, and it says so
    assert "DEVIATES     Teacher-student: highest train loss" in capsys.readouterr().out
    first = {name: sha256(folder / name) for name in sidecar["files"]}
    again, _, _ = quick(tasks=("teacher_student",), seeds=3)
    assert again["files"] == first  # the same runs draw the same bytes
    assert sidecar["data"]["teacher_student"]["n"] == [100]


@pytest.mark.slow
def test_another_training_set_size_is_not_held_against_the_papers_numbers(quick):
    sidecar, table, _ = quick(tasks=("teacher_student",), seeds=3, n_train=30)
    assert table["n_train"].unique().tolist() == [30]
    assert {claim["status"] for claim in sidecar["claims"]} == {"NOT RUN"}


def test_a_claim_that_cannot_be_measured_ends_the_figure_and_is_not_asked_at_another_size(quick, monkeypatch):
    asked = []

    def broken(tables):
        asked.append(sorted(tables))
        return tables["no such table"]

    claim = Claim("broken", "It holds", "a source", at_most(1), broken)
    monkeypatch.setattr(fig_lu, "FIGURE", dataclasses.replace(fig_lu.FIGURE, claims=[claim]))
    sidecar, _, _ = quick(tasks=("teacher_student",), seeds=1, n_train=30)
    assert [found["status"] for found in sidecar["claims"]] == ["NOT RUN"]
    assert (asked, sidecar["readings_differ"]) == ([], {})
    with pytest.raises(ClaimError, match=r"^fig_lu/broken cannot be measured: KeyError: 'no such table'$"):
        quick(tasks=("teacher_student",), seeds=1)


@pytest.mark.usefixtures("without_data")
@pytest.mark.slow
def test_without_data_the_panels_that_need_none_are_drawn(quick, capsys):
    sidecar, table, _ = quick(seeds=3)
    assert set(table["task"]) == {"teacher_student", "modular"}
    assert {c["status"] for c in sidecar["claims"] if c["id"].startswith("mnist")} == {"NOT RUN"}
    out = capsys.readouterr().out
    assert "NOT RUN      mnist: MNIST is not available" in out
    assert "omnigrok data fetch mnist --from FOLDER" in out


@pytest.mark.usefixtures("without_data")
def test_a_figure_none_of_whose_tasks_has_data_says_why(tmp_path):
    figure = fig_delayed_robustness.FIGURE
    with pytest.raises(DataUnavailableError, match=r"mnist: MNIST is not available.*; cifar10: CIFAR-10 is not"):
        figure.run(preset="quick", out=tmp_path, results=tmp_path / "results")
    with pytest.raises(DataUnavailableError, match="install the project"):
        dataclasses.replace(figure, tasks=list).run(preset="quick", out=tmp_path, results=tmp_path / "results")


@pytest.mark.slow
def test_the_panels_are_log_log_with_both_axes_and_the_critical_norm(quick, mnist_data):
    _, table, _ = quick(seeds=1)
    figure = fig_lu.draw({"landscapes": table}, Options(preset="quick", tasks=("teacher_student", "mnist"), seeds=1))
    losses, errors = figure.axes[:2], figure.axes[2]
    for ax in losses:
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
        assert ax.get_xlabel() == "relative weight norm $\\alpha$"
        assert "critical norm $w_c$" in [line.get_label() for line in ax.get_lines()]
    assert errors.get_ylabel() == "reduced error"
    assert "paper" in [line.get_label() for line in losses[0].get_lines()]


def test_fig_mnist_measures_onset_and_values():
    steps = [0, 100, 2_000, 3_000, 6_000, 20_000, 60_000]
    rows = []
    for seed in range(3):
        for split, metric, values in (
            ("train", "accuracy", [0.1, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
            ("test", "accuracy", [0.1, 0.1, 0.2, 0.2, 0.22, 0.5, 0.86]),
            ("parameters", "weight_norm", [93, 93, 92, 90, 88, 74, 56]),
        ):
            rows += [("mnist", 8.0, 1000, 0.01, seed, s, split, metric, v) for s, v in zip(steps, values, strict=True)]
    no_maps = reduced(pd.DataFrame(columns=COLUMNS))
    tables = {"maps": no_maps, "curves": pd.DataFrame(rows, columns=CURVE_FIELDS)}
    results = {claim.id: claim.test(tables) for claim in fig_mnist.claims(Options())}
    assert results["memorises"]["measured"] == 2_000
    assert [results[name]["status"] for name in ("memorises", "chance", "generalises", "norm")] == ["PASS"] * 4
    assert results["plateau"]["status"] == "NOT RUN"


def test_paper_values_are_unique_and_sourced():
    values = all_paper_values()
    assert not values.duplicated(["figure", "panel", "series", "x"]).any()
    assert values["source"].notna().all()
    assert values["uncertainty"].notna().all()


@pytest.mark.parametrize("path", sorted((ROOT / "figures").glob("*.json")), ids=lambda p: p.stem)
def test_committed_figures_are_whole_and_from_the_default_preset(path):
    sidecar = json.loads(path.read_text())
    assert_whole(sidecar, path.parent)
    assert sidecar["preset"] == "default"
    assert sidecar["seeds"] >= 3
    assert not sidecar["provenance"]["dirty"]
    assert f"reproductions.{sidecar['figure']}" in sidecar["command"]
    assert f"![{sidecar['figure']}]" in (path.parent / "README.md").read_text()


def test_the_readmes_table_of_figures_is_current():
    text = (ROOT / "README.md").read_text()
    table = text.split(TABLE_START)[1].split(TABLE_END)[0].strip()
    assert table == figures_table(read_sidecars(ROOT / "figures"))
    assert len(table.splitlines()) <= 20
    assert table.count("PASS") >= 8


def test_the_gallery_has_every_claim_under_its_picture():
    text = (ROOT / "figures" / "README.md").read_text()
    for sidecar in read_sidecars(ROOT / "figures"):
        part = text.split(f"## {sidecar['figure']}\n")[1].split("\n## ")[0]
        assert markdown_table([sidecar]) in part


def test_the_readme_fits_a_few_screens():
    assert len((ROOT / "README.md").read_bytes()) <= 12_000


def test_citation_file_names_the_software_and_the_three_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["preferred-citation"]["type"] == "software"
    identifiers = {i["value"] for reference in citation["references"] for i in reference["identifiers"]}
    assert identifiers == {"arXiv:2210.01117", "arXiv:2201.02177", "arXiv:2402.15555"}


@pytest.mark.slow
def test_the_command_of_a_sidecar_draws_the_figure_again(quick):
    sidecar, _, _ = quick(tasks=("teacher_student",), seeds=3, n_train=30)
    assert sidecar["command"] == (
        "python -m reproductions.fig_lu --preset quick --tasks teacher_student --seeds 3 --n-train 30"
    )
