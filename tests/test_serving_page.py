"""The page in headless Chromium: answers as one types, coloured words, spans, models, keys, and no foreign script."""

import os
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import served_models
from serving_process import serving

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install 'bilstm[test]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt install chromium")

KEY = "a-key-of-the-tests-0123456789"
ATTACKS = [
    "<script>window.hit=1</script>",
    "<img src=x onerror=window.hit=1>",
    '"><svg onload=window.hit=1>',
    "javascript:window.hit=1",
    "<iframe srcdoc='<script>parent.hit=1</script>'></iframe>",
    "{{constructor.constructor('window.hit=1')()}}",
    "<a href='javascript:window.hit=1'>good</a>",
    "\u2028window.hit=1\u2029",
    "<style>*{background:url(http://127.0.0.1:9/x)}</style>",
    "good <b onmouseover=window.hit=1>bad</b> \N{GRINNING FACE}",
    "</textarea><script>window.hit=1</script>",
    "<math><mtext><table><mglyph><style><img src=x onerror=window.hit=1>",
]
BAD_LABELS = ["<img src=x onerror=window.hit=1>", "<script>window.hit=1</script>"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    texts, labels = served_models.review_texts(120)
    bad = [BAD_LABELS[label == "positive"] for label in labels]
    evil = served_models.classifier(texts, bad)
    card = f"# {BAD_LABELS[0]}\n\n- `{BAD_LABELS[1]}`\n\n| {BAD_LABELS[0]} |\n|---|\n| [x](javascript:window.hit=1) |\n"
    report = "<!DOCTYPE html><body><h1>A report</h1><script>parent.hit=1;document.title='run'</script></body>"
    evil.save(place / "evil", files={"README.md": card, "report.html": report})
    folders = [
        served_models.save(served_models.reviews(), place / "reviews"),
        served_models.save(served_models.tagger(), place / "tags"),
        place / "evil",
    ]
    with serving(*folders) as served:
        yield served


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        # without its sandbox it runs as root too; what it opens is this package's own page
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, server):
    """A page at phone or screen width that must not complain, nor ask anyone but the server."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.complaints, page.asked = [], []
    page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(server.address)
    page.wait_for_function("() => document.getElementById('model').options.length === 3")
    yield page
    assert page.complaints == []
    assert [url for url in page.asked if not url.startswith(server.address)] == []
    context.close()


def headline_is(page, text):
    page.wait_for_function("text => document.getElementById('headline').textContent === text", arg=text)


def test_the_answer_follows_the_text(page, server):
    page.locator("#text").press_sequentially("the film was good and lovely", delay=15)
    headline_is(page, "positive")
    expected = server.predict("the film was good and lovely").json["predictions"][0]["probability"]
    page.locator(".bar.top-answer .share", has_text=f"{100 * expected:.1f} %").wait_for()
    page.fill("#text", "the film was bad and dull")
    headline_is(page, "negative")
    assert float(page.locator(".bar.top-answer .fill").evaluate("fill => fill.style.width").strip("%")) > 50
    page.fill("#text", "")
    headline_is(page, "The answer stands here.")
    assert page.locator(".bar").count() == 0


def test_the_words_are_coloured_by_what_they_did(page, server):
    text = "the film was good but dull"
    page.fill("#text", text)
    page.wait_for_selector("#words .word")
    page.wait_for_function("() => !document.getElementById('words').classList.contains('old')")
    assert page.locator("#words").evaluate("place => place.textContent") == text
    answer = server.call("POST", "/v1/explain", {"text": text}).json
    scores = {token["text"]: token["score"] for token in answer["tokens"]}
    label = page.locator("#headline").inner_text()
    assert label == answer["label"]
    strongest = max(scores, key=lambda word: abs(scores[word]))
    side = "for" if scores[strongest] > 0 else "against"
    word = page.locator(f"#words .word.{side}", has_text=strongest)
    assert word.first.evaluate("word => getComputedStyle(word).backgroundColor") not in (
        "rgba(0, 0, 0, 0)",
        "transparent",
    )
    assert page.locator("#strongest .name").first.inner_text() == strongest
    before = page.locator("#strongest .value").first.inner_text()
    other = "negative" if label == "positive" else "positive"
    page.locator(".bar", has_text=other).click()  # what spoke for one label spoke against the other
    page.wait_for_function("before => document.querySelector('#strongest .value').textContent !== before", arg=before)
    assert page.locator("#strongest .value").first.inner_text()[1:] == before[1:]


def test_spans_stand_where_they_are_found(page):
    page.select_option("#model", "tags")
    page.fill("#text", "\N{GRINNING FACE} Anna visits Rome today .")
    page.wait_for_selector("#words .span")
    spans = page.locator("#words .span .inside").all_inner_texts()
    assert "Rome" in spans
    assert page.locator("#words .span", has_text="Rome").locator(".label").inner_text() == "LOC"
    assert page.locator("#headline").inner_text().startswith("visits (")
    page.locator("#words .span", has_text="Rome").click()
    page.locator("#strongest-title", has_text="LOC: Rome").wait_for()
    assert page.locator("#strongest .name").count() > 1
    assert page.url.endswith("#tags")
    page.reload()
    page.wait_for_function("() => document.getElementById('model').value === 'tags'")


def test_a_late_reply_does_not_overwrite_a_newer_one(page):
    held = []

    def hold_first(route):
        if not held:
            held.append(route)
        else:
            route.continue_()

    page.route("**/v1/predict", hold_first)
    page.fill("#text", "the film was bad and dull")
    page.wait_for_timeout(300)
    assert held
    page.fill("#text", "the film was good and lovely")
    headline_is(page, "positive")
    held[0].continue_()
    page.wait_for_timeout(300)
    assert page.locator("#headline").inner_text() == "positive"


def test_nothing_in_a_text_runs(page):
    for attack in ATTACKS:
        for model in ("reviews", "tags"):
            page.select_option("#model", model)
            page.fill("#text", f"good {attack} Anna")
            page.wait_for_function("() => document.getElementById('status').textContent !== ''")
            page.wait_for_selector("#words:not(.old)")
    assert page.evaluate("window.hit") is None
    assert page.locator("main script, main img, main iframe, main svg").count() == 0


def test_the_attacks_do_run_where_they_are_let_in(browser):
    """A control: what the tests look for does happen in a page that takes texts as markup and has no policy."""
    context = browser.new_context()
    page = context.new_page()
    hits = 0
    for attack in ATTACKS:
        page.goto("about:blank")
        page.evaluate("text => document.write('<body>' + text)", attack)
        page.wait_for_timeout(50)
        hits += page.evaluate("window.hit") == 1
    context.close()
    assert hits >= 3


def test_nothing_in_a_label_card_or_report_runs(page):
    page.select_option("#model", "evil")
    page.fill("#text", "the film was good and lovely")
    headline_is(page, BAD_LABELS[1])
    page.wait_for_selector("#words .word")
    page.click("#show-card")
    page.wait_for_selector("#paper-content .prose")
    assert BAD_LABELS[0] in page.locator("#paper-content").inner_text()
    assert page.locator("#paper-content a, #paper-content img, #paper-content script").count() == 0
    page.keyboard.press("Escape")
    page.click("#show-report")
    frame = page.frame_locator("#paper-content iframe")
    assert frame.locator("h1").inner_text() == "A report"
    page.wait_for_timeout(200)
    assert page.evaluate("window.hit") is None
    # that the frame refuses the planted script is what the console must say, and nothing else
    assert page.complaints
    assert all("sandbox" in each or "Content Security Policy" in each for each in page.complaints)
    page.complaints.clear()


def test_the_policy_stops_what_would_be_planted(page):
    """A control: markup that did get into the page would not run."""
    planted = """() => {
      const script = document.createElement('script');
      try { script.textContent = 'window.hit = 1'; document.body.append(script); } catch { return 'refused'; }
      try { document.body.innerHTML = '<img src=x onerror="window.hit=1">'; } catch { return 'refused'; }
      return 'taken';
    }"""
    assert page.evaluate(planted) == "refused"
    assert page.evaluate("window.hit") is None
    assert page.complaints
    page.complaints.clear()


def test_by_keyboard_alone(page):
    page.keyboard.press("Control+A")
    page.locator("body").press("Tab")
    seen = []
    for _ in range(12):
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.getAttribute('href') || ''"))
        page.keyboard.press("Tab")
    assert {"model", "show-card", "show-report", "/docs", "text"} <= set(seen)
    page.focus("#text")
    page.keyboard.type("good")
    headline_is(page, "positive")
    page.focus("#show-card")
    page.keyboard.press("Enter")
    page.wait_for_selector("#paper[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("#paper", state="hidden")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_screen(browser, server, width, scheme, tmp_path):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    page.goto(server.address)
    page.fill("#text", "the film was good and " + "averylongword" * 20 + " but dull")
    page.wait_for_selector("#words .word")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    tops = page.evaluate("""['.writing', '.answer', '.words-part', '.more'].map(
        (name) => Math.round(document.querySelector(name).getBoundingClientRect().top))""")
    if width == 1280:
        assert tops[0] == tops[1]  # side by side where there is room
    else:
        assert tops == sorted(set(tops))  # the answer right under the text
    colours = page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    ink, paper = (sum(map(int, colour[4:-1].split(","))) for colour in colours)
    assert (ink < paper) == (scheme == "light")
    folder = Path(os.environ.get("BILSTM_SCREENSHOTS") or tmp_path)
    page.screenshot(path=folder / f"page-{width}-{scheme}.png", full_page=True)
    assert (folder / f"page-{width}-{scheme}.png").stat().st_size > 10_000
    page.goto(f"{server.address}/docs")
    page.wait_for_selector("article")
    assert page.locator("article h2").first.inner_text().replace("\n", " ").endswith("/v1/predict")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    context.close()


def test_a_key_is_asked_for_and_kept_for_the_tab(browser, tmp_path):
    folder = served_models.save(served_models.reviews(), tmp_path / "reviews")
    with serving(folder, environment={"BILSTM_API_KEY": KEY}) as server:
        context = browser.new_context()
        page = context.new_page()
        page.goto(server.address)
        page.wait_for_selector("#key-dialog[open]")
        page.fill("#key", "a wrong key of 16 letters")
        page.keyboard.press("Enter")
        page.wait_for_selector("#key-problem", state="visible")
        page.fill("#key", KEY)
        page.keyboard.press("Enter")
        page.wait_for_selector("#key-dialog", state="hidden")
        page.fill("#text", "good and lovely")
        headline_is(page, "positive")
        page.click("#show-report")
        assert page.frame_locator("#paper-content iframe").locator("h1").inner_text() == "Report of a test"
        page.reload()
        page.fill("#text", "bad and dull")
        headline_is(page, "negative")
        assert page.evaluate("document.cookie + JSON.stringify(localStorage)") == "{}"
        context.close()


class _ForeignPage(BaseHTTPRequestHandler):
    target = ""

    def do_GET(self):
        options = "{method: 'POST', headers: {'Content-Type': 'application/json'}, body: '{}'}"
        asked = f"fetch('{self.target}/v1/predict', {options}), fetch('{self.target}/v1/models')"
        script = f"Promise.all([{asked}]).then(() => document.title = 'in', () => document.title = 'out')"
        body = f"<!DOCTYPE html><title>?</title><iframe src='{self.target}'></iframe><script>{script}</script>".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing."""


def test_a_page_of_another_origin_gets_nothing(browser, server):
    handler = type("Foreign", (_ForeignPage,), {"target": server.address})
    foreign = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=foreign.serve_forever, daemon=True).start()
    context = browser.new_context()
    try:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{foreign.server_port}/")
        page.wait_for_function("() => document.title !== '?'")
        assert page.title() == "out"
        framed = next(frame for frame in page.frames if frame != page.main_frame)
        assert framed.evaluate("document.getElementById('text')") is None  # the page refuses frames of others
    finally:
        context.close()
        foreign.shutdown()
        foreign.server_close()
