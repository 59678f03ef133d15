"""The web app and the server that serves it: policies, a queue without a network, consent."""

import json
from contextlib import suppress

import httpx
import pytest

pytest.importorskip("fastapi")

import tynda
from browsing import FAKE_MICROPHONE, READY, ROOT, app, kept, record, settle, speaking
from helpers import noise, write_wav
from serving import HEADERS, KEY, serving, until
from tynda.compile import native
from tynda.sound import audio

DIGITS = ROOT / "demo" / "020070039.opus"
JFK = ROOT / "demo" / "jfk.flac"

pytestmark = pytest.mark.skipif(not native.available(), reason="the kernels are not compiled")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with digits-en; the page's own model is sentences-en, unless it is changed."""
    with serving(tmp_path_factory.mktemp("serve")) as running:
        yield running


@pytest.fixture
def digits(tmp_path):
    """A microphone that hears digits."""
    return speaking(write_wav(tmp_path / "digits.wav", audio.load(DIGITS)))


def prefer(page, policy, key=KEY):
    page.get_by_label(policy, exact=True).check()
    page.get_by_label("API key").fill(key)
    page.get_by_label("API key").blur()
    if key == KEY:
        page.get_by_text("The server accepts the key").wait_for()


def requests_of(page):
    """The requests of all tabs from now on, each as its method and path."""
    sent = []
    page.context.on("request", lambda r: sent.append((r.method, r.url.split("/", 3)[3])))
    return sent


def posts(sent, path):
    return len([each for each in sent if each == ("POST", path)])


def text_of_server(tmp_path, wav):
    (tmp_path / "recorded.wav").write_bytes(wav)
    return tynda.load("digits-en", threads=1).transcribe(tmp_path / "recorded.wav").text


def choose(page, name):
    page.get_by_label("Model").select_option(name)
    page.wait_for_timeout(200)
    settle(page)


def job_of(server, page):
    """The job of the newest entry, whose id it has; nothing where the server has none."""
    (entry, *_) = kept(page)["entries"]
    found = httpx.get(f"{server.url}/v1/jobs/{entry['id']}", headers=HEADERS)
    return found.json() if found.status_code == 200 else None


def waiting_until(page, condition):
    until(lambda: page.wait_for_timeout(100) or condition())


# ---- policies


def test_nothing_leaves_the_device_in_the_first_mode(server, tmp_path):
    """Though the server is known, the device is not sure, and the language is another one."""
    heard = write_wav(tmp_path / "noise.wav", noise(30, level=0.3))
    with app(server.url, *speaking(heard)) as page:
        prefer(page, "Prefer the server")
        page.get_by_label("Only this device").check()
        page.get_by_label("Language that you speak").select_option("uk")
        page.get_by_text("The model on this device knows one language only: English").wait_for()
        sent = requests_of(page)
        record(page, 2)
        page.get_by_role("button", name="Edit").click()
        page.get_by_label("Corrected text").fill("тиша")
        page.get_by_role("button", name="Save").click()
        page.get_by_role("listitem").filter(has_text="corrected").wait_for()
        assert page.get_by_text("May models learn from it?").count() == 0
        page.get_by_role("button", name="Recognise again").click()
        page.wait_for_timeout(500)
        page.locator(READY).wait_for(timeout=60_000)
        page.get_by_label("Search").fill("x")
        page.reload()
        page.locator(READY).wait_for(timeout=60_000)
        page.wait_for_timeout(2000)
        assert [path for _, path in sent if path.startswith("v1")] == []
        assert {method for method, _ in sent} <= {"GET"}
        assert {path.split("?")[0] for _, path in sent} <= {
            *("", "capture.js", "icon.svg", "sw.js", "manifest.webmanifest", "web/models.json"),
            *("assets/app.js", "assets/app.css", "assets/src.js", "assets/worker.js"),
            *("assets/engine.wasm", "assets/engine-threads.wasm", "assets/thread.js"),
            *("assets/workbox-window.prod.es5.js", "icon-192.png"),
        }
        assert kept(page)["entries"][0]["place"] == "device"


def test_the_server_is_preferred(server, digits, tmp_path):
    with app(server.url, *digits) as page:
        prefer(page, "Prefer the server")
        sent = requests_of(page)
        text = record(page, 4)
        assert page.inner_text("#place") == "On the server, digits-en"
        assert posts(sent, "v1/audio/transcriptions") == 1
        assert posts(sent, "v1/jobs") == 0  # The server kept nothing.
        found = kept(page)
        assert text == text_of_server(tmp_path, found["wavs"][0])
        assert "eight" in text
        (entry,) = found["entries"]
        assert [s["text"] for s in entry["segments"]] == [text]
        assert (entry["isWanted"], entry["isSent"], entry["place"]) == (False, False, "server")
        # Neither the text nor the key is anywhere in what the page keeps.
        assert found["isSecret"]
        everything = json.dumps(found["stored"]) + page.evaluate("JSON.stringify(localStorage)")
        assert text not in everything
        assert KEY not in everything
        assert found["wavs"][0][:4] == b"RIFF"


