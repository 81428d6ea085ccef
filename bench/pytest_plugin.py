"""For pytest: the fixture `interpeval`, whose `assert_no_regression` fails a test when explanations have become worse.

Installed with the package, so a test asks for the fixture by its name. Nothing heavy is imported before it is used.
`pytest --interpeval-update` shows the differences and takes what is found as the baseline from now on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ..leaderboards.baseline import Baseline, Row
    from ..leaderboards.check import Check

_OPTION = "--interpeval-update"
_UPDATED = pytest.StashKey[list[str]]()


class RegressionGuard:
    """What the fixture `interpeval` gives a test.

    Attributes:
        update: whether baselines are rewritten instead of being checked against.
        updated: what was said about each baseline that was rewritten.
    """

    def __init__(self, *, update: bool, updated: list[str]) -> None:
        self.update = update
        self.updated = updated

    def assert_no_regression(
        self,
        subject: tuple[Any, Any],
        dataset: Any,
        metrics: Sequence[Any],
        baseline: str | Path,
        *,
        alpha: float = 0.01,
        atol: float = 0.0,
        any_change: bool = False,
        seed: int = 0,
        limit: int | None = None,
        device: str = "auto",
        batch_size: int | None = None,
    ) -> Check:
        """Score the explanations of a model, and fail if a number is worse than in a baseline.

        The rows of the baseline that speak of this dataset, model, explainer and these metrics are checked, as
        `interpeval check` does; others are left alone.

        Args:
            subject: a model and an explainer (or a list of explainers), as `interpeval.bench.evaluate` takes them.
            dataset: a dataset, or its name.
            metrics: metrics or their names.
            baseline: a CSV of records, with the per-sample scores beside it, as `--interpeval-update` writes it.
            alpha: how probable a failure may be though nothing has changed.
            atol: how much worse (with `any_change`: how far off) a value may be.
            any_change: fail where a number is better, too.
            seed: seeds every draw; numbers must be equal if it is that of the baseline and the model is the same.
            limit: use the first samples only.
            device: `"auto"`, `"cpu"`, `"cuda"`, …
            batch_size: rows per call of the model; chosen by the memory there is if left out. Changes no value.

        Returns:
            What was found.

        Raises:
            ValueError, TypeError, LookupError, OSError: an argument or the baseline is not what it must be.
        """
        __tracebackhide__ = True
        from ..leaderboards.check import check
        from ..leaderboards.check_report import as_table
        from .evaluation import evaluate

        path = Path(baseline)
        before = self._read(path)
        model, explainer = _pair(subject)
        after = evaluate(
            model, explainer, dataset, metrics, seed=seed, limit=limit, device=device, batch_size=batch_size,
            controls=False,
        ).baseline  # fmt: skip
        concerned = before.only(_concerns(after))
        if not concerned.records and not self.update:
            raise ValueError(
                f"`{path}` has no row of this subject and these metrics: make them with `pytest {_OPTION}`"
            )
        found = check(concerned, after, alpha=alpha, atol=atol, any_change=any_change)
        if self.update:
            self._write(before, concerned, after, path)
            self.updated.append(f"{path}\n{as_table(found, accept='')}")
        elif found.failures:
            pytest.fail(as_table(found, accept=f"If that is meant, accept it with `pytest {_OPTION}`."), pytrace=False)
        return found

    def _read(self, path: Path) -> Baseline:
        from ..leaderboards.baseline import Baseline, read_baseline

        if path.exists():
            return read_baseline(path)
        if self.update:
            return Baseline({})
        raise FileNotFoundError(f"the baseline `{path}` does not exist: make it with `pytest {_OPTION}`")

    def _write(self, before: Baseline, concerned: Baseline, after: Baseline, path: Path) -> None:
        from ..leaderboards.baseline import write_baseline

        path.parent.mkdir(parents=True, exist_ok=True)
        write_baseline(before.only(lambda row: row not in concerned.records).joined(after), path)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that rewrites baselines."""
    parser.getgroup("interpeval").addoption(
        _OPTION, action="store_true", help="show what has changed and take it as the baseline from now on"
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show what was rewritten, and why."""
    for text in config.stash.get(_UPDATED, []):
        terminalreporter.section("interpeval: baseline rewritten")
        terminalreporter.line(text)


@pytest.fixture(name="interpeval")
def interpeval_fixture(pytestconfig: pytest.Config) -> RegressionGuard:
    """Check explanations against a baseline: `interpeval.assert_no_regression(subject, dataset, metrics, baseline)`."""
    updated = pytestconfig.stash.setdefault(_UPDATED, [])
    return RegressionGuard(update=bool(pytestconfig.getoption(_OPTION)), updated=updated)


def _pair(subject: tuple[Any, Any]) -> tuple[Any, Any]:
    if not isinstance(subject, tuple) or len(subject) != 2:
        raise TypeError(f"`subject` must be a pair (model, explainer), was {type(subject).__name__}")
    return subject


def _concerns(after: Baseline) -> Any:
    """Return what says whether a row of a baseline speaks of what was scored."""
    subjects = {(row.dataset, row.model, row.explainer) for row in after.records}
    metrics = {row.metric for row in after.records}

    def concerns(row: Row) -> bool:
        return (row.dataset, row.model, row.explainer) in subjects and row.metric in metrics

    return concerns
