// The status page: asks once a second, and shows. Nothing is asked for while nobody sees it.
import { get, make, put, say, send } from "./api.js";
import { Chart } from "./chart.js";

const FATES = ["published", "skipped", "superseded", "expired", "gated", "limited", "failed", "in_flight"];
const STAGES = ["capture", "wait", "preprocess", "infer", "decode"];
const WORDS = { in_flight: "in flight" };
const MOST_LIVE = 3; // a browser opens six connections to one device; the numbers need one
const STATUS_MS = 1000, TIMELINE_MS = 5000, STILL_MS = 2000;

const byId = (id) => document.getElementById(id);
const cards = new Map();
const tiles = new Map();
const charts = {
  fps: new Chart(byId("charts"), "Rate", "results a second"),
  age: new Chart(byId("charts"), "Age of results", "ms"),
  device: new Chart(byId("charts"), "Device", "°C, W, % of a core"),
};
let events = -1, timelineAt = 0, lost = false, run = "", leaving = false;
const underWay = new Set(); // what is being asked of the device

const whole = new Intl.NumberFormat("en");
const digits = (value) => (value === undefined ? "–" : value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2));

function ago(seconds) {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const at = Math.max(0, parts.findIndex(([size]) => seconds >= size));
  return parts.slice(at, at + 2).map(([size, unit], i) => {
    const n = Math.floor((i ? seconds % parts[at][0] : seconds) / size);
    return `${n} ${unit}`;
  }).join(" ");
}

class Card {
  constructor(name) {
    this.name = name;
    this.root = byId("card").content.firstElementChild.cloneNode(true);
    const one = (selector) => this.root.querySelector(selector);
    this.pill = one(".pill");
    this.reason = one(".reason");
    this.picture = one(".picture");
    this.image = one("img");
    this.pause = one(".pause");
    this.freeze = one(".freeze");
    this.seen = one(".seen");
    this.accounts = new Map();
    this.visible = this.frozen = this.live = false;
    one("h3").textContent = name;
    this.image.alt = `Live picture of ${name}, with what was found drawn in`;
    const path = encodeURIComponent(name);
    this.save = one(".save");
    this.save.href = `/snapshot/${path}.jpg`;
    this.save.download = `${name}.jpg`;
    this.save.setAttribute("aria-label", `Snapshot of ${name}`);
    this.draw = one(".draw");
    this.draw.href = `/draw?stream=${path}`;
    this.draw.setAttribute("aria-label", `Draw zones of ${name}`);
    this.image.addEventListener("load", () => {
      this.image.classList.remove("waiting");
      const { naturalWidth: w, naturalHeight: h } = this.image;
      if (w && h) this.picture.style.aspectRatio = `${w} / ${h}`;
    });
    this.image.addEventListener("error", () => {
      this.image.classList.add("waiting");
      this.live = false;
      this.again = Date.now() + 3000;
    });
    this.freeze.addEventListener("click", () => {
      this.frozen = !this.frozen;
      this.freeze.setAttribute("aria-pressed", String(this.frozen));
      put(this.freeze, this.frozen ? "Frozen" : "Freeze");
      if (this.frozen) this.still();
      look();
    });
    this.pause.addEventListener("click", () => command(this.paused ? "resume" : "pause", { stream: name }, this.pause));
    byId("cards").append(this.root);
    watcher.observe(this.picture);
  }

  still() {
    this.live = false;
    this.image.src = `/snapshot/${encodeURIComponent(this.name)}.jpg?${Date.now()}`;
    this.stillAt = Date.now();
  }

  stop() {
    if (this.live) this.image.removeAttribute("src");
    this.live = false;
  }

  follow(mayLive) {
    if (!this.has || this.paused || !this.visible || document.hidden) {
      if (!this.frozen) this.stop();
    } else if (this.frozen || Date.now() < (this.again || 0)) {
      return;
    } else if (mayLive) {
      if (!this.live) {
        this.live = true;
        this.image.src = `/live/${encodeURIComponent(this.name)}.mjpg?${Date.now()}`;
      }
    } else if (Date.now() - (this.stillAt || 0) >= STILL_MS) {
      this.still();
    }
  }

