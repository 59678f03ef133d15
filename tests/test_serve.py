"""The server: settings, keys, queue, limits, the end, and what it may open."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

pytest.importorskip("fastapi")

from click.testing import CliRunner

from helpers import noise, write_wav
from serving import HEADERS, serving, until
from tynda.checks import schema
from tynda.cli import main
from tynda.errors import TyndaError
from tynda.serve import keys as api_keys
from tynda.serve.configuration import read_settings
from tynda.serve.decoding import Decoder
from tynda.serve.keys import Keys, RateLimit
from tynda.serve.model import SharedModel
from tynda.serve.settings import ServeSettings
from tynda.serve.workers import Busy, Slots, Stopped, Workers

DIGITS = Path(__file__).parents[1] / "demo" / "020070039.opus"
PAGE = Path(__file__).parents[1] / "docs" / "serve.md"


def send(server, data=None, headers=HEADERS, timeout=60, **fields):
    """Send a recording, and return the answer."""
    return httpx.post(
        f"{server.url}/v1/audio/transcriptions",
        headers=headers,
        files={"file": ("a.wav", DIGITS.read_bytes() if data is None else data)},
        data={"model": "digits-en", **fields},
        timeout=timeout,
    )


# Settings


def test_flags_replace_the_environment_and_the_environment_replaces_the_file(tmp_path):
    file = tmp_path / "serve.toml"
    file.write_text('port = 1\nqueue = 2\nworkers = 3\nhost = "::1"\ndocs = true\n')
    environment = {"TYNDA_SERVE_PORT": "4", "TYNDA_SERVE_QUEUE": "5", "TYNDA_SERVE_DOCS": "0"}
    settings = read_settings(str(file), environment, {"port": 6, "model": None})
    assert (settings.port, settings.queue, settings.workers) == (6, 5, 3)
    assert (settings.host, settings.docs) == ("::1", False)
    environment = {"TYNDA_SERVE_CONFIG": str(file), "TYNDA_SERVE_KEYS": "x", "OTHER": "y"}
    assert read_settings(None, environment, {}).port == 1


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        ("prot = 1", {}, "unknown setting prot; the settings: host, port"),
        ("port = 'x'", {}, "port must be a whole number from 0 to 65535, not 'x'"),
        ("port = 70000", {}, "port must be a whole number from 0 to 65535, not 70000"),
        ("port = ", {}, "is not valid TOML"),
        ("tls_key = 'a'", {}, "tls_certificate and tls_key belong together"),
        ("", {"TYNDA_SERVE_PROT": "1"}, "TYNDA_SERVE_PROT names no setting"),
        ("", {"TYNDA_SERVE_PORT": "x"}, "TYNDA_SERVE_PORT must be a whole number"),
        ("", {"TYNDA_SERVE_DOCS": "x"}, "TYNDA_SERVE_DOCS must be true or false"),
    ],
)
def test_wrong_settings_are_one_line(tmp_path, text, environment, message):
    file = tmp_path / "serve.toml"
    file.write_text(text)
    with pytest.raises(TyndaError) as caught:
        read_settings(str(file), environment, {})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_page_lists_every_setting():
    page = PAGE.read_text("utf-8")
    for name in schema(ServeSettings):
        assert f"| `{name}` |" in page, name


def test_without_its_packages_the_command_says_what_to_install(monkeypatch):
    from tynda.cli import serve

    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "fastapi" else 1)
    result = CliRunner().invoke(main, ["serve"])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: the server needs fastapi: ")
    assert result.stderr.count("\n") == 1


def test_the_command_line_imports_no_package_of_the_server():
    code = (
        "import sys; from tynda.cli import main; import tynda.cli.serve, tynda.cli.listen;"
        "print(*{'fastapi', 'uvicorn', 'starlette', 'wyoming', 'pydantic'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# Keys


def test_keys_are_added_listed_and_revoked_by_commands(tmp_path):
    file = tmp_path / "folder" / "keys.json"

    def run(*args):
        result = CliRunner().invoke(main, ["serve", "--keys-file", str(file), "keys", *args])
        return result.exit_code, result.output

    code, secret = run("add", "phone", "--scope", "transcribe", "--rate", "60")
    secret = secret.strip()
    assert code == 0
    assert secret not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    id_ = secret.split("_")[1]
    _, table = run("list")
    assert id_ in table
    assert "phone" in table
    assert secret not in table
    keys = Keys(file)
    assert keys.find(secret) == api_keys.read(file)[0]
    assert keys.find(secret).scopes == ("transcribe",)
    assert run("revoke", id_)[0] == 0
    assert keys.find(secret) is None  # also by a server that runs
    assert "revoked" in run("list")[1]
    assert run("revoke", "nobody")[0] == 1
    file.write_text('{"keys": [{"id": 3}]}')
    assert keys.find(secret) is None
    code, message = run("list")
    assert code == 1
    assert message.count("\n") == 1


def test_keys_of_the_environment_are_long(tmp_path):
    keys = Keys(tmp_path / "keys.json", "the-first-of-two-keys, the-second-of-two-keys")
    assert [keys.find(x).id for x in ("the-first-of-two-keys", "the-second-of-two-keys")] == [
        "env1",
        "env2",
    ]
    assert keys.find("") is None
    assert Keys(tmp_path / "keys.json").is_empty()
    with pytest.raises(TyndaError, match="16 characters"):
        Keys(tmp_path / "keys.json", "short")


def test_a_rate_fills_steadily(tmp_path):
    key, _ = api_keys.add(tmp_path / "keys.json", "x", rate=2)
    limit = RateLimit()
    assert [limit.wait(key, now) for now in (0, 0, 0, 15, 30, 30)] == [0, 0, 30, 15, 0, 30]


def test_scopes_and_rates_are_kept(tmp_path):
    with serving(tmp_path) as server:
        _, metrics = api_keys.add(tmp_path / "keys.json", "prometheus", ["metrics"], 2)
        own = {"Authorization": f"Bearer {metrics}"}
        assert send(server, headers=own).status_code == 403
        answer = httpx.get(f"{server.url}/metrics", headers=own)
        assert answer.status_code == 200
        assert (
            'tynda_requests_total{protocol="http",route="/v1/audio/transcriptions"' in answer.text
        )
        assert "tynda_model_loaded 1.0" in answer.text
        limited = httpx.get(f"{server.url}/metrics", headers=own)
        assert limited.status_code == 429
        assert 1 <= int(limited.headers["Retry-After"]) <= 30
        assert limited.json()["error"]["code"] == "rate_limit_exceeded"
        assert httpx.get(f"{server.url}/metrics").status_code == 401
        assert httpx.get(f"{server.url}/health/live").json() == {"status": "ok"}
        assert httpx.get(f"{server.url}/health/ready").json() == {"status": "ok"}


# Queue


def test_slots_are_bounded_and_released_once():
    slots = Slots(2)
    first, second = slots.admit(10), slots.admit(0)
    with pytest.raises(Busy) as caught:
        slots.admit(1)
    assert 1 <= caught.value.retry_after <= 60
    first.release()
    first.release()
    assert len(slots) == 1
    second.release()
    with pytest.raises(Stopped):
        second.check()
    first.check()
    first.stop()
    with pytest.raises(Stopped):
        first.check()


def test_workers_pass_on_results_and_exceptions():
    workers = Workers(1, "test")
    assert workers.submit(lambda: 1).result(5) == 1
    with pytest.raises(ZeroDivisionError):
        workers.submit(lambda: 1 / 0).result(5)
    gate = threading.Event()
    running, waiting = workers.submit(gate.wait), workers.submit(lambda: 2)
    assert waiting.cancel()
    gate.set()
    assert running.result(5)
    assert workers.submit(lambda: 3).result(5) == 3
    workers.close()


def test_a_full_queue_is_429_and_no_recording_is_lost(tmp_path):
    with serving(tmp_path, workers=1, queue=1) as server:
        held = [server.service.slots.admit(60) for _ in range(2)]
        answer = send(server)
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.json()["error"]["code"] == "queue_full"
        assert httpx.get(f"{server.url}/health/ready").status_code == 503
        for ticket in held:
            ticket.release()
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: send(server), range(12)))
        assert {answer.status_code for answer in answers} <= {200, 429}
        texts = {answer.json()["text"] for answer in answers if answer.status_code == 200}
        assert texts == {"six eight zero two"}
        until(lambda: len(server.service.slots) == 0)


@pytest.fixture
def endless(monkeypatch):
    """Let recordings never end: only who stops their transcription ends it."""

    def decode(self, data, ticket):
        while True:
            time.sleep(0.02)
            yield noise(1, seed=3)

    monkeypatch.setattr(Decoder, "decode", decode)


def leave(server, stream):
    """Send a recording, and leave after a second, or after the first line of the answer."""
    with (
        suppress(httpx.ReadTimeout),
        httpx.stream(
            "POST",
            f"{server.url}/v1/audio/transcriptions",
            headers=HEADERS,
            files={"file": b"x"},
            data={"model": "digits-en", "stream": stream},
            timeout=1,
        ) as answer,
    ):
        next(answer.iter_lines())


@pytest.mark.parametrize("stream", ["false", "true"])
def test_a_client_that_leaves_stops_the_work(tmp_path, monkeypatch, endless, stream):
    with serving(tmp_path, max_seconds=1e6) as server:
        leave(server, stream)
        until(lambda: len(server.service.slots) == 0)
        assert server.service.workers.running == 0
        monkeypatch.undo()
        assert send(server).status_code == 200


def test_time_is_limited(tmp_path, endless):
    with serving(tmp_path, request_seconds=1.5, max_seconds=1e6) as server:
        answer = send(server)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
        assert answer.headers["X-Should-Retry"] == "false"
        until(lambda: len(server.service.slots) == 0)
        assert server.service.workers.running == 0


def test_size_and_length_are_limited(tmp_path):
    with serving(tmp_path, max_upload=20.0) as server:
        for size in (20_500_000, 30_000_000):
            answer = send(server, bytes(size))
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "file_too_large")
        until(lambda: len(server.service.slots) == 0)
    with serving(tmp_path, max_seconds=3.0) as server:
        answer = send(server)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "audio_too_long")


def test_a_slow_upload_gives_its_slot_back(tmp_path):
    with (
        serving(tmp_path, request_seconds=1.0) as server,
        socket.create_connection(("127.0.0.1", server.port)) as slow,
    ):
        slow.sendall(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n"
            b"Authorization: " + HEADERS["Authorization"].encode() + b"\r\n\r\n--b\r\n"
        )
        until(lambda: len(server.service.slots) == 1)
        until(lambda: len(server.service.slots) == 0, 10)
        assert b" 504 " in slow.recv(1000)


# Memory


class Fake:
    """A model that counts how often it is loaded."""

    class head:  # noqa: N801
        options_type = ServeSettings

    class header:  # noqa: N801
        name, languages = "fake", ("en",)


def test_an_idle_model_is_unloaded_and_loaded_again():
    loads = []

    def load():
        loads.append(1)
        return Fake()

    shared = SharedModel(load, 0.2)
    with shared.use():
        time.sleep(0.5)
        assert shared.is_loaded
    until(lambda: not shared.is_loaded, 10)
    with shared.use() as model:
        assert model.header.name == "fake"
    assert len(loads) == 2
    shared.close()
    time.sleep(0.5)
    assert shared.is_loaded


def test_an_unloaded_model_gives_its_memory_back(tmp_path):
    psutil = pytest.importorskip("psutil")
    with process(tmp_path, "--unload-seconds", "2", model="whisper-tiny.en") as (server, child):
        about = psutil.Process(child.pid)
        assert send(server, model="whisper-1").status_code == 200
        loaded = about.memory_info().rss
        until(lambda: about.memory_info().rss < loaded - 15e6)
        answer = httpx.get(f"{server.url}/metrics", headers=HEADERS).text
        assert "tynda_model_loaded 0.0" in answer


@pytest.mark.parametrize("count", [150, pytest.param(10_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow(tmp_path, tiny_file, count):
    psutil = pytest.importorskip("psutil")
    write_wav(tmp_path / "a.wav", noise(0.5, seed=1))
    data = (tmp_path / "a.wav").read_bytes()
    with process(tmp_path, model=str(tiny_file)) as (server, child), httpx.Client() as client:

        def repeat(count):
            for _ in range(count):
                answer = client.post(
                    f"{server.url}/v1/audio/transcriptions",
                    headers=HEADERS,
                    files={"file": data},
                    data={"model": "whisper-1"},
                    timeout=60,
                )
                assert answer.status_code == 200
            return psutil.Process(child.pid).memory_info().rss

        first = repeat(50)
        assert repeat(count) - first < 5e6


# Process


class Address:
    def __init__(self, url):
        self.url = url


class process:  # noqa: N801
    """The command in a process of its own; at the end, SIGTERM has to end it with exit code 0."""

    def __init__(self, folder, *args, model="digits-en", environment=None):
        self.command = [
            *(sys.executable, "-m", "tynda", "serve", "--port", "0", "--model", model),
            *("--threads", "1", "--keys-file", str(folder / "keys.json")),
            *("--data", str(folder / "data")),
            *("--master-key-file", str(folder / "master.key"), *args),
        ]
        key = HEADERS["Authorization"].split()[1]
        given = {"TYNDA_SERVE_KEYS": key} if environment is None else environment
        self.environment = {**os.environ, **given}
        self.lines = []

    def __enter__(self):
        self.child = subprocess.Popen(
            self.command, stderr=subprocess.PIPE, text=True, env=self.environment
        )
        self.thread = threading.Thread(target=lambda: self.lines.extend(self.child.stderr))
        self.thread.start()
        until(lambda: self.event("started") or self.child.poll() is not None, 60)
        return Address(self.event("started")["url"]), self.child

    def event(self, name):
        lines = [json.loads(line) for line in list(self.lines) if line.startswith("{")]
        return next((line for line in lines if line["event"] == name), None)

    def __exit__(self, *_):
        self.child.send_signal(signal.SIGTERM)
        assert self.child.wait(60) == 0
        self.thread.join()


def test_the_command_prints_a_key_once_and_ends_by_a_signal(tmp_path):
    psutil = pytest.importorskip("psutil")
    running = process(tmp_path, environment={})
    with running as (server, child):
        (line,) = [line for line in running.lines if line.startswith("API key")]
        key = line.split()[-1]
        headers = {"Authorization": f"Bearer {key}"}
        spoken = send(server, headers=headers).json()["text"]
        assert spoken == "six eight zero two"
        assert httpx.get(f"{server.url}/openapi.json").json()["info"]["title"] == "tynda"
        assert httpx.get(f"{server.url}/docs").status_code == 404
        about = psutil.Process(child.pid)
        before = sum(about.cpu_times()[:2])
        time.sleep(5)
        assert sum(about.cpu_times()[:2]) - before < 0.15  # 3 % is far less than a busy loop
    log = [
        json.loads(line) for line in running.lines if line != f"{line.strip()}\n" or line[0] == "{"
    ]
    request = next(line for line in log if line["event"] == "request")
    assert {"time", "method", "path", "status", "ms", "key"} <= request.keys()
    assert (request["method"], request["status"], request["key"]) == (
        "POST",
        200,
        key.split("_")[1],
    )
    text = "".join(running.lines)
    assert text.count(key) == 1
    assert "six" not in text
    assert "Traceback" not in text


def test_nothing_outside_is_called(tmp_path):
    psutil = pytest.importorskip("psutil")
    with process(tmp_path, "--wyoming-port", "0") as (server, child):
        assert send(server).status_code == 200
        about = psutil.Process(child.pid).net_connections()
    assert about
    for each in about:
        assert each.laddr.ip == "127.0.0.1"
        assert not each.raddr or each.raddr.ip == "127.0.0.1"


def certificate(folder):
    """Write a certificate for 127.0.0.1, signed by itself, and its key."""
    pytest.importorskip("cryptography")
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(alternative, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "a.pem").write_bytes(signed.public_bytes(pem))
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "a.key").write_bytes(private)
    return str(folder / "a.pem"), str(folder / "a.key")


def test_tls_and_cors_are_served_where_they_are_set(tmp_path):
    certified, key = certificate(tmp_path)
    trusted = ssl.create_default_context(cafile=certified)
    asked = {**HEADERS, "Origin": "https://a.example"}
    given = {"tls_certificate": certified, "tls_key": key, "cors": "https://a.example"}
    with serving(tmp_path, **given) as server:
        answer = httpx.get(f"{server.url}/v1/models", headers=asked, verify=trusted)
        assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example"
        other = {**HEADERS, "Origin": "https://b.example"}
        answer = httpx.get(f"{server.url}/v1/models", headers=other, verify=trusted)
        assert "Access-Control-Allow-Origin" not in answer.headers
    with serving(tmp_path) as server:
        answer = httpx.get(f"{server.url}/v1/models", headers=asked)
        assert answer.status_code == 200
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_a_running_request_is_finished_after_sigterm(tmp_path):
    is_ending = threading.Event()

    def body():
        """The rest of the recording comes after the signal."""
        data = DIGITS.read_bytes()
        yield b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\ndigits-en\r\n'
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        yield data[:5000]
        is_ending.wait(60)
        yield data[5000:] + b"\r\n--b--\r\n"

    def post(url):
        headers = {**HEADERS, "Content-Type": "multipart/form-data; boundary=b"}
        return httpx.post(url, headers=headers, content=body(), timeout=60)

    with process(tmp_path) as (server, child), ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post, f"{server.url}/v1/audio/transcriptions")
        url = f"{server.url}/metrics"
        until(lambda: "requests_held 1.0" in httpx.get(url, headers=HEADERS).text)
        child.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        is_ending.set()
        assert answer.result(60).json()["text"] == "six eight zero two"


def test_a_server_that_cannot_start_says_why_in_one_line_and_leaves_nothing(tmp_path):
    (tmp_path / "a.pem").write_text("nothing")
    both = ["--tls-certificate", "a.pem", "--tls-key", "a.pem"]
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        for args, environment, message in (
            (["--port", port], {}, f"cannot listen on 127.0.0.1 port {port} (Address already in"),
            (["--wyoming-port", port], {}, f"cannot listen on 127.0.0.1 port {port}"),
            (["--host", "x" * 70], {}, "cannot listen on xxx"),
            (["--model", "nothing"], {}, "no model 'nothing'"),
            (["--data", "/dev/null"], {}, "cannot create the folder /dev/null (a part of the path"),
            (["--recordings", "/dev/null"], {}, "cannot create the folder /dev/null"),
            (["--recordings", "nothing://x"], {}, "cannot open the nothing:// of the setting"),
            (["--database", "sqlite:////dev/null/x"], {}, "cannot open the store's database"),
            (["--master-key-file", ""], {"TYNDA_SERVE_MASTER_KEY": "x"}, "has no valid master key"),
            (both, {}, "the TLS certificate or its key is not valid"),
        ):
            done = subprocess.run(
                [*process(tmp_path, *args).command],
                capture_output=True,
                text=True,
                cwd=tmp_path,
                env={**os.environ, **environment},
                timeout=60,
            )
            assert done.returncode == 1
            assert done.stderr.count("\n") == 1, done.stderr
            assert done.stderr.startswith("error: ")
            assert message in done.stderr
            assert [path.name for path in tmp_path.iterdir()] == ["a.pem"], args


def test_an_error_after_the_model_is_loaded_is_one_line(tmp_path):
    code = (
        "import sys; from tynda.serve import run, service\n"
        "from tynda.cli import main\n"
        "from tynda.errors import TyndaError\n"
        "def fail(*_):\n    raise TyndaError('a late error')\n"
        "run.create_server = fail\n"
        "main(sys.argv[1:])\n"
    )
    command = process(tmp_path).command[3:]
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (1, "error: a late error\n")


def test_everything_that_is_reported_is_a_line_of_the_log():
    code = (
        "import gc, logging, threading, warnings\n"
        "from tynda.serve.logs import configure\n"
        "configure()\n"
        "logging.getLogger('some.library').warning('read %r', 'a secret')\n"
        "try:\n    1 / 0\n"
        "except ZeroDivisionError:\n"
        "    logging.getLogger('uvicorn.error').exception('failed')\n"
        "warnings.warn('for users')\n"
        "warnings.warn('for developers', DeprecationWarning)\n"
        "open(__import__('sys').executable)\n"  # never closed
        "def fail():\n    raise ValueError('a secret')\n"
        "thread = threading.Thread(target=fail)\n"
        "thread.start()\n"
        "thread.join()\n"
        "class Broken:\n    def __del__(self):\n        raise KeyError('a secret')\n"
        "Broken()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["event"], line.get("message") or line.get("error")) for line in lines] == [
        ("server", "read %r"),
        ("error", "ZeroDivisionError"),
        ("warning", "for users"),
        ("error", "ValueError"),
        ("error", "KeyError"),
    ]
    assert "secret" not in done.stderr
