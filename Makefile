# make demo: set up .venv and solve small ARC tasks from scratch in ten minutes. make test: set up .venv, lint, types, tests.
# make kaggle-rehearsal: run the Kaggle notebook offline on 240 tasks, and again with each fault that it has to survive.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEED ?= 0
DEMO := runs/demo-$(SEED)

.PHONY: demo test lint bench torture kaggle-rehearsal kaggle-newest clean

demo: $(VENV)/.runtime
	rm -rf $(DEMO)
	$(BIN)/python -m pipeline run --source arc1:training --source arc1:evaluation --max-side 6 \
	    --preset demo --seed $(SEED) --time-limit 10m --processes 2 --out $(DEMO)
	@echo "submission: $(DEMO)/submission.json"
	@echo "open in a browser: $(CURDIR)/$(DEMO)/report.html"
	@echo "what was missed, and why: $(BIN)/python -m pipeline show --run $(DEMO)"

# On all cores. Fails where less than 97% of the lines are run that pyproject.toml counts.
test: lint
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal --durations 10 --cov --cov-report=term

lint: $(VENV)/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Every stage against the published way of doing it; half an hour on two cores.
bench: $(VENV)/.runtime
	$(BIN)/python -m pipeline bench all

# Runs that are killed, asked to end, without disk, memory or time, then bad input of every kind; over an hour on two cores.
torture: $(VENV)/.development
	$(BIN)/python -m tests.torture all
	$(BIN)/python -m tests.fuzz

kaggle-rehearsal: $(VENV)/.development
	$(BIN)/python -m pipeline kaggle simulate --hidden-from arc2:evaluation --hidden-from arc1:evaluation --hidden-tasks 240 \
	    --time-limit 4m --fault all --seed $(SEED) --out runs/kaggle-rehearsal

# The tests of push, status and submit with the newest kaggle client, in an environment of its own.
kaggle-newest: $(VENV)/.development
	$(PYTHON) -m venv $(VENV)/newest-kaggle
	$(VENV)/newest-kaggle/bin/python -m pip install --quiet --disable-pip-version-check --upgrade kaggle six
	ARC_KAGGLE_PYTHON=$(VENV)/newest-kaggle/bin/python $(BIN)/python -m pytest tests/submission/test_client.py

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
