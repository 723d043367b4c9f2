# Set-up and everyday commands. `make demo` and `make test` do all that they need, and little the second time.

VENV ?= .venv
CONSTRAINTS ?= constraints.txt
# The first of these that is Python 3.11 to 3.13; `make demo PYTHON=/path/to/python` chooses another.
PYTHON ?= python3 python3.13 python3.12 python3.11

RUN := $(VENV)/bin/python -m
PIP_INSTALL := $(RUN) pip install --disable-pip-version-check --constraint $(CONSTRAINTS)
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-long test-gpu lint audit bench sandbox clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST))

demo: $(INSTALLED) sandbox ## Grade a made-up class in a throw-away copy of the course
	$(VENV)/bin/course demo

test: lint sandbox ## Check style and types, then run all tests
	$(RUN) pytest -n auto --dist loadfile --no-loadscope-reorder

test-long: $(INSTALLED_DEV) sandbox ## Run the tests that take long: whole notebooks, every attack, a hundred killed graders
	$(RUN) pytest -m long --durations=0

test-gpu: $(INSTALLED_DEV) sandbox ## Grade on an NVIDIA GPU, and compare with the CPU; skipped, with the reason, where there is none
	$(RUN) pytest -m gpu -rs --durations=0

lint: $(INSTALLED_DEV) ## Check style and types
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

audit: $(INSTALLED_DEV) ## Test the hidden checks with mistakes, other right answers and mutants
	$(VENV)/bin/course audit

bench: $(INSTALLED) sandbox ## Compare with stock nbgrader on this machine, which should have nothing else to do
	$(VENV)/bin/python benchmarks/bench.py

clean: ## Remove the environment, the demo and what tools left behind; marks and submissions stay
	rm -rf $(VENV) demo .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# venv writes `activate` last: where it is, the environment is whole.
$(VENV)/bin/activate:
	@for python in $(PYTHON); do \
	    "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || continue; \
	    found=$$python; "$$python" -c 'import ensurepip, venv' 2>/dev/null || continue; \
	    echo "Making $(VENV) with $$("$$python" --version)"; \
	    exec "$$python" -m venv --clear $(VENV); \
	done; \
	if [ -n "$$found" ]; then \
	    echo "$$found cannot make an environment: install its venv module and run make again, on Debian and Ubuntu with"; \
	    echo "    sudo apt-get install python3-venv"; \
	else \
	    echo "Python 3.11, 3.12 or 3.13 is needed, and none of these is one: $(PYTHON)"; \
	    echo "Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12"; \
	fi >&2; exit 1

$(INSTALLED): pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/activate
	@echo "Installing PyTorch, Jupyter and nbgrader into $(VENV): some minutes, once"
	$(PIP_INSTALL) --quiet --upgrade pip
	$(PIP_INSTALL) --editable .
	@touch $@

$(INSTALLED_DEV): pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/activate
	@echo "Installing PyTorch, Jupyter, nbgrader and the tools for tests into $(VENV): some minutes, once"
	$(PIP_INSTALL) --quiet --upgrade pip
	$(PIP_INSTALL) --editable '.[dev]'
	@touch $(INSTALLED) $@

# Bubblewrap makes the sandbox. Without it the demo says so and goes on.
sandbox:
	@command -v bwrap >/dev/null && exit; \
	if command -v apt-get >/dev/null; then line="apt-get install -y bubblewrap" before="apt-get update"; \
	elif command -v dnf >/dev/null; then line="dnf install -y bubblewrap" before=true; \
	elif command -v pacman >/dev/null; then line="pacman -S --noconfirm bubblewrap" before=true; \
	else echo "No sandbox: bubblewrap is not installed (there is none but for Linux)."; exit; fi; \
	if [ "$$(id -u)" = 0 ]; then as=; elif sudo -n true 2>/dev/null; then as=sudo; \
	else echo "No sandbox: bubblewrap is not installed. Type:  sudo $$line"; exit; fi; \
	echo "Installing bubblewrap, which makes the sandbox"; \
	$$as $$before && $$as $$line || echo "No sandbox: bubblewrap could not be installed."
