import functools
import http.server
import re
import shutil
import subprocess
import sys
import threading
import time

import pytest

from gramian.atlas.find.cards import Shelf
from gramian.atlas.pages import site


def test_mathematics_is_rendered_when_the_page_is_built():
    page = r'before <span class="arithmatex">\(\sum_i \sigma_i &lt; 1\)</span> after <code>\(x\)</code>'
    built = site.put_mathematics(page)
    assert built.startswith("before <math")
    assert "<mo>&#x02211;</mo>" in built or "∑" in built or "&#x2211;" in built
    assert r"<code>\(x\)</code>" in built


def test_a_page_says_what_the_card_says(trial_shelf):
    page = site.paper_page(trial_shelf.paper("holds"))
    assert page.startswith("# A paper whose claim holds")
    assert "It ends as it should." in page
    assert "::: gramian.lab.run.Run" in page
    assert "`scale: float = 1.0` a factor." in page
    assert site._escape(r"a_b <i> \(x_1\)") == r"a\_b \<i\> \(x_1\)"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The whole site, built in a process of its own (the import hook of the tests would show in the API)."""
    pytest.importorskip("mkdocs", reason="pip install 'gramian[site]'")
    out = tmp_path_factory.mktemp("site") / "site"
    done = subprocess.run(
        [sys.executable, "-c", "from gramian.cli import main; main()", "site", "--out", str(out)],
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.mark.slow
def test_every_paper_has_a_page_that_fetches_nothing(built):
    for slug, paper in Shelf().papers.items():
        page = (built / "papers" / f"{slug}.html").read_text(encoding="utf-8")
        assert "Measured: quick profile" in page, slug
        assert "data-figure" not in page
        assert "<svg" in page
        assert "arithmatex" not in page, "mathematics is rendered"
        for dotted in paper.card.api:
            assert f'id="{dotted}"' in page, f"{slug}: no documentation of {dotted}"
    for page in built.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe)[^>]+src="([^"]+)"', text)
        loaded += re.findall(r'<link[^>]+rel="(?:stylesheet|preconnect)"[^>]+href="([^"]+)"', text)
        assert not [u for u in loaded if u.startswith(("http", "//"))], page


@pytest.mark.slow
def test_a_browser_searches_and_opens_a_paper(built):
    webdriver = pytest.importorskip("selenium.webdriver", reason="pip install 'gramian[dev]'")
    browser_at, driver_at = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser_at or not driver_at:
        pytest.skip("NO BROWSER: install Debian's chromium and chromium-driver to test the site as a reader sees it")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(built))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = webdriver.ChromeOptions()
    options.binary_location = browser_at
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
                 "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
                 "--window-size=1400,1000"):  # fmt: skip
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver_at))
    try:
        browser.get(f"http://127.0.0.1:{server.server_port}/index.html")
        assert "every claim is measured" in browser.find_element("tag name", "body").text

        def shown(selector, wanted):
            end = time.monotonic() + 30
            while time.monotonic() < end:
                found = browser.find_elements("css selector", selector)
                found = [e for e in found if wanted in (e.get_attribute("textContent") or "")]
                if found:
                    return found[0]
                time.sleep(0.2)
            raise AssertionError(f"{wanted!r} never appeared in {selector}")

        browser.find_element("css selector", "input[name=query]").click()
        browser.find_element("css selector", "input[name=query]").send_keys("equiangular basis vectors")
        hit = shown(".md-search-result__item", "Equiangular Basis Vectors")
        browser.get(hit.find_element("css selector", "a").get_attribute("href").split("?")[0])
        text = browser.find_element("css selector", "article").text
        for wanted in ("Equiangular Basis Vectors", "The paper’s claim", "Measured: full profile", "Use it", "API"):
            assert wanted in text
        assert browser.find_elements("css selector", "article figure svg")
    finally:
        browser.quit()
        server.shutdown()
