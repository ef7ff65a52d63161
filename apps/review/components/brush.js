// Painting on the mask of the chosen finding. Every stroke is sent at once; until the server has it, the bar says so.
// `view` is the volume viewer: its state, draw(), voxel(event) in pixels of the slice, and shown() after a save.
function brush(view) {
  const { state } = view;
  const own = { on: false, tool: "brush", size: 5, undo: [], dirty: new Set(), busy: false, said: "", failed: false, turn: 0, flight: null };
  const bar = element("span", "tools"), words = element("span", "soft", ""), label = element("span", "soft", "");
  const slider = element("input");
  slider.type = "range"; slider.min = 1; slider.max = 60; slider.value = own.size;
  slider.setAttribute("aria-label", "Size of the brush");
  slider.oninput = () => { own.size = +slider.value; tell(); view.draw(); };
  const pick = (tool) => { own.tool = tool; tell(); view.draw(); };
  const tools = { brush: button("Brush", "P", () => pick("brush")), eraser: button("Eraser", "D", () => pick("eraser")) };
  const back = button("Undo", "Z while painting", undo);
  const again = button("The AI's mask again", "a new row in the log; yours stays in it", fromAI);
  bar.append(tools.brush, tools.eraser, slider, label, back, again, words);
  const edit = button("Paint", "E", toggle);

  const chosen = () => state.masks.find((one) => one.label === state.data.finding && !one.before);
  // Of a finding that has no mask an empty one, which exists here alone until something is painted on it.
  function blank() {
    if (!state.told || !state.ready || !state.data.draws || state.changed.includes(state.data.finding)) return null;
    const [D, H, W] = state.told.shape, mask = { label: state.data.finding, bits: new Uint8Array(Math.ceil(D * H * W / 8)), present: new Array(D).fill(0), largest: -1, seq: 0, painted: true, before: false, anew: true, said: "drawn by you, from nothing" };
    state.masks = [...state.masks, mask];
    return mask;
  }
  const empty = (mask) => mask.anew && !mask.seq && !own.busy && !own.dirty.size;
  const pixels = () => state.told.shape[1] * state.told.shape[2];
  function toggle() {
    own.on = !own.on && !!(chosen() || blank()); own.undo = [];
    if (!own.on) state.masks = state.masks.filter((mask) => !empty(mask));
    if (!own.on && own.changed) { own.changed = false; view.shown(); }
    tell(); view.draw();
  }
  function tell() {
    const mask = state.told && chosen();
    const may = mask || state.ready && state.data.draws;
    edit.disabled = !may; edit.style.opacity = may ? 1 : 0.4; edit.textContent = mask || !may ? "Paint" : "Draw from nothing"; edit.setAttribute("aria-pressed", own.on);
    bar.style.display = own.on ? "contents" : "none"; label.textContent = `${own.size} px`;
    for (const [name, one] of Object.entries(tools)) one.setAttribute("aria-pressed", own.tool === name);
    back.disabled = !own.undo.length; again.style.display = mask && mask.painted && state.masks.some((one) => one.before && one.label === mask.label) ? "" : "none";
    words.textContent = own.said; words.style.color = own.failed ? "#e69f00" : "";
  }

  // One slice of a mask as 0 and 1, and back.
  function unpacked(mask, z) { const n = pixels(), out = new Uint8Array(n); for (let i = 0, j = z * n; i < n; i++, j++) out[i] = (mask.bits[j >> 3] >> (7 - (j & 7))) & 1; return out; }
  function put(mask, z, plane) {
    const n = pixels(); let count = 0;
    for (let i = 0, j = z * n; i < n; i++, j++) { const bit = 128 >> (j & 7); if (plane[i]) { mask.bits[j >> 3] |= bit; count++; } else mask.bits[j >> 3] &= ~bit; }
    mask.present[z] = count ? 1 : 0;
  }
  function packed(mask, z) { const plane = unpacked(mask, z), out = new Uint8Array(Math.ceil(plane.length / 8)); plane.forEach((there, i) => { if (there) out[i >> 3] |= 128 >> (i & 7); }); return out; }

  // Pixels whose middle lies within the brush around a place; the smallest brush is the pixel under the pointer.
  function dab([x, y]) {
    const [, H, W] = state.told.shape, plane = own.stroke.plane, value = own.tool === "brush" ? 1 : 0, r = own.size / 2;
    if (own.size === 1) { const i = Math.floor(x), j = Math.floor(y); if (i >= 0 && j >= 0 && i < W && j < H) plane[j * W + i] = value; return; }
    for (let j = Math.max(Math.floor(y - r), 0); j < Math.min(Math.ceil(y + r), H); j++)
      for (let i = Math.max(Math.floor(x - r), 0); i < Math.min(Math.ceil(x + r), W); i++)
        if ((i + 0.5 - x) ** 2 + (j + 0.5 - y) ** 2 <= r * r) plane[j * W + i] = value;
  }
  function down(event) {
    const mask = own.on && chosen();
    if (!mask || event.button !== 0 || event.shiftKey) return false;
    if (own.dirty.size && own.mask !== mask) { own.said = "Wait until what you painted before is kept."; tell(); return true; }
    if (!mask.painted) original(mask);
    const before = unpacked(mask, state.slice), at = view.voxel(event);
    own.stroke = { mask, z: state.slice, before, plane: before.slice(), last: at };
    dab(at); put(mask, state.slice, own.stroke.plane); view.draw();
    return true;
  }
  function move(event) {
    if (!own.on) return false;
    own.at = view.voxel(event);
    if (!own.stroke) { view.draw(); return false; }
    const { stroke } = own, steps = Math.max(Math.ceil(2 * Math.hypot(own.at[0] - stroke.last[0], own.at[1] - stroke.last[1])), 1);
    for (let i = 1; i <= steps; i++) dab([0, 1].map((k) => stroke.last[k] + (own.at[k] - stroke.last[k]) * i / steps));
    stroke.last = own.at; put(stroke.mask, stroke.z, stroke.plane); view.draw();
    return true;
  }
  function up() {
    const { stroke } = own; if (!stroke) return;
    own.stroke = null;
    if (stroke.plane.every((there, i) => there === stroke.before[i])) return;
    own.undo.push({ z: stroke.z, before: stroke.before, label: stroke.mask.label }); if (own.undo.length > 100) own.undo.shift();
    changed(stroke.mask, stroke.z);
  }
  // The AI's mask stays on the screen beside what is painted from it.
  function original(mask) {
    const kept = mask.label.startsWith("box ") || state.masks.some((one) => one.before && one.label === mask.label);
    if (!kept) { state.masks.unshift({ ...mask, present: mask.present.slice(), before: true }); mask.bits = mask.bits.slice(); }
    mask.painted = true; mask.said = "painted by you";
  }
  function undo() {
    const last = own.undo.pop(), mask = chosen(); if (!last || !mask || last.label !== mask.label) return;
    put(mask, last.z, last.before); if (state.slice !== last.z) view.go(last.z);
    changed(mask, last.z);
  }
  function changed(mask, z) { own.dirty.add(z); own.mask = mask; own.url = state.data.paint; view.draw(); send(); }

  async function post(url, head, bits) {
    const text = new TextEncoder().encode(JSON.stringify(head)), body = new Uint8Array(4 + text.length + bits.length);
    new DataView(body.buffer).setUint32(0, text.length, true); body.set(text, 4); body.set(bits, 4 + text.length);
    const answer = await fetch(url, { method: "POST", headers: { "x-medvit": "1" }, body });
    const told = await answer.json().catch(() => ({}));
    if (!answer.ok) throw Object.assign(new Error(told.message || "The server does not answer."), { conflict: answer.status === 409 });
    return told;
  }
  function keep(url, mask, slices, bits) { return post(url, { finding: mask.label, after: mask.seq, slices, anew: !!mask.anew && !mask.seq }, bits); }
  function gathered(mask, slices) { const each = Math.ceil(pixels() / 8), bits = new Uint8Array(slices.length * each); slices.forEach((z, i) => bits.set(packed(mask, z), i * each)); return bits; }
  // What is painted while a save is on its way goes with the next one; what was refused stays to be sent again.
  function send() { clearTimeout(own.later); if (!own.busy) own.flight = sending(); }
  async function sending() {
    const { turn, mask, url } = own; let wrong = null;
    own.busy = true;
    while (turn === own.turn && own.dirty.size && !wrong) {
      const slices = [...own.dirty]; own.dirty.clear(); own.said = "keeping …"; own.failed = false; tell();
      try { kept(mask, await keep(url, mask, slices, gathered(mask, slices))); }
      catch (error) { wrong = error; if (!error.conflict && turn === own.turn) slices.forEach((z) => own.dirty.add(z)); }
    }
    own.busy = false;
    if (turn !== own.turn) missed(wrong, mask); else { refused(wrong); tell(); view.draw(); }
  }
  // The reader has gone on to another case: what is not kept yet follows, and what cannot be is said there.
  async function finish() {
    const { mask, url, flight } = own, slices = [...own.dirty], bits = slices.length ? gathered(mask, slices) : null;
    own.turn++; own.dirty.clear(); clearTimeout(own.later);
    if (!bits) return;
    await flight;
    try { await keep(url, mask, slices, bits); } catch (error) { missed(error, mask); }
  }
  function missed(error, mask) { if (error) { own.failed = true; own.said = `NOT kept of ${mask.label} of the case before: ${error.message}`; words.textContent = own.said; bar.style.display = "contents"; } }
  function kept(mask, told) { mask.seq = told.seq; own.changed = true; own.said = `kept, row ${told.seq}: ${told.voxels} voxels`; own.failed = false; }
  function refused(error) {
    if (!error) return;
    own.failed = true;
    if (error.conflict) { own.dirty.clear(); own.undo = []; own.said = error.message; view.reload(); }
    else { own.said = `NOT kept, tried again in 5 s: ${error.message}`; own.later = setTimeout(send, 5000); }
  }
  async function fromAI() {
    const mask = chosen(), ai = state.masks.find((one) => one.before && one.label === mask.label); if (!ai || own.busy || own.dirty.size) return;
    own.busy = true; let wrong = null;
    try { kept(mask, await post(state.data.paint, { finding: mask.label, after: mask.seq, slices: null }, new Uint8Array())); mask.bits = ai.bits.slice(); mask.present = ai.present.slice(); own.undo = []; } catch (error) { wrong = error; }
    own.busy = false; refused(wrong); tell(); view.draw();
  }
  function ring(pen, at, ratio) {
    if (!own.on || !own.at) return;
    pen.strokeStyle = own.tool === "brush" ? "#fff" : "#e69f00"; pen.lineWidth = ratio; pen.beginPath();
    pen.ellipse(at.x + own.at[0] * at.dx, at.y + own.at[1] * at.dy, Math.max(own.size / 2, 0.5) * at.dx, Math.max(own.size / 2, 0.5) * at.dy, 0, 0, 2 * Math.PI); pen.stroke();
  }
  // Z means this undo while painting, and the page's own otherwise.
  const keys = (event) => {
    const typing = event.composedPath().some((one) => one.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(one.tagName) && one.type !== "range");
    const key = event.key.toLowerCase();
    if (!own.on || typing || (event.ctrlKey || event.metaKey || event.altKey) && key !== "z") return;
    const resize = (by) => { own.size = Math.min(Math.max(own.size + by, 1), 60); slider.value = own.size; tell(); view.draw(); };
    const act = { z: undo, p: () => pick("brush"), d: () => pick("eraser"), "[": () => resize(-1), "]": () => resize(1), escape: toggle }[key];
    if (act) { event.preventDefault(); event.stopImmediatePropagation(); act(); }
  };
  const leaving = (event) => { if (own.dirty.size || own.busy) event.preventDefault(); };
  window.addEventListener("keydown", keys, true); window.addEventListener("beforeunload", leaving);
  return {
    edit, bar, own, down, move, up, tell, toggle, ring,
    stop: () => { finish(); own.on = own.changed = false; own.undo = []; own.said = ""; own.stroke = null; tell(); },
    close: () => { finish(); window.removeEventListener("keydown", keys, true); window.removeEventListener("beforeunload", leaving); clearTimeout(own.later); },
  };
}
