// The pages of a method (#method=...) and of a family of inputs (#family=...).

function showSubject(questions, page) {
  const place = byId("subject"), name = state.method || state.family;
  place.hidden = !name;
  if (!name) return place.replaceChildren();
  const rows = state.method ? methodRows(questions, name) : familyRows(questions, name);
  const titles = state.method ? ["setting", "inputs", "length", "shape", "error [interval]", "× exact", "memory", "verdict"] : ["length", "shape", `chosen at ${budgetInWords(state.error)}`, "error [interval]", "× exact", "memory"];
  const kinds = state.method ? page.facts.methods : page.facts.inputs;
  place.replaceChildren(
    element("h2", {tabindex: -1}, state.method ? swatch(page, name) : "", `${state.method ? "Method" : "Inputs"} ${name}`),
    element("p", {}, rows.length ? (state.method ? "Each setting at each measured length, for the worst layer where there are layers." : "The choice for each length and shape, within the limits above.") : `There is no answer about ${name} in these runs.`, " ",
      element("button", {class: "link", onclick: () => page.set({method: "", family: ""})}, "close")),
    element("p", {class: "soft"}, "Others: ", Object.keys(kinds).filter(it => it !== name).sort().flatMap(it => [element("a", {href: `#${state.method ? "method" : "family"}=${encodeURIComponent(it)}`}, it), " "])),
    rows.length ? element("div", {class: "scroll tall", tabindex: 0, role: "region", "aria-label": `results of ${name}`}, element("table", {}, element("thead", {}, element("tr", {}, titles.map(it => element("th", {scope: "col"}, it)))), element("tbody", {}, rows.map(cells => element("tr", {}, cells.map(it => element("td", {}, it))))))) : "");
}

const shapeOf = ({heads, dtype, direction, causal}) => `${heads}, ${dtype}, ${direction.replaceAll("_", " + ")}, ${causal === "true" ? "causal" : "not causal"}`;
const firstPolicy = (questions, it) => questions.policies(it)[0] === it;

function methodRows(questions, name) {
  const rows = [];
  for (const it of questions.asked.filter(it => firstPolicy(questions, it))) {
    const candidates = questions.candidates(it.number);
    for (const own of candidates.filter(other => other.variant === name)) {
      rows.push([own.label, it.axes.inputs, showCount(it.axes.length), shapeOf(it.axes), errorOf(own), timesExact(own), memoryOf(own), own.excluded || (own.isExact ? "exact" : "")]);
    }
  }
  return rows;
}

function familyRows(questions, name) {
  const own = questions.asked.filter(it => it.axes.inputs.split(" ")[0] === name && firstPolicy(questions, it));
  return own.map(it => {
    const candidates = questions.candidates(it.number), {chosen} = choose(candidates, limitsOf(state));
    const label = element("button", {class: "link", onclick: () => { state.family = ""; window.attentionPage.set({question: it}); }}, chosen ? chosen.label : "none");
    return [showCount(it.axes.length), `${it.axes.inputs}, ${shapeOf(it.axes)}`, label, chosen ? errorOf(chosen) : "", chosen ? timesExact(chosen) : "", chosen ? memoryOf(chosen) : ""];
  });
}
