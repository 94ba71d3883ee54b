"""For all tests: one thread for each worker of the test run; with more than there are cores, they mostly wait. At the
end, which layouts were compared with one rank."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """The number of threads is the process's, so it is put back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Layouts, cases (a model in a layout) and time of the tests that recorded them."""
    tests = [(dict(one.user_properties), one.duration) for one in terminalreporter.getreports("passed")]
    matrix = [(properties, duration) for properties, duration in tests if "layouts" in properties]
    if not matrix:
        return
    layouts = sorted({layout for properties, _ in matrix for layout in properties["layouts"]})
    cases = sum(len(properties["cases"]) for properties, _ in matrix)
    seconds = sum(duration for _, duration in matrix)
    terminalreporter.section("layouts that compute what one rank computes")
    for layout in layouts:
        terminalreporter.line(layout)
    terminalreporter.line(f"{len(layouts)} layouts in {cases} cases, {seconds:.0f} s")
