# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml constraints.txt CMakeLists.txt $(wildcard csrc/*)
PYTEST_WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format types check bench clean

help: ## Show these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "bilstm needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The stamp names what is installed; the native engine is built again when its sources change.
$(VENV)/.installed-demo: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[train]'
	@touch $@

$(VENV)/.installed-test: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $@ $(VENV)/.installed-demo

$(VENV)/.installed-dev: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.installed-test $(VENV)/.installed-demo

setup: $(VENV)/.installed-dev ## Make .venv with everything a developer needs

demo: $(VENV)/.installed-demo ## Train, evaluate and report on bundled data (about a minute)
	$(BIN)/bilstm demo --output demo-model

test: $(VENV)/.installed-test ## Install what the tests need, then run them
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile

lint: $(VENV)/.installed-dev ## Check style
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: $(VENV)/.installed-dev ## Rewrite files in the project's style
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

types: $(VENV)/.installed-dev ## Check types
	$(BIN)/pyright

check: lint types test ## Everything that must hold before a change is merged

bench: ## Say how the published numbers are measured
	@sed -n '1,40p' benchmarks/README.md

clean: ## Remove what make made (not the models you trained)
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis demo-model demo-model-data demo-model.checkpoint
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -exec rm -rf {} +
