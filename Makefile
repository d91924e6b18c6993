# `make` lists the targets. Every one of them sets up what it needs inside .venv and nowhere else.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help test check format demo bench bench-quick soak verify lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

test: check ## lint, types and every test, on each server that this machine has
	$(BIN)/pytest -n 3 --dist loadfile

check: $(READY) ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: $(READY) ## chat jobs through a real stream, two workers and HTTP providers, shown live
	$(BIN)/python -m demo

bench: $(READY) ## all benchmarks, an hour or so on a quiet machine; leaves benchmarks/results and docs/performance.md
	$(BIN)/python -m benchmarks; status=$$?; $(BIN)/python -m benchmarks.page; exit $$status

bench-quick: $(READY) ## a look at the benchmarks in a few minutes; its results go to a temporary folder
	$(BIN)/python -m benchmarks --quick

soak: $(READY) ## kills, freezes, restarts and faults at random: MINUTES=10, SEED=n to do the same again
	$(BIN)/python -m worker.verify.soak --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

verify: $(READY) ## the fault matrix as a table; REDIS=redis://... for a server of your own
	$(BIN)/chat-worker verify $(if $(REDIS),--redis $(REDIS))

lock: $(READY) ## resolve constraints.txt anew from pyproject.toml (needs uv on the PATH)
	uv pip compile --quiet --upgrade --all-extras --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-annotate --custom-compile-command "make lock" -o constraints.txt pyproject.toml

clean: ## forget the virtual environment and all caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist

# Everything is installed from the hashed list; the project itself, which cannot have a hash, afterwards.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)
