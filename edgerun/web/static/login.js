// The way in: a token becomes a cookie that scripts cannot read. A token behind # is used at once and not kept.
import { send, say } from "./api.js";

const field = document.getElementById("token");

async function logIn(token) {
  const answer = await send("/login", { token });
  if (answer.ok) location.replace("/");
  else say(answer.text, true);
}

document.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  logIn(field.value);
});

const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  history.replaceState(null, "", "/login");
  logIn(given);
}
