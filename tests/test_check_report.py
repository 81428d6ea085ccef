"""What a check says, in every format: complete, valid, and with no name taken for an instruction."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from interpeval.leaderboards.baseline import Row
from interpeval.leaderboards.check import Check, Finding
from interpeval.leaderboards.check_report import FORMATS, as_github, as_junit, as_summary, as_table, markdown_text

ROW = Row("digits", "lenet", "gradient", "{}", "top_k", "")
HOSTILE = 'x|`<script>&"\x1b[31m\r\n::error::%,:]]>\ud800\u202e'


def finding(verdict, name="gradient", **changes):
    return Finding(row=ROW._replace(explainer=name), verdict=verdict, **changes)


def check_of(*findings):
    return Check(findings, 0.01, 0.0)


ALL = check_of(
    finding("worse", "a", test="paired", before=0.5, after=0.25, p=1e-5, p_holm=2e-5, n=64),
    finding("missing", "b", before=0.5),
    finding("changed", "c", before=0.5, after=0.6, reason="version of the metric was 1, is 2"),
    finding("better", "d", test="exact", before=0.5, after=0.75, n=64),
    finding("same", "e", test="exact", before=0.5, after=0.5, n=64),
    finding("untested", "f", before=1.0, after=2.0, reason="says more about the machine"),
    finding("new", "g", after=0.5, n=64),
)


def test_the_table_shows_what_matters_failures_first():
    table = as_table(ALL)
    summary, _, *lines = table.splitlines()
    assert summary == (
        "7 rows: 1 worse, 1 missing, 1 must not be compared, 1 better, 1 new, 1 not compared, 1 unchanged "
        "(tests: 2 exact, 1 paired; alpha 0.01)"
    )
    shown = [line.split()[:4] for line in lines if "digits, lenet" in line and ": top_k " in line]
    assert [line[0] for line in shown] == ["worse", "missing", "must", "better"]
    assert "c: top_k: version of the metric was 1, is 2" in table
    assert "--update" in table
    assert "--update" not in as_table(check_of(finding("same"), finding("better")))


def test_junit_has_one_case_per_row():
    root = ElementTree.fromstring(as_junit(ALL))  # noqa: S314  # ours
    (suite,) = root
    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "7", "failures": "3", "errors": "0", "skipped": "2",
    }  # fmt: skip
    cases = {case.get("classname").rpartition(".")[2]: [child.tag for child in case] for case in suite}
    assert cases == {
        "a": ["failure"], "b": ["failure"], "c": ["failure"], "d": [], "e": [], "f": ["skipped"], "g": ["skipped"],
    }  # fmt: skip
    assert suite[0][0].get("message") == (
        "worse; 0.5 in the baseline, 0.25 now, p 2e-05 after Holm, paired test over 64 samples."
    )


def test_github_gets_an_error_per_failure_and_one_notice():
    lines = as_github(ALL).splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["::error"] * 3 + ["::notice"]
    assert lines[0] == (
        "::error title=interpeval check%3A worse::digits, lenet, a: top_k: worse; 0.5 in the baseline, 0.25 now, "
        "p 2e-05 after Holm, paired test over 64 samples."
    )


@pytest.mark.parametrize(("count", "errors"), [(10, 10), (11, 10), (50, 10)])
def test_github_gets_no_more_errors_than_it_shows(count, errors):
    text = as_github(check_of(*(finding("missing", f"e{k}") for k in range(count))))
    assert text.count("::error ") == errors
    assert ("further rows" in text) == (count > errors)
    assert (f"{count - 9} further rows fail" in text) == (count > errors)


def test_the_summary_is_a_table_with_seven_cells_in_every_line():
    text = as_summary(ALL)
    assert text.startswith("### interpeval check: failed\n")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 4
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {8}
    assert as_summary(check_of(finding("same"))).startswith("### interpeval check: passed\n")


HOSTILE_CHECK = check_of(finding("worse", HOSTILE, reason="said", before=0.5, after=0.25), finding("better", HOSTILE))


@pytest.mark.parametrize("name", FORMATS)
def test_no_control_character_gets_through(name):
    text = FORMATS[name](HOSTILE_CHECK)
    assert [c for c in text if not c.isprintable() and c != "\n"] == []
    text.encode()


def test_hostile_names_stay_names_in_junit():
    root = ElementTree.fromstring(as_junit(HOSTILE_CHECK))  # noqa: S314  # ours
    assert len(root[0]) == 2
    assert "<script>" in root[0][0].get("name")


def test_hostile_names_start_no_workflow_command():
    lines = as_github(HOSTILE_CHECK).splitlines()
    assert len(lines) == 2
    assert r"\r\n::error::%25,:" in lines[0]
    assert lines[0].startswith("::error title=interpeval check%3A worse::digits")


def test_hostile_names_are_no_markup():
    text = as_summary(HOSTILE_CHECK)
    assert "<script>" not in text
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")} == {8}
    assert markdown_text("a|b`_<i>&") == r"a\|b\`\_&lt;i&gt;&amp;"


def test_hostile_names_cannot_escape_the_escape():
    """A backslash before a bar is escaped too, or it would take the escape of the bar for itself."""
    assert markdown_text("\\|") == r"\\\|"


def test_atol_is_said():
    assert "(tests: none; alpha 0.01, atol 0.001)" in as_table(Check((), 0.01, 0.001))
