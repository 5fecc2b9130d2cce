/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_LIB_POWERLOSS_H
#define TESTS_LIB_POWERLOSS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * What a program does to the files below one folder, in order: a table of file operations that does
 * each of them and notes it. Files are known by their identity and not by their names, as a disk
 * knows them. powerdisk.h makes of it the states that a loss of power may leave.
 *
 *     struct powerloss p;
 *     powerloss_begin(&p, root);   what is there now counts as being on disk
 *     ...; powerloss_mark(&p, number of the commit that was acknowledged); ...
 *     powerloss_end(&p);
 *
 * Operations from several threads are noted in the order in which they end.
 */
enum power_kind {
    POWER_WRITE,
    POWER_SIZE,     /* the file gets this size */
    POWER_GROW,     /* the file gets at least this size */
    POWER_SYNC,     /* of a file */
    POWER_NAME,     /* a name in a folder stands for a node, or for nothing */
    POWER_RENAME,   /* two of these at once */
    POWER_SYNC_DIR, /* of a folder */
    POWER_MARK
};

#define POWER_NAME_MAX 256

struct power_op {
    enum power_kind kind;
    uint32_t node;             /* the file, or the folder of the name */
    int64_t off;               /* where is written; the size */
    size_t n;                  /* bytes written */
    uint8_t *data;             /* these */
    uint64_t mark;             /* the caller's */
    uint32_t stands_for;       /* POWER_NAME, POWER_RENAME (the new name); 0: nothing */
    uint32_t to_folder;        /* POWER_RENAME */
    char name[POWER_NAME_MAX]; /* in `node` */
    char to_name[POWER_NAME_MAX];
};

/* A file or folder, by its number from 1 on; 1 is the root. */
struct power_node {
    uint64_t inode;
    bool folder;
    /* What it held when the recording began. */
    uint8_t *data;
    size_t size;
    struct power_entry {
        char name[POWER_NAME_MAX];
        uint32_t node;
    } * entries;
    size_t entry_count;
};

struct powerloss {
    struct power_node *nodes; /* [0] is unused */
    size_t node_count, node_cap;
    struct power_op *ops;
    size_t op_count, op_cap;
};

/* Sets file_ops. One recording at a time. */
void powerloss_begin(struct powerloss *p, const char *root);
void powerloss_mark(struct powerloss *p, uint64_t mark);
void powerloss_end(struct powerloss *p); /* file_ops is the system's again; the record stays */
void powerloss_fini(struct powerloss *p);

/*
 * Between these two nothing is changed, whatever is told to be: what is closed meanwhile is left as if the
 * process had been killed. The recording, if there is one, goes on after.
 */
void powerloss_freeze(void);
void powerloss_thaw(void);
/* It begins by itself after so many more operations of the recording; 0: it does not. */
void powerloss_freeze_after(struct powerloss *p, size_t operations);
bool powerloss_is_frozen(void);

/* The newest mark among the first n operations; 0: there is none. */
uint64_t powerloss_marked(const struct powerloss *p, size_t n);

#endif
