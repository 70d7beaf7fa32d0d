# Needs git, make and Python 3.11 to 3.13 (or uv). Everything else is installed into .venv, and into .uv without uv.
# Arguments: make test PYTEST_ARGS="tests/data -x"   make test WORKERS=0   make demo DEMO_ARGS="--help"

PYTHON := .venv/bin/python
READY := .venv/.ready
WORKERS ?= auto
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: demo test lint format bench docs nightly torture clean help

demo: $(READY) ## complete workflow on embedded data, about five minutes
	.venv/bin/metazoo demo $(DEMO_ARGS)

# Tests of one file run in one worker, so that shared fixtures are made once.
test: $(READY) ## test suite, without tests marked slow
	$(PYTHON) -m pytest -n $(WORKERS) --maxprocesses 8 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: $(READY) ## style, format and type checks
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m pyright

format: $(READY) ## format all files
	$(PYTHON) -m ruff check --fix
	$(PYTHON) -m ruff format

bench: $(READY) ## cost and quality of each stage beside the published way
	$(PYTHON) -m benchmarks $(BENCH_ARGS)

docs: $(READY) ## API pages from docstrings, in site/
	$(PYTHON) -m pdoc --docformat google --output-directory site metazoo

nightly: $(READY) ## tests marked slow
	$(PYTHON) -m pytest -m slow $(PYTEST_ARGS)

torture: $(READY) ## runs that are killed or refused at every moment and resumed; some minutes
	$(PYTHON) -m pytest -m torture -n $(WORKERS) --maxprocesses 8 $(PYTEST_ARGS)

clean: ## delete build outputs and caches; .venv, .uv and runs/ stay
	rm -rf build dist site .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

help: ## list of targets
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' Makefile

# Touched only after a complete set-up, so an interrupted one is repeated.
$(READY): pyproject.toml uv.lock tools/setup.sh
	sh tools/setup.sh
	@touch $@
