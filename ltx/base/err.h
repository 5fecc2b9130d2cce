/* SPDX-License-Identifier: Apache-2.0 */
#ifndef LTX_BASE_ERR_H
#define LTX_BASE_ERR_H

/*
 * The one table of error codes.
 *
 * A function that can fail returns 0 (or a documented positive value), or a negated code from this
 * table. Foreign codes (errno, nng, SQLite, lz4) become ours in the file that made the call.
 */
enum err_code {
    ERR_NONE = 0,
    ERR_NOMEM,       /* out of memory                              ENOMEM    */
    ERR_IO,          /* the disk or the kernel failed              EIO       */
    ERR_NOSPACE,     /* no space left on the device                ENOSPC    */
    ERR_NOTFOUND,    /* there is no such thing                     ENOENT    */
    ERR_EXISTS,      /* it is there already                        EEXIST    */
    ERR_ACCESS,      /* permission denied                          EACCES    */
    ERR_READONLY,    /* this node does not accept writes           EROFS     */
    ERR_INVALID,     /* an argument or a setting makes no sense    EINVAL    */
    ERR_LIMIT,       /* larger than a stated limit                 EFBIG     */
    ERR_CORRUPT,     /* bytes are not what their format allows     EIO       */
    ERR_CHECKSUM,    /* bytes do not match their checksum          EIO       */
    ERR_TRUNCATED,   /* bytes end too early                        EIO       */
    ERR_POSITION,    /* a record does not follow on the position   EIO       */
    ERR_DIVERGED,    /* the histories of two nodes have parted     EIO       */
    ERR_BUSY,        /* somebody else holds it; try again          EBUSY     */
    ERR_TIMEOUT,     /* it took too long                           ETIMEDOUT */
    ERR_CLOSED,      /* it is being shut down                      ESHUTDOWN */
    ERR_FENCED,      /* a higher epoch rules; this node must stop  EROFS     */
    ERR_NOTPRIMARY,  /* only the primary can do this               EROFS     */
    ERR_VERSION,     /* a peer speaks another protocol version     EPROTO    */
    ERR_CLUSTER,     /* a peer belongs to another cluster          EPROTO    */
    ERR_PROTOCOL,    /* a peer sent what is not a message of ours  EPROTO    */
    ERR_UNREACHABLE, /* a peer does not answer                     EHOSTUNREACH */
    ERR_UNSUPPORTED, /* not possible here                          EOPNOTSUPP */
    ERR_INTERRUPTED, /* a signal came first                        EINTR     */
    ERR_DAMAGED,     /* the database needs to be fetched again     EIO       */
    ERR_NOFILES,     /* too many open files                        EMFILE    */
    ERR_TABLE_SIZE
};

/* The code's short name ("NOSPACE"), for logs and JSON. Accepts ERR_X and -ERR_X. Static storage.
 */
const char *err_name(int code);

/* One clause for people ("no space left on the device"). Accepts both signs. Static storage. */
const char *err_text(int code);

/* The errno (positive) that a FUSE reply or an exit path shows for the code. Accepts both signs. */
int err_errno(int code);

/* The negated code for an errno value (positive); -ERR_IO for one that the table does not have. */
int err_from_errno(int errnum);

#endif
