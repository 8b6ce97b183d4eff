# Every target creates .venv and installs what it needs; done once, that costs a fraction of a second.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
BIN := .venv/bin
FOLDERS := compiler passes backends models
THREADS := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.PHONY: demo test test-all lint format bench clean
.DEFAULT_GOAL := test

# The strict editable install links files one by one, so a new or renamed module needs a new install.
.venv/installed: pyproject.toml setup.py constraints.txt tools/install.sh $(shell find $(FOLDERS) -type d -not -name __pycache__) $(wildcard models/data/* compiler/report/templates/*)
	bash tools/install.sh "$(PYTHON)"
	touch $@

demo: .venv/installed
	$(BIN)/sardonyx compile models/data/digits_cnn.onnx --target onnxruntime --max-drop 1% \
	  --data sardonyx.models.digits:cnn_samples --metric sardonyx.models.digits:cnn_accuracy -o out/demo

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: lint
	$(THREADS) $(BIN)/pytest -n 2 --dist loadgroup

test-all: lint
	bash tools/install.sh "$(PYTHON)" train,exports
	HYPOTHESIS_PROFILE=thorough $(THREADS) $(BIN)/pytest -n 2 --dist loadgroup -m ""

bench: .venv/installed
	$(BIN)/python -m benchmarks.static_int8
	$(BIN)/python -m benchmarks.ir_scale
	$(BIN)/python -m benchmarks.calibration time
	$(BIN)/python -m benchmarks.calibration memory
	$(BIN)/python -m benchmarks.memory 3

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
