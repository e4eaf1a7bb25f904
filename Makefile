# chanuka_ops: `make` lists the targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
LOCK   := .ci/requirements.lock
STAMP  := $(VENV)/.installed
# three at a time on two cores: a test waits more than it works. Each worker has servers of its own, and a module's
# tests stay together, for what a module makes is made once then
WORKERS ?= 3
PYTEST := $(BIN)/pytest -n $(WORKERS) --dist loadscope $(if $(PG_BIN),--pg-bin=$(PG_BIN))

# hundreds of the tests' processes import the same code: without its compiled form each compiles it again
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo up test test-unit test-slow test-all bench check format lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|' 2>/dev/null || \
	 grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv and install everything, pinned by hash

$(STAMP): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) or sys.version_info >= (3, 14))' || \
	 { echo "chanuka_ops needs Python 3.11 to 3.13, and $(PYTHON) is $$($(PYTHON) -V 2>&1). Say PYTHON=python3.12, for one."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCK)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python -m compileall -q chanuka_ops migrations
	@touch $@

demo: $(STAMP) ## run the whole cycle on an embedded PostgreSQL and print what happened
	$(BIN)/chanuka-ops demo $(if $(SCALE),--scale $(SCALE))

up: $(STAMP) ## serve Dagster's UI and daemon over the embedded PostgreSQL, until Ctrl-C
	$(BIN)/chanuka-ops up $(if $(PORT),--port $(PORT))

test: $(STAMP) ## the test suite on real PostgreSQL servers that it starts itself; PG_BIN=DIR picks the version
	$(PYTEST) -m "not slow"

test-unit: $(STAMP) ## only the tests that need no server: seconds
	$(PYTEST) -m "not slow and not postgres" chanuka_ops_tests/unit chanuka_ops_tests/project

test-slow: $(STAMP) ## the slow ones: kill -9 in mid-backup, the whole demo, Dagster's servers
	$(PYTEST) -m slow

test-all: $(STAMP) ## both
	$(PYTEST)

bench: $(STAMP) ## what a backup, a connection, a look at health and a migration cost beside PostgreSQL's, SQLAlchemy's and Alembic's own
	$(BIN)/python benchmarks/connections.py
	$(BIN)/python benchmarks/backup.py
	$(BIN)/python benchmarks/health.py
	$(BIN)/python benchmarks/migrations.py up
	$(BIN)/python benchmarks/migrations.py lint

check: $(STAMP) ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## write the format, and what lint can mend
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

lock: ## pin every dependency again (needs uv)
	uv pip compile --quiet --universal --no-strip-extras --generate-hashes --no-emit-index-url --no-header \
	  --python-version 3.11 --extra dev --extra embedded pyproject.toml -o $(LOCK)

clean: ## remove what was built; .chanuka, with its data and backups, stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
