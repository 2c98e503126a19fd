# make demo: install and run the whole journey on the demo set. make test: everything CI runs
# (make test WORKERS=2 where there is less memory than 2 GB for each of four workers, some of which wait for processes).
PYTHON ?= python3.11
BIN := .venv/bin
WORKERS ?= 4

.PHONY: install demo test loaders serve lock benchmark attack
.DEFAULT_GOAL := install

install: .venv/.installed

# uv resolves nothing here: it installs what the lock file names, quickly. Compiled now, every command starts sooner.
.venv/.installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet "uv==0.13.8"
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --requirement requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

demo: install
	$(BIN)/augment run demo
	$(BIN)/augment run demo-generation

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy & types=$$!; $(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder; \
		tests=$$?; wait $$types && exit $$tests

# Exports, read by the tools that train on them. These stand apart: Ultralytics is AGPL, and no requirement of ours.
loaders: install
	$(BIN)/uv pip install --quiet --python $(BIN)/python --target .loaders datasets datumaro matplotlib
	$(BIN)/uv pip install --quiet --python $(BIN)/python --target .loaders --no-deps ultralytics ultralytics-thop
	PYTHONPATH=.loaders $(BIN)/pytest -W default -k "ultralytics or datumaro or datasets_library" tests/test_export.py

benchmark: install
	$(BIN)/pytest -m benchmark -s tests/benchmarks

# Kills, damaged workspaces, hostile data sets, documents and requests; MINUTES=60 is the default.
attack: install
	$(BIN)/python tests/attacks.py $(if $(MINUTES),--minutes $(MINUTES))

serve: install
	$(BIN)/python -m flows.serve $(if $(PORT),--port $(PORT))

# After a change of pyproject.toml's ranges.
lock: install
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --extra dask --extra proof --extra s3 \
		--no-header --no-annotate pyproject.toml -o requirements.lock
