"""The optional compiled part; everything else about the build is in pyproject.toml."""

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup


def compiled(name: str) -> Pybind11Extension:
    """An extension that may be missing: without a compiler numpy does the work."""
    extension = Pybind11Extension(
        f"firstlight.data.native._{name}",
        [f"src/firstlight/data/native/{name}.cpp"],
        cxx_std=17,
        # Without contraction: a fused multiply-add would change Megatron's blending index.
        extra_compile_args=["-O3", "-ffp-contract=off"],
    )
    extension.optional = True
    return extension


setup(ext_modules=[compiled("order"), compiled("gather")])
