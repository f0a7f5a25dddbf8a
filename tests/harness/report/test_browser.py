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


def opened(card):
    """Open a card's pool of candidates; returns them. The browser reports that it is open a moment later."""
    from selenium.webdriver.support.ui import WebDriverWait

    card.find_element("css selector", "summary").click()
    return WebDriverWait(card, 60).until(lambda card: card.find_elements("css selector", ".pool > li"))


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
    everything = [card.get_attribute("data-verdict") for card in shown_cards(page)]
    assert len(everything) == 6 * 3
    choose(page, "#f-verifier", "vhs")
    assert {c.get_attribute("data-verifier") for c in shown_cards(page)} == {"vhs"}
    assert len(shown_cards(page)) == 6
    choose(page, "#f-task", "counting")
    assert [c.get_attribute("data-task") for c in shown_cards(page)] == ["counting"]
    assert find(page, "#f-count")[0].text == "1 of 18 shown"
    choose(page, "#f-task", "")
    choose(page, "#f-verifier", "")
    choose(page, "#f-verdict", "right")
    assert [card.get_attribute("data-verdict") for card in shown_cards(page)] == ["right"] * everything.count(
        "right"
    )
    choose(page, "#f-verdict", "")
    find(page, "#f-prompt")[0].send_keys("number OBJECT two")
    assert {c.get_attribute("data-task") for c in shown_cards(page)} == {"two_object"}
    find(page, "#f-prompt")[0].send_keys("zzz")
    assert shown_cards(page) == []


def column(page, table, place):
    """What a column of a table says, of the rows that are shown."""
    rows = [row for row in find(page, f"{table} tbody tr") if row.is_displayed()]
    return [row.find_elements("css selector", "td")[place].text for row in rows]


def heads(page, table):
    return [head.text.rstrip(" ↕▲▼") for head in find(page, f"{table} thead th")]


def write(page, selector, words):
    """Put text into a field as a user does, in place of what it holds."""
    from selenium.webdriver.common.keys import Keys

    field = find(page, selector)[0]
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(words)


def test_the_number_and_the_slider_are_in_step(page):
    slider, number = find(page, "#slider")[0], find(page, "#budget-number")[0]
    write(page, "#budget-number", "200")
    assert float(slider.get_attribute("value")) == pytest.approx(200, abs=1)
    assert find(page, "#budget-value")[0].text == "200 ms"
    at_200 = budget_rows(page)
    choose(page, "#slider", 400)
    assert number.get_attribute("value") == slider.get_attribute("value")
    assert budget_rows(page) != at_200
    # beyond the slider a number still counts
    write(page, "#budget-number", "99999")
    assert [row[1] for row in budget_rows(page)] == ["8+"] * 3
    assert slider.get_attribute("value") == slider.get_attribute("max")


def test_a_budget_that_is_none_is_said_and_the_last_one_stays(page):
    from selenium.webdriver.common.keys import Keys

    for words in ("0", "-5", Keys.DELETE):
        write(page, "#budget-number", "200")
        before = budget_rows(page)
        write(page, "#budget-number", words)
        assert find(page, "#budget-error")[0].text == "Write a number of ms above zero."
        assert find(page, "#budget-number")[0].get_attribute("aria-invalid") == "true"
        assert budget_rows(page) == before
        write(page, "#budget-number", "210")
        assert find(page, "#budget-error")[0].text == ""
        assert find(page, "#budget-number")[0].get_attribute("aria-invalid") == "false"


