# Needs git, make and Python 3.11 to 3.13 (or uv); everything else lands in .venv, and in .uv where there is no uv.
# Arguments: make test PYTEST_ARGS="tests/data -x"   make test WORKERS=0   make demo DEMO_ARGS="--help"

PYTHON := .venv/bin/python
READY := .venv/.ready
WORKERS ?= auto
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: demo test lint format bench docs nightly torture clean help

demo: $(READY) ## the whole way in a few minutes, from a zoo to a report
	.venv/bin/metazoo demo $(DEMO_ARGS)

# A file's tests stay in one worker, so what they share is made once.
test: $(READY) ## the tests, without those marked slow
	$(PYTHON) -m pytest -n $(WORKERS) --maxprocesses 8 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

lint: $(READY) ## style, format and types
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m pyright

format: $(READY) ## rewrite the files in the one format
	$(PYTHON) -m ruff check --fix
	$(PYTHON) -m ruff format

bench: $(READY) ## what it costs beside the published way; the studies in the same folder are run by hand
	$(PYTHON) -m benchmarks $(BENCH_ARGS)

docs: $(READY) ## API pages from the docstrings, into site/
	$(PYTHON) -m pdoc --docformat google --output-directory site metazoo

nightly: $(READY) ## the tests marked slow
	$(PYTHON) -m pytest -m slow $(PYTEST_ARGS)

torture: $(READY) ## runs killed and refused at every moment, then gone on with; some minutes
	$(PYTHON) -m pytest -m torture -n $(WORKERS) --maxprocesses 8 $(PYTEST_ARGS)

clean: ## delete what was built and cached; .venv, .uv and runs/ stay
	rm -rf build dist site .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' Makefile

# Touched only when the set-up has come to its end, so one that was interrupted is done again.
$(READY): pyproject.toml uv.lock tools/setup.sh
	sh tools/setup.sh
	@touch $@
