// Time, memory, error and the share of the machine's limit against length, heads or layers.

const MEASURES = {
  time: {
    title: from => from.axes.direction === "decode" ? "time per token" : "time per call",
    show: "show_ms", best: "fastest approximation", of: it => it.time,
    ends: it => [it.timeLow, it.timeHigh],
  },
  memory: {
    title: from => from.axes.direction === "decode" ? "state and memory of a step" : "peak memory",
    show: "show_bytes", best: "approximation with the least memory", of: it => it.memory,
    ends: it => [it.memory, it.memory],
  },
  error: {
    title: () => "relative L2 error",
    show: "show_error", best: "most accurate approximation", of: it => it.error,
    ends: it => [it.errorLow, it.errorHigh],
  },
  share: {
    title: from => from.axes.direction === "decode" ? "share of the read bandwidth of the machine"
      : "share of the matrix product rate of the machine",
    show: "show_percent", best: "approximation nearest to the limit", of: it => it.share,
    ends: it => [it.share, it.share],
  },
};

class Lines extends Chart {
  async open(item, onTap) {
    await super.open(item, "lines-chart", index => onTap(this.drawn[index].it.label));
  }

  // Draws the lines of the question; returns a sentence with the result.
  draw(questions, page) {
    const measure = MEASURES[state.measure], limits = limitsOf(state);
    const name = axisOfLines(questions), along = ALONG[name];
    const places = questionsAlong(questions, name);
    const all = seriesAlong(questions, places), here = questions.candidates(state.question.number);
    const series = this.measured(selected(all, here, limits), questions, page);
    series.sort((a, b) => isUseless(b) - isUseless(a) || a.isExact - b.isExact);
    const xs = places.map(({x}) => along.at(x)), range = this.range(series, measure, limits);
    const inside = y => Math.min(Math.max(y, range.bottom), range.top);
    const height = point => inside(point.y), grey = page.grey();
    const drawn = this.drawn = series.flatMap(one => one.points.map(point => ({...point, one})));
    const color = one => isUseless(one) ? grey : page.color(one.variant);
    this.model("lines").data = {
      xs: series.map(one => one.points.map(({x}) => along.at(x))),
      ys: series.map(one => one.points.map(height)), color: series.map(color),
      width: series.map(one => one.isExact ? 3 : isUseless(one) ? 1 : 2),
      alpha: series.map(one => isUseless(one) ? .5 : 1),
    };
    const column = make => drawn.map(make);
    this.points.data = {
      x: column(({x}) => along.at(x)), y: column(height),
      bottom: column(({it, y}) => inside(measure.ends(it)[0] ?? y)),
      top: column(({it, y}) => inside(measure.ends(it)[1] ?? y)),
      color: column(({it, one}) => it.excluded ? grey : color(one)),
      marker: column(({it}) => it.excluded ? "circle" : page.marker(it.variant)),
      size: column(({it}) => it.excluded ? 5 : 10), alpha: column(({it}) => it.excluded ? .55 : 1),
      name: column(({it}) => nameOf(it)), place: column(({x}) => along.words(x)),
      value: column(({it, y}) => `${measure.title(state.question)} ` +
        withInterval(measure.show, y, ...measure.ends(it))),
      time: column(({it}) => timeOf(it)), error: column(({it}) => errorOf(it)),
      memory: column(({it}) => memoryOf(it)), note: column(({it}) => whyNot(it, limits)),
    };
    this.axes(xs, places, along, measure, range);
    this.nameEnds(series, along, height, range);
    const budget = this.model("budget_line");
    Object.assign(budget, {location: limits.error, visible: state.measure === "error"});
    showChips("lines-legend", variantsOf(series), page);
    const last = this.measured(seriesAlong(questions, places.slice(-1)), questions, page);
    return this.sentence(series, last, places, along, measure);
  }

  // The series with the numbers `y` of the measure; points without a number are left out.
  measured(series, questions, page) {
    const of = MEASURES[state.measure].of, shares = page.cases?.columnOf("roofline");
    const share = it => {
      const found = questions.rowsOf(it).map(row => cell(shares, row)).filter(v => v !== null);
      return found.length ? found.sort((a, b) => a - b)[found.length >> 1] : null;
    };
    const isShare = state.measure === "share" && shares;
    const known = it => isShare ? {...it, share: share(it)} : it;
    const points = one => one.points.map(point => ({...point, it: known(point.it)}))
      .map(point => ({...point, y: of(point.it) ?? null})).filter(({y}) => y > 0);
    return series.map(one => ({...one, points: points(one)})).filter(one => one.points.length);
  }

