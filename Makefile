# Needs python3 (3.11 or newer), make and a package index; everything else goes into .venv.
# Another interpreter: make course PYTHON=python3.12
# PyTorch without CUDA, a quarter of the size: make course TORCH=cpu (Linux; elsewhere there is no CUDA in it)

PYTHON ?= python3
BIN := .venv/bin
TORCH ?=
# uv's own option chooses the build of torch; the lock's packages of CUDA are then left out
ifneq ($(TORCH),)
BACKEND := --torch-backend $(TORCH)
endif
LOCKED := $(if $(filter cpu,$(TORCH)),build/cpu.lock,requirements.lock)
STAMP := .venv/.complete

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help course test test-fast test-full gpu lab site bench readme lock clean setup

# The stamp holds the folder it was made in: a moved or copied environment is made again, because its scripts
# name the old folder, and so is one whose Python does not start. Nothing is removed while make reads this file.
STAMPED := $(shell cat $(STAMP) 2>/dev/null)
ifneq ($(STAMPED),$(CURDIR))
STALE := $(if $(STAMPED),.venv,$(STAMP))
else ifneq ($(shell $(BIN)/python -c 'print("works")' 2>/dev/null),works)
STALE := $(STAMP)
endif

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

course: setup ## set up, run all notebooks (quick profile), build the site
	@failed=0; \
	$(BIN)/course run || failed=1; \
	$(BIN)/course site || failed=1; \
	echo; \
	if [ $$failed = 1 ]; then echo "Something above failed: the reason is beside its name."; fi; \
	echo "look at the course     build/site/index.html, in a browser"; \
	echo "work in the notebooks  make lab"; \
	echo "type its commands      . $(BIN)/activate    then: course doctor, course run 03, course --help"; \
	exit $$failed

test: setup ## set up, then lint, tests, every notebook twice, every solution, the site
	@$(BIN)/python tests/all_checks.py

test-fast: setup ## lint and the tests that take seconds
	@$(BIN)/python tests/all_checks.py fast

test-full: setup ## all that make test does, and all of what it samples
	@$(BIN)/python tests/all_checks.py full

gpu: setup ## the tests that need a CUDA GPU, eight at a time
	@OMP_NUM_THREADS=2 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal -p no:benchmark tests/gpu

lab: setup ## open the notebooks in JupyterLab
	@$(BIN)/course lab

site: setup ## run what is out of date and build the site: build/site/index.html
	@failed=0; \
	$(BIN)/course run --resume || failed=1; \
	$(BIN)/course site || failed=1; \
	exit $$failed

bench: setup ## run the benchmarks
	@$(BIN)/python -m benchmarks

readme: setup ## fill in the README's generated parts: contents and results
	@$(BIN)/python -m course_lib.notebook_tools.readme

# `typing` is a backport for Python < 3.5 that cityscapesscripts still asks for.
lock: setup ## write requirements.lock anew within the ranges of pyproject.toml
	@uv=uv; uv --version >/dev/null 2>&1 || uv=$(BIN)/uv; \
	$$uv pip compile --quiet --universal --upgrade --no-header --no-emit-index-url \
	    --no-emit-package typing --extra test --extra site --extra cityscapes --extra cluster --extra pretrained \
	    --python $(BIN)/python -o requirements.lock pyproject.toml

clean: ## remove what was built; data, runs, results and .venv stay
	rm -rf build docs/notebooks docs/generated .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

setup: $(STAMP)

.PHONY: again
again:

# The stamp comes last: an interrupted set-up is taken up again. The lock lists every package, so
# nothing is left to resolve; bytecode is compiled now, or each kernel would compile torch again.
$(STAMP): pyproject.toml requirements.lock $(if $(STALE),again)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "Python 3.11 or newer is needed; $(PYTHON) is: $$($(PYTHON) --version 2>&1)"; \
	    echo "Name another one, for example: make $(or $(firstword $(MAKECMDGOALS)),course) PYTHON=python3.12"; \
	    exit 1; }
	@rm -rf $(or $(STALE),$@)
	@if uv --version >/dev/null 2>&1; then \
	    uv=uv; \
	    uv venv --quiet --allow-existing --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" .venv; \
	else \
	    uv=$(BIN)/uv; \
	    $(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet uv; \
	fi || { echo "The environment .venv could not be made: see above."; exit 1; }; \
	echo "Installing into .venv: torch is large, this takes minutes the first time."; \
	mkdir -p build && grep -Ev '^(nvidia-|triton|cuda-)' requirements.lock > build/cpu.lock; \
	$$uv pip install --python $(BIN)/python --compile-bytecode $(BACKEND) --no-deps -r $(LOCKED) && \
	$$uv pip install --python $(BIN)/python --no-deps -e .
	@printf '%s\n' '$(CURDIR)' > $@
