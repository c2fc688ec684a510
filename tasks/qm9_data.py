"""QM9's files and features: 130,831 molecules with twelve targets, and the graph features that rdkit gives them."""

from __future__ import annotations

import csv
import tarfile
import zipfile
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from omnigrok.data import ArchiveSource, Dataset, File, PipSource
from omnigrok.errors import CorruptFileError

ELEMENTS = (1, 6, 7, 8, 9)  # H C N O F
ATOM_FEATURES, BOND_TYPES = 11, 4
FEATURES_VERSION = 1
"""Of `featurise`: raise it when its numbers change, or the cached ones are taken for the new."""
TARGETS = {
    "dipole": "Dipole_debye",
    "polarizability": "Polarizability_bohr3",
    "homo": "HOMO_au",
    "lumo": "LUMO_au",
    "gap": "HOMO_LUMO_gap_au",
    "r2": "R2_bohr2",
    "zpve": "ZPVE_au",
    "u0": "InternalEnergy_0K_au",
    "u298": "InternalEnergy_298K_au",
    "h298": "Enthalphy_298K_au",
    "g298": "GibbsFreeEnergy_298K_au",
    "cv": "Heatcapacity_Cv_cal_mol_K",
}
"""Names of the targets, in torch_geometric's order, and the mirror's columns; units as in the column's name."""


def write_canonical(molecules: pd.DataFrame, path: Path) -> None:
    """The dataset's one file: index, SMILES and the twelve targets as the shortest exact decimals, by index."""
    molecules = molecules.sort_values("index")
    decimals = [[repr(float(value)) for value in molecules[name]] for name in TARGETS]
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["index", "smiles", *TARGETS])
        writer.writerows(zip(molecules["index"], molecules["smiles"], *decimals, strict=True))


def from_wheel(archive: Path, into: Path) -> None:
    """The mirror's three CSV files."""
    names = {"Index": "index", "SMILES": "smiles", **{column: name for name, column in TARGETS.items()}}
    with zipfile.ZipFile(archive) as wheel:
        parts = []
        for part in (1, 2, 3):
            with wheel.open(f"qm9pack/data/qm9_part{part}.csv") as stream:
                parts.append(pd.read_csv(stream, usecols=list(names), dtype=dict.fromkeys(TARGETS.values(), str)))
    write_canonical(pd.concat(parts).rename(columns=names), into / "qm9.csv")


def from_archive(archive: Path, uncharacterised: Path, into: Path) -> None:
    """The publisher's archive of one .xyz file a molecule, less those that a second file lists as uncharacterised."""
    first_words = [line.split()[0] for line in uncharacterised.read_text(encoding="utf-8").splitlines() if line.strip()]
    left_out = {int(word) for word in first_words if word.isdigit()}
    found = []
    with tarfile.open(archive) as members:
        for member in members:
            stream = members.extractfile(member)
            if stream is None:
                continue
            lines = stream.read().decode().splitlines()
            fields = lines[1].split()  # gdb, index, A, B, C, then the twelve targets
            if int(fields[1]) not in left_out:
                smiles = lines[-2].split()[1]  # the relaxed geometry's
                found.append((int(fields[1]), smiles, *(float(value) for value in fields[5:17])))
    write_canonical(pd.DataFrame(found, columns=["index", "smiles", *TARGETS]), into / "qm9.csv")


DATASET = Dataset(
    name="qm9",
    title="QM9",
    reference="Ramakrishnan, Dral, Rupp, von Lilienfeld: Quantum chemistry structures and properties (2014)",
    files=(File("qm9.csv", 17_029_075, "b4e81f815cbfb007c93d067fdf0bbdea62c718c4382e2fb515ceb314ae38e55f"),),
    sources=(
        ArchiveSource(
            (
                "https://springernature.figshare.com/ndownloader/files/3195389",
                "https://springernature.figshare.com/ndownloader/files/3195404",
            ),
            from_archive,
        ),
        PipSource("qm9pack", "1.0.3", "1d88c2988007c6778e717ee3224cf511bd60e10732ebe3b7ed500ea5af05c9f0", from_wheel),
    ),
)


def featurise(smiles: list[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of the bond-typed network, padded to the largest molecule.

    Node features in the order of torch_geometric's QM9: one-hot H C N O F, atomic number, aromatic, sp, sp2, sp3,
    number of H neighbours; bonds one-hot over single, double, triple, aromatic. Molecules are sanitised here; there
    they are not, and aromatic, sp, sp2, sp3 and the aromatic bond are 0 for all. Returns (molecule, atom, 55): for each
    bond type the neighbours' summed features, then the atom's own; (molecule, 4, atom, atom): the bonds; (molecule,
    atom): 1 for atoms, 0 for padding.
    """
    from rdkit import Chem

    bond_types = (Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE, Chem.BondType.AROMATIC)
    hybridizations = (Chem.HybridizationType.SP, Chem.HybridizationType.SP2, Chem.HybridizationType.SP3)
    molecules = [Chem.AddHs(Chem.MolFromSmiles(text)) for text in smiles]
    size = max(molecule.GetNumAtoms() for molecule in molecules)
    x = torch.zeros(len(smiles), size, ATOM_FEATURES)
    bonds = torch.zeros(len(smiles), BOND_TYPES, size, size)
    real = torch.zeros(len(smiles), size)
    for m, molecule in enumerate(molecules):
        real[m, : molecule.GetNumAtoms()] = 1
        if molecule.GetNumHeavyAtoms() > 9 or molecule.GetNumAtoms() > 29:
            raise CorruptFileError(f"{smiles[m]} is larger than any molecule of QM9")
        for atom in molecule.GetAtoms():
            number, hybridization = atom.GetAtomicNum(), atom.GetHybridization()
            if number not in ELEMENTS:
                raise CorruptFileError(f"{smiles[m]} has {atom.GetSymbol()}, which is not in QM9")
            x[m, atom.GetIdx()] = torch.tensor(
                [
                    *(number == element for element in ELEMENTS),
                    number,
                    atom.GetIsAromatic(),
                    *(hybridization == kind for kind in hybridizations),
                    sum(neighbour.GetAtomicNum() == 1 for neighbour in atom.GetNeighbors()),
                ],
                dtype=torch.float32,
            )
        for bond in molecule.GetBonds():
            i, j, kind = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), bond_types.index(bond.GetBondType())
            bonds[m, kind, i, j] = bonds[m, kind, j, i] = 1
    sums = (bonds @ x.unsqueeze(1)).unbind(dim=1)
    return torch.cat([*sums, x], dim=-1), bonds, real
