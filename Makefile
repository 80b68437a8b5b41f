# Everything a user or a developer runs. Each target makes its own virtual environment when there is none.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-fast coverage lint format bench clean help

help:                 ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 12

demo: $(VENV)/.ready  ## the main job: collisions to verified firmware (runs/demo/report.html), some 3 minutes on two cores
	$(BIN)/hpctrain run configs/demo.yaml

test: $(VENV)/.ready-dev lint test-fast  ## every test: the long ones after the others, and the parallel parts again on 2 ranks
	$(BIN)/python -m pytest -m slow --durations=15 $(PYTEST)
	$(BIN)/mpiexec -n 2 $(BIN)/python -m pytest -q -m mpi -p no:cacheprovider tests/parallel tests/training tests/data

test-fast: $(VENV)/.ready-dev  ## tests without the long ones, two files at a time
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --durations=15 $(PYTEST)

coverage: $(VENV)/.ready-dev  ## which lines the tests pass through
	$(BIN)/python -m pytest --cov $(PYTEST)

lint: $(VENV)/.ready-dev  ## style, types, spelling and the floors of the house
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(VENV)/.ready-dev  ## let ruff write it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.ready-dev ## measure: the cost of ours beside a plain loop, ranks beside one
	$(BIN)/python -m benchmarks.step
	$(BIN)/python -m benchmarks.insight
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.ranks
	$(BIN)/python -m benchmarks.network
	$(BIN)/python -m benchmarks.loading
	$(BIN)/python -m benchmarks.many_shards
	$(BIN)/python -m benchmarks.graph_loading
	$(BIN)/python -m benchmarks.edges
	$(BIN)/mpiexec -n 2 $(BIN)/python -m benchmarks.store
	$(BIN)/python -m benchmarks.whole_epoch

$(VENV)/.ready-dev: $(VENV)/.ready
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo,data,graphs,cluster,dev,tracking,onnx,sweep]'
	touch $@

$(VENV)/.ready: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "hpctrain needs Python 3.11 or later; this is $$($(PYTHON) --version). Give PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "This Python has no venv: apt-get install python3-venv" >&2; exit 2; }
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo]'
	touch $@

clean:                ## remove the environment and caches (runs stay)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
