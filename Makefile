# Microtome. `make help` lists what there is to do.
# Needs: make and Python 3.11 to 3.14. Everything else is installed into .venv.

SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:

# Every path below is relative to this folder, whose own path may contain spaces.
VENV := .venv
PARITY := .venv-parity
RUN := $(VENV)/bin/python
UV := $(VENV)/bin/uv --quiet
PYTHON ?=
SLIDE ?=
MPP ?=
# A tenth of the size of the build with CUDA; macOS has one build.
TORCH ?= torch==2.13.0$(if $(filter Darwin,$(shell uname)),,+cpu)
EXIT ?=
ARGS ?=
export MICROTOME_SLIDE := $(SLIDE)
export MICROTOME_MPP := $(MPP)
export MICROTOME_EXIT := $(EXIT)

.PHONY: help setup setup-dev setup-models demo up down status replay test parity prove lint format proto contracts client ui chaos sim bench-pipeline bench-control bench-fairness bench-memory bench-upload bench-replay bench-head bench-million bench-engine bench-scale train train-scores compare-tissue mosaic lock lock-parity clean

help: ## show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  \033[1m%-16s\033[0m %s\n", $$1, $$2}' Makefile
	@printf '\n  %s\n' 'make demo SLIDE=/path/to/slide.svs [MPP=0.25] [EXIT=1]' 'PYTHON=/path/to/python3.11 chooses the interpreter of .venv'

setup: $(VENV)/.runtime ## install what is needed to run (demo, up)

setup-dev: $(VENV)/.dev ## install what is needed to test and change it

setup-models: $(VENV)/.models ## install PyTorch, to import or train models; TORCH=torch==2.13.0 for the build with CUDA

demo: $(VENV)/.runtime ## segment a slide on this machine; SLIDE=path MPP=µm-per-pixel EXIT=1
	@$(RUN) -m microtome.demo

up: $(VENV)/.runtime ## start the stack; ARGS=--detach to return
	@$(RUN) -m microtome.embedded up $(ARGS)

down: $(VENV)/.runtime ## stop the stack
	@$(RUN) -m microtome.embedded down

status: $(VENV)/.runtime ## what runs where
	@$(RUN) -m microtome.embedded status || [ $$? -eq 3 ]

replay: $(VENV)/.runtime ## travel through the log; ARGS="--help", ARGS="timeline 3f2a"
	@$(RUN) -m microtome.replay $(ARGS)

test: $(VENV)/.dev ## all tests; ARGS="-k name" for some
	@$(RUN) tests/run.py $(ARGS)

parity: $(VENV)/.dev $(PARITY)/.installed ## the head against the instanseg package's own, live, pixel by pixel
	@$(RUN) -m tests.parity $(PARITY)/bin/python $(ARGS)
	@MICROTOME_PARITY=$(PARITY) $(RUN) -m pytest -q tests/parity

prove: $(VENV)/.dev ## the laws of scheduling on generated histories; HISTORIES=10000
	@PYTHONPATH=libs:. $(RUN) -m tests.unit.domain.prove --histories $(or $(HISTORIES),10000)

lint: $(VENV)/.dev ## formatting, lint, types, import contracts, generated code, the page
	@$(RUN) -m ruff format --check .
	@$(RUN) -m ruff check .
	@$(RUN) -m mypy
	@$(VENV)/bin/lint-imports
	@$(RUN) -m microtome.contracts.generate --check --check-breaking
	@$(RUN) -m microtome.client.generate --check
	@$(RUN) -m services.gateway.openapi | diff -q - proto/openapi.json >/dev/null || { echo "proto/openapi.json is stale: make contracts" >&2; exit 1; }
	@$(RUN) -m services.gateway.asyncapi | diff -q - proto/asyncapi.yaml >/dev/null || { echo "proto/asyncapi.yaml is stale: make contracts" >&2; exit 1; }
	@$(RUN) -m services.gateway.kinds | diff -q - docs/problems.md >/dev/null || { echo "docs/problems.md is stale: make contracts" >&2; exit 1; }
	@$(RUN) ui/check.py

