"""The report in a real browser, where there is one: `apt install chromium chromium-driver`."""

from __future__ import annotations

import shutil

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="the report was NOT tested in a browser: no chromium and chromedriver"
)


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    # offline: the page may load nothing but itself
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd(
        "Network.emulateNetworkConditions",
        {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0},
    )
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, built):
    browser.get((built / "report.html").as_uri())
    return browser


def find(page, selector):
    return page.find_elements("css selector", selector)


def budget_rows(page):
    return [
        [c.text for c in r.find_elements("css selector", "td")] for r in find(page, "#budget-table tbody tr")
    ]


def shown_cards(page):
    return [c for c in find(page, ".card") if c.is_displayed()]


def choose(page, selector, value):
    page.execute_script(
        "const e = document.querySelector(arguments[0]); e.value = arguments[1];"
        "e.dispatchEvent(new Event('input', {bubbles: true})); e.dispatchEvent(new Event('change', {bubbles: true}));",
        selector,
        str(value),
    )


def test_it_opens_without_errors_and_a_prompt_runs_nothing(page):
    assert page.title == "vhsbench: made"
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert len(find(page, ".chart .main-svg")) >= 5


def test_the_keyboard_moves_the_budget_and_the_numbers(page):
    from selenium.webdriver.common.keys import Keys

    slider, before = find(page, "#slider")[0], budget_rows(page)
    said = find(page, "#budget-value")[0].text
    slider.send_keys(Keys.END)
    after = budget_rows(page)
    assert find(page, "#budget-value")[0].text != said
    assert [row[0] for row in after] == [row[0] for row in before]
    assert all(b[1] != a[1] and b[3] != a[3] for b, a in zip(before, after, strict=True))
    assert [row[1].rstrip("+") for row in after] == ["8", "8", "8"]
    slider.send_keys(Keys.HOME)
    assert [row[1] for row in budget_rows(page)] == ["not even one"] * 3
    assert not page.get_log("browser")


def test_the_slider_and_the_table_agree_on_n(page, built):
    import pandas as pd

    table = pd.read_csv(built / "tables" / "budgets.csv")
    judged, compared = table[table["verifier"] != "none"], 0
    for budget, part in judged.groupby("budget_ms"):
        choose(page, "#slider", budget)
        if float(page.execute_script("return document.querySelector('#slider').value")) != budget:
            continue  # not a step of the slider
        compared += 1
        ns = {row[0].removeprefix("nano: "): row[1] for row in budget_rows(page)}
        labels = {"vhs": "VHS", "mllm-clip": "MLLM w/ CLIP", "mllm-ae": "MLLM w/ AE"}
        for row in part.itertuples():
            assert ns[labels[row.verifier]].rstrip("+") == str(row.best_of_n)
    assert compared


def test_the_budget_moves_in_the_chart(page):
    points = "return document.querySelector('#over-time').data.at(-1).y"
    choose(page, "#slider", 100)
    few = page.execute_script(points)
    choose(page, "#slider", 500)
    many = page.execute_script(points)
    assert len(few) == len(many) == 3
    assert few != many


def test_the_task_changes_the_curves(page):
    values = "return document.querySelector('#by-n').data.map(t => t.y)"
    before = page.execute_script(values)
    choose(page, "#task", "counting")
    assert page.execute_script(values) != before


def test_the_gallery_filters_by_task_verifier_verdict_and_words(page):
    everything = shown_cards(page)
    assert len(everything) == 6 * 3
    choose(page, "#f-verifier", "vhs")
    assert {c.get_attribute("data-verifier") for c in shown_cards(page)} == {"vhs"}
    assert len(shown_cards(page)) == 6
    choose(page, "#f-task", "counting")
    assert [c.get_attribute("data-task") for c in shown_cards(page)] == ["counting"]
    assert find(page, "#f-count")[0].text == "1 of 18 shown"
    choose(page, "#f-task", "")
    choose(page, "#f-verifier", "")
    right = [c for c in everything if c.get_attribute("data-verdict") == "right"]
    choose(page, "#f-verdict", "right")
    assert len(shown_cards(page)) == len(right)
    choose(page, "#f-verdict", "")
    find(page, "#f-prompt")[0].send_keys("number OBJECT two")
    assert {c.get_attribute("data-task") for c in shown_cards(page)} == {"two_object"}
    find(page, "#f-prompt")[0].send_keys("zzz")
    assert shown_cards(page) == []


def test_everything_is_within_a_phones_width(page):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True},
    )
    page.refresh()
    assert page.execute_script("return document.documentElement.scrollWidth") <= 390
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_first_stop_of_the_keyboard_skips_to_the_results(page):
    from selenium.webdriver.common.keys import Keys

    find(page, "body")[0].send_keys(Keys.TAB)
    focused = page.switch_to.active_element
    assert focused.text == "Skip to the results"
    assert (
        page.execute_script("return document.querySelectorAll('img:not([alt]), input:not([id])').length") == 0
    )
