#!/usr/bin/env python3
"""What a sidecar adds to a get and to a put, and what processor time each takes it.

    tests/sidecar_cost.py STORE SIDECAR PID [REQUESTS]

STORE is the client address of any member, SIDECAR a sidecar's, PID its process. Requests go over kept connections, one to the key's
leader and one to the sidecar in turns, so that both meet the same noise. Processor time is that of all of its threads, by the kernel.
"""

import glob
import hashlib
import json
import socket
import sys
import time
import urllib.request

KEY = "sidecar-cost"
PUT = f"PUT /v1/kv/{KEY} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n".encode() + b"v" * 100
GET = f"GET /v1/kv/{KEY} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


def leader(store):
    """The client address of the member that leads the key's partition."""
    with urllib.request.urlopen(f"http://{store}/v1/ring") as answer:
        ring = json.load(answer)
    bits = ring["partitions"].bit_length() - 1
    digest = hashlib.sha256(KEY.encode()).digest()
    partition = int.from_bytes(digest[:8], "big") >> (64 - bits)
    leads = next(it["leader"] for it in ring["assignments"] if it["partition"] == partition)
    return next(it["client_address"] for it in ring["members"] if it["id"] == leads)


def connected(address):
    host, port = address.rsplit(":", 1)
    stream = socket.create_connection((host, int(port)))
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream


def ask(stream, request):
    stream.sendall(request)
    read = b""
    while b"\r\n\r\n" not in read:
        read += stream.recv(65536)
    head, body = read.split(b"\r\n\r\n", 1)
    lengths = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
    while len(body) < sum(lengths):
        body += stream.recv(65536)
    assert head.split(b" ")[1].startswith(b"2"), head


def latencies(streams, request, count):
    """Seconds that each request took, for each of two streams in turns."""
    took = ([], [])
    for at in range(count):
        for which in (0, 1) if at % 2 else (1, 0):
            began = time.perf_counter()
            ask(streams[which], request)
            took[which].append(time.perf_counter() - began)
    return [sorted(each) for each in took]


def processor_ns(pid):
    return sum(int(open(path).read().split()[0]) for path in glob.glob(f"/proc/{pid}/task/*/schedstat"))


def main():
    store, sidecar, pid = sys.argv[1:4]
    count = int(sys.argv[4]) if len(sys.argv) > 4 else 4000
    streams = (connected(leader(store)), connected(sidecar))
    ask(streams[0], PUT)
    for name, request in (("get", GET), ("put", PUT)):
        latencies(streams, request, 300)
        of_leader, of_sidecar = latencies(streams, request, count)
        for quantile in (0.5, 0.99):
            direct, through = (each[int(count * quantile)] * 1e3 for each in (of_leader, of_sidecar))
            print(f"{name} p{quantile * 100:.0f}: {direct:.3f} ms, through the sidecar {through - direct:.3f} ms more")
        for depth in (1, 8):
            several = [connected(sidecar) for _ in range(depth)]
            for stream in several:
                ask(stream, request)
            before = processor_ns(pid)
            for _ in range(count // depth):
                for stream in several:
                    stream.sendall(request)
                for stream in several:
                    stream.recv(65536)
            spent = (processor_ns(pid) - before) / (count // depth * depth) / 1000
            print(f"{name}, {depth} connections: {spent:.1f} us of processor time each")


if __name__ == "__main__":
    main()