def test_budgets_are_of_every_kind_that_has_numbers(page, built):
    from vhsbench.harness.report.derived import derive
    from vhsbench.harness.store.tables import load_run

    derived = derive(load_run(built.parent / "run"))
    options = {o.get_attribute("value"): o for o in find(page, "#budget-unit option")}
    assert list(options) == ["ms", "TFLOP", "GB", "J"]
    assert [unit for unit, option in options.items() if not option.is_enabled()] == ["J"]
    assert "Budgets of energy (J) are unknown: nano (1 steps): no energy_j was measured" in page.page_source
    for unit, column_, name, scale in (("TFLOP", "tflop", "GFLOP", 1e3), ("GB", "memory_gb", "GB", 1)):
        choose(page, "#budget-unit", unit)
        models = {key[2]: model for key, model in derived.models[column_].items() if key[0] == "nano"}
        budget = models["vhs"].predict(3)
        write(page, "#budget-number", f"{scale * budget:.6g}")
        assert find(page, "#budget-value")[0].text.endswith(name)
        assert heads(page, "#budget-table")[2].endswith(f"({name})")
        ns = [row[1] for row in budget_rows(page)]
        for verifier, n in zip(("mllm-ae", "mllm-clip", "vhs"), ns, strict=True):
            model = models[verifier]
            if model.per_candidate:
                expected = model.largest_n(budget, 0.05)
                assert n == ("not even one" if expected is None else f"{expected}" if expected <= 8 else "8+")
            else:  # memory that does not grow: any N, or none
                assert n == ("8+" if model.fixed <= 1.05 * budget else "not even one")
    choose(page, "#budget-unit", "ms")
    assert page.execute_script(
        "return document.querySelector('#over-time').layout.xaxis.title.text"
    ).endswith("(ms)")


def test_a_click_on_a_heading_sorts_by_its_numbers(page):
    table = "#table-budgets_published"
    overall = heads(page, table).index("Overall")
    head = f"{table} thead th:nth-child({overall + 1})"
    before = column(page, table, overall)
    numbers = [float(cell.split()[0]) for cell in before if cell]
    assert any("[" in cell for cell in before)
    assert numbers != sorted(numbers)
    find(page, f"{head} button")[0].click()
    after = column(page, table, overall)
    assert [float(cell.split()[0]) for cell in after[: len(numbers)]] == sorted(numbers)
    assert set(after[len(numbers) :]) <= {""}
    assert find(page, head)[0].get_attribute("aria-sort") == "ascending"
    find(page, f"{head} button")[0].click()
    after = column(page, table, overall)
    assert [float(cell.split()[0]) for cell in after[: len(numbers)]] == sorted(numbers, reverse=True)
    assert find(page, head)[0].get_attribute("aria-sort") == "descending"
    others = find(page, f"{table} thead th:not(:nth-child({overall + 1}))")
    assert {other.get_attribute("aria-sort") for other in others} == {"none"}
    find(page, f"{head} button")[0].click()
    assert column(page, table, overall) == before


def test_the_keyboard_sorts_and_a_new_budget_keeps_the_order(page):
    from selenium.webdriver.common.keys import Keys

    find(page, "#budget-table thead th:nth-child(4) button")[0].send_keys(Keys.ENTER)
    for budget in (100, 300, 500):
        choose(page, "#slider", budget)
        accuracies = [float(cell.split()[0]) for cell in column(page, "#budget-table", 3) if cell]
        assert accuracies == sorted(accuracies)
    find(page, "#budget-table thead th:nth-child(1) button")[0].send_keys(Keys.SPACE)
    names = column(page, "#budget-table", 0)
    assert names == sorted(names)


ASCENDING = [
    (["84.4 [81.6, 86.5]", "9.1 [8, 10]", "", "100.0"], ["9.1 [8, 10]", "84.4 [81.6, 86.5]", "100.0", ""]),
    (["8+", "12", "not even one", "2"], ["2", "8+", "12", "not even one"]),
    (["-3.3 [-4.0, -2.7]", "+0.5", "-10.0", "\u22121"], ["-10.0", "-3.3 [-4.0, -2.7]", "\u22121", "+0.5"]),
    (["1,200", "70 ±5%", "1e-3", ".5"], ["1e-3", ".5", "70 ±5%", "1,200"]),
    (["8 steps", "16 steps", "nano", "2 steps"], ["2 steps", "8 steps", "16 steps", "nano"]),
]


def test_cells_are_in_the_order_of_their_numbers(page):
    """Each case in a column of its own."""
    for place, (cells, ascending) in enumerate(ASCENDING):
        page.execute_script(
            "const rows = document.querySelectorAll('#table-budgets_published tbody tr');"
            "rows.forEach((row, i) => { row.cells[arguments[1]].textContent = arguments[0][i] ?? ''; });",
            cells,
            place,
        )
        find(page, f"#table-budgets_published thead th:nth-child({place + 1}) button")[0].click()
        wanted = [cell for cell in ascending if cell]
        assert column(page, "#table-budgets_published", place)[: len(wanted)] == wanted, cells


