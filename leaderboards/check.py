r"""Has anything become worse? Every row of a baseline against the row of another run, one verdict each.

Worse is a failure; with `any_change` better is one, too. Three tests, the sharpest that the two sides allow:

`exact`
    Seed, samples, metric version, weights, device and version of PyTorch agree, the device is a CPU and the explainer
    repeats itself: then the values agree too, and one that is worse by more than `atol` is worse.
`paired`
    Seed or code may differ, and the scores of every sample are at hand on both sides. Under "nothing changed" the two
    scores of an image were drawn alike and can be exchanged: a sign-flip test of the differences
    (`interpeval.leaderboards.paired`), one-sided in the direction of the metric.
`interval`
    Otherwise: Welch's test with standard errors from the intervals. It takes the images for drawn anew, so it notices
    less, and with the same images errs on the side of silence.

p-values are adjusted by Holm over all rows that are tested, so that a check of an unchanged subject fails with
probability `alpha` at most. With `atol`, what is tested is whether a row is worse by more than it.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from .baseline import Baseline, Row, Samples, as_written
from .names import printable
from .paired import FLIPS, holm, sign_flip_test
from .record import CLASS_MEAN, Record
from .statistics import CONFIDENCE, SMALL, Sampling

ALPHA = 0.01
"""Probability, at most, that a check fails though nothing has changed."""

Verdict = Literal["same", "better", "different", "worse", "missing", "changed", "untested", "new"]
Test = Literal["exact", "paired", "interval", ""]
FAILURES: frozenset[Verdict] = frozenset({"worse", "different", "missing", "changed"})

# One draw serves all samples, so that under another seed their scores move together: no test over samples holds.
_SHARED_DRAWS = frozenset({"parameter_randomization"})
_PROMISING = 0.01  # p-values below this are worth more flips


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What has become of one row.

    Attributes:
        row: what it speaks of.
        verdict: `same` (no change, or none that is more than chance), `better`, `different` (better, where no number
            may move), `worse`, `missing` (not in the other run), `changed` (must not be compared), `untested` (cannot
            be compared), or `new` (not in the baseline).
        test: how it was compared; empty where it was not.
        before: value in the baseline.
        after: value now.
        p: p-value of the one-sided test in the direction of the change; `None` without a test.
        p_holm: the same, adjusted for all rows that were tested, and for both directions where better is a failure.
        n: number of samples that the test rests on; now, where the two sides differ in it.
        reason: in words, where the numbers do not say it.
    """

    row: Row
    verdict: Verdict
    test: Test = ""
    before: float | None = None
    after: float | None = None
    p: float | None = None
    p_holm: float | None = None
    n: int = 0
    reason: str = ""

    @property
    def failed(self) -> bool:
        """Whether the check fails because of this row."""
        return self.verdict in FAILURES


@dataclass(frozen=True)
class Check:
    """What has become of all rows.

    Attributes:
        findings: one per row, sorted by row.
        alpha: probability, at most, of a failure where nothing has changed.
        atol: how much worse (with `any_change`: how far off) a value may be.
        any_change: whether better is a failure, too.
    """

    findings: tuple[Finding, ...]
    alpha: float
    atol: float
    any_change: bool = False

    @property
    def failures(self) -> list[Finding]:
        """The rows because of which the check fails."""
        return [finding for finding in self.findings if finding.failed]

    @property
    def counts(self) -> Mapping[Verdict, int]:
        """Number of rows by verdict."""
        return Counter(finding.verdict for finding in self.findings)

    @property
    def tests(self) -> Mapping[Test, int]:
        """Number of rows by how they were compared."""
        return Counter(finding.test for finding in self.findings if finding.test)


@dataclass(frozen=True, kw_only=True)
class _Tested:
    """A row under a statistical test: p-values that it is worse and that it is better; NaN where nothing differs."""

    finding: Finding
    worse: float
    better: float


@dataclass(frozen=True, eq=False)
class _Losses:
    """What every sample (or cluster), in the order of its name, adds to the loss of a row, and to that of its reverse.

    Attributes:
        key: equal for rows whose samples and clusters are the same.
        worse: `(C,)` parts of `mean of what the samples lost - atol`.
        better: `(C,)` parts of `mean of what they gained - atol`.
        n: number of samples that count on both sides.
        differ: whether any sample differs.
    """

    key: tuple[tuple[str, ...], tuple[str, ...]]
    worse: NDArray[np.float64]
    better: NDArray[np.float64]
    n: int
    differ: bool


