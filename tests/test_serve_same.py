"""The same text as the command line, byte for byte, by HTTP, jobs, WebSocket and Wyoming; and the
same service in a network without routes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("wyoming")

from helpers import write_wav
from serving import HEADERS, serving
from test_serve_jobs import Client
from test_serve_listen import dialling, read, say
from test_serve_wyoming import whole_text
from tynda import manifest
from tynda.sound import audio

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data" / "dev.jsonl"


def recordings(count):
    """Return files: those of the repository, or every so many-th of the shared ones."""
    if count is None:
        return sorted((ROOT / "demo").glob("*.opus"))[:2]
    if not SHARED.exists():
        pytest.skip("needs the recordings in ../shared/data")
    files = [each.audio for each in manifest.read(SHARED) if (each.duration or 99) < 10]
    return files[:: len(files) // count][:count]


def command(*args, data=None):
    """Return what a command of tynda prints."""
    line = [*(sys.executable, "-m", "tynda"), *map(str, args), "--threads", "1"]
    done = subprocess.run(line, input=data, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


@pytest.mark.parametrize(
    ("count", "model"),
    [(None, "digits-en"), pytest.param(100, "whisper-tiny.en", marks=pytest.mark.slow)],
)
def test_every_protocol_gives_the_text_of_the_command_line(tmp_path, count, model):
    files = []
    for i, path in enumerate(recordings(count)):
        files.append(tmp_path / f"{i}.wav")
        write_wav(files[-1], audio.load(path))
    lines = command("transcribe", *files, "--model", model, "--format", "json").splitlines()
    expected = [json.loads(line)["text"] for line in lines]
    assert len(expected) == len(files) >= 2
    with serving(tmp_path, model=model, wyoming_port=0, max_jobs=len(files)) as server:
        jobs = Client(server)
        ids = [jobs.create(path.read_bytes()) for path in files]
        for path, id_, text in zip(files, ids, expected, strict=True):
            data = path.read_bytes()
            answer = httpx.post(
                f"{server.url}/v1/audio/transcriptions",
                headers=HEADERS,
                files={"file": data},
                data={"model": "whisper-1", "response_format": "text"},
                timeout=600,
            )
            assert answer.text == text + "\n"
            assert whole_text(server, data[44:]) == text
            live = command("listen", "-", "--model", model, data=data[44:])
            with dialling(server) as socket:
                say(socket, type="start", encoding="pcm16", sample_rate=16_000)
                socket.send(data[44:])
                say(socket, type="stop")
                found = read(socket, "finished")
            finals = [each["text"] for each in found if each.get("final")]
            assert "".join(f"{each}\n" for each in finals) == live
            jobs.finished(id_)
            result = jobs.get(f"/{id_}/result", response_format="text")
            assert result.text == text + "\n"


IN_NAMESPACE = """
import fcntl, socket, struct, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
with socket.socket() as any_socket:  # the loopback interface is down at first
    request = struct.pack("16sh", b"lo", 1)
    fcntl.ioctl(any_socket, 0x8914, request)
try:
    socket.create_connection(("192.0.2.1", 80), 5)
except OSError as error:
    print(error.strerror)
from serving import serving
from test_serve_jobs import Client, DIGITS, SPOKEN
from test_serve_wyoming import recording, talk
from tynda.sound import audio
with serving(Path({folder!r}), wyoming_port=0) as server:
    client = Client(server)
    id_ = client.create()
    assert client.finished(id_)["status"] == "done"
    print(client.get(f"/{{id_}}/result").json()["text"])
    pcm = (audio.load(DIGITS) * 32767).astype("<i2").tobytes()
    print(talk(server, recording(pcm), 4)[-2].data["text"])
print(open("/proc/net/route").read().count("\\n"))
addresses = {{
    line.split()[i].split(":")[0]
    for line in open("/proc/net/tcp").readlines()[1:]
    for i in (1, 2)
}}
print(sorted(addresses - {{"00000000"}}))
"""


def test_a_network_without_routes_is_enough(tmp_path):
    unshare = shutil.which("unshare")
    options = next(
        (
            given
            for given in (["-n"], ["-rn"])
            if unshare and subprocess.run([unshare, *given, "true"]).returncode == 0
        ),
        None,
    )
    if options is None:
        pytest.skip("network namespaces cannot be made here")
    script = IN_NAMESPACE.format(tests=str(ROOT / "tests"), folder=str(tmp_path))
    done = subprocess.run(
        [unshare, *options, sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "Network is unreachable"
    assert lines[1:3] == ["six eight zero two"] * 2
    assert lines[3] == "1"  # the title of the table of routes
    assert lines[4] == "['0100007F']"  # 127.0.0.1
