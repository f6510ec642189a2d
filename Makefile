# The two commands are `make run` and `make test`; meson and ninja do the building. Everything made is under build/.
BUILD := build
GUEST := $(BUILD)/guest
# more options for `make run`, as in: make run ARGS="--memory 1G --engine interp"
ARGS  :=

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD) --quiet

$(BUILD)/build.ninja:
	@command -v meson >/dev/null && command -v ninja >/dev/null || \
		{ echo "make: meson or ninja is not installed: run 'make deps' first" >&2; exit 1; }
	@meson setup $(BUILD) >/dev/null || { meson setup $(BUILD) >&2; exit 1; }

# Install the Debian packages that are missing (tools/packages.txt), or say which.
deps:
	@tools/deps

# The default guest: Debian's cloud kernel and busybox, downloaded once; the rest made from guest/ and tools/guest.
guest: deps
	@$(MAKE) --no-print-directory $(BUILD)/build.ninja
	@ninja -C $(BUILD) --quiet guest/trapeze-agent
	@tools/default-guest $(GUEST) $(BUILD)/guest/trapeze-agent

# A shell in the default guest; without a terminal the guest checks itself and powers off.
run: guest
	@$(MAKE) --no-print-directory all
	@tools/run-guest $(BUILD)/trapeze $(GUEST) $(ARGS)

# Everything that fits CI's budget. The last line is `N passed, N failed, N skipped`.
test: guest
	@tools/run-tests --guest $(GUEST) --suite quick $(BUILD)/test

# As long as it takes: the long suites, then the quick ones again under the sanitizers, then the fuzzers.
test-long: guest
	@tools/deps tools/packages-long.txt
	@tools/run-tests --guest $(GUEST) --suite quick --suite long --sanitize $(BUILD)/sanitize --fuzz $(BUILD)/fuzz $(BUILD)/test

bench: guest
	@$(MAKE) --no-print-directory all
	@if [ -x bench/run ]; then bench/run; else echo "make bench: not there yet: bench/run comes with the kit" >&2; exit 1; fi

bench-migrate: guest
	@$(MAKE) --no-print-directory all
	@tools/deps bench/packages.txt
	@bench/migration/run

# Suites of their own: each begins with the issue that brings it.
later-guests     := other guests than Debian's kernel
later-kvm        := the KVM engine
later-containers := containers
later-suites     := the suites of other projects
test-guests test-kvm test-migrate test-containers test-suites: test-%:
	@tools/deps tools/packages-long.txt
	@if grep -rqs --include=meson.build "suite:.*'$*'" tests; then tools/run-tests --guest $(GUEST) --suite $* $(BUILD)/test; \
	else echo "make $@: not there yet: comes with $(later-$*)" >&2; exit 1; fi

# Lay out the sources as `make test` wants them.
format:
	@git ls-files '*.c' '*.h' | xargs clang-format-14 -i

clean:
	@rm -rf $(BUILD)

.PHONY: all deps guest run test test-long bench bench-migrate format clean \
	test-guests test-kvm test-migrate test-containers test-suites
