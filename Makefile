# Everything is set up from the hash-pinned locks; each target depends on that and costs nothing when it is fresh.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
UV := .uv/bin/uv
# The tests start hundreds of programs: what one of them has compiled the others must find.
unexport PYTHONDONTWRITEBYTECODE
# Two makes in one checkout take turns at setting up, where flock exists. The second then finds it done.
TURN := $(if $(shell command -v flock),flock Makefile)

# pip comes from $(PYTHON): Debian's can make virtual environments, but none with a pip inside (python3-venv apart).
venv = test -x $(1)/bin/python || $(PYTHON) -m venv --without-pip $(1)
pip = $(PYTHON) -m pip --python $(1)/bin/python install --quiet --disable-pip-version-check
# $(call sync,VENV,LOCK): what the lock lists, no more (the locks are complete: nothing is resolved). Where uv can't be
# had or can't reach the index as pip is configured to, pip does the same, slower.
sync = test -x $(UV) && VIRTUAL_ENV=$(1) $(UV) pip sync --quiet --require-hashes $(2) || \
	$(call pip,$(1)) --require-hashes --no-deps -r $(2)

.DEFAULT_GOAL := help
.PHONY: help install tools uv run once test trial check lint format bench lock image manifests

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 20

install:  ## set up .venv from the lock files
	@$(TURN) $(MAKE) -s .venv/.installed

# helm, kubernetes-validate, checkov, hadolint: the tests judge k8s/ and the Dockerfile with them. They can't share .venv.
tools:
	@$(TURN) $(MAKE) -s .tools/.installed

# uv removes from an environment what the lock does not list, so it lives in one of its own.
uv:
	@test -x $(UV) || { $(call venv,.uv) && $(call pip,.uv) uv; } || echo "no uv: pip does its work, slower" >&2

.venv/.installed: requirements-dev.lock pyproject.toml
	@$(MAKE) --no-print-directory uv
	@$(call venv,.venv)
	@$(call sync,.venv,requirements-dev.lock)
	@$(call pip,.venv) --no-deps --no-build-isolation --no-index --editable .
	@touch $@

.tools/.installed: requirements-cluster.lock tests/acceptance/cluster_tools.py
	@$(MAKE) --no-print-directory uv
	@$(call venv,.tools)
	@$(call sync,.tools,requirements-cluster.lock)
	@.tools/bin/python tests/acceptance/cluster_tools.py
	@touch $@

run: install  ## the whole daemon on recorded data: no token, no key, no internet; Ctrl-C ends it
	@exec $(BIN)/infra-health --demo

once: install  ## one pass of every collector on the same data, then a table
	@$(BIN)/infra-health --demo --once

test: install tools  ## the whole test suite
	@$(BIN)/python -m pytest -n auto --dist loadgroup

trial: install  ## three daemons on one PostgreSQL while all that can die does; the image, where buildah is: minutes
	@$(BIN)/python -m pytest -m trial tests/trial tests/acceptance/test_image.py -s

lint: install  ## format, lint, types, import rules, dependencies
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/deptry service

check: lint  ## all of lint, then the tests
	@$(MAKE) --no-print-directory test

format: install  ## format and mend what can be mended
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: install  ## the benchmarks: ratios against a baseline measured in the same run
	@$(BIN)/python -m bench

# The first of them that works here: a docker without a daemon can't. The other two leave HEALTHCHECK out of an OCI image.
BUILD = $(shell if docker info >/dev/null 2>&1; then echo docker build; \
	elif command -v podman >/dev/null; then echo podman build --format docker; \
	elif command -v buildah >/dev/null; then echo buildah build --format docker; fi)
IMAGE ?= infra-health
TAG ?= $(shell sed -n 's/^appVersion: "\(.*\)"/\1/p' k8s/chart/Chart.yaml)
COMMIT ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)

image:  ## build IMAGE:TAG (IMAGE=registry.example.com/infra-health TAG=0.1.0) with docker, podman or buildah
	@test -n "$(BUILD)" || { echo "no docker with a daemon, no podman, no buildah: install one of them" >&2; exit 1; }
	$(BUILD) --build-arg VERSION=$(TAG) --build-arg COMMIT=$(COMMIT) --tag $(IMAGE):$(TAG) .

manifests: tools  ## render k8s/chart with its defaults into k8s/infra-health.yaml
	@cp config.yaml k8s/chart/config.yaml
	@.tools/bin/helm template infra-health k8s/chart --namespace monitoring --no-hooks > k8s/infra-health.yaml

EXPORT := $(UV) export --quiet --no-header --no-annotate --no-emit-project --format requirements-txt

lock: uv  ## resolve pyproject.toml anew into requirements*.lock
	@$(UV) lock --quiet --upgrade
	@$(EXPORT) --no-dev --extra postgres -o requirements.lock
	@$(EXPORT) --extra postgres --group dev -o requirements-dev.lock
	@$(EXPORT) --only-group build -o requirements-build.lock
	@$(EXPORT) --only-group cluster -o requirements-cluster.lock
