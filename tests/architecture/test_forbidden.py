"""What no file may do: run what it reads, start a shell, pickle between ranks, read the environment, name a device.

Each has one safe way instead: safetensors and distributed checkpoints for state, tensors for collectives,
`base/world.py` for the environment, `parallel/device.py` for the device.
"""

import ast
import re
from collections.abc import Callable

import pytest

from tests.architecture.sources import SourceFile, imported_modules, planted, report, source_files

PICKLES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
LOADERS = {"torch.load", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
EVALUATORS = {"eval", "exec", "builtins.eval", "builtins.exec"}
OBJECT_COLLECTIVES = {
    "all_gather_object",
    "broadcast_object_list",
    "gather_object",
    "recv_object_list",
    "scatter_object_list",
    "send_object_list",
}
UNSAFE_ARGUMENTS = {("shell", True), ("allow_pickle", True), ("weights_only", False), ("typ", "unsafe")}

ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
READS_ENVIRONMENT = "base/world.py"
NAMES_THE_DEVICE = "parallel/device.py"


def unsafe(file: SourceFile) -> list[str]:
    """Calls and imports that would run code found in data, or a shell."""
    return [file.at(node, what) for node in file.nodes for what in _unsafe(file, node)]


def _unsafe(file: SourceFile, node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        modules = [name for name in imported_modules(node) if name.split(".")[0] in PICKLES]
        return modules + [alias.name for alias in node.names if alias.name in OBJECT_COLLECTIVES]
    if isinstance(node, ast.Attribute | ast.Name):
        name = file.dotted(node)
        if name in LOADERS | SHELLS | EVALUATORS:
            return [name]
        last = node.attr if isinstance(node, ast.Attribute) else node.id
        return [last] if last in OBJECT_COLLECTIVES else []
    if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
        pair = (node.arg, node.value.value)
        return [f"{node.arg}={node.value.value!r}"] if pair in UNSAFE_ARGUMENTS else []
    return []


def environment_reads(file: SourceFile) -> list[str]:
    """Uses of the process's environment outside the one file for it."""
    if file.path == READS_ENVIRONMENT:
        return []
    uses = [node for node in file.nodes if isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT]
    imports = [
        node
        for node in file.nodes
        if isinstance(node, ast.ImportFrom) and node.module == "os" and ENVIRONMENT & {a.name for a in node.names}
    ]
    return [file.at(node, f"the environment is read by {READS_ENVIRONMENT} alone") for node in [*uses, *imports]]


def device_names(file: SourceFile) -> list[str]:
    """The string "cuda" (or "cuda:0", f"cuda:{i}") and the module torch.cuda outside the one file for them."""
    if file.path == NAMES_THE_DEVICE:
        return []
    strings = [
        node
        for node in file.nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.match(r"cuda\b", node.value)
    ]
    attributes = [node for node in file.nodes if isinstance(node, ast.Attribute) and file.dotted(node) == "torch.cuda"]
    imports = [node for node in file.nodes if any(name.startswith("torch.cuda") for name in imported_modules(node))]
    places = [*strings, *attributes, *imports]
    return [file.at(node, f"the device is named in {NAMES_THE_DEVICE} alone") for node in places]


CHECKS = (unsafe, environment_reads, device_names)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_package(check: Callable[[SourceFile], list[str]]):
    findings = [finding for file in source_files() for finding in check(file)]
    assert not findings, report(findings)


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "import torch as t\nt.load('a')",
        "from torch import load\nload('a')",
        "eval('1')",
        "exec('1')",
        "import yaml\nyaml.load('a')",
        "import os\nos.system('ls')",
        "run('ls', shell=True)",
        "import numpy\nnumpy.load('a', allow_pickle=True)",
        "YAML(typ='unsafe')",
        "import torch.distributed as dist\ndist.all_gather_object(a, b)",
        "from torch.distributed import broadcast_object_list",
        "dist.scatter_object_list(a, b)",
        "dist.gather_object(a, b)",
    ],
)
def test_unsafe_is_found(text):
    assert unsafe(planted(text))


@pytest.mark.parametrize(
    "text", ["model.eval()", "re.compile('a')", "run(['ls'], shell=False)", "yaml = YAML()\nyaml.dump(a)"]
)
def test_safe_is_not_found(text):
    assert unsafe(planted(text)) == []


@pytest.mark.parametrize("text", ["import os\nos.environ['A']", "import os\nos.getenv('A')", "from os import environ"])
def test_environment_read_is_found(text):
    assert environment_reads(planted(text))
    assert environment_reads(planted(text, READS_ENVIRONMENT)) == []


@pytest.mark.parametrize(
    "text",
    ["a = 'cuda'", "a = 'cuda:1'", "a = f'cuda:{b}'", "import torch\ntorch.cuda.is_available()", "import torch.cuda"],
)
def test_device_name_is_found(text):
    assert device_names(planted(text))
    assert device_names(planted(text, NAMES_THE_DEVICE)) == []
