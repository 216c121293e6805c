// A series of the history over commits: its points, the levels and the steps.

SHOWN.show_flops = v => {
  const units = [["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3], ["", 1]];
  const [unit, scale] = units.find(([, size]) => v >= size) ?? units.at(-1);
  return `${Number((v / scale).toPrecision(3))} ${unit}FLOP`;
};

const page = {css: name => getComputedStyle(document.documentElement).getPropertyValue(name).trim()};
const EMPTY = {xs: [], ys: []};
const TICK_WIDTH = 84;  // pixels of a commit id, about
const MOST_TICKS = 6;  // of the upright axis

// The ratio of a step, as `show_change` in moved_table.py writes it.
function changeOf({before, after}) {
  if (!before) return "×∞";
  const ratio = after / before;
  if (Math.abs(ratio - 1) < 5e-4) return `×${ratio.toFixed(6)}`;
  return `×${ratio < 10 ? ratio.toFixed(3) : Number(ratio.toPrecision(3))}`;
}

// The levels of a step, with all digits of counts that would look the same.
function levelsOf({before, after}, metric) {
  const words = [before, after].map(SHOWN[metric.show]);
  if (words[0] !== words[1] || !metric.isCount) return words;
  return [before, after].map(it => `${it.toLocaleString("en")} ${metric.unit}`);
}

// Ticks at round numbers of one unit, for a range that is less than a power of ten.
function roundTicks(low, high, unit, show) {
  const [start, end] = [low / unit, high / unit], rough = (end - start) / MOST_TICKS;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find(it => it * power >= rough) * power, ticks = [];
  for (let at = Math.ceil(start / step) * step; at <= end; at += step) ticks.push(at * unit);
  return ticks.map(tick => [tick, show(tick)]);
}

function uprightTicks(low, high, metric) {
  const show = SHOWN[metric.show], isBytes = metric.show === "show_bytes";
  if (high / low > 8) return (isBytes ? binaryTicks : logTicks)(low, high, MOST_TICKS, show);
  const unit = isBytes ? 2 ** (10 * Math.max(0, Math.floor(Math.log2(low) / 10))) : 1;
  return roundTicks(low, high, unit, show);
}

class SeriesChart extends Chart {
  async open(item) {
    await super.open(item, "series-chart", () => {});
    this.theme(page);
  }

  draw(tracked, series) {
    const metric = tracked.metric(series), commits = tracked.commits(series);
    const {points, steps} = series, show = SHOWN[metric.show];
    const positive = points.flatMap(it => [it.low, it.high]).filter(it => it > 0);
    const least = Math.min(...positive, Infinity), low = Number.isFinite(least) ? least : 1;
    const high = Math.max(...positive, low), pad = Math.max(.08 * Math.log(high / low), .02);
    const hasZero = points.some(it => it.value <= 0), floor = hasZero ? low / 2 : low;
    const bottom = floor * Math.exp(-pad), top = high * Math.exp(2.5 * pad);
    const height = value => value > 0 ? value : floor;
    const size = Math.max(4, Math.min(8, this.width / commits.length - 1));
    const color = it => page.css(it.dirty ? "--ink" : "--link");
    this.points.data = {
      x: points.map(it => it.commit), y: points.map(it => height(it.value)),
      bottom: points.map(it => height(it.low)), top: points.map(it => height(it.high)),
      color: points.map(color), marker: points.map(it => it.dirty ? "x" : "circle"),
      size: points.map(it => it.dirty ? size + 2 : size), alpha: points.map(() => .9),
      commit: points.map(it => commits[it.commit].short),
      date: points.map(it => commits[it.commit].date),
      value: points.map(it => metric.hasNoise
        ? withInterval(metric.show, it.value, it.low, it.high) : show(it.value)),
      run: points.map(it => `${it.run} UTC`),
      note: points.map(it => [it.implementation, it.dirty ? "with changes in no commit" : ""]
        .filter(Boolean).join(", ")),
    };
    this.model("levels").data = this.levels(series, height);
    const direction = it => (it.after < it.before) === (metric.better === "lower");
    this.model("steps").data = {
      x: steps.map(it => it.at - .5), bottom: steps.map(() => bottom), top: steps.map(() => top),
      color: steps.map(it => page.css(direction(it) ? "--link" : "--wrong")),
    };
    const zero = hasZero ? [[floor, "0"]] : [];
    this.scale("y", bottom, top, [...uprightTicks(low, top, metric), ...zero]);
    this.model("y_axis").axis_label = metric.label;
    this.commitTicks(commits);
    const first = -.7, last = commits.length - .3;
    this.name(steps.toReversed().map((it, place) => {
      const words = `${changeOf(it)} at ${commits[it.at].short}`;
      const across = (it.at - .5 - first) / (last - first), up = .93 - .05 * (place % 3);
      const y = bottom * (top / bottom) ** up;
      return {x: it.at - .5, y, across, up, words, short: changeOf(it)};
    }));
  }

  // The level between two steps, from its first commit to its last one.
  levels({steps, points}, height) {
    if (!steps.length) return EMPTY;
    const clean = points.filter(it => !it.dirty).map(it => it.commit);
    const ends = [...steps.map(it => it.at - .5), Math.max(...clean) + .4];
    const values = [steps[0].before, ...steps.map(it => it.after)];
    const starts = [Math.min(...clean) - .4, ...ends];
    return {
      xs: values.map((_, i) => [starts[i], ends[i]]), ys: values.map(it => [it, it].map(height)),
    };
  }

  // The newest commit has a tick, and as many others as there is room for.
  commitTicks(commits) {
    const every = Math.ceil(commits.length * TICK_WIDTH / Math.max(this.width - 130, 150));
    const newest = commits.length - 1;
    const ticks = commits.map((it, at) => [at, `${it.short}\n${it.date}`])
      .filter(([at]) => (newest - at) % every === 0);
    this.scale("x", -.7, newest + .7, ticks);
  }
}
