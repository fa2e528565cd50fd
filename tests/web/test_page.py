"""The status page in a real browser, of a real daemon on the bundled clip."""

from __future__ import annotations

import http.client
import json
import shutil
import threading
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgerun.cli.flags import find_model, options_of
from edgerun.config import build
from tests import schemas
from tests.web.visiting import METRICS, TOKEN, Daemon, Visit, until

CHROMIUM = shutil.which("chromium")
FATES = ("published", "skipped", "superseded", "expired", "gated", "limited", "failed", "in_flight")

browsers = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt install chromium")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    made = Daemon(tmp_path_factory.mktemp("daemon"))
    yield made
    made.stop()


# -- what programs see


def test_the_status_says_what_the_schema_says_and_adds_up(daemon: Daemon) -> None:
    until(lambda: daemon.status()["accounts"]["street"].get("fps"))
    status = daemon.status()
    schemas.validate("status", status)
    for account in status["accounts"].values():
        assert account["grabbed"] == sum(account[fate] for fate in FATES)
    assert status["device"] == "dock-7"
    assert {"pause", "resume", "reload"} <= set(status["commands"])
    assert set(status["streams"]) == {"street", "gate"}
    schemas.validate("timeline", json.loads(daemon.ask("/api/timeline")[1]))
    schemas.validate("events", json.loads(daemon.ask("/api/events")[1]))


def test_nothing_is_told_without_a_token_but_whether_it_lives(daemon: Daemon) -> None:
    for path in ("/api/status", "/api/layout", "/live/street.mjpg", "/snapshot/street.jpg", "/metrics"):
        assert daemon.ask(path, Authorization="")[0] == 401
        assert daemon.ask(path, Authorization="Bearer wrong")[0] == 401
    assert daemon.ask("/", Authorization="")[0] == 303
    assert daemon.ask("/healthz", Authorization="") == (200, b"ok\n")
    assert daemon.ask("/readyz", Authorization="") == (200, b"ok\n")
    assert daemon.ask("/api/command", "POST", body={"verb": "pause"}, Authorization="")[0] == 401
    assert daemon.ask("/api/status", Host="rebound.example")[0] == 421


@pytest.mark.skipif(not METRICS, reason="no prometheus-client here: pip install 'edgerun[metrics]'")
def test_one_server_gives_the_metrics_at_both_addresses(daemon: Daemon) -> None:
    until(lambda: b"edgerun_frames_grabbed_total{" in daemon.ask("/metrics")[1])
    code, body = daemon.ask("/metrics", port=daemon.metrics_port, Authorization="")
    assert code == 200
    assert b"edgerun_" in body
    assert daemon.ask("/healthz", port=daemon.metrics_port, Authorization="")[0] == 200
    assert daemon.ask("/api/status", port=daemon.metrics_port)[0] == 404


def test_a_snapshot_and_a_live_view(daemon: Daemon) -> None:
    code, jpeg = daemon.ask("/snapshot/street.jpg")
    assert code == 200
    assert jpeg.startswith(b"\xff\xd8")
    assert daemon.ask("/snapshot/nowhere.jpg")[0] == 404
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=60)
    connection.request("GET", "/live/street.mjpg", headers={"Authorization": f"Bearer {TOKEN}"})
    answer = connection.getresponse()
    got = b""
    while got.count(b"\xff\xd8\xff") < 5:
        got += answer.read1()
    until(lambda: daemon.status()["viewers"] == 1)
    connection.close()
    until(lambda: daemon.status()["viewers"] == 0)


def test_commands_go_the_way_of_all_commands(daemon: Daemon) -> None:
    code, body = daemon.ask("/api/command", "POST", body={"verb": "pause", "arguments": {"stream": "gate"}})
    assert (code, json.loads(body)) == (200, {"v": 1, "verb": "pause", "ok": True})
    until(lambda: daemon.status()["streams"]["gate"]["state"] == "paused")
    code, body = daemon.ask("/api/command", "POST", body={"verb": "pause", "arguments": {"stream": "no"}})
    assert code == 409
    assert "no such stream" in json.loads(body)["error"]
    assert daemon.ask("/api/command", "POST", body={"verb": "explode"})[0] == 404
    assert daemon.ask("/api/command", "POST", body={"word": "pause"})[0] == 400
    assert daemon.ask("/api/command", "POST", body={"verb": "pause"}, Content_Type="text/plain")[0] == 415
    assert daemon.ask("/api/command", "POST", body={"verb": "resume", "arguments": {"stream": "gate"}})[0] == 200
    until(lambda: daemon.status()["streams"]["gate"]["state"] == "running")
    told = json.loads(daemon.ask("/api/events")[1])["events"]
    assert any(entry["kind"] == "command" and "resume" in entry["text"] for entry in told)


