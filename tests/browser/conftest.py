"""A headless Chromium for the pages; where there is none, the tests that need it are skipped and say so."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from sardonyx.report import Report, write

BROWSERS, DRIVER = ("chromium", "chromium-browser", "google-chrome"), "chromedriver"
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--window-size=1280,1000"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def chromium(profile: Path) -> webdriver.Chrome:
    """Starts a headless Chromium that logs its console and its requests."""
    browser, driver = next(filter(None, map(shutil.which, BROWSERS)), None), shutil.which(DRIVER)
    if browser is None or driver is None:
        pytest.skip(f"needs {BROWSERS[0]} and {DRIVER} on the PATH (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))


@pytest.fixture(scope="module")  # closed behind it: other tests look for processes that are left
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    started = chromium(tmp_path_factory.mktemp("chromium"))
    yield started
    started.quit()


@dataclass
class Page:
    """An open page."""

    browser: webdriver.Chrome
    url: str

    def all(self, selector: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent)"
        found: list[str] = self.run(script, selector)
        return found

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def click(self, element: WebElement) -> None:
        """Clicks on an element, in sight at once: a page that scrolls smoothly moves it away from the pointer."""
        self.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
        element.click()

    def requests(self) -> list[str]:
        """URLs that the page asked for, itself left out; what the browser's own pages ask for is not the page's."""
        messages = (json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance"))
        sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        urls = [each["request"]["url"] for each in sent if each["documentURL"] == self.url]
        assert self.url in urls, "requests are logged"
        return [url for url in urls if url != self.url and not url.startswith("data:")]


@pytest.fixture
def opened(browser: webdriver.Chrome, tmp_path: Path) -> Iterator[Callable[[Report], Page]]:
    """Opens a report from a file; afterwards the console must be empty and nothing may have been requested."""
    pages: list[Page] = []

    def open_page(report: Report) -> Page:
        page = Page(browser, write(report, tmp_path / "report.html").as_uri())
        for log in ("browser", "performance"):
            browser.get_log(log)
        browser.get(page.url)
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        assert page.requests() == []
    assert browser.get_log("browser") == []
