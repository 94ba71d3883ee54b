"""A headless browser for tests: Debian's chromium with its driver, by Selenium."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


def require_browser() -> None:
    """Skip the test, with the reason, where there is no browser."""
    pytest.importorskip("selenium", reason="selenium is not installed; pip install 'firstlight[dev]'")
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        pytest.skip("no browser: apt-get install chromium chromium-driver")


@contextmanager
def browser(*, width: int = 1280, height: int = 1000, is_dark: bool = False) -> Iterator[Any]:
    """A window of that many pixels, which keeps what pages write to the console."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(shutil.which("chromedriver")))
    try:
        driver.set_page_load_timeout(120)
        driver.set_script_timeout(60)
        sizes = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        yield driver
    finally:
        driver.quit()


def complaints(driver: Any) -> list[str]:
    """What the page has complained of in the console."""
    return [one["message"] for one in driver.get_log("browser") if one["level"] in ("SEVERE", "WARNING")]


def drawn(driver: Any) -> dict[str, dict[str, Any]]:
    """By title, what each chart of the page shows: its traces as x, y and z, and how many shapes are drawn."""
    found: dict[str, dict[str, Any]] = driver.execute_script(
        """
        const found = {};
        for (const panel of document.querySelectorAll("[data-chart]")) {
          const plot = panel.querySelector(".js-plotly-plot");
          found[panel.dataset.chart] = {
            traces: plot.data.map(one => ({ name: one.name, x: one.x, y: one.y, z: one.z })),
            shapes: plot.querySelectorAll(".scatterlayer path, .heatmaplayer image, .barlayer path").length,
            width: plot.getBoundingClientRect().width,
          };
        }
        return found;
        """
    )
    return found
