"""docs/examples/ci: the workflows are valid and careful, and what posts the summary speaks to a stand-in server."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import typer
import yaml
from PIL import Image

from vhsbench.harness.cli import app
from vhsbench.harness.regress.compare import compare
from vhsbench.harness.regress.gate import decide
from vhsbench.harness.regress.gate_config import GateConfig
from vhsbench.harness.regress.report import markdown
from vhsbench.harness.regress.run import Regression
from vhsbench.version import __version__

CI = Path(__file__).parents[3] / "docs" / "examples" / "ci"
WORKFLOWS = sorted(CI.glob("*.yml"))
MARKER = "<!-- vhsbench regress -->"
SHA = "a" * 40


def scripts(value: object, key: str = "") -> Iterator[str]:
    """The shell text of a workflow: GitHub's `run`, GitLab's `script`."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from scripts(item, str(name))
    elif isinstance(value, list):
        for item in value:
            yield from scripts(item, key)
    elif key in ("run", "script"):
        yield str(value)


def read(name: str) -> dict:
    return yaml.safe_load((CI / name).read_text(encoding="utf-8"))


def test_every_command_of_the_workflows_is_one_that_the_command_line_takes():
    commands = []
    for file in WORKFLOWS:
        for text in scripts(yaml.safe_load(file.read_text(encoding="utf-8"))):
            commands += re.findall(r"^\s*vhsbench (.*?)(?: \|\| .*)?$", text, re.MULTILINE)
            assert re.findall(r"vhsbench==([\d.]+)", text) in ([], [__version__])
    assert len(commands) == 2
    for command in commands:
        name, *arguments = shlex.split(command)
        typer.main.get_command(app).commands[name].make_context(name, arguments).close()


