"""MLflow's pages in a headless Chromium show the run, its curves, its data set and its model.

Skipped without Chromium and selenium. SCREENSHOTS=FOLDER saves the screenshots.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from data_prep.tokenization.train import train_tokenizer
from pipeline.checkpoint.manifest import find_checkpoint
from pipeline.export import export_run
from pipeline.launch.environment import free_port
from pipeline.registry import register
from pipeline.run.config import TrainConfig
from pipeline.run.run_folder import checkpoints_folder
from pipeline.tracking.checkpoint_record import CheckpointRecord
from pipeline.tracking.sender import Sender
from pipeline.tracking.sent import run_id_of
from pipeline.tracking.tracked_run import tracked_run
from tests.gloo import run_ranks
from tests.pipeline.training_run import make_config, make_rows, pretrain

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="no Chromium (Debian: chromium chromium-driver)",
    ),
]


NUM_CURVES = """
return [...document.querySelectorAll("svg path")].filter(
  (path) => getComputedStyle(path).fill == "none" && (path.getAttribute("d") || "").length > 60
).length + document.querySelectorAll("canvas").length
"""
"""The number of drawn lines; icons are filled."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A finished run in MLflow, its model registered."""
    folder = tmp_path_factory.mktemp("ui")
    sentence = "the cat sat on the mat and the dog ate the hat of the rat in a red bed"
    make_rows(folder / "rows", tokenizer=train_tokenizer([sentence] * 60, 270))
    config = make_config(
        folder / "rows",
        folder / "run",
        name="tiny-roberta",
        total_rows=60 * 16,
        optimizer={"type": "adamw", "lr": 5e-3},
        tracking={"uri": f"sqlite:///{folder / 'mlflow.db'}"},
    )
    untracked = config.model_copy(
        update={"tracking": config.tracking.model_copy(update={"enabled": False})}
    )
    run_ranks(pretrain, 1, untracked)
    CheckpointRecord(config.output).update()
    Sender(tracked_run(config)).send_pending()
    checkpoint, _ = find_checkpoint(checkpoints_folder(config))
    assert checkpoint is not None
    run_ranks(export_run, 1, config, checkpoint, config.output / "hf")
    register(config, "tiny-roberta", checkpoint, config.output / "hf")
    return config


@pytest.fixture(scope="module")
def address(run: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address at which `mlflow ui` shows the run."""
    port = free_port()
    assert run.tracking.uri is not None
    command = [sys.executable, "-m", "mlflow", "ui", "--port", str(port), "--workers", "1"]
    log = tmp_path_factory.mktemp("log") / "log"
    with log.open("wb") as stream:
        server = subprocess.Popen(
            [*command, "--backend-store-uri", run.tracking.uri],
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 150
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), 1):
                    break
            except OSError:
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1500,1000"):
        options.add_argument(option)
    service = webdriver.ChromeService(executable_path=DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_page_load_timeout(120)
    yield driver
    driver.quit()


def wait_for(
    browser: Any, condition: Callable[[Any], Any], what: str, timeout_s: float = 90.0
) -> Any:
    """The value of `condition(browser)` as soon as it is true."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition(browser)
        if found:
            return found
        assert time.monotonic() < deadline, f"{what} is not on the page:\n{text(browser)[:2000]}"
        time.sleep(0.3)


def text(browser: Any) -> str:
    return str(browser.execute_script("return document.body.innerText"))


def open_page(browser: Any, url: str, *words: str) -> None:
    """Opens a page and waits until it shows all of `words`."""
    browser.get(url)
    for word in words:
        wait_for(browser, partial(shows, word), f"{word!r} at {url}")


def shows(word: str, page: Any) -> bool:
    return word in text(page)


def save_screenshot(browser: Any, name: str) -> None:
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


def run_page(run: TrainConfig, address: str) -> str:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=run.tracking.uri)
    run_id = run_id_of(run.output)
    return f"{address}/#/experiments/{client.get_run(run_id).info.experiment_id}/runs/{run_id}"


def test_the_run_shows_its_data_set_and_parameters(
    run: TrainConfig, address: str, browser: Any
) -> None:
    open_page(browser, run_page(run, address), "tiny-roberta", "Finished", "model.hidden_size")
    wait_for(browser, lambda page: "Datasets" in text(page), "the data sets")
    wait_for(browser, lambda page: run.data.path.parent.name in text(page), "the data set's name")
    save_screenshot(browser, "mlflow-run")


def test_the_metrics_chart_is_drawn(run: TrainConfig, address: str, browser: Any) -> None:
    open_page(browser, f"{run_page(run, address)}/model-metrics", "heldout_loss", "Model metrics")
    wait_for(browser, lambda page: page.execute_script(NUM_CURVES), "a curve")
    save_screenshot(browser, "mlflow-metrics")


def test_the_registered_model_shows_its_parity_error(
    run: TrainConfig, address: str, browser: Any
) -> None:
    open_page(
        browser, f"{address}/#/models/tiny-roberta/versions/1", "tiny-roberta", "parity_error"
    )
    save_screenshot(browser, "mlflow-model")
