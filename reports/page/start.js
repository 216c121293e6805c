// Joins the parts: controls, the address, and what is drawn after each change.

const TITLES = {length: "length", heads: "heads × channels", dtype: "dtype", direction: "direction", causal: "causal", inputs: "inputs", machine: "machine"};
const CONTROLS = ["length", "heads", "dtype", "direction", "causal", "inputs", "policy", "machine"];
const SLIDER = {steps: 120, low: 1e-3, high: 1};

const page = {
  facts: {methods: {}, inputs: {}},
  css: name => getComputedStyle(document.documentElement).getPropertyValue(name).trim(),
  grey: () => page.css("--grey"),
  marker: variant => page.facts.methods[variant]?.marker ?? "circle",

  // The colour of a method; on a dark ground, a lighter tone of it.
  color(variant) {
    const color = page.facts.methods[variant]?.color ?? "#000000", isDark = matchMedia("(prefers-color-scheme: dark)").matches && !matchMedia("print").matches;
    if (!isDark) return color;
    if (color === "#000000") return page.css("--ink");
    const parts = [1, 3, 5].map(at => parseInt(color.slice(at, at + 2), 16));
    return "#" + parts.map(part => Math.round(part + .45 * (255 - part)).toString(16).padStart(2, "0")).join("");
  },

  set(changes) {
    Object.assign(state, changes);
    page.draw();
    page.remember();
  },

  pin(label) {
    page.set({pinned: state.pinned.includes(label) ? state.pinned.filter(it => it !== label) : [...state.pinned, label].slice(-4)});
  },

  command: row => page.cases && row !== undefined ? commandOf(page.cases.commands, row) : "",

  remember() {
    if (!page.started) return;
    const parts = state.question ? addressOf(state) : new URLSearchParams();
    for (const [name, value] of Object.entries(page.cases?.address?.() ?? {})) parts.set(name, value);
    history.replaceState(null, "", `#${parts}`);
  },

  ask(wanted) {
    const before = state.question.axes;
    const found = wanted.policy === undefined ? questions.closest(before, state.question.policy, wanted) : questions.policies(state.question).find(it => it.policy === wanted.policy);
    const changed = AXES.filter(axis => !(axis in wanted) && String(found.axes[axis]) !== String(before[axis]));
    page.set({question: found});
    byId("changed").textContent = changed.length ? `Not measured together; also changed: ${changed.map(axis => `${TITLES[axis]} ${found.axes[axis]}`).join(", ")}.` : "";
  },

  // Fills a folded section; only open ones are filled.
  async unfold(section) {
    if (section.dataset.show === "accuracy") return showAccuracy(questions, page);
    if (!page.frontier) return;  // the library of charts is not there yet
    if (!page.lines) {
      page.lines = new Lines();
      await page.lines.open(JSON.parse(byId("lines-data").textContent), label => page.pin(label));
      page.lines.theme(page);
    }
    showLines(questions, page);
  },

  draw() {
    if (!state.question) return;
    const candidates = questions.candidates(state.question.number), {chosen} = choose(candidates, limitsOf(state));
    drawControls();
    const sentence = showAnswer(questions, page);
    byId("said").textContent = sentence;
    byId("scene").textContent = sceneWithLayer(questions);
    showRanking(questions, page);
    showMap(questions, page);
    showCrossovers(questions, page);
    showChips("legend", [...new Set(candidates.filter(it => !it.excluded).map(it => it.variant))].sort(), page);
    showPinned(candidates, page);
    showSubject(questions, page);
    for (const it of document.querySelectorAll("details[data-show][open]")) page.unfold(it);
    if (!page.frontier) return;
    const best = page.frontier.draw(candidates, limitsOf(state), chosen, page);
    byId("frontier-chart").setAttribute("aria-label", `Error against time of ${candidates.length} methods. ${sentence} On the frontier, the fastest first: ${best.map(it => `${it.label} ${SHOWN.show_ms(it.time)}, error ${SHOWN.show_error(it.error)}`).join("; ")}.`);
  },
};
let questions;
window.attentionPage = page;

