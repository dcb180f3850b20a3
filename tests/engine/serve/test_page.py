"""The chat page in a real browser, where playwright and a Chromium are installed."""

from __future__ import annotations

import shutil

import pytest

from tests.engine.serve.test_http import Server, folder  # noqa: F401  (a fixture)

pytestmark = pytest.mark.slow
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)


def test_a_conversation(folder):  # noqa: F811
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium on the path")
    server = Server(f"model={folder}")
    try:
        with api.sync_playwright() as play:
            browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page()
            problems = []
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
            asked = []
            page.on("request", lambda request: asked.append(request.url))
            page.goto(f"http://127.0.0.1:{server.port}/")
            page.wait_for_function("document.getElementById('model').textContent === 'tiny'")
            page.click("#show")
            page.fill("#max_tokens", "9")
            page.fill("#input", "<b>hi</b>")
            page.keyboard.press("Enter")
            page.wait_for_selector(".turn.assistant:not(.writing)")
            assert page.inner_text(".turn.user .said") == "<b>hi</b>"
            assert page.query_selector(".turn b") is None
            assert "tokens" in page.inner_text("#status")
            page.fill("#max_tokens", "1000")  # more than the model takes: said in the page
            page.fill("#input", "x")
            page.click("#send")
            page.wait_for_selector(".note.bad")
            assert "the model takes 64 tokens" in page.inner_text(".note.bad")
            page.click("#new")
            assert page.query_selector(".turn") is None
            browser.close()
        assert all(url.startswith((f"http://127.0.0.1:{server.port}/", "data:")) for url in asked)
        assert [one for one in problems if "400" not in one] == []
    finally:
        server.stop()
