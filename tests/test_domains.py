"""QM9, IMDb and modular arithmetic: fast forms against plain ones in float64, and the data's facts."""

import math

import pytest
import torch
from torch import nn

from omnigrok import DataUnavailableError, get_task
from omnigrok.ensemble import scaled_model
from omnigrok.errors import CorruptFileError
from omnigrok.gradients import Clip
from omnigrok.loading import task_data
from omnigrok.oracle import train
from omnigrok.order import BatchOrder
from omnigrok.schedule import Drop
from omnigrok.trainer import Trainer
from tasks import imdb_data, qm9_data
from tasks.lstm import PlainReviewLSTM, ReviewLSTM


def real(name, **changes):
    task = get_task(name)
    spec = task.spec.replace(dtype="float64", **changes)
    try:
        return task, spec, task_data(spec, "cpu")
    except DataUnavailableError as error:
        pytest.skip(str(error))


def assert_equals_oracle(task, specs, data, tolerance=1e-8):
    trainer = Trainer(task, specs, data)
    trainer.train()
    for row, spec in enumerate(specs):
        for name, parameter in train(task, spec, data).named_parameters():
            torch.testing.assert_close(trainer.ensemble.params[name][row], parameter, rtol=0, atol=tolerance)


def assert_same_function(task, spec, inputs, targets):
    """Outputs and gradients of the fast and the plain form, same parameters."""
    models = [scaled_model(task, spec), scaled_model(task, spec, reference=True)]
    outputs = [model(*inputs) for model in models]
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-10)
    gradients = [
        torch.autograd.grad(task.loss(out, targets).mean(), list(model.parameters()))
        for model, out in zip(models, outputs, strict=True)
    ]
    for fast, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("alpha", [0.8, 1.0, 3.0])
def test_the_transformer_at_the_answer_equals_the_whole_sequence(alpha):
    task, spec, data = real("modular", alpha=alpha, n_train=300, options=(("operation", "add"), ("p", 31)))
    assert_same_function(task, spec, data.test_inputs, data.test_targets)


@pytest.mark.slow
def test_modular_equals_the_plain_loop():
    task, spec, data = real("modular", n_train=200, steps=20, options=(("operation", "add"), ("p", 23)))
    assert_equals_oracle(task, [spec, spec.replace(seed=1, alpha=0.8, sphere=True, weight_decay=0.0)], data)
    assert_equals_oracle(task, [spec], data)


def test_the_loss_of_a_memorised_pair_keeps_its_gradient_in_float32():
    logits = torch.zeros(1, 114)
    logits[0, 3] = 40.0
    logits.requires_grad_()
    task = get_task("modular")
    (gradient,) = torch.autograd.grad(task.loss(logits, torch.tensor([3])).sum(), logits)
    assert gradient[0, 3].item() == pytest.approx(-113 * math.exp(-40), rel=1e-3)  # float32 alone gives 0


def test_modular_data_is_every_pair_once_with_its_answer():
    task, _, data = real("modular", n_train=10, options=(("operation", "add"), ("p", 13)))
    pairs = torch.cat([data.train_inputs[0], data.test_inputs[0]])
    answers = torch.cat([data.train_targets, data.test_targets])
    assert len(pairs) == 169 == len({tuple(p) for p in pairs.tolist()})
    assert torch.equal(answers, pairs.sum(dim=1) % 13)
    weights = sum(p.numel() for p in scaled_model(task, task.spec).parameters())
    assert weights == 114 * 128 * 2 + 3 * 128 + 4 * 128**2 + 2 * 512 * 128 + 512 + 128
    trainer = Trainer(task, [task.spec.replace(alpha=1.0)], task_data(task.spec, "cpu"))
    assert trainer.spheres.radius.item() == pytest.approx(42.5, abs=0.5)


def test_modular_toy_equals_the_plain_loop_while_its_learning_rate_drops():
    task, spec, data = real("modular_toy", steps=20, schedule=(Drop(6, 0.2),), options=(("messiness", 0.1),))
    others = [spec.replace(seed=1, sphere=False, weight_decay=0.5), spec.replace(seed=2, sphere=False, alpha=2.0)]
    assert_equals_oracle(task, [spec, *others], data)
    decoupled = [s.replace(optimizer="adamw") for s in others]
    assert_equals_oracle(task, decoupled, data)
    assert [spec.lr_at(step) / spec.lr for step in (0, 5, 6, 12)] == pytest.approx([1, 1, 0.2, 0.04])


def test_messiness_goes_from_a_line_to_random():
    _, _, straight = real("modular_toy", options=(("messiness", 0.0),))
    first = torch.cat([straight.train_inputs[0], straight.test_inputs[0]])[:, 0]
    assert len(first) == 55
    sums = ((first + 2) / 2 * 9).round()  # E_i + E_j on the line is i + j, to scale
    torch.testing.assert_close((first + 2) / 2 * 9, sums)
    assert set(sums.tolist()) == set(range(19))
    _, _, messy = real("modular_toy", options=(("messiness", 1.0),))
    assert not torch.allclose(messy.train_inputs[0], straight.train_inputs[0])
    assert torch.equal(messy.train_targets, straight.train_targets)


