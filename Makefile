# Two commands do all the set-up: `make train` and `make test`. Everything goes into .venv; delete it to start over.
PYTHON ?= python3
VENV := .venv
BENCH := .venv-bench
BIN := $(VENV)/bin
RUN ?= runs/cartpole
MINUTES ?= 60

export OMP_NUM_THREADS ?= 1

.PHONY: train test test-slow soak lint bench learn clean
.DEFAULT_GOAL := train

$(VENV)/.run: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

$(VENV)/.ray: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[ray]"
	touch $@

$(BENCH)/.peers: pyproject.toml constraints.txt benchmarks/requirements.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r benchmarks/requirements.txt -e .
	touch $@

# A real training run: DQN solves CartPole-v1, with progress, a score over 100 episodes, and a learning curve.
train: $(VENV)/.run
	if [ -e $(RUN) ]; then $(BIN)/protorl resume $(RUN); else $(BIN)/protorl train dqn --env CartPole-v1 --run-dir $(RUN); fi
	$(BIN)/protorl eval $(RUN) --episodes 100
	$(BIN)/protorl plot $(RUN) --out $(RUN)/curve.png

# What every change must pass: within 8 minutes of a fresh clone on two cores, installing included.
test: $(VENV)/.dev lint
	$(BIN)/python -m pytest -n 2 -m "not slow"

# What takes longer: compiling, real processes stopped and killed, Ray clusters. At most 15 minutes more.
test-slow: $(VENV)/.ray
	$(BIN)/python -m pytest -n 2 -m slow

# Trainings killed and resumed at random for an hour (MINUTES=5: shorter), recorded in benchmarks/results/soak.json. Its sibling,
# `python -m tests.contract.soak_workers`, looks for twenty minutes whether anything grows while worker processes act.
soak: $(VENV)/.dev
	$(BIN)/python -m tests.contract.soak --minutes $(MINUTES)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Start-up, and throughput beside public peers, paired in one run.
bench: $(BENCH)/.peers
	$(BENCH)/bin/python benchmarks/startup.py
	$(BENCH)/bin/python benchmarks/throughput/run.py

# Learning to the published scores, several seeds each (hours).
learn: $(VENV)/.dev
	$(BIN)/python benchmarks/learning/run.py

clean:
	rm -rf $(VENV) $(BENCH) .pytest_cache .mypy_cache .ruff_cache .hypothesis build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
