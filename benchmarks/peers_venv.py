"""The environment of the programs that Firstlight is compared with, and which of them are in it.

As a program: makes it, in benchmarks/.venv or in the folder that is named, unless it is there.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
DEFAULT = ROOT / "benchmarks" / ".venv"
PROGRAMS = {"transformers": "transformers", "trainer": "accelerate", "litgpt": "litgpt", "megatron": "megatron.core"}
"""By name, the module without which it does not run."""
_REQUIRED = ("torch", "transformers", "numpy", "accelerate==1.15.0", "lightning==2.6.6", "megatron-core==0.16.1")
_ALONE = ("litgpt==0.5.13", "jsonargparse")
"""litgpt asks for an older huggingface_hub than transformers does; what is used of it runs with the newer one."""


def make(folder: Path) -> None:
    """Make it in `folder`, from PyPI, with the versions of torch and transformers that Firstlight is tested with."""
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), *_REQUIRED], check=True)
    subprocess.run([*pip, "--no-deps", *_ALONE], check=True)


def python(folder: Path) -> Path:
    """Its interpreter. Not resolved: it finds its packages by where it is called."""
    return folder.absolute() / "bin" / "python"


def missing(folder: Path) -> dict[str, str]:
    """Programs that do not run, each with why."""
    if not python(folder).exists():
        why = f"there is no environment at {folder}; `python benchmarks/peers_venv.py {folder}` makes it"
        return dict.fromkeys(PROGRAMS, why)
    check = "import importlib.util, sys\nfor name in sys.argv[1:]:\n"
    check += " top = name.partition('.')[0]\n print(int(importlib.util.find_spec(top) is not None))"
    command = [str(python(folder)), "-c", check, *PROGRAMS.values()]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return {
        name: f"{module} is not installed in {folder}"
        for (name, module), is_there in zip(PROGRAMS.items(), found, strict=True)
        if is_there == "0"
    }


def main() -> None:
    """Make it."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    if missing(folder):
        make(folder)


if __name__ == "__main__":
    main()
