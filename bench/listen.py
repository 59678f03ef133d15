"""Latency of live text over a server's WebSocket, with audio that comes as fast as it is spoken.

    python bench/listen.py MANIFEST [--each 40] [--model whisper-tiny.en] [--threads N]

`tynda serve` is started. Each recording, and two seconds of silence after it, is sent to
``/v1/listen`` in frames of 0.1 s, each when its last sample would have been spoken. Times are those
of the clock, network, queue and computing included. Ends of words are those of the same model's
text of the whole recording. For each word that both texts have: the time from its end until a
message shows it, and until a message has it among the final ones. For each utterance: the time from
the end of its last word until its final message.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import tynda
from serve import Server, serving
from tynda import manifest
from tynda.sound import audio

FRAME = audio.SAMPLE_RATE // 10
SILENCE = 2.0


@dataclass
class Times:
    """Seconds from ends of words."""

    shown: list[float] = field(default_factory=list)
    final: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)


def listen(server: Server, samples: Any) -> list[tuple[float, dict[str, Any]]]:
    """Return the messages of a recording, each with the second of audio at which it came."""
    whole = np.concatenate([samples, np.zeros(round(SILENCE * audio.SAMPLE_RATE), np.float32)])
    pcm = (whole.clip(-1, 1) * 32_767).astype("<i2")
    found: list[tuple[float, dict[str, Any]]] = []
    url = f"ws{server.url.removeprefix('http')}/v1/listen"
    with connect(url, additional_headers={"Authorization": f"Bearer {server.key}"}) as socket:
        socket.send(json.dumps({"type": "start", "encoding": "pcm16", "sample_rate": 16_000}))
        socket.recv()
        started = time.perf_counter()

        def read() -> None:
            try:
                for message in socket:
                    found.append((time.perf_counter() - started, json.loads(message)))
            except ConnectionClosed:
                pass

        reader = threading.Thread(target=read)
        reader.start()
        for i in range(0, len(pcm), FRAME):
            frame = pcm[i : i + FRAME]
            spoken = (i + len(frame)) / audio.SAMPLE_RATE
            time.sleep(max(0.0, started + spoken - time.perf_counter()))
            socket.send(frame.tobytes())
        socket.send(json.dumps({"type": "stop"}))
        reader.join()
    return [(at, message) for at, message in found if message["type"] == "segment"]


def add(times: Times, messages: Any, ends: list[tuple[str, float]], normalize: Any) -> None:
    """Add the times of one recording; ``ends`` are its words and the seconds of their ends."""
    words: list[str] = []
    shown: dict[int, tuple[float, str]] = {}
    final: list[float] = []
    closed: list[tuple[int, float]] = []
    done = 0  # words of utterances that have ended
    for at, message in messages:
        texts = [normalize(word["text"]) for word in message["words"]]
        for i, text in enumerate(texts):
            if shown.get(done + i, (0.0, ""))[1] != text:  # the time since it stands there
                shown[done + i] = at, text
        new = texts[len(words) - done : message["final_words"]]
        words += new
        final += [at] * len(new)
        if message["final"]:
            done = len(words)
            closed.append((done - 1, at))
    matches = SequenceMatcher(a=words, b=[word for word, _ in ends], autojunk=False)
    ends_of = {
        i + k: ends[j + k][1] for i, j, count in matches.get_matching_blocks() for k in range(count)
    }
    times.shown += [shown[i][0] - end for i, end in ends_of.items() if shown[i][1] == words[i]]
    times.final += [final[i] - end for i, end in ends_of.items()]
    times.ended += [at - ends_of[i] for i, at in closed if i in ends_of]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest")
    parser.add_argument("--each", type=int, default=40)
    parser.add_argument("--model", default="whisper-tiny.en")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.workers, args.queue = 2, 16
    model = tynda.load(args.model)
    options = model.options(**({"word_timestamps": True} if model.head.has_decoder else {}))
    times, count = Times(), 0
    with serving(args) as server:
        for utterance in manifest.read(args.manifest)[:: args.each]:
            samples = audio.load(utterance.audio)
            segments = model.transcribe(samples, options).segments
            words = [word for segment in segments for word in segment.words]
            ends = [(model.normalize(word.text), word.end) for word in words]
            add(times, listen(server, samples), ends, model.normalize)
            count += 1
    print(f"{count} recordings, {args.model}, {args.threads} threads")
    for name, values in (
        ("from the end of a word until it is shown", times.shown),
        ("from the end of a word until it is final", times.final),
        ("from the end of an utterance until its final message", times.ended),
    ):
        values.sort()
        print(
            f"{name} ({len(values)}): median {statistics.median(values):.2f} s, "
            f"95 % {values[int(0.95 * len(values))]:.2f} s"
        )


if __name__ == "__main__":
    main()
