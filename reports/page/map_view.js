// The map: the choice at each measured length and error budget.

const BUDGETS = [.01, .02, .05, .1, .2, .3, .5, .8];

function showMap(questions, page) {
  const limits = limitsOf(state), {question: here} = state;
  const budgets = [...new Set([...BUDGETS, state.error])].sort((a, b) => a - b);
  const lengths = questions.lengths(here).map(question =>
    ({question, candidates: questions.candidates(question.number)}));
  const cellOf = (error, {question, candidates}) => {
    const it = choose(candidates, {...limits, error}).chosen;
    if (!it) return element("td", {class: "none"}, "none");
    const isHere = question.axes.length === here.axes.length && error === state.error;
    const set = () => page.set({question, error}), current = isHere ? "true" : null;
    const button = element("button", {"aria-current": current, onclick: set}, it.label,
      element("small", {}, timesExact(it)));
    const look = {style: `--method:${page.color(it.variant)}`, class: it.isExact ? "exact" : ""};
    return element("td", look, button);
  };
  const row = error => element("tr", {}, rowHeading(budgetInWords(error)),
    lengths.map(length => cellOf(error, length)));
  const titles = lengths.map(({question}) => showCount(question.axes.length));
  const table = tableOf(["max error", ...titles], budgets.map(row), {class: "map"});
  byId("map-body").replaceChildren(table);
}