def check(
    before: Baseline, after: Baseline, *, alpha: float = ALPHA, atol: float = 0.0, any_change: bool = False
) -> Check:
    """Compare every row of a baseline with the same row of another run.

    A row is `worse` if its test says so, or if the explainer fails on a larger share of the samples than before;
    wall times are not compared.

    Args:
        before: the baseline.
        after: what is checked.
        alpha: probability, at most, that an unchanged row is called worse (or different), over all rows together.
        atol: how much worse (with `any_change`: how far off) a value may be, in units of the metric.
        any_change: call rows that are better `different`, which is a failure: a bug may also raise a number. So are
            rows that count more samples than before, or any where there was none. p-values are doubled, for two
            directions.

    Raises:
        ValueError: if `alpha` or `atol` is not what it must be.

    Example:
        >>> from interpeval.leaderboards.record import Record
        >>> texts = ("dataset_revision", "model_digest", "interpeval", "torch", "captum")
        >>> def run(value, **changes):
        ...     fields = dict(
        ...         dataset="digits", model="lenet", explainer="gradient", explainer_params="{}", metric="top_k",
        ...         metric_version=1, variant="", value=value, ci_low=value - 0.1, ci_high=value + 0.1, seed=0, n=100,
        ...         higher_is_better=True, n_invalid=0, n_degenerate=0, n_no_truth=0, device="cpu", kind="measured",
        ...     )
        ...     return Baseline.of([Record(**dict.fromkeys(texts, "any"), **(fields | changes))])
        >>> for now in (run(0.8), run(0.79), run(0.75, seed=1), run(0.5, seed=1), run(0.8, metric_version=2)):
        ...     (found,) = check(run(0.8), now).findings
        ...     print(f"{found.verdict} {found.test}".rstrip())
        same exact
        worse exact
        same interval
        worse interval
        changed
    """
    if not 0 < alpha < 1:
        raise ValueError(f"`alpha` must lie between 0 and 1, was {alpha}")
    if not 0 <= atol < math.inf:
        raise ValueError(f"`atol` must be a finite number from 0, was {atol}")
    findings: list[Finding] = []
    by_interval: list[_Tested] = []
    losses: dict[Row, _Losses] = {}
    for row, record in before.records.items():
        if record.kind == "not_applicable":
            continue
        found = _compared(row, before, after, atol=atol, any_change=any_change)
        if isinstance(found, _Losses):
            losses[row] = found
        elif isinstance(found, _Tested):
            by_interval.append(found)
        else:
            findings.append(found)
    sides = 2 if any_change else 1
    paired = _sign_flips(losses, before, after, flips=math.ceil(5 * sides * (len(losses) + len(by_interval)) / alpha))
    findings += _adjusted([*by_interval, *paired], alpha, sides)
    findings += [
        Finding(row=row, verdict="new", after=record.value, n=record.n)
        for row, record in after.records.items()
        if record.kind == "measured" and (row not in before.records or before.records[row].kind == "not_applicable")
    ]
    if any_change:
        findings = [replace(one, verdict="different") if one.verdict == "better" else one for one in findings]
    return Check(tuple(sorted(findings, key=lambda finding: finding.row)), alpha, atol, any_change)


def _compared(
    row: Row, before: Baseline, after: Baseline, *, atol: float, any_change: bool
) -> Finding | _Tested | _Losses:
    """Compare one row as sharply as can be."""
    old, new = before.records[row], after.records.get(row)
    if new is None:
        return Finding(row=row, verdict="missing", before=old.value)
    one, two = before.samples.get(row), after.samples.get(row)
    finding = Finding(row=row, verdict="same", before=old.value, after=new.value, n=new.n)
    said = _settled(finding, old, new, any_change=any_change) or _fewer(finding, old, new, one, two)
    if said is not None:
        return said
    subject = row.dataset, row.model, row.explainer
    repeats = subject not in before.unrepeatable | after.unrepeatable
    if repeats and _same_arithmetic(old, new) and (one is None or two is None or len(one.ids) == len(two.ids)):
        return _exact(finding, _loss(old, new), atol)
    if old.seed != new.seed and row.metric in _SHARED_DRAWS:
        reason = f"one draw serves all samples: repeat with the seed of the baseline, {old.seed}"
        return replace(finding, verdict="untested", reason=reason)
    if one is not None and two is not None and old.model_digest == new.model_digest:
        found = _losses(row, one, two, sign=1 if old.higher_is_better else -1, atol=atol)
        if found is not None:
            return found
    return _by_interval(finding, old, new, atol)


