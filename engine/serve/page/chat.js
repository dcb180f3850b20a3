"use strict";
// A conversation with the model behind /v1/chat/completions. What a model says goes into the page as
// text, never as markup.

const at = (id) => document.getElementById(id);
const turns = [];
let model = "";
let chats = true;
let writing = null; // AbortController while an answer comes

function headers() {
  const key = at("key").value.trim();
  const made = { "Content-Type": "application/json" };
  if (key) made.Authorization = `Bearer ${key}`;
  return made;
}

function show(role, text) {
  at("empty").hidden = true;
  const turn = document.createElement("article");
  turn.className = `turn ${role}`;
  const who = document.createElement("span");
  who.className = "who";
  who.textContent = role === "user" ? "you" : model;
  const said = document.createElement("span");
  said.className = "said";
  said.textContent = text;
  turn.append(who, said);
  at("dialogue").append(turn);
  return turn;
}

function note(turn, text, bad) {
  const line = document.createElement("span");
  line.className = bad ? "note bad" : "note";
  line.textContent = text;
  turn.append(line);
}

function follow() {
  const box = at("dialogue");
  if (box.scrollHeight - box.scrollTop - box.clientHeight < 160) box.scrollTop = box.scrollHeight;
}

function busy(on) {
  at("send").hidden = on;
  at("stop").hidden = !on;
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function reason(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server said ${response.status}`;
  }
}

async function answer() {
  const system = at("system").value.trim();
  const messages = system ? [{ role: "system", content: system }, ...turns] : [...turns];
  const turn = show("assistant", "");
  const said = turn.querySelector(".said");
  turn.classList.add("writing");
  writing = new AbortController();
  busy(true);
  let text = "", usage = null, end = null;
  const began = performance.now();
  try {
    const response = await fetch("v1/chat/completions", {
      method: "POST",
      headers: headers(),
      signal: writing.signal,
      body: JSON.stringify({
        model, messages, stream: true, stream_options: { include_usage: true },
        temperature: Number(at("temperature").value), top_p: Number(at("top_p").value),
        max_tokens: Number(at("max_tokens").value),
      }),
    });
    if (!response.ok) throw new Error(await reason(response));
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      if (event.usage) usage = event.usage;
      const choice = event.choices[0];
      if (!choice) continue;
      if (choice.finish_reason) end = choice.finish_reason;
      if (choice.delta.content) {
        text += choice.delta.content;
        said.textContent = text;
        follow();
      }
    }
    const seconds = (performance.now() - began) / 1000;
    if (usage) at("status").textContent =
      `${usage.completion_tokens} tokens, ${(usage.completion_tokens / seconds).toFixed(1)} a second`;
    if (end === "length") note(turn, "cut off: it may have more to say (Settings: tokens at most)");
  } catch (error) {
    if (error.name === "AbortError") note(turn, "stopped");
    else note(turn, error.message, true);
  } finally {
    turn.classList.remove("writing");
    if (text) turns.push({ role: "assistant", content: text });
    else turns.pop(); // the question is asked again with the next one
    writing = null;
    busy(false);
    follow();
  }
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = at("input").value.trim();
  if (!text || writing) return;
  if (!chats) {
    at("status").textContent = "This model has no chat template; start the server with template=chatml.";
    return;
  }
  at("input").value = "";
  at("input").style.height = "auto";
  show("user", text);
  turns.push({ role: "user", content: text });
  at("dialogue").scrollTop = at("dialogue").scrollHeight;
  answer();
});
at("input").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("form").requestSubmit();
  }
});
at("input").addEventListener("input", () => {
  at("input").style.height = "auto";
  at("input").style.height = `${at("input").scrollHeight + 2}px`;
});
at("stop").addEventListener("click", () => writing?.abort());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") writing?.abort();
});
at("new").addEventListener("click", () => {
  writing?.abort();
  turns.length = 0;
  at("dialogue").querySelectorAll(".turn").forEach((turn) => turn.remove());
  at("empty").hidden = false;
  at("status").textContent = "";
  at("input").focus();
});
at("show").addEventListener("click", () => {
  const box = at("settings");
  box.hidden = !box.hidden;
  at("show").setAttribute("aria-expanded", String(!box.hidden));
});

async function begin() {
  try {
    const response = await fetch("v1/models", { headers: headers() });
    if (!response.ok) throw new Error(await reason(response));
    const found = (await response.json()).data[0];
    model = found.id;
    chats = found.chat;
    at("model").textContent = model;
    document.title = `${model} · Trivium`;
    at("status").textContent = "";
  } catch (error) {
    at("status").textContent = error.message;
  }
}
at("key").addEventListener("change", begin);
begin();
