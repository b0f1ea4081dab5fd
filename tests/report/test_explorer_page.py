"""The explorer's page: self-contained, its presets true, and in headless Chromium quiet, narrow enough and operable."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explorer_oracles import CHROMIUM, DEFAULTS, course, misalignment, outcomes

from siamscope.dynamics import Modes, largest_noise
from siamscope.report import ReportError, explorer

PRESETS = explorer.presets()
WORDS = {"learns": 1, "collapses": -1}
START = {"p0": 0.2, "s0": 0.2}
ids = [preset["id"] for preset in PRESETS["presets"]]


def settings(preset: dict[str, Any], compare: bool = False) -> tuple[dict[str, Any], float, float]:
    m = DEFAULTS | START | preset["set"] | (preset["compare"]["set"] if compare else {})
    return m, m.pop("p0"), m.pop("s0")


# -- the file --------------------------------------------------------------------------------------------------------


def test_nothing_from_elsewhere() -> None:
    text = explorer.page()
    assert len(text.encode()) < 150_000
    assert not re.findall(r"https?:|//[a-z]|@import|\bfetch\(|XMLHttpRequest|WebSocket|\burl\(", text)
    for link in re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)""", text):
        assert link == "data:," or re.search(rf'id="{link[1:]}"', text), link
    assert not re.findall(r"/\*(?:STYLE|PRESETS|SCRIPT)\*/", text)


def test_no_file_is_left_out() -> None:
    """Every file of the package that is not Python is in the page."""
    folder = Path(explorer.__file__).parent
    text = explorer.page()
    for path in folder.iterdir():
        if path.suffix in (".js", ".css"):
            assert path.read_text(encoding="utf-8").strip() in text, path.name


def test_write(tmp_path: Path) -> None:
    assert explorer.write(tmp_path) == tmp_path / "dynamics.html"
    assert explorer.write(tmp_path / "new" / "x.html").read_text(encoding="utf-8") == explorer.page()
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match=r"Cannot write .*--out"):
        explorer.write(tmp_path / "file" / "x.html")


# -- what the presets claim, in Python ---------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS["presets"], ids=ids)
def test_presets_are_true(preset: dict[str, Any]) -> None:
    claim, (m, p, s) = preset["claim"], settings(preset)
    assert outcomes(m, [p], [s]).tolist() == [WORDS[claim["verdict"]]]
    assert ("compare" in claim) <= ("compare" in preset)
    if "compare" in claim:
        other, p2, s2 = settings(preset, compare=True)
        assert outcomes(other, [p2], [s2]).tolist() == [WORDS[claim["compare"]]]
    if "survivors" in claim:
        codes = [outcomes(m | {"sigma2": noise}, [p], [s])[0] for noise in PRESETS["modes"]]
        assert [i for i, code in enumerate(codes) if code > 0] == claim["survivors"]


def by_claim(name: str) -> list[dict[str, Any]]:
    found = [preset for preset in PRESETS["presets"] if name in preset["claim"]]
    assert found
    return found


def test_s_falls_from_every_start() -> None:
    draw = np.random.default_rng(0)
    for preset in by_claim("falls"):
        m, _, _ = settings(preset)
        for p, s in zip(draw.uniform(-0.5, 1.5, 8), draw.uniform(0.01, 1, 8), strict=True):
            assert (np.diff(course(m, p, s, np.linspace(0, 10, 60))["s"]) < 0).all()


def test_smaller_basins() -> None:
    grid = np.meshgrid(np.linspace(-0.5, 1, 16), np.linspace(0.01, 0.5, 16), indexing="ij")
    p, s = grid[0].ravel(), grid[1].ravel()
    for preset in by_claim("smaller_basin"):
        shares = [(outcomes(settings(preset, compare)[0], p, s, 2000.0) < 0).mean() for compare in (False, True)]
        assert 0 < shares[0] < 0.85 * shares[1]  # measured: 0.23 and 0.80