def test_long_tables_are_filtered_and_short_ones_are_not(page):
    table = "#table-budgets_published"
    tools = f"{table}"
    field = page.execute_script(
        "return document.querySelector(arguments[0]).previousElementSibling.querySelector('input')", tools
    )
    field.send_keys("vhs MEASURED")
    verifiers = column(page, table, heads(page, table).index("Verifier"))
    assert set(verifiers) == {"VHS"}
    assert set(column(page, table, 0)) == {"measured here"}
    said = page.execute_script(
        "return arguments[0].closest('.tools').querySelector('output').textContent", field
    )
    total = len(find(page, f"{table} tbody tr"))
    assert said == f"{len(verifiers)} of {total} rows"
    short = page.execute_script(
        "return document.querySelector('#budget-table').closest('.scroll').previousElementSibling.querySelector('label')"
    )
    assert not short.is_displayed()


def saved(page, folder, table):
    """Download a table; returns the file."""
    button = "document.querySelector(arguments[0]).closest('.scroll').previousElementSibling.querySelector('button')"
    return downloaded(page, folder, button, table)


def downloaded(page, folder, button, *arguments):
    """Click what the script `button` finds; returns the file that is then saved."""
    from selenium.webdriver.support.ui import WebDriverWait

    page.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    page.execute_script(f"{button}.click()", *arguments)
    (file,) = WebDriverWait(page, 60, 0.05).until(
        lambda _: [*folder.glob("*.csv"), *folder.glob("*.jsonl")]  # under another name until it is whole
    )
    return file


def test_a_table_is_downloaded_as_it_is_shown(page, tmp_path):
    import pandas as pd

    table = "#table-budgets_published"
    overall = heads(page, table).index("Overall")
    find(page, f"{table} thead th:nth-child({overall + 1}) button")[0].click()
    file = saved(page, tmp_path, table)
    assert file.name == "accuracy-by-time-budget-measured-here-and-published.csv"
    found = pd.read_csv(file)
    assert {"Source", "Overall", "Overall low", "Overall high"} <= set(found)
    shown = column(page, table, overall)
    assert found["Overall"].dropna().tolist() == [float(cell.split()[0]) for cell in shown if cell]
    first = next(i for i, cell in enumerate(shown) if "[" in cell)
    low, high = shown[first].split("[")[1].rstrip("]").split(", ")
    assert (found["Overall low"][first], found["Overall high"][first]) == (float(low), float(high))


def expected_by_prompt(run, verifier, n):
    """Expected accuracy in percent by prompt, as the tables have it."""
    from vhsbench.harness.stats.curves import Grid
    from vhsbench.harness.stats.expected import expected_accuracy
    from vhsbench.harness.store.keys import of_pipeline, of_pool

    grid = Grid(of_pool(run.candidates, "nano", 1))
    scores = grid.of(of_pipeline(run.scores, "nano", 1, verifier))
    return 100 * expected_accuracy(scores, grid.correct)[:, n - 1]


def loaded_run(built):
    from vhsbench.harness.store.tables import load_run

    return load_run(built.parent / "run")


