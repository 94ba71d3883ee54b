"""Profiles of hardware: each number with its basis, files of the user's own, and what is refused."""

from pathlib import Path

import pytest

from firstlight.base.errors import InputError
from firstlight.cli.plan import PROFILES
from firstlight.plan.calibration import as_yaml
from firstlight.plan.hardware import profile_names, read_hardware

NAMES = ["a100", "ascend-910b", "b200", "cpu", "gb200", "h100", "h200", "h800"]


def test_the_profiles_are_those_that_help_names() -> None:
    assert profile_names() == NAMES
    assert PROFILES.replace(" or ", ", ").split(", ") == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_number_says_where_it_is_from(name: str) -> None:
    hardware = read_hardware(name)
    assert hardware.name == name
    assert len(hardware.figures()) >= 25
    assert all(figure.source for figure in hardware.figures().values())
    assert all(figure.value > 0 for figure in hardware.figures().values())
    assert hardware.peak.keys() == hardware.efficiency.products.keys()


def test_a_profile_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(as_yaml(read_hardware("h100")))
    assert read_hardware(str(path)) == read_hardware("h100")


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"--hardware v100 is no profile and no YAML file; use one of a100, ascend"):
        read_hardware("v100")


def test_what_is_wrong_in_a_file_is_said(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    text = as_yaml(read_hardware("h100")).replace("basis: spec", "basis: rumour", 1).replace("launch_seconds", "launch")
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_hardware(str(path))
    lines = str(caught.value).splitlines()
    assert any("devices_per_node.basis" in line for line in lines)
    assert any("launch_seconds: field required" in line for line in lines)
