// Draws panels of lines, bands, cells and points, which the kernel describes in `spec`, as SVG. Sends keys, clicks and the cursor to the kernel.
//
// spec: { panels: [{ name, title, height, left, x: {label, domain, ticks}, y: {label, domain, ticks}, scrub, marks: [...] }], about,
//         columns: [{share, panels: [index]}], legend: [{name, color, dash, kind}] }
// marks: {type: "line", x, y, color, width, dash, name}  {type: "band", x, low, high, color}  {type: "rule", x | y, color, dash}
//        {type: "cells", x0, x1, y0, y1, color, textColor, text, tip, key, picked, outline, edge, opacity}  {type: "points", x, y, color, tip, key, picked, size}
//        {type: "image", x0, x1, y0, y1, href}  {type: "text", x, y, text}
// The colour "ink" is the colour of the page's text, so that it is readable on dark themes, too.

const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { left: 62, right: 14, top: 8, bottom: 34 };

function node(parent, tag, attrs = {}, text = null) {
  const it = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attrs)) if (value !== null && value !== undefined) it.setAttribute(name, value);
  if (text !== null) it.textContent = text;
  parent.appendChild(it);
  return it;
}

function html(parent, tag, className, text = null) {
  const it = document.createElement(tag);
  it.className = className;
  if (text !== null) it.textContent = text;
  parent.appendChild(it);
  return it;
}

const ink = (color) => (!color || color === "ink" ? "currentColor" : color);

function extent(panel, axis) {
  if (panel[axis] && panel[axis].domain) return panel[axis].domain;
  let low = Infinity, high = -Infinity;
  const fields = axis === "x" ? ["x", "x0", "x1"] : ["y", "low", "high", "y0", "y1"];
  for (const mark of panel.marks) {
    for (const field of fields) {
      for (const v of [mark[field]].flat()) {
        if (Number.isFinite(v)) { low = Math.min(low, v); high = Math.max(high, v); }
      }
    }
  }
  if (!(low < high)) { const at = Number.isFinite(low) ? low : 0; return [at - 0.5, at + 0.5]; }
  if (axis === "x") return [low, high];
  const room = 0.06 * (high - low);
  return [low - room, high + room];
}

function niceTicks([low, high], room) {
  const raw = (high - low) / Math.max(1, Math.floor(room / 56));
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const out = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) out.push({ at: k * step, text: String(+(k * step).toPrecision(6)) });
  return out;
}

function path(xs, ys, sx, sy) {
  let d = "", pen = false;
  for (let i = 0; i < xs.length; i++) {
    if (ys[i] === null || !Number.isFinite(ys[i])) { pen = false; continue; }
    d += `${pen ? "L" : "M"}${sx(xs[i]).toFixed(1)},${sy(ys[i]).toFixed(1)}`;
    pen = true;
  }
  return d;
}