def test_the_target_is_ahead_or_behind() -> None:
    times = np.linspace(0, 200, 2001)
    for preset in by_claim("tau_above_1"):
        path = course(*settings(preset), times)
        assert path["tau"][np.argmin(path["s"])] > 1.2  # the encoder is at its weakest, the target larger
    for preset in by_claim("tau_below_1"):
        assert course(*settings(preset), times)["tau"][1:-1].max() < 1


def test_an_average_keeps_modes_aligned() -> None:
    for preset in by_claim("less_misaligned"):
        slow, plain = (misalignment(*settings(preset, compare), 200.0) for compare in (False, True))
        assert 1 < slow < 0.8 * plain


def test_a_boost_leaves_no_basin_and_less_strength() -> None:
    for preset in by_claim("no_basin"):
        m, _, _ = settings(preset)
        low, high = (float(root) for root in Modes(eta=m["eta"], sigma2=m["sigma2"]).roots())
        assert low < m["eps"] < high
        starts = np.array([1e-6, 1e-4, 1e-2, 0.3, 1.0])
        assert (outcomes(m, starts, starts) == 1).all()
        assert (outcomes(m | {"eps": high + 0.05}, starts, starts) == -1).all()
        ends = [course(m | {"eps": eps}, 0, 0.3, [0.0, 300.0])["s"][-1] for eps in (0.2, 0.4)]
        assert ends[1] < ends[0] < course(m | {"eps": 0.0}, 0, 0.3, [0.0, 300.0])["s"][-1]


def test_the_printed_sign_fails() -> None:
    for preset in by_claim("printed_sign_fails"):
        m, p, s = settings(preset)
        times = np.linspace(0, 20, 100)
        path = course(m, p, s, times)
        gap = path["s"] - path["p"] ** 2 / m["alpha_p"]
        c = float(Modes(m["alpha_p"], m["eta"], m["sigma2"]).excess(p, s))
        assert np.abs(gap - c * np.exp(-2 * m["eta"] * times)).max() < 1e-8
        assert np.abs(gap + c * np.exp(-2 * m["eta"] * times)).max() > 0.5


def test_numbers_in_the_texts() -> None:
    texts = {preset["id"]: preset["text"] for preset in PRESETS["presets"]}
    assert "11.5" in texts["too-little-decay"] and float(largest_noise(0.02)) == pytest.approx(11.5)
    assert "1.08" in texts["right-decay"] and float(largest_noise(0.12)) == pytest.approx(1.08, abs=0.005)
    assert "0.26" in texts["too-much-decay"] and largest_noise(0.26) < 0  # "even without noise"
    fast, plain = (course(DEFAULTS | {"alpha_p": a}, 0.3, 0.3, [0.0, 500.0])["s"][-1] for a in (8.0, 1.0))
    assert "an eighth" in texts["fast-predictor"] and fast == pytest.approx(plain / 8, rel=1e-4)


# -- in Chromium -----------------------------------------------------------------------------------------------------