def test_a_click_on_a_number_shows_its_candidates(page, built):
    from vhsbench.harness.stats.curves import winners

    run = loaded_run(built)
    choose(page, "#slider", 300)
    line = next(row for row in find(page, "#budget-table tbody tr") if "VHS" in row.text)
    n = int(line.find_elements("css selector", "td")[1].text.rstrip("+"))
    accuracy = line.find_elements("css selector", "td")[3].text.split()[0]
    line.find_elements("css selector", "td")[3].find_element("css selector", "button").click()
    cards = shown_cards(page)
    assert len(cards) == len(run.prompts) == 24
    picks = winners(run.candidates, run.scores[run.scores["verifier"] == "vhs"], n).sort_values("prompt_id")
    expected = expected_by_prompt(run, "vhs", n)
    for card, (_, pick), chance in zip(cards, picks.iterrows(), expected, strict=True):
        assert run.prompts[pick["prompt_id"]]["prompt"] in card.text
        assert card.get_attribute("data-verdict") == ("right" if pick["correct"] else "wrong")
        assert f"#{pick['index']} of the first {n}" in card.text
        assert f"{pick['score']:+.3f}" in card.text
        assert f"right in {chance:.1f}% of all draws of {n}" in card.text
    said = find(page, "#f-said")[0].text
    assert f"best of {n}: {accuracy}% expected over all draws of {n} candidates" in said
    assert f"{picks['correct'].sum()} of these 24 picks are right" in said
    assert page.switch_to.active_element.text == "Candidates"


def test_the_number_of_a_task_shows_the_candidates_of_that_task(page):
    from selenium.webdriver.common.keys import Keys

    table = "#table-budgets_published"
    counting = heads(page, table).index("Counting")
    rows = find(page, f"{table} tbody tr")
    links = [
        row.find_elements("css selector", "td")[counting].find_elements("css selector", "button")
        for row in rows
    ]
    sources = column(page, table, 0)
    verifiers = column(page, table, heads(page, table).index("Verifier"))
    linked = [
        (source, verifier) for source, verifier, link in zip(sources, verifiers, links, strict=True) if link
    ]
    assert linked
    assert {source for source, _ in linked} == {"measured here"}  # no picture is behind a published number
    assert "no verifier" not in {verifier for _, verifier in linked}
    next(link for link in links if link)[0].send_keys(Keys.ENTER)
    assert {card.get_attribute("data-task") for card in shown_cards(page)} == {"counting"}
    assert len(shown_cards(page)) == 4


def test_all_candidates_of_a_prompt_and_how_often_each_wins(page, built):
    run = loaded_run(built)
    choose(page, "#f-verifier", "mllm-clip")
    choose(page, "#f-n", 2)
    card = shown_cards(page)[1]
    pool = opened(card)
    assert len(pool) == 8
    assert len(card.find_elements("css selector", ".pool img")) == 8
    prompt_id = next(i for i, p in enumerate(run.prompts) if f"\n{p['prompt']}\n" in f"\n{card.text}")
    mine = (run.scores["verifier"] == "mllm-clip") & (run.scores["prompt_id"] == prompt_id)
    scores = run.scores[mine].sort_values("index")["score"]
    ranks = scores.rank(ascending=False).tolist()  # of 8 candidates, rank r wins (8 - r) / 28 of the pairs
    for item, rank in zip(pool, ranks, strict=True):
        assert f"wins {100 * (8 - rank) / 28:.1f}% of draws of 2" in item.text


def test_candidates_of_equal_score_share_their_draws(browser, make_run, tmp_path):
    from vhsbench.harness.report.derived import derive
    from vhsbench.harness.report.page import write_page
    from vhsbench.harness.store.tables import load_run

    run = load_run(make_run(tmp_path / "run", tied=True))
    write_page(derive(run), tmp_path / "report.html")
    browser.get((tmp_path / "report.html").as_uri())
    choose(browser, "#f-kept", "")
    choose(browser, "#f-verifier", "vhs")
    # all are judged yes with the same score but those that are wrong are, too: any candidate may win
    shares = run.candidates.groupby("prompt_id")["correct"].mean()
    for card, share in zip(shown_cards(browser), shares, strict=True):
        assert f"right in {100 * share:.1f}% of all draws of 4" in card.text
        assert "#0 of the first 4" in card.text


