// The frontier: fills the figure of chart.py.

const FLOOR = 1e-3;  // errors below are drawn here: they are rounding

class Frontier {
  async open(item, onTap) {
    await Bokeh.embed.embed_item(item, "frontier-chart");
    const root = Bokeh.documents[0];
    this.model = name => root.get_model_by_name(name);
    const view = Bokeh.index.get_by_id(root.roots()[0].id);
    view.canvas_view.events_el.tabIndex = -1;  // the keys do nothing there; the ranking has buttons
    this.sources = Object.fromEntries(["points", "frontier", "names"].map(name => [name, this.model(name)]));
    this.sources.points.selected.change.connect(() => {
      const [index] = this.sources.points.selected.indices;
      if (index === undefined) return;
      this.sources.points.selected.indices = [];
      onTap(this.drawn[index].label);
    });
  }

  // Draws candidates; returns the labels on the frontier.
  draw(candidates, limits, chosen, page) {
    const useless = candidates.filter(it => it.excluded), good = candidates.filter(it => !it.excluded);
    const alone = good.some(it => it.variant === state.alone) ? state.alone : "";
    const shown = alone ? good.filter(it => it.variant === alone || it.isExact) : good;
    const at = it => Math.max(FLOOR, it.error);
    const end = (it, value) => Number.isFinite(value) ? value : it.error;  // an interval may be unbounded
    const top = Math.max(...shown.map(it => it.isExact ? 0 : end(it, it.errorHigh)), limits.error * 1.3, 3 * FLOOR);
    const base = Math.min(...shown.map(it => it.isExact ? Infinity : end(it, it.errorLow)), limits.error);
    const bottom = Math.max(FLOOR, base) / 1.6, exactAt = bottom * 1.12, band = top * 1.12, ceiling = useless.length && !alone ? band * 1.5 : band;
    const all = alone ? shown : [...useless, ...shown];
    const times = all.flatMap(it => [it.timeLow, it.timeHigh]);
    const fastest = Math.min(...times) / 1.25, slowest = Math.max(...times) * 1.25;
    const height = it => it.excluded ? band * 1.22 : it.isExact ? Math.max(exactAt, Math.min(it.error, top)) : Math.max(at(it), exactAt);
    const inside = (it, value) => it.excluded || it.isExact ? height(it) : Math.min(Math.max(value, bottom), ceiling);
    const refused = it => Boolean(whyNot(it, limits)), grey = page.grey();
    this.drawn = all;
    const column = make => all.map(make);
    this.sources.points.data = {
      x: column(it => it.time), y: column(height), left: column(it => it.timeLow), right: column(it => it.timeHigh),
      bottom: column(it => inside(it, it.errorLow)), top: column(it => inside(it, it.errorHigh)),
      color: column(it => it.excluded ? grey : page.color(it.variant)), marker: column(it => it.excluded ? "circle" : page.marker(it.variant)),
      size: column(it => it.excluded ? 6 : 12), alpha: column(it => it.excluded ? .55 : refused(it) ? .5 : 1),
      ring: column(it => it.point === chosen?.point ? 22 : state.pinned.includes(it.label) ? 18 : 0),
      name: column(nameOf), time: column(timeOf), error: column(errorOf), memory: column(memoryOf),
      speedup: column(it => it.exactTime === null ? "" : `${timesExact(it)} exact`), note: column(it => whyNot(it, limits)),
    };
    const best = this.best(shown.filter(it => !it.excluded));
    this.sources.frontier.data = {x: best.map(it => it.time), y: best.map(height)};
    this.names(best, chosen, shown, height, {fastest, slowest, bottom, ceiling});
    this.scale("time", fastest, slowest, SHOWN.show_ms);
    this.scale("error", bottom, ceiling, v => SHOWN.show_error(v), [[exactAt, good.some(it => it.isExact) ? "exact" : ""], ...(useless.length && !alone ? [[band * 1.22, "useless"]] : [])]);
    Object.assign(this.model("useless"), {bottom: band, top: ceiling, visible: useless.length > 0 && !alone});
    this.model("budget_line").location = limits.error;
    return best;
  }

  // The candidates that no other one beats in both time and error, the fastest first.
  best(candidates) {
    let least = Infinity;
    const order = [...candidates].sort((a, b) => a.time - b.time || a.error - b.error);
    return order.filter(it => Math.max(FLOOR, it.error) < least && ((least = Math.max(FLOOR, it.error)) || true));
  }

