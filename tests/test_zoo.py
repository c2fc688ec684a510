"""Every network of the zoo: trained right alone and in a batch, resumed, counted, cut into regions, left as it was."""

import contextlib
import copy
import warnings
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from zoo import EXAMPLES, STEPS, ZOO, Zoo

from omnigrok.ensemble import scaled_model
from omnigrok.errors import CannotBatchError, OmnigrokError
from omnigrok.oracle import train
from omnigrok.probes.complexity import ComplexityProbe, frame, local_complexity
from omnigrok.probes.partition import Plane, partition
from omnigrok.spec import global_states
from omnigrok.trainer import Trainer

RADIUS = 3.0  # wide enough that every network has units that change their sign
CALLED = ("relu", "relu_", "leaky_relu", "gelu", "silu", "elu", "prelu")
"""Activations of the zoo, as functions, methods and operators name them."""


def specs_of(count=3):
    return [Zoo.spec.replace(seed=s, alpha=1.0 + s / 2, weight_decay=0.1 * s) for s in range(count)]


@cache
def alone(which, r):
    """A run of a network, trained alone, and its state after five steps."""
    task, states = Zoo(which), []
    trainer = Trainer(task, [specs_of()[r]], task.load(Zoo.spec))
    trainer.train(checkpoint=lambda: states.append(copy.deepcopy(trainer.state_dict())), checkpoint_seconds=0)
    [state] = [state for state in states if state["step"] == 5]
    return trainer, state


def tensors(trainer, r=0):
    ensemble = trainer.ensemble
    return {name: x[r].detach() for name, x in {**ensemble.params, **ensemble.buffers}.items()}


