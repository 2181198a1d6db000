# Each sets up .venv first. make demo: train on small ARC tasks and solve them, ten minutes. make arc1: ARC-AGI-1 with the weights
# that come with the program, five minutes. make test: lint, types, tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEED ?= 0
DEMO := runs/demo-$(SEED)
ARC1 := runs/arc1
GPU_TRAIN ?= 7m

.PHONY: demo arc1 test lint bench gpu torture kaggle-rehearsal kaggle-newest clean

demo: $(VENV)/.runtime
	rm -rf $(DEMO)
	$(BIN)/python -m pipeline run --source arc1:training --source arc1:evaluation --max-side 6 \
	    --preset demo --seed $(SEED) --time-limit 10m --networks 2 --out $(DEMO)
	@echo "submission: $(DEMO)/submission.json"
	@echo "open in a browser: $(CURDIR)/$(DEMO)/report.html"
	@echo "what was missed, and why: $(BIN)/python -m pipeline show --run $(DEMO)"
	@echo "all 400 evaluation tasks of ARC-AGI-1, in five minutes: make arc1"

# The 400 public evaluation tasks; the dataset is the one that the weights were trained on, so that the score can say what was
# seen. As many views as fit into the time: the identity first, then more, small grids before large ones.
arc1: $(VENV)/.runtime
	rm -rf $(ARC1)
	$(BIN)/python -m pipeline build --source arc1:evaluation --train-source arc1:training --leakage drop \
	    --policy keep-output-only --out $(ARC1)/dataset
	$(BIN)/python -m pipeline predict --data $(ARC1)/dataset --weights arc1 --time-limit 4m40s --processes 2 --out $(ARC1)
	$(BIN)/python -m pipeline score $(ARC1)/submission.json --source arc1:evaluation
	$(BIN)/python -m pipeline report $(ARC1)
	@echo "open in a browser: $(CURDIR)/$(ARC1)/report.html"
	@echo "what was missed, and why: $(BIN)/python -m pipeline show --run $(ARC1)"

# On all cores. Fails below the coverage that pyproject.toml requires.
test: lint
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal --durations 10 --cov --cov-report=term

lint: $(VENV)/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Every stage against the published way of doing it; ten minutes on two cores.
bench: $(VENV)/.runtime
	$(BIN)/python -m pipeline bench all

# On an NVIDIA GPU: parity, times beside their predictions, tests, then a training of GPU_TRAIN. Stops at the first wrong result.
gpu: $(VENV)/.development
	$(BIN)/python -m tests.gpu --out runs/gpu --train $(GPU_TRAIN)

# Killed and interrupted runs, full disks, little memory, short time limits, then damaged input files; over an hour on two cores.
torture: $(VENV)/.development
	$(BIN)/python -m tests.torture all
	$(BIN)/python -m tests.fuzz

# The Kaggle notebook offline on 240 hidden tasks, then with each fault that it must survive; twenty minutes on two cores.
kaggle-rehearsal: $(VENV)/.development
	$(BIN)/python -m pipeline kaggle simulate --hidden-from arc2:evaluation --hidden-from arc1:evaluation --hidden-tasks 240 \
	    --time-limit 4m --fault all --seed $(SEED) --out runs/kaggle-rehearsal

# Tests of push, status and submit with the newest kaggle client, in its own environment.
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

# Runs and their checkpoints stay.
clean:
	rm -rf $(VENV)
