// The ranking of all methods, and the lengths from which they are better than exact attention.

// The layer with the largest upper end of the error of each method at the scene and length.
function worstLayers(questions, question) {
  const found = new Map();
  for (const other of questions.policies(question)) {
    if (!isLayer(other.policy)) continue;
    for (const it of questions.candidates(other.number)) {
      const high = it.errorHigh ?? Infinity, known = found.get(it.label);
      if (known && high <= known.high) continue;
      found.set(it.label, {layer: other.policy, error: it.error, high});
    }
  }
  return found;
}

const verdictOf = (it, chosen, limits) =>
  it.point === chosen?.point ? "chosen" : whyNot(it, limits) || "within the limits";

function showRanking(questions, page) {
  const {question} = state, limits = limitsOf(state);
  const candidates = questions.candidates(question.number);
  const {chosen} = choose(candidates, limits), worst = worstLayers(questions, question);
  const marked = candidates.map(it =>
    ({...it, why: whyNot(it, limits), isChosen: it.point === chosen?.point}));
  marked.sort((a, b) =>
    b.isChosen - a.isChosen || Boolean(a.why) - Boolean(b.why) || a.time - b.time);
  const worstOf = ({label}) => {
    const own = worst.get(label);
    return own ? `layer ${own.layer}: ${SHOWN.show_error(own.error)}` : "";
  };
  const columns = [
    ["error [interval]", errorOf], ["× exact", timesExact], ["time [q1, q3]", timeOf],
    ["memory", memoryOf],
    ...(marked.some(it => it.perplexity) ? [["perplexity × exact", perplexityOf]] : []),
    ...(worst.size ? [["worst layer", worstOf]] : []),
  ];
  const row = it => element("tr", {class: it.isChosen ? "chosen" : it.why ? "refused" : ""},
    rowHeading(swatch(page, it.variant), pinButton(it.label, page),
      it.implementation === "auto" ? "" : element("small", {}, ` ${it.implementation}`)),
    columns.map(([, words]) => element("td", {}, words(it))),
    element("td", {class: "words"}, verdictOf(it, chosen, limits)));
  const titles = ["method", ...columns.map(([title]) => title), "verdict"];
  const table = some => tableOf(titles, some.map(row), {class: "ranking"});
  const useful = marked.filter(it => !it.excluded), useless = marked.filter(it => it.excluded);
  const words = `${useless.length} methods that are never chosen, with reasons`;
  byId("ranking-body").replaceChildren(table(useful),
    useless.length ? foldOf(words, table(useless)) : "");
}

function pinButton(label, page) {
  return element("button", {
    class: "link", title: "pin in the chart", "aria-pressed": String(state.pinned.includes(label)),
    onclick: () => page.pin(label),
  }, label);
}

function showCrossovers(questions, page) {
  const {crossovers} = questions.tables, rows = [];
  for (let i = 0; i < crossovers.scene.rows; i++) {
    if (crossovers.scene.values[i] === state.question.scene) rows.push(i);
  }
  const of = (name, i) => cell(crossovers[name], i), first = ["always", "from", "", "never", "not"];
  const rank = text => {
    const place = first.findIndex(word => word && text.startsWith(word));
    return place < 0 ? 2 : place;
  };
  rows.sort((a, b) => rank(of("time", a)) - rank(of("time", b)));
  const row = i => element("tr", {},
    rowHeading(swatch(page, of("variant", i)), of("label", i)),
    element("td", {}, of("time", i)), element("td", {}, of("memory", i)));
  const titles = ["method", "faster than exact", "less memory than exact"];
  const table = some => tableOf(titles, some.map(row));
  const useful = rows.filter(i => !of("is_useless", i));
  const useless = rows.filter(i => of("is_useless", i));
  const words = `${useless.length} methods that are never chosen`;
  const none = "No approximation that is better than its baselines was measured beside exact " +
    "attention here.";
  byId("crossover-body").replaceChildren(
    useful.length ? table(useful) : element("p", {}, none),
    useless.length ? foldOf(words, table(useless)) : "");
}
