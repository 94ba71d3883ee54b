"""A model class of a user's own, out of a folder that the command line names. No other folder's code is ever run."""

import hashlib
import importlib.util
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from firstlight.base.errors import InputError
from firstlight.config.families import FAMILY_CHOICES
from firstlight.config.model import ModelConfig
from firstlight.layout.stages import Stage
from firstlight.models.decoder import Decoder

FILE = "firstlight_model.py"
"""The file that is run, in the folder; what it imports from beside it is run with it."""

ATTRIBUTE = "MODEL"

_PACKAGE = "firstlight_registered"


@dataclass(frozen=True, kw_only=True)
class OwnModel:
    """What `MODEL` in that file is: where a configuration asks for `family`, `decoder` is built.

    The family's section of the configuration is that of the class, too. What the class has beside the family's layers
    is cut over the ranks of a tensor group as `decoder.own_cuts` says.
    """

    family: str
    decoder: type[Decoder]
    names: Sequence[str] = ()
    """What files of MindFormers call it: a class in `arch.type` or `architectures`, a `model_type`."""


@dataclass(frozen=True, kw_only=True)
class Registered:
    """An `OwnModel` and where it comes from."""

    model: OwnModel
    folder: Path
    sha256: str
    """Over all Python files below the folder."""

    def build(self, config: ModelConfig, stage: Stage | None = None) -> Decoder:
        """A decoder of the user's class. Raises InputError when `config` is of another family."""
        self.require_family(config)
        return self.model.decoder(config, stage)

    def require_family(self, config: ModelConfig) -> None:
        """Raise InputError when `config` is of another family than the class stands for."""
        if config.family != self.model.family:
            raise InputError(
                f"model.family = {config.family}, but the class in {self.folder / FILE} stands for "
                f"{self.model.family}; leave --register-path out, or change one of them"
            )

    def facts(self) -> Mapping[str, str]:
        """For the run's record."""
        return {"folder": str(self.folder.absolute()), "class": self.model.decoder.__name__, "sha256": self.sha256}

    def describe(self) -> str:
        """For the log."""
        return (
            f"model class {self.model.decoder.__name__} for the family {self.model.family}, run from "
            f"{self.folder / FILE}, sha256 {self.sha256}"
        )


def register(folder: Path) -> Registered:
    """Run FILE in `folder` and take what it registers. Raises InputError when it holds nothing that can be taken."""
    path = folder / FILE
    if not path.is_file():
        raise InputError(f"--register-path {folder}: there is no {FILE}; it defines {ATTRIBUTE}, an OwnModel")
    digest = _digest(folder)
    model = getattr(_run(folder), ATTRIBUTE, None)
    if not isinstance(model, OwnModel):
        raise InputError(f"{path}: {ATTRIBUTE} is {model!r}; it must be a firstlight.models.registered.OwnModel")
    if model.family not in FAMILY_CHOICES:
        raise InputError(f"{path}: family = {model.family!r} is none; use one of {', '.join(FAMILY_CHOICES)}")
    decoder: object = model.decoder
    if not (isinstance(decoder, type) and issubclass(decoder, Decoder)):
        raise InputError(f"{path}: decoder = {decoder!r} is no class made from firstlight.models.decoder.Decoder")
    return Registered(model=model, folder=folder, sha256=digest)


def _run(folder: Path) -> ModuleType:
    """The module, in a package that is the folder, so that `from .layers import Gain` finds what lies beside it.

    It is what the digest says: neither compiled earlier nor left from another folder. An error of the user's code is
    the user's to see, with its traceback.
    """
    for name in [name for name in sys.modules if name.partition(".")[0] == _PACKAGE]:
        del sys.modules[name]
    package = ModuleType(_PACKAGE)
    package.__path__ = [str(folder)]
    sys.modules[_PACKAGE] = package
    name = f"{_PACKAGE}.{Path(FILE).stem}"
    specification = importlib.util.spec_from_file_location(name, folder / FILE)
    assert specification is not None, "a path that ends in .py"
    assert specification.loader is not None, "a path that ends in .py"
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    before = sys.pycache_prefix
    with tempfile.TemporaryDirectory(prefix="firstlight-") as compiled:
        sys.pycache_prefix = compiled
        try:
            specification.loader.exec_module(module)
        finally:
            sys.pycache_prefix = before
    return module


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
