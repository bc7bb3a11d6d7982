# make demo: from nothing to an AUC on drawn data.  make test: the fast tests, two to three minutes.
# make test-all: its slow part, too.  make soak: half an hour of kills and damage (docs/reliability.md).
# make lint: ruff, mypy and hadolint.  Each installs first what it needs.
VENV ?= .venv
PYTHON ?= python3
RUN := $(VENV)/bin/python
DEMO := runs/demo

.PHONY: install test test-all soak lint demo clean

install: $(VENV)/installed

$(VENV)/installed: requirements.txt requirements-dev.txt constraints.txt pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)                      # Debian: apt install python3-venv
	$(RUN) -m pip install --progress-bar off -r requirements-dev.txt -c constraints.txt
	touch $@

test: install
	$(RUN) -m pytest -q -m 'not slow'

test-all: install
	$(RUN) -m pytest -q

soak: install
	PYTHONPATH=. OMP_NUM_THREADS=1 $(RUN) tests/soak.py

lint: install
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(VENV)/bin/hadolint Dockerfile

demo: install
	rm -rf $(DEMO)
	$(RUN) scripts/make_toy_data.py --out data
	$(RUN) train.py --config configs/toy.yaml --dataset_path data --exp_dir $(DEMO)
	$(RUN) evaluate.py --checkpoint $(DEMO)/last.pt --dataset_path data
	@$(RUN) -c "import json; auc = json.load(open('$(DEMO)/evaluation_last/results.json'))['auc']; \
	    assert auc >= 0.75, f'AUC {auc:.3f}, expected at least 0.75'; \
	    print(f'demo passed: AUC {100 * auc:.1f} %, at least 75 expected; look at $(DEMO)/evaluation_last/report.html')"

clean:
	rm -rf $(VENV) $(DEMO) data/toy .cache
