/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster/identity.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ltx/base/buf.h"
#include "ltx/base/clock.h"
#include "ltx/base/err.h"
#include "ltx/base/file.h"
#include "ltx/checksum.h"

#define FIRST_LINE "tandemfs node 1"
#define FILE_MAX (64u << 10)

static bool parse_number(const char *text, int base, uint64_t *out)
{
    char *end;

    if (text[0] == '\0' || strspn(text, "0123456789abcdef") != strlen(text))
        return false;
    *out = strtoull(text, &end, base);
    return *end == '\0';
}

static bool copy_url(const char *text, char out[NODE_URL_MAX])
{
    size_t n = strlen(text);

    if (n == 0 || n >= NODE_URL_MAX)
        return false;
    memcpy(out, text, n + 1);
    return true;
}

static bool parse_role(const char *text, enum role *out)
{
    static const enum role roles[] = {ROLE_STARTING, ROLE_REPLICA, ROLE_PRIMARY};

    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (strcmp(text, role_name(roles[i])) == 0) {
            *out = roles[i];
            return true;
        }
    return false;
}

static bool parse_line(struct identity *id, const char *key, const char *value)
{
    if (strcmp(key, "node") == 0)
        return parse_number(value, 16, &id->node_id) && id->node_id != 0;
    if (strcmp(key, "cluster") == 0)
        return parse_number(value, 16, &id->cluster_id);
    if (strcmp(key, "epoch") == 0)
        return parse_number(value, 10, &id->epoch);
    if (strcmp(key, "role") == 0)
        return parse_role(value, &id->role);
    if (strcmp(key, "primary") == 0)
        return copy_url(value, id->primary);
    if (strcmp(key, "pledge") == 0)
        return parse_number(value, 10, &id->pledge);
    if (strcmp(key, "unsettled") == 0)
        return id->unsettled = value[0] == '\0';
    if (strcmp(key, "member") == 0)
        return id->member_count < NODE_MEMBERS_MAX &&
               copy_url(value, id->members[id->member_count++]);
    return false;
}

/* Cuts off the last line and compares the checksum that it states with that of the lines before. */
static bool take_check(char *text)
{
    size_t len = strlen(text);
    char *check;
    uint64_t stated;

    if (len == 0 || text[len - 1] != '\n')
        return false;
    text[len - 1] = '\0';
    check = strrchr(text, '\n');
    if (check == NULL || strncmp(check + 1, "check ", 6) != 0 ||
        !parse_number(check + 7, 16, &stated))
        return false;
    check[1] = '\0';
    return checksum_update(0, text, strlen(text)) == stated;
}

/* Returns 0, or the number of the line that is wrong. Cuts `text` into lines. */
static int parse(struct identity *id, char *text)
{
    char *line = text;

    for (int number = 1; *line != '\0'; number++) {
        char *end = strchrnul(line, '\n');
        char *next = *end == '\0' ? end : end + 1;
        char *value;

        *end = '\0';
        value = strchrnul(line, ' ');
        if (number == 1) {
            if (strcmp(line, FIRST_LINE) != 0)
                return number;
        } else {
            if (*value != '\0')
                *value++ = '\0';
            if (!parse_line(id, line, value))
                return number;
        }
        line = next;
    }
    return id->node_id == 0 ? 1 : 0;
}

static int make_new(struct identity *id, int dirfd, char *why, size_t why_size)
{
    int rv;

    *id = (struct identity){.role = ROLE_STARTING};
    while (id->node_id == 0)
        id->node_id = random_u64();
    rv = identity_save(id, dirfd);
    if (rv != 0)
        snprintf(why, why_size, "cannot write the file \"%s\" in the data folder: %s",
                 IDENTITY_FILE, err_text(rv));
    return rv;
}

static int read_file(int dirfd, char **text, char *why, size_t why_size)
{
    size_t got = 0;
    int fd, rv;
    char *p;

    rv = file_open(dirfd, IDENTITY_FILE, O_RDONLY, 0, &fd);
    if (rv != 0)
        goto err;
    p = calloc(1, FILE_MAX + 1);
    rv = p == NULL ? -ERR_NOMEM : file_read_some(fd, p, FILE_MAX, 0, &got);
    file_close(fd);
    if (rv != 0) {
        free(p);
        goto err;
    }
    *text = p;
    return 0;

err:
    if (rv != -ERR_NOTFOUND)
        snprintf(why, why_size, "cannot read the file \"%s\" in the data folder: %s", IDENTITY_FILE,
                 err_text(rv));
    return rv;
}

int identity_load(struct identity *id, int dirfd, char *why, size_t why_size)
{
    char *text = NULL;
    int line, rv = read_file(dirfd, &text, why, why_size);

    if (rv == -ERR_NOTFOUND)
        return make_new(id, dirfd, why, why_size);
    if (rv != 0)
        return rv;
    *id = (struct identity){.role = ROLE_STARTING};
    if (!take_check(text)) {
        snprintf(why, why_size,
                 "the file \"%s\" in the data folder is damaged: its last line does not match the "
                 "lines before; restore it from a backup, or move it away to let this node join "
                 "its cluster as a new one",
                 IDENTITY_FILE);
        rv = -ERR_CORRUPT;
    } else if ((line = parse(id, text)) != 0) {
        snprintf(why, why_size,
                 "the file \"%s\" in the data folder is not understood: line %d; it may be of a "
                 "newer version of tandemfs",
                 IDENTITY_FILE, line);
        rv = -ERR_CORRUPT;
    }
    free(text);
    return rv;
}

int identity_save(const struct identity *id, int dirfd)
{
    struct buf b = {0};
    int rv;

    rv = buf_printf(&b, "%s\nnode %016" PRIx64 "\ncluster %016" PRIx64 "\nepoch %" PRIu64 "\n",
                    FIRST_LINE, id->node_id, id->cluster_id, id->epoch);
    if (rv == 0)
        rv = buf_printf(&b, "role %s\n", role_name(id->role));
    if (rv == 0 && id->primary[0] != '\0')
        rv = buf_printf(&b, "primary %s\n", id->primary);
    if (rv == 0 && id->pledge != 0)
        rv = buf_printf(&b, "pledge %" PRIu64 "\n", id->pledge);
    if (rv == 0 && id->unsettled)
        rv = buf_printf(&b, "unsettled\n");
    for (size_t i = 0; rv == 0 && i < id->member_count; i++)
        rv = buf_printf(&b, "member %s\n", id->members[i]);
    if (rv == 0)
        rv = buf_printf(&b, "check %016" PRIx64 "\n", checksum_update(0, b.data, b.len));
    if (rv == 0)
        rv = file_replace(dirfd, IDENTITY_FILE, b.data, b.len, 0644);
    buf_fini(&b);
    return rv;
}

bool identity_add_member(struct identity *id, const char *url)
{
    if (id->member_count == NODE_MEMBERS_MAX)
        return false;
    for (size_t i = 0; i < id->member_count; i++)
        if (strcmp(id->members[i], url) == 0)
            return false;
    return copy_url(url, id->members[id->member_count]) && ++id->member_count != 0;
}
