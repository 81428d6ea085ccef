"""What a check found, for a terminal, for test runners (JUnit), and for GitHub (annotations, job summary).

Names come from files and from strangers: control characters are shown escaped, and whatever has a meaning in a format
is written so that it has none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from xml.etree import ElementTree

from tabulate import tabulate

from .check import Check, Finding, Verdict
from .names import printable

ACCEPT = "If that is meant, accept it with --update."
_ANNOTATIONS = 10  # as many as GitHub shows of one step
_WORDS: dict[Verdict, str] = {
    "worse": "worse",
    "different": "different",
    "missing": "missing",
    "changed": "must not be compared",
    "better": "better",
    "new": "new",
    "untested": "not compared",
    "same": "unchanged",
}
_HEADERS = ("", "row", "baseline", "now", "p (Holm)", "test")


def as_table(check: Check, *, accept: str = ACCEPT) -> str:
    """Lay out what is worse, missing, not comparable or better, with a summary on top, for a terminal.

    Args:
        check: what was found.
        accept: said below failures: how they are accepted.
    """
    shown = _shown(check)
    lines = [_summary(check)]
    if shown:
        rows = [[_WORDS[one.verdict], *_cells(one)] for one in shown]
        lines += ["", tabulate(rows, headers=_HEADERS, tablefmt="simple", disable_numparse=True)]
    reasons = [f"{one.row.text}: {one.reason}" for one in shown if one.reason]
    if reasons:
        lines += ["", *reasons]
    if check.failures:
        lines += ["", accept]
    return "\n".join(lines)


def as_junit(check: Check) -> str:
    """Write JUnit XML: one test case per row, failed where the check fails because of it."""
    counts = {"tests": len(check.findings), "failures": len(check.failures), "errors": 0}
    counts |= {"skipped": sum(_skipped(one) for one in check.findings)}
    numbers = {name: str(count) for name, count in counts.items()}
    root = ElementTree.Element("testsuites", numbers)
    suite = ElementTree.SubElement(root, "testsuite", {"name": "interpeval check", **numbers})
    for one in check.findings:
        about = ".".join(filter(None, (one.row.dataset, one.row.model, one.row.explainer))) or "interpeval"
        case = ElementTree.SubElement(suite, "testcase", {"classname": printable(about), "name": one.row.text})
        if one.failed:
            detail = ElementTree.SubElement(case, "failure", {"type": one.verdict, "message": _sentence(one)})
            detail.text = f"{_sentence(one)} {ACCEPT}"
        elif _skipped(one):
            ElementTree.SubElement(case, "skipped", {"message": _sentence(one)})
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=False)


def as_github(check: Check) -> str:
    """Write workflow commands: an error for each failure, as many as GitHub shows, and one notice."""
    failures = check.failures
    shown = failures if len(failures) <= _ANNOTATIONS else failures[: _ANNOTATIONS - 1]
    lines = [_error(_WORDS[one.verdict], f"{one.row.text}: {_sentence(one)}") for one in shown]
    if len(shown) < len(failures):
        left = len(failures) - len(shown)
        lines.append(_error("more", f"{left} further rows fail, see the log"))
    return "\n".join([*lines, f"::notice title=interpeval check::{_data(_summary(check))}"])


def as_summary(check: Check) -> str:
    """Write Markdown for a job summary: the verdict and a table of what is worse, missing, not comparable or better."""
    lines = [
        f"### interpeval check: {'failed' if check.failures else 'passed'}",
        "",
        markdown_text(_summary(check)),
        "",
    ]
    shown = _shown(check)
    if shown:
        lines += ["| | row | baseline | now | p (Holm) | test | |", "|---|---|---:|---:|---:|---|---|"]
        for one in shown:
            cells = [_WORDS[one.verdict], *_cells(one), one.reason]
            lines.append("| " + " | ".join(map(markdown_text, cells)) + " |")
        lines.append("")
    if check.failures:
        lines += [markdown_text(ACCEPT), ""]
    return "\n".join(lines)


FORMATS: Mapping[str, Callable[[Check], str]] = {
    "table": as_table,
    "junit": as_junit,
    "github": as_github,
    "summary": as_summary,
}
"""By name, what turns a check into text without a final newline."""


def _shown(check: Check) -> list[Finding]:
    """What a reader must see, failures first."""
    order = list(_WORDS)
    shown = [one for one in check.findings if one.failed or one.verdict == "better"]
    return sorted(shown, key=lambda one: order.index(one.verdict))


def _skipped(one: Finding) -> bool:
    return one.verdict in {"untested", "new"}


def _summary(check: Check) -> str:
    counts = check.counts
    said = ", ".join(f"{counts[verdict]} {word}" for verdict, word in _WORDS.items() if counts.get(verdict))
    tests = ", ".join(f"{count} {test}" for test, count in sorted(check.tests.items()))
    atol = f", atol {check.atol:g}" if check.atol else ""
    how = f"tests: {tests or 'none'}; alpha {check.alpha:g}{atol}{', any change' * check.any_change}"
    return f"{len(check.findings)} rows: {said or 'nothing to compare'} ({how})"


def _cells(one: Finding) -> list[str]:
    p = "" if one.p_holm is None else f"{one.p_holm:.2g}"
    return [one.row.text, _number(one.before), _number(one.after), p, one.test]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.6g}"


def _sentence(one: Finding) -> str:
    """What has become of a row, in words."""
    if one.verdict == "missing" and not one.reason:
        return f"missing: the baseline has {_number(one.before)}, this run has no such row."
    reason = f": {one.reason}" if one.reason else ""
    p = "" if one.p_holm is None else f", p {one.p_holm:.2g} after Holm, {one.test} test over {one.n} samples"
    return f"{_WORDS[one.verdict]}{reason}; {_number(one.before)} in the baseline, {_number(one.after)} now{p}."


def _error(what: str, text: str) -> str:
    return f"::error title={_property(f'interpeval check: {what}')}::{_data(text)}"


def _data(text: str) -> str:
    """Escape the message of a workflow command."""
    return printable(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """Escape a property of a workflow command."""
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def markdown_text(text: str) -> str:
    """Escape what Markdown, or HTML within it, would read."""
    escaped = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|~#!$@])", r"\\\1", escaped)
