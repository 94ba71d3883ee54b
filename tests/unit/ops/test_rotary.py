"""Rotary embedding: both layouts of pairs, YaRN's and Llama 3.1's frequencies, DeepSeek's attention temperature."""

import math

import pytest
import torch
from torch import Tensor

from firstlight.ops.rotary import (
    RotaryTable,
    frequencies,
    llama3_frequencies,
    rotate_half_split,
    rotate_interleaved,
    yarn_frequencies,
    yarn_mscale,
)

WIDTH = 64
# DeepSeek-V3's rope section (its config.json).
DEEPSEEK = {"theta": 10000.0, "factor": 40.0, "original_length": 4096, "beta_fast": 32.0, "beta_slow": 1.0}


def table(frequencies_f: Tensor, length: int, *, first: int = 0) -> RotaryTable:
    """Positions `first`, `first` + 1 ... of one row."""
    angles = torch.arange(first, first + length, dtype=torch.float64)[:, None] * frequencies_f.double()
    return RotaryTable(cos_sf=angles.cos(), sin_sf=angles.sin())


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_plain_frequencies() -> None:
    expected = [10000.0 ** (-2 * pair / WIDTH) for pair in range(WIDTH // 2)]
    torch.testing.assert_close(frequencies(WIDTH, 10000.0).double(), torch.tensor(expected).double(), rtol=1e-6, atol=0)


def test_interleaved_turns_each_pair_as_a_complex_number() -> None:
    x, plain_f = drawn(2, 3, 5, WIDTH, seed=0), frequencies(WIDTH, 10000.0)
    out = rotate_interleaved(x, table(plain_f, 5))
    turned = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    turned = turned * torch.polar(torch.ones(5, 32).double(), torch.arange(5.0)[:, None] * plain_f.double())
    torch.testing.assert_close(out, torch.cat((turned.real, turned.imag), -1))


def test_half_split_is_interleaved_after_permuting_the_rows_of_the_weights() -> None:
    # What an importer does with DeepSeek's projections for a half-split kernel: exact, not only close.
    order = torch.cat((torch.arange(0, WIDTH, 2), torch.arange(1, WIDTH, 2)))
    weight, hidden = drawn(WIDTH, 24, seed=1), drawn(1, 2, 9, 24, seed=2)
    angles = table(frequencies(WIDTH, 10000.0), 9)
    interleaved = rotate_interleaved(hidden @ weight.T, angles)
    assert torch.equal(rotate_half_split((hidden @ weight.T)[..., order], angles), interleaved)
    torch.testing.assert_close(rotate_half_split(hidden @ weight[order].T, angles), interleaved)
    assert not torch.allclose(rotate_half_split(hidden @ weight.T, angles), interleaved)


@pytest.mark.parametrize("rotate", [rotate_interleaved, rotate_half_split])
def test_products_depend_on_the_distance_only(rotate: object) -> None:
    query, key, plain_f = drawn(1, 1, 1, 8, seed=3), drawn(1, 1, 1, 8, seed=4), frequencies(8, 100.0)

    def product(query_position: int, key_position: int) -> Tensor:
        turned = rotate(query, table(plain_f, 1, first=query_position))
        return (turned * rotate(key, table(plain_f, 1, first=key_position))).sum()

    torch.testing.assert_close(product(9, 4), product(105, 100))
    assert abs(product(9, 4) - product(9, 5)) > 1e-3


def test_table_is_used_in_the_dtype_of_what_is_turned() -> None:
    angles = table(frequencies(8, 100.0), 3)
    assert rotate_interleaved(torch.ones(1, 1, 3, 8, dtype=torch.bfloat16), angles).dtype == torch.bfloat16


def test_yarn_keeps_fast_pairs_and_stretches_slow_ones() -> None:
    # At d = 64 the ramp runs from pair 10 to pair 23 (DeepSeek-V3's inference code gives the same).
    plain_f = frequencies(WIDTH, 10000.0)
    used_f = yarn_frequencies(plain_f, **DEEPSEEK)
    assert torch.equal(used_f[:11], plain_f[:11])
    torch.testing.assert_close(used_f[23:], plain_f[23:] / 40, rtol=1e-6, atol=0)
    share = ((plain_f - used_f) / (plain_f - plain_f / 40))[10:24]
    torch.testing.assert_close(share, torch.arange(14) / 13, rtol=0, atol=1e-5)


def test_yarn_ramp_that_has_no_length_is_a_step() -> None:
    plain_f = frequencies(8, 10000.0)
    used_f = yarn_frequencies(plain_f, theta=10000.0, factor=4.0, original_length=64, beta_fast=1e6, beta_slow=1e6)
    assert torch.isfinite(used_f).all()
    torch.testing.assert_close(used_f[1:], plain_f[1:] / 4)


def test_yarn_by_the_formula() -> None:
    plain_f = frequencies(16, 500.0)
    used_f = yarn_frequencies(plain_f, theta=500.0, factor=8.0, original_length=256, beta_fast=16.0, beta_slow=2.0)
    ends = [16 * math.log(256 / (beta * 2 * math.pi)) / (2 * math.log(500.0)) for beta in (16.0, 2.0)]
    low, high = math.floor(ends[0]), math.ceil(ends[1])
    for pair, plain in enumerate(plain_f.tolist()):
        ramp = min(1.0, max(0.0, (pair - low) / (high - low)))
        assert used_f[pair].item() == pytest.approx(plain / 8 * ramp + plain * (1 - ramp), rel=1e-6)


def test_attention_temperature_of_deepseek() -> None:
    assert yarn_mscale(40.0, 1.0) == pytest.approx(1.36888794, abs=1e-8)
    assert 192**-0.5 * yarn_mscale(40.0, 1.0) ** 2 == pytest.approx(0.135234, abs=5e-7)
    assert yarn_mscale(40.0, 0.707) == pytest.approx(1.260804, abs=5e-7)  # DeepSeek-V2-Lite
    assert yarn_mscale(1.0, 1.0) == yarn_mscale(0.5, 1.0) == 1.0


def test_llama3_scaling_by_wavelength() -> None:
    # Llama 3.1: longer than 8192 / 1 is stretched by 8, shorter than 8192 / 4 is kept, between them a ramp.
    plain_f = frequencies(128, 500000.0)
    used_f = llama3_frequencies(plain_f, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_length=8192)
    kinds = set()
    for plain, used in zip(plain_f.double().tolist(), used_f.double().tolist(), strict=True):
        wavelength = 2 * math.pi / plain
        if wavelength > 8192:
            kinds.add("long")
            expected = plain / 8
        elif wavelength < 2048:
            kinds.add("short")
            expected = plain
        else:
            kinds.add("between")
            smooth = (8192 / wavelength - 1) / 3
            expected = (1 - smooth) * plain / 8 + smooth * plain
        assert used == pytest.approx(expected, rel=1e-5)
    assert kinds == {"long", "short", "between"}


def test_yarn_without_truncation_ramps_between_fractional_pairs() -> None:
    # gpt-oss: the ramp's ends are not rounded to whole pairs.
    plain_f, sizes = frequencies(WIDTH, 150000.0), {"theta": 150000.0, "factor": 32.0, "original_length": 4096}
    used_f = yarn_frequencies(plain_f, **sizes, beta_fast=32.0, beta_slow=1.0, truncate=False)
    low, high = (WIDTH * math.log(4096 / (beta * 2 * math.pi)) / (2 * math.log(150000.0)) for beta in (32.0, 1.0))
    assert low % 1 > 0.01
    assert high % 1 > 0.01
    for pair, plain in enumerate(plain_f.tolist()):
        ramp = min(1.0, max(0.0, (pair - low) / (high - low)))
        assert used_f[pair].item() == pytest.approx(plain / 32 * ramp + plain * (1 - ramp), rel=1e-6)
    assert not torch.equal(used_f, yarn_frequencies(plain_f, **sizes, beta_fast=32.0, beta_slow=1.0))
