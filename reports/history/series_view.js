// The history page: selects a series, and describes it.

class Tracked {
  constructor({tables, facts}) {
    this.facts = facts;
    const columns = Object.entries(tables.series);
    this.series = Array.from({length: tables.series.machine.rows}, (_, number) => ({
      number, points: [], steps: [],
      ...Object.fromEntries(columns.map(([name, column]) => [name, cell(column, number)])),
    }));
    for (const name of ["points", "steps"]) {
      const columns = Object.entries(tables[name]);
      for (let row = 0; row < columns[0][1].rows; row++) {
        const read = Object.fromEntries(columns.map(([title, it]) => [title, cell(it, row)]));
        this.series[read.series][name].push(read);
      }
    }
  }

  metric(series) { return this.facts.metrics[series.metric]; }
  commits(series) { return this.facts.machines[series.machine].commits; }
}

function sentenceOf(tracked, series) {
  const metric = tracked.metric(series), commits = tracked.commits(series);
  const last = series.steps.at(-1), runs = `${series.points.length} runs`;
  const subject = `${metric.label[0].toUpperCase()}${metric.label.slice(1)} of ${series.label}: ${runs}`;
  if (series.note) return `${subject}. No steps are claimed: ${series.note}.`;
  if (!last) return `${subject}, no step.`;
  const count = `${series.steps.length} step${series.steps.length > 1 ? "s" : ""}`;
  return `${subject}, ${count}. The last one is at ${commits[last.at].short} ` +
    `(${commits[last.at].date}): ${levelsOf(last, metric).join(" to ")}, ${changeOf(last)}.`;
}

function numbersOf(tracked, series) {
  const commits = tracked.commits(series), show = tracked.metric(series).show;
  const rows = series.points.toReversed().map(it => element("tr", {},
    rowHeading(element("code", {}, commits[it.commit].id.slice(0, 12))),
    element("td", {}, commits[it.commit].date), element("td", {}, `${it.run} UTC`),
    element("td", {class: "number"}, withInterval(show, it.value, it.low, it.high)),
    element("td", {}, it.implementation), element("td", {}, it.dirty ? "dirty" : "")));
  const titles = ["commit", "of", "run", "value [quartiles]", "implementation", ""];
  return tableOf(titles, rows);
}

const option = (value, words, chosen) =>
  element("option", {value, selected: String(value) === String(chosen) ? "" : null}, words);

class View {
  constructor(tracked, chart) {
    Object.assign(this, {tracked, chart});
    byId("machine").onchange = event => this.select({machine: Number(event.target.value)});
    byId("metric").onchange = event => this.select({metric: event.target.value});
    byId("case").onchange = event => this.show(Number(event.target.value));
    byId("wanted").oninput = () => this.controls();
    byId("earlier").onclick = () => this.move(-1);
    byId("later").onclick = () => this.move(1);
  }

  get one() { return this.tracked.series[this.number]; }

  // The same case on another machine or with another metric, or the first series there.
  select(wanted) {
    const asked = {...this.one, ...wanted};
    const there = this.tracked.series.filter(it => it.machine === asked.machine);
    const ofMetric = there.filter(it => it.metric === asked.metric);
    const choices = ofMetric.length ? ofMetric : there;
    this.show((choices.find(it => it.label === asked.label) ?? choices[0]).number);
  }

  listed() {
    const {machine, metric} = this.one, text = byId("wanted").value.toLowerCase();
    const same = this.tracked.series.filter(it => it.machine === machine && it.metric === metric);
    const found = same.filter(it => it.label.toLowerCase().includes(text));
    return [found.filter(it => it.steps.length), found.filter(it => !it.steps.length)];
  }

  move(by) {
    const all = this.listed().flat(), at = all.findIndex(it => it.number === this.number);
    if (all.length) this.show(all[(at + by + all.length) % all.length].number);
  }

  controls() {
    const {machines, metrics} = this.tracked.facts, {machine, metric} = this.one;
    const measured = new Set(
      this.tracked.series.filter(it => it.machine === machine).map(it => it.metric));
    byId("machine").replaceChildren(...machines.map((it, i) => option(i, it.name, machine)));
    byId("metric").replaceChildren(...Object.entries(metrics)
      .filter(([name]) => measured.has(name)).map(([name, it]) => option(name, it.short, metric)));
    const groups = this.listed(), isListed = groups.flat().some(it => it.number === this.number);
    const titles = ["moved", "did not move"];
    byId("case").replaceChildren(
      ...(isListed ? [] : [option(this.number, this.one.label, this.number)]),
      ...groups.map((group, i) => group.length && element("optgroup", {label: titles[i]},
        group.map(it => option(it.number, it.label, this.number)))).filter(Boolean));
  }

  show(number) {
    this.number = number;
    this.controls();
    const words = sentenceOf(this.tracked, this.one);
    byId("said").textContent = words;
    byId("series-chart").setAttribute("aria-label", words);
    byId("numbers-table").replaceChildren(numbersOf(this.tracked, this.one));
    this.chart.draw(this.tracked, this.one);
    history.replaceState(null, "", `#series-${number}`);
  }

  // The number of the series in the address; undefined if it names none.
  static asked(tracked) {
    return tracked.series[/^#series-(\d+)$/.exec(location.hash)?.[1]]?.number;
  }
}

async function start() {
  const tracked = new Tracked(await unpack("history-data"));
  const script = document.createElement("script");
  script.textContent = new TextDecoder().decode(await unzipped("library-data"));
  document.head.append(script);
  const chart = new SeriesChart();
  await chart.open(JSON.parse(byId("chart-data").textContent));
  const view = new View(tracked, chart), link = document.querySelector(".moved a");
  const first = Number(link?.hash.replace("#series-", "") ?? 0), asked = View.asked(tracked);
  const address = location.hash;
  view.show(asked ?? first);
  if (asked === undefined) history.replaceState(null, "", address || location.pathname);
  else byId("series").scrollIntoView();
  addEventListener("hashchange", () => {
    if (View.asked(tracked) === undefined) return;
    view.show(View.asked(tracked));
    byId("series").scrollIntoView();
  });
  const redraw = () => {
    chart.theme(page);
    chart.draw(tracked, view.one);
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("resize", redraw);
  document.documentElement.dataset.ready = "yes";
}
start();