SMILES = ["C", "N", "O", "C#C", "O=CC1=CN=CN1", "c1ccoc1", "CC(=O)N", "FC(F)F", "C[NH2+][C-](C=O)C(=O)C=O"]


def test_the_bond_typed_layer_equals_nnconv():
    pytest.importorskip("torch_geometric")
    task = get_task("qm9")
    spec = task.spec.replace(dtype="float64")
    inputs = tuple(x.double() for x in qm9_data.featurise(SMILES))
    assert_same_function(task, spec, inputs, torch.randn(len(SMILES), generator=torch.Generator(), dtype=torch.float64))


@pytest.mark.parametrize("smiles", ["CCl", "CCCCCCCCCC"])
def test_what_is_not_in_qm9_is_refused(smiles):
    with pytest.raises(CorruptFileError):
        qm9_data.featurise(["C", smiles])


def test_qm9_equals_the_plain_loop():
    task, spec, data = real("qm9", n_train=40, steps=20, batch_size=16)
    assert_equals_oracle(task, [spec, spec.replace(seed=1, alpha=1.0, sphere=True)], data)


def test_features_are_those_of_torch_geometric():
    """An independent computation from rdkit's own molecule objects, atom by atom and bond by bond."""
    _, _, data = real("qm9", n_train=100)
    import pandas as pd
    from rdkit import Chem

    from omnigrok.spec import generator

    table = pd.read_csv(qm9_data.DATASET.fetch() / "qm9.csv", nrows=200)
    order = torch.randperm(200, generator=generator(0, "molecules"))
    aggregated = torch.cat([data.train_inputs[0], data.test_inputs[0]])
    bonds = torch.cat([data.train_inputs[1], data.test_inputs[1]])
    atoms = torch.cat([data.train_inputs[2], data.test_inputs[2]]).sum(dim=1)
    for row, smiles in enumerate(table["smiles"].iloc[order.numpy()]):
        molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
        assert atoms[row] == molecule.GetNumAtoms()
        expected = {}
        for bond in molecule.GetBonds():
            kind = {1.0: 0, 2.0: 1, 3.0: 2, 1.5: 3}[bond.GetBondTypeAsDouble()]
            for i, j in (
                (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()),
                (bond.GetEndAtomIdx(), bond.GetBeginAtomIdx()),
            ):
                expected[kind, i, j] = 1
        assert {tuple(index) for index in bonds[row].nonzero().tolist()} == set(expected)
        own = aggregated[row, :, -11:]
        symbols = ["H", "C", "N", "O", "F"]
        for atom in molecule.GetAtoms():
            features = own[atom.GetIdx()]
            assert features[:5].tolist() == [float(atom.GetSymbol() == s) for s in symbols]
            assert features[5] == Chem.GetPeriodicTable().GetAtomicNumber(atom.GetSymbol())
            assert features[6] == atom.IsInRing() * atom.GetIsAromatic()
            assert features[7:10].tolist() == [float(str(atom.GetHybridization()) == s) for s in ("SP", "SP2", "SP3")]
            assert features[10] == atom.GetTotalNumHs(includeNeighbors=True)
        assert not own[molecule.GetNumAtoms() :].any()
        sums = sum(bonds[row, t] @ own for t in range(4))
        torch.testing.assert_close(sum(aggregated[row, :, 11 * t : 11 * t + 11] for t in range(4)), sums)


def test_qm9_is_the_published_set():
    _, _, data = real("qm9", n_train=2)
    import pandas as pd
    from rdkit import Chem

    table = pd.read_csv(qm9_data.DATASET.fetch() / "qm9.csv")
    assert len(table) == 130_831
    assert table["polarizability"].head(3).tolist() == [13.21, 9.46, 6.31]
    assert table["polarizability"].mean() == pytest.approx(75.281, abs=1e-3)
    assert table["polarizability"].std() == pytest.approx(8.174, abs=1e-3)
    assert table["index"].is_monotonic_increasing
    for smiles in table["smiles"].iloc[::1000]:
        molecule = Chem.MolFromSmiles(smiles)
        assert {atom.GetSymbol() for atom in molecule.GetAtoms()} <= set("HCNOF")
        assert molecule.GetNumHeavyAtoms() <= 9
        assert Chem.AddHs(molecule).GetNumAtoms() <= 29
    assert sorted(torch.cat([data.train_targets, data.test_targets]).tolist())[:3] == [6.31, 9.46, 13.21]


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_the_shared_padding_equals_the_padded_batch(rows):
    state = torch.get_rng_state()
    torch.manual_seed(0)
    fast, plain = ReviewLSTM(20, 6).double(), PlainReviewLSTM(20, 6).double()
    plain.load_state_dict(fast.state_dict())
    tokens = torch.zeros(rows, 30, dtype=torch.long)
    for row, words in enumerate([0, 3, 30, 11, 11, 1, 17][:rows]):
        if words:
            tokens[row, -words:] = torch.randint(1, 21, (words,))
    torch.set_rng_state(state)
    outputs = [model(tokens) for model in (fast, plain)]
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-12)
    gradients = [
        torch.autograd.grad(out.square().sum(), list(model.parameters()))
        for model, out in zip((fast, plain), outputs, strict=True)
    ]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


