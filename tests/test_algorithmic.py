"""Power et al.'s operations against brute force, their network against its plain form, their training's first steps."""

import itertools
from fractions import Fraction

import pytest
import torch

from omnigrok.ensemble import scaled_model
from omnigrok.errors import SpecError
from omnigrok.order import BatchOrder
from omnigrok.trainer import Trainer
from tasks.algorithmic import NUMBERS, OPERATIONS, PERMUTATIONS, Algorithmic, equations_of
from tasks.decoder import EOS, FullDecoder

TASK = Algorithmic()


def small(operation="x+y", p=7, **changes):
    options = {"operation": operation, "p": p, **changes.pop("options", {})}
    return TASK.spec.replace(**{"n_train": 30, "steps": 12, "batch_size": 10, "dtype": "float64", **changes}).replace(
        options=options
    )


def quotient(x, y, p):
    """The z with y z = x, by trying all."""
    [z] = [z for z in range(p) if (y * z - x) % p == 0]
    return z


BY_HAND = {
    "x+y": lambda x, y, p: x + y,
    "x-y": lambda x, y, p: x - y,
    "x*y": lambda x, y, p: x * y,
    "x/y": quotient,
    "x/y or x-y": lambda x, y, p: quotient(x, y, p) if y % 2 else x - y,
    "x^2+y^2": lambda x, y, p: x * x + y * y,
    "x^2+xy+y^2": lambda x, y, p: x * x + x * y + y * y,
    "x^2+xy+y^2+x": lambda x, y, p: x * (x + y + 1) + y * y,
    "x^3+xy": lambda x, y, p: x * (x * x + y),
    "x^3+xy^2+y": lambda x, y, p: x * (x * x + y * y) + y,
}


@pytest.mark.parametrize(("p", "operation"), list(itertools.product([7, 97], BY_HAND)))
def test_residues_are_those_of_brute_force(operation, p):
    found = (equations_of(operation, p) - NUMBERS).tolist()
    wanted = [
        [x, y, BY_HAND[operation](x, y, p) % p]
        for x, y in itertools.product(range(p), repeat=2)
        if y or operation != "x/y"
    ]
    assert found == wanted
    assert len(found) == (p * p - p if operation == "x/y" else p * p)


@pytest.mark.parametrize("operation", PERMUTATIONS)
def test_products_of_permutations_move_things_as_their_factors_do(operation):
    p = 97
    group = list(itertools.permutations(range(5)))
    equations = (equations_of(operation, p) - NUMBERS - p).tolist()
    assert len(equations) == 120**2
    assert sorted({tuple(e[:2]) for e in equations}) == list(itertools.product(range(120), repeat=2))
    for x, y, z in equations[::37]:
        for thing in range(5):
            moved = group[y][group[x][thing]]  # first x, then y
            if operation.endswith("x^-1"):
                moved = group[x].index(moved)
            elif operation.endswith("yx"):
                moved = group[x][moved]
            assert group[z][thing] == moved


@pytest.mark.parametrize("operation", ["x+y", "x*y", "x^2+y^2"])
def test_symmetric_operations_are_symmetric(operation):
    table = {(a, b): c for a, b, c in equations_of(operation, 11).tolist()}
    assert all(table[a, b] == table[b, a] for a, b in table)


@pytest.mark.parametrize(("operation", "p", "message"), [("x**y", 7, "must be one of x\\+y"), ("x/y", 9, "a prime")])
def test_what_is_no_operation_is_refused(operation, p, message):
    with pytest.raises(SpecError, match=message):
        equations_of(operation, p)


@pytest.mark.parametrize("wrong", [0, 5, 20])
def test_outliers_are_answers_of_other_equations_in_the_pool(wrong):
    right, spoilt = (TASK.load(small(p=11, options={"outliers": k})) for k in (0, wrong))
    differs = (right.train_targets != spoilt.train_targets).any(dim=1)
    assert not differs[wrong:].any()
    assert torch.equal(right.test_targets, spoilt.test_targets)
    assert differs.sum() >= 0.7 * wrong  # a few draw the answer that is right
    assert torch.equal(spoilt.train_targets[:, 0], spoilt.train_inputs[0][:, 2])  # <eos> follows the answer as it is
    with pytest.raises(SpecError, match="outliers must be 0 to 115"):
        TASK.load(small(p=11, options={"outliers": 200}))


