// Under the pointer: a line at the nearest step, and every curve's value there.
for (const svg of document.querySelectorAll("svg.chart")) {
  const { box: [left, top, right, bottom], scale: [x0, x1, y0, y1], series } = JSON.parse(svg.dataset.chart);
  const cursor = svg.querySelector(".cursor");
  const element = (name, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    cursor.append(node);
    return node;
  };
  const toX = step => left + (right - left) * (x1 > x0 ? (step - x0) / (x1 - x0) : 0.5);
  const toY = value => Math.max(top, Math.min(bottom, bottom - (bottom - top) * (value - y0) / (y1 - y0)));
  svg.addEventListener("pointermove", event => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const step = x0 + (x1 - x0) * (at.x - left) / (right - left);
    const nearest = series.filter(one => one.points.length).map(one => ({
      ...one, point: one.points.reduce((a, b) => Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a),
    }));
    cursor.replaceChildren();
    if (!nearest.length) return;
    const x = toX(nearest[0].point[0]);
    element("path", { d: `M${x} ${top}V${bottom}` });
    const lines = [`step ${nearest[0].point[0].toLocaleString("en")}`];
    for (const { name, role, point } of nearest) {
      element("circle", { class: `dot ${role}`, cx: toX(point[0]), cy: toY(point[1]), r: 4 });
      const elsewhere = point[0] === nearest[0].point[0] ? "" : ` (step ${point[0].toLocaleString("en")})`;
      lines.push(`${name} ${point[2]}${elsewhere}`);
    }
    const width = 18 + 6.4 * Math.max(...lines.map(line => line.length));
    const start = x + width + 14 > right ? x - width - 8 : x + 8;
    element("rect", { x: start, y: top, width, height: 12 + 16 * lines.length, rx: 5 });
    lines.forEach((line, index) => element("text", { x: start + 9, y: top + 20 + 16 * index }, line));
  });
  svg.addEventListener("pointerleave", () => cursor.replaceChildren());
}
