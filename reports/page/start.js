// Joins the parts: the address, what is drawn after each change, and what is loaded when.

const isDark = () => matchMedia("(prefers-color-scheme: dark)").matches &&
  !matchMedia("print").matches;

const page = {
  facts: {methods: {}, inputs: {}},
  css: name => getComputedStyle(document.documentElement).getPropertyValue(name).trim(),
  grey: () => page.css("--grey"),
  marker: variant => page.facts.methods[variant]?.marker ?? "circle",

  // The colour of a method; on a dark ground, a lighter tone of it.
  color(variant) {
    const color = page.facts.methods[variant]?.color ?? "#000000";
    if (!isDark()) return color;
    if (color === "#000000") return page.css("--ink");
    const parts = [1, 3, 5].map(at => parseInt(color.slice(at, at + 2), 16));
    const lighter = parts.map(part => Math.round(part + .45 * (255 - part)));
    return "#" + lighter.map(part => part.toString(16).padStart(2, "0")).join("");
  },

  set(changes) {
    Object.assign(state, changes);
    page.draw();
    page.remember();
  },

  pin(label) {
    const others = state.pinned.filter(it => it !== label);
    const isPinned = others.length < state.pinned.length;
    page.set({pinned: isPinned ? others : [...others, label].slice(-4)});
  },

  command: row => page.cases && row !== undefined ? commandOf(page.cases.commands, row) : "",

  remember() {
    if (!page.started) return;
    const parts = state.question ? addressOf(state) : new URLSearchParams();
    const ofCases = Object.entries(page.cases?.address?.() ?? {});
    for (const [name, value] of ofCases) parts.set(name, value);
    history.replaceState(null, "", `#${parts}`);
  },

  // Takes the measured question that is closest to the wanted values.
  ask(wanted) {
    const {axes: before, policy} = state.question;
    const found = wanted.policy === undefined
      ? questions.closest(before, policy, wanted)
      : questions.policies(state.question).find(it => it.policy === wanted.policy);
    const isChanged = axis => String(found.axes[axis]) !== String(before[axis]);
    const changed = AXES.filter(axis => !(axis in wanted) && isChanged(axis));
    page.set({question: found});
    const words = changed.map(axis => `${TITLES[axis]} ${found.axes[axis]}`).join(", ");
    byId("changed").textContent = words && `Not measured together; also changed: ${words}.`;
  },

  // Fills a folded section; only open ones are filled.
  async unfold(section) {
    if (section.dataset.show === "accuracy") return showAccuracy(questions, page);
    if (!page.frontier) return;  // the library of charts is not there yet
    page.lines ??= openLines();
    await page.lines;
    showLines(questions, await page.lines, page);
  },

  draw() {
    if (!state.question) return;
    const candidates = questions.candidates(state.question.number);
    const useful = candidates.filter(it => !it.excluded);
    drawControls(questions);
    const sentence = showAnswer(questions, page);
    byId("said").textContent = sentence;
    byId("scene").textContent = sceneWithLayer(questions);
    showRanking(questions, page);
    showMap(questions, page);
    showCrossovers(questions, page);
    showChips("legend", [...new Set(useful.map(it => it.variant))].sort(), page);
    showPinned(candidates, page);
    showSubject(questions, page);
    if (page.frontier) drawFrontier(candidates, sentence);
    for (const it of document.querySelectorAll("details[data-show][open]")) page.unfold(it);
  },
};
let questions;
window.attentionPage = page;

function drawFrontier(candidates, sentence) {
  const limits = limitsOf(state), {chosen} = choose(candidates, limits);
  const best = page.frontier.draw(candidates, limits, chosen, page);
  const words = it => `${it.label} ${SHOWN.show_ms(it.time)}, error ${SHOWN.show_error(it.error)}`;
  byId("frontier-chart").setAttribute("aria-label",
    `Error against time of ${candidates.length} methods. ${sentence} ` +
    `On the frontier, the fastest first: ${best.map(words).join("; ")}.`);
}

async function openLines() {
  const lines = new Lines(), item = JSON.parse(byId("lines-data").textContent);
  await lines.open(item, label => page.pin(label));
  lines.theme(page);
  return lines;
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

async function openAnswer() {
  questions = new Questions(await unpack("answer-data"));
  page.facts = questions.facts;
  state.question = questions.asked[questions.facts.first];
  connectControls(page);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", async () => {
    page.frontier?.theme(page);
    (await page.lines)?.theme(page);
    page.draw();
  });
  readAddress(questions, location.hash.includes("=") ? location.hash.slice(1) : "");
  page.draw();
  document.documentElement.dataset.answered = "yes";
}

async function openFrontier() {
  const script = document.createElement("script");
  script.textContent = new TextDecoder().decode(await unzipped("library-data"));
  document.head.append(script);
  const frontier = new Frontier(), item = JSON.parse(byId("frontier-data").textContent);
  await frontier.open(item, label => page.pin(label));
  frontier.theme(page);
  page.frontier = frontier;
  page.draw();
}

// Tables that scroll can be reached with the keyboard.
function nameScrolledTables() {
  const counts = new Map();
  for (const it of document.querySelectorAll(".scroll:not([tabindex])")) {
    const title = it.closest("details")?.querySelector("h2, summary")?.textContent.trim() ?? "page";
    counts.set(title, (counts.get(title) ?? 0) + 1);
    const label = `table ${counts.get(title)} in ${title}`;
    const about = {tabindex: "0", role: "region", "aria-label": label};
    for (const [name, value] of Object.entries(about)) it.setAttribute(name, value);
  }
}

async function start() {
  if (byId("answer-data")) {
    await openAnswer();
    await openFrontier();
  }
  if (byId("case-data")) {
    page.cases = new Cases(await unpack("case-data"));
    page.draw();  // now with commands
    page.cases.open(page);
  }
  nameScrolledTables();
  page.started = true;
  follow();
  addEventListener("hashchange", follow);
  document.documentElement.dataset.ready = "yes";
}
addEventListener("beforeprint", () => {
  for (const it of document.querySelectorAll("details.prints")) it.open = true;
});
start();