def changes_of_meaning(old: Record, new: Record) -> str:
    """Say why two numbers of one row must not be compared; empty if they may."""
    for name, what in (
        ("dataset_revision", "revision of the dataset"),
        ("metric_version", "version of the metric"),
        ("higher_is_better", "direction: higher is better"),
    ):
        one, two = getattr(old, name), getattr(new, name)
        if one != two:
            return printable(f"{what} was {one}, is {two}")
    return ""


def _settled(finding: Finding, old: Record, new: Record, *, any_change: bool) -> Finding | None:
    """Return what needs no test."""
    changed = changes_of_meaning(old, new)
    if new.kind == "not_applicable" and not changed:
        changed = f"does not apply any more: {new.source}"
    if changed:
        return replace(finding, verdict="changed", reason=printable(changed))
    return _uncounted(finding, old, new, any_change=any_change)


def _fewer(finding: Finding, old: Record, new: Record, one: Samples | None, two: Samples | None) -> Finding | None:
    """Return that samples of the baseline are missing, as they are where a part of a run failed."""
    if one is not None and two is not None:
        missing, size = len(set(one.ids) - set(two.ids)), len(one.ids)
    else:  # those that were skipped count among the degenerate ones
        missing, size = _size(old) - _size(new) - new.n_degenerate, _size(old)
    if missing <= 0:
        return None
    return replace(finding, verdict="missing", reason=f"{missing} of the {size} samples of the baseline are missing")


def _uncounted(finding: Finding, old: Record, new: Record, *, any_change: bool) -> Finding | None:
    """Return what the values do not say, or must not be asked."""
    if finding.row.of_the_machine:
        return replace(finding, verdict="untested", reason="says more about the machine")
    more = new.n_invalid * _size(old) - old.n_invalid * _size(new)
    if more > 0 or (more < 0 and any_change):
        verdict: Verdict = "worse" if more > 0 else "better"
        reason = f"fails on {new.n_invalid} of {_size(new)} samples, in the baseline on {old.n_invalid} of {_size(old)}"
        return replace(finding, verdict=verdict, reason=reason)
    if any_change and (old.value is None) != (new.value is None):
        return replace(finding, verdict="different", reason="samples count on one of the two sides only")
    if old.value is None or new.value is None:
        missing = "baseline" if old.value is None else "other run"
        return replace(finding, verdict="untested", reason=f"no sample counts in the {missing}")
    return None


def _size(record: Record) -> int:
    return record.n + record.n_invalid + record.n_no_truth


def _same_arithmetic(old: Record, new: Record) -> bool:
    names = ("seed", "model_digest", "device", "torch", "n", "n_invalid", "n_no_truth")
    return old.device == "cpu" and all(getattr(old, name) == getattr(new, name) for name in names)


def _loss(old: Record, new: Record) -> float:
    """By how much a row is worse, from values as they are written."""
    values = np.array([old.value, new.value], dtype=np.float64)
    one, two = as_written(values).tolist()
    return one - two if old.higher_is_better else two - one


def _exact(finding: Finding, loss: float, atol: float) -> Finding:
    verdict: Verdict = "worse" if loss > atol else "better" if loss < -atol else "same"
    reason = "seed, samples, weights and versions agree, the value does not: its code may differ" if loss else ""
    return replace(finding, verdict=verdict, test="exact", reason=reason)


def _by_interval(finding: Finding, old: Record, new: Record, atol: float) -> Finding | _Tested:
    """Welch's test of two means whose standard errors are read off their intervals."""
    loss = _loss(old, new)
    if loss == 0:
        return _Tested(finding=replace(finding, test="interval"), worse=math.nan, better=math.nan)
    one, two = _standard_error(old), _standard_error(new)
    if one is None or two is None:
        return replace(finding, verdict="untested", reason="a single sample has no interval")
    error = math.hypot(one, two)
    if error == 0:
        worse, better = float(loss <= atol), float(-loss <= atol)
    else:
        freedom = error**4 / (one**4 / (old.n - 1) + two**4 / (new.n - 1))
        worse = float(stdtr(freedom, (atol - loss) / error))
        better = float(stdtr(freedom, (atol + loss) / error))
    return _Tested(finding=replace(finding, test="interval"), worse=worse, better=better)


