# Everything runs in .venv, from pinned versions, installed by plain pip. `make` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help quickstart setup setup-dev test test-all test-stamps test-newest test-tf lint format lock clean
.NOTPARALLEL:

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{ printf "  make %-12s %s\n", $$1, $$2 }'
	@echo "PYTHON=python3.12 behind any of them names the Python that $(VENV) is made with."

quickstart: setup ## install, then train on OpenMoji pictures and their names on the CPU
	$(BIN)/python experiments/train.py --config configs/align_openmoji.py --workdir runs/quickstart

setup: $(VENV)/.ready ## install mmjax and all it needs into .venv

setup-dev: $(VENV)/.ready-dev ## the same, with all that tests and checks need

test: setup-dev ## the fast tests
	$(PYTEST)

test-all: setup-dev ## all tests, the slow ones too
	$(PYTEST) -m ""

test-stamps: setup-dev .stamps/usr ## Tux Paint's stamps as they are: downloads 160 MB and needs Debian's or Ubuntu's apt-get
	MMJAX_STAMPS=.stamps $(PYTEST) -m "" tests/data/sources/test_stamps.py

.stamps/usr:
	mkdir -p .stamps
	cd .stamps && apt-get download tuxpaint-stamps-default && dpkg -x tuxpaint-stamps-default_*.deb .

test-newest: ## the fast tests on the newest versions that pyproject.toml allows, in .venv-newest
	@sh -euc "$$CHECK"
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager -e '.[dev]'
	.venv-newest/bin/python -m pytest -n auto --dist loadfile

test-tf: ## the tests of what takes TensorFlow, in .venv-tf (2.7 GB on disk)
	@sh -euc "$$CHECK"
	test -e .venv-tf/.ready || $(PYTHON) -m venv --clear .venv-tf
	.venv-tf/bin/python -m pip install --quiet -r requirements-dev.txt -e '.[tf]'
	@touch .venv-tf/.ready
	.venv-tf/bin/python -m pytest tests/data/sources/test_tfds.py tests/data/sources/test_tfds_audio.py

lint: setup-dev ## ruff (rules and format), pyright (types)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: setup-dev ## let ruff repair what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup-dev ## pin the newest versions that pyproject.toml allows in requirements*.txt
	@sh -euc "$$LOCK"

clean: ## remove environments and caches; runs/ stays
	rm -rf $(VENV) .venv-newest .venv-tf .pytest_cache .ruff_cache

$(VENV)/.ready: requirements.txt pyproject.toml
	@sh -euc "$$SETUP" sh requirements.txt
	@touch $@

$(VENV)/.ready-dev: requirements-dev.txt requirements.txt pyproject.toml
	@sh -euc "$$SETUP" sh requirements-dev.txt
	@touch $(VENV)/.ready $@

# One line that says what is wrong, before anything is made.
define CHECK
stop() { echo "mmjax: $$1" >&2; exit 1; }
command -v $(PYTHON) >/dev/null || stop "no '$(PYTHON)' here; name a Python 3.11 or newer: make ... PYTHON=/path/to/python3.12"
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  stop "needs Python 3.11 or newer, '$(PYTHON)' is $$($(PYTHON) -V 2>&1); name another: make ... PYTHON=python3.12"
$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null ||
  stop "'$(PYTHON)' cannot make environments; on Debian and Ubuntu: sudo apt install python3-venv"
endef

# The .ready stamps stand for a whole installation. One that was interrupted leaves .installing behind, and the
# environment is then made afresh; otherwise a .venv that is there already is added to.
define SETUP
if [ -e $(VENV)/.installing ] || ! $(BIN)/python -c '' 2>/dev/null; then
$(CHECK)
  rm -rf $(VENV)
  mkdir $(VENV)
  touch $(VENV)/.installing
  $(PYTHON) -m venv $(VENV)
fi
$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mmjax: $(VENV) has a Python older than 3.11: make clean")'
echo "mmjax: installing $$1 into $(VENV): the first time 0.4 GB to download, 1.4 GB on disk, a minute or more"
$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
rm -f $(VENV)/.ready $(VENV)/.ready-dev
touch $(VENV)/.installing
$(BIN)/python -m pip install --quiet -r $$1
$(BIN)/python -m pip install --quiet --no-deps -e .
rm $(VENV)/.installing
endef

# Each of the other locks holds only what it adds to requirements.txt, whose versions bind it.
define LOCK
trap 'rm -f .lock-*' EXIT
lock() { # FILE, what the file is for, further arguments for uv
  file=$$1 what=$$2; shift 2
  command="uv pip compile pyproject.toml --universal --python-version 3.11 --no-annotate$$*"
  $(BIN)/$$command --no-config --no-header --quiet > .lock-all
  echo "# Made by 'make lock', do not edit: $$command" > .lock-new
  echo "# $$what" >> .lock-new
  if [ $$file = requirements.txt ]; then cat .lock-all >> .lock-new
  else echo "-r requirements.txt" >> .lock-new; grep -vxFf requirements.txt .lock-all >> .lock-new
  fi
  mv .lock-new $$file
  echo "mmjax: wrote $$file"
}
gpu="with NVIDIA GPUs, pip install -r requirements-cuda12.txt"
tpu="on Cloud TPU machines, pip install -r requirements-tpu.txt"
lock requirements.txt "For CPUs (Linux, macOS on Apple silicon), Python 3.11 and newer. Linux $$gpu; $$tpu."
lock requirements-dev.txt "What tests and checks need, beside requirements.txt." " -c requirements.txt --extra dev"
lock requirements-cuda12.txt "What jax[cuda12] brings, for Linux with NVIDIA GPUs. After 'make setup': .venv/bin/python -m pip install -r requirements-cuda12.txt" " -c requirements.txt --extra cuda12"
lock requirements-tpu.txt "What jax[tpu] brings, for Cloud TPU machines. After 'make setup': .venv/bin/python -m pip install -r requirements-tpu.txt" " -c requirements.txt --extra tpu"
endef
export CHECK SETUP LOCK
