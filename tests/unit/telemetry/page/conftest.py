"""Run folders with responses in them, and a browser that shows their pages."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from rlvr.config import RunConfig, TelemetryConfig
from rlvr.registry import labelled
from rlvr.telemetry.run_folder import RunFolder
from rlvr.telemetry.run_log import Telemetry
from rlvr.telemetry.tokens import TokenLog
from rlvr.types import IN_USE, Group, Outcome, Prompt, Response, Sample, Turn, Verdict

OPTIONS = (
    "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
    "disable-background-networking", "disable-component-update", "disable-sync",
)  # fmt: skip


def decode(sequences):
    return ["".join(chr(int(i)) for i in ids) for ids in sequences]


SAID = "\x1d"  # stands around what an environment said, in the text of a response


def response_of(text: str) -> Response:
    parts = text.split(SAID)
    own, said = parts[::2], [*parts[1::2], ""]
    ids = np.array([ord(c) for part in own for c in part], np.int32)
    zeros = np.zeros(len(ids))
    ends = np.cumsum([len(part) for part in own]).tolist()
    turns = tuple(
        Turn(end, np.array([ord(c) for c in words], np.int32), words, 0.25)
        for end, words in zip(ends, said, strict=True)
    )
    logp, version = zeros.astype(np.float32) - 0.5, zeros.astype(np.int32)
    return Response(ids, logp, version, "stop", turns=turns if len(own) > 1 else ())


def _group_of(number: int, texts) -> Group:
    right = [text.startswith("right") for text in texts]
    verdicts = [
        Verdict(float(r), Outcome.CORRECT if r else Outcome.INCORRECT, "told") for r in right
    ]
    samples = [Sample(response_of(text), text, v) for text, v in zip(texts, verdicts, strict=True)]
    prompt = Prompt(f"p{number}", [1], f"what is {number}?", "42", "exact", f"set{number % 2}")
    return Group(prompt, samples)


@pytest.fixture(scope="session")
def group_of():
    """``group_of(number, texts)``: a prompt's responses; "right ..." are correct."""
    return _group_of


@pytest.fixture(scope="session")
def write_run():
    """``write_run(path, texts, credit=..., seed=...)``: a run's folder, in which every character is
    a token.

    ``texts`` has the responses of each step's groups, ``evaluated`` those of the last evaluation;
    those that begin with "right" are correct.
    """

    def write(
        path: Path, texts, credit="delta", seed=0, ended=True, evaluated=(), shadows=()
    ) -> str:
        config = RunConfig()
        config.train.steps, config.train.output_dir, config.train.seed = len(texts), str(path), seed
        config.model.path, config.data.train = "model", ["rows.jsonl"]
        config.credit = {"name": credit}
        config.shadow.credits = list(shadows)
        config.telemetry = TelemetryConfig(wandb="disabled", progress=False)
        generator = np.random.default_rng(seed)
        tokens = TokenLog(decode)
        labels = [IN_USE, *(labelled(own, "")[0] for own in shadows)]

        async def run() -> None:
            telemetry = Telemetry(config.telemetry, RunFolder.create(path))
            telemetry.start(config)
            for step, of_groups in enumerate(texts, start=1):
                groups, advantages, coefficients = [], [], []
                for g, own in enumerate(of_groups):
                    groups.append(_group_of(g, own))
                    advantages += [1.0 if t.startswith("right") else -0.5 for t in own]
                    lengths = [len(s.response.token_ids) for s in groups[-1].samples]
                    coefficients += [generator.random(n).astype(np.float32) * 2 for n in lengths]
                metrics = {"update/entropy": 1 / step + 0.1 * seed, "mismatch/kl": 1e-14}
                timings = {"time/step_s": 2.0, "time/rollout_s": 1.5}
                a = np.array(advantages)
                used = {
                    label: [c * (1 - 0.5 * k) for c in coefficients]
                    for k, label in enumerate(labels)
                }
                logged = tokens.of(groups, a, used)
                await telemetry.step(step, groups, a, metrics, timings, logged)
                if step == len(texts):
                    asked = [_group_of(g, own) for g, own in enumerate(evaluated)]
                    await telemetry.evaluation(step, "greedy", {"accuracy": 0.5}, asked)
            if ended:
                telemetry.summary({"steps": len(texts)})
            telemetry.close()

        asyncio.run(run())
        return str(path)

    return write


@dataclass
class Browser:
    """A Chromium, and what its pages have told and asked for."""

    driver: object

    def open(self, page: Path, at: str = "") -> float:
        """Show a page at a place of its own; seconds until it is ready."""
        begin = time.perf_counter()
        self.driver.get("about:blank")
        self.driver.get(f"{page.as_uri()}#{at}")
        self.wait("document.documentElement.dataset.ready")
        return time.perf_counter() - begin

    def go(self, at: str) -> None:
        """To another place of the page."""
        self.run(f"location.hash = {json.dumps(at)}")
        self.run("await new Promise(requestAnimationFrame)")

    def run(self, script: str):
        value, error = self.driver.execute_async_script(
            f"const done = arguments[0]; (async () => {{ {script} }})()"
            ".then((value) => done([value, null]), (error) => done([null, `${error}`]))"
        )
        assert error is None, error
        return value

    def wait(self, condition: str) -> None:
        """Until an expression is true."""
        end = time.perf_counter() + 10
        while not self.run(f"return {condition}"):
            assert time.perf_counter() < end, f"never true: {condition}\n{self.troubles()}"
            time.sleep(0.02)

    def text(self, selector: str) -> list[str]:
        """The texts of all elements that are shown."""
        found = f"[...document.querySelectorAll({json.dumps(selector)})]"
        return self.run(
            f"return {found}.filter((e) => e.checkVisibility()).map((e) => e.innerText)"
        )

    def click(self, selector: str) -> None:
        self.driver.find_element("css selector", selector).click()

    def click_at(self, element, x: float, y: float) -> None:
        """Click so many pixels from the top left corner of an element."""
        from selenium.webdriver.common.action_chains import ActionChains

        size = element.size
        moved = ActionChains(self.driver).move_to_element_with_offset(
            element, round(x - size["width"] / 2), round(y - size["height"] / 2)
        )
        moved.click().perform()

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def troubles(self) -> list[str]:
        """What the console has, and every request for anything but a page's own file."""
        told = [entry["message"] for entry in self.driver.get_log("browser")]
        events = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        asked = [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]
        return told + [url for url in asked if not url.startswith(("file:///", "about:"))]


@pytest.fixture(scope="session")
def started_browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    driver_program = shutil.which("chromedriver")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None or driver_program is None:
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for option in (*OPTIONS, f"user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(driver_program)
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(20)
    driver.set_window_size(1400, 900)
    browser = Browser(driver)
    driver.get("about:blank")
    browser.troubles()  # of the page that a browser begins with
    yield browser
    driver.quit()


@pytest.fixture
def browser(started_browser):
    """A Chromium; afterwards its console must be empty, and no request must have left."""
    yield started_browser
    assert started_browser.troubles() == []
