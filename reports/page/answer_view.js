// The answer, the ranking and the map of winners.

const BUDGETS = [.01, .02, .05, .1, .2, .3, .5, .8];
const limitsOf = ({error, memory, time, perplexity}) => ({error, memory, time, perplexity});

// The time of exact attention on the same inputs in the same process, divided by that of a candidate.
const timesExact = it => it.exactTime === null ? "" : SHOWN.show_ratio(it.exactTime / it.time);
const timeOf = it => withInterval("show_ms", it.time, it.timeLow, it.timeHigh);
const errorOf = it => withInterval("show_error", it.error, it.errorLow, it.errorHigh);
const memoryOf = it => it.memory === null ? "" : SHOWN.show_bytes(it.memory);
const perplexityOf = it => it.perplexity === null ? "" : "×" + withInterval("show_number", it.perplexity.value, it.perplexity.low, it.perplexity.high) + (it.perplexity.length === null ? "" : ` at ${showCount(it.perplexity.length)}`);

// The smallest larger budget at which another method is chosen that is faster, with this method.
function nextBudget(candidates, limits, chosen) {
  const steps = candidates.map(it => it.errorHigh).filter(high => high > limits.error && high < 1).sort((a, b) => a - b);
  for (const error of steps) {
    const other = choose(candidates, {...limits, error}).chosen;
    if (other && (!chosen || (other.label !== chosen.label && other.noiseHigh < chosen.noiseLow))) return {error, other};
  }
  return null;
}

// The layer with the largest upper end of the error of each method at the question's scene and length.
function worstLayers(questions, question) {
  const found = new Map();
  for (const other of questions.policies(question)) {
    if (!/^\d+$/.test(other.policy)) continue;
    for (const it of questions.candidates(other.number)) {
      const high = it.errorHigh ?? Infinity;
      if (!found.has(it.label) || high > found.get(it.label).high) found.set(it.label, {layer: other.policy, error: it.error, high});
    }
  }
  return found;
}

function sceneInWords(question) {
  const {length, heads, dtype, direction, causal, inputs} = question.axes;
  return `length ${showCount(length)}, ${heads} (heads × channels), ${dtype}, ${direction.replaceAll("_", " + ")}, ${causal === "true" ? "causal" : "not causal"}, inputs ${inputs}`;
}

// The scene, the layer and the machine of the question.
function sceneWithLayer(questions) {
  const {question} = state, isOnly = questions.policies(question).length === 1;
  return `${sceneInWords(question)}, ${policyInWords(question.policy, isOnly)}; ${question.axes.machine}`;
}

function nameOf(it) {
  return [it.label, it.implementation === "auto" ? "" : `implementation ${it.implementation}`, it.hyperparameters === "none" ? "" : it.hyperparameters].filter(Boolean).join(" · ");
}