def test_which_prompts_decide_a_difference(page, built):
    run = loaded_run(built)
    choose(page, "#slider", 300)
    options = [option.text for option in find(page, "#d-first option")]
    choose(page, "#d-first", options.index("nano: VHS"))
    choose(page, "#d-second", options.index("nano: MLLM w/ CLIP"))
    ns = {row[0]: int(row[1].rstrip("+")) for row in budget_rows(page)}
    sides = [
        expected_by_prompt(run, v, ns[name])
        for v, name in (("vhs", "nano: VHS"), ("mllm-clip", "nano: MLLM w/ CLIP"))
    ]
    points = (sides[0] - sides[1]) / len(run.prompts)
    said = find(page, "#d-said")[0].text
    assert f"{points.sum():+.1f} points over 24 prompts" in said
    assert f"{(points > 1e-9).sum()} favour the first, {(points < -1e-9).sum()} the second" in said
    texts = column(page, "#d-table", 0)
    sign = 1 if points.sum() >= 0 else -1
    order = sorted((i for i in range(24) if abs(points[i]) > 1e-9), key=lambda i: -sign * points[i])
    shown = [float(cell) for cell in column(page, "#d-table", 4)]
    assert shown == pytest.approx([points[i] for i in order], abs=0.005)
    assert sorted(texts) == sorted(run.prompts[i]["prompt"] for i in order)
    shares = [float(cell) for cell in column(page, "#d-table", 5)]
    assert sum(shares) == pytest.approx(100, abs=0.05 * len(shares))
    # pictures where they were kept; a number leads to the candidates of its prompt
    assert find(page, "#d-table td img")
    find(page, "#d-table tbody button")[0].click()
    assert len(shown_cards(page)) == 1
    assert texts[0] in shown_cards(page)[0].text


def test_warnings_are_on_top(browser, make_run, tmp_path):
    from vhsbench.harness.report.derived import derive
    from vhsbench.harness.report.page import write_page
    from vhsbench.harness.store.tables import load_run
    from vhsbench.harness.sweep.kept_images import image_file

    run = make_run(tmp_path / "run")
    image_file(run, "nano", 0, 0).unlink()
    write_page(derive(load_run(run)), tmp_path / "report.html")
    browser.get((tmp_path / "report.html").as_uri())
    assert find(browser, "main > section")[0].get_attribute("id") == "warnings"
    assert "a kept picture is damaged or gone" in find(browser, "#warnings")[0].text


@pytest.fixture(scope="module")
def compared(tmp_path_factory, make_run):
    """The page of two runs of other seeds side by side."""
    from vhsbench.harness.report.derived import derive
    from vhsbench.harness.report.side_by_side import side_by_side
    from vhsbench.harness.report.side_by_side_page import write_page
    from vhsbench.harness.store.tables import load_run

    folder = tmp_path_factory.mktemp("compared")
    runs = [make_run(folder / name, seeds=[i], marked=MARK) for i, name in enumerate(("old", "new"))]
    found = side_by_side([derive(load_run(run)) for run in runs], ["old", "new"])
    write_page(found, folder / "compare.html")
    return found, folder / "compare.html"


MARK = "</script><script>document.title='broken'</script>"


def test_runs_side_by_side_work_like_a_report(browser, compared):
    found, file = compared
    browser.get(file.as_uri())
    assert browser.title == "vhsbench: old and new"
    table = "#table-compare"
    overall = heads(browser, table).index("Overall %")
    rows = found.rows.reset_index(drop=True)
    assert column(browser, table, heads(browser, table).index("Run")) == rows["run"].tolist()
    place = rows.index[(rows["run"] == "new") & (rows["verifier"] == "vhs")][0]
    n = rows["best_of_n"][place]
    line = find(browser, f"{table} tbody tr")[place]
    line.find_elements("css selector", "td")[overall].find_element("css selector", "button").click()
    assert len(shown_cards(browser)) == 24
    assert all("new: nano · " in card.text for card in shown_cards(browser))
    assert (
        f"new: VHS, best of {n}: {rows['overall'][place]:.1f}% expected" in find(browser, "#f-said")[0].text
    )
    assert MARK in shown_cards(browser)[0].text
    # which prompts decide between the runs
    budget = rows["budget"][place]
    write(browser, "#budget-number", f"{budget:g}")
    options = [option.text for option in find(browser, "#d-first option")]
    choose(browser, "#d-first", options.index("new: VHS"))
    choose(browser, "#d-second", options.index("old: VHS"))
    assert f"{rows['difference'][place]:+.1f} points over 24 prompts" in find(browser, "#d-said")[0].text
    total = sum(float(cell) for cell in column(browser, "#d-table", 4))
    assert total == pytest.approx(rows["difference"][place], abs=0.005 * 24)
    find(browser, f"{table} thead th:nth-child({overall + 1}) button")[0].click()
    accuracies = [float(cell.split()[0]) for cell in column(browser, table, overall)]
    assert accuracies == sorted(accuracies)
    assert browser.get_log("browser") == []