def test_the_device_is_preferred_and_asks_where_it_is_not_sure(server, digits, tmp_path):
    with app(server.url, *digits) as page:
        choose(page, "digits-en")
        prefer(page, "Prefer this device")
        sent = requests_of(page)
        text = record(page, 4)
        assert "eight" in text
        assert "On this device" in page.inner_text("#place")
        assert [path for _, path in sent if path.startswith("v1")] == []
    spoken = write_wav(tmp_path / "jfk.wav", audio.load(JFK))
    with app(server.url, *speaking(spoken)) as page:
        choose(page, "digits-en")
        prefer(page, "Prefer this device")
        sent = requests_of(page)
        record(page, 4)  # It has words that the model does not know.
        assert page.inner_text("#place") == "On the server, digits-en"
        assert posts(sent, "v1/audio/transcriptions") == 1


def test_a_language_that_the_device_does_not_know_is_for_the_server(server):
    with app(server.url, *FAKE_MICROPHONE) as page:
        prefer(page, "Prefer this device")
        page.get_by_label("Language that you speak").select_option("uk")
        sent = requests_of(page)
        assert record(page, 1) == "(not recognised)"
        assert posts(sent, "v1/audio/transcriptions") == 1
        alert = page.get_by_role("alert")
        alert.filter(has_text="the server refused: ").wait_for()
        assert alert.inner_text().count("\n") == 0
        # It is not asked again and again.
        page.reload()
        page.locator(READY).wait_for(timeout=60_000)
        page.get_by_role("listitem").filter(has_text="the server refused: ").wait_for()
        page.wait_for_timeout(1500)
        assert posts(sent, "v1/jobs") == 0
        # With the right language, it is recognised again.
        page.get_by_label("Language that you speak").select_option("en")
        page.get_by_role("button", name="Recognise again").click()
        page.locator("#place").filter(has_text="On this device").or_(
            page.locator("#place").filter(has_text="On the server")
        ).wait_for(timeout=60_000)
        assert page.get_by_role("listitem").filter(has_text="refused").count() == 0


def test_a_wrong_key_is_one_line_and_a_right_one_is_enough(server, digits):
    with app(server.url, *digits) as page:
        page.get_by_label("Prefer the server").check()
        record(page, 4)
        assert "On this device" in page.inner_text("#place")  # Until the server does it.
        page.get_by_role("alert").filter(has_text="the server needs an API key").wait_for()
        prefer(page, "Prefer the server", "wrong")
        page.get_by_text("the server does not accept the API key").wait_for()
        prefer(page, "Prefer the server")
        page.locator("#place").filter(has_text="On the server, digits-en").wait_for(timeout=60_000)


# ---- without a network


def test_a_recording_waits_for_the_network_and_is_delivered_once(server, digits, tmp_path):
    with app(server.url, *digits) as page:
        prefer(page, "Prefer the server")
        page.context.set_offline(True)
        sent, accepted = requests_of(page), count_jobs(server)
        record(page, 4)
        assert "On this device" in page.inner_text("#place")
        page.get_by_text("Waits for the server", exact=True).wait_for()
        # A second tab, and a reload, without a network.
        other = page.context.new_page()
        other.goto(server.url)
        other.get_by_text("Waits for the server", exact=True).wait_for()
        page.reload()
        page.get_by_text("Waits for the server", exact=True).wait_for()
        assert accepted == []
        sent.clear()
        page.context.set_offline(False)
        for tab in (page, other):
            tab.locator(".when", has_text="On the server, digits-en").wait_for(timeout=60_000)
            assert tab.get_by_text("Waits for the server", exact=True).count() == 0
        # The server keeps nothing that is not needed.
        waiting_until(page, lambda: not kept(page)["entries"][0]["isSent"])
        assert job_of(server, page) is None
        assert posts(sent, "v1/jobs") == len(accepted) == 1
        found = kept(page)
        (entry,) = found["entries"]
        assert entry["text"] == text_of_server(tmp_path, found["wavs"][0])
        assert (entry["isWanted"], entry["isSent"]) == (False, False)


def test_what_waits_is_not_sent_when_the_policy_changes(server, digits):
    with app(server.url, *digits) as page:
        prefer(page, "Prefer the server")
        page.context.set_offline(True)
        record(page, 2)
        waits = page.get_by_text("Waits for the server", exact=True)
        waits.wait_for()
        page.get_by_label("Only this device").check()
        waits.wait_for(state="detached")
        sent = requests_of(page)
        page.context.set_offline(False)
        page.wait_for_timeout(2000)
        assert sent == []
        assert kept(page)["entries"][0]["place"] == "device"
        page.get_by_label("Prefer the server").check()
        page.locator(".when", has_text="On the server, digits-en").wait_for(timeout=60_000)


