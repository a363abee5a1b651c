# Every command that the README names. Bare `make` explains them.
.DEFAULT_GOAL := help
.PHONY: help setup demo mlflow notebooks test bench models real chaos lint clean

python := .venv/bin/python

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## make .venv and fetch Delta's jars; nothing to do when nothing changed (PYTHON=/path/to/python3.11)
	@PYTHON='$(PYTHON)' /bin/sh infra/setup/setup.sh

demo: setup ## make a synthetic Commonwealth, ingest its deliveries and show what came of them
	@$(python) -m concord.demo $(DEMO)

mlflow: setup ## serve the demo's runs and models at http://127.0.0.1:5000, until Ctrl-C
	@MLFLOW_BACKEND_STORE_URI=sqlite:///data/demo/mlflow/mlflow.db MLFLOW_ARTIFACTS_DESTINATION=data/demo/mlflow/artifacts $(python) infra/mlflow/serve.py

notebooks: setup ## execute the notebooks over the demo's lake, into notebooks/*.ipynb
	@$(python) notebooks/execute.py

# Two workers, one a core. loadfile, because tests that share a dear fixture (the demo, a finished
# set-up) stand in one file and so pay for it once; in the order of tests/conftest.py, for xdist's own
# puts files with few tests last, the dearest. Here and not in pyproject.toml, so that a plain pytest
# stays in one process, for a debugger.
test: setup ## run every test, lint included (TEST="-k name tests/unit" narrows it)
	@$(python) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(TEST)

bench: setup ## measure synthesis and ingestion, and write docs/benchmarks.md (BENCH=linkage, index, agreements, features, scores, few; BENCH="--help")
	@$(python) -m tests.bench $(BENCH)

models: setup ## the models' experiments in full on 200,000 people, and what they have to show (MODELS="--people 60000")
	@$(python) -m tests.experiments $(MODELS)

real: setup build/real/made ## ingest a population that nobody here wrote, pseudopeople's sample, and check it
	@$(python) -m tests.real

# An environment of its own: pseudopeople needs older packages than Concord. uv is the quicker one,
# pip knows the settings of a site's mirror.
real_python := build/real/venv/bin/python
real_install := install --quiet --require-hashes --no-deps --requirement infra/real/requirements.txt
build/real/made: infra/real/requirements.txt | setup
	@echo 'real: installing pseudopeople into build/real/venv: a minute, and 600 MB'
	@$(python) -m venv --clear --without-pip build/real/venv
	@.venv/bin/uv pip $(real_install) --no-config --python $(real_python) 2>/dev/null \
	  || $(python) -m pip --python $(real_python) $(real_install)
	@touch $@

chaos: setup ## the slow tests: jobs, executors and servers killed at every point, all notebooks
	@$(python) -m pytest -m chaos $(TEST)

lint: setup ## ruff, mypy and the import rules alone
	@$(python) -m pytest tests/unit/test_lint.py

clean: ## remove what was built and caches, never a lake in data/ (CLEAN=all: .venv and the jars too)
	@rm -rf build dist metastore_db spark-warehouse derby.log notebooks/*.ipynb notebooks/.ipynb_checkpoints
	@rm -rf .pytest_cache .hypothesis .ruff_cache .mypy_cache .import_linter_cache
	@find libs models jobs tests infra -name __pycache__ -type d -prune -exec rm -rf {} +
ifeq ($(CLEAN),all)
	@rm -rf .venv infra/jars/*.jar infra/jars/arriving infra/jars/*.jsa infra/jars/*.log
endif
