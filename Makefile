# Every target makes the virtual environment it needs. On a fresh machine only Python 3.10 or newer has to be there.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
SPREAD = -n auto --maxprocesses 8 --dist loadfile# tests go to all cores, those of a file to the same one
TYPES = .types# the packages as they are imported, for mypy, which does not see through setup.cfg's package_dir

# tests of floating-point arithmetic: processors differ in the order of sums
NUMERIC = $(addprefix tests/test_, $(addsuffix .py, a2c algorithms coma ddpg discrete_sac distributions dqn game_tree \
    gradient_workers inference losses maddpg mappo memory meta_solvers mixers nets noisy normaliser ppo preprocessor \
    qmix qpg returns sac vtrace))

.PHONY: demo test test-numeric test-slow lint format bench clean

demo: $(VENV)/.installed
	$(BIN)/python -m malib_lite.train psro --env open_spiel/kuhn_poker

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(SPREAD)

test-numeric: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(SPREAD) $(NUMERIC)

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(SPREAD) -m slow

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf $(TYPES) && mkdir -p $(TYPES)/malib_lite
	ln -s $(CURDIR)/malib_lite/* $(CURDIR)/envs $(CURDIR)/algorithms $(TYPES)/malib_lite
	cd $(TYPES) && $(abspath $(BIN))/mypy --config-file ../pyproject.toml

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/ring.py
	$(BIN)/python benchmarks/parameters.py
	$(BIN)/python benchmarks/cartpole_ppo.py
	$(BIN)/python benchmarks/compiled_games.py
	$(BIN)/python benchmarks/psro_exact.py
	$(BIN)/python benchmarks/rollout.py

$(VENV)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "malib_lite needs Python 3.10 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache $(TYPES)
