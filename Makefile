# tandemfs: make, make test, make bench. Build folders: build/, build-address,undefined/, build-thread/.
CC      ?= gcc
PKG     := fuse3 sqlite3 liblz4 yaml-0.1 jansson libmicrohttpd
CFLAGS  ?= -O2 -g
SANITIZE ?=
B       := build$(if $(SANITIZE),-$(SANITIZE))
PREFIX  ?= /usr/local
VERSION := 0.1.0

WARN    := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wformat=2 -Wundef
ALL_CFLAGS = -std=gnu17 -D_GNU_SOURCE -DFUSE_USE_VERSION=314 -DTANDEMFS_VERSION='"$(VERSION)"' -I. $(WARN) \
             $(shell pkg-config --cflags $(PKG)) -fno-omit-frame-pointer -pthread $(CFLAGS) \
             $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-sanitize-recover=undefined -DMUTEX_CHECK -O1)
LDLIBS  := $(shell pkg-config --libs $(PKG)) -lnng -lisal -pthread -lm
LTXLIBS := -llz4 -lisal -pthread

lib_src  = $(wildcard $(1)/*.c) $(wildcard $(1)/*/*.c)
obj      = $(patsubst %.c,$(B)/%.o,$(1))
LTX_OBJ  := $(call obj,$(call lib_src,ltx))
FS_OBJ   := $(call obj,$(call lib_src,fs))
CLU_OBJ  := $(call obj,$(call lib_src,cluster))
TOOL_OBJ := $(call obj,$(wildcard tools/*.c))
LIB_OBJ  := $(call obj,$(wildcard tests/lib/*.c))

# A unit test links its folder and what lies below it, and nothing else: the linker keeps the architecture.
UNIT     := $(patsubst %.c,$(B)/%,$(wildcard tests/unit/*/test_*.c))
link_ltx     = $(B)/libltx.a
link_fs      = $(B)/libfs.a $(B)/libltx.a
link_cluster = $(B)/libcluster.a $(B)/libltx.a
link_tools   = $(filter-out $(B)/tools/tandemfs.o,$(TOOL_OBJ)) $(B)/libfs.a $(B)/libcluster.a $(B)/libltx.a

# Preloaded into the applications of end-to-end tests.
PRELOAD  := $(patsubst tests/preload/%.c,$(B)/tests/%.so,$(wildcard tests/preload/*.c))

# A fuzz target is linked with libFuzzer (make fuzz), or with a driver that replays its corpus.
FUZZ     := $(patsubst %.c,$(B)/%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_MAIN = $(B)/tests/fuzz/replay.o

.PHONY: all unit test test-full sqlite-suite bench clean install format check fuzz fuzz-programs show-cflags
.SECONDARY:
.SECONDEXPANSION:

all: $(B)/tandemfs $(PRELOAD)

$(B)/libltx.a: $(LTX_OBJ)
$(B)/libfs.a: $(FS_OBJ)
$(B)/libtest.a: $(LIB_OBJ)
$(B)/libcluster.a: $(CLU_OBJ)
$(B)/libtools.a: $(filter-out $(B)/tools/tandemfs.o,$(TOOL_OBJ))
$(B)/%.a:
	@rm -f $@ && ar rcs $@ $^

$(B)/tandemfs: $(TOOL_OBJ) $(B)/libfs.a $(B)/libcluster.a $(B)/libltx.a
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(B)/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

$(B)/tests/unit/%: $(B)/tests/unit/%.o $(B)/libtest.a $$(link_$$(firstword $$(subst /, ,$$*)))
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ -lcmocka $(LDLIBS)

$(B)/tests/%.so: tests/preload/%.c Makefile
	@mkdir -p $(@D)
	$(CC) -std=gnu17 -D_GNU_SOURCE $(WARN) -O1 -g -fPIC -shared -o $@ $< -ldl

$(B)/tests/fuzz/fuzz_%: $(B)/tests/fuzz/fuzz_%.o $(B)/tests/fuzz/fuzz.o $(B)/tests/fuzz/replay.o $(B)/libtest.a \
                        $(B)/libtools.a $(B)/libfs.a $(B)/libcluster.a $(B)/libltx.a
	$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $< $(B)/tests/fuzz/fuzz.o $(FUZZ_MAIN) $(filter %.a,$^) -lcmocka $(LDLIBS)

unit: $(UNIT) $(FUZZ)
	@set -e; for t in $(UNIT) $(FUZZ); do echo "== $$t"; $$t; done

fuzz-programs: $(FUZZ)

# Needs clang and its compiler-rt: tools/install-deps --with fuzz.
fuzz:
	$(MAKE) CC=clang B=build-fuzz SANITIZE=fuzzer-no-link,address,undefined FUZZ_MAIN=-fsanitize=fuzzer fuzz-programs

test: all unit
	tests/run

test-full:
	tests/full

sqlite-suite: all
	tests/sqlite/suite

bench: all
	tools/bench/run

install: all
	install -D -m 755 $(B)/tandemfs $(DESTDIR)$(PREFIX)/bin/tandemfs
	install -D -m 644 docs/tandemfs.1 $(DESTDIR)$(PREFIX)/share/man/man1/tandemfs.1

# clang-tidy and cppcheck over all sources.
check:
	tools/check

show-cflags:
	@echo '$(ALL_CFLAGS)'

format:
	clang-format -i $$(git ls-files '*.c' '*.h')

clean:
	rm -rf build build-*

-include $(shell find $(B) -name '*.d' 2>/dev/null)