def count_jobs(server):
    """The ids of the jobs that the store makes from now on."""
    made, accept = [], server.service.store.accept

    def counted(*arguments):
        row = accept(*arguments)
        if row.id not in made:
            made.append(row.id)
        return row

    server.service.store.accept = counted
    return made


def test_a_reload_in_the_middle_of_a_delivery(server, digits):
    """The server has accepted the recording, and its answer does not arrive; then the result."""
    with app(server.url, *digits) as page:
        prefer(page, "Prefer the server")
        page.context.set_offline(True)
        record(page, 4)
        page.get_by_text("Waits for the server", exact=True).wait_for()
        accepted, lost, hidden = count_jobs(server), [], ["/v1/jobs"]

        def lose(route):
            """The server answers, and the page does not hear it."""
            if not any(route.request.url.split("?")[0].endswith(path) for path in hidden):
                return route.continue_()
            with suppress(Exception):  # The page may be reloaded meanwhile.
                route.fetch()
                lost.append(route.request.url)
                route.abort()
            return None

        page.route("**/v1/jobs**", lose)
        page.context.set_offline(False)
        waiting_until(page, lambda: lost)
        hidden[:] = ["/result"]
        page.reload()
        waiting_until(page, lambda: lost[-1].split("?")[0].endswith("/result"))
        hidden.clear()
        page.reload()
        page.locator(".when", has_text="On the server, digits-en").wait_for(timeout=60_000)
        assert len(accepted) == 1
        waiting_until(page, lambda: job_of(server, page) is None)


def test_storage_that_is_full_is_one_line(server, digits):
    with app(server.url, *digits) as page:
        page.locator(READY).wait_for()
        session = page.context.new_cdp_session(page)
        session.send("Storage.overrideQuotaForOrigin", {"origin": server.url, "quotaSize": 1})
        assert record(page, 4)
        alert = page.get_by_role("alert")
        alert.filter(has_text="the recording could not be kept: this device has no").wait_for()
        assert alert.inner_text().count("\n") == 0
        assert "On this device" in page.inner_text("#place")
        session.send("Storage.overrideQuotaForOrigin", {"origin": server.url})
        record(page, 1)
        page.get_by_role("button", name="Delete").wait_for()


# ---- corrections and consent


def test_models_learn_only_from_what_the_user_gives_each_time(server, digits):
    with app(server.url, *digits) as page:
        prefer(page, "Prefer this device")
        page.get_by_label("Model").select_option("digits-en")
        page.wait_for_timeout(200)
        page.locator(READY).wait_for(timeout=60_000)
        record(page, 4)
        sent = requests_of(page)

        def correct(text, answer):
            page.get_by_role("button", name="Edit").click()
            page.get_by_label("Corrected text").fill(text)
            page.get_by_role("button", name="Save").click()
            page.get_by_role("button", name=answer).click()

        correct("six eight zero", "Not this time")
        page.wait_for_timeout(1000)
        assert sent == []
        assert page.inner_text("#text") == "six eight zero"
        correct("six eight\nzero two", "Yes, send both")
        page.get_by_text("Given for learning").wait_for(timeout=60_000)
        waiting_until(page, lambda: job_of(server, page)["status"] == "done")
        shown = job_of(server, page)
        assert (shown["correction"], shown["consent"]) == ("six eight zero two", True)
        wav = httpx.get(f"{server.url}/v1/jobs/{shown['id']}/recording", headers=HEADERS).content
        assert wav == kept(page)["wavs"][0]

        # It is asked each time, and can be taken back.
        correct("six eight zero two", "Not this time")
        page.get_by_role("button", name="Take back").click()
        waiting_until(page, lambda: job_of(server, page) is None)
        page.get_by_text("Given for learning").wait_for(state="detached")

        # What is deleted here is deleted there, even later.
        correct("six eight zero two", "Yes, send both")
        page.get_by_text("Given for learning").wait_for(timeout=60_000)
        page.context.set_offline(True)
        page.get_by_role("button", name="Delete").click()
        page.get_by_text("No recordings yet.").wait_for()
        (rest,) = kept(page)["entries"]
        assert (rest["text"], rest["isDeleted"]) == ("", True)
        assert kept(page)["wavs"] == []
        assert job_of(server, page)
        page.context.set_offline(False)
        waiting_until(page, lambda: kept(page)["entries"] == [])
        found = httpx.get(f"{server.url}/v1/jobs/{rest['id']}", headers=HEADERS)
        assert found.status_code == 404


def test_the_history_is_searched(server, digits):
    with app(server.url, *digits) as page:
        choose(page, "digits-en")
        record(page, 4)
        record(page, 0.5)
        items = page.get_by_role("listitem")
        assert items.count() == 2
        page.get_by_label("Search").fill("EIGHT ")
        items.nth(1).wait_for(state="detached")
        assert "eight" in items.inner_text()
        page.get_by_label("Search").fill("nine hundred")
        page.get_by_text("Nothing found.").wait_for()
