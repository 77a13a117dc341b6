# `make` lists what there is. The first `make lab` or `make test` installs everything into .venv;
# later ones start at once, until pyproject.toml or constraints.txt changes.

PYTHON ?= python3 python3.13 python3.12 python3.11
CHAPTER ?= 04
# .venv takes 2600 MB with torch's CPU build, and 3800 MB more with the CUDA build.
NEED_MB ?= 3000
NEED_CUDA_MB ?= 6800
VENV := .venv
BIN := $(VENV)/bin
# In containers and on rented GPU machines one is root, which JupyterLab refuses unless told.
ALLOW_ROOT = $(if $(filter 0,$(shell id -u)),--allow-root)

.DEFAULT_GOAL := help
.PHONY: help lab test test-all lint build site grade bench doctor clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

# JupyterLab's terminals find `attncourse`: no login shell, which would set a PATH of its own.
lab: $(VENV)/.lab ## Open the course in JupyterLab (on a server: ARGS=--no-browser)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/jupyter lab --ServerApp.root_dir="$(CURDIR)" $(ALLOW_ROOT) \
	    --ServerApp.terminado_settings="{'shell_command': ['$${SHELL:-sh}']}" \
	    --LabApp.app_settings_dir="$(CURDIR)/jupyter" \
	    --LabApp.default_url=/lab/tree/notebooks/00_start.ipynb $(ARGS)

# Two workers with a thread each: two threads each would wait for one another. Some hundred processes
# are started, none of which should compile the course anew.
PYTEST := PYTHONDONTWRITEBYTECODE= OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 \
    $(BIN)/python -m pytest -n 2 --dist loadscope

test: $(VENV)/.test ## Run tests and notebooks as each day does (ARGS="tests -k window" for some)
	$(PYTEST) $(ARGS)

test-all: $(VENV)/.test ## The same with every combination and seed, and what takes long
	$(PYTEST) -m "nightly or not nightly" $(ARGS)

lint: $(VENV)/.test ## Check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

build: $(VENV)/.lab ## Build the notebooks from their sources (ARGS=--check compares only)
	$(BIN)/attncourse build $(ARGS)

site: $(VENV)/.site ## Build the course as web pages that need no kernel (CHAPTERS="04 09" for some)
	$(BIN)/python site/build.py $(CHAPTERS)

grade: $(VENV)/.lab ## Grade your answers to one chapter (CHAPTER=04)
	$(BIN)/attncourse grade --chapter $(CHAPTER) $(ARGS)

bench: $(VENV)/.lab ## Measure every mechanism on this machine's CPU
	$(BIN)/attncourse bench --cpu $(ARGS)

doctor: $(VENV)/.lab ## Say what this machine has, and what to do about what it lacks
	$(BIN)/attncourse doctor $(ARGS)

clean: ## Remove .venv and caches; your answers and results stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info site/_build
	find . -name __pycache__ -prune -exec rm -rf {} +

# Three stamps: to read the course nobody needs the tools of tests and site.
$(VENV)/.lab: pyproject.toml constraints.txt
	@$(call install,.)
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt
	@$(call install,.[test])
	@touch $@ $(VENV)/.lab

$(VENV)/.site: pyproject.toml constraints.txt
	@$(call install,.[site])
	@touch $@ $(VENV)/.lab

# Finds a Python, makes .venv unless a working one is there, and installs $(1) into it. What is
# missing is said in one line.
define install
stop() { echo "make: $$*" >&2; exit 1; }; \
free_mb() { df -Pk . | awk 'NR == 2 {print int($$4 * 1.024 / 1000)}'; }; \
need() { [ "$$(free_mb)" -ge "$$1" ] || stop "needs about $$1 MB of disk for .venv$$2;" \
    "only $$(free_mb) MB are free here."; }; \
if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
    for candidate in $(PYTHON); do \
        $$candidate -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
            >/dev/null 2>&1 && python=$$candidate && break; \
    done; \
    [ -n "$$python" ] || stop "needs Python 3.11, 3.12 or 3.13 and finds none as: $(PYTHON)." \
        "Install one, or name it: make lab PYTHON=/path/to/python3.12"; \
    $$python -c 'import ensurepip, venv' >/dev/null 2>&1 || stop "$$python cannot make virtual" \
        "environments: its venv module is missing (Debian, Ubuntu: sudo apt install python3-venv)."; \
    need $(NEED_MB); \
    echo "Making .venv with $$($$python --version) and installing; this takes a few minutes."; \
    $$python -m venv --clear $(VENV) || stop "$$python -m venv failed; its message is above."; \
fi; \
if [ "$$(uname -s)" = Linux ] && ! $(BIN)/python -c 'import torch' >/dev/null 2>&1; then \
    case "$$($(BIN)/python -m pip install --dry-run --no-deps -c constraints.txt torch 2>&1)" in \
        *"Would install torch-"*+cpu*) ;; \
        *"Would install torch-"*) need $(NEED_CUDA_MB) " with torch's CUDA build, which pip picks here";; \
    esac; \
fi; \
$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e "$(1)" || \
    stop "the install failed; pip's message is above ($$(free_mb) MB of disk are free)." \
        "Run the same command again to go on."
endef
