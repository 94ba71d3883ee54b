# Everything runs inside .venv, made on first use from pyproject.toml and constraints.txt.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help quickstart test test-all check bench soak docs clean

PYTHON ?= $(shell python3.11 -c 'print("python3.11")' 2>/dev/null || echo python3)
BIN := .venv/bin
STAMP := .venv/installed
# Bytecode is written, whatever the environment says: without it every process that loads torch needs 4 s of a core, not 1.4.
unexport PYTHONDONTWRITEBYTECODE

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: $(STAMP)  ## Train a small model on this machine, from text to report, in runs/quickstart
	FIRSTLIGHT=$(BIN)/firstlight scripts/quickstart.sh

test: $(STAMP)  ## Run the tests without the long matrices, on two processes
	$(BIN)/pytest -n 2 -q -m "not slow"

test-all: $(STAMP)  ## Run every test, the long matrices too
	$(BIN)/pytest -n 2 -q --durations=15

check: $(STAMP)  ## Check format, style, types and the import order of the rooms
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)  ## Run every benchmark in benchmarks/, beside other programs from PyPI, and write docs/benchmarks.md
	@compgen -G 'benchmarks/bench_*.py' >/dev/null || { echo "bench: no benchmarks/bench_*.py to run" >&2; exit 1; }
	$(BIN)/python benchmarks/peers_venv.py
	@mkdir -p runs/benchmarks
	@set -o pipefail; for file in benchmarks/bench_*.py; do echo "== $$file"; \
		$(BIN)/python "$$file" | tee "runs/benchmarks/$$(basename "$$file" .py).txt" || exit 1; done
	$(BIN)/python scripts/write_benchmarks.py --from runs/benchmarks

soak: $(STAMP)  ## Kill ranks of a run at chance moments for 10 minutes, and compare its end
	$(BIN)/python scripts/soak.py

docs: $(STAMP)  ## Write the reference, the tables of layouts and of MindFormers' keys
	$(BIN)/python scripts/write_reference.py
	$(BIN)/python scripts/write_layouts.py
	$(BIN)/python scripts/write_translation.py

clean:  ## Remove .venv, caches, builds and the quickstart's runs
	rm -rf .venv build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	rm -rf runs/quickstart runs/quickstart-data
	find . -path ./.git -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(0 if sys.version_info >= (3, 11) else f"Firstlight needs Python 3.11 or newer; $(PYTHON) is {v}. Name another one: make PYTHON=/path/to/python")'
	$(PYTHON) -m venv .venv
	@# Without bytecode, which Python writes for what it imports: 70 s instead of 121 s on two cores.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	@touch $@
