# Every target sets up what it needs: its own virtual environment in .venv, and system packages through scripts/bootstrap.
SHELL := /bin/bash
BIN := .venv/bin
STAMP := .venv/.callbox-ready

.PHONY: help demo test test-guest test-deep test-sweep coverage check bench docs format clean

help:
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

$(STAMP): pyproject.toml scripts/bootstrap
	@scripts/bootstrap
	@touch $(STAMP)

demo: $(STAMP) ## an agent reviews a real pull request, its tests run in a sandbox: no key
	@# Without a terminal nobody can be asked whether the review may be posted.
	@$(BIN)/callbox demo $$([ -t 0 ] && [ -t 2 ] || echo --yes)

test: $(STAMP) test-guest ## all tests that a promise rests on
	@# Before the first test: without a kernel the contract suite would pass over qemu.
	@CALLBOX_IMAGES="$${CALLBOX_IMAGES:-$(CURDIR)/.venv/images}" $(BIN)/callbox setup
	@$(BIN)/python -m pytest
	@$(BIN)/python -m pytest tests/vm/test_kill_sweep.py -m sweep -k gvisor

test-guest: $(STAMP) ## the agent inside the sandboxes, which is a Go program
	@scripts/build_guest
	@PATH="$(CURDIR)/$(BIN):$$PATH" go -C guest vet ./...
	@PATH="$(CURDIR)/$(BIN):$$PATH" go -C guest test ./...

coverage: $(STAMP) ## the same, with the share of lines and branches that ran and those that did not
	@$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered

test-deep: $(STAMP) ## the property tests with 10,000 examples each
	@HYPOTHESIS_PROFILE=deep $(BIN)/python -m pytest tests/properties --timeout=0

test-sweep: $(STAMP) ## kill -9 at every named point of a sandbox's life, on every driver
	@$(BIN)/python -m pytest tests/vm/test_kill_sweep.py -m sweep

check: $(STAMP) ## style, types, floors and purity
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/pyright

bench: $(STAMP) ## benchmarks side by side with the peers; writes docs/benchmarks.md
	@scripts/bench

docs: $(STAMP) ## write the reference pages from the code
	@$(BIN)/python scripts/reference.py

format: $(STAMP)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## remove what the targets above made
	@rm -rf .venv .venv-peers .pytest_cache .ruff_cache .hypothesis .coverage .import_linter_cache
