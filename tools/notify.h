/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TOOLS_NOTIFY_H
#define TOOLS_NOTIFY_H

/* Tells the service manager (systemd's sd_notify protocol) where NOTIFY_SOCKET is set; else
 * nothing. */
void notify_ready(void);
void notify_stopping(void);

#endif