SMALL = (("hidden", 8), ("length", 40), ("stop_words", True), ("vocabulary", 100))


@pytest.mark.slow
def test_imdb_equals_the_plain_loop_with_its_gradients_clipped():
    task, spec, data = real("imdb", n_train=60, steps=20, batch_size=16, options=SMALL, gradient=(Clip(0.05),))
    assert_equals_oracle(task, [spec], data)
    assert_equals_oracle(task, [spec.replace(sphere=True, optimizer="adam", weight_decay=0.0, alpha=1.0)], data)


@pytest.mark.slow
def test_the_hidden_state_is_carried_within_an_epoch():
    """The trainer against a loop that keeps the state itself: four batches an epoch, two epochs and a half."""
    task, spec, data = real(
        "imdb", n_train=24, steps=10, batch_size=6, options=(("carry_state", True), *SMALL), weight_decay=0.0
    )
    trainer = Trainer(task, [spec], data)
    trainer.train()
    plain = scaled_model(task, spec.replace(options=SMALL), reference=True)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=spec.lr, betas=spec.optimizer.betas, weight_decay=0.0)
    order = BatchOrder.stream(spec.seed, 24, range(60)).view(10, 6)
    for step, rows in enumerate(order):
        if step % 4 == 0:
            state = None
        outputs, state = plain.lstm(plain.embedding(data.train_inputs[0][rows]), state)
        state = tuple(s.detach() for s in state)
        optimizer.zero_grad()
        task.loss(plain.linear(outputs[:, -1])[:, 0], data.train_targets[rows]).mean().backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), spec.gradient[0].limit)
        optimizer.step()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(trainer.ensemble.params[name][0], parameter, rtol=0, atol=1e-8)
    torch.testing.assert_close(trainer.ensemble.buffers["carried"][0], torch.stack(state), rtol=0, atol=1e-8)
    assert_equals_oracle(task, [spec], data)
    left = train(task, spec.replace(options=SMALL), data)
    assert not torch.allclose(left.linear.weight, plain.linear.weight, atol=1e-6)
    assert torch.equal(
        *(trainer.ensemble.model(0).eval()(data.test_inputs[0][:5]) for _ in range(2))
    )  # leaves no state


def test_clipping_is_per_run(spec):
    task = get_task("teacher_student")
    spec = spec.replace(dtype="float64", gradient=(Clip(0.01),), steps=20, weight_decay=0.1)
    assert_equals_oracle(
        task, [spec, spec.replace(seed=1, alpha=0.3), spec.replace(seed=2, alpha=5.0)], task_data(spec, "cpu")
    )


@pytest.mark.slow
def test_imdb_reviews_are_balanced_and_apart():
    task, spec, _ = real("imdb", n_train=100)
    reviews = imdb_data.read_canonical(task.dataset.fetch() / "imdb-train.jsonl")
    texts = [text for _, text in reviews]
    assert len(texts) == len(set(texts)) == 24_904
    assert {label for label, _ in reviews} == {0, 1}
    data = task.load(spec)
    assert data.train_targets.mean() == data.test_targets.mean() == 0.5
    assert len(data.test_targets) == 2_000
    assert data.train_inputs[0].shape == (100, 500)
    more = task.load(spec.replace(n_train=1_000))
    assert torch.equal(more.train_targets[:100], data.train_targets)
    words = (task.load(spec.replace(n_train=750)).test_inputs[0] != 0).sum(dim=1).double()
    assert 0.05 < words.mean() / 500 < 0.2  # most of a review is padding: what the shared prefix saves
    assert words.max() <= 500


def test_the_vocabulary_is_that_of_the_training_part_only():
    known = imdb_data.vocabulary(["good good film", "the film is bad"], 3, stop_words=True)
    assert known == {"film": 1, "good": 2, "bad": 3}
    assert "the" in imdb_data.vocabulary(["the film"], 3, stop_words=False)
    tokens = imdb_data.encode(["Good, unseen film!!", "bad " * 9, ""], known, 4)
    assert tokens.tolist() == [[0, 0, 2, 1], [3, 3, 3, 3], [0, 0, 0, 0]]
    assert imdb_data.words("It's <br />10 Fine") == ["its", "br", "", "fine"]


def test_a_dataset_that_depends_on_the_size_is_not_shared(store):
    from omnigrok.plan import plan

    _, spec, _ = real("qm9", n_train=4, steps=1)
    batches = plan([spec.replace(seed=s, n_train=n, batch_size=2) for n in (4, 6) for s in (0, 1)], store, "cpu", 8)
    assert [len(batch.specs) for batch in batches] == [2, 2]
    assert isinstance(scaled_model(get_task("qm9"), spec), nn.Module)
