# Each target makes .venv on its first run and renews it when pyproject.toml or constraints.txt change.
#   make demo                    the demo, with what it needs and no more
#   make test ARGS="-k cider"    arguments for pytest
#   make test PYTHON=python3.12  the Python that .venv is made with
# SPHEROOD_SHARED, where the environment has it, names a folder of image sets; without it the tests that need it skip.

PYTHON ?= python3
ARGS ?=
VENV := .venv
RUN := $(VENV)/bin/python

# -c does not reach the environment that pip builds the package in: these do, the second since pip 25.3.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# An environment that was copied with its folder would run the code of the folder it came from.
ifneq ($(shell cat $(VENV)/made-in 2>/dev/null),$(CURDIR))
$(shell rm -f $(VENV)/demo $(VENV)/dev)
endif

.PHONY: help demo test lint check bench clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1	\2/p' Makefile

demo: $(VENV)/demo ## train three detectors on scanned digits: a table, a page, a bundle
	$(VENV)/bin/spherood demo
	@echo "to type spherood in this shell: . $(VENV)/bin/activate"

test: $(VENV)/dev ## run the tests
	$(RUN) -m pytest $(ARGS)

lint: $(VENV)/dev ## ruff and mypy --strict
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

check: lint test ## what must pass before a change lands

bench: $(VENV)/dev ## measure every claim about speed; fails where one is missed
	@failed=0; for script in benchmarks/*.py; do echo "== $$script"; $(RUN) $$script || failed=1; done; exit $$failed

clean: ## remove .venv and what the tools left
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/demo: pyproject.toml constraints.txt
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV), a minute or two:"
	$(RUN) -m pip install -qq -c constraints.txt -e '.[demo]'
	@echo "$(CURDIR)" > $(VENV)/made-in
	@touch $@

$(VENV)/dev: pyproject.toml constraints.txt
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV), a minute or two:"
	$(RUN) -m pip install -qq -c constraints.txt -e '.[dev]'
	@echo "$(CURDIR)" > $(VENV)/made-in
	@touch $(VENV)/demo $@
