// Asking the server: JSON, a stream of events, an upload with its progress; the key goes along where one is wanted.

let key = keyGiven() ?? kept("key");

export class Refusal extends Error {}

// A key comes with the address, behind #key=, where it is sent to no server and soon gone; a notebook hands it over so.
function keyGiven() {
  const found = /^#key=([^&]+)(?:&(\w+))?$/.exec(location.hash);
  if (!found) return null;
  keep("key", decodeURIComponent(found[1]));
  history.replaceState(null, "", `#/${found[2] ?? "write"}`);
  return decodeURIComponent(found[1]);
}

// What a tab remembers; a frame of another place may have to do without.
export function kept(name) {
  try { return sessionStorage.getItem(name); } catch { return null; }
}

export function keep(name, value) {
  try { sessionStorage.setItem(name, value); } catch { /* it lasts as long as the page */ }
}

function headers() {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function sentenceOf(response) {
  const content = await response.json().catch(() => null);
  return content?.error?.message ?? `the server answers ${response.status}`;
}

// The answer to a request that was let in; a wrong key is asked for until it is right.
async function answered(path, options = {}) {
  for (;;) {
    let response;
    try {
      response = await fetch(path, { ...options, headers: { ...options.headers, ...headers() } });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refusal("The server does not answer. Is it still running?");
    }
    if (response.ok) return response;
    if (response.status !== 401) throw new Refusal(await sentenceOf(response));
    await askForKey();
  }
}

let asking = null;

function askForKey() {
  asking ??= new Promise(resolve => {
    const dialog = document.getElementById("ask-key"), field = document.getElementById("key");
    dialog.querySelector(".trouble").hidden = !key;
    field.value = "";
    dialog.showModal();
    dialog.addEventListener("close", () => {
      key = field.value.trim();
      keep("key", key);
      asking = null;
      resolve();
    }, { once: true });
  });
  return asking;
}

export async function get(path, values = {}) {
  const query = new URLSearchParams(Object.entries(values).flatMap(([name, value]) => [value].flat().map(one => [name, one])));
  return (await answered(query.size ? `${path}?${query}` : path)).json();
}

function posted(body, signal) {
  return { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" }, signal };
}

export async function post(path, body, signal) {
  return (await answered(path, posted(body, signal))).json();
}

export async function remove(path, values) {
  await answered(`${path}?${new URLSearchParams(values)}`, { method: "DELETE" });
}

// The objects of a stream of server-sent events, as they come.
export async function* events(path, body, signal) {
  const response = await answered(path, posted({ ...body, stream: true }, signal));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Refusal("The server broke off.");
    const parts = (waiting + value).split("\n\n");
    waiting = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const content = JSON.parse(data);
      if (content.error) throw new Refusal(content.error.message);
      yield content;
    }
  }
}

// Sends a body and hands over how much of it is there (0 to 1), then the objects of the answer, one a line.
export function upload(path, values, body, { onSent, onLine, signal }) {
  return new Promise((resolve, reject) => {
    const asked = new XMLHttpRequest();
    let read = 0;
    const lines = () => {
      const whole = asked.responseText.lastIndexOf("\n") + 1;
      const fresh = asked.responseText.slice(read, whole);
      read = whole;
      for (const line of fresh.split("\n")) if (line) onLine(JSON.parse(line));
    };
    asked.open("POST", `${path}?${new URLSearchParams(values)}`);
    for (const [name, value] of Object.entries(headers())) asked.setRequestHeader(name, value);
    asked.setRequestHeader("Content-Type", "application/octet-stream");
    asked.upload.onprogress = event => onSent(event.loaded / event.total);
    asked.onprogress = () => { if (asked.status === 200) lines(); };
    asked.onload = () => {
      if (asked.status === 200) { lines(); resolve(); return; }
      let said = null;
      try { said = JSON.parse(asked.responseText).error.message; } catch { /* of something else than this server */ }
      reject(new Refusal(said ?? `the server answers ${asked.status}`));
    };
    asked.onerror = () => reject(new Refusal("The upload was broken off: the server refuses it, or is gone."));
    asked.onabort = () => reject(new DOMException("", "AbortError"));
    signal.addEventListener("abort", () => asked.abort());
    asked.send(body);
  });
}
