// The worklist: a row a case. Clicking a row, or Enter on it, opens the case; arrows move between rows.
export default (component) => mounted(component, (root) => {
  const state = {}, kept = new Map(), queue = [], leaving = new AbortController();
  let busy = 0;
  // Thumbnails come two at a time and only where they are seen, so that they never stand before the film that is opened.
  const seen = new IntersectionObserver((all) => { for (const one of all) if (one.isIntersecting) { seen.unobserve(one.target); queue.push(one.target); fetchSome(); } });
  function fetchSome() {
    while (busy < 2 && queue.length) {
      const picture = queue.shift(), url = picture.dataset.src;
      if (!picture.isConnected) continue;
      busy += 1;
      fetch(url, { signal: leaving.signal }).then((answer) => (answer.ok ? answer.blob() : null)).then((blob) => { if (blob) { kept.set(url, URL.createObjectURL(blob)); picture.src = kept.get(url); picture.style.visibility = ""; } }).catch(() => {}).finally(() => { busy -= 1; fetchSome(); });
    }
  }
  state.close = () => { leaving.abort(); seen.disconnect(); for (const url of kept.values()) URL.revokeObjectURL(url); };
  const open = (one) => state.component.setTriggerValue("open", { run: one.run, case: one.case, nonce: Date.now() });
  state.update = (data) => {
    const text = JSON.stringify(data);
    if (text === state.text) return;
    state.text = text;
    const rows = data.rows || [], looked = rows.some((one) => one.ood && one.ood !== "–"), many = rows.some((one) => one.readers);
    const grid = `48px 150px 58px minmax(120px,1fr) 150px${looked ? " 92px" : ""} 76px${many ? " 92px" : ""}`;
    const box = element("div", "rows"); box.setAttribute("role", "grid"); box.style.maxHeight = data.height || "calc(100vh - 265px)";
    const head = element("div", "row head"); head.style.gridTemplateColumns = grid;
    for (const name of ["", "case", "kind", data.blind ? "" : "strongest finding, and others", data.blind ? "" : "probability (threshold)", ...(looked ? ["training cases"] : []), "your state", ...(many ? ["readers"] : [])]) head.append(element("span", "", name));
    box.append(head);
    for (const one of rows) box.append(row(one, grid, looked, many));
    if (!rows.length) { const none = element("div", "row soft", data.empty || ""); none.style.cursor = "default"; box.append(none); }
    root.replaceChildren(box);
    root.dataset.rows = rows.length;
  };
  function row(one, grid, looked, many) {
    const line = element("div", "row"); line.style.gridTemplateColumns = grid; line.tabIndex = 0;
    line.setAttribute("role", "row"); line.dataset.case = one.case; line.setAttribute("aria-selected", one.here ? "true" : "false");
    const picture = element("img"); picture.alt = ""; picture.width = 44; picture.height = 34;
    picture.style.cssText = "object-fit:contain;background:#000;border-radius:3px"; if (kept.has(one.thumbnail)) picture.src = kept.get(one.thumbnail); else { picture.dataset.src = one.thumbnail; picture.style.visibility = "hidden"; seen.observe(picture); }
    const name = element("span", "cut"); name.append(element("span", "mono", one.case)); if (one.run_name) { name.append(element("div", "soft cut", one.run_name)); name.title = one.run_name; }
    const finding = element("span");
    if (one.finding) { finding.append(element("span", one.positive ? "strong" : "soft", one.finding)); if (one.also) finding.append(element("div", "soft cut", `+ ${one.also}`)); finding.title = one.all; }
    const chance = element("span");
    if (one.finding) {
      const said = element("div", "", `${one.probability.toFixed(2)} `); said.append(element("span", one.positive ? "strong" : "soft", one.positive ? "▲ " : ""), element("span", "soft", one.threshold ? `(${one.threshold.toFixed(2)})` : "own score"));
      const track = element("div", "track"), fill = element("div", `fill${one.positive ? " positive" : ""}`), tick = element("div", "tick");
      fill.style.width = `${100 * one.probability}%`; tick.style.left = `${100 * one.threshold}%`; tick.hidden = !one.threshold; track.append(fill, tick); chance.append(said, track);
    }
    const ood = element("span", one.far ? "strong" : "soft", one.ood); ood.title = one.ood_said || "";
    line.append(picture, name, element("span", "soft", one.kind), finding, chance, ...(looked ? [ood] : []), element("span", one.state === "read" ? "accept" : one.state === "open" ? "" : "soft", one.state_said), ...(many ? [element("span", "soft", one.readers)] : []));
    line.onclick = () => open(one);
    line.onkeydown = (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(one); }
      if (event.key === "ArrowDown" && line.nextSibling) { event.preventDefault(); line.nextSibling.focus(); }
      if (event.key === "ArrowUp" && line.previousSibling && line.previousSibling.tabIndex === 0) { event.preventDefault(); line.previousSibling.focus(); }
    };
    return line;
  }
  return state;
});
