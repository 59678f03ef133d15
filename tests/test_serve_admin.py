"""The admin page: who may see it, what it shows, in a real browser where there is one."""

import shutil
from pathlib import Path

import httpx
import pytest

pytest.importorskip("fastapi")

from serving import HEADERS, KEY, serving, until
from test_serve_jobs import DIGITS, SPOKEN, Client
from tynda.serve import keys as api_keys


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("admin")) as running:
        client = Client(running)
        running.job = client.create()
        client.finished(running.job)
        answer = httpx.post(
            f"{running.url}/v1/audio/transcriptions",
            headers=HEADERS,
            files={"file": DIGITS.read_bytes()},
            data={"model": "whisper-1"},
            timeout=60,
        )
        assert answer.status_code == 200
        yield running


def test_the_state_has_numbers_and_no_texts(server):
    answer = httpx.get(f"{server.url}/v1/admin/state", headers=HEADERS)
    state = answer.json()
    assert state["model"] == {"names": ["digits-en", "whisper-1"], "loaded": True}
    assert state["jobs"] == {"done": 1}
    assert state["storage_bytes"] == DIGITS.stat().st_size
    assert state["latency"]["count"] == 1
    assert 0 < state["latency"]["median"] == state["latency"]["p95"] < 60
    assert state["memory_bytes"] > 1e6
    assert [(job["id"], job["status"]) for job in state["latest"]] == [(server.job, "done")]
    assert SPOKEN not in answer.text


def test_the_state_needs_a_key_with_the_scope(server):
    url = f"{server.url}/v1/admin/state"
    assert httpx.get(url).status_code == 401
    file = Path(server.service.settings.keys_file)
    _, key = api_keys.add(file, "phone", ["transcribe", "listen", "metrics"])
    assert httpx.get(url, headers={"Authorization": f"Bearer {key}"}).status_code == 403


def test_the_page_is_let_alone_by_its_policy(server):
    answer = httpx.get(f"{server.url}/admin")
    assert answer.status_code == 200
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in answer.text.replace("<!doctype html>", "")  # nothing of others is loaded


def test_the_page_works_in_a_browser(server):
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no browser is installed: apt-get install chromium")
    problems = []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"{server.url}/admin")
        assert page.title() == "tynda"
        page.fill("#key", "a wrong key")
        page.click("button")
        page.wait_for_function("document.getElementById('error').textContent !== ''")
        assert "no valid API key" in page.text_content("#error")
        assert page.is_hidden("#state")
        page.fill("#key", KEY)
        page.click("button")
        page.wait_for_selector(f"text={server.job}")
        numbers = page.text_content("#numbers")
        for expected in ("digits-en", "(loaded)", "1 done", "0.0 MB", "median", "Memory"):
            assert expected in numbers
        assert page.text_content("#jobs tr td:nth-child(3)") == "done"
        assert page.text_content("#error") == ""
        # The page follows what happens, and a script from elsewhere does not run.
        Client(server).create()
        until(lambda: "2 done" in page.text_content("#numbers"))
        page.evaluate(
            "document.body.append(Object.assign(document.createElement('script'),"
            "{textContent: 'window.foreign = 1'}))"
        )
        assert page.evaluate("window.foreign") is None
        browser.close()
    assert problems == []
