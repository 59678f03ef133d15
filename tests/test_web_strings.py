"""The web app speaks English, Ukrainian, Russian and Kazakh, and misses no string in any."""

import json
import re

import pytest

pytest.importorskip("fastapi")

from browsing import FAKE_MICROPHONE, READY, WEB, app
from serving import KEY, serving
from tynda.compile import native

FOLDER = WEB / "app" / "src" / "strings"
STRINGS = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.json"))}
OTHERS = ["kk", "ru", "uk"]
LATIN = {"tynda", "API", "WebAssembly", "SIMD", "https", "localhost", "en", "English", "sentences"}
"""Words in Latin letters that other languages have as well."""
VISIBLE = """() => {
  const texts = [document.querySelector("#app").innerText];
  for (const name of ["aria-label", "placeholder"])
    for (const element of document.querySelectorAll(`[${name}]`))
      texts.push(element.getAttribute(name));
  return texts.join("\\n");
}"""


def holes(text):
    return sorted(re.findall(r"\{\w+\}", text))


@pytest.mark.parametrize("language", OTHERS)
def test_no_string_is_missing(language):
    english, own = STRINGS["en"], STRINGS[language]
    assert own.keys() == english.keys()
    for key, text in own.items():
        assert text.strip() == text != ""
        assert holes(text) == holes(english[key]), key
        words = {*re.findall("[A-Za-z]{2,}", re.sub(r"\{\w+\}", "", text))}
        assert words <= LATIN, key
        if key not in ("about", "modelLabel"):
            assert text != english[key], key


def test_every_string_is_used():
    code = "".join(path.read_text("utf-8") for path in (FOLDER.parent).glob("*.ts*"))
    assert [key for key in STRINGS["en"] if f'"{key}"' not in code] == []


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if not native.available():
        pytest.skip("the kernels are not compiled")
    with serving(tmp_path_factory.mktemp("serve")) as running:
        yield running


@pytest.mark.parametrize("language", OTHERS)
def test_the_page_speaks_the_language_of_the_browser(server, language):
    strings = STRINGS[language]
    with app(server.url, *FAKE_MICROPHONE, locale=f"{language}-{language.upper()}") as page:
        assert page.evaluate("document.documentElement.lang") == language
        page.locator(READY).click()
        page.get_by_role("button", name=strings["stop"]).click()
        page.get_by_role("button", name=strings["record"], exact=True).wait_for(timeout=60_000)
        page.get_by_label(strings["policyServerFirst"]).check()
        page.get_by_label(strings["apiKey"]).fill("wrong")
        page.get_by_label(strings["apiKey"]).blur()
        page.get_by_text(strings["errorKey"]).wait_for()
        page.get_by_label(strings["apiKey"]).fill(KEY)
        page.get_by_label(strings["apiKey"]).blur()
        page.get_by_text(strings["keyAccepted"]).wait_for()
        page.get_by_role("button", name=strings["edit"]).click()
        page.get_by_label(strings["correctedText"]).fill("1 2 3")
        page.get_by_role("button", name=strings["save"]).click()
        page.get_by_text(strings["mayLearn"]).wait_for()
        # The language of the speech is the page's at first, which the model does not know.
        page.get_by_text(strings["modelKnowsOnly"].split(":")[0]).wait_for()
        text = page.evaluate(VISIBLE)
        assert {*re.findall("[A-Za-z]{2,}", text)} <= LATIN
        width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1]


def test_the_language_can_be_changed_and_is_kept(server):
    with app(server.url, locale="de-DE") as page:
        assert page.evaluate("document.documentElement.lang") == "en"
        page.get_by_label("Language of this page").select_option("kk")
        page.get_by_role("heading", name=STRINGS["kk"]["settings"]).wait_for()
        assert page.evaluate("document.documentElement.lang") == "kk"
        page.reload()
        page.get_by_role("heading", name=STRINGS["kk"]["settings"]).wait_for()
