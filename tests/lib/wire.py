# SPDX-License-Identifier: Apache-2.0
"""The network between two nodes, as a thing that can be cut and that counts what it carries."""
import contextlib
import socket
import threading


class Wire:
    """Listens on a port and passes on to `target` ("tcp://HOST:PORT"). Give its `url` to the node that connects, and
    to the other as what it advertises; then nothing goes past it."""

    def __init__(self, scratch, target):
        host, port = target[len("tcp://"):].split(":")
        self.target, self.port = (host, int(port)), scratch.port()
        self.url = "tcp://127.0.0.1:%d" % self.port
        self.lock = threading.Lock()
        self.listener, self.sockets, self.carried = None, [], 0
        self.mend()

    def mend(self):
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def cut(self):
        """Ends every connection, and takes no new one."""
        with self.lock:
            listener, sockets, self.listener, self.sockets = self.listener, self.sockets, None, []
        for s in [listener, *sockets]:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
            s.close()

    def bytes(self):
        """What it has carried so far, in both directions."""
        with self.lock:
            return self.carried

    def _accept(self, listener):
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self.target, timeout=5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            with self.lock:
                if self.listener is not listener:
                    near.close()
                    far.close()
                    return
                self.sockets += [near, far]
            for a, b in ((near, far), (far, near)):
                a.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._pass_on, args=(a, b), daemon=True).start()

    def _pass_on(self, a, b):
        with contextlib.suppress(OSError):
            while data := a.recv(1 << 18):
                with self.lock:
                    self.carried += len(data)
                b.sendall(data)
        for s in (a, b):
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)
