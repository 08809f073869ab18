# The two commands: `make run` and `make test`. Both need Python 3.11 to 3.13 with venv, and make; `make setup` does the
# rest once and is instant afterwards. Variables: PYTHON, VENV, PORT, SOCKET, MODELS, BUNDLE, SERVE (more flags of `nsfwd serve`),
# WORKERS (processes that run tests).

VENV   ?= .venv
PORT   ?= 1235
SOCKET ?= .run/nsfwd.sock
MODELS ?= models
BUNDLE ?= nsfw-mobilenet-v2-140
SERVE  ?=
FUZZ_SECONDS ?= 60
WORKERS ?= 2
BENCH  ?= all --quick

# The parity tests need every bundle of the catalogue, not only the one that is served.
TEST_BUNDLES = nsfw-mobilenet-v2-100 nsfw-inception-v3

# `command -v` is not enough: a pyenv shim exists for interpreters that do not run.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$p && exit; \
	done; echo python3)

BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PIP    := $(BIN)/python -P -m pip --disable-pip-version-check
# On a terminal pip shows what it downloads, and how far it is.
QUIET   = $$(test -t 2 || echo --quiet)
# An npm that had to come from PyPI lives in the virtual environment.
NPM     = $(shell npm --version >/dev/null 2>&1 || echo ,node)
export PATH := $(abspath $(BIN)):$(PATH)
# What npm, node, Keras and matplotlib would keep in the home directory stays in this one.
export npm_config_cache ?= $(abspath .run/npm)
export NODE_DISABLE_COMPILE_CACHE := 1
export KERAS_HOME ?= $(abspath .run/keras)
export MPLCONFIGDIR ?= $(abspath .run/matplotlib)

.DELETE_ON_ERROR:
.PHONY: setup run test fuzz check bench clean lock help install uninstall test-systemd test-apps test-fresh

help:
	@echo "make run    set up, then serve on 127.0.0.1:$(PORT) and unix:$(SOCKET)"
	@echo "make test   set up, then style, types, layers, wording and all tests"
	@echo "make setup  preflight, virtual environment in $(VENV), pinned install, the bundle $(BUNDLE)"
	@echo "make fuzz   property tests and damaged files, other ones each round, for FUZZ_SECONDS=$(FUZZ_SECONDS)"
	@echo "make check  style, types, layers and wording alone"
	@echo "make bench  measure this machine in under ten minutes (thoroughly: make bench BENCH=all)"
	@echo "make lock   write requirements.lock anew"
	@echo "make install, make uninstall   into PREFIX ($(PREFIX)) below DESTDIR, with the units for systemd"
	@echo "make test-systemd   boot a Debian in a container and try the units there; as root"
	@echo "make test-apps   try it with other programs (a browser, a proxy), which are installed; as root"
	@echo "make test-fresh   README's two commands on bare Debians, as an ordinary user and as root; needs root, an hour"
	@echo "make man    man pages in build/man"
	@echo "make clean  remove what the build made; pulled bundles stay"

setup: $(STAMP) $(MODELS)/$(BUNDLE)/bundle.toml

# Where the virtual environment is elsewhere, .venv leads there, so that the next command needs no VENV=.
$(STAMP): setup.cfg pyproject.toml requirements.lock daemon/nsfwd/cli/preflight.py
	@command -v $(PYTHON) >/dev/null || { printf 'preflight: Python 3.11 to 3.13 is needed and none was found\n    %s\n' \
		'apt-get install -y python3-venv    # as root, or what your distribution has' >&2; exit 1; }
	@$(PYTHON) daemon/nsfwd/cli/preflight.py --venv $(VENV)
	@echo "installing into $(VENV): 0.9 GB of packages to download, some minutes"
	@$(BIN)/python -P -m pip --version >/dev/null 2>&1 || $(PYTHON) -P -m venv --clear $(VENV)
	@$(PIP) install $(QUIET) -c requirements.lock setuptools
	@$(PIP) install $(QUIET) -c requirements.lock --no-build-isolation -e '.[dev$(NPM)]'
	@test -e .venv || ln -sfn $(abspath $(VENV)) .venv
	@touch $@

