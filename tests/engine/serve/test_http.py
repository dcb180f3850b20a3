"""`trivium serve` before OpenAI's own client, many clients at once, and hostile ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

openai = pytest.importorskip("openai", reason="openai is not installed: pip install '.[parity]'")
pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install '.[serve]'")

ROOT = Path(__file__).parents[3]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


@pytest.fixture(scope="module")
def folder(folders, tmp_path_factory):
    """A tiny Llama with a tokenizer of 200 letters and control tokens, and a chat template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    made = tmp_path_factory.mktemp("served") / "tiny"
    shutil.copytree(folders["llama"], made)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[:240]
    model = Tokenizer(models.BPE({piece: i for i, piece in enumerate(alphabet)}, []))
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    names = ("<|im_start|>", "<|im_end|>")
    model.add_special_tokens([AddedToken(name, special=True) for name in names])
    model.save(str(made / "tokenizer.json"))
    words = {"eos_token": "<|im_end|>"}
    (made / "tokenizer_config.json").write_text(json.dumps(words))
    (made / "chat_template.jinja").write_text(TEMPLATE)
    (made / "generation_config.json").write_text(json.dumps({"eos_token_id": 241}))
    return made


class Server:
    def __init__(self, *command):
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
            "TRIVIUM_DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trivium.engine", "serve", "port=0", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        self.lines = []
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.search(r"http://127.0.0.1:(\d+)/v1", line):
                self.port = int(found[1])
                break
        else:
            raise AssertionError("".join(self.lines))
        threading.Thread(target=lambda: self.lines.extend(self.process.stdout), daemon=True).start()

    def client(self, key="x"):
        url = f"http://127.0.0.1:{self.port}/v1"
        return openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=60)

    def raw(self, data, wait=10.0):
        """What comes back for these bytes: (status, body)."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait) as connection:
            connection.sendall(data)
            answer = b""
            while part := connection.recv(65536):
                answer += part
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), body

    def post(self, body, path="/v1/chat/completions"):
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}"
        )
        return self.raw(f"{head}\r\nContent-Type: application/json\r\n\r\n".encode() + body)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def server(folder):
    made = Server(f"model={folder}", "max_requests=8", "queue=80", "max_body_mb=0.2")
    yield made
    assert made.stop() == 0


ASK = [{"role": "user", "content": "abc"}]


def test_a_chat_and_its_stream_say_the_same(server):
    client = server.client()
    [model] = client.models.list().data
    assert (model.id, client.models.retrieve("tiny").id) == ("tiny", "tiny")
    given = {"model": "tiny", "messages": ASK, "seed": 5, "max_tokens": 12, "top_p": 0.9}
    whole = client.chat.completions.create(**given, logprobs=True, top_logprobs=3, n=2)
    assert whole.usage.prompt_tokens == 6
    assert whole.usage.completion_tokens == sum(len(c.logprobs.content) for c in whole.choices)
    for choice in whole.choices:
        assert choice.finish_reason in ("length", "stop")
        for token in choice.logprobs.content:
            assert len(token.top_logprobs) == 3
            assert token.logprob <= token.top_logprobs[0].logprob <= 0
            assert bytes(token.bytes).decode() == token.token
    texts = {0: "", 1: ""}
    ends, usage = {}, None
    for chunk in client.chat.completions.create(
        **given, n=2, stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            ends[choice.index] = choice.finish_reason or ends.get(choice.index)
    assert texts == {choice.index: choice.message.content for choice in whole.choices}
    assert ends == {choice.index: choice.finish_reason for choice in whole.choices}
    assert usage == whole.usage


def test_completions(server):
    client = server.client()
    given = {"model": "tiny", "temperature": 0, "max_tokens": 6}
    several = client.completions.create(**given, prompt=["abc", "xyz"], echo=True)
    alone = client.completions.create(**given, prompt="abc", logprobs=2)
    assert several.choices[0].text == "abc" + alone.choices[0].text
    assert [choice.index for choice in several.choices] == [0, 1]
    logprobs = alone.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset)
    by_ids = client.completions.create(**given, prompt=[66, 67, 68])
    assert by_ids.usage.prompt_tokens == 3
    stop = alone.choices[0].text[2]
    cut = client.completions.create(**given, prompt="abc", stop=[stop])
    assert cut.choices[0].text == alone.choices[0].text[: alone.choices[0].text.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_sixty_four_at_once_lose_none(server):
    client = server.client()

    def ask(number):
        return client.chat.completions.create(
            model="tiny", messages=ASK, seed=number % 4, max_tokens=9, temperature=1.0
        )

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(ask, range(64)))
    texts = [answer.choices[0].message.content for answer in answers]
    for seed in range(4):  # equal seeds, equal answers, whoever was served beside them
        assert len(set(texts[seed::4])) == 1


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"model": "other"}, 404, "is not here"),
        ({"messages": []}, 400, "messages"),
        ({"messages": "hello"}, 400, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages.0"),
        ({"max_tokens": 100}, 400, "the model takes 64 tokens"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": "9"}, 400, "max_tokens"),
        ({"temperature": -1}, 400, "temperature"),
        ({"temperature": 1e400}, 400, "not JSON"),
        ({"top_p": 0}, 400, "top_p"),
        ({"n": 10**30}, 400, "n"),
        ({"n": 17}, 400, "n: at most 16"),
        ({"logit_bias": {"5": 1}}, 400, "logit_bias: is not supported"),
        ({"functions": []}, 400, "functions: is not supported"),
        ({"top_logprobs": 2}, 400, "needs logprobs"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
        ({"stop": ["x"] * 99}, 400, "stop"),
    ],
    ids=str,
)
def test_what_is_refused_and_in_which_words(server, change, status, said):
    body = json.dumps({"model": "tiny", "messages": ASK, "max_tokens": 4} | change).encode()
    found, answer = server.post(body)
    error = json.loads(answer)["error"]
    assert found == status, error
    assert said in error["message"]
    assert "Traceback" not in error["message"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"{", 400),
        (b'"\xff\xfe"', 400),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, 400),
        (b"[" * 100_000, 400),
        (b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}', 400),
        (b" " * 300_000, 413),
    ],
    ids=["empty", "list", "cut", "no utf-8", "deep", "very deep", "half a character", "large"],
)
def test_bodies_that_are_no_requests(server, body, status):
    found, answer = server.post(body)
    assert found == status, answer[:300]


def test_control_tokens_in_a_message_are_text(server):
    said = "<|im_end|><|im_start|>"
    answer = server.client().chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": said}], max_tokens=1
    )
    assert answer.usage.prompt_tokens == len(said) + 3


def test_the_server_lives_on(server):
    with socket.create_connection(("127.0.0.1", server.port)) as half:  # and never says the rest
        half.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
        )
        assert server.raw(b"NONSENSE\r\n\r\n")[0] == 400
        assert server.raw(b"GET /nothing HTTP/1.0\r\n\r\n")[0] == 404
        assert server.raw(b"DELETE /v1/models HTTP/1.0\r\n\r\n")[0] == 405
        assert server.raw(b"GET /../../etc/passwd HTTP/1.0\r\n\r\n")[0] == 404
    stream = server.client().chat.completions.create(
        model="tiny", messages=ASK, max_tokens=50, stream=True
    )
    next(iter(stream))
    stream.close()  # the client goes away
    for _ in range(100):
        status, body = server.raw(b"GET /health HTTP/1.0\r\n\r\n")
        if json.loads(body) == {"status": "ok", "requests": 0}:
            break
        time.sleep(0.1)
    assert (status, json.loads(body)) == (200, {"status": "ok", "requests": 0})
    status, page = server.raw(b"GET / HTTP/1.0\r\n\r\n")
    assert status == 200
    assert b"<title>Trivium</title>" in page


def test_a_key_a_full_queue_and_a_model_without_a_template(folder, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("chat_template.jinja"))
    server = Server(f"model={bare}", "api_key=secret", "max_requests=1", "queue=1", "name=m")
    try:
        with pytest.raises(openai.AuthenticationError):
            server.client("wrong").models.list()
        client = server.client("secret")
        with pytest.raises(openai.BadRequestError, match="template=chatml"):
            client.chat.completions.create(model="m", messages=ASK)
        with pytest.raises(openai.RateLimitError):
            client.completions.create(model="m", prompt="abc", n=3)
        assert client.completions.create(model="m", prompt="abc", max_tokens=2).choices
    finally:
        assert server.stop() == 0


def test_what_the_command_refuses():
    def run(*command):
        done = subprocess.run(
            [sys.executable, "-m", "trivium.engine", "serve", *command],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        return done.returncode, done.stderr.strip().splitlines()

    status, lines = run()
    assert (status, lines) == (
        2,
        ["error: model: is missing; give a Hugging Face folder, a checkpoint or a run"],
    )
    status, lines = run("model=x", "port=99999999")
    assert status == 2
    assert "port=99999999" in lines[-1]
