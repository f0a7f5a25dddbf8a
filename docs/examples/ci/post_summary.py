"""Post the summary of `vhsbench regress --out REPORT` as one comment, which each later run updates in place.

Usage: python post_summary.py github|gitlab REPORT

It needs Python's standard library alone, and runs nothing of what it posts. The environment says where to:

* github: GITHUB_TOKEN, GITHUB_API_URL, GITHUB_SERVER_URL, GITHUB_REPOSITORY, and HEAD_OWNER, HEAD_BRANCH, HEAD_SHA of the
  pull request. A picture goes to an orphan branch of its own, as comments show no data: URLs and have no API for uploads.
* gitlab: VHSBENCH_TOKEN, CI_API_V4_URL, CI_PROJECT_ID, CI_MERGE_REQUEST_IID. A picture becomes an upload of the project.
* both: RUN_URL, a page of the run that made the report.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path

MARKER = "<!-- vhsbench regress -->"  # the first line of the comment, by which it is found again
PICTURE = "changed_picks.png"  # as vhsbench names it
MOST_CHARACTERS = 60_000  # GitHub takes 65,536
MOST_BYTES = 10_000_000
PNG = b"\x89PNG\r\n\x1a\n"
BOT = "github-actions[bot]"  # the author of what GITHUB_TOKEN posts


class Api:
    """Requests of an API, with a token in the header `name`."""

    def __init__(self, url: str, name: str, token: str) -> None:
        self.url, self.headers = url.rstrip("/"), {name: token, "User-Agent": "vhsbench"}

    def send(self, method: str, path: str, data: object = None, body: bytes | None = None, kind: str = ""):
        """Send `data` as JSON, or a body of a kind; return the answer's JSON."""
        if data is not None:
            body, kind = json.dumps(data).encode(), "application/json"
        headers = self.headers | ({"Content-Type": kind} if kind else {})
        request = urllib.request.Request(f"{self.url}{path}", body, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def all_of(self, path: str) -> list[dict]:
        """Return the items of all pages."""
        items, page = [], 1
        while True:
            found = self.send("GET", f"{path}?per_page=100&page={page}")
            items += found
            if len(found) < 100:
                return items
            page += 1


def github(report: Path) -> str:
    token, repository = os.environ["GITHUB_TOKEN"], os.environ["GITHUB_REPOSITORY"]
    api = Api(os.environ["GITHUB_API_URL"], "Authorization", f"Bearer {token}")
    repo = f"/repos/{repository}"
    head = urllib.parse.quote(f"{os.environ['HEAD_OWNER']}:{os.environ['HEAD_BRANCH']}", safe="")
    pulls = api.send("GET", f"{repo}/pulls?state=open&head={head}")
    numbers = [pull["number"] for pull in pulls if pull["head"]["sha"] == os.environ["HEAD_SHA"]]
    if not numbers:
        return "no open pull request has this commit as its head: nothing is posted"

    def upload(picture: bytes) -> str:
        """Make a commit without parents that has the picture alone, and point the branch to it."""
        content = base64.b64encode(picture).decode()
        blob = api.send("POST", f"{repo}/git/blobs", {"content": content, "encoding": "base64"})
        entry = {"path": PICTURE, "mode": "100644", "type": "blob", "sha": blob["sha"]}
        tree = api.send("POST", f"{repo}/git/trees", {"tree": [entry]})
        commit = api.send(
            "POST",
            f"{repo}/git/commits",
            {"message": "vhsbench: picture", "tree": tree["sha"], "parents": []},
        )
        name = f"heads/vhsbench-pictures/{numbers[0]}"
        try:
            api.send("PATCH", f"{repo}/git/refs/{name}", {"sha": commit["sha"], "force": True})
        except urllib.error.HTTPError as error:
            if error.code not in (404, 422):  # it does not exist yet
                raise
            api.send("POST", f"{repo}/git/refs", {"ref": f"refs/{name}", "sha": commit["sha"]})
        return f"{os.environ['GITHUB_SERVER_URL']}/{repository}/blob/{commit['sha']}/{PICTURE}?raw=true"

    body = comment(report, upload)
    comments = api.all_of(f"{repo}/issues/{numbers[0]}/comments")
    mine = [c["id"] for c in comments if c["user"]["login"] == BOT and c["body"].startswith(MARKER)]
    if mine:
        api.send("PATCH", f"{repo}/issues/comments/{mine[0]}", {"body": body})
        return f"updated comment {mine[0]}"
    return f"made comment {api.send('POST', f'{repo}/issues/{numbers[0]}/comments', {'body': body})['id']}"


def gitlab(report: Path) -> str:
    api = Api(os.environ["CI_API_V4_URL"], "PRIVATE-TOKEN", os.environ["VHSBENCH_TOKEN"])
    project = f"/projects/{os.environ['CI_PROJECT_ID']}"
    notes = f"{project}/merge_requests/{os.environ['CI_MERGE_REQUEST_IID']}/notes"

    def upload(picture: bytes) -> str:
        boundary = uuid.uuid4().hex
        head = f'Content-Disposition: form-data; name="file"; filename="{PICTURE}"\r\nContent-Type: image/png'
        form = f"--{boundary}\r\n{head}\r\n\r\n".encode() + picture + f"\r\n--{boundary}--\r\n".encode()
        kind = f"multipart/form-data; boundary={boundary}"
        return api.send("POST", f"{project}/uploads", body=form, kind=kind)["url"]

    me = api.send("GET", "/user")["id"]
    body = comment(report, upload)
    mine = [n["id"] for n in api.all_of(notes) if n["author"]["id"] == me and n["body"].startswith(MARKER)]
    if mine:
        api.send("PUT", f"{notes}/{mine[0]}", {"body": body})
        return f"updated note {mine[0]}"
    return f"made note {api.send('POST', notes, {'body': body})['id']}"


def comment(report: Path, upload) -> str:
    """Write the comment; `upload` takes a PNG and returns its URL. Without a report it says so, in place of an old one."""
    file, picture = report / "summary.md", report / PICTURE
    link = f"\n[The run]({os.environ['RUN_URL']}) has the whole report.\n"
    # a link would lead out of the report, which a stranger made, to secrets such as the environment
    if any(place.is_symlink() for place in (report, file, picture)) or not file.is_file():
        return f"{MARKER}\n## Verifier regression: no report\n\nThe gate ended without a verdict.\n{link}"
    with file.open("rb") as stream:  # no more than can be posted
        text = harmless(stream.read(4 * MOST_CHARACTERS + 4).decode("utf-8", "replace"))
    if len(text) > MOST_CHARACTERS:
        text = text[:MOST_CHARACTERS] + "\n\n(cut off)\n"
    place = harmless(f"]({PICTURE})")
    if place in text and picture.is_file() and picture.stat().st_size <= MOST_BYTES:
        data = picture.read_bytes()
        if data.startswith(PNG):
            text = text.replace(place, f"]({upload(data)})")
    return f"{MARKER}\n{text}{link}"


def harmless(text: str) -> str:
    """Take from a stranger's text what acts in the poster's name: HTML, links, mentions, and GitLab's quick actions."""
    for old, new in (
        ("<", "&lt;"), ("](", "]&#40;"), ("]:", "]&#58;"), ("://", ":&#8203;//"), ("@", "@&#8203;"),
    ):  # fmt: skip
        text = text.replace(old, new)
    return re.sub(r"(?m)^([ \t]*)/", r"\1&#8203;/", text)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("github", "gitlab"):
        sys.exit(__doc__)
    try:
        print({"github": github, "gitlab": gitlab}[sys.argv[1]](Path(sys.argv[2])))
    except urllib.error.HTTPError as error:
        sys.exit(f"error: {error.url} answered {error.code}: {error.read()[:300].decode(errors='replace')}")
    except KeyError as error:
        sys.exit(f"error: the environment or an answer has no {error}.")
