import contextlib
import html
import http.client
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

import minigpt
from minigpt.errors import UserError

from .test_portal import zipped


def ask(url: str, path: str, key: str | None = None):
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=30)
    connection.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read().decode()
    connection.close()
    return found


def test_a_notebook_gets_the_page_in_a_frame_with_a_key_of_its_own(trained, capfd):
    page = minigpt.portal(str(trained))
    key = re.search(r"#key=([\w-]{30,})&write$", page.url)[1]
    assert urlsplit(page.url).hostname == "127.0.0.1"
    assert html.escape(page.url) in page._repr_html_()
    assert page._repr_html_().startswith("<iframe ")
    status, headers, _ = ask(page.url, "/")
    assert status == 200
    assert "frame-ancestors * " in headers["content-security-policy"]
    assert ask(page.url, "/api/models")[0] == 401
    status, _, models = ask(page.url, "/api/models", key)
    assert status == 200
    assert '"id":"run"' in models
    page.close()
    page.close()
    with pytest.raises(ConnectionRefusedError):
        ask(page.url, "/")
    assert capfd.readouterr().out == ""


def test_without_a_model_it_begins_at_the_portal():
    page = minigpt.portal()
    assert page.url.endswith("&portal")
    page.close()


def test_a_model_that_is_not_there_is_refused_and_nothing_is_left_running():
    with pytest.raises(UserError, match="there is no model at"):
        minigpt.portal("no/such/run")


@contextlib.contextmanager
def notebook(output: str):
    """Serve a page that shows an output, as a notebook does."""

    class Shown(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(output.encode())

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Shown) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_the_frame_shows_the_portal_and_takes_a_model(browser, trained, tmp_path):
    (tmp_path / "run.zip").write_bytes(zipped(trained))
    page, tab = minigpt.portal(), browser.new_page()
    with notebook(page._repr_html_()) as url:
        tab.goto(url)
        frame = tab.frame_locator("iframe")
        frame.locator("#file").set_input_files(tmp_path / "run.zip")
        frame.get_by_role("button", name="Write with it").click()
        frame.locator("#prompt").fill("the cat ")
        frame.get_by_role("button", name="Generate", exact=True).click()
        frame.locator("#written .facts:not(:empty)").wait_for()
        assert frame.locator("#written-text .piece").count() > 0
        tab.close()
    page.close()
