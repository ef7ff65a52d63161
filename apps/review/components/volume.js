// A volume or a picture with masks: wheel goes through the slices, shift and drag draws a box, right-drag sets window and level.
// Values travel as whole numbers: offset + scale * number is what the file holds; windows are told in values of the file.
export default (component) => mounted(component, (root) => {
  const COLOURS = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"];
  const state = { data: {}, slice: 0, on: true, centre: 0.5, width: 1, masks: [], box: null, changed: [] };
  const stage = element("div", "stage"), canvas = element("canvas"), pen = canvas.getContext("2d");
  const side = element("div", "said top"), about = element("div", "said top right"), lens = element("div", "said"), measure = element("div", "said right"), message = element("div", "message", "");
  const marks = Object.fromEntries(["left", "right", "top", "bottom"].map((edge) => [edge, element("span", `mark ${edge}`)]));
  const legend = element("div", "said top low legend");
  stage.append(canvas, side, about, lens, measure, legend, ...Object.values(marks), message);
  const strip = element("canvas"); strip.style.cssText = "display:block;width:100%;height:26px;margin-top:6px;background:#12161a;border:1px solid #2a3036;border-radius:4px;box-sizing:border-box;cursor:pointer;touch-action:none"; strip.setAttribute("role", "slider"); strip.setAttribute("aria-label", "Slice"); strip.tabIndex = 0;
  const bar = element("div", "bar"), words = element("span", "soft", "");
  const windows = element("select"); windows.setAttribute("aria-label", "Window"); windows.title = "W: the next window"; windows.onchange = () => windowed(+windows.value);
  const paint = brush({ state, draw: () => draw(), voxel: (event) => voxel(event), go: (slice) => go(slice), reload: () => masks(state.data, undefined, false), shown: () => state.component.setTriggerValue("painted", { nonce: Date.now() }) });
  const show = button("Outlines", "H", () => { state.on = !state.on; draw(); });
  const send = button("Outline what is in the box", "B", () => { if (state.box && state.data.segments) { state.component.setTriggerValue("box", { ...state.box, nonce: Date.now() }); words.textContent = "…"; } });
  const drop = button("Remove the box", "", () => { state.box = null; draw(); });
  bar.append(button("◂", "one slice down (↓)", () => go(state.slice - 1)), button("▸", "one slice up (↑)", () => go(state.slice + 1)), windows, show, paint.edit, paint.bar, send, drop, words);
  root.replaceChildren(stage, strip, bar);

  function go(slice) { if (!state.told) return; state.slice = Math.min(Math.max(slice, 0), state.told.shape[0] - 1); tone(); draw(); }
  function windowed(number) { const one = state.told.windows[number]; windows.value = number; state.centre = one[1]; state.width = one[2]; tone(); draw(); }
  function own() { const number = state.told.windows.findIndex((one) => one[1] === state.centre && one[2] === state.width); windows.value = number < 0 ? "" : number; }
  function tone() {
    if (!state.told) return;
    const [, H, W] = state.told.shape, { offset, scale } = state.told, from = state.slice * H * W, out = new Uint32Array(state.picture.data.buffer), low = state.centre - state.width / 2;
    if (state.toned !== `${state.centre} ${state.width}`) {
      state.toned = `${state.centre} ${state.width}`;
      for (let value = 0; value < state.greys.length; value++) { const grey = Math.round(255 * Math.min(Math.max((offset + scale * value - low) / state.width, 0), 1)); state.greys[value] = (255 << 24) | (grey << 16) | (grey << 8) | grey; }
    }
    for (let i = 0; i < H * W; i++) out[i] = state.greys[state.values[from + i]];
    state.bare.getContext("2d").putImageData(state.picture, 0, 0);
  }
  function place() {
    const [, H, W] = state.told.shape, gap = state.told.spacing || [1, 1, 1], sy = gap[gap.length - 2], sx = gap[gap.length - 1];
    const scale = Math.min(canvas.width / (W * sx), canvas.height / (H * sy)), dx = scale * sx, dy = scale * sy;
    return { x: (canvas.width - W * dx) / 2, y: (canvas.height - H * dy) / 2, dx, dy };
  }
  const asked = (label) => /^(box|drawn) \d+$/.test(label) ? 1 : 0;  // by the reader: these come last, so that the others keep their colours
  const colour = (mask) => COLOURS[Math.max([...new Set(state.masks.map((one) => one.label))].sort((one, other) => asked(one) - asked(other) || (one < other ? -1 : 1)).indexOf(mask.label), 0) % COLOURS.length];
  const inside = (mask, slice, y, x) => { const [, H, W] = state.told.shape; if (y < 0 || x < 0 || y >= H || x >= W) return 0; const i = (slice * H + y) * W + x; return (mask.bits[i >> 3] >> (7 - (i & 7))) & 1; };
  function outline(mask, at) {
    const [, H, W] = state.told.shape, z = state.slice;
    if (!mask.present[z]) return;
    pen.beginPath();
    for (let y = 0; y < H; y++) for (let x = 0; x < W; x++) {
      if (!inside(mask, z, y, x)) continue;
      const left = at.x + x * at.dx, top = at.y + y * at.dy, right = left + at.dx, bottom = top + at.dy;
      if (!inside(mask, z, y - 1, x)) { pen.moveTo(left, top); pen.lineTo(right, top); }
      if (!inside(mask, z, y + 1, x)) { pen.moveTo(left, bottom); pen.lineTo(right, bottom); }
      if (!inside(mask, z, y, x - 1)) { pen.moveTo(left, top); pen.lineTo(left, bottom); }
      if (!inside(mask, z, y, x + 1)) { pen.moveTo(right, top); pen.lineTo(right, bottom); }
    }
    pen.stroke();
  }
  function draw() {
    const box = canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1; canvas.width = Math.max(Math.round(box.width * ratio), 1); canvas.height = Math.max(Math.round(box.height * ratio), 1); state.ratio = ratio;
    pen.fillStyle = "#000"; pen.fillRect(0, 0, canvas.width, canvas.height); show.setAttribute("aria-pressed", state.on); show.hidden = paint.edit.hidden = !!state.data.hidden;
    send.disabled = !state.box || !state.data.segments; send.style.opacity = send.disabled ? 0.4 : 1; drop.style.display = state.box ? "" : "none";
    let at = { x: 0, y: 0, dx: 1, dy: 1 };
    if (state.told) {
      const [D, H, W] = state.told.shape; at = place();
      pen.imageSmoothingEnabled = at.dx < 4; pen.drawImage(state.bare, at.x, at.y, W * at.dx, H * at.dy);
      if (state.on) state.masks.forEach((mask) => { const chosen = mask.label === state.data.finding; pen.strokeStyle = colour(mask); pen.lineWidth = (chosen ? 3 : 1.2) * ratio; if (mask.before) { pen.strokeStyle = "#fff"; pen.lineWidth = ratio; pen.setLineDash([4 * ratio, 4 * ratio]); } outline(mask, at); pen.setLineDash([]); });
      if (state.box && state.box.slice === state.slice) { pen.strokeStyle = "#fff"; pen.lineWidth = 1.5 * ratio; pen.setLineDash([6, 4]); pen.strokeRect(at.x + state.box.x_min * at.dx, at.y + state.box.y_min * at.dy, (state.box.x_max - state.box.x_min) * at.dx, (state.box.y_max - state.box.y_min) * at.dy); pen.setLineDash([]); }
      paint.ring(pen, at, ratio);
      const gap = state.told.spacing, short = (number) => +number.toPrecision(Math.abs(number) < 100 ? 3 : 6), told = state.told.marks || {};
      lens.textContent = `slice ${state.slice + 1} of ${D}${D > 1 && told.onwards ? `, onwards to ${told.onwards}` : ""}${D > 1 && gap && gap.length === 3 ? `, ${short(gap[0])} mm apart` : ""} · window ${short(state.centre)} / ${short(state.width)}${state.told.unit ? ` ${state.told.unit}` : ""}`;
      for (const [edge, one] of Object.entries(marks)) one.textContent = told[edge] || "";
      const length = gap ? scaleBar(at.dx / gap[gap.length - 1], canvas.width / 4) : null; measure.textContent = length ? length.said : "no spacing: nothing can be measured";
      for (const [ink, width] of length ? [["#000", 4], ["#fff", 2]] : []) { pen.strokeStyle = ink; pen.lineWidth = width * ratio; const y = canvas.height - 26 * ratio, x = canvas.width - 10 - length.pixels; pen.beginPath(); pen.moveTo(x, y - 4); pen.lineTo(x, y); pen.lineTo(x + length.pixels, y); pen.lineTo(x + length.pixels, y - 4); pen.stroke(); }
      present();
      named();
    }
    paint.tell();
    const chosen = state.masks.find((one) => one.label === state.data.finding && !one.before);
    words.textContent = state.data.hidden ? "the AI's answer is hidden until you have decided" : state.changed.length ? `left out, for its file was changed after it was kept: ${state.changed.join(", ")}` : paint.own.on ? "" : [chosen && chosen.said, state.data.segments ? "shift and drag draws a box" : ""].filter(Boolean).join(" · ");
    root.dataset.state = JSON.stringify({ case: state.shownCase || "", slice: state.slice, slices: state.told ? state.told.shape[0] : 0, masks: state.masks.filter((one) => !one.before).map((one) => one.label), before: state.masks.filter((one) => one.before).map((one) => one.label), outlines: state.on, box: state.box, window: [state.centre, state.width], marks: state.told ? state.told.marks : {}, draws: !!(state.ready && state.data.draws), painting: paint.own.on, tool: paint.own.tool, size: paint.own.size, waiting: paint.own.dirty.size + (paint.own.busy ? 1 : 0), failed: paint.own.failed, seq: chosen ? chosen.seq : 0, ...at });
  }
  // Which colour is which outline; those that are not on this slice are pale.
  function named() {
    const drawn = state.masks.filter((one) => !one.before), text = JSON.stringify([state.data.finding, drawn.map((one) => [one.label, one.present[state.slice]]), drawn.length < state.masks.length]);
    if (text === state.legend) return;
    state.legend = text; legend.replaceChildren();
    for (const mask of drawn.slice(0, 12)) {
      const line = element("div", mask.label === state.data.finding ? "strong" : "", ""), swatch = element("span", "swatch"); swatch.style.background = colour(mask);
      line.style.opacity = mask.present[state.slice] ? 1 : 0.55; line.append(swatch, mask.label.replaceAll("_", " ")); legend.append(line);
    }
    if (drawn.length > 12) legend.append(element("div", "", `${drawn.length - 12} more`));
    if (drawn.length && state.masks.some((one) => one.before)) legend.append(element("div", "", "┄ white: the AI's, before you painted"));
  }
  function present() {
    const box = strip.getBoundingClientRect(), ratio = window.devicePixelRatio || 1, ink = strip.getContext("2d"); strip.width = Math.max(Math.round(box.width * ratio), 1); strip.height = Math.max(Math.round(box.height * ratio), 1);
    const D = state.told.shape[0], each = strip.width / D, drawn = state.masks.filter((one) => !one.before), high = strip.height / Math.max(drawn.length, 1);
    drawn.forEach((mask, number) => { ink.fillStyle = colour(mask); mask.present.forEach((there, z) => { if (there) ink.fillRect(z * each, number * high + 1, Math.max(each - 1, 1), Math.max(high - 2, 1)); }); });
    ink.strokeStyle = "#fff"; ink.lineWidth = 2 * ratio; ink.strokeRect(state.slice * each, 1, Math.max(each, 3), strip.height - 2);
    strip.setAttribute("aria-valuenow", state.slice + 1); strip.setAttribute("aria-valuemax", D);
  }
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); go(state.slice + Math.sign(event.deltaY)); }, { passive: false });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  const voxel = (event) => { const box = canvas.getBoundingClientRect(), at = place(), [, H, W] = state.told.shape; return [Math.min(Math.max(((event.clientX - box.left) * state.ratio - at.x) / at.dx, 0), W), Math.min(Math.max(((event.clientY - box.top) * state.ratio - at.y) / at.dy, 0), H)]; };
  canvas.addEventListener("pointerdown", (event) => { if (!state.told) return; canvas.setPointerCapture(event.pointerId); if (paint.down(event)) return; state.drag = { x: event.clientX, y: event.clientY, tone: event.button === 2, from: event.shiftKey ? voxel(event) : null }; });
  canvas.addEventListener("pointermove", (event) => {
    const { drag } = state; if (state.told && paint.move(event) || !drag) return;
    if (drag.from) { const to = voxel(event); state.box = { slice: state.slice, x_min: Math.min(drag.from[0], to[0]), x_max: Math.max(drag.from[0], to[0]), y_min: Math.min(drag.from[1], to[1]), y_max: Math.max(drag.from[1], to[1]) }; draw(); }
    else if (drag.tone) { const full = state.told.windows.at(-1)[2]; state.width = Math.min(Math.max(state.width * (1 + (event.clientX - drag.x) / 200), full / 4096), 4 * full); state.centre += state.width * (event.clientY - drag.y) / 400; drag.x = event.clientX; drag.y = event.clientY; own(); tone(); draw(); }
    else if (Math.abs(event.clientY - drag.y) > 8) { go(state.slice - Math.sign(event.clientY - drag.y)); drag.y = event.clientY; }
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { paint.up(); if (state.drag && state.drag.from && state.box && (state.box.x_max - state.box.x_min < 1 || state.box.y_max - state.box.y_min < 1)) { state.box = null; draw(); } state.drag = null; });
  const scrub = (event) => { const box = strip.getBoundingClientRect(); if (state.told) go(Math.floor((event.clientX - box.left) / box.width * state.told.shape[0])); };
  strip.addEventListener("pointerdown", (event) => { strip.setPointerCapture(event.pointerId); state.scrubbing = true; scrub(event); });
  strip.addEventListener("pointermove", (event) => { if (state.scrubbing) scrub(event); });
  for (const end of ["pointerup", "pointercancel"]) strip.addEventListener(end, () => { state.scrubbing = false; });
  const keys = (event) => {
    if (writing(event)) return;
    const act = { arrowup: () => go(state.slice + 1), arrowdown: () => go(state.slice - 1), h: () => { state.on = !state.on; draw(); }, e: paint.toggle, w: () => state.told && windowed((+windows.value + 1) % state.told.windows.length) }[event.key.toLowerCase()];
    if (act) { event.preventDefault(); act(); }
  };
  document.addEventListener("keydown", keys);
  const watcher = new ResizeObserver(draw); watcher.observe(stage);
  state.close = () => { document.removeEventListener("keydown", keys); watcher.disconnect(); paint.close(); if (state.fetching) state.fetching.abort(); };
  async function load(data) {
    if (state.fetching) state.fetching.abort();
    const fetching = state.fetching = new AbortController();
    paint.stop(); state.told = null; state.ready = false; state.masks = []; state.legend = null; legend.replaceChildren(); state.changed = []; state.box = null; state.shownCase = ""; message.hidden = false; message.textContent = "…"; draw();
    try {
      const [told, bytes, start] = await framed(data.slices, fetching.signal), [D, H, W] = told.shape;
      if (fetching !== state.fetching) return;
      state.told = told; const wide = bytes.byteLength - start >= 2 * D * H * W; state.values = wide ? new Uint16Array(bytes, start, D * H * W) : new Uint8Array(bytes, start, D * H * W); state.greys = new Uint32Array(wide ? 65536 : 256); state.toned = ""; state.picture = new ImageData(W, H); state.bare = new OffscreenCanvas(W, H);
      windows.replaceChildren(...told.windows.map(([name, centre, width], number) => { const one = element("option", "", name); one.value = number; one.title = `${centre} / ${width}`; return one; }));
      state.slice = Math.floor(D / 2); state.shownCase = data.case; message.hidden = true; windowed(0);
    } catch (error) { if (error.name !== "AbortError") { message.textContent = error.message; root.dataset.state = JSON.stringify({ case: data.case, message: error.message }); } return; }
    await masks(data, fetching.signal, true);
  }
  async function masks(data, signal, jump) {
    try {
      const [told, bytes, start] = await framed(data.masks, signal), size = told.bytes;
      if (paint.own.dirty.size || paint.own.busy) return;  // what is being painted is newer
      state.ready = true; state.changed = told.changed; state.masks = told.masks.map((one, number) => ({ ...one, bits: new Uint8Array(bytes, start + number * size, size) }));
      const chosen = state.masks.find((one) => one.label === state.data.finding && !one.before);
      if (jump && chosen && chosen.largest >= 0) go(chosen.largest);
    } catch (error) { state.masks = []; }
    draw();
  }
  state.update = (data) => {
    const before = state.data; state.data = data; stage.style.height = "calc(100vh - 280px)"; side.textContent = data.side || ""; about.textContent = data.about || "";
    if (data.slices !== before.slices) load(data);
    else if (data.masks !== before.masks || data.hidden !== before.hidden) { state.box = null; masks(data, undefined, false); }
    else { if (data.finding !== before.finding && state.told) { if (paint.own.on) paint.toggle(); const chosen = state.masks.find((one) => one.label === data.finding && !one.before); if (chosen && chosen.largest >= 0 && !chosen.present[state.slice]) go(chosen.largest); } draw(); }
  };
  return state;
});
