// Requests to the server, and the key that they need: the token, or what a student gets for the class's code.

const $ = (id) => document.getElementById(id);
let access = "open"; // or "token", or "class"
let asking = null;

export const inClass = () => access === "class";

// What comes before everything else: a server that needs a key is not asked without one.
export async function enter() {
  access = (await (await fetch("/health")).json()).access;
  if (access !== "open" && !sessionStorage.getItem("key")) await askForKey();
}

export async function api(path, options = {}) {
  const key = sessionStorage.getItem("key");
  const headers = { ...(options.body ? { "content-type": "application/json" } : {}) };
  if (key) headers.authorization = `Bearer ${key}`;
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) {
    if (sessionStorage.getItem("key") === key) sessionStorage.removeItem("key");
    if (!sessionStorage.getItem("key")) await askForKey();
    return api(path, options);
  }
  if (!response.ok) throw new Error(await mistake(response));
  return response;
}

export const send = (path, body, options = {}) => api(path, { method: "POST", body: JSON.stringify(body), ...options });

export async function* events(path, body, signal) {
  const response = await send(path, body, { signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const lines = rest.split("\n\n");
    rest = lines.pop();
    for (const line of lines) {
      const data = line.slice("data: ".length);
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

async function mistake(response) {
  const body = await response.json().catch(() => ({}));
  return body.error?.message ?? `the server answered ${response.status}`;
}

function askForKey() {
  asking ??= new Promise((resolve) => {
    const dialog = $("key-dialog");
    showForm(access === "class");
    dialog.addEventListener("close", () => {
      if (!sessionStorage.getItem("key")) return dialog.showModal(); // Escape is no way in
      asking = null;
      resolve();
    });
    dialog.showModal();
  });
  return asking;
}

function showForm(joins) {
  $("join-form").hidden = !joins;
  $("token-form").hidden = joins;
  $("to-token").hidden = !joins;
  $("to-join").hidden = joins || access !== "class";
  $("key-mistake").textContent = "";
}

function enterWith(key) {
  sessionStorage.setItem("key", key);
  $("token").value = "";
  $("key-dialog").close();
}

$("to-token").addEventListener("click", () => showForm(false));
$("to-join").addEventListener("click", () => showForm(true));
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("token").value) enterWith($("token").value);
});
$("join-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = JSON.stringify({ code: $("code").value, name: $("name").value });
  const headers = { "content-type": "application/json" };
  const response = await fetch("/v1/class/join", { method: "POST", body, headers });
  if (response.ok) enterWith((await response.json()).key);
  else $("key-mistake").textContent = await mistake(response);
});