function drawMark(group, mark, sx, sy, box, pick) {
  if (mark.type === "line") {
    node(group, "path", { d: path(mark.x, mark.y, sx, sy), fill: "none", stroke: ink(mark.color), "stroke-width": mark.width ?? 1.6, "stroke-dasharray": mark.dash, "stroke-opacity": mark.opacity, "stroke-linejoin": "round" });
  } else if (mark.type === "band") {
    const known = (i) => Number.isFinite(mark.low[i]) && Number.isFinite(mark.high[i]);
    for (let from = 0, to; from < mark.x.length; from = to + 1) {  // one polygon per stretch of known values: unknown values leave a gap
      for (to = from; to < mark.x.length && known(to); to++);
      if (to === from) continue;
      const there = Array.from({ length: to - from }, (_, k) => from + k), at = (i, y) => `${sx(mark.x[i]).toFixed(1)},${sy(y[i]).toFixed(1)}`;
      const points = [...there.map((i) => at(i, mark.high)), ...there.reverse().map((i) => at(i, mark.low))].join(" ");
      node(group, "polygon", { points, fill: ink(mark.color), "fill-opacity": mark.opacity ?? 0.2 });
    }
  } else if (mark.type === "rule") {
    const across = mark.y !== undefined;
    for (const v of [across ? mark.y : mark.x].flat()) {
      const at = across ? { x1: box.left, x2: box.right, y1: sy(v), y2: sy(v) } : { x1: sx(v), x2: sx(v), y1: box.top, y2: box.bottom };
      node(group, "line", { ...at, stroke: ink(mark.color), "stroke-dasharray": mark.dash, "stroke-width": mark.width ?? 1 });
    }
  } else if (mark.type === "cells") {
    mark.x0.forEach((x0, i) => {
      const [xa, xb] = [sx(x0), sx(mark.x1[i])], [ya, yb] = [sy(mark.y0[i]), sy(mark.y1[i])];
      const w = Math.abs(xb - xa), h = Math.abs(yb - ya), key = mark.key?.[i];
      const cell = node(group, "g", { class: key === undefined ? null : "qf-pick", "data-key": key });
      const picked = mark.picked !== undefined && mark.picked === key;
      const rect = node(cell, "rect", { x: Math.min(xa, xb), y: Math.min(ya, yb), width: w, height: h, fill: ink(mark.color[i]), "fill-opacity": mark.opacity, stroke: picked ? "currentColor" : mark.edge ?? "none", "stroke-width": picked ? mark.outline ?? 2.5 : 0.5 });
      if (mark.tip?.[i]) node(rect, "title", {}, mark.tip[i]);
      if (mark.text?.[i] && w >= 7 * String(mark.text[i]).length && h >= 11)
        node(cell, "text", { x: (xa + xb) / 2, y: (ya + yb) / 2, dy: "0.35em", "text-anchor": "middle", class: "qf-cell-text", fill: mark.textColor?.[i] ?? "currentColor" }, mark.text[i]);
      if (key !== undefined) cell.addEventListener("click", () => pick(key));
    });
  } else if (mark.type === "points") {
    mark.x.forEach((x, i) => {
      const key = mark.key?.[i], picked = mark.picked !== undefined && mark.picked === key;
      const dot = node(group, "circle", { cx: sx(x), cy: sy(mark.y[i]), r: picked ? 8 : mark.size ?? 5, fill: ink(mark.color[i]), "fill-opacity": 0.85, stroke: picked ? "currentColor" : "none", "stroke-width": 2.5, class: key === undefined ? null : "qf-pick", "data-key": key });
      if (mark.tip?.[i]) node(dot, "title", {}, mark.tip[i]);
      if (key !== undefined) dot.addEventListener("click", () => pick(key));
    });
  } else if (mark.type === "image") {
    node(group, "image", { x: sx(mark.x0), y: sy(mark.y1), width: sx(mark.x1) - sx(mark.x0), height: sy(mark.y0) - sy(mark.y1), href: mark.href, preserveAspectRatio: "none", style: "image-rendering: pixelated" });
  } else if (mark.type === "text") {
    mark.x.forEach((x, i) => node(group, "text", { x: sx(x), y: sy(mark.y[i]), dy: "-0.5em", "text-anchor": "middle", class: "qf-tick" }, mark.text[i]));
  }
}

