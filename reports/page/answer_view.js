// The answer in words.

const limitsOf = ({error, memory, time, perplexity}) => ({error, memory, time, perplexity});

// The time of exact attention on the same inputs in the same process, divided by that of a method.
const timesExact = it => it.exactTime === null ? "" : SHOWN.show_ratio(it.exactTime / it.time);
const timeOf = it => withInterval("show_ms", it.time, it.timeLow, it.timeHigh);
const errorOf = it => withInterval("show_error", it.error, it.errorLow, it.errorHigh);
const memoryOf = it => it.memory === null ? "" : SHOWN.show_bytes(it.memory);

function perplexityOf({perplexity}) {
  if (perplexity === null) return "";
  const {value, low, high, length} = perplexity;
  const at = length === null ? "" : ` at ${showCount(length)}`;
  return `×${withInterval("show_number", value, low, high)}${at}`;
}

const directionInWords = direction => direction.replaceAll("_", " + ");
const causalInWords = causal => causal === "true" ? "causal" : "not causal";

function sceneInWords({axes}) {
  return [
    `length ${showCount(axes.length)}`, `${axes.heads} (heads × channels)`, axes.dtype,
    directionInWords(axes.direction), causalInWords(axes.causal), `inputs ${axes.inputs}`,
  ].join(", ");
}

// The scene, the layer and the machine of the question.
function sceneWithLayer(questions) {
  const {question} = state, isOnly = questions.policies(question).length === 1;
  const layer = policyInWords(question.policy, isOnly);
  return `${sceneInWords(question)}, ${layer}; ${question.axes.machine}`;
}

function nameOf(it) {
  const asked = it.implementation === "auto" ? "" : `implementation ${it.implementation}`;
  const settings = it.hyperparameters === "none" ? "" : it.hyperparameters;
  return [it.label, asked, settings].filter(Boolean).join(" · ");
}

// Fills the answer; returns one sentence with the result.
function showAnswer(questions, page) {
  const limits = limitsOf(state), candidates = questions.candidates(state.question.number);
  const {chosen, tied} = choose(candidates, limits), next = nextBudget(candidates, limits, chosen);
  const sentence = chosen ? answerInWords(chosen)
    : `No measured method keeps these limits at ${sceneInWords(state.question)}.`;
  const shown = chosen ? chosenParts(questions, candidates, chosen, tied, page) : [
    element("p", {class: "use"}, "USE exact attention, and relax a limit"),
    element("p", {}, sentence),
  ];
  byId("answer-body").replaceChildren(...shown, next ? nextPart(next, page) : "");
  return sentence;
}

function answerInWords(chosen) {
  const kind = chosen.isExact ? "exact attention: " : "", time = SHOWN.show_ms(chosen.time);
  const isFaster = !chosen.isExact && chosen.exactTime !== null;
  const speed = isFaster ? `, ${timesExact(chosen)} as fast as exact attention` : "";
  return `Use ${kind}${chosen.label}: ${time}${speed}, error ${SHOWN.show_error(chosen.error)}.`;
}

function chosenParts(questions, candidates, chosen, tied, page) {
  const {question} = state, isOnly = questions.policies(question).length === 1;
  const rows = questions.rowsOf(chosen), command = page.command(rows[0]);
  const kind = chosen.isExact ? "exact attention: " : "", settings = nameOf(chosen);
  const facts = [
    ["time [q1, q3]", timeOf(chosen)],
    ["speed against exact", timesExact(chosen)],
    ["memory", memoryOf(chosen)],
    [`error, ${policyInWords(question.policy, isOnly)}`, errorOf(chosen)],
    ["perplexity against exact", perplexityOf(chosen)],
    ["evidence", `${chosen.evidence}, ${rows.length} row${rows.length === 1 ? "" : "s"}`],
  ].filter(([, value]) => value);
  const others = tied.filter(it => it !== chosen).map(it => it.label);
  const more = others.length > 4 ? ` and ${others.length - 4} more` : "";
  const label = {tabindex: 0, "aria-label": "command that measures this again"};
  return [
    element("p", {class: "use"}, element("span", {}, "USE "), element("b", {}, kind + chosen.label),
      " ", element("small", {}, settings.slice(chosen.label.length))),
    element("dl", {class: "numbers"}, facts.map(([name, value]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, value)))),
    others.length === 0 ? "" : element("p", {class: "soft"},
      `As fast within the intervals: ${others.slice(0, 4).join(", ")}${more}.`),
    why(candidates, chosen),
    command === "" ? "" : element("p", {class: "command"}, element("code", label, command),
      copyButton(command)),
  ];
}

// Why the choice is no approximation: those with the smallest errors that are not excluded.
function why(candidates, chosen) {
  if (!chosen.isExact) return "";
  const good = candidates.filter(it => !it.isExact && !it.excluded)
    .sort((a, b) => a.errorHigh - b.errorHigh).slice(0, 2);
  const words = good.map(it => `${it.label}: error ${errorOf(it)}, ${timesExact(it)}`).join("; ");
  return element("p", {class: "soft"}, words
    ? `The approximations with the smallest errors: ${words}.`
    : "No approximation here is better than its baselines.");
}

// The smallest larger budget at which another method is chosen that is faster, with this method.
// The budget is rounded before the choice, because the page then shows the answer to that number.
function nextBudget(candidates, limits, chosen) {
  const isBetter = other => other.label !== chosen.label && other.noiseHigh < chosen.noiseLow;
  const ends = candidates.map(it => it.errorHigh).filter(high => high > limits.error && high < 1);
  const steps = new Set(ends.map(high => Math.ceil(high * 1000 - 1e-6) / 1000));
  for (const error of [...steps].filter(it => it > limits.error).sort((a, b) => a - b)) {
    const other = choose(candidates, {...limits, error}).chosen;
    if (other && (!chosen || isBetter(other))) return {error, other};
  }
  return null;
}

function nextPart({error, other}, page) {
  const speed = other.exactTime === null ? "" : `, ${timesExact(other)} as fast as exact`;
  const set = {class: "link", onclick: () => page.set({error})};
  const button = element("button", set, budgetInWords(error));
  return element("p", {}, "With an error budget of ", button,
    `: ${other.label}, ${SHOWN.show_ms(other.time)}${speed}, error ${errorOf(other)}.`);
}