class Browser:
    """Chromium over its debugging pipe (file descriptors 3 and 4): the standard library is enough to drive it."""

    def __init__(self, folder: Path) -> None:
        (into, to), (out, back) = os.pipe(), os.pipe()
        flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-dev-shm-usage"
        command = f'exec "{CHROMIUM}" {flags} --remote-debugging-pipe --user-data-dir="{folder}" 3<&{into} 4>&{back}'
        self.process = subprocess.Popen(["bash", "-c", command], pass_fds=(into, back), stderr=subprocess.DEVNULL)
        os.close(into)
        os.close(back)
        self.to, self.out = os.fdopen(to, "wb"), os.fdopen(out, "rb")
        self.count, self.session, self.rest, self.messages = 0, None, b"", []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.to.write(json.dumps(message).encode() + b"\0")
        self.to.flush()
        while True:
            heard = self.hear()
            if heard.get("id") == self.count:
                assert "error" not in heard, heard
                return heard["result"]

    def hear(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            piece = os.read(self.out.fileno(), 65536)
            if not piece:
                pytest.skip("Chromium does not run here")
            self.rest += piece
        text, _, self.rest = self.rest.partition(b"\0")
        heard: dict[str, Any] = json.loads(text)
        if heard.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.messages.append(json.dumps(heard["params"])[:500])
        return heard

    def ask(self, expression: str) -> Any:
        """The value of an expression, once the page has drawn what changed."""
        code = f"new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done({expression}))))"
        got = self.send("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in got, got
        return got["result"].get("value")

    def open(self, page: Path, hash_: str = "", width: int = 1280, height: int = 900, dark: bool = False) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=page.as_uri() + hash_)
        loaded = "document.readyState === 'complete' ? done() : addEventListener('load', done)"
        self.send("Runtime.evaluate", expression=f"new Promise((done) => {loaded})", awaitPromise=True)

    def key(self, key: str, code: int) -> None:
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self.to.close()
        self.out.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None or os.environ.get("SIAMSCOPE_NO_BROWSER") == "1":
        pytest.skip("no Chromium")
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return explorer.write(tmp_path_factory.mktemp("page"))


@pytest.mark.parametrize("width", [1280, 800, 360])
@pytest.mark.parametrize("dark", [False, True])
def test_quiet_and_never_too_wide(browser: Browser, page: Path, width: int, dark: bool) -> None:
    browser.messages.clear()
    browser.open(page, "", width, 740, dark)
    for name in ids:
        browser.ask(f"siamscope.select('{name}')")
        assert browser.ask("document.documentElement.scrollWidth") <= width, name
    assert browser.ask("document.documentElement.dataset.theme") == ("dark" if dark else "light")
    colours = "new Set(document.getElementById('{0}').getContext('2d').getImageData(0, 0, 300, 150).data).size"
    assert browser.ask(colours.format("portrait")) > 20 and browser.ask(colours.format("course")) > 20
    assert browser.messages == []


def test_messages_are_heard(browser: Browser, page: Path) -> None:
    """Negative control: the page's policy refuses a picture from elsewhere, and says so."""
    browser.open(page)
    browser.messages.clear()
    browser.ask("document.body.append(Object.assign(new Image(), { src: 'http://localhost:9/x.png' }))")
    assert browser.messages


def test_presets_say_what_they_claim(browser: Browser, page: Path) -> None:
    browser.open(page)
    for preset in PRESETS["presets"]:
        claim, name = preset["claim"], preset["id"]
        browser.ask(f"siamscope.select('{name}')")
        assert browser.ask("document.getElementById('verdict-word').textContent") == f"{claim['verdict'].capitalize()}."
        if "compare" in claim:
            assert browser.ask("document.getElementById('verdict-why').textContent").endswith(f"{claim['compare']}.")
        if "survivors" in claim:
            alive = (
                "[...document.querySelectorAll('#strip button')].flatMap((b, i) => b.className === 'one' ? [i] : [])"
            )
            assert browser.ask(alive) == claim["survivors"]
        shown = browser.ask("(({code, otherCode}) => [code, otherCode])(siamscope.scene())")
        assert shown[0] == WORDS[claim["verdict"]]


def test_keys_move_sliders_and_the_start(browser: Browser, page: Path) -> None:
    browser.open(page)
    state = "({ ...siamscope.view.state, zoom: siamscope.view.zoom })"
    before = browser.ask(state)
    for name in ("eta", "sigma2", "alpha_p", "tau", "p0", "s0"):
        browser.ask(f"document.getElementById('set-{name}').focus()")
        browser.key("ArrowLeft" if name == "tau" else "ArrowRight", 37 if name == "tau" else 39)
        after = browser.ask(state)
        assert (after[name] > before[name]) != (name == "tau"), name
        assert {key for key in after if after[key] != before[key]} == {name}
        before = after
    browser.ask("document.getElementById('portrait').focus()")
    browser.key("ArrowUp", 38)
    browser.key("ArrowLeft", 37)
    after = browser.ask(state)
    assert after["s0"] == pytest.approx(before["s0"] + 0.02) and after["p0"] == pytest.approx(before["p0"] - 0.02)


def test_dragging_moves_the_start(browser: Browser, page: Path) -> None:
    browser.open(page)
    place = "(({left, top}) => [left + 100, top + 120])(document.getElementById('portrait').getBoundingClientRect())"
    x, y = browser.ask(place)
    common = {"button": "left", "clickCount": 1}
    browser.send("Input.dispatchMouseEvent", type="mousePressed", x=x + 60, y=y + 40, **common)
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, buttons=1, **common)
    browser.send("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, **common)
    p, s = browser.ask("[siamscope.view.state.p0, siamscope.view.state.s0]")
    drawn = browser.ask("document.getElementById('verdict').offsetHeight && siamscope.scene().start")
    assert (p, s) == (drawn["p"], drawn["s"]) and (p, s) != (0.2, 0.2)
    assert -0.5 < p < 0.2 < s < 1.1


def test_every_corner_can_be_drawn(browser: Browser, page: Path) -> None:
    """All sliders at random among their ends and middles: no exception, a verdict, finite trajectories."""
    browser.open(page)
    browser.messages.clear()
    draw = np.random.default_rng(3)
    values: dict[str, list[Any]] = {"predictor": ["trained", "none", "directpred", "directcopy"], "stop": [True, False]}
    values |= {"target": ["fixed", "ema"], "eta": [0, 0.1, 0.35], "sigma2": [0, 0.3, 4], "alpha_p": [0.25, 1, 16]}
    values |= {
        "tau": [0.1, 0.6, 1],
        "beta": [0.02, 0.2, 2],
        "eps": [0, 0.3, 1],
        "p0": [-0.5, 0, 1.25],
        "s0": [0, 0.4, 1],
    }
    for _ in range(40):
        state = {name: some[draw.integers(len(some))] for name, some in values.items()}
        finite = (
            "(() => { const now = siamscope.scene(), all = [now.path.p, now.path.s, now.path.t].flat();"
            " return [now.code, all.every(Number.isFinite), now.horizon] })()"
        )
        browser.ask(f"(Object.assign(siamscope.view.state, {json.dumps(state)}), siamscope.draw(), 1)")
        code, whole, horizon = browser.ask(finite)
        assert code in (-1, 0, 1) and whole and 1 <= horizon <= 2000, state
    assert browser.messages == []


def test_reset(browser: Browser, page: Path) -> None:
    browser.open(page, "#preset=learns&eta=0.2")
    assert not browser.ask("document.getElementById('reset').hidden")
    browser.ask("document.getElementById('reset').click()")
    assert browser.ask("document.getElementById('reset').hidden") and browser.ask("siamscope.view.state.eta") == 0.12


def test_controls_have_names_and_the_verdict_is_spoken(browser: Browser, page: Path) -> None:
    browser.open(page, "#preset=too-much-decay")
    bare = (
        "[...document.querySelectorAll('input, select, button, canvas')].filter((e) => !(e.labels && e.labels.length)"
        " && !e.getAttribute('aria-label') && !e.textContent.trim()).map((e) => e.id || e.outerHTML)"
    )
    assert browser.ask(bare) == []
    spoken = "new Promise((done) => setTimeout(() => done(document.getElementById('live').textContent), 900))"
    assert browser.ask(spoken).startswith("Collapses. η is above 0.227")


def test_the_address_keeps_the_state(browser: Browser, page: Path) -> None:
    browser.open(page, "#preset=average&eta=0.1&theme=dark&beta=nonsense&predictor=unknown&tau=0.9")
    state = browser.ask("siamscope.view.state")
    assert (state["eta"], state["tau"], state["beta"], state["predictor"]) == (0.1, 0.9, 0.1, "trained")
    assert browser.ask("document.documentElement.dataset.theme") == "dark"
