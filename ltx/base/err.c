/* SPDX-License-Identifier: Apache-2.0 */
#include "ltx/base/err.h"

#include <errno.h>
#include <stddef.h>

struct err_row {
    const char *name;
    const char *text;
    int errnum;
};

static const struct err_row rows[ERR_TABLE_SIZE] = {
    [ERR_NONE] = {"NONE", "no error", 0},
    [ERR_NOMEM] = {"NOMEM", "out of memory", ENOMEM},
    [ERR_IO] = {"IO", "the disk or the kernel failed", EIO},
    [ERR_NOSPACE] = {"NOSPACE", "no space left on the device", ENOSPC},
    [ERR_NOTFOUND] = {"NOTFOUND", "there is no such thing", ENOENT},
    [ERR_EXISTS] = {"EXISTS", "it is there already", EEXIST},
    [ERR_ACCESS] = {"ACCESS", "permission denied", EACCES},
    [ERR_READONLY] = {"READONLY", "this node does not accept writes", EROFS},
    [ERR_INVALID] = {"INVALID", "an argument or a setting makes no sense", EINVAL},
    [ERR_LIMIT] = {"LIMIT", "larger than the limit", EFBIG},
    [ERR_CORRUPT] = {"CORRUPT", "the bytes are not what their format allows", EIO},
    [ERR_CHECKSUM] = {"CHECKSUM", "the bytes do not match their checksum", EIO},
    [ERR_TRUNCATED] = {"TRUNCATED", "the bytes end too early", EIO},
    [ERR_POSITION] = {"POSITION", "the record does not follow on the position", EIO},
    [ERR_DIVERGED] = {"DIVERGED", "the histories of the two nodes have parted", EIO},
    [ERR_BUSY] = {"BUSY", "somebody else holds it", EBUSY},
    [ERR_TIMEOUT] = {"TIMEOUT", "it took too long", ETIMEDOUT},
    [ERR_CLOSED] = {"CLOSED", "it is being shut down", ESHUTDOWN},
    [ERR_FENCED] = {"FENCED", "a higher epoch rules, this node must stop", EROFS},
    [ERR_NOTPRIMARY] = {"NOTPRIMARY", "only the primary can do this", EROFS},
    [ERR_VERSION] = {"VERSION", "the peer speaks another protocol version", EPROTO},
    [ERR_CLUSTER] = {"CLUSTER", "the peer belongs to another cluster", EPROTO},
    [ERR_PROTOCOL] = {"PROTOCOL", "the peer sent what is not a message of tandemfs", EPROTO},
    [ERR_UNREACHABLE] = {"UNREACHABLE", "the peer does not answer", EHOSTUNREACH},
    [ERR_UNSUPPORTED] = {"UNSUPPORTED", "this is not possible here", EOPNOTSUPP},
    [ERR_INTERRUPTED] = {"INTERRUPTED", "a signal came first", EINTR},
    [ERR_DAMAGED] = {"DAMAGED", "the database needs to be fetched again", EIO},
    [ERR_NOFILES] = {"NOFILES", "too many open files: the limit (ulimit -n) is too low", EMFILE},
};

static const struct err_row unknown = {"UNKNOWN", "an unknown error", EIO};

static const struct err_row *row_of(int code)
{
    unsigned i = code < 0 ? 0u - (unsigned)code : (unsigned)code;
    return i < ERR_TABLE_SIZE && rows[i].name != NULL ? &rows[i] : &unknown;
}

const char *err_name(int code)
{
    return row_of(code)->name;
}

const char *err_text(int code)
{
    return row_of(code)->text;
}

int err_errno(int code)
{
    return row_of(code)->errnum;
}

int err_from_errno(int errnum)
{
    switch (errnum) {
    case 0: return 0;
    case ENOMEM: return -ERR_NOMEM;
    case ENOSPC:
    case EDQUOT: return -ERR_NOSPACE;
    case EMFILE:
    case ENFILE: return -ERR_NOFILES;
    case ENOENT: return -ERR_NOTFOUND;
    case EEXIST:
    case ENOTEMPTY: return -ERR_EXISTS;
    case EACCES:
    case EPERM: return -ERR_ACCESS;
    case EROFS: return -ERR_READONLY;
    case EINVAL:
    case ENAMETOOLONG:
    case ENOTDIR:
    case EISDIR:
    case ELOOP: return -ERR_INVALID;
    case EFBIG:
    case EOVERFLOW: return -ERR_LIMIT;
    case EBUSY:
    case EAGAIN:
    case ETXTBSY: return -ERR_BUSY;
    case ETIMEDOUT: return -ERR_TIMEOUT;
    case ESHUTDOWN: return -ERR_CLOSED;
    case EPROTO: return -ERR_PROTOCOL;
    case EHOSTUNREACH:
    case ENETUNREACH:
    case ECONNREFUSED:
    case ECONNRESET: return -ERR_UNREACHABLE;
    case EOPNOTSUPP:
    case ENOSYS: return -ERR_UNSUPPORTED;
    case EINTR: return -ERR_INTERRUPTED;
    default: return -ERR_IO;
    }
}