def fits(page, pixels):
    """Whether a page is within a width, once its charts are drawn for it."""
    from selenium.webdriver.support.ui import WebDriverWait

    width = "return document.documentElement.scrollWidth"
    return WebDriverWait(page, 60).until(lambda page: page.execute_script(width) <= pixels)


def test_everything_is_within_a_phones_width(page, compared):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True},
    )
    page.refresh()
    choose(page, "#f-kept", "")
    assert len(opened(shown_cards(page)[0])) == 8
    assert fits(page, 390)
    page.get(compared[1].as_uri())
    assert fits(page, 390)
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_keyboard_reaches_all_that_can_be_clicked(page):
    clickable = (
        "return [...document.querySelectorAll('main a, main button, main input, main select, main summary')]"
    )
    assert page.execute_script(f"{clickable}.filter(e => e.tabIndex < 0).length") == 0
    assert page.execute_script(f"{clickable}.length") > 50


def test_nothing_went_wrong_on_the_way(page):
    assert page.get_log("browser") == []


def test_the_first_stop_of_the_keyboard_skips_to_the_results(page):
    from selenium.webdriver.common.keys import Keys

    find(page, "body")[0].send_keys(Keys.TAB)
    focused = page.switch_to.active_element
    assert focused.text == "Skip to the results"
    assert (
        page.execute_script("return document.querySelectorAll('img:not([alt]), input:not([id])').length") == 0
    )


def test_people_label_by_keyboard_and_their_answers_are_kept_and_downloaded(
    browser, make_run, marked, tmp_path
):
    from vhsbench.harness.report.label_page import write_label_page
    from vhsbench.harness.report.people_answers import read_answers
    from vhsbench.harness.report.people_sample import draw
    from vhsbench.harness.store.tables import load_run

    run = load_run(make_run(tmp_path / "run", gallery_prompts=24, marked=marked))
    drawn = draw(run, 4)
    marked_at = int(drawn.rows.index[drawn.rows["prompt_id"] == 0][0])
    file = tmp_path / "label.html"
    assert write_label_page(run, drawn, marked_at + 1, file) == marked_at + 1

    def press(keys):
        for key in keys:
            find(browser, "body")[0].send_keys(key)

    def called(name):
        box = find(browser, "#name")[0]
        box.clear()
        box.send_keys(f"{name}\n")

    def state():
        pressed = find(browser, "[aria-pressed=true]")
        return find(browser, "#place")[0].text.split(" of ")[0], [
            e.get_attribute("data-answer") for e in pressed
        ]

    browser.get(file.as_uri())
    press("y")
    assert find(browser, "#said")[0].text == "Enter your name first."
    assert find(browser, "#count")[0].text.startswith("0 of ")
    called("anna")
    press("ynu")
    assert state() == ("4", [])
    press("bb")
    assert state() == ("2", ["no"])
    press("y")  # another answer, and on to the first that is open
    assert state() == ("4", [])
    called("ben")
    assert state() == ("1", [])
    press("n")
    browser.refresh()
    assert state() == ("2", [])  # ben's, kept
    called("anna")
    assert state() == ("4", [])
    (saves := tmp_path / "saves").mkdir()
    saved_as = downloaded(browser, saves, "document.getElementById('download')")
    assert [(a.place, a.labeller, a.answer) for a in read_answers(saved_as, drawn)] == [
        (0, "anna", "yes"), (1, "anna", "yes"), (2, "anna", "unsure"),
    ]  # fmt: skip
    press("y" * (marked_at - 3))
    assert find(browser, "#prompt")[0].text.endswith(marked)
    assert browser.title == "vhsbench: label made"
    press("y")
    assert find(browser, "#end")[0].is_displayed()
    assert not find(browser, "#card")[0].is_displayed()
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