def test_what_runs_a_strangers_files_has_no_rights_and_what_has_rights_runs_none_of_them():
    gate, comment = read("github.yml"), read("github-comment.yml")
    assert gate["permissions"] == {"contents": "read"}
    assert list(gate[True]) == ["pull_request"]  # YAML reads `on` so; pull_request_target would have secrets
    assert not re.search(r"secrets\.|github\.token|GITHUB_TOKEN", (CI / "github.yml").read_text())
    assert comment["permissions"] == {}
    assert comment["jobs"]["comment"]["permissions"] == {
        "actions": "read", "contents": "write", "pull-requests": "write",
    }  # fmt: skip
    assert list(comment[True]) == ["workflow_run"]
    assert comment[True]["workflow_run"]["workflows"] == [gate["name"]]
    steps = [s for w in (gate, comment) for job in w["jobs"].values() for s in job["steps"]]
    uses = [step for step in steps if "uses" in step]
    assert all(re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", step["uses"]) for step in uses)
    checkouts = [step["with"] for step in uses if "checkout" in step["uses"]]
    assert [(c["persist-credentials"], "ref" in c) for c in checkouts] == [(False, False)] * 2
    assert not any("${{" in text for w in (gate, comment) for text in scripts(w))  # no text becomes code
    lab = read("gitlab.yml")
    assert not any("TOKEN" in text for text in scripts(lab["vhsbench-gate"]))
    assert lab["vhsbench-comment"]["environment"]["name"] == "vhsbench-comment"


def test_the_workflows_take_each_exit_code_for_what_it_is(tmp_path):
    """Inconclusive warns; a failed gate, a mistake and a bug fail the job."""
    (step,) = [s for s in read("github.yml")["jobs"]["gate"]["steps"] if s.get("name") == "Gate"]
    fake = tmp_path / "vhsbench"
    fake.write_text('#!/bin/sh\nexit "$CODE"\n')
    fake.chmod(0o755)
    ended = {}
    for code in (0, 1, 2, 3, 4, 70):
        path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CODE": str(code)}
        done = subprocess.run(["bash", "-eo", "pipefail", "-c", step["run"]], env=path, capture_output=True)
        ended[code] = done.returncode
        assert (b"::warning::" in done.stdout) == (code in (3, 4))
    assert ended == {0: 0, 1: 1, 2: 2, 3: 0, 4: 0, 70: 70}
    assert read("gitlab.yml")["vhsbench-gate"]["allow_failure"] == {"exit_codes": [3, 4]}


class Forge(ThreadingHTTPServer):
    """A stand-in for GitHub and GitLab: the endpoints that the script uses, and what they keep."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.comments: list[dict] = []
        self.refs: dict[str, str] = {}
        self.objects: dict[str, dict] = {}
        self.uploads: list[bytes] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(
        self, method: str, path: str, query: dict, data: object, headers: Message
    ) -> tuple[int, object]:
        repo, lab = "/repos/o/r", "/projects/7/merge_requests/5/notes"
        lists = {f"{repo}/issues/12/comments": "user", lab: "author"}
        if path.startswith(repo) and headers["Authorization"] != "Bearer secret":
            return 401, {}
        if path.startswith(("/projects", "/user")) and headers["PRIVATE-TOKEN"] != "secret":
            return 401, {}
        if method == "GET" and path == f"{repo}/pulls":
            open_ = {"number": 12, "head": {"sha": SHA}}
            return 200, [open_] if query["head"] == ["someone:fix/a&b"] else []
        if method == "GET" and path == "/user":
            return 200, {"id": 3}
        if path in lists and method == "GET":
            start = (int(query["page"][0]) - 1) * int(query["per_page"][0])
            return 200, self.comments[start : start + int(query["per_page"][0])]
        if path in lists and method == "POST":
            return 201, self.say(str(data["body"]), 3, "github-actions[bot]")
        if (method, path.rpartition("/")[0]) in (("PATCH", f"{repo}/issues/comments"), ("PUT", lab)):
            (found,) = [c for c in self.comments if c["id"] == int(path.rpartition("/")[2])]
            return 200, found | {"was": found.update(body=data["body"])}
        if method == "POST" and path == "/projects/7/uploads":
            self.uploads.append(data)
            return 201, {"url": f"/uploads/{len(self.uploads)}/changed_picks.png"}
        if method == "POST" and (made := re.fullmatch(rf"{repo}/git/(blobs|trees|commits)", path)):
            sha = f"{made[1]}{len(self.objects)}"
            self.objects[sha] = data
            return 201, {"sha": sha}
        if method == "POST" and path == f"{repo}/git/refs":
            self.refs[data["ref"]] = data["sha"]
            return 201, {}
        if method == "PATCH" and path.startswith(f"{repo}/git/refs/"):
            ref = path.removeprefix(f"{repo}/git/")
            if ref not in self.refs:
                return 422, {"message": "Reference does not exist"}
            assert data["force"] is True
            self.refs[ref] = data["sha"]
            return 200, {}
        return 404, {"message": f"{method} {path}"}

    def say(self, body: str, author: int, login: str) -> dict:
        comment = {
            "id": 100 + len(self.comments),
            "body": body,
            "user": {"login": login},
            "author": {"id": author},
        }
        self.comments.append(comment)
        return comment


class _Handler(BaseHTTPRequestHandler):
    def _any(self) -> None:
        body: object = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if body and self.headers["Content-Type"] == "application/json":
            body = json.loads(body)
        place = urlsplit(self.path)
        code, found = self.server.answer(self.command, place.path, parse_qs(place.query), body, self.headers)
        said = json.dumps(found).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    do_GET = do_POST = do_PUT = do_PATCH = _any

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def forge():
    with Forge() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def report(tmp_path, simulated):
    """A report as `vhsbench regress --out` writes it, with a picture."""
    gate = GateConfig(permutations=199, auc_permutations=199)
    candidates, a, b = simulated(np.random.default_rng(4), 12, 6, (1.6, 0.0))
    found = compare(candidates, a, b, gate)
    folder = tmp_path / "report"
    folder.mkdir()
    drawn = folder / "changed_picks.png"
    Image.new("RGB", (4, 4), "green").save(drawn)
    text = markdown(Regression(gate, decide(found, gate), found, None, {}, None), drawn)
    (folder / "summary.md").write_text(text, encoding="utf-8")
    return folder


def post(forge: Forge, kind: str, report: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"], "RUN_URL": "https://ci.example/run/1",
        "GITHUB_TOKEN": "secret", "GITHUB_API_URL": forge.url, "GITHUB_SERVER_URL": "https://forge.example",
        "GITHUB_REPOSITORY": "o/r", "HEAD_OWNER": "someone", "HEAD_BRANCH": "fix/a&b", "HEAD_SHA": SHA,
        "VHSBENCH_TOKEN": "secret", "CI_API_V4_URL": forge.url, "CI_PROJECT_ID": "7", "CI_MERGE_REQUEST_IID": "5",
    }  # fmt: skip
    command = [sys.executable, "-I", str(CI / "post_summary.py"), kind, str(report)]
    return subprocess.run(command, env=environment | changes, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("kind", ["github", "gitlab"])
def test_one_comment_is_made_and_then_updated_in_place(forge, report, kind):
    strangers = [forge.say(f"{MARKER}\nI look like the gate", 9, "stranger")["body"]]
    strangers += [forge.say(f"comment {i}", 9, "stranger")["body"] for i in range(120)]  # more than a page
    first = post(forge, kind, report)
    assert first.returncode == 0, first.stderr
    assert [c["body"] for c in forge.comments[:121]] == strangers
    (mine,) = forge.comments[121:]
    summary = (report / "summary.md").read_text(encoding="utf-8")
    before = mine["body"]
    assert before.startswith(f"{MARKER}\n## Verifier regression: ")
    assert "https://ci.example/run/1" in before
    assert "](changed_picks.png)" in summary
    assert "](changed_picks.png)" not in before
    assert "data:" not in before
    (report / "summary.md").write_text(summary.replace("## Verifier regression", "## Second regression"))
    again = post(forge, kind, report)
    assert again.returncode == 0, again.stderr
    assert len(forge.comments) == 122
    assert mine["body"].startswith(f"{MARKER}\n## Second regression")
    assert [c["body"] for c in forge.comments[:121]] == strangers
    (url,) = re.findall(r"!\[worst changed picks\]\((.*?)\)", mine["body"])
    picture = (report / "changed_picks.png").read_bytes()
    if kind == "gitlab":
        assert url == "/uploads/2/changed_picks.png"
        assert picture in forge.uploads[1]
        return
    ((ref, sha),) = forge.refs.items()
    assert ref == "refs/heads/vhsbench-pictures/12"
    assert url == f"https://forge.example/o/r/blob/{sha}/changed_picks.png?raw=true"
    commit = forge.objects[sha]
    assert commit["parents"] == []
    (entry,) = forge.objects[commit["tree"]]["tree"]
    assert base64.b64decode(forge.objects[entry["sha"]]["content"]) == picture


def test_only_the_head_of_an_open_pull_request_gets_a_comment(forge, report):
    for changes in ({"HEAD_SHA": "b" * 40}, {"HEAD_BRANCH": "other"}):
        done = post(forge, "github", report, **changes)
        assert (done.returncode, forge.comments, forge.objects) == (0, [], {})
        assert "nothing is posted" in done.stdout


def test_a_report_that_is_missing_replaces_the_old_verdict(forge, report):
    post(forge, "gitlab", report)
    (report / "summary.md").unlink()
    assert post(forge, "gitlab", report).returncode == 0
    (mine,) = forge.comments
    assert "no report" in mine["body"]


@pytest.mark.parametrize("name", ["summary.md", "changed_picks.png"])
def test_a_link_in_a_strangers_report_is_not_followed(forge, report, tmp_path, name):
    secret = io.BytesIO()
    Image.new("RGB", (2, 2), "red").save(secret, "png")
    (tmp_path / "secret").write_bytes(b"## secret" if name == "summary.md" else secret.getvalue())
    (report / name).unlink()
    (report / name).symlink_to(tmp_path / "secret")
    assert post(forge, "gitlab", report).returncode == 0
    assert forge.uploads == []
    assert "## secret" not in forge.comments[0]["body"]


def test_what_is_no_picture_is_not_uploaded_and_a_long_summary_is_cut(forge, report):
    (report / "changed_picks.png").write_bytes(b"<svg onload='x'/>")
    (report / "summary.md").write_text("![a](changed_picks.png)" + "x" * 100_000)
    assert post(forge, "github", report).returncode == 0
    assert forge.objects == {}
    assert len(forge.comments[0]["body"]) < 65_536


@pytest.mark.parametrize("kind", ["github", "gitlab"])
def test_a_strangers_text_does_nothing_in_the_posters_name(forge, report, kind):
    """No quick action, mention, HTML, or link but those to the run and to the report's own picture."""
    text = "ok\n/merge\n  /approve\n@team <img src=x> [a](//b) ![c](d) [e][f]\n[f]: //g\nhttps://h \xff\n"
    (report / "summary.md").write_bytes(text.encode("latin-1"))
    assert post(forge, kind, report).returncode == 0
    (body,) = (note["body"] for note in forge.comments)
    posted = body.removeprefix(MARKER)
    assert not re.search(r"(?m)^\s*/", posted)
    assert "@team" not in posted
    assert "<" not in posted
    assert "]:" not in posted
    assert re.findall(r"\]\(([^)]*)\)|(https?://\S*)", posted.partition("[The run]")[0]) == []


def test_a_refusal_is_said_in_one_line_without_the_token(forge, report):
    done = post(forge, "gitlab", report, VHSBENCH_TOKEN="wrong-token")
    assert done.returncode == 1
    assert "answered 401" in done.stderr
    assert "wrong-token" not in done.stderr
    assert "Traceback" not in done.stderr
