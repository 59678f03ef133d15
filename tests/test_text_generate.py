import json
import random
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from tynda.cli import main
from tynda.text import endpoint
from tynda.text.endpoint import listed_lines
from tynda.text.generate import Pool, rouge_l

SEEDS = ["turn on the light in the kitchen", "what is the weather like today", "play some jazz"]
VERBS = ["open", "close", "find", "call", "send", "paint", "carry", "buy", "wash", "count"]
THINGS = ["door", "letter", "garden", "river", "piano", "mountain", "ticket", "candle", "engine"]


class StandIn(ThreadingHTTPServer):
    """An endpoint like OpenAI's, which answers with sentences of random words."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests, self.fail_from, self.failure = [], None, 500
        self.rng = random.Random(0)
        self.answer = self.sentences

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def sentences(self):
        lines = [
            f"{i}. {verb} the {self.rng.choice(THINGS)} and {self.rng.choice(VERBS)}"
            for i, verb in enumerate(self.rng.choices(VERBS, k=10), 1)
        ]
        return "\n".join(
            [
                "Here are some:",
                *lines,
                '11. "Введите номер оператора и нажмите решетку"',
                "12. " + "the light " * 4,
            ]
        )


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server = self.server
        server.requests.append((self.path, self.headers.get("authorization"), body))
        failing = server.fail_from is not None and len(server.requests) > server.fail_from
        status = server.failure if failing else 200
        message = {"role": "assistant", "content": server.answer()}
        answer = {"error": {"message": "no model"}} if failing else {
            "id": "1", "object": "chat.completion", "created": 0, "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        }  # fmt: skip
        data = json.dumps(answer).encode()
        if status == "html":
            status, data = 200, b"<html>a page</html>"
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.send_header("content-type", "application/json" if data[:1] == b"{" else "text/html")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(endpoint, "_RETRIES", 0)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with StandIn() as stand_in:
        thread = threading.Thread(target=stand_in.serve_forever, daemon=True)
        thread.start()
        yield stand_in
        stand_in.shutdown()


@pytest.fixture
def run(tmp_path):
    seeds = tmp_path / "seeds.txt"
    seeds.write_text("\n".join(SEEDS) + "\n")

    def run(*args):
        command = ["text", "generate", str(seeds), "-o", str(tmp_path / "out.jsonl"), *args]
        return CliRunner().invoke(main, command)

    return run


def written(tmp_path):
    lines = (tmp_path / "out.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines], json.loads(
        (tmp_path / "out.jsonl.counts.json").read_text("utf-8")
    )


def test_sentences_of_an_endpoint(server, run, tmp_path):
    result = run("--endpoint", server.url, "--model", "m", "--count", "25")
    assert result.exit_code == 0, result.output
    kept, counts = written(tmp_path)
    texts = [entry["text"] for entry in kept]
    assert len(texts) == 25 == counts["kept"]
    assert counts["seeds"] == 3
    assert counts["requests"] == len(server.requests)
    assert counts["generated"] == counts["kept"] + sum(counts["dropped"].values())
    assert counts["dropped"].keys() >= {"similar", "other language: ru", "repetition"}
    for i, text in enumerate(texts):
        for other in (*SEEDS, *texts[:i]):
            assert rouge_l(text.split(), other.split()) < 0.7
    path, key, body = server.requests[-1]
    assert (path, key, body["model"]) == ("/v1/chat/completions", "Bearer none", "m")
    examples = listed_lines(body["messages"][0]["content"])
    assert set(examples) <= {*SEEDS, *texts}
    assert len(set(examples) & set(texts)) == 2


@pytest.mark.parametrize(
    ("failure", "reason"), [(500, "500"), (401, "401"), ("html", "OpenAI's API")]
)
def test_an_endpoint_that_fails_in_the_middle(server, run, tmp_path, failure, reason):
    server.fail_from, server.failure = 2, failure
    arguments = ("--endpoint", server.url, "--model", "m", "--count", "25")
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert reason in result.stderr
    before, counts = written(tmp_path)
    assert before
    assert counts["requests"] == 3
    assert f"{len(before)} sentences are in" in result.stderr
    server.fail_from = None
    assert run(*arguments).exit_code == 0
    after, counts = written(tmp_path)
    assert after[: len(before)] == before
    assert len(after) == 25
    assert counts["requests"] == len(server.requests)


def test_an_endpoint_that_is_not_there(run):
    result = run("--endpoint", "http://127.0.0.1:9/v1", "--model", "m", "--count", "5")
    assert result.exit_code == 1
    assert "the endpoint http://127.0.0.1:9/v1 failed (Connection error" in result.stderr


def test_the_key_of_an_endpoint(server, run, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert run("--endpoint", server.url, "--model", "m", "--count", "1").exit_code == 0
    assert server.requests[0][1] == "Bearer secret"


def test_an_endpoint_with_nothing_new(server, run, tmp_path):
    server.answer = lambda: "1. Play some jazz!"
    result = run("--endpoint", server.url, "--model", "m", "--count", "5")
    assert result.exit_code == 0
    assert "stopped before 5" in result.stderr
    assert written(tmp_path)[1]["dropped"] == {"a duplicate": 9, "similar": 1}


def test_an_incomplete_line_of_an_earlier_run_is_removed(server, run, tmp_path):
    (tmp_path / "out.jsonl").write_text('{"text": "sell me a boat"}\n{"text": "wri')
    (tmp_path / "out.jsonl.counts.json").write_text("{")
    assert run("--endpoint", server.url, "--model", "m", "--count", "3").exit_code == 0
    kept, counts = written(tmp_path)
    assert kept[0] == {"text": "sell me a boat"}
    assert len(kept) == 3 == counts["kept"]


def test_sentences_of_a_grammar(run, tmp_path):
    (tmp_path / "home.txt").write_text(
        "{room} = kitchen|bathroom|cellar\n(open|close) [all] the (door|windows) in the {room}\n"
    )
    result = run("--grammar", str(tmp_path / "home.txt"), "--count", "100")
    assert result.exit_code == 0, result.output
    kept, counts = written(tmp_path)
    assert 2 <= len(kept) < 24
    assert "stopped before 100" in result.stderr
    assert all(entry["text"].split()[0] in ("open", "close") for entry in kept)
    assert counts["generated"] == counts["kept"] + sum(counts["dropped"].values())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--count", "3"],
        ["--count", "3", "--endpoint", "http://x/v1"],
        ["--count", "3", "--endpoint", "http://x/v1", "--model", "m", "--grammar", "g"],
    ],
)
def test_wrong_usage(run, arguments):
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--endpoint", "nowhere", "--model", "m"], "is not a URL"),
        (["--grammar", "none.txt"], "cannot read the grammar"),
    ],
)
def test_what_cannot_be_read(run, arguments, said):
    result = run("--count", "3", *arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert said in result.stderr


def test_no_seeds(tmp_path):
    (tmp_path / "empty").write_text("\n...\n")
    command = ["text", "generate", str(tmp_path / "empty"), "-o", str(tmp_path / "o")]
    result = CliRunner().invoke(main, [*command, "--count", "3", "--grammar", "g"])
    assert "there are no seeds" in result.stderr


def longest_common(a, b):
    rows = [[0] * (len(b) + 1)]
    for x in a:
        row = [0]
        for j, y in enumerate(b):
            row.append(rows[-1][j] + 1 if x == y else max(rows[-1][j + 1], row[j]))
        rows.append(row)
    return rows[-1][-1]


words = st.lists(st.sampled_from("abcd"), max_size=8)


@given(words, words)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(a, b):
    common = longest_common(a, b)
    if common:
        precision, recall = common / len(a), common / len(b)
        assert rouge_l(a, b) == pytest.approx(2 * precision * recall / (precision + recall))
    else:
        assert rouge_l(a, b) == 0


@given(st.lists(words, max_size=5), words)
def test_the_pool_has_the_maximum(texts, text):
    pool = Pool()
    for each in texts:
        pool.add(each)
    expected = max((rouge_l(each, text) for each in texts), default=0)
    assert pool.similarity(text, 2) == pytest.approx(expected)


def test_entries_of_an_answer():
    answer = 'Sure!\n1. "Play jazz."\n2) **Stop**\n- one more\n\n• “two”\nBye 3.'
    assert listed_lines(answer) == ["Play jazz.", "Stop", "one more", "two"]


@pytest.mark.parametrize("missing", ["rapidfuzz.distance", "openai"])
def test_a_missing_package_is_named(server, run, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    result = run("--endpoint", server.url, "--model", "m", "--count", "5")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert f"needs {missing.split('.')[0]}: " in result.stderr
    assert "text" in result.stderr.split("pip install")[-1]