$(MODELS)/%/bundle.toml: models/%.toml | $(STAMP)
	@$(BIN)/nsfwd models pull $* --models-dir $(MODELS)
	@touch $@

# The loop in the background ends with the daemon, whose process id is this shell's ($$$$), and speaks once. It is a child
# of a shell that has ended: the daemon would not wait for it, and it would stay as a defunct process.
run: setup
	@mkdir -p $(dir $(SOCKET))
	@if $(BIN)/nsfwd ping --connect unix:$(SOCKET) >/dev/null 2>&1; then \
		echo "a daemon answers on $(SOCKET) already: stop it, or run another: make run PORT=1236 SOCKET=.run/other.sock" >&2; \
		exit 1; \
	fi; \
	( ( while kill -0 $$$$ 2>/dev/null; do \
		if $(BIN)/nsfwd ready --connect unix:$(SOCKET) >/dev/null 2>&1; then \
			printf '\nready. Try in another terminal:\n  telnet 127.0.0.1 %s\n  echo /path/of/a/photo.jpg | nc -N 127.0.0.1 %s\n  %s scan /path/of/a/directory\n' \
				$(PORT) $(PORT) $(BIN)/nsfwd; \
			break; \
		fi; \
		sleep 0.5; \
	done ) & ); \
	exec $(BIN)/nsfwd serve --listen tcp:127.0.0.1:$(PORT) --listen unix:$(SOCKET) --models-dir $(MODELS) --model $(BUNDLE)=nsfw $(SERVE)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.wording

# Files are dealt out in this order, the long ones of the integration tests before the short ones that fill up the end.
test: setup $(TEST_BUNDLES:%=$(MODELS)/%/bundle.toml) check
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder tests/integration tests/unit

# Beside programs that are no client of its own: Debian's packages of them are installed first, so that no test is skipped.
test-apps: setup
	@$(BIN)/python -m tests.apps.programs
	$(BIN)/pytest tests/apps

# Roots and logs in build/fresh. Some of it: COMMANDS=run USERS=tester tests/fresh/run trixie
test-fresh:
	@tests/fresh/run

# Rounds with a seed each, until the time is over; a round that fails names its seed.
fuzz: setup
	@end=$$(( $$(date +%s) + $(FUZZ_SECONDS) )); seed=$${FUZZ_SEED:-$$(date +%s)}; \
	while [ $$(date +%s) -lt $$end ]; do \
		echo "FUZZ_SEED=$$seed"; \
		FUZZ_SEED=$$seed $(BIN)/pytest -q -m hypothesis --hypothesis-seed=$$seed tests/unit && \
		FUZZ_SEED=$$seed $(BIN)/pytest -q tests/integration/test_hostile.py || exit 1; \
		seed=$$(( seed + 1 )); \
	done

# Ratios are of one run; close what else uses the cores. Figures: bench/results/. What they mean: docs/performance.md.
bench: setup
	@$(PIP) install $(QUIET) -c requirements.lock --no-build-isolation -e '.[bench]'
	$(BIN)/python -m bench $(BENCH)