// Fills the answer; returns one sentence with the result.
function showAnswer(questions, page) {
  const {question} = state, candidates = questions.candidates(question.number), isOnly = questions.policies(question).length === 1;
  const {chosen, tied} = choose(candidates, limitsOf(state)), next = nextBudget(candidates, limitsOf(state), chosen);
  const place = byId("answer-body"), fact = (name, value) => value ? element("div", {}, element("dt", {}, name), element("dd", {}, value)) : null;
  let sentence;
  if (!chosen) {
    sentence = `No measured method keeps these limits at ${sceneInWords(question)}.`;
    place.replaceChildren(element("p", {class: "use"}, "USE exact attention, and relax a limit"), element("p", {}, sentence));
  } else {
    const kind = chosen.isExact ? "exact attention: " : "";
    const isFast = !chosen.isExact && chosen.exactTime !== null ? `, ${timesExact(chosen)} as fast as exact attention` : "";
    sentence = `Use ${kind}${chosen.label}: ${SHOWN.show_ms(chosen.time)}${isFast}, error ${SHOWN.show_error(chosen.error)}.`;
    const rows = questions.rowsOf(chosen), command = page.command(rows[0]);
    place.replaceChildren(
      element("p", {class: "use"}, element("span", {}, "USE "), element("b", {}, kind + chosen.label), " ", element("small", {}, nameOf(chosen).slice(chosen.label.length))),
      element("dl", {class: "numbers"},
        fact("time [q1, q3]", timeOf(chosen)), fact("speed against exact", timesExact(chosen)), fact("memory", memoryOf(chosen)),
        fact(`error, ${policyInWords(question.policy, isOnly)}`, errorOf(chosen)),
        fact("perplexity against exact", perplexityOf(chosen)), fact("evidence", `${chosen.evidence}, ${rows.length} row${rows.length === 1 ? "" : "s"}`)),
      tied.length > 1 ? element("p", {class: "soft"}, `As fast within the intervals: ${tied.filter(it => it !== chosen).slice(0, 4).map(it => it.label).join(", ")}${tied.length > 5 ? ` and ${tied.length - 5} more` : ""}.`) : "",
      why(candidates, chosen),
      command ? element("p", {class: "command"}, element("code", {tabindex: 0, "aria-label": "command that measures this again"}, command), copyButton(command)) : "",
    );
  }
  if (next) {
    place.append(element("p", {}, "With an error budget of ", element("button", {class: "link", onclick: () => page.set({error: roundedUp(next.error)})}, budgetInWords(roundedUp(next.error))),
      `: ${next.other.label}, ${SHOWN.show_ms(next.other.time)}${next.other.exactTime === null ? "" : `, ${timesExact(next.other)} as fast as exact`}, error ${errorOf(next.other)}.`));
  }
  return sentence;
}

// Why the choice is no approximation: those with the smallest errors that are not excluded.
function why(candidates, chosen) {
  if (!chosen.isExact) return "";
  const good = candidates.filter(it => !it.isExact && !it.excluded).sort((a, b) => a.errorHigh - b.errorHigh).slice(0, 2);
  if (!good.length) return element("p", {class: "soft"}, "No approximation here is better than its baselines.");
  const words = good.map(it => `${it.label}: error ${errorOf(it)}, ${timesExact(it)}`);
  return element("p", {class: "soft"}, `The approximations with the smallest errors: ${words.join("; ")}.`);
}

const roundedUp = error => Math.ceil(error * 1000 - 1e-6) / 1000;

function copyButton(text) {
  return element("button", {onclick: async event => {
    const button = event.currentTarget;
    const code = button.parentElement.querySelector("code");
    getSelection().selectAllChildren(code);  // so that it can be copied by hand where the clipboard is closed
    try { await navigator.clipboard.writeText(text); button.textContent = "copied"; } catch { button.textContent = "selected"; }
  }}, "copy");
}

