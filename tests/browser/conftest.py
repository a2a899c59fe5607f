"""A real browser for the tests of pages: Chromium without a window."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
#: Where this is set a missing browser is a failure: `.ci/run` sets it, and installs one.
NEEDED = "FARM_TESTS_NEED_BROWSER"


@pytest.fixture(scope="session")
def chrome() -> Iterator[Chrome]:
    """One browser for all tests; it logs what it asks the network for."""
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        why = "needs Chromium and its driver: apt-get install chromium chromium-driver"
        if os.environ.get(NEEDED):
            pytest.fail(why)
        pytest.skip(why)
    options = ChromeOptions()
    options.binary_location = browser
    # a container's root has no sandbox, and its /dev/shm is small; the pages are our own
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    started = Chrome(options=options, service=Service(executable_path=driver))
    try:
        started.set_page_load_timeout(120)
        started.set_script_timeout(120)
        yield started
    finally:
        started.quit()
