// Zones and masks drawn over the live picture, and what they are in the config's words.
import { get, make, put, say, send } from "./api.js";

const SVG = "http://www.w3.org/2000/svg";
const SIZE = 1000; // the paper's own units on both sides
const NEAR_PX = 16;
const byId = (id) => document.getElementById(id);
const paper = byId("paper"), picture = byId("picture");
const stream = new URLSearchParams(location.search).get("stream") || "";

const shapes = []; // { kind: "zone" | "mask", name, points: [[x, y]], closed, labels, dwell_s }
let chosen = -1, dragged = null, cross = null, track = true;

const clamp = (value) => Math.min(1, Math.max(0, value));

function place(event) {
  const box = paper.getBoundingClientRect();
  return [clamp((event.clientX - box.left) / box.width), clamp((event.clientY - box.top) / box.height)];
}

function pixelsBetween(a, b) {
  const box = paper.getBoundingClientRect();
  return Math.hypot((a[0] - b[0]) * box.width, (a[1] - b[1]) * box.height);
}

function begin(kind) {
  const names = shapes.map((one) => one.name);
  let number = 1;
  while (kind === "zone" && names.includes(`zone-${number}`)) number += 1;
  shapes.push({ kind, name: kind === "zone" ? `zone-${number}` : "", points: [], closed: false });
  chosen = shapes.length - 1;
  show();
  paper.focus({ preventScroll: true });
}

function addPoint(point) {
  if (chosen < 0 || shapes[chosen].closed) begin("zone");
  const shape = shapes[chosen];
  if (shape.points.length >= 3 && pixelsBetween(point, shape.points[0]) < NEAR_PX) close();
  else shape.points.push(point);
  show();
}

function close() {
  const shape = shapes[chosen];
  if (!shape || shape.closed) return;
  if (shape.points.length < 3) say("an outline needs at least three corners", true);
  else {
    shape.closed = true;
    say(`${shape.kind === "zone" ? shape.name : "mask"}: closed`);
  }
  show();
}

function undo() {
  const shape = shapes[chosen];
  if (!shape) return;
  if (shape.closed) shape.closed = false;
  else shape.points.pop();
  show();
}

function svg(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function show() {
  const box = paper.getBoundingClientRect();
  const radius = { rx: (7 / Math.max(1, box.width)) * SIZE, ry: (7 / Math.max(1, box.height)) * SIZE };
  const parts = [];
  shapes.forEach((shape, i) => {
    const points = shape.points.map(([x, y]) => `${x * SIZE},${y * SIZE}`).join(" ");
    const look = [shape.kind, i === chosen ? "chosen" : "", shape.closed ? "" : "open"].join(" ");
    parts.push(svg(shape.closed ? "polygon" : "polyline", { points, class: look }));
    if (i !== chosen) return;
    shape.points.forEach(([x, y], k) => {
      parts.push(svg("ellipse", { cx: x * SIZE, cy: y * SIZE, ...radius, class: k ? "" : "first" }));
    });
  });
  if (cross) {
    parts.push(svg("line", { class: "cross", x1: cross[0] * SIZE, x2: cross[0] * SIZE, y1: 0, y2: SIZE }));
    parts.push(svg("line", { class: "cross", x1: 0, x2: SIZE, y1: cross[1] * SIZE, y2: cross[1] * SIZE }));
  }
  paper.replaceChildren(...parts);
  showList();
  byId("toml").value = toml();
}

function showList() {
  byId("shapes").replaceChildren(...shapes.map((shape, i) => {
    const name = shape.kind === "zone" ? shape.name : `mask ${shapes.slice(0, i + 1).filter((one) => one.kind === "mask").length}`;
    const pick = make("button", { type: "button", "aria-pressed": String(i === chosen) }, `${name} · ${shape.points.length} corners${shape.closed ? "" : ", open"}`);
    pick.addEventListener("click", () => { chosen = i; show(); byId("shapes").children[i].firstChild.focus(); });
    const gone = make("button", { type: "button", "aria-label": `Delete ${name}` }, "Delete");
    gone.addEventListener("click", () => { shapes.splice(i, 1); chosen = -1; show(); byId("add-zone").focus(); });
    return make("li", {}, pick, gone);
  }));
  const shape = shapes[chosen];
  byId("close").hidden = !shape || shape.closed;
  byId("undo").hidden = !shape || (!shape.closed && !shape.points.length);
  byId("rename").hidden = !shape || shape.kind !== "zone";
  if (shape && document.activeElement !== byId("zone-name")) byId("zone-name").value = shape.name;
}

const number = (value) => String(Math.round(value * 10000) / 10000);
const list = (points) => `[${points.map(([x, y]) => `[${number(x)}, ${number(y)}]`).join(", ")}]`;
const quoted = (text) => JSON.stringify(text).replaceAll("\u007f", "\\u007f");
const key = (name) => (/^[A-Za-z0-9_-]+$/.test(name) ? name : quoted(name));

function toml() {
  const whole = shapes.filter((one) => one.closed);
  const lines = [];
  const zones = whole.filter((one) => one.kind === "zone"), masks = whole.filter((one) => one.kind === "mask");
  if (zones.length && !track) lines.push(`# Zones need tracks: set track = true in [streams.${key(stream)}].`, "");
  for (const zone of zones) {
    lines.push(`[streams.${key(stream)}.zones.${key(zone.name)}]`, `polygon = ${list(zone.points)}`);
    if (zone.labels?.length) lines.push(`labels = [${zone.labels.map(quoted).join(", ")}]`);
    if (zone.dwell_s) lines.push(`dwell_s = ${zone.dwell_s}`);
    lines.push("");
  }
  if (masks.length) {
    lines.push(`[streams.${key(stream)}.privacy]`, "mask = [", ...masks.map((mask) => `  ${list(mask.points)},`), "]", "");
  }
  return lines.join("\n");
}

function tables() {
  const whole = shapes.filter((one) => one.closed);
  const zones = Object.fromEntries(whole.filter((one) => one.kind === "zone").map((one) => [one.name, {
    polygon: one.points.map((point) => point.map((value) => +number(value))),
    ...(one.labels?.length ? { labels: one.labels } : {}),
    ...(one.dwell_s ? { dwell_s: one.dwell_s } : {}),
  }]));
  const mask = whole.filter((one) => one.kind === "mask").map((one) => one.points.map((point) => point.map((value) => +number(value))));
  return { zones, mask };
}

paper.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  event.preventDefault();
  paper.focus({ preventScroll: true });
  cross = null;
  const point = place(event), shape = shapes[chosen];
  const hit = shape ? shape.points.findIndex((one) => pixelsBetween(one, point) < NEAR_PX) : -1;
  if (hit >= 0 && (shape.closed || hit > 0)) {
    dragged = hit;
    paper.setPointerCapture(event.pointerId);
  } else addPoint(point);
});
paper.addEventListener("pointermove", (event) => {
  if (dragged === null) return;
  shapes[chosen].points[dragged] = place(event);
  show();
});
for (const end of ["pointerup", "pointercancel"]) paper.addEventListener(end, () => { dragged = null; });

