"""A real browser without a window: Chromium and its driver, where they are installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from farm.errors import BadInput

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator[Chrome]:
    """A browser that logs what it asks the network for, gone afterwards.

    Raises:
        BadInput: there is none on this host; says what to install.
    """
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        raise BadInput("This needs Chromium and its driver: apt-get install chromium chromium-driver")
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
