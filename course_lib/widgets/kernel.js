// The widget of an explorer whose thinking is Python's: each change asks the kernel once, and while it thinks
// later changes wait and go together.

import { mount } from "./explorer.js";

const SILENCE_MS = 3000;
const SILENT =
  "The kernel does not answer: it is busy, or it was restarted or lost. The pictures stay as they are. " +
  "If it stays silent, run the notebook again from the top.";

/** Content and raw pixels of a message as an answer. */
function answerOf(content, buffers) {
  const panels = content.panels.map((panel, index) => {
    const { buffer, byteOffset, byteLength } = buffers[index];
    return { ...panel, pixels: new Uint8ClampedArray(buffer, byteOffset, byteLength) };
  });
  return { ...content, panels };
}

const widget = {
  render({ model, el }) {
    const view = Math.random().toString(36).slice(2);
    let number = 0; // of the latest request
    let settle = null; // its promise
    let silence = 0;

    function respond({ values, pressed, points }) {
      return new Promise((resolve, reject) => {
        settle = resolve;
        clearTimeout(silence);
        const silent = () => {
          settle = null; // the next change tries again
          reject(Object.assign(new Error(SILENT), { silent: true }));
        };
        silence = setTimeout(silent, SILENCE_MS);
        try {
          model.send({ view, number: ++number, values, pressed, points });
        } catch {
          silent();
        }
      });
    }

    const hear = (content, buffers) => {
      if (content.view !== view || content.number !== number) return;
      clearTimeout(silence);
      const answer = answerOf(content, buffers);
      if (settle) settle(answer);
      else mounted.show(answer); // it comes late
    };
    const { buffers, ...content } = model.get("start");
    const spec = Object.fromEntries(["title", "controls", "legend", "brush"].map((name) => [name, model.get(name)]));
    const mounted = mount(el, { ...spec, start: answerOf(content, buffers) }, respond);
    model.on("msg:custom", hear);
    return () => {
      clearTimeout(silence);
      model.off("msg:custom", hear);
    };
  },
};

export { widget as default };
