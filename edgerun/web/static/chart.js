// Lines over time, as SVG. What is not known is a gap.
import { make, put } from "./api.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDE = 600, HIGH = 140, LEFT = 38, BELOW = 18, ABOVE = 8;

function draw(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function roundUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((one) => one * power).find((one) => one >= value * 0.999);
}

export class Chart {
  constructor(home, title, unit) {
    this.title = title;
    this.unit = unit;
    this.svg = draw("svg", { role: "img", preserveAspectRatio: "none" });
    this.keys = make("ul", { class: "keys" });
    this.figure = make("figure", {}, make("figcaption", {}, `${title}, ${unit}`), this.svg, this.keys);
    home.append(this.figure);
  }

  // lines: [{ name, values, color, faint }]; span: seconds that the axis covers
  show(times, lines, span) {
    this.figure.hidden = !lines.length;
    if (!lines.length) return;
    const wide = Math.max(240, this.svg.clientWidth || WIDE), high = Math.max(100, this.svg.clientHeight || HIGH);
    const most = roundUp(Math.max(...lines.flatMap((line) => line.values.filter((one) => one !== null)), 0));
    const now = times.at(-1);
    const x = (at) => LEFT + (1 - (now - at) / span) * (wide - LEFT - 4);
    const y = (value) => ABOVE + (1 - value / most) * (high - ABOVE - BELOW);
    const parts = [];
    for (const share of [0, 0.5, 1]) {
      const at = y(most * share);
      parts.push(draw("line", { class: "grid", x1: LEFT, x2: wide, y1: at, y2: at }));
      parts.push(draw("text", { x: LEFT - 6, y: at + 4, "text-anchor": "end" }, String(+(most * share).toPrecision(3))));
    }
    const step = span > 480 ? 5 : span > 180 ? 2 : 1;
    for (let minutes = 0; minutes * 60 <= span + 1; minutes += step) {
      const anchor = minutes === 0 ? "end" : minutes * 60 > span * 0.94 ? "start" : "middle";
      parts.push(draw("text", { x: x(now - minutes * 60), y: high - 3, "text-anchor": anchor }, minutes ? `−${minutes} min` : "now"));
    }
    for (const line of lines) {
      let path = "", pen = false;
      line.values.forEach((value, i) => {
        if (value === null || now - times[i] > span) { pen = false; return; }
        path += `${pen ? "L" : "M"}${x(times[i]).toFixed(1)} ${y(value).toFixed(1)}`;
        if (!pen && (i + 1 >= line.values.length || line.values[i + 1] === null)) path += "h2";
        pen = true;
      });
      parts.push(draw("path", { class: `k${line.color % 5}${line.faint ? " faint" : ""}`, d: path || "M0 0" }));
    }
    this.svg.setAttribute("viewBox", `0 0 ${wide} ${high}`);
    this.svg.replaceChildren(...parts);
    const told = lines.map((line) => `${line.name} ${newest(line.values)}`).join(", ");
    this.svg.setAttribute("aria-label", `${this.title}, ${this.unit}: ${told}`);
    this.keys.replaceChildren(...lines.map((line) => {
      const sample = draw("svg", { viewBox: "0 0 26 10", "aria-hidden": "true" });
      sample.append(draw("path", { class: `k${line.color % 5}${line.faint ? " faint" : ""}`, d: "M1 5H25" }));
      const key = make("li", {}, sample);
      key.append(`${line.name} ${newest(line.values)}`);
      return key;
    }));
  }
}

function newest(values) {
  const value = values.findLast((one) => one !== null);
  return value === undefined ? "–" : String(+value.toPrecision(3));
}

export { put };