def test_the_split_is_keyed_and_holds_every_equation_once():
    first, other = (TASK.load(small(p=11, data_seed=seed)) for seed in (0, 1))
    for data in (first, other):
        every = torch.cat([data.train_inputs[0], data.test_inputs[0]]).tolist()
        assert sorted(every) == equations_of("x+y", 11).tolist()
        assert len(data.test_targets) == 6
    assert not torch.equal(first.train_inputs[0], other.train_inputs[0])


@pytest.mark.parametrize("operation", ["x/y", "s5: xy"])
def test_the_network_has_the_published_number_of_parameters(operation):
    model = scaled_model(TASK, TASK.spec.replace(options={"operation": operation, "p": 97}))
    table = [n for n, _ in model.named_parameters() if n.startswith(("embedding", "output"))]
    assert sum(p.numel() for n, p in model.named_parameters() if n not in table) == 394_240
    assert model.embedding.weight.shape == (239, 128)
    assert not [name for name, _ in model.named_parameters() if "bias" in name and "norm" not in name]


@pytest.mark.parametrize("options", [{}, {"eos": False}])
@pytest.mark.parametrize("operation", ["x/y", "x+y", "s5: xyx"])
def test_logits_equal_those_of_the_full_sequence(operation, options):
    spec = small(operation, p=11, options=options)
    fast, plain = (scaled_model(TASK, spec, reference=reference) for reference in (False, True))
    assert isinstance(plain, FullDecoder) is not isinstance(fast, FullDecoder)
    equations = TASK.load(spec).train_inputs[0][:40]
    torch.testing.assert_close(fast(equations), plain(equations), rtol=0, atol=1e-10)


@pytest.mark.parametrize("reference", [False, True])
def test_no_token_sees_a_later_one(reference):
    model = scaled_model(TASK, small(p=11), reference=reference)
    equations = TASK.load(small(p=11)).train_inputs[0][:20]
    others = equations.clone()
    others[:, 2] = equations[:, 2].roll(1)  # the answer that stands behind "="
    before, after = model(equations), model(others)
    torch.testing.assert_close(before[:, 0], after[:, 0], rtol=0, atol=1e-12)
    assert (before[:, 1] - after[:, 1]).abs().max() > 1e-3
    others = equations.clone()
    others[:, 1] = NUMBERS + (equations[:, 1] - NUMBERS + 1) % 11
    assert (model(others)[:, 0] - before[:, 0]).abs().max() > 1e-3


def test_loss_and_accuracy_are_of_the_answer_and_the_end():
    outputs = torch.zeros(3, 2, 9)
    targets = torch.tensor([[4, EOS]] * 3)
    outputs[:2, 0, 4] = outputs[0, 1, EOS] = outputs[1, 1, 5] = 20.0
    losses = TASK.loss(outputs, targets)
    assert losses[1] == pytest.approx(10, rel=1e-6)
    assert losses[2] == pytest.approx(float(torch.tensor(9.0).log()), rel=1e-6)
    assert TASK.metrics(outputs, targets)["accuracy"].tolist() == [1.0, 0.0, 0.0]


def test_the_first_learning_rates_are_the_published_ones():
    rates = [TASK.spec.lr_at(step) for step in range(13)]
    assert rates == pytest.approx([float(Fraction(min(step, 10), 10_000)) for step in range(13)])


def test_an_epoch_has_every_training_equation_once():
    spec = small(p=11, n_train=40)
    order = BatchOrder([spec], torch.device("cpu"))
    assert sorted(torch.cat([order(step)[0] for step in range(4)]).tolist()) == list(range(40))


def test_fractions_seeds_and_weight_decays_train_together_as_alone():
    base = small(p=7)
    specs = [
        base,
        base.replace(seed=1, n_train=24, weight_decay=0.0),
        base.replace(seed=2, n_train=46, alpha=2.0),
    ]
    data = TASK.load(base)
    together = Trainer(TASK, specs, data)
    together.train()
    for r, spec in enumerate(specs):
        alone = Trainer(TASK, [spec], data)
        alone.train()
        for name, p in alone.ensemble.params.items():
            torch.testing.assert_close(together.ensemble.params[name][r], p[0], rtol=0, atol=1e-9)


def test_with_dropout_the_plain_form_is_trained():
    model = scaled_model(TASK, small(options={"dropout": 0.1}))
    assert isinstance(model, FullDecoder)
    equations = TASK.load(small()).train_inputs[0][:20]
    with torch.random.fork_rng():
        assert not torch.equal(model(equations), model(equations))
    assert torch.equal(*(model.eval()(equations) for _ in range(2)))


def test_all_operations_of_the_paper_are_there():
    assert len(OPERATIONS) == 13
