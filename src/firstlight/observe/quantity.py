"""Numbers as people read them: with a unit, and with no more digits than mean something."""

import math

_COUNT_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))
_BYTE_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_FLOP_UNITS = ((1e18, "EFLOP/s"), (1e15, "PFLOP/s"), (1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1e6, "MFLOP/s"))


def in_count(value: float) -> str:
    """12_300_000 as `12.3M`; below ten thousand in full."""
    return _scaled(value, _COUNT_UNITS, separator="") if value >= 10_000 else f"{value:,.0f}"


def in_bytes(value: float) -> str:
    """1_200_000_000 as `1.2 GB` (decimal units)."""
    return _scaled(value, _BYTE_UNITS) if value >= 1000 else f"{value:.0f} B"


def in_flops(value: float) -> str:
    """1.5e12 as `1.5 TFLOP/s`."""
    return _scaled(value, _FLOP_UNITS) if value >= 1e6 else f"{value:,.0f} FLOP/s"


def in_percent(fraction: float) -> str:
    """0.41 as `41%`, 0.041 as `4.1%`."""
    percent = 100 * fraction
    return f"{percent:.1f}%" if percent < 9.95 else f"{percent:.0f}%"


def in_step_time(seconds: float) -> str:
    """0.637 as `637 ms`, 12.34 as `12.3 s`."""
    if seconds < 0.00995:
        return f"{1000 * seconds:.1f} ms"
    return f"{1000 * seconds:.0f} ms" if seconds < 9.9995 else f"{seconds:.1f} s"


def in_duration(seconds: float) -> str:
    """92 as `1m32s`, 7_300 as `2h01m`, 200_000 as `2d07h`."""
    if not math.isfinite(seconds):
        return "unknown"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def _scaled(value: float, units: tuple[tuple[float, str], ...], separator: str = " ") -> str:
    size, unit = next(((size, unit) for size, unit in units if value >= size), units[-1])
    number = value / size
    return f"{number:.1f}{separator}{unit}" if number < 99.95 else f"{number:,.0f}{separator}{unit}"
