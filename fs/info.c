/* SPDX-License-Identifier: Apache-2.0 */
#include "fs/info.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "fs/db/catalog.h"
#include "ltx/ledger.h"

#define POS_SUFFIX "-pos"
#define POS_SUFFIX_LEN (sizeof POS_SUFFIX - 1)

static bool ends_in_pos(const char *name, size_t len)
{
    return len > POS_SUFFIX_LEN &&
           memcmp(name + len - POS_SUFFIX_LEN, POS_SUFFIX, POS_SUFFIX_LEN) == 0;
}

static struct ledger *pos_ledger(struct fs *fs, const char *path)
{
    char base[PATH_MAX];
    size_t len = strlen(path);
    if (!ends_in_pos(path, len) || len >= sizeof base)
        return NULL;
    memcpy(base, path, len - POS_SUFFIX_LEN);
    base[len - POS_SUFFIX_LEN] = 0;
    struct ledger *l = catalog_ledger(fs->catalog, base);
    if (!l)
        return NULL;
    struct ledger_info now;
    ledger_info(l, &now);
    bool deleted = now.commit == 0 && now.applied.txid == now.last.txid && now.last.txid > 0;
    return deleted ? NULL : l;
}

bool info_is_name(const char *name)
{
    return strcmp(name, ".primary") == 0 || strcmp(name, ".lag") == 0 ||
           ends_in_pos(name, strlen(name));
}

enum info_kind info_kind_of(struct fs *fs, const char *path)
{
    char url[ROLE_NAME_MAX];
    if (strcmp(path, ".primary") == 0)
        return role_get(fs->role) == ROLE_REPLICA && role_primary(fs->role, url) ? INFO_PRIMARY
                                                                                 : INFO_NONE;
    if (strcmp(path, ".lag") == 0)
        return INFO_LAG;
    return pos_ledger(fs, path) ? INFO_POS : INFO_NONE;
}

size_t info_read(struct fs *fs, enum info_kind kind, const char *path, char out[INFO_SIZE_MAX])
{
    switch (kind) {
    case INFO_PRIMARY: return role_primary(fs->role, out) ? strlen(out) : 0;
    case INFO_LAG:
        return (size_t)snprintf(out, INFO_SIZE_MAX, "%+010" PRId64 "\n", role_lag_ms(fs->role));
    case INFO_POS: {
        struct ledger *l = pos_ledger(fs, path);
        if (!l)
            return 0;
        struct position p = ledger_applied(l);
        position_format(p, out);
        out[POSITION_TEXT_SIZE - 1] = '\n';
        return POSITION_TEXT_SIZE;
    }
    case INFO_NONE: break;
    }
    return 0;
}
