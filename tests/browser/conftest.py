"""A real browser for the tests of pages."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from selenium.webdriver import Chrome

from farm.errors import BadInput
from tests import browsers

#: Where this is set a missing browser is a failure: `.ci/run` sets it, and installs one.
NEEDED = "FARM_TESTS_NEED_BROWSER"


@pytest.fixture(scope="session")
def chrome() -> Iterator[Chrome]:
    """One browser for all tests."""
    with ExitStack() as undo:
        try:
            started = undo.enter_context(browsers.chromium())
        except BadInput as error:
            if os.environ.get(NEEDED):
                pytest.fail(str(error))
            pytest.skip(str(error))
        yield started
