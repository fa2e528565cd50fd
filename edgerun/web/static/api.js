// What the pages share: asking the device, telling it, and telling the person.

export async function get(path) {
  const answer = await fetch(path, { cache: "no-store", redirect: "error" });
  if (answer.status === 401) {
    location.replace("/login");
    throw new Error("a token is needed");
  }
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

export async function send(path, value) {
  try {
    const answer = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Edgerun": "1" },
      body: JSON.stringify(value),
    });
    const text = await answer.text();
    let known = {};
    try { known = JSON.parse(text); } catch { /* words, not JSON */ }
    return { ok: answer.ok, text: known.error || (answer.ok ? "done" : text.trim()), ...known };
  } catch {
    return { ok: false, text: "the device does not answer" };
  }
}

let fading = 0;

export function say(text, bad = false) {
  const notice = document.getElementById("notice");
  notice.dataset.bad = String(bad);
  notice.textContent = text;
  clearTimeout(fading);
  if (!bad) fading = setTimeout(() => { notice.textContent = ""; }, 6000);
}

export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}
