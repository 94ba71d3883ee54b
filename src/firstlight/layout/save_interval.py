"""How often saving pays, by what a save costs and how often something fails. Pure arithmetic."""

import math


def young_daly_seconds(cost: float, mean_time_between_failures: float) -> float:
    """Seconds from one save to the next at which saving and lost work together take the least time.

    `cost` is what a save takes from training. J. T. Daly, "A higher order estimate of the optimum checkpoint interval
    for restart dumps", Future Generation Computer Systems 22 (2006), equation 37; its first term is Young's.
    """
    if cost >= 2 * mean_time_between_failures:
        return mean_time_between_failures
    ratio = cost / (2 * mean_time_between_failures)
    young = math.sqrt(2 * cost * mean_time_between_failures)
    return young * (1 + math.sqrt(ratio) / 3 + ratio / 9) - cost
