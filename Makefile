# Every target works on a bare machine: it makes .venv first. `make` alone lists them.
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup ready-runtime ready-dev serve test test-fast check fmt lock verify verify-engines train-nano eval studies bench-backends loadtest check-deploy chart clean

PYTHON_BIN := .venv/bin/python
PORT ?= 8000
GOLDEN ?= ../shared/golden
PHOTOS ?= ../shared/photos
MODEL ?= nano
OUT ?= runs
PRESET ?= nano
LOADTESTS ?= fanout throughput latency eta mixed capacity
# glibc would give every large tensor's memory back to the system, and clear it again for the next.
keep_memory = MALLOC_MMAP_THRESHOLD_=33554432 MALLOC_TRIM_THRESHOLD_=20000000000 MALLOC_TOP_PAD_=268435456
# One process per core; more threads in each would only wait for one another.
pytest = OMP_NUM_THREADS=1 $(PYTHON_BIN) -m pytest --numprocesses auto --dist worksteal
serve_flags = --port $(PORT) $(if $(DATA_DIR),--data-dir "$(DATA_DIR)")

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

setup: ready-dev ## .venv, locked dependencies, system packages for tests where apt allows

ready-runtime:
	@./scripts/setup.sh runtime

ready-dev:
	@./scripts/setup.sh dev

serve: ready-runtime ## everything on one machine (PORT=8000, DATA_DIR=...)
	.venv/bin/instantir serve $(serve_flags)

test: ready-dev ## all tests: the fast ones, then the slow ones
	$(pytest) -m "not slow and not e2e"
	$(pytest) -m "slow or e2e"

test-fast: ready-dev ## the fast tests alone
	$(pytest) -m "not slow and not e2e"

check: ready-dev ## lint, format, types, import rules (style rules are in tests/test_style.py)
	.venv/bin/ruff check . && .venv/bin/ruff format --check .
	.venv/bin/lint-imports
	.venv/bin/pyright

fmt: ready-dev ## format and apply safe fixes
	.venv/bin/ruff format . && .venv/bin/ruff check --fix .

lock: ready-dev ## write requirements/*.lock anew from pyproject.toml
	./scripts/lock.sh

verify: ready-runtime ## golden numbers of the official pipeline (GOLDEN=folder)
	$(PYTHON_BIN) -m engines.verify $(GOLDEN)

verify-engines: ready-dev ## compiled engines: export, parity, engines for GPUs that are not there (GOLDEN=folder)
	$(PYTHON_BIN) -m engines.verify.compiled --golden $(GOLDEN) --report reports/engines.json

train-nano: ready-dev ## train the embedded model in all stages (PHOTOS=, OUT=folder, resumes; PRESET=tiny: a minute)
	$(keep_memory) $(PYTHON_BIN) -m training.train --preset $(PRESET) --photos $(PHOTOS)/train --out $(OUT)/nano --state $(OUT)/state $(ARGS)

eval: ready-dev ## quality of a model and its peers on photographs (MODEL=nano, PHOTOS=folder; ARGS=...)
	$(PYTHON_BIN) -m evals.quality --model $(MODEL) --photos $(PHOTOS)/test \
	  --json reports/eval.json --markdown reports/eval.md --sheet reports/eval.jpg \
	  --failures reports/failures.jpg $(ARGS)

studies: ready-dev ## studies of the paper's claims with plots into docs/studies (MODEL=nano; ARGS=...)
	$(PYTHON_BIN) -m evals.studies --model $(MODEL) --photos $(PHOTOS)/test $(ARGS)

bench-backends: ready-dev ## what runs networks on this processor, compared in one run (ARGS="--runs 9")
	$(PYTHON_BIN) -m benchmarks.backends $(ARGS)

loadtest: ready-dev ## followers, queue and events, first event, predictions, all at once, capacity model (30 min; LOADTESTS=names)
	for name in $(LOADTESTS); do $(PYTHON_BIN) -m loadtests.$$name $(ARGS) || exit 1; done

check-deploy: ready-dev ## images, compose, balancers, dashboards, rules, manifests: all that needs no cluster
	$(pytest) tests/deploy
	@echo "checked: images, compose, nginx and haproxy before a real fleet, rules and dashboard against real metrics, manifests"

chart: ready-dev ## the object of the rules, and the Helm chart of the overlays: build/chart/instantir
	$(PYTHON_BIN) -m deploy.kubernetes.make_rules
	$(PYTHON_BIN) -m deploy.helm.make_chart

clean: ## remove caches and reports; .venv stays
	rm -rf build dist reports *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
