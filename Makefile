# The few commands of everyday work. `make demo` and `make test` install what the machine lacks by themselves.

bin := $(or $(CARGO_TARGET_DIR),target)/release
run := . scripts/tools.sh && use_tools &&
SHELL := /bin/bash

.PHONY: help install build demo test check parity two-machines gpu-bin clean-demo
.DEFAULT_GOAL := help
.NOTPARALLEL:

help:
	@echo "make demo            train a small BLIP on a cluster of this machine, bootstrap its captions, compare (QUICK=1: only to see it run)"
	@echo "make test            all tests"
	@echo "make check           everything CI checks: format, lints, docs, tests with the demo, licences, dashboard, two machines, browser"
	@echo "make parity          the model against PyTorch: installs it, makes the goldens again, compares"
	@echo "make build           the programs, in $(bin)"
	@echo "make install         what the machine lacks for the above"
	@echo "make two-machines    a job over two simulated machines (as root)"
	@echo "make gpu-bin         the worker with kernels for NVIDIA's GPUs, in target/gpu/gpu (needs no GPU, fetches the compiler)"
	@echo "make clean-demo      forget the demo's data, checkpoints and database"

install:
	@scripts/install.sh

build: install
	@$(run) cargo build --locked --release --workspace --bins

demo: build
	@$(run) $(bin)/medley demo $(if $(QUICK),--quick)

test: install
	@scripts/test.sh

check:
	@scripts/check.sh

parity: install
	@scripts/parity.sh

two-machines: build
	@tests/deploy/two-machines.sh || [ $$? = 77 ]

gpu-bin:
	@scripts/install.sh --cuda
	@$(run) cargo build --locked --profile gpu --target-dir target/gpu -p medley-worker -p medley-model -p medley-data \
	  --features medley-worker/cuda,medley-model/cuda --bin medley-worker --example gpu --example synth --example images --bench versus

# A demo that was kept running holds its database open.
clean-demo:
	@if url=$$(cat .medley/coordinator.url 2>/dev/null) && curl -fsS -m 2 -o /dev/null "$$url/healthz" 2>/dev/null; then \
	  echo "the demo still runs at $$url: end it first (Ctrl-C where it runs)" >&2; exit 1; fi
	@rm -rf .medley