# -- what people see

CONTRAST = """() => {
  const channels = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = channels(getComputedStyle(at).backgroundColor);
      if (color.length < 4 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const bad = [];
  let looked = 0;
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((one) => one.nodeType === 3 && one.data.trim());
    if (!own || !element.checkVisibility({ visibilityProperty: true }) || element.closest("noscript, .skip")) continue;
    looked += 1;
    const style = getComputedStyle(element);
    const ink = element instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(channels(ink)), light(ground(element))].sort((p, q) => q - p);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const ratio = (a + 0.05) / (b + 0.05);
    const name = `${element.tagName} ${element.textContent.slice(0, 30)}`;
    if (ratio < (large ? 3 : 4.5)) bad.push(`${name}: ${ratio.toFixed(2)}`);
  }
  return { looked, bad };
}"""
"""Contrast of every text with what is behind it: WCAG 2.2, 1.4.3, relative luminance as defined there."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any, daemon: Daemon) -> Iterator[Callable[..., Visit]]:
    visits: list[Visit] = []

    def open_one(**how: Any) -> Visit:
        visits.append(Visit(chromium, daemon, **how))
        return visits[-1]

    yield open_one
    for one in visits:
        one.close()


@browsers
def test_pictures_move_and_numbers_change(visit: Callable[..., Visit]) -> None:
    one = visit()
    picture = one.card("street").locator("img")
    until(lambda: picture.evaluate("(image) => image.naturalWidth") >= 480)
    first = picture.screenshot()
    until(lambda: picture.screenshot() != first)
    numbers = one.card("street").locator(".grabbed")
    before = numbers.inner_text()
    until(lambda: numbers.inner_text() != before)
    until(lambda: "published" in one.card("street").locator(".legend").first.inner_text())
    label = one.card("street").locator(".bar.fates").get_attribute("aria-label") or ""
    until(lambda: one.page.locator("#charts path").count() >= 2)
    assert "frames grabbed: published" in label
    assert one.page.locator("#h-device").is_visible()
    assert "dock-7" in one.page.title()


@browsers
def test_the_buttons_work(visit: Callable[..., Visit], daemon: Daemon) -> None:
    one = visit()
    card = one.card("gate")
    card.get_by_role("button", name="Pause gate").click()
    until(lambda: daemon.status()["streams"]["gate"]["state"] == "paused")
    until(lambda: card.locator(".pill").inner_text() == "paused")
    card.get_by_role("button", name="Resume gate").click()
    until(lambda: daemon.status()["streams"]["gate"]["state"] == "running")
    until(lambda: card.locator(".pill").inner_text() == "running")
    with one.page.expect_download() as download:
        card.get_by_role("link", name="Snapshot of gate").click()
    assert Path(download.value.path()).read_bytes().startswith(b"\xff\xd8")
    freeze = card.get_by_role("button", name="Freeze")
    freeze.click()
    assert card.get_by_role("button", name="Frozen").get_attribute("aria-pressed") == "true"
    one.page.get_by_role("button", name="Reload config").click()
    until(lambda: one.page.locator("#notice").inner_text().startswith("reload"))
    one.page.get_by_role("button", name="Log out").click()
    one.page.wait_for_url("**/login")
    one.page.goto(daemon.url + "/")
    one.page.wait_for_url("**/login")


@browsers
def test_nothing_is_asked_for_once_the_session_has_ended(visit: Callable[..., Visit]) -> None:
    """Else the browser would complain of refusals."""
    one = visit()
    until(lambda: one.page.locator(".pause:visible").count() == 2)

    def slowly(route: Any) -> None:
        answer = route.fetch()  # with which the session's cookie goes
        threading.Event().wait(3)  # the page would ask every second
        route.fulfill(response=answer)

    one.page.route("**/logout", slowly)
    one.page.get_by_role("button", name="Log out").click()
    one.page.wait_for_url("**/login")


@browsers
@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_a_phone_and_every_text_stands_out(visit: Callable[..., Visit], scheme: str, width: int) -> None:
    one = visit(width=width, scheme=scheme)
    until(lambda: one.page.locator(".events li").count() > 1)
    until(lambda: one.page.locator("#charts path").count() >= 2)
    for path in ("", "/draw?stream=street", "/login"):
        if path:
            one.page.goto(one.page.url.partition("/draw")[0].rstrip("/") + path)
            one.page.wait_for_selector("h1")
        assert one.page.evaluate("document.documentElement.scrollWidth") <= width
        seen = one.page.evaluate(CONTRAST)
        assert seen["bad"] == []
        assert seen["looked"] >= 2
    ground = one.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (int(ground.removeprefix("rgb(").partition(",")[0]) < 128) == (scheme == "dark")


@browsers
def test_everything_can_be_reached_with_the_keyboard(visit: Callable[..., Visit]) -> None:
    one = visit()
    until(lambda: one.page.locator(".pause:visible").count() == 2)
    wanted = one.page.evaluate(
        "() => [...document.querySelectorAll('a, button, [tabindex=\"0\"]')].filter((e) => e.checkVisibility()).length"
    )
    one.page.evaluate("document.body.focus()")
    reached = set()
    for _ in range(2 * wanted):
        one.page.keyboard.press("Tab")
        seen = one.page.evaluate(
            """() => {
              const e = document.activeElement;
              const ring = getComputedStyle(e).outlineStyle !== "none";
              return [e.outerHTML.slice(0, 160) + (e.closest(".card")?.querySelector("h3").textContent ?? ""), ring];
            }"""
        )
        if seen[0].startswith("<body"):
            break
        assert seen[1], f"no focus ring: {seen[0]}"
        reached.add(seen[0])
    assert len(reached) == wanted


@browsers
def test_zones_are_drawn_and_become_toml_that_the_config_takes(visit: Callable[..., Visit], daemon: Daemon) -> None:
    one = visit(path="/draw?stream=street")
    page = one.page
    until(lambda: page.locator("#shapes li").count() == 2)
    until(lambda: page.evaluate("document.getElementById('picture').naturalWidth") > 0)
    box = page.locator("#paper").bounding_box()

    def click(x: float, y: float) -> None:
        page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])

    page.get_by_role("button", name="New zone").click()
    for x, y in ((0.2, 0.2), (0.6, 0.2), (0.6, 0.7), (0.2, 0.2)):  # the last closes it
        click(x, y)
    page.get_by_label("Name of the zone").fill("front-door")
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.7 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.8 * box["height"], steps=3)
    page.mouse.up()
    page.get_by_role("button", name="New mask").click()
    page.locator("#paper").focus()
    for key in ("ArrowLeft", "Enter", "ArrowDown", "ArrowDown", "Enter", "ArrowRight", "ArrowRight", "Enter", "c"):
        page.keyboard.press(key)
    made = tomllib.loads(page.locator("#toml").input_value())
    stream = made["streams"]["street"]
    assert set(stream["zones"]) == {"pavement", "front-door"}
    corners = stream["zones"]["front-door"]["polygon"]
    wanted = [[0.2, 0.2], [0.6, 0.2], [0.5, 0.8]]
    for corner, place in zip(corners, wanted, strict=True):
        assert corner == pytest.approx(place, abs=0.01)
    assert stream["zones"]["pavement"]["labels"] == ["person"]
    assert stream["privacy"]["mask"][1] == [[0.48, 0.5], [0.48, 0.54], [0.52, 0.54]]
    raw = tomllib.loads(daemon.text)
    raw["streams"]["street"] |= stream
    assert set(build(raw, options_of, find_model=find_model).streams["street"].zones) == {"pavement", "front-door"}


@browsers
def test_what_was_drawn_is_applied_where_that_is_allowed(visit: Callable[..., Visit], daemon: Daemon) -> None:
    one = visit(path="/draw?stream=street")
    page = one.page
    until(lambda: page.locator("#shapes li").count() == 2)
    page.get_by_role("button", name="pavement").first.click()
    page.get_by_label("Name of the zone").fill("kerb")
    page.get_by_role("button", name="Apply").click()
    until(lambda: page.locator("#notice").inner_text() == "applied")
    layout = json.loads(daemon.ask("/api/layout")[1])["streams"]["street"]
    assert list(layout["zones"]) == ["kerb"]
    assert len(layout["mask"]) == 1
    until(lambda: daemon.status()["streams"]["street"]["state"] == "running")
    body = {"verb": "shapes", "arguments": {"stream": "gate", "zones": {}}}
    assert daemon.ask("/api/command", "POST", body=body)[0] == 200
    for arguments in (
        {"stream": "street", "mask": [[[0, 0], [1, 1]]]},
        {"stream": "street", "zones": {"a b": {"polygon": [[0, 0], [1, 0], [1, 1]]}}},
        {"stream": "gate", "zones": {"a": {"polygon": [[0, 0], [1, 0], [1, 1]]}}},
        {"stream": "nowhere"},
        {},
    ):
        assert daemon.ask("/api/command", "POST", body={"verb": "shapes", "arguments": arguments})[0] == 409
    assert daemon.ask("/api/command", "POST", body={"verb": "reload"})[0] == 200
    until(lambda: "pavement" in json.loads(daemon.ask("/api/layout")[1])["streams"]["street"]["zones"])
