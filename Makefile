# What CI and people run. Everything happens in .venv and .farm of this folder.

PYTHON ?= python3
OUTPUT ?= results
DEVICE ?= cpu
MATRIX_cpu := matrices/densenet121-cpu.toml
MATRIX_cuda := matrices/densenet121-gpu.toml
MATRIX ?= $(MATRIX_$(DEVICE))
BIN := .venv/bin

.PHONY: help setup setup-dev setup-cpu setup-cuda known-device benchmark test test-compose faults trust load check format lint types clean

help:  ## Show this list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: .venv/.ready  ## Make .venv with all that the farm runs on.

setup-dev: .venv/.ready-dev  ## The same, and what the tests need.

.venv/bin/python:
	@$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info[:2] <= (3, 12)' 2>/dev/null \
		|| { echo "The farm needs Python 3.11 or 3.12. Say which: make PYTHON=python3.11 ..." >&2; exit 2; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "Missing venv: apt-get install python3-venv" >&2; exit 2; }

.venv/.ready: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/.ready-dev: requirements-dev.txt .venv/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

benchmark: known-device setup-$(DEVICE)  ## Measure the DenseNet-121 matrix here, DEVICE=cpu or DEVICE=cuda; the CSV is results/benchmark_results.csv.
	$(BIN)/python -m producer submit-matrix --matrix $(MATRIX) --local --wait --output-dir $(OUTPUT)

known-device:
	@case "$(DEVICE)" in cpu|cuda) ;; *) \
		echo "DEVICE=$(DEVICE): there is no such device. Possible: DEVICE=cpu, DEVICE=cuda." >&2; exit 2;; esac

setup-cpu: setup

# The GPU first: TensorRT is some gigabytes. Without it the other recipes are measured all the same.
setup-cuda: setup
	@$(BIN)/python -c 'import sys; from farm.devices import nvml; sys.exit(0 if nvml.gpus() else 2)' || { \
		echo "DEVICE=cuda: no NVIDIA GPU answers on this host (what does nvidia-smi say?); in a container, start it" \
		"with GPUs: docker run --gpus all. Possible here: make benchmark DEVICE=cpu" >&2; exit 2; }
	@$(MAKE) --no-print-directory .venv/.ready-tensorrt || \
		echo "TensorRT could not be installed: its recipes will be unsupported, all others are measured." >&2

.venv/.ready-tensorrt: requirements-tensorrt.txt .venv/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-tensorrt.txt
	@touch $@

test: setup-dev  ## Run all tests.
	$(BIN)/python -m pytest

test-compose: setup-dev  ## Run the tests of the farm in containers, on a real Docker Engine.
	$(BIN)/python -m pytest tests/compose --timeout 1800

faults: setup-dev  ## Hurt the farm on SQLite and PostgreSQL: nothing lost, nothing measured twice. Half an hour.
	$(BIN)/python -m pytest tests/faults --faults whole --timeout 900

trust: setup  ## Measure on this host whether the numbers can be trusted: under an hour, on a quiet host.
	$(BIN)/python -m benchmarks.trust

load: setup-dev  ## Measure on this host what 100,000 jobs, 32 workers and 1,000,000 results cost: under an hour.
	$(BIN)/python -m benchmarks.load

check: setup-dev format lint types test  ## What CI runs: format, lint, types, tests.

format: setup-dev
	$(BIN)/ruff format --check .

lint: setup-dev
	$(BIN)/ruff check .

types: setup-dev
	$(BIN)/mypy

clean:  ## Remove the environment and all data of the farm (results/ stays).
	rm -rf .venv .farm .mypy_cache .pytest_cache .ruff_cache
