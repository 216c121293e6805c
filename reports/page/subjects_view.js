// The pages of a method (#method=...) and of a family of inputs (#family=...).

const NUMBERS = [
  ["error [interval]", errorOf], ["× exact", timesExact], ["time [q1, q3]", timeOf],
  ["memory", memoryOf],
];

function showSubject(questions, page) {
  const place = byId("subject"), isMethod = Boolean(state.method);
  const name = state.method || state.family;
  place.hidden = !name;
  if (!name) return place.replaceChildren();
  const rows = isMethod ? methodRows(questions, name) : familyRows(questions, name, page);
  const chosen = `chosen at ${budgetInWords(state.error)}`;
  const numbers = NUMBERS.map(([title]) => title);
  const titles = isMethod ? ["setting", "inputs", "length", "shape", ...numbers, "verdict"]
    : ["length", "shape", chosen, ...numbers];
  const about = isMethod
    ? "Each setting at each measured length, for the worst layer where there are layers. The " +
      "verdict is about the limits above."
    : "The choice for each length and shape, within the limits above.";
  const words = rows.length ? about : `There is no answer about ${name} in these runs.`;
  const close = {class: "link", onclick: () => page.set({method: "", family: ""})};
  const label = `results of ${name}`;
  const box = {class: "scroll tall", tabindex: 0, role: "region", "aria-label": label};
  const line = ({cells}) => element("tr", {}, cells.map(it => element("td", {}, it)));
  const all = {scope: "rowgroup", colspan: titles.length};
  const lines = [...Map.groupBy(rows, it => it.machine)].flatMap(([machine, own]) => [
    element("tr", {class: "apart"}, element("th", all, machine)), ...own.map(line),
  ]);
  place.replaceChildren(
    element("h2", {tabindex: -1}, isMethod ? swatch(page, name) : "",
      `${isMethod ? "Method" : "Inputs"} ${name}`),
    element("p", {}, words, " ", element("button", close, "close")),
    element("p", {class: "soft"}, "Others: ", others(name, isMethod, page)),
    rows.length ? element("div", box, tableOf(titles, lines)) : "");
}

// Links to the other methods or inputs.
function others(name, isMethod, page) {
  const known = Object.keys(isMethod ? page.facts.methods : page.facts.inputs);
  const address = it => `#${isMethod ? "method" : "family"}=${encodeURIComponent(it)}`;
  return known.filter(it => it !== name).sort()
    .flatMap(it => [element("a", {href: address(it)}, it), " "]);
}

const shapeOf = ({heads, dtype, direction, causal}) =>
  [heads, dtype, directionInWords(direction), causalInWords(causal)].join(", ");
const isFirstPolicy = (questions, it) => questions.policies(it)[0] === it;

function methodRows(questions, name) {
  const limits = limitsOf(state);
  return questions.asked.filter(it => isFirstPolicy(questions, it)).flatMap(it => {
    const all = questions.candidates(it.number), {chosen} = choose(all, limits);
    const cells = own => [
      own.label, it.axes.inputs, showCount(it.axes.length), shapeOf(it.axes),
      ...NUMBERS.map(([, words]) => words(own)), verdictOf(own, chosen, limits),
    ];
    return all.filter(own => own.variant === name)
      .map(own => ({machine: it.axes.machine, cells: cells(own)}));
  });
}

function familyRows(questions, name, page) {
  const isOwn = it => it.axes.inputs.split(" ")[0] === name && isFirstPolicy(questions, it);
  return questions.asked.filter(isOwn).map(it => {
    const {chosen} = choose(questions.candidates(it.number), limitsOf(state));
    const open = {class: "link", onclick: () => page.set({family: "", question: it})};
    const cells = [
      showCount(it.axes.length), `${it.axes.inputs}, ${shapeOf(it.axes)}`,
      element("button", open, chosen ? chosen.label : "none"),
      ...NUMBERS.map(([, words]) => chosen ? words(chosen) : ""),
    ];
    return {machine: it.axes.machine, cells};
  });
}
