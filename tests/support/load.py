"""Loads a running server: `python tests/support/load.py throughput|hangups [URL] [N]`.

`throughput` asks with one client and then with 32 clients of 16 recipes, and says tokens a second and how long the
first token took. `hangups` sends N requests of N clients, of which many hang up, are too large, or are no JSON, and
says what is left.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import statistics
import sys
import time

import httpx

RECIPES = ["", *(f"{name} {layers} {strength}" for name in ("happy", "sad", "formal", "angry", "pirate")
                 for layers, strength in (("16", 2.0), ("18-26", 2.0), ("12", -1.0)))]  # fmt: skip
JSON = {"content-type": "application/json"}
PROMPTS = ("Tell me about the weather", "How was your day?", "Describe a city", "What is a good breakfast?")


async def ask(client: httpx.AsyncClient, model: str, number: int, tokens: int, clients: int = 32) -> tuple[float, int]:
    """Streams an answer. Returns the seconds to its first text, and its tokens."""
    recipe = RECIPES[number % len(RECIPES)]
    body = {
        "model": model, "max_tokens": tokens, "seed": number, "stream": True, "user": f"client{number % clients}",
        "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": PROMPTS[number % len(PROMPTS)]}],
    } | ({"steer": recipe} if recipe else {})  # fmt: skip
    began, first, used = time.monotonic(), 0.0, 0
    async with client.stream("POST", "/v1/chat/completions", json=body) as stream:
        assert stream.status_code == 200, await stream.aread()
        async for line in stream.aiter_lines():
            if '"content": "' in line and '"content": ""' not in line:
                first = first or time.monotonic() - began
            if line.startswith("data: {") and (usage := json.loads(line[6:]).get("usage")):
                used = usage["completion_tokens"]
    return first, used


async def throughput(client: httpx.AsyncClient, model: str) -> None:
    await asyncio.gather(*(ask(client, model, number, 8) for number in range(32)))  # so that all is made and read in
    began = time.monotonic()
    alone = [await ask(client, model, number, 64) for number in range(4)]
    single = sum(tokens for _, tokens in alone) / (time.monotonic() - began)
    began = time.monotonic()
    many = await asyncio.gather(*(ask(client, model, number, 64) for number in range(32)))
    together = sum(tokens for _, tokens in many) / (time.monotonic() - began)
    waits = sorted(first for first, _ in many)
    print(f"tokens/s: one client {single:.1f}, 32 clients {together:.1f}, {together / single:.1f} times")
    print(f"first token of 32 at once: median {statistics.median(waits):.2f} s, p95 {waits[30]:.2f} s")


async def hangups(client: httpx.AsyncClient, model: str, count: int) -> None:
    draw, done, limit = (
        random.Random(1),
        dict.fromkeys(("whole", "hung up", "busy", "refused"), 0),
        asyncio.Semaphore(48),
    )

    async def one(number: int) -> None:
        async with limit:
            kind = draw.choice(["whole", "hang up", "hang up", "no json", "too large"])
            try:
                if kind == "no json":
                    response = await client.post("/v1/chat/completions", content=b"{", headers=JSON)
                    done["refused"] += response.status_code == 400
                elif kind == "too large":
                    content = b" " * (1 << 21)
                    response = await client.post("/v1/chat/completions", content=content, headers=JSON)
                    done["refused"] += response.status_code == 413
                elif kind == "whole":
                    await ask(client, model, number, draw.randrange(1, 12), count)
                    done["whole"] += 1
                else:
                    await asyncio.wait_for(ask(client, model, number, 60, count), draw.random())
                    done["whole"] += 1
            except TimeoutError:
                done["hung up"] += 1
            except AssertionError:
                done["busy"] += 1
            except httpx.HTTPError:
                done["refused"] += 1  # the connection was closed while too much was sent

    began = time.monotonic()
    await asyncio.gather(*(one(number) for number in range(count)))
    for _ in range(200):
        health = (await client.get("/health")).json()
        if not health["running"] and not health["waiting"]:
            break
        await asyncio.sleep(0.1)
    page = (await client.get("/metrics")).text
    first = re.search(r"steerchat_tokens_total ([\d.]+)", page)
    print(done, f"{time.monotonic() - began:.0f} s;", health, "tokens", first and first[1])


async def main(what: str, url: str = "http://127.0.0.1:8321", count: str = "2000") -> None:
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=httpx.Limits(max_connections=64)) as client:
        model = (await client.get("/health")).json()["model"]
        await (throughput(client, model) if what == "throughput" else hangups(client, model, int(count)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
