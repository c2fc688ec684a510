"""The share of omnigrok/ that tests must cover (fail_under in pyproject.toml) is asked of the whole run.

Of one file, or of a choice of tests, it says nothing. conftest.py takes the hooks from here.
"""

from __future__ import annotations

import pytest

CHOSEN = pytest.StashKey[bool]()


def pytest_deselected(items):
    """Some tests were left out, by -k, -m or the like."""
    for item in items[:1]:
        item.config.stash[CHOSEN] = True


def pytest_collection_finish(session):
    """Lift the threshold unless all tests are run."""
    config = session.config
    whole = {config.rootpath / path for path in config.getini("testpaths")}
    asked = {config.invocation_params.dir / path for path in config.args}
    coverage = config.pluginmanager.getplugin("_cov")
    if coverage is not None and (asked != whole or config.stash.get(CHOSEN, False)):
        coverage.options.cov_fail_under = 0
