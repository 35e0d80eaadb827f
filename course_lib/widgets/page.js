// An explorer on a page of the site, without Jupyter: where its data come from.

/** The bytes behind what `data` holds: a view of them, or on a page {script, key}, which is loaded now. */
export function bytesOf(given) {
  if (!given.script) return new Uint8Array(given.buffer, given.byteOffset, given.byteLength);
  const store = (globalThis.everyPixelData ??= {});
  given.loading ??= new Promise((resolve) => {
    if (store[given.key]) return resolve();
    const script = document.createElement("script");
    document.head.append(Object.assign(script, { src: given.script, onload: resolve, onerror: resolve }));
  }).then(() => {
    if (!store[given.key]) throw new Error(`${given.script} is missing beside this page.`);
    return decoded(store[given.key]);
  });
  return given.loading;
}

/** The bytes of base64. */
function decoded(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/**
 * The widget in a page without Jupyter: `state` is the widget's, with {base64} where it holds bytes.
 *
 * wait  megabytes that it will load: a button then stands in its place
 */
export function showOnPage(widget, host, state, wait = 0) {
  const found = (value) => {
    if (Array.isArray(value)) return value.map(found);
    if (value === null || typeof value !== "object") return value;
    if (typeof value.base64 === "string") return decoded(value.base64);
    return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, found(one)]));
  };
  const nothing = () => {};
  const open = () => {
    const values = found(state);
    const model = { get: (name) => values[name], set: nothing, on: nothing, off: nothing, save_changes: nothing };
    host.replaceChildren();
    widget.render({ model, el: host });
  };
  if (!wait) return open();
  const button = document.createElement("button");
  Object.assign(button, { type: "button", textContent: `Open the explorer (it loads ${wait} MB)` });
  button.addEventListener("click", () => {
    open();
    host.querySelector("input, select, button")?.focus();
  });
  const closed = Object.assign(document.createElement("section"), { className: "ep-explorer ep-closed" });
  closed.append(button);
  host.append(closed);
}