function showRanking(questions, page) {
  const {question} = state, limits = limitsOf(state), candidates = questions.candidates(question.number);
  const {chosen} = choose(candidates, limits), worst = worstLayers(questions, question);
  const marked = candidates.map(it => ({...it, why: whyNot(it, limits), isChosen: it.point === chosen?.point}));
  marked.sort((a, b) => b.isChosen - a.isChosen || Boolean(a.why) - Boolean(b.why) || a.time - b.time);
  const has = {perplexity: marked.some(it => it.perplexity), worst: worst.size > 0};
  const row = it => element("tr", {class: it.isChosen ? "chosen" : it.why ? "refused" : ""},
    element("th", {scope: "row"}, swatch(page, it.variant), element("button", {class: "link", title: "pin in the chart", "aria-pressed": String(state.pinned.includes(it.label)), onclick: () => page.pin(it.label)}, it.label),
      it.implementation === "auto" ? "" : element("small", {}, ` ${it.implementation}`)),
    element("td", {}, errorOf(it)), element("td", {}, timesExact(it)), element("td", {}, timeOf(it)), element("td", {}, memoryOf(it)),
    has.perplexity ? element("td", {}, perplexityOf(it)) : "",
    has.worst ? element("td", {}, worst.has(it.label) ? `layer ${worst.get(it.label).layer}: ${SHOWN.show_error(worst.get(it.label).error)}` : "") : "",
    element("td", {class: "words"}, it.isChosen ? "chosen" : it.why || "within the limits"));
  const titles = ["method", "error [interval]", "× exact", "time [q1, q3]", "memory", ...(has.perplexity ? ["perplexity × exact"] : []), ...(has.worst ? ["worst layer"] : []), "verdict"];
  const table = rows => element("table", {class: "ranking"}, element("thead", {}, element("tr", {}, titles.map(title => element("th", {scope: "col"}, title)))), element("tbody", {}, rows.map(row)));
  const useful = marked.filter(it => !it.excluded), useless = marked.filter(it => it.excluded);
  byId("ranking-body").replaceChildren(table(useful), useless.length ? element("details", {class: "fold"}, element("summary", {}, `${useless.length} methods that are never chosen, with reasons`), table(useless)) : "");
}

function swatch(page, variant) {
  return element("span", {class: "swatch", style: `background:${page.color(variant)}`, "aria-hidden": "true"});
}

// The winner at each measured length and budget.
function showMap(questions, page) {
  const lengths = questions.lengths(state.question), budgets = [...new Set([...BUDGETS, state.error])].sort((a, b) => a - b);
  const winners = lengths.map(question => {
    const candidates = questions.candidates(question.number);
    return {question, at: budgets.map(error => choose(candidates, {...limitsOf(state), error}).chosen)};
  });
  byId("map-body").replaceChildren(element("table", {class: "map"},
    element("thead", {}, element("tr", {}, element("th", {scope: "col"}, "max error"), lengths.map(it => element("th", {scope: "col"}, showCount(it.axes.length))))),
    element("tbody", {}, budgets.map((error, i) => element("tr", {}, element("th", {scope: "row"}, budgetInWords(error)), winners.map(({question, at}) => {
      const it = at[i], isHere = question.axes.length === state.question.axes.length && error === state.error;
      if (!it) return element("td", {class: "none"}, "none");
      return element("td", {style: `--method:${page.color(it.variant)}`, class: it.isExact ? "exact" : ""},
        element("button", {"aria-current": isHere ? "true" : null, onclick: () => page.set({question, error})}, it.label, element("small", {}, timesExact(it))));
    }))))));
}

function showCrossovers(questions, page) {
  const {crossovers} = questions.tables, rows = [];
  for (let i = 0; i < crossovers.scene.rows; i++) if (crossovers.scene.values[i] === state.question.scene) rows.push(i);
  const of = (name, i) => cell(crossovers[name], i), rank = text => text.startsWith("never") ? 2 : text.startsWith("not") ? 3 : text.startsWith("always") ? 0 : 1;
  rows.sort((a, b) => rank(of("time", a)) - rank(of("time", b)));
  const row = i => element("tr", {}, element("th", {scope: "row"}, swatch(page, of("variant", i)), of("label", i)), element("td", {}, of("time", i)), element("td", {}, of("memory", i)));
  const titles = ["method", "faster than exact", "less memory than exact"];
  const table = rows => element("table", {}, element("thead", {}, element("tr", {}, titles.map(it => element("th", {scope: "col"}, it)))), element("tbody", {}, rows.map(row)));
  const useful = rows.filter(i => !of("is_useless", i)), useless = rows.filter(i => of("is_useless", i));
  byId("crossover-body").replaceChildren(useful.length ? table(useful) : element("p", {}, "No approximation that is better than its baselines was measured beside exact attention here."),
    useless.length ? element("details", {class: "fold"}, element("summary", {}, `${useless.length} methods that are never chosen`), table(useless)) : "");
}