paper.addEventListener("keydown", (event) => {
  const step = event.shiftKey ? 0.002 : 0.02;
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  if (moves[event.key]) {
    cross = cross || [0.5, 0.5];
    cross = [clamp(cross[0] + moves[event.key][0]), clamp(cross[1] + moves[event.key][1])];
    show();
  } else if (event.key === "Enter") {
    cross = cross || [0.5, 0.5];
    addPoint([...cross]);
    say(`corner at ${number(cross[0])}, ${number(cross[1])}`);
  } else if (event.key.toLowerCase() === "c" && !event.ctrlKey && !event.metaKey) close();
  else if (event.key === "Backspace" || event.key === "Delete") undo();
  else return;
  event.preventDefault();
});

byId("add-zone").addEventListener("click", () => begin("zone"));
byId("add-mask").addEventListener("click", () => begin("mask"));
byId("close").addEventListener("click", close);
byId("undo").addEventListener("click", undo);
byId("zone-name").addEventListener("input", (event) => {
  const name = event.target.value.trim();
  const usable = /^[a-z0-9-]{1,63}$/.test(name);
  if (!usable || shapes.some((one, i) => i !== chosen && one.name === name)) {
    say(usable ? "another zone has this name" : "a zone's name has 1 to 63 of the characters a-z 0-9 -", true);
    return;
  }
  say("");
  shapes[chosen].name = name;
  show();
});
byId("copy").addEventListener("click", async () => {
  const text = byId("toml");
  try {
    await navigator.clipboard.writeText(text.value);
  } catch { // not a secure context: an address on the network without TLS
    text.select();
    document.execCommand("copy");
  }
  say("copied");
});
byId("apply").addEventListener("click", async (event) => {
  event.currentTarget.disabled = true;
  const answer = await send("/api/command", { verb: "shapes", arguments: { stream, ...tables() } });
  byId("apply").disabled = false;
  say(answer.ok ? "applied" : answer.text, !answer.ok);
});
addEventListener("resize", show);

async function open() {
  put(byId("name"), stream);
  document.title = `Zones of ${stream} · edgerun`;
  const { streams } = await get("/api/layout");
  const own = streams[stream];
  if (!own) {
    say(`there is no stream ${stream} with pictures`, true);
    return;
  }
  track = own.track;
  for (const [name, zone] of Object.entries(own.zones)) {
    shapes.push({ kind: "zone", name, points: zone.polygon, closed: true, labels: zone.labels, dwell_s: zone.dwell_s });
  }
  for (const points of own.mask) shapes.push({ kind: "mask", name: "", points, closed: true });
  const { commands } = await get("/api/status");
  byId("apply").hidden = !commands.includes("shapes");
  picture.addEventListener("load", show, { once: true });
  picture.src = `/live/${encodeURIComponent(stream)}.mjpg`;
  show();
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) picture.removeAttribute("src");
  else picture.src = `/live/${encodeURIComponent(stream)}.mjpg?${Date.now()}`;
});
open().catch((error) => say(String(error.message), true));
