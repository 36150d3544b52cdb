"""A head's folder on its way to the Hub, which is a server of this test's.

It would catch: a card without the target's name or licence, weights or judge.json left behind, a push of what works on
this machine alone, a traceback where there is no network.
"""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from vllm_judge import JudgeHead
from vllm_judge.cli import app

TARGET = "someone/Target-70B"
NAME = 'name a Hub repository, or what lies beside the file ("." or "./folder").'


class FakeHub(BaseHTTPRequestHandler):
    """Knows TARGET, and takes commits of small files."""

    asked: list[tuple[str, Any]]
    sent: dict[str, bytes]

    def do_GET(self) -> None:
        if self.path.startswith(f"/api/models/{TARGET}"):
            card = {"license": "llama3.1", "license_link": "LICENSE", "tags": ["text-generation"]}
            self._answer({"id": TARGET, "cardData": card, "siblings": []})
        else:
            self._answer({"error": "Repository not found"}, 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != "Bearer hf_right":
            self._answer({"error": "Invalid credentials in Authorization header"}, 401)
        elif self.path == "/api/repos/create":
            self.asked.append((self.path, json.loads(body)))
            self._answer({"url": "https://huggingface.co/me/Target-70B-judge", "id": "me/Target-70B-judge"})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self._answer(
                {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
            )
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.sent[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            commit = {
                "commitUrl": "https://huggingface.co/me/Target-70B-judge/commit/abc",
                "commitOid": "abc",
                "hookOutput": "",
            }
            self._answer(commit | {"success": True})
        else:
            self._answer({"error": f"not expected: {self.path}"}, 500)

    def _answer(self, content: Any, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[FakeHub]]:
    class Handler(FakeHub):
        asked, sent = [], {}

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    yield Handler
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "Target-70B-judge"
    JudgeHead(8, target_model=TARGET, provenance={"method": "none"}).save_pretrained(folder)
    (folder / "README.md").write_text("---\ntags: [judge-decoding]\n---\n\n# A head\n\nIts story.\n")
    write(folder, {"method": "draft_model", "model": "someone/Draft-8B", "judge": {"model": "."}})
    for name in ("roc.png", "answers.jsonl", ".notes.txt"):
        (folder / name).write_bytes(b"x")
    return folder


def write(folder: Path, config: dict[str, Any]) -> None:
    (folder / "judge.json").write_text(json.dumps(config))


def push(folder: Path, *more: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["push", str(folder), "me/Target-70B-judge", *more])
    return done.exit_code, done.output


def test_the_folder_arrives_with_the_targets_name_and_licence_in_its_card(hub, folder):
    code, said = push(folder, "--private")
    assert (code, said.splitlines()[-1]) == (
        0,
        f"{folder} is in me/Target-70B-judge: https://huggingface.co/me/Target-70B-judge/commit/abc",
    )
    ((_, created),) = hub.asked
    assert (created["organization"], created["name"]) == ("me", "Target-70B-judge")
    assert "private" in (created.get("visibility"), "private" if created.get("private") else None)
    assert set(hub.sent) == {"README.md", "config.json", "judge.json", "model.safetensors", "roc.png"}
    assert hub.sent["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    card = ModelCard(hub.sent["README.md"].decode())
    assert (card.data.base_model, card.data.license, card.data.license_link) == (TARGET, "llama3.1", "LICENSE")
    assert card.data.tags == ["judge-decoding"] and card.text.strip() == "# A head\n\nIts story."


def test_a_head_that_knows_its_target_by_a_folder_is_told_the_repository(hub, folder, tmp_path):
    (tmp_path / "target").mkdir()
    JudgeHead(8, target_model=str(tmp_path / "target")).save_pretrained(folder)
    assert push(folder) == (
        1,
        f"vllm-judge: the head in {folder} was fitted on {tmp_path / 'target'}, which is no Hub repository: "
        "give --target.\n",
    )
    assert push(folder, "--target", TARGET)[0] == 0
    assert ModelCard(hub.sent["README.md"].decode()).data.base_model == TARGET


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"model": "/models/draft"}, "model in {path} is /models/draft, a folder of this machine: " + NAME),
        ({"model": "../draft"}, "model in {path} is ../draft, a folder of this machine: " + NAME),
        (
            {"judge": {"model": "head"}},
            "judge.model in {path} is head, which a Hub repository could be called, too: write ./head.",
        ),
    ],
)
def test_a_judge_json_that_means_nothing_elsewhere_is_not_sent(hub, folder, config, sentence):
    (folder / "head").mkdir()
    (folder.parent / "draft").mkdir()
    write(folder, {"model": "someone/Draft-8B", "judge": {"model": "."}} | config)
    path = folder.resolve() / "judge.json"
    assert push(folder) == (1, f"vllm-judge: {sentence.format(path=path)}\n")
    assert not hub.sent


def test_a_draft_in_the_folder_goes_with_it(hub, folder):
    (folder / "draft").mkdir()
    (folder / "draft" / "config.json").write_text("{}")
    write(folder, {"model": "./draft", "judge": {"model": "."}})
    assert push(folder)[0] == 0 and hub.sent["draft/config.json"] == b"{}"


def test_without_network_or_a_right_to_write_it_is_one_sentence(hub, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused = push(folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for code, said in (refused, push(folder)):
        assert code == 1 and said.startswith(f"vllm-judge: {folder} was not sent to me/Target-70B-judge: ")
        assert said.endswith("(`hf auth login`, or HF_TOKEN) and may write there.\n") and said.count("\n") == 1


def test_a_folder_without_a_head_is_not_sent(hub, tmp_path):
    assert push(tmp_path) == (1, f"vllm-judge: no judge head in {tmp_path}: it holds no model.safetensors.\n")