format: $(VENV)/.dev ## format the code and fix what can be fixed
	@$(RUN) -m ruff format .
	@$(RUN) -m ruff check --fix .

proto: $(VENV)/.dev ## generate the contracts from proto/
	@$(RUN) -m microtome.contracts.generate

client: $(VENV)/.dev ## generate the client's types from proto/openapi.json
	@$(RUN) -m microtome.client.generate

contracts: $(VENV)/.dev ## write proto/openapi.json, proto/asyncapi.yaml and docs/problems.md from the code
	@$(RUN) -m services.gateway.openapi > proto/openapi.json
	@$(RUN) -m services.gateway.asyncapi > proto/asyncapi.yaml
	@$(RUN) -m services.gateway.kinds > docs/problems.md

ui: $(VENV)/.dev ## check the dashboard and build it into ui/dist (committed)
	@$(RUN) ui/check.py --write

chaos: $(VENV)/.dev ## kill everything, again and again, while users work; ARGS="--kills 100 --seed 1"
	@$(RUN) -m tests.chaos $(ARGS)

sim: $(VENV)/.dev ## simulate whole clusters in which everything goes wrong; SEEDS=20000, ARGS="--seed 17" for one
	@$(RUN) -m tests.simulation --seeds $(or $(SEEDS),200) --jobs $(or $(JOBS),2) $(ARGS)

bench-pipeline: $(VENV)/.dev ## what the services add to the bare engine; ARGS="--slide a.svs --repeats 5"
	@$(RUN) -m tests.bench.pipeline $(ARGS)

bench-control: $(VENV)/.dev ## scheduler, log and API without pixels: 10,000 jobs, 50 users, 500 live clients
	@$(RUN) -m tests.bench.control $(ARGS)

bench-fairness: $(VENV)/.dev ## what a small job notices of another user's large ones; ARGS="--repeats 3"
	@$(RUN) -m tests.bench.fairness $(ARGS)

bench-memory: $(VENV)/.dev ## each service's memory on a slide of 5,000² and one of 20,000² pixels
	@$(RUN) -m tests.bench.memory $(ARGS)

bench-upload: $(VENV)/.dev ## the gateway's memory while 2 GiB are uploaded
	@$(RUN) -m tests.bench.upload $(ARGS)

bench-replay: $(VENV)/.dev ## how fast the log is folded, rebuilt and verified, in how much memory; ARGS="--events 100000"
	@$(RUN) -m tests.bench.replay $(ARGS)

bench-engine: $(VENV)/.dev $(PARITY)/.installed ## Microtome against the package on the same slides; ARGS="--repeats 5"
	@$(RUN) -m tests.bench.engine $(ARGS)

bench-scale: $(VENV)/.dev ## seconds a megapixel and peak memory on slides of 5,000² to 20,000² pixels; ARGS="--edges 5000 40000"
	@$(RUN) -m tests.bench.scale $(ARGS)

bench-head: $(VENV)/.dev ## what the head costs by number of nuclei, on one thread and on two at once; ARGS="--repeats 9"
	@$(RUN) -m tests.bench.head $(ARGS)

bench-million: $(VENV)/.dev ## a million cells through merge and all exports; ARGS="--cells 200000"
	@$(RUN) -m tests.bench.million $(ARGS)

train: setup-models ## make the embedded model anew; ARGS=--smoke, ARGS="--init WEIGHTS.safetensors --steps 3000"
	@$(RUN) -m microtome.training.loop $(ARGS)

train-scores: $(VENV)/.dev ## models against the classical baseline on TNBC 07–08; ARGS="embedded /path/to/model"
	@$(RUN) -m microtome.training.report $(ARGS)

compare-tissue: $(VENV)/.dev ## the tissue mask beside plain Otsu, on painted and real images
	@$(RUN) -m tests.bench.tissue $(ARGS)

mosaic: $(VENV)/.runtime ## a large slide from a small one; ARGS="--source a.svs --size 20000 --out b.tif"
	@$(RUN) -m microtome.slides.mosaic $(ARGS)

