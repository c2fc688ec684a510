"""``omnigrok complexity`` and ``omnigrok partition``: the tools for a model of the user's own."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor, fx, nn

from omnigrok import console
from omnigrok.errors import OmnigrokError, first_line
from omnigrok.exported import ANYWAY, read_exported
from omnigrok.files import expanded
from omnigrok.probes.finite import check_points
from omnigrok.state import load_weights

model_argument = click.argument("model")
weights_option = click.option(
    "--weights",
    type=console.PATH,
    help="A state_dict saved with torch.save, alone or in a checkpoint; or weights that a run has kept (run --keep).",
)
step_option = click.option("--step", type=int, help="Of weights that a run has kept.  [default: the last]")
trust_option = click.option(
    ANYWAY,
    "trusted",
    is_flag=True,
    help="Run whatever code MODEL's file holds. A model is a program: only for a file that you would run as one.",
)
data_option = click.option(
    "--data", type=console.PATH, required=True, help="Points, examples first: .npy, or .pt with a tensor."
)


@click.command()
@model_argument
@weights_option
@step_option
@trust_option
@data_option
@click.option("--radius", type=float, default=0.5, show_default=True, help="In units of the input.")
@click.option("--directions", type=click.IntRange(1), default=25, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Keys the frame of directions.")
def complexity(
    model: str,
    weights: Path | None,
    step: int | None,
    trusted: bool,
    data: Path,
    radius: float,
    directions: int,
    seed: int,
) -> None:
    """Local complexity of a model around points: units that change sign, layer by layer.

    MODEL is an exported program (.pt2, of torch.export.save), which is read without running anything that it holds. Or
    the import path of a torch module, or of a function that gives one: my_package.models:net, with --weights; your
    code, which is run. Or a TorchScript module (.pt, of torch.jit.save): a program that can do what any program can,
    so it takes --run-code-from-file.
    """
    from omnigrok.probes.complexity import local_complexity

    loaded, points = load_model(model, weights, trusted, step), load_points(data)
    check_fit(loaded, points, model)
    found = local_complexity(loaded, points, radius, directions, seed=seed)
    width = max(map(len, found.layers)) + 5
    click.echo(f"{'layer':<{width}}{'units':>8}{'crossing':>10}{'dead':>8}{'always on':>11}")
    for i, crossing in enumerate(found.crossings.double().mean(dim=0).tolist()):
        row = f"{found.units[i].item():>8}{crossing:>10.2f}{found.dead[i].item():>8}{found.always_on[i].item():>11}"
        click.echo(f"{f'{i + 1:<4}{found.layers[i]}':<{width}}{row}")
    total = found.total.double()
    span = f"from {total.min():.0f} to {total.max():.0f} at {len(total)} points"
    click.echo(f"local complexity {total.mean().item():.2f}, {span}")


@click.command()
@model_argument
@weights_option
@step_option
@trust_option
@data_option
@click.option("--half-width", type=float, help="Of the square, in input units. Default: 1.2 times the points' reach.")
@click.option("--out", type=console.PATH, default="partition.png", show_default=True, help="The picture.")
def partition(
    model: str,
    weights: Path | None,
    step: int | None,
    trusted: bool,
    data: Path,
    half_width: float | None,
    out: Path,
) -> None:
    """Exact linear regions of a model on the plane through the first three points of the data: a picture, numbers.

    MODEL is a file with an exported program (.pt2, of torch.export.save), which is read without running anything that
    it holds, or the import path of a torch module, or of a function that gives one: my_package.models:net, with
    --weights; your code, which is run. A model is a program; it may hold linear and convolution layers, ReLU and
    LeakyReLU, average and max pooling, skip connections and batch normalisation.
    """
    from omnigrok.figures.panels import partition_figure
    from omnigrok.figures.style import suite_style
    from omnigrok.probes.partition import Plane
    from omnigrok.probes.partition import partition as exact

    points = load_points(data).double()
    if len(points) < 3:
        raise OmnigrokError(f"{data} has {len(points)} points; a plane needs three")
    loaded = load_model(model, weights, trusted, step)
    if not isinstance(loaded, fx.GraphModule):  # an exported one may be fixed to another number of points
        check_fit(loaded, points.float(), model)
    plane = Plane.through(points[:3], half_width=half_width)
    try:
        found = exact(loaded, plane)
    except RuntimeError as error:
        raise does_not_take(model, points, error) from error
    anchors = plane.coordinates(points[:3])
    try:
        with suite_style():
            partition_figure(found, anchors).savefig(out, dpi=150)
    except (OSError, ValueError) as error:
        raise OmnigrokError(f"cannot write {out}: {first_line(error)}") from error
    click.echo(f"regions           {len(found.regions)}")
    click.echo(f"boundary length   {found.boundary_length():.6g}")
    near, decided = found.distances(anchors), found.distances(anchors, "decision")
    click.echo(f"distance of the points to a boundary: {', '.join(f'{d:.4g}' for d in near)}")
    click.echo(f"and to the decision boundary:         {', '.join(f'{d:.4g}' for d in decided)}")
    click.echo(f"wrote {out}")


def load_model(path: str, weights: Path | None, trusted: bool = False, step: int | None = None) -> nn.Module:
    """The module in a file or at an import path, with its weights.

    Args:
        trusted: the user says that code in the file may run.
        step: of weights that a run has kept; None: the last.

    Raises:
        OmnigrokError: there is none, the weights do not fit, or the file may run code and is not `trusted`.
    """
    if step is not None and weights is None:
        raise OmnigrokError("--step is for weights that a run has kept: name their file with --weights")
    if path.endswith((".pt", ".pt2")):
        path = str(expanded(path))
        if weights is not None:
            raise OmnigrokError(f"{path} has its own weights; --weights is for an import path, package.module:name")
        return load_program(path, trusted)
    module_name, _, name = path.partition(":")
    sys.path.insert(0, "")  # as `python -m` does: the user's own file in this folder
    try:
        found = getattr(importlib.import_module(module_name), name)
        model = found if isinstance(found, nn.Module) else found()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise OmnigrokError(
            f"no model at {path!r}: {first_line(error)}; write package.module:name, or a .pt or .pt2 file"
        ) from error
    if not isinstance(model, nn.Module):
        raise OmnigrokError(f"{path} is a {type(model).__name__}, not a torch module")
    if weights is not None:
        load_weights(model, expanded(weights), path, step)
    else:
        click.echo(
            f"without --weights, {path} is measured as it is made: a random initial network, unless it loads weights",
            err=True,
        )
    return model.eval()


def load_program(path: str, trusted: bool) -> nn.Module:
    """The program in a .pt2 file, or in a TorchScript file that is trusted."""
    kind = "an exported program" if path.endswith(".pt2") else "a TorchScript module"
    if not Path(path).is_file():
        raise OmnigrokError(f"{path} does not hold {kind}: there is no such file")
    if path.endswith(".pt2") and not trusted:
        return read_exported(Path(path))
    if not trusted:
        raise OmnigrokError(
            f"{path} is a TorchScript program and can do what any program can: if you trust it, take {ANYWAY}, or "
            "save the model with torch.export.save as .pt2"
        )
    try:
        return torch.export.load(path).module() if path.endswith(".pt2") else torch.jit.load(path, "cpu").eval()
    except Exception as error:
        raise OmnigrokError(f"{path} does not hold {kind}: {first_line(error)}") from error


def check_fit(model: nn.Module, points: Tensor, name: str) -> None:
    """Raises OmnigrokError where the model does not take the points, or moves its buffers as in training."""
    from omnigrok.probes.complexity import untouched

    weight = next((p for p in model.parameters() if p.is_floating_point()), points)
    with torch.no_grad(), untouched(model):
        try:
            model(points[:1].to(weight, copy=True))  # it may change them in place
        except Exception as error:
            raise does_not_take(name, points, error) from error


def does_not_take(name: str, points: Tensor, error: Exception) -> OmnigrokError:
    shape = " x ".join(map(str, points.shape[1:]))
    return OmnigrokError(f"{name} does not take points of shape {shape}: {first_line(error)}")


def load_points(path: Path) -> Tensor:
    """A tensor of points in float32 from .npy or .pt; no pickle is executed.

    Raises:
        OmnigrokError: the file holds no array, none of floating-point numbers, or some that are not finite.
    """
    path = expanded(path)
    try:
        loaded = torch.load(path, weights_only=True) if path.suffix == ".pt" else torch.from_numpy(np.load(path))
        kept: Tensor = loaded.detach().cpu()
    except Exception as error:
        raise OmnigrokError(f"cannot read points from {path}: {first_line(error)}") from error
    check_points(kept, f"points in {path}")
    return kept.float()
