# make demo: set up .venv and solve small ARC tasks from scratch in ten minutes. make test: set up .venv, lint, types, tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEED ?= 0
DEMO := runs/demo-$(SEED)

.PHONY: demo test lint clean

demo: $(VENV)/.runtime
	rm -rf $(DEMO)
	$(BIN)/python -m pipeline run --source arc1:training --source arc1:evaluation --max-side 6 \
	    --preset demo --seed $(SEED) --time-limit 10m --processes 2 --out $(DEMO)
	@echo "submission: $(DEMO)/submission.json   log of training: $(DEMO)/metrics.jsonl"
	@echo "what was missed, and why: $(BIN)/python -m pipeline show --run $(DEMO)"

test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.runtime: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.development: $(VENV)/.runtime requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) runs
