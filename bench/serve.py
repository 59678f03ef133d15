"""Throughput, latency and memory of a server of OpenAI's audio API under many clients.

    python bench/serve.py [FILE] [--clients 64] [--seconds 60] [--model whisper-tiny.en]
        [--workers 2] [--queue 62] [--threads 1] [--url URL --key KEY --pid PID]

First one client sends FILE, one request after the other, for a minute at most; then ``--clients``
clients do so at the same time. Each waits as ``Retry-After`` asks when it is refused by 429.
Latency is the time of requests that were answered. Memory is the resident memory of the server's
process: after the first client, then after the first and the last of the many. Without ``--url``,
`tynda serve` is started with a store in a temporary folder; with it, another server is measured,
such as ``bench/serve_faster_whisper.py``, speaches or whisper.cpp's, and ``--pid`` is its process.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

DEMO = Path(__file__).parents[1] / "demo" / "jfk.flac"


@dataclass(frozen=True)
class Server:
    url: str
    key: str
    model: str
    pid: int | None

    @property
    def megabytes(self) -> float:
        return psutil.Process(self.pid).memory_info().rss / 1e6 if self.pid else 0.0

    @property
    def cpu(self) -> float:
        """Seconds of processor time."""
        return sum(psutil.Process(self.pid).cpu_times()[:2]) if self.pid else 0.0


@dataclass
class Run:
    """The requests of some clients."""

    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int | str] = field(default_factory=Counter)
    texts: set[str] = field(default_factory=set)
    seconds: float = 0.0
    cpu: float = 0.0


@contextmanager
def serving(args: argparse.Namespace) -> Iterator[Server]:
    """Start `tynda serve` on a free port until the block ends."""
    key = secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "tynda", "serve", "--port", "0", "--model", args.model),
            *("--threads", args.threads, "--workers", args.workers, "--queue", args.queue),
            *("--data", f"{folder}/data", "--master-key-file", f"{folder}/key"),
            *("--keys-file", f"{folder}/keys.json", "--request-seconds", 3600),
        ]
        environment = {**os.environ, "TYNDA_SERVE_KEYS": key}
        child = subprocess.Popen(
            list(map(str, command)), stderr=subprocess.PIPE, text=True, env=environment
        )
        assert child.stderr is not None
        lines = (json.loads(line) for line in child.stderr if line.startswith("{"))
        url = next(line["url"] for line in lines if line["event"] == "started")
        threading.Thread(target=lambda: [None for _ in child.stderr], daemon=True).start()
        try:
            yield Server(url, key, "whisper-1", child.pid)
        finally:
            child.terminate()
            child.wait(60)


def clients(server: Server, data: bytes, count: int, seconds: float) -> Run:
    """Let clients send a recording again and again for so many seconds, and at least once."""
    run, lock = Run(), threading.Lock()
    started, cpu = time.perf_counter(), server.cpu

    def send() -> None:
        headers = {"Authorization": f"Bearer {server.key}"}
        with httpx.Client(headers=headers, timeout=3600) as client:
            while True:
                begun = time.perf_counter()
                try:
                    answer = client.post(
                        f"{server.url}/v1/audio/transcriptions",
                        files={"file": data},
                        data={"model": server.model},
                    )
                except httpx.HTTPError as error:
                    with lock:
                        run.statuses[type(error).__name__] += 1
                    return
                with lock:
                    run.statuses[answer.status_code] += 1
                    if answer.status_code == 200:
                        run.latencies.append(time.perf_counter() - begun)
                        run.texts.add(answer.json()["text"])
                if answer.status_code == 429:
                    time.sleep(float(answer.headers["Retry-After"]))
                if time.perf_counter() - started >= seconds:
                    return

    threads = [threading.Thread(target=send) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.seconds, run.cpu = time.perf_counter() - started, server.cpu - cpu
    return run


def show(name: str, run: Run) -> None:
    ordered = sorted(run.latencies)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    print(
        f"| {name} | {len(ordered)} | {len(ordered) / run.seconds:.2f} "
        f"| {statistics.median(ordered):.2f} | {p95:.2f} | {run.cpu / len(ordered):.3f} "
        f"| {dict(run.statuses)} | {len(run.texts)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", default=DEMO)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--model", default="whisper-tiny.en")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--queue", type=int, default=62)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--url")
    parser.add_argument("--key", default="none")
    parser.add_argument("--pid", type=int)
    args = parser.parse_args()
    data = args.file.read_bytes()
    if args.url:
        measure(Server(args.url, args.key, args.model, args.pid), data, args)
        return
    with serving(args) as server:
        measure(server, data, args)


def measure(server: Server, data: bytes, args: argparse.Namespace) -> None:
    clients(server, data, 1, 0)  # one request, which loads what is loaded once
    alone = clients(server, data, 1, min(args.seconds, 60.0))
    memory = [server.megabytes]
    first = clients(server, data, args.clients, 0)
    memory.append(server.megabytes)
    many = clients(server, data, args.clients, args.seconds)
    memory.append(server.megabytes)
    print("| clients | answers | per second | median s | p95 s | CPU s each | statuses | texts |")
    print("|---|---|---|---|---|---|---|---|")
    show("1", alone)
    show(f"{args.clients}, once", first)
    show(str(args.clients), many)
    print("memory in MB after 1 client, the first and the last of many:", *map(round, memory))
    ratio = len(many.latencies) / many.seconds / (len(alone.latencies) / alone.seconds)
    print(f"throughput of many over one: {ratio:.2f}")


if __name__ == "__main__":
    main()
