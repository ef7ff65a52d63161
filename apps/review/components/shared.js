// What all viewers share: one state a mount, framed numbers from the server, colours, keys.
const mounts = new WeakMap();

// The state of a mounted component; `make` builds it once, `update` follows every change of its data.
function mounted(component, make) {
  const root = component.parentElement.querySelector("[data-root]");
  let state = mounts.get(root);
  if (!state) { state = make(root, component); mounts.set(root, state); }
  state.component = component;
  state.update(component.data || {});
  return () => { const held = mounts.get(root); if (held && held.close) held.close(); mounts.delete(root); };
}

// Keys are for the page again once something was chosen from a list, or a line was written and Enter or Escape pressed.
function free() {
  const held = document.activeElement;
  if (held && held.getAttribute("role") === "combobox" && held.getAttribute("aria-expanded") !== "true") held.blur();
}
// A tired hand decides nothing: a key that is held counts once, so does a double click on a decision, and a button that was
// clicked does not keep the keyboard, where the next space or Enter would press it again for the next finding.
const DECIDES = '[class*="st-key-do_"], .st-key-undo, .st-key-rest, .st-key-reveal';
function once(event) { event.preventDefault(); event.stopImmediatePropagation(); }
if (!document.medvitFree) {
  document.medvitFree = true;
  window.addEventListener("keydown", (event) => { if (event.repeat && /^[a-z ]$/i.test(event.key) && !writing(event)) once(event); }, true);
  window.addEventListener("click", (event) => {
    const pressed = event.composedPath().find((one) => one.tagName === "BUTTON");
    if (!pressed || !event.detail) return;
    if (event.detail > 1 && pressed.closest(DECIDES)) once(event);
    setTimeout(() => pressed.blur());
  }, true);
  document.addEventListener("click", () => setTimeout(free, 200), true);
  document.addEventListener("keyup", (event) => {
    if (event.key !== "Enter" && event.key !== "Escape") return;
    const held = document.activeElement;
    if (held && held.tagName === "INPUT" && held.type === "text" && held.getAttribute("role") !== "combobox") held.blur();
    setTimeout(free, 200);
  }, true);
}

// A head in JSON and numbers behind it.
async function framed(url, signal) {
  const answer = await fetch(url, { signal });
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).message || "It cannot be shown.");
  const bytes = await answer.arrayBuffer();
  const length = new DataView(bytes).getUint32(0, true);
  return [JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 4, length))), bytes, 4 + length];
}

// Whether keys belong to something that is being written.
function writing(event) {
  const path = event.composedPath();
  return event.ctrlKey || event.metaKey || event.altKey ||
    path.some((one) => one.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(one.tagName) && one.type !== "range");
}

// Matplotlib's "inferno" (CC0) at nine steps, as in the written pictures; its darkest fifth, which nobody sees on a dark film, is left out.
const INFERNO = [[0, 0, 4], [31, 12, 72], [85, 15, 109], [136, 34, 106], [186, 54, 85], [227, 89, 51], [249, 140, 10], [249, 201, 50], [252, 255, 164]];
function inferno(share) {
  const place = (0.2 + 0.8 * Math.min(Math.max(share, 0), 1)) * 8, low = Math.min(Math.floor(place), 7), part = place - low;
  return [0, 1, 2].map((i) => Math.round(INFERNO[low][i] * (1 - part) + INFERNO[low + 1][i] * part));
}

// A map (h, w) of 0 to 1000 as a coloured picture; what lies below `faint` is left out.
function coloured(values, h, w, faint) {
  const scale = Math.max(1, Math.floor(256 / Math.max(h, w))), H = h * scale, W = w * scale;
  const canvas = new OffscreenCanvas(W, H), pen = canvas.getContext("2d"), picture = pen.createImageData(W, H);
  const at = (y, x) => values[Math.min(Math.max(y, 0), h - 1) * w + Math.min(Math.max(x, 0), w - 1)];
  for (let y = 0; y < H; y++) for (let x = 0; x < W; x++) {
    const fy = (y + 0.5) / scale - 0.5, fx = (x + 0.5) / scale - 0.5, y0 = Math.floor(fy), x0 = Math.floor(fx), b = fy - y0, a = fx - x0;
    const value = (1 - b) * ((1 - a) * at(y0, x0) + a * at(y0, x0 + 1)) + b * ((1 - a) * at(y0 + 1, x0) + a * at(y0 + 1, x0 + 1));
    const share = (value - faint) / (1000 - faint);
    if (share <= 0) continue;
    picture.data.set([...inferno(share), Math.round(255 * Math.sqrt(Math.min(share, 1)))], 4 * (y * W + x));
  }
  pen.putImageData(picture, 0, 0);
  return canvas;
}

// The colours of a map, from its lowest value to its highest.
function colourRamp() {
  const ramp = element("canvas", "ramp"), ink = ramp.getContext("2d"); ramp.width = 74; ramp.height = 9;
  for (let i = 0; i < ramp.width; i++) { ink.fillStyle = `rgb(${inferno(i / (ramp.width - 1))})`; ink.fillRect(i, 0, 1, ramp.height); }
  return ramp;
}

// The longest round length in millimetres or micrometres that is shorter than `most` pixels.
function scaleBar(pixelsPerMm, most) {
  const steps = [1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200];
  const mm = steps.filter((step) => step * pixelsPerMm <= most).pop();
  return mm ? { pixels: mm * pixelsPerMm, said: mm < 1 ? `${+(mm * 1000).toFixed(0)} µm` : `${mm} mm` } : null;
}

function button(said, title, act) {
  const one = document.createElement("button");
  one.type = "button"; one.textContent = said; one.title = title; one.onclick = act;
  return one;
}

function element(kind, name, text) {
  const one = document.createElement(kind);
  if (name) one.className = name;
  if (text !== undefined) one.textContent = text;
  return one;
}
