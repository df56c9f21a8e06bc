"""A real server on a port of its own, for real clients."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import uvicorn
from places import ROOT

from steerchat.conversation.chat import Chat
from steerchat.serve.classroom import Classroom
from steerchat.serve.service import Service
from steerchat.serve.start import PatientProtocol
from steerchat.serve.web import web


@dataclass
class Running:
    """A server that answers, and its clients."""

    chat: Chat
    service: Service
    url: str

    def client(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(**{"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0, **options})

    def http(self, **options: Any) -> httpx.Client:
        return httpx.Client(**{"base_url": self.url, "timeout": 30, **options})

    def wait(self, what: Callable[[], bool]) -> None:
        """Until the server has come so far."""
        for _ in range(2000):
            if what():
                return
            time.sleep(0.005)
        raise AssertionError("it never came")

    def is_idle(self) -> bool:
        return self.service.rows.running == self.service.rows.waiting == 0


Serving = Callable[..., Running]

PAGE = (ROOT / "tutorials" / "server.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.S | re.M)


def here(text: str, server: Running) -> str:
    """With this server's address and model, whose layers are few."""
    text = text.replace("http://127.0.0.1:8321", server.url).replace("smollm2", server.service.base)
    return text.replace(":16:", ":2:").replace("happy 16", "happy 2")


def serve(
    chat: Chat, rows: int, waiting: int, deadline: float, guard: dict[str, Any], classroom: Classroom | None
) -> tuple[Running, Any]:
    """A server for this chat's model, and what stops it."""
    service = Service(chat, rows, waiting, deadline, classroom)
    app = web(service, **guard)
    config = uvicorn.Config(app, port=0, http=PatientProtocol, ws="none", lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]

    def stop() -> None:
        server.should_exit = True
        thread.join(10)
        service.close()

    return Running(chat, service, f"http://127.0.0.1:{port}"), stop
