/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A configuration file (tools/config_yaml.c) and what its settings go through after it. What is
 * refused is told in a sentence; what is accepted keeps to the limits.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/err.h"
#include "tests/fuzz/fuzz.h"
#include "tools/config.h"
#include "tools/config_value.h"

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    fuzz_quiet();
    FUZZ_MUST(setenv("LONG", "0123456789012345678901234567890123456789", 1) == 0);
    return 0;
}

static void check(struct config *c)
{
    char why[CONFIG_WHY_MAX];
    FUZZ_MUST(c->peer_count <= CONFIG_PEERS_MAX);
    FUZZ_MUST(c->retention_age_ms >= 0 && c->retention_size_bytes >= 0);
    size_t bytes = 0;
    for (size_t i = 0; i < c->exec_count; i++)
        bytes += strlen(c->exec[i]) + 1;
    FUZZ_MUST(bytes <= CONFIG_FILE_MAX);
    FUZZ_MUST(!c->exec || !c->exec[c->exec_count]);
    for (size_t i = 0; i < c->peer_count; i++)
        FUZZ_MUST(value_url(c->peers[i]) == 0 && value_port(c->peers[i]) > 0);
    int err = config_check(c, why, sizeof why);
    FUZZ_MUST(err == 0 || why[0] != '\0');
    if (!err)
        FUZZ_MUST(c->mount[0] == '/' && c->data[0] == '/' && (c->primary || c->peer_count > 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config c;
    char why[CONFIG_WHY_MAX] = "";
    char *text = (char *)fuzz_copy(data, size);
    config_init(&c);
    int err = config_read_text(&c, "fuzz.yml", text, size, why, sizeof why);
    FUZZ_MUST(err == 0 || (err == -ERR_INVALID && why[0] != '\0'));
    if (!err)
        check(&c);
    config_fini(&c);
    free(text);
    return 0;
}
