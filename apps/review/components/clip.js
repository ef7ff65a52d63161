// A clip: space plays, arrows step, the strip under it shows each frame's importance and takes one there.
export default (component) => mounted(component, (root) => {
  const state = { data: {}, frame: 0, playing: false, opacity: 0.5, on: true, frames: [], maps: [], speed: 1 };
  const stage = element("div", "stage"), canvas = element("canvas"), pen = canvas.getContext("2d");
  const side = element("div", "said top"), about = element("div", "said top right"), lens = element("div", "said"), measure = element("div", "said right"), message = element("div", "message", "");
  stage.append(canvas, side, about, lens, measure, message);
  const strip = element("canvas"); strip.style.cssText = "display:block;width:100%;height:64px;margin-top:6px;background:#000;border:1px solid #2a3036;border-radius:4px;box-sizing:border-box;cursor:pointer;touch-action:none"; strip.setAttribute("role", "slider"); strip.setAttribute("aria-label", "Frame"); strip.tabIndex = 0;
  const bar = element("div", "bar"), method = element("span", "soft", ""), ramp = colourRamp();
  const play = button("▶ Play", "space", toggle), show = button("Heat map", "H", () => { state.on = !state.on; draw(); });
  const slider = element("input"); slider.type = "range"; slider.min = 0; slider.max = 100; slider.value = 50; slider.setAttribute("aria-label", "Opacity of the heat map"); slider.oninput = () => { state.opacity = slider.value / 100; draw(); };
  const speed = element("select"); for (const share of [0.25, 0.5, 1, 2]) { const one = element("option", "", `${share}×`); one.value = share; one.selected = share === 1; speed.append(one); } speed.setAttribute("aria-label", "Speed"); speed.onchange = () => { state.speed = +speed.value; }; speed.style.cssText = "background:#20262b;color:#d4dade;border:1px solid #39424a;border-radius:4px";
  const most = button("Most important frame", "M", peak);
  bar.append(button("◂", "one frame back (←)", () => step(-1)), play, button("▸", "one frame on (→)", () => step(1)), speed, most, show, slider, ramp, method);
  root.replaceChildren(stage, strip, bar);

  const chosen = () => state.maps.find((one) => one.label === state.data.finding);
  const seconds = (frame) => (frame / state.rate).toFixed(2);
  function step(by) { state.playing = false; go(state.frame + by); }
  function go(frame) { const count = state.frames.length || 1; state.frame = ((frame % count) + count) % count; draw(); }
  function peak() { const map = chosen(); if (map) { state.playing = false; go(nearest(map.importance.indexOf(Math.max(...map.importance)))); } }
  function nearest(frame) { const all = state.told.chosen; let best = 0; all.forEach((one, place) => { if (Math.abs(one - frame) < Math.abs(all[best] - frame)) best = place; }); return best; }
  function toggle() { state.playing = !state.playing; if (state.playing) { state.last = performance.now(); requestAnimationFrame(tick); } draw(); }
  function tick(now) {
    if (!state.playing || !state.frames.length) return;
    const each = 1000 / ((state.rate || 16) * state.speed), due = Math.floor((now - state.last) / each);
    if (due > 0) { state.last += due * each; go(state.frame + due); }
    requestAnimationFrame(tick);
  }
  // The map of a frame: slices lie in the middle of their share of the clip, and between them it is mixed.
  function plane(map, frame) {
    const [slices, h, w] = map.shape, at = Math.min(Math.max((frame + 0.5) * slices / state.told.frames - 0.5, 0), slices - 1), low = Math.floor(at), high = Math.min(low + 1, slices - 1), part = at - low, values = new Array(h * w);
    for (let i = 0; i < h * w; i++) values[i] = (1 - part) * map.values[low * h * w + i] + part * map.values[high * h * w + i];
    return coloured(values, h, w, map.faint);
  }
  function draw() {
    const box = canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1; canvas.width = Math.max(Math.round(box.width * ratio), 1); canvas.height = Math.max(Math.round(box.height * ratio), 1);
    pen.fillStyle = "#000"; pen.fillRect(0, 0, canvas.width, canvas.height);
    play.textContent = state.playing ? "❚❚ Pause" : "▶ Play"; show.setAttribute("aria-pressed", state.on);
    const map = chosen(), picture = state.frames[state.frame], told = state.told;
    let scale = 1, x = 0, y = 0;
    if (picture) {
      scale = Math.min(canvas.width / picture.width, canvas.height / picture.height); x = (canvas.width - picture.width * scale) / 2; y = (canvas.height - picture.height * scale) / 2;
      pen.drawImage(picture, x, y, picture.width * scale, picture.height * scale);
      if (map && state.on) { const [top, left, bottom, right] = map.box; pen.save(); pen.beginPath(); pen.rect(x, y, picture.width * scale, picture.height * scale); pen.clip(); pen.globalAlpha = state.opacity; pen.drawImage(plane(map, told.chosen[state.frame]), x + left * scale, y + top * scale, (right - left) * scale, (bottom - top) * scale); pen.restore(); }
      lens.textContent = `frame ${told.chosen[state.frame] + 1} of ${told.frames}${told.frames > told.lengths.length ? `, ${told.lengths.length} of them shown` : ""} · ${state.rate ? `${seconds(told.chosen[state.frame])} of ${seconds(told.frames)} s · ${state.rate} frames a second` : "no rate in the file: shown at 16 frames a second"}`;
      const spacing = told.spacing, length = spacing ? scaleBar(scale / spacing[1], canvas.width / 4) : null;
      measure.textContent = length ? length.said : "no spacing: nothing can be measured";
      if (length) { pen.strokeStyle = "#fff"; pen.lineWidth = 2; const yy = canvas.height - 26 * ratio, xx = canvas.width - 10 - length.pixels; pen.beginPath(); pen.moveTo(xx, yy - 4); pen.lineTo(xx, yy); pen.lineTo(xx + length.pixels, yy); pen.lineTo(xx + length.pixels, yy - 4); pen.stroke(); }
    }
    method.textContent = !picture ? "" : state.data.hidden ? "the AI's answer is hidden until you have decided" : map ? `regions that influenced this score · ${map.method} · one scale for all cases of a finding · orange line: influence of each frame` : "no map: the finding is below its threshold, or none was written";
    for (const one of [most, show, slider]) one.hidden = !!state.data.hidden;
    ramp.style.visibility = map && state.on ? "visible" : "hidden";
    curve(map);
    strip.setAttribute("aria-valuenow", state.frame + 1); strip.setAttribute("aria-valuetext", lens.textContent); strip.setAttribute("aria-valuemax", state.frames.length);
    root.dataset.state = JSON.stringify({ case: state.shownCase || "", frame: state.frame, frames: state.frames.length, playing: state.playing, heat: !!map && state.on, opacity: state.opacity, scale, x, y, label: map ? map.label : "" });
  }
  function curve(map) {
    const box = strip.getBoundingClientRect(), ratio = window.devicePixelRatio || 1, ink = strip.getContext("2d"); strip.width = Math.max(Math.round(box.width * ratio), 1); strip.height = Math.max(Math.round(box.height * ratio), 1);
    const count = state.frames.length; if (!count) return;
    const each = strip.width / count, shown = Math.min(count, Math.floor(strip.width / 46)), first = state.frames[0], high = strip.height * 0.55, wide = strip.width / shown;
    for (let i = 0; i < shown; i++) { const one = state.frames[Math.floor((i + 0.5) * count / shown)], scale = Math.max(wide / one.width, high / one.height); ink.save(); ink.beginPath(); ink.rect(i * wide, 0, wide - 1, high); ink.clip(); ink.drawImage(one, i * wide + (wide - one.width * scale) / 2, (high - one.height * scale) / 2, one.width * scale, one.height * scale); ink.restore(); }
    if (map && map.importance) { ink.strokeStyle = "#e69f00"; ink.lineWidth = 2 * ratio; ink.beginPath(); state.told.chosen.forEach((frame, place) => { const yy = strip.height - 4 - map.importance[frame] * (strip.height - high - 8); place ? ink.lineTo((place + 0.5) * each, yy) : ink.moveTo(0.5 * each, yy); }); ink.stroke(); }
    ink.fillStyle = "rgba(86,180,233,0.35)"; ink.fillRect(state.frame * each, 0, Math.max(each, 3), strip.height); ink.strokeStyle = "#56b4e9"; ink.lineWidth = ratio; ink.strokeRect(state.frame * each, 0.5, Math.max(each, 3), strip.height - 1);
  }
  const scrub = (event) => { const box = strip.getBoundingClientRect(); state.playing = false; go(Math.min(Math.max(Math.floor((event.clientX - box.left) / box.width * state.frames.length), 0), state.frames.length - 1)); };
  strip.addEventListener("pointerdown", (event) => { strip.setPointerCapture(event.pointerId); state.scrubbing = true; scrub(event); });
  strip.addEventListener("pointermove", (event) => { if (state.scrubbing) scrub(event); });
  for (const end of ["pointerup", "pointercancel"]) strip.addEventListener(end, () => { state.scrubbing = false; });
  const keys = (event) => {
    if (writing(event)) return;
    const act = { " ": toggle, home: () => { state.playing = false; go(0); }, end: () => { state.playing = false; go(-1); }, arrowleft: () => step(-1), arrowright: () => step(1), m: peak, h: () => { state.on = !state.on; draw(); }, "[": () => { state.opacity = Math.max(state.opacity - 0.1, 0); slider.value = 100 * state.opacity; draw(); }, "]": () => { state.opacity = Math.min(state.opacity + 0.1, 1); slider.value = 100 * state.opacity; draw(); } }[event.key.toLowerCase()];
    if (act && !(event.key === " " && event.composedPath().some((one) => one.tagName === "BUTTON" && !root.contains(one)))) { event.preventDefault(); act(); }
  };
  document.addEventListener("keydown", keys);
  const watcher = new ResizeObserver(draw); watcher.observe(stage);
  state.close = () => { document.removeEventListener("keydown", keys); watcher.disconnect(); state.playing = false; if (state.fetching) state.fetching.abort(); };
  async function load(data) {
    if (state.fetching) state.fetching.abort();
    const fetching = state.fetching = new AbortController();
    state.frames = []; state.maps = []; state.shownCase = ""; state.frame = 0; state.playing = false; message.hidden = false; message.textContent = "…"; draw();
    try {
      const [told, bytes, start] = await framed(data.clip, fetching.signal);
      let from = start; const parts = told.lengths.map((length) => { const part = new Blob([new Uint8Array(bytes, from, length)], { type: "image/jpeg" }); from += length; return part; });
      const frames = await Promise.all(parts.map((part) => createImageBitmap(part)));
      if (fetching !== state.fetching) return;
      const rate = /^([\d.]+) frames a second/.exec(told.origin.rate || ""); state.rate = rate ? +rate[1] : 0;
      state.told = told; state.frames = frames; state.shownCase = data.case; message.hidden = true; draw();
    } catch (error) { if (error.name !== "AbortError") { message.textContent = error.message; root.dataset.state = JSON.stringify({ case: data.case, message: error.message }); } return; }
    await maps(data, fetching.signal);
    if (data.next) fetch(data.next).catch(() => {});
  }
  async function maps(data, signal) { try { const answer = await fetch(data.heat, { signal }); state.maps = answer.ok ? await answer.json() : []; } catch (error) { state.maps = []; } draw(); }
  state.update = (data) => {
    const before = state.data; state.data = data; stage.style.height = "calc(100vh - 290px)"; side.textContent = data.side || ""; about.textContent = data.about || "";
    if (data.clip !== before.clip) load(data); else if (data.hidden !== before.hidden) maps(data); else draw();
  };
  return state;
});
