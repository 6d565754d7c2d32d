# Podthaw. `make help` lists the targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# The stamp's name carries the locks' content: a changed lock installs again, an unchanged never.
STAMP  := $(VENV)/.installed-$(shell cat requirements/dev.lock pyproject.toml | sha256sum | cut -c1-16)

.DEFAULT_GOAL := help
.PHONY: help setup lock lint format unit node test programs demo bench clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## a virtual environment in .venv with the locked dependencies

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Podthaw needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	@$(PYTHON) -m venv --clear $(VENV) || \
	  { echo "no working venv module: on Debian or Ubuntu, apt-get install python3-venv" >&2; exit 1; }
	@echo "== installing the locked dependencies"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

lock: ## make requirements/*.lock again from pyproject.toml
	requirements/lock.sh

lint: setup ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## format and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

unit: setup ## the tests that need no node
	$(BIN)/pytest -m "not node and not bench"

node: setup ## build the test node's images and programs into the cache
	$(BIN)/python -m tests.node

test: setup ## everything: lint, unit, and the tests on the node
	@$(BIN)/python -m tests.stages

programs: setup ## real programs captured and restored: nginx, PostgreSQL, Java … (not part of test)
	$(BIN)/python -m tests.programs $(ONLY)

demo: setup ## one pod cold, captured, then restored: under a real kubelet
	$(BIN)/python -m examples.demo

bench: setup ## all measurements beside each other (QUICK=1: some), for docs/benchmarks.md
	$(BIN)/python -m tests.bench $(if $(QUICK),--quick)

clean: ## remove the virtual environment and build/ (the cache stays)
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
