# `make` lists the targets. Every one of them sets up what it needs inside .venv and nowhere else.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed
PLOTS  := $(VENV)/.bench
LISTS  := benchmarks/peers/requirements
WHEEL  := build/wheel
COMPILED := build/compiled
# Our modules are then looked for there first, and not in the folder that we stand in.
AS_COMPILED := PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/$(COMPILED)
# mypyc hands cancels on as it was done before Python 3.12; no user sees it.
OF_MYPYC := "ignore:the (type, exc, tb) signature of throw:DeprecationWarning"
PEERS  := $(patsubst $(LISTS)/%.in,%,$(wildcard $(LISTS)/*.in))
LOCK   := uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-annotate --custom-compile-command "make lock"
HASHED := -m pip install --quiet --disable-pip-version-check --require-hashes -r

.DEFAULT_GOAL := help
.PHONY: help test test-compiled check format demo bench bench-quick peers soak verify wheel lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

test: check ## lint, types and every test, on each server that this machine has
	$(BIN)/pytest -n 3 --dist loadfile

test-compiled: $(COMPILED)/.installed ## the tests once more, on the modules that mypyc compiles
	$(AS_COMPILED) $(BIN)/python -c "from worker.build import is_compiled; assert is_compiled()"
	$(AS_COMPILED) $(BIN)/pytest -n 3 --dist loadfile --import-mode append -m "not interpreted" -W $(OF_MYPYC)

check: $(READY) ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: $(READY) ## chat jobs through a real stream, two workers and HTTP providers, shown live
	$(BIN)/python -m demo

bench: $(PLOTS) peers $(COMPILED)/.installed ## all benchmarks, an hour and a half on a quiet machine; leaves benchmarks/results and docs/performance.md
	$(AS_COMPILED) $(BIN)/python -m benchmarks; status=$$?; $(BIN)/python -m benchmarks.page; exit $$status

bench-quick: $(COMPILED)/.installed peers ## a look at the benchmarks in a few minutes; its results go to a temporary folder
	$(AS_COMPILED) $(BIN)/python -m benchmarks --quick

peers: $(PEERS:%=.venv-peers/%/.installed) ## other queues to compare with, each in an environment of its own

soak: $(READY) ## kills, freezes, restarts and faults at random: MINUTES=10, SEED=n to do the same again
	$(BIN)/python -m worker.verify.soak --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

verify: $(READY) ## the fault matrix as a table; REDIS=redis://... for a server of your own
	$(BIN)/chat-worker verify $(if $(REDIS),--redis $(REDIS))

wheel: $(WHEEL)/.built ## a wheel for .venv's Python on this platform, the busiest modules compiled, in build/wheel

lock: $(READY) ## resolve all lists anew, from pyproject.toml and the peers' *.in (needs uv on the PATH)
	$(LOCK) --extra dev -o constraints.txt pyproject.toml
	$(LOCK) --extra bench --constraint constraints.txt -o constraints-bench.txt pyproject.toml
	for peer in $(PEERS); do $(LOCK) -o $(LISTS)/$$peer.txt $(LISTS)/$$peer.in || exit 1; done

clean: ## forget the virtual environment and all caches
	rm -rf $(VENV) .venv-peers .mypy_cache .ruff_cache .pytest_cache build dist

# Everything is installed from the hashed list; the project itself, which cannot have a hash, afterwards.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(HASHED) constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)

# Only the plots need this, so no test waits for it.
$(PLOTS): $(READY) constraints-bench.txt
	$(BIN)/python $(HASHED) constraints-bench.txt
	@touch $(PLOTS)

# From a copy, because the compiler leaves what it makes beside the sources, where Python would take it for them. The
# folders are named as well: one changes when a file in it goes.
$(WHEEL)/.built: $(READY) $(shell find producer worker -not -name '*.pyc' -not -name __pycache__)
	rm -rf build/source $(WHEEL)
	mkdir -p build/source
	cp -r pyproject.toml README.md LICENSE producer worker build/source
	HATCH_BUILD_HOOK_ENABLE_MYPYC=1 $(BIN)/python -m pip wheel --quiet --disable-pip-version-check \
	  --no-deps --no-build-isolation --wheel-dir $(WHEEL) build/source
	@touch $@

$(COMPILED)/.installed: $(WHEEL)/.built
	rm -rf $(COMPILED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(COMPILED) $(WHEEL)/*.whl
	@touch $@

# The peers ask for three different major versions of redis-py: no single environment holds them all.
.venv-peers/%/.installed: $(LISTS)/%.txt
	$(PYTHON) -m venv .venv-peers/$*
	.venv-peers/$*/bin/python $(HASHED) $<
	@touch $@
