# make demo   set up .venv and build, plot and benchmark the first zoo
# make test   set up .venv and run all checks
# make test-cluster  and of a cluster: faults of several nodes, ray up, ray submit, ray down (as root)
# make lock   pin the newest versions that pyproject.toml allows
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-cluster lock

demo: .venv/ready
	$(BIN)/mdzoo build demo --out zoos/demo
	$(BIN)/mdzoo plot zoos/demo
	$(BIN)/mdzoo benchmark zoos/demo --out zoos/demo/benchmark --draws 2

test: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror zoo/engines/kernels/* tests/zoo/*.cpp
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --durations 20

test-cluster: .venv/ready
	$(BIN)/python -m pytest -m cluster --durations 20

lock: .venv/ready
	$(BIN)/uv pip compile --upgrade --universal --python-version 3.11 --all-extras --group dev \
	    --no-header --no-annotate --quiet pyproject.toml -o requirements.lock

# uv, itself pinned in the lock, installs everything else; the package is linked, not copied, and its kernels are compiled
# where there is a C++ compiler. Bytecode is compiled once here: where Python may not write it
# (PYTHONDONTWRITEBYTECODE), each process would spend ten seconds on it.
.venv/ready: requirements.lock pyproject.toml setup.py $(wildcard zoo/engines/kernels/*)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep -o '^uv==[0-9.]*' requirements.lock)"
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --build-constraints requirements.lock -e .
	touch $@
