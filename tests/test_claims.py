import math

import pandas as pd
import pytest

from omnigrok.claims import (
    TABLE_END,
    TABLE_START,
    Between,
    Claim,
    at_least,
    at_most,
    known_deviations,
    markdown_table,
    measured_text,
    replace_table,
    summary,
    verdict,
)


@pytest.mark.parametrize(
    ("interval", "seeds", "status"),
    [
        ((1.2, 1.8), 3, "PASS"),
        ((1.0, 2.0), 3, "PASS"),
        ((0.5, 0.9), 3, "DEVIATES"),
        ((2.1, math.inf), 5, "DEVIATES"),
        ((0.9, 1.5), 3, "INCONCLUSIVE"),
        ((0.5, 2.5), 9, "INCONCLUSIVE"),
        ((1.2, 1.8), 2, "INCONCLUSIVE"),
        ((0.5, 0.9), 1, "INCONCLUSIVE"),
        (None, 0, "NOT RUN"),
    ],
)
def test_verdict(interval, seeds, status):
    assert verdict(interval, seeds, Between(1, 2)) == status


def claim(values, expect):
    return Claim("id", "It holds", "a source", expect, lambda tables: tables[""]["value"]).test(
        {"": pd.DataFrame({"value": values})}
    )


def test_a_claim_records_what_was_measured():
    result = claim([1.0, 2.0, 3.0], at_least(0.5, paper=7))
    assert result["status"] == "PASS"
    assert result["measured"] == 2.0
    assert result["interval"] == [1.0, 3.0]
    assert result["n_seeds"] == 3
    assert result["expected"] == {"low": 0.5, "high": None, "paper": 7, "paper_row": None, "text": "at least 0.5"}


def test_a_time_that_was_not_reached_deviates_and_is_json():
    result = claim([math.inf] * 3, at_most(100))
    assert result["status"] == "DEVIATES"
    assert result["measured"] is None
    assert measured_text(result) == "not reached (not reached to not reached)"
    assert claim([50.0, math.inf, math.inf], at_most(100))["status"] == "INCONCLUSIVE"


def test_a_seed_that_decides_nothing_is_not_dropped_silently():
    result = claim([1.0, 1.0, 1.0, math.nan], Between(0, 2))
    assert (result["n_seeds"], result["undecided_seeds"], result["status"]) == (3, 1, "INCONCLUSIVE")
    assert measured_text(result) == "1 (1 to 1), 1 more undecided"


def test_a_claim_with_nothing_to_measure_is_not_run():
    result = Claim("id", "s", "src", at_most(1), lambda t: t[""]["value"]).test({})
    assert result["status"] == "NOT RUN"
    assert measured_text(result) == "not run"


def test_a_claim_that_no_seed_decides_is_inconclusive():
    result = claim([math.nan] * 3, at_most(1))
    assert (result["n_seeds"], result["undecided_seeds"], result["status"]) == (0, 3, "INCONCLUSIVE")
    assert measured_text(result) == "3 undecided"


def test_the_table_replaces_what_is_between_its_markers():
    table = markdown_table([{"figure": "fig_x", "claims": [claim([1.0, 1.0, 1.0], Between(0, 2))]}])
    assert "| `fig_x/id` | It holds (a source) |  | 0 to 2 | 1 (1 to 1) | 3 | PASS |" in table
    text = replace_table(f"before\n{TABLE_START}\nstale\n{TABLE_END}\nafter", table)
    assert "stale" not in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter")
    assert replace_table(text, table) == text
    with pytest.raises(ValueError, match="no lines"):
        replace_table("nothing", table)


def test_summary_counts_every_verdict_of_every_figure():
    sidecars = [
        {"figure": "fig_a", "claims": [{"status": "PASS"}, {"status": "DEVIATES"}, {"status": "PASS"}]},
        {"figure": "fig_b", "claims": [{"status": "NOT RUN"}, {"status": "PASS"}]},
    ]
    lines = [line.split() for line in summary(sidecars).splitlines()[1:]]
    assert lines == [["fig_a", "2", "1", "0", "0"], ["fig_b", "1", "0", "0", "1"], ["all", "3", "1", "0", "1"]]


def test_known_deviations_are_those_under_their_heading():
    listed = "- `fig_a/one-two`: why\n- `fig_b/x`, unlike `fig_b/y`\n"
    text = f"- `fig_a/before` no\n\n## Known deviations\n\n{listed}\n## More\n\n- `fig_c/no`\n"
    assert known_deviations(text) == {"fig_a/one-two", "fig_b/x"}
    assert known_deviations("nothing") == set()
