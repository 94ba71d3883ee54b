import pytest

from firstlight.observe.quantity import in_bytes, in_count, in_duration, in_flops, in_percent, in_step_time


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (in_count(9_999), "9,999"),
        (in_count(12_300_000), "12.3M"),
        (in_count(671e9), "671B"),
        (in_bytes(512), "512 B"),
        (in_bytes(1.2e9), "1.2 GB"),
        (in_bytes(999_960), "1,000 kB"),
        (in_flops(1.5e12), "1.5 TFLOP/s"),
        (in_percent(0.41), "41%"),
        (in_percent(0.041), "4.1%"),
        (in_step_time(0.0042), "4.2 ms"),
        (in_step_time(0.637), "637 ms"),
        (in_step_time(12.34), "12.3 s"),
        (in_duration(59.4), "59s"),
        (in_duration(59.6), "1m00s"),
        (in_duration(92), "1m32s"),
        (in_duration(7_300), "2h01m"),
        (in_duration(200_000), "2d07h"),
        (in_duration(float("inf")), "unknown"),
    ],
)
def test_numbers_as_people_read_them(shown: str, expected: str) -> None:
    assert shown == expected
