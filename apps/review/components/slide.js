// A slide: deep zoom by OpenSeadragon, attention of tiles over it in level-0 pixels, a gallery that jumps, focal planes.
let library = null;
function openSeadragon() {
  if (window.OpenSeadragon) return Promise.resolve(window.OpenSeadragon);
  library = library || new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = "/review/asset/openseadragon.min.js"; script.onload = () => done(window.OpenSeadragon); script.onerror = () => failed(new Error("The viewer's script cannot be loaded."));
    document.head.append(script);
  });
  return library;
}

export default (component) => mounted(component, (root) => {
  const state = { data: {}, opacity: 0.5, least: 0.6, on: true, plane: null, marked: null, bounds: null, tiles: {} };
  const stage = element("div", "stage"), home = element("div"), canvas = element("canvas"), pen = canvas.getContext("2d");
  home.style.cssText = "position:absolute;inset:0"; canvas.style.cssText = "position:absolute;inset:0;pointer-events:none;width:100%;height:100%";
  const side = element("div", "said top"), lens = element("div", "said"), measure = element("div", "said right"), message = element("div", "message", "");
  stage.append(home, canvas, side, lens, measure, message);
  const bar = element("div", "bar"), method = element("span", "soft", ""), gallery = element("div", "gallery");
  const range = (said, value, act) => { const one = element("input"); one.type = "range"; one.min = 0; one.max = 100; one.value = value; one.setAttribute("aria-label", said); one.title = said; one.oninput = () => act(one.value / 100); return one; };
  const named = (said, one) => { const held = element("span", "named", said); held.append(one); return held; };
  const opacity = range("Opacity of the attention", 50, (value) => { state.opacity = value; draw(); });
  const least = range("Least attention shown, as a rank", 60, (value) => { state.least = value; draw(); });
  const show = button("Attention", "H", () => { state.on = !state.on; draw(); });
  const planes = element("span", "named"); planes.style.display = "none";
  const ramp = colourRamp();
  const tuning = [named("opacity", opacity), named("least rank", least)];
  bar.append(button("Fit", "0", () => state.viewer && state.viewer.viewport.goHome()), button("1:1", "a pixel a pixel", () => state.viewer && state.viewer.viewport.zoomTo(state.viewer.viewport.imageToViewportZoom(1))), show, ...tuning, ramp, planes, method);
  root.replaceChildren(stage, bar, gallery);

  const attention = (tiles) => Object.keys(tiles.scores || {}).filter((name) => name.endsWith("attention"));
  function chosen() {
    const names = attention(state.tiles), wanted = `${state.data.attends} attention`;
    return names.includes(wanted) ? wanted : null;
  }
  const ranked = (name) => state.tiles.scores[`${name} percentile`] || state.tiles.scores[name];
  // Where level-0 pixels lie on the stage, in CSS pixels.
  function place() {
    const item = state.viewer && state.viewer.world.getItemAt(0);
    if (!item) return null;
    const corner = item.imageToViewerElementCoordinates(new OpenSeadragon.Point(0, 0)), far = item.imageToViewerElementCoordinates(new OpenSeadragon.Point(state.slide.width, state.slide.height));
    return { x: corner.x, y: corner.y, scale: (far.x - corner.x) / state.slide.width };
  }
  function draw() {
    const box = canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(box.width * ratio) || canvas.height !== Math.round(box.height * ratio)) { canvas.width = Math.round(box.width * ratio); canvas.height = Math.round(box.height * ratio); }
    pen.setTransform(1, 0, 0, 1, 0, 0); pen.clearRect(0, 0, canvas.width, canvas.height);
    show.setAttribute("aria-pressed", state.on);
    for (const one of [show, ...tuning]) one.hidden = !!state.data.hidden;
    const at = place(), name = chosen();
    ramp.style.visibility = name && state.on ? "visible" : "hidden";
    const what = state.data.kind === "smear" ? "cells" : "tiles";
    method.textContent = state.data.hidden ? "the AI's answer is hidden until you have decided" : name ? `attention of ${what} for ${state.data.attends.replaceAll("_", " ")}: regions that influenced this score; attention is not a diagnosis · shown from rank ${Math.round(state.least * 100)} % up · below: the most attended ${what}, 1.00 for the highest; click to go there` : "no attention was written for this finding";
    if (at && name && state.on) {
      const ranks = ranked(name), { x, y, side: tile } = state.tiles;
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      for (const i of state.rising) {  // where tiles overlap the highest is seen, alone
        const rank = ranks[i];
        if (rank === null || rank < state.least || planeOf(i) !== null && state.plane !== null && planeOf(i) !== state.plane) continue;
        const left = at.x + x[i] * at.scale, top = at.y + y[i] * at.scale, size = tile * at.scale;
        if (left > box.width || top > box.height || left + size < 0 || top + size < 0) continue;
        const share = (rank - state.least) / Math.max(1 - state.least, 0.01);
        pen.clearRect(left, top, size, size);
        pen.globalAlpha = state.opacity * (0.35 + 0.65 * share); pen.fillStyle = `rgb(${inferno(0.25 + 0.75 * share)})`; pen.fillRect(left, top, size, size);
        pen.globalAlpha = Math.min(state.opacity + 0.3, 1); pen.strokeStyle = "#000"; pen.lineWidth = 0.5; if (size > 6) pen.strokeRect(left, top, size, size);
      }
      pen.globalAlpha = 1;
    }
    if (at && state.marked !== null && state.tiles.x) {  // where the reader went from the gallery, also while attention is hidden
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      const side = state.tiles.side * at.scale + 6;  // around it, not over it
      pen.strokeStyle = "#56b4e9"; pen.lineWidth = 3; pen.strokeRect(at.x + state.tiles.x[state.marked] * at.scale - 3, at.y + state.tiles.y[state.marked] * at.scale - 3, side, side);
    }
    if (at) measured(at, box, ratio);
    root.dataset.state = JSON.stringify({ case: state.shownCase || "", ...(at || {}), attention: !!name && state.on, opacity: state.opacity, plane: state.plane, marked: state.marked, tiles: (state.tiles.x || []).length, loaded: !!state.drawn && !!at && state.viewer.world.getItemAt(0).getFullyLoaded() && !state.viewer.world.needsDraw() });
  }
  function measured(at, box, ratio) {
    const known = state.slide.mpp_source !== "default", mpp = state.slide.mpp / at.scale;
    lens.textContent = known ? `${(10 / mpp).toFixed(1)}× · ${mpp.toFixed(2)} µm a pixel of the screen · ${+state.slide.mpp.toPrecision(3)} µm a pixel of the slide (${state.slide.mpp_source === "file" ? "from the file" : "given"})` : `zoom ${(100 * at.scale).toFixed(0)} %`;
    const bar = known ? scaleBar(1000 / mpp, box.width / 4) : null;
    measure.textContent = bar ? bar.said : "no spacing: nothing can be measured";
    if (!bar) return;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0); const y = box.height - 26, x = box.width - 10 - bar.pixels;
    for (const [colour, width] of [["#000", 4], ["#fff", 2]]) { pen.strokeStyle = colour; pen.lineWidth = width; pen.beginPath(); pen.moveTo(x, y - 4); pen.lineTo(x, y); pen.lineTo(x + bar.pixels, y); pen.lineTo(x + bar.pixels, y - 4); pen.stroke(); }
  }
  const planeOf = (index) => { const all = state.tiles.scores && state.tiles.scores["focal plane"]; return all && all[index] !== null && all[index] !== undefined ? all[index] : null; };
  function jump(index) {
    state.marked = index;
    if (planeOf(index) !== null && state.turn_plane && state.plane !== null) state.turn_plane(planeOf(index) - state.plane);
    const { x, y, side: tile } = state.tiles, viewport = state.viewer.viewport, wide = 1 / state.slide.width;
    const to = new OpenSeadragon.Rect((x[index] - tile) * wide, (y[index] - tile) * wide, 3 * tile * wide, 3 * tile * wide);
    if (state.bounds) state.bounds = to; else viewport.fitBounds(to);  // a plane is being opened
    draw();
  }
  function fill() {
    const name = chosen(), shown = [], [thing, many] = state.data.kind === "smear" ? ["cell", 16] : ["tile", 8];
    state.marked = null;
    if (name) {
      const values = state.tiles.scores[name], ranks = ranked(name), order = values.map((_, index) => index).sort((a, b) => values[b] - values[a]).slice(0, many);
      state.rising = values.map((_, index) => index).sort((a, b) => ranks[a] - ranks[b]);
      for (const index of order) {
        const one = element("figure"), picture = element("img"); one.tabIndex = 0; one.dataset.tile = index;
        const { x, y, side: tile } = state.tiles; const plane = planeOf(index), place = `${Math.round(x[index] + tile / 2)}, ${Math.round(y[index] + tile / 2)}${plane === null ? "" : `, plane ${plane + 1}`}`;
        one.setAttribute("role", "button"); one.setAttribute("aria-label", `Go to the ${thing} at ${place}`); one.title = `attention ${values[index].toFixed(2)} of the highest, middle at ${place} (pixels of the slide)`;
        picture.alt = ""; picture.loading = "lazy";
        picture.src = `${state.data.region}/${Math.round(x[index])}_${Math.round(y[index])}_${Math.round(tile)}.jpg${plane === null ? "" : `?plane=${plane}`}`;
        one.append(picture, element("figcaption", "", values[index].toFixed(2)), ...(plane === null ? [] : [element("figcaption", "", `plane ${plane + 1}`)]));
        one.onclick = () => jump(index); one.onkeydown = (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); jump(index); } }; shown.push(one);
      }
    }
    gallery.replaceChildren(...shown); gallery.style.gridTemplateColumns = `repeat(${many}, 1fr)`;
  }
  function source() {
    const { width, height } = state.slide, last = Math.max(Math.ceil(Math.log2(Math.max(width, height))), 0);
    const first = Math.max(last - Math.ceil(Math.log2(Math.max(Math.max(width, height) / 256, 1))), 0);
    return { width, height, tileSize: 256, tileOverlap: 0, minLevel: first, maxLevel: last, getTileUrl: (level, x, y) => `${state.data.tile}/${level}/${x}_${y}.jpg${state.plane === null ? "" : `?plane=${state.plane}`}` };
  }
  function focal() {
    planes.style.display = state.slide.planes > 1 ? "" : "none"; planes.replaceChildren();
    state.turn_plane = null;
    if (state.slide.planes < 2) { state.plane = null; return; }
    state.plane = Math.floor(state.slide.planes / 2);
    const one = element("input"), said = element("span", "", `focal plane ${state.plane + 1} of ${state.slide.planes}`); one.type = "range"; one.min = 0; one.max = state.slide.planes - 1; one.value = state.plane; one.setAttribute("aria-label", "Focal plane");
    state.turn_plane = (by) => { one.value = +one.value + by; one.oninput(); };
    one.oninput = () => { if (state.plane === +one.value) return; state.plane = +one.value; said.textContent = `focal plane ${state.plane + 1} of ${state.slide.planes}`; state.bounds = state.bounds || state.viewer.viewport.getBounds(); state.viewer.open(source()); };
    planes.append(said, one);
  }
  async function load(data) {
    const turn = state.turn = (state.turn || 0) + 1;
    state.tiles = {}; state.marked = null; state.bounds = null; state.shownCase = ""; state.drawn = false; message.hidden = false; message.textContent = "…"; gallery.replaceChildren();
    try {
      const [osd, answer] = await Promise.all([openSeadragon(), fetch(data.slide)]), told = await answer.json();
      if (turn !== state.turn) return;
      if (!answer.ok) throw new Error(told.message || "The slide cannot be shown.");
      state.slide = told; focal();
      if (!state.viewer) {
        state.viewer = osd({ element: home, prefixUrl: "", showNavigationControl: false, showNavigator: true, navigatorPosition: "TOP_RIGHT", navigatorSizeRatio: 0.18, navigatorDisplayRegionColor: "#56b4e9", drawer: "canvas", animationTime: 0.3, maxZoomPixelRatio: 4, visibilityRatio: 0.5, preserveImageSizeOnResize: true, imageLoaderLimit: 6, crossOriginPolicy: false, gestureSettingsMouse: { clickToZoom: false } });
        for (const event of ["update-viewport", "open", "resize", "animation-finish", "viewport-change"]) state.viewer.addHandler(event, draw);
        state.viewer.addHandler("tile-drawn", () => { state.drawn = true; });
        state.viewer.addHandler("open", () => { if (state.bounds) { const to = state.bounds; state.bounds = null; state.viewer.viewport.fitBounds(to, true); } });
        state.viewer.addHandler("open", () => state.viewer.world.getItemAt(0).addHandler("fully-loaded-change", draw));
        state.viewer.innerTracker.keyHandler = null; state.viewer.innerTracker.keyDownHandler = null;
      }
      state.viewer.open(source()); state.shownCase = data.case; message.hidden = true;
      await scores(data, turn);
    } catch (error) { message.textContent = error.message; root.dataset.state = JSON.stringify({ case: data.case, message: error.message }); }
  }
  async function scores(data, turn = state.turn) {
    const answer = await fetch(data.tiles), told = answer.ok ? await answer.json() : {};
    if (turn === state.turn) { state.tiles = told; fill(); draw(); }
  }
  const keys = (event) => {
    if (writing(event)) return;
    const act = { h: () => { state.on = !state.on; draw(); }, "0": () => state.viewer && state.viewer.viewport.goHome(), ...(state.slide && state.slide.planes > 1 ? { arrowup: () => state.turn_plane(1), arrowdown: () => state.turn_plane(-1) } : {}), "[": () => { state.opacity = Math.max(state.opacity - 0.1, 0); opacity.value = 100 * state.opacity; draw(); }, "]": () => { state.opacity = Math.min(state.opacity + 0.1, 1); opacity.value = 100 * state.opacity; draw(); } }[event.key.toLowerCase()];
    if (act) { event.preventDefault(); act(); }
  };
  document.addEventListener("keydown", keys);
  state.close = () => { document.removeEventListener("keydown", keys); if (state.viewer) state.viewer.destroy(); };
  state.update = (data) => {
    const before = state.data; state.data = data;
    stage.style.height = data.kind === "smear" ? "calc(100vh - 318px)" : "calc(100vh - 356px)"; side.textContent = data.about || "";
    if (data.slide !== before.slide) load(data);
    else if (data.hidden !== before.hidden) scores(data);
    else { if (data.finding !== before.finding) fill(); draw(); }
  };
  return state;
});
