// The frontier: error against time, in the figure of chart.py.

const FLOOR = 1e-3;  // errors below are drawn here: they are rounding

class Frontier extends Chart {
  async open(item, onTap) {
    await super.open(item, "frontier-chart", index => onTap(this.drawn[index].label));
  }

  // Draws candidates; returns those on the frontier.
  draw(candidates, limits, chosen, page) {
    const useless = candidates.filter(it => it.excluded);
    const good = candidates.filter(it => !it.excluded);
    const alone = good.some(it => it.variant === state.alone) ? state.alone : "";
    const shown = alone ? good.filter(it => it.variant === alone || it.isExact) : good;
    const isBand = useless.length > 0 && !alone;
    const {bottom, exactAt, band, ceiling} = this.heights(shown, isBand, limits);
    const inBand = band * 1.22;
    const all = this.drawn = alone ? shown : [...useless, ...shown];
    const times = all.flatMap(it => [it.timeLow, it.timeHigh]);
    const fastest = Math.min(...times) / 1.25, slowest = Math.max(...times) * 1.25;
    const height = it => {
      if (it.excluded) return inBand;
      if (it.isExact) return Math.max(exactAt, Math.min(it.error, band / 1.12));
      return Math.max(FLOOR, it.error, exactAt);
    };
    const isFixed = it => it.excluded || it.isExact;
    const inside = value => Math.min(Math.max(value, bottom), ceiling);
    const end = (it, value) => isFixed(it) ? height(it) : inside(value);
    const column = make => all.map(make), grey = page.grey();
    const ring = it => it.point === chosen?.point ? 22 : state.pinned.includes(it.label) ? 18 : 0;
    this.points.data = {
      x: column(it => it.time), y: column(height),
      left: column(it => it.timeLow), right: column(it => it.timeHigh),
      bottom: column(it => end(it, it.errorLow)), top: column(it => end(it, it.errorHigh)),
      color: column(it => it.excluded ? grey : page.color(it.variant)),
      marker: column(it => it.excluded ? "circle" : page.marker(it.variant)),
      size: column(it => it.excluded ? 6 : 12), ring: column(ring),
      alpha: column(it => it.excluded ? .55 : whyNot(it, limits) ? .5 : 1),
      name: column(nameOf), time: column(timeOf), error: column(errorOf), memory: column(memoryOf),
      speedup: column(it => it.exactTime === null ? "" : `${timesExact(it)} exact`),
      note: column(it => whyNot(it, limits)),
    };
    const best = this.best(good.filter(it => shown.includes(it)));
    this.model("frontier").data = {x: best.map(it => it.time), y: best.map(height)};
    this.nameSome(best, chosen, shown, height, {fastest, slowest, bottom, ceiling});
    const most = (this.width - 80) / 62;
    this.scale("x", fastest, slowest, logTicks(fastest, slowest, most, SHOWN.show_ms));
    const extra = [[exactAt, good.some(it => it.isExact) ? "exact" : ""]];
    if (isBand) extra.push([inBand, "useless"]);
    this.scale("y", bottom, ceiling, logTicks(bottom, ceiling, 9, SHOWN.show_error, extra));
    Object.assign(this.model("useless"), {bottom: band, top: ceiling, visible: isBand});
    this.model("budget_line").location = limits.error;
    return best;
  }

  // The ends of the error axis, the place of exact attention and the bottom of the band.
  heights(shown, hasBand, limits) {
    const end = (it, value) => Number.isFinite(value) ? value : it.error;  // it may be unbounded
    const others = shown.filter(it => !it.isExact);
    const top = Math.max(...others.map(it => end(it, it.errorHigh)), limits.error * 1.3, 3 * FLOOR);
    const base = Math.min(...others.map(it => end(it, it.errorLow)), limits.error);
    const bottom = Math.max(FLOOR, base) / 1.6, band = top * 1.12;
    return {bottom, exactAt: bottom * 1.12, band, ceiling: hasBand ? band * 1.5 : band};
  }

  // The candidates that no other one beats in both time and error, the fastest first.
  best(candidates) {
    const found = [];
    let least = Infinity;
    for (const it of [...candidates].sort((a, b) => a.time - b.time || a.error - b.error)) {
      const error = Math.max(FLOOR, it.error);
      if (error >= least) continue;
      least = error;
      found.push(it);
    }
    return found;
  }

  // Names the choice, pinned points and the frontier.
  nameSome(best, chosen, shown, height, {fastest, slowest, bottom, ceiling}) {
    const pinned = shown.filter(it => state.pinned.includes(it.label));
    const isShown = it => it && shown.some(other => other.point === it.point);
    const wanted = new Map([chosen, ...pinned, ...best].filter(isShown).map(it => [it.point, it]));
    this.name([...wanted.values()].map(it => ({
      x: it.time, y: height(it), words: it.label, short: it.variant,
      across: logFraction(it.time, fastest, slowest), up: logFraction(height(it), bottom, ceiling),
    })));
  }

  theme(page) {
    super.theme(page);
    this.model("rings").glyph.line_color = {value: page.css("--ink")};
  }
}

function moreOf(it) {
  const perplexity = perplexityOf(it);
  const parts = [memoryOf(it), perplexity && `perplexity ${perplexity}`, it.evidence];
  return parts.filter(Boolean).join(" · ");
}

// The cards of pinned points.
function showPinned(candidates, page) {
  const card = it => element("div", {class: "card"},
    element("b", {}, swatch(page, it.variant), it.label),
    element("button", {"aria-label": `unpin ${it.label}`, onclick: () => page.pin(it.label)}, "×"),
    element("div", {}, nameOf(it)),
    element("div", {}, `time ${timeOf(it)}, ${timesExact(it)} exact`),
    element("div", {}, `error ${errorOf(it)}`),
    element("div", {}, moreOf(it)),
    it.excluded ? element("div", {class: "wrong"}, it.excluded) : "",
    element("a", {href: `#method=${encodeURIComponent(it.variant)}`}, `all of ${it.variant}`));
  const pinned = state.pinned.map(label => candidates.find(it => it.label === label));
  byId("pinned").replaceChildren(...pinned.filter(Boolean).map(card));
}
