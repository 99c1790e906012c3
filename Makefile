# Everything is set up from the hash-pinned locks into .venv; each target depends on that and costs nothing when it is fresh.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed
UV := .uv/bin/uv

.DEFAULT_GOAL := help
.PHONY: help install run once test check format bench lock

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 20

install: $(STAMP)  ## set up .venv from the lock files

$(UV):
	@$(PYTHON) -m venv .uv && .uv/bin/python -m pip install --quiet --disable-pip-version-check uv \
		|| echo "uv could not be installed; plain pip does the rest, slower" >&2

# uv removes from .venv what the lock does not list, so it lives in a venv of its own.
$(STAMP): requirements-dev.lock pyproject.toml | $(UV)
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@if [ -x $(UV) ]; then \
		VIRTUAL_ENV=.venv $(UV) pip sync --quiet --require-hashes requirements-dev.lock && \
		VIRTUAL_ENV=.venv $(UV) pip install --quiet --no-deps --no-build-isolation --offline --editable . ; \
	else \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index --editable . ; \
	fi
	@touch $@

run: install  ## the whole daemon on recorded data: no token, no key, no internet; Ctrl-C ends it
	@exec $(BIN)/infra-health --demo

once: install  ## one pass of every collector on the same data, then a table
	@$(BIN)/infra-health --demo --once

test: install  ## the whole test suite
	@$(BIN)/python -m pytest -n auto --dist loadgroup

check: install  ## format, lint, types, import rules, dependencies, tests
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/deptry service
	@$(MAKE) --no-print-directory test

format: install  ## format and mend what can be mended
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: install  ## the benchmarks: ratios against a baseline measured in the same run
	@$(BIN)/python -m bench

lock: $(UV)  ## resolve pyproject.toml anew into requirements*.lock
	@$(UV) lock --quiet --upgrade
	@$(UV) export --quiet --no-header --no-annotate --no-emit-project --format requirements-txt --no-dev -o requirements.lock
	@$(UV) export --quiet --no-header --no-annotate --no-emit-project --format requirements-txt --group dev -o requirements-dev.lock
	@$(UV) export --quiet --no-header --no-annotate --no-emit-project --format requirements-txt --only-group build -o requirements-build.lock
