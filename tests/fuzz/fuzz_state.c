/* SPDX-License-Identifier: Apache-2.0 */
/* The state file of a ledger (ltx/ledger_state.c). The first byte: give it the checksum it lacks. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ltx/base/bytes.h"
#include "ltx/base/err.h"
#include "ltx/checksum.h"
#include "ltx/format.h"
#include "ltx/ledger_internal.h"
#include "ltx/store.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    fuzz_quiet();
    return 0;
}

static void seal(uint8_t *p, size_t size)
{
    if (size < 48 + 8)
        return;
    memcpy(p, "TFSTATE1", 8);
    put_be32(p + 44, (uint32_t)(size - 48 - 8));
    put_be64(p + size - 8, checksum_update(0, p, size - 8));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ledger_state state, again;
    char *name = NULL, *again_name = NULL;
    char folder[256];
    int dir = fuzz_folder_fd();
    if (size == 0)
        return 0;
    uint8_t *bytes = fuzz_copy(data + 1, size - 1);
    if (data[0] & 1)
        seal(bytes, size - 1);
    fuzz_put_file(dir, "state", bytes, size - 1);
    int rc = ledger_state_read(dir, &state, &name);
    FUZZ_MUST(rc == 0 || rc == -ERR_CORRUPT || rc == -ERR_CHECKSUM);
    if (rc == 0) {
        FUZZ_MUST(state.commit == 0 || ltx_page_size_valid(state.page_size));
        FUZZ_MUST(strlen(name) > 0 && strlen(name) < STORE_NAME_MAX);
        FUZZ_MUST(ledger_state_write(dir, &state, name) == 0);
        FUZZ_MUST(ledger_state_read(dir, &again, &again_name) == 0);
        FUZZ_MUST(strcmp(name, again_name) == 0 && again.commit == state.commit);
        FUZZ_MUST(position_equal(state.recovery, again.recovery));
        if (store_escape(name, folder) == 0)
            FUZZ_MUST(strchr(folder, '/') == NULL && folder[0] != '\0' &&
                      strcmp(folder, "..") != 0);
    }
    free(name);
    free(again_name);
    free(bytes);
    return 0;
}