def _standard_error(record: Record) -> float | None:
    """Return the longer half of the interval over the quantile that it was made with; `None` without an interval."""
    if record.value is None or record.ci_low is None or record.ci_high is None or record.n < 2:
        return None
    half = max(record.ci_high - record.value, record.value - record.ci_low)
    tail = (1 + CONFIDENCE) / 2
    return float(half / stdtrit(record.n - 1 if record.n < SMALL else 1e9, tail))


def _losses(row: Row, one: Samples, two: Samples, *, sign: int, atol: float) -> _Losses | None:
    """Return what the samples lost; `None` if that cannot be said of this row."""
    by_class = row.variant.rpartition("/")[2] == CLASS_MEAN
    here = {name: place for place, name in enumerate(two.ids)}
    order = [here[name] for name in one.ids]
    classes = one.classes if one.classes is not None else None if two.classes is None else two.classes[order]
    clusters = one.clusters or (tuple(two.clusters[place] for place in order) if two.clusters else ())
    if by_class and classes is None:
        return None
    sampling = Sampling.of(one.ids, classes=classes if by_class else None, clusters=clusters or None)
    loss = (sign * (one.values - two.values[order]))[sampling.order]
    valid = ~np.isnan(loss)
    if not valid.any():
        return None
    loss = np.where(valid, loss, 0.0)
    shares = sampling.shares(valid[:, None])
    worse, better = (sampling.totals(shares * (part - atol)[:, None])[:, 0] for part in (loss, -loss))
    key = one.ids, clusters
    return _Losses(key, worse, better, int(valid.sum()), bool(loss.any()))


def _sign_flips(losses: Mapping[Row, _Losses], before: Baseline, after: Baseline, *, flips: int) -> list[_Tested]:
    """Test rows by the differences of their samples, those of the same samples together."""
    together: dict[object, list[Row]] = defaultdict(list)
    for row, found in losses.items():
        together[found.key].append(row)
    tested: list[_Tested] = []
    for rows in together.values():
        worse = _one_sided(np.stack([losses[row].worse for row in rows], axis=1), flips)
        better = _one_sided(np.stack([losses[row].better for row in rows], axis=1), flips)
        for place, row in enumerate(rows):
            old, new, found = before.records[row], after.records[row], losses[row]
            finding = Finding(row=row, verdict="same", before=old.value, after=new.value, n=found.n, test="paired")
            p = (float(worse[place]), float(better[place])) if found.differ else (math.nan, math.nan)
            tested.append(_Tested(finding=finding, worse=p[0], better=p[1]))
    return tested


def _one_sided(parts: NDArray[np.float64], flips: int) -> NDArray[np.float64]:
    """`(P,)` p-values of sign-flip tests that the sums of `(C, P)` parts are above 0.

    A flip of all signs turns a sum into its negative, so that half of the two-sided p-value is that of a sum above 0.
    Sums that are promising under few flips get many, others under which their p-values can pass Holm's correction.
    """
    p = sign_flip_test(parts, seed=0, flips=FLIPS)
    promising = (p < 2 * _PROMISING) & (parts.sum(axis=0) > 0)
    if flips > FLIPS and promising.any():
        p[promising] = sign_flip_test(parts[:, promising], seed=1, flips=flips)
    return np.where(parts.sum(axis=0) > 0, p / 2, 1 - p / 2)


def _adjusted(tested: list[_Tested], alpha: float, sides: int) -> list[Finding]:
    """Turn p-values into verdicts; rows in which nothing differs do not count as tests."""
    worse, better = (np.array([getattr(one, name) for one in tested]) for name in ("worse", "better"))
    adjusted = holm(worse), holm(better)
    findings: list[Finding] = []
    for place, one in enumerate(tested):
        if math.isnan(one.worse):
            findings.append(one.finding)
            continue
        down = one.worse <= one.better
        p = min(1.0, sides * float(adjusted[0 if down else 1][place]))
        verdict: Verdict = "same" if p > alpha else "worse" if down else "better"
        findings.append(replace(one.finding, verdict=verdict, p=min(one.worse, one.better), p_holm=p))
    return findings
