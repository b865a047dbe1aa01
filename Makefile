# Everything runs from a virtual environment in .venv, which is created and kept up to date automatically.
# `make` alone lists the targets.

PYTHON ?= python3
ARGS ?=
m ?=

BIN := .venv/bin
STAMP := .venv/.installed

# A virtual environment that was moved here, or whose interpreter is gone, does not work: make it again.
ifneq ($(shell $(BIN)/python -c "" 2>/dev/null && cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

.DEFAULT_GOAL := help
.PHONY: help run demo test test-processes lint types imports danger check format pins migration postman chaos bench clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(STAMP): requirements.txt requirements-dev.txt
	@sh sandbox/stack/install.sh "$(PYTHON)" $(STAMP)

run: $(STAMP) ## Serve the whole stack on PORT (5000) until Ctrl-C; data stays in var/
	@exec $(BIN)/python -m sandbox.stack

demo: $(STAMP) ## Walk through the product with real requests, each shown with its answer
	@exec $(BIN)/python -m sandbox.tour

test: $(STAMP) ## Run the tests; ARGS="-k quota" picks some
	@exec $(BIN)/python -m pytest -n auto --dist worksteal -m "not processes" $(ARGS)

test-processes: $(STAMP) ## Run the tests that start, kill and freeze whole processes (CI does)
	@exec $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m processes $(ARGS)

lint: $(STAMP) ## Check style and formatting
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

types: $(STAMP) ## Check types
	@$(BIN)/mypy

imports: $(STAMP) ## Check the rules for imports between packages
	@$(BIN)/lint-imports

danger: $(STAMP) ## Search the product's code for dangerous calls
	@$(BIN)/bandit --quiet --recursive --configfile pyproject.toml app migrations config.py production_rules.py wsgi.py celery_worker.py celery_beat.py gunicorn.conf.py web_worker.py

check: lint types imports danger ## All four checks

format: $(STAMP) ## Format the code and fix what can be fixed automatically
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

pins: $(STAMP) ## Write requirements*.txt from requirements*.in; ARGS=--upgrade takes the newest versions
	@sh sandbox/stack/pins.sh $(BIN)/python $(ARGS)

migration: $(STAMP) ## Write a migration from the models: make migration m="What changes"
	@exec $(BIN)/python -m sandbox.stack.migration "$(m)"

postman: $(STAMP) ## Write the Postman collection in docs/postman/ from the API's description
	@exec $(BIN)/python -m sandbox.postman

chaos: $(STAMP) ## Kill processes under load and check that nothing is lost
	@exec $(BIN)/python -m sandbox.chaos $(ARGS)

bench: $(STAMP) ## Measure what the service costs, beside its floors; ARGS=growth measures something else
	@exec $(BIN)/python -m bench $(or $(ARGS),table)

clean: ## Remove .venv and the caches; your data in var/ stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