  show(stream, accounts, commands) {
    this.has = stream.picture;
    this.paused = stream.state === "paused";
    this.pill.dataset.state = stream.state;
    put(this.pill, stream.state);
    this.reason.hidden = !stream.reason && !stream.input;
    put(this.reason, [stream.reason, stream.input && `input: ${stream.input.join(", ")}`].filter(Boolean).join(" · "));
    this.picture.hidden = this.freeze.hidden = this.save.hidden = this.draw.hidden = !stream.picture;
    this.pause.hidden = !commands.includes("pause");
    put(this.pause, this.paused ? "Resume" : "Pause");
    this.pause.setAttribute("aria-label", `${this.paused ? "Resume" : "Pause"} ${this.name}`);
    const counts = Object.entries(stream.counts || {}).sort((a, b) => b[1] - a[1]).slice(0, 8);
    put(this.seen, counts.length ? counts.map(([label, n]) => `${label} ${n}`).join(" · ") : stream.said || (stream.counts ? "nothing in sight" : " "));
    const own = Object.entries(accounts).filter(([, account]) => account.stream === this.name);
    for (const [name, account] of own) {
      if (!this.accounts.has(name)) this.accounts.set(name, new Account(this.root.querySelector(".accounts")));
      this.accounts.get(name).show(own.length > 1 ? name : "", account);
    }
    for (const [name, shown] of this.accounts) {
      if (!(name in accounts)) { shown.root.remove(); this.accounts.delete(name); }
    }
  }
}

class Account {
  constructor(home) {
    this.root = byId("account").content.firstElementChild.cloneNode(true);
    this.fates = new Bar(this.root.querySelector(".fates"), "fate", FATES);
    this.stages = new Bar(this.root.querySelector(".stages"), "stage", STAGES);
    home.append(this.root);
  }

  show(name, account) {
    const one = (selector) => this.root.querySelector(selector);
    one("h4").hidden = !name;
    put(one("h4"), name);
    const age = account.age_ms || {};
    unit(one(".fps"), digits(account.fps), "/s");
    unit(one(".p50"), digits(age.p50), "ms");
    unit(one(".p99"), digits(age.p99), "ms");
    unit(one(".infer"), digits((account.latency_ms || {}).infer), "ms");
    put(one(".grabbed"), `${whole.format(account.grabbed)} grabbed, ${digits(account.grabbed_fps)}/s`);
    this.fates.show(account, `${account.grabbed} frames grabbed`, whole.format);
    const spent = account.latency_ms || {};
    const all = Object.values(spent).reduce((sum, value) => sum + value, 0);
    put(one(".spent"), all ? `${digits(all)} ms` : "");
    this.stages.show(spent, "Time in each stage", (value) => `${digits(value)} ms`);
  }
}

class Bar {
  constructor(root, kind, names) {
    this.root = root;
    this.names = names;
    this.parts = {};
    for (const name of names) {
      const part = make("i", { [`data-${kind}`]: name }), number = make("b");
      const item = make("li", {}, make("i", { [`data-${kind}`]: name }), `${WORDS[name] || name} `, number);
      root.append(part);
      root.nextElementSibling.append(item);
      this.parts[name] = { part, number, item };
    }
  }

  show(values, title, format) {
    const told = [];
    for (const name of this.names) {
      const n = values[name] || 0, { part, number, item } = this.parts[name];
      part.style.flexGrow = String(n);
      part.className = n ? "some" : "";
      item.hidden = !n;
      put(number, format(n));
      if (n) told.push(`${WORDS[name] || name} ${format(n)}`);
    }
    this.root.setAttribute("aria-label", `${title}: ${told.join(", ") || "none yet"}`);
  }
}

function unit(element, value, text) {
  const known = `${value} ${text}`;
  if (element.dataset.known === known) return;
  element.dataset.known = known;
  element.replaceChildren(value, " ", make("small", {}, text));
}

const watcher = new IntersectionObserver((seen) => {
  for (const entry of seen) {
    const card = [...cards.values()].find((one) => one.picture === entry.target);
    if (card) card.visible = entry.isIntersecting;
  }
  look();
}, { rootMargin: "50px" });

function look() {
  if (leaving) return;
  let left = MOST_LIVE;
  for (const card of cards.values()) {
    const wants = card.visible && card.has && !card.paused && !card.frozen;
    card.follow(wants && left > 0);
    if (wants) left -= 1;
  }
}