function drawControls() {
  for (const name of CONTROLS) {
    const menu = byId(`axis-${name}`), words = {causal: v => v === "true" ? "yes" : "no", length: showCount, direction: v => v.replaceAll("_", " + ")}[name] ?? (v => v);
    if (name === "policy") {
      const policies = questions.policies(state.question);
      menu.replaceChildren(...policies.map(it => element("option", {value: it.policy}, policyInWords(it.policy, policies.length === 1))));
      menu.value = state.question.policy;
      menu.disabled = policies.length < 2;
      continue;
    }
    const values = questions.values(name, state.question), option = ([value]) => element("option", {value}, words(value));
    const own = values.filter(([, keeps]) => keeps), others = values.filter(([, keeps]) => !keeps);
    menu.replaceChildren(...own.map(option), ...(others.length ? [element("optgroup", {label: "changes other settings"}, others.map(option))] : []));
    menu.value = state.question.axes[name];
    menu.disabled = values.length < 2;
  }
  const slider = byId("max-error"), words = budgetInWords(state.error);
  slider.value = SLIDER.steps * Math.log(state.error / SLIDER.low) / Math.log(SLIDER.high / SLIDER.low);
  slider.setAttribute("aria-valuetext", words);
  byId("max-error-words").value = words;
  byId("max-memory").value = state.memory === null ? "" : state.memory / 2 ** 20;
  byId("max-time").value = state.time ?? "";
  byId("max-perplexity").value = state.perplexity ?? "";
  if ([state.memory, state.time, state.perplexity].some(limit => limit !== null)) byId("limits").open = true;
}

function connect() {
  for (const name of CONTROLS) byId(`axis-${name}`).addEventListener("change", event => page.ask({[name]: event.target.value}));
  byId("max-error").addEventListener("input", event => page.set({error: Number((SLIDER.low * (SLIDER.high / SLIDER.low) ** (event.target.value / SLIDER.steps)).toPrecision(2))}));
  const limit = (id, name, scale) => byId(id).addEventListener("change", event => page.set({[name]: event.target.value > 0 ? event.target.value * scale : null}));
  limit("max-memory", "memory", 2 ** 20);
  limit("max-time", "time", 1);
  limit("max-perplexity", "perplexity", 1);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { page.frontier?.theme(page); page.lines?.theme(page); page.draw(); });
  for (const name of ["measure", "along"]) byId(`lines-${name}`).addEventListener("change", event => page.set({[name]: event.target.value}));
  for (const it of document.querySelectorAll("details[data-show]")) it.addEventListener("toggle", () => { if (it.open) page.unfold(it); });
}

// An address is a state (`length=4096&...`) or the name of a section.
function follow() {
  const text = location.hash.slice(1);
  if (text.includes("=")) {
    readAddress(questions, text);
    page.draw();
    page.cases?.read?.(new URLSearchParams(text));
    if (state.method || state.family) byId("subject")?.scrollIntoView();
  } else if (text) {
    const place = byId(decodeURIComponent(text));
    for (let it = place; it; it = it.parentElement) if (it.tagName === "DETAILS") it.open = true;
    place?.scrollIntoView();
  }
}

async function start() {
  if (byId("answer-data")) {
    questions = new Questions(await unpack("answer-data"));
    page.facts = questions.facts;
    state.question = questions.asked[questions.facts.first];
    connect();
    readAddress(questions, location.hash.includes("=") ? location.hash.slice(1) : "");
    page.draw();
    document.documentElement.dataset.answered = "yes";
  }
  if (questions) {
    const script = document.createElement("script");
    script.textContent = new TextDecoder().decode(await unzipped("library-data"));
    document.head.append(script);
    page.frontier = new Frontier();
    await page.frontier.open(JSON.parse(byId("frontier-data").textContent), label => page.pin(label));
    page.frontier.theme(page);
    page.draw();
  }
  if (byId("case-data")) {
    page.cases = new Cases(await unpack("case-data"));
    page.draw();  // now with commands
    page.cases.open(page);
  }
  for (const it of document.querySelectorAll(".scroll:not([tabindex])")) {
    const title = it.closest("details")?.querySelector("h2, summary")?.textContent ?? "table";
    for (const [name, value] of [["tabindex", "0"], ["role", "region"], ["aria-label", `table in ${title.trim()}`]]) it.setAttribute(name, value);
  }
  page.started = true;
  follow();
  addEventListener("hashchange", follow);
  document.documentElement.dataset.ready = "yes";
}
addEventListener("beforeprint", () => { for (const it of document.querySelectorAll("details.prints")) it.open = true; });
start();
