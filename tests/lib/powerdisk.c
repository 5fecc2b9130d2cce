/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/lib/powerdisk.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ltx/base/assert.h"
#include "ltx/checksum.h"

#define SECTOR 512

struct disk_node {
    bool folder;
    uint8_t *data;
    size_t size, cap;
    struct power_entry *entries;
    size_t entry_count, entry_cap;
};

enum choice { LOST, KEPT, TORN, SIZE_ALONE, SIZE_LOST };

static const char *const choice_name[] = {"lost", "kept", "torn", "size alone", "size lost"};

static uint64_t mix(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* ---- nodes ---- */

static void *grown(void *old, size_t count, size_t *cap, size_t item)
{
    if (count <= *cap)
        return old;
    *cap = count * 2;
    void *p = realloc(old, *cap * item);
    ASSERT(p != NULL, "a test has memory");
    return p;
}

static void set_size(struct disk_node *n, size_t size)
{
    n->data = grown(n->data, size, &n->cap, 1);
    if (size > n->size)
        memset(n->data + n->size, 0, size - n->size);
    n->size = size;
}

static void put_bytes(struct disk_node *n, size_t off, const uint8_t *data, size_t size)
{
    if (off + size > n->size)
        set_size(n, off + size);
    memcpy(n->data + off, data, size);
}

static void set_name(struct disk_node *folder, const char *name, uint32_t node)
{
    size_t i = 0;
    while (i < folder->entry_count && strcmp(folder->entries[i].name, name) != 0)
        i++;
    if (node == 0 && i < folder->entry_count) {
        folder->entries[i] = folder->entries[--folder->entry_count];
    } else if (node != 0) {
        if (i == folder->entry_count)
            folder->entries = grown(folder->entries, ++folder->entry_count, &folder->entry_cap,
                                    sizeof *folder->entries);
        strcpy(folder->entries[i].name, name);
        folder->entries[i].node = node;
    }
}

static void copy_node(struct disk_node *to, const struct disk_node *from)
{
    *to = (struct disk_node){.folder = from->folder};
    if (from->size)
        put_bytes(to, 0, from->data, from->size);
    for (size_t i = 0; i < from->entry_count; i++)
        set_name(to, from->entries[i].name, from->entries[i].node);
}

static void free_node(struct disk_node *n)
{
    free(n->data);
    free(n->entries);
}

/* ---- operations ---- */

/* Sectors of the write that are there; at least one is not if there are two. */
static void write_torn(struct disk_node *n, const struct power_op *op, uint64_t seed)
{
    size_t first = (size_t)op->off / SECTOR, last = ((size_t)op->off + op->n - 1) / SECTOR;
    size_t way = mix(&seed) % 3, cut = first + mix(&seed) % (last - first + 1);
    for (size_t s = first; s <= last; s++) {
        bool there = way == 0 ? s < cut : way == 1 ? s > cut : mix(&seed) & 1;
        size_t from = s * SECTOR > (size_t)op->off ? s * SECTOR : (size_t)op->off;
        size_t end = (s + 1) * SECTOR;
        if (end > (size_t)op->off + op->n)
            end = (size_t)op->off + op->n;
        if (there)
            put_bytes(n, from, op->data + (from - (size_t)op->off), end - from);
    }
}

static void apply_write(struct disk_node *n, const struct power_op *op, enum choice c,
                        uint64_t seed)
{
    size_t off = (size_t)op->off, end = off + op->n;
    switch (c) {
    case LOST: break;
    case KEPT: put_bytes(n, off, op->data, op->n); break;
    case TORN: write_torn(n, op, seed); break;
    case SIZE_ALONE:
        if (end > n->size)
            set_size(n, end);
        break;
    case SIZE_LOST:
        if (off < n->size)
            put_bytes(n, off, op->data, end > n->size ? n->size - off : op->n);
        break;
    }
}

/* `nodes` are by number; of a rename the folder and to_folder. */
static void apply(struct disk_node *nodes, const struct power_op *op, enum choice c, uint64_t seed)
{
    struct disk_node *n = &nodes[op->node];
    if (op->kind == POWER_WRITE)
        apply_write(n, op, c, seed);
    else if (c == LOST)
        return;
    else if (op->kind == POWER_SIZE || (op->kind == POWER_GROW && (size_t)op->off > n->size))
        set_size(n, (size_t)op->off);
    else if (op->kind == POWER_NAME)
        set_name(n, op->name, op->stands_for);
    else if (op->kind == POWER_RENAME) {
        set_name(n, op->name, 0);
        set_name(&nodes[op->to_folder], op->to_name, op->stands_for);
    }
}

static bool is_name(const struct power_op *op)
{
    return op->kind == POWER_NAME || op->kind == POWER_RENAME;
}

static bool is_synced_by(const struct power_op *op, const struct power_op *sync)
{
    if (sync->kind == POWER_SYNC_DIR)
        return is_name(op) && (op->node == sync->node ||
                               (op->kind == POWER_RENAME && op->to_folder == sync->node));
    return !is_name(op) && op->node == sync->node;
}

static void sync_pending(struct power_disk *d, const struct power_op *sync)
{
    size_t kept = 0;
    for (size_t i = 0; i < d->pending_count; i++) {
        const struct power_op *op = &d->record->ops[d->pending[i]];
        if (is_synced_by(op, sync))
            apply(d->nodes, op, KEPT, 0);
        else
            d->pending[kept++] = d->pending[i];
    }
    d->pending_count = kept;
}

/* ---- choices ---- */

static enum choice random_choice(const struct power_op *op, unsigned of_8, uint64_t *seed)
{
    bool there = mix(seed) % 8 < of_8;
    if (op->kind != POWER_WRITE || mix(seed) % 6 != 0)
        return there ? KEPT : LOST;
    return (enum choice)(TORN + mix(seed) % 3);
}

/* Each file and folder as a whole: it reached the disk, or it did not. */
static void choose_by_node(struct power_disk *d, uint64_t seed)
{
    for (size_t i = 0; i < d->pending_count; i++) {
        uint64_t of_node = seed + d->record->ops[d->pending[i]].node;
        d->choices[i] = mix(&of_node) & 1 ? KEPT : LOST;
    }
    d->how = "some files";
}

static void choose(struct power_disk *d, uint64_t seed)
{
    size_t n = d->pending_count;
    memset(d->choices, seed == 1 ? KEPT : LOST, n);
    d->how = seed == 0 ? "nothing" : "everything";
    if (seed <= 1 || n == 0)
        return;
    uint64_t s = seed;
    unsigned way = (unsigned)(mix(&s) % 10), of_8 = 1 + (unsigned)(mix(&s) % 7);
    size_t one = mix(&s) % n;
    switch (way) {
    case 0:
    case 1: /* in order, up to one that is torn */
        memset(d->choices, KEPT, one);
        d->choices[one] = (uint8_t)random_choice(&d->record->ops[d->pending[one]], 0, &s);
        d->how = "a prefix";
        break;
    case 2:
    case 3:
        memset(d->choices, KEPT, n);
        d->choices[one] = (uint8_t)random_choice(&d->record->ops[d->pending[one]], 0, &s);
        d->how = "all but one";
        break;
    case 4:
        d->choices[one] = KEPT;
        d->how = "one";
        break;
    case 5:
        for (size_t i = 0; i < n; i++)
            d->choices[i] = is_name(&d->record->ops[d->pending[i]]) == (of_8 > 3) ? KEPT : LOST;
        d->how = of_8 > 3 ? "names" : "contents";
        break;
    case 6: choose_by_node(d, s); break;
    default:
        for (size_t i = 0; i < n; i++)
            d->choices[i] = (uint8_t)random_choice(&d->record->ops[d->pending[i]], of_8, &s);
        d->how = "some";
    }
}

/* ---- states ---- */

/* Nodes that the choices change are copied first. */
static struct disk_node *chosen_state(const struct power_disk *d, bool **copied)
{
    size_t count = d->record->node_count;
    struct disk_node *nodes = malloc(count * sizeof *nodes);
    bool *own = calloc(count, sizeof *own);
    ASSERT(nodes != NULL && own != NULL, "a test has memory");
    memcpy(nodes, d->nodes, count * sizeof *nodes);
    for (size_t i = 0; i < d->pending_count; i++) {
        const struct power_op *op = &d->record->ops[d->pending[i]];
        uint32_t touched[2] = {op->node, op->kind == POWER_RENAME ? op->to_folder : op->node};
        for (unsigned k = 0; k < 2; k++)
            if (!own[touched[k]]) {
                copy_node(&nodes[touched[k]], &d->nodes[touched[k]]);
                own[touched[k]] = true;
            }
        apply(nodes, op, d->choices[i], d->seed + i);
    }
    *copied = own;
    return nodes;
}

static void free_state(const struct power_disk *d, struct disk_node *nodes, bool *copied)
{
    for (size_t i = 0; i < d->record->node_count; i++)
        if (copied[i])
            free_node(&nodes[i]);
    free(nodes);
    free(copied);
}

static uint64_t hash_of(const struct disk_node *nodes, uint32_t node, uint64_t sum)
{
    const struct disk_node *n = &nodes[node];
    uint64_t sizes[2] = {n->size, n->entry_count};
    sum = checksum_update(sum, sizes, sizeof sizes);
    if (n->size)
        sum = checksum_update(sum, n->data, n->size);
    for (size_t i = 0; i < n->entry_count; i++) {
        sum = checksum_update(sum, n->entries[i].name, strlen(n->entries[i].name));
        sum = hash_of(nodes, n->entries[i].node, sum);
    }
    return sum;
}

static void write_file(const struct disk_node *n, int dirfd, const char *name)
{
    static const uint8_t zeros[4096];
    int fd = openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    ASSERT(fd >= 0 && ftruncate(fd, (off_t)n->size) == 0, "a test can make its files");
    for (size_t off = 0; off < n->size; off += sizeof zeros) {
        size_t size = n->size - off < sizeof zeros ? n->size - off : sizeof zeros;
        if (memcmp(n->data + off, zeros, size) == 0)
            continue;
        ASSERT(pwrite(fd, n->data + off, size, (off_t)off) == (ssize_t)size,
               "a test can write its files");
    }
    close(fd);
}

static void write_folder(const struct disk_node *nodes, uint32_t node, int fd)
{
    const struct disk_node *n = &nodes[node];
    for (size_t i = 0; i < n->entry_count; i++) {
        const struct power_entry *e = &n->entries[i];
        if (!nodes[e->node].folder) {
            write_file(&nodes[e->node], fd, e->name);
            continue;
        }
        ASSERT(mkdirat(fd, e->name, 0700) == 0, "a test can make its folders");
        int below = openat(fd, e->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        write_folder(nodes, e->node, below);
        close(below);
    }
}

/* The place of the hash in the table, or the free one where it belongs. */
static size_t place_of(const uint64_t *seen, size_t cap, uint64_t hash)
{
    size_t i = hash & (cap - 1);
    while (seen[i] != 0 && seen[i] != hash)
        i = (i + 1) & (cap - 1);
    return i;
}

static bool is_new(struct power_disk *d, uint64_t hash)
{
    hash |= 1; /* 0 is a free place */
    if (d->seen_count * 2 >= d->seen_cap) {
        size_t cap = d->seen_cap ? d->seen_cap * 2 : 1024;
        uint64_t *seen = calloc(cap, sizeof *seen);
        ASSERT(seen != NULL, "a test has memory");
        for (size_t i = 0; i < d->seen_cap; i++)
            if (d->seen[i] != 0)
                seen[place_of(seen, cap, d->seen[i])] = d->seen[i];
        free(d->seen);
        d->seen = seen;
        d->seen_cap = cap;
    }
    size_t place = place_of(d->seen, d->seen_cap, hash);
    if (d->seen[place] == hash)
        return false;
    d->seen[place] = hash;
    d->seen_count++;
    return true;
}

void power_disk_init(struct power_disk *d, const struct powerloss *record)
{
    *d = (struct power_disk){.record = record, .how = ""};
    d->nodes = calloc(record->node_count, sizeof *d->nodes);
    ASSERT(d->nodes != NULL, "a test has memory");
    for (size_t i = 1; i < record->node_count; i++) {
        const struct power_node *n = &record->nodes[i];
        d->nodes[i].folder = n->folder;
        if (n->size)
            put_bytes(&d->nodes[i], 0, n->data, n->size);
        for (size_t k = 0; k < n->entry_count; k++)
            set_name(&d->nodes[i], n->entries[k].name, n->entries[k].node);
    }
}

void power_disk_fini(struct power_disk *d)
{
    for (size_t i = 0; d->nodes && i < d->record->node_count; i++)
        free_node(&d->nodes[i]);
    free(d->nodes);
    free(d->pending);
    free(d->choices);
    free(d->seen);
    *d = (struct power_disk){0};
}

void power_disk_advance(struct power_disk *d, size_t at)
{
    ASSERT(at >= d->at && at <= d->record->op_count, "a disk does not go back");
    for (; d->at < at; d->at++) {
        const struct power_op *op = &d->record->ops[d->at];
        if (op->kind == POWER_SYNC || op->kind == POWER_SYNC_DIR) {
            sync_pending(d, op);
        } else if (op->kind != POWER_MARK) {
            d->pending =
                grown(d->pending, d->pending_count + 1, &d->pending_cap, sizeof *d->pending);
            d->pending[d->pending_count++] = (uint32_t)d->at;
        }
    }
    d->choices = realloc(d->choices, d->pending_cap + 1);
    ASSERT(d->choices != NULL, "a test has memory");
}

bool power_disk_choose(struct power_disk *d, uint64_t seed)
{
    bool *copied;
    d->seed = seed;
    choose(d, seed);
    struct disk_node *nodes = chosen_state(d, &copied);
    bool fresh = is_new(d, hash_of(nodes, 1, 0));
    free_state(d, nodes, copied);
    return fresh;
}

void power_disk_write(const struct power_disk *d, const char *path)
{
    bool *copied;
    struct disk_node *nodes = chosen_state(d, &copied);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ASSERT(fd >= 0, "the folder of a state is there");
    write_folder(nodes, 1, fd);
    close(fd);
    free_state(d, nodes, copied);
}

/* ---- places ---- */

static size_t random_cut(const struct powerloss *p, uint64_t (*dice)(void))
{
    size_t at = dice() % p->op_count + 1;
    if (dice() % 8 < 5)
        while (at < p->op_count && p->ops[at].kind != POWER_SYNC &&
               p->ops[at].kind != POWER_SYNC_DIR)
            at++;
    return at;
}

static int by_number(const void *a, const void *b)
{
    size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return x < y ? -1 : x > y;
}

size_t *power_cuts(const struct powerloss *p, size_t count, uint64_t (*dice)(void))
{
    size_t *cuts = malloc((count + 1) * sizeof *cuts);
    ASSERT(cuts != NULL && p->op_count > 0, "a test has memory, and has done something");
    for (size_t i = 0; i < count; i++)
        cuts[i] = random_cut(p, dice);
    qsort(cuts, count, sizeof *cuts, by_number);
    return cuts;
}

/* ---- for people ---- */

/* The name that a node was given last, whether it is on disk or not. */
static const char *node_name(const struct powerloss *r, uint32_t node, size_t before)
{
    for (size_t i = before; i-- > 0;) {
        const struct power_op *op = &r->ops[i];
        if (op->stands_for == node && op->kind == POWER_NAME)
            return op->name;
        if (op->stands_for == node && op->kind == POWER_RENAME)
            return op->to_name;
    }
    for (size_t i = 1; i < r->node_count; i++)
        for (size_t k = 0; k < r->nodes[i].entry_count; k++)
            if (r->nodes[i].entries[k].node == node)
                return r->nodes[i].entries[k].name;
    return "(root)";
}

static void print_op(const struct powerloss *r, size_t i)
{
    static const char *const kind[] = {"write", "size",   "grow",       "sync",
                                       "name",  "rename", "sync folder"};
    const struct power_op *op = &r->ops[i];
    if (op->kind == POWER_MARK) {
        fprintf(stderr, "mark %llu", (unsigned long long)op->mark);
        return;
    }
    fprintf(stderr, "%s %s[%u]", kind[op->kind], node_name(r, op->node, i), op->node);
    if (op->kind == POWER_WRITE)
        fprintf(stderr, " off %lld n %zu", (long long)op->off, op->n);
    else if (op->kind == POWER_SIZE || op->kind == POWER_GROW)
        fprintf(stderr, " %lld", (long long)op->off);
    else if (is_name(op))
        fprintf(stderr, " %s%s%s: %s[%u]", op->name, *op->to_name ? " -> " : "", op->to_name,
                op->stands_for ? "node" : "gone", op->stands_for);
}

void power_disk_explain(const struct power_disk *d)
{
    fprintf(stderr, "power was lost after %zu operations; of %zu that were not synced: %s\n", d->at,
            d->pending_count, d->how);
    size_t first = d->pending_count ? d->pending[0] : d->at, p = 0;
    size_t least = getenv("TEST_CUT") ? 100 : 12;
    if (first + least > d->at)
        first = d->at > least ? d->at - least : 0;
    for (size_t i = first; i < d->at; i++) {
        while (p < d->pending_count && d->pending[p] < i)
            p++;
        bool waits = p < d->pending_count && d->pending[p] == i;
        fprintf(stderr, "  %zu %-10s ", i, waits ? choice_name[d->choices[p]] : "");
        print_op(d->record, i);
        fprintf(stderr, "\n");
    }
}
