// The controls of the question: their values, and what happens when they change.

const TITLES = {
  length: "length", heads: "heads × channels", dtype: "dtype", direction: "direction",
  causal: "causal", inputs: "inputs", machine: "machine",
};
const CONTROLS = ["length", "heads", "dtype", "direction", "causal", "inputs", "policy", "machine"];
// The error budgets of the slider: three powers of ten, numbers of two digits, each once.
const BUDGET_STEPS = [...new Set(Array.from({length: 121}, (_, step) =>
  Number((10 ** (step / 40 - 3)).toPrecision(2))))];
const WORDS = {
  causal: value => value === "true" ? "yes" : "no", length: showCount, direction: directionInWords,
};

function drawControls(questions) {
  for (const name of CONTROLS) {
    if (name === "policy") drawLayers(questions);
    else drawMenu(questions, name, byId(`axis-${name}`));
  }
  const slider = byId("max-error"), words = budgetInWords(state.error);
  const apart = budget => Math.abs(Math.log(budget / state.error));
  const nearest = BUDGET_STEPS.reduce((best, it) => apart(it) < apart(best) ? it : best);
  slider.max = BUDGET_STEPS.length - 1;
  slider.value = BUDGET_STEPS.indexOf(nearest);
  slider.setAttribute("aria-valuetext", words);
  byId("max-error-words").value = words;
  byId("max-memory").value = state.memory === null ? "" : state.memory / 2 ** 20;
  byId("max-time").value = state.time ?? "";
  byId("max-perplexity").value = state.perplexity ?? "";
  const limits = [state.memory, state.time, state.perplexity];
  if (limits.some(limit => limit !== null)) byId("limits").open = true;
}

function drawMenu(questions, name, menu) {
  const {machines} = questions.facts, values = questions.values(name, state.question);
  const words = name === "machine" ? it => machines[it] ?? it : WORDS[name] ?? String;
  const option = ([value]) => element("option", {value, title: value}, words(value));
  const own = values.filter(([, keeps]) => keeps), others = values.filter(([, keeps]) => !keeps);
  const apart = {label: "changes other settings"};
  menu.replaceChildren(...own.map(option),
    ...(others.length ? [element("optgroup", apart, others.map(option))] : []));
  menu.value = menu.title = state.question.axes[name];
  menu.disabled = values.length < 2;
}

function drawLayers(questions) {
  const menu = byId("axis-policy"), policies = questions.policies(state.question);
  const isOnly = policies.length === 1, words = it => policyInWords(it.policy, isOnly);
  menu.replaceChildren(...policies.map(it => element("option", {value: it.policy}, words(it))));
  menu.value = state.question.policy;
  menu.disabled = isOnly;
}

function connectControls(page) {
  const on = (id, event, change) =>
    byId(id).addEventListener(event, ({target}) => change(target.value));
  for (const name of CONTROLS) on(`axis-${name}`, "change", value => page.ask({[name]: value}));
  on("max-error", "input", step => page.set({error: BUDGET_STEPS[step]}));
  const limit = (id, name, scale) =>
    on(id, "change", value => page.set({[name]: value > 0 ? value * scale : null}));
  limit("max-memory", "memory", 2 ** 20);
  limit("max-time", "time", 1);
  limit("max-perplexity", "perplexity", 1);
  for (const name of ["measure", "along"]) {
    on(`lines-${name}`, "change", value => page.set({[name]: value}));
  }
  for (const it of document.querySelectorAll("details[data-show]")) {
    it.addEventListener("toggle", () => { if (it.open) page.unfold(it); });
  }
}
