// The errors at the question of the first screen, beside those of baselines of the same budget.

// The row of a candidate whose error is that of the candidate: that of its layer.
function rowOfError(questions, it, page) {
  const errors = page.cases.columnOf("error"), rows = questions.rowsOf(it);
  const distance = row => Math.abs((cell(errors, row) ?? Infinity) - it.error);
  return rows.reduce((best, row) => distance(row) < distance(best) ? row : best);
}

function showAccuracy(questions, page) {
  if (!page.cases) return;
  const {accuracy, facts} = page.cases;
  const all = questions.candidates(state.question.number)
    .filter(it => it.evidence === "measured" && it.error !== null)
    .map(it => ({...it, row: rowOfError(questions, it, page)}))
    .sort((a, b) => a.error - b.error);
  const number = (fact, it) => cell(accuracy[fact.name], it.row);
  const columns = facts.filter(fact => all.some(it => number(fact, it) !== null));
  const hasLayers = !isLayer(state.question.policy) && state.question.policy !== "";
  const layer = it => hasLayers ? element("td", {}, cell(page.cases.commands.layer, it.row)) : "";
  const isOther = it => it.excluded.startsWith("another operator");
  const row = it => {
    const beaten = isOther(it) ? "" : cell(accuracy.beaten, it.row);
    const wrong = beaten ? {class: "wrong"} : {};
    return element("tr", {},
      rowHeading(swatch(page, it.variant), it.label,
        it.implementation === "auto" ? "" : element("small", {}, ` ${it.implementation}`),
        beaten ? element("div", wrong, `no better than ${beaten}`) : ""),
      element("td", {class: "number"}, element("b", wrong, errorOf(it))), layer(it),
      columns.map(fact => {
        const value = number(fact, it);
        return element("td", {class: "number"}, value === null ? "–" : SHOWN[fact.show](value));
      }));
  };
  const groups = Map.groupBy(columns, fact => fact.group);
  const tall = {rowspan: 2};
  const head = element("thead", {},
    element("tr", {}, heading("method", tall), heading("error [95 % interval]", tall),
      hasLayers ? heading("layer", tall) : "",
      [...groups].map(([group, own]) => heading(group, {scope: "colgroup", colspan: own.length}))),
    element("tr", {}, columns.map(fact => heading(fact.title, {class: "number"}))));
  const others = all.filter(isOther), width = 3 + columns.length;
  const apart = element("tr", {class: "apart"}, element("td", {colspan: width},
    "Another operator than softmax attention: the error states how different it is."));
  byId("accuracy-scene").textContent = sceneWithLayer(questions);
  byId("accuracy-body").replaceChildren(all.length === 0
    ? element("p", {}, "No error was measured for this question.")
    : element("table", {class: "accuracy"}, head, element("tbody", {},
      all.filter(it => !isOther(it)).map(row), others.length ? [apart, ...others.map(row)] : "")));
  byId("accuracy-meanings").replaceChildren(...columns.flatMap(fact =>
    [element("dt", {}, `${fact.title} (${fact.group})`), element("dd", {}, fact.about)]));
}
