// A film: wheel zooms, dragging pans, dragging with the right button sets window and level, I inverts, H shows the map, B outlines.
// Of two films side by side keys are for the one under the pointer, else for the case; linked, they share window and level.
export default (component) => mounted(component, (root) => {
  const state = { data: {}, opacity: 0.55, heatOn: true, boxes: 1, link: document.medvitLink || false, invert: false, centre: 0.5, width: 1, scale: 1, x: 0, y: 0, maps: [] };
  const stage = element("div", "stage"), canvas = element("canvas"), pen = canvas.getContext("2d");
  const lens = element("div", "said"), about = element("div", "said top right"), measure = element("div", "said right"), message = element("div", "message", "");
  const side = element("div", "said top");
  stage.append(canvas, side, about, lens, measure, message);
  const bar = element("div", "bar"), slider = element("input"); slider.type = "range"; slider.min = 0; slider.max = 100; slider.setAttribute("aria-label", "Opacity of the heat map");
  const heatButton = button("Heat map", "H", () => { state.heatOn = !state.heatOn; draw(); });
  const invertButton = button("Invert", "I", () => { state.invert = !state.invert; toned(); });
  const nextBoxes = () => { state.boxes = (state.boxes + 1) % 3; draw(); };
  const boxButton = button("Outlines", "B: of this finding, of all findings, none", nextBoxes);
  const linkButton = button("Link window", "window and level of both films together", () => { document.medvitLink = !state.link; document.dispatchEvent(new CustomEvent("medvit-link")); toned(); });
  const ramp = colourRamp();
  const method = element("span", "soft", "");
  bar.append(button("Fit", "0", fit), button("1:1", "a pixel a pixel", () => zoomTo(1)), invertButton, button("Reset window", "as the film was displayed", () => { state.centre = 0.5; state.width = 1; state.invert = false; toned(); }), heatButton, slider, ramp, boxButton, linkButton, method);
  root.replaceChildren(stage, bar);
  slider.oninput = () => { state.opacity = slider.value / 100; draw(); };

  function size() {
    const box = canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
    canvas.width = Math.max(Math.round(box.width * ratio), 1); canvas.height = Math.max(Math.round(box.height * ratio), 1); state.ratio = ratio;
  }
  function fit() {
    if (!state.film) return;
    size();
    state.scale = Math.min(canvas.width / state.film.width, canvas.height / state.film.height);
    state.x = (canvas.width - state.film.width * state.scale) / 2; state.y = (canvas.height - state.film.height * state.scale) / 2;
    state.fitted = true; draw();
  }
  function zoomTo(scale, cx = canvas.width / 2, cy = canvas.height / 2) {
    if (!state.film) return;
    const next = Math.min(Math.max(scale, 0.02), 40), share = next / state.scale;
    state.x = cx - (cx - state.x) * share; state.y = cy - (cy - state.y) * share; state.scale = next; state.fitted = false; draw();
  }
  // Grey values through window, level and inversion into a picture; the film itself is never coloured.
  function tone() {
    if (!state.film) return;
    const table = new Uint32Array(65536), low = state.centre - state.width / 2;
    for (let i = 0; i < 65536; i++) {
      let grey = Math.min(Math.max((i / 65535 - low) / state.width, 0), 1); if (state.invert) grey = 1 - grey;
      const byte = Math.round(grey * 255); table[i] = (255 << 24) | (byte << 16) | (byte << 8) | byte;
    }
    const { width, height, values, picture, bare } = state.film, out = new Uint32Array(picture.data.buffer);
    for (let i = 0; i < values.length; i++) out[i] = table[values[i]];
    bare.getContext("2d").putImageData(picture, 0, 0);
    draw();
  }
  // What the reader did to window and level; the other film follows where they are linked.
  function toned() {
    if (state.link) { document.medvitTone = { centre: state.centre, width: state.width, invert: state.invert }; document.dispatchEvent(new CustomEvent("medvit-tone", { detail: root })); }
    tone();
  }
  const follow = (event) => { if (state.link && event.detail !== root && document.medvitTone) { Object.assign(state, document.medvitTone); tone(); } };
  const linked = () => { state.link = !!document.medvitLink; draw(); };
  document.addEventListener("medvit-tone", follow); document.addEventListener("medvit-link", linked);
  // Outlines of the regions that influenced scores: of the finding that is looked at, and if wanted of all others, broken.
  const outlined = () => state.maps.filter((map) => state.boxes === 2 || state.boxes && map.label === state.data.finding);
  function outlines(step) {
    const unit = (state.ratio || 1) / state.scale, high = 17 * unit, taken = [], own = (map) => map.label === state.data.finding;
    const drawn = outlined().map((map) => ({ own: own(map), said: `AI: ${map.label.replaceAll("_", " ")}`, boxes: (map.regions || []).map((one) => one.map((edge) => edge / step)) })).filter((one) => one.boxes.length);
    for (const one of drawn.sort((first, second) => first.own - second.own)) {
      const wide = (one.own ? 2 : 1.2) * unit;
      pen.setLineDash(one.own ? [] : [5 * wide, 4 * wide]);
      for (const [x, y, right, bottom] of one.boxes) for (const [colour, width] of [["rgba(0,0,0,0.6)", wide * 2], [one.own ? "#56b4e9" : "#d4dade", wide]]) { pen.strokeStyle = colour; pen.lineWidth = width; pen.strokeRect(x, y, right - x, bottom - y); }
    }
    pen.font = `${12 * unit}px sans-serif`; pen.textBaseline = "top";
    for (const { own, said, boxes } of drawn.reverse()) {  // names keep clear of each other; that of the chosen finding comes first
      const [x, y, , bottom] = boxes[0], long = pen.measureText(said).width + 8 * unit, top = -state.y / state.scale + 26 * unit;
      const free = (place) => place > top && !taken.some((one) => x < one.x + one.long && one.x < x + long && place < one.y + high && one.y < place + high);
      const place = [y - high - 2 * unit, ...[0, 1, 2, 3].map((n) => bottom + 2 * unit + n * high), y].find(free) ?? y;
      taken.push({ x, y: place, long });
      pen.fillStyle = "rgba(8,10,12,0.72)"; pen.fillRect(x, place, long, high);
      pen.fillStyle = own ? "#8fd0f5" : "#cfd6da"; pen.fillText(said, x + 4 * unit, place + 2 * unit);
    }
    pen.setLineDash([]);
  }
  function chosen() { return state.maps.find((one) => one.label === state.data.finding); }
  function draw() {
    const { film } = state;
    pen.setTransform(1, 0, 0, 1, 0, 0); pen.fillStyle = "#000"; pen.fillRect(0, 0, canvas.width, canvas.height);
    invertButton.setAttribute("aria-pressed", state.invert); heatButton.setAttribute("aria-pressed", state.heatOn); boxButton.setAttribute("aria-pressed", state.boxes > 0); boxButton.textContent = state.boxes === 2 ? "Outlines: all" : "Outlines"; linkButton.setAttribute("aria-pressed", state.link);
    linkButton.hidden = !state.data.two; boxButton.hidden = !!state.data.hidden; heatButton.hidden = !!state.data.hidden; slider.hidden = ramp.hidden = !!state.data.hidden || state.data.role === "beside";
    slider.value = Math.round(state.opacity * 100);
    if (film) {
      pen.setTransform(state.scale, 0, 0, state.scale, state.x, state.y);
      pen.imageSmoothingEnabled = state.scale < 8; pen.imageSmoothingQuality = state.scale > 1 ? "high" : "low"; pen.drawImage(film.bare, 0, 0);
      const map = chosen(), step = film.told.step;
      if (map && state.heatOn) {
        map.picture = map.picture || coloured(map.values, map.shape[0], map.shape[1], map.faint);
        const [top, left, bottom, right] = map.box.map((edge) => edge / step);
        pen.save(); pen.beginPath(); pen.rect(0, 0, film.width, film.height); pen.clip();
        pen.globalAlpha = state.opacity; pen.imageSmoothingEnabled = true; pen.drawImage(map.picture, left, top, right - left, bottom - top); pen.restore();
      }
      if (state.boxes) outlines(step);
      measured();
    }
    const map = chosen();
    method.textContent = !film ? "" : state.data.hidden ? "the AI's answer is hidden until you have decided" : state.data.role === "beside" ? "" : map ? `regions that influenced this score · ${map.method}${state.boxes ? " · outlined: above half of the highest value" : ""} · one scale for all cases of a finding` : state.data.finding ? "no map: the finding is below its threshold, or none was written" : "";
    ramp.style.visibility = map && state.heatOn ? "visible" : "hidden";
    root.dataset.state = JSON.stringify({ case: state.shownCase || "", scale: state.scale, x: state.x, y: state.y, ratio: state.ratio, opacity: state.opacity, heat: state.heatOn && !!map, invert: state.invert, centre: state.centre, width: state.width, label: map ? map.label : "", boxes: outlined().map((one) => [one.label, one.regions || []]), link: state.link, beside: state.data.role === "beside" });
  }
  function measured() {
    const { film } = state, spacing = film.told.spacing;
    lens.textContent = `zoom ${(100 * state.scale / (state.ratio || 1) / film.told.step).toFixed(0)} % · window ${Math.round(100 * state.width)} %, centre ${Math.round(100 * state.centre)} %${state.invert ? " · inverted" : ""}${film.told.step > 1 ? ` · shown at 1/${film.told.step}` : ""}`;
    const bar = spacing ? scaleBar(state.scale / (spacing[1] * film.told.step), canvas.width / 4) : null;
    measure.textContent = bar ? `${bar.said}${film.told.origin.spacing === "ImagerPixelSpacing" ? " at the detector" : ""}` : "no spacing: nothing can be measured";
    if (bar) { pen.setTransform(1, 0, 0, 1, 0, 0); pen.strokeStyle = "#fff"; pen.lineWidth = 2; const y = canvas.height - 26 * (state.ratio || 1), x = canvas.width - 10 - bar.pixels; pen.beginPath(); pen.moveTo(x, y - 4); pen.lineTo(x, y); pen.lineTo(x + bar.pixels, y); pen.lineTo(x + bar.pixels, y - 4); pen.stroke(); }
  }
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); const box = canvas.getBoundingClientRect(); zoomTo(state.scale * Math.exp(-event.deltaY / 400), (event.clientX - box.left) * state.ratio, (event.clientY - box.top) * state.ratio); }, { passive: false });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); state.drag = { x: event.clientX, y: event.clientY, tone: event.button === 2 }; });
  canvas.addEventListener("pointermove", (event) => {
    if (!state.drag) return;
    const dx = event.clientX - state.drag.x, dy = event.clientY - state.drag.y; state.drag.x = event.clientX; state.drag.y = event.clientY;
    if (state.drag.tone) { state.width = Math.min(Math.max(state.width + dx / 400, 0.01), 4); state.centre = Math.min(Math.max(state.centre + dy / 600, -0.5), 1.5); toned(); }
    else { state.x += dx * state.ratio; state.y += dy * state.ratio; state.fitted = false; draw(); }
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { state.drag = null; });
  const keys = (event) => {
    const over = document.medvitOver && document.medvitOver.isConnected ? document.medvitOver : null;
    if (writing(event) || (over ? over !== root : state.data.role === "beside") || (state.data.hidden && event.key.toLowerCase() === "b")) return;
    const act = { i: () => { state.invert = !state.invert; toned(); }, b: nextBoxes, h: () => { state.heatOn = !state.heatOn; draw(); }, "0": fit, "[": () => { state.opacity = Math.max(state.opacity - 0.1, 0); draw(); }, "]": () => { state.opacity = Math.min(state.opacity + 0.1, 1); draw(); } }[event.key.toLowerCase()];
    if (act) { event.preventDefault(); act(); }
  };
  document.addEventListener("keydown", keys);
  stage.addEventListener("pointerenter", () => { document.medvitOver = root; }); stage.addEventListener("pointerleave", () => { if (document.medvitOver === root) document.medvitOver = null; });
  const watcher = new ResizeObserver(() => { if (state.fitted !== false) fit(); else { size(); draw(); } }); watcher.observe(stage);
  state.close = () => { document.removeEventListener("keydown", keys); document.removeEventListener("medvit-tone", follow); document.removeEventListener("medvit-link", linked); watcher.disconnect(); if (state.fetching) state.fetching.abort(); };

  async function load(data) {
    if (state.fetching) state.fetching.abort();
    const fetching = state.fetching = new AbortController();
    state.film = null; state.maps = []; state.shownCase = ""; message.hidden = false; message.textContent = "…"; draw();
    try {
      const ahead = state.ahead && state.ahead.url === data.film ? state.ahead.film : framed(data.film, fetching.signal);
      state.ahead = null;
      const [told, bytes, start] = await ahead;
      if (fetching !== state.fetching) return;
      const width = Math.floor(told.columns / told.step), height = Math.floor(told.rows / told.step);
      const bare = new OffscreenCanvas(width, height);
      state.film = { told, width, height, values: new Uint16Array(bytes, start), picture: new ImageData(width, height), bare };
      state.centre = 0.5; state.width = 1; state.invert = false; state.shownCase = data.case; message.hidden = true; size(); state.fitted = true; fit();
      if (data.role === "beside" && state.link && document.medvitTone) Object.assign(state, document.medvitTone);
      if (data.role === "beside") tone(); else toned();
    } catch (error) { if (error.name !== "AbortError") { message.textContent = error.message; root.dataset.state = JSON.stringify({ case: data.case, message: error.message }); } return; }
    await maps(data, fetching.signal);
    if (data.next) { state.ahead = { url: data.next, film: framed(data.next) }; state.ahead.film.catch(() => { state.ahead = null; }); }
  }
  async function maps(data, signal) {
    try { const answer = await fetch(data.heat, { signal }); state.maps = answer.ok ? await answer.json() : []; } catch (error) { state.maps = []; }
    draw();
  }
  state.update = (data) => {
    const before = state.data; state.data = data;
    stage.style.height = data.height || "calc(100vh - 235px)";
    side.textContent = data.side || ""; side.classList.toggle("other", data.role === "beside"); about.classList.toggle("low", !!data.two); about.textContent = data.about || "";
    if (data.film !== before.film) load(data);
    else if (data.hidden !== before.hidden) maps(data);
    else draw();
  };
  return state;
});
