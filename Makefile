# make run    sets up, then segments an example picture: a table here, the overlay in out/
# make test   sets up, then the whole gate: ruff, mypy, pytest
# make demo   sets up, then opens the web page
# make check  the quick half of the gate: ruff and mypy
# make setup  a virtual environment in .venv with everything from PyPI
#
# VENV=… uses another environment; PYTHON=… makes it with another interpreter (3.11 or newer).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.textseg-stamp
PICTURE ?= examples/street.jpg
PHRASE ?= the red car

.PHONY: setup run demo test check picture clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[test]'
	touch $@

run: $(STAMP)
	$(BIN)/textseg segment $(PICTURE) "$(PHRASE)" -o out/

demo: $(STAMP)
	$(BIN)/textseg demo

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

test: check
	$(BIN)/pytest

# The README's picture, made by the models that ship.
picture: $(STAMP)
	$(BIN)/textseg segment examples/street.jpg "the red car" "the blue car" "a dog" -o out/picture
	mkdir -p assets && cp out/picture/overlay.png assets/street.png

clean:
	rm -rf $(VENV) build dist out