  // The ends of the vertical axis; errors far above those of useful methods are cut off.
  range(series, measure, limits) {
    const isError = state.measure === "error";
    const used = series.filter(one => !isError || !(one.isExact || isUseless(one)));
    const ends = used.flatMap(one => one.points).flatMap(({it, y}) => [y, ...measure.ends(it)]);
    const known = (isError ? [...ends, limits.error, 1] : ends).filter(v => v > 0 && v < Infinity);
    const low = Math.min(...known), high = Math.max(...known);
    if (!known.length) return {bottom: 1, top: 10};
    return {bottom: Math.max(low, isError ? FLOOR : 0) / 1.25, top: high * 1.5};
  }

  axes(xs, places, along, measure, {bottom, top}) {
    const first = xs[0], last = xs.at(-1), span = last - first || 1;
    this.end = last + span * (this.width > 600 ? .3 : .06);
    this.start = first - span * .04;
    const step = Math.ceil(places.length * 45 / Math.max(120, this.width * .7));
    const some = places.filter((_, i) => (places.length - 1 - i) % step === 0);
    this.scale("x", this.start, this.end, some.map(({x}) => [along.at(x), along.tick(x)]));
    const ticks = state.measure === "memory" ? binaryTicks : logTicks;
    this.scale("y", bottom, top, ticks(bottom, top, 9, SHOWN[measure.show]));
    this.model("x_axis").axis_label = along.title(state.question);
    this.model("y_axis").axis_label = measure.title(state.question);
  }

  // Names the ends of lines of useful methods.
  nameEnds(series, along, height, {bottom, top}) {
    const isWide = this.width > 600, span = this.end - this.start;
    const ends = series.filter(one => !isUseless(one)).map(one => ({one, end: one.points.at(-1)}));
    const name = ({one, end}) => ({
      x: along.at(end.x), y: height(end), words: one.label, short: one.variant, toRight: true,
      across: (along.at(end.x) - this.start) / span, up: logFraction(height(end), bottom, top),
    });
    this.name(isWide ? ends.reverse().map(name) : []);
  }

  // `all` are the settings at the last place, also those without a line.
  sentence(series, all, places, along, measure) {
    const title = measure.title(state.question), show = SHOWN[measure.show];
    const last = places.at(-1).x, sign = state.measure === "share" ? -1 : 1;
    const drawn = series.map(one => one.points.find(({x}) => x === last)).filter(Boolean);
    const at = all.map(one => one.points[0]), exact = drawn.find(({it}) => it.isExact);
    const useful = at.filter(({it}) => !it.excluded && !it.isExact);
    useful.sort((a, b) => sign * (a.y - b.y));
    const isDrawn = ({it}) => drawn.some(other => other.it.point === it.point);
    const words = best => `${best.it.label} with ${show(best.y)}` +
      (isDrawn(best) ? "" : ", which has no line here");
    const result = [
      useful.length ? `the ${measure.best} is ${words(useful[0])}`
        : "no approximation is better than its baselines",
      ...(exact ? [`exact attention (${exact.it.label}) has ${show(exact.y)}`] : []),
    ];
    if (!at.length) return `No ${title} was measured at ${along.words(last)}.`;
    return `At ${along.words(last)}, ${result.join("; ")} (${title}).`;
  }
}

function variantsOf(series) {
  const shown = series.filter(one => !isUseless(one) || one.variant === state.alone);
  return [...new Set(shown.map(one => one.variant))].sort();
}

// Draws the chart and its controls; menus have the axes with several places.
function showLines(questions, lines, page) {
  const along = byId("lines-along"), measure = byId("lines-measure");
  for (const option of along.options) {
    const places = questionsAlong(questions, option.value).length;
    option.disabled = places < 2 && option.value !== "length";
  }
  for (const option of measure.options) {
    option.disabled = option.value === "share" && !page.cases?.columnOf("roofline");
  }
  [along.value, measure.value] = [axisOfLines(questions), state.measure];
  const sentence = lines.draw(questions, page);
  byId("lines-said").textContent = sentence;
  byId("lines-scene").textContent = sceneWithLayer(questions);
  const [number, axis] = [measure, along].map(menu => menu.selectedOptions[0].textContent);
  byId("lines-chart").setAttribute("aria-label", `${number} against ${axis}. ${sentence}`);
}