async function command(verb, args, button) {
  if (button) button.disabled = true;
  const answer = await send("/api/command", { verb, arguments: args });
  if (button) button.disabled = false;
  say(answer.ok ? `${verb}${args.stream ? ` ${args.stream}` : ""}: done` : `${verb}: ${answer.text}`, !answer.ok);
  refresh();
}

function tile(name, title, value, more = "", grave = false) {
  if (!tiles.has(name)) {
    const root = make("div", {}, make("dt", {}, title), make("dd"), make("dd"));
    byId("tiles").append(root);
    tiles.set(name, root);
  }
  const root = tiles.get(name);
  root.hidden = value === null || value === undefined;
  if (root.hidden) return;
  root.dataset.grave = String(grave);
  put(root.children[1], value);
  put(root.children[2], more);
}

function bytes(n) {
  const at = n >= 1048576 ? [1048576, "MiB"] : [1024, "KiB"];
  return `${digits(n / at[0])} ${at[1]}`;
}

function showTiles(status) {
  const sum = (key) => Object.values(status.accounts).reduce((all, one) => all + (one[key] || 0), 0);
  const { thermal = {}, power = {}, memory = {}, spool, governor } = status;
  tile("rate", "Results", `${digits(sum("fps"))}/s`, `of ${digits(sum("grabbed_fps"))} frames/s`);
  const p99 = Object.values(status.accounts).map((one) => (one.age_ms || {}).p99).filter((one) => one !== undefined);
  tile("age", "Age p99", p99.length ? `${digits(Math.max(...p99))} ms` : null, "of the oldest stream");
  const on = [...new Set(Object.values(status.engines).map((one) => one.accelerator))];
  const fallen = Object.values(status.engines).some((one) => one.fallbacks);
  tile("on", "Accelerator", on.join(", ") || null, fallen ? "not the first choice" : Object.values(status.engines)[0]?.runtime, fallen);
  const temp = thermal.soc_temp_c ?? status.temp_c;
  tile("temp", "Temperature", temp === undefined ? null : `${digits(temp)} °C`, thermal.throttled ? "slowed down" : thermal.throttled === false ? "not throttled" : "", Boolean(thermal.throttled));
  tile("power", "Power", power.power_w === undefined ? null : `${digits(power.power_w)} W`, power.j_per_inference === undefined ? power.source || "" : `${digits(power.j_per_inference)} J a result`);
  tile("cpu", "CPU", status.cpu === undefined ? null : `${digits(status.cpu * 100)} %`, "of one core");
  tile("memory", "Memory", memory.rss_mib === undefined ? null : `${digits(memory.rss_mib)} MiB`, memory.slope_mib_h === undefined ? "resident" : `${memory.slope_mib_h} MiB/h`);
  if (status.broker) tile("broker", "Broker", status.broker.connected ? "connected" : "away", "MQTT", !status.broker.connected);
  if (spool) tile("spool", "Spool", whole.format(spool.messages), `waiting${spool.bytes ? `, ${bytes(spool.bytes)}` : ""}${spool.dropped ? `, ${whole.format(spool.dropped)} dropped` : ""}`, spool.dropped > 0);
  if (governor) tile("governor", "Governor", governor.level ? `level ${governor.level}` : "free", governor.reason || "", Boolean(governor.level));
}

function showModels(status) {
  const known = JSON.stringify([status.engines, status.commands]);
  if (byId("models").dataset.known === known) return;
  byId("models").dataset.known = known;
  byId("models").replaceChildren(...Object.entries(status.engines).map(([name, engine]) => {
    const root = make("div", {}, make("h3", {}, `${engine.model} ${engine.version}`));
    root.append(make("p", { class: "quiet" }, `${name} · ${engine.runtime} · ${engine.accelerator}, ${engine.threads} thread${engine.threads === 1 ? "" : "s"}`));
    for (const lost of engine.fallbacks || []) root.append(make("p", { class: "fallback" }, `${lost.accelerator}: ${lost.reason}`));
    if (status.commands.includes("model/rollback")) {
      const back = make("button", { type: "button" }, "Roll back");
      back.addEventListener("click", () => {
        if (confirm(`Go back to the version of ${engine.model} before ${engine.version}?`)) command("model/rollback", { name: engine.model }, back);
      });
      root.append(make("div", { class: "buttons" }, back));
    }
    return root;
  }));
}

