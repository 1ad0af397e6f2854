# Python 3.11-3.13 and make are all that is needed. PYTHON chooses the interpreter that makes the environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS ?= dev
# Language packs of tesseract: all of them, or for example PACKS="eng osd script-latn deu fra".
PACKS ?= all

.DEFAULT_GOAL := help
.PHONY: help setup engines demo test test-all check format bench lock docs documents clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP) ## Create .venv and install the exact versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "sluice needs Python 3.11, 3.12 or 3.13; run: make setup PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

engines: ## Install tesseract and its language packs (Debian, as root)
	apt-get update --quiet
	apt-get install --quiet --yes --no-install-recommends tesseract-ocr $(addprefix tesseract-ocr-,$(PACKS))

demo: setup ## Run the main job on the built-in corpus: documents in, a small pre-trained Qwen3 out
	$(BIN)/sluice run examples/quickstart.yaml --output runs/quickstart

test: setup ## Fast tests
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-all: setup ## All tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: setup ## Lint, format check and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## Rewrite the sources in the house's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## All benchmarks, one after the other
	@for file in benchmarks/*.py; do name=$$(basename $$file .py); echo "== $$name"; \
	  case $$name in _*) ;; *) $(BIN)/python -m benchmarks.$$name || exit 1;; esac; done

lock: ## Resolve the newest allowed versions anew and write constraints.txt
	rm -rf build/lock-venv
	$(PYTHON) -m venv build/lock-venv
	build/lock-venv/bin/python -m pip install --quiet --editable '.[dev]'
	build/lock-venv/bin/python -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' > constraints.txt
	rm -rf build/lock-venv

docs: setup ## Rebuild docs/recipe.md from the schema
	$(BIN)/python -m sluice.reference > docs/recipe.md

documents: setup ## Rebuild the PDF and Parquet files of the built-in corpus
	$(BIN)/python examples/quickstart/make_documents.py

clean: ## Remove the environment and build products
	rm -rf $(VENV) build *.egg-info
