"""The site in a real browser: it loads nothing from elsewhere, says no error, sorts, slides, shows a cell's runs."""

import json
import re
import shutil
import time

import pandas as pd
import pytest

import zoo
from diagnose import DIAGNOSERS, ZooTables, boards, cases_of, feature_costs, seeds_of
from diagnose.competition import compete
from zoo.storage import Folder

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FEW = ("majority", "landscape_tree", "validation_tree", "md_tree")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site of the shipped demo with a small benchmark on it: one question, one draw, a few diagnosers."""
    from cluster.report import report

    folder, demo = tmp_path_factory.mktemp("report"), zoo.open("demo")
    tables = ZooTables(*(demo.table(name) for name in ("configs", "runs", "metrics", "labels")))
    cases, costs = {"demo": cases_of(tables)}, {"demo": feature_costs(tables.runs, tables.metrics)}
    asked = [board for board in boards(cases, seeds_of(1)) if board.task == "temperature"]
    compete(Folder(folder / "benchmark"), cases, asked, [DIAGNOSERS[name] for name in FEW], costs, [])
    pages = report(zoo.open("demo"), Folder(folder / "benchmark"), Folder(folder / "site"))
    assert pages[0] == "index.html"
    return folder / "site"


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no chromium and chromedriver here (Debian's chromium and chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "window-size=1200,1400",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def look_at(browser, site, page, scheme="light", width=1200):
    """Open a page and wait until its charts are drawn."""
    feature = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": feature})
    size = {"width": width, "height": 1200, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(f"file://{site}/{page}")
    until = time.monotonic() + 60
    while browser.execute_script("return document.body.dataset.drawn") != scheme:
        assert time.monotonic() < until, f"{page} is not drawn: {browser.get_log('browser')}"
        time.sleep(0.1)


def said(browser):
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def pages(site):
    return sorted(path.name for path in site.glob("*.html"))


def test_pages_are_what_there_is(site):
    names = pages(site)
    assert {"index.html", "zoo.html", "leaderboard.html", "trees.html"} < set(names)
    boards = pd.read_parquet(site.parent / "benchmark" / "leaderboard.parquet")
    protocols = boards[["zoo", "training_zoo", "task", "protocol"]].drop_duplicates()
    assert sum(name.startswith("board-") for name in names) == len(protocols)


def test_nothing_is_loaded_from_elsewhere(site):
    for page in pages(site):
        text = (site / page).read_text()
        loaded = re.findall(
            r"""(?:src|href)=["']([^"']+)["']""", re.sub(r"<svg.*?</svg>", "", text, flags=re.S)
        )
        assert loaded
        for name in loaded:
            assert name.startswith(("data:", "#")) or (site / name).is_file(), (page, name)


def test_every_page_in_both_colour_schemes_without_an_error(browser, site):
    for page in pages(site):
        for scheme in ("light", "dark"):
            look_at(browser, site, page, scheme)
            assert said(browser) == [], page
            resources = "return performance.getEntriesByType('resource').map(e => e.name)"
            assert all(name.startswith(("file:", "data:")) for name in browser.execute_script(resources))
            paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
            assert (paper == "rgb(255, 255, 255)") == (scheme == "light")


def test_every_page_fits_a_phone(browser, site):
    for page in pages(site):
        look_at(browser, site, page, width=390)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390, page


def test_a_change_of_scheme_is_followed(browser, site):
    look_at(browser, site, "zoo.html", "light")
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": dark})
    until = time.monotonic() + 30
    while browser.execute_script("return document.body.dataset.drawn") != "dark":
        assert time.monotonic() < until
        time.sleep(0.1)
    assert said(browser) == []


def column(browser, head):
    script = """
        const head = arguments[0].closest('th');
        const place = [...head.parentNode.children].indexOf(head);
        const rows = [...head.closest('table').tBodies[0].rows];
        return rows.map(row => row.cells[place].dataset.value ?? row.cells[place].textContent);
    """
    return browser.execute_script(script, head)


def test_tables_sort_by_click_and_by_keyboard(browser, site):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    look_at(browser, site, "leaderboard.html")
    heads = {h.text.split(" ")[0]: h for h in browser.find_elements(By.CSS_SELECTOR, "th button")[:10]}
    number, words = heads["accuracy"], heads["diagnoser"]
    number.click()
    values = [float(value) for value in column(browser, number)]
    assert len(values) == len(FEW)
    assert values == sorted(values, reverse=True)
    number.send_keys(Keys.ENTER)
    assert [float(value) for value in column(browser, number)] == sorted(values)
    order = "return arguments[0].closest('th').getAttribute('aria-sort')"
    assert browser.execute_script(order, number) == "ascending"
    words.click()
    assert column(browser, words) == sorted(FEW)
    assert browser.execute_script(order, number) is None


def shown_runs(browser):
    rows = "[...document.querySelectorAll('#runs-table tbody tr')]"
    found = browser.execute_script(f"return {rows}.map(row => [...row.cells].map(cell => cell.textContent))")
    return [(row[0], row[1], float(row[2])) for row in found]


def expected(config_id):
    runs = zoo.open("demo").runs().query("config_id == @config_id").sort_values("seed")
    rows = runs[["seed", "status", "train_error"]].to_numpy().tolist()
    return [(str(seed), status, pytest.approx(error, abs=0.006)) for seed, status, error in rows]


def test_the_slider_moves_the_data_amount(browser, site):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    look_at(browser, site, "zoo.html")
    amount = browser.find_element(By.ID, "amount")
    output = browser.find_element(By.ID, "amount-shown")
    first = browser.find_element(By.CSS_SELECTOR, ".chart svg").text
    assert output.text == "1,000"
    for words in ("360", "128"):
        amount.send_keys(Keys.ARROW_LEFT)
        assert output.text == words
        assert amount.get_attribute("aria-valuetext") == f"{words} training images"
    time.sleep(0.5)
    now = browser.find_element(By.CSS_SELECTOR, ".chart svg").text
    assert now != first
    demo = zoo.open("demo")
    runs = demo.runs(data_amount=128, label_noise=0.0, width=8, batch_size=16)
    assert f"{runs['test_error'].mean():.1f}" in now.split()


def test_a_cell_shows_its_runs(browser, site):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    look_at(browser, site, "zoo.html")
    cell = browser.find_elements(By.CSS_SELECTOR, ".chart .mark-rect path")[0]
    ActionChains(browser).move_to_element(cell).click().perform()
    chosen = browser.find_element(By.ID, "configuration").get_attribute("value")
    words = browser.find_element(By.ID, "runs-of").text
    assert chosen in words
    assert shown_runs(browser) == expected(chosen)
    label = cell.get_attribute("aria-label")
    config = zoo.open("demo").config(chosen)
    assert f"width: {config.width};" in label
    assert f"batch size: {config.batch_size};" in label


def test_a_configuration_is_chosen_by_keyboard(browser, site):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    look_at(browser, site, "zoo.html")
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    assert browser.switch_to.active_element == browser.find_element(By.CSS_SELECTOR, "a.skip")
    choice = browser.find_element(By.ID, "configuration")
    for _ in range(3):
        choice.send_keys(Keys.ARROW_DOWN)
    chosen = choice.get_attribute("value")
    assert shown_runs(browser) == expected(chosen)


def test_a_benchmark_alone_has_a_site_too(browser, site, tmp_path):
    """As that on the authors' tables, of which there is no zoo."""
    from cluster.report import report

    files = report(None, Folder(site.parent / "benchmark"), Folder(tmp_path))
    assert files[0] == "index.html"
    look_at(browser, tmp_path, files[0])
    assert browser.title == "Leaderboard"
    assert said(browser) == []
    assert not (tmp_path / "zoo.html").exists()


def test_text_of_a_spec_is_never_markup(site, tmp_path):
    import dataclasses

    from cluster.report import report

    foul = "</script><script>alert(1)</script>"
    strange = dataclasses.replace(zoo.open("demo"), name=foul, spec=f"# {foul}")
    report(strange, None, Folder(tmp_path))
    for page in tmp_path.glob("*.html"):
        assert "<script>alert" not in page.read_text(), page.name


def test_charts_are_valid_vega_lite(site):
    import altair

    for page in ("zoo.html", *[name for name in pages(site) if name.startswith("board-")][:2]):
        text = (site / page).read_text()
        specs = re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', text, re.S)
        charts = [json.loads(data) for name, data in specs if name != "runs"]
        assert charts
        for spec in charts:
            altair.Chart.from_dict(spec, validate=True)
