"""A small server that speaks OpenAI's protocol and compares answers by what it reads, by their order, or badly."""

import json
import socket
import threading
import time
from typing import Any, Self

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse


class JudgeServer:
    """The model's name says how it judges; every prompt is kept."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.app = FastAPI()
        self.app.post("/v1/chat/completions")(self.complete)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1"
        self.server = uvicorn.Server(uvicorn.Config(self.app, port=port, log_level="warning"))
        self.thread = threading.Thread(target=self.server.run)

    def __enter__(self) -> Self:
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *exception: object) -> None:
        self.server.should_exit = True
        self.thread.join()

    async def complete(self, request: Request) -> Any:
        body = await request.json()
        assert body["response_format"]["json_schema"]["strict"] and body["temperature"] == 0
        prompt = body["messages"][-1]["content"]
        self.prompts.append(prompt)
        worth = {side: self.worth(prompt, side) for side in "AB"}
        best = "neither" if worth["A"] == worth["B"] else max(worth, key=lambda side: worth[side])
        reply = {"reason": "So it seems.", "better": best}
        match body["model"]:
            case "first":
                reply["better"] = "A"
            case "babbler" if "ode" in prompt:
                reply["better"] = "the judged one"
            case "missing":
                error = {"message": "The model `missing` does not exist."}
                return JSONResponse({"error": error}, status_code=404)
            case "drunk":
                reply = {"better": "A"}
        message = {"role": "assistant", "content": json.dumps(reply)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}

    @staticmethod
    def worth(prompt: str, side: str) -> int:
        """Of a side's last answer."""
        text = prompt.rpartition(f"# {side}'s answer")[2].partition("#")[0]
        return text.count("better") - text.count("worse")
