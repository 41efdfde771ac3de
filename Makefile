# make demo       a Rucio data lake on this machine, mounted at ./demo/rucio
# make demo-down  takes it away
# make test       all tests, in two processes, each with a lake and mounts of its own;
#                 ARGS="--dist no tests/fuse/test_bringing.py" for some of them in one process
# make check      style, types, architecture
# make bench      the figures of docs/BENCHMARKS.md
.PHONY: demo demo-down test check bench setup setup-dev

demo: setup
	@scripts/demo up

demo-down:
	@scripts/demo down

test: setup-dev
	.venv/bin/python -bb -m pytest --dist loadfile --tx "2*popen//python=.venv/bin/python -bb" $(ARGS)

check: setup-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: setup-dev
	.venv/bin/python -m benchmarks $(ARGS)

setup:
	@scripts/setup demo

setup-dev:
	@scripts/setup dev
