# make lab, make test: everything else is `course --help`. The steps are in
# course_utils/commands/steps.py. Variables: PYTHON=python3.12, TORCH=cpu (the small CPU build on
# Linux), NO_BROWSER=1, LAB_ARGS=--port=9999 (for JupyterLab), WORKERS=4 (parallel test workers).
PYTHON ?= python3
TORCH ?=
WORKERS ?= 2
LAB_ARGS ?=
export WORKERS LAB_ARGS

STEPS = $(PYTHON) -m course_utils.commands.steps

.PHONY: help lab test oracles constraints clean python

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1 \t/p' Makefile
	@echo 'Variables: PYTHON=python3.12  TORCH=cpu  NO_BROWSER=1  LAB_ARGS=--port=9999  WORKERS=4'

lab: python  ## environment, texts and weights, your copies in work/, JupyterLab
	@$(STEPS) lab --torch '$(TORCH)' $(if $(NO_BROWSER),--no-browser)

test: python  ## environment, lint, tests, all notebooks, oracles
	@$(STEPS) test --torch '$(TORCH)'

oracles: python  ## only the comparison with other software, in its own environment
	@$(STEPS) oracles --torch '$(TORCH)'

constraints: python  ## renew the pinned versions (docs/maintainer.md)
	@$(PYTHON) -m course_utils.commands.constraints

clean:  ## remove both environments and build/; work/ and the cache stay
	rm -rf .venv .venv-oracles build .pytest_cache .ruff_cache *.egg-info

python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || { \
	  echo 'The course needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is:'; \
	  $(PYTHON) --version; echo 'Choose another one: make lab PYTHON=python3.11'; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || { \
	  echo '$(PYTHON) lacks venv or pip (Debian, Ubuntu: apt install python3-venv)'; exit 1; }