function showOverall(status) {
  const states = Object.values(status.streams).map((one) => one.state);
  const worst = ["stalled", "degraded", "paused", "ended"].find((one) => states.includes(one)) || "running";
  const n = states.filter((one) => one === worst).length;
  byId("overall").dataset.state = worst;
  put(byId("overall"), worst === "running" ? "running" : `${n} of ${states.length} ${worst}`);
  put(byId("device"), status.device);
  document.title = `${status.device} · edgerun`;
  put(byId("about"), `edgerun ${status.version} · up ${ago(status.uptime_s)}`);
  byId("reload").hidden = !status.commands.includes("reload");
  byId("logout").hidden = !status.token;
}

async function showTimeline() {
  const { ts, series, step_s: step } = await get("/api/timeline");
  const span = Math.max(120, Math.min(900, ts.length > 1 ? ts.at(-1) - ts[0] : 0));
  const names = Object.keys(series).filter((one) => one.startsWith("stream:"));
  const lines = (key, faint, text) => names.map((name, color) => series[name][key] && {
    name: [names.length > 1 || !text ? name.slice(7) : "", text].filter(Boolean).join(" "), values: series[name][key], color, faint,
  }).filter(Boolean);
  charts.fps.show(ts, lines("fps"), span);
  charts.age.show(ts, [...lines("p50", false, "p50"), ...lines("p99", true, "p99")], span);
  const device = series.device || {};
  const some = (keys) => keys.filter(([key]) => device[key]).map(([key, name, color, by = 1]) => ({
    name, color, values: device[key].map((one) => one === null ? null : one * by),
  }));
  charts.device.show(ts, some([["temp_c", "°C", 1], ["power_w", "W", 2], ["cpu", "CPU %", 0, 100]]), span);
  return step;
}

async function showEvents() {
  const { events: list } = await get("/api/events");
  byId("events").replaceChildren(...(list.length ? list.map((entry) => {
    const at = new Date(entry.ts * 1000);
    const time = make("time", { datetime: at.toISOString() }, at.toLocaleTimeString([], { hour12: false }));
    return make("li", entry.grave ? { class: "grave" } : {}, time, make("b", {}, entry.kind.replaceAll("_", " ")), make("span", {}, [entry.stream, entry.text].filter(Boolean).join(": ")));
  }) : [make("li", { class: "nothing" }, "Nothing has happened since the start.")]));
}

function refresh() {
  if (leaving) return Promise.resolve();
  const one = renew().finally(() => underWay.delete(one));
  underWay.add(one);
  return one;
}

async function renew() {
  try {
    const status = await get("/api/status");
    if (lost || run !== status.run) {
      if (lost) say("");
      for (const card of cards.values()) card.stop();
      lost = false;
      run = status.run;
      events = -1;
    }
    showOverall(status);
    showTiles(status);
    for (const [name, stream] of Object.entries(status.streams)) {
      if (!cards.has(name)) cards.set(name, new Card(name));
      cards.get(name).show(stream, status.accounts, status.commands);
    }
    for (const [name, card] of cards) {
      if (!(name in status.streams)) { card.root.remove(); cards.delete(name); }
    }
    showModels(status);
    look();
    if (events !== status.events) {
      events = status.events;
      await showEvents();
    }
    if (Date.now() - timelineAt >= TIMELINE_MS) {
      timelineAt = Date.now();
      await showTimeline();
    }
  } catch (error) {
    if (!lost) {
      lost = true;
      byId("overall").dataset.state = "lost";
      put(byId("overall"), "no connection");
      say(`The device does not answer (${error.message}). Trying again.`, true);
    }
  }
}

async function turn() {
  if (!document.hidden) await refresh();
  setTimeout(turn, STATUS_MS);
}

document.addEventListener("visibilitychange", look);
byId("reload").addEventListener("click", (event) => command("reload", {}, event.currentTarget));
byId("logout").addEventListener("click", async () => {
  leaving = true; // what is asked for behind the end of the session would be refused
  await Promise.all(underWay);
  for (const card of cards.values()) card.stop();
  await send("/logout", {});
  location.replace("/login");
});
turn();
