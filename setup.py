"""The optional compiled part; everything else about the build is in pyproject.toml."""

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup

# Without contraction: a fused multiply-add would change Megatron's blending index.
ORDER = Pybind11Extension(
    "firstlight.data.native._order",
    ["src/firstlight/data/native/order.cpp"],
    cxx_std=17,
    extra_compile_args=["-O3", "-ffp-contract=off"],
)
ORDER.optional = True  # no compiler, no extension: numpy does the work

setup(ext_modules=[ORDER])
