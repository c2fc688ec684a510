import dataclasses
import json
import math

import pandas as pd
import pytest

from omnigrok.claims import (
    NOTHING,
    TABLE_END,
    TABLE_START,
    Between,
    Claim,
    ClaimError,
    at_least,
    at_most,
    at_the_end,
    known_deviations,
    last_over_first,
    markdown_table,
    measured_text,
    ratio,
    read_sidecars,
    replace_table,
    summary,
    together,
    verdict,
)
from omnigrok.errors import OmnigrokError


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
    for nothing in (None, NOTHING, pd.Series([], dtype=object), {}):
        result = Claim("id", "s", "src", at_most(1), lambda t, nothing=nothing: nothing).test({})
        assert result["status"] == "NOT RUN"
        assert measured_text(result) == "not run"
        assert (result["measured"], result["interval"]) == (None, None)


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        (lambda t: t["_curves"], "KeyError"),
        (lambda t: t[""].iloc[7], "IndexError"),
        (lambda t: t[""]["value"].astype(int).map({}.__getitem__), "KeyError"),
        (lambda t: max([]), "ValueError"),
        (lambda t: t[""].no_such_thing, "AttributeError"),
        (lambda t: 1 / 0, "ZeroDivisionError"),
        (lambda t: pd.Series(["three"]), "ValueError"),
        (lambda t: pd.Series([1.0, 2.0], index=[5, 5]), "several values a seed: \\[5, 5\\]"),
    ],
)
def test_a_measure_that_raises_is_an_error_that_names_the_claim(measure, said):
    broken = Claim("broken", "s", "src", at_most(1), measure)
    tables = {"": pd.DataFrame({"value": [1.0]})}
    with pytest.raises(ClaimError, match=f"^fig_x/broken cannot be measured: .*{said}") as caught:
        broken.test(tables, "fig_x")
    assert caught.value.__cause__ is not None
    with pytest.raises(ClaimError, match=r"^broken cannot be measured"):
        broken.test(tables)


def test_what_is_compared_with_nothing_is_nothing():
    values = pd.Series({0: 2.0, 1: 6.0})
    assert ratio(values, pd.Series({0: 4.0, 1: 2.0})).to_dict() == {0: 0.5, 1: 3.0}
    assert ratio(values, NOTHING).empty
    assert ratio(NOTHING, values).empty
    assert math.isnan(ratio(values, values.drop(1))[1])  # a seed that one of them lacks decides nothing
    assert [len(x) for x in together(values, NOTHING, values)] == [0, 0, 0]
    assert [x.tolist() for x in together(values, values)] == [[2, 6], [2, 6]]
    table = pd.DataFrame({0: [1.0, 2.0, 4.0], 1: [2.0, 9.0, 1.0]}, index=[10, 20, 40])
    assert at_the_end(table).tolist() == [4, 1]
    assert last_over_first(table).tolist() == [4, 0.5]
    assert last_over_first(table[:2]).tolist() == [2, 4.5]
    assert last_over_first(table[:1]).empty
    assert at_the_end(table[:0]).empty


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


def test_what_is_claimed_does_not_change():
    for fixed, field in ((Between(1, 2), "low"), (Claim("id", "s", "src", at_most(1), lambda t: None), "expect")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(fixed, field, 0)


def test_expected_ranges_say_what_they_are():
    assert [str(r) for r in (at_most(3), at_least(0.5), Between(1, 20_000))] == [
        "at most 3",
        "at least 0.5",
        "1 to 20000",
    ]
    assert at_most(3, paper=2).as_json() == {"low": None, "high": 3, "paper": 2, "paper_row": None}


def test_one_more_value_outside_is_no_pass():
    assert verdict((1.0, 2.0), 3, Between(1, 2), undecided=1) == "INCONCLUSIVE"
    assert verdict(None, 0, Between(1, 2), undecided=1) == "INCONCLUSIVE"
    assert verdict((0.0, 1.0), 3, Between(1, 2)) == "INCONCLUSIVE"  # touches the border from outside
    assert verdict((2.0, 3.0), 3, Between(1, 2)) == "INCONCLUSIVE"


def test_sidecars_are_those_with_claims_by_name(tmp_path):
    with pytest.raises(OmnigrokError, match=r"no figures in .*reproductions\.all"):
        read_sidecars(tmp_path)
    for name in ("b", "a"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"figure": name, "claims": []}))
    (tmp_path / "other.json").write_text("{}")
    assert [sidecar["figure"] for sidecar in read_sidecars(tmp_path)] == ["a", "b"]


def test_the_table_and_the_summary_have_these_bytes():
    result = claim([1.23456, 1.23456, 2.0], at_most(1.5, paper=1.23456))
    line = markdown_table([{"figure": "fig_x", "claims": [result]}]).splitlines()[-1]
    assert line == "| `fig_x/id` | It holds (a source) | 1.235 | at most 1.5 | 1.235 (1.235 to 2) | 3 | INCONCLUSIVE |"
    lines = summary([{"figure": "fig_x", "claims": [result]}]).splitlines()
    assert lines[0] == "figure".ljust(28) + "".join(f"{s:>14}" for s in ("PASS", "DEVIATES", "INCONCLUSIVE", "NOT RUN"))
    assert lines[1] == "fig_x".ljust(28) + "0".rjust(14) * 2 + "1".rjust(14) + "0".rjust(14)
    assert lines[2] == "all".ljust(28) + lines[1][28:]


@pytest.mark.parametrize("missing", [TABLE_START, TABLE_END])
def test_a_text_with_one_marker_has_no_place_for_the_table(missing):
    text = f"a\n{TABLE_START}\nold\n{TABLE_END}\nb\n".replace(missing, "")
    with pytest.raises(ValueError, match="no lines"):
        replace_table(text, "new")


def test_the_first_table_is_replaced_and_nothing_after_it():
    after = f"\n{TABLE_START}\nmentioned again\n{TABLE_END}\n"
    found = replace_table(f"{TABLE_START}\nold\n{TABLE_END}{after}", "new")
    assert found == f"{TABLE_START}\nnew\n{TABLE_END}{after}"