  // Names the frontier, the choice and what is pinned, where there is room.
  names(best, chosen, shown, height, range) {
    const place = byId("frontier-chart").clientWidth || 700, taken = [], data = {x: [], y: [], text: [], dx: [], align: []};
    const fraction = (v, low, high) => Math.log(v / low) / Math.log(high / low);
    const wanted = [chosen, ...shown.filter(it => state.pinned.includes(it.label)), ...best].filter(it => it && shown.some(other => other.point === it.point));
    for (const it of new Map(wanted.map(it => [it.point, it])).values()) {
      const x = fraction(it.time, range.fastest, range.slowest) * place, y = fraction(height(it), range.bottom, range.ceiling) * 360;
      const fits = text => x + 6.6 * text.length + 80 < place || x > 6.6 * text.length + 90, text = fits(it.label) ? it.label : it.variant;
      const width = 6.6 * text.length, toLeft = x + width + 80 > place, left = toLeft ? x - width - 10 : x + 10;
      if (taken.some(box => left < box.right && left + width > box.left && Math.abs(y - box.y) < 15)) continue;
      taken.push({left, right: left + width, y});
      data.x.push(it.time); data.y.push(height(it)); data.text.push(text); data.dx.push(toLeft ? -10 : 10); data.align.push(toLeft ? "right" : "left");
    }
    this.sources.names.data = data;
  }

  scale(axis, low, high, show, extra = []) {
    const range = this.model(`${axis}_range`);
    [range.start, range.end] = [low, high];
    const most = axis === "time" ? (byId("frontier-chart").clientWidth - 80) / 62 : 9, isFree = tick => extra.every(([other]) => Math.abs(Math.log(tick / other)) > .06 * Math.log(high / low));
    const ticks = [[1, 1.5, 2, 3, 4, 5, 7], [1, 2, 5], [1, 3], [1]].map(steps => ticksOf(steps, low, high).filter(isFree)).find((found, i) => found.length <= most || i === 3);
    this.model(`${axis}_axis_ticks`).ticks = [...ticks, ...extra.map(([tick]) => tick)].sort((a, b) => a - b);
    this.model(`${axis}_axis`).major_label_overrides = new Map([...ticks.map(tick => [tick, show(tick).replace(/\.0+(?= |$)|(\.\d*[1-9])0+(?= |$)/, "$1")]), ...extra]);
  }

  theme(page) {
    const ink = page.css("--ink"), line = page.css("--line"), ground = page.css("--paper");
    Object.assign(this.model("chart"), {background_fill_color: ground, border_fill_color: ground, outline_line_color: line});
    for (const name of ["time", "error"]) {
      Object.assign(this.model(`${name}_axis`), {major_label_text_color: ink, axis_label_text_color: ink, axis_line_color: line, major_tick_line_color: line, minor_tick_line_color: null});
      this.model(`${name}_grid`).grid_line_color = line;
    }
    this.model("labels").text_color = {value: ink};
    this.model("budget_line").line_color = page.css("--soft");
    this.model("rings").glyph.line_color = {value: ink};
  }
}

// The multiples of powers of ten by these steps between two numbers.
function ticksOf(steps, low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) found.push(...steps.map(step => Number((step * 10 ** power).toPrecision(3))));
  return found.filter(tick => tick >= low && tick <= high);
}

// The chips that isolate a method, and the cards of pinned points.
function showLegend(candidates, page) {
  const variants = [...new Set(candidates.filter(it => !it.excluded).map(it => it.variant))].sort();
  byId("legend").replaceChildren(...variants.map(name => element("button", {class: "chip", "aria-pressed": String(state.alone === name), onclick: () => page.set({alone: state.alone === name ? "" : name})}, swatch(page, name), name)));
}

function showPinned(questions, candidates, page) {
  const cards = state.pinned.map(label => candidates.find(it => it.label === label)).filter(Boolean);
  byId("pinned").replaceChildren(...cards.map(it => element("div", {class: "card"},
    element("b", {}, swatch(page, it.variant), it.label), element("button", {"aria-label": `unpin ${it.label}`, onclick: () => page.pin(it.label)}, "×"),
    element("div", {}, nameOf(it)), element("div", {}, `time ${timeOf(it)}, ${timesExact(it)} exact`), element("div", {}, `error ${errorOf(it)}`),
    element("div", {}, [memoryOf(it), perplexityOf(it) && `perplexity ${perplexityOf(it)}`, it.evidence].filter(Boolean).join(" · ")),
    it.excluded ? element("div", {class: "wrong"}, it.excluded) : "",
    element("a", {href: `#method=${encodeURIComponent(it.variant)}`}, `all of ${it.variant}`))));
}
