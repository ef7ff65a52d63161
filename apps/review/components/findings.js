// The findings of a case: number, name, what the AI says, what you say. 1 to 9 choose, N goes to the note.
export default (component) => mounted(component, (root) => {
  const state = { data: {} };
  const SIGNS = { accept: "✓ ", reject: "✗ ", uncertain: "? ", "": "" };
  const choose = (name) => state.component.setTriggerValue("choose", { finding: name, nonce: Date.now() });
  const keys = (event) => {
    if (writing(event)) return;
    const place = "123456789".indexOf(event.key);
    if (place >= 0 && event.key && (state.data.rows || [])[place]) { event.preventDefault(); choose(state.data.rows[place].name); }
    if (event.key === "n" || event.key === "N") { const note = document.querySelector('input[aria-label^="Note"], textarea[aria-label^="Note"]'); if (note) { event.preventDefault(); note.focus(); } }
  };
  document.addEventListener("keydown", keys);
  state.close = () => document.removeEventListener("keydown", keys);
  state.update = (data) => {
    state.data = data;
    const text = JSON.stringify(data);
    if (text === state.text) return;
    state.text = text;
    const grid = `16px minmax(90px,1fr) ${data.blind ? "" : "92px "}84px${data.others ? " 96px" : ""}`;
    const box = element("div", "rows"); box.setAttribute("role", "listbox"); box.style.maxHeight = data.height || "300px";
    const head = element("div", "row head"); head.style.gridTemplateColumns = grid;
    for (const name of ["", "finding", ...(data.blind ? [] : ["AI (threshold)"]), "you", ...(data.others ? ["others"] : [])]) head.append(element("span", "", name));
    box.append(head);
    (data.rows || []).forEach((one, place) => {
      const line = element("div", "row"); line.style.gridTemplateColumns = grid; line.tabIndex = 0; line.setAttribute("role", "option");
      line.dataset.finding = one.name; line.dataset.verdict = one.verdict || ""; line.setAttribute("aria-selected", one.chosen ? "true" : "false");
      const name = element("span", `name ${one.positive || data.blind ? "strong" : "soft"}`, one.shown); name.title = one.title || one.shown;
      if (one.note) name.append(element("span", "soft", " ✎"));
      line.append(element("span", "soft", place < 9 ? `${place + 1}` : ""), name);
      if (!data.blind) { const said = element("span"); if (one.probability !== null) said.append(element("span", one.positive ? "strong" : "soft", `${one.probability.toFixed(2)}${one.positive ? " ▲" : ""}`), element("span", "soft", one.threshold === null ? " own score" : ` (${one.threshold.toFixed(2)})`)); line.append(said); }
      const you = element("span", "you"); if (one.verdict) you.append(element("span", one.sign, `${SIGNS[one.sign]}${one.verdict}`)); line.append(you);
      if (data.others) { const others = element("span", "soft cut", one.others || ""); others.title = one.others || ""; line.append(others); }
      line.onclick = () => choose(one.name);
      line.onkeydown = (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(one.name); } };
      box.append(line);
    });
    root.replaceChildren(box);
    const chosen = box.querySelector('[aria-selected="true"]'); if (chosen) chosen.scrollIntoView({ block: "nearest" });
  };
  return state;
});
