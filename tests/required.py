"""`pytest -p tests.required`: a test that is skipped, or expected to fail, has failed.

CI installs all that the tests need, so there a skip can only mean that something went untested unnoticed.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outermost: what the others made of it is what counts
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skipped (or xfailed) test into a failed one that gives the reason."""
    report = yield
    _refuse(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn a module that skips itself into an error that gives the reason."""
    report = yield
    _refuse(report)
    return report


def _refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else vars(report).get("wasxfail", "")
        vars(report).pop("wasxfail", None)  # pytest counts no failure that carries it
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: not allowed to be left out: {reason}"