lock: $(VENV)/.dev ## renew the lock files from pyproject.toml
	@$(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --upgrade pyproject.toml -o requirements.lock
	@$(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --upgrade --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	@$(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --upgrade -c requirements-dev.lock requirements-models.in -o requirements-models.lock

# torch's build for CPUs is on PyTorch's own index, or where pip was told to look for wheels.
lock-parity: $(VENV)/.dev ## renew the lock file of what `make parity` compares with
	@$(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --upgrade --find-links "$${PIP_FIND_LINKS:-https://download.pytorch.org/whl/cpu/torch/}" requirements-parity.in -o requirements-parity.lock >/dev/null

clean: ## remove .venv and every cache; results in .microtome stay
	@if [ -x $(RUN) ]; then $(RUN) -m microtome.embedded down || true; fi
	rm -rf $(VENV) $(PARITY) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache test-results
	find . -name __pycache__ -type d -not -path './ui/node_modules/*' -prune -exec rm -rf {} +

# -- the environment ------------------------------------------------------------------------------

# The interpreter: PYTHON if given, else the first of these that runs and that all locked packages are built for.
define find_python
	for candidate in "$(PYTHON)" $(if $(PYTHON),,python3 python3.14 python3.13 python3.12 python3.11 python); do \
	  if [ -n "$$candidate" ] && "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; then \
	    found="$$candidate"; break; \
	  fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "Python 3.11 to 3.14 is needed$(if $(PYTHON), and PYTHON=$(PYTHON) is not,). Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; \
	  exit 1; \
	fi
endef

$(VENV)/.installer: requirements-setup.lock
	@found=; if $(RUN) -c 'import pip' 2>/dev/null; then :; else \
	  $(find_python); \
	  "$$found" -m venv --clear $(VENV) || { echo "$$found cannot create a virtual environment (on Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; }; \
	fi
	@$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-setup.lock
	@touch $@

# `pip install`, not `sync`: the development lock is a superset, and going back must not uninstall it.
$(VENV)/.runtime: requirements.lock $(VENV)/.installer
	@echo "Installing into $(VENV) …"
	@$(UV) pip install --python $(RUN) -r requirements.lock
	@$(RUN) -c 'import pathlib, sysconfig; pathlib.Path(sysconfig.get_path("purelib"), "microtome-checkout.pth").write_text("\n".join(str(pathlib.Path(p).resolve()) for p in ("libs", ".")) + "\n")'
	@printf '#!/bin/sh\nexec "$$(dirname "$$0")/python" -m microtome "$$@"\n' > $(VENV)/bin/microtome && chmod +x $(VENV)/bin/microtome
	@printf '#!/bin/sh\nexec "$$(dirname "$$0")/python" -m microtome.replay "$$@"\n' > $(VENV)/bin/microtome-replay && chmod +x $(VENV)/bin/microtome-replay
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	@echo "Installing development tools into $(VENV) …"
	@$(UV) pip install --python $(RUN) -r requirements-dev.lock
	@touch $@

# Where pip's own sources do not have torch's build for CPUs, PyTorch's index does.
$(VENV)/.models: requirements-models.lock $(VENV)/.runtime
	@echo "Installing PyTorch into $(VENV) …"
	@$(UV) pip install --python $(RUN) -r requirements-models.lock
	@pip="$(RUN) -m pip install --quiet --disable-pip-version-check"; \
	  $$pip '$(TORCH)' 2>/dev/null || $$pip --index-url https://download.pytorch.org/whl/cpu '$(TORCH)'
	@touch $@

# The package that we compare with, apart from us: torch never comes into $(VENV). Where pip's own sources do not have
# torch's build for CPUs, PyTorch's index does.
$(PARITY)/.installed: requirements-parity.lock $(VENV)/.installer
	@echo "Installing torch and instanseg-torch into $(PARITY) …"
	@$(RUN) -m venv --clear $(PARITY)
	@sed -n '/^torch==/,/[^\\]$$/p' requirements-parity.lock > $(PARITY)/torch.lock
	@pip="$(PARITY)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps"; \
	  $$pip -r $(PARITY)/torch.lock 2>/dev/null || $$pip --index-url https://download.pytorch.org/whl/cpu -r $(PARITY)/torch.lock; \
	  $$pip -r requirements-parity.lock
	@touch $@
