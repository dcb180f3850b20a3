// Names of languages, where the browser knows them.
const named = new Intl.DisplayNames(["en"], { type: "language", fallback: "none" });
for (const element of document.querySelectorAll(".language")) {
  const code = element.dataset.code;
  try {
    const name = code === "und" ? "undetermined" : named.of(code);
    if (name) element.replaceChildren(name, " ", Object.assign(document.createElement("small"), { textContent: code }));
  } catch { /* not a code: it stays as it is */ }
}

// Members of a cluster scroll together, each by its own length.
for (const members of document.querySelectorAll(".members")) {
  const texts = [...members.querySelectorAll(".text")];
  const follows = new Set();
  const room = text => text.scrollHeight - text.clientHeight;
  for (const text of texts) text.addEventListener("scroll", () => {
    if (follows.delete(text)) return;
    const share = text.scrollTop / (room(text) || 1);
    for (const other of texts) {
      const top = Math.round(share * room(other));
      if (other === text || Math.abs(other.scrollTop - top) < 1) continue;
      follows.add(other);
      other.scrollTop = top;
    }
  }, { passive: true });
}