# One file for every extra and every Python allowed: constraints, so that an install takes only what it asks for.
lock: $(STAMP)
	@$(PIP) install $(QUIET) -c requirements.lock -e '.[lock]' --no-build-isolation
	@{ echo "# Exact versions of all that any extra may bring, for every Python allowed. Written by: make lock"; \
	   $(BIN)/uv pip compile --quiet --no-config --universal --fork-strategy fewest --python-version 3.11 --all-extras \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links setup.cfg; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock

# -- a system-wide installation: a virtual environment of its own in PREFIX/lib/nsfwd, units, settings -------------------
# Bundles, index and quarantine lie in /var/lib/nsfwd, which neither target touches. EXTRAS=[gpu] for a GPU, [gpu,node] where
# there is no npm.

PREFIX  ?= /usr/local
DESTDIR ?=
EXTRAS  ?= $(if $(NPM),[node])
WHAT    ?= .$(EXTRAS)
PIPARGS ?=
HOUSE    = $(PREFIX)/lib/nsfwd
UNITDIR ?= $(PREFIX)/lib/systemd/system
UNITS    = $(notdir $(foreach kind,service socket timer path target,$(wildcard systemd/*.$(kind))))
SYSUSERS = $(PREFIX)/lib/sysusers.d/nsfwd.conf
TMPFILES = $(PREFIX)/lib/tmpfiles.d/nsfwd.conf
SETTINGS = /etc/nsfwd/nsfwd.toml

# A virtual environment spells out where it lies; below DESTDIR that is not yet where it will lie.
install:
	@$(PYTHON) -m venv $(DESTDIR)$(HOUSE)
	@$(DESTDIR)$(HOUSE)/bin/python -m pip --disable-pip-version-check install $(QUIET) --upgrade -c requirements.lock $(PIPARGS) '$(WHAT)'
	@find $(DESTDIR)$(HOUSE)/bin -type f -exec sed -i '1s|^#!$(DESTDIR)$(HOUSE)|#!$(HOUSE)|' {} +
	@install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(UNITDIR) $(dir $(DESTDIR)$(SYSUSERS) $(DESTDIR)$(TMPFILES) $(DESTDIR)$(SETTINGS))
	@ln -sfn ../lib/nsfwd/bin/nsfwd $(DESTDIR)$(PREFIX)/bin/nsfwd
	@for unit in $(UNITS); do sed 's|/usr/local/bin/|$(PREFIX)/bin/|' systemd/$$unit > $(DESTDIR)$(UNITDIR)/$$unit; done
	@install -m 644 systemd/nsfwd.sysusers.conf $(DESTDIR)$(SYSUSERS)
	@install -m 644 systemd/nsfwd.tmpfiles.conf $(DESTDIR)$(TMPFILES)
	@test -e $(DESTDIR)$(SETTINGS) || install -m 644 systemd/nsfwd.toml $(DESTDIR)$(SETTINGS)
	@echo "installed; go on with: systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload"

# Settings that were changed and jobs stay, and so do /var/lib/nsfwd (bundles, index, overrides, quarantine) and /var/spool/nsfwd.
uninstall:
	@rm -rf $(DESTDIR)$(HOUSE) $(DESTDIR)/var/cache/nsfwd
	@rm -f $(DESTDIR)$(PREFIX)/bin/nsfwd $(UNITS:%=$(DESTDIR)$(UNITDIR)/%) $(DESTDIR)$(SYSUSERS) $(DESTDIR)$(TMPFILES)
	@! cmp -s systemd/nsfwd.toml $(DESTDIR)$(SETTINGS) || rm -f $(DESTDIR)$(SETTINGS)
	@rmdir $(DESTDIR)$(dir $(SETTINGS))sweep.d $(DESTDIR)$(dir $(SETTINGS)) 2>/dev/null || true

# With a bundle that is here OpenVINO is tried inside the unit's sandbox as well.
test-systemd: $(STAMP)
	@PATH="$(PATH)" BUNDLE="$(patsubst %/openvino/model.xml,%,$(wildcard $(MODELS)/$(BUNDLE)/openvino/model.xml))" tests/systemd/run

# One page a command, made from its help: man -l build/man/nsfwd-scan.1
man: $(STAMP)
	@$(BIN)/python -m nsfwd.cli.man build/man

clean:
	rm -rf $(VENV) .run build dist bench/.cache daemon/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find daemon tests -name __pycache__ -type d -prune -exec rm -rf {} +