function drawPanel(root, panel, index, width, send) {
  const bare = !panel.x?.label && !panel.x?.ticks?.length;
  const height = (panel.height ?? 200) + MARGIN.top + (bare ? 6 : MARGIN.bottom);
  if (panel.title) html(root, "div", "qf-title", panel.title).style.paddingLeft = `${panel.left ?? MARGIN.left}px`;  // HTML, so that the title wraps on a narrow page
  const svg = node(root, "svg", { class: "qf-panel", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": panel.about ?? panel.title ?? "" });
  const left = panel.left ?? MARGIN.left;
  const box = { left, right: width - MARGIN.right, top: MARGIN.top, bottom: MARGIN.top + (panel.height ?? 200) };
  const [x0, x1] = extent(panel, "x"), [y0, y1] = extent(panel, "y");
  const sx = (v) => box.left + ((v - x0) / (x1 - x0)) * (box.right - box.left);
  const sy = (v) => box.bottom - ((v - y0) / (y1 - y0)) * (box.bottom - box.top);
  const clip = `qf-clip-${Math.random().toString(36).slice(2)}`;
  node(node(node(svg, "defs"), "clipPath", { id: clip }), "rect", { x: box.left, y: box.top - 1, width: Math.max(1, box.right - box.left), height: box.bottom - box.top + 2 });
  const marks = node(svg, "g", { "clip-path": `url(#${clip})` });
  const pick = (key) => send({ type: "pick", panel: panel.name ?? String(index), key });
  for (const mark of panel.marks) drawMark(marks, mark, sx, sy, box, pick);
  node(svg, "path", { d: `M${box.left},${box.top}V${box.bottom}H${box.right}`, class: "qf-axis" });
  for (const tick of panel.y?.ticks ?? niceTicks([y0, y1], 1.4 * (box.bottom - box.top))) {
    if (!panel.y?.ticks) node(svg, "line", { x1: box.left - 4, x2: box.left, y1: sy(tick.at), y2: sy(tick.at), class: "qf-axis" });
    node(svg, "text", { x: box.left - 6, y: sy(tick.at), dy: "0.35em", "text-anchor": "end", class: "qf-tick" }, tick.text);
  }
  if (panel.y?.label) node(svg, "text", { transform: `translate(13,${(box.top + box.bottom) / 2}) rotate(-90)`, "text-anchor": "middle", class: "qf-label" }, panel.y.label);
  if (!bare) {
    for (const tick of panel.x.ticks ?? niceTicks([x0, x1], box.right - box.left)) {
      if (!panel.x.ticks) node(svg, "line", { x1: sx(tick.at), x2: sx(tick.at), y1: box.bottom, y2: box.bottom + 4, class: "qf-axis" });
      node(svg, "text", { x: sx(tick.at), y: box.bottom + 14, "text-anchor": "middle", class: "qf-tick" }, tick.text);
    }
    if (panel.x.label) node(svg, "text", { x: (box.left + box.right) / 2, y: box.bottom + 29, "text-anchor": "middle", class: "qf-label" }, panel.x.label);
  }
  const line = node(svg, "line", { y1: box.top, y2: box.bottom, class: "qf-cursor", visibility: "hidden" });
  return { svg, panel, box, sx, invert: (px) => x0 + ((px - box.left) / (box.right - box.left)) * (x1 - x0), domain: [x0, x1], line };
}

function drawLegend(root, entries) {
  const list = html(root, "div", "qf-legend");
  for (const entry of entries) {
    const item = html(list, "span", entry.kind === "note" ? "qf-note" : "qf-legend-item");
    if (entry.kind === "note") { item.textContent = entry.name; continue; }
    const svg = node(item, "svg", { width: 26, height: 12, "aria-hidden": "true" });
    if (entry.kind === "band") node(svg, "rect", { width: 26, height: 12, fill: ink(entry.color), "fill-opacity": entry.opacity ?? 0.25 });
    else if (entry.kind === "point") node(svg, "circle", { cx: 13, cy: 6, r: 5, fill: ink(entry.color) });
    else node(svg, "line", { x1: 0, x2: 26, y1: 6, y2: 6, stroke: ink(entry.color), "stroke-width": 2.5, "stroke-dasharray": entry.dash });
    html(item, "span", "", entry.name);
  }
}

function readAt(panels, t) {
  const parts = [];
  for (const { panel } of panels.filter((p) => p.panel.scrub)) {
    for (const mark of panel.marks) {
      if (mark.type !== "line" || !mark.name) continue;
      let best = -1;
      mark.x.forEach((x, i) => { if (best < 0 || Math.abs(x - t) < Math.abs(mark.x[best] - t)) best = i; });
      const step = mark.x.length > 1 ? Math.abs(mark.x[1] - mark.x[0]) : 1;
      if (best >= 0 && mark.y[best] !== null && Math.abs(mark.x[best] - t) <= step) parts.push(`${mark.name} ${mark.y[best].toPrecision(3)}`);
    }
  }
  return parts.length ? `${t.toFixed(2)} s:  ${parts.join("   ")}` : "";
}

function render({ model, el }) {
  el.classList.add("qf-chart");
  // hide the static picture for exports as long as the live chart is there, also one that is added later
  html(el, "style", "", `[data-qf-static="${model.get("uid")}"] { display: none; }`);
  const root = html(el, "div", "qf-focus");
  root.tabIndex = 0;
  root.setAttribute("role", "application");
  const readout = html(el, "div", "qf-readout");
  let panels = [], drawn = 0, waiting = 0, pending = new Map();

  const send = (content) => model.send(content);
  // only one key at a time is on its way to the kernel; keys pressed meanwhile are counted and sent together, so that held keys don't queue up
  const flush = () => {
    if (performance.now() < waiting || !pending.size) return;
    const [[key, count]] = pending;
    pending.delete(key);
    waiting = performance.now() + 1000;
    send({ type: "key", key, count });
  };
  const showCursor = () => {
    const t = model.get("cursor");
    for (const p of panels) {
      const there = p.panel.scrub && t !== null && t >= p.domain[0] && t <= p.domain[1];
      p.line.setAttribute("visibility", there ? "visible" : "hidden");
      if (there) { p.line.setAttribute("x1", p.sx(t)); p.line.setAttribute("x2", p.sx(t)); }
    }
    readout.textContent = t === null ? "" : readAt(panels, t);
  };
  let saved = 0, timer = null;
  const moveCursor = (t) => {
    model.set("cursor", t);
    showCursor();
    clearTimeout(timer);
    const save = () => { saved = performance.now(); model.save_changes(); };
    if (performance.now() - saved > 60) save(); else timer = setTimeout(save, 60);
  };
  const draw = () => {
    drawn = root.clientWidth;
    const spec = model.get("spec"), width = Math.max(360, Math.floor(drawn || 720));
    root.replaceChildren();
    root.setAttribute("aria-label", spec.about ?? "");
    if (spec.legend?.length) drawLegend(root, spec.legend);
    const all = spec.panels ?? [], narrow = width < 640;  // on a narrow page the columns stand below each other
    const columns = spec.columns ?? [{ share: 1, panels: all.map((_, i) => i) }];
    const rows = html(root, "div", "qf-columns");
    panels = columns.flatMap((column) => {
      const side = html(rows, "div", "qf-column");
      return column.panels.filter((i) => i < all.length).map((i) => drawPanel(side, all[i], i, Math.floor(width * (narrow ? 1 : column.share)) - 4, send));
    });
    for (const p of panels.filter((it) => it.panel.scrub)) {
      p.svg.addEventListener("pointermove", (event) => {
        const rect = p.svg.getBoundingClientRect(), t = p.invert(((event.clientX - rect.left) * p.svg.viewBox.baseVal.width) / rect.width);
        if (t >= p.domain[0] && t <= p.domain[1]) moveCursor(t);
      });
    }
    showCursor();
    waiting = 0;
    flush();
  };
  root.addEventListener("keydown", (event) => {
    const scrubbed = panels.find((p) => p.panel.scrub), moves = event.shiftKey && scrubbed && event.key.startsWith("Arrow");
    // the page keeps all other keys: a reader must be able to scroll, and to leave the chart
    if (!(moves || model.get("used_keys").includes(event.key)) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    if (moves) {
      const [a, b] = scrubbed.domain, step = (b - a) / 100, at = model.get("cursor") ?? 0;
      moveCursor(Math.min(b, Math.max(a, at + (event.key === "ArrowLeft" || event.key === "ArrowDown" ? -step : step))));
      return;
    }
    pending.set(event.key, (pending.get(event.key) ?? 0) + 1);
    flush();
  });
  root.addEventListener("pointerdown", () => root.focus({ preventScroll: true }));
  model.on("change:spec", draw);
  model.on("change:cursor", showCursor);
  const answered = (content) => { if (content.type === "done") { waiting = 0; flush(); } };
  model.on("msg:custom", answered);
  const resized = new ResizeObserver(() => { if (Math.abs(drawn - root.clientWidth) > 2) draw(); });
  resized.observe(root);
  draw();
  return () => { resized.disconnect(); model.off("change:spec", draw); model.off("change:cursor", showCursor); model.off("msg:custom", answered); };
}

export default { render };
