/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file <data>/node (cluster/identity.h). The last line's checksum is added by the target, so
 * that the lines are read. What was accepted is written and must be read as the same.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cluster/identity.h"
#include "ltx/base/buf.h"
#include "ltx/base/err.h"
#include "ltx/checksum.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    fuzz_quiet();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct identity id, again;
    struct buf text = {0};
    char why[512];
    int dir = fuzz_folder_fd();
    if (size == 0)
        return 0;
    FUZZ_MUST(buf_append(&text, data + 1, size - 1) == 0);
    if (data[0] & 1)
        FUZZ_MUST(buf_printf(&text, "check %016" PRIx64 "\n",
                             checksum_update(0, text.data, text.len)) == 0);
    fuzz_put_file(dir, IDENTITY_FILE, text.data, text.len);
    int rv = identity_load(&id, dir, why, sizeof why);
    FUZZ_MUST(rv == 0 || rv == -ERR_CORRUPT);
    if (rv == 0) {
        FUZZ_MUST(id.node_id != 0 && id.member_count <= NODE_MEMBERS_MAX);
        FUZZ_MUST(identity_save(&id, dir) == 0);
        FUZZ_MUST(identity_load(&again, dir, why, sizeof why) == 0);
        FUZZ_MUST(again.node_id == id.node_id && again.epoch == id.epoch);
        FUZZ_MUST(again.role == id.role && again.member_count == id.member_count);
        FUZZ_MUST(strcmp(again.primary, id.primary) == 0 && again.pledge == id.pledge);
    } else {
        FUZZ_MUST(why[0] != '\0');
    }
    buf_fini(&text);
    return 0;
}
