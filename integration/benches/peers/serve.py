#!/usr/bin/env python3
"""Serves a folder on loopback, with ranges (RFC 9110, section 14), and writes what every answer took.

    serve.py FOLDER LOG PORT-FILE

The port is the kernel's choice and is written to PORT-FILE. LOG has one line for each request: the bytes
sent, headers included, the status, and the path. Knows no caching, no listings, no TLS.
"""

import os
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PIECE_BYTES = 1 << 20
BOUNDARY = "0d5c0c4e7a574d0c"


class Served(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        self.sent = 0
        path = os.path.normpath("/" + self.path.split("?")[0]).lstrip("/")
        try:
            file = open(os.path.join(self.server.folder, path), "rb")
        except OSError:
            self.head(404, {"Content-Length": 0})
            return self.done(404)
        with file:
            size = os.fstat(file.fileno()).st_size
            ranges = parse(self.headers.get("Range"), size)
            parts, headers, status = self.parts(ranges, size)
            headers["Accept-Ranges"] = "bytes"
            headers["Content-Length"] = sum(len(before) + length for before, _, length in parts)
            self.head(status, headers)
            if with_body:
                for part in parts:
                    self.body(file, *part)
            self.done(status)

    def parts(self, ranges, size):
        """What to send, as (bytes before, offset, length); the headers of that; the status."""
        if ranges is None:
            return [(b"", 0, size)], {"Content-Type": "application/octet-stream"}, 200
        if not ranges:
            return [], {"Content-Range": f"bytes */{size}"}, 416
        if len(ranges) == 1:
            first, last = ranges[0]
            headers = {"Content-Type": "application/octet-stream", "Content-Range": f"bytes {first}-{last}/{size}"}
            return [(b"", first, last - first + 1)], headers, 206
        parts = []
        for first, last in ranges:
            before = (
                f"\r\n--{BOUNDARY}\r\nContent-Type: application/octet-stream\r\n"
                f"Content-Range: bytes {first}-{last}/{size}\r\n\r\n"
            )
            parts.append((before.encode(), first, last - first + 1))
        parts.append((f"\r\n--{BOUNDARY}--\r\n".encode(), 0, 0))
        return parts, {"Content-Type": f"multipart/byteranges; boundary={BOUNDARY}"}, 206

    def head(self, status, headers):
        lines = [f"HTTP/1.1 {status} {self.responses[status][0]}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.write("\r\n".join(lines + ["", ""]).encode())

    def body(self, file, before, offset, length):
        self.write(before)
        file.seek(offset)
        while length > 0:
            piece = file.read(min(length, PIECE_BYTES))
            if not piece:
                raise OSError("the file became shorter")
            self.write(piece)
            length -= len(piece)

    def write(self, what):
        self.wfile.write(what)
        self.sent += len(what)

    def done(self, status):
        self.server.log.write(f"{self.sent} {status} {self.path}\n")
        # Before the client has all of it, so that who reads the log after the client misses nothing.
        self.wfile.flush()

    def log_message(self, *_):
        pass


def parse(header, size):
    """The ranges that a header asks for, each as first and last byte; None for the whole file."""
    if not header or not header.startswith("bytes="):
        return None
    ranges = []
    for word in header[len("bytes="):].split(","):
        match = re.fullmatch(r"\s*(\d*)-(\d*)\s*", word)
        if not match or match.group(0).strip() == "-":
            return None
        first, last = match.groups()
        if first == "":
            first, last = max(0, size - int(last)), size - 1
        else:
            first, last = int(first), min(int(last or size - 1), size - 1)
        if first <= last:
            ranges.append((first, last))
    return ranges


def main():
    folder, log, port = sys.argv[1:]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Served)
    server.daemon_threads = True
    server.folder = folder
    # Who reads the log may empty it meanwhile.
    with open(log, "a", buffering=1) as server.log:
        # Whole where it is.
        with open(port + ".new", "w") as file:
            file.write(f"{server.server_address[1]}\n")
        os.rename(port + ".new", port)
        server.serve_forever()


main()
