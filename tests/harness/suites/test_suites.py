"""Suites read published formats, refuse what is damaged with its line, and choose some of their prompts."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vhsbench.harness import suites
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.config.run import ConfigError, parse
from vhsbench.harness.geneval import prompts as geneval
from vhsbench.harness.geneval.nano_prompts import balanced, composed_prompts, nano_prompts
from vhsbench.harness.geneval.prompts import picture, to_json_lines
from vhsbench.harness.geneval.rules import colored, evaluate
from vhsbench.harness.geneval.shapes import ShapeDetection
from vhsbench.harness.suites import Suite, in_turn
from vhsbench.harness.sweep.run import load_prompts

ATOMS = {
    "prompt": "two red cubes", "atom_count": 3, "skills": ["count", "attribute", "object"],
    "vqa_list": [["How many cubes are in the image?", "two"], ["Are the cubes red?", "Yes"], ["Are there any cubes?", "Yes"]],
}  # fmt: skip
DPG = """item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,question_natural_language
dog,"A dog, with a collar",,1,0,entity,whole,entity - whole (dog),Is there a dog?
dog,"A dog, with a collar",,3,1,entity,part,entity - part (collar),Is there a collar?
dog,"A dog, with a collar",,4,"1, 3",attribute,color,attribute - color (collar),Is the dog's collar red?
sea,The sea,,1,0,entity,whole,entity - whole (sea),Is there a sea?
"""


def read(name, tmp_path, text, file="data.txt", **options):
    path = tmp_path / file
    path.write_text(text, encoding="utf-8")
    return [prompt for _, prompt in suites.create(name, str(path), **options).prompts()]


def refused(name, tmp_path, text, file="data.txt", **options):
    with pytest.raises(VhsbenchError) as error:
        read(name, tmp_path, text, file, **options)
    return str(error.value).removeprefix(f"{tmp_path}/")


def test_geneval_2(tmp_path):
    (made,) = read("geneval2", tmp_path, json.dumps(ATOMS) + "\n")
    assert (made["prompt"], made["tag"]) == ("two red cubes", "3 atoms")
    assert made["questions"][0] == {
        "question": "How many cubes are in the image?",
        "answer": "two",
        "parents": [],
    }
    assert [q["answer"] for q in made["questions"]] == ["two", "Yes", "Yes"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"atom_count": 0}, "data.txt, line 1, key 'atom_count': a whole number from 1 to 1,000 is needed."),
        ({"vqa_list": [["How many?"]]}, "data.txt, line 1, key 'vqa_list': a list of [question, answer] is needed."),
        ({"vqa_list": []}, "data.txt, line 1: 'questions' is needed, a list of 1 to 1,000 questions."),
        ({"vqa_list": [[3, "Yes"]]}, "data.txt, line 1, key 'questions.0': a text of 1 to 10,000 characters is needed."),
        ({"prompt": " "}, "data.txt, line 1: the prompt is empty."),
        ({"prompt": 3}, "data.txt, line 1: no JSON object with a text 'prompt'."),
    ],
)  # fmt: skip
def test_a_damaged_line_of_geneval_2_is_named(tmp_path, change, said):
    assert refused("geneval2", tmp_path, json.dumps(ATOMS | change)) == said


def test_dpg_bench(tmp_path):
    dog, sea = read("dpg-bench", tmp_path, DPG, "dpg_bench.csv")
    assert (dog["prompt"], sea["prompt"]) == ("A dog, with a collar", "The sea")
    # by place, not by number: question 2 is not there
    assert [q["parents"] for q in dog["questions"]] == [[], [0], [0, 1]]
    assert [q["answer"] for q in dog["questions"]] == ["yes"] * 3


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("1, 3", "1, 2", "data.txt, line 4: depends on question 2, which item 'dog' lacks."),
        (",4,", ",3,", "data.txt, line 4: item 'dog' has question 3 twice."),
        (",4,", ",x,", "data.txt, line 4, column 'proposition_id': a whole number is needed, not 'x'."),
        ("dependency", "parents", "data.txt, line 1: no column 'dependency'; known:"),
        (",entity,part", ",part", "data.txt, line 3: 8 cells, but the first line names 9 columns."),
        ("The sea", '"The sea', "data.txt, line 5: not CSV: unexpected end of data."),
        ('"A dog, with a collar",,3', "Another,,3", "data.txt, line 3: item 'dog' has another text than at line 2."),
    ],
)  # fmt: skip
def test_a_damaged_row_of_dpg_bench_is_named(tmp_path, old, new, said):
    assert refused("dpg-bench", tmp_path, DPG.replace(old, new)).startswith(said)


def test_lists_with_categories(tmp_path):
    made = read("drawbench", tmp_path, 'Prompts,Category\nA red car.,Colors\n"One, two.",Counting\n', "d.csv")
    assert made == [{"prompt": "A red car.", "tag": "Colors"}, {"prompt": "One, two.", "tag": "Counting"}]
    table = 'Prompt\tCategory\tChallenge\tNote\n"bond" \tAbstract\tBasic\t\n'  # tabs, and quotes that mean nothing
    assert read("partiprompts", tmp_path, table, "p.tsv") == [{"prompt": '"bond"', "tag": "Abstract"}]
    assert read("partiprompts", tmp_path, table, "p.tsv", task="Challenge")[0]["tag"] == "Basic"
    assert (
        refused("drawbench", tmp_path, "Prompts,Category\n ,Colors\n")
        == "data.txt, line 2: the prompt is empty."
    )
    assert refused("drawbench", tmp_path, "Prompts,Category\n") == "data.txt: has no prompts."


def test_t2i_compbench_has_a_task_for_each_file(tmp_path):
    for name in ("color", "spatial"):
        (tmp_path / f"{name}_val.txt").write_text(f"a {name} thing\nanother\n")
    (tmp_path / "color_train.txt").write_text("not this\n")
    found = suites.create("t2i-compbench", str(tmp_path)).prompts(2)
    assert found == [
        (f"{tmp_path}/color_val.txt, line 1", {"prompt": "a color thing", "tag": "color"}),
        (f"{tmp_path}/spatial_val.txt, line 1", {"prompt": "a spatial thing", "tag": "spatial"}),
    ]
    with pytest.raises(VhsbenchError, match=r"no folder with color_val\.txt"):
        suites.create("t2i-compbench", str(tmp_path / "elsewhere")).prompts()


def test_own_prompts(tmp_path):
    assert read("own", tmp_path, "a cat\n\na dog\n") == [
        {"prompt": p, "tag": "own"} for p in ("a cat", "a dog")
    ]
    assert read("own", tmp_path, '{"prompt": "a cat"}\n') == [{"prompt": "a cat", "tag": "own"}]


def test_what_does_not_come_along_is_asked_for():
    for name in suites.REGISTRY:
        suite = suites.create(name)
        assert (suite.info()["prompts"] is None) == bool(suite.copy)
        if suite.copy:
            with pytest.raises(
                VhsbenchError, match=f"suite '{name}' does not come with vhsbench; give 'path'"
            ):
                suite.prompts()


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ({"prompt": "a cat", "tag": "steps"}, "x: the task 'steps' has the name of a column of tables; name it otherwise."),
        ({"prompt": "a cat"}, "x: a prompt has a text 'tag', not None."),
        ({"prompt": "", "tag": "cats"}, "x: a prompt has a text 'prompt', not ''."),
    ],
)  # fmt: skip
def test_prompts_that_tables_cannot_hold_are_refused_whatever_the_suite(prompt, said):
    with pytest.raises(VhsbenchError) as error:
        Suite("mine", lambda: [("x", prompt)], judges=("clip-score",)).prompts()
    assert str(error.value) == said


@given(st.lists(st.sampled_from("abc"), max_size=12), st.integers(1, 15))
def test_some_prompts_are_of_every_task_alike(tags, count):
    prompts = [(str(i), {"tag": tag}) for i, tag in enumerate(tags)]
    chosen = in_turn(prompts, count)
    assert len(chosen) == min(count, len(tags))
    assert chosen == sorted(chosen, key=prompts.index)
    of_each = [sum(p["tag"] == tag for _, p in chosen) for tag in set(tags)]
    left = [tags.count(tag) - n for tag, n in zip(set(tags), of_each, strict=True)]
    # a task with prompts to spare has at most one less than any other
    assert all(n >= max(of_each) - 1 for n, spare in zip(of_each, left, strict=True) if spare)


def config(text):
    return parse(f"generators: [{{name: nano}}]\n{text}\n", "x.yaml")


def test_prompts_of_older_files_are_suites(tmp_path):
    """One mechanism: what `prompts` names is read by the suites, and is what it was."""
    assert load_prompts(config("")) == nano_prompts()["evaluation"] == load_prompts(config("suite: nano"))
    assert load_prompts(config("prompts: {limit: 7, split: train}")) == balanced(nano_prompts()["train"], 7)
    assert load_prompts(config("prompts: {source: geneval, limit: 3}")) == geneval.official()[:3]
    file = tmp_path / "mine.jsonl"
    file.write_text(to_json_lines([geneval.single("star"), geneval.two("star", "ring")]))
    mine = load_prompts(config(f"prompts: {{source: '{file}', limit: 1}}"))
    assert (
        mine
        == load_prompts(config(f"suite: {{name: geneval, path: '{file}', limit: 1}}"))
        == [geneval.single("star")]
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("suite: nano\nprompts: geneval", "x.yaml: 'prompts' and 'suite' both say what the candidates are of; give one of them."),
        ("suite: geneval2", "x.yaml, line 2, key 'suite': suite 'geneval2' does not come with vhsbench; give 'path', your own copy of"),
        ("suite: genevl2", "x.yaml, line 2, key 'suite': unknown suite 'genevl2'; did you mean 'geneval2'?"),
        ("suite: {name: nano, path: x}", "x.yaml, line 2, key 'suite': suite 'nano' has no option 'path'; known: split."),
        ("suite: {name: nano, options: {split: test}}", "x.yaml, line 2, key 'suite': suite 'nano' has no split 'test'"),
    ],
)  # fmt: skip
def test_a_suite_that_cannot_be_is_named_with_its_line(text, said):
    with pytest.raises(ConfigError) as error:
        config(text)
    assert str(error.value).startswith(said)


def test_a_file_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.txt cannot be read: no such file or directory\."):
        load_prompts(config(f"suite: {{name: own, path: {tmp_path / 'none.txt'}}}"))


def at(shape, x, y, color):
    return {shape: [ShapeDetection((x - 8, y - 8, x + 8, y + 8), 0.9, None, color)]}


def judged(made, objects):
    return evaluate(made, objects, [[d.color for d in found] for found in colored(made, objects)]).correct


def test_three_placed_objects_ask_for_what_their_text_says():
    """The judge takes the picture that the text describes, and no other: colours and places count."""
    made = geneval.chain("x", [("star", "red"), ("ring", "blue"), ("cross", "green")], ["above", "left of"])
    assert made["prompt"] == "a photo of a red star above a blue ring left of a green cross"

    def right(star="red", ring_y=32, cross_x=53):
        objects = (
            at("star", 11, 11, star) | at("ring", 11, ring_y, "blue") | at("cross", cross_x, 32, "green")
        )
        return judged(made, objects)

    assert right()
    assert not any([right(star="pink"), right(ring_y=-20), right(cross_x=-30)])


def test_a_coloured_count_is_of_that_colour_and_no_more():
    made = geneval.coloured_count("x", "cross", "red", 2)
    assert made["prompt"] == "a photo of two red crosses"
    one, blue = at("cross", 11, 11, "red")["cross"], at("cross", 53, 53, "blue")["cross"]
    assert judged(made, {"cross": one * 2})
    assert not any(judged(made, {"cross": found}) for found in (one, one + blue, one * 3))


def test_nanos_second_suite_is_new_to_the_verifiers_and_fits_the_text_encoder():
    prompts = composed_prompts()
    assert Counter(p["tag"] for p in prompts) == {"count_color": 24, "place_color": 32, "three_placed": 32}
    assert len({picture(p) for p in prompts}) == len({p["prompt"] for p in prompts}) == 88
    assert not {p["prompt"] for p in prompts} & {
        p["prompt"] for part in nano_prompts().values() for p in part
    }
    for prompt in prompts:
        clauses = prompt["include"]
        number = {"count_color": 1, "place_color": 2, "three_placed": 3}[prompt["tag"]]
        assert len({c["class"] for c in clauses}) == len({c["color"] for c in clauses}) == number
        assert ["position" in c for c in clauses] == [False, True, True][:number]
    assert (
        max(len(p["prompt"].split()) for p in prompts) < 16
    )  # one token a word, and one that begins the text
