# One command for each intent; continuous integration calls the same ones.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
REPOSITORY := model_repository
EXPORTED := $(REPOSITORY)/manifest.json
# Twice as fast as fp32 and, by `make evaluate`, as good; `make clean export PRECISION=fp32` for the other.
PRECISION ?= int8_kv8
PROMETHEUS := .tools/prometheus/usr/bin/prometheus
NATIVE := songstarter/stages/native
COMPILED := $(NATIVE)/.compiled
# What the exported graphs are made of: a change here makes them stale.
EXPORTER := $(shell find export songstarter/checkpoint.py songstarter/contract.py songstarter/chunks.py -name '*.py' 2>/dev/null) $(wildcard embedded/*)

SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
# pip says a line for each of ninety packages; this makes them one that counts.
PIP_PROGRESS := /^(Collecting|Processing) / { printf "\r  %d packages found", ++n; fflush() } \
	/^Installing collected/ { print "\n  installing them"; fflush() }

export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help setup export demo serve bench train evaluate prometheus test test-all check fix clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(COMPILED) ## make the virtual environment (.venv), compile what is in C

$(INSTALLED): pyproject.toml constraints.txt
	@echo "setting up $(VENV): 1.8 GB of packages, a minute or two"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]' | awk '$(PIP_PROGRESS)'
	@$(BIN)/python -c 'import songstarter, torch, onnxruntime, tritonclient'
	@touch $@

$(COMPILED): $(INSTALLED) $(wildcard $(NATIVE)/*.h) $(wildcard $(NATIVE)/*.c) $(NATIVE)/compile.py
	@$(BIN)/python -m songstarter.stages.native.compile
	@touch $@

export: $(EXPORTED) ## export the embedded checkpoint into model_repository/

$(EXPORTED): $(COMPILED) $(EXPORTER)
	$(BIN)/songstarter export embedded --into $(REPOSITORY) --precision $(PRECISION)

demo: $(EXPORTED) ## start Triton, make two songs, stop it
	$(BIN)/python examples/demo.py

serve: $(EXPORTED) ## keep a server in the foreground
	$(BIN)/songstarter serve --repository $(REPOSITORY)

bench: $(EXPORTED) ## start a server, load it with 1 to 16 songs at once, report in out/bench.html
	$(BIN)/songstarter bench --serve $(REPOSITORY) --concurrency 1,2,4,8,16 --html out/bench.html --json out/bench.json

train: $(INSTALLED) ## train the embedded checkpoint anew, in some hours on two cores; goes on where it was cut off
	$(BIN)/python -m training.codec
	$(BIN)/python -m training.decoder

evaluate: $(INSTALLED) ## measure how the embedded checkpoint follows prompts and melodies
	$(BIN)/python -m training.evaluate --json training/results/evaluation.json

prometheus: $(PROMETHEUS) ## unpack Debian's prometheus into .tools/, for the tests that ask a real one

$(PROMETHEUS):
	mkdir -p .tools/prometheus
	cd .tools/prometheus && apt-get download prometheus && dpkg-deb --extract prometheus_*.deb . && rm prometheus_*.deb

test: $(COMPILED) ## run the tests, but for the slow ones
	$(BIN)/python -m pytest -m "not slow"

test-all: $(COMPILED) ## run every test
	$(BIN)/python -m pytest

check: $(INSTALLED) ## lint and type-check, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(INSTALLED) ## format, and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what was exported, made and run; .venv stays
	rm -rf out run $(EXPORTED) $(REPOSITORY)/*/1/*.onnx $(REPOSITORY)/*/1/*.onnx.data $(REPOSITORY)/*/1/*.weights.json $(REPOSITORY)/*/1/tokenizer.json
