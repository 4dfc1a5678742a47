# The two commands of a newcomer: `make pretrain` and `make test`. `make help` lists all targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
RUN ?= runs/demo
# Config values to change for one call, e.g. OVERRIDES="total_rows=640 evaluation.every_steps=10".
OVERRIDES ?=
BENCH ?= data/bench
BENCH_OPTIONS ?=
# A free port: the launcher's default port may be taken by another run on this machine.
define FREE_PORT
import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])
endef
export FREE_PORT
# What is installed in it: the runtime packages, and those of development on top.
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
PIP_INSTALL := $(VENV)/bin/pip install --quiet --disable-pip-version-check
export PATH := $(abspath $(VENV))/bin:$(PATH)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: venv
venv: $(INSTALLED_DEV) ## make .venv with all pinned packages, those of development too

.PHONY: venv-runtime
venv-runtime: $(INSTALLED) ## make .venv with the runtime packages only

$(INSTALLED): requirements.txt pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	    { echo "error: $(PYTHON) is not Python 3.11, 3.12 or 3.13; set PYTHON=/path/to/one" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' || \
	    { echo "error: $(PYTHON) lacks venv; on Debian: apt-get install python3-venv python3-dev" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) -r requirements.txt
	$(PIP_INSTALL) --no-deps --no-build-isolation -e .
	touch $(INSTALLED)

$(INSTALLED_DEV): $(INSTALLED) requirements-dev.txt
	$(PIP_INSTALL) -r requirements-dev.txt
	touch $(INSTALLED_DEV)

.PHONY: pretrain
pretrain: $(INSTALLED) ## demo: real text -> rows -> pretraining -> Hugging Face model
	python -m data_prep.demo_corpus data/demo/raw
	python -m data_prep.run configs/data_demo.yaml
	deepspeed --num_accelerators 2 --master_port $$(python -c "$$FREE_PORT") \
	    pipeline/train.py configs/demo.yaml output=$(RUN) $(OVERRIDES)
	python -m pipeline.export configs/demo.yaml output=$(RUN) $(OVERRIDES)
	python -m pipeline.fill_mask $(RUN)/hf \
	    "Return a new <mask> object." \
	    "He was born in <mask> and died in London." \
	    "What say <mask>, my lord?"
	@echo
	@echo "rows and their report   data/demo/rows  (data/demo/rows/report.html)"
	@echo "checkpoints, record     $(RUN)/checkpoints, $(RUN)/events.jsonl"
	@echo "Hugging Face model      $(RUN)/hf"
	@echo "see the run in MLflow   make ui"

.PHONY: ui
ui: $(INSTALLED) ## open the MLflow UI on the runs (http://127.0.0.1:5000)
	mlflow ui --backend-store-uri sqlite:///$(abspath $(dir $(RUN)))/mlflow.db

.PHONY: test
test: $(INSTALLED_DEV) ## run the test suite (a few minutes)
	python -m pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: test-slow
test-slow: $(INSTALLED_DEV) ## twenty kills of a rank, every resume from grid to grid (minutes)
	python -m pytest -m slow -rs

.PHONY: test-cluster
test-cluster: $(INSTALLED_DEV) ## Slurm's scripts on a real Slurm (root; slurmctld slurmd slurm-client munge iproute2)
	python -m pytest -m cluster -rs tests/slurm

.PHONY: test-gpu
test-gpu: $(INSTALLED_DEV) ## what needs a GPU, on one of them (minutes)
	python -m pytest -m gpu -rs tests/model/test_attention.py tests/pipeline/gpu

.PHONY: test-packages
test-packages: $(INSTALLED_DEV) ## published weights, from the package index: continued, exported, compared
	python -m pytest -m packages -rs tests/pipeline

.PHONY: export-versions
export-versions: $(INSTALLED_DEV) ## exports in transformers 4.57 and sentence-transformers, in an environment of their own
	test -x $(VENV)-versions/bin/python || $(PYTHON) -m venv $(VENV)-versions
	$(VENV)-versions/bin/pip install --quiet --disable-pip-version-check \
	    torch==2.13.0 transformers==4.57.6 sentence-transformers==5.7.0
	python -m benchmarks.export_versions --python $(VENV)-versions/bin/python

.PHONY: bench
bench: ## all benchmarks, with the packages that they compare with, to BENCH=data/bench (hours; BENCH_OPTIONS=--quick: minutes)
	test -x $(VENV)-bench/bin/python || $(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/pip install --quiet --disable-pip-version-check \
	    -r requirements.txt -r requirements-dev.txt accelerate==1.15.0
	$(VENV)-bench/bin/python -m benchmarks.suite $(BENCH) $(BENCH_OPTIONS)

.PHONY: test-ui
test-ui: $(INSTALLED_DEV) ## pages of reports and of MLflow in Chromium (chromium chromium-driver)
	python -m pytest -m browser -rs tests/configs/pages tests/docs tests/pipeline/tracking/test_mlflow_ui.py

.PHONY: check
check: $(INSTALLED_DEV) ## lint, format and type checks
	ruff check .
	ruff format --check .
	mypy

.PHONY: format
format: $(INSTALLED_DEV) ## format, and fix what ruff can fix
	ruff check --fix .
	ruff format .

.PHONY: docs
docs: $(INSTALLED_DEV) ## regenerate docs/config.md, its JSON schemas, docs/commands.md and the picture of rows
	python -m docs.generate
	python -m docs.generate_commands
	python -m docs.pictures

.PHONY: clean
clean: ## remove the demo's data and runs, not the environment
	rm -rf data/demo runs/demo