def assert_close(found, expected, atol):
    assert set(found) == set(expected)
    for name, x in expected.items():
        torch.testing.assert_close(found[name], x, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("which", ZOO)
def test_a_run_is_the_same_alone_and_in_a_batch(which):
    task = Zoo(which)
    data = task.load(Zoo.spec)
    if ZOO[which].alone:
        with pytest.raises(CannotBatchError):
            Trainer(task, specs_of(), data)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        together = Trainer(task, specs_of(), data)
        together.train()
    for r in range(3):
        assert_close(tensors(together, r), tensors(alone(which, r)[0]), 1e-10)
        one, other = together.frames()[r], alone(which, r)[0].frames()[0]
        np.testing.assert_allclose(one["value"], other["value"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("which", [name for name, kept in ZOO.items() if "dropout" not in name])
def test_a_run_equals_a_plain_loop(which):
    task = Zoo(which)
    trainer = alone(which, 1)[0]
    data = task.load(Zoo.spec)
    plain = train(PlainLoss(which), specs_of()[1], data)
    assert_close(tensors(trainer), {**dict(plain.named_parameters()), **dict(plain.named_buffers())}, 1e-8)


class PlainLoss(Zoo):
    """For a loop that hands out the data themselves."""

    def model(self, spec):
        made = super().model(spec)
        if self.which == "changes its input":
            made.register_forward_pre_hook(lambda _, inputs: (inputs[0].clone(),))
        return made


@pytest.mark.parametrize("which", ZOO)
def test_a_killed_run_ends_with_the_same_bits(which):
    task = Zoo(which)
    whole, state = alone(which, 2)
    resumed = Trainer(task, [specs_of()[2]], task.load(Zoo.spec))
    resumed.load_state_dict(state)
    resumed.train()
    assert_close(tensors(resumed), tensors(whole), 0)
    assert resumed.frames()[0].equals(whole.frames()[0])


def counted_plainly(model, points, offsets):
    """Units whose pre-activations change their sign over the vertices, by patching every name of an activation."""
    counts = []

    class Watching(torch.overrides.TorchFunctionMode):
        inside = False

        def __torch_function__(self, function, types, args=(), kwargs=None):
            name = getattr(function, "__name__", "")
            if name in CALLED and not self.inside:
                pre = args[0].detach().unflatten(0, (len(points), -1)).flatten(2)
                counts.append((pre.amin(1).sign() != pre.amax(1).sign()).sum(dim=1))
                self.inside = True
                try:
                    return function(*args, **(kwargs or {}))
                finally:
                    self.inside = False
            return function(*args, **(kwargs or {}))

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), Watching():
            model((points.unsqueeze(1) + offsets).flatten(0, 1))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return torch.stack(counts).sum(dim=0)


@pytest.mark.parametrize("which", ZOO)
def test_local_complexity_counts_every_unit(which):
    task = Zoo(which)
    model = alone(which, 1)[0].ensemble.model(0)
    points = task.load(Zoo.spec).test_inputs[0][:6]
    if not ZOO[which].activations:
        with pytest.raises(OmnigrokError, match="no activation"):
            local_complexity(model, points, RADIUS, 4)
        return
    expected = counted_plainly(model.eval(), points, frame(points.shape[1:], 4, RADIUS))
    assert expected.sum() > 0
    assert local_complexity(model, points, RADIUS, 4).total.tolist() == expected.tolist()


@pytest.mark.parametrize("which", [name for name, kept in ZOO.items() if kept.activations and not kept.alone])
def test_the_probe_counts_in_a_batch_what_the_function_counts(which):
    task = Zoo(which)
    data = task.load(Zoo.spec)
    trainer = Trainer(task, specs_of(), data)
    for _ in range(3):
        trainer.update()
    found = ComplexityProbe(RADIUS, 4, 20)(trainer.ensemble, data)
    for r in range(3):
        total = local_complexity(trainer.ensemble.model(r), data.test_inputs[0][:20], RADIUS, 4).total
        assert found["lc_test"][r].item() == pytest.approx(total.double().mean().item())


@pytest.mark.parametrize("which", ZOO)
def test_regions_are_exact_or_refused_in_one_line(which):
    task = Zoo(which)
    model = alone(which, 1)[0].ensemble.model(0).eval()
    plane = Plane.through(task.load(Zoo.spec).test_inputs[0][:3])
    found = None
    if ZOO[which].exact:
        found = partition(model, plane)
    else:
        with contextlib.suppress(OmnigrokError), one_line():
            found = partition(model, plane)
    for region in found.regions[:20] if found else ():
        middle = region.polygon.mean(axis=0, keepdims=True)
        expected = task.logits(model(plane.at(middle))).detach().numpy()
        np.testing.assert_allclose(region.outputs(middle), expected, rtol=0, atol=1e-8)


@contextlib.contextmanager
def one_line():
    """An error within is one line."""
    try:
        yield
    except OmnigrokError as error:
        if "\n" in str(error):
            raise AssertionError(f"not one line: {error}") from error
        raise


@pytest.mark.parametrize("which", ZOO)
def test_looking_at_a_network_leaves_everything_as_it_was(which):
    task = Zoo(which)
    data = task.load(Zoo.spec)
    model = scaled_model(task, Zoo.spec)
    model.train()
    list(model.modules())[-1].eval()
    modes = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    points, versions = data.test_inputs[0].clone(), data.test_inputs[0]._version
    before = global_states(), torch.get_default_dtype(), torch.is_grad_enabled()
    for look in (lambda: local_complexity(model, data.test_inputs[0][:4], RADIUS, 4),
                 lambda: partition(model, Plane.through(data.test_inputs[0][:3]))):  # fmt: skip
        try:
            look()
        except OmnigrokError:
            continue
        finally:
            assert [module.training for module in model.modules()] == modes
            assert_close(model.state_dict(), state, 0)
            assert torch.equal(data.test_inputs[0], points)
            assert data.test_inputs[0]._version == versions
            assert (global_states(), torch.get_default_dtype(), torch.is_grad_enabled()) == before


@pytest.mark.parametrize("which", ZOO)
def test_training_leaves_the_data_and_the_caller_as_they_were(which):
    task = Zoo(which)
    data = task.load(Zoo.spec)
    kept = copy.deepcopy(data)
    before = global_states(), torch.get_default_dtype(), torch.is_grad_enabled()
    trainer = Trainer(task, [Zoo.spec.replace(steps=3)], data)
    trainer.train()
    assert (global_states(), torch.get_default_dtype(), torch.is_grad_enabled()) == before
    assert data.sha256 == kept.sha256
    assert len(data.train_targets) == EXAMPLES
    assert trainer.step == 3 < STEPS


def test_the_zoo_is_large_and_its_activations_are_those_that_are_patched():
    assert len(ZOO) >= 25
    assert all(hasattr(F, name) or hasattr(torch, name) for name in CALLED)
