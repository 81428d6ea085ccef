# Everything that a fresh machine with Python 3.11 or newer needs. Each target may be repeated at will:
# the environment is made once and brought up to date when pyproject.toml changes.

PYTHON ?= python3
# Exact versions to install, as in `make test CONSTRAINTS=constraints.txt`; empty installs the newest ones.
CONSTRAINTS ?=
# Threads of the benchmarks. Fixed, because timings with different numbers of threads cannot be compared.
THREADS ?= 2

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.interpeval$(if $(CONSTRAINTS),-constrained)
INPUTS := pyproject.toml $(CONSTRAINTS)

.DEFAULT_GOAL := help
.PHONY: help quickstart test lint bench clean

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' $(firstword $(MAKEFILE_LIST)) | while IFS='	' read -r name what; do \
		printf 'make %-11s %s\n' "$$name" "$$what"; done
	@echo 'Options: PYTHON=python3.12 (any from 3.11), CONSTRAINTS=constraints.txt (exact versions), THREADS=2 (bench)'

quickstart: $(STAMP)-base  ## score explanations on embedded data, leaving a leaderboard in results/quickstart
	@echo '==> running the main job: interpeval run'
	@$(BIN)/interpeval run

test: $(STAMP)-dev  ## run all tests and report coverage
	@echo '==> running all tests'
	@$(BIN)/python -m pytest --cov

lint: $(STAMP)-dev  ## check style, format and types
	@echo '==> checking style'
	@$(BIN)/ruff check .
	@echo '==> checking format'
	@$(BIN)/ruff format --check .
	@echo '==> checking types'
	@$(BIN)/basedpyright --pythonpath $(BIN)/python

bench: $(STAMP)-dev  ## measure the engine's overhead
	@echo '==> running the benchmarks on $(THREADS) threads'
	@OMP_NUM_THREADS=$(THREADS) MKL_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest tests/benchmarks --benchmark-only -s

clean:  ## delete the environment, caches and build products (not results/)
	@echo '==> deleting $(VENV), caches and build products'
	@rm -rf $(VENV) build dist htmlcov .coverage .coverage.* .pytest_cache .ruff_cache .hypothesis .benchmarks *.egg-info
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# The extra `dev` holds the base install too, so both are up to date after it.
$(STAMP)-dev: $(INPUTS)
	@$(call install,.[dev])
	@touch $(STAMP)-base $@

$(STAMP)-base: $(INPUTS)
	@$(call install,.)
	@touch $@

# uv does in seconds what takes pip minutes; where uv cannot be had or does not get through, pip does it.
define install
	set -e; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'make: `$(PYTHON)` must be Python 3.11 or newer, was' "$$($(PYTHON) --version 2>&1)"; \
		echo 'make: name another one, for instance: make PYTHON=python3.12 $(MAKECMDGOALS)'; exit 1; }; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		echo '==> making $(VENV)'; $(PYTHON) -m venv --clear $(VENV); fi; \
	echo '==> installing $(1) into $(VENV)'; \
	options="$(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) --editable $(1)"; \
	{ $(BIN)/python -m pip install --quiet --disable-pip-version-check uv \
		&& $(BIN)/uv pip install --python $(BIN)/python $$options; } \
	|| { echo '==> uv did not manage: installing with pip, which takes minutes'; \
		$(BIN)/python -m pip install $$options; }; \
	$(BIN)/python -c 'import torchvision' || { \
		echo 'make: torch and torchvision do not fit each other (see the error above): both must come from one source.'; \
		echo 'make: `make clean` and repeat; if the error stays, install a matching pair into $(VENV) by hand.'; exit 1; }
endef
